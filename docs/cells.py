"""What a page says about single cells: the label of a folded one, and the sentence that stands
for a figure."""
import re

_imports = re.compile(r'((from|import)\b.*|with warnings.*|    .*|if '
    r'TYPE_CHECKING:|\)|\s*)(\n((from|import)\b.*|    .*|if TYPE_CHECKING:|\)|\s*))*')
_caption = re.compile(r'\A\s*\*(?!\*)(Figure\b[^\n]*?)\*\s*(?:\n\s*\n|\Z)', re.S)


def name_of(source):
    "What a cell of library code defines: the names at its margin, the first three of them"
    found = re.findall(r'^(?:(?:async )?def|class) (\w+)|^(\w+)\s*(?::[^=]+)?= ', source, re.M)
    names = list(dict.fromkeys(a or b for a, b in found))
    return ', '.join(names[:3]) + (' ...' if len(names) > 3 else '') if names else 'imports'


def fold(directives, source):
    "(tag, label) of a cell that a page shows folded, or None"
    n = sum(1 for l in source.split('\n') if l.strip())
    lines = f'{n} line' + 's'*(n != 1)
    if {'export', 'exporti'} & directives.keys():
        return 'hide-input', f'Library code: {name_of(source)}, {lines}'
    if 'hide' in directives or directives.get('include:') == ['false']:
        checks = re.search(r'^\s*(assert\b|test_\w+\()', source, re.M)
        return 'hide-cell', f'{"Check" if checks else "Set-up"}, {lines}'
    if 'hide_input' in directives or directives.get('echo:') == ['false']:
        return 'hide-input', f'Code, {lines}'
    return ('hide-input', f'Set-up, {lines}') if _imports.fullmatch(source) else None


def sentence(text, which=-1):
    """The last sentence of Markdown `text`, without its marks: what stands in for a figure that
    follows it; of a caption it is the first, `which=0`"""
    text = re.sub(r'^(```|~~~).*?^\1[^\n]*$', '', text, flags=re.M | re.S)
    text = re.sub(r'<[^>]+>|^\s*\|.*$|^#+ .*$', '', text, flags=re.M)
    text = re.sub(r'!?\[([^][]*)\]\([^()]*\)', r'\1', text)
    words = ' '.join(re.sub(r'[*`>]|\$', '', text).split())
    found = [s for s in re.split(r'(?<=[.!?:])\s+(?=[^a-z])', words) if len(s.split()) > 2]
    if not found: return ''
    return found[which].rstrip(':') + ('.' if found[which][-1] not in '.!?' else '')


def unquoted(text):
    "`text` without the quotes that a directive may have around all of it"
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in '\'"' else text


def describe(cells, title):
    """Every figure among the outputs gets a caption where one is written, and a sentence as its
    alternative text"""
    before = title
    for c, after in zip(cells, [*cells[1:], None]):
        if c['cell_type'] == 'markdown': before = sentence(c['source']) or before
        figures = [o for o in c.get('outputs', [])
            if any(k.startswith('image/') for k in o.get('data', {}))]
        if not figures: continue
        said = {k: ' '.join(v) for k, v in c.get('directives_', {}).items()}
        below = _caption.match(after['source']) if after is not None and after[
            'cell_type'] == 'markdown' else None
        caption = said.get('fig-cap:') or (below and below[1])
        meta = c['metadata'].setdefault('mystnb', {})
        # a page repeats the caption of a cell below each of its outputs: where there are several,
        # it stays the text that it is
        if caption and sum('data' in o for o in c['outputs']) == 1:
            if below and 'fig-cap:' not in said: after['source'] = after['source'][below.end():]
            meta['figure'] = dict(caption=unquoted(caption))
        alt = said.get('fig-alt:') or re.sub(r'^Figure\b[^:.]*[:.]\s*', '',
            sentence(caption or '', 0)) or before
        meta['image'] = dict(alt=unquoted(alt[:1].upper() + alt[1:]))
