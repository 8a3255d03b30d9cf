"""What gaps and border weights do for touching nuclei: one network, trained three times.

python -m bench nuclei_borders NUCLEI [--epochs 8] [--seeds 42]

NUCLEI is a data folder with `instances/`, ids of nuclei. Trains a DynamicUnet on resnet18 from
scratch on windows of 128, batch 8, one cycle at 1e-3: on the masks as they are, on masks with a
gap between nuclei that touch, and on these with the border weights of the U-Net paper. Counts on
whole validation images. Writes bench/results/nuclei_borders.json after each run, and skips what is
there."""
import argparse, json, os, tempfile, time
from collections import Counter
from pathlib import Path
import numpy as np, torch
from PIL import Image
from bench.about import about
from segbook.all import *
from segbook.imbalance import match_instances, split_touching
from segbook.losses import BorderWeightedLoss
from segbook.files import replace_file

RUNS = {'masks as they are': (False, CrossEntropyLoss),
    'a gap between nuclei': (True, CrossEntropyLoss),
    'a gap, and border weights': (True, BorderWeightedLoss)}
FILE = Path(__file__).parent/'results'/'nuclei_borders.json'

def instances_of(folder, image):
    return np.array(Image.open(folder.path/'instances'/f'{image.stem}.png'))

def with_gaps(source, out):
    "A folder with the images of `source`, and gaps in its masks."
    folder = SegFolder(source)
    (out/'labels').mkdir(parents=True)
    os.symlink((folder.path/'images').resolve(), out/'images')
    for name in ('codes.txt', 'valid.txt'): (out/name).write_text((folder.path/name).read_text())
    for im, lab in zip(folder.images, folder.labels):
        Image.fromarray(split_touching(instances_of(folder, im))).save(out/'labels'/lab.name)
    return out

def count(learn, folder):
    "Nuclei of the validation images, and the Dice of the masks as they are."
    total, conf = Counter(), Confusion(2)
    learn.model.eval()
    for im, lab in zip(folder.images, folder.labels):
        if im.name not in folder.valid: continue
        pred = predict_image(learn, im)
        total.update(match_instances(pred, instances_of(folder, im)))
        conf.update(torch.as_tensor(np.array(pred)).long(),
            torch.as_tensor(read_mask(lab).astype(np.int64)))
    return dict(total), conf

def run(name, folder, gaps, epochs, seed):
    gapped, loss = RUNS[name]
    # no turning: it would close gaps two pixels wide
    tfms = mild_tfms(max_rotate=0, max_zoom=1, flip_vert=True)
    dls = seg_dataloaders(gaps if gapped else folder.path, bs=8, size=128, crops='random',
        batch_tfms=tfms, seed=seed)
    learn = seg_learner(dls, 'dynamic_unet', 'resnet18', loss=loss(), pretrained=False, seed=seed,
        keep_best=False)
    start = time.time()
    with learn.no_bar(): history = train_segmenter(learn, epochs, lr=1e-3)
    took = time.time() - start
    found, conf = count(learn, folder)
    return dict(run=name, seed=seed, epochs=epochs, windows=epochs*len(dls.train)*8,
        seconds=round(took), train_loss=round(history[-1][0], 4), **found,
        dice=round(conf.dice()[1].item(), 4))

def main():
    p = argparse.ArgumentParser(description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('folder', type=Path)
    p.add_argument('--epochs', type=int, default=8)
    p.add_argument('--seeds', type=int, nargs='+', default=[42])
    a = p.parse_args()
    folder = SegFolder(a.folder)
    rows = json.loads(FILE.read_text())['runs'] if FILE.exists() else []
    with tempfile.TemporaryDirectory() as tmp:
        gaps = with_gaps(a.folder, Path(tmp)/'gaps')
        for seed in a.seeds:
            for name in RUNS:
                if any((r['run'], r['seed'], r['epochs']) == (name, seed, a.epochs) for r in rows):
                    continue
                rows.append(run(name, folder, gaps, a.epochs, seed))
                print(rows[-1], flush=True)
                out = dict(about(), what='nuclei of the 20 validation images, from scratch; '
                    'separated: a region of its own, IoU above 0.5',
                    threads=torch.get_num_threads(), runs=rows)
                replace_file(FILE, lambda f: Path(f).write_text(json.dumps(out, indent=1) + '\n'))
