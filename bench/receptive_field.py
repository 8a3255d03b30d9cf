"""receptive_field beside poisoned images: one unit, the whole table, and the memory.

The poisoning oracle finds the same box by bisection from each side with full passes of the network,
and the boxes are compared."""
from __future__ import annotations
import tracemalloc
from functools import partial

import torch
import torchvision

from bench.topics import Case, Contest, Topic
from segbook.receptive_field import receptive_field, receptive_field_table

PARTS = 'conv1', 'bn1', 'relu', 'maxpool', 'layer1', 'layer2', 'layer3', 'layer4'


def poison_edge(model, size, unit, axis, back):
    "The first (or last) row or column whose NaN reaches the unit"
    def hit(k):
        x = torch.zeros(1, 3, size, size)
        i = slice(size - k, size) if back else slice(0, k)
        if axis: x[..., i] = torch.nan
        else: x[..., i, :] = torch.nan
        with torch.no_grad(): y = model(x)
        return bool(y[0, :, unit[0], unit[1]].isnan().any())
    lo, hi = 0, size
    assert hit(size)
    while hi - lo > 1:
        mid = (lo + hi)//2
        lo, hi = (lo, mid) if hit(mid) else (mid, hi)
    return size - hi if back else hi - 1


def poisoned_box(body, size, unit):
    "The box of a unit as poisoned images show it, clipped to the image"
    return [poison_edge(body, size, unit, a, back) for back in (False, True) for a in (0, 1)]


def peak(model, size):
    "Peak of Python's and NumPy's memory in bytes; tensors of the device meta have none"
    tracemalloc.start()
    receptive_field(model, size)
    res = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return res


def contest(name, size, poisons=True):
    "One network at one size"
    net = getattr(torchvision.models, name)(weights=None).eval()
    body = torch.nn.Sequential(*[getattr(net, o) for o in PARTS])
    ours = receptive_field(net, size, 'layer4')
    makers = {'receptive_field': lambda: partial(receptive_field, net, size, 'layer4'),
        'receptive_field_table': lambda: partial(receptive_field_table, net, size)}
    if poisons: makers['poisoned images'] = lambda: partial(poisoned_box, body, size, ours.unit)
    def facts():
        found = dict(box=list(ours.box), peak_bytes=peak(net, size))
        if poisons:
            clipped = [min(max(v, 0), size - 1) for v in ours.box]
            assert poisoned_box(body, size, ours.unit) == clipped, ours.box
            found['equal'] = True
        return found
    return Contest(makers, facts)


def cases(smoke):
    sizes = [(64, True)] if smoke else [(128, True), (256, True), (512, True), (4096, False)]
    points = [Case('resnet18, layer4', 'pixels', s*s, f'{s}x{s}', partial(contest, 'resnet18', s,
                p)) for s, p in sizes]
    depths = [] if smoke else [18, 50, 152]
    return points + [Case('128x128, layer4', 'layers', n, f'resnet{n}', partial(contest,
                f'resnet{n}', 128)) for n in depths]


TOPIC = Topic('receptive_field', 'the exact receptive field of a unit and of all layers',
    'receptive_field', cases, ('numpy',), ('receptive_field',), rounds=3)
