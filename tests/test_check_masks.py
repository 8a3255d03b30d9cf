"""The mask check on folders with one fault each: finding, expectation and cure must
be in the message."""
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segbook.masks import MaskReport, SegbookError, SegFolder, check_masks, palette, read_mask

REAL = Path(os.environ.get('SEGBOOK_REAL_DATA', Path(__file__).parent.parent/'../shared/data'))
CODES = ['background', 'wall', 'door', 'Void']


def ids(i=0, shape=(6, 8)):
    "A mask with every class of CODES in it."
    return ((np.arange(shape[0]*shape[1]) + i) % 4).reshape(shape).astype(np.uint8)

def folder(path, n=4, codes=CODES, valid=1, mask=ids):
    "A sound folder: `n` images a0.jpg, ... with masks a0_P.png, ..., the last `valid` to validate."
    (path/'images').mkdir(parents=True)
    (path/'labels').mkdir()
    for i in range(n):
        Image.fromarray(np.full((6, 8, 3), 20*i, np.uint8)).save(path/'images'/f'a{i}.jpg')
        Image.fromarray(mask(i)).save(path/'labels'/f'a{i}_P.png')
    (path/'codes.txt').write_text('\n'.join(codes) + '\n')
    if valid:
        (path/'valid.txt').write_text('\n'.join(f'a{i}.jpg' for i in range(n-valid, n)) + '\n')
    return path

@pytest.fixture
def data(tmp_path): return folder(tmp_path/'data')

def look(path, **kw): return check_masks(path, progress=False, **kw)

def only(report, kind, severity='error'):
    "The one problem of the report, which must be of this kind."
    assert [(p.kind, p.severity) for p in report.problems] == [(kind, severity)], str(report)
    assert report.ok == (severity == 'warning') and report.problems[0].message in str(report)
    return report.problems[0]

def says(p, *parts):
    "The message is a finding, an expectation and a cure, and holds all `parts`."
    for o in (*parts, 'Expected'): assert o in p.message, f'{o!r} is not in: {p.message}'

def put(path, x, **kw): Image.fromarray(x).save(path, **kw)


# ---- a sound folder

def test_sound(data):
    r = look(data)
    assert isinstance(r, MaskReport) and r.ok and r.problems == [] and r.raise_errors() is r
    oracle = [0]*4 # counted pixel by pixel
    for i in range(4):
        for row in ids(i).tolist():
            for v in row: oracle[v] += 1
    assert r.class_pixels.tolist() == oracle and r.class_pixels.dtype == np.int64
    assert r.valid_pixels.tolist() == [12]*4 and r.train_pixels.tolist() == [36]*4
    assert 'Mask check of data: ok (4 images with masks, 4 classes, Void is id 3)' in str(
        r) and '| wall |' in r._repr_markdown_()

def test_progress_is_silent_when_asked(data, capsys):
    check_masks(data, progress=False)
    assert capsys.readouterr() == ('', '')
    check_masks(data)
    out, err = capsys.readouterr()
    assert '4 of 4 images with their masks checked' in out + err

def test_other_layouts(tmp_path):
    d = folder(tmp_path/'d', valid=0)
    (d/'images').rename(d/'photos')
    (d/'labels').rename(d/'masks')
    (d/'codes.txt').rename(d/'names.txt')
    for f in sorted((d/'masks').iterdir()): f.rename(f.with_name(f.name.replace('_P', '')))
    r = look(d, images='photos', labels='masks', codes='names.txt', valid=['a1.jpg'])
    assert r.ok and r.valid_pixels.sum() == 48
    assert look(d, images='photos', labels='masks', codes=CODES).valid_pixels is None

def test_palette_and_one_bit_files_hold_ids(data):
    im = Image.fromarray(ids(0)).convert('P')
    im.putdata(ids(0).ravel().tolist())
    im.putpalette(palette(CODES).ravel().tolist())
    im.save(data/'labels'/'a0_P.png')
    Image.fromarray(ids(1) == 1).save(data/'labels'/'a1_P.png')
    assert Image.open(data/'labels'/'a0_P.png').mode == 'P' and Image.open(
        data/'labels'/'a1_P.png').mode == '1'
    assert look(data).problems == []
    assert (read_mask(data/'labels'/'a0_P.png')
        == ids(0)).all() and set(np.unique(read_mask(data/'labels'/'a1_P.png'))) == {0, 1}


# ---- the folder as a whole

def test_not_a_folder(tmp_path):
    with pytest.raises(SegbookError, match=r'nowhere is not there; expected a folder with images/, '
            r'labels/ and codes.txt. Check the path'):
        look(tmp_path/'nowhere')

def test_empty_folder(tmp_path):
    with pytest.raises(SegbookError, match=r"has no folder 'images' with the images; found no "
            r"folders at all. Name the right one with images=..."):
        look(tmp_path)

def test_other_folder_names(data):
    (data/'labels').rename(data/'annotations')
    with pytest.raises(SegbookError, match=r"has no folder 'labels' .*found the folders "
            r"annotations, images. Name the right one with labels=..."):
        look(data)

