"""What people bring to `from_coco` and `from_labelme`: each kind comes out right, or is named and
counted, or is an error with file and cure. Masks are compared with hand-computed ones, with
scikit-image, pycocotools, and pictures that PIL turned."""
import base64
import csv
import io
import json
import random
import signal
import subprocess
import sys
import tracemalloc
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
from data_folders import coco, message
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps
from properties import examples
from skimage.draw import polygon

from segbook.data import from_coco, from_labelme
from segbook.data.annotations import decode_run_lengths, fill_polygon
from segbook.masks import SegbookError, SegFolder, read_mask


def box(x, y, w, h): return [x, y, x+w, y, x+w, y+h, x, y+h]


def ann(outline=None, **kw):
    return {**dict(id=1, image_id=1, category_id=5, segmentation=outline or [box(1, 1, 2, 1)]),
        **kw}


GOOD = ann([box(4, 2, 2, 2)], id=99)   # four pixels of cat, in the corner


def made(file, folder, tmp_path, stem='a', **kw):
    "The mask of one image of an import"
    out = from_coco(file, folder, tmp_path/'out', **kw)
    SegFolder(out)
    return read_mask(out/'labels'/f'{stem}_P.png')


# ---- outlines

number = st.one_of(st.integers(-6, 18).map(float), st.integers(-12, 36).map(lambda n: n/2),
    st.floats(-6, 18, width=32))


@examples(150)
@given(st.lists(st.tuples(number, number), min_size=3, max_size=12), st.integers(1, 13),
    st.integers(1, 13))
def test_polygons_are_those_of_scikit_image(points, h, w):
    ours, theirs, p = np.zeros((h, w), bool), np.zeros((h, w), bool), np.array(points) - .5
    fill_polygon(ours, points, True)
    theirs[polygon(p[:,1], p[:,0], theirs.shape)] = True
    assert (ours == theirs).all()


def test_smooth_outlines_agree_with_pycocotools():
    mask = pytest.importorskip('pycocotools.mask')
    t = np.linspace(0, 2*np.pi, 40)[:-1]
    for i in range(5):
        xy = np.stack([60 + (20+6*i)*np.cos(t), 50 + (30+i)*np.sin(t)], 1)
        ours = np.zeros((100, 120), bool)
        fill_polygon(ours, xy, True)
        code = mask.merge(mask.frPyObjects([xy.ravel().tolist()], 100, 120))
        theirs = mask.decode(code) > 0
        x,y = xy.T
        area = abs((x*np.roll(y, -1) - y*np.roll(x, -1)).sum())/2
        assert (ours & theirs).sum()/(ours | theirs).sum() > .97
        assert abs(ours.sum() - area) <= abs(int(theirs.sum()) - area) + 15


def test_a_large_polygon_needs_little_memory():
    mask = np.zeros((3000, 4000), np.uint8)
    fill_polygon(mask, box(0, 0, 1, 1), 1)
    tracemalloc.start()
    fill_polygon(mask, box(0, 0, 4000, 3000), 2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (mask == 2).all() and peak < 5e6


@examples(60)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 2**32), st.floats(0, 1))
def test_run_lengths_are_those_of_pycocotools(h, w, seed, share):
    theirs = pytest.importorskip('pycocotools.mask')
    m = np.random.default_rng(seed).random((h, w)) < share
    code = theirs.encode(np.asfortranarray(m.astype(np.uint8)))['counts']
    plain = np.flatnonzero(np.diff(np.r_[2, m.T.ravel(), 2].astype(int)))
    counts = np.diff(plain).tolist()
    counts = [0, *counts] if m[0, 0] else counts
    for c in (code, code.decode(), counts):
        assert (decode_run_lengths(c, h, w) == m).all()


@examples(200)
@given(st.binary(max_size=14) | st.text(max_size=8) | st.lists(st.integers(-3, 2**70), max_size=5))
def test_any_run_lengths_are_decoded_or_refused(counts):
    try: m = decode_run_lengths(counts, 3, 4)
    except SegbookError as e: assert 'run-length code' in str(e)
    else: assert m.shape == (3, 4)


@pytest.mark.parametrize('outline,n', [([box(1, 1, 2, 1)], 2), (box(1, 1, 2, 1), 2),
    ([list(map(str, box(1, 1, 2, 1)))], 2), ([[1, 1], [3, 1], [3, 2], [1, 2]], 2),
    ([[[1, 1], [3, 1], [3, 2], [1, 2]]], 2), ([box(1, 1, 2, 1), box(0, 3, 1, 1)], 3),
    ([box(0, 0, 4, 4), box(1, 1, 2, 2)], 16), ([box(-3, -2, 5, 4)], 4),
    (dict(size=[4, 6], counts=[5, 2, 17]), 2), (dict(counts=[5, 2, 17]), 2),
    (dict(size=['4', 6.], counts='52a0'), 2), ([dict(size=[4, 6], counts='52a0')], 2),
    ([box(1, 1, 2, 1), [0, 0, 1, 1], [5, 5]], 2)])
