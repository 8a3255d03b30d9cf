// The weights of one pixel of a large map, from what Python sends: [[row, column, weight] ...] of each pixel.

export function madeOf(way, row, column, n) {
  const weights = Array.from({ length: n }, () => Array(n).fill(0));
  const used = way.weights[row * 2 * n + column];
  for (const [r, c, weight] of used) weights[r][c] = weight;
  const total = used.reduce((sum, [, , weight]) => sum + weight, 0);
  return { weights, used, total };
}

// a number in a cell: as short as two decimals allow
export function shownNumber(value) {
  const text = value.toFixed(2).replace(/\.?0+$/, '');
  return text === '-0' ? '0' : text.replace(/^(-?)0\./, '$1.');
}
