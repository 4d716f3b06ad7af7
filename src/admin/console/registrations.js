// Phones that are registered, with what may be wrong with them.

import { all, remove } from './api.js';
import { act, ago, ask, card, cell, count, duration, h, head, none, replace, Rows, table } from './dom.js';
import { live, subscribe } from './live.js';

const REFRESH_MS = 10_000;
const STALE_MS = 30_000;

export function registrations(main) {
  let items = [];
  const search = h('input', { type: 'search', placeholder: 'User, address or phone', 'aria-label': 'Filter phones', oninput: () => show() });
  const note = h('p', {});
  const body = h('tbody', {});
  const rows = new Rows(body, (item) => row(item, look));
  const list = table([['User'], ['Phone'], ['Address'], ['Node'], ['Expires', 'number'], ['Round trip', 'number'], ['Hints'], ['']], body);
  const empty = none('Loading');
  const title = head('Phones', null, search);
  title.querySelector('.grow').append(note);
  main.append(title, card(null, [list, empty]));

  function show() {
    const words = search.value.trim().toLowerCase();
    const found = items.filter((item) => !words
      || [item.extension, item.source, item.user_agent, item.contact, item.node].some((text) => text?.toLowerCase().includes(words)));
    note.textContent = `${count(items.length)} registered`;
    rows.show(found, (item) => item.id, (item) => JSON.stringify([item.source, item.flow, item.nat, item.user_agent, item.ping_rtt_ms,
      Math.floor(item.expires_in_ms / REFRESH_MS)]));
    list.classList.toggle('hidden', found.length === 0);
    empty.classList.toggle('hidden', found.length > 0);
    replace(empty, items.length ? 'No phone is like that.'
      : ['No phone is registered. ', h('a', { href: '#/users' }, 'Users'), ' shows what to type into one.']);
  }
  async function look() {
    try {
      items = await all('/registrations');
      show();
    } catch (error) { replace(empty, error.message); }
  }
  look();
  let seen = live.events[0];
  const end = subscribe(() => {
    const news = live.events[0];
    if (news !== seen && news?.type.startsWith('registration.')) look();
    seen = news;
  });
  const timer = setInterval(look, REFRESH_MS);
  return () => { end(); clearInterval(timer); };
}

function row(item, look) {
  const drop = act(async () => {
    const sure = await ask(`Remove this phone of ${item.extension}?`, 'It is not called any more until it registers again.', 'Remove', { danger: true });
    if (!sure) return;
    await remove(`/registrations/${encodeURIComponent(item.id)}`);
    await look();
  });
  return h('tr', {},
    cell('User', h('b', {}, item.extension)),
    cell('Phone', [item.user_agent ?? 'unknown', h('span', { class: 'sub' }, `registered ${ago(item.registered_at)}`)]),
    cell('Address', [h('span', { class: 'mono' }, item.source), ' ', h('span', { class: 'tag' }, item.transport)], 'nowrap'),
    cell('Node', item.node, 'nowrap'),
    cell('Expires', duration(item.expires_in_ms), 'number'),
    cell('Round trip', item.ping_rtt_ms === null ? null : `${item.ping_rtt_ms.toFixed(0)} ms`, 'number'),
    cell('Hints', hints(item)),
    cell('', h('button', { class: 'link danger', onclick: drop }, 'Remove')));
}

/** What an operator should know, each with why. */
export function hints(item) {
  const found = [];
  const hint = (kind, word, why) => found.push(h('span', { class: `tag ${kind}`, title: why }, word), ' ');
  if (item.flow === 'lost') hint('bad', 'connection lost', 'The connection of this phone is gone: it is reached again when it registers.');
  if (item.nat) hint('', 'NAT', 'Its Contact names another address than it sends from: it is kept reachable with pings.');
  if (item.expires_in_ms < STALE_MS) hint('warn', 'expires soon', 'It has not refreshed its registration yet.');
  const contact = /@(\[[^\]]+\]|[^:;>]+)(?::(\d+))?/.exec(item.contact);
  const source = /^(.*):(\d+)$/.exec(item.source);
  if (contact && source && contact[1] === source[1] && contact[2] && contact[2] !== source[2] && item.transport === 'udp') {
    hint('warn', 'port rewritten', 'Its address is right but its port is not: a SIP ALG of its router may change messages. Turn that off.');
  }
  return found.length ? found : null;
}
