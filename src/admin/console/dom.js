// Making and keeping what is on the page. Text goes in as text, never as markup.

const SVG = 'http://www.w3.org/2000/svg';

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else if (name === 'value') node.value = value;
    else node.setAttribute(name, value === true ? '' : value);
  }
  put(node, children);
  return node;
}

function put(node, children) {
  for (const child of children.flat(Infinity)) {
    if (child === undefined || child === null || child === false) continue;
    node.append(child instanceof Node ? child : String(child));
  }
}

export const h = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
export const s = (tag, attributes, ...children) =>
  fill(document.createElementNS(SVG, tag), attributes, children);

/** In place of what was there. */
export function replace(node, ...children) {
  node.replaceChildren();
  put(node, children);
}

/** Looks now and again while `isLive` says so and the place is on the page, and so many times more: the last words come
 * after the end. */
export function lookAgain(look, place, isLive, refreshMs, lastLooks) {
  look();
  let left = lastLooks;
  const timer = setInterval(() => {
    left = isLive() ? lastLooks : left - 1;
    if (!place.isConnected || left < 0) clearInterval(timer);
    else look();
  }, refreshMs);
}

/** Rows by key: those that stay are kept, with focus and selection, and only those that differ are made anew. */
export class Rows {
  constructor(body, make) {
    this.body = body;
    this.make = make;
    this.rows = new Map();
  }

  show(items, key, version) {
    const seen = new Set();
    let at = this.body.firstChild;
    for (const item of items) {
      const id = key(item);
      const stamp = version(item);
      seen.add(id);
      let row = this.rows.get(id);
      if (!row || row.stamp !== stamp) {
        const node = this.make(item);
        if (row) {
          if (row.node === at) at = at.nextSibling;
          const focused = row.node.contains(document.activeElement);
          row.node.replaceWith(node);
          if (focused) (node.matches('[tabindex],a') ? node : node.querySelector('a,button'))?.focus();
        }
        row = { node, stamp };
        this.rows.set(id, row);
      }
      if (row.node === at) at = at.nextSibling;
      else this.body.insertBefore(row.node, at);
    }
    for (const [id, row] of this.rows) {
      if (seen.has(id)) continue;
      row.node.remove();
      this.rows.delete(id);
    }
  }
}

/** A row that leads somewhere, by mouse and by keyboard. */
export function leads(row, href) {
  row.classList.add('open');
  row.addEventListener('click', (event) => {
    if (!event.target.closest('a,button') && !String(getSelection())) location.hash = href;
  });
  return row;
}

export const head = (title, note, ...acts) =>
  h('div', { class: 'head' },
    h('div', { class: 'grow' }, h('h1', {}, title), note && h('p', {}, note)),
    acts.length > 0 && h('div', { class: 'bar' }, acts));

export const card = (title, body, ...acts) =>
  h('section', { class: 'card' },
    title && h('header', {}, h('h2', {}, title), acts.length > 0 && h('div', { class: 'bar' }, acts)), body);

export const none = (text) => h('div', { class: 'none' }, text);

/** A table; on a phone a list. Columns: [name, class]. */
export function table(columns, body) {
  const names = columns.map(([name, kind]) =>
    h('th', { scope: 'col', class: kind }, name || h('span', { class: 'visually-hidden' }, 'Actions')));
  return h('div', { class: 'scroll' },
    h('table', { class: 'list' }, h('thead', {}, h('tr', {}, names)), body));
}

export const cell = (name, content, kind = '') => {
  const empty = content === null || content === undefined || content === '';
  return h('td', { 'data-name': name, class: `${kind} ${empty ? 'empty' : ''}`.trim() || undefined }, h('div', {}, content));
};

export const state = (word, tone) => h('span', { class: `state ${tone}` }, h('span', {}, word));

export const facts = (pairs) =>
  h('dl', { class: 'facts' },
    pairs.filter(([, value]) => value !== null && value !== undefined && value !== false && value.length !== 0)
      .map(([name, value]) => [h('dt', {}, name), h('dd', {}, value)]));

export function meter(name, used, most) {
  const share = most > 0 ? Math.min(1, used / most) : 0;
  const bar = h('div', { class: 'fill' });
  bar.style.width = `${(share * 100).toFixed(1)}%`;
  return h('div', { class: `meter ${share > 0.9 ? 'full' : ''}` },
    h('div', { class: 'label' }, h('span', { class: 'muted' }, name),
      h('span', {}, most > 0 ? `${count(used)} of ${count(most)}` : count(used))),
    most > 0 && h('div', { class: 'track' }, bar));
}

