// What the theme and the widgets leave out for readers who do not use a mouse, or do not see the screen.
(() => {
  function mend() {
    for (const s of document.querySelectorAll('details.hide > summary[aria-label]')) s.removeAttribute('aria-label');  // its text says more
    for (const h of document.querySelectorAll('.noUi-handle:not([aria-label])')) {
      const label = h.closest('.widget-slider')?.querySelector('.widget-label');
      if (label) h.setAttribute('aria-label', label.textContent);
    }
    for (const e of document.querySelectorAll('article table, article pre, article .cell_output, article mjx-container'))
      if (e.scrollWidth > e.clientWidth) e.tabIndex = 0;  // what scrolls can be scrolled by keyboard
  }
  let asked = false;
  const soon = () => { if (!asked) { asked = true; requestAnimationFrame(() => { asked = false; mend(); }); } };
  addEventListener('load', soon); addEventListener('resize', soon);
  document.addEventListener('DOMContentLoaded', () => { mend(); new MutationObserver(soon).observe(document.body, { childList: true, subtree: true }); });
})();
