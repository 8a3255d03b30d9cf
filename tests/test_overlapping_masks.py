"""Masks in which a pixel is of several classes: refused where one class a pixel is learned, and
followed from the file to the prediction where `overlapping` is asked for."""
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fastai.callback.core import Callback
from PIL import Image

from segbook.cli import segbook_check, segbook_predict, segbook_train
from segbook.data import seg_dataloaders
from segbook.data.items import MapWindow
from segbook.drawing import make_cells, make_dyes
from segbook.errors import SegbookError
from segbook.export import load_segmenter, save_segmenter
from segbook.inference import best_threshold, predict_image, predict_tiled, predict_tta
from segbook.learner import seg_learner, train_segmenter
from segbook.losses import CrossEntropyLoss, DiceLoss, FocalLoss, PerClassLoss, class_weights
from segbook.masks import SegFolder, check_masks, read_maps, read_mask
from segbook.masks.maps import pack_maps, unpack_maps
from segbook.metrics import (
    BoundaryF1, ClassIoU, Hausdorff95, MapCounts, MeanDice, MeanIoU, PixelAccuracy,
)


def maps(seed=0, size=(12, 15), n=3):
    "Maps [H,W,K] of 0 and 1, some pixels of several classes, some of none; how many are of several"
    x = (np.random.default_rng(seed).random((*size, n)) < .4).astype(np.uint8)
    several = sum(int(sum(x[r, c])) > 1 for r in range(size[0]) for c in range(size[1]))
    return x, several

@pytest.mark.parametrize('dtype', [bool, np.uint8, np.int64, np.float32])
@pytest.mark.parametrize('axis', [0, -1])
def test_the_overlap_is_counted_and_the_cure_does_what_it_says(tmp_path, dtype, axis):
    x, several = maps()
    y = np.moveaxis(x, -1, axis).astype(dtype)
    np.save(tmp_path/'a.npy', y)
    with pytest.raises(SegbookError) as e: read_mask(tmp_path/'a.npy')
    assert f'overlap in {several} pixels' in str(e.value) and several > 10
    cure = str(e.value).split('np.where', 1)[1].split(', where 0 is', 1)[0]
    ids = eval('np.where' + cure, dict(np=np, x=y)) # what a person would type
    for r, c in np.ndindex(*ids.shape):
        assert ids[r, c] == next((k + 1 for k in range(3) if x[r, c, k]), 0)

def test_one_hot_maps_are_no_overlap(tmp_path):
    np.save(tmp_path/'a.npy', np.eye(3, dtype=np.uint8)[np.random.default_rng(0).integers(0, 3,
            (5, 6))])
    with pytest.raises(SegbookError, match='one-hot: save x.argmax') as e:
        read_mask(tmp_path/'a.npy')
    assert 'overlap' not in str(e.value)

def test_check_and_loaders_refuse_a_folder_with_such_masks(tmp_path):
    path = make_cells(tmp_path/'cells', n=4, size=32, seed=1)
    f = SegFolder(path).labels[0]
    x, several = maps(size=(32, 32), n=2)
    np.save(f.with_suffix('.npy'), x)
    f.unlink()
    report = check_masks(path, progress=False)
    assert [p.kind for p in report.errors] == ['no ids'] and f'overlap in {several}' in str(report)
    assert 'one class that covers the other' in str(report)
    with pytest.raises(SegbookError): seg_dataloaders(path, bs=2).train.one_batch()

# ---- files

def saved_as(file, x):
    "Maps [H,W,K] in one of the ways in which they are read"
    import tifffile
    if file.stem == 'first': np.save(file, np.moveaxis(x, -1, 0))
    elif file.suffix == '.npy': np.save(file, x*255 if file.stem == 'bytes' else x)
    elif file.stem == 'pages': tifffile.imwrite(file, np.moveaxis(x, -1, 0),
        photometric='minisblack')
    else: tifffile.imwrite(file, x, photometric='minisblack', planarconfig='contig')

