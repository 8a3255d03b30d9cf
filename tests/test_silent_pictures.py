"""Objects, figures and explorers that once showed something else without a word. Oracles: scipy's
labels, counting by hand, the texts and colours of the figures, the contrast of WCAG."""
import base64
import csv
import io
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from data_folders import message
from hypothesis import given, strategies as st
from hypothesis.extra.numpy import arrays
from matplotlib.colors import to_rgb
from matplotlib.text import Text
from PIL import Image
from properties import examples
from scipy import ndimage
from torch import nn

from segbook import report
from segbook.cli.folds import fold_scores
from segbook.cli.objects import ObjectFiles
from segbook.confusion_figure import draw_confusion
from segbook.interpretation import SegInterpretation
from segbook.intervals import compare_on_images
from segbook.masks import show_mask
from segbook.masks.colours import palette
from segbook.metrics import Confusion
from segbook.objects import (
    CocoObjects, coco_ids, object_outlines, objects_table, outline_ious, read_geojson, save_coco,
    save_geojson, separate_objects,
)
from segbook.planning import plan
from segbook.widgets.losses import draw_losses
from segbook.widgets.masks import browser_pair, draw_mask_explorer, mask_explorer, pairs_of
from segbook.widgets.metrics import draw_metrics, scores_of, truths_of
from segbook.widgets.prediction import prediction_explorer
from segbook.widgets.receptive_field import draw_receptive_field

# ---- objects

DIAGONAL = np.pad(np.kron(np.eye(3, dtype=int), np.ones((2, 2), int)), 2)


def check_parted(found, inside):
    pieces, n = ndimage.label(inside)
    assert ((found > 0) == inside).all() and len(np.unique(found[found > 0])) >= n
    for i in range(1, found.max(initial=0) + 1): assert len(np.unique(pieces[found == i])) == 1


@pytest.mark.parametrize('mask,n', [(np.eye(2, dtype=int), 2), (DIAGONAL, 3)])
@pytest.mark.parametrize('by', ['distance', 'probability', 'components'])
def test_pieces_that_meet_at_a_corner_stay_apart(mask, n, by):
    found = separate_objects(mask*.9 if by == 'probability' else mask, by)
    assert found.max() == n
    check_parted(found, mask > 0)


@examples(60)
@given(arrays(bool, st.tuples(st.integers(1, 14), st.integers(1, 14))),
    st.sampled_from(['distance', 'probability']), st.floats(.01, 2))
def test_parting_never_merges_components(inside, by, depth):
    p = np.where(inside, .6 + .4*np.sin(np.arange(inside.size)).reshape(inside.shape)**2, 0)
    check_parted(separate_objects(p if by == 'probability' else inside, by, depth=depth), inside)


# ---- names of images

def test_images_that_are_links_keep_their_names(tmp_path):
    store = tmp_path/'store'/'ab'
    for o in (store, tmp_path/'linked', tmp_path/'out'): o.mkdir(parents=True)
    files = []
    for k in range(2):
        (store/f'3f7c{k}').write_bytes(b'')
        files.append(tmp_path/'linked'/f'patient{k}.png')
        files[-1].symlink_to(store/f'3f7c{k}')
    model = SimpleNamespace(codes=['background', 'cell'], ignore_index=None, model=nn.Identity())
    mask = np.eye(3, dtype=int)
    with ObjectFiles(dict(instances=True, coco=True), model, files, tmp_path/'out') as to:
        for f in files: to.write(f, f.stem, mask, np.stack([1 - mask, mask]))
    with open(tmp_path/'out'/'counts.csv', newline='') as f: rows = list(csv.DictReader(f))
    found = json.loads((tmp_path/'out'/'objects_coco.json').read_text())
    assert [o['image'] for o in rows] == ['patient0.png', 'patient1.png']
    assert [o['file_name'] for o in found['images']] == ['patient0.png', 'patient1.png']


