"""TIFF of every kind of number, of bands and of order: the array that was written is the oracle of
the pixels, and the way through Pillow that of the mode."""
import itertools

import numpy as np
import pytest
import tifffile

from segbook.reading import stored
from segbook.reading.failures import UnreadableFile

KINDS = [(dtype, bands, colours, apart, alpha)
    for dtype, bands, colours, apart, alpha in itertools.product(
        ('u1', 'i1', 'u2', 'i2', 'u4', 'i4', 'f2', 'f4', 'f8'), (1, 2, 3, 4, 5),
        ('minisblack', 'miniswhite', 'rgb'), (False, True), ('unspecified', 'unassalpha'))
    if bands >= (3 if colours == 'rgb' else 1) and (bands > 1 or not apart)]

@pytest.mark.parametrize('dtype', ['u1', 'i1', 'u2', 'i2', 'u4', 'i4', 'f2', 'f4', 'f8'])
def test_the_short_way_gives_what_the_long_one_gives(tmp_path, monkeypatch, dtype):
    rng, f, short = np.random.default_rng(0), tmp_path/'a.tif', 0
    for _, bands, colours, apart, alpha in (o for o in KINDS if o[0] == dtype):
        shape = (9, 11) if bands == 1 else (bands, 9, 11) if apart else (9, 11, bands)
        x = (rng.random(shape)*200).astype(dtype)
        how, more = dict(photometric=colours), bands - (3 if colours == 'rgb' else 1)
        if bands > 1: how['planarconfig'] = 2 if apart else 1
        if more: how['extrasamples'] = [alpha]*more
        tifffile.imwrite(f, x, metadata=None, **how)
        got = stored.open_stored(f)
        with monkeypatch.context() as m:
            m.setattr(stored, 'read_deep_tiff', lambda file: None)
            try: old = stored.open_stored(f)
            except UnreadableFile: old = got # two bytes apart, one of them alpha: not Pillow's
        kind = dtype, bands, how
        assert (got.mode, got.bits, got.pages, got.orientation, got.size) == (old.mode, old.bits,
            old.pages, old.orientation, old.size), kind
        assert np.array_equal(got.pixels, old.pixels), kind
        if dtype != 'u1': assert np.array_equal(got.pixels, np.moveaxis(x, 0, -1) if apart else x)
        short += stored.read_deep_tiff(f) is not None
    assert short > 10

@pytest.mark.parametrize('apart', [False, True])
def test_pages_in_one_piece_are_whole_or_refused(tmp_path, apart):
    "The last page stands for the others, and the end of the pixels for all of them"
    f, x = tmp_path/'a.tif', np.random.default_rng(0).integers(1, 9, (7, 20, 30)).astype(np.uint16)
    tifffile.imwrite(f, x, photometric='minisblack', **(dict(planarconfig=2) if apart else {}))
    whole = f.read_bytes()
    got = stored.open_stored(f)
    assert np.array_equal(got.pixels, x if got.pages == 7 else x.transpose(1, 2, 0))
    for n in (len(whole)*9//10, len(whole)//2, len(whole)//5, 200):
        f.write_bytes(whole[:n])
        if n > x.nbytes + 256: # the pixels are all there
            assert np.array_equal(stored.open_stored(f).pixels, got.pixels)
            continue
        with pytest.raises(UnreadableFile): stored.open_stored(f)
