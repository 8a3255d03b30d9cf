"""The three commands: what they write, what they refuse and in which words, and what is left
when they are stopped."""
import csv, io, json, os, re, shlex, shutil, signal, subprocess, sys, time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from segbook import results
from segbook.cli import arguments, run_folder, run_results, terminal, train as training
from segbook.cli import (
    class_table, overlay_figure, per_class, results_figure, segbook_check, segbook_predict,
    segbook_train,
)
from segbook.errors import SegbookError

CODES = ['background', 'wall', 'door', 'Void']
TINY = '--encoder resnet18 --pretrained false --bs 4 --epochs 3'
START = [sys.executable, '-c', 'import sys; from segbook.cli import segbook_train; '
    'sys.exit(segbook_train())']


def ids(i=0, shape=(32, 48)):
    "A mask with every class of CODES in it."
    return ((np.arange(shape[0]*shape[1]) // 7 + i) % 4).reshape(shape).astype(np.uint8)

def folder(path, n=6, codes=CODES, valid=2, mask=ids):
    """A sound data folder: `n` images a0.jpg, a1.jpg, ... with masks a0_P.png, ..., the last
    `valid` of them for validation."""
    (path/'images').mkdir(parents=True)
    (path/'labels').mkdir()
    for i in range(n):
        Image.fromarray(np.random.default_rng(i).integers(0, 256,
                (32, 48, 3)).astype(np.uint8)).save(path/'images'/f'a{i}.jpg')
        Image.fromarray(mask(i)).save(path/'labels'/f'a{i}_P.png')
    (path/'codes.txt').write_text('\n'.join(codes) + '\n')
    if valid: (path/'valid.txt').write_text(''.join(f'a{i}.jpg\n' for i in range(n-valid, n)))
    return path

def put(path, x): Image.fromarray(x).save(path)

def tree(path):
    return {str(f.relative_to(path)): f.read_bytes() for f in sorted(path.rglob('*'))
        if f.is_file()}

def read_csv(file):
    with open(file, newline='', encoding='utf-8') as f: return list(csv.reader(f))

def train(args, *more): return segbook_train([*shlex.split(args), *map(str, more)])

@pytest.fixture
def data(tmp_path): return folder(tmp_path/'data')

@pytest.fixture
def refused(tmp_path, capsys, monkeypatch):
    """A call of segbook_train that must end with 2 and one clear message, and leave nothing
    behind; returns the message."""
    monkeypatch.chdir(tmp_path)
    def f(args, *more, out='run'):
        before = sorted(o for o in tmp_path.rglob('*'))
        rc = train(args, *more, *(['--out', tmp_path/out] if out else []))
        said = capsys.readouterr().err
        assert rc == 2 and said.count(
            'segbook_train: error: ') == 1 and 'Traceback' not in said, said
        assert sorted(o for o in tmp_path.rglob('*')) == before
        return said
    return f

@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    from segbook.data import make_scenes
    return make_scenes(tmp_path_factory.mktemp('data')/'small', n=16, size=(32, 48), seed=3)

@pytest.fixture(scope='module')
def finished(scenes, tmp_path_factory):
    "The folder of a run that nobody stopped, and what it printed."
    out, said = tmp_path_factory.mktemp('runs')/'whole', io.StringIO()
    old, sys.stdout = sys.stdout, said
    try: assert train(TINY, '--data', scenes, '--out', out) == 0
    finally: sys.stdout = old
    return out, said.getvalue()


# -- arguments
#
#
# ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize('args, text', [('--epochs 0', "argument --epochs: found '0', expected a "
            "whole number of at least 1"), ('--epochs ten', "found 'ten', expected a whole number"),
        ('--bs -4', "argument --bs: found '-4', expected a whole number of at least 1"),
        ('--lr 0', "argument --lr: found '0', expected a number above 0"),
        ('--lr nan', "found 'nan'"), ('--size 96,128,3', 'expected height,width in pixels'),
        ('--size 0', 'expected height,width'), ('--pretrained maybe', 'expected true or false'),
        ('--n 1', 'at least 2'), ('--epoch 3', 'there is no argument --epoch; did you mean '
            '--epochs?'), ('photos', "'photos' does not belong here"),
        ('--out', 'expected one argument')])
def test_wrong_usage(args, text, capsys):
    assert train(args) == 2
    out, err = capsys.readouterr()
    assert out == '' and err.startswith(
        'segbook_train: error: ') and text in err and '--help' in err and err.count('\n') == 1

