"The tools under tools/: README from the front page, the environments, the test runner"
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT/'tools'))

def tool(name):
    spec = importlib.util.spec_from_file_location(f'tools_{name}', ROOT/'tools'/f'{name}.py')
    mod = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(mod)
    return mod

readme, setup_env, run_tests = map(tool, ['readme', 'setup_env', 'run_tests'])
run_notebooks = tool('run_notebooks')
fold, front = map(tool, ['fold', 'front'])
PNG = 'iVBORw0KGgo='  # the eight bytes that begin a PNG

def code(source, *outputs): return dict(cell_type='code', source=source, outputs=list(outputs))
def md(source): return dict(cell_type='markdown', source=source)

# ---- README

@pytest.mark.parametrize('target,want', [('02_masks.ipynb', 'nbs/02_masks.ipynb'),
        ('projects/camvid.ipynb#Results', 'nbs/projects/camvid.ipynb#Results'),
        ('../CONTRIBUTING.md', 'CONTRIBUTING.md'), ('../images/a.png', 'images/a.png'),
        ('./03_data.ipynb', 'nbs/03_data.ipynb'),
        ('https://arxiv.org/abs/1505.04597', 'https://arxiv.org/abs/1505.04597'),
        ('#start', '#start'), ('mailto:a@b.c', 'mailto:a@b.c')])
def test_move_link(target, want): assert readme.move_link(target) == want

def test_move_links_leaves_code_alone():
    text = ('see [a](a.ipynb "title") and `[b](b.ipynb)`, '
        '[![c](../c.png)](c.ipynb)\n\n```\n[d](d.ipynb)\n```\n\n[e]: e.ipynb\n')
    want = ('see [a](nbs/a.ipynb "title") and `[b](b.ipynb)`, '
        '[![c](c.png)](nbs/c.ipynb)\n\n```\n[d](d.ipynb)\n```\n\n[e]: nbs/e.ipynb\n')
    assert readme.move_links(text) == want

def test_readme_of_cells():
    nb = dict(cells=[md(['# segbook\n', '> a course']), code('#| hide\nsecret()'),
            code('#| eval: false\nx = 1', dict(output_type='stream', name='stdout',
                text=['\x1b[31mred\x1b[0m\n', 'two'])),
            code('#| echo: false\nplot()', dict(output_type='display_data',
                data={'image/png': PNG, 'text/plain': '<Figure>'})),
            code('y', dict(output_type='stream', name='stderr', text='warning'),
                dict(output_type='execute_result', data={'text/plain': ['3']}))])
    text, figures = readme.readme(nb)
    want = [readme.NOTE, '# segbook\n> a course', '```python\nx = 1\n```', '```\nred\ntwo\n```',
        '![figure 1](images/index_1.png)', '```python\ny\n```', '```\n3\n```']
    assert text == '\n\n'.join(want) + '\n' and len(figures) == 1

def test_readme_leaves_out_what_moves_and_says_what_a_figure_shows():
    picture = dict(output_type='display_data', data={'image/png': PNG})
    nb = dict(cells=[md('<!-- site -->\nMove it.'), code('#| site\nexplorer()'),
            code('plot()', picture), md('*Figure: two streets, one with a hole.*\n\nMore.')])
    text = readme.readme(nb)[0]
    assert 'Move it' not in text and 'explorer' not in text
    assert '![Two streets, one with a hole.](images/index_1.png)' in text


def test_readme_check(tmp_path, monkeypatch, capsys):
    (tmp_path/'nbs').mkdir()
    def page(*cells): (tmp_path/'nbs'/'index.ipynb').write_text(json.dumps(dict(cells=list(cells))))
    def main(*args):
        monkeypatch.setattr(sys, 'argv', ['readme.py', *args])
        readme.main(tmp_path)
    picture = code('plot()', dict(output_type='display_data', data={'image/png': PNG}))
    page(md('# one'), picture)
    with pytest.raises(SystemExit, match='README.md: missing'): main('--check')
    main()
    main('--check')
    assert (tmp_path/'images'/'index_1.png').read_bytes().startswith(b'\x89PNG')
    page(md('# two'))
    with pytest.raises(SystemExit, match=r'(?s)index_1.png: is not needed.*-# one.*\+# two.*make '
            r'prepare'):
        main('--check')
    main()
    main('--check')
    assert not (tmp_path/'images'/'index_1.png').exists()

