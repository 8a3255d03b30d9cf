"""The table of chapter 12: what of fastai works with a learner of this book. Each row is a test
here, and each test is a row there."""
import copy, importlib, json, multiprocessing, pickle, re, subprocess, sys
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace

import matplotlib
matplotlib.use('agg')
import matplotlib.pyplot as plt, numpy as np, pytest, torch
from fastai.callback.fp16 import MixedPrecision
from fastai.callback.hook import ActivationStats
from fastai.callback.mixup import CutMix, MixUp
from fastai.callback.progress import CSVLogger, ShowGraphCallback
from fastai.callback.schedule import ParamScheduler, SchedCos
from fastai.callback.tracker import EarlyStoppingCallback, ReduceLROnPlateau, SaveModelCallback
from fastai.callback.tracker import TerminateOnNaNCallback
from fastai.callback.training import BnFreeze, GradientAccumulation, GradientClip
from fastai.callback.training import ShortEpochCallback
from fastai.metrics import Dice, DiceMulti, JaccardCoeff, JaccardCoeffMulti, accuracy, error_rate
from fastai.metrics import foreground_acc
from fastai.vision.all import (
    CategoryBlock, CrossEntropyLossFlat, DataBlock, ImageBlock, Interpretation, MaskBlock,
    Normalize, PILImage, RandomResizedCrop, RandomSplitter, Resize, SegmentationDataLoaders,
    SegmentationInterpretation, TransformBlock, aug_transforms, get_image_files, imagenet_stats,
    load_learner, resnet18, unet_learner,
)
from PIL import Image
from torch import nn

from segbook import contract
from segbook.data import make_scenes, seg_dataloaders
from segbook.inference import predict_image
from segbook.learner import MaskCutMix, MaskMixUp, seg_learner, seg_splitter
from segbook.losses import CombinedLoss, CrossEntropyLoss, DiceLoss
from segbook.masks import SegbookError
from segbook.metrics import BoundaryF1, ClassIoU, Hausdorff95, MeanDice, MeanIoU, PixelAccuracy

ROOT = Path(__file__).parent.parent
TINY = 'mobilenetv3_small_050'
pytestmark = pytest.mark.usefixtures('one_thread')


class Given:
    "What the rows work with: a small folder, its DataLoaders, and learners."
    def __init__(self, path):
        self.path = path
        self.scenes = make_scenes(path/'scenes', n=14, size=(32, 48), seed=1)
        self.codes = (self.scenes/'codes.txt').read_text().split()
        labels = self.scenes/'labels'
        self.label = lambda f: labels/f'{f.stem}_P.png' # fastai takes no method of this name
        self.dls = self.loaders()
        self.file = self.dls.valid_ds.items[0]
        self.shared = self.learner()

    def loaders(self, **kw):
        return seg_dataloaders(self.scenes, **{'bs': 4, 'seed': 1, 'device': 'cpu', **kw})

    def learner(self, dls=None, **kw):
        return seg_learner(dls or self.dls, encoder=TINY, pretrained=False, path=self.path, **kw)

    def block(self, *blocks, **kw):
        "fastai's own pipeline for the same folder."
        kw = {'get_y': self.label, **kw}
        block = DataBlock(blocks or (ImageBlock, MaskBlock(self.codes)),
            get_items=get_image_files, splitter=RandomSplitter(seed=1), **kw)
        return block.dataloaders(self.scenes/'images', bs=2, num_workers=0, device='cpu')


@pytest.fixture(scope='module')
def given(tmp_path_factory): return Given(tmp_path_factory.mktemp('contract'))


@pytest.fixture(autouse=True)
def no_figures():
    yield
    plt.close('all')


def quiet(learn, f):
    with learn.no_bar(), learn.no_logging(): return f(learn)


def fit(learn, *cbs):
    "One epoch; the row of the table, whose losses are numbers."
    quiet(learn, lambda l: l.fit(1, 1e-3, cbs=list(cbs)))
    row = learn.recorder.values[-1]
    assert np.isfinite(row[:2]).all()
    return row


