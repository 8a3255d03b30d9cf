"""The site's converter, docs/convert.py, its builder, docs/build.py, and what is done to its
pages, on small notebooks"""
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT/'docs'))
import api
import build
import convert
import course
import explorers
import finish


def md(text): return dict(cell_type='markdown', id='m', metadata={}, source=text)
def code(text, id='c', *outputs):
    return dict(cell_type='code', id=id, metadata={}, source=text, outputs=list(outputs),
                execution_count=None)
def nb(*cells, widgets=None):
    meta = dict(kernelspec=dict(name='python3', display_name='python3', language='python'))
    state = {'widgets': {explorers.STATE: dict(state=widgets)}} if widgets else {}
    return dict(nbformat=4, nbformat_minor=5, metadata=meta | state,
                cells=[md('# Metrics\n> What is counted.'), *cells])
def page(*cells, rel='09_metrics.ipynb', strict=False, **kw):
    return convert.page(nb(*cells, **kw), rel, strict)
def sources(p): return [c['source'] for c in p['cells']]
def label(cell): return cell['metadata'].get('mystnb', {}).get('code_prompt_show')
def figure(**data):
    return dict(output_type='display_data', metadata={}, data={'image/png': 'iVBOR', **data})


def test_it_is_small():
    assert len((ROOT/'docs'/'convert.py').read_text().splitlines()) <= 150
    for f in (ROOT/'docs').glob('*.py'): assert len(f.read_text().splitlines()) <= 250, f.name


# ---- folds

def test_nothing_is_secret_but_the_name_of_the_module():
    p = page(code('#| hide\nsecret'), code('#| default_exp metrics'),
             code('#| export\ndef f(): pass'), code('#| exporti\ndef _g(): pass'), code('1+1'))
    assert sources(p)[1:] == ['secret', 'def f(): pass', 'def _g(): pass', '1+1']


@pytest.mark.parametrize('source,tag,want',
    [('#| export\ndef f(x):\n\n    return x', 'hide-input', 'Library code: f, 2 lines'),
        ('#| exporti\nclass _Box: pass', 'hide-input', 'Library code: _Box, 1 line'),
        ('#| export\nA = 1\nB: int = 2\ndef c(): pass\ndef d(): pass', 'hide-input',
            'Library code: A, B, c ..., 4 lines'),
        ('#| export\nimport torch\nfrom fastai.torch_core import (\n    tensor,\n)', 'hide-input',
            'Library code: imports, 4 lines'), ('#| hide\nx = 1', 'hide-cell', 'Set-up, 1 line'),
        ('#| hide\nassert f(1) == 1\ntest_eq(f(2), 2)', 'hide-cell', 'Check, 2 lines'),
        ('#| include: false\nx = 1', 'hide-cell', 'Set-up, 1 line'),
        ('#| echo: false\nplot()\nshow()', 'hide-input', 'Code, 2 lines'),
        ('#| hide_input\nplot()', 'hide-input', 'Code, 1 line'),
        ('import torch\nfrom torch import nn', 'hide-input', 'Set-up, 2 lines')])
def test_folds_say_what_is_in_them(source, tag, want):
    cell = page(code(source))['cells'][1]
    assert cell['metadata']['tags'] == [tag] and label(cell) == want


@pytest.mark.parametrize('source', ['x = 1', 'import torch\nx = 1', '#| slow\nx = 1',
        '#| eval: false\nx = 1'])
def test_other_cells_stand_open(source):
    cell = page(code(source))['cells'][-1]
    assert not cell['metadata']['tags'] and label(cell) is None


@pytest.mark.parametrize('directive', ['hide_output', 'output: false'])
def test_outputs_that_are_left_out(directive):
    cell = page(code(f'#| {directive}\nx = 1'))['cells'][1]
    assert cell['metadata']['tags'] == ['remove-output'] and cell['source'] == 'x = 1'


# ---- text

def test_the_page_has_the_title_of_its_notebook():
    assert sources(page())[0].startswith('# Metrics\n> What is counted.')


def test_slow_cells_say_so():
    assert sources(page(code('#| slow\ntrain()')))[1:] == [convert.SLOW, 'train()']


