"""Time receptive_field against poisoned images, on ResNet-152.

python bench/receptive_field.py [--size 512] [--runs 5]

One unit of layer4, the whole table, and the memory at three image sizes. The poisoning oracle finds
the same box by bisection from each side with full passes of the network; both run in this process,
and the boxes are compared. Writes bench/results/receptive_field.json."""
from __future__ import annotations
import argparse, json, statistics, sys, time, tracemalloc, warnings
from pathlib import Path

warnings.filterwarnings('ignore')
sys.path.insert(0, str(Path(__file__).parent))
import torch, torchvision
from about import about
from segbook.receptive_field import receptive_field, receptive_field_table

def timed(f):
    began = time.perf_counter()
    res = f()
    return time.perf_counter() - began, res

def poison_edge(model, size, unit, axis, back):
    "The first (or last) row or column whose NaN reaches the unit, and the number of passes"
    passes = 0
    def hit(k):
        nonlocal passes
        passes += 1
        x = torch.zeros(1, 3, size, size)
        i = slice(size - k, size) if back else slice(0, k)
        if axis: x[..., i] = torch.nan
        else: x[..., i, :] = torch.nan
        with torch.no_grad(): y = model(x)
        return bool(y[0, :, unit[0], unit[1]].isnan().any())
    lo, hi = 0, size
    assert hit(size)
    while hi - lo > 1:
        mid = (lo + hi)//2
        lo, hi = (lo, mid) if hit(mid) else (mid, hi)
    return (size - hi if back else hi - 1), passes

def peak(model, size):
    "Peak of Python's and NumPy's memory in bytes; tensors of the device meta have none"
    tracemalloc.start()
    receptive_field(model, size)
    res = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return res

def main():
    ap = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    ap.add_argument('--size', type=int, default=512)
    ap.add_argument('--runs', type=int, default=5)
    args = ap.parse_args()
    net = torchvision.models.resnet152(weights=None).eval()
    body = torch.nn.Sequential(*[getattr(net, o)
            for o in ('conv1', 'bn1', 'relu', 'maxpool', 'layer1', 'layer2', 'layer3', 'layer4')])
    ours = [timed(lambda: receptive_field(net, args.size, 'layer4')) for _ in range(args.runs)]
    table = [timed(lambda: receptive_field_table(net, args.size))[0] for _ in range(args.runs)]
    box, unit, n = ours[0][1].box, ours[0][1].unit, args.size
    secs, edges = timed(lambda: [poison_edge(body, n, unit, a, back) for back in (False, True)
            for a in (0, 1)])
    clipped = [min(max(v, 0), n - 1) for v in box]
    assert [e for e, _ in edges] == clipped, (edges, box)
    one = statistics.median(t for t, _ in ours)
    res = dict(about(), task=f'ResNet-152, layer4, the middle unit, {n}x{n}',
        threads=torch.get_num_threads(), receptive_field_s=round(one, 3),
        slowest_s=round(max(t for t, _ in ours), 3), poison_s=round(secs, 1),
        poison_passes=sum(p for _, p in edges), ratio=round(secs/one, 1),
        table_s=round(statistics.median(table), 3), box=box,
        peak_bytes={str(s): peak(net, s) for s in (256, 512, 4096)}, runs=args.runs)
    out = Path(__file__).parent/'results'/'receptive_field.json'
    out.write_text(json.dumps(res, indent=1) + '\n')
    print(json.dumps(res, indent=1))

if __name__ == '__main__': main()
