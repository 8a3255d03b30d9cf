"""What the Python library once answered wrong without a word: each is right, refused, or told."""
import numpy as np
import pytest
import torch
from data_folders import folder, message
from fastai.vision.all import Resize, ResizeMethod, Transform

from segbook.architectures.boxes import Instances
from segbook.calibration import calibrate
from segbook.callbacks import History, KeepBest, best_epoch
from segbook.data import mild_tfms, seg_dataloaders
from segbook.ensembles import Ensemble
from segbook.export import load_segmenter, save_segmenter
from segbook.inference import predict_image, predict_tiled, predict_tta, prepared_image
from segbook.learner import seg_learner, train_segmenter
from segbook.losses import FocalLoss, LovaszLoss, class_weights
from segbook.masks import SegbookError
from segbook.metrics import (
    AveragePrecision, BoundaryF1, Confusion, MeanDice, MeanIoU, PixelAccuracy,
)
from segbook.planning import plan_training
from segbook.thresholds import ThresholdCounter


@pytest.fixture(scope='module')
def data(tmp_path_factory): return folder(tmp_path_factory.mktemp('data')/'d', n=6, size=(32, 48))


def loaders(data, **kw):
    return seg_dataloaders(data, bs=2, seed=1, device='cpu', num_workers=0, **{
        'batch_tfms': None, **kw})


def learner(data, dls=None, **kw):
    return seg_learner(loaders(data) if dls is None else dls, encoder='resnet18', pretrained=False,
        **kw)


# ---- transforms of others

class Swap(Transform):
    "Ids 0 and 1 change places"
    order = 1
    def encodes(self, x):
        from fastai.vision.all import PILMask
        if not isinstance(x, PILMask): return x
        m = np.array(x)
        return PILMask.create(np.choose(np.minimum(m, 2), [1, 0, 2]).astype(np.uint8))


def test_class_weights_count_what_the_batches_hold(tmp_path):
    def mask(i): return np.fromfunction(lambda r, c: (c > 40) + (r < 2)*(c <= 40)*2, (32, 48)
        ).astype(np.uint8)
    data = folder(tmp_path/'d', n=6, size=(32, 48), mask=mask)
    plain, swapped = loaders(data), loaders(data, item_tfms=Swap())
    counted = torch.stack([torch.bincount(m.flatten(), minlength=3) for *_, y in
        swapped.train.new(shuffle=False, drop_last=False) for m in y.as_subclass(torch.Tensor)])
    w, n = class_weights(swapped), counted.sum(0)
    assert w[2] == 0 and n[0] < n[1] and w[0] > 1.5*w[1]
    assert torch.allclose(class_weights(plain)[[1, 0]], w[:2])


@pytest.mark.parametrize('kw', [dict(item_tfms=Resize((16, 24), method=ResizeMethod.Squish)),
    dict(batch_tfms=mild_tfms(size=(16, 24)))])
def test_the_size_of_the_training_is_known_whoever_resized(data, kw, capsys):
    learn = learner(data, loaders(data, **kw))
    assert learn.segmenter['size'] == (16, 24)
    assert prepared_image(learn, learn.dls.valid_ds.items[0])[0].shape[-2:] == (16, 24)
    assert 'resize images of 32x48 to 16x24' in capsys.readouterr().out


@pytest.mark.parametrize('kw', [{}, dict(size=(16, 24)), dict(size=16, crops='random')])
def test_nothing_is_said_where_nobody_resized(data, kw, capsys):
    learn = learner(data, loaders(data, **kw))
    assert learn.segmenter['size'] == (None if 'crops' in kw else kw.get('size'))
    assert 'resize' not in capsys.readouterr().out


# ---- which epoch is best, and what may be resumed

@pytest.mark.parametrize('name,best', [('hausdorff95', 1), ('hausdorff95_Pole', 1),
    ('valid_loss', 1), ('dice_loss', 1), ('error_rate', 1), ('mean_iou', 0), ('lossless', 0)])
def test_errors_are_best_where_they_are_low(name, best):
    assert best_epoch([3., 1.], name) == best
    rows = History([[1, 5.], [1, 2.]], ['train_loss', name])
    assert rows.best_epoch(name) == best


def test_a_column_that_is_not_there_cannot_be_watched(data):
    learn = learner(data, keep_best=False, cbs=KeepBest('mean_dise'))
    with learn.no_bar(), learn.no_logging(), pytest.raises(SegbookError, match='mean_dise'):
        learn.fit(1)


@pytest.mark.parametrize('change,part', [(dict(metrics=[MeanIoU(), PixelAccuracy()]), 'columns'),
    (dict(metrics=[PixelAccuracy()]), 'columns'), (dict(loss=FocalLoss(gamma=0, ignore_index=2)),
    'gamma'), (dict(wd=.5), 'wd')])
