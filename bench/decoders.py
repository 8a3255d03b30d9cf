"""Are the masks of a lean decoder as good as those of fastai's DynamicUnet?

python -m bench decoders [--data FOLDER] [--group NAME ...] [--runs N]
`scenes` draws its images; `camvid` reads FOLDER/camvid_tiny and starts from ImageNet weights. Both
networks get the same images, batches, augmentation, rate and number of steps, and each is trained
at two rates, since a decoder may want another one; the seed decides the new weights, the order and
the augmentation. Scored on the validation images are the weights of the best epoch, which is what
a learner keeps, and the last ones. Writes bench/results/decoders.json after each run; a run that
stands there is not repeated. With --runs the script ends after N new runs."""
import argparse
import json
import tempfile
import time
from pathlib import Path

import torch
from bench.about import about
from segbook.data import make_scenes, seg_dataloaders
from segbook.files import replace_file
from segbook.learner import seg_learner, train_segmenter

FILE = Path(__file__).parent/'results'/'decoders.json'
SEEDS, ARCHS, RATES = (1, 2, 3), ('dynamic_unet', 'dynamic_unet_lean'), (1e-3, 2e-3)
SETTINGS = dict(
    camvid='camvid_tiny, 80 images of 96x128 to train on, 20 epochs, batch 4; '
        'tf_efficientnet_lite0 with ImageNet weights, at four tenths of the rate',
    scenes='300 scenes of 96x128, 240 to train on, 3 epochs, batch 4; tf_efficientnet_lite0 with '
        'ImageNet weights, at four tenths of the rate')


def one_run(seed, arch, rate, path, epochs):
    "Best and last scores of a run on the validation images"
    began = time.process_time()
    dls = seg_dataloaders(path, bs=4, seed=seed, device='cpu')
    learn = seg_learner(dls, arch, 'tf_efficientnet_lite0', seed=seed)
    with learn.no_bar(), learn.no_logging():
        history = train_segmenter(learn, epochs, lr=slice(.4*rate, rate))
    scores = history.column('mean_iou')
    best = max(range(epochs), key=lambda i: scores[i])
    rows = {k: {o: round(float(history.column(o)[i]), 4) for o in ('mean_iou', 'pixel_accuracy')}
        for k, i in (('best', best), ('last', -1))}
    return dict(rows, seconds_of_computing=round(time.process_time() - began))


def main():
    p = argparse.ArgumentParser(description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--data', type=Path)
    p.add_argument('--group', nargs='*', default=list(SETTINGS))
    p.add_argument('--runs', type=int)
    a = p.parse_args()
    if a.data is None and 'camvid' in a.group: p.error('camvid needs --data FOLDER')
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    out = dict(about('segbook', 'timm'), settings=SETTINGS, runs={},
        what='mean IoU and pixel accuracy on the validation images, seeds 1 to 3, one thread')
    if FILE.exists(): out['runs'] = json.loads(FILE.read_text())['runs']
    todo = a.runs
    with tempfile.TemporaryDirectory() as tmp:
        for group in a.group:
            path = a.data/'camvid_tiny' if group == 'camvid' else make_scenes(
                Path(tmp)/'scenes', n=300, seed=42)
            for seed, rate, arch in ((s, r, o) for s in SEEDS for r in RATES for o in ARCHS):
                key = f'{arch}, rate {rate:g}'
                done = out['runs'].setdefault(group, {}).setdefault(key, {})
                if str(seed) in done: continue
                if todo == 0: return
                if todo is not None: todo -= 1
                done[str(seed)] = one_run(seed, arch, rate, path, 20 if group == 'camvid' else 3)
                replace_file(FILE, lambda f: f.write_text(json.dumps(out, indent=1) + '\n'))
                print(group, key, seed, done[str(seed)], flush=True)


if __name__ == '__main__': main()
