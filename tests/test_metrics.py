"""Metrics against second sources: scikit-learn for what is counted, MONAI and loops over pairs of
pixels for boundaries; any batch size, two processes, a GPU; and what a notebook cannot show:
sharing, memory, pickling, the race of bench/."""
import gc, os, pickle, subprocess, sys, warnings, weakref
from pathlib import Path
from types import SimpleNamespace

import numpy as np, pytest, torch, torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from segbook.masks import SegbookError
from segbook.metrics import (BoundaryF1, ClassIoU, Confusion, Hausdorff95, MeanDice, MeanIoU,
    PixelAccuracy, boundary_f1, boundary_pixels, counting, hausdorff95)
from segbook.metrics.counting import highest_ids
from sklearn.metrics import (
    confusion_matrix, f1_score, jaccard_score, precision_score, recall_score)

ROOT = Path(__file__).resolve().parent.parent
K,VOID = 5,4

def batch(n=3, h=11, w=7, seed=0, device='cpu'):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, K, h, w, generator=g).to(device),torch.randint(0, K, (n,h,w),
        generator=g).to(device)

def cardboard(x, t):
    return SimpleNamespace(pred=x, y=t, dls=SimpleNamespace(vocab=list('abcd')+['Void'],
            ignore_index=VOID))

def epoch(metrics, batches):
    "The values of metrics after an epoch of batches, as fastai asks for them"
    learn = cardboard(None, None)
    for m in metrics: m.reset()
    for learn.pred,learn.y in batches:
        for m in metrics: m.accumulate(learn)
    return [m.value for m in metrics]

def blobs(n=2, h=24, w=31, k=3, seed=0, frame=1):
    "Ids [n,h,w] of rectangles of the classes 1 to k on 0, `frame` pixels off the image border"
    rng,m = np.random.default_rng(seed),np.zeros((n, h, w), int)
    for i in range(n):
        for _ in range(6):
            y,x = rng.integers(frame, h-frame-1),rng.integers(frame, w-frame-1)
            m[i,y:min(h-frame, y+rng.integers(1, 9)),
                x:min(w-frame, x+rng.integers(1, 12))] = rng.integers(1, k+1)
    return torch.from_numpy(m)

# ---- counts, as scikit-learn has them

def skl(score, y, q, ids):
    "scikit-learn's score of each class; NaN for those that are nowhere, where it says 0 or 1"
    v = score(y, q, labels=ids, average=None, zero_division=0)
    return np.where([(y==k).any() or (q==k).any() for k in ids], v, np.nan)

CASES = [(K_, void, seed) for seed,(K_,void) in enumerate([(2, None), (2, 255), (5, 4), (5, 0),
            (5, 255), (12, 11), (12, -100)])]

def masks(K, void, seed, n=4, h=9, w=13):
    "Ids predicted and true, with Void, a class nowhere, one only predicted, and an image all Void"
    g = torch.Generator().manual_seed(seed)
    p,t = (torch.randint(0, K, (n,h,w), generator=g) for _ in range(2))
    p = torch.where(torch.rand(t.shape, generator=g)<.5, t, p)
    if K>4:
        other,absent,only_predicted = [k for k in range(K) if k!=void][:3]
        p[p==absent] = other
        t[(t==absent) | (t==only_predicted)] = other
    if void is not None:
        t[torch.rand(t.shape, generator=g)<.3] = void
        t[-1] = void
    return p,t

def named(p, t, void):
    keep = np.ones(t.shape, bool) if void is None else (t!=void).numpy()
    return t.numpy()[keep],p.numpy()[keep]

