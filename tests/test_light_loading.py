"""A saved network loads and predicts without fastai, and what took fastai's place is the same."""
import subprocess, sys, textwrap
from pathlib import Path

import pytest
import torch
from torch import nn

from segbook.export import load_segmenter
from segbook.model_files import write_model
from segbook.models import MODELS, seg_model

ROOT = Path(__file__).resolve().parent.parent


def saved(folder, arch, encoder, channels=3):
    "A folder with a network of random weights, written without a learner."
    torch.manual_seed(0)
    model = seg_model(arch, 3, encoder, channels)
    write_model(model.state_dict(), dict(arch=arch, encoder=encoder, in_channels=channels,
        n_classes=3, model_kwargs={}, codes=['a', 'b', 'c'], ignore_index=None, size=None,
        mean=[.5]*channels, std=[.25]*channels, pretrained=False), folder)
    return folder


ALONE = """
    import sys
    class NoFastai:
        def find_spec(self, name, path=None, target=None):
            if name.split('.')[0] in ('fastai', 'fastcore'): raise ImportError('blocked: ' + name)
    sys.meta_path.insert(0, NoFastai())
    import torch
    from segbook.export import load_segmenter
    for folder in sys.argv[2:]:
        segmenter = load_segmenter(folder)
        channels = segmenter.segmenter['in_channels']
        image = torch.linspace(0, 1, 33*47*channels).reshape(channels, 33, 47)
        torch.save(segmenter.predict(image), folder + '/answer.pt')
    heavy = [o for o in ('fastai', 'fastcore', 'matplotlib', 'IPython') if o in sys.modules]
    assert not heavy, heavy
"""


def test_a_fresh_process_without_fastai_predicts_the_same(tmp_path):
    "fastai cannot be imported there at all; the masks are those of a process that has it"
    folders = [saved(tmp_path/'lean', 'dynamic_unet_lean', 'resnet18'),
        saved(tmp_path/'grey', 'fcn', 'resnet18', 1), saved(tmp_path/'own', 'unet', 'own', 4)]
    res = subprocess.run([sys.executable, '-c', textwrap.dedent(ALONE), '-', *map(str, folders)],
        cwd=ROOT, capture_output=True, text=True)
    assert res.returncode == 0, res.stderr[-2000:]
    for folder in folders:
        segmenter = load_segmenter(folder)
        channels = segmenter.segmenter['in_channels']
        image = torch.linspace(0, 1, 33*47*channels).reshape(channels, 33, 47)
        assert torch.equal(torch.load(folder/'answer.pt'), segmenter.predict(image)), folder.name


# no predicted image needs these; torch itself brings numpy, and safetensors packaging
NEEDLESS = ('torch._dynamo', 'torch._inductor', 'torch.fx.experimental.symbolic_shapes', 'triton',
    'sympy', 'fastai', 'fastcore', 'matplotlib', 'IPython', 'pandas', 'scipy', 'skimage', 'onnx',
    'onnxruntime', 'tifffile', 'ipywidgets')


@pytest.mark.parametrize('arch, encoder, others', [('unet', 'own', ('torchvision', 'timm')),
    ('dynamic_unet_lean', 'resnet18', ('timm',)), ('panet', 'resnet18', ('timm',)),
    ('dynamic_unet_lean', 'tf_efficientnet_lite0', ())])
def test_what_a_fresh_process_does_not_import(tmp_path, arch, encoder, others):
    """From a saved folder to the mask of a file: no compiler, no tables, no figures. A stand-in
    that was left would lie in `sys.modules`, too."""
    from PIL import Image
    Image.new('RGB', (64, 48)).save(tmp_path/'image.png')
    code = ('import sys; from segbook.export import load_segmenter\n'
        'mask = load_segmenter(sys.argv[1]).predict(sys.argv[2]); assert mask.shape == (48, 64)\n'
        'print(*sorted(set(sys.argv[3:]) & set(sys.modules)))')
    res = subprocess.run([sys.executable, '-W', 'ignore', '-c', code,
        saved(tmp_path/'model', arch, encoder), tmp_path/'image.png', 'torch', *NEEDLESS,
        *others], cwd=ROOT, capture_output=True, text=True)
    assert res.returncode == 0, res.stderr[-2000:]
    assert res.stdout.split() == ['torch']


