"""fold.py [--check]: close the cells that a reader of a chapter need not see, in the notebooks themselves; --check compares.

Closed are exported cells and those flagged `#| hide`: set-up and tests. JupyterLab and Notebook 7 read
`jupyter.source_hidden`, Colab reads `cellView`; VS Code keeps what is closed in its own memory and reads no key of the file.
The site folds the same cells by their flags (docs/convert.py). Notebooks of exercises stay open: nobody reads them."""
import argparse
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CLOSED = {'jupyter': {'source_hidden': True}, 'cellView': 'form'}
_flag = re.compile(r'^#\|\s*(exporti?|hide)\b', re.M)


def text_of(cell): return cell['source'] if isinstance(cell['source'], str) else ''.join(cell['source'])


def closes(cell):
    "Is this a cell that stands closed?"
    return cell['cell_type'] == 'code' and bool(_flag.search(text_of(cell)))


def folded(cell):
    "The cell with the metadata that it should have; what else is there stays"
    rest = {k: v for k, v in cell['metadata'].items() if k not in CLOSED}
    return {**cell, 'metadata': {**rest, **CLOSED} if closes(cell) else rest}


def notebooks(root):
    found = sorted((root/'nbs').rglob('*.ipynb'))
    return [f for f in found if not any(p == 'tasks' or p[0] in '._' for p in f.relative_to(root/'nbs').parts)]


def out_of_step(write, root=ROOT):
    "Notebooks with a cell that is open and should not be, or closed and should not be; they are put right when `write`"
    found = []
    for file in notebooks(root):
        nb = json.loads(file.read_text(encoding='utf-8'))
        cells = [folded(c) for c in nb['cells']]
        if cells == nb['cells']: continue
        found.append(file.relative_to(root).as_posix())
        if write:
            text = json.dumps({**nb, 'cells': cells}, indent=1, ensure_ascii=False, sort_keys=True)
            file.write_text(text + '\n', encoding='utf-8')
    return found


def main(root=ROOT):
    ap = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    ap.add_argument('--check', action='store_true', help='change nothing; exit code 1 when a notebook is out of step')
    args = ap.parse_args()
    found = out_of_step(write=not args.check, root=root)
    if args.check and found: sys.exit('\n'.join([*found, 'cells to be closed or opened: run `make prepare`']))


if __name__ == '__main__': main()