def test_readme_without_front_page(tmp_path):
    with pytest.raises(SystemExit, match='index.ipynb is missing'): readme.files(tmp_path)

# ---- cells that stand closed

def cell(source, **metadata):
    return dict(cell_type='code', id='c', metadata=metadata, source=source)


@pytest.mark.parametrize('source,closed', [
    ('#| hide\nx = 1', True), ('#| export\ndef f(): pass', True), ('#| exporti\nx = 1', True),
    ('#| slow\n#| hide\nx = 1', True), ('x = 1', False), ('#| echo: false\nplot()', False),
    ('#| hide_input\nplot()', False), ('# hide\nx = 1', False), ('#| default_exp a', False)])
def test_cells_that_stand_closed(source, closed):
    want = {'jupyter': {'source_hidden': True}, 'cellView': 'form'} if closed else {}
    assert fold.folded(cell(source))['metadata'] == want
    again = fold.folded(cell(source, tags=['mine'], jupyter={'source_hidden': True}))
    assert again['metadata'] == {'tags': ['mine'], **want}


def test_text_never_stands_closed():
    assert not fold.closes(dict(cell_type='markdown', source='#| hide', metadata={}))


def small_course(root):
    (root/'nbs'/'tasks').mkdir(parents=True)
    for name in ('01_a', 'tasks/01_a'):
        cells = [dict(cell_type='markdown', id='m', metadata={},
                source='# A title\n> Of a chapter'), cell('#| hide\nold'),
            cell('1+1', jupyter={'source_hidden': True})]
        (root/'nbs'/f'{name}.ipynb').write_text(json.dumps(dict(cells=cells, metadata={})))
    shutil.copy(ROOT/'settings.ini', root)


@pytest.mark.parametrize('name', ['fold', 'front'])
def test_writing_and_checking(name, tmp_path, monkeypatch):
    small_course(tmp_path)
    mod, solutions = {'fold': fold, 'front': front}[name], tmp_path/'nbs'/'tasks'/'01_a.ipynb'
    before = solutions.read_text()
    def main(*args):
        monkeypatch.setattr(sys, 'argv', [f'{name}.py', *args])
        mod.main(tmp_path)
    with pytest.raises(SystemExit, match=r'(?s)nbs/01_a\.ipynb.*make prepare'): main('--check')
    main()
    main('--check')
    assert solutions.read_text() == before, 'exercises are nobody\'s page'


def test_cleaning_keeps_what_is_closed(tmp_path):
    "nbdev_clean takes metadata out, but for the keys that settings.ini names"
    from nbdev.clean import clean_nb
    from execnb.nbio import dict2nb
    cfg = front.settings(ROOT)
    keys = cfg['allowed_cell_metadata_keys'].split()
    assert set(fold.CLOSED) <= set(keys)
    nb = dict2nb(dict(cells=[dict(fold.folded(cell('#| hide\nx')), outputs=[], execution_count=3)],
        metadata={}, nbformat=4, nbformat_minor=5))
    clean_nb(nb, allowed_cell_metadata_keys=keys)
    assert nb.cells[0].metadata == fold.CLOSED


# ---- one place for a fork

def test_titles_come_from_the_notebooks(tmp_path):
    small_course(tmp_path)
    table = ('| chapter | |\n|---|---|\n| [old](01_a.ipynb) | text |\n| [kept](02_b.ipynb) | x '
        '|\n[old](01_a.ipynb)')
    assert front.listed(table, tmp_path/'nbs').split('\n')[2:] == [
        '| [01 A title](01_a.ipynb) | text |', '| [kept](02_b.ipynb) | x |', '[old](01_a.ipynb)']


OTHER = dict(user='someone', repo='pixels', git_url='https://github.com/someone/pixels',
    doc_host='https://someone.github.io', doc_baseurl='/pixels')


