"""How fast scenes and cells are drawn and written, on one core: python -m bench scenes [--n 200]
[--rounds 3]

Processor time counts, of one process and one thread, PNG files included; the best round is
reported, since other work on the
machine only ever adds to it. Writes bench/results/scenes.json."""
from __future__ import annotations
import argparse, json, os, shutil, tempfile, time, warnings
from pathlib import Path

os.environ['OMP_NUM_THREADS'] = '1'
warnings.filterwarnings('ignore')
from bench.about import about
from segbook.data import make_cells, make_scenes


def rate(make, n, size, rounds):
    "Images a second of processor time, best of `rounds`."
    best = float('inf')
    for i in range(rounds):
        folder = Path(tempfile.mkdtemp())
        t = time.process_time()
        make(folder/'set', n=n, size=size, seed=i)
        best = min(best, time.process_time()-t)
        shutil.rmtree(folder)
    return round(n/best, 1)


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--n', type=int, default=200, help='images a round')
    p.add_argument('--rounds', type=int, default=3)
    p.add_argument('--out', type=Path, default=Path(__file__).parent/'results'/'scenes.json')
    a = p.parse_args()
    res = {f'{f.__name__} {h}x{w}':rate(f, max(2, a.n*96*128//(h*w)), (h,w), a.rounds)
           for f,(h,w) in ((make_scenes,(96,128)), (make_scenes,(360,480)), (make_cells,(128,128)))}
    for k,v in res.items(): print(f'{k:22} {v:7.1f} images a second')
    out = dict(about('pillow', 'numpy'), images_a_second=res, goal='make_scenes 96x128: at least '
        '100')
    a.out.parent.mkdir(exist_ok=True)
    a.out.write_text(json.dumps(out, indent=1) + '\n')
    print('written to', a.out.name)
