"""A large image goes through a network in parts that fit into memory, with the answer of one
pass: strips of a U-Net, tiles of a network with a receptive field, or a number and a cure."""
import json, os, subprocess, sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, strategies as st
from properties import examples
from test_model_folder import Learnt
from torch import nn

from segbook import inference, tiles
from segbook.errors import SegbookError
from segbook.inference import image_logits, predict_image
from segbook.models import seg_model
from segbook.pass_memory import pass_bytes
from segbook.tiles import answer_parts, sight_of, spans, way_for


def image(size, channels=3, seed=0):
    return torch.rand(channels, *size, generator=torch.Generator().manual_seed(seed))

def whole(model, x):
    with torch.no_grad(): return model(x[None])[0].as_subclass(torch.Tensor)

def in_parts(model, x, most):
    "The parts put together; each pixel must come once."
    out, times = None, torch.zeros(x.shape[-2:])
    for top, left, o in answer_parts(model, x[None], most):
        if out is None: out = torch.full((len(o), *x.shape[-2:]), torch.nan)
        h, w = o.shape[-2:]
        out[:, top:top + h, left:left + w] = o
        times[top:top + h, left:left + w] += 1
    assert (times == 1).all()
    return out

def same(a, b): return ((a - b).abs().max()/b.abs().max()).item() < 1e-5


# ---- strips

@pytest.fixture(scope='module')
def unet():
    torch.manual_seed(0)
    return seg_model('dynamic_unet', 4, 'resnet18').eval()

@pytest.mark.parametrize('size', [(64, 96), (101, 67), (33, 130), (150, 31), (31, 1)])
def test_strips_give_the_answer_of_one_pass(unet, size):
    x = image(size)
    most = pass_bytes(unet, (1, 3, *size))//5
    assert way_for(unet, (1, 3, *size), torch.float32, most, 10**12)[0] == 'strips'
    assert same(in_parts(unet, x, most), whole(unet, x))
    assert all(o.stored is None for o in unet.sfs)

@pytest.mark.parametrize('encoder,options', [('vgg11_bn', {}), ('timm/convnext_atto', {}),
    ('mobilenetv3_small_050', {}), ('resnet18', dict(self_attention=True)),
    ('resnet18', dict(blur=True, blur_final=True)), ('resnet18', dict(last_cross=False))])
def test_strips_of_other_networks(encoder, options):
    "Encoders that halve otherwise, look at the whole image, or begin at a quarter."
    net, x = seg_model('dynamic_unet', 3, encoder, **options).eval(), image((77, 58))
    assert way_for(net, (1, 3, 77, 58), torch.float32, 10**6, 10**12)[0] == 'strips'
    assert same(in_parts(net, x, 10**6), whole(net, x))

def test_a_last_layer_that_sees_the_whole_image_is_not_cut(unet):
    from segbook.strips import cut_layer
    assert cut_layer(seg_model('dynamic_unet', 3, 'resnet18').train()) is None
    net = seg_model('dynamic_unet', 3, 'resnet18').eval()
    net.layers[-2] = nn.Sequential(net.layers[-2], nn.GroupNorm(1, 3))
    assert cut_layer(net) is None


# ---- tiles

def chain(*layers):
    torch.manual_seed(0)
    return nn.Sequential(*layers).eval()

CONV = lambda i, o, k=3, **kw: nn.Conv2d(i, o, k, padding='same' if 'stride' not in kw else k//2,
    **kw)
NETS = dict(plain=lambda: chain(CONV(3, 4), nn.BatchNorm2d(4), nn.ReLU(), CONV(4, 2, 5)),
    pooled=lambda: chain(CONV(3, 4), nn.MaxPool2d(2), CONV(4, 4), nn.ReLU(),
        nn.Upsample(scale_factor=2), CONV(4, 2)),
    dilated=lambda: chain(CONV(3, 4), CONV(4, 4, dilation=4), CONV(4, 2, 1)),
    strided=lambda: chain(CONV(3, 4, stride=2), CONV(4, 4, stride=2), nn.Upsample(scale_factor=4,
        mode='bilinear'), CONV(4, 2)),
    shuffled=lambda: chain(CONV(3, 8, stride=2), nn.ReLU(), CONV(8, 8), nn.PixelShuffle(2)))

