"Data by name: downloads from a server on this machine, checked, unpacked, kept; local folders."
import gzip
import hashlib
import http.server
import io
import os
import shutil
import signal
import tarfile
import threading
import time
import zipfile

import numpy as np
import pytest
from data_folders import CODES, folder, message
from hypothesis import given, strategies as st
from properties import examples

from segbook.data import (
    DATASETS, DataSource, download, get_data, make_scenes, read_image, seg_dataloaders,
)
from segbook.data import archives, transfer
from segbook.data.archives import unpack_tar
from segbook.masks import SegbookError, SegFolder, read_mask


class Server(http.server.SimpleHTTPRequestHandler):
    files: dict = {}
    def log_message(self, *args): pass
    def do_GET(self):
        body = self.files.get(self.path.split('?')[0])
        if callable(body): return body(self)
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


# ---- servers that do what they like

NOISE = np.random.default_rng(0).integers(0, 256, 600_000, dtype=np.uint8).tobytes()


def answer(h, body, status=200, length=None, **headers):
    "Answer the request `h`; the bytes are sent as they come"
    h.send_response(status)
    if length is not False: h.send_header('Content-Length', str(len(body) if length is None
                else length))
    for k, v in headers.items(): h.send_header(k.replace('_', '-'), v)
    h.end_headers()
    try: h.wfile.write(body)
    except OSError: pass  # the client has had enough


def large(path):
    "A data folder whose archive is larger than 600 kB"
    return folder(path, n=80, size=(50, 50), image=lambda i: np.frombuffer(NOISE, np.uint8,
            7500, 7400*i).reshape(50, 50, 3))


def ranged(body, cut=200_000, asked=None):
    "A server that gives `cut` bytes a time, and hangs up"
    def get(h):
        start = int(h.headers.get('Range', 'bytes=0-')[6:-1])
        if asked is not None: asked.append(start)
        part = body[start:]
        answer(h, part[:cut], 206 if start else 200, len(part),
            **({'Content_Range': f'bytes {start}-{len(body)-1}/{len(body)}'} if start else {}))
    return get


@pytest.fixture
def big(mini, tmp_path):
    body = archive(large(tmp_path/'large'))
    mini[1](size=len(body), head_md5=hashlib.md5(body[:1 << 20]).hexdigest())
    return body, mini[1]


def test_a_transfer_that_breaks_off_goes_on(big, tmp_path, capsys):
    asked = []
    Server.files['/mini.tgz'] = ranged(big[0], asked=asked)
    assert len(SegFolder(get_data('mini', root=tmp_path/'root'))) == 80
    assert asked == [*range(0, len(big[0]), 200_000)] and left(tmp_path/'root') == ['mini']
    assert 'going on' in capsys.readouterr().out


def test_a_server_without_parts_is_asked_from_the_beginning(big, tmp_path):
    n = []
    def get(h):
        n.append(1)
        answer(h, big[0][:100_000*len(n)], length=len(big[0]))
    Server.files['/mini.tgz'] = get
    assert len(SegFolder(get_data('mini', root=tmp_path/'root'))) == 80


@pytest.mark.parametrize('says', ['bytes 7-99/100', '', 'bytes 0-9/10', 'nonsense'])
def test_another_part_than_the_one_asked_for(big, tmp_path, says):
    def get(h):
        if h.headers.get('Range'): return answer(h, b'x'*1000, 206, Content_Range=says)
        answer(h, big[0][:100_000], length=len(big[0]))
    Server.files['/mini.tgz'] = get
    m = message(get_data, 'mini', root=tmp_path/'root')
    assert 'another part' in m and left(tmp_path/'root') == []


def test_what_was_kept_of_another_file_is_thrown_away(big, tmp_path, monkeypatch):
    body, register = big
    (tmp_path/'root').mkdir()
    for kept in (b'x'*1000, b'x'*len(body), b'x'*(len(body) + 5), body[:1000]):
        Server.files['/mini.tgz'] = ranged(body, cut=len(body))
        (tmp_path/'root'/'.mini.tgz.segbook-resume').write_bytes(kept)
        assert len(SegFolder(get_data('mini', root=tmp_path/'root'))) == 80
        assert left(tmp_path/'root') == ['mini']
        shutil.rmtree(tmp_path/'root'/'mini')


