"""Time Confusion.update against fastai's and torchmetrics' metrics on one batch of logits: python bench/confusion.py [--runs 9]

All candidates see the same batch, one after the other in every round, so that a busy machine slows all alike; the median
over the rounds counts. That the results are equal is checked in the same run. Writes bench/results/confusion.json."""
from __future__ import annotations
import argparse, json, os, statistics, sys, time, warnings
from itertools import product
from pathlib import Path
from types import SimpleNamespace

warnings.filterwarnings('ignore')
sys.path.insert(0, str(Path(__file__).parent))
import torch
from fastai.metrics import DiceMulti, JaccardCoeffMulti
from torchmetrics.classification import MulticlassJaccardIndex
from about import about
from segbook.metrics import Confusion, MeanDice, MeanIoU, PixelAccuracy

B,K,H,W,VOID = 8,12,360,480,11

def fastai_pair(x, t):
    "fastai's mean IoU and mean Dice of one batch; they have no ignore_index, so they count Void like any class."
    ms,learn = (JaccardCoeffMulti(), DiceMulti()),SimpleNamespace(pred=x, y=t)
    for m in ms: m.reset(); m.accumulate(learn)
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

def candidates(x, t):
    return {'segbook Confusion.update': lambda: Confusion(K, VOID).update(x, t),
            'segbook Confusion.update, no Void': lambda: Confusion(K).update(x, t),
            'segbook PixelAccuracy + MeanIoU + MeanDice': lambda: segbook_three(x, t),
            'fastai JaccardCoeffMulti + DiceMulti, no Void': lambda: fastai_pair(x, t),
            'torchmetrics MulticlassJaccardIndex': lambda: torchmetrics_iou(x, t),
            'x.max(1) alone': lambda: x.max(1).indices,
            'x.argmax(1) alone': lambda: x.argmax(1)}

def check_equal(x, t):
    "Raise unless matrices and per-class scores are the same numbers; the means to the last two bits."
    ours,plain = Confusion(K, VOID).update(x, t),Confusion(K).update(x, t)
    theirs,(jac,dice) = torchmetrics_iou(x, t),fastai_pair(x, t)
    assert torch.equal(ours.matrix, theirs.confmat), 'the matrix differs from torchmetrics'
    for c in range(K):
        assert plain.iou()[c].item()==jac.inter[c]/(jac.union[c]-jac.inter[c]), f'IoU of class {c} differs from fastai'
        assert plain.dice()[c].item()==2*dice.inter[c]/dice.union[c], f'Dice of class {c} differs from fastai'
    assert abs(plain.mean_iou()-jac.value)<4e-16 and abs(plain.mean_dice()-dice.value)<4e-16
    assert abs(ours.mean_iou()-theirs.compute().item())<1e-6, 'torchmetrics divides in 32 bits'
    return True

def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--runs', type=int, default=9, help='rounds over all candidates')
    p.add_argument('--out', type=Path, default=Path(__file__).parent/'results'/'confusion.json', help='where to write the result')
    args = p.parse_args()
    g = torch.Generator().manual_seed(42)
    t = torch.randint(0, K, (B,H,W), generator=g)
    x = torch.randn(B, K, H, W, generator=g)
    res = dict(about('torchmetrics'), runs=args.runs, logits=[B,K,H,W], unit='ms, median (fastest)', load=os.getloadavg()[0], results={})
    layouts = dict(contiguous=torch.contiguous_format, channels_last=torch.channels_last)
    for (name,fmt),threads in product(layouts.items(), (torch.get_num_threads(), 1)):
        torch.set_num_threads(threads)
        xf = x.contiguous(memory_format=fmt)
        equal,fs = check_equal(xf, t),candidates(xf, t)
        times = {k:[] for k in fs}
        for k,f in fs.items(): f()
        for _ in range(args.runs):
            for k,f in fs.items():
                s = time.perf_counter(); f(); times[k].append(1000*(time.perf_counter()-s))
        ms = {k: statistics.median(v) for k,v in times.items()}
        ours = ms['segbook Confusion.update']
        ratios = {k: round(ms[k]/ours, 2) for k in ms if k.startswith(('fastai', 'torchmetrics'))}
        res['results'][f'{name}, {threads} threads'] = dict(equal=equal, ms={k: [round(ms[k], 1), round(min(v), 1)] for k,v in times.items()}, ratios=ratios)
        print(f'\nlogits [{B},{K},{H},{W}] {name}, {threads} threads; results equal: {equal}\n{"":48}{"median":>9}{"fastest":>9}{"ratio":>8}')
        for k,v in times.items(): print(f'{k:48}{ms[k]:6.1f} ms{min(v):6.1f} ms{ms[k]/ours:8.2f}')
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(res, indent=1)+'\n')

if __name__=='__main__': main()
