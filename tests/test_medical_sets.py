"MedSegBench's sets by name: arrays from a server on this machine that also cuts, spoils, stalls."
import hashlib
import io
import threading

import numpy as np
import pytest
from data_folders import message
from test_download import Server, answer, left, ranged, server  # noqa: F401

from segbook.data import DATASETS, DataSource, get_data, read_image
from segbook.data import transfer
from segbook.masks import SegFolder, check_masks, read_mask

SETS = 'kvasir', 'drive', 'chasedb1', 'cellnuclei', 'busi', 'isic2018', 'wbc'
SPLIT = dict(train=5, val=2, test=3)


def arrays(top=1, grey=False, size=(24, 20), seed=0):
    "Arrays of the names and shapes that the sets have: noise, which no compression shrinks"
    rng, res = np.random.default_rng(seed), {}
    for s, n in SPLIT.items():
        shape = (n, *size) if grey else (n, *size, 3)
        res[f'{s}_images'] = rng.integers(0, 256, shape, dtype=np.uint8)
        res[f'{s}_label'] = rng.integers(0, top + 1, (n, *size), dtype=np.uint8)
    return res


def packed(xs):
    "The bytes of an .npz"
    b = io.BytesIO()
    np.savez_compressed(b, **xs)
    return b.getvalue()


@pytest.fixture
def fetch(server, tmp_path, monkeypatch):  # noqa: F811
    "fetch(name, body): `get_data(name)` of a real entry of the table, its address and md5 ours"
    def register(name, body, real=None):
        src, digest = DATASETS[name], hashlib.md5(body if real is None else real).hexdigest()
        monkeypatch.setitem(DATASETS, name, DataSource(**{**src.__dict__,
                    'url': f'{server}/{src.file}?download=1', 'hash': f'md5:{digest}'}))
        Server.files[f'/{src.file}'] = body
        return tmp_path/'root'
    return register


@pytest.mark.parametrize('name', SETS)
def test_each_set_stands_in_the_table_with_check_and_licence(name):
    for px in (128, 256, 512):
        s = DATASETS[f'{name}_{px}']
        assert s.url.startswith('https://zenodo.org/records/1335') and s.file == f'{name}_{px}.npz'
        algorithm, digest = s.hash.split(':')
        assert algorithm == 'md5' and len(digest) == 32 and int(digest, 16)
        assert s.licence in s.terms and s.origin in s.terms and len(s.images) == 3
        assert s.classes[0] == 'background' and s.check == 'md5 of the whole file'
    assert len({s.hash for s in DATASETS.values() if s.hash}) == 21  # none stands twice


@pytest.mark.parametrize('name,grey,top', [('busi_128', True, 1), ('drive_128', False, 255),
        ('wbc_128', False, 2)])
def test_arrays_become_a_folder_with_the_sets_own_split(fetch, name, grey, top, capsys):
    xs = arrays(min(top, 2), grey)
    if top == 255:
        for s in SPLIT: xs[f'{s}_label'] = (xs[f'{s}_label'] % 2)*np.uint8(255)
    root = fetch(name, packed(xs))
    f = SegFolder(get_data(name, root=root))
    assert f.codes == list(DATASETS[name].classes)
    assert f.valid == {'val_00000.png', 'val_00001.png'} and len(f) == 7
    for image, label in zip(f.images, f.labels):
        split, i = image.stem.split('_')
        x, y = (xs[f'{split}_{o}'][int(i)] for o in ('images', 'label'))
        assert (read_image(image).squeeze() == x).all()
        assert (read_mask(label) == (y > 0 if top == 255 else y)).all()
    assert len(SegFolder(f.path/'test')) == 3 and check_masks(f.path, progress=False).ok
    said = capsys.readouterr().out
    assert said.count(DATASETS[name].terms) == 1  # at the first use, and once
    Server.files.clear()
    get_data(name, root=root)
    assert DATASETS[name].terms not in capsys.readouterr().out


def test_a_class_too_many_is_no_such_set(fetch):
    root = fetch('wbc_128', packed(arrays(3)))
    assert 'expected 0 to 2' in message(get_data, 'wbc_128', root=root) and left(root) == []


def test_a_set_without_a_size_is_the_middle_one(fetch, tmp_path):
    root = fetch('drive_256', packed(arrays()))
    assert get_data('drive', root=root) == root/'drive_256'
    (root/'kvasir').mkdir()
    (root/'kvasir'/'mine').mkdir()
    assert get_data('kvasir', root=root) == root/'kvasir'  # a folder of one's own comes first


