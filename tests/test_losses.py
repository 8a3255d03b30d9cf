"""Every loss against a second source that shares no code with it, at 1e-6: torch,
segmentation-models-pytorch or MONAI where these are right, loops over the pixels in float64
everywhere. Then what no peer promises: ignored pixels, 16 bits, bad input, a GPU that never waits.
"""
import inspect, math, os, pickle, warnings
from itertools import product
from math import exp, log
from pathlib import Path

import numpy as np, pytest, torch, torch.nn.functional as F
from segbook.losses import (BorderWeightedLoss, CombinedLoss, CrossEntropyLoss, DiceLoss, FocalLoss,
    JaccardLoss, LovaszLoss, TverskyLoss, class_weights, unet_weight_map)
from segbook.losses.base import SegLoss
from segbook.masks import SegbookError

ROOT = Path(__file__).resolve().parent.parent
TOL = 1e-6
LOSSES = [CrossEntropyLoss, FocalLoss, DiceLoss, JaccardLoss, TverskyLoss, LovaszLoss,
    BorderWeightedLoss]

# ---- random cases: one logit, two, five; Void nowhere, outside, among the classes; classes that
# are absent

CASES = [(K, ignore, seed) for K in (1, 2, 5) for ignore in (None, 255, -100, 3) for seed in (0, 1)
    if K==5 or ignore!=3]

def case(K, ignore, seed, size=(2,5,4), absent=None):
    """Float64 logits, some large, and ids; every class is in every image but those `absent`.

    Where there is a Void, the last row of each image is."""
    g = torch.Generator().manual_seed(100*seed+K)
    x,t = 3*torch.randn(size[0], K, *size[1:], generator=g, dtype=torch.float64),torch.randint(0,
        max(2, K), size, generator=g)
    for m in t: m.view(-1)[:max(2, K)] = torch.arange(max(2, K))
    if absent is not None: t[t==absent] = 0
    if ignore is not None: t[:,-1] = ignore
    return x,t

def weights(K):
    return 0.2+torch.rand(max(2, K), generator=torch.Generator().manual_seed(K),
        dtype=torch.float64)
def close(a, b): assert abs(float(a)-float(b))<TOL*max(1, abs(float(b))), (float(a), float(b))

# ---- the loops, from the formulas, in float64

def pixels(x, t, ignore):
    "(image, row, column, probabilities, id) of every pixel that counts."
    for b,i,j in np.ndindex(*t.shape):
        k = int(t[b,i,j])
        if k==ignore: continue
        z = x[b,:,i,j].tolist()
        if len(z)==1: z = [0., *z]
        e = [exp(v-max(z)) for v in z]
        yield b,i,j,[v/sum(e) for v in e],k

def per_pixel(x, t, ignore, cost, w=None):
    "Weighted mean of a cost (probabilities, id)."
    w = [1.]*max(2, x.shape[1]) if w is None else w.tolist()
    ps = [(p, k) for *_,p,k in pixels(x, t, ignore)]
    return sum(w[k]*cost(p, k) for p,k in ps)/sum(w[k] for _,k in ps)

def sums_by_class(x, t, ignore, images, squared=False):
    "{class: (I, P, T, pixels)} of some images; with one logit of class 1 alone."
    K = max(2, x.shape[1])
    I,P,T,n = [0.]*K,[0.]*K,[0]*K,0
    for b,_,_,p,k in pixels(x, t, ignore):
        if b not in images: continue
        n += 1
        T[k] += 1
        I[k] += p[k]
        for c in range(K): P[c] += p[c]**2 if squared else p[c]
    return {k: (I[k], P[k], T[k], n) for k in ([1] if x.shape[1]==1 else range(K)) if k!=ignore}

def overlap(x, t, ignore, score, w=None, per_image=False, squared=False, push=None):
    """1 - score, weighted mean over what is there.

    With `push` an absent class costs its mean probability."""
    push = x.shape[1]==1 if push is None else push
    top = bottom = 0.
    for images in ([[b] for b in range(len(t))] if per_image else [range(len(t))]):
        for k,(I,P,T,n) in sums_by_class(x, t, ignore, images, squared).items():
            if not T and not push: continue
            v = 1. if w is None else float(w[k])
            top,bottom = top+v*(1-score(I, P, T) if T else P/n),bottom+v
    return top/bottom

