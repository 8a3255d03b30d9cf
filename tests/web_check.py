"""The site, JupyterLab and Voila in a real browser: `make test-web`. Not collected by `pytest
tests`: it needs a built site.

Chromium is driven headless by Playwright; nothing outside 127.0.0.1 may be asked for. Set
SEGBOOK_SITE to test another folder."""
import collections
import functools
import http.server
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from configparser import ConfigParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin

import pytest
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent
SITE = Path(os.environ.get('SEGBOOK_SITE', ROOT/'_docs'))
PAGES = sorted(f.relative_to(SITE).as_posix()
    for f in SITE.rglob('*.html')) if SITE.exists() else []
COURSE = [p for p in PAGES if p not in ('genindex.html', 'search.html')]
ARGS = ('--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking '
    '--disable-component-update --disable-sync'.split())
MAX_PAGE = 1_500_000
PATIENCE = 900_000  # milliseconds: a machine may have other work
AXE = ROOT/'docs'/'node_modules'/'axe-core'/'axe.min.js'

assert PAGES, f'there is no site in {SITE}: run make docs'

def settings():
    cfg = ConfigParser(delimiters=['='])
    cfg.read(ROOT/'settings.ini', encoding='utf-8')
    return cfg['DEFAULT']


BELOW = settings()['doc_baseurl']  # where its host shows the site


class Quiet(http.server.SimpleHTTPRequestHandler):
    "The site below its address, with its own page for what is not there, as its host serves it"
    def log_message(self, *args): pass

    def translate_path(self, path):
        if path == f'{BELOW}/{AXE.name}': return str(AXE)
        return super().translate_path(path[len(BELOW):] if path.startswith(f'{BELOW}/') else path)

    def send_error(self, code, *args, **kwargs):
        if code != 404: return super().send_error(code, *args, **kwargs)
        page = (SITE/'404.html').read_bytes()
        self.send_response(404)
        self.send_header('Content-Type', 'text/html; charset=utf-8')
        self.send_header('Content-Length', str(len(page)))
        self.end_headers()
        self.wfile.write(page)

@pytest.fixture(scope='session')
def base():
    "The address of the site, served on 127.0.0.1"
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0),
        functools.partial(Quiet, directory=str(SITE)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}{BELOW}/'
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

@pytest.fixture(scope='session')
def visitor(chromium):
    "A visitor who reads page after page: their browser keeps what the pages share"
    context = chromium.new_context()
    yield context
    context.close()

class Watched:
    """A page, and what went wrong in it: requests to other places, answers from 400 on, script
    errors. It is opened for a new visitor, or for `visitor`"""
    def __init__(self, browser, width=1280, theme='light', home='http://127.0.0.1', visitor=None):
        self.context = visitor or browser.new_context()
        self.page, self.wrong = self.context.new_page(), []
        self.close = (self.page if visitor else self.context).close
        self.page.set_viewport_size(dict(width=width, height=900))
        self.page.emulate_media(color_scheme=theme)
        self.page.set_default_timeout(PATIENCE)
        self.page.on('request', lambda r: None
            if r.url.startswith((home, 'data:', 'blob:', 'ws://127.0.0.1'))
            else self.wrong.append(f'asks {r.url}'))
        self.page.on('response', lambda r: self.wrong.append(f'{r.status} for {r.url}')
            if r.status >= 400 else None)
        self.page.on('pageerror', lambda e: self.wrong.append(f'script error: {e}'))
        self.page.on('console', lambda m: self.wrong.append(f'console: {m.text}')
            if m.type == 'error' else None)
    def __enter__(self): return self
    def __exit__(self, *_): self.close()

def settled(page):
    "Wait until formulas stand, and, where the page has them, explorers"
    page.wait_for_function('() => !window.MathJax || !MathJax.startup || !MathJax.startup.promise '
        '|| MathJax.startup.promise.then(() => true)')
    places = page.locator('.segbook-live')
    if not places.count(): return
    places.first.scroll_into_view_if_needed()  # they come to life when they are near
    page.wait_for_function("""() => [...document.querySelectorAll('.segbook-live')].every(e =>
        e.dataset.live === 'ready' && e.querySelector('canvas[data-shown], img'))""",
        timeout=PATIENCE)


# ---- every page

def unspoken(page):
    "Alternative texts of an article that are no sentence: empty, short, or the name of a file"
    alts = page.evaluate("[...document.querySelectorAll('article img')].map(i => i.alt)")
    return [a for a in alts if len(a.split()) < 3 or re.search(r'\.(png|svg|jpe?g)\b|_images', a)
        or a.startswith(('figure', 'Figure'))]