@pytest.mark.parametrize('K,void,seed', CASES)
def test_matrix_and_scores_are_scikit_learns(K, void, seed):
    p,t = masks(K, void, seed)
    c = Confusion(K, void, per_image=True)
    for i in (slice(0, 3), slice(3, 4)): c.update(p[i], t[i])
    ids = [k for k in range(K) if k!=void]
    y,q = named(p, t, void)
    assert np.array_equal(c.matrix, confusion_matrix(y, q, labels=range(K)))
    assert abs(c.pixel_accuracy()-(y==q).mean())<1e-12
    for score,per_class,mean in ((jaccard_score, c.iou, c.mean_iou),
            (f1_score, c.dice, c.mean_dice)):
        want = skl(score, y, q, ids)
        assert np.allclose(per_class()[ids], want, atol=1e-12, equal_nan=True)
        assert abs(mean()-np.nanmean(want))<1e-12
        for average in ('micro', 'macro', 'weighted'):
            assert abs(mean('zero', average)-score(y, q, labels=ids, average=average,
                    zero_division=0))<1e-12, average
    if K>4: assert c.iou()[ids[1]].isnan() and c.iou()[ids[2]]==0     # nowhere; only predicted
    if void is not None and 0<=void<K: assert c.iou()[void].isnan()

@pytest.mark.parametrize('K,void,seed', CASES)
def test_each_image_is_scikit_learns(K, void, seed):
    p,t = masks(K, void, seed)
    c,ids = Confusion(K, void, per_image=True).update(p, t),[k for k in range(K) if k!=void]
    for i in range(len(t)):
        y,q = named(p[i], t[i], void)
        if not len(y):
            assert not c.matrices[i].any() and c.iou(per_image=True)[
                i].isnan().all() and c.mean_iou(per_image=True)[i].isnan()
            continue
        assert np.array_equal(c.matrices[i], confusion_matrix(y, q, labels=range(K)))
        assert abs(c.pixel_accuracy(per_image=True)[i]-(y==q).mean())<1e-12
        for score,per_class,mean in ((jaccard_score, c.iou, c.mean_iou),
                (f1_score, c.dice, c.mean_dice)):
            want = skl(score, y, q, ids)
            assert np.allclose(per_class(per_image=True)[i,ids], want, atol=1e-12, equal_nan=True)
            for average in ('micro', 'macro', 'weighted'):
                assert abs(mean('zero', average, per_image=True)[i]-score(y, q, labels=ids,
                        average=average, zero_division=0))<1e-12

@pytest.mark.parametrize('K,void,seed', CASES)
def test_precision_and_recall_are_scikit_learns(K, void, seed):
    p,t = masks(K, void, seed)
    c,ids = Confusion(K, void, per_image=True).update(p, t),[k for k in range(K) if k!=void]
    def expected(score, y, q, of):
        v = score(y, q, labels=ids, average=None, zero_division=0)
        return np.where([(of==k).any() for k in ids], v, np.nan)
    y,q = named(p, t, void)
    assert np.allclose(c.precision()[ids], expected(precision_score, y, q, q), equal_nan=True)
    assert np.allclose(c.recall()[ids], expected(recall_score, y, q, y), equal_nan=True)
    for i in range(len(t)):
        y,q = named(p[i], t[i], void)
        if not len(y):
            assert c.precision(per_image=True)[i].isnan().all()
            assert c.recall(per_image=True)[i].isnan().all()
            continue
        assert np.allclose(c.precision(per_image=True)[i,ids],
            expected(precision_score, y, q, q), equal_nan=True)
        assert np.allclose(c.recall(per_image=True)[i,ids],
            expected(recall_score, y, q, y), equal_nan=True)
    P,R = c.precision()[ids],c.recall()[ids]
    F = (2*P*R/(P+R))[c.dice()[ids]>0]
    assert torch.allclose(F, c.dice()[ids][c.dice()[ids]>0], atol=1e-12)
    if void is not None and 0<=void<K:
        assert c.precision()[void].isnan() and c.recall()[void].isnan()

@pytest.mark.parametrize('make', [ClassIoU, lambda cls: BoundaryF1(cls=cls, tolerance=1),
        lambda cls: Hausdorff95(cls=cls)])
def test_a_class_is_found_in_any_case(make):
    x,t = batch()
    learn = cardboard(x, t)
    learn.dls.vocab = ['Sky', 'Pole', 'Road', 'Car', 'Void']
    values = []
    for name in ('Pole', 'pole', 'POLE', 1):
        m = make(name)
        m.accumulate(learn)
        values.append(m.value)
    assert len(set(values))==1 and np.isfinite(values[0])
    for name,words in (('Poel', 'Pole'), ('rode', 'Road'), ('VOID', 'the ignored one')):
        with pytest.raises(SegbookError, match=words): make(name).accumulate(learn)

