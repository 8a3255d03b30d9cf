"What a measurement has to say about the machine it was made on."
import os
import platform
from datetime import date
from importlib.metadata import PackageNotFoundError, version


def cpu() -> str:
    try: lines = open('/proc/cpuinfo').read().splitlines()
    except OSError: return platform.processor()
    return next((l.split(':', 1)[1].strip() for l in lines if l.startswith('model name')),
        platform.processor())


def versions(*packages) -> dict:
    "Versions of the packages that are installed."
    found = {}
    for p in ('torch', 'torchvision', 'fastai', 'fastcore', *packages):
        try: found[p] = version(p)
        except PackageNotFoundError: pass
    return found


def gpu(device) -> str | None:
    "What the GPU calls itself; None for a processor."
    import torch
    return torch.cuda.get_device_name(device) if torch.device(device).type == 'cuda' else None


def about(*packages, device='cpu') -> dict:
    "Date, processor, cores, GPU where one was used, and versions."
    return dict(date=str(date.today()), cpu=cpu(), cores=os.cpu_count(),
        **({'gpu': gpu(device)} if gpu(device) else {}), python=platform.python_version(),
        versions=versions(*packages))


def load() -> float:
    "How many programs want a processor, on average of the last minute; -1 where nobody knows."
    return round(os.getloadavg()[0], 1) if hasattr(os, 'getloadavg') else -1.