def dice(I, P, T): return 2*I/(P+T)
def jaccard(I, P, T): return I/(P+T-I)
def tversky(I, P, T): return I/(I+.3*(P-I)+.7*(T-I))

def lovasz(x, t, ignore, w=None, per_image=False):
    "By the definition: each error times what the Jaccard loss of the set of worse errors grows by."
    hinge,each = x.shape[1]==1,[]
    for images in ([[b] for b in range(len(t))] if per_image else [range(len(t))]):
        top,bottom = 0.,0.
        ps = [(float(x[b,0,i,j]) if hinge else p, k) for b,i,j,p,k in pixels(x, t, ignore)
            if b in images]
        for c in ([1] if hinge else range(x.shape[1])):
            there = sum(k==c for _,k in ps)
            if c==ignore or not (there or hinge): continue
            errors = sorted(((1-p*(1 if k==c else -1) if hinge else 1-p[c] if k==c else p[c]), k==c)
                for p,k in ps)[::-1]
            missed = false = 0
            before = loss = 0.
            for e,true in errors:
                missed,false = missed+true,false+(not true)
                now = 1-(there-missed)/(there+false)
                loss += max(e, 0)*(now-before)
                before = now
            v = 1. if w is None else float(w[c])
            top,bottom = top+v*loss,bottom+v
        if bottom: each.append(top/bottom)
    return sum(each)/len(each)

def map_loops(m, w0=10, sigma=5):
    "The weights of U-Net by the distance from every pixel to every pixel of every cell."
    out = np.ones(m.shape)
    for i,j in np.ndindex(*m.shape):
        d = sorted(min(math.dist((i,j), q) for q in zip(*np.nonzero(m==k)))
            for k in np.unique(m[m>0]))
        if len(d)>1: out[i,j] += w0*exp(-(d[0]+d[1])**2/(2*sigma**2))
    return out

# ---- every loss against the loops

@pytest.mark.parametrize('K,ignore,seed', CASES)
def test_losses_of_pixels_equal_the_loops(K, ignore, seed):
    x,t = case(K, ignore, seed)
    for w in (None, weights(K)):
        close(CrossEntropyLoss(w, ignore)(x, t), per_pixel(x, t, ignore, lambda p,k: -log(p[k]), w))
        for gamma in (0., .5, 2.):
            close(FocalLoss(w, ignore, gamma)(x, t),
                per_pixel(x, t, ignore, lambda p,k: -(1-p[k])**gamma*log(p[k]), w))
    smooth = per_pixel(x, t, ignore, lambda p,k: -.8*log(p[k])-.2*sum(map(log, p))/len(p))
    close(CrossEntropyLoss(None, ignore, .2)(x, t), smooth)

@pytest.mark.parametrize('K,ignore,seed', CASES)
@pytest.mark.parametrize('absent', [None, 1])
def test_losses_of_overlap_equal_the_loops(K, ignore, seed, absent):
    x,t = case(K, ignore, seed, absent=absent)
    # class 0 is in the second image alone
    t[0][t[0]==0] = 1 if absent is None else 0
    for w,per_image in product((None, weights(K)), (False, True)):
        kw = dict(weight=w, ignore_index=ignore, per_image=per_image)
        close(DiceLoss(**kw)(x, t), overlap(x, t, ignore, dice, w, per_image))
        close(DiceLoss(squared=True, **kw)(x, t),
            overlap(x, t, ignore, dice, w, per_image, squared=True))
        close(DiceLoss(smooth=1., **kw)(x, t),
            overlap(x, t, ignore, lambda I,P,T: (2*I+1)/(P+T+1), w, per_image))
        close(DiceLoss(absent='push', **kw)(x, t),
            overlap(x, t, ignore, dice, w, per_image, push=True))
        close(JaccardLoss(**kw)(x, t), overlap(x, t, ignore, jaccard, w, per_image))
        close(TverskyLoss(**kw)(x, t), overlap(x, t, ignore, tversky, w, per_image))
        close(TverskyLoss(gamma=.75, **kw)(x, t),
            overlap(x, t, ignore, lambda I,P,T: 1-(1-tversky(I, P, T))**.75, w, per_image))
        close(LovaszLoss(**kw)(x, t), lovasz(x, t, ignore, w, per_image))

