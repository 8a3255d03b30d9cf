// Boxes of units, as Python sends them for each layer: rows and columns apart where they do not depend on each other.

// [top, left, bottom, right] of the unit (row, column), or null where no pixel reaches it
export function boxOf(layer, row, column) {
  const box = layer.boxes
    ? layer.boxes[row * layer.n[1] + column]
    : [layer.rows[row][0], layer.cols[column][0], layer.rows[row][1], layer.cols[column][1]];
  return box && box[0] !== null ? box : null;
}

// the index of the pair [first, last] whose middle lies nearest to `value`
export function nearestPair(value, pairs) {
  const away = ([first, last]) => Math.abs((first + last) / 2 - value);
  return pairs.reduce((best, pair, i) => (away(pair) < away(pairs[best]) ? i : best), 0);
}

// [row, column] of the unit whose box lies nearest to a place, in pixels of the image
export function unitAt(layer, y, x) {
  const none = [0, 0, 0, 0];
  const along = (n, ends) => Array.from({ length: n }, (_, i) => ends(i));
  const rows =
    layer.rows ??
    along(layer.n[0], (i) => {
      const box = boxOf(layer, i, 0) ?? none;
      return [box[0], box[2]];
    });
  const columns =
    layer.cols ??
    along(layer.n[1], (i) => {
      const box = boxOf(layer, 0, i) ?? none;
      return [box[1], box[3]];
    });
  return [nearestPair(y, rows), nearestPair(x, columns)];
}
