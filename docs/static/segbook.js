// What the theme leaves out for readers who do not use a mouse, or do not see the screen; explorers are loaded when they come near.
(() => {
  const here = document.currentScript.src.replace(/segbook\.js.*$/, '');
  document.documentElement.classList.add('js');

  function mend() {
    for (const s of document.querySelectorAll('details.hide > summary[aria-label]')) s.removeAttribute('aria-label');  // its text says more
    for (const h of document.querySelectorAll('.noUi-handle:not([aria-label])')) {
      const label = h.closest('.widget-slider')?.querySelector('.widget-label');
      if (label) h.setAttribute('aria-label', label.textContent);
    }
    for (const e of document.querySelectorAll('article table, article pre, article .cell_output, article mjx-container')) {
      const wide = e.scrollWidth > e.clientWidth + (e.localName === 'mjx-container' ? 6 : 1);
      if (wide) e.tabIndex = 0;  // what scrolls can be scrolled by keyboard
      e.classList.toggle('segbook-wide', wide && e.scrollLeft + e.clientWidth < e.scrollWidth - 1);
      if (wide && !e.dataset.edge) {
        e.dataset.edge = 'watched';
        e.addEventListener('scroll', soon, { passive: true });
      }
    }
  }
  let asked = false;
  const soon = () => { if (!asked) { asked = true; requestAnimationFrame(() => { asked = false; mend(); }); } };

  function explorers() {
    const all = [...document.querySelectorAll('.segbook-live')];
    if (!all.length) return;
    const load = () => import(here + 'segbook-live.js').then(m => m.start(here)).catch(() => {
      for (const e of all) e.dataset.live = 'failed';
    });
    const near = new IntersectionObserver(found => {
      if (found.some(f => f.isIntersecting)) { near.disconnect(); load(); }
    }, { rootMargin: '600px' });
    if (location.hash.startsWith('#explorers?')) load();  // a link to the state of an explorer: it scrolls to itself
    else for (const e of all) near.observe(e);
  }

  // the search field that the theme opens leads to the page of the search
  for (const f of document.querySelectorAll('#pst-search-dialog form')) f.action = document.documentElement.dataset.content_root + 'search.html';
  addEventListener('load', soon);
  addEventListener('resize', soon);
  addEventListener('toggle', soon, true);
  const begin = () => { mend(); explorers(); new MutationObserver(soon).observe(document.body, { childList: true, subtree: true }); };
  if (document.readyState === 'loading') document.addEventListener('DOMContentLoaded', begin); else begin();
})();
