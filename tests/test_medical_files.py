"""DICOM and NIfTI: pydicom, nibabel and loops as oracles; files that hold no one picture; spacing;
volumes cut into slices; folders of such files through check, training and prediction."""
import builtins
import math

import nibabel as nib
import numpy as np
import pydicom
import pytest
import tifffile
from data_folders import message
from pydicom.dataset import FileMetaDataset
from pydicom.pixels import apply_modality_lut, apply_windowing
from pydicom.sequence import Sequence

from segbook.data import read_image, seg_dataloaders
from segbook.masks import SegFolder, check_masks, read_mask
from segbook.metrics import hausdorff95
from segbook.reading import UnreadableFile, open_stored, spacing_of, volume_slices
from segbook.reading.facts import image_facts

RNG = np.random.default_rng(0)


def dicom(file, x, **elements):
    "A DICOM file of the numbers `x`, [H,W], [H,W,3] or frames [N,H,W]"
    ds = pydicom.Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = pydicom.uid.CTImageStorage
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = pydicom.uid.generate_uid()
    colour = x.shape[-1] == 3
    ds.Rows, ds.Columns = x.shape[:2] if colour else x.shape[-2:]
    ds.SamplesPerPixel = 3 if colour else 1
    ds.PhotometricInterpretation = 'RGB' if colour else 'MONOCHROME2'
    if colour: ds.PlanarConfiguration = 0
    ds.BitsAllocated = ds.BitsStored = 8*x.itemsize
    ds.HighBit, ds.PixelRepresentation = ds.BitsStored - 1, int(x.dtype.kind == 'i')
    if not colour and x.ndim == 3: ds.NumberOfFrames = len(x)
    ds.PixelData = x.tobytes()
    for k, v in elements.items(): setattr(ds, k, v)
    ds.save_as(file, enforce_file_format=True)
    return file


def nifti(file, x, spacing=(1, 1, 1), signs=(1, 1, 1)):
    nib.save(nib.Nifti1Image(x, np.diag([*np.multiply(spacing, signs), 1.])), file)
    return file


def refusal(file):
    with pytest.raises(UnreadableFile) as e: open_stored(file)
    return f'{e.value.finding}. {e.value.cure}'


# ---- DICOM

@pytest.mark.parametrize('dtype', [np.uint8, np.int8, np.uint16, np.int16])
@pytest.mark.parametrize('slope,intercept', [(1, 0), (1, -1024), (.5, 3.25), (-2, 10)])
def test_values_are_those_of_pydicom(tmp_path, dtype, slope, intercept):
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    x = RNG.integers(low, high + 1, (6, 9)).astype(dtype)
    f = dicom(tmp_path/'a.dcm', x, RescaleSlope=slope, RescaleIntercept=intercept)
    ds = pydicom.dcmread(f)
    s = open_stored(f)
    assert np.array_equal(s.pixels, apply_modality_lut(ds.pixel_array, ds).astype(np.float32))
    assert s.size == (6, 9) and s.format == 'DICOM' and s.orientation == 1
    plain = dtype == np.uint8 and (slope, intercept) == (1, 0)
    assert s.pixels.dtype == (np.uint8 if plain else np.float32)


@pytest.mark.parametrize('bits', [8, 10, 12, 16])
@pytest.mark.parametrize('slope,intercept', [(1, 0), (2, -100)])
def test_monochrome1_is_turned_over_pixel_by_pixel(tmp_path, bits, slope, intercept):
    x = RNG.integers(0, 1 << bits, (5, 4)).astype(np.uint8 if bits == 8 else np.uint16)
    kw = dict(BitsStored=bits, HighBit=bits - 1, RescaleSlope=slope, RescaleIntercept=intercept)
    one, two = (open_stored(dicom(tmp_path/f'{m}.dcm', x, PhotometricInterpretation=m,
                **kw)).pixels for m in ('MONOCHROME1', 'MONOCHROME2'))
    for i in range(5):
        for j in range(4):
            assert two[i, j] == int(x[i, j])*slope + intercept
            assert one[i, j] == ((1 << bits) - 1 - int(x[i, j]))*slope + intercept


