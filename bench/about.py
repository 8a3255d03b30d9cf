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


def about(*packages) -> dict:
    "Date, processor, cores and versions."
    return dict(date=str(date.today()), cpu=cpu(), cores=os.cpu_count(),
        python=platform.python_version(), versions=versions(*packages))


def load() -> float:
    "How many programs want a processor, on average of the last minute; -1 where nobody knows."
    return round(os.getloadavg()[0], 1) if hasattr(os, 'getloadavg') else -1.