def scrolling(page):
    "The longest lines of code cells that are wider than their place, those that stand open"
    return page.evaluate("""() => [...document.querySelectorAll('article .cell_input pre')]
        .filter(e => e.checkVisibility() && e.scrollWidth > e.clientWidth + 1)
        .map(e => e.textContent.split('\\n').reduce((a, l) => l.length > a.length ? l : a, ''))""")


# What contrast depends on: how a text is drawn, and all that lies behind it, down to what is opaque
KIND = """const kind = e => {
    const s = getComputedStyle(e), link = e.closest('a');
    const found = [s.color, s.fontSize, s.fontWeight];
    if (link) {
        const l = getComputedStyle(link), around = getComputedStyle(link.parentElement);
        found.push('link', l.textDecorationLine, l.borderBottom, around.color); }
    for (let b; e && !/^rgb\\(/.test(b); e = e.parentElement) {
        const s = getComputedStyle(e);
        b = s.backgroundColor;
        found.push(b, s.backgroundImage, s.opacity); }
    return found.join('|'); };"""
# Code stands in thousands of spans of a few kinds: one of each is kept, the others are unwrapped.
# Its class is a part of the kind, since two may have one colour in one theme alone
THINNED = f"""() => {{ {KIND}
    const seen = new Set(), spans = [...document.querySelectorAll('.highlight pre span')];
    const again = spans.filter(e => {{
        const k = e.className + e.parentElement.className + kind(e);
        return seen.has(k) || !seen.add(k); }});
    for (const e of again) e.replaceWith(...e.childNodes);
    document.body.normalize(); }}"""
COLOURED = f"""() => {{ {KIND}
    const kinds = new Map();
    for (const e of document.querySelectorAll('body *')) {{
        const says = [...e.childNodes].some(n => n.nodeType === Node.TEXT_NODE && n.data.trim());
        if (!says || !e.checkVisibility()) continue;
        if (!kinds.has(kind(e))) kinds.set(kind(e), e); }}
    return {{include: [...kinds.values()]}}; }}"""
OF_COLOURS = ['color-contrast', 'link-in-text-block']


def inaccessible(page, base):
    "What axe-core calls serious or critical on a page: all rules, then colours in both themes"
    page.evaluate(THINNED)
    page.add_script_tag(url=base + AXE.name)
    def violations(what, **options):
        return page.evaluate(f'options => axe.run(({what})(), options)',
            dict(resultTypes=['violations'], **options))['violations']
    found = {'': violations('() => document', rules={o: dict(enabled=False) for o in OF_COLOURS})}
    for theme in ('light', 'dark'):
        page.emulate_media(color_scheme=theme)
        page.wait_for_selector(f'html[data-theme={theme}]')
        found[theme] = violations(COLOURED, runOnly=OF_COLOURS)
    return [f'{theme} {v["id"]} ({v["impact"]}): {v["nodes"][0]["html"][:160]} and '
        f'{len(v["nodes"])-1} more' for theme, vs in found.items() for v in vs
        if v['impact'] in ('serious', 'critical')]


def twins(fine, wrong, html='<p>some words <span style="{}">more</span></p>'):
    "The same element twice, first as it should be: both have to be looked at"
    return html.format(fine) + html.format(wrong)

FAULTS = {
    'color-contrast': twins('color: #000; background: #fff', 'color: #999; background: #fff'),
    'color-contrast in code': twins('color: #000; background: #fff', 'color: #999; background: '
        '#fff', '<div class="highlight"><pre><span class="n" style="{}">word</span></pre></div>'),
    # on a ground through which another one is seen
    'color-contrast behind': twins('#fff', '#000', '<p style="background: {}"><span '
        'style="background: #ffffff01; color: #222">dark</span></p>'),
    'image-alt': '<img src="_static/preview.png">',
    'link-in-text-block': twins('underline', 'none', '<p style="color: #222; background: #fff">'
        'some words <a href="#" style="color: #333; text-decoration: {}">a link</a></p>')}

@pytest.mark.parametrize('rule,html', FAULTS.items())
def test_what_is_hard_to_read_is_found(rule, html, base, chromium):
    with Watched(chromium) as w:
        w.page.goto(base + '404.html')
        w.page.locator('article section').first.evaluate('(e, html) => e.innerHTML += html', html)
        assert any(rule.split()[0] in o for o in inaccessible(w.page, base)), rule


