// Which pixels can reach this unit, and which does it use?
import { boxOf, unitAt } from './field_geometry.js';
import { choice, toggle } from './html.js';
import { keyOf } from './marks.js';
import { sheet, within } from './sheet.js';

const FRAME = '#c2410c';

function render({ model, el }) {
  const { h, w, image, layers } = model.get('data');
  const picture = new Image();
  picture.src = image;
  const clouds = layers.map((layer) => Object.assign(new Image(), { src: layer.cloud }));
  const layer = () => layers[model.get('layer')];
  // the margin shows what of a box lies in the padding
  const planOf = (narrow) => {
    const scale = (narrow ? 280 : 400) / Math.max(h, w);
    const margin = narrow ? 30 : 70;
    return { width: 2 * margin + w * scale, height: 2 * margin + h * scale, scale, margin };
  };

  const draw = (g, { scale, margin }) => {
    const { n, name, type, mid, stride, share } = layer();
    const row = within(model.get('row'), 0, n[0] - 1);
    const column = within(model.get('col'), 0, n[1] - 1);
    const box = boxOf(layer(), row, column);
    const inside = (paint) => {
      g.save();
      g.beginPath();
      g.rect(margin, margin, w * scale, h * scale);
      g.clip();
      paint();
      g.restore();
    };
    g.drawImage(picture, margin, margin, w * scale, h * scale);
    const head = `${name} (${type}): map ${n[0]}×${n[1]}, unit (${row}, ${column})`;
    if (!box) return { says: `${head}: no pixel reaches it.` };
    const [top, left, bottom, right] = box;
    const rows = bottom - top + 1;
    const columns = right - left + 1;
    const place = [margin + left * scale, margin + top * scale, columns * scale, rows * scale];
    const frame = (color, width, dashes = []) => {
      g.setLineDash(dashes);
      g.strokeStyle = color;
      g.lineWidth = width;
      g.strokeRect(...place);
      g.setLineDash([]);
    };
    if (model.get('cloud')) {
      const x = margin + ((left + right) / 2 - mid[1]) * scale;
      const y = margin + ((top + bottom) / 2 - mid[0]) * scale;
      inside(() => g.drawImage(clouds[model.get('layer')], x, y, w * scale, h * scale));
    }
    frame('#555', 2.5, [6, 5]);
    inside(() => {
      frame('#fff', 5);
      frame(FRAME, 2.5);
    });
    const point = [place[0] + place[2] / 2, place[1] + place[3] / 2];
    g.fillStyle = FRAME;
    g.beginPath();
    g.arc(...point, 4, 0, 7);
    g.fill();
    return {
      point: point.map((o, i) => within(o, 0, [2 * margin + w * scale, 2 * margin + h * scale][i])),
      says: `${head}: rows ${top} to ${bottom}, columns ${left} to ${right}; ${rows}×${columns} pixels, stride ${stride}. Effective: ${share} % of the box.`,
    };
  };
  const at = (x, y, { scale, margin }) =>
    unitAt(layer(), (y - margin) / scale, (x - margin) / scale);
  // a new layer begins with its middle unit
  const middle = (i) => ({
    row: Math.floor(layers[i].n[0] / 2),
    col: Math.floor(layers[i].n[1] / 2),
  });
  const names = layers.map((o) => o.name);
  const show = sheet(model, el, {
    kind: 'receptive-field',
    limits: { layer: [0, names.length - 1], cloud: [0, 1], row: [0, 9999], col: [0, 9999] },
    controls: [
      choice(model, 'layer', 'layer', names, middle),
      toggle(model, 'effective field', 'cloud'),
    ],
    plan: planOf,
    units: () => layer().n.map((n) => [0, n - 1]),
    at,
    draw,
    below: [
      keyOf([
        [FRAME, 'can influence the unit (dashed: in the padding)'],
        ['#f5a623', 'does influence it: the effective field'],
      ]),
    ],
  });
  for (const one of [picture, ...clouds]) one.onload = show;
}

export default { render };