def test_absent_classes_as_the_policy_says():
    # 2 is nowhere, 3 is Void
    c = Confusion(4, 3).update(torch.tensor([[0,0,1]]), torch.tensor([[0,0,0]]))
    assert [c.mean_iou(o) for o in ('skip', 'zero', 'one')]==pytest.approx([(2/3+0)/2, (2/3+0+0)/3,
            (2/3+0+1)/3])
    assert c.mean_iou()==c.mean_iou('skip')

def test_dice_is_f1_and_follows_from_iou():
    for K_,void,seed in CASES:
        c = Confusion(K_, void).update(*masks(K_, void, seed))
        assert torch.allclose(c.dice(), 2*c.iou()/(1+c.iou()), equal_nan=True, atol=1e-14)
        assert torch.allclose(c.iou(), c.dice()/(2-c.dice()), equal_nan=True, atol=1e-14)

def test_the_ship():
    t = torch.zeros(10, 10, dtype=torch.long)
    t[4,3:8] = 1
    c = Confusion(2).update(torch.zeros_like(t), t)
    assert [c.pixel_accuracy(), c.mean_iou(), c.mean_dice()]==pytest.approx([.95, .475, 190/195/2])
    # the slip divides by 200
    assert round(100*c.mean_dice(), 1)==48.7 and 100*(2*95/200)/2==47.5

# ---- boundaries

def loop_edges(ids, void, k):
    "Pixels of class k beside a pixel of another class, both outside Void; [n,2]"
    H,W,out = *ids.shape,[]
    for y,x in np.ndindex(H, W):
        if ids[y,x]!=k or void[y,x]: continue
        for v,u in ((y-1, x), (y+1, x), (y, x-1), (y, x+1)):
            if 0<=v<H and 0<=u<W and not void[v,u] and ids[v,u]!=k:
                out.append((y, x))
                break
    return np.array(out, float).reshape(-1, 2)

def loop_scores(p, t, k, void_id, tolerance, spacing, percentile=95):
    "Boundary F1 and percentile Hausdorff distance of a class of an image, by all pairs of pixels"
    void = (t==void_id).numpy() if void_id is not None else np.zeros(t.shape, bool)
    A,B = (loop_edges(o.numpy(), void, k)*spacing for o in (p, t))
    if not len(A) and not len(B): return np.nan,np.nan
    if not len(A) or not len(B): return 0.,np.inf
    d = np.array([[np.sqrt((a-b)@(a-b)) for b in B] for a in A])
    near,back = d.min(1),d.min(0)
    P,R = sum(near<=tolerance+1e-9)/len(A),sum(back<=tolerance+1e-9)/len(B)
    return (2*P*R/(P+R) if P+R else 0.),max(np.quantile(near, percentile/100),
        np.quantile(back, percentile/100))

@pytest.mark.parametrize('void,tolerance,spacing',
    [(None, 1, (1, 1)), (3, 1, (1, 1)), (255, 2, (1, 1)), (0, .3, (.1, .1)), (3, 1.5, (2, .5))])
def test_boundaries_by_all_pairs_of_pixels(void, tolerance, spacing):
    p,t = blobs(3, 14, 17, seed=1, frame=0),blobs(3, 14, 17, seed=2, frame=0)
    p[0,:,:8] = t[0,:,:8]
    if void is not None: t[:,3:6,2:9] = void
    t[2],p[2] = 1,p[2].clamp(max=1)                      # a truth without a boundary
    kw = dict(n_classes=4, ignore_index=void, spacing=spacing)
    f,h,far = boundary_f1(p, t, tolerance=tolerance, **kw),hausdorff95(p, t, **kw),hausdorff95(p, t,
        percentile=60, **kw)
    for b,k in np.ndindex(3, 4):
        want = loop_scores(p[b], t[b], k, void, tolerance, spacing) if k!=void else (np.nan, np.nan)
        assert np.allclose([f[b,k], h[b,k]], want, equal_nan=True, atol=1e-12), (b, k)
        if np.isfinite(want[1]):
            assert abs(far[b,k]-loop_scores(p[b], t[b], k, void, tolerance, spacing, 60)[1])<1e-12
    assert torch.equal(boundary_f1(p[0], t[0], tolerance=tolerance, **kw).nan_to_num(-1),
        f[0].nan_to_num(-1))

