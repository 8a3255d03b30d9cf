"""The site, JupyterLab and Voila in a real browser: `make test-web`. Not collected by `pytest tests`: it needs a built site.

Chromium is driven headless by Playwright; nothing outside 127.0.0.1 may be asked for. Set SEGBOOK_SITE to test another folder."""
import base64, functools, http.server, io, json, os, re, secrets, shutil, socket, subprocess, sys, tempfile, threading, time
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin
import numpy as np, pytest
from PIL import Image
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent
SITE = Path(os.environ.get('SEGBOOK_SITE', ROOT/'_docs'))
PAGES = sorted(f.relative_to(SITE).as_posix()
    for f in SITE.rglob('*.html')) if SITE.exists() else []
COURSE = [p for p in PAGES if p not in ('genindex.html', 'search.html')]
ARGS = ('--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking '
    '--disable-component-update --disable-sync'.split())
MAX_PAGE = 1_500_000
AXE = ROOT/'docs'/'node_modules'/'axe-core'/'axe.min.js'

assert PAGES, f'there is no site in {SITE}: run make docs'

class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args): pass

@pytest.fixture(scope='session')
def base():
    "The address of the site, served on 127.0.0.1"
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0),
        functools.partial(Quiet, directory=str(SITE)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}/'
    server.shutdown()

@pytest.fixture(scope='session')
def chromium():
    path = next((p for p in map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))
            if p), None)
    assert path, 'Chromium is missing: apt-get install chromium (.ci/run does it)'
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=path, args=ARGS)
        yield browser
        browser.close()

class Watched:
    "A page, and what went wrong in it: requests to other places, answers from 400 on, script errors"
    def __init__(self, browser, width=1280, theme='light', home='http://127.0.0.1'):
        self.context = browser.new_context(viewport=dict(width=width, height=900),
            color_scheme=theme)
        self.page, self.wrong, self.sizes = self.context.new_page(), [], {}
        self.page.set_default_timeout(30_000)
        self.page.on('request', lambda r: None
            if r.url.startswith((home, 'data:', 'blob:', 'ws://127.0.0.1'))
            else self.wrong.append(f'asks {r.url}'))
        self.page.on('response', lambda r: self.wrong.append(f'{r.status} for {r.url}')
            if r.status >= 400 else None)
        self.page.on('pageerror', lambda e: self.wrong.append(f'script error: {e}'))
        self.page.on('console', lambda m: self.wrong.append(f'console: {m.text}')
            if m.type == 'error' else None)
    def __enter__(self): return self
    def __exit__(self, *_): self.context.close()

def settled(page):
    "Wait until formulas and widgets stand"
    page.wait_for_function('() => !window.MathJax || !MathJax.startup || !MathJax.startup.promise '
        '|| MathJax.startup.promise.then(() => true)')
    page.wait_for_function("""() => [...document.querySelectorAll('script[type$="widget-view+json"]')].every(s => s.previousElementSibling?.querySelector('canvas[data-shown], img'))""")

# ---- every page

@pytest.mark.parametrize('name', PAGES)
def test_page(name, base, chromium):
    with Watched(chromium) as w:
        w.page.goto(base + name, wait_until='networkidle')
        settled(w.page)
        broken = w.page.evaluate("""async () => {
            const ims = [...document.images]; for (const i of ims) { i.loading = 'eager'; await i.decode().catch(() => {}); }
            return ims.filter(i => !i.naturalWidth).map(i => i.src); }""")
        assert not broken, f'pictures that do not load: {broken}'
        text = w.page.inner_text('article' if w.page.locator('article').count() else 'body')
        prose = w.page.evaluate("""() => { const a = document.querySelector('article') || document.body, c = a.cloneNode(true);
            c.querySelectorAll('pre, code, mjx-container, .cell').forEach(e => e.remove()); return c.textContent; }""")
        assert not re.search(r'^\s*(:::|#\|)|\{(toctree|note|figure)\}', prose,
            re.M), 'a raw directive is in the text'
        assert not re.search(r'\$[^$\n]*\\[a-zA-Z]|\\(frac|sum|cdot|text)\b',
            prose), 'a formula was not rendered'
        assert not w.page.locator('mjx-merror').count(), 'a formula has a mistake'
        unreadable = w.page.locator('article img:not([alt]), article img[alt=""]').count()
        if name in COURSE:
            assert not unreadable, f'{unreadable} pictures without an alternative text'
        assert not w.wrong, w.wrong
        assert text.strip()