def plain(x): return x.as_subclass(torch.Tensor)


ROWS = {}

def row(what):
    "The test of the row `what`."
    def keep(f):
        assert what not in ROWS
        ROWS[what] = f
        return f
    return keep


# ---- training

@row('`fit`, `fit_one_cycle`, `fit_flat_cos`, `fit_sgdr`')
def _(given):
    l = given.learner()
    for f in (lambda: l.fit(1), lambda: l.fit_one_cycle(1), lambda: l.fit_flat_cos(1),
            lambda: l.fit_sgdr(1, 1)):
        quiet(l, lambda _: f())
        assert np.isfinite(l.recorder.values[-1][:2]).all()


@row('`fine_tune`, `freeze`, `unfreeze`, `freeze_to`, rates as a `slice`')
def _(given):
    l = given.learner(keep_best=False)
    before = {k: v.clone() for k, v in l.model.encoder.named_parameters()}
    l.freeze()
    quiet(l, lambda l: l.fit_one_cycle(1, slice(1e-4, 1e-3)))
    norms = {f'{n}.{p}' for n, m in l.model.encoder.named_modules() if isinstance(m, nn.BatchNorm2d)
        for p in ('weight', 'bias')}
    assert all(torch.equal(v, before[k]) for k, v in l.model.encoder.named_parameters()
        if k not in norms)
    l.unfreeze()
    quiet(l, lambda l: l.fit_one_cycle(1, slice(1e-4, 1e-3)))
    assert not all(torch.equal(v, before[k]) for k, v in l.model.encoder.named_parameters())
    low, high = (h['lr'] for h in l.opt.hypers)
    assert low < high
    l.freeze_to(-1)
    quiet(l, lambda l: l.fine_tune(1))


@row('`lr_find`')
def _(given):
    l = given.learner()
    before = [o.clone() for o in l.model.state_dict().values()]
    rate = quiet(l, lambda l: l.lr_find(num_it=8, show_plot=False)).valley
    assert 0 < rate < 10
    assert all(map(torch.equal, l.model.state_dict().values(), before))


@row('`to_fp16`, `to_bf16`, `MixedPrecision`, `to_fp32`')
def _(given):
    rows = [fit(make(given.learner())) for make in (lambda l: l, lambda l: l.to_fp16(),
        lambda l: l.to_bf16(), lambda l: l.to_fp16().to_fp32())]
    assert np.allclose(rows, rows[:1]*4, atol=1e-5)
    fit(given.learner(cbs=MixedPrecision()))


@row('`no_bar`, `no_logging`, `summary`')
def _(given):
    with given.shared.no_bar(): assert 'Total params' in str(given.shared.summary())


@row('`nn.DataParallel` around the network')
def _(given):
    l = given.learner()
    l.model = nn.DataParallel(l.model)
    assert len(seg_splitter(l.model)) == 2
    l.freeze()
    fit(l)
    assert list(predict_image(l, given.file).shape) == [32, 48]


@row('`num_workers=2`, also where Python spawns processes')
def _(given):
    "In a Python of its own, since the way of starting is chosen once."
    code = f'''
import multiprocessing, sys
def main():
    multiprocessing.set_start_method('spawn')
    from segbook.data import seg_dataloaders
    from segbook.learner import seg_learner
    dls = seg_dataloaders({str(given.scenes)!r}, bs=4, seed=1, device='cpu', num_workers=1)
    l = seg_learner(dls, encoder={TINY!r}, pretrained=False, path={str(given.path)!r})
    with l.no_bar(), l.no_logging(): l.fit(1, 1e-3)
    print('losses', *l.recorder.values[-1][:2])
if __name__ == '__main__': main()
'''
    file = given.path/'spawned.py'
    file.write_text(code)
    res = subprocess.run([sys.executable, '-W', 'ignore', file], capture_output=True, text=True,
        cwd=ROOT, env={**__import__('os').environ, 'PYTHONPATH': str(ROOT)})
    assert res.returncode == 0, res.stderr[-2000:]
    spawned = [float(o) for o in res.stdout.split('losses')[1].split()]
    assert np.isfinite(spawned).all()
    forked = fit(given.learner(given.loaders(num_workers=2)))
    assert np.isfinite(forked[:2]).all()


