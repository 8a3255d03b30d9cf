"""The plan of a training: what is measured, each rule by hand-made folders, what is refused, and
what `segbook_plan` and `segbook_train` make of it."""
import contextlib, io, json, random, time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from segbook.cli import segbook_plan, segbook_train
from segbook.cli.planning import plan_run
from segbook.errors import SegbookError
from segbook.learner import plan_training
from segbook.masks.check import check_masks
from segbook.masks.folder import SegFolder
from segbook.planning import cost, fingerprint, plan, recipes, rules

MACHINE = cost.Machine(4, 16_000_000_000)

def save(path, masks, codes, valid=(), light=None, things=None):
    "A data folder with these masks; `light` [N] brightens the upper half of the images."
    rng = np.random.default_rng(0)
    for d in ('images', 'labels', *(['instances'] if things else [])): (path/d).mkdir(parents=True)
    for i, m in enumerate(masks):
        x = rng.integers(90, 110, (*m.shape, 3)).astype(np.uint8) + 20*m[..., None].astype(np.uint8)
        if light is not None: x[:len(x)//2] += np.uint8(light[i])
        Image.fromarray(x).save(path/'images'/f'a{i}.png')
        Image.fromarray(m.astype(np.uint8)).save(path/'labels'/f'a{i}_P.png')
        if things: Image.fromarray(things[i].astype(np.uint16)).save(path/'instances'/f'a{i}.png')
    (path/'codes.txt').write_text('\n'.join(codes))
    if valid: (path/'valid.txt').write_text('\n'.join(f'a{i}.png' for i in valid))
    return path

def discs(n=10, size=(96, 96), radius=9, seed=0):
    "Masks with one disc anywhere."
    rng, (h, w) = np.random.default_rng(seed), size
    r, c = np.mgrid[:h, :w]
    return [((r - rng.uniform(radius, h - radius))**2 + (c - rng.uniform(radius, w - radius))**2
            < radius**2).astype(np.uint8) for _ in range(n)]

def facts(**changes):
    "What a folder of 100 images of 256x256 is like, but for `changes`."
    o = dict(path=Path('folder'), codes=['background', 'thing'], ignore_index=None, n_train=100,
        n_valid=20, sizes=Counter({(256, 256): 120}), channels=3, bits=8,
        pixels=np.array([900_000, 100_000]), widths=np.array([60., 12.]),
        areas=np.array([5000., 150.]), things=None, has_up=False, up_reason='it has none',
        other_folders=[], blocks=[np.ones((2, 8, 8), bool)])
    return fingerprint.Fingerprint(**{**o, **changes})

def chosen(given=None, machine=MACHINE, **changes):
    p = plan.make_plan(facts(**changes), given, machine=machine)
    return {o.name: o for o in p.choices}


def test_with_little_time_a_step_holds_fewer_pixels():
    street = dict(sizes=Counter({(360, 480): 420}), n_train=400, has_up=True)
    def size_and_batch(cores, minutes, given=None):
        p = plan.make_plan(facts(**street), given, minutes, machine=cost.Machine(cores, 16 << 30))
        return p['size'], p['bs'], p.choices[3].reason
    for cores, minutes in ((2, 40), (1, 80), (16, 6)):
        assert size_and_batch(cores, minutes)[:2] == (None, 4)
    assert size_and_batch(2, 80)[:2] == (None, 8)
    size, bs, why = size_and_batch(1, 40)
    assert 360*480/4 < np.prod(size) <= 88_000 and bs == 4 and '1 core and 40 minutes' in why
    # processes share the cores, so that each has less time for a pixel
    shared = plan.make_plan(facts(**street), None, 40, machine=cost.Machine(2, 16 << 30),
        processes=2)
    assert shared['size'] == size
    # a number of epochs sets no bound to the time, and what is small is never made smaller
    assert size_and_batch(1, 20, dict(epochs=5))[:2] == (None, 8)
    small = plan.make_plan(facts(n_train=400), None, .1, machine=cost.Machine(1, 16 << 30))
    assert small['size'] is None and small['bs'] == 4


# -- what is measured
# --------------------------------------------------------------------------------------------
def test_every_measured_number_by_loops(tmp_path):
    rng = np.random.default_rng(1)
    masks = [rng.integers(0, 3, (41, 50)) for _ in range(9)]
    folder = SegFolder(save(tmp_path/'d', masks, ['a', 'b', 'Void']))
    report = check_masks(folder.path, progress=False,
        measure=fingerprint.Measuring(folder).both)
    f = fingerprint.folder_fingerprint(report)
    area, sides = np.zeros(3), np.zeros(3)
    for m in masks:
        for r in range(41):
            for c in range(50):
                area[m[r, c]] += 1
                for a, b in ((r - 1, c), (r + 1, c), (r, c - 1), (r, c + 1)):
                    if 0 <= a < 41 and 0 <= b < 50 and m[a, b] != m[r, c]: sides[m[r, c]] += 1
    assert np.allclose(f.widths, 2*area/sides) and f.pixels.tolist() == area.tolist()
    assert f.shares[2] == 0 and np.isclose(f.shares[:2].sum(), 1) and 2 not in f.classes
    assert f.size == (41, 50) and (f.channels, f.bits) == (3, 8) and f.n_train == 7

def test_empty_windows_by_loops(tmp_path):
    masks = [np.zeros((160, 224), np.uint8) for _ in range(4)]
    masks[0][3, 3] = masks[1][159, 223] = masks[1][70, 70] = 1
    folder = SegFolder(save(tmp_path/'d', masks, ['a', 'b']))
    f = fingerprint.folder_fingerprint(check_masks(folder.path, progress=False,
            measure=fingerprint.Measuring(folder).both))
    for side in (32, 64, 96, 160):
        windows = [m[r:r + side, c:c + side] for m in masks for r in range(0, 161 - side, 32)
            for c in range(0, 225 - side, 32)]
        assert np.isclose(f.empty_share(side), np.mean([not w.any() for w in windows])), side

@pytest.mark.parametrize('reach', [1, 2, 4])
def test_crowded_things_by_loops(reach):
    rng = np.random.default_rng(reach)
    ids = rng.integers(1, 9, (24, 30))*(rng.random((24, 30)) < .04)
    found = set()
    for r, c in zip(*np.nonzero(ids)):
        near = ids[max(0, r - reach):r + reach + 1, max(0, c - reach):c + reach + 1]
        if ((near > 0) & (near != ids[r, c])).any(): found.add(ids[r, c])
    assert fingerprint.crowded_things(ids, reach) == len(found) > 0

@pytest.mark.parametrize('where, light, up', [('anywhere', 0, False), ('above', 0, True),
        ('anywhere', 60, True), ('few', 60, True)])
def test_whether_there_is_an_up(tmp_path, where, light, up):
    masks = discs(7 if where == 'few' else 12)
    if where == 'above': masks = [np.pad(m, ((0, 48), (0, 0))) for m in discs(12, (48, 96))]
    folder = SegFolder(save(tmp_path/'d', masks, ['a', 'b'], light=[light]*len(masks)))
    f = fingerprint.folder_fingerprint(check_masks(folder.path, progress=False,
            measure=fingerprint.Measuring(folder).both))
    assert f.has_up is up, f.up_reason

def test_memory_of_a_step_by_hand():
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3, padding=1), torch.nn.Sigmoid())
    weights = 4*9 + 4 # the image, and what the sigmoid gives, are kept
    assert cost.training_bytes(net, (2, 1, 10, 10)) == 4*(2*100 + 2*400 + 4*weights)

