"""Volumes and their labels: nibabel's world coordinates of single voxels as the oracle; labels
stored with other axes, other types, other places; and what folders of such files lead to."""
import itertools
import struct

import nibabel as nib
import numpy as np
import pydicom
import pytest
from test_medical_files import dicom, refusal

from segbook.data import seg_dataloaders
from segbook.errors import SegbookError
from segbook.masks import check_masks, read_mask
from segbook.reading import UnreadableFile, open_stored, volume_slices
from segbook.reading.placement import placement_difference

RNG = np.random.default_rng(0)
SHAPE = 5, 6, 4
AFFINE = np.array([[-.8, 0, .1, 20], [.02, 1.1, 0, -30], [0, 0, 2.5, 7], [0, 0, 0, 1]])
TURNS = [(p, s) for p in itertools.permutations(range(3))
    for s in itertools.product((1, -1), repeat=3)]


def save(file, x, affine):
    nib.save(nib.Nifti1Image(x, affine), file)
    return file

def stored_otherwise(x, affine, order, signs):
    "The same voxels at the same places, in an array with other axes: voxel by voxel"
    shape = [x.shape[i] for i in order]
    y, move = np.zeros(shape, x.dtype), np.zeros((4, 4))
    move[3, 3] = 1
    for new, (old, sign) in enumerate(zip(order, signs)):
        move[old, new] = sign
        if sign < 0: move[old, 3] = x.shape[old] - 1
    for new in np.ndindex(*shape):
        y[new] = x[tuple(int(o) for o in (move @ [*new, 1])[:3])]
    return y, affine @ move

def organ(shape=SHAPE): return RNG.integers(0, 3, shape).astype(np.uint8)


# ---- volumes

@pytest.mark.parametrize('order,signs', TURNS)
def test_labels_are_cut_as_their_image_lies(tmp_path, order, signs):
    x, y = RNG.integers(-900, 900, SHAPE).astype(np.int16), organ()
    image = save(tmp_path/'i.nii.gz', x, AFFINE)
    z, affine = stored_otherwise(y, AFFINE, order, signs)
    other = save(tmp_path/'l.nii.gz', z, affine)
    world = {tuple(np.round(nib.affines.apply_affine(affine, o), 4)): z[o]
        for o in np.ndindex(*z.shape)}
    for axis in range(3):
        files = volume_slices(other, tmp_path/f'out{axis}', axis, name='i', like=image)
        for k, f in enumerate(files):
            got = read_mask(f)
            for r, c in np.ndindex(*got.shape):
                at = np.insert((r, c), axis, k)
                assert got[r, c] == world[tuple(np.round(nib.affines.apply_affine(AFFINE, at), 4))]

@pytest.mark.parametrize('order,signs', TURNS[:8] + TURNS[8::7])
def test_slices_that_lie_otherwise_are_an_error_of_the_check(tmp_path, order, signs):
    shape = 6, 6, 6 # so that sizes and names always fit
    x, y = RNG.integers(0, 900, shape).astype(np.int16), organ(shape)
    z, affine = stored_otherwise(y, AFFINE, order, signs)
    (tmp_path/'codes.txt').write_text('a\nb\nc')
    volume_slices(save(tmp_path/'i.nii.gz', x, AFFINE), tmp_path/'images')
    volume_slices(save(tmp_path/'l.nii.gz', z, affine), tmp_path/'labels', name='i')
    report = check_masks(tmp_path, progress=False)
    same = order == (0, 1, 2) and signs == (1, 1, 1)
    assert ('placement' in [p.kind for p in report.errors]) is not same
    if same: return
    assert 'rows, columns and slices run to L, A, S in the image' in str(report)
    with pytest.raises(SegbookError, match='does not lie where its image lies'):
        seg_dataloaders(tmp_path, bs=2)
    fixed = check_masks(tmp_path, progress=False, fix=tmp_path.with_name(f'{tmp_path.name}_fix'))
    assert 'No copy was written' in str(fixed) and 'of another place' in str(fixed)

