// What a reader would notice on a page, as plain data, for test_site.py.
window.look = (() => {
  const all = sel => [...document.querySelectorAll(sel)];
  const visible = el => { const r = el.getBoundingClientRect(); return r.width > 1 && r.height > 1 && getComputedStyle(el).visibility === 'visible'; };
  const texts = root => all(root).flatMap(r => [r, ...r.querySelectorAll('*')]).filter(el =>
    !el.closest('svg, math, .visually-hidden, .smalldocs-search-results') && visible(el) && [...el.childNodes].some(n => n.nodeType === 3 && n.data.trim()));
  const where = el => `<${el.tagName.toLowerCase()}${el.className ? ` class="${el.className}"` : ''}> "${el.textContent.trim().replace(/\s+/g, ' ').slice(0, 50)}"`;
  const few = list => [...new Set(list)].slice(0, 8);

  const links = () => all('a[href]').map(a => a.getAttribute('href')).filter(h => h && !/^(mailto|javascript):/.test(h));
  const ids = () => all('[id]').map(el => el.id);
  // Figures: each has a text, a caption, and text in colours that stand out. A picture's text is grey, changed by a filter.
  const figures = () => all('main img, main svg.themed');
  const unlabelled = () => few(figures().filter(el => !(el.getAttribute('alt') || el.getAttribute('aria-label') || '').trim() ||
    !(el.closest('figure')?.querySelector('figcaption') ?? el.closest('.drawing')?.querySelector('.figure-caption'))?.textContent.trim()).map(el => `no text or caption: ${where(el)} ${el.getAttribute('src') ?? el.getAttribute('aria-label')}`));
  const ratio = (color, below) => { const [a, b] = [color, below].map(luminance).sort((x, y) => y - x); return (a + .05) / (b + .05); };
  const faintFigures = (least = 4.5) => few(figures().flatMap(el => {
    const below = background(el.parentElement);
    if (el.tagName === 'IMG') { const v = Math.min(255, 128 * parseFloat((getComputedStyle(el).filter.match(/brightness\(([\d.]+)\)/) ?? [0, 1])[1])); return [[ratio([v, v, v], below), el]]; }
    return [...el.querySelectorAll('text')].map(t => [parse(getComputedStyle(t).fill), t]).filter(([c]) => c.slice(0, 3).join() !== '255,255,255').map(([c, t]) => [ratio(over(c, below), below), t]);
  }).filter(([c]) => c < least).map(([c, el]) => `contrast ${c.toFixed(1)} in a figure: ${where(el)}`));

  // A line of code is one line on the screen.
  const wrapped = () => few(all('main pre.sourceCode > code').filter(visible).filter(el => {
    const height = parseFloat(getComputedStyle(el).lineHeight) || 1.5 * parseFloat(getComputedStyle(el).fontSize);
    const range = document.createRange();
    range.selectNodeContents(el);
    return range.getBoundingClientRect().height > (el.textContent.replace(/\n$/, '').split('\n').length + .7) * height;
  }).map(where));
  // What a reader copies is what the shell takes: no dashes or quotes of typesetting in a command.
  const typeset = () => few(all('main code, main td, main pre').filter(el => /[–—](no|pre|json|gpu|profile|method)\b|(pip install|ftcook \w+) [^\n]*[“”‘’]|=[“‘]/.test(el.textContent)).map(where));
  const screens = () => document.documentElement.scrollHeight / innerHeight;
  const brokenImages = () => all('img').filter(i => !(i.complete && i.naturalWidth)).map(i => `broken image: ${i.src.slice(0, 80)}`);

  // Content may be wider than the screen only inside a box that scrolls.
  const scrolls = el => { for (; el && el !== document.body; el = el.parentElement) if (/auto|scroll/.test(getComputedStyle(el).overflowX)) return true; return false; };
  const overflow = () => {
    const width = document.documentElement.clientWidth;
    const wide = all('main *').filter(el => visible(el) && el.getBoundingClientRect().right > width + 1 && !scrolls(el)).map(el => `sticks out: ${where(el)}`);
    if (document.documentElement.scrollWidth > width + 1) wide.unshift(`the page scrolls sideways: ${document.documentElement.scrollWidth} > ${width}`);
    return few(wide);
  };
  const small = (px = 14) => few(texts('main').filter(el => !el.closest('sup, sub') && parseFloat(getComputedStyle(el).fontSize) < px).map(el => `${getComputedStyle(el).fontSize}: ${where(el)}`));

  // Colours as [r, g, b, alpha], painted over one another; contrast as WCAG 2 defines it.
  const canvas = Object.assign(document.createElement('canvas'), { width: 1, height: 1 }).getContext('2d', { willReadFrequently: true });
  const cache = {};
  let below = new Map(), shown = new Map(); // what is behind an element, and its opacity with that of all around it
  const parse = css => cache[css] ??= (() => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = css; canvas.fillRect(0, 0, 1, 1); const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data; return [r, g, b, a / 255]; })();
  const over = (top, below) => [0, 1, 2].map(i => top[i] * top[3] + below[i] * (1 - top[3])).concat(1);
  const background = el => {
    if (!el) return [255, 255, 255, 1];
    if (below.has(el)) return below.get(el);
    const c = parse(getComputedStyle(el).backgroundColor);
    return below.set(el, c[3] === 1 ? c : over(c, background(el.parentElement))).get(el);
  };
  const opacity = el => el ? (shown.get(el) ?? shown.set(el, getComputedStyle(el).opacity * opacity(el.parentElement)).get(el)) : 1;
  const luminance = c => c.slice(0, 3).map(v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4).reduce((s, v, i) => s + v * [.2126, .7152, .0722][i], 0);
  const contrast = el => {
    const below = background(el), color = parse(getComputedStyle(el).color);
    const [a, b] = [over([...color.slice(0, 3), color[3] * opacity(el)], below), below].map(luminance).sort((x, y) => y - x);
    return (a + .05) / (b + .05);
  };
  const faint = (least = 4.5) => few(texts('main, #quarto-sidebar, #quarto-header').filter(el => opacity(el) > 0).map(el => [contrast(el), el]).filter(([c]) => c < least)
    .map(([c, el]) => `contrast ${c.toFixed(1)}: ${where(el)}`));

  // A page is a run that went well: no traceback, and no warnings or progress bars, which go to stderr.
  const noise = () => few(all('.cell-output-error, .cell-output-stderr').map(where));
  const isDark = (where = 'body') => { below = new Map(); return luminance(background(document.querySelector(where))) < .2; };
  const characters = () => document.querySelector('main').innerText.length;
  const aspects = { links, ids, brokenImages, noise, unlabelled, faintFigures, wrapped, typeset, screens, overflow, small, faint, characters, dark: () => isDark() };
  const at = (names = Object.keys(aspects)) => { below = new Map(); shown = new Map(); return Object.fromEntries(names.map(n => [n, aspects[n]()])); };
  return { isDark, at };
})();
