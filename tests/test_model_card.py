"""The page about a model, and the page in the browser."""
import re, sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fastai.callback.core import Callback
from segbook.data import make_scenes, seg_dataloaders
from segbook.demo import segmenter_page, shown_answer
from segbook.errors import SegbookError
from segbook.export import load_segmenter, save_segmenter
from segbook.learner import seg_learner, train_segmenter
from segbook.model_card import CARD, as_markdown_text, model_card

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    tmp = tmp_path_factory.mktemp('card')
    path = make_scenes(tmp/'my_streets <b>', n=6, size=(32, 48), seed=1)
    dls = seg_dataloaders(path, bs=2, seed=1)
    learn = seg_learner(dls, 'fcn', 'resnet18', pretrained=False)
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(2, 3e-3)
    return learn, save_segmenter(learn, tmp/'model', mean_iou=.25)


def test_the_card_says_what_happened(saved):
    learn, folder = saved
    card = (folder/CARD).read_text(encoding='utf-8')
    n_train, n_valid = len(learn.dls.train_ds), len(learn.dls.valid_ds)
    assert n_train + n_valid == 6
    for said in (f'{n_train} for training, {n_valid} for validation', 'mean\\_iou: 0.250',
            'epochs in the last training: 2', 'highest learning rate: 0.003', 'batch size: 2',
            'my\\_streets \\<b\\>', 'No interval was saved', 'random numbers', 'load_segmenter',
            load_segmenter(folder).segmenter['weights_sha256']): assert said in card, said
    for name in learn.segmenter['codes']: assert as_markdown_text(name) in card
    heads = re.findall(r'^## (.*)$', card, re.M)
    assert heads == ['Data', 'Classes', 'Scores', 'Training', 'Licences',
        'What it must not be used for', 'Loading']
    assert '<' not in re.sub(r'\\<', '', card) and str(Path.home()) not in card


def lines_of_training(learn):
    facts = {**learn.segmenter, 'segbook': '0', 'weights_sha256': '0'}
    return re.findall(r'^- (?:highest learning rate|epochs in the last training): (.*)$',
        model_card(learn, facts), re.M)

def test_a_resumed_run_counts_whole_and_a_later_one_by_itself(saved, tmp_path):
    learn = seg_learner(saved[0].dls, 'fcn', 'resnet18', pretrained=False, seed=1)
    class Stop(Callback):
        order = 90
        def after_epoch(self):
            if self.epoch == 1: raise KeyboardInterrupt
    with learn.no_bar(), learn.no_logging():
        with pytest.raises(KeyboardInterrupt):
            train_segmenter(learn, 3, 4e-3, tmp_path, cbs=Stop())
        again = seg_learner(saved[0].dls, 'fcn', 'resnet18', pretrained=False, seed=1)
    with again.no_bar(), again.no_logging():
        train_segmenter(again, 3, 4e-3, tmp_path, resume=True)
        assert len(again.recorder.values) < 3 and lines_of_training(again) == ['0.004', '3']
        again.fit(1, 5e-5)
    assert lines_of_training(again) == ['5e-05', '1']


def test_a_folder_with_another_card_or_none_loads(saved, tmp_path):
    learn, folder = saved
    image = np.zeros((32, 48, 3), np.uint8)
    want = load_segmenter(folder).predict(image)
    text = (folder/CARD).read_text(encoding='utf-8')
    for other in (None, b'', b'\xff\xfe not text', b'mine'):
        (folder/CARD).unlink(missing_ok=True)
        if other is not None: (folder/CARD).write_bytes(other)
        assert torch.equal(load_segmenter(folder).predict(image), want)
    save_segmenter(learn, folder, overwrite=True, mean_iou=.25)
    assert (folder/CARD).read_text(encoding='utf-8').count('\n') == text.count('\n')


def test_odd_names_and_intervals():
    "What a renderer makes of the card holds no tag, link, table or heading of a name"
    names = ['<script>alert(1)</script>', '[a](http://b)', '# c | d', 'e\n## f', '`g`', 'Void']
    facts = dict(arch='fcn', encoder='tf_efficientnet_lite0', in_channels=3, n_classes=6,
        size=[4, 6], codes=names, ignore_index=5, pretrained=True, segbook='0', torch='2',
        weights_sha256='0'*64, score=.5, score_interval=[.4, .6], notes='x', done=True)
    class Part(list): items = [Path('a_b/images/1.png')]
    dls = SimpleNamespace(train_ds=Part([1]), valid_ds=Part([]), bs=4, path=Path('.'))
    learn = SimpleNamespace(segmenter=facts, loss_func=max, dls=dls)
    card = model_card(learn, facts)
    assert 'score: 0.500, from 0.400 to 0.600' in card and 'done' not in card
    assert 'Apache-2.0' in card and 'Void is id 5' in card and '4x6 pixels' in card
    from markdown_it import MarkdownIt
    html = MarkdownIt('commonmark').render(card)
    assert '<script' not in html and '<a ' not in html and html.count('<h1>') == 1
    assert html.count('<h2>') == 7 and '&lt;script&gt;alert(1)&lt;/script&gt;' in html


class Segmenter:
    codes, segmenter = ['sky', 'tree', 'road'], dict(in_channels=3)
    def predict(self, image):
        if image.max() > 200: raise SegbookError('too bright. Cure: a darker one')
        return torch.arange(4)[:, None].expand(4, 6)//2*2


def test_what_the_page_shows():
    picture, shares = shown_answer(Segmenter(), np.zeros((4, 6, 3), np.uint8))
    assert picture.shape == (4, 6, 3) and picture.dtype == np.uint8
    assert shares == {'sky': .5, 'road': .5}
    grey = SimpleNamespace(segmenter=dict(in_channels=1))
    with pytest.raises(SegbookError, match='1 channels.*Cure'): segmenter_page(grey)


def test_the_page_without_gradio(monkeypatch):
    monkeypatch.setitem(sys.modules, 'gradio', None)
    with pytest.raises(SegbookError, match=r'segbook\[demo\]'): segmenter_page(Segmenter())


def test_the_page_with_gradio():
    "Built, and its function called; no server is started"
    gradio = pytest.importorskip('gradio', reason='the extra `demo` is not installed')
    page = segmenter_page(Segmenter())
    picture, shares = page.fn(np.zeros((4, 6, 3), np.uint8))
    assert shares == {'sky': .5, 'road': .5} and picture.shape == (4, 6, 3)
    for bad, part in ((None, 'Choose'), (np.full((4, 6, 3), 255, np.uint8), 'too bright')):
        with pytest.raises(gradio.Error, match=part): page.fn(bad)
