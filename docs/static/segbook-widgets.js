// Widgets of a page find their modules in this site, and nowhere else.
(() => {
  const here = document.currentScript.src.replace(/segbook-widgets\.js.*$/, 'vendor');
  requirejs.config({ baseUrl: here, waitSeconds: 30 });
  // the widgets' HTML manager speaks MathJax 2; the pages have MathJax 3
  window.MathJax = window.MathJax || {};
  window.MathJax.Hub = window.MathJax.Hub || { Queue: () => {}, Register: { StartupHook: () => {} } };
})();
