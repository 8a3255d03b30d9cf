"""Objects of masks: separated, outlined, measured, written and read again. Oracles: scipy's labels,
shapely's geometry, pycocotools' masks, loops over pixels; blobs by hypothesis, real nuclei."""
import contextlib
import io
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, strategies as st
from PIL import Image
from properties import examples
from scipy import ndimage

from segbook.data import from_coco
from segbook.errors import SegbookError
from segbook.objects import (
    CocoObjects, coco_ids, object_outlines, objects_table, outline_ious, paint_outlines,
    read_geojson, save_coco, save_geojson, separate_objects,
)
from segbook.objects.outlines import ring_area

NUCLEI = Path(os.environ.get('SEGBOOK_REAL_DATA', Path(__file__).parent.parent/'../shared/data'),
    'nuclei', 'instances')


def nuclei(n=6):
    if not NUCLEI.is_dir(): pytest.skip('the real nuclei are not on this machine')
    return [np.asarray(Image.open(f)).astype(np.int32) for f in sorted(NUCLEI.iterdir())[:n]]


@st.composite
def blobs(draw):
    "Numbers of a few objects: discs and rings that touch, cut each other and meet the border."
    h, w = draw(st.integers(1, 24)), draw(st.integers(1, 24))
    ids = np.zeros((h, w), np.int32)
    y, x = np.mgrid[:h, :w]
    for i in range(draw(st.integers(0, 5))):
        r, c = draw(st.integers(-2, h + 2)), draw(st.integers(-2, w + 2))
        far = np.hypot(y - r, x - c)
        outer = draw(st.floats(.1, 9))
        ids[(far <= outer) & (far >= draw(st.sampled_from([-1, -1, outer/2])))] = i + 1
    return ids


@st.composite
def noise(draw):
    "Every pixel of its own: corners that touch, holes in holes."
    h, w, top = draw(st.integers(1, 9)), draw(st.integers(1, 9)), draw(st.integers(1, 3))
    values = draw(st.lists(st.integers(0, top), min_size=h*w, max_size=h*w))
    return np.array(values, np.int32).reshape(h, w)


def shapes_of(outlines):
    from shapely.geometry import MultiPolygon, Polygon
    return {i: MultiPolygon([Polygon(p[0], p[1:]) for p in polygons])
        for i, polygons in outlines.items()}


# ---- outlines

@examples(60)
@given(st.one_of(blobs(), noise()))
def test_exact_outlines_come_back_and_are_valid(ids):
    import shapely
    outlines = object_outlines(ids)
    assert (paint_outlines(outlines, ids.shape) == ids).all()
    assert set(outlines) == set(np.unique(ids[ids > 0]).tolist())
    shapes = shapes_of(outlines)
    for i, shape in shapes.items():
        assert shape.is_valid and shape.area == (ids == i).sum()
        for rings in outlines[i]:
            assert [shapely.is_ccw(shapely.LinearRing(r)) for r in rings] == [
                k == 0 for k in range(len(rings))]
    # what touches shares no area: all together cover as much as they do one by one
    assert shapely.union_all(list(shapes.values())).area == (ids > 0).sum()


@examples(25)
@given(blobs())
def test_simplified_outlines_keep_shared_borders(ids):
    "No gap and no overlap between two objects that fill the image, whatever is left out."
    import shapely
    full = ids + 1
    outlines = object_outlines(full, .8)
    areas = [sum(ring_area(r) for r in rings) for p in outlines.values() for rings in p]
    assert math.isclose(sum(areas), full.size)
    shapes = shapes_of(outlines).values()
    if all(o.is_valid for o in shapes):
        assert math.isclose(shapely.union_all(list(shapes)).area, full.size)


def test_real_nuclei_come_back():
    "Exact outlines: an IoU of 1 for each. Simplified by half a pixel: at least 0.98 for each."
    for ids in nuclei():
        assert set(outline_ious(ids, object_outlines(ids)).values()) == {1.}
        assert min(outline_ious(ids, object_outlines(ids, .5)).values()) >= .98
        assert np.mean(list(outline_ious(ids, object_outlines(ids, 1)).values())) >= .92


@pytest.mark.parametrize('ids', [np.array([[1]]), np.array([[0, 1, 0]]),
    np.pad(np.ones((3, 3), int), 2), np.ones((4, 6), int), np.array([[1, 2], [2, 1]]),
    np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]]), np.array([[1, 1, 1], [1, 2, 1], [1, 1, 0]]),
    np.array([[3, 0, 3], [0, 3, 0]]), np.zeros((2, 3), int), np.zeros((0, 3), int)], ids=repr)
@pytest.mark.parametrize('simplify', [0, .5, 3])
def test_hard_cases_survive(ids, simplify, tmp_path):
    "A pixel, an object at the border, corners that touch, a filled hole, none: nothing is lost."
    outlines = object_outlines(ids, simplify)
    assert set(outlines) == set(np.unique(ids[ids > 0]).tolist())
    if simplify < 1: assert (paint_outlines(outlines, ids.shape) == ids).all()
    if ids.size and not simplify:
        assert (read_geojson(save_geojson(tmp_path/'a.geojson', ids))[0] == ids).all()


# ---- separation

@examples(25)
@given(blobs())
def test_components_are_those_of_scipy(ids):
    want, n = ndimage.label(ids > 0)
    found = separate_objects(ids > 0, 'components')
    assert found.max(initial=0) == n and found.dtype == np.int32
    assert len({*zip(want.ravel().tolist(), found.ravel().tolist())}) == n + (ids == 0).any()