def test_a_doubled_name_of_coco_is_refused(tmp_path):
    made = CocoObjects(['cell']).add('a.png', np.eye(3, dtype=int))
    assert 'a.png was added before' in message(made.add, 'a.png', np.eye(3, dtype=int))
    file = save_coco(tmp_path/'a.json', made.add('b.png', np.eye(2, dtype=int)))
    assert list(coco_ids(file)) == ['a.png', 'b.png']
    for key, said in (('file_name', 'a.png'), ('id', '1')):
        found = json.loads(file.read_text())
        found['images'][1][key] = found['images'][0][key]
        (tmp_path/'b.json').write_text(json.dumps(found))
        assert f'2 images whose {key} is {said}' in message(coco_ids, tmp_path/'b.json')


# ---- GeoJSON and tables

def test_geojson_without_coordinates_and_sizes_that_are_none(tmp_path):
    def read(shape, size=(4, 4)):
        (tmp_path/'a.geojson').write_text(json.dumps([dict(type='Feature', properties={},
            geometry=shape)]))
        return message(read_geojson, tmp_path/'a.geojson', size)
    for kind, points in (('Polygon', []), ('MultiPolygon', []), ('MultiPolygon', [[]])):
        assert 'no coordinates' in read(dict(type=kind, coordinates=points))
    square = dict(type='Polygon', coordinates=[[[0, 0], [2, 0], [2, 2], [0, 0]]])
    for size in (8, (8,), (8, 0), '88', (8., 8)): assert f'size={size!r}' in read(square, size)
    assert 'does not say how large' in read(square, None)


def test_a_table_of_other_objects_is_refused(tmp_path):
    ids = np.diag([1, 2, 3])
    said = message(save_geojson, tmp_path/'a.geojson', ids, objects_table(ids*(ids != 2)))
    assert 'no row for 1 object: 2' in said and not (tmp_path/'a.geojson').exists()
    assert save_geojson(tmp_path/'a.geojson', ids*(ids != 2), objects_table(ids)).exists()


def test_tables_of_no_pixels_and_of_large_numbers():
    for shape in ((0, 5), (0, 0), (3, 3)):
        empty = objects_table(np.zeros(shape, int), 'cell', np.zeros(shape))
        assert len(empty) == 0 and list(empty) == list(objects_table(np.eye(2, dtype=int)))
    ids = np.array([[0, 10**9, 10**9], [7, 0, 0]])
    table = objects_table(ids, {7: 'dust', 10**9: 'cell'}, ids/10**9)
    assert table[['id', 'class', 'area', 'left']].values.tolist() == [[7, 'dust', 1, 0],
        [10**9, 'cell', 2, 1]]
    assert table['mean_probability'].tolist() == [7e-9, 1]
    assert outline_ious(ids, object_outlines(ids)) == {7: 1, 10**9: 1}
    made = CocoObjects(['cell']).add('a.png', ids)
    assert sorted(o['area'] for o in made.annotations) == [1, 2]


# ---- judged images

def judged(K=3, names=None):
    y = np.ones((3, 4, 5), int)
    y[:, 0] = 0
    p = y.copy()
    p[1, 1, :3] = 0
    return SegInterpretation.from_masks((np.zeros((4, 5, 3), np.uint8) for _ in y), y, p,
        names or [f'c{k}' for k in range(K)])


def test_answers_of_void_stand_in_the_report():
    y = np.zeros((1, 20, 1), int)
    y[0, :10] = 1
    p = y.copy()
    p[0, :5] = 2
    images = [np.zeros((20, 1, 3), np.uint8)]
    seen = SegInterpretation.from_masks(images, y, p, ['bg', 'a', 'Void'])
    text = re.sub('<[^>]*>', '|', report._confusion_part(seen))
    cells = [o for o in text.split('|') if o]
    assert cells[-9:] == ['true class', 'bg', 'a', 'Void', 'bg', '100%', 'a', '50%', '50%']
    assert 'a taken for Void: 100% of all wrong pixels' in text and 'Void' in cells
    said = report._error_words(seen, 0)
    assert said.endswith('most missed: a (5 pixels)') and '0 pixels' not in said
    right = SegInterpretation.from_masks(images, y, y, ['bg', 'a', 'Void'])
    assert report._error_words(right, 0).endswith('0% of the labelled pixels wrong')


