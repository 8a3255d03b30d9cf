"""What rate, schedule, augmentation, loss, optimiser, a trained encoder and skips are worth.

python -m bench experiments [--group NAME ...] [--data FOLDER] [--runs N]
The groups `scenes`, `skips` and `transfer` draw their images; `camvid` and `retina` read
FOLDER/camvid_tiny and FOLDER/retina. In a group all runs share data, network and number of steps,
and differ in one thing; the seed decides weights, order and augmentation. Scored are the last
weights, so that the validation images choose nothing. Writes bench/results/experiments.json after
each run; a run that stands there is not repeated. With --runs the script ends after N new runs."""
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from bench import runs
from fastai.optimizer import ranger
from fastai.vision.models.unet import UnetBlock
from PIL import Image
from segbook.data import make_scenes, mild_tfms, seg_dataloaders
from segbook.learner import seg_learner, train_segmenter
from segbook.losses import CombinedLoss, CrossEntropyLoss, DiceLoss, LovaszLoss, class_weights
from segbook.metrics import ClassIoU, Confusion, MeanIoU, PixelAccuracy

FILE = Path(__file__).parent/'results'/'experiments.json'
ARCH, TINY = 'dynamic_unet', 'mobilenetv3_small_050'
SETTINGS = dict(
    scenes='150 scenes of 48x64, 100 to train on; batch 8, 12 epochs; DynamicUnet on ' + TINY,
    skips='as scenes, without last_cross; zeros in place of the maps of the encoder',
    transfer='8 of 24 scenes of 32x48 to train on, batch 4, 40 epochs; encoder from 32 other ones',
    camvid='camvid_tiny, 80 images of 96x128 to train on, batch 8, 15 epochs; the same network',
    retina='512 windows of 128x128 of 16 images, batch 4, one epoch; the same network')

# what differs from one cycle up to 4e-3 with Adam, weighted cross entropy and mild augmentation
SCENES = {
    'as it is': {},
    'rate 1e-3': dict(lr=1e-3),
    'rate 1.6e-2': dict(lr=1.6e-2),
    'flat rate': dict(schedule='flat'),
    'no augmentation': dict(batch_tfms=None),
    'cross entropy, no weights': dict(loss='cross entropy, no weights'),
    'cross entropy + Dice': dict(loss='cross entropy + Dice'),
    'Lovász': dict(loss='Lovász'),
    'Ranger, rate 4e-3': dict(opt_func=ranger),
    'Ranger, rate 1.6e-2': dict(opt_func=ranger, lr=1.6e-2),
}
CAMVID = {k: SCENES[k] for k in ('as it is', 'no augmentation', 'cross entropy, no weights')}
RETINA = ('cross entropy', 'cross entropy, weighted', 'Dice', 'Lovász', 'cross entropy + Dice')
TRANSFER = ('from scratch', 'frozen', 'a tenth of the rate', 'the same rate')


def quiet(learn, *args, **kwargs):
    "`train_segmenter` without a table"
    with learn.no_bar(), learn.no_logging(): return train_segmenter(learn, *args, **kwargs)


def hold_out(folder, n_train):
    "All but the first `n_train` images of `folder` become the validation split."
    names = sorted(o.name for o in (folder/'images').iterdir())
    (folder/'valid.txt').write_text('\n'.join(names[n_train:]) + '\n')
    return folder


def loss_named(name, dls):
    v = dls.ignore_index
    if name is None: return None  # weighted cross entropy
    if name == 'cross entropy, no weights': return CrossEntropyLoss(ignore_index=v)
    if name == 'Lovász': return LovaszLoss(ignore_index=v)
    return CombinedLoss(CrossEntropyLoss(class_weights(dls), v), DiceLoss(ignore_index=v))


def scored(learn, epochs, lr, schedule='one_cycle'):
    "Scores of the last weights, and the mean IoU of each epoch"
    began = time.time()
    rows = quiet(learn, epochs, lr=lr, schedule=schedule)
    names = list(learn.recorder.metric_names[1:-1])
    curve = [round(r[names.index('mean_iou')], 4) for r in rows]
    return dict({k: round(float(v), 4) for k, v in zip(names, rows[-1])}, curve=curve,
        seconds=round(time.time() - began))


def streets(seed, path, epochs, loss=None, lr=4e-3, *, schedule='one_cycle', **kwargs):
    "One run on street scenes"
    dls = seg_dataloaders(path, bs=8, seed=1, batch_tfms=kwargs.pop('batch_tfms', 'default'))
    learn = seg_learner(dls, ARCH, TINY, pretrained=False, loss=loss_named(loss, dls), seed=seed,
        keep_best=False, metrics=[PixelAccuracy(), MeanIoU(), ClassIoU('Pole')], **kwargs)
    return scored(learn, epochs, lr, schedule)


class Nothing:
    "In place of the hook of a skip connection: zeros of the same shape"
    def __init__(self, hook): self.hook = hook
    @property
    def stored(self): return torch.zeros_like(self.hook.stored)


def skips(seed, path, keep):
    dls = seg_dataloaders(path, bs=8, seed=1)
    learn = seg_learner(dls, ARCH, TINY, pretrained=False, seed=seed, keep_best=False,
        metrics=[PixelAccuracy(), MeanIoU(), ClassIoU('Pole')], model_kwargs=dict(last_cross=False))
    for block in learn.model.layers:
        if isinstance(block, UnetBlock) and not keep: block.hook = Nothing(block.hook)
    return scored(learn, 12, 4e-3)