def anchors(html): return set(re.findall(r'\b(?:id|name)="([^"]+)"', html))

def test_every_link_leads_somewhere():
    texts = {p: (SITE/p).read_text(encoding='utf-8') for p in PAGES}
    ids = {p: anchors(t) for p, t in texts.items()}
    lost = []
    for p, t in texts.items():
        for href in re.findall(r'<a\b[^>]*\bhref="([^"]+)"', t):
            if re.match(r'[a-zA-Z][\w+.-]*:|//', href): continue
            target, frag = urldefrag(urljoin(f'http://x/{p}', href.replace('&amp;', '&')))
            file = unquote(target[len('http://x/'):]).split('?')[0] or 'index.html'
            if not (SITE/file).exists(): lost.append(f'{p}: {href}')
            elif frag and file in ids and unquote(frag) not in ids[file]:
                lost.append(f'{p}: no anchor {href}')
    assert not lost, lost[:20]

@pytest.mark.parametrize('name', COURSE)
def test_page_is_small(name):
    "What a page brings of its own: its HTML and the pictures that no other page shows"
    html = (SITE/name).read_text(encoding='utf-8')
    others = ''.join((SITE/p).read_text(encoding='utf-8') for p in COURSE if p != name)
    pictures = {m for m in re.findall(r'_images/([\w.-]+)', html) if f'_images/{m}' not in others}
    size = len(html.encode()) + sum((SITE/'_images'/m).stat().st_size for m in pictures)
    assert size < MAX_PAGE, f'{size:,} bytes'

@pytest.mark.parametrize('name', COURSE)
def test_narrow_and_accessible(name, base, chromium):
    with Watched(chromium, 390) as w:
        w.page.goto(base + name, wait_until='networkidle')
        settled(w.page)
        wide = w.page.evaluate('document.documentElement.scrollWidth')
        assert wide <= 390, f'the page is {wide} pixels wide: it scrolls sideways'
        w.page.add_script_tag(path=str(AXE))
        for theme in ('light', 'dark'):
            w.page.emulate_media(color_scheme=theme)
            w.page.wait_for_selector(f'html[data-theme={theme}]')
            found = w.page.evaluate("axe.run(document, {resultTypes: ['violations']})")[
                'violations']
            serious = [f'{theme}: {v["id"]} ({v["impact"]}): {v["nodes"][0]["html"][:160]} and '
                f'{len(v["nodes"])-1} more' for v in found
                if v['impact'] in ('serious', 'critical')]
            assert not serious, serious

def test_search_finds(base, chromium):
    with Watched(chromium) as w:
        w.page.goto(base + 'search.html?q=class+imbalance')
        w.page.wait_for_selector('ul.search li a')
        hits = w.page.locator('ul.search li a').all_inner_texts()
        assert any('08' in h or '09' in h or 'mbalance' in h for h in hits), hits
        assert not w.wrong, w.wrong

def test_links_of_a_page(base, chromium):
    "Each chapter opens in Colab, shows its source, and leads on"
    with Watched(chromium) as w:
        w.page.goto(base + '09_metrics.html')
        hrefs = w.page.evaluate("[...document.links].map(a => a.href)")
        assert any(re.match(r'https://colab\.research\.google\.com/github/\w+/\w+/blob/main/nbs/09_metrics\.ipynb', h) for h in hrefs), 'no link to Colab'
        assert any('/blob/main/nbs/09_metrics.ipynb' in h and 'colab' not in h
            for h in hrefs), 'no link to the source'
        assert w.page.locator('.prev-next-area a').count() == 2
        assert w.page.locator('meta[property="og:title"]').count() and w.page.locator(
            'meta[property="og:image"]').count()

# ---- widgets without a kernel

def pixels_of(explorer):
    "The canvas of an explorer as array [H,W,3]"
    url = explorer.locator('canvas').evaluate("c => c.toDataURL('image/png')")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.split(',')[1]))).convert('RGB'))

