"""DeepLab v3, v3+ and PointRend: layer by layer the networks of torchvision and
segmentation-models-pytorch, and a dense evaluation written out here; what cannot be built is
refused."""
import warnings
import pytest, torch
from torch import nn
from torch.nn import functional as F
from segbook.architectures.deeplabv3 import ASPP, PooledNorm
from segbook.architectures.deeplabv3plus import SeparableNormReLU
from segbook.architectures.pointrend import (cell_centres, class_uncertainty, most_uncertain,
    replaced, sample_points, training_cells)
from segbook.data import make_scenes, seg_dataloaders
from segbook.errors import SegbookError
from segbook.export import load_segmenter, save_segmenter
from segbook.inference import predict_image
from segbook.learner import seg_learner
from segbook.models import seg_model
from segbook.training import train_segmenter

ARCHS = 'deeplabv3', 'deeplabv3plus', 'pointrend'

def stirred(net, seed=0):
    "The network in evaluation mode, with statistics that are not 0 and 1"
    torch.manual_seed(seed)
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.normal_(m.running_mean, std=.1)
            nn.init.uniform_(m.running_var, .5, 1.5)
            nn.init.uniform_(m.weight, .5, 1.5)
            nn.init.normal_(m.bias, std=.1)
    return net.eval()

def filled(module, state):
    "Load the tensors of `state` in the order in which they stand"
    own = module.state_dict()
    assert [v.shape for v in own.values()] == [v.shape for v in state.values()]
    module.load_state_dict(dict(zip(own, state.values())))

def close(a, b):
    assert a.shape == b.shape
    assert (a - b).abs().max() <= 1e-5*b.abs().max(), float((a - b).abs().max()/b.abs().max())

def spread_as(ours, theirs):
    """Give the kernels of an encoder the distances of another; how many are changed. Theirs also
    spreads the kernel whose stride was taken out, which then misses cells it was trained for."""
    n, convs = 0, ([m for m in o.modules() if isinstance(m, nn.Conv2d)] for o in (ours, theirs))
    for a, b in zip(*convs):
        if a.dilation != b.dilation and a.kernel_size != (1, 1): n += 1
        a.dilation, a.padding = b.dilation, b.padding
    return n

# ---- DeepLab v3

def test_deeplabv3_is_torchvisions():
    from torchvision.models.segmentation import deeplabv3_resnet50
    torch.manual_seed(0)
    theirs = stirred(deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=5))
    ours = seg_model('deeplabv3', 5, 'resnet50', output_stride=8).eval()
    filled(ours, theirs.state_dict())
    x = torch.randn(1, 3, 65, 98)
    with torch.no_grad():
        maps = ours.encoder(x)
        close(maps[-1], theirs.backbone(x)['out'])
        close(ours.aspp(maps[-1]), theirs.classifier[0](maps[-1]))
        close(ours(x[..., :64, :96]), theirs(x[..., :64, :96])['out'])
        # theirs stretches 9 by 13 cells over other sizes, so that they lie over other pixels
        whole = F.pad(x, (0, 6, 0, 7), mode='replicate')
        close(ours(x), theirs(whole)['out'][..., :65, :98])

@pytest.mark.parametrize('output_stride, theirs_too', [(8, (12, 24, 36)), (16, (6, 12, 18))])
def test_deeplabv3_is_that_of_smp(output_stride, theirs_too):
    smp = pytest.importorskip('segmentation_models_pytorch')
    torch.manual_seed(1)
    theirs = stirred(smp.DeepLabV3('resnet18', encoder_weights=None, classes=4,
        encoder_output_stride=output_stride, decoder_atrous_rates=theirs_too,
        upsampling=output_stride))
    ours = seg_model('deeplabv3', 4, 'resnet18', output_stride=output_stride).eval()
    filled(ours, theirs.state_dict())
    assert spread_as(ours.encoder, theirs.encoder) == (1 if output_stride == 16 else 2)
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        features = theirs.encoder(x)[-1]
        close(ours.encoder(x)[-1], features)
        close(ours.head[0](ours.aspp(features)), theirs.decoder(theirs.encoder(x)))
        # theirs enlarges with the corners of both maps on each other
        want = F.interpolate(theirs.segmentation_head[0](theirs.decoder(theirs.encoder(x))),
            (64, 96), mode='bilinear')
        close(ours(x), want)