def test_measuring_leaves_everything_as_it_was(tmp_path):
    from segbook.data import seg_dataloaders
    dls = seg_dataloaders(save(tmp_path/'d', discs(8), ['a', 'b'], valid=(6, 7)), bs=2)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 1), torch.nn.BatchNorm2d(2))
    before = {k: v.clone() for k, v in net.state_dict().items()}
    states = torch.get_rng_state(), random.getstate(), dls.train.rng.getstate()
    began = time.perf_counter()
    o = cost.measured_cost(net, dls, recipes.loss_named('cross_entropy'))
    took = time.perf_counter() - began
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert torch.equal(states[0], torch.get_rng_state()) and states[1:] == (random.getstate(),
        dls.train.rng.getstate())
    assert 0 < o.train < took and 0 < o.valid < took and (o.steps, o.valid_batches) == (3, 1)

@pytest.mark.parametrize('most, seen', [(0., {2}), (1e9, {2, 6})])
def test_two_images_stand_for_a_batch_whose_steps_take_long(tmp_path, most, seen):
    from segbook.data import seg_dataloaders
    dls = seg_dataloaders(save(tmp_path/'d', discs(14), ['a', 'b'], valid=(12, 13)), bs=6,
        num_workers=0)
    class Slow(torch.nn.Conv2d):
        sizes = []
        def forward(self, x):
            self.sizes.append(len(x))
            time.sleep(.1*len(x))
            return super().forward(x)
    o = cost.measured_cost(Slow(3, 2, 1), dls, recipes.loss_named('cross_entropy'),
        most_seconds=most)
    assert {*Slow.sizes} == seen and o.train >= .6 # what six images sleep, at the least
    assert o.valid >= .2 and o.share < .5   # it sleeps, and the processor does something else