def test_outlines_of_every_form(photos, tmp_path, outline, n, capsys):
    m = made(coco(tmp_path/'c.json', [ann(outline)]), photos, tmp_path)
    assert (m == 2).sum() == n and '1 object read, 1 painted, 0 left' in capsys.readouterr().out


BAD = [(dict(segmentation=[[1, 1, 2, 2]]), 'of fewer than three points'),
    (dict(segmentation=[[0, 0, 1, 0, 1]]), 'with an odd number of coordinates'),
    (dict(segmentation=[[0, 0, float('nan'), 0, 1, 1]]), 'that are not finite'),
    (dict(segmentation=[[0, 0, None, 0, 1, 1]]), 'that are not finite'),
    (dict(segmentation=[[0, 0, float('inf'), 0, 1, 1]]), 'that are not finite'),
    (dict(segmentation=[[0, 0, 'x', 0, 1, 1]]), 'that are no numbers'),
    (dict(segmentation=[[0, 0, 1e30, 0, 1, 1]]), 'far outside the image'),
    (dict(segmentation=[box(60, 1, 2, 2)]), 'outside the image'),
    (dict(segmentation=[box(.1, .1, .5, .5)]), 'in fractions of the image'),
    (dict(segmentation=[box(2.6, 2.6, .2, .2)]), 'cover no centre of a pixel'),
    (dict(segmentation=[]), 'without an outline'), (dict(segmentation=[[]]), 'without an outline'),
    (dict(segmentation=None, bbox=[0, 0, 2, 2]), 'with boxes alone'),
    (dict(segmentation='[[1,1,3,1,3,2]]'), 'in a form that is not known'),
    (dict(segmentation=dict(size=[4, 6])), 'in a form that is not known'),
    (dict(segmentation=dict(size=[6, 4], counts=[5, 2, 17])), 'of another size'),
    (dict(segmentation=dict(size=[4, 6], counts=[5, 2, 16])), 'of another size'),
    (dict(segmentation=dict(size=[4, 6], counts=[5, 2, 18])), 'of another size'),
    (dict(segmentation=dict(size=[10**6, 10**6], counts='1')), 'of another size'),
    (dict(segmentation=dict(size=[10**6, 10**6], counts=[10**12])), 'of another size'),
    (dict(segmentation=dict(size=[4, 6], counts=[-1, 25])), 'with a damaged run-length code'),
    (dict(segmentation=dict(size=[4, 6], counts='~~')), 'with a damaged run-length code'),
    (dict(category_id=77), 'of a category that is not listed'),
    (dict(category_id=None), 'of a category that is not listed'),
    (dict(image_id=77), 'of an image that is not listed'),
    (dict(image_id=None), 'of an image that is not listed')]


@pytest.mark.parametrize('kw,why', BAD)
def test_what_cannot_be_placed_is_named(photos, tmp_path, kw, why, capsys):
    m = made(coco(tmp_path/'c.json', [GOOD, ann(**kw)]), photos, tmp_path)
    said = capsys.readouterr().out
    assert (m > 0).sum() == 4 and '2 objects read, 1 painted, 1 left out: 1 ' in said
    assert why in said and 'annotation 1)' in said and said.count('\n') == 1
    rows = list(csv.reader((tmp_path/'out'/'left_out.csv').open(encoding='utf-8')))
    assert len(rows) == 2 and why in rows[1][2] and rows[1][3]
    alone = message(from_coco, coco(tmp_path/'d.json', [ann(**kw)]), photos, tmp_path/'no')
    assert 'd.json: none of its 1 object' in alone and not (tmp_path/'no').exists()


def test_nothing_is_said_to_be_missing_when_all_is_there(photos, tmp_path, capsys):
    made(coco(tmp_path/'c.json', [GOOD]), photos, tmp_path)
    assert not (tmp_path/'out'/'left_out.csv').exists()
    assert capsys.readouterr().out == ('c.json: 1 object read, 1 painted, 0 left out. Images '
        'without objects: 1 (b.png). Pixels: 44 of background, 4 of cat, none of dog.\n')


