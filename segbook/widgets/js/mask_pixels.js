// Colours over an image: the same arithmetic as overlay() and show_mask() in Python.

// the lines of Void at row r, column c: 60 (dark), 230 (light) or 0 (none)
export function hatchAt(r, c, [h, w]) {
  const longest = Math.max(h, w);
  const step = Math.max(6, Math.floor(longest / 24));
  const line = Math.max(1, Math.floor(longest / 200));
  const k = (r + c) % step;
  if (k < line) return 60;
  return k < 2 * line ? 230 : 0;
}

// numbers of single precision, as NumPy takes them there: a half is rounded the same way
const f32 = Math.fround;

function mixed(base, tint, a) {
  return Math.floor(f32(f32(f32(base * f32(1 - f32(a))) + f32(tint * f32(a))) + 0.5));
}

// RGBA of the image [h, w] under the colours of its ids; look: view, only, alpha, colors, void_id
export function shaded(image, ids, [h, w], look) {
  const { view, only, alpha, colors, void_id: voidId } = look;
  const out = new Uint8ClampedArray(4 * h * w);
  const opacity = view === 'mask' ? 1 : alpha;
  for (let i = 0; i < h * w; i++) {
    const id = ids[i];
    const isVoid = id === voidId;
    const lines = isVoid ? hatchAt(Math.floor(i / w), i % w, [h, w]) : 0;
    const alone = view === 'one class' && id !== only;
    const a = view === 'image' || (isVoid && !lines) ? 0 : opacity;
    for (let c = 0; c < 3; c++) {
      const base = view === 'mask' ? 200 : image[4 * i + c];
      const tint = isVoid ? lines : colors[id][c];
      out[4 * i + c] = alone ? Math.floor(base / 3) + 160 : mixed(base, tint, a);
    }
    out[4 * i + 3] = 255;
  }
  return out;
}

// [[id, share of the pixels]] of the ids that are present, the largest first
export function sharesOf(ids) {
  const n = new Map();
  for (const id of ids) n.set(id, (n.get(id) ?? 0) + 1);
  return [...n].sort((a, b) => b[1] - a[1]).map(([id, count]) => [id, count / ids.length]);
}

export function percent(share) {
  const value = 100 * share;
  return `${value < 1 ? value.toFixed(1) : Math.round(value)} %`;
}

// what is said of the pixel under the pointer, at its place in the image itself; nothing beside the picture
export function saidAt({ ids, size: [, w], codes, thinning }, x, y) {
  const id = ids[y * w + x];
  return id === undefined
    ? undefined
    : `row ${y * thinning}, column ${x * thinning}: ${id} ${codes[id]}`;
}

// the ids of a mask that came as a picture
export function idsIn({ data }) {
  return Uint8Array.from({ length: data.length / 4 }, (_, i) => data[4 * i]);
}

const WRONG = [205, 16, 36];

// RGBA of the errors of an answer [h, w]: the image pale and grey, wrong pixels red, Void under its lines
export function errorPixels(image, truth, answer, [h, w], voidId) {
  const out = new Uint8ClampedArray(4 * h * w);
  for (let i = 0; i < h * w; i++) {
    const [r, g, b] = image.subarray(4 * i, 4 * i + 3);
    const grey = Math.floor(150 + 0.38 * ((r + g + b) / 3));
    const isVoid = truth[i] === voidId;
    const line = isVoid ? hatchAt(Math.floor(i / w), i % w, [h, w]) : 0;
    const wrong = !isVoid && truth[i] !== answer[i];
    out.set(wrong ? WRONG : Array(3).fill(line || grey), 4 * i);
    out[4 * i + 3] = 255;
  }
  return out;
}
