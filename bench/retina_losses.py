"""The same network trained with each loss on one imbalanced set: vessels of the retina.

python -m bench retina_losses FOLDER [--crops 32] [--steps N] [--only NAME ...]
    [--after-cross-entropy]

FOLDER holds images/, labels/, fov/ (1 inside the field of view), codes.txt and valid.txt. What
lies outside the field of view becomes Void, which no loss and no score counts. Every run:
DynamicUnet on resnet18 from scratch, seed 42, random windows of 128x128, batch 4, one cycle up to
1e-3; scored once, with its last weights, on the whole validation images. Writes
bench/results/retina_losses.json after each run; a run that stands there with the same settings is
not repeated. With --after-cross-entropy every loss goes on from one network, the one that cross
entropy trained, for half as many windows and up to 3e-4, and the file is
bench/results/retina_losses_continued.json. With --steps each run is cut after N batches and
nothing is written: a check that all losses run."""
import argparse, json, tempfile, time
from pathlib import Path
import numpy as np, torch
from PIL import Image
from bench.about import about
from fastai.callback.core import Callback, CancelFitException, CancelValidException
from segbook.data import mild_tfms, seg_dataloaders
from segbook.learner import seg_learner, train_segmenter
from segbook.losses import *
from segbook.files import replace_file
from segbook.metrics import Confusion

RESULTS, VOID, BINS = Path(__file__).parent/'results', 2, 100


def prepare(folder, out):
    "A copy of `folder` in which the pixels outside the field of view are of a third class, Void."
    (out/'labels').mkdir(parents=True)
    (out/'images').symlink_to((folder/'images').resolve())
    for f in sorted((folder/'labels').iterdir()):
        mask, inside = np.array(Image.open(f)), np.array(
            Image.open(folder/'fov'/f.name.replace('_P.', '.')))
        Image.fromarray(np.where(inside > 0, mask, VOID).astype(np.uint8)).save(out/'labels'/f.name)
    (out/'codes.txt').write_text('background\nvessel\nVoid\n')
    (out/'valid.txt').write_text((folder/'valid.txt').read_text())
    return out


def losses(weight):
    "Name -> loss; all leave Void out."
    v = dict(ignore_index=VOID)
    # the losses of overlap score the vessels alone; once both classes, to see the difference
    vessel = dict(v, weight=torch.tensor([0., 1., 0.]))
    return {
        'cross entropy': CrossEntropyLoss(**v),
        'cross entropy, weighted': CrossEntropyLoss(weight, **v),
        'focal, gamma 2': FocalLoss(**v),
        'Dice of both classes': DiceLoss(**v),
        'Dice': DiceLoss(**vessel),
        'Jaccard': JaccardLoss(**vessel),
        'Tversky 0.3/0.7': TverskyLoss(**vessel),
        'Lovász': LovaszLoss(**vessel),
        'cross entropy + Dice': CombinedLoss(CrossEntropyLoss(**v), DiceLoss(**vessel)),
    }


class Cut(Callback):
    "End the fit after `n` batches of training."
    def __init__(self, n): self.n = n
    def after_batch(self):
        if self.training and self.iter + 1 >= self.n: raise CancelFitException


class NoValidation(Callback):
    "Whole images take their time, and `score` reads them anyway."
    def before_validate(self): raise CancelValidException


@torch.no_grad()
def score(learn):
    """Scores of the whole validation images, and a histogram of the probabilities of vessel.

    [2,100] how often each was given; the row is the truth."""
    conf, hist = Confusion(VOID+1, VOID, per_image=True), torch.zeros(2, BINS, dtype=torch.long)
    learn.model.eval()
    for x, y in learn.dls.valid:
        x, y = torch.Tensor(x), torch.Tensor(y).long()
        logits = learn.model(x.contiguous(memory_format=torch.channels_last))
        logits[:, VOID] = -torch.inf # Void is never an answer
        conf.update(logits, y)
        bins = (logits.softmax(1)[:, 1]*BINS).long().clamp(max=BINS-1)
        for k in (0, 1): hist[k] += torch.bincount(bins[y == k], minlength=BINS)
    m = conf.matrix
    return dict(dice=conf.dice()[1].item(), mean_iou=conf.mean_iou(),
        pixel_accuracy=conf.pixel_accuracy(), precision=(m[1,1]/m[:,1].sum()).item(),
        recall=(m[1,1]/m[1].sum()).item(), dice_per_image=[round(o, 4)
            for o in conf.dice(per_image=True)[:,1].tolist()], matrix=m[:2,:2].tolist(),
        histogram=hist.tolist())


