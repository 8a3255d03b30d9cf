"""How long importing takes, beside fastai: `import segbook.masks` and `from segbook.all import
*`, each in fresh processes.

python bench/imports.py [--runs 5]: medians of alternating runs; writes
bench/results/imports.json."""
import argparse, json, subprocess, sys, time
from pathlib import Path
from statistics import median
sys.path.insert(0, str(Path(__file__).parent))
from about import about

LINES = {'fastai': 'from fastai.vision.all import *', 'masks': 'import segbook.masks',
    'all': 'from segbook.all import *'}


def seconds(line):
    t = time.perf_counter()
    subprocess.run([sys.executable, '-W', 'ignore', '-c', line], check=True)
    return time.perf_counter() - t


def main():
    p = argparse.ArgumentParser(description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--runs', type=int, default=5)
    times = {k: [] for k in LINES}
    for _ in range(p.parse_args().runs + 1):
        for k, line in LINES.items(): times[k].append(seconds(line))
    mid = {k: median(v[1:]) for k, v in times.items()}
    out = dict(about(), what='seconds of a fresh process that imports', median=mid,
        ratio_masks=mid['masks']/mid['fastai'], ratio_all=mid['all']/mid['fastai'])
    (Path(__file__).parent/'results'/'imports.json').write_text(json.dumps(out, indent=1) + '\n')
    print({k: round(v, 2) for k, v in mid.items()}, f"masks {out['ratio_masks']:.2f}, all "
        f"{out['ratio_all']:.2f} of fastai's")


if __name__ == '__main__': main()
