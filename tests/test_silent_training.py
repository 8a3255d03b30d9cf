"""Trainings and judgements that once came out wrong without a word: each is right, refused, or
told."""
import numpy as np
import pytest
import torch
from fastai.vision.all import Callback, CancelFitException, Normalize, get_image_files

from segbook.calibration import labelled_answers
from segbook.data import make_cells, make_scenes, seg_dataloaders
from segbook.errors import SegbookError
from segbook.inference import best_threshold
from segbook.learner import History, MaskMixUp, seg_learner, train_segmenter
from segbook.losses import CombinedLoss, CrossEntropyLoss, DiceLoss, FocalLoss

TINY = 'mobilenetv3_small_050'


@pytest.fixture(scope='module')
def cells(tmp_path_factory): return make_cells(tmp_path_factory.mktemp('c')/'cells', n=12, seed=1)


def loaders(path, **kw):
    return seg_dataloaders(path, bs=4, seed=1, num_workers=0, device='cpu', **kw)


def learner(dls, **kw):
    learn = seg_learner(dls, encoder=TINY, pretrained=False, seed=1, **kw)
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 2e-3)
    return learn


# ---- loaders that a learner did not make

@pytest.fixture(scope='module')
def own(cells):
    dls = loaders(cells)
    return dls, learner(dls)


def quiet(learn, f):
    with learn.no_bar(), learn.no_logging(): return f()


def test_scores_on_a_loader_of_ones_own(own, cells):
    dls, learn = own
    assert not any(isinstance(o, Normalize) for o in dls.valid.after_batch.fs)
    want = quiet(learn, learn.validate)
    assert np.allclose(quiet(learn, lambda: learn.validate(dl=dls.valid)), want, atol=1e-6)
    assert best_threshold(learn).at_half == best_threshold(learn, dl=dls.valid).at_half
    files = get_image_files(cells/'images')
    p, q = (quiet(learn, lambda: learn.get_preds(dl=o.test_dl(files))[0]) for o in (dls, learn.dls))
    assert torch.allclose(p, q, atol=1e-6) and p.std() > .01
    p, q = (quiet(learn, lambda: learn.tta(dl=o)[0]) for o in (dls.valid, learn.dls.valid))
    assert torch.allclose(p, q, atol=1e-6)
    a, b = (torch.cat([x for _, x, _ in labelled_answers(learn, dl=o)]) for o in
        (dls.valid, learn.dls.valid))
    assert torch.allclose(a, b, atol=1e-5)
    # by hand
    x = next(iter(dls.valid))[0]
    mean, std = (torch.tensor(learn.segmenter[k])[:, None, None] for k in ('mean', 'std'))
    with torch.no_grad(): by_hand = learn.model.eval()((x - mean)/std)
    assert torch.allclose(a[:len(x)], torch.Tensor(by_hand), atol=1e-5)


def test_other_loaders_take_the_place_of_the_first(own, cells, tmp_path):
    _, learn = own
    smaller = loaders(cells, size=(64, 64))
    learn = learner(loaders(cells))
    learn.dls = smaller
    x = next(iter(learn.dls.valid))[0]
    raw = next(iter(smaller.valid))[0]
    mean, std = learn.segmenter['mean'][0], learn.segmenter['std'][0]
    assert torch.allclose(x, (raw - mean)/std, atol=1e-5) and x.shape[-2:] == (64, 64)
    assert tuple(learn.segmenter['size']) == (64, 64)
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-3)
    learn.dls = loaders(cells, value_range='image')
    assert learn.segmenter['value_range'] == 'image' and learn.segmenter['size'] is None
    learn.dls = loaders(cells)
    assert 'value_range' not in learn.segmenter
    scenes = loaders(make_scenes(tmp_path/'scenes', n=8, size=(32, 48)))
    for other in (scenes, loaders(cells, channels=3)):
        with pytest.raises(SegbookError, match='has learned background'): learn.dls = other


# ---- what an answer is

@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    return make_scenes(tmp_path_factory.mktemp('s')/'scenes', n=10, size=(32, 48), seed=1)


def test_void_has_no_probability_and_is_no_answer(scenes):
    dls = loaders(scenes)
    learn = seg_learner(dls, encoder=TINY, pretrained=False, seed=1)
    with torch.no_grad(): [*learn.model.parameters()][-1][dls.ignore_index] = 9. # its bias
    raw = quiet(learn, lambda: learn.get_preds(act=lambda x: x)[0])
    assert (raw.argmax(1) == dls.ignore_index).float().mean() > .9
    p, _, ids = quiet(learn, lambda: learn.get_preds(with_decoded=True))
    q, _ = quiet(learn, learn.tta)
    others = [k for k in range(len(dls.vocab)) if k != dls.ignore_index]
    for o in (p, q):
        assert (o[:, dls.ignore_index] == 0).all() and torch.allclose(o.sum(1), o.new_ones(1))
    e = raw[:, others].double().exp()
    assert torch.allclose(p[:, others].double(), e/e.sum(1, keepdim=True), atol=1e-5)
    assert torch.equal(torch.Tensor(ids), torch.Tensor(p).argmax(1))