# ---- answers

@row('`validate`, `get_preds` with inputs, decoded, losses')
def _(given):
    l = given.shared
    assert len(quiet(l, lambda l: l.validate())) == 4
    x, p, y, d, loss = quiet(l, lambda l: l.get_preds(with_input=True, with_decoded=True,
        with_loss=True))
    n, K = len(given.dls.valid_ds), len(given.codes)
    assert list(p.shape) == [n, K, 32, 48] and list(x.shape) == [n, 3, 32, 48]
    assert torch.allclose(plain(p).sum(1), torch.ones(n, 32, 48), atol=1e-4)
    assert torch.equal(plain(d), plain(p).argmax(1)) and list(loss.shape) == [n]
    assert list(y.shape) == [n, 32, 48]


@row('`predict` of a path, a text, a PIL image, an array, a tensor')
def _(given):
    l, file = given.shared, given.file
    image = Image.open(file)
    x = np.array(image)
    expected = plain(quiet(l, lambda l: l.predict(file)[0]))
    assert (expected == predict_image(l, file)).float().mean() > .9
    for item in (file, str(file), image, PILImage.create(file), x,
            torch.from_numpy(x).permute(2, 0, 1), torch.from_numpy(x/np.float32(255))):
        mask, ids, p = quiet(l, lambda l: l.predict(item))
        assert torch.equal(plain(mask), expected), type(item)
    assert list(p.shape) == [len(given.codes), 32, 48] and torch.equal(plain(ids), plain(mask))


@row('`test_dl`, with masks or without, and its `show_batch`')
def _(given):
    files = get_image_files(given.scenes/'images')[:3]
    for items in (files, [str(f) for f in files], [Image.open(f) for f in files]):
        dl = given.shared.dls.test_dl(items)
        dl.show_batch()
        assert len(plt.gcf().axes) >= 3
        p, y = quiet(given.shared, lambda l: l.get_preds(dl=dl))
        assert list(p.shape) == [3, len(given.codes), 32, 48] and y is None
    dl = given.shared.dls.test_dl(files, with_labels=True)
    dl.show_batch()
    assert len(dl.one_batch()) == 2


@row('`show_batch`, `show_results`')
def _(given):
    l = given.shared
    for o in (l.dls, l.dls.train, l.dls.valid): o.show_batch(max_n=2)
    l.dls.train.show_batch(max_n=2, unique=True)
    with l.no_bar():
        l.show_results(max_n=2)
        l.show_results(ds_idx=0, max_n=2)
        x, y, its, outs = l.dls.valid.show_results(*_batch_and_ids(l), show=False)
    assert len(outs) == len(its)


def _batch_and_ids(l):
    b = l.dls.valid.one_batch()
    return b, l.get_preds(dl=[b], with_decoded=True)[2]


@row('`tta`')
def _(given):
    l = given.shared
    p, y = quiet(l, lambda l: l.tta())
    xs = torch.cat([plain(b[0]) for b in l.dls.valid])
    with torch.no_grad(): a, b = l.model.eval()(xs), l.model(xs.flip(-1)).flip(-1)
    for o in (a, b): o[:, l.dls.ignore_index] = -torch.inf # Void is no answer
    assert torch.allclose(plain(p), (a.softmax(1) + b.softmax(1))/2, atol=1e-5)
    assert list(y.shape) == [len(xs), 32, 48]


@row('`tta` with the moves of fastai: `n`, `item_tfms`, `batch_tfms`')
def _(given): quiet(given.shared, lambda l: l.tta(n=4))