def test_a_large_part_is_kept_for_the_next_try(big, tmp_path, monkeypatch):
    body = big[0]
    monkeypatch.setattr(transfer, '_KEPT', 1000)
    def once(h):
        if h.headers.get('Range'): return h.send_error(503)
        answer(h, body[:300_000], length=len(body))
    Server.files['/mini.tgz'] = once
    m = message(get_data, 'mini', root=tmp_path/'root')
    assert 'answered 503' in m and '300,000 bytes of it are kept' in m
    asked = []
    Server.files['/mini.tgz'] = ranged(body, len(body), asked)
    assert len(SegFolder(get_data('mini', root=tmp_path/'root'))) == 80
    assert asked == [300_000] and left(tmp_path/'root') == ['mini']


@pytest.mark.parametrize('status', [400, 401, 403, 404, 410, 429, 500, 502, 503, 204, 304])
def test_answers_that_are_no_file(mini, tmp_path, status):
    Server.files['/mini.tgz'] = lambda h: answer(h, b'', status)
    m = message(get_data, 'mini', root=tmp_path/'root')
    assert f'answered {status}' in m and 'by hand' in m and left(tmp_path/'root') == []


def test_redirects_without_end(mini, tmp_path):
    Server.files['/mini.tgz'] = lambda h: answer(h, b'', 302, Location='/mini.tgz')
    assert 'redirects without end' in message(get_data, 'mini', root=tmp_path/'root')


def test_a_redirect_is_followed(mini, tmp_path):
    Server.files['/other'] = mini[0]
    Server.files['/mini.tgz'] = lambda h: answer(h, b'', 302, Location='/other')
    assert len(SegFolder(get_data('mini', root=tmp_path/'root'))) == 10


@pytest.mark.parametrize('promised', [True, False])
def test_more_than_the_known_size_is_not_written(mini, tmp_path, promised, monkeypatch):
    sent = []
    def endless(h):
        h.send_response(200)
        if promised: h.send_header('Content-Length', str(10**15))
        h.end_headers()
        try:
            while len(sent) < 2000:
                h.wfile.write(bytes(1 << 20))
                sent.append(1)
        except OSError: pass
    Server.files['/mini.tgz'] = endless
    m = message(get_data, 'mini', root=tmp_path/'root')
    assert 'bytes or more, expected' in m and left(tmp_path/'root') == [] and len(sent) < 100


def test_no_size_is_known_and_no_end_comes(mini, tmp_path, monkeypatch):
    mini[1](size=None, head_md5=None, hash='md5:' + '0'*32)
    monkeypatch.setattr(transfer, '_MOST', 100_000)
    Server.files['/mini.tgz'] = lambda h: answer(h, bytes(200_000), length=False)
    m = message(get_data, 'mini', root=tmp_path/'root')
    assert 'expected 100,000' in m and left(tmp_path/'root') == []


@pytest.mark.parametrize('how', ['nothing', 'drops', 'after the head'])
def test_a_server_that_stalls_is_given_up(mini, tmp_path, monkeypatch, how):
    monkeypatch.setattr(transfer, '_PATIENCE', .5)
    ended = threading.Event()
    def stalls(h):
        if how == 'nothing': return ended.wait(600)
        h.send_response(200)
        h.send_header('Content-Length', str(len(mini[0])))
        h.end_headers()
        try:
            while not ended.wait(.1):
                if how == 'drops': h.wfile.write(b'x')
        except OSError: pass
    Server.files['/mini.tgz'] = stalls
    m = message(get_data, 'mini', root=tmp_path/'root')
    ended.set()
    assert 'broke off' in m and left(tmp_path/'root') == []


def test_another_file_of_the_same_size(mini, tmp_path):
    Server.files['/mini.tgz'] = bytes(len(mini[0]))
    m = message(get_data, 'mini', root=tmp_path/'root')
    assert 'another file than the one published' in m and left(tmp_path/'root') == []


@pytest.mark.parametrize('cut', [0, 1, 17, -1])
def test_lengths_that_lie(mini, tmp_path, cut):
    Server.files['/mini.tgz'] = lambda h: answer(h, mini[0], length=cut % len(mini[0]))
    m = message(get_data, 'mini', root=tmp_path/'root')
    assert 'bytes, expected' in m and left(tmp_path/'root') == []


def test_no_room_on_the_disk(mini, tmp_path, monkeypatch):
    few = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(transfer.shutil, 'disk_usage', lambda p: few)
    m = message(get_data, 'mini', root=tmp_path/'root')
    assert '10 are free' in m and 'SEGBOOK_DATA_ROOT' in m and left(tmp_path/'root') == []


# ---- roots and names