@examples(25)
@given(blobs(), st.integers(1, 6))
def test_a_watershed_only_cuts(ids, least):
    "It adds and loses no pixel, and each object hangs together (over corners, where it is cut)."
    inside = ids > 0
    found = separate_objects(inside)
    assert ((found > 0) == inside).all()
    for i in range(1, found.max(initial=0) + 1):
        assert ndimage.label(found == i, np.ones((3, 3)))[1] == 1
    area = np.bincount(found.ravel(), minlength=1)[1:]
    kept = separate_objects(inside, min_area=least)
    assert sorted(np.bincount(kept.ravel(), minlength=1)[1:]) == sorted(area[area >= least])


def test_nuclei_that_touch_are_told_apart():
    "More of the true nuclei have an object of their own than have a connected piece."
    def own(found, true):
        both = np.histogram2d(true.ravel(), found.ravel(), (np.arange(true.max() + 2) - .5,
                np.arange(found.max() + 2) - .5))[0]
        union = both.sum(1)[:, None] + both.sum(0) - both
        return (both/np.maximum(union, 1) > .5)[1:, 1:].sum()
    masks = nuclei(12)
    n = {by: sum(own(separate_objects(m > 0, by), m) for m in masks)
        for by in ('components', 'distance')}
    assert n['distance'] > n['components']


# ---- the table

@examples(25)
@given(blobs())
def test_table_against_loops(ids):
    p = np.linspace(0, 1, ids.size).reshape(ids.shape)
    table = objects_table(ids, 'a', p, spacing=(.5, .25))
    assert table['id'].tolist() == np.unique(ids[ids > 0]).tolist()
    for row in table.to_dict('records'):
        pixels = [(r, c) for r, c in np.ndindex(ids.shape) if ids[r, c] == row['id']]
        ys, xs = zip(*pixels)
        n = len(pixels)
        assert (row['area'], row['left'], row['top'], row['width'], row['height']) == (n, min(xs),
            min(ys), max(xs) - min(xs) + 1, max(ys) - min(ys) + 1)
        want = sum(xs)/n + .5, sum(ys)/n + .5, sum(p[o] for o in pixels)/n, n*.125
        got = [row[k] for k in ('centroid_x', 'centroid_y', 'mean_probability', 'area_mm2')]
        assert np.allclose(got, want, atol=1e-9)


def test_perimeters_of_discs():
    y, x = np.mgrid[-40:40, -40:40]
    for r in (10, 20, 35):
        row = objects_table((np.hypot(y, x) <= r).astype(int)).iloc[0]
        assert abs(row['perimeter']/(2*math.pi*r) - 1) < .04
        assert abs(row['equivalent_diameter']/(2*r) - 1) < .02


# ---- files

@examples(25)
@given(blobs())
def test_coco_masks_are_those_of_pycocotools(tmp_path_factory, ids):
    from pycocotools.coco import COCO
    file = tmp_path_factory.mktemp('coco')/'a.json'
    save_coco(file, CocoObjects(['cell']).add('a.png', ids))
    with contextlib.redirect_stdout(io.StringIO()): peer = COCO(str(file))
    numbers = np.unique(ids[ids > 0])
    assert len(peer.anns) == len(numbers)
    for i, a in zip(numbers, peer.anns.values()):
        assert ((peer.annToMask(a) > 0) == (ids == i)).all()
        assert a['area'] == (ids == i).sum()
    assert (coco_ids(file)['a.png'] == np.unique(ids, return_inverse=True)[1].reshape(ids.shape)
        + (not (ids == 0).any())).all()


def test_coco_comes_back_through_the_importer(tmp_path):
    "Classes, by `from_coco`: holes and touching objects of real nuclei, and an image without any."
    masks = [*nuclei(3), np.zeros((20, 30), np.int32)]
    masks[0][100:140, 100:140] = 900 # an object with a hole, whatever was there
    masks[0][110:120, 110:120] = 0
    (tmp_path/'images').mkdir()
    found = CocoObjects(['nucleus'])
    for k, ids in enumerate(masks):
        Image.fromarray(np.zeros(ids.shape, np.uint8)).save(tmp_path/'images'/f'{k}.png')
        found.add(f'{k}.png', ids)
    save_coco(tmp_path/'a.json', found)
    out = from_coco(tmp_path/'a.json', tmp_path/'images', tmp_path/'out')
    for k, ids in enumerate(masks):
        mask = np.asarray(Image.open(out/'labels'/f'{k}_P.png'))
        assert (mask == (ids > 0)).all()


@examples(25)
@given(blobs())
def test_geojson_is_read_by_shapely(tmp_path_factory, ids):
    from shapely.geometry import shape
    file = tmp_path_factory.mktemp('geojson')/'a.geojson'
    save_geojson(file, ids, objects_table(ids, 'cell'))
    found = json.loads(file.read_text())
    for feature in found['features']:
        area = shape(feature['geometry']).area
        assert area == feature['properties']['area'] == (ids == feature['id']).sum()
        rings = feature['geometry']['coordinates']
        for ring in (rings if feature['geometry']['type'] == 'Polygon' else sum(rings, [])):
            assert ring[0] == ring[-1] and len(ring) >= 5
    assert (read_geojson(file)[0] == ids).all()


def test_files_are_not_overwritten(tmp_path):
    ids = np.ones((2, 2), int)
    for save in (save_geojson, lambda f, x, **kw: save_coco(f, CocoObjects(['a']), **kw)):
        file = tmp_path/'a.json'
        file.write_text('mine')
        with pytest.raises(SegbookError, match='nothing is overwritten'): save(file, ids)
        assert file.read_text() == 'mine'
        save(file, ids, overwrite=True)
        assert json.loads(file.read_text()) and [o.name for o in tmp_path.iterdir()] == ['a.json']
