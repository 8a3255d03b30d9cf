"""colab_check.py PYTHON WHEEL NOTEBOOK...: notebooks as Colab opens them, in the environment of
PYTHON, away from the checkout.

segbook is removed from that environment first. The first cell must bring it back, from WHEEL,
and change no package that was there; then the notebook runs to its end. Run by `make test`
with the newest fastai, without nbdev. Prints one line a check."""
import json, os, re, subprocess, sys, tempfile, time
from pathlib import Path
import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parent.parent
failed = 0

def say(ok, what, text=''):
    global failed
    failed += not ok
    print(f'{"ok    " if ok else "FAILED"} {what}' + (f'\n{text}' if text and not ok else ''),
        flush=True)

def packages(python):
    "{name: version} of what is installed beside `python`"
    out = subprocess.run([python, '-m', 'pip', 'list', '--format=json'], capture_output=True,
        text=True, check=True).stdout
    return {o['name'].lower(): o['version'] for o in json.loads(out)}

def pretend_colab(folder):
    """A kernel in which `google.colab` is loaded, as in Colab; what is asked of it is written to
    a file"""
    fake = folder/'fake'/'google'/'colab'
    fake.mkdir(parents=True)
    (fake.parent/'__init__.py').write_text('')
    (fake/'__init__.py').write_text('class output:\n    def enable_custom_widget_manager(): '
        'open(__file__ + ".called", "a").write("x")\n')
    return fake/'__init__.py.called'

def kernel(folder, python):
    spec = folder/'jupyter'/'kernels'/'colab'
    spec.mkdir(parents=True)
    argv = [str(python), '-m', 'ipykernel_launcher', '-f', '{connection_file}',
        '--IPKernelApp.exec_lines=import google.colab']
    (spec/'kernel.json').write_text(json.dumps(dict(argv=argv, display_name='colab',
                language='python')))

def run(file, folder):
    "What failed in a run of the notebook `file` in `folder`, or ''"
    nb = nbformat.read(file, 4)
    for c in nb.cells:
        if c.cell_type == 'code' and re.search(r'^#\|\s*(slow|eval:\s*false)', c.source, re.M):
            c.source = ''
    try:
        NotebookClient(nb, timeout=None, startup_timeout=600, kernel_name='colab',
            resources=dict(metadata=dict(path=str(folder)))).execute()
    except Exception as e: return re.sub(r'\x1b\[[0-9;]*m', '', str(e))[-3000:]
    return ''

def main(python, wheel, *notebooks):
    subprocess.run([python, '-m', 'pip', 'uninstall', '-q', '-y', 'segbook'], check=True)
    before = packages(python)
    say('segbook' not in before and 'nbdev' not in before, 'neither segbook nor nbdev is there')
    with tempfile.TemporaryDirectory() as tmp:
        tmp = Path(tmp)
        called = pretend_colab(tmp)
        kernel(tmp, python)
        os.environ.update(JUPYTER_PATH=str(tmp/'jupyter'), PYTHONPATH=str(tmp/'fake'),
            SEGBOOK_PACKAGE=f'segbook[timm,widgets] @ {Path(wheel).as_uri()}',
                          SEGBOOK_PROGRESS=str(tmp/'progress.json'),
                          # caps in the settings of this machine's pip are not Colab's
                          PIP_CONSTRAINT=os.devnull,
                          MPLBACKEND='module://matplotlib_inline.backend_inline')
        for i,name in enumerate(notebooks):
            began, wrong = time.time(), run(ROOT/'nbs'/name, tmp)
            say(not wrong, f'{name} runs to its end ({time.time()-began:.0f} s)', wrong)
            if i == 0:
                after = packages(python)
                say('segbook' in after, 'the first cell installed segbook')
                changed = {k: (v, after.get(k)) for k,v in before.items() if after.get(k) != v}
                say(not changed, 'and changed nothing that was there', str(changed))
        say(called.exists() and called.read_text() == 'x'*len(notebooks), 'widgets were enabled, '
            'once a notebook')

if __name__ == '__main__':
    main(*sys.argv[1:])
    sys.exit(failed > 0)
