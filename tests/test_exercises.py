"""Every exercise of the course: its solution passes, its stub and its slips fail; and what `check`
says to all that readers do."""
import ctypes, functools, importlib, inspect, itertools, json, os, random, re, signal, subprocess
import sys, textwrap, threading, time, warnings
from pathlib import Path

import numpy as np, pytest, torch
from segbook import apart, exercises as E, judging
from segbook.exercises import check, hint, progress, solution

ROOT = Path(__file__).resolve().parent.parent
CHAPTERS = E.chapter_modules()
ALL = E.all_exercises()

@pytest.fixture(autouse=True)
def progress_file(tmp_path, monkeypatch):
    "A progress file of this test's own, and no solution asked for yet"
    monkeypatch.setenv('SEGBOOK_PROGRESS', str(tmp_path/'own'/'progress.json'))
    E._asked.clear()
    return tmp_path/'own'/'progress.json'

def said(capsys, f, *args):
    f(*args)
    return capsys.readouterr().out

def in_a_thread(monkeypatch):
    "As where there is no fork"
    monkeypatch.setattr(judging, 'run_apart', functools.partial(apart.run_apart, own=False))

@pytest.fixture
def many(monkeypatch):
    "Hundreds of answers that are known to end: without a process for each"
    in_a_thread(monkeypatch)

# ---- the exercises

def test_each_chapter_has_exercises():
    chapters = [f for f in (ROOT/'nbs').rglob('*.ipynb')
        if not {'tasks', 'workshop', '.ipynb_checkpoints'} & set(f.parts)]
    bare = [f.name for f in chapters if '<!-- exercise ' not in f.read_text(encoding='utf-8')]
    assert not bare, f'these have no exercise: {", ".join(bare)}'
    known = {f.relative_to(ROOT/'nbs').as_posix() for f in chapters}
    assert {E.chapter_module(n).CHAPTER['notebook'] for n in CHAPTERS.values()} <= known
    for id,n in CHAPTERS.items():
        assert 3 <= len(E.exercises_of(E.chapter_module(n))) <= 8, n
        assert all(e.split('.')[0] == id for e in E.exercises_of(E.chapter_module(n))), n

def processor_time():
    "Seconds that this process and those it started have computed: an answer runs in one of its own"
    return sum(os.times()[:4]) if apart.AT_HAND else time.process_time()

@pytest.fixture(scope='module')
def work():
    "Processor time of a fixed piece of work, about 1/25 s on a machine of today: seconds differ."
    def once():
        began = processor_time()
        sum(range(2_000_000))
        return processor_time() - began
    return min(once() for _ in range(3))

@pytest.mark.parametrize('id', ALL)
def test_solution_passes_while_the_thought_is_there(id, capsys, work):
    began = processor_time()
    v = check(id, ALL[id].answer)
    assert v, v.text
    assert processor_time() - began < 25*work
    assert '✓' in capsys.readouterr().out

@pytest.mark.parametrize('id', [i for i,e in ALL.items() if not e.is_value])
def test_printed_solution_passes(id, many):
    "As a reader would copy it into a notebook that began with the one import"
    names = {}
    exec('from segbook.all import *', names)
    ex = ALL[id]
    names.update({k: v for k,v in vars(inspect.getmodule(ex.stub_of)).items() if inspect.ismodule(v)
            or getattr(v, '__module__', '') and not str(getattr(v, '__module__',
                '')).startswith('segbook.tasks')})
    exec(ex.solution_source, names)
    assert check(id, names[ex.name])

@pytest.mark.parametrize('id', ALL)
def test_stub_and_slips_fail(id, many):
    ex = ALL[id]
    assert not check(id, ... if ex.is_value else ex.stub_of)
    assert len(ex.slips) >= 2 and len(ex.hints) >= 2 and ex.text
    for why,f in ex.slips: assert not check(id, f), f'the slip {why!r} passes'

@pytest.mark.parametrize('id', [i for i,e in ALL.items() if not e.is_value])
@pytest.mark.parametrize('constant', [0, 1., True, '', [], torch.zeros(1)], ids=repr)
def test_no_constant_passes(id, constant, many):
    ex = ALL[id]
    names = list(inspect.signature(ex.stub_of).parameters)
    f = eval(f'lambda {", ".join(names)}: constant', dict(constant=constant))
    assert not check(id, f)

