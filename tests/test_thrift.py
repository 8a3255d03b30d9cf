"""Training that wastes nothing: averaged weights, batches in parts, 16-bit numbers. Each against an
oracle that shares no code with it, and each through a stop."""
import json, pickle
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np, pytest, torch
from scipy.ndimage import label
from torch import nn
from torch.optim.swa_utils import AveragedModel
from fastai.callback.core import Callback, CancelFitException, CancelStepException
from fastai.callback.tracker import EarlyStoppingCallback, SaveModelCallback
from fastai.callback.training import GradientClip
from fastai.losses import CrossEntropyLossFlat
from fastai.torch_core import set_seed
from segbook.accumulation import loss_of_part, part_rows
from segbook.cli import segbook_train
from segbook.data import make_scenes, seg_dataloaders
from segbook.data.images import read_image
from segbook.export import load_segmenter, save_segmenter
from segbook.learner import MaskMixUp, SegLearner, seg_learner, train_segmenter
from segbook.losses import (
    BorderWeightedLoss, CombinedLoss, CrossEntropyLoss, DiceLoss, FocalLoss, class_weights,
)
from segbook.masks import SegbookError
from segbook.masks.arrays import read_mask
from segbook import precision

TINY = 'mobilenetv3_small_050'
pytestmark = pytest.mark.usefixtures('one_thread')

@pytest.fixture(scope='module')
def dls(tmp_path_factory):
    path = make_scenes(tmp_path_factory.mktemp('scenes')/'scenes', n=14, size=(32, 48), seed=1)
    return seg_dataloaders(path, bs=5, seed=1)

class Small(nn.Module):
    "A network of milliseconds, with an encoder and a normalisation layer."
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.GELU())
        self.head = nn.Conv2d(8, 12, 3, padding=1)
    def forward(self, x): return self.head(self.encoder(x))

class Plain(Small):
    "The same without a layer that looks at a whole batch."
    def __init__(self):
        super().__init__()
        self.encoder[1] = nn.Identity()

def fresh(dls, net=Small, **kw):
    "A learner of `seg_learner`, with the small network in place of the one that it would build."
    with patch('segbook.learner.seg_model', lambda *a, **k: net()):
        return seg_learner(dls, encoder=TINY, pretrained=False, **kw)

def train(learn, *args, **kw):
    with learn.no_bar(), learn.no_logging(): return train_segmenter(learn, *args, **kw)

def weights(learn): return {k: o.clone() for k, o in learn.model.state_dict().items()}
def equal(a, b): return a.keys() == b.keys() and all(torch.equal(o, b[k]) for k, o in a.items())

class StopIn(Callback):
    "A stop in the middle of an epoch, counted from the start of this fit."
    def __init__(self, epoch, training=True): self.at, self.mode = epoch, training
    def after_batch(self):
        if self.training == self.mode and self.epoch == self.at: raise KeyboardInterrupt

class Oracle(Callback):
    """PyTorch's AveragedModel beside a training: what it holds at the end of each epoch, and the
    weights that the optimiser moves."""
    order = 90
    def __init__(self, decay): self.decay, self.seen, self.trained = decay, [], []
    def before_train(self):
        if self.seen: return
        share = lambda n: 1 - min(self.decay, (1 + n)/(10 + n))
        self.net = AveragedModel(self.model, use_buffers=True, avg_fn=lambda a, w, n:
            a + (w - a)*share(int(n)) if a.is_floating_point() else w)
        self.net.n_averaged.fill_(1)
    def after_step(self): self.net.update_parameters(self.model)
    def after_train(self):
        self.seen.append({k: o.clone() for k, o in self.net.module.state_dict().items()})
        self.trained.append(weights(self.learn))

# ---- averaged weights

def test_the_average_is_that_of_pytorch_and_is_what_is_scored_and_kept(dls):
    plain, learn, seen = fresh(dls), fresh(dls, ema=.8, keep_best=False), Oracle(.8)
    train(plain, 2)
    rows = train(learn, 2, cbs=seen)
    last = weights(learn)
    for k, o in seen.seen[1].items():
        assert torch.allclose(last[k].double(), o.double(), atol=1e-6), k
    assert not equal(last, seen.trained[1])
    with learn.no_bar(): again = learn.validate()
    assert again == list(rows[-1])[1:]           # the row of the table is the average's
    scored = weights(learn)
    assert equal(scored, last)                   # and a validation changes nothing
    # the optimiser moved what it moves without an average
    alone, plain_seen = fresh(dls, keep_best=False), Oracle(.8)
    train(alone, 2, cbs=plain_seen)
    assert equal(plain_seen.trained[1], seen.trained[1])