@pytest.mark.parametrize('share, said', [(.4, True), (.69, True), (.7, False), (1., False)])
def test_a_step_that_was_measured_beside_other_work_is_told(monkeypatch, share, said):
    one = cost.StepCost(2., .5, 30, 4, share)
    for threads in (1, 2):
        monkeypatch.setattr(torch, 'get_num_threads', lambda: threads)
        why = rules.epochs_choice(one, 1200).reason
        assert (f'for {share:.0%} of its time' in why) == said
        assert ('OMP_NUM_THREADS=1' in why) == (said and threads > 1)


# -- the rules
# ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize('changes, size, crops, reason', [
    ({}, None, 'none', 'few enough to be taken whole'),
    (dict(sizes=Counter({(584, 565): 20}), widths=np.array([26., 2.5])), (256, 256), 'random',
        'thing is 2.5 pixels wide'),
    (dict(sizes=Counter({(600, 800): 20}), has_up=True), (352, 480), 'none', 'whole image'),
    (dict(sizes=Counter({(600, 800): 20})), (256, 256), 'random', 'it loses no detail'),
    (dict(sizes=Counter({(600, 800): 20, (150, 700): 3})), (128, 128), 'random', '2 sizes'),
    (dict(sizes=Counter({(40, 800): 20, (100, 700): 30})), (96, 704), 'none', 'too small')])
def test_size_or_windows(changes, size, crops, reason):
    o = chosen(**changes)
    assert (o['size'].value, o['crops'].value) == (size, crops) and reason in o['size'].reason

@pytest.mark.parametrize('given', [dict(size='full'), dict(crops='none')])
def test_large_images_are_not_called_small_where_whole_ones_are_asked_for(given):
    o = chosen(given, sizes=Counter({(3000, 4000): 20}))
    assert o['size'].value is None and o['crops'].value == 'none'
    assert not any('enough' in o[k].reason for k in ('size', 'crops'))
    assert 'small enough' in chosen()['crops'].reason

def test_weights_help_the_rare_where_there_are_some():
    same = dict(codes=['a', 'b', 'c'], widths=np.ones(3))
    for pixels, told in ([900, 90, 1], True), ([300, 310, 320], False):
        o = chosen(pixels=np.array(pixels), **same)
        assert ('help the rare' in o['loss'].reason) == told
        assert ('nearly 1' in o['weights'].reason) != told