def test_help_is_complete_and_imports_little(capsys):
    assert train('--help') == 0
    said = capsys.readouterr().out
    options = ('data root images labels codes arch encoder epochs bs size lr seed out resume '
        'pretrained overwrite weights n workers')
    for o in options.split(): assert f'--{o} ' in said
    for f in (segbook_predict, segbook_check): assert f(['--help']) == 0
    loaded = subprocess.run([sys.executable, '-c', 'import sys; from segbook.cli import '
            'segbook_train; segbook_train(["--help"]); print([o for o in ("torch", "fastai", '
            '"matplotlib", "timm") if o in sys.modules])'], capture_output=True, text=True,
        check=True).stdout
    assert loaded.splitlines()[-1] == '[]'

def test_values():
    given = arguments.train_parser().given(
        '--size 96x128 --pretrained --weights off --seed 0 --lr 3e-4'.split())
    assert given == dict(size=[96, 128], pretrained=True, weights=False, seed=0, lr=3e-4)
    assert arguments.train_parser().given(['--size', '64']) == dict(size=[64, 64])


# -- data that cannot be trained on
# -------------------------------------------------------------------------------
def test_no_such_data(refused):
    assert "No data set and no folder 'scens'; did you mean 'scenes'?" in refused('--data scens')

def test_empty_folder(refused, tmp_path):
    (tmp_path/'empty').mkdir()
    assert 'empty is empty; expected a folder with images/, labels/ and codes.txt' in refused(
        '--data', tmp_path/'empty')

def test_no_codes(refused, data):
    (data/'codes.txt').unlink()
    assert 'has no codes.txt, and no codes were given; expected one class name a line' in refused(
        '--data', data)

def test_doubled_codes(refused, data):
    (data/'codes.txt').write_text('sky\nwall\nsky\nVoid\n')
    assert "'sky' is id 0 and 2; expected every name once" in refused('--data', data)

def test_one_image_only(refused, tmp_path):
    assert 'a0.jpg is the only image with a mask. Expected two at least' in refused('--data',
        folder(tmp_path/'d', n=1, valid=0))

def test_all_void(refused, tmp_path):
    said = refused('--data', folder(tmp_path/'d', mask=lambda i: np.full((32, 48), 3, np.uint8)))
    assert 'All 9,216 pixels of the 6 masks are Void (id 3)' in said
    assert 'nothing can be learned' in said

def test_ids_outside_the_codes(refused, data):
    x = ids(1)
    x[0,:5] = 37
    put(data/'labels'/'a1_P.png', x)
    said = refused('--data', data)
    assert 'id 37 (5 pixels in a1_P.png)' in said
    assert 'Expected 0 to 3' in said
    assert f'segbook_check {data} prints the whole report' in said

def test_missing_unmatched_and_unreadable_files(refused, data):
    (data/'labels'/'a1_P.png').unlink()
    put(data/'labels'/'b7_P.png', ids())
    for f in (data/'images'/'a2.jpg', data/'labels'/'a3_P.png'): f.write_bytes(f.read_bytes()[:100])
    said = refused('--data', data)
    for o in ('1 image without a mask: a1.jpg', '1 mask without an image: b7_P.png',
            '1 image cannot be read: a2.jpg', '1 mask cannot be read: a3_P.png'):
        assert o in said

def test_mask_of_another_size(refused, data):
    put(data/'labels'/'a1_P.png', ids(1, (32, 40)))
    assert 'a1.jpg is 32x48 and a1_P.png 32x40. Expected equal sizes' in refused('--data', data)

def test_images_of_several_sizes(refused, data):
    put(data/'images'/'a1.jpg', np.zeros((40, 40, 3), np.uint8))
    put(data/'labels'/'a1_P.png', ids(1, (40, 40)))
    said = refused('--size full --data', data)  # what is not asked for is planned: one size for all
    assert re.search(r'2 sizes.*a batch needs one size', said, re.S) and '32,48' in said

def test_0_255(refused, tmp_path):
    d = folder(tmp_path/'d', codes=['background', 'vessel'],
        mask=lambda i: (255*(ids(i) > 1)).astype(np.uint8))
    said = refused('--data', d)
    assert '6 masks with the values 0 and 255: a0_P.png' in said
    assert '255 -> 1 (vessel)' in said
    assert f'segbook_check {d}' in said
    assert '--fix NEW_FOLDER' in said

def test_rgb(refused, tmp_path):
    rgb = np.array([[10, 10, 10], [200, 0, 0], [0, 250, 0], [255, 255, 0]], np.uint8)
    said = refused('--data', folder(tmp_path/'d', mask=lambda i: rgb[ids(i)]))
    assert '6 masks in colours (RGB) instead of ids: a0_P.png' in said
    assert '--fix NEW_FOLDER' in said

