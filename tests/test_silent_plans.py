"""What was asked for is used, or it is said that it is not, in plans, learners and predictions"""
import contextlib, csv, io, json, random, re, shlex, threading, time
from functools import partial

import numpy as np
import pytest
import torch
from fastai.vision.all import (
    Adam, ColReader, CropPad, DataBlock, FlipItem, ImageBlock, MaskBlock, PILImage, PILMask,
    RandomCrop, RandomResizedCrop, RandomSplitter, Resize, TensorImage, TensorMask,
    TransformBlock, aug_transforms,
)
from pandas import DataFrame
from PIL import Image
from test_model_folder import Learnt

from segbook import export
from segbook.augmentation import AlbumentationsTfm
from segbook.cli import segbook_plan, segbook_predict
from segbook.cli.arguments import train_parser
from segbook.data import make_scenes, seg_dataloaders
from segbook.drawing import make_cells
from segbook.errors import SegbookError
from segbook.export import save_segmenter
from segbook.inference import predict_image, predict_tta
from segbook.learner import fast_adam, seg_learner
from segbook.losses.base import training_pixels_by_class
from segbook.planning import plan_training


@pytest.fixture(scope='module')
def cells(tmp_path_factory):
    return make_cells(tmp_path_factory.mktemp('data')/'cells', n=6, size=64, seed=1)


# --- the command that a plan prints

ASKED = {
    "--images 'my photos' --labels 'my masks' --codes names.txt --minutes 60 --bs 3 --loss focal "
    '--augment none --size 96x64 --arch unet': dict(images='my photos', labels='my masks',
        codes='names.txt', minutes=60., bs=3, loss='focal', augment='none', size=[96, 64],
        arch='unet'),
    '--images "my photos" --labels "my masks" --codes "one thing,an other" --value-range '
    '-1234567.5 7654321 --lr 1e-5 --weights no --pretrained false --encoder resnet18 --epochs 2 '
    '--crops random --size 32 --crops-per-image 2': dict(images='my photos', labels='my masks',
        codes='one thing,an other', value_range=[-1234567.5, 7654321.], lr=1e-5, weights=False,
        pretrained=False, encoder='resnet18', epochs=2, crops='random', size=[32, 32],
        crops_per_image=2),
    '--images "my photos" --labels "my masks" --codes names.txt --value-range image '
    '--overlapping no --size full': dict(images='my photos', labels='my masks',
        codes='names.txt', value_range='image', overlapping=False, size='full')}


@pytest.fixture(scope='module')
def renamed(tmp_path_factory):
    folder = make_cells(tmp_path_factory.mktemp('data')/"Eve's cells", n=6, size=64, seed=1)
    (folder/'images').rename(folder/'my photos')
    (folder/'labels').rename(folder/'my masks')
    (folder/'codes.txt').rename(folder/'names.txt')
    return folder


@pytest.mark.parametrize('asked', ASKED)
def test_the_printed_command_is_the_plan(asked, renamed):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert segbook_plan([str(renamed), *shlex.split(asked), '--measure', 'false']) == 0
    words = shlex.split(out.getvalue().splitlines()[-1])
    assert words[0] == 'segbook_train'
    assert train_parser().given(words[1:]) == dict(ASKED[asked], data=str(renamed))


# --- what was asked for

def reasons(folder, **given):
    p = plan_training(folder, measure=False, progress=False, **given)
    return {o.name: (o.value, o.reason) for o in p.choices}


def test_what_is_not_used_is_not_as_asked(cells):
    found = reasons(cells, arch='unet', encoder='resnet18', pretrained=True, crops_per_image=3,
        size=[32, 64], crops='none')
    for name, value in dict(encoder='resnet18', pretrained='True', crops_per_image='3').items():
        assert found[name][1].startswith(f'{value} was asked for, and is not used: ')
    assert found['crops_per_image'][0] == 1 and found['pretrained'][0] is False
    assert all(found[k][1] == 'as you asked' for k in ('arch', 'size', 'crops'))
    found = reasons(cells, arch='unet', pretrained=False, size='full', crops_per_image=1)
    assert all(found[k][1] == 'as you asked' for k in ('pretrained', 'size', 'crops_per_image'))


