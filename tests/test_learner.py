"""What the chapters on the learner cannot show in a notebook: stops under every schedule,
splitters of other libraries, one channel all the way."""
import importlib.util, json
from functools import partial

import numpy as np, pytest, torch
from torch import nn
from fastai.callback.core import Callback
from fastai.callback.schedule import valley
from fastai.callback.tracker import EarlyStoppingCallback, ReduceLROnPlateau
from fastai.callback.training import BnFreeze
from fastai.optimizer import SGD, ranger
from segbook.data import make_cells, make_scenes, seg_dataloaders
from segbook.learner import KeepBest, seg_learner, seg_splitter, train_segmenter
from segbook.losses import CombinedLoss, CrossEntropyLoss, DiceLoss, FocalLoss, JaccardLoss
from segbook.losses import LovaszLoss, TverskyLoss, class_weights
from segbook.masks import SegbookError
from segbook.metrics import ClassIoU, MeanIoU, PixelAccuracy
from segbook.models import MODELS, seg_model

TINY = 'mobilenetv3_small_050'
pytestmark = pytest.mark.usefixtures('one_thread')

@pytest.fixture(scope='module')
def dls(tmp_path_factory):
    path = make_scenes(tmp_path_factory.mktemp('scenes')/'scenes', n=14, size=(32, 48), seed=1)
    return seg_dataloaders(path, bs=5, seed=1)

def fresh(dls, **kw): return seg_learner(dls, encoder=TINY, pretrained=False, **kw)

def train(learn, *args, **kw):
    with learn.no_bar(), learn.no_logging(): return train_segmenter(learn, *args, **kw)

def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.model.state_dict().values(),
            b.model.state_dict().values()))

class StopIn(Callback):
    "A stop in the middle of an epoch, counted from the start of this fit."
    def __init__(self, epoch): self.at = epoch
    def after_batch(self):
        if self.training and self.epoch == self.at and self.iter == 1: raise KeyboardInterrupt

class Planned(MeanIoU):
    "A score that takes the planned values, epoch by epoch of the whole run."
    plan, n = (), 0
    def accumulate(self, learn):
        super().accumulate(learn)
        self.n = learn.seed_epochs.n
    @property
    def value(self): return self.plan[self.n-1]

def planned(*plan):
    m = Planned()
    m.plan = plan
    return [m]

# ---- stops and schedules

# best in the second epoch; early stopping with patience 2 ends after the fourth
PLAN = .1, .3, .2, .25, .5, .6

def test_early_stopping_ends_the_run_and_the_best_epoch_is_back(dls, tmp_path):
    learn = fresh(dls, metrics=planned(*PLAN))
    kept = {}
    class Watch(Callback):
        order = KeepBest.order + 1
        def after_epoch(self):
            kept[self.epoch] = {k: v.clone() for k, v in self.learn.model.state_dict().items()}
    rows = train(learn, 6, folder=tmp_path,
        cbs=[EarlyStoppingCallback('mean_iou', patience=2), Watch()])
    assert [r[2] for r in rows] == list(PLAN[:4])
    now = learn.model.state_dict()
    assert all(torch.equal(now[k], v) for k, v in kept[1].items()) and not all(torch.equal(now[k],
            v) for k, v in kept[3].items())
    state = torch.load(tmp_path/'checkpoint/last.pt', weights_only=True)
    assert (state['done'], state['ended'], len(state['history'])) == (4, True, 4)

@pytest.mark.parametrize('stop', [0, 1, 3])
def test_a_broken_run_with_early_stopping_ends_as_the_unbroken_one(dls, tmp_path, stop):
    early = lambda: EarlyStoppingCallback('mean_iou', patience=2)
    whole = fresh(dls, metrics=planned(*PLAN))
    rows = train(whole, 6, folder=tmp_path/'whole', cbs=early())
    broken = fresh(dls, metrics=planned(*PLAN))
    with pytest.raises(KeyboardInterrupt):
        train(broken, 6, folder=tmp_path/'broken', cbs=[early(), StopIn(stop)])
    again = fresh(dls, metrics=planned(*PLAN))
    rows2 = train(again, 6, folder=tmp_path/'broken', resume=True, cbs=early())
    assert len(rows2) == 4 and np.allclose(rows, rows2, atol=1e-6) and same(whole, again)

