// Predictions from the worst to the best: image, truth, prediction and errors, for all classes or for one.
import { frame } from './frame.js';
import { button, choice, html, put, range } from './html.js';
import { keyOf } from './marks.js';
import { errorPixels, idsIn, shaded } from './mask_pixels.js';
import { pixelsOf } from './own_mask.js';

const LOOKS = ['image', 'truth', 'prediction', 'errors'];

function looksOf(model) {
  const press = (view) => button(view, () => put(model, { view }));
  const looks = html(
    'span',
    { className: 'segbook-views', role: 'group', ariaLabel: 'view' },
    ...LOOKS.map(press),
  );
  const show = () => {
    for (const b of looks.children) b.ariaPressed = String(b.textContent === model.get('view'));
  };
  model.on('change:view', show);
  show();
  return looks;
}

// the slider ends at the last image that has a score for the class that is chosen
function rankOf(model) {
  const rank = range(model, 'rank', 'rank', 0, 0);
  const show = () => {
    rank.querySelector('input').max = Math.max(
      0,
      model.get('orders')[model.get('only')].length - 1,
    );
    rank.querySelector('input').value = model.get('rank');
  };
  model.on('change:only', show);
  model.on('change:rank', show);
  show();
  return rank;
}

function controlsFor(model) {
  const only = choice(model, 'worst for', 'only', model.get('choices'), () => ({ rank: 0 }));
  return html('div', { className: 'segbook-controls' }, rankOf(model), looksOf(model), only);
}

async function loaded(picture) {
  const keys = ['image', 'truth', 'prediction'];
  const [image, truth, answer] = await Promise.all(keys.map((key) => pixelsOf(picture[key])));
  const size = [image.height, image.width];
  return { picture, image: image.data, truth: idsIn(truth), answer: idsIn(answer), size };
}

function drawnPixels(shown, view, colors, voidId) {
  const { image, truth, answer, size } = shown;
  if (view === 'errors') return errorPixels(image, truth, answer, size, voidId);
  const look = { view: view === 'image' ? 'image' : 'mask', alpha: 1, colors, void_id: voidId };
  return shaded(image, view === 'prediction' ? answer : truth, size, look);
}

function keyOfPair({ truth, answer }, codes, colors, voidId) {
  const ids = [...new Set([...truth, ...answer])].sort((a, b) => a - b);
  const named = ids.filter((id) => id !== voidId).map((id) => [`rgb(${colors[id]})`, codes[id]]);
  const without = ids.includes(voidId) ? [['void', `${codes[voidId]} (not counted)`]] : [];
  return keyOf([...named, ...without, ['rgb(205, 16, 36)', 'wrong']]);
}

function render({ model, el }) {
  const canvas = html('canvas', { role: 'img' });
  const stage = html('div', { className: 'segbook-stage' }, canvas);
  const legend = html('div', {});
  const say = html('div', { className: 'segbook-say', role: 'status' });
  const keys = ['rank', 'only', 'view'];
  let shown = {};
  let turn = 0;

  function pictureAt(position) {
    const current = model.get('current');
    const kept = model.get('held').find((o) => o.position === position);
    const picture = kept ?? (current.position === position ? current : null);
    if (!picture) {
      throw new Error(
        'This picture comes from the kernel; without one, only the worst images can be shown.',
      );
    }
    return picture;
  }
  function sentence(picture, rank, order, score) {
    const where = `${picture.title}, rank ${rank + 1} of ${order.length}`;
    return `${where}: ${score}, ${picture.wrong}`;
  }
  async function draw() {
    const [rank, only, view, codes, colors, voidId] = [...keys, 'codes', 'colors', 'void_id'].map(
      (key) => model.get(key),
    );
    const order = model.get('orders')[only];
    const position = order[Math.min(rank, order.length - 1)];
    const mine = ++turn;
    let now;
    try {
      if (position === undefined) throw new Error('No image has this class, in truth or answer.');
      const picture = pictureAt(position);
      now = shown.picture === picture ? shown : await loaded(picture);
    } catch (error) {
      say.textContent = error.message;
      canvas.hidden = legend.hidden = true;
      return;
    }
    if (mine !== turn) return; // the slider has moved on
    const [h, w] = now.size;
    if (shown !== now) {
      shown = now;
      [canvas.width, canvas.height] = [w, h];
      stage.style.setProperty('--ratio', w / h);
      legend.replaceChildren(keyOfPair(now, codes, colors, voidId));
    }
    canvas.hidden = legend.hidden = false;
    const pixels = new ImageData(drawnPixels(now, view, colors, voidId), w, h);
    canvas.getContext('2d').putImageData(pixels, 0, 0);
    say.textContent = sentence(now.picture, rank, order, model.get('scores')[only][rank]);
    canvas.ariaLabel = `${view}: ${say.textContent}`;
    canvas.dataset.shown = [position, view, only, rank].join('|');
  }
  for (const key of [...keys, 'current']) model.on(`change:${key}`, draw);
  const limits = {
    rank: [0, Math.max(0, model.get('n') - 1)],
    only: [0, model.get('choices').length - 1],
    view: { words: LOOKS },
  };
  const tools = frame(model, el, { kind: 'prediction', limits, canvas, say });
  el.append(controlsFor(model), stage, legend, say, tools);
  draw();
}

export default { render };
