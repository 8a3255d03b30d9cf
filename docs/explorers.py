"""Explorers on a page without a kernel: `states(nb)` takes their stored state out of an executed
notebook, `put` places them.

Each stands as an element that docs/static/segbook-live.js fills when it is scrolled to. Until
then, and where that fails, a reader sees its still figure, where the cell has one, and a link
to Colab."""
import ast
import html
import json
import re

from nbdev.config import get_config

STATE, VIEW = (f'application/vnd.jupyter.widget-{o}+json' for o in ('state', 'view'))


def shows_explorer(source):
    "Does the code cell end on an explorer, or display one? Its still figure, `draw_...`, is none."
    try:
        body = ast.parse('\n'.join(l for l in source.split('\n')
                if not l.startswith(('%', '!')))).body
    except SyntaxError: return False
    explorer = r'^(?!draw_)\w*_explorer$|^figure_slider$'
    def makes(node):
        return isinstance(node, ast.Call) and re.search(explorer, called(node))
    def called(node): return getattr(node.func, 'id', getattr(node.func, 'attr', ''))
    last = body[-1].value if body and isinstance(body[-1], ast.Expr) else None
    displayed = [a for n in ast.walk(ast.Module(body, [])) if isinstance(n, ast.Call)
        and called(n) == 'display' for a in n.args]
    return any(makes(o) for o in [last, *displayed])


def states(nb):
    "{model: state} of the widgets of the notebook `nb`, which keeps none of them"
    return nb['metadata'].pop('widgets', {}).get(STATE, {}).get('state', {})


def named(widget, models, found=None):
    "The models that `widget` consists of"
    found = found or {}
    if widget in models and widget not in found:
        found[widget] = models[widget]
        for ref in re.findall(r'IPY_MODEL_(\w+)', str(models[widget]['state'])):
            found = named(ref, models, found)
    return found


def colab(rel):
    "Where the notebook `rel` opens in Colab"
    cfg = get_config()
    return f'https://colab.research.google.com/github/{cfg.user}/{cfg.repo}/blob/{cfg.branch}/nbs/{rel}'


def has_figure(cell): return any('image/png' in o.get('data', {}) for o in cell.get('outputs', []))


def stand_in(model, where, rel):
    "The HTML of one explorer before it lives"
    figure = f'The figure {where} shows one of its states. ' if where else ''
    return ('<div class="segbook-live" '
        f'data-model="{model}"{" data-still" if where == "below" else ""}><p>This explorer is not '
        f'running on this page. {figure}<a href="{html.escape(colab(rel))}">Open the page in '
        'Colab</a> to move it.</p></div>')


def put(cells, models, rel, strict=False):
    """Explorers as HTML in the outputs of `cells`; the HTML of their state. With `strict` one
    without state is an error"""
    used = {}
    for i, c in enumerate(cells):
        views = [o for o in c.get('outputs', [])
            if o.get('data', {}).get(VIEW, {}).get('model_id') in models]
        if strict and c['cell_type'] == 'code' and not views and shows_explorer(c['source']):
            raise SystemExit(f'{rel}: an explorer without state, its page would be '
                f'dead:\n{c["source"]}')
        outputs = []
        for o in c.get('outputs', []):
            if VIEW not in o.get('data', {}): outputs.append(o)
            if o not in views: continue
            model, still = o['data'][VIEW]['model_id'], {k: v for k, v in o['data'].items()
                if k == 'image/png'}
            near = [j for j in (i+1, i-1, i+2, i-2) if 0 <= j < len(cells) and has_figure(cells[j])]
            where = 'below' if still or has_figure(c) else 'below' if near and near[
                0] > i else 'above' if near else ''
            text = stand_in(model, where, rel)
            # that figure is not its own
            if not still and not has_figure(c): text = text.replace(' data-still', '')
            used |= named(model, models)
            outputs += [dict(output_type='display_data', metadata={}, data={'text/html': text})]
            outputs += [dict(output_type='display_data', metadata={}, data=still)]*bool(still)
        if 'outputs' in c: c['outputs'] = outputs
    used |= {k: m for k, m in models.items() if 'Link' in m['model_name']
             and set(re.findall(r'IPY_MODEL_(\w+)', str(m['state']))) <= used.keys()}
    if not used: return ''
    text = json.dumps(dict(version_major=2, version_minor=0, state=used)).replace('</', '<\\/')
    return f'<script type="{STATE}">\n{text}\n</script>'