def monai_hausdorff(p, t, k, **kwargs):
    from monai.metrics import compute_hausdorff_distance
    hot = [torch.nn.functional.one_hot(o, k).movedim(-1, 1) for o in (p, t)]
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return compute_hausdorff_distance(*hot, include_background=True, **kwargs)

@pytest.mark.parametrize('percentile', [95, 50, None])
@pytest.mark.parametrize('spacing', [None, (2., .7)])
def test_hausdorff_is_monais_where_nothing_touches_the_image_border(percentile, spacing):
    p,t = blobs(6, seed=3),blobs(6, seed=4)
    p[4][p[4]==2] = 0
    t[4][t[4]==2] = 1
    p[5][p[5]==3] = 0                # class 2 in neither, class 3 only in the truth
    got = hausdorff95(p, t, 4, percentile=percentile or 100, spacing=spacing or 1.)[:,1:].float()
    want = monai_hausdorff(p, t, 4, percentile=percentile, spacing=spacing)[:,1:]
    alone = got.isinf()
    assert torch.allclose(got[~alone], want[~alone], rtol=1e-5,
        equal_nan=True) and got.isfinite().sum()>9 and got[4,1].isnan()
    # as the chapter says
    assert alone.sum()>2 and (want[alone].isinf() if percentile is None
        else want[alone].isnan()).all()

def test_monais_image_border_is_a_boundary_and_ours_is_not():
    t = torch.zeros(1, 12, 12, dtype=torch.long)
    t[:,6:] = 1                # land below, up to three image borders
    p = t.clone()
    p[:,6:8] = 0
    # its only edge is off by two pixels everywhere
    assert hausdorff95(p, t, percentile=50)[0,1]==2
    # half of the edge runs along the image border
    assert monai_hausdorff(p, t, 2, percentile=50)[0,1]==0
    whole = torch.ones(1, 12, 12, dtype=torch.long)
    assert hausdorff95(whole, whole)[0].isnan().all() and monai_hausdorff(whole, whole, 2,
        percentile=95)[0,1]==0

def test_a_missed_class_costs_nothing_in_monais_mean_and_the_diagonal_in_ours():
    from monai.metrics import HausdorffDistanceMetric
    t = blobs(2, seed=3)
    p = t.clone()
    p[1][p[1]==1] = 0
    p[0] = t[0]
    assert (t[1]==1).any()
    def monai(percentile):
        m = HausdorffDistanceMetric(include_background=False, percentile=percentile)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            m(*[torch.nn.functional.one_hot(o, 4).movedim(-1, 1) for o in (p, t)])
            return m.aggregate().item()
    assert monai(95)==0 and monai(None)==np.inf
    ours = Hausdorff95(4, None)
    ours.accumulate(SimpleNamespace(pred=p, y=t, dls=SimpleNamespace(vocab=None)))
    assert ours.per_image[1,1]==pytest.approx(np.hypot(24, 31)) and 0<ours.value<np.inf

def test_void_is_like_the_land_beyond_the_image_border():
    p,t = blobs(1, seed=5, frame=0),blobs(1, seed=6, frame=0)
    void = torch.full((1, 24, 5), 9)
    wide,beside = torch.cat([t, void], 2),torch.cat([p, blobs(1, 24, 5, seed=7, frame=0)], 2)
    for f in (boundary_f1, hausdorff95):
        kw = dict(tolerance=1) if f is boundary_f1 else {}
        assert torch.equal(f(p, t, 4, **kw).nan_to_num(-1),
            f(beside, wide, 4, 9, **kw).nan_to_num(-1))
    assert torch.equal(boundary_pixels(wide, 9)[...,:-5],
        boundary_pixels(t)) and not boundary_pixels(wide, 9)[...,-5:].any()

