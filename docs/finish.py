"""What is done to the pages that Sphinx wrote: no script or font stays on a page that does not
need it, the notebooks themselves stand behind "download", and the search gets its index.
`site(folder, notebooks)` does it all."""
import json
import re
import shutil
from configparser import ConfigParser
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote

ROOT = Path(__file__).resolve().parent.parent
# scripts of the theme's search, and of icons, which segbook-icons.css draws without 1.5 MB
UNNEEDED = ('fontawesome.js', 'searchtools.js', 'language_data.js', 'searchindex.js', 'doctools.js',
    'sphinx_highlight.js')
_script = re.compile(r'[ \t]*<script\b([^>]*)>(.*?)</script>\n?', re.S)
OUTLINE = r'(?:"([^"]*)"|\[[^]]*?"([^"]*)"\])'  # one path, or two of which the second counts
_icon = re.compile(r'\bfa-([a-z][a-z-]*)\b')
# those that a script puts on the page
OF_SCRIPTS = {'xmark', 'arrow-up', 'chevron-down', 'chevron-right'}


def settings():
    cfg = ConfigParser(delimiters=['='])
    cfg.read(ROOT/'settings.ini', encoding='utf-8')
    return cfg['DEFAULT']


# ---- weight

def lighter(html):
    "A page without what it does not need; the scripts that stay do not hold up the first paint"
    has_math = re.search(r'class="math\b', html)
    head, body = html.split('</head>', 1)
    def keep(m):
        attrs, text = m[1], m[2]
        src = re.search(r'src="([^"?]*)', attrs)
        name = src[1].rsplit('/', 1)[-1] if src else ''
        if name in UNNEEDED or 'DOCUMENTATION_OPTIONS' in text: return ''
        if (name == 'tex-svg.js' or 'window.MathJax' in text) and not has_math: return ''
        if name in ('clipboard.min.js', 'copybutton.js') and 'class="highlight' not in body:
            return ''
        return m[0] if not src or 'defer' in attrs else m[0].replace('<script', '<script defer', 1)
    head = _script.sub(keep, head)
    head = re.sub(r'[ \t]*<link rel="preload"[^>]*>\n?', '', head)
    if '<pre' not in body:
        head = re.sub(r'[ \t]*<link [^>]*(?:pygments|copybutton)\.css[^>]*>\n?', '', head)
    return f'{head}</head>{body}'


def icons(names, font):
    """Style sheet that draws the icons `names`, each from its outline in the theme's own script
    `font`"""
    rules = [':is(i, span)[class*="fa-"]::before { content: "" !important; display: '
        'inline-block; width: 1em; height: 1em; background: currentColor; '
        'mask: var(--outline) center / contain '
        'no-repeat; vertical-align: -.125em; }']
    for n in sorted(names):
        m = re.search(rf'\b{re.escape(n)}["\']?:\[(\d+),(\d+),\[[^]]*\],"[^"]*",{OUTLINE}', font)
        if not m: continue
        svg = (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {m[1]} {m[2]}"><path '
            f'd="{m[3] or m[4]}"/></svg>')
        url = f'url("data:image/svg+xml,{quote(svg)}")'
        rules.append(f'i.fa-{n}, span.fa-{n} {{ --outline: {url}; }}')
    return '\n'.join(rules) + '\n'


# ---- search

