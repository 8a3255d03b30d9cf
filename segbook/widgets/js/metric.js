// A prediction that was perfect is moved, grown and spoilt: which scores notice?
import { choice, fileChoice, html, options, put, range } from './html.js';
import { bars, hatch, keyOf, paint, rim, strokes } from './marks.js';
import { boundary, changed, kindOf, scores } from './metric_sums.js';
import { idsOf, pixelsOf } from './own_mask.js';
import { sheet } from './sheet.js';

const COLORS = {
  ground: [233, 233, 233],
  right: [23, 69, 107],
  missed: [224, 130, 20],
  invented: [255, 255, 255],
  mixed: [224, 130, 20],
  Void: [206, 206, 206],
};
const MOST_PIXELS = 96; // a side of an own mask
const MOST_CLASSES = 12;

function keyFor(scenes) {
  const color = (kind) => `rgb(${COLORS[kind]})`;
  const stroke = (kind) =>
    `linear-gradient(to bottom right, ${color(kind)} 45%, #111 45% 55%, ${color(kind)} 55%)`;
  const parts = [
    [color('right'), 'right'],
    [color('missed'), 'missed (FN)'],
    [stroke('invented'), 'invented (FP)'],
  ];
  if (scenes.some((o) => o.names.length > 2)) parts.push([stroke('mixed'), 'another class']);
  if (scenes.some((o) => o.ignore >= 0)) parts.push(['void', 'Void, not counted']);
  return keyOf(parts);
}

function rowsOf({ names, ignore }, found, edges) {
  const number = (value) => (Number.isNaN(value) ? 'nowhere' : value.toFixed(3));
  const row = (name, value) => ({ name, value, text: number(value) });
  const ids = [...names.keys()].filter((k) => k !== ignore);
  const { hausdorff } = edges;
  const far = Number.isNaN(hausdorff) ? 'nowhere' : `${hausdorff.toFixed(1)} pixels`;
  return [
    row('pixel accuracy', found.accuracy),
    row('mean IoU', found.mean),
    ...ids.map((k) => row(`IoU of ${names[k]}`, found.iou[k])),
    ...ids.filter((k) => k).map((k) => row(`Dice of ${names[k]}`, found.dice[k])),
    row('boundary F1', edges.f1),
    { name: 'Hausdorff 95', value: hausdorff, text: far, bare: true },
  ];
}

function render({ model, el }) {
  const { scenes: given, reach } = model.get('data');
  let scenes = given;
  const value = (key) => model.get(key);
  const scene = () => scenes[Math.min(value('scene'), scenes.length - 1)];
  const planOf = () => {
    const { h, w } = scene();
    const side = Math.max(4, Math.min(9, Math.floor(576 / w), Math.floor(420 / h)));
    return { width: 20 + w * side, height: 20 + h * side, side };
  };
  const table = bars();
  const key = html('div', {}, keyFor(given));

  const draw = (g, { side }) => {
    const { truth, names, ignore, h, w } = scene();
    const plain = truth.map((t) => (t === ignore ? 0 : t));
    const [grow, lost, down, right] = ['grow', 'lost', 'row', 'col'].map(value);
    const predicted = changed(plain, [h, w], { grow, lost, down, right });
    const found = scores(truth, predicted, names.length, ignore);
    const edges = boundary(truth, predicted, [h, w], names.length, ignore);
    const kinds = truth.map((t, i) => kindOf(t, predicted[i], ignore));
    const place = [10, 10];
    paint(g, place, [h, w], side, (i) => COLORS[kinds[i]]);
    hatch(g, place, [h, w], side, (i) => kinds[i] === 'Void');
    strokes(g, place, [h, w], side, (i) => kinds[i] === 'invented' || kinds[i] === 'mixed');
    rim(g, place, [h, w], side, truth);
    table.show(rowsOf(scene(), found, edges), 1);
    const count = (kind) => kinds.filter((o) => o === kind).length;
    const mixed = count('mixed') ? `, ${count('mixed')} of another class` : '';
    return {
      // the handle stands where the middle of the picture has gone
      point: [10 + (w / 2 + right) * side, 10 + (h / 2 + down) * side],
      says: `Pixel accuracy ${found.accuracy.toFixed(3)}, mean IoU ${found.mean.toFixed(3)}: moved ${down} down and ${right} right, grown by ${grow}, ${lost} % of the pieces lost; ${count('missed')} pixels missed, ${count('invented')} invented${mixed}.`,
    };
  };
  // the picture moves as far as the pointer
  let held = [0, 0];
  const at = (x, y, { side }, begins) => {
    if (begins) held = [y / side - value('row'), x / side - value('col')];
    return [Math.round(y / side - held[0]), Math.round(x / side - held[1])];
  };

  const names = choice(model, 'truth', 'scene', []);
  const listScenes = () => {
    const select = names.querySelector('select');
    select.replaceChildren(...options(scenes.map((o) => o.name)));
    select.value = value('scene');
    names.hidden = scenes.length < 2;
    key.replaceChildren(keyFor(scenes));
  };
  const take = async (file) => {
    const say = el.querySelector('.segbook-say');
    try {
      const own = idsOf(await pixelsOf(file), MOST_PIXELS, MOST_CLASSES);
      scenes = [...given, { ...own, name: 'own mask', ignore: own.names.indexOf('Void') }];
      listScenes();
      const last = { scene: given.length, row: 0, col: 0, grow: 0, lost: 0 };
      put(model, last);
      show();
    } catch (error) {
      say.textContent = `${file.name}: ${error.message}`;
    }
  };
  const sliders = [
    ['down', 'row', -reach, reach],
    ['right', 'col', -reach, reach],
    ['grow', 'grow', -4, 4],
    ['lost %', 'lost', 0, 100],
  ].map((o) => range(model, ...o));
  const file = fileChoice('own mask', take);
  const own = html('div', { className: 'segbook-controls' }, file);
  listScenes();
  const places = [
    [-reach, reach],
    [-reach, reach],
  ];
  const show = sheet(model, el, {
    kind: 'metric',
    limits: {
      scene: [0, given.length - 1],
      row: places[0],
      col: places[1],
      grow: [-4, 4],
      lost: [0, 100],
    },
    controls: [names, ...sliders],
    plan: planOf,
    units: () => places,
    at,
    draw,
    below: [key, table, own],
    forget: () => {
      scenes = given;
      file.querySelector('input').value = '';
      listScenes();
    },
  });
}

export default { render };
