"""Training in several processes: the network, the table and the files of one run, whatever happens
to one of them. Two processes on a processor, forked from one that has imported everything; and one
run with the real launcher."""
import json, os, shutil, subprocess, sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fastai.metrics import DiceMulti
from torch import nn
from torch.nn import functional as F

from data_folders import folder
from fault_runs import PATIENCE, TINY, Runs, four_layers
from segbook.cli import segbook_train
from segbook.data import make_scenes, seg_dataloaders
from segbook.learner import seg_learner
from segbook.models import MODELS

pytest.importorskip('accelerate', reason='several processes need accelerate')
pytestmark = [pytest.mark.usefixtures('one_thread'),
    pytest.mark.skipif(not hasattr(os, 'fork'), reason='this system has no fork')]
ARGS = [*TINY, '--weights', 'false', '--loss', 'cross_entropy']


def tree(path): return {str(f.relative_to(path)): f.read_bytes() for f in sorted(path.rglob('*'))
    if f.is_file()}

def about(out): return json.loads((out/'run.json').read_text())

def same_run(a, b):
    "Are two finished runs the same to the last bit, but for times and the name in the title?"
    x, y = ({k: v for k, v in tree(o).items() if k not in ('run.json', 'results.png')}
        for o in (a, b))
    assert x == y, sorted(x.keys() ^ y.keys())
    keys = 'status', 'epochs_done', 'best_epoch', 'mean_iou', 'pixel_accuracy', 'processes'
    assert [about(a)[k] for k in keys] == [about(b)[k] for k in keys]

@pytest.fixture(autouse=True)
def four(monkeypatch): monkeypatch.setitem(MODELS, 'four_layers', four_layers)

@pytest.fixture(scope='module')
def box(tmp_path_factory): return tmp_path_factory.mktemp('processes')

@pytest.fixture(scope='module')
def data(box):
    "Seven images to train on and five to validate with: neither can be divided into pairs."
    return folder(box/'data', n=12, valid=5)

@pytest.fixture(scope='module')
def runs(box):
    r = Runs(box)
    yield r
    r.close()

# what the process `rank` does at the beginning of its second epoch
AT_SECOND_EPOCH = '''
import os, signal
from segbook.callbacks import SeedEpochs
real = SeedEpochs.before_train
def before_train(self):
    if self.n == 1 and os.environ.get('RANK') == '{rank}': {what}
    real(self)
SeedEpochs.before_train = before_train
'''
def at_second_epoch(rank, what): return AT_SECOND_EPOCH.format(rank=rank, what=what)

# what each process changes on a disk, by the interpreter's own account
WRITES = '''
import os, sys
report = os.open({report!r} + os.environ['RANK'], os.O_WRONLY | os.O_CREAT)
def hook(event, args):
    if event == 'open':
        mode, flags = args[1:3]
        writes = any(o in (mode or '') for o in 'wax+') or flags & (os.O_WRONLY | os.O_RDWR)
        if not writes or args[0] == os.devnull or isinstance(args[0], int): return
    elif event not in ('os.mkdir', 'os.rename', 'os.remove', 'os.rmdir', 'os.truncate',
        'os.link', 'os.symlink'): return
    os.write(report, f'{{event}} {{args}}\\n'.encode())
sys.addaudithook(hook)
'''

@pytest.fixture(scope='module')
def pair(runs, data, box):
    "A run of two processes to which nothing happened."
    ended = runs.team('--data', data, '--out', box/'pair', *ARGS,
        before=WRITES.format(report=str(box/'written by ')))
    assert [o.rc for o in ended] == [0, 0] and 'Traceback' not in ended[0].said, ended
    return SimpleNamespace(out=box/'pair', ended=ended,
        written=[(box/f'written by {r}').read_text() for r in (0, 1)])


# ---- one run

def test_only_the_first_process_prints_and_writes(pair):
    first, second = pair.ended
    assert '2 processes: batches of 2 in each, 4 images in a step' in first.out
    assert 'picture: ' in first.out and second.said == ''
    assert all(o in pair.written[0] for o in ('os.mkdir', 'last.pt', 'run.json', 'results.png'))
    assert pair.written[1] == ''

