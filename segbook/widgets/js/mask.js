// Many images with their masks: which image, which view, how opaque, which class.
import { frame } from './frame.js';
import { button, fileChoice, html, keepKeys, options, put, range } from './html.js';
import { swatch } from './marks.js';
import { idsIn, percent, saidAt, shaded, sharesOf } from './mask_pixels.js';
import { idsOf, pixelsOf, thinned, thinningOf } from './own_mask.js';

const VIEWS = ['image', 'overlay', 'mask', 'one class'];
const LONGEST = 640; // pixels of an own image
const MOST_CLASSES = 40;
// colours for the classes of an own mask that have none
const MORE = [
  [17, 119, 51],
  [221, 204, 119],
  [136, 34, 85],
  [136, 204, 238],
  [204, 102, 119],
  [68, 170, 153],
  [153, 153, 51],
];

function controlsOf(model, codes) {
  const press = (view) => button(view, () => put(model, { view }));
  const views = html(
    'span',
    { className: 'segbook-views', role: 'group', ariaLabel: 'view' },
    ...VIEWS.map(press),
  );
  const only = keepKeys(html('select', { onchange: () => put(model, { only: +only.value }) }));
  const which = html('label', {}, 'class', only);
  const alpha = range(model, 'opacity', 'alpha', 0, 1, 0.05);
  const show = () => {
    const view = model.get('view');
    only.replaceChildren(...options(codes().map((name, i) => `${i}  ${name}`)));
    for (const b of views.children) b.ariaPressed = String(b.textContent === view);
    only.value = model.get('only');
    which.hidden = view !== 'one class';
    alpha.hidden = !['overlay', 'one class'].includes(view);
  };
  model.on('change:view', show);
  model.on('change:only', show);
  show();
  const n = model.get('n');
  const index = n > 1 ? [range(model, 'image', 'index', 0, n - 1)] : [];
  return {
    row: html('div', { className: 'segbook-controls' }, ...index, views, alpha, which),
    show,
  };
}

// the classes that are present, the largest first; a click shows one alone
function legendOf(model, ids, { codes, colors, void_id: voidId }) {
  return sharesOf(ids).map(([id, share]) => {
    const pick = button('', () => put(model, { view: 'one class', only: id }));
    pick.append(
      swatch(id === voidId ? 'void' : `rgb(${colors[id]})`),
      `${codes[id]} ${percent(share)}`,
    );
    return pick;
  });
}

// an image and a mask that the reader chooses, in place of those of the model
function ownPair(model, el, changed) {
  const own = { image: null, mask: null, pair: null };
  const say = (text) => {
    el.querySelector('.segbook-say').textContent = text;
  };
  const together = () => {
    const { image, mask } = own;
    if (!mask) return say('Now choose its mask: one value, or one colour, for each class.');
    const { truth, names, h, w, thinning } = mask;
    const grey = { data: new Uint8ClampedArray(4 * h * w).fill(200), width: w, height: h };
    const below = image ?? grey;
    if (below.height !== h || below.width !== w) {
      return say(
        `The image is ${below.height}×${below.width} and the mask ${h}×${w} (height × width); expected one size.`,
      );
    }
    const known = model.get('colors');
    const same = names === model.get('codes');
    const colors = names.map((_, i) => (same ? known[i] : MORE[i % MORE.length]));
    const id = names.findIndex((name) => /^void$/i.test(name));
    const title = image ? 'own image and mask' : 'own mask';
    own.pair = {
      title,
      image: below.data,
      ids: truth,
      size: [h, w],
      thinning,
      codes: names,
      colors,
      void_id: id,
    };
    return changed();
  };
  const take = (key, read) => async (file) => {
    try {
      own[key] = read(await pixelsOf(file));
      together();
    } catch (error) {
      say(`${file.name}: ${error.message}`);
    }
  };
  const inputs = [
    fileChoice(
      'own image',
      take('image', (pixels) => thinned(pixels, LONGEST)),
    ),
    fileChoice(
      'own mask',
      take('mask', (pixels) => ({
        ...idsOf(pixels, LONGEST, MOST_CLASSES, model.get('codes')),
        thinning: thinningOf(pixels, LONGEST),
      })),
    ),
  ];
  const forget = () => {
    Object.assign(own, { image: null, mask: null, pair: null });
    for (const input of inputs) input.querySelector('input').value = '';
  };
  return { own, inputs, forget };
}

