"""run_notebooks.py [--workers N] NOTEBOOK...: run notebooks as nbdev_test does, N at a time, each
in a process of its own.

A process is a copy of this one (fork), which has imported fastai and other libraries, though
nothing of segbook: importing them takes as long as a short notebook. A notebook with an explorer
is run in a kernel by docs/build.py instead, since the site needs its state. Prints a line `ok` or
`FAILED` for each, with what a failed one printed; exit code 1 when one failed."""
import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT/'docs'))
from build import moves  # noqa: E402

# imported once, if they are there; whatever else a notebook needs, it imports itself
SHARED = ('fastai.vision.all', 'timm', 'matplotlib.pyplot', 'pandas', 'scipy.ndimage',
    'scipy.stats', 'skimage.measure', 'torchvision', 'nbdev.test', 'IPython')


# short texts that take long: networks are compiled and exported, all encoders are made
LONG = {'late_compiler', 'onnx_files', 'models'}


def in_order(nbs):
    "The longest first, by their text; those of exercises and workshop are short, but for LONG"
    def short(nb):
        return nb.relative_to(ROOT/'nbs').parts[0] in ('tasks', 'workshop') and nb.stem not in LONG
    return sorted(nbs, key=lambda nb: (short(nb), -len(nb.read_text(encoding='utf-8'))))


def run_here(nb):
    "Run a notebook in this process, as nbdev_test does; whether it ran to its end"
    from nbdev.config import get_config
    from nbdev.test import test_nb
    config = get_config()
    os.chdir(config.nbs_path)
    return test_nb(nb, skip_flags=config.tst_flags.split(), basepath=config.config_path)[0]


def run_in_process(nb):
    "Run a notebook in a process that is begun for it; whether it ran to its end"
    cmd = [ROOT/'docs'/'build.py', '--run', nb] if moves(nb) else [__file__, '--here', nb]
    return subprocess.run([sys.executable, *map(str, cmd)], cwd=ROOT).returncode == 0


def forked(nb, log, folder):
    "The id of a copy of this process that runs `nb`; it prints to `log`, its files are in `folder`"
    if pid := os.fork(): return pid
    code = 1
    try:
        for fd in (1, 2): os.dup2(log.fileno(), fd)
        sys.stdout, sys.stderr = (open(fd, 'w', closefd=False) for fd in (1, 2))
        tempfile.tempdir = os.environ['TMPDIR'] = folder
        # where a fork of loaded libraries is not safe, as on macOS, only a new process is begun
        fresh = moves(nb) or sys.platform != 'linux'
        code = int(not (run_in_process if fresh else run_here)(nb))
    except BaseException as e: print(f'{type(e).__name__}: {e}', file=sys.stderr)
    finally:
        for o in (sys.stdout, sys.stderr): o.flush()
        os._exit(code)


def run_all(nbs, workers):
    "Yield (notebook, seconds, whether it ran to its end, what it printed) as they end"
    todo, running = list(nbs), {}
    while todo or running:
        while todo and len(running) < workers:
            nb, log = todo.pop(0), tempfile.TemporaryFile('w+', errors='replace')
            folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
            running[forked(nb, log, folder.name)] = nb, log, folder, time.time()
        pid, status = os.wait()
        if pid not in running: continue
        nb, log, folder, began = running.pop(pid)
        log.seek(0)
        yield nb, time.time()-began, status == 0, log.read()
        log.close()
        folder.cleanup()


def main():
    ap = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    ap.add_argument('notebooks', nargs='+', type=lambda f: Path(f).resolve())
    ap.add_argument('--workers', type=int, default=1)
    ap.add_argument('--here', action='store_true', help='run one notebook in this process')
    args, bad = ap.parse_args(), 0
    if args.here: return int(not run_here(args.notebooks[0]))
    os.environ.setdefault('MPLBACKEND', 'agg')
    for name in SHARED if sys.platform == 'linux' else ():
        if importlib.util.find_spec(name.split('.')[0]): importlib.import_module(name)
    for nb, secs, ok, out in run_all(in_order(args.notebooks), args.workers):
        bad += not ok
        print(f'{"ok    " if ok else "FAILED"} {nb.relative_to(ROOT)} {secs:.1f} s', flush=True)
        for l in [] if ok else out.rstrip().split('\n')[-60:]: print(f'      {l}', flush=True)
    return int(bad > 0)


if __name__ == '__main__': sys.exit(main())
