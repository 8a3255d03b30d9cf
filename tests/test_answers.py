"""Probabilities, ids that are written as they come, thresholds, refined borders, and the options
of segbook_predict for them: against one pass, loops, and files read back."""
import os, subprocess, sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from test_model_folder import Learnt, tiny_model
from torch import nn

from segbook import export, inference
from segbook.architectures.deeplab import dense_crf
from segbook.cli import segbook_predict
from segbook.errors import SegbookError
from segbook.export import load_segmenter, save_segmenter
from segbook.inference import (
    best_threshold, image_logits, predict_image, predict_tiled, predict_tta,
)
from segbook.mask_streams import rows_of_answers
from segbook.tiles import window_sides

IMAGE = np.random.default_rng(0).integers(0, 256, (61, 47, 3), dtype=np.uint8)


def logits_of(learn, image=IMAGE, **kw):
    x, cfg = torch.tensor(image).permute(2, 0, 1)/255, learn.segmenter
    return image_logits(learn.model.eval(), x, cfg['mean'], cfg['std'], cfg['size'],
        cfg['ignore_index'])

def refused(part, f, *args, **kw):
    with pytest.raises(SegbookError) as e: f(*args, **kw)
    assert part in str(e.value), str(e.value)


# ---- probabilities

@pytest.mark.parametrize('size', [None, [12, 10], [90, 33]])
def test_probabilities_are_the_softmax_of_the_logits(size):
    learn = Learnt(size=size)
    p = predict_image(learn, IMAGE, probabilities=True)
    assert p.dtype == torch.float32 and torch.allclose(p, logits_of(learn).softmax(0), atol=1e-5)
    half = predict_image(learn, IMAGE, probabilities=torch.float16)
    assert half.dtype == torch.float16 and (half.float() - p).abs().max() < 1e-3
    assert (p.argmax(0) == predict_image(learn, IMAGE)).float().mean() > .999

def test_probabilities_of_one_channel():
    learn = Learnt(n_classes=1, codes=['no', 'yes'], ignore_index=None)
    p = predict_image(learn, IMAGE, probabilities=True)
    assert p.shape == (1, 61, 47) and torch.allclose(p, logits_of(learn).sigmoid(), atol=1e-6)

def test_probabilities_in_parts(monkeypatch):
    learn, whole = Learnt(), predict_image(Learnt(), IMAGE, probabilities=True)
    monkeypatch.setattr('segbook.tiles.MOST_BYTES', 10**5)
    monkeypatch.setattr('segbook.tiles._SMALL', 0)
    assert torch.allclose(predict_image(learn, IMAGE, probabilities=True), whole, atol=1e-5)

def test_probabilities_that_do_not_fit(monkeypatch):
    monkeypatch.setattr(inference, 'free_bytes', lambda device: 10**4)
    refused('GB are free. Cure: torch.float16', predict_image, Learnt(), IMAGE, probabilities=True)
    refused('expected True, torch.float16', predict_image, Learnt(), IMAGE, probabilities='yes')


# ---- ids written as they come

@pytest.mark.parametrize('tile, overlap', [(32, None), (16, 8), ((24, 40), (0, 8)), (512, None)])
def test_written_ids_are_the_highest_logits(tmp_path, tile, overlap):
    learn = Learnt()
    want = predict_tiled(learn, IMAGE, tile=tile, overlap=overlap).argmax(0).numpy()
    for name in ('a.npy', 'a.tif'):
        file = tmp_path/name
        assert predict_tiled(learn, IMAGE, tile, overlap, out=file) == file
        read = np.load(file) if name == 'a.npy' else tifffile.imread(file)
        assert read.dtype == np.uint8 and (read == want).all()
    mapped = np.memmap(tmp_path/'m', np.int32, 'w+', shape=(61, 47))
    assert predict_tiled(learn, IMAGE, tile, overlap, out=mapped) is mapped
    assert (mapped == want).all()

