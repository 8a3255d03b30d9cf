"""From executed notebooks to what Sphinx with MyST-NB reads: nbdev's own processing, with links, folds and captions.

`page(nb, rel)` converts one notebook; its title is the heading of its first cell. `contents(pages)` is the course in its
parts. The pages of the library are made by docs/api.py, explorers by docs/explorers.py."""
import posixpath
import re
from pathlib import Path

import api
import explorers
from execnb.nbio import dict2nb, mk_cell
from nbdev.config import get_config
from nbdev.process import NBProcessor
from nbdev.processors import (
    FilterDefaults, clean_magics, filter_stream_, hide_line, populate_language, rm_header_dash, strip_ansi,
)

ROOT = Path(__file__).resolve().parent.parent
# the course in its order: a name, and what the paths of its notebooks begin with
PARTS = [
    ('Begin', ['01', 'projects/camvid', '02', '03']),
    ('How a network sees', ['04', '05', '06', '07', r'architectures/\d+_dynamic_unet']),
    ('Learning', ['08', '09', '10', '11', '12']), ('Using it', ['13', '14', '15']),
    ('Architectures', ['architectures/']), ('Projects', ['projects/']), ('Tools', ['18', '16', '17'])]
KERNEL = ('An exercise needs a kernel, which this page has not: open the notebook in Colab by the '
          'rocket at the top, or in Jupyter.')
SLOW = '*The next cell takes long. It is not run when this site is built, and shows what was recorded.*'
_fence = re.compile(r'^(```|~~~).*?^\1[^\S\n]*$|`[^`\n]+`', re.M | re.S)
_link = re.compile(r'\]\(\s*<?(?![a-zA-Z][\w+.-]*:|#|/)([^()\s>#]+)([^()\s>]*)>?')
_imports = re.compile(r'((from|import)\b.*|with warnings.*|    .*|if TYPE_CHECKING:|\)|\s*)(\n((from|import)\b.*|    .*'
                      r'|if TYPE_CHECKING:|\)|\s*))*')
_caption = re.compile(r'\A\s*\*(?!\*)(Figure\b[^\n]*?)\*\s*(?:\n\s*\n|\Z)', re.S)


def outside_code(text, f):
    "`text` with `f` applied to what is not code"
    parts, at = [], 0
    for m in _fence.finditer(text):
        parts += [f(text[at:m.start()]), m[0]]
        at = m.end()
    return ''.join([*parts, f(text[at:])])


def moved(text, rel):
    "Relative links of notebook `rel`: pictures to the site's own, other files of the repository to its host"
    def sub(m):
        file = posixpath.normpath(posixpath.join('nbs', posixpath.dirname(rel), m[1]))
        if file.startswith('images/'): return f'](/{file}'
        if file.startswith('nbs/') and file.endswith('.ipynb') and not file.startswith('nbs/tasks/'): return m[0]
        return f']({get_config().git_url}/blob/{get_config().branch}/{file}{m[2]}'
    return outside_code(text, lambda s: _link.sub(sub, s))


def name_of(source):
    "What a cell of library code defines: the names at its margin, the first three of them"
    found = re.findall(r'^(?:(?:async )?def|class) (\w+)|^(\w+)\s*(?::[^=]+)?= ', source, re.M)
    names = list(dict.fromkeys(a or b for a, b in found))
    return ', '.join(names[:3]) + (' ...' if len(names) > 3 else '') if names else 'imports'


def fold(directives, source):
    "(tag, label) of a cell that a page shows folded, or None"
    n = sum(1 for l in source.split('\n') if l.strip())
    lines = f'{n} line' + 's'*(n != 1)
    if {'export', 'exporti'} & directives.keys(): return 'hide-input', f'Library code: {name_of(source)}, {lines}'
    if 'hide' in directives or directives.get('include:') == ['false']:
        checks = re.search(r'^\s*(assert\b|test_\w+\()', source, re.M)
        return 'hide-cell', f'{"Check" if checks else "Set-up"}, {lines}'
    if 'hide_input' in directives or directives.get('echo:') == ['false']: return 'hide-input', f'Code, {lines}'
    return ('hide-input', f'Set-up, {lines}') if _imports.fullmatch(source) else None


class CourseProcs(FilterDefaults):
    "nbdev's processing without Quarto; what is hidden there is folded here, so that nothing is secret"
    def __init__(self, rel): self.rel, self.lookup = rel, api.Lookup('../'*rel.count('/'))

    def base_procs(self):
        return [populate_language, strip_ansi, hide_line, filter_stream_, rm_header_dash, self.default_exp_,
                clean_magics, self.links, self.tags]

    def default_exp_(self, cell, *_): del cell['source']

    def links(self, cell):
        if cell.cell_type != 'markdown': return
        text = re.sub(r'<!-- exercise \S+ -->\n?', '', cell.source)
        cell.source = self.lookup.linkify(moved(text, self.rel))
        if '**How exercises work.**' in text: cell.source += f'\n\n{KERNEL}'

    def tags(self, cell):
        "Directives as what MyST-NB knows"
        if cell.cell_type != 'code': return
        cell.source = '\n'.join(l for l in cell.source.split('\n') if not l.startswith('#|')).strip()
        folded, tags = fold(cell.directives_, cell.source), []
        if folded: tags, cell.metadata['mystnb'] = [folded[0]], dict(code_prompt_show=folded[1], code_prompt_hide=folded[1])
        if 'hide_output' in cell.directives_ or cell.directives_.get('output:') == ['false']: tags.append('remove-output')
        cell.metadata['tags'] = tags
        if not cell.source: del cell['source']


