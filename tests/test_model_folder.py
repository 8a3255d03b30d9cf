"""A saved model is read back as it was saved, or refused in words: damaged weights, facts that
cannot be meant, a folder that holds other people's files, a process that was killed."""
import json, math, os, shutil, sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from properties import examples
from safetensors.torch import load_file, save_file
from torch import nn

from segbook import export
from segbook.errors import SegbookError
from segbook.export import load_segmenter, save_segmenter
from segbook.inference import predict_image

FACTS = dict(arch='dynamic_unet', encoder='resnet18', in_channels=3, n_classes=3, model_kwargs={},
    codes=['sky', 'road', 'Void'], ignore_index=2, mean=[.5, .4, .3], std=[.2, .3, .4], size=None)


class TinyNet(nn.Module):
    "Logits of two layers: what is tested here is the folder, not the network."
    def __init__(self, n_classes=3, in_channels=3):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(in_channels, 4, 3, padding=1), nn.BatchNorm2d(4),
            nn.ReLU(), nn.Conv2d(4, n_classes, 1))
    def forward(self, x): return self.layers(x)


class Learnt:
    "As much of a Learner as saving looks at."
    def __init__(self, **facts):
        torch.manual_seed(3)
        self.segmenter = {**FACTS, **facts}
        self.model = TinyNet(self.segmenter['n_classes'], self.segmenter['in_channels'])

def tiny_model(arch, n_classes, encoder, in_channels, pretrained=False, **kwargs):
    return TinyNet(n_classes, in_channels)

@pytest.fixture(autouse=True)
def no_network(monkeypatch): monkeypatch.setattr(export, 'seg_model', tiny_model)

@pytest.fixture
def folder(tmp_path): return save_segmenter(Learnt(), tmp_path/'model', mean_iou=.5)

IMAGE = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)

def message(f, *args, **kw):
    with pytest.raises(SegbookError) as e: f(*args, **kw)
    return str(e.value)

def edit(folder, **news):
    file = folder/'segmenter.json'
    file.write_text(json.dumps({**json.loads(file.read_text()), **news}))

def names(path): return sorted(str(o.relative_to(path)) for o in path.rglob('*'))


# ---- saved and read back

def test_saved_and_loaded(folder):
    learn, seg = Learnt(), load_segmenter(folder)
    assert names(folder) == ['model.safetensors', 'segmenter.json']
    assert torch.equal(seg.predict(IMAGE), predict_image(learn, IMAGE))
    import hashlib
    digest = hashlib.sha256((folder/'model.safetensors').read_bytes()).hexdigest()
    assert seg.segmenter['weights_sha256'] == digest and seg.segmenter['mean_iou'] == .5
    state = load_file(folder/'model.safetensors')
    assert all(torch.equal(v, state[k]) for k, v in learn.model.state_dict().items())

def test_a_score_that_is_no_number_is_plain_json(tmp_path):
    folder = save_segmenter(Learnt(), tmp_path/'m', mean_iou=math.nan)
    def refuse(o): raise AssertionError(o)
    assert json.loads((folder/'segmenter.json').read_text(),
        parse_constant=refuse)['mean_iou'] is None

@pytest.mark.parametrize('facts,text', [
    (dict(std=[0., .2, .2]), 'std is [0.0, 0.2, 0.2]'), (dict(codes=['sky']), 'codes are 1 names'),
    (dict(model_kwargs=dict(act_cls=nn.ReLU)), 'model_kwargs='),
    (dict(model_kwargs=dict(colour=1)), "the option 'colour' is unknown"),
    (dict(mean=[math.nan]*3), 'mean is')])
def test_what_could_not_be_loaded_is_not_saved(tmp_path, facts, text):
    assert text in message(save_segmenter, Learnt(**facts), tmp_path/'model')
    assert names(tmp_path) == []

@pytest.mark.parametrize('value', [math.nan, math.inf])
def test_weights_that_are_not_finite_are_not_saved(tmp_path, value):
    learn = Learnt()
    with torch.no_grad(): learn.model.layers[0].bias[1] = value
    said = message(save_segmenter, learn, tmp_path/'model')
    assert 'layers.0.bias' in said and 'smaller learning rate' in said and names(tmp_path) == []

def test_extra_facts_that_json_cannot_hold(tmp_path):
    assert 'score=' in message(save_segmenter, Learnt(), tmp_path/'model', score=torch.ones(2))
    assert names(tmp_path) == []


# ---- damaged weights

