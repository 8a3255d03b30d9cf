"Drawn data: scenes, films and cells that depend on their numbers alone, folders that are whole."
import hashlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from data_folders import message

from segbook.data import download, get_data
from segbook.data.images import read_image
from segbook.drawing import CAMVID_CODES, folder, make_cells, make_films, make_scenes
from segbook.masks import SegFolder, read_mask


def digest(path):
    return {f.relative_to(path).as_posix(): hashlib.md5(f.read_bytes()).hexdigest()
        for f in path.rglob('*') if f.is_file()}


def test_scenes_depend_on_seed_and_number_alone(tmp_path):
    A, B, C = [digest(make_scenes(tmp_path/d, **kw))
        for d, kw in (('a', dict(n=4)), ('b', dict(n=7)), ('c', dict(n=4, seed=1)))]
    pngs = [k for k in A if k.endswith('.png')]
    assert len(pngs) == 8 and all(A[k] == B[k] != C[k] for k in pngs)


def test_scenes_in_another_process_are_the_same(tmp_path):
    make_scenes(tmp_path/'a', n=2)
    subprocess.run([sys.executable, '-W', 'ignore', '-c', 'from segbook.data import make_scenes; '
            f'make_scenes({str(tmp_path/"b")!r}, n=2)'], check=True, timeout=1800)
    assert digest(tmp_path/'a') == digest(tmp_path/'b')


def test_scenes_are_a_sound_folder_with_every_class(tmp_path):
    f = SegFolder(make_scenes(tmp_path/'s', n=20, size=(64, 80)))
    assert f.codes == CAMVID_CODES and f.ignore_index == 11 and len(f.valid) == 4
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
    n, png = [0], folder.write_png
    def stop(x, f):
        n[0] += 1
        if n[0] > 5: raise KeyboardInterrupt
        png(x, f)
    monkeypatch.setattr(folder, 'write_png', stop)
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
    monkeypatch.setattr(download, 'make_scenes', small)
    assert get_data('scenes', root=tmp_path) == old
    monkeypatch.setattr(folder, '_VERSION', 99)
    assert get_data('scenes', root=tmp_path).name == 'scenes-v99' and len(SegFolder(old)) == 2


# ---- films

def test_films_are_a_sound_folder_without_a_split(tmp_path):
    f = SegFolder(make_films(tmp_path/'f', n=3, frames=4, size=(48, 64)))
    assert f.codes == CAMVID_CODES and f.valid is None and len(f) == 12
    assert [o.stem for o in f.images[3:5]] == ['street00_03', 'street01_00']
    assert digest(f.path) == digest(make_films(tmp_path/'g', n=3, frames=4, size=(48, 64)))


def test_neighbouring_frames_look_alike_and_streets_do_not(tmp_path):
    f = SegFolder(make_films(tmp_path/'f', n=3, frames=3))
    x = np.stack([read_image(o) for o in f.images]).astype(float)
    near = [np.abs(x[i] - x[i+1]).mean() for i in (0, 1, 3, 4, 6, 7)]
    far = [np.abs(x[i] - x[j]).mean() for i in range(3) for j in range(3, 9)]
    assert max(near) < min(far)
    # the camera moves: no frame is the one before it
    assert all((read_mask(f.labels[i]) != read_mask(f.labels[i+1])).any() for i in (0, 1, 3, 4))


@pytest.mark.parametrize('kw,part', [(dict(n=1), 'n of 2 or more'), (dict(frames=0), 'frames=0'),
    (dict(size=(8, 8)), '32 pixels')])
def test_films_refuse_senseless_numbers(tmp_path, kw, part):
    m = message(make_films, tmp_path/'f', **{'n': 2, **kw})
    assert part in m and 'make_films' in m


def test_films_are_not_mixed_with_scenes(tmp_path):
    make_scenes(tmp_path/'s', n=2)
    assert "'kind': 'films'" in message(make_films, tmp_path/'s', n=2)
