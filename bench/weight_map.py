"""Time unet_weight_map against one distance transform of the whole image for each cell.

python bench/weight_map.py [--cells 200] [--runs 3]

512x512 pixels, drawn cells that touch. Both run in this process, and the maps are compared. Writes
bench/results/weight_map.json."""
from __future__ import annotations
import argparse, json, os, statistics, sys, time, warnings
from pathlib import Path

warnings.filterwarnings('ignore')
sys.path.insert(0, str(Path(__file__).parent))
import numpy as np
from scipy.ndimage import distance_transform_edt
from about import about
from segbook.losses import unet_weight_map

def draw(size, cells, seed=42):
    """Ids of as many cells as asked: discs of 8 to 14 pixels around random centres.

    Each pixel is the nearest disc's, and many touch."""
    g = np.random.default_rng(seed)
    y,x = np.mgrid[:size,:size]
    best,ids = np.full((size, size), 1.),np.zeros((size, size), np.int32)
    centres = []
    while len(centres)<cells:
        c = g.uniform(8, size-8, 2)
        if all(np.hypot(*(c-o))>15 for o in centres): centres.append(c)
    for k,(cy,cx) in enumerate(centres, 1):
        d = np.hypot(y-cy, x-cx)/g.uniform(8, 14)
        ids[d<best] = k
        best = np.minimum(best, d)
    return ids

def by_transforms(m, w0=10, sigma=5):
    """The weights from as many distance transforms as there are cells.

    They are made one at a time, so that memory is no matter."""
    d1 = d2 = np.full(m.shape, np.inf)
    for k in np.unique(m)[1:]:
        d = distance_transform_edt(m!=k)
        d1,d2 = np.minimum(d1, d),np.minimum(d2, np.maximum(d1, d))
    return 1+w0*np.exp(-(d1+d2)**2/(2*sigma**2))

def timed(f, *args):
    began = time.perf_counter()
    res = f(*args)
    return time.perf_counter()-began,res

def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--size', type=int, default=512)
    p.add_argument('--cells', type=int, default=200)
    p.add_argument('--runs', type=int, default=3)
    p.add_argument('--out', type=Path, default=Path(__file__).parent/'results'/'weight_map.json',
        help='where to write the result')
    args = p.parse_args()
    m = draw(args.size, args.cells)
    n = len(np.unique(m))-1
    assert n==args.cells
    rounds = [(timed(unet_weight_map, m), timed(by_transforms, m)) for _ in range(args.runs)]
    (ours,a),(theirs,b) = rounds[0]
    diff = float(abs(a-b).max())
    assert diff<1e-5, diff
    ours,theirs = (statistics.median(r[i][0] for r in rounds) for i in (0, 1))
    res = dict(about('scipy', 'numpy'), task=f'{args.size}x{args.size}, {n} cells, one thread',
        unet_weight_map_s=round(ours, 3), transforms_s=round(theirs, 2),
        ratio=round(theirs/ours, 1), largest_difference=diff, runs=args.runs,
        load=os.getloadavg()[0])
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(res, indent=1)+'\n')
    print(json.dumps(res, indent=1))

if __name__=='__main__': main()
