"Data by name: downloads from a server on this machine, checked, unpacked, kept; local folders."
import hashlib
import http.server
import io
import shutil
import tarfile
import threading

import numpy as np
import pytest
from data_folders import CODES, folder, message

from segbook.data import (
    DATASETS, DataSource, download, get_data, make_scenes, read_image, seg_dataloaders,
)
from segbook.masks import SegFolder, read_mask


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
    monkeypatch.setattr(download, 'make_scenes', lambda path: make_scenes(path, n=2))
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


def test_a_name_without_a_likeness_gets_no_suggestion(tmp_path):
    m = message(get_data, 'zzzz', root=tmp_path)
    assert 'did you mean' not in m and 'one of scenes, cells' in m