def test_n_for_a_folder(refused, data):
    assert '--n 5 says how many pictures to draw' in refused('--n 5', '--data', data)

def test_batch_larger_than_the_data(refused, data):
    assert re.search('Batches of 9 from 4 training images', refused('--bs 9', '--data', data))

def test_names_by_argument(tmp_path, capsys, monkeypatch):
    d = folder(tmp_path/'d')
    for a, b in (('images', 'photos'), ('labels', 'masks'), ('codes.txt', 'names.txt')):
        (d/a).rename(d/b)
    monkeypatch.setattr(training, '_learner', lambda dls,
        a: (_ for _ in ()).throw(SegbookError(f'{len(dls.train_ds)} images, {a.bs} a batch')))
    for codes in ('names.txt', ','.join(CODES)):
        assert train('--images photos --labels masks --codes', codes, '--data', d, '--out',
            tmp_path/'run') == 2
        out, err = capsys.readouterr()
        assert '4 images, 4 a batch' in err and 'batches of 4: 4 training images are few' in out


# -- model
#
#
# ------------------------------------------------------------------------------------------------
def test_unknown_encoder(refused, data):
    said = refused('--encoder resnet81 --pretrained false', '--data', data)
    assert "there is no encoder 'resnet81'" in said and 'resnet18' in said

def test_unknown_architecture(refused, data):
    assert "there is no architecture 'dynamic_nut'; nearest: dynamic_unet" in refused(
        '--arch dynamic_nut --pretrained false', '--data', data)

def test_pretrained_without_weights(refused, data, tmp_path, tmp_path_factory, monkeypatch):
    home = tmp_path_factory.mktemp('empty')
    monkeypatch.setenv('TORCH_HOME', str(home))
    # nobody answers there
    for o in ('http_proxy', 'https_proxy', 'HTTP_PROXY', 'HTTPS_PROXY'):
        monkeypatch.setenv(o, 'http://127.0.0.1:9')
    start = time.monotonic()
    said = refused('--encoder resnet18', '--data', data)
    for o in ("pretrained weights of 'resnet18'", 'resnet18-f37072fd.pth',
            'https://download.pytorch.org', str(home), '--pretrained false'):
        assert o in said
    assert time.monotonic() - start < 600  # it does not wait for an answer that never comes


# -- the output folder
# ------------------------------------------------------------------------------------------------
def test_out_below_a_file(refused, data, tmp_path):
    (tmp_path/'note').write_text('x')
    said = refused('--data', data, out='note/run')
    assert f'the output folder {tmp_path/"note"/"run"} cannot be written: ' in said
    assert 'Cure: another --out' in said
    assert '--out' in refused('--data', data, out='note') and (tmp_path/'note').read_text() == 'x'

def test_out_without_permission(refused, data, monkeypatch):
    real = os.access
    monkeypatch.setattr(os, 'access', lambda p, mode,
        **kw: False if mode & os.W_OK else real(p, mode, **kw))
    said = refused('--data', data)
    assert 'cannot be written: Permission denied. Expected a folder that you may write to' in said

def test_out_on_a_read_only_disk(refused, data, monkeypatch):
    real = Path.mkdir
    def mkdir(self, *args, **kw):
        if self.name == 'run': raise OSError(30, 'Read-only file system')
        return real(self, *args, **kw)
    monkeypatch.setattr(Path, 'mkdir', mkdir)
    assert 'cannot be written: Read-only file system' in refused('--data', data)

def test_out_not_empty(refused, data, tmp_path):
    (tmp_path/'run').mkdir()
    (tmp_path/'run'/'thesis.txt').write_text('mine')
    said = refused('--data', data)
    assert 'is not empty (it holds thesis.txt), and nothing is overwritten. ' in said
    assert 'overwritten. Cure: another --out\n' in said
    said = refused('--overwrite', '--data', data)
    assert 'no run.json of segbook_train: --overwrite replaces only the files of an ' in said
    assert (tmp_path/'run'/'thesis.txt').read_text() == 'mine'

def test_out_holds_a_run(refused, data, finished, tmp_path):
    shutil.copytree(finished[0], tmp_path/'run')
    assert 'Cure: another --out, or --overwrite to replace the run in it\n' in refused('--data',
        data)
    (tmp_path/'run'/'model'/'notes.txt').write_text('mine')
    assert 'also holds notes.txt, which no run wrote' in refused('--overwrite', '--data', data)

