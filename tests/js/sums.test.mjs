// Losses, metrics, convolution and upsampling in the browser are those of the library.
import assert from 'node:assert/strict';
import test from 'node:test';
import {
  convolved,
  indicesRead,
  outputSize,
  productsOf,
} from '../../segbook/widgets/js/convolution_sums.js';
import { blob, lossesOf, pushColor } from '../../segbook/widgets/js/loss_sums.js';
import { boundary, changed, kindOf, scores } from '../../segbook/widgets/js/metric_sums.js';
import { madeOf, shownNumber } from '../../segbook/widgets/js/upsampling_sums.js';
import { figures, near } from './figures.mjs';

for (const [seed, { logits, truth, weights, want }] of figures.losses.entries()) {
  test(`losses and gradients, seed ${seed}`, () => {
    const got = lossesOf(logits, truth, weights);
    assert.equal(got.length, 7);
    assert.equal(want.length, 7);
    got.forEach(({ value, grad }, i) => {
      const most = Math.max(...want[i].grad.map(Math.abs));
      near([value], [want[i].value], 1e-4 * Math.max(1, Math.abs(want[i].value)));
      near(grad, want[i].grad, 1e-4 * most);
    });
  });
}

test('the disc', () => {
  for (const { size, settings, want } of figures.discs) near(blob(...size, settings), want);
});

test('colours of pushes', () => {
  const { colors, parts, want } = figures.pushes;
  assert.deepEqual(
    parts.map((u) => pushColor(u, colors)),
    want,
  );
});

for (const [seed, o] of figures.metrics.entries()) {
  test(`metrics, seed ${seed}`, () => {
    const predicted = changed(o.plain, o.size, o.change);
    assert.deepEqual(predicted, o.predicted);
    const found = scores(o.truth, predicted, o.K, o.ignore);
    near([found.accuracy, found.mean], [...o.want.accuracy, ...o.want.mean]);
    near(found.iou, o.want.iou);
    near(found.dice, o.want.dice);
    const edges = boundary(o.truth, predicted, o.size, o.K, o.ignore);
    near([edges.f1, edges.hausdorff], [...o.want.f1, ...o.want.hausdorff]);
  });
}

test('what a pixel shows', () => {
  const kinds = [
    [9, 1],
    [0, 0],
    [1, 1],
    [1, 0],
    [0, 1],
    [1, 2],
  ].map(([truth, predicted]) => kindOf(truth, predicted, 9));
  assert.deepEqual(kinds, ['Void', 'ground', 'right', 'missed', 'invented', 'mixed']);
});

test('convolution', () => {
  assert.ok(figures.convolutions.length > 100);
  for (const { size, settings, image, weights, want } of figures.convolutions) {
    assert.equal(Math.max(0, outputSize(size, settings)), want.length);
    assert.deepEqual(
      convolved(image, weights, settings).map((row) => row.map((v) => v + 0)),
      want.map((row) => row.map((v) => v + 0)),
    );
  }
});

test('the pixels that an output reads are those of receptive_field', () => {
  const known = figures.convolutions.filter((o) => o.box);
  assert.ok(known.length > 3);
  for (const { settings, want, box } of known) {
    const [rows, columns] = [indicesRead(0, settings), indicesRead(want.length - 1, settings)];
    assert.deepEqual([rows[0], columns[0], rows.at(-1), columns.at(-1)], box);
  }
});

test('products by hand: padding counts as 0', () => {
  const settings = { kernel: 2, stride: 1, padding: 1, dilation: 1 };
  const weights = [
    [1, 2],
    [3, 4],
  ];
  assert.deepEqual(productsOf([[5]], weights, 0, 0, settings), [
    [
      [0, 1],
      [0, 2],
    ],
    [
      [0, 3],
      [5, 4],
    ],
  ]);
});

test('upsampling: the weights of a pixel make its value', () => {
  const { input, ways } = figures.upsamplings;
  const n = input.length;
  assert.equal(ways.length, 8);
  for (const way of ways) {
    for (let r = 0; r < 2 * n; r++) {
      for (let c = 0; c < 2 * n; c++) {
        const { weights, used, total } = madeOf(way, r, c, n);
        const value = weights.flat().reduce((s, w, i) => s + w * input.flat()[i], 0);
        near([value], [way.out[r][c]], 1e-4);
        assert.equal(used.length, weights.flat().filter((w) => w).length);
        near([total], [weights.flat().reduce((s, w) => s + w, 0)]);
      }
    }
  }
});

test('numbers in cells are short', () => {
  assert.deepEqual([0, 1, 0.5, -0.25, 2.999, -0.001, 10].map(shownNumber), [
    '0',
    '1',
    '.5',
    '-.25',
    '3',
    '0',
    '10',
  ]);
});
