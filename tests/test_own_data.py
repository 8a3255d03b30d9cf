"""What somebody with photographs of their own hands over by mistake: the error says which tool the
file is of, and what to export or to call in its place. Files are written by hand as the tools write
them; GeoJSON is compared with a loop over the centres of pixels."""
import json

import numpy as np
import pytest
from data_folders import message
from PIL import Image

from segbook.data import from_coco, from_labelme
from segbook.data.annotation_files import tool_of_file, tool_of_json, tool_of_text
from segbook.masks import SegFolder, check_masks
from segbook.objects import read_geojson


@pytest.fixture
def photos(tmp_path):
    "A folder with one photograph, 80 wide and 60 high"
    d = tmp_path/'photos'
    d.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    Image.fromarray(pixels).save(d/'a.png')
    return d


REGION = dict(shape_attributes=dict(name='polygon', all_points_x=[1, 9, 9],
        all_points_y=[1, 1, 9]), region_attributes=dict(type='car'))
VIA = {'a.png123': dict(filename='a.png', size=123, regions=[REGION], file_attributes={})}
VALUE = dict(points=[[10, 10], [50, 10], [50, 50]], polygonlabels=['car'])
JSON_OF = {
    'Label Studio': [[dict(id=1, data=dict(image='/data/upload/a.png'), annotations=[dict(
            result=[dict(type='polygonlabels', value=VALUE)])])],
        [dict(image='/data/upload/a.png', id=1, label=[VALUE], annotator=1, annotation_id=4,
            lead_time=3.2)]],
    'VIA': [VIA, dict(_via_settings={}, _via_img_metadata=VIA)],
    'Supervisely': [dict(description='', tags=[], size=dict(height=60, width=80), objects=[dict(
            classTitle='car', geometryType='polygon', points=dict(exterior=[[1, 1], [9, 1]]))])],
    'GeoJSON': [dict(type='FeatureCollection', features=[]), [dict(type='Feature')]],
}
EVERY = [(k, x) for k, xs in JSON_OF.items() for x in xs]
CVAT = '<?xml version="1.0" encoding="utf-8"?>\n<annotations><version>1.1</version></annotations>'
YOLO = '0 0.1 0.1 0.5 0.1 0.5 0.5\n1 0.2 0.2 0.1 0.1\n'


@pytest.mark.parametrize('tool,found', EVERY)
def test_json_of_another_tool_is_named_with_its_cure(tool, found, photos, tmp_path):
    file = photos/'a.json'
    file.write_text(json.dumps(found))
    cure = 'read_geojson' if tool == 'GeoJSON' else 'Export it there as COCO, for from_coco'
    for text in (message(from_coco, file, photos, tmp_path/'out'),
            message(from_labelme, photos, tmp_path/'out')):
        assert tool in text and cure in text and 'a.json' in text
    assert not (tmp_path/'out').exists()


def test_the_two_that_are_read_are_told_apart(photos, tmp_path):
    file = photos/'a.json'
    file.write_text(json.dumps(dict(shapes=[], imagePath='a.png')))
    assert 'LabelMe: use from_labelme' in message(from_coco, file, photos, tmp_path/'out')
    file.write_text(json.dumps(dict(images=[], annotations=[], categories=[])))
    assert 'COCO: use from_coco' in message(from_labelme, photos, tmp_path/'out')


@pytest.mark.parametrize('name,text,tool,cure', [
    ('a.xml', CVAT, 'XML', '"COCO 1.0"'), ('a.txt', YOLO, 'YOLO', 'COCO')])
def test_text_of_another_tool(name, text, tool, cure, photos, tmp_path):
    (photos/name).write_text(text)
    for said in (message(from_coco, photos/name, photos, tmp_path/'out'),
            message(from_labelme, photos, tmp_path/'out')):
        assert tool in said and cure in said and name in said


@pytest.mark.parametrize('found', [{}, [], None, 3, 'text', [3], [{}], {'a': 1}, {'objects': 3},
    {'a': {'filename': 'x'}}, [dict(image_id=1, category_id=2, segmentation={})]])
def test_what_is_of_no_known_tool(found): assert tool_of_json(found) == ''


@pytest.mark.parametrize('text', ['', 'car\nroad\n', '1\n2\n', '12.5 3 4 5 6', '{"a": 1', '0 1 2'])
def test_text_of_no_known_tool(text): assert tool_of_text(text) == ''