def test_a_run_that_has_ended_early_is_not_trained_on(dls, tmp_path):
    early = lambda: EarlyStoppingCallback('mean_iou', patience=2)
    first = fresh(dls, metrics=planned(*PLAN))
    rows = train(first, 6, folder=tmp_path, cbs=early())
    class Never(Callback):
        def before_train(self): raise AssertionError('trained')
    again = fresh(dls, metrics=planned(*PLAN))
    assert train(again, 6, folder=tmp_path, resume=True,
        cbs=[early(), Never()]) == rows and same(first, again)
    with pytest.raises(SegbookError, match='patience 2.*patience 3'):
        train(fresh(dls, metrics=planned(*PLAN)), 6, folder=tmp_path, resume=True,
            cbs=EarlyStoppingCallback('mean_iou', patience=3))

def test_another_way_of_stopping_is_no_end(dls, tmp_path):
    "A callback that ends the fit for a reason of its own, such as the hour: the run can go on."
    from fastai.callback.core import CancelFitException
    class Evening(Callback):
        order = KeepBest.order + 1   # before the checkpoint, as early stopping
        def after_epoch(self):
            if self.epoch == 0: raise CancelFitException
    whole = fresh(dls)
    rows = train(whole, 2, folder=tmp_path/'whole')
    train(fresh(dls), 2, folder=tmp_path/'run', cbs=Evening())
    again = fresh(dls)
    rows2 = train(again, 2, folder=tmp_path/'run', resume=True)
    assert len(rows2) == 2 and np.allclose(rows, rows2, atol=1e-6) and same(whole, again)

class Rates(Callback):
    "The rate of each step."
    def __init__(self): self.seen = []
    def before_step(self): self.seen.append([h['lr'] for h in self.opt.hypers])

def test_plateau_decay_survives_a_stop(dls, tmp_path):
    plan, decay = (.5, .4, .4, .6, .5), lambda: ReduceLROnPlateau('mean_iou', patience=2, factor=10)
    whole, seen = fresh(dls, metrics=planned(*plan)), Rates()
    rows = train(whole, 5, lr=slice(1e-3, 4e-3), schedule='flat', folder=tmp_path/'whole',
        cbs=[decay(), seen])
    per_epoch = np.array(seen.seen).reshape(5, -1, 2)[:, 0]
    # two epochs without a rise, then a tenth
    assert np.allclose(per_epoch, [[1e-3, 4e-3]]*3 + [[1e-4, 4e-4]]*2)
    # in the middle of the wait; after the fall; and with the wait begun again
    for stop in (2, 3, 4):
        with pytest.raises(KeyboardInterrupt):
            train(fresh(dls, metrics=planned(*plan)), 5, lr=slice(1e-3, 4e-3), schedule='flat',
                folder=tmp_path/str(stop), cbs=[decay(), StopIn(stop)])
        again, seen = fresh(dls, metrics=planned(*plan)), Rates()
        rows2 = train(again, 5, lr=slice(1e-3, 4e-3), schedule='flat', folder=tmp_path/str(stop),
            resume=True, cbs=[decay(), seen])
        assert np.allclose(np.array(seen.seen).reshape(5-stop, -1, 2)[:, 0], per_epoch[stop:]), stop
        assert np.allclose(rows, rows2, atol=1e-6) and same(whole, again), stop

@pytest.mark.parametrize('opt', [ranger, SGD, partial(ranger, k=2)],
    ids=['ranger', 'sgd', 'ranger-k2'])
def test_other_optimisers_can_be_stopped(dls, tmp_path, opt):
    whole = fresh(dls, opt_func=opt)
    rows = train(whole, 3, lr=3e-3, folder=tmp_path/'whole')
    with pytest.raises(KeyboardInterrupt):
        train(fresh(dls, opt_func=opt), 3, lr=3e-3, folder=tmp_path/'broken', cbs=StopIn(2))
    again = fresh(dls, opt_func=opt)
    rows2 = train(again, 3, lr=3e-3, folder=tmp_path/'broken', resume=True)
    assert np.allclose(rows, rows2, atol=1e-6) and same(whole, again)

