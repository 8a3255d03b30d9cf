"""Every exercise of the course: its solution passes, its stub and its slips fail; and what `check`
says to all that readers do."""
import importlib, inspect, json, os, re, subprocess, sys, textwrap, time
from pathlib import Path

import numpy as np, pytest, torch
from segbook import exercises as E
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

@pytest.fixture(scope='module')
def work():
    "Processor time of a fixed piece of work, about 1/25 s on a machine of today: seconds differ."
    def once():
        began = time.process_time()
        sum(range(2_000_000))
        return time.process_time() - began
    return min(once() for _ in range(3))

@pytest.mark.parametrize('id', ALL)
def test_solution_passes_while_the_thought_is_there(id, capsys, work):
    began = time.process_time()
    v = check(id, ALL[id].answer)
    assert v, v.text
    assert time.process_time() - began < 25*work
    assert '✓' in capsys.readouterr().out

@pytest.mark.parametrize('id', [i for i,e in ALL.items() if not e.is_value])
def test_printed_solution_passes(id):
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
def test_stub_and_slips_fail(id):
    ex = ALL[id]
    assert not check(id, ... if ex.is_value else ex.stub_of)
    assert len(ex.slips) >= 2 and len(ex.hints) >= 2 and ex.text
    for why,f in ex.slips: assert not check(id, f), f'the slip {why!r} passes'

@pytest.mark.parametrize('id', [i for i,e in ALL.items() if not e.is_value])
@pytest.mark.parametrize('constant', [0, 1., True, '', [], torch.zeros(1)], ids=repr)
def test_no_constant_passes(id, constant):
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
    monkeypatch.setattr(ALL['09.2'], 'limit', .5)
    began = time.perf_counter()
    out = said(capsys, check, '09.2', answer)
    assert says in out and time.perf_counter() - began < 120

def test_value_answers_do_not_betray_the_solution(capsys):
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
        '\x00\x01'])
def test_damaged_progress_is_set_aside(damage, progress_file, capsys):
    progress_file.parent.mkdir()
    progress_file.write_text(damage)
    out = said(capsys, check, '09.2', right)
    assert '✓' in out and 'set aside' in out
    assert (progress_file.parent/'progress.damaged-1.json').read_text() == damage
    assert '09.2' in json.loads(progress_file.read_text())['done']

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