@row('`Interpretation`, `SegmentationInterpretation`')
def _(given):
    for kind in (SegmentationInterpretation, Interpretation):
        with given.shared.no_bar():
            i = kind.from_learner(given.shared)
            loss, _ = i.top_losses(2)
            i.plot_top_losses(2)
            i.show_results([0, 1])
        assert loss[0] >= loss[1]


# ---- files

@row('`save`, `load`')
def _(given):
    l, other = given.learner(), given.learner(seed=3)
    fit(l)
    l.save('saved')
    other.load('saved')
    assert all(map(torch.equal, l.model.state_dict().values(), other.model.state_dict().values()))


def _returns(l, given):
    "The exported learner answers like `l`."
    l.export('exported.pkl')
    back = load_learner(given.path/'exported.pkl')
    a, b = (quiet(o, lambda o: o.predict(given.file)[0]) for o in (l, back))
    c = quiet(back, lambda o: o.predict(Image.open(given.file))[0])
    assert torch.equal(plain(a), plain(b)) and torch.equal(plain(a), plain(c))
    assert back.segmenter == l.segmenter and list(back.dls.vocab) == given.codes
    assert l.dls.train_ds is not None and l.opt is not None
    return back


@row('`export`, `load_learner`')
def _(given):
    l = given.learner()
    fit(l)
    back = _returns(l, given)
    back.dls = l.dls
    fit(back)
    _returns(given.learner().to_fp16(), given)
    _returns(given.learner(cbs=[CSVLogger(), SaveModelCallback('mean_iou'), MaskCutMix(),
        EarlyStoppingCallback('valid_loss'), GradientClip(1.)], metrics=[BoundaryF1(),
        ClassIoU('Pole'), Hausdorff95(), MeanIoU()], loss=CombinedLoss(
            CrossEntropyLoss(ignore_index=11), DiceLoss(ignore_index=11))), given)


@row('`pickle`, `copy.deepcopy`')
def _(given):
    l = given.learner(metrics=[MeanIoU(), BoundaryF1()])
    values = fit(l)
    for same in (copy.deepcopy(l), pickle.loads(pickle.dumps(l))):
        assert np.allclose(quiet(same, lambda o: o.validate()), quiet(l, lambda o: o.validate()))
        fit(same)
    assert len(values) == 4


# ---- callbacks

@row('`SaveModelCallback`, `EarlyStoppingCallback`, `ReduceLROnPlateau`')
def _(given):
    fit(given.learner(), SaveModelCallback('mean_iou', fname='best'))
    assert (given.path/'models/best.pth').exists()
    l = given.learner()
    quiet(l, lambda l: l.fit(5, 1e-3, cbs=[EarlyStoppingCallback('mean_iou', patience=1,
        min_delta=100.)]))
    assert len(l.recorder.values) == 2
    l = given.learner()
    quiet(l, lambda l: l.fit(3, 1e-3, cbs=ReduceLROnPlateau('valid_loss', patience=1,
        min_delta=100.)))
    assert l.opt.hypers[0]['lr'] < 1e-3


@row('`CSVLogger`')
def _(given):
    l = given.learner(cbs=CSVLogger(fname='log.csv'))
    values = l.fit(1, 1e-3) or l.recorder.values[-1]
    log = l.csv_logger.read_log()
    assert np.allclose(log[l.recorder.metric_names[1:-1]].iloc[-1], values, atol=1e-5)


@row('`ShowGraphCallback`')
def _(given):
    l = given.learner(cbs=ShowGraphCallback())
    l.fit(1, 1e-3)
    assert l.show_graph.nb_batches


@row('`GradientClip`, `BnFreeze`')
def _(given):
    for cb in (GradientClip(.1), BnFreeze()): fit(given.learner(), cb)


@row('`GradientAccumulation`')
def _(given): fit(given.learner(), GradientAccumulation(8))


@row('`TerminateOnNaNCallback`, `ShortEpochCallback`, `ParamScheduler`, `ActivationStats`')
def _(given):
    for cb in (TerminateOnNaNCallback(), ParamScheduler({'lr': SchedCos(1e-3, 1e-4)}),
            ActivationStats(with_hist=True)):
        fit(given.learner(), cb)
    quiet(given.learner(), lambda l: l.fit(1, cbs=ShortEpochCallback(.5)))


