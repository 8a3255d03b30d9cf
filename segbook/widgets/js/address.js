// The states of explorers in the address of a page: #explorers?loss.row=40&loss.col=8&metric.grow=2
// One explorer reads and writes what begins with its own name, and leaves the rest alone.

const HEAD = '#explorers?';

function parameters(hash) {
  return new URLSearchParams(hash.startsWith(HEAD) ? hash.slice(HEAD.length) : '');
}

// {key: text} of the explorer `name`
export function stateIn(hash, name) {
  const own = [...parameters(hash)].filter(([key]) => key.startsWith(`${name}.`));
  return Object.fromEntries(own.map(([key, value]) => [key.slice(name.length + 1), value]));
}

// the explorer that the address names first: the page scrolls to it
export function firstIn(hash) {
  const [first] = parameters(hash).keys();
  return first === undefined ? null : first.slice(0, first.lastIndexOf('.'));
}

// the address with the state of `name` in place of the one that it held
export function withState(hash, name, state) {
  const all = parameters(hash);
  for (const key of [...all.keys()]) if (key.startsWith(`${name}.`)) all.delete(key);
  for (const [key, value] of Object.entries(state)) all.set(`${name}.${key}`, value);
  const text = all.toString();
  return text ? HEAD + text : '';
}

// What of `state` (texts from an address) an explorer takes. Its limits: [least, most] of whole numbers,
// { least, most } of any numbers, or { words: [...] }. The rest is left out: an address can hold anything.
export function accepted(state, limits) {
  const taken = {};
  for (const [key, limit] of Object.entries(limits)) {
    if (state[key] === undefined) continue;
    if (limit.words) {
      if (limit.words.includes(state[key])) taken[key] = state[key];
      continue;
    }
    const [least, most] = Array.isArray(limit) ? limit : [limit.least, limit.most];
    const value = state[key].trim() === '' ? Number.NaN : Number(state[key]);
    if (!Number.isFinite(value) || (Array.isArray(limit) && !Number.isInteger(value))) continue;
    taken[key] = Math.max(least, Math.min(most, value));
  }
  return taken;
}

// what differs from the state in the beginning: only that stands in the address
export function changes(state, initial) {
  return Object.fromEntries(Object.entries(state).filter(([key, value]) => value !== initial[key]));
}
