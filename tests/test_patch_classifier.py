"""The classifier of windows: one pass equals sliding, border included, for windows cut by hand."""
import pytest, torch
from torch import nn
from segbook.architectures.patch_classifier import (WINDOW, PatchClassifier, as_convolutions,
    mirrored, patch_classifier, patch_network, without_strides,)
from segbook.errors import SegbookError

def lively(net, seed=0):
    "Statistics of normalisation that differ from 0 and 1"
    torch.manual_seed(seed)
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.normal_(m.running_mean, std=.3)
            nn.init.uniform_(m.running_var, .5, 2)
    return net.eval()

def mirror_index(i, n):
    "The pixel that stands at place i of an endless row of mirror images of n pixels, step by step"
    at, step = 0, 1
    for _ in range(abs(i)):
        if n == 1: return 0
        if at + step in (-1, n): step = -step
        at += step
    return at

def window_at(image, i, j):
    "The window around pixel i, j of [C,H,W], its pixels picked one by one"
    reach = range(-(WINDOW//2), WINDOW//2 + 1)
    rows = [mirror_index(i + d, image.shape[1]) for d in reach]
    cols = [mirror_index(j + d, image.shape[2]) for d in reach]
    return image[:, rows][:, :, cols]

def test_mirror_index():
    assert [mirror_index(i, 3) for i in range(-5, 6)] == [1, 0, 1, 2, 1, 0, 1, 2, 1, 0, 1]

@pytest.mark.parametrize('size', [(1, 1), (1, 7), (2, 3), (33, 47), (50, 22), (23, 23)])
@pytest.mark.parametrize('pixels', [0, 1, 22])
def test_mirrored(size, pixels):
    x = torch.rand(2, 3, *size)
    got = mirrored(x, pixels)
    rows, cols = ([mirror_index(i, n) if i >= 0 else mirror_index(-i, n)
        for i in range(-pixels, n + pixels)] for n in size)
    assert torch.equal(got, x[:, :, rows][..., cols])

@pytest.mark.parametrize('size, channels', [((1, 1), 3), ((33, 47), 3), ((50, 60), 1),
    ((5, 60), 4)])
def test_one_pass_is_sliding(size, channels):
    torch.manual_seed(1)
    net = lively(patch_network(5, channels, width=4))
    model = patch_classifier(5, in_channels=channels, width=4)
    # the same weights, in the same order
    for p, q in zip(model.state_dict().values(), net.state_dict().values(), strict=True):
        p.copy_(q.view_as(p))
    x = torch.rand(2, channels, *size)
    h, w = size
    places = {(0, 0), (0, w - 1), (h - 1, 0), (h - 1, w - 1), (h//2, w//2), (h//3, w//4)}
    with torch.no_grad():
        got = model.eval()(x)
        assert got.shape == (2, 5, *size)
        for i, j in places:
            want = net(torch.stack([window_at(o, i, j) for o in x]))
            assert torch.allclose(got[:, :, i, j], want, rtol=1e-5, atol=1e-6)

def test_strided_answers_are_every_eighth():
    net = lively(patch_network(4, width=4), seed=2)
    convs = as_convolutions(net)
    dense = without_strides(convs)
    x = torch.rand(1, 3, 70, 90)
    with torch.no_grad(): coarse, fine = convs(x), dense(x)
    assert fine.shape[-2:] == (70 - 44, 90 - 44) and coarse.shape[-2:] == (4, 6)
    assert torch.allclose(fine[..., ::8, ::8], coarse, atol=1e-6)
    # the network given keeps its strides
    assert [m.stride for m in net.modules() if isinstance(m, nn.MaxPool2d)] == [2, 2, 2]
    assert all(m.dilation == (1, 1) for m in convs.modules() if isinstance(m, nn.Conv2d))

def test_every_parameter_learns():
    model = patch_classifier(3).train()
    model(torch.rand(1, 3, 33, 47)).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    assert isinstance(model, PatchClassifier)

def test_bad_input():
    for kw, what in ((dict(pretrained=True), 'no pretrained weights'),
            (dict(width=0), 'width=0'), (dict(width=2.5), 'width=2.5')):
        with pytest.raises(SegbookError, match=what): patch_classifier(3, **kw)