def test_chapters_show_their_exercises():
    res = subprocess.run([sys.executable, ROOT/'tools'/'exercises.py', '--check'],
        capture_output=True, text=True)
    assert res.returncode == 0, res.stderr

def course_with(tmp_path, *cells):
    "A course of one chapter with these cells, as `tools/exercises.py` finds it"
    (tmp_path/'nbs').mkdir()
    made = [dict(cell_type=k, id=f'c{i}', metadata={}, source=s) for i, (k, s) in enumerate(cells)]
    text = json.dumps(dict(cells=made, metadata={}, nbformat=4, nbformat_minor=5))
    (tmp_path/'nbs'/'01_a.ipynb').write_text(text)
    return tmp_path

def test_exercises_are_written_beside_their_ideas(tmp_path):
    sys.path.insert(0, str(ROOT/'tools'))
    tool = importlib.import_module('exercises')
    some = {i: ALL[i] for i in ('09.1', '09.2')}
    root = course_with(tmp_path, ('markdown', '<!-- exercise 09.2 -->\nold'),
        ('code', "check('09.2', x)"), ('markdown', 'An idea.'),
        ('markdown', '<!-- exercise 09.1 -->'), ('markdown', 'More.'))
    assert tool.out_of_step(True, root, some) == (['nbs/01_a.ipynb'], [])
    cells = [tool.text_of(c) for c in json.loads((root/'nbs'/'01_a.ipynb').read_text())['cells']]
    assert len(cells) == 6 and ALL['09.2'].text in cells[0] and 'How exercises work' in cells[0]
    assert cells[1].startswith('from segbook.exercises import') and ALL[
        '09.2'].stub_source in cells[1]
    assert cells[2] == 'An idea.' and ALL['09.1'].title in cells[3] and "check('09.1'" in cells[4]
    assert 'How exercises work' not in cells[3] and cells[5] == 'More.'
    assert tool.out_of_step(False, root, some) == ([], [])

@pytest.mark.parametrize('marks, what', [((), 'stands in no chapter'),
        (('09.1', '09.1'), '2 places'), (('09.1', '99.9'), 'no exercise 99.9')])
def test_misplaced_exercises_are_named(tmp_path, marks, what):
    sys.path.insert(0, str(ROOT/'tools'))
    tool = importlib.import_module('exercises')
    root = course_with(tmp_path, *[('markdown', f'<!-- exercise {i} -->') for i in marks])
    assert what in '\n'.join(tool.out_of_step(False, root, {'09.1': ALL['09.1']})[1])

# ---- what readers do

right = ALL['09.2'].answer


def printing(pred, targ, ignore_index):
    print('looking', pred.shape)
    return right(pred, targ, ignore_index)
def mutating(pred, targ, ignore_index):
    v = right(pred, targ, ignore_index)
    targ.zero_()
    return v
def raising(pred, targ, ignore_index): return pred/0 + pred.no_such_name
def forgetting(pred, targ, ignore_index): right(pred, targ, ignore_index)
def array(pred, targ, ignore_index): return np.asarray([1.])
def leaving(pred, targ, ignore_index): sys.exit()
def recursing(pred, targ, ignore_index): return recursing(pred, targ, ignore_index)
def two(pred, targ): return 1.
class Odd:
    def __eq__(self, other): raise RuntimeError('no comparison')
    __hash__ = None
def odd(pred, targ, ignore_index): return Odd()

@pytest.mark.parametrize('answer,says', [(raising, "AttributeError: 'Tensor' object has no "
            "attribute 'no_such_name'. In line 1 of your function"),
        (forgetting, 'is a return missing?'),
        (array, 'A NumPy array [1]'), (leaving, 'ended the check itself'),
        (recursing, 'RecursionError'), (two, 'It takes (pred, targ), but it is called as '
            'accuracy(pred, targ, ignore_index)'), (.5, 'needs your function itself'),
        (torch.ones(3), 'needs your function itself'), (np.ones(3), 'needs your function itself'),
        (None, 'needs your function itself'), ('accuracy', 'needs your function itself'),
        (mutating, 'It changed its argument targ: work on a copy, targ.clone()'),
        (odd, 'Odd came, expected a number')],
    ids=lambda o: getattr(o, '__name__', None) or str(o)[:20])
def test_helps(answer, says, capsys):
    out = said(capsys, check, '09.2', answer)
    assert says in out and '✗ 09.2' in out and 'Traceback' not in out
    assert not Path(os.environ['SEGBOOK_PROGRESS']).exists()

