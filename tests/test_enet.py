"""ENet: its table of sizes, its weights counted, and the network written out once more."""
import pytest, torch
import torch.nn.functional as F
from segbook.architectures.enet import enet
from segbook.errors import SegbookError
from segbook.models import seg_model

def test_sizes_of_table_1():
    "The output sizes of the paper's table, for an image of 512 by 512"
    shapes = []
    with torch.device('meta'):
        net = enet(12).eval()
        e = net.encoder
        for m in (e.first, e.down1, e.stage1, e.down2, e.stages23, net.up4, net.stage4, net.up5,
                net.stage5, net.head):
            m.register_forward_hook(lambda m, i, o: shapes.append(
                tuple((o[0] if isinstance(o, tuple) else o).shape[1:])))
        net(torch.empty(1, 3, 512, 512))
    assert shapes == [(16, 256, 256), (64, 128, 128), (64, 128, 128), (128, 64, 64), (128, 64, 64),
        (64, 128, 128), (64, 128, 128), (16, 256, 256), (16, 256, 256), (12, 512, 512)]

def n_weights(n_classes, C=3):
    "Counted by the rules of the paper: a bias where a 3×3 or the last strip is, none in 1×1"
    norm, prelu = (lambda c: 2*c), (lambda c: c)
    def neck(i, o, middle, first=1, act=prelu):
        t = o//4
        return i*t*first**2 + 2*(norm(t) + act(t)) + middle(t) + t*o + norm(o) + act(o)
    three, strips, none = (lambda t: 9*t*t + t), (lambda t: 10*t*t + t), (lambda c: 0)
    n = C*(16 - C)*9 + 16 - C + norm(16) + prelu(16)
    n += neck(16, 64, three, 2) + 4*neck(64, 64, three) + neck(64, 128, three, 2)
    n += 2*(6*neck(128, 128, three) + 2*neck(128, 128, strips))
    up = lambda i, o: neck(i, o, three, act=none) + i*o + norm(o)
    n += up(128, 64) + 2*neck(64, 64, three, act=none) + up(64, 16) + neck(16, 16, three, act=none)
    return n + 16*n_classes*4 + n_classes

@pytest.mark.parametrize('n_classes, channels', [(12, 3), (20, 3), (2, 1), (5, 4)])
def test_weights_are_those_of_the_table(n_classes, channels):
    got = sum(p.numel() for p in enet(n_classes, in_channels=channels).parameters())
    assert got == n_weights(n_classes, channels)
    assert .36e6 < n_weights(20) < .37e6

def written_out(net, x):
    "ENet in evaluation from its weights alone, in their order, with PyTorch's functions"
    v = iter([(k, t) for k, t in net.state_dict().items() if not k.endswith('num_batches_tracked')])
    take = lambda: next(v)[1]
    def norm(x):
        scale, shift, mean, var = (take() for _ in range(4))
        s = (1, -1, 1, 1)
        return (x - mean.view(s))/(var.view(s) + 1e-3).sqrt()*scale.view(s) + shift.view(s)
    def prelu(x):
        a = take().view(1, -1, 1, 1)
        return torch.where(x > 0, x, a*x)
    relu = lambda x: x*(x > 0)
    def extension(x, kind, act):
        y = act(norm(F.conv2d(x, take(), stride=2 if kind == 'down' else 1)))
        if kind == 'strips':
            y = F.conv2d(y, take(), padding=(2, 0))
            y = F.conv2d(y, take(), take(), padding=(0, 2))
        elif kind == 'up':
            y = F.conv_transpose2d(y, take(), take(), stride=2, padding=1, output_padding=1)
        else:
            d = kind if isinstance(kind, int) else 1
            y = F.conv2d(y, take(), take(), padding=d, dilation=d)
        return norm(F.conv2d(act(norm(y)), take()))
    def pooled(x):
        b, c, h, w = x.shape
        squares = x.view(b, c, h//2, 2, w//2, 2).permute(0, 1, 2, 4, 3, 5).flatten(4)
        return squares.max(-1)
    def neck(x, kind=1, act=prelu):
        y = x + extension(x, kind, act)
        return act(y)
    def down(x):
        y = extension(x, 'down', prelu)
        kept, at = pooled(x)
        return prelu(torch.cat([kept + y[:, :kept.shape[1]], y[:, kept.shape[1]:]], 1)), at
    def up(x, at):
        kept = norm(F.conv2d(x, take()))
        y = extension(x, 'up', relu)
        placed = F.one_hot(at, 4)*kept[..., None]
        b, c, h, w = kept.shape
        placed = placed.view(b, c, h, w, 2, 2).permute(0, 1, 2, 4, 3, 5).reshape(b, c, 2*h, 2*w)
        return relu(y + placed)
    x = torch.cat([F.conv2d(x, take(), take(), stride=2, padding=1), pooled(x)[0]], 1)
    x, half = down(prelu(norm(x)))
    for _ in range(4): x = neck(x)
    x, quarter = down(x)
    for _ in range(2):
        for kind in (1, 2, 'strips', 4, 1, 8, 'strips', 16): x = neck(x, kind)
    x = neck(neck(up(x, quarter), act=relu), act=relu)
    x = neck(up(x, half), act=relu)
    y = F.conv_transpose2d(x, take(), take(), stride=2)
    assert next(v, None) is None
    return y

def test_written_out():
    torch.manual_seed(0)
    net = enet(5, in_channels=4).double()
    with torch.no_grad():
        for _ in range(3): net.train()(torch.randn(2, 4, 64, 64).double()) # statistics
        net.eval()
        x = torch.randn(2, 4, 48, 80).double()
        a, b = net(x), written_out(net, x)
    assert b.std() > 1e-3 and torch.allclose(a, b, rtol=1e-8, atol=1e-8*b.abs().max().item())

def test_unpooled_to_where_the_maximum_stood():
    "An image whose maxima move by one pixel gives other logits there, with the same deep map"
    torch.manual_seed(0)
    net = enet(3).eval()
    with torch.no_grad():
        deep, quarter, half = net.encoder(torch.rand(1, 3, 32, 32))
        y = net.up4(deep, quarter)
        moved = net.up4(deep, quarter ^ 1) # the pixel beside it
    assert quarter.shape == deep.shape[:1] + (64, 4, 4) and not torch.equal(y, moved)

@pytest.mark.parametrize('size', [(1, 1), (33, 47), (17, 64)])
def test_any_size(size):
    net = seg_model('enet', 4, in_channels=1)
    assert net.eval()(torch.rand(1, 1, *size)).shape == (1, 4, *size)
    net.train()(torch.rand(1, 1, *size)).sum().backward() # one image alone
    assert all(p.grad is not None for p in net.parameters())

@pytest.mark.parametrize('bad, why', [(dict(n_classes=0), 'n_classes=0'),
    (dict(in_channels=16), '16 channels in all. Cure: another architecture'),
    (dict(in_channels=0), 'in_channels=0'), (dict(pretrained=True), 'Cure: pretrained=False')])
def test_bad_numbers(bad, why):
    with pytest.raises(SegbookError, match=why): enet(**{'n_classes': 2, **bad})
