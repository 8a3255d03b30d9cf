"""The course's diagrams, drawn as SVG files beside this one, in one style.

python images/draw.py            writes all of them python images/draw.py NAME ...   writes
only these python images/draw.py --check    writes nothing; exits 1 and names the files that
differ from what would be drawn

The same code gives the same bytes. Results that a diagram shows are computed with the
library, not typed."""
import math, sys, warnings
from html import escape
from pathlib import Path

warnings.filterwarnings('ignore', message='.*torch.jit.script.*')

# W: width of every drawing in its own units; 12 units of text are 11 px on a telephone
HERE, W = Path(__file__).parent, 400
INK, DIM, LINE, WHITE = '#1a1a1a', '#595959', '#4d4d4d', '#ffffff'
PLAIN, BLUE, ORANGE, DARK = '#f1f1f1', '#d6e8f7', '#f4b968', '#1f4e79'  # told apart in grey too
BIG, TEXT, SMALL = 13, 12, 11.5  # font sizes
DIAGRAMS = {}  # name -> function that returns the SVG text

# --- helpers
#
#
#
#
#
# --------------------------------------------------------------------------------------------------
# -------

def num(v): return f'{round(float(v), 1):g}'
def tag(name, body=None, **kw):
    "One SVG element; `_` in a name stands for `-`."
    at = ''.join(f' {k.replace("_", "-")}="{num(v) if isinstance(v, (int, float)) else v}"'
        for k, v in kw.items() if v is not None)
    return f'<{name}{at}/>' if body is None else f'<{name}{at}>{body}</{name}>'

def light(fill):
    "Whether dark text can be read on this colour."
    return sum(w*int(fill[i:i+2], 16) for w, i in ((.3, 1), (.59, 3), (.11, 5))) > 140

def hexed(rgb): return '#%02x%02x%02x' % tuple(int(v) for v in rgb)

class Card:
    "A white card with rounded corners; x goes right, y goes down."
    def __init__(self, title, height):
        self.title, self.height, self.parts = title, height, []
        self.rect(.5, .5, W - 1, height - 1, WHITE, stroke='#bfbfbf', rx=10)
    def add(self, *args, **kw): self.parts.append(tag(*args, **kw))
    def rect(self, x, y, w, h, fill=PLAIN, stroke=LINE, rx=0, width=1, dash=None):
        self.add('rect', x=x, y=y, width=w, height=h, rx=rx or None, fill=fill, stroke=stroke,
            stroke_width=width, stroke_dasharray=dash)
    def text(self, x, y, s, size=TEXT, anchor='middle', bold=False, fill=INK):
        "One line of text, its middle at height `y`."
        self.add('text', escape(str(s)), x=x, y=y + .35*size, font_size=size, text_anchor=anchor,
            font_weight='bold' if bold else None, fill=fill)
    def label(self, x, y, *lines, size=SMALL, step=16, **kw):
        "Lines of small text below each other, from the left unless told otherwise."
        for i, s in enumerate(lines): self.text(x, y + i*step, s, size, **{'anchor': 'start', **kw})
    def box(self, x, y, w, h, *lines, fill=PLAIN, head=True, dash=None):
        "A rounded box with centred lines, the first of them bold."
        self.rect(x, y, w, h, fill, rx=6, dash=dash)
        for i, s in enumerate(lines):
            self.text(x + w/2, y + h/2 + 16*(i - (len(lines) - 1)/2), s,
                TEXT if head and i == 0 else SMALL, bold=head and i == 0,
                fill=INK if light(fill) else WHITE)
    def line(self, *points, dash=None, width=1.5, stroke=LINE):
        self.add('polyline', points=' '.join(f'{num(x)},{num(y)}' for x, y in points), fill='none',
            stroke=stroke, stroke_width=width, stroke_dasharray=dash)
    def shape(self, *points, fill=LINE, stroke='none'):
        self.add('polygon', points=' '.join(f'{num(x)},{num(y)}' for x, y in points), fill=fill,
            stroke=stroke)
    def arrow(self, *points, dash=None):
        "A line through the points with a head at the last one."
        (x0, y0), (x, y) = points[-2:]
        d = math.hypot(x - x0, y - y0)
        ux, uy = (x - x0)/d, (y - y0)/d
        self.line(*points[:-1], (x - 5*ux, y - 5*uy), dash=dash)
        self.shape((x, y), *((x - 8*ux + s*4*uy, y - 8*uy - s*4*ux) for s in (1, -1)))
    def grid(self, x, y, rows, cell, fill, text=str, size=TEXT, bold=lambda v: False):
        """A grid of values: `fill(v)` and `text(v)` say how each cell looks; `bold` ones get a
        thick frame."""
        for i, j, v in ((i, j, v) for i, row in enumerate(rows) for j, v in enumerate(row)):
            self.rect(x + j*cell, y + i*cell, cell, cell, fill(v), width=.7)
            if t := text(v):
                self.text(x + (j + .5)*cell, y + (i + .5)*cell, t, size, bold=bold(v),
                    fill=INK if light(fill(v)) else WHITE)
        for i, j in ((i, j) for i, row in enumerate(rows) for j, v in enumerate(row) if bold(v)):
            self.rect(x + j*cell + 1, y + i*cell + 1, cell - 2, cell - 2, 'none', INK, width=2)
    def maps(self, x, y, w, h, n=3, fill=BLUE):
        "A stack of n feature maps, the front one at (x, y)."
        for i in reversed(range(n)): self.rect(x + 5*i, y - 5*i, w, h, fill)
    def folder(self, x, y, w, h, fill=ORANGE):
        self.shape((x, y), (x + .4*w, y), (x + .5*w, y + 6), (x + w, y + 6), (x + w, y + h),
            (x, y + h), fill=fill, stroke=LINE)
    def network(self, x, y, fill=WHITE):
        "Three columns of dots, joined."
        cols = [[(x + 20*i, y + 12*j + (0 if n == 3 else 6)) for j in range(n)]
            for i, n in enumerate((3, 2, 3))]
        for a, b in zip(cols, cols[1:]):
            for p in a:
                for q in b: self.line(p, q, width=.7)
        for px, py in sum(cols, []): self.add('circle', cx=px, cy=py, r=4, fill=fill, stroke=LINE)
    def svg(self):
        head = ('<svg xmlns="http://www.w3.org/2000/svg" width="560" '
            f'height="{round(560*self.height/W)}" viewBox="0 0 {W} {self.height}" role="img" '
            'font-family="sans-serif">')
        return '\n'.join([head, tag('title', escape(self.title)), *self.parts, '</svg>', ''])

def diagram(title, height):
    "Register a function that draws on a card of this height."
    def keep(f):
        def draw():
            c = Card(title, height)
            f(c)
            return c.svg()
        DIAGRAMS[f.__name__] = draw
        return f
    return keep

def badge(name, title, text, width):
    "Register a small button of one line: a picture that stands in a link"
    def draw():
        c = Card.__new__(Card)
        c.parts = []
        c.rect(.5, .5, width - 1, 31, DARK, stroke=DARK, rx=6)
        c.add('path', d='M13 9 L25 16 L13 23 Z', fill=BLUE)
        c.text(34, 16, text, 14, 'start', True, WHITE)
        head = (f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="32" viewBox="0 0 '
            f'{width} 32" role="img" font-family="sans-serif">')
        return '\n'.join([head, tag('title', escape(title)), *c.parts, '</svg>', ''])
    DIAGRAMS[name] = draw

