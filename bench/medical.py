"""Vessels, membranes and nuclei: what segbook_train's own plan reaches on them.

python -m bench medical --data FOLDER --out FOLDER [--group NAME ...] [--runs N]
Reads FOLDER/retina, FOLDER/membranes and FOLDER/nuclei. Each run is what the plan for the folder
chooses on two cores and for 20 minutes, with its epochs held fast, so that a seed means the same
everywhere. Judged are the last weights, which the validation images did not choose, on whole
images, once as they are and once as the mean over all eight positions of the square. A run keeps a
checkpoint and its learner in --out, and goes on from there. Writes bench/results/medical.json."""
import re
import time
from pathlib import Path

import numpy as np
import torch
from bench import runs
from PIL import Image
from segbook.architectures.boxes import Instances
from segbook.data import seg_dataloaders
from segbook.export import save_segmenter
from segbook.inference import predict_image, predict_tta
from segbook.learner import seg_learner, train_segmenter
from segbook.masks import SegFolder, read_mask
from segbook.metrics import AveragePrecision
from segbook.objects import separate_objects
from segbook.planning.recipes import loss_named, transforms_named
from skimage.measure import label
from skimage.metrics import adapted_rand_error, variation_of_information
from sklearn.metrics import roc_auc_score

FILE = Path(__file__).parent/'results'/'medical.json'
WINDOWS = dict(size=256, crops='random')
RECIPES = dict(
    retina=dict(windows=dict(WINDOWS, crops_per_image=5), loss='cross_entropy+dice', epochs=28),
    membranes=dict(windows=dict(WINDOWS, crops_per_image=4), loss='cross_entropy+dice', epochs=38),
    nuclei=dict(windows={}, loss='border+dice', epochs=29))
# what a plan might have chosen instead
LONGER = 'twice as long, the encoder at four tenths of the rate'
OWN_RANGE = "each image's own range, 45 epochs, the encoder at four tenths of the rate"
OTHERWISE = dict(nuclei={'without border weights': dict(loss='cross_entropy+dice'),
        OWN_RANGE: dict(loss='cross_entropy+dice', epochs=45, encoder_rate=8e-4,
            value_range='image')},
    membranes={LONGER: dict(epochs=76, encoder_rate=8e-4)})
SETTINGS = dict(arch='dynamic_unet_lean', encoder='tf_efficientnet_lite0 with ImageNet weights',
    batch=4, rate=2e-3, augmentation='dihedral', judged='the last weights, on whole images')


def overlap(p, truth, inside):
    "Dice, IoU and pixel error of probabilities above one half: over all pixels, and image by image"
    found = [(o > .5)[i] for o, i in zip(p, inside)]
    true = [o[i].astype(bool) for o, i in zip(truth, inside)]
    both, either, wrong, pixels = (np.array([op(a, b).sum() for a, b in zip(found, true)]) for op in
        (np.logical_and, np.logical_or, np.not_equal, lambda a, b: np.ones(len(a))))
    b, e = both.sum(), either.sum()
    return dict(dice=2*b/(b + e), iou=b/e, pixel_error=wrong.sum()/pixels.sum(),
        dice_by_image=(2*both/(both + either)).mean(), iou_by_image=(both/either).mean())


def vessel_scores(p, truth, inside):
    "What is told of vessels: of the pixels inside the field of view"
    values = np.concatenate([o[i] for o, i in zip(p, inside)])
    true = np.concatenate([o[i] for o, i in zip(truth, inside)]).astype(bool)
    return dict(sensitivity=(values > .5)[true].mean(), specificity=(values <= .5)[~true].mean(),
        auc=roc_auc_score(true, values))


def cell_scores(p, truth):
    "Cells between membranes as regions: Rand F-score, and bits of variation of information"
    rows = []
    for prob, mask in zip(p, truth):
        true, found = (label(o, connectivity=1) for o in (mask == 0, prob <= .5))
        error = adapted_rand_error(true, found, ignore_labels=(0,))[0]
        cut, merged = variation_of_information(true, found, ignore_labels=(0,))
        rows.append((1 - error, cut, merged))
    return dict(zip(('rand_f', 'bits_split', 'bits_merged'), np.mean(rows, 0)))


