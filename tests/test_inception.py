"GoogLeNet and Inception as encoders of segmentation networks."
import warnings
import pytest, torch, torchvision
from torch import nn
from segbook.architectures.blocks import EncoderPyramid, encoder_body
from segbook.encoders import encoder_stats, find_encoder
from segbook.models import seg_model

@pytest.fixture(scope='module')
def google():
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        net = torchvision.models.googlenet(weights=None, init_weights=False, aux_logits=True)
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.normal_(m.running_mean, std=.1)
            nn.init.uniform_(m.running_var, .5, 2)
    return net.eval()

def test_googlenet_is_torchvisions_without_classifiers(google):
    body = encoder_body('googlenet').eval()
    state = {k: v for k, v in google.state_dict().items() if not k.startswith(('aux', 'fc'))}
    body.load_state_dict(dict(zip(body.state_dict(), state.values(), strict=True)))
    x = torch.randn(2, 3, 97, 130)
    with torch.no_grad():
        want = google(x)
        got = google.fc(body(x).mean((2, 3)))
    assert torch.allclose(got, want, 1e-5, 1e-5*want.abs().max().item())
    pyramid = EncoderPyramid(body)
    assert pyramid.strides == [2, 4, 8, 16, 32]
    assert pyramid.channels == [64, 192, 480, 832, 1024]

def test_where_they_come_from():
    assert find_encoder('googlenet') == ('torchvision', 'googlenet')
    assert find_encoder('inception_v3') == ('timm', 'inception_v3')
    assert encoder_stats('googlenet') == encoder_stats('inception_v3') == ([.5]*3, [.5]*3)

@pytest.mark.parametrize('encoder', ['googlenet', 'inception_v3'])
@pytest.mark.parametrize('arch', ['fpn', 'linknet', 'dynamic_unet_lean'])
def test_they_serve(encoder, arch):
    torch.manual_seed(0)
    net = seg_model(arch, 3, encoder, 1)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        y = net.train()(torch.randn(2, 1, 97, 130))
    assert y.shape == (2, 3, 97, 130)
    y.square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())