def test_boxes_and_parts_and_what_is_hidden(photos, tmp_path, capsys):
    only = ann(segmentation=[], bbox=[0, 0, 2, 2])
    m = made(coco(tmp_path/'c.json', [only]), photos, tmp_path, boxes='fill')
    assert (m == 2).sum() == 4
    assert 'boxes=' in message(from_coco, tmp_path/'c.json', photos, tmp_path/'no', boxes='x')
    some = [ann([box(1, 1, 1, 1)], id=1, area=9), ann([box(0, 0, 3, 3), box(1, 1, 1, 1)], id=2,
        area=5, category_id=2), ann([box(4, 0, 1, 1), [9, 9, 9]], id=3, area=1)]
    capsys.readouterr()
    made(coco(tmp_path/'c.json', some), photos, tmp_path/'more')
    said = capsys.readouterr().out
    for part in ('3 painted, 1 of them wholly behind others (a.jpg, annotation 1)', 'Parts of '
        'objects left out: 1 ', 'inside another part of their object', '(a.jpg, annotation 2)'):
        assert part in said, said
    rows = list(csv.reader((tmp_path/'more'/'out'/'left_out.csv').open(encoding='utf-8')))
    assert [row[:3] for row in rows[1:]] == [['part of an object', 'a.jpg, annotation 3', 'with an '
        'odd number of coordinates'], ['object', 'a.jpg, annotation 1', 'wholly behind others']]


def test_areas_decide_only_where_all_have_one(photos, tmp_path):
    small, large = ann([box(1, 1, 1, 1)]), ann([box(0, 0, 3, 3)], category_id=2)
    for i, areas in enumerate([(None, None), (1, None), (0, 0), ('x', 5), (float('nan'), 9)]):
        anns = [{**o, 'area': x} for o, x in zip((small, large), areas)]
        m = made(coco(tmp_path/'c.json', anns), photos, tmp_path/str(i))
        assert m[1, 1] == 2 and (m == 1).sum() == 8


# ---- ids, names, classes

@pytest.mark.parametrize('image,one,category,two', [('1', 1, 5, '5'), (1, '1', '5', 5),
    (1., ' 1', 5.0, '5'), ('x7', 'x7', 'c', 'c')])
def test_ids_as_text(photos, tmp_path, image, one, category, two):
    f = coco(tmp_path/'c.json', [ann(image_id=one, category_id=two)],
        images=[dict(id=image, file_name='a.jpg')], categories=[dict(id=category, name='cat')])
    assert (made(f, photos, tmp_path) == 1).sum() == 2


@pytest.mark.parametrize('cats,codes,part', [
    ([dict(id=0, name='cat'), dict(id=5, name='cat')], ['background', 'cat'], 'stands 2 times'),
    ([dict(id=0, name='pets', supercategory='none'), dict(id=5, name='cat', supercategory='pets')],
        ['background', 'cat'], 'marks nothing'),
    ([dict(id=5, name='two\nlines'), dict(id=6, name='after')], ['background', 'two lines',
        'after'], 'is called'),
    ([dict(id=5, name=3), dict(id=10, name='ten'), dict(id=9, name='nine')], ['background', '3',
        'nine', 'ten'], ''),
    ([dict(id=5, name='void'), dict(id=6, name='Void')], ['background', 'void'], ''),
    ([dict(id=0, name='_background_'), dict(id=5, name='u\u0308ber')], ['background', '\xfcber'],
        '')])
def test_categories(photos, tmp_path, cats, codes, part, capsys):
    m = made(coco(tmp_path/'c.json', [GOOD], categories=cats), photos, tmp_path)
    assert SegFolder(tmp_path/'out').codes == codes and part in capsys.readouterr().out
    assert (m == 1).sum() == 4


@pytest.mark.parametrize('kw,parts', [
    (dict(categories=[dict(id=5, name='cat'), dict(id=5, name='dog')]), ['category 5', "'dog'"]),
    (dict(categories=[dict(id=5)]), ['category 5', 'None']),
    (dict(categories=[dict(name='cat')]), ['entry 0 of categories']),
    (dict(images=[dict(id=1, file_name='a.jpg'), dict(id=1, file_name='b.png')]), ['image id 1']),
    (dict(images=[dict(id=1)]), ['image 1', 'file_name']), (dict(images=['a.jpg']), ['entry 0']),
    (dict(annotations={}), ['annotations is dict']), (dict(categories=None), ['is NoneType']),
    (dict(annotations=[dict(image_id=1, segments_info=[])]), ['panoptic', 'PNG']),
    (dict(categories=[dict(id=i, name=f'c{i}') for i in range(300)]), ['301 classes', 'codes='])])
def test_files_that_leave_two_readings(photos, tmp_path, kw, parts):
    m = message(from_coco, coco(tmp_path/'c.json', [GOOD], **kw), photos, tmp_path/'out')
    assert all(o in m for o in parts) and not (tmp_path/'out').exists(), m


def test_codes_of_the_user(photos, tmp_path, capsys):
    f = coco(tmp_path/'c.json', [GOOD])
    m = made(f, photos, tmp_path, codes=['sky', 'cat'])
    assert (m == 1).sum() == 4 and "without an object are 'sky'" in capsys.readouterr().out
    for codes, part in ((['background', 'cta'], "'cta' meant"), ('cat', 'a list'),
        (['cat', 'cat'], 'once'), ([], 'empty')):
        assert part in message(from_coco, f, photos, tmp_path/'no', codes=codes)


