"""Twenty epochs on a folder from scratch: what plain fastai learns there, class by class, for
comparison with `segbook_train`.

python -m bench quality FOLDER RUN
Trains fastai's `unet_learner` as its documentation has it (resnet18 without weights, default
augmentation and loss, batch 8, one cycle at 1e-3, seed 42), counts the validation split without
Void, and puts it beside RUN, the output of `segbook_train
--data FOLDER --encoder resnet18 --pretrained false --epochs 20 --seed 42`. Writes
bench/results/quality.json."""
import argparse, json, time
from pathlib import Path
import pandas as pd
from bench.about import about
from bench.folders import theirs
from segbook.all import *


def fastai_iou(path, epochs):
    "Matrix of the validation split and seconds, after training as fastai's documentation does."
    set_seed(42, reproducible=True)
    learn = theirs(path)
    with learn.no_bar(), learn.no_logging():
        start = time.time()
        learn.fit_one_cycle(epochs, 1e-3)
        took = time.time() - start
        p, t = learn.get_preds()
    conf = Confusion(len(SegFolder(path).codes), SegFolder(path).ignore_index).update(p, t)
    return conf, took


def main():
    p = argparse.ArgumentParser(description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('folder', type=Path)
    p.add_argument('run', type=Path)
    p.add_argument('--epochs', type=int, default=20)
    a = p.parse_args()
    conf, took = fastai_iou(a.folder, a.epochs)
    run = json.loads((a.run/'run.json').read_text())
    ours = pd.read_csv(a.run/'per_class.csv').set_index('class').iou
    table = {c: dict(fastai=round(float(f), 4), segbook=round(float(ours[c]), 4))
        for c, f in zip(SegFolder(a.folder).codes, conf.iou()) if c in ours and f == f}
    out = dict(about(), what='IoU on the validation split without Void, from scratch, seed 42',
        epochs=a.epochs, per_class=table, fastai=dict(mean_iou=conf.mean_iou(),
            pixel_accuracy=conf.pixel_accuracy(), seconds=took),
        segbook=dict(mean_iou=run['mean_iou'], pixel_accuracy=run['pixel_accuracy'],
            seconds=run['duration'], best_epoch=run['best_epoch'],
            arguments={k: run['arguments'][k] for k in ('encoder', 'epochs', 'bs', 'lr', 'seed',
                'weights')}))
    (Path(__file__).parent/'results'/'quality.json').write_text(json.dumps(out, indent=1) + '\n')
    print(pd.DataFrame(table).T)
    print(f"mean IoU: fastai {conf.mean_iou():.3f}, segbook {run['mean_iou']:.3f}")
