"""Augmentation: no transform invents an id, image and mask stay together, and what breaks that is
found.

The oracle shares no code with the library's own checker images: each pixel of a **ramp** carries
its own row and column, in the image as colours and in the mask as one large id. After any move both
must still tell of the same place, in every pixel."""
import math, pickle, random, sys
from pathlib import Path

import numpy as np, pytest, torch
from PIL import Image
from fasttransform import ItemTransform, Pipeline
from fastai.torch_core import TensorImage, TensorMask
from fastai.vision.augment import *
from fastai.vision.core import PILImage, PILImageBW, PILMask, TensorPoint
from scipy.ndimage import map_coordinates
from segbook.augmentation import (AlbumentationsTfm, ElasticDeform, MovePair, alignment_error,
    check_augmentation, drift, elastic_field, move_once)
from segbook.augmentation.alignment import CHECKER_IDS, checker_images
from segbook.data import make_scenes, mild_tfms, seg_dataloaders
from segbook.masks import SegbookError, SegFolder, read_mask

pytestmark = pytest.mark.usefixtures('one_thread')

IDS,WIDE = torch.tensor([0, 11, 255]),4096

def augment(tfms, x, y, seed=0, split_idx=0):
    random.seed(seed)
    torch.manual_seed(seed)
    np.random.seed(seed)
    tfms = list(tfms) if isinstance(tfms, (list, tuple)) or hasattr(tfms, 'map') else [tfms]
    return Pipeline(tfms, split_idx=split_idx)((TensorImage(x.clone()), TensorMask(y.clone())))

def ramps(n, h, w, channels):
    "Images whose channels are column, row, column, row ..., and masks of row*WIDE + column."
    r,c = torch.meshgrid(torch.arange(h), torch.arange(w), indexing='ij')
    x = torch.stack([(c, r)[i % 2] for i in range(channels)]).float()
    return x.repeat(n, 1, 1, 1),(r*WIDE+c).repeat(n, 1, 1)

