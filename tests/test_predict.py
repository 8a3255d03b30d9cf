"""The command segbook_predict and the arguments of all three, with a small network in place of a
trained one: names of every kind, images that fail, signals, kills, two calls at once."""
import os, signal, subprocess, sys, threading, time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, strategies as st
from PIL import Image
from properties import examples
from test_model_folder import Learnt, tiny_model

from segbook import export
from segbook.cli import arguments, predict as room, segbook_check, segbook_predict, segbook_train
from segbook.export import save_segmenter
from segbook.inference import predict_image


@pytest.fixture(autouse=True)
def small(monkeypatch): monkeypatch.setattr(export, 'seg_model', tiny_model)

@pytest.fixture
def model(tmp_path): return save_segmenter(Learnt(), tmp_path/'model')

def picture(file, seed=0, size=(9, 7), **kw):
    x = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(x).save(file, **kw)
    return file

@pytest.fixture
def photos(tmp_path):
    (tmp_path/'photos').mkdir()
    for i, o in enumerate('abc'): picture(tmp_path/'photos'/f'{o}.png', i)
    return tmp_path/'photos'

def predict(*args): return segbook_predict([str(o) for o in args])
def names(path): return sorted(o.name for o in path.iterdir())
def mask(file): return np.asarray(Image.open(file))


def test_masks_are_the_predictions(model, photos, tmp_path):
    assert predict(model, photos, '--out', tmp_path/'out') == 0
    assert names(tmp_path/'out') == [f'{o}_{k}.png' for o in 'abc' for k in ('mask', 'overlay')]
    for o in 'abc':
        want = predict_image(Learnt(), photos/f'{o}.png').numpy()
        assert (mask(tmp_path/'out'/f'{o}_mask.png') == want).all()

@pytest.mark.parametrize('orientation', range(1, 9))
def test_a_mask_lies_on_the_photograph_as_it_is_displayed(model, tmp_path, orientation):
    "The oracle turns the picture with PIL before it is saved without a tag."
    from PIL import ImageOps
    exif = Image.Exif()
    exif[274] = orientation
    file = picture(tmp_path/'p.png', size=(6, 9), exif=exif)
    turned = ImageOps.exif_transpose(Image.open(file))
    assert predict(model, file, '--out', tmp_path/'out') == 0
    made = Image.open(tmp_path/'out'/'p_mask.png')
    assert made.size == turned.size and not made.getexif()
    assert not Image.open(tmp_path/'out'/'p_overlay.png').getexif()
    want = predict_image(Learnt(), np.asarray(turned.convert('RGB'))).numpy()
    assert (np.asarray(made) == want).all()

def test_more_classes_than_a_byte_counts(tmp_path):
    learn = Learnt(n_classes=400, codes=[f'k{i}' for i in range(400)], ignore_index=None)
    import torch
    with torch.no_grad(): learn.model.layers[3].bias[300] = 1e3
    folder = save_segmenter(learn, tmp_path/'many')
    assert predict(folder, picture(tmp_path/'a.png'), '--out', tmp_path/'out') == 0
    assert (mask(tmp_path/'out'/'a_mask.png') == 300).all()

@pytest.mark.parametrize('stem', ['cost $a_$ b', '$x$', r'\frac{', 'a' * 250, 'ü' * 120, 'a\nb',
    '-x', '--out', '~x', '%s', 'a b', "it's", '[1]', '{0}', '#', '日本語'])
def test_names_of_images(model, tmp_path, capsys, stem):
    (tmp_path/'photos').mkdir()
    try: picture(tmp_path/'photos'/f'{stem}.png')
    except OSError: pytest.skip('this file system does not take the name')
    picture(tmp_path/'photos'/'z.png')
    assert predict(model, tmp_path/'photos', '--out', tmp_path/'out') == 0, capsys.readouterr().err
    assert len(names(tmp_path/'out')) == 4 and 'z_mask.png' in names(tmp_path/'out')
    capsys.readouterr()

