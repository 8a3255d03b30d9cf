"""exercises.py [--check]: write each exercise of nbs/tasks into the chapter, beside its idea;
--check compares.

A chapter names the place: a text cell that begins with `<!-- exercise 05.1 -->`. Its text,
and the stub in the code cell below it, are written here from the notebook of the chapter's
exercises. Outputs of cells that stay the same are kept."""
import argparse
import hashlib
import json
import re
import sys
from pathlib import Path

from segbook.exercises import all_exercises

ROOT = Path(__file__).resolve().parent.parent
IMPORT = 'from segbook.exercises import *\n\n'
HOW = """> **How exercises work.** Put your answer in place of the three dots and run the cell. \
The check answers with a tick, or with the smallest case that goes wrong. `hint('{0}')` gives a \
hint, `solution('{0}')` a solution, `progress()` the \
map of the course. Numbers are names, not an order: none is missing.

"""
_marker = re.compile(r'<!-- exercise (\S+) -->')


def text_of(cell):
    return cell['source'] if isinstance(cell['source'], str) else ''.join(cell['source'])


def made(kind, source):
    "A new cell; its id depends on what it holds"
    key = hashlib.sha1(f'{kind}|{source}'.encode()).hexdigest()[:8]
    cell = dict(cell_type=kind, id=key, metadata={}, source=source.splitlines(True))
    return {**cell, **dict(execution_count=None, outputs=[])} if kind == 'code' else cell


def written(ex, first):
    """(text, stub) of an exercise as they stand in a chapter; the first of a notebook says how
    exercises work"""
    gap = '\n' if ex.is_value else '\n\n'
    text = f'<!-- exercise {ex.id} -->\n### Exercise {ex.id}: {ex.title}\n\n'
    stub = f"{ex.stub_source}{gap}check('{ex.id}', {ex.name})"
    return text + (HOW.format(ex.id) if first else '') + ex.text, (IMPORT if first else '') + stub


def placed(cells, exercises):
    """(cells with every exercise that is marked in them, ids in their order); an unknown id
    stays, for the caller to name"""
    out, ids = [], []
    todo = list(cells)
    while todo:
        cell = todo.pop(0)
        mark = _marker.match(text_of(cell)) if cell['cell_type'] == 'markdown' else None
        if not mark or mark[1] not in exercises:
            out.append(cell)
            if mark: ids.append(mark[1])
            continue
        below = todo.pop(0) if todo and f"check('{mark[1]}'" in text_of(todo[0]) else None
        for old, kind, source in zip((cell, below), ('markdown', 'code'),
                written(exercises[mark[1]], not ids)):
            out.append(old if old and text_of(old) == source else made(kind, source))
        ids.append(mark[1])
    return out, ids


def chapters(root):
    "The notebooks in which an exercise can stand"
    found = sorted((root/'nbs').rglob('*.ipynb'))
    skipped = ('tasks', 'workshop')
    return [f for f in found if not any(p in skipped or p[0] in '._'
            for p in f.relative_to(root/'nbs').parts)]


def out_of_step(write, root=ROOT, exercises=None):
    "What is wrong, a line each; notebooks are put right when `write`"
    exercises = all_exercises() if exercises is None else exercises
    found, seen = [], {}
    for file in chapters(root):
        name = file.relative_to(root).as_posix()
        nb = json.loads(file.read_text(encoding='utf-8'))
        cells, ids = placed(nb['cells'], exercises)
        for i in ids: seen.setdefault(i, []).append(name)
        if cells == nb['cells']: continue
        found.append(name)
        if write:
            text = json.dumps({**nb, 'cells': cells}, indent=1, ensure_ascii=False, sort_keys=True)
            file.write_text(text + '\n', encoding='utf-8')
    lost = [f'exercise {i} stands in no chapter: put `<!-- exercise {i} -->` in a text cell'
        for i in exercises if i not in seen]
    twice = [f'exercise {i} stands in {len(f)} places: {", ".join(f)}' for i, f in seen.items()
        if len(f) > 1]
    strange = [f'{f[0]}: there is no exercise {i}' for i, f in seen.items() if i not in exercises]
    return found, lost + twice + strange


def main():
    ap = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    ap.add_argument('--check', action='store_true', help='change nothing; exit code 1 when a '
        'chapter is out of step')
    args = ap.parse_args()
    found, wrong = out_of_step(write=not args.check)
    if args.check and found:
        wrong += [*found, 'out of step with nbs/tasks: run `make prepare`, then run the new cells']
    if wrong: sys.exit('\n'.join(wrong))
    for f in found: print(f'{f}: exercises written; run the notebook again')


if __name__ == '__main__': main()