def test_one_turned_bit_is_seen(folder):
    "At eighty places, header and numbers alike."
    file = folder/'model.safetensors'
    sound = file.read_bytes()
    for place in np.linspace(0, len(sound) - 1, 80).astype(int):
        b = bytearray(sound)
        b[place] ^= 1 << int(place) % 8
        file.write_bytes(b)
        said = message(load_segmenter, folder)
        assert 'model.safetensors' in said and 'Cure: ' in said, said
    file.write_bytes(sound)
    load_segmenter(folder)

@pytest.mark.parametrize('harm', [lambda b: b[:-1], lambda b: b + b'\0', lambda b: b'', lambda b: b
    + b, lambda b: b[:len(b)//2] + bytes(len(b) - len(b)//2), lambda b: b[:9], lambda b: bytes(8)])
def test_shortened_lengthened_zeroed(folder, harm):
    file = folder/'model.safetensors'
    file.write_bytes(harm(file.read_bytes()))
    assert 'damaged' in message(load_segmenter, folder)

def change_int8(state): state['layers.0.weight'] = state['layers.0.weight'].to(torch.int8)
def change_nan(state): state['layers.3.bias'][0] = math.nan
def change_inf(state): state['layers.3.weight'][0] = -math.inf
def change_shape(state): state['layers.0.bias'] = torch.zeros(5)
def change_missing(state): del state['layers.0.bias']
def change_extra(state): state['layers.9.bias'] = torch.zeros(5)
def change_variance(state): state['layers.1.running_var'][2] *= -1
def change_count(state): state['layers.1.num_batches_tracked'] = torch.tensor(1.)

@pytest.mark.parametrize('harm,text', [(change_int8, 'holds torch.int8'),
    (change_nan, 'not finite'), (change_inf, 'not finite'), (change_shape, '[5], expected [4]'),
    (change_missing, 'layers.0.bias is missing'), (change_extra, 'no part of the network'),
    (change_variance, 'negative variance'), (change_count, 'expected torch.int64')])
@pytest.mark.parametrize('old', [False, True])
def test_weights_of_another_kind(folder, harm, text, old):
    "In folders of an older segbook, without a checksum, as well."
    state = load_file(folder/'model.safetensors')
    harm(state)
    save_file(state, folder/'model.safetensors')
    if old: edit_away(folder)
    said = message(load_segmenter, folder)
    assert text in said and 'Cure: restore the file' in said

def edit_away(folder):
    facts = json.loads((folder/'segmenter.json').read_text())
    del facts['weights_sha256']
    (folder/'segmenter.json').write_text(json.dumps(facts))

def test_folders_of_an_older_version_load_with_a_line(folder, capsys):
    edit_away(folder)
    assert torch.equal(load_segmenter(folder).predict(IMAGE), predict_image(Learnt(), IMAGE))
    assert 'saved by an older segbook, without a checksum' in capsys.readouterr().out
    save_segmenter(Learnt(), folder, overwrite=True)
    load_segmenter(folder)
    assert capsys.readouterr().out == ''

def test_half_weights_are_widened(folder):
    state = {k: v.half() if v.is_floating_point() else v
        for k, v in load_file(folder/'model.safetensors').items()}
    save_file(state, folder/'model.safetensors')
    edit_away(folder)
    assert next(load_segmenter(folder).model.parameters()).dtype == torch.float32

@pytest.mark.parametrize('name', ['model.safetensors', 'segmenter.json'])
@pytest.mark.parametrize('kind', ['folder', 'pipe', 'dangling'])
def test_files_that_are_none(folder, name, kind):
    file = folder/name
    file.unlink()
    if kind == 'folder': file.mkdir()
    elif kind == 'dangling': file.symlink_to(folder/'gone')
    elif hasattr(os, 'mkfifo'): os.mkfifo(file)
    else: pytest.skip('no pipes with names here')
    said = message(load_segmenter, folder)
    assert 'Cure: ' in said and str(folder) in said

@pytest.mark.parametrize('path', ['nowhere', 'note.txt', 'x'*300, 'a\0b', '', 'loop'])
def test_a_path_that_is_no_folder(tmp_path, path):
    (tmp_path/'note.txt').write_text('x')
    (tmp_path/'loop').symlink_to('loop')
    said = message(load_segmenter, tmp_path/path)
    assert 'Cure: ' in said
    if path not in ('note.txt', ''): said = message(save_segmenter, Learnt(), tmp_path/path/'m') \
        if path not in ('nowhere',) else ''
    assert names(tmp_path) == ['loop', 'note.txt']


# ---- facts that cannot be meant

ODD = dict(std=[[0, 0, 0], [.2, .2], [-.1]*3, [1e-300]*3, [math.nan]*3, .2, 'x', None, [True]*3],
    mean=[[math.inf]*3, [.5], 'abc', None, {}, [10**400]*3], codes=[[], ['a'], ['a', 'a', 'Void'],
        ['', 'b', 'c'], ['a', ' ', 'c'], [1, 2, 3], 'abc', {'a': 1}, None],
    n_classes=[0, -1, 2, 4, 3., '3', True, None, 10**20],
    in_channels=[0, 1, 65, 3.5, None, '3', 10**9], size=[[0, 4], [4], 4, 'x', [4, -4], [1.5, 2],
        [10**9, 10**9], [4, None]], ignore_index=['2', 1.5, [2], 10**20, True],
    arch=['', 3, None, ['dynamic_unet'], 'a\0b'], encoder=['', 18, None, {}],
    model_kwargs=[None, [], 'x', 3, {'blurr': True}, {'blur': 'no'}, {'blur': 1},
        {'y_range': [1, 0]}, {'y_range': 3}, {'n_classes': 3}, {'encoder': 'resnet18'}],
    format=[0, -1, '1', None, 2, 1.5, True], value_range=[[1, 1], [2, 1], 3, 'x', [0, math.nan]],
    weights_sha256=['', 3, 'x'*64, None, 'A'*64])

@pytest.mark.parametrize('name,value', [(k, v) for k, vs in ODD.items() for v in vs])
def test_odd_facts_are_refused(folder, name, value):
    edit(folder, **{name: value})
    said = message(load_segmenter, folder)
    assert 'segmenter.json' in said and name in said and 'Cure: ' in said, said

@pytest.mark.parametrize('name', [k for k in FACTS] + ['format'])
def test_missing_facts_are_refused(folder, name):
    facts = json.loads((folder/'segmenter.json').read_text())
    del facts[name]
    (folder/'segmenter.json').write_text(json.dumps(facts))
    assert f'{name} is missing' in message(load_segmenter, folder)

@pytest.mark.parametrize('text', ['', '{', '[]', 'null', '3', '"x"', '[' * 10**5, '{"format": 1}',
    '{"format": NaN}', '\0', '{' * 10**4 + '}' * 10**4])
def test_facts_that_are_no_object(folder, text):
    (folder/'segmenter.json').write_text(text)
    said = message(load_segmenter, folder)
    assert 'segmenter.json' in said and said.count('Cure: ') == 1 and 'annotation' not in said, said

@pytest.mark.parametrize('code', ['utf-8-sig', 'utf-16'])
def test_facts_as_an_editor_on_windows_saves_them(folder, code):
    text = (folder/'segmenter.json').read_text().replace('road', 'Straße').replace('\n', '\r\n')
    (folder/'segmenter.json').write_bytes(text.encode(code))
    assert load_segmenter(folder).codes[1] == 'Straße'

def test_unknown_entries_and_sound_edits_stay(folder):
    codes = ['Himmel', 'cost $a_$ b\n\ud800', 'Void']
    edit(folder, note='mine', codes=codes, value_range=[0, 4095.])
    seg = load_segmenter(folder)
    assert seg.segmenter['note'] == 'mine' and seg.codes == codes

JSON_VALUES = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda o: st.lists(o, max_size=4) | st.dictionaries(st.text(max_size=8), o, max_size=3),
    max_leaves=6)
NEAR_VALUES = (st.integers(-3, 5) | st.lists(st.floats(width=16) | st.integers(-2, 300), min_size=1,
    max_size=4) | st.lists(st.sampled_from(['sky', 'road', 'Void', '', 'ü', '$x$']), max_size=4))

@examples(150)
@given(st.dictionaries(st.sampled_from([*FACTS, 'format', 'value_range']),
    JSON_VALUES | NEAR_VALUES, min_size=1, max_size=3))
def test_any_facts_are_right_or_refused(sound_folder, news):
    """Whatever stands there: a mask of ids that have names, Void never among them, or a sentence
    with the file and the cure."""
    (sound_folder/'segmenter.json').write_text(json.dumps({**sound_facts(sound_folder), **news}))
    try: seg = load_segmenter(sound_folder)
    except SegbookError as e:
        assert 'segmenter.json' in str(e) or 'model.safetensors' in str(e), e
        assert 'Cure: ' in str(e)
        return
    x = np.zeros((4, 5, seg.segmenter['in_channels']), np.uint8)
    if max(seg.segmenter['size'] or [0]) > 64: return
    mask = seg.predict(x)
    assert mask.shape == (4, 5) and 0 <= mask.min() and mask.max() < len(seg.codes)
    assert seg.ignore_index is None or seg.ignore_index not in mask.unique().tolist()

def sound_facts(folder): return json.loads((folder/'sound.json').read_text())

@pytest.fixture(scope='module')
def sound_folder(tmp_path_factory):
    folder = save_segmenter(Learnt(), tmp_path_factory.mktemp('facts')/'model')
    shutil.copy(folder/'segmenter.json', folder/'sound.json')
    return folder


# ---- what else lies in the folder

def test_overwriting_leaves_other_files(folder):
    (folder/'notes.txt').write_text('mine')
    (folder/'figures').mkdir()
    (folder/'figures'/'a.png').write_bytes(b'x')
    (folder/'.hidden').write_text('mine')
    save_segmenter(Learnt(codes=['a', 'b', 'Void']), folder, overwrite=True)
    assert names(folder) == ['.hidden', 'figures', 'figures/a.png', 'model.safetensors',
        'notes.txt', 'segmenter.json']
    assert load_segmenter(folder).codes == ['a', 'b', 'Void']

def test_nothing_is_overwritten_unasked(folder, tmp_path):
    before = {o: (folder/o).read_bytes() for o in names(folder)}
    assert 'nothing is overwritten' in message(save_segmenter, Learnt(), folder)
    (tmp_path/'other').mkdir()
    (tmp_path/'other'/'thesis.txt').write_text('mine')
    assert 'not a saved segmenter' in message(save_segmenter, Learnt(), tmp_path/'other',
        overwrite=True)
    assert 'is a file' in message(save_segmenter, Learnt(), tmp_path/'other'/'thesis.txt',
        overwrite=True)
    assert {o: (folder/o).read_bytes() for o in names(folder)} == before

def test_a_full_disk_leaves_the_old_model(folder, tmp_path, monkeypatch):
    before = {o: (folder/o).read_bytes() for o in names(folder)}
    real = Path.write_text
    def full(self, *args, **kw):
        if 'segmenter' in self.name: raise OSError(28, 'No space left on device')
        return real(self, *args, **kw)
    monkeypatch.setattr(Path, 'write_text', full)
    for path in (folder, tmp_path/'new'):
        assert 'No space left' in message(save_segmenter, Learnt(), path, overwrite=True)
    assert {o: (folder/o).read_bytes() for o in names(folder)} == before
    assert not (tmp_path/'new').exists() and names(tmp_path) == ['model',
        *[f'model/{o}' for o in before]]


# ---- killed while it saves

SAVES = '''
import os, signal, sys
from pathlib import Path
import segbook.files as files
from test_model_folder import Learnt, save_segmenter
stop, calls = int(sys.argv[2]), 0
def dies(real):
    def f(*args, **kw):
        global calls
        calls += 1
        if calls == stop: os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kw)
    return f
for o in ('replace', 'rename', 'mkdir', 'unlink', 'open'): setattr(os, o, dies(getattr(os, o)))
for o in ('write_bytes', 'write_text'): setattr(Path, o, dies(getattr(Path, o)))
save_segmenter(Learnt(codes=['new', 'road', 'Void']), sys.argv[1], overwrite=True)
'''

@pytest.mark.parametrize('old', [False, True])
def test_killed_at_every_step(tmp_path, old):
    """Killed before each call that changes something on the disk: the folder holds the old model
    or the new one, whole, and the next run leaves nothing but the two files."""
    if not hasattr(os, 'fork'): pytest.skip('needs processes that share what is loaded')
    for stop in range(1, 40):
        here = tmp_path/str(stop)
        here.mkdir()
        if old: save_segmenter(Learnt(), here/'model')
        code = killed_at(here/'model', stop)
        found = load_segmenter(here/'model').codes[0] if (here/'model').exists() else None
        assert found in (('sky', 'new') if old else (None, 'new')), stop
        save_segmenter(Learnt(codes=['again', 'road', 'Void']), here/'model', overwrite=True)
        assert load_segmenter(here/'model').codes[0] == 'again'
        assert names(here) == ['model', 'model/model.safetensors', 'model/segmenter.json'], stop
        if code == 0: break
    assert code == 0 and stop > 5

def killed_at(folder, stop):
    "Save in a child that is killed at its `stop`-th change; its exit code."
    pid = os.fork()
    if pid == 0:
        try:
            sys.argv = ['', str(folder), str(stop)]
            exec(SAVES, {})
            os._exit(0)
        except BaseException: os._exit(3)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
