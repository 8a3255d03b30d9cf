"""One epoch on CamVid-like images: segbook's learner beside fastai's `unet_learner` with its
default metrics.

python bench/epoch.py FOLDER [--rounds 4] [--memory]
Both train resnet18 without weights, batch 8, the images' own size; rounds alternate, the first is
thrown away, medians are compared. The peak memory is that of a process which trains segbook's
learner alone. Writes bench/results/epoch.json."""
import argparse, json, resource, subprocess, sys, time
from pathlib import Path
from statistics import median
sys.path.insert(0, str(Path(__file__).parent))
from about import about
from segbook.all import *


def ours(path):
    return seg_learner(seg_dataloaders(path, bs=8), encoder='resnet18', pretrained=False)


def theirs(path):
    "fastai as its documentation has it: codes, masks beside the images, default augmentation."
    f = SegFolder(path)
    block = DataBlock((ImageBlock, MaskBlock(f.codes)), get_items=get_image_files,
        get_y=lambda o: f.label_of(o), splitter=FuncSplitter(lambda o: o.name in f.valid),
        batch_tfms=[*aug_transforms(), Normalize.from_stats(*imagenet_stats)])
    dls = block.dataloaders(f.images[0].parent, bs=8)
    return unet_learner(dls, resnet18, pretrained=False, metrics=[JaccardCoeffMulti(), DiceMulti()])


def epoch(learn):
    with learn.no_bar(), learn.no_logging():
        t = time.perf_counter()
        learn.fit(1, 1e-3)
    return time.perf_counter() - t


def main():
    p = argparse.ArgumentParser(description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('folder', type=Path)
    p.add_argument('--rounds', type=int, default=4)
    p.add_argument('--memory', action='store_true')
    a = p.parse_args()
    if a.memory:  # in a process of its own
        for _ in range(2): epoch(ours(a.folder))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/2**20)
        return
    learners, times = dict(segbook=ours(a.folder), fastai=theirs(a.folder)), dict(segbook=[],
        fastai=[])
    for i in range(a.rounds + 1):
        for name, learn in learners.items():
            times[name].append(epoch(learn))
            print(f'round {i} {name:8} {times[name][-1]:.1f} s', flush=True)
    mid = {k: median(v[1:]) for k, v in times.items()}
    gb = float(subprocess.run([sys.executable, __file__, str(a.folder), '--memory'],
            capture_output=True, text=True, check=True).stdout.split()[-1])
    out = dict(about(), what='seconds of one epoch with validation, batch 8, resnet18 from scratch',
        images=len(SegFolder(a.folder).images), seconds=times, median=mid,
        ratio=mid['segbook']/mid['fastai'], peak_memory_gb_segbook=gb)
    file = Path(__file__).parent/'results'/'epoch.json'
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(out, indent=1) + '\n')
    print(f"segbook {mid['segbook']:.1f} s, fastai {mid['fastai']:.1f} s: ratio "
        f"{out['ratio']:.2f}; peak memory {gb:.2f} GB")


if __name__ == '__main__': main()
