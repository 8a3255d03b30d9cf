"""DeepLab v1 and v2, and the conditional random field against one with two loops over pixels."""
import numpy as np
import pytest, torch
import torch.nn.functional as F
from segbook.architectures.deeplab import alike_sum, deeplab, dense_crf, near_sum
from segbook.errors import SegbookError
from segbook.models import seg_model

@pytest.fixture(autouse=True)
def same_numbers(): torch.manual_seed(0)

def test_the_numbers_of_the_paper():
    "VGG-16 with LargeFOV: 20.5 M parameters, and output stride 8"
    net = deeplab(21, 'vgg16').eval()
    assert round(sum(p.numel() for p in net.parameters())/1e6, 1) == 20.5
    assert net.encoder.strides[-1] == 8
    convs = [m for m in net.modules() if isinstance(m, torch.nn.Conv2d)]
    assert [c.dilation[0] for c in convs] == [1]*10 + [2]*3 + [12, 1, 1]
    pools = [m for m in net.modules() if isinstance(m, torch.nn.MaxPool2d)]
    assert [(p.kernel_size, p.stride) for p in pools] == [(2, 2)]*3 + [(3, 1)]*2

def test_vgg_by_hand():
    "VGG-16 of torchvision with its last two poolings changed, and the head, with plain functions"
    net, x = deeplab(4, 'vgg16', width=32).eval(), torch.randn(1, 3, 64, 96)
    w = iter([m for m in net.modules() if isinstance(m, torch.nn.Conv2d)])
    def conv(x, d): return F.relu(F.conv2d(x, (c := next(w)).weight, c.bias, padding=d, dilation=d))
    y = x
    for n, d, pool in ((2, 1, (2, 2, 0)), (2, 1, (2, 2, 0)), (3, 1, (2, 2, 0)), (3, 1, (3, 1, 1)),
            (3, 2, (3, 1, 1))):
        for _ in range(n): y = conv(y, d)
        y = F.max_pool2d(y, *pool)
    assert y.shape[-2:] == (8, 12)
    y = conv(y, 12)
    y, last = F.relu(F.conv2d(y, (c := next(w)).weight, c.bias)), next(w)
    want = F.interpolate(F.conv2d(y, last.weight, last.bias), (64, 96), mode='bilinear')
    with torch.no_grad(): got = net(x)
    assert torch.allclose(got, want, rtol=1e-5, atol=1e-5*want.abs().max().item())

def test_second_version_adds_four_heads():
    net = deeplab(3, 'resnet18', version=2, width=16).eval()
    x = torch.randn(1, 512, 30, 30)
    want = 0
    with torch.no_grad():
        for branch, rate in zip(net.head.branches, (6, 12, 18, 24)):
            a, b, c = (branch[i] for i in (0, 3, 6))
            y = F.relu(F.conv2d(x, a.weight, a.bias, padding=rate, dilation=rate))
            want = want + F.conv2d(F.relu(F.conv2d(y, b.weight, b.bias)), c.weight, c.bias)
        assert torch.allclose(net.head(x), want, atol=1e-5)

@pytest.mark.parametrize('encoder, version', [('resnet18', 2), ('vgg11_bn', 1), ('densenet121', 1),
    ('mobilenetv3_small_050', 2)])
def test_encoders_and_sizes(encoder, version):
    net = seg_model('deeplab', 3, encoder, 1, version=version, width=8).eval()
    with torch.no_grad():
        for size in ((1, 1), (33, 47)): assert net(torch.rand(1, 1, *size)).shape[-2:] == size

@pytest.mark.parametrize('bad, why', [(dict(n_classes=0), 'n_classes=0'),
    (dict(version=3), 'deeplabv3'), (dict(version=True), 'version=True'),
    (dict(width=0), 'width=0'), (dict(dropout=1.), 'dropout'),
    (dict(encoder='vit_tiny_patch16_224'), 'one resolution'),
    (dict(encoder='resnet81'), 'no encoder'), (dict(encoder='convnext_tiny'), 'cannot')])
