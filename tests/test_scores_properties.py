"""Losses and metrics on batches of any kind: empty, all Void, one pixel, 16 bits, inside autocast.
Each is compared with a few lines of NumPy in 64 bits that share no code with the library."""
import warnings
from types import SimpleNamespace

import numpy as np, pytest, torch
from hypothesis import given, strategies as st
from properties import examples

from segbook.losses import BorderWeightedLoss, CombinedLoss, CrossEntropyLoss, DiceLoss, FocalLoss
from segbook.losses import JaccardLoss, LovaszLoss, TverskyLoss
from segbook.masks import SegbookError
from segbook.metrics import BoundaryF1, ClassIoU, Confusion, Hausdorff95, MeanDice, MeanIoU
from segbook.metrics import PixelAccuracy, boundary_f1, hausdorff95

pytestmark = [pytest.mark.usefixtures('one_thread'),
    pytest.mark.filterwarnings('ignore:no pixel of this batch', 'ignore:Mean of empty slice',
        'ignore:invalid value', 'ignore:ignore_index')]


# ---- the oracles: x [B,K,H,W] float64, t [B,H,W], v the ignored id or None

def probabilities(x):
    e = np.exp(x - x.max(1, keepdims=True, initial=-np.inf))
    return e/e.sum(1, keepdims=True)


def true_p(x, t, v):
    "(p of the true class, the pixels that count)."
    keep = np.ones(t.shape, bool) if v is None else t != v
    p = np.take_along_axis(probabilities(x), np.where(keep, t, 0)[:, None], 1)[:, 0]
    return p[keep]


def of_pixels(f):
    def loss(x, t, v):
        p = true_p(x, t, v)
        return f(p).mean() if p.size else 0.
    return loss


def of_classes(f, squared=False):
    def loss(x, t, v):
        p, keep = probabilities(x), np.ones(t.shape, bool) if v is None else t != v
        q, values = p**2 if squared else p, []
        for k in range(x.shape[1]):
            y = (t == k) & keep
            if y.any(): values.append(f(p[:, k][y].sum(), q[:, k][keep].sum(), y.sum()))
        return np.mean(values) if values else 0.
    return loss


LOSSES = {
    'cross entropy': (CrossEntropyLoss, of_pixels(lambda p: -np.log(p))),
    'focal': (FocalLoss, of_pixels(lambda p: -(1 - p)**2*np.log(p))),
    'dice': (DiceLoss, of_classes(lambda I, P, T: 1 - 2*I/(P + T))),
    'dice squared': (lambda **k: DiceLoss(squared=True, **k),
        of_classes(lambda I, P, T: 1 - 2*I/(P + T), squared=True)),
    'jaccard': (JaccardLoss, of_classes(lambda I, P, T: 1 - I/(P + T - I))),
    'tversky': (TverskyLoss, of_classes(lambda I, P, T: 1 - I/(I + .3*(P - I) + .7*(T - I))))}
OTHERS = {'lovasz': LovaszLoss, 'border': BorderWeightedLoss,
    'combined': lambda reduction='mean', **k: CombinedLoss(CrossEntropyLoss(**k), DiceLoss(**k),
        reduction=reduction)}
EVERY = {k: f for k, (f, _) in LOSSES.items()} | OTHERS