@pytest.mark.parametrize('K,ignore,seed', CASES)
def test_per_class_and_reductions(K, ignore, seed):
    x,t = case(K, ignore, seed, absent=1 if K==5 else None)
    got = DiceLoss(None, ignore).per_class(x, t)
    want = {k: 1-dice(*o[:3]) for k,o in sums_by_class(x, t, ignore, range(len(t))).items() if o[2]}
    assert got.shape==(K,)
    for k,v in enumerate(got): close(v, want[k+(K==1)]) if k+(K==1) in want else None
    assert [k for k in range(K) if got[k].isnan()]==[k for k in range(K) if k+(K==1) not in want]
    close(DiceLoss(None, ignore, reduction='sum')(x, t), sum(want.values()))
    close(DiceLoss(weights(K), ignore, reduction='sum')(x, t),
        sum(float(weights(K)[k])*v for k,v in want.items()))
    for f,one in ((DiceLoss, lambda x,t: overlap(x, t, ignore, dice)),
            (LovaszLoss, lambda x,t: lovasz(x, t, ignore))):
        each = f(None, ignore, reduction='none')(x, t)
        assert each.shape==(len(t),)
        for b in range(len(t)): close(each[b], one(x[b:b+1], t[b:b+1]))
    for f in (CrossEntropyLoss, FocalLoss, BorderWeightedLoss):
        each = f(None, ignore, reduction='none')(x, t)
        assert each.shape==t.shape and (each[t==ignore]==0).all()
        close(each.sum(), f(None, ignore, reduction='sum')(x, t))

@pytest.mark.parametrize('K,ignore,seed', CASES)
def test_border_weights_equal_the_loops(K, ignore, seed):
    x,t = case(K, ignore, seed, size=(1,7,8))
    cells = torch.zeros_like(t)
    cells[:,:3,:2],cells[:,1:5,3:5],cells[:,4:,7:] = 1,2,7
    for inside,w in product((True, False), (None, weights(K))):
        m = map_loops(cells[0].numpy())
        if not inside: m[cells[0].numpy()>0] = 1
        top = bottom = 0.
        for _,i,j,p,k in pixels(x, t, ignore):
            v = m[i,j]*(1 if w is None else float(w[k]))
            top,bottom = top-v*log(p[k]),bottom+v
        close(BorderWeightedLoss(w, ignore, inside=inside)(x, t, cells), top/bottom)
        close(BorderWeightedLoss(w, ignore)(x, t, torch.from_numpy(m)[None]), top/bottom)

def test_border_weights_from_the_mask_alone():
    t = torch.tensor([[[1,1,0,1,1],[1,1,0,2,2],[0,0,0,0,0],[255,255,255,1,0]]])
    # Void is no cell; class 2 beside class 1 is one piece with it
    pieces = torch.tensor([[[1,1,0,2,2],[1,1,0,2,2],[0,0,0,0,0],[0,0,0,3,0]]])
    x = case(3, None, 0, (1,4,5))[0]
    close(BorderWeightedLoss(None, 255)(x, t), BorderWeightedLoss(None, 255)(x, t, pieces))

@pytest.mark.parametrize('seed', range(3))
def test_weight_map_equals_distances_to_every_cell(seed):
    from scipy.ndimage import distance_transform_edt
    g = np.random.default_rng(seed)
    m = np.zeros((23,17), np.int32)
    for k in range(1, 7):
        y,x = g.integers(0, 19),g.integers(0, 13)
        m[y:y+g.integers(1, 5),x:x+g.integers(1, 5)] = 10*k
    assert abs(unet_weight_map(m)-map_loops(m)).max()<1e-5
    assert abs(unet_weight_map(m, 3, 1.5)-map_loops(m, 3, 1.5)).max()<1e-5
    big = np.zeros((90,120), np.int64)
    big[10:33,20:37],big[60:83,100:117],big[35:58,22:39] = m,m+(m>0)*1000,m+(m>0)*2000
    d = np.sort([distance_transform_edt(big!=k) for k in np.unique(big) if k], axis=0)
    assert abs(unet_weight_map(big)-(1+10*np.exp(-(d[0]+d[1])**2/50))).max()<1e-5