def drawn_images(fig): return [o for t in fig.findobj(Text) for o in re.findall(r'image \d',
    t.get_text())]


def test_images_to_draw_are_chosen_by_bools_too():
    seen = judged()
    table = seen.per_image
    second = [False, True, False]
    for which in (second, np.array(second), torch.tensor(second), table.mean_iou < 1,
            [np.int64(1)], np.array([1]), np.int64(1), 1, table[table.mean_iou < 1]):
        assert set(drawn_images(seen.plot_errors(which))) == {'image 1'}
    assert set(drawn_images(seen.plot_errors(table[::-1].mean_iou == 1))) == {'image 0', 'image 2'}
    for which, said in (([True, False], '[2] bools'), (True, 'bools'), ([1.5], 'positions'),
            ([3], 'positions'), ([False]*3, 'positions'), ('x', 'positions'), (None, 'positions')):
        assert said in message(seen.plot_errors, which)


# ---- the figure of confusions

def test_numbers_can_be_read_on_their_squares():
    "The contrast of the Web Content Accessibility Guidelines, of each number on what is drawn."
    shares = np.array([[95, 5], [70, 30], [50, 50], [80, 20]])
    m = np.zeros((4, 4), int)
    m[:, :2] = shares
    m[np.arange(4), np.arange(4)] += 1
    for normalize in ('true', 'pred', None):
        fig = draw_confusion(counted_as(m), list('abcd'), normalize)
        ax = fig.axes[0]
        fig.canvas.draw()
        rgb = ax.images[0].to_rgba(ax.images[0].get_array())[..., :3]
        assert len(ax.texts) > 4
        for t in ax.texts:
            j, i = map(int, t.get_position())
            bright = sorted(luminance(o) for o in (rgb[i, j], to_rgb(t.get_color())))
            assert (bright[1] + .05)/(bright[0] + .05) > 4.5


def luminance(rgb):
    return sum(w*(c/12.92 if c <= .04045 else ((c + .055)/1.055)**2.4)
        for w, c in zip((.2126, .7152, .0722), rgb))


def counted_as(m):
    c = Confusion(len(m))
    truth, pred = (np.repeat(o.ravel(), m.ravel()) for o in np.indices(m.shape))
    return c.update(pred[None, None], truth[None, None])


def test_the_figure_of_many_classes_is_bounded():
    for K in (26, 150, 400):
        fig = draw_confusion(counted_as(np.eye(K, dtype=int)), [f'c{k}' for k in range(K)])
        ax, (w, h) = fig.axes[0], fig.get_size_inches()*fig.dpi
        assert max(w, h) < 2200 and not ax.texts
        named = len(ax.get_xticks())
        assert named == K or f'one name in {-(-K//named)}' in ax.get_xlabel()


# ---- explorers

MASK = np.pad(np.ones((6, 6), int), 2)


def legend_of(fig): return {t.get_text() for o in fig.legends + [a.get_legend() for a in fig.axes]
    if o for t in o.get_texts()}


def test_codes_are_read_from_a_file(tmp_path):
    file = tmp_path/'names.txt'
    file.write_text('sky\nroad\n')
    image = np.zeros((10, 10, 3), np.uint8)
    for codes in (file, str(file)):
        assert any('road' in o for o in legend_of(draw_mask_explorer(image, MASK, codes)))
        (_, names, _), = truths_of(MASK, codes)
        assert names == ['sky', 'road']
        assert pairs_of([(image, MASK)], codes)[1] == ['sky', 'road']
        assert 'IoU of road' in {t.get_text() for t in draw_metrics(MASK,
            codes=codes).axes[1].get_yticklabels()}
    for draw in (lambda c: draw_mask_explorer(image, MASK, c), lambda c: draw_metrics(MASK,
            codes=c), lambda c: mask_explorer([(image, MASK)], c), lambda c: show_mask(MASK, c)):
        assert 'ab does not exist' in message(draw, 'ab')


