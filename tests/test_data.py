"Data: drawn scenes, downloads from a server on this machine, folders with one fault each, imported annotations."
import hashlib, http.server, io, json, os, shutil, subprocess, sys, tarfile, threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from segbook import data
from segbook.data import DATASETS, DataSource, from_coco, from_labelme, get_data, make_cells, make_scenes, read_image, seg_dataloaders
from segbook.masks import SegbookError, SegFolder, read_mask

REAL = Path(os.environ.get('SEGBOOK_REAL_DATA', Path(__file__).parent.parent/'../shared/data'))
CODES = ['background', 'wall', 'Void']


def folder(path, n=10, size=(40, 48), valid=2, image=None, mask=None):
    "A small data folder: `image(i)` and `mask(i)` give arrays."
    for d in ('images', 'labels'): (path/d).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(n):
        x = image(i) if image else rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        y = mask(i) if mask else np.fromfunction(lambda r, c: (r//8 + c//8 + i) % 3,
            size).astype(np.uint8)
        Image.fromarray(x).save(path/'images'/f'{i:02d}.png')
        Image.fromarray(y).save(path/'labels'/f'{i:02d}_P.png')
    (path/'codes.txt').write_text('\n'.join(CODES))
    if valid: (path/'valid.txt').write_text('\n'.join(f'{i:02d}.png' for i in range(valid)))
    return path


def message(f, *args, **kw):
    with pytest.raises(SegbookError) as e: f(*args, **kw)
    return str(e.value)


# drawn data

def digest(path):
    return {f.relative_to(path).as_posix(): hashlib.md5(f.read_bytes()).hexdigest()
        for f in path.rglob('*') if f.is_file()}


def test_scenes_depend_on_seed_and_number_alone(tmp_path):
    a, b, c = make_scenes(tmp_path/'a', n=4), make_scenes(tmp_path/'b',
        n=7), make_scenes(tmp_path/'c', n=4, seed=1)
    A, B, C = map(digest, (a, b, c))
    pngs = [k for k in A if k.endswith('.png')]
    assert len(pngs) == 8 and all(A[k] == B[k] != C[k] for k in pngs)


def test_scenes_in_another_process_are_the_same(tmp_path):
    make_scenes(tmp_path/'a', n=2)
    subprocess.run([sys.executable, '-W', 'ignore', '-c', 'from segbook.data import make_scenes; '
            f'make_scenes({str(tmp_path/"b")!r}, n=2)'], check=True, timeout=300)
    assert digest(tmp_path/'a') == digest(tmp_path/'b')


def test_scenes_are_a_sound_folder_with_every_class(tmp_path):
    f = SegFolder(make_scenes(tmp_path/'s', n=20, size=(64, 80)))
    assert f.codes == data.CAMVID_CODES and f.ignore_index == 11 and len(f.valid) == 4
    ids = [np.unique(read_mask(y)) for y in f.labels]
    assert set(np.concatenate(ids).tolist()) == set(range(12))
    assert all(Image.open(x).size == Image.open(y).size == (80, 64)
        for x, y in zip(f.images, f.labels))


def test_scenes_folder_is_reused_never_overwritten(tmp_path):
    p = make_scenes(tmp_path/'s', n=2)
    before = {f: f.stat().st_mtime_ns for f in p.rglob('*')}
    assert make_scenes(p, n=2) == p and before == {f: f.stat().st_mtime_ns for f in p.rglob('*')}
    m = message(make_scenes, p, n=3)
    assert 'Nothing is overwritten' in m and "'n': 2" in m and "'n': 3" in m
    (tmp_path/'mine').mkdir()
    (tmp_path/'mine'/'thesis.txt').write_text('x')
    assert 'not drawn here' in message(make_scenes, tmp_path/'mine', n=2)
    (tmp_path/'empty').mkdir()
    assert len(SegFolder(make_scenes(tmp_path/'empty', n=2))) == 2


def test_scenes_stopped_half_way_leave_nothing(tmp_path, monkeypatch):
    n, png = [0], data._png
    def stop(x, f):
        n[0] += 1
        if n[0] > 5: raise KeyboardInterrupt
        png(x, f)
    monkeypatch.setattr(data, '_png', stop)
    with pytest.raises(KeyboardInterrupt): make_scenes(tmp_path/'s', n=10)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('kw,part', [(dict(n=1), 'n of 2 or more'),
        (dict(size=(8, 8)), '32 pixels'), (dict(size='big'), "size='big'"),
        (dict(seed=-1), 'seed of 0')])
def test_scenes_refuse_senseless_numbers(tmp_path, kw, part):
    assert part in message(make_scenes, tmp_path/'s', **{'n': 2, **kw})


def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path/'file').write_text('')
    m = message(make_scenes, tmp_path/'file'/'s', n=2)
    assert 's cannot be written to' in m and 'Give another path' in m