@pytest.mark.parametrize('name', ['resnet18', 'mobilenet_v3_small', 'densenet121'])
@pytest.mark.parametrize('channels', [1, 2, 4])
def test_another_number_of_channels_is_that_of_fastai(name, channels):
    import torchvision
    from fastai.vision.learner import create_body
    from segbook.encoders import torchvision_encoder
    for pretrained in (False, True):
        torch.manual_seed(3)
        net = torchvision.models.get_model(name, weights=None)
        if hasattr(net, 'features'):
            net = nn.Sequential(*net.features.children(), nn.AdaptiveAvgPool2d(1))
        want = create_body(net, channels, pretrained, cut=-2 if hasattr(net, 'fc') else -1)
        torch.manual_seed(3)
        with pytest.MonkeyPatch.context() as patch:
            if pretrained:
                patch.setattr('segbook.encoders._torchvision_state', lambda name: state)
            state = torchvision.models.get_model(name, weights=None).state_dict()
            torch.manual_seed(3)
            if pretrained: state = torchvision.models.get_model(name, weights=None).state_dict()
            torch.manual_seed(3)
            got = torchvision_encoder(name, channels, pretrained)
        want, got = want.state_dict(), got.state_dict()
        assert want.keys() == got.keys()
        different = [k for k in want if not torch.equal(want[k], got[k])]
        assert not different, different[:3]


def test_channels_of_the_first_kernel_are_those_fastai_counts():
    import timm
    from fastai.layers import in_channels
    from segbook.encoders import channels_asked
    for name in ('lcnet_050', 'swin_tiny_patch4_window7_224', 'convnext_atto', 'focalnet_tiny_srf'):
        with torch.device('meta'): net = timm.create_model(name, in_chans=4)
        assert channels_asked(net) == in_channels(net), name
    with pytest.raises(StopIteration): channels_asked(nn.Linear(2, 2))


@pytest.mark.parametrize('scale', [2, 4])
def test_the_pixel_shuffle_starts_as_fastai_starts_it(scale):
    from fastai.layers import icnr_init
    from segbook.architectures.dynamic_unet_lean import FullSize
    torch.manual_seed(5)
    layer = FullSize(6, 3, 8, scale)
    torch.manual_seed(5)
    fresh = nn.Conv2d(6, 8*scale**2, 1)
    assert torch.equal(layer.up.weight, icnr_init(fresh.weight.data, scale))


def test_networks_follow_into_torch_compile_as_one_graph():
    "What asks whether a tensor is of fastai's kind does not break the graph"
    model = seg_model('dynamic_unet_lean', 3, 'resnet18').eval()
    compiled, x = torch.compile(model, backend='eager', fullgraph=True), torch.rand(1, 3, 64, 64)
    with torch.no_grad(): assert torch.allclose(compiled(x), model(x), atol=1e-5)


def test_the_table_of_architectures_is_one():
    from segbook.architectures import fcn as module
    import segbook.models as models
    assert MODELS['fcn'] is module.fcn is models.fcn
    assert set(MODELS) <= set(models.__all__)
    assert all(callable(getattr(models, o)) for o in models.__all__ if o != 'MODELS')
    with pytest.raises(KeyError): MODELS['no such']
    with pytest.raises(AttributeError): models.no_such
    copied = MODELS | {'mine': len}
    assert copied['mine'] is len and copied['fcn'] is module.fcn and 'mine' not in MODELS


@pytest.mark.parametrize('name', ['resnet18', 'timm/lcnet_050', 'tf_efficientnet_lite0', 'alexnet',
    'convnext_tiny', 'dla34',
    'densenet121', 'googlenet', 'timm/repvgg_a0'])
def test_sizes_that_an_encoder_takes(name):
    "Against passes with values and all layers, around the numbers that were found"
    from segbook.architectures.blocks import encoder_body
    from segbook.encoder_sizes import sizes_taken
    body = encoder_body(name, 3).eval()
    multiple, smallest = sizes_taken(body)
    def takes(h, w):
        try:
            with torch.no_grad(): return body(torch.zeros(1, 3, h, w)).numel() > 0
        except (RuntimeError, AssertionError): return False
    assert smallest % multiple == 0 and takes(smallest, smallest)
    assert smallest == multiple or not takes(smallest - multiple, smallest - multiple)
    assert takes(smallest + 3*multiple, smallest + 5*multiple)
