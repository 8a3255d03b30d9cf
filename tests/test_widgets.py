"""Explorers where anywidget is missing, in Python: the still figure stands in, and the notebook
goes on. What the browser does is tested by tests/test_js.py and tests/web_widgets.py."""
import sys

import numpy as np
import pytest
from torch import nn

from segbook import widgets as W
from segbook.errors import SegbookError

MASK = np.kron(np.array([[0, 1], [2, 0]], np.uint8), np.ones((8, 8), np.uint8))
NET = nn.Conv2d(3, 2, 3)
EXPLORERS = {
    'mask': (lambda: W.mask_explorer([(MASK*90, MASK)], ['a', 'b', 'Void']), 'index'),
    'convolution': (lambda: W.convolution_explorer(stride=2), 'stride'),
    'receptive field': (lambda: W.receptive_field_explorer(NET, 16, [''], n=1), 'layer'),
    'upsampling': (lambda: W.upsampling_explorer([[1, 2], [3, 4]]), 'way'),
    'loss': (lambda: W.loss_explorer(MASK, row=3, col=4), 'confidence'),
    'metric': (lambda: W.metric_explorer(MASK, ['a', 'b', 'Void']), 'grow'),
    'prediction': (lambda: W.prediction_explorer(cls='pole'), 'rank')}


@pytest.mark.parametrize('name', EXPLORERS)
def test_still_figure_without_anywidget(name, monkeypatch):
    make, value = EXPLORERS[name]
    moving = make()
    monkeypatch.setitem(sys.modules, 'anywidget', None)
    still = make()
    assert repr(still).count('\n') == 0 and 'pip install "segbook[widgets]"' in repr(still)
    shown = still._repr_html_()
    assert 'data:image/png;base64,' in shown and 'alt="' in shown and 'segbook[widgets]' in shown
    # a later cell reads and sets what the explorer has
    assert getattr(still, value) == getattr(moving, value)
    setattr(still, value, 1)
    assert getattr(still, value) == 1


def test_wrong_settings_are_named_without_anywidget_too(monkeypatch):
    monkeypatch.setitem(sys.modules, 'anywidget', None)
    with pytest.raises(SegbookError, match='size=99'): W.convolution_explorer(99)
    with pytest.raises(SegbookError, match='No loss'): W.loss_explorer(loss='x')


def test_void_is_hatched_in_the_figure_of_the_metrics():
    ax = W.draw_metrics(MASK, 0, 0, codes=['a', 'b', 'Void']).axes[0]
    assert any('////' in (c.hatches or []) for c in ax.collections if hasattr(c, 'hatches'))