@pytest.mark.parametrize('change,text', [
    (lambda a: a @ np.diag([1.3, 1, 1, 1]), 'voxels of 0.8x1.1x2.5 mm in the image and 1.04x1.1'),
    (lambda a: nib.affines.from_matvec(np.eye(3), (0, 2, 0)) @ a, 'columns'),
    (lambda a: nib.affines.from_matvec(nib.eulerangles.euler2mat(z=.3)) @ a, 'turned against')])
def test_what_would_have_to_be_resampled_is_refused(tmp_path, change, text):
    image = save(tmp_path/'i.nii.gz', np.zeros(SHAPE, np.int16), AFFINE)
    other = save(tmp_path/'l.nii.gz', organ(), change(AFFINE))
    with pytest.raises(UnreadableFile, match=text) as e:
        volume_slices(other, tmp_path/'out', like=image)
    assert 'resample_from_to' in str(e.value) and not (tmp_path/'out').exists()

def test_other_refusals_of_like(tmp_path):
    image = save(tmp_path/'i.nii.gz', np.zeros(SHAPE, np.int16), AFFINE)
    def said(x, affine=AFFINE, like=image):
        save(tmp_path/'l.nii.gz', x, affine)
        with pytest.raises(SegbookError) as e:
            volume_slices(tmp_path/'l.nii.gz', tmp_path/'out', like=like)
        assert not (tmp_path/'out').exists()
        return str(e.value)
    assert '5x6x3 voxels along the axes' in said(organ((5, 6, 3)))
    assert 'one id a voxel' in said(organ((*SHAPE, 3)))
    assert 'such as 0.4' in said(np.full(SHAPE, .4, np.float32))
    assert 'no whole number' in said(np.full(SHAPE, np.nan, np.float32))
    assert 'go from -1 to -1' in said(np.full(SHAPE, -1, np.int16))
    assert 'l.nii.gz does not state where it lies' in said(organ(), None)
    f = dicom(tmp_path/'a.dcm', np.zeros((5, 6), np.uint8))
    assert 'expected NIfTI for both' in said(organ(), like=f)
    assert 'is not there' in said(organ(), like=tmp_path/'none.nii')

def test_volumes_that_both_do_not_say_where_they_lie(tmp_path):
    for f, x in (('i.nii', np.zeros(SHAPE, np.int16)), ('l.nii', y := organ())):
        save(tmp_path/f, x, None)
    files = volume_slices(tmp_path/'l.nii', tmp_path/'out', like=tmp_path/'i.nii')
    assert all((read_mask(f) == y[..., k]).all() for k, f in enumerate(files))
    assert open_stored(files[0]).placement is None

@pytest.mark.parametrize('unit,factor', [('meter', 1000), ('mm', 1), ('micron', .001)])
def test_the_unit_of_the_header_counts(tmp_path, unit, factor):
    im = nib.Nifti1Image(organ((5, 6, 1)), AFFINE)
    im.header.set_xyzt_units(unit)
    nib.save(im, tmp_path/'a.nii')
    at = open_stored(tmp_path/'a.nii').placement
    assert np.allclose(at.origin, AFFINE[:3, 3]*factor)
    assert np.allclose(at.down, AFFINE[:3, 0]*factor)
    other = save(tmp_path/'b.nii', organ((5, 6, 1)), AFFINE*[[factor], [factor], [factor], [1]])
    assert not placement_difference(at, open_stored(other).placement, (5, 6))


# ---- ids of any type

def raw_volume(file, x, slope=None):
    "A NIfTI file of exactly these numbers; the slope is written into its header (bytes 112 to 119)"
    nib.save(nib.Nifti1Image(x, AFFINE), file)
    if slope:
        with open(file, 'r+b') as f:
            f.seek(112)
            f.write(struct.pack('<2f', slope, 0))
    return file

@pytest.mark.parametrize('dtype,slope', [(np.uint8, None), (np.int16, None), (np.uint16, None),
    (np.int32, None), (np.float32, None), (np.float64, None), (np.int16, .5), (np.int16, 1/255),
    (np.float64, 1/3), (np.uint8, 1/3)])