def shown(explorer, what):
    explorer.locator(f'canvas[data-shown^="{what}"]').wait_for()
    return pixels_of(explorer)

def decoded(url): return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.split(',')[1]))))

def explorer_state(page):
    "The stored values of the first mask explorer of a page"
    state = json.loads(
        page.locator('script[type="application/vnd.jupyter.widget-state+json"]').inner_text())[
        'state']
    return next(m['state'] for m in state.values() if 'pictures' in m['state'])

def test_mask_explorer_draws_what_python_draws(base, chromium):
    from segbook.masks import overlay
    with Watched(chromium) as w:
        w.page.goto(base + '16_widgets.html', wait_until='networkidle')
        settled(w.page)
        e, s = w.page.locator('.segbook-explorer').first, explorer_state(w.page)
        image, ids = (decoded(s['pictures'][0][k]) for k in ('image', 'mask'))
        assert (shown(e, '0|overlay') == overlay(image, ids, s['codes'], s['alpha'])).all()
        e.get_by_label('image').first.focus()
        w.page.keyboard.press('ArrowRight')
        image, ids = (decoded(s['pictures'][1][k]) for k in ('image', 'mask'))
        assert (shown(e, '1|overlay') == overlay(image, ids, s['codes'], s['alpha'])).all()
        e.get_by_role('button', name='mask', exact=True).click()
        assert (shown(e, '1|mask') == overlay(np.full_like(image, 200), ids, s['codes'], 1)).all()
        e.get_by_role('button', name='image', exact=True).click()
        assert (shown(e, '1|image') == image).all()
        e.locator('.segbook-key button', has_text='Road').click()
        road, one = s['codes'].index('Road'), shown(e, '1|one class|3')
        assert (one[ids != road] == (image//3 + 160)[ids != road]).all() and (one[ids == road]
            == overlay(image, ids, s['codes'], s['alpha'])[ids == road]).all()
        assert not w.wrong, w.wrong

def test_figures_behind_a_slider_move_without_a_kernel(base, chromium):
    with Watched(chromium) as w:
        w.page.goto(base + '16_widgets.html', wait_until='networkidle')
        w.page.locator('.jupyter-widgets img').first.wait_for()
        visible = ("() => [...document.querySelectorAll('.jupyter-widgets img')].filter(i => "
            "i.offsetParent).map(i => i.src).join()")
        before = w.page.evaluate(visible)
        w.page.locator('.widget-slider .noUi-handle, .widget-hslider .noUi-handle').first.focus()
        w.page.keyboard.press('ArrowRight')
        w.page.wait_for_function(f'b => ({visible})() !== b', arg=before)

def by_name(page, word):
    "The explorer whose drawing says `word`"
    e = page.locator('.segbook-explorer', has=page.locator(f'canvas[data-shown*="{word}"]')).first
    e.wait_for(timeout=90_000)
    e.evaluate('(e, word) => e.dataset.name = word', word)
    return page.locator(f'[data-name="{word}"]')  # the same one, whatever it says next

def said(e): return e.locator('canvas').get_attribute('data-shown')

def box_of(e):
    "Where an explorer's canvas stands in the window, scrolled into it"
    e.locator('canvas').scroll_into_view_if_needed()
    return e.locator('canvas').bounding_box()

def becomes(page, e, old):
    "Wait until an explorer says something else; its canvas then"
    page.wait_for_function('([c, old]) => c.dataset.shown !== old',
        arg=[e.locator('canvas').element_handle(), old])
    return pixels_of(e)

def drive_convolution(page):
    e = by_name(page, 'multiplications')
    old, before = said(e), pixels_of(e)
    e.get_by_role('slider', name='dilation').focus()
    page.keyboard.press('ArrowRight')
    assert (becomes(page, e, old) != before).any()
    old, before = said(e), pixels_of(e)
    e.locator('canvas').focus()
    page.keyboard.press('ArrowDown')
    assert (becomes(page, e, old) != before).any() and 'Answer (1, 0)' in said(e)
    for name, key in (('kernel', 'End'), ('dilation', 'End'), ('size', 'Home')):
        e.get_by_role('slider', name=name).focus()
        page.keyboard.press(key)
    page.wait_for_function("c => c.dataset.shown.includes('no answer')",
        arg=e.locator('canvas').element_handle())

def drive_field(page):
    e = by_name(page, 'Effective')
    old, before = said(e), pixels_of(e)
    box = box_of(e)
    page.mouse.move(box['x'] + .4*box['width'], box['y'] + .4*box['height'])
    page.mouse.down()
    page.mouse.move(box['x'] + .75*box['width'], box['y'] + .7*box['height'], steps=4)
    page.mouse.up()
    assert (becomes(page, e, old) != before).mean() > .005
    assert float(e.locator('canvas').get_attribute(
            'data-ms')) < 100, 'moving the unit takes more than 100 ms'
    old, before = said(e), pixels_of(e)
    e.get_by_role('combobox', name='layer').select_option(index=0)
    assert (becomes(page, e, old) != before).any() and 'stride 2' in said(e)
    before = pixels_of(e)
    e.get_by_role('button', name='effective field').click()
    page.wait_for_timeout(200)
    assert (pixels_of(e) != before).any(), 'the cloud does not go'

def drive_upsampling(page):
    e = by_name(page, 'weights add up')
    old, before = said(e), pixels_of(e)
    e.get_by_role('combobox', name='way').select_option(label='transposed, kernel 3')
    assert (becomes(page, e, old) != before).any()
    old = said(e)
    e.locator('canvas').focus()
    page.keyboard.press('ArrowRight')
    becomes(page, e, old)
    box = box_of(e)
    old = said(e)
    page.mouse.click(box['x'] + .9*box['width'], box['y'] + .5*box['height'])
    becomes(page, e, old)

def drag(page, e, start, end):
    "Drag from one place of an explorer's canvas to another, both as parts of its width and height"
    box = box_of(e)
    (x, y), (x2, y2) = ((box['x'] + a*box['width'], box['y'] + b*box['height'])
        for a, b in (start, end))
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x2, y2, steps=4)
    page.mouse.up()

