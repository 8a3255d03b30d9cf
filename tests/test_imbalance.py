"Windows cut for training, and things counted one by one: on folders written here, against loops."
import random

import numpy as np
import pytest
import torch
from PIL import Image

from segbook.data import seg_dataloaders
from segbook.imbalance import RandomWindow, informative_share, match_instances, split_touching
from segbook.masks import SegbookError


def write(path, masks, channels=3, codes=('back', 'thing', 'rare'), valid=1):
    """A folder whose images show the mask's id times 40.

    Where there are several channels, the others show row and column."""
    for o in ('images', 'labels'): (path/o).mkdir(parents=True)
    for i, m in enumerate(masks):
        rows, cols = np.indices(m.shape)
        x = np.stack([m*40, rows, cols, rows*0 + 7], -1)[..., :channels].astype(np.uint8)
        if channels == 4: np.save(path/f'images/{i}.npy', x)
        else: Image.fromarray(x[..., 0] if channels == 1 else x).save(path/f'images/{i}.png')
        Image.fromarray(m).save(path/f'labels/{i}_P.png')
    (path/'codes.txt').write_text('\n'.join(codes) + '\n')
    ends = '.npy' if channels == 4 else '.png'
    (path/'valid.txt').write_text(''.join(f'{i}{ends}\n'
            for i in range(len(masks) - valid, len(masks))))
    return path


def some_masks(n=7, size=(37, 53), seed=0):
    rng = np.random.default_rng(seed)
    masks = [np.zeros(size, np.uint8) for _ in range(n)]
    for m in masks:
        t, l = rng.integers(0, size[0] - 6), rng.integers(0, size[1] - 6)
        m[t:t+6, l:l+6] = 1
        m[rng.integers(size[0]), rng.integers(size[1])] = 2   # one pixel
    return masks


@pytest.mark.parametrize('channels', [1, 3, 4])
@pytest.mark.parametrize('crops', ['random', 'positive'])
def test_windows_keep_image_and_mask_together(tmp_path, channels, crops):
    masks = some_masks()
    dls = seg_dataloaders(write(tmp_path/'d', masks, channels), bs=4, size=(16, 20), crops=crops,
        crops_per_image=5, batch_tfms=None, num_workers=0)
    seen = 0
    for x, y in dls.train:
        x, y = torch.Tensor(x)*255, torch.Tensor(y).long()
        assert x.shape[1:] == (channels, 16, 20) and y.shape[1:] == (16, 20)
        assert torch.allclose(x[:, 0], y.float()*40, atol=.01)
        # the coordinates written into the image: one whole window of the image, in its order
        if channels > 1:
            r, c = x[:, 1], x[:, 2]
            assert torch.allclose(r - r[:, :1, :1], torch.arange(16.)[None, :, None].expand_as(r),
                atol=.01)
            assert torch.allclose(c - c[:, :1, :1], torch.arange(20.)[None, None].expand_as(c),
                atol=.01)
        seen += len(x)
    assert seen == 6*5//4*4
    xv, yv = dls.valid.one_batch()
    assert xv.shape[-2:] == (37, 53) and (torch.Tensor(yv).numpy() == masks[-1]).all()


def test_positive_windows_show_what_was_asked_for(tmp_path):
    path = write(tmp_path/'d', some_masks())
    share = {o: informative_share(seg_dataloaders(path, bs=2, size=8,
                crops='random' if o == 'blind' else 'positive',
                crop_classes=None if o == 'blind' else o, crops_per_image=20, num_workers=0),
            'rare') for o in ('blind', 'rare', 'thing')}
    assert share['rare'] == 1 and share['blind'] < .2 and share['thing'] < .3
    # all but the commonest class
    both = seg_dataloaders(path, bs=2, size=8, crops='positive', crops_per_image=60, num_workers=0)
    # each class as likely, whatever its size
    assert informative_share(both) == 1 and .4 < informative_share(both, 'rare') < .7


def test_windows_are_drawn_from_the_seed(tmp_path):
    dls = seg_dataloaders(write(tmp_path/'d', some_masks()), bs=4, size=16, crops='positive',
        batch_tfms=None, num_workers=0)
    def drawn(seed):
        random.seed(seed)
        dls.train.rng = random.Random(seed)
        return torch.cat([torch.Tensor(b[0]) for b in dls.train])
    assert torch.equal(drawn(1), drawn(1)) and not torch.equal(drawn(1), drawn(2))