def test_none_is_nothing_that_was_asked_for(cells):
    names = ('arch', 'encoder', 'pretrained', 'size', 'crops', 'crops_per_image', 'bs', 'loss',
        'weights', 'augment', 'value_range', 'lr', 'epochs')
    def but_for_memory(found): # what is free changes from one moment to the next
        return {k: [re.sub(r'[\d.]+ GB', 'GB', str(o)) for o in v] for k, v in found.items()}
    assert but_for_memory(reasons(cells, **dict.fromkeys(names))) == but_for_memory(reasons(cells))


@pytest.mark.parametrize('given, wanted', [(dict(pretrained='false'), 'True or False'),
    (dict(weights='no'), 'True or False'), (dict(weights=1), 'True or False'),
    (dict(lr=True), 'a number above 0'), (dict(lr='1e-3'), 'a number above 0'),
    (dict(arch=5), 'a name'), (dict(encoder=('resnet18',)), 'a name'),
    (dict(augment=[]), 'one of none, mild')])
def test_a_choice_of_another_type(given, wanted, cells):
    with pytest.raises(SegbookError, match=f'{[*given][0]}=.*expected {wanted}'):
        plan_training(cells, measure=False, **given)


# --- Albumentations: all masks of an item move, whatever their numbers

def corner_item(ids):
    "An image, ids and a mask whose upper left corner is marked."
    x, y = np.zeros((6, 8, 3), np.uint8), np.zeros((6, 8), np.uint8)
    x[0, 0], y[0, 0] = 255, 7
    return PILImage(Image.fromarray(x)), PILMask(Image.fromarray(ids)), PILMask(Image.fromarray(y))


def test_ids_and_classes_move_together():
    A = pytest.importorskip('albumentations')
    ids = np.arange(48, dtype=np.int32).reshape(6, 8)*1000
    im, new, mask = AlbumentationsTfm(A.HorizontalFlip(p=1))(corner_item(ids), split_idx=0)
    assert (np.asarray(new) == ids[:, ::-1]).all() and np.asarray(new).dtype == np.int32
    assert np.asarray(mask)[0, 7] == 7 and np.asarray(mask).sum() == 7
    assert np.asarray(im)[0, 7, 0] == 255
    tensor = TensorMask(torch.from_numpy(ids).long())
    item = AlbumentationsTfm(A.HorizontalFlip(p=1))((im, tensor, mask, 'name'), split_idx=0)
    assert torch.equal(item[1].as_subclass(torch.Tensor), torch.from_numpy(ids).long().flip(1))
    assert item[3] == 'name' and isinstance(item[1], TensorMask)


@pytest.mark.parametrize('move', ['flip', 'rotate', 'resize', 'several'])
def test_packed_maps_of_24_classes_lose_nothing(move):
    A = pytest.importorskip('albumentations')
    moves = dict(flip=[A.VerticalFlip(p=1)], rotate=[A.Rotate((40, 40), p=1)],
        resize=[A.Resize(12, 16)])
    moves['several'] = sum(moves.values(), [])
    packed = np.full((6, 8), 2**24 - 1, np.int32)
    packed[:, 4:] = 2**16 + 2**23 + 1
    out = AlbumentationsTfm(moves[move])(corner_item(packed)[:2], split_idx=0)
    found = set(np.unique(np.asarray(out[1])).tolist())
    allowed = {0} if move in ('rotate', 'several') else set()  # outside of a turned image
    assert found - allowed == {2**24 - 1, 2**16 + 2**23 + 1}


def test_ids_that_cannot_be_moved_are_refused():
    A = pytest.importorskip('albumentations')
    with pytest.raises(SegbookError, match='numbers from 0 to 33,554,432; expected at most'):
        AlbumentationsTfm(A.HorizontalFlip(p=1))(corner_item(np.full((6, 8), 2**25, np.int32)
            - np.eye(6, 8, dtype=np.int32)*2**25)[:2], split_idx=0)


# --- sizes of batches, and items that are no paths

