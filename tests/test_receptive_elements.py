"""Operations after which rows and columns stand nowhere regular, against poisoned images.

Windows, class tokens, rolls, joined rows, patches, sampling: each unit of each network is compared
with what NaN reaches, by the oracle of `test_receptive_field`, which shares nothing with the
analysis."""
import os, random
import pytest, torch, torch.nn.functional as F
from torch import nn
from segbook.errors import SegbookError
from segbook.models import seg_model
from segbook.receptive_field import effective_receptive_field, receptive_field, receptive_field_rule
from segbook.receptive_field.answers import clipped_box
from segbook.receptive_field.recorder import analyse
from segbook.receptive_field.rules import MODULE_RULES
from test_receptive_field import Fn, both, branches, compare

C = nn.Conv2d

def windows(x, h, w):
    "[B·n,h·w,C] tokens of windows of a map [B,C,H,W]"
    B, c, H, W = x.shape
    t = x.permute(0, 2, 3, 1).view(B, H//h, h, W//w, w, c).permute(0, 1, 3, 2, 4, 5)
    return t.reshape(-1, h*w, c)

def unwindowed(t, h, w, shape):
    "The map of such tokens"
    B, c, H, W = shape
    t = t.view(B, H//h, W//w, h, w, c).permute(0, 1, 3, 2, 4, 5).reshape(B, H, W, c)
    return t.permute(0, 3, 1, 2)

def attended(q, k, v, how):
    "Attention, written in the ways in which people write it"
    if how == 'sdpa': return F.scaled_dot_product_attention(q, k, v)
    if how == 'einsum':
        a = torch.einsum('bqd,bkd->bqk', q, k).softmax(-1)
        return torch.einsum('bqk,bkd->bqd', a, v)
    if how == 'bmm': return torch.bmm(torch.bmm(q, k.transpose(1, 2)).softmax(-1), v)
    return (q @ k.transpose(-1, -2)).softmax(-1) @ v

def windowed(x, h, w, how='matmul'):
    "Attention within windows of a map"
    t = windows(x, h, w)
    return unwindowed(attended(t, t, t, how), h, w, x.shape)

def shifted(x, h, w):
    "Swin's second kind of window: shifted round, and back"
    return windowed(x.roll((-1, -2), (2, 3)), h, w).roll((1, 2), (2, 3))

def grid_attention(x, h, w):
    "MaxViT's second kind: the same place of every window"
    B, c, H, W = x.shape
    t = x.view(B, c, h, H//h, w, W//w).permute(0, 3, 5, 2, 4, 1).reshape(-1, h*w, c)
    t = attended(t, t, t, 'sdpa').view(B, H//h, W//w, h, w, c)
    return t.permute(0, 5, 3, 1, 4, 2).reshape(B, c, H, W)

def with_class_token(m, x):
    "A vision transformer's block: a class token before the others, which is dropped at the end"
    y = m.c(x)
    t = y.flatten(2).transpose(1, 2)
    t = torch.cat([torch.zeros(len(t), 1, t.shape[2]), t], 1)
    t = t + m.m(t, t, t)[0]
    return t[:, 1:].transpose(1, 2).reshape(y.shape)

def sampled(m, x):
    "A spatial transformer: a matrix computed from the image says where to look"
    theta = m.c(x).mean((2, 3)).view(len(x), 2, 3)
    return F.grid_sample(x, F.affine_grid(theta, x.shape, align_corners=False), align_corners=False)

def flowed(m, x):
    "Places computed place by place, as in an optical flow"
    return F.grid_sample(x, m.c(x).permute(0, 2, 3, 1), align_corners=False)

def folded(m, x, **kw):
    "Patches, changed, and laid back where they overlap"
    return F.fold(F.unfold(x, **kw)*2, x.shape[-2:], **kw)

def networks():
    "Name, network, height and width of the image"
    yield 'rolled across, between convolutions', Fn(lambda m, x: m.d(m.c(x).roll(1, 3)),
        c=C(1, 1, 3, padding=1), d=C(1, 1, 5, padding=2)), 7, 9
    yield 'rolled down and back by negative shifts', Fn(lambda m,
        x: m.d(m.c(x).roll((-2, -3), (2, 3))), c=C(1, 1, 3, padding=1),
        d=C(1, 1, 3, padding=2)), 8, 9
    yield 'flipped between convolutions', Fn(lambda m, x: m.d(m.c(x).flip(2, 3)),
        c=C(1, 1, 3, padding=1), d=C(1, 1, 5, padding=2)), 8, 7
    for k, index in (('picked', [5, 0, 2]), ('repeated', [1, 1, 6])):
        yield f'{k} rows', Fn(lambda m, x, i=index: m.d(m.c(x)[:, :, i]), c=C(1, 1, 3, padding=1),
            d=C(1, 1, 3, padding=1)), 7, 6
    yield 'rows by index_select', Fn(lambda m, x: m.c(x.index_select(3, m.at)),
        c=C(1, 1, 3, padding=1)), 7, 6
    yield 'rows behind each other', Fn(lambda m, x: m.d(torch.cat([m.c(x), x], 2)),
        c=C(1, 1, 3, padding=1), d=C(1, 1, 3, padding=1)), 6, 5
    yield 'columns behind each other, and zeros', Fn(lambda m,
        x: m.d(torch.cat([m.c(x), torch.zeros(len(x), 1, 6, 2), x.flip(3)], 3)),
        c=C(1, 1, 3, padding=1), d=C(1, 1, 3, padding=1)), 6, 5
    for mode in ('circular', 'reflect', 'replicate'):
        yield f'padded, {mode}', nn.Sequential(C(1, 1, 3, padding=1, padding_mode=mode),
            C(1, 1, 3, padding=1)), 6, 7
        yield f'rolled, then padded, {mode}', Fn(lambda m, x, mode=mode:
            m.d(F.pad(m.c(x).roll(2, 2), (1, 2, 0, 1), mode)), c=C(1, 1, 3, padding=1),
            d=C(1, 1, 3)), 6, 7
        yield f'cropped, then padded, {mode}', Fn(lambda m, x, mode=mode:
            m.d(F.pad(x[:, :, 2:, :-3], (1, 2, 2, 1), mode)), d=C(1, 1, 3, padding=1)), 8, 9
    yield 'a circular padding as a layer', nn.Sequential(nn.CircularPad2d((1, 2, 0, 3)),
        C(1, 1, 3, padding=1)), 6, 5
    for how in ('matmul', 'sdpa', 'einsum', 'bmm'):
        yield f'windows, {how}', Fn(lambda m, x, how=how: m.d(windowed(m.c(x), 2, 3, how)),
            c=C(1, 2, 3, padding=1), d=C(2, 1, 3, padding=1)), 6, 9
    yield 'shifted windows', Fn(lambda m, x: shifted(windowed(m.c(x), 2, 3), 2, 3)[:, :1],
        c=C(1, 2, 3, padding=1)), 6, 9
    yield 'grid attention', Fn(lambda m, x: m.d(grid_attention(x, 2, 3)),
        d=C(1, 1, 3, padding=1)), 6, 9
    yield 'windows, reduced by a stride', Fn(lambda m, x: m.d(windowed(m.c(x), 2, 2)),
        c=C(1, 2, 2, 2), d=C(2, 1, 3, 2, 1)), 8, 12
    yield 'windows, enlarged', Fn(lambda m, x: F.interpolate(windowed(m.c(x), 2, 2)[:, :1],
        scale_factor=2, mode='bilinear'), c=C(1, 2, 2, 2)), 8, 8
    yield 'windows, enlarged by a kernel', Fn(lambda m, x: m.d(windowed(m.c(x), 2, 2)),
        c=C(1, 2, 2, 2), d=nn.ConvTranspose2d(2, 1, 3, 2, 1)), 8, 8
    yield 'windows, pooled', nn.Sequential(Fn(lambda m, x: windowed(x, 2, 3)),
        nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(2, 1), nn.AdaptiveAvgPool2d(2)), 8, 12
    yield 'windows of channels that differ', Fn(lambda m, x: windowed(both(m, x), 2, 3)[:, :1],
        **branches()), 6, 6
    yield 'windows and groups', Fn(lambda m, x: m.d(torch.cat([x, windowed(x, 2, 3)], 1))[:, :1],
        d=C(2, 2, 3, padding=1, groups=2)), 6, 6
    yield 'windows and excitation', Fn(lambda m,
        x: (lambda y: y*y.mean((2, 3), keepdim=True))(windowed(x, 2, 3))), 6, 6
    yield 'windows, normalised', Fn(lambda m, x: m.n(windowed(m.c(x), 2, 3))[:, :1],
        c=C(1, 4, 1), n=nn.GroupNorm(2, 4)), 6, 6
    yield 'a layer norm in windows', Fn(lambda m, x: unwindowed(m.n(windows(m.c(x), 2, 3)), 2, 3,
        (len(x), 2, 6, 6))[:, :1], c=C(1, 2, 3, padding=1), n=nn.LayerNorm(2)), 6, 6
    yield 'patch merging', Fn(lambda m, x: m.l(torch.cat([windowed(x, 2, 2)[:, :, i::2, j::2]
        for j in (0, 1) for i in (0, 1)], 1).permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
        l=nn.Linear(4, 1)), 8, 8
    yield 'a class token', Fn(lambda m, x: with_class_token(m, x)[:, :1], c=C(1, 4, 2, 2),
        m=nn.MultiheadAttention(4, 2, batch_first=True)), 6, 8
    yield 'a class token that sees nothing', Fn(lambda m, x: torch.cat([torch.zeros(len(x), 1, 1),
        m.c(x).flatten(2)], 2)[..., 1:].view(len(x), 1, 4, 5), c=C(1, 1, 3)), 6, 7
    yield 'multi-head attention in windows', Fn(lambda m, x: (lambda t: unwindowed(m.m(t, t, t)[0],
        2, 3, (len(x), 4, 6, 6)))(windows(m.c(x), 2, 3))[:, :1], c=C(1, 4, 3, padding=1),
        m=nn.MultiheadAttention(4, 2, batch_first=True)), 6, 6
    yield 'keys of fewer places', Fn(lambda m, x: (lambda q, k: (q + attended(q, k, k,
        'sdpa')).transpose(1, 2).view(len(x), 1, 6, 6))(x.flatten(2).transpose(1, 2),
            m.c(x).flatten(2).transpose(1, 2)), c=C(1, 1, 3, 3)), 6, 6
    yield 'a spatial transformer', Fn(sampled, c=C(1, 6, 3)), 6, 7
    for name, kw in (('apart', dict(kernel_size=2, stride=2)),
            ('that overlap', dict(kernel_size=3, padding=1)),
            ('with gaps', dict(kernel_size=(2, 3), stride=(2, 1), padding=1, dilation=2))):
        yield f'patches {name}', Fn(lambda m, x, kw=kw: m.d(folded(m, m.c(x), **kw)),
            c=C(1, 1, 3, padding=1), d=C(1, 1, 3, padding=1)), 8, 8
    yield 'attention within patches', Fn(lambda m, x: (lambda t: F.fold(attended(t, t, t,
        'sdpa').transpose(1, 2).reshape(len(x), 4, -1), (6, 8), 2, stride=2))(F.unfold(x, 2,
            stride=2).view(len(x), 4, -1).transpose(1, 2)[..., :4])), 6, 8
    yield 'unfolded by a tensor', Fn(lambda m, x: x.unfold(2, 3, 1).unfold(3, 2, 2).mean((-1,
        -2))), 7, 8
    yield 'a one-dimensional layer over tokens', Fn(lambda m, x: m.c(x.flatten(2)).view(x.shape),
        c=nn.Conv1d(1, 1, 3, padding=1)), 5, 6
    yield 'neighbours from different channels', Fn(lambda m, x: F.pixel_shuffle(both(m, x), 2),
        **branches()), 6, 5
    yield 'the lower half', Fn(lambda m, x: m.c(x).tril(), c=C(1, 1, 3)), 6, 6

NETWORKS = list(networks())
next(o[1] for o in NETWORKS if o[0] == 'rows by index_select').register_buffer('at',
    torch.tensor([4, 4, 0]))

@pytest.mark.parametrize('name,model,h,w', NETWORKS, ids=[o[0] for o in NETWORKS])
def test_networks_by_hand(name, model, h, w):
    torch.manual_seed(0)
    compare(model, h, w)

def test_a_flow_may_read_everything():
    "Where a computed place lies depends on the image: a change anywhere can change any unit"
    torch.manual_seed(0)
    net = Fn(flowed, c=C(1, 2, 3, padding=1)).eval()
    h, w, g = 5, 6, torch.Generator().manual_seed(0)
    reached = torch.zeros(h*w, h, w, dtype=torch.bool)
    with torch.no_grad():
        net.c.weight.mul_(4)
        for _ in range(200):
            x = torch.randn(1, 1, h, w, generator=g)
            more = x.repeat(h*w, 1, 1, 1)
            more.view(h*w, -1)[range(h*w), range(h*w)] += 3*torch.randn(h*w, generator=g)
            reached |= (net(more) != net(x))[:, 0]
    assert reached.float().mean() > .5
    f = receptive_field(net, (h, w), unit=(2, 1), in_channels=1)
    assert f.clipped == (0, 0, h - 1, w - 1)

def test_our_own_self_attention():
    "Every unit sees every pixel, and the map keeps its stride"
    net = seg_model('dynamic_unet', 3, 'resnet10t', self_attention=True)
    f = receptive_field(net, (64, 96))
    assert f.clipped == (0, 0, 63, 95) and f.stride == (1, 1) and f.map_size == (64, 96)
    with torch.no_grad():
        for m in net.modules():
            if hasattr(m, 'gamma'): m.gamma.fill_(1)
        x = torch.rand(1, 3, 64, 96)
        x[..., 0, 0] = torch.nan
        assert net.eval()(x).isnan().all()

def recurrent(layer):
    return Fn(lambda m, x: m.r(x.flatten(2).transpose(1, 2))[0].transpose(1, 2).view(x.shape),
        r=layer(1, 1, batch_first=True))

def test_a_recurrent_layer():
    "A token sees those before it: proved by poison, token by token"
    compare(recurrent(nn.LSTM), 4, 5)

@pytest.mark.parametrize('layer', [nn.GRU, nn.RNN], ids=lambda o: o.__name__)
def test_a_recurrent_layer_that_writes_in_place_has_a_cure_that_works(layer):
    with pytest.raises(SegbookError, match=rf"layer 'r' \({layer.__name__}\).*Cure"):
        receptive_field(recurrent(layer), (4, 5), in_channels=1)
    try:
        receptive_field_rule(layer, 'global')
        assert receptive_field(recurrent(layer), (4, 5), in_channels=1).size == (4, 5)
    finally: MODULE_RULES.pop(layer, None)

def test_what_wants_values_is_named():
    class Hidden(nn.Module):
        def forward(self, x): return torch.from_numpy(x.numpy()*2)
    net = nn.Sequential(C(1, 1, 3), Hidden())
    with pytest.raises(SegbookError, match=r"cannot follow layer '1' \(Hidden\).*Cure"):
        receptive_field(net, 9, in_channels=1)

def test_places_that_are_not_known_are_refused():
    at = torch.tensor([3, 1])
    given = Fn(lambda m, x: x[:, :, at.to(x.device)])
    made = Fn(lambda m, x: x[:, :, torch.arange(2, device=x.device)])
    assert receptive_field(Fn(lambda m, x: x[:, :, at]), 8, in_channels=1).map_size == (2, 8)
    for net in (given, made):
        try: f = receptive_field(net, 8, in_channels=1)
        except SegbookError as e: assert "'index'" in str(e) and 'Cure' in str(e)
        else: assert f.map_size == (2, 8)

def test_a_rule_of_the_user_behind_windows():
    class Odd(nn.Module):
        def forward(self, x): return torch.fft.ifft2(torch.fft.fft2(x)).real
    net = nn.Sequential(Fn(lambda m, x: windowed(x, 2, 2)), Odd())
    with pytest.raises(SegbookError, match=r'\(Odd\)'): receptive_field(net, 8, in_channels=1)
    try:
        for like, size in (('pointwise', (2, 2)), ('global', (8, 8)),
                (dict(kernel=3, padding=1), (4, 4))):
            receptive_field_rule(Odd, like)
            assert receptive_field(net, 8, in_channels=1, unit=(4, 4)).size == size
    finally: MODULE_RULES.pop(Odd, None)

@pytest.mark.parametrize('mode', ['bilinear', 'bicubic'])
def test_resizing_in_float64(mode):
    "Ties fall as in float32: PyTorch takes the places of float64 images so"
    rng = random.Random(0)
    for _ in range(60):
        kw = dict(size=(rng.randint(1, 40), 3)) if rng.random() < .5 else dict(
            scale_factor=(rng.choice((3, 1.5, 1/3, .7)), 1.))
        n = rng.randint(4, 30)
        net = Fn(lambda m, x: F.interpolate(x, mode=mode, align_corners=False, **kw)*m.one)
        net.one = nn.Parameter(torch.ones(1, dtype=torch.float64))
        x = torch.zeros(n, 1, n, 3, dtype=torch.float64)
        x[range(n), 0, range(n)] = torch.nan
        with torch.no_grad(): bad = net(x)[:, 0, :, 0].isnan()
        _, m = analyse(net, (n, 3), 1).layer()
        for u in range(bad.shape[1]):
            seen = bad[:, u].nonzero().ravel()
            box = clipped_box(m, u, 0)
            assert (box[0], box[2]) == (seen[0], seen[-1]), (kw, n, u)

def test_effective_field_behind_windows():
    net = Fn(lambda m, x: shifted(windowed(m.c(x), 2, 3), 2, 3), c=C(3, 2, 3, padding=1))
    torch.manual_seed(0)
    f, r = effective_receptive_field(net, (6, 9), n=4), receptive_field(net, (6, 9))
    at = f.nonzero()
    assert (*at.min(0).values.tolist(), *at.max(0).values.tolist()) == r.clipped

# ---- random networks of these operations

def torn(rng):
    "One layer after which rows and columns may stand nowhere regular; [B,1,H,W] to the same"
    how = rng.choice(('matmul', 'sdpa', 'einsum', 'bmm'))
    a, b = rng.randint(-3, 3), rng.randint(-3, 3)
    def divided(x, f):
        h, w = x.shape[2]//2*2, x.shape[3]//3*3
        return f(x[:, :, :h, :w], 2, 3) if h and w else x
    return Fn(rng.choice((lambda m, x: x.roll((a, b), (2, 3)), lambda m, x: x.flip(rng_dim),
        lambda m, x: torch.cat([x, x.roll(a, 2)[:, :, :2]], 2),
        lambda m, x: torch.cat([x[..., 1:2], x], 3), lambda m, x: x[:, :, 1:, :-1],
        lambda m, x: divided(x, lambda y, h, w: windowed(y, h, w, how)),
        lambda m, x: divided(x, shifted), lambda m, x: divided(x, grid_attention),
        lambda m, x: F.pad(x, (1, 2, 0, 1), 'circular'),
        lambda m, x: F.pad(x, (0, 2, 1, 1), 'reflect'),
        lambda m, x: folded(m, x, kernel_size=3, padding=1),
        lambda m, x: x[:, :, [i % x.shape[2] for i in (0, 2, 1, 1)]],
        lambda m, x: x + x.mean(3, keepdim=True)))) if (rng_dim := rng.choice((2, 3))) else None

def random_torn(seed):
    "(network, height, width) of layers with windows of their own, between convolutions"
    rng = random.Random(seed)
    layers = []
    for _ in range(rng.randint(1, 3)):
        layers += [C(1, 1, (rng.randint(1, 3), rng.randint(1, 3)), 1, rng.randint(0, 1),
            rng.randint(1, 2)), torn(rng)]
    layers.append(rng.choice((C(1, 1, 3, 2, 1), C(1, 1, 3, padding=2, dilation=2),
        nn.MaxPool2d(2, 1), nn.ConvTranspose2d(1, 1, 3, 2), nn.Upsample(scale_factor=2))))
    return nn.Sequential(*layers), rng.randint(7, 10), rng.randint(8, 11)

def test_random_networks_with_torn_rows():
    "Every unit of each network; `SEGBOOK_EXAMPLES` asks for more"
    done = 0
    # those behind the first were once answered wrongly
    found = [743, 851, 864, 1171, 1273, 1360, 2037, 3697]
    for seed in [*range(int(os.environ.get('SEGBOOK_EXAMPLES', 20))), *found]:
        torch.manual_seed(seed)
        model, h, w = random_torn(seed)
        try:
            with torch.no_grad(): y = model(torch.zeros(1, 1, h, w))
        except (RuntimeError, ValueError): continue
        if y.isnan().any() or not y.numel(): continue
        try: compare(model, h, w)
        except AssertionError as e: raise AssertionError(f'seed {seed}: {model}') from e
        done += 1
    assert done > 12