@pytest.mark.parametrize('name', ['a'*5000, 'x/' * 3000, 'a\0b', 'gone.png', 'loop.png', '[',
    '***', '~nobody_here/a.png', 'photos/a.png/b.png'])
def test_one_name_that_cannot_be_does_not_end_the_batch(model, photos, tmp_path, capsys, name,
        monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path/'loop.png').symlink_to('loop.png')
    assert predict(model, name, 'photos/a.png', '--out', 'out') == 1
    out, err = capsys.readouterr()
    assert '1 of 1 images' in out and err.count('error: ') == 1 and 'Traceback' not in err
    assert names(tmp_path/'out') == ['a_mask.png', 'a_overlay.png']

def test_a_picture_that_fails_leaves_the_mask(model, photos, tmp_path, capsys, monkeypatch):
    real = room.overlay_figure
    def fails(image, mask, codes):
        if mask.shape == (5, 5): raise ValueError('cannot parse $')
        return real(image, mask, codes)
    monkeypatch.setattr(room, 'overlay_figure', fails)
    picture(photos/'b.png', size=(5, 5))
    assert predict(model, photos, '--out', tmp_path/'out') == 1
    assert 'the mask of b.png is written, its overlay is not' in capsys.readouterr().err
    assert names(tmp_path/'out') == ['a_mask.png', 'a_overlay.png', 'b_mask.png', 'c_mask.png',
        'c_overlay.png']

@pytest.mark.parametrize('error', [OSError(5, 'Input/output error'), MemoryError('too much'),
    RuntimeError('odd'), KeyError('x'), ValueError('y'), AssertionError()])
def test_an_image_that_fails_is_named(model, photos, tmp_path, capsys, monkeypatch, error):
    real = export.Segmenter.predict
    def fails(self, image):
        if image.name == 'b.png': raise error
        return real(self, image)
    monkeypatch.setattr(export.Segmenter, 'predict', fails)
    assert predict(model, photos, '--out', tmp_path/'out') == 1
    out, err = capsys.readouterr()
    assert 'b.png was left out' in err and 'Traceback' not in err and '2 of 3 images' in out

@pytest.mark.parametrize('kind', ['pipe', 'folder', 'dangling', 'empty', 'text'])
def test_files_that_are_no_images(model, photos, tmp_path, capsys, kind):
    file = photos/'b.png'
    file.unlink()
    if kind == 'folder': file.mkdir()
    elif kind == 'dangling': file.symlink_to('gone')
    elif kind == 'empty': file.touch()
    elif kind == 'text': file.write_text('hello')
    elif hasattr(os, 'mkfifo'): os.mkfifo(file)
    else: pytest.skip('no pipes with names here')
    assert predict(model, photos/'a.png', file, photos/'c.png', '--out', tmp_path/'out') == 1
    assert '2 of 2 images' in (said := capsys.readouterr()).out or '2 of 3 images' in said.out
    assert 'b.png' in said.err

def test_a_full_disk_ends_the_work_and_keeps_what_is_there(model, photos, tmp_path, capsys,
        monkeypatch):
    real, calls = room.replace_file, []
    def full(file, save):
        calls.append(file)
        if len(calls) > 2: raise OSError(28, 'No space left on device')
        real(file, save)
    monkeypatch.setattr(room, 'replace_file', full)
    assert predict(model, photos, '--out', tmp_path/'out') == 1
    assert 'No space left on device' in capsys.readouterr().err
    assert names(tmp_path/'out') == ['a_mask.png', 'a_overlay.png'] and len(calls) == 3

@pytest.mark.parametrize('out', ['file', 'file/below', 'loop', 'loop/below'])
def test_an_out_that_cannot_be(model, photos, tmp_path, capsys, out):
    (tmp_path/'file').write_text('mine')
    (tmp_path/'loop').symlink_to('loop')
    assert predict(model, photos, '--out', tmp_path/out) == 2
    err = capsys.readouterr().err
    assert err.startswith('segbook_predict: error: ') and 'Traceback' not in err
    assert (tmp_path/'file').read_text() == 'mine'