def test_a_file_is_whole_or_not_there(tmp_path, monkeypatch):
    learn = Learnt()
    with torch.no_grad(): learn.model.layers[3].bias[0] = torch.nan
    refused('not finite', predict_tiled, learn, IMAGE, 32, out=tmp_path/'a.tif')
    assert list(tmp_path.iterdir()) == []
    (tmp_path/'a.npy').write_text('mine')
    refused('exists', predict_tiled, Learnt(), IMAGE, 32, out=tmp_path/'a.npy')
    assert (tmp_path/'a.npy').read_text() == 'mine'
    predict_tiled(Learnt(), IMAGE, 32, out=tmp_path/'a.npy', overwrite=True)
    assert np.load(tmp_path/'a.npy').shape == (61, 47)

@pytest.mark.parametrize('out, part', [('x.png', 'ends in .npy or .tif'), ('no/x.npy', 'no folder'),
    (np.zeros((61, 47)), 'expected whole numbers'), (np.zeros((47, 61), np.uint8), '[61, 47]'),
    (np.zeros((61, 47), np.int8), 'expected whole numbers')])
def test_an_out_that_cannot_be(tmp_path, monkeypatch, out, part):
    monkeypatch.chdir(tmp_path)
    refused(part, predict_tiled, Learnt(), IMAGE, 32, out=out)

class Watched(np.ndarray):
    "Notes how much of it is read at once."
    def __getitem__(self, key):
        part = super().__getitem__(key)
        if isinstance(key, tuple): self.most.append(np.asarray(part).size)
        return part

def test_fifty_thousand_pixels_a_side_are_read_in_windows(monkeypatch):
    """Of an image of 50,000 by 50,000 only windows are read, and only rows of windows are held;
    after the first of them the work is stopped."""
    learn = Learnt()
    image = np.broadcast_to(np.uint8(7), (50_000, 50_000, 3)).view(Watched)
    Watched.most = []
    class Enough(Exception): pass
    class Out:
        shape, dtype = (50_000, 50_000), np.dtype(np.uint8)
        def __setitem__(self, key, ids):
            assert ids.shape[1] == 50_000 and ids.shape[0] <= 64
            raise Enough
    monkeypatch.setattr(learn.model, 'forward', lambda x: torch.zeros(1, 3, 1, 1).expand(len(x), 3,
        *x.shape[-2:]))
    with pytest.raises(Enough):
        predict_tiled(learn, image, 64, (0, 0), out=Out(), progress=False, batch_size=64)
    assert max(Watched.most) == 64*64*3

def test_a_photograph_of_fifty_thousand_pixels_a_side_is_refused(monkeypatch):
    monkeypatch.setattr('segbook.tiles.free_bytes', lambda device: 10**9)
    x = torch.zeros(1, 1, 1).expand(3, 50_000, 50_000)
    from segbook.models import seg_model
    from segbook.tiles import answer_parts
    net = seg_model('dynamic_unet', 3, 'resnet18').eval()
    refused('an image of 50000x50000 needs', lambda: next(answer_parts(net, x[None])))


# ---- thresholds

class Pairs:
    "As much of a Learner as best_threshold needs: two classes whose logits are the image."
    def __init__(self, channels, void=None):
        self.model = nn.Identity()
        n = 2 if channels == 1 else channels
        self.segmenter = dict(ignore_index=void, n_classes=channels, codes=list('abcd')[:n],
            mean=[0.], std=[1.], size=None, in_channels=1)

@pytest.mark.parametrize('score', ['dice', 'iou'])
@pytest.mark.parametrize('channels, void', [(1, None), (1, 255), (2, None), (3, 2), (3, 0)])
def test_best_threshold_against_a_loop(score, channels, void):
    seeded = torch.Generator().manual_seed(channels)
    second = 2 if void == 0 else 1
    y = torch.randint(0, 2, (5, 20, 30), generator=seeded) + (void == 0)
    z = torch.randn(5, channels, 20, 30, generator=seeded)
    z[:, 0 if channels == 1 else second] += 1.5*(y == second) - 1
    if void is not None: y[:, :3] = void
    got = best_threshold(Pairs(channels, void), score, [(z[:3], y[:3]), (z[3:], y[3:])], bins=200)
    first = 1 if void == 0 else 0
    d = (z[:, 0] if channels == 1 else z[:, second] - z[:, first]).double().numpy()
    p, named = 1/(1 + np.exp(-d)), np.ones(y.shape, bool) if void is None else (y != void).numpy()
    found = []
    for k in range(1, 200):
        hit, true = (p > k/200)[named], (y == second).numpy()[named]
        tp, fp, fn = (hit & true).sum(), (hit & ~true).sum(), (~hit & true).sum()
        found.append(2*tp/(2*tp + fp + fn) if score == 'dice' else tp/(tp + fp + fn))
    assert np.allclose(got.scores, found, atol=2e-3)
    assert abs(got.score - max(found)) < 2e-3 and abs(got.at_half - found[99]) < 2e-3
    assert got.score == got.scores.max() >= got.at_half