# ---- files

@pytest.mark.parametrize('name', ['a.jpg', 'photos\\a.jpg', './a.jpg', 'C:\\me\\a.jpg', 'A.JPG',
    '/srv/data/a.jpg', '..\\..\\upload\\4\\a.jpg', 'https://host/a.jpg', 'images/../a.jpg'])
def test_file_names(photos, tmp_path, name):
    f = coco(tmp_path/'c.json', [GOOD], images=[dict(id=1, file_name=name)])
    assert (made(f, photos, tmp_path) == 1).sum() == 0  # dog is 1, cat is 2
    assert [o.name for o in (tmp_path/'out'/'images').iterdir()] == ['a.jpg']


@pytest.mark.parametrize('name', ['../secret.jpg', '..\\secret.jpg', 'x/../../secret.jpg',
    '%2e%2e/secret.jpg', '/etc/hostname', 'a\0.jpg', 'a'*4000 + '.jpg', '..', '.'])
def test_nothing_comes_from_outside(photos, tmp_path, name):
    Image.new('RGB', (6, 4)).save(tmp_path/'secret.jpg')
    f = coco(tmp_path/'c.json', [GOOD], images=[dict(id=1, file_name=name)])
    assert 'is not in' in message(from_coco, f, photos, tmp_path/'out')
    (photos/'a.json').write_text(json.dumps(dict(imagePath=name, shapes=[])))
    (photos/'a.jpg').unlink()
    assert 'is not in' in message(from_labelme, photos, tmp_path/'out')


def test_folders_below(photos, tmp_path):
    for d, colour in (('one', 10), ('two', 20)):
        (photos/d).mkdir()
        Image.new('L', (6, 4), colour).save(photos/d/'0001.png')
    both = [dict(id=1, file_name='one/0001.png'), dict(id=2, file_name='two\\0001.png')]
    out = from_coco(coco(tmp_path/'c.json', [GOOD], images=both), photos, tmp_path/'out')
    found = SegFolder(out)
    assert [o.name for o in found.images] == ['one_0001.png', 'two_0001.png']
    assert [np.asarray(Image.open(o))[0, 0] for o in found.images] == [10, 20]
    assert [read_mask(o).any() for o in found.labels] == [True, False]
    f = coco(tmp_path/'c.json', [GOOD], images=[dict(id=1, file_name='0001.png')])
    assert 'one/0001.png, two/0001.png' in message(from_coco, f, photos, tmp_path/'no')
    f = coco(tmp_path/'c.json', [GOOD], images=[dict(id=1, file_name='x/a.jpg'), dict(id=2,
        file_name='y/a.jpg')])
    assert 'both lead to' in message(from_coco, f, photos, tmp_path/'no')


@pytest.mark.parametrize('code', ['utf-8-sig', 'utf-16', 'utf-16-le', 'utf-32', 'latin-1', 'gbk'])
def test_encodings(photos, tmp_path, code, capsys):
    name = '\u8239' if code == 'gbk' else 'Stra\xdfe'
    text = json.dumps(dict(imagePath='a.jpg', shapes=[dict(label=name, points=[[0, 0], [4, 0],
        [4, 4]])]), ensure_ascii=False)
    (photos/'a.json').write_text(text, encoding=code)
    kw = dict(encoding=code) if code == 'gbk' else {}
    assert SegFolder(from_labelme(photos, tmp_path/'out', **kw)).codes == ['background', name]
    assert ('is not UTF-8' in capsys.readouterr().out) == (code == 'latin-1')


@pytest.mark.parametrize('text,part', [('', 'is no JSON'), ('{"a":', 'is no JSON'),
    ('['*10**5, 'is no JSON'), ('{"a": ' + '9'*5000 + '}', 'is no JSON'), ('[]', 'It is a list')])
def test_json_that_is_none(photos, tmp_path, text, part):
    (tmp_path/'c.json').write_text(text)
    m = message(from_coco, tmp_path/'c.json', photos, tmp_path/'out')
    assert 'c.json' in m and part in m and 'Export it' in m


# ---- sizes and orientation

@pytest.mark.parametrize('size', [(None, None), (-1, -1), ('6', '4'), (6., 4.), (0, 4)])
def test_sizes_that_are_none(photos, tmp_path, size, capsys):
    f = coco(tmp_path/'c.json', [GOOD], images=[dict(id=1, file_name='a.jpg', width=size[0],
        height=size[1])])
    assert (made(f, photos, tmp_path) == 2).sum() == 4
    assert ('size is not stated' in capsys.readouterr().out) == (size[0] in (None, -1, 0))


