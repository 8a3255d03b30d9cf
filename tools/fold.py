"""fold.py [--check]: close the cells that a reader of a chapter need not see, in the notebooks
themselves; --check compares.

Closed are exported cells and those flagged `#| hide`: set-up and tests. JupyterLab and Notebook 7
read `jupyter.source_hidden`, Colab reads `cellView`; VS Code keeps what is closed in its own memory
and reads no key of the file. The site folds the same cells by their flags (docs/cells.py).
Notebooks of exercises stay open: nobody but their author reads them."""
import argparse
import re
import sys
from pathlib import Path

import notebooks

ROOT = Path(__file__).resolve().parent.parent
CLOSED = {'jupyter': {'source_hidden': True}, 'cellView': 'form'}
_flag = re.compile(r'^#\|\s*(exporti?|hide)\b', re.M)


def closes(cell):
    "Is this a cell that stands closed?"
    return cell['cell_type'] == 'code' and bool(_flag.search(notebooks.text_of(cell)))


def folded(cell):
    "The cell with the metadata that it should have; what else is there stays"
    rest = {k: v for k, v in cell['metadata'].items() if k not in CLOSED}
    return {**cell, 'metadata': {**rest, **CLOSED} if closes(cell) else rest}


def out_of_step(write, root=ROOT):
    "Notebooks with a cell that is open and should not be, or closed and should not be"
    return notebooks.changed(root,
        lambda nb, _: {**nb, 'cells': [folded(c) for c in nb['cells']]}, write)


def main(root=ROOT):
    ap = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    ap.add_argument('--check', action='store_true', help='change nothing; exit code 1 when a '
        'notebook is out of step')
    args = ap.parse_args()
    found = out_of_step(write=not args.check, root=root)
    if args.check and found:
        sys.exit('\n'.join([*found, 'cells to be closed or opened: run `make prepare`']))


if __name__ == '__main__': main()
