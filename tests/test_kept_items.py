"""Batches from images that are kept in memory: equal to those from files, bit for bit, for each
kind of image and mask; and the long way where anything else stands between."""
import pickle, random
from contextlib import contextmanager
from unittest.mock import patch

import numpy as np, pytest, tifffile, torch
from fastai.torch_core import set_seed
from fastai.data.core import Datasets
from fastai.vision.all import FlipItem, PILImage, Resize, Transform
from PIL import Image
from segbook.data import make_cells, make_dyes, make_scenes, seg_dataloaders
from segbook.data.batches import SegDL
from segbook.data.items import OpenMask
from segbook.data.kept import cache_to_use, file_openers, read_once, share_decoded
from segbook.data import kept_items
from segbook.data.kept_items import takes_kept_items
from segbook.data.loaders import ResizeBoth
from segbook.imbalance import RandomWindow
from segbook.learner import seg_learner
from segbook.masks import SegbookError

pytestmark = pytest.mark.usefixtures('one_thread')

def deep_folder(path, bands, dtype=np.uint16):
    "Images of 16 bits, or of many bands, with masks of two classes."
    rng = np.random.default_rng(0)
    for o in ('images', 'labels'): (path/o).mkdir(parents=True)
    for i in range(8):
        x = rng.integers(0, np.iinfo(dtype).max, (20, 24, bands)).astype(dtype)
        tifffile.imwrite(path/f'images/{i}.tif', x[...,0] if bands == 1 else x,
            photometric='minisblack')
        tifffile.imwrite(path/f'labels/{i}_P.tif', (x[...,0] > x.mean()).astype(np.uint8))
    (path/'codes.txt').write_text('low\nhigh\n')
    return path

def many_classes(path):
    "Ids that need two bytes."
    rng = np.random.default_rng(0)
    for o in ('images', 'labels'): (path/o).mkdir(parents=True)
    for i in range(8):
        tifffile.imwrite(path/f'images/{i}.tif', rng.integers(0, 255, (20, 24, 3), np.uint8))
        tifffile.imwrite(path/f'labels/{i}_P.tif', rng.integers(0, 300, (20, 24)).astype(np.uint16))
    (path/'codes.txt').write_text('\n'.join(f'c{i}' for i in range(300)))
    return path

@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp('kept')
    kw = dict(n=10, size=(32, 48), seed=1)
    return dict(scenes=make_scenes(root/'scenes', **kw), cells=make_cells(root/'cells', **kw),
        dyes=make_dyes(root/'dyes', **kw), grey16=deep_folder(root/'grey16', 1),
        bands=deep_folder(root/'bands', 5, np.uint8), many=many_classes(root/'many'))

@contextmanager
def own_memory(free=10**9):
    "As if the processor were a device with a memory of its own, so much of it free."
    with patch.object(kept_items, '_has_memory', lambda device: True), patch.object(kept_items,
            'free_bytes', lambda device: free): yield

def recorded(dls, epochs=2, seed=3):
    "Types, what else is told of them, and values of all batches of some epochs."
    set_seed(seed)
    rows = [b for _ in range(epochs) for dl in dls.loaders for b in dl]
    return [[(type(o), {k: v for k, v in o.__dict__.items()}, o.dtype, o.clone()) for o in b]
        for b in rows], random.random()

def same(a, b):
    (a, last_a), (b, last_b) = a, b
    return last_a == last_b and len(a) == len(b) and all(len(x) == len(y) and all(
        o[:3] == p[:3] and torch.equal(o[3], p[3]) for o, p in zip(x, y)) for x, y in zip(a, b))

CASES = [('scenes', {}, True), ('scenes', dict(size=(20, 28)), True),
    ('scenes', dict(channels=1), True), ('scenes', dict(channels=1, size=(20, 28)), True),
    ('scenes', dict(crops='random', size=(12, 16), crops_per_image=3), True),
    ('scenes', dict(crops='positive', size=16, crop_classes=['Pole', 'Car']), True),
    ('scenes', dict(batch_tfms=None, val_bs=1), True),
    ('cells', dict(instances='instances'), True),
    ('cells', dict(instances='instances', crops='random', size=16), True),
    ('cells', dict(instances='instances', size=(20, 28)), True),
    ('cells', dict(value_range='image'), False), ('dyes', dict(overlapping=True), True),
    ('dyes', dict(overlapping=True, crops='positive', size=16), True),
    ('dyes', dict(overlapping=True, size=(20, 28)), True), ('grey16', {}, False),
    ('grey16', dict(size=(10, 12)), False), ('bands', {}, False),
    ('bands', dict(size=(10, 12)), False), ('many', {}, True), ('many', dict(size=(10, 12)), True)]

