"""What was asked for is used, or it is said that it is not, in plans, learners and predictions"""
import contextlib, csv, io, json, shlex

import numpy as np
import pytest
from PIL import Image

from segbook.cli import segbook_plan
from segbook.cli.arguments import train_parser
from segbook.drawing import make_cells
from segbook.errors import SegbookError
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
    assert reasons(cells, **dict.fromkeys(names)) == reasons(cells)


@pytest.mark.parametrize('given, wanted', [(dict(pretrained='false'), 'True or False'),
    (dict(weights='no'), 'True or False'), (dict(weights=1), 'True or False'),
    (dict(lr=True), 'a number above 0'), (dict(lr='1e-3'), 'a number above 0'),
    (dict(arch=5), 'a name'), (dict(encoder=('resnet18',)), 'a name'),
    (dict(augment=[]), 'one of none, mild')])
def test_a_choice_of_another_type(given, wanted, cells):
    with pytest.raises(SegbookError, match=f'{[*given][0]}=.*expected {wanted}'):
        plan_training(cells, measure=False, **given)
