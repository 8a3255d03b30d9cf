"""Folds: groups that stay whole, images that validate once, leaks that are named, runs that are
killed and resumed, and ensembles against means that are computed by hand."""
import json, os, shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from fault_runs import Runs
from hypothesis import given, settings, strategies as st

from segbook.data.folds import deal_groups, divided_pairs, fold_splits, image_groups, told_pairs
from segbook.errors import SegbookError

needs_fork = pytest.mark.skipif(not hasattr(os, 'fork'), reason='this system has no fork')
REAL = Path(os.environ.get('SEGBOOK_REAL_DATA',
    Path(__file__).resolve().parents[2]/'shared'/'data'))


# -- which image goes where

groups = st.lists(st.sampled_from('abcdefghij'), min_size=2, max_size=60)

@settings(max_examples=200, deadline=None)
@given(groups, st.integers(2, 10), st.integers(0, 2**32 - 1))
def test_groups_stay_whole_and_folds_are_balanced(names, n, seed):
    if len({*names}) < n: return
    fold = deal_groups(names, n, seed)
    assert len(fold) == len(names)  # each image in one fold
    for g in {*names}: assert len({f for f, o in zip(fold, names) if o == g}) == 1
    size = Counter(fold)
    assert {*size} == {*range(n)}  # none is empty
    assert max(size.values()) - min(size.values()) <= max(Counter(names).values())
    assert fold == deal_groups(names, n, seed)

@settings(max_examples=100, deadline=None)
@given(groups, st.integers(2, 6), st.integers(0, 99))
def test_sizes_are_those_of_scikit_learn(names, n, seed):
    from sklearn.model_selection import GroupKFold
    if len({*names}) < n: return
    theirs = [len(v) for _, v in GroupKFold(n).split(names, groups=names)]
    assert sorted(Counter(deal_groups(names, n, seed)).values()) == sorted(theirs)

@pytest.fixture(scope='module')
def films(tmp_path_factory):
    from segbook.data import make_films
    return make_films(tmp_path_factory.mktemp('films')/'films', n=6, frames=4, size=(48, 64))

def test_the_seed_deals_another_way():
    names = [str(k) for k in range(30)]
    assert len({tuple(deal_groups(names, 3, s)) for s in range(20)}) > 15

def test_each_image_validates_once(films):
    parts = fold_splits(films, 4)
    every = sorted(f.name for f in parts[0].images)
    assert sorted(o for p in parts for o in p.valid) == every and len(every) == 24

def test_what_is_held_out_is_in_no_fold(films, tmp_path):
    d = shutil.copytree(films, tmp_path/'d')
    held = sorted(f.name for f in (d/'images').iterdir())[:4]
    (d/'valid.txt').write_text('\n'.join(held))
    for p in fold_splits(d, 3):
        names = {f.name for f in p.images}
        assert not names & {*held} and len(names) == len(p.labels) == 20 and p.held_out == held
        assert all(a.stem in b.stem for a, b in zip(p.images, p.labels))
    assert {o for p in fold_splits(d, 3, hold_out=False) for o in p.valid} > {*held}

@pytest.mark.parametrize('seed', range(8))
def test_large_groups_are_dealt_first(seed):
    groups = list('aaaa') + list('bcde')
    fold = deal_groups(groups, 2, seed)
    assert sorted(fold.count(k) for k in (0, 1)) == [4, 4]

def test_loaders_of_a_fold(films):
    from segbook.data import seg_dataloaders
    part = fold_splits(films, 3, '^[^_]+')[1]
    dls = seg_dataloaders(part, bs=2)
    assert {Path(o).name for o in dls.valid_ds.items} == part.valid
    assert {Path(o).name for o in dls.train_ds.items} == {f.name for f in part.images} - part.valid

@pytest.mark.parametrize('n, pattern, said', [(1, None, 'at least 2'), (True, None, 'at least 2'),
        (25, None, '25 folds need at least 25 groups, as none is divided, and there are 24 images'),
        (7, '^[^_]+', 'there are 6 groups'), (2, 'film', "in 24 names of 24: street00_00.png"),
        (2, 'street0[0-3]', 'in 8 names of 24: street04_00.png'), (2, '(', 'no regular expression'),
        (2, '^s', 'there is 1 group')])
