"""The rooms of the library: which module stands where, how large it may be, and what crosses a
wall. Each rule is a function
that returns its findings, and is itself tested on a case that breaks it."""
import ast
import importlib
import json
import re
import statistics
import subprocess
import symtable
import sys

import pytest
from test_house import (CHAPTERS, COURSE, FILES, ROOT, WORKSHOP, cells, code_lines,
    library, load, none, notebook, one_line, text_of,)

MAX_MODULE, MAX_FUNCTION, MAX_POSITIONAL, MEDIAN_EXPORTED = 400, 40, 6, 12
MAX_BETWEEN_IDEAS, SEEN_WIDTH = 40, 88
OURS = {m: t for m, t in library().items()
        if not m.startswith('tasks') and m not in ('__init__', '_modidx')}
FUNCTION = ast.FunctionDef, ast.AsyncFunctionDef
DEFINITION = (*FUNCTION, ast.ClassDef)


def definitions(source):
    "Every function and class of `source`, at any depth"
    return [o for o in ast.walk(ast.parse(source)) if isinstance(o, DEFINITION)]


def lines_of(node):
    first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
    return node.end_lineno - first + 1


def is_private(name):
    return name.startswith('_') and not name.startswith('__')


def top_names(source):
    "Names that the module `source` defines itself, at its top level"
    found = []
    for o in ast.parse(source).body:
        if isinstance(o, DEFINITION) and not is_patch(o): found.append(o.name)
        elif isinstance(o, ast.Assign):
            found += [n.id for t in o.targets for n in ast.walk(t)
                      if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
        elif isinstance(o, ast.AnnAssign): found.append(o.target.id)
    return list(dict.fromkeys(found))


def is_patch(node):
    return any(isinstance(n, ast.Name) and n.id.startswith('patch')
               for d in node.decorator_list for n in ast.walk(d))


# ---- size

def long_functions(source):
    return [f'{o.name} has {lines_of(o)} lines (at most {MAX_FUNCTION})'
        for o in definitions(source) if isinstance(o, FUNCTION) and lines_of(o) > MAX_FUNCTION]


def many_arguments(source):
    "Functions with more positional arguments than a reader can keep apart"
    found = []
    for o in definitions(source):
        if not isinstance(o, FUNCTION): continue
        n = [a.arg for a in o.args.posonlyargs + o.args.args if a.arg not in ('self', 'cls')]
        if len(n) > MAX_POSITIONAL:
            found.append(f'{o.name} has {len(n)} positional arguments (at most {MAX_POSITIONAL})')
    return found


def undocumented(source):
    "Private definitions of more than five lines without a docstring"
    return [f'{o.name} has {lines_of(o)} lines and no docstring' for o in definitions(source)
            if is_private(o.name) and lines_of(o) > 5 and not ast.get_docstring(o)]


def short_names(source):
    "Private names of fewer than four letters that live longer than a cell"
    return [f'{n}: a name that explains itself' for n in top_names(source)
            if is_private(n) and n != '_all_' and len(n.strip('_')) < 4]


def private_imports(source):
    "Private names taken from another module of the library"
    found = []
    for o in ast.walk(ast.parse(source)):
        if not isinstance(o, ast.ImportFrom): continue
        if not (o.level or (o.module or '').startswith('segbook')): continue
        found += [f'{a.name} from {o.module}' for a in o.names
                  if is_private(a.name) or is_private((o.module or '').split('.')[-1])]
    return found


MODULE_RULES = [long_functions, many_arguments, undocumented, short_names, private_imports]


@pytest.mark.parametrize('module', sorted(OURS))
@pytest.mark.parametrize('rule', MODULE_RULES, ids=lambda o: o.__name__)
def test_module(module, rule): none(rule(OURS[module]), f'segbook.{module}:')


@pytest.mark.parametrize('module', sorted(OURS))
def test_module_is_small(module):
    n = len(OURS[module].splitlines())
    assert n <= MAX_MODULE, f'segbook.{module} has {n} lines (at most {MAX_MODULE}): give it rooms'


def doubled_names(sources):
    "Names that two modules define, each for itself"
    where = {}
    for m, text in sources.items():
        if m.endswith('__init__'): continue
        for n in top_names(text):
            if not re.fullmatch(r'__\w+__|_all_', n): where.setdefault(n, []).append(m)
    return [f'{n} means one thing in {ms[0]} and another in {", ".join(ms[1:])}'
            for n, ms in sorted(where.items()) if len(ms) > 1]


def test_a_name_means_one_thing(): none(doubled_names(OURS))


def test_private_names_stay_at_home():
    "Tests, tools and measurements use what is public, too, but for what they test"
    files = [f for f in FILES if f.endswith('.py')
        and f.split('/')[0] in ('tools', 'bench', 'docs', 'images')]
    none([f'{f}: {o}' for f in files for o in private_imports(
                (ROOT/f).read_text(encoding='utf-8'))])


example = {long_functions: ('def f():\n' + '    x = 1\n'*39, 'def f():\n' + '    x = 1\n'*40),
    many_arguments: ('def f(self, a, b, c, d, e, g, *, h=1): pass', 'def f(a, b, c, d, e, g, h=1): '
        'pass'), undocumented: ('def _long():\n    "Why."\n' + '    x = 1\n'*9, 'class A:\n  def '
        '_long(self):\n' + '    x = 1\n'*9), short_names:
    ('_four = 1\ndef f(): _a = 1', '_abc = 1'),
    private_imports: ('from .masks import a\nfrom torch import _C',
        'from segbook.masks import _a'),}


@pytest.mark.parametrize('rule', MODULE_RULES, ids=lambda o: o.__name__)
def test_module_rules_find(rule):
    good, bad = example[rule]
    assert rule(good) == [] and len(rule(bad)) == 1


def test_doubled_names_are_found():
    assert len(doubled_names({'a': 'def _f(): pass', 'b': '_f = 1', 'c': 'g = 1'})) == 1
    assert doubled_names({'a': 'def f(): pass', 'b': 'from a import f\n__all__ = []'}) == []


# ---- notebooks

def exported(source): return bool(re.search(r'^#\|\s*exporti?\b', source, re.M))


def test_exported_cells_are_small():
    n = [code_lines(s) for name in COURSE for s in cells(load(name), 'code') if exported(s)]
    assert statistics.median(n) <= MEDIAN_EXPORTED, f'a median of {statistics.median(n)} lines'


def is_import(source):
    "Does the cell only import, or name its module?"
    try: body = ast.parse('\n'.join(l for l in source.split('\n') if not l.startswith('%'))).body
    except SyntaxError: return False
    return all(isinstance(o, (ast.Import, ast.ImportFrom, ast.With, ast.If))
        or '_all_' in ast.dump(o) for o in body)


def crowded(nb):
    """Headings of a chapter with more exported code below them than a reader passes between two
    ideas"""
    found, head, n = [], 'the beginning', 0
    for c in [*nb['cells'], dict(cell_type='markdown', source='# end')]:
        text = text_of(c['source'])
        if c['cell_type'] == 'markdown' and (m := re.search(r'^#+ (.+)$', text, re.M)):
            if n > MAX_BETWEEN_IDEAS:
                found.append(f'{n} exported lines below "{head}" (at most {MAX_BETWEEN_IDEAS})')
            head, n = m[1], 0
        elif c['cell_type'] == 'code' and exported(text) and not is_import(text):
            n += code_lines(text)
    return found


def wide_for_a_reader(nb):
    "Lines of cells that a page shows open, wider than its column"
    seen = [s for s in cells(nb, 'code') if not re.search(r'^#\|\s*(exporti?|hide|default_exp)\b',
            s, re.M)]
    return [f'{len(l)} columns: {one_line(l)}' for s in seen for l in s.split('\n')
            if len(l) > SEEN_WIDTH and not l.startswith('#|')]  # a page shows no directives


def bunched(nb):
    "Exercises that stand in a row, away from their ideas"
    found, row = [], []
    for c in [*nb['cells'], dict(cell_type='markdown', source='end')]:
        text = text_of(c['source'])
        if (m := re.match(r'<!-- exercise (\S+) -->', text)): row.append(m[1])
        elif c['cell_type'] == 'code' and row and f"check('{row[-1]}'" in text: pass
        else:
            if len(row) > 2:
                found.append(f'{", ".join(row)} stand in a row: put each beside its idea')
            row = []
    return found


def names_of(source):
    """Names that a cell defines, that it needs as it runs, and that its functions need later"""
    lines = [l for l in source.split('\n') if not l.lstrip().startswith(('%', '!'))]
    table = symtable.symtable('\n'.join(lines), 'cell', 'exec')
    own = [o for o in table.get_symbols() if o.is_assigned() or o.is_imported()]
    def below(t):
        for o in t.get_children(): yield from (o, *below(o))
    later = {o.get_name() for t in below(table) for o in t.get_symbols()
        if o.is_global() and o.is_referenced()}
    return ({o.get_name() for o in own}, {o.get_name() for o in table.get_symbols()
            if o.is_referenced()}, later)


def overwriting(nb):
    "Stubs of exercises with the name of something that was defined before and is needed after"
    seen = [(*names_of(s), bool(re.search(r"^check\('", s, re.M))) for s in cells(nb, 'code')]
    found = []
    for i, stub in enumerate(seen):
        for name in sorted(stub[0]) if stub[3] else ():
            others = [(j, o) for j, o in enumerate(seen) if not o[3] and j != i]
            before = any(name in o[0] for j, o in others if j < i)
            needed = any(name in o[2] or j > i and name in o[1] - o[0] for j, o in others)
            if before and needed: found.append(f'the stub {name} takes the place of another one')
    return found


CHAPTER_RULES = [crowded, wide_for_a_reader, bunched, overwriting]


@pytest.mark.parametrize('name', CHAPTERS)
@pytest.mark.parametrize('rule', CHAPTER_RULES, ids=lambda o: o.__name__)
def test_chapter(name, rule): none(rule(load(name)))


def hung_on(nb):
    "`@patch` where no chapter teaches an addition: a class has its own methods in its own cell"
    return [one_line(m[0]) for s in cells(nb, 'code') if exported(s)
        for m in re.finditer(r'^@patch.*\n.*def \w+', s, re.M)]


@pytest.mark.parametrize('name', WORKSHOP)
def test_classes_are_whole(name): none(hung_on(load(name)))


def test_chapters_patch_no_private_method():
    found = [f'{n}: {p}' for n in CHAPTERS for p in hung_on(load(n)) if re.search(r'def _', p)]
    none(found, 'a private method belongs into its class:')


def introduction(nb):
    """What is missing from the beginning of a workshop notebook: its title, one sentence, one
    paragraph"""
    text = [text_of(c['source']) for c in nb['cells'] if c['cell_type'] == 'markdown']
    if not text or not re.match(r'# \S.*\n\n?> \S', text[0]):
        return ['it begins with "# title" and "> one sentence"']
    return [] if sum(len(t.split()) for t in text) >= 40 else ['it says too little: what is the '
        'room for, and who calls it?']


@pytest.mark.parametrize('name', WORKSHOP)
def test_workshop_says_what_it_is_for(name): none(introduction(load(name)))


heading = dict(cell_type='markdown', source='## A')
big = '#| export\n' + '\n'.join(f'x{i} = 1' for i in range(41))


@pytest.mark.parametrize('rule,nb,n', [(crowded, dict(cells=[heading, *notebook(big)['cells']]), 1),
        (crowded, dict(cells=[heading, *notebook(big[:200])['cells'], heading,
            *notebook(big[:200])['cells']]), 0),
        (wide_for_a_reader, notebook('x'*89, '#| export\n' + 'x'*89), 1),
        (bunched, notebook(*[f'<!-- exercise 01.{i} -->' for i in (1, 2, 3)], kind='markdown'), 1),
        (bunched, notebook('<!-- exercise 01.1 -->', 'text', '<!-- exercise 01.2 -->',
            kind='markdown'), 0), (hung_on, notebook('#| export\n@patch\ndef f(self:A): pass'), 1),
        (hung_on, notebook('@patch\ndef f(self:A): pass'), 0),
        (overwriting, notebook('def f(): 1', 'def g(): f()', "def f(): ...\ncheck('1.1', f)"), 1),
        (overwriting, notebook('def f(): 1', "def f(): ...\ncheck('1.1', f)", 'f()'), 1),
        (overwriting, notebook('def f(): 1\nf()', "def f(): ...\ncheck('1.1', f)"), 0),
        (overwriting, notebook('def g(): f()', "def f(): ...\ncheck('1.1', f)", 'f = 1\nf'), 0),
        (introduction, notebook('# a\n> b', 'word '*50, kind='markdown'), 0),
        (introduction, notebook('# a\n> b', kind='markdown'), 1)])
def test_chapter_rules_find(rule, nb, n): assert len(rule(nb)) == n


# ---- titles

def title(nb):
    "The heading of a notebook: what its page, the sidebar and `progress()` call it"
    first = next(text_of(c['source']) for c in nb['cells'] if c['cell_type'] == 'markdown')
    return first.split('\n')[0].removeprefix('# ')


@pytest.mark.parametrize('name', CHAPTERS)
def test_title_is_for_people(name):
    assert re.match(r'[A-Z]',
        title(load(name))), f'{title(load(name))!r}: the name of a module is no title'


def test_progress_knows_the_titles():
    from segbook.exercises import chapter_module, chapter_modules
    found = []
    for n in chapter_modules().values():
        about = chapter_module(n).CHAPTER
        if about['notebook'] == 'index.ipynb': continue
        real = title(load(f'nbs/{about["notebook"]}'))
        if about['title'] != real:
            found.append(f'{about["title"]!r}, but {about["notebook"]} says {real!r}')
    none(found, 'progress() calls a chapter')


# ---- what is promised

PUBLIC = """
masks: one_hot to_mask overlay show_mask check_masks MaskReport
data: DATASETS get_data make_scenes make_cells read_image seg_dataloaders mild_tfms
data: from_coco from_labelme
convolution: conv_output_size conv_matrix transposed_conv_output_size conv_cost
convolution: DepthwiseSeparableConv
receptive_field: receptive_field ReceptiveField effective_receptive_field receptive_field_table
upsampling: Nearest Bilinear Bicubic BedOfNails MaxUnpool TransposedConv PixelShuffleICNR
losses: CrossEntropyLoss FocalLoss DiceLoss JaccardLoss TverskyLoss LovaszLoss
losses: BorderWeightedLoss CombinedLoss class_weights unet_weight_map
metrics: Confusion PixelAccuracy MeanIoU MeanDice ClassIoU boundary_f1 hausdorff95
models: MODELS seg_model
encoders: find_encoder
learner: seg_learner train_segmenter
inference: predict_image
interpretation: SegInterpretation
export: save_segmenter load_segmenter
exercises: check hint solution progress
widgets: mask_explorer convolution_explorer receptive_field_explorer upsampling_explorer
widgets: loss_explorer metric_explorer prediction_explorer
"""
PROMISED = [(m, n) for line in PUBLIC.strip().split('\n') for m, names in [line.split(': ')]
    for n in names.split()]
# every public name that could be imported before the engine moved out of the chapters
EARLIER = json.loads((ROOT/'tests'/'public_names.json').read_text())


@pytest.mark.parametrize('module,name', PROMISED)
def test_public_name_is_where_it_was_promised(module, name):
    assert hasattr(importlib.import_module(f'segbook.{module}'), name)


@pytest.mark.parametrize('module', sorted(EARLIER))
def test_nothing_public_was_lost(module):
    m = importlib.import_module(f'segbook.{module}')
    none([n for n in EARLIER[module] if not hasattr(m, n)], f'no longer in segbook.{module}:')


# ---- ruff

def ruff(*args):
    cmd = [sys.executable, '-m', 'ruff', 'check', '--no-cache', '--output-format', 'concise',
        *map(str, args)]
    return subprocess.run(cmd, cwd=ROOT, capture_output=True, text=True)


def test_ruff_finds_nothing():
    res = ruff('.')
    if res.returncode:
        pytest.fail('\n'.join(res.stdout.split('\n')[-60:]) + res.stderr, pytrace=False)


@pytest.mark.parametrize('code', ['x = 1; y = 2', 'try: pass\nexcept: pass', 'import os',
        'print(unknown)', '#' + ' x'*60])
def test_ruff_finds(tmp_path, code):
    (tmp_path/'a.py').write_text(code + '\n')
    assert ruff('--config', ROOT/'ruff.toml', tmp_path/'a.py').returncode == 1
