"""setup_env.py ENVIRONMENT...: make or renew the environments of this checkout with the Python
that runs this file.

`.venv` holds the library (editable) and the development tools; `.venv-latest` holds what the
library needs in its newest versions, without nbdev. Each is made once and reused until
settings.ini, setup.py, the interpreter or the folder changes; `.venv-latest` is also renewed
after a week. Uses uv when present, else pip. Standard library only."""
import hashlib, json, os, re, shutil, subprocess, sys, time
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WEEK, NEED_GB = 7*24*3600, 8
# what installers say when there is no room left
FULL = 'No space left on device|Disk quota exceeded|not enough space'
VERSION = '%d.%d' % sys.version_info[:2]
# not the Python of an environment that may be removed
BASE = getattr(sys, '_base_executable', None) or sys.executable

def say(*args): print(*args, flush=True)

def requirements():
    "The library's own requirements, from settings.ini"
    cfg = ConfigParser(delimiters=['='])
    cfg.read(ROOT/'settings.ini', encoding='utf-8')
    return cfg['DEFAULT']['requirements'].split()

def packages(name):
    "What pip (or uv) installs into environment `name`"
    if name == '.venv': return ['-e', '.[dev]']
    # An empty environment gets the newest versions anyway, and with --upgrade uv would fetch again
    # what it holds already
    upgrade = ['--upgrade'] if any((ROOT/name).glob('lib/*/site-packages/fastai')) else []
    return [*upgrade, *requirements(), 'fastcore', 'ipykernel', 'setuptools', 'wheel']

def python_of(name): return ROOT/name/'bin'/'python'

def wanted(name):
    "The state that a finished environment records"
    files = b''.join((ROOT/f).read_bytes() for f in ('settings.ini', 'setup.py'))
    return {'checkout': str(ROOT), 'python': VERSION,
        'requirements': hashlib.sha256(files).hexdigest()}

def recorded(name):
    "The state that environment `name` recorded when it was finished, or {}"
    try: return json.loads((ROOT/name/'segbook.json').read_text())
    except (OSError, ValueError): return {}

def record(name):
    (ROOT/name/'segbook.json').write_text(json.dumps({**wanted(name), 'made': time.time()}))

def version_of(name):
    "`3.11` for an environment made with Python 3.11, None when there is none or it does not start"
    code = 'import sys; print("%d.%d" % sys.version_info[:2])'
    try:
        return subprocess.run([python_of(name), '-c', code], capture_output=True, text=True,
            check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError): return None

def look(name):
    """What has to be done for `name`, as one of 'nothing', 'make', 'rebuild', 'install',
    'renew', and why"""
    old, new = recorded(name), wanted(name)
    if not (ROOT/name).exists(): return 'make', 'it is not there yet'
    if version_of(name) is None: return 'rebuild', 'its Python does not start'
    if version_of(name) != VERSION:
        return 'rebuild', f'it has Python {version_of(name)}, asked for was {VERSION}'
    if old and old['checkout'] != new['checkout']: return 'rebuild', 'it was made in another folder'
    if not old: return 'install', 'its installation was not finished here'
    if old['requirements'] != new['requirements']:
        return 'install', 'settings.ini or setup.py changed'
    if name == '.venv-latest' and time.time()-old['made'] > WEEK:
        return 'renew', 'it is older than a week'
    return 'nothing', ''

def find_uv():
    "Path of uv, or None"
    ours = ROOT/'.venv-uv'/'bin'/'uv'
    return os.environ.get('UV') or shutil.which('uv') or (str(ours) if ours.exists() else None)

def fetch_uv(name):
    """Let pip fetch uv into .venv-uv, where it touches nothing else: it does the same work in a
    quarter of the time.

    Not where pip is told to use another package index, or none: uv does not read pip's
    settings. Failing is no error."""
    pip = [python_of(name), '-m', 'pip']
    told = subprocess.run([*pip, 'config', 'list'], capture_output=True, text=True).stdout
    if find_uv() or re.search(r'^\S*(?<!extra-)\b(index-url|no-index)=', told, re.M): return
    say('   fetching uv into .venv-uv, to install faster ...')
    subprocess.run([*pip, 'install', '-q', '--target', str(ROOT/'.venv-uv'), 'uv'],
        capture_output=True, env=clean_env())

def create(name):
    "An empty environment; exits with the cure where Python cannot make one"
    cmd = [BASE, '-m', 'venv', str(ROOT/name)]
    res = subprocess.run(cmd, capture_output=True, text=True)
    if res.returncode and find_uv():
        shutil.rmtree(ROOT/name, ignore_errors=True)
        cmd = [find_uv(), 'venv', '--seed', '--python', BASE, str(ROOT/name)]
        res = subprocess.run(cmd, capture_output=True, text=True)
    if res.returncode == 0: return
    shutil.rmtree(ROOT/name, ignore_errors=True)
    sys.exit(f'{(res.stdout + res.stderr).strip()}\n\n{BASE} cannot make the environment {name} '
        '(`python -m venv` failed, see above). On Debian and Ubuntu: apt-get install '
        f'python{VERSION}-venv; or choose another interpreter: PYTHON=python3.12 make test')

def installers(name):
    "The commands to try one after the other, as (tool, command)"
    py, res = str(python_of(name)), []
    if find_uv(): res.append(('uv', [find_uv(), 'pip', 'install', '--python', py]))
    return [*res, ('pip', [py, '-m', 'pip', 'install', '--progress-bar', 'off', '--no-compile'])]