def test_images_of_several_sizes(tmp_path):
    masks = some_masks(4) + some_masks(3, (41, 30), seed=1)
    dls = seg_dataloaders(write(tmp_path/'d', masks, valid=4), bs=2, size=24, crops='random',
        crops_per_image=2, batch_tfms=None, num_workers=0)
    # one by one, whole
    assert [tuple(b[0].shape[-2:]) for b in dls.valid] == [(37, 53)] + [(41, 30)]*3
    assert all(b[0].shape[-2:] == (24, 24) for b in dls.train)


@pytest.mark.parametrize('kw,msg', [(dict(crops='somewhere', size=8), "'somewhere'"),
        (dict(crops='random'), 'needs the size'),
        (dict(crops='random', size=(38, 8)), 'Windows of 38x8'),
        (dict(crops='positive', size=8, crop_classes='tihng'), "did you mean 'thing'"),
        (dict(crops='positive', size=8, crop_classes=[3]), 'No class id 3'),
        (dict(crops='random', size=8, crops_per_image=0), 'crops_per_image is 0'),
        (dict(crops_per_image=3), 'would do nothing'),
        (dict(crops='random', size=8, crop_classes='rare'), "for crops='positive'"),
        (dict(crops='random', size=8, bs=20), 'from 6 training windows')])
def test_windows_that_make_no_sense(tmp_path, kw, msg):
    with pytest.raises(SegbookError, match=msg):
        seg_dataloaders(write(tmp_path/'d', some_masks()), **{'bs': 2, **kw})


def test_nothing_to_aim_at(tmp_path):
    empty = [np.zeros((20, 20), np.uint8)]*3
    with pytest.raises(SegbookError, match='no pixel of any class but one'):
        seg_dataloaders(write(tmp_path/'a', empty), bs=1, size=8, crops='positive')
    void = [np.where(np.indices((20, 20))[0] < 9, 2, 0).astype(np.uint8)]*3
    path = write(tmp_path/'b', void, codes=('back', 'thing', 'Void'))
    with pytest.raises(SegbookError, match="'Void'.*nobody"):
        seg_dataloaders(path, bs=1, size=8, crops='positive', crop_classes='Void')
    with pytest.raises(SegbookError, match='no pixel of thing'):
        seg_dataloaders(path, bs=1, size=8, crops='positive', crop_classes='thing')


def test_a_window_lies_everywhere_it_may():
    m = np.zeros((6, 5), np.uint8)
    m[5, 4] = 1
    random.seed(0)
    assert {RandomWindow((2, 3)).place(m) for _ in range(500)} == {(t, l) for t in range(5)
        for l in range(3)}
    assert {RandomWindow((2, 3), [1]).place(m) for _ in range(50)} == {(4, 2)}
    assert RandomWindow((6, 5), [1]).place(m) == (0, 0)


def test_gaps_against_a_loop():
    rng = np.random.default_rng(0)
    for shape in ((9, 13), (1, 7), (8, 1)):
        ids = rng.integers(0, 4, shape).astype(np.uint16)*300
        want = np.zeros(shape, np.uint8)
        for r, c in np.ndindex(*shape):
            near = ids[max(0, r-1):r+2, max(0, c-1):c+2]
            want[r, c] = ids[r, c] > 0 and not any(k not in (0, ids[r, c]) for k in near.ravel())
        got = split_touching(ids)
        assert got.dtype == np.uint8 and (got == want).all()


def test_counts_do_not_depend_on_the_numbers_of_the_instances():
    rng = np.random.default_rng(1)
    ids = np.kron(rng.permutation(12).reshape(3, 4), np.ones((20, 18), int))
    pred = split_touching(ids) > 0
    assert match_instances(pred, ids) == match_instances(pred, np.where(ids, ids*1000 + 3, 0))
    assert match_instances(pred, ids) == dict(true=11, separated=11, merged=0, missed=0, poor=0,
        extra=0)
    assert match_instances(ids > 0, ids)['merged'] == 11   # one region over all of them
    with pytest.raises(SegbookError, match='min_iou'): match_instances(pred, ids, .2)
    with pytest.raises(SegbookError, match='one size'): match_instances(pred[:-1], ids)


def test_a_thing_and_its_region_must_share_more_than_the_limit():
    ids = np.array([[1, 1, 1, 1, 0]])
    # IoU 0.5, 0.75, 0.75, 0.25
    for covered, limit, kind in ((2, .5, 'poor'), (3, .5, 'separated'), (3, .75, 'poor'),
            (1, .5, 'missed')):
        pred = np.arange(5)[None] < covered
        found = match_instances(pred, ids, limit)
        assert found[kind] == found['true'] == 1 and sum(found[k]
            for k in ('separated', 'merged', 'missed', 'poor')) == 1, (covered, limit, found)