def test_no_images(data):
    for f in (data/'images').iterdir(): f.unlink()
    with pytest.raises(SegbookError, match=r'No images in .*images; expected files such as '
            r'NAME.jpg or NAME.png there. Put them there'):
        look(data)

def test_images_in_sub_folders(data):
    (data/'x').mkdir()
    (data/'images').rename(data/'x'/'train')
    (data/'x').rename(data/'images')
    with pytest.raises(SegbookError, match=r'found only the folders train. Pass '
            r'images="images/train"'):
        look(data)
    assert look(data, images='images/train').ok

def test_no_codes(data):
    (data/'codes.txt').unlink()
    with pytest.raises(SegbookError, match=r'has no codes.txt, and no codes were given; expected '
            r'one class name a line'):
        look(data)
    with pytest.raises(SegbookError, match=r'codes file names.txt does not exist'):
        look(data, codes='names.txt')

def test_empty_codes(data):
    (data/'codes.txt').write_text('\n')
    with pytest.raises(SegbookError, match=r'No class names: .*codes.txt is empty; expected one '
            r'class name a line'):
        look(data)

def test_blank_line_in_codes(data):
    (data/'codes.txt').write_text('background\n\nwall\n')
    with pytest.raises(SegbookError, match=r'Class id 1 has an empty name .*a blank line shifts '
            r'every id after it'):
        look(data)

def test_doubled_codes(data):
    (data/'codes.txt').write_text('sky\nwall\nsky\n')
    with pytest.raises(SegbookError, match=r"Doubled class names in .*codes.txt: 'sky' is id 0 and "
            r"2; expected every name once. Rename one"):
        look(data)

def test_two_voids(data):
    with pytest.raises(SegbookError, match=r'Void appears 2 times in the codes, as ids 1, 2; '
            r'expected once'):
        look(data, codes=['a', 'Void', 'VOID '])

def test_no_pair(data):
    for f in sorted((data/'labels').iterdir()): f.rename(f.with_name('m' + f.name))
    with pytest.raises(SegbookError, match=r'None of the 4 images .* has a mask in .*: for a0.jpg '
            r'expected a0_P.png or a0.png, found names such as ma0_P.png, ma1_P.png and 2 more. '
            r'Rename'):
        look(data)


# ---- files

def test_missing_mask(data):
    (data/'labels'/'a1_P.png').unlink()
    p = only(look(data), 'missing')
    says(p, '1 image without a mask: a1.jpg', 'labels/a1_P.png', 'Add the masks')
    assert [f.name for f in p.files] == ['a1.jpg']

def test_unmatched_mask(data):
    (data/'images'/'a1.jpg').unlink()
    says(only(look(data), 'unmatched'), '1 mask without an image: a1_P.png', 'images/')

@pytest.mark.parametrize('extra, pair', [('images/a1.png', 'a1.jpg and a1.png'),
        ('labels/a1.png', 'a1_P.png and a1.png'), ('labels/a1_P.bmp', 'a1_P.bmp and a1_P.png')])
def test_doubled(data, extra, pair):
    put(data/extra, ids(1))
    says(only(look(data), 'doubled'), f'1 name claimed by more than one file: {pair}', 'Remove or '
        'rename')

@pytest.mark.parametrize('name, what', [('images/a1.jpg', '1 image cannot be read: a1.jpg'),
        ('labels/a1_P.png', '1 mask cannot be read: a1_P.png')])
@pytest.mark.parametrize('cut', [0, .7])
def test_unreadable(data, name, what, cut):
    b = (data/name).read_bytes()
    (data/name).write_bytes(b[:int(len(b)*cut)])
    says(only(look(data), 'unreadable'), what, 'Restore it from its source')

def test_masks_in_other_formats(data):
    for i,ending in enumerate(['.npy', '.tif', '.bmp', '.gif']):
        f = data/'labels'/f'a{i}_P.png'
        f.unlink()
        np.save(f.with_suffix(ending), ids(i)) if ending == '.npy' else put(f.with_suffix(ending),
            ids(i))
    r = look(data)
    assert r.problems == [] and r.class_pixels.tolist() == [48]*4
    for i,f in enumerate(SegFolder(data).labels): assert (read_mask(f) == ids(i)).all()

def test_size(data):
    put(data/'labels'/'a1_P.png', ids(1, (6, 9)))
    says(only(look(data), 'size'), 'a1.jpg is 6x8 and a1_P.png 6x9', 'equal sizes', 'nearest')

def test_size_turned(data):
    put(data/'labels'/'a1_P.png', ids(1, (8, 6)))
    says(only(look(data), 'size'), 'a1.jpg is 6x8 and a1_P.png 8x6', '1 of them is turned by 90 '
        'degrees', 'EXIF')

def test_jpeg_mask(data):
    (data/'labels'/'a1_P.png').unlink()
    put(data/'labels'/'a1_P.jpg', ids(1))
    says(only(look(data), 'JPEG'), '1 mask stored as JPEG: a1_P.jpg', 'PNG', 'cannot be restored',
        'Export')

def test_16_bit_mask(data):
    put(data/'labels'/'a1_P.png', ids(1).astype(np.uint16))
    says(only(look(data), '16 bit'), '1 mask with 16 bits or more a pixel: a1_P.png', '8 bits',
        'instance ids', 'fix=')