def numbers(e): return e.locator('[data-value]').evaluate_all('es => es.map(e => +e.dataset.value)')

def drive_losses(page):
    e = by_name(page, 'it pushes')
    old, before = said(e), pixels_of(e)
    drag(page, e, (.2, .5), (.12, .8))
    assert (becomes(page, e, old) != before).mean() > .05
    old, before, had = said(e), pixels_of(e), numbers(e)
    e.locator('canvas').focus()
    page.keyboard.press('ArrowUp')
    page.keyboard.press('ArrowUp')
    assert (becomes(page, e, old) != before).any()
    for name in ('radius', 'softness', 'confidence'):
        old, before = said(e), pixels_of(e)
        e.get_by_role('slider', name=name).focus()
        page.keyboard.press('ArrowRight')
        assert (becomes(page, e, old) != before).any()
    assert len(had) == 7 and all(a != b for a, b in zip(had, numbers(e)))
    old, before = said(e), pixels_of(e)
    e.get_by_role('button', name='focal', exact=True).click()
    assert (becomes(page, e, old) != before).any() and said(e).startswith('focal is ')
    assert e.get_by_role('button', pressed=True).all_inner_texts() == ['focal']

def drive_metrics(page):
    e = by_name(page, 'Pixel accuracy')
    e.get_by_role('combobox', name='truth').select_option(label='poles')
    old, before = said(e), pixels_of(e)
    drag(page, e, (.3, .5), (.34, .5))
    # from 2, by .04 of the width
    assert (becomes(page, e, old) != before).any() and re.search('moved 1 down and [45] right',
        said(e)), said(e)
    e.locator('canvas').focus()
    old = said(e)
    page.keyboard.press('ArrowLeft')
    becomes(page, e, old)
    for name, key in (('down', 'ArrowLeft'), ('right', 'Home'), ('grow', 'ArrowRight'),
            ('lost', 'ArrowRight')):
        old = said(e)
        e.get_by_role('slider', name=name).focus()
        page.keyboard.press(key)
        becomes(page, e, old)
    assert 'moved 0 down and -12 right, grown by 1, 1 %' in said(e)
    for name, key in (('grow', 'ArrowLeft'), ('lost', 'Home')):
        e.get_by_role('slider', name=name).focus()
        page.keyboard.press(key)
    e.get_by_role('combobox', name='truth').select_option(label='a small ship')
    accuracy, mean, _, iou, *_ = numbers(e)
    assert accuracy > .97 and iou == 0 and mean < .5, 'the lesson: the ship is missed, and nearly all pixels are right'

