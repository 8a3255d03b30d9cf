"""Windows of one's own and several looks: against one pass, MONAI's inferer, and by hand."""
import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from segbook.data import make_scenes, seg_dataloaders
from segbook.errors import SegbookError
from segbook.inference import image_logits, predict_image, predict_tiled, predict_tta
from segbook.learner import seg_learner
from segbook.mask_streams import rows_of_answers
from segbook.windows import (
    gaussian_weight, joined_answers, planned_windows, weighted_windows, window_answers,
)
from torch import nn
import segbook.windows as windows

def short_sighted(stride=2):
    torch.manual_seed(stride)
    return nn.Sequential(nn.Conv2d(3, 6, 2*stride + 1, stride, stride), nn.ReLU(),
        nn.Conv2d(6, 6, 3, padding=1), nn.ReLU(), nn.Upsample(scale_factor=stride),
        nn.Conv2d(6, 4, 3, padding=1)).eval()

@settings(deadline=None, max_examples=25)
@given(st.integers(20, 150), st.integers(20, 150), st.sampled_from([40, 56, (48, 64)]),
    st.integers(1, 5), st.sampled_from([1, 2]))
def test_windows_by_centres_are_one_pass(h, w, tile, batch_size, stride):
    net = short_sighted(stride)
    h, w = h//stride*stride, w//stride*stride # the network gives back what it got
    x = torch.randn(3, h, w, generator=torch.Generator().manual_seed(h*w))
    with torch.no_grad(): want = net(x[None])[0]
    got = predict_tiled(net, x, tile=tile, batch_size=batch_size)
    assert got.shape == want.shape and (got - want).abs().max() < 1e-4

@pytest.mark.parametrize('size, tile, overlap', [((90, 130), 48, 24), ((48, 200), 48, 0),
    ((50, 50), 64, 16), ((97, 51), 32, 8)])
def test_weighted_mean_by_a_loop(size, tile, overlap):
    "The definition: at each pixel the mean of the windows over it, weighted"
    net = short_sighted()
    x = torch.randn(3, *size)
    got = predict_tiled(net, x, tile=tile, overlap=overlap, batch_size=3)
    total, weights = torch.zeros(4, *size, dtype=torch.float64), torch.zeros(size).double()
    begins = [sorted({*range(0, max(1, n - tile), tile - overlap), max(0, n - tile)}) for n in size]
    for top in begins[0]:
        for left in begins[1]:
            part = x[None, :, top:top + tile, left:left + tile]
            with torch.no_grad(): y = net(part)[0].double()
            h, w = y.shape[1:]
            along = [np.exp(-.5*((np.arange(n) - (n - 1)/2)/(n/8))**2) for n in (h, w)]
            weight = torch.tensor(np.maximum(np.outer(*along), 1e-4))
            h, w = (min(a, b) for a, b in zip((h, w), (size[0] - top, size[1] - left)))
            total[:, top:top + h, left:left + w] += (y*weight)[:, :h, :w]
            weights[top:top + h, left:left + w] += weight[:h, :w]
    assert (got - total/weights).abs().max() < 1e-4

def test_like_monai(monkeypatch):
    """MONAI's inferer: its weights are ours but for a higher floor, and with them the answer is
    its own."""
    inferers = pytest.importorskip('monai.inferers')
    from monai.data.utils import compute_importance_map
    theirs = compute_importance_map((32, 32), mode='gaussian', sigma_scale=.125)
    ours, floor = gaussian_weight((32, 32)), theirs.min().item()
    assert floor < .01 and torch.allclose(ours.clamp(min=floor), theirs, atol=1e-6)
    net, x = short_sighted(), torch.randn(3, 96, 128)
    monkeypatch.setattr(windows, 'gaussian_weight', lambda shape, device: theirs)
    got = predict_tiled(net, x, tile=32, overlap=16)
    want = inferers.sliding_window_inference(x[None], (32, 32), 4, net, overlap=.5,
        mode='gaussian', sigma_scale=.125)[0].detach()
    with torch.no_grad(): whole = net(x[None])[0]
    assert (got - want).abs().max() < 1e-5 < (whole - want).abs().max()

def test_weight():
    w = gaussian_weight((8, 12))
    assert w.shape == (8, 12) and w.min() > 0 and torch.allclose(w, w.flip((0, 1)))

def test_memory_is_one_batch():
    "Never more windows at once than were asked for"
    seen = []
    class Watched(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 2, 1)
        def forward(self, x):
            seen.append(x.shape)
            return self.conv(x)
    net, x = Watched().eval(), torch.randn(3, 150, 170)
    read = lambda rows, columns: x[:, slice(*rows), slice(*columns)]
    parts = weighted_windows((150, 170), (32, 40), (8, 10))
    got = joined_answers(window_answers(net, read, parts, 3), (150, 170), False)
    assert max(s[0] for s in seen) == 3 and {tuple(s[-2:]) for s in seen} == {(32, 40)}
    assert torch.allclose(got, net.conv(x[None])[0], atol=1e-5)

@pytest.mark.parametrize('net', [nn.Identity(), nn.ReLU(inplace=True)])
def test_answers_outlive_the_next_batch(net):
    "Batches share their memory, and an answer may lie in it"
    x = torch.rand(3, 75, 101)
    read = lambda rows, columns: x[:, slice(*rows), slice(*columns)]
    parts = weighted_windows((75, 101), (32, 32), (16, 16))
    for part, answer in list(window_answers(net, read, parts, 4)):
        assert torch.equal(answer, read(part.rows, part.columns))

