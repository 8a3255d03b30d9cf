"""One epoch with validation: segbook's learner beside fastai's `unet_learner` with its default
metrics.

Both train from scratch on drawn street scenes, as their defaults have it."""
from __future__ import annotations
from functools import partial

from bench import folders
from bench.topics import Case, Contest, Topic


def once(learn):
    "One epoch, without a table"
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-3)


def trained(path, bs, encoder, arch):
    "What trains segbook's learner for an epoch"
    return partial(once, folders.ours(path, encoder, bs, arch=arch))


def contest(n, size, bs):
    "Learners on one folder"
    path = folders.scenes(n, *size)
    ours = {'segbook seg_learner': ('resnet18', 'dynamic_unet_lean'),
        'segbook seg_learner, lite0': ('tf_efficientnet_lite0', 'dynamic_unet_lean'),
        'segbook seg_learner, DynamicUnet': ('resnet18', 'dynamic_unet')}
    return Contest({**{k: partial(trained, path, bs, *v) for k, v in ours.items()},
        'fastai unet_learner': lambda: partial(once, folders.theirs(path, bs=bs))},
        lambda: dict(images=n, batch=bs, encoder='resnet18, or tf_efficientnet_lite0'))


def cases(smoke):
    def case(n, size, bs, curve, axis, at):
        return Case(curve, axis, at, f'{n} images {size[0]}x{size[1]}, batch {bs}',
            partial(contest, n, size, bs))
    if smoke: return [case(5, (32, 32), 2, 'small', 'images', 5)]
    return [*(case(n, (96, 128), 8, 'scenes 96x128', 'images', n) for n in (20, 40, 80)),
        *(case(20, s, 8, '20 scenes', 'pixels of an image', s[0]*s[1])
            for s in ((48, 64), (180, 240)))]


TOPIC = Topic('epoch', 'an epoch of a whole learner', 'segbook seg_learner', cases, ('timm',),
    ('data', 'augmentation', 'losses', 'metrics', 'architectures', 'encoders.py', 'learner.py',
        'training.py', 'callbacks.py', 'optimiser.py', 'models.py', 'precision.py'), rounds=3)