badge('open_in_colab', 'Open in Colab', 'Open in Colab', 156)

def classes():
    "CamVid's class names, and their colours as '#rrggbb'."
    from segbook.data import CAMVID_CODES
    from segbook.masks import palette
    return CAMVID_CODES, [hexed(o) for o in palette(CAMVID_CODES)]

def little_street(c, x, y, cell=10):
    "A mask of three classes, as an icon."
    codes, cols = classes()
    k = [codes.index(o) for o in ('Sky', 'Building', 'Road')]
    c.grid(x, y, [[k[0], k[0], k[0], k[1]], [k[0], k[1], k[0], k[1]], [k[2]]*4], cell,
        lambda v: cols[v], lambda v: '')

# --- the diagrams
#
#
#
#
#
# --------------------------------------------------------------------------------------------------
# --

@diagram('From a folder to a mask: what each function hands on to the next', 398)
def five_lines(c):
    steps = [('get_data', 'finds or draws images', 'a folder', 'images, masks, names'),
        ('seg_dataloaders', 'splits, resizes, varies', 'batches', '[B,C,H,W], [B,H,W]'),
        ('seg_learner', 'builds the network', 'a learner', 'network, loss, scores'),
        ('train_segmenter', 'learns in epochs', 'a trained learner', 'best weights kept'),
        ('predict_image', 'and a new image', 'a mask', '[H,W], one id a pixel')]
    icons = [lambda y: c.folder(208, y + 8, 40, 30), lambda y: c.maps(208, y + 16, 30, 22),
        lambda y: c.network(208, y + 11), lambda y: c.network(208, y + 11, DARK),
        lambda y: little_street(c, 208, y + 8)]
    for i, ((name, does, gives, what), icon) in enumerate(zip(steps, icons)):
        y = 16 + 80*i
        c.box(14, y, 150, 46, name, does, fill=BLUE)
        c.arrow((164, y + 23), (198, y + 23))
        icon(y)
        c.label(260, y + 15, gives, bold=True, size=TEXT)
        c.label(260, y + 32, what)
        if i < 4: c.arrow((228, y + 46), (228, y + 62), (89, y + 62), (89, y + 79))

@diagram('Training goes round in a circle: batch, network, loss, gradient, step', 328)
def training_circle(c):
    nodes = [('batch', '8 images'), ('network', 'scores for a pixel'), ('loss', 'one number'),
        ('gradient', 'which way is up'), ('step', 'the opposite way')]
    boxes = [(138, 14), (260, 106), (216, 222), (60, 222), (16, 106)]
    for (x, y), (name, what) in zip(boxes, nodes):
        c.box(x, y, 124, 46, name, what, fill=ORANGE if name == 'batch' else BLUE)
    bend = lambda x0, y0, x1, y1, x2, y2: [((1-t)**2*x0 + 2*t*(1-t)*x1 + t*t*x2,
            (1-t)**2*y0 + 2*t*(1-t)*y1 + t*t*y2) for t in (i/12 for i in range(13))]
    for o in ((262, 37, 308, 48, 322, 104), (326, 152, 322, 190, 300, 220),
            (74, 104, 88, 48, 136, 37)):
        c.arrow(*bend(*o))
    c.arrow((216, 245), (186, 245))
    c.arrow(*bend(100, 222, 78, 190, 74, 154))
    c.arrow((204, 60), (256, 220), dash='5 4')
    c.label(212, 176, 'true masks,', 'Void left out', anchor='end')
    c.text(200, 298, 'Once round is one batch. When all images', SMALL)
    c.text(200, 314, 'have had their turn, an epoch is over.', SMALL)

def street_logits(mask):
    "Scores [3,4,4] whose highest is the class of `mask` at each pixel, most of them not by far."
    import torch
    from segbook.masks import one_hot, to_mask
    noise = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(4))
    logits = ((2*one_hot(mask, 3) + noise)*10).round()/10
    top = logits.max(0).values.clone()
    logits = logits.scatter(0, mask[None], (top + .3)[None])
    assert (to_mask(logits) == mask).all()
    return logits

@diagram('One mask in three forms: class ids, one-hot maps, and logits, from which argmax leads '
    'back', 462)
def mask_forms(c):
    import torch
    from segbook.masks import one_hot, palette
    names = ['Sky', 'Building', 'Road']
    cols = [hexed(o) for o in palette(names)]
    mask = torch.tensor([[0, 0, 0, 1], [0, 1, 0, 1], [0, 1, 1, 1], [2, 2, 2, 2]])
    logits, cell = street_logits(mask), 25
    x0 = [64, 174, 284]
    c.grid(64, 36, mask.tolist(), cell, lambda v: cols[v])
    c.label(64, 20, 'ids [H,W]', bold=True, size=TEXT)
    for k, n in enumerate(names):
        c.rect(190, 50 + 24*k, 16, 16, cols[k])
        c.label(214, 58 + 24*k, f'{k}  {n}')
    c.arrow((114, 137), (114, 170))
    c.label(124, 152, 'one_hot(mask, 3)')
    c.label(64, 184, 'one-hot [K,H,W]: 1 where the class is', bold=True, size=TEXT)
    c.label(64, 318, 'logits [K,H,W]: scores of a network', bold=True, size=TEXT)
    for k, x in enumerate(x0):
        c.grid(x, 198, one_hot(mask, 3)[k].int().tolist(), cell, lambda v: cols[k] if v else WHITE)
        z = [[(logits[k, i, j].item(), mask[i, j] == k) for j in range(4)] for i in range(4)]
        c.grid(x, 332, z, cell, lambda v: cols[k] if v[1] else WHITE, lambda v: f'{v[0]:.1f}',
            SMALL)
    c.arrow((24, 436), (24, 72), (58, 72))
    c.label(16, 448, 'to_mask(logits): argmax, the class with the highest score')

@diagram('From a folder of images and masks to batches', 452)
def data_folder(c):
    c.folder(14, 14, 372, 96, fill='#fbe6c8')
    rows = [('images/', 'scene_00000.png ...'),
        ('labels/', 'scene_00000_P.png ...: one id a pixel'), ('codes.txt', 'line k names id k'),
        ('valid.txt', 'names of the validation images')]
    for i, (a, b) in enumerate(rows):
        c.label(28, 36 + 20*i, a, bold=True)
        c.label(108, 36 + 20*i, b)
    for x, t in ((14, 'training images'), (216, 'validation images')):
        c.arrow((x + 85, 110), (x + 85, 137))
        c.box(x, 138, 170, 28, t, fill=WHITE)
        c.arrow((x + 85, 166), (x + 85, 189))
    c.text(200, 124, 'split', bold=True)
    c.box(14, 190, 372, 62, 'item transforms: one image with its mask', 'open both; check the ids',
        'one size for all: image bilinear, mask nearest', fill=BLUE)
    c.arrow((200, 252), (200, 277))
    c.label(210, 264, 'B of them are stacked')
    c.box(14, 278, 372, 62, 'batch transforms: a whole batch', 'numbers as floats from 0 to 1, ids '
        'as int64', 'training only: flip, turn, zoom, brighter or darker', fill=BLUE)
    for x, n, t, what in ((40, 3, 'images', '[B,C,H,W] float'), (232, 1, 'masks', '[B,H,W] int64')):
        c.arrow((x + 50, 340), (x + 50, 366))
        for b in (2, 1, 0): c.maps(x + 6*b, 392 - 6*b, 30, 34, 1, BLUE if n == 3 else '#fbe6c8')
        c.label(x + 56, 394, t, bold=True, size=TEXT)
        c.label(x + 56, 411, what)