@pytest.mark.parametrize('name', NETS)
@pytest.mark.parametrize('size', [(96, 128), (100, 84), (128, 40)])
def test_tiles_give_the_answer_of_one_pass(name, size):
    net, x = NETS[name](), image(size)
    most = pass_bytes(net, (1, 3, *size))//6
    assert way_for(net, (1, 3, *size), torch.float32, most, 10**12)[0] == 'tiles'
    assert same(in_parts(net, x, most), whole(net, x))

class Resized(nn.Module):
    "Halves the image several times, and enlarges it step by step to the sizes that it had."
    def __init__(self, times, stride=2, k=3, **how):
        super().__init__()
        torch.manual_seed(0)
        self.down = nn.ModuleList(nn.Conv2d(3 if i == 0 else 2, 2, k, stride, k//2)
            for i in range(times))
        self.how = how
    def forward(self, x):
        sizes = []
        for layer in self.down:
            sizes.append(x.shape[-2:])
            x = layer(x)
        for o in reversed(sizes): x = nn.functional.interpolate(x, o, **self.how)
        return x

@pytest.mark.parametrize('size', [(356, 40), (40, 612), (353, 417)])
def test_sizes_that_are_no_multiple_are_cut(size):
    "Of a map that is one row too large the nearest neighbours are all rows but the last."
    net, x = Resized(5, k=1, mode='nearest').eval(), image(size)
    most = pass_bytes(net, (1, 3, *size))//2
    assert way_for(net, (1, 3, *size), torch.float32, most, 10**12)[0] == 'tiles'
    assert same(in_parts(net, x, most), whole(net, x))

@pytest.mark.parametrize('stride,how', [(2, dict(mode='bilinear', align_corners=True)),
    (3, dict(mode='bilinear', align_corners=True)), (3, dict(mode='bicubic'))])
@pytest.mark.parametrize('size', [(118, 64), (50, 33), (59, 33), (380, 33), (64, 653)])
def test_an_enlargement_that_weighs_by_the_whole_map(stride, how, size):
    net, x = Resized(1, stride, **how).eval(), image(size)
    for part in (1.5, 2, 3, 6, 10):
        most = int(pass_bytes(net, (1, 3, *size))/part)
        assert same(in_parts(net, x, most), whole(net, x)), part

def test_a_network_that_sees_far_takes_larger_tiles():
    "Small tiles would be all margin; what is free is used before an image is refused."
    net, size = chain(*[CONV(3, 3, 17) for _ in range(3)]), (300, 225)
    need = pass_bytes(net, (1, 3, *size))
    way, rows, columns = way_for(net, (1, 3, *size), torch.float32, need//40, int(.9*need))
    assert way == 'tiles' and 1 < len(rows)*len(columns) < 20

class Averaged(nn.Module):
    "Adds the mean of the image to each pixel."
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3, padding=1)
    def forward(self, x): return self.conv(x) + x.mean((2, 3), keepdim=True)[:, :2]

class Attending(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3, padding=1)
    def forward(self, x):
        y = self.conv(x).flatten(2)
        return (y @ (y.transpose(1, 2) @ y).softmax(-1)).reshape(len(x), 2, *x.shape[-2:])

@pytest.mark.parametrize('net', [Averaged, Attending])
def test_a_network_that_sees_the_whole_image_is_not_cut(net):
    net = net().eval()
    assert way_for(net, (1, 3, 64, 64), torch.float32, 10**4, 10**12) == ('whole',)
    with pytest.raises(SegbookError) as e: way_for(net, (1, 3, 3000, 4000), torch.float32, 10**6,
        10**8)
    assert 'an image of 3000x4000 needs' in str(e.value) and 'Cure: a smaller image' in str(e.value)

@examples(200)
@given(st.integers(1, 300), st.integers(1, 120), st.integers(0, 30), st.integers(0, 30),
    st.sampled_from([1, 2, 4, 8, 32]))
def test_spans_cover_each_pixel_once(n, tile, before, after, step):
    """Each pixel lies in one core, each core lies in its tile with all that it sees, and tiles
    begin where the network samples."""
    tile = -(-tile//step)*step
    found = spans(n, tile, (before, after), step)
    if not found: return
    assert [p for _, _, a, b in found for p in range(a, b)] == list(range(n))
    for begin, end, a, b in found:
        assert begin % step == 0 and end <= n and end - begin < tile + step
        assert begin == 0 or a - begin >= before
        assert end == n or end - b >= after

def test_margins_by_hand():
    net = chain(nn.Conv2d(1, 1, 5, padding=2), nn.Conv2d(1, 1, 3, padding=3, dilation=3))
    sight = sight_of(net, (40, 30), 1)
    assert sight.down == (5, 5) and sight.across == (5, 5) and sight.step == 1


# ---- prediction

SIZES = [(1, 1), (31, 33), (1, 200), (200, 1), (7, 5)]

@pytest.mark.parametrize('size', SIZES)
@pytest.mark.filterwarnings('ignore:images of')
def test_any_size(unet, size):
    learn = Learnt(codes=['a', 'b', 'c', 'Void'], n_classes=4, ignore_index=3)
    learn.model = unet
    mask = predict_image(learn, image(size))
    assert mask.shape == size and mask.max() < 3 and mask.min() >= 0

@pytest.mark.parametrize('void', [None, 3, 255])
def test_the_mask_in_parts_is_the_mask(unet, monkeypatch, void):
    learn = Learnt(codes=list('abcd'), n_classes=4, ignore_index=void)
    learn.model, x = unet, image((130, 90))
    want, logits = predict_image(learn, x), image_logits(unet, x, [.5]*3, [.2]*3, None, void)
    learn.segmenter.update(mean=[.5]*3, std=[.2]*3)
    want = predict_image(learn, x)
    monkeypatch.setattr(tiles, 'MOST_BYTES', 10**6)
    monkeypatch.setattr(tiles, '_SMALL', 0)
    parts, ids = image_logits(unet, x, [.5]*3, [.2]*3, None, void), predict_image(learn, x)
    finite = logits.isfinite()
    assert (parts.isfinite() == finite).all()
    assert (parts[finite] - logits[finite]).abs().max() < 1e-4
    top = logits.topk(2, 0).values
    sure = (top[0] - top[1]) > 1e-4
    assert (ids == want)[sure].all() and sure.float().mean() > .99

def test_enlarged_class_by_class(monkeypatch):
    "Logits that are many are enlarged one class after the other, with the same ids."
    learn, x = Learnt(size=[12, 10]), image((61, 47))
    want = predict_image(learn, x)
    monkeypatch.setattr(inference, '_MANY', 10)
    assert torch.equal(predict_image(learn, x), want)
    learn.segmenter['ignore_index'] = None
    monkeypatch.setattr(inference, '_MANY', 1 << 28)
    want = predict_image(learn, x)
    monkeypatch.setattr(inference, '_MANY', 10)
    assert torch.equal(predict_image(learn, x), want)

@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_an_answer_that_is_not_finite_is_no_mask(value):
    learn = Learnt()
    with torch.no_grad(): learn.model.layers[3].bias[0] = value
    with pytest.raises(SegbookError, match='not finite'): predict_image(learn, image((5, 4)))

def test_no_pixels():
    with pytest.raises(SegbookError, match='no pixels'): predict_image(Learnt(), image((0, 4)))

def test_every_part_of_the_model_is_in_its_mode_afterwards():
    learn = Learnt()
    learn.model.train()
    learn.model.layers[1].eval()
    predict_image(learn, image((5, 4)))
    assert learn.model.training and not learn.model.layers[1].training
    assert learn.model.layers[0].training

def test_the_image_of_the_caller_stays():
    x = image((6, 7))
    before = x.clone()
    predict_image(Learnt(), x)
    assert torch.equal(x, before)


# ---- memory

MEASURE = '''
import json, re, sys, torch
from pathlib import Path
def most(): # kB; getrusage would tell the peak of the process that started this one
    return int(re.search(r'VmHWM:\\s*(\\d+)', Path('/proc/self/status').read_text())[1])
from segbook import tiles
from segbook.models import seg_model
torch.set_num_threads(1)
tiles.MOST_BYTES = int(sys.argv[1])
net = seg_model('dynamic_unet', 4, 'resnet18').eval()
x = torch.rand(1, 3, 500, 560)
before = most()
for top, left, o in tiles.answer_parts(net, x): pass
print(json.dumps([before, most()]))
'''

def test_parts_need_less_memory():
    if not Path('/proc/self/status').exists(): pytest.skip('needs /proc, which tells the peak')
    peaks = []
    for most in (1 << 33, 1 << 26):
        said = subprocess.run([sys.executable, '-W', 'ignore', '-c', MEASURE, str(most)], text=True,
            capture_output=True, check=True, env={**os.environ, 'PYTHONPATH': str(
                Path(__file__).parent.parent)}).stdout
        before, peak = json.loads(said.splitlines()[-1])
        peaks.append(peak - before)
    assert peaks[1] < .6*peaks[0], peaks
