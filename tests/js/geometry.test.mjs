// Boxes and pixels: what is drawn where.
import assert from 'node:assert/strict';
import test from 'node:test';
import { boxOf, nearestPair, unitAt } from '../../segbook/widgets/js/field_geometry.js';
import {
  errorPixels,
  hatchAt,
  idsIn,
  percent,
  saidAt,
  shaded,
  sharesOf,
} from '../../segbook/widgets/js/mask_pixels.js';
import { idsOf, thinned, thinningOf } from '../../segbook/widgets/js/own_mask.js';
import { within } from '../../segbook/widgets/js/sheet.js';
import { figures } from './figures.mjs';

test('boxes of units are those of receptive_field', () => {
  assert.equal(figures.fields.length, 6);
  for (const { layer, unit, box, centre } of figures.fields) {
    assert.deepEqual(boxOf(layer, ...unit), box);
    assert.deepEqual(unitAt(layer, ...centre), unit);
    // the same with a box for each unit
    const [h, w] = layer.n;
    const boxes = Array.from({ length: h * w }, (_, i) => boxOf(layer, Math.floor(i / w), i % w));
    assert.deepEqual(boxOf({ n: layer.n, boxes }, ...unit), box);
    assert.deepEqual(unitAt({ n: layer.n, boxes }, ...centre), unit);
  }
});

test('a unit that no pixel reaches has no box', () => {
  const layer = {
    n: [1, 2],
    boxes: [
      [null, null, null, null],
      [0, 1, 2, 3],
    ],
  };
  assert.equal(boxOf(layer, 0, 0), null);
  assert.deepEqual(boxOf(layer, 0, 1), [0, 1, 2, 3]);
});

test('the nearest pair', () => {
  const pairs = [
    [0, 2],
    [4, 6],
    [8, 10],
  ];
  assert.deepEqual(
    [-9, 2.9, 3.1, 7.1, 99].map((v) => nearestPair(v, pairs)),
    [0, 0, 1, 2, 2],
  );
});

const rgb = (pixels) => pixels.filter((_, i) => i % 4 < 3);

test('views of a mask are those of overlay()', () => {
  for (const o of figures.overlays) {
    const look = { alpha: o.alpha, colors: o.colors, void_id: o.void, only: 1 };
    const view = (name) => [...rgb(shaded(o.image, o.ids, o.size, { ...look, view: name }))];
    assert.deepEqual(view('overlay'), o.overlay);
    assert.deepEqual(view('mask'), o.mask);
    assert.deepEqual(view('image'), o.plain);
    const alone = view('one class');
    const grey = o.plain.map((v) => Math.floor(v / 3) + 160);
    alone.forEach((v, i) => {
      assert.equal(v, o.ids[Math.floor(i / 3)] === 1 ? o.overlay[i] : grey[i]);
    });
  }
});

test('Void is hatched, dark beside light', () => {
  const row = Array.from({ length: 12 }, (_, c) => hatchAt(0, c, [100, 100]));
  assert.deepEqual(row, [60, 230, 0, 0, 0, 0, 60, 230, 0, 0, 0, 0]);
});

test('the legend: the largest class first', () => {
  assert.deepEqual(sharesOf([2, 0, 2, 2]), [
    [2, 0.75],
    [0, 0.25],
  ]);
  assert.deepEqual([0.004, 0.25, 1].map(percent), ['0.4 %', '25 %', '100 %']);
});

const picture = (w, ...colors) => ({
  data: Uint8ClampedArray.from(colors.flatMap((c) => [...(Array.isArray(c) ? c : [c, c, c]), 255])),
  width: w,
  height: colors.length / w,
});

test('an own mask: grey values in order, names of the classes where they fit', () => {
  assert.deepEqual(idsOf(picture(2, 255, 0, 0, 128), 96, 12), {
    truth: [2, 0, 0, 1],
    names: ['value 0', 'value 128', 'value 255'],
    h: 2,
    w: 2,
  });
  const codes = ['sky', 'road', 'car'];
  assert.deepEqual(idsOf(picture(2, 2, 0), 96, 12, codes), {
    truth: [2, 0],
    names: codes,
    h: 1,
    w: 2,
  });
  assert.deepEqual(idsOf(picture(2, 3, 0), 96, 12, codes).names, ['value 0', 'value 3']);
});

test('an own mask: the colours of a palette become classes', () => {
  const own = idsOf(picture(3, [255, 0, 0], [0, 0, 255], [255, 0, 0]), 96, 12);
  assert.deepEqual(
    [own.truth, own.names],
    [
      [0, 1, 0],
      ['colour ff0000', 'colour 0000ff'],
    ],
  );
});

test('an own picture that is no mask is named, with a cure', () => {
  const photograph = picture(5, 1, 2, 3, 4, 5);
  assert.throws(() => idsOf(photograph, 96, 4), /5 different values.*Save masks as PNG/);
  assert.throws(() => idsOf(picture(1, 7), 96, 4), /one value everywhere/);
});

test('a large picture keeps every k-th pixel, as in Python', () => {
  const values = Array.from({ length: 35 }, (_, i) => i);
  const small = thinned(picture(7, ...values), 3);
  assert.deepEqual([small.height, small.width], [2, 3]);
  assert.deepEqual(
    [...small.data].filter((_, i) => i % 4 === 0),
    [0, 3, 6, 21, 24, 27],
  );
});

test('the place that is said is that of the image, not of its thinned picture', () => {
  const pixels = { width: 1800, height: 900 };
  const thinning = thinningOf(pixels, 640);
  assert.equal(thinning, 3);
  assert.equal(thinningOf({ width: 640, height: 9 }, 640), 1);
  const pair = { ids: [0, 0, 0, 1, 0, 0], size: [2, 3], codes: ['sky', 'road'], thinning };
  assert.equal(saidAt(pair, 0, 1), 'row 3, column 0: 1 road');
  assert.equal(saidAt(pair, 2, 1), 'row 3, column 6: 0 sky');
  assert.equal(saidAt(pair, 0, 2), undefined);
});

test('within', () =>
  assert.deepEqual([within(-1, 0, 4), within(3, 0, 4), within(9, 0, 4)], [0, 3, 4]));

test('errors are drawn as in Python: grey, red where wrong, Void under its lines', () => {
  for (const o of figures.errors) {
    const got = errorPixels(Uint8ClampedArray.from(o.image), o.truth, o.answer, o.size, o.void);
    assert.deepEqual([...rgb(got)], o.want);
  }
  assert.deepEqual([...idsIn({ data: [7, 7, 7, 255, 2, 2, 2, 255] })], [7, 2]);
});