TINY = dict(encoder='mobilenetv3_small_050', pretrained=False)


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    return make_scenes(tmp_path_factory.mktemp('data')/'scenes', n=10, size=(32, 48), seed=1)


def test_the_size_is_what_comes_out(scenes, capsys):
    dls = seg_dataloaders(scenes, bs=2, size=(32, 40), batch_tfms=aug_transforms(size=(16, 24)))
    assert tuple(dls.valid.one_batch()[0].shape[2:]) == (16, 24)
    assert tuple(seg_learner(dls, **TINY).segmenter['size']) == (16, 24)
    assert 'images of 32x40 to 16x24' in capsys.readouterr().out
    dls = seg_dataloaders(scenes, bs=2, batch_tfms=aug_transforms(size=(16, 24)))
    assert tuple(seg_learner(dls, **TINY).segmenter['size']) == (16, 24)
    dls = seg_dataloaders(scenes, bs=2, size=(32, 40))
    assert tuple(seg_learner(dls, **TINY).segmenter['size']) == (32, 40)
    assert seg_learner(seg_dataloaders(scenes, bs=2), **TINY).segmenter['size'] is None


def blocks_of(scenes, kind, *tfms):
    "DataLoaders of a table of two columns, or of names."
    codes = (scenes/'codes.txt').read_text().split()
    names = sorted(o.stem for o in (scenes/'images').iterdir())
    ending = next((scenes/'images').iterdir()).suffix
    if kind == 'names':
        items = names
        get_x, get_y = (lambda n: scenes/'images'/f'{n}{ending}'), (
            lambda n: scenes/'labels'/f'{n}_P.png')
    else:
        items = DataFrame({'image': [str(scenes/'images'/f'{n}{ending}') for n in names],
            'mask': [str(scenes/'labels'/f'{n}_P.png') for n in names]})
        get_x, get_y = ColReader('image'), ColReader('mask')
    block = DataBlock((ImageBlock, MaskBlock(codes)), get_x=get_x, get_y=get_y,
        splitter=RandomSplitter(seed=1), item_tfms=list(tfms))
    return block.dataloaders(items, bs=2, num_workers=0, device='cpu')


@pytest.mark.parametrize('kind', ['names', 'table'])
def test_items_that_are_no_paths(scenes, kind):
    learn = seg_learner(blocks_of(scenes, kind, Resize((16, 32))), **TINY)
    assert tuple(learn.segmenter['size']) == (16, 32)
    assert [round(o, 3) for o in learn.segmenter['mean']] == [.485, .456, .406]
    learn = seg_learner(blocks_of(scenes, kind), **TINY)
    assert learn.segmenter['size'] is None
    with learn.no_bar(): assert len(learn.validate()) == 4


def test_bands_of_a_table_are_measured(tmp_path):
    r = np.random.default_rng(0)
    for i in range(5): np.save(tmp_path/f'{i}.npy', r.normal(.5, .1, (4, 32, 32)).clip(0, 1))
    files = DataFrame({'image': [str(tmp_path/f'{i}.npy') for i in range(5)]})
    def opened(row): return TensorImage(torch.from_numpy(np.load(row['image'])).float())
    threads = set()
    def masked(row): # which may not bear that several threads call it, as h5py's files do not
        threads.add(threading.get_ident())
        time.sleep(.01)
        return TensorMask((np.load(row['image'])[0] > .5).astype(np.int64))
    block = DataBlock((TransformBlock, TransformBlock), get_x=opened, get_y=masked,
        splitter=RandomSplitter(seed=1))
    dls = block.dataloaders(files, bs=2, num_workers=0, device='cpu')
    learn = seg_learner(dls, codes=['low', 'high'], **TINY)
    assert np.allclose(learn.segmenter['mean'], .5, atol=.02)
    assert np.allclose(learn.segmenter['std'], .1, atol=.02)
    threads.clear()
    dls.vocab = ['low', 'high']
    assert len(training_pixels_by_class(dls)) == len(dls.train_ds) == 4 and len(threads) == 1


# --- transforms of items that leave images of four channels alone