def test_aspp_by_hand():
    "Each branch, read with numpy-like loops over the nine numbers of its kernel"
    torch.manual_seed(2)
    aspp = stirred(ASPP(3, 4, (2, 5)))
    x = torch.randn(2, 3, 7, 9)
    norm = lambda m, v: ((v - m.running_mean[:, None, None])/(m.running_var + m.eps).sqrt()[:, None,
        None]*m.weight[:, None, None] + m.bias[:, None, None]).clamp(min=0)
    maps = [norm(aspp.branches[0][1], torch.einsum('oi,bihw->bohw',
        aspp.branches[0][0].weight[..., 0, 0], x))]
    for branch, rate in zip(aspp.branches[1:3], (2, 5)):
        wide, total = F.pad(x, [rate]*4), 0
        for i in range(3):
            for j in range(3):
                part = wide[..., i*rate:i*rate + 7, j*rate:j*rate + 9]
                total = total + torch.einsum('oi,bihw->bohw', branch[0].weight[..., i, j], part)
        maps.append(norm(branch[1], total))
    mean = torch.einsum('oi,bi->bo', aspp.branches[3][1].weight[..., 0, 0], x.mean((2, 3)))
    maps.append(norm(aspp.branches[3][2], mean[..., None, None].repeat(1, 1, 7, 9)))
    want = torch.einsum('oi,bihw->bohw', aspp.project[0][0].weight[..., 0, 0], torch.cat(maps, 1))
    with torch.no_grad(): close(aspp(x), norm(aspp.project[0][1], want))

def test_a_batch_of_one_image_is_trained():
    torch.manual_seed(3)
    norm, x = PooledNorm(4).train(), torch.randn(1, 4, 1, 1)
    nn.init.normal_(norm.running_mean)
    kept = norm.running_mean.clone()
    close(norm(x), (x - kept[:, None, None])/(1 + norm.eps)**.5)
    assert torch.equal(norm.running_mean, kept)
    two = torch.randn(2, 4, 1, 1)
    close(norm(two), F.batch_norm(two, None, None, training=True))
    assert not torch.equal(norm.running_mean, kept)
    for arch in ARCHS:
        net = seg_model(arch, 3, 'resnet18').train()
        net(torch.randn(1, 3, 33, 47)).square().mean().backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())

# ---- DeepLab v3+

def test_deeplabv3plus_and_that_of_smp():
    """Encoder, ASPP and reduction are theirs, but for the distances in one kernel; their decoder
    has one convolution before and one after the maps meet, ours (the paper's) two after; and they
    lay the corners of maps on each other."""
    smp = pytest.importorskip('segmentation_models_pytorch')
    torch.manual_seed(4)
    theirs = stirred(smp.DeepLabV3Plus('resnet18', encoder_weights=None, classes=4,
        decoder_atrous_rates=(6, 12, 18)))
    ours = seg_model('deeplabv3plus', 4, 'resnet18').eval()
    parts = [(ours.encoder, theirs.encoder), (ours.aspp, theirs.decoder.aspp[0]),
        (ours.decoder.reduce, theirs.decoder.block1),
        (ours.decoder.mix[0], theirs.decoder.block2),
        (ours.head, theirs.segmentation_head[0])]
    for a, b in parts: filled(a, b.state_dict())
    assert spread_as(ours.encoder, theirs.encoder) == 1
    before = stirred(SeparableNormReLU(256, 256))
    filled(before, nn.Sequential(*theirs.decoder.aspp[1:]).state_dict())
    x = torch.randn(2, 3, 64, 96)
    enlarged = lambda v, s: F.interpolate(v, scale_factor=s, mode='bilinear', align_corners=True)
    with torch.no_grad():
        maps, features = ours.encoder(x), theirs.encoder(x)
        close(maps[-1], features[-1])
        close(ours.aspp(maps[-1]), theirs.decoder.aspp[0](features[-1]))
        fine = ours.decoder.reduce(maps[ours.fine])
        close(fine, theirs.decoder.block1(features[2]))
        coarse = enlarged(before(ours.aspp(maps[-1])), 4)
        mixed = ours.decoder.mix[0](torch.cat([coarse, fine], 1))
        close(enlarged(ours.head(mixed), 4), theirs(x))

