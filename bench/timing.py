"""Contestants timed in turn: what one of them meets on a busy machine, the others meet too.

`race` goes through all contestants in every round, each round in the other direction, so that no
one always comes first. Two clocks run: that on the wall, and the processor time of this process,
which other programs do not lengthen (much); with one thread their difference is waiting. Ratios are
taken within a round, and their median counts."""
from __future__ import annotations
import gc
import time
from contextlib import contextmanager
from statistics import median, quantiles
from typing import NamedTuple

CLOCKS = time.perf_counter, time.process_time
SHORT = .02  # seconds: what is shorter is repeated within a round


class Spent(NamedTuple):
    "Seconds that a contestant has measured itself, for example of another process"
    wall: float
    cpu: float


class Race(NamedTuple):
    "Seconds a call, one number a round: {contestant: [...]}"
    wall: dict
    cpu: dict


@contextmanager
def threads(n):
    "Compute with `n` threads, then with as many as before."
    import torch
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try: yield
    finally: torch.set_num_threads(before)


@contextmanager
def no_collection():
    """Python's collector of garbage runs between the timings, and never within one.

    What there was before is left out of its walks, which would take long in a large program."""
    was = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try: yield
    finally:
        gc.unfreeze()
        if was: gc.enable()


def timed(f, times=1, clocks=CLOCKS, wait=None):
    "`Spent` a call of `f`, called so many `times`; `wait` lets a GPU come to its end."
    gc.collect()
    began = [c() for c in clocks]
    for _ in range(times): said = f()
    if wait: wait()
    spent = [(c()-b)/times for c,b in zip(clocks, began)]
    return said if isinstance(said, Spent) else Spent(*spent)


def race(contestants, rounds=5, warm=1, *, clocks=CLOCKS, wait=None):
    """A `Race` of {name: function} over so many rounds.

    The first `warm` rounds are thrown away. A contestant that takes less than SHORT seconds is
    called as often in each round as fills them, at most 1000 times."""
    names = list(contestants)
    res,times = Race({k: [] for k in names}, {k: [] for k in names}),dict.fromkeys(names, 1)
    with no_collection():
        for r in range(-warm, rounds):
            for k in names if r%2==0 else names[::-1]:
                spent = timed(contestants[k], times[k] if r>=0 else 1, clocks, wait)
                if r<0: times[k] = max(1, min(1000, int(SHORT/max(spent.wall, 1e-9))))
                else:
                    res.wall[k].append(spent.wall)
                    res.cpu[k].append(spent.cpu)
    return res


def spread(xs):
    "[median, fastest, lower quarter, upper quarter], four digits each"
    low,_,high = quantiles(xs, n=4, method='inclusive') if len(xs)>1 else xs*3
    return [float(f'{o:.4g}') for o in (median(xs), min(xs), low, high)]


def ratios(times, named):
    "{contestant: spread of its time in units of `named`'s, round by round}"
    return {k: spread([a/max(b, 1e-12) for a,b in zip(v, times[named])]) for k,v in times.items()}


def summary(run, named, clock='cpu'):
    """What a results file keeps of a Race: milliseconds by both clocks; ratios by `clock`.

    Ratios are in units of the contestant `named`: 2 is twice its time."""
    ms = {c: {k: spread([1000*o for o in v]) for k,v in getattr(run, c).items()}
        for c in Race._fields}
    return dict(named=named, clock=clock, rounds=len(run.wall[named]), wall_ms=ms['wall'],
        cpu_ms=ms['cpu'], ratios=ratios(getattr(run, clock), named))
