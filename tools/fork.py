"""fork.py [--check]: write the names of settings.ini into what a reader meets first; --check compares.

`user`, `repo`, `git_url`, `branch` and `doc_host` stand in settings.ini, and nowhere else by hand. This writes the first code
cell of every notebook, which installs the library where it is missing, and the addresses in the text of the front page, from
which tools/readme.py makes the README. A fork changes settings.ini and runs `make prepare`."""
import argparse
import json
import re
import sys
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FIRST = """#| hide
# In Colab, or wherever segbook is not installed yet: this installs it, and lets widgets be shown. Elsewhere it does nothing.
import importlib.util, os, sys
if importlib.util.find_spec('segbook') is None:
    package = os.environ.get('SEGBOOK_PACKAGE', 'segbook[timm,widgets] @ git+{git_url}')
    %pip install -q "{{package}}"
if 'google.colab' in sys.modules: sys.modules['google.colab'].output.enable_custom_widget_manager()"""
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
    text = re.sub(COLAB, f'https://colab.research.google.com/github/{cfg["user"]}/{cfg["repo"]}/blob/{cfg["branch"]}/', text)
    return re.sub(INSTALL, lambda m: m[1] + cfg['git_url'], text)


def text_of(cell): return cell['source'] if isinstance(cell['source'], str) else ''.join(cell['source'])


def written(nb, cfg):
    "The notebook with its first code cell and its addresses"
    cells, first = [], True
    for c in nb['cells']:
        source = text_of(c)
        if c['cell_type'] == 'code' and first: first, source = False, first_cell(cfg)
        elif c['cell_type'] == 'markdown': source = addressed(source, cfg)
        cells.append(c if source == text_of(c) else {**c, 'source': source.splitlines(True)})
    return {**nb, 'cells': cells}


def notebooks(root):
    found = sorted((root/'nbs').rglob('*.ipynb'))
    return [f for f in found if not any(p == 'tasks' or p[0] in '._' for p in f.relative_to(root/'nbs').parts)]


def out_of_step(write, root=ROOT):
    "Files that name another place than settings.ini does; they are put right when `write`"
    found, cfg = [], settings(root)
    for file in notebooks(root):
        nb = json.loads(file.read_text(encoding='utf-8'))
        new = written(nb, cfg)
        if new == nb: continue
        found.append(file.relative_to(root).as_posix())
        if write:
            text = json.dumps(new, indent=1, ensure_ascii=False, sort_keys=True)
            file.write_text(text + '\n', encoding='utf-8')
    return found


def main(root=ROOT):
    ap = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    ap.add_argument('--check', action='store_true', help='change nothing; exit code 1 when a file is out of step')
    args = ap.parse_args()
    found = out_of_step(write=not args.check, root=root)
    if args.check and found: sys.exit('\n'.join([*found, 'these name another place than settings.ini: run `make prepare`']))


if __name__ == '__main__': main()