def test_roots_that_cannot_be_used(mini, tmp_path):
    (tmp_path/'file').write_text('x')
    roots = [tmp_path/'file', tmp_path/'file'/'below', tmp_path/('x'*300)]
    try:
        (tmp_path/'loop').symlink_to(tmp_path/'loop')
        roots += [tmp_path/'loop', tmp_path/'loop'/'below']
    except OSError: pass
    for root in roots:
        for name in ('mini', 'scenes', 'own'):
            m = message(get_data, name, root=root)
            assert 'Traceback' not in m and ('No data set' in m or root.name[:9] in m)
    assert 'names a home folder' in message(get_data, 'mini', root='~nobody-of-that-name/x')
    assert 'names a home folder' in message(get_data, '~nobody-of-that-name/x')


def test_what_stands_in_the_place_of_the_folder(mini, tmp_path):
    (tmp_path/'root').mkdir()
    (tmp_path/'root'/'mini').write_text('x')
    assert 'is no folder' in message(get_data, 'mini', root=tmp_path/'root')
    assert (tmp_path/'root'/'mini').read_text() == 'x'


@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='no named pipes here')
def test_a_pipe_in_the_place_of_the_archive_does_not_hang(mini, tmp_path):
    (tmp_path/'root').mkdir()
    os.mkfifo(tmp_path/'root'/'mini.tgz')
    assert 'is no regular file' in message(get_data, 'mini', root=tmp_path/'root')


@pytest.mark.parametrize('name', ['', ' ', '\0', 'x'*300, '..\0', None, 7, '/dev/null'])
def test_odd_names(tmp_path, name):
    assert str(name)[:5].strip('\0') in message(get_data, *[str(name)], root=tmp_path)


def test_unreadable_folder(tmp_path):
    p = folder(tmp_path/'shut')
    p.chmod(0)
    try:
        if os.access(p, os.R_OK): pytest.skip('root may read anything')
        assert 'permissions' in message(get_data, p)
    finally: p.chmod(0o755)


# ---- many at once, and killed

forking = pytest.mark.skipif(not hasattr(os, 'fork'), reason='no forks here')


def client(root):
    "A process of its own that gets the data; it knows what this one has registered"
    if pid := os.fork(): return pid
    try:
        get_data('mini', root=root)
        os._exit(0)
    finally: os._exit(1)


@forking
def test_three_processes_fetch_one_set_once(big, tmp_path):
    asked = []
    def slowly(h):
        time.sleep(.5)
        ranged(big[0], len(big[0]), asked)(h)
    Server.files['/mini.tgz'] = slowly
    pids = [client(tmp_path/'root') for _ in range(3)]
    assert [os.waitpid(p, 0)[1] for p in pids] == [0]*3
    assert asked == [0] and left(tmp_path/'root') == ['mini']


def wait_until(pid, there):
    "Wait until `there()`, or the process has ended"
    while not there() and not os.waitpid(pid, os.WNOHANG)[0]: time.sleep(.001)


def kill(pid):
    try: os.kill(pid, signal.SIGKILL)
    except ProcessLookupError: return
    try: os.waitpid(pid, 0)
    except ChildProcessError: pass


@forking
@pytest.mark.parametrize('when', [100_000, 400_000, 'unpacking'])
def test_killed_and_begun_again(big, tmp_path, when):
    "What a killed process had fetched is gone on with; nothing is left when it is done."
    body, root, asked = big[0], tmp_path/'root', []
    held = threading.Event()
    def stops(h):
        if when == 'unpacking': return answer(h, body)
        answer(h, body[:when], length=len(body))
        held.wait(600)
    def there():
        sizes = {f.name: f.lstat().st_size for f in root.iterdir()} if root.exists() else {}
        if when == 'unpacking': return any('.segbook-part' in n for n in sizes)
        return sizes.get('.mini.tgz.segbook-resume', 0) > when - 80_000
    Server.files['/mini.tgz'] = stops
    pid = client(root)
    try: wait_until(pid, there)
    except FileNotFoundError: pass
    kill(pid)
    held.set()
    Server.files['/mini.tgz'] = ranged(body, len(body), asked)
    assert len(SegFolder(get_data('mini', root=root))) == 80 and left(root) == ['mini']
    assert all(a > 10_000 for a in asked)


