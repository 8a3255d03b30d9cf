"""Mask classification: matching against all permutations, costs and losses pixel by pixel."""
import math
from itertools import permutations
import numpy as np, pytest, torch
from torch import nn
from segbook.architectures.mask_classification import (
    QueryBlock, mask_classification, mask_targets, match_costs, match_queries, semantic_logits,
    set_loss, sine_places,
)
from segbook.errors import SegbookError
from segbook.losses.pixels import CrossEntropyLoss
from segbook.receptive_field.field import receptive_field

@pytest.mark.parametrize('queries, masks', [(1, 1), (3, 3), (5, 2), (6, 4), (5, 0), (4, 1)])
def test_matching_is_the_best_of_all(queries, masks):
    torch.manual_seed(queries*10 + masks)
    for _ in range(5):
        costs = torch.randn(queries, masks)
        q, t = match_queries(costs)
        assert sorted(t.tolist()) == list(range(masks)) and len(set(q.tolist())) == masks
        best = min(sum(float(costs[a, b]) for b, a in enumerate(order))
            for order in permutations(range(queries), masks))
        assert math.isclose(float(costs[q, t].sum()), best, abs_tol=1e-5)

def by_hand(classes, logits, k, truth):
    "The cost of one pair, in plain numbers"
    p = np.exp(classes - classes.max())
    m = 1/(1 + np.exp(-logits))
    pixels = -np.mean(truth*np.log(m) + (1 - truth)*np.log(1 - m))
    dice = 1 - (2*(m*truth).sum() + 1)/(m.sum() + truth.sum() + 1)
    return -2*p[k]/p.sum() + 5*pixels + 5*dice

def test_costs_pair_by_pair():
    rng = np.random.default_rng(0)
    classes, logits = rng.normal(size=(4, 6)), rng.normal(size=(4, 15))
    targets, masks = np.array([0, 3, 4]), (rng.random((3, 15)) < .4).astype(float)
    got = match_costs(*map(torch.from_numpy, (classes, logits, targets, masks)))
    for q in range(4):
        for t in range(3):
            assert math.isclose(got[q, t], by_hand(classes[q], logits[q], targets[t], masks[t]),
                abs_tol=1e-6)

def expected_loss(classes, logits, mask, ignore):
    "The set loss of a batch by trying every matching"
    pixel = dice = pairs = top = bottom = 0
    for c, m, ids in zip(classes, logits, mask):
        keep = ids.ravel() != ignore
        ids, m = ids.ravel()[keep], m.reshape(len(m), -1)[:, keep]
        present = sorted(set(ids.tolist()))
        if not present: continue
        truths = [(ids == k).astype(float) for k in present]
        cost = lambda order: sum(by_hand(c[q], m[q], k, t)
            for q, k, t in zip(order, present, truths))
        order = min(permutations(range(len(c)), len(present)), key=cost)
        for q, t in zip(order, truths):
            s = 1/(1 + np.exp(-m[q]))
            pixel -= np.mean(t*np.log(s) + (1 - t)*np.log(1 - s))
            dice += 1 - (2*(s*t).sum() + 1)/(s.sum() + t.sum() + 1)
            pairs += 1
        said = dict(zip(order, present))
        for q in range(len(c)):
            k = said.get(q, c.shape[1] - 1)
            weight = 1. if q in said else .1
            top -= weight*(c[q, k] - np.log(np.exp(c[q]).sum()))
            bottom += weight
    return 2*top/bottom + 5*pixel/pairs + 5*dice/pairs

@pytest.mark.parametrize('ignore', [None, 2, 255])
def test_set_loss_by_trying_every_matching(ignore):
    rng = np.random.default_rng(1)
    classes, logits = rng.normal(size=(3, 4, 5)), rng.normal(size=(3, 4, 5, 6))
    mask = rng.integers(0, 4, (3, 5, 6))
    if ignore == 255: mask[0, :2], mask[2] = 255, 255
    got = set_loss(torch.from_numpy(classes).float(), torch.from_numpy(logits).float(),
        torch.from_numpy(mask), ignore)
    assert math.isclose(got, expected_loss(classes, logits, mask, ignore), rel_tol=1e-5)

def test_a_batch_of_void_is_nothing():
    classes, logits = (torch.randn(*s, requires_grad=True) for s in ((2, 4, 5), (2, 4, 3, 3)))
    loss = set_loss(classes, logits, torch.full((2, 3, 3), 7), 7)
    loss.backward()
    assert loss == 0 and not classes.grad.any() and not logits.grad.any()

def test_ignored_pixels_change_nothing():
    torch.manual_seed(2)
    classes, logits = torch.randn(1, 5, 4), torch.randn(1, 5, 6, 6)
    mask = torch.randint(3, (1, 6, 6))
    mask[:, 3:] = 9
    other = logits.clone()
    other[:, :, 3:] += torch.randn(1, 5, 3, 6)*5
    assert torch.equal(set_loss(classes, logits, mask, 9), set_loss(classes, other, mask, 9))
    k, masks, counts = mask_targets(mask[0], 9)
    assert counts.sum() == 18 and torch.equal(masks.sum(0), torch.ones(18))