def test_ids_in_three_channels(data):
    put(data/'labels'/'a1_P.png', np.stack([ids(1)]*3, -1))
    says(only(look(data), 'channels'), '1 mask with the ids repeated in several channels: a1_P.png',
        'one channel', 'fix=')

def test_one_image_only(tmp_path):
    says(only(look(folder(tmp_path/'d', n=1, valid=0)), 'one image'), 'a0.jpg is the only image',
        'two at least', 'Add images')


# ---- values

def test_ids_outside_the_codes(data):
    x = ids(1)
    x[0,:3] = 37
    put(data/'labels'/'a1_P.png', x)
    y = ids(2)
    y[0,0] = 37
    y[1,1] = 9
    put(data/'labels'/'a2_P.png', y)
    r = look(data)
    p = only(r, 'ids')
    says(p, '2 masks with ids outside the codes', 'id 37 (4 pixels in a1_P.png, a2_P.png)',
        'id 9 (1 pixel in a2_P.png)', 'Expected 0 to 3', 'codes.txt')
    assert [f.name for f in p.files] == ['a1_P.png',
        'a2_P.png'] and r.class_pixels.sum() == 4*48 - 5
    with pytest.raises(SegbookError, match='cannot be trained on:\n- 2 masks with ids outside'):
        r.raise_errors()

def test_255_is_void(data):
    x = ids(1)
    x[0,:3] = 255
    put(data/'labels'/'a1_P.png', x)
    says(only(look(data), 'ids'), 'id 255 (3 pixels in a1_P.png)', 'Proposed mapping: 255 -> 3 '
        '(Void)', 'fix=')

def test_255_without_void(tmp_path):
    d = folder(tmp_path/'d', codes=CODES[:3],
        mask=lambda i: np.where(ids(i) == 3, 255, ids(i)).astype(np.uint8))
    says(only(look(d), 'ids'), 'id 255 (48 pixels', 'Add the line Void to codes.txt if 255 means '
        'unlabelled')

def test_0_255(tmp_path):
    d = folder(tmp_path/'d', codes=['background', 'vessel'],
        mask=lambda i: (255*(ids(i) > 1)).astype(np.uint8))
    says(only(look(d), '0/255'), '4 masks with the values 0 and 255: a0_P.png', '96 pixels are 255',
        'Expected class ids 0 to 1', 'Proposed mapping: 0 -> 0 (background), 255 -> 1 (vessel)',
        'fix=')

def test_0_255_with_the_background_missing_in_the_codes(tmp_path):
    d = folder(tmp_path/'d', codes=['vessel'], mask=lambda i: (ids(i) > 1).astype(np.uint8))
    says(only(look(d), 'ids'), 'Expected 0 to 0, as 1 class is named', 'Is the background missing '
        'among the codes')

def test_ids_counted_from_1(tmp_path):
    d = folder(tmp_path/'d', mask=lambda i: ids(i) + 1)
    says(only(look(d), 'ids'), 'id 4', '1 -> 0 (background), 2 -> 1 (wall), 3 -> 2 (door), 4 -> 3 '
        '(Void)', 'counted from 1')

def test_ids_spread_to_white(tmp_path):
    d = folder(tmp_path/'d', mask=lambda i: ids(i)*85)
    says(only(look(d), 'ids'), '85 -> 1 (wall), 170 -> 2 (door), 255 -> 3 (Void)', 'spread evenly')

RGB = np.array([[10, 10, 10], [200, 0, 0], [0, 250, 0], [255, 255, 0]], np.uint8)

def test_rgb_is_guessed_aloud(tmp_path):
    d = folder(tmp_path/'d', mask=lambda i: RGB[ids(i)])
    p = only(look(d), 'rgb')
    says(p, '4 masks in colours (RGB) instead of ids: a0_P.png', 'Found 4 colours: ',
        '(10, 10, 10) (48 pixels)', 'class ids 0 to 3', '(200, 0, 0) -> 1 (wall)', 'A GUESS',
        'mapping=', 'fix=')

def test_rgb_of_camvid(tmp_path):
    cam = np.array([[128, 128, 128], [128, 64, 128], [64, 0, 128], [0, 0, 0]], np.uint8)
    d = folder(tmp_path/'d', codes=['Sky', 'Road', 'Car', 'Void'], mask=lambda i: cam[ids(i)])
    p = only(look(d), 'rgb')
    says(p, '(128, 128, 128) -> 0 (Sky)', '(0, 0, 0) -> 3 (Void)', "CamVid's published colours")
    assert 'GUESS' not in p.message

def test_rgb_with_a_colour_table(tmp_path):
    d = folder(tmp_path/'d', mask=lambda i: RGB[ids(i)])
    (d/'class_dict.csv').write_text(
        'name,r,g,b\nwall,10,10,10\nbackground,200,0,0\nVoid,0,250,0\ndoor,255,255,0\n')
    says(only(look(d), 'rgb'), '(10, 10, 10) -> 1 (wall)', '(200, 0, 0) -> 0 (background)',
        '(0, 250, 0) -> 3 (Void)', 'from class_dict.csv')

