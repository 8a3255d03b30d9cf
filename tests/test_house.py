"""The house rules: what every notebook, the library and the repository keep to. Each rule is a
function that returns its
findings, and is itself tested on a case that breaks it, so that no rule passes by finding
nothing."""
import ast, csv, json, os, re, statistics, subprocess, sys
from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT/'tools'))
import front

# Imports run downward: a module imports from those before it, and from its own row only what is
# said below.
LAYERS = [['errors'], ['files'], ['fastai_names', 'late_compiler'], ['apart'], ['processes'],
    ['pass_memory'],
    ['reading.failures', 'reading.orientation', 'reading.placement', 'reading.dicom',
        'reading.nifti', 'reading.tiff', 'reading.stored', 'reading.pixels', 'reading.facts',
        'reading.volumes', 'reading'],
    ['masks.channels', 'masks.arrays', 'masks.colours', 'masks.mask', 'masks.maps',
        'masks.listing',
        'masks.folder', 'masks.likeness', 'masks.seen',
        'masks.recode', 'masks.problems', 'masks.pictures', 'masks.mappings', 'masks.palettes',
        'masks.check', 'masks'], ['convolution'], ['upsampling', 'skip_connections'], ['imbalance'],
    ['augmentation.moves', 'augmentation.elastic', 'augmentation.alignment',
        'augmentation.albumentations_bridge', 'augmentation'],
    ['receptive_field.boxes', 'receptive_field.taps', 'receptive_field.maps',
        'receptive_field.channels', 'receptive_field.rules_places', 'receptive_field.rules_values',
        'receptive_field.rules', 'receptive_field.elements', 'receptive_field.element_moves',
        'receptive_field.element_sums', 'receptive_field.traceable', 'receptive_field.recorder',
        'receptive_field.answers', 'receptive_field.gradients', 'receptive_field.field',
        'receptive_field'], ['drawing.canvas', 'drawing.street', 'drawing.folder', 'drawing.scenes',
        'drawing.films', 'drawing.cells', 'drawing.dyes', 'drawing'], ['weights'],
    ['encoder_sizes'], ['encoders'],
    ['architectures.blocks'], ['architectures'],
    ['data.images', 'data.sources', 'data.transfer', 'data.archives', 'data.download',
        'data.regions', 'data.polygons', 'data.run_lengths', 'data.annotation_files',
        'data.import_report', 'data.painting', 'data.coco', 'data.labelme', 'data.annotations',
        'data.checks', 'data.folds', 'data.kept_items', 'data.kept', 'data.instances', 'data.items',
        'data.batches', 'data.loaders', 'data'],
    ['losses.base', 'losses.pixels', 'losses.overlap', 'losses.borders', 'losses.maps', 'losses'],
    ['metrics.counting', 'metrics.confusion', 'metrics.maps', 'metrics.distances',
        'metrics.boundaries', 'metrics.training', 'metrics.instances', 'metrics'],
    ['sharing'], ['segmenter_check'],
    ['objects.separation', 'objects.outlines', 'objects.table', 'objects.geojson', 'objects.coco',
        'objects'], ['models'], ['strips'], ['tiles'], ['windows', 'looks'],
    ['mask_streams', 'thresholds', 'crf_refinement'], ['model_facts'], ['model_files'],
    ['onnx_files', 'model_card'],
    ['accumulation', 'averaging', 'compiling', 'precision'],
    ['callbacks', 'learner_batches', 'learner_maps', 'learner_checks', 'optimiser', 'contract',
        'things', 'run_identity'],
    ['training'], ['planning.fingerprint', 'planning.recipes', 'planning.cost', 'planning.choices',
        'planning.patches', 'planning.rules', 'planning.plan', 'planning'], ['learner'],
    ['image_tensors'], ['inference'],
    ['predicted_things'],
    ['ensembles'], ['certainty'],
    ['image_counts', 'judged_images', 'confusion_figure', 'runs_figure'],
    ['calibration', 'intervals', 'disagreement'], ['results'], ['interpretation', 'export'],
    ['demo'],
    ['report_page', 'report'], ['judging'],
    ['exercises'], ['widgets.sheet', 'widgets.masks', 'widgets.convolution',
        'widgets.receptive_field', 'widgets.upsampling', 'widgets.losses', 'widgets.metrics',
        'widgets.prediction',
        'widgets'], ['cli.arguments', 'cli.terminal', 'cli.run_data', 'cli.run_folder',
        'cli.report', 'cli.run_results', 'cli.planning', 'cli.plan', 'cli.objects', 'cli.answers',
        'cli.predict', 'cli.check', 'cli.export', 'cli.team', 'cli.folds', 'cli.train', 'cli'],
    ['tasks']]
