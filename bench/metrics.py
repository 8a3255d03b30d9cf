"""Confusion beside a plain matrix, fastai's, torchmetrics' and MONAI's metrics; boundaries beside
distance transforms and MONAI.

All see the same batch, and that the results are equal is checked in the same run."""
from __future__ import annotations
import tempfile
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from fastai.metrics import DiceMulti, JaccardCoeffMulti
from scipy.ndimage import distance_transform_edt

from bench.topics import Case, Contest, Topic
from segbook.data import make_scenes
from segbook.masks import SegFolder, read_mask
from segbook.metrics import (
    Confusion, MeanDice, MeanIoU, PixelAccuracy, boundary_f1, boundary_pixels, hausdorff95)

K, VOID = 12, 11
LAYOUTS = dict(contiguous=torch.contiguous_format, channels_last=torch.channels_last)


def fastai_pair(x, t):
    "fastai's mean IoU and mean Dice of one batch; without ignore_index, so Void counts too."
    ms, learn = (JaccardCoeffMulti(), DiceMulti()), SimpleNamespace(pred=x, y=t)
    for m in ms:
        m.reset()
        m.accumulate(learn)
    return ms


def segbook_three(x, t):
    "The three metrics of a learner together: they share one update."
    ms, learn = (PixelAccuracy(), MeanIoU(), MeanDice()), SimpleNamespace(pred=x, y=t)
    learn.dls = SimpleNamespace(vocab=range(x.shape[1]), ignore_index=x.shape[1]-1)
    for m in ms: m.accumulate(learn)
    return ms


def torchmetrics_iou(x, t):
    "torchmetrics' matrix, the last class ignored"
    from torchmetrics.classification import MulticlassJaccardIndex
    m = MulticlassJaccardIndex(x.shape[1], ignore_index=x.shape[1]-1, average='macro')
    m.update(x, t)
    return m


def monai_iou(x, t):
    "MONAI's sums of each image, from one-hot masks as it asks for; Void counted"
    from monai.metrics import MeanIoU as MonaiIoU
    m, k = MonaiIoU(), x.shape[1]
    hot = [torch.nn.functional.one_hot(o, k).movedim(-1, 1) for o in (x.max(1).indices, t)]
    m(*hot)
    return m


def plain_matrix(x, t):
    "What the chapter begins with: the ids, one number a pair, one bincount; Void counted."
    n = x.shape[1]
    return torch.bincount((t*n+x.max(1).indices).flatten(), minlength=n*n).view(n, n)


def plain_argmax(x, t):
    "The same as it is usually written: argmax, and the pixels with a truth picked out."
    n = x.shape[1]
    keep, p = t != n-1, x.argmax(1)
    return torch.bincount(t[keep]*n+p[keep], minlength=n*n).view(n, n)


def everything(x, t):
    "All scores of a Confusion: per class, per image, and every mean of them."
    c = Confusion(x.shape[1], x.shape[1]-1, per_image=True).update(x, t)
    per_class = [c.matrix, c.iou(), c.dice(), c.pixel_accuracy(), c.mean_iou(), c.mean_dice()]
    return per_class+[o(per_image=True) for o in (c.iou, c.dice, c.pixel_accuracy, c.mean_iou,
            c.mean_dice)]


def peers(x, t, wide):
    "Makers of the contestants; with `wide` those too that show where the time goes"
    n = x.shape[1]
    def needing(package, f):
        def make():
            __import__(package)
            return partial(f, x, t)
        return make
    found = {'Confusion.update': lambda: lambda: Confusion(n, n-1).update(x, t),
        'torchmetrics MulticlassJaccardIndex': needing('torchmetrics', torchmetrics_iou),
        'MONAI MeanIoU, Void counted': needing('monai', monai_iou),
        'fastai JaccardCoeffMulti + DiceMulti, Void counted': lambda: partial(fastai_pair, x, t)}
    if not wide: return found
    return {**found, 'PixelAccuracy + MeanIoU + MeanDice': lambda: partial(segbook_three, x, t),
        'Confusion per image, every score': lambda: partial(everything, x, t),
        'plain: x.max(1) and bincount': lambda: partial(plain_matrix, x, t),
        'plain: x.argmax(1), Void picked out, bincount': lambda: partial(plain_argmax, x, t),
        'x.max(1) alone': lambda: lambda: x.max(1).indices,
        'x.argmax(1) alone': lambda: lambda: x.argmax(1)}


def check_equal(x, t):
    "Raise unless matrices and per-class scores are the same; the means to the last two bits."
    n = x.shape[1]
    ours, plain = Confusion(n, n-1).update(x, t), Confusion(n).update(x, t)
    theirs, (jac, dice) = torchmetrics_iou(x, t), fastai_pair(x, t)
    assert torch.equal(ours.matrix, theirs.confmat), 'the matrix differs from torchmetrics'
    assert torch.equal(plain.matrix, plain_matrix(x, t)) and torch.equal(ours.matrix,
        plain_argmax(x, t)), 'the matrix differs from the plain one'
    assert torch.equal(everything(x, t)[0], ours.matrix) and everything(x, t)[4] == ours.mean_iou()
    for c in range(n):
        if not dice.union[c]: continue
        assert plain.iou()[c].item() == jac.inter[c]/(
            jac.union[c]-jac.inter[c]), f'IoU of class {c} differs from fastai'
        assert plain.dice()[c].item() == 2*dice.inter[c]/dice.union[
            c], f'Dice of class {c} differs from fastai'
    assert abs(plain.mean_iou()-jac.value) < 4e-16 and abs(plain.mean_dice()-dice.value) < 4e-16
    assert abs(ours.mean_iou()-theirs.compute().item()) < 1e-6, 'torchmetrics divides in 32 bits'
    return True


