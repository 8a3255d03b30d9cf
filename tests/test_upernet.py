"""UPerNet: the network of segmentation-models-pytorch with the same weights; its parts by hand."""
import pytest, torch
from torch import nn
from torch.nn import functional as F
from segbook.architectures.upernet import ChannelNorm, PooledPyramid, upernet
from segbook.errors import SegbookError

def rough(net):
    "Normalisations that are not those of a new network"
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.normal_(m.running_mean, std=.1)
            nn.init.uniform_(m.running_var, .5, 2)
        if isinstance(m, nn.LayerNorm): nn.init.normal_(m.weight, 1, .3)
    return net.eval()

def folded(conv, norm):
    "Weight and bias of a convolution with its normalisation calculated in"
    factor = norm.weight/(norm.running_var + norm.eps).sqrt()
    return conv.weight*factor[:, None, None, None], norm.bias - norm.running_mean*factor

def give_decoder(ours, theirs):
    "Weights of the decoder of smp, whose pyramid begins with the smallest map"
    pool, d = ours.pyramid.pool, theirs.decoder
    for a, b in zip(ours.norms, d.feature_norms, strict=True): a.load_state_dict(b.state_dict())
    single, *branches = pool.branches
    with torch.no_grad():
        weight, bias = folded(d.psp.blocks[0][1][0], d.psp.blocks[0][1][1])
        single[1][0].weight.copy_(weight)
        single[1][0].bias.copy_(bias)
    for a, b in zip(branches, d.psp.blocks[1:], strict=True):
        a[1].load_state_dict(b[1].state_dict())
    pool.mix.load_state_dict(d.psp.out_conv.state_dict())
    pairs = [*zip(ours.pyramid.laterals, [o.conv_norm_relu for o in d.fpn_lateral_blocks][::-1]),
        *zip(ours.pyramid.smooths, [*d.fpn_conv_blocks][::-1]), (ours.fuse, d.fusion_block),
        (ours.classify, theirs.segmentation_head[0])]
    assert len(pairs) == 8
    for a, b in pairs: a.load_state_dict(b.state_dict())

@pytest.mark.parametrize('encoder, name', [('resnet18', 'resnet18'),
    ('timm/convnext_atto', 'tu-convnext_atto')])
def test_layer_by_layer_the_network_of_smp(encoder, name):
    """Equal up to the last step (smp enlarges from corner to corner), and with the normalisation
    behind the single average, which we leave out, calculated into its convolution"""
    smp = pytest.importorskip('segmentation_models_pytorch')
    torch.manual_seed(0)
    theirs = rough(smp.UPerNet(name, encoder_weights=None, classes=5))
    ours = upernet(5, encoder).eval()
    ours.encoder.load_state_dict(dict(zip(ours.encoder.state_dict(),
        theirs.encoder.state_dict().values(), strict=True)))
    give_decoder(ours, theirs)
    x = torch.randn(2, 3, 128, 160)
    with torch.no_grad():
        want = theirs.segmentation_head[0](theirs.decoder(theirs.encoder(x)))
        got = ours.decode(ours.encoder(x), x)
        assert (got - want).abs().max() < 1e-5*want.abs().max()
        corners = F.interpolate(got, x.shape[-2:], mode='bilinear', align_corners=True)
        assert (corners - theirs(x)).abs().max() < 1e-5*want.abs().max()
        plain = F.interpolate(got, x.shape[-2:], mode='bilinear')
        assert torch.allclose(ours(x), plain, atol=1e-6)

def test_the_pyramid_by_hand():
    torch.manual_seed(1)
    net = rough(PooledPyramid([3, 4, 5], 8))
    a, b, c = torch.randn(1, 3, 9, 13), torch.randn(1, 4, 5, 7), torch.randn(1, 5, 3, 4)
    before = [o.clone() for o in (a, b, c)]
    with torch.no_grad():
        got, top = net([a, b, c]), net.pool(c)
        middle = net.laterals[1](b) + F.interpolate(top, (5, 7), mode='bilinear')
        largest = net.laterals[0](a) + F.interpolate(middle, (9, 13), mode='bilinear')
        want = net.smooths[0](largest), net.smooths[1](middle), top
    for x, y in zip(got, want, strict=True): assert torch.allclose(x, y, atol=1e-6)
    assert all(map(torch.equal, before, (a, b, c)))

def test_each_cell_is_normalised():
    x = torch.randn(2, 6, 3, 5)*7 + 2
    y = ChannelNorm(6)(x)
    for i in range(3):
        for j in range(5):
            v = x[1, :, i, j]
            want = (v - v.mean())/(v.var(unbiased=False) + 1e-6).sqrt()
            assert torch.allclose(y[1, :, i, j], want, atol=1e-5)

@pytest.mark.parametrize('encoder', ['timm/convnext_atto', 'resnet18', 'vgg11_bn'])
def test_every_parameter_learns(encoder):
    torch.manual_seed(2)
    net = upernet(3, encoder, 1, width=32).train()
    y = net(torch.randn(2, 1, 64, 71))
    assert y.shape == (2, 3, 64, 71)
    y.square().mean().backward()
    assert not [n for n, p in net.named_parameters()
        if p.grad is None or not p.grad.abs().max() > 0]

def test_one_image_of_33_by_47_trains():
    "One image a batch: neither the single average nor the smallest map is one value to normalise"
    net = upernet(2, 'timm/convnext_atto', width=16).train()
    with pytest.warns(UserWarning, match='continued to 64x64'):
        assert net(torch.randn(1, 3, 33, 47)).isfinite().all()

def test_refused(monkeypatch):
    for bad in (0, 8.5, None):
        with pytest.raises(SegbookError, match='expected a number of channels'):
            upernet(3, width=bad)
    with pytest.raises(SegbookError, match="'vit_tiny_patch16_224'"):
        upernet(3, 'vit_tiny_patch16_224')
    monkeypatch.setattr('segbook.architectures.blocks.encoder_body', lambda *args:
        nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1)))
    with pytest.raises(SegbookError, match=r'strides \[2, 4\], and none of \[8, 16, 32\]'):
        upernet(3, 'resnet18')

def test_export_and_half_precision():
    net = upernet(2, 'resnet18', width=16).eval()
    x = torch.rand(1, 3, 64, 96)
    with torch.no_grad(): want = net(x)
    again = torch.export.export(net, (x,), strict=False).module()
    assert torch.allclose(again(x), want, atol=1e-5)
    with torch.autocast('cpu', torch.bfloat16), torch.no_grad(): assert net(x).isfinite().all()