GENERATED = {'__init__', '_modidx', 'all'}
HEAVY = {'torch', 'torchvision', 'fastai', 'matplotlib', 'scipy', 'skimage', 'pandas', 'timm',
    'ipywidgets'}
SECTIONS = ['Summary', 'Questions', 'Further reading']
MAX_LINES, MEDIAN_LINES, MAX_BYTES = 40, 10, 1_000_000

# ---- what there is

def project_files():
    """Files that git tracks or would track; without git, everything outside hidden and generated
    folders"""
    res = subprocess.run(['git', 'ls-files', '-co', '--exclude-standard', '-z'], cwd=ROOT,
        capture_output=True, text=True)
    if res.returncode == 0: files = [f for f in res.stdout.split('\0') if f]
    else:
        skip = re.compile(r'(^|/)(\.(?!ci/|github/|gitignore$)[^/]+|__pycache__|[^/]*egg-info|build'
            r'|dist|runs|_proc|_docs|node_modules)(/|$)')
        files = [f for f in (p.relative_to(ROOT).as_posix() for p in ROOT.rglob('*'))
            if not skip.search(f)]
    return sorted(f for f in files if (ROOT/f).is_file())

FILES = project_files()
NOTEBOOKS = [f for f in FILES if f.startswith('nbs/') and f.endswith('.ipynb')]
# the exercises of the chapters, with their solutions
TASKS = [f for f in NOTEBOOKS if f.startswith('nbs/tasks/')]
# the engine, one notebook a module
WORKSHOP = [f for f in NOTEBOOKS if f.startswith('nbs/workshop/')]
COURSE = [f for f in NOTEBOOKS if f not in TASKS]
CHAPTERS = [f for f in COURSE if f not in WORKSHOP and f != 'nbs/index.ipynb']
MODULES = {f[len('segbook/'):-3].replace('/', '.'): f for f in FILES if f.startswith('segbook/')
    and f.endswith('.py')}

def text_of(o): return o if isinstance(o, str) else ''.join(o)
def load(name): return json.loads((ROOT/name).read_text(encoding='utf-8'))
def cells(nb, kind): return [text_of(c['source']) for c in nb['cells'] if c['cell_type'] == kind]

def outputs(nb):
    "Every output of every code cell"
    return [o for c in nb['cells'] if c['cell_type'] == 'code' for o in c.get('outputs', [])]

def texts(name):
    "What a reader or a program sees in file `name`: all of it, in a notebook without pictures"
    if not name.endswith('.ipynb'):
        try: return [(ROOT/name).read_text(encoding='utf-8')]
        except UnicodeDecodeError: return []
    nb = load(name)
    shown = [text_of(v) for o in outputs(nb) for k,v in o.get('data', {}).items()
        if not k.startswith('image/') and not isinstance(v, dict)]
    shown += [text_of(o['text']) for o in outputs(nb)
        if 'text' in o] + ['\n'.join(o.get('traceback', [])) for o in outputs(nb)]
    return [text_of(c['source']) for c in nb['cells']] + shown

def prose(name):
    "The Markdown of file `name`, without code blocks"
    parts = cells(load(name), 'markdown') if name.endswith('.ipynb') else texts(name)
    return [re.sub(r'^(```|~~~).*?^\1', '', p, flags=re.M | re.S) for p in parts]

def one_line(s): return ' '.join(s.split())[:90]

