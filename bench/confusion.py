"""Time Confusion against a plain confusion matrix, fastai's and torchmetrics' metrics, and the
boundary measures against distance transforms and MONAI: python bench/confusion.py [--runs 9]

All candidates see the same batch of logits, one after the other in every round, so that a busy
machine slows all alike; the median over the rounds counts. That the results are equal is checked in
the same run. Writes bench/results/confusion.json."""
from __future__ import annotations
import argparse, json, os, statistics, sys, tempfile, time, warnings
from itertools import product
from pathlib import Path
from types import SimpleNamespace

warnings.filterwarnings('ignore')
sys.path.insert(0, str(Path(__file__).parent))
import numpy as np, torch
from fastai.metrics import DiceMulti, JaccardCoeffMulti
from scipy.ndimage import distance_transform_edt
from torchmetrics.classification import MulticlassJaccardIndex
from about import about
from segbook.data import make_scenes
from segbook.masks import SegFolder, read_mask
from segbook.metrics import (
    Confusion, MeanDice, MeanIoU, PixelAccuracy, boundary_f1, boundary_pixels, hausdorff95)

B,K,H,W,VOID = 8,12,360,480,11

def fastai_pair(x, t):
    "fastai's mean IoU and mean Dice of one batch; without ignore_index, so Void counts too."
    ms,learn = (JaccardCoeffMulti(), DiceMulti()),SimpleNamespace(pred=x, y=t)
    for m in ms:
        m.reset()
        m.accumulate(learn)
    return ms

def segbook_three(x, t):
    "The three metrics of a learner together: they share one update."
    ms,learn = (PixelAccuracy(), MeanIoU(), MeanDice()),SimpleNamespace(pred=x, y=t)
    learn.dls = SimpleNamespace(vocab=range(K), ignore_index=VOID)
    for m in ms: m.accumulate(learn)
    return ms

def torchmetrics_iou(x, t):
    m = MulticlassJaccardIndex(K, ignore_index=VOID, average='macro')
    m.update(x, t)
    return m

def plain_matrix(x, t):
    "What the chapter begins with: the ids, one number a pair, one bincount; Void counted."
    return torch.bincount((t*K+x.max(1).indices).flatten(), minlength=K*K).view(K, K)

def plain_argmax(x, t):
    "The same as it is usually written: argmax, and the pixels with a truth picked out."
    keep,p = t!=VOID,x.argmax(1)
    return torch.bincount(t[keep]*K+p[keep], minlength=K*K).view(K, K)

def everything(x, t):
    "All scores of a Confusion: per class, per image, and every mean of them."
    c = Confusion(K, VOID, per_image=True).update(x, t)
    per_class = [c.matrix, c.iou(), c.dice(), c.pixel_accuracy(), c.mean_iou(), c.mean_dice()]
    return per_class+[o(per_image=True) for o in (c.iou, c.dice, c.pixel_accuracy, c.mean_iou,
            c.mean_dice)]

def candidates(x, t):
    return {'plain: x.max(1) and torch.bincount': lambda: plain_matrix(x, t),
            'plain: x.argmax(1), Void picked out, torch.bincount': lambda: plain_argmax(x, t),
            'segbook Confusion.update': lambda: Confusion(K, VOID).update(x, t),
            'segbook Confusion per image, every score': lambda: everything(x, t),
            'segbook Confusion.update, no Void': lambda: Confusion(K).update(x, t),
            'segbook PixelAccuracy + MeanIoU + MeanDice': lambda: segbook_three(x, t),
            'fastai JaccardCoeffMulti + DiceMulti, no Void': lambda: fastai_pair(x, t),
            'torchmetrics MulticlassJaccardIndex': lambda: torchmetrics_iou(x, t),
            'x.max(1) alone': lambda: x.max(1).indices,
            'x.argmax(1) alone': lambda: x.argmax(1)}

def check_equal(x, t):
    "Raise unless matrices and per-class scores are the same; the means to the last two bits."
    ours,plain = Confusion(K, VOID).update(x, t),Confusion(K).update(x, t)
    theirs,(jac,dice) = torchmetrics_iou(x, t),fastai_pair(x, t)
    assert torch.equal(ours.matrix, theirs.confmat), 'the matrix differs from torchmetrics'
    assert torch.equal(plain.matrix, plain_matrix(x, t)) and torch.equal(ours.matrix,
        plain_argmax(x, t)), 'the matrix differs from the plain one'
    assert torch.equal(everything(x, t)[0], ours.matrix) and everything(x, t)[4]==ours.mean_iou()
    for c in range(K):
        assert plain.iou()[c].item()==jac.inter[c]/(
            jac.union[c]-jac.inter[c]), f'IoU of class {c} differs from fastai'
        assert plain.dice()[c].item()==2*dice.inter[c]/dice.union[
            c], f'Dice of class {c} differs from fastai'
    assert abs(plain.mean_iou()-jac.value)<4e-16 and abs(plain.mean_dice()-dice.value)<4e-16
    assert abs(ours.mean_iou()-theirs.compute().item())<1e-6, 'torchmetrics divides in 32 bits'
    return True

