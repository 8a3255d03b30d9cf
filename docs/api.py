"""The pages of the library: `page(module)` is one module, or one package with its rooms, made
from docstrings and docments."""
import ast
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

from fastcore.docments import docments
from nbdev.config import get_config
from nbdev.doclinks import NbdevLookup

ROOT = Path(__file__).resolve().parent.parent


def modules():
    """Modules and packages at the top of the library; what the course brings together, and the
    exercises, are none"""
    found = [f.stem for f in (ROOT/'segbook').glob('*.py')] + [f.parent.name
        for f in (ROOT/'segbook').glob('*/__init__.py')]
    return sorted(f'segbook.{n}' for n in found if n[0] != '_' and n not in ('all', 'tasks'))


def rooms(module):
    "The modules that `module` consists of: itself, or those of a package"
    m = importlib.import_module(module)
    if not hasattr(m, '__path__'): return [module]
    return [f'{module}.{o.name}' for o in pkgutil.iter_modules(m.__path__) if o.name[0] != '_']


def public(room):
    "The public names that `room` itself defines"
    m = importlib.import_module(room)
    return [n for n in getattr(m, '__all__', [])
        if getattr(getattr(m, n), '__module__', room) == room
        or not (inspect.isroutine(getattr(m, n)) or inspect.isclass(getattr(m, n)))]


def file_of(module): return module.removeprefix('segbook.')


class Lookup(NbdevLookup):
    "Names of the library lead to the pages of its modules; other names stay as they are"
    def __init__(self, up=''):
        self.up, self.names = up, {n: (m, r) for m in modules() for r in rooms(m)
            for n in public(r)}
        super().__init__(incl_libs='segbook')

    def doc(self, sym):
        return (f'{self.up}api/{file_of(self.names[sym][0])}.md#{sym.lower()}' if sym in self.names
            else None)

    def code(self, sym):
        "The line of the module where `sym` is defined, at the repository's host"
        if sym not in self.names: return None
        file, cfg = f'{self.names[sym][1].replace(".", "/")}.py', get_config()
        line = next((o.lineno for o in ast.parse((ROOT/file).read_text(encoding='utf-8')).body
                if sym in defined(o)), 1)
        return f'{cfg.git_url}/blob/{cfg.branch}/{file}#L{line}'


def defined(node):
    "The names that one statement of a module defines"
    targets = getattr(node, 'targets', [getattr(node, 'target', None)])
    return {getattr(node, 'name', None), *(n.id for t in targets if t for n in ast.walk(t)
            if isinstance(n, ast.Name))}


def cell(x):
    "A default, as it stands in a table"
    if x is inspect.Parameter.empty: return 'required'
    text = x.__name__ if inspect.isclass(x) or inspect.isfunction(x) else repr(x)
    return f'`{text}`'.replace('|', '\\|')


def parameters(f):
    "The parameters of `f` as a table: name, default, and what its docment says"
    said = docments(f, full=True, returns=True)
    bar = chr(92) + '|'
    lines = [f'| `{n}` | {cell(p.default)} | {(p.docment or "").replace("|", bar)} |'
             for n, p in said.items() if n not in ('self', 'return')]
    back = said.get('return')
    if back and back.docment: lines.append(f'| *returns* | | {back.docment.replace("|", bar)} |')
    return '\n'.join(['| parameter | default | |', '|---|---|---|', *lines]) if lines else ''


def call(obj, name):
    "How `obj` is called, as a block of code; nothing for what has no signature of its own"
    try: ps = inspect.signature(obj).parameters
    except ValueError: return ''
    star = {inspect.Parameter.VAR_POSITIONAL: '*', inspect.Parameter.VAR_KEYWORD: '**'}
    text = ', '.join(star.get(p.kind, '') + n for n, p in ps.items() if n != 'self')
    return f'```python\n{name}({text})\n```'


def value(obj):
    "A value as text: functions and classes by name; a long one is cut at a comma"
    text = re.sub(r"<(?:function|class) '?(?:[\w.]*\.)?(\w+)[^>]*>", r'\1', str(obj))
    return text if len(text) <= 200 else text[:200].rsplit(',', 1)[0] + ', ...'


def entry(obj, name, heading, url):
    """One function or class: signature, docstring, parameters, source, and for a class its
    public methods; else its value"""
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


def page(module):
    "The page of `module`: everything public in it, a package room by room"
    lookup, inside = Lookup('../'), rooms(module)
    parts = [f'# {module}', inspect.cleandoc(importlib.import_module(module).__doc__ or '')]
    level = '##'
    for r in inside:
        m, names = importlib.import_module(r), public(r)
        if not names: continue
        if r != module:
            parts += [f'## {r}', inspect.cleandoc(m.__doc__ or '')]
            level = '###'
        parts += [entry(getattr(m, n), n, level, lookup.code(n)) for n in names]
    return '\n\n'.join(p for p in parts if p) + '\n'


def index():
    "The page that lists them, each with what its module says of itself"
    lines = [f'- [{m}]({file_of(m)}.md): '
        f'{inspect.cleandoc(importlib.import_module(m).__doc__ or "").split(chr(10))[0]}'
        for m in modules()]
    tree = '```{toctree}\n:hidden:\n\n' + '\n'.join(map(file_of, modules())) + '\n```'
    return '\n\n'.join(['# API', 'Every public name of the library, with its parameters, and a '
            'link to the line that defines it.', '\n'.join(lines), tree]) + '\n'
