// What explorers draw: pixels, cells with numbers, outlines, hatching, a key of colours, a list of bars.
import { button, html } from './html.js';

// h rows of w squares of side s; color(i): [red, green, blue] of each
export function paint(g, [x, y], [h, w], s, color) {
  const canvas = html('canvas', { width: w, height: h });
  const image = new ImageData(w, h);
  for (let i = 0; i < h * w; i++) image.data.set([...color(i), 255], 4 * i);
  canvas.getContext('2d').putImageData(image, 0, 0);
  g.imageSmoothingEnabled = false;
  g.drawImage(canvas, x, y, w * s, h * s);
}

// cells of side s with what look(value, row, column) says: [colour, text, colour of the text]
export function cells(g, [x, y], rows, s, look) {
  g.save();
  g.textAlign = 'center';
  g.textBaseline = 'middle';
  g.lineWidth = 1;
  g.strokeStyle = '#8a8a8a';
  rows.forEach((row, i) => {
    row.forEach((value, j) => {
      const [fill, text = '', ink = '#111'] = look(value, i, j);
      g.fillStyle = fill;
      g.fillRect(x + j * s, y + i * s, s, s);
      g.strokeRect(x + j * s + 0.5, y + i * s + 0.5, s, s);
      if (text === '' || s < 13) return;
      g.font = `${Math.min(14, s * (text.length > 3 ? 0.38 : 0.48))}px sans-serif`;
      g.fillStyle = ink;
      g.fillText(text, x + (j + 0.5) * s + 0.5, y + (i + 0.5) * s + 1);
    });
  });
  g.restore();
}

export function frameOf(g, [x, y], [h, w], color, width = 3) {
  g.strokeStyle = color;
  g.lineWidth = width;
  g.strokeRect(x, y, w, h);
  g.lineWidth = 1;
}

// the lines between pixels of different ids, dark on white
export function rim(g, [x, y], [h, w], s, ids) {
  g.beginPath();
  for (let i = 0; i < h * w; i++) {
    const a = x + (i % w) * s;
    const b = y + Math.floor(i / w) * s;
    if (i % w && ids[i] !== ids[i - 1]) {
      g.moveTo(a, b);
      g.lineTo(a, b + s);
    }
    if (i >= w && ids[i] !== ids[i - w]) {
      g.moveTo(a, b);
      g.lineTo(a + s, b);
    }
  }
  for (const [color, width] of [
    ['#fff', 2.6],
    ['#111', 1.2],
  ]) {
    g.strokeStyle = color;
    g.lineWidth = width;
    g.stroke();
  }
}

// a stroke through each square i of side s for which marked(i): from its lower left to its upper right corner
export function strokes(g, [x, y], [h, w], s, marked) {
  g.strokeStyle = '#111';
  g.lineWidth = 1;
  g.beginPath();
  for (let i = 0; i < h * w; i++) {
    if (!marked(i)) continue;
    const a = x + (i % w) * s;
    const b = y + Math.floor(i / w) * s;
    g.moveTo(a, b + s);
    g.lineTo(a + s, b);
  }
  g.stroke();
}

// Void is hatched: dark and light lines, against the strokes, over squares for which marked(i)
export function hatch(g, [x, y], [h, w], s, marked) {
  g.save();
  g.beginPath();
  for (let i = 0; i < h * w; i++) {
    if (marked(i)) g.rect(x + (i % w) * s, y + Math.floor(i / w) * s, s, s);
  }
  g.clip();
  for (const [color, shift] of [
    ['#3c3c3c', 0],
    ['#e6e6e6', 2],
  ]) {
    g.strokeStyle = color;
    g.lineWidth = 1.5;
    g.beginPath();
    for (let d = -h * s; d < w * s; d += 9) {
      g.moveTo(x + d + shift, y);
      g.lineTo(x + d + shift + h * s, y + h * s);
    }
    g.stroke();
  }
  g.restore();
}

export function cross(g, x, y) {
  for (const [color, width] of [
    ['#fff', 5],
    ['#c2410c', 2.5],
  ]) {
    g.strokeStyle = color;
    g.lineWidth = width;
    g.beginPath();
    g.moveTo(x - 7, y);
    g.lineTo(x + 7, y);
    g.moveTo(x, y - 7);
    g.lineTo(x, y + 7);
    g.stroke();
  }
}

export function swatch(background) {
  const square = html('span', { className: 'segbook-swatch' });
  if (background === 'void') square.classList.add('segbook-void');
  else square.style.background = background;
  return square;
}

// [[CSS background, or 'void', and what it means]]
export function keyOf(parts) {
  const items = parts.map(([back, what]) => html('span', {}, swatch(back), ` ${what}`));
  return html('div', { className: 'segbook-key' }, ...items);
}

// .show(rows, most, chosen): a name, a bar as part of `most` (none where `bare`), a text. With `pick` names are buttons.
export function bars(pick) {
  const all = html('div', { className: 'segbook-bars', role: 'list' });
  let rows = [];
  const made = (name, i) => {
    const label = pick ? button(name, () => pick(i)) : html('span', { textContent: name });
    const bar = html('span', { className: 'segbook-bar' });
    const track = html('span', { className: 'segbook-track' }, bar);
    const text = html('span');
    const row = html('div', { role: 'listitem' }, label, track, text);
    return { name, label, bar, track, text, row };
  };
  all.show = (list, most, chosen) => {
    if (rows.map((o) => o.name).join() !== list.map((o) => o.name).join()) {
      rows = list.map((o, i) => made(o.name, i));
      all.replaceChildren(...rows.map((o) => o.row));
    }
    list.forEach((o, i) => {
      rows[i].track.style.visibility = o.bare ? 'hidden' : '';
      rows[i].bar.style.width = `${100 * Math.min(1, o.value / most) || 0}%`;
      rows[i].text.textContent = o.text;
      rows[i].text.dataset.value = o.value;
      if (pick) rows[i].label.ariaPressed = String(i === chosen);
    });
  };
  return all;
}