def test_rgb_in_segbooks_palette(tmp_path):
    d = folder(tmp_path/'d', mask=lambda i: palette(CODES)[ids(i)])
    p = only(look(d), 'rgb')
    says(p, "segbook's palette")
    assert 'GUESS' not in p.message

def test_rgb_photograph(data):
    put(data/'labels'/'a1_P.png', np.random.default_rng(0).integers(0, 256,
            (6, 8, 3)).astype(np.uint8))
    says(only(look(data), 'rgb'), '1 mask in colours (RGB) instead of ids: a1_P.png', 'Found 48 '
        'colours', 'without smoothing')

def test_all_void(tmp_path):
    d = folder(tmp_path/'d', mask=lambda i: np.full((6, 8), 3, np.uint8))
    says(only(look(d), 'void'), 'All 192 pixels of the 4 masks are Void (id 3)', 'nothing can be '
        'learned')

def test_one_mask_all_void(data):
    put(data/'labels'/'a1_P.png', np.full((6, 8), 3, np.uint8))
    says(only(look(data), 'void masks', 'warning'), '1 mask with Void alone: a1_P.png')


# ---- the split and the classes

def test_valid_names_missing_files(data):
    (data/'valid.txt').write_text('a3.jpg\na1.png\nb.jpg\n')
    says(only(look(data), 'valid'), 'valid.txt names 2 files not in images/: a1.png, b.jpg',
        'is a1.png meant to be a1.jpg?', 'remove these names')

def test_valid_leaves_nothing(data):
    (data/'valid.txt').write_text('')
    says(only(look(data), 'valid'), 'leaves no image with a mask for validation', 'at least one')
    (data/'valid.txt').write_text(''.join(f'a{i}.jpg\n' for i in range(4)))
    says(only(look(data), 'valid'), 'names all 4 images, so that none is left to train on')

def test_class_that_never_occurs(data):
    r = look(data, codes=['background', 'wall', 'door', 'Void', 'cat'])
    says(only(r, 'absent', 'warning'), '1 class without a pixel in any mask: cat (id 4)', 'has no '
        'IoU')

def test_class_absent_in_train_or_valid(data):
    for i in range(3):
        put(data/'labels'/f'a{i}_P.png', np.where(ids(i) == 2, 0, ids(i)).astype(np.uint8))
    says(only(look(data), 'absent in train', 'warning'), '1 class without a pixel in the training '
        'masks: door (id 2)', 'out of valid.txt')
    says(only(look(data, valid=['a0.jpg']), 'absent in valid', 'warning'),
        '1 class without a pixel in the validation masks: door (id 2)', 'valid.txt')


# ---- images: warnings

def all_images(data, mode, ending, **kw):
    for f in sorted((data/'images').iterdir()):
        Image.open(f).convert(mode).save(f.with_suffix(ending), **kw)
        f.unlink() if ending != '.jpg' else None
    (data/'valid.txt').write_text(f'a3{ending}\n')

@pytest.mark.parametrize('mode, ending, kind, text',
    [('RGBA', '.png', 'image alpha', '4 images of 4 with an alpha channel: a0.png'),
        ('CMYK', '.jpg', 'image CMYK', '4 images of 4 in CMYK: a0.jpg'),
        ('L', '.jpg', 'image grey', '4 images of 4 in grey: a0.jpg')])
def test_image_modes(data, mode, ending, kind, text):
    all_images(data, mode, ending)
    says(only(look(data), kind, 'warning'), text, 'RGB')

def test_16_bit_images(data):
    all_images(data, 'L', '.png')
    for f in (data/'images').iterdir(): put(f, np.full((6, 8), 3000, np.uint16))
    r = look(data)
    assert r.ok and [p.kind for p in r.problems] == ['image grey', 'image depth']
    says(r.problems[1], '4 images of 4 with 16 bits or more a channel: a0.png', 'Expected 8')

@pytest.mark.parametrize('dtype', ['uint16', 'int16', 'int32', 'uint32', 'int64'])
def test_whole_numbers_of_an_unused_range_are_told(data, dtype):
    "A sensor of 12 bits fills a sixteenth of the range: whatever the type, the report says so."
    for f in sorted((data/'images').iterdir()):
        f.unlink()
        np.save(f.with_suffix('.npy'), np.full((6, 8), 3000, dtype))
    (data/'valid.txt').write_text('a3.npy\n')
    r = look(data)
    assert r.ok and [p.kind for p in r.problems] == ['image grey', 'image depth']
    says(r.problems[1], '4 images of 4', '65,535 becomes 1', 'value_range=')
    np.save(data/'images'/'a0.npy', np.full((6, 8), -3, 'int16'))
    deep = [p.files for p in look(data).problems if p.kind == 'image depth']
    assert [len(fs) for fs in deep] == ([3] if dtype == 'uint16' else [])

def test_images_that_pil_cannot_open(data):
    tifffile = pytest.importorskip('tifffile')
    for i,f in enumerate(sorted((data/'images').iterdir())):
        f.unlink()
        x = np.zeros((6, 8, 5), np.uint8)
        if i % 2: np.save(f.with_suffix('.npy'), x)
        else:
            tifffile.imwrite(f.with_suffix('.tif'), x, photometric='minisblack',
                planarconfig='contig')
    (data/'valid.txt').write_text('a3.npy\n')
    assert look(data).problems == []