@pytest.mark.parametrize('change, text',
    [(dict(opt_func=SGD), "optimiser was 'fast_adam', now 'SGD'"),
        (dict(loss=FocalLoss(ignore_index=11)), "loss was 'CrossEntropyLoss', now 'FocalLoss'")])
def test_another_loss_or_optimiser_is_another_run(dls, tmp_path, change, text):
    train(fresh(dls), 1, folder=tmp_path)
    with pytest.raises(SegbookError, match=text):
        train(fresh(dls, **change), 1, folder=tmp_path, resume=True)

@pytest.mark.parametrize('kw, text', [(dict(epochs=0), 'epochs=0'), (dict(lr=-1), 'lr=-1'),
        (dict(lr='fast'), "lr='fast'"), (dict(lr=float('nan')), 'lr=nan'),
        (dict(lr=slice(1e-2, 1e-3)), 'lr=slice'),
        (dict(schedule='plateau'), "'one_cycle' or 'flat'"),
        (dict(resume=True), 'needs the folder'),
        (dict(cbs=ReduceLROnPlateau('mean_iou')), "schedule='flat'"),
        (dict(cbs=EarlyStoppingCallback('mean_iuo')), "no column of the table; nearest: mean_iou"),
        (dict(cbs=EarlyStoppingCallback), None)])
def test_bad_arguments_of_a_run(dls, kw, text):
    learn = fresh(dls)
    before = {k: v.clone() for k, v in learn.model.state_dict().items()}
    if text is None:
        assert len(train(learn, 1, **kw)) == 1
        return   # a class instead of an object is fastai's custom
    with pytest.raises(SegbookError) as e: train(learn, **{'epochs': 1, **kw})
    assert text in str(e.value) and all(torch.equal(before[k], v)
        for k, v in learn.model.state_dict().items())

def test_the_rate_finder_leaves_no_trace(dls, tmp_path):
    plain = fresh(dls, path=tmp_path)
    rows = train(plain, 2)
    learn = fresh(dls, path=tmp_path)
    before = {k: v.clone() for k, v in learn.model.state_dict().items()}
    with learn.no_bar(): learn.lr_find(num_it=20, show_plot=False, suggest_funcs=valley)
    assert all(torch.equal(before[k], v) for k, v in learn.model.state_dict().items())
    assert learn.seed_epochs.n == 0 and learn.keep_best.kept is None
    assert np.allclose(train(learn, 2), rows, atol=1e-6) and same(plain, learn)

def test_rates_of_encoder_and_decoder_through_one_cycle(dls):
    seen = Rates()
    train(fresh(dls), 4, lr=slice(1e-4, 2e-3), cbs=seen)
    a = np.array(seen.seen)
    assert np.allclose(a[:, 1]/a[:, 0], 20) and abs(a[:, 1].max() - 2e-3) < 1e-5 and a[0,
        1] == pytest.approx(2e-3/25)

# ---- groups of parameters

class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1)

class Tied(nn.Module):
    "The decoder uses a layer of the encoder once more."
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1))
        self.decoder = nn.Sequential(self.encoder[1], nn.Conv2d(4, 2, 1))

def smp_unet():
    return importlib.import_module('segmentation_models_pytorch').Unet('resnet18',
        encoder_weights=None, classes=3)
def deeplab():
    from torchvision.models.segmentation import deeplabv3_mobilenet_v3_large
    return deeplabv3_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3)

@pytest.mark.parametrize('make, encoder',
    [*[(partial(seg_model, arch, 3, TINY), '0.' if arch == 'dynamic_unet' else None)
            for arch in MODELS], (partial(seg_model, 'dynamic_unet', 3, 'resnet18'), 'layers.0.'),
        (smp_unet, 'encoder.'), (deeplab, 'backbone.'), (Tied, 'encoder.'),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)), '0.')])
