"""The same network trained with each loss on one imbalanced set: vessels of the retina, which fill an eighth of the field of view.

python bench/retina_losses.py FOLDER [--crops 32] [--steps N] [--only NAME ...]
FOLDER holds images/, labels/, fov/ (1 inside the field of view), codes.txt and valid.txt. What lies outside the field of view
becomes Void, which no loss and no score counts. Every run: DynamicUnet on resnet18 from scratch, seed 42, random windows of
128x128, batch 4, one cycle up to 1e-3; scored once, with its last weights, on the whole validation images.
Writes bench/results/retina_losses.json after each run; a run that stands there with the same settings is not repeated.
With --steps each run is cut after N batches and nothing is written: a check that all losses run."""
import argparse, json, sys, tempfile, time
from pathlib import Path
sys.path.insert(0, str(Path(__file__).parent))
import numpy as np, torch
from PIL import Image
from about import about
from fastai.callback.core import Callback, CancelFitException, CancelValidException
from segbook.data import mild_tfms, seg_dataloaders
from segbook.learner import seg_learner, train_segmenter
from segbook.losses import *
from segbook.masks import _replace_file
from segbook.metrics import Confusion

OUT, VOID, BINS = Path(__file__).parent/'results'/'retina_losses.json', 2, 100


def prepare(folder, out):
    "A copy of `folder` in which the pixels outside the field of view are of a third class, Void."
    (out/'labels').mkdir(parents=True); (out/'images').symlink_to((folder/'images').resolve())
    for f in sorted((folder/'labels').iterdir()):
        mask, inside = np.array(Image.open(f)), np.array(Image.open(folder/'fov'/f.name.replace('_P.', '.')))
        Image.fromarray(np.where(inside > 0, mask, VOID).astype(np.uint8)).save(out/'labels'/f.name)
    (out/'codes.txt').write_text('background\nvessel\nVoid\n')
    (out/'valid.txt').write_text((folder/'valid.txt').read_text())
    return out


def losses(weight):
    "Name -> loss; all leave Void out."
    v = dict(ignore_index=VOID)
    vessel = dict(v, weight=torch.tensor([0., 1., 0.]))  # the losses of overlap score the vessels alone; once both classes, to see the difference
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
    "Scores of the whole validation images, and how often each probability of vessel was given: [2,100], row is truth."
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
    return dict(dice=conf.dice()[1].item(), mean_iou=conf.mean_iou(), pixel_accuracy=conf.pixel_accuracy(),
                precision=(m[1,1]/m[:,1].sum()).item(), recall=(m[1,1]/m[1].sum()).item(),
                dice_per_image=[round(o, 4) for o in conf.dice(per_image=True)[:,1].tolist()], matrix=m[:2,:2].tolist(), histogram=hist.tolist())


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('folder', type=Path); p.add_argument('--crops', type=int, default=32, help='windows of each training image')
    p.add_argument('--steps', type=int); p.add_argument('--only', nargs='*')
    a = p.parse_args()
    torch.set_num_threads(1)
    settings = dict(arch='dynamic_unet', encoder='resnet18', pretrained=False, size=128, crops='random', crops_per_image=a.crops, bs=4, epochs=1, lr=1e-3, seed=42, threads=1)
    out = dict(about('segbook'), what='Dice of vessel inside the field of view, 4 whole validation images, last weights', settings=settings, runs={})
    if OUT.exists() and not a.steps and (old := json.loads(OUT.read_text()))['settings'] == settings: out['runs'] = old['runs']
    with tempfile.TemporaryDirectory() as tmp:
        folder = prepare(a.folder, Path(tmp)/'retina')
        for name in losses(None):
            if name in out['runs'] or (a.only and name not in a.only): continue
            dls = seg_dataloaders(folder, bs=settings['bs'], size=settings['size'], crops='random', crops_per_image=a.crops, val_bs=1, num_workers=0,
                                  batch_tfms=mild_tfms(max_rotate=0., max_zoom=1., flip_vert=True))
            weight = class_weights(dls)
            learn = seg_learner(dls, encoder='resnet18', pretrained=False, loss=losses(weight)[name], metrics=[], keep_best=False)
            start = time.time()
            with learn.no_bar(), learn.no_logging():
                train_segmenter(learn, 1, settings['lr'], cbs=[NoValidation()] + ([Cut(a.steps)] if a.steps else []))
            took = time.time() - start
            train = [round(float(o), 4) for o in learn.recorder.losses]
            if a.steps: print(name, train, f'{took:.0f} s', flush=True); continue
            out['runs'][name] = dict(score(learn), seconds=round(took, 1), train_loss=train)
            out['windows'] = len(dls.train_ds)
            out['weight'] = weight.tolist()
            _replace_file(OUT, lambda f: f.write_text(json.dumps(out) + '\n', encoding='utf-8'))
            r = out['runs'][name]
            print(f"{name:26} Dice {r['dice']:.3f}  accuracy {r['pixel_accuracy']:.3f}  mean IoU {r['mean_iou']:.3f}  {took:.0f} s", flush=True)


if __name__ == '__main__': main()