def test_mixed_modes(data):
    Image.new('L', (8, 6)).save(data/'images'/'a0.jpg')
    r = look(data)
    assert r.ok and [p.kind for p in r.problems] == ['image grey', 'image modes']
    says(r.problems[1], '3 RGB, 1 grey', 'one kind')

def test_mixed_sizes(data):
    put(data/'images'/'a1.jpg', np.zeros((5, 9, 3), np.uint8))
    put(data/'labels'/'a1_P.png', ids(1, (5, 9)))
    says(only(look(data), 'image sizes', 'warning'), '2 sizes (height x width): 6x8 (3), 5x9 (1)',
        'size=(height, width)')


# ---- the corrected copy

def tree(path):
    return {str(f.relative_to(path)): f.read_bytes() for f in sorted(path.rglob('*'))
        if f.is_file()}

def fixed(d, **kw):
    "Fix `d` into a new folder: the source as before, the copy passes. Returns the copied masks."
    before, to = tree(d), d.parent/'copy'
    r = look(d, fix=to, **kw)
    assert tree(d) == before and r.copy.ok and look(to).ok and str(to) in str(
        r) and not to.with_name('copy.partial').exists()
    assert not r.ok or 'mapping' in kw
    return {f.name: np.asarray(Image.open(f)) for f in sorted((to/'labels').iterdir())}

def test_fix_0_255(tmp_path):
    d = folder(tmp_path/'d', codes=['background', 'vessel'],
        mask=lambda i: (255*(ids(i) > 1)).astype(np.uint8))
    for i,(k,x) in enumerate(fixed(d).items()):
        assert k == f'a{i}_P.png' and x.dtype == np.uint8 and (x == (ids(i) > 1)).all()
    assert (tmp_path/'copy'/'valid.txt').read_text() == 'a3.jpg\n' and (
        tmp_path/'copy'/'images'/'a0.jpg').read_bytes() == (d/'images'/'a0.jpg').read_bytes()

def test_fix_rgb(tmp_path):
    cam = np.array([[128, 128, 128], [128, 64, 128], [64, 0, 128], [0, 0, 0]], np.uint8)
    d = folder(tmp_path/'d', codes=['Sky', 'Road', 'Car', 'Void'],
        mask=lambda i: cam[ids(i)] if i else np.full((6, 8, 3), 128, np.uint8))
    for i,x in enumerate(fixed(d).values()): assert (x == (ids(i) if i else 0)).all()

def test_fix_rgb_with_a_mapping_of_ones_own(tmp_path):
    d = folder(tmp_path/'d', mask=lambda i: RGB[ids(i)])
    names = ['door', 'Void', 1, 'background']
    out = fixed(d, mapping={tuple(c): n for c,n in zip(RGB.tolist(), names)})
    for i,x in enumerate(out.values()): assert (x == np.array([2, 3, 1, 0])[ids(i)]).all()
    with pytest.raises(SegbookError, match="No class 'dor'; did you mean 'door'?"):
        look(d, mapping={(0, 0, 0): 'dor'})

def test_fix_depth_channels_and_255(data):
    put(data/'labels'/'a1_P.png', ids(1).astype(np.uint16))
    put(data/'labels'/'a2_P.png', np.stack([ids(2)]*3, -1))
    put(data/'labels'/'a0_P.png', np.where(ids(0) == 3, 255, ids(0)).astype(np.uint8))
    for i,x in enumerate(fixed(data).values()): assert x.shape == (6, 8) and (x == ids(i)).all()

def test_fix_leaves_out_what_it_cannot_correct(tmp_path):
    d = folder(tmp_path/'d', n=9)
    (d/'labels'/'a0_P.png').unlink()
    (d/'labels'/'a1_P.png').write_bytes(b'')
    put(d/'labels'/'a2_P.png', ids(2, (3, 3)))
    put(d/'images'/'a3.png', ids(3))
    put(d/'labels'/'a4_P.png', ids(4) + 100)
    (d/'labels'/'a5_P.png').unlink()
    put(d/'labels'/'a5_P.jpg', ids(5))
    (d/'valid.txt').write_text('a8.jpg\ngone.jpg\n')
    assert list(fixed(d)) == ['a6_P.png', 'a7_P.png', 'a8_P.png']
    r = look(d, fix=tmp_path/'copy2')
    assert 'without 6 files that cannot be corrected: a0.jpg' in r.note

def test_fix_never_overwrites(data, tmp_path):
    (tmp_path/'there').mkdir()
    (tmp_path/'there'/'x').write_text('mine')
    with pytest.raises(SegbookError, match='there exists and is not an empty folder; expected a '
            'new one, as nothing is ever overwritten'):
        look(data, fix=tmp_path/'there')
    with pytest.raises(SegbookError, match='lies inside the data folder'):
        look(data, fix=data/'fixed')
    with pytest.raises(SegbookError, match='nothing is ever overwritten'): look(data, fix=data)
    assert (tmp_path/'there'/'x').read_text() == 'mine' and not (data/'fixed').exists()