@pytest.mark.parametrize('name', PAGES)
def test_page(name, base, chromium, visitor):
    "At 1280 pixels; then, at 390, what scrolls sideways, and who is left out"
    with Watched(chromium, visitor=visitor) as w:
        w.page.goto(base + name)
        settled(w.page)
        broken = w.page.evaluate("""async () => {
            const ims = [...document.images];
            for (const i of ims) { i.loading = 'eager'; await i.decode().catch(() => {}); }
            return ims.filter(i => !i.naturalWidth).map(i => i.src); }""")
        assert not broken, f'pictures that do not load: {broken}'
        text = w.page.inner_text('article' if w.page.locator('article').count() else 'body')
        prose = w.page.evaluate("""() => {
            const c = (document.querySelector('article') || document.body).cloneNode(true);
            const code = 'pre, code, mjx-container, .cell, script';
            for (const e of c.querySelectorAll(code)) e.remove();
            return c.textContent; }""")
        assert not re.search(r'^\s*(:::|#\|)|\{(toctree|note|figure)\}', prose,
            re.M), 'a raw directive is in the text'
        assert not re.search(r'\$[^$\n]*\\[a-zA-Z]|\\(frac|sum|cdot|text)\b',
            prose), 'a formula was not rendered'
        assert not w.page.locator('mjx-merror').count(), 'a formula has a mistake'
        assert not (bad := unspoken(w.page)), f'pictures without a sentence: {bad}'
        assert not (bad := scrolling(w.page)), f'code cells that scroll sideways: {bad}'
        assert not w.page.locator('article :text("| --- |")').count(), 'a table is shown as text'
        assert text.strip()
        if name in COURSE:
            w.page.set_viewport_size(dict(width=390, height=900))
            w.page.reload()
            settled(w.page)
            wide = w.page.evaluate('document.documentElement.scrollWidth')
            assert wide <= 390, f'the page is {wide} pixels wide: it scrolls sideways'
            assert not (bad := inaccessible(w.page, base)), bad
        assert not w.wrong, w.wrong


@functools.cache
def html_of(name): return (SITE/name).read_text(encoding='utf-8')

@functools.cache
def showing():
    "{picture: pages that show it}"
    found = collections.defaultdict(set)
    for p in COURSE:
        for m in re.findall(r'_images/([\w.-]+)', html_of(p)): found[m].add(p)
    return found

def anchors(html): return set(re.findall(r'\b(?:id|name)="([^"]+)"', html))

def test_every_link_leads_somewhere():
    texts = {p: html_of(p) for p in PAGES}
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
    pictures = {m for m, pages in showing().items() if pages == {name}}
    size = len(html_of(name).encode()) + sum((SITE/'_images'/m).stat().st_size for m in pictures)
    assert size < MAX_PAGE, f'{size:,} bytes'

QUERIES = [('receptive field', r'05_receptive_field\.html#'),
    ('confusion matrix', r'09_metrics\.html#'), ('skip connections', r'07_skip_connections\.html#'),
    ('class_weights', r'losses|imbalance')]


@pytest.mark.parametrize('query,first', QUERIES)
def test_a_heading_that_matches_comes_first(query, first, base, chromium):
    with Watched(chromium) as w:
        w.page.goto(base + 'search.html?q=' + query.replace(' ', '+'))
        w.page.wait_for_selector('#search-results[data-query]', state='attached')
        hits = w.page.locator('#search-results li a')
        assert re.search(first, hits.first.get_attribute('href')), hits.all_inner_texts()[:5]
        if '#' in first:
            hits.first.click()
            w.page.wait_for_url(re.compile(first))
            w.page.wait_for_function("() => Math.abs(document.querySelector(location.hash)"
                ".getBoundingClientRect().top) < 300")
        assert not w.wrong, w.wrong


def test_search_quotes_the_article_alone(base, chromium):
    with Watched(chromium) as w:
        w.page.goto(base + 'search.html?q=class+imbalance')
        w.page.wait_for_selector('#search-results li a')
        hits = w.page.locator('#search-results li a').all_inner_texts()
        assert any('mbalance' in h for h in hits), hits
        quotes = w.page.locator('#search-results li p').all_inner_texts()
        assert any(q.strip() for q in quotes)
        for q in quotes:
            assert not re.search(r'import torch|def \w+\(|Library code:|Show source|Ctrl', q), q
        assert not w.wrong, w.wrong


def test_the_search_field_leads_to_the_search(base, chromium):
    with Watched(chromium) as w:
        w.page.goto(base + 'projects/camvid.html')
        w.page.keyboard.press('Control+k')
        w.page.keyboard.insert_text('dice')
        w.page.keyboard.press('Enter')
        w.page.wait_for_url(re.compile(r'search\.html\?q=dice'))
        w.page.wait_for_selector('#search-results li a')
        assert not w.wrong, w.wrong


# ---- weight