def test_bad_numbers(bad, why):
    with pytest.raises(SegbookError, match=why): deeplab(**{'n_classes': 2, **bad})

# ---- the random field

def brute_step(image, logits, alike, position, colour, near, reach):
    "One step of the mean field, pixel by pixel: O(N²), from the paper's equations"
    K, H, W = logits.shape
    p = np.exp(logits)/np.exp(logits).sum(0)
    pixels = [(i, j) for i in range(H) for j in range(W)]
    def far(a, b): return (a[0] - b[0])**2 + (a[1] - b[1])**2
    def tone(a, b): return sum((float(c[a]) - float(c[b]))**2 for c in image)
    kernels = [(alike, lambda a, b: np.exp(-far(a, b)/2/position**2 - tone(a, b)/2/colour**2)),
        (near, lambda a, b: np.exp(-far(a, b)/2/reach**2))]
    norms = [{a: sum(k(a, b) for b in pixels) for a in pixels} for _, k in kernels]
    answer = np.zeros_like(p)
    for a in pixels:
        said = np.zeros(K) # what the others say: weight times probability, class by class
        for b in pixels:
            if a == b: continue
            for (w, k), n in zip(kernels, norms):
                said += w*k(a, b)/np.sqrt(n[a]*n[b])*p[:, b[0], b[1]]
        energy = [-np.log(p[l][a]) + sum(said[m] for m in range(K) if m != l) for l in range(K)]
        q = np.exp(-np.array(energy))
        answer[:, a[0], a[1]] = q/q.sum()
    return answer

WEIGHTS = dict(alike=3., position=5., colour=20., near=1.5, reach=2.)

@pytest.fixture(scope='module')
def small():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (3, 16, 16)).astype(np.uint8)
    image[:, 4:11, 3:12] //= 8 # a dark square
    logits = rng.normal(size=(3, 16, 16))
    return image, logits, brute_step(image, logits, **WEIGHTS)

def test_one_step_is_the_brute_one(small):
    image, logits, want = small
    image, logits = torch.from_numpy(image)[None], torch.from_numpy(logits)[None]
    got = dense_crf(image, logits, steps=1, **WEIGHTS)[0]
    assert got.dtype == torch.float64 and np.abs(got.numpy() - want).max() < 1e-12
    for x in (image, image.float()/255):
        quick = dense_crf(x, logits.float(), steps=1, **WEIGHTS)[0]
        assert np.abs(quick.numpy() - want).max() < 1e-4

def test_two_steps(small):
    "The second step starts from the first's answer, and keeps the network's logits"
    image, logits, first = small
    x = torch.from_numpy(image)[None], torch.from_numpy(logits)[None]
    two = dense_crf(*x, steps=2, **WEIGHTS)[0]
    from_first = dense_crf(x[0], torch.from_numpy(np.log(first))[None], steps=1, **WEIGHTS)[0]
    # the same pull, another unary term: put the network's back
    log_q = from_first.log() - torch.from_numpy(np.log(first)) + x[1][0].log_softmax(0)
    assert torch.allclose(two, log_q.softmax(0), atol=1e-10)

def test_sums_by_pairs():
    q, f = torch.rand(2, 5, 7).double(), torch.rand(3, 5, 7).double()
    flat, at = f.flatten(1).T, torch.cartesian_prod(torch.arange(5.), torch.arange(7.)).double()
    def all_pairs(x):
        k = torch.exp(-torch.cdist(x, x)**2/2)
        return (q.flatten(1) @ (k - torch.eye(35))).view(2, 5, 7)
    assert torch.allclose(alike_sum(q, f), all_pairs(flat), atol=1e-6)
    assert torch.allclose(near_sum(q, 1.7), all_pairs(at/1.7), atol=1e-6)