def test_the_files_of_one_process_which_knows_nothing_of_others(pair, runs, data, box):
    out = box/'alone'
    ended = runs('--data', data, '--out', out, *ARGS, before='''
import os, sys
real = os._exit
def leave(rc):
    print('accelerate' in sys.modules, 'torch.distributed.run' in sys.modules, flush=True)
    real(rc)
os._exit = leave
''')
    assert ended.rc == 0 and ended.out.endswith('\nFalse False\n'), ended.said
    assert sorted(tree(out)) == sorted(tree(pair.out))
    assert [about(o)['processes'] for o in (out, pair.out)] == [1, 2]
    assert ' processes: ' not in ended.out

def scores_by_hand(learn, dls):
    "Loss, accuracy and mean IoU over the validation images, without this library's or fastai's."
    losses, pairs = [], []
    learn.model.eval()
    with torch.no_grad():
        for x, y in dls.valid:
            logits, y = learn.model(x).as_subclass(torch.Tensor), y.as_subclass(torch.Tensor)
            losses.append((F.cross_entropy(logits, y, ignore_index=2).item(), len(y)))
            pairs.append((logits.argmax(1).numpy().ravel(), y.numpy().ravel()))
    p, t = (np.concatenate(o) for o in zip(*pairs))
    p, t = p[t != 2], t[t != 2]
    ious = [((p == k) & (t == k)).sum()/((p == k) | (t == k)).sum() for k in (0, 1)]
    n = sum(n for _, n in losses)
    assert n == 5 and losses[-1][1] == 1 # the last batch is short
    return [sum(o*n for o, n in losses)/n, (p == t).mean(), np.mean(ious)]

def test_scores_are_those_of_one_process(pair, data):
    from safetensors.torch import load_file
    dls = seg_dataloaders(data, bs=2)
    learn = seg_learner(dls, 'four_layers', 'resnet18', pretrained=False)
    learn.model.load_state_dict(load_file(pair.out/'model'/'model.safetensors'))
    wanted = scores_by_hand(learn, learn.dls)
    names, *rows = [o.split(',') for o in (pair.out/'metrics.csv').read_text().splitlines()]
    row = dict(zip(names, rows[about(pair.out)['best_epoch'] - 1]))
    got = [float(row[k]) for k in ('valid_loss', 'pixel_accuracy', 'mean_iou')]
    assert np.allclose(got, wanted, rtol=0, atol=1e-6), (got, wanted)
    assert len(rows) == 3 and abs(about(pair.out)['mean_iou'] - wanted[2]) < 1e-6


# ---- stopped, killed, failed

@pytest.fixture(scope='module')
def stopped(runs, data, box):
    "The folder of a run of two processes that was stopped in its second epoch."
    out = box/'stopped'
    first, second = runs.team('--data', data, '--out', out, *ARGS,
        before=at_second_epoch(0, 'os.kill(os.getpid(), signal.SIGTERM)'))
    assert first.rc == 143 and second.rc in (143, 1) and second.said == '', (first, second)
    assert 'stopped by the signal SIGTERM. 1 of 3 epochs is kept in' in first.err
    assert f'torchrun --nproc_per_node 2 --no-python segbook_train --resume {out}' in first.err
    assert about(out)['status'] == 'interrupted'
    return out

@pytest.fixture
def half(stopped, tmp_path): return Path(shutil.copytree(stopped, tmp_path/'run'))

def test_stopped_and_resumed(half, runs, pair):
    ended = runs.team('--resume', half)
    assert [o.rc for o in ended] == [0, 0] and ended[1].said == '', ended
    assert 'going on after epoch 1 of 3' in ended[0].out
    same_run(half, pair.out)

