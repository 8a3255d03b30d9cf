"The tools under tools/: README from the front page, the environments, the test runner"
import importlib.util, json, os, shutil, subprocess, sys, time
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
    assert res.returncode and 'PYTHON=python9.9: this command does not start a Python' in res.stderr and 'PYTHON=python3.12' in res.stderr
    res = setup(tmp_path, PYTHON=fake_python(tmp_path, '3.9'))
    assert res.returncode and 'is Python 3.9. Expected 3.10, 3.11, 3.12 or 3.13' in res.stderr
    (tmp_path/'bin').mkdir()
    for o in ('sh', 'dirname'): (tmp_path/'bin'/o).symlink_to(shutil.which(o))
    res = setup(tmp_path, PYTHON='', PATH=str(tmp_path/'bin'))
    assert res.returncode and 'No Python 3.10-3.13 found' in res.stderr and 'python3-venv' in res.stderr

# ---- the runner

def test_run_kills_what_hangs():
    began = time.time()
    status, out = run_tests.run([sys.executable, '-u', '-c', 'import time; print("begun"); '
            'time.sleep(60)'], limit=2)
    assert status != 0 and 'begun' in out and 'more than 2 s' in out and time.time()-began < 30

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
    assert 'stopped by SIGTERM' in p.communicate(timeout=30)[0] and p.returncode == 143
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