def test_the_order_of_queries_does_not_matter():
    torch.manual_seed(3)
    classes, logits = torch.randn(2, 6, 4), torch.randn(2, 6, 8, 8)
    mask = torch.randint(3, (2, 8, 8))
    order = torch.randperm(6)
    a = set_loss(classes, logits, mask), semantic_logits(classes, logits)
    b = set_loss(classes[:, order], logits[:, order], mask), semantic_logits(classes[:, order],
        logits[:, order])
    for x, y in zip(a, b): assert torch.allclose(x, y, atol=1e-5)

def test_semantic_scores_by_hand():
    torch.manual_seed(4)
    classes, logits = torch.randn(1, 3, 4), torch.randn(1, 3, 2, 2)
    want = torch.zeros(3, 2, 2)
    for q in range(3):
        p = classes[0, q].exp()/classes[0, q].exp().sum()
        for k in range(3): want[k] += p[k]/(1 + (-logits[0, q]).exp())
    assert torch.allclose(semantic_logits(classes, logits)[0].exp(), want, atol=1e-5)
    far = semantic_logits(torch.full((1, 3, 4), -1e4), torch.full((1, 3, 2, 2), -1e4))
    assert far.isfinite().all()

def test_places_are_different_and_do_not_depend_on_the_batch():
    x = sine_places(7, 9, 32, torch.zeros(1))
    assert x.shape == (63, 32) and torch.cdist(x, x)[~torch.eye(63, dtype=bool)].min() > .1
    rate = 10_000**(-3/8) # row 5 of 7 and column 2 of 9, the fourth wave of eight
    cell = x[4*9 + 1]
    assert math.isclose(cell[3], math.sin(2*math.pi*5/7*rate), abs_tol=1e-5)
    assert math.isclose(cell[24 + 3], math.cos(2*math.pi*2/9*rate), abs_tol=1e-5)

@pytest.mark.parametrize('n_classes, encoder', [(1, 'resnet18'), (3, 'mobilenetv3_small_050'),
    (32, 'timm/convnext_atto')])
def test_every_parameter_learns_either_way(n_classes, encoder):
    torch.manual_seed(5)
    net = mask_classification(n_classes, encoder, 1, width=32).train()
    x, mask = torch.randn(2, 1, 40, 71), torch.randint(max(2, n_classes), (2, 40, 71))
    y = net(x)
    assert y.shape == (2, n_classes, 40, 71) and y.isfinite().all()
    for loss in (CrossEntropyLoss()(y, mask), net.training_loss(x, mask)):
        net.zero_grad()
        loss.backward()
        assert not [n for n, p in net.named_parameters()
            if p.grad is None or not p.grad.abs().max() > 0]

def test_one_channel_is_two_classes():
    torch.manual_seed(6)
    net = mask_classification(1, 'resnet18', width=16).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        maps = net.encoder(x)
        both = semantic_logits(*net.answers(maps)[-1]).softmax(1)[:, 1:]
        assert torch.allclose(net.decode(maps, x).sigmoid(), both, atol=1e-6)

def test_queries_read_every_cell():
    torch.manual_seed(7)
    block, queries, cells = QueryBlock(8, 2).eval(), torch.randn(1, 3, 8), torch.randn(1, 5, 8)
    cells.requires_grad_()
    block(queries, cells)[0, 0].sum().backward()
    assert (cells.grad.abs().sum(2) > 0).all()
    net = mask_classification(3, 'resnet18', width=16)
    assert min(receptive_field(net, (256, 256)).clipped[2:]) == 255

@pytest.mark.parametrize('options, why', [(dict(queries=2), 'queries=2: expected a whole .* 3 on'),
    (dict(layers=0), 'layers=0'), (dict(width=30), 'one that 4 divides'),
    (dict(width=None), 'width')])
def test_refused(options, why):
    with pytest.raises(SegbookError, match=why): mask_classification(3, 'resnet18', **options)

def test_bad_input_of_the_loss(monkeypatch):
    net = mask_classification(3, 'resnet18', width=16).train()
    with pytest.raises(SegbookError, match=r'the ids \[3, 200\]; expected 0 to 2'):
        net.training_loss(torch.randn(2, 3, 64, 64), torch.tensor([0, 3, 200, 1]).repeat(2, 64, 16))
    with pytest.raises(SegbookError, match='not finite'):
        match_queries(torch.tensor([[float('nan')]]))
    monkeypatch.setattr('segbook.architectures.blocks.encoder_body', lambda *args:
        nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1)))
    with pytest.raises(SegbookError, match=r'strides \[2, 4\], and none of \[8, 16, 32\]'):
        mask_classification(3, 'resnet18')

def test_export_and_half_precision():
    net = mask_classification(2, 'resnet18', width=16).eval()
    x = torch.rand(1, 3, 64, 96)
    with torch.no_grad(): want = net(x)
    again = torch.export.export(net, (x,), strict=False).module()
    assert torch.allclose(again(x), want, atol=1e-5)
    with torch.autocast('cpu', torch.bfloat16), torch.no_grad(): assert net(x).isfinite().all()