def test_exercises_say_that_they_need_a_kernel():
    text = ('<!-- exercise 09.1 -->\n### Exercise 09.1: Count\n\n> **How exercises work.** Put '
        'your answer.\n\nCount.')
    shown = sources(page(md(text)))[1]
    assert convert.KERNEL in shown and '<!--' not in shown
    assert convert.KERNEL not in sources(page(
            md('<!-- exercise 09.2 -->\n### Exercise 09.2: More')))[1]


@pytest.fixture
def host():
    from nbdev.config import get_config
    return get_config().git_url


@pytest.mark.parametrize('rel,text,want',
    [('09_metrics.ipynb', '![a](../images/iou_dice.svg)', '![a](/images/iou_dice.svg)'),
        ('projects/camvid.ipynb', '![a](../../images/x.svg)', '![a](/images/x.svg)'),
        ('09_metrics.ipynb', '[b](03_data.ipynb)', '[b](03_data.ipynb)'),
        ('09_metrics.ipynb', '[b](workshop/masks/seen.ipynb)', '[b](workshop/masks/seen.ipynb)'),
        ('09_metrics.ipynb', '[b](tasks/09_metrics.ipynb)',
            '[b](HOST/blob/main/nbs/tasks/09_metrics.ipynb)'),
        ('projects/camvid.ipynb', '[b](../03_data.ipynb#how)', '[b](../03_data.ipynb#how)'),
        ('index.ipynb', '[c](../LICENSE)', '[c](HOST/blob/main/LICENSE)'),
        ('index.ipynb', '[d](https://x.org/a.md) [e](#start)',
            '[d](https://x.org/a.md) [e](#start)'),
        ('index.ipynb', '`[c](../LICENSE)`', '`[c](../LICENSE)`'),
        ('index.ipynb', '```\n[c](../LICENSE)\n```', '```\n[c](../LICENSE)\n```')])
def test_links_hold_on_the_site(rel, text, want, host):
    assert convert.moved(text, rel) == want.replace('HOST', host)


def test_names_of_the_library_lead_to_its_pages():
    p = page(md('`Confusion` and `nothing_of_ours` and `Learner`'), rel='projects/camvid.ipynb')
    assert sources(p)[
        1] == '[`Confusion`](../api/metrics.md#confusion) and `nothing_of_ours` and `Learner`'


# ---- pictures

def alt(cell): return cell['metadata']['mystnb']['image']['alt']
def caption(cell): return cell['metadata']['mystnb'].get('figure', {}).get('caption')


@pytest.mark.parametrize('before,source,after,says,below',
    [('Two things. The mask has *holes* where `Void` is:', 'plot()', 'More.', 'The mask has holes '
            'where Void is.', None), ('Text.', '#| fig-cap: Void is hatched.\nplot()', 'More.',
            'Void is hatched.', 'Void is hatched.'),
        ('Text.', '#| fig-alt: A street in grey.\n#| fig-cap: Void is hatched.\nplot()', 'More.',
            'A street in grey.', 'Void is hatched.'),
        ('Text.', 'plot()', '*Figure: a ship in the sea.*\n\nMore.', 'A ship in the sea.',
            'Figure: a ship in the sea.'), ('| a | b |\n|---|---|', 'plot()', 'More.', 'What is '
            'counted.', None)])
def test_figures_have_a_sentence(before, source, after, says, below):
    cells = page(md(before), code(source, 'c', figure()), md(after))['cells']
    assert alt(cells[2]) == says and caption(cells[2]) == below
    assert cells[3]['source'] == 'More.', 'a caption is shown below its figure, and nowhere else'


def test_a_caption_is_not_repeated_below_a_table():
    table = dict(output_type='execute_result', metadata={}, data={'text/html': '<table></table>'},
        execution_count=None)
    below = '*Figure: three ships in the sea. Two are found.*\n\nMore.'
    cells = page(md('Text.'), code('plot()', 'c', figure(), table), md(below))['cells']
    assert caption(cells[2]) is None and cells[3]['source'] == below
    assert alt(cells[2]) == 'Three ships in the sea.'


# ---- explorers

def model(name, **state):
    return dict(model_name=name, model_module='m', model_module_version='1', state=state)
def view(id, **data):
    return dict(output_type='display_data', metadata={},
        data={explorers.VIEW: dict(model_id=id, version_major=2, version_minor=0), 'text/plain': id,
            **data})


