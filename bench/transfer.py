"""What ImageNet weights are worth: for how many images, trained how, and normalised how.

python -m bench transfer --data FOLDER [--group NAME ...] [--runs N]
Reads FOLDER/camvid_tiny and FOLDER/nuclei. Every run has the same number of steps: an image stands
in the folder of training images as often as is needed to make 80 of them. The seed decides which
images these are, the new weights, the order and the augmentation. Scored are the last weights, so
that the validation images choose nothing. Writes bench/results/transfer.json after each run; a run
that stands there is not repeated. With --runs the script ends after N new runs."""
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from bench import runs
from fastai.vision.all import Normalize, imagenet_stats
from PIL import Image
from segbook.data import seg_dataloaders
from segbook.learner import seg_learner, train_segmenter

FILE = Path(__file__).parent/'results'/'transfer.json'
ARCH, ENCODER = 'dynamic_unet_lean', 'tf_efficientnet_lite0'
ALL, EPOCHS, RATE = 80, 15, 2e-3
# how much of the rate the encoder gets, where it is not all of it
SHARES = {'a tenth of the rate': .1, 'four tenths of the rate': .4}
SETTINGS = dict(
    amount='so many images; random weights, or ImageNet weights with a tenth of the rate',
    way='camvid_tiny, 40 images, ImageNet weights: which layers learn, and how fast; a tenth of '
        'the rate stands in `amount`',
    normalisation='as `way`: images normalised in other ways; the right way stands in `amount`',
    channels='camvid_tiny, 40 images, with 1 and 4 channels (red, green, blue and their mean): the '
        'first layer made from the one of ImageNet, or new')


def some_images(folder, out, n, seed, channels=3):
    "A data folder of `n` training images, each as often as 80 need, and all validation images"
    held = (folder/'valid.txt').read_text().split()
    names = sorted(o.name for o in (folder/'images').iterdir() if o.name not in held)
    chosen = np.random.default_rng(seed).permutation(names)[:n]
    for d in ('images', 'labels'): (out/d).mkdir(parents=True)
    pairs = [(o, f'{Path(o).stem}-{k}') for k in range(ALL//n) for o in chosen]
    for name, stem in pairs + [(o, Path(o).stem) for o in held]:
        x = np.array(Image.open(folder/'images'/name))
        if channels == 1 and x.ndim == 3: x = x.mean(-1).round().astype(np.uint8)
        if channels == 4: x = np.dstack([x, x.mean(-1).round().astype(np.uint8)])
        np.save(out/'images'/f'{stem}.npy', x)
        mask = folder/'labels'/f'{Path(name).stem}_P.png'
        (out/'labels'/f'{stem}_P.png').symlink_to(mask.resolve())
    (out/'codes.txt').write_text((folder/'codes.txt').read_text())
    (out/'valid.txt').write_text('\n'.join(f'{Path(o).stem}.npy' for o in held) + '\n')
    return out


def normalise(learn, mean, std):
    "Images of this learner are normalised with other numbers."
    learn.segmenter.update(mean=list(mean), std=list(std))
    for o in learn.dls.loaders:
        for t in o.after_batch.fs:
            if isinstance(t, Normalize):
                t.mean, t.std = (torch.tensor(v).view(1, -1, 1, 1) for v in (mean, std))


def new_first_layer(learn, seed):
    "The first convolution gets random weights, as where no ImageNet weights can be adapted."
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        next(m for m in learn.model.modules()
            if isinstance(m, torch.nn.Conv2d)).reset_parameters()


def one_run(seed, folder, n=40, pretrained=True, way='a tenth of the rate', *, stats=None,
        channels=3, fresh=False, device='cpu'):
    "Scores of the last weights on the validation images"
    began = time.process_time()
    with tempfile.TemporaryDirectory() as tmp:
        path = some_images(folder, Path(tmp)/'some', n, seed, channels)
        size = (128, 128) if folder.name == 'nuclei' else None
        dls = seg_dataloaders(path, bs=8, size=size, seed=seed, device=device, num_workers=0)
        learn = seg_learner(dls, ARCH, ENCODER, pretrained=pretrained, seed=seed, keep_best=False,
            precision='float32')
        if stats: normalise(learn, *stats)
        if fresh: new_first_layer(learn, seed)
        lr = slice(SHARES.get(way, 1)*RATE, RATE) if pretrained else RATE
        with learn.no_bar(), learn.no_logging():
            if way == 'frozen': learn.fit_one_cycle(EPOCHS, RATE)
            elif way == 'frozen, then all':
                learn.fit_one_cycle(EPOCHS//3, RATE)
                learn.unfreeze()
                learn.fit_one_cycle(EPOCHS - EPOCHS//3, slice(.1*RATE, RATE))
            else: train_segmenter(learn, EPOCHS, lr=lr)
        scores = dict(zip(learn.recorder.metric_names[1:-1], learn.recorder.values[-1]))
    return dict({k: round(float(v), 4) for k, v in scores.items()},
        seconds_of_computing=round(time.process_time() - began))


def plan(data, device='cpu'):
    "group -> name of a run -> a function of the seed"
    tiny, nuclei = data/'camvid_tiny', data/'nuclei'
    run = partial(one_run, device=device)
    ways = 'frozen', 'frozen, then all', 'four tenths of the rate', 'the same rate'
    stats = {'other networks\': mean 0.485 ..., deviation 0.229 ...': imagenet_stats,
        'none: 0 to 1': ([0.]*3, [1.]*3), 'none: 0 to 255': ([0.]*3, [1/255]*3)}
    return {
        'amount': {f'{f.name}, {n} images, {k}': lambda s, f=f, n=n, p=p: run(s, f, n, p)
            for f in (tiny, nuclei) for n in (10, 20, 40, 80)
            for k, p in (('random weights', False), ('ImageNet weights', True))},
        'way': {k: lambda s, k=k: run(s, tiny, way=k) for k in ways},
        'normalisation': {k: lambda s, v=v: run(s, tiny, stats=v) for k, v in stats.items()},
        'channels': {f'{c} channel{"s"*(c > 1)}, first layer {k}':
            lambda s, c=c, v=v: run(s, tiny, channels=c, fresh=v)
            for c in (1, 4) for k, v in (('adapted', False), ('new', True))}}


def main():
    p = runs.parser(__doc__, SETTINGS, devices=True)
    a = p.parse_args()
    if a.data is None: p.error('--data FOLDER is needed: it holds camvid_tiny and nuclei')
    runs.run_plan(FILE, plan(a.data, a.device), settings=SETTINGS, most=a.runs,
        groups=a.group, device=a.device,
        what=f'{ARCH} on {ENCODER}, {EPOCHS} epochs of 10 batches of 8, rate {RATE}; scores '
            'of the last weights on the validation images, seeds 1 to 3, one thread')


if __name__ == '__main__': main()
