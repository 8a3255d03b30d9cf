"""PSPNet: pooling by hand, the network of segmentation-models-pytorch, the auxiliary loss."""
import pytest, torch
from networks import close, unsettled
from torch import nn
from torch.nn import functional as F
from segbook.architectures.blocks import encoder_body
from segbook.architectures.pspnet import PyramidPooling, pspnet
from segbook.errors import SegbookError

@pytest.mark.parametrize('size', [(6, 6), (12, 18), (7, 11), (1, 1), (2, 9)])
def test_pooling_by_loops(size):
    "Regions from floor(i*h/n) to ceil((i+1)*h/n), then the branch's convolution"
    torch.manual_seed(0)
    pool, x, (h, w) = unsettled(PyramidPooling(8, 5)), torch.randn(2, 8, *size), size
    parts = [x]
    with torch.no_grad():
        for n, branch in zip((1, 2, 3, 6), pool.branches):
            means = torch.zeros(2, 8, n, n)
            for i in range(n):
                for j in range(n):
                    rows, cols = slice(i*h//n, -(-(i + 1)*h//n)), slice(j*w//n, -(-(j + 1)*w//n))
                    means[..., i, j] = x[..., rows, cols].mean((2, 3))
            parts.append(F.interpolate(branch[1](means), size, mode='bilinear'))
        assert [o.shape[1] for o in parts] == [8, 2, 2, 2, 2]
        assert close(pool(x), pool.mix(torch.cat(parts, 1)))

def test_shallow_is_the_network_of_smp(monkeypatch):
    "All layers, weights mapped over; theirs lays corners on corners, so ours does here, too"
    smp = pytest.importorskip('segmentation_models_pytorch')
    torch.manual_seed(1)
    theirs = unsettled(smp.PSPNet('resnet34', encoder_weights=None, classes=5))
    ours = pspnet(5, 'resnet34', shallow=True)
    values = [v for k, v in theirs.state_dict().items() if not k.startswith(('encoder.layer3',
        'encoder.layer4'))]
    names = list(ours.state_dict())
    assert len(values) == len(names)
    ours.load_state_dict(dict(zip(names, values)))
    w = ours.pool.mix[0].weight.data # theirs has the encoder's map behind the branches
    w.copy_(torch.cat([w[:, 128:], w[:, :128]], 1))
    plain = F.interpolate
    def corners(*args, **kw):
        if kw.get('mode') == 'bilinear': kw['align_corners'] = True
        return plain(*args, **kw)
    monkeypatch.setattr(F, 'interpolate', corners)
    x = torch.randn(2, 3, 96, 160)
    with torch.no_grad(): assert close(ours.eval()(x), theirs(x))

def test_the_papers_network_layer_by_layer():
    "torchvision's dilated ResNet-50, pooling and head written out"
    import torchvision
    torch.manual_seed(2)
    body = torchvision.models.resnet50(replace_stride_with_dilation=[False, True, True])
    unsettled(body)
    net = unsettled(pspnet(4, 'resnet50', width=24, aux=True))
    values = list(body.state_dict().values())[:-2]
    net.encoder.load_state_dict(dict(zip(net.encoder.state_dict(), values)))
    x, mask = torch.randn(2, 3, 64, 80), torch.randint(0, 4, (2, 64, 80))
    with torch.no_grad():
        early = nn.Sequential(*list(body.children())[:-3])(x)
        y = body.layer4(early)
        assert y.shape == (2, 2048, 8, 10)
        parts = [y]
        for n, o in zip((1, 2, 3, 6), net.pool.branches):
            o = o[1](F.adaptive_avg_pool2d(y, n))
            assert o.shape == (2, 512, n, n)
            parts.append(F.interpolate(o, (8, 10), mode='bilinear'))
        main = F.interpolate(net.head[1](net.pool.mix(torch.cat(parts, 1))), (64, 80),
            mode='bilinear')
        aux = F.interpolate(net.aux_head(early), (64, 80), mode='bilinear')
        assert close(net(x), main)
        want = F.cross_entropy(main, mask) + .4*F.cross_entropy(aux, mask)
        assert torch.allclose(net.training_loss(x, mask), want, 1e-5)
        double = net.training_loss(x, mask, lambda z, t: 2*F.cross_entropy(z, t), weight=0)
        assert torch.allclose(double, 2*F.cross_entropy(main, mask), 1e-5)

@pytest.mark.parametrize('encoder, aux', [('resnet18', False), ('vgg11_bn', True),
    ('mobilenetv3_small_050', True)])
def test_sizes_gradients_and_a_last_batch_of_one(encoder, aux):
    torch.manual_seed(0)
    net, plain = pspnet(4, encoder, 1, width=16, aux=aux).train(), encoder_body(encoder, 1)
    x, mask = torch.randn(1, 1, 33, 47), torch.randint(0, 4, (1, 33, 47))
    y = net(x)
    assert y.shape == (1, 4, 33, 47)
    loss = net.training_loss(x, mask) if aux else F.cross_entropy(y, mask)
    loss.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())
    assert net.eval()(torch.randn(1, 1, 1, 1)).shape == (1, 4, 1, 1)
    assert net.encoder.state_dict().keys() == {f'body.{k}' for k in plain.state_dict()}

@pytest.mark.parametrize('output_stride, side', [(8, 12), (16, 6), (32, 3)])
def test_output_stride(output_stride, side):
    net = pspnet(2, 'resnet18', output_stride=output_stride, aux=True).eval()
    with torch.no_grad(): maps = net.encoder(torch.randn(1, 3, 96, 96))
    assert maps[-1].shape == (1, 512, side, side)
    early = max(6, side)
    assert maps[net.early].shape == (1, 256, early, early)

@pytest.mark.parametrize('options, why', [(dict(output_stride=4), 'expected 8, 16 or 32'),
    (dict(width=0), 'width=0'), (dict(dropout=1), 'dropout=1'),
    (dict(shallow=True, aux=True), 'aux=False with it'),
    (dict(shallow=True, output_stride=16), 'output_stride=8 and'),
    (dict(encoder='mobilenetv3_small_050', shallow=True), 'comes from timm'),
    (dict(encoder='convnext_tiny'), 'cannot serve')])
def test_bad_options(options, why):
    with pytest.raises(SegbookError, match=why): pspnet(3, **{'encoder': 'resnet18', **options})

def test_without_the_head_there_is_no_such_loss():
    assert not hasattr(pspnet(3, 'resnet18'), 'training_loss')
