"""The one reader: orientation, pages, bits, bands and damage of image and mask files, and that
what the check calls ok makes a batch. The oracles share no code with the reader: places of pixels
by the sentences of the EXIF standard, arrays that were written, PNG and TIFF put together by
hand."""
import os, struct, sys, warnings, zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given, strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import nn

from properties import examples
from segbook.data import read_image, seg_dataloaders
from segbook.inference import predict_image
from segbook.masks import SegbookError, check_masks, overlay, read_mask
from segbook.masks.arrays import image_array
from segbook.reading import UnreadableFile, open_stored
from segbook.reading.facts import image_facts

# ---- orientation

# EXIF: which side of the picture the first row and the first column of the file are
SIDES = {1: ('top', 'left'), 2: ('top', 'right'), 3: ('bottom', 'right'), 4: ('bottom', 'left'),
    5: ('left', 'top'), 6: ('right', 'top'), 7: ('right', 'bottom'), 8: ('left', 'bottom')}

def displayed(x, o):
    "Pixel by pixel, where the standard says that each is seen."
    (h, w), (row, col) = x.shape[:2], SIDES[o]
    out = np.zeros((h, w, *x.shape[2:]) if o < 5 else (w, h, *x.shape[2:]), x.dtype)
    for i in range(h):
        for j in range(w):
            place = {row: i if row in ('top', 'left') else h - 1 - i,
                col: j if col in ('top', 'left') else w - 1 - j}
            r = next(v for k,v in place.items() if k in ('top', 'bottom'))
            c = next(v for k,v in place.items() if k in ('left', 'right'))
            out[r, c] = x[i, j]
    return out

def note(o):
    e = Image.Exif()
    e[0x0112] = o
    return e