def test_losses_that_do_not_say_what_logits_mean(scenes):
    "PyTorch's own: masks and probabilities are those of a learner with ours"
    dls = loaders(scenes)
    ours, theirs = (seg_learner(dls, encoder=TINY, pretrained=False, seed=1, loss=o) for o in
        (None, torch.nn.CrossEntropyLoss(ignore_index=dls.ignore_index)))
    file = dls.valid_ds.items[0]
    for a, b in zip(*(quiet(o, lambda: o.predict(file)) for o in (ours, theirs))):
        assert a.shape == b.shape and torch.allclose(torch.Tensor(a), torch.Tensor(b))
    for kw in (dict(with_decoded=True), dict(with_input=True, with_decoded=True, with_loss=True)):
        a, b = (quiet(o, lambda: o.get_preds(**kw)) for o in (ours, theirs))
        assert [o.shape for o in a] == [o.shape for o in b]
        i = int(kw.get('with_input', False))
        assert torch.allclose(a[i], b[i]) and torch.equal(a[i + 2], b[i + 2])
    quiet(theirs, lambda: theirs.show_results(max_n=1))


# ---- which epoch is the best

@pytest.mark.parametrize('name,lower', [('hausdorff95', True), ('hausdorff90', True),
    ('hausdorff90_Pole', True), ('hausdorff100', True), ('brier_score', True),
    ('mean_squared_error', True), ('hausdorff_distance', True), ('error_rate', True),
    ('valid_loss', True), ('mae_Pole', True),
    ('mean_iou', False), ('terrors', False), ('distances', False)])
def test_of_errors_the_lowest_is_best(name, lower):
    rows = [[1, 1, 5.], [1, 1, 2.], [1, 1, 9.]]
    history = History(rows, ['train_loss', 'v_loss', name])
    assert history.best_epoch(name) == (1 if lower else 2)


# ---- which run is gone on with

def stopped(scenes, folder, **kw):
    "A run of two epochs of which one is done"
    class Stop(Callback):
        def after_epoch(self):
            if self.epoch == 0: raise CancelFitException
        order = 100
    learn = seg_learner(loaders(scenes), encoder=TINY, pretrained=False, seed=1, **kw)
    quiet(learn, lambda: train_segmenter(learn, 2, folder=folder, cbs=Stop()))


def test_another_run_is_not_gone_on_with(scenes, tmp_path):
    void = loaders(scenes).ignore_index
    def two(first, *weights, w=None):
        return CombinedLoss(first(w and torch.tensor(w), ignore_index=void),
            DiceLoss(ignore_index=void), weights=list(weights) or None)
    stopped(scenes, tmp_path/'a', loss=two(CrossEntropyLoss))
    def gone_on(loss=two(CrossEntropyLoss), cbs=None, epochs=2, **kw):
        learn = seg_learner(loaders(scenes, **kw), encoder=TINY, pretrained=False, seed=1,
            loss=loss)
        return quiet(learn, lambda: train_segmenter(learn, epochs, folder=tmp_path/'a', cbs=cbs,
            resume=True))
    for part, kw in {'loss_settings': dict(loss=two(CrossEntropyLoss, .1, 5.)),
            'loss_settings was': dict(loss=two(CrossEntropyLoss, w=[1.]*11 + [2.])),
            'FocalLoss': dict(loss=two(FocalLoss)), 'transforms': dict(size=(16, 24)),
            'transforms was': dict(batch_tfms=None), 'MaskMixUp': dict(cbs=MaskMixUp())}.items():
        with pytest.raises(SegbookError, match=part): gone_on(**kw)
    assert len(gone_on()) == 2


def test_a_checkpoint_is_not_overwritten_unasked(scenes, tmp_path):
    stopped(scenes, tmp_path/'a')
    before = (tmp_path/'a'/'checkpoint'/'last.pt').read_bytes()
    learn = seg_learner(loaders(scenes), encoder=TINY, pretrained=False, seed=1)
    with pytest.raises(SegbookError, match='1 epochs of it done.*resume=True'):
        train_segmenter(learn, 2, folder=tmp_path/'a')
    assert (tmp_path/'a'/'checkpoint'/'last.pt').read_bytes() == before
    (tmp_path/'a'/'checkpoint'/'last.pt').write_bytes(before[:1000])
    with pytest.raises(SegbookError, match='some epochs'):
        train_segmenter(learn, 2, folder=tmp_path/'a')
    rows = quiet(learn, lambda: train_segmenter(learn, 1, folder=tmp_path/'a', overwrite=True))
    assert len(rows) == 1