def loaded(page):
    "{name: bytes} of what a page asked for, the page itself too"
    return page.evaluate("""() => Object.fromEntries(['navigation', 'resource'].flatMap(t =>
        performance.getEntriesByType(t)).map(r => [r.name, r.encodedBodySize]))""")


@pytest.mark.parametrize('name,most', [('index.html', 2_000_000), ('15_export.html', 1_300_000),
    ('05_receptive_field.html', 4_200_000), ('404.html', 1_000_000)])
def test_a_page_asks_for_little(name, most, base, chromium):
    "Before it is scrolled; at 10 Mbit a second 1.2 MB take one second"
    with Watched(chromium) as w:
        w.page.goto(base + name, wait_until='networkidle')
        got = loaded(w.page)
        assert sum(got.values()) < most and len(got) < 45, got
        assert not [n for n in got if re.search(r'fontawesome|webfonts|searchindex|embed-amd', n)]
        html = (SITE/name).read_text(encoding='utf-8')
        assert any('tex-svg' in n for n in got) == ('class="math' in html)


def test_what_stands_before_the_first_paint_is_small(base, chromium):
    "Style sheets, and scripts that are not deferred; the HTML comes before them"
    for name in ('index.html', '05_receptive_field.html'):
        html = (SITE/name).read_text(encoding='utf-8')
        head = html.split('</head>')[0]
        scripts = re.findall(r'<script\b(?![^>]*\bdefer\b)[^>]*\bsrc=', head)
        assert not scripts, scripts
        styles = [SITE/m for m in re.findall(r'<link [^>]*href="([^"?]+\.css)', head)]
        assert sum(f.stat().st_size for f in styles) + len(html) < 1_300_000


def test_explorers_are_fetched_when_they_come_near(base, chromium):
    page = next(p for p in COURSE if 'segbook-live' in (SITE/p).read_text(encoding='utf-8')
        and p != 'index.html')
    with Watched(chromium) as w:
        w.page.set_viewport_size(dict(width=1280, height=300))
        w.page.goto(base + page, wait_until='networkidle')
        first = w.page.locator('.segbook-live').first
        if first.bounding_box()['y'] > 1000:
            assert not any('segbook-live' in n for n in loaded(w.page))
        first.scroll_into_view_if_needed()
        first.locator('canvas, img').first.wait_for()
        assert any('segbook-live' in n for n in loaded(w.page)) and not w.wrong, w.wrong


def test_a_dead_explorer_leaves_a_link(chromium, base):
    "Without JavaScript, and where the script does not come"
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(base + 'index.html')
    link = page.locator('.segbook-live a').first
    assert link.is_visible() and '/nbs/index.ipynb' in link.get_attribute('href')
    context.close()
    context = chromium.new_context()
    context.route('**/segbook-live.js', lambda r: r.abort())
    page = context.new_page()
    page.goto(base + 'index.html')
    page.locator('.segbook-live').first.scroll_into_view_if_needed()
    page.locator('.segbook-live[data-live=failed] a').first.wait_for()
    context.close()


# ---- narrow, printed, lost

def test_the_edge_of_what_is_cut_is_seen(base, chromium):
    with Watched(chromium, 390) as w:
        w.page.goto(base + '05_receptive_field.html', wait_until='networkidle')
        settled(w.page)
        cut = w.page.locator('article pre.segbook-wide')
        assert cut.count() and 'inset' in cut.first.evaluate('e => getComputedStyle(e).boxShadow')
        cut.first.evaluate('e => { e.dataset.mine = 1; e.scrollLeft = e.scrollWidth; }')
        w.page.wait_for_function("!document.querySelector('[data-mine]').matches('.segbook-wide')")


def test_print_wraps(base, chromium):
    with Watched(chromium, 700) as w:
        w.page.goto(base + '09_metrics.html', wait_until='networkidle')
        w.page.emulate_media(media='print')
        assert not scrolling(w.page) and not w.page.locator('#pst-primary-sidebar').is_visible()


def test_a_lost_page_at_any_depth(base, chromium):
    "It has its style and its links hold, whatever address leads to it"
    with Watched(chromium) as w:
        assert w.page.goto(base + 'a/b/nothing.html').status == 404
        assert [o for o in w.wrong if 'nothing.html' not in o and 'status of 404' not in o] == []
        assert w.page.locator('article h1').inner_text().startswith('There is no such page')
        w.page.locator('article p a').first.click()
        w.page.wait_for_url(base + 'index.html')
    html = (SITE/'404.html').read_text(encoding='utf-8')
    start = re.search(r'<base href="([^"]*)">', html)[1]
    for href in re.findall(r'(?:href|src)="([^"#]+)', html):
        if href == start or re.match(r'[a-z]+:', href): continue
        assert not href.startswith(('/', '..')) and (
            SITE/href.split('?')[0].split('#')[0]).exists(), href


