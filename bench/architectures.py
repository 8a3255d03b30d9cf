"""Architectures side by side: masks, weights, multiplications, memory, speed, receptive fields.

python -m bench architectures --data FOLDER [--group NAME ...] [--arch NAME ...] [--runs N]
`camvid` trains each semantic architecture on FOLDER/camvid_tiny with the same images, schedule and
encoder (tf_efficientnet_lite0 with its ImageNet weights, where the architecture takes an encoder;
the others start from random weights); the seed decides the new weights, the order and the
augmentation. Scored are the weights of the best epoch, which is what a learner keeps, and the last.
`facts` needs no images: what a network costs and sees, with the speed measured once for each seed.
Writes bench/results/architectures.json after each run; a run that stands there is not repeated."""
import time
from pathlib import Path

import numpy as np
import torch
from bench import runs
from segbook.convolution import conv_cost
from segbook.data import seg_dataloaders
from segbook.errors import SegbookError
from segbook.learner import seg_learner, train_segmenter
from segbook.metrics import boundary_f1
from segbook.models import MODELS, has_own_encoder, seg_model
from segbook.receptive_field import effective_receptive_field, receptive_field

FILE = Path(__file__).parent/'results'/'architectures.json'
ENCODER, EPOCHS, CLASSES = 'tf_efficientnet_lite0', 15, 12
# these find objects, and need a folder of instances
WITH_INSTANCES = 'panet', 'panoptic_fpn'
ARCHS = [o for o in MODELS if o not in WITH_INSTANCES]
SIZE = 96, 128
SETTINGS = dict(
    camvid=f'camvid_tiny, 80 images of 96x128 to train on, {EPOCHS} epochs of one cycle up to '
        f'2e-3, batch 4; {ENCODER} with ImageNet weights at four tenths of the rate, or the own '
        'encoder from random weights',
    facts='images of 96x128, batch 4; seconds are processor time of one thread; receptive fields '
        'in an image of 512x512')


def encoder_of(arch): return 'own' if has_own_encoder(arch) else ENCODER


@torch.no_grad()
def edges(learn):
    "Mean boundary F1 over classes and validation images, where an image has a border of the class"
    dls, found = learn.dls, []
    learn.model.eval()
    for x, y in dls.valid:
        found.append(boundary_f1(torch.Tensor(learn.model(x)), torch.Tensor(y).long(), CLASSES,
            dls.ignore_index))
    return torch.cat(found).nanmean(0).nanmean().item()


def trained(seed, arch, data, device='cpu'):
    "Scores of a run on the validation images"
    began = time.process_time()
    dls = seg_dataloaders(data/'camvid_tiny', bs=4, seed=seed, device=device, num_workers=0)
    own = has_own_encoder(arch)
    learn = seg_learner(dls, arch, encoder_of(arch), seed=seed, pretrained=not own,
        precision='float32')
    with learn.no_bar(), learn.no_logging():
        history = train_segmenter(learn, EPOCHS, lr=2e-3 if own else slice(8e-4, 2e-3))
    curve = [round(float(o), 4) for o in history.column('mean_iou')]
    return dict(mean_iou=max(curve), last=curve[-1], boundary_f1=round(edges(learn), 4),
        pixel_accuracy=round(float(max(history.column('pixel_accuracy'))), 4), curve=curve,
        seconds_of_computing=round(time.process_time() - began))


def kept_bytes(net, x):
    "Bytes that a pass keeps for the gradient, the weights left out"
    own, kept = {p.untyped_storage().data_ptr() for p in net.parameters()}, {}
    def note(t):
        s = t.untyped_storage()
        if s.data_ptr() not in own: kept[s.data_ptr()] = s.nbytes()
        return t
    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t): out = net(x)
    return sum(kept.values()), out


def seconds(run, rounds=5):
    "Median processor time of a call, the first left out"
    times = []
    for _ in range(rounds + 1):
        began = time.process_time()
        run()
        times.append(time.process_time() - began)
    return float(np.median(times[1:]))


def sides(net):
    """Sides in pixels: the square that a pixel of the answer sees at all, and the one that holds
    nine tenths of what moves it"""
    try: whole = receptive_field(net, (512, 512)).size[0]
    except SegbookError: whole = None
    field = effective_receptive_field(net, (512, 512), n=4).double()
    mass = torch.tensor([field[256 - r:256 + r + 1, 256 - r:256 + r + 1].sum() for r in range(256)])
    return whole, 2*int((mass < .9*field.sum()).sum()) + 1


def facts(seed, arch):
    "What a network costs and sees"
    torch.manual_seed(seed)
    net = seg_model(arch, CLASSES, encoder_of(arch))
    x = torch.randn(4, 3, *SIZE).to(memory_format=torch.channels_last)
    y = torch.randint(0, CLASSES, (4, *SIZE))
    parameters, macs = conv_cost(net.eval(), (1, 3, *SIZE))
    seen, mostly = sides(net)
    net = net.to(memory_format=torch.channels_last)
    def step():
        torch.nn.functional.cross_entropy(net(x), y).backward()
        net.zero_grad()
    def answer():
        with torch.no_grad(): net(x)
    answering = seconds(answer)
    net.train()
    kept = kept_bytes(net, x)[0]
    return dict(parameters=parameters, multiply_adds=macs, receptive_field=seen,
        nine_tenths_within=mostly, kept_megabytes_an_image=round(kept/4e6, 2),
        training_images_a_second=round(4/seconds(step), 2),
        answers_a_second=round(4/answering, 2))


def plan(data, archs, device='cpu'):
    "group -> name of a run -> a function of the seed"
    return {'facts': {k: lambda s, k=k: facts(s, k) for k in archs},
        'camvid': {k: lambda s, k=k: trained(s, k, data, device) for k in archs}}


def main():
    p = runs.parser(__doc__, SETTINGS, devices=True)
    p.add_argument('--arch', nargs='*', choices=ARCHS, default=ARCHS)
    a = p.parse_args()
    if a.data is None and 'camvid' in a.group: p.error('camvid needs --data FOLDER')
    runs.run_plan(FILE, plan(a.data, a.arch, a.device), settings=SETTINGS, most=a.runs,
        groups=a.group, device=a.device,
        what='scores on the validation images, and facts, seeds 1 to 3, one thread')


if __name__ == '__main__': main()