def test_only_the_widgets_of_the_page_are_stored():
    widgets = dict(box=model('VBoxModel', children=['IPY_MODEL_slider', 'IPY_MODEL_stack']),
        slider=model('IntSliderModel'), stack=model('StackModel', children=['IPY_MODEL_a']),
        a=model('ImageModel'), link=model('LinkModel', source=['IPY_MODEL_slider', 'value'],
            target=['IPY_MODEL_stack', 'selected_index']), bar=model('FloatProgressModel'),
        other=model('LinkModel', source=['IPY_MODEL_bar', 'value'],
            target=['IPY_MODEL_slider', 'value']))
    p = page(code('box', 'c', view('box')), widgets=widgets)
    stored = re.fullmatch(r'<script type="([^"]+)">\n(.*)\n</script>', p['cells'][-1]['source'])
    assert stored[1] == explorers.STATE
    assert set(json.loads(stored[2])['state']) == {'box', 'slider', 'stack', 'a', 'link'}
    assert 'widgets' not in p['metadata'] and len(page(code('1'))['cells']) == 2


def test_a_script_in_the_state_does_not_end_it():
    p = page(code('x', 'c', view('e')), widgets=dict(e=model('AnyModel', _esm='"</script>"')))
    assert p['cells'][-1]['source'].count('</script>') == 1
    assert json.loads(p['cells'][-1]['source'].split('\n')[1])['state']['e']['state'][
        '_esm'] == '"</script>"'


@pytest.mark.parametrize('outputs,near,says,still',
    [([view('e')], [], 'is not running', False),
        ([view('e', **{'image/png': 'iVBOR'})], [], 'figure below', True),
        ([view('e')], [figure()], 'figure below', False)])
def test_what_stands_in_for_a_dead_explorer(outputs, near, says, still):
    p = page(code('loss_explorer()', 'c', *outputs), code('draw()', 'd', *near),
        widgets=dict(e=model('AnyModel')), strict=True)
    html = p['cells'][1]['outputs'][0]['data']['text/html']
    assert says in html and ('data-still' in html) == still
    assert '/nbs/09_metrics.ipynb' in html and 'data-model="e"' in html
    assert any('image/png' in o['data'] for o in p['cells'][1]['outputs']) == still


def test_an_explorer_without_state_stops_the_build():
    with pytest.raises(SystemExit, match=r'(?s)09_metrics.*without state.*loss_explorer\(\)'):
        page(code('loss_explorer()'), strict=True)
    with pytest.raises(SystemExit, match='without state'):
        page(code('loss_explorer()', 'c', view('lost')), strict=True)
    assert page(code('loss_explorer()')) and page(code('e = loss_explorer()\ne.row'), strict=True)


@pytest.mark.parametrize('source,want', [('loss_explorer()', True),
        ('%time x\nwidgets.loss_explorer(row=3)', True), ('figure_slider(figs)', True),
        ('display(mask_explorer(path))', True), ('e = loss_explorer()', False),
        ('draw_loss_explorer(1)', False), ('def loss_explorer(): pass', False),
        ('"loss_explorer()"', False), ('1 +', False)])
def test_cells_that_show_an_explorer(source, want): assert explorers.shows_explorer(source) == want


def test_pages_that_move_are_known():
    assert {f.name for f in build.notebooks() if build.moves(f)} >= {'index.ipynb',
        '16_widgets.ipynb'}


# ---- the library

def test_the_page_of_a_package():
    text = api.page('segbook.metrics')
    assert text.startswith(
        '# segbook.metrics\n\n') and '### Confusion\n' in text and '#### Confusion.iou\n' in text
    assert '## segbook.metrics.confusion\n' in text
    assert '| `ignore_index` | `None` | id of pixels that are not counted' in text
    assert 'blob/main/segbook/metrics/' in text and '_tally' not in text


def test_every_module_has_a_page():
    names = {f.stem for f in (ROOT/'segbook').glob('*.py')} - {'__init__', '_modidx', 'all'}
    names |= {f.parent.name for f in (ROOT/'segbook').glob('*/__init__.py')} - {'tasks'}
    assert {m.split('.')[-1] for m in api.modules()} == names
    for m in api.modules():
        assert api.page(m).count('\n## ') >= 1, m
        assert f'({api.file_of(m)}.md)' in api.index()


