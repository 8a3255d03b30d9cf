"""move_once beside fastai's aug_transforms, on drawn streets with their masks.

Both see the same images and the same random numbers; that the results are equal is checked in the
same run."""
from __future__ import annotations
import random
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from fasttransform import Pipeline
from fastai.torch_core import TensorImage, TensorMask
from fastai.vision.augment import Flip, Rotate, Warp, Zoom, aug_transforms

from bench.topics import Case, Contest, Topic
from segbook.augmentation import ElasticDeform, move_once
from segbook.data import make_scenes, mild_tfms, read_image
from segbook.masks import SegFolder, read_mask

LISTS = {'aug_transforms()': aug_transforms,
    'aug_transforms(), moves alone': lambda: aug_transforms(max_lighting=0.),
    'mild_tfms()': mild_tfms,
    'aug_transforms(size=(180,240))': lambda: aug_transforms(size=(180, 240))}
BY_HAND = 'a list by hand: Flip, Rotate, Zoom, Warp'


def by_hand(): return [Flip(), Rotate(), Zoom(), Warp()]


def streets(n=16, size=(360, 480)):
    "A batch of drawn streets: images [n,3,H,W] in 0..1 and masks [n,H,W]."
    with tempfile.TemporaryDirectory() as tmp:
        f = SegFolder(make_scenes(Path(tmp)/'scenes', n=n, size=size))
        x, y = (np.stack([r(o) for o in os]) for r, os in ((read_image, f.images),
                (read_mask, f.labels)))
    return TensorImage(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()).float()/255), TensorMask(
        torch.from_numpy(y).long())


def augment(tfms, x, y, seed, split_idx=0):
    "The batch after the transforms, which draw the random numbers of `seed`"
    random.seed(seed)
    torch.manual_seed(seed)
    return Pipeline(tfms, split_idx=split_idx)((x, y))


def differ(make, x, y, seed=0):
    "How far fastai's results and ours differ: most in a colour; share of the masks' pixels."
    a, b = augment(make(), x, y, seed), augment(move_once(make()), x, y, seed)
    assert a[0].shape == b[0].shape and a[1].shape == b[1].shape and a[1].dtype == b[1].dtype
    return (a[0]-b[0]).abs().max().item(), (a[1] != b[1]).float().mean().item()


def moving(tfms, x, y, split_idx=0):
    "A function that augments another copy in each call, with other random numbers"
    seed = iter(range(10**9))
    return lambda: augment(tfms, x.clone(), y.clone(), next(seed), split_idx)


def contest(make, n, size, *, split_idx=0, equal=True):
    "fastai's list and the same in move_once"
    x, y = streets(n, size)
    def facts():
        if not equal: return {}
        colour, ids = differ(make, x, y)
        assert colour < 2e-3 and ids < 1e-4, (colour, ids)
        return dict(equal=True, colour_apart=colour, ids_apart=ids)
    return Contest({'segbook move_once': lambda: moving(move_once(make()), x, y, split_idx),
            'fastai': lambda: moving(make(), x, y, split_idx)}, facts)


def elastic(n, size):
    "What ElasticDeform adds to a list, both in move_once"
    x, y = streets(n, size)
    return Contest({'segbook move_once': lambda: moving(move_once(mild_tfms()), x, y),
        'with ElasticDeform': lambda: moving(move_once([*mild_tfms(), ElasticDeform()]), x, y)})


def cases(smoke):
    def case(name, make, n, size, curve=None, axis='pixels', *, f=contest, **kw):
        at = n if axis == 'images' else n*size[0]*size[1]
        return Case(curve or name, axis, at, f'[{n},3,{size[0]},{size[1]}]', partial(f,
                *([make] if make else []), n, size, **kw))
    if smoke: return [case('mild_tfms()', mild_tfms, 2, (48, 64))]
    big, found = (16, (360, 480)), []
    for name, make in LISTS.items(): found.append(case(name, make, *big))
    found.append(case(BY_HAND, by_hand, *big, equal=False))
    found.append(case('validation, mild_tfms()', mild_tfms, *big, split_idx=1, equal=False))
    found.append(case('what ElasticDeform adds', None, *big, f=elastic))
    for name in ('aug_transforms()', 'mild_tfms()'):
        found += [case(name, LISTS[name], 4, s, f'{name}, 4 images') for s in ((90, 120),
                (180, 240), (360, 480))]
        found += [case(name, LISTS[name], n, (96, 128), f'{name}, 96x128', 'images')
            for n in (2, 8, 32)]
    return found


TOPIC = Topic('augmentation', 'moving images and masks in one step', 'segbook move_once', cases,
    (), ('augmentation',), rounds=7)
