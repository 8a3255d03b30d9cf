"Images of many bands and of sixteen bits: statistics of each band, and the first layer."
import numpy as np
import pytest
import tifffile
import torch

from segbook.data import seg_dataloaders
from segbook.encoders import encoder_stats
from segbook.learner import seg_learner
from segbook.models import seg_model
from segbook.weights import PACKAGED_WEIGHTS, packaged_state

LITE = next(iter(PACKAGED_WEIGHTS))


def bands_folder(path, n_bands, dtype=np.uint16, n=5, scale=None):
    "A folder of images with `n_bands` bands, band k about `scale`[k] bright"
    rng = np.random.default_rng(0)
    for d in ('images', 'labels'): (path/d).mkdir(parents=True)
    (path/'codes.txt').write_text('ground\nwater\n')
    (path/'valid.txt').write_text('4.tif\n')
    scale = np.linspace(500, 3000, n_bands) if scale is None else np.asarray(scale)
    for i in range(n):
        y = (rng.random((32, 40)) > .5).astype(np.uint8)
        x = (scale*(1 + y[..., None])*rng.uniform(.8, 1.2, (32, 40, n_bands))).astype(dtype)
        x = x[..., 0] if n_bands == 1 else x
        kw = dict(photometric='rgb') if n_bands == 3 else dict(photometric='minisblack')
        if n_bands > 1: kw['planarconfig'] = 'contig'
        tifffile.imwrite(path/'images'/f'{i}.tif', x, **kw)
        tifffile.imwrite(path/'labels'/f'{i}.tif', y)
    return path


def looped_stats(path, n_bands):
    "Mean and deviation of each band of the first four images, added up value by value"
    n, total, squares = 0, [0.]*n_bands, [0.]*n_bands
    for i in range(4):
        x = tifffile.imread(path/'images'/f'{i}.tif').reshape(-1, n_bands)
        for row in x.tolist():
            n += 1
            for k, v in enumerate(row):
                total[k] += v/65535
                squares[k] += (v/65535)**2
    mean = [t/n for t in total]
    return mean, [(s/n - m*m)**.5 for s, m in zip(squares, mean)]


@pytest.mark.parametrize('n_bands', [1, 2, 3, 4, 7, 13])
@pytest.mark.parametrize('pretrained', [False, True])
def test_each_band_is_normalised_by_what_it_holds(tmp_path, n_bands, pretrained):
    dls = seg_dataloaders(bands_folder(tmp_path/'d', n_bands), bs=2, batch_tfms=None, device='cpu')
    learn = seg_learner(dls, encoder=LITE, pretrained=pretrained)
    mean, std = looped_stats(tmp_path/'d', n_bands)
    assert np.allclose(learn.segmenter['mean'], mean, rtol=1e-4)
    assert np.allclose(learn.segmenter['std'], std, rtol=1e-3)
    x = torch.cat([b[0] for b in learn.dls.test_dl(dls.train_ds.items, with_labels=False)])
    assert x.shape[1] == n_bands and x.mean((0, 2, 3)).abs().max() < 1e-3
    assert (x.std((0, 2, 3)) - 1).abs().max() < 1e-2
    assert learn.model(x[:1])[0].shape == (2, 32, 40)


def test_photographs_keep_the_statistics_of_the_encoder(tmp_path):
    for n_bands in (1, 3):
        path = bands_folder(tmp_path/str(n_bands), n_bands, np.uint8, scale=[60]*n_bands)
        learn = seg_learner(seg_dataloaders(path, bs=2, device='cpu'), encoder='resnet18',
            pretrained=False)
        assert learn.segmenter['mean'] == pytest.approx(encoder_stats('resnet18', n_bands)[0])


def test_a_band_that_is_the_same_everywhere_stays_finite(tmp_path):
    path = bands_folder(tmp_path/'d', 4, scale=[500, 0, 900, 700])
    learn = seg_learner(seg_dataloaders(path, bs=2, batch_tfms=None, device='cpu'),
        encoder='resnet18', pretrained=False)
    assert learn.segmenter['std'][1] == 1 and learn.segmenter['mean'][1] == 0
    assert learn.dls.one_batch()[0].isfinite().all()


@pytest.mark.parametrize('n_bands', [2, 4, 7, 13])
def test_the_first_layer_repeats_the_three_colours(n_bands):
    "Band by band: red, green, blue in turn, times three over the number of bands"
    import timm
    had = packaged_state(LITE, timm.create_model(LITE).state_dict())['conv_stem.weight']
    model = seg_model('dynamic_unet_lean', 2, LITE, n_bands, True)
    first = next(m for m in model.modules() if isinstance(m, torch.nn.Conv2d)).weight
    assert first.shape[1] == n_bands
    for k in range(n_bands):
        assert torch.allclose(first[:, k], had[:, k % 3]*3/n_bands, atol=1e-5)