def test_printing_is_no_mistake(capsys):
    out = said(capsys, check, '09.2', printing)
    assert '✓ 09.2' in out and 'It printed "looking' in out and out.count('looking') == 1

def test_another_dtype_says_the_cure(capsys):
    ex = next(e for e in ALL.values() if not e.is_value
        and any(isinstance(w, torch.Tensor) and w.dtype == torch.int64 for _,_,w in e.cases)
        and e.via is None)
    out = said(capsys, check, ex.id, lambda *args: ex.answer(*args).int())
    assert 'int32' in out and 'torch.int64' in out

def test_numpy_for_a_tensor_says_the_cure(capsys):
    ex = next(e for e in ALL.values() if not e.is_value
        and any(isinstance(w, torch.Tensor) and w.ndim for _,_,w in e.cases) and e.via is None)
    out = said(capsys, check, ex.id, lambda *args: ex.answer(*args).numpy())
    assert 'NumPy array' in out and 'torch.as_tensor' in out

@pytest.mark.parametrize('id,near', [('09.22', '09.2'), ('9,2', '09.2'), ('99.1', 'progress()'),
        ('', 'progress()'), (None, 'progress()'), (9.2, None), (' 09.2 ', None), ('9.2', None),
        ('CAMVID.1', None)])
def test_ids(id, near, capsys):
    out = said(capsys, check, id, lambda: 1)
    assert ('There is no exercise' in out
        and near in out) if near else 'There is no exercise' not in out

def loops(pred, targ, ignore_index):
    while True: pass
def swallows(pred, targ, ignore_index):
    while True:
        try: time.sleep(.01)
        except BaseException: pass

@pytest.mark.parametrize('answer,says', [(loops, 'does a loop end?'),
        (swallows, 'restart the kernel')])
def test_never_hangs(answer, says, capsys, monkeypatch):
    in_a_thread(monkeypatch)
    monkeypatch.setattr(ALL['09.2'], 'limit', .5)
    began = time.perf_counter()
    out = said(capsys, check, '09.2', answer)
    assert says in out and time.perf_counter() - began < 120

# ---- answers that take more than a word to stop: in a process of its own

forked = pytest.mark.skipif(not apart.AT_HAND, reason='no fork here: answers run in a thread')

def endless(*args):
    while True: pass
def answer_of(result):
    "A function of the exercise's three arguments that gives `result(*them)`"
    return lambda pred, targ, ignore_index: result(pred, targ, ignore_index)
def raise_(error): raise error
class EndlessRepr(float): __repr__ = endless
class EndlessEq:
    __eq__ = __len__ = __iter__ = endless
    __hash__ = None
class EndlessWords(Exception): __str__ = endless
class NoWords(Exception):
    def __str__(self): raise RuntimeError('none')
class Liar(float):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __sub__(self, other): return 0.
    __hash__ = None
def stopped(*args): os.kill(os.getpid(), signal.SIGSTOP)
def clinging(*args):
    while True:
        try: time.sleep(.01)
        except BaseException: pass
def leaves_children(*args):
    for _ in range(3):
        if not os.fork(): endless()
    endless()
def eats(*args):
    held = []
    while True: held.append(np.empty(1 << 26))

COMPILED = [lambda *a: sum(range(10**12)), lambda *a: re.match('(a+)+$', 'a'*60 + 'b'),
    lambda *a: max(itertools.count()), lambda *a: 7**(10**9)]

@forked
@pytest.mark.parametrize('result', [*COMPILED, endless, stopped, clinging, leaves_children])
def test_what_hangs_in_compiled_code_is_ended(result, capsys, monkeypatch):
    monkeypatch.setattr(ALL['09.2'], 'limit', .3)
    out = said(capsys, check, '09.2', answer_of(result))
    assert "did not come back within 0.3 s in the case 'a plain mask': does a loop end?" in out
    assert 'restart' not in out and children() == []

def children():
    "Processes that this one started and that still run"
    try: text = Path(f'/proc/self/task/{os.getpid()}/children').read_text()
    except OSError: return []
    return text.split()

