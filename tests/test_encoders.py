"""Encoders that cannot take every size: the image is continued inside the model, or the encoder is
refused when it is built."""
import warnings
import pytest, torch
from torch import nn
from segbook.architectures.blocks import AnySize
from segbook.encoder_sizes import sizes_taken
from segbook.encoders import (chosen_encoder, default_encoder, encoders, timm_encoder,
    torchvision_encoder)
from segbook.errors import SegbookError
from segbook.models import MODELS, has_own_encoder, seg_model

SIZES = (1, 1), (31, 33), (97, 113)
# that need sides in steps; that need large images; that rearrange the image first; windows
SMALL = ('hrnet_w18_small', 'dla46x_c', 'mobilenetv3_small_050', 'alexnet',
    'timm/convnext_atto', 'cs3darknet_focus_s', 'pvt_v2_b0')
CASES = [(o, n, SIZES if n == 4 else SIZES[1:2]) for o in SMALL for n in (1, 4)]

# the last one is slow, and needs sides in steps as the first two do
@pytest.mark.parametrize('encoder, in_channels, sizes',
    [*CASES, ('lambda_resnet26t', 4, SIZES[1:2])])
def test_any_size(encoder, in_channels, sizes):
    "The answer has the image's size, and gradients of all weights are finite"
    torch.manual_seed(0)
    net = seg_model('dynamic_unet', 3, encoder, in_channels).eval()
    for h, w in sizes:
        net.zero_grad()
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            y = net(torch.rand(1, in_channels, h, w))
        assert y.shape == (1, 3, h, w) and y.isfinite().all()
        y.square().mean().backward()
        assert all(p.grad.isfinite().all() for p in net.parameters() if p.grad is not None)

def test_padding_is_told_once_and_ordinary_sizes_are_left_alone():
    net = seg_model('dynamic_unet', 3, 'alexnet').eval()
    x = torch.rand(1, 3, 96, 64)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter('error')
        assert net.fitted(x) is x
        net(x)
    with pytest.warns(UserWarning, match='images of 31x33 are continued to 63x63'):
        net.fitted(x[..., :31, :33])
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        y = net.fitted(x[..., :31, :33])
    assert torch.equal(y[..., :31, :33], x[..., :31, :33])
    assert torch.equal(y[..., 31:, 33:], x[..., 30:31, 32:33].expand(1, 3, 32, 30))

@pytest.mark.parametrize('name', ['resnet18', 'alexnet', 'vgg11_bn', 'densenet121'])
def test_the_least_size_is_the_least(name):
    "One pixel less does not pass, tried with values"
    body = torchvision_encoder(name, 3, False).eval()
    multiple, least = sizes_taken(body)
    with torch.no_grad():
        assert body(torch.zeros(1, 3, least, least)).numel()
        if least > 1:
            with pytest.raises((RuntimeError, ValueError)):
                body(torch.zeros(1, 3, least - 1, least - 1))
    assert multiple == 1 and (name != 'resnet18' or least == 1)

def test_an_encoder_that_rearranges_the_image_first():
    "fastai takes the channels of the first weight for those of the image: 48 here"
    net = seg_model('dynamic_unet', 3, 'tresnet_m').eval()
    with torch.no_grad(): assert net(torch.rand(1, 3, 64, 96)).shape == (1, 3, 64, 96)
    assert not any('image' in k for k in net.state_dict())

@pytest.mark.parametrize('name, why', [('vit_tiny_patch16_224', 'one resolution'),
    ('cait_xxs24_224', 'cannot serve as an encoder'), ('mixer_s16_224', "Cure: "),
    ('halonet26t', 'AssertionError')]) # the last one says nothing of its own
def test_refused_when_built(name, why):
    with pytest.raises(SegbookError, match=why) as e: seg_model('dynamic_unet', 3, name)
    assert 'dynamic_img_size' not in str(e.value) and 'resnet34d' in str(e.value)

def test_an_encoder_that_takes_hardly_any_size_is_refused():
    class Fixed(nn.Module):
        def forward(self, x): return x.view(len(x), 3*128*96)
    with pytest.raises(SegbookError, match='hardly any size'): sizes_taken(Fixed())

def rows(pattern, **kw): return encoders(pattern, **kw).set_index('encoder')

