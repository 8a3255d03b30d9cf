// The state of an explorer in the address of a page.
import assert from 'node:assert/strict';
import test from 'node:test';
import {
  accepted,
  changes,
  firstIn,
  stateIn,
  withState,
} from '../../segbook/widgets/js/address.js';

test('a state comes back as it went', () => {
  const hash = withState('', 'mask', { view: 'one class', alpha: 0.35 });
  assert.deepEqual(stateIn(hash, 'mask'), { view: 'one class', alpha: '0.35' });
  const limits = { view: { words: ['mask', 'one class'] }, alpha: { least: 0, most: 1 } };
  assert.deepEqual(accepted(stateIn(hash, 'mask'), limits), { view: 'one class', alpha: 0.35 });
});

test('explorers of a page do not collide', () => {
  let hash = withState('#losses', 'loss', { row: 40 });
  hash = withState(hash, 'loss-2', { row: 3 });
  hash = withState(hash, 'metric', { grow: -1 });
  assert.deepEqual(
    ['loss', 'loss-2', 'metric', 'mask'].map((name) => stateIn(hash, name)),
    [{ row: '40' }, { row: '3' }, { grow: '-1' }, {}],
  );
  assert.equal(firstIn(hash), 'loss');
  hash = withState(hash, 'loss', {});
  assert.deepEqual([stateIn(hash, 'loss'), stateIn(hash, 'loss-2')], [{}, { row: '3' }]);
  hash = withState(withState(hash, 'metric', {}), 'loss-2', {});
  assert.equal(hash, '');
});

test('an anchor of the page is no state', () => {
  assert.deepEqual(stateIn('#loss.row=3', 'loss'), {});
  assert.equal(firstIn('#losses'), null);
});

test('an address can hold anything: only what fits is taken', () => {
  const limits = { row: [0, 9], view: { words: ['a'] }, alpha: { least: 0, most: 1 } };
  const odd = { row: '1e9', view: '<b>', alpha: 'NaN', data: '[]', col: '3' };
  assert.deepEqual(accepted(odd, limits), { row: 9 });
  assert.deepEqual(accepted({ row: '2.5', alpha: ' ', view: 'a' }, limits), { view: 'a' });
  assert.deepEqual(accepted({ row: '-4', alpha: '7' }, limits), { row: 0, alpha: 1 });
});

test('only changes stand in the address', () => {
  assert.deepEqual(changes({ row: 3, col: 4 }, { row: 3, col: 5 }), { col: 4 });
});
