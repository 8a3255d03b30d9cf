"""A quarter of an hour of one core: few steps on whole images, or many on windows.

python -m bench little_time --data FOLDER --out FOLDER [--runs N]
Reads FOLDER/camvid. Each run spends about as many pixels, two epochs, on steps of another size,
with the loss that a plan takes; judged are the last weights, on the whole images of valid.txt.
Writes bench/results/little_time.json, from which the table of chapter 12c comes."""
import time
from functools import partial
from pathlib import Path

from bench import runs
from bench.camvid import scored
from segbook.data import seg_dataloaders
from segbook.learner import seg_learner, train_segmenter
from segbook.planning.plan import planned_loss

FILE = Path(__file__).parent/'results'/'little_time.json'
RUNS = {
    '8 whole images': dict(bs=8),
    '4 whole images': dict(bs=4),
    '4 windows of 256': dict(bs=4, size=(256, 256), crops='random', crops_per_image=3),
}
SETTINGS = dict(arch='dynamic_unet_lean', encoder='tf_efficientnet_lite0', epochs=2, rate=2e-3,
    augmentation='mild', loss='cross entropy, rare classes weigh more')


def one_run(seed, data, out, name):
    "Train for two epochs; the scores."
    dls = seg_dataloaders(data/'camvid', seed=seed, device='cpu', cache='auto', num_workers=0,
        **RUNS[name])
    learn = seg_learner(dls, SETTINGS['arch'], SETTINGS['encoder'], seed=seed, pretrained=True,
        loss=planned_loss('cross_entropy', True, dls), precision='float32')
    began = time.process_time()
    with learn.no_bar():
        train_segmenter(learn, SETTINGS['epochs'], lr=SETTINGS['rate'],
            folder=out/'-'.join((*name.split(), str(seed))), overwrite=True)
    took, found = time.process_time() - began, scored(learn)
    return dict(mean_iou=found['mean_iou'], pixel_accuracy=found['pixel_accuracy'],
        steps=SETTINGS['epochs']*len(dls.train), cpu_minutes=round(took/60, 1))


def main():
    p = runs.parser(__doc__)
    p.add_argument('--out', type=Path, required=True)
    a = p.parse_args()
    if a.data is None: p.error('--data FOLDER is missing')
    plan = {'camvid': {k: partial(one_run, data=a.data, out=a.out, name=k) for k in RUNS}}
    runs.run_plan(FILE, plan, settings=dict(SETTINGS, variants=RUNS), most=a.runs,
        what='scores on the 101 images of valid.txt at 360x480, one thread')


if __name__ == '__main__': main()
