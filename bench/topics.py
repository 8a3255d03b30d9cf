"""What a topic of measurement is, how it is run, and what is kept of it.

A topic is a module with a `TOPIC`; its cases are points of curves (a size, a number of images or
classes), each with contestants that are timed in turn. A results file holds one row a case. A row
is kept, and its case not run again, as long as the code it measured (the topic, the timing, the
parts of the library that the topic names) and the versions of the packages are the same."""
from __future__ import annotations
import hashlib
import json
import re
from datetime import date
from pathlib import Path
from typing import Callable, NamedTuple

from segbook.files import replace_file

from bench import timing
from bench.about import about, load, versions

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT/'bench'/'results'


class Contest(NamedTuple):
    "Who runs in a case"
    makers: dict  # name -> function that gets ready and returns the function to time
    facts: Callable|None = None  # compares results, raises if they differ; {fact: value}
    named: str = ''  # in whose time the ratios are, if not the topic's


class Case(NamedTuple):
    "One point of a curve"
    curve: str  # what stays the same along it
    axis: str  # what grows along it: 'pixels', 'images', 'classes' ...
    at: float  # how much of it there is here
    what: str  # in words: shapes
    contest: Callable  # () -> Contest; draws the data, too

    @property
    def key(self): return f'{self.curve}, {self.what}'


class Topic(NamedTuple):
    "What `python -m bench NAME` runs"
    name: str
    what: str  # one sentence
    named: str  # the contestant in whose time the ratios are
    cases: Callable  # (smoke) -> [Case]; with smoke the smallest
    packages: tuple = ()  # whose versions matter beside torch and fastai
    watched: tuple = ()  # files and folders of segbook/ that are measured
    module: str = ''  # of bench/, if not `name`
    rounds: int = 5

    @property
    def file(self): return RESULTS/f'{self.name}.json'


def sources(topic):
    "The files whose change makes a measurement old."
    files = [ROOT/'bench'/f'{topic.module or topic.name}.py', ROOT/'bench'/'timing.py']
    for o in topic.watched:
        p = ROOT/'segbook'/o
        files += sorted(p.rglob('*.py')) if p.is_dir() else [p]
    return files


def code_hash(files):
    "sha256 of the files, 12 digits; a file's name counts, its folder does not."
    h = hashlib.sha256()
    for f in files: h.update(f.name.encode() + b'\0' + f.read_bytes())
    return h.hexdigest()[:12]


def read_rows(file):
    "{key: row} of a results file; nothing where there is none, or one of another kind."
    try: return json.loads(Path(file).read_text(encoding='utf-8')).get('cases', {})
    except (OSError, ValueError): return {}


def as_json(o):
    "JSON with a list of numbers on one line"
    text = json.dumps(o, indent=1, ensure_ascii=False) + '\n'
    return re.sub(r'\[\n[^\[\]{}"]*\]', lambda m: re.sub(r'\s+', ' ', m[0]).replace('[ ',
            '[').replace(' ]', ']'), text)


def write_rows(topic, rows, file):
    "The results file with these rows, whole or not at all."
    out = dict(about(*topic.packages), topic=topic.name, what=topic.what,
        unit='ms: [median, fastest, lower quarter, upper quarter]; ratios in units of `named`, '
        'within a round, by `clock`: cpu is processor time, wall the clock on the wall',
        cases=rows)
    file.parent.mkdir(parents=True, exist_ok=True)
    replace_file(file, lambda f: Path(f).write_text(as_json(out), encoding='utf-8'))


def made(makers):
    "({name: function}, {name: why it is left out}): a library that is not here takes no part."
    ready, left_out = {}, {}
    for name, make in makers.items():
        try: ready[name] = make()
        except ImportError as e: left_out[name] = f'{e.name or e} is not installed'
    return ready, left_out


def measure(topic, case, rounds, threads=1, warm=1):
    "The row of one case."
    with timing.threads(threads):
        contest = case.contest()
        ready, left_out = made(contest.makers)
        named = contest.named or topic.named
        if not ready: raise SystemExit(f'{case.key}: nobody can run: {left_out}')
        if named not in ready: named = next(iter(ready))
        facts = contest.facts() if contest.facts else {}
        began = load()
        run = timing.race(ready, rounds, warm)
    row = timing.summary(run, named, 'cpu' if threads == 1 else 'wall')
    return dict(curve=case.curve, axis=case.axis, at=case.at, what=case.what, threads=threads,
        **row, facts=facts, left_out=left_out, load=began, date=str(date.today()))


