"""front.py [--check]: write what a reader meets first from the one place where it is decided;
--check compares.

Where the project lives stands in settings.ini (`user`, `repo`, `git_url`, `branch`), and a
chapter's title is the heading of its notebook. From these come the first code cell of every
notebook, which installs the library where it is missing, the addresses in text (the badge of Colab,
the line for pip), and the names in the front page's list of chapters. A fork changes settings.ini
and runs `make prepare`, which then makes the README from the front page."""
import argparse
import re
import sys
from configparser import ConfigParser
from pathlib import Path

import notebooks

ROOT = Path(__file__).resolve().parent.parent
FIRST = """#| hide
# Installs segbook where it is missing, as in Colab, and lets widgets be shown; else does nothing.
import importlib.util, os, sys
if importlib.util.find_spec('segbook') is None:
    package = os.environ.get('SEGBOOK_PACKAGE',
        'segbook[timm,widgets] @ git+{git_url}')
    %pip install -q "{{package}}"
    importlib.invalidate_caches()
    if importlib.util.find_spec('segbook') is None:
        raise ImportError(f'{{package}} could not be installed; pip says why above. Without a '
            'network, run this in a checkout, in the environment that `make setup` makes there.')
if 'google.colab' in sys.modules:
    sys.modules['google.colab'].output.enable_custom_widget_manager()"""
# addresses of the project, as they stand in text
COLAB = r'https://colab\.research\.google\.com/github/[\w.-]+/[\w.-]+/blob/[\w.-]+/'
INSTALL = r"(segbook(?:\[[\w,]+\])? @ git\+)https://[^\s'\"`)]+"


def settings(root=ROOT):
    cfg = ConfigParser(delimiters=['='])
    cfg.read(root/'settings.ini', encoding='utf-8')
    return cfg['DEFAULT']


def first_cell(cfg): return FIRST.format(git_url=cfg['git_url'])


def addressed(text, cfg):
    "Markdown `text` with the addresses of this project"
    place = '{user}/{repo}/blob/{branch}/'.format(**cfg)
    text = re.sub(COLAB, f'https://colab.research.google.com/github/{place}', text)
    return re.sub(INSTALL, lambda m: m[1] + cfg['git_url'], text)


def title(file):
    "The heading of a notebook, None where there is none"
    if not file.exists(): return None
    cells = notebooks.load(file)['cells']
    text = next((notebooks.text_of(c) for c in cells if c['cell_type'] == 'markdown'), '')
    head = re.match(r'#\s+(.+)', text)
    return head and head[1].strip()


def listed(text, folder):
    "The table of chapters with the title that each notebook has"
    def row(m):
        name, number = title(folder/m[1]), re.match(r'\d+[a-z]?(?=_)', m[1])
        return f'| [{number[0] + " " if number else ""}{name}]({m[1]}) |' if name else m[0]
    return re.sub(r'^\| \[[^]\n]*\]\(([\w/]+\.ipynb)\) \|', row, text, flags=re.M)


def written(nb, cfg, folder):
    """The notebook, which lies in `folder`, with its first code cell, its addresses, and the titles
    of what it lists"""
    cells, first = [], True
    for c in nb['cells']:
        source = notebooks.text_of(c)
        if c['cell_type'] == 'code' and first: first, source = False, first_cell(cfg)
        elif c['cell_type'] == 'markdown': source = listed(addressed(source, cfg), folder)
        same = source == notebooks.text_of(c)
        cells.append(c if same else {**c, 'source': source.splitlines(True)})
    return {**nb, 'cells': cells}


def out_of_step(write, root=ROOT):
    "Notebooks that name another place or title than is decided; they are put right when `write`"
    cfg = settings(root)
    return notebooks.changed(root, lambda nb, file: written(nb, cfg, file.parent), write)


def main(root=ROOT):
    ap = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    ap.add_argument('--check', action='store_true', help='change nothing; exit code 1 when a '
        'notebook is out of step')
    args = ap.parse_args()
    found = out_of_step(write=not args.check, root=root)
    if args.check and found:
        sys.exit('\n'.join([*found, 'these are out of step with settings.ini or with a title: run '
            '`make prepare`']))


if __name__ == '__main__': main()
