"Importing annotations: COCO and LabelMe, by hand-computed masks, and what is said of bad files."
import json

import numpy as np
import pytest
from data_folders import coco, message

from segbook.data import from_coco, from_labelme
from segbook.masks import SegFolder, read_mask


SMALL = dict(id=1, image_id=1, category_id=5, area=2, segmentation=[[1, 1, 3, 1, 3, 2, 1, 2]])
LARGE = dict(id=2, image_id=1, category_id=2, area=16, segmentation=[[0, 0, 4, 0, 4, 4, 0, 4]])


def test_coco_by_hand(photos, tmp_path):
    twice = dict(id=3, image_id=2, category_id=5, area=2,
        segmentation=[[0, 0, 1, 0, 1, 1, 0, 1], [5, 3, 6, 3, 6, 4, 5, 4]])
    crowd = dict(id=4, image_id=2, category_id=5, area=4, iscrowd=1,
        segmentation=dict(size=[4, 6], counts=[5, 2, 17]))
    f = SegFolder(from_coco(coco(tmp_path/'c.json', [SMALL, LARGE, twice, crowd]), photos,
            tmp_path/'out', crowd='Void'))
    assert f.codes == ['background', 'dog', 'cat',
        'Void'] and f.ignore_index == 3 and [o.name for o in f.images] == ['a.jpg', 'b.png']
    assert read_mask(f.labels[0]).tolist() == [[1, 1, 1, 1, 0, 0], [1, 2, 2, 1, 0, 0],
        [1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 0, 0]]
    assert read_mask(f.labels[1]).tolist() == [[2, 0, 0, 0, 0, 0], [0, 3, 0, 0, 0, 0],
        [0, 3, 0, 0, 0, 0], [0, 0, 0, 0, 0, 2]]


def test_compressed_run_length_code(photos, tmp_path):
    m = np.zeros((4, 6), np.uint8)
    m[1:3, 2] = 1
    ann = dict(SMALL, segmentation=dict(size=[4, 6], counts='92='))  # 9, 2 and 13 by hand
    assert (read_mask(SegFolder(from_coco(coco(tmp_path/'c.json', [ann]), photos,
                tmp_path/'out')).labels[0]) == 2*m).all()
    mask = pytest.importorskip('pycocotools.mask')
    assert mask.encode(np.asfortranarray(m))['counts'].decode() == '92='


@pytest.mark.parametrize('anns,kw,parts',
    [([dict(id=9, image_id=1, category_id=5, bbox=[0, 0, 2, 2])], {},
            ['a.jpg, annotation 9', 'boxes alone']),
        ([dict(SMALL, segmentation=[[1, 1, 2, 2]])], {}, ['annotation 1', 'polygon of 2 points']),
        ([dict(SMALL, category_id=77)], {}, ['category 77']),
        ([dict(SMALL, segmentation=dict(size=[4, 6], counts=[5, 2]))], {}, ['7 pixels', '4x6']),
        ([], dict(images=[dict(id=1, file_name='z.jpg', width=6, height=4)]), ['z.jpg is not in']),
        ([], dict(images=[dict(id=1, file_name='a.jpg', width=60, height=40)]),
            ['is 4x6, the annotations say 40x60']),
        ([], dict(categories=None, images=None), ['a.json'])])
def test_bad_coco(photos, tmp_path, anns, kw, parts):
    f = coco(tmp_path/'a.json', anns, **kw)
    if kw.get('images', 0) is None: f.write_text('[]')
    m = message(from_coco, f, photos, tmp_path/'out')
    assert all(o in m for o in parts) and not (tmp_path/'out').exists(), m


def labelme(folder, name, shapes):
    (folder/f'{name[0]}.json').write_text(json.dumps(dict(version='5', imagePath=name,
                shapes=shapes)))


def test_labelme_by_hand(photos, tmp_path):
    box = dict(label='wall', shape_type='rectangle', points=[[6, 4], [0, 1]])
    tri = dict(label='door', shape_type='polygon', points=[[4.2, 0], [6, 0], [6, 4]])
    dot = dict(label='Void', shape_type='circle', points=[[1, 2], [1.8, 2]])
    labelme(photos, 'a.jpg', [box, tri, dot])
    labelme(photos, 'b.png', [])
    f = SegFolder(from_labelme(photos, tmp_path/'out'))
    assert f.codes == ['background', 'Void', 'door', 'wall'] and f.ignore_index == 1
    assert read_mask(f.labels[0]).tolist() == [[0, 0, 0, 0, 2, 2], [1, 1, 3, 3, 3, 2],
        [1, 1, 3, 3, 3, 2], [3, 3, 3, 3, 3, 3]]
    assert read_mask(f.labels[1]).max() == 0


@pytest.mark.parametrize('shapes,parts',
    [([dict(label='x', shape_type='line', points=[[0, 0], [1, 1]])],
            ['a.json', "'line'", 'Draw it as a polygon']),
        ([dict(label='x', points=[[0, 0], [1, 1]])], ['a.json', "'x'", '2 points'])])
def test_bad_labelme(photos, tmp_path, shapes, parts):
    labelme(photos, 'a.jpg', shapes)
    m = message(from_labelme, photos, tmp_path/'out')
    assert all(o in m for o in parts) and not (tmp_path/'out').exists()


def test_annotations_elsewhere(photos, tmp_path):
    assert 'No .json file' in message(from_labelme, photos, tmp_path/'out')
    labelme(photos, 'c.jpg', [])
    assert 'annotates c.jpg' in message(from_labelme, photos, tmp_path/'out')
    (tmp_path/'full').mkdir()
    (tmp_path/'full'/'x').write_text('')
    assert 'not an empty folder' in message(from_labelme, photos, tmp_path/'full')
    (photos/'c.json').unlink()
    labelme(photos, 'a.jpg', [dict(label='bus', points=[[0, 0], [3, 0], [3, 3]])])
    assert "'bus', which codes does not have" in message(from_labelme, photos, tmp_path/'out',
        codes=['background', 'wall'])
