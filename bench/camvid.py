"""CamVid at full length: from ImageNet weights to street scenes of 360x480.

python -m bench camvid --data FOLDER --out FOLDER [--group NAME ...] [--runs N]
Reads FOLDER/camvid: 367 images to train on, 101 of valid.txt to judge on, Void in neither. There
are two groups: the recipe, and its parts, each left out in a run of a fifth of the epochs.
A run keeps a checkpoint in --out after each epoch and goes on from there when it is started again;
its scores are in bench/results/camvid.json when it has ended. Judged are the weights of the best
epoch, which valid.txt chose, and those of the last, which nothing chose: their running mean, and
as the optimiser left them."""
import time
from functools import partial
from pathlib import Path

import torch
from bench import runs
from fastai.callback.core import Callback
from fastai.torch_core import get_model
from segbook.averaging import training_weights
from segbook.data import mild_tfms, seg_dataloaders
from segbook.inference import predict_image
from segbook.learner import seg_learner, train_segmenter
from segbook.losses import CombinedLoss, CrossEntropyLoss, LovaszLoss, class_weights
from segbook.masks import SegFolder, read_mask
from segbook.metrics import Confusion

FILE = Path(__file__).parent/'results'/'camvid.json'
RECIPE = dict(size=(240, 320), crops=True, pretrained=True, lovasz=True, ema=.99, epochs=26)
SHORT = dict(RECIPE, epochs=5)
RUNS = {
    'recipe': RECIPE,
    'a fifth of its epochs': SHORT,
    'half size instead of windows': dict(SHORT, size=(180, 240), crops=False),
    'random weights': dict(SHORT, pretrained=False),
    'cross entropy alone': dict(SHORT, lovasz=False),
}
GROUPS = dict(recipe=['recipe'], parts=[k for k in RUNS if k != 'recipe'])
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
        mask = torch.tensor(read_mask(truth.label_of(f))).long()
        conf.update(predict_image(learn, f)[None], mask[None])
    iou = {k: round(v.item(), 4) for k, v in zip(dls.vocab, conf.iou()) if k != 'Void'}
    return dict(mean_iou=round(conf.mean_iou(), 4), pixel_accuracy=round(conf.pixel_accuracy(), 4),
        iou=iou)


class AsTrained(Callback):
    "Keeps the weights of the last epoch as the optimiser left them, without their running mean."
    weights = None
    def after_epoch(self):
        self.weights = {k: o.clone() for k, o in training_weights(self.learn).items()}


def one_run(seed, data, out, name, device='cpu'):
    "Train, from the checkpoint where there is one; the scores."
    how, out = RUNS[name], out/'-'.join((*name.split(), str(seed)))
    began = time.process_time()
    learn = learner(data/'camvid', seed, how, device).add_cb(kept := AsTrained())
    resume = (out/'checkpoint').exists() and any((out/'checkpoint').iterdir())
    low, high = SETTINGS['encoder_rate'], SETTINGS['rate']
    with learn.no_bar():
        history = train_segmenter(learn, how['epochs'], folder=out, resume=resume,
            lr=slice(low, high) if how['pretrained'] else high)
    curve = [round(float(o), 4) for o in history.column('mean_iou')]
    found = dict(best=scored(learn), last=curve[-1], curve=curve)
    if kept.weights is not None:  # it is where a run was begun again after its last epoch
        get_model(learn.model).load_state_dict(kept.weights)
        found['last_without_mean_of_weights'] = scored(learn)
    return dict(found, cpu_seconds_of_the_last_start=round(time.process_time() - began))


def main():
    p = runs.parser(__doc__, GROUPS, devices=True)
    p.add_argument('--out', type=Path, required=True)
    a = p.parse_args()
    if a.data is None: p.error('--data FOLDER is missing')
    plan = {group: {k: partial(one_run, data=a.data, out=a.out, name=k, device=a.device)
            for k in names} for group, names in GROUPS.items()}
    runs.run_plan(FILE, plan, settings=dict(SETTINGS, variants=RUNS), most=a.runs, groups=a.group,
        device=a.device, what='scores on the 101 images of valid.txt at 360x480, one thread')


if __name__ == '__main__': main()
