"""Planning a training: how long a look at every image and mask takes.

`plan_training` without a measured step beside the check in whose pass it measures, and beside
Pillow, which decodes the same files and does nothing else. All of them use threads, so that
processor time counts."""
from __future__ import annotations
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from bench.folders import scenes
from bench.topics import Case, Contest, Topic
from segbook.learner import plan_training
from segbook.masks import SegFolder, check_masks


def photographs(n, size):
    "A folder of n photographs as JPEG, drawn scenes moved sideways under noise, with their masks"
    drawn, path = SegFolder(scenes(min(n, 20), *size)), Path(tempfile.mkdtemp())/'photographs'
    for o in ('images', 'labels'): (path/o).mkdir(parents=True)
    (path/'codes.txt').write_text('\n'.join(drawn.codes), encoding='utf-8')
    rng = np.random.default_rng(0)
    for i in range(n):
        k = i % len(drawn.images)
        x, y = (np.roll(np.array(Image.open(o[k])), 37*i, 1) for o in (drawn.images, drawn.labels))
        x = (x + rng.integers(-12, 13, x.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(x).save(path/'images'/f'p{i:04d}.jpg', quality=92)
        Image.fromarray(y).save(path/'labels'/f'p{i:04d}_P.png')
    return path


def decode(path):
    "Every image and mask of a folder by Pillow alone; the number of pixels"
    folder = SegFolder(path)
    return sum(np.asarray(Image.open(o)).size for o in (*folder.images, *folder.labels))


def contest(n, size):
    "The plan, the check and the decoding of one folder"
    path = photographs(n, size)
    plan = partial(plan_training, path, measure=False, progress=False)
    def facts():
        p = plan()
        assert check_masks(path, progress=False).ok and p.facts.n_train + p.facts.n_valid == n
        return dict(images=n)
    return Contest({'segbook plan_training': lambda: plan,
        'segbook check_masks': lambda: partial(check_masks, path, progress=False),
        'Pillow alone': lambda: partial(decode, path)}, facts)


def cases(smoke):
    return [Case(f'{size[0]}x{size[1]}', 'images', n, f'{n:,} photographs {size[0]}x{size[1]}',
            partial(contest, n, size)) for n, size in (((10, (48, 64)),) if smoke
            else ((100, (360, 480)), (1000, (360, 480))))]


TOPIC = Topic('planning', 'planning a training from all images and masks', 'segbook plan_training',
    cases, ('pillow', 'numpy'), ('planning', 'reading', 'masks'), rounds=1)