@st.composite
def batches(draw, sides=st.integers(0, 9)):
    "(logits float32, mask, K, ignored id): any size, 0 as well; some masks are all Void."
    B, H, W, K = draw(st.integers(0, 3)), draw(sides), draw(sides), draw(st.integers(2, 6))
    v = draw(st.sampled_from([None, K - 1, 255, -100])) if K > 2 else draw(st.sampled_from([None,
        255]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    x = (rng.normal(size=(B, K, H, W))*draw(st.sampled_from([0., .1, 1., 8.]))).astype(np.float32)
    t = rng.integers(0, K, (B, H, W))
    if v is not None: t[rng.random(t.shape) < draw(st.sampled_from([0., .3, 1.]))] = v
    dtype = draw(st.sampled_from([np.int64, np.int32, np.int16]))
    return torch.from_numpy(x), torch.from_numpy(t.astype(dtype)), K, v


@examples(60)
@given(batches(), st.sampled_from(sorted(LOSSES)), st.sampled_from([None, 'bf16', 'fp16']))
def test_losses_equal_64_bits(batch, name, bits):
    "In 32 bits, and of 16-bit logits with the gradient taken inside autocast."
    (x, t, _, v), (make, oracle) = batch, LOSSES[name]
    dtype = dict(bf16=torch.bfloat16, fp16=torch.float16).get(bits)
    x = (x if dtype is None else x.to(dtype)).requires_grad_()
    loss = make(ignore_index=v)
    with torch.autocast('cpu', dtype or torch.bfloat16, enabled=dtype is not None):
        value = loss(x, t)
        value.backward()
    expected = oracle(x.detach().double().numpy(), t.numpy().astype(np.int64), v)
    assert value.item() == pytest.approx(expected, abs=2e-5, rel=2e-5)
    x64 = x.detach().double().requires_grad_()
    loss(x64, t).backward()
    scale, eps = x64.grad.abs().max().item() if x.numel() else 0., torch.finfo(x.dtype).eps
    assert torch.allclose(x.grad.double(), x64.grad, rtol=4*eps, atol=max(1e-5, eps)*scale + 1e-8)


@examples(60)
@given(batches(), st.sampled_from(sorted(EVERY)), st.sampled_from(['mean', 'sum', 'none']),
    st.booleans())
def test_losses_of_any_batch_are_numbers_of_the_promised_shape(batch, name, reduction, one):
    (x, t, _, v), make = batch, EVERY[name]
    if one: x, t, v = x[:, :1], t.clamp(max=1).abs(), None
    x = x.clone().requires_grad_()
    value = make(ignore_index=v, reduction=reduction)(x, t)
    value.sum().backward()
    pixels = name in ('cross entropy', 'focal', 'border')
    shape = () if reduction != 'none' else tuple(t.shape) if pixels else (len(t),)
    assert tuple(value.shape) == shape and value.isfinite().all() and x.grad.isfinite().all()
    if v is not None and (t == v).all(): assert (value == 0).all() and (x.grad == 0).all()


@examples(40)
@given(batches(), st.booleans())
def test_metrics_of_any_batch(batch, per_image):
    "Counts against NumPy; scores are numbers between 0 and 1, or NaN where there is nothing."
    x, t, K, v = batch
    p, t64 = x.numpy().argmax(1) if x.numel() else np.zeros(t.shape, int), t.numpy().astype(int)
    conf = Confusion(K, v, per_image=per_image).update(x, t)
    keep = np.ones(t.shape, bool) if v is None else t64 != v
    expected = np.array([[((t64 == i) & (p == j) & keep).sum() for j in range(K)]
        for i in range(K)])
    assert np.array_equal(conf.matrix.numpy(), expected)
    union = expected.sum(0) + expected.sum(1) - expected.diagonal()
    iou = np.array([d/u if u and k != v else np.nan
        for k, (d, u) in enumerate(zip(expected.diagonal(), union))])
    assert np.allclose(conf.iou().numpy(), iou, equal_nan=True)
    assert conf.mean_iou() == pytest.approx(np.nanmean(iou), nan_ok=True)
    for f in (boundary_f1, hausdorff95):
        scores = f(x, t, K, v)
        assert tuple(scores.shape) == (len(t), K) and not (scores < 0).any()


class Batches:
    "A learner as metrics see it: the prediction and the masks of the batch at hand."
    def __init__(self, K, v): self.dls = SimpleNamespace(vocab=list(range(K)), ignore_index=v)


METRICS = [PixelAccuracy, MeanIoU, MeanDice, lambda: MeanIoU(per_image=True), lambda: ClassIoU(0),
    BoundaryF1, Hausdorff95]


@examples(30)
@given(st.lists(batches(), min_size=1, max_size=3), st.integers(0, 2**32 - 1))
def test_metrics_of_a_learner_see_what_is_there_now(several, seed):
    """Batches of which the prediction is refilled in place between two metrics: each metric gives
    what it gives alone for the content that it saw."""
    rng = np.random.default_rng(seed)
    K, v = several[0][2:]
    several = [b for b in several if b[2:] == (K, v)]
    together, alone = [m() for m in METRICS], [m() for m in METRICS]
    learn = Batches(K, v)
    for x, t, *_ in several:
        learn.pred, learn.y = x.clone(), t
        for a, b in zip(together, alone):
            if rng.random() < .5: learn.pred.copy_(learn.pred.flip(1))
            a.accumulate(learn)
            single = Batches(K, v)
            single.pred, single.y = learn.pred.clone(), t.clone()
            b.accumulate(single)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        for a, b in zip(together, alone): assert a.value == pytest.approx(b.value, nan_ok=True)


def test_the_memo_still_pays(monkeypatch):
    "Metrics of one batch count once; of a batch that was written to, or has no such count, twice."
    from segbook.metrics import training
    calls = []
    count = training.count_pixels
    monkeypatch.setattr(training, 'count_pixels', lambda *a, **k: calls.append(1) or count(*a, **k))
    learn = Batches(3, None)
    learn.pred, learn.y = torch.randn(1, 3, 4, 4), torch.zeros(1, 4, 4, dtype=torch.long)
    for m in (PixelAccuracy(), MeanIoU(), MeanDice(), ClassIoU(0)): m.accumulate(learn)
    assert len(calls) == 1
    learn.pred.mul_(2)
    MeanIoU().accumulate(learn)
    assert len(calls) == 2
    learn.y[0] = 1
    MeanIoU().accumulate(learn)
    assert len(calls) == 3
    with torch.inference_mode():
        learn.pred = torch.randn(1, 3, 4, 4)
        for _ in range(2): MeanIoU().accumulate(learn)
    assert len(calls) == 5


@pytest.mark.parametrize('name', ['dice squared', 'jaccard', 'focal'])
def test_large_images_cost_no_digits(name):
    "Four million pixels, a tenth of them Void."
    make, oracle = LOSSES[name]
    g = torch.Generator().manual_seed(0)
    x = torch.randn(1, 3, 2048, 2048, generator=g)
    t = torch.randint(0, 2, (1, 2048, 2048), generator=g)
    t[:, ::10] = 2
    value = make(ignore_index=2)(x, t).item()
    assert value == pytest.approx(oracle(x.double().numpy(), t.numpy(), 2), abs=1e-6)


def test_a_sum_of_images_refuses_masks_of_another_number():
    loss = CombinedLoss(DiceLoss(), reduction='none')
    with pytest.raises(SegbookError, match='of the same B, H and W'):
        loss(torch.zeros(3, 2, 4, 4), torch.zeros(2, 4, 4, dtype=torch.long))
