"""Receptive fields against poisoned images: NaN spreads to exactly what reads it.

No arithmetic is shared with the analysis. For every unit of a map at once: images poisoned in their
first k rows (or last, or columns), for every k, in one batch; the first k that makes a unit NaN is
the edge of what it sees. All four edges of every unit are compared with `.clipped`; a side of
`.box` must be that edge, or lie outside the image."""
import math, random, tracemalloc
import pytest, torch, torch.nn.functional as F, torchvision
from torch import nn
from segbook.errors import SegbookError
from segbook.models import seg_model
from segbook.upsampling import UPSAMPLERS, MaxUnpool
from segbook.receptive_field import (effective_receptive_field, effective_share, gaussian_fit,
    receptive_field, receptive_field_rule, receptive_field_table)
from segbook.receptive_field.answers import clipped_box, field_of, unit_box
from segbook.receptive_field.recorder import analyse
from segbook.receptive_field.rules import MODULE_RULES

# ---- the oracle

def poisoned(model, h, w, in_channels, axis, back):
    """[H',W'] the number of poisoned rows (or columns) from one side from which on a unit is NaN;
    a large number where it never is"""
    n = (h, w)[axis]
    x = torch.zeros(n + 1, in_channels, h, w)
    for k in range(1, n + 1):
        i = slice(n - k, n) if back else slice(0, k)
        if axis: x[k,:,:,i] = torch.nan
        else: x[k,:,i] = torch.nan
    with torch.no_grad(): y = model(x)
    bad = y.isnan().any(1)
    first = torch.where(bad, torch.arange(n + 1)[:,None,None], 10**6).amin(0)
    assert not bad[0].any(), 'NaN without poison'
    return first

def edges(model, h, w, in_channels=1):
    """Boxes (top, left, bottom, right) [4,H',W'] by poison; -10**6 or 10**6 and beyond where
    nothing reaches a unit"""
    f = [poisoned(model, h, w, in_channels, a, back) for back in (False, True) for a in (0, 1)]
    return torch.stack([f[0] - 1, f[1] - 1, h - f[2], w - f[3]])

def compare(model, h, w, in_channels=1):
    "Compare every unit; the number of sides of boxes that end inside the image"
    model.eval()
    truth = edges(model, h, w, in_channels)
    size = h, w
    _, m = analyse(model, size, in_channels).layer()
    assert m.n == tuple(truth.shape[1:]), (m.n, truth.shape)
    sides, heights, widths = 0, [], []
    for r in range(m.n[0]):
        for c in range(m.n[1]):
            box, clipped = unit_box(m, r, c, size), clipped_box(m, r, c)
            want = tuple(truth[:, r, c].tolist())
            if max(map(abs, want)) > 10**5:
                assert clipped is None and (box is None or box[2] < 0 or box[3] < 0 or box[0] >= h
                    or box[1] >= w), (r, c, box, clipped, 'nothing reaches it')
                continue
            assert clipped == want, (r, c, box, clipped, want)
            for i, (got, true, n) in enumerate(zip(box, want, (h, w, h, w))):
                assert got == true or (got < 0 if i < 2 else got >= n), (r, c, box, want)
                sides += got == true
            heights.append(box[2] - box[0] + 1)
            widths.append(box[3] - box[1] + 1)
    f = field_of(m, (0, 0), size)
    if heights:
        assert (f.smallest, f.largest) == ((min(heights), min(widths)),
            (max(heights), max(widths))), (f, heights, widths)
    return sides

# ---- random networks