class Writer:
    "A stand-in for TensorBoard's writer: what is called a number must be one."
    def __init__(self, log_dir=None): self.seen = set()
    def add_scalar(self, name, v, step):
        assert not isinstance(v, bool)
        self.seen.add((name, type(float(v))))
    def add_graph(self, model, *xb): torch.jit.trace(model, xb, check_trace=False)
    def add_figure(self, name, fig, step): self.seen.add((name, type(fig)))
    def close(self): pass


@row('`TensorBoardCallback`')
def _(given, monkeypatch):
    monkeypatch.setitem(sys.modules, 'tensorboard', ModuleType('tensorboard'))
    module = ModuleType('torch.utils.tensorboard')
    module.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.delitem(sys.modules, 'fastai.callback.tensorboard', raising=False)
    board = importlib.import_module('fastai.callback.tensorboard')
    monkeypatch.delitem(sys.modules, 'fastai.callback.tensorboard')
    cb = board.TensorBoardCallback(given.path/'board')
    fit(given.learner(), cb)
    names = {name for name, _ in cb.writer.seen}
    assert {'train_loss', 'lr_0', 'mom_1', 'mean_iou', 'Sample results'} <= names


@row('`WandbCallback`')
def _(given, monkeypatch):
    logged, wandb = {}, ModuleType('wandb')
    def table(columns): return SimpleNamespace(add_data=lambda *o: logged.update(row=o))
    for k, v in dict(run=SimpleNamespace(step=0, summary={}), log=lambda d, **_: logged.update(d),
            config=SimpleNamespace(update=lambda *_, **__: None), Table=table,
            Image=lambda x, **kw: SimpleNamespace(x=np.asarray(x), **kw)).items():
        setattr(wandb, k, v)
    monkeypatch.setitem(sys.modules, 'wandb', wandb)
    monkeypatch.delitem(sys.modules, 'fastai.callback.wandb', raising=False)
    module = importlib.import_module('fastai.callback.wandb')
    monkeypatch.delitem(sys.modules, 'fastai.callback.wandb')
    fit(given.learner(), module.WandbCallback())
    mask = logged['row'][2].masks['Prediction']['mask_data']
    assert mask.shape == (32, 48) and mask.max() < len(given.codes)
    assert [o['name'] for o in logged['row'][1].classes] == given.codes
    assert np.isfinite(float(logged['mean_iou']))


@row('`CutMix`')
def _(given): fit(given.learner(), CutMix())


@row('`MixUp`')
def _(given): fit(given.learner(cbs=MixUp))


@row('`MaskCutMix`, `MaskMixUp` of this book')
def _(given):
    fit(given.learner(), MaskCutMix())
    fit(given.learner(cbs=MaskMixUp).to_fp16())
    fit(given.learner(loss=DiceLoss(ignore_index=11)), MaskMixUp())


# ---- data

@row('`SegmentationDataLoaders.from_label_func(..., codes=...)`')
def _(given):
    dls = SegmentationDataLoaders.from_label_func(given.scenes, bs=2, num_workers=0, device='cpu',
        fnames=get_image_files(given.scenes/'images'), label_func=given.label, seed=1,
        codes=np.array(given.codes), item_tfms=Resize((32, 48)),
        batch_tfms=[*aug_transforms(), Normalize.from_stats(*imagenet_stats, cuda=False)])
    _all_the_way(given, dls)


@row('a `DataBlock` of one\'s own with `MaskBlock(codes)`')
def _(given):
    dls = given.block()
    before = dict(vars(dls))
    _all_the_way(given, dls)
    assert vars(dls) == before and not hasattr(dls, 'vocab')


