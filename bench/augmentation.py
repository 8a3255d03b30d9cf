"""Time move_once against fastai's aug_transforms: python bench/augmentation.py [--runs 15]

Both see the same 16 drawn streets of 360x480 with their masks and the same random numbers, one
after the other in every round, so that a busy machine slows both alike; the median over the rounds
counts. That the results are equal is checked in the same run. Writes
bench/results/augmentation.json."""
from __future__ import annotations
import argparse, json, os, random, statistics, sys, tempfile, time, warnings
from pathlib import Path

warnings.filterwarnings('ignore')
sys.path.insert(0, str(Path(__file__).parent))
import numpy as np, torch
from fasttransform import Pipeline
from fastai.torch_core import TensorImage, TensorMask
from fastai.vision.augment import Flip, Rotate, Warp, Zoom, aug_transforms
from about import about
from segbook.augmentation import ElasticDeform, move_once
from segbook.data import make_scenes, mild_tfms, read_image
from segbook.masks import SegFolder, read_mask

B,H,W = 16,360,480
LISTS = {'aug_transforms()': aug_transforms,
    'aug_transforms(), moves alone': lambda: aug_transforms(max_lighting=0.),
    'mild_tfms()': mild_tfms, 'aug_transforms(size=(180,240))': lambda:
    aug_transforms(size=(180,240))}

def streets(n=B, size=(H,W)):
    "A batch of drawn streets: images [n,3,H,W] in 0..1 and masks [n,H,W]."
    with tempfile.TemporaryDirectory() as tmp:
        f = SegFolder(make_scenes(Path(tmp)/'scenes', n=n, size=size))
        x,y = np.stack([read_image(o) for o in f.images]),np.stack([read_mask(o) for o in f.labels])
    return TensorImage(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()).float()/255),TensorMask(
        torch.from_numpy(y).long())

def augment(tfms, x, y, seed, split_idx=0):
    random.seed(seed)
    torch.manual_seed(seed)
    return Pipeline(tfms, split_idx=split_idx)((x, y))

def differ(make, x, y, seed=0):
    "How far fastai's results and ours differ: most in a colour; share of the masks' pixels."
    a,b = augment(make(), x, y, seed),augment(move_once(make()), x, y, seed)
    assert a[0].shape==b[0].shape and a[1].shape==b[1].shape and a[1].dtype==b[1].dtype
    return (a[0]-b[0]).abs().max().item(),(a[1]!=b[1]).float().mean().item()

def race(candidates, x, y, runs, split_idx=0):
    "Milliseconds of each candidate in each round."
    times = {k:[] for k in candidates}
    for r in range(-1, runs):                       # the first round warms up
        for k,tfms in candidates.items():
            xc,yc = x.clone(),y.clone()
            s = time.perf_counter()
            augment(tfms, xc, yc, r, split_idx)
            t = time.perf_counter()-s
            if r>=0: times[k].append(1000*t)
    return times

def row(times):
    return dict(ms={k: [round(statistics.median(v), 1), round(min(v), 1)] for k,v in times.items()})

def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--runs', type=int, default=15, help='rounds over all candidates')
    p.add_argument('--out', type=Path, default=Path(__file__).parent/'results'/'augmentation.json',
        help='where to write the result')
    args = p.parse_args()
    x,y = streets()
    res = dict(about(), runs=args.runs, images=[B,3,H,W], masks=[B,H,W],
        unit='ms a batch, median (fastest); ratio: segbook/fastai, 1.0 or less is asked for',
        load=os.getloadavg()[0], results={})
    for threads in (torch.get_num_threads(), 1):
        torch.set_num_threads(threads)
        out = res['results'][f'{threads} threads'] = {}
        for name,make in LISTS.items():
            colour,ids = differ(make, x, y)
            assert colour<2e-3 and ids<1e-4, (name, colour, ids)
            out[name] = row(race({'fastai': make(), 'segbook move_once': move_once(make())}, x, y,
                    args.runs))
            out[name].update(equal=True, colour_apart=colour, ids_apart=ids)
        hand = lambda: [Flip(), Rotate(), Zoom(), Warp()]
        out['a list by hand: Flip, Rotate, Zoom, Warp'] = row(
            race({'fastai': hand(), 'segbook move_once': move_once(hand())}, x, y, args.runs))
        out['validation, mild_tfms()'] = row(
            race({'fastai': mild_tfms(), 'segbook move_once': move_once(mild_tfms())}, x, y,
                args.runs, 1))
        for o in out.values():
            o['ratio'] = round(o['ms']['segbook move_once'][0]/o['ms']['fastai'][0], 2)
        both = {'mild_tfms()': move_once(mild_tfms()),
            'mild_tfms() and ElasticDeform()': move_once([*mild_tfms(), ElasticDeform()])}
        out['what ElasticDeform adds, both in move_once'] = row(race(both, x, y, args.runs))
        print(f'\n{B} images of {H}x{W} with masks, {threads} threads; results '
            f'equal\n{"":44}{"fastai":>8}{"segbook":>10}{"ratio":>8}')
        for k,o in out.items():
            (a,_),(b,_) = o['ms'].values()
            print(f'{k:44}{a:6.0f} ms{b:7.0f} ms{o.get("ratio", b/a):8.2f}')
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(res, indent=1)+'\n')

if __name__=='__main__': main()