def test_the_decoder_by_hand():
    torch.manual_seed(5)
    net = stirred(seg_model('deeplabv3plus', 3, 'resnet18'))
    x = torch.randn(1, 3, 61, 83)
    with torch.no_grad():
        maps = net.encoder(F.pad(x, (0, 13, 0, 3), mode='replicate'))
        coarse = net.aspp(maps[-1]) # 4 by 6 cells; the fine map has 16 by 24
        coarse = F.interpolate(coarse, (16, 24), mode='bilinear')
        both = torch.cat([coarse, net.decoder.reduce(maps[1])], 1)
        logits = net.head(net.decoder.mix(both))
        close(net(x), F.interpolate(logits, (64, 96), mode='bilinear')[..., :61, :83])

def test_xception_is_an_encoder():
    net = seg_model('deeplabv3plus', 3, 'xception41').eval()
    assert net.encoder.strides == [2, 4, 8, 16]
    wide = [m for m in net.encoder.modules() if isinstance(m, nn.Conv2d)
        and m.dilation == (2, 2) and m.kernel_size == (3, 3)]
    assert wide and all(m.groups == m.in_channels for m in wide)
    with torch.no_grad(): assert net(torch.randn(1, 3, 33, 47)).shape == (1, 3, 33, 47)

# ---- PointRend

def dense(net, x):
    "The point head at each pixel: maps enlarged, and its layers as convolutions of 1 by 1"
    maps = net.encoder(x)
    coarse = net.head(net.aspp(maps[-1]))
    h, w = x.shape[-2:]
    grown = lambda v, s: F.interpolate(v, scale_factor=float(s), mode='bilinear')[..., :h, :w]
    y, coarse = grown(maps[net.fine], 4), grown(coarse, net.stride)
    for layer in [*net.point_head.hidden, net.point_head.last]:
        y = F.conv2d(torch.cat([y, coarse], 1), layer.weight[..., None], layer.bias)
        if layer is not net.point_head.last: y = y.clamp(min=0)
    return y

@pytest.mark.parametrize('size', [(64, 96), (61, 83), (33, 47)])
@pytest.mark.parametrize('output_stride', [8, 16])
def test_all_pixels_are_a_dense_evaluation(size, output_stride):
    torch.manual_seed(6)
    net = stirred(seg_model('pointrend', 5, 'resnet18', share=1., output_stride=output_stride))
    x = torch.randn(2, 3, *size)
    down, right = (-o % output_stride for o in size)
    whole = F.pad(x, (0, right, 0, down), mode='replicate')
    with torch.no_grad(): close(net(x), dense(net, whole)[..., :size[0], :size[1]])

def test_points_are_right_where_they_were_computed():
    torch.manual_seed(7)
    net, x = stirred(seg_model('pointrend', 5, 'resnet18')), torch.randn(1, 3, 64, 96)
    asked = []
    hook = net.point_head.register_forward_hook(lambda m, i, o: asked.append(i[0].shape[-1]))
    with torch.no_grad(): got, want = net(x), dense(net, x)
    hook.remove()
    assert asked == [96, 384, 384, 384] and sum(asked) <= 64*96/4
    same = ((got - want).abs() < 1e-4).all(1).sum()
    assert 384 <= same < 64*96/2

def test_training_pixels_come_from_the_point_head():
    torch.manual_seed(8)
    net, x = seg_model('pointrend', 5, 'resnet18', dropout=0.), torch.randn(2, 3, 64, 96)
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d): m.momentum = 0.
    with torch.no_grad():
        got = net.train()(x)
        maps = net.encoder(x)
        coarse = F.interpolate(net.head(net.aspp(maps[-1])), (64, 96), mode='bilinear')
        changed = ((got - coarse).abs() > 1e-5).any(1)
        assert changed.flatten(1).sum(1).tolist() == [384, 384]
        close(got[changed[:, None].expand_as(got)], dense(net, x)[changed[:, None].expand_as(got)])

def test_uncertainty_and_places():
    logits = torch.tensor([[[[3., 0.], [1., 2.]], [[1., 5.], [1., 2.5]], [[2., 4.], [-9., 0.]]]])
    assert torch.allclose(class_uncertainty(logits), torch.tensor([[[-1., -1.], [0., -.5]]]))
    assert class_uncertainty(torch.tensor([[[2., -.5]]])).tolist() == [[-2., -.5]]
    assert sorted(most_uncertain(logits, 2)[0].tolist()) == [2, 3]
    assert cell_centres(torch.tensor([[0, 4]]), 3, 4).tolist() == [[[2., 2.], [6., 6.]]]
    moved = replaced(logits, torch.tensor([[3]]), torch.tensor([[[7.], [8.], [9.]]]))
    assert moved[0, :, 1, 1].tolist() == [7, 8, 9]
    assert torch.equal(moved[..., 0, :], logits[..., 0, :])

