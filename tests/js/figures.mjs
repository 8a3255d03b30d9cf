// The figures that tests/test_js.py writes, and how near to them a number has to be.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';

export const figures = JSON.parse(readFileSync(process.env.FIGURES, 'utf-8'));

// NaN is null in JSON
export function near(got, want, tolerance = 1e-9) {
  assert.equal(got.length, want.length);
  got.forEach((value, i) => {
    if (want[i] === null) assert.ok(Number.isNaN(value), `${value} at ${i}, expected NaN`);
    else assert.ok(Math.abs(value - want[i]) <= tolerance, `${value} at ${i}, expected ${want[i]}`);
  });
}