def test_limits():
    "Without weights it is softmax; without steps too; a flat image and one class stay as they are"
    x, z = torch.rand(2, 3, 9, 12), torch.randn(2, 4, 9, 12)
    assert torch.allclose(dense_crf(x, z, alike=0, near=0), z.softmax(1), atol=1e-6)
    assert torch.allclose(dense_crf(x, z, steps=0), z.softmax(1), atol=1e-6)
    even = torch.tensor([2., 0, 0, 1]).view(1, 4, 1, 1).expand(1, 4, 9, 12)
    q = dense_crf(torch.zeros(1, 3, 9, 12), even)
    assert (q.argmax(1) == 0).all() and torch.allclose(q.sum(1), torch.ones(1, 9, 12))
    both = dense_crf(x, z)
    for i in range(2): assert torch.allclose(both[i:i + 1], dense_crf(x[i:i + 1], z[i:i + 1]))
    assert torch.allclose(dense_crf(x, z + 7.), both, atol=1e-5)
    for size in ((1, 1), (1, 6), (33, 47)):
        assert torch.isfinite(dense_crf(torch.rand(1, 1, *size), torch.randn(1, 2, *size))).all()

def test_a_lone_pixel_is_won_by_its_colour():
    "A wrong pixel inside a square of one colour takes the class of the square"
    image, z = torch.zeros(1, 3, 12, 12), torch.zeros(1, 2, 12, 12)
    image[..., 3:9, 3:9] = 1
    z[:, 0], z[:, 0, 3:9, 3:9] = 2., -2.
    truth = z.argmax(1)
    z[:, 0, 5, 5] = .5
    assert z.argmax(1)[0, 5, 5] == 0 and torch.equal(dense_crf(image, z).argmax(1), truth)

@pytest.mark.parametrize('every', [2, 4, 50])
def test_fewer_senders(every):
    "On smooth images a part of the pixels says nearly what all say"
    i, j = torch.meshgrid(torch.linspace(0, 1, 40), torch.linspace(0, 1, 48), indexing='ij')
    image = torch.stack([i, j, (i + j)/2])[None]
    z = torch.stack([torch.sin(6*i), torch.cos(5*j)])[None]
    args = dict(alike=4., colour=60., position=20., near=0.)
    a, b = dense_crf(image, z, **args), dense_crf(image, z, every=every, **args)
    assert torch.isfinite(b).all()
    if every < 5: assert (a - b).abs().mean() < .02 and (a - b).abs().max() < .1

@pytest.mark.parametrize('image, logits, why', [
    (torch.rand(3, 8, 8), torch.rand(1, 2, 8, 8), r'image is \(3, 8, 8\)'),
    (np.zeros((8, 8, 3)), torch.rand(1, 2, 8, 8), 'image is ndarray'),
    (torch.rand(1, 3, 8, 9), torch.rand(1, 2, 8, 8), 'of one size'),
    (torch.rand(2, 3, 8, 8), torch.rand(1, 2, 8, 8), 'as many'),
    (torch.rand(1, 3, 8, 8), torch.rand(1, 1, 8, 8), 'torch.zeros_like'),
    (3*torch.rand(1, 3, 8, 8), torch.rand(1, 2, 8, 8), 'before it was normalised'),
    (torch.rand(1, 3, 8, 8) - .5, torch.rand(1, 2, 8, 8), 'before it was normalised')])
def test_bad_images(image, logits, why):
    with pytest.raises(SegbookError, match=why): dense_crf(image, logits)

@pytest.mark.parametrize('bad', [dict(position=0), dict(colour=-1), dict(reach=0), dict(steps=-1),
    dict(every=0), dict(alike=float('nan')), dict(steps=2.5)])
def test_bad_weights(bad):
    with pytest.raises(SegbookError, match=next(iter(bad))):
        dense_crf(torch.rand(1, 3, 8, 8), torch.rand(1, 2, 8, 8), **bad)
