"""The order of the course: `contents(pages)` are its parts, for the front page;
`workshop(pages)` is the engine's own page."""
import re

# the course in its order: a name, and what the paths of its notebooks begin with
PARTS = [('Begin', ['01', 'projects/camvid', '02', '03']),
    ('How a network sees', ['04', '05', '06', '07', r'architectures/\d+[a-z]?_dynamic_unet']),
    ('Learning', ['08', '09', '10', '11', '12']), ('Using it', ['13', '14', '15']),
    ('Architectures', ['architectures/']), ('Projects', ['projects/']),
    ('Tools', ['18', '16', '17'])]


def toc(name, files, hidden=True):
    return '```{toctree}\n' + ':hidden:\n'*hidden + (f':caption: {name}\n' if name
        else '') + '\n' + '\n'.join(files) + '\n```'


def contents(pages):
    """The course in its parts, as tables of contents for the front page; the workshop and the
    library are folded below theirs"""
    left, found = sorted(pages), []
    for name, starts in PARTS:
        files = [p for s in starts for p in left if re.match(s, p)
            and not (p.startswith('workshop/'))]
        left = [p for p in left if p not in files]
        if files: found.append(toc(name, files))
    return '\n\n'.join([*found, toc('Reference', ['workshop/index', 'api/index'])])


def workshop(pages):
    "The page of the workshop: its notebooks, room by room"
    text = ('# Workshop\n\nThe engine of the library, one notebook a module, for those who change '
        'it: why it is so, the hard cases, tests. A reader of the course needs none of it.\n')
    files = sorted((p.removeprefix('workshop/') for p in pages if p.startswith('workshop/')),
        key=lambda p: (p.split('/')[0], p))
    return f'{text}\n{toc("", files, hidden=False)}\n'
