"""All that a GPU changes, in one command of less than ten minutes.

python -m bench gpu [--minutes 10] [--compile] [--smoke]

1. Losses, metrics and receptive fields on the GPU have to be equal to those on the CPU.
2. Steps of DynamicUnet-resnet34 on batches of 16 images of 360x480, beside plain fastai (aim: 3
   times as fast) and segmentation-models-pytorch's Unet (aim: 1.0), and the share of the chip's
   peak in bf16.
3. Epochs of the whole learner beside fastai's, and how long training waits for its loader (aim:
   below 5 %). segbook keeps the images of so small a set, as it does unasked on a GPU: they are
   decoded once, before the clock starts; fastai reads the files in each epoch.

Writes bench/results/gpu.json. Exit code 1: something is not equal, 2: there is no GPU here. With
--smoke everything runs once on tiny images, on a CPU if need be, and nothing is written."""
from __future__ import annotations
import argparse
import sys
import time
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F

from bench import folders, timing
from bench.about import about
from bench.gpu_equal import findings
from bench.step import fastai_unet, smp_unet
from bench.topics import RESULTS, as_json, made
from segbook.files import replace_file
from segbook.losses import CrossEntropyLoss
from segbook.models import seg_model
from segbook.precision import chosen_precision

CLASSES, VOID, NAMED = 12, 11, 'segbook dynamic_unet'
# fastai's decoder, and ours
ARCHS = 'dynamic_unet', 'dynamic_unet_lean'
# dense bf16 TFLOP/s in the makers' data sheets, without sparsity; the first name that fits
PEAKS = {'H200': 989, 'H100 PCIe': 756, 'H100 NVL': 835, 'H100': 989, 'GH200': 989, 'B200': 2250,
    'A100': 312, 'A30': 165, 'A10G': 70, 'A10': 125, 'L40S': 362, 'L40': 181, 'L4': 121,
    'RTX 4090': 165, 'RTX 3090': 71, 'A6000': 155, 'A40': 150}


def wait_for(device):
    "A function that returns when the device has done what it was given"
    return torch.cuda.synchronize if torch.device(device).type == 'cuda' else None


def peak_of(name, measured):
    "(TFLOP/s, where the number comes from) for a device of this name"
    found = next((k for k in PEAKS if k in name), None)
    return (PEAKS[found], f'data sheet, {found}') if found else (measured, 'a product of matrices')


def product_rate(device, n):
    "TFLOP/s of the product of two bf16 matrices [n,n], best of ten"
    a, b = (torch.randn(n, n, device=device, dtype=torch.bfloat16) for _ in range(2))
    run = timing.race({'product': lambda: a @ b}, 10, wait=wait_for(device))
    return 2*n**3/min(run.wall['product'])/1e12


def share_of_peak(flops, seconds, peak):
    "Share of the chip's peak in TFLOP/s that so many operations in so many seconds are"
    return flops/seconds/(peak*1e12)


# ---- steps

def lean_step(net, x, y, loss, precision='bf16'):
    "A step in 16 bits and channels_last with a fused optimiser: what segbook's learner does"
    net = net.to(x.device, memory_format=torch.channels_last).train()
    x = x.contiguous(memory_format=torch.channels_last)
    opt = torch.optim.AdamW(net.parameters(), 1e-4, fused=x.is_cuda)
    half = dict(bf16=torch.bfloat16, float16=torch.float16).get(precision, torch.float32)
    scaler = torch.amp.GradScaler(x.device.type, enabled=precision == 'float16')
    def step():
        opt.zero_grad()
        with torch.autocast(x.device.type, half, enabled=precision != 'float32'): out = net(x)
        scaler.scale(loss(out.float(), y)).backward()
        scaler.step(opt)
        scaler.update()
    return step


def plain_step(net, x, y):
    "A step as fastai does it when nothing is asked for: 32 bits, its own Adam"
    from fastai.losses import CrossEntropyLossFlat
    from fastai.optimizer import Adam
    net, loss = net.to(x.device).train(), CrossEntropyLossFlat(axis=1)
    opt = Adam(list(net.parameters()), lr=1e-4)
    def step():
        loss(net(x), y).backward()
        opt.step()
        opt.zero_grad()
    return step