def test_fix_of_a_sound_folder_writes_nothing(data, tmp_path):
    assert 'Nothing to correct' in look(data,
        fix=tmp_path/'new').note and not (tmp_path/'new').exists()

def test_fix_without_anything_to_keep(tmp_path):
    d = folder(tmp_path/'d', mask=lambda i: ids(i) + 100)
    r = look(d, fix=tmp_path/'new')
    assert 'No copy was written' in r.note and not (tmp_path/'new').exists()


# ---- labels that a mode of Pillow does not show

def alpha(colour, a):
    "A mask whose label is its transparency: one colour, or grey (None), below `a`."
    x = np.zeros((*a.shape, 2 if colour is None else 4), np.uint8)
    x[..., :-1], x[..., -1] = colour or 0, a
    return x

BW = ['background', 'vessel']
def inside(i): return (ids(i, (24, 32)) > 1).astype(np.uint8)

def wide(path, mask, codes=BW, **kw):
    "A folder of 24x32 pixels, in which a smoothed edge is rare."
    d = folder(path, mask=mask, codes=codes, **kw)
    for i in range(4):
        x = np.random.default_rng(i).integers(0, 256, (24, 32, 3)).astype(np.uint8)
        put(d/'images'/f'a{i}.jpg', x)
    return d

@pytest.mark.parametrize('colour', [(0, 0, 0), (255, 255, 255), (255, 0, 0), None])
@pytest.mark.parametrize('ending', ['.png', '.tif'])
def test_label_in_the_alpha_channel(tmp_path, colour, ending):
    d = wide(tmp_path/'d', lambda i: inside(i))
    for i in range(4):
        (d/'labels'/f'a{i}_P.png').unlink()
        # one mask is empty, one is full: their alpha is the same everywhere
        a = [inside(0), inside(1), 0*inside(0), 1 + 0*inside(0)][i]*255
        put(d/'labels'/f'a{i}_P{ending}', alpha(colour, a))
    r = look(d)
    assert not r.ok and 'alpha' in [p.kind for p in r.errors]
    says(next(p for p in r.errors if p.kind == 'alpha'), 'masks with the label in the alpha '
        'channel (transparency)', '0 -> 0 (background), 255 -> 1 (vessel)', 'fix=')
    with pytest.raises(SegbookError, match='alpha channel; expected one channel'):
        read_mask(d/'labels'/f'a0_P{ending}')
    out = list(fixed(d).values())
    assert (out[0] == inside(0)).all() and not out[2].any() and out[3].all()

def test_ids_in_the_alpha_channel(tmp_path):
    d = wide(tmp_path/'d', lambda i: alpha((9, 9, 9), ids(i, (24, 32))), CODES)
    says(only(look(d), 'alpha'), 'the alpha holds ids')
    for i,x in enumerate(fixed(d).values()): assert (x == ids(i, (24, 32))).all()

def test_shapes_of_several_colours_on_a_transparent_ground(tmp_path):
    "Each mask has one colour; taken alone, the colour would seem to say nothing."
    cols = [(200, 0, 0), (0, 90, 0)]
    d = wide(tmp_path/'d', lambda i: alpha(cols[i % 2], inside(i)*255), ['background', 'a', 'b'])
    (d/'class_dict.csv').write_text('a,200,0,0\nb,0,90,0\n')
    says(only(look(d), 'rgb'), '(0, 0, 0, 0) -> 0 (background)', '(200, 0, 0) -> 1 (a)',
        '(0, 90, 0) -> 2 (b)', 'from class_dict.csv')
    for i,x in enumerate(fixed(d).values()): assert (x == inside(i)*(1 + i % 2)).all()

def test_an_alpha_that_adds_nothing_is_left_out(tmp_path):
    opaque = lambda i: np.dstack([palette(CODES)[ids(i)], np.full((6, 8), 255, np.uint8)])
    says(only(look(folder(tmp_path/'d', mask=opaque)), 'rgb'), "segbook's palette")

def in_palette(path, x, colours):
    im = Image.fromarray(x)
    im.putpalette(np.uint8(colours).ravel().tolist())
    im.save(path)

def test_palettes_that_disagree(tmp_path):
    d = folder(tmp_path/'d', codes=['ground', 'red', 'green'], mask=lambda i: ids(i) % 3)
    orders = [(0, 1, 2), (0, 2, 1), (2, 1, 0), (0, 1, 2)] # the class of each index
    cols, true = np.uint8([[0, 0, 0], [255, 0, 0], [0, 255, 0]]), []
    for i,o in enumerate(orders):
        true.append(np.array(o)[ids(i) % 3])
        in_palette(d/'labels'/f'a{i}_P.png', ids(i) % 3, cols[list(o)])
    p = only(look(d), 'palettes')
    says(p, '4 masks with a palette whose colours and indices disagree', 'index 0 is (0, 0, 0) in '
        'a0_P.png and (0, 255, 0) in a2_P.png', 'A GUESS', 'If the indices are right')
    (d/'label_colors.txt').write_text('0 0 0 ground\n255 0 0 red\n0 255 0 green\n')
    says(only(look(d), 'palettes'), '(255, 0, 0) -> 1 (red)', 'from label_colors.txt')
    for x,y in zip(fixed(d).values(), true): assert (x == y).all()
    out = look(d, fix=tmp_path/'own', mapping={0: 0, 1: 1, 2: 2})
    assert out.copy.ok and (read_mask(tmp_path/'own'/'labels'/'a1_P.png') == ids(1) % 3).all()