def test_combined_is_the_weighted_sum():
    x,t = case(5, 3, 0)
    parts = CrossEntropyLoss(weights(5), 3),DiceLoss(None, 3),LovaszLoss(None, 3),DiceLoss(None, 3,
        squared=True)
    f = CombinedLoss(*parts, weights=(1, .5, 2, .1))
    close(f(x, t), per_pixel(x, t, 3, lambda p,k: -log(p[k]), weights(5))+.5*overlap(x, t, 3,
            dice)+2*lovasz(x, t, 3)+.1*overlap(x, t, 3, dice, squared=True))
    assert list(f.parts)==['CrossEntropyLoss', 'DiceLoss 1', 'LovaszLoss', 'DiceLoss 3']
    each = CombinedLoss(*parts[:2], reduction='none')(x, t)
    for b in range(len(t)):
        close(each[b], per_pixel(x[b:b+1], t[b:b+1], 3, lambda p,k: -log(p[k]),
                weights(5))+overlap(x[b:b+1], t[b:b+1], 3, dice))

# ---- every loss against a peer, where the peer is right

@pytest.fixture(scope='module')
def smp(): return pytest.importorskip('segmentation_models_pytorch.losses')
@pytest.fixture(scope='module')
def monai():
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return pytest.importorskip('monai.losses')

def grads(f, x, t):
    x = x.detach().clone().requires_grad_()
    loss = f(x, t)
    loss.sum().backward()
    return loss.detach(),x.grad

def same(f, g, x, t):
    "Value and gradient, at 1e-6."
    for a,b in zip(grads(f, x, t), grads(g, x, t)):
        assert torch.allclose(a.double(), b.double(), rtol=TOL, atol=TOL), (a-b).abs().max()

@pytest.mark.parametrize('K,ignore,seed', CASES)
def test_cross_entropy_equals_torch(K, ignore, seed):
    x,t = case(K, ignore, seed)
    for w,eps,red in product((None, weights(K)), (0., .1), ('mean', 'sum')):
        f = CrossEntropyLoss(w, ignore, eps, red)
        if K>1:
            same(f, lambda x,t: F.cross_entropy(x, t, w,
                    ignore_index=-100 if ignore is None else ignore, label_smoothing=eps,
                    reduction=red), x, t)
        elif not eps:
            def bce(x, t):
                keep = torch.ones_like(t, dtype=torch.bool) if ignore is None else t!=ignore
                loss = F.binary_cross_entropy_with_logits(x[:,0][keep], t[keep].double(),
                    None if w is None else w[t[keep]], reduction='sum')
                return loss if red=='sum' else loss/(keep.sum() if w is None else w[t[keep]].sum())
            same(f, bce, x, t)

@pytest.mark.parametrize('ignore,seed', list(product((None, 255), (0, 1, 2))))
def test_overlap_equals_smp(smp, ignore, seed):
    # every class is there, Void outside: there smp is right
    for K,mode in ((1, 'binary'), (2, 'multiclass'), (5, 'multiclass')):
        x,t = case(K, ignore, seed)
        same(DiceLoss(None, ignore), smp.DiceLoss(mode, ignore_index=ignore), x, t)
        same(DiceLoss(None, ignore, smooth=.5), smp.DiceLoss(mode, ignore_index=ignore, smooth=.25),
            x, t)
        same(JaccardLoss(None, ignore), smp.JaccardLoss(mode, ignore_index=ignore), x, t)
        same(TverskyLoss(None, ignore), smp.TverskyLoss(mode, ignore_index=ignore, alpha=.3,
                beta=.7), x, t)
        if K>1:
            same(DiceLoss(weights(K), ignore), smp.DiceLoss(mode, ignore_index=ignore,
                    class_weights=weights(K).tolist()), x, t)

@pytest.mark.parametrize('ignore,seed', list(product((None, 255, 3), (0, 1, 2))))
def test_lovasz_and_binary_focal_equal_smp(smp, ignore, seed):
    for absent in (None, 1):
        x,t = case(5, ignore, seed, absent=absent)
        # smp's wants 32 bits
        same(LovaszLoss(None, ignore), smp.LovaszLoss('multiclass', ignore_index=ignore), x.float(),
            t)
        same(LovaszLoss(None, ignore, per_image=True),
            smp.LovaszLoss('multiclass', ignore_index=ignore, per_image=True), x.float(), t)
    x,t = case(1, ignore, seed)
    same(LovaszLoss(None, ignore), smp.LovaszLoss('binary', ignore_index=ignore), x.float(), t)
    for gamma in (1., 2.):
        same(FocalLoss(None, ignore, gamma), smp.FocalLoss('binary', gamma=gamma,
                ignore_index=ignore), x, t)