@forking
@given(st.integers(0, 400))
@examples(2)
def test_killed_at_any_moment(tmp_path_factory, ms):
    path = tmp_path_factory.mktemp('killed')
    body = archive(large(path/'large'))
    http_server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Server)
    threading.Thread(target=http_server.serve_forever, daemon=True).start()
    Server.files = {'/mini.tgz': ranged(body)}
    DATASETS['mini'] = DataSource('mini', '', url=f'http://127.0.0.1:{http_server.server_port}/'
        'mini.tgz', size=len(body), hash='md5:' + hashlib.md5(body).hexdigest())
    try:
        for _ in range(3):
            pid = client(path/'root')
            time.sleep(ms/1000)
            kill(pid)
        assert len(SegFolder(get_data('mini', root=path/'root'))) == 80
        assert left(path/'root') == ['mini']
    finally:
        del DATASETS['mini']
        http_server.shutdown()
        http_server.server_close()
        shutil.rmtree(path)


# ---- archives

def test_damage_behind_the_first_mib_is_found(mini, tmp_path):
    src = folder(tmp_path/'noise', n=20, size=(200, 200))
    body = bytearray(archive(src))
    assert len(body) > 1_500_000
    body[1_200_000] ^= 1
    Server.files['/mini.tgz'] = bytes(body)
    mini[1](size=len(body), head_md5=hashlib.md5(body[:1 << 20]).hexdigest())
    m = message(get_data, 'mini', root=tmp_path/'root')
    assert 'it is damaged' in m and '/mini.tgz' in m and left(tmp_path/'root') == []


@pytest.mark.parametrize('kind', ['zeros', 'many', 'header', 'lies'])
def test_bombs_are_not_unpacked(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(archives, 'MOST_FILES', 50)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode='w:gz', compresslevel=9) as t:
        for i in range(60 if kind == 'many' else 1):
            m = tarfile.TarInfo(f'mini/{i}')
            m.size = {'zeros': 300 << 20, 'header': 1 << 40}.get(kind, 5)
            if kind == 'lies': m.pax_headers = {'comment': 'x'*(30 << 20)}
            if kind == 'header': t.fileobj.write(m.tobuf())
            else: t.addfile(m, io.BytesIO(bytes(m.size)))
    (tmp_path/'a.tgz').write_bytes(out.getvalue())
    (tmp_path/'out').mkdir()
    m = message(unpack_tar, tmp_path/'a.tgz', tmp_path/'out')
    assert ('more than 50 files' if kind == 'many' else 'it unpacks to more than'
        if kind != 'header' else 'damaged') in m
    assert sum(f.stat().st_size for f in (tmp_path/'out').rglob('*')) < 50 << 20


def test_zip_bomb(mini, server, tmp_path):
    b = io.BytesIO()
    with zipfile.ZipFile(b, 'w', zipfile.ZIP_DEFLATED) as z:
        z.writestr('train_images.npy', bytes(200 << 20))
    Server.files['/mini.npz'] = b.getvalue()
    mini[1](url=f'{server}/mini.npz', size=None, head_md5=None, classes=('a', 'b'))
    m = message(get_data, 'mini', root=tmp_path/'root')
    assert 'it unpacks to more than' in m and left(tmp_path/'root') == []


@pytest.mark.parametrize('arrays,says', [
        (dict(train_images=np.zeros((2, 8, 8)), train_label=np.zeros((2, 8, 8), np.uint8)),
            'uint8'),
        (dict(train_images=np.zeros((2, 8, 8), np.uint8), train_label=np.zeros((2, 8), np.uint8)),
            'do not belong'),
        (dict(train_images=np.uint8(3), train_label=np.uint8(3)), 'do not belong'),
        (dict(train_images=np.zeros((2, 8, 8, 5), np.uint8),
                train_label=np.zeros((2, 8, 8), np.uint8)), 'do not belong'),
        (dict(train_images=np.array([{}])), 'not as expected'), (dict(), 'not as expected')])
def test_arrays_of_another_kind(mini, server, tmp_path, arrays, says):
    b = io.BytesIO()
    np.savez(b, **arrays)
    Server.files['/mini.npz'] = b.getvalue()
    mini[1](url=f'{server}/mini.npz', size=None, head_md5=None, classes=('a', 'b'))
    m = message(get_data, 'mini', root=tmp_path/'root')
    assert says in m and left(tmp_path/'root') == []


