"""ONNX files: the same answer at every size, all facts inside, and nothing left where it fails."""
import json, os, stat, sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

onnx, onnxruntime = (pytest.importorskip(o) for o in ('onnx', 'onnxruntime'))

from segbook import onnx_files
from segbook.errors import SegbookError
from segbook.export import export_onnx
from segbook.inference import predict_image
from segbook.models import has_own_encoder, seg_model
from segbook.onnx_files import onnx_metadata

ROOT = Path(__file__).resolve().parent.parent
CODES = ['sky', 'Straße "1"', 'tree', 'Void']


def learnt(arch='fcn', **facts):
    "As much of a Learner as an export looks at, its statistics as training leaves them."
    torch.manual_seed(0)
    facts = dict(arch=arch, encoder='own' if has_own_encoder(arch) else 'resnet18', n_classes=4,
        in_channels=3, ignore_index=3, size=None, mean=[.4, .5, .6], std=[.2, .25, .3],
        codes=CODES) | facts
    model = seg_model(arch, facts['n_classes'], facts['encoder'], facts['in_channels'],
        **dict(unet=dict(width=8), segnet=dict(width=8)).get(arch, {}))
    for m in model.modules():
        if isinstance(m, torch.nn.BatchNorm2d):
            m.running_mean.normal_(0, .1)
            m.running_var.uniform_(.8, 1.2)
    return SimpleNamespace(model=model.eval(), segmenter=facts)


def answers(file, x):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(file), options, providers=['CPUExecutionProvider'])
    return session.run(None, {'image': x})[0]


@pytest.fixture(scope='module')
def small(tmp_path_factory):
    learn = learnt()
    return learn, export_onnx(learn, tmp_path_factory.mktemp('onnx')/'a.onnx')


@pytest.mark.parametrize('arch', ['dynamic_unet', 'dynamic_unet_lean', 'fcn', 'deeplabv3plus',
    'unet', 'segnet', 'enet'])
def test_onnxruntime_answers_as_pytorch_at_any_size(arch, tmp_path):
    "Sizes that the export itself does not look at are among them, and the masks are the same"
    learn = learnt(arch)
    learn.model.train()
    before = {k: v.clone() for k, v in learn.model.state_dict().items()}
    file = export_onnx(learn, tmp_path/'net.onnx')
    assert [o.name for o in tmp_path.iterdir()] == ['net.onnx']
    assert learn.model.training, 'the model stays as it was'
    assert all(torch.equal(v, before[k]) for k, v in learn.model.state_dict().items())
    assert not any('forward' in vars(m) for m in learn.model.modules())
    learn.model.eval()
    for size in ((97, 131), (128, 160), (33, 47), (62, 90), (256, 31)):
        image = torch.rand(3, *size, generator=torch.Generator().manual_seed(size[0]))
        mean, std = (torch.tensor(learn.segmenter[o])[:, None, None] for o in ('mean', 'std'))
        with torch.no_grad(): want = learn.model((image[None] - mean)/std)[:, :3].numpy()
        got = answers(file, image[None].numpy())
        assert got.shape == (1, 4, *size) and (got[:, 3] == -np.inf).all()
        assert np.abs(got[:, :3] - want).max() <= 1e-4*max(1, np.abs(want).max()), size
        sure = np.sort(want[0], 0)[-1] - np.sort(want[0], 0)[-2] > 1e-4*max(1, np.abs(want).max())
        mask = predict_image(learn, image).numpy()
        assert (got.argmax(1)[0] == mask)[sure].all() and sure.mean() > .95


def test_a_batch_is_its_images(small):
    _, file = small
    x = np.random.default_rng(0).random((3, 3, 40, 56), np.float32)
    alone = np.concatenate([answers(file, o[None]) for o in x])[:, :3]
    np.testing.assert_allclose(answers(file, x)[:, :3], alone, atol=1e-4)


def test_channels_and_one_logit(tmp_path):
    learn = learnt('dynamic_unet_lean', in_channels=1, n_classes=1, ignore_index=None, mean=[.3],
        std=[.1], codes=['background', 'cell'])
    x = np.random.default_rng(0).random((1, 1, 45, 70), np.float32)
    got = answers(export_onnx(learn, tmp_path/'a.onnx'), x)
    with torch.no_grad(): want = learn.model((torch.from_numpy(x) - .3)/.1).numpy()
    np.testing.assert_allclose(got, want, atol=1e-4)


def test_what_the_file_says_about_itself(small):
    learn, file = small
    model = onnx.load(str(file))
    said = {o.key: o.value for o in model.metadata_props}
    for k in ('codes', 'ignore_index', 'mean', 'std', 'size', 'arch', 'n_classes'):
        assert json.loads(said[k]) == learn.segmenter[k], k
    assert json.loads(said['value_range']) == [0, 255] and said['segbook']
    assert '0.0' not in said['input'] and 'float32' in said['input'] and 'Void' in said['output']
    axes = [o.dim_param or o.dim_value for o in model.graph.input[0].type.tensor_type.shape.dim]
    assert axes == ['batch', 3, 'height', 'width']
    onnx.checker.check_model(model)