def test_out_holds_a_stopped_run(refused, data, finished, tmp_path):
    (tmp_path/'run').mkdir()
    run = json.loads((finished[0]/'run.json').read_text())
    run['status'] = 'interrupted'
    (tmp_path/'run'/'run.json').write_text(json.dumps(run))
    assert f'or segbook_train --resume {tmp_path/"run"} to go on with that run' in refused('--data',
        data)

def test_disk_too_small(refused, data, monkeypatch):
    monkeypatch.setattr(shutil, 'disk_usage',
        lambda p: shutil._ntuple_diskusage(10**9, 10**9, 10**8))
    assert re.search(r'has room for 0.1 GB, and the checkpoints of this network need 0.4 GB',
        refused(TINY, '--data', data))

def test_default_out_is_new(data, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path/'runs'/'data').mkdir(parents=True)
    monkeypatch.setattr(training, '_data_folder',
        lambda a: (_ for _ in ()).throw(SegbookError('enough')))
    assert train('--data', data) == 2 and f'-> {Path("runs")/"data-2"}' in capsys.readouterr().out


# -- a run
#
#
# ------------------------------------------------------------------------------------------------
def test_files_of_a_run(finished, scenes):
    out, said = finished
    assert sorted(tree(out)) == ['metrics.csv', 'model/MODEL_CARD.md', 'model/model.safetensors',
        'model/segmenter.json', 'per_class.csv', 'results.png', 'run.json']
    rows = read_csv(out/'metrics.csv')
    assert rows[0] == ['epoch', 'train_loss', 'valid_loss', 'pixel_accuracy', 'mean_iou',
        'mean_dice'] and [r[0] for r in rows[1:]] == ['1', '2', '3']
    run = json.loads((out/'run.json').read_text())
    assert run['status'] == 'finished' and run['arguments']['encoder'] == 'resnet18' and run[
        'seed'] == 42 and run['arguments']['data'] == str(scenes)
    assert set(run['versions']) == {'segbook', 'python', 'torch',
        'fastai'} and run['duration'] > 0 and run['device'] and run['cores'] and len(
        run['epoch_seconds']) == 3
    best = max(rows[1:], key=lambda r: float(r[4]))
    assert run['best_epoch'] == int(best[0]) and abs(run['mean_iou']
        - float(best[4])) < 1e-6 and abs(run['pixel_accuracy'] - float(best[3])) < 1e-6
    im = Image.open(out/'results.png')
    assert im.width > 1000 and im.height > 800 and np.asarray(im.convert('L')).std() > 20

def test_lines_of_a_run(finished):
    out, said = finished
    lines = said.splitlines()
    assert sum(bool(re.match(r' +\d/3 +\d', o)) for o in lines) == 3 and '\r' not in said
    assert re.match(r'mean IoU 0\.\d+, pixel accuracy',
        lines[-2]) and lines[-1] == f'picture: {out/"results.png"}'
    assert any(re.match(r' *3  Road +\d', o) for o in lines) and not any(re.match(r' *11  ', o)
        for o in lines) and 'Void (id 11) counts nowhere' in said

def test_table_of_a_run(finished, scenes):
    """Against a count with numpy: shares from the mask files, scores from the answers of the saved
    model. As in the scores, an answer may be Void, which a prediction never is."""
    from segbook.export import load_segmenter
    from segbook.inference import image_logits
    rows = [dict(zip(*o)) for o in zip([read_csv(finished[0]/'per_class.csv')[0]]*11,
            read_csv(finished[0]/'per_class.csv')[1:])]
    assert [r['id'] for r in rows] == [str(i) for i in range(11)] and rows[3]['class'] == 'Road'
    held = set((scenes/'valid.txt').read_text().split())
    masks = {f.name.replace('_P', ''): np.asarray(Image.open(f))
        for f in (scenes/'labels').iterdir()}
    for name, part in (('train_share', masks.keys() - held), ('valid_share', held)):
        n = np.sum([np.bincount(masks[o].ravel(), minlength=12)[:11] for o in part], 0)
        np.testing.assert_allclose([float(r[name]) for r in rows], n/n.sum(), rtol=1e-6)
    seg = load_segmenter(finished[0])
    def answered(name):
        x = torch.tensor(np.asarray(Image.open(scenes/'images'/name).convert('RGB')))
        stats = (seg.segmenter[k] for k in ('mean', 'std'))
        return image_logits(seg.model, x.permute(2, 0, 1)/255, *stats).argmax(0).numpy()
    pred = {o: answered(o) for o in held}
    for k in range(11):
        inter = sum(int(((pred[o] == k) & (masks[o] == k)).sum()) for o in held)
        union = sum(int((((pred[o] == k) | (masks[o] == k)) & (masks[o] != 11)).sum())
            for o in held)
        if rows[k]['iou'] == '': assert union == 0
        else: assert abs(float(rows[k]['iou']) - inter/union) < .02