def counting(shape, layout, wide=False):
    "One batch of logits and ids, everything at random"
    (b, k, h, w), g = shape, torch.Generator().manual_seed(42)
    t = torch.randint(0, k, (b, h, w), generator=g)
    x = torch.randn(shape, generator=g).contiguous(memory_format=LAYOUTS[layout])
    def facts():
        try: return dict(equal=check_equal(x, t))
        except ImportError as e: return dict(equal=f'not compared: {e.name} is not installed')
    return Contest(peers(x, t, wide), facts)


def transforms(p, t, tolerance):
    "Boundary F1 and 95 % Hausdorff distance of each class by two distance transforms in a box."
    out = np.full((len(p), K, 2), np.nan)
    for b, k in np.ndindex(len(p), K):
        void = t[b] == VOID
        x, y = ((boundary_pixels(o.masked_fill(void, VOID), VOID) & (o == k) & ~void).numpy()
            for o in (p[b], t[b]))
        if k == VOID or not (x|y).any(): continue
        if not x.any() or not y.any():
            out[b, k] = 0, np.inf
            continue
        rows, cols = (np.flatnonzero((x|y).any(i)) for i in (1, 0))
        x, y = (o[rows[0]:rows[-1]+1, cols[0]:cols[-1]+1] for o in (x, y))
        near, back = distance_transform_edt(~y)[x], distance_transform_edt(~x)[y]
        P, R = (near <= tolerance).mean(), (back <= tolerance).mean()
        out[b, k] = 2*P*R/(P+R) if P+R else 0, max(np.percentile(near, 95),
            np.percentile(back, 95))
    return out


def streets(n, size):
    "Masks of drawn streets, and the same three pixels off with a few wrong pixels"
    with tempfile.TemporaryDirectory() as d:
        t = torch.stack([torch.from_numpy(np.array(read_mask(o))).long()
                for o in SegFolder(make_scenes(Path(d)/'s', n=n, size=size, seed=0)).labels])
    g = torch.Generator().manual_seed(42)
    return torch.where(torch.rand(t.shape, generator=g) < .002, torch.randint(0, VOID, t.shape,
            generator=g), t.roll(3, 2).clamp(max=VOID-1)), t


def boundaries(n, size):
    "The boundary measures on `streets`"
    p, t = streets(n, size)
    def monai():
        from monai.metrics import compute_hausdorff_distance
        hot = [torch.nn.functional.one_hot(o, K).movedim(-1, 1) for o in (p, t)]
        return partial(compute_hausdorff_distance, *hot, include_background=True, percentile=95)
    def facts():
        ours = boundary_f1(p, t, K, VOID, 4.5), hausdorff95(p, t, K, VOID)
        assert np.allclose(torch.stack(ours, -1).numpy(), transforms(p, t, 4.5),
            equal_nan=True), 'the transforms differ'
        return dict(equal=True)
    return Contest({'Confusion.update': lambda: lambda: Confusion(K, VOID).update(p, t),
            'hausdorff95': lambda: partial(hausdorff95, p, t, K, VOID),
            'boundary_f1': lambda: partial(boundary_f1, p, t, K, VOID, 4.5),
            'both by distance transforms': lambda: partial(transforms, p, t, 4.5),
            'MONAI compute_hausdorff_distance, Void counted': monai}, facts)


def cases(smoke):
    def case(shape, layout, curve, axis, at, wide=False):
        return Case(curve, axis, at, f'{list(shape)} {layout}', partial(counting, shape, layout,
                wide))
    if smoke: return [case((2, 5, 24, 32), 'channels_last', 'everything', 'pixels', 2*24*32, True)]
    found = [case((8, K, 360, 480), o, 'a batch of streets', 'pixels', 8*360*480, True)
        for o in LAYOUTS]
    for o in LAYOUTS:
        found += [case((8, K, 90*i, 120*i), o, f'over the size, {o}', 'pixels', 8*90*120*i*i)
            for i in (1, 2, 4)]
        found += [case((4, k, 180, 240), o, f'over the classes, {o}', 'classes', k)
            for k in (2, 5, 12, 32, 100)]
        found += [case((b, K, 96, 128), o, f'over the images, {o}', 'images', b)
            for b in (1, 4, 16)]
    return found + [Case('boundaries of 4 streets', 'pixels', 4*h*h*4//3, f'{h}x{h*4//3}',
            partial(boundaries, 4, (h, h*4//3))) for h in (90, 180, 360)]


TOPIC = Topic('metrics', 'confusion matrix, IoU, Dice, distances of boundaries',
    'Confusion.update', cases, ('torchmetrics', 'monai', 'scipy', 'numpy'), ('metrics',))