def none(found, rule=''):
    "Fail with the findings, one a line, and nothing else"
    if found: pytest.fail('\n  '.join([rule, *map(str, found)]), pytrace=False)

# ---- rules on a notebook

def long_cells(nb):
    "Code cells above 40 lines, blank ones and directives counted"
    n = [(len(s.split('\n')), s.split('\n')) for s in cells(nb, 'code')]
    return [f'a code cell of {o} lines (at most {MAX_LINES}), split it: '
        f'{next((l for l in ls if l and l[0] != "#"), "")}' for o,ls in n if o > MAX_LINES]

def code_lines(source):
    return sum(1 for l in source.split('\n') if l.strip() and not l.startswith('#|'))

def stored_errors(nb):
    return [f'a stored error: {o["ename"]}: {one_line(o["evalue"])}' for o in outputs(nb)
        if o['output_type'] == 'error']

def saved_widgets(nb):
    found = ['saved widget state in the metadata'] if 'widgets' in nb['metadata'] else []
    return found + ['a saved widget view' for o in outputs(nb)
        if 'application/vnd.jupyter.widget-view+json' in o.get('data', {})]

def doubled_ids(nb):
    ids = [c.get('id') for c in nb['cells']]
    return [f'cell id {o} occurs {ids.count(o)} times'
        for o in sorted({i for i in ids if ids.count(i) > 1 or i is None}, key=str)]

def missing_sections(nb):
    "The headings that end a chapter, in their order"
    heads = [m[1].strip() for s in cells(nb, 'markdown')
        for m in re.finditer(r'^##\s+(.+)$', s, re.M)]
    found = [f'no heading "## {o}"' for o in SECTIONS if o not in heads]
    at = [heads.index(o) for o in SECTIONS if o in heads]
    return found or ([] if at == sorted(at)
        else [f'the closing headings are out of order: {", ".join(heads)}'])

def empty_tests(nb):
    "`test_fail` of a lambda that takes an argument never calls it, so it passes whatever happens"
    return [f'this always passes: {one_line(m[0])}' for s in cells(nb, 'code')
        for m in re.finditer(r'test_fail\(\s*lambda\s+\w.*', s)]

NOTEBOOK_RULES = [long_cells, stored_errors, saved_widgets, doubled_ids, empty_tests]

@pytest.mark.parametrize('name', NOTEBOOKS)
@pytest.mark.parametrize('rule', NOTEBOOK_RULES, ids=lambda o: o.__name__)
def test_notebook(name, rule): none(rule(load(name)))

@pytest.mark.parametrize('name', CHAPTERS)
def test_chapter_ends_well(name): none(missing_sections(load(name)))

@pytest.mark.parametrize('name', NOTEBOOKS)
def test_notebook_is_small(name):
    size = (ROOT/name).stat().st_size
    if size >= MAX_BYTES:
        none([f'{size:,} bytes with its outputs, {MAX_BYTES:,} are too many: draw smaller figures, '
                'or fewer'])

def test_cells_are_small():
    n = [code_lines(s) for name in COURSE for s in cells(load(name), 'code') if s.strip()]
    assert statistics.median(
        n) <= MEDIAN_LINES, f'median of {statistics.median(n)} lines of code a cell over the course'

def test_notebooks_are_there(): assert NOTEBOOKS and len(CHAPTERS) >= 1

@pytest.mark.parametrize('name', COURSE)
def test_first_cell_installs(name):
    first = cells(load(name), 'code')[0]
    assert first == front.first_cell(settings()), 'run `make prepare`'
    assert f"git+{settings()['git_url']}'" in first and 'raise ImportError' in first

def unfolded(nb):
    "Questions whose answer is not folded away right below them"
    text = '\n\n'.join(cells(nb, 'markdown')) + '\n## '
    part = (re.search(r'^## Questions\n(.*?)^## ', text, re.M | re.S) or [text, ''])[1]
    asked = re.split(r'^(?=\*\*\d+\. )', part, flags=re.M)[1:]
    bad = [one_line(q) for q in asked if not re.search(
            r'\*\*\n\n<details><summary>Answer</summary>\n\n.+?\n\n</details>\s*$', q, re.S)]
    return bad + ([] if len(asked) >= 3 else [f'{len(asked)} questions (at least 3)'])