def sentence(text):
    "The last sentence of Markdown `text`, without its marks: what stands in for a figure that follows it"
    text = re.sub(r'^(```|~~~).*?^\1.*?$|<[^>]+>|^\s*\|.*$|^#+ ', '', text, flags=re.M | re.S)
    text = re.sub(r'!?\[([^][]*)\]\([^()]*\)', r'\1', text)
    words = ' '.join(re.sub(r'[*`>]|\$', '', text).split())
    found = [s for s in re.split(r'(?<=[.!?:])\s+(?=[^a-z])', words) if len(s.split()) > 2]
    return found[-1].rstrip(':') + ('.' if found[-1][-1] not in '.!?' else '') if found else ''


def describe(cells, title):
    "Every figure among the outputs gets a caption where one is written, and a sentence as its alternative text"
    before = title
    for c, after in zip(cells, [*cells[1:], None]):
        if c['cell_type'] == 'markdown': before = sentence(c['source']) or before
        figures = [o for o in c.get('outputs', []) if any(k.startswith('image/') for k in o.get('data', {}))]
        if not figures: continue
        said = {k: ' '.join(v) for k, v in c.get('directives_', {}).items()}
        below = _caption.match(after['source']) if after is not None and after['cell_type'] == 'markdown' else None
        caption = said.get('fig-cap:') or (below and below[1])
        if below and 'fig-cap:' not in said: after['source'] = after['source'][below.end():]
        meta = c['metadata'].setdefault('mystnb', {})
        if caption: meta['figure'] = dict(caption=caption.strip('\'"'))
        alt = said.get('fig-alt:') or re.sub(r'^Figure\s*\d*\s*[:.]\s*', '', sentence(caption or '')) or before
        meta['image'] = dict(alt=(alt[:1].upper() + alt[1:]).strip('\'"'))


def page(nb, rel, strict=False):
    "The executed notebook `nb` (a dict), `rel` under nbs/, as MyST-NB reads it; `strict`: no explorer without state"
    states = explorers.states(nb)
    first = next(c for c in nb['cells'] if c['cell_type'] == 'markdown')
    title = re.match(r'#\s+(.+)', ''.join(first['source']))[1]
    nb = dict2nb(nb)
    NBProcessor(nb=nb, procs=CourseProcs(rel).procs()).process()
    describe(nb.cells, title)
    state = explorers.put(nb.cells, states, rel, strict)
    cells = []
    for c in nb.cells:
        if 'slow' in c.get('directives_', {}): cells.append(mk_cell(SLOW, 'markdown'))
        if c['cell_type'] == 'code' or c['source'].strip(): cells.append(c)
    if state: cells.append(mk_cell(state, 'markdown'))
    for i, c in enumerate(cells):
        for k in ('directives_', 'idx_'): c.pop(k, None)
        c['id'] = c.get('id') or f'added-{i}'
    meta = {'kernelspec': nb.metadata['kernelspec'], 'language_info': {'name': 'python', 'pygments_lexer': 'ipython3'}}
    return dict(nbformat=4, nbformat_minor=5, metadata=meta, cells=[dict(c) for c in cells])


def toc(name, files, hidden=True):
    return '```{toctree}\n' + ':hidden:\n'*hidden + (f':caption: {name}\n' if name else '') + '\n' + '\n'.join(files) + '\n```'


def contents(pages):
    "The course in its parts, as tables of contents for the front page; the workshop and the library are folded below theirs"
    left, found = sorted(pages), []
    for name, starts in PARTS:
        files = [p for s in starts for p in left if re.match(s, p) and not (p.startswith('workshop/'))]
        left = [p for p in left if p not in files]
        if files: found.append(toc(name, files))
    return '\n\n'.join([*found, toc('Reference', ['workshop/index', 'api/index'])])


def workshop(pages):
    "The page of the workshop: its notebooks, room by room"
    text = ('# Workshop\n\nThe engine of the library, one notebook a module, for those who change it: why it is so, the hard '
            'cases, tests. A reader of the course needs none of it.\n')
    files = sorted((p.removeprefix('workshop/') for p in pages if p.startswith('workshop/')), key=lambda p: (p.split('/')[0], p))
    return f'{text}\n{toc("", files, hidden=False)}\n'
