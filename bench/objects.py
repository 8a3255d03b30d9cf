"""From a mask of 200 cells to a judged table of outlines: watershed, polygons and average precision
together; and outlines beside scikit-image's contours of one object at a time.

Drawn cells that touch; what is painted back from the outlines is compared in the same run."""
from __future__ import annotations
from functools import partial
from types import SimpleNamespace

import numpy as np
from skimage.measure import find_contours

from bench.topics import Case, Contest, Topic
from bench.weight_map import draw
from segbook.metrics import AveragePrecision
from segbook.objects import object_outlines, paint_outlines, separate_objects


def judged(ids, truth):
    "Average precision of numbered objects, each as sure as the next."
    numbers = np.arange(1, ids.max() + 1)
    found = SimpleNamespace(masks=ids == numbers[:, None, None], scores=np.ones(len(numbers)),
        classes=np.ones(len(numbers), int))
    return AveragePrecision(2).update([found], (truth > 0)[None].astype(int), truth[None]).mean()


def whole_way(truth):
    "Watershed, outlines, and how good the objects are."
    ids = separate_objects(truth > 0)
    return object_outlines(ids), judged(ids, truth)


def contours_of_each(ids):
    "The contours of each object, one object at a time, on a mask of its own."
    return {i: find_contours(np.pad(ids == i, 1), .5) for i in np.unique(ids)[1:]}


def together(size, cells):
    "The whole way alone: seconds, and how good it is."
    truth = draw(size, cells)
    def facts():
        return dict(average_precision=round(float(whole_way(truth)[1]), 3),
            objects=int(separate_objects(truth > 0).max()))
    return Contest({'segbook': lambda: partial(whole_way, truth)}, facts)


def outlines(size, cells):
    "Outlines of all objects, beside scikit-image's contours of one after the other."
    ids = draw(size, cells)
    def facts():
        assert (paint_outlines(object_outlines(ids), ids.shape) == ids).all()
        rings = [r for p in object_outlines(ids).values() for q in p for r in q]
        return dict(corners=sum(map(len, rings)))
    return Contest({'segbook': lambda: partial(object_outlines, ids),
        'scikit-image, an object at a time': lambda: partial(contours_of_each, ids)}, facts)


def cases(smoke):
    sizes = [(128, 12), (512, 200)]
    found = [Case('watershed, outlines, average precision', 'pixels', s*s, f'{s}x{s}, {n} cells',
        partial(together, s, n)) for s, n in sizes[:1 if smoke else None]]
    return found + [Case('outlines', 'pixels', s*s, f'{s}x{s}, {n} cells', partial(outlines, s, n))
        for s, n in sizes[:1 if smoke else None]]


TOPIC = Topic('objects', 'watershed, outlines and average precision of cells', 'segbook', cases,
    ('scipy', 'numpy', 'scikit-image'), ('objects', 'metrics/instances.py'), rounds=3)