def clean_env():
    """The environment variables, without those that would send files elsewhere or keep Python
    from caching compiled modules"""
    drop = ('PYTHONPATH', 'PYTHONHOME', 'PYTHONDONTWRITEBYTECODE', 'PIP_USER', 'PIP_TARGET')
    return {k:v for k,v in os.environ.items() if k not in drop}

def start(name, cmd, mode='w'):
    "Start `cmd`, its output going to the environment's setup.log"
    with (ROOT/name/'setup.log').open(mode) as log:
        return subprocess.Popen(cmd, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT,
            env=clean_env())

def log_lines(name): return (ROOT/name/'setup.log').read_text(errors='replace').strip().split('\n')

def last_line(name):
    "The last thing of interest that the installer said, cut to fit a line"
    dull = re.compile(r'\s*($|WARNING|warnings|Attempting uninstall|Found '
        r'existing|Uninstalling|Successfully uninstalled)')
    return next((l.strip()[:50] for l in reversed(log_lines(name)) if not dull.match(l)), 'begins')

def wait(procs, news=last_line):
    """Wait for processes {name: Popen}, with a sign of life, `news(name)`, every 15 seconds;
    returns the names that failed"""
    began = beat = time.time()
    try:
        while any(p.poll() is None for p in procs.values()):
            time.sleep(0.2)
            if time.time()-beat < 15: continue
            beat = time.time()
            busy = [n for n,p in procs.items() if p.poll() is None]
            say(f'   {beat-began:3.0f} s  ' + ' | '.join(f'{n}: {news(n)}' for n in busy))
    except BaseException:
        for p in procs.values(): p.kill()
        raise
    return [n for n,p in procs.items() if p.returncode]

def try_imports(names):
    """Import torch and fastai in each environment; {name: error message} where they do not fit
    together"""
    say('   first import of torch and fastai ...')
    code = 'import torch, torchvision, fastai.vision.all'
    bad = wait({n: start(n, [python_of(n), '-W', 'ignore', '-c', code], mode='a') for n in names},
        lambda n: 'importing')
    return {n: f'fastai does not import there ({log_lines(n)[-1]}). torch and torchvision of '
        f'different releases do that: remove {n}, look for extra package sources in the output '
        'of `pip config list`, and run this again' for n in bad}

def full_disk(name):
    "The error message where the installer found no room, else None"
    found = re.search(FULL, '\n'.join(log_lines(name)), re.I)
    if not found: return None
    return (f'the disk is full ({found[0]}): {shutil.disk_usage(ROOT).free/1e9:.1f} GB are free '
        f'here now, about {NEED_GB} GB are needed. Make room (`uv cache clean` and `pip cache '
        'purge` give back what earlier installations left), and run this again')

def install_one(name):
    "Install into `name` with the first tool that can; the error message, or None"
    tools = installers(name)
    for i, (tool, cmd) in enumerate(tools):
        say(f'   {name}: installing with {tool} ...')
        if not wait({name: start(name, [*cmd, *packages(name)])}): return None
        error = full_disk(name)
        if error: return error
        if i + 1 < len(tools):
            say(f'   {name}: {tool} could not install ({log_lines(name)[-1]}): trying '
                f'{tools[i + 1][0]}')
    return '\n'.join(['the installation failed; its last lines, from '
            f'{name}/setup.log:', *log_lines(name)[-12:]])

def install(names):
    """Install into `names` one after the other; {name: error message} of those that failed.

    Not side by side: uv links the second to the files of the first, which is done in seconds
    and takes next to no room, where two at once would fetch and keep everything twice."""
    fetch_uv(names[0])
    check_disk(len(names))
    errors = {n: install_one(n) for n in names}
    failed = {n: e for n, e in errors.items() if e}
    return {**failed, **try_imports([n for n in names if n not in failed])}

def prepare(name, todo, why):
    "Say what will be done for `name`, and make the empty environment where one is needed"
    what = ('the library and its development tools' if name == '.venv' else 'the newest fastai and '
        'fastcore, without nbdev')
    verb = dict(make='making it', rebuild='removing and making it again').get(todo, 'installing '
        'into it')
    say(f'== {name}: {verb}, because {why}. Python {VERSION}, {what}')
    if todo == 'rebuild': shutil.rmtree(ROOT/name)
    if todo in ('make', 'rebuild'): create(name)
    if todo != 'renew': (ROOT/name/'segbook.json').unlink(missing_ok=True)

def check_disk(n):
    "Warn when `n` environments may not fit; uv shares files between them, pip does not"
    free, need = shutil.disk_usage(ROOT).free/1e9, NEED_GB*(1 if find_uv() else n)
    if free < need:
        say(f'   WARNING: {free:.0f} GB free here, up to {need} GB are needed: installing may '
            'fail')

def main(names):
    todo = {n: look(n) for n in names}
    todo = {n: t for n,t in todo.items() if t[0] != 'nothing'}
    if not todo: return 0
    began = time.time()
    for n,(t,why) in todo.items(): prepare(n, t, why)
    say('   about 7 GB on Linux (torch with its CUDA libraries), a minute with uv; with pip as '
        'much\n   for each, and a few minutes; this happens once')
    failed = install(list(todo))
    for n,(t,_) in todo.items():
        if n not in failed: record(n)
        else:
            say(f'   {n}: {failed[n]}' + ('\n   going on with the older versions in it'
                    if t == 'renew' else ''))
    say(f'   done in {time.time()-began:.0f} s' if not failed
        else f'   not finished after {time.time()-began:.0f} s')
    return int(names[0] in failed and todo[names[0]][0] != 'renew')

if __name__ == '__main__': sys.exit(main(sys.argv[1:]))