class Logarithm(nn.Module):
    "No number where the image is below 0"
    def forward(self, x): return x.log()

@pytest.mark.parametrize('alone', [True, False])
def test_what_is_not_finite_in_the_last_window_is_refused(alone):
    "The first batch says nothing of it"
    size, x = (75, 101), torch.rand(3, 75, 101) + 1
    read = lambda rows, columns: x[:, slice(*rows), slice(*columns)]
    parts, found = planned_windows(Logarithm(), size, 3, (32, 32), None if alone else (16, 16))
    assert found == alone and len(parts) > 8
    joined = lambda: joined_answers(window_answers(Logarithm(), read, parts, 4), size, alone)
    in_rows = lambda: torch.cat([o for _, o in rows_of_answers(
        window_answers(Logarithm(), read, parts, 4), size, alone)], 1)
    for answer in (joined, in_rows): assert torch.allclose(answer(), x.log(), atol=1e-5)
    x[1, -1, -1] = -1
    for answer in (joined, in_rows):
        with pytest.raises(SegbookError, match='not finite'): answer()

@pytest.fixture(scope='module')
def learn(tmp_path_factory):
    path = make_scenes(tmp_path_factory.mktemp('scenes')/'scenes', n=10, size=(48, 64), seed=1)
    dls = seg_dataloaders(path, bs=4, seed=1)
    return seg_learner(dls, encoder='mobilenetv3_small_050', pretrained=False, seed=1)

def test_an_image_smaller_than_a_tile_is_one_pass(learn):
    file = learn.dls.valid_ds.items[0]
    got, void = predict_tiled(learn, file), learn.dls.ignore_index
    assert torch.equal(got.argmax(0), predict_image(learn, file))
    assert (got[void] == -torch.inf).all() and got.shape[1:] == (48, 64)

def test_arrays_on_a_disk(learn, tmp_path):
    x = np.random.default_rng(0).integers(0, 255, (130, 150, 3), dtype=np.uint8)
    np.save(tmp_path/'x.npy', x)
    want = predict_tiled(learn, torch.tensor(x).permute(2, 0, 1), tile=64)
    got = predict_tiled(learn, np.load(tmp_path/'x.npy', mmap_mode='r'), tile=64)
    keep = [k for k in range(len(got)) if k != learn.dls.ignore_index]
    assert torch.allclose(got[keep], want[keep], atol=1e-5)

def test_a_whole_pass_in_one_window(learn):
    x = torch.rand(3, 70, 90)
    cfg = learn.segmenter
    want = image_logits(learn.model, x, cfg['mean'], cfg['std'])
    got = predict_tiled(learn, x, tile=128)
    keep = [k for k in range(len(got)) if k != cfg['ignore_index']]
    assert torch.allclose(got[keep], want[keep], atol=1e-4)

@pytest.mark.parametrize('kwargs, part', [(dict(tile=7), 'tile=7'), (dict(tile='big'), 'tile='),
    (dict(tile=(32, 32, 32)), 'tile='), (dict(overlap=-1), 'overlap=-1'),
    (dict(tile=32, overlap=(8, 32)), 'less than the tile'), (dict(batch_size=0), 'batch_size=0')])
def test_what_cannot_be_is_refused(learn, kwargs, part):
    with pytest.raises(SegbookError, match=part):
        predict_tiled(learn, torch.rand(3, 9, 9), **kwargs)

def test_images_that_cannot_be(learn):
    for predict in (predict_tiled, predict_tta):
        with pytest.raises(SegbookError, match='no pixels'): predict(learn, torch.rand(3, 0, 5))
        with pytest.raises(SegbookError, match='3 channels'): predict(learn, torch.rand(4, 9, 9))
        assert predict(learn, torch.rand(3, 1, 1)).shape[1:] == (1, 1)
    with pytest.raises(SegbookError, match='bare network'):
        predict_tiled(short_sighted(), torch.rand(1, 3, 9, 9))
    with pytest.raises(SegbookError, match='not finite'):
        predict_tiled(short_sighted(), torch.full((3, 20, 20), float('nan')))

def test_two_looks_by_hand(learn):
    x, void = torch.rand(3, 48, 64), learn.dls.ignore_index
    def p(o):
        cfg = learn.segmenter
        y = image_logits(learn.model, o, cfg['mean'], cfg['std'], None, void)
        return y.softmax(0)
    got = predict_tta(learn, x)
    assert torch.allclose(got, (p(x) + p(x.flip(-1)).flip(-1))/2, atol=1e-5)
    assert got[void].max() == 0 and torch.allclose(got.sum(0), torch.ones(48, 64), atol=1e-5)
    four = predict_tta(learn, x, None, turns=True)
    assert torch.allclose(four, sum(torch.rot90(p(torch.rot90(x, k, (-2, -1))), -k, (-2, -1))
        for k in range(4))/4, atol=1e-5)
    assert predict_tta(learn, x, 'both', scales=(.5, 1, 1.5)).shape == got.shape

def test_planned_windows_say_whether_they_are_exact():
    assert planned_windows(short_sighted(), (200, 200), 3, (64, 64), None)[1]
    whole = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Upsample(size=(200, 200)))
    assert not planned_windows(whole, (200, 200), 3, (64, 64), None)[1]
