"Are losses, metrics and receptive fields on a GPU those of the CPU? [(what, equal, how far)]"
from __future__ import annotations
import torch
import torchvision

from bench.losses import OURS, step
from segbook.losses import BorderWeightedLoss
from segbook.metrics import Confusion, boundary_f1, hausdorff95
from segbook.receptive_field import receptive_field, receptive_field_table

IGNORED = None, 3, 255


def batch(k, ignored, size):
    """Logits in 64 bits and ids, a fifth of them ignored.

    Among so many numbers of 32 bits some are equal, and Lovász sorts these in any order."""
    g = torch.Generator().manual_seed(k)
    x = torch.randn(3, k, *size, generator=g, dtype=torch.float64)
    t = torch.randint(0, max(k, 2), (3, *size), generator=g)
    if ignored is not None: t[torch.rand(t.shape, generator=g) < .2] = ignored
    return x, t


def apart(a, b):
    "Largest difference, in units of the largest value"
    a, b = a.cpu().double(), b.cpu().double()
    if a.shape != b.shape or not torch.equal(a.isfinite(), b.isfinite()): return float('inf')
    a, b = a[a.isfinite()], b[b.isfinite()]
    return ((a-b).abs().max()/a.abs().max().clamp(min=1e-12)).item() if a.numel() else 0.


def of_losses(device, size):
    """Values in 32 bits, and gradients in 64, in the first call, which inspects the ids, and later.

    In 32 bits rounding alone changes the order in which Lovász sorts its pixels."""
    for name, cls in OURS.items():
        for k, ignored in ((12, None), (12, 3), (12, 255), (1, 255)):
            x, t = batch(k, ignored, size)
            for bits, most in ((x.float(), 1e-5), (x, 1e-9)):
                want, there = step(cls(None, ignored), bits, t), cls(None, ignored).to(device)
                for _ in range(2): found = step(there, bits.to(device), t.to(device))
                far = max(apart(*o) for o in list(zip(want, found))[:2 if bits is x else 1])
                what = 'value and gradient in 64 bits' if bits is x else 'value'
                yield f'{name}, {k} classes, ignored {ignored}, {what}', far < most, f'{far:.1e}'
    x, t = batch(2, None, size)
    x = x.float()
    w = torch.rand(t.shape)
    losses = [BorderWeightedLoss().to(o)(x.to(o), t.to(o), w.to(o)) for o in ('cpu', device)]
    yield 'border weights', apart(*losses) < 1e-5, f'{apart(*losses):.1e}'


def of_metrics(device, size):
    "Counts and distances; the first update of a GPU looks at the ids, the later ones do not wait"
    for k in (2, 12):
        for ignored in IGNORED:
            if ignored == 3 and k == 2: continue
            (x, t), confs = batch(k, ignored, size), []
            x = x.float()
            for d in ('cpu', device):
                c = Confusion(k, ignored, per_image=True)
                confs.append(c)
                for o in (x, x.contiguous(memory_format=torch.channels_last), x.half()):
                    c.update(o.to(d), t.to(d))
            same = torch.equal(*(c.matrices for c in confs))
            yield f'Confusion, {k} classes, ignored {ignored}', same, ''
            for f in (boundary_f1, hausdorff95):
                p = x.max(1).indices
                a, b = (f(p.to(d), t.to(d), k, ignored).cpu() for d in ('cpu', device))
                same = torch.equal(a.nan_to_num(-1), b.nan_to_num(-1))
                yield f'{f.__name__}, {k} classes, ignored {ignored}', same, ''


def of_fields(device, size):
    "Boxes of a unit and of all layers"
    for name in ('resnet18', 'vgg11'):
        net = getattr(torchvision.models, name)(weights=None).eval()
        boxes = [str(receptive_field(net.to(d), size)) for d in ('cpu', device)]
        yield f'receptive_field, {name}', boxes[0] == boxes[1], ''
        tables = [receptive_field_table(net.to(d), size).to_csv() for d in ('cpu', device)]
        yield f'receptive_field_table, {name}', tables[0] == tables[1], ''


def findings(device, smoke=False):
    "[(what, equal, how far)]"
    size = (17, 20) if smoke else (90, 121)
    return [*of_losses(device, size), *of_metrics(device, size),
        *of_fields(device, (64, 64) if smoke else (224, 224))]