@pytest.mark.parametrize('ignore,seed', list(product((None, 255), (0, 1))))
def test_dice_and_focal_equal_monai(monai, ignore, seed):
    for K in (2, 5):
        x,t = case(K, ignore, seed)
        kw = dict(softmax=True, to_onehot_y=True, smooth_nr=0, smooth_dr=0, ignore_index=ignore)
        def of(f): return lambda x,t: f(x, t[:,None])
        same(DiceLoss(None, ignore, squared=True),
            of(monai.DiceLoss(squared_pred=True, batch=True, **kw)), x, t)
        same(DiceLoss(None, ignore, per_image=True), of(monai.DiceLoss(**kw)), x, t)
        same(JaccardLoss(None, ignore, per_image=True), of(monai.DiceLoss(jaccard=True, **kw)), x,
            t)
        same(TverskyLoss(None, ignore), of(monai.TverskyLoss(softmax=True, to_onehot_y=True,
                    alpha=.3, beta=.7, batch=True, smooth_nr=0, smooth_dr=0, ignore_index=ignore)),
            x, t)
        # without an ignore_index it divides by K as well
        focal = monai.FocalLoss(use_softmax=True, to_onehot_y=True, ignore_index=ignore)
        same(FocalLoss(None, ignore), lambda x,t: of(focal)(x, t)*(K if ignore is None else 1), x,
            t)

def test_class_weights_equal_scikit_learn():
    from sklearn.utils.class_weight import compute_class_weight
    y = np.repeat(np.arange(5), [400, 3, 70, 70, 9])
    w = compute_class_weight('balanced', classes=np.arange(5), y=y)
    assert np.allclose(class_weights(np.bincount(y), 'inverse'), w/w.mean(), atol=TOL)
    assert np.allclose(class_weights(np.bincount(y)), np.sqrt(w)/np.sqrt(w).mean(), atol=TOL)

def test_class_weights_by_hand():
    "Counts 400, 100, an absent class, Void: the mean over the two that are there is 1."
    for method,want in dict(inverse=[.4, 1.6, 0, 0], sqrt_inverse=[2/3, 4/3, 0, 0],
            median_frequency=[.4, 1.6, 0, 0]).items():
        assert np.allclose(class_weights([400,100,0,77], method, 3), want, atol=TOL)
    images = [[90,10,0], [100,0,0]]              # class 1 is 10 % of the one image that has it
    assert np.allclose(class_weights(images, 'median_frequency'), [2*.1/1.05, 2*.95/1.05, 0],
        atol=TOL)
    n = np.array([1000., 50.])
    w = (1-.99)/(1-.99**n)
    assert np.allclose(class_weights(n, 'effective_number', beta=.99), w/w.mean(), atol=TOL)

# ---- ignored pixels, extremes, precision

def poisoned(K, ignore, what):
    x,t = case(K, ignore, 0, (2,6,5))
    x = x.float()
    x.permute(0,2,3,1)[t==ignore] = what
    return x,t

@pytest.mark.parametrize('f', LOSSES)
@pytest.mark.parametrize('K,ignore', [(1, 255), (2, 255), (5, 3), (5, -100)])
@pytest.mark.parametrize('what', [0., 1e30, math.inf, -math.inf, math.nan])
def test_an_ignored_pixel_feels_nothing_and_says_nothing(f, K, ignore, what):
    x,t = poisoned(K, ignore, what)
    plain,_ = poisoned(K, ignore, 0.)
    for loss in (f(None, ignore), f(weights(K), ignore, reduction='sum'),
            CombinedLoss(f(None, ignore), CrossEntropyLoss(None, ignore))):
        # the way of the CPU, and that of a GPU after the first call
        for looks in (True, False):
            if not looks: [setattr(o, '_inspects', lambda t: False) for o in loss.modules()]
            (value,grad),(value0,grad0) = grads(loss, x, t),grads(loss, plain, t)
            assert (grad.permute(0,2,3,1)[t==ignore]==0).all() and torch.allclose(grad, grad0,
                rtol=1e-4, atol=1e-7) and torch.allclose(value, value0)

VARIANTS = dict(focal_half=lambda **kw: FocalLoss(gamma=.5, **kw),
    squared=lambda **kw: DiceLoss(squared=True, **kw),
    focal_tversky=lambda **kw: TverskyLoss(gamma=.75, **kw),
    push=lambda **kw: DiceLoss(absent='push', **kw),
    smoothed=lambda **kw: CrossEntropyLoss(label_smoothing=.1, **kw))

