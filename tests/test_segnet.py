"""SegNet: VGG-16's encoder with its weights, a mirrored decoder, unpooling written out."""
import pytest, torch, torchvision
from torch import nn
from segbook.architectures.segnet import SegNet, from_vgg16, segnet
from segbook.errors import SegbookError

def convs(net): return [m for m in net.modules() if isinstance(m, nn.Conv2d)]

def test_layers_and_parameters():
    with torch.device('meta'):
        net = segnet(12)
        vgg = torchvision.models.vgg16_bn().features
    down, up = convs(net.encoder), convs(net.decoder) + [net.head]
    assert [(o.in_channels, o.out_channels) for o in down] \
        == [(o.in_channels, o.out_channels) for o in convs(vgg)]
    assert len(down) == len(up) == 13 and {o.kernel_size for o in down + up} == {(3, 3)}
    assert [(o.out_channels, o.in_channels) for o in up[:-1]] \
        == [(o.in_channels, o.out_channels) for o in down[:0:-1]]
    # nothing learns to enlarge: convolutions and normalisations are all there is
    kinds = {type(m).__name__ for m in net.modules() if not [*m.children()]}
    assert kinds == {'Conv2d', 'BatchNorm2d', 'ReLU'}
    # 14.7 M in the encoder, as the paper says in section 3
    assert round(sum(o.weight.numel() for o in down)/1e6, 1) == 14.7

def test_vgg16_maps():
    torch.manual_seed(0)
    vgg = torchvision.models.vgg16_bn().features.eval()
    for m in vgg.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.normal_(m.running_mean, std=.1)
            nn.init.uniform_(m.running_var, .5, 2)
        elif isinstance(m, nn.Conv2d): nn.init.normal_(m.bias, std=.1)
    net = segnet(3).eval()
    from_vgg16(net.encoder, vgg)
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        y, want = x, vgg(x)
        for stage in net.encoder: y = nn.functional.max_pool2d(stage(y), 2)
    assert torch.allclose(y, want, rtol=1e-5, atol=1e-5*want.abs().max())

def pooled_by_hand(x):
    "Maxima of squares of 2 by 2 of [C,H,W], and a map with each at its place; sides may be odd"
    c, h, w = x.shape
    small, back = torch.zeros(c, (h + 1)//2, (w + 1)//2), {}
    for k in range(c):
        for i in range(0, h, 2):
            for j in range(0, w, 2):
                block = {(a, b): x[k, a, b].item() for a in range(i, min(i + 2, h))
                    for b in range(j, min(j + 2, w))}
                best = max(block, key=block.get)
                small[k, i//2, j//2], back[k, i//2, j//2] = block[best], best
    return small, back

def test_by_hand():
    "A small SegNet, unpooled pixel by pixel, on odd sides"
    torch.manual_seed(1)
    net = SegNet(3, 2, width=2).eval()
    x = torch.randn(1, 2, 13, 9)
    with torch.no_grad():
        y, memory = x, []
        for stage in net.encoder:
            y = stage(y)
            small, back = pooled_by_hand(y[0])
            memory.append((back, y.shape))
            y = small[None]
        for stage in net.decoder:
            back, shape = memory.pop()
            large = torch.zeros(shape)
            for (k, i, j), (a, b) in back.items(): large[0, k, a, b] = y[0, k, i, j]
            y = stage(large)
        assert torch.allclose(net(x), net.head(y), atol=1e-6)

def test_indices_are_the_only_skip():
    "What the decoder gets from a stage changes with its order, and not with its values"
    torch.manual_seed(2)
    net = SegNet(2, 1, width=2).eval()
    x = torch.randn(1, 1, 32, 32)
    with torch.no_grad():
        first = net(x)
        for stage in net.encoder[:1]: # the last layer of the first stage made stronger ...
            stage[-1][1].weight *= 3
            stage[-1][1].bias *= 3
        net.encoder[1][0][0].weight /= 3 # ... and weaker again behind the pooling
        assert torch.allclose(net(x), first, atol=1e-5)

@pytest.mark.parametrize('size', [(1, 1), (33, 47), (64, 32)])
def test_any_size(size):
    net = segnet(3, in_channels=4, width=4).eval()
    with torch.no_grad(): assert net(torch.rand(2, 4, *size)).shape == (2, 3, *size)

def test_every_parameter_learns():
    torch.manual_seed(3)
    net = segnet(3, width=4).train()
    net(torch.rand(1, 3, 33, 47)).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())

def test_bad_input():
    with pytest.raises(SegbookError, match='width=0'): segnet(3, width=0)
    with pytest.raises(SegbookError, match='have a width of 64'):
        segnet(3, pretrained=True, width=8)