def test_cells_touch_and_are_numbered(tmp_path):
    p = make_cells(tmp_path/'c', n=12)
    f, touching = SegFolder(p), 0
    assert f.codes == ['background', 'cell'] and f.ignore_index is None
    for y in f.labels:
        who = np.asarray(Image.open(p/'instances'/y.name.replace('_P', '')))
        assert who.dtype == np.uint16 and ((who > 0) == (read_mask(y) == 1)).all()
        assert np.unique(who).tolist() == list(range(int(who.max())+1))
        a, b = who[:, 1:], who[:, :-1]
        touching += ((a != b) & (a > 0) & (b > 0)).any()
    assert touching >= 11
    assert digest(p) == digest(make_cells(tmp_path/'d', n=12))


def test_scenes_of_an_older_drawing_stay_beside_the_new(tmp_path, monkeypatch):
    old, small = make_scenes(tmp_path/'scenes', n=2), lambda path: make_scenes(path, n=2)
    monkeypatch.setattr(data, 'make_scenes', small)
    assert get_data('scenes', root=tmp_path) == old
    monkeypatch.setattr(data, '_VERSION', 99)
    assert get_data('scenes', root=tmp_path).name == 'scenes-v99' and len(SegFolder(old)) == 2


# downloads

class Server(http.server.SimpleHTTPRequestHandler):
    files: dict = {}
    def log_message(self, *args): pass
    def do_GET(self):
        body = self.files.get(self.path.split('?')[0])
        if body is None: return self.send_error(404)
        body, claimed = body if isinstance(body, tuple) else (body, len(body))
        self.send_response(200)
        self.send_header('Content-Length', str(claimed))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def server():
    Server.files = {}
    s = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Server)
    threading.Thread(target=s.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{s.server_address[1]}'
    s.shutdown()
    s.server_close()


def archive(path, name='mini', extra=()):
    "A data folder as the bytes of a .tgz, with `extra` members (TarInfo, bytes)."
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode='w:gz') as t:
        t.add(path, name)
        for m, b in extra:
            m.size = len(b)
            t.addfile(m, io.BytesIO(b))
    return out.getvalue()


@pytest.fixture
def mini(server, tmp_path, monkeypatch):
    "get_data('mini') from the local server: (bytes served, register(**fields of DataSource))."
    body = archive(folder(tmp_path/'src'))
    Server.files['/mini.tgz'] = body
    def register(**kw):
        src = DataSource(**{**dict(name='mini', about='', url=f'{server}/mini.tgz', size=len(body),
                    head_md5=hashlib.md5(body[:1 << 20]).hexdigest()), **kw})
        monkeypatch.setitem(DATASETS, 'mini', src)
        return src
    register()
    return body, register


def left(root): return sorted(f.name for f in root.iterdir()) if root.exists() else []


def test_download_is_checked_unpacked_and_kept(mini, tmp_path):
    root = tmp_path/'root'
    p = get_data('mini', root=root)
    f = SegFolder(p)
    assert p == root/'mini' and left(root) == ['mini'] and len(
        f) == 10 and f.codes == CODES and f.ignore_index == 2
    Server.files.clear()
    assert get_data('mini', root=root) == p             # found: asks nobody


@pytest.mark.parametrize('kw,part', [(dict(hash='md5:'+'0'*32), 'md5'),
        (dict(hash='sha256:'+'0'*64), 'sha256'), (dict(head_md5='0'*32), 'first MiB'),
        (dict(size=17), 'expected 17')])