@pytest.mark.parametrize('name', CHAPTERS)
def test_answers_are_folded(name): none(unfolded(load(name)))

folded = '## Questions\n\n' + '\n\n'.join(
    f'**{i}. Why?**\n\n<details><summary>Answer</summary>\n\nSo.\n\n</details>' for i in (1, 2, 3))

def notebook(*sources, outputs=(), kind='code'):
    "A notebook for the tests of the rules"
    return dict(metadata={}, cells=[dict(cell_type=kind, id=f'c{i}', source=s,
                outputs=list(outputs)) for i,s in enumerate(sources)])

error = dict(output_type='error', ename='ValueError', evalue='no', traceback=[])
widget = dict(output_type='display_data', data={'application/vnd.jupyter.widget-view+json': {}})
ending = '\n\n'.join(f'## {o}' for o in SECTIONS)

@pytest.mark.parametrize('rule,nb,n', [(long_cells, notebook(*['x']*9, '\n'.join('x'*40)), 0),
        (long_cells, notebook(*['x']*9, '\n'.join('x'*41)), 1),
        (stored_errors, notebook('x', outputs=[error]), 1), (stored_errors, notebook('x'), 0),
        (saved_widgets, notebook('x', outputs=[widget]), 1), (saved_widgets, notebook('x'), 0),
        (doubled_ids, dict(cells=[dict(id='a'), dict(id='a'), dict(id='b'), {}]), 2),
        (doubled_ids, notebook('x', 'y'), 0),
        (empty_tests, notebook('test_fail' + '(lambda x: f(x))'), 1),
        (empty_tests, notebook('test_fail(lambda: f(1), contains="no")'), 0),
        (unfolded, notebook(folded, '## Next', kind='markdown'), 0),
        (unfolded, notebook(folded.replace('</details>', '', 1), kind='markdown'), 1),
        (unfolded, notebook('## Questions\n\n1. Why?', kind='markdown'), 1),
        (missing_sections, notebook(ending, kind='markdown'), 0),
        (missing_sections, notebook('## Summary', kind='markdown'), 2),
        (missing_sections, notebook('## Questions\n\n## Summary\n\n## Further reading',
            kind='markdown'), 1)])
def test_notebook_rules_find(rule, nb, n): assert len(rule(nb)) == n

# ---- rules on text

def foreign_pictures(text):
    "Pictures that another site would have to deliver"
    foreign = (r'!\[[^]]*\]\(\s*<?(?:https?:)?//[^)]*\)|<img\b[^>]*(?:https?:)?//[^>]*>'
        r'|^\[[^]]+\]:\s*https?:\S+\.(?:png|jpe?g|gif|svg|webp)\b')
    return [one_line(m[0]) for m in re.finditer(foreign, text, re.M)]

def not_plain(text):
    "Divs of other dialects, and HTML but for an answer that is folded away"
    text = re.sub(r'^(<details><summary>Answer</summary>|</details>)$', '', text, flags=re.M)
    html = (r'^\s*:::.*|</?(?:div|span|img|details|summary|table|tr|td|br|center|iframe|p|font'
        r'|script|style)\b[^>]*>')
    return [one_line(m[0]) for m in re.finditer(html, text, re.M)]

# spelt in pieces, so that this file keeps its own rule
_roots = '|'.join(['root', 'home', 'work', 'tmp', 'Users', 'opt', 'mnt', 'private', 'scratch',
        'var/folders'])
_hosts = '|'.join(re.escape(a+b) for a,b in [('py', 'pi.org'), ('py', 'pi.python.org'),
        ('python', 'hosted.org'), ('anaconda', '.org'), ('anaconda', '.com'), ('npm', 'js.org'),
        ('npm', 'js.com'), ('pytorch', '.org/whl')])
_machine = re.compile(
    rf'(?<![\w.:/}}*~-])/(?:{_roots})/\w[^\s"\'`)]*|\b[A-Z]:\\+Users\\+\w+|(?:{_hosts})')