@pytest.mark.parametrize('f', [*LOSSES, *VARIANTS.values()],
    ids=[*(o.__name__ for o in LOSSES), *VARIANTS])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize('K', [1, 5])
def test_finite_in_every_corner(f, dtype, K):
    _,t = case(K, None, 0)
    sign = torch.randint(0, 2, (2,K,5,4), generator=torch.Generator().manual_seed(0))*2.-1
    masks = dict(random=t, empty=t*0, one_class=t*0+1, absent=t.where(t!=1, 0),
        one_pixel=torch.where(torch.arange(40).view(2,5,4)==7, 1, 255),
        half=torch.cat([t[:1], t[1:]*0+255]))
    for (name,m),size in product(masks.items(), (1., 1e4)):
        loss,grad = grads(f(weight=weights(K), ignore_index=255), (size*sign).to(dtype), m)
        assert loss.isfinite() and grad.isfinite().all() and grad.dtype==dtype, (name, size)

@pytest.mark.parametrize('f', [*LOSSES, lambda w,
        v: CombinedLoss(CrossEntropyLoss(w, v), DiceLoss(w, v))])
@pytest.mark.parametrize('K', [1, 3])
def test_nothing_counts_gives_0_and_one_warning(f, K):
    for w,void in product((None, weights(K)), (255, 2)):
        loss = f(w, void)
        x,t = torch.randn(2, K, 4, 3),torch.full((2,4,3), void)
        with warnings.catch_warnings(record=True) as ws:
            warnings.simplefilter('always')
            (value,grad),_ = grads(loss, x, t),grads(loss, x, t)
        assert value==0 and torch.equal(grad, torch.zeros_like(x))
        assert len(ws)==len(getattr(loss, 'losses',
                [0])) and 'no pixel of this batch counts: all 24 are ignored' in str(ws[0].message)

@pytest.mark.parametrize('f', LOSSES)
def test_16_bits_and_autocast_cost_no_precision(f):
    x,t = case(5, 3, 0, (2,40,30))
    x = x.float()
    loss = f(None, 3)
    want = loss(x, t)
    for dtype in (torch.float16, torch.bfloat16):
        close(loss(x.to(dtype), t), loss(x.to(dtype).float(), t))
    with torch.autocast('cpu', torch.bfloat16): assert loss(x, t)==want

@pytest.mark.parametrize('f', [*LOSSES, lambda v:
        CombinedLoss(FocalLoss(None, v), LovaszLoss(None, v))])
@pytest.mark.parametrize('K,ignore', [(1, None), (1, 255), (3, 2), (3, 255)])
def test_gradcheck(f, K, ignore):
    x,t = case(K, ignore, 0, (2,3,3))
    loss = f(ignore) if isinstance(f, type(lambda: 0)) else f(None, ignore)
    assert torch.autograd.gradcheck(lambda x: loss(x, t), x.requires_grad_())

@pytest.mark.parametrize('f', LOSSES)
def test_empty_batch_and_memory_order(f):
    loss = f(None, 255)
    x,t = case(5, 255, 0)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert loss(x[:0], t[:0])==0
        for m in (t.to(torch.int16), t.to(torch.uint8),
                t.transpose(1, 2).contiguous().transpose(1, 2)):
            assert loss(x, m)==loss(x, t)
        close(loss(x.contiguous(memory_format=torch.channels_last), t), loss(x, t))

# ---- what all losses share

class WrongShare(SegLoss):
    "The share of probability that the true class did not get: a loss that adds one method."
    def _compute(self, b):
        p = self.activation(b.x).gather(1, b.t.where(b.keep, 0)[:,None])[:,0]
        return ((1-p)*b.keep).sum()/b.total

def test_a_new_loss_adds_one_method():
    x,t = case(5, 255, 0)
    close(WrongShare(ignore_index=255)(x, t), per_pixel(x, t, 255, lambda p,k: 1-p[k]))
    with pytest.raises(SegbookError, match='id 17'):
        WrongShare(ignore_index=255)(x, t.where(t!=4, 17))
    f = CombinedLoss(WrongShare(ignore_index=255), DiceLoss(None, 255))
    close(f(x, t), per_pixel(x, t, 255, lambda p,k: 1-p[k])+overlap(x, t, 255, dice))