def drive_all(page):
    for drive in (drive_convolution, drive_field, drive_upsampling, drive_losses, drive_metrics):
        drive(page)

def test_explorers_move_without_a_kernel(base, chromium):
    with Watched(chromium) as w:
        w.page.goto(base + '16_widgets.html', wait_until='networkidle')
        settled(w.page)
        drive_all(w.page)
        assert not w.wrong, w.wrong

def test_a_finger_drags(base, chromium):
    "On a touch screen: the disc follows the finger, and the page stays where it is"
    context = chromium.new_context(viewport=dict(width=390, height=800), has_touch=True,
        is_mobile=True)
    page = context.new_page()
    page.goto(base + '16_widgets.html', wait_until='networkidle')
    settled(page)
    e, touch = by_name(page, 'it pushes'), context.new_cdp_session(page)
    box, old, before = box_of(e), said(e), page.evaluate('scrollY')
    for kind, part in (('touchStart', .3), *[('touchMove', .3 + i/20) for i in range(1, 9)],
            ('touchEnd', None)):
        points = [] if part is None else [dict(x=box['x'] + .2*box['width'],
                y=box['y'] + part*box['height'])]
        touch.send('Input.dispatchTouchEvent', dict(type=kind, touchPoints=points))
    becomes(page, e, old)
    row = int(re.search(r'row (\d+)', said(e))[1])
    assert row > 25 and page.evaluate('scrollY') == before, (row, said(e))
    context.close()

# ---- the arithmetic of the browser against the library

def in_browser(page, js, call, *args):
    return page.evaluate(f'args => {{ {js}\nreturn {call}(...args); }}', args)

def library_losses(z, t, weights):
    "[(value, gradient [H,W])] of the seven losses, as the explorer lists them, in float64"
    import torch
    from segbook import losses as L
    z, t, w = torch.tensor(z, dtype=torch.float64)[None,
        None].requires_grad_(), torch.tensor(t).long()[None], torch.tensor(weights,
        dtype=torch.float64)[None]
    values = [f()(z, t) for f in (L.CrossEntropyLoss, L.FocalLoss)] + [L.BorderWeightedLoss()(z, t,
            w)] + [f()(z, t) for f in (L.DiceLoss, L.JaccardLoss, L.TverskyLoss, L.LovaszLoss)]
    return [(v.item(), torch.autograd.grad(v, z)[0][0, 0].numpy()) for v in values]

def same_gradient(mine, want):
    return np.abs(np.asarray(mine) - want.ravel()).max() <= 1e-4*np.abs(want).max()

@pytest.mark.parametrize('seed', range(6))
def test_losses_in_the_browser_are_those_of_the_library(seed, chromium):
    from segbook.widgets import _JS_LOSS_SUMS
    rng = np.random.default_rng(seed)
    h, w = rng.integers(5, 15, 2)
    z, t, weights = rng.normal(0, 10**(seed/3 - .5), (h, w)), rng.integers(0, 2,
        (h, w)), rng.uniform(.5, 10, (h, w))
    with Watched(chromium) as page:
        got = in_browser(page.page, _JS_LOSS_SUMS, 'lossesOf',
            *(o.ravel().tolist() for o in (z, t, weights)))
    want = library_losses(z, t, weights)
    assert len(got) == len(want) == 7
    for g, (value, grad) in zip(got, want):
        assert abs(g['value'] - value) <= 1e-4*max(1, abs(value)) and same_gradient(g['grad'], grad)

def state_of(page, name):
    "The stored values of the explorer that holds `name`"
    states = json.loads(
        page.locator('script[type="application/vnd.jupyter.widget-state+json"]').inner_text())[
        'state'].values()
    return next(m['state']['data'] for m in states if name in m['state'].get('data', {}))