def test_a_fork_changes_one_file(tmp_path):
    """A copy of the checkout under another name: the old name of the place stands nowhere, but
    in history"""
    old = front.settings(ROOT)
    names = [old['git_url'].split('://')[1], f"{old['user']}/{old['repo']}/",
        old['doc_host'].split('://')[1]]
    files = [f for f in run_tests.project_files() if f.stat().st_size < 3e6]
    for f in files:
        to = tmp_path/f.relative_to(ROOT)
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(f, to)
    text = (tmp_path/'settings.ini').read_text(encoding='utf-8')
    for k, v in OTHER.items(): text = re.sub(rf'(?m)^{k} = .*$', f'{k} = {v}', text)
    (tmp_path/'settings.ini').write_text(text, encoding='utf-8')
    for name in ('front.py', 'readme.py'):
        subprocess.run([sys.executable, tmp_path/'tools'/name], cwd=tmp_path, check=True)
    code = ('from nbdev.export import nb_export; from nbdev.doclinks import nbdev_export; '
        'nbdev_export()')
    subprocess.run([sys.executable, '-W', 'ignore', '-c', code], cwd=tmp_path, check=True,
        env={**os.environ, 'PYTHONPATH': str(tmp_path)}, capture_output=True)
    found = [f'{f.relative_to(tmp_path)}: {n}' for f in sorted(tmp_path.rglob('*'))
        if f.is_file() and f.name != 'CHANGELOG.md' and '__pycache__' not in f.parts
        for n in names if n in f.read_text(encoding='utf-8', errors='ignore')]
    assert not found, found
    readme_text = (tmp_path/'README.md').read_text(encoding='utf-8')
    colab = 'colab.research.google.com/github/someone/pixels/blob/main/nbs/index.ipynb'
    assert colab in readme_text
    assert 'git+https://github.com/someone/pixels' in readme_text


def test_the_first_cell_raises_with_a_cure(monkeypatch):
    "Where pip fails: the package is not there afterwards, and a reader is told what to do"
    text = front.first_cell(front.settings(ROOT))
    text = text.replace("find_spec('segbook')", "find_spec('no_such_package')")
    ran = []
    program = re.sub(r'%pip install -q "(.*)"', r'pip(f"\1")', text)
    monkeypatch.setenv('SEGBOOK_PACKAGE', 'segbook @ file:///nowhere')
    with pytest.raises(ImportError, match=r'(?s)file:///nowhere could not.*above.*make setup'):
        exec(program, dict(pip=ran.append))
    assert ran == ['segbook @ file:///nowhere']
    # it is there: nothing happens
    exec(re.sub(r'%pip.*', '1/0', front.first_cell(front.settings(ROOT))), {})


# ---- the environments

def test_look(tmp_path, monkeypatch):
    for f in ('settings.ini', 'setup.py'): shutil.copy(ROOT/f, tmp_path)
    monkeypatch.setattr(setup_env, 'ROOT', tmp_path)
    version = [setup_env.VERSION]
    monkeypatch.setattr(setup_env, 'version_of', lambda name: version[0])
    def look(name='.venv-latest'): return setup_env.look(name)[0]
    assert look() == 'make'
    (tmp_path/'.venv-latest').mkdir()
    assert look() == 'install'
    setup_env.record('.venv-latest')
    assert look() == 'nothing'
    old = setup_env.recorded('.venv-latest')
    def write(**kw): (tmp_path/'.venv-latest'/'segbook.json').write_text(json.dumps({**old, **kw}))
    write(made=time.time()-setup_env.WEEK-1)
    assert look() == 'renew'
    write(checkout='elsewhere')
    assert look() == 'rebuild'
    write()
    version[0] = '3.9'
    assert setup_env.look('.venv-latest') == ('rebuild', 'it has Python 3.9, asked for was '
        f'{setup_env.VERSION}')
    version[0] = None
    assert look() == 'rebuild'
    version[0] = setup_env.VERSION
    (tmp_path/'settings.ini').write_text((ROOT/'settings.ini').read_text() + '\n# changed\n')
    assert look() == 'install'

