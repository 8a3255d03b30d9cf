"""Annotations whose classes overlap become maps, one a class: against boxes drawn by slices."""
import json
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from data_folders import coco, message
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image, ImageOps
from properties import examples

from segbook.data import from_coco, from_labelme, seg_dataloaders
from segbook.masks import SegFolder, check_masks, read_maps

boxes = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 6), st.integers(0, 6),
    st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=6)


def corners(y, x, h, w): return [[x, y], [x + w, y], [x + w, y + h], [x, y + h]]


def photo(folder, size):
    folder.mkdir()
    Image.fromarray(np.zeros((*size, 3), np.uint8)).save(folder/'a.png')


def maps_of(out, K):
    folder = SegFolder(out, overlapping=True)
    assert len(folder.codes) == K
    return read_maps(folder.labels[0], K)


def drawn(objects, size, K):
    "Each box in the map of its class; class -1 takes away from all that came before"
    maps = np.zeros((K, *size), np.uint8)
    for k, y, x, h, w in objects: maps[slice(None) if k < 0 else k, y:y+h, x:x+w] = k >= 0
    return maps


@examples(60)
@given(boxes, st.integers(2, 9), st.integers(2, 9))
def test_every_object_is_in_the_map_of_its_class(objects, h, w):
    K = 4
    assume(not h == w == K and any(y < h and x < w for _, y, x, _, _ in objects))
    with TemporaryDirectory() as d:
        d = Path(d)
        photo(d/'in', (h, w))
        f = coco(d/'c.json', [dict(id=i, image_id=1, category_id=k, segmentation=[
            np.ravel(corners(*o)).tolist()]) for i, (k, *o) in enumerate(objects)],
            images=[dict(id=1, file_name='a.png', width=w, height=h)],
            categories=[dict(id=k, name=f'c{k}') for k in range(K)])
        expected = drawn(objects, (h, w), K)
        assert (maps_of(from_coco(f, d/'in', d/'out', overlapping=True), K) == expected).all()


@examples(40)
@given(boxes)
def test_background_of_labelme_takes_away_from_all(objects):
    objects = [(1, 0, 0, 2, 2), *((k - 1, *o) for k, *o in objects)] # classes -1 to 2
    with TemporaryDirectory() as d:
        d = Path(d)
        photo(d/'in', (7, 8))
        shapes = [dict(label='_background_' if k < 0 else f'c{k}', points=corners(*o))
            for k, *o in objects]
        (d/'in'/'a.json').write_text(json.dumps(dict(imagePath='a.png', shapes=shapes)))
        names = ['c0', 'c1', 'c2']
        out = from_labelme(d/'in', d/'out', names, overlapping=True)
        assert (maps_of(out, 3) == drawn(objects, (7, 8), 3)).all()


@pytest.mark.parametrize('o', range(5, 9)) # of these the stated size tells: as stored
def test_maps_lie_on_the_picture_as_displayed(tmp_path, o):
    "Outlines drawn on the stored picture, a note that turns it, and Pillow's own way to turn"
    (tmp_path/'in').mkdir()
    stored = np.zeros((5, 9), np.uint8)
    stored[1:3, 2:9] = 255
    exif = Image.Exif()
    exif[274] = o
    file = tmp_path/'in'/'a.png'
    Image.fromarray(stored).save(file, exif=exif)
    f = coco(tmp_path/'c.json', [dict(id=k, image_id=1, category_id=k, segmentation=[np.ravel(
        corners(1, 2, 2, 7)).tolist()]) for k in (1, 2)], categories=[dict(id=1, name='one'),
        dict(id=2, name='two')], images=[dict(id=1, file_name='a.png', width=9, height=5)])
    maps = maps_of(from_coco(f, tmp_path/'in', tmp_path/'out', overlapping=True), 2)
    shown = np.array(ImageOps.exif_transpose(Image.open(file))) > 0
    assert (maps[0] == shown).all() and (maps[1] == shown).all()


@pytest.mark.parametrize('kw,part', [(dict(codes=['background', 'cat']), 'names a background'),
    (dict(codes=['Void', 'cat']), 'have no Void'), (dict(crowd='Void'), 'have no Void'),
    (dict(codes=['cta']), "name 'cat'"), (dict(codes=['cat', *map(str, range(24))]), '25 classes')])
def test_classes_that_maps_cannot_have(tmp_path, kw, part):
    photo(tmp_path/'in', (4, 6))
    f = coco(tmp_path/'c.json', [dict(id=1, image_id=1, category_id=5, segmentation=[[0, 0, 2, 0,
        2, 2]])], images=[dict(id=1, file_name='a.png')], categories=[dict(id=5, name='cat')])
    assert part in message(from_coco, f, tmp_path/'in', tmp_path/'out', overlapping=True, **kw)
    assert not (tmp_path/'out').exists()


def test_ignored_regions_of_labelme_are_refused(tmp_path):
    photo(tmp_path/'in', (4, 6))
    (tmp_path/'in'/'a.json').write_text(json.dumps(dict(imagePath='a.png', shapes=[dict(
        label='__ignore__', points=corners(0, 0, 2, 2))])))
    said = message(from_labelme, tmp_path/'in', tmp_path/'out', overlapping=True)
    assert 'have no Void' in said and not (tmp_path/'out').exists()


def test_from_polygons_to_a_batch(tmp_path, capsys):
    "What is said, checked, and given to a network"
    (tmp_path/'in').mkdir()
    rng, objects = np.random.default_rng(0), []
    for i in range(4):
        Image.fromarray(rng.integers(0, 255, (16, 20, 3), np.uint8)).save(tmp_path/'in'/f'{i}.png')
        for k, o in ((1, (2, 2, 10, 10)), (2, (4, 4, 3, 3))): objects.append(dict(id=len(objects),
            image_id=i, category_id=k, segmentation=[np.ravel(corners(*o)).tolist()]))
    objects.append(dict(id=99, image_id=0, category_id=2, segmentation=[[1, 1, 1.1, 1, 1.1, 1.1]]))
    f = coco(tmp_path/'c.json', objects, images=[dict(id=i, file_name=f'{i}.png') for i in
        range(4)], categories=[dict(id=1, name='cell'), dict(id=2, name='nucleus')])
    out = from_coco(f, tmp_path/'in', tmp_path/'out', overlapping=True)
    said = capsys.readouterr().out
    for part in ('9 objects read, 8 painted, 1 left out', '36 pixels are of several classes',
        '--overlapping', '400 of cell, 36 of nucleus'): assert part in said, said
    assert 'without an object' not in said and (out/'left_out.csv').exists()
    assert '2.81 % of the pixels are of several' in str(check_masks(out, overlapping=True,
        progress=False))
    dls = seg_dataloaders(out, bs=2, overlapping=True, batch_tfms=None, device='cpu', seed=1)
    x, y = dls.one_batch()
    assert y.shape == (2, 2, 16, 20)
    assert torch.as_tensor(y).flatten(2).sum(2).tolist() == [[100, 9]]*2