def test_samples_lie_between_cells():
    "By the four neighbours of a point and their shares; outside, the cells of the edge"
    torch.manual_seed(9)
    cells, points = torch.randn(1, 2, 4, 5), torch.rand(1, 40, 2)*torch.tensor([24., 20.]) - 2
    got = sample_points(cells, points, 4)
    for k, (x, y) in enumerate(points[0].tolist()):
        u, v = min(max(x/4 - .5, 0), 4), min(max(y/4 - .5, 0), 3)
        i, j = min(int(v), 2), min(int(u), 3)
        a, b = v - i, u - j
        want = ((1 - a)*(1 - b)*cells[0, :, i, j] + (1 - a)*b*cells[0, :, i, j + 1]
            + a*(1 - b)*cells[0, :, i + 1, j] + a*b*cells[0, :, i + 1, j + 1])
        assert torch.allclose(got[0, :, k], want, atol=1e-5)

def test_training_cells():
    torch.manual_seed(10)
    logits = torch.zeros(3, 2, 20, 30)
    logits[:, 0] = 4
    logits[..., :4, :] = 0 # a fifth of the cells is undecided
    cells = training_cells(logits, 60)
    assert all(len({*c}) == 60 for c in cells.tolist())
    assert [sum(c < 120 for c in row) for row in cells.tolist()] > [30]*3 # 24 in 180 drawn, or more
    assert sorted(training_cells(logits, 600)[0].tolist()) == list(range(600))
    assert training_cells(logits[..., :1, :1], 1).tolist() == [[0]]*3

# ---- what the house asks of all

@pytest.mark.parametrize('arch', ARCHS)
@pytest.mark.parametrize('bad, why', [(dict(output_stride=32), 'expected 8 or 16'),
    (dict(rates=()), 'such as'), (dict(rates=(6, 0)), 'such as'), (dict(rates=6), 'such as'),
    (dict(encoder='vit_tiny_patch16_224'), 'one resolution'), (dict(n_classes=0), 'n_classes=0')])
def test_refused(arch, bad, why):
    with pytest.raises(SegbookError, match=why), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        seg_model(arch, **dict(n_classes=3, encoder='resnet18') | bad)

def test_an_encoder_whose_stride_stays():
    with pytest.raises(SegbookError, match='the last one was to be 8'):
        seg_model('deeplabv3', 3, 'swin_tiny_patch4_window7_224', output_stride=8)

@pytest.mark.parametrize('share', [0, -.1, 1.5, True, None, '1'])
def test_a_share_is_a_share(share):
    with pytest.raises(SegbookError, match='a share of the pixels'):
        seg_model('pointrend', 3, 'resnet18', share=share)

def test_no_fine_map():
    class Coarse(nn.Sequential): pass
    with pytest.raises(SegbookError, match='none of'), pytest.MonkeyPatch.context() as m:
        m.setattr('segbook.architectures.blocks.encoder_body', lambda *_: Coarse(
            nn.Conv2d(3, 4, 3, 8, 1), nn.Conv2d(4, 4, 3, 2, 1)))
        seg_model('deeplabv3plus', 3, 'resnet18')

@pytest.mark.parametrize('arch', ARCHS[1:])
def test_trained_saved_and_loaded(arch, tmp_path):
    scenes = make_scenes(tmp_path/'scenes', n=9, size=(32, 48), seed=1)
    dls = seg_dataloaders(scenes, bs=3, seed=1)
    learn = seg_learner(dls, arch, 'mobilenetv3_small_050', pretrained=False,
        model_kwargs=dict(rates=[1, 2], output_stride=8))
    with learn.no_bar(), learn.no_logging():
        rows = train_segmenter(learn, 1, 3e-3, folder=tmp_path/'run')
    assert rows and sum(p.numel() for g in learn.splitter(learn.model) for p in g) == sum(
        p.numel() for p in learn.model.parameters())
    save_segmenter(learn, tmp_path/'model')
    file = dls.valid_ds.items[0]
    assert torch.equal(predict_image(load_segmenter(tmp_path/'model'), file),
        predict_image(learn, file))
    facts = tmp_path/'model'/'segmenter.json'
    facts.write_text(facts.read_text().replace('"output_stride": 8', '"output_stride": 4'))
    with pytest.raises(SegbookError, match='output_stride is 4, expected 8 or 16'):
        load_segmenter(tmp_path/'model')