def test_what_is_not_an_output_stays(model, photos, tmp_path):
    out = tmp_path/'out'
    out.mkdir()
    (out/'notes.txt').write_text('mine')
    (out/'.b_mask.png.segbook-part').write_bytes(b'left by a process that was killed')
    assert predict(model, photos, '--out', out) == 0
    assert 'notes.txt' in names(out) and not [o for o in names(out) if o.startswith('.')]


# ---- stopped, killed, two at once

@pytest.mark.parametrize('how', ['raised', 'swallowed', 'other error'])
def test_a_signal_always_ends_the_work(model, photos, tmp_path, capsys, monkeypatch, how):
    "Also one that a library has swallowed, or has taken for a fault of its own."
    def stop(self, image):
        try: os.kill(os.getpid(), signal.SIGTERM)
        except BaseException:
            if how == 'raised': raise
            if how == 'other error': raise RuntimeError('fault in a callback') from None
        import torch
        return torch.zeros(9, 7, dtype=torch.long)
    monkeypatch.setattr(export.Segmenter, 'predict', stop)
    assert predict(model, photos, '--out', tmp_path/'out') == 143
    err = capsys.readouterr().err
    assert 'stopped by the signal SIGTERM. Of 3 images' in err and 'left out' not in err
    assert not (tmp_path/'out').exists() or len(names(tmp_path/'out')) <= 2

def child(model, photos, out, *more):
    "A process that predicts with the small network, slowly enough to be stopped on the way."
    code = ('import sys, test_model_folder as t\nfrom segbook import export\n'
        'export.seg_model = t.tiny_model\nfrom segbook.cli import segbook_predict\n'
        'print("ready", flush=True)\nsys.exit(segbook_predict())')
    here = str(Path(__file__).parent)
    return subprocess.Popen([sys.executable, '-W', 'ignore', '-c', code, str(model), str(photos),
        '--out', str(out), *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, 'PYTHONPATH': os.pathsep.join([here, str(Path(here).parent)])})

MOMENTS = int(os.environ.get('SEGBOOK_KILLS', 3))