def test_loss_explorer_shows_what_the_library_says(base, chromium):
    from scipy.ndimage import label
    from segbook.losses import unet_weight_map
    with Watched(chromium) as w:
        w.page.goto(base + '16_widgets.html', wait_until='networkidle')
        settled(w.page)
        e, d = by_name(w.page, 'it pushes'), state_of(w.page, 'weight')
        t = np.array(d['truth']).reshape(d['h'], d['w'])
        assert np.abs(np.array(d['weight']).reshape(t.shape)
            - unet_weight_map(label(t)[0], inside=False)).max() < 1e-4
        for turn, (place, chosen) in enumerate([((.2, .5), 0), ((.05, .9), 2), ((.3, .3), 3),
                    ((.7, .2), 5)]):
            old = said(e)
            drag(w.page, e, (.4, .6), place)
            becomes(w.page, e, old)
            if turn == 2:
                e.get_by_role('slider', name='confidence').focus()
                w.page.keyboard.press('End')
            e.locator('.segbook-bars button').nth(chosen).click()
            row, col = map(int, re.search(r'row (\d+), column (\d+)', said(e)).groups())
            y, x = np.mgrid[:t.shape[0], :t.shape[1]]
            x = (10 - np.hypot(y - row, x - col))/2
            z = (8 if turn > 1 else 4)*x/np.sqrt(1 + x*x)
            want = library_losses(z, t, unet_weight_map(label(t)[0], inside=False))
            assert np.abs(np.array(numbers(e)) - [v for v, _ in want]).max() < 1e-4
            assert e.locator('.segbook-bars button').nth(chosen).inner_text() in said(e)
            grad, picture = want[chosen][1], pixels_of(e)
            # sides of 6 units, two maps and three gaps of 10
            up, k, side = -grad/np.abs(grad).max(), picture.shape[1]/(30 + 12*t.shape[1]), 6
            at = picture[np.ix_(((26 + side*(np.arange(t.shape[0]) + .5))*k).astype(int),
                    ((20 + side*(t.shape[1] + np.arange(t.shape[1]) + .5))*k).astype(int))]
            middle, low, high = (np.array(c) for c in ((124, 123, 120), (0, 32, 77),
                    (255, 234, 70)))
            colour = middle + np.abs(up)[..., None]*(np.where(up[..., None] > 0, high, low)
                - middle)
            assert np.abs(at - colour).max() <= 1.01
        assert not w.wrong, w.wrong