/** A line of values over time; its highest and lowest are the picture's. */
export function spark(values, label) {
  const most = Math.max(1, ...values);
  const step = values.length > 1 ? 100 / (values.length - 1) : 100;
  const points = values.map((value, at) => `${(at * step).toFixed(2)},${(38 - 36 * value / most).toFixed(2)}`);
  return s('svg', { class: 'spark', viewBox: '0 0 100 40', preserveAspectRatio: 'none', role: 'img', 'aria-label': label },
    values.length > 1 && s('polygon', { class: 'area', points: `0,40 ${points.join(' ')} 100,40` }),
    values.length > 1 && s('polyline', { class: 'line', points: points.join(' ') }));
}

/** Asks before what cannot be taken back, or for what is needed; null when it is not meant. Fields: [name, label,
 * placeholder], or [name, label, [[value, text], …]] to choose. */
export function ask(title, text, act, { danger = false, fields = [] } = {}) {
  return new Promise((resolve) => {
    const input = (name, hint) => (Array.isArray(hint)
      ? h('select', { name }, hint.map(([value, text]) => h('option', { value }, text)))
      : h('input', { name, placeholder: hint, autocomplete: 'off' }));
    const inputs = fields.map(([name, label, hint]) => h('label', { class: 'field' }, label, input(name, hint)));
    const box = h('dialog', { 'aria-label': title },
      h('form', { method: 'dialog' }, h('h2', {}, title), text && h('p', { class: 'muted' }, text), inputs,
        h('div', { class: 'bar' },
          h('button', { value: 'no', type: 'button', onclick: () => box.close('no') }, 'Cancel'),
          h('button', { value: 'yes', class: danger ? 'danger primary' : 'primary' }, act))));
    box.addEventListener('close', () => {
      const given = Object.fromEntries(new FormData(box.querySelector('form')));
      box.remove();
      resolve(box.returnValue === 'yes' ? given : null);
    });
    document.body.append(box);
    box.showModal();
  });
}

/** What went wrong, where everybody looks, until it is read. */
export function complain(error) {
  document.querySelector('#complaint')?.remove();
  const text = error.message ?? String(error);
  const note = h('div', { id: 'complaint', class: 'notice bad', role: 'alert' }, text, ' ',
    h('button', { class: 'link', onclick: () => note.remove() }, 'Dismiss'));
  document.querySelector('main')?.prepend(note);
}

/** Does something once, with its button out of the way meanwhile. */
export const act = (work) => async (event) => {
  const button = event.currentTarget;
  const focused = document.activeElement === button;
  button.disabled = true;
  try { await work(event); } catch (error) { complain(error); } finally {
    button.disabled = false;
    // What is disabled loses the focus, and who works by keyboard their place.
    if (focused && document.activeElement === document.body) button.focus();
  }
};

// Words for numbers and times.

export const count = (number) => Number(number).toLocaleString('en');

export function duration(ms) {
  const all = Math.max(0, Math.floor(ms / 1000));
  const two = (number) => String(number).padStart(2, '0');
  const [hours, minutes, seconds] = [Math.floor(all / 3600), Math.floor(all / 60) % 60, all % 60];
  return hours ? `${hours}:${two(minutes)}:${two(seconds)}` : `${minutes}:${two(seconds)}`;
}

export const clock = (text) => text && new Date(text).toLocaleTimeString([], { hour12: false });

export function moment(text) {
  if (!text) return null;
  const date = new Date(text);
  const today = date.toDateString() === new Date().toDateString();
  const day = date.toLocaleDateString([], { month: 'short', day: 'numeric' });
  return h('time', { datetime: text, title: date.toString() }, today ? clock(text) : `${day}, ${clock(text)}`);
}

export function ago(text) {
  const seconds = Math.max(0, (Date.now() - new Date(text)) / 1000);
  if (seconds < 60) return 'just now';
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ago`;
  return `${Math.floor(seconds / 86400)} d ago`;
}

/** Who a party is: the user, else the user part of the URI. */
export const who = (party) =>
  party.extension ?? /^[a-z]+:([^@;]+)@/i.exec(party.uri)?.[1] ?? party.uri;