def test_wrong_checksum_or_size(mini, tmp_path, kw, part):
    mini[1](**kw)
    m = message(get_data, 'mini', root=tmp_path/'root')
    assert part in m and '/mini.tgz' in m and 'Nothing was kept' in m and left(
        tmp_path/'root') == []


def test_right_checksum_of_the_whole_file(mini, tmp_path):
    mini[1](hash='sha256:' + hashlib.sha256(mini[0]).hexdigest(), head_md5=None, size=None)
    assert len(SegFolder(get_data('mini', root=tmp_path/'root'))) == 10


@pytest.mark.parametrize('promised', [True, False])
def test_truncated_download_is_not_kept(mini, tmp_path, promised):
    body = mini[0]
    Server.files['/mini.tgz'] = (body[:-100], len(body)) if promised else body[:-100]
    m = message(get_data, 'mini', root=tmp_path/'root')
    assert ('broke off' if promised else 'bytes, expected') in m and left(tmp_path/'root') == []


def test_404(mini, tmp_path):
    Server.files.clear()
    m = message(get_data, 'mini', root=tmp_path/'root')
    assert 'answered 404' in m and str(tmp_path/'root'/'mini.tgz') in m and "data='scenes'" in m


def test_no_answer_and_fallback(mini, tmp_path, capsys, monkeypatch):
    mini[1](url='http://127.0.0.1:9/mini.tgz')
    m = message(get_data, 'mini', root=tmp_path/'root')
    assert 'http://127.0.0.1:9/mini.tgz did not answer' in m and 'by hand' in m and left(
        tmp_path/'root') == []
    monkeypatch.setattr(data, 'make_scenes', lambda path: make_scenes(path, n=2))
    p = get_data('mini', root=tmp_path/'root', fallback='scenes')
    assert p.name == 'scenes' and 'DRAWN' in capsys.readouterr().out


def test_a_wrong_file_is_no_reason_to_fall_back(mini, tmp_path):
    mini[1](head_md5='0'*32)
    assert 'first MiB' in message(get_data, 'mini', root=tmp_path/'root', fallback='scenes')


def test_file_put_there_by_hand(mini, tmp_path):
    root = tmp_path/'root'
    root.mkdir()
    mini[1](url='http://127.0.0.1:9/mini.tgz')
    (root/'mini.tgz').write_bytes(mini[0][:-1])
    assert 'Delete it to download it again' in message(get_data, 'mini', root=root)
    (root/'mini.tgz').write_bytes(mini[0])
    assert len(SegFolder(get_data('mini', root=root))) == 10 and (root/'mini.tgz').exists()


def evil(kind):
    m = tarfile.TarInfo(dict(up='mini/../../evil.txt', absolute='/evil.txt',
            link='mini/images/link', device='mini/dev', back='mini\\..\\..\\evil.txt')[kind])
    if kind == 'link': m.type, m.linkname = tarfile.SYMTYPE, '/etc/passwd'
    if kind == 'device': m.type = tarfile.CHRTYPE
    return m


@pytest.mark.parametrize('kind', ['up', 'absolute', 'link', 'device', 'back'])
def test_archive_that_would_write_elsewhere(mini, tmp_path, kind):
    body = archive(tmp_path/'src', extra=[(evil(kind),
                b'' if kind in ('link', 'device') else b'boo')])
    Server.files['/mini.tgz'] = body
    mini[1](size=len(body), head_md5=None)
    m = message(get_data, 'mini', root=tmp_path/'root')
    assert 'Nothing was unpacked' in m and not (tmp_path/'root'/'mini').exists() and not list(
        tmp_path.rglob('evil.txt'))


@pytest.mark.parametrize('body,part', [(b'no archive at all', 'cannot be unpacked'),
        (None, 'does not unpack to a data folder')])
def test_archive_of_something_else(mini, tmp_path, body, part):
    if body is None:
        (tmp_path/'junk').mkdir()
        (tmp_path/'junk'/'a.txt').write_text('a')
        body = archive(tmp_path/'junk')
    Server.files['/mini.tgz'] = body
    mini[1](size=None, head_md5=None)
    assert part in message(get_data, 'mini',
        root=tmp_path/'root') and not (tmp_path/'root'/'mini').exists()