def blocks(h, w, channels=3, seed=0):
    "Flat squares of 8 pixels, which JPEG keeps."
    x = np.random.default_rng(seed).integers(0, 256, (h//8, w//8, channels))
    return x.repeat(8, 0).repeat(8, 1).astype(np.uint8)

def saved(file, x, o):
    "Save `x` as it lies, with the note `o`, in the format of the ending."
    kw = {'.jpg': dict(quality=100, subsampling=0), '.webp': dict(lossless=True)}.get(file.suffix,
        {})
    Image.fromarray(x).save(file, exif=note(o), **kw)
    return file

@pytest.mark.parametrize('size', [(16, 24), (24, 24)])
@pytest.mark.parametrize('ending', ['.jpg', '.png', '.webp', '.tif', 'five.tif', 'planes.tif'])
@pytest.mark.parametrize('o', range(1, 9))
def test_every_orientation_in_every_format(tmp_path, o, ending, size):
    x = blocks(*size, 5 if len(ending) > 5 else 3, o)
    f = tmp_path/f'a{ending}'
    if ending == 'planes.tif':
        tifffile.imwrite(f, x.transpose(2, 0, 1), photometric='minisblack',
            planarconfig='separate', extratags=[(274, 'H', 1, o, True)])
    elif len(ending) > 5:
        tifffile.imwrite(f, x, photometric='minisblack', planarconfig='contig',
            extratags=[(274, 'H', 1, o, True)])
    else: saved(f, x, o)
    want, got = displayed(x, o), open_stored(f)
    assert got.orientation == o and got.size == want.shape[:2]
    assert np.abs(got.pixels.astype(int) - want).max() <= (3 if ending == '.jpg' else 0)
    assert (read_image(f) == got.pixels).all()
    facts = image_facts(f)
    assert (facts.size, facts.channels, facts.orientation) == (want.shape[:2], x.shape[2], o)
    if x.shape[2] == 3:
        assert (read_image(Image.open(f)) == got.pixels).all()
        assert (image_array(f) == got.pixels).all() and (image_array(
                Image.open(f)) == got.pixels).all()

@pytest.mark.parametrize('o', range(1, 9))
def test_masks_are_turned_alike_and_lie_on_the_picture(tmp_path, o):
    ids = (np.indices((16, 24)).sum(0)//5 % 3).astype(np.uint8)
    ids[:3,:4] = 1
    f = saved(tmp_path/'m.png', ids, o)
    assert (read_mask(f) == displayed(ids, o)).all()
    grey = saved(tmp_path/'i.png', (ids*100).astype(np.uint8), o)
    seen = overlay(grey, f, ['a', 'b', 'c'], alpha=0.)
    assert (seen[...,0] == displayed(ids*100, o)).all()

@pytest.mark.parametrize('mode', ['1', 'L', 'P', 'RGBA', 'CMYK', 'I;16', 'F'])
@pytest.mark.parametrize('o', [3, 5, 6, 8])
def test_a_tiff_of_any_mode_is_turned_once(tmp_path, mode, o):
    # Pillow maps some modes into memory, and then takes rows and columns for each other
    x = blocks(16, 24, 1)[...,0]
    im = Image.fromarray(x.astype(np.uint16)*9) if mode == 'I;16' else Image.fromarray(x).convert(
        mode)
    im.save(tmp_path/'a.tif', exif=note(o))
    want = displayed(np.asarray(im), o)
    assert (open_stored(tmp_path/'a.tif').pixels == want).all()
    if mode == 'L': assert (image_array(Image.open(tmp_path/'a.tif'))[...,0] == want).all()

@pytest.mark.parametrize('value', [0, 9, 77])
def test_an_orientation_that_does_not_exist_turns_nothing(tmp_path, value):
    x = blocks(16, 24)
    assert (read_image(saved(tmp_path/'a.png', x, value)) == x).all()

def test_a_note_behind_the_pixels_of_a_png_counts(tmp_path):
    x = blocks(16, 24)
    saved(tmp_path/'a.png', x, 6)
    data = (tmp_path/'a.png').read_bytes()
    parts, at = [], 8
    while at < len(data):
        n = int.from_bytes(data[at:at + 4], 'big') + 12
        parts.append(data[at:at + n])
        at += n
    exif = [p for p in parts if p[4:8] == b'eXIf']
    others = [p for p in parts if p[4:8] != b'eXIf']
    assert len(exif) == 1
    (tmp_path/'late.png').write_bytes(data[:8] + b''.join(others[:-1] + exif + others[-1:]))
    assert (read_image(tmp_path/'late.png') == displayed(x, 6)).all()
    assert image_facts(tmp_path/'late.png').size == (24, 16)

@pytest.mark.parametrize('key', ['Raw profile type exif', 'XML:com.adobe.xmp'])
@pytest.mark.parametrize('packed', [False, True])
def test_a_note_in_the_texts_of_a_png_counts(tmp_path, key, packed):
    "As ImageMagick wrote it before PNG had a place for EXIF, and as editors write it in XMP."
    tiff = b'II*\0\x08\0\0\0\x01\0\x12\1\3\0\1\0\0\0\6\0\0\0\0\0\0\0' # one tag: turn by 6
    data = (b'Exif\0\0' + tiff).hex()
    texts = PngInfo()
    if 'xmp' in key: texts.add_itxt(key, '<rdf tiff:Orientation="6"/>', zip=packed)
    else: texts.add_text(key, f'\nexif\n{len(data)//2:8}\n{data}\n', zip=packed)
    x = blocks(16, 24)
    Image.fromarray(x).save(tmp_path/'a.png', pnginfo=texts)
    assert (read_image(tmp_path/'a.png') == displayed(x, 6)).all()
    facts = image_facts(tmp_path/'a.png')
    assert (facts.size, facts.orientation) == ((24, 16), 6)

def test_a_damaged_note_turns_nothing(tmp_path):
    x = blocks(16, 24)
    Image.fromarray(x).save(tmp_path/'a.png', exif=b'Exif\0\0II*\0\xff\xff\xff\x7f' + b'\1'*30)
    assert (read_image(tmp_path/'a.png') == x).all()

def bright(channels=1, **kw):
    "A segmenter that calls a pixel class 1 where its first channel is above a half."
    net = nn.Conv2d(channels, 2, 1)
    with torch.no_grad():
        net.weight.zero_()
        net.weight[1, 0] = 1.
        net.bias.copy_(torch.tensor([.5, 0.]))
    return SimpleNamespace(model=net, segmenter=dict(in_channels=channels, mean=[0.]*channels,
        std=[1.]*channels, size=None, ignore_index=None, codes=['dark', 'bright'], n_classes=2,
        **kw))

@pytest.mark.parametrize('o', range(1, 9))
@pytest.mark.parametrize('ending', ['.jpg', '.png', '.tif'])
def test_a_prediction_lies_on_the_photograph_as_displayed(tmp_path, o, ending):
    x = np.where(blocks(32, 48, 1)[...,0] > 127, 255, 0).astype(np.uint8)
    f, want = saved(tmp_path/f'a{ending}', x, o), displayed(x, o) > 127
    for image in (f, Image.open(f)):
        assert (predict_image(bright(), image).numpy() == want).all()

def street(path, save, n=4, codes=('dark', 'bright'), masks=None):
    "A folder of `n` images that `save(file without ending, i)` writes, masks of two halves."
    for d in ('images', 'labels'): (path/d).mkdir(parents=True)
    (path/'codes.txt').write_text('\n'.join(codes))
    for i in range(n):
        f = save(path/'images'/f'a{i}', i)
        hw = (masks or (lambda i: image_facts(f).size))(i)
        m = np.zeros(hw, np.uint8)
        m.ravel()[m.size//2:] = 1
        Image.fromarray(m).save(path/'labels'/f'a{i}_P.png')
    return path

@pytest.mark.parametrize('o', [2, 3, 6, 8])
def test_the_check_tells_of_orientations(tmp_path, o):
    d = street(tmp_path/'d', lambda f,i: saved(f.with_suffix('.jpg'), blocks(32, 32), o))
    r = check_masks(d, progress=False)
    told = [p for p in r.problems if p.kind == 'image orientation']
    assert r.ok and len(told) == 1 and '4 images of 4 with an EXIF orientation' in str(told[0])

def test_sizes_that_differ_by_the_note_alone(tmp_path):
    d = street(tmp_path/'d', lambda f,i: saved(f.with_suffix('.jpg'), blocks(32, 48), 6),
        masks=lambda i: (32, 48))
    r = check_masks(d, progress=False)
    p = next(p for p in r.errors if p.kind == 'size')
    assert 'EXIF' in str(p) and 'take the EXIF note out' in str(p)
    with pytest.raises(SegbookError, match='EXIF note'): seg_dataloaders(d, bs=2)

# ---- pages, bands and bits

def png(x, interlace=0, kind=None):
    "A PNG by hand: [H,W,C] bytes or 16 bits."
    h, w, c = x.shape
    deep = x.dtype == np.uint16
    rows = b''.join(b'\0' + r.astype('>u2' if deep else 'u1').tobytes() for r in x)
    part = lambda k,d: struct.pack('>I', len(d)) + k + d + struct.pack('>I', zlib.crc32(k + d))
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[c]
    head = struct.pack('>IIBBBBB', w, h, 16 if deep else 8, kind, 0, 0, 0)
    return (b'\x89PNG\r\n\x1a\n' + part(b'IHDR', head) + part(b'IDAT', zlib.compress(rows))
        + part(b'IEND', b''))

@pytest.mark.parametrize('channels', [1, 2, 3, 4])
def test_sixteen_bits_of_a_png(tmp_path, channels):
    x = np.random.default_rng(0).integers(0, 65536, (9, 11, channels)).astype(np.uint16)
    f = tmp_path/'a.png'
    f.write_bytes(png(x))
    got = open_stored(f)
    assert got.bits == 16 and (got.pixels.reshape(x.shape) == x).all()
    plain = {1: 1, 2: 1, 3: 3, 4: 3}[channels]
    assert np.allclose(read_image(f), x[...,:plain]/65535, atol=1e-6)
    assert image_facts(f).channels == plain and image_facts(f).dtype == 'uint16'
    if channels > 2:
        seen = image_array(f)
        assert (seen == x[...,:3]//257).all()

@pytest.mark.parametrize('order', '<>')
@pytest.mark.parametrize('how', [{}, dict(compression='zlib'), dict(compression='zlib',
    predictor=True), dict(planarconfig='separate'), dict(tile=(16, 16))])
@pytest.mark.parametrize('channels', [3, 4])
def test_sixteen_bits_of_a_tiff(tmp_path, order, how, channels):
    x = np.random.default_rng(0).integers(0, 65536, (21, 19, channels)).astype(np.uint16)
    y = x.transpose(2, 0, 1) if 'planarconfig' in how else x
    extra = dict(extrasamples=['unassalpha']) if channels == 4 else {}
    tifffile.imwrite(tmp_path/'a.tif', y, photometric='rgb', byteorder=order, **how, **extra)
    got = open_stored(tmp_path/'a.tif')
    assert got.pixels.dtype == np.uint16 and (got.pixels == x).all()
    assert np.allclose(read_image(tmp_path/'a.tif', 3), x[...,:3]/65535, atol=1e-6)

@pytest.mark.parametrize('n', [2, 4, 5, 6, 7, 12])
@pytest.mark.parametrize('planar', ['contig', 'separate'])
@pytest.mark.parametrize('light', ['rgb', 'minisblack'])
@pytest.mark.parametrize('dtype', ['uint8', 'uint16', 'float32'])
def test_no_band_of_a_tiff_is_dropped(tmp_path, n, planar, light, dtype):
    if light == 'rgb' and n < 4: return
    x = (np.random.default_rng(0).random((9, 11, n))*200).astype(dtype)
    if dtype == 'float32': x /= 200
    extra = n - (3 if light == 'rgb' else 1)
    y = x if planar == 'contig' else x.transpose(2, 0, 1)
    tifffile.imwrite(tmp_path/'a.tif', y, photometric=light, planarconfig=planar,
        extrasamples=['unspecified']*extra)
    assert (open_stored(tmp_path/'a.tif').pixels == x).all()
    facts = image_facts(tmp_path/'a.tif')
    assert (facts.size, facts.channels) == ((9, 11), n)
    assert read_image(tmp_path/'a.tif').shape == x.shape

@pytest.mark.parametrize('dtype', ['bool', 'uint8', 'int8', 'uint16', 'int16', 'uint32', 'int32',
    'uint64', 'int64', 'float16', 'float32', 'float64'])
@pytest.mark.parametrize('ending', ['.tif', '.npy', '.NPY'])
@pytest.mark.parametrize('order', '<>')
def test_every_type_of_number(tmp_path, dtype, ending, order):
    r = np.random.default_rng(0)
    x = r.random((7, 9)) if dtype.startswith('f') else r.integers(0, 2, (7, 9)) \
        if dtype == 'bool' else r.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, (7, 9), dtype)
    x = x.astype(dtype)
    f = tmp_path/f'a{ending}'
    if ending == '.tif': tifffile.imwrite(f, x, byteorder=order, photometric='minisblack')
    else:
        with f.open('wb') as o: np.save(o, x.astype(x.dtype.newbyteorder(order)))
    got = open_stored(f).pixels
    assert got.dtype.isnative and (got.astype(x.dtype) == x).all() and got.max() == x.max()

def test_bits_and_signs_that_pillow_cuts(tmp_path):
    Image.fromarray(np.array([[0, 258], [65535, 3]], np.uint16)).save(tmp_path/'a.png')
    tifffile.imwrite(tmp_path/'b.tif', np.array([[0, 258], [65535, 3]], '>u2'), byteorder='>',
        photometric='minisblack')
    for f in ('a.png', 'b.tif'):
        assert open_stored(tmp_path/f).pixels.tolist() == [[0, 258], [65535, 3]]

@pytest.mark.parametrize('mode', ['1', 'L', 'P', 'RGB', 'RGBA', 'LA', 'CMYK', 'YCbCr', 'LAB'])
@pytest.mark.parametrize('how', [{}, dict(compression='tiff_lzw'), dict(
    compression='tiff_deflate'), dict(compression='packbits')])
def test_modes_and_compressions_of_tiff(tmp_path, mode, how):
    x = np.random.default_rng(0).integers(0, 256, (12, 14, 3)).astype(np.uint8)
    im = Image.fromarray(x)
    im = Image.frombytes('LAB', im.size, x.tobytes()) if mode == 'LAB' else im.convert(mode)
    im.save(tmp_path/'a.tif', **how)
    got = open_stored(tmp_path/'a.tif')
    with Image.open(tmp_path/'a.tif') as o: want, seen = np.asarray(o), o.mode
    assert got.mode == seen and (got.pixels == want).all()
    assert seen == mode or mode == 'YCbCr'
    image = read_image(tmp_path/'a.tif', 3)
    assert image.shape == (12, 14, 3) and image.dtype == np.uint8
    if mode not in ('LAB', 'YCbCr'): assert (image == np.asarray(im.convert('RGB'))).all()

def test_lab_becomes_colours(tmp_path):
    Image.frombytes('LAB', (2, 2), bytes([255, 128, 128]*4)).save(tmp_path/'a.tif')
    with Image.open(tmp_path/'a.tif') as im: neutral = np.asarray(im)[0,0,1:]
    x = read_image(tmp_path/'a.tif')
    assert (neutral == 128).all() and (x == 255).all()

@pytest.mark.parametrize('mode', ['L', 'P', 'RGB', 'RGBA', 'LA', '1'])
@pytest.mark.parametrize('ending', ['.png', '.gif', '.bmp', '.webp', '.jp2', '.ppm', '.jpg'])
@pytest.mark.parametrize('channels', [None, 1, 3])
def test_ordinary_pictures_are_as_pillow_has_them(tmp_path, mode, ending, channels):
    x = blocks(72, 80, 3)
    im, f = Image.fromarray(x).convert(mode), tmp_path/f'a{ending}'
    try: im.save(f)
    except Exception: return  # Pillow cannot save that
    with Image.open(f) as o:
        grey = channels == 1 or channels is None and o.mode in ('1', 'L', 'LA')
        want = np.asarray(o.convert('L' if grey else 'RGB')).reshape(72, 80, -1)
    got = read_image(f, channels)
    assert got.dtype == np.uint8 and (got == want).all()
    facts = image_facts(f)
    assert facts.size == (72, 80) and facts.channels == read_image(f).shape[2]

def test_palettes_with_transparency(tmp_path):
    im = Image.fromarray(blocks(16, 16)).quantize(5)
    for t in (0, bytes([0, 128, 255])):
        im.save(tmp_path/'a.png', transparency=t)
        with Image.open(tmp_path/'a.png') as o:
            assert (read_image(tmp_path/'a.png') == np.asarray(o.convert('RGB'))).all()
        got = open_stored(tmp_path/'a.png')
        assert got.mode == 'P' and (got.pixels == np.asarray(im)).all()

def frames(n=3): return [Image.fromarray(blocks(16, 24, seed=i)) for i in range(n)]

@pytest.mark.parametrize('ending', ['.gif', '.webp', '.png', '.avif'])
def test_animations_are_refused(tmp_path, ending):
    one, *more = frames()
    try: one.save(tmp_path/f'a{ending}', save_all=True, append_images=more, duration=50)
    except (OSError, KeyError): pytest.skip('this Pillow does not write it')
    with pytest.raises(UnreadableFile, match='3 pictures'): open_stored(tmp_path/f'a{ending}')
    d = street(tmp_path/'d', lambda f,i: one.save(f.with_suffix('.gif'), save_all=True,
            append_images=more), masks=lambda i: (16, 24))
    assert not check_masks(d, progress=False).ok

def test_the_first_picture_of_a_phones_mpo_is_the_photograph(tmp_path):
    one, *more = frames()
    one.save(tmp_path/'a.jpg', 'MPO', save_all=True, append_images=more, quality=100,
        exif=note(6))
    with Image.open(tmp_path/'a.jpg') as im: assert im.format == 'MPO'
    got = open_stored(tmp_path/'a.jpg')
    assert got.pages == 3
    assert np.abs(got.pixels.astype(int) - displayed(np.asarray(one), 6)).max() < 60
    assert image_facts(tmp_path/'a.jpg').size == (24, 16)

def test_pages_of_a_tiff(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (5, 16, 24)).astype(np.uint8)
    tifffile.imwrite(tmp_path/'pages.tif', x, photometric='minisblack')
    got = open_stored(tmp_path/'pages.tif')
    assert got.pages == 5 and (read_image(tmp_path/'pages.tif') == x.transpose(1, 2, 0)).all()
    with pytest.raises(SegbookError): read_mask(tmp_path/'pages.tif')
    tifffile.imwrite(tmp_path/'j.tif', x, imagej=True, metadata={'axes': 'CYX'})
    assert (read_image(tmp_path/'j.tif') == x.transpose(1, 2, 0)).all()
    d = street(tmp_path/'d', lambda f,i: tifffile.imwrite(g := f.with_suffix('.tif'), x,
            photometric='minisblack') or g)
    r = check_masks(d, progress=False)
    assert r.ok and 'several pages' in str(r) and seg_dataloaders(d, bs=2,
        device='cpu').one_batch()[0].shape[1] == 5

@pytest.mark.parametrize('what', ['colours', 'sizes', 'stack'])
def test_pages_that_are_no_one_picture(tmp_path, what):
    f = tmp_path/'a.tif'
    if what == 'colours': tifffile.imwrite(f, np.zeros((4, 9, 8, 3), np.uint8), photometric='rgb')
    elif what == 'stack': tifffile.imwrite(f, np.zeros((4, 3, 9, 8), np.uint16), imagej=True,
        metadata={'axes': 'ZCYX'})
    else:
        with tifffile.TiffWriter(f) as t:
            for n in (8, 12): t.write(np.zeros((n, 9), np.uint8), photometric='minisblack')
    with pytest.raises(UnreadableFile, match='Save each as a file of its own'): open_stored(f)

def test_a_thumbnail_is_no_page(tmp_path):
    x = blocks(32, 48)
    with tifffile.TiffWriter(tmp_path/'a.tif') as t:
        t.write(x, photometric='rgb')
        t.write(x[::4,::4], photometric='rgb', subfiletype=1)
    got = open_stored(tmp_path/'a.tif')
    assert got.pages == 1 and (got.pixels == x).all()
    y = np.dstack([x, x])
    with tifffile.TiffWriter(tmp_path/'b.tif') as t:
        t.write(y, photometric='minisblack', planarconfig='contig')
        t.write(y[::4,::4], photometric='minisblack', planarconfig='contig', subfiletype=1)
    assert (open_stored(tmp_path/'b.tif').pixels == y).all()

@pytest.mark.parametrize('shape,channels', [((1, 20, 30), 1), ((20, 30, 1), 1), ((20, 30), 1),
    ((3, 20, 30), 3), ((20, 30, 3), 3), ((7, 20, 30), 7), ((20, 30, 7), 7), ((1, 1), 1),
    ((1, 1, 3), 3), ((2, 7, 3), 3), ((64, 70, 80), 64)])
@pytest.mark.parametrize('dtype', [np.uint8, bool, np.uint16, np.float32])
def test_arrays_of_any_layout(tmp_path, shape, channels, dtype):
    np.save(tmp_path/'a.npy', np.zeros(shape, dtype))
    assert read_image(tmp_path/'a.npy').shape[2] == image_facts(tmp_path/'a.npy').channels \
        == channels

@pytest.mark.parametrize('channels', [1, 3, 4])
@pytest.mark.parametrize('hw', [(1, 9), (3, 9), (4, 9), (1, 1), (3, 3)])
def test_rows_and_columns_are_no_channels(tmp_path, hw, channels):
    x = np.random.default_rng(0).integers(0, 256, hw).astype(np.uint8)
    np.save(tmp_path/'a.npy', x)
    for got in (read_image(x, channels), read_image(tmp_path/'a.npy', channels)):
        assert got.shape == (*hw, channels) and (got == x[...,None]).all()
    assert image_facts(tmp_path/'a.npy', channels).size == hw

def test_a_chance_failure_of_pythons_parser_is_no_damage(tmp_path, monkeypatch):
    x, load, left = np.arange(6.).reshape(2, 3), np.load, [1, 1]
    np.save(tmp_path/'a.npy', x)
    def sometimes(*args, **kw):
        if left and left.pop(): raise SystemError('AST constructor recursion depth mismatch')
        return load(*args, **kw)
    monkeypatch.setattr(np, 'load', sometimes)
    assert (open_stored(tmp_path/'a.npy').pixels == x).all() and not left

def test_many_bands_are_read_in_silence(tmp_path, caplog):
    x = np.zeros((8, 9, 7), np.uint8)
    tifffile.imwrite(tmp_path/'a.tif', x, photometric='minisblack', planarconfig='contig')
    assert read_image(tmp_path/'a.tif').shape == x.shape and not caplog.records

# ---- the cure fits the cause

def cure_of(f):
    with pytest.raises(UnreadableFile) as e: open_stored(f)
    assert str(f) in str(e.value)
    return str(e.value)

def test_arrays_that_are_no_images(tmp_path):
    bad = {'0d': (np.float64(3), r'shape \(\)'), '1d': (np.zeros(5), r'shape \(5,\)'),
        '4d': (np.zeros((2, 3, 4, 5)), 'shape'), 'none': (np.zeros((0, 4)), 'no pixels'),
        'complex': (np.zeros((4, 5), complex), 'complex128'),
        'text': (np.array([['a', 'b']]), 'U1'), 'dates': (np.zeros((2, 2), 'M8[s]'), 'datetime64'),
        'table': (np.zeros((2, 2), [('a', int), ('b', float)]), 'dtype')}
    for k,(x,says) in bad.items():
        np.save(tmp_path/f'{k}.npy', x)
        with pytest.raises(UnreadableFile, match=says) as e: open_stored(tmp_path/f'{k}.npy')
        assert 'Restore it' not in str(e.value)
    np.save(tmp_path/'objects.npy', np.array([[None, 'a']], object), allow_pickle=True)
    assert 'Python objects' in cure_of(tmp_path/'objects.npy')
    tifffile.imwrite(tmp_path/'c.tif', np.zeros((4, 5), np.complex64))
    assert 'complex64' in cure_of(tmp_path/'c.tif')
    (tmp_path/'not.npy').write_bytes(b'PK\3\4 what np.savez writes')
    assert 'no array of NumPy' in cure_of(tmp_path/'not.npy')

def test_what_is_no_file(tmp_path):
    (tmp_path/'folder.png').mkdir()
    (tmp_path/'empty.png').touch()
    assert 'is a folder' in cure_of(tmp_path/'folder.png')
    assert '0 bytes' in cure_of(tmp_path/'empty.png')
    assert 'not there' in cure_of(tmp_path/'none.png')
    if hasattr(os, 'mkfifo'):
        os.mkfifo(tmp_path/'pipe.png')
        assert 'not a regular file' in cure_of(tmp_path/'pipe.png')
        with pytest.raises(SegbookError): read_image(tmp_path/'pipe.png')
        assert 'not a regular file' in cure_of(Path('/dev/null'))
    if hasattr(os, 'symlink'):
        os.symlink(tmp_path/'loop.png', tmp_path/'loop.png')
        assert 'Check the path' in cure_of(tmp_path/'loop.png')

def test_no_permission(tmp_path, monkeypatch):
    Image.fromarray(blocks(16, 16)).save(tmp_path/'a.png')
    import builtins
    was = builtins.open
    def refuse(f, *args, **kw):
        if str(f).endswith('a.png'): raise PermissionError(13, 'Permission denied', str(f))
        return was(f, *args, **kw)
    monkeypatch.setattr(builtins, 'open', refuse)
    assert 'no permission' in cure_of(tmp_path/'a.png') and 'chmod' in cure_of(tmp_path/'a.png')

@pytest.mark.parametrize('head,says', [(b'version https://git-lfs.github.com/spec/v1\noid',
    'git lfs pull'), (b'<!DOCTYPE html><html>', 'web page'), (b'%PDF-1.7 ', 'Export it as PNG'),
    (b'\0\0\0\x18ftypheic\0\0\0\0', 'pip install pillow-heif'),
    (b'\xff\x0a\xfa\x7f\1', 'pip install pillow-jxl-plugin'), (b'hello there', 'Restore it')])
def test_what_is_no_picture(tmp_path, head, says):
    (tmp_path/'a.png').write_bytes(head + b'\0'*40)
    if 'pip' in says and says.split()[-1].replace('-plugin', '').replace('-', '_') in sys.modules:
        pytest.skip('the plug-in is installed')
    assert says in cure_of(tmp_path/'a.png')

def test_a_plugin_that_is_installed_is_used(tmp_path, monkeypatch):
    x, done = blocks(16, 16), []
    monkeypatch.setitem(sys.modules, 'pillow_heif', SimpleNamespace(
            register_heif_opener=lambda: done.append(1)))
    (tmp_path/'a.heic').write_bytes(b'\0\0\0\x18ftypheic' + b'\0'*40)
    assert 'Restore' in cure_of(tmp_path/'a.heic') and done == [1]
    Image.fromarray(x).save(tmp_path/'a.png')
    assert (open_stored(tmp_path/'a.png').pixels == x).all()

def test_pixel_limit_names_the_setting(tmp_path, monkeypatch):
    Image.fromarray(blocks(64, 64)).save(tmp_path/'a.png')
    Image.fromarray(blocks(64, 64)).save(tmp_path/'a.tif')
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 1000)
    for f in ('a.png', 'a.tif'):
        text = cure_of(tmp_path/f)
        assert 'PIL.Image.MAX_IMAGE_PIXELS' in text and 'Restore' not in text
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', None)
    assert open_stored(tmp_path/'a.png').size == (64, 64)

def test_a_codec_that_is_missing_names_its_package(tmp_path, monkeypatch):
    x = np.random.default_rng(0).integers(0, 9, (16, 16, 5)).astype(np.uint8)
    tifffile.imwrite(tmp_path/'a.tif', x, photometric='minisblack', planarconfig='contig')
    data = bytearray((tmp_path/'a.tif').read_bytes())
    with tifffile.TiffFile(tmp_path/'a.tif') as t: at = t.pages[0].tags['Compression'].valueoffset
    data[at:at + 2] = struct.pack('<H', 5) # LZW, which Pillow does not read of five bands
    (tmp_path/'a.tif').write_bytes(data)
    try: import imagecodecs # noqa: F401
    except ImportError: assert 'pip install imagecodecs' in cure_of(tmp_path/'a.tif')
    else: cure_of(tmp_path/'a.tif')

@pytest.mark.parametrize('kind', ['plain', 'five', 'zlib', 'pages'])
def test_a_tiff_cut_short_is_damaged_and_never_zeros(tmp_path, kind):
    x = np.random.default_rng(0).integers(1, 255, (40, 30, 5)).astype(np.uint8)
    f = tmp_path/'a.tif'
    if kind == 'plain': Image.fromarray(x[...,:3]).save(f)
    elif kind == 'pages': tifffile.imwrite(f, x.transpose(2, 0, 1), photometric='minisblack')
    else: tifffile.imwrite(f, x, photometric='minisblack', planarconfig='contig',
        rowsperstrip=8, **(dict(compression='zlib') if kind == 'zlib' else {}))
    whole = f.read_bytes()
    for n in (len(whole) - 40, len(whole)*2//3, len(whole)//3, 300, 20, 8):
        f.write_bytes(whole[:n])
        assert 'estore it' in cure_of(f)

# ---- one range of values for a set

def floats(path, low, high, dtype='float32', n=4, odd=None):
    "A folder of TIFF images whose values span `low` to `high` over the set, not in each."
    def save(f, i):
        x = np.linspace(low, low + (high - low)*(i + 1)/n, 12*16).reshape(12, 16).astype(dtype)
        if odd: x = odd(x, i)
        tifffile.imwrite(f := f.with_suffix('.tif'), x, photometric='minisblack')
        return f
    return street(path, save, n)

@pytest.mark.parametrize('low,high,dtype,want', [(0, 255, 'float32', (0, 255)),
    (-1000, 3000, 'int16', (-1000, 3000)), (-5, 5, 'float64', (-5, 5)), (0, 1, 'float32', None),
    (0, 65535, 'uint16', None), (0, 4000, 'int32', (0, 65535)), (0, 1e6, 'uint32', (0, 1e6)),
    (0, 100, 'int8', (0, 127)), (1e20, 1e20, 'float64', (1e20, 2e20))])
def test_the_range_is_that_of_the_set(tmp_path, capsys, low, high, dtype, want):
    d = floats(tmp_path/'d', low, high, dtype)
    r = check_masks(d, progress=False)
    dls = seg_dataloaders(d, bs=2, device='cpu', batch_tfms=None)
    assert r.ok and dls.value_range == want and dls.train.new().value_range == want
    usual = want is None or want[0] == 0 and want[1] in (127, 65535)
    told = 'become 0 and 1 in all images alike' in capsys.readouterr().out
    assert told == (not usual) == ('image values' in [p.kind for p in r.problems])
    for f in dls.train_ds.items + dls.valid_ds.items:
        raw, (a, b) = tifffile.imread(f).astype(np.float64), want or ((0, 1) if dtype[0] == 'f'
            else (0, 65535))
        x = read_image(f, 1, dls.value_range)
        assert np.allclose(x[...,0], (raw - a)/(b - a), atol=1e-5)
    xb, _ = dls.one_batch()
    assert 0 <= xb.min() and xb.max() <= 1

def test_a_range_can_be_given_and_is_carried(tmp_path):
    d = floats(tmp_path/'d', -9999, 50)
    dls = seg_dataloaders(d, bs=2, device='cpu', batch_tfms=None, value_range=(0, 25))
    x, = [read_image(dls.train_ds.items[0], 1, dls.value_range)]
    assert dls.value_range == (0, 25) and x.min() == 0 and x.max() <= 1
    for bad in ((3, 3), (5, 1), 7, 'ab', (0, np.nan), (0, 1, 2)):
        with pytest.raises(SegbookError, match='value_range'):
            seg_dataloaders(d, bs=2, value_range=bad)

def test_prediction_uses_the_range_of_the_training(tmp_path):
    raw = np.linspace(-100, 900, 12*16).reshape(12, 16).astype(np.float32)
    tifffile.imwrite(tmp_path/'a.tif', raw)
    seg = bright(value_range=[-100, 900])
    for image in (tmp_path/'a.tif', raw):
        assert (predict_image(seg, image).numpy() == (raw > 400)).all()
    with pytest.raises(SegbookError, match='value_range'): predict_image(bright(), raw)

@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
def test_no_numbers_are_named_with_file_and_count(tmp_path, value):
    def odd(x, i):
        if i == 2: x[:2,:3] = value
        return x
    d = floats(tmp_path/'d', 0, 1, odd=odd)
    r = check_masks(d, progress=False)
    p, = [p for p in r.errors if p.kind == 'image values']
    assert 'a2.tif (6)' in p.message and [f.name for f in p.files] == ['a2.tif']
    with pytest.raises(SegbookError, match=r'a2\.tif \(6\)'): seg_dataloaders(d, bs=2)
    with pytest.raises(SegbookError, match='6 values of 192'): read_image(d/'images'/'a2.tif')

def test_ranges_that_differ_between_files_are_told(tmp_path, capsys):
    d = floats(tmp_path/'d', 0, 1, odd=lambda x, i: x*200 if i == 3 else x)
    r = check_masks(d, progress=False)
    assert r.ok and 'another range: a0.tif, a1.tif, a2.tif' in str(r)
    seg_dataloaders(d, bs=2, device='cpu').one_batch()
    assert 'another range: a0.tif' in capsys.readouterr().out

@pytest.mark.parametrize('what', ['void of floats', 'bytes beside -1..1', 'channels', 'stack'])
def test_sets_that_make_no_batch_are_errors_in_both(tmp_path, what):
    def save(f, i):
        x = np.linspace(-1, 1, 12*16).reshape(12, 16).astype(np.float32)
        if what == 'void of floats': x[0,0] = np.finfo(np.float32).min
        if what == 'bytes beside -1..1' and i: x = np.full((12, 16), 7*i, np.uint8)
        if what == 'channels': x = np.dstack([np.abs(x)]*(5 if i else 2))
        if what == 'stack': x = np.zeros((66, 70, 80), np.uint8)
        np.save(f := f.with_suffix('.npy'), x)
        return f
    d = street(tmp_path/'d', save, masks=lambda i: (12, 16))
    r = check_masks(d, progress=False)
    assert not r.ok and all(p.message.count('. ') for p in r.errors)
    with pytest.raises(SegbookError): seg_dataloaders(d, bs=2, device='cpu').one_batch()

# ---- properties

KINDS = 'unreadable', 'image values', 'image channels', 'size'

def drawn_array(draw, hw, plain):
    "An array of an image, sometimes of an odd kind."
    r = np.random.default_rng(draw(st.integers(0, 99)))
    dtype = draw(st.sampled_from(['uint8'] if plain else ['uint8', 'uint16', 'int16', 'int32',
        'float32', 'float64', 'bool', 'int8', 'uint32', 'complex64', 'float16', 'int64']))
    n = draw(st.sampled_from([0, 3] if plain else [0, 1, 2, 3, 4, 5, 7, 70]))
    shape = (*hw, n) if n else hw
    x = r.random(shape)
    if dtype == 'bool': x = x > .5
    elif dtype[0] == 'f': x = x*draw(st.sampled_from([1, 1, 255, 1e4, 3e38])) \
        - draw(st.sampled_from([0, 0, .5, 1000]))
    elif dtype[0] == 'c': x = x + 1j
    else:
        i = np.iinfo(dtype)
        low, high = draw(st.sampled_from([(0, i.max), (i.min, i.max), (0, min(i.max, 200))]))
        x = low + x*(float(high) - low)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        x = x.astype(dtype)
    if dtype in ('float32', 'float64') and draw(st.integers(0, 4)) == 0:
        x.ravel()[draw(st.integers(0, x.size - 1))] = draw(st.sampled_from([np.nan, np.inf, -9999]))
    return x.transpose(2, 0, 1) if n and not plain and draw(st.booleans()) else x

def written(file, x, ending):
    "Write an array in a format that can hold it, else as .npy."
    try:
        if ending == '.tif':
            first = x.ndim == 3 and x.shape[0] < x.shape[-1]
            tifffile.imwrite(file.with_suffix('.tif'), x, photometric='minisblack',
                **(dict(planarconfig='separate' if first else 'contig') if x.ndim == 3 else {}))
            return file.with_suffix('.tif')
        if ending not in ('.npy', '.NPY'):
            Image.fromarray(x).save(file.with_suffix(ending))
            return file.with_suffix(ending)
    except Exception: file.with_suffix(ending).unlink(missing_ok=True)
    f = file.with_suffix('.NPY' if ending == '.NPY' else '.npy')
    with f.open('wb') as o: np.save(o, x)
    return f

@examples(12)
@given(data=st.data())
def test_ok_means_that_a_batch_can_be_made(tmp_path_factory, data):
    path, draw = tmp_path_factory.mktemp('set'), data.draw
    hw = draw(st.sampled_from([(12, 16), (9, 7), (33, 20), (1, 1), (2, 90)]))
    alike = draw(st.booleans())
    x = drawn_array(draw, hw, False)
    ending = st.sampled_from(['.png', '.tif', '.npy', '.NPY', '.bmp', '.webp'])
    one = draw(ending)
    def save(f, i):
        y = x if alike and i else x if not i else drawn_array(draw, hw, draw(st.booleans()))
        return written(f, y, one if alike else draw(ending))
    d = street(path/'d', save, 3, masks=lambda i: hw)
    r = check_masks(d, progress=False)
    said = [p.kind for p in r.errors]
    try: batch = seg_dataloaders(d, bs=2, device='cpu', batch_tfms=None).one_batch()
    except SegbookError as e: batch, why = None, str(e)
    if r.ok: assert batch is not None, why
    if not set(said) & set(KINDS): assert batch is not None, why
    else: assert batch is None, r.errors
    if batch is not None:
        xb = batch[0].float()
        assert torch.isfinite(xb).all() and xb.min() >= 0 and xb.max() <= 1 + 1e-6
        for f in (d/'images').iterdir(): assert read_image(f, value_range=(0, 1)).ndim == 3

def sound_files(path):
    "Whole files of many formats, with the pixels in them."
    x = blocks(24, 32)
    r = np.random.default_rng(1)
    five, deep = r.integers(0, 255, (24, 32, 5)).astype(np.uint8), r.integers(0, 65536,
        (24, 32, 3)).astype(np.uint16)
    for e in ('.png', '.bmp', '.gif', '.webp', '.jpg', '.tif', '.ppm', '.jp2'):
        Image.fromarray(x).save(path/f'a{e}')
    Image.fromarray(x).save(path/'lzw.tif', compression='tiff_lzw')
    Image.fromarray(x).save(path/'held.jpg', exif=note(6))
    tifffile.imwrite(path/'five.tif', five, photometric='minisblack', planarconfig='contig')
    tifffile.imwrite(path/'zip.tif', five, photometric='minisblack', planarconfig='contig',
        compression='zlib')
    tifffile.imwrite(path/'deep.tif', deep, photometric='rgb')
    tifffile.imwrite(path/'float.tif', r.random((24, 32)).astype(np.float32))
    (path/'deep.png').write_bytes(png(deep))
    np.save(path/'a.npy', five)
    return sorted(path.iterdir())

@pytest.fixture(scope='module')
def sound(tmp_path_factory):
    files = sound_files(tmp_path_factory.mktemp('sound'))
    return [(f, f.read_bytes(), open_stored(f).pixels) for f in files]

@examples(150)
@given(data=st.data())
def test_damage_gives_pixels_or_unreadable_file(sound, tmp_path_factory, data):
    f, whole, pixels = data.draw(st.sampled_from(sound))
    b = bytearray(whole)
    how = data.draw(st.sampled_from(['flip', 'flip', 'cut', 'zeros', 'head', 'insert', 'ones']))
    at = data.draw(st.integers(0, len(b) - 1))
    if how == 'head': at = data.draw(st.integers(0, min(len(b) - 1, 200)))
    if how in ('flip', 'head'): b[at] ^= data.draw(st.integers(1, 255))
    elif how == 'cut': b = b[:at]
    elif how == 'insert': b[at:at] = data.draw(st.binary(min_size=1, max_size=20))
    else: b[at:at + 30] = (b'\0' if how == 'zeros' else b'\xff')*len(b[at:at + 30])
    g = tmp_path_factory.mktemp('damaged')/f.name
    g.write_bytes(b)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try: got = open_stored(g)
        except UnreadableFile as e:
            assert str(g) in str(e) and e.cure
            got = None
        if bytes(b) == whole: assert (got.pixels == pixels).all()
        for quick in (image_facts, read_image, image_array, read_mask):
            try: quick(g)
            except SegbookError: pass
        if how == 'cut' and at < len(whole)//2: assert got is None, 'half a file gave pixels'


# ---- arrays to go on with

@pytest.mark.parametrize('name', ['a.png', 'a.jpg', 'a.bmp', 'a.tif', 'a.npy'])
@pytest.mark.parametrize('dtype', ['uint8', 'uint16'])
def test_what_is_read_can_be_written_to_and_becomes_a_tensor(tmp_path, name, dtype):
    "Pillow's pixels are read only: torch warns of them, and `m[m == 255] = 0` would fail."
    file, x = tmp_path/name, (np.arange(48)%3).reshape(6, 8).astype(dtype)
    if dtype == 'uint16' and file.suffix not in ('.png', '.tif', '.npy'): return
    if file.suffix == '.npy': np.save(file, x)
    elif file.suffix == '.tif': tifffile.imwrite(file, x)
    else: Image.fromarray(x).save(file)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        for y in (read_image(file), read_mask(file)) if name != 'a.jpg' else (read_image(file),):
            assert y.flags.writeable  # torch warns once in a process, so the warning is not enough
            torch.from_numpy(y)[...] = 0
            assert not y.any()
