// The arithmetic of a convolution of one channel with zero padding.

export function outputSize(size, { kernel, stride, padding, dilation }) {
  return Math.floor((size + 2 * padding - dilation * (kernel - 1) - 1) / stride) + 1;
}

// the rows (or columns) that output number `unit` reads; those below 0 and from the size on are padding
export function indicesRead(unit, { kernel, stride, padding, dilation }) {
  return Array.from({ length: kernel }, (_, i) => unit * stride - padding + i * dilation);
}

// [[[value, weight] of a row] ...] that make the output at (row, column)
export function productsOf(image, weights, row, column, settings) {
  const columns = indicesRead(column, settings);
  return indicesRead(row, settings).map((r, i) =>
    columns.map((c, j) => [image[r]?.[c] ?? 0, weights[i][j]]),
  );
}

export function convolved(image, weights, settings) {
  const n = Math.max(0, outputSize(image.length, settings));
  const sum = (products) => products.flat().reduce((s, [value, weight]) => s + value * weight, 0);
  return Array.from({ length: n }, (_, r) =>
    Array.from({ length: n }, (_, c) => sum(productsOf(image, weights, r, c, settings))),
  );
}
