"""From executed notebooks to what Sphinx with MyST-NB reads: nbdev's own processing, with links,
folds and captions.

`page(nb, rel)` converts one notebook; its title is the heading of its first cell. The order
of the pages is that of docs/course.py; the pages of the library are made by docs/api.py,
explorers by docs/explorers.py."""
import posixpath
import re
from pathlib import Path

import api
import explorers
from cells import describe, fold
from execnb.nbio import dict2nb, mk_cell
from nbdev.config import get_config
from nbdev.process import NBProcessor
from nbdev.processors import (FilterDefaults, clean_magics, filter_stream_, hide_line,
    populate_language, rm_header_dash, strip_ansi,)

ROOT = Path(__file__).resolve().parent.parent
KERNEL = ('An exercise needs a kernel, which this page has not: open the notebook in Colab by the '
          'rocket at the top, or in Jupyter.')
SLOW = ('*The next cell takes long. It is not run when this site is built, and shows what was '
    'recorded.*')
_fence = re.compile(r'^(```|~~~).*?^\1[^\S\n]*$|`[^`\n]+`', re.M | re.S)
_link = re.compile(r'\]\(\s*<?(?![a-zA-Z][\w+.-]*:|#|/)([^()\s>#]+)([^()\s>]*)>?')


def outside_code(text, f):
    "`text` with `f` applied to what is not code"
    parts, at = [], 0
    for m in _fence.finditer(text):
        parts += [f(text[at:m.start()]), m[0]]
        at = m.end()
    return ''.join([*parts, f(text[at:])])


def moved(text, rel):
    """Relative links of notebook `rel`: pictures to the site's own, other files of the
    repository to its host"""
    def sub(m):
        file = posixpath.normpath(posixpath.join('nbs', posixpath.dirname(rel), m[1]))
        if file.startswith('images/'): return f'](/{file}'
        if file.startswith('nbs/') and file.endswith('.ipynb') and not file.startswith(
                'nbs/tasks/'):
            return m[0]
        return f']({get_config().git_url}/blob/{get_config().branch}/{file}{m[2]}'
    return outside_code(text, lambda s: _link.sub(sub, s))


EXPLORERS = '16_widgets.ipynb'  # the page that is free of code


def without_code(cell, folded):
    "Tags of a cell of the explorers' page: only outputs are seen, and stubs of exercises folded"
    if stub := re.search(r"^check\('([\d.]+)'", cell.source, re.M):
        label = f'Code, exercise {stub[1]}'
        cell.metadata['mystnb'] = dict(code_prompt_show=label, code_prompt_hide=label)
        return ['hide-input']
    if folded and folded[0] == 'hide-cell': cell.source = ''
    return ['remove-input']


class CourseProcs(FilterDefaults):
    """nbdev's processing without Quarto; what is hidden there is folded here, so that nothing is
    secret"""
    def __init__(self, rel): self.rel, self.lookup = rel, api.Lookup('../'*rel.count('/'))

    def base_procs(self):
        return [populate_language, strip_ansi, hide_line, filter_stream_, rm_header_dash,
            self.default_exp_, clean_magics, self.links, self.tags]

    def default_exp_(self, cell, *_): del cell['source']

    def links(self, cell):
        if cell.cell_type != 'markdown': return
        text = re.sub(r'<!-- exercise \S+ -->\n?', '', cell.source)
        cell.source = self.lookup.linkify(moved(text, self.rel))
        if '**How exercises work.**' in text: cell.source += f'\n\n{KERNEL}'

    def tags(self, cell):
        "Directives as what MyST-NB knows"
        if cell.cell_type != 'code': return
        cell.source = '\n'.join(l for l in cell.source.split('\n')
            if not l.startswith('#|')).strip()
        folded, tags = fold(cell.directives_, cell.source), []
        if folded:
            tags, cell.metadata['mystnb'] = [folded[0]], dict(code_prompt_show=folded[1],
                code_prompt_hide=folded[1])
        if self.rel == EXPLORERS: tags = without_code(cell, folded)
        if 'hide_output' in cell.directives_ or cell.directives_.get('output:') == ['false']:
            tags.append('remove-output')
        cell.metadata['tags'] = tags
        if not cell.source: del cell['source']


def page(nb, rel, strict=False):
    """The executed notebook `nb` (a dict), `rel` under nbs/, as MyST-NB reads it; `strict`: no
    explorer without state"""
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
    meta = {'kernelspec': nb.metadata['kernelspec'],
        'language_info': {'name': 'python', 'pygments_lexer': 'ipython3'}}
    return dict(nbformat=4, nbformat_minor=5, metadata=meta, cells=[dict(c) for c in cells])