def test_another_number_of_processes_is_refused(half, runs, data, box, capsys):
    was = tree(half)
    assert segbook_train(['--resume', str(half)]) == 2
    err = capsys.readouterr().err
    assert 'holds a run of 2 processes, and this is one of one process' in err
    assert f'torchrun --nproc_per_node 2 --no-python segbook_train --resume {half}' in err
    # a checkpoint says it too, to those who train in Python
    run = about(half)
    (half/'run.json').write_text(json.dumps({**run, 'processes': 1}))
    assert segbook_train(['--resume', str(half)]) == 2
    assert 'processes was 2, now 1' in capsys.readouterr().err
    (half/'run.json').write_text(json.dumps({**run, 'processes': 'two'}))
    assert segbook_train(['--resume', str(half)]) == 2
    assert "says processes='two'" in capsys.readouterr().err
    assert {k: v for k, v in tree(half).items() if k != 'run.json'} == {k: v
        for k, v in was.items() if k != 'run.json'}
    # and the other way round
    del run['processes'] # as in a run of an older version, which had one
    (half/'run.json').write_text(json.dumps(run))
    ended = runs.team('--resume', half, launcher=False)
    assert [o.rc for o in ended] == [2, 0] and ended[1].said == ''
    assert 'holds a run of one process, and this is one of 2 processes' in ended[0].err

GONE = 'has ended without a word (killed, or out of memory)'

@pytest.mark.parametrize('rank, launcher', [(0, True), (1, True), (1, False)])
def test_killed(rank, launcher, runs, data, pair, tmp_path):
    """The system kills a process: with a launcher, which ends the other one, or without. It is
    told once, all end, and the run goes on from its checkpoint."""
    out = tmp_path/'run'
    ended = runs.team('--data', data, '--out', out, *ARGS, launcher=launcher,
        before=at_second_epoch(rank, 'os.kill(os.getpid(), signal.SIGKILL)'))
    said = ''.join(o.err for o in ended)
    who = 'the first process of this run' if rank == 0 else 'process 2 of 2'
    assert ended[rank].rc == -9 and ended[1 - rank].rc in (1, 143) and 'Traceback' not in said
    assert said.count(f'{who} {GONE}') == 1 == said.count('Go on with'), ended
    assert f'torchrun --nproc_per_node 2 --no-python segbook_train --resume {out}' in said
    if (rank, launcher) == (1, False): return # two of three are enough
    assert [o.rc for o in runs.team('--resume', out)] == [0, 0]
    same_run(out, pair.out)

def test_a_failure_of_the_second_process_is_told_by_the_first(runs, data, tmp_path):
    what = 'raise OSError(5, "Input/output error", "a.png")'
    first, second = runs.team('--data', data, '--out', tmp_path/'run', *ARGS, launcher=False,
        before=at_second_epoch(1, what))
    assert first.rc == 1 == second.rc and second.said == ''
    assert 'process 2 of 2 failed: OSError: [Errno 5] Input/output error' in first.err
    assert '1 of 3 epochs is kept' in first.err and 'Traceback' not in first.err
    assert (tmp_path/'run'/'checkpoint'/'last.pt').exists()

def test_what_cannot_be_used_is_told_once_and_nothing_is_written(runs, data, tmp_path):
    odd = "\nimport segbook.cli.team as t\nif t.os.environ['RANK'] == '1': t.split_mark = str\n"
    for args, before, text in ((['--bs', '5'], '', '7 training images shared by 2 processes are 4 '
            'each, fewer than a batch of 5. Cure: bs=4 (--bs 4), or fewer processes'),
            ([], odd, 'Process 2 of 2 failed: it finds other images'),
            (['--epochs', '0'], '', 'argument --epochs: found')):
        first, second = runs.team('--data', data, '--out', tmp_path/'run', *ARGS, *args,
            before=before, launcher=False)
        assert first.rc == 2 and text in first.err, first
        assert second.said == '' and not list(tmp_path.iterdir())


# ---- in Python

