"""readme.py [--check]: write README.md and its figures from nbs/index.ipynb; --check compares
instead.

Text cells are taken as they are, with relative links and pictures rewritten to hold from the
root of the repository; code cells become Python blocks, their text output plain blocks, their
figures files images/index_N.png."""
import argparse, base64, difflib, json, posixpath, re, sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOTE = ('<!-- Generated from nbs/index.ipynb by tools/readme.py. Edit the notebook, then run `make '
    'prepare`. -->')
SITE = '<!-- site -->'  # begins a text about what moves on a page
FIGURE = 'images/index_{}.png'
_fence = re.compile(r'^(```|~~~).*?^\1[^\S\n]*$|`[^`\n]+`', re.M | re.S)
_link = re.compile(r'(!?\[(?:[^][]|\[[^][]*\](?:\([^()]*\))?)*\])\(\s*<?([^()\s>]+)>?([^()]*)\)')
_ansi = re.compile(r'\x1b\[[0-9;]*[a-zA-Z]')

def text_of(o): return o if isinstance(o, str) else ''.join(o)

def move_link(target, folder='nbs'):
    """`target`, relative to `folder`, as seen from the root; addresses, anchors and absolute
    paths stay"""
    if re.match(r'[a-zA-Z][a-zA-Z0-9+.-]*:|#|/', target): return target
    return posixpath.normpath(posixpath.join(folder, target))

def move_links(text):
    "Markdown `text` with its relative links moved; code is left alone"
    def sub(m): return f'{move_links(m[1])}({move_link(m[2])}{m[3]})'
    def outside(s):
        return re.sub(r'^(\[[^]]+\]:\s*)(\S+)', lambda m: m[1] + move_link(m[2]), _link.sub(sub, s),
            flags=re.M)
    parts, at = [], 0
    for m in _fence.finditer(text):
        parts += [outside(text[at:m.start()]), m[0]]
        at = m.end()
    return ''.join([*parts, outside(text[at:])])

def block(text, lang=''):
    "A fenced block, with a fence longer than any inside"
    fence = '`'*max(3, 1 + max(map(len, re.findall('`+', text)), default=0))
    return f'{fence}{lang}\n{text.rstrip()}\n{fence}'

def directives(source):
    return {m[1] for m in re.finditer(r'^#\|\s*([\w-]+(?:: *\w+)?)', source, re.M)}

def code_cell(cell, figures, alt=''):
    """Parts of the README for one code cell; its figures are appended to `figures`, and `alt` says
    what they show"""
    source = text_of(cell['source'])
    flags, parts = directives(source), []
    source = '\n'.join(l for l in source.split('\n') if not l.startswith('#|')).strip()
    if {'hide', 'include: false', 'site'} & flags: return []  # site: for a page that can move
    if source and 'echo: false' not in flags: parts.append(block(source, 'python'))
    for o in cell['outputs']:
        data = o.get('data', {})
        if o['output_type'] == 'stream' and o['name'] == 'stdout':
            parts.append(block(_ansi.sub('', text_of(o['text']))))
        elif 'image/png' in data:
            figures.append(base64.b64decode(text_of(data['image/png'])))
            said = alt or f'figure {len(figures)}'
            parts.append(f'![{said}]({FIGURE.format(len(figures))})')
        elif 'text/markdown' in data:
            parts.append(move_links(text_of(data['text/markdown'])).strip())
        elif 'text/plain' in data: parts.append(block(_ansi.sub('', text_of(data['text/plain']))))
    return parts

def readme(nb):
    "(text, figures as bytes) of the README for notebook `nb`"
    parts, figures = [NOTE], []
    for cell, below in zip(nb['cells'], [*nb['cells'][1:], {}]):
        text = text_of(cell['source'])
        if cell['cell_type'] == 'markdown' and not text.startswith(SITE):
            parts.append(move_links(text).strip())
        elif cell['cell_type'] == 'code':
            caption = re.match(r'\*Figure: (.+?)\*', text_of(below.get('source', '')))
            parts += code_cell(cell, figures, caption[1][:1].upper() + caption[1][1:] if caption
                else '')
    return '\n\n'.join(p for p in parts if p) + '\n', figures

def files(root):
    "{path: bytes} of what belongs in `root`, and {path: bytes} of what is there"
    source = root/'nbs'/'index.ipynb'
    if not source.exists():
        sys.exit(f'{source.relative_to(root)} is missing: README.md is generated from it')
    text, figures = readme(json.loads(source.read_text(encoding='utf-8')))
    want = {'README.md': text.encode(), **{FIGURE.format(i): f for i,f in enumerate(figures, 1)}}
    names = {'README.md', *(p.relative_to(root).as_posix() for p in root.glob(FIGURE.format('*')))}
    return want, {f: (root/f).read_bytes() for f in names if (root/f).exists()}

def check(want, have):
    "The differences, as lines"
    def word(f):
        if f not in want: return "is not needed any more"
        return "differs" if f in have else "missing"
    lines = [f'{f}: {word(f)}'
             for f in sorted(want.keys() | have.keys()) if want.get(f) != have.get(f)]
    old, new = (o.get('README.md', b'').decode().split('\n') for o in (have, want))
    return lines + list(difflib.unified_diff(old, new, 'README.md', 'from nbs/index.ipynb',
            lineterm=''))

def main(root=ROOT):
    ap = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    ap.add_argument('--check', action='store_true', help='change nothing; exit code 1 and a diff '
        'when out of step')
    args = ap.parse_args()
    want, have = files(root)
    if args.check:
        lines = check(want, have)
        if lines:
            sys.exit('\n'.join([*lines, 'README.md is out of step with nbs/index.ipynb: run `make '
                        'prepare`']))
        return
    for f in have.keys() - want.keys(): (root/f).unlink()
    for f,data in want.items():
        (root/f).parent.mkdir(exist_ok=True)
        (root/f).write_bytes(data)

if __name__ == '__main__': main()