@pytest.mark.parametrize('dtype', [torch.uint8, torch.int16, torch.bool])
def test_ignore_index_beyond_the_range_of_the_type(dtype):
    t = (torch.arange(12).view(3, 4)%2).to(dtype)
    for ignore in (300, -100, 256):
        assert torch.equal(boundary_pixels(t, ignore), boundary_pixels(t.long())) and boundary_f1(t,
            t, ignore_index=ignore).tolist()==[1, 1]

def test_default_tolerance():
    t = torch.zeros(360, 480, dtype=torch.long)
    t[:,200:] = 1
    def moved(n): return boundary_f1(t.roll(n, 1).where(torch.arange(480)>=100, 0), t)[1].item()
    # 0.75 % of 600 pixels: 4.5
    assert [moved(n) for n in (0, 4, 5)]==[1, 1, 0]
    s = torch.zeros(6, 9, dtype=torch.long)
    s[:,4:] = 1
    r = torch.zeros_like(s)
    r[:,5:] = 1
    # never below one pixel
    assert boundary_f1(r, s)[1]==1 and boundary_f1(r, s, tolerance=.9)[1]==0
    assert boundary_f1(r, s, spacing=3)[1]==1 and boundary_f1(r, s, spacing=3, tolerance=1)[1]==0

def test_logits_ids_numpy_and_one_channel_are_the_same():
    x,t = batch()
    p = x.max(1).indices
    want = hausdorff95(p, t, K, VOID)
    for pred,mask in ((x, t), (x.half().float().bfloat16().float()*0+x, t),
            (p.to(torch.uint8), t.to(torch.uint8)), (p.numpy(), t.numpy()), (x, t.int())):
        assert torch.equal(hausdorff95(pred, mask, K, VOID).nan_to_num(-1), want.nan_to_num(-1))
    assert torch.equal(hausdorff95(x, t, ignore_index=VOID).nan_to_num(-1), want.nan_to_num(-1))
    one,two = x[:,:1],torch.cat([torch.zeros_like(x[:,:1]), x[:,:1]], 1)
    yes = t>2
    for f in (boundary_f1, hausdorff95):
        assert torch.equal(f(one, yes), f(two, yes)) and torch.equal(f(one, yes),
            f(one[:,0]>0, yes)) and torch.equal(f(one, yes, 1), f(two, yes))

@pytest.mark.parametrize('call,part', [(lambda p,t: boundary_f1(p, t[:,:4]), 'of one size'),
        (lambda p,t: hausdorff95(p, t.float()), 'expected integers'),
        (lambda p,t: boundary_f1(p[:,None], t[:,None]), 'mask.squeeze(1)'),
        (lambda p,t: hausdorff95(p, t+9, 4), 'id 9'),
        (lambda p,t: hausdorff95(p-1, t, 3), 'the prediction'),
        (lambda p,t: boundary_f1(p, t, tolerance=-2), 'tolerance is -2'),
        (lambda p,t: hausdorff95(p, t, percentile=0), 'percentile is 0'),
        (lambda p,t: hausdorff95(p, t, spacing=(0, 1)), 'size of a pixel'),
        (lambda p,t: hausdorff95(p, t, one_empty='no'), "'inf', 'diagonal' or 'skip'"),
        (lambda p,t: boundary_pixels(t.double()), 'expected integers'),
        (lambda p,t: Hausdorff95(percentile=101), 'percentile is 101'),
        (lambda p,t: BoundaryF1(tolerance='2'), "tolerance is '2'"),
        (lambda p,t: epoch([BoundaryF1(cls='e')], [batch()]), "No class 'e'"),
        (lambda p,t: epoch([Hausdorff95(cls='Void')], [batch()]), 'the ignored one')])
def test_errors_say_what_and_give_the_cure(call, part):
    with pytest.raises(SegbookError) as e: call(blobs(seed=1), blobs(seed=2))
    assert part in str(e.value)

# ---- in a table of a training run

def all_metrics():
    return [PixelAccuracy(), MeanIoU(), MeanDice(), ClassIoU('b'), MeanIoU(average='micro'),
        MeanDice(average='weighted'), MeanIoU(per_image=True),
        MeanDice(absent='one', per_image=True), BoundaryF1(tolerance=1), Hausdorff95(),
        Hausdorff95(percentile=100, cls='c')]