@pytest.mark.parametrize('name', ['last.npy', 'first.npy', 'bytes.npy', 'pages.tif', 'bands.tif'])
@pytest.mark.parametrize('n', [2, 3, 5])
def test_maps_are_read_from_arrays_and_tiffs(tmp_path, name, n):
    x, _ = maps(n=n)
    saved_as(tmp_path/name, x)
    y = read_maps(tmp_path/name, n)
    assert y.dtype == np.uint8 and y.shape == (n, *x.shape[:2])
    for r, c, k in np.ndindex(*x.shape): assert y[k, r, c] == x[r, c, k]
    with pytest.raises(SegbookError, match=f'the codes name {n + 1} classes'):
        read_maps(tmp_path/name, n + 1)

@pytest.mark.parametrize('n', [1, 8, 9, 24])
def test_packed_maps_survive_a_float_of_32_bits(n):
    x = np.random.default_rng(n).integers(0, 2, (n, 6, 7)).astype(np.uint8)
    packed = torch.from_numpy(pack_maps(x).astype(np.float32)).long()
    assert (unpack_maps(packed, n).numpy() == x).all()
    assert packed[0, 0] == sum(int(x[k, 0, 0])*2**k for k in range(n))

def test_check_counts_what_a_loop_counts(tmp_path):
    path = make_dyes(tmp_path/'dyes', n=3, size=32)
    report = check_masks(path, progress=False, overlapping=True)
    several = none = 0
    pixels = [0, 0, 0]
    for f in sorted((path/'labels').iterdir()):
        x = np.load(f)
        for r, c in np.ndindex(*x.shape[:2]):
            several += sum(int(v) for v in x[r, c]) > 1
            none += not any(x[r, c])
            for k in range(3): pixels[k] += int(x[r, c, k])
    assert report.ok and report.class_pixels.tolist() == pixels
    total = 3*32*32
    assert (f'{100*several/total:.2f} % of the pixels are of several classes, '
        f'{100*none/total:.2f} % of none') in str(report)
    assert f'{100*pixels[0]/total:.2f}' in str(report).split('neuron')[1]

@pytest.mark.parametrize('change,part', [(lambda x: x[..., :2], 'and the codes name 3 classes'),
        (lambda x: x*2, 'neither 0 nor 1, such as 2'), (lambda x: x[:-1], 'with another size'),
        (lambda x: x[..., 0], 'has shape (32, 32)')])
def test_check_and_loaders_name_a_bad_file(tmp_path, change, part):
    path = make_dyes(tmp_path/'dyes', n=4, size=32)
    f = path/'labels'/'dye_00001_P.npy'
    np.save(f, change(np.load(f)))
    report = check_masks(path, progress=False, overlapping=True)
    assert len(report.errors) == 1 and part in str(report) and 'dye_00001' in str(report)
    with pytest.raises(SegbookError, match='dye_00001'):
        seg_dataloaders(path, bs=2, overlapping=True)

def test_void_many_classes_things_and_fix_are_refused(tmp_path):
    path = make_dyes(tmp_path/'dyes', n=4, size=32)
    with pytest.raises(SegbookError, match='have no Void'):
        seg_dataloaders(path, codes=['neuron', 'glia', 'Void'], overlapping=True)
    with pytest.raises(SegbookError, match='up to 24'):
        SegFolder(path, codes=[str(i) for i in range(25)], overlapping=True)
    with pytest.raises(SegbookError, match='instances= is made for one class a pixel'):
        seg_dataloaders(path, bs=2, overlapping=True, instances='instances')
    with pytest.raises(SegbookError, match='maps of classes that overlap'):
        check_masks(path, overlapping=True, fix=tmp_path/'new')
    with pytest.raises(SegbookError, match=r'SegFolder\(path, overlapping=True\)'):
        seg_dataloaders(SegFolder(path), bs=2, overlapping=True)
    assert not (tmp_path/'new').exists()

# ---- batches

@pytest.fixture(scope='module')
def twins(tmp_path_factory):
    "Images whose three colours are their three maps, so that it is seen whether both move alike"
    path = tmp_path_factory.mktemp('maps')/'twins'
    make_dyes(path, n=6, size=64)
    for f in (path/'labels').iterdir():
        Image.fromarray(np.load(f)*255).save(path/'images'/f'{f.stem[:-2]}.png')
    return path