@pytest.mark.parametrize('i', range(MOMENTS))
def test_killed_and_called_again(model, tmp_path, i):
    """Killed when a number of images is done; afterwards every file is whole or not there, and a
    second call leaves the same as an unbroken one."""
    (tmp_path/'photos').mkdir()
    for k in range(12): picture(tmp_path/'photos'/f'{k:02}.png', k, (40, 60))
    out, stops = tmp_path/'out', [signal.SIGKILL, signal.SIGTERM, signal.SIGINT]
    p = child(model, tmp_path/'photos', out)
    for _ in range(2 + 3*(i//3) % 10): p.stdout.readline()
    p.send_signal(stops[i % 3])
    rest, err = p.communicate(timeout=1800)
    assert p.returncode in (0, -9, 143, 130) and 'Traceback' not in err, err
    for f in out.glob('*.png'): Image.open(f).load()
    assert predict(model, tmp_path/'photos', '--out', out, '--overwrite') == 0
    assert predict(model, tmp_path/'photos', '--out', tmp_path/'whole') == 0
    assert {o: (out/o).read_bytes() for o in names(out)} == {
        o: (tmp_path/'whole'/o).read_bytes() for o in names(tmp_path/'whole')}
    assert names(tmp_path) == ['model', 'out', 'photos', 'whole']

def test_two_calls_with_one_folder(model, photos, tmp_path, capsys, monkeypatch):
    "The second waits for the first, and finds its masks: nothing is overwritten."
    real, entered, go = export.Segmenter.predict, threading.Event(), threading.Event()
    def slow(self, image):
        entered.set()
        go.wait(600)
        return real(self, image)
    monkeypatch.setattr(export.Segmenter, 'predict', slow)
    codes = {}
    first = threading.Thread(target=lambda: codes.update(a=predict(model, photos, '--out',
        tmp_path/'out')))
    first.start()
    assert entered.wait(600)
    second = threading.Thread(target=lambda: codes.update(b=predict(model, photos, '--out',
        tmp_path/'out')))
    second.start()
    time.sleep(.5)
    go.set()
    first.join(600)
    second.join(600)
    assert codes == dict(a=0, b=2) and len(names(tmp_path/'out')) == 6
    assert 'exist already' in capsys.readouterr().err


# ---- arguments

COMMANDS = dict(train=segbook_train, predict=segbook_predict, check=segbook_check)

@pytest.mark.parametrize('name', COMMANDS)
def test_help_fits_into_80_columns(name, capsys):
    assert COMMANDS[name](['--help']) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 10 and max(map(len, lines)) <= 80

@pytest.mark.parametrize('args,text', [('--seed 99999999999999999999', 'from 0 to 4,294,967,295'),
    ('--seed -1', 'at least 0'), ('--size 1', 'sides of 8 to 100,000'),
    ('--size 99999999999999999999', 'height,width'), ('--size -4', 'height,width'),
    ('--epochs ' + '9'*5000, 'from 1 to'), ('--bs 1e3', 'at least 1'), ('--workers 99999', '1,024'),
    ('--size 64x', 'height,width'), ('--size 1.5', 'height,width'), ('--lr -1', 'above 0'),
    ('--lr inf', 'above 0'), ('--out ~nobody_here/x', "nobody here is called 'nobody_here'"),
    ('--out ' + 'a'*300, 'up to 255 bytes'), ('--data a\0b', 'without NUL'),
    ('--resume ' + 'ab/'*2000, 'up to 255 bytes')])
def test_arguments_that_cannot_be(args, text, capsys):
    option, value = args.split(' ', 1)
    assert segbook_train([option, value]) == 2
    err = capsys.readouterr().err
    assert text in err and err.count('\n') == 1 and len(err) < 500, err

@pytest.mark.parametrize('args', [['--data', ''], ['--out', ' '], ['--codes', '']])
def test_empty_arguments(args, capsys):
    assert segbook_train(args) == 2 and 'a name or a path' in capsys.readouterr().err

def test_a_home_folder_is_written_out(monkeypatch, tmp_path):
    monkeypatch.setenv('HOME', str(tmp_path))
    assert arguments.file_name_argument('~/runs') == str(tmp_path/'runs')
    (tmp_path/'~odd').mkdir()
    monkeypatch.chdir(tmp_path)
    assert arguments.file_name_argument('~odd') == '~odd'

OPTIONS = ['--data', '--root', '--images', '--labels', '--codes', '--n', '--size', '--arch',
    '--encoder', '--pretrained', '--epochs', '--bs', '--lr', '--weights', '--seed', '--workers',
    '--out', '--overwrite', '--resume', '--value-range', '--nonsense', '-h', '--', '--map']
TEXTS = st.text(max_size=12) | st.integers().map(str) | st.floats().map(str) | st.sampled_from(
    ['9'*30, '1x1', '64,', ',', '0x10', '１２', '²', '~', '~~', '-1', 'nan', 'true', '\ud800', '='])

@examples(300)
@given(st.lists(st.sampled_from(OPTIONS) | TEXTS, max_size=6), st.sampled_from(sorted(COMMANDS)))
def test_any_arguments_are_read_or_refused(args, name):
    """What the parsers accept has the type and the range that is promised; what not ends with 2 and
    one line."""
    parser = dict(train=arguments.train_parser, check=check_parser,
        predict=predict_parser)[name]()
    try: a = parser.given(args)
    except SystemExit as e:
        assert e.code in (0, 2)
        return
    for k, (low, high) in dict(n=(2, 10**6), epochs=(1, 10**6), bs=(1, 10**6), seed=(0, 2**32 - 1),
            workers=(0, 1024)).items(): assert k not in a or low <= a[k] <= high
    assert all(8 <= o <= 100_000 for o in a.get('size', ())) and 0 < a.get('lr', 1) < 1000
    for k in ('data', 'out', 'root', 'resume', 'folder', 'model'):
        assert k not in a or a[k].strip() and '\0' not in a[k]

def check_parser():
    from segbook.cli import check
    return check._check_parser()

def predict_parser(): return room._predict_parser()
