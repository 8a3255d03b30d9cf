"""Weights from an installed package: the same network as their authors', whole files only, no
network needed."""
import importlib.util
import shutil
import socket
import sys

import numpy as np
import pytest
import timm
import torch
import data_folders
from segbook.data import seg_dataloaders
from segbook.encoders import encoders, timm_encoder
from segbook.errors import SegbookError
from segbook.learner import seg_learner
from segbook.weights import PACKAGED_WEIGHTS, names_in_timm, packaged_file, packaged_state

NAMES = list(PACKAGED_WEIGHTS)
# pictures that scikit-image brings, and what ImageNet calls their subject
PICTURES = dict(chelsea=285, coffee=967, camera=872)  # Egyptian cat, espresso, tripod


def photograph(name, size=224):
    "A picture of scikit-image's as [1,3,size,size], normalised for these networks"
    import skimage.data
    import skimage.transform
    x = getattr(skimage.data, name)()
    if x.ndim == 2: x = np.stack([x]*3, -1)
    side = min(x.shape[:2])
    top, left = ((o - side)//2 for o in x.shape[:2])
    x = skimage.transform.resize(x[top:top + side, left:left + side], (size, size),
        anti_aliasing=True)
    return torch.from_numpy((x - .5)/.5).float().permute(2, 0, 1)[None]


def classifier(name):
    "timm's whole network with the packaged weights"
    net = timm.create_model(name)
    net.load_state_dict(packaged_state(name, net.state_dict()))
    return net.eval()


@pytest.mark.parametrize('name', NAMES)
def test_logits_are_those_of_the_authors_network(name):
    from efficientnet_lite_pytorch import EfficientNet
    theirs = EfficientNet.from_name(name.removeprefix('tf_').replace('_lite', '-lite'))
    theirs.load_state_dict(torch.load(packaged_file(name), weights_only=True))
    ours = classifier(name)
    for picture in PICTURES:
        # theirs pads for one size, that of its training
        x = photograph(picture, timm.get_pretrained_cfg(name).input_size[-1])
        with torch.no_grad(): a, b = ours(x), theirs.eval()(x)
        assert b.std() > .5
        assert (a - b).abs().max() < 1e-4


@pytest.mark.parametrize('name', NAMES)
def test_subjects_of_photographs_are_recognised(name):
    net = classifier(name)
    with torch.no_grad(): found = {o: int(net(photograph(o)).argmax()) for o in PICTURES}
    assert found == PICTURES


@pytest.mark.parametrize('name', NAMES)
def test_names_are_translated_one_to_one(name):
    state = torch.load(packaged_file(name), weights_only=True)
    with torch.device('meta'): want = timm.create_model(name).state_dict()
    table = names_in_timm(state, want)
    assert sorted(table.values()) == sorted(want)
    # timm builds its network in the same order: another way to the same table
    assert list(table.values()) == list(want)
    assert all(state[a].shape == want[b].shape for a, b in table.items())


def a_changed_package(tmp_path, monkeypatch, change):
    "A copy of a package on the path before the real one, its weights file changed"
    row = PACKAGED_WEIGHTS[NAMES[0]]
    name = row.package.replace('-', '_')
    copy = tmp_path/'site'/name
    shutil.copytree(importlib.util.find_spec(name).submodule_search_locations[0], copy)
    change(copy/row.file)
    monkeypatch.syspath_prepend(str(tmp_path/'site'))
    sys.modules.pop(name, None)
    return copy/row.file


def one_bit(file):
    b = bytearray(file.read_bytes())
    b[len(b)//2] ^= 1
    file.write_bytes(b)


@pytest.mark.parametrize('change, says', [(one_bit, 'nothing was loaded'),
    (lambda f: f.write_bytes(b''), 'nothing was loaded'),
    (lambda f: f.unlink(), 'has no file'),
    (lambda f: f.write_bytes(f.read_bytes()[:-9]), 'nothing was loaded')])
def test_a_changed_package_is_refused(tmp_path, monkeypatch, change, says):
    file = a_changed_package(tmp_path, monkeypatch, change)
    with pytest.raises(SegbookError, match=says) as e: timm_encoder(NAMES[0], 3, True)
    assert file.name in str(e.value) and 'pip install' in str(e.value)


def test_a_file_put_there_by_hand_comes_first(tmp_path, monkeypatch):
    from safetensors.torch import save_file
    monkeypatch.setattr(torch.hub, '_hub_dir', str(tmp_path))
    (tmp_path/'checkpoints').mkdir()
    torch.manual_seed(0)
    own = timm.create_model(NAMES[0]).state_dict()
    save_file(own, tmp_path/'checkpoints'/f'{NAMES[0]}.in1k.safetensors')
    first = next(timm_encoder(NAMES[0], 3, True).parameters())
    assert torch.equal(first, own['conv_stem.weight'])


def test_without_the_package_the_error_names_it(tmp_path, monkeypatch):
    import segbook.encoders as rooms
    monkeypatch.setattr(torch.hub, '_hub_dir', str(tmp_path))
    monkeypatch.setenv('HF_HOME', str(tmp_path))
    monkeypatch.setattr(rooms, '_reachable', lambda *a, **k: 'no answer: nobody there')
    with pytest.raises(SegbookError, match='need no network') as e:
        timm_encoder('resnet34d', 3, True)
    assert NAMES[0] in str(e.value)
    monkeypatch.setattr(rooms, 'packaged_file', lambda name: None)
    with pytest.raises(SegbookError, match='pip install') as e: timm_encoder(NAMES[0], 3, True)
    assert 'segbook[pretrained]' in str(e.value)


@pytest.mark.parametrize('channels', [1, 3, 4])
def test_the_first_layer_is_adapted(channels):
    had = packaged_state(NAMES[0], timm.create_model(NAMES[0]).state_dict())['conv_stem.weight']
    first = next(timm_encoder(NAMES[0], channels, True).parameters())
    assert first.shape[1] == channels
    if channels == 1: assert torch.allclose(first, had.sum(1, keepdim=True), atol=1e-5)
    if channels == 3: assert torch.equal(first, had)


def test_training_with_the_real_weights_needs_no_network(tmp_path, monkeypatch):
    def refuse(*args, **kw): raise AssertionError('a network was asked for')
    monkeypatch.setattr(socket.socket, 'connect', refuse)
    dls = seg_dataloaders(data_folders.folder(tmp_path), bs=2, device='cpu')
    learn = seg_learner(dls, encoder=NAMES[0], pretrained=True)
    assert learn.segmenter['mean'] == [.5]*3 and learn.segmenter['std'] == [.5]*3
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(1, 1e-3)
    assert np.isfinite(learn.recorder.values[-1][0])


def test_the_table_of_encoders():
    t = encoders().set_index('encoder')
    assert (t.loc[NAMES, 'pretrained'] == 'here').all()
    assert (t.loc[NAMES, 'licence'] == 'Apache-2.0').all()
    # counted by hand: timm's network without its head
    net = timm.create_model('tf_efficientnet_lite0', features_only=True)
    assert t.loc['tf_efficientnet_lite0', 'parameters'] == sum(p.numel() for p in net.parameters())
    assert (t.stride == 32).all()
    assert encoders('resnet1*').encoder.str.startswith('resnet1').all()
    with pytest.raises(SegbookError, match='no encoder has a name like'): encoders('nothing*')
