"The site's converter, docs/convert.py, and its builder, docs/build.py, on small notebooks"
import json, os, subprocess, sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT/'docs'))
import build, convert

def md(text): return dict(cell_type='markdown', id='m', metadata={}, source=text)
def code(text, id='c', *outputs):
    return dict(cell_type='code', id=id, metadata={}, source=text, outputs=list(outputs),
        execution_count=None)
def nb(*cells, widgets=None):
    meta = dict(kernelspec=dict(name='python3', display_name='python3', language='python'))
    return dict(nbformat=4, nbformat_minor=5, cells=[md('# metrics\n> What is counted.'), *cells],
        metadata=meta | ({'widgets': {convert.STATE: dict(state=widgets)}} if widgets else {}))
def page(*cells, rel='09_metrics.ipynb', **kw): return convert.page(nb(*cells, **kw), rel)
def sources(p): return [c['source'] for c in p['cells']]

def test_it_is_small(): assert len((ROOT/'docs'/'convert.py').read_text().splitlines()) <= 150

def test_hidden_cells_go_and_exported_ones_stay():
    p = page(code('#| hide\nsecret'), code('#| default_exp metrics'),
        code('#| export\ndef f(): pass'), code('#| exporti\ndef _g(): pass'), code('1+1'))
    assert sources(p)[1:] == ['def f(): pass', 'def _g(): pass', '1+1']

def test_the_page_has_the_chapters_name():
    assert sources(page())[0].startswith('# 09 Metrics\n> What is counted.')

@pytest.mark.parametrize('directive,tag',
    [('echo: false', 'remove-input'), ('hide_input', 'remove-input'),
        ('hide_output', 'remove-output'), ('export', None)])
def test_directives_become_tags(directive, tag):
    cell = page(code(f'#| {directive}\nx = 1'))['cells'][1]
    assert cell['metadata']['tags'] == ([tag] if tag else []) and cell['source'] == 'x = 1'

def test_cells_of_imports_are_folded():
    p = page(code('#| export\nfrom __future__ import annotations\nimport torch'),
        code('import torch\nx = 1'))
    assert [c['metadata']['tags'] for c in p['cells'][1:]] == [['hide-input'], []]

def test_slow_cells_say_so():
    assert sources(page(code('#| slow\ntrain()')))[1:] == [convert.SLOW, 'train()']

def test_exercises_say_that_they_need_a_kernel():
    assert convert.KERNEL in sources(page(md('## Exercises\n\nDo it.')))[1]

@pytest.mark.parametrize('rel,text,want',
    [('09_metrics.ipynb', '![a](../images/iou_dice.svg)', '![a](/images/iou_dice.svg)'),
        ('projects/camvid.ipynb', '![a](../../images/x.svg)', '![a](/images/x.svg)'),
        ('09_metrics.ipynb', '[b](03_data.ipynb)', '[b](03_data.ipynb)'),
        ('projects/camvid.ipynb', '[b](../03_data.ipynb#how)', '[b](../03_data.ipynb#how)'),
        ('index.ipynb', '[c](../LICENSE)',
            '[c](https://github.com/segbook/segbook/blob/main/LICENSE)'),
        ('index.ipynb', '[d](https://x.org/a.md) [e](#start)',
            '[d](https://x.org/a.md) [e](#start)'),
        ('index.ipynb', '`[c](../LICENSE)`', '`[c](../LICENSE)`'),
        ('index.ipynb', '```\n[c](../LICENSE)\n```', '```\n[c](../LICENSE)\n```')])
def test_links_hold_on_the_site(rel, text, want): assert convert.moved(text, rel) == want

def test_names_of_the_library_lead_to_its_pages():
    p = page(md('`Confusion` and `nothing_of_ours` and `Learner`'), rel='projects/camvid.ipynb')
    assert sources(p)[
        1] == '[`Confusion`](../api/metrics.md#confusion) and `nothing_of_ours` and `Learner`'

def test_only_the_widgets_of_the_page_are_stored():
    def model(name, **state):
        return dict(model_name=name, model_module='m', model_module_version='1', state=state)
    widgets = dict(box=model('VBoxModel', children=['IPY_MODEL_slider', 'IPY_MODEL_stack']),
        slider=model('IntSliderModel'), stack=model('StackModel', children=['IPY_MODEL_a']),
        a=model('ImageModel'), link=model('LinkModel', source=['IPY_MODEL_slider', 'value'],
            target=['IPY_MODEL_stack', 'selected_index']), bar=model('FloatProgressModel'),
        other=model('LinkModel', source=['IPY_MODEL_bar', 'value'],
            target=['IPY_MODEL_slider', 'value']))
    view = dict(output_type='display_data', metadata={},
        data={convert.VIEW: dict(model_id='box', version_major=2, version_minor=0),
            'text/plain': 'box'})
    p = page(code('box', 'c', view), widgets=widgets)
    assert set(p['metadata']['widgets'][convert.STATE]['state']) == {'box', 'slider', 'stack', 'a',
        'link'}
    assert 'widgets' not in page(code('1'))['metadata']

def test_the_page_of_a_module():
    text = convert.api('segbook.metrics')
    assert text.startswith('# segbook.metrics\n\nCount once') and '## Confusion\n' in text and '### Confusion.iou\n' in text
    assert '| `ignore_index` | `None` | id of the pixels that are not counted' in text
    assert 'blob/main/segbook/metrics.py#L' in text and '_tally' not in text

def test_every_module_has_a_page():
    names = {f.stem for f in (ROOT/'segbook').glob('*.py')} - {'__init__', '_modidx', 'all'}
    assert {m.split('.')[-1] for m in convert.modules()} == names
    for m in convert.modules(): assert convert.api(m).count('\n## ') >= 1, m

def test_the_course_in_its_parts():
    text = convert.contents(['01_whole_game', '09_metrics', '17_exercises',
            'architectures/01_dynamic_unet', 'projects/camvid'])
    assert [l for l in text.split('\n') if l.startswith(':caption:')] == [f':caption: {o}'
        for o in ('Begin', 'Learning', 'Tools', 'Architectures', 'Projects', 'Reference')]

def test_solutions_are_no_pages():
    assert build.notebooks() and not any('tasks' in f.parts for f in build.notebooks())

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

def test_pages_that_move_are_known():
    assert {f.name for f in build.notebooks() if build.moves(f)} >= {'index.ipynb',
        '16_widgets.ipynb'}
