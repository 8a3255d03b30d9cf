"""Receptive fields against poisoned images: NaN spreads to exactly what reads it. No arithmetic is shared with the analysis.

For every unit of a map at once: images poisoned in their first k rows (or last, or columns), for every k, in one batch; the
first k that makes a unit NaN is the edge of its box. A side is compared where the box ends inside the image."""
import random, tracemalloc
import pytest, torch
from torch import nn
from segbook.upsampling import UPSAMPLERS, MaxUnpool
from segbook.receptive_field import effective_receptive_field, receptive_field, _analyse, _box

# ---- the oracle

def poisoned(model, h, w, in_channels, axis, back):
    "[H',W'] the number of poisoned rows (or columns) from one side from which on a unit is NaN; a large number where it never is"
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
    "Boxes (top, left, bottom, right) [4,H',W'] by poison; -10**6 or 10**6 and beyond where nothing reaches a unit"
    f = [poisoned(model, h, w, in_channels, a, back) for back in (False, True) for a in (0, 1)]
    return torch.stack([f[0] - 1, f[1] - 1, h - f[2], w - f[3]])

def compare(model, h, w, in_channels=1):
    "Compare every unit; the number of sides compared"
    model.eval()
    truth = edges(model, h, w, in_channels)
    _, _, (m, shape), _ = _analyse(model, (h, w), in_channels)
    assert m.n == tuple(truth.shape[1:]), (m.n, truth.shape)
    sides = 0
    for r in range(m.n[0]):
        for c in range(m.n[1]):
            box, want = _box(m, r, c, (h, w)), truth[:, r, c].tolist()
            if abs(want[0]) > 10**5 or abs(want[2]) > 10**5:
                assert box is None or box[2] < 0 or box[3] < 0 or box[0] >= h or box[1] >= w, (r, c, box, 'nothing reaches it')
                continue
            assert box is not None, (r, c, want)
            for i,(got, true, n) in enumerate(zip(box, want, (h, w, h, w))):
                if 0 <= got < n: assert got == true, (r, c, box, want); sides += 1
                else: assert 0 <= true < n and (got < 0 if i < 2 else got >= n), (r, c, box, want)
    return sides

# ---- random networks

