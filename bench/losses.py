"""Time the losses, forward and backward, against those of other libraries.

python bench/losses.py [--runs 5]

On logits [8,12,360,480] and [8,1,360,480], a tenth of the pixels ignored in both; the others are
segmentation-models-pytorch, fastai and torch. All candidates see the same logits and masks, one
after the other in every round; the median over the rounds counts. In the same run losses and
gradients are compared: ours with the peer's in float64 on a part of the batch, and with its own in
float64 on all of it. Writes bench/results/losses.json."""
from __future__ import annotations
import argparse, json, os, statistics, sys, time, warnings
from pathlib import Path

warnings.filterwarnings('ignore')
sys.path.insert(0, str(Path(__file__).parent))
import segmentation_models_pytorch.losses as smp, torch, torch.nn.functional as F
from fastai.losses import CrossEntropyLossFlat
from about import about
from segbook.losses import (CrossEntropyLoss, DiceLoss, FocalLoss, JaccardLoss, LovaszLoss,
    TverskyLoss)

B,K,H,W,VOID = 8,12,360,480,255

def batch(K):
    g = torch.Generator().manual_seed(42)
    x,t = torch.randn(B, K, H, W, generator=g),torch.randint(0, max(2, K), (B,H,W), generator=g)
    t[torch.rand(B, H, W, generator=g)<0.1] = VOID
    return x,t

def pairs(K):
    """{name: (ours, peer, whether the peer computes the same)}.

    With several classes smp's focal loss takes a sigmoid of each class, and is another loss."""
    mode = 'binary' if K==1 else 'multiclass'
    res = {'Dice': (DiceLoss(None, VOID), smp.DiceLoss(mode, ignore_index=VOID), True),
        'Jaccard': (JaccardLoss(None, VOID), smp.JaccardLoss(mode, ignore_index=VOID), True),
        'Tversky': (TverskyLoss(None, VOID), smp.TverskyLoss(mode, ignore_index=VOID, alpha=.3,
                beta=.7), True), 'focal': (FocalLoss(None, VOID),
            smp.FocalLoss(mode, ignore_index=VOID), K==1),
        'Lovász': (LovaszLoss(None, VOID), smp.LovaszLoss(mode, ignore_index=VOID), True)}
    if K>1:
        res['cross entropy (torch)'] = CrossEntropyLoss(None, VOID),lambda x,t: F.cross_entropy(x,
            t, ignore_index=VOID),True
    if K>1:
        res['cross entropy (fastai)'] = CrossEntropyLoss(None, VOID),CrossEntropyLossFlat(axis=1,
            ignore_index=VOID),True
    return res

def step(f, x, t):
    x = x.detach().requires_grad_()
    loss = f(x, t)
    loss.backward()
    return loss.detach(),x.grad

def differences(ours, peer, x, t):
    """Largest difference of our value from the peer's, in float64 if it can, on a part.

    And of ours in float32 from ours in float64, on all."""
    part = x[:2,:,:90,:120].double(),t[:2,:90,:120]
    a = step(ours, *part)
    try: b = step(peer, *part)
    # smp's Lovász knows 32 bits alone
    except RuntimeError: b = step(peer, part[0].float(), part[1])
    for u,v in zip(a, b):
        torch.testing.assert_close(u, v.double(), rtol=1e-5, atol=1e-6, check_stride=False)
    return abs(a[0]-b[0].double()).item(),abs(ours(x, t)-ours(x.double(), t)).item()

def race(fs, x, t, runs):
    times = {k:[] for k in fs}
    for f in fs.values(): step(f, x, t)
    for _ in range(runs):
        for k,f in fs.items():
            s = time.perf_counter()
            step(f, x, t)
            times[k].append(1000*(time.perf_counter()-s))
    return {k: [round(statistics.median(v), 1), round(min(v), 1)] for k,v in times.items()}

def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--runs', type=int, default=5, help='rounds over both candidates of each pair')
    p.add_argument('--out', type=Path, default=Path(__file__).parent/'results'/'losses.json',
        help='where to write the result')
    args = p.parse_args()
    res = dict(about('segmentation-models-pytorch', 'numpy'), runs=args.runs, ignored=0.1,
        load=os.getloadavg()[0], unit='ms of forward and backward, median (fastest); ratio: ours '
        'by the peer, of the medians', results={})
    layouts = dict(contiguous=torch.contiguous_format, channels_last=torch.channels_last)
    for K_,threads,name in [(K, 1, 'contiguous'), (K, 2, 'contiguous'), (K, 1, 'channels_last'),
            (K, 2, 'channels_last'), (1, 1, 'contiguous'), (1, 2, 'contiguous')]:
        torch.set_num_threads(threads)
        x,t = batch(K_)
        x,rows = x.contiguous(memory_format=layouts[name]),{}
        for k,(ours,peer,same) in pairs(K_).items():
            diff = [float(f'{o:.1g}') for o in differences(ours, peer, x,
                    t)] if same and threads==1 and name=='contiguous' else None
            ms = race(dict(segbook=ours, peer=peer), x, t, args.runs)
            rows[k] = dict(ms, ratio=round(ms['segbook'][0]/ms['peer'][0], 2), same_loss=same,
                **(dict(differences=diff) if diff else {}))
            print(f'[{B},{K_},{H},{W}] {name}, {threads} threads  {k:24}{ms["segbook"][0]:8.1f} '
                f'ms{ms["peer"][0]:9.1f} ms   ratio {rows[k]["ratio"]:.2f}   {diff or ""}',
                flush=True)
        res['results'][f'[{B},{K_},{H},{W}] {name}, {threads} threads'] = rows
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(res, indent=1, ensure_ascii=False)+'\n')

if __name__=='__main__': main()
