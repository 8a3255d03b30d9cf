"""Images whose brightness tells of the exposure: each has a range of its own."""
import json

import numpy as np
import pytest
import torch
from data_folders import message
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from segbook.cli import segbook_train
from segbook.data import make_cells, read_image, seg_dataloaders
from segbook.errors import SegbookError
from segbook.export import load_segmenter, save_segmenter
from segbook.inference import predict_image
from segbook.learner import plan_training, seg_learner

TINY = ['--encoder', 'mobilenetv3_small_050', '--pretrained', 'false', '--workers', '0']


def between(values, per_cent):
    "The value below which `per_cent` of 100 lie, by hand: on the line between two of them"
    values = sorted(values)
    at = (len(values) - 1)*per_cent/100
    i, part = int(at), at - int(at)
    return values[i] + (values[min(i + 1, len(values) - 1)] - values[i])*part


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_by_hand(data):
    kind = data.draw(st.sampled_from([np.uint8, np.uint16, np.int32, np.float32]))
    n = data.draw(st.sampled_from([1, 2, 3, 5]))
    top = {'u': 200, 'i': 900, 'f': 50}[np.dtype(kind).kind]
    elements = st.integers(0, top) if kind != np.float32 else st.floats(-top, top, width=32)
    x = data.draw(hnp.arrays(kind, (7, 11, n), elements=elements))
    got = read_image(x, n, 'image')
    groups = [range(3)] if n == 3 else [[k] for k in range(n)]
    for channels in groups:
        values = [float(v) for k in channels for v in x[..., k].ravel()]
        low, high = between(values, .5), between(values, 99.8)
        for k in channels:
            for v, o in zip(x[..., k].ravel(), got[..., k].ravel()):
                share = (float(v) - low)/(high - low) if high > low else float(v) - low
                assert abs(o - min(max(share, 0), 1)**.5) < 1e-3


@pytest.fixture(scope='module')
def two_exposures(tmp_path_factory):
    "The same cells twice: as drawn, and each with an exposure of its own in 16 bits"
    path = tmp_path_factory.mktemp('exposures')
    drawn, exposed = (make_cells(path/o, n=16, seed=1) for o in ('drawn', 'exposed'))
    for i, f in enumerate(sorted((exposed/'images').iterdir())):
        x = np.asarray(Image.open(f)).astype(np.uint16)*(1 + 8*(i % 5)) + 37*i
        Image.fromarray(x).save(f)
    return drawn, exposed


def loaders(path, **kw):
    kw = {'value_range': 'image', **kw}
    return seg_dataloaders(path, bs=4, seed=1, device='cpu', num_workers=0, batch_tfms=None, **kw)


@pytest.fixture(scope='module')
def learn(two_exposures):
    torch.manual_seed(0)
    return seg_learner(loaders(two_exposures[0]), encoder=TINY[1], pretrained=False, seed=1)


def test_batches_do_not_tell_the_exposure(two_exposures):
    dls = [loaders(o) for o in two_exposures]
    assert all(o.value_range == 'image' for o in dls)
    for a, b in zip(*(o.valid for o in dls)):
        assert torch.allclose(a[0], b[0], atol=1e-5) and a[0].max() == 1
    as_they_are = [next(iter(loaders(o, value_range=None).valid))[0] for o in two_exposures]
    assert (as_they_are[0] - as_they_are[1]).abs().max() > .3


def test_every_way_into_a_network_has_the_same_numbers(two_exposures, learn, tmp_path):
    save_segmenter(learn, tmp_path/'model')
    again = load_segmenter(tmp_path/'model')
    assert again.segmenter['value_range'] == learn.segmenter['value_range'] == 'image'
    drawn, exposed = (sorted((o/'images').iterdir())[6] for o in two_exposures)
    x = np.asarray(Image.open(exposed))
    ways = dict(file=exposed, drawn=drawn, array=x, floats=x/65535, picture=Image.open(exposed),
        bytes=torch.tensor(np.asarray(Image.open(drawn)))[None])
    want, *others = (predict_image(again, o, probabilities=True)[0] for o in ways.values())
    for name, o in zip([*ways][1:], others): assert torch.allclose(o, want, atol=1e-4), name
    with pytest.warns(UserWarning, match='pass the file'):
        predict_image(again, torch.tensor(x/65535/9)[None].float())


@pytest.mark.parametrize('bad', ['imag', '', 'each', (1,), (1, 2, 3), 'image '])
def test_other_words_are_refused(two_exposures, bad):
    with pytest.raises(SegbookError, match="value_range.*'image'"):
        loaders(two_exposures[0], value_range=bad)
    if isinstance(bad, str) and bad:
        with pytest.raises(SegbookError, match="value_range.*'image'"):
            read_image(np.zeros((3, 4)), value_range=bad)


@pytest.mark.parametrize('words', [['images'], ['7'], ['1', '2', '3'], ['image', '5'], ['a', 'b']])
def test_other_words_are_refused_on_the_command_line(two_exposures, words, tmp_path, capsys):
    assert segbook_train(['--data', str(two_exposures[0]), '--out', str(tmp_path/'run'),
        '--value-range', *words, *TINY]) == 2
    assert '--value-range' in capsys.readouterr().err and not (tmp_path/'run').exists()


def test_a_plan_tells_of_other_exposures(two_exposures):
    drawn, exposed = (plan_training(o, measure=False, progress=False) for o in two_exposures)
    for p, told in ((drawn, False), (exposed, True)):
        assert 'value_range' not in p.arguments()
        assert any('--value-range image' in o for o in p.notes) == told
    for span in ((0, 4095), 'image'):
        mine = plan_training(two_exposures[1], measure=False, progress=False, value_range=span)
        assert mine['value_range'] == span == mine.for_dataloaders()['value_range']
    assert "'image'" in message(plan_training, two_exposures[1], measure=False, value_range='x')


def test_a_run_keeps_its_range(two_exposures, tmp_path, capsys):
    out = tmp_path/'run'
    assert segbook_train(['--data', str(two_exposures[1]), '--out', str(out), '--epochs', '1',
        '--value-range', 'image', *TINY]) == 0
    assert 'black and white of each image: as you asked' in capsys.readouterr().out
    arguments = json.loads((out/'run.json').read_text())['arguments']
    assert arguments['value_range'] == 'image'
    assert load_segmenter(out).segmenter['value_range'] == 'image'
    assert segbook_train(['--resume', str(out), '--value-range', '0', '255']) == 2
    assert '--value-range was image, now 0 255' in capsys.readouterr().err
    assert segbook_train(['--resume', str(out)]) == 0
