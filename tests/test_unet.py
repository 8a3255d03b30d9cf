"""The U-Net of 2015: its sizes, its numbers, its mirrored border, and how it is smp's Unet."""
import itertools
import pytest, torch
import torch.nn.functional as F
from torch import nn
from segbook.architectures.unet import MARGIN, mirror_padded, size_taken, unet
from segbook.errors import SegbookError
from segbook.models import seg_model
from segbook.tiles import answer_parts
import segbook.tiles as tiles

@pytest.fixture(autouse=True)
def same_numbers(): torch.manual_seed(0)

def convs(net): return [m for m in net.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))]

def test_the_numbers_of_the_paper():
    "23 convolutional layers, 31.0 M parameters, 572 in and 388 out"
    with torch.device('meta'):
        net = unet(2, in_channels=1)
        assert net.core(torch.empty(1, 1, 572, 572)).shape == (1, 2, 388, 388)
    assert len(convs(net)) == 23
    assert round(sum(p.numel() for p in net.parameters())/1e6, 1) == 31.0
    widths = [64, 64, 128, 128, 256, 256, 512, 512, 1024, 1024]
    assert [c.out_channels for c in convs(net.encoder)] == widths
    sides = [3]*10 + [2, 3, 3]*4 + [1]
    assert [c.kernel_size for c in convs(net)] == [(k, k) for k in sides]