def apart(dls):
    "The share of the pixels in which an image's colours and its maps differ"
    x, y = dls.one_batch()
    assert y.dtype == torch.uint8 and y.shape == x.shape and set(y.unique().tolist()) == {0, 1}
    return ((torch.Tensor(x) > .5) != (torch.Tensor(y) > 0)).float().mean().item()

@pytest.mark.parametrize('options,most', [(dict(batch_tfms=None), 0), (dict(), .02),
        (dict(size=32), .05), (dict(size=32, crops='random', batch_tfms=None), 0),
        (dict(size=32, crops='positive', batch_tfms=None, crops_per_image=2), 0),
        (dict(batch_tfms=None, cache='auto'), 0)])
def test_images_and_maps_move_together(twins, options, most):
    dls = seg_dataloaders(twins, bs=4, overlapping=True, device='cpu', num_workers=0, **options)
    assert apart(dls) <= most and dls.overlapping and dls.valid.overlapping

def test_fastai_and_elastic_moves_take_maps_along(twins):
    from fastai.vision.all import Resize, Rotate
    from segbook.augmentation import ElasticDeform, move_once
    tfms = move_once([ElasticDeform(p=1.), Rotate(p=1.)])
    dls = seg_dataloaders(twins, bs=4, overlapping=True, device='cpu', item_tfms=Resize(48),
        batch_tfms=tfms)
    assert apart(dls) < .06 and dls.one_batch()[1].shape[-2:] == (48, 48)

def test_windows_for_a_class_show_it(twins):
    dls = seg_dataloaders(twins, bs=4, size=16, crops='positive', crop_classes='nucleus',
        overlapping=True, batch_tfms=None, device='cpu')
    assert all(y[2].any() for _ in range(3) for y in dls.one_batch()[1])

def test_batches_are_drawn(twins):
    import matplotlib.pyplot as plt
    dls = seg_dataloaders(twins, bs=4, overlapping=True, device='cpu')
    dls.show_batch(max_n=2)
    names = [o.get_text() for o in plt.gcf().legends[0].get_texts()]
    assert names == ['neuron', 'glia', 'nucleus']
    plt.close('all')

# ---- loss and metrics

def case(seed=0, shape=(3, 4, 6, 7)):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=g), (torch.rand(shape, generator=g) < .3).to(torch.uint8)

def test_loss_is_binary_cross_entropy():
    x, y = case()
    x.requires_grad_()
    ours, torchs = PerClassLoss(CrossEntropyLoss())(x, y), F.binary_cross_entropy_with_logits(x,
        y.float())
    assert torch.isclose(ours, torchs, rtol=1e-6)
    grads = [torch.autograd.grad(o, x)[0] for o in (ours, torchs)]
    assert torch.allclose(*grads, atol=1e-7)

@pytest.mark.parametrize('inner', [DiceLoss, FocalLoss, CrossEntropyLoss])
def test_loss_is_a_weighted_mean_over_classes(inner):
    x, y = case(1)
    w = [.5, 0, 2, 1]
    each = [inner()(x[:, k:k+1], y[:, k].long()).item() for k in range(4)]
    expected = sum(a*b for a, b in zip(w, each))/sum(w)
    assert PerClassLoss(inner(), w)(x, y).item() == pytest.approx(expected, rel=1e-5)

@pytest.mark.parametrize('inner', [FocalLoss, CrossEntropyLoss])
def test_parts_of_a_batch_add_up(inner):
    x, y = case(2)
    loss = PerClassLoss(inner())
    parts = loss.of_part(x[:2], y[:2], y) + loss.of_part(x[2:], y[2:], y)
    assert parts.item() == pytest.approx(loss(x, y).item(), rel=1e-5)