def column(c, x, y, values, head, lo=0, width=56, mark=None):
    "Numbers below each other, with a bar for each."
    c.text(x + width/2, y - 12, head, SMALL, bold=True)
    for i, v in enumerate(values):
        c.rect(x, y + 30*i, width, 24, WHITE, stroke='#bfbfbf')
        c.rect(x, y + 30*i, max(1, width*(v - lo)/(1 - lo)), 24, ORANGE if i == mark else BLUE)
        c.text(x + width + 6, y + 30*i + 12, f'{v:.2f}', anchor='start', bold=i == mark)

@diagram('Cross entropy of one pixel: softmax, minus the logarithm of the probability of the true '
    'class, times its weight', 366)
def pixel_cross_entropy(c):
    import torch
    from segbook.losses import CrossEntropyLoss
    # the chapter's four pixels a, b, c, d
    z = torch.tensor([[2, 1, 1], [1, 6, 1], [1, 1, 2], [5, 2, 1]]).log()
    x, t, w = z.T.reshape(1, 3, 2, 2), torch.tensor([[[0, 1], [2, 255]]]), torch.tensor([1., 1.,
            4.])
    p, each = z[2].softmax(0).tolist(), CrossEntropyLoss(None, 255, reduction='none')(x,
        t).flatten()
    c.text(14, 22, 'pixel c, its true class is 2', BIG, 'start', bold=True)
    for k in range(3): c.text(14, 76 + 30*k, f'class {k}', SMALL, 'start', bold=k == 2)
    column(c, 66, 64, z[2].tolist(), 'logits', mark=2)
    column(c, 212, 64, p, 'probabilities', mark=2)
    c.arrow((160, 106), (206, 106))
    c.text(183, 95, 'softmax', SMALL)
    c.text(345, 106, 'sum: 1', SMALL, fill=DIM)
    c.arrow((286, 149), (286, 183))
    c.label(276, 168, 'minus log, only of the true class', anchor='end')
    c.box(116, 184, 270, 30, f'loss = −log {p[2]:.2f} = {each[2]:.2f}', fill=ORANGE)
    c.arrow((286, 214), (286, 245))
    c.label(276, 230, f'times the weight of class 2: {w[2]:g}', anchor='end')
    c.box(116, 246, 270, 30, f'{w[2]:g} × {each[2]:.2f} = {w[2]*each[2]:.2f}', fill=ORANGE)
    c.box(14, 184, 92, 92, 'pixel d', 'Void', 'left out:', 'no loss,', 'no gradient', fill=WHITE,
        dash='5 4')
    by_hand = (each[0] + each[1] + 4*each[2])/6
    c.text(14, 304, 'The batch: pixels a, b and c; the sum is divided by their weights', SMALL,
        'start')
    parts = ' + '.join(f'{w[k]:g} × {each[k]:.2f}' for k in range(3))
    loss = CrossEntropyLoss(w, 255)(x, t).item()
    assert abs(loss - by_hand.item()) < 1e-6
    c.box(14, 318, 372, 34, f'({parts}) / (1 + 1 + 4) = {loss:.2f}', fill=BLUE)

@diagram('The confusion matrix, and what its cells are called for one class', 334)
def confusion_cells(c):
    names, k = ['Sky', 'Road', 'Car', 'Tree'], 2
    kind = lambda i, j: 'TP' if i == j == k else 'FN' if i == k else 'FP' if j == k else 'TN'
    fills = dict(TP=DARK, FP=ORANGE, FN=BLUE, TN=WHITE)
    c.text(234, 20, 'prediction', BIG, bold=True)
    c.text(40, 44, 'truth', BIG, 'start', bold=True)
    for i, n in enumerate(names):
        c.text(128 + 70*i, 44, n, bold=i == k)
        c.text(84, 82 + 44*i, n, anchor='end', bold=i == k)
        for j in range(4):
            s = kind(i, j)
            c.rect(94 + 70*j, 60 + 44*i, 68, 42, fills[s])
            c.text(128 + 70*j, 81 + 44*i, s, BIG, bold=s != 'TN',
                fill=WHITE if s == 'TP' else DIM if s == 'TN' else INK)
    rows = [('TP', 'is Car, called Car'), ('FN', 'is Car, called something else: its row'),
        ('FP', 'called Car, is something else: its column'), ('TN', 'neither')]
    for i, (s, what) in enumerate(rows):
        c.rect(94, 249 + 19*i, 22, 14, fills[s])
        c.label(124, 256 + 19*i, s, bold=True)
        c.label(150, 256 + 19*i, what)
    c.label(14, 256, 'Seen from', 'class Car:')

def two(c, x, y, s, fn=WHITE, tp=WHITE, fp=WHITE, b_stroke=True):
    """Truth (10 × 8, solid) and prediction (dashed, moved by 4 and 2), `s` units a pixel, their
    three parts filled."""
    c.rect(x, y, 10*s, 8*s, fn, 'none')
    c.rect(x + 4*s, y + 2*s, 10*s, 8*s, fp, 'none')
    c.rect(x + 4*s, y + 2*s, 6*s, 6*s, tp, 'none')
    c.rect(x, y, 10*s, 8*s, 'none', INK, width=1.8)
    c.rect(x + 4*s, y + 2*s, 10*s, 8*s, 'none', INK, width=1.8, dash='6 3')

@diagram('Intersection over union and Dice as areas', 444)
def iou_dice(c):
    import torch
    from segbook.metrics import Confusion
    a, b = torch.zeros(2, 14, 20, dtype=torch.long)
    a[2:10, 3:13] = 1
    b[4:12, 7:17] = 1
    m = Confusion(2).update(b[None], a[None])
    (_, fp), (fn, tp) = m.matrix.tolist()
    two(c, 130, 34, 11, BLUE, DARK, ORANGE)
    for x, y, s, n, fill in ((152, 80, 'FN', fn, INK), (207, 89, 'TP', tp, WHITE),
            (262, 100, 'FP', fp, INK)):
        c.text(x, y, s, BIG, bold=True, fill=fill)
        c.text(x, y + 17, n, fill=fill)
    c.text(130, 22, 'truth', anchor='start', bold=True)
    c.text(284, 158, 'prediction (dashed)', anchor='end', bold=True)
    c.label(304, 40, 'numbers', 'of pixels')
    for y, name, value, words in ((178, 'IoU', m.iou()[1], 'TP / (TP + FP + FN)'),
            (308, 'Dice', m.dice()[1], '2 TP / (2 TP + FP + FN)')):
        c.line((14, y), (386, y), stroke='#bfbfbf', width=1)
        n, d = (tp, tp + fp + fn) if name == 'IoU' else (2*tp, 2*tp + fp + fn)
        c.text(14, y + 22, f'{name} = {words} = {n}/{d} = {value:.2f}', BIG, 'start', bold=True)
        c.line((118, y + 78), (282, y + 78), width=2)
        for x in ((165, ) if name == 'IoU' else (122, 208)): two(c, x, y + 34, 3.8, tp=DARK)
    two(c, 165, 262, 3.8, DARK, DARK, DARK)
    two(c, 122, 392, 3.8, DARK, DARK)
    two(c, 208, 392, 3.8, WHITE, DARK, DARK)
    c.label(296, 232, 'both say so')
    c.label(296, 284, 'either says so')
    c.label(296, 362, 'counted twice')
    c.label(296, 414, 'the two sizes')

