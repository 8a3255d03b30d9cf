"""python -m bench [TOPIC ...]: time segbook beside its peers, in one run, in turn.

With no name all topics run. What stands in bench/results/TOPIC.json for the same code and the same
versions is not run again. Some names are long trainings with options of their own, which run only
when they are named: python -m bench experiments --help."""
from __future__ import annotations
import argparse
import ast
import importlib
import sys
import warnings
from pathlib import Path

from bench.topics import ROOT, draw, read_rows, run_topic

TOPICS = ('loading', 'planning', 'augmentation', 'step', 'namesakes', 'epoch', 'metrics', 'losses',
    'receptive_field', 'weight_map', 'windows', 'objects',
    'startup')  # modules of bench/ with a TOPIC


def scripts():
    "{name: its first sentence}: the modules of bench/ with a command line of their own"
    found = {}
    for f in sorted((ROOT/'bench').glob('*.py')):
        tree = ast.parse(f.read_text(encoding='utf-8'))
        if f.stem != '__main__' and any(getattr(o, 'name', '') == 'main' for o in tree.body):
            found[f.stem] = ' '.join(ast.get_docstring(tree).split('\n\n')[0].split())
    return found


def topic_named(name): return importlib.import_module(f'bench.{name}').TOPIC


def listed():
    "The names there are, with a sentence each."
    lines = [f'{n:16} {topic_named(n).what}' for n in TOPICS]
    return '\n'.join([*lines, '', 'only when named, with options of their own (--help):',
        *(f'{n:16} {what}' for n, what in scripts().items())])


def parser():
    "The options of the topics"
    p = argparse.ArgumentParser('python -m bench', description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('topics', nargs='*', metavar='TOPIC', help='see --list; `show TOPIC ...` draws '
        'the curves of what was measured into runs/bench/')
    p.add_argument('--list', action='store_true', help='say which topics there are')
    p.add_argument('--again', action='store_true', help='run what is known, too')
    p.add_argument('--only', default='', metavar='TEXT', help='cases whose name holds this')
    p.add_argument('--rounds', type=int, help='rounds over all contestants')
    p.add_argument('--threads', type=int, default=1, help='1: ratios of processor time; more: of '
        'the clock on the wall, for which the machine has to be quiet')
    p.add_argument('--smoke', action='store_true', help='the smallest case, one round, nothing '
        'written')
    return p


def show(names):
    "Draw what was measured; the exit code."
    for n in names:
        t = topic_named(n)
        found = draw(t, read_rows(t.file), Path('runs/bench')/f'{n}.png')
        print(f'{n}: {found or f"no curves yet; measure them with python -m bench {n}"}')
    return 0


def run_script(name, args):
    "A script with a command line of its own; the exit code."
    sys.argv = [f'python -m bench {name}', *args]
    return importlib.import_module(f'bench.{name}').main() or 0


def main(args=None):
    "The exit code"
    args = sys.argv[1:] if args is None else list(args)
    warnings.filterwarnings('ignore')
    named = next((o for o in args if not o.startswith('-')), None)
    if named in scripts(): return run_script(named, [o for o in args if o != named])
    p = parser()
    a = p.parse_args(args)
    showing, names = a.topics[:1] == ['show'], a.topics
    names = [n for n in names[showing:]] or list(TOPICS)
    if wrong := [n for n in names if n not in TOPICS]:
        p.error(f'no topic {", ".join(wrong)}; there are {", ".join(TOPICS)}, and each of '
            f'{", ".join(scripts())} stands alone')
    if a.list: return print(listed()) or 0
    if showing: return show(names)
    if a.threads < 1 or (a.rounds is not None and a.rounds < 1):
        p.error('--threads and --rounds: expected at least 1')
    from segbook.files import progress_bar
    for n in names:
        run_topic(topic_named(n), smoke=a.smoke, again=a.again, rounds=a.rounds, only=a.only,
            threads=a.threads, bar=progress_bar)
    return 0


if __name__ == '__main__': sys.exit(main())
