"""The losses, forward and backward, beside those of segmentation-models-pytorch, MONAI, fastai and
torch.

A tenth of the pixels is ignored. In the same run losses and gradients are compared: ours with the
peer's in float64 on a part of the batch, and with its own in float64 on all of it."""
from __future__ import annotations
from functools import partial

import torch
import torch.nn.functional as F
from fastai.losses import CrossEntropyLossFlat

from bench.topics import Case, Contest, Topic
from segbook.losses import (CrossEntropyLoss, DiceLoss, FocalLoss, JaccardLoss, LovaszLoss,
    TverskyLoss)

VOID = 255
LAYOUTS = dict(contiguous=torch.contiguous_format, channels_last=torch.channels_last)
OURS = {'cross entropy': CrossEntropyLoss, 'Dice': DiceLoss, 'Jaccard': JaccardLoss,
    'Tversky': TverskyLoss, 'focal': FocalLoss, 'Lovász': LovaszLoss}


def batch(shape, layout):
    "Logits, and ids of which a tenth is ignored"
    (b, k, h, w), g = shape, torch.Generator().manual_seed(42)
    x, t = torch.randn(shape, generator=g), torch.randint(0, max(2, k), (b, h, w), generator=g)
    t[torch.rand(b, h, w, generator=g) < 0.1] = VOID
    return x.contiguous(memory_format=LAYOUTS[layout]), t


def smp_loss(name, k):
    "The loss of segmentation-models-pytorch"
    import segmentation_models_pytorch.losses as smp
    more = dict(alpha=.3, beta=.7) if name == 'Tversky' else {}
    cls = getattr(smp, {'focal': 'FocalLoss', 'Lovász': 'LovaszLoss'}.get(name, f'{name}Loss'))
    return cls('binary' if k == 1 else 'multiclass', ignore_index=VOID, **more)


def monai_loss(name, k):
    "MONAI's, which gets a one-hot mask, and counts Void as background: it has no such pixels"
    from monai.losses import DiceLoss as Dice, FocalLoss as Focal, TverskyLoss as Tversky
    more = dict(alpha=.3, beta=.7) if name == 'Tversky' else {}
    if name == 'focal': f = Focal(to_onehot_y=k > 1, use_softmax=k > 1)
    else:
        cls = Tversky if name == 'Tversky' else Dice
        f = cls(to_onehot_y=k > 1, softmax=k > 1, sigmoid=k == 1, batch=True,
            **(dict(jaccard=True) if name == 'Jaccard' else {}), **more)
    return lambda x, t: f(x, t.where(t != VOID, 0)[:, None])


def peers(name, k):
    "{contestant: maker of a loss} beside ours"
    if name == 'cross entropy':
        found = {'torch': lambda: partial(F.cross_entropy, ignore_index=VOID),
            'fastai': lambda: CrossEntropyLossFlat(axis=1, ignore_index=VOID)}
        return found if k > 1 else {}
    found = {'segmentation-models-pytorch': lambda: smp_loss(name, k)}
    if name != 'Lovász': found['MONAI, Void counted'] = lambda: monai_loss(name, k)
    return found


def step(f, x, t):
    "The loss, and the gradient of the logits"
    x = x.detach().requires_grad_()
    loss = f(x, t)
    loss.backward()
    return loss.detach(), x.grad


def differences(ours, peer, x, t):
    """Largest difference of our value from the peer's, in float64 if it can, on a part.

    And of ours in float32 from ours in float64, on all."""
    part = x[:2, :, :90, :120].double(), t[:2, :90, :120]
    a = step(ours, *part)
    try: b = step(peer, *part)
    # smp's Lovász knows 32 bits alone
    except RuntimeError: b = step(peer, part[0].float(), part[1])
    for u, v in zip(a, b):
        torch.testing.assert_close(u, v.double(), rtol=1e-5, atol=1e-6, check_stride=False)
    return abs(a[0]-b[0].double()).item(), abs(ours(x, t)-ours(x.double(), t)).item()


def contest(name, shape, layout):
    "One loss and its peers on one batch"
    x, t = batch(shape, layout)
    k, ours = shape[1], OURS[name](None, VOID)
    makers = {'segbook': lambda: partial(step, ours, x, t),
        **{n: lambda make=make: partial(step, make(), x, t) for n, make in peers(name, k).items()}}
    def facts():
        if name == 'focal' and k > 1: return dict(same_loss=False)
        rival = next(iter(peers(name, k).values()), None)
        if rival is None: return {}
        try: apart = differences(ours, rival(), x, t)
        except ImportError as e: return dict(differences=f'{e.name} is not installed')
        return dict(same_loss=True, differences=[float(f'{o:.1g}') for o in apart])
    return Contest(makers, facts)


def cases(smoke):
    def case(name, shape, layout, curve, axis, at):
        return Case(f'{name}, {curve}, {layout}', axis, at, f'{list(shape)}', partial(contest,
                name, shape, layout))
    if smoke: return [case('Dice', (2, 3, 24, 32), 'contiguous', 'small', 'pixels', 2*24*32)]
    found = []
    for name in OURS:
        for o in LAYOUTS:
            found += [case(name, s, o, '12 classes', 'pixels', s[0]*s[2]*s[3])
                for s in ((2, 12, 96, 128), (12, 12, 96, 128), (8, 12, 360, 480))]
        found += [case(name, (4, k, 180, 240), 'channels_last', 'over the classes', 'classes', k)
            for k in (1, 2, 5, 32)]
    return found


TOPIC = Topic('losses', 'losses, forward and backward', 'segbook', cases,
    ('segmentation-models-pytorch', 'monai', 'numpy'), ('losses',))
