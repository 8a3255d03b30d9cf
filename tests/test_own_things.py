"""segbook_predict --instances with a network that finds things: its own findings are written, and
the options are followed."""
import csv

import numpy as np
import torch
from PIL import Image
from test_model_folder import Learnt
from torch import nn

from segbook import export, things
from segbook.architectures.boxes import Instances
from segbook.cli import segbook_predict
from segbook.export import save_segmenter

CODES = ['background', 'cell', 'Void']


class Finder(nn.Module):
    "Its mask says nothing; it finds two cells that overlap, a speck, an unsure and a Void thing."
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.seen = []

    def forward(self, x): return x.new_tensor([1., 0., 0.])[None, :, None, None].expand(
        len(x), 3, *x.shape[2:])*self.weight

    def instances(self, x, min_score=.05):
        self.seen.append(x)
        h, w = x.shape[2:]
        masks = torch.zeros(5, h, w, dtype=torch.bool)
        masks[0, :, :w//2 + 2] = masks[1, :, w//2 - 2:] = True
        masks[2, 0, 0] = masks[3] = masks[4] = True
        scores = torch.tensor([.9, .8, .7, .3, .95])
        keep = scores >= min_score
        order = scores[keep].argsort(descending=True)
        boxes = torch.zeros(5, 4)
        return [Instances(*(o[keep][order] for o in (masks, torch.tensor([1, 1, 1, 1, 2]), scores,
            boxes)))]


def folder_of(path, monkeypatch, size=None):
    learn = Learnt(codes=CODES, n_classes=3, ignore_index=2, mean=[.5]*3, std=[.25]*3)
    net = Finder()
    learn.segmenter['size'] = size
    learn.model = net
    monkeypatch.setattr(export, 'seg_model', lambda *args, **kwargs: net)
    monkeypatch.setattr(things, 'ThingSegmenter', Finder)
    Image.fromarray(np.full((20, 24, 3), 255, np.uint8)).save(path/'a.png')
    return save_segmenter(learn, path/'model'), net

def predict(path, *args):
    code = segbook_predict([str(o) for o in (path/'model', path/'a.png', '--out', path/'out',
        '--overwrite', *args)])
    ids = np.asarray(Image.open(path/'out'/'a_instances.png'))
    return code, ids, list(csv.DictReader((path/'out'/'a_objects.csv').read_text().splitlines()))


def test_findings_are_the_objects(tmp_path, monkeypatch, capsys):
    """The surest lies on top; where both are, it is the first. The unsure one, and what is Void,
    are left out; so is what lies below another altogether."""
    _, net = folder_of(tmp_path, monkeypatch)
    code, ids, rows = predict(tmp_path, '--instances')
    want = np.where(np.arange(24) < 14, 1, 2)[None].repeat(20, 0)
    assert code == 0 and (ids == want).all()
    assert [(o['class'], int(o['area'])) for o in rows] == [('cell', 280), ('cell', 200)]
    assert [round(float(o['mean_probability']), 5) for o in rows] == [.9, .8]
    assert torch.equal(net.seen[0], torch.full((1, 3, 20, 24), 2.)) # white, normalised
    assert 'finds things by itself' in capsys.readouterr().err
    assert [int(o['area']) for o in predict(tmp_path, '--instances', '--min-area', '201')[2]] == [
        280]

def test_what_is_asked_for_instead(tmp_path, monkeypatch, capsys):
    "--separate takes the mask of classes, in which nothing is"
    _, net = folder_of(tmp_path, monkeypatch)
    code, ids, rows = predict(tmp_path, '--instances', '--separate', 'components')
    assert code == 0 and not ids.any() and not rows and not net.seen
    assert 'by itself' not in capsys.readouterr().err

def test_a_size_of_training(tmp_path, monkeypatch):
    "The network sees that size, and the objects have the image's"
    _, net = folder_of(tmp_path, monkeypatch, (10, 12))
    _, ids, rows = predict(tmp_path, '--instances')
    assert net.seen[0].shape == (1, 3, 10, 12) and ids.shape == (20, 24)
    assert (ids == np.where(np.arange(24) < 16, 1, 2)).all() and len(rows) == 2