@pytest.mark.parametrize('n, told', [(49, True), (50, False)])
def test_a_small_set_is_told_of(n, told):
    p = plan.finished_plan(plan.make_plan(facts(n_train=n), machine=MACHINE))
    assert any('--folds' in o for o in p.notes) == told

def test_a_gpu_takes_larger_images():
    sizes = Counter({(600, 800): 20})
    gpu = cost.Machine(8, 16_000_000_000, 'a GPU')
    assert chosen(sizes=sizes)['size'].value and not chosen(machine=gpu, sizes=sizes)['size'].value

@pytest.mark.parametrize('blocks, pixels, kind', [(.5, [99_000, 1000], 'positive'),
        (1., [99_000, 1000], 'random'), (1., [999_900, 100], 'positive')])
def test_windows_where_something_is(blocks, pixels, kind):
    there = np.ones((2, 20, 20), bool)
    there[1, :, int(20*blocks):] = False
    o = chosen(blocks=[there], pixels=np.array(pixels), sizes=Counter({(640, 640): 100}))
    assert o['crops'].value == kind and o['crops_per_image'].value == 6

@pytest.mark.parametrize('given, n, bs', [({'bs': 16}, 3, 16), ({}, 160, 8), ({}, 150, 8),
        ({}, 149, 4), ({}, 3, 3), ({}, 1, 1)])
def test_batch(given, n, bs): assert chosen(given, n_train=n)['bs'].value == bs

def test_batch_fits_into_memory():
    full, small = chosen(), chosen(machine=cost.Machine(2, 1_000_000_000))
    assert (full['bs'].value, small['bs'].value) == (4, 2) and 'GB' in small['bs'].reason

def test_loss_of_two_and_of_several_classes():
    o = chosen()
    assert (o['loss'].value, o['weights'].value) == ('cross_entropy+dice', False)
    o = chosen(codes=['a', 'b', 'c'], pixels=np.array([900, 90, 1]), widths=np.ones(3))
    assert (o['loss'].value, o['weights'].value) == ('cross_entropy', True)
    assert 'c has 0.1 % of the pixels' in o['weights'].reason

@pytest.mark.parametrize('given, expected', [
    (dict(size=[64, 96]), dict(size=(64, 96), crops='none', crops_per_image=1)),
    (dict(size=[64, 64], crops='random'), dict(size=(64, 64), crops='random', crops_per_image=16)),
    (dict(size='full'), dict(size=None, crops='none')),
    (dict(crops='positive'), dict(size=(256, 256), crops='positive', crops_per_image=1)),
    (dict(loss='focal', weights=True), dict(loss='focal', weights=True)),
    (dict(augment='none', lr=.1), dict(augment='none', lr=.1)),
    (dict(arch='enet', pretrained=True), dict(encoder='own', pretrained=False))])
def test_what_is_given_stays_and_the_rest_follows(given, expected):
    o = chosen(given)
    assert {k: o[k].value for k in expected} == expected
    assert all(o[k].reason == 'as you asked' for k in given if k != 'pretrained')

@pytest.mark.parametrize('given, text', [(dict(loss='dise'), 'did you mean dice?'),
        (dict(augment='mildly'), 'Did you mean mild?'), (dict(arch='unett'), 'nearest: unet'),
        (dict(size='full', crops='random'), 'expected one of the two')])
def test_choices_that_do_not_exist(given, text):
    with pytest.raises(SegbookError, match=text.replace('?', r'\?')): chosen(given)


# -- folders
# ------------------------------------------------------------------------------------------------
@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return save(tmp_path_factory.mktemp('data')/'discs', discs(12, (64, 64)), ['none', 'disc'],
        valid=(9, 10, 11))

def test_arguments_of_a_plan_train(data):
    from segbook.data import seg_dataloaders
    from segbook.learner import seg_learner, train_segmenter
    p = plan_training(data, progress=False, encoder='resnet18', pretrained=False, epochs=1)
    dls = seg_dataloaders(data, **p.for_dataloaders())
    learn = seg_learner(dls, **p.for_learner(dls))
    assert len(train_segmenter(learn, **p.for_training())) == 1
    assert type(learn.loss_func).__name__ == 'CombinedLoss' and dls.bs == 4

