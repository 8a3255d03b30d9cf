"""Reading a folder: one pass over the training images in batches, by one process.

segbook's loaders, reading files or with all of them kept in memory, beside fastai's DataBlock and a
bare torch DataLoader, none with augmentation; and TIFF files of sixteen bits or many bands beside
tifffile itself, in units of its time."""
from __future__ import annotations
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from bench.folders import fastai_loaders, scenes
from bench.topics import Case, Contest, Topic
from segbook.data import read_image, seg_dataloaders
from segbook.masks import SegFolder
from segbook.reading import open_stored


class Bare(torch.utils.data.Dataset):
    "Images and masks by Pillow, as a loader written by hand has them"
    def __init__(self, path):
        f = SegFolder(path)
        self.pairs = [o for o in zip(f.images, f.labels) if o[0].name not in f.valid]
    def __len__(self): return len(self.pairs)
    def __getitem__(self, i):
        x, y = (np.array(Image.open(o)) for o in self.pairs[i])
        return torch.from_numpy(x).permute(2, 0, 1).float()/255, torch.from_numpy(y).long()


def through(dl):
    "One pass; the number of pixels of masks"
    return sum(y.numel() for _, y in dl)


def contest(n, size, bs):
    "Loaders of one folder"
    path, kw = scenes(n, *size), dict(bs=bs, batch_tfms=None, num_workers=0, device='cpu')
    own, kept = seg_dataloaders(path, **kw), seg_dataloaders(path, cache='auto', **kw)
    fastai = fastai_loaders(path, bs, augment=False, num_workers=0, device='cpu')
    bare = torch.utils.data.DataLoader(Bare(path), bs, shuffle=True, drop_last=True)
    dls = {'segbook seg_dataloaders': own.train, 'segbook, kept in memory': kept.train,
        'fastai DataBlock': fastai.train, 'torch DataLoader by hand': bare}
    def facts():
        seen = {k: through(dl) for k, dl in dls.items()}
        assert len(set(seen.values())) == 1, seen
        return dict(images=seen['segbook seg_dataloaders']//(size[0]*size[1]))
    return Contest({k: lambda dl=dl: partial(through, dl) for k, dl in dls.items()}, facts)


def deep_tiff(shape, dtype, how):
    "One TIFF, read by tifffile, as it is stored, and as numbers from 0 to 1"
    import tifffile
    file = Path(tempfile.mkdtemp())/'deep.tif'
    x = np.random.default_rng(0).integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)
    tifffile.imwrite(file, x, **how)
    def facts():
        assert np.array_equal(open_stored(file).pixels.ravel(), (x if how.get('planarconfig') != 2
                    else np.moveaxis(x, 0, -1)).ravel())
        return dict(bytes=file.stat().st_size)
    span = None if dtype in (np.uint8, np.uint16) else (0, np.iinfo(dtype).max)
    return Contest({'segbook open_stored': lambda: partial(open_stored, file),
        'segbook read_image': lambda: partial(read_image, file, value_range=span),
        'tifffile imread': lambda: partial(tifffile.imread, file)}, facts, 'tifffile imread')


def tiff_cases():
    "Grey, colours, bands beside each other, bands one after the other, and pages"
    grey, colours = dict(photometric='minisblack'), dict(photometric='rgb')
    kinds = {'16 bits, grey': ((512, 512), np.uint16, grey),
        '16 bits with a sign, grey': ((512, 512), np.int16, grey),
        '32 bits, grey': ((512, 512), np.uint32, grey),
        '16 bits, colours': ((512, 512, 3), np.uint16, colours | dict(planarconfig=1)),
        '16 bits, colours and alpha': ((512, 512, 4), np.uint16,
            colours | dict(extrasamples=['unassalpha'])),
        '16 bits, 7 bands': ((512, 512, 7), np.uint16, grey | dict(planarconfig=1)),
        '16 bits, 13 bands apart': ((13, 512, 512), np.uint16, grey | dict(planarconfig=2)),
        '16 bits, 13 pages': ((13, 512, 512), np.uint16, grey),
        '8 bits, 4 bands': ((512, 512, 4), np.uint8, grey | dict(planarconfig=1))}
    return [Case(f'TIFF of {name}', 'values', float(np.prod(shape)), f'512x512, {name}',
            partial(deep_tiff, shape, dtype, how)) for name, (shape, dtype, how) in kinds.items()]


def cases(smoke):
    def case(n, size, bs, curve, axis, at):
        return Case(curve, axis, at, f'{n} images {size[0]}x{size[1]}, batch {bs}',
            partial(contest, n, size, bs))
    if smoke: return [case(10, (32, 32), 4, 'small', 'pixels', 32*32)]
    return [*(case(40, s, 8, '40 images', 'pixels of an image', s[0]*s[1])
            for s in ((48, 64), (96, 128), (180, 240), (360, 480))),
        *(case(n, (96, 128), 8, '96x128', 'images', n) for n in (20, 80, 160)),
        *(case(80, (96, 128), b, '80 images 96x128', 'batch', b) for b in (1, 4, 16)),
        *tiff_cases()]


TOPIC = Topic('loading', 'reading images and masks in batches', 'segbook seg_dataloaders', cases,
    ('pillow', 'numpy'), ('data', 'reading', 'masks'), rounds=3)