@pytest.mark.parametrize('name, kw, short', CASES)
def test_batches_are_those_from_files(folders, name, kw, short):
    make = lambda **more: seg_dataloaders(folders[name], bs=3, seed=1, device='cpu', **kw, **more)
    plain, kept, there = make(), make(cache='auto'), make(cache='auto')
    assert all(map(takes_kept_items, kept.loaders)) and not any(map(takes_kept_items,
            plain.loaders))
    wanted = recorded(plain)
    with patch('segbook.data.items.read_image', side_effect=AssertionError), patch(
            'segbook.data.items.read_mask', side_effect=AssertionError):
        assert same(recorded(kept), wanted)
        with own_memory(): assert same(recorded(there), wanted)
    with patch.object(OpenMask, 'as_item', side_effect=ZeroDivisionError):
        if short: recorded(kept)
        else:
            with pytest.raises(ZeroDivisionError): recorded(kept)
    assert bool(there.train.kept_items.store.copies) == short

def test_what_a_device_has_no_room_for_is_taken_from_memory(folders):
    make = lambda **kw: seg_dataloaders(folders['scenes'], bs=3, seed=1, device='cpu', **kw)
    kept, one = make(cache='auto'), 32*48*4
    store = kept.train.kept_items.store
    with own_memory(4*(4*one + 1)): assert same(recorded(kept), recorded(make()))
    assert len(store.copies) == 4 and store.room == 1
    kept = make(cache='auto')
    full = lambda o, device: (_ for _ in ()).throw(torch.cuda.OutOfMemoryError())
    with own_memory(), patch.object(torch.Tensor, 'to', full):
        item = kept.train.kept_items.store.tensors(str(kept.items[0]), torch.device('cpu'))
    assert item[0].shape == (3, 32, 48) and kept.train.kept_items.store.room == 0
    few = make(cache=5*one)                 # five images are kept, the others are read
    assert same(recorded(few), recorded(make())) and len(file_openers(few)[0].kept) == 5

class Inverted(Transform):
    "A transform of a user's, for images."
    order = 9
    def encodes(self, x): return x

class OwnWindow(RandomWindow):
    "A window that a user cuts otherwise."
    def place(self, mask): return 0, 0

def test_transforms_of_others_are_never_passed_by(folders):
    path = folders['scenes']
    make = lambda **kw: seg_dataloaders(path, bs=3, seed=1, device='cpu', batch_tfms=None, **kw)
    for tfm in (lambda: FlipItem(p=1.), lambda: Inverted(), lambda: OwnWindow((16, 16)),
            lambda: Resize((16, 24))):
        plain, kept = make(item_tfms=tfm()), make(item_tfms=tfm(), cache='auto')
        assert not any(map(takes_kept_items, kept.loaders))
        assert same(recorded(kept), recorded(plain))
    runs = []
    for kw in (dict(), dict(cache='auto')):
        dls = make(**kw)
        before = recorded(dls)
        dls.train.after_item.add(FlipItem(p=1.))            # after it has run
        assert not takes_kept_items(dls.train)
        assert not same(recorded(dls), before)
        runs.append(recorded(dls))
    assert same(*runs)
    kept = make(cache='auto')
    kept.train.before_batch.add(Inverted())
    assert not takes_kept_items(kept.train) and same(recorded(kept), recorded(make()))

def test_copies_and_other_items(folders, tmp_path):
    path = folders['scenes']
    plain, kept = (seg_dataloaders(path, bs=3, seed=1, device='cpu', batch_tfms=None, **kw)
        for kw in ({}, dict(cache='auto')))
    for one, other in zip(plain.loaders, kept.loaders):
        assert takes_kept_items(other.new(shuffle=False))
        assert all(torch.equal(a[0], b[0]) for a, b in zip(one.new(shuffle=False, bs=2),
                other.new(shuffle=False, bs=2)))
    files = [o for o in kept.valid_ds.items]
    for labels in (True, False):
        a, b = (o.test_dl(files, with_labels=labels) for o in (plain, kept))
        assert takes_kept_items(b) == labels    # without masks there are other transforms
        assert all(torch.equal(*o) for x, y in zip(a, b) for o in zip(x, y))
    at_hand = [np.full((32, 48, 3), 9, np.uint8)]
    assert torch.equal(*(o.test_dl(at_hand).one_batch()[0] for o in (plain, kept)))
    pinned = kept.valid.new(pin_memory=True)    # what lies on a GPU cannot be pinned
    assert not takes_kept_items(pinned) and torch.equal(pinned.one_batch()[0],
        plain.valid.one_batch()[0])
    learn = seg_learner(kept, encoder='mobilenetv3_small_050', pretrained=False)
    assert all(map(takes_kept_items, learn.dls.loaders))    # they were copied, to normalise
    empty = pickle.loads(pickle.dumps(kept.train.kept_items))
    assert not empty.openers and not empty.follow(kept.train) and not empty.store.arrays
    assert not pickle.loads(pickle.dumps(kept.train.kept_items.store)).arrays

