// An explorer that draws on a white sheet, and has a point that moves: by mouse, by arrow keys, and by a finger on the
// handle. A finger beside the handle scrolls the page.
import { frame } from './frame.js';
import { html, keepKeys, put } from './html.js';

const NARROW = 480; // pixels of the page: below, panels stand below each other
const ARROWS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

export function within(value, least, most) {
  return Math.max(least, Math.min(most, value));
}

// parts: kind and limits (see frame.js); controls; plan(narrow): { width, height, ... } of the sheet; units(): [least,
// most] of rows and of columns; at(x, y, plan, begins): [row, column] there, or null; draw(g, plan): { says, point: [x, y] };
// below: what stands under the sheet; forget: see frame.js
export function sheet(model, el, parts) {
  const { kind, limits, controls, units, at, draw, below = [], forget } = parts;
  const say = html('div', { className: 'segbook-say', role: 'status' });
  const canvas = keepKeys(html('canvas', { tabIndex: 0, role: 'application' }));
  const handle = html('span', { className: 'segbook-handle' });
  const stage = html('div', { className: 'segbook-stage' }, canvas, handle);
  let plan = parts.plan(false);
  let wide = plan.width;
  let point = [0, 0];

  const go = (row, column) => {
    const [rows, columns] = units();
    put(model, { row: within(row, ...rows), col: within(column, ...columns) });
  };
  const placeOf = (event) => {
    const box = canvas.getBoundingClientRect();
    const scale = plan.width / box.width;
    return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
  };
  const choose = ([x, y], begins) => {
    const unit = at(x, y, plan, begins);
    if (unit) go(...unit);
  };
  let touched = false;
  canvas.onpointerdown = (event) => {
    touched = event.pointerType === 'touch';
    if (touched) return; // a tap chooses, see onclick; a move scrolls the page
    canvas.setPointerCapture(event.pointerId);
    choose(placeOf(event), true);
  };
  canvas.onpointermove = (event) => {
    if (event.buttons && event.pointerType !== 'touch') choose(placeOf(event), false);
  };
  canvas.onclick = (event) => {
    if (touched) choose(placeOf(event), true);
  };
  let grip = null; // from the point to the pointer that holds it
  handle.onpointerdown = (event) => {
    handle.setPointerCapture(event.pointerId);
    const [x, y] = placeOf(event);
    grip = [x - point[0], y - point[1]];
    at(...point, plan, true);
    event.preventDefault();
    canvas.focus({ preventScroll: true });
  };
  handle.onpointermove = (event) => {
    if (!grip) return;
    const [x, y] = placeOf(event);
    choose([x - grip[0], y - grip[1]], false);
  };
  handle.onpointerup = handle.onpointercancel = () => {
    grip = null;
  };
  canvas.onkeydown = (event) => {
    const step = ARROWS[event.key];
    if (!step) return;
    go(model.get('row') + step[0], model.get('col') + step[1]);
    event.preventDefault();
    event.stopPropagation();
  };

  const show = () => {
    const began = performance.now();
    const g = canvas.getContext('2d');
    plan = parts.plan(wide < NARROW);
    // as many pixels as the screen has there
    const k = (wide / plan.width) * (window.devicePixelRatio || 1);
    canvas.width = Math.round(plan.width * k);
    canvas.height = Math.round(plan.height * k);
    stage.style.setProperty('--ratio', plan.width / plan.height);
    g.setTransform(k, 0, 0, k, 0, 0);
    g.fillStyle = '#fff';
    g.fillRect(0, 0, plan.width, plan.height);
    g.font = '12px sans-serif';
    g.fillStyle = '#111';
    const drawn = draw(g, plan);
    point = drawn.point ?? [0, 0];
    handle.hidden = !drawn.point;
    handle.style.left = `${(100 * point[0]) / plan.width}%`;
    handle.style.top = `${(100 * point[1]) / plan.height}%`;
    say.textContent = canvas.ariaLabel = canvas.dataset.shown = drawn.says;
    canvas.dataset.ms = (performance.now() - began).toFixed(1);
  };
  const tools = frame(model, el, { kind, limits, canvas, say, forget });
  const row = html('div', { className: 'segbook-controls' }, ...controls);
  el.append(row, stage, ...below, say, tools);
  new ResizeObserver(() => {
    const now = stage.clientWidth;
    if (!now || now === wide) return;
    wide = now;
    show();
  }).observe(stage);
  model.on('change', show);
  show();
  return show;
}