BACK = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_270}


def turned_photo(folder, o, size=(12, 8)):
    "A picture whose white box lies at (3,1) to (8,3) as displayed, stored with orientation `o`"
    x = np.zeros((size[1], size[0]), np.uint8)
    x[1:3, 3:8] = 255
    note = Image.Exif()
    note[0x0112] = o
    folder.mkdir()
    Image.fromarray(x).transpose(BACK[o]).save(folder/'a.png', exif=note)
    shown = np.asarray(ImageOps.exif_transpose(Image.open(folder/'a.png')))
    assert (shown == x).all()
    return x > 0, np.asarray(Image.open(folder/'a.png')) > 0


def corners(m):
    "The outline of the box in a mask"
    r, c = np.nonzero(m)
    return box(int(c.min()), int(r.min()), int(np.ptp(c))+1, int(np.ptp(r))+1)


@pytest.mark.parametrize('o', range(2, 9))
@pytest.mark.parametrize('as_stored', [False, True])
def test_masks_lie_on_the_picture_as_displayed(tmp_path, o, as_stored, capsys):
    shown, stored = turned_photo(tmp_path/'in', o)
    if as_stored and stored.shape == shown.shape: return  # nothing tells: as displayed is right
    m = stored if as_stored else shown
    h, w = m.shape
    f = coco(tmp_path/'c.json', [ann([corners(m)])], images=[dict(id=1, file_name='a.png', width=w,
        height=h)])
    assert ((made(f, tmp_path/'in', tmp_path) > 0) == shown).all()
    runs = np.diff(np.flatnonzero(np.diff(np.r_[2, m.T.ravel(), 2].astype(int)))).tolist()
    made_again = made(coco(tmp_path/'c.json', [ann(dict(size=[h, w], counts=runs))],
        images=[dict(id=1, file_name='a.png', width=w, height=h)]), tmp_path/'in', tmp_path/'rle')
    assert ((made_again > 0) == shown).all()
    (tmp_path/'in'/'a.json').write_text(json.dumps(dict(imagePath='a.png', imageHeight=h,
        imageWidth=w, shapes=[dict(label='x', points=np.reshape(corners(m), (-1, 2)).tolist())])))
    out = from_labelme(tmp_path/'in', tmp_path/'lm')
    assert ((read_mask(out/'labels'/'a_P.png') > 0) == shown).all()
    assert capsys.readouterr().out.count('EXIF orientation') == 3


def test_drawn_on_the_displayed_picture_but_sized_as_stored(tmp_path):
    shown, stored = turned_photo(tmp_path/'in', 6, (8, 12))
    x = np.zeros_like(shown)
    x[9:11, 1:4] = True   # below the last row of the stored picture
    f = coco(tmp_path/'c.json', [ann([corners(x)])], images=[dict(id=1, file_name='a.png',
        width=stored.shape[1], height=stored.shape[0])])
    assert ((made(f, tmp_path/'in', tmp_path) > 0) == x).all()


# ---- LabelMe

def labelme(photos, shapes, tmp_path, **kw):
    "The mask that comes of these shapes"
    (photos/'a.json').write_text(json.dumps({**dict(imagePath='a.jpg', shapes=shapes), **kw}))
    out = from_labelme(photos, tmp_path/'out')
    return SegFolder(out), read_mask(next((out/'labels').iterdir()))


def png(x):
    f = io.BytesIO()
    Image.fromarray(np.array(x, bool)).save(f, 'PNG')
    return base64.b64encode(f.getvalue()).decode()


@pytest.mark.parametrize('kind,points,n', [('polygon', [[1, 1], [3, 1], [3, 2], [1, 2]], 2),
    (None, [[1, 1], [3, 1], [3, 2], [1, 2]], 2), ('rectangle', [[3, 2], [1, 1]], 2),
    ('rectangle', [[1, 1], [3, 1], [3, 2], [1, 2]], 2),
    ('rectangle', [[1, 1], [3, 2], [3, 1], [1, 2]], 2),
    ('rotation', [[3, .5], [4.5, 2], [3, 3.5], [1.5, 2]], 4),
    ('quadrilateral', [[1, 1], [3, 1], [3, 3], [1, 3]], 4), ('circle', [[2, 2], [3, 2]], 4),
    ('circle', [[0, 0], [2, 0]], 3), ('circle', [[6, 4], [6, 2]], 3),
    ('circle', [[.5, .5], [2.5, .5]], 6)])
def test_shapes(photos, tmp_path, kind, points, n):
    f, m = labelme(photos, [dict(label='x', shape_type=kind, points=points)], tmp_path)
    assert (m == 1).sum() == n and f.codes == ['background', 'x']