@forked
@pytest.mark.parametrize('result,says', [
        (lambda *a: EndlessRepr(77.), 'while its result was put into words: does its repr end?'),
        (lambda *a: raise_(EndlessWords()), 'did not come back within'),
        (lambda *a: raise_(NoWords()), 'It raised NoWords: an error without words'),
        (lambda *a: EndlessEq(), 'EndlessEq came, expected a number'),
        (lambda *a: itertools.count(), 'Count came, expected a number'),
        (lambda *a: Liar(77.), 'counting Void as a mistake'),
        (lambda *a: 10**5000, 'could not be compared (OverflowError'),
        (lambda *a: raise_(BaseException('out')), 'ended the check itself'),
        (lambda *a: raise_(KeyboardInterrupt()), 'ended the check itself'),
        (lambda *a: os._exit(3), 'ended the check itself'),
        (lambda *a: os.closerange(3, 200), 'ended the check itself'),
        (lambda *a: ctypes.string_at(0), 'It crashed its process in compiled code (signal 11'),
        (lambda *a: os.abort(), 'signal 6'),
        (lambda *a: torch.zeros(10**13), 'allocate'),
        (lambda *a: input('?'), 'nobody can type here')])
def test_odd_results_get_a_verdict(result, says, capsys, monkeypatch):
    monkeypatch.setattr(ALL['09.2'], 'limit', 2.)
    out = said(capsys, check, '09.2', answer_of(result))
    assert says in out and '✗ 09.2' in out and 'Traceback' not in out

@forked
def test_memory_has_an_end(capsys, monkeypatch):
    monkeypatch.setattr(ALL['09.2'], 'limit', 120.)
    assert 'Unable to allocate' in said(capsys, check, '09.2', answer_of(eats))

@forked
def test_values_may_be_odd_too(capsys, monkeypatch):
    ex = next(e for e in ALL.values() if e.is_value and isinstance(e.answer, (int, float)))
    monkeypatch.setattr(ex, 'limit', .5)
    for wrong in (EndlessRepr(ex.answer + 7), EndlessEq(), Liar(ex.answer + 7), 10**5000):
        assert '✗' in said(capsys, check, ex.id, wrong)
    assert '✓' in said(capsys, check, ex.id, EndlessRepr(ex.answer))

@forked
def test_what_an_answer_changes_stays_its_own(capsys):
    import matplotlib
    def state():
        return (os.getcwd(), list(sys.path), matplotlib.get_backend(),
            np.random.get_state()[1].sum(), torch.initial_seed(), random.getstate(),
            torch.get_num_threads(), os.environ.get('ODD'),
            signal.getsignal(signal.SIGALRM), threading.active_count(), len(warnings.filters))
    def changes(pred, targ, ignore_index):
        os.chdir('/')
        sys.path.clear()
        matplotlib.use('svg')
        np.random.seed(3)
        torch.manual_seed(3)
        random.seed(3)
        torch.set_num_threads(7)
        os.environ['ODD'] = '1'
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        warnings.simplefilter('ignore')
        threading.Thread(target=time.sleep, args=(600,)).start()
        return right(pred, targ, ignore_index)
    before = state()
    assert '✓' in said(capsys, check, '09.2', changes) and state() == before

@forked
def test_floods_of_text_are_cut(capfd):
    def floods(pred, targ, ignore_index):
        print('looking ' * 10**6)
        os.write(1, b'x'*10**6)
        sys.stderr.write('a warning of the answer')
        return right(pred, targ, ignore_index)
    check('09.2', floods)
    out, err = capfd.readouterr()
    assert '✓' in out and 'It printed "looking' in out and len(out) < 1000
    assert 'a warning of the answer' in err and len(err) < 5000

@forked
def test_gradients_and_convolutions_work_after_a_fork():
    "PyTorch's threads do not live on in a fork; the answer must not wait for them."
    conv = torch.nn.Conv2d(3, 8, 3)
    conv(torch.randn(8, 3, 64, 64)).sum().backward()
    def learns(pred, targ, ignore_index):
        conv(torch.randn(8, 3, 64, 64)).sum().backward()
        torch.linalg.inv(torch.randn(300, 300).double() + 300*torch.eye(300))
        np.linalg.svd(np.ones((200, 200)))
        return right(pred, targ, ignore_index)
    v = check('09.2', learns)
    assert v, v.text

@forked
def test_what_cannot_fork_is_done_here(monkeypatch):
    "CUDA says so; a machine without room for another process does, too."
    here = os.getpid()
    def as_cuda(pred, targ, ignore_index):
        if os.getpid() != here:
            raise RuntimeError('Cannot re-initialize CUDA in forked subprocess. To use CUDA with '
                "multiprocessing, you must use the 'spawn' start method")
        return right(pred, targ, ignore_index)
    assert check('09.2', as_cuda)
    def refuse(): raise BlockingIOError(11, 'Resource temporarily unavailable')
    monkeypatch.setattr(os, 'fork', refuse)
    assert check('09.2', right)

