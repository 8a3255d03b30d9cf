"""One reader: what `check_masks` looks at is what `read_mask` gives, and what the one refuses the
other refuses too, each with the reason."""
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from segbook.masks import SegbookError, check_masks, palette, read_mask
from segbook.masks.arrays import mask_array
from segbook.masks.seen import see_mask

CODES = ['background', 'wall', 'door', 'Void']
IDS = (np.arange(48) % 4).reshape(6, 8).astype(np.uint8)
NAN = np.where(IDS == 3, np.nan, IDS).astype(np.float32)


def folder(path, name, x, n=4):
    "A folder of `n` pairs, all sound but the second mask, which is `x` in a file called `name`."
    for d in ('images', 'labels'): (path/d).mkdir(parents=True)
    for i in range(n):
        Image.fromarray(np.full((6, 8, 3), 20*i, np.uint8)).save(path/'images'/f'a{i}.png')
        if i != 1: Image.fromarray(IDS).save(path/'labels'/f'a{i}.png')
    file = path/'labels'/name
    if name.lower().endswith('.npy'):
        with file.open('wb') as f: np.save(f, x)
    else: Image.fromarray(x).save(file)
    (path/'codes.txt').write_text('\n'.join(CODES) + '\n')
    return file


GOOD = {'bytes.png': IDS, 'one bit.png': IDS > 1, 'array.npy': IDS, 'capitals.NPY': IDS,
        'PNG in capitals.PNG': IDS, 'channel last.npy': IDS[..., None],
        'channel first.npy': IDS[None], 'bools.npy': IDS > 1}
DEEP = {'whole floats.tif': IDS.astype(np.float32), '32 bits.tif': IDS.astype(np.int32),
        '16 bits.png': IDS.astype(np.uint16), 'whole floats.npy': IDS.astype(np.float32),
        'doubles.npy': IDS.astype(float)[..., None], 'int64.npy': IDS.astype(np.int64)}
BAD = {'nan.tif': (NAN, '12 pixels of 48 with a value that is no whole number, such as nan'),
       'nan.npy': (NAN, 'such as nan'), 'inf.npy': (np.where(IDS == 3, np.inf, IDS), 'such as inf'),
       'halves.tif': (IDS/np.float32(2), 'such as 0.5'),
       'shares.npy': (np.full((6, 8, 4), .25), 'shape (6, 8, 4)'),
       'one-hot last.npy': (np.eye(4, dtype=np.uint8)[IDS], 'one-hot: save x.argmax(-1)'),
       'one-hot first.npy': (np.eye(4)[IDS].transpose(2, 0, 1), 'one-hot: save x.argmax(0)'),
       'two channels.npy': (np.stack([IDS, IDS]), 'shape (2, 6, 8)'),
       'text.npy': (IDS.astype('U1'), 'dtype <U1'), 'a row.npy': (IDS[0], 'shape (8,)')}


def named(path, name): return path/f'a1{"."+name.split(".")[-1]}'


@pytest.mark.parametrize('name', GOOD)
def test_a_sound_mask_is_read_and_passes(tmp_path, name):
    f = folder(tmp_path, named(tmp_path, name).name, GOOD[name])
    assert (read_mask(f) == (GOOD[name].reshape(6, 8))).all()
    assert (mask_array(f) == read_mask(f)).all()
    r = check_masks(tmp_path, progress=False)
    assert r.ok and r.n_images == 4, str(r)
    assert see_mask(f).values == dict(Counter(read_mask(f).ravel().tolist()))
    assert r.class_pixels.tolist() == [36 + (read_mask(f) == k).sum() for k in range(4)]


@pytest.mark.parametrize('name', DEEP)
def test_a_deep_mask_is_read_and_reported(tmp_path, name):
    "Every value is right, only the depth is more than other readers take: fix= writes bytes."
    f = folder(tmp_path/'data', named(tmp_path, name).name, DEEP[name])
    assert (read_mask(f) == IDS).all() and read_mask(f).dtype.kind in 'iu'
    r = check_masks(tmp_path/'data', fix=tmp_path/'copy', progress=False)
    assert [p.kind for p in r.errors] == ['16 bit'] and r.copy.ok, str(r)
    copied = read_mask(tmp_path/'copy'/'labels'/'a1_P.png')
    assert copied.dtype == np.uint8 and (copied == IDS).all()


@pytest.mark.parametrize('name', BAD)
def test_what_the_reader_refuses_the_check_refuses(tmp_path, name):
    x, why = BAD[name]
    f = folder(tmp_path/'data', named(tmp_path, name).name, x)
    with pytest.raises(SegbookError) as e: read_mask(f)
    for o in (why, str(f), 'expected one channel of integer class ids'): assert o in str(e.value)
    r = check_masks(tmp_path/'data', fix=tmp_path/'copy', progress=False)
    assert not r.ok and [p.kind for p in r.errors] == ['no ids'], str(r)
    p = r.errors[0]
    assert [o.name for o in p.files] == [f.name] and f.name in p.message
    assert 'Expected one whole number a pixel' in p.message and 'Write the ids again' in p.message
    assert 'one-hot' in why or why in p.message
    assert not (tmp_path/'copy'/'labels'/'a1_P.png').exists() # left out of the copy


def test_colours_are_refused_by_both(tmp_path):
    f = folder(tmp_path, 'a1.png', palette(CODES)[IDS])
    with pytest.raises(SegbookError, match=r'has mode RGB.*check_masks\(folder\) proposes'):
        read_mask(f)
    assert [p.kind for p in check_masks(tmp_path, progress=False).errors] == ['rgb']


def test_training_gets_what_was_checked(tmp_path):
    "The DataLoaders read a mask with the same function."
    from segbook.data import seg_dataloaders
    folder(tmp_path, 'a1.NPY', IDS[..., None])
    assert check_masks(tmp_path, progress=False).ok
    dls = seg_dataloaders(tmp_path, bs=2, valid=['a0.png'], device='cpu', batch_tfms=None,
        num_workers=0)
    y = [dls.train_ds[i][1] for i in range(3)]
    assert all((np.asarray(o) == IDS).all() for o in y)