def _all_the_way(given, dls, **kw):
    l = given.learner(dls, metrics=[PixelAccuracy(), MeanIoU(), ClassIoU('pole'), BoundaryF1()],
        **kw)
    assert l.segmenter['ignore_index'] == 11 and l.segmenter['codes'] == given.codes
    assert l.loss_func.ignore_index == 11 and l.loss_func.weight[11] == 0
    fit(l)
    with l.no_bar():
        l.show_results(max_n=2)
        l.dls.show_batch(max_n=2)
        p, _ = l.tta()
    assert list(p.shape[1:]) == [12, 32, 48]
    l.export('own.pkl')
    back = load_learner(given.path/'own.pkl')
    a, b = (quiet(o, lambda o: o.predict(given.file)[0]) for o in (l, back))
    assert torch.equal(plain(a), plain(b)) and list(a.shape) == [32, 48]
    assert list(predict_image(l, given.file).shape) == [32, 48]


@row('`MaskBlock()` without codes')
def _(given): given.learner(given.block(ImageBlock, MaskBlock))


@row('`MaskBlock()` without codes, and `seg_learner(dls, codes=...)`')
def _(given):
    dls = given.block(ImageBlock, MaskBlock)
    for codes in (given.codes, given.scenes/'codes.txt'): _all_the_way(given, dls, codes=codes)


@row('DataLoaders without masks, or with more than one target')
def _(given):
    dls = given.block(ImageBlock, CategoryBlock, get_y=lambda f: f.stem[-1])
    with pytest.raises(SegbookError, match=r'expected one image \[B,C,H,W\] and one mask'):
        given.learner(given.block(ImageBlock, MaskBlock(given.codes), CategoryBlock, n_inp=1,
            get_y=[given.label, lambda f: f.stem[-1]]), codes=None)
    given.learner(dls)


@row('`unet_learner` on DataLoaders of this book')
def _(given):
    l = unet_learner(given.dls, resnet18, pretrained=False, path=given.path, metrics=[MeanIoU()])
    assert l.loss_func.func.ignore_index == 11
    fit(l)
    assert list(quiet(l, lambda l: l.predict(given.file))[0].shape) == [32, 48]
    with l.no_bar(): l.show_results(max_n=2)


@row('`Resize`, `RandomResizedCrop`, `aug_transforms`, `Normalize` in `seg_dataloaders`')
def _(given):
    for kw in (dict(item_tfms=Resize(32)), dict(item_tfms=[RandomResizedCrop(32)]),
            dict(batch_tfms=aug_transforms(size=32)),
            dict(batch_tfms=Normalize.from_stats(*imagenet_stats, cuda=False))):
        l = given.learner(given.loaders(**kw))
        x, y = l.dls.one_batch()
        assert x.shape[2:] == y.shape[1:] and (set(kw) == {'batch_tfms'} or x.shape[2] == 32)
        assert 0 <= y.min() and y.max() < 12
        fit(l)


@row('`dls.new_empty`, `dl.new`, `dls.cpu`, `n_inp`')
def _(given):
    dls = given.dls
    assert dls.new_empty().vocab == dls.cpu().vocab == dls.train.new(bs=2).vocab == given.codes
    assert dls.new_empty().ignore_index == dls.valid.new(bs=1).ignore_index == 11
    assert dls.train.new(bs=2).one_batch()[0].shape[0] == 2 and dls.n_inp == 1


# ---- losses and metrics

@row('losses of fastai and PyTorch')
def _(given):
    for loss in (CrossEntropyLossFlat(axis=1, ignore_index=11),
            nn.CrossEntropyLoss(ignore_index=11)):
        fit(given.learner(loss=loss))
    for loss in (nn.CrossEntropyLoss(), CrossEntropyLossFlat(axis=1), DiceLoss()):
        with pytest.warns(UserWarning, match='learns Void'): given.learner(loss=loss)


@row('metrics of fastai: `foreground_acc`, `DiceMulti`, `JaccardCoeffMulti`')
def _(given):
    values = fit(given.learner(metrics=[foreground_acc, DiceMulti(), JaccardCoeffMulti,
        partial(accuracy, axis=1)]))
    assert len(values) == 6 and all(0 <= v <= 1 for v in values[2:])