def nucleus_scores(p, truth, instances):
    "Average precision of nuclei that a watershed parts, each with its mean probability as score"
    counted = AveragePrecision(2)
    for prob, mask, ids in zip(p, truth, instances):
        found = separate_objects(prob > .5, min_area=10)
        masks = found == np.arange(1, found.max() + 1)[:, None, None]
        counted.update([Instances(masks, np.ones(len(masks), int), np.array([prob[o].mean() for o in
            masks]), None)], mask[None], ids[None])
    return dict(average_precision_50=counted.mean(.5), average_precision=counted.mean())


def scores(name, folder, p, files):
    "All scores of probabilities, image by image, of one folder"
    truth = [read_mask(folder.label_of(f)) for f in files]
    def other(kind, f): return np.array(Image.open(folder.path/kind/f'{f.stem}.png'))
    inside = [other('fov', f) > 0 if name == 'retina' else np.ones(o.shape, bool)
        for f, o in zip(files, truth)]
    more = dict(retina=lambda: vessel_scores(p, truth, inside), membranes=lambda: cell_scores(p,
        truth), nuclei=lambda: nucleus_scores(p, truth, [other('instances', f) for f in files]))
    return {k: round(float(v), 4) for k, v in {**overlap(p, truth, inside), **more[name]()}.items()}


def trained(seed, name, data, out, run='plan', device='cpu'):
    "Scores of a run on the validation images"
    how = {**RECIPES[name], **OTHERWISE.get(name, {}).get(run, {})}
    words = '' if run == 'plan' else re.sub(r'\W+', '-', f'-{run}')
    began, out, data = time.process_time(), out/f'{name}-{seed}{words}', data/name
    dls = seg_dataloaders(data, bs=4, seed=seed, device=device, cache='auto',
        num_workers=0, batch_tfms=transforms_named('dihedral'), value_range=how.get('value_range'),
        **how['windows'])
    learn = seg_learner(dls, SETTINGS['arch'], SETTINGS['encoder'].split()[0], seed=seed,
        pretrained=True, loss=loss_named(how['loss'], None, dls.ignore_index), keep_best=False,
        precision='float32')
    resume = (out/'checkpoint').exists() and any((out/'checkpoint').iterdir())
    with learn.no_bar():
        low, high = how.get('encoder_rate'), SETTINGS['rate']
        history = train_segmenter(learn, how['epochs'], lr=slice(low, high) if low else high,
            folder=out, resume=resume)
    save_segmenter(learn, out/'model', overwrite=True)
    folder, files = SegFolder(data), list(dls.valid_ds.items)
    plain = [predict_image(learn, f, probabilities=True)[1].numpy() for f in files]
    eight = [predict_tta(learn, f, flips='horizontal', turns=True)[1].numpy() for f in files]
    np.savez_compressed(out/'probabilities.npz', **{f.name: o.astype(np.float16) for f, o in
        zip(files, eight)})
    return dict(plain=scores(name, folder, plain, files), eight_positions=scores(name, folder,
        eight, files), curve=[round(float(o), 4) for o in history.column('mean_iou')],
        seconds_of_computing_of_the_last_start=round(time.process_time() - began))


def main():
    p = runs.parser(__doc__, RECIPES, devices=True)
    p.add_argument('--out', type=Path, required=True)
    a = p.parse_args()
    if a.data is None: p.error('--data FOLDER is missing')
    torch.set_flush_denormal(True)
    plan = {k: {run: lambda s, k=k, run=run: trained(s, k, a.data, a.out, run, a.device)
            for run in ('plan', *OTHERWISE.get(k, {}))} for k in RECIPES}
    runs.run_plan(FILE, plan, settings=dict(SETTINGS, recipes=RECIPES, otherwise=OTHERWISE),
        most=a.runs, groups=a.group, device=a.device,
        what='scores on the validation images, seeds 1 to 3, one thread')


if __name__ == '__main__': main()