def test_each_parameter_is_in_one_group_and_the_encoders_in_the_first(make, encoder):
    m = make()
    groups = seg_splitter(m)
    ids = [id(p) for g in groups for p in g]
    assert len(ids) == len(set(ids)) and set(ids) == {id(p)
        for p in m.parameters()} and len(groups) == 2
    if encoder == '0.' and hasattr(m, 'layers'): encoder = 'layers.0.'
    if encoder:
        assert {id(p) for p in groups[0]} == {id(p) for n, p in m.named_parameters()
            if n.startswith(encoder)}

@pytest.mark.parametrize('make', [Plain, lambda: nn.Sequential(nn.ReLU(), nn.Conv2d(3, 2, 1)),
        lambda: nn.Sequential(nn.Conv2d(3, 2, 1)), lambda: nn.Conv2d(3, 2, 1)])
def test_a_network_without_a_visible_encoder_is_one_group(make):
    m = make()
    groups = seg_splitter(m)
    assert len(groups) == 1 and [id(p) for p in groups[0]] == [id(p) for p in m.parameters()]

def test_no_network_no_groups():
    with pytest.raises(SegbookError, match='found str'): seg_splitter('resnet')
    with pytest.raises(SegbookError, match='nothing to train'):
        seg_splitter(nn.Sequential(nn.ReLU()))

@pytest.mark.parametrize('make, groups',
    [(smp_unet, 2), (lambda: nn.Sequential(Plain().a, nn.BatchNorm2d(4),
            nn.Upsample(scale_factor=1), nn.Conv2d(4, 12, 3, padding=2)), 2),
        (lambda: nn.Conv2d(3, 12, 1), 1)])
def test_any_network_is_frozen_and_trained(dls, monkeypatch, make, groups):
    def build(n_classes, encoder, in_channels, pretrained, **kw):
        if make is smp_unet:
            return importlib.import_module('segmentation_models_pytorch').Unet('resnet18',
                encoder_weights=None, classes=n_classes)
        return make()
    monkeypatch.setitem(MODELS, 'mine', build)
    if make is smp_unet: small = seg_dataloaders(dls.path, bs=5, size=(32, 64), seed=1)
    learn = seg_learner(small if make is smp_unet else dls, 'mine', 'resnet18', pretrained=False)
    learn.freeze()
    first, last = seg_splitter(learn.model)[0][0], seg_splitter(learn.model)[-1][-1]
    a, b = first.detach().clone(), last.detach().clone()
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-2)
    assert torch.equal(a, first) == (groups == 2) and not torch.equal(b, last)
    train(learn, 1, lr=slice(1e-4, 1e-3))
    assert not torch.equal(a, first) and len(learn.opt.hypers) == groups

def test_frozen_normalisation(dls):
    """fastai's freezing leaves normalisation layers in training, unless told otherwise; their
    running means move in either case until BnFreeze."""
    def moved(**kw):
        learn = fresh(dls, keep_best=False, **kw)
        learn.freeze()
        enc = {k: v.clone() for k, v in learn.model.encoder.state_dict().items()}
        with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-2)
        bn = {n for n, m in learn.model.encoder.named_modules()
            if isinstance(m, nn.BatchNorm2d)}
        out = dict(conv=False, affine=False, running=False)
        for k, v in learn.model.encoder.state_dict().items():
            part, what = k.rsplit('.', 1)
            if not torch.equal(enc[k], v):
                out['conv' if part not in bn else 'affine' if what in ('weight', 'bias')
                    else 'running'] = True
        return out
    assert moved() == dict(conv=False, affine=True, running=True)
    assert moved(train_bn=False) == dict(conv=False, affine=False, running=True)
    assert moved(train_bn=False, cbs=BnFreeze) == dict(conv=False, affine=False, running=False)

# ---- one channel

def cell_dls(folder, void):
    path = make_cells(folder/'cells', n=12, size=(32, 48), seed=2)
    if void:   # the left margin is of no class
        from PIL import Image
        (path/'codes.txt').write_text((path/'codes.txt').read_text().strip() + '\nVoid\n')
        for f in (path/'labels').iterdir():
            m = np.array(Image.open(f))
            m[:, :6] = 2
            Image.fromarray(m).save(f)
    return seg_dataloaders(path, bs=5, seed=1)

