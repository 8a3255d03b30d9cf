"""A training that never loses anything: killed at any moment, on a disk that fills up, in a folder
that goes away, with damaged checkpoints, changed data, diverging numbers and odd names."""
import copy, errno, json, math, os, random, re, shutil, signal, threading, time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from PIL import Image

from fault_runs import TINY, Runs, four_layers
from properties import examples
from segbook.callbacks import content_hash, read_state, write_state
from segbook.cli import run_folder, segbook_train
from segbook.cli.terminal import guarded
from segbook.errors import SegbookError, figure_text
from segbook.models import MODELS

KILLS = int(os.environ.get('SEGBOOK_KILLS', 3))
needs_fork = pytest.mark.skipif(not hasattr(os, 'fork'), reason='this system has no fork')
pytestmark = pytest.mark.usefixtures('one_thread')


def tree(path): return {str(f.relative_to(path)): f.read_bytes() for f in sorted(path.rglob('*'))
    if f.is_file()}

def about(out): return json.loads((out/'run.json').read_text())

def same_run(a, b):
    "Are two finished runs the same to the last bit, with the same files and no other ones?"
    x, y = tree(a), tree(b)
    free = {'run.json', 'results.png'} # times, and the name of the folder in the title
    assert sorted(x) == sorted(y), sorted(x.keys() ^ y.keys())
    assert [k for k in x if k not in free and x[k] != y[k]] == []
    keys = 'status', 'epochs_done', 'best_epoch', 'mean_iou', 'pixel_accuracy'
    assert [about(a)[k] for k in keys] == [about(b)[k] for k in keys]
    assert 'process' not in about(a)

@pytest.fixture(autouse=True)
def four(monkeypatch): monkeypatch.setitem(MODELS, 'four_layers', four_layers)

@pytest.fixture(scope='module')
def box(tmp_path_factory): return tmp_path_factory.mktemp('faults')

@pytest.fixture(scope='module')
def data(box):
    from segbook.data import make_scenes
    return make_scenes(box/'scenes', n=6, size=(32, 32), seed=3)

@pytest.fixture(scope='module')
def runs(box):
    r = Runs(box)
    yield r
    r.close()

@pytest.fixture(scope='module')
def whole(runs, data, box):
    "The folder of a run to which nothing happened, and how long it took."
    begin = time.monotonic()
    ended = runs('--data', data, '--out', box/'whole', *TINY)
    assert ended.rc == 0 and 'Traceback' not in ended.said, ended.said
    return SimpleNamespace(out=box/'whole', seconds=time.monotonic() - begin)

# what a run executes first: see what is written, and let something happen at the n-th time
AT_WRITE = '''
import os, segbook.files as files
n, real = [0], os.replace
def replace(a, b, **kw):
    n[0] += 1
    if n[0] >= {n}: {what}
    return real(a, b, **kw)
files.os = type('os', (), dict(vars(os), replace=staticmethod(replace)))
'''
def at_write(n, what): return AT_WRITE.format(n=n, what=what)
def failing(code): return f'raise OSError({code}, os.strerror({code}), str(b))'

@pytest.fixture(scope='module')
def stopped(runs, data, box):
    "The folder of a run that stopped by itself after its second epoch."
    out = box/'stopped'
    ended = runs('--data', data, '--out', out, *TINY, before='''
import os, signal
from segbook.cli.terminal import EpochLines
real = EpochLines.epoch
def epoch(self, scores):
    real(self, scores)
    if self.done == 2: os.kill(os.getpid(), signal.SIGTERM)
EpochLines.epoch = epoch
''')
    assert ended.rc == 143, ended.said
    return out

@pytest.fixture
def half(stopped, tmp_path): return Path(shutil.copytree(stopped, tmp_path/'run'))


# -- killed, and resumed
WAYS = dict(KILL=[signal.SIGKILL], TERM=[signal.SIGTERM], INT=[signal.SIGINT],
    twice=[signal.SIGINT]*2) if hasattr(signal, 'SIGKILL') else {}

def killed(runs, rng, seconds, args):
    "A run that is killed at a random moment, in one of the ways; how it ended."
    way = rng.choice(list(WAYS))
    pid = runs.start(*args)
    def send():
        for k, s in enumerate(WAYS[way]):
            time.sleep(rng.uniform(0, seconds) if k == 0 else rng.uniform(0, .5))
            try: os.kill(pid, s)
            except ProcessLookupError: return
    thread = threading.Thread(target=send)
    thread.start()
    ended = runs.end()
    thread.join()
    return way, ended