def test_nothing_is_written_into_what_is_kept(folders):
    kept = seg_dataloaders(folders['scenes'], bs=3, seed=1, device='cpu', cache='auto')
    before = [{k: x.copy() for k, x in o.kept.items()} for o in file_openers(kept)]
    for dl in kept.loaders:
        for x, y in dl: x.zero_(), y.zero_()
    for old, o in zip(before, file_openers(kept)):
        assert all(np.array_equal(old[k], x) for k, x in o.kept.items())

def test_images_are_kept_at_the_size_of_the_training(folders, capsys):
    path = folders['scenes']
    make = lambda size, **kw: seg_dataloaders(path, bs=3, seed=1, device='cpu', size=size, **kw)
    small = make((16, 24), cache='auto')
    assert {x.shape for o in small.train.kept_items.store.arrays.values() for x in o} == {
        (16, 24, 3), (16, 24)} and not any(o.kept for o in file_openers(small))
    assert f'{10*16*24*4/1e6:.1f} MB' in capsys.readouterr().out
    other = make((16, 24))
    share_decoded(other, small)
    assert all(map(takes_kept_items, other.loaders)) and same(recorded(other), recorded(
            make((16, 24))))
    assert other.train.kept_items.store is small.train.kept_items.store     # one copy for all
    for kw in (dict(size=None), dict(size=(16, 24), channels=1)):
        with pytest.raises(SegbookError, match='kept for one kind'):
            share_decoded(make(**kw), small)
    for kw in (dict(num_workers=1), dict()):    # processes, and too little room: as they were read
        raw = make((16, 24), cache='auto' if kw else 16*24*4*9, **kw)
        assert not raw.train.kept_items.store.arrays
        assert {x.shape for o in file_openers(raw) for x in o.kept.values()} == {(32, 48, 3),
            (32, 48)}
        assert same(recorded(raw), recorded(make((16, 24))))
    with pytest.raises(SegbookError, match='kept for one kind'):
        share_decoded(seg_dataloaders(folders['cells'], bs=3), seg_dataloaders(folders['cells'],
                bs=3, cache='auto', instances='instances'))
    resizer = next(o for o in small.train.after_item.fs if hasattr(o, 'size'))
    resizer.size = 12, 16                   # smaller, or larger: from the files again
    assert not takes_kept_items(small.train)
    assert same(recorded(small), recorded(make((12, 16))))

def test_reading_processes_are_left_out_where_all_is_kept(folders):
    path = folders['scenes']
    with patch('segbook.data.loaders.reading_processes', lambda asked, n, device: 2 if asked is None
            else asked):
        made = [seg_dataloaders(folders[name], bs=3, device='cpu', **kw) for name, kw in (
            ('scenes', dict()), ('scenes', dict(cache='auto')), ('scenes', dict(cache=32*48*4*5)),
            ('scenes', dict(cache='auto', num_workers=1)),
            ('scenes', dict(cache='auto', item_tfms=FlipItem(p=.5))),     # there is much to do
            ('bands', dict(cache='auto')))]
        others = [seg_dataloaders(path, bs=3, device='cpu', **kw) for kw in (dict(),
                dict(num_workers=1))]
    for o, n in zip(others, (None, 1)): share_decoded(o, made[1], n)      # as folds do
    counts = [[o.fake_l.num_workers for o in dls.loaders] for dls in (*made, *others)]
    assert counts == [[2, 2], [0, 0], [2, 2], [1, 1], [2, 2], [2, 2], [0, 0], [1, 1]]

class Black(Datasets):
    "A data set that makes images black, as a subclass of a user's."
    def __getitem__(self, i):
        x, y = super().__getitem__(i)
        return type(x)(Image.fromarray(np.zeros_like(np.asarray(x)))), y

class BlackDL(SegDL):
    "The same in the loader."
    def create_item(self, s):
        x, y = super().create_item(s)
        return type(x)(Image.fromarray(np.zeros_like(np.asarray(x)))), y