@diagram('The parts of a fastai Learner, and what seg_learner puts into each', 392)
def learner_parts(c):
    parts = [('DataLoaders', 'yours, with the normalisation', 'that fits the encoder'),
        ('model', 'a U-Net around the encoder, one', 'map of scores for each class'),
        ('loss', 'cross entropy without Void,', 'rare classes weigh more'),
        ('metrics', 'pixel accuracy, mean IoU, mean', 'Dice, all without Void'),
        ('callbacks', 'seeds for each epoch, keep the', 'best weights, memory format')]
    c.box(14, 40, 70, 338, 'Learner', fill=DARK)
    c.text(142, 22, 'fastai\'s parts', bold=True)
    c.text(290, 22, 'what seg_learner puts in', bold=True)
    for i, (name, *what) in enumerate(parts):
        y = 40 + 58*i
        c.box(100, y, 92, 46, name, fill=BLUE)
        c.line((84, y + 23), (100, y + 23), width=2.5)
        c.label(202, y + 15, *what)
    c.line((84, 353), (100, 353), width=2.5)
    c.box(100, 332, 286, 46, 'learn.segmenter', 'size, means, class names: for prediction',
        fill=ORANGE)

@diagram('One cycle: learning rate and momentum over a run of four epochs, with a checkpoint after '
    'each', 366)
def one_cycle(c):
    from fastai.callback.schedule import combined_cos
    lr, epochs, n = 2e-3, 4, 80
    at = lambda p: 70 + 300*p
    panels = [('learning rate', 36, 164, lr, combined_cos(.25, lr/25, lr, lr/1e5), [lr/25, lr]),
        ('momentum', 204, 284, .95, combined_cos(.25, .95, .85, .95), [.85, .95])]
    for e in range(epochs + 1):
        c.line((at(e/epochs), 36), (at(e/epochs), 288), dash='2 4' if 0 < e < epochs else None,
            width=1, stroke='#8c8c8c')
        c.text(at(e/epochs), 300, e)
    for name, top, bottom, high, f, marks in panels:
        low = 0 if name == 'learning rate' else .85
        y = lambda v: bottom - (bottom - top)*(v - low)/(high - low)
        c.text(76, top - 14, name, SMALL, 'start', bold=True)
        c.line((70, bottom + 4), (370, bottom + 4), width=1, stroke='#8c8c8c')
        c.line(*[(at(i/n), y(float(f(i/n)))) for i in range(n + 1)], width=2.5, stroke=DARK)
        for v in marks: c.text(59, y(v), f'{v:g}' if v > 1e-4 else '0.00008', SMALL, 'end')
        for e in range(epochs + 1 if low == 0 else 0):
            px, py = at(e/epochs), y(float(f(e/epochs)))
            c.shape((px, py - 7), (px + 6, py), (px, py + 7), (px - 6, py),
                fill=ORANGE if e else WHITE, stroke=INK)
    c.text(220, 316, 'epochs', bold=True)
    c.shape((24, 332), (30, 339), (24, 346), (18, 339), fill=ORANGE, stroke=INK)
    c.label(38, 334, 'checkpoint: weights, optimiser, place in the schedule,',
        'table, best weights; a first one (white) before the start')

@diagram('From an image of any size to a mask of the same size', 422)
def any_size(c):
    down = [('image', 'any file, 150 × 203'), ('floats', '[C,150,203], 0 to 1'),
        ('resized', '[C,48,64], as in training'), ('normalised', 'as in training')]
    up = [('mask', '150 × 203'), ('highest score', 'Void is closed'),
        ('back to size', '[K,150,203], bilinear'), ('logits', '[K,48,64]')]
    for i, (a, b) in enumerate(zip(down, up)):
        y = 14 + 72*i
        c.box(14, y, 176, 46, *a, fill=ORANGE if i == 0 else BLUE)
        c.box(210, y, 176, 46, *b, fill=ORANGE if i == 0 else BLUE)
        c.arrow((102, y + 46), (102, y + 71))
        c.arrow((298, y + 72), (298, y + 47))
    c.box(14, 302, 372, 46, 'network', 'keeps height and width', fill=DARK)
    c.label(14, 370, 'Resized only if the training images were; otherwise the',
        'network sees the image at its own size. Scores are resized,', 'class ids never.')

@diagram('What save_segmenter writes and load_segmenter reads', 404)
def model_folder(c):
    c.box(14, 14, 150, 46, 'Learner', 'trained', fill=BLUE)
    c.arrow((89, 60), (89, 93))
    c.label(99, 76, 'save_segmenter(learn, folder)')
    c.folder(14, 94, 372, 152, fill='#fbe6c8')
    files = [('model.safetensors', 'the weights:', 'numbers, with their', 'names and shapes'),
        ('segmenter.json', 'the facts: network,', 'encoder, channels, size,', 'means, class names, '
            'Void')]
    for x, lines in zip((28, 208), files): c.box(x, 114, 164, 82, *lines, fill=WHITE)
    c.text(200, 212, 'no pickle: nothing in the folder is a program,', SMALL, bold=True)
    c.text(200, 229, 'so loading it runs nothing', SMALL, bold=True)
    c.arrow((89, 246), (89, 279))
    c.label(99, 262, 'load_segmenter(folder)')
    c.box(14, 280, 372, 46, 'Segmenter', 'network built from the facts, weights filled in',
        fill=BLUE)
    c.arrow((89, 326), (89, 357))
    c.label(99, 342, '.predict(image), on any day, in another program')
    little_street(c, 69, 362)
    c.label(121, 376, 'the same mask as before')

def slider(c, x, y, name, at):
    c.label(x, y, name)
    c.line((x + 54, y), (x + 124, y), width=2)
    c.add('circle', cx=x + 54 + 70*at, cy=y, r=6, fill=DARK)

@diagram('An explorer: a thin shell of controls over a pure drawing function, with and without a '
    'kernel', 402)
