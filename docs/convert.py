"""From executed notebooks to what Sphinx with MyST-NB reads: nbdev's own processing, with links and tags that MyST knows.

`page(nb, rel)` converts one notebook; `api(module)` is the page of one module, made from docstrings and docments;
`contents(pages)` is the course in its parts."""
import importlib, inspect, posixpath, re
from pathlib import Path
from execnb.nbio import dict2nb, mk_cell
from fastcore.docments import docments, empty
from nbdev.config import get_config
from nbdev.doclinks import NbdevLookup
from nbdev.process import NBProcessor
from nbdev.processors import FilterDefaults, clean_magics, filter_stream_, hide_, hide_line, populate_language, rm_header_dash, strip_ansi

ROOT = Path(__file__).resolve().parent.parent
STATE, VIEW = (f'application/vnd.jupyter.widget-{o}+json' for o in ('state', 'view'))
TAGS = {'echo: false': 'remove-input', 'hide_input': 'remove-input', 'hide_output': 'remove-output',
    'output: false': 'remove-output'}
PARTS = [('Begin', '01', '03'), ('How a network sees', '04', '07'), ('Learning', '08', '12'),
    ('Using it', '13', '15'), ('Tools', '16', '18')]
KERNEL = ('An exercise needs a kernel, which this page has not: open the notebook in Colab by the '
    'rocket at the top, or in Jupyter.')
SLOW = ('*The next cell takes long. It is not run when this site is built, and shows what was '
    'recorded.*')
_fence = re.compile(r'^(```|~~~).*?^\1[^\S\n]*$|`[^`\n]+`', re.M | re.S)
_link = re.compile(r'\]\(\s*<?(?![a-zA-Z][\w+.-]*:|#|/)([^()\s>#]+)([^()\s>]*)>?')

def outside_code(text, f):
    "`text` with `f` applied to what is not code"
    parts, at = [], 0
    for m in _fence.finditer(text): parts, at = [*parts, f(text[at:m.start()]), m[0]], m.end()
    return ''.join([*parts, f(text[at:])])

def source_url(file): return f'{get_config().git_url}/blob/{get_config().branch}/{file}'

def moved(text, rel):
    "Relative links of notebook `rel`: pictures to the site's own, other files of the repository to its host"
    def sub(m):
        file = posixpath.normpath(posixpath.join('nbs', posixpath.dirname(rel), m[1]))
        if file.startswith('images/'): return f'](/{file}'
        return m[0] if file.startswith('nbs/') and file.endswith(
            '.ipynb') else f']({source_url(file)}{m[2]}'
    return outside_code(text, lambda s: _link.sub(sub, s))

class Lookup(NbdevLookup):
    "Names of the library lead to the pages of its modules; other names stay as they are"
    def __init__(self, up):
        self.up, self.names = up, {n: m for m in modules()
            for n in importlib.import_module(m).__all__}
        super().__init__(incl_libs='segbook')
    def doc(self, sym):
        return (f'{self.up}api/{self.names[sym].split(".")[-1]}.md#{sym.lower()}'
            if sym in self.names else None)
    def code(self, sym): return super().code(f'{self.names[sym]}.{sym}')

class CourseProcs(FilterDefaults):
    "nbdev's processing without Quarto: hidden cells go, exported ones are shown, since they are what the course teaches"
    def __init__(self, rel): self.rel, self.lookup = rel, Lookup('../'*rel.count('/'))

    def base_procs(self):
        return [populate_language, strip_ansi, hide_line, filter_stream_, rm_header_dash, hide_,
            self.default_exp_, clean_magics, self.links, self.tags]

    def default_exp_(self, cell, *_): del cell['source']

    def links(self, cell):
        if cell.cell_type != 'markdown': return
        cell.source = self.lookup.linkify(moved(cell.source, self.rel)) + (f'\n\n{KERNEL}'
            if cell.source.startswith('## Exercises') else '')

    def tags(self, cell):
        "Directives as the tags that MyST-NB knows"
        if cell.cell_type != 'code': return
        found = {t for d, args in cell.directives_.items() for k, t in TAGS.items()
            if k in (d, ' '.join([d, *args]))}
        cell.source = '\n'.join(l for l in cell.source.split('\n')
            if not l.startswith('#|')).strip()
        if re.fullmatch(r'((from|import)\b.*|with warnings.*|    .*|if '
                r'TYPE_CHECKING:|\s*)(\n((from|import)\b.*|    .*|if TYPE_CHECKING:|\s*))*',
                cell.source):
            found.add('hide-input')
        cell.metadata['tags'] = sorted(found)
        if not cell.source.strip(): del cell['source']

def title(rel, text):
    "A notebook's first cell, under the name that the front page gives the chapter"
    index = (ROOT/'nbs'/'index.ipynb').read_text(encoding='utf-8')
    name = re.search(rf'\[(?:\w+/)?(\d\d [^][]+)\]\({re.escape(rel)}\)', index)
    return re.sub(r'^#\s+.+', f'# {name[1]}', text, count=1) if name else text

def named(widget, states, found=None):
    "The models that `widget` consists of"
    found = found or {}
    if widget in states and widget not in found:
        found[widget] = states[widget]
        for ref in re.findall(r'IPY_MODEL_(\w+)', str(states[widget]['state'])):
            found = named(ref, states, found)
    return found