def test_source_links_reach_the_line():
    lookup = api.Lookup()
    assert len(lookup.names) > 200
    for name, (_, room) in lookup.names.items():
        file, line = re.fullmatch(r'.*/blob/main/(segbook/[\w/]+\.py)#L(\d+)',
            lookup.code(name)).groups()
        text = (ROOT/file).read_text(encoding='utf-8').splitlines()
        assert re.search(rf'\b{name}\b', '\n'.join(text[int(line)-1:int(line)+2])), (name, file,
            line)


def test_every_public_name_has_one_page():
    for m in api.modules():
        for r in api.rooms(m):
            for n in api.public(r): assert api.Lookup().names[n] == (m, r), n
        break
    places = [n for m in api.modules() for r in api.rooms(m) for n in api.public(r)]
    assert len(places) == len(set(places))


# ---- the course

def test_the_course_in_its_order():
    text = course.contents(['01_whole_game', '09_metrics', '09a_boundaries', '17_exercises',
            '18_cli', '02_masks', '07_skip_connections', 'architectures/01_fcn',
            'architectures/06_dynamic_unet', 'projects/camvid', 'projects/retina',
            'workshop/masks/seen'])
    assert [l for l in text.split('\n') if l.startswith(':caption:')] == [f':caption: {o}'
        for o in ('Begin', 'How a network sees', 'Learning', 'Architectures', 'Projects', 'Tools',
            'Reference')]
    order = [l for l in text.split('\n') if l and l[0] not in '`:']
    assert order == ['01_whole_game', 'projects/camvid', '02_masks', '07_skip_connections',
        'architectures/06_dynamic_unet', '09_metrics', '09a_boundaries', 'architectures/01_fcn',
        'projects/retina', '18_cli', '17_exercises', 'workshop/index', 'api/index']


def test_every_notebook_has_its_place():
    pages = sorted(f.relative_to(ROOT/'nbs').with_suffix('').as_posix() for f in build.notebooks())
    listed = (course.contents(pages) + course.workshop(pages)).split('\n')
    for p in pages:
        if p != 'index': assert listed.count(p.removeprefix('workshop/')) == 1, p


def test_solutions_are_no_pages():
    assert build.notebooks() and not any('tasks' in f.parts for f in build.notebooks())


# ---- what is done to a page that Sphinx wrote

HTML = '''<html><head>
<script src="_static/doctools.js?v=1"></script>
<script src="_static/own.js"></script>
<script>window.MathJax = {}</script>
<script defer="defer" src="_static/vendor/tex-svg.js?v=1"></script>
<script defer src="_static/scripts/fontawesome.js"></script>
<link rel="preload" as="script" href="x.js" />
</head><body><i class="fa-solid fa-sun fa-lg"></i>%s</body></html>'''


def test_a_page_asks_for_what_it_needs():
    plain, maths = finish.lighter(HTML % '<p>text</p>'), finish.lighter(
        HTML % '<span class="math notranslate">x</span>')
    assert '<script defer src="_static/own.js">' in plain
    for o in ('doctools', 'fontawesome', 'MathJax', 'tex-svg', 'preload'): assert o not in plain, o
    assert 'tex-svg' in maths and 'window.MathJax' in maths


def test_icons_are_outlines():
    css = finish.icons({'sun', 'github', 'nothing'}, '"sun":[512,512,[9728],"f185","M1 '
        '2"],github:[496,512,[],"f09b","M3 4"]')
    assert css.count(
        '--outline: url(') == 2 and 'i.fa-sun' in css and 'M1%202' in css and 'M3%204' in css


ARTICLE = '''<nav>menu</nav><article><section id="a">
<h1>Metrics<a class="headerlink" href="#a">#</a></h1><p>Count \\(x\\) <b>once</b>.</p>
<details class="hide above-input"><summary><p>Library code: f, 2 lines</p></summary>
<div class="cell_input"><pre>def f</pre></div></details>
<div class="cell_input"><pre>code</pre></div>
<div class="cell_output"><img src="a.png"/><pre>out</pre></div>
<section id="b"><h2>Mean IoU</h2><ul><li>one<br/>line</li><li>two</li></ul></section><p>after</p>
</section></article><p>foot</p>'''


def test_the_search_knows_headings_and_text_alone():
    assert finish.sections(ARTICLE, 'x.html') == [['x.html', 'Metrics', 'Metrics', 'a', 'Count x '
            'once.'], ['x.html', 'Metrics', 'Mean IoU', 'b', 'oneline two after']]


