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
PAGES = sorted(f.relative_to(SITE).as_posix() for f in SITE.rglob('*.html')) if SITE.exists() else []
COURSE = [p for p in PAGES if p not in ('genindex.html', 'search.html')]
ARGS = '--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync'.split()
MAX_PAGE = 1_500_000
AXE = ROOT/'docs'/'node_modules'/'axe-core'/'axe.min.js'

assert PAGES, f'there is no site in {SITE}: run make docs'

class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args): pass

@pytest.fixture(scope='session')
def base():
    "The address of the site, served on 127.0.0.1"
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Quiet, directory=str(SITE)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}/'
    server.shutdown()

@pytest.fixture(scope='session')
def chromium():
    path = next((p for p in map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome')) if p), None)
    assert path, 'Chromium is missing: apt-get install chromium (.ci/run does it)'
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=path, args=ARGS)
        yield browser
        browser.close()

class Watched:
    "A page, and what went wrong in it: requests to other places, answers from 400 on, script errors"
    def __init__(self, browser, width=1280, theme='light', home='http://127.0.0.1'):
        self.context = browser.new_context(viewport=dict(width=width, height=900), color_scheme=theme)
        self.page, self.wrong, self.sizes = self.context.new_page(), [], {}
        self.page.set_default_timeout(30_000)
        self.page.on('request', lambda r: None if r.url.startswith((home, 'data:', 'blob:', 'ws://127.0.0.1')) else self.wrong.append(f'asks {r.url}'))
        self.page.on('response', lambda r: self.wrong.append(f'{r.status} for {r.url}') if r.status >= 400 else None)
        self.page.on('pageerror', lambda e: self.wrong.append(f'script error: {e}'))
        self.page.on('console', lambda m: self.wrong.append(f'console: {m.text}') if m.type == 'error' else None)
    def __enter__(self): return self
    def __exit__(self, *_): self.context.close()

def settled(page):
    "Wait until formulas and widgets stand"
    page.wait_for_function('() => !window.MathJax || !MathJax.startup || !MathJax.startup.promise || MathJax.startup.promise.then(() => true)')
    for e in page.locator('.segbook-explorer').all(): e.locator('canvas[data-shown]').wait_for()

# ---- every page

@pytest.mark.parametrize('name', PAGES)
def test_page(name, base, chromium):
    with Watched(chromium) as w:
        w.page.goto(base + name, wait_until='networkidle'); settled(w.page)
        broken = w.page.evaluate("""async () => {
            const ims = [...document.images]; for (const i of ims) { i.loading = 'eager'; await i.decode().catch(() => {}); }
            return ims.filter(i => !i.naturalWidth).map(i => i.src); }""")
        assert not broken, f'pictures that do not load: {broken}'
        text = w.page.inner_text('article' if w.page.locator('article').count() else 'body')
        prose = w.page.evaluate("""() => { const a = document.querySelector('article') || document.body, c = a.cloneNode(true);
            c.querySelectorAll('pre, code, mjx-container, .cell').forEach(e => e.remove()); return c.textContent; }""")
        assert not re.search(r'^\s*(:::|#\|)|\{(toctree|note|figure)\}', prose, re.M), 'a raw directive is in the text'
        assert not re.search(r'\$[^$\n]*\\[a-zA-Z]|\\(frac|sum|cdot|text)\b', prose), 'a formula was not rendered'
        assert not w.page.locator('mjx-merror').count(), 'a formula has a mistake'
        unreadable = w.page.locator('article img:not([alt]), article img[alt=""]').count()
        if name in COURSE: assert not unreadable, f'{unreadable} pictures without an alternative text'
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
            elif frag and file in ids and unquote(frag) not in ids[file]: lost.append(f'{p}: no anchor {href}')
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
        w.page.goto(base + name, wait_until='networkidle'); settled(w.page)
        wide = w.page.evaluate('document.documentElement.scrollWidth')
        assert wide <= 390, f'the page is {wide} pixels wide: it scrolls sideways'
        w.page.add_script_tag(path=str(AXE))
        for theme in ('light', 'dark'):
            w.page.emulate_media(color_scheme=theme)
            w.page.wait_for_selector(f'html[data-theme={theme}]')
            found = w.page.evaluate("axe.run(document, {resultTypes: ['violations']})")['violations']
            serious = [f'{theme}: {v["id"]} ({v["impact"]}): {v["nodes"][0]["html"][:160]} and {len(v["nodes"])-1} more' for v in found if v['impact'] in ('serious', 'critical')]
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
        assert any('/blob/main/nbs/09_metrics.ipynb' in h and 'colab' not in h for h in hrefs), 'no link to the source'
        assert w.page.locator('.prev-next-area a').count() == 2
        assert w.page.locator('meta[property="og:title"]').count() and w.page.locator('meta[property="og:image"]').count()

# ---- widgets without a kernel

def pixels_of(explorer):
    "The canvas of an explorer as array [H,W,3]"
    url = explorer.locator('canvas').evaluate("c => c.toDataURL('image/png')")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.split(',')[1]))).convert('RGB'))