def test_thresholds_that_cannot_be():
    y = torch.zeros(1, 4, 4, dtype=torch.long)
    refused('no pixel of the second class, b', best_threshold, Pairs(1), 'dice',
        [(torch.zeros(1, 1, 4, 4), y)])
    refused("expected 'dice' or 'iou'", best_threshold, Pairs(1), 'f1', [])
    refused('tells 3 classes apart', best_threshold, Pairs(3), 'dice', [])
    for t in (0, 1, -1, 'x', True, float('nan')):
        refused('between 0 and 1', predict_image, Learnt(), IMAGE, threshold=t)

@pytest.mark.parametrize('size', [None, [12, 10]])
@pytest.mark.parametrize('facts', [dict(n_classes=1, codes=['a', 'b'], ignore_index=None),
    dict(), dict(n_classes=2, codes=['a', 'b'], ignore_index=None)])
def test_masks_at_a_threshold(facts, size, monkeypatch, tmp_path):
    learn = Learnt(size=size, **facts)
    z = logits_of(learn)
    p = z.sigmoid()[0] if len(z) == 1 else z.softmax(0)[1]
    for t in (.3, .5, .6):
        mask = predict_image(learn, IMAGE, threshold=t)
        sure = (p - t).abs() > 1e-5
        assert (mask == (p > t))[sure].all()
    if size: return
    learn.segmenter['threshold'] = .6
    monkeypatch.setattr(export, 'seg_model', tiny_model)
    loaded = load_segmenter(save_segmenter(learn, tmp_path/'m'))
    assert torch.equal(loaded.predict(IMAGE), mask) and loaded.segmenter['threshold'] == .6
    out = np.zeros((61, 47), np.uint8)
    predict_tiled(loaded, IMAGE, 512, out=out)
    assert (out == mask.numpy()).all()

def test_a_threshold_of_a_model_folder_is_checked(tmp_path, monkeypatch):
    learn = Learnt(threshold=1.5)
    refused('threshold', save_segmenter, learn, tmp_path/'m')


# ---- refined borders

def test_refined_is_the_random_field():
    learn, x = Learnt(ignore_index=None), torch.tensor(IMAGE).permute(2, 0, 1)/255
    want = dense_crf(x[None], logits_of(learn)[None])[0]
    got = predict_image(learn, IMAGE, probabilities=True, crf=True)
    assert torch.allclose(got, want, atol=1e-4)
    assert torch.equal(predict_image(learn, IMAGE, crf=True), got.argmax(0))
    few = predict_image(learn, IMAGE, probabilities=True, crf=dict(steps=0))
    assert torch.allclose(few, logits_of(learn).softmax(0), atol=1e-5)

def test_a_random_field_over_too_many_pixels_is_refused_before_the_work():
    learn = Learnt()
    learn.model.forward = None
    refused('at most 524,288 pixels', predict_image, learn, np.zeros((1000, 900, 3), np.uint8),
        crf=True)


# ---- looks

def test_quarter_turns_of_images_that_are_no_squares():
    learn = Learnt()
    def looked(k): return torch.rot90(logits_of(learn, np.rot90(IMAGE, k).copy()).softmax(0), -k,
        (-2, -1))
    want = sum(map(looked, range(4)))/4
    got = predict_tta(learn, IMAGE, None, turns=True)
    assert got.shape == (3, 61, 47) and torch.allclose(got, want, atol=1e-5)


