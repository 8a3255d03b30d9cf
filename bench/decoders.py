"""Are the masks of a lean decoder as good as those of fastai's DynamicUnet?

python -m bench decoders [--data FOLDER] [--group NAME ...] [--runs N]
`scenes` draws its images; `camvid` reads FOLDER/camvid_tiny and starts from ImageNet weights. Both
networks get the same images, batches, augmentation, rate and number of steps, and each is trained
at two rates, since a decoder may want another one; the seed decides the new weights, the order and
the augmentation. Scored on the validation images are the weights of the best epoch, which is what
a learner keeps, and the last ones. Writes bench/results/decoders.json after each run; a run that
stands there is not repeated. With --runs the script ends after N new runs."""
import tempfile
import time
from pathlib import Path

from bench import runs
from segbook.data import make_scenes, seg_dataloaders
from segbook.learner import seg_learner, train_segmenter

FILE = Path(__file__).parent/'results'/'decoders.json'
ARCHS, RATES = ('dynamic_unet', 'dynamic_unet_lean'), (1e-3, 2e-3)
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


def plan(data, tmp):
    "group -> name of a run -> a function of the seed; scenes are drawn when they are needed"
    def folder(group):
        if group == 'camvid': return data/'camvid_tiny'
        out = tmp/'scenes'
        return out if out.exists() else make_scenes(out, n=300, seed=42)
    return {group: {f'{arch}, rate {rate:g}': lambda s, g=group, a=arch, r=rate: one_run(s, a, r,
        folder(g), 20 if g == 'camvid' else 3) for rate in RATES for arch in ARCHS}
        for group in SETTINGS}


def main():
    p = runs.parser(__doc__, SETTINGS)
    a = p.parse_args()
    if a.data is None and 'camvid' in a.group: p.error('camvid needs --data FOLDER')
    with tempfile.TemporaryDirectory() as tmp:
        runs.run_plan(FILE, plan(a.data, Path(tmp)), settings=SETTINGS, most=a.runs,
            groups=a.group, what='mean IoU and pixel accuracy on the validation images, seeds 1 to '
            '3, one thread')


if __name__ == '__main__': main()