def steppers(device, shape, encoder, archs, compiled):
    "{contestant: maker of a function that does one step}"
    (b, _, h, w), g = shape, torch.Generator().manual_seed(42)
    x = torch.rand(shape, generator=g).to(device)
    y = torch.randint(0, CLASSES, (b, h, w), generator=g).to(device)
    ours, theirs = CrossEntropyLoss(ignore_index=VOID), partial(F.cross_entropy, ignore_index=VOID)
    precision = chosen_precision(None, device)
    nets = {f'segbook {a}': (partial(seg_model, a, CLASSES, encoder=encoder), ours) for a in archs}
    nets['smp Unet'] = partial(smp_unet, encoder, (h, w)), theirs
    found = {k: lambda make=make, loss=loss: lean_step(make(), x, y, loss, precision)
        for k, (make, loss) in nets.items()}
    found['fastai DynamicUnet'] = lambda: plain_step(fastai_unet(encoder, (h, w)), x, y)
    if compiled:
        found.update({f'{k}, compiled': lambda make=make, loss=loss: lean_step(
                    torch.compile(make()), x, y, loss, precision)
                for k, (make, loss) in nets.items()})
    return found, precision


def that_fit(makers):
    "({name: function}, {name: why not}): each has done one step; no package, or no memory"
    ready, left_out = made(makers)
    for k in list(ready):
        try: ready[k]()
        except torch.cuda.OutOfMemoryError:
            del ready[k]
            torch.cuda.empty_cache()
            left_out[k] = 'not enough memory'
    return ready, left_out


def operations(step):
    "Floating-point operations of one step, forward and backward"
    from torch.utils.flop_counter import FlopCounterMode
    with FlopCounterMode(display=False) as counter: step()
    return counter.get_total_flops()


def steps(device, shape, encoder, rounds, *, archs=ARCHS, compiled=False):
    "What the results keep of the steps"
    makers, precision = steppers(device, shape, encoder, archs, compiled)
    ready, left_out = that_fit(makers)
    if NAMED not in ready: return dict(left_out=left_out)
    flops = {k: operations(f) for k, f in ready.items() if 'compiled' not in k}
    run = timing.race(ready, rounds, wait=wait_for(device))
    row = timing.summary(run, NAMED, 'wall')
    measured = product_rate(device, 8192 if torch.device(device).type == 'cuda' else 64)
    peak, source = peak_of(device_name(device), measured)
    shares = {k: float(f'{share_of_peak(n, row["wall_ms"][k][0]/1000, peak):.3g}')
        for k, n in flops.items()}
    return dict(row, shape=list(shape), encoder=encoder, precision=precision, left_out=left_out,
        tflop_a_step={k: round(n/1e12, 3) for k, n in flops.items()}, peak_tflops=round(peak, 1),
        peak_from=source, product_tflops=round(measured, 1), share_of_peak=shares)


# ---- epochs

def clocked(learn):
    "One epoch: (seconds, seconds of training, seconds in which training waited for a batch)"
    from fastai.callback.core import Callback
    class Clock(Callback):
        waited = trained = 0.
        def before_train(self): self.began = self.last = time.perf_counter()
        def before_batch(self):
            if self.training: self.waited += time.perf_counter() - self.last
        def after_batch(self):
            # or what the GPU has still to do would count as waiting for the batch
            if torch.cuda.is_available(): torch.cuda.synchronize()
            self.last = time.perf_counter()
        def after_train(self): self.trained += time.perf_counter() - self.began
    clock, began = Clock(), time.perf_counter()
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-3, cbs=clock)
    if torch.cuda.is_available(): torch.cuda.synchronize()
    return time.perf_counter() - began, clock.trained, clock.waited


def learners(path, encoder, bs, archs):
    "{contestant: maker of a learner}"
    found = {f'segbook {a}': partial(folders.ours, path, encoder, bs, arch=a) for a in archs}
    return {**found, 'fastai unet_learner': partial(folders.theirs, path, encoder, bs)}


def epochs(path, encoder, bs, rounds, until, *, archs=ARCHS, warm=1):
    "What the results keep of the epochs; no round is begun after `until`"
    ready, left_out = made(learners(path, encoder, bs, archs))
    rows = {k: [] for k in ready}
    for _ in range(warm + rounds):
        for k in list(ready):
            if time.perf_counter() > until: continue
            try: rows[k].append(clocked(ready[k]))
            except torch.cuda.OutOfMemoryError:
                del ready[k]
                torch.cuda.empty_cache()
                left_out[k] = 'not enough memory'
    # the first epoch starts the reading processes and tunes convolutions
    rows = {k: v[warm:] for k, v in rows.items() if len(v) > warm}
    left_out.update({k: 'no time left' for k in ready if k not in rows})
    took = {k: timing.spread([1000*o[0] for o in v]) for k, v in rows.items()}
    waits = {k: round(sum(o[2] for o in v)/sum(o[1] for o in v), 4) for k, v in rows.items()}
    base = took.get(NAMED, [None])[0]
    return dict(wall_ms=took, loader_waiting=waits, images=len(list((path/'images').iterdir())),
        batch=bs, left_out=left_out,
        ratios={k: round(v[0]/base, 3) for k, v in took.items()} if base else {})