def test_by_hand():
    "The same numbers as the figure of the paper, layer by layer"
    net, x = unet(3, in_channels=2, width=4).eval(), torch.randn(2, 2, 204, 220)
    w = iter(convs(net))
    def conv(x): return F.relu(F.conv2d(x, (c := next(w)).weight, c.bias))
    kept, y = [], x
    for level in range(5):
        y = conv(conv(F.max_pool2d(y, 2, 2) if level else y))
        kept.append(y)
    for across in kept[-2::-1]:
        up = next(w)
        y = F.conv_transpose2d(y, up.weight, up.bias, stride=2)
        top, left = ((a - b)//2 for a, b in zip(across.shape[-2:], y.shape[-2:]))
        across = across[:, :, top:top + y.shape[2], left:left + y.shape[3]]
        y = conv(conv(torch.cat([across, y], 1)))
    last = next(w)
    want = F.conv2d(y, last.weight, last.bias)
    with torch.no_grad(): got = net.core(x)
    assert got.shape == (2, 3, 20, 36) and torch.allclose(got, want, atol=1e-5)

def test_sizes_that_fit():
    "The least side that halves without a remainder at each level, by trying"
    def through(n):
        for _ in range(4):
            n -= 4
            if n < 2 or n % 2: return 0
            n //= 2
        n -= 4
        if n < 1: return 0
        for _ in range(4):
            n = 2*n - 4
            if n < 1: return 0
        return n
    for n in (1, 4, 5, 20, 33, 47, 96, 388, 389):
        assert size_taken(n) == next(s for s in itertools.count(1) if through(s) >= n)
    assert (size_taken(388), through(572), MARGIN) == (572, 388, (572 - 388)//2)

@pytest.mark.parametrize('size', [(1, 1), (1, 5), (2, 3), (7, 4), (60, 200)])
def test_mirrored_by_walking(size):
    "A walk that turns around at each border pixel"
    h, w = size
    x = torch.rand(1, 2, h, w)
    def walk(n, i):
        "Where a walker is after |i| steps from pixel 0 that turns at both ends"
        at, way = 0, 1
        for _ in range(abs(i)):
            if n == 1: break
            if not 0 <= at + way < n: way = -way
            at += way
        return at
    got = mirror_padded(x, (92, 31), (5, 100))
    assert got.shape == (1, 2, 92 + h + 5, 31 + w + 100)
    rows = [walk(h, i) for i in range(-92, h + 5)]
    columns = [walk(w, j) for j in range(-31, w + 100)]
    assert torch.equal(got, x[:, :, rows][..., columns])

@pytest.mark.parametrize('padded', [False, True])
@pytest.mark.parametrize('size', [(1, 1), (33, 47), (64, 80)])
def test_answer_has_the_size_of_the_image(padded, size):
    net = seg_model('unet', 3, in_channels=1, padded=padded, width=4).eval()
    with torch.no_grad(): y = net(torch.rand(2, 1, *size))
    assert y.shape == (2, 3, *size) and torch.isfinite(y).all()

def test_both_have_the_same_weights_and_agree_far_from_the_border():
    "What is not reached by the border is the same with padding and without"
    plain, padded = (unet(2, in_channels=1, width=4, padded=o).eval() for o in (False, True))
    padded.load_state_dict(plain.state_dict())
    x = torch.randn(1, 1, 396, 396)
    with torch.no_grad(): a, b = plain.core(x), padded.core(F.pad(x, (2, 2, 2, 2)))
    # the unpadded map begins 2 pixels inside, at the first pooling; so must the padded image
    b = b[..., 2:-2, 2:-2][..., MARGIN:-MARGIN, MARGIN:-MARGIN]
    assert a.shape == b.shape and torch.allclose(a, b, atol=1e-5)

def test_tiles_are_exact(monkeypatch):
    "The paper's overlap tiles: parts with their margin give the answer of the whole"
    net, x = unet(3, in_channels=1, width=4).eval(), torch.rand(1, 1, 500, 420)
    monkeypatch.setattr(tiles, 'MOST_BYTES', 1 << 20)
    with torch.no_grad(): whole = net(x)[0]
    got = torch.full_like(whole, float('nan'))
    for top, left, part in answer_parts(net, x):
        got[:, top:top + part.shape[1], left:left + part.shape[2]] = part
    assert torch.allclose(got, whole, atol=1e-5)

@torch.no_grad()
def only(layer, outputs, inputs, weight, bias):
    "Put weights into some channels of a layer; the others stay silent"
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    layer.weight[:len(outputs)][:, inputs] = weight[outputs]
    layer.bias[:len(outputs)] = bias[outputs]

def test_smp_is_a_special_case():
    """smp's Unet around VGG-13 is a padded U-Net whose up-convolutions repeat cells, whose deepest
    map has half of its channels, and that skips nothing at full size"""
    smp = pytest.importorskip('segmentation_models_pytorch')
    theirs = smp.Unet('vgg13', encoder_depth=4, encoder_weights=None, in_channels=3, classes=5,
        decoder_channels=(256, 128, 64, 64), decoder_use_norm=False).eval()
    ours = unet(5, padded=True).eval()
    def convs_of(m): return [o for o in m.modules() if isinstance(o, nn.Conv2d)]
    with torch.no_grad():
        for conv in convs_of(theirs.decoder.center): # two convolutions more: silenced
            conv.weight.zero_()
            conv.bias.zero_()
            for c in range(512): conv.weight[c, c, 1, 1] = 1
        head = theirs.segmentation_head[0]
        middle = head.weight[..., 1:2, 1:2].clone()
        head.weight.zero_()
        head.weight[..., 1:2, 1:2] = middle
        for mine, other in zip(convs_of(ours.encoder), convs_of(theirs.encoder)):
            outs, ins = range(other.out_channels), range(other.in_channels)
            only(mine, outs, ins, other.weight, other.bias)
        for step, block in zip(ours.steps, theirs.decoder.blocks):
            c = step.up.out_channels # the map from across has as many
            step.up.weight.zero_()
            step.up.bias.zero_()
            for k in range(c): step.up.weight[k, k] = 1 # each cell becomes a square
            one, two = convs_of(block)
            n = one.out_channels
            skip = one.in_channels - c
            inputs = [*range(c, 2*c), *range(skip)] # theirs: from below, then from across
            mine = convs_of(step.mix)
            only(mine[0], range(n), inputs, one.weight, one.bias)
            only(mine[1], range(n), range(n), two.weight, two.bias)
        ours.head.weight.copy_(middle)
        ours.head.bias.copy_(head.bias)
        x = torch.randn(2, 3, 48, 64)
        a, b = ours(x), theirs(x)
    assert b.std() > 1e-4 and (a - b).abs().max() <= 1e-5*b.abs().max()

@pytest.mark.parametrize('bad, why', [(dict(n_classes=0), 'n_classes=0'),
    (dict(width=0), 'width=0'), (dict(width=2.5), 'width=2.5'),
    (dict(in_channels=True), 'in_channels=True'),
    (dict(dropout=1), 'dropout=1'), (dict(dropout='a'), "dropout='a'"),
    (dict(pretrained=True), 'Cure: pretrained=False')])
def test_bad_numbers(bad, why):
    with pytest.raises(SegbookError, match=why): unet(**{'n_classes': 2, **bad})