def test_mask_shape(photos, tmp_path):
    s = dict(label='x', shape_type='mask', points=[[2, 1], [4, 2]], mask=png([[1, 0, 1],
        [1, 1, 1]]))
    assert labelme(photos, [s], tmp_path)[1].tolist() == [[0]*6, [0, 0, 1, 0, 1, 0], [0, 0, 1, 1,
        1, 0], [0]*6]


@pytest.mark.parametrize('x,y', [(-1, -1), (4, 3), (-1, 3), (4, -1)])
def test_a_mask_over_the_edge(photos, tmp_path, x, y):
    inside, wide = [[1, 0, 1], [1, 1, 0]], np.zeros((8, 10), int)
    wide[y+2:y+4, x+2:x+5] = inside
    s = dict(label='x', shape_type='mask', points=[[x, y], [x+2, y+1]], mask=png(inside))
    assert (labelme(photos, [s], tmp_path)[1] == wide[2:6, 2:8]).all()


SQUARE = dict(label='x', points=[[4, 2], [6, 2], [6, 4], [4, 4]])


@pytest.mark.parametrize('shape,why', [
    (dict(shape_type='line', points=[[0, 0], [1, 1]]), 'no inside'),
    (dict(shape_type='linestrip', points=[[0, 0], [1, 1], [2, 0]]), 'no inside'),
    (dict(shape_type='point', points=[[0, 0]]), 'no inside'),
    (dict(shape_type='points', points=[[0, 0], [1, 1], [2, 2]]), 'no inside'),
    (dict(shape_type='cuboid', points=[[0, 0]]*8), 'no inside'),
    (dict(points=[[0, 0], [1, 1]]), 'of fewer than three points'), (dict(points=None), 'with an'),
    (dict(shape_type='circle', points=[[0, 0]]), 'another number of points'),
    (dict(shape_type='rectangle', points=[[0, 0], [1, 0], [1, 1]]), 'another number of points'),
    (dict(shape_type='circle', points=[[0, 0], [1e30, 0]]), 'far outside'),
    (dict(shape_type='mask', points=[[0, 0], [1, 1]], mask='x'), 'cannot be read'),
    (dict(shape_type='mask', points=[[0, 0], [1, 1]]), 'cannot be read'),
    (dict(shape_type='mask', points=[[0, 0], [2, 2]], mask=png([[1]])), 'than its box'),
    (dict(label=None), 'without a label'), (dict(label=''), 'without a label'),
    (dict(label=['x']), 'without a label'), (dict(points=[['a', 0]]*3), 'no numbers')])
def test_shapes_that_cannot_be_placed(photos, tmp_path, shape, why, capsys):
    f, m = labelme(photos, [SQUARE, {**SQUARE, **shape}], tmp_path)
    said = capsys.readouterr().out
    assert (m == 1).sum() == 4 and '2 objects read, 1 painted, 1 left out: 1 ' in said
    assert why in said and 'a.json, shape 1' in said


def test_labelme_words_and_groups(photos, tmp_path, capsys):
    whole = dict(SQUARE, points=[[0, 0], [6, 0], [6, 4], [0, 4]], group_id=1, flags=dict(a=True))
    f, m = labelme(photos, [whole, dict(SQUARE, label='_background_'), dict(SQUARE, points=[[0, 0],
        [2, 0], [2, 1], [0, 1]], label='__ignore__')], tmp_path, flags=dict(bad=True))
    assert f.codes == ['background', 'Void', 'x'] and f.ignore_index == 1
    assert np.bincount(m.ravel()).tolist() == [4, 2, 18]


def test_numbers_and_line_breaks_as_labels(photos, tmp_path):
    f, m = labelme(photos, [dict(SQUARE, label=3.0), dict(SQUARE, label=3), dict(SQUARE,
        label='a\nb'), dict(SQUARE, label=' c ')], tmp_path)
    assert f.codes == ['background', '3', 'a b', 'c'] and (m == 3).sum() == 4


def test_size_of_the_file_and_of_the_json(photos, tmp_path):
    (photos/'a.json').write_text(json.dumps(dict(imagePath='a.jpg', shapes=[SQUARE],
        imageHeight=40, imageWidth=60)))
    assert 'is 4x6, the annotations say 40x60' in message(from_labelme, photos, tmp_path/'out')
    for h, w in ((None, None), (4, 6), ('4', 6.0)):
        labelme(photos, [SQUARE], tmp_path/f'{h}{w}', imageHeight=h, imageWidth=w)


