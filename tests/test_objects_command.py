"""segbook_predict --instances: what is written, what is refused, and that nothing is lost; with a
small network whose answers are known."""
import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image
from test_model_folder import Learnt
from torch import nn

from segbook import export
from segbook.cli import objects as room, segbook_predict
from segbook.export import save_segmenter
from segbook.objects import coco_ids, read_geojson

CODES = ['background', 'cell', 'dust', 'Void']


class Levels(nn.Module):
    "Black is class 0, the middle class 1, white class 2: by the distance to three levels."
    def __init__(self, n_classes=4, in_channels=3):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0., .5, 1., 9.])[:n_classes])
    def forward(self, x):
        return -40*(x.mean(1, keepdim=True) - self.weight[None, :, None, None]).abs()


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(export, 'seg_model', lambda arch, n, encoder, channels, **kw: Levels(n,
            channels))

def saved(path, codes=CODES, void=3):
    learn = Learnt(codes=codes, n_classes=len(codes), ignore_index=void, mean=[0.]*3, std=[1.]*3)
    learn.model = Levels(len(codes))
    return save_segmenter(learn, path)

@pytest.fixture
def model(tmp_path): return saved(tmp_path/'model')

@pytest.fixture
def photos(tmp_path):
    "Two cells that touch and a speck of dust; nothing at all."
    folder = tmp_path/'photos'
    (folder/'more').mkdir(parents=True)
    y, x = np.mgrid[:30, :40]
    a = np.zeros((30, 40, 3), np.uint8)
    a[(np.hypot(y - 15, x - 10) < 8) | (np.hypot(y - 15, x - 23) < 8)] = 128
    a[2:4, 35:38] = 255
    Image.fromarray(a).save(folder/'a.png')
    Image.fromarray(a*0).save(folder/'more'/'b.png')
    return [folder/'a.png', folder/'more'/'b.png']

def predict(*args): return segbook_predict([str(o) for o in args])
def names(path): return sorted(o.name for o in path.iterdir())
def rows(file): return list(csv.DictReader(file.read_text().splitlines()))


def test_files_of_two_classes(model, photos, tmp_path, capsys):
    out = tmp_path/'out'
    assert predict(model, *photos, '--out', out, '--instances', '--object-class', 'cell',
        '--object-class', 'dust', '--geojson', '--coco', '--spacing', '0.5,0.25') == 0
    said = capsys.readouterr().out
    assert '2 objects of cell, 1 object of dust' in said
    assert 'no objects of cell, no objects of dust' in said
    assert names(out) == sorted(['counts.csv', 'objects_coco.json'] + [f'{o}_{k}' for o in 'ab'
            for k in ('mask.png', 'overlay.png', 'instances.png', 'objects.csv',
                'objects.geojson')])
    ids = np.asarray(Image.open(out/'a_instances.png'))
    mask = np.asarray(Image.open(out/'a_mask.png'))
    assert ids.dtype == np.uint16 and ((ids > 0) == (mask > 0)).all()
    table = rows(out/'a_objects.csv')
    assert [o['class'] for o in table] == ['cell', 'cell', 'dust']
    assert [int(o['area']) for o in table] == [int((ids == i).sum()) for i in (1, 2, 3)]
    assert (table[2]['left'], table[2]['top'], table[2]['width'], table[2]['height']) == (
        '35', '2', '3', '2')
    assert table[2]['area_mm2'] == '0.75' and table[2]['perimeter_mm'] == ''
    assert all(float(o['mean_probability']) > .9 for o in table)
    assert (read_geojson(out/'a_objects.geojson')[0] == ids).all()
    back = coco_ids(out/'objects_coco.json')
    assert (back['a.png'] == ids).all() and not back['more/b.png'].any()
    counts = rows(out/'counts.csv')
    assert [(o['image'], o['class'], o['objects']) for o in counts] == [('a.png', 'cell', '2'),
        ('a.png', 'dust', '1'), ('more/b.png', 'cell', '0'), ('more/b.png', 'dust', '0')]

@pytest.mark.parametrize('flag', ['--instances', '--geojson', '--coco'])
def test_the_class_has_to_be_clear(model, photos, tmp_path, capsys, flag):
    assert predict(model, photos[0], '--out', tmp_path/'out', flag) == 2
    said = capsys.readouterr().err
    assert 'background, cell, dust; objects of which?' in said and '--object-class' in said
    assert not (tmp_path/'out').exists()

def test_two_classes_need_no_name(photos, tmp_path):
    two = saved(tmp_path/'two', ['no', 'cell'], None)
    out = tmp_path/'out'
    assert predict(two, photos[0], '--out', out, '--instances', '--min-area', 7) == 0
    assert [o['class'] for o in rows(out/'a_objects.csv')] == ['cell', 'cell']

def test_pieces_stay_whole_where_that_is_asked_for(model, photos, tmp_path):
    out = tmp_path/'out'
    assert predict(model, photos[0], '--out', out, '--instances', '--object-class', 'cell',
        '--separate', 'components') == 0
    assert len(rows(out/'a_objects.csv')) == 1

@pytest.mark.parametrize('args,says', [(['--object-class', 'cel', '--instances'], "mean 'cell'"),
    (['--object-class', 'Void', '--instances'], "nobody's class"),
    (['--min-area', '3'], 'none are asked for'), (['--simplify', '1'], 'none are asked for'),
    (['--instances', '--min-area', 'x'], 'whole number of pixels'),
    (['--instances', '--spacing', '0'], 'above 0'), (['--instances', '--simplify', '-1'], 'above'),
    (['--instances', '--spacing', '1,2,3'], 'HEIGHT,WIDTH'),
    (['--instances', '--separate', 'colour'], 'invalid choice')])
def test_refused_before_any_work(model, photos, tmp_path, capsys, args, says):
    assert predict(model, photos[0], '--out', tmp_path/'out', *args) == 2
    assert says in capsys.readouterr().err and not (tmp_path/'out').exists()

@pytest.mark.parametrize('there', ['a_instances.tif', 'a_objects.csv', 'counts.csv',
    'objects_coco.json', 'a_objects.geojson'])
def test_nothing_is_overwritten_unasked(model, photos, tmp_path, capsys, there):
    out = tmp_path/'out'
    out.mkdir()
    (out/there).write_text('mine')
    args = (model, photos[0], '--out', out, '--object-class', 'cell', '--geojson', '--coco')
    assert predict(*args) == 2 and names(out) == [there]
    assert 'nothing is overwritten' in capsys.readouterr().err
    assert predict(*args, '--overwrite') == 0
    assert not (out/'a_instances.tif').exists() and 'a_instances.png' in names(out)

def test_an_object_file_that_fails_loses_nothing_else(model, photos, tmp_path, capsys, monkeypatch):
    "The second image's objects cannot be written: all masks and the first one's objects are there."
    real = room.write_ids
    monkeypatch.setattr(room, 'write_ids', lambda ids, file: real(ids, file) if ids.any() else 1/0)
    out = tmp_path/'out'
    assert predict(model, *photos, '--out', out, '--object-class', 'cell', '--coco') == 1
    assert 'the mask of b.png is written, its objects are not' in capsys.readouterr().err
    assert (out/'b_mask.png').exists() and [o['image'] for o in rows(out/'counts.csv')] == ['a.png']
    assert len(json.loads((out/'objects_coco.json').read_text())['images']) == 1

def test_without_the_flag_nothing_changes(model, photos, tmp_path):
    assert predict(model, photos[0], '--out', tmp_path/'out') == 0
    assert names(tmp_path/'out') == ['a_mask.png', 'a_overlay.png']