def test_palette_indices_that_are_no_classes(tmp_path):
    d = folder(tmp_path/'d')
    table = np.zeros((256, 3), np.uint8)
    table[[7, 30, 31, 200]] = palette(CODES)
    for i in range(4):
        in_palette(d/'labels'/f'a{i}_P.png', np.uint8([7, 30, 31, 200])[ids(i)], table)
    says(only(look(d), 'palettes'), 'index 200 is no class', "segbook's palette")
    for i,x in enumerate(fixed(d).values()): assert (x == ids(i)).all()

def test_a_palette_against_the_table_of_the_folder(tmp_path):
    d = folder(tmp_path/'d', codes=['ground', 'red', 'green'], mask=lambda i: ids(i) % 3)
    (d/'class_dict.csv').write_text('ground,0,0,0\nred,255,0,0\ngreen,0,255,0\n')
    for i in range(4):
        in_palette(d/'labels'/f'a{i}_P.png', ids(i) % 3, [[0, 255, 0], [0, 0, 0], [255, 0, 0]])
    says(only(look(d), 'palettes'), 'index 0 is (0, 255, 0), which is class 2 (green) from '
        'class_dict.csv')
    for i,x in enumerate(fixed(d).values()): assert (x == np.uint8([2, 0, 1])[ids(i) % 3]).all()

