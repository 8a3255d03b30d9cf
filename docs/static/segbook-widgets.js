// Widgets of a page find their modules in this site, and nowhere else.
(() => {
  const here = document.currentScript.src.replace(/segbook-widgets\.js.*$/, 'vendor');
  requirejs.config({ baseUrl: here, waitSeconds: 30 });
  // the widgets' HTML manager speaks MathJax 2; the pages have MathJax 3, which puts an object of its own in the place of this one
  const Hub = { Queue: () => {}, Register: { StartupHook: () => {} } };
  let jax = window.MathJax || {};
  Object.defineProperty(window, 'MathJax', { get: () => jax, set: v => { jax = v; if (v && !v.Hub) v.Hub = Hub; } });
  window.MathJax = jax;
})();