def test_the_best_epoch_of_the_average_is_kept(dls):
    learn = fresh(dls, ema=.7)
    rows = train(learn, 3)
    with learn.no_bar(): assert list(learn.validate()) == list(rows[rows.best_epoch()])[1:]

@pytest.mark.parametrize('keep_best', [True, False])
@pytest.mark.parametrize('in_training', [True, False])
def test_an_average_survives_a_stop(dls, tmp_path, keep_best, in_training):
    kw = dict(ema=.9, keep_best=keep_best)
    whole = fresh(dls, **kw)
    rows = train(whole, 3)
    with pytest.raises(KeyboardInterrupt):
        train(fresh(dls, **kw), 3, folder=tmp_path, cbs=StopIn(1, in_training))
    again = fresh(dls, **kw)
    rows2 = train(again, 3, folder=tmp_path, resume=True)
    assert rows2 == rows and equal(weights(again), weights(whole))
    over = fresh(dls, **kw)                      # a run that has nothing left to train
    train(over, 3, folder=tmp_path, resume=True)
    assert equal(weights(over), weights(whole))
    for o in (dict(), dict(ema=.5)):
        with pytest.raises(SegbookError, match='ema was 0.9, now'):
            train(fresh(dls, **{**kw, 'ema': None, **o}), 3, folder=tmp_path, resume=True)

def test_early_stopping_with_an_average_survives_a_stop(dls, tmp_path):
    early = lambda: EarlyStoppingCallback('valid_loss', min_delta=10., patience=1)
    whole = fresh(dls, ema=.9)
    rows = train(whole, 5, folder=tmp_path/'whole', cbs=early())
    assert len(rows) == 2
    state = torch.load(tmp_path/'whole/checkpoint/last.pt', weights_only=True)
    assert state['average']['steps'] == 4 and not equal(state['model'], weights(whole))
    with pytest.raises(KeyboardInterrupt):
        train(fresh(dls, ema=.9), 5, folder=tmp_path/'broken', cbs=[early(), StopIn(1)])
    again = fresh(dls, ema=.9)
    assert train(again, 5, folder=tmp_path/'broken', resume=True, cbs=early()) == rows
    assert equal(weights(again), weights(whole))

def test_an_average_of_a_run_that_diverges_is_sound(dls, capsys):
    class Fault(Callback):
        def after_loss(self):
            if self.training and self.epoch == 1: self.learn.loss_grad *= float('nan')
    learn = fresh(dls, ema=.9)
    rows = train(learn, 3, cbs=Fault())
    assert learn.stop_diverged.why and len(rows) == 1
    assert all(o.isfinite().all() for o in weights(learn).values())
    with learn.no_bar(): assert list(learn.validate()) == list(rows[0])[1:]

def test_an_end_in_the_middle_of_an_epoch_leaves_the_average(dls):
    class End(Callback):
        order = 95
        def after_batch(self):
            if self.training and self.epoch == 1: raise CancelFitException
    learn, seen = fresh(dls, ema=.9, keep_best=False), Oracle(.9)
    with learn.no_bar(), learn.no_logging(): learn.fit(3, cbs=[seen, End()])
    for k, o in seen.net.module.state_dict().items():
        assert torch.allclose(weights(learn)[k].double(), o.double(), atol=1e-6), k

def test_fastais_own_keeper_of_weights_gets_the_average(dls, tmp_path):
    learn = fresh(dls, ema=.9, keep_best=False, path=tmp_path)
    with learn.no_bar(), learn.no_logging():
        learn.fit(2, cbs=SaveModelCallback('valid_loss'))
        best = min(range(2), key=lambda i: learn.recorder.values[i][1])
        score = learn.recorder.values[best][1]
        assert learn.validate()[0] == score

