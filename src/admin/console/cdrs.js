// History: calls that ended, newest first.

import { get } from './api.js';
import { act, card, cell, duration, h, head, leads, moment, none, replace, state, table, who } from './dom.js';
import { live, subscribe } from './live.js';
import { cause, DISPOSITIONS, FLAGS, flagTags } from './words.js';

const PAGE = 100;

export function cdrs(main) {
  let cursor = null;
  let asked = 0;
  const extension = h('input', { type: 'search', placeholder: 'Extension', 'aria-label': 'Only of this extension', onchange: () => look() });
  const choice = (label, options) => h('select', { 'aria-label': label, onchange: () => look() },
    options.map(([value, name]) => h('option', { value }, name)));
  const which = choice('Outcome', [['', 'All outcomes'], ...Object.entries(DISPOSITIONS).map(([value, [name]]) => [value, name])]);
  const fault = choice('Fault', [['', 'With or without faults'], ...Object.entries(FLAGS)]);
  const body = h('tbody', {});
  const list = table([['Caller'], ['Callee'], ['Began'], ['Outcome'], ['Talked', 'number'], ['Quality', 'number']], body);
  const empty = none('Loading');
  const news = h('div', { class: 'more hidden' }, h('button', { class: 'link', onclick: () => look() }, 'Newer calls have ended: show them'));
  const more = h('div', { class: 'more hidden' }, h('button', { onclick: act(() => page()) }, 'Show more'));
  main.append(head('History', null, extension, which, fault), card(null, [news, list, empty, more]));

  async function page() {
    const query = new URLSearchParams({ order: 'newest', limit: PAGE });
    if (extension.value.trim()) query.set('extension', extension.value.trim());
    if (which.value) query.set('disposition', which.value);
    if (fault.value) query.set('flag', fault.value);
    if (cursor) query.set('cursor', cursor);
    const number = asked;
    const found = await get(`/cdrs?${query}`);
    if (number !== asked) return;
    body.append(...found.items.map(row));
    cursor = found.next_cursor;
    const some = body.firstChild !== null;
    list.classList.toggle('hidden', !some);
    empty.classList.toggle('hidden', some);
    replace(empty, extension.value || which.value || fault.value ? 'No call was like that.' : 'No call has ended yet.');
    more.classList.toggle('hidden', cursor === null);
  }
  async function look() {
    asked += 1;
    cursor = null;
    replace(body);
    news.classList.add('hidden');
    try { await page(); } catch (error) { replace(empty, error.message); }
  }
  look();
  let ended = live.ended.size && [...live.ended.keys()].pop();
  return subscribe(() => {
    const last = live.ended.size && [...live.ended.keys()].pop();
    if (last !== ended) news.classList.remove('hidden');
    ended = last;
  });
}

const party = (one) => [who(one), one.display_name && h('span', { class: 'sub' }, one.display_name)];

function row(record) {
  const href = `#/calls/${record.id}`;
  const [word, tone] = DISPOSITIONS[record.disposition];
  const worst = record.legs.map((leg) => leg.mos_min).filter((mos) => mos !== null);
  return leads(h('tr', {},
    cell('Caller', h('a', { href }, party(record.caller))),
    cell('Callee', party(record.callee)),
    cell('Began', moment(record.created_at)),
    cell('Outcome', [state(word, tone), h('span', { class: 'sub' }, cause(record)), flagTags(record.flags)]),
    cell('Talked', record.billable_ms > 0 ? duration(record.billable_ms) : null, 'number'),
    cell('Quality', worst.length ? Math.min(...worst).toFixed(1) : null, 'number')), href);
}