@row('`Dice`, `JaccardCoeff` with more than two classes')
def _(given):
    with pytest.raises(SegbookError, match='JaccardCoeff multiplies class ids'):
        given.learner(metrics=JaccardCoeff())
    given.learner(metrics=[Dice])


@row('`accuracy`, `error_rate`')
def _(given):
    with pytest.raises(SegbookError, match='error_rate fails'): given.learner(metrics=error_rate)
    given.learner(metrics=[accuracy])


@row('metrics of torchmetrics')
def _(given):
    tm = pytest.importorskip('torchmetrics')
    jaccard = tm.JaccardIndex('multiclass', num_classes=12, ignore_index=11)
    accuracy = tm.classification.MulticlassAccuracy(12, average='micro', ignore_index=11)
    values = fit(given.learner(metrics=[accuracy, PixelAccuracy(), jaccard, MeanIoU()]))
    assert values[2] == pytest.approx(values[3], abs=1e-6)
    with pytest.raises(SegbookError, match='expected one number|Expected one number'):
        given.learner(metrics=tm.classification.MulticlassAccuracy(12, average=None))


# ---- the table

def table():
    "{what: works or not} of the table in chapter 12."
    cells = json.loads((ROOT/'nbs/12_learner.ipynb').read_text(encoding='utf-8'))['cells']
    texts = [''.join(c['source']) for c in cells if c['cell_type'] == 'markdown']
    text, = (t for t in texts if '| what | works | to know |' in t)
    rows = re.findall(r'^\| (.+?) \| (yes|no) \| (.*?) ?\|$', text, re.M)
    return {what: works for what, works, _ in rows}


def test_the_table_and_the_tests_have_the_same_rows(): assert table().keys() == ROWS.keys()


@pytest.mark.parametrize('what', ROWS)
def test_row(given, what, request):
    f = ROWS[what]
    extra = [request.getfixturevalue('monkeypatch')] if f.__code__.co_argcount > 1 else []
    if table()[what] == 'yes': return f(given, *extra)
    with pytest.raises(SegbookError, match='Cure:'): f(given, *extra)


# ---- what stands beside the table

EVERY_METRIC = [PixelAccuracy, MeanIoU, MeanDice, BoundaryF1, Hausdorff95]

@pytest.mark.parametrize('form', ['made', 'class', 'one', 'several classes'])
def test_every_metric_as_an_argument(given, form):
    metrics = [o() for o in EVERY_METRIC] if form == 'made' else EVERY_METRIC
    for m in metrics if form == 'one' else [metrics]:
        values = fit(given.learner(metrics=m))
        assert len(values) == 2 + (1 if form == 'one' else len(EVERY_METRIC))


def test_metrics_of_one_class_as_an_argument(given):
    names = [ClassIoU('Pole'), ClassIoU(3), BoundaryF1(cls='pole'), Hausdorff95(cls=2),
        MeanIoU(absent='zero'), MeanDice(per_image=True)]
    l = given.learner(metrics=names)
    fit(l)
    assert l.recorder.metric_names[3:-1] == ['Pole', 'class_3', 'boundary_f1_pole',
        'hausdorff95_2', 'mean_iou', 'mean_dice_per_image']
    for bad, text in ((BoundaryF1(cls='Pol'), 'Pole'), (Hausdorff95(cls='Void'), 'ignored'),
            (BoundaryF1(5), 'counts 5'), (ClassIoU, 'needs arguments'), ('mean_iou', 'expected')):
        with pytest.raises(SegbookError, match=text): given.learner(metrics=[bad])


def test_a_metric_without_a_name_and_a_function(given):
    class Share:
        def __call__(self, logits, mask): return (logits.argmax(1) == mask).float().mean()
    def shares(logits, mask): return (logits.argmax(1) == mask).float().mean()
    l = given.learner(metrics=[Share(), shares])
    values = fit(l)
    assert l.recorder.metric_names[3:-1] == ['share', 'shares'] and values[2] == values[3]


