"""Architectures by name: sizes, channels, gradients, prediction in parts, folder of the model."""
import warnings
import pytest, torch
from torch import nn
from segbook.architectures.blocks import EncoderPyramid, cut_to, enlarged_to
from segbook.architectures.dynamic_unet_lean import LeanUnet
from segbook.errors import SegbookError
from segbook.export import load_segmenter, save_segmenter
from segbook.inference import predict_image
from segbook.learner import seg_learner
from segbook.models import MODELS, has_own_encoder, seg_model
from segbook.tiles import answer_parts
from segbook.data import make_scenes, seg_dataloaders
import segbook.tiles as tiles

# halve and round up; round down; begin with squares of 4; windows; rearrange the image; in steps
ENCODERS = ('resnet18', 'vgg11_bn', 'timm/convnext_atto', 'pvt_v2_b0', 'cs3darknet_focus_s',
    'hrnet_w18_small', 'mobilenetv3_small_050', 'densenet121')
SIZES = (1, 1), (31, 33), (96, 128)

@pytest.mark.parametrize('encoder', ENCODERS)
def test_lean_takes_any_size(encoder):
    torch.manual_seed(0)
    net = seg_model('dynamic_unet_lean', 3, encoder, 4).eval()
    for h, w in SIZES:
        net.zero_grad()
        x = torch.randn(2, 4, h, w, requires_grad=True)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            y = net(x)
        assert y.shape == (2, 3, h, w) and type(y) is torch.Tensor
        y.square().sum().backward()
        assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)
        assert (x.grad.abs().sum(1) > 0).float().mean() > .2

def test_lean_by_hand():
    "The same numbers as a U-Net written out, layer by layer, for ResNet-18 and a side of 2^k - 1"
    torch.manual_seed(1)
    net = seg_model('dynamic_unet_lean', 5, 'resnet18').eval()
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d): nn.init.normal_(m.running_mean)
    x, e = torch.randn(1, 3, 63, 127), net.encoder.body
    with torch.no_grad():
        a = e[2](e[1](e[0](x)))
        b = e[4](e[3](a))
        c, d = e[5](b), e[6](e[5](b))
        y = e[7](d)
        for block, skip in zip(net.blocks, (d, c, b, a)):
            y = y.repeat_interleave(2, 2).repeat_interleave(2, 3)
            y = y[:, :, :skip.shape[2], :skip.shape[3]]
            y = block.mix(torch.cat((y, block.norm(skip)), 1))
        y = nn.functional.pixel_shuffle(net.full_size.up(y), 2)[:, :, :63, :127]
        want = net.head(net.full_size.mix(torch.cat((y, x), 1)))
        assert torch.allclose(net(x), want, atol=1e-5)

def test_widths_are_those_asked_for():
    net = seg_model('dynamic_unet_lean', 3, 'resnet18', widths=(40, 20), detail=10)
    assert [b.mix[1][0].out_channels for b in net.blocks] == [40, 20, 20, 20]
    assert net.head.in_channels == 10
    for bad in (dict(widths=()), dict(widths=(8, 0)), dict(widths=64), dict(widths=(8.5,)),
            dict(detail=0), dict(detail=None)):
        with pytest.raises(SegbookError, match='such as widths='):
            seg_model('dynamic_unet_lean', 3, 'resnet18', **bad)

@pytest.mark.parametrize('arch', [o for o in MODELS if not has_own_encoder(o)])
@pytest.mark.parametrize('encoder, why', [('vit_tiny_patch16_224', 'one resolution'),
    ('halonet26t', 'AssertionError'), ('resnet81', 'there is no encoder')])
def test_refused_when_built(arch, encoder, why):
    with pytest.raises(SegbookError, match=why): seg_model(arch, 3, encoder)

def test_an_encoder_without_steps_is_refused():
    flat = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, stride=2, padding=1))
    with pytest.raises(ValueError, match='its maps have the widths'): EncoderPyramid(flat)

def test_the_mode_of_the_encoder_stays():
    body = nn.Sequential(*[nn.Sequential(nn.Conv2d(3, 3, 3, 2, 1), nn.BatchNorm2d(3))
        for _ in range(3)]).train()
    before = [o.clone() for o in body.buffers()]
    assert EncoderPyramid(body).scales == [2, 2, 2] and body.training
    assert all(torch.equal(a, b) for a, b in zip(before, body.buffers()))

@pytest.mark.parametrize('scale', [2, 3, 4])
@pytest.mark.parametrize('more', [-1, 0, 2])
def test_cells_stay_over_their_pixels(scale, more):
    x, h, w = torch.rand(2, 3, 4, 5), 4*scale + more, 5*scale + more
    got = enlarged_to(x, scale, (h, w))
    for i in range(h):
        for j in range(w):
            assert torch.equal(got[..., i, j], x[..., min(i//scale, 3), min(j//scale, 4)])
    assert cut_to(x, (4, 5)).shape == x.shape

@pytest.mark.parametrize('size', [(353, 417), (512, 300)])
def test_lean_in_parts_is_the_whole(size, monkeypatch):
    "A network with clean strides divides into tiles whose answers are those of one pass"
    torch.manual_seed(0)
    net = seg_model('dynamic_unet_lean', 4, 'resnet18', widths=(8, 8, 8, 8), detail=4).eval()
    x = torch.rand(1, 3, *size)
    monkeypatch.setattr(tiles, 'MOST_BYTES', 1 << 20)
    with torch.no_grad(): whole = net(x)[0]
    got = torch.full_like(whole, float('nan'))
    for top, left, part in answer_parts(net, x):
        got[:, top:top + part.shape[1], left:left + part.shape[2]] = part
    assert torch.allclose(got, whole, atol=1e-5)

@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    return make_scenes(tmp_path_factory.mktemp('scenes')/'scenes', n=10, size=(32, 48), seed=1)

def test_a_trained_lean_net_is_saved_and_loaded(scenes, tmp_path):
    dls = seg_dataloaders(scenes, bs=4, seed=1)
    learn = seg_learner(dls, 'dynamic_unet_lean', 'mobilenetv3_small_050', pretrained=False,
        model_kwargs=dict(widths=[16, 16, 8, 8], detail=8))
    assert isinstance(learn.model, LeanUnet)
    a, b = (sum(p.numel() for p in g) for g in learn.splitter(learn.model))
    assert a == sum(p.numel() for p in learn.model.encoder.parameters())
    assert a + b == sum(p.numel() for p in learn.model.parameters())
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(1, 1e-3)
    save_segmenter(learn, tmp_path/'model')
    file = dls.valid_ds.items[0]
    assert torch.equal(predict_image(load_segmenter(tmp_path/'model'), file),
        predict_image(learn, file))
    facts = tmp_path/'model'/'segmenter.json'
    facts.write_text(facts.read_text().replace('"detail": 8', '"detail": 0'))
    with pytest.raises(SegbookError, match='detail is 0, expected channels'):
        load_segmenter(tmp_path/'model')
