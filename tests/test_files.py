"""Files and folders that several processes write, that are killed, that cannot be written: whole or
not there, nothing lost, nothing left over, nothing of somebody else's touched."""
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from data_folders import message
from hypothesis import given, strategies as st
from properties import examples

from segbook import files
from segbook.drawing import folder as drawing_folder, make_cells, make_scenes
from segbook.files import NewFolder, clear_leftovers, locked, new_folder, replace_file, write_text
from segbook.masks import SegFolder

forking = pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs signals and forks')


def names(path): return sorted(f.name for f in path.iterdir())


def start(code, *args):
    "A Python of its own that runs `code`"
    return subprocess.Popen([sys.executable, '-W', 'ignore', '-c', textwrap.dedent(code),
            *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def output(process):
    out, err = process.communicate(timeout=1800)
    return process.returncode, out, err


KILLED_IN = """
    import os, signal, sys
    from pathlib import Path
    from segbook.files import *
    die = lambda: os.kill(os.getpid(), signal.SIGKILL)
    path = Path(sys.argv[1])
    """


# ---- what a killed process leaves

@forking
@pytest.mark.parametrize('code', ['''
    with NewFolder(path/'new') as tmp:
        (tmp/'half.txt').write_text('ha')
        die()''', '''
    replace_file(path/'new', lambda f: (f.write_text('ha'), die()))''', '''
    with locked(path/'new'): die()''', '''
    import shutil
    shutil.rmtree = lambda *a, **k: die()
    with NewFolder(path/'new') as tmp: raise KeyboardInterrupt'''])
@pytest.mark.parametrize('then', ['folder', 'other folder', 'file'])
def test_the_next_one_clears_what_a_killed_one_left(tmp_path, code, then):
    (tmp_path/'.new.mine').write_text('x')
    (tmp_path/'new.segbook-part').write_text('x')
    assert output(start(textwrap.dedent(KILLED_IN) + textwrap.dedent(code),
            tmp_path))[0] == -signal.SIGKILL
    assert len(names(tmp_path)) > 2
    if then == 'file': replace_file(tmp_path/'b', lambda f: f.write_text('x'))
    if then == 'file': clear_leftovers(tmp_path)
    else:
        with NewFolder(tmp_path/('new' if then == 'folder' else 'b')) as tmp:
            (tmp/'x').write_text('x')
    made = 'new' if then == 'folder' else 'b'
    assert names(tmp_path) == sorted(['.new.mine', made, 'new.segbook-part'])


@forking
def test_what_a_living_one_writes_is_not_cleared(tmp_path):
    p = subprocess.Popen([sys.executable, '-c', textwrap.dedent(KILLED_IN + """
    with NewFolder(path/'a') as tmp:
        (tmp/'x').write_text('x')
        print('here', flush=True)
        sys.stdin.readline()
        """), str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert p.stdout.readline() == 'here\n'
    with NewFolder(tmp_path/'b') as tmp: (tmp/'x').write_text('x')
    clear_leftovers(tmp_path)
    p.communicate('\n', timeout=1800)
    assert p.returncode == 0 and names(tmp_path) == ['a', 'b'] and names(tmp_path/'a') == ['x']


def test_links_that_look_like_leftovers_lead_nowhere(tmp_path):
    (tmp_path/'mine').mkdir()
    (tmp_path/'mine'/'thesis.txt').write_text('x')
    try: (tmp_path/'.a.0123abcd.segbook-part').symlink_to(tmp_path/'mine')
    except OSError: pytest.skip('no links here')
    clear_leftovers(tmp_path)
    assert names(tmp_path) == ['mine'] and names(tmp_path/'mine') == ['thesis.txt']


def test_clearing_asks_for_nothing(tmp_path):
    clear_leftovers(tmp_path/'not there')
    (tmp_path/'file').write_text('x')
    clear_leftovers(tmp_path/'file')
    assert names(tmp_path) == ['file']


@given(st.lists(st.sampled_from(['a', 'a.png', '.x', '.a.segbook', 'segbook-part', '.segbook-part',
                '.a.segbook-partial', 'a.segbook-part', '.a.segbook-part.txt',
                '.a.0123abcd.segbook-parts', '.gitignore', '._a.png']), unique=True))
@examples(20)
def test_nothing_of_the_users_is_cleared(tmp_path_factory, mine):
    path = tmp_path_factory.mktemp('mine')
    for n in mine: (path/n).write_text('x')
    with NewFolder(path/'new') as tmp: (tmp/'x').write_text('x')
    replace_file(path/'b', lambda f: f.write_text('x'))
    clear_leftovers(path)
    assert names(path) == sorted([*mine, 'b', 'new'])


# ---- many at once

@forking
def test_many_processes_write_one_file(tmp_path):
    code = KILLED_IN + """
    for i in range(50): write_text(path/'a.txt', sys.argv[2]*10_000)
    """
    ps = [start(code, tmp_path, k) for k in 'abcdef']
    while any(p.poll() is None for p in ps):
        if (tmp_path/'a.txt').exists():
            text = (tmp_path/'a.txt').read_text()
            assert len(text) == 10_000 and len(set(text)) == 1
        time.sleep(.01)
    assert [output(p)[0] for p in ps] == [0]*6 and names(tmp_path) == ['a.txt']


@forking
def test_a_counter_under_a_lock_loses_nothing(tmp_path):
    "The lock file is removed each time, so a lock on a removed file must not count."
    (tmp_path/'n').write_text('0')
    code = KILLED_IN + """
    for i in range(100):
        with locked(path/'n') as held:
            assert held
            (path/'n').write_text(str(int((path/'n').read_text()) + 1))
    """
    ps = [start(code, tmp_path) for _ in range(6)]
    assert [output(p)[0] for p in ps] == [0]*6
    assert (tmp_path/'n').read_text() == '600' and names(tmp_path) == ['n']


@forking
@pytest.mark.parametrize('same', [True, False])
def test_two_draw_into_one_place(tmp_path, same):
    code = """
    import sys
    from segbook.drawing import make_scenes
    from segbook.errors import SegbookError
    try: make_scenes(sys.argv[1], n=12, seed=int(sys.argv[2]))
    except SegbookError as e:
        print(e)
        sys.exit(1)
    """
    ps = [start(code, tmp_path/'s', 0 if same else k) for k in range(3)]
    outs = [output(p) for p in ps]
    assert sorted(o[0] for o in outs) == ([0, 0, 0] if same else [0, 1, 1])
    assert all('other data' in o[1] for o in outs if o[0])
    assert not any('Traceback' in o[2] for o in outs)
    assert len(SegFolder(tmp_path/'s')) == 12 and names(tmp_path) == ['s']


@forking
@pytest.mark.parametrize('make', [make_scenes, make_cells], ids=lambda f: f.__name__)
def test_killed_while_it_draws(tmp_path, make):
    code = f"""
    import os, signal, sys
    from segbook.drawing import folder, {make.__name__}
    png, n = folder.write_png, [0]
    def dying(x, f):
        n[0] += 1
        if n[0] == int(sys.argv[2]): os.kill(os.getpid(), signal.SIGKILL)
        png(x, f)
    folder.write_png = dying
    {make.__name__}(sys.argv[1], n=4)
    """
    for n in (1, 6):
        assert output(start(code, tmp_path/'s', n))[0] == -signal.SIGKILL
        assert 's' not in names(tmp_path) and names(tmp_path)
    make(tmp_path/'other', n=2)
    assert names(tmp_path) == ['other']
    assert len(SegFolder(make(tmp_path/'s', n=4))) == 4 and names(tmp_path) == ['other', 's']


def test_a_folder_that_came_meanwhile_stays(tmp_path):
    def make(**kw):
        with NewFolder(tmp_path/'a', **kw) as tmp:
            (tmp/'ours').write_text('x')
            (tmp_path/'a').mkdir(exist_ok=True)
            (tmp_path/'a'/'theirs').write_text('x')
    assert 'nothing is ever overwritten' in message(make)
    make(shared=True)
    assert names(tmp_path) == ['a'] and names(tmp_path/'a') == ['theirs']


def test_no_locks_at_all(tmp_path, monkeypatch):
    "Some network folders have none: names by lot, nothing cleared, the same results."
    monkeypatch.setattr(files, '_acquired', lambda file, wait: None)
    (tmp_path/'.a.0123abcd.segbook-part').mkdir()
    with locked(tmp_path/'a') as held: assert not held
    seen = []
    replace_file(tmp_path/'b', lambda f: (seen.append(f.name), f.write_text('x')))
    make_scenes(tmp_path/'a', n=2)
    assert names(tmp_path) == ['.a.0123abcd.segbook-part', 'a', 'b']
    assert seen[0].startswith('.b.') and seen[0] != '.b.segbook-part'


def test_waiting_is_said(tmp_path):
    code = """
    import sys
    from pathlib import Path
    from segbook.files import locked
    with locked(Path(sys.argv[1])): print('held')
    """
    with locked(tmp_path/'a'):
        p = start(code, tmp_path/'a')
        assert 'another process is writing' in p.stderr.readline() and p.poll() is None
    assert output(p)[:2] == (0, 'held\n')


# ---- places that cannot be written

def test_a_full_disk_is_said_and_leaves_nothing(tmp_path, monkeypatch):
    def full(x, f): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(drawing_folder, 'write_png', full)
    m = message(make_scenes, tmp_path/'s', n=2)
    assert 'No space left on device' in m and 'make room' in m and names(tmp_path) == []


def test_full_device(tmp_path):
    if not Path('/dev/full').exists(): pytest.skip('no /dev/full here')
    write_text(tmp_path/'a.txt', 'old')
    def save(f):
        f.write_text('new')
        Path('/dev/full').write_text('x'*100_000)
    with pytest.raises(OSError, match='No space left'): replace_file(tmp_path/'a.txt', save)
    assert (tmp_path/'a.txt').read_text() == 'old' and names(tmp_path) == ['a.txt']


def odd_places(path):
    (path/'file').write_text('x')
    yield path/'file'/'s'
    yield path/('x'*300)
    try:
        (path/'loop').symlink_to(path/'loop')
        (path/'dangling').symlink_to(path/'nowhere')
    except OSError: return
    yield path/'loop'
    yield path/'loop'/'s'
    yield path/'dangling'


def test_places_that_cannot_be_folders(tmp_path):
    for place in list(odd_places(tmp_path)):
        before = names(tmp_path)
        m = message(make_scenes, place, n=2)
        assert place.name[:20] in m and len(m) < 1000
        assert names(tmp_path) == before


def test_read_only_folder(tmp_path):
    (tmp_path/'shut').mkdir()
    (tmp_path/'shut').chmod(0o555)
    try:
        if os.access(tmp_path/'shut', os.W_OK): pytest.skip('root may write anywhere')
        m = message(make_scenes, tmp_path/'shut'/'s', n=2)
        assert 'cannot be written to' in m and 'Give another path' in m
    finally: (tmp_path/'shut').chmod(0o755)


def test_a_very_long_name_is_written_all_the_same(tmp_path):
    name = 'ü'*110 + '.txt'
    write_text(tmp_path/name, 'x')
    with NewFolder(tmp_path/('s'*240)) as tmp: (tmp/'x').write_text('x')
    assert names(tmp_path) == sorted([name, 's'*240])


def test_new_folder_of_odd_names(tmp_path):
    for place in list(odd_places(tmp_path)):
        try: new_folder(place)
        except files.SegbookError as e: assert place.name[:20] in str(e)