def test_what_is_frozen_stays_and_skipped_steps_do_not_count(dls):
    class Skip(Callback):
        order, n = 90, 0
        def before_step(self):
            self.n += 1
            if self.n == 1: raise CancelStepException
    learn = fresh(dls, ema=.9, train_bn=False)
    learn.freeze()
    before = weights(learn)
    with learn.no_bar(), learn.no_logging(): learn.fit(2, cbs=Skip())
    assert learn.average_weights.steps == 3
    first = learn.opt.param_lists[0]
    frozen = {k for k, o in learn.model.named_parameters() if any(o is p for p in first)}
    assert frozen and all(torch.equal(weights(learn)[k], before[k]) for k in frozen)

def test_an_average_is_exported_and_the_rate_finder_leaves_it_alone(dls, tmp_path):
    learn = seg_learner(dls, encoder=TINY, pretrained=False, ema=.9, path=tmp_path)
    before = weights(learn)
    with learn.no_bar(): learn.lr_find(num_it=5, show_plot=False)
    assert equal(weights(learn), before) and learn.average_weights.other is None
    train(learn, 1)
    loaded = load_segmenter(save_segmenter(learn, tmp_path/'m')).model.state_dict()
    assert equal(dict(loaded), weights(learn))

@pytest.mark.parametrize('kw', [dict(ema=0), dict(ema=1), dict(ema='a lot'), dict(ema=True),
    dict(accumulate=0), dict(accumulate=1.5), dict(precision='bf61'), dict(precision=16)])
def test_bad_values_are_refused(dls, kw):
    name, value = next(iter(kw.items()))
    with pytest.raises(SegbookError, match=f'{name}={value!r}.*expected'): fresh(dls, **kw)

# ---- a batch in parts

@pytest.mark.parametrize('make', [None, lambda: CrossEntropyLoss(ignore_index=11),
    lambda: FocalLoss(ignore_index=11, reduction='sum'), lambda: nn.CrossEntropyLoss(),
    lambda: DiceLoss(ignore_index=11, per_image=True, absent='push'),
    lambda: CombinedLoss(CrossEntropyLoss(ignore_index=11), FocalLoss(ignore_index=11))])
@pytest.mark.parametrize('parts', [2, 4, 100])
def test_parts_train_as_the_whole_batch(dls, make, parts):
    "Five images in a batch, four parts: no part is like another, and each has its own Void."
    loss = make and make()
    runs = [fresh(dls, Plain, loss=loss, accumulate=n) for n in (1, parts)]
    rows = [train(learn, 2, 1e-2, cbs=GradientClip(1.)) for learn in runs]
    assert np.allclose(*rows, rtol=1e-5, atol=1e-6)
    for a, b in zip(*(o.model.parameters() for o in runs)):
        assert torch.allclose(a, b, atol=1e-5), (a - b).abs().max()

@pytest.mark.parametrize('weighted', [False, True])
@pytest.mark.parametrize('flat', [False, True])
@pytest.mark.parametrize('reduction', ['mean', 'sum'])
def test_the_cross_entropy_of_others_weighs_parts_by_what_they_count(weighted, flat, reduction):
    "The first part is Void alone, the others hold different numbers of pixels that count."
    torch.manual_seed(0)
    x = torch.randn(6, 4, 8, 8, requires_grad=True)
    y = torch.randint(0, 3, (6, 8, 8))
    y[:2], y[2, :7], y[4, :, :3] = 3, 3, 3
    kw = dict(ignore_index=3, reduction=reduction,
        weight=torch.tensor([1., 9, .2, 1]) if weighted else None)
    loss = CrossEntropyLossFlat(axis=1, **kw) if flat else nn.CrossEntropyLoss(**kw)
    want, = torch.autograd.grad(loss(x, y), x)
    total = sum(loss_of_part(loss, x[o], y, o) for o in part_rows(6, 3))
    got, = torch.autograd.grad(total, x)
    assert torch.allclose(total, loss(x, y), rtol=1e-6)
    assert torch.allclose(got, want, rtol=1e-5, atol=1e-8)