@pytest.fixture(scope='module')
def bands(tmp_path_factory):
    folder, r = tmp_path_factory.mktemp('bands'), np.random.default_rng(0)
    for o in ('images', 'labels'): (folder/o).mkdir()
    for i in range(6):
        np.save(folder/'images'/f'{i}.npy', r.integers(0, 255, (48, 64, 4)).astype(np.uint8))
        mask = Image.fromarray(r.integers(0, 2, (48, 64)).astype(np.uint8))
        mask.save(folder/'labels'/f'{i}.png')
    (folder/'codes.txt').write_text('low\nhigh\n')
    return folder


@pytest.mark.parametrize('tfm', [Resize((32, 40)), RandomResizedCrop((32, 40)),
    RandomCrop((32, 40)), CropPad((32, 40))])
def test_a_mask_that_is_resized_without_its_image(bands, scenes, tfm):
    with pytest.raises(SegbookError, match=r'48x64, and its mask 32x40.*Cure: size='):
        seg_dataloaders(bands, bs=2, item_tfms=tfm)
    x, y = seg_dataloaders(scenes, bs=2, item_tfms=tfm).one_batch()
    assert tuple(x.shape[2:]) == tuple(y.shape[1:]) == (32, 40)


def test_a_look_at_an_item_draws_nothing(bands, monkeypatch):
    states = []
    for _ in range(2):
        random.seed(5), torch.manual_seed(5)
        dls = seg_dataloaders(bands, bs=2, item_tfms=FlipItem(), batch_tfms=None, seed=1)
        states.append((random.random(), torch.rand(1).item(), dls.one_batch()[0].sum().item()))
        monkeypatch.setattr('segbook.data.loaders.check_item_sizes', lambda *args: None)
    assert states[0] == states[1]


# --- settings of the optimiser

def test_settings_have_the_names_of_fastai():
    weights = [torch.nn.Parameter(torch.ones(3))]
    opt = partial(fast_adam, wd=.5, mom=.7, sqr_mom=.8, eps=1e-3)([weights], lr=.1)
    theirs = Adam([weights], lr=.1, wd=.5, mom=.7, sqr_mom=.8, eps=1e-3)
    for k, v in theirs.hypers[0].items(): assert opt.hypers[0][k] == v
    group = opt.opt.param_groups[0]
    assert (group['weight_decay'], group['betas'], group['eps']) == (.5, (.7, .8), 1e-3)
    with pytest.raises(SegbookError, match="no setting 'betas'; expected some of wd, mom, sqr_mom"):
        fast_adam([weights], lr=.1, betas=(.9, .99))


# --- answers of several sizes

def test_answers_of_several_sizes_are_refused_in_words(tmp_path):
    codes, r = ['low', 'high'], np.random.default_rng(0)
    for o in ('images', 'labels'): (tmp_path/o).mkdir()
    for i, size in enumerate([(40, 40), (40, 48), (64, 40)]*2):
        x = r.integers(0, 255, size).astype(np.uint8)
        Image.fromarray(x).save(tmp_path/'images'/f'{i}.png')
        Image.fromarray((x > 127).astype(np.uint8)).save(tmp_path/'labels'/f'{i}.png')
    (tmp_path/'codes.txt').write_text('\n'.join(codes))
    (tmp_path/'valid.txt').write_text('0.png\n1.png\n2.png')
    dls = seg_dataloaders(tmp_path, bs=2, size=32, crops='random')
    learn = seg_learner(dls, **TINY)
    with learn.no_bar():
        for f in (learn.get_preds, learn.tta, partial(learn.get_preds, concat_dim=None)):
            with pytest.raises(SegbookError, match='3 sizes .40x40, 40x48, 64x40.*predict_image'):
                f()
        with pytest.raises(SegbookError, match='does not take concat_dim.*predict_tta'):
            learn.tta(concat_dim=None)
        assert len(learn.validate()) == 4
        file = dls.valid_ds.items[2]
        assert list(predict_image(learn, file).shape) == [64, 40]
        assert list(predict_tta(learn, file).shape) == [2, 64, 40]
        with pytest.raises(ZeroDivisionError): learn.get_preds(act=lambda x: 1/0)
        assert not [o for o in learn.cbs if 'Sizes' in type(o).__name__]


# --- objects of several calls into one folder

