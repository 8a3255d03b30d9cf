"""Runs of `segbook_train` to which something happens. A process that has imported everything forks
one for each line that it reads, so that a run takes seconds; where there is no fork, tests skip."""
import json, os, signal, subprocess, sys
from dataclasses import dataclass
from pathlib import Path

# a network of four layers, which these processes know beside the library's own
TINY = ['--arch', 'four_layers', '--encoder', 'resnet18', '--pretrained', 'false', '--bs', '2',
    '--epochs', '3', '--workers', '0']
PATIENCE = 1800  # seconds after which a run hangs, on any machine


@dataclass
class Ended:
    "How a run ended."
    rc: int
    out: str
    err: str

    @property
    def said(self): return self.out + self.err


class Runs:
    "Starts runs in processes of their own; `folder` takes what they print."
    def __init__(self, folder):
        self.folder, self.n = Path(folder), 0
        self.mother = subprocess.Popen([sys.executable, '-W', 'ignore', __file__],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, 'OMP_NUM_THREADS': '1'})
        assert self._heard() == 'ready'

    def _heard(self):
        line = self.mother.stdout.readline()
        assert line, 'the process that starts the runs has ended'
        return json.loads(line)

    def _ask(self, job):
        self.mother.stdin.write(json.dumps(job) + '\n')
        self.mother.stdin.flush()

    def start(self, *args, before='', stdout=None):
        """Start a run; its process id. `before` is Python that it executes first, `stdout` a file
        that is open already."""
        self.n += 1
        files = [str(self.folder/f'{self.n}.{o}') for o in ('out', 'err')]
        self._ask(dict(args=[str(o) for o in args], files=files, before=before))
        return self._heard()

    def end(self):
        "Wait for the run that was started last."
        rc = self._heard()
        said = [(self.folder/f'{self.n}.{o}').read_text(errors='replace') for o in ('out', 'err')]
        return Ended(rc, *said)

    def start_team(self, *args, size=2, before='', launcher=True):
        """Start a run of several processes; their ids. With `launcher` one that ends badly ends the
        others with SIGTERM, as torchrun does it."""
        self.n += 1
        files = [[str(self.folder/f'{self.n}.{r}.{o}') for o in ('out', 'err')]
            for r in range(size)]
        self._ask(dict(args=[str(o) for o in args], files=files, before=before, launcher=launcher))
        return self._heard()

    def end_team(self):
        "Wait for the run of several processes that was started last: how each of them ended."
        return [Ended(rc, *[(self.folder/f'{self.n}.{r}.{o}').read_text(errors='replace')
            for o in ('out', 'err')]) for r, rc in enumerate(self._heard())]

    def team(self, *args, **kw):
        self.start_team(*args, **kw)
        return self.end_team()

    def __call__(self, *args, before=''):
        self.start(*args, before=before)
        return self.end()

    def close(self):
        self.mother.stdin.close()
        self.mother.wait(PATIENCE)


def child(job):
    "What the forked process does: the command, as a terminal starts it."
    for fd, file in zip((1, 2), job['files']):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), fd)
    os.close(0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's `&` leaves it ignored
    from segbook.cli import segbook_train
    sys.argv = ['segbook_train', *job['args']]
    exec(job['before'], {})
    rc = segbook_train()
    for o in (sys.stdout, sys.stderr):
        try: o.flush()
        except (OSError, ValueError): pass
    return rc


def forked(job):
    "A process that does a job; its id."
    if pid := os.fork(): return pid
    rc = 99
    try: rc = child(job)
    except BaseException:
        import traceback
        traceback.print_exc()
    finally: os._exit(rc)

def store():
    "A process that serves the names and values of a team, as torchrun does; its id and its port."
    hears, says = os.pipe()
    if pid := os.fork(): return pid, int(os.read(hears, 100))
    from torch.distributed import TCPStore
    served = TCPStore('127.0.0.1', 0, is_master=True, wait_for_workers=False)
    os.write(says, str(served.port).encode())
    while True: signal.pause()

def forked_team(job):
    "The processes of a team, the numbers of which are in their environment; the exit code of each."
    server, port = store()
    pids, was = [], dict(os.environ)
    os.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port), GLOO_SOCKET_IFNAME='lo',
        TORCHELASTIC_USE_AGENT_STORE='True', TORCHELASTIC_RESTART_COUNT='0',
        WORLD_SIZE=str(len(job['files'])))
    for rank, files in enumerate(job['files']):
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
        pids.append(forked({**job, 'files': files}))
    for o in os.environ.keys() - was.keys(): del os.environ[o]
    yield pids
    codes = {}
    while len(codes) < len(pids):
        pid, status = os.wait()
        codes[pid] = os.waitstatus_to_exitcode(status)
        if codes[pid] and job['launcher'] and len(codes) == 1:
            for o in pids:
                if o not in codes: os.kill(o, signal.SIGTERM)
    os.kill(server, signal.SIGKILL)
    os.waitpid(server, 0)
    yield [codes[o] for o in pids]

def four_layers(n_classes, encoder, in_channels=3, pretrained=False, width=64):
    from torch import nn
    return nn.Sequential(nn.Conv2d(in_channels, width, 3, padding=1), nn.BatchNorm2d(width),
        nn.ReLU(), nn.Conv2d(width, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Upsample(scale_factor=2), nn.Conv2d(width, n_classes, 1))

def serve():
    "Import what a run imports, then fork a run for each line."
    import torch
    from segbook.models import MODELS
    torch.set_num_threads(1)
    MODELS['four_layers'] = four_layers
    import matplotlib.figure, timm  # noqa: F401
    import segbook.data, segbook.export, segbook.interpretation, segbook.learner  # noqa: F401
    hears, says = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), 'w')
    def say(o):
        says.write(json.dumps(o) + '\n')
        says.flush()
    say('ready')
    for line in hears:
        job = json.loads(line)
        if 'launcher' in job:
            for said in forked_team(job): say(said)
            continue
        pid = forked(job)
        say(pid)
        say(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


if __name__ == '__main__': serve()