def test_latest_has_no_development_requirement():
    assert not any('nbdev' in o or 'execnb' in o
        for o in setup_env.packages('.venv-latest')) and 'fastcore' in setup_env.packages(
        '.venv-latest')

def installer(folder, script):
    "A command `python -m pip` and `uv` stand for here, which leaves a line in folder/calls"
    file = folder/'tool'
    file.write_text(f'#!/bin/sh\necho "$1 $2 $3" >> {folder}/calls\n{script}\n')
    file.chmod(0o755)
    return str(file)

@pytest.mark.skipif(os.name != 'posix', reason='needs a shell')
@pytest.mark.parametrize('script,calls,error', [
    ('exit 0', 2, None), ('echo broken; exit 1', 4, 'its last lines'),
    ('echo "OSError: [Errno 28] No space left on device"; echo more; exit 1', 2, 'Make room')])
def test_installing_one_after_the_other(script, calls, error, tmp_path, monkeypatch):
    "A full disk is named, and no second installer tries what cannot work"
    tool = installer(tmp_path, script)
    monkeypatch.setattr(setup_env, 'ROOT', tmp_path)
    monkeypatch.setattr(setup_env, 'python_of', lambda name: tool)
    monkeypatch.setattr(setup_env, 'try_imports', lambda names: {})
    monkeypatch.setattr(setup_env, 'packages', lambda name: ['six'])
    monkeypatch.setenv('UV', tool)
    for o in ('a', 'b'): (tmp_path/o).mkdir()
    failed = setup_env.install(['a', 'b'])
    assert list(failed) == (['a', 'b'] if error else [])
    assert all(error in o for o in failed.values())
    lines = (tmp_path/'calls').read_text().splitlines()
    assert len([o for o in lines if 'install' in o]) == calls

def setup(folder, **env):
    return subprocess.run(['sh', str(ROOT/'tools'/'setup.sh'), '.venv'], cwd=folder,
        capture_output=True, text=True, env={**os.environ, **env})

def fake_python(folder, version):
    "A command that answers as a Python of `version` would"
    file = folder/'fakepython'
    file.write_text(f'#!/bin/sh\ncase "$2" in *exit*) exit 1;; *print*) echo {version};; esac\n')
    file.chmod(0o755)
    return str(file)

@pytest.mark.skipif(os.name != 'posix', reason='needs a shell')
def test_setup_names_the_cure(tmp_path):
    res = setup(tmp_path, PYTHON='python9.9')
    assert res.returncode and 'PYTHON=python9.9: this command does not start a' in res.stderr
    assert 'Python' in res.stderr and 'PYTHON=python3.12' in res.stderr
    res = setup(tmp_path, PYTHON=fake_python(tmp_path, '3.9'))
    assert res.returncode and 'is Python 3.9. Expected 3.10, 3.11, 3.12 or 3.13' in res.stderr
    (tmp_path/'bin').mkdir()
    for o in ('sh', 'dirname'): (tmp_path/'bin'/o).symlink_to(shutil.which(o))
    res = setup(tmp_path, PYTHON='', PATH=str(tmp_path/'bin'))
    assert res.returncode and 'No Python 3.10-3.13 found' in res.stderr
    assert 'python3-venv' in res.stderr

# ---- the runner

def python(program): return [sys.executable, '-u', '-c', program]


def test_run_kills_what_hangs():
    began = time.time()
    status, out = run_tests.run(python('import time; print("begun"); time.sleep(600)'), quiet=4)
    assert status != 0 and 'begun' in out and time.time()-began < 1200
    assert re.search(r'killed: it used [\d.]+ s of processor time in \d+ s', out)


def test_run_kills_what_goes_round():
    status, out = run_tests.run(python('print("begun")\nwhile True: pass'), most=1, quiet=8)
    assert status != 0 and 'begun' in out and re.search(r'killed: it used \d+ s of processor', out)


