// Search: a heading that matches comes first and leads to its section; what is quoted is text of the article.
(() => {
  const plain = s => s.toLowerCase().normalize('NFKD').replace(/[\u0300-\u036f]/g, '');
  const words = s => plain(s).match(/[a-z0-9_]+/g) || [];
  const begins = (text, w) => text.some(t => t === w || (w.length > 2 && t.startsWith(w)));

  // The score of one section [page, title, heading, anchor, text] for the words asked for; 0: it does not answer
  function score(section, asked) {
    const [page, title, heading, , text] = section, head = words(heading), body = words(text);
    const inHead = asked.filter(w => begins(head, w)).length, inTitle = asked.filter(w => begins(words(title), w)).length;
    if (!asked.every(w => begins(head, w) || begins(body, w) || begins(words(title), w))) return 0;
    if (!inHead && !asked.some(w => begins(body, w))) return 0;
    let s = 0;
    if (head.join(' ') === asked.join(' ')) s = 1000;
    else if (inHead === asked.length) s = 500 - 5*Math.min(head.length, 40);
    else s = 40*inHead;
    if (heading === title) s += s >= 500 ? 50 : 10;
    const many = asked.reduce((n, w) => n + Math.min(body.filter(t => t === w || (w.length > 2 && t.startsWith(w))).length, 10), 0);
    s += Math.min(many, 30) + 5*inTitle + 1;
    return page.startsWith('workshop/') ? s*.5 : page.startsWith('api/') ? s*.7 : s;
  }

  const rank = (sections, query) => {
    const asked = words(query);
    if (!asked.length) return [];
    return sections.map(s => [score(s, asked), s]).filter(([n]) => n > 0).sort((a, b) => b[0] - a[0]).map(([, s]) => s);
  };

  // A piece of the text around the first word asked for
  function snippet(text, asked) {
    const at = asked.map(w => plain(text).search(new RegExp(`\\b${w}`))).filter(i => i >= 0), i = at.length ? Math.min(...at) : 0;
    const a = i < 70 ? 0 : text.indexOf(' ', i - 70) + 1, b = Math.min(text.length, a + 220);
    return (a ? '... ' : '') + text.slice(a, b) + (b < text.length ? ' ...' : '');
  }

  function show(sections, query) {
    const list = document.getElementById('search-results'), found = rank(sections, query), asked = words(query);
    document.getElementById('search-count').textContent = asked.length ? `${found.length || 'No'} section${found.length === 1 ? '' : 's'} found` : '';
    list.replaceChildren(...found.slice(0, 40).map(([page, title, heading, anchor, text]) => {
      const li = document.createElement('li'), a = document.createElement('a'), p = document.createElement('p');
      a.href = page + (anchor ? '#' + anchor : '');
      a.textContent = heading === title ? title : `${heading} · ${title}`;
      for (const part of snippet(text, asked).split(new RegExp(`(\\b(?:${asked.join('|')})\\w*)`, 'i'))) {
        const e = asked.some(w => plain(part).startsWith(w)) ? document.createElement('mark') : null;
        if (e) e.textContent = part;
        p.append(e || part);
      }
      li.append(a, p);
      return li;
    }));
    list.dataset.query = query;
  }

  if (typeof document === 'undefined') return (globalThis.segbookSearch = { rank, score });
  addEventListener('DOMContentLoaded', async () => {
    const form = document.querySelector('form.segbook-search'), query = new URLSearchParams(location.search).get('q') || '';
    form.q.value = query;
    form.q.focus();
    show((await (await fetch('search-index.json')).json()), query);
  });
})();
