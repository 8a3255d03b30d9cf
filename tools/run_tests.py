"""run_tests.py [STEP...]: run the test steps, all or those named, and end with one line `N
passed, N failed`.

A step yields (what, passed, failed, text to show); every step runs even when an earlier one
failed. Nothing is put back: what nbdev_export or nbdev_clean change stays changed, and is
named. Standard library only."""
import difflib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import setup_env

ROOT = setup_env.ROOT
BIN = Path(sys.executable).parent
CPUS = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
WORKERS = min(CPUS, 4)          # notebooks run side by side, each in its own process
# each of them computes with so many threads, so that they do not fight
THREADS = max(1, CPUS//WORKERS)
# What ends a command does not depend on how much else the machine has to do: it stands still when
# it gets less than
# ALIVE seconds of processor time in QUIET seconds, and it runs in a circle when it has used MOST of
# them
QUIET, ALIVE, MOST = 15*60, 10, 3*3600


def say(*args): print(*args, flush=True)


# the commands under way, each the head of its own group of processes
RUNNING = set()

def stop(number, frame=None):
    "Ctrl-C or SIGTERM: end the commands under way too, then leave"
    for p in list(RUNNING): end(p)
    say(f'\nstopped by {signal.Signals(number).name}')
    os._exit(128+number)

def end(p):
    "Kill `p` and its children"
    try: os.killpg(p.pid, signal.SIGKILL)
    except ProcessLookupError: pass

def processes():
    """{pid: (parent, seconds of processor time, those of children that ended included)} of all
    processes"""
    found = {}
    if not Path('/proc/self/stat').exists():  # macOS
        out = subprocess.run(['ps', '-A', '-o', 'pid=,ppid=,time='], capture_output=True,
            text=True).stdout
        for pid, parent, used in (l.split() for l in out.splitlines()):
            found[int(pid)] = int(parent), sum(float(t)*60**i
                for i, t in enumerate(re.split('[-:]', used)[::-1]))
        return found
    for f in Path('/proc').glob('[0-9]*/stat'):
        try: rest = f.read_text().rsplit(')', 1)[1].split()
        except (OSError, IndexError): continue  # it has just ended
        found[int(f.parent.name)] = int(rest[1]), sum(map(int,
                rest[11:15]))/os.sysconf('SC_CLK_TCK')
    return found


def time_used(pid):
    "Seconds of processor time of the process `pid` and all below it, kernels of notebooks included"
    table, total, todo = processes(), 0, [pid]
    while todo:
        p = todo.pop()
        if p in table: total += table[p][1]
        todo += [c for c, (parent, _) in table.items() if parent == p]
    return total


def run(cmd, cwd=ROOT, threads=THREADS, quiet=QUIET, alive=ALIVE, most=MOST, line=None):
    """(exit code, output) of `cmd`, killed with all its children when it stands still, or runs
    in a circle; `line` is called with each line that it prints"""
    env = {'MPLBACKEND': 'agg', **setup_env.clean_env()}
    env.update({f'{o}_NUM_THREADS': str(threads) for o in ('OMP', 'MKL', 'OPENBLAS', 'NUMEXPR')})
    p = subprocess.Popen([str(o) for o in cmd], cwd=cwd, env=env, text=True, errors='replace',
        start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT)
    RUNNING.add(p)
    out = []
    def read():
        for o in p.stdout:
            out.append(o)
            if line: line(o)
    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    since, before, why = time.monotonic(), 0, ''
    try:
        while not why:
            reader.join(min(10, quiet/4))
            if not reader.is_alive(): break
            now, used = time.monotonic(), time_used(p.pid)
            if used - before >= alive: since, before = now, used
            if used > most: why = f'it used {used:.0f} s of processor time'
            elif now - since > quiet:
                why = f'it used {used - before:.1f} s of processor time in {now - since:.0f} s'
        if why: end(p)
        p.wait()
        reader.join()
    finally: RUNNING.discard(p)
    return p.returncode, ''.join(out) + (f'\nkilled: {why}' if why else '')


def tail(text, n=60):
    "The last `n` lines of `text`, indented"
    lines = text.rstrip().split('\n')
    return '\n'.join('      ' + l for l in (['...'] if len(lines) > n else []) + lines[-n:])

# ---- files

def project_files():
    """The files git tracks or would track; without git, everything outside hidden and generated
    folders"""
    res = subprocess.run(['git', 'ls-files', '-co', '--exclude-standard', '-z'], cwd=ROOT,
        capture_output=True, text=True)
    if res.returncode == 0: found = [ROOT/f for f in res.stdout.split('\0') if f]
    else:
        skip = re.compile(r'/(\.venv[^/]*|\.git|\.ipynb_checkpoints|\.\w+_cache|__pycache__'
            r'|[^/]*egg-info|build|dist|runs|node_modules|_\w+)/')
        found = [f for f in ROOT.rglob('*') if not skip.search('/'
                + f.relative_to(ROOT).as_posix())]
    return sorted(f for f in found if f.is_file())

def snapshot(): return {f.relative_to(ROOT).as_posix(): f.read_bytes() for f in project_files()}

def changes(before, after):
    "Names of the files that differ between two snapshots"
    return sorted(f for f in before.keys() | after.keys() if before.get(f) != after.get(f))

def diff(name, before, after, n=20):
    "First `n` lines of the difference of file `name`"
    a, b = ((o.get(name) or b'').decode(errors='replace').split('\n') for o in (before, after))
    lines = list(difflib.unified_diff(a, b, f'{name} (before)', f'{name} (after)', lineterm='',
            n=1))
    return '\n'.join(l[:160] for l in lines[:n]) + ('\n...' if len(lines) > n else '')

def leaves_no_diff(cmd):
    "Run an nbdev command; a failure when a file changed"
    before = snapshot()
    code, out = run([BIN/cmd])
    after = snapshot()
    changed = changes(before, after)
    text = '' if code == 0 else tail(out)
    if changed:
        text += (f'      {cmd} changed, and the new version is in place: {", ".join(changed)}\n'
                 '      Look at it, and commit it together with the notebooks.\n')
        text += '\n'.join(tail(diff(f, before, after)) for f in changed[:5])
    ok = code == 0 and not changed
    yield f'{cmd} leaves no diff', int(ok), int(not ok), text

# ---- steps

def export(): return leaves_no_diff('nbdev_export')
def clean(): return leaves_no_diff('nbdev_clean')

WRITTEN = {'exercises': 'exercises stand in the chapters as nbs/tasks has them',
    'front': 'first cells, addresses and titles are those of settings.ini and of the notebooks',
    'fold': 'cells that stand closed are closed', 'readme': 'README.md is in step with '
    'nbs/index.ipynb'}


def written():
    "What tools write into the notebooks and the README"
    for tool, what in WRITTEN.items():
        code, out = run([sys.executable, f'tools/{tool}.py', '--check'])
        yield what, int(code == 0), int(code != 0), '' if code == 0 else tail(out)


def pytest(what, *args, threads=THREADS):
    """Run pytest with `args` and read its counts; the output is shown when something failed or
    was skipped"""
    with tempfile.TemporaryDirectory() as tmp:
        xml = Path(tmp)/'result.xml'
        code, out = run([sys.executable, '-m', 'pytest', '-q', '-rs', '--durations=5',
                '--disable-warnings', '--continue-on-collection-errors', '-p', 'no:cacheprovider',
                '-o', 'tmp_path_retention_policy=failed', f'--junitxml={xml}', *args],
            threads=threads)
        count = ET.parse(xml).getroot().find('testsuite').attrib if xml.exists() else {}
    bad, skipped = (sum(int(count.get(o, 0)) for o in names)
        for names in (('failures', 'errors'), ('skipped',)))
    good = int(count.get('tests', 0)) - bad - skipped
    if code == 5: bad, out = 1, f'{out}\nno tests found'
    if code not in (0, 5): bad = max(bad, 1)
    if skipped: what += f' ({skipped} skipped)'
    text = tail(out, 200 if bad else 40)
    yield what, good, bad, text

HOUSE = 'tests/test_house.py', 'tests/test_rooms.py'


def house(): return pytest('pytest ' + ' '.join(HOUSE), *HOUSE)
def tests():
    return pytest('pytest tests', 'tests', *(f'--ignore={f}' for f in HOUSE), '-n', str(WORKERS),
        '--dist', 'loadfile')

# as Colab opens them: what is special there, and one that trains
COLAB = '17_exercises.ipynb', '16_widgets.ipynb', '12b_interrupted_runs.ipynb'


def notebooks():
    nbs = [f for f in project_files() if f.suffix == '.ipynb' and f.is_relative_to(ROOT/'nbs')
           and not any(p.startswith(('_', '.')) for p in f.relative_to(ROOT/'nbs').parts)]
    if not nbs:
        yield 'no notebook under nbs', 0, 1, ''
        return
    say(f'   {len(nbs)} notebooks, {WORKERS} at a time')
    code, out = run([sys.executable, 'tools/run_notebooks.py', '--workers', WORKERS, *nbs],
        line=lambda l: say(f'   {l.rstrip()}'))
    good, bad = (len(re.findall(rf'^{o} ', out, re.M)) for o in ('ok', 'FAILED'))
    # those that nothing is said of did not come to their turn, or not to their end
    unsaid = len(nbs) - good - bad
    yield ('tools/run_notebooks.py', good, bad + max(unsaid, int(code != 0 and not bad)),
        tail(out) if code and (unsaid or not bad) else '')


def build_wheel(folder):
    "Build the wheel of a copy of the library's files in `folder`; (wheel or None, output)"
    src = Path(folder)/'src'
    src.mkdir()
    for f in project_files():
        rel = f.relative_to(ROOT)
        if rel.parts[0] != 'segbook' and rel.as_posix() not in ('setup.py', 'settings.ini',
                'pyproject.toml', 'README.md', 'LICENSE'):
            continue
        (src/rel).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(f, src/rel)
    out = run([setup_env.python_of('.venv-latest'), '-m', 'pip', 'wheel', '--no-deps',
            '--no-build-isolation', '--no-index', '-w', folder, src])[1]
    return next(Path(folder).glob('segbook-*.whl'), None), out

def stack():
    "The built wheel in the second environment: tests/stack_check.py there, away from the checkout"
    if not setup_env.recorded('.venv-latest'):
        yield ('.venv-latest', 0, 1, '      it is not complete: see .venv-latest/setup.log, and '
            'run `make latest`')
        return
    python = setup_env.python_of('.venv-latest')
    with tempfile.TemporaryDirectory() as tmp:
        wheel, out = build_wheel(tmp)
        if wheel:
            code, out = run([python, '-m', 'pip', 'install', '--no-deps', '--no-index',
                    '--force-reinstall', wheel])
        ok = bool(wheel) and code == 0
        yield 'the wheel builds and installs', int(ok), int(not ok), '' if ok else tail(out)
        if not ok: return
        code, out = run([python, '-I', '-W', 'ignore', ROOT/'tests'/'stack_check.py'], cwd=tmp)
        yield lines('tests/stack_check.py', code, out)
        code, out = run([sys.executable, ROOT/'tests'/'colab_check.py', python, wheel, *COLAB],
            cwd=tmp)
        yield lines('tests/colab_check.py', code, out)

def lines(what, code, out):
    "The result of a script that prints a line `ok ...` or `FAILED ...` for each check"
    good, bad = (len(re.findall(rf'^{o} ', out, re.M)) for o in ('ok', 'FAILED'))
    return what, good, bad or int(code != 0), tail(out, 200)

WEB = 'tests/web_check.py', 'tests/web_widgets.py'


def web():
    code, out = run([sys.executable, 'docs/build.py', '--widgets'])
    yield 'the site is built', int(code == 0), int(code != 0), tail(out, 60)
    if code == 0:
        # each in a process of its own: both drive a browser, and only one may in a process
        for file in ('tests/web_check.py', 'tests/web_widgets.py'):
            yield from pytest(f'pytest {file}', file, '-n', str(WORKERS))

STEPS = {
    'export': ('the library is in step with the notebooks', export),
    'clean': ('the notebooks are clean', clean),
    'written': ('what tools write into notebooks and README', written),
    'house': ('house rules, and ruff', house),
    'notebooks': ('every notebook runs', notebooks),
    'tests': ('what a notebook cannot hold', tests),
    'stack': ('the wheel with the newest fastai, without nbdev, and notebooks as in Colab', stack),
    'web': ('the site in a browser, and its widgets with a kernel', web)}

def run_step(i, n, name):
    "Run one step and print it; (passed, failed, seconds)"
    title, step = STEPS[name]
    began, good, bad = time.time(), 0, 0
    say(f'\n== {i}/{n} {name}: {title}')
    try:
        for what, g, b, text in step():
            good, bad = good+g, bad+b
            say(f'   {"FAILED" if b else "ok":6} {what}')
            if text: say(text)
    except Exception as e:
        bad += 1
        say(f'   FAILED {type(e).__name__}: {e}')
    secs = time.time()-began
    say(f'   {secs:.1f} s')
    return good, bad, secs

def main(names):
    unknown = [o for o in names if o not in STEPS]
    if unknown: sys.exit(f'no step {", ".join(unknown)}; the steps are {", ".join(STEPS)}')
    names = names or [o for o in STEPS if o != 'web']  # that one needs Chromium
    before = snapshot()
    results = {o: run_step(i, len(names), o) for i,o in enumerate(names, 1)}
    left = [f for f in changes(before, snapshot()) if f not in before
        and not f.startswith('segbook/')]
    if left: results['new files'] = (0, 1, 0.)
    say('\n== all steps')
    for o,(good,bad,secs) in results.items():
        say(f'   {"FAILED" if bad else "ok":6} {o:10} {good:4} {bad:4} {secs:7.1f} s')
    if left: say(f'   FAILED the run left files behind: {", ".join(left[:10])}')
    good, bad = (sum(r[i] for r in results.values()) for i in (0, 1))
    say(f'\n{good} passed, {bad} failed')
    return int(bad > 0)

if __name__ == '__main__':
    for o in (signal.SIGINT, signal.SIGTERM): signal.signal(o, stop)
    sys.exit(main(sys.argv[1:]))
