// Which pixels, with which weights, make this output?
import { convolved, indicesRead, outputSize, productsOf } from './convolution_sums.js';
import { choice, range } from './html.js';
import { cells, frameOf } from './marks.js';
import { sheet, within } from './sheet.js';

const SETTINGS = {
  size: [3, 12],
  kernel: [1, 7],
  stride: [1, 3],
  padding: [0, 4],
  dilation: [1, 3],
};
const ORANGE = '#f0a44b';

function planOf(narrow) {
  const image = [10, 24];
  if (!narrow) {
    return {
      width: 660,
      height: 336,
      image,
      kernel: [332, 24],
      outputs: [460, 24],
      sides: [300, 108, 190],
    };
  }
  return {
    width: 340,
    height: 590,
    image,
    kernel: [10, 380],
    outputs: [140, 380],
    sides: [318, 108, 190],
  };
}

function spelt(products) {
  const parts = products.flat();
  const result = parts.reduce((s, [value, weight]) => s + value * weight, 0);
  if (parts.length > 9) return `the sum of ${parts.length} products = ${result}`;
  return `${parts.map(([value, weight]) => `${value}·${weight < 0 ? `(${weight})` : weight}`).join(' + ')} = ${result}`;
}

function render({ model, el }) {
  const { image, kernels } = model.get('data');
  const now = () => {
    const s = Object.fromEntries(Object.keys(SETTINGS).map((key) => [key, model.get(key)]));
    const pixels = image.slice(0, s.size).map((row) => row.slice(0, s.size));
    return { ...s, pixels, weights: kernels[model.get('weights')].weights[s.kernel - 1] };
  };
  const side = (room, n, most) => Math.min(most, Math.floor(room / Math.max(n, 1)));

  const draw = (g, plan) => {
    const s = now();
    const { size, kernel, padding, pixels, weights } = s;
    const n = outputSize(size, s);
    const outputs = convolved(pixels, weights, s);
    const row = within(model.get('row'), 0, n - 1);
    const column = within(model.get('col'), 0, n - 1);
    const rows = n > 0 ? indicesRead(row, s) : [];
    const columns = n > 0 ? indicesRead(column, s) : [];
    const padded = Array.from({ length: size + 2 * padding }, (_, i) =>
      Array.from(
        { length: size + 2 * padding },
        (_, j) => pixels[i - padding]?.[j - padding] ?? null,
      ),
    );
    const cell = side(plan.sides[0], padded.length, 34);
    g.fillText(padding ? 'image; the pale rim is padding' : 'image', plan.image[0], 16);
    cells(g, plan.image, padded, cell, (value, i, j) => {
      const read = rows.includes(i - padding) && columns.includes(j - padding);
      if (value === null) return [read ? '#fbe3c3' : '#fff', '0', '#6b6b6b'];
      return [read ? ORANGE : '#dceaf7', String(value)];
    });
    g.fillText('weights', plan.kernel[0], plan.kernel[1] - 8);
    const small = side(plan.sides[1], kernel, 34);
    cells(g, plan.kernel, weights, small, (value) => [ORANGE, String(value)]);
    const reach = s.dilation * (kernel - 1) + 1;
    if (n < 1) {
      const wide = size + 2 * padding;
      return {
        says: `The kernel reaches over ${reach} pixels, and there are only ${wide}: no output. Choose more padding or a smaller kernel.`,
      };
    }
    g.fillText(`outputs, ${n}×${n}`, plan.outputs[0], plan.outputs[1] - 8);
    const large = side(plan.sides[2], n, 34);
    const most = Math.max(1, ...outputs.flat().map(Math.abs));
    cells(g, plan.outputs, outputs, large, (value, i, j) => {
      if (i === row && j === column) return [ORANGE, String(value)];
      const part = Math.round(200 - 130 * (Math.abs(value) / most));
      const back =
        value < 0 ? `rgb(${part + 40},${part + 50},255)` : `rgb(255,${part + 50},${part})`;
      return [value ? back : '#f4f4f4', String(value)];
    });
    const corner = [plan.outputs[0] + column * large, plan.outputs[1] + row * large];
    frameOf(g, corner, [large, large], '#111', 2);
    const rule = `(${size} + 2·${padding} - ${s.dilation}·(${kernel} - 1) - 1) / ${s.stride}, rounded down, + 1`;
    const sum = spelt(productsOf(pixels, weights, row, column, s));
    return {
      point: [corner[0] + large / 2, corner[1] + large / 2],
      says: `Output (${row}, ${column}) reads rows ${rows[0]} to ${rows.at(-1)}, columns ${columns[0]} to ${columns.at(-1)}: ${sum}. ${n}×${n} outputs: ${rule}. ${kernel * kernel} weights, ${kernel * kernel * n * n} multiplications.`,
    };
  };
  const at = (x, y, plan) => {
    const n = Math.max(1, outputSize(model.get('size'), now()));
    const large = side(plan.sides[2], n, 34);
    const [left, top] = plan.outputs;
    if (x < left - 8 || y < top - 20) return null;
    return [Math.floor((y - top) / large), Math.floor((x - left) / large)];
  };
  const last = () => Math.max(0, outputSize(model.get('size'), now()) - 1);
  const sliders = Object.entries(SETTINGS).map(([key, ends]) => range(model, key, key, ...ends));
  const names = kernels.map((o) => o.name);
  sheet(model, el, {
    kind: 'convolution',
    limits: { ...SETTINGS, weights: [0, names.length - 1], row: [0, 19], col: [0, 19] },
    controls: [choice(model, 'weights', 'weights', names), ...sliders],
    plan: planOf,
    units: () => [
      [0, last()],
      [0, last()],
    ],
    at,
    draw,
  });
}

export default { render };