def test_one_channel_and_the_metrics_of_fastai(given):
    from segbook.data import make_cells
    cells = seg_dataloaders(make_cells(given.path/'cells', n=8, size=(32, 32), seed=1), bs=4)
    for m in (foreground_acc, DiceMulti(), Dice()):
        with pytest.raises(SegbookError, match='always class 0'):
            given.learner(cells, one_channel=True, metrics=m)
    fit(given.learner(cells, one_channel=True, metrics=[BoundaryF1(), MeanIoU]))


@pytest.mark.parametrize('how,text', [
    (dict(get_y=lambda f: np.zeros((32, 48, 3), np.uint8)), 'expected one image'),
    (dict(item_tfms=RandomResizedCrop(16), get_y=None), None),
    (dict(bs=200), 'no training batch')])
def test_batches_that_do_not_fit(given, how, text):
    if 'bs' in how:
        block = DataBlock((ImageBlock, MaskBlock(given.codes)), get_items=get_image_files,
            get_y=given.label, splitter=RandomSplitter(seed=1))
        dls = block.dataloaders(given.scenes/'images', bs=200, num_workers=0, device='cpu')
    elif text is None: return fit(given.learner(given.block(item_tfms=RandomResizedCrop(16))))
    else:
        block = TransformBlock(type_tfms=lambda o: torch.from_numpy(o))
        dls = given.block(ImageBlock, block, **how)
        dls.vocab = given.codes
    with pytest.raises(SegbookError, match=text): given.learner(dls)


def test_ids_beyond_the_codes_and_images_of_several_sizes(given, tmp_path):
    with pytest.raises(SegbookError, match='5 classes'):
        given.learner(given.block(ImageBlock, MaskBlock(given.codes[:5])))
    for f in get_image_files(given.scenes/'images')[:4]:
        n = 32 + 8*(ord(f.stem[-1]) % 2)
        Image.open(f).resize((48, n)).save(tmp_path/f.name)
    block = DataBlock((ImageBlock, MaskBlock(given.codes)), get_items=get_image_files,
        get_y=given.label, splitter=RandomSplitter(seed=1))
    dls = block.dataloaders(tmp_path, bs=2, num_workers=0, device='cpu')
    with pytest.raises(SegbookError, match='Resize'): given.learner(dls)


def test_other_names_than_the_loaders_have(given):
    with pytest.raises(SegbookError, match='know 12 others'): given.learner(codes=['a', 'b'])
    for bad in (['a', 'a'], ['a', '']):
        with pytest.raises(SegbookError, match='each one once'):
            given.learner(given.block(ImageBlock, MaskBlock), codes=bad)


@pytest.mark.parametrize('number,bad', [('2.9.0', False), ('2.10.0', True), ('2.10.1', True),
    ('2.1.0', False), ('3.0', False)])
def test_a_plum_dispatch_that_cannot_pickle_is_named_before_anything_is_written(given, monkeypatch,
        number, bad):
    monkeypatch.setattr(contract, 'version', lambda _: number)
    file = given.path/'plum.pkl'
    file.unlink(missing_ok=True)
    if not bad:
        given.shared.export('plum.pkl')
        return
    with pytest.raises(SegbookError, match=r'plum-dispatch<2\.10'): given.shared.export('plum.pkl')
    assert not file.exists()
    l = given.learner(given.loaders(num_workers=1))
    monkeypatch.setattr(multiprocessing, 'get_start_method', lambda **_: 'spawn')
    with pytest.raises(SegbookError, match=r'num_workers.*plum-dispatch<2\.10'): l.fit(1)


def test_the_requirement_leaves_out_what_does_not_fit():
    from packaging.requirements import Requirement
    text = (ROOT/'settings.ini').read_text(encoding='utf-8')
    found = re.search(r'plum-dispatch\S*', text[text.index('\nrequirements'):])[0]
    admitted = Requirement(found).specifier
    assert not any(o in admitted for o in ('2.10.0', '2.10.1')) and '2.9.0' in admitted
    assert 'RLock' in text
