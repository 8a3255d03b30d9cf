"""exercises.py [--check]: write the section "Exercises" of each chapter from its exercises in nbs/tasks; --check compares.

Text and stub of an exercise stand in one place, the notebook of the chapter's exercises; the chapter shows them. Outputs
of cells that stay the same are kept."""
import argparse, hashlib, json, sys
from pathlib import Path
from segbook.exercises import _chapter, _chapters, _exercises_of

ROOT = Path(__file__).resolve().parent.parent
INTRO = """## Exercises

Put your answer in place of the three dots and run the cell. The check answers with a tick, or with the smallest case that goes wrong. `hint('{0}')` gives a hint, `solution('{0}')` a solution, `progress()` the map of the course."""
IMPORT = 'from segbook.exercises import check, hint, progress, solution'

def section(name):
    "(notebook, [(cell type, source)]) of the exercises in the module `name`"
    module = _chapter(name)
    exs = _exercises_of(module)
    cells = [('markdown', INTRO.format(next(iter(exs)))), ('code', IMPORT)]
    for e in exs.values():
        gap = '\n' if e.is_value else '\n\n'
        cells += [('markdown', f'### {e.id} {e.title}\n\n{e.text}'),
            ('code', f"{e.stub_source}{gap}check('{e.id}', {e.name})")]
    return ROOT/'nbs'/module.CHAPTER['notebook'], cells

def text_of(cell):
    return cell['source'] if isinstance(cell['source'], str) else ''.join(cell['source'])

def replaced(cells, new):
    "The cells of a notebook with `new` in place of its section Exercises; None when there is no such section"
    def head(c): return c['cell_type'] == 'markdown' and text_of(c).startswith('## ')
    at = [i for i,c in enumerate(cells) if head(c) and text_of(c).startswith('## Exercises')]
    if len(at) != 1: return None
    end = next((i for i,c in enumerate(cells) if i > at[0] and head(c)), len(cells))
    old = {(c['cell_type'], text_of(c)): c for c in cells[at[0]:end]}
    return [*cells[:at[0]], *(old.get(o) or made(*o) for o in new), *cells[end:]]

def made(kind, source):
    cell = dict(cell_type=kind, id=hashlib.sha1(f'{kind}|{source}'.encode()).hexdigest()[:8],
        metadata={}, source=source.splitlines(True))
    return {**cell, **dict(execution_count=None, outputs=[])} if kind == 'code' else cell

def out_of_step(write):
    "Notebooks whose section is not what nbs/tasks says; they are put right when `write`"
    found = []
    for name in _chapters().values():
        file, new = section(name)
        nb = json.loads(file.read_text(encoding='utf-8'))
        cells = replaced(nb['cells'], new)
        if cells is None:
            found.append(f'{file.relative_to(ROOT)}: no cell, or several, that begin with "## '
                'Exercises"')
            continue
        if cells == nb['cells']: continue
        found.append(str(file.relative_to(ROOT)))
        if write:
            file.write_text(json.dumps({**nb, 'cells': cells}, indent=1, ensure_ascii=False,
                    sort_keys=True) + '\n', encoding='utf-8')
    return found

def main():
    ap = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    ap.add_argument('--check', action='store_true', help='change nothing; exit code 1 when a '
        'chapter is out of step')
    args = ap.parse_args()
    found = out_of_step(write=not args.check)
    if args.check and found:
        sys.exit('\n'.join([*found, 'out of step with nbs/tasks: run `make prepare`, then run the '
                    'new cells']))
    for f in found: print(f'{f}: exercises written; run the notebook again')

if __name__ == '__main__': main()