def loop_scores(x, y):
    "IoU and Dice of each class, counted pixel by pixel"
    iou, dice = [], []
    for k in range(x.shape[1]):
        both = either = sizes = 0
        for b, r, c in np.ndindex(len(x), *x.shape[2:]):
            p, t = float(x[b, k, r, c]) > 0, int(y[b, k, r, c]) == 1
            both, either, sizes = both + (p and t), either + (p or t), sizes + p + t
        iou.append(both/either)
        dice.append(2*both/sizes)
    return iou, dice

def test_counts_agree_with_loops_and_torchmetrics():
    from torchmetrics.classification import MultilabelF1Score, MultilabelJaccardIndex
    x, y = case(3)
    counts = MapCounts(4).update(x[:1], y[:1]).update(x[1:], y[1:])
    iou, dice = loop_scores(x, y)
    assert counts.iou().tolist() == pytest.approx(iou)
    assert counts.dice().tolist() == pytest.approx(dice)
    for average, ours in (('macro', counts.mean_iou()),
            ('micro', counts.mean_iou(average='micro'))):
        theirs = MultilabelJaccardIndex(4, average=average)(x, y.long()).item()
        assert ours == pytest.approx(theirs, abs=1e-6)
    theirs = MultilabelF1Score(4)(x.sigmoid(), y.long()).item()
    assert counts.mean_dice() == pytest.approx(theirs, abs=1e-6)
    assert MapCounts(4, per_image=True).update(x, y).mean_iou(per_image=True).shape == (3,)

def test_columns_of_a_learner_are_those_scores():
    x, y = case(4)
    codes = ['a', 'b', 'c', 'd']
    metrics = [MeanIoU(), MeanDice(), ClassIoU('c'), MeanDice(average='micro')]
    for part in (slice(0, 2), slice(2, 3)):
        learn = SimpleNamespace(pred=x[part], y=y[part], dls=SimpleNamespace(vocab=codes,
                ignore_index=None))
        for m in metrics: m.accumulate(learn)
    iou, dice = loop_scores(x, y)
    assert metrics[0].value == pytest.approx(sum(iou)/4)
    assert metrics[1].value == pytest.approx(sum(dice)/4)
    assert metrics[2].value == pytest.approx(iou[2])
    assert [m.name for m in metrics] == ['mean_iou', 'mean_dice', 'c', 'mean_dice_micro']

# ---- learner, prediction, files of the model

@pytest.fixture(scope='module')
def dyes(tmp_path_factory): return make_dyes(tmp_path_factory.mktemp('dyes')/'dyes', n=5, size=32)

def loaders(path, **kw):
    return seg_dataloaders(path, bs=2, device='cpu', num_workers=0, **kw)

def learner(dls, **kw): return seg_learner(dls, 'enet', pretrained=False, **kw)

@pytest.fixture(scope='module')
def learn(dyes):
    learn = learner(loaders(dyes, overlapping=True))
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-3)
    return learn

def test_learner_takes_the_loss_and_scores_of_maps(learn):
    assert isinstance(learn.loss_func, PerClassLoss)
    assert [m.name for m in learn.metrics] == ['mean_iou', 'mean_dice']
    assert learn.segmenter['overlapping'] is True and learn.segmenter['n_classes'] == 3
    p, y = learn.get_preds()
    assert p.shape == y.shape == (1, 3, 32, 32) and 0 <= p.min() <= p.max() <= 1

@pytest.mark.parametrize('kw,part', [
        (dict(loss=CrossEntropyLoss()), 'CrossEntropyLoss chooses one'),
        (dict(loss=torch.nn.CrossEntropyLoss()), 'fails on logits and maps'),
        (dict(loss=PerClassLoss(weight=[1, 2])), 'has 2 numbers; expected 3'),
        (dict(metrics=PixelAccuracy), 'PixelAccuracy asks which class'),
        (dict(metrics=[BoundaryF1()]), 'BoundaryF1 asks which class'),
        (dict(metrics=[Hausdorff95()]), 'Hausdorff95 asks which class'),
        (dict(metrics=[MeanIoU(ignore_index=0)]), 'have no Void'),
        (dict(metrics=ClassIoU('nucleolus')), "did you mean 'nucleus'"),
        (dict(one_channel=True), 'one_channel=True is made for one class')])