@pytest.mark.parametrize('seed', range(8))
def test_metrics_in_the_browser_are_those_of_the_library(seed, chromium):
    from segbook.metrics import Confusion, boundary_f1, hausdorff95
    from segbook.widgets import _JS_METRIC_COUNTS, _changed
    rng = np.random.default_rng(seed)
    h, w, K = rng.integers(9, 30), rng.integers(9, 30), int(rng.integers(2, 5))
    void = K - 1 if seed % 2 else None
    truth = np.kron(rng.integers(0, K, (-(-h//4), -(-w//4))), np.ones((4, 4), int))[:h, :w]
    down, right, grow, lost = (int(rng.integers(a, b))
        for a, b in ((-5, 6), (-5, 6), (-3, 4), (0, 60)))
    if seed == 7: down = 40  # nothing is left
    plain, ignore = np.where(truth == void, 0, truth), -1 if void is None else void
    with Watched(chromium) as page:
        pred = in_browser(page.page, _JS_METRIC_COUNTS, 'changed', plain.ravel().tolist(), int(h),
            int(w), grow, lost, down, right)
        args = truth.ravel().tolist(), pred
        got = in_browser(page.page, _JS_METRIC_COUNTS, 'scores', *args, K, ignore)
        rims = in_browser(page.page, _JS_METRIC_COUNTS, 'boundary', *args, int(h), int(w), K,
            ignore)
    pred = np.array(pred).reshape(truth.shape)
    assert (pred == _changed(truth, down, right, grow, lost, void)).all() and (seed != 7
        or not pred.any())
    c = Confusion(K, void).update(pred, truth)
    number = lambda v: np.array([np.nan if o is None else o for o in v], float)
    for mine, want in (([got['accuracy'], got['mean']], [c.pixel_accuracy(), c.mean_iou()]),
            (got['iou'], c.iou()), (got['dice'], c.dice()),
            ([rims['f1'], rims['hausdorff']], [boundary_f1(pred, truth, K, void).nanmean(),
                    hausdorff95(pred, truth, K, void, one_empty='diagonal').nanmean()])):
        np.testing.assert_allclose(number(mine), np.asarray(want), atol=1e-9)

def test_metric_explorer_shows_what_the_library_says(base, chromium):
    from segbook.metrics import Confusion
    with Watched(chromium) as w:
        w.page.goto(base + '16_widgets.html', wait_until='networkidle')
        settled(w.page)
        e, d = by_name(w.page, 'Pixel accuracy'), state_of(w.page, 'scenes')
        for scene in d['scenes']:
            e.get_by_role('combobox', name='truth').select_option(label=scene['name'])
            t, K = np.array(scene['truth']).reshape(d['h'], d['w']), len(scene['names'])
            pred = np.zeros_like(t)
            pred[1:, 2:] = t[:-1, :-2]  # as it begins: one down, two to the right
            c = Confusion(K).update(pred, t)
            want = [c.pixel_accuracy(), c.mean_iou(), *c.iou().tolist(), *c.dice().tolist()[1:]]
            assert np.abs(np.array(numbers(e)[:len(want)]) - want).max() < 1e-9, scene['name']
            names = e.locator('.segbook-bars > div > span:first-child').all_inner_texts()
            assert names == ['pixel accuracy', 'mean IoU', *[f'IoU of {n}' for n in scene['names']],
                *[f'Dice of {n}' for n in scene['names'][1:]], 'boundary F1', 'Hausdorff 95']
            picture, side = pixels_of(e), 9
            k = picture.shape[1]/(20 + side*d['w'])
            # beside the stroke
            at = picture[np.ix_(((10 + side*(np.arange(d['h']) + .3))*k).astype(int),
                    ((10 + side*(np.arange(d['w']) + .3))*k).astype(int))]
            want = np.select([(t == pred) & (t > 0), t == pred, (pred == 0) | (t > 0)], [1, 0, 2],
                3)
            assert (at == np.array([(233,)*3, (23, 69, 107), (224, 130, 20), (255,
                        )*3])[want]).all(), scene['name']
        assert not w.wrong, w.wrong

# ---- with a kernel

def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]

class Server:
    "JupyterLab or Voila on 127.0.0.1, behind a token, in a folder of its own"
    def __init__(self, folder, *cmd):
        self.port, self.token = free_port(), secrets.token_hex(16)
        env = {**os.environ, 'SEGBOOK_PROGRESS': str(Path(folder)/'progress.json'),
            'JUPYTER_PLATFORM_DIRS': '1', 'HOME': str(folder),
            'IPYTHONDIR': str(Path(folder)/'.ipython'), 'OMP_NUM_THREADS': '1'}
        self.log = open(Path(folder)/'server.log', 'w')
        self.p = subprocess.Popen([sys.executable, '-m',
                *[c.format(port=self.port, token=self.token) for c in cmd]], cwd=folder, env=env,
            stdout=self.log, stderr=self.log)
        until = time.monotonic() + 120
        while time.monotonic() < until and self.p.poll() is None:
            with socket.socket() as s:
                if s.connect_ex(('127.0.0.1', self.port)) == 0: return
            time.sleep(.1)
        self.__exit__()
        raise AssertionError('no answer from the server: '
            f'{(Path(folder)/"server.log").read_text()[-2000:]}')
    def url(self, path): return f'http://127.0.0.1:{self.port}/{path}?token={self.token}'
    def __enter__(self): return self
    def __exit__(self, *_):
        self.p.terminate()
        self.p.wait(20)
        self.log.close()

def notebook(*sources):
    cells = [dict(cell_type='code', id=f'c{i}', metadata={}, source=s, outputs=[],
            execution_count=None) for i, s in enumerate(sources)]
    return json.dumps(dict(nbformat=4, nbformat_minor=5,
            metadata=dict(kernelspec=dict(name='python3', display_name='python3',
                language='python')), cells=cells))

EXPLORER = 'from segbook.widgets import mask_explorer\nmask_explorer()'

@pytest.fixture
def folder():
    with tempfile.TemporaryDirectory() as tmp:
        (Path(tmp)/'explorer.ipynb').write_text(notebook(EXPLORER))
        (Path(tmp)/'exercise.ipynb').write_text(notebook('', ''))
        yield tmp

def lab(folder):
    return Server(folder, 'jupyterlab', '--no-browser', '--ip=127.0.0.1', '--port={port}',
        '--IdentityProvider.token={token}', '--allow-root', '--LabApp.news_url=',
        '--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate')

def in_lab(page, server, name):
    "Open a notebook in JupyterLab, and wait until its kernel waits for work: before that, Shift+Enter may be lost. Its cells"
    page.goto(server.url(f'lab/tree/{name}'), timeout=120_000)
    page.locator('#jp-main-statusbar', has_text='| Idle').wait_for(timeout=120_000)
    return page.locator('.jp-Notebook .jp-CodeCell')

def moves(page):
    "The explorer of a page with a kernel: a move of its slider changes the picture"
    e = page.locator('.segbook-explorer').first
    e.wait_for(timeout=90_000)
    before = shown(e, '0|overlay')
    e.get_by_label('image').first.focus()
    page.keyboard.press('ArrowRight')
    after = shown(e, '1|overlay')
    assert after.shape == before.shape and (after != before).mean() > .1

def test_explorer_in_jupyterlab(folder, chromium):
    with lab(folder) as server, Watched(chromium) as w:
        in_lab(w.page, server, 'explorer.ipynb').first.locator('.cm-content').click()
        w.page.keyboard.press('Shift+Enter')
        moves(w.page)
        assert not [o for o in w.wrong if o.startswith('asks')], w.wrong

DRAWN = """import torch; from torch import nn; from segbook.widgets import *
net = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, 2, 1))
for e in (convolution_explorer(), receptive_field_explorer(net, (64, 96), ['0', '2']), upsampling_explorer(), loss_explorer(), metric_explorer()): display(e)"""

def test_drawn_explorers_in_jupyterlab(folder, chromium):
    (Path(folder)/'drawn.ipynb').write_text(notebook(DRAWN))
    with lab(folder) as server, Watched(chromium) as w:
        in_lab(w.page, server, 'drawn.ipynb').first.locator('.cm-content').click()
        w.page.keyboard.press('Shift+Enter')
        drive_all(w.page)
        assert not [o for o in w.wrong if o.startswith('asks')], w.wrong

def test_explorer_in_voila(folder, chromium):
    with Server(folder, 'voila', 'explorer.ipynb', '--no-browser', '--port={port}',
            '--Voila.ip=127.0.0.1', '--token={token}') as server, Watched(chromium) as w:
        with Watched(chromium) as stranger:
            answer = stranger.page.goto(f'http://127.0.0.1:{server.port}/')
            assert answer.status in (401,
                403) or '/login' in stranger.page.url, 'the server answers without its token'
        w.page.goto(server.url(''), timeout=90_000)
        moves(w.page)

def test_an_exercise_is_solved_in_jupyterlab(folder, chromium):
    with lab(folder) as server, Watched(chromium) as w:
        cells = in_lab(w.page, server, 'exercise.ipynb')
        def run(i, text, says):
            editor = cells.nth(i).locator('.cm-content')
            editor.click()
            w.page.keyboard.press('Control+a')
            w.page.keyboard.insert_text(text)
            editor.filter(has_text=text[-40:]).wait_for()
            w.page.keyboard.press('Shift+Enter')
            cells.nth(i).locator('.jp-OutputArea-output',
                has_text=says).first.wait_for(timeout=60_000)
            return cells.nth(i).locator('.jp-OutputArea').inner_text()
        line = ('from segbook.exercises import *; accuracy = lambda pred, targ, ignore_index: {}; '
            'check("09.2", accuracy)')
        said = run(0, line.format('(pred == targ).float().mean()'), 'not yet')
        assert 'expected' in said and 'counting Void' in said, said
        said = run(0, line.format('(pred == targ)[targ != ignore_index].float().mean()'),
            'right in')
        assert '✓ 09.2' in said, said
        assert '09.2' in json.loads((Path(folder)/'progress.json').read_text())['done']
