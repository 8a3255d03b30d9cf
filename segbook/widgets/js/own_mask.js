// A picture or a mask of the reader's own, from a file that never leaves the browser.
import { html } from './html.js';

// the pixels of a file or of an address, as ImageData
export async function pixelsOf(source) {
  const address = typeof source === 'string' ? source : URL.createObjectURL(source);
  const image = new Image();
  image.src = address;
  try {
    await image.decode();
  } catch {
    throw new Error('no picture that this browser can read. Save it as PNG or JPEG.');
  } finally {
    if (address !== source) URL.revokeObjectURL(address);
  }
  const canvas = html('canvas', { width: image.naturalWidth, height: image.naturalHeight });
  const g = canvas.getContext('2d', { willReadFrequently: true });
  g.drawImage(image, 0, 0);
  return g.getImageData(0, 0, canvas.width, canvas.height);
}

// the k of a picture of which every k-th pixel is kept, so that no side is longer than `most`
export function thinningOf({ width, height }, most) {
  return Math.ceil(Math.max(width, height) / most);
}

// every k-th pixel: colours and ids stay what they are
export function thinned({ data, width, height }, most) {
  const k = thinningOf({ width, height }, most);
  const [h, w] = [Math.ceil(height / k), Math.ceil(width / k)];
  const out = new Uint8ClampedArray(4 * h * w);
  for (let r = 0; r < h; r++) {
    for (let c = 0; c < w; c++) {
      const from = 4 * (r * k * width + c * k);
      out.set(data.subarray(from, from + 4), 4 * (r * w + c));
    }
  }
  return { data: out, width: w, height: h };
}

function nameOf([r, g, b], codes) {
  if (r !== g || g !== b)
    return `colour ${[r, g, b].map((v) => v.toString(16).padStart(2, '0')).join('')}`;
  return codes?.[r] ?? `value ${r}`;
}

// The ids of a mask that was decoded as a picture: grey values in rising order, or the colours of a palette in the
// order in which they occur. { truth: ids, names, h, w }. With `codes` grey values keep their numbers and names.
export function idsOf(image, mostPixels, mostClasses, codes) {
  const { data, width: w, height: h } = thinned(image, mostPixels);
  const keys = Array.from(
    { length: h * w },
    (_, i) => (data[4 * i] << 16) | (data[4 * i + 1] << 8) | data[4 * i + 2],
  );
  const rgb = (key) => [key >> 16, (key >> 8) & 255, key & 255];
  const found = [...new Set(keys)];
  const isGrey = found.every((key) => key === (key >> 16) * 0x010101);
  if (isGrey) found.sort((a, b) => a - b);
  if (codes && isGrey && found.every((key) => key >> 16 < codes.length)) {
    return { truth: keys.map((key) => key >> 16), names: codes, h, w };
  }
  if (found.length > mostClasses) {
    throw new Error(
      `${found.length} different values, a mask has one for each class (here at most ${mostClasses}). Is it the photograph, or a mask that was saved as JPEG? Save masks as PNG.`,
    );
  }
  if (found.length < 2) throw new Error('one value everywhere: a mask of one class shows nothing.');
  const idOf = new Map(found.map((key, i) => [key, i]));
  return {
    truth: keys.map((key) => idOf.get(key)),
    names: found.map((key) => nameOf(rgb(key))),
    h,
    w,
  };
}