def test_refused_with_a_cure(films, n, pattern, said):
    with pytest.raises(SegbookError) as e: fold_splits(films, n, pattern)
    assert said in str(e.value) and ('Cure' in str(e.value) or 'Expected' in str(e.value)
        or 'expected' in str(e.value)), str(e.value)

def test_a_group_on_both_sides_is_said(films, tmp_path, capsys):
    d = shutil.copytree(films, tmp_path/'d')
    (d/'valid.txt').write_text('street00_00.png\nstreet00_01.png\n')
    fold_splits(d, 3, '^[^_]+')
    assert '1 group of d stand in valid.txt and in the folds: street00' in capsys.readouterr().out

def test_brackets_name_the_group():
    names = ['a_p1_x.png', 'b_p1_y.png', 'c_p22_x.png']
    assert image_groups(names, r'_p(\d+)_') == ['1', '1', '22']


# -- leaks

def test_frames_in_two_folds_are_found_and_named(films):
    loose = fold_splits(films, 3)
    pairs = divided_pairs(loose)
    where = {o: k for k, p in enumerate(loose) for o in p.valid}
    assert pairs and all(where[a] != where[b] and a[:8] == b[:8] for a, b in pairs)
    assert "'^[^_]+', which makes 6 groups here" in told_pairs(loose, pairs)
    whole = fold_splits(films, 3, '^[^_]+')
    assert divided_pairs(whole) == [] and told_pairs(whole, []) == ''

def test_the_same_picture_held_out_and_in_a_fold(films, tmp_path):
    d = shutil.copytree(films, tmp_path/'d')
    (d/'valid.txt').write_text('street00_00.png\n')
    shutil.copy(d/'images'/'street00_00.png', d/'images'/'street05_03.png')
    assert ('street00_00.png', 'street05_03.png') in divided_pairs(fold_splits(d, 3))


# -- ensembles

def facts(**kw):
    return dict(codes=['a', 'b', 'Void'], ignore_index=2, in_channels=1, n_classes=3, mean=[.5],
        std=[.25], size=None, value_range=None, arch='x', encoder='y') | kw

def member(seed, **kw):
    import torch
    torch.manual_seed(seed)
    f = facts(**kw)
    return SimpleNamespace(segmenter=f, model=torch.nn.Conv2d(1, f['n_classes'], 3, padding=1))

def probabilities(m, x):
    "By hand: normalise, resize, network, softmax without Void, or sigmoid."
    import torch
    f = m.segmenter
    z = (x[None] - f['mean'][0])/f['std'][0]
    if f['size']: z = torch.nn.functional.interpolate(z, f['size'], mode='bilinear', antialias=True)
    z = m.model(z)
    if f['size']: z = torch.nn.functional.interpolate(z, x.shape[-2:], mode='bilinear')
    if f['n_classes'] == 1: return z[0].sigmoid()
    return z[0, :2].softmax(0)

@pytest.mark.parametrize('each', [[{}, {}, {}], [{}, dict(mean=[.3], std=[.5])],
        [dict(n_classes=1), dict(n_classes=1, mean=[.4])], [{}, dict(size=[9, 11])]])
def test_ensemble_is_the_mean_by_hand(each):
    import torch
    from segbook.ensembles import Ensemble
    from segbook.inference import predict_image, predict_tta
    ms = [member(k, **o) for k, o in enumerate(each)]
    x, e = torch.rand(1, 20, 24, generator=torch.Generator().manual_seed(0)), Ensemble(ms)
    with torch.no_grad(): want = sum(probabilities(m, x) for m in ms)/len(ms)
    got = predict_tta(e, x, flips=None)
    assert torch.allclose(got[:len(want)], want, atol=2e-6)
    ids = (want[0] > .5).long() if len(want) == 1 else want.argmax(0)
    assert (predict_image(e, x) == ids).float().mean() > .998 and (e.predict(x) == predict_image(e,
        x)).all()