@needs_fork
@pytest.mark.parametrize('seed', range(KILLS))
def test_killed_at_a_random_moment_and_resumed(seed, runs, data, whole, tmp_path):
    """Whenever a run is killed, and its resumption too, the one that is left alone ends as the run
    to which nothing happened, and leaves no other file."""
    rng, out = random.Random(seed), tmp_path/'run'
    new, again = ['--data', data, '--out', out, *TINY], ['--resume', out]
    args = new
    for _ in range(rng.choice([1, 1, 2])):
        way, ended = killed(runs, rng, whole.seconds*1.1, args)
        if way == 'KILL': assert ended.rc in (0, -9), ended.said
        else:
            # before the command listens, and after its last line, the signal ends the process
            outside = not ended.said or '\npicture: ' in ended.out
            n = 15 if way == 'TERM' else 2
            assert ended.rc in (0, 128 + n, *[-n]*outside), (way, ended.rc, ended.said)
            assert 'Traceback' not in ended.said
            # then it is as the one that was killed before left it
            untouched = 'Nothing was written' in ended.err
            if (out/'run.json').exists() and not untouched:
                assert about(out)['status'] != 'running', ended.said
        args = again if (out/'run.json').exists() else new
    ended = runs(*args)
    if ended.rc == 2 and 'nothing to resume' in ended.err: ended = runs(*new)
    assert ended.rc == 0, ended.said
    same_run(out, whole.out)
    assert [o.name for o in tmp_path.iterdir()] == ['run']

@needs_fork
def test_a_killed_run_is_told_from_a_living_one(half, capsys):
    run = about(half)
    run.update(status='running', process=dict(pid=123, host='elsewhere'))
    (half/'run.json').write_text(json.dumps(run))
    def refused():
        assert segbook_train(['--data', 'scenes', '--out', str(half)]) == 2
        return capsys.readouterr().err
    assert 'the run in it was killed (process 123 on elsewhere is gone)' in refused()
    with run_folder.locked_folder(half):
        assert 'the run in it is still running (process 123 on elsewhere)' in refused()
    assert not (half/'.lock').exists()


# -- the disk is full, the folder is gone, the terminal is closed
@needs_fork
@pytest.mark.parametrize('n', [1, 2, 4, 9, 14, 19])
@pytest.mark.parametrize('code', [errno.ENOSPC, errno.EROFS])
def test_disk_full_or_read_only_from_the_nth_write_on(n, code, runs, data, whole, tmp_path):
    out = tmp_path/'run'
    if code == errno.EROFS and n not in (2, 9): pytest.skip('two places are enough')
    ended = runs('--data', data, '--out', out, *TINY, before=at_write(n, failing(code)))
    assert ended.rc in (1, 2) and 'Traceback' not in ended.said, ended.said
    assert os.strerror(code) in ended.err and 'Cure: ' in ended.err
    assert not [f for f in tree(tmp_path) if 'segbook-part' in f or 'lock' in f]
    if not (out/'checkpoint'/'last.pt').exists(): args = ['--data', data, '--out', out, *TINY]
    else:
        assert f'segbook_train --resume {out}' in ended.err
        args = ['--resume', out]
    assert runs(*args).rc == 0
    same_run(out, whole.out)

@needs_fork
def test_a_checkpoint_larger_than_the_disk_takes(runs, data, whole, tmp_path):
    "With a limit of the system's own: torch hides what it says behind an error of its own."
    pytest.importorskip('resource')
    out, args = tmp_path/'run', ['--data', data, '--out', tmp_path/'run', *TINY]
    ended = runs(*args, before='import resource; '
        'resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))')
    assert ended.rc == 1 and 'File too large' in ended.err and 'Traceback' not in ended.said
    assert '0 of 3 epochs are kept' in ended.err and about(out)['status'] == 'failed'
    assert sorted(tree(out)) == ['checkpoint/best.pt', 'checkpoint/last.pt', 'metrics.csv',
        'run.json']
    assert runs('--resume', out).rc == 0
    same_run(out, whole.out)

