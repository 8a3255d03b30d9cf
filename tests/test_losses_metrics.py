"What the chapters on losses and metrics cannot show in a notebook: two processes, a GPU, pickling, memory, and the race of bench/."
import gc, importlib.util, os, pickle, subprocess, sys, weakref
from pathlib import Path
from types import SimpleNamespace

import pytest, torch
from fastai.learner import Learner
from segbook.losses import CrossEntropyLoss, class_weights
from segbook.metrics import ClassIoU, Confusion, MeanDice, MeanIoU, PixelAccuracy

ROOT = Path(__file__).resolve().parent.parent
K,VOID = 5,4

def batch(n=3, h=11, w=7, seed=0, device='cpu'):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, K, h, w, generator=g).to(device),torch.randint(0, K, (n,h,w), generator=g).to(device)

def cardboard(x, t): return SimpleNamespace(pred=x, y=t, dls=SimpleNamespace(vocab=list('abcd')+['Void'], ignore_index=VOID))

def bench(name):
    spec = importlib.util.spec_from_file_location(name, ROOT/'bench'/f'{name}.py')
    mod = importlib.util.module_from_spec(spec); spec.loader.exec_module(mod)
    return mod

# ---- several processes

TWO_PROCESSES = '''
import os, sys, warnings
warnings.filterwarnings('ignore')
import torch
torch.set_num_threads(1)
from types import SimpleNamespace
from segbook.metrics import Confusion, MeanIoU, PixelAccuracy
g = torch.Generator().manual_seed(0)
x,t = torch.randn(7, 5, 6, 4, generator=g),torch.randint(0, 5, (7,6,4), generator=g)
whole,rank = Confusion(5, 4).update(x, t),int(os.environ['RANK'])
torch.distributed.init_process_group('gloo', init_method='file://'+sys.argv[1], rank=rank, world_size=2)
learn = SimpleNamespace(dls=SimpleNamespace(vocab=list('abcd')+['Void'], ignore_index=4))
ms = [MeanIoU(), PixelAccuracy()]
idx = [[0,1,2,3],[4,5,6,0]][rank]           # seven items for two processes: fastai repeats the first
for i in (0, 2):
    learn.pred,learn.y = x[idx[i:i+2]],t[idx[i:i+2]]
    learn.dl = SimpleNamespace(i=i+2, n=7, n_padded=8, world_size=2, rank=rank)
    for m in ms: m.accumulate(learn)
assert ms[0].confusion is ms[1].confusion
assert [m.value for m in ms]==[whole.mean_iou(), whole.pixel_accuracy()], [m.value for m in ms]
assert torch.equal(ms[0].confusion.gather().matrix, whole.matrix)
print('rank', rank, 'agrees')
torch.distributed.destroy_process_group()
'''