@pytest.fixture
def nobody_there(tmp_path, monkeypatch):
    "No network, and an empty folder of torch's weights"
    monkeypatch.setattr(torch.hub, '_hub_dir', str(tmp_path))
    monkeypatch.setattr('segbook.encoders._reachable', lambda *a, **k: 'nobody there')
    (tmp_path/'checkpoints').mkdir()
    return tmp_path/'checkpoints'

# downloaded by torch; put there by hand; downloaded by timm from no hub
@pytest.mark.parametrize('name, file', [('resnet18', 'resnet18-f37072fd.pth'),
    ('resnet10t', 'resnet10t.c3_in1k.safetensors'),
    ('legacy_seresnet18', 'seresnet18-4bb0ce65.pth')])
def test_the_table_says_what_a_training_finds(name, file, nobody_there):
    make = torchvision_encoder if name == 'resnet18' else timm_encoder
    assert rows(name).pretrained[name] == 'by download'
    with pytest.raises(SegbookError, match='nobody there'): make(name, 3, True)
    (nobody_there/file).touch()
    assert rows(name).pretrained[name] == 'here'
    # found: what is wrong now is that it is empty
    with pytest.raises(Exception) as e: make(name, 3, True)
    assert 'nobody there' not in str(e.value)

def test_the_table_has_each_network_once_and_says_what_it_left_out(capsys):
    assert sorted(rows('*resnet18').index) == ['legacy_seresnet18', 'resnet18', 'seresnet18',
        'skresnet18', 'timm/resnet18']
    assert rows('cs3darknet_s').pretrained['cs3darknet_s'] == 'no'
    assert not capsys.readouterr().out
    assert not len(encoders('halonet26t'))
    assert capsys.readouterr().out.strip() == (
        'left out, since they cannot serve as an encoder: halonet26t')
    assert not len(encoders('alexnet', size=20))
    assert capsys.readouterr().out.strip() == 'left out, since they take no 20x20 image: alexnet'

def test_the_default_is_what_is_on_this_machine(nobody_there, monkeypatch, capsys):
    assert default_encoder()[0] == 'tf_efficientnet_lite0' # in an installed package
    monkeypatch.setattr('segbook.encoders.packaged_file', lambda name: None)
    name, why = default_encoder()
    assert name == 'resnet34' and 'downloaded' in why and "'segbook[pretrained]'" in why
    (nobody_there/'resnet34-b627a593.pth').touch()
    assert default_encoder() == ('resnet34', 'its ImageNet weights are on this machine')
    monkeypatch.setattr('segbook.encoders._timm', lambda: 1/0)
    assert default_encoder(False)[0] == 'resnet34'
    assert chosen_encoder('vgg11') == 'vgg11' and not capsys.readouterr().out
    assert chosen_encoder(None, False) == 'resnet34'
    assert capsys.readouterr().out.startswith('encoder: resnet34, since none was named and ')

def test_no_notice_of_a_missing_classifier(caplog):
    timm_encoder('tf_efficientnet_lite0', 3, True)
    assert not caplog.records

@pytest.mark.parametrize('encoder', ['tf_efficientnet_lite0', 'resnet18'])
@pytest.mark.parametrize('arch', [o for o in MODELS if not has_own_encoder(o)
    and o not in ('panet', 'panoptic_fpn')])
def test_an_image_of_any_size_is_answered_as_the_larger_one(arch, encoder):
    """TensorFlow's padding moves the maps of other sizes against those of the training windows, and
    a decoder that stretches a map to the size of the image moves its answer."""
    torch.manual_seed(0)
    net = seg_model(arch, 3, encoder).eval()
    x = torch.rand(1, 3, 85, 69)
    if encoder == 'resnet18' and net.cuts_maps: assert net.side_step == 1
    else: assert net.side_step in (8, 16, 32)
    larger = torch.nn.functional.pad(x, (0, -69 % net.side_step, 0, -85 % net.side_step),
        mode='replicate')
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter('error')
        assert torch.equal(net(x), net(larger)[..., :85, :69])

def test_the_least_image_lies_on_the_grid_too():
    "alexnet takes 63 pixels and more; a decoder that stretches wants multiples of its stride"
    net = AnySize()
    net.smallest, net.grid = 63, 32
    with pytest.warns(UserWarning, match='continued to 64x96'):
        assert net.fitted(torch.rand(1, 3, 31, 70)).shape == (1, 3, 64, 96)