def test_fastai_like_archive_without_valid_txt(mini, tmp_path, capsys):
    (tmp_path/'src'/'valid.txt').unlink()
    Server.files['/mini.tgz'] = archive(tmp_path/'src', 'camvid_tiny')
    mini[1](size=None, head_md5=None)
    p = get_data('mini', root=tmp_path/'root')
    dls = seg_dataloaders(p, bs=2)
    assert len(dls.train_ds) == 8 and 'no valid.txt' in capsys.readouterr().out


def test_medsegbench_arrays_become_a_folder(mini, server, tmp_path):
    rng, arrays = np.random.default_rng(0), {}
    for s, n in dict(train=4, val=2, test=3).items():
        arrays[f'{s}_images'] = rng.integers(0, 256, (n, 16, 20, 3), dtype=np.uint8)
        arrays[f'{s}_label'] = rng.integers(0, 2, (n, 16, 20), dtype=np.uint8)
    b = io.BytesIO()
    np.savez_compressed(b, **arrays)
    Server.files['/mini.npz'] = b.getvalue()
    kw = dict(url=f'{server}/mini.npz?download=1', size=None, head_md5=None,
        classes=('background', 'vessel'))
    mini[1](hash='md5:' + hashlib.md5(b.getvalue()).hexdigest(), **kw)
    f = SegFolder(get_data('mini', root=tmp_path/'root'))
    assert f.codes == ['background', 'vessel'] and f.valid == {'val_00000.png',
        'val_00001.png'} and len(f) == 6
    i = [o.name for o in f.images].index('val_00001.png')
    assert (read_image(f.images[i]) == arrays['val_images'][1]).all() and (read_mask(f.labels[i])
        == arrays['val_label'][1]).all()
    assert len(SegFolder(f.path/'test')) == 3
    b = io.BytesIO()
    np.savez(b, train_images=arrays['train_images'], train_label=arrays['train_label']*7)
    Server.files['/mini.npz'] = b.getvalue()
    mini[1](**kw)
    assert 'label values [0, 7]' in message(get_data, 'mini', root=tmp_path/'other')


def test_every_data_source_can_be_checked():
    for s in DATASETS.values():
        assert s.url is None or s.url.startswith('https://') and (s.hash or s.size and s.head_md5)


def test_names_and_local_folders(tmp_path, monkeypatch):
    p = folder(tmp_path/'own')
    assert get_data(p) == p and get_data('own', root=tmp_path) == tmp_path/'own'
    assert "did you mean 'camvid_tiny'" in message(get_data, 'camvid_tny', root=tmp_path)
    (tmp_path/'empty').mkdir()
    assert 'is empty' in message(get_data, tmp_path/'empty')
    folder(tmp_path/'root'/'camvid_tiny')
    monkeypatch.setenv('SEGBOOK_DATA_ROOT', str(tmp_path/'root'))
    assert get_data('camvid_tiny') == tmp_path/'root'/'camvid_tiny'
    shutil.rmtree(tmp_path/'root'/'camvid_tiny'/'labels')
    assert 'labels' in message(get_data, 'camvid_tiny')


# reading images

def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    x = np.array([[0, 255, 256], [4095, 40000, 65535]], np.uint16)
    for ext in ('png', 'tif'):
        Image.fromarray(x).save(tmp_path/f'a.{ext}')
        y = read_image(tmp_path/f'a.{ext}')
        assert y.shape == (2, 3, 1) and np.allclose(y[..., 0], x/65535, atol=1e-6)
        assert (read_image(tmp_path/f'a.{ext}', 3) == y).all()