@pytest.mark.parametrize('key, value, said', [('codes', ['a', 'c', 'Void'], 'classes differ'),
        ('in_channels', 3, 'channels differ, 1 and 3'), ('ignore_index', None, 'id of Void'),
        ('value_range', [0, 9], 'range of values')])
def test_members_of_other_kinds_are_refused(key, value, said):
    from segbook.ensembles import Ensemble
    with pytest.raises(SegbookError, match='one.*two.*cannot answer as one') as e:
        Ensemble([member(0), member(1, **{key: value})], ['one', 'two'])
    assert said in str(e.value)

def test_an_ensemble_tells_of_itself_what_holds_for_all(capsys):
    from segbook.ensembles import Ensemble
    alike = Ensemble([member(0, threshold=.3, mean_iou=.9), member(1, threshold=.3)])
    assert alike.segmenter['threshold'] == .3 and 'mean_iou' not in alike.segmenter
    assert capsys.readouterr().out == ''
    mixed = Ensemble([member(0, threshold=.3), member(1)])
    assert mixed.segmenter.get('threshold') is None
    assert 'different thresholds (0.3, None' in capsys.readouterr().out.replace(' and', ',')


# -- the command

FAST = ['--arch', 'four_layers', '--encoder', 'resnet18', '--pretrained', 'false', '--bs', '2',
    '--epochs', '2', '--workers', '0', '--size', 'full', '--crops', 'none', '--folds', '3']
STOP = '''
import os, signal
from segbook.cli.terminal import EpochLines
real, seen = EpochLines.epoch, []
def epoch(self, scores):
    real(self, scores)
    seen.append(1)
    if len(seen) == {n}: os.kill(os.getpid(), signal.{how})
EpochLines.epoch = epoch
'''

@pytest.fixture(scope='module')
def box(tmp_path_factory): return tmp_path_factory.mktemp('folds')

@pytest.fixture(scope='module')
def data(box):
    from segbook.data import make_scenes
    d = make_scenes(box/'scenes', n=8, size=(32, 32), seed=3)
    (d/'valid.txt').write_text('\n'.join(sorted(f.name for f in (d/'images').iterdir())[:2]))
    return d

@pytest.fixture(scope='module')
def runs(box):
    r = Runs(box)
    yield r
    r.close()

@pytest.fixture(scope='module')
def whole(runs, data, box):
    ended = runs('--data', data, '--out', box/'whole', *FAST)
    assert ended.rc == 0 and 'Traceback' not in ended.said, ended.said
    return box/'whole', ended

def tree(path): return {str(f.relative_to(path)): f.read_bytes() for f in sorted(path.rglob('*'))
    if f.is_file()}

@needs_fork
def test_a_run_of_folds(whole, data):
    out, ended = whole
    run, table = [json.loads((out/o).read_text()) for o in ('run.json', 'folds.json')]
    assert run['status'] == 'finished' and len(run['held_out']) == 2
    valid = [o for f in run['folds'] for o in f['valid']]
    assert sorted(valid + run['held_out']) == sorted(f.name for f in (data/'images').iterdir())
    each = [json.loads((out/f'fold_{k}'/'run.json').read_text())['mean_iou'] for k in (1, 2, 3)]
    got = table['scores']['mean IoU']
    assert np.allclose([got[f'fold_{k}'] for k in (1, 2, 3)], each, atol=1e-6)
    assert np.isclose(got['mean'], sum(each)/3, atol=1e-6)
    spread = (sum((o - sum(each)/3)**2 for o in each)/2)**.5
    assert np.isclose(got['spread'], spread, atol=1e-6)
    for line in ('3 folds of 6 images, 2, 2, 2 to validate with', 'fold 3 of 3',
            'with the 2 images that no fold has seen', '2 images of valid.txt stay out'):
        assert line in ended.out, line