def machine_names(text):
    "Paths of one machine, and hosts of package indexes"
    return [one_line(m[0]) for m in _machine.finditer(text)]

def no_alt(text): return [one_line(m[0]) for m in re.finditer(r'!\[\s*\]\([^)]*\)', text)]

PROSE = NOTEBOOKS + [f for f in FILES if f.endswith('.md')]

@pytest.mark.parametrize('name', PROSE)
def test_no_picture_from_another_site(name):
    none([o for t in prose(name) for o in foreign_pictures(t)])

@pytest.mark.parametrize('name', PROSE)
def test_pictures_have_a_text(name):
    none([o for t in prose(name) for o in no_alt(t)], 'write what the picture says between the '
        'brackets')

@pytest.mark.parametrize('name', PROSE)
def test_plain_markdown(name):
    none([o for t in prose(name) for o in not_plain(re.sub(r'`[^`\n]*`|<!--.*?-->', '', t,
                flags=re.S))])

def test_no_name_of_a_machine():
    found = [f'{name}: {m}' for name in FILES for t in texts(name) for m in machine_names(t)]
    none(found, 'absolute paths or package indexes: write paths relative to the project, and name '
        'no index')

@pytest.mark.parametrize('rule,text,n', [(foreign_pictures, '![a](https://x.org/a.png) '
            '![b](images/b.png) [c](https://x.org/c.png)', 1),
        (foreign_pictures, '<img width="3" src="https://x.org/a.png">', 1),
        (foreign_pictures, '[a]: https://x.org/a.png', 1),
        (not_plain, '::: {.callout}\ntext\n:::', 2),
        (not_plain, '<details><summary>Answer</summary>\n\nSo.\n\n</details>', 0),
        (not_plain, '<details open>', 1), (no_alt, '![](a.png) ![ ](b.png) ![a street](c.png)', 2),
        (not_plain, 'a <br> b, x < p and y > q', 1), (not_plain, '> **Predict.** a::b', 0),
        (machine_names, 'open /' + 'root/x/a.txt', 1), (machine_names, '"/' + 'home/me/a"', 1),
        (machine_names, '"C:' + '\\Users\\me"', 1),
        (machine_names, 'https://x.org/home/a nbs/work/a ../tmp/a ~/work/a', 0),
        (machine_names, 'https://' + 'py' + 'pi.org/simple', 1)])
def test_text_rules_find(rule, text, n): assert len(rule(text)) == n

# ---- links

def dead_links(name):
    "Relative links and pictures of `name` that lead nowhere"
    found, here = [], (ROOT/name).parent
    for t in prose(name):
        for m in re.finditer(r'\]\(\s*<?([^()\s>]+)>?[^()]*\)',
                re.sub(r'`[^`\n]*`|\$[^$]*\$', '', t)):
            target = m[1].split('#')[0]
            if re.match(r'[a-zA-Z][\w+.-]*:', target) or not target: continue
            if not (here/target).exists(): found.append(m[1])
    return found

@pytest.mark.parametrize('name', PROSE)
def test_links_lead_somewhere(name): none(dead_links(name), 'nothing is there:')

# ---- rules on the library

def is_type_checking(node):
    return isinstance(node, ast.If) and 'TYPE_CHECKING' in ast.dump(node.test)

def walk(node):
    "Nodes of `node`, without what stands under TYPE_CHECKING"
    for child in ast.iter_child_nodes(node):
        if is_type_checking(child): continue
        yield child
        yield from walk(child)

def top(name): return name.split('.')[0]

def own_imports(source, module, package=False):
    "The modules of segbook, dotted, that `source`, the text of segbook.`module`, imports anywhere"
    found = set()
    here = ['segbook', *module.split('.')]
    for o in walk(ast.parse(source)):
        if isinstance(o, ast.Import):
            found |= {a.name[len('segbook.'):] for a in o.names if a.name.startswith('segbook.')}
        elif isinstance(o, ast.ImportFrom):
            base = here[:len(here) - o.level + package] if o.level else []
            full = '.'.join([*base, *([o.module] if o.module else [])])
            if full == 'segbook': found |= {a.name for a in o.names if rank(a.name) is not None}
            elif full.startswith('segbook.'): found.add(full[len('segbook.'):])
    return found - {module}