@needs_fork
def test_output_folder_removed_in_mid_run(runs, data, tmp_path):
    out = tmp_path/'run'
    ended = runs('--data', data, '--out', out, *TINY,
        before='import shutil\n' + at_write(8, f'shutil.rmtree({str(out)!r}, True)'))
    assert ended.rc == 1 and 'Traceback' not in ended.said, ended.said
    assert 'it was removed while this was running' in ended.err and 'Nothing is kept' in ended.err
    assert not out.exists()

@needs_fork
@pytest.mark.parametrize('how', ['pipe', 'terminal'])
def test_nobody_reads_any_more(how, runs, half, whole):
    "A closed pipe, as of `| head`; or a closed terminal: SIGHUP, and every line that fails."
    ended = runs('--resume', half, before=f'''
import os, signal, sys
from segbook.cli.terminal import EpochLines
if {how == 'terminal'}: signal.signal(signal.SIGHUP, signal.SIG_DFL) # nohup ignores it
class Closed:
    def write(self, s): raise OSError({errno.EPIPE if how == 'pipe' else errno.EIO}, 'closed')
    def flush(self): pass
    def isatty(self): return True
    def reconfigure(self, **kw): pass
real = EpochLines.batch
def batch(self, i, n, what):
    sys.stdout = self.out = Closed()
    self.live = True
    if {how == 'terminal'}:
        sys.stderr = Closed()
        os.kill(os.getpid(), signal.SIGHUP)
    real(self, i, n, what)
    print('x')
EpochLines.batch = batch
''')
    assert ended.rc == (141 if how == 'pipe' else 129) and 'Traceback' not in ended.said, ended.said
    assert about(half)['status'] == 'interrupted' and 'process' not in about(half)
    assert runs('--resume', half).rc == 0
    same_run(half, whole.out)


@pytest.mark.skipif(not hasattr(signal, 'SIGHUP'), reason='needs SIGHUP')
def test_the_signal_of_a_closed_terminal_comes_late(capsys):
    "A write has failed, and the signal arrives while that is looked at."
    class Late(OSError):
        @property
        def errno(self):
            os.kill(os.getpid(), signal.SIGHUP)
            return errno.EIO
    said = []
    def body(signals): raise Late
    old = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try: assert guarded('x', body, lambda signals: said.append(signals.signum) or 'kept') == 129
    finally: signal.signal(signal.SIGHUP, old)
    assert said == [signal.SIGHUP] and 'kept' in capsys.readouterr().err


# -- two runs in one folder
def test_the_refused_one_deletes_nothing(data, tmp_path, monkeypatch, capsys):
    "Both find that the folder does not exist; the other one takes it first."
    from segbook.cli import train as training
    out, real = tmp_path/'run', training.make_folders
    def slow(folder, made):
        out.mkdir()
        (out/'run.json').write_text('of the other one')
        (out/'metrics.csv').write_text('of the other one')
        real(folder, made)
    monkeypatch.setattr(training, 'make_folders', slow)
    args = ['--data', str(data), '--out', str(out), *TINY]
    for held in (True, False):
        if held:
            out.mkdir()
            with run_folder.locked_folder(out):
                shutil.copytree(out, tmp_path/'x')
                (out/'.lock').rename(tmp_path/'held')
                out.rmdir()
                monkeypatch.setattr(training, 'make_folders', lambda folder, made: (
                    slow(folder, made), (tmp_path/'held').rename(out/'.lock')))
                assert segbook_train(args) == 2
            assert 'another segbook_train is writing to' in capsys.readouterr().err
            (out/'.lock').unlink(missing_ok=True)
        else:
            shutil.rmtree(out)
            monkeypatch.setattr(training, 'make_folders', slow)
            assert segbook_train(args) == 2
            assert 'has written to' in capsys.readouterr().err
        assert tree(out) == {'run.json': b'of the other one', 'metrics.csv': b'of the other one'}


# -- damaged checkpoints
def state_of(seed):
    g = torch.Generator().manual_seed(seed)
    return dict(run=dict(epochs=3, lr=1e-3, codes=['a', 'b']), done=2, best=.5, opt=None,
        model={'w': torch.randn(3, 4, generator=g), 'n': torch.tensor(7)}, history=[[1., .5]])