@needs_fork
@pytest.mark.parametrize('how, n', [('SIGKILL', 3), ('SIGTERM', 3), ('SIGTERM', 1), ('SIGKILL', 6)])
def test_killed_in_a_fold_and_resumed(how, n, runs, data, whole, tmp_path):
    "Finished folds are not trained again, and the end is that of the run nothing happened to."
    out = tmp_path/'run'
    ended = runs('--data', data, '--out', out, *FAST, before=STOP.format(n=n, how=how))
    assert ended.rc == (-9 if how == 'SIGKILL' else 143), ended.said
    if how == 'SIGTERM':
        assert f'{(n - 1)//2} of 3 folds are finished' in ended.err, ended.err
        assert f'segbook_train --resume {out}\n' in ended.err + '\n', ended.err
    again = runs('--resume', out)
    assert again.rc == 0 and 'Traceback' not in again.said, again.said
    for k in range(1, (n - 1)//2 + 1): assert f'fold {k} is finished' in again.out
    a, b = tree(out), tree(whole[0])
    free = {'run.json', 'results.png', 'MODEL_CARD.md'}  # the card tells of the last training
    assert sorted(a) == sorted(b)
    assert [k for k in a if Path(k).name not in free and a[k] != b[k]] == []
    assert runs('--resume', out).rc == 0  # a finished run says so

@needs_fork
def test_an_ensemble_of_an_unfinished_run_has_to_be_asked_for(runs, data, tmp_path):
    from segbook.ensembles import member_folders
    out = tmp_path/'run'
    assert runs('--data', data, '--out', out, *FAST,
        before=STOP.format(n=3, how='SIGTERM')).rc == 143
    with pytest.raises(SegbookError) as e: member_folders(out)
    assert '2 folds of 3' in str(e.value) and 'fold_3 (not begun)' in str(e.value)
    assert f'segbook_train --resume {out}' in str(e.value) and '--partial' in str(e.value)
    assert member_folders(out, partial=True) == [out/'fold_1']
    refused = runs('--resume', out/'fold_2')
    assert refused.rc == 2 and f'segbook_train --resume {out}' in refused.err
    other = runs('--resume', out, '--folds', '4')
    assert other.rc == 2 and '--folds was 3, now 4' in other.err

@needs_fork
@pytest.mark.parametrize('more, said', [(['--group-by', 'x'], 'finds no group'),
        (['--folds', '1'], 'found'), (['--folds', '9'], '9 folds need at least 9 groups'),
        (['--bs', '5'], 'fold 1 of 3 cannot be trained')])
def test_refused_before_anything_is_written(more, said, runs, data, tmp_path):
    ended = runs('--data', data, '--out', tmp_path/'run', *FAST, *more)
    assert ended.rc == 2 and said in ended.err, ended.said
    assert 'Traceback' not in ended.said and not (tmp_path/'run').exists()

@needs_fork
def test_overwrite_replaces_a_run_of_folds_whole(whole, runs, data, tmp_path):
    out = shutil.copytree(whole[0], tmp_path/'run')
    (out/'mine.txt').write_text('stays')
    plain = FAST[:FAST.index('--folds')]
    ended = runs('--data', data, '--out', out, *plain, '--overwrite')
    assert ended.rc == 0, ended.said
    assert not list(out.glob('fold*')) and (out/'mine.txt').exists() and (out/'model').is_dir()


# -- real images

@pytest.mark.parametrize('name', ['camvid_tiny', 'nuclei', 'retina', 'membranes'])
def test_no_false_alarm_between_films_patients_and_cells(name):
    "Of camvid_tiny pairs of two films count; of the others each image is of its own."
    from segbook.masks.likeness import near_pairs
    from segbook.masks.seen import see_image
    if not (REAL/name).is_dir(): pytest.skip(f'no real images in {REAL/name}')
    files = sorted((REAL/name/'images').iterdir())
    label = [f.name.split('_')[0] if 'camvid' in name else f.name for f in files]
    assert near_pairs([see_image(f).sketch for f in files], label) == []

def test_frames_a_third_of_a_second_apart_are_found():
    from segbook.masks.likeness import near_pairs
    from segbook.masks.seen import see_image
    if not (REAL/'camvid_tiny').is_dir(): pytest.skip('no real images')
    files = sorted((REAL/'camvid_tiny'/'images').iterdir())
    found = {*near_pairs([see_image(f).sketch for f in files])}
    film = [k for k, f in enumerate(files) if '0016E5_07959' <= f.stem]
    assert len(film) == 20 and sum((a, a + 1) in found for a in film[:-1]) >= 10