def test_another_run_is_not_resumed(data, tmp_path, change, part):
    from fastai.callback.core import CancelFitException, Callback
    class Stop(Callback):
        order = 99
        def after_epoch(self):
            raise CancelFitException
    how = dict(metrics=[PixelAccuracy(), MeanIoU(), MeanDice()],
        loss=FocalLoss(gamma=2, ignore_index=2))
    def run(resume, **kw):
        learn = learner(data, **{**how, **kw})
        with learn.no_bar(), learn.no_logging():
            return train_segmenter(learn, 2, 1e-3, folder=tmp_path, resume=resume,
                cbs=[] if resume else [Stop()])
    run(False)
    assert part in message(run, True, **change)
    assert len(run(True)) == 2


# ---- Void

def test_void_is_never_decoded(data):
    learn = learner(data)
    p = torch.rand(2, 3, 5, 6).softmax(1)
    p[:, 2] += 1
    assert torch.equal(learn.loss_func.decodes(p), p[:, :2].argmax(1))
    mask = learn.predict(learn.dls.valid_ds.items[0])[0]
    assert mask.max() < 2


# ---- ensembles

def test_members_of_several_sizes(data, tmp_path):
    a, b = (learner(data, loaders(data, size=o)) for o in ((16, 24), (24, 32)))
    for o, name in ((a, 'a'), (b, 'b')): save_segmenter(o, tmp_path/name)
    both, file = load_segmenter([tmp_path/'a', tmp_path/'b']), a.dls.valid_ds.items[0]
    mean = sum(predict_image(load_segmenter(tmp_path/o), file, probabilities=True) for o in
        'ab')/2
    assert torch.allclose(predict_image(both, file, probabilities=True), mean, atol=1e-5)
    assert 'different sizes' in message(predict_tiled, both, file, 16)
    for kw in (dict(turns=True), dict(scales=(.5, 1))):
        assert 'different sizes' in message(predict_tta, both, file, **kw)
    assert predict_tta(both, file).shape == (3, 32, 48)
    twice = Ensemble([a, load_segmenter(tmp_path/'a')])
    alone, again = (predict_tta(o, file, scales=(.5, 1)) for o in (a, twice))
    assert 'sizes' not in twice.segmenter and torch.allclose(alone, again, atol=1e-5)


# ---- metrics

def one_finding():
    truth = torch.zeros(1, 10, 10, dtype=torch.long)
    truth[0, :, :4] = 1
    masks = torch.zeros(1, 10, 10, dtype=torch.bool)
    masks[0] = truth[0] > 0
    masks[0, :, 4:10] = True # overlap 40 of 100
    return [Instances(masks, torch.tensor([1]), torch.tensor([.9]), None)], truth, truth


def test_an_overlap_that_was_not_counted_is_refused():
    ap = AveragePrecision(2).update(*one_finding())
    assert 'thresholds=[0.3]' in message(ap.mean, .3)
    assert AveragePrecision(2, thresholds=[.3]).update(*one_finding()).mean(.3) == 1
    assert ap.mean(.5) == 0


def test_ids_below_zero_are_left_out_of_things():
    found, mask, ids = one_finding()
    mask[0, :2] = -100
    assert AveragePrecision(2, -100, thresholds=[.3]).update(found, mask, ids).mean(.3) == 1


@pytest.mark.parametrize('bad', ['Void', [0, 2], 1.5, True])
def test_an_ignored_id_is_a_number(bad):
    for made in (Confusion, MeanIoU, BoundaryF1, PixelAccuracy):
        assert 'codes.index(name)' in message(made, 3, bad)


# ---- predictions

def test_empty_options_of_a_random_field_are_its_defaults(data):
    learn = learner(data)
    file = learn.dls.valid_ds.items[0]
    some, none = (predict_image(learn, file, probabilities=True, crf=o) for o in ({}, False))
    assert torch.equal(some, predict_image(learn, file, probabilities=True, crf=True))
    assert not torch.equal(some, none)


def test_bytes_in_a_tensor_are_read_with_the_range_of_the_training(data):
    learn = learner(data, loaders(data, value_range=(0, 200)))
    x = np.random.default_rng(0).integers(0, 255, (32, 48, 3), np.uint8)
    tensor = torch.from_numpy(x).permute(2, 0, 1)
    assert torch.allclose(prepared_image(learn, x)[0], prepared_image(learn, tensor)[0])


@pytest.mark.parametrize('bins', [0, 1, 5, 999])
def test_one_half_is_among_the_thresholds(bins):
    assert 'even number' in message(ThresholdCounter, bins)


