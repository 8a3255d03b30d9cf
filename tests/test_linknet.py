"""LinkNet: the authors' network written out, and that of segmentation-models-pytorch."""
import pytest, torch
from networks import close, unsettled
from torch import nn
from torch.nn import functional as F
from segbook.architectures.linknet import LinkBlock, linknet
from segbook.errors import SegbookError

def layer(x, conv, norm, stride=1, padding=0, extra=0):
    "A convolution, forth or back, normalisation and ReLU, from their weights"
    if isinstance(conv, nn.Conv2d): x = F.conv2d(x, conv.weight, None, stride, padding)
    else: x = F.conv_transpose2d(x, conv.weight, None, stride, padding, extra)
    v = lambda t: t[None, :, None, None]
    x = (x - v(norm.running_mean))/(v(norm.running_var) + norm.eps).sqrt()
    return F.relu(x*v(norm.weight) + v(norm.bias))

def block(x, net, stride):
    "A decoder block of the authors' code: padding 1, and one more row where the stride is 2"
    (a, an, _), (b, bn, _), (c, cn, _) = net
    return layer(layer(layer(x, a, an), b, bn, stride, 1, stride - 1), c, cn)

def test_the_authors_network_written_out():
    torch.manual_seed(0)
    net = unsettled(linknet(5, 'resnet18'))
    body, x = net.encoder.body, torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        pooled = body[:4](x)
        e1 = body[4](pooled)
        e2 = body[5](e1)
        e3 = body[6](e2)
        y = e3 + block(body[7](e3), net.blocks[3], 2)
        y = e2 + block(y, net.blocks[2], 2)
        y = e1 + block(y, net.blocks[1], 2)
        y = pooled + block(y, net.blocks[0], 1)
        assert y.shape == (2, 64, 16, 24)
        y = layer(y, net.ending[0][0], net.ending[0][1], 2, 1, 1)
        y = layer(y, net.ending[1][0], net.ending[1][1], 1, 1)
        assert y.shape == (2, 32, 32, 48)
        want = F.conv_transpose2d(y, net.ending[2].weight, net.ending[2].bias, 2)
        assert close(net(x), want)
    channels = [(o[0][0].in_channels, o[2][0].out_channels) for o in net.blocks]
    assert channels == [(64, 64), (128, 64), (256, 128), (512, 256)]

def test_parameters_of_the_paper():
    "11.5 million for a ResNet-18 (abstract)"
    n = sum(p.numel() for p in linknet(20, 'resnet18').parameters())
    assert round(n/1e6, 1) == 11.5

@pytest.mark.parametrize('encoder', ['resnet18', 'resnet50'])
def test_with_stem_link_it_is_the_network_of_smp(encoder):
    smp = pytest.importorskip('segmentation_models_pytorch')
    torch.manual_seed(1)
    theirs = unsettled(smp.Linknet(encoder, encoder_weights=None, classes=5))
    up = [m for m in theirs.decoder.modules() if isinstance(m, nn.Sequential)
        and isinstance(m[0], nn.ConvTranspose2d)]
    assert len(up) == 5
    for m in up: # theirs has a bias before a normalisation, which takes it off again
        nn.init.normal_(m[0].bias)
        m[1].running_mean.sub_(m[0].bias.detach())
        m[0].bias.data.zero_()
    state = theirs.state_dict()
    order = [k for k in state if k.startswith('encoder.')]
    order += [k for k in state if k.startswith('segmentation_head')]
    for i in range(5)[::-1]: order += [k for k in state if k.startswith(f'decoder.blocks.{i}.')]
    gone = {k for k in state if k.endswith('block.1.0.bias')}
    ours = linknet(5, encoder, stem_link=True)
    ours.load_state_dict(dict(zip(ours.state_dict(), [state[k] for k in order if k not in gone],
        strict=True)))
    x = torch.randn(2, 3, 96, 160)
    with torch.no_grad(): assert close(ours.eval()(x), theirs(x))

@pytest.mark.parametrize('kernel_size, stride', [(3, 1), (3, 2), (4, 2)])
def test_a_block_enlarges_exactly(kernel_size, stride):
    x = torch.randn(1, 8, 5, 7)
    assert LinkBlock(8, 6, kernel_size, stride)(x).shape == (1, 6, 5*stride, 7*stride)

@pytest.mark.parametrize('encoder, stem_link, linked', [('resnet18', False, 5),
    ('resnet18', True, 5), ('vgg11_bn', False, 5), ('mobilenetv3_small_050', True, 5),
    ('timm/convnext_atto', False, 4)])
def test_sizes_and_gradients(encoder, stem_link, linked):
    torch.manual_seed(0)
    net = linknet(4, encoder, 1, stem_link=stem_link).train()
    assert len(net.linked) == linked
    h, w = 33, 47
    y = net(torch.randn(2, 1, h, w))
    assert y.shape == (2, 4, h, w)
    y.square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())
    assert net.eval()(torch.randn(1, 1, 1, 1)).shape == (1, 4, 1, 1)

def test_bad_input():
    with pytest.raises(SegbookError, match='width=0: expected channels'):
        linknet(3, 'resnet18', width=0)
    with pytest.raises(SegbookError, match=r'strides \[4, 8, 16, 32\], and none of \[2\]'):
        linknet(3, 'timm/convnext_atto', stem_link=True)
