"""CamVid at full length: from ImageNet weights to street scenes of 360x480.

python -m bench camvid --data FOLDER --out FOLDER [--run NAME ...] [--seed N ...]
Reads FOLDER/camvid: 367 images to train on, 101 of valid.txt to judge on, Void in neither. Each run
is one of RUNS with one seed. It keeps a checkpoint in --out after each epoch and goes on from there
when it is started again; its scores are in bench/results/camvid.json when it has ended. Judged are
the weights of the best epoch, which valid.txt chose, and those of the last, which nothing chose."""
import argparse
import json
import time
from pathlib import Path

import torch
from bench.about import about
from segbook.data import mild_tfms, seg_dataloaders
from segbook.files import replace_file
from segbook.inference import predict_image
from segbook.learner import seg_learner, train_segmenter
from segbook.losses import CombinedLoss, CrossEntropyLoss, LovaszLoss, class_weights
from segbook.masks import SegFolder, read_mask
from segbook.metrics import Confusion

FILE = Path(__file__).parent/'results'/'camvid.json'
RECIPE = dict(size=(240, 320), crops=True, pretrained=True, lovasz=True, ema=.99, epochs=26)
SHORT = dict(RECIPE, epochs=8)
RUNS = {
    'recipe': RECIPE,
    'a third of its epochs': SHORT,
    'half size instead of windows': dict(SHORT, size=(180, 240), crops=False),
    'random weights': dict(SHORT, pretrained=False),
    'cross entropy alone': dict(SHORT, lovasz=False),
    'no mean of weights': dict(SHORT, ema=None),
}
SETTINGS = dict(arch='dynamic_unet_lean', encoder='tf_efficientnet_lite0', batch=4, rate=2e-3,
    encoder_rate=8e-4, schedule='one cycle', augmentation='mild_tfms(min_zoom=.8, max_zoom=1.5)',
    loss='cross entropy with class weights by the inverse root of their frequency, plus Lovász')


def learner(folder, seed, how, device):
    "The learner of a run"
    windows = dict(crops='random') if how['crops'] else {}
    dls = seg_dataloaders(folder, bs=4, size=how['size'], seed=seed, device=device, cache='auto',
        num_workers=0, batch_tfms=mild_tfms(min_zoom=.8, max_zoom=1.5), **windows)
    void, weights = dls.ignore_index, class_weights(dls)
    loss = CrossEntropyLoss(weights, void)
    if how['lovasz']: loss = CombinedLoss(loss, LovaszLoss(ignore_index=void))
    return seg_learner(dls, SETTINGS['arch'], SETTINGS['encoder'], loss=loss, seed=seed,
        pretrained=how['pretrained'], ema=how['ema'], precision='float32')


def scored(learn):
    "Scores over all validation images at 360x480, with the weights that the learner has"
    dls, truth = learn.dls, SegFolder(learn.dls.path)
    conf = Confusion(len(dls.vocab), dls.ignore_index)
    for f in dls.valid_ds.items:
        mask = torch.as_tensor(read_mask(truth.label_of(f))).long()
        conf.update(predict_image(learn, f)[None], mask[None])
    iou = {k: round(v.item(), 4) for k, v in zip(dls.vocab, conf.iou()) if k != 'Void'}
    return dict(mean_iou=round(conf.mean_iou(), 4), pixel_accuracy=round(conf.pixel_accuracy(), 4),
        iou=iou)


def one_run(folder, out, seed, how, device='cpu'):
    "Train, from the checkpoint where there is one; the scores."
    began = time.process_time()
    learn = learner(folder, seed, how, device)
    resume = (out/'checkpoint').exists() and any((out/'checkpoint').iterdir())
    low, high = SETTINGS['encoder_rate'], SETTINGS['rate']
    with learn.no_bar():
        history = train_segmenter(learn, how['epochs'], folder=out, resume=resume,
            lr=slice(low, high) if how['pretrained'] else high)
    curve = [round(float(o), 4) for o in history.column('mean_iou')]
    return dict(best=scored(learn), last=curve[-1], curve=curve,
        cpu_seconds_of_the_last_start=round(time.process_time() - began))


def main():
    p = argparse.ArgumentParser(description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--data', type=Path, required=True)
    p.add_argument('--out', type=Path, required=True)
    p.add_argument('--run', nargs='*', choices=list(RUNS), default=['recipe'])
    p.add_argument('--seed', nargs='*', type=int, default=[1])
    p.add_argument('--device', default='cpu', help='cpu or cuda')
    a = p.parse_args()
    torch.set_flush_denormal(True)
    for name, seed in ((n, s) for s in a.seed for n in a.run):
        runs = json.loads(FILE.read_text())['runs'] if FILE.exists() else {}
        if str(seed) in runs.get(name, {}): continue
        row = one_run(a.data/'camvid', a.out/f'{list(RUNS).index(name)}-{seed}', seed, RUNS[name],
            a.device)
        runs.setdefault(name, {})[str(seed)] = row
        out = dict(about('segbook', 'timm', device=a.device), settings=SETTINGS, variants=RUNS,
            runs=runs)
        replace_file(FILE, lambda f: f.write_text(json.dumps(out, indent=1) + '\n'))
        print(name, seed, row, flush=True)


if __name__ == '__main__': main()