@pytest.mark.parametrize('span,text', [('image', 'percentiles 0.5 and 99.8'),
    (None, '(value - 0)/(255 - 0) of bytes, value/65535 of 16'),
    ([-100., 900.], '(value - -100.0)/(900.0 - -100.0), not')])
def test_the_range_of_an_image_is_told(span, text):
    facts = dict(codes=['a', 'b'], ignore_index=None, mean=[.5], std=[.5], size=None, arch='unet',
        encoder='own', in_channels=1, n_classes=2, value_range=span)
    said = onnx_metadata(facts)
    assert text in said['input'] and json.loads(said['value_range']) == (span or [0, 255])


def said_by(*args, **kwargs):
    with pytest.raises(SegbookError) as e: export_onnx(*args, **kwargs)
    assert 'Cure' in str(e.value)
    return str(e.value)


def test_what_cannot_be_written_is_refused_before_any_work(small, tmp_path, monkeypatch):
    learn, _ = small
    monkeypatch.setattr(onnx_files, '_graph', lambda *args: pytest.fail('work was done'))
    (tmp_path/'taken.onnx').write_text('mine')
    (tmp_path/'folder.onnx').mkdir()
    assert 'exists' in said_by(learn, tmp_path/'taken.onnx')
    assert 'is a folder' in said_by(learn, tmp_path/'folder.onnx', overwrite=True)
    assert 'no folder' in said_by(learn, tmp_path/'none'/'a.onnx')
    assert 'no folder' in said_by(learn, tmp_path/'taken.onnx'/'a.onnx')
    for odd in (3, 99, 17.0, '17', True, None):
        assert 'opset' in said_by(learn, tmp_path/'a.onnx', opset=odd)
    assert 'does not say' in said_by(SimpleNamespace(model=learn.model), tmp_path/'a.onnx')
    if os.geteuid():
        tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
        assert 'cannot be written' in said_by(learn, tmp_path/'a.onnx')
        tmp_path.chmod(stat.S_IRWXU)
    assert sorted(o.name for o in tmp_path.iterdir()) == ['folder.onnx', 'taken.onnx']
    assert (tmp_path/'taken.onnx').read_text() == 'mine'


def test_a_full_disk_leaves_what_was_there(small, tmp_path, monkeypatch):
    learn, file = small
    monkeypatch.setattr(onnx_files, '_graph', lambda *args: file.read_bytes())
    monkeypatch.setattr(onnx_files, '_checked_graph', lambda *args: file.read_bytes())
    (tmp_path/'a.onnx').write_text('mine')
    def full(self, data):
        with open(self, 'wb') as f: f.write(data[:100])
        raise OSError(28, 'No space left on device')
    monkeypatch.setattr(Path, 'write_bytes', full)
    assert 'No space left' in said_by(learn, tmp_path/'a.onnx', overwrite=True)
    assert [o.name for o in tmp_path.iterdir()] == ['a.onnx']
    assert (tmp_path/'a.onnx').read_text() == 'mine'


class DecidesBySize(torch.nn.Module):
    "Answers with another sign where an image is higher than 100 rows: no graph of one pass can."
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Conv2d(3, 4, 1)
    def forward(self, x): return self.layer(x)*(1 if x.shape[-2] <= 100 else -1)

class Unknown(torch.nn.Module):
    def forward(self, x): return torch.linalg.qr(x)[0]


def test_a_graph_that_would_be_wrong_is_not_written(tmp_path):
    facts = learnt().segmenter
    said = said_by(SimpleNamespace(model=DecidesBySize(), segmenter=facts), tmp_path/'a.onnx')
    assert 'other logits' in said and 'nothing was written' in said
    said = said_by(SimpleNamespace(model=Unknown(), segmenter=facts), tmp_path/'a.onnx')
    assert 'cannot be written as ONNX' in said
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize('missing', ['onnx', 'onnxruntime'])
def test_the_extra_is_named_where_it_is_missing(small, tmp_path, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    said = said_by(small[0], tmp_path/'a.onnx')
    assert missing in said and "segbook[onnx]" in said and not [*tmp_path.iterdir()]


def test_the_command(small, tmp_path, capsys):
    "A saved folder becomes a file that answers as PyTorch; what cannot be is one sentence"
    from segbook.cli import segbook_export
    from segbook.model_files import write_model
    learn, _ = small
    write_model(learn.model.state_dict(), dict(learn.segmenter, model_kwargs={}, pretrained=False),
        tmp_path/'model')
    file = tmp_path/'a.onnx'
    assert segbook_export([str(tmp_path), '--onnx', str(file)]) == 0
    assert 'a.onnx' in capsys.readouterr().out
    x = np.random.default_rng(1).random((1, 3, 50, 60), np.float32)
    mask = predict_image(learn, torch.from_numpy(x[0])).numpy()
    assert (answers(file, x).argmax(1)[0] == mask).mean() > .99
    before = file.read_bytes()
    for args in ([str(tmp_path), '--onnx', str(file)], [str(tmp_path/'none'), '--onnx', 'b'],
            [str(tmp_path)], [str(tmp_path), '--onnx', str(tmp_path/'no'/'a.onnx')], ['--onx']):
        assert segbook_export(args) == 2, args
        assert capsys.readouterr().err
    assert file.read_bytes() == before
