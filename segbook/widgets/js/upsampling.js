// Of which values of a small map, and with which weights, is this pixel of the large one made?
import { choice } from './html.js';
import { cells, frameOf } from './marks.js';
import { sheet, within } from './sheet.js';
import { madeOf, shownNumber } from './upsampling_sums.js';

function planOf(n) {
  const wide = { width: 650, small: [10, 24], weights: [10, 58 + 34 * n], large: [330, 24] };
  const size = (side, room) => ({ side, cell: Math.floor(room / (2 * n)) });
  return (narrow) => {
    if (!narrow) return { ...wide, height: Math.max(340, 66 + 68 * n), ...size(34, 310) };
    const side = Math.floor(154 / n);
    const top = 60 + side * n;
    const places = { small: [6, 24], weights: [178, 24], large: [10, top] };
    return { width: 340, height: top + 330, ...places, ...size(side, 320) };
  };
}

function render({ model, el }) {
  const { input, ways } = model.get('data');
  const n = input.length;
  const grey = (value, least, most) => {
    const t = Math.round(60 + (190 * (value - least)) / Math.max(most - least, 1e-9));
    return [`rgb(${t},${t},${t})`, shownNumber(value), t > 130 ? '#111' : '#fff'];
  };

  const draw = (g, plan) => {
    const way = ways[model.get('way')];
    const row = within(model.get('row'), 0, 2 * n - 1);
    const column = within(model.get('col'), 0, 2 * n - 1);
    const { weights, used, total } = madeOf(way, row, column, n);
    const all = way.out.flat();
    const least = Math.min(0, ...all);
    const most = Math.max(...all);
    const large = Math.max(...weights.flat().map(Math.abs), 1e-9);
    const title = (text, [x, y]) => g.fillText(text, x, y - 8);
    title('small map', plan.small);
    title('weights of the pixel', plan.weights);
    title('large map', plan.large);
    cells(g, plan.small, input, plan.side, (value) => grey(value, 0, 9));
    cells(g, plan.weights, weights, plan.side, (value) => {
      const part = Math.abs(value) / large;
      const color = value < 0 ? `rgba(37,99,200,${0.75 * part})` : `rgba(224,130,20,${part})`;
      return [value ? color : '#fff', value ? shownNumber(value) : ''];
    });
    cells(g, plan.large, way.out, plan.cell, (value) => grey(value, least, most));
    const corner = [plan.large[0] + column * plan.cell, plan.large[1] + row * plan.cell];
    frameOf(g, corner, [plan.cell, plan.cell], '#e08214');
    for (const [r, c] of used) {
      const place = [plan.small[0] + c * plan.side, plan.small[1] + r * plan.side];
      frameOf(g, place, [plan.side, plan.side], '#e08214', 2);
    }
    return {
      point: [corner[0] + plan.cell / 2, corner[1] + plan.cell / 2],
      says: `${way.name}: pixel (${row}, ${column}) is ${way.out[row][column].toFixed(2)}, made of ${used.length} value${used.length === 1 ? '' : 's'} whose weights add up to ${total.toFixed(2)}.`,
    };
  };
  const at = (x, y, plan) => {
    const [left, top] = plan.large;
    if (x < left - 6 || y < top - 14) return null;
    return [Math.floor((y - top) / plan.cell), Math.floor((x - left) / plan.cell)];
  };
  const names = ways.map((o) => o.name);
  const last = 2 * n - 1;
  sheet(model, el, {
    kind: 'upsampling',
    limits: { way: [0, names.length - 1], row: [0, last], col: [0, last] },
    controls: [choice(model, 'way', 'way', names)],
    plan: planOf(n),
    units: () => [
      [0, last],
      [0, last],
    ],
    at,
    draw,
  });
}

export default { render };