def test_a_file_that_cannot_be_read_is_of_no_tool(tmp_path):
    assert tool_of_file(tmp_path) == tool_of_file(tmp_path/'none') == ''


# ---- GeoJSON as QuPath writes it

def feature(points, name='tumour', kind='Polygon'):
    return dict(type='Feature', id='7b0a', geometry=dict(type=kind, coordinates=[points]),
        properties=dict(objectType='annotation', classification=dict(name=name)))


def written(tmp_path, found):
    (tmp_path/'a.geojson').write_text(json.dumps(found))
    return tmp_path/'a.geojson'


def inside(points, h, w):
    "Whether the centre of each pixel lies in a convex polygon, by its sides"
    p, out = np.array(points, float), np.zeros((h, w), bool)
    for r in range(h):
        for c in range(w):
            sides = [(b[0]-a[0])*(r+.5-a[1]) - (b[1]-a[1])*(c+.5-a[0])
                for a, b in zip(p[:-1], p[1:])]
            out[r, c] = all(s >= 0 for s in sides) or all(s <= 0 for s in sides)
    return out


@pytest.mark.parametrize('as_list', [True, False])
def test_features_with_and_without_a_collection(as_list, tmp_path):
    one = [[1, 1], [9.3, 2], [7, 8.2], [1, 1]]
    two = [[10, 3], [15, 3], [15, 9], [10, 9], [10, 3]]
    found = [feature(one), feature(two, 'stroma')]
    file = written(tmp_path, found if as_list else dict(type='FeatureCollection', features=found))
    ids, told = read_geojson(file, (12, 16))
    assert ((ids == 1) == inside(one, 12, 16)).all() and ((ids == 2) == inside(two, 12, 16)).all()
    assert [told[i]['classification']['name'] for i in (1, 2)] == ['tumour', 'stroma']


def test_a_list_of_something_else_is_no_geojson(tmp_path):
    for found in ([], [3], [dict(type='Point')], [feature([[1, 1], [2, 1], [2, 2]]), 3]):
        assert 'no GeoJSON' in message(read_geojson, written(tmp_path, found), (4, 4))


@pytest.mark.parametrize('scale,part', [(10, 'outside the image of 12x16'),
    (100, 'on an image of 12x16'), (.01, 'fractions of the image')])
def test_outlines_of_another_image_are_refused(scale, part, tmp_path):
    "Coordinates of the full resolution, painted on a small copy, would give an empty mask"
    square = [[2*scale, 1*scale], [9*scale, 1*scale], [9*scale, 9.5*scale], [2*scale, 1*scale]]
    found = dict(type='FeatureCollection', features=[feature(square)])
    assert 'feature 0' in (text := message(read_geojson, written(tmp_path, found), (12, 16)))
    assert part in text and '..' not in text


# ---- photographs and nothing else

def test_a_folder_of_photographs_is_told_what_is_missing(photos):
    text = message(check_masks, photos)
    assert "no folder 'images'" in text and '1 image' in text and 'from_labelme' in text
    (photos/'a.json').write_text('{}')
    assert '1 image and annotations' in message(SegFolder, photos)


def test_an_empty_folder_is_not_told_about_tools(tmp_path):
    assert 'from_labelme' not in message(check_masks, tmp_path)


# ---- photographs are JPEG files, and not all of them are large

@pytest.mark.parametrize('side', [40, 64, 100, 128, 300])
def test_near_twins_among_jpeg_photographs(side, tmp_path):
    "A copy that went through a messenger is found at any size of the pictures"
    for d in ('images', 'labels'): (tmp_path/d).mkdir()
    (tmp_path/'codes.txt').write_text('wall\nroof\n')
    rng = np.random.default_rng(0)
    for i in range(4):
        grain = Image.fromarray(rng.integers(0, 256, (5, 6, 3), np.uint8))
        photo = grain.resize((side + side//8, side), Image.BICUBIC)
        photo.save(tmp_path/'images'/f'{i}.jpg', quality=92)
        mask = Image.fromarray((np.arange(photo.size[0])*np.ones((side, 1)) > side/2).astype('u1'))
        mask.save(tmp_path/'labels'/f'{i}.png')
    photo.point(lambda v: v*.9).save(tmp_path/'images'/'copy.jpg', quality=75)
    mask.save(tmp_path/'labels'/'copy.png')
    found = [p for p in check_masks(tmp_path, progress=False).problems if p.kind == 'near twins']
    assert [sorted(f.name for f in p.files) for p in found] == [['3.jpg', 'copy.jpg']]