def test_what_stands_in_between_is_never_passed_by(folders):
    make = lambda **kw: seg_dataloaders(folders['scenes'], bs=3, seed=1, device='cpu',
        batch_tfms=None, cache='auto', **kw)
    dls = make()
    black = lambda dl: all(x.max() == 0 for x, y in dl)
    as_it_was = dls.valid.create_item
    assert not black(dls.valid)
    assert black(dls.valid.new(Black(tls=dls.valid_ds.tls, n_inp=1)))
    assert black(dls.valid.new(cls=BlackDL))
    assert black(dls.valid.new(create_item=lambda s: (PILImage.create(np.zeros((32, 48, 3),
                        np.uint8)), as_it_was(s)[1])))
    assert black(dls.valid.new(create_batch=lambda b: tuple(torch.stack(o)*0 for o in zip(*b))))
    x, y = dls.valid.do_item(0)             # a copy, which may be written to
    x.zero_()
    assert not black(dls.valid)
    swapped = dls.valid.dataset.tls[1]
    swapped.items = swapped.items[::-1]     # masks of other images
    masks = torch.cat([y for x, y in dls.valid])
    assert torch.equal(masks, torch.cat([y for x, y in make().valid]).flip(0))

ORDERS = [('scenes', dict(crops='random', size=16, item_tfms=lambda: ResizeBoth((24, 24)))),
    ('scenes', dict(item_tfms=lambda: [RandomWindow((16, 16)), ResizeBoth((32, 32))])),
    ('scenes', dict(size=(28, 40), item_tfms=lambda: ResizeBoth((24, 24)))),
    ('dyes', dict(overlapping=True, crops='positive', size=24,
        item_tfms=lambda: RandomWindow((12, 12))))]
@pytest.mark.parametrize('name, kw', ORDERS)
def test_transforms_of_the_book_in_another_order(folders, name, kw):
    make = lambda **more: seg_dataloaders(folders[name], bs=3, seed=1, device='cpu',
        batch_tfms=None, **{**kw, 'item_tfms': kw['item_tfms']()}, **more)
    kept = make(cache='auto')
    alone = len([o for o in kept.train.after_item.fs if hasattr(o, 'size')]) == 1
    assert takes_kept_items(kept.train) == alone    # of two of one kind fastai keeps the last
    assert same(recorded(kept), recorded(make()))

def test_a_window_that_is_cut_in_validation_too(folders):
    runs = []
    for cache in (False, 'auto'):
        dls = seg_dataloaders(folders['scenes'], bs=3, seed=1, device='cpu', crops='random',
            size=16, cache=cache)
        window = next(o for o in dls.train.after_item.fs if isinstance(o, RandomWindow))
        window.split_idx = None
        runs.append(recorded(dls))
    assert same(*runs)

def test_images_of_several_sizes(tmp_path):
    path, big = (make_scenes(tmp_path/k, n=12, size=(h, 48), seed=1) for k, h in dict(small=32,
        big=40).items())
    for kind in ('images', 'labels'):
        for f in sorted((big/kind).iterdir())[:5]: f.replace(path/kind/f.name)
    make = lambda **kw: seg_dataloaders(path, bs=3, seed=1, device='cpu', crops='random', size=16,
        crops_per_image=2, **kw)
    kept = make(cache='auto')
    assert takes_kept_items(kept.train) and same(recorded(kept), recorded(make()))
    dl = kept.valid.new(bs=4)               # images of two sizes make no batch, as ever
    with pytest.raises(RuntimeError, match='not the same size'): list(dl)

@pytest.mark.parametrize('device, n, free, want', [('cpu', 9, 10**12, None),
    ('cuda', 9, 10**12, 2*10**9), ('cuda:1', 9, 10**12, 2*10**9), ('cuda', 9, 400, 100),
    ('cuda', 2*10**9 + 1, 10**12, None), ('cuda', 9, 20, None)])
def test_a_gpu_keeps_a_small_set_unasked(device, n, free, want):
    with patch('segbook.data.kept.free_bytes', lambda device: free):
        assert cache_to_use(None, torch.device(device), lambda: n) == want
        assert cache_to_use(False, torch.device(device), lambda: n) is None
        assert cache_to_use('auto', torch.device(device), lambda: n) == 'auto'

def test_what_is_kept_unasked_is_counted_from_an_image(folders, capsys):
    "A loader for a GPU that is not there: it is told where its batches go once it is made."
    def loaders_of(size):
        dls = seg_dataloaders(folders['scenes'], bs=3, size=size, device='cpu')
        for o in (dls, *dls.loaders): o._device = torch.device('cuda')
        return dls
    for size, n in ((None, 32*48*4), ((16, 24), 16*24*4)):
        for most, there in ((10*n, 10), (10*n - 1, 0)):
            with patch('segbook.data.kept.KEPT_UNASKED', most):
                dls = read_once(loaders_of(size), None)
            assert (len(dls.train.kept_items.store.arrays) if there else 0) == there
            assert (dls.train.kept_items is None) == (there == 0)