class Bright(torch.nn.Module):
    "Pixels above 1/4 are cells."
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(4.))
    def forward(self, x):
        above = 20*(self.weight*x[:, 0] - 1)
        return torch.stack([-above, above], 1)


@pytest.fixture
def patients(tmp_path, monkeypatch):
    "A model, and images of two patients with 1, 2, 3 and 4 cells."
    monkeypatch.setattr(export, 'seg_model', lambda *args, **kwargs: Bright())
    learn = Learnt(codes=['nothing', 'cell'], n_classes=2, ignore_index=None, mean=[0.]*3,
        std=[1.]*3)
    learn.model = Bright()
    model = save_segmenter(learn, tmp_path/'model')
    for k, name in enumerate(('p1/a', 'p1/b', 'p2/a', 'p2/c'), 1):
        x = np.zeros((16, 40, 3), np.uint8)
        for i in range(k): x[4:9, 8*i:8*i + 4] = 255
        file = tmp_path/f'{name}.png'
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(x).save(file)
    return tmp_path, model


def predicted(patients, *args):
    folder, model = patients
    return segbook_predict([str(model), *map(str, args), '--out', str(folder/'out'), '--instances',
            '--coco'])


def counted_in(folder):
    with open(folder/'out'/'counts.csv') as f:
        return {o['image']: int(o['objects']) for o in csv.DictReader(f)}


def test_rows_of_other_images_stay(patients, capsys):
    folder = patients[0]
    assert predicted(patients, folder/'p1') == 0
    assert predicted(patients, folder/'p2'/'c.png') == 2
    assert 'keeps the rows of other images' in capsys.readouterr().err
    assert predicted(patients, folder/'p2'/'c.png', '--overwrite') == 0
    assert 'keeps the rows of 2 images' in capsys.readouterr().err
    assert counted_in(folder) == {'a.png': 1, 'b.png': 2, 'c.png': 4}
    coco = json.loads((folder/'out'/'objects_coco.json').read_text())
    n = {o['file_name']: sum(a['image_id'] == o['id'] for a in coco['annotations'])
        for o in coco['images']}
    assert n == {'a.png': 1, 'b.png': 2, 'c.png': 4}
    for k in ('images', 'annotations'):
        assert len({o['id'] for o in coco[k]}) == len(coco[k])


def test_an_image_has_one_row_whatever_the_call(patients):
    folder = patients[0]
    assert predicted(patients, folder/'p1', folder/'p2') == 0
    assert counted_in(folder) == {'p1/a.png': 1, 'p1/b.png': 2, 'p2/a.png': 3, 'p2/c.png': 4}
    assert predicted(patients, folder/'p2', '--overwrite') == 0
    assert counted_in(folder) == {'p1/a.png': 1, 'p1/b.png': 2, 'a.png': 3, 'c.png': 4}


def test_rows_of_other_columns_are_not_lost(patients, capsys):
    folder = patients[0]
    assert predicted(patients, folder/'p1') == 0
    before = (folder/'out'/'counts.csv').read_bytes()
    assert predicted(patients, folder/'p2'/'c.png', '--overwrite', '--spacing', '2') == 2
    assert '2 rows of other images' in capsys.readouterr().err
    assert (folder/'out'/'counts.csv').read_bytes() == before
    assert predicted(patients, folder/'p1', '--overwrite', '--spacing', '2') == 0


def test_what_is_older_than_a_mask_is_named(patients, capsys):
    folder, model = patients
    args = [str(model), str(folder/'p1'/'a.png'), '--out', str(folder/'out')]
    assert segbook_predict([*args, '--geojson', '--probabilities']) == 0
    assert 'older' not in capsys.readouterr().err
    assert segbook_predict([*args, '--overwrite']) == 0
    said = capsys.readouterr().err
    assert said.count('\n') == 1 and 'and not written anew, so older than the masks' in said
    assert 'a_probabilities.npy, a_instances.png, a_objects.csv, a_objects.geojson and 1' in said
    assert segbook_predict([*args, '--overwrite', '--geojson', '--probabilities']) == 0
    assert 'older' not in capsys.readouterr().err