function render({ model, el }) {
  const canvas = html('canvas', { role: 'img' });
  const legend = html('div', { className: 'segbook-key' });
  const say = html('div', { className: 'segbook-say', role: 'status' });
  const stage = html('div', { className: 'segbook-stage' }, canvas);
  const { own, inputs, forget } = ownPair(model, el, () => draw());
  let shown = {};
  let turn = 0;

  async function load(picture) {
    const [image, mask] = await Promise.all([pixelsOf(picture.image), pixelsOf(picture.mask)]);
    const { codes, colors, void_id } = Object.fromEntries(
      ['codes', 'colors', 'void_id'].map((key) => [key, model.get(key)]),
    );
    const size = [image.height, image.width];
    return {
      title: picture.title,
      image: image.data,
      ids: idsIn(mask),
      size,
      thinning: picture.thinned,
      codes,
      colors,
      void_id,
    };
  }
  async function pair(index) {
    if (own.pair) return own.pair;
    const current = model.get('current');
    const picture = model.get('pictures')[index] ?? (current.index === index ? current : null);
    if (!picture) {
      throw new Error(
        `Picture ${index} comes from the kernel; without one, only the first pictures can be shown.`,
      );
    }
    if (picture.error) throw new Error(picture.error);
    return shown.picture === picture ? shown.pair : { ...(await load(picture)), picture };
  }
  async function draw() {
    const [view, only, alpha, index, note] = ['view', 'only', 'alpha', 'index', 'note'].map((key) =>
      model.get(key),
    );
    const mine = ++turn;
    let now;
    try {
      now = await pair(index);
    } catch (error) {
      say.textContent = error.message;
      canvas.hidden = legend.hidden = true;
      return;
    }
    if (mine !== turn) return; // the slider has moved on
    const [h, w] = now.size;
    if (shown.pair !== now) {
      shown = { pair: now, picture: now.picture };
      [canvas.width, canvas.height] = [w, h];
      stage.style.setProperty('--ratio', w / h);
      legend.replaceChildren(...legendOf(model, now.ids, now));
      controls.show();
    }
    canvas.hidden = legend.hidden = false;
    const look = { view, only, alpha, colors: now.colors, void_id: now.void_id };
    const pixels = new ImageData(shaded(now.image, now.ids, now.size, look), w, h);
    canvas.getContext('2d').putImageData(pixels, 0, 0);
    canvas.ariaLabel = `${now.title}, ${view}`;
    canvas.dataset.shown = [own.pair ? 'own' : index, view, only, alpha].join('|');
    say.textContent = note && !own.pair ? `${now.title}. ${note}` : now.title;
  }
  canvas.onpointermove = canvas.onpointerdown = (event) => {
    const box = canvas.getBoundingClientRect();
    const x = Math.floor(((event.clientX - box.left) / box.width) * canvas.width);
    const y = Math.floor(((event.clientY - box.top) / box.height) * canvas.height);
    say.textContent = (shown.pair && saidAt(shown.pair, x, y)) ?? say.textContent;
  };
  const controls = controlsOf(model, () => (own.pair ?? shown.pair)?.codes ?? model.get('codes'));
  for (const key of ['view', 'only', 'alpha', 'index', 'current', 'note'])
    model.on(`change:${key}`, draw);
  model.on('change:index', forget);
  const last = Math.max(0, model.get('n') - 1);
  const limits = {
    index: [0, last],
    view: { words: VIEWS },
    only: [0, Math.max(0, model.get('codes').length - 1)],
    alpha: { least: 0, most: 1 },
  };
  const both = () => {
    forget();
    draw();
  };
  const files = html('div', { className: 'segbook-controls' }, ...inputs);
  const tools = frame(model, el, { kind: 'mask', limits, canvas, say, forget: both });
  el.append(controls.row, stage, legend, say, files, tools);
  draw();
}

export default { render };
