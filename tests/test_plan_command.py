"""The folder of `segbook_plan`: as a word or behind --data, never twice, never missing."""
import contextlib, io, re

import pytest

from segbook.cli import segbook_plan
from segbook.drawing import make_cells


def said_by(*args):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = segbook_plan([str(o) for o in args])
    # seconds and free memory change from one call to the next
    same = [re.sub(r'[\d.]+ (s|GB)\b', r'N \1', o.getvalue()) for o in (out, err)]
    return code, *same

def test_both_forms_plan_the_same(tmp_path):
    cells = make_cells(tmp_path/'cells', n=6, size=64, seed=1)
    asked = '--measure', 'false', '--bs', 2
    word = said_by(cells, *asked)
    assert word[0] == 0 and f'\nsegbook_train --data {cells} --bs 2\n' in word[1]
    for args in ((*asked, '--data', cells), ('--data', cells, *asked), (f'--data={cells}', *asked),
            (*asked, cells)):
        assert said_by(*args) == word

@pytest.mark.parametrize('args, text', [((), 'one of the arguments FOLDER --data is required'),
    (('a', '--data', 'b'), 'argument --data: not allowed with argument FOLDER'),
    (('--data', 'a', 'b'), 'argument FOLDER: not allowed with argument --data'),
    (('--data', 'a', '--data', ''), 'expected a name or a path'),
    (('--dat', 'a'), 'did you mean --data?'),
    (('--data', 'none'), 'none is not there; expected a folder with images/')])
def test_a_folder_that_is_missing_or_given_twice(args, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = said_by(*args)
    assert code == 2 and text in err and not out and err.count('\n') == 1

def test_the_help_names_both():
    code, out, err = said_by('--help')
    assert code == 0 and '[FOLDER]' in out and '--data FOLDER' in out
    assert max(map(len, out.splitlines())) <= 80