def run_topic(topic, *, smoke=False, again=False, rounds=None, threads=1, only='', file=None,
        said=print, bar=None):
    """Run the cases of a topic that are not known yet; {key: row} of all.

    With `smoke` the smallest case, one round, and nothing is read or written. `only` is a part of
    the keys to run."""
    file = Path(file or topic.file)
    plan = {f'{c.key}, {threads} thread{"s"*(threads > 1)}': c for c in topic.cases(smoke)}
    if smoke: plan = dict(list(plan.items())[:1])
    code, vs = code_hash(sources(topic)), versions(*topic.packages)
    rows = {} if smoke else read_rows(file)
    def known(k): return k in rows and (rows[k].get('code'), rows[k].get('versions')) == (code, vs)
    todo = [k for k in plan if only in k and (again or not known(k))]
    for k in (bar(todo, len(todo), f'cases of {topic.name}') if bar else todo):
        n = 1 if smoke else rounds or topic.rounds
        row = measure(topic, plan[k], n, threads, warm=not smoke)
        rows[k] = dict(row, code=code, versions=vs)
        if not smoke: write_rows(topic, rows, file)
        said('\n' + table(k, rows[k]))
    if not smoke and not only: drop_strangers(topic, rows, plan, threads, file)
    return rows


def drop_strangers(topic, rows, plan, threads, file):
    "Forget rows with so many threads of cases that the topic has no more."
    gone = [k for k, r in rows.items() if r['threads'] == threads and k not in plan]
    for k in gone: del rows[k]
    if gone: write_rows(topic, rows, file)


def table(key, row):
    "A case as text: milliseconds by both clocks, and ratios."
    wide = max(map(len, [*row['wall_ms'], *row['left_out']]))
    lines = [key, f'{"":{wide}} {"median":>10} {"fastest":>10} {"processor":>10}  in units of '
        f'{row["named"]} ({"processor time" if row["clock"] == "cpu" else "wall"})']
    for k, (mid, low, *_) in row['wall_ms'].items():
        r = row['ratios'][k]
        lines.append(f'{k:{wide}} {mid:7.4g} ms {low:7.4g} ms {row["cpu_ms"][k][0]:7.4g} ms '
            f'{r[0]:8.3g}   ({r[2]:.3g} to {r[3]:.3g})')
    lines += [f'{k:{wide}} left out: {why}' for k, why in row['left_out'].items()]
    if row['facts']: lines.append(f'{row["facts"]}')
    return '\n'.join(lines)


def growth(rows):
    "{(curve, axis): [row, ...] in the order of the axis}, of curves with two places or more."
    found = {}
    for r in rows.values():
        title = f'{r["curve"]}, {r["threads"]} thread{"s"*(r["threads"] > 1)}'
        found.setdefault((title, r['axis']), []).append(r)
    return {k: sorted(v, key=lambda r: r['at']) for k, v in found.items()
        if len({r['at'] for r in v}) > 1}


def draw(topic, rows, out):
    "The curves of a topic as a picture, milliseconds over the axis, both logarithmic."
    from matplotlib.figure import Figure
    curves = growth(rows)
    if not curves: return None
    n = len(curves)
    fig = Figure(figsize=(6*min(n, 2), 4*-(-n//2)), layout='constrained')
    for ax, ((curve, axis), rs) in zip(fig.subplots(-(-n//2), min(n, 2), squeeze=False).flat,
            curves.items()):
        clock = f'{rs[0]["clock"]}_ms'
        for i, name in enumerate(dict.fromkeys(k for r in rs for k in r[clock])):
            at = [(r['at'], r[clock][name][0]) for r in rs if name in r[clock]]
            ax.plot(*zip(*at), marker='osv^Dx+'[i % 7], label=name,
                lw=2.5 if name == topic.named else 1)
        ax.set(xscale='log', yscale='log', xlabel=axis, title=curve,
            ylabel='ms of processor time' if clock == 'cpu_ms' else 'ms')
        ax.legend(fontsize=7)
    out.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(out, dpi=110)
    return out
