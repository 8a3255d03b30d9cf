"""predict_tiled on arrays of a disk that zarr opens, and the memory of 4096 by 4096 pixels."""
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from test_model_folder import Learnt
from torch import nn

from segbook.inference import predict_tiled

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def learn():
    torch.manual_seed(0)
    learn = Learnt(codes=['a', 'b', 'c'], n_classes=3, ignore_index=None, mean=[.5]*3, std=[.25]*3)
    learn.model = nn.Conv2d(3, 3, 5, padding=2).eval()
    return learn

def street(h=150, w=170):
    return np.random.default_rng(0).integers(0, 255, (h, w, 3), dtype=np.uint8)


def test_a_zarr_array_is_read_and_written_in_windows(learn, tmp_path):
    "The ids are those of one pass, and nothing larger than a window is read"
    zarr = pytest.importorskip('zarr')
    x = street()
    stored = zarr.open(str(tmp_path/'image.zarr'), mode='w', shape=x.shape, chunks=(64, 64, 3),
        dtype='u1')
    stored[:] = x
    read = []
    class Watched:
        shape, dtype = stored.shape, stored.dtype
        def __getitem__(self, key):
            part = stored[key]
            read.append(part.shape)
            return part
    out = zarr.open(str(tmp_path/'mask.zarr'), mode='w', shape=x.shape[:2], chunks=(64, 64),
        dtype='u1')
    predict_tiled(learn, Watched(), tile=64, out=out)
    with torch.no_grad():
        image = (torch.tensor(x).permute(2, 0, 1)/255 - .5)/.25
        want = learn.model(image[None])[0].argmax(0)
    again = zarr.open(str(tmp_path/'mask.zarr'), mode='r')
    assert (again[:] == want.numpy()).all() and len(want.unique()) == 3
    assert max(max(o[:2]) for o in read) <= 64 and len(read) > 4


def test_a_compressed_tiff_by_its_windows(learn, tmp_path):
    "What np.memmap cannot open, tifffile hands to zarr"
    zarr, tifffile = pytest.importorskip('zarr'), pytest.importorskip('tifffile')
    x = street()
    tifffile.imwrite(tmp_path/'x.tif', x, tile=(64, 64), compression='zlib', photometric='rgb')
    try: stored = zarr.open(tifffile.imread(tmp_path/'x.tif', aszarr=True), mode='r')
    except (ImportError, ValueError, TypeError) as e: pytest.skip(f'tifffile and zarr: {e}')
    got, want = (predict_tiled(learn, o, tile=64) for o in (stored, x))
    assert torch.allclose(got, want, atol=1e-5)


MEMORY = """
import json, re, torch
from pathlib import Path
from torch import nn
from segbook.inference import predict_tiled
def held(what):
    status = Path('/proc/self/status').read_text()
    return int(re.search(what + ': *([0-9]+)', status.replace(chr(9), ' '))[1])
def peak(work):
    Path('/proc/self/clear_refs').write_text('5')
    before, result = held('VmRSS'), work()
    return (held('VmHWM') - before)/1024, result
torch.set_num_threads(1)
net = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 2, 1)).eval()
x = torch.zeros(3, 4096, 4096)
with torch.no_grad():
    net(torch.zeros(1, 3, 64, 64)), predict_tiled(net, x[:, :600, :600], 512, 64, 1) # warm
    one, _ = peak(lambda: net(torch.zeros(4, 3, 512, 512)))
all_, out = peak(lambda: predict_tiled(net, x, 512, 64, 4, progress=False))
print(json.dumps(dict(one=one, beyond=all_ - out.numel()*4/2**20)))
"""

@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='/proc tells the peak')
def test_memory_beyond_the_answer_is_that_of_one_batch():
    """4096x4096 in windows of 512, four at a time: at most 1.5 times the pass of one batch. The
    sum of the weights, 64 MB, is part of it."""
    res = subprocess.run([sys.executable, '-W', 'ignore', '-c', MEMORY], cwd=ROOT,
        capture_output=True, text=True)
    assert res.returncode == 0, res.stderr[-2000:]
    found = json.loads(res.stdout)
    assert 100 < found['one'] and found['beyond'] < 1.5*found['one'], found