@pytest.mark.parametrize('given', ['pieces', 'ids', 'weights'])
@pytest.mark.parametrize('reduction', ['mean', 'sum'])
def test_border_weights_of_parts(given, reduction):
    "One part is mostly Void, another lies between cells, where the weights are large."
    torch.manual_seed(0)
    x, y = torch.randn(6, 2, 24, 24, requires_grad=True), torch.zeros(6, 24, 24, dtype=torch.long)
    y[:, 2:8, 2:11], y[:, 2:8, 13:20], y[:4, 10:20, 5:9] = 1, 1, 1
    y[:2, 5:] = 255
    y[2:4, :, :4] = 255
    ids = torch.stack([torch.from_numpy(label(o)[0]) for o in (y == 1).numpy()])
    more = dict(pieces=(), ids=(ids,), weights=(torch.rand(6, 24, 24)*9,))[given]
    loss = BorderWeightedLoss(torch.tensor([1., 7]), 255, reduction=reduction)
    want, = torch.autograd.grad(loss(x, y, *more), x)
    for _ in range(2):
        total = sum(loss_of_part(loss, x[o], y, o, *more) for o in part_rows(6, 3))
        got, = torch.autograd.grad(total, x)
        assert torch.allclose(total, loss(x, y, *more), rtol=1e-5)
        assert torch.allclose(got, want, rtol=1e-4, atol=1e-8)
        before, y = y, y.clone()  # the next batch, while the last one is still there
        y[5, 12:] = 255
        want, = torch.autograd.grad(loss(x, y, *more), x)
        assert before is not y
    assert loss.reduction == reduction and len(pickle.dumps(loss)) < 20_000

def test_the_gradient_of_parts_is_the_gradient_of_the_batch():
    "By hand: half of the batch is Void, classes weigh differently."
    torch.manual_seed(0)
    net, x = nn.Conv2d(3, 4, 3, padding=1).double(), torch.randn(6, 3, 8, 8).double()
    y = torch.randint(0, 4, (6, 8, 8))
    y[:3], y[3, :4] = 3, 3
    loss = CrossEntropyLoss(torch.tensor([1., 9, .2, 1]), 3)
    loss(net(x), y).backward()
    want = [o.grad.clone() for o in net.parameters()]
    class Keep(Callback):
        def before_step(self):
            self.grads = [o.grad.clone() for o in self.model.parameters()]
            raise CancelStepException
    keep = Keep()
    dls = SimpleNamespace(train_ds=None, device='cpu')
    learn = SegLearner(dls, net, loss_func=loss, cbs=[keep], path='.', default_cbs=False)
    from segbook.accumulation import InParts
    for n in (1, 2, 3, 4, 6):
        learn.remove_cb(InParts)
        if n > 1: learn.add_cb(InParts(n))
        learn.create_opt()
        learn.opt.zero_grad()
        learn.training = True
        learn.one_batch(0, (x, y))
        for a, b in zip(keep.grads, want): assert torch.allclose(a, b, atol=1e-12)

def test_mixed_images_in_parts(dls):
    runs = [fresh(dls, Plain, accumulate=n, cbs=MaskMixUp()) for n in (1, 3)]
    for learn in runs: train(learn, 1, 1e-2)
    for a, b in zip(*(o.model.parameters() for o in runs)): assert torch.allclose(a, b, atol=1e-5)

def test_events_and_answers_of_a_batch_in_parts(dls):
    seen = []
    class Watch(Callback):
        def before_batch(self): seen.append(('batch', len(self.x)))
        def after_loss(self): seen.append(('loss', len(self.pred)))
        def before_step(self): seen.append(('step', len(self.x)))
        def after_batch(self): seen.append(('after', len(self.pred)))
    learn = fresh(dls, accumulate=2, cbs=Watch())
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    n = len(dls.valid_ds)
    of_training = [('batch', 5), ('loss', 2), ('loss', 3), ('step', 5), ('after', 5)]
    assert seen == of_training*2 + [('batch', n), ('loss', n), ('after', n)]
    with learn.no_bar():
        p = learn.get_preds()[0]
        learn.remove_cb(learn.in_parts)
        assert torch.allclose(p, learn.get_preds()[0], atol=1e-5)