def train(folder, name, crops, lr, start=None, steps=None):
    """(learner, seconds, losses of all batches, class weights) after one pass over the windows.

    It begins with random weights, or with `start`."""
    dls = seg_dataloaders(folder, bs=4, size=128, crops='random', crops_per_image=crops, val_bs=1,
        num_workers=0, batch_tfms=mild_tfms(max_rotate=0., max_zoom=1., flip_vert=True))
    weight = class_weights(dls)
    learn = seg_learner(dls, 'dynamic_unet', 'resnet18', pretrained=False,
        loss=losses(weight)[name], metrics=[], keep_best=False)
    if start is not None: learn.model.load_state_dict(start)
    began = time.time()
    with learn.no_bar(), learn.no_logging():
        train_segmenter(learn, 1, lr, cbs=[NoValidation()] + ([Cut(steps)] if steps else []))
    return learn, round(time.time() - began,
        1), [round(float(o), 4) for o in learn.recorder.losses], weight.tolist()


def main():
    p = argparse.ArgumentParser(description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('folder', type=Path)
    p.add_argument('--crops', type=int, default=32, help='windows of each training image')
    p.add_argument('--steps', type=int)
    p.add_argument('--only', nargs='*')
    p.add_argument('--after-cross-entropy', action='store_true')
    a = p.parse_args()
    torch.set_num_threads(1)
    # a network that is sure of one class makes numbers that take 3 times as long
    torch.set_flush_denormal(True)
    settings = dict(arch='dynamic_unet', encoder='resnet18', pretrained=False, size=128,
        crops='random', crops_per_image=a.crops, bs=4, epochs=1, lr=1e-3, seed=42, threads=1)
    file, crops, lr = RESULTS/'retina_losses.json', a.crops, 1e-3
    if a.after_cross_entropy:
        file, crops, lr = RESULTS/'retina_losses_continued.json', a.crops//2, 3e-4
        settings['then'] = dict(crops_per_image=crops, lr=lr)
    out = dict(about('segbook'), what='Dice of vessel inside the field of view, 4 whole validation '
        'images, last weights', settings=settings, runs={})
    if file.exists() and not a.steps and (old := json.loads(file.read_text()))[
            'settings'] == settings:
        out['runs'] = old['runs']
    with tempfile.TemporaryDirectory() as tmp:
        folder, start = prepare(a.folder, Path(tmp)/'retina'), None
        if a.after_cross_entropy:
            learn = train(folder, 'cross entropy', a.crops, 1e-3, steps=a.steps)[0]
            start = {k: v.clone() for k, v in learn.model.state_dict().items()}
            out['start'] = score(learn)
        for name in losses(None):
            if name in out['runs'] or (a.only and name not in a.only): continue
            learn, took, history, out['weight'] = train(folder, name, crops, lr, start, a.steps)
            if a.steps:
                print(name, history, f'{took:.0f} s', flush=True)
                continue
            r = out['runs'][name] = dict(score(learn), seconds=took, train_loss=history)
            replace_file(file, lambda f: f.write_text(json.dumps(out) + '\n', encoding='utf-8'))
            print(f"{name:26} Dice {r['dice']:.3f}  precision {r['precision']:.3f}  recall "
                f"{r['recall']:.3f}  accuracy {r['pixel_accuracy']:.3f}  {took:.0f} s", flush=True)