def page(nb, rel):
    "The executed notebook `nb` (a dict), `rel` under nbs/, as MyST-NB reads it"
    states = nb['metadata'].pop('widgets', {}).get(STATE, {}).get('state', {})
    slow = [c['id'] for c in nb['cells'] if c['cell_type'] == 'code'
        and re.search(r'^#\|\s*slow', ''.join(c['source']), re.M)]
    first = next(c for c in nb['cells'] if c['cell_type'] == 'markdown')
    first['source'] = title(rel, ''.join(first['source']))
    nb = dict2nb(nb)
    NBProcessor(nb=nb, procs=CourseProcs(rel).procs()).process()
    cells, used = [], {}
    for c in nb.cells:
        for o in c.get('outputs', []):
            if VIEW in o.get('data', {}): used |= named(o['data'][VIEW]['model_id'], states)
        cells += ([mk_cell(SLOW, 'markdown')] if c.get('id') in slow else []) + [c]
    for i, c in enumerate(cells):
        c.pop('directives_', None)
        c.pop('idx_', None)
        c['id'] = c.get('id') or f'added-{i}'
    used |= {k: m for k, m in states.items() if 'Link' in m['model_name']
        and set(re.findall(r'IPY_MODEL_(\w+)', str(m['state']))) <= used.keys()}
    meta = {'kernelspec': nb.metadata['kernelspec'],
        'language_info': {'name': 'python', 'pygments_lexer': 'ipython3'}}
    if used: meta['widgets'] = {STATE: dict(version_major=2, version_minor=0, state=used)}
    return dict(nbformat=4, nbformat_minor=5, metadata=meta, cells=[dict(c) for c in cells])

# ---- the pages of the library

def modules():
    return sorted(f'segbook.{f.stem}' for f in (ROOT/'segbook').glob('*.py') if f.stem[0] != '_'
        and f.stem != 'all')

def cell(x):
    return ('required' if x is inspect.Parameter.empty
        else f'`{x.__name__ if inspect.isclass(x) or inspect.isfunction(x) else x!r}`'.replace('|',
            '\\|'))

def parameters(f):
    "The parameters of `f` as a table: name, default, and what its docment says"
    rows = [(n, p) for n, p in docments(f, full=True, returns=True).items()
        if n not in ('self', 'return')]
    back = docments(f, full=True, returns=True).get('return')
    lines = [f'| `{n}` | {cell(p.default)} | {(p.docment or "").replace("|", chr(92) + "|")} |'
        for n, p in rows]
    if back and back.docment:
        lines.append(f'| *returns* | | {back.docment.replace("|", chr(92) + "|")} |')
    return '\n'.join(['| parameter | default | |', '|---|---|---|', *lines]) if lines else ''

def call(obj, name):
    "How `obj` is called, as a block of code; nothing for what has no signature of its own"
    try: ps = inspect.signature(obj).parameters
    except ValueError: return ''
    star = {inspect.Parameter.VAR_POSITIONAL: '*', inspect.Parameter.VAR_KEYWORD: '**'}
    return f'```python\n{name}({", ".join(star.get(p.kind, "") + n for n, p in ps.items() if n != "self")})\n```'

def value(obj):
    "A value as text: functions and classes by name; a long one is cut at a comma"
    text = re.sub(r"<(?:function|class) '?(?:[\w.]*\.)?(\w+)[^>]*>", r'\1', str(obj))
    return text if len(text) <= 200 else text[:200].rsplit(',', 1)[0] + ', ...'

def entry(obj, name, heading, url):
    "One function or class: signature, docstring, parameters, source, and for a class its public methods; else its value"
    if not (inspect.isroutine(obj) or inspect.isclass(obj)):
        return f'{heading} {name}\n\n```python\n{name} = {value(obj)}\n```'
    # nothing of its own to say how it is made
    usual = inspect.isclass(obj) and '__init__' not in vars(obj)
    parts = [f'{heading} {name}', '' if usual else call(obj, name),
        inspect.cleandoc(obj.__doc__ or ''), '' if usual else parameters(obj)]
    if url: parts.append(f'[source]({url})')
    methods = [(n, o) for n, o in vars(obj).items() if inspect.isfunction(o) and n[0] != '_'
        and o.__doc__] if inspect.isclass(obj) else []
    return '\n\n'.join([p for p in parts if p]
        + [entry(o, f'{name}.{n}', '#' + heading, '') for n, o in methods])

def api(module):
    "The page of `module`: everything public in it"
    m, lookup = importlib.import_module(module), Lookup('../')
    names = [n for n in m.__all__ if getattr(getattr(m, n), '__module__', module) == module]
    return '\n\n'.join([f'# {module}', inspect.cleandoc(m.__doc__ or ''),
            *(entry(getattr(m, n), n, '##', lookup.code(n)) for n in names)]) + '\n'

def contents(pages):
    "The course in its parts, as tables of contents for the front page"
    def toc(name, files):
        return '```{toctree}\n:hidden:\n:caption: ' + name + '\n\n' + '\n'.join(files) + '\n```'
    found = [(name, [p for p in pages if '/' not in p and a <= p[:2] <= b]) for name, a, b in PARTS]
    found += [(f.capitalize(), [p for p in pages if p.startswith(f'{f}/')])
        for f in ('architectures', 'projects')]
    found.append(('Reference', ['00_all', *(f'api/{m.split(".")[-1]}' for m in modules())]))
    return '\n\n'.join(toc(name, files) for name, files in found if files)
