"""Masks in which a pixel is of several classes: refused where one class a pixel is learned."""
import numpy as np
import pytest

from segbook.data import seg_dataloaders
from segbook.drawing import make_cells
from segbook.errors import SegbookError
from segbook.masks import SegFolder, check_masks, read_mask


def maps(seed=0, size=(12, 15), n=3):
    "Maps [H,W,K] of 0 and 1, some pixels of several classes, some of none; how many are of several"
    x = (np.random.default_rng(seed).random((*size, n)) < .4).astype(np.uint8)
    several = sum(int(sum(x[r, c])) > 1 for r in range(size[0]) for c in range(size[1]))
    return x, several

@pytest.mark.parametrize('dtype', [bool, np.uint8, np.int64, np.float32])
@pytest.mark.parametrize('axis', [0, -1])
def test_the_overlap_is_counted_and_the_cure_does_what_it_says(tmp_path, dtype, axis):
    x, several = maps()
    y = np.moveaxis(x, -1, axis).astype(dtype)
    np.save(tmp_path/'a.npy', y)
    with pytest.raises(SegbookError) as e: read_mask(tmp_path/'a.npy')
    assert f'overlap in {several} pixels' in str(e.value) and several > 10
    cure = str(e.value).split('np.where', 1)[1].split(', where 0 is', 1)[0]
    ids = eval('np.where' + cure, dict(np=np, x=y)) # what a person would type
    for r, c in np.ndindex(*ids.shape):
        assert ids[r, c] == next((k + 1 for k in range(3) if x[r, c, k]), 0)

def test_one_hot_maps_are_no_overlap(tmp_path):
    np.save(tmp_path/'a.npy', np.eye(3, dtype=np.uint8)[np.random.default_rng(0).integers(0, 3,
            (5, 6))])
    with pytest.raises(SegbookError, match='one-hot: save x.argmax') as e:
        read_mask(tmp_path/'a.npy')
    assert 'overlap' not in str(e.value)

def test_check_and_loaders_refuse_a_folder_with_such_masks(tmp_path):
    path = make_cells(tmp_path/'cells', n=4, size=32, seed=1)
    f = SegFolder(path).labels[0]
    x, several = maps(size=(32, 32), n=2)
    np.save(f.with_suffix('.npy'), x)
    f.unlink()
    report = check_masks(path, progress=False)
    assert [p.kind for p in report.errors] == ['no ids'] and f'overlap in {several}' in str(report)
    assert 'one class that covers the other' in str(report)
    with pytest.raises(SegbookError): seg_dataloaders(path, bs=2).train.one_batch()