class Sections(HTMLParser):
    """The article of a page, cut at its headings: [[heading, anchor, text]], without code,
    navigation and what is folded away"""
    SKIP = {'pre', 'script', 'style', 'nav', 'svg', 'noscript', 'button'}
    OUT = {'headerlink', 'cell_input', 'cell_output', 'hide', 'segbook-live', 'onlyprint'}

    def __init__(self):
        super().__init__()
        self.found, self.anchors, self.inside, self.skip, self.head, self.link = ([], [], 0, [],
            None, 0)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag == 'article': self.inside += 1
        if not self.inside or tag in ('br', 'img', 'hr', 'input', 'col', 'link', 'meta', 'wbr'):
            return
        classes = (attrs.get('class') or '').split()
        if self.skip or tag in self.SKIP or self.OUT & {*classes}:
            self.skip.append(tag)
        elif tag == 'section': self.anchors.append(attrs.get('id', ''))
        elif re.fullmatch('h[1-6]', tag): self.head = ''

    def handle_endtag(self, tag):
        if tag == 'article': self.inside -= 1
        if self.skip:
            if self.skip[-1] == tag: self.skip.pop()
        elif tag == 'section' and self.anchors: self.anchors.pop()
        elif re.fullmatch('h[1-6]', tag) and self.head is not None:
            self.found.append([' '.join(self.head.split()),
                    self.anchors[-1] if self.anchors else '', ''])
            self.head = None
        elif self.found and tag in ('p', 'li', 'td', 'th', 'summary', 'div', 'dt', 'dd'):
            self.found[-1][2] += ' '

    def handle_data(self, data):
        if not self.inside or self.skip: return
        if self.head is not None: self.head += data
        elif self.found: self.found[-1][2] += data


def sections(html, page):
    "What the search knows of a page: [page, title, heading, anchor, text] for each section"
    p = Sections()
    p.feed(html)
    title = p.found[0][0] if p.found else ''
    return [[page, title, head, anchor, ' '.join(re.sub(r'\\\(|\\\)|\\\[|\\\]', '', text).split())]
            for head, anchor, text in p.found]


# ---- a page for what is not there

def anywhere(html, base):
    """The page with links that hold wherever it is shown, which is below any address that leads
    nowhere"""
    html = re.sub(r'(href|action)="#', r'\1="404.html#', html)
    return html.replace('<head>', f'<head>\n    <base href="{base}/">',
        1).replace('data-content_root="./"', f'data-content_root="{base}/"')


def site(folder, notebooks):
    "Finish the site in `folder`, made from the folder `notebooks`"
    index, names, cfg = [], set(OF_SCRIPTS), settings()
    for f in sorted(folder.rglob('*.html')):
        page, html = f.relative_to(folder).as_posix(), f.read_text(encoding='utf-8')
        if page.startswith('_static/'): continue
        html = lighter(html)
        if page.startswith('workshop/'):  # code of 100 columns stands open there
            html = html.replace('<body ', '<body class="segbook-workshop" ', 1)
        html = re.sub(r'(<a href="[^"]*_sources/[^"]*\.ipynb")', r'\1 download', html)
        classes = re.findall(r'<(?:i|span) class="([^"]*\bfa-[^"]*)"', html)
        names |= {n for c in classes for n in _icon.findall(c)}
        if page == '404.html': html = anywhere(html, cfg['doc_baseurl'])
        elif page not in ('genindex.html', 'search.html'): index += sections(html, page)
        f.write_text(html, encoding='utf-8')
    font = folder/'_static'/'scripts'/'fontawesome.js'
    with (folder/'_static'/'segbook.css').open('a', encoding='utf-8') as css:
        css.write('\n/* icons, added by docs/finish.py */\n'
            + icons(names, font.read_text(encoding='utf-8')))
    # the fonts whose outlines these are
    css = folder/'_static'/'styles'/'pydata-sphinx-theme.css'
    css.write_text(re.sub(r'@font-face\s*\{[^}]*webfonts/[^}]*\}', '',
            css.read_text(encoding='utf-8')), encoding='utf-8')
    shutil.rmtree(folder/'_static'/'vendor'/'fontawesome', ignore_errors=True)
    (folder/'search-index.json').write_text(json.dumps(index, ensure_ascii=False,
            separators=(',', ':')), encoding='utf-8')
    shutil.rmtree(folder/'_sources', ignore_errors=True)
    for f in folder.rglob('*.html'):
        page = f.relative_to(folder).with_suffix('.ipynb')
        if (notebooks/page).exists():
            (folder/'_sources'/page).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(notebooks/page, folder/'_sources'/page)
    for f in (font, folder/'searchindex.js', *(folder/'_static').glob('*.html'),
            *(folder/'_static').rglob('*.map')):
        f.unlink(missing_ok=True)