@pytest.mark.skipif(not shutil.which('node'), reason='needs node')
def test_a_heading_that_matches_comes_first():
    index = [['09.html', 'Metrics', 'Metrics', 'm', 'the receptive field of class imbalance ' * 9],
        ['05.html', 'Receptive field', 'Receptive field', 'r', 'which pixels'],
        ['05.html', 'Receptive field', 'Any network', 'n', 'x'],
        ['10.html', 'Imbalance', 'Class weights', 'w', 'where classes are rare'],
        ['workshop/r.html', 'Rules', 'Receptive field', 'r', 'y']]
    script = (f'require({str(ROOT/"docs"/"static"/"segbook-search.js")!r}); const i = '
        f'{json.dumps(index)};console.log(JSON.stringify(["receptive field", "recept", "class '
        'weights", "weights", "nowhere", "", "ímbalance"].map(q => segbookSearch.rank(i, '
        'q).map(s => s[0] + "#" + s[3]))))')
    out = subprocess.run(['node', '-e', script], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    got = json.loads(out.stdout)
    assert got[0][0] == '05.html#r' and got[0][1] == 'workshop/r.html#r' and '09.html#m' in got[0]
    assert got[1][0] == '05.html#r' and got[2][0] == '10.html#w' and got[3] == [
        '10.html#w'] and got[4] == got[5] == []
    assert got[6] == ['10.html#w', '09.html#m'] or got[6][0] in ('09.html#m', '10.html#w')


def test_links_of_a_lost_page_hold_anywhere():
    html = finish.anywhere('<html data-content_root="./"><head>x</head><a href="#main">m</a><form '
        'action="#"></form><a href="index.html">i</a>', '/book')
    assert '<base href="/book/">' in html and 'href="404.html#main"' in html
    assert 'data-content_root="/book/"' in html


# ---- running

def test_a_failing_cell_stops_the_build_and_names_itself(tmp_path, monkeypatch):
    (tmp_path/'nbs').mkdir()
    (tmp_path/'nbs'/'x.ipynb').write_text(json.dumps(nb(code('1+1', 'a'), code('#| slow\n1/0', 'b'),
                code('nonsense + 1', 'c'))))
    for k, v in dict(ROOT=tmp_path, PROC=tmp_path/'_proc').items(): monkeypatch.setattr(build, k, v)
    secs, failed = build.execute(tmp_path/'nbs'/'x.ipynb')
    assert 'nonsense + 1' in failed and "name 'nonsense' is not defined" in failed and not (
        tmp_path/'_proc').exists()


def test_a_run_is_kept_until_something_changes(tmp_path, monkeypatch):
    (tmp_path/'nbs').mkdir()
    (tmp_path/'segbook').mkdir()
    (tmp_path/'segbook'/'a.py').write_text('x = 1')
    file = tmp_path/'nbs'/'x.ipynb'
    file.write_text(json.dumps(nb(code('6*7', 'a'),
                code('#| slow\n1/0', 'b', dict(output_type='stream', name='stdout',
                text='recorded')))))
    for k, v in dict(ROOT=tmp_path, PROC=tmp_path/'_proc').items(): monkeypatch.setattr(build, k, v)
    assert build.stale(file) and build.execute(file)[1] == '' and not build.stale(file)
    cells = build.with_outputs(file)['cells']
    assert ''.join(cells[1]['outputs'][0]['data']['text/plain']) == '42' and ''.join(
        cells[2]['outputs'][0]['text']) == 'recorded'
    (tmp_path/'segbook'/'a.py').write_text('x = 2')
    assert build.stale(file)


def test_the_page_of_explorers_is_free_of_code():
    stub = "def f():\n    ...\n\ncheck('16.1', f)"
    p = page(code('#| hide\nimport sys'), code('#| hide_input\nloss_explorer()', id='d'),
        code('draw_losses()', id='e'), code(stub, id='f'), rel='16_widgets.ipynb')
    assert sources(p)[1:] == ['loss_explorer()', 'draw_losses()', stub]
    tags = [c['metadata']['tags'] for c in p['cells'][1:]]
    assert tags == [['remove-input'], ['remove-input'], ['hide-input']]