def test_run_waits_for_what_works_however_long_it_takes():
    "Work in a child, much longer than the time in which nothing may happen; silent all the while"
    work = ('import subprocess, sys; subprocess.run([sys.executable, "-c", "import time\\nwhile '
        'time.process_time() < 6: pass"]); print("done")')
    assert run_tests.run(python(work), quiet=2, alive=.05) == (0, 'done\n')


def test_the_time_of_a_process_counts_its_children():
    before = run_tests.time_used(os.getpid())
    subprocess.run(python('import time\nwhile time.process_time() < 1: pass'), check=True)
    assert run_tests.time_used(os.getpid()) - before >= 1
    assert run_tests.time_used(2**22 + 1) == 0


def test_threads_and_workers_fit_the_machine():
    assert run_tests.WORKERS*run_tests.THREADS <= max(run_tests.CPUS, run_tests.WORKERS)
    out = run_tests.run(python('import os; print(*(os.environ[f"{o}_NUM_THREADS"] for o in '
        '("OMP", "MKL", "OPENBLAS")))'))[1]
    assert out.split() == [str(run_tests.THREADS)]*3


def test_short_notebooks_come_last():
    nbs = [ROOT/'nbs'/f for f in ('workshop/all.ipynb', 'tasks/02_masks.ipynb', '12_learner.ipynb',
            'index.ipynb')]
    found = [f.relative_to(ROOT/'nbs').as_posix() for f in run_notebooks.in_order(nbs)]
    assert found[:2] == ['12_learner.ipynb', 'index.ipynb']


needs_fork = pytest.mark.skipif(sys.platform != 'linux', reason='no fork')


@needs_fork
def test_each_notebook_has_a_process_of_its_own(monkeypatch):
    "What one leaves behind no other sees; one that fails, ends or is killed is told, by name"
    def ran(nb):
        said = {'fails': 'raise ValueError("why")', 'leaves': 'sys.exit(0)', 'ends': 'os._exit(3)',
            'is_killed': 'os.kill(os.getpid(), 9)'}.get(nb.stem, '')
        assert not hasattr(sys, 'left_behind')
        sys.left_behind = tempfile.mkdtemp()
        print(nb.stem, 'printed; its files are in', sys.left_behind, flush=True)
        exec(said)
        return nb.stem != 'is_wrong'
    monkeypatch.setattr(run_notebooks, 'run_here', ran)
    monkeypatch.setattr(run_notebooks, 'moves', lambda nb: False)
    names = ['works', 'fails', 'leaves', 'ends', 'is_killed', 'is_wrong', 'works_too']
    got = {nb.stem: (ok, out) for nb, _, ok, out in
        run_notebooks.run_all([Path(n) for n in names], 2)}
    assert {n for n, (ok, _) in got.items() if ok} == {'works', 'works_too'}
    assert set(got) == set(names) and 'ValueError: why' in got['fails'][1]
    for name, (_, out) in got.items():
        left = re.search(rf'{name} printed; its files are in (\S+)', out)[1]
        assert not Path(left).exists()


@needs_fork
def test_notebooks_run_as_nbdev_test_runs_them(tmp_path):
    "Long cells are left out, a cell that fails ends it, in a fork and in a new process"
    def write(name, *cells):
        file = tmp_path/f'{name}.ipynb'
        file.write_text(json.dumps(dict(nbformat=4, nbformat_minor=5, metadata={}, cells=[
            dict(cell_type='code', id=f'c{i}', metadata={}, source=s, outputs=[],
                execution_count=None) for i, s in enumerate(cells)])))
        return file
    good = write('good', '#| slow\nassert False', 'x = 1', 'assert x == 1')
    bad = write('bad', 'assert 1 == 2, "not so"')
    got = {nb.stem: (ok, out) for nb, _, ok, out in run_notebooks.run_all([good, bad], 2)}
    assert got['good'][0] and not got['bad'][0] and 'not so' in got['bad'][1]
    assert run_notebooks.run_in_process(good) and not run_notebooks.run_in_process(bad)


@pytest.mark.parametrize('code,said,left', [(0, ['ok']*3, 0), (1, ['ok'], 2), (1, ['ok']*3, 1),
    (1, ['ok', 'FAILED', 'ok'], 1), (1, ['FAILED'], 3), (-9, [], 3)])