def explorer_parts(c):
    c.box(14, 34, 150, 108, fill=WHITE)
    c.text(89, 20, 'shell: mask_explorer', SMALL, bold=True)
    slider(c, 24, 56, 'image', .3)
    slider(c, 24, 88, 'opacity', .6)
    c.rect(24, 110, 130, 22, PLAIN, rx=4)
    c.text(89, 121, 'overlay', SMALL)
    c.arrow((164, 74), (212, 74))
    c.text(188, 62, 'values', SMALL)
    c.box(214, 34, 172, 62, 'draw_mask_explorer', 'same values, same figure;', 'keeps nothing; '
        'tested', fill=BLUE)
    c.arrow((300, 96), (300, 112), (166, 112))
    c.label(236, 126, 'a figure')
    for y, head, what, fill in ((166, 'page with a kernel',
                ('A control moves, the function draws', 'again, the picture changes.'), BLUE),
            (284, 'page without a kernel', ('No Python runs. The page shows a figure',
                    'that the same function drew before.'), PLAIN)):
        c.rect(14, y, 372, 104, fill, rx=6)
        c.text(26, y + 18, head, BIG, 'start', bold=True)
        c.label(26, y + 40, *what)
        little_street(c, 320, y + 40, 13)
    slider(c, 26, 248, 'opacity', .6)
    c.arrow((166, 248), (206, 248))
    c.text(234, 248, 'draw', SMALL)
    c.arrow((260, 248), (310, 248))
    c.text(26, 366, 'static figure', SMALL, 'start', fill=DIM)
    c.arrow((106, 366), (310, 366))

@diagram('The way of an exercise: fill the stub, check, then a tick, or a counter-example, hints '
    'and another try', 368)
def exercise_loop(c):
    c.box(14, 14, 150, 46, 'fill the stub', 'a function to write', fill=ORANGE)
    c.arrow((164, 37), (234, 37))
    c.box(236, 14, 150, 46, 'check', "check('09.1', mine)", fill=BLUE)
    c.arrow((311, 60), (311, 105))
    c.label(303, 82, 'right', bold=True, anchor='end')
    c.line((334, 86), (342, 95), (358, 72), width=4, stroke=DARK)
    c.box(236, 106, 150, 46, 'a tick', 'on to the next', fill=WHITE)
    c.arrow((311, 152), (311, 187))
    c.box(236, 188, 150, 62, 'progress file', 'one small JSON file,', 'shown by progress()',
        fill=PLAIN)
    c.arrow((250, 60), (250, 82), (139, 82), (139, 105))
    c.label(160, 94, 'wrong', bold=True)
    c.box(40, 106, 182, 62, 'smallest counter-example', 'input, expected, found,', 'and which edge '
        'it is', fill=WHITE)
    c.arrow((129, 168), (129, 201))
    c.box(40, 202, 182, 46, 'hint', 'one more at each call', fill=BLUE)
    c.arrow((40, 225), (26, 225), (26, 62))
    c.line((40, 137), (26, 137))
    c.arrow((129, 248), (129, 297))
    c.label(139, 273, 'still stuck')
    c.label(34, 190, 'try again')
    c.box(40, 298, 182, 46, 'solution', 'asks once before it shows', fill=BLUE)
    c.label(236, 300, 'A check answers with a', 'sentence, never with a', 'traceback, and stops a',
        'loop that does not end.')

@diagram('Three commands, with the files that each reads and writes', 424)
def commands(c):
    c.folder(14, 14, 372, 56, fill='#fbe6c8')
    c.label(26, 36, 'my_folder', bold=True, size=TEXT)
    c.label(26, 54, 'images/, labels/, codes.txt, valid.txt')
    c.arrow((60, 70), (60, 95))
    c.arrow((60, 142), (60, 175))
    c.box(14, 96, 126, 46, 'segbook_check', 'is it in order?', fill=BLUE)
    c.arrow((140, 119), (178, 119))
    c.label(186, 104, 'a report, and an exit code', 'with --fix: a corrected copy', 'of the folder')
    c.box(14, 176, 126, 46, 'segbook_train', '--data my_folder', fill=BLUE)
    c.arrow((140, 199), (178, 199))
    c.folder(180, 160, 206, 106, fill='#fbe6c8')
    c.label(190, 180, 'runs/mine', bold=True, size=TEXT)
    c.label(190, 198, 'results.png, run.json', 'metrics.csv, per_class.csv', 'model/: weights and '
        'facts', 'checkpoint/, while it runs')
    c.arrow((283, 266), (283, 284), (110, 284), (110, 311))
    c.label(118, 297, 'model/')
    c.rect(14, 262, 64, 30, ORANGE)
    c.text(46, 277, 'photo.jpg', SMALL)
    c.arrow((46, 292), (46, 311))
    c.box(14, 312, 126, 46, 'segbook_predict', 'runs/mine photo.jpg', fill=BLUE)
    c.arrow((140, 335), (178, 335))
    c.folder(180, 312, 206, 66, fill='#fbe6c8')
    c.label(190, 332, 'masks', bold=True, size=TEXT)
    c.label(190, 348, 'photo_mask.png, one id a pixel', 'photo_overlay.png, to look at')
    c.text(200, 402, 'Nothing that exists is overwritten unless you say so.', SMALL)

def unet_shapes():
    """Names and shapes (channels, height, width) along DynamicUnet on ResNet-18, for an image of
    96 × 128: encoder, decoder."""
    import torch
    from segbook.models import seg_model
    m, seen = seg_model('dynamic_unet', 12, 'resnet18').eval(), []
    for o in (*m[0], *m.layers[1:]):
        o.register_forward_hook(lambda mod, a,
            out: seen.append((type(mod).__name__, tuple(out.shape[1:]))))
    with torch.no_grad(): m(torch.zeros(1, 3, 96, 128))
    n = len(m[0])
    down = [(3, 96, 128)] + [s for (_, s), (_, nxt) in zip(seen[:n], seen[1:n])
        if s[1:] != nxt[1:]] + [seen[n-1][1]]
    up = [s for name, s in seen[n:] if name in ('UnetBlock', 'PixelShuffle_ICNR', 'MergeLayer')]
    return down, [seen[n+2][1]] + up, seen[-1][1]

@diagram('DynamicUnet on ResNet-18 for an image of 96 by 128 pixels: encoder, skip connections, '
    'decoder', 438)
def dynamic_unet(c):
    down, up, out = unet_shapes()
    names = ['image', 'stem', 'layer1', 'layer2', 'layer3', 'layer4']
    c.text(78, 20, 'encoder', BIG, bold=True)
    c.text(322, 20, 'decoder', BIG, bold=True)
    c.text(200, 20, 'height × width', SMALL, fill=DIM)
    merged, ups = up[-1], up[1:-1][::-1]  # from the image's size downwards
    for i, (name, (k, h, w)) in enumerate(zip(names, down)):
        y, dx = 88 + 60*i, 5*i
        c.box(14 + dx, y, 124 - dx, 34, f'{name}: {k}' if i else f'image: {k} colours',
            fill=ORANGE if i == 0 else BLUE)
        if i < 5:
            k2, h2, w2 = ups[i]
            assert (h, w) == (h2, w2)
            c.box(262, y, 124 - dx, 34, f'{merged[0]} = {k2} + {k}' if i == 0 else k2, fill=BLUE)
            c.arrow((138, y + 17), (261, y + 17), dash='5 4')
            c.text(200, y + 7, f'{h} × {w}', SMALL)
            c.arrow((78, y + 34), (78, y + 59))
            c.arrow((322, y + 60), (322, y + 35))
        else:
            c.box(262, y, 124 - dx, 34, f'bridge: {up[0][0]}', fill=DARK)
            c.arrow((138, y + 17), (261, y + 17))
            c.text(200, y + 7, f'{h} × {w}', SMALL)
    c.box(262, 34, 124, 34, 'head: K scores', fill=ORANGE)
    c.arrow((322, 88), (322, 69))
    assert out[1:] == down[0][1:]
    c.label(14, 44, 'numbers in boxes: channels', 'dashed: skip connections')