@given(st.data())
@examples(60)
def test_a_damaged_checkpoint_is_refused_or_the_same(tmp_path_factory, d):
    file = tmp_path_factory.mktemp('state')/'last.pt'
    state = state_of(0)
    write_state(state, file)
    b = bytearray(file.read_bytes())
    kind = d.draw(st.sampled_from(['bit', 'byte', 'cut', 'zeros', 'inserted', 'doubled']))
    i = d.draw(st.integers(0, len(b) - 1))
    if kind == 'bit': b[i] ^= 1 << d.draw(st.integers(0, 7))
    elif kind == 'byte': b[i] = d.draw(st.integers(0, 255))
    elif kind == 'cut': b = b[:i]
    elif kind == 'zeros': b[i:i+64] = bytes(len(b[i:i+64]))
    elif kind == 'inserted': b[i:i] = d.draw(st.binary(min_size=1, max_size=9))
    else: b = b + b[i:]
    file.write_bytes(b)
    try: got = read_state(file, 'do this')
    except SegbookError as e: assert str(file) in str(e) and 'Cure: do this' in str(e)
    else: assert got.keys() == state.keys() and content_hash(got) == content_hash(state)

def test_a_hash_tells_any_change():
    state = state_of(0)
    seen = {content_hash(state)}
    for change in (lambda s: s.update(done=3), lambda s: s.update(done=2.), lambda s: s.pop('best'),
            lambda s: s['model'].update(n=torch.tensor(8)), lambda s: s['history'].append([]),
            lambda s: s['model'].update(w=s['model']['w'].T.contiguous()),
            lambda s: s['model'].update(w=s['model']['w'].double()),
            lambda s: s['run'].update(codes=['ab', '']),
            lambda s: s['run'].update(codes=['b', 'a']),
            lambda s: s['model']['w'].view(torch.int32)[0, 0].bitwise_xor_(1)):
        other = copy.deepcopy(state)
        change(other)
        h = content_hash(other)
        assert h not in seen
        seen.add(h)
    assert content_hash(copy.deepcopy(state)) in seen

