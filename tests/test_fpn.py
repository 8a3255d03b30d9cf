"""Feature pyramid network: the pyramid of torchvision, the masks of segmentation-models-pytorch."""
import pytest, torch
from torch import nn
from torch.nn import functional as F
from torchvision.ops import FeaturePyramidNetwork
from segbook.architectures.fpn import FeaturePyramid, PyramidMerge, fpn
from segbook.errors import SegbookError

CHANNELS, SIZES = [8, 12, 20, 28], [(24, 31), (12, 16), (6, 8), (3, 4)]

def given(theirs, ours):
    "`ours` with the weights of `theirs`, one after the other"
    values, names = list(theirs.values()), list(ours.state_dict())
    assert len(values) == len(names)
    ours.load_state_dict(dict(zip(names, values)))
    return ours.eval()

@pytest.mark.parametrize('levels', [1, 2, 4])
def test_the_pyramid_is_torchvisions(levels):
    torch.manual_seed(0)
    theirs = FeaturePyramidNetwork(CHANNELS[:levels], 16).eval()
    for p in theirs.parameters(): nn.init.normal_(p, std=.2)
    ours = FeaturePyramid(CHANNELS[:levels], 16)
    given(theirs.state_dict(), ours)
    maps = [torch.randn(2, c, *s) for c, s in zip(CHANNELS[:levels], SIZES)]
    before = [o.clone() for o in maps]
    with torch.no_grad():
        want = theirs({str(i): o for i, o in enumerate(maps)})
        got = ours(maps)
    assert all(map(torch.equal, maps, before)), 'the maps of the encoder were changed'
    for a, b in zip(got, want.values(), strict=True): assert torch.allclose(a, b, 1e-5, 1e-6)

def smp_weights(net):
    "The weights of an FPN of smp in our order: laterals from the largest map on, and so the merge"
    def part(prefix):
        return {k: v for k, v in net.state_dict().items() if k.startswith(prefix)}
    d = 'decoder.'
    order = ['encoder.'] + [f'{d}p{i}.skip_conv' for i in (2, 3, 4)] + [f'{d}p5']
    order += [f'{d}seg_blocks.{i}.' for i in (3, 2, 1, 0)] + ['segmentation_head']
    return {k: v for o in order for k, v in part(o).items()}

@pytest.mark.parametrize('encoder, merge, policy', [('resnet50', 'sum', 'add'),
    ('resnet18', 'sum', 'add'), ('resnet18', 'concat', 'cat')])
def test_the_masks_are_those_of_smp(encoder, merge, policy, monkeypatch):
    """Equal where corners of maps lie on corners in both; by default theirs do, and ours lie
    half a cell inside, as in the authors' own code"""
    smp = pytest.importorskip('segmentation_models_pytorch')
    torch.manual_seed(1)
    theirs = smp.FPN(encoder, encoder_weights=None, classes=5, decoder_merge_policy=policy).eval()
    for m in theirs.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.normal_(m.running_mean, std=.1)
            nn.init.uniform_(m.running_var, .5, 2)
    ours = fpn(5, encoder, merge=merge)
    given(smp_weights(theirs), ours)
    if merge == 'concat': # theirs begins with the smallest map
        w = ours.head.weight.data
        w.copy_(torch.cat(w.chunk(4, 1)[::-1], 1))
    x, plain = torch.randn(2, 3, 96, 160), F.interpolate
    def corners(*args, **kw):
        if kw.get('mode') == 'bilinear': kw['align_corners'] = True
        return plain(*args, **kw)
    monkeypatch.setattr(F, 'interpolate', corners)
    with torch.no_grad(): got, want = ours(x), theirs(x)
    assert torch.allclose(got, want, 1e-5, 1e-5*want.abs().max().item())

def test_the_merge_by_hand():
    "One channel, convolutions that copy: the sum of four maps, each enlarged step by step"
    merge = PyramidMerge(1, 1).eval()
    for m in merge.modules():
        if isinstance(m, nn.Conv2d): nn.init.dirac_(m.weight)
    for steps in merge.steps:
        for step in steps: step[1] = nn.Identity()
    maps = [torch.rand(1, 1, s, s) for s in (16, 8, 4, 2)]
    want = maps[0].clone()
    for i, m in enumerate(maps[1:], 1):
        for _ in range(i): m = F.interpolate(m, scale_factor=2, mode='bilinear')
        want += m
    assert torch.allclose(merge(maps), want, atol=1e-6)

@pytest.mark.parametrize('merge', ['sum', 'concat'])
@pytest.mark.parametrize('smooth', [False, True])
def test_sizes_and_gradients(merge, smooth):
    torch.manual_seed(0)
    net = fpn(4, 'mobilenetv3_small_050', 1, width=24, merge_width=20, merge=merge, smooth=smooth)
    for h, w in ((33, 47), (64, 96)):
        net.zero_grad()
        y = net.train()(torch.randn(2, 1, h, w))
        assert y.shape == (2, 4, h, w)
        y.square().mean().backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())
    assert net.eval()(torch.randn(1, 1, 1, 1)).shape == (1, 4, 1, 1)

@pytest.mark.parametrize('options, why', [(dict(merge='mean'), "expected 'sum' or 'concat'"),
    (dict(width=0), 'width=0: expected channels'), (dict(merge_width=8.5), 'merge_width=8.5')])
def test_bad_options(options, why):
    with pytest.raises(SegbookError, match=why): fpn(3, 'resnet18', **options)

def test_an_encoder_with_too_few_stages(monkeypatch):
    import segbook.architectures.blocks as blocks
    monkeypatch.setattr(blocks, 'encoder_body', lambda *a: nn.Sequential(
        nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 8, 3, 2, 1)))
    with pytest.raises(SegbookError, match=r'strides \[2, 4\], and none of \[8, 16, 32\]'):
        fpn(3, 'resnet18')