class Branches(nn.Module):
    "Parallel branches, cropped to the smallest, then summed or concatenated"
    def __init__(self, *branches, cat=False): super().__init__(); self.branches, self.cat = nn.ModuleList(branches), cat
    def forward(self, x):
        ys = [b(x) for b in self.branches]
        h, w = (min(y.shape[i] for y in ys) for i in (2, 3))
        ys = [y[..., (y.shape[2]-h)//2:(y.shape[2]-h)//2+h, (y.shape[3]-w)//2:(y.shape[3]-w)//2+w] for y in ys]
        return torch.cat(ys, 1).mean(1, keepdim=True) if self.cat else sum(ys)

class Resize(nn.Module):
    def __init__(self, **kw): super().__init__(); self.kw = kw
    def extra_repr(self): return str(self.kw)
    def forward(self, x): return nn.functional.interpolate(x, **self.kw)

class Unet(nn.Module):
    "Down, something, up, with the input beside it, padded or cropped to fit"
    def __init__(self, inner, s, up): super().__init__(); self.down, self.inner, self.up = nn.MaxPool2d(s), inner, up
    def forward(self, x):
        y = self.up(self.inner(self.down(x)))
        dh, dw = x.shape[2] - y.shape[2], x.shape[3] - y.shape[3]
        return torch.cat([x, nn.functional.pad(y, (dw//2, dw - dw//2, dh//2, dh - dh//2))], 1).sum(1, keepdim=True)

def pick(rng, *v): return rng.choice(v)
def conv(rng):
    k = (rng.randint(1, 5), rng.randint(1, 5)); d = (rng.randint(1, 3), rng.randint(1, 3)); s = (pick(rng, 1, 1, 2, 3), pick(rng, 1, 1, 2))
    return nn.Conv2d(1, 1, k, s, tuple(rng.randint(0, k[i]) for i in (0, 1)), d)
def transposed(rng):
    k, s = (rng.randint(1, 4), rng.randint(1, 4)), (rng.randint(1, 3), rng.randint(1, 3))
    return nn.ConvTranspose2d(1, 1, k, s, tuple(rng.randint(0, max(0, k[i] - 1)) for i in (0, 1)), tuple(rng.randint(0, s[i] - 1) for i in (0, 1)))
def pool(rng):
    k = rng.randint(2, 3)
    return pick(rng, nn.MaxPool2d(k, rng.randint(1, 3), rng.randint(0, k//2), ceil_mode=rng.random() < .3), nn.AvgPool2d(k, rng.randint(1, 3), rng.randint(0, k//2)), nn.AdaptiveAvgPool2d((rng.randint(3, 7), rng.randint(3, 7))))
def resize(rng):
    mode = pick(rng, 'nearest', 'bilinear', 'bilinear', 'nearest-exact', 'bicubic')
    kw = dict(size=(rng.randint(5, 30), rng.randint(5, 30))) if rng.random() < .5 else dict(scale_factor=pick(rng, 2, 1.5, 3, .5))
    if mode in ('bilinear', 'bicubic'): kw['align_corners'] = rng.random() < .3
    return Resize(mode=mode, **kw)
def shuffle(rng): return nn.Sequential(nn.Conv2d(1, 4, 1), nn.PixelShuffle(2))
def pad(rng): return pick(rng, nn.ZeroPad2d, nn.ReplicationPad2d, nn.ReflectionPad2d)(tuple(rng.randint(0, 2) for _ in range(4)))
def plain(rng): return pick(rng, nn.ReLU(True), nn.BatchNorm2d(1), nn.Sigmoid(), nn.Hardtanh())

def chain(rng, depth): return nn.Sequential(*[layer(rng, depth) for _ in range(rng.randint(1, 3))])
def layer(rng, depth):
    "One layer; branches and decoders hold chains of their own"
    makers = [conv, conv, conv, transposed, pool, resize, shuffle, pad, plain]
    if depth: makers += [lambda r: Branches(*[chain(r, depth - 1) for _ in range(r.randint(2, 3))], cat=r.random() < .5)]*3 + [lambda r: Unet(chain(r, depth - 1), r.randint(2, 3), layer(r, 0))]*2
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
        def __init__(self): super().__init__(); self.fc = nn.Conv2d(1, 1, 1)
        def forward(self, x): return x*self.fc(x.mean((2, 3), keepdim=True)).sigmoid()
    class Attend(nn.Module):
        def forward(self, x): t = x.flatten(2).transpose(1, 2); return nn.functional.scaled_dot_product_attention(t, t, t).transpose(1, 2).view(x.shape)
    class Last(nn.Module):
        def __init__(self): super().__init__(); self.norm, self.fc = nn.LayerNorm(1), nn.Linear(1, 1)
        def forward(self, x): return self.fc(self.norm(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
    class Groups(nn.Module):
        def forward(self, x): b, c, h, w = x.shape; return x.expand(b, 4, h, w).view(b, 2, 2, h, w).transpose(1, 2).reshape(b, 4, h, w)
    class Half(nn.Module):
        def forward(self, x): a, b = x.chunk(2, 1); return torch.cat([a, nn.functional.max_pool2d(b, 3, 1, 1)], 1)
    C = nn.Conv2d
    yield 'squeeze and excitation', nn.Sequential(C(1, 1, 3), Excite()), 9, 8
    yield 'attention', nn.Sequential(C(1, 1, 3, 2), Attend(), C(1, 1, 3, padding=1)), 9, 8
    yield 'channels last', nn.Sequential(C(1, 1, 3, padding=1), Last(), C(1, 1, 3)), 9, 8
    yield 'shuffled channels', nn.Sequential(C(1, 1, 3, padding=1), Groups(), C(4, 1, 3, 2)), 9, 8
    yield 'half of the channels', nn.Sequential(C(1, 4, 3), Half()), 9, 8
    yield 'group norm', nn.Sequential(C(1, 2, 3, 2), nn.GroupNorm(1, 2), C(2, 1, 3, padding=1)), 9, 8
    yield 'instance norm', nn.Sequential(C(1, 2, 3, 2), nn.InstanceNorm2d(2)), 10, 8
    yield 'a classifier', nn.Sequential(C(1, 2, 3, 2), nn.AdaptiveAvgPool2d(1), C(2, 1, 1)), 9, 8
    yield 'adaptive maximum', nn.Sequential(C(1, 2, 3), nn.AdaptiveMaxPool2d((3, 4))), 12, 11
    yield 'unshuffled', nn.Sequential(C(1, 1, 3, padding=1), nn.PixelUnshuffle(2)), 8, 6
    yield 'antialiased', nn.Sequential(Resize(size=(5, 4), mode='bilinear', antialias=True), C(1, 1, 2)), 13, 9
    for up, cls in UPSAMPLERS.items():
        if up != 'MaxUnpool': yield up, nn.Sequential(C(1, 2, 3, 2), cls(2, 1), C(1, 1, 2)), 10, 9
    yield 'one by one, padded', nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.ZeroPad2d(2), C(1, 1, 3)), 6, 7

@pytest.mark.parametrize('name,model,h,w', cases(), ids=lambda o: o if isinstance(o, str) else '')
def test_networks_by_hand(name, model, h, w): compare(model, h, w)

def test_max_unpooling():
    "The switches move with the values, so here pixels are changed instead of poisoned, many times"
    class Switched(nn.Module):
        def forward(self, x): y, at = nn.functional.max_pool2d(x, 2, return_indices=True); return MaxUnpool(1)(nn.functional.max_pool2d(y, 3, 1, 1), at, x.shape[-2:])
    h, w, g = 8, 6, torch.Generator().manual_seed(0)
    net, reached = Switched(), torch.zeros(h*w, h, w, dtype=torch.bool)
    for _ in range(300):
        x = torch.randn(1, 1, h, w, generator=g)
        more = x.repeat(h*w, 1, 1, 1); more.view(h*w, -1)[range(h*w), range(h*w)] += 6*torch.randn(h*w, generator=g)
        reached |= (net(more) != net(x))[:, 0]
    for r in range(h):
        for c in range(w):
            at = reached[:, r, c].view(h, w).nonzero()
            f = receptive_field(net, (h, w), unit=(r, c), in_channels=1)
            assert (*at.min(0).values.tolist(), *at.max(0).values.tolist()) == f.clipped, (r, c, f)

def test_in_place_through_a_view_is_refused():
    "What one view writes, the other reads: this cannot be followed, and is said"
    class Sly(nn.Module):
        def forward(self, x): a = nn.functional.max_pool2d(x, 3, 1, 1); b = a[:, :1]; b += nn.functional.max_pool2d(x, 5, 1, 2)[:, :1]; return a
    with pytest.raises(ValueError, match='cannot judge'): receptive_field(Sly(), 9)

def test_memory_does_not_grow_with_the_image():
    net = nn.Sequential(*[nn.Conv2d(3 if i == 0 else 4, 4, 3, 2, 1) for i in range(5)])
    def peak(size):
        tracemalloc.start(); receptive_field(net, size)
        res = tracemalloc.get_traced_memory()[1]; tracemalloc.stop()
        return res
    peak(256)
    assert peak(4096) < 4*peak(256) < 16e6  # 256 times the pixels

def test_effective_field_lies_in_the_box():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 2, dilation=2), nn.ReLU(True), nn.Conv2d(4, 4, 3)).train()
    grads = [p.grad for p in net.parameters()]
    for layer, unit in ((None, (3, 2)), ('0', (0, 5))):
        f, box = effective_receptive_field(net, (24, 21), layer, unit, n=6), receptive_field(net, (24, 21), layer, unit).clipped
        at = f.nonzero()
        assert (*at.min(0).values.tolist(), *at.max(0).values.tolist()) == box and f.max() == 1
    assert net.training and grads == [p.grad for p in net.parameters()]

@pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU')
def test_a_model_on_a_gpu():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3)).cuda()
    assert receptive_field(net, 32) == receptive_field(net.cpu(), 32)