@pytest.mark.parametrize('own', [False, pytest.param(True, marks=forked)])
def test_the_course_in_either_way(own, monkeypatch, capsys):
    if not own: in_a_thread(monkeypatch)
    for id in ('09.2', '17.1', '17.2', '17.3'):
        assert check(id, ALL[id].answer)
        for why, f in ALL[id].slips: assert not check(id, f), why
    monkeypatch.setattr(ALL['09.2'], 'limit', .3)
    assert 'does a loop end?' in said(capsys, check, '09.2', answer_of(endless))

@forked
def test_a_stopped_check_leaves_no_process(capsys):
    timer = threading.Timer(.5, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    assert 'You stopped the check.' in said(capsys, check, '09.2', answer_of(COMPILED[0]))
    assert children() == []

def test_value_answers_do_not_betray_the_solution(capsys, many):
    for ex in (e for e in ALL.values() if e.is_value):
        for wrong in (None, 0.1234, (), 'x', np.zeros((2, 2)), torch.zeros(3), print):
            out = said(capsys, check, ex.id, wrong)
            assert '✗' in out and not re.search(rf'(?<![\w.]){re.escape(repr(ex.answer))}(?![\w.])',
                out.split('\n', 1)[1]), out

# ---- hints, solutions, progress

def test_hints_come_one_at_a_time(capsys):
    ex = ALL['09.2']
    outs = [said(capsys, hint, '09.2') for _ in range(len(ex.hints) + 1)]
    for i,h in enumerate(ex.hints): assert h in outs[i] and sum(o in outs[i] for o in ex.hints) == 1
    assert 'solution(' in outs[len(ex.hints)-1] and ex.hints[0] in outs[-1]

def test_solution_asks_once(capsys):
    body = ALL['09.2'].solution_source
    assert body not in said(capsys, solution, '09.2')
    assert body in said(capsys, solution, '09.2')

def test_solution_of_a_solved_exercise_does_not_ask(capsys):
    check('09.2', right)
    capsys.readouterr()
    assert ALL['09.2'].solution_source in said(capsys, solution, '09.2')

def test_progress_is_kept(progress_file, capsys):
    assert f'0 of {len(ALL)} exercises done' in said(capsys, progress)
    check('09.2', right)
    capsys.readouterr()
    out = said(capsys, progress)
    assert f'1 of {len(ALL)} exercises done' in out and next(l for l in out.split('\n')
        if ' 09 ' in l).split('Metrics')[1].split()[0].startswith('□■□')
    assert list(json.loads(progress_file.read_text())['done']) == ['09.2'] and [f.name
        for f in progress_file.parent.iterdir()] == ['progress.json']

@pytest.mark.parametrize('damage', ['', '{"done"', '[]', '{"done": 3, "hints": {}}', 'null',
        '\x00\x01', '{"done": {}, "hints": {"09.2": "x"}}', '{"done": {}, "hints": {"09.2": -1}}',
        '{"done": {"09.2": []}, "hints": {}}', '{"done": {}, "hints": {}, "version": "1"}',
        '['*100_000])
def test_damaged_progress_is_set_aside(damage, progress_file, capsys):
    progress_file.parent.mkdir()
    progress_file.write_text(damage)
    out = said(capsys, check, '09.2', right)
    assert '✓' in out and 'set aside' in out
    assert (progress_file.parent/'progress.damaged-1.json').read_text() == damage
    assert '09.2' in json.loads(progress_file.read_text())['done']

def test_progress_of_a_newer_version_is_left_alone(progress_file, capsys):
    progress_file.parent.mkdir()
    text = json.dumps(dict(version=2, solved=['09.2']))
    progress_file.write_text(text)
    for f, args in ((check, ('09.2', right)), (hint, ('09.2',)), (progress, ())):
        out = said(capsys, f, *args)
        assert 'of a newer segbook' in out and 'Update segbook' in out
    assert progress_file.read_text() == text and left(progress_file) == ['progress.json']

def test_what_another_version_adds_is_kept(progress_file):
    progress_file.parent.mkdir()
    progress_file.write_text('{"done": {"01.1": "2026-01-31"}, "hints": {}, "badges": [1]}')
    check('09.2', right)
    state = json.loads(progress_file.read_text())
    assert state['badges'] == [1] and list(state['done']) == ['01.1', '09.2']

def left(file): return sorted(f.name for f in file.parent.iterdir())

def test_progress_that_is_no_file_is_left_alone(progress_file, capsys):
    progress_file.mkdir(parents=True)
    (progress_file/'mine.txt').write_text('x')
    for f, args in ((check, ('09.2', right)), (hint, ('09.2',)), (progress, ())):
        assert 'cannot be read (no file)' in said(capsys, f, *args)
    assert left(progress_file) == ['progress.json'] and (progress_file/'mine.txt').exists()

@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='no named pipes here')
def test_progress_that_is_a_pipe_does_not_hang(progress_file, capsys):
    progress_file.parent.mkdir()
    os.mkfifo(progress_file)
    assert 'cannot be read (no file)' in said(capsys, check, '09.2', right)

