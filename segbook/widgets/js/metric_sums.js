// A prediction that is made of the truth, and its scores, as segbook.metrics counts them.

const mean = (list) => list.reduce((total, value) => total + value, 0) / list.length;
const upTo = (n) => [...Array(n).keys()];

// the truth grown (each pixel takes the largest id within reach) or eroded (the smallest), with pieces lost, moved
export function changed(truth, [h, w], { grow = 0, lost = 0, down = 0, right = 0 }) {
  const n = Math.abs(grow);
  const pick = grow > 0 ? Math.max : Math.min;
  const reach = upTo(2 * n + 1).map((k) => k - n);
  const near = reach
    .flatMap((r) => reach.map((c) => [r, c]))
    .filter(([r, c]) => r * r + c * c <= n * n);
  const row = (i) => Math.floor(i / w);
  const at = (ids, r, c, none) => (r < 0 || c < 0 || r >= h || c >= w ? none : ids[r * w + c]);
  const grown = truth.map((id, i) =>
    near.reduce((best, [r, c]) => pick(best, at(truth, row(i) + r, (i % w) + c, best)), id),
  );
  const kept = grown.map((id, i) => {
    const r = Math.floor(row(i) / 4);
    const c = Math.floor((i % w) / 4);
    return (37 * r + 61 * c + 17 * r * c) % 100 < lost ? 0 : id;
  });
  return truth.map((_, i) => at(kept, row(i) - down, (i % w) - right, 0));
}

// from the confusion matrix: pixel accuracy, IoU and Dice of each class (NaN for one that is nowhere), mean IoU
export function scores(truth, predicted, K, ignore) {
  const matrix = Array(K * K).fill(0);
  truth.forEach((t, i) => {
    if (t !== ignore) matrix[t * K + predicted[i]]++;
  });
  const ids = upTo(K);
  const total = (f) => ids.reduce((sum, k) => sum + f(k), 0);
  const right = ids.map((k) => matrix[k * K + k]);
  const either = ids.map((k) =>
    k === ignore ? 0 : total((j) => matrix[k * K + j] + matrix[j * K + k]) - right[k],
  );
  const iou = ids.map((k) => right[k] / either[k]);
  return {
    accuracy: total((k) => right[k]) / total((k) => total((j) => matrix[k * K + j])),
    iou,
    dice: ids.map((k) => (2 * right[k]) / (right[k] + either[k])),
    mean: mean(iou.filter((v) => !Number.isNaN(v))),
  };
}

// of each class its pixels [row, column] that touch another class; Void has no edges
function edges(ids, named, [h, w], K) {
  const found = upTo(K).map(() => []);
  ids.forEach((id, i) => {
    if (!named[i]) return;
    const r = Math.floor(i / w);
    const c = i % w;
    const near = [r > 0 && i - w, r < h - 1 && i + w, c > 0 && i - 1, c < w - 1 && i + 1];
    if (near.some((j) => j !== false && named[j] && ids[j] !== id)) found[id].push([r, c]);
  });
  return found;
}

// of each place in `from` the distance to the nearest in `to`
function distances(from, to) {
  const squared = ([r, c]) =>
    to.reduce((m, [p, q]) => Math.min(m, (r - p) ** 2 + (c - q) ** 2), Infinity);
  return from.map((place) => Math.sqrt(squared(place)));
}

function percentile95(list) {
  const sorted = [...list].sort((a, b) => a - b);
  const at = 0.95 * (sorted.length - 1);
  const low = Math.floor(at);
  return sorted[low] + (at - low) * ((sorted[low + 1] ?? sorted[low]) - sorted[low]);
}

// means over the classes: F1 of the boundaries within a tolerance, and 95 % Hausdorff distance
export function boundary(truth, predicted, [h, w], K, ignore) {
  const named = truth.map((t) => t !== ignore);
  const tolerance = Math.max(0.0075 * Math.hypot(h, w), 1) * (1 + 1e-9);
  const [a, b] = [predicted, truth].map((ids) => edges(ids, named, [h, w], K));
  const classes = upTo(K).filter((k) => k !== ignore && (a[k].length || b[k].length));
  const pairs = classes.map((k) => {
    if (!a[k].length || !b[k].length) return [0, Math.hypot(h, w)];
    const there = distances(a[k], b[k]);
    const back = distances(b[k], a[k]);
    const [precision, recall] = [there, back].map((d) => mean(d.map((v) => +(v <= tolerance))));
    const f1 = precision + recall ? (2 * precision * recall) / (precision + recall) : 0;
    return [f1, Math.max(percentile95(there), percentile95(back))];
  });
  return { f1: mean(pairs.map((o) => o[0])), hausdorff: mean(pairs.map((o) => o[1])) };
}

// what a pixel shows: Void, ground, right, missed, invented, or mixed (one class for another)
export function kindOf(truth, predicted, ignore) {
  if (truth === ignore) return 'Void';
  if (truth === predicted) return truth ? 'right' : 'ground';
  if (!predicted) return 'missed';
  return truth ? 'mixed' : 'invented';
}