def wanted(x, t):
    "The same scores from the whole set at once"
    c,s = Confusion(K, VOID).update(x, t),Confusion(K, VOID, per_image=True).update(x, t)
    f,h,far = boundary_f1(x, t, K, VOID, 1),hausdorff95(x, t, K, VOID,
        one_empty='diagonal'),hausdorff95(x, t, K, VOID, 100, one_empty='diagonal')
    return [c.pixel_accuracy(), c.mean_iou(), c.mean_dice(), c.iou()[1],
        c.mean_iou(average='micro'), c.mean_dice(average='weighted'),
        s.mean_iou(per_image=True).nanmean(), s.mean_dice('one', per_image=True).nanmean(),
        f.nanmean(1).nanmean(), h.nanmean(1).nanmean(), far[:,2].nanmean()]

def uneven():
    "Eight images of which no two have the same classes, one of them all Void"
    x,t = batch(8, 9, 8)
    t[1][t[1]==2] = 0
    x[1,2] -= 99
    t[2,2:] = 1
    t[6] = VOID
    x[3:,2] -= 9
    return x,t

@pytest.mark.parametrize('bs', [1, 3, 8])
def test_batch_size_and_last_batch_change_nothing(bs):
    x,t = uneven()
    got = epoch(all_metrics(), zip(x.split(bs), t.split(bs)))
    assert got==pytest.approx([float(o) for o in wanted(x, t)], rel=1e-12)

def test_an_epoch_forgets_the_last_one():
    (x,t),ms = uneven(),all_metrics()
    epoch(ms, [(x[:4], t[:4])])
    assert epoch(ms, [(x[4:], t[4:])])==pytest.approx([float(o) for o in wanted(x[4:], t[4:])],
        rel=1e-12)

def test_a_value_read_between_batches_is_that_of_the_batches_so_far():
    x,t = uneven()
    ms,learn = all_metrics(),cardboard(None, None)
    for i in (2, 5, 8):
        learn.pred,learn.y = x[max(0, i-3):i],t[max(0, i-3):i]
        for m in ms: m.accumulate(learn)
        assert [m.value for m in ms]==pytest.approx([float(o) for o in wanted(x[:i], t[:i])],
            rel=1e-12)

def test_mean_of_batches_would_be_another_number():
    x,t = uneven()
    for i in (1, 8, 9):                      # the test above could not fail if these agreed
        per_batch = np.nanmean([float(wanted(a, b)[i]) for a,b in zip(x.split(3), t.split(3))])
        assert abs(per_batch-float(wanted(x, t)[i]))>1e-4

def test_boundary_metrics_of_a_learner_measure_once(monkeypatch):
    from segbook.metrics import training
    calls,plain = [],training.boundary_distances
    monkeypatch.setattr(training, 'boundary_distances', lambda *a: calls.append(1) or plain(*a))
    x,t = uneven()
    epoch([BoundaryF1(), Hausdorff95(), BoundaryF1(tolerance=3), Hausdorff95(cls='b')],
        zip(x.split(4), t.split(4)))
    assert len(calls)==2
    # another unit is another measurement
    epoch([BoundaryF1(), Hausdorff95(spacing=2)], zip(x.split(8), t.split(8)))
    assert len(calls)==4

def test_counts_are_gathered_once(monkeypatch):
    x,t = uneven()
    calls = []
    monkeypatch.setattr(counting, 'num_distrib', lambda: 2)
    monkeypatch.setattr(counting, 'maybe_gather',
        lambda o: calls.append(len(o)) or torch.cat([o, o]))
    ms = [PixelAccuracy(), MeanIoU(), MeanDice(), ClassIoU('b')]
    assert epoch(ms, zip(x.split(3), t.split(3)))==pytest.approx([float(o)
            for o in wanted(x, t)[:4]]) and calls==[1]

# ---- several processes