@diagram('The split of camvid_tiny: what is trained on, judged on, and left out', 396)
def camvid_split(c):
    codes, cols = classes()
    c.grid(20, 40, [[int(i > 3)]*20 for i in range(5)], 18, lambda v: ORANGE if v else BLUE,
        lambda v: '')
    c.label(20, 22, '100 images of 96 × 128 pixels', bold=True, size=BIG)
    c.rect(20, 146, 18, 18, BLUE)
    c.label(46, 155, 'trained on: 80 images', bold=True)
    c.label(46, 171, 'flipped, turned, zoomed, lit at random')
    c.rect(20, 190, 18, 18, ORANGE)
    c.label(46, 199, 'judged on: 20 images', bold=True)
    c.label(46, 215, 'they also chose the best epoch,', 'so the score is a little too good')
    c.line((14, 250), (386, 250), width=1, stroke='#bfbfbf')
    ids = ['SSSSSBBB', 'SSTSSBBB', 'TTTVVBVB', 'PPTVVPVP', 'RRRRRRRR', 'RRRVRRRR']
    name = dict(S='Sky', B='Building', T='Tree', P='Pavement', R='Road', V='Void')
    c.grid(20, 270, ids, 18, lambda v: WHITE if v == 'V' else cols[codes.index(name[v])],
        lambda v: '')
    for i, j in ((i, j) for i, row in enumerate(ids) for j, v in enumerate(row) if v == 'V'):
        for a, b in ((0, 18), (0, 9), (9, 18)):
            c.line((20 + 18*j + a, 270 + 18*i + (b if a == 0 else 18)),
                (20 + 18*j + (b if a == 0 else 18), 270 + 18*i + (0 if a == 0 else 9)), width=1)
    c.rect(182, 270, 18, 18, WHITE)
    c.line((182, 288), (200, 270), width=1)
    c.line((182, 279), (191, 270), width=1)
    c.line((191, 288), (200, 279), width=1)
    c.label(208, 279, 'left out: Void pixels', bold=True)
    c.label(182, 303, 'in every image: no loss,', 'no score, never predicted')
    c.label(182, 350, 'ImageNet weights:', 'the encoder begins so')

@diagram('Convolution as a matrix: a kernel of 3×3 on 4×4 pixels, four answers, and the matrix of '
    '4×16', 292)