def test_modes(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    Image.fromarray(np.dstack([rgb, np.full((5, 7), 9, np.uint8)])).save(tmp_path/'a.png')
    assert (read_image(tmp_path/'a.png') == rgb).all() and read_image(tmp_path/'a.png', 4)[0, 0,
        3] == 9
    Image.fromarray(rgb).convert('CMYK').save(tmp_path/'a.tif')
    assert (read_image(tmp_path/'a.tif') == rgb).all()
    assert read_image(rgb[..., 0]).shape == (5, 7, 1)
    np.save(tmp_path/'a.npy', np.random.default_rng(0).random((6, 5, 7), dtype=np.float32))
    assert read_image(tmp_path/'a.npy', 6).shape == (5, 7, 6)
    assert 'has 6 channels, asked for 4' in message(read_image, np.zeros((50, 70, 6), np.uint8), 4)
    assert 'from 0 to 300' in message(read_image, np.linspace(0, 300, 12).reshape(3, 4))
    (tmp_path/'b.png').write_bytes(b'no image')
    assert 'b.png cannot be read' in message(read_image, tmp_path/'b.png')


# loaders

def test_batches(tmp_path):
    dls = seg_dataloaders(folder(tmp_path/'f'), bs=4)
    xb, yb = dls.one_batch()
    assert xb.shape == (4, 3, 40,
        48) and xb.dtype == torch.float32 and 0 <= xb.min() and xb.max() <= 1
    assert yb.shape == (4, 40, 48) and yb.dtype == torch.int64
    assert dls.vocab == CODES and dls.ignore_index == 2 and dls.channels == 3 and len(
        dls.train_ds) == 8 and len(dls.valid_ds) == 2
    assert dls.valid.new().vocab == CODES and dls.train.ignore_index == 2
    assert not any('Normalize' in type(o).__name__ for o in dls.after_batch.fs)


@pytest.mark.parametrize('kw', [{}, dict(size=(33, 61)), dict(size=32), dict(batch_tfms=None)])
def test_no_new_ids_in_any_mask(tmp_path, kw):
    dls = seg_dataloaders(folder(tmp_path/'f',
            mask=lambda i: (np.indices((40, 48)).sum(0)//5 % 2*2).astype(np.uint8)), bs=8, **kw)
    for _ in range(5):
        for _, yb in dls.train: assert set(yb.unique().tolist()) == {0, 2}


def test_strong_fastai_augmentation_keeps_ids_and_alignment(tmp_path):
    y = lambda i: (np.indices((40, 48)).sum(0)//12 % 2).astype(np.uint8)
    dls = seg_dataloaders(folder(tmp_path/'f', image=lambda i: np.dstack([y(i)*255]*3), mask=y),
        bs=8, batch_tfms=data.mild_tfms(max_rotate=45., max_zoom=1.5, max_warp=.4, max_lighting=0.))
    for _ in range(5):
        for xb, yb in dls.train:
            assert set(yb.unique().tolist()) <= {0, 1}
            assert ((xb[:, 0].numpy() > .5) != (yb.numpy() == 1)).mean() < .03
    x, y = dls.valid.one_batch()
    # validation images are not augmented
    assert ((x[:, 0].numpy() > .5) == (y.numpy() == 1)).all()


def test_masks_are_exact_without_transforms(tmp_path):
    p = folder(tmp_path/'f')
    dls = seg_dataloaders(p, bs=2, batch_tfms=None)
    got = {m.numpy().tobytes() for _, yb in dls.valid for m in yb}
    assert got == {np.asarray(Image.open(f)).astype(np.int64).tobytes()
        for f in sorted((p/'labels').iterdir())[:2]}


def test_sixteen_bit_grey_images(tmp_path):
    dls = seg_dataloaders(folder(tmp_path/'f',
            image=lambda i: np.full((40, 48), 6553*(i+1), np.uint16)), bs=2, batch_tfms=None)
    xb, _ = dls.valid.one_batch()
    assert dls.channels == 1 and xb.shape == (2, 1, 40, 48) and np.allclose(xb[:, 0, 0, 0],
        [.1, .2], atol=1e-3)
    assert seg_dataloaders(tmp_path/'f', bs=2, channels=3, size=20).one_batch()[0].shape == (2, 3,
        20, 20)


def test_four_and_six_channels(tmp_path):
    rng = np.random.default_rng(0)
    p = folder(tmp_path/'f', image=lambda i: rng.integers(0, 256, (40, 48, 4), dtype=np.uint8))
    assert seg_dataloaders(p, bs=2).channels == 3                       # alpha dropped
    dls = seg_dataloaders(p, bs=2, channels=4, size=(24, 30))
    assert dls.one_batch()[0].shape == (2, 4, 24, 30) and dls.one_batch()[0].max() <= 1
    import tifffile
    for f in sorted((p/'images').iterdir()):
        f.unlink()
        tifffile.imwrite(f.with_suffix('.tif'),
            rng.integers(0, 65536, (40, 48, 6), dtype=np.uint16), photometric='minisblack')
    (p/'valid.txt').write_text('00.tif\n')
    xb, _ = seg_dataloaders(p, bs=2).one_batch()
    assert xb.shape == (2, 6, 40, 48) and .9 < xb.max() <= 1


def test_show_batch_draws_a_legend(tmp_path):
    import matplotlib
    matplotlib.use('agg')
    import matplotlib.pyplot as plt
    for kw in ({}, dict(channels=1), dict(channels=4)):
        p = tmp_path/str(len(kw)) if not kw else tmp_path/str(kw['channels'])
        c = kw.get('channels', 3)
        dls = seg_dataloaders(folder(p, image=lambda i:
                np.zeros((40, 48) if c == 1 else (40, 48, c), np.uint8)), bs=4, **kw)
        dls.show_batch(max_n=2)
        assert [t.get_text() for t in plt.gcf().legends[0].get_texts()] == CODES
        plt.close('all')


def test_split_and_order_come_from_the_seed(tmp_path, capsys):
    p = folder(tmp_path/'f', n=20, valid=0)
    def run(seed):
        dls = seg_dataloaders(p, bs=4, seed=seed, batch_tfms=None)
        return [f.name for f in dls.valid_ds.items], [float(xb.sum()) for xb, _ in dls.train]
    assert run(0) == run(0) and run(0)[0] != run(1)[0] and run(0)[1] != run(1)[1]
    assert '4 of 20 images are drawn at random' in capsys.readouterr().out


def test_other_names_lists_and_images_without_masks(tmp_path, capsys):
    p = folder(tmp_path/'f')
    (p/'images').rename(p/'photos')
    (p/'labels').rename(p/'ids')
    (p/'codes.txt').unlink()
    (p/'ids'/'09_P.png').unlink()
    dls = seg_dataloaders(p, bs=2, images='photos', labels='ids', codes=['a', 'b', 'c'],
        valid=['03.png'])
    assert len(dls.train_ds) == 8 and [f.name
        for f in dls.valid_ds.items] == ['03.png'] and dls.ignore_index is None
    assert '1 of 10 images without a mask' in capsys.readouterr().out


def fault(p, what):
    if what == 'one image':
        [f.unlink() for d in ('images', 'labels') for f in sorted((p/d).iterdir())[1:]]
        (p/'valid.txt').unlink()
    elif what == 'no training':
        (p/'valid.txt').write_text('\n'.join(f.name for f in (p/'images').iterdir()))
    elif what == 'no validation': (p/'valid.txt').write_text('\n')
    elif what == 'lost names': (p/'valid.txt').write_text('00.png\n01.jpg\n77.png\n')
    elif what == 'all Void': [Image.new('L', (48, 40), 2).save(f) for f in (p/'labels').iterdir()]
    elif what == 'sizes':
        [Image.open(p/f).resize((24, 20), Image.NEAREST).save(p/f)
            for f in ('images/05.png', 'labels/05_P.png')]
    elif what == 'mask size':
        Image.open(p/'labels'/'04_P.png').resize((24, 20),
            Image.NEAREST).save(p/'labels'/'04_P.png')
    elif what == 'empty':
        shutil.rmtree(p)
        p.mkdir()
    elif what == 'no codes': (p/'codes.txt').unlink()
    elif what == 'doubled codes': (p/'codes.txt').write_text('a\nb\na\n')
    return p


@pytest.mark.parametrize('what,parts', [('one image', ['has one image', '00.png', 'two at least']),
        ('no training', ['No training image', 'valid.txt', 'all 10']),
        ('no validation', ['No validation image', 'random split']),
        ('lost names', ['2 files', '01.jpg, 77.png', 'did you mean 01.png?']),
        ('all Void', ['All pixels of all 8 training masks are Void (id 2)', 'check_masks']),
        ('sizes', ['2 sizes', '9 of 40x48', '05.png', 'size=(40,48)']),
        ('mask size', ['04.png is 40x48 and its mask 20x24', 'nearest']), ('empty', ['images']),
        ('no codes', ['codes']), ('doubled codes', ["'a'", 'Doubled'])])
def test_bad_folder_is_told_before_training(tmp_path, what, parts):
    m = message(seg_dataloaders, fault(folder(tmp_path/'f'), what), bs=2)
    for o in parts: assert o in m, m


def test_batch_larger_than_the_training_set(tmp_path):
    p = folder(tmp_path/'f')
    m = message(seg_dataloaders, p, bs=9)
    assert 'Batches of 9 from 8 training images' in m and 'bs=8' in m
    assert len(seg_dataloaders(p, bs=8).train) == 1
    assert 'bs=0' in message(seg_dataloaders, p, bs=0)


def test_ids_outside_the_codes(tmp_path):
    dls = seg_dataloaders(folder(tmp_path/'f', mask=lambda i: np.full((40, 48), i, np.uint8)), bs=2,
        num_workers=0)
    m = message(lambda: [0 for _ in dls.train])
    assert 'has class id' in m and 'expected 0 to 2 for 3 classes' in m and 'check_masks' in m


def test_size_resizes_mixed_folders(tmp_path):
    p = fault(folder(tmp_path/'f'), 'sizes')
    assert seg_dataloaders(p, bs=2, size=(40, 48)).one_batch()[0].shape == (2, 3, 40, 48)


@pytest.mark.skipif(not REAL.is_dir(), reason='no real data here: set SEGBOOK_REAL_DATA')
@pytest.mark.parametrize('name,n,channels,void',
    [('camvid_tiny', (80, 20), 3, 11), ('membranes', (20, 4), 1, None),
        ('retina', (16, 4), 3, None), ('nuclei', (100, 20), 1, None)])
def test_real_folders(name, n, channels, void):
    dls = seg_dataloaders(get_data(name, root=REAL), bs=2)
    assert (len(dls.train_ds), len(dls.valid_ds)) == n and dls.channels in (channels,
        3) and dls.ignore_index == void
    xb, yb = dls.one_batch()
    assert xb.shape[-2:] == yb.shape[-2:] and yb.max() < len(dls.vocab)


# annotations

@pytest.fixture
def photos(tmp_path):
    (tmp_path/'photos').mkdir()
    for n in ('a.jpg', 'b.png'): Image.new('RGB', (6, 4)).save(tmp_path/'photos'/n)
    return tmp_path/'photos'


def coco(file, anns, **kw):
    d = dict(images=[dict(id=1, file_name='a.jpg', width=6, height=4),
            dict(id=2, file_name='b.png', width=6, height=4)],
        categories=[dict(id=5, name='cat'), dict(id=2, name='dog')], annotations=anns)
    file.write_text(json.dumps({**d, **kw}))
    return file


SMALL = dict(id=1, image_id=1, category_id=5, area=2, segmentation=[[1, 1, 3, 1, 3, 2, 1, 2]])
LARGE = dict(id=2, image_id=1, category_id=2, area=16, segmentation=[[0, 0, 4, 0, 4, 4, 0, 4]])


def test_coco_by_hand(photos, tmp_path):
    twice = dict(id=3, image_id=2, category_id=5, area=2,
        segmentation=[[0, 0, 1, 0, 1, 1, 0, 1], [5, 3, 6, 3, 6, 4, 5, 4]])
    crowd = dict(id=4, image_id=2, category_id=5, area=4, iscrowd=1,
        segmentation=dict(size=[4, 6], counts=[5, 2, 17]))
    f = SegFolder(from_coco(coco(tmp_path/'c.json', [SMALL, LARGE, twice, crowd]), photos,
            tmp_path/'out', crowd='Void'))
    assert f.codes == ['background', 'dog', 'cat',
        'Void'] and f.ignore_index == 3 and [o.name for o in f.images] == ['a.jpg', 'b.png']
    assert read_mask(f.labels[0]).tolist() == [[1, 1, 1, 1, 0, 0], [1, 2, 2, 1, 0, 0],
        [1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 0, 0]]
    assert read_mask(f.labels[1]).tolist() == [[2, 0, 0, 0, 0, 0], [0, 3, 0, 0, 0, 0],
        [0, 3, 0, 0, 0, 0], [0, 0, 0, 0, 0, 2]]


def test_compressed_run_length_code(photos, tmp_path):
    ann = dict(SMALL, segmentation=dict(size=[4, 6], counts='52'))
    try: from pycocotools import mask
    except ImportError:
        assert 'pip install pycocotools' in message(from_coco, coco(tmp_path/'c.json', [ann]),
            photos, tmp_path/'out')
        return
    m = np.zeros((4, 6), np.uint8)
    m[1:3, 2] = 1
    ann['segmentation']['counts'] = mask.encode(np.asfortranarray(m))['counts'].decode()
    assert (read_mask(SegFolder(from_coco(coco(tmp_path/'c.json', [ann]), photos,
                tmp_path/'out')).labels[0]) == 2*m).all()


@pytest.mark.parametrize('anns,kw,parts',
    [([dict(id=9, image_id=1, category_id=5, bbox=[0, 0, 2, 2])], {},
            ['a.jpg, annotation 9', 'boxes alone']),
        ([dict(SMALL, segmentation=[[1, 1, 2, 2]])], {}, ['annotation 1', 'polygon of 2 points']),
        ([dict(SMALL, category_id=77)], {}, ['category 77']),
        ([dict(SMALL, segmentation=dict(size=[4, 6], counts=[5, 2]))], {}, ['7 pixels', '4x6']),
        ([], dict(images=[dict(id=1, file_name='z.jpg', width=6, height=4)]), ['z.jpg is not in']),
        ([], dict(images=[dict(id=1, file_name='a.jpg', width=60, height=40)]),
            ['is 4x6, the annotations say 40x60']),
        ([], dict(categories=None, images=None), ['a.json'])])
def test_bad_coco(photos, tmp_path, anns, kw, parts):
    f = coco(tmp_path/'a.json', anns, **kw)
    if kw.get('images', 0) is None: f.write_text('[]')
    m = message(from_coco, f, photos, tmp_path/'out')
    assert all(o in m for o in parts) and not (tmp_path/'out').exists(), m


def labelme(folder, name, shapes):
    (folder/f'{name[0]}.json').write_text(json.dumps(dict(version='5', imagePath=name,
                shapes=shapes)))


def test_labelme_by_hand(photos, tmp_path):
    box = dict(label='wall', shape_type='rectangle', points=[[6, 4], [0, 1]])
    tri = dict(label='door', shape_type='polygon', points=[[4.2, 0], [6, 0], [6, 4]])
    dot = dict(label='Void', shape_type='circle', points=[[1, 2], [1.8, 2]])
    labelme(photos, 'a.jpg', [box, tri, dot])
    labelme(photos, 'b.png', [])
    f = SegFolder(from_labelme(photos, tmp_path/'out'))
    assert f.codes == ['background', 'Void', 'door', 'wall'] and f.ignore_index == 1
    assert read_mask(f.labels[0]).tolist() == [[0, 0, 0, 0, 2, 2], [1, 1, 3, 3, 3, 2],
        [1, 1, 3, 3, 3, 2], [3, 3, 3, 3, 3, 3]]
    assert read_mask(f.labels[1]).max() == 0


@pytest.mark.parametrize('shapes,parts',
    [([dict(label='x', shape_type='line', points=[[0, 0], [1, 1]])],
            ['a.json', "'line'", 'Draw it as a polygon']),
        ([dict(label='x', points=[[0, 0], [1, 1]])], ['a.json', "'x'", '2 points'])])
def test_bad_labelme(photos, tmp_path, shapes, parts):
    labelme(photos, 'a.jpg', shapes)
    m = message(from_labelme, photos, tmp_path/'out')
    assert all(o in m for o in parts) and not (tmp_path/'out').exists()


def test_annotations_elsewhere(photos, tmp_path):
    assert 'No .json file' in message(from_labelme, photos, tmp_path/'out')
    labelme(photos, 'c.jpg', [])
    assert 'annotates c.jpg' in message(from_labelme, photos, tmp_path/'out')
    (tmp_path/'full').mkdir()
    (tmp_path/'full'/'x').write_text('')
    assert 'not empty' in message(from_labelme, photos, tmp_path/'full')
    (photos/'c.json').unlink()
    labelme(photos, 'a.jpg', [dict(label='bus', points=[[0, 0], [3, 0], [3, 3]])])
    assert "'bus', which codes does not have" in message(from_labelme, photos, tmp_path/'out',
        codes=['background', 'wall'])
