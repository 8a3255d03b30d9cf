"How long a fresh process takes that imports segbook, or what it stands on and beside."
from __future__ import annotations
import importlib.util
import resource
import subprocess
import sys
import time

from bench.timing import Spent
from bench.topics import Case, Contest, Topic

LINES = {'fastai': 'from fastai.vision.all import *', 'segbook.all': 'from segbook.all import *',
    'segbook.masks': 'import segbook.masks', 'segbook.cli': 'import segbook.cli',
    'torch': 'import torch', 'segmentation-models-pytorch': 'import segmentation_models_pytorch',
    'MONAI': 'import monai.networks.nets', 'torchmetrics': 'import torchmetrics'}


def children():
    "Seconds of processor time of the processes that have ended."
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def fresh(line):
    "A maker of a function that runs `line` in a process of its own and measures that."
    def make():
        package = line.split()[1].split('.')[0]
        if importlib.util.find_spec(package) is None:
            raise ImportError(f'{package} is not there', name=package)
        def run():
            began, used = time.perf_counter(), children()
            subprocess.run([sys.executable, '-W', 'ignore', '-c', line], check=True)
            return Spent(time.perf_counter() - began, children() - used)
        return run
    return make


def cases(smoke):
    chosen = ('segbook.masks',) if smoke else LINES
    return [Case('a fresh process', 'process', 1, 'that imports and ends',
        lambda: Contest({k: fresh(LINES[k]) for k in chosen}, named=chosen[0] if smoke else ''))]


TOPIC = Topic('startup', 'a fresh process that imports segbook, fastai and others', 'fastai',
    cases, ('segbook', 'segmentation-models-pytorch', 'monai', 'torchmetrics'), ('.',))
