"""The report of a run: `segbook_train --report` writes one whole file; a report that fails
costs nothing else, and a run that was made without one keeps its files as they were."""
import json
import re
from html.parser import HTMLParser

import pytest
from segbook import report
from segbook.cli import arguments, segbook_train
from segbook.errors import SegbookError
from segbook.drawing.scenes import make_scenes

TINY = ['--encoder', 'mobilenetv3_small_050', '--pretrained', 'false', '--bs', '4', '--epochs',
    '1', '--size', '48,64', '--crops', 'none']


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    return make_scenes(tmp_path_factory.mktemp('data')/'scenes', n=10, size=(48, 64), seed=1)


class Elements(HTMLParser):
    "The elements of a page, with their attributes; each that was opened is closed."
    def __init__(self, text):
        super().__init__()
        self.found, self.open = [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in ('meta', 'img'): self.open.append(tag)

    def handle_endtag(self, tag): assert self.open.pop() == tag


def test_the_argument():
    given = arguments.train_parser().given
    assert given(['--report']) == dict(report=True)
    assert given(['--report', 'false']) == dict(report=False)
    assert arguments.TRAIN_OPTIONS['report'] is False


def test_a_run_with_a_report(scenes, tmp_path, capsys):
    out = tmp_path/'run'
    assert segbook_train(['--data', str(scenes), '--out', str(out), '--report', *TINY]) == 0
    assert f'report: {out/"report.html"}' in capsys.readouterr().out
    page, run = (out/'report.html').read_text(encoding='utf-8'), json.loads(
        (out/'run.json').read_text())
    found = Elements(page).found
    pictures = [a for tag, a in found if tag == 'img']
    assert len(pictures) >= 3 and all(a['alt'] for a in pictures)
    assert not {'script', 'link', 'iframe'} & {tag for tag, _ in found}
    asked = [v for _, a in found for k, v in a.items() if k in ('src', 'href')]
    assert all(v.startswith(('data:image/png;base64,', '#')) for v in asked)
    assert run['status'] == 'finished' and run['arguments']['report'] is True
    assert f'{run["mean_iou"]:.4g}' in page and 'fitted on 1 validation image' in page
    assert len(page) < 5_000_000
    assert len(re.findall('<th scope="col">', page)) > 10


def test_a_report_that_fails_costs_nothing(scenes, tmp_path, capsys, monkeypatch):
    def broken(*args, **kwargs): raise SegbookError('no paper')
    monkeypatch.setattr(report, 'report_html', broken)
    out = tmp_path/'run'
    assert segbook_train(['--data', str(scenes), '--out', str(out), '--report', *TINY]) == 0
    said = capsys.readouterr().out
    assert 'no report: it failed (SegbookError: no paper); the rest is complete' in said
    assert json.loads((out/'run.json').read_text())['status'] == 'finished'
    names = sorted(o.name for o in out.iterdir())
    assert 'report.html' not in names and {'model', 'results.png', 'run.json'} <= set(names)
