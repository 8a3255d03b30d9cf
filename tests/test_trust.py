"""The three commands, one after the other, on odd folders: an exit code of 0, 1 or 2, words and no
traceback, nothing that hangs; what the check calls ok trains, and what was trained predicts."""
import os
import shutil
import signal
import tempfile
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, strategies as st
from PIL import Image, ImageOps
from properties import examples
from test_folders import CODES, folders, make

from segbook.cli import segbook_check, segbook_predict, segbook_train
from segbook.models import MODELS

pytestmark = pytest.mark.usefixtures('one_thread')
FAST = ['--arch', 'three_layers', '--encoder', 'resnet18', '--pretrained', 'false', '--epochs', '1',
    '--workers', '0']
BAD_WORDS = 'Traceback', 'fault of segbook', 'RuntimeError', 'ValueError', 'KeyError', 'TypeError'


def three_layers(n_classes, encoder, in_channels=3, pretrained=False):
    "A network for images of any size"
    from torch import nn
    return nn.Sequential(nn.Conv2d(in_channels, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, n_classes, 1))


@pytest.fixture(autouse=True)
def small_network(monkeypatch, tmp_path):
    monkeypatch.setitem(MODELS, 'three_layers', three_layers)
    monkeypatch.chdir(tmp_path)


@contextmanager
def patience(seconds):
    "Raise after that many seconds: nothing may hang"
    if not hasattr(signal, 'SIGALRM'):
        yield
        return
    def up(*args): raise TimeoutError('it hangs')
    old = signal.signal(signal.SIGALRM, up)
    signal.alarm(seconds)
    try: yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)


def called(command, *args):
    "Exit code and words of a command"
    out = StringIO()
    with patience(600), redirect_stdout(out), redirect_stderr(out):
        rc = command([str(o) for o in args])
    said = out.getvalue()
    assert rc in (0, 1, 2), (rc, said)
    assert not any(o in said for o in BAD_WORDS), said
    assert said.strip(), f'{command.__name__} ends with {rc} and says nothing'
    return rc, said


def stands(path):
    "What lies below `path`: names, sizes and times; no file is opened"
    return {f.relative_to(path).as_posix(): (s.st_mode, s.st_size, s.st_mtime_ns)
        for f in sorted(path.rglob('*')) if (s := f.lstat())}


def shown_size(file):
    "Height and width of an image as a viewer shows it, by Pillow or NumPy alone; None: unreadable"
    try:
        if file.suffix.lower() == '.npy': return np.load(file).shape[:2]
        with Image.open(file) as im: return ImageOps.exif_transpose(im).size[::-1]
    except Exception: return None


def check_predictions(images, out, names):
    "Each mask that was written has the size of its image, and only class ids"
    masks = sorted(out.glob('*_mask.png')) if out.exists() else []
    for f in masks:
        with Image.open(f) as im: x = np.asarray(im)
        stem = f.name.removesuffix('_mask.png')
        sizes = {shown_size(o) for o in images.iterdir() if o.stem == stem or o.name == stem}
        assert not sizes or x.shape in sizes, (f.name, x.shape, sizes)
        assert x.max() < len(names)
    return len(masks)


def whole_way(path, how, sized):
    "Check, train and predict; what each said, as a word"
    data = path/'data'
    data.mkdir()
    make(data, **how)
    before = stands(data)
    rc, said = called(segbook_check, data)
    size = ['--size', '16,16'] if sized or 'image sizes' in said or 'differ in size' in said else []
    trained, words = called(segbook_train, '--data', data, '--out', path/'run', *FAST, *size)
    if rc == 0: assert trained == 0, f'check says ok, training says {words}\n{said}\n{how}'
    if trained == 0: after_training(path, data, rc)
    else: assert not (path/'run'/'model').exists()
    if rc == 1: corrected_way(path, data, size)
    assert stands(data) == before
    assert not [f for f in path.rglob('*') if '.segbook-' in f.name]
    return rc, trained


def after_training(path, data, checked):
    "What was trained predicts"
    rc, said = called(segbook_predict, path/'run', data/'images', '--out', path/'out')
    n = check_predictions(data/'images', path/'out', CODES)
    if checked == 0: assert rc == 0 and n > 0, said
    if rc: assert 'error: ' in said


def corrected_way(path, data, size):
    "A corrected copy that is called ok is one"
    rc, said = called(segbook_check, data, '--fix', path/'copy')
    if rc or not (path/'copy').exists(): return
    again, words = called(segbook_check, path/'copy')
    assert again == 0, words
    trained, words = called(segbook_train, '--data', path/'copy', '--out', path/'run2', *FAST,
        *size)
    assert trained == 0, f'the corrected copy is called ok, training says {words}\n{said}'


@examples(5)
@given(folders(), st.booleans())
def test_the_whole_way(how, sized):
    path = Path(tempfile.mkdtemp(prefix='trust_'))
    try: whole_way(path, how, sized)
    finally: shutil.rmtree(path, ignore_errors=True)


def test_a_sound_folder_goes_the_whole_way(tmp_path):
    how = dict(files=[('colour', 'ids')]*4, names='plain', mask_names='plain', split='last',
        encoding='utf-8', beside=[])
    assert whole_way(tmp_path, how, False) == (0, 0)
    assert len(os.listdir(tmp_path/'out')) == 8