def test_settings_reach_the_parts_of_a_sum_of_sums():
    inner = CombinedLoss(CrossEntropyLoss(), DiceLoss())
    outer = CombinedLoss(inner, FocalLoss(), reduction='sum')
    outer.ignore_index = 4
    assert [(o.ignore_index, o.reduction) for o in inner.losses]==[(4, 'sum')]*2
    with pytest.raises(SegbookError, match='one whole number'): outer.ignore_index = 'Void'

@pytest.mark.parametrize('f', [*LOSSES, CombinedLoss, class_weights, unet_weight_map])
def test_no_more_than_six_arguments_by_position(f):
    kinds = [o.kind for o in inspect.signature(f).parameters.values()]
    assert kinds.count(inspect.Parameter.POSITIONAL_OR_KEYWORD)<=6

def test_counts_of_dataloaders_made_by_hand(tmp_path):
    "Void is found in the vocab where the DataLoaders do not say which id is ignored."
    from segbook.data import make_scenes, seg_dataloaders
    dls = seg_dataloaders(make_scenes(tmp_path/'s', n=4, size=(48,64)), bs=2)
    want = class_weights(dls)
    bare = seg_dataloaders(tmp_path/'s', bs=2)
    del bare.ignore_index
    assert torch.equal(class_weights(bare), want) and want[list(dls.vocab).index('Void')]==0

# ---- bad input

@pytest.mark.parametrize('f', LOSSES)
def test_bad_input_is_named(f):
    x,t = torch.randn(1, 3, 4, 4),torch.zeros(1, 4, 4, dtype=torch.long)
    bad = t.clone()
    bad[0,0,:2] = 17
    one = torch.randn(1, 1, 4, 4)
    for args,texts in [((x, bad), ['id 17 (2 pixels)', 'ids 0 to 2 for 3 classes', 'ignore_index '
                    '255']), ((one, t+255*0-1), ['id -1 (16 pixels)', 'ids 0 to 1']),
            ((x, t.float()), ['float32', 'mask.long()']),
            ((x, t[:,:3]), ['[1, 3, 4, 4]', '[1, 3, 4]', 'F.interpolate']),
            ((x, t[:,None]), ['[1, 1, 4, 4]', 'mask[:,0]']),
            ((x, t[:,None].expand(1, 3, 4, 4)), ['mask.argmax(1)']),
            ((t, t), ['torch.int64', 'Pass what the model returns']),
            ((x[0], t[0]), ['[3, 4, 4]'])]:
        with pytest.raises(SegbookError) as e: f(None, 255)(*args)
        assert all(o in str(e.value) for o in texts), str(e.value)
    for w,K in ((torch.ones(5), 3), (torch.ones(3), 1), (torch.ones(1), 1)):
        with pytest.raises(SegbookError, match=f'{len(w)} numbers and the logits have {max(2, K)} '
                'classes'):
            f(w, 255)(x[:,:K], t)
    for w in ([1., -1, 1], [1., math.nan, 1], [[1., 1, 1]]):
        with pytest.raises(SegbookError, match='one finite number of at least 0'): f(w)
    for v in ('Void', 1.5, True, [0, 1], torch.tensor(1.)):
        with pytest.raises(SegbookError, match='ignore_index is .*one whole number'):
            f(ignore_index=v)
    for v in (np.int64(2), torch.tensor(2)): assert f(ignore_index=v).ignore_index==2
    with pytest.raises(SegbookError, match="'mean', 'sum' or 'none'"): f(reduction='avg')

@pytest.mark.parametrize('f', LOSSES)
@pytest.mark.parametrize('v', [0, 1])
def test_ignoring_one_of_two_classes(f, v):
    t = torch.tensor([[[0,1],[1,0]]])
    with pytest.raises(SegbookError, match=f'ignore_index {v} is one of only two classes: class '
            f'{1-v} alone is left.*such as 255'):
        f(None, v)(torch.randn(1, 1, 2, 2), t)
    loss,x = f(None, v),torch.randn(1, 2, 2, 2)
    with pytest.warns(UserWarning, match='one of only two classes'): loss(x, t)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        loss(x, t)
        f(None, v)(torch.randn(1, 3, 2, 2), t)
    if f is CrossEntropyLoss: close(loss(x, t), F.cross_entropy(x, t, ignore_index=v))