# ---- bad images

@pytest.mark.parametrize('image, part', [(torch.zeros(0, 9, 9), '3 channels'),
    (np.zeros((9, 9, 0), np.uint8), 'channels'), (torch.full((3, 9, 9), torch.nan), 'nan'),
    (np.full((9, 9, 3), np.nan), 'NaN'), (torch.zeros(3, 0, 9), 'no pixels')])
def test_images_that_cannot_be(image, part):
    for predict in (predict_image, predict_tiled, predict_tta):
        with pytest.raises(SegbookError, match=f'(?i){part}'): predict(Learnt(), image)

def test_one_pixel():
    x = IMAGE[:1, :1]
    learn = Learnt()
    assert predict_image(learn, x, probabilities=True).shape == (3, 1, 1)
    assert predict_image(learn, x, crf=True).shape == (1, 1)
    assert predict_tta(learn, x, 'both', True, (.5, 1)).shape == (3, 1, 1)
    assert predict_tiled(learn, x, 32, out=np.zeros((1, 1), np.uint8)).shape == (1, 1)


# ---- the command

@pytest.fixture
def model(tmp_path, monkeypatch):
    monkeypatch.setattr(export, 'seg_model', tiny_model)
    return save_segmenter(Learnt(), tmp_path/'model')

def predict(*args): return segbook_predict([str(o) for o in args])

def test_options_of_the_command(model, tmp_path):
    file, learn = tmp_path/'a.png', Learnt()
    Image.fromarray(IMAGE).save(file)
    tta = predict_tta(learn, IMAGE)
    refined = predict_image(learn, IMAGE, crf=True).numpy()
    whole = predict_image(learn, IMAGE).numpy()
    cases = ((['--tile', 32], whole), (['--tta'], tta.argmax(0).numpy()), (['--crf'], refined),
        (['--tile', 40, '--probabilities'], whole))
    for i, (options, want) in enumerate(cases):
        assert predict(model, file, '--out', tmp_path/f'{i}', *options) == 0
        assert (np.asarray(Image.open(tmp_path/f'{i}'/'a_mask.png')) == want).mean() > .999
    assert predict(model, file, '--out', tmp_path/'p', '--tta', '--probabilities') == 0
    p = np.load(tmp_path/'p'/'a_probabilities.npy')
    assert p.dtype == np.float16 and np.abs(p - tta.numpy()).max() < 1e-3
    assert sorted(o.name for o in (tmp_path/'p').iterdir()) == ['a_mask.png', 'a_overlay.png',
        'a_probabilities.npy']

def test_probabilities_are_not_overwritten(model, tmp_path, capsys):
    file = tmp_path/'a.png'
    Image.fromarray(IMAGE).save(file)
    (tmp_path/'out').mkdir()
    (tmp_path/'out'/'a_probabilities.npy').write_text('mine')
    assert predict(model, file, '--out', tmp_path/'out', '--probabilities') == 2
    assert 'nothing is overwritten' in capsys.readouterr().err
    assert (tmp_path/'out'/'a_probabilities.npy').read_text() == 'mine'

@pytest.mark.parametrize('options, part', [(['--tile', '31'], '32 to 100,000'),
    (['--tile', 'x'], '32 to 100,000'), (['--tile', '64', '--tta'], '--tta needs the whole image'),
    (['--tile', '64', '--crf'], '--crf needs the whole image')])
def test_options_that_cannot_be(model, tmp_path, capsys, options, part):
    file = tmp_path/'a.png'
    Image.fromarray(IMAGE).save(file)
    assert predict(model, file, '--out', tmp_path/'out', *options) == 2
    assert part in capsys.readouterr().err and not (tmp_path/'out').exists()

def test_an_image_too_large_for_a_random_field_is_left_out(model, tmp_path, capsys):
    Image.new('RGB', (900, 1000)).save(tmp_path/'b.png')
    Image.fromarray(IMAGE).save(tmp_path/'a.png')
    assert predict(model, tmp_path/'a.png', tmp_path/'b.png', '--out', tmp_path/'out', '--crf') == 1
    said = capsys.readouterr()
    assert 'b.png was left out' in said.err and '524,288' in said.err and '1 of 2' in said.out