def test_images_of_labelme(photos, tmp_path, capsys):
    data = base64.b64encode((photos/'a.jpg').read_bytes()).decode()
    f, _ = labelme(photos, [SQUARE], tmp_path/'1', imagePath='..\\photos\\a.jpg')
    assert [o.name for o in f.images] == ['a.jpg']
    f, _ = labelme(photos, [SQUARE], tmp_path/'2', imagePath='old name.jpg')
    assert 'found by the name of their JSON: 1 (a.json)' in capsys.readouterr().out
    Image.new('L', (6, 4)).save(photos/'a.png')
    assert 'old name.jpg, which is not in' in message(from_labelme, photos, tmp_path/'no')
    (photos/'a.png').unlink()
    (photos/'a.jpg').rename(tmp_path/'a.jpg')
    f, m = labelme(photos, [SQUARE], tmp_path/'3', imageData=data)
    assert (m == 1).sum() == 4 and f.images[0].read_bytes() == (tmp_path/'a.jpg').read_bytes()
    assert 'taken from imageData' in capsys.readouterr().out
    for kw, part in ((dict(imageData='x'), 'imageData'), (dict(imageData=data, imageHeight=9,
        imageWidth=9), 'imageData is 4x6'), ({}, 'images=')):
        (photos/'a.json').write_text(json.dumps(dict(imagePath='a.jpg', shapes=[SQUARE]) | kw))
        assert part in message(from_labelme, photos, tmp_path/'no')
    (tmp_path/'elsewhere').mkdir()
    (tmp_path/'a.jpg').rename(tmp_path/'elsewhere'/'a.jpg')
    out = from_labelme(photos, tmp_path/'4', images=tmp_path/'elsewhere')
    assert [o.name for o in (out/'images').iterdir()] == ['a.jpg']


@pytest.mark.parametrize('o', range(2, 9))
@pytest.mark.parametrize('as_shown', [False, True])
def test_a_turned_image_in_the_json(tmp_path, o, as_shown, capsys):
    shown, stored = turned_photo(tmp_path/'in', o)
    if as_shown and stored.shape == shown.shape: return  # LabelMe shows it as it lies
    data = base64.b64encode((tmp_path/'in'/'a.png').read_bytes()).decode()
    (tmp_path/'in'/'a.png').unlink()
    m = shown if as_shown else stored
    shape = dict(label='x', points=np.reshape(corners(m), (-1, 2)).tolist())
    sizes = [dict(imageHeight=m.shape[0], imageWidth=m.shape[1])] + [{}]*(not as_shown)
    for i, size in enumerate(sizes):
        (tmp_path/'in'/'a.json').write_text(json.dumps(dict(imagePath='a.png', imageData=data,
            shapes=[shape]) | size))
        out = from_labelme(tmp_path/'in', tmp_path/str(i))
        assert ((read_mask(out/'labels'/'a_P.png') > 0) == shown).all()
        assert 'EXIF orientation' in capsys.readouterr().out


def test_what_a_folder_of_labelme_holds_besides(photos, tmp_path, capsys):
    (photos/'below').mkdir()
    (photos/'below'/'c.json').write_text('{}')
    (photos/'._a.json').write_bytes(b'\0\5')
    labelme(photos, [SQUARE], tmp_path)
    said = capsys.readouterr().out
    assert 'folders below, not read: 1 (below/c.json)' in said
    assert 'without a JSON file, left out: 1 (b.png)' in said
    (photos/'b.json').write_text(json.dumps(dict(imagePath='a.jpg', shapes=[])))
    assert 'a.json and b.json both annotate' in message(from_labelme, photos, tmp_path/'no')
    (photos/'b.json').write_text(json.dumps(dict(images=[], annotations=[])))
    assert 'use from_coco' in message(from_labelme, photos, tmp_path/'no')


# ---- whole or not at all

def test_a_killed_import_leaves_nothing_for_long(photos, tmp_path):
    f = coco(tmp_path/'c.json', [GOOD])
    code = ('import os, signal, segbook.data.coco as m\n'
        'm.finish_import = lambda *a: os.kill(os.getpid(), signal.SIGKILL)\n'
        f'm.from_coco({str(f)!r}, {str(photos)!r}, {str(tmp_path/"out")!r})')
    root = Path(__file__).resolve().parent.parent
    if not hasattr(signal, 'SIGKILL'): pytest.skip('no SIGKILL here')
    assert subprocess.run([sys.executable, '-c', code], cwd=root).returncode == -signal.SIGKILL
    assert [o for o in tmp_path.iterdir() if o.name.startswith('.')]
    from_coco(f, photos, tmp_path/'out')
    assert not [o for o in tmp_path.iterdir() if o.name.startswith('.')]


def test_an_image_that_would_be_skipped_is_refused(photos, tmp_path):
    (photos/'a.jpg').rename(photos/'a.jfif')
    f = coco(tmp_path/'c.json', [GOOD], images=[dict(id=1, file_name='a.jfif')])
    assert 'a.jfif would not be read' in message(from_coco, f, photos, tmp_path/'out')
    assert sorted(o.name for o in tmp_path.iterdir()) == ['c.json', 'photos']