def test_parts_survive_a_stop_and_leave_no_gradient(dls, tmp_path):
    whole = fresh(dls, accumulate=3)
    rows = train(whole, 2)
    class StopInParts(Callback):
        n = 0
        def after_backward(self):
            self.n += 1
            if self.n == 8: raise KeyboardInterrupt      # the second part of a batch
    broken = fresh(dls, accumulate=3)
    with pytest.raises(KeyboardInterrupt): train(broken, 2, folder=tmp_path, cbs=StopInParts())
    assert all(o.grad is None or not o.grad.any() for o in broken.model.parameters())
    again = fresh(dls, accumulate=3)
    assert train(again, 2, folder=tmp_path, resume=True) == rows
    assert equal(weights(again), weights(whole))
    with pytest.raises(SegbookError, match='accumulate was 3, now 1'):
        train(fresh(dls), 2, folder=tmp_path, resume=True)

def test_a_part_of_one_image_that_normalisation_cannot_take(dls):
    class Squeezed(Small):
        def forward(self, x): return super().forward(x.mean((2, 3), True)).expand(-1, -1, 32, 48)
    learn = fresh(dls, Squeezed, accumulate=5)
    with pytest.raises(SegbookError, match='one of 5 parts of a batch.*smaller accumulate'):
        train(learn, 1)

def saved_bytes(run):
    "Bytes that a pass keeps for the backward pass, at the most at one time."
    live = dict(now=0, most=0)
    class Kept:
        def __init__(self, x):
            self.x, live['now'] = x, live['now'] + x.nbytes
            live['most'] = max(live.values())
        def __del__(self): live['now'] -= self.x.nbytes
    with torch.autograd.graph.saved_tensors_hooks(Kept, lambda o: o.x): run()
    return live['most']

def test_parts_take_less_memory(dls):
    learns = [fresh(dls, accumulate=n) for n in (1, 5)]
    def one(learn):
        def run():
            with learn.no_bar(), learn.no_logging(): learn.fit(1)
        return saved_bytes(run)
    whole, parts = map(one, learns)
    assert parts < .35*whole

# ---- precision

fast = pytest.mark.skipif(not precision.fast_bf16('cpu'), reason='no instructions for bf16 here')

def test_the_default_on_a_processor_is_32_bits(dls):
    assert not hasattr(fresh(dls), 'mixed_precision')
    assert precision.precision_of(fresh(dls)) == 'float32'

@fast
def test_bf16_trains_the_network_alone_in_16_bits(dls):
    types = set()
    class Look(Callback):
        order = 90
        def after_pred(self): types.add(self.pred.dtype)
        def after_loss(self): types.add(self.loss.dtype)
        def after_batch(self): assert not torch.is_autocast_enabled('cpu')
    rows, inside = {}, set()
    for p in ('float32', 'bf16'):
        learn = fresh(dls, precision=p, cbs=Look())
        if p == 'bf16':
            learn.model.register_forward_hook(lambda m, i, o: inside.add(o.dtype))
        rows[p] = train(learn, 2)
        kinds = {o.dtype for o in learn.model.state_dict().values()}
        assert kinds == {torch.float32, torch.int64}
    assert types == {torch.float32} and inside == {torch.bfloat16}
    assert rows['bf16'] != rows['float32']
    assert np.allclose(np.array(rows['bf16'])[:, :2], np.array(rows['float32'])[:, :2], rtol=.05)

@fast
def test_nothing_stays_in_16_bits_after_an_interruption(dls):
    class Interrupted(Small):
        def forward(self, x): raise KeyboardInterrupt
    learn = fresh(dls, Interrupted, precision='bf16')
    with pytest.raises(KeyboardInterrupt), learn.no_bar(), learn.no_logging(): learn.fit(1)
    assert not torch.is_autocast_enabled('cpu')

@fast
def test_bf16_in_parts_with_an_average_survives_a_stop(dls, tmp_path):
    kw = dict(precision='bf16', accumulate=2, ema=.9)
    whole = fresh(dls, **kw)
    rows = train(whole, 2)
    with pytest.raises(KeyboardInterrupt):
        train(fresh(dls, **kw), 2, folder=tmp_path, cbs=StopIn(1))
    again = fresh(dls, **kw)
    assert train(again, 2, folder=tmp_path, resume=True) == rows
    assert equal(weights(again), weights(whole))
    with pytest.raises(SegbookError, match="precision was 'bf16', now 'float32'"):
        train(fresh(dls, **{**kw, 'precision': None}), 2, folder=tmp_path, resume=True)

