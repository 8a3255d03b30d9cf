"""The installed library in an environment without nbdev: imports, trains two batches, predicts,
saves, reloads.

Run by `make test` and `make latest` with the newest fastai, away from the checkout. Prints
one line a check; exit code 1 when one failed."""
import hashlib, importlib, importlib.util, pkgutil, subprocess, sys, tempfile, time, traceback
from importlib.metadata import version
from pathlib import Path

failed = 0

def digest(mask):
    import numpy as np
    return hashlib.sha256(np.ascontiguousarray(np.asarray(mask),
            dtype=np.int64).tobytes()).hexdigest()

def check(what, f, *args):
    "Print whether `f(*args)` runs through; its result, None when it did not"
    global failed
    began = time.time()
    try: res = f(*args)
    except Exception:
        failed += 1
        print(f'FAILED {what}\n{traceback.format_exc()}', flush=True)
        return None
    print(f'ok     {what} ({time.time()-began:.1f} s)', flush=True)
    return res

def without_nbdev():
    for o in ('nbdev', 'execnb'):
        assert importlib.util.find_spec(o) is None, f'{o} is installed here: remove .venv-latest'

def installed():
    import segbook
    where = Path(segbook.__file__).resolve()
    assert where.is_relative_to(
        Path(sys.prefix).resolve()), f'segbook comes from {where}, not from this environment'
    return segbook

def modules(package):
    return [m.name for m in pkgutil.walk_packages(package.__path__, 'segbook.')
        if not m.name.endswith('._modidx')]

def imported(name):
    "A room that needs an extra says which one, where that is not installed"
    from segbook.errors import SegbookError
    try: return importlib.import_module(name)
    except SegbookError as e:
        assert name == 'segbook.sharing' and "pip install 'segbook[gpus]'" in str(e), e
        assert importlib.util.find_spec('accelerate') is None

def scripts():
    "The JavaScript and the style sheet of the explorers are in the wheel"
    from segbook.widgets.sheet import joined_js, style_sheet
    for name in ('mask', 'convolution', 'receptive_field', 'upsampling', 'loss', 'metric'):
        assert 'export default { render }' in joined_js(f'{name}.js'), name
    assert '.segbook-explorer' in style_sheet()

def train(folder):
    from segbook.data import make_scenes, seg_dataloaders
    from segbook.learner import seg_learner
    path = make_scenes(folder/'scenes', n=10, size=(64, 96), seed=42)
    dls = seg_dataloaders(path, bs=4, num_workers=0)
    learn = seg_learner(dls, encoder='resnet18', pretrained=False)
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-3)
    losses = [float(o) for o in learn.recorder.losses]
    assert len(losses) >= 2 and all(o == o and o < 100
        for o in losses), f'losses of two batches: {losses}'
    return learn, sorted((path/'images').iterdir())[0]

def predict(learn, file):
    from PIL import Image
    from segbook.inference import predict_image
    mask, size = predict_image(learn, file), Image.open(file).size
    assert tuple(mask.shape) == size[::-1], f'mask {tuple(mask.shape)} for an image of {size[::-1]}'
    assert 0 <= int(mask.min()) and int(mask.max()) < len(learn.dls.vocab)
    return mask

def save(learn, folder):
    from segbook.export import save_segmenter
    save_segmenter(learn, folder)
    kinds = {f.suffix for f in folder.rglob('*') if f.is_file()}
    assert '.safetensors' in kinds and '.json' in kinds and not kinds & {'.pkl', '.pth',
        '.pt'}, kinds
    return folder

def predict_saved(folder, file):
    from segbook.export import load_segmenter
    return digest(load_segmenter(folder).predict(file))

def reload(folder, file, mask):
    assert predict_saved(folder, file) == digest(mask), 'the reloaded model predicts another mask'
    cmd = [sys.executable, '-I', __file__, folder, file]
    res = subprocess.run(list(map(str, cmd)), capture_output=True, text=True)
    assert res.returncode == 0, res.stderr
    assert res.stdout.split()[-1] == digest(
        mask), 'in a fresh process the model predicts another mask'

def export(learn, file):
    "What fastai pickles comes back, and answers the same"
    from fastai.vision.all import load_learner
    learn.export('learner.pkl')
    back = load_learner(learn.path/'learner.pkl')
    with learn.no_bar(), back.no_bar():
        assert digest(back.predict(file)[0]) == digest(learn.predict(file)[0])

def spawned(folder):
    "Reading processes that get the data pipeline as a pickle, as on macOS and Windows"
    cmd = [sys.executable, '-I', '-W', 'ignore', __file__, '--spawn', folder/'scenes']
    res = subprocess.run(list(map(str, cmd)), capture_output=True, text=True)
    assert res.returncode == 0 and 'batches' in res.stdout, res.stdout + res.stderr

def read_spawned(path):
    "The fresh process of `spawned`"
    import multiprocessing
    from segbook.data import seg_dataloaders
    multiprocessing.set_start_method('spawn')
    dls = seg_dataloaders(path, bs=4, num_workers=1)
    print(len([x for x, y in dls.train]), 'batches')

def others(folder):
    "DataLoaders of fastai's own, metrics of fastai, and the refusal of what does not fit masks"
    from fastai.vision.all import CutMix, DiceMulti, SegmentationDataLoaders, get_image_files
    from segbook.errors import SegbookError
    from segbook.learner import MaskCutMix, seg_learner
    path = folder/'scenes'
    dls = SegmentationDataLoaders.from_label_func(path, fnames=get_image_files(path/'images'),
        label_func=lambda f: path/'labels'/f'{f.stem}_P.png', bs=4, num_workers=0,
        codes=(path/'codes.txt').read_text().split())
    learn = seg_learner(dls, encoder='resnet18', pretrained=False, metrics=DiceMulti(),
        path=folder, cbs=MaskCutMix())
    assert learn.segmenter['ignore_index'] == 11
    with learn.no_bar(), learn.no_logging():
        learn.fit(1, 1e-3)
        learn.tta()
    try: learn.add_cb(CutMix())
    except SegbookError: return
    raise AssertionError('CutMix was taken')

def whole_game(folder):
    "Train, predict, save, reload: each needs the one before"
    trained = check('trains two batches on make_scenes', train, folder)
    if not trained: return
    learn, file = trained
    learn.path = folder
    check('learn.export and load_learner: the same mask', export, learn, file)
    check('reading processes that are spawned', spawned, folder)
    check("fastai's own DataLoaders, metrics and callbacks", others, folder)
    mask = check('predicts a mask of the size of the image', predict, learn, file)
    saved = check('saves without a pickle', save, learn, folder/'model')
    if mask is not None and saved:
        check('reloads, here and in a fresh process: the same mask', reload, saved, file, mask)

def main():
    names = ('fastai', 'fastcore', 'plum-dispatch', 'torch', 'torchvision')
    print('Python', '.'.join(map(str, sys.version_info[:3])),
        *(f'· {o} {version(o)}' for o in names), flush=True)
    check('nbdev is not installed', without_nbdev)
    package = check('segbook is the installed one', installed)
    for m in modules(package) if package else (): check(f'import {m}', imported, m)
    check('the files of the explorers are installed', scripts)
    with tempfile.TemporaryDirectory() as tmp: whole_game(Path(tmp))
    sys.exit(int(failed > 0))

if __name__ == '__main__':
    # MODEL IMAGE, or --spawn FOLDER: the fresh processes
    if sys.argv[1:2] == ['--spawn']: read_spawned(Path(sys.argv[2]))
    elif len(sys.argv) == 3: print(predict_saved(Path(sys.argv[1]), Path(sys.argv[2])))
    else: main()