def test_ids_beyond_a_byte_are_refused_by_the_explorers():
    image, codes = np.zeros((10, 10, 3), np.uint8), [f'c{k}' for k in range(300)]
    said = browser_pair('x', image, MASK*256, codes)['error']
    assert 'ids up to 256' in said and 'draw_mask_explorer' in said
    assert 'error' not in browser_pair('x', image, MASK*255, codes)
    seen = SegInterpretation.from_masks([image], [MASK], [MASK], codes)
    assert 'draw_predictions' in message(prediction_explorer, seen)


def test_the_browser_knows_how_an_image_was_thinned():
    large = np.zeros((900, 1800, 3), np.uint8)
    found = browser_pair('x', large, large[..., 0], ['a'])
    sent = Image.open(io.BytesIO(base64.b64decode(found['mask'].split(',')[1])))
    assert found['thinned'] == 3 and sent.size == (600, 300)


def test_an_image_of_another_size_than_the_field():
    net = nn.Conv2d(3, 1, 3, padding=1)
    said = message(draw_receptive_field, net, (16, 20), image=np.zeros((20, 16, 3), np.uint8), n=0)
    assert 'the image is 20x16 and the input 16x20' in said
    assert draw_receptive_field(net, (16, 20), image=np.zeros((16, 20, 3), np.uint8), n=0)


def test_bars_of_scores_have_a_name_each():
    for codes in (['a', 'a'], ['bg', 'a$_$b'], ['bg', '$x$']):
        fig = draw_metrics(MASK, codes=codes)
        fig.canvas.draw()
        ax, want = fig.axes[1], scores_of(MASK, MASK, codes)
        named = [o.get_text() for o in ax.get_yticklabels()]
        assert len(set(named)) == len(named) == len(ax.patches) == len(want)
        assert sum('IoU of' in o for o in named) == 2
    assert 'IoU of a (id 1)' in scores_of(MASK, MASK, ['a', 'a'])


def test_the_truth_of_the_losses_has_two_sides():
    for shape in ((1, 20), (7, 30)):
        truth = np.zeros(shape, int)
        truth[0, :4] = 1
        assert '8 to 96 pixels a side' in message(draw_losses, truth)


# ---- numbers that are asked for

def test_permutations_are_checked_as_resamples_are():
    rng = np.random.default_rng(0)
    a = rng.integers(1, 50, (12, 2, 2))
    true = a.sum(2)
    b = np.stack([true - true//3, true//3], -1)
    for n in (0, 2.5, 99, '1000', -1):
        assert 'n_permutations' in message(lambda n=n: compare_on_images(a, b, n_permutations=n))
    for n in (np.int64(200), 200):
        found = compare_on_images(a, b, n_permutations=n, n_resamples=n)
        assert 0 < found.p_value <= 1


def test_a_plan_takes_the_numbers_of_numpy():
    found = plan._checked_choices(dict(size=np.int64(64), bs=np.int32(4), epochs=np.uint8(2),
        lr=np.float32(.5)))
    assert found == dict(size=(64, 64), bs=4, epochs=2, lr=.5)
    found = plan._checked_choices(dict(size=(np.int64(64), 32)))
    assert json.loads(json.dumps(found)) == dict(size=[64, 32])
    for bad in (np.int64(0), np.bool_(True), np.float64(64)):
        assert 'size=' in message(plan._checked_choices, dict(size=bad))


def test_a_class_called_as_a_score_keeps_its_own_row(tmp_path):
    (tmp_path/'run.json').write_text(json.dumps(dict(mean_iou=.5, pixel_accuracy=.9)))
    (tmp_path/'per_class.csv').write_text('class,iou\naccuracy,0.1\nmean IoU,0.2\nroad,0.3\n')
    assert fold_scores(tmp_path) == {'mean IoU': .5, 'accuracy': .9, 'IoU of accuracy': .1,
        'IoU of mean IoU': .2, 'road': .3}


@pytest.mark.parametrize('codes', [1000, 3000, ['road', 'sky', 'Void', *map(str, range(900))]])
def test_no_two_classes_are_alike(codes):
    found = palette(codes)
    assert len({tuple(o) for o in found.tolist()}) == len(found)


def test_images_of_a_generator_are_judged(): assert len(judged()) == 3