@pytest.fixture(scope='module')
def void_cells(tmp_path_factory): return cell_dls(tmp_path_factory.mktemp('void'), True)

@pytest.fixture(scope='module', params=[False, True], ids=['two codes', 'with Void'])
def cells(request, tmp_path_factory):
    return request.getfixturevalue('void_cells') if request.param else cell_dls(
        tmp_path_factory.mktemp('cells'), False)

def counts(learn):
    "Pixel accuracy and IoU of both classes by a loop over what the network answers."
    n = np.zeros((2, 2), int)
    learn.model.eval()
    with torch.no_grad():
        for x, y in learn.dls.valid:
            p = torch.Tensor(learn.model(x))
            p = (p[:, 0] > 0).long() if p.shape[1] == 1 else p.argmax(1)
            for t, q in zip(torch.Tensor(y).flatten().tolist(), p.flatten().tolist()):
                if t < 2 and q < 2: n[int(t), q] += 1
    return np.trace(n)/n.sum(), [n[k, k]/(n[k].sum() + n[:, k].sum() - n[k, k]) for k in (0, 1)]

def test_one_channel_all_the_way(cells, tmp_path):
    import matplotlib
    matplotlib.use('Agg')
    import matplotlib.pyplot as plt
    from segbook.cli import evaluate
    from segbook.export import load_segmenter, save_segmenter
    from segbook.inference import predict_image
    learn = fresh(cells, one_channel=True)
    assert learn.segmenter['n_classes'] == 1 and learn.segmenter['codes'] == list(cells.vocab)
    assert torch.allclose(learn.loss_func.weight,
        class_weights(cells)[:2]) and (learn.loss_func.weight > 0).all()
    rows = train(learn, 2, lr=3e-3)
    assert learn.model(torch.zeros(1, 1, 32, 48)).shape == (1, 1, 32,
        48) and np.isfinite(rows).all()
    with learn.no_bar(): got = learn.validate()
    acc, iou = counts(learn)
    assert got[1] == pytest.approx(acc) and got[2] == pytest.approx(np.mean(iou)) and got[
        3] == pytest.approx(np.mean([2*o/(1+o) for o in iou]))
    assert evaluate(learn)[0].iou().tolist() == pytest.approx(iou)
    with learn.no_bar():
        probs, truth, ids = learn.get_preds(with_decoded=True)
        assert probs.shape[1] == 1 and 0 <= probs.min() and probs.max() <= 1 and torch.equal(
            torch.Tensor(ids).long(), (torch.Tensor(probs)[:, 0] > .5).long())
        learn.show_results(max_n=2)
        plt.close('all')
        file = cells.valid_ds.items[0]
        mask, _, p = learn.predict(file)
    own = predict_image(learn, file)
    assert own.shape == (32, 48) and set(own.unique().tolist()) <= {0,
        1} and torch.equal(torch.Tensor(mask).long(), own)
    save_segmenter(learn, tmp_path/'model')
    assert json.loads((tmp_path/'model/segmenter.json').read_text())['n_classes'] == 1
    assert torch.equal(load_segmenter(tmp_path/'model').predict(file), own)

def test_two_channels_with_equal_answers_score_the_same(cells):
    "One logit z and the two logits (0, z) are one network: loss, metrics and masks must agree."
    one, two = fresh(cells, one_channel=True), fresh(cells)
    class Both(nn.Module):
        def __init__(self, net, k):
            super().__init__()
            self.net, self.k = net, k
        def forward(self, x):
            z = self.net(x)
            return torch.cat([torch.zeros_like(z), z, torch.full_like(z, -1e4)], 1)[:, :self.k]
    two.model = Both(one.model, len(cells.vocab))
    with one.no_bar(), two.no_bar(): a, b = one.validate(), two.validate()
    assert np.allclose(a, b, atol=1e-5)

@pytest.mark.parametrize('make', [CrossEntropyLoss, FocalLoss, DiceLoss, JaccardLoss, TverskyLoss,
        LovaszLoss, lambda **kw: CombinedLoss(CrossEntropyLoss(**kw), DiceLoss(**kw))])
