"""How far apart the colours of classes lie, for normal sight and three kinds of colour blindness.
The formulas are written once more from their papers, and share nothing with the library, nor with
the search that found the colours."""
import math
import re
from itertools import combinations

import numpy as np
import pytest

from segbook.data import CAMVID_CODES
from segbook.masks import palette

VOID, BLACK = (128, 128, 128), (0, 0, 0)

# Machado, Oliveira and Fernandes, A Physiologically-based Model for Simulation of Color Vision
# Deficiency, IEEE TVCG 15 (6), 2009: the matrices of severity 1.0, on linear RGB, row by row
MACHADO = dict(normal='1 0 0  0 1 0  0 0 1', protanopia='0.152286 1.052583 -0.204868  0.114503 '
    '0.786281 0.099216  -0.003882 -0.048116 1.051998', deuteranopia='0.367322 0.860646 -0.227968  '
    '0.280085 0.672501 0.047413  -0.011820 0.042940 0.968881',
    tritanopia='1.255528 -0.076749 -0.178779  -0.078411 0.930809 0.147602  0.004733 0.691367 '
    '0.303900')


def lab(rgb, sight):
    "CIE L*, a*, b* (D65, 2 degrees) of one colour of bytes, seen by an eye of this kind."
    linear = [v/255/12.92 if v/255 <= .04045 else ((v/255 + .055)/1.055)**2.4 for v in rgb]
    m = [float(v) for v in MACHADO[sight].split()]
    r, g, b = (min(1., max(0., sum(m[3*i + j]*linear[j] for j in range(3)))) for i in range(3))
    x = (.4124564*r + .3575761*g + .1804375*b)/.95047
    y = .2126729*r + .7151522*g + .0721750*b
    z = (.0193339*r + .1191920*g + .9503041*b)/1.08883
    fx, fy, fz = (t**(1/3) if t > (6/29)**3 else t/3/(6/29)**2 + 4/29 for t in (x, y, z))
    return 116*fy - 16, 500*(fx - fy), 200*(fy - fz)


def cie76(p, q): return math.dist(p, q)


def ciede2000(p, q):
    "Sharma, Wu and Dalal, The CIEDE2000 Color-Difference Formula, 2005, equations 2 to 22."
    (l1, a1, b1), (l2, a2, b2) = p, q
    c_mean = (math.hypot(a1, b1) + math.hypot(a2, b2))/2
    g = .5*(1 - math.sqrt(c_mean**7/(c_mean**7 + 25**7)))
    a1, a2 = (1 + g)*a1, (1 + g)*a2
    c1, c2 = math.hypot(a1, b1), math.hypot(a2, b2)
    h1, h2 = (math.degrees(math.atan2(b, a)) % 360 if a or b else 0.
        for a, b in ((a1, b1), (a2, b2)))
    turn = 0 if not c1*c2 else h2 - h1 - 360*round((h2 - h1)/360) if abs(h2 - h1) > 180 else h2 - h1
    dl, dc, dh = l2 - l1, c2 - c1, 2*math.sqrt(c1*c2)*math.sin(math.radians(turn/2))
    l, c = (l1 + l2)/2, (c1 + c2)/2
    if not c1*c2: h = h1 + h2
    elif abs(h1 - h2) <= 180: h = (h1 + h2)/2
    else: h = (h1 + h2 + (360 if h1 + h2 < 360 else -360))/2
    cos = lambda deg: math.cos(math.radians(deg))
    t = 1 - .17*cos(h - 30) + .24*cos(2*h) + .32*cos(3*h + 6) - .20*cos(4*h - 63)
    rc = 2*math.sqrt(c**7/(c**7 + 25**7))
    rt = -rc*math.sin(math.radians(60*math.exp(-((h - 275)/25)**2)))
    sl, sc, sh = 1 + .015*(l - 50)**2/math.sqrt(20 + (l - 50)**2), 1 + .045*c, 1 + .015*c*t
    return math.sqrt((dl/sl)**2 + (dc/sc)**2 + (dh/sh)**2 + rt*(dc/sc)*(dh/sh))