def test_a_processor_without_bf16_is_told_before_any_work(dls, monkeypatch):
    monkeypatch.setattr(precision, 'fast_bf16', lambda device: False)
    monkeypatch.setattr(torch.optim.AdamW, 'step', None)
    with pytest.raises(SegbookError, match='no instructions for bf16.*--precision float32'):
        fresh(dls, precision='bf16')
    assert precision.precision_of(fresh(dls, precision='auto')) == 'float32'

def test_an_older_checkpoint_counts_as_32_bits_and_whole_batches(dls, tmp_path):
    from segbook.callbacks import read_state, write_state
    learn = fresh(dls)
    with pytest.raises(KeyboardInterrupt): train(learn, 2, folder=tmp_path, cbs=StopIn(1))
    file = tmp_path/'checkpoint/last.pt'
    state = read_state(file, '')
    for k in ('precision', 'ema', 'accumulate'): del state['run'][k]
    del state['average']
    write_state(state, file)
    if precision.fast_bf16('cpu'):
        with pytest.raises(SegbookError, match="precision was 'float32', now 'bf16'"):
            train(fresh(dls, precision='bf16'), 2, folder=tmp_path, resume=True)
    again, whole = fresh(dls), fresh(dls)
    assert train(again, 2, folder=tmp_path, resume=True) == train(whole, 2)
    assert equal(weights(again), weights(whole))

# ---- the command

def command(*args): return segbook_train([*map(str, args)])

def test_the_command_averages_and_passes_parts(tmp_path, capsys, monkeypatch):
    "The options reach the learner, stand in run.json, and hold for the run that is resumed."
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('SEGBOOK_DATA_ROOT', str(tmp_path))
    args = ['--n', 8, '--size', '32,48', '--encoder', TINY, '--pretrained', 'false', '--bs', 4,
        '--epochs', 2]
    given = [*args, '--ema', .9, '--accumulate', 2, '--out', 'run']
    with patch('segbook.learner.seg_model', lambda *a, **k: Small()):
        with patch('segbook.export.save_segmenter', side_effect=KeyboardInterrupt):
            assert command(*given) == 130
        said = capsys.readouterr().out
        assert 'half-life of 7 steps' in said and 'passes in 2 parts' in said
        old = json.loads(Path('run/run.json').read_text())['arguments']
        assert [old[k] for k in ('ema', 'accumulate', 'precision')] == [.9, 2, 'float32']
        for more, text in ((('--ema', .99), '--ema was 0.9, now 0.99'),
                (('--accumulate', 4), '--accumulate was 2, now 4'),
                (('--precision', 'bf16'), '--precision was float32, now bf16')):
            assert command('--resume', 'run', *more) == 2
            assert text in capsys.readouterr().err
    from segbook.cli.run_folder import old_run
    assert old_run(dict(resume='run', precision='auto'))[1]['arguments']['precision'] == 'float32'
    record = json.loads(Path('run/run.json').read_text())      # of an older segbook, on a GPU
    for k in ('ema', 'accumulate', 'precision'): del record['arguments'][k]
    for device, want in (('cpu', 'float32'), ('An Old GPU', 'float16')):
        Path('run/run.json').write_text(json.dumps({**record, 'device': device}))
        a = old_run(dict(resume='run'))[1]['arguments']
        assert [a[k] for k in ('ema', 'accumulate', 'precision')] == [None, 1, want]

