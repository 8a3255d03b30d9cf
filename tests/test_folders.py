"""Odd folders, as people bring them: what the check calls ok can be trained on, and what cannot be
trained on has an error that names file and cure. What a listing leaves out is told."""
import os, shutil, tempfile, unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from PIL import Image
from properties import examples

from segbook.data import seg_dataloaders
from segbook.masks import SegbookError, SegFolder, check_masks, palette, read_mask
from segbook.masks.listing import list_folder

pytestmark = pytest.mark.usefixtures('one_thread')
CODES = ['background', 'wall', 'Void']
SIZE = 9, 12


# ---- files of every kind

def ids(i): return ((np.indices(SIZE).sum(0)//3 + i) % 3).astype(np.uint8)

def picture(i): return np.random.default_rng(i).integers(0, 256, (*SIZE, 3)).astype(np.uint8)

def put(path, x, ending='.png', **kw):
    "Save the array `x`, as an array file or with Pillow."
    f = path.with_name(path.name + ending)
    if ending.lower() == '.npy':
        with f.open('wb') as o: np.save(o, x)
    else: Image.fromarray(x).save(f, **kw)
    return f

def tiff(path, x, **kw):
    import tifffile
    tifffile.imwrite(path.with_name(path.name + '.tif'), x, **kw)

def turned(path, x, o, ending='.png'):
    note = Image.Exif()
    note[0x0112] = o
    put(path, x, ending, exif=note)

def cut(path, x):
    f = put(path, x)
    f.write_bytes(f.read_bytes()[:60])

def no_file(path, kind):
    "Something that is called like an image and is none."
    f = path.with_name(path.name + '.png')
    if kind == 'pipe' and hasattr(os, 'mkfifo'): os.mkfifo(f)
    elif kind == 'link': f.symlink_to(f.with_name('nowhere.png'))
    elif kind == 'loop': f.symlink_to(f)
    elif kind == 'folder': f.mkdir()
    else: f.touch()

def grey(i): return picture(i)[..., 0]

IMAGES = {
    'colour': lambda p, i: put(p, picture(i)), 'grey': lambda p, i: put(p, grey(i)),
    'jpeg': lambda p, i: put(p, picture(i), '.JPG'),
    'alpha': lambda p, i: put(p, np.dstack([picture(i), grey(i)])),
    'one bit': lambda p, i: put(p, grey(i) > 99),
    '16 bits': lambda p, i: put(p, grey(i).astype(np.uint16)*200),
    'floats': lambda p, i: put(p, grey(i)/np.float32(255), '.tif'),
    'floats to 255': lambda p, i: put(p, grey(i).astype(np.float32), '.NPY'),
    'signed': lambda p, i: put(p, grey(i).astype(np.int16) - 99, '.npy'),
    'NaN': lambda p, i: put(p, np.where(grey(i) > 99, np.nan, 1).astype(np.float32), '.tif'),
    'infinite': lambda p, i: put(p, np.where(grey(i) > 99, np.inf, 1), '.npy'),
    'complex': lambda p, i: put(p, grey(i)*1j, '.npy'),
    'text': lambda p, i: put(p, grey(i).astype('U3'), '.npy'),
    'objects': lambda p, i: np.save(p.with_name(p.name + '.npy'), np.array([{}]),
        allow_pickle=True),
    'two channels': lambda p, i: put(p, picture(i)[..., :2], '.npy'),
    'five channels': lambda p, i: put(p, np.dstack([picture(i)]*2)[..., :5], '.npy'),
    'seventy channels': lambda p, i: put(p, np.dstack([picture(i)]*24)[..., :70], '.npy'),
    'channel first': lambda p, i: put(p, grey(i)[None], '.npy'),
    'a row': lambda p, i: put(p, grey(i)[0], '.npy'),
    'a number': lambda p, i: put(p, grey(i)[0, 0], '.npy'),
    'four axes': lambda p, i: put(p, picture(i)[None], '.npy'),
    'pages': lambda p, i: tiff(p, np.stack([grey(i)]*3)),
    'bands': lambda p, i: tiff(p, np.dstack([picture(i)]*2), photometric='minisblack',
        planarconfig='contig'),
    'orientation': lambda p, i: turned(p, picture(i).swapaxes(0, 1), 6),
    'orientation lost': lambda p, i: turned(p, picture(i), 8),
    'half turn': lambda p, i: turned(p, picture(i), 3, '.jpg'),
    'one pixel': lambda p, i: put(p, picture(i)[:1, :1]),
    'another size': lambda p, i: put(p, picture(i)[:5]),
    'cut': lambda p, i: cut(p, picture(i)), 'empty': lambda p, i: no_file(p, 'empty'),
    'pipe': lambda p, i: no_file(p, 'pipe'), 'link': lambda p, i: no_file(p, 'link'),
    'loop': lambda p, i: no_file(p, 'loop'), 'folder': lambda p, i: no_file(p, 'folder'),
    'text file': lambda p, i: p.with_name(p.name + '.png').write_text('a web page'),
    'phone': lambda p, i: p.with_name(p.name + '.heic').write_bytes(b'\0\0\0\x18ftypheic'),
    'missing': lambda p, i: None}

COLOURS = palette(CODES)
WHITE = np.uint8([0, 255, 128])

def indexed(p, i, colours):
    im = Image.fromarray(ids(i))
    im.putpalette(np.uint8(colours).ravel().tolist())
    im.save(p.with_name(p.name + '_P.png'))

MASKS = {
    'ids': lambda p, i: put(p, ids(i), '_P.png'), 'plain name': lambda p, i: put(p, ids(i)),
    'array': lambda p, i: put(p, ids(i)[..., None], '.NPY'),
    'palette': lambda p, i: indexed(p, i, COLOURS),
    'palettes that differ': lambda p, i: indexed(p, i, np.roll(COLOURS, i, 0)),
    'deep': lambda p, i: put(p, ids(i).astype(np.uint16)),
    'whole floats': lambda p, i: put(p, ids(i).astype(np.float32), '.tif'),
    'NaN': lambda p, i: put(p, np.where(ids(i) == 2, np.nan, ids(i)), '.npy'),
    'halves': lambda p, i: put(p, ids(i)/2, '.npy'),
    'negative': lambda p, i: put(p, ids(i).astype(np.int8) - 1, '.npy'),
    'huge': lambda p, i: put(p, ids(i)*1e30, '.npy'),
    'one-hot': lambda p, i: put(p, np.eye(3, dtype=np.uint8)[ids(i)], '.npy'),
    'text': lambda p, i: put(p, ids(i).astype('U1'), '.npy'),
    'complex': lambda p, i: put(p, ids(i)*1j, '.npy'),
    'three channels': lambda p, i: put(p, np.dstack([ids(i)]*3)),
    'colours': lambda p, i: put(p, COLOURS[ids(i)]),
    'alpha': lambda p, i: put(p, np.dstack([0*ids(i)]*3 + [WHITE[ids(i) % 2]])),
    'grey and alpha': lambda p, i: put(p, np.dstack([0*ids(i), WHITE[ids(i) % 2]])),
    'black and white': lambda p, i: put(p, WHITE[ids(i) % 2]),
    'one bit': lambda p, i: put(p, ids(i) == 1),
    'pages': lambda p, i: tiff(p, np.stack([ids(i)]*2)),
    'bands': lambda p, i: tiff(p, np.dstack([ids(i)]*5), photometric='minisblack',
        planarconfig='contig'),
    'jpeg': lambda p, i: put(p, ids(i), '.jpg'), 'Void': lambda p, i: put(p, 0*ids(i) + 2),
    'one class': lambda p, i: put(p, 0*ids(i)), 'no class': lambda p, i: put(p, ids(i) + 7),
    'orientation': lambda p, i: turned(p, ids(i).T.copy(), 6),
    'turned': lambda p, i: put(p, ids(i).T.copy()),
    'one pixel': lambda p, i: put(p, ids(i)[:1, :1]),
    'another size': lambda p, i: put(p, ids(i)[:5]),
    'cut': lambda p, i: cut(p, ids(i)), 'empty': lambda p, i: no_file(p, 'empty'),
    'pipe': lambda p, i: no_file(p, 'pipe'), 'missing': lambda p, i: None}

NAMES = {'plain': lambda i: f'a{i}', 'composed': lambda i: f'Gr\u00fcn {i}',
    'decomposed': lambda i: f'Gru\u0308n {i}', 'stars': lambda i: f'*[a], {i}.b',
    'two lines': lambda i: f'a\n{i}', 'other case': lambda i: f'A{i}'}
LISTS = {'none': lambda d, fs: None, 'last': lambda d, fs: fs[-1:], 'all': lambda d, fs: fs,
    'empty': lambda d, fs: [], 'unknown': lambda d, fs: [*fs[-1:], 'b.png'],
    'no ending': lambda d, fs: [Path(f).stem for f in fs[-1:]],
    'folders': lambda d, fs: [f'C:\\data\\images\\{f}' for f in fs[-1:]],
    'decomposed': lambda d, fs: [unicodedata.normalize('NFD', f) for f in fs[-1:]]}
BESIDE = {'.DS_Store': b'', 'Thumbs.db': b'', 'notes.txt': b'', '._a0.png': b'', 'x.heic': b'',
    'sub/b.png': b'', 'scan': b'\x89PNG'}


@st.composite
def folders(draw):
    "How a folder is made: what most files are, what a few are, names, split and encoding."
    n = draw(st.sampled_from([5, 4, 3, 2, 4, 1]))
    usual = draw(st.sampled_from(list(IMAGES))), draw(st.sampled_from(list(MASKS)))
    if draw(st.booleans()): usual = 'colour', 'ids' # else nearly all folders are faulty
    files = [usual]*n
    for _ in range(draw(st.integers(0, 2))):
        k = draw(st.integers(0, n - 1))
        files[k] = draw(st.sampled_from(list(IMAGES))), draw(st.sampled_from(list(MASKS)))
        if draw(st.booleans()): files[k] = usual[0], files[k][1]
    names = draw(st.sampled_from(list(NAMES)))
    other = draw(st.sampled_from([names]*20 + list(NAMES)))
    return dict(files=files, names=names, mask_names=other,
        split=draw(st.sampled_from(list(LISTS))),
        encoding=draw(st.sampled_from(['utf-8', 'utf-8-sig', 'utf-16'])),
        beside=draw(st.lists(st.sampled_from(list(BESIDE)), max_size=2, unique=True)))

def make(d, files, names, mask_names, split, encoding, beside):
    for o in ('images', 'labels'): (d/o).mkdir()
    for i,(image, mask) in enumerate(files):
        IMAGES[image](d/'images'/NAMES[names](i), i)
        MASKS[mask](d/'labels'/NAMES[mask_names](i), i)
    (d/'codes.txt').write_text('\r\n'.join(CODES), encoding=encoding, newline='')
    lines = LISTS[split](d, sorted(f.name for f in (d/'images').iterdir()))
    if lines is not None:
        (d/'valid.txt').write_text('\r\n'.join(lines), encoding=encoding, newline='')
    for name in beside:
        f = d/'images'/name
        f.parent.mkdir(exist_ok=True)
        f.write_bytes(BESIDE[name])
    return d

def train(d, size):
    "A batch of each part, and one step of a tiny network. Raises what any of it raises."
    n = len(SegFolder(d))
    dls = seg_dataloaders(d, bs=max(1, min(2, n-1)), num_workers=0, device='cpu', size=size,
        batch_tfms=None)
    for dl in dls: assert len(dl) > 0
    dls.valid.one_batch()
    for dl in dls:
        for x,y in dl: assert torch.isfinite(x).all() and len(x) == len(y)
    x,y = [o.as_subclass(torch.Tensor) for o in dls.one_batch()]
    net = torch.nn.Conv2d(x.shape[1], len(dls.vocab), 3, padding=1)
    loss = torch.nn.CrossEntropyLoss(ignore_index=dls.ignore_index, reduction='sum')(net(x), y)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(net.weight.grad).all()

# errors of the check that a training does not stumble over, though it should not be made: what is
# there is used, or is used wrongly
HARMLESS = {'missing', 'unmatched', 'doubled', '16 bit', 'JPEG', 'palettes', 'one class', '0/255'}

def judge(d):
    "What the check says of a folder, and whether that is true: 'ok', 'error' or 'refused'."
    try: r = check_masks(d, progress=False)
    except SegbookError as e:
        assert str(d) in str(e) or d.name in str(e) or 'images' in str(e), str(e)
        with pytest.raises(SegbookError): train(d, None)
        return 'refused'
    size = SIZE if any(p.kind == 'image sizes' for p in r.problems) else None
    if r.ok:
        train(d, size)
        return 'ok'
    for p in r.errors:
        assert 'Expected' in p.message and p.message.rstrip()[-1] in '.)]', p.message
        told = [f for f in p.files if f.name.replace('\n', '\\n') in p.message]
        assert told or not p.files or p.kind in ('void', 'one class'), p.message
    try: train(d, size)
    except SegbookError as e: assert str(e)
    else: assert {p.kind for p in r.errors} <= HARMLESS, str(r)
    return 'error'

@examples(40)
@given(folders())
def test_ok_is_what_can_be_trained_on(how):
    d = Path(tempfile.mkdtemp())
    try: judge(make(d, **how))
    finally: shutil.rmtree(d)


# ---- names and listings

def sound(path, names=None):
    "A sound folder of four pairs, with images called `names`."
    for o in ('images', 'labels'): (path/o).mkdir(parents=True)
    for i,name in enumerate(names or [f'a{k}' for k in range(4)]):
        put(path/'images'/name, picture(i))
        put(path/'labels'/name, ids(i), '_P.png')
    (path/'codes.txt').write_text('\n'.join(CODES), encoding='utf-8')
    return path

def kinds(r): return [(p.kind, p.severity) for p in r.problems]

nfc, nfd = [lambda s, f=f: unicodedata.normalize(f, s) for f in ('NFC', 'NFD')]

@pytest.mark.parametrize('image', [nfc, nfd])
@pytest.mark.parametrize('mask', [nfc, nfd])
@pytest.mark.parametrize('line', [nfc, nfd])
def test_accents_match_however_they_are_composed(tmp_path, image, mask, line):
    d = sound(tmp_path, ['b', 'c'])
    name = 'Stra\u00dfe \u00e9\u0301\u00fc\ud55c'
    put(d/'images'/image(name), picture(7))
    put(d/'labels'/mask(name), ids(7), '_P.png')
    (d/'codes.txt').write_text('\n'.join(['Geb\u00e4ude', 'Stra\u00dfe', 'Void']), encoding='utf-8')
    (d/'valid.txt').write_text(line(name) + '.png\n', encoding='utf-8')
    r = check_masks(d, progress=False, fix=tmp_path.parent/f'{tmp_path.name}_copy',
        mapping={1: nfd('Geb\u00e4ude'), 0: 'Stra\u00dfe'})
    sf = SegFolder(d)
    assert r.ok and len(sf) == 3 and r.valid_pixels.sum() == 108 and r.copy.ok
    assert (read_mask(sf.label_of(line(name) + '.png')) == ids(7)).all()

def test_two_names_that_look_alike_are_doubled(tmp_path):
    d = sound(tmp_path, ['b', 'c', nfc('\u00fc')])
    put(d/'images'/nfd('\u00fc'), picture(9))
    assert ('doubled', 'error') in kinds(check_masks(d, progress=False))

@pytest.mark.parametrize('text', ['a3', 'a3.PNG', 'images/a3.png', 'C:\\photos\\a3.png', 'a3\r\n',
    'a3.png\n\n\n'])
@pytest.mark.parametrize('encoding', ['utf-8', 'utf-16', 'utf-16-le', 'utf-8-sig'])
def test_a_validation_list_as_people_write_it(tmp_path, text, encoding):
    d = sound(tmp_path)
    (d/'valid.txt').write_bytes(text.encode(encoding))
    (d/'codes.txt').write_bytes('\r\n'.join(CODES).encode(encoding))
    assert SegFolder(d).valid == {'a3.png'} and SegFolder(d).codes == CODES
    assert check_masks(d, progress=False).valid_pixels.sum() == 108

def test_another_ending_in_a_list_is_another_file(tmp_path):
    d = sound(tmp_path)
    assert kinds(check_masks(d, valid=['a3.jpg'], progress=False))[0] == ('valid', 'error')

def test_what_a_listing_leaves_out_is_told(tmp_path, capsys):
    d = sound(tmp_path)
    for name,data in BESIDE.items():
        (d/'images'/name).parent.mkdir(exist_ok=True)
        (d/'images'/name).write_bytes(data)
    (d/'images'/'gone.png').symlink_to(d/'nowhere.png')
    (d/'images'/'round.png').symlink_to(d/'images'/'round.png')
    (d/'labels'/'old').mkdir()
    (d/'labels'/'a0.json').touch()
    if hasattr(os, 'mkfifo'): os.mkfifo(d/'labels'/'pipe.png')
    r = check_masks(d, progress=False)
    assert r.ok and kinds(r) == [('left out', 'warning'), ('left out', 'note')]
    harm, none = [p.message for p in r.problems]
    for o in ('1 sub-folder with images (sub)', '2 links that lead nowhere (gone.png, round.png)',
            '1 file in a format that is not read (x.heic)', 'ending of its format (scan)',
            'Save these as PNG'): assert o in harm, harm
    if hasattr(os, 'mkfifo'): assert '1 entry that is no file (pipe.png)' in harm
    for o in ('3 hidden or system files (.DS_Store, ._a0.png, Thumbs.db)', '1 file that is no '
            'image (notes.txt)', 'in labels/', '(old)', '(a0.json)'): assert o in none, none
    assert len(r.problems[0].files) + len(r.problems[1].files) == len(list_folder(
        d/'images').entries()) + len(list_folder(d/'labels').entries())
    seg_dataloaders(d, bs=2, num_workers=0, device='cpu')
    assert '1 sub-folder with images (sub)' in capsys.readouterr().out

@pytest.mark.parametrize('names, part', [(['a.heic', 'b.HEIC'], '2 files in formats that are not '
        'read (a.heic, b.HEIC). Save these as PNG'), (['t/a.png', 'v/b.png'], 'only the folders t, '
        'v. Pass images="images/t"'), ([], 'Put them there'), (['.a.png'], '1 hidden or system')])
def test_no_images_says_what_lies_there(tmp_path, names, part):
    d = sound(tmp_path)
    for f in (d/'images').iterdir(): f.unlink()
    for o in names:
        (d/'images'/o).parent.mkdir(exist_ok=True)
        (d/'images'/o).touch()
    with pytest.raises(SegbookError) as e: SegFolder(d)
    assert 'No images in ' in str(e.value) and part in str(e.value)

def test_masks_in_a_sub_folder_or_another_case_are_named(tmp_path):
    d = sound(tmp_path)
    (d/'labels').rename(d/'old')
    (d/'labels').mkdir()
    (d/'old').rename(d/'labels'/'png')
    with pytest.raises(SegbookError, match=r'found 1 sub-folder with images \(png\). Move'):
        SegFolder(d)
    assert len(SegFolder(d, labels='labels/png')) == 4
    for f in (d/'labels'/'png').iterdir(): f.rename(f.with_name(f.name.replace('a', 'A')))
    with pytest.raises(SegbookError, match='the names differ in upper and lower case'):
        SegFolder(d, labels='labels/png')

@pytest.mark.parametrize('name, what', [('x'*300, 'cannot be read'), ('loop', 'a link that leads '
        'nowhere'), ('gone', 'not there'), ('a\0b', 'not there')])
def test_paths_that_are_no_folder(tmp_path, name, what):
    (tmp_path/'loop').symlink_to(tmp_path/'loop')
    with pytest.raises(SegbookError, match=what): SegFolder(tmp_path/name)

def test_a_folder_that_cannot_be_listed(tmp_path, monkeypatch):
    "As root every folder can be listed: the system's refusal is stood in for."
    d, listing = sound(tmp_path), Path.iterdir
    def refuse(self):
        if self.name == 'labels': raise PermissionError(13, 'Permission denied')
        return listing(self)
    monkeypatch.setattr(Path, 'iterdir', refuse)
    with pytest.raises(SegbookError, match='labels cannot be listed .Permission denied.*Change'):
        check_masks(d, progress=False)

@pytest.mark.parametrize('name', ['*', '[a]?', 'a b', ' a', '\u3000', 'a\nb', '$x_$', '%d {0}'])
def test_names_with_odd_letters(tmp_path, name):
    d = sound(tmp_path/'d', ['b', 'c', 'd', name])
    assert check_masks(d, progress=False).ok
    (d/'labels'/f'{name}_P.png').write_bytes(b'')
    r = check_masks(d, progress=False, fix=tmp_path/'copy')
    assert kinds(r)[0] == ('unreadable', 'error') and '\n' not in r.errors[0].message