def test_a_plan_is_a_table_of_all_choices(data):
    p = plan_training(data, progress=False, measure=False)
    for text in (str(p), p._repr_markdown_()):
        for o in p.choices: assert o.said.split()[0] in text and o.flag in text
    # of the range of values a plan speaks where it has something to say
    assert [o.name for o in p.choices] == [o for o in plan.PLANNED if o != 'value_range']
    assert p['bs'] == 4
    assert max(map(len, str(p).splitlines())) <= 110
    with pytest.raises(KeyError): p['nothing']

@pytest.mark.parametrize('minutes', [0, -3, float('nan'), float('inf'), 'long', True, None])
def test_minutes_that_are_none(data, minutes):
    with pytest.raises(SegbookError, match='expected a number above 0'):
        plan_training(data, minutes, progress=False)

def test_folders_that_cannot_be_trained_on(tmp_path):
    (tmp_path/'empty').mkdir()
    with pytest.raises(SegbookError, match='has no folder .images.'): plan_training(
        tmp_path/'empty', progress=False)
    one = save(tmp_path/'one', discs(1), ['a', 'b'])
    with pytest.raises(SegbookError, match='only image with a mask'):
        plan_training(one, progress=False)
    bad = save(tmp_path/'bad', [m*255 for m in discs(9)], ['a', 'b'])
    with pytest.raises(SegbookError, match='cannot be trained on'): plan_training(bad,
        progress=False)
    cut = save(tmp_path/'cut', discs(9), ['a', 'b'])
    file = cut/'images'/'a3.png'
    file.write_bytes(file.read_bytes()[:400])
    with pytest.raises(SegbookError, match='a3.png'): plan_training(cut, progress=False)
    with pytest.raises(SegbookError, match="did you mean 'epochs'"): plan_training(cut, epoch=3)

def test_one_class(tmp_path):
    blank = save(tmp_path/'blank', [np.zeros((64, 64), np.uint8)]*9, ['a', 'Void'])
    with pytest.raises(SegbookError, match='1 class is named beside Void'):
        plan_training(blank, progress=False, measure=False)
    same = save(tmp_path/'same', [np.zeros((64, 64), np.uint8)]*9, ['a', 'b'])
    with pytest.raises(SegbookError, match='cannot be trained on'):
        plan_training(same, progress=False, measure=False)
    o = chosen(codes=['a'], pixels=np.array([9]), widths=np.ones(1), areas=np.ones(1),
        blocks=[np.ones((1, 8, 8), bool)], sizes=Counter({(600, 600): 30}))
    assert (o['loss'].value, o['crops'].value) == ('cross_entropy', 'random')


# -- commands
# -----------------------------------------------------------------------------------------------
def said_by(command, *args):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = command([str(o) for o in args])
    return code, out.getvalue(), err.getvalue()

def test_segbook_plan(data, tmp_path):
    before = sorted(data.rglob('*'))
    code, out, err = said_by(segbook_plan, data, '--measure', 'false', '--bs', 2)
    assert code == 0 and 'batches of 2' in out and 'as you asked' in out and '--augment' in out
    assert 'Plan for discs: 12 images of 64x64' in out and sorted(data.rglob('*')) == before
    out = said_by(segbook_plan, data, '--measure', 'false', '--minutes', 20)[1]
    assert '9 of them to train on and 3 to judge on (valid.txt)' in ' '.join(out.split())
    assert out.rstrip().endswith('--minutes 20')

@pytest.mark.parametrize('size, says', [((16, 16), '2.0 pixels wide, and about 0.5'),
        ((64, 64), ''), (None, '')])
