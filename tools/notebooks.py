"What the tools that write into notebooks share"
import json


def text_of(cell):
    return cell['source'] if isinstance(cell['source'], str) else ''.join(cell['source'])


def load(file): return json.loads(file.read_text(encoding='utf-8'))


def save(file, nb):
    "Write a notebook as nbdev and Jupyter do"
    text = json.dumps(nb, indent=1, ensure_ascii=False, sort_keys=True)
    file.write_text(text + '\n', encoding='utf-8')


def course(root, without=('tasks',)):
    "The notebooks of the course under `root`, but those in folders named `without`"
    found = sorted((root/'nbs').rglob('*.ipynb'))
    return [f for f in found
        if not any(p in without or p[0] in '._' for p in f.relative_to(root/'nbs').parts)]


def changed(root, change, write):
    "Names of the notebooks that `change(nb, file)` would change; they are written when `write`"
    found = []
    for file in course(root):
        nb = load(file)
        new = change(nb, file)
        if new == nb: continue
        found.append(file.relative_to(root).as_posix())
        if write: save(file, new)
    return found