ORDER = [m for row in LAYERS for m in row]


def rank(module):
    "The place of a module in LAYERS, or of the package that holds it"
    parts = module.split('.')
    names = ['.'.join(parts[:i]) for i in range(len(parts), 0, -1)]
    return next((ORDER.index(n) for n in names if n in ORDER), None)


def upward_imports(sources):
    "What runs upward in `sources` {module: text}, and modules that have no place"
    found = []
    for m, text in sources.items():
        package = m.endswith('.__init__')
        name = m.removesuffix('.__init__')
        if m in GENERATED: continue
        if name in ('', '__init__'): continue
        if rank(name) is None: found.append(f'{name} stands in no layer: add it to LAYERS')
        for o in sorted(own_imports(text, name, package)):
            if rank(name) is None or rank(o) is not None and rank(o) <= rank(name): continue
            found.append(f'{name} imports {o}')
    return found


def circular_imports(sources):
    "Modules that import each other, by whatever way round"
    direct = {m.removesuffix('.__init__'): own_imports(t, m.removesuffix('.__init__'),
            m.endswith('.__init__')) for m, t in sources.items() if m not in GENERATED}
    def reach(m, seen=()):
        for o in direct.get(m, ()):
            if o not in seen: seen = reach(o, (*seen, o))
        return seen
    return [m for m in direct if m in reach(m)]


def heavy_imports(source):
    "Large libraries imported at the top level of `source`"
    found = set()
    for o in ast.parse(source).body:
        if isinstance(o, ast.Import): found |= {top(a.name) for a in o.names}
        elif isinstance(o, ast.ImportFrom) and not o.level: found.add(top(o.module))
    return sorted(found & HEAVY)

def library(): return {m: (ROOT/f).read_text(encoding='utf-8') for m,f in MODULES.items()}

def test_imports_run_downward(): none(upward_imports(library()))
def test_no_circle_of_imports(): none(circular_imports(library()), 'these import each other:')
def test_masks_imports_nothing_heavy():
    rooms = {m: t for m, t in library().items() if m.split('.')[0] in ('masks', 'errors', 'files')}
    none([f'{m}: {o}' for m, t in rooms.items() for o in heavy_imports(t)],
        'import these inside the functions that use them:')

@pytest.mark.parametrize('module', sorted(m for m in MODULES if m.split('.')[-1] not in GENERATED))
def test_module_has_its_notebook(module):
    text = (ROOT/MODULES[module]).read_text(encoding='utf-8')
    source = re.search(r'^# AUTOGENERATED! DO NOT EDIT! File to edit: (\S+?\.ipynb)', text, re.M)
    file = MODULES[module]
    assert source, f'{file} was not written by nbdev_export: move its code into a notebook'
    there = ((ROOT/file).parent/source[1]).resolve().exists()
    assert there, f'{file} comes from {source[1]}, which is gone: remove the module'

def test_importing_the_package_does_nothing():
    body = [o for o in ast.parse(library()['__init__']).body if not isinstance(o, ast.Expr)]
    assert [type(o).__name__ for o in body] == [
        'Assign'], 'segbook/__init__.py holds the version and nothing else'

@pytest.mark.parametrize('text,n', [('from .masks import *', 0),
        ('from .learner import seg_learner', 1), ('def f():\n    from segbook.cli import main', 1),
        ('import segbook.widgets', 1), ('from segbook import learner', 1),
        ('from . import learner, masks', 1), ('import torch', 0), ('from . import __version__', 0),
        ('from typing import TYPE_CHECKING\nif TYPE_CHECKING: from .learner import seg_learner', 0),
        ('from .nowhere import x', 1)])
def test_import_rule_finds(text, n): assert len(upward_imports({'data': text})) == n