class Branches(nn.Module):
    "Parallel branches, cropped to the smallest, then summed or concatenated"
    def __init__(self, *branches, cat=False):
        super().__init__()
        self.branches, self.cat = nn.ModuleList(branches), cat
    def forward(self, x):
        ys = [b(x) for b in self.branches]
        h, w = (min(y.shape[i] for y in ys) for i in (2, 3))
        ys = [y[..., (y.shape[2]-h)//2:(y.shape[2]-h)//2+h, (y.shape[3]-w)//2:(y.shape[3]-w)//2+w]
            for y in ys]
        return torch.cat(ys, 1).mean(1, keepdim=True) if self.cat else sum(ys)

class Resize(nn.Module):
    def __init__(self, **kw):
        super().__init__()
        self.kw = kw
    def extra_repr(self): return str(self.kw)
    def forward(self, x): return nn.functional.interpolate(x, **self.kw)

class Unet(nn.Module):
    "Down, something, up, with the input beside it, padded or cropped to fit"
    def __init__(self, inner, s, up):
        super().__init__()
        self.down, self.inner, self.up = nn.MaxPool2d(s), inner, up
    def forward(self, x):
        y = self.up(self.inner(self.down(x)))
        dh, dw = x.shape[2] - y.shape[2], x.shape[3] - y.shape[3]
        return torch.cat([x, nn.functional.pad(y, (dw//2, dw - dw//2, dh//2, dh - dh//2))],
            1).sum(1, keepdim=True)

class Lanes(nn.Module):
    "Branches laid one behind the other, steps that keep channels apart, then some of the channels"
    def __init__(self, branches, steps, keep):
        super().__init__()
        self.branches, self.steps, self.keep = Branches(*branches), nn.ModuleList(steps), keep
    def forward(self, x):
        ys = [b(x) for b in self.branches.branches]
        h, w = (min(y.shape[i] for y in ys) for i in (2, 3))
        y = torch.cat([y[..., :h, :w] for y in ys], 1)
        for s in self.steps: y = s(y)
        return y[:, self.keep].mean(1, keepdim=True)

class Chunked(nn.Module):
    "Half of the channels through a layer, as ShuffleNet does"
    def __init__(self, f):
        super().__init__()
        self.f = f
    def forward(self, x):
        a, b = x.chunk(2, 1)
        return torch.cat([a, self.f(b)], 1)

def pick(rng, *v): return rng.choice(v)
def conv(rng):
    k = (rng.randint(1, 5), rng.randint(1, 5))
    d = (rng.randint(1, 3), rng.randint(1, 3))
    s = (pick(rng, 1, 1, 2, 3), pick(rng, 1, 1, 2))
    return nn.Conv2d(1, 1, k, s, tuple(rng.randint(0, k[i]) for i in (0, 1)), d)
def transposed(rng):
    k, s = (rng.randint(1, 4), rng.randint(1, 4)), (rng.randint(1, 3), rng.randint(1, 3))
    return nn.ConvTranspose2d(1, 1, k, s, tuple(rng.randint(0, max(0, k[i] - 1)) for i in (0, 1)),
        tuple(rng.randint(0, s[i] - 1) for i in (0, 1)))
def pool(rng):
    k = rng.randint(2, 3)
    return pick(rng, nn.MaxPool2d(k, rng.randint(1, 3), rng.randint(0, k//2),
            ceil_mode=rng.random() < .3), nn.AvgPool2d(k, rng.randint(1, 3), rng.randint(0, k//2)),
        nn.AdaptiveAvgPool2d((rng.randint(3, 7), rng.randint(3, 7))))
def resize(rng):
    mode = pick(rng, 'nearest', 'bilinear', 'bilinear', 'nearest-exact', 'bicubic')
    kw = dict(size=(rng.randint(5, 30), rng.randint(5, 30))) if rng.random() < .5 else dict(
        scale_factor=pick(rng, 2, 1.5, 3, .5))
    if mode in ('bilinear', 'bicubic'): kw['align_corners'] = rng.random() < .3
    return Resize(mode=mode, **kw)
def shuffle(rng): return nn.Sequential(nn.Conv2d(1, 4, 1), nn.PixelShuffle(2))
def pad(rng):
    return pick(rng, nn.ZeroPad2d, nn.ReplicationPad2d,
        nn.ReflectionPad2d)(tuple(rng.randint(0, 2) for _ in range(4)))
def plain(rng): return pick(rng, nn.ReLU(True), nn.BatchNorm2d(1), nn.Sigmoid(), nn.Hardtanh())

def lanes(rng):
    "Four channels of two branches, taken apart again"
    def padded(i, o, k, **kw): return nn.Conv2d(i, o, k, padding=k//2, **kw)
    branches = [padded(1, n, rng.choice((1, 3, 5)))
        for n in rng.choice(((2, 2), (1, 3), (1, 1, 2)))]
    steps = [rng.choice((lambda: padded(4, 4, 3, groups=4), lambda: padded(4, 4, 3, groups=2),
                lambda: nn.MaxPool2d(2, 1), lambda: nn.BatchNorm2d(4), lambda: nn.ReLU(True),
                lambda: nn.ChannelShuffle(2), lambda: Chunked(padded(2, 2, 3)),
                lambda: nn.Sequential(padded(4, 8, 1), nn.GLU(1)),
                lambda: nn.ZeroPad2d((0, 1, 1, 0))))() for _ in range(rng.randint(0, 3))]
    return Lanes(branches, steps, rng.choice((slice(0, 1), slice(1, 2), slice(0, 2), slice(2, 4),
                slice(3, 4), slice(0, 4, 2))))

def chain(rng, depth): return nn.Sequential(*[layer(rng, depth) for _ in range(rng.randint(1, 3))])
def layer(rng, depth):
    "One layer; branches and decoders hold chains of their own"
    makers = [conv, conv, conv, transposed, pool, resize, shuffle, pad, plain, lanes]
    if depth:
        makers += [lambda r: Branches(*[chain(r, depth - 1) for _ in range(r.randint(2, 3))],
                cat=r.random() < .5)]*3 + [lambda r:
            Unet(chain(r, depth - 1), r.randint(2, 3), layer(r, 0))]*2
    return rng.choice(makers)(rng)

def small(mod, args, out):
    if out.numel() > 10_000: raise ValueError('a large map')

def random_network(seed):
    "(network, height, width) whose maps are neither empty nor large"
    rng = random.Random(seed)
    while True:
        h, w = rng.randint(9, 24), rng.randint(9, 24)
        model = nn.Sequential(*[layer(rng, 2) for _ in range(rng.randint(1, 4))]).eval()
        watch = nn.modules.module.register_module_forward_hook(small)
        try:
            with torch.no_grad(): y = model(torch.zeros(1, 1, h, w))
        except (RuntimeError, ValueError): continue
        finally: watch.remove()
        if 1 <= y.shape[2] <= 50 and 1 <= y.shape[3] <= 50 and y.numel(): return model, h, w

@pytest.mark.parametrize('part', range(10))
def test_random_networks(part):
    "25 networks a part, every unit of each"
    sides = [compare(*random_network(1000*part + i)) for i in range(25)]
    assert sum(s > 0 for s in sides) > 8, f'hardly anything was compared: {sides}'

# ---- the property test draws no transformer, no pooling over everything: by hand

def cases():
    "Networks that the drawing above does not make, with the size of an image"
    class Excite(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Conv2d(1, 1, 1)
        def forward(self, x): return x*self.fc(x.mean((2, 3), keepdim=True)).sigmoid()
    class Attend(nn.Module):
        def forward(self, x):
            t = x.flatten(2).transpose(1, 2)
            return nn.functional.scaled_dot_product_attention(t, t, t).transpose(1, 2).view(x.shape)
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.fc = nn.LayerNorm(1), nn.Linear(1, 1)
        def forward(self, x): return self.fc(self.norm(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
    class Groups(nn.Module):
        def forward(self, x):
            b, c, h, w = x.shape
            return x.expand(b, 4, h, w).view(b, 2, 2, h, w).transpose(1, 2).reshape(b, 4, h, w)
    class Half(nn.Module):
        def forward(self, x):
            a, b = x.chunk(2, 1)
            return torch.cat([a, nn.functional.max_pool2d(b, 3, 1, 1)], 1)
    C = nn.Conv2d
    yield 'squeeze and excitation', nn.Sequential(C(1, 1, 3), Excite()), 9, 8
    yield 'attention', nn.Sequential(C(1, 1, 3, 2), Attend(), C(1, 1, 3, padding=1)), 9, 8
    yield 'channels last', nn.Sequential(C(1, 1, 3, padding=1), Last(), C(1, 1, 3)), 9, 8
    yield 'shuffled channels', nn.Sequential(C(1, 1, 3, padding=1), Groups(), C(4, 1, 3, 2)), 9, 8
    yield 'half of the channels', nn.Sequential(C(1, 4, 3), Half()), 9, 8
    yield 'group norm', nn.Sequential(C(1, 2, 3, 2), nn.GroupNorm(1, 2),
        C(2, 1, 3, padding=1)), 9, 8
    yield 'instance norm', nn.Sequential(C(1, 2, 3, 2), nn.InstanceNorm2d(2)), 10, 8
    yield 'a classifier', nn.Sequential(C(1, 2, 3, 2), nn.AdaptiveAvgPool2d(1), C(2, 1, 1)), 9, 8
    yield 'adaptive maximum', nn.Sequential(C(1, 2, 3), nn.AdaptiveMaxPool2d((3, 4))), 12, 11
    yield 'unshuffled', nn.Sequential(C(1, 1, 3, padding=1), nn.PixelUnshuffle(2)), 8, 6
    yield 'antialiased', nn.Sequential(Resize(size=(5, 4), mode='bilinear', antialias=True),
        C(1, 1, 2)), 13, 9
    for up, cls in UPSAMPLERS.items():
        if up != 'MaxUnpool': yield up, nn.Sequential(C(1, 2, 3, 2), cls(2, 1), C(1, 1, 2)), 10, 9
    yield 'one by one, padded', nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.ZeroPad2d(2),
        C(1, 1, 3)), 6, 7

class Fn(nn.Module):
    "A network of one function (module, x), and the layers that it uses"
    def __init__(self, f, /, **layers):
        super().__init__()
        self.f = f
        for k, v in layers.items(): setattr(self, k, v)
    def forward(self, x): return self.f(self, x)

def branches(**more): return dict(a=nn.Conv2d(1, 2, 1), b=nn.Conv2d(1, 2, 5, padding=2), **more)
def both(m, x): return torch.cat([m.a(x), m.b(x)], 1)

def channel_cases():
    "Channels that see different things, and are taken apart"
    C = nn.Conv2d
    yield 'the first', Fn(lambda m, x: both(m, x)[:, :1], **branches()), 8, 7
    yield 'a half, after relu', Fn(lambda m, x: both(m, x).relu().chunk(2, 1)[0],
        **branches()), 8, 7
    yield 'a part, after pooling', Fn(lambda m, x: F.max_pool2d(both(m, x), 2).split([1, 3], 1)[0],
        **branches()), 8, 8
    yield 'one, after a depthwise layer', Fn(lambda m, x: m.d(both(m, x))[:, 0][:, None],
        **branches(d=C(4, 4, 3, groups=4))), 8, 8
    yield 'one, after a grouped layer', Fn(lambda m, x: m.d(both(m, x))[:, :1],
        **branches(d=C(4, 2, 3, groups=2))), 8, 8
    yield 'one, after a usual layer', Fn(lambda m, x: m.d(both(m, x))[:, :1],
        **branches(d=C(4, 2, 3))), 8, 8
    yield 'one, after batch norm', Fn(lambda m, x: m.d(both(m, x))[:, :1],
        **branches(d=nn.BatchNorm2d(4))), 8, 7
    yield 'one, after instance norm', Fn(lambda m, x: m.d(both(m, x))[:, :1],
        **branches(d=nn.InstanceNorm2d(4))), 8, 7
    yield 'one, after layer norm', Fn(lambda m,
        x: F.layer_norm(both(m, x).permute(0, 2, 3, 1), (4,)).permute(0, 3, 1, 2)[:, :1],
        **branches()), 8, 7
    yield 'one, after a sum over channels', Fn(lambda m,
        x: (both(m, x)*both(m, x).sum(1, keepdim=True))[:, :1], **branches()), 8, 7
    yield 'shuffled', Fn(lambda m, x: F.channel_shuffle(both(m, x), 2)[:, :1], **branches()), 8, 7
    yield 'shuffled by views', Fn(lambda m,
        x: both(m, x).view(len(x), 2, 2, 8, 7).transpose(1, 2).reshape(len(x), 4, 8, 7)[:, 2:3],
        **branches()), 8, 7
    yield 'stacked', Fn(lambda m, x: torch.stack([m.a(x), m.b(x)], 1)[:, 0], **branches()), 8, 7
    yield 'stacked and added', Fn(lambda m, x: torch.stack([m.a(x), m.b(x)], 1).sum(1),
        **branches()), 8, 7
    yield 'a channel of zeros before', Fn(lambda m,
        x: F.pad(both(m, x), (0, 0, 0, 0, 1, 0))[:, 1:2], **branches()), 8, 7
    yield 'rolled', Fn(lambda m, x: both(m, x).roll(2, 1)[:, :1], **branches()), 8, 7
    yield 'repeated', Fn(lambda m, x: both(m, x).repeat(1, 2, 1, 1)[:, 4:5], **branches()), 8, 7
    yield 'gated', Fn(lambda m, x: F.glu(both(m, x), 1), **branches()), 8, 7
    yield 'with a sum of rows', Fn(lambda m,
        x: torch.cat([m.a(x), m.b(x).mean(2, keepdim=True).expand(-1, -1, 8, -1)], 1)[:, :1],
        **branches()), 8, 7
    yield 'images behind each other', Fn(lambda m,
        x: (lambda y: y[:len(x)])(torch.cat([m.b(x), m.b(x.flip(3))], 0)), **branches()), 8, 7
    yield 'images behind each other, and a layer', Fn(lambda m,
        x: m.c(torch.cat([x, m.b(x)[:, :1]], 0))[:len(x), 2:], c=C(1, 3, 3), **branches()), 8, 7
    yield 'after a grouped transposed layer', Fn(lambda m, x: m.t(both(m, x))[:, 1:2],
        **branches(t=nn.ConvTranspose2d(4, 8, 3, 2, groups=4))), 6, 7
    yield 'more of them by groups', Fn(lambda m, x: m.t(both(m, x))[:, 3:5],
        **branches(t=C(4, 8, 3, groups=4))), 6, 7
    yield 'by a product', Fn(lambda m, x: torch.einsum('bgchw,gcd->bgdhw',
            both(m, x).view(len(x), 2, 2, 8, 7), torch.ones(2, 2, 3))[:, 0], **branches()), 8, 7
    yield 'as tokens', Fn(lambda m, x: both(m, x).flatten(2).transpose(1, 2)[..., :2].transpose(1,
            2).reshape(len(x), 2, 8, 7), **branches()), 8, 7
    yield 'excited by all', Fn(lambda m, x:
        (both(m, x)*m.c(both(m, x).mean((2, 3), keepdim=True)))[:, :1],
        **branches(c=C(4, 4, 1))), 8, 7
    yield 'enlarged', Fn(lambda m, x: F.interpolate(both(m, x), scale_factor=2, mode='bilinear')[:,
            :2], **branches()), 6, 7
    yield 'unshuffled, and a layer', Fn(lambda m, x: m.c(F.pixel_unshuffle(x, 2))[:, :1],
        c=C(4, 3, 3)), 8, 8
    yield 'every second pixel as channels', Fn(lambda m,
        x: torch.cat([x[..., ::2, ::2], x[..., 1::2, 1::2]], 1)[:, 1:]), 8, 10

def other_cases():
    "What was once answered wrongly, and its like"
    C = nn.Conv2d
    yield 'normalised over channels', Fn(lambda m, x: F.normalize(m.c(x), dim=1),
        c=C(1, 3, 3)), 8, 7
    yield 'norm over rows', Fn(lambda m, x: x*torch.norm(x, p=2, dim=(2,), keepdim=True)), 8, 7
    yield 'global response norm', Fn(lambda m,
        x: x*torch.norm(x.permute(0, 2, 3, 1), p=2, dim=(1, 2), keepdim=True).permute(0, 3, 1,
            2)), 8, 7
    yield 'pixel shuffle by hand', Fn(lambda m,
        x: m.c(x).view(len(x), 1, 2, 2, 6, 6).permute(0, 1, 4, 2, 5, 3).reshape(len(x), 1, 12, 12),
        c=C(1, 4, 3, padding=1)), 6, 6
    yield 'and a layer after it', Fn(lambda m,
        x: m.d(m.c(x).view(len(x), 1, 2, 2, 6, 6).permute(0, 1, 4, 2, 5, 3).reshape(len(x), 1, 12,
                12)), c=C(1, 4, 3, padding=1), d=C(1, 1, 3)), 6, 6
    yield 'a mean, expanded', Fn(lambda m, x:
        x.mean((2, 3), keepdim=True).expand(-1, -1, 8, 7)), 8, 7
    yield 'a mean, expanded, and a layer', Fn(lambda m,
        x: m.c(x.mean(3, keepdim=True).expand(-1, -1, 8, 7)), c=C(1, 1, 3)), 8, 7
    yield 'a matrix from the right', Fn(lambda m, x: x@torch.ones(7, 5)), 8, 7
    yield 'a matrix from the left', Fn(lambda m, x: torch.ones(3, 8)@x), 8, 7
    yield 'attention within columns', Fn(lambda m,
        x: (lambda t: ((t@t.transpose(-1, -2)).softmax(-1)@t).permute(0, 3, 2, 1))(m.c(x).permute(0,
                3, 2, 1)), c=C(1, 2, 3)), 8, 7
    yield 'added to a product', Fn(lambda m,
        x: torch.baddbmm(m.c(x)[:, 0], torch.ones(len(x), 8, 8), x[:, 0])[:, None],
        c=C(1, 1, 5, padding=2)), 8, 7
    yield 'excited by a sum of squares', Fn(lambda m,
        x: x*torch.einsum('bchw,bdhw->bcd', x, x)[..., None]), 8, 7
    yield 'softmax over all places', Fn(lambda m, x: x.flatten(2).softmax(-1).view(x.shape)), 8, 7
    yield 'softmax over rows', Fn(lambda m, x: m.c(x).softmax(2), c=C(1, 1, 3)), 8, 7
    yield 'normalised over a row', Fn(lambda m, x: F.layer_norm(x, (7,))), 8, 7
    yield 'multi-head attention', Fn(lambda m,
        x: (lambda t: m.m(t, t, t)[0].transpose(1, 2).reshape(len(x), 4, 6,
                5))(m.c(x).flatten(2).transpose(1, 2)), c=C(1, 4, 1),
        m=nn.MultiheadAttention(4, 2, batch_first=True)), 6, 5
    yield 'parts of the rows', Fn(lambda m, x: torch.cat([m.c(o) for o in x.chunk(2, 2)], 1),
        c=C(1, 1, 3)), 8, 7
    yield 'rolled rows', Fn(lambda m, x: m.c(x.roll((2, -1), (2, 3))), c=C(1, 1, 3)), 8, 7
    yield 'one row for all', Fn(lambda m, x: x + x[:, :, 3][:, :, None]), 8, 7
    yield 'cropped, then padded and read with gaps', Fn(lambda m,
        x: m.c(F.pad(x[:, :, 5:], (0, 0, 8, 0))), c=C(1, 1, (4, 1), dilation=(4, 1))), 12, 7
    yield 'a dilated maximum', nn.MaxPool2d(3, 2, 1, dilation=2), 10, 9
    yield 'nearly doubled', nn.Sequential(C(1, 1, 3), nn.Upsample(scale_factor=2.05)), 12, 9
    yield 'antialiased in one direction', Fn(lambda m,
        x: F.interpolate(x, size=(12, 5), mode='bicubic', antialias=True)), 12, 9
    yield 'a layer used twice, one not used', Fn(lambda m, x: (m.d(x), m.c(m.c(x)))[1],
        c=C(1, 1, 3), d=C(1, 1, 7)), 9, 8
    yield 'one added in place', Fn(lambda m, x: m.c(x).add_(x[..., 1:-1, 1:-1]), c=C(1, 1, 3)), 8, 7
    yield 'channel attention by a layer in one dimension', Fn(lambda m,
        x: x*m.c(x.mean((2, 3))[:, None]).transpose(1, 2)[..., None],
        c=nn.Conv1d(1, 1, 3, padding=1)), 8, 7

NETWORKS = [*cases(), *(('channels: ' + n, *o) for n, *o in channel_cases()), *other_cases()]

@pytest.mark.parametrize('name,model,h,w', NETWORKS, ids=[o[0] for o in NETWORKS])
def test_networks_by_hand(name, model, h, w): compare(model, h, w)

def test_traced_and_scripted():
    "torch.jit keeps the same operations"
    net = nn.Sequential(nn.Conv2d(1, 2, 3, 2, 1), nn.ReLU(), nn.Conv2d(2, 1, 3, padding=1)).eval()
    assert compare(torch.jit.trace(net, torch.zeros(1, 1, 9, 8)), 9,
        8) == compare(torch.jit.script(net), 9, 8) == compare(net, 9, 8)

# ---- what cannot be followed is said, with the layer and the cure

def written_through_a_view(m, x):
    a = F.max_pool2d(x, 3, 1, 1)
    b = a[:, :1]
    b += F.max_pool2d(x, 5, 1, 2)
    return a
def written_into_zeros(m, x):
    y = torch.zeros_like(x)
    y[:, :, 1:].add_(x[:, :, :-1])
    return y + x
def seen_before_written(m, x):
    b = torch.zeros_like(x)
    v = b[:, :, 1:]
    b.copy_(x)
    return v + x[:, :, 1:]
def one_row_set(m, x):
    y = m.c(x)
    y[:, :, 0] = 0
    return y
def kept_in_a_buffer(m, x):
    m.seen.add_(x.mean())
    return x + m.seen

REFUSED = {'in place, through a view': (Fn(written_through_a_view), 'in place'),
    'in place, through a view of zeros': (Fn(written_into_zeros), 'in place'), 'in place, a view '
    'taken before': (Fn(seen_before_written), 'in place'),
    'a row set to 0': (Fn(one_row_set, c=nn.Conv2d(1, 1, 3)), "'(fill|copy)_'"),
    'sums of rows': (Fn(lambda m, x: x.cumsum(2)), "'cumsum'"),
    'a grid': (Fn(lambda m, x: F.grid_sample(x, torch.zeros(1, 4, 4, 2), align_corners=False)),
        'grid_sampler'), 'turned': (Fn(lambda m, x: x.transpose(2, 3)), 'changed places'),
    'rows beside channels': (Fn(lambda m, x: x.expand(1, 3, 8, 8).reshape(1, 1, 24, 8)), 'share a '
        'dimension'), 'channels of an unshuffled map':
    (Fn(lambda m, x: F.pixel_unshuffle(x, 2)[:, :1]), "'slice'"),
    'values decide': (Fn(lambda m, x: x if x.sum() > 0 else -x), 'values of its input'),}

@pytest.mark.parametrize('name', REFUSED)
def test_refused(name):
    net, says = REFUSED[name]
    with pytest.raises(SegbookError, match=says) as e: receptive_field(net, 8, in_channels=1)
    assert 'Cure' in str(e.value) or 'depends on the image' in str(e.value)

def test_a_buffer_that_keeps_what_it_saw_is_refused():
    net = Fn(kept_in_a_buffer)
    net.register_buffer('seen', torch.zeros(1))
    with pytest.raises(SegbookError, match='add_'): receptive_field(net, 8, in_channels=1)
    assert net.seen.item() == 0 and not net.seen.is_meta

# ---- rules for modules

class Odd(nn.Module):
    "Not in the table of operations: a Fourier transform and back"
    def forward(self, x, more=None, both=False):
        y = torch.fft.ifft2(torch.fft.fft2(x)).real + (0 if more is None else more)
        return (y, 2*y) if both else y
class Odder(Odd): pass

@pytest.fixture
def odd():
    yield lambda like: receptive_field_rule(Odd, like)
    MODULE_RULES.pop(Odd, None)
    MODULE_RULES.pop(Odder, None)

def test_a_rule_reads_all_inputs_and_outputs(odd):
    c, n = nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 1, 5, padding=2)
    cases = [(lambda m, x: m.o(c(x)), 3), (lambda m, x: m.o(x=c(x)) + x, 3),
        (lambda m, x: m.o(x, n(x)), 5), (lambda m, x: m.o(x, more=n(x)), 5),
        (lambda m, x: m.o(c(x), both=True)[1] + x, 3)]
    for f, size in cases:
        with pytest.raises(SegbookError, match=r"layer 'o' \(Odd\).*receptive_field_rule"):
            receptive_field(Fn(f, o=Odd()), 9, in_channels=1)
        odd('pointwise')
        for o in (Odd(), Odder()):
            assert receptive_field(Fn(f, o=o), 9, in_channels=1).size == (size, size)
        MODULE_RULES.clear()
    odd(lambda m: 'global')
    assert receptive_field(nn.Sequential(Odd()), (9, 7), in_channels=1).size == (9, 7)
    receptive_field_rule(Odder, dict(kernel=3, padding=1))
    assert receptive_field(nn.Sequential(Odder()), (9, 7), in_channels=1).size == (3, 3)

def test_rules_that_cannot_be(odd):
    with pytest.raises(SegbookError, match='no class of modules'):
        receptive_field_rule(Odd(), 'global')
    for like in ('everything', 3, dict(stride=2), dict(kernel=3, groups=2)):
        with pytest.raises(SegbookError, match='a rule is'): odd(like)
    odd(dict(kernel=3))  # would make the map smaller, and does not
    with pytest.raises(SegbookError, match=r'does not fit .*Odd.*\[1, 1, 9, 9\] goes in, \[1, 1, '
            r'9, 9\] comes out'):
        receptive_field(nn.Sequential(Odd()), 9, in_channels=1)
    odd(lambda m: 'nothing')
    with pytest.raises(SegbookError, match='a rule is'):
        receptive_field(nn.Sequential(Odd()), 9, in_channels=1)

# ---- bad input, and what must stay as it was

@pytest.mark.parametrize('kw,says', [(dict(unit=(-1, 0)), 'count from'),
        (dict(unit=(0, 6)), '6 rows and 6 columns'), (dict(unit=5), 'two whole numbers'),
        (dict(unit=(1.5, 2)), 'two whole numbers'), (dict(unit='ab'), 'two whole numbers'),
        (dict(unit=(1, 2, 3)), 'two whole numbers'), (dict(input_size=0), 'input_size=0'),
        (dict(input_size=(8, -1)), 'input_size'), (dict(input_size=8.), 'input_size'),
        (dict(input_size=True), 'input_size'), (dict(input_size=2), 'larger input_size'),
        (dict(in_channels=0), 'in_channels=0'), (dict(in_channels='3'), "in_channels='3'"),
        (dict(in_channels=4), 'right in_channels'), (dict(layer='conf'), 'nearest: conv'),
        (dict(layer=nn.ReLU()), "no layer 'ReLU'"), (dict(layer=['conv']), "no layer 'list'"),
        (dict(layer='idle'), 'did not run'), (dict(model=len), 'no network')], ids=str)
def test_bad_input(kw, says):
    net = Fn(lambda m, x: m.conv(x), conv=nn.Conv2d(3, 2, 3), idle=nn.ReLU())
    with pytest.raises(SegbookError, match=says):
        receptive_field(**{**dict(model=net, input_size=8), **kw})

def test_a_layer_under_two_names():
    act = nn.ReLU()
    net = nn.Sequential(nn.Conv2d(3, 2, 3), act, nn.Conv2d(2, 2, 3), act)
    assert receptive_field(net, 9, '3') == receptive_field(net, 9, '1') and receptive_field(net, 9,
        '1').size == (5, 5)

def made():
    torch.manual_seed(0)
    yield 'resnet18', torchvision.models.resnet18(weights=None), 64, 3
    yield 'lraspp', torchvision.models.segmentation.lraspp_mobilenet_v3_large(weights=None,
        weights_backbone=None), 64, 3
    yield 'dynamic_unet', seg_model('dynamic_unet', 4, 'resnet18'), 64, 3

@pytest.mark.parametrize('name,net,size,channels', list(made()),
    ids=lambda o: o if isinstance(o, str) else '')
def test_everything_stays_as_it_was(name, net, size, channels):
    "Weights, statistics, gradients, modes, hooks, attributes; after an answer and after an error"
    net.train()
    [m.eval() for m in list(net.modules())[::3]]
    x = torch.rand(2, channels, size, size)
    with torch.no_grad(): net.eval()(x)  # a pass fills what hooks store
    net.train()
    [m.eval() for m in list(net.modules())[::3]]
    for p in net.parameters(): p.grad = torch.ones_like(p)
    hook = net.register_forward_hook(lambda *o: None)
    def state():
        tables = [(n, k, list(v)) for n, m in net.named_modules() for k, v in m.__dict__.items()
            if isinstance(v, dict)]
        return [m.training for m in net.modules()], [(p._version, p.data_ptr(), p.grad.data_ptr(),
                p.grad._version) for p in net.parameters()], [(b._version, b.data_ptr())
            for b in net.buffers()], tables
    before, values = state(), {k: v.clone() for k, v in net.state_dict().items()}
    receptive_field(net, size)
    receptive_field_table(net, size)
    effective_receptive_field(net, size, n=1)
    for wrong in (dict(unit=(size, 0)), dict(in_channels=channels + 1), dict(layer='none')):
        with pytest.raises(SegbookError): receptive_field(net, size, **wrong)
    assert state() == before and all(torch.equal(v, values[k]) for k, v in net.state_dict().items())
    assert not any(isinstance(v, torch.Tensor) and v.is_meta for m in net.modules()
        for o in (m, *(getattr(m, 'sfs', None) or ())) for v in vars(o).values())
    module = nn.modules.module
    assert not module._global_forward_hooks and not module._global_forward_pre_hooks
    hook.remove()

def test_max_unpooling():
    "The switches move with the values, so here pixels are changed instead of poisoned, many times"
    class Switched(nn.Module):
        def forward(self, x):
            y, at = nn.functional.max_pool2d(x, 2, return_indices=True)
            return MaxUnpool(1)(nn.functional.max_pool2d(y, 3, 1, 1), at, x.shape[-2:])
    h, w, g = 8, 6, torch.Generator().manual_seed(0)
    net, reached = Switched(), torch.zeros(h*w, h, w, dtype=torch.bool)
    for _ in range(300):
        x = torch.randn(1, 1, h, w, generator=g)
        more = x.repeat(h*w, 1, 1, 1)
        more.view(h*w, -1)[range(h*w), range(h*w)] += 6*torch.randn(h*w, generator=g)
        reached |= (net(more) != net(x))[:, 0]
    for r in range(h):
        for c in range(w):
            at = reached[:, r, c].view(h, w).nonzero()
            f = receptive_field(net, (h, w), unit=(r, c), in_channels=1)
            assert (*at.min(0).values.tolist(), *at.max(0).values.tolist()) == f.clipped, (r, c, f)

def test_memory_does_not_grow_with_the_image():
    net = nn.Sequential(*[nn.Conv2d(3 if i == 0 else 4, 4, 3, 2, 1) for i in range(5)])
    def peak(size):
        tracemalloc.start()
        receptive_field(net, size)
        res = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return res
    peak(256)
    assert peak(4096) < 4*peak(256) < 16e6  # 256 times the pixels

def test_effective_field_lies_in_the_box():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 2, dilation=2), nn.ReLU(True),
        nn.Conv2d(4, 4, 3)).train()
    grads = [p.grad for p in net.parameters()]
    for layer, unit in ((None, (3, 2)), ('0', (0, 5))):
        f, box = effective_receptive_field(net, (24, 21), layer, unit, n=6), receptive_field(net,
            (24, 21), layer, unit).clipped
        at = f.nonzero()
        assert (*at.min(0).values.tolist(), *at.max(0).values.tolist()) == box and f.max() == 1
    assert net.training and grads == [p.grad for p in net.parameters()]

def test_effective_share_of_a_bell_is_what_lies_within_two_standard_deviations():
    "An ellipse with half-axes of two deviations: there a Gaussian is at exp(-2) of its peak"
    u, v = torch.arange(81.)[:, None], torch.arange(101.)[None]
    bell = torch.exp(-(u - 40)**2/(2*5**2) - (v - 50)**2/(2*8**2))
    _, (down, across) = gaussian_fit(bell)
    ellipse = math.pi*2*down*2*across/(81*101)
    assert effective_share(bell, (0, 0, 80, 100)) == pytest.approx(ellipse, rel=.03)
    inside = ((u - 40)/(2*5))**2 + ((v - 50)/(2*8))**2 <= 1
    share = inside.float().mean().item()
    assert effective_share(bell, (0, 0, 80, 100)) == pytest.approx(share, abs=1e-3)
    # the level of Luo et al. 2016 is reached at 2.49 standard deviations
    wide = math.pi*5*8*-2*math.log(.0455)/(81*101)
    assert effective_share(bell, (0, 0, 80, 100), .0455) == pytest.approx(wide, rel=.01)

def test_names_of_a_network_are_listed_when_none_is_near():
    net = torchvision.models.resnet18(weights=None)
    with pytest.raises(SegbookError, match='no layer .zzzz. .*; it has conv1, .* and [0-9]+ more'):
        receptive_field(net, 64, 'zzzz')

def test_effective_field_of_tokens_and_of_channels_last():
    "Rows and columns need not be the last two dimensions"
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.last, self.flat = nn.Conv2d(3, 4, 3), nn.Identity(), nn.Identity()
        def forward(self, x):
            return self.flat(self.last(self.conv(x).permute(0, 2, 3, 1)).flatten(1, 2))
    net = Tokens()
    for layer in ('conv', 'last', 'flat'):
        f, r = effective_receptive_field(net, (9, 8), layer, (2, 5), n=4), receptive_field(net,
            (9, 8), layer, (2, 5))
        at = f.nonzero()
        assert (*at.min(0).values.tolist(), *at.max(0).values.tolist()) == r.box == (2, 5, 4,
            7) and r.map_size == (7, 6)

@pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU')
def test_a_model_on_a_gpu():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3)).cuda()
    assert receptive_field(net, 32) == receptive_field(net.cpu(), 32)
