// Seven losses for one logit a pixel and a truth of 0 or 1: values and gradients, as segbook.losses computes them.

const sum = (list) => list.reduce((total, value) => total + value, 0);

// logits of a soft disc: confidence far inside, 0 at the radius, -confidence far outside
export function blob(h, w, { row, col, radius, softness, confidence }) {
  return Array.from({ length: h * w }, (_, i) => {
    const away = Math.hypot(Math.floor(i / w) - row, (i % w) - col);
    const x = (radius - away) / softness;
    return (confidence * x) / Math.sqrt(1 + x * x);
  });
}

// logits, truth (0 or 1), border weights; of each loss its value and its gradient, a number a pixel
export function lossesOf(logits, truth, weights) {
  const p = logits.map((z) => 1 / (1 + Math.exp(-z)));
  const sign = truth.map((t) => 2 * t - 1);
  const cost = logits.map(
    (z, i) => Math.max(z, 0) - truth[i] * z + Math.log1p(Math.exp(-Math.abs(z))),
  );
  const error = p.map((v, i) => v - truth[i]);
  const weighted = (values, slopes, of) => {
    const all = sum(of);
    const grad = slopes.map((slope, i) => (of[i] * slope) / all);
    return { value: sum(values.map((value, i) => of[i] * value)) / all, grad };
  };
  const ones = truth.map(() => 1);
  return [
    weighted(cost, error, ones),
    weighted(...focal(error, cost, sign), ones),
    weighted(cost, error, weights),
    ...overlaps(p, truth),
    lovasz(
      logits.map((z, i) => 1 - sign[i] * z),
      truth,
      sign,
    ),
  ];
}

// gamma = 2: values and slopes of each pixel
function focal(error, cost, sign) {
  const missing = error.map(Math.abs);
  const slope = (m, i) => -sign[i] * (2 * (1 - m) * m ** 2 * cost[i] + m ** 3);
  return [missing.map((m, i) => m ** 2 * cost[i]), missing.map(slope)];
}

// Dice, Jaccard, Tversky (0.3, 0.7): by p the slope is one number inside the truth and another outside
function overlaps(p, truth) {
  const I = sum(p.map((v, i) => v * truth[i]));
  const P = sum(p);
  const T = sum(truth);
  const union = P + T - I;
  const [a, b] = [0.3, 0.7];
  const D = I + a * (P - I) + b * (T - I);
  const made = (value, inside, outside) => {
    const grad = p.map((v, i) => (truth[i] ? inside : outside) * v * (1 - v));
    return { value, grad };
  };
  return [
    made(1 - (2 * I) / (P + T), (-2 * union) / (P + T) ** 2, (2 * I) / (P + T) ** 2),
    made(1 - I / union, -1 / union, I / union ** 2),
    made(1 - I / D, -(D - I * (1 - b)) / D ** 2, (I * a) / D ** 2),
  ];
}

// the hinge form: errors in falling order, each times the step of the Jaccard loss
function lovasz(error, truth, sign) {
  const order = error.map((_, i) => i).sort((i, j) => error[j] - error[i]);
  const T = sum(truth);
  const grad = error.map(() => 0);
  let value = 0;
  let found = 0;
  let before = 0;
  order.forEach((i, k) => {
    found += truth[i];
    const jaccard = 1 - (T - found) / (T + k + 1 - found);
    const step = jaccard - before;
    before = jaccard;
    if (error[i] <= 0) return;
    value += error[i] * step;
    grad[i] = -sign[i] * step;
  });
  return { value, grad };
}

// the colour of a push u from -1 (down) to 1 (up), between those of down, none and up
export function pushColor(u, [down, none, up]) {
  const end = u > 0 ? up : down;
  return none.map((value, i) => Math.round(value + Math.abs(u) * (end[i] - value)));
}