@pytest.mark.parametrize('kind', ['fifo', 'hard link', 'twice', 'file as folder', 'long', 'nul'])
def test_odd_members(tmp_path, kind):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode='w:gz') as t:
        for name in {'twice': ['a/x', 'A/X'], 'file as folder': ['a', 'a/x'],
                'long': ['x'*300]}.get(kind, ['a', 'b']):
            m = tarfile.TarInfo(name)
            if kind == 'fifo': m.type = tarfile.FIFOTYPE
            if kind == 'hard link' and name == 'b': m.type, m.linkname = tarfile.LNKTYPE, 'a'
            if kind == 'nul': m.pax_headers = {'path': 'a\0b'}
            t.addfile(m)
    (tmp_path/'a.tgz').write_bytes(out.getvalue())
    (tmp_path/'out').mkdir()
    assert 'it ' in message(unpack_tar, tmp_path/'a.tgz', tmp_path/'out')
    assert not [f for f in tmp_path.rglob('*') if f.is_symlink() or f.is_fifo()]


# ---- mutated archives: the right tree or an error, and nothing outside

TREE = {'mini/codes.txt': b'a\nb\n', 'mini/images/0.png': NOISE[:700],
    'mini/labels/0_P.png': bytes(range(200)), 'mini/empty': b''}


def packed(how):
    "TREE as the bytes of an archive"
    out = io.BytesIO()
    if how == 'zip':
        with zipfile.ZipFile(out, 'w', zipfile.ZIP_DEFLATED) as z:
            for k, v in TREE.items(): z.writestr(k, v)
        return out.getvalue()
    with tarfile.open(fileobj=out, mode=f'w:{how}') as t:
        for k, v in TREE.items():
            m = tarfile.TarInfo(k)
            m.size = len(v)
            t.addfile(m, io.BytesIO(v))
    return out.getvalue()


PACKED = {how: packed(how) for how in ('gz', 'bz2', 'xz', 'zip')}


def test_a_zip_whose_directory_swallows_a_file(tmp_path):
    body = bytearray(PACKED['zip'])
    end, last = body.rfind(b'PK\5\6'), body.rfind(b'PK\1\2')
    before = body.rfind(b'PK\1\2', 0, last)
    body[before+32:before+34] = (end - last).to_bytes(2, 'little')  # its comment, all the rest
    (tmp_path/'a.zip').write_bytes(body)
    with zipfile.ZipFile(tmp_path/'a.zip') as z: assert len(z.namelist()) == len(TREE) - 1
    assert f'its end names {len(TREE)}' in message(archives.check_zip, tmp_path/'a.zip')


def mutated(body, changes):
    "The bytes `body` after (kind, place, value) changes"
    b = bytearray(body)
    for kind, at, value in changes:
        if not b: break
        at %= len(b)
        if kind == 'byte': b[at] = value
        elif kind == 'bit': b[at] ^= 1 << value % 8
        elif kind == 'cut': del b[at:]
        elif kind == 'drop': del b[at:at + value + 1]
        elif kind == 'zero': b[at:at + value] = bytes(min(value, len(b) - at))
        elif kind == 'double': b[at:at] = b[at:at + value]
        else: b += bytes([value])*(at % 600)
    return bytes(b)


CHANGE = st.sampled_from(['byte', 'bit', 'cut', 'drop', 'zero', 'double', 'add'])
CHANGES = st.lists(st.tuples(CHANGE, st.integers(0, 1 << 20), st.integers(0, 255)), min_size=1,
    max_size=3)


def tree(path):
    return {f.relative_to(path).as_posix(): f.read_bytes() for f in path.rglob('*') if f.is_file()}


@given(st.sampled_from(sorted(PACKED)), CHANGES, st.booleans())
@examples(60)
def test_a_damaged_archive_gives_its_tree_or_an_error(tmp_path_factory, how, changes, inside):
    path = tmp_path_factory.mktemp('mutated')
    (path/'in').mkdir()
    body = PACKED[how]
    if inside and how == 'gz':  # a sound stream of a damaged archive
        body = gzip.compress(mutated(gzip.decompress(body), changes), mtime=0)
    else: body = mutated(body, changes)
    (path/'a').write_bytes(body)
    try:
        if how == 'zip':
            archives.check_zip(path/'a')
            with zipfile.ZipFile(path/'a') as z: got = {k: z.read(k) for k in z.namelist()}
        else:
            unpack_tar(path/'a', path/'in')
            got = tree(path/'in')
        # no checksum of zip holds for its names: what has its name is right
        if how == 'zip': got = {k: got.get(k, v) for k, v in TREE.items()}
        if not inside: assert got == TREE, (how, changes)
    except SegbookError as e: assert str(e).startswith('it ')
    finally:
        assert sorted(f.name for f in path.iterdir()) == ['a', 'in']
        shutil.rmtree(path)