def test_the_command_says_before_any_work_that_there_is_no_bf16(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(precision, 'fast_bf16', lambda device: False)
    assert command('--precision', 'bf16', '--data', 'not_there') == 2
    assert 'no instructions for bf16' in capsys.readouterr().err
    for args, text in ((('--precision', 'bf61'), 'float32, bf16, float16 or auto'),
            (('--ema', '1'), 'between 0 and 1'), (('--accumulate', '0'), 'at least 1')):
        assert command(*args) == 2
        assert text in capsys.readouterr().err
    assert not list(tmp_path.iterdir())

# ---- a compiled network

def test_a_compiled_network_trains_as_the_plain_one_and_leaves_no_trace(dls, tmp_path):
    runs = [fresh(dls), fresh(dls, compile=True), fresh(dls, compile=True, accumulate=2)]
    for learn in runs[1:]: learn.compile_network.backend = 'eager'
    rows = [train(learn, 2, folder=tmp_path/str(i)) for i, learn in enumerate(runs)]
    assert rows[1] == rows[0] and equal(weights(runs[0]), weights(runs[1]))
    for learn in runs[1:]:
        assert learn.compile_network.call is not None and learn.compile_network.why is None
        assert learn.model._compiled_call_impl is None and type(learn.model) is Small
    with learn.no_bar(): assert len(learn.get_preds()[0]) == len(dls.valid_ds)
    saved = torch.load(tmp_path/'1/checkpoint/last.pt', weights_only=True)['model']
    assert saved.keys() == weights(runs[0]).keys()

@pytest.mark.parametrize('kw', [dict(), dict(accumulate=2, ema=.9)])
def test_without_a_compiler_the_training_is_the_plain_one(dls, capsys, kw):
    def broken(graph, example): raise RuntimeError('no working C++ compiler\nmore of it')
    plain, learn = fresh(dls, **kw), fresh(dls, compile=True, **kw)
    learn.compile_network.backend = broken
    assert train(learn, 2) == train(plain, 2) and equal(weights(learn), weights(plain))
    said = capsys.readouterr().out
    assert said.count('not compiled') == 1 and 'RuntimeError: no working C++ compiler)' in said

# ---- decoded images that are kept

def batches(dls): return [[o.clone() for o in b] for dl in dls.loaders for b in dl]
def same_batches(a, b):
    return len(a) == len(b) and all(torch.equal(o, p) for x, y in zip(a, b) for o, p in zip(x, y))

@pytest.mark.parametrize('kw', [dict(), dict(size=(24, 40)), dict(channels=1),
    dict(crops='random', size=16, crops_per_image=2)])
def test_kept_images_give_the_same_batches(dls, capsys, kw):
    make = lambda **more: seg_dataloaders(dls.path, bs=5, seed=1, **kw, **more)
    plain, kept = make(), make(cache='auto')
    assert '14 decoded images with masks kept' in capsys.readouterr().out
    for _ in range(2):                      # and no transform has written into what is kept
        for o in (plain, kept): torch.manual_seed(0)
        runs = []
        for o in (plain, kept):
            set_seed(3)
            runs.append(batches(o))
        assert same_batches(*runs)

def test_no_file_is_read_twice_and_the_bound_holds(dls, capsys):
    n = 32*48*(3 + 1)
    with patch('segbook.data.items.read_image', wraps=read_image) as images, \
            patch('segbook.data.items.read_mask', wraps=read_mask) as masks:
        kept = seg_dataloaders(dls.path, bs=5, seed=1, cache=10**6)
        before = images.call_count, masks.call_count
        assert min(before) >= 14         # fastai and the checks look at a few before
        batches(kept)
        class_weights(kept)
        assert (images.call_count, masks.call_count) == before
        few = seg_dataloaders(dls.path, bs=5, seed=1, cache=5*n + 3)
        said = capsys.readouterr().out.splitlines()[-1]
        assert said.startswith('5 decoded images') and 'other 9 are over the bound' in said
        before = images.call_count
        for _ in few.valid: pass
        assert images.call_count > before   # training images are kept first
    held = sum(x.nbytes for tl in few.train_ds.tls for o in tl.tfms.fs if hasattr(o, 'kept')
        for x in o.kept.values())
    assert held == 5*n
    opener = next(o for o in few.train_ds.tls[0].tfms.fs if hasattr(o, 'kept'))
    again = pickle.loads(pickle.dumps(opener))
    assert not again.kept                   # no copy in an export or a spawned process
    for wrong in (0, 'much', 1.5):
        with pytest.raises(SegbookError, match='cache=.*half of the free memory'):
            seg_dataloaders(dls.path, cache=wrong)

def test_reading_processes_share_what_is_kept(dls, capsys):
    kept = seg_dataloaders(dls.path, bs=5, seed=1, cache='auto', batch_tfms=None, num_workers=1)
    plain = seg_dataloaders(dls.path, bs=5, seed=1, batch_tfms=None)
    with patch('segbook.data.items.read_image', side_effect=AssertionError):
        a = batches(kept)
    assert same_batches(a, batches(plain))
    with patch('multiprocessing.get_start_method', lambda allow_none=False: 'spawn'):
        seg_dataloaders(dls.path, bs=5, cache='auto', num_workers=1)
    assert 'started anew do not see them' in capsys.readouterr().out
