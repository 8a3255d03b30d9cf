"Drawn folders and the loaders and learners of both sides, which several topics share."
from __future__ import annotations
import tempfile
from functools import lru_cache
from pathlib import Path

from fastai.data.block import DataBlock
from fastai.data.transforms import FuncSplitter, Normalize, get_image_files
from fastai.metrics import DiceMulti, JaccardCoeffMulti
from fastai.torch_core import set_seed
from fastai.vision.augment import aug_transforms
from fastai.vision.core import imagenet_stats
from fastai.vision.data import ImageBlock, MaskBlock
from fastai.vision.learner import unet_learner
from segbook.data import make_scenes, seg_dataloaders
from segbook.learner import seg_learner
from segbook.masks import SegFolder

# everything drawn disappears when the process ends
_DRAWN = tempfile.TemporaryDirectory(prefix='segbook-bench-')


@lru_cache
def scenes(n, height, width):
    "A folder of drawn street scenes; a fifth of them for validation."
    path = Path(_DRAWN.name)/f'{n}x{height}x{width}'
    make_scenes(path, n=n, size=(height, width), seed=0)
    names = sorted(o.name for o in SegFolder(path).images)
    (path/'valid.txt').write_text('\n'.join(names[-max(1, n//5):]) + '\n', encoding='utf-8')
    return path


def fastai_loaders(path, bs, *, augment=True, **kw):
    "fastai as its documentation has it: codes, masks beside the images, default augmentation."
    f = SegFolder(path)
    more = [*aug_transforms(), Normalize.from_stats(*imagenet_stats)] if augment else None
    block = DataBlock((ImageBlock, MaskBlock(f.codes)), get_items=get_image_files,
        get_y=lambda o: f.label_of(o), splitter=FuncSplitter(lambda o: o.name in f.valid),
        batch_tfms=more)
    return block.dataloaders(f.images[0].parent, bs=bs, **kw)


def ours(path, encoder='resnet18', bs=8, **kw):
    "segbook's learner with its defaults, from scratch"
    return seg_learner(seg_dataloaders(path, bs=bs), encoder=encoder, pretrained=False, **kw)


def theirs(path, encoder='resnet18', bs=8, **kw):
    "fastai's unet_learner with its default metrics"
    import torchvision
    set_seed(42)
    return unet_learner(fastai_loaders(path, bs, **kw), getattr(torchvision.models, encoder),
        pretrained=False, metrics=[JaccardCoeffMulti(), DiceMulti()])
