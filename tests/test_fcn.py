"""FCN: torchvision's network with its weights, the paper's size and field, sums written out."""
import pytest, torch, torchvision
from torch import nn
from torch.nn import functional as F
from segbook.architectures.fcn import Doubled, fcn, fcn_head
from segbook.errors import SegbookError
from segbook.receptive_field import receptive_field

def test_torchvision():
    "fcn_resnet50 has dilation in place of skips; all of its weights, equal at multiples of 8"
    torch.manual_seed(0)
    theirs = torchvision.models.segmentation.fcn_resnet50(weights=None, weights_backbone=None,
        num_classes=7, aux_loss=False).eval()
    ours = fcn(7, 'resnet50', dilated=True).eval()
    for m in theirs.modules():
        if isinstance(m, nn.BatchNorm2d): nn.init.uniform_(m.running_var, .5, 2)
    values = iter(theirs.state_dict().values())
    ours.load_state_dict({k: next(values) for k in ours.state_dict()})
    assert next(values, None) is None
    for size in ((64, 96), (48, 40)):
        x = torch.randn(2, 3, *size)
        with torch.no_grad(): a, b = ours(x), theirs(x)['out']
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-5*b.abs().max())

def test_double_begins_as_bilinear():
    x = torch.randn(2, 5, 4, 7)
    want = F.interpolate(x, scale_factor=2., mode='bilinear')
    assert torch.allclose(Doubled(5)(x), want, atol=1e-6)
    assert Doubled(5).weight.shape == (5, 1, 4, 4)
    assert torch.allclose(Doubled(1)(x[:1, :1, :1, :1]), x[:1, :1, :1, :1].expand(1, 1, 2, 2))

@pytest.mark.parametrize('stride', [8, 16, 32])
def test_by_hand(stride):
    "ResNet-18's maps, scored and summed step by step, on sides that no stride divides"
    torch.manual_seed(1)
    net = fcn(4, 'resnet18', stride=stride).eval()
    for p in net.scores.parameters(): nn.init.normal_(p)
    for up in net.doubled: nn.init.normal_(up.weight)
    x, b = torch.randn(1, 3, 70, 101), net.encoder.body
    with torch.no_grad():
        y, skips = x, {}
        for i, layer in enumerate(b):
            y = layer(y)
            if i in (5, 6): skips[{5: 8, 6: 16}[i]] = y
        y = net.head(y)
        at = 32
        while at > stride:
            at //= 2
            k = [8, 16].index(at) if stride == 8 else 0
            border = F.pad(y, (1, 1, 1, 1), mode='replicate')
            y = F.conv_transpose2d(border, net.doubled[k].weight, stride=2, groups=4)
            y = y[..., 3:-3, 3:-3]
            s = skips[at]
            y = y[..., :s.shape[2], :s.shape[3]] + F.conv2d(s, net.scores[k].weight,
                net.scores[k].bias)
        h, w = y.shape[-2:]
        y = F.interpolate(y, (h*stride, w*stride), mode='bilinear')[..., :70, :101]
        assert torch.allclose(net(x), y, atol=1e-5)
    assert len(net.scores) == {32: 0, 16: 1, 8: 2}[stride]

def test_begins_as_the_coarser_one():
    "Scores of skips are zero at first: FCN-8s says what its last map says, enlarged in three steps"
    torch.manual_seed(2)
    net = fcn(4, 'resnet18').eval()
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        y = net.head(net.encoder(x)[-1])
        for scale in (2., 2., 8.): y = F.interpolate(y, scale_factor=scale, mode='bilinear')
        assert torch.allclose(net(x), y, atol=1e-5)

def test_size_of_the_paper():
    "Table 1: 134 M parameters, 16 convolutional layers, a field of 404 pixels"
    with torch.device('meta'):
        head = fcn_head(512, 21, 4096)
        vgg = torchvision.models.vgg16().features
    net = nn.Sequential(vgg, head)
    assert sum(p.numel() for p in net.parameters())//10**6 == 134
    assert sum(isinstance(m, nn.Conv2d) for m in net.modules()) == 13 + 3 # two and the scores
    assert receptive_field(net, (512, 512)).size == (404, 404)

@pytest.mark.parametrize('kw', [{}, dict(dilated=True, stride=16), dict(stride=16, hidden=12)])
def test_every_parameter_learns(kw):
    torch.manual_seed(3)
    net = fcn(3, 'resnet18', 4, **kw).train()
    y = net(torch.rand(2, 4, 33, 47))
    assert y.shape == (2, 3, 33, 47)
    F.cross_entropy(y, torch.randint(0, 3, (2, 33, 47))).backward()
    assert all(p.grad is not None for p in net.parameters())
    assert next(net.encoder.parameters()).grad.abs().sum() > 0

@pytest.mark.parametrize('encoder', ['vgg11_bn', 'timm/convnext_atto'])
def test_other_encoders(encoder):
    net = fcn(2, encoder, 1).eval()
    with torch.no_grad(): assert net(torch.rand(1, 1, 37, 65)).shape == (1, 2, 37, 65)

def test_bad_input():
    for kw, what in ((dict(stride=4), 'expected 32, 16 or 8'), (dict(hidden=0), 'hidden=0'),
            (dict(stride='8s'), 'expected 32, 16 or 8')):
        with pytest.raises(SegbookError, match=what): fcn(3, 'resnet18', **kw)
    with pytest.raises(SegbookError, match='one resolution'): fcn(3, 'vit_tiny_patch16_224')