def test_other_import_rules_find():
    assert upward_imports({'strange': ''}) and not upward_imports({'models.unet': 'from ..masks '
            'import to_mask'})
    assert circular_imports({'losses': 'from .metrics import x', 'metrics': 'from .losses import y',
            'data': ''}) == ['losses', 'metrics']
    assert heavy_imports(
        'import torch.nn as nn\nfrom scipy import ndimage\ndef f(): import fastai') == ['scipy',
        'torch']

# ---- rules on the repository

DATA = {'.pth', '.pt', '.pkl', '.pickle', '.safetensors', '.onnx', '.npz', '.npy', '.h5', '.hdf5',
    '.zip', '.tgz', '.gz', '.tar', '.tif', '.tiff', '.jpg', '.jpeg', '.bmp', '.whl', '.parquet',
    '.bin'}

def data_files(names):
    """Trained models, archives and images of data sets; drawn figures are PNG or SVG and stand
    in images/ or docs/"""
    pictures = {'.png', '.gif', '.svg', '.webp'}
    return [f for f in names if Path(f).suffix.lower() in DATA
        or (Path(f).suffix.lower() in pictures and not f.startswith(('images/', 'docs/')))]

def test_no_data_is_tracked():
    none(data_files(FILES), 'no trained models, archives or images of data sets in the repository:')
    none([f for f in FILES if (ROOT/f).stat().st_size > MAX_BYTES and f not in NOTEBOOKS],
        'no file above 1 MB:')

def test_data_rule_finds():
    assert data_files(['runs/model.safetensors', 'nbs/a.png', 'images/a.png', 'x/b.JPG',
            'bench/a.csv']) == ['runs/model.safetensors', 'nbs/a.png', 'x/b.JPG']

def settings():
    cfg = ConfigParser(delimiters=['='])
    cfg.read(ROOT/'settings.ini', encoding='utf-8')
    return cfg['DEFAULT']

def loose(requirements):
    "Requirements without a floor, or pinned to one version"
    return [r for r in requirements if '>=' not in r or '==' in r or '~=' in r]

def test_requirements_are_ranges():
    found = [f'{k}: {o}' for k,v in settings().items() if k.endswith('requirements')
        for o in loose(v.split())]
    none(found, 'every requirement has a floor (>=) and none is pinned to one version:')

def test_nbdev_is_for_development_only():
    assert not re.search(r'\b(nbdev|execnb|jupyter|fastcore)', settings()['requirements'])

def test_requirement_rule_finds():
    assert loose(['a>=1', 'b', 'c==1.0', 'd<2', 'e>=1,<2', 'f~=1.0']) == ['b', 'c==1.0', 'd<2',
        'f~=1.0']

def test_version_is_one(): assert f'"{settings()["version"]}"' in library()['__init__']

@pytest.mark.parametrize('name', ['LICENSE', 'README.md', 'CONTRIBUTING.md', 'CHANGELOG.md',
        'pyproject.toml', 'settings.ini'])
def test_the_file_is_there(name): assert name in FILES and (ROOT/name).stat().st_size > 0

@pytest.mark.parametrize('name', ['.ci/run'])
def test_is_executable(name): assert os.access(ROOT/name, os.X_OK)

# ---- coverage: where each topic of the course is taught

def coverage():
    return list(csv.DictReader((ROOT/'nbs'/'coverage.csv').read_text(
                encoding='utf-8').splitlines()))

def headings(nb):
    return {m[1].strip() for s in cells(nb, 'markdown')
        for m in re.finditer(r'^#{1,6}\s+(.+)$',
            re.sub(r'^(```|~~~).*?^\1', '', s, flags=re.M | re.S), re.M)}

@pytest.mark.parametrize('row', coverage(), ids=lambda r: f'{r["id"]}-{r["notebook"]}')
def test_topic_is_taught(row):
    assert re.fullmatch(r'[A-Z]\d+', row['id']) and (ROOT/'nbs'/row['notebook']).exists(), row
    assert row['heading'] in headings(load(
            f'nbs/{row["notebook"]}')), f'{row["notebook"]} has no heading "{row["heading"]}"'

def test_coverage_has_no_row_twice():
    assert len({tuple(r.values()) for r in coverage()}) == len(coverage()) > 20