def test_every_loss_trains_one_channel(void_cells, make):
    learn = fresh(void_cells, one_channel=True, loss=make(ignore_index=2),
        metrics=[ClassIoU('cell'), PixelAccuracy()], keep_best=False)
    rows = train(learn, 3, lr=1e-3)
    assert np.isfinite(rows).all() and rows[-1][0] < rows[0][0] and learn.recorder.metric_names[
        3] == 'cell'

def test_bad_input_of_one_channel(dls, cells):
    with pytest.raises(SegbookError, match='Expected two classes, the background first'):
        fresh(dls, one_channel=True)
    with pytest.raises(SegbookError, match='has 3 numbers; expected 2'):
        fresh(cells, one_channel=True, loss=CrossEntropyLoss(torch.ones(3), cells.ignore_index))
    with pytest.raises(SegbookError, match='counts 3 classes; the network answers with 2'):
        fresh(cells, one_channel=True, metrics=[MeanIoU(3)])
    if cells.ignore_index is not None:
        with pytest.raises(SegbookError, match='Void has id 2'):
            fresh(cells, one_channel=True, loss=DiceLoss())
        with pytest.raises(SegbookError, match='Void has id 2'):
            fresh(cells, one_channel=True, loss=CombinedLoss(DiceLoss(), FocalLoss()))

def test_bad_input_of_many_channels(dls):
    with pytest.raises(SegbookError, match='has 11 numbers; expected 12'):
        fresh(dls, loss=FocalLoss(torch.ones(11), 11))
    with pytest.raises(SegbookError, match='counts 11 classes'):
        fresh(dls, metrics=[PixelAccuracy(11)])
    with pytest.raises(SegbookError, match="(?i)no class 'Pol'.*Pole"):
        fresh(dls, metrics=[ClassIoU('Pol')])

def test_one_channel_is_another_run(void_cells, tmp_path):
    train(fresh(void_cells), 1, folder=tmp_path)
    with pytest.raises(SegbookError, match='n_classes was'):
        train(fresh(void_cells, one_channel=True), 1, folder=tmp_path, resume=True)

# ---- a GPU

@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_a_gpu_trains_in_16_bits(dls):
    on_gpu = seg_dataloaders(dls.path, bs=5, seed=1, device='cuda')
    learn = fresh(on_gpu)
    assert hasattr(learn, 'mixed_precision')
    rows = train(learn, 2)
    assert np.isfinite(rows).all() and all(p.dtype == torch.float32
        for p in learn.model.parameters())

# ---- the table is read by name

def test_history_is_read_by_name(dls, tmp_path):
    "The place of a column depends on the metrics, so nothing may count columns."
    learn = fresh(dls, metrics=[MeanIoU(), PixelAccuracy()], keep_best=False)
    history = train(learn, 2, folder=tmp_path)
    assert history.names == ['train_loss', 'valid_loss', 'mean_iou', 'pixel_accuracy']
    assert history.column('mean_iou') == [r[2] for r in history] != [r[3] for r in history]
    assert history.best_epoch('valid_loss') == int(np.argmin([r[1] for r in history]))
    # a run that is over, and one without a folder, have the names too
    again = fresh(dls, metrics=[MeanIoU(), PixelAccuracy()], keep_best=False)
    over = train(again, 2, folder=tmp_path, resume=True)
    assert over == history and over.names == history.names
    assert train(fresh(dls, metrics=[]), 1).names == ['train_loss', 'valid_loss']
    with pytest.raises(SegbookError, match='nearest: mean_iou'): history.column('mean_iuo')

def test_checkpoint_is_a_whole_class():
    from segbook.callbacks import Checkpoint
    assert {'write', 'after_epoch', 'after_cancel_fit'} <= set(vars(Checkpoint))
    assert Checkpoint.write.__qualname__ == 'Checkpoint.write'

def test_class_names_in_any_case(dls):
    learn = fresh(dls, metrics=[ClassIoU('pole')], keep_best=False)
    assert len(train(learn, 1)[0]) == 3