def test_links_of_a_page(base, chromium):
    "Each chapter opens in Colab, is downloaded, shows its source, takes remarks, and leads on"
    with Watched(chromium) as w:
        w.page.goto(base + '09_metrics.html')
        hrefs = w.page.evaluate("[...document.links].map(a => a.href)")
        def has(pattern): return any(re.search(pattern, h) for h in hrefs)
        colab = r'^https://colab\.research\.google\.com/github/[\w.-]+/[\w.-]+/'
        assert has(colab + r'blob/main/nbs/09_metrics\.ipynb'), 'no link to Colab'
        assert has(
            r'(?<!github)/[\w.-]+/[\w.-]+/blob/main/nbs/09_metrics\.ipynb\?plain'), 'no source'
        assert has(r'/edit/main/nbs/09_metrics\.ipynb'), 'no link to edit it'
        assert has(r'/issues/new\?'), 'no link for a remark'
        assert w.page.locator('.prev-next-area a').count() == 2
        assert w.page.locator('meta[property="og:title"]').count() and w.page.locator(
            'meta[property="og:image"]').count()
        link = w.page.locator('a[href$="_sources/09_metrics.ipynb"]').first
        assert link.get_attribute('download') is not None
        got = w.page.request.get(link.evaluate('a => a.href')).json()
    own = json.loads((ROOT/'nbs'/'09_metrics.ipynb').read_text(encoding='utf-8'))
    assert [c['source'] for c in got['cells']] == [c['source'] for c in own['cells']]


def test_pages_of_the_library(base, chromium):
    with Watched(chromium) as w:
        w.page.goto(base + 'api/metrics.html')
        hrefs = w.page.evaluate("[...document.links].map(a => a.href)")
        assert any(re.search(r'/blob/main/segbook/metrics/\w+\.py#L\d+$', h) for h in hrefs)
        assert not any('colab' in h or '/edit/' in h for h in hrefs), 'it is no notebook'
        assert w.page.locator('article td', has_text='id of pixels that are not counted').count()


def test_the_sidebar_folds_the_workshop_and_the_library(base, chromium):
    with Watched(chromium) as w:
        w.page.goto(base + 'index.html')
        side = w.page.locator('#pst-primary-sidebar')
        assert side.get_by_role('link', name='The whole game').is_visible()
        assert side.get_by_role('link', name='Workshop', exact=True).is_visible()
        assert not side.locator('a[href*="workshop/masks"]').first.is_visible()
        assert not side.locator('a[href="api/metrics.html"]').first.is_visible()
        side.get_by_role('link', name='Workshop', exact=True).click()
        w.page.wait_for_url(re.compile(r'workshop/index\.html'))
        assert side.locator('a[href*="masks/"]').first.is_visible()
        assert not side.locator('a[href$="api/metrics.html"]').first.is_visible()


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
        until = time.monotonic() + PATIENCE/1000
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

@pytest.fixture
def folder():
    with tempfile.TemporaryDirectory() as tmp:
        (Path(tmp)/'exercise.ipynb').write_text(notebook('', ''))
        yield tmp

def lab(folder):
    return Server(folder, 'jupyterlab', '--no-browser', '--ip=127.0.0.1', '--port={port}',
        '--IdentityProvider.token={token}', '--allow-root', '--LabApp.news_url=',
        '--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate')

def in_lab(page, server, name):
    """Open a notebook in JupyterLab, and wait until its kernel waits for work: before that,
    Shift+Enter may be lost. Its cells"""
    page.goto(server.url(f'lab/tree/{name}'), timeout=PATIENCE)
    page.locator('#jp-main-statusbar', has_text='| Idle').wait_for(timeout=PATIENCE)
    return page.locator('.jp-Notebook .jp-CodeCell')

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
                has_text=says).first.wait_for(timeout=PATIENCE)
            return cells.nth(i).locator('.jp-OutputArea').inner_text()
        line = ('from segbook.exercises import *; accuracy = lambda pred, targ, ignore_index: {}; '
            'check("09.2", accuracy)')
        said = run(0, line.format('(pred == targ).float().mean()'), 'not yet')
        assert 'expected' in said and 'counting Void' in said, said
        said = run(0, line.format('(pred == targ)[targ != ignore_index].float().mean()'),
            'right in')
        assert '✓ 09.2' in said, said
        assert '09.2' in json.loads((Path(folder)/'progress.json').read_text())['done']