@pytest.mark.skipif(not hasattr(os, 'symlink'), reason='no links here')
def test_progress_in_places_that_do_not_exist(tmp_path, monkeypatch, capsys):
    (tmp_path/'loop').symlink_to(tmp_path/'loop')
    for place in (tmp_path/'loop', tmp_path/'loop'/'progress.json', tmp_path/('x'*300)):
        monkeypatch.setenv('SEGBOOK_PROGRESS', str(place))
        out = said(capsys, check, '09.2', right)
        assert '✓' in out and ('cannot be read' in out or 'could not be saved' in out)
        assert said(capsys, hint, '09.2').startswith('09.2, hint 1') and said(capsys, progress)
    monkeypatch.setenv('SEGBOOK_PROGRESS', '~nobody-of-that-name/p.json')
    monkeypatch.chdir(tmp_path)
    assert '✓' in said(capsys, check, '09.2', right)

def test_eight_processes_lose_nothing(progress_file):
    code = textwrap.dedent("""
        import sys
        from segbook.exercises import _save_progress
        for i in range(20): _save_progress(lambda s: s['done'].update({f'{sys.argv[1]}.{i}': 'x'}))
        """)
    runs = [subprocess.Popen([sys.executable, '-W', 'error', '-c', code, str(n)])
        for n in range(8)]
    assert [r.wait() for r in runs] == [0]*8
    done = json.loads(progress_file.read_text())['done']
    assert len(done) == 160 and left(progress_file) == ['progress.json']

def test_progress_survives_a_kill_while_it_is_saved(progress_file):
    "A process that is killed half way leaves what it had not put in place; the next one clears it."
    code = textwrap.dedent("""
        import os, signal
        from segbook import files
        from segbook.exercises import _save_progress
        os.replace = lambda *args: os.kill(os.getpid(), signal.SIGKILL)
        _save_progress(lambda s: s['done'].update(x='y'))
        """)
    check('09.2', right)
    before = progress_file.read_text()
    assert subprocess.run([sys.executable, '-c', code]).returncode == -signal.SIGKILL
    assert progress_file.read_text() == before and len(left(progress_file)) == 4
    check('17.1', ALL['17.1'].answer)
    assert left(progress_file) == ['progress.json']
    assert list(json.loads(progress_file.read_text())['done']) == ['09.2', '17.1']

def test_progress_that_cannot_be_written_is_said(tmp_path, monkeypatch, capsys):
    (tmp_path/'file').write_text('')
    monkeypatch.setenv('SEGBOOK_PROGRESS', str(tmp_path/'file'/'progress.json'))
    out = said(capsys, check, '09.2', right)
    assert '✓' in out and 'could not be saved' in out

def test_default_place_is_the_users_data_folder(monkeypatch):
    import platformdirs
    monkeypatch.delenv('SEGBOOK_PROGRESS')
    assert E._progress_file() == Path(platformdirs.user_data_dir('segbook',
            appauthor=False))/'progress.json'

@pytest.mark.parametrize('encoding,tick',
    [('utf-8', '✓'), ('ascii', '[right]'), ('latin-1', '[right]')])
def test_in_a_plain_terminal(encoding, tick, progress_file):
    code = textwrap.dedent('''
        from segbook.exercises import *
        def accuracy(pred, targ, ignore_index):
            return (pred == targ)[targ != ignore_index].float().mean()
        check('09.2', accuracy)
        progress()''')
    res = subprocess.run([sys.executable, '-c', code], capture_output=True,
        env={**os.environ, 'PYTHONIOENCODING': encoding})
    assert res.returncode == 0 and tick in res.stdout.decode(encoding), res.stderr
