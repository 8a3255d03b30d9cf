"""What SegInterpretation says of images, against scikit-learn, SciPy and plain loops; and that it
forgets each image before it looks at the next."""
import tracemalloc
import weakref

import numpy as np
import pytest
import torch
from scipy.stats import entropy
from sklearn.metrics import confusion_matrix, jaccard_score

from segbook.all import SegInterpretation as FromAll
from segbook.data import make_scenes, seg_dataloaders
from segbook.errors import SegbookError
from segbook.export import load_segmenter, save_segmenter
from segbook.image_counts import ImageCounts
from segbook.inference import predict_image, predict_tta
from segbook.interpretation import SegInterpretation, evaluate
from segbook.judged_images import JudgedImages
from segbook.learner import seg_learner
from segbook.masks import SegFolder, read_mask
from segbook.metrics import boundary_f1
from segbook.results import WRONG_COLOUR

CODES = ['road', 'car', 'pole', 'tram', 'Void']
VOID = 4


def blocks(rng, n_classes, size):
    "A mask of rectangles"
    y = rng.integers(0, n_classes, (-(-size[0]//5), -(-size[1]//7)))
    return np.kron(y, np.ones((5, 7), int))[:size[0], :size[1]]


def some_masks(n=6, seed=0):
    "Images of different sizes, truths with Void and without trams, predictions without Void"
    rng = np.random.default_rng(seed)
    sizes = [(23 + 4*i, 31 - i) for i in range(n)]
    truths = [np.choose(blocks(rng, 4, s), [0, 1, 2, VOID]) for s in sizes]
    answers = [np.where(rng.random(y.shape) < .2, rng.integers(0, 4, y.shape), y % 4)
        for y in truths]
    return [np.zeros((*s, 3), np.uint8) for s in sizes], truths, answers


@pytest.fixture(scope='module')
def masks(): return some_masks()


@pytest.fixture(scope='module')
def judged(masks): return SegInterpretation.from_masks(*masks, CODES)


def test_it_is_in_all(): assert FromAll is SegInterpretation


def test_scores_are_those_of_scikit_learn(masks, judged):
    _, truths, answers = masks
    y, p = (np.concatenate([o[t != VOID] for o, t in zip(of, truths)]) for of in (truths, answers))
    assert (judged.confusion.matrix.numpy() == confusion_matrix(y, p, labels=range(5))).all()
    table = judged.per_image
    assert list(table) == ['file', 'mean_iou', 'pixel_accuracy', 'boundary_f1', 'void_share',
        *[f'iou_{c}' for c in CODES[:4]]]
    for i, (t, a) in enumerate(zip(truths, answers)):
        named = t != VOID
        seen = sorted({*t[named], *a[named]})
        iou = jaccard_score(t[named], a[named], labels=seen, average=None)
        row = table.loc[i]
        assert np.allclose([row[f'iou_{CODES[k]}'] for k in seen], iou)
        assert np.isclose(row.mean_iou, iou.mean())
        assert np.isclose(row.pixel_accuracy, (t == a)[named].mean())
        assert np.isclose(row.void_share, 1 - named.mean())
        f1 = boundary_f1(torch.tensor(a), torch.tensor(t), 5, VOID).nanmean().item()
        assert np.isclose(row.boundary_f1, f1)


def test_errors_near_borders_by_a_loop(masks, judged):
    _, truths, answers = masks
    table = judged.boundary_errors((0, 2, 5))
    for d in (0, 2, 5):
        near = wrong = errors = pixels = 0
        for t, a in zip(truths, answers):
            h, w = t.shape
            edge = [(i, j) for i in range(h) for j in range(w) if t[i, j] != VOID and any(
                0 <= u < h and 0 <= v < w and t[u, v] not in (VOID, t[i, j])
                for u, v in ((i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)))]
            ys, xs = np.mgrid[:h, :w]
            far = np.sqrt(np.min([(ys - i)**2 + (xs - j)**2 for i, j in edge], 0))
            named, bad = t != VOID, (t != a) & (t != VOID)
            near, wrong = near + (named & (far <= d)).sum(), wrong + (bad & (far <= d)).sum()
            errors, pixels = errors + bad.sum(), pixels + named.sum()
        assert np.allclose(table.loc[d], [wrong/errors, near/pixels, wrong/near])


def test_worst_first_and_only_void_not_at_all():
    y = np.array([[0, 0, 1, 1, 1, 1]])
    truths = [y, np.full((1, 6), VOID), y, y, np.array([[0, 0, 0, 2, 2, 2]])]
    answers = [y, y, 0*y, np.array([[1, 0, 1, 1, 1, 1]]), np.array([[0, 0, 0, 0, 1, 1]])]
    i = SegInterpretation.from_masks([np.zeros((1, 6, 3), np.uint8)]*5, truths, answers, CODES,
        names=list('abcde'))
    # by hand: c has IoU 1/3 and 0; e 3/4, 0 and 0; d 1/2 and 4/5; a is right
    assert list(i.worst(None).file) == ['c', 'e', 'd', 'a']
    assert np.allclose(i.worst(2).mean_iou, [1/6, 1/4])
    # cars: c misses 4 and e invents 2, both 0; d 4/5, a 1; b says nothing
    cars = i.worst_for('Car', None)
    assert list(cars.file) == ['c', 'e', 'd', 'a'] and list(cars.wrong_pixels) == [4, 2, 1, 0]
    assert i.worst_for(2).file.tolist() == ['e']
    assert i.per_image.mean_iou.isna().tolist() == [False, True, False, False, False]
    for cls, said in (('Void', 'ignored'), ('bus', 'No class'), (9, '9')):
        with pytest.raises(SegbookError, match=said): i.worst_for(cls)


# ---- one image at a time

class Stream:
    "Images that are made when they are asked for, and counted while they live"
    def __init__(self, n):
        self.n, self.alive, self.most = n, weakref.WeakSet(), 0
        self.rng = np.random.default_rng(0)

    def mask(self, i):
        class Mask(np.ndarray): pass  # an array that can be watched
        m = np.kron(self.rng.integers(0, 4, (3, 3)), np.ones((20, 20), int)).view(Mask)
        self.alive.add(Held(m))
        self.most = max(self.most, len(self.alive))
        return m

    def judged(self):
        images = [None]*self.n
        return JudgedImages(CODES, images, self.mask, self.mask, [f'{i}' for i in range(self.n)])


class Held:
    "Lives as long as its array does"
    def __init__(self, array): array.held = self


def peak_and_most(n):
    stream = Stream(n)
    tracemalloc.start()
    i = SegInterpretation(stream.judged(), progress=False)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(i) == n
    return peak, stream.most


def test_memory_does_not_grow_with_the_images():
    peak_and_most(5)
    (few, alive), (many, still) = peak_and_most(100), peak_and_most(400)
    pixels = 300*60*60*8  # 9 MB: what one mask of each further image would take
    assert many - few < pixels/8, (few, many)
    assert alive == still <= 2, 'an image is kept longer than it is looked at'
    kept = ImageCounts(np.zeros((3, 5), int), 0, 0., np.zeros((2, 66), int))
    assert kept.regions.nbytes + kept.by_distance.nbytes < 1200


def test_the_memory_test_sees_what_is_kept():
    stream, kept = Stream(50), []
    for i in range(50): kept.append(stream.mask(i))
    assert stream.most == 50


# ---- networks and folders

@pytest.fixture(scope='module')
def learner(tmp_path_factory):
    path = make_scenes(tmp_path_factory.mktemp('scenes')/'s', n=10, size=(40, 56), seed=2)
    lone = path/'images'/'without_mask.png'
    lone.write_bytes(sorted((path/'images').iterdir())[0].read_bytes())
    dls = seg_dataloaders(path, bs=2, seed=1, device='cpu')
    return seg_learner(dls, 'dynamic_unet', 'mobilenetv3_small_050', pretrained=False, seed=1)


def test_a_learner_is_judged_at_the_images_own_size(learner):
    i = SegInterpretation.from_learner(learner)
    folder, total = SegFolder(learner.dls.path), 0
    for f in learner.dls.valid_ds.items:
        y, p = read_mask(folder.label_of(f)), predict_image(learner, f).numpy()
        named = y != 11
        total = total + confusion_matrix(y[named], p[named], labels=range(12))
    assert (i.confusion.matrix.numpy() == total).all()
    assert i.per_image.file.tolist() == [f.name for f in learner.dls.valid_ds.items]
    # not resized, so the batches of the training have the same pixels; they may answer Void
    counts, _ = evaluate(learner)
    assert int(counts.matrix.sum()) == total.sum()
    assert 'mean IoU 0.' in repr(i) and '2 images' in repr(i)
    on_train = SegInterpretation.from_learner(learner, learner.dls.train)
    assert len(on_train) == 8


def test_resized_training_is_judged_at_full_size(learner):
    small = seg_dataloaders(learner.dls.path, bs=2, size=(24, 32), seed=1, device='cpu')
    learn = seg_learner(small, 'dynamic_unet', 'mobilenetv3_small_050', pretrained=False, seed=1)
    i = SegInterpretation.from_learner(learn)
    counted = int(sum(o.regions[2].sum() + o.void for o in i.counts))
    assert counted == 2*40*56, 'the score is not that of the masks as they were drawn'


def test_a_loaded_segmenter_with_a_folder(learner, tmp_path, capsys):
    segmenter = load_segmenter(save_segmenter(learner, tmp_path/'model'))
    i = SegInterpretation.from_folder(segmenter, learner.dls.path)
    same = SegInterpretation.from_learner(learner)
    assert (i.confusion.matrix == same.confusion.matrix).all()
    everything = SegInterpretation.from_folder(segmenter,
        make_scenes(tmp_path/'new', n=3, size=(40, 56), seed=3)) # has a valid.txt
    assert len(everything) < 3
    (tmp_path/'new'/'valid.txt').unlink()
    assert len(SegInterpretation.from_folder(segmenter, tmp_path/'new')) == 3
    assert 'names no validation images' in capsys.readouterr().out
    with pytest.raises(SegbookError, match='differ in'):
        SegInterpretation.from_folder(segmenter,
            SegFolder(tmp_path/'new', codes=list('abcdefghijkl')))


def test_what_to_label_next(learner, capsys):
    i = SegInterpretation.from_learner(learner)
    assert i.label_next().file.tolist() == ['without_mask.png']
    files = list(learner.dls.train_ds.items)
    broken = files[0].parent.parent/'broken.png'
    broken.write_bytes(b'nothing')
    table = i.label_next(3, [*files, broken])
    assert 'broken.png' in capsys.readouterr().out
    want = [entropy(predict_tta(learner, f, None).double().numpy(), axis=0).mean() for f in files]
    order = np.argsort(want)[::-1][:3]
    assert table.index.tolist() == order.tolist()
    assert np.allclose(table.mean_entropy, np.array(want)[order], atol=1e-5)
    with pytest.raises(SegbookError, match='label_next'): i.label_next(images=[])


# ---- pictures

def test_red_where_it_is_wrong(masks, judged):
    fig = judged.plot_errors([3, 1])
    rows = np.array(fig.axes).reshape(2, 4)
    for axs, k in zip(rows, (3, 1)):
        t, a = masks[1][k], masks[2][k]
        red = (np.asarray(axs[3].images[0].get_array()) == WRONG_COLOUR).all(-1)
        assert (red == ((t != a) & (t != VOID))).all()
        assert axs[0].get_xlabel() == f'image {k}'
        assert f'{judged.per_image.mean_iou[k]:.2f}' in axs[0].get_ylabel()
    words = [t.get_text() for t in fig.legends[0].get_texts()]
    assert 'wrong' in words and 'Void (not counted)' in words
    worst = judged.plot_errors(2, 'pole').axes
    assert worst[0].get_xlabel() == judged.worst_for('pole', 1).file.iloc[0]
    assert worst[0].get_ylabel().startswith('IoU of pole')


def test_a_large_image_is_drawn_small_and_told_exactly():
    y = np.zeros((10, 2500), int)
    p = y.copy()
    p[0, 1::3] = 1  # none of them among the pixels that are drawn
    fig = SegInterpretation.from_masks([np.zeros((10, 2500), np.uint8)], [y], [p],
        ['a', 'b']).plot_errors([0])
    assert fig.axes[1].images[0].get_array().shape[1] <= 1000
    assert fig.axes[3].get_xlabel() == '3% of the pixels wrong'


@pytest.mark.parametrize('rows', [[], [6], [-1], 0])
def test_images_that_are_not_there(judged, rows):
    with pytest.raises(SegbookError, match='positions from 0 to 5'): judged.plot_errors(rows)


def test_confusion_has_names_and_no_void(judged):
    ax = judged.plot_confusion().axes[0]
    assert [t.get_text() for t in ax.get_yticklabels()] == CODES[:4]
    assert 'Void is left out' in ax.get_title()
    m = judged.confusion.matrix.numpy()[:4, :4]
    shown = {tuple(map(int, t.get_position()))[::-1]: t.get_text() for t in ax.texts}
    want = {(i, j): f'{100*m[i, j]/m[i].sum():.0f}' for i in range(4) for j in range(4)
        if m[i].sum() and m[i, j]/m[i].sum() >= .005}
    assert shown == want
    assert len(ax.patches) == 4, 'no true tram: its row is hatched'


# ---- bad input

def test_the_image_is_named(masks):
    images, truths, answers = (list(o) for o in masks)
    answers[2] = answers[2][1:]
    with pytest.raises(SegbookError, match='image 2: the prediction'):
        SegInterpretation.from_masks(images, truths, answers, CODES)
    answers[2] = truths[2]*0 + 7
    with pytest.raises(SegbookError, match='image 2: .*id 7'):
        SegInterpretation.from_masks(images, truths, answers, CODES)