def test_notebooks_that_nothing_is_said_of_count_as_failed(code, said, left, monkeypatch):
    "Three notebooks; what the tool said of them, and how many count as failed"
    files = [ROOT/'nbs'/f'{n}.ipynb' for n in 'abc']
    monkeypatch.setattr(run_tests, 'project_files', lambda: files)
    lines = ''.join(f'{o:6} nbs/a.ipynb 1.0 s\n' for o in said)
    monkeypatch.setattr(run_tests, 'run', lambda *a, **k: (code, lines + 'last words'))
    (_, good, bad, text), = run_tests.notebooks()
    assert (good, bad) == (said.count('ok'), left)
    assert ('last words' in text) == (code != 0 and (len(said) < 3 or 'FAILED' not in said))


def test_lines_come_as_they_are_printed():
    seen = []
    assert run_tests.run(python('print(1)\nprint(2)'), line=seen.append) == (0, '1\n2\n')
    assert seen == ['1\n', '2\n']


@pytest.mark.skipif(os.name != 'posix', reason='needs signals')
def test_a_stopped_run_leaves_nothing_running(tmp_path):
    sleeper = [sys.executable, '-c', f'import os, time; open({str(tmp_path/"pid")!r}, '
        '"w").write(str(os.getpid())); time.sleep(60)']
    program = (f'import sys; sys.path.insert(0, {str(ROOT/"tools")!r}); import signal, run_tests '
        'as r; signal.signal(signal.SIGTERM, r.stop); r.STEPS = dict(a=("a", lambda: '
        f'r.run({sleeper!r}))); r.main([])')
    p = subprocess.Popen([sys.executable, '-c', program], stdout=subprocess.PIPE, text=True)
    for _ in range(200):
        if (tmp_path/'pid').exists() and (tmp_path/'pid').read_text(): break
        time.sleep(0.1)
    p.terminate()
    assert 'stopped by SIGTERM' in p.communicate(timeout=600)[0] and p.returncode == 143
    pid = int((tmp_path/'pid').read_text())
    def gone():
        try: os.kill(pid, 0)
        except ProcessLookupError: return True
        return 'Z' in Path(f'/proc/{pid}/stat').read_text().split()[2] if Path(
            f'/proc/{pid}/stat').exists() else False
    assert any(gone() or time.sleep(0.1) for _ in range(100))

def test_a_changed_file_is_named(monkeypatch):
    shots = iter([dict(a=b'1\n', b=b'x'), dict(a=b'2\n', b=b'x', c=b'new')])
    monkeypatch.setattr(run_tests, 'snapshot', lambda: next(shots))
    monkeypatch.setattr(run_tests, 'run', lambda cmd: (0, ''))
    (what, good, bad, text), = run_tests.leaves_no_diff('nbdev_export')
    assert (good, bad) == (0, 1) and 'a, c' in text and '-1' in text and '+2' in text

def test_last_line_counts_and_all_steps_run(monkeypatch, capsys):
    def fine(): yield 'fine', 3, 0, ''
    def broken(): raise RuntimeError('no such thing')
    monkeypatch.setattr(run_tests, 'STEPS', dict(a=('first', broken), b=('second', fine)))
    monkeypatch.setattr(run_tests, 'snapshot', dict)
    assert run_tests.main([]) == 1
    out = capsys.readouterr().out
    assert out.endswith('\n3 passed, 1 failed\n') and 'no such thing' in out
    assert run_tests.main(['b']) == 0 and capsys.readouterr().out.endswith('\n3 passed, 0 failed\n')

def test_unknown_step():
    with pytest.raises(SystemExit, match='no step nonsense; the steps are export'):
        run_tests.main(['nonsense'])

# ---- diagrams

def test_diagrams_are_what_the_code_draws():
    res = subprocess.run([sys.executable, ROOT/'images'/'draw.py', '--check'], capture_output=True,
        text=True)
    assert res.returncode == 0, res.stdout + res.stderr