def transfer(seed, tmp, way):
    "Forty epochs on eight scenes, with an encoder that has seen 32 others or with none"
    def learner(path, bs):
        return seg_learner(seg_dataloaders(path, bs=bs, seed=1, size=(32, 48)), ARCH, TINY,
            pretrained=False, seed=seed, keep_best=False, metrics=[PixelAccuracy(), MeanIoU()])
    source = learner(make_scenes(tmp/'source', n=40, size=(48, 64), seed=1), 8)
    learn = learner(hold_out(make_scenes(tmp/'few', n=24, size=(48, 64), seed=77), 8), 4)
    if way != 'from scratch':
        quiet(source, 20, lr=4e-3)
        learn.model[0].load_state_dict(source.model[0].state_dict())
    tenth = way == 'a tenth of the rate'
    if way != 'frozen': return scored(learn, 40, slice(4e-4, 4e-3) if tenth else 4e-3)
    began = time.time()
    learn.freeze()
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(40, 4e-3)
    rows = [[float(o) for o in r] for r in learn.recorder.values]
    return dict(zip(('train_loss', 'valid_loss', 'pixel_accuracy', 'mean_iou'), rows[-1]),
        curve=[round(r[3], 4) for r in rows], seconds=round(time.time() - began))


def without_margin(folder, out):
    "A copy whose pixels outside the field of view (folder fov/) are Void"
    (out/'labels').mkdir(parents=True)
    (out/'images').symlink_to((folder/'images').resolve())
    for f in sorted((folder/'labels').iterdir()):
        inside = np.array(Image.open(folder/'fov'/f.name.replace('_P.', '.')))
        mask = np.where(inside, np.array(Image.open(f)), 2).astype(np.uint8)
        Image.fromarray(mask).save(out/'labels'/f.name)
    (out/'codes.txt').write_text('background\nvessel\nVoid\n')
    (out/'valid.txt').write_text((folder/'valid.txt').read_text())
    return out


@torch.no_grad()
def vessel_scores(learn):
    "Scores of the vessels over the whole validation images, and Dice at the best of 100 thresholds"
    conf, hist = Confusion(3, ignore_index=2), torch.zeros(2, 100)
    learn.model.eval()
    for x, y in learn.dls.valid:
        logits, y = torch.Tensor(learn.model(x)), torch.Tensor(y)
        logits[:, 2] = -torch.inf  # Void is never an answer
        conf.update(logits, y)
        p = logits.softmax(1)[:, 1]
        hist += torch.stack([torch.histc(p[y == k], 100, 0, 1) for k in (0, 1)])
    m, above = conf.matrix, hist.flip(1).cumsum(1)
    best = (2*above[1]/(above.sum(0) + hist[1].sum())).max().item()
    found = dict(dice=conf.dice()[1].item(), best_dice=best, recall=(m[1, 1]/m[1].sum()).item(),
        precision=(m[1, 1]/m[:, 1].sum()).item(), pixel_accuracy=conf.pixel_accuracy(),
        mean_iou=conf.mean_iou())
    return {k: round(v, 4) for k, v in found.items()}


def retina(seed, folder, name):
    dls = seg_dataloaders(folder, bs=4, size=128, crops='random', crops_per_image=32, val_bs=1,
        batch_tfms=mild_tfms(max_rotate=0., max_zoom=1., flip_vert=True))
    vessel = DiceLoss(torch.tensor([0., 1., 0.]), 2)
    loss = {'cross entropy': CrossEntropyLoss(ignore_index=2), 'Dice': vessel,
        'cross entropy, weighted': CrossEntropyLoss(class_weights(dls), 2),
        'Lovász': LovaszLoss(torch.tensor([0., 1., 0.]), 2),
        'cross entropy + Dice': CombinedLoss(CrossEntropyLoss(ignore_index=2), vessel)}[name]
    learn = seg_learner(dls, ARCH, TINY, pretrained=False, loss=loss, metrics=[], seed=seed,
        keep_best=False)
    began = time.time()
    quiet(learn, 1, lr=4e-3)
    return dict(vessel_scores(learn), seconds=round(time.time() - began))


def plan(data, tmp):
    "group -> name of a run -> a function of the seed; images are drawn when they are needed"
    def drawn():
        out = tmp/'scenes'
        return out if out.exists() else hold_out(make_scenes(out, 150, (48, 64), seed=1), 100)
    def eyes():
        out = tmp/'retina'
        return out if out.exists() else without_margin(data/'retina', out)
    found = {
        'scenes': {k: lambda s, v=v: streets(s, drawn(), 12, **v) for k, v in SCENES.items()},
        'skips': {k: lambda s, v=v: skips(s, drawn(), v)
            for k, v in (('with skips', True), ('zeros instead', False))},
        'transfer': {k: lambda s, k=k: transfer(s, Path(tempfile.mkdtemp(dir=tmp)), k)
            for k in TRANSFER}}
    if data is None: return found
    found['retina'] = {k: lambda s, k=k: retina(s, eyes(), k) for k in RETINA}
    found['camvid'] = {k: lambda s, v=v: streets(s, data/'camvid_tiny', 15, **v)
        for k, v in CAMVID.items()}
    return found


def main():
    a = runs.parser(__doc__, SETTINGS).parse_args()
    with tempfile.TemporaryDirectory() as tmp:
        runs.run_plan(FILE, plan(a.data, Path(tmp)), settings=SETTINGS, most=a.runs,
            groups=a.group, what='scores of the last weights on the validation images, seeds 1 to '
            '3, one thread')


if __name__ == '__main__': main()
