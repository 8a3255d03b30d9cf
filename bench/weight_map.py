"""unet_weight_map beside one distance transform of the whole image for each cell.

Drawn cells that touch; the maps are compared in the same run."""
from __future__ import annotations
from functools import partial

import numpy as np
from scipy.ndimage import distance_transform_edt

from bench.topics import Case, Contest, Topic
from segbook.losses import unet_weight_map


def draw(size, cells, seed=42):
    """Ids of as many cells as asked: discs of 8 to 14 pixels around random centres.

    Each pixel is the nearest disc's, and many touch."""
    g = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    best, ids = np.full((size, size), 1.), np.zeros((size, size), np.int32)
    centres = []
    while len(centres) < cells:
        c = g.uniform(8, size-8, 2)
        if all(np.hypot(*(c-o)) > 15 for o in centres): centres.append(c)
    for k, (cy, cx) in enumerate(centres, 1):
        d = np.hypot(y-cy, x-cx)/g.uniform(8, 14)
        ids[d < best] = k
        best = np.minimum(best, d)
    return ids


def by_transforms(m, w0=10, sigma=5):
    """The weights from as many distance transforms as there are cells.

    They are made one at a time, so that memory is no matter."""
    d1 = d2 = np.full(m.shape, np.inf)
    for k in np.unique(m)[1:]:
        d = distance_transform_edt(m != k)
        d1, d2 = np.minimum(d1, d), np.minimum(d2, np.maximum(d1, d))
    return 1+w0*np.exp(-(d1+d2)**2/(2*sigma**2))


def contest(size, cells):
    "Both on one drawing, and how far they differ"
    m = draw(size, cells)
    assert len(np.unique(m))-1 == cells
    def facts():
        apart = float(abs(unet_weight_map(m)-by_transforms(m)).max())
        assert apart < 1e-5, apart
        return dict(largest_difference=float(f'{apart:.2g}'))
    return Contest({'segbook': lambda: partial(unet_weight_map, m),
        'a transform a cell': lambda: partial(by_transforms, m)}, facts)


def cases(smoke):
    sizes = [(128, 12), (256, 50), (512, 200)]
    points = [Case('one cell in 1300 pixels', 'pixels', s*s, f'{s}x{s}, {n} cells',
        partial(contest, s, n)) for s, n in sizes]
    if smoke: return points
    return points + [Case('256x256', 'cells', n, f'{n} cells', partial(contest, 256, n))
        for n in (5, 20, 80)]


TOPIC = Topic('weight_map', 'the border weights of the U-Net paper', 'segbook', cases,
    ('scipy', 'numpy'), ('losses/borders.py',), rounds=3)