PLAIN = '''
import os, sys
from pathlib import Path
import torch
from torch import nn
from fastai.vision.all import Callback, SGD
from segbook.data import seg_dataloaders
from segbook.learner import seg_learner, train_segmenter
from segbook.models import MODELS
from segbook.errors import SegbookError
sys.path.insert(0, {tests!r})
from fault_runs import four_layers
rank, data, box, found = int(os.environ['RANK']), Path({data!r}), Path({box!r}), dict()
'''
AS_ONE = '''
class Seen(Callback):
    steps = []
    def before_batch(self):
        if self.training: self.steps.append([o.as_subclass(torch.Tensor) for o in (self.x, self.y)])
MODELS['plain'] = lambda n_classes, encoder, in_channels=3, pretrained=False: nn.Conv2d(3, 3, 1)
from segbook.losses import CrossEntropyLoss
dls = seg_dataloaders(data, bs=2, batch_tfms=None)
learn = seg_learner(dls, 'plain', 'resnet18', pretrained=False, loss=CrossEntropyLoss(),
    opt_func=SGD, keep_best=False, metrics=[])
MODELS['plain'] = None
found['begin'] = {k: o.clone() for k, o in learn.model.state_dict().items()}
with learn.distrib_ctx(), learn.no_bar(), learn.no_logging():
    found['rows'] = [*train_segmenter(learn, 2, lr=.1, schedule='flat', cbs=Seen())]
found.update(steps=Seen.steps, end=learn.model.state_dict())
assert type(learn.model) is nn.Conv2d and [type(o).__name__ for o in learn.dls] == ['SegDL']*2
'''
HARD = '''
from fastai.metrics import DiceMulti
def fresh(**kw):
    dls = seg_dataloaders(data, bs=2)
    return seg_learner(dls, 'four_layers', 'resnet18', pretrained=False, **kw)
learn = fresh(metrics=[DiceMulti()])
try: train_segmenter(learn, 1)
except SegbookError as e: found['alone'] = str(e)
with learn.distrib_ctx(), learn.no_bar(), learn.no_logging():
    found['dice'] = [*train_segmenter(learn, 1)]
    found['predictions'] = len(learn.get_preds()[0])
found['model'] = learn.model.state_dict()

class Spoil(Callback): # in one process alone
    order = 5
    def after_loss(self):
        if not self.training or rank == 0 or self.iter == 0: return
        self.learn.loss = self.learn.loss_grad = self.loss_grad*float('nan')
learn = fresh()
with learn.distrib_ctx(), learn.no_bar(), learn.no_logging(): train_segmenter(learn, 2, cbs=Spoil())
found['why'] = learn.stop_diverged.why
found['sound'] = all(o.isfinite().all() for o in learn.model.state_dict().values())

learn = fresh(metrics=[])
idle = learn.model[0].weight.new_zeros(3).requires_grad_()
learn.model.register_parameter('idle', nn.Parameter(idle.detach()))
try:
    with learn.distrib_ctx(), learn.no_bar(), learn.no_logging(): learn.fit(1)
except SegbookError as e: found['idle'] = str(e)
found['unwrapped'] = type(learn.model) is nn.Sequential
'''
END = '''
torch.save(found, box/f'{rank}.pt')
os._exit(0)
'''

def in_two(runs, script, data, box):
    "What each of two processes has found in a script."
    begin = PLAIN.format(tests=str(Path(__file__).parent), data=str(data), box=str(box))
    ended = runs.team(before=begin + script + END)
    assert [o.rc for o in ended] == [0, 0], [o.said for o in ended]
    return ended, [torch.load(box/f'{r}.pt', weights_only=False) for r in (0, 1)]

def test_steps_are_those_of_one_process_with_both_batches(runs, data, tmp_path):
    "Gradient descent by hand, over the images that both processes saw in a step."
    _, (a, b) = in_two(runs, AS_ONE, data, tmp_path)
    layer, n = nn.Conv2d(3, 3, 1), 0
    layer.load_state_dict(a['begin'])
    for (x, y), (u, v) in zip(a['steps'], b['steps'], strict=True):
        loss = F.cross_entropy(layer(torch.cat([x, u])), torch.cat([y, v]))
        layer.zero_grad()
        loss.backward()
        with torch.no_grad():
            for p in layer.parameters(): p -= .1*p.grad
        n += len(x)
    assert n == 8 # twice four of the seven images, the first one again
    for k, o in layer.state_dict().items():
        assert torch.equal(a['end'][k], b['end'][k]) and torch.allclose(a['end'][k], o, atol=1e-6)
        assert not torch.allclose(a['begin'][k], o, atol=1e-4)
    assert a['rows'] == b['rows'] and len(a['rows']) == 2
    # each of the seven is seen in an epoch, one of them twice, and the order changes
    epochs = [[o.sum().item() for s in (a, b) for x, _ in s['steps'][i:i + 2] for o in x]
        for i in (0, 2)]
    assert [len(o) for o in epochs] == [8, 8] and [len({*o}) for o in epochs] == [7, 7]
    assert epochs[0] != epochs[1]