@pytest.mark.parametrize('f', LOSSES)
@pytest.mark.parametrize('K,ignore', [(5, None), (5, 3), (5, 255), (1, 255), (1, None)])
def test_the_way_of_a_gpu_gives_the_same_and_survives_unknown_ids(f, K, ignore):
    x,t = case(K, ignore, 0)
    for w in (None, weights(K)):
        a,b = f(w, ignore),f(w, ignore)
        b._inspects = lambda t: False
        same(a, b, x, t)
        for strange in (K+7, -5, 2**40):
            bad = t.clone()
            bad[0,0,:2] = strange
            value,grad = grads(b, x, bad)
            assert value.isnan() and grad.isfinite().all() and (grad[0,:,0,
                    :2]==0).all() and grad.abs().sum()>0
            assert torch.allclose(grad, grads(f(w, strange), x,
                    bad.where(bad!=ignore, strange) if ignore is not None else bad)[1])

def test_a_cross_entropy_moves_and_saves_with_its_weights():
    f = CrossEntropyLoss(torch.arange(1., 6), 4)
    x,t = case(5, 4, 0)
    x = x.float()
    g = pickle.loads(pickle.dumps(f.to(torch.float64)))
    assert g.ignore_index==4 and torch.allclose(g(x, t),
        CrossEntropyLoss(torch.arange(1., 6), 4)(x, t))

def test_combined_names_what_does_not_fit():
    with pytest.raises(SegbookError, match='CrossEntropyLoss None, DiceLoss 3'):
        CombinedLoss(CrossEntropyLoss(), DiceLoss(None, 3))
    with pytest.raises(SegbookError, match='1 losses and 2 weights'):
        CombinedLoss(CrossEntropyLoss(), weights=(1, 2))
    with pytest.raises(SegbookError, match='0 losses'): CombinedLoss()
    with pytest.raises(SegbookError, match=r'DiceLoss\(\), not DiceLoss'): CombinedLoss(DiceLoss)
    with pytest.raises(SegbookError, match='reduction'): CombinedLoss(DiceLoss(), reduction='avg')
    f = CombinedLoss(CrossEntropyLoss(), DiceLoss())
    f.ignore_index = 7
    assert [o.ignore_index for o in f.losses]==[7, 7]

# ---- a GPU, if there is one

@pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU here')
# the map of borders is made on the CPU
@pytest.mark.parametrize('f', [o for o in LOSSES if o is not BorderWeightedLoss])
@pytest.mark.parametrize('ignore', [None, 3, 255])
def test_gpu_gives_the_same_and_never_waits(f, ignore):
    x,t = case(5, ignore, 0)
    x = x.float()
    w = torch.arange(1., 6)
    loss,xg,tg = f(w.cuda(), ignore),x.cuda(),t.cuda()
    loss(xg, tg)                                # the first looks at the ids
    torch.cuda.set_sync_debug_mode('error')
    try: value = loss(xg, tg)
    finally: torch.cuda.set_sync_debug_mode('default')
    assert torch.allclose(value.cpu(), f(w, ignore)(x, t), rtol=1e-4)
    tg[0,0,0] = 17
    assert loss(xg, tg).isnan()                 # and the session lives on

# ---- real images, if they are there

REAL = Path(os.environ.get('SEGBOOK_REAL_DATA', ROOT.parent/'shared'/'data'))/'camvid_tiny'

@pytest.mark.skipif(not REAL.is_dir(), reason='no real images here: set SEGBOOK_REAL_DATA')
def test_class_weights_of_real_masks(monkeypatch):
    from segbook.data import seg_dataloaders
    from segbook.masks import SegFolder, read_mask
    folder = SegFolder(REAL)
    dls = seg_dataloaders(REAL, bs=4)
    n = torch.zeros(len(folder.codes), dtype=torch.long)
    for f,m in zip(folder.images, folder.labels):
        if f.name not in folder.valid:
            n += torch.bincount(torch.tensor(read_mask(m)).long().flatten(), minlength=len(n))
    w = class_weights(dls)
    assert torch.allclose(w, class_weights(n,
            ignore_index=folder.ignore_index)) and w[folder.ignore_index]==0
    assert abs(w[w>0].mean()-1)<1e-5
    def read_again(*args): raise AssertionError('the masks were read again')
    monkeypatch.setattr('segbook.losses.base.pixels_by_class', read_again)
    class_weights(dls, 'inverse')