def test_tta_of_training_images_moves_none_of_them(data):
    learn = learner(data, loaders(data, batch_tfms=mild_tfms()))
    learn.model.eval()
    p, masks = learn.tta(ds_idx=0)
    for file, q in zip(learn.dls.train_ds.items, p):
        looked = predict_tta(learn, file)[:2]
        own = q[:2]/q[:2].sum(0)
        assert (own.argmax(0) == looked.argmax(0)).float().mean() > .98
    learn.loss_func = torch.nn.CrossEntropyLoss(ignore_index=2)
    p, _ = learn.tta()
    assert torch.allclose(p.sum(1), torch.ones_like(p.sum(1)), atol=1e-4) and p.min() >= 0


def test_tta_makes_a_probability_of_one_logit(tmp_path):
    def mask(i): return np.fromfunction(lambda r, c: c > 20, (32, 48)).astype(np.uint8)
    data = folder(tmp_path/'d', n=6, size=(32, 48), mask=mask)
    (data/'codes.txt').write_text('background\nthing\n')
    learn = learner(data, one_channel=True)
    said, _ = learn.tta()
    def bce(x, y): return torch.nn.functional.binary_cross_entropy_with_logits(x[:, 0], y.float())
    learn.loss_func = bce
    bare, _ = learn.tta()
    assert torch.allclose(bare, said, atol=1e-5) and 0 < bare.min() < bare.max() < 1


def test_calibration_judges_images_that_it_did_not_fit(data, monkeypatch):
    from segbook import calibration
    learn, seen = learner(data), []
    was = calibration.labelled_answers
    def noted(learn, wanted, dl):
        seen.append(dl.shuffle)
        return was(learn, wanted, dl)
    monkeypatch.setattr(calibration, 'labelled_answers', noted)
    calibrate(learn, dl=learn.dls.train)
    assert seen == [False, False]


# ---- losses

def test_lovasz_of_each_image_is_the_mean_of_images():
    "As in Berman's reference: the mean over the classes of an image first"
    torch.manual_seed(0)
    x, y = torch.randn(3, 4, 6, 7), torch.randint(0, 4, (3, 6, 7))
    y[0], y[1] = 1, y[1] % 2
    def by_hand(p, t):
        values = []
        for k in t.unique().tolist():
            e, order = ((t == k).float() - p[k]).abs().flatten().sort(descending=True)
            fg = (t == k).flatten()[order].float()
            there = fg.sum() - fg.cumsum(0)
            steps = 1 - there/(fg.sum() + (1 - fg).cumsum(0))
            values.append((e*torch.diff(steps, prepend=torch.zeros(1))).sum())
        return sum(values)/len(values)
    wanted = sum(by_hand(p, t) for p, t in zip(x.softmax(1), y))/3
    assert torch.allclose(LovaszLoss(per_image=True)(x, y), wanted, atol=1e-6)


# ---- data

def test_images_of_several_sizes_in_16_bits_are_measured(tmp_path):
    import tifffile
    d = folder(tmp_path/'d', n=6, size=(32, 48))
    rng = np.random.default_rng(0)
    for i in range(6):
        (d/'images'/f'{i:02d}.png').unlink()
        size = (32, 48) if i < 3 else (48, 32)
        tifffile.imwrite(d/'images'/f'{i:02d}.tif', rng.integers(0, 65535, (*size, 4), np.uint16),
            photometric='minisblack', planarconfig='contig')
        from PIL import Image
        Image.fromarray(rng.integers(0, 2, size, np.uint8)).save(d/'labels'/f'{i:02d}_P.png')
    (d/'valid.txt').write_text('00.tif\n01.tif\n')
    learn = learner(d, loaders(d, size=32, crops='random'))
    assert np.allclose(learn.segmenter['mean'], .5, atol=.02)


def test_loaders_of_plain_pairs():
    from fastai.vision.all import DataLoaders
    class Pairs:
        def __init__(self, n): self.n = n
        def __len__(self): return self.n
        def __getitem__(self, i):
            if i >= self.n: raise IndexError
            return torch.rand(3, 32, 32), torch.full((32, 32), i % 2)
    dls = DataLoaders.from_dsets(Pairs(6), Pairs(2), bs=2, device='cpu')
    dls.vocab = ['a', 'b']
    assert class_weights(dls).tolist() == [1, 1]


@pytest.mark.parametrize('bad', [dict(crops='postive'), dict(bs=0), dict(bs='8'), dict(epochs=0),
    dict(size='huge'), dict(size=(32,)), dict(lr='1e-3'), dict(loss=LovaszLoss()),
    dict(crops_per_image=1.5)])
def test_a_plan_takes_what_it_can_follow(data, bad):
    said = message(plan_training, data, measure=False, progress=False, **bad)
    assert said.startswith(f'{[*bad][0]}=') and 'expected' in said


def test_one_number_is_a_square(data):
    assert plan_training(data, measure=False, progress=False, size=32)['size'] == (32, 32)