def test_ids_of_any_type_reach_the_batches(tmp_path, dtype, slope):
    "As single slices in NIfTI, and as slices of a volume of labels: the same whole ids"
    y, x = organ((8, 9, 6)), RNG.integers(-900, 900, (8, 9, 6)).astype(np.int16)
    stored = np.round(y/(slope or 1)).astype(dtype)
    kinds = tmp_path/'nifti', tmp_path/'slices'
    for o in kinds:
        for d in ('images', 'labels'): (o/d).mkdir(parents=True)
        (o/'codes.txt').write_text('a\nb\nc\n')
    for k in range(6):
        save(kinds[0]/'images'/f's{k}.nii', x[..., k:k + 1], AFFINE)
        f = raw_volume(kinds[0]/'labels'/f's{k}.nii', stored[..., k:k + 1], slope)
        assert nib.load(f).dataobj.slope == pytest.approx(slope or 1)
    raw_volume(tmp_path/'l.nii', stored, slope)
    volume_slices(save(tmp_path/'s.nii', x, AFFINE), kinds[1]/'images')
    volume_slices(tmp_path/'l.nii', kinds[1]/'labels', name='s', like=tmp_path/'s.nii')
    for o in kinds:
        report = check_masks(o, progress=False)
        assert report.ok, report
        assert report.class_pixels.tolist() == [int((y == k).sum()) for k in range(3)]
        for k, f in enumerate(sorted((o/'labels').iterdir())):
            assert (read_mask(f) == y[..., k]).all()
        dls = seg_dataloaders(o, bs=4, batch_tfms=None)
        found = [m.numpy().tobytes() for part in dls for _, b in part for m in b]
        assert len(found) == 5 and set(found) <= {y[..., k].astype(np.int64).tobytes()
            for k in range(6)}

def test_ids_without_a_name_are_named_whatever_their_type(tmp_path):
    for d in ('images', 'labels'): (tmp_path/d).mkdir()
    (tmp_path/'codes.txt').write_text('a\nb\nc\n')
    for k in range(2):
        save(tmp_path/'images'/f's{k}.nii', RNG.integers(0, 99, (6, 6)).astype(np.int16), AFFINE)
        save(tmp_path/'labels'/f's{k}.nii', np.full((6, 6), 700 + k, np.int16), AFFINE)
    report = check_masks(tmp_path, progress=False)
    assert not report.ok and '700' in str(report) and '701' in str(report)
    save(tmp_path/'labels'/'s1.nii', np.full((6, 6), 1.5), AFFINE)
    report = check_masks(tmp_path, progress=False)
    assert 's1.nii (has 36 pixels of 36 with a value that is no whole number, such as 1.5)' in str(
        report)

def test_labels_without_like_are_refused_as_floats_and_corrected(tmp_path):
    "The slices of an int16 volume are float32: the check says so, and its copy holds the ids"
    y = organ((8, 9, 4)).astype(np.int16)
    (tmp_path/'codes.txt').write_text('a\nb\nc\n')
    save(tmp_path/'l.nii', y, AFFINE)
    volume_slices(tmp_path/'l.nii', tmp_path/'labels', name='s')
    x = RNG.integers(-900, 900, y.shape).astype(np.int16)
    volume_slices(save(tmp_path/'s.nii', x, AFFINE), tmp_path/'images')
    report = check_masks(tmp_path, progress=False, fix=tmp_path.with_name(f'{tmp_path.name}_fix'))
    assert [p.kind for p in report.errors] == ['16 bit'] and report.copy.ok
    for k, f in enumerate(sorted((report.copy.path/'labels').iterdir())):
        assert (read_mask(f) == y[..., k]).all()


# ---- DICOM segmentations

@pytest.mark.parametrize('frames', [1, 3])
def test_a_dicom_segmentation_is_refused_by_name(tmp_path, frames):
    x = np.zeros((frames, 4, 5), np.uint8)
    f = dicom(tmp_path/'a.dcm', x if frames > 1 else x[0], Modality='SEG',
        SOPClassUID=pydicom.uid.SegmentationStorage)
    assert 'DICOM segmentation (SEG)' in refusal(f) and 'like=image' in refusal(f)
    with pytest.raises(UnreadableFile, match='SEG'): volume_slices(f, tmp_path/'out')
    assert not (tmp_path/'out').exists()
