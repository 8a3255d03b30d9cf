"What a measurement has to say about the machine it was made on."
import platform, os
from datetime import date
from importlib.metadata import PackageNotFoundError, version


def cpu() -> str:
    try: lines = open('/proc/cpuinfo').read().splitlines()
    except OSError: return platform.processor()
    return next((l.split(':', 1)[1].strip() for l in lines if l.startswith('model name')),
        platform.processor())


def about(*packages) -> dict:
    "Date, processor, cores and versions."
    vs = {}
    for p in ('torch', 'torchvision', 'fastai', 'fastcore', *packages):
        try: vs[p] = version(p)
        except PackageNotFoundError: pass
    return dict(date=str(date.today()), cpu=cpu(), cores=os.cpu_count(),
        python=platform.python_version(), versions=vs)