def closest(colours, difference):
    "The smallest difference of any two colours, over all kinds of sight."
    return min(difference(lab(p, s), lab(q, s)) for p, q in combinations(colours, 2)
        for s in MACHADO)


def triples(codes): return [tuple(int(v) for v in c) for c in palette(codes)]


# from the table of test data published with the formula
SHARMA = [((50, 2.6772, -79.7751), (50, 0, -82.7485), 2.0425),
    ((50, 3.1571, -77.2803), (50, 0, -82.7485), 2.8615),
    ((50, -1.3802, -84.2814), (50, 0, -82.7485), 1.0000), ((50, 0, 0), (50, -1, 2), 2.3669),
    ((50, 2.4900, -.0010), (50, -2.4900, .0009), 7.1792),
    ((50, 2.4900, -.0010), (50, -2.4900, .0011), 7.2195), ((50, 2.5, 0), (73, 25, -18), 27.1492),
    ((50, 2.5, 0), (58, 24, 15), 19.4535), ((60.2574, -34.0099, 36.2677),
        (60.4626, -34.1751, 39.4387), 1.2644),
    ((22.7233, 20.0904, -46.6940), (23.0331, 14.9730, -42.5619), 2.0373),
    ((90.8027, -2.0831, 1.4410), (91.1528, -1.6435, .0447), 1.4441),
    ((2.0776, .0795, -1.1350), (.9033, -.0636, -.5514), .9082)]


@pytest.mark.parametrize('p, q, want', SHARMA)
def test_the_formula_gives_the_published_values(p, q, want):
    assert round(ciede2000(p, q), 4) == want and round(ciede2000(q, p), 4) == want


def test_the_formulas_agree_with_scikit_image():
    color = pytest.importorskip('skimage.color')
    x = np.random.default_rng(0).integers(0, 256, (200, 3))
    want = color.rgb2lab(x/255)
    assert np.abs(np.array([lab(c, 'normal') for c in x]) - want).max() < .02
    mine = [ciede2000(p, q) for p, q in zip(want[::2], want[1::2])]
    assert np.abs(mine - color.deltaE_ciede2000(want[::2], want[1::2])).max() < 1e-6


def test_each_matrix_keeps_greys():
    for s, m in MACHADO.items():
        assert np.abs(np.array(m.split(), float).reshape(3, 3).sum(1) - 1).max() < 1e-5, s
        assert abs(lab(VOID, s)[1]) < .02 and abs(lab(VOID, s)[2]) < .02


# ---- CamVid's classes

def test_camvid_classes_are_told_apart_by_every_sight():
    cols = triples(CAMVID_CODES)
    assert len(cols) == 12 and cols[CAMVID_CODES.index('Void')] == VOID
    assert len(list(combinations(cols, 2))) == 66
    assert closest(cols, ciede2000) >= 12 and closest(cols, cie76) >= 18


def test_camvid_classes_are_told_apart_in_grey():
    grey = sorted(.299*r + .587*g + .114*b for (r, g, b), c in zip(triples(CAMVID_CODES),
            CAMVID_CODES) if c != 'Void')
    assert len(grey) == 11 and min(np.diff(grey)) >= 15
    assert min(abs(v - 128) for v in grey) >= 9 # Void's grey is nobody else's


def test_hues_are_the_customary_ones():
    hue = {c: math.degrees(math.atan2(*lab(rgb, 'normal')[:0:-1])) % 360
           for c, rgb in zip(CAMVID_CODES, triples(CAMVID_CODES))}
    blue, green, red, purple, yellow = (205, 305), (120, 170), (5, 60), (290, 340), (60, 115)
    want = dict(Sky=blue, Car=blue, Tree=green, Building=red, Pedestrian=red, Road=purple,
        Pavement=purple, SignSymbol=yellow, Pole=yellow, Fence=(35, 80), Bicyclist=(180, 240))
    assert {c for c in want if not want[c][0] <= hue[c] <= want[c][1]} == set()
    light = {c: lab(rgb, 'normal')[0] for c, rgb in zip(CAMVID_CODES, triples(CAMVID_CODES))}
    assert light['Sky'] > 80 and light['Car'] < 30