@needs_fork
@pytest.mark.parametrize('name', ['last.pt', 'best.pt'])
def test_a_run_with_a_damaged_checkpoint(name, runs, half, whole):
    file = half/'checkpoint'/name
    sound = file.read_bytes()
    b = bytearray(sound)
    b[len(b)//2] ^= 4
    file.write_bytes(b)
    before = tree(half)
    ended = runs('--resume', half)
    assert ended.rc == 2 and f'the checkpoint {file} is damaged' in ended.err
    assert 'Cure: ' in ended.err and 'Go on with' not in ended.err and 'Traceback' not in ended.said
    assert tree(half) == before
    if name == 'best.pt':  # the cure that is named
        file.unlink()
        ended = runs('--resume', half)
        assert ended.rc == 0 and 'the best weights of the epochs so far are lost' in ended.out
    else:
        file.write_bytes(sound)
        assert runs('--resume', half).rc == 0
        same_run(half, whole.out)

@given(st.data())
@examples(80)
def test_an_odd_run_json_is_no_traceback(stopped, tmp_path_factory, d):
    out = tmp_path_factory.mktemp('run')
    run = about(stopped)
    odd = st.one_of(st.none(), st.booleans(), st.integers(-10**30, 10**30), st.floats(), st.text(),
        st.lists(st.integers(), max_size=3), st.dictionaries(st.text(max_size=5), st.integers(),
            max_size=2))
    table = run['arguments'] if d.draw(st.booleans()) else run
    key = d.draw(st.sampled_from(sorted(table)))
    if d.draw(st.booleans()): table[key] = d.draw(odd)
    else: del table[key]
    text = json.dumps(run)
    if d.draw(st.integers(0, 9)) == 0: text = text[:d.draw(st.integers(0, len(text)))]
    (out/'run.json').write_text(text)
    try: got = run_folder.old_run(dict(resume=str(out)))[1]
    except SegbookError as e: assert str(out) in str(e)
    else: assert got['arguments'].keys() == run_folder.TRAIN_OPTIONS.keys()
    shutil.rmtree(out)


# -- other data under the same names
@needs_fork
@pytest.mark.parametrize('what', ['image', 'mask', 'gone'])
def test_data_changed_between_stop_and_resume(what, runs, half, data, tmp_path):
    other = shutil.copytree(data, tmp_path/'scenes')
    run = about(half)
    run['arguments']['data'] = run['data']['path'] = str(other)
    (half/'run.json').write_text(json.dumps(run))
    images, masks = sorted((other/'images').iterdir()), sorted((other/'labels').iterdir())
    if what == 'image': images[2].write_bytes(images[3].read_bytes())
    elif what == 'mask': masks[2].write_bytes(masks[3].read_bytes())
    else:
        images[2].unlink()
        masks[2].unlink()
    before = tree(half)
    ended = runs('--resume', half)
    assert ended.rc == 2 and 'are not those that the run in' in ended.err, ended.said
    assert images[2].name in ended.err and images[3].name not in ended.err
    assert tree(half) == before


# -- numbers that go wrong
FAULT = """
import math
from fastai.vision.all import Learner, Callback
class Fault(Callback):
    order = 40
    def after_loss(self):
        if {loss} and self.training and self.epoch == {at}: self.learn.loss *= math.nan
    def after_train(self):
        if not {loss} and self.epoch == {at}: next(iter(self.model.parameters())).data[:] = math.inf
real = Learner.fit
def fit(self, *args, **kw):
    with self.added_cbs(Fault()): return real(self, *args, **kw)
Learner.fit = fit
"""

@needs_fork
@pytest.mark.parametrize('loss', [True, False])
def test_a_run_that_diverges_at_once(loss, runs, data, tmp_path):
    "There is nothing to keep: the folder is as if it had not been."
    ended = runs('--data', data, '--out', tmp_path/'a'/'run', *TINY, '--lr', 999,
        before=FAULT.format(loss=loss, at=0))
    assert ended.rc == 2 and 'Traceback' not in ended.said
    assert re.search(r'training was stopped: .* \(epoch 1\); no epoch was finished', ended.err)
    assert 'smaller --lr, such as 99.9' in ended.err and list(tmp_path.iterdir()) == []

@needs_fork
@pytest.mark.parametrize('loss', [True, False])
def test_a_run_that_diverges_later(loss, runs, data, whole, tmp_path):
    "The model of the best sound epoch is there, and all its numbers; resuming is refused."
    from safetensors.torch import load_file
    out = tmp_path/'run'
    ended = runs('--data', data, '--out', out, *TINY, before=FAULT.format(loss=loss, at=2))
    assert ended.rc == 2 and 'Traceback' not in ended.said, ended.said
    assert re.search(r'training was stopped: .* \(epoch 3\); .* holds the weights of epoch \d',
        ended.err)
    run, rows = about(out), (out/'metrics.csv').read_text().splitlines()
    assert run['status'] == 'diverged' and run['epochs_done'] == 2 and len(rows) == 3
    assert rows == (whole.out/'metrics.csv').read_text().splitlines()[:3]
    assert all(t.isfinite().all() for t in load_file(out/'model'/'model.safetensors').values()
        if t.is_floating_point())
    assert sorted(tree(out)) == sorted(tree(whole.out))
    before, again = tree(out), runs('--resume', out)
    assert again.rc == 2 and 'nothing to resume' in again.err and tree(out) == before

def learner(data, **kw):
    from segbook.data import seg_dataloaders
    from segbook.learner import seg_learner
    dls = seg_dataloaders(data, bs=2, seed=1)
    return seg_learner(dls, 'four_layers', 'resnet18', pretrained=False, **kw)

def quietly(learn, f):
    with learn.no_bar(), learn.no_logging(): return f()

def test_trackers_and_savers_never_see_a_diverged_epoch(data, tmp_path, capsys):
    "A wreck that scores higher than every sound epoch: early stopping, the saved file, the best."
    from fastai.callback.tracker import EarlyStoppingCallback, SaveModelCallback
    from fastai.vision.all import Callback
    from segbook.learner import train_segmenter
    class Wreck(Callback):
        order = 51
        def before_validate(self):
            if self.epoch == 2: next(iter(self.model.parameters())).data[:] = math.nan
        def after_epoch(self):
            self.recorder.values[-1][3] = (.128, .12, .479)[self.epoch]
    learn = learner(data, path=tmp_path)
    save = SaveModelCallback('mean_iou', fname='best')
    stop = EarlyStoppingCallback('mean_iou', patience=3)
    rows = quietly(learn, lambda: train_segmenter(learn, 4, folder=tmp_path/'run',
            cbs=[Wreck(), save, stop]))
    assert (len(rows), rows.best_epoch()) == (2, 0)
    assert 'training stopped: ' in capsys.readouterr().out
    assert save.best == stop.best == .128 and learn.keep_best.best == .128
    assert all(o.isfinite().all() for o in learn.model.state_dict().values())
    kept = torch.load(tmp_path/'models'/'best.pth', weights_only=False)
    for k, v in (kept['model'] if 'model' in kept else kept).items():
        assert torch.equal(v, learn.model.state_dict()[k]), k
    assert read_state(tmp_path/'run'/'checkpoint'/'last.pt', '')['done'] == 2

def test_a_rate_finder_may_fail_and_a_fit_may_not(data, capsys):
    learn = learner(data)
    before = [o.clone() for o in learn.model.state_dict().values()]
    with learn.no_bar(): learn.lr_find(end_lr=1e6, num_it=20, show_plot=False)
    assert 'training stopped' not in capsys.readouterr().out
    quietly(learn, lambda: learn.fit(1, 1e9))
    assert 'training stopped: ' in capsys.readouterr().out
    assert all(torch.equal(a, b) for a, b in zip(before, learn.model.state_dict().values()))


# -- sets at the edge
def small_set(path, n=4, codes=('soil', 'leaf', 'Void'), mask=None, size=(32, 32), valid=(0,)):
    for o in ('images', 'labels'): (path/o).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(n):
        Image.fromarray(rng.integers(0, 255, (*size, 3), np.uint8)).save(path/'images'/f'p{i}.png')
        m = (np.arange(size[0])[:, None]*np.ones(size) > 15).astype(np.uint8)
        Image.fromarray(m if mask is None else mask(i, m)).save(path/'labels'/f'p{i}.png')
    (path/'codes.txt').write_text('\n'.join(codes) + '\n')
    if valid: (path/'valid.txt').write_text(''.join(f'p{i}.png\n' for i in valid))
    return path

SHORT = ['--encoder', 'mobilenetv3_small_050', '--pretrained', 'false', '--epochs', '1',
    '--workers', '0']

@needs_fork
@pytest.mark.parametrize('n, size, more, ok', [(2, 32, [], False), (2, 64, [], True),
        (3, 32, ['--bs', '1'], False), (3, 32, [], True), (4, 32, ['--bs', '2'], True)])
def test_few_images_and_batches_of_one(n, size, more, ok, runs, tmp_path):
    "Either it trains to the end, or it says before the first epoch why not."
    d = small_set(tmp_path/'d', n=n, size=(size, size))
    ended = runs('--data', d, '--out', tmp_path/'run', *SHORT, *more)
    assert ended.rc == (0 if ok else 2) and 'Traceback' not in ended.said, ended.said
    if ok: return
    assert f'a batch of one image of {size}x{size} pixels' in ended.err and 'bs=2' in ended.err
    assert not (tmp_path/'run').exists() and 'epoch  train' not in ended.out

@needs_fork
@pytest.mark.parametrize('kind', ['void', 'one class', 'no void class', 'absent class'])
def test_a_validation_split_that_lacks_classes(kind, runs, tmp_path):
    """What cannot be measured is a dash, an empty field, null; or the set is refused before
    training."""
    codes = ('soil', 'leaf', 'Void', *['stone']*(kind == 'absent class'))
    if kind == 'no void class': codes = codes[:2]
    def mask(i, m): return m if i else np.full_like(m, 2 if kind == 'void' else 0)
    ended = runs('--data', small_set(tmp_path/'d', codes=codes, mask=mask), '--out', tmp_path/'run',
        *TINY)
    assert ended.rc in (0, 2) and 'Traceback' not in ended.said, ended.said
    if ended.rc == 2:
        assert kind == 'void' and 'Void' in ended.err and 'epoch  train' not in ended.out
        return
    assert 'nan' not in ended.out.replace('    nan', '') and (tmp_path/'run'/'results.png').exists()
    text = (tmp_path/'run'/'run.json').read_text()
    assert 'NaN' not in text and (kind != 'void' or about(tmp_path/'run')['mean_iou'] is None)


# -- names in pictures
NAMES = ['cost $a_$ b', r'$\frac$', '_x_', '^', r'a\b', '$5 or $10', '{', '%#&~', r'\$a_$', 'ä$ß$_']

def pixels(draw):
    from matplotlib.figure import Figure
    fig = Figure(figsize=(3, .6), dpi=80)
    draw(fig)
    fig.canvas.draw()
    return np.asarray(fig.canvas.buffer_rgba())

@given(st.one_of(st.sampled_from(NAMES), st.text(st.sampled_from('$_^\\{}ab %5'), max_size=12)))
@examples(40)
def test_text_of_users_is_drawn_letter_by_letter(name):
    "The oracle: matplotlib with its mathematics switched off."
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    def ours(fig): FigureCanvasAgg(fig) and fig.text(.1, .4, figure_text(name))
    def theirs(fig):
        lead = '\u200a' if name.startswith('_') else ''
        FigureCanvasAgg(fig) and fig.text(.1, .4, lead + name, parse_math=False)
    assert (pixels(ours) == pixels(theirs)).all()

@pytest.mark.parametrize('name', [*NAMES, 'a\udce9b', 'a\nb'])
def test_every_figure_takes_every_name(name, tmp_path):
    import matplotlib.pyplot as plt
    from segbook.interpretation import overlay_figure, results_figure
    from segbook.masks import show_mask
    from segbook.widgets.masks import draw_mask_explorer
    codes, m = [name, 'b', f'{name} 2', 'Void'], np.arange(64).reshape(8, 8) % 4
    x = np.zeros((8, 8, 3), np.uint8)
    figs = [results_figure([x, x], [m, m], [m, m*0], codes, [name]*2, [.5, math.nan], title=name),
        overlay_figure(x, m, codes), show_mask(m, codes, x).figure,
        draw_mask_explorer(x, m, codes, title=name)]
    for fig in figs: fig.savefig(tmp_path/'f.png')
    plt.close('all')

@needs_fork
def test_a_run_with_names_that_look_like_mathematics(runs, tmp_path):
    d = small_set(tmp_path/'cost $a_$ b', codes=('cost $a_$ b', r'$\frac$', 'Void'))
    for o in ('images', 'labels'): (d/o/'p0.png').rename(d/o/'$x_$.png')
    (d/'valid.txt').write_text('$x_$.png\n')
    out = tmp_path/'run $b_$'
    ended = runs('--data', d, '--out', out, *TINY)
    assert ended.rc == 0 and 'Traceback' not in ended.said, ended.said
    assert f'picture: {out/"results.png"}' in ended.out and (out/'results.png').exists()

@needs_fork
def test_a_picture_that_fails_is_told_and_survived(runs, half, whole):
    ended = runs('--resume', half, before='''
import segbook.cli.run_results
def drawn(*args, **kw): raise ValueError('no such font\\nin this place')
segbook.cli.run_results.results_figure = drawn
''')
    assert ended.rc == 0 and 'Traceback' not in ended.said, ended.said
    assert 'no picture: drawing failed (ValueError: no such font)' in ended.out
    assert about(half)['status'] == 'finished'
    (half/'results.png').write_bytes(b'')
    same_run(half, whole.out)


# -- what cannot be a folder
@pytest.mark.parametrize('name', ['x'*300, 'a/'*3000 + 'b', '~nouser/run'])
def test_odd_names_of_folders(name, data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for args in (['--data', str(data), '--out', name], ['--resume', name], ['--data', name]):
        if name.startswith('~') and args[0] == '--data' and args[-2] == '--out': continue # a folder
        assert segbook_train([*args, *TINY] if '--data' in args else args) == 2, args
        err = capsys.readouterr().err
        assert 'Traceback' not in err and 'error: ' in err
    assert list(tmp_path.iterdir()) == []

@pytest.mark.parametrize('args', [['--seed', '9'*20], ['--size', '1'], ['--size', '9'*20],
        ['--epochs', '9'*20], ['--bs', '9'*20], ['--n', '9'*20], ['--workers', '9'*20],
        ['--value-range', '5', '5'], ['--value-range', 'nan', '1'], ['--value-range', '9', '1']])
def test_odd_numbers_end_before_any_work(args, data, tmp_path, capsys):
    named = [] if args[0] == '--n' else ['--data', str(data)]
    assert segbook_train([*TINY, *named, '--out', str(tmp_path/'run'), *args]) in (0, 2)
    out, err = capsys.readouterr()
    assert 'Traceback' not in err and (err.count('error: ') == 1 or (tmp_path/'run').exists())
