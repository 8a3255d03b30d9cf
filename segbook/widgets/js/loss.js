// What seven losses say to a predicted disc, and where the chosen one pushes the logits.
import { put, range } from './html.js';
import { blob, lossesOf, pushColor } from './loss_sums.js';
import { bars, cross, keyOf, paint, rim } from './marks.js';
import { sheet } from './sheet.js';

const SETTINGS = { radius: [2, 24], softness: [1, 8], confidence: [1, 8] };

function render({ model, el }) {
  const { h, w, truth, weight, names, colors } = model.get('data');
  const value = (key) => model.get(key);
  const side = Math.floor(288 / Math.max(h, w));
  const planOf = (narrow) => {
    const left = [10, 26];
    if (!narrow) {
      return { width: 30 + 2 * w * side, height: 34 + h * side, left, right: [20 + w * side, 26] };
    }
    return { width: 20 + w * side, height: 68 + 2 * h * side, left, right: [10, 60 + h * side] };
  };
  const table = bars((i) => put(model, { loss: i }));

  const draw = (g, plan) => {
    const keys = ['row', 'col', ...Object.keys(SETTINGS)];
    const logits = blob(h, w, Object.fromEntries(keys.map((key) => [key, value(key)])));
    const all = lossesOf(logits, truth, weight);
    const chosen = all[value('loss')];
    const name = names[value('loss')];
    const most = Math.max(...chosen.grad.map(Math.abs)) || 1;
    g.fillText('probability, truth outlined', plan.left[0], plan.left[1] - 8);
    g.fillText(`pushes of ${name}`, plan.right[0], plan.right[1] - 8);
    paint(g, plan.left, [h, w], side, (i) =>
      Array(3).fill(Math.round(255 / (1 + Math.exp(-logits[i])))),
    );
    paint(g, plan.right, [h, w], side, (i) => pushColor(-chosen.grad[i] / most, colors));
    for (const place of [plan.left, plan.right]) rim(g, place, [h, w], side, truth);
    const point = [
      plan.left[0] + (value('col') + 0.5) * side,
      plan.left[1] + (value('row') + 0.5) * side,
    ];
    cross(g, ...point);
    const push = (loss) => loss.grad.reduce((total, v) => total + Math.abs(v), 0);
    const moved = (sign) => chosen.grad.filter((v) => sign * v > most / 10).length;
    const rows = all.map((o, i) => ({
      name: names[i],
      value: o.value,
      text: `${o.value.toFixed(3)}, pushes ${push(o).toFixed(4)}`,
    }));
    table.show(rows, Math.max(1, ...all.map((o) => o.value)), value('loss'));
    return {
      point,
      says: `${name} is ${chosen.value.toFixed(3)} with the disc at row ${value('row')}, column ${value('col')}. At least a tenth as hard as the hardest, it pushes ${moved(-1)} pixels up and ${moved(1)} down.`,
    };
  };
  const at = (x, y, { left, right }) => {
    const second = right[1] > left[1] ? y > right[1] - 26 : x > right[0] - 10;
    const [a, b] = second ? right : left;
    return [Math.floor((y - b) / side), Math.floor((x - a) / side)];
  };
  const color = (rgb) => `rgb(${rgb})`;
  const key = keyOf([
    [color(colors[2]), 'pushed up'],
    [color(colors[1]), 'left alone'],
    [color(colors[0]), 'pushed down'],
  ]);
  const places = { row: [0, h - 1], col: [0, w - 1] };
  sheet(model, el, {
    kind: 'loss',
    limits: { loss: [0, names.length - 1], ...SETTINGS, ...places },
    controls: Object.entries(SETTINGS).map(([name, ends]) => range(model, name, name, ...ends)),
    plan: planOf,
    units: () => [places.row, places.col],
    at,
    draw,
    below: [key, table],
  });
}

export default { render };
