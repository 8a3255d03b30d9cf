"""Time CrossEntropyLoss, forward and backward, against fastai's and torch's on one batch: python bench/losses.py [--runs 15]

All candidates see the same logits and masks, one after the other in every round; the median over the rounds counts. That the
losses and gradients are equal is checked in the same run. Writes bench/results/losses.json."""
from __future__ import annotations
import argparse, json, os, statistics, sys, time, warnings
from itertools import product
from pathlib import Path

warnings.filterwarnings('ignore')
sys.path.insert(0, str(Path(__file__).parent))
import torch, torch.nn.functional as F
from fastai.losses import CrossEntropyLossFlat
from about import about
from segbook.losses import CrossEntropyLoss

B,K,H,W,VOID = 8,12,96,128,11

def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--runs', type=int, default=15, help='rounds over all candidates')
    p.add_argument('--out', type=Path, default=Path(__file__).parent/'results'/'losses.json', help='where to write the result')
    args = p.parse_args()
    g = torch.Generator().manual_seed(42)
    t,x,w = torch.randint(0, K, (B,H,W), generator=g),torch.randn(B, K, H, W, generator=g),torch.rand(K, generator=g)
    fs = {'segbook': CrossEntropyLoss(ignore_index=VOID), 'segbook, weighted': CrossEntropyLoss(w, VOID),
          'fastai CrossEntropyLossFlat': CrossEntropyLossFlat(axis=1, ignore_index=VOID),
          'fastai CrossEntropyLossFlat, weighted': CrossEntropyLossFlat(axis=1, ignore_index=VOID, weight=w),
          'torch cross_entropy': lambda x,t: F.cross_entropy(x, t, ignore_index=VOID)}
    def step(f, x):
        x = x.detach().requires_grad_()
        loss = f(x, t); loss.backward()
        return loss.detach(),x.grad
    res = dict(about(), runs=args.runs, logits=[B,K,H,W], unit='ms of forward and backward, median (fastest)', load=os.getloadavg()[0], results={})
    layouts = dict(contiguous=torch.contiguous_format, channels_last=torch.channels_last)
    for (name,fmt),threads in product(layouts.items(), (torch.get_num_threads(), 1)):
        torch.set_num_threads(threads)
        xf = x.contiguous(memory_format=fmt)
        out = {k: step(f, xf) for k,f in fs.items()}
        for a,b in (('segbook', 'fastai CrossEntropyLossFlat'), ('segbook, weighted', 'fastai CrossEntropyLossFlat, weighted')):
            for u,v in zip(out[a], out[b]): torch.testing.assert_close(u, v, rtol=1e-5, atol=1e-7, check_stride=False)
        times = {k:[] for k in fs}
        for _ in range(args.runs):
            for k,f in fs.items():
                s = time.perf_counter(); step(f, xf); times[k].append(1000*(time.perf_counter()-s))
        ms = {k: statistics.median(v) for k,v in times.items()}
        ratio = round(ms['fastai CrossEntropyLossFlat']/ms['segbook'], 2)
        res['results'][f'{name}, {threads} threads'] = dict(equal=True, ms={k: [round(ms[k], 2), round(min(v), 2)] for k,v in times.items()}, ratio=ratio)
        print(f'\nlogits [{B},{K},{H},{W}] {name}, {threads} threads; losses and gradients equal\n{"":40}{"median":>9}{"fastest":>9}')
        for k,v in times.items(): print(f'{k:40}{ms[k]:6.1f} ms{min(v):6.1f} ms')
        print(f'fastai took {ratio} times as long')
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(res, indent=1)+'\n')

if __name__=='__main__': main()