def test_what_is_for_one_class_a_pixel_is_refused(dyes, kw, part):
    with pytest.raises(SegbookError, match=part):
        learner(loaders(dyes, overlapping=True), **kw)

def test_what_is_for_maps_is_refused_by_masks_of_ids(tmp_path):
    dls = loaders(make_cells(tmp_path/'cells', n=4, size=32))
    with pytest.raises(SegbookError, match='have one class a pixel'):
        learner(dls, loss=PerClassLoss())
    x, y = torch.randn(2, 2, 4, 4), torch.zeros(2, 4, 4, dtype=torch.long)
    with pytest.raises(SegbookError, match='take the loss that PerClassLoss holds'):
        PerClassLoss()(x, y)
    with pytest.raises(SegbookError, match='PerClassLoss'): CrossEntropyLoss()(x, x.long())
    with pytest.raises(SegbookError, match='class_weights is made for one class'):
        class_weights(SimpleNamespace(train_ds=1, overlapping=True))

def test_predictions_agree_with_each_other_and_after_loading(learn, dyes, tmp_path):
    f = dyes/'images'/'dye_00004.png'
    m, p = predict_image(learn, f), predict_image(learn, f, probabilities=True)
    assert m.dtype == torch.bool and m.shape == p.shape == (3, 32, 32) and ((p > .5) == m).all()
    assert (predict_image(learn, f, threshold=.2) == (p > .2)).all()
    with torch.no_grad():
        learn.model.eval()
        x = learn.dls.test_dl([f]).one_batch()[0]
        direct = torch.Tensor(learn.model(x))[0]
    assert torch.allclose(direct.sigmoid(), p, atol=1e-5)
    assert ((predict_tiled(learn, f, 32) > 0) == m).float().mean() > .99
    flipped = torch.Tensor(learn.model(x.flip(-1)))[0].flip(-1).sigmoid()
    # ENet keeps the places of its highest values, which a digit at the end can change
    assert torch.allclose(predict_tta(learn, f), (p + flipped.detach())/2, atol=.02)
    folder = save_segmenter(learn, tmp_path/'m')
    assert json.loads((folder/'segmenter.json').read_text())['format'] == 2
    assert 'Classes may overlap' in (folder/'MODEL_CARD.md').read_text()
    assert (load_segmenter(folder).predict(f) == m).all()

def test_an_older_segbook_refuses_such_a_model(learn, tmp_path):
    from segbook.model_facts import check_model_facts
    facts = json.loads((save_segmenter(learn, tmp_path/'m')/'segmenter.json').read_text())
    with pytest.raises(SegbookError, match='a newer segbook'): check_model_facts(facts, 'm', 1)
    with pytest.raises(SegbookError, match='expected no Void'):
        check_model_facts({**facts, 'ignore_index': 0}, 'm', 2)

def refusing(learn, tmp_path):
    "What is made for one class a pixel, each as a call"
    from segbook.calibration import calibrate
    from segbook.certainty import image_entropy
    from segbook.demo import segmenter_page
    from segbook.disagreement import answers_of_looks, answers_of_models
    from segbook.ensembles import Ensemble
    from segbook.export import export_onnx
    from segbook.imbalance import informative_share
    from segbook.interpretation import SegInterpretation
    from segbook.report import report_html, write_report
    f = learn.dls.valid_ds.items[0]
    return dict(interpretation=lambda: SegInterpretation.from_learner(learn),
        report=lambda: report_html(learn), file=lambda: write_report(learn, tmp_path/'r.html'),
        calibration=lambda: calibrate(learn), entropy=lambda: image_entropy(learn, f),
        page=lambda: segmenter_page(learn), looks=lambda: answers_of_looks(learn, f),
        models=lambda: answers_of_models([learn, learn], f), ensemble=lambda: Ensemble([learn]),
        onnx=lambda: export_onnx(learn, tmp_path/'a.onnx'), crf=lambda: predict_image(learn, f,
            crf=True), out=lambda: predict_tiled(learn, f, out=tmp_path/'a.npy'),
        threshold=lambda: best_threshold(learn), weights=lambda: class_weights(learn.dls),
        share=lambda: informative_share(learn.dls))