# ---- anything else: JSON that was changed at random

COCO = dict(images=[dict(id=1, file_name='a.jpg', width=6, height=4), dict(id=2, file_name='b.png',
        width=6, height=4)], categories=[dict(id=5, name='cat', supercategory='x'), dict(id=2,
        name='dog')], annotations=[dict(id=1, image_id=1, category_id=5, area=2, bbox=[1, 1, 2, 1],
        segmentation=[box(1, 1, 2, 1)]), dict(id=2, image_id=1, category_id=2, iscrowd=0,
        segmentation=[box(0, 0, 4, 4), box(4, 2, 1, 1)]), dict(id=3, image_id=2, category_id=5,
        iscrowd=1, segmentation=dict(size=[4, 6], counts=[5, 2, 17])), dict(id=4, image_id=2,
        category_id=2, segmentation=dict(size=[4, 6], counts='52a0'))])
LABELME = dict(version='5', imagePath='a.jpg', imageData=None, imageHeight=4, imageWidth=6,
    shapes=[dict(label='wall', shape_type='rectangle', points=[[6, 4], [0, 1]]), dict(label='door',
        points=[[4.2, 0], [6, 0], [6, 4]]), dict(label='sun', shape_type='circle', points=[[1, 2],
        [1.8, 2]]), dict(label='brush', shape_type='mask', points=[[1, 1], [2, 2]],
        mask=png([[1, 1], [0, 1]]))])
ODD = [None, True, 0, 1, -1, '1', '', 'x', '../a.jpg', 'a\nb', '\ud800', '\0', 1.5, 1e30, 10**30,
    2**63, float('nan'), float('inf'), [], {}, [[]], [None], [1, 2, 3], [{}], 'Void', 'line',
    'mask', 'rotation', '_background_', '__ignore__', [[0, 0], [1, 0], [1, 1]], dict(size=[10**6]*2,
        counts='1'), dict(size=[4, 6], counts=[-1, 25]), 'b.png', 'a'*10**5]


def spots(x):
    "Every container in `x`, with each of its keys"
    keys = list(x) if isinstance(x, dict) else range(len(x)) if isinstance(x, list) else []
    for k in keys:
        yield x, k
        yield from spots(x[k])


def mutated(d, rng):
    "`d` with one to six changes"
    d = deepcopy(d)
    for _ in range(rng.choice([1, 1, 2, 3, 6])):
        if not (found := list(spots(d))): break
        o, k = rng.choice(found)
        r = rng.random()
        if r < .25: del o[k]
        elif r < .35 and isinstance(o, list): o.insert(k, deepcopy(o[k]))
        elif r < .5 and isinstance(o[k], (int, float)):
            o[k] = rng.choice([str(o[k]), -o[k], o[k]*1000, o[k]+.5, o[k]/10])
        else: o[k] = deepcopy(rng.choice(ODD))
    return d


@examples(120)
@given(st.integers(0, 2**32), st.booleans())
def test_changed_json_is_read_or_refused(tmp_path_factory, seed, is_coco):
    rng, tmp = random.Random(seed), tmp_path_factory.mktemp('m')
    (tmp/'in').mkdir()
    for n in ('a.jpg', 'b.png'): Image.new('RGB', (6, 4)).save(tmp/'in'/n)
    d = mutated(COCO if is_coco else LABELME, rng)
    text = json.dumps(d, ensure_ascii=rng.random() < .5)
    raw = text.encode(rng.choice(['utf-8', 'utf-8-sig', 'utf-16']), 'surrogatepass')
    f = tmp/'c.json' if is_coco else tmp/'in'/'a.json'
    f.write_bytes(raw[:rng.randrange(len(raw))] if rng.random() < .03 else raw)
    try:
        out = from_coco(f, tmp/'in', tmp/'out', crowd=rng.choice([None, 'Void']),
            boxes=rng.choice(['skip', 'fill'])) if is_coco else from_labelme(tmp/'in', tmp/'out')
    except SegbookError as e:
        assert '\n' not in str(e) and str(e).rstrip().endswith(('.', '...', '?')), str(e)
        assert sorted(o.name for o in tmp.iterdir() if o.suffix != '.json') == ['in']
        return
    found = SegFolder(out)
    assert not found.unmatched_images and not found.unmatched_labels
    for m in map(read_mask, found.labels): assert m.shape == (4, 6) and m.max() < len(found.codes)
    rows = list(csv.reader((out/'left_out.csv').open(encoding='utf-8'))) if (
        out/'left_out.csv').exists() else []
    objects = d['annotations'] if is_coco else d['shapes']
    missing = [r for r in rows if r[0] == 'object' and r[2] != 'wholly behind others']
    assert len(missing) < len(objects) or not objects