def test_two_processes_count_each_image_once(tmp_path):
    (tmp_path/'two.py').write_text(TWO_PROCESSES)
    ps = [subprocess.Popen([sys.executable, tmp_path/'two.py', tmp_path/'meet'], env={**os.environ, 'RANK': str(r), 'WORLD_SIZE': '2'},
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for r in (0, 1)]
    try: outs = [p.communicate(timeout=180)[0] for p in ps]
    finally: [p.kill() for p in ps]
    for r,o in enumerate(outs): assert f'rank {r} agrees' in o, o

# ---- sharing, memory, pickling

def test_metrics_keep_no_batch_alive():
    learn,ms = cardboard(*batch()),[MeanIoU(), PixelAccuracy()]
    for m in ms: m.accumulate(learn)
    refs = [weakref.ref(learn.pred), weakref.ref(learn.y)]
    learn.pred = learn.y = None; gc.collect()
    assert [r() for r in refs]==[None, None]

def test_a_new_batch_at_the_old_address_is_counted():
    learn,m,want = cardboard(None, None),MeanIoU(),Confusion(K, VOID)
    for i in range(20):                       # the memory of each batch is free again before the next is made
        learn.pred,learn.y = batch(1, 8, 8, seed=i)
        m.accumulate(learn); want.update(learn.pred, learn.y)
        learn.pred = learn.y = None
    assert torch.equal(m.confusion.matrix, want.matrix)

def test_two_learners_share_nothing():
    a,b,m,n = cardboard(*batch(seed=1)),cardboard(*batch(seed=2)),MeanIoU(),MeanIoU()
    b.pred = a.pred                           # the same predictions, other masks
    m.accumulate(a); n.accumulate(b)
    assert m.value==Confusion(K, VOID).update(a.pred, a.y).mean_iou() and n.value==Confusion(K, VOID).update(b.pred, b.y).mean_iou()

def test_metrics_and_their_memo_can_be_pickled():
    learn,ms = cardboard(*batch()),[PixelAccuracy(), MeanIoU(), MeanDice(), ClassIoU('b'), ClassIoU(2)]
    for m in ms: m.accumulate(learn)
    again,memo = pickle.loads(pickle.dumps([ms, learn._segbook_memo]))
    assert [m.value for m in again]==[m.value for m in ms] and not memo.holds(learn.pred, learn.y)

def test_loss_moves_and_saves_with_its_weights():
    f = CrossEntropyLoss(torch.arange(1., K+1), VOID)
    x,t = batch()
    g = pickle.loads(pickle.dumps(f.to(torch.float64)))
    assert g.ignore_index==VOID and torch.allclose(g(x, t), CrossEntropyLoss(torch.arange(1., K+1), VOID)(x, t))

# ---- real images, if they are there

REAL = Path(os.environ.get('SEGBOOK_REAL_DATA', ROOT.parent/'shared'/'data'))/'camvid_tiny'

@pytest.mark.skipif(not REAL.is_dir(), reason='no real images here: set SEGBOOK_REAL_DATA')
def test_class_weights_of_real_masks(monkeypatch):
    from segbook.data import seg_dataloaders
    from segbook.masks import SegFolder, read_mask
    folder = SegFolder(REAL); dls = seg_dataloaders(REAL, bs=4)
    n = torch.zeros(len(folder.codes), dtype=torch.long)
    for f,m in zip(folder.images, folder.labels):
        if f.name not in folder.valid: n += torch.bincount(torch.tensor(read_mask(m)).long().flatten(), minlength=len(n))
    w = class_weights(dls)
    assert torch.allclose(w, class_weights(n, ignore_index=folder.ignore_index)) and w[folder.ignore_index]==0
    assert abs(w[w>0].mean()-1)<1e-5
    def read_again(*args): raise AssertionError('the masks were read again')
    monkeypatch.setattr('segbook.losses._count_ids', read_again)
    class_weights(dls, 'inverse')

# ---- a GPU, if there is one

@pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU here')
@pytest.mark.parametrize('ignore', [None, VOID, 255])
def test_gpu_counts_the_same_and_never_waits(ignore):
    x,t = batch(device='cuda')
    if ignore==255: t[:,:3] = 255
    w = None if ignore is None else torch.arange(1., K+1).cuda()
    c,f,want = Confusion(K, ignore),CrossEntropyLoss(w, ignore),Confusion(K, ignore)
    c.update(x, t); f(x, t)                   # the first looks at the ids
    torch.cuda.set_sync_debug_mode('error')
    try: c.update(x, t); loss = f(x, t)
    finally: torch.cuda.set_sync_debug_mode('default')
    want.update(x.cpu(), t.cpu()).update(x.cpu(), t.cpu())
    assert torch.equal(c.matrix, want.matrix)
    assert torch.allclose(loss.cpu(), CrossEntropyLoss(None if w is None else w.cpu(), ignore)(x.cpu(), t.cpu()), rtol=1e-4)

# ---- the race

def test_bench_results_are_equal():
    race = bench('confusion')
    x,t = torch.randn(2, race.K, 40, 30),torch.randint(0, race.K, (2,40,30))
    for o in (x, x.contiguous(memory_format=torch.channels_last)): assert race.check_equal(o, t)