TWO_PROCESSES = '''
import os, sys, warnings
warnings.filterwarnings('ignore')
import torch
torch.set_num_threads(1)
from types import SimpleNamespace
sys.path.insert(0, sys.argv[2])
from test_metrics import all_metrics, wanted, uneven, Confusion
x,t = uneven(); x,t = x[:7],t[:7]
rank = int(os.environ['RANK'])
where = 'file://'+sys.argv[1]
torch.distributed.init_process_group('gloo', init_method=where, rank=rank, world_size=2)
learn = SimpleNamespace(dls=SimpleNamespace(vocab=list('abcd')+['Void'], ignore_index=4))
ms = all_metrics()
idx = [[0,1,2,3],[4,5,6,0]][rank]     # seven items for two processes: fastai repeats the first
# batches of three and of one; the last of the second process is nothing but the repeated item
for i in (0, 3):
    learn.pred,learn.y = x[idx[i:i+3]],t[idx[i:i+3]]
    learn.dl = SimpleNamespace(i=min(i+3, 4), n=7, n_padded=8, world_size=2, rank=rank)
    for m in ms: m.accumulate(learn)
assert ms[0].confusion is ms[1].confusion
got,want = [m.value for m in ms],[float(o) for o in wanted(x, t)]
assert all(abs(a-b)<1e-12 for a,b in zip(got, want)) and len(got)==len(want), (got, want)
assert torch.equal(ms[0].confusion.gather().matrix, Confusion(5, 4).update(x, t).matrix)
assert [len(o.per_image) for o in ms[-3:]]==[7]*3 and ms[6].confusion.gather().matrices.shape[0]==7
print('rank', rank, 'agrees')
torch.distributed.destroy_process_group()
'''