def test_aliases_have_the_same_colour():
    assert triples(['Sidewalk', 'COLUMN_POLE', ' sky ']) == triples(['Pavement', 'Pole', 'Sky'])
    both = triples(['Pole', 'Column_Pole', 'Pavement', 'Sidewalk'])
    assert len(set(both)) == 4 and both[0] == triples(['Pole'])[0] and both[2] == triples(
        ['Pavement'])[0]


# the 32 names of the full CamVid, in the order of fastai's codes.txt
FASTAI = ('Animal Archway Bicyclist Bridge Building Car CartLuggagePram Child Column_Pole Fence '
    'LaneMkgsDriv LaneMkgsNonDriv Misc_Text MotorcycleScooter OtherMoving ParkingBlock '
    'Pedestrian Road RoadShoulder Sidewalk SignSymbol Sky SUVPickupTruck TrafficCone '
    'TrafficLight Train Tree Truck_Bus Tunnel VegetationMisc Void Wall').split()


def test_all_32_names_of_camvid():
    cols = triples(FASTAI)
    assert len(set(cols)) == 32 and closest(cols, ciede2000) >= 7
    own = dict(zip(FASTAI, cols))
    assert all(own[a] == triples([b])[0] for a, b in [('Sky', 'Sky'), ('Column_Pole', 'Pole'),
            ('Sidewalk', 'Pavement')])


# ---- classes of any name

# the smallest CIEDE2000 and CIE76 differences among the first n colours, black and Void's grey
BOUNDS = {
    1: (26.5, 53.3), 2: (26.5, 34.4), 3: (26.5, 34.4), 4: (26.5, 34.4), 5: (25.3, 34.4),
    6: (21.7, 32.2), 7: (18.7, 20.2), 8: (18.6, 14.7), 9: (16.7, 14.7), 10: (15.8, 14.7),
    11: (15.5, 14.7), 12: (15.4, 14.7), 13: (14.8, 14.7), 14: (13.5, 14.7), 15: (13.1, 14.7),
    16: (13.1, 14.7), 17: (12.6, 14.7), 18: (12.2, 12.0), 19: (11.2, 12.0), 20: (11.2, 12.0)}


@pytest.mark.parametrize('n', range(1, 21))
def test_n_classes(n):
    cols = [VOID, BLACK, *triples(n)]
    e, f = closest(cols, ciede2000), closest(cols, cie76)
    assert (math.floor(10*e)/10, math.floor(10*f)/10) == BOUNDS[n], (e, f)


def test_the_docstring_says_what_is_reached():
    text = palette.__doc__
    for n, value in re.findall(r'(\d+) classes (\d+)', text):
        assert math.floor(BOUNDS[int(n)][0]) == int(value)
    assert len(re.findall(r'(\d+) classes (\d+)', text)) >= 3


def test_names_that_the_table_does_not_know_get_the_same_colours():
    names = [f'tissue {i}' for i in range(19)]
    assert triples(names) == triples(19)
    with_void = triples([*names[:5], 'VOID', *names[5:]])
    assert with_void[5] == VOID and with_void[:5] + with_void[6:] == triples(19)
    assert triples(['background', *names]) == [BLACK, *triples(19)]


@pytest.mark.parametrize('n, least', [(1, 12), (2, 12), (4, 11), (8, 9.5)])
def test_names_beside_a_street(n, least):
    "Classes of a user's own among CamVid's: as far from all of them as a grid of colours allows."
    codes = [*CAMVID_CODES, *(f'own {i}' for i in range(n))]
    assert triples(codes)[:12] == triples(CAMVID_CODES) and closest(triples(codes),
        ciede2000) >= least


@pytest.mark.parametrize('codes', [40, 100, 256, FASTAI, [*CAMVID_CODES, *map(str, range(100))]],
                         ids=lambda o: str(o if isinstance(o, int) else len(o)))
def test_no_two_colours_are_alike(codes):
    cols = triples(codes)
    assert len(set(cols)) == len(cols) and (VOID not in cols or 'Void' in codes)