def test_a_run_says_what_its_size_costs(tmp_path, capsys, size, says):
    lines = [np.zeros((64, 64), np.uint8) for _ in range(10)]
    for i, m in enumerate(lines): m[:, 5*i + 3:5*i + 5] = 1 # off the border
    folder = SegFolder(save(tmp_path/'d', lines, ['ground', 'line']))
    report = check_masks(folder.path, progress=False, measure=fingerprint.Measuring(folder).both)
    a = SimpleNamespace(minutes=None, folds=None)
    plan_run(a, {} if size is None else dict(size=size), report)
    notes = [o for o in capsys.readouterr().out.split('\n') if o.startswith('note: ')]
    assert len(notes) == bool(says) and says in ''.join(notes)
    out = said_by(segbook_plan, folder.path, '--measure', 'false')[1]
    assert '8 of them to train on and 2 to judge on (drawn at random)' in ' '.join(out.split())

def test_folds_share_the_time(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(plan, 'make_plan', lambda facts, given, minutes, **_: asked.append(minutes)
        or 1/0)
    monkeypatch.setattr(fingerprint, 'folder_fingerprint', lambda report: None)
    for folds in (None, 4):
        with pytest.raises(ZeroDivisionError):
            plan_run(SimpleNamespace(minutes=20., folds=folds), {}, None)
    assert asked == [20, 5]
    for args, text in ((('--minutes', 0), 'expected minutes above 0'), (('--loss', 'dise'),
            'did you mean dice?'), (('--minutes', 3, '--epochs', 2), 'one of the two')):
        code, out, err = said_by(segbook_plan, data, *args)
        assert code == 2 and text in err and not out
        code, out, err = said_by(segbook_train, '--data', data, '--out', tmp_path/'no', *args)
        assert code == 2 and text in err and not out and not (tmp_path/'no').exists()
    code, out, err = said_by(segbook_plan, tmp_path/'none')
    assert code == 2 and 'is not there; expected a folder with images/' in err

def test_segbook_train_takes_the_plan_and_resumes_it(data, tmp_path):
    args = '--data', data, '--encoder', 'resnet18', '--pretrained', 'false', '--minutes', '.01'
    code, out, err = said_by(segbook_train, *args, '--out', tmp_path/'run')
    assert code == 0, err
    run = json.loads((tmp_path/'run'/'run.json').read_text())
    a, choices = run['arguments'], {o['name']: o for o in run['plan']}
    assert set(choices) == {*plan.PLANNED} - {'value_range'}
    assert choices['encoder']['reason'] == 'as you asked'
    assert all(a[k] == o['value'] for k, o in choices.items()) and a['minutes'] == .01
    assert (a['loss'], a['augment'], a['crops'], a['bs']) == ('cross_entropy+dice', 'dihedral',
        'none', 4)
    assert run['epochs_done'] == a['epochs'] >= 1 and f'{a["epochs"]} epoch' in out
    for o in choices.values(): assert f'({o["flag"]})' in out
    code, out, err = said_by(segbook_train, '--resume', tmp_path/'run', '--minutes', '3')
    assert code == 2 and '--minutes was 0.01, now 3' in err

def test_a_run_of_an_older_segbook_goes_on_as_it_began(data, tmp_path):
    from segbook.cli.run_folder import old_run
    from segbook.cli.arguments import TRAIN_OPTIONS
    new = 'minutes', 'crops', 'crops_per_image', 'loss', 'augment'
    a = {**{k: v for k, v in TRAIN_OPTIONS.items() if k not in new},
        'encoder': 'resnet18', 'epochs': 3, 'bs': 4}
    record = dict(arguments=a, status='interrupted', versions=dict(segbook='0.0.1'), duration=1.,
        epochs_done=1, epoch_seconds=[1.], seed=42, device='cpu', cores=2)
    (tmp_path/'run.json').write_text(json.dumps(record))
    a = old_run(dict(resume=str(tmp_path)))[1]['arguments']
    assert (a['crops'], a['loss'], a['augment'], a['crops_per_image']) == ('none',
        'cross_entropy', 'mild', 1) and a['minutes'] is None
