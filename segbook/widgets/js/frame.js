// What stands around every explorer: reset, picture, link, full screen; and its state in the address of the page.
import { accepted, changes, firstIn, stateIn, withState } from './address.js';
import { button, html, put } from './html.js';

const STATE = 'script[type="application/vnd.jupyter.widget-state+json"]';
const VIEW = 'script[type="application/vnd.jupyter.widget-view+json"]';

// The model behind an element of a page that stores its widgets: of segbook's own pages, or of those of Jupyter
function modelOf(host) {
  return host.dataset.model ?? JSON.parse(host.nextElementSibling.textContent).model_id;
}

// The name of an explorer in the address: its kind, and a number from the second of its kind on. Only a page that
// stores its widgets has such names; in JupyterLab and Colab the address belongs to the program.
function placeOf(el, kind) {
  const stored = document.querySelector(STATE);
  if (!stored) return null;
  const isHost = (o) => o.dataset.model || o.nextElementSibling?.matches(VIEW);
  const hosts = [...document.querySelectorAll('[data-model], .widget-subarea')].filter(isHost);
  const { state } = JSON.parse(stored.textContent);
  const classOf = (host) => state[modelOf(host)]?.state._anywidget_id;
  const mine = hosts.find((host) => host.contains(el));
  if (!mine) return kind;
  const at = hosts.filter((host) => classOf(host) === classOf(mine)).indexOf(mine);
  return at > 0 ? `${kind}-${at + 1}` : kind;
}

function keepInAddress(model, el, kind, limits, initial) {
  const place = placeOf(el, kind);
  if (!place) return false;
  const keys = Object.keys(limits);
  const read = () => Object.fromEntries(keys.map((key) => [key, model.get(key)]));
  const restore = () => {
    const wanted = accepted(stateIn(location.hash, place), limits);
    if (Object.keys(wanted).length) put(model, { ...initial, ...wanted });
    if (firstIn(location.hash) === place) {
      requestAnimationFrame(() => el.scrollIntoView({ block: 'center' }));
    }
  };
  let waits = 0;
  const write = () => {
    const { pathname, search, hash } = location;
    const now = changes(read(), initial);
    const next = withState(hash, place, now);
    // an anchor of the page stays until there is something to say
    if (next === hash || (!next && !stateIn(hash, place))) return;
    if (next || hash.startsWith('#explorers?')) {
      history.replaceState(history.state, '', pathname + search + next);
    }
  };
  model.on('change', () => {
    clearTimeout(waits);
    waits = setTimeout(write, 250);
  });
  addEventListener('hashchange', restore);
  restore();
  return true;
}

// the canvas as a PNG file; a small one is enlarged by whole pixels
function save(canvas, name) {
  const by = Math.max(1, Math.ceil(640 / canvas.width));
  const copy = html('canvas', { width: by * canvas.width, height: by * canvas.height });
  const g = copy.getContext('2d');
  g.imageSmoothingEnabled = false;
  g.drawImage(canvas, 0, 0, copy.width, copy.height);
  copy.toBlob((blob) => {
    const link = html('a', { href: URL.createObjectURL(blob), download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
}

// `limits` names the values that make up the state, see accepted() in address.js; `forget` undoes what is no such value
export function frame(model, el, { kind, limits, canvas, say, forget = () => {} }) {
  const initial = Object.fromEntries(Object.keys(limits).map((key) => [key, model.get(key)]));
  const tools = html('div', { className: 'segbook-tools', role: 'group', ariaLabel: 'explorer' });
  const reset = () => {
    forget();
    put(model, initial);
  };
  tools.append(
    button('reset', reset),
    button('save PNG', () => save(canvas, `${kind}.png`)),
  );
  el.classList.add('segbook-explorer');
  if (keepInAddress(model, el, kind, limits, initial)) {
    const copy = button('copy link', async () => {
      // what was moved a moment ago belongs to the link
      await new Promise((done) => setTimeout(done, 300));
      const done = navigator.clipboard?.writeText(location.href);
      await done?.catch(() => {});
      say.textContent = done
        ? 'The link to this state is in the clipboard.'
        : 'The link to this state stands in the address bar.';
    });
    tools.append(copy);
  }
  if (document.fullscreenEnabled) {
    const full = button('full screen', () =>
      document.fullscreenElement ? document.exitFullscreen() : el.requestFullscreen(),
    );
    el.addEventListener('fullscreenchange', () => {
      full.textContent = document.fullscreenElement === el ? 'leave full screen' : 'full screen';
    });
    tools.append(full);
  }
  return tools;
}