def transforms(p, t, tolerance):
    "Boundary F1 and 95 % Hausdorff distance of each class by two distance transforms in a box."
    out = np.full((len(p), K, 2), np.nan)
    for b,k in np.ndindex(len(p), K):
        void = t[b]==VOID
        x,y = ((boundary_pixels(o.masked_fill(void, VOID), VOID) & (o==k) & ~void).numpy()
            for o in (p[b], t[b]))
        if k==VOID or not (x|y).any(): continue
        if not x.any() or not y.any():
            out[b,k] = 0,np.inf
            continue
        rows,cols = (np.flatnonzero((x|y).any(i)) for i in (1, 0))
        x,y = (o[rows[0]:rows[-1]+1,cols[0]:cols[-1]+1] for o in (x, y))
        near,back = distance_transform_edt(~y)[x],distance_transform_edt(~x)[y]
        P,R = (near<=tolerance).mean(),(back<=tolerance).mean()
        out[b,k] = 2*P*R/(P+R) if P+R else 0,max(np.percentile(near, 95), np.percentile(back, 95))
    return out

def race(fs, runs):
    "Milliseconds of each candidate in each round."
    times = {k:[] for k in fs}
    for f in fs.values(): f()
    for _ in range(runs):
        for k,f in fs.items():
            s = time.perf_counter()
            f()
            times[k].append(1000*(time.perf_counter()-s))
    return times

def boundary_race(runs):
    "The boundary measures on drawn streets, predicted three pixels off, with a few wrong pixels."
    from monai.metrics import compute_hausdorff_distance
    with tempfile.TemporaryDirectory() as d:
        t = torch.stack([torch.from_numpy(np.array(read_mask(o))).long()
                for o in SegFolder(make_scenes(Path(d)/'s', n=B, size=(H,W), seed=0)).labels])
    g = torch.Generator().manual_seed(42)
    p = torch.where(torch.rand(t.shape, generator=g)<.002,
        torch.randint(0, VOID, t.shape, generator=g), t.roll(3, 2).clamp(max=VOID-1))
    hot = [torch.nn.functional.one_hot(o, K).movedim(-1, 1) for o in (p, t)]
    ours = torch.stack([boundary_f1(p, t, K, VOID), hausdorff95(p, t, K, VOID)], -1).numpy()
    assert np.allclose(ours, transforms(p, t, 4.5),
        equal_nan=True), 'the distance transforms say otherwise'
    return race({'segbook hausdorff95': lambda: hausdorff95(p, t, K, VOID),
            'segbook boundary_f1': lambda: boundary_f1(p, t, K, VOID),
            'both by distance transforms': lambda: transforms(p, t, 4.5),
            "MONAI's compute_hausdorff_distance (image border counted, no Void)": lambda:
            compute_hausdorff_distance(*hot, include_background=True, percentile=95)}, runs)

def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--runs', type=int, default=9, help='rounds over all candidates')
    p.add_argument('--out', type=Path, default=Path(__file__).parent/'results'/'confusion.json',
        help='where to write the result')
    args = p.parse_args()
    g = torch.Generator().manual_seed(42)
    t = torch.randint(0, K, (B,H,W), generator=g)
    x = torch.randn(B, K, H, W, generator=g)
    res = dict(about('torchmetrics'), runs=args.runs, logits=[B,K,H,W], unit='ms, median (fastest)',
        load=os.getloadavg()[0], results={})
    layouts = dict(contiguous=torch.contiguous_format, channels_last=torch.channels_last)
    for (name,fmt),threads in product(layouts.items(), (torch.get_num_threads(), 1)):
        torch.set_num_threads(threads)
        xf = x.contiguous(memory_format=fmt)
        equal,times = check_equal(xf, t),race(candidates(xf, t), args.runs)
        ms = {k: statistics.median(v) for k,v in times.items()}
        ours,plain = ms['segbook Confusion.update'],ms['plain: x.max(1) and torch.bincount']
        ratios = {k: round(ms[k]/ours, 2) for k in ms if k.startswith(('fastai', 'torchmetrics'))}
        to_plain = {k: round(ms[k]/plain, 2) for k in ms if k.startswith('segbook')}
        res['results'][f'{name}, {threads} threads'] = dict(equal=equal,
            ms={k: [round(ms[k], 1), round(min(v), 1)] for k,v in times.items()}, ratios=ratios,
            ratios_to_plain=to_plain)
        print(f'\nlogits [{B},{K},{H},{W}] {name}, {threads} threads; results equal: '
            f'{equal}\n{"":52}{"median":>9}{"fastest":>9}{"ratio":>8}{"to plain":>10}')
        for k,v in times.items():
            print(f'{k:52}{ms[k]:6.1f} ms{min(v):6.1f} ms{ms[k]/ours:8.2f}{ms[k]/plain:10.2f}')
    times = boundary_race(args.runs)
    res['boundary'] = dict(masks=[B,H,W], classes=K,
        ms={k: [round(statistics.median(v)), round(min(v))] for k,v in times.items()})
    print(f'\nboundaries of [{B},{H},{W}] masks')
    for k,v in times.items(): print(f'{k:70}{statistics.median(v):6.0f} ms{min(v):6.0f} ms')
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(res, indent=1)+'\n')

if __name__=='__main__': main()