def test_overwrite_replaces_our_files_alone_and_size_is_kept(finished, scenes, tmp_path, capsys):
    out = tmp_path/'again'
    shutil.copytree(finished[0], out)
    (out/'notes.txt').write_text('mine')
    (out/'mine').mkdir()
    (out/'results.png').write_bytes(b'old')
    assert train('--encoder resnet18 --pretrained false --bs 8 --epochs 1 --weights false --size '
        '32 --overwrite', '--data', scenes, '--out', out) == 0
    assert '32x32' in capsys.readouterr().out
    assert (out/'notes.txt').read_text() == 'mine' and (out/'mine').is_dir() and (
        out/'results.png').stat().st_size > 10**4
    assert len(read_csv(out/'metrics.csv')) == 2 and not (out/'checkpoint').exists() and not list(
        out.glob('.*'))
    # so that new images are resized as the training's were
    assert json.loads((out/'model'/'segmenter.json').read_text())['size'] == [32, 32]
    assert segbook_predict([str(out), str(scenes/'images'/'scene_00000.png'), '--out',
            str(tmp_path/'p')]) == 0
    assert Image.open(tmp_path/'p'/'scene_00000_mask.png').size == (48, 32)


# -- stopped and resumed
# ------------------------------------------------------------------------------------------
@pytest.fixture(scope='module')
def stopped(scenes, tmp_path_factory):
    """A run that got SIGTERM twice when the line of its second epoch appeared: its folder, its
    exit code, its two outputs."""
    out = tmp_path_factory.mktemp('runs')/'stopped'
    p = subprocess.Popen([*START, *shlex.split(TINY), '--data', str(scenes), '--out', str(out)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    said = []
    for line in p.stdout:
        said.append(line)
        if re.match(r' +2/3 ', line): break
    p.send_signal(signal.SIGTERM)
    time.sleep(.2)
    p.send_signal(signal.SIGTERM)
    rest, err = p.communicate(timeout=1800)
    return out, p.returncode, ''.join(said) + rest, err

@pytest.fixture
def copy(stopped, tmp_path):
    "A copy of the stopped run."
    shutil.copytree(stopped[0], tmp_path/'run')
    return tmp_path/'run'

def test_stopped_run_keeps_its_epochs(stopped):
    out, rc, said, err = stopped
    assert rc == 143 and 'Traceback' not in said + err, err
    assert 'stopped by the signal SIGTERM. 2 of 3 epochs are kept in' in err
    assert f'segbook_train --resume {out}' in err
    assert len(read_csv(out/'metrics.csv')) == 3 and json.loads((out/'run.json').read_text())[
        'status'] == 'interrupted'
    assert sorted(tree(out)) == ['checkpoint/best.pt', 'checkpoint/last.pt', 'metrics.csv',
        'run.json']

def test_resumed_run_ends_as_the_unbroken_one(copy, finished, capsys):
    assert segbook_train(['--resume', str(copy)]) == 0
    out = capsys.readouterr().out
    assert 'going on after epoch 2 of 3' in out and re.search(r'^ +3/3 ', out,
        re.M) and not re.search(r'^ +[12]/3 ', out, re.M)
    a, b = (np.array(read_csv(o/'metrics.csv')[1:], float) for o in (copy, finished[0]))
    assert a.shape == b.shape == (3, 6)
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    assert sorted(tree(copy)) == sorted(tree(finished[0])) and read_csv(copy/'per_class.csv')[
        0] == read_csv(finished[0]/'per_class.csv')[0]
    run, other = (json.loads((o/'run.json').read_text()) for o in (copy, finished[0]))
    assert run['best_epoch'] == other['best_epoch'] and len(run['epoch_seconds']) == 3
    before = tree(copy)
    assert segbook_train(['--resume', str(copy)]) == 0 # finished: says so, changes nothing
    out = capsys.readouterr().out
    assert 'is a finished run of 3 epochs: there is nothing to resume' in out and str(
        copy/'results.png') in out and tree(copy) == before

def test_stopped_between_training_and_outputs(copy, finished, scenes, monkeypatch, capsys):
    def stop(*args, **kw):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(2)
    with monkeypatch.context() as m:
        m.setattr(run_results, 'results_figure', stop)
        assert segbook_train(['--resume', str(copy)]) == 130
    assert '3 of 3 epochs are kept' in capsys.readouterr().err and not (copy/'results.png').exists()
    assert segbook_train(['--resume', str(copy), '--data', str(scenes), '--epochs', '3', '--out',
            str(copy), '--workers', '0']) == 0
    assert (copy/'results.png').exists() and len(read_csv(copy/'metrics.csv')) == 4 and not (
        copy/'checkpoint').exists()

def test_stopped_before_training(scenes, tmp_path, capsys, monkeypatch):
    def stop(*args):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(2)
    monkeypatch.setattr(training, '_learner', stop)
    assert train(TINY, '--data', scenes, '--out', tmp_path/'a'/'run') == 130
    assert capsys.readouterr().err.endswith('stopped by Ctrl-C. Nothing was written.\n') and list(
        tmp_path.iterdir()) == []

def test_failure_keeps_the_run(copy, monkeypatch, capsys):
    def full(*args, **kw): raise OSError(28, 'No space left on device')
    with monkeypatch.context() as m:
        m.setattr(run_results, 'results_figure', full)
        assert segbook_train(['--resume', str(copy)]) == 1
    err = capsys.readouterr().err
    assert 'No space left on device' in err
    assert 'Traceback' not in err
    assert f'segbook_train --resume {copy}' in err
    assert json.loads((copy/'run.json').read_text())['status'] == 'failed' and (
        copy/'checkpoint'/'last.pt').exists()

def test_resume_with_other_arguments(copy, capsys):
    before = tree(copy)
    assert segbook_train(['--resume', str(copy), '--epochs', '30', '--lr', '0.01', '--encoder',
            'resnet18', '--size', '64']) == 2
    err = capsys.readouterr().err
    assert 'holds a run with other arguments: ' in err
    assert '--epochs was 3, now 30' in err
    assert '--lr was 0.002, now 0.01' in err
    assert '--size was not given, now 64,64' in err
    assert '--encoder' not in err
    for more, text in ((['--out', 'elsewhere'], '--out elsewhere names another'),
            (['--overwrite'], 'expected one of the two')):
        assert segbook_train(['--resume', str(copy),
                *more]) == 2 and text in capsys.readouterr().err
    assert tree(copy) == before

def test_resume_of_nothing(tmp_path, data, capsys):
    for path, text in ((tmp_path/'nowhere', 'does not exist; expected the folder of a run'),
            (data, 'has no run.json of this segbook_train')):
        assert segbook_train(['--resume', str(path)]) == 2 and text in capsys.readouterr().err
    assert not (tmp_path/'nowhere').exists()

def test_resume_with_the_checkpoint_of_another_run(copy, capsys):
    run = json.loads((copy/'run.json').read_text())
    run['arguments'].update(epochs=9, lr=.01)
    (copy/'run.json').write_text(json.dumps(run))
    before = tree(copy)
    assert segbook_train(['--resume', str(copy)]) == 2
    err = capsys.readouterr().err
    assert 'holds the checkpoint of another run' in err and 'epochs was 3, now 9' in err and tree(
        copy) == before

def test_resume_with_other_data(copy, scenes, tmp_path, capsys):
    other = shutil.copytree(scenes, tmp_path/'small')
    run = json.loads((copy/'run.json').read_text())
    run['arguments']['data'] = str(other)
    (copy/'run.json').write_text(json.dumps(run))
    (other/'valid.txt').write_text('scene_00000.png\nscene_00005.png\nscene_00010.png\n')
    assert segbook_train(['--resume',
            str(copy)]) == 2 and 'are not those that the run' in capsys.readouterr().err
    assert segbook_train(['--resume', str(copy), '--data',
            str(scenes)]) == 2 and '--data was' in capsys.readouterr().err

def test_resume_without_a_checkpoint(copy, capsys):
    shutil.rmtree(copy/'checkpoint')
    assert segbook_train(['--resume',
            str(copy)]) == 2 and 'there is nothing to resume' in capsys.readouterr().err

def test_two_runs_in_one_folder(copy, capsys):
    fcntl = pytest.importorskip('fcntl')
    with open(copy/'.lock', 'w') as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        assert segbook_train(['--resume', str(copy)]) == 2
    assert 'another segbook_train is writing to' in capsys.readouterr().err

def test_a_file_system_without_locks_is_said(tmp_path, capsys, monkeypatch):
    def acquire(self): raise NotImplementedError('no locks here')
    monkeypatch.setattr('filelock.FileLock.acquire', acquire)
    with run_folder.locked_folder(tmp_path): assert not (tmp_path/'.lock').exists()
    assert 'cannot be locked here (no locks here)' in capsys.readouterr().out


# -- segbook_predict
# --------------------------------------------------------------------------------------------------
def predict(*args): return segbook_predict([str(o) for o in args])

@pytest.fixture
def photos(tmp_path):
    (tmp_path/'photos').mkdir()
    x = np.random.default_rng(0).integers(0, 256, (37, 61, 4)).astype(np.uint8)
    put(tmp_path/'photos'/'a.png', x[..., :3])
    put(tmp_path/'photos'/'b.png', x[..., 0])
    put(tmp_path/'photos'/'c.png', x)
    return tmp_path/'photos'

def test_predict(finished, photos, tmp_path, capsys):
    from segbook.export import load_segmenter
    out = tmp_path/'out'
    assert predict(finished[0], photos, photos/'a.png', '--out', out) == 0
    assert sorted(f.name for f in out.iterdir()) == [f'{o}_{k}.png' for o in 'abc'
        for k in ('mask', 'overlay')]
    seg = load_segmenter(finished[0]/'model')
    for o in 'abc':
        m = Image.open(out/f'{o}_mask.png')
        assert m.mode == 'L' and m.size == (61,
            37) and (np.asarray(m) == seg.predict(photos/f'{o}.png').numpy()).all() and np.asarray(
            m).max() < 11
        assert Image.open(out/f'{o}_overlay.png').width > 61*7
    assert '3 of 3 images: masks and overlays in' in capsys.readouterr().out

def test_predict_never_overwrites(finished, photos, tmp_path, capsys):
    out = tmp_path/'out'
    out.mkdir()
    (out/'a_mask.png').write_bytes(b'mine')
    assert predict(finished[0]/'model', photos/'*.png', '--out', out) == 2
    err = capsys.readouterr().err
    assert 'a_mask.png exist already, and nothing is overwritten. Cure: --overwrite, or ' in err
    assert [f.name for f in out.iterdir()] == ['a_mask.png']
    assert predict(finished[0]/'model', photos/'a.png', '--out', out,
        '--overwrite') == 0 and Image.open(out/'a_mask.png').size == (61, 37)
    (photos/'a_mask.png').write_bytes((photos/'a.png').read_bytes())
    assert predict(finished[0], photos, '--out', photos,
        '--overwrite') == 2 and 'would replace the image a_mask.png' in capsys.readouterr().err

def test_predict_goes_on_after_a_bad_image(finished, photos, tmp_path, capsys):
    (photos/'b.png').write_bytes(b'torn')
    assert predict(finished[0], photos, photos/'d.png', tmp_path/'*.jpg', '--out',
        tmp_path/'out') == 1
    out, err = capsys.readouterr()
    assert '2 of 3 images' in out
    assert 'b.png was left out: ' in err
    assert 'cannot be read as an image' in err
    assert 'd.png does not exist' in err
    assert '*.jpg matches no file' in err
    assert 'Traceback' not in err
    assert sorted(f.name for f in (tmp_path/'out').iterdir()) == ['a_mask.png', 'a_overlay.png',
        'c_mask.png', 'c_overlay.png']

def test_predict_same_names(finished, photos, tmp_path):
    shutil.copytree(photos, tmp_path/'more')
    put(photos/'A.jpg', np.zeros((40, 40, 3), np.uint8))
    assert predict(finished[0], photos/'a.png', tmp_path/'more'/'a.png', photos/'b.png', '--out',
        tmp_path/'out') == 0
    assert sorted(f.name for f in (tmp_path/'out').glob('*_mask.png')) == ['b_mask.png',
        'more_a_mask.png', 'photos_a_mask.png']
    assert predict(finished[0], photos/'a.png', photos/'A.jpg', '--out', tmp_path/'out2') == 0
    assert sorted(f.name for f in (tmp_path/'out2').glob('*_mask.png')) == ['A_jpg_mask.png',
        'a_png_mask.png']

def test_predict_without_a_model(photos, tmp_path, capsys):
    assert predict(photos, photos/'a.png', '--out',
        tmp_path/'out') == 2 and 'it has no segmenter.json' in capsys.readouterr().err
    assert not (tmp_path/'out').exists()
    assert predict(tmp_path) == 2 and 'required: IMAGE' in capsys.readouterr().err


# -- segbook_check
#
#
# ------------------------------------------------------------------------------------------------
def check(*args): return segbook_check([str(o) for o in args])

def test_check_says_ok(data, capsys):
    assert check(data) == 0
    out = capsys.readouterr().out
    assert 'Mask check of data: ok (6 images with masks, 4 classes, Void is id 3)' in out
    assert 'wall' in out

def test_check_finds_faults(data, capsys):
    (data/'labels'/'a1_P.png').unlink()
    assert check(data) == 1 and '1 image without a mask: a1.jpg' in capsys.readouterr().out
    (data/'codes.txt').unlink()
    assert check(data) == 1 and 'has no codes.txt' in capsys.readouterr().err
    assert check(data, '--codes',
        'background,wall,door,Void') == 1 and '1 image without a mask' in capsys.readouterr().out

def test_check_wrong_usage(data, tmp_path, capsys):
    for args, text in (([tmp_path/'nowhere'], 'does not exist; expected a folder'),
            ([data, '--map', '255=wall'], 'expected --fix NEW_FOLDER with it'),
            ([data, '--fix', data], 'nothing is ever overwritten'),
            ([data, '--fix', tmp_path/'new', '--map', 'white'], 'expected VALUE=CLASS'),
            ([], 'required: FOLDER')):
        assert check(*args) == 2 and text in capsys.readouterr().err

def test_check_fix(tmp_path, capsys):
    d = folder(tmp_path/'d', codes=['background', 'vessel'],
        mask=lambda i: (255*(ids(i) > 1)).astype(np.uint8))
    assert check(d) == 1
    assert f'segbook_check {d} --fix NEW_FOLDER writes a corrected copy' in capsys.readouterr().out
    before = tree(d)
    assert check(d, '--fix', tmp_path/'new') == 0 and tree(d) == before and (
        np.asarray(Image.open(tmp_path/'new'/'labels'/'a0_P.png')) == (ids(0) > 1)).all()
    assert check(d, '--fix', tmp_path/'turned', '--map', '255=background', '--map', '0=vessel') == 0
    assert (np.asarray(Image.open(tmp_path/'turned'/'labels'/'a0_P.png')) == (ids(0) <= 1)).all()
    assert check(tmp_path/'new') == 0


# -- the parts
#
#
# ------------------------------------------------------------------------------------------------
def test_table_with_absent_classes():
    import torch
    from segbook.metrics import Confusion
    rows = per_class(Confusion(4, 3).update(torch.tensor([[0, 0, 1, 3]]),
            torch.tensor([[0, 0, 0, 3]])), ['a', 'b', 'c', 'Void'])
    assert [r['id'] for r in rows] == [0, 1,
        2] and rows[0]['iou'] == pytest.approx(2/3) and rows[1]['iou'] == 0 and np.isnan(
        rows[2]['iou']) and np.isnan(rows[0]['train_share'])
    lines = class_table(rows).splitlines()
    assert lines[3].split()[:4] == ['2', 'c', '-', '-'] and lines[-1].split()[:2] == ['mean',
        '0.333']
    assert class_table(rows[2:]).splitlines()[-1].split() == ['mean', '-', '-']

@pytest.mark.parametrize('shape, codes',
    [((20, 30, 3), CODES), ((20, 30), ['a', 'b']),
        ((51, 20, 1), [f'class number {i}' for i in range(40)])])
def test_figures(shape, codes):
    rng = np.random.default_rng(0)
    x = [rng.integers(0, 256, shape).astype(np.uint8) for _ in range(3)]
    y, p = ([rng.integers(0, len(codes), shape[:2]).astype(np.uint8) for _ in range(3)]
        for _ in range(2))
    if 'Void' in codes: y[2][:] = 3 # an image of nothing but Void
    for n in (1, 3):
        f = io.BytesIO()
        results_figure(x[:n], y[:n], p[:n], codes, ['a long name '*8]*n, [.5]*n,
            title='title').savefig(f)
        assert Image.open(f).width == 1320
    f = io.BytesIO()
    overlay_figure(x[0], p[0], codes).savefig(f)
    assert Image.open(f).width > 480

def test_error_picture():
    y, p = np.array([[0, 0, 1, 3]]), np.array([[0, 1, 1, 0]])
    out = results._error_picture(np.zeros((1, 4), np.uint8), y, p, 3)
    assert [tuple(o) == (205, 16, 36) for o in out[0]] == [False, True, False, False]

def test_bar_only_on_a_terminal():
    class Terminal(io.StringIO):
        def isatty(self): return True
    for out, bars in ((io.StringIO(), 0), (Terminal(), 1)):
        l = terminal.EpochLines(2, out=out)
        l.shown -= 1
        l.batch(1, 4, 'batches')
        for v in (.2, .1):
            l.epoch(dict(train_loss=1., valid_loss=1., pixel_accuracy=.5, mean_iou=v))
        assert out.getvalue().count('[######..................] 1/4 batches') == bars
        assert len(re.findall(r'[12]/2 +1\.0000',
                out.getvalue())) == 2 and out.getvalue().count('*') == 1
