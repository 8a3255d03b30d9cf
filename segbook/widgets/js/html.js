// Elements and controls that every explorer is made of. A control shows a value of the model and changes it.

export function html(tag, props = {}, ...children) {
  const element = Object.assign(document.createElement(tag), props);
  element.append(...children);
  return element;
}

export function put(model, values) {
  model.set(values);
  model.save_changes();
}

export function button(label, onclick, props = {}) {
  return html('button', { type: 'button', textContent: label, onclick, ...props });
}

// In JupyterLab, too, the arrow keys belong to the control that has the focus.
export function keepKeys(element) {
  element.dataset.lmSuppressShortcuts = 'true';
  return element;
}

export function range(model, label, key, min, max, step = 1) {
  const value = model.get(key);
  const slider = keepKeys(html('input', { type: 'range', min, max, step, value }));
  const output = html('output', { textContent: value });
  slider.oninput = () => put(model, { [key]: +slider.value });
  model.on(`change:${key}`, () => {
    slider.value = model.get(key);
    output.textContent = model.get(key);
  });
  return html('label', {}, label, slider, output);
}

export function options(names) {
  return names.map((name, i) => html('option', { value: i, textContent: name }));
}

// `also(i)`: what else changes when the reader chooses number i
export function choice(model, label, key, names, also = () => ({})) {
  const select = keepKeys(html('select', {}, ...options(names)));
  select.value = model.get(key);
  select.onchange = () => put(model, { [key]: +select.value, ...also(+select.value) });
  model.on(`change:${key}`, () => {
    select.value = model.get(key);
  });
  return html('label', {}, label, select);
}

// a button that switches a value between 0 and 1
export function toggle(model, label, key) {
  const press = button(label, () => put(model, { [key]: 1 - model.get(key) }));
  const show = () => {
    press.ariaPressed = String(Boolean(model.get(key)));
  };
  model.on(`change:${key}`, show);
  show();
  return press;
}

// `take(file)` is called with the file that the reader chooses
export function fileChoice(label, take) {
  const input = html('input', { type: 'file', accept: 'image/*' });
  input.onchange = () => {
    if (input.files[0]) take(input.files[0]);
  };
  return html('label', { className: 'segbook-file' }, label, input);
}
