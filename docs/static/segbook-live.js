// Explorers without a kernel. Those of anywidget are a module and its values: a small model stands in for the kernel's. Widgets of
// ipywidgets, as figures behind a slider, need the HTML manager of Jupyter, which is fetched only for them.
const TYPE = 'application/vnd.jupyter.widget-';

function model(state) {
  const values = { ...state }, heard = {};
  const tell = name => { for (const f of [...(heard[name] || [])]) f(self, values[name.slice(7)]); };
  const self = {
    get: k => values[k],
    set(k, v) {
      if (typeof k === 'object') { for (const [a, b] of Object.entries(k)) self.set(a, b); return; }
      if (Object.is(values[k], v)) return;
      values[k] = v;
      tell(`change:${k}`);
      tell('change');
    },
    save_changes() {}, send() {},
    on(names, f) { for (const n of names.split(/\s+/)) (heard[n] ||= []).push(f); },
    off(names, f) {
      for (const n of names ? names.split(/\s+/) : Object.keys(heard)) heard[n] = f ? (heard[n] || []).filter(o => o !== f) : [];
    },
    widget_manager: null,
  };
  return self;
}

// Bytes of a stored state stand beside it, in base64
function whole({ state, buffers = [] }) {
  const values = structuredClone(state);
  for (const { path, data } of buffers) {
    const bytes = Uint8Array.from(atob(data), c => c.charCodeAt(0));
    path.slice(0, -1).reduce((o, k) => o[k], values)[path.at(-1)] = new DataView(bytes.buffer);
  }
  return values;
}

const modules = new Map();
function moduleOf(text) {
  if (!modules.has(text)) modules.set(text, import(URL.createObjectURL(new Blob([text], { type: 'text/javascript' }))));
  return modules.get(text);
}

async function live(place, stored) {
  const values = whole(stored), module = await moduleOf(values._esm);
  let widget = module.default || module;
  if (typeof widget === 'function') widget = await widget();
  const style = document.createElement('style');
  style.textContent = values._css || '';
  const el = document.createElement('div'), m = model(values);
  el.className = 'segbook-explorer-place';
  place.append(style, el);
  await widget.initialize?.({ model: m });
  await widget.render?.({ model: m, el });
}

const script = src => new Promise((yes, no) => {
  const s = document.createElement('script');
  Object.assign(s, { src, onload: yes, onerror: no });
  document.head.append(s);
});

async function managed(here, places) {
  for (const p of places) {
    const s = document.createElement('script');
    s.type = `${TYPE}view+json`;
    s.textContent = JSON.stringify({ version_major: 2, version_minor: 0, model_id: p.dataset.model });
    p.append(s);
  }
  await script(`${here}vendor/require.js`);
  window.requirejs.config({ baseUrl: `${here}vendor`, waitSeconds: 30 });
  // the manager speaks MathJax 2; the pages have MathJax 3, which puts an object of its own in the place of this one
  const Hub = { Queue() {}, Register: { StartupHook() {} } };
  let jax = window.MathJax || {};
  Object.defineProperty(window, 'MathJax', { configurable: true, get: () => jax, set: v => { jax = v; if (v && !v.Hub) v.Hub = Hub; } });
  window.MathJax = jax;
  await script(`${here}vendor/embed-amd.js`);
  for (const p of places) {
    for (let n = 0; n < 600 && !p.querySelector('.jupyter-widgets'); n++) await new Promise(f => setTimeout(f, 50));
    if (!p.querySelector('.jupyter-widgets')) throw new Error('no widget');
  }
}

function put(place, how) {
  place.dataset.live = how;
  const figure = place.closest('.cell_output')?.querySelector('img:not(.segbook-live img)');
  if (how === 'ready' && 'still' in place.dataset && figure) (figure.closest('figure') || figure).hidden = true;
}

export async function start(here) {
  const states = JSON.parse(document.querySelector(`script[type="${TYPE}state+json"]`).textContent).state;
  const places = [...document.querySelectorAll('.segbook-live')], others = [];
  for (const p of places) {
    const stored = states[p.dataset.model];
    if (!stored?.state._esm) { others.push(p); continue; }
    try { await live(p, stored); put(p, 'ready'); } catch (e) { console.warn(e); put(p, 'failed'); }
  }
  if (!others.length) return;
  try { await managed(here, others); for (const p of others) put(p, 'ready'); } catch (e) { for (const p of others) put(p, 'failed'); }
}