def test_hard_cases(runs, data, tmp_path):
    (first, second), (a, b) = in_two(runs, HARD, data, tmp_path)
    assert 'each would train for itself. Cure: with learn.distrib_ctx()' in a['alone'] == b['alone']
    # a metric that keeps its counts to itself: each process validates all images
    assert a['dice'] == b['dice'] and a['predictions'] == b['predictions'] == 5
    assert first.out.count('since dice_multi cannot be added up') == 1 and second.out == ''
    assert all(torch.equal(o, b['model'][k]) for k, o in a['model'].items())
    learn = seg_learner(seg_dataloaders(data, bs=2), 'four_layers', 'resnet18', pretrained=False,
        metrics=[DiceMulti()])
    learn.model.load_state_dict(a['model'])
    with learn.no_bar(): alone = learn.validate()
    assert np.allclose(a['dice'][0][1:], alone, atol=1e-6)
    # a loss of NaN in one of them stops both, at the same batch, with the same sound weights
    assert a['why'] == b['why'] == 'the loss of batch 2 is nan (epoch 1)' and a['sound']
    assert first.out.count('training stopped: ') == 1
    assert '1 weight of the network took no part in the loss (idle)' in a['idle'] == b['idle']
    assert a['unwrapped'] and b['unwrapped']


UNET = '''
dls = seg_dataloaders(data, bs=3, seed=1, device='cpu')
learn = seg_learner(dls, encoder='mobilenetv3_small_050', pretrained=False)
with learn.distrib_ctx(sync_bn=False, in_notebook=False), learn.no_bar(), learn.no_logging():
    rows = train_segmenter(learn, 2, folder=box/'run')
with learn.no_bar(): whole = learn.validate() # each process by itself, on all validation images
found.update(rows=[*rows], whole=list(whole), model=learn.model.state_dict())
'''

def test_two_processes_train_one_network(runs, tmp_path):
    path = make_scenes(tmp_path/'scenes', n=14, size=(32, 48), seed=1)
    _, (a, b) = in_two(runs, UNET, path, tmp_path)
    run = tmp_path/'run'
    assert all(torch.equal(v, b['model'][k]) for k, v in a['model'].items()) # one network
    assert a['rows'] == b['rows'] and len(a['rows']) == 2
    best = max(a['rows'], key=lambda r: r[3])
    # the table counts each validation image once; the best weights are back
    assert np.allclose(a['whole'][1:], best[2:], atol=1e-6)
    assert not any(k.startswith('module.') for k in torch.load(run/'checkpoint/last.pt',
            weights_only=True)['model'])
    # the checkpoint of two is the checkpoint of one
    dls = seg_dataloaders(path, bs=3, seed=1, device='cpu')
    alone = seg_learner(dls, encoder='mobilenetv3_small_050', pretrained=False)
    alone.model.load_state_dict(torch.load(run/'checkpoint/best.pt', weights_only=True)['model'])
    with alone.no_bar(): assert np.allclose(list(alone.validate()), best[1:], atol=1e-6)


# ---- the real launcher

def test_accelerate_launch(data, tmp_path):
    "The command itself, as `accelerate launch` starts it on a machine without GPUs."
    (tmp_path/'train.py').write_text('import sys\nfrom segbook.cli import segbook_train\n'
        'sys.exit(segbook_train())\n')
    start = [sys.executable, '-m', 'accelerate.commands.launch', '--multi_gpu', '--num_processes',
        '2', '--main_process_port', '0', str(tmp_path/'train.py')]
    p = subprocess.run([*start, '--data', str(data), '--out', str(tmp_path/'run'), '--bs', '2',
            '--epochs', '1', '--encoder', 'mobilenetv3_small_050', '--pretrained', 'false',
            '--size', '32', '--workers', '0'], capture_output=True, text=True, timeout=PATIENCE,
        env={**os.environ, 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': ''})
    assert p.returncode == 0, p.stderr[-3000:]
    assert p.stdout.count('picture: ') == 1 and about(tmp_path/'run')['processes'] == 2