def farthest(o):
    "Pixels between the places that image and mask tell of, at most, along an axis."
    x,y = (t.as_subclass(torch.Tensor) for t in o)
    where = torch.stack([(y % WIDE, y//WIDE)[i % 2] for i in range(x.shape[1])], 1)
    return (x-where).abs().max().item()

def blocks(n, h, w, seed):
    "Masks of random blocks, lines and dots of the ids 0, 11 and 255."
    g = torch.Generator().manual_seed(seed)
    y = IDS[torch.randint(0, 3, (n, -(-h//7), -(-w//7)), generator=g)].repeat_interleave(7,
        1).repeat_interleave(7, 2)[:,:h,:w].clone()
    y[:,h//2] = 255
    y[:,:,w//3] = 0
    y[:,::5,::9] = 11
    return y

SIZES = [(2, 9), (17, 17), (33, 61), (64, 48), (95, 40)]

def some_moves(rng, h, w):
    "A random list of moves: fastai's and ours, joined or not."
    bend = ElasticDeform(sigma=rng.uniform(0, .2)*(min(h, w)-1)/2, p=rng.choice([.5, 1.]),
        batch=rng.random() < .3)
    one = rng.choice([lambda: [Flip(p=.5)], lambda: [Dihedral(p=.8)],
            lambda: [Rotate(rng.uniform(0, 90), p=.8)], lambda: [Zoom(.7, 2.5, p=.8)],
            lambda: [Warp(rng.uniform(0, .4), p=.8)], lambda: [bend],
            lambda: aug_transforms(mult=2., max_zoom=2., max_lighting=0.),
            lambda: aug_transforms(flip_vert=True, max_lighting=0., xtra_tfms=[bend]),
            lambda: mild_tfms(max_lighting=0.), lambda: [*aug_transforms(max_lighting=0.), bend]])()
    return one if len(one)>1 or rng.random() < .3 else move_once(one)

# ---- the two rules, for any setting

@pytest.mark.parametrize('seed', range(40))
def test_moves_invent_no_id_and_keep_image_and_mask_together(seed):
    rng = random.Random(seed)
    (h,w),channels = SIZES[seed % len(SIZES)],(1, 3, 4)[seed % 3]
    tfms = move_once(some_moves(rng, h, w)+some_moves(rng, h, w)) 
    y = blocks(3, h, w, seed)
    out = augment(tfms, torch.rand(3, channels, h, w), y, seed)
    assert out[1].dtype==torch.int64 and out[1].shape==y.shape and torch.isin(
        out[1].as_subclass(torch.Tensor), y.unique()).all()
    assert farthest(augment(tfms, *ramps(3, h, w, channels), seed)) < .51

@pytest.mark.parametrize('tfms', [lambda: aug_transforms(max_lighting=0.),
        lambda: mild_tfms(max_lighting=0., max_rotate=45.), lambda: [ElasticDeform(3)]])
def test_unjoined_lists_are_right_too(tfms):
    assert farthest(augment(tfms(), *ramps(4, 50, 70, 3))) < .51

@pytest.mark.parametrize('size', [(40, 52), (25, 33), (16, 16), (130, 171)])
@pytest.mark.parametrize('joined', [True, False])
def test_other_sizes(size, joined):
    make = lambda: aug_transforms(max_lighting=0., max_rotate=45., size=size)
    tfms = move_once(make()) if joined else make()
    y = blocks(4, 61, 90, 1)
    out = augment(tfms, torch.rand(4, 3, 61, 90), y)
    assert out[0].shape[-2:]==out[1].shape[-2:]==size and torch.isin(
        out[1].as_subclass(torch.Tensor), IDS).all()
    # where much is shrunk the image is smoothed first, which pulls the ends of a ramp inwards: on
    # average it stays
    x,y = (o.as_subclass(torch.Tensor) for o in augment(tfms, *ramps(4, 61, 90, 2)))
    off = (x-torch.stack([y % WIDE, y//WIDE], 1)).abs()
    assert off.mean() < .75 and (size[0] < 31 or off.max() < .51)

@pytest.mark.parametrize('tfm,channels',
    [(Brightness(.8, p=1.), 1), (Brightness(.8, p=1.), 3), (Brightness(.8, p=1.), 4),
        (Contrast(.8, p=1.), 1), (Contrast(.8, p=1.), 4), (Saturation(.9, p=1.), 3),
        (Hue(.4, p=1.), 3), (RandomErasing(p=1., sl=.1), 3)])
def test_colours_leave_the_mask_alone_to_the_bit(tfm, channels):
    for seed in range(3):
        x,y = torch.rand(2, channels, 31, 45),blocks(2, 31, 45, seed)
        for tfms in ([tfm], move_once([tfm])):
            out = augment(tfms, x, y, seed)
            assert torch.equal(out[1].as_subclass(torch.Tensor),
                y) and not torch.equal(out[0].as_subclass(torch.Tensor), x)

# ---- elastic deformation, against loops and scipy

def cubic(t):
    "The weight of a point at distance t: cubic convolution with a = -0.75, as PyTorch has it."
    a,t = -.75,abs(t)
    return (a+2)*t**3-(a+3)*t**2+1 if t<=1 else a*t**3-5*a*t**2+8*a*t-4*a if t<2 else 0.

def field_by_loops(nudges, h, w):
    "[h,w,2] in float64, pixel by pixel; points beyond the grid are those of its edge."
    _,r,c = nudges.shape
    out = np.zeros((h, w, 2))
    for i in range(h):
        for j in range(w):
            v,u = i*(r-1)/(h-1),j*(c-1)/(w-1)
            for a in range(math.floor(v)-1, math.floor(v)+3):
                for b in range(math.floor(u)-1, math.floor(u)+3):
                    out[i,j] += cubic(v-a)*cubic(u-b)*nudges[:,min(max(a, 0), r-1),
                        min(max(b, 0), c-1)]
    return out

@pytest.mark.parametrize('h,w,r,c', [(9, 13, 3, 3), (16, 11, 2, 5), (7, 7, 6, 4)])
def test_elastic_field_is_a_float_loop(h, w, r, c):
    nudges = np.random.default_rng(h).normal(size=(2, 2, r, c))
    got = elastic_field(torch.from_numpy(nudges), (h, w)).numpy()
    for n,o in zip(nudges, got): assert np.abs(field_by_loops(n, h, w)-o).max() < 1e-5

@pytest.mark.parametrize('pad,mode', [('reflection', 'mirror'), ('border', 'nearest')])
def test_elastic_deform_is_scipy(pad, mode):
    h,w,rng = 21,34,np.random.default_rng(5)
    nudges = rng.normal(size=(2, 2, 3, 3))*3
    x,y = torch.rand(2, 3, h, w),blocks(2, h, w, 3)
    out = augment(ElasticDeform(nudges=torch.from_numpy(nudges).float(), pad_mode=pad), x, y)
    for i in range(2):
        d = field_by_loops(nudges[i], h, w)
        at = np.mgrid[:h,:w]+d[...,::-1].transpose(2, 0, 1)
        for k in range(3):
            assert np.abs(map_coordinates(x[i,k].double().numpy(), at, order=1, mode=mode)-out[0][i,
                    k].numpy()).max() < 1e-4
        surely = (np.abs(at-np.floor(at)-.5) > 1e-3).all(0)
        assert surely.mean() > .95
        assert (map_coordinates(y[i].numpy(), at, order=0,
                mode=mode)==out[1][i].numpy())[surely].all()

def test_size_of_the_nudges():
    torch.manual_seed(0)
    t = ElasticDeform(sigma=4, points=3)
    x,y = ramps(400, 33, 65, 1)
    random.seed(0)
    torch.manual_seed(0)
    t((TensorImage(x), TensorMask(y)), split_idx=0)
    drawn = t.coord_fs[0].drawn*torch.tensor([64/2, 32/2])[:,None,None]
    assert abs(drawn.std()-4) < .1 and abs(drawn.mean()) < .1

def test_p_and_batch():
    x,y = ramps(200, 33, 33, 3)
    moved = (augment(ElasticDeform(2, p=.3), x, y)[1]!=y).flatten(1).any(1)
    assert .2 < moved.float().mean() < .4
    for o in (augment(ElasticDeform(2, p=0), x, y),
            augment(move_once([ElasticDeform(0), Rotate(p=0), Flip(p=0), Zoom(p=0), Warp(p=0)]), x,
                y)):
        assert torch.allclose(o[0], TensorImage(x), atol=1e-3) and torch.equal(o[1], TensorMask(y))
    alike = augment(ElasticDeform(2, batch=True), x[:5], y[:5])[1]
    apart = augment(ElasticDeform(2), x[:5], y[:5])[1]
    assert all(torch.equal(alike[0], o) for o in alike) and not torch.equal(alike[0],
        y[0]) and not torch.equal(apart[0], apart[1])

# ---- joined moves

def test_same_seed_same_result():
    x,y = torch.rand(3, 3, 40, 50),blocks(3, 40, 50, 0)
    t = move_once([*aug_transforms(), ElasticDeform(2)])
    a,b,c = augment(t, x, y, 7),augment(t, x, y, 7),augment(t, x, y, 8)
    assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) and not torch.equal(a[0], c[0])

def test_equal_to_fastai_and_no_slower(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parent.parent))
    from bench import augmentation as race
    from bench.topics import read_rows
    x,y = race.streets(4, (90, 120))
    for name,make in race.LISTS.items():
        for seed in range(3):
            colour,ids = race.differ(make, x, y, seed)
            assert colour < 2e-3 and ids < 5e-4, name
    rows = read_rows(race.TOPIC.file)
    # fastai's time in units of ours
    ratios = {k: r['ratios']['fastai'][0] for k,r in rows.items() if 'fastai' in r['ratios']}
    assert len(ratios)>=2*len(race.LISTS) and min(ratios.values())>=1., ratios
    assert set(race.LISTS)<={r['curve'] for r in rows.values()}

def test_joined_is_one_after_the_other():
    "In the middle of a square ramp, which bilinear reading leaves exact, however often it is read."
    x,y = ramps(1, 64, 64, 2)
    turns = [Rotate(draw=20, p=1), Zoom(draw=1.6, draw_x=.2, draw_y=.7, p=1), Flip(p=1)]
    for tfms in (turns, turns[::-1]):
        a,b = augment(tfms, x, y)[0],augment(move_once(tfms), x, y)[0]
        assert (a-b)[...,20:-20,20:-20].abs().max() < .01
    assert (augment(move_once(turns), x, y)[0]-b).abs().mean() > 2          # and the order matters

def test_the_transforms_given_stay_as_they_were():
    tfms = [Flip(p=1), Rotate(draw=9, p=1), ElasticDeform(1)]
    before = [(len(t.aff_fs), len(t.coord_fs)) for t in tfms]
    x,y = torch.rand(2, 3, 30, 40),blocks(2, 30, 40, 0)
    a,b = augment(move_once(tfms), x, y),augment(move_once(tfms), x, y)
    assert torch.equal(a[0], b[0]) and [(len(t.aff_fs), len(t.coord_fs)) for t in tfms]==before
    assert [type(t) for t in move_once([Brightness(), *tfms, Contrast()])]==[MovePair, Brightness,
        Contrast]
    assert move_once([Brightness()])[0].__class__ is Brightness and move_once(
        [])==[] and isinstance(move_once(Flip())[0], MovePair)

def test_tall_images_stay_sharp():
    "fastai smooths what is more than twice as tall as wide, by taking width for height; we do not."
    x,y = torch.rand(2, 3, 95, 40),blocks(2, 95, 40, 0)
    none = dict(size=(95, 40), align_corners=True)
    ours,theirs = augment(MovePair(**none), x, y),augment(AffineCoordTfm(**none), x, y)
    assert torch.allclose(ours[0], TensorImage(x),
        atol=1e-4) and (theirs[0]-TensorImage(x)).abs().mean() > .05

def test_what_is_shrunk_much_is_smoothed():
    # columns of black and white: grey from far away
    x = (torch.arange(96) % 2).float().expand(1, 1, 96, 96)
    o = augment(MovePair(size=24, align_corners=True), x, torch.zeros(1, 96, 96).long())[0]
    assert (o-.5).abs().max() < .1

def test_validation_is_left_alone_or_resized():
    x,y = torch.rand(2, 3, 30, 40),blocks(2, 30, 40, 0)
    out = augment(move_once([*aug_transforms(), ElasticDeform(2)]), x, y, split_idx=1)
    assert torch.equal(out[0], TensorImage(x)) and torch.equal(out[1], TensorMask(y))
    a,b = (augment(t, x, y, split_idx=1) for t in (move_once(aug_transforms(size=(15, 20))),
            aug_transforms(size=(15, 20))))
    assert torch.allclose(a[0], b[0], atol=1e-5) and torch.equal(a[1], b[1])

def test_nothing_is_kept_and_all_can_be_pickled():
    t = move_once([*aug_transforms(), ElasticDeform(2)])
    x,y = torch.rand(2, 3, 100, 120),blocks(2, 100, 120, 0)
    a = augment(t, x, y)
    assert t[0].places is None and len(pickle.dumps(t)) < 20_000
    assert torch.equal(augment(pickle.loads(pickle.dumps(t)), x, y)[0], a[0])
    with pytest.raises(SegbookError): augment(t, x, y.float())
    assert t[0].places is None

def test_images_alone_and_points():
    x = torch.rand(2, 3, 30, 40)
    assert augment(move_once([Rotate(20, p=1)]), x, blocks(2, 30, 40, 0))[0].shape==x.shape
    alone = move_once([Rotate(draw=20, p=1)])[0](TensorImage(x), split_idx=0)
    assert torch.allclose(alone, Rotate(draw=20, p=1)(TensorImage(x), split_idx=0), atol=1e-4)
    p = TensorPoint(torch.tensor([[[.2, -.5]]]*2), img_size=(40, 30))
    a,b = (t((TensorImage(x), p.clone()), split_idx=0)[1]
        for t in (move_once([Rotate(draw=20, p=1)])[0], Rotate(draw=20, p=1)))
    assert torch.allclose(a, b)
    with pytest.raises(SegbookError, match='not points and boxes'):
        ElasticDeform(1)((TensorImage(x), p), split_idx=0)

@pytest.mark.parametrize('make,words', [(lambda: ElasticDeform(-1), 'sigma is -1; expected 0 '
            'pixels or more'), (lambda: ElasticDeform(math.inf), 'sigma is inf'),
        (lambda: ElasticDeform(points=1), 'points is 1; expected a whole number'),
        (lambda: ElasticDeform(points=2.5), 'points is 2.5'),
        (lambda: ElasticDeform(p=-.1), 'p is -0.1; expected a share'),
        (lambda: elastic_field(torch.zeros(1, 3, 3, 3), (4, 4)), r'shape \[1, 3, 3, 3\]; expected '
            r'\[B,2,points,points\]'), (lambda: augment(ElasticDeform(9), *ramps(1, 33, 65, 3)),
            'sigma is 9 pixels in images of 33×65, where the 3×3 points are 16 pixels apart'),
        (lambda: augment(ElasticDeform(1), torch.rand(2, 3, 20, 30), torch.zeros(2, 20, 31).long()),
            '2 images of 20×30 came with 2 masks of 20×31'),
        (lambda: augment(ElasticDeform(1), torch.rand(2, 3, 20, 30), torch.zeros(1, 20, 30).long()),
            '2 images of 20×30 came with 1 masks'),
        (lambda: augment(move_once([Flip()]), torch.rand(2, 3, 20, 30), torch.zeros(2, 20, 30)),
            'the masks are float32'), (lambda: augment(move_once([Flip()]),
            torch.rand(2, 3, 20, 30), torch.zeros(2, 1, 20, 30).long()),
            r'int64 \[2, 1, 20, 30\]; expected integers \[B,H,W\]'),
        (lambda: move_once([Rotate(size=32), Warp(size=(32, 40))]), r'cp_size \(32, 32\) and \(32, '
            r'40\); expected one'), (lambda: move_once([Rotate(mode='nearest'), Warp()]),
            "mode 'bilinear' and 'nearest'")])
def test_errors_say_what_was_found(make, words):
    with pytest.raises(SegbookError, match=words): make()

# ---- the instrument

class Pair(ItemTransform):
    "Any two functions, one for the image and one for the mask, as somebody might write it."
    def __init__(self, image=lambda x: x, mask=lambda y: y):
        super().__init__()
        self.image,self.mask = image,mask
    def encodes(self, o): return self.image(o[0]),self.mask(o[1])

def turn(deg, mode=None):
    return lambda o: o.rotate(draw=deg, p=1, **({} if mode is None else dict(mode=mode)))
def roll(d): return lambda x: x.roll(d, -1)

@pytest.mark.parametrize('shift', [1, 2, 4, 6])
@pytest.mark.parametrize('channels', [1, 3, 4])
def test_the_drift_is_the_shift(shift, channels):
    for d in (roll(shift), roll(-shift), lambda x: x.roll(shift, -2)):
        assert shift*.8 < alignment_error(Pair(image=d), channels=channels) < shift*1.35
        assert alignment_error(Pair(d, d), channels=channels)==0

EIGHT = [(0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1)]

def carried(x, down, right):
    "The images [n,C,H,W] moved by so many pixels, by grid_sample: bilinear, the border repeated."
    h,w = x.shape[-2:]
    r,c = torch.meshgrid(torch.arange(h)-float(down), torch.arange(w)-float(right), indexing='ij')
    at = torch.stack([c/(w-1), r/(h-1)], -1)*2-1
    return torch.nn.functional.grid_sample(x, at[None].expand(len(x), -1, -1, -1).float(),
        padding_mode='border', align_corners=True)

@pytest.mark.parametrize('length', [.5, 1, 1.5, 3, 6, 10])
@pytest.mark.parametrize('size', [(192, 256), (97, 131), (160, 90)])
def test_drift_is_the_length_of_a_shift_in_any_direction(length, size):
    for seed in (0, 1):
        x,y = checker_images(2, size, seed=seed)
        for down,right in EIGHT:
            moved = carried(x, down*length, right*length)
            want = math.hypot(down*length, right*length)
            for a,b in zip(moved, y):
                assert abs(drift(a, b, CHECKER_IDS)-want) < .05, (down, right, seed)

@pytest.mark.parametrize('down,right,want',
    [(.3, .4, .5), (-2, 1.25, 2.358), (4, -7, 8.062), (-9, -12, 15)])
def test_drift_of_other_shifts(down, right, want):
    x,y = checker_images(3, (150, 200), seed=5)
    for a,b in zip(carried(x, down, right), y): assert abs(drift(a, b, CHECKER_IDS)-want) < .15

def test_drift_of_a_third_id_and_of_colours():
    x,y = checker_images(2, (120, 150), seed=2)
    moved,other = carried(x, 2, -3),y.clone()
    other[:,30:50,40:70] = 11                       # somebody's Void
    for a,b in zip(moved, other):
        for image in (a, 1-a, .2*a+.1, a**2): assert abs(drift(image, b, CHECKER_IDS)-13**.5) < .05

def test_a_turn_is_no_shift():
    "What is off by another amount everywhere is measured by area, about the mean displacement."
    x,y = checker_images(4, (192, 256))
    r,c = torch.meshgrid(torch.arange(192)-95.5, torch.arange(256)-127.5, indexing='ij')
    mean = (2*math.sin(math.radians(1.5))*(r**2+c**2).sqrt()).mean().item()
    a = augment(Rotate(draw=3, p=1), x, y)[0].as_subclass(torch.Tensor)
    found = [drift(o, m, CHECKER_IDS) for o,m in zip(a, y)]
    assert mean*.75 < min(found) <= max(found) < mean*1.35, (mean, found)

@pytest.mark.parametrize('tfms,words', [(Pair(turn(5), turn(5)), 'Pair: the masks held the ids 10 '
            'and 255, and afterwards .* have others: '),
        (Pair(turn(5)),
            'Pair: image and mask are .* pixels apart afterwards; expected 0.7 at most'),
        (Pair(mask=turn(5, 'nearest')), 'pixels apart afterwards'),
        (Pair(roll(1)), 'image and mask are 1.. pixels apart'),
        (Pair(mask=lambda y: y.float()), r'Pair: a mask comes out as float32 \[192, 256\]; '
            r'expected integers'), (Pair(mask=lambda y: y[:,None]), r'comes out as int64 \[1, 192, '
            r'256\]; expected integers'), (Pair(image=lambda x: x[...,:100]),
            'the image is 192×100 afterwards and the mask 192×256'),
        (Pair(image=lambda x: x[:,:1]), 'images of 3 channels come out with 1; expected as many'),
        (Rotate(draw=20, p=1, pad_mode='zeros'), 'have others: 0; expected no new id'),
        (Rotate(draw=20, p=1, pad_mode='zeros'), 'Rotate: '),
        ([Flip(), Pair(roll(3))], 'Pair: image and mask are'),
        ([Pair(roll(-1), roll(-1)), Brightness(), AffineCoordTfm(size=90, mode_mask='bilinear')],
            'AffineCoordTfm: the masks held the ids'),
        (MovePair(Rotate(draw=7, p=1).aff_fs, mode_mask='bilinear', align_corners=True),
            'MovePair: the masks held the ids'),
        (RandomErasing(p=1, sl=.2), 'RandomErasing: image and mask')])
def test_what_is_broken_is_found(tfms, words):
    with pytest.raises(SegbookError, match=words): check_augmentation(tfms)

@pytest.mark.parametrize('mask,words', [(lambda m: m.resize((90, 70), Image.BILINEAR),
            'have others'), (lambda m: m.resize((80, 70), 0), 'the image is 70×90 afterwards and '
            'the mask 70×80'), (lambda m: m.transpose(Image.FLIP_LEFT_RIGHT).resize((90, 70), 0),
            'pixels apart')])
def test_what_is_broken_is_found_in_items(mask, words):
    image = lambda im: im.resize((90, 70), Image.BILINEAR)
    with pytest.raises(SegbookError, match=words):
        check_augmentation(Pair(image, lambda m: PILMask(mask(m))), items=True)
    assert check_augmentation(Pair(image, lambda m: PILMask(m.resize((90, 70), Image.NEAREST))),
        items=True)['Pair'] < .4

@pytest.mark.parametrize('channels,size', [(1, (97, 131)), (3, (60, 200)), (4, (128, 128))])
def test_what_is_right_passes(channels, size):
    tfms = [*aug_transforms(max_rotate=45., max_zoom=2.), ElasticDeform(2), Dihedral()]
    a,b = check_augmentation(tfms, size, channels),check_augmentation(move_once(tfms), size,
        channels)
    assert 'all together' in a and list(b)[0]=='MovePair' and max(*a.values(), *b.values()) < .75
    assert check_augmentation([Flip(), Flip()], size, channels)=={'Flip': 0, 'Flip (1)': 0,
        'all together': 0}
    assert check_augmentation(Rotate(draw=20, p=1, pad_mode='zeros'), size, channels,
        fill=0)['Rotate'] < .75
    if channels!=4:
        assert max(check_augmentation([FlipItem(), Resize(64)], size, channels,
                items=True).values()) < .75

def test_the_check_leaves_random_numbers_as_they_were():
    random.seed(3)
    torch.manual_seed(3)
    np.random.seed(3)
    was = random.getstate(),torch.get_rng_state(),np.random.get_state()[1].tolist()
    check_augmentation(aug_transforms())
    assert random.getstate()==was[0] and torch.equal(torch.get_rng_state(),
        was[1]) and np.random.get_state()[1].tolist()==was[2]
    assert check_augmentation(aug_transforms(), seed=1)==check_augmentation(aug_transforms(),
        seed=1)!=check_augmentation(aug_transforms(), seed=2)

def test_drift_by_hand():
    square = torch.zeros(6, 6, dtype=torch.long)
    square[2:4,2:4] = 7
    image = square[None]/7.
    assert drift(image, square, (0, 7))==0 and drift(1-image, square,
        (7, 0))==0 and drift(.3*image+.1, square, (0, 7))==0
    assert drift(image.roll(1, 2), square, (0, 7))==1 and drift(image.roll(1, 1), square, (0, 7))==1
    assert math.isnan(drift(image, 0*square, (0, 7)))
    other = square.clone()
    other[:,5] = 255
    other[:,0] = 255            # a third id is left out
    assert drift(image, other, (0, 7))==0

# ---- in training

def test_in_dataloaders(tmp_path):
    folder = SegFolder(make_scenes(tmp_path/'scenes', n=6, size=(48, 64)))
    known = {i for f in folder.labels for i in np.unique(read_mask(f)).tolist()}
    dls = seg_dataloaders(folder, bs=2, num_workers=0,
        batch_tfms=move_once(mild_tfms(max_rotate=45., flip_vert=True,
                xtra_tfms=[ElasticDeform(3)])))
    for _ in range(4):
        for xb,yb in dls.train:
            assert set(yb.unique().tolist()) <= known and yb.dtype==torch.int64
            assert 0<=xb.min()<=xb.max()<=1
    val = {m.numpy().astype(np.uint8).tobytes() for _,yb in dls.valid for m in yb}
    assert val <= {read_mask(f).astype(np.uint8).tobytes() for f in folder.labels}

# ---- Albumentations

def albumentations():
    pytest.importorskip('albumentations')
    from segbook.augmentation.albumentations_bridge import albumentations_package
    return albumentations_package()

def item(h, w, channels):
    "A ramp as an item: columns in the image, up to 255; columns in the mask."
    c = np.tile(np.arange(w, dtype=np.uint8), (h, 1))
    if channels==1: return PILImageBW(Image.fromarray(c)),PILMask(Image.fromarray(c))
    if channels==3: return PILImage(Image.fromarray(np.dstack([c]*3))),PILMask(Image.fromarray(c))
    return TensorImage(torch.from_numpy(c).float().repeat(channels, 1,
            1)),PILMask(Image.fromarray(c))

def apart(o):
    x = np.asarray(o[0], np.float32) if isinstance(o[0], Image.Image) else o[0].permute(1, 2,
        0).numpy()
    return np.abs(x.reshape(*x.shape[:2], -1)[...,0]-np.asarray(o[1], np.float32))

@pytest.mark.parametrize('channels', [1, 3, 4, 6])
def test_albumentations_keeps_image_and_mask_together(channels):
    A = albumentations()
    for t in (A.HorizontalFlip(p=1), A.Transpose(p=1),
            A.Affine(rotate=(-40, 40), border_mode=4, p=1),
            A.ElasticTransform(alpha=60, sigma=6, border_mode=4, p=1), A.RandomCrop(40, 60),
            A.RandomResizedCrop((50, 77), mask_interpolation=6)):
        for seed in range(4):
            pair = item(81, 120, channels)
            random.seed(seed)
            out = AlbumentationsTfm(t)(pair, split_idx=0)
            assert type(out[0]) is type(pair[0]) and type(out[1]) is PILMask and out[1].mode=='L'
            # colours are whole numbers here
            assert apart(out).mean() < .5 and np.quantile(apart(out), .98) <= 1.01, t

def test_albumentations_resizes_beside_the_mask_unless_told():
    A = albumentations()
    with pytest.raises(SegbookError, match='AlbumentationsTfm: image and mask are .* pixels apart'):
        check_augmentation(AlbumentationsTfm(A.Resize(250, 333)), items=True)
    assert check_augmentation(AlbumentationsTfm(A.Resize(250, 333, mask_interpolation=6)),
        items=True)['AlbumentationsTfm'] < .3
    # half a pixel along each axis
    assert abs(alignment_error(AlbumentationsTfm(A.Resize(250, 333)), items=True)-.5**.5) < .05

def test_albumentations_repeats_and_spares_validation():
    A = albumentations()
    t,pair = AlbumentationsTfm([A.Affine(rotate=(-40, 40), border_mode=4, p=.9),
            A.RandomBrightnessContrast(p=.5)]),item(50, 70, 3)
    def draw(seed):
        random.seed(seed)
        return [np.asarray(o).tobytes() for _ in range(4) for o in t(pair, split_idx=0)]
    assert draw(1)==draw(1)!=draw(2) and len(set(draw(1)))>4
    assert t(pair, split_idx=1) is pair or all(a is b for a,b in zip(t(pair, split_idx=1), pair))
    alone = AlbumentationsTfm(A.HorizontalFlip(p=1))(pair[0], split_idx=0)
    assert alone is pair[0]

def test_albumentations_tosses_a_coin_for_each_transform():
    A = albumentations()
    corner = np.zeros((4, 4), np.uint8)
    corner[0,0] = 1
    pair,t = (PILImageBW(Image.fromarray(corner)),
        PILMask(Image.fromarray(corner))),AlbumentationsTfm([A.HorizontalFlip(p=.5),
            A.VerticalFlip(p=.5)])
    random.seed(0)
    where = [np.asarray(t(pair, split_idx=0)[1]).argmax() for _ in range(400)]
    assert sorted(set(where))==[0, 3, 12, 15] and min(where.count(o) for o in set(where)) > 70

def test_albumentations_errors(monkeypatch):
    A = albumentations()
    image,mask = item(20, 30, 3)
    for t,pair,words in ((A.Normalize(), (image, mask), 'leave out Normalize'),
            (A.HorizontalFlip(), (image, item(20, 31, 1)[1]), 'the image is 20×30 and the mask '
                '20×31'), (A.HorizontalFlip(), (torch.rand(2, 3, 20, 30), torch.zeros(2, 20, 30)),
                'pass AlbumentationsTfm in item_tfms')):
        with pytest.raises(SegbookError, match=words): AlbumentationsTfm(t)(pair, split_idx=0)
    monkeypatch.setitem(sys.modules, 'albumentations', None)
    with pytest.raises(SegbookError, match=r'pip install "segbook\[albumentations\]"'):
        AlbumentationsTfm([])

def test_albumentations_in_dataloaders_with_processes(tmp_path):
    A = albumentations()
    folder = SegFolder(make_scenes(tmp_path/'scenes', n=5, size=(48, 64)))
    t = AlbumentationsTfm([A.HorizontalFlip(p=.5), A.Affine(rotate=(-30, 30), border_mode=4, p=1),
            A.GaussNoise(p=1)])
    dls = seg_dataloaders(folder, bs=2, num_workers=2, item_tfms=[t],
        batch_tfms=move_once(mild_tfms()))
    for xb,yb in dls.train:
        assert xb.shape==(2, 3, 48, 64) and yb.max() < 12 and yb.dtype==torch.int64