def conv_as_matrix(c):
    import torch
    from segbook.convolution import conv_matrix
    rows = conv_matrix(torch.arange(1, 10).view(3, 3), 4).tolist()
    assert len(rows) == 4 and len(rows[0]) == 16
    fill = lambda v: WHITE if not v else (ORANGE, BLUE, DARK)[(v - 1)//3]
    for x, s in ((62, 'kernel'), (202, 'pixels'), (344, 'answers')):
        c.text(x, 20, s, BIG, bold=True)
    c.grid(23, 36, [[1, 2, 3], [4, 5, 6], [7, 8, 9]], 26, fill)
    c.grid(150, 36, [[4*i + j for j in range(4)] for i in range(4)], 26, lambda v: PLAIN)
    c.rect(150, 36, 78, 78, 'none', INK, width=3)
    c.label(150, 156, 'frame: read by answer a')
    c.grid(318, 36, ['ab', 'cd'], 26, lambda v: PLAIN)
    c.rect(318, 36, 26, 26, 'none', INK, width=3)
    for j in range(16): c.text(43 + 22*j, 184, j, SMALL, fill=DIM)
    c.grid(32, 194, rows, 22, fill, lambda v: str(v) if v else '')
    for i, s in enumerate('abcd'): c.text(20, 205 + 22*i, s, TEXT, bold=True)

@diagram('An Inception module with 1×1 reductions: its branches, channels and cost', 330)
def inception_module(c):
    from segbook.convolution import conv_params
    n = 28*28
    cost = lambda i, o, k: f'{n*conv_params(i, o, k)/1e6:.1f} M'
    c.box(120, 14, 160, 40, 'input', '192 channels, 28 × 28', fill=PLAIN)
    first = [None, ('1×1', '96', cost(192, 96, 1)), ('1×1', '16', cost(192, 16, 1)),
        ('max 3×3', '192', 'stride 1')]
    last = [('1×1', 64, cost(192, 64, 1)), ('3×3', 128, cost(96, 128, 3)),
        ('5×5', 32, cost(16, 32, 5)), ('1×1', 32, cost(192, 32, 1))]
    c.line((200, 54), (200, 70))
    c.line((55, 70), (345, 70))
    for i, (a, (kind, o, m)) in enumerate(zip(first, last)):
        x = 12 + 96.7*i
        mid = x + 43
        if a:
            c.arrow((mid, 70), (mid, 88))
            c.box(x, 88, 86, 60, a[0], f'{a[1]} channels', a[2],
                fill=ORANGE if a[0] == '1×1' else PLAIN)
            c.arrow((mid, 148), (mid, 170))
        else: c.arrow((mid, 70), (mid, 170))
        c.box(x, 170, 86, 60, kind, f'{o} channels', m, fill=BLUE)
        c.line((mid, 230), (mid, 246))
    c.line((55, 246), (345, 246))
    c.arrow((200, 246), (200, 264))
    c.box(120, 264, 160, 40, 'joined', f'{sum(o for _, o, _ in last)} channels, 28 × 28',
        fill=PLAIN)
    c.text(200, 317, 'orange: reductions.  M: millions of multiplications', SMALL, fill=DIM)

@diagram('The U with its skips: three levels down, the bottom, three levels up; at each level an '
    'arrow hands on the map or the pooling indices', 346)
def u_with_skips(c):
    import torch
    from segbook.skip_connections import SkipNet
    net, seen = SkipNet(3, 'concat'), []
    for m in net.encoder: m.register_forward_hook(lambda m, i, o: seen.append(o.shape))
    with torch.no_grad(): net.eval()(torch.zeros(1, 1, 32, 48))
    c.text(72, 20, 'encoder', BIG, bold=True)
    c.text(328, 20, 'decoder', BIG, bold=True)
    for i, (_, n, h, w) in enumerate(seen):
        y = 36 + 74*i
        if i == 3:
            c.box(146, y, 108, 42, 'bottom', f'{n} maps, {h} × {w}', fill=ORANGE)
            continue
        for x in (12 + 14*i, 268 - 14*i):
            c.box(x, y, 120, 42, f'level {i}', f'{n} maps, {h} × {w}', fill=BLUE)
        c.arrow((132 + 14*i, y + 21), (268 - 14*i, y + 21), dash='5 4')
        left, right = 72 + 14*i, 328 - 14*i
        c.arrow((left, y + 42), (left + 14 if i < 2 else 165, y + 74))
        c.arrow((right - 14 if i < 2 else 235, y + 74), (right, y + 42))
    c.text(24, 235, 'pool', SMALL, 'start', fill=DIM)
    c.text(376, 235, 'enlarge', SMALL, 'end', fill=DIM)
    c.text(200, 46, 'skip', SMALL, bold=True)
    c.label(200, 318, 'dashed: the map itself (sum, concatenate),', 'or only the pooling indices',
        anchor='middle', fill=DIM)

@diagram('Copy and crop: the middle of the encoder map is cut out to the size of the decoder map',
    210)
def crop_skip(c):
    import torch
    from segbook.skip_connections import center_crop
    e, d, k = 64, 56, 2.2
    first = int(center_crop(torch.arange(e)[:, None].expand(e, e), (d, d))[0, 0])
    c.rect(20, 34, k*e, k*e, PLAIN)
    c.rect(20 + k*first, 34 + k*first, k*d, k*d, BLUE, dash='5 4')
    c.text(20 + k*e/2, 18, f'encoder, {e} × {e}', BIG, bold=True)
    c.text(20 + k*e/2, 34 + k*e/2, f'middle, {d} × {d}')
    c.arrow((24 + k*e, 34 + k*e/2), (236, 34 + k*e/2))
    c.text(200, 92, 'crop', SMALL)
    c.rect(240, 34 + k*first, k*d, k*d, ORANGE)
    c.text(240 + k*d/2, 18, f'decoder, {d} × {d}', BIG, bold=True)
    c.text(240 + k*d/2, 34 + k*e/2, 'of the same size')
    c.text(200, 193, f'{first} rows and columns are cut off at each side: ({e} − {d})/2', SMALL,
        fill=DIM)

@diagram('A transposed convolution stamps a kernel of three at stride 2; where stamps overlap they '
    'are added', 250)
def transposed_stamp(c):
    import torch
    x, k, s = torch.ones(1, 1, 3), torch.ones(1, 1, 3), 2
    out = [int(v) for v in torch.nn.functional.conv_transpose1d(x, k, stride=s)[0, 0]]
    c.text(14, 36, 'input', SMALL, 'start')
    c.text(14, 216, 'sum', SMALL, 'start')
    for i in range(3):
        left = 90 + 36*s*i
        c.grid(left + 36, 20, [[1]], 36, lambda v: BLUE)
        c.grid(left, 76 + 40*i, [[1, 1, 1]], 36, lambda v: ORANGE)
        c.text(14, 94 + 40*i, f'stamp {i + 1}', SMALL, 'start')
    c.grid(90, 200, [out], 36, lambda v: ORANGE if v > 1 else WHITE, bold=lambda v: v > 1)

@diagram('Three layers in one dimension: the pixels that one unit of the last layer sees, with '
    'size and jump of each layer', 268)
def receptive_growth(c):
    from torch import nn
    from segbook.receptive_field import receptive_field
    layers = [nn.Conv2d(1, 1, (3, 1)), nn.Conv2d(1, 1, (3, 1), stride=(2, 1)),
        nn.Conv2d(1, 1, (3, 1))]
    n, x0, w, says = 15, 14, 18, ['image', '3, stride 1', '3, stride 2', '3, stride 1']
    nets = [nn.Sequential(*layers[:k]) for k in range(1, 4)]
    maps = [receptive_field(m, (n, 1), in_channels=1) for m in nets]
    units = [range(n)] + [range(f.map_size[0]) for f in maps]
    def box(k, u):
        return (u, u) if k == 0 else receptive_field(nets[k - 1], (n, 1), unit=(u, 0),
            in_channels=1).box[0:3:2]
    mid = lambda k, u: x0 + (sum(box(k, u))/2 + .5)*w
    ys = [226, 164, 102, 40]
    seen = [[], [], [], [1]]
    for k in (3, 2, 1):
        seen[k - 1] = sorted({u*layers[k - 1].stride[0] + i for u in seen[k] for i in range(3)})
    for k in (3, 2, 1):
        for u in seen[k]:
            for i in range(3):
                c.line((mid(k, u), ys[k] + 8), (mid(k - 1, u*layers[k - 1].stride[0] + i),
                        ys[k - 1] - 8), width=.9)
    for k in range(4):
        for u in units[k]:
            c.rect(mid(k, u) - 7, ys[k] - 8, 14, 16, ORANGE if u in seen[k] else PLAIN)
        f = maps[k - 1] if k else None
        c.label(296, ys[k] - 8, says[k], f'size {f.size[0] if k else 1}, jump '
            f'{f.stride[0] if k else 1:g}')

@diagram('A small encoder and decoder in one dimension: neighbouring units of the decoder see '
    'boxes of different sizes', 240)
def receptive_u(c):
    from torch import nn
    from segbook.receptive_field import receptive_field
    pool, up = nn.MaxPool2d((2, 1)), nn.ConvTranspose2d(1, 1, (3, 1), stride=(2, 1), padding=(1, 0),
        output_padding=(1, 0))
    n, x0, w = 12, 20, 30
    net = nn.Sequential(nn.Conv2d(1, 1, (3, 1), padding=(1, 0)), pool, up)
    c.text(200, 18, 'units of the decoder, as many as pixels', SMALL)
    for u in range(n):
        c.rect(x0 + u*w + 2, 30, w - 4, 16, ORANGE if u in (4, 5, 6, 7) else PLAIN)
        c.text(x0 + (u + .5)*w, 38, u, SMALL)
    for i, u in enumerate((4, 5, 6, 7)):
        top, _, bottom, _ = (f := receptive_field(net, (n, 1), unit=(u, 0), in_channels=1)).box
        y = 62 + 28*i
        c.rect(x0 + top*w + 2, y, (bottom - top + 1)*w - 4, 18, BLUE, rx=4)
        c.text(x0 + (top + bottom + 1)/2*w, y + 9, f'unit {u}: {f.size[0]} pixels', SMALL)
    for u in range(n):
        c.rect(x0 + u*w, 182, w, 20, PLAIN)
        c.text(x0 + (u + .5)*w, 192, u, SMALL)
    c.text(200, 222, 'pixels of the image', SMALL)

@diagram('Two windows around neighbouring pixels share all but one of their columns', 250)
def sliding_windows(c):
    n, x0, y0, cell = 7, 40, 50, 20
    for i in range(8):
        for j in range(12):
            shared = 0 <= i < n and 2 <= j < n + 1
            c.rect(x0 + j*cell, y0 + i*cell, cell, cell,
                BLUE if shared and i < n else PLAIN, width=.7)
    for j in (1, n + 1):
        for i in range(n): c.rect(x0 + j*cell, y0 + i*cell, cell, cell, ORANGE, width=.7)
    for k, dash in ((1, None), (2, '5 4')):
        c.rect(x0 + k*cell, y0, n*cell, n*cell, 'none', INK, width=2, dash=dash)
        c.add('circle', cx=x0 + (k + 3.5)*cell, cy=y0 + 3.5*cell, r=4, fill=INK)
    c.text(x0, 20, 'two windows of 7 × 7 pixels', BIG, 'start', bold=True)
    c.label(x0, 36, 'dots: the pixels whose class they say')
    c.label(40, 226, f'blue: {n*(n - 1)} pixels that both read;',
        f'orange: {2*n} that only one of them reads')
    c.label(292, 100, 'solid: the window', 'of the left pixel;', 'dashed: that of', 'the right one')

@diagram('FCN-8s: scores of the maps at strides 8, 16 and 32 are added from coarse to fine', 330)
def fcn_sums(c):
    ys, h = {8: 60, 16: 138, 32: 216}, 44
    c.text(64, 24, 'encoder', BIG, bold=True)
    c.text(190, 24, 'scores', BIG, bold=True)
    c.text(318, 24, 'sum', BIG, bold=True)
    for s, y in ys.items():
        c.box(14, y, 100, h, f'stride {s}', {8: '1/8 of a side', 16: '1/16', 32: '1/32'}[s],
            fill=BLUE)
        c.arrow((114, y + h/2), (140, y + h/2))
        c.box(140, y, 100, h, '1 × 1' if s < 32 else 'head', 'K channels', fill=ORANGE)
        if s > 8: c.arrow((64, y - 34), (64, y))
        if s < 32:
            c.arrow((240, y + h/2), (296, y + h/2))
            c.box(296, y + 8, 44, 28, '+')
            c.arrow((318, y + 78 + (8 if s == 8 else h/2)), (318, y + 36))
            c.text(326, y + 62, 'times 2', SMALL, 'start')
    c.line((240, 216 + h/2), (318, 216 + h/2))
    c.arrow((318, 68), (318, 40))
    c.text(326, 52, 'times 8', SMALL, 'start')
    c.label(14, 290, 'FCN-32s takes the lowest row alone and enlarges it 32 times,',
        'FCN-16s the two lower rows, FCN-8s all three')

@diagram('SegNet: the decoder puts its values where the maxima of the encoder stood', 262)
def segnet_indices(c):
    import torch
    x = torch.tensor([[1, 5, 2, 0], [3, 4, 0, 7], [6, 2, 1, 1], [0, 3, 8, 2]]).float()[None, None]
    top, where = torch.nn.functional.max_pool2d(x, 2, return_indices=True)
    other = torch.tensor([[20, 30], [40, 50]]).float()[None, None]
    back = torch.nn.functional.max_unpool2d(other, where, 2)
    whole = lambda t: [[int(v) for v in row] for row in t[0, 0]]
    best, cell = set(where.flatten().tolist()), 30
    c.text(80, 20, 'encoder', BIG, bold=True)
    c.text(320, 20, 'decoder', BIG, bold=True)
    c.grid(20, 34, whole(x), cell, lambda v: PLAIN)
    for k in best:
        i, j = divmod(k, 4)
        c.rect(20 + j*cell, 34 + i*cell, cell, cell, ORANGE)
        c.text(20 + (j + .5)*cell, 34 + (i + .5)*cell, int(x.flatten()[k]), bold=True)
    c.grid(260, 34, whole(back), cell, lambda v: ORANGE if v else PLAIN, bold=lambda v: v > 0)
    c.grid(50, 190, whole(top), cell, lambda v: PLAIN)
    c.grid(290, 190, whole(other), cell, lambda v: BLUE)
    c.arrow((80, 156), (80, 188))
    c.arrow((320, 188), (320, 156))
    c.arrow((144, 94), (256, 94), dash='5 4')
    c.text(200, 74, 'indices', SMALL, bold=True)
    c.text(200, 112, str(where.flatten().tolist()), SMALL)
    c.text(88, 172, 'pool', SMALL, 'start')
    c.text(328, 172, 'unpool', SMALL, 'start')
    c.arrow((114, 220), (286, 220))
    c.text(200, 208, 'deeper stages', SMALL)

@diagram('A feature pyramid, and the sum of its levels that becomes a mask', 330)
def feature_pyramid(c):
    strides = 4, 8, 16, 32
    for x, s in ((56, 'encoder'), (186, 'pyramid'), (318, 'mask')): c.text(x, 22, s, BIG, bold=True)
    for k, s in enumerate(strides):
        y, w = 44 + 66*k, 84 - 14*k
        c.box(56 - w/2, y, w, 36, str(s), fill=BLUE)
        c.arrow((56 + w/2, y + 18), (144, y + 18))
        if k == 0: c.text(121, y + 8, '1 × 1', SMALL)
        c.box(144, y, 84, 36, '+' if k < 3 else 'deepest', head=False)
        if k: c.arrow((56, y - 30), (56, y))
        if k:
            c.arrow((186, y), (186, y - 30))
            c.text(194, y - 15, 'times 2', SMALL, 'start')
        steps = max(1, k)
        c.arrow((228, y + 18), (258, y + 18))
        c.box(258, y, 74, 36, f'{steps} × conv', head=False)
        c.line((332, y + 18), (360, y + 18))
    c.line((360, 62), (360, 260))
    c.arrow((360, 260), (360, 286))
    c.box(300, 286, 90, 30, 'sum, stride 4', fill=ORANGE, head=False)
    c.label(14, 296, 'left: strides; “conv”: a 3 × 3, and', 'twice the size (not at stride 4)')

@diagram('A block of LinkNet leads back around a stage of the encoder', 300)
def linknet_block(c):
    c.text(86, 22, 'encoder', BIG, bold=True)
    c.text(304, 22, 'decoder', BIG, bold=True)
    c.box(36, 40, 100, 40, 'N channels', 'H × W', fill=BLUE, head=False)
    c.arrow((86, 80), (86, 130))
    c.box(36, 130, 100, 40, 'stage', 'stride 2', fill=WHITE, head=False)
    c.arrow((86, 170), (86, 220))
    c.box(36, 220, 100, 40, 'C channels', 'H/2 × W/2', fill=BLUE, head=False)
    c.arrow((136, 240), (234, 240))
    for y, lines in ((220, ['1 × 1 to C/4']), (166, ['transposed', '3 × 3, times 2']),
            (112, ['1 × 1 to N'])):
        c.box(234, y, 152, 40, *lines, head=False)
    c.arrow((310, 220), (310, 206))
    c.arrow((310, 166), (310, 152))
    c.arrow((310, 112), (310, 80))
    c.box(284, 46, 52, 34, '+', fill=ORANGE)
    c.arrow((136, 60), (284, 60))
    c.text(210, 48, 'link', SMALL)
    c.arrow((336, 63), (386, 63))
    c.label(36, 284, 'what the next block reads goes out at the right')

# --- the command
#
#
#
#
#
# --------------------------------------------------------------------------------------------------
# ---

def main(args):
    names, check = [a for a in args if a != '--check'] or list(DIAGRAMS), '--check' in args
    if unknown := [n for n in names if n not in DIAGRAMS]:
        print(f'no diagram {", ".join(unknown)}; there are: {", ".join(DIAGRAMS)}', file=sys.stderr)
        return 2
    differ = []
    for n in names:
        file, svg = HERE/f'{n}.svg', DIAGRAMS[n]().encode()
        if not check: file.write_bytes(svg)
        elif not file.exists() or file.read_bytes() != svg: differ.append(file.name)
    if differ:
        print('these differ from what images/draw.py draws: ' + ', '.join(differ)
            + '. Cure: python images/draw.py', file=sys.stderr)
    return int(bool(differ))

if __name__ == '__main__': sys.exit(main(sys.argv[1:]))