@pytest.mark.parametrize('mono', ['MONOCHROME1', 'MONOCHROME2'])
@pytest.mark.parametrize('how', ['LINEAR', 'LINEAR_EXACT'])
def test_the_window_that_is_told_is_pydicoms(tmp_path, mono, how):
    x = RNG.integers(0, 4096, (8, 8)).astype(np.uint16)
    f = dicom(tmp_path/'a.dcm', x, BitsStored=12, HighBit=11, RescaleSlope=1,
        RescaleIntercept=-1024, WindowCenter=[40, 600], WindowWidth=[400, 2000],
        VOILUTFunction=how, PhotometricInterpretation=mono)
    facts, ds = image_facts(f), pydicom.dcmread(f)
    assert facts.window and facts.wide
    ours = read_image(f, value_range=facts.window)[..., 0]
    unit = apply_windowing(apply_modality_lut(ds.pixel_array, ds), ds)
    unit = (unit - unit.min())/(unit.max() - unit.min())
    assert 0 < (ours == 0).sum() < 64 and np.allclose(ours, 1 - unit if mono[-1] == '1' else unit,
        atol=1e-6)


def test_colours_and_palettes(tmp_path):
    x = RNG.integers(0, 256, (4, 5, 3), dtype=np.uint8)
    assert np.array_equal(read_image(dicom(tmp_path/'rgb.dcm', x)), x)
    ids = RNG.integers(0, 4, (3, 4), dtype=np.uint8)
    table = np.array([0, 10, 20, 200], np.uint8)
    lut = {f'{c}PaletteColorLookupTable{k}': v for c in ('Red', 'Green', 'Blue')
        for k, v in (('Descriptor', [4, 0, 8]),
            ('Data', (table//(1 + 'RGB'.index(c[0]))).tobytes()))}
    f = dicom(tmp_path/'p.dcm', ids, PhotometricInterpretation='PALETTE COLOR', **lut)
    want = np.stack([table[ids]//(k + 1) for k in range(3)], -1)
    assert np.array_equal(open_stored(f).pixels, want)


def test_the_mark_counts_and_not_the_name(tmp_path):
    x = RNG.integers(0, 256, (4, 5), dtype=np.uint8)
    dicom(tmp_path/'a.dcm', x).rename(tmp_path/'IM0001')
    assert np.array_equal(open_stored(tmp_path/'IM0001').pixels, x)
    ds = pydicom.dcmread(tmp_path/'IM0001')
    bare = (tmp_path/'IM0001').read_bytes()[132:]
    del ds
    (tmp_path/'old.dcm').write_bytes(bare)  # without preamble: the ending counts
    assert np.array_equal(open_stored(tmp_path/'old.dcm').pixels, x)
    from PIL import Image
    Image.fromarray(x).save(tmp_path/'png.png')
    (tmp_path/'png.png').rename(tmp_path/'png.dcm')
    assert np.array_equal(open_stored(tmp_path/'png.dcm').pixels, x)


def test_spacing_of_dicom_in_all_places(tmp_path):
    x = np.zeros((4, 6), np.uint16)
    assert spacing_of(dicom(tmp_path/'a.dcm', x, PixelSpacing=[.7, .35])) == (.7, .35)
    measures, values = pydicom.Dataset(), pydicom.Dataset()
    measures.PixelSpacing, values.RescaleSlope, values.RescaleIntercept = [2, 3], 2, 5
    group = pydicom.Dataset()
    group.PixelMeasuresSequence = Sequence([measures])
    group.PixelValueTransformationSequence = Sequence([values])
    f = dicom(tmp_path/'new.dcm', x + np.uint16(4),
        SharedFunctionalGroupsSequence=Sequence([group]))
    assert spacing_of(f) == (2, 3) and (open_stored(f).pixels == 13).all()
    for kw in (dict(), dict(ImagerPixelSpacing=[1, 1]), dict(PixelSpacing=[0, 1])):
        m = message(spacing_of, dicom(tmp_path/'none.dcm', x, **kw))
        assert 'does not say how large a pixel is' in m and 'spacing=(height, width)' in m


def test_dicom_that_holds_no_one_picture(tmp_path):
    x = np.zeros((4, 6), np.uint8)
    many = refusal(dicom(tmp_path/'film.dcm', np.zeros((3, 4, 6), np.uint8)))
    assert 'it holds 3 frames' in many and 'volume_slices' in many
    ds = pydicom.dcmread(dicom(tmp_path/'a.dcm', x))
    del ds.PixelData
    ds.SOPClassUID = pydicom.uid.BasicTextSRStorage
    ds.save_as(tmp_path/'report.dcm')
    assert 'DICOM without pixels (Basic Text SR Storage)' in refusal(tmp_path/'report.dcm')
    (tmp_path/'junk.dcm').write_bytes(b'no dicom at all, '*40)
    refusal(tmp_path/'junk.dcm')
    whole = dicom(tmp_path/'b.dcm', RNG.integers(0, 99, (64, 64), dtype=np.uint8)).read_bytes()
    (tmp_path/'cut.dcm').write_bytes(whole[:-500])
    assert 'cut.dcm' in message(read_image, tmp_path/'cut.dcm')


@pytest.mark.parametrize('uid', ['JPEGLosslessSV1', 'JPEGLSLossless', 'HTJ2K'])
def test_a_decoder_that_is_missing_is_named_with_its_cure(tmp_path, uid):
    ds = pydicom.dcmread(dicom(tmp_path/'a.dcm', np.zeros((4, 6), np.uint8)))
    ds.file_meta.TransferSyntaxUID = getattr(pydicom.uid, uid)
    ds.PixelData = pydicom.encaps.encapsulate([bytes(8)])
    ds.save_as(tmp_path/'j.dcm')
    m = refusal(tmp_path/'j.dcm')
    assert 'which nothing here decompresses' in m and 'pip install pylibjpeg' in m


def test_rle_needs_no_package(tmp_path):
    x = RNG.integers(0, 4, (20, 30)).astype(np.uint16)*1000
    ds = pydicom.dcmread(dicom(tmp_path/'a.dcm', x))
    ds.compress(pydicom.uid.RLELossless)
    ds.save_as(tmp_path/'rle.dcm')
    assert np.array_equal(open_stored(tmp_path/'rle.dcm').pixels, x)


@pytest.mark.parametrize('package', ['pydicom', 'nibabel'])
def test_a_missing_package_names_the_extra(tmp_path, monkeypatch, package):
    f = (dicom(tmp_path/'a.dcm', np.zeros((2, 2), np.uint8)) if package == 'pydicom'
        else nifti(tmp_path/'a.nii', np.zeros((2, 2), np.uint8)))
    real = builtins.__import__
    import importlib
    monkeypatch.setattr(importlib, 'import_module', lambda name, *a: (_ for _ in ()).throw(
            ImportError(name)) if name == package else real(name))
    m = refusal(f)
    assert package in m and "pip install 'segbook[medical]'" in m


# ---- NIfTI

@pytest.mark.parametrize('dtype', [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
@pytest.mark.parametrize('ending', ['.nii', '.nii.gz'])
@pytest.mark.parametrize('shape', [(6, 9), (6, 9, 1), (1, 6, 9), (6, 1, 9)])
def test_a_slice_is_as_nibabel_has_it_and_not_turned(tmp_path, dtype, ending, shape):
    x = (RNG.random(shape)*200).astype(dtype)
    f = nifti(tmp_path/f'a{ending}', x, (2, 3, 4)[:3])
    s = open_stored(f)
    want = np.asarray(nib.load(f).dataobj).squeeze()
    assert s.size == (6, 9) and np.array_equal(s.pixels, want.astype(s.pixels.dtype))
    kept = [i for i, n in enumerate((*shape, 1)[:3]) if n > 1]
    assert s.spacing == pytest.approx(nib.load(f).header.get_zooms()[:2] if len(shape) == 2
        else [(2, 3, 4)[i] for i in kept]) and s.axes == ''.join('RAS'[i] for i in kept)


def test_scaled_values_units_and_directions(tmp_path):
    im = nib.Nifti1Image(np.arange(12, dtype=np.int16).reshape(3, 4), np.diag([-2000., 500, 1, 1]))
    im.header.set_slope_inter(.5, -3)
    im.header.set_xyzt_units('micron')
    nib.save(im, tmp_path/'a.nii')
    s = open_stored(tmp_path/'a.nii')
    assert np.allclose(s.pixels, nib.load(tmp_path/'a.nii').get_fdata())
    assert s.spacing == pytest.approx((2, .5)) and s.axes == 'LA'
    assert spacing_of(tmp_path/'a.nii') == pytest.approx((2, .5))


def test_volumes_are_refused_with_the_function_that_cuts_them(tmp_path):
    m = refusal(nifti(tmp_path/'v.nii.gz', np.zeros((4, 5, 6), np.uint8)))
    assert 'a volume of 4x5x6' in m and 'volume_slices(file, folder)' in m
    whole = nifti(tmp_path/'s.nii.gz', RNG.integers(0, 999, (60, 60)).astype(np.int16)).read_bytes()
    (tmp_path/'cut.nii.gz').write_bytes(whole[:len(whole)//2])
    refusal(tmp_path/'cut.nii.gz')
    (tmp_path/'junk.nii').write_bytes(b'x'*500)
    refusal(tmp_path/'junk.nii')


# ---- volumes

@pytest.mark.parametrize('axis', [0, 1, 2])
def test_slices_of_a_volume_are_its_slices(tmp_path, axis):
    v = RNG.integers(-500, 900, (5, 6, 7)).astype(np.int16)
    y = RNG.integers(0, 3, (5, 6, 7)).astype(np.uint8)
    files = volume_slices(nifti(tmp_path/'p01.nii.gz', v, (.5, 2, 3)), tmp_path/'images', axis)
    masks = volume_slices(nifti(tmp_path/'seg.nii', y), tmp_path/'labels', axis, name='p01')
    kept = [i for i in range(3) if i != axis]
    for k, (f, m) in enumerate(zip(files, masks, strict=True)):
        assert f.name == m.name == f'p01_s{k:03d}.tif'
        for i in range(v.shape[kept[0]]):
            at = [i, slice(None)]
            at.insert(axis, k)
            assert np.array_equal(open_stored(f).pixels[i], v[tuple(at)])
            assert np.array_equal(read_mask(m)[i], y[tuple(at)])
        assert spacing_of(f) == pytest.approx([(.5, 2, 3)[i] for i in kept])
        assert 'p01.nii.gz' in tifffile.TiffFile(f).pages[0].description


def test_channels_of_a_volume_become_bands(tmp_path):
    v = RNG.random((5, 6, 3, 4)).astype(np.float32)
    for k, f in enumerate(volume_slices(nifti(tmp_path/'b.nii', v), tmp_path/'out')):
        assert np.array_equal(open_stored(f).pixels, v[:, :, k]) and image_facts(f).channels == 4


def test_frames_of_dicom(tmp_path):
    x = RNG.integers(0, 4000, (3, 5, 6)).astype(np.uint16)
    f = dicom(tmp_path/'film.dcm', x, RescaleSlope=1, RescaleIntercept=-1000, PixelSpacing=[.4, .6])
    for k, o in enumerate(volume_slices(f, tmp_path/'out')):
        assert np.array_equal(open_stored(o).pixels, x[k].astype(np.float32) - 1000)
        assert spacing_of(o) == (.4, .6)


def test_nothing_is_written_where_something_is(tmp_path):
    f = nifti(tmp_path/'a.nii', np.zeros((3, 3, 3), np.uint8))
    (tmp_path/'out').mkdir()
    (tmp_path/'out'/'a_s002.tif').write_text('mine')
    assert 'nothing is overwritten' in message(volume_slices, f, tmp_path/'out')
    assert [o.name for o in (tmp_path/'out').iterdir()] == ['a_s002.tif']
    m = message(volume_slices, tmp_path/'out'/'a_s002.tif', tmp_path)
    assert 'neither NIfTI nor DICOM' in m
    assert 'axis=3' in message(volume_slices, f, tmp_path/'new', 3)
    t = nifti(tmp_path/'t.nii', np.zeros((3, 3, 3, 99), np.uint8))
    assert 'A series in time' in message(volume_slices, t, tmp_path/'new')
    assert not (tmp_path/'new').exists()


# ---- spacing of TIFF

def test_spacing_of_tiff(tmp_path):
    x = np.zeros((4, 6), np.uint16)
    tifffile.imwrite(tmp_path/'ij.tif', x, imagej=True, resolution=(4, 2), metadata={'unit': 'mm'})
    assert spacing_of(tmp_path/'ij.tif') == pytest.approx((.5, .25))
    tifffile.imwrite(tmp_path/'a.ome.tif', x, metadata=dict(axes='YX', PhysicalSizeX=.25,
            PhysicalSizeY=.5, PhysicalSizeXUnit='µm', PhysicalSizeYUnit='µm'))
    assert spacing_of(tmp_path/'a.ome.tif') == pytest.approx((.0005, .00025))
    assert open_stored(tmp_path/'a.ome.tif').spacing == pytest.approx((.0005, .00025))
    tifffile.imwrite(tmp_path/'screen.tif', x, resolution=(72, 72))
    assert 'does not say' in message(spacing_of, tmp_path/'screen.tif')


def test_a_distance_in_millimetres(tmp_path):
    "Two single pixels three columns apart, 0.5 mm each"
    f = dicom(tmp_path/'a.dcm', np.zeros((8, 8), np.uint8), PixelSpacing=[2, .5])
    pred, mask = np.zeros((2, 8, 8), np.int64)
    pred[4, 2], mask[4, 5] = 1, 1
    d = hausdorff95(pred, mask, 2, spacing=spacing_of(f))
    assert math.isclose(float(d[1]), 3*.5)


# ---- folders: check, training, prediction

def patient_folder(path, kind, n=6):
    "Images of CT values in DICOM or NIfTI, masks beside them in the same format, or PNG"
    from PIL import Image
    for d in ('images', 'labels'): (path/d).mkdir(parents=True)
    (path/'codes.txt').write_text('air\nbody\n')
    names = []
    for i in range(n):
        y = np.zeros((32, 32), np.uint8)
        y[8:24, 4 + i:20 + i] = 1
        x = (y*900. + RNG.integers(0, 200, y.shape)).astype(np.uint16)
        if kind == 'dicom':
            f = dicom(path/'images'/f'p{i}.dcm', x, RescaleSlope=1, RescaleIntercept=-1024,
                WindowCenter=40, WindowWidth=400, PixelSpacing=[.5, .5])
            Image.fromarray(y).save(path/'labels'/f'p{i}.png')
        else:
            f = nifti(path/'images'/f'p{i}.nii.gz', x.astype(np.int16) - 1024)
            nifti(path/'labels'/f'p{i}.nii.gz', y)
        names.append(f.name)
    (path/'valid.txt').write_text('\n'.join(names[-2:]) + '\n')
    return path


@pytest.mark.parametrize('kind', ['dicom', 'nifti'])
def test_check_and_batches(tmp_path, kind, capsys):
    path = patient_folder(tmp_path/'d', kind)
    report = check_masks(path, progress=False)
    assert report.ok and report.class_pixels.sum() == 6*32*32
    assert ('value_range=(-160, 239)' in str(report)) is (kind == 'dicom')
    assert len(SegFolder(path)) == 6 and len(SegFolder(path).valid) == 2
    dls = seg_dataloaders(path, bs=2, batch_tfms=None)
    x, y = dls.train.one_batch()
    assert x.shape == (2, 1, 32, 32) and 0 <= x.min() and x.max() <= 1
    assert float(x[y[:, None] == 1].min()) > float(x[y[:, None] == 0].max())
    assert 'value_range=(-160, 239)' in capsys.readouterr().out or kind == 'nifti'
    windowed = seg_dataloaders(path, bs=2, batch_tfms=None, value_range=(-160, 239))
    assert windowed.value_range == (-160, 239)


def test_a_volume_among_the_slices_is_an_error_of_the_check(tmp_path):
    path = patient_folder(tmp_path/'d', 'nifti')
    nifti(path/'images'/'p0.nii.gz', np.zeros((8, 8, 8), np.uint8))
    report = check_masks(path, progress=False)
    assert not report.ok and 'volume_slices' in str(report)
    dicom(path/'images'/'IM7', np.zeros((4, 4), np.uint8))
    assert '1 image without the ending' in str(check_masks(path, progress=False))