def test_two_processes_count_each_image_once(tmp_path):
    (tmp_path/'two.py').write_text(TWO_PROCESSES)
    ps = [subprocess.Popen([sys.executable, tmp_path/'two.py', tmp_path/'meet',
                Path(__file__).parent], env={**os.environ, 'RANK': str(r), 'WORLD_SIZE': '2'},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for r in (0, 1)]
    try: outs = [p.communicate(timeout=1800)[0] for p in ps]
    finally: [p.kill() for p in ps]
    for r,o in enumerate(outs): assert f'rank {r} agrees' in o, o

# ---- sharing, memory, pickling

def test_metrics_keep_no_batch_alive():
    learn,ms = cardboard(*batch()),[MeanIoU(), PixelAccuracy(), BoundaryF1(), Hausdorff95()]
    for m in ms: m.accumulate(learn)
    refs = [weakref.ref(learn.pred), weakref.ref(learn.y)]
    learn.pred = learn.y = None
    gc.collect()
    assert [r() for r in refs]==[None, None]

def test_a_new_batch_at_the_old_address_is_counted():
    learn,m,want = cardboard(None, None),MeanIoU(),Confusion(K, VOID)
    # the memory of each batch is free again before the next is made
    for i in range(20):
        learn.pred,learn.y = batch(1, 8, 8, seed=i)
        m.accumulate(learn)
        want.update(learn.pred, learn.y)
        learn.pred = learn.y = None
    assert torch.equal(m.confusion.matrix, want.matrix)

def test_two_learners_share_nothing():
    a,b = cardboard(*batch(seed=1)),cardboard(*batch(seed=2))
    b.pred = a.pred                           # the same predictions, other masks
    m,n,u,v = MeanIoU(),MeanIoU(),BoundaryF1(),BoundaryF1()
    m.accumulate(a)
    n.accumulate(b)
    u.accumulate(a)
    v.accumulate(b)
    assert m.value==Confusion(K, VOID).update(a.pred, a.y).mean_iou() and n.value==Confusion(K,
        VOID).update(b.pred, b.y).mean_iou()
    assert [o.value for o in (u, v)]==[boundary_f1(o.pred, o.y, K, VOID).nanmean(1).nanmean().item()
        for o in (a, b)]

def test_metrics_and_their_memo_can_be_pickled():
    learn,ms = cardboard(*batch()),[PixelAccuracy(), MeanIoU(), MeanDice(), ClassIoU('b'),
        ClassIoU(2), BoundaryF1(), Hausdorff95(cls='b')]
    for m in ms: m.accumulate(learn)
    again,memo = pickle.loads(pickle.dumps([ms, learn._segbook_memo]))
    assert [m.value for m in again]==[m.value for m in ms] and not memo.holds(learn.pred, learn.y)

# ---- a GPU, if there is one

@pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU here')
@pytest.mark.parametrize('ignore', [None, VOID, 255])
def test_gpu_counts_the_same_and_never_waits(ignore):
    x,t = batch(device='cuda')
    if ignore==255: t[:,:3] = 255
    c,want = Confusion(K, ignore, per_image=True),Confusion(K, ignore)
    c.update(x, t)                            # the first looks at the ids
    torch.cuda.set_sync_debug_mode('error')
    try: c.update(x, t)
    finally: torch.cuda.set_sync_debug_mode('default')
    want.update(x.cpu(), t.cpu()).update(x.cpu(), t.cpu())
    assert torch.equal(c.matrix, want.matrix)
    for f in (boundary_f1, hausdorff95):
        assert torch.equal(f(x, t, K, ignore).nan_to_num(-1),
            f(x.cpu(), t.cpu(), K, ignore).nan_to_num(-1))

# ---- the highest score

@settings(max_examples=60, deadline=None)
@given(st.integers(0, 3), st.integers(2, 40), st.integers(1, 9), st.integers(1, 9),
    st.sampled_from(['float32', 'float64', 'float16', 'bfloat16']), st.booleans(),
    st.sampled_from([1., torch.nan, torch.inf, -torch.inf]), st.integers(0, 9))
def test_highest_ids_are_those_of_numpy(b, k, h, w, dtype, last, odd, seed):
    "Few different scores, so that most pixels are ties, and some NaN or infinite ones among them"
    g = torch.Generator().manual_seed(seed)
    x = torch.randint(-2, 3, (b,k,h,w), generator=g).to(getattr(torch, dtype))
    x[torch.rand(x.shape, generator=g)<.05] = odd
    if last: x = x.contiguous(memory_format=torch.channels_last)
    found = highest_ids(x)
    assert found.dtype==torch.long and found.shape==(b,h,w)
    assert np.array_equal(found.numpy(), x.float().numpy().argmax(1))

def test_highest_ids_are_pooled(monkeypatch):
    "In both orders of memory, a part at a time that fits into a cache; `max` would take longer."
    sizes,pool = [],F.max_pool2d
    def counted(x, *args, **kwargs):
        sizes.append(x.numel())
        return pool(x, *args, **kwargs)
    monkeypatch.setattr(F, 'max_pool2d', counted)
    x = torch.randn(2, 12, 160, 120)
    want = x.max(1).indices
    assert torch.equal(highest_ids(x), want) and sizes==[x.numel()]
    sizes.clear()
    assert torch.equal(highest_ids(x.contiguous(memory_format=torch.channels_last)), want)
    assert sum(sizes)==x.numel() and max(sizes)<=100_000*torch.get_num_threads()

# ---- the race

def test_bench_results_are_equal(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from bench import metrics as race
    x,t = torch.randn(2, race.K, 40, 30),torch.randint(0, race.K, (2,40,30))
    for o in (x, x.contiguous(memory_format=torch.channels_last)): assert race.check_equal(o, t)
    p = t.roll(1, 2).clamp(max=race.VOID-1)
    ours = torch.stack([boundary_f1(p, t, race.K, race.VOID, 1.5),
            hausdorff95(p, t, race.K, race.VOID)], -1)
    assert np.allclose(ours, race.transforms(p, t, 1.5), equal_nan=True)


FLUSHED = """
import numpy as np, torch
from segbook.metrics.distances import nearest_distances
rng = np.random.default_rng(679)
n = int(rng.integers(250, 330))
line = np.stack([np.arange(n) % 96, np.cumsum(rng.integers(0, 2, n)) % 128], 1)
points = np.unique(line, axis=0)*(1., 1.)
want = nearest_distances(points + (0, 5), points)
torch.set_flush_denormal(True)
assert np.allclose(nearest_distances(points + (0, 5), points), want, atol=1e-12)
"""


def test_distances_where_the_smallest_numbers_are_zero():
    "SciPy's tree of these points ends Python then, so this runs in a process of its own"
    done = subprocess.run([sys.executable, '-c', FLUSHED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
