"""Long trainings of three seeds each, one after the other, each kept as soon as it has ended.

A plan is {group: {name: function of the seed}}; a function returns the scores of its run, a dict.
A results file holds {group: {name: {seed: scores}}} under 'runs'. What stands there is not run
again, so that a plan may take several evenings."""
import argparse
import json
from pathlib import Path

import torch
from bench.about import about
from segbook.files import replace_file

SEEDS = 1, 2, 3


def parser(text, groups=(), devices=False):
    "The options of a plan, which trains on a processor, or on any of the `devices`"
    p = argparse.ArgumentParser(description=text,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--data', type=Path, help='the folder in which the folders of images are')
    if groups: p.add_argument('--group', nargs='*', choices=[*groups], default=[*groups])
    p.add_argument('--runs', type=int, help='end after so many new runs')
    if devices: p.add_argument('--device', default='cpu', help='where to train: cpu or cuda')
    return p


def run_plan(file, plan, *, what, settings, packages=('segbook', 'timm'), most=None, groups=None,
        device='cpu'):
    """Run what is not in `file` yet, seed by seed, on one thread; {group: {name: {seed: scores}}}.

    A group of runs says on which machine the last of them was made."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    old = json.loads(file.read_text()) if file.exists() else {}
    out = dict(what=what, settings=settings, made_on=old.get('made_on', {}),
        runs=old.get('runs', {}))
    for group, seed, name, run in ((g, s, n, r) for g, runs in plan.items() for s in SEEDS
            for n, r in runs.items()):
        done = out['runs'].setdefault(group, {}).setdefault(name, {})
        if str(seed) in done or groups is not None and group not in groups: continue
        if most == 0: break
        if most is not None: most -= 1
        done[str(seed)] = scores = run(seed)
        out['made_on'][group] = about(*packages, device=device)
        replace_file(file, lambda f: f.write_text(json.dumps(out, indent=1) + '\n'))
        print(group, name, seed, {k: v for k, v in scores.items() if k != 'curve'}, flush=True)
    return out['runs']
