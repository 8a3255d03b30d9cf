"Reading images, and batches: splits, sizes, channels, windows; folders with one fault each."
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from data_folders import CODES, folder, message

from segbook.data import get_data, mild_tfms, read_image, seg_dataloaders
from segbook.data.checks import n_training_images
from segbook.masks import SegFolder

REAL = Path(os.environ.get('SEGBOOK_REAL_DATA', Path(__file__).parent.parent/'../shared/data'))


# reading images

def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    x = np.array([[0, 255, 256], [4095, 40000, 65535]], np.uint16)
    for ext in ('png', 'tif'):
        Image.fromarray(x).save(tmp_path/f'a.{ext}')
        y = read_image(tmp_path/f'a.{ext}')
        assert y.shape == (2, 3, 1) and np.allclose(y[..., 0], x/65535, atol=1e-6)
        assert (read_image(tmp_path/f'a.{ext}', 3) == y).all()


def test_modes(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    Image.fromarray(np.dstack([rgb, np.full((5, 7), 9, np.uint8)])).save(tmp_path/'a.png')
    assert (read_image(tmp_path/'a.png') == rgb).all() and read_image(tmp_path/'a.png', 4)[0, 0,
        3] == 9
    Image.fromarray(rgb).convert('CMYK').save(tmp_path/'a.tif')
    assert (read_image(tmp_path/'a.tif') == rgb).all()
    assert read_image(rgb[..., 0]).shape == (5, 7, 1)
    np.save(tmp_path/'a.npy', np.random.default_rng(0).random((6, 5, 7), dtype=np.float32))
    assert read_image(tmp_path/'a.npy', 6).shape == (5, 7, 6)
    assert 'has 6 channels, asked for 4' in message(read_image, np.zeros((50, 70, 6), np.uint8), 4)
    assert 'from 0 to 300' in message(read_image, np.linspace(0, 300, 12).reshape(3, 4))
    (tmp_path/'b.png').write_bytes(b'no image')
    assert 'b.png cannot be read' in message(read_image, tmp_path/'b.png')


# loaders

def test_batches(tmp_path):
    dls = seg_dataloaders(folder(tmp_path/'f'), bs=4)
    xb, yb = dls.one_batch()
    assert xb.shape == (4, 3, 40,
        48) and xb.dtype == torch.float32 and 0 <= xb.min() and xb.max() <= 1
    assert yb.shape == (4, 40, 48) and yb.dtype == torch.int64
    assert dls.vocab == CODES and dls.ignore_index == 2 and dls.channels == 3 and len(
        dls.train_ds) == 8 and len(dls.valid_ds) == 2
    assert dls.valid.new().vocab == CODES and dls.train.ignore_index == 2
    assert not any('Normalize' in type(o).__name__ for o in dls.after_batch.fs)


@pytest.mark.parametrize('kw', [{}, dict(size=(33, 61)), dict(size=32), dict(batch_tfms=None)])
def test_no_new_ids_in_any_mask(tmp_path, kw):
    dls = seg_dataloaders(folder(tmp_path/'f',
            mask=lambda i: (np.indices((40, 48)).sum(0)//5 % 2*2).astype(np.uint8)), bs=8, **kw)
    for _ in range(5):
        for _, yb in dls.train: assert set(yb.unique().tolist()) == {0, 2}


def test_strong_fastai_augmentation_keeps_ids_and_alignment(tmp_path):
    y = lambda i: (np.indices((40, 48)).sum(0)//12 % 2).astype(np.uint8)
    dls = seg_dataloaders(folder(tmp_path/'f', image=lambda i: np.dstack([y(i)*255]*3), mask=y),
        bs=8, batch_tfms=mild_tfms(max_rotate=45., max_zoom=1.5, max_warp=.4, max_lighting=0.))
    for _ in range(5):
        for xb, yb in dls.train:
            assert set(yb.unique().tolist()) <= {0, 1}
            assert ((xb[:, 0].numpy() > .5) != (yb.numpy() == 1)).mean() < .03
    x, y = dls.valid.one_batch()
    # validation images are not augmented
    assert ((x[:, 0].numpy() > .5) == (y.numpy() == 1)).all()


def test_masks_are_exact_without_transforms(tmp_path):
    p = folder(tmp_path/'f')
    dls = seg_dataloaders(p, bs=2, batch_tfms=None)
    got = {m.numpy().tobytes() for _, yb in dls.valid for m in yb}
    assert got == {np.asarray(Image.open(f)).astype(np.int64).tobytes()
        for f in sorted((p/'labels').iterdir())[:2]}


def test_sixteen_bit_grey_images(tmp_path):
    dls = seg_dataloaders(folder(tmp_path/'f',
            image=lambda i: np.full((40, 48), 6553*(i+1), np.uint16)), bs=2, batch_tfms=None)
    xb, _ = dls.valid.one_batch()
    assert dls.channels == 1 and xb.shape == (2, 1, 40, 48) and np.allclose(xb[:, 0, 0, 0],
        [.1, .2], atol=1e-3)
    assert seg_dataloaders(tmp_path/'f', bs=2, channels=3, size=20).one_batch()[0].shape == (2, 3,
        20, 20)


def test_four_and_six_channels(tmp_path):
    rng = np.random.default_rng(0)
    p = folder(tmp_path/'f', image=lambda i: rng.integers(0, 256, (40, 48, 4), dtype=np.uint8))
    assert seg_dataloaders(p, bs=2).channels == 3                       # alpha dropped
    dls = seg_dataloaders(p, bs=2, channels=4, size=(24, 30))
    assert dls.one_batch()[0].shape == (2, 4, 24, 30) and dls.one_batch()[0].max() <= 1
    import tifffile
    for f in sorted((p/'images').iterdir()):
        f.unlink()
        tifffile.imwrite(f.with_suffix('.tif'),
            rng.integers(0, 65536, (40, 48, 6), dtype=np.uint16), photometric='minisblack')
    (p/'valid.txt').write_text('00.tif\n')
    xb, _ = seg_dataloaders(p, bs=2).one_batch()
    assert xb.shape == (2, 6, 40, 48) and .9 < xb.max() <= 1


def test_show_batch_draws_a_legend(tmp_path):
    import matplotlib
    matplotlib.use('agg')
    import matplotlib.pyplot as plt
    for kw in ({}, dict(channels=1), dict(channels=4)):
        p = tmp_path/str(len(kw)) if not kw else tmp_path/str(kw['channels'])
        c = kw.get('channels', 3)
        dls = seg_dataloaders(folder(p, image=lambda i:
                np.zeros((40, 48) if c == 1 else (40, 48, c), np.uint8)), bs=4, **kw)
        dls.show_batch(max_n=2)
        assert [t.get_text() for t in plt.gcf().legends[0].get_texts()] == CODES
        plt.close('all')


def test_split_and_order_come_from_the_seed(tmp_path, capsys):
    p = folder(tmp_path/'f', n=20, valid=0)
    def run(seed):
        dls = seg_dataloaders(p, bs=4, seed=seed, batch_tfms=None)
        return [f.name for f in dls.valid_ds.items], [float(xb.sum()) for xb, _ in dls.train]
    assert run(0) == run(0) and run(0)[0] != run(1)[0] and run(0)[1] != run(1)[1]
    assert '4 of 20 images are drawn at random' in capsys.readouterr().out


def test_other_names_lists_and_images_without_masks(tmp_path, capsys):
    p = folder(tmp_path/'f')
    (p/'images').rename(p/'photos')
    (p/'labels').rename(p/'ids')
    (p/'codes.txt').unlink()
    (p/'ids'/'09_P.png').unlink()
    dls = seg_dataloaders(p, bs=2, images='photos', labels='ids', codes=['a', 'b', 'c'],
        valid=['03.png'])
    assert len(dls.train_ds) == 8 and [f.name
        for f in dls.valid_ds.items] == ['03.png'] and dls.ignore_index is None
    assert '1 of 10 images without a mask' in capsys.readouterr().out


def fault(p, what):
    if what == 'one image':
        [f.unlink() for d in ('images', 'labels') for f in sorted((p/d).iterdir())[1:]]
        (p/'valid.txt').unlink()
    elif what == 'no training':
        (p/'valid.txt').write_text('\n'.join(f.name for f in (p/'images').iterdir()))
    elif what == 'no validation': (p/'valid.txt').write_text('\n')
    elif what == 'lost names': (p/'valid.txt').write_text('00.png\n01.jpg\n77.png\n')
    elif what == 'all Void': [Image.new('L', (48, 40), 2).save(f) for f in (p/'labels').iterdir()]
    elif what == 'sizes':
        [Image.open(p/f).resize((24, 20), Image.NEAREST).save(p/f)
            for f in ('images/05.png', 'labels/05_P.png')]
    elif what == 'mask size':
        Image.open(p/'labels'/'04_P.png').resize((24, 20),
            Image.NEAREST).save(p/'labels'/'04_P.png')
    elif what == 'empty':
        shutil.rmtree(p)
        p.mkdir()
    elif what == 'no codes': (p/'codes.txt').unlink()
    elif what == 'doubled codes': (p/'codes.txt').write_text('a\nb\na\n')
    return p


@pytest.mark.parametrize('what,parts', [('one image', ['has one image', '00.png', 'two at least']),
        ('no training', ['No training image', 'valid.txt', 'all 10']),
        ('no validation', ['No validation image', 'random split']),
        ('lost names', ['2 files', '01.jpg, 77.png', 'did you mean 01.png?']),
        ('all Void', ['All pixels of all 8 training masks are Void (id 2)', 'check_masks']),
        ('sizes', ['2 sizes', '9 of 40x48', '05.png', 'size=(40,48)']),
        ('mask size', ['04.png is 40x48 and its mask 20x24', 'nearest']), ('empty', ['images']),
        ('no codes', ['codes']), ('doubled codes', ["'a'", 'Doubled'])])
def test_bad_folder_is_told_before_training(tmp_path, what, parts):
    m = message(seg_dataloaders, fault(folder(tmp_path/'f'), what), bs=2)
    for o in parts: assert o in m, m


def test_batch_larger_than_the_training_set(tmp_path):
    p = folder(tmp_path/'f')
    m = message(seg_dataloaders, p, bs=9)
    assert 'Batches of 9 from 8 training images' in m and 'bs=8' in m
    assert len(seg_dataloaders(p, bs=8).train) == 1
    assert 'bs=0' in message(seg_dataloaders, p, bs=0)


def test_ids_outside_the_codes(tmp_path):
    dls = seg_dataloaders(folder(tmp_path/'f', mask=lambda i: np.full((40, 48), i, np.uint8)), bs=2,
        num_workers=0)
    m = message(lambda: [0 for _ in dls.train])
    assert 'has class id' in m and 'expected 0 to 2 for 3 classes' in m and 'check_masks' in m


def test_size_resizes_mixed_folders(tmp_path):
    p = fault(folder(tmp_path/'f'), 'sizes')
    assert seg_dataloaders(p, bs=2, size=(40, 48)).one_batch()[0].shape == (2, 3, 40, 48)


@pytest.mark.skipif(not REAL.is_dir(), reason='no real data here: set SEGBOOK_REAL_DATA')
@pytest.mark.parametrize('name,n,channels,void',
    [('camvid_tiny', (80, 20), 3, 11), ('membranes', (20, 4), 1, None),
        ('retina', (16, 4), 3, None), ('nuclei', (100, 20), 1, None)])
def test_real_folders(name, n, channels, void):
    dls = seg_dataloaders(get_data(name, root=REAL), bs=2)
    assert (len(dls.train_ds), len(dls.valid_ds)) == n and dls.channels in (channels,
        3) and dls.ignore_index == void
    xb, yb = dls.one_batch()
    assert xb.shape[-2:] == yb.shape[-2:] and yb.max() < len(dls.vocab)


# ---- what is corrected or new

def test_npy_in_capitals_is_read(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    with open(tmp_path/'A.NPY', 'wb') as f: np.save(f, x)
    assert (read_image(tmp_path/'A.NPY') == x).all()


def test_legends_hatch_void_and_panels_are_large(tmp_path):
    import matplotlib
    matplotlib.use('agg')
    import matplotlib.pyplot as plt
    dls = seg_dataloaders(folder(tmp_path/'f'), bs=4, batch_tfms=None)
    xb, yb = dls.one_batch()
    for draw in (dls.show_batch, lambda: dls.train.show_results((xb, yb), yb.roll(3, 1))):
        plt.close('all')
        draw()
        fig = plt.gcf()
        fig.canvas.draw()
        patches = dict(zip(CODES, fig.legends[0].get_patches()))
        assert patches['Void'].get_hatch() and not patches['wall'].get_hatch()
        assert min(a.get_window_extent().width for a in fig.axes) >= 220
    assert [a.get_title() for a in fig.axes[:3]] == ['image', 'truth', 'prediction']
    plt.close('all')


@pytest.mark.parametrize('n,valid', [(2, 0), (3, 0), (9, 0), (12, 0), (10, 3)])
def test_the_number_of_training_images_is_that_of_the_loaders(tmp_path, n, valid):
    p = folder(tmp_path/'f', n=n, valid=valid)
    assert n_training_images(SegFolder(p)) == len(seg_dataloaders(p, bs=1).train_ds)


def test_what_follows_the_sixth_argument_is_named(tmp_path):
    p = folder(tmp_path/'f')
    with pytest.raises(TypeError): seg_dataloaders(p, 2, None, 'images', 'labels', None, ['03.png'])
    dls = seg_dataloaders(p, 2, None, 'images', 'labels', None, valid=['03.png'])
    assert [f.name for f in dls.valid_ds.items] == ['03.png']