def test_greys_that_a_gif_renumbers(tmp_path):
    "Pillow leaves unused greys out of a GIF: the index 1 is the grey of id 2."
    d = folder(tmp_path/'d', mask=lambda i: ids(i)//2*2 if i else ids(i))
    for i in range(1, 4):
        (d/'labels'/f'a{i}_P.png').unlink()
        put(d/'labels'/f'a{i}_P.gif', ids(i)//2*2)
    if (read_mask(d/'labels'/'a1_P.gif') == ids(1)//2*2).all():
        assert look(d).ok
        return
    says(next(iter(look(d).errors)), 'index 1 is the grey of id 2')
    for i,x in enumerate(fixed(d).values()): assert (x == (ids(i)//2*2 if i else ids(i))).all()

def disc(i, size=60):
    "A disc with a smoothed edge, as shares of 1."
    r,c = np.mgrid[:size, :size]
    return np.clip(size/3 + .5 - np.hypot(r - size/2, c - size/2 - i), 0, 1)

def discs(path, mask, codes=BW):
    d = folder(path, mask=mask, codes=codes)
    for i in range(4):
        x = np.random.default_rng(i).integers(0, 256, (60, 60, 3)).astype(np.uint8)
        put(d/'images'/f'a{i}.jpg', x)
    return d

@pytest.mark.parametrize('codes', [BW, [*BW, 'Void']])
@pytest.mark.parametrize('colours', [False, True])
def test_smoothed_edges_are_told_in_numbers(tmp_path, codes, colours):
    def mask(i):
        x = disc(i)[..., None]
        x = (x*np.array([200, 0, 0]) + (1 - x)*np.array([0, 90, 10])) if colours else x*255
        return x.round().astype(np.uint8).squeeze()
    d = discs(tmp_path/'d', mask, codes)
    r = look(d, fix=tmp_path/'copy')
    assert [p.kind for p in r.errors] == ['rgb' if colours else 'ids'], str(r)
    assert r.copy.ok, r.note
    between = sum(int(((disc(i) > 0) & (disc(i) < 1)).sum()) for i in range(4))
    sure = [(disc(i) == 0) | (disc(i) == 1) for i in range(4)]
    for i in range(4): # green is a little darker than red: the first class
        x, inner = read_mask(tmp_path/'copy'/'labels'/f'a{i}_P.png'), disc(i) > .5
        assert (x[sure[i]] == inner[sure[i]]).all()
        if len(codes) == 3: assert (x[~sure[i]] == 2).mean() > .9
        else: assert ((x == inner) | (np.abs(disc(i) - .5) < .1)).all()
    found = int(r.note.split(' pixels (')[0].split()[-1].replace(',', ''))
    assert .9*between <= found <= between and '4 masks had values between' in r.note
    assert ('are now Void (id 2)' if len(codes) == 3 else 'are now their nearest class') in r.note

def test_a_class_that_a_mapping_forgets_is_not_moved(tmp_path):
    "A third colour that fills a region is no smoothed edge."
    d = wide(tmp_path/'d', lambda i: RGB[ids(i, (24, 32)) % 3], CODES[:3])
    r = look(d, fix=tmp_path/'copy', mapping={(10, 10, 10): 0, (200, 0, 0): 1})
    assert r.copy is None and 'No copy was written' in r.note
    assert '4 values without a class' in r.note

def test_a_rare_class_is_not_taken_for_an_edge(tmp_path):
    "Eight pixels of 768 are about a hundredth, and white, red and grey are not mixtures."
    def mask(i):
        x = np.zeros((24, 32, 3), np.uint8)
        x[:, 16:] = 255
        x[:2, :4] = 200, 0, 0
        return x
    d = wide(tmp_path/'d', mask, ['background', 'wall', 'door'])
    r = look(d, fix=tmp_path/'copy')
    assert (r.copy.class_pixels > 0).all()

def test_an_empty_copy_is_not_called_ok(tmp_path):
    d = wide(tmp_path/'d', lambda i: np.where(inside(i), 255, 0).astype(np.uint8))
    r = look(d, fix=tmp_path/'copy', mapping={0: 0, 255: 0})
    assert r.copy is not None and not r.copy.ok and 'one class' in [p.kind for p in r.copy.errors]
    assert 'Expected two classes at least' in r.note

def test_deep_colours(tmp_path):
    "Three channels of 16 bits: colours of 8 bits in disguise, or numbers that are neither."
    tifffile = pytest.importorskip('tifffile')
    d = folder(tmp_path/'d')
    for i in range(4):
        (d/'labels'/f'a{i}_P.png').unlink()
        x = palette(CODES)[ids(i)].astype(np.uint16)*257
        if i == 3: x[0, 0] = 1000, 2000, 3000
        tifffile.imwrite(d/'labels'/f'a{i}_P.tif', x, photometric='rgb')
    r = look(d)
    assert {p.kind for p in r.errors} == {'no ids', 'rgb', '16 bit'}, str(r)
    assert '16 bits in each of 3 channels, with values up to' in str(r)

@pytest.mark.parametrize('x, part', [(np.stack([ids(0)]*2), '2 pages'),
        (np.dstack([ids(0)]*5), 'shape (6, 8, 5)')])
def test_pages_and_bands_of_a_mask(data, x, part):
    tifffile = pytest.importorskip('tifffile')
    (data/'labels'/'a0_P.png').unlink()
    kw = dict(planarconfig='contig') if x.shape[-1] == 5 else {}
    tifffile.imwrite(data/'labels'/'a0_P.tif', x, photometric='minisblack', **kw)
    says(only(look(data), 'no ids'), 'a0_P.tif', part)


# ---- sets that teach nothing

def test_one_class_only(tmp_path):
    d = folder(tmp_path/'d', mask=lambda i: np.where(ids(i) == 3, 3, 1).astype(np.uint8))
    p = look(d).errors[0]
    assert p.kind == 'one class'
    says(p, 'All labelled pixels of the 4 masks are wall (id 1)', 'two classes at least')
    d = folder(tmp_path/'e', codes=['cell', 'Void'], mask=lambda i: (ids(i) > 1).astype(np.uint8))
    says(only(look(d), 'one class'), '1 class is named beside Void: cell')

@pytest.mark.parametrize('void, part', [((3,), 'validation'), ((0, 1, 2), 'training')])
@pytest.mark.parametrize('listed', [True, False])
def test_a_part_of_the_split_that_is_all_void(tmp_path, void, part, listed):
    d = folder(tmp_path/'d', valid=int(listed),
        mask=lambda i: np.full((6, 8), 3, np.uint8) if i in void else ids(i))
    assert np.random.default_rng(42).permutation(4)[0] == 3 # the random split takes the last, too
    p = next(p for p in look(d).errors if p.kind == 'void part')
    says(p, f'All pixels of the {part} masks', 'Void (id 3)', 'Name other images in valid.txt')
    assert ('random split' in p.message) != listed
    from segbook.data import seg_dataloaders
    with pytest.raises(SegbookError, match=f'{part} masks are Void'):
        seg_dataloaders(d, bs=1, num_workers=0, device='cpu')

def test_twins(tmp_path):
    d = folder(tmp_path/'d')
    rng = np.random.default_rng(0)
    for i in range(4):
        put(d/'images'/f'a{i}.jpg', rng.integers(0, 256, (6, 8, 3)).astype(np.uint8))
    (d/'images'/'a3.jpg').write_bytes((d/'images'/'a1.jpg').read_bytes())
    says(only(look(d), 'twins', 'warning'), '1 picture in several files, one to train on and one '
        'to validate with: a1.jpg and a3.jpg', 'Take the doubles out')
    assert look(d, valid=['a0.jpg']).problems == [] # both are trained on
    (d/'valid.txt').unlink()
    says(only(look(d), 'twins', 'warning'), 'a random split may put one into each part')

def test_few_images(tmp_path):
    says(only(look(folder(tmp_path/'d', n=2)), 'few images', 'warning'), '1 image to train on')


# ---- real folders

@pytest.mark.parametrize('name, n', [('camvid_tiny', 100), ('camvid', 468), ('membranes', 24),
        ('retina', 20), ('nuclei', 120)])
def test_real_folders_are_ok(name, n):
    if not (REAL/name).is_dir():
        pytest.skip(f'no real images in {REAL/name}: set SEGBOOK_REAL_DATA')
    r = look(REAL/name)
    assert r.ok and r.n_images == n, str(r)
    m = read_mask(SegFolder(REAL/name).labels[0])
    assert m.dtype == np.uint8 and m.max() < len(r.codes)