# ---- memory

MEASURE = r'''
import re, sys, torch, numpy as np
from pathlib import Path
def most(): return int(re.search(r'VmHWM:\s*(\d+)', Path('/proc/self/status').read_text())[1])
from segbook.mask_streams import rows_of_answers
from segbook.inference import predict_tiled
torch.set_num_threads(1)
net = torch.nn.Sequential(torch.nn.Conv2d(3, 64, 3, padding=1), torch.nn.ReLU(),
    torch.nn.Conv2d(64, 8, 3, padding=1)).eval()
x, tile = torch.rand(3, 512, 512).repeat(1, 4, 4), int(sys.argv[1])
with torch.no_grad(): net(x[None, :, :64, :64])
before = most()
if sys.argv[2] == 'batch':
    with torch.no_grad(): net(torch.rand(4, 3, tile, tile))
else: predict_tiled(net, x, tile, tile//4, out=np.zeros((2048, 2048), np.uint8), progress=False)
print(most() - before)
'''

def test_memory_is_that_of_a_batch_of_windows():
    if not Path('/proc/self/status').exists(): pytest.skip('needs /proc, which tells the peak')
    peaks = {}
    for what in ('batch', 'tiled'):
        said = subprocess.run([sys.executable, '-W', 'ignore', '-c', MEASURE, '256', what],
            text=True, capture_output=True, env={**os.environ, 'PYTHONPATH': str(
                Path(__file__).parent.parent)})
        assert not said.returncode, said.stderr
        peaks[what] = int(said.stdout.split()[-1])
    assert peaks['tiled'] < 1.5*peaks['batch'] + 40_000, peaks # and the rows that are held

# ---- windows

@pytest.mark.parametrize('bare', [False, True])
def test_a_threshold_without_ids_is_refused(bare):
    model, image = (Learnt().model, torch.zeros(3, 40, 40)) if bare else (Learnt(), IMAGE)
    refused('is for ids', predict_tiled, model, image, 32, threshold=.7)


def test_a_bare_network_takes_no_threshold(tmp_path):
    refused('a bare network', predict_tiled, Learnt().model, torch.zeros(3, 40, 40), 32,
        out=tmp_path/'ids.npy', threshold=.7)
    assert not (tmp_path/'ids.npy').exists()


def test_windows_of_a_network_that_saw_resized_images():
    learn = Learnt(size=[16, 16])
    with pytest.warns(UserWarning, match='resized to'): predict_tiled(learn, IMAGE, 32)

@pytest.mark.parametrize('tile, overlap', [(32, None), (16, 8), ((24, 40), (0, 8))])
def test_rows_as_they_come_are_the_logits(tile, overlap):
    "Not only their highest: a weight that is wrong for all classes of a pixel alike shows, too"
    learn, ways = Learnt(), window_sides(tile, overlap)
    read, h, w, channels = inference._window_reader(learn, IMAGE)
    with inference._evaluating(learn.model):
        windows, alone = inference.planned_windows(learn.model, (h, w), channels, *ways)
        answers = inference.window_answers(learn.model, read, windows, 4, False)
        rows = list(rows_of_answers(answers, (h, w), alone))
    assert [top for top, _ in rows] == np.cumsum([0, *(o.shape[1] for _, o in rows)])[:-1].tolist()
    want = predict_tiled(learn, IMAGE, tile, overlap)
    named = [k for k in range(len(want)) if k != learn.segmenter['ignore_index']]
    got = torch.cat([o for _, o in rows], 1)
    assert torch.allclose(got[named], want[named], atol=1e-4)


def test_what_lies_on_a_threshold_is_not_above_it():
    z = torch.zeros(1, 1, 1, 4)
    y = torch.tensor([[[1, 1, 1, 0]]])
    found = best_threshold(Pairs(1), 'dice', [(z, y)], bins=4)
    assert found.scores.tolist() == [6/7, 0, 0]  # above 1/4 all, above 1/2 and 3/4 none