def test_without_a_checksum_the_arrays_alone_decide(fetch, monkeypatch):
    root = fetch('drive_128', packed(arrays()))
    monkeypatch.setitem(DATASETS, 'drive_128', DataSource(**{**DATASETS['drive_128'].__dict__,
                'hash': None}))
    assert 'no checksum is published' in DATASETS['drive_128'].check
    assert len(SegFolder(get_data('drive_128', root=root))) == 7


def spoilt(body):
    "One bit of an array turned over"
    b = bytearray(body)
    b[len(b)//2] ^= 16
    return bytes(b)


@pytest.mark.parametrize('how', ['cut', 'bit', 'other', 'page'])
@pytest.mark.parametrize('checked', [True, False])
def test_what_is_not_the_file_leaves_nothing(fetch, monkeypatch, how, checked):
    body = packed(arrays())
    bad = dict(cut=body[:-300], bit=spoilt(body), other=packed(dict(x=np.zeros(3))),
        page=b'<html>sign in</html>')[how]
    root = fetch('isic2018_128', bad, real=body)
    if not checked:
        monkeypatch.setitem(DATASETS, 'isic2018_128', DataSource(
                **{**DATASETS['isic2018_128'].__dict__, 'hash': None}))
    m = message(get_data, 'isic2018_128', root=root)
    assert ('has md5' if checked else 'cannot be unpacked') in m and left(root) == []


def test_no_such_file(fetch):
    root = fetch('busi_256', b'')
    Server.files.clear()
    m = message(get_data, 'busi_256', root=root)
    assert 'answered 404' in m and 'busi_256.npz' in m and 'by hand' in m and left(root) == []


def test_a_server_that_stalls_is_given_up_and_the_next_try_goes_on(fetch, monkeypatch):
    monkeypatch.setattr(transfer, '_PATIENCE', .3)
    monkeypatch.setattr(transfer, '_KEPT', 1000)
    body, asked, held = packed(arrays(size=(96, 96))), [], threading.Event()
    root = fetch('cellnuclei_128', body)
    def stall(h):
        h.send_response(206 if 'Range' in h.headers else 200)
        start = int(h.headers.get('Range', 'bytes=0-')[6:-1])
        if start: h.send_header('Content-Range', f'bytes {start}-{len(body)-1}/{len(body)}')
        h.send_header('Content-Length', str(len(body) - start))
        h.end_headers()
        if not start: h.wfile.write(body[:150_000])
        held.wait(5)
    file = f'/{DATASETS["cellnuclei_128"].file}'
    Server.files[file] = stall
    m = message(get_data, 'cellnuclei_128', root=root)
    held.set()
    assert 'bytes of it are kept' in m and not (root/'cellnuclei_128').exists()
    Server.files[file] = ranged(body, len(body), asked)
    assert len(SegFolder(get_data('cellnuclei_128', root=root))) == 7
    assert asked == [150_000] and left(root) == ['cellnuclei_128']


def test_a_transfer_that_breaks_off_goes_on(fetch, capsys):
    body, asked = packed(arrays(size=(96, 96))), []
    root = fetch('chasedb1_128', body)
    Server.files[f'/{DATASETS["chasedb1_128"].file}'] = ranged(body, 100_000, asked)
    assert len(SegFolder(get_data('chasedb1_128', root=root))) == 7
    assert asked == [*range(0, len(body), 100_000)] and 'going on' in capsys.readouterr().out


@pytest.mark.parametrize('member', ['../evil.npy', '/evil.npy', 'a/../../evil.npy'])
def test_members_with_the_names_of_other_places_are_never_written(fetch, tmp_path, member):
    import zipfile
    b = io.BytesIO(packed(arrays()))
    with zipfile.ZipFile(b, 'a') as z: z.writestr(member, b'boo')
    root = fetch('kvasir_128', b.getvalue())
    get_data('kvasir_128', root=root)
    assert left(root) == ['kvasir_128'] and not list(tmp_path.rglob('evil*'))


def test_objects_are_never_unpickled(fetch):
    class Boom:
        def __reduce__(self): return exec, ('raise SystemExit("unpickled")',)
    xs = dict(arrays(), train_images=np.array([Boom()], dtype=object))
    root = fetch('kvasir_128', packed(xs))
    assert 'cannot be unpacked' in message(get_data, 'kvasir_128', root=root) and left(root) == []


def test_a_permission_to_answer_is_not_asked_twice(fetch):
    root = fetch('busi_128', packed(arrays(grey=True)))
    Server.files[f'/{DATASETS["busi_128"].file}'] = lambda h: answer(h, b'', 503)
    assert 'answered 503' in message(get_data, 'busi_128', root=root) and left(root) == []