def copied(path, times):
    "A folder with every image and mask so many times: reading is real, drawing would take long"
    import shutil
    out = path.with_name(f'{path.name}-{times}')
    for d in ('images', 'labels'):
        (out/d).mkdir(parents=True)
        for f in sorted((path/d).iterdir()):
            for i in range(times): shutil.copy(f, out/d/f'{i}_{f.name}')
    shutil.copy(path/'codes.txt', out)
    names = (path/'valid.txt').read_text(encoding='utf-8').split()
    (out/'valid.txt').write_text('\n'.join(f'{i}_{n}' for n in names for i in range(times)) + '\n',
        encoding='utf-8')
    return out


# ---- the command

def device_name(device):
    "What the device calls itself"
    cuda = torch.device(device).type == 'cuda'
    return torch.cuda.get_device_name(device) if cuda else 'CPU'


def aims(out):
    "[(what, found, aim, whether it is reached)]"
    s, e = ({k: v[0] if isinstance(v, list) else v for k, v in out[o].get('ratios', {}).items()}
        for o in ('steps', 'epochs'))
    found = []
    def at_least(what, times, of, by, aim):
        n = round(times[of]/times[by], 3) if of in times and by in times else None
        found.append((f'{what}: {of} by {by}', n, f'at least {aim}', n is not None and n >= aim))
    for ours in (f'segbook {a}' for a in ARCHS):
        at_least('steps', s, 'fastai DynamicUnet', ours, 3)
        at_least('steps', s, 'smp Unet', ours, 1)
        at_least('epochs', e, 'fastai unet_learner', ours, 3)
    wait = out['epochs']['loader_waiting'].get(NAMED)
    return [*found, ('epochs: share of training that waits for the loader', wait, 'below 0.05',
            wait is not None and wait < .05)]


def report(out):
    "The results as text"
    lines = [f'{n:62} {"equal" if ok else "NOT EQUAL"}   {d}' for n, ok, d in out['equal']]
    for part in ('steps', 'epochs'):
        lines.append(f'\n{part}')
        for k, v in out[part].get('wall_ms', {}).items():
            r = out[part]['ratios'].get(k)
            share = out[part].get('share_of_peak', out[part].get('loader_waiting', {})).get(k)
            lines.append(f'{k:36} {v[0]:9.4g} ms   {r[0] if isinstance(r, list) else r} of ours'
                f'   {"" if share is None else share}')
        lines += [f'{k:36} left out: {why}' for k, why in out[part]['left_out'].items()]
    lines += ['', 'the number after a step is its share of the peak in bf16, after an epoch the '
        'share of training that waits for the loader']
    return '\n'.join(lines + [f'{what:60} {found}   aim {aim}: {"reached" if ok else "missed"}'
            for what, found, aim, ok in aims(out)])


def measured(device, minutes, compiled, smoke):
    "Everything, as it goes into the results file"
    until = time.perf_counter() + 60*minutes
    shape, encoder = ((2, 3, 32, 32), 'resnet18') if smoke else ((16, 3, 360, 480), 'resnet34')
    archs, rounds = (['dynamic_unet'], (1, 1)) if smoke else (list(ARCHS), (10, 3))
    out = dict(about('segbook', 'timm', 'segmentation-models-pytorch', device=device),
        device=device_name(device), equal=findings(device, smoke))
    out['steps'] = steps(device, shape, encoder, rounds[0], archs=archs, compiled=compiled)
    n, times, bs = (5, 1, 2) if smoke else (96, 7, 16)
    path = folders.scenes(n, *shape[2:])
    path = copied(path, times) if times > 1 else path
    out['epochs'] = epochs(path, encoder, bs, rounds[1], until - 30, archs=archs,
        warm=not smoke)
    return dict(out, aims=aims(out))


def main():
    p = argparse.ArgumentParser(sys.argv[0], description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--minutes', type=float, default=10, help='no epoch begins after it')
    p.add_argument('--compile', action='store_true', help='compiled networks, too')
    p.add_argument('--smoke', action='store_true', help='once, tiny, nothing written')
    a = p.parse_args()
    if not torch.cuda.is_available() and not a.smoke:
        print('python -m bench gpu: there is no GPU here that PyTorch can use '
            '(torch.cuda.is_available() is False); nothing was measured. It needs a machine with '
            'an NVIDIA GPU and its driver; all other topics of python -m bench run on a CPU.',
            file=sys.stderr)
        return 2
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    out = measured(device, a.minutes, a.compile, a.smoke)
    print(report(out))
    if not a.smoke:
        RESULTS.mkdir(exist_ok=True)
        replace_file(RESULTS/'gpu.json', lambda f: Path(f).write_text(as_json(out),
                encoding='utf-8'))
    return 0 if all(ok for _, ok, _ in out['equal']) else 1