@pytest.mark.parametrize('name', ['interpretation', 'report', 'file', 'calibration', 'entropy',
        'page', 'looks', 'models', 'ensemble', 'onnx', 'crf', 'out', 'threshold', 'weights',
        'share'])
def test_the_rest_refuses(learn, tmp_path, name):
    with pytest.raises(SegbookError, match='is made for one class a pixel') as e:
        refusing(learn, tmp_path)[name]()
    assert 'Cure: ' in str(e.value) and not [*tmp_path.iterdir()]

# ---- commands

def test_commands_from_the_folder_to_the_maps(dyes, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert segbook_check([str(dyes)]) == 1 and segbook_check([str(dyes), '--overlapping']) == 0
    given = ['--data', str(dyes), '--arch', 'enet', '--epochs', '1', '--out', 'run']
    assert segbook_train(given) == 2 and not (tmp_path/'run').exists()
    assert segbook_train([*given, '--overlapping']) == 0
    said = capsys.readouterr().out
    assert 'each is a question of yes or no' in said and 'mean Dice' in said
    run = json.loads((tmp_path/'run'/'run.json').read_text())
    assert run['arguments']['overlapping'] is True and 'pixel_accuracy' not in run
    assert (tmp_path/'run'/'results.png').exists()
    f = str(dyes/'images'/'dye_00000.png')
    assert segbook_predict(['run', f, '--out', 'out', '--probabilities']) == 0
    x = np.load(tmp_path/'out'/'dye_00000_maps.npy')
    p = np.load(tmp_path/'out'/'dye_00000_probabilities.npy')
    assert x.shape == (32, 32, 3) and ((np.moveaxis(p, 0, -1) > .501) <= x).all()
    assert (tmp_path/'out'/'dye_00000_overlay.png').exists()
    assert read_maps(tmp_path/'out'/'dye_00000_maps.npy', 3).shape == (3, 32, 32)
    for more in (['--instances'], ['--crf']):
        assert segbook_predict(['run', f, '--out', 'other', *more]) == 2
    for more in (['--folds', '2'], ['--report'], ['--weights', 'true'], ['--arch', 'panet']):
        assert segbook_train(['--data', str(dyes), '--overlapping', '--out', 'no', *more]) == 2
    assert not (tmp_path/'other').exists() and not (tmp_path/'no').exists()

def test_a_stopped_run_ends_as_the_unbroken_one(tmp_path):
    path = make_dyes(tmp_path/'dyes', n=12, size=(32, 48), seed=1)
    def learner():
        dls = seg_dataloaders(path, bs=4, seed=1, overlapping=True, num_workers=0)
        return seg_learner(dls, 'enet', seed=3)
    class Stop(Callback):
        def before_epoch(self):
            if self.epoch == 1: raise KeyboardInterrupt
    whole, stopped, resumed = learner(), learner(), learner()
    rows = train_segmenter(whole, 3, folder=tmp_path/'whole')
    with pytest.raises(KeyboardInterrupt):
        train_segmenter(stopped, 3, folder=tmp_path/'run', cbs=Stop())
    more = train_segmenter(resumed, 3, folder=tmp_path/'run', resume=True)
    assert rows.column('mean_iou') == more.column('mean_iou')
    for a, b in zip(whole.model.state_dict().values(), resumed.model.state_dict().values()):
        assert torch.equal(a, b)

@pytest.mark.parametrize('classes, found', [([0, 2], {0, 2}), ([2], {2}), ([0, 1, 2], {0, 2})])
def test_windows_are_cut_for_each_class_that_is_there(classes, found):
    x = np.zeros((3, 40, 40), np.uint8)  # class 0 in one corner, 2 in the other, 1 nowhere
    x[0, :3, :3] = x[2, -3:, -3:] = 1
    seen = set()
    for _ in range(200):
        top, left = MapWindow((8, 8), classes).place(pack_maps(x))
        held = {k for k in range(3) if x[k, top:top + 8, left:left + 8].any()}
        assert len(held) == 1
        seen |= held
    assert seen == found