def shown(explorer, what): explorer.locator(f'canvas[data-shown^="{what}"]').wait_for(); return pixels_of(explorer)

def decoded(url): return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.split(',')[1]))))

def explorer_state(page):
    "The stored values of the first mask explorer of a page"
    state = json.loads(page.locator('script[type="application/vnd.jupyter.widget-state+json"]').inner_text())['state']
    return next(m['state'] for m in state.values() if 'pictures' in m['state'])

def test_mask_explorer_draws_what_python_draws(base, chromium):
    from segbook.masks import overlay
    with Watched(chromium) as w:
        w.page.goto(base + '16_widgets.html', wait_until='networkidle'); settled(w.page)
        e, s = w.page.locator('.segbook-explorer').first, explorer_state(w.page)
        image, ids = (decoded(s['pictures'][0][k]) for k in ('image', 'mask'))
        assert (shown(e, '0|overlay') == overlay(image, ids, s['codes'], s['alpha'])).all()
        e.get_by_label('image').first.focus(); w.page.keyboard.press('ArrowRight')
        image, ids = (decoded(s['pictures'][1][k]) for k in ('image', 'mask'))
        assert (shown(e, '1|overlay') == overlay(image, ids, s['codes'], s['alpha'])).all()
        e.get_by_role('button', name='mask', exact=True).click()
        assert (shown(e, '1|mask') == overlay(np.full_like(image, 200), ids, s['codes'], 1)).all()
        e.get_by_role('button', name='image', exact=True).click()
        assert (shown(e, '1|image') == image).all()
        e.locator('.segbook-key button', has_text='Road').click()
        road, one = s['codes'].index('Road'), shown(e, '1|one class|3')
        assert (one[ids != road] == (image//3 + 160)[ids != road]).all() and (one[ids == road] == overlay(image, ids, s['codes'], s['alpha'])[ids == road]).all()
        assert not w.wrong, w.wrong

def test_figures_behind_a_slider_move_without_a_kernel(base, chromium):
    with Watched(chromium) as w:
        w.page.goto(base + '16_widgets.html', wait_until='networkidle')
        w.page.locator('.jupyter-widgets img').first.wait_for()
        visible = "() => [...document.querySelectorAll('.jupyter-widgets img')].filter(i => i.offsetParent).map(i => i.src).join()"
        before = w.page.evaluate(visible)
        w.page.locator('.widget-slider .noUi-handle, .widget-hslider .noUi-handle').first.focus(); w.page.keyboard.press('ArrowRight')
        w.page.wait_for_function(f'b => ({visible})() !== b', arg=before)

def by_name(page, word):
    "The explorer whose drawing says `word`"
    e = page.locator('.segbook-explorer', has=page.locator(f'canvas[data-shown*="{word}"]')).first
    e.wait_for(timeout=90_000); e.evaluate('(e, word) => e.dataset.name = word', word)
    return page.locator(f'[data-name="{word}"]')  # the same one, whatever it says next

def said(e): return e.locator('canvas').get_attribute('data-shown')

def box_of(e):
    "Where an explorer's canvas stands in the window, scrolled into it"
    e.locator('canvas').scroll_into_view_if_needed()
    return e.locator('canvas').bounding_box()

def becomes(page, e, old):
    "Wait until an explorer says something else; its canvas then"
    page.wait_for_function('([c, old]) => c.dataset.shown !== old', arg=[e.locator('canvas').element_handle(), old])
    return pixels_of(e)

def drive_convolution(page):
    e = by_name(page, 'multiplications')
    old, before = said(e), pixels_of(e)
    e.get_by_role('slider', name='dilation').focus(); page.keyboard.press('ArrowRight')
    assert (becomes(page, e, old) != before).any()
    old, before = said(e), pixels_of(e)
    e.locator('canvas').focus(); page.keyboard.press('ArrowDown')
    assert (becomes(page, e, old) != before).any() and 'Answer (1, 0)' in said(e)
    for name, key in (('kernel', 'End'), ('dilation', 'End'), ('size', 'Home')): e.get_by_role('slider', name=name).focus(); page.keyboard.press(key)
    page.wait_for_function("c => c.dataset.shown.includes('no answer')", arg=e.locator('canvas').element_handle())

def drive_field(page):
    e = by_name(page, 'Effective')
    old, before = said(e), pixels_of(e)
    box = box_of(e)
    page.mouse.move(box['x'] + .4*box['width'], box['y'] + .4*box['height']); page.mouse.down()
    page.mouse.move(box['x'] + .75*box['width'], box['y'] + .7*box['height'], steps=4); page.mouse.up()
    assert (becomes(page, e, old) != before).mean() > .005
    assert float(e.locator('canvas').get_attribute('data-ms')) < 100, 'moving the unit takes more than 100 ms'
    old, before = said(e), pixels_of(e)
    e.get_by_role('combobox', name='layer').select_option(index=0)
    assert (becomes(page, e, old) != before).any() and 'stride 2' in said(e)
    before = pixels_of(e); e.get_by_role('button', name='effective field').click()
    page.wait_for_timeout(200); assert (pixels_of(e) != before).any(), 'the cloud does not go'

def drive_upsampling(page):
    e = by_name(page, 'weights add up')
    old, before = said(e), pixels_of(e)
    e.get_by_role('combobox', name='way').select_option(label='transposed, kernel 3')
    assert (becomes(page, e, old) != before).any()
    old = said(e); e.locator('canvas').focus(); page.keyboard.press('ArrowRight'); becomes(page, e, old)
    box = box_of(e); old = said(e)
    page.mouse.click(box['x'] + .9*box['width'], box['y'] + .5*box['height']); becomes(page, e, old)

def test_explorers_move_without_a_kernel(base, chromium):
    with Watched(chromium) as w:
        w.page.goto(base + '16_widgets.html', wait_until='networkidle'); settled(w.page)
        drive_convolution(w.page); drive_field(w.page); drive_upsampling(w.page)
        assert not w.wrong, w.wrong

# ---- with a kernel

def free_port():
    with socket.socket() as s: s.bind(('127.0.0.1', 0)); return s.getsockname()[1]

class Server:
    "JupyterLab or Voila on 127.0.0.1, behind a token, in a folder of its own"
    def __init__(self, folder, *cmd):
        self.port, self.token = free_port(), secrets.token_hex(16)
        env = {**os.environ, 'SEGBOOK_PROGRESS': str(Path(folder)/'progress.json'), 'JUPYTER_PLATFORM_DIRS': '1', 'HOME': str(folder), 'IPYTHONDIR': str(Path(folder)/'.ipython'), 'OMP_NUM_THREADS': '1'}
        self.log = open(Path(folder)/'server.log', 'w')
        self.p = subprocess.Popen([sys.executable, '-m', *[c.format(port=self.port, token=self.token) for c in cmd]], cwd=folder, env=env, stdout=self.log, stderr=self.log)
        for _ in range(300):
            with socket.socket() as s:
                if s.connect_ex(('127.0.0.1', self.port)) == 0: return
            time.sleep(.1)
        raise AssertionError((Path(folder)/'server.log').read_text()[-2000:])
    def url(self, path): return f'http://127.0.0.1:{self.port}/{path}?token={self.token}'
    def __enter__(self): return self
    def __exit__(self, *_): self.p.terminate(); self.p.wait(20); self.log.close()

def notebook(*sources):
    cells = [dict(cell_type='code', id=f'c{i}', metadata={}, source=s, outputs=[], execution_count=None) for i, s in enumerate(sources)]
    return json.dumps(dict(nbformat=4, nbformat_minor=5, metadata=dict(kernelspec=dict(name='python3', display_name='python3', language='python')), cells=cells))

EXPLORER = 'from segbook.widgets import mask_explorer\nmask_explorer()'

@pytest.fixture
def folder():
    with tempfile.TemporaryDirectory() as tmp:
        (Path(tmp)/'explorer.ipynb').write_text(notebook(EXPLORER)); (Path(tmp)/'exercise.ipynb').write_text(notebook('', ''))
        yield tmp

def lab(folder): return Server(folder, 'jupyterlab', '--no-browser', '--ip=127.0.0.1', '--port={port}', '--IdentityProvider.token={token}', '--allow-root', '--LabApp.news_url=', '--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate')

def moves(page):
    "The explorer of a page with a kernel: a move of its slider changes the picture"
    e = page.locator('.segbook-explorer').first
    e.wait_for(timeout=90_000)
    before = shown(e, '0|overlay')
    e.get_by_label('image').first.focus(); page.keyboard.press('ArrowRight')
    after = shown(e, '1|overlay')
    assert after.shape == before.shape and (after != before).mean() > .1

def test_explorer_in_jupyterlab(folder, chromium):
    with lab(folder) as server, Watched(chromium) as w:
        w.page.goto(server.url('lab/tree/explorer.ipynb'))
        w.page.locator('.jp-Notebook .jp-CodeCell').first.wait_for(timeout=60_000)
        w.page.locator('.jp-Notebook .jp-CodeCell .cm-content').first.click()
        w.page.wait_for_selector('.jp-Notebook-ExecutionIndicator[data-status="idle"]', state='attached', timeout=60_000)
        w.page.keyboard.press('Shift+Enter')
        moves(w.page)
        assert not [o for o in w.wrong if o.startswith('asks')], w.wrong

THREE = """import torch; from torch import nn; from segbook.widgets import *
net = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, 2, 1))
display(convolution_explorer()); display(receptive_field_explorer(net, (64, 96), ['0', '2'])); display(upsampling_explorer())"""

def test_three_explorers_in_jupyterlab(folder, chromium):
    (Path(folder)/'three.ipynb').write_text(notebook(THREE))
    with lab(folder) as server, Watched(chromium) as w:
        w.page.goto(server.url('lab/tree/three.ipynb'))
        w.page.locator('.jp-Notebook .jp-CodeCell .cm-content').first.click(timeout=60_000)
        w.page.wait_for_selector('.jp-Notebook-ExecutionIndicator[data-status="idle"]', state='attached', timeout=60_000)
        w.page.keyboard.press('Shift+Enter')
        drive_convolution(w.page); drive_field(w.page); drive_upsampling(w.page)
        assert not [o for o in w.wrong if o.startswith('asks')], w.wrong

def test_explorer_in_voila(folder, chromium):
    with Server(folder, 'voila', 'explorer.ipynb', '--no-browser', '--port={port}', '--Voila.ip=127.0.0.1', '--token={token}') as server, Watched(chromium) as w:
        with Watched(chromium) as stranger:
            answer = stranger.page.goto(f'http://127.0.0.1:{server.port}/')
            assert answer.status in (401, 403) or '/login' in stranger.page.url, 'the server answers without its token'
        w.page.goto(server.url(''), timeout=90_000)
        moves(w.page)

def test_an_exercise_is_solved_in_jupyterlab(folder, chromium):
    with lab(folder) as server, Watched(chromium) as w:
        w.page.goto(server.url('lab/tree/exercise.ipynb'))
        cells = w.page.locator('.jp-Notebook .jp-CodeCell')
        cells.first.wait_for(timeout=60_000)
        w.page.wait_for_selector('.jp-Notebook-ExecutionIndicator[data-status="idle"]', state='attached', timeout=60_000)
        def run(i, text, says):
            editor = cells.nth(i).locator('.cm-content')
            editor.click(); w.page.keyboard.press('Control+a'); w.page.keyboard.insert_text(text)
            editor.filter(has_text=text[-40:]).wait_for()
            w.page.keyboard.press('Shift+Enter')
            cells.nth(i).locator('.jp-OutputArea-output', has_text=says).first.wait_for(timeout=60_000)
            return cells.nth(i).locator('.jp-OutputArea').inner_text()
        line = 'from segbook.exercises import *; accuracy = lambda pred, targ, ignore_index: {}; check("09.2", accuracy)'
        said = run(0, line.format('(pred == targ).float().mean()'), 'not yet')
        assert 'expected' in said and 'counting Void' in said, said
        said = run(0, line.format('(pred == targ)[targ != ignore_index].float().mean()'), 'right in')
        assert '✓ 09.2' in said, said
        assert '09.2' in json.loads((Path(folder)/'progress.json').read_text())['done']
