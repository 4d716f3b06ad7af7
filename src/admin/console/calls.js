// Live calls, as they come and go.

import { post } from './api.js';
import { callState, live, subscribe } from './live.js';
import { act, ask, card, cell, clock, count, duration, h, head, leads, none, replace, Rows, state, table, who } from './dom.js';

const SHOWN = 200;
const TICK_MS = 1000;

export function calls(main) {
  let most = SHOWN;
  const search = h('input', { type: 'search', placeholder: 'Extension, name or node', 'aria-label': 'Filter calls', oninput: () => tell() });
  const which = h('select', { 'aria-label': 'State', onchange: () => tell() },
    [['', 'All states'], ['ringing', 'Ringing'], ['talking', 'Talking'], ['held', 'On hold'], ['one_way', 'One side not heard'], ['silent', 'Neither side heard']]
      .map(([value, name]) => h('option', { value }, name)));
  const note = h('p', {});
  const body = h('tbody', {});
  const rows = new Rows(body, row);
  const list = table([['Caller'], ['Callee'], ['State'], ['Duration', 'number'], ['Began'], ['Owner'], ['Media']], body);
  const empty = none('Nobody is on the phone.');
  const more = h('div', { class: 'more hidden' },
    h('button', { onclick: () => { most += SHOWN; tell(); } }, 'Show more'));
  const title = head('Calls', null, search, which, h('button', { onclick: act(begin) }, 'New call'));
  title.querySelector('.grow').append(note);
  main.append(title, card(null, [list, empty, more]));

  async function begin() {
    const fields = [['from', 'Who calls', 'Extension: its phones ring first'], ['to', 'Whom', 'Extension or number']];
    const given = await ask('New call', null, 'Call', { fields });
    if (!given) return;
    const { id } = await post('/calls', { from: given.from.trim(), to: given.to.trim() });
    location.hash = `#/calls/${id}`;
  }

  function tell() {
    const words = search.value.trim().toLowerCase();
    const found = [...live.calls.values()].filter((call) => isWanted(call, words, which.value)).reverse();
    note.textContent = live.known ? `${count(found.length)} of ${count(live.calls.size)}` : 'Loading';
    rows.show(found.slice(0, most), (call) => call.id, (call) => JSON.stringify(call));
    list.classList.toggle('hidden', found.length === 0);
    empty.classList.toggle('hidden', found.length > 0);
    replace(empty, live.calls.size ? 'No call is like that.' : live.known ? 'Nobody is on the phone.' : 'Loading');
    more.classList.toggle('hidden', found.length <= most);
  }
  tell();
  const end = subscribe(tell);
  const timer = setInterval(() => tick(body), TICK_MS);
  return () => { end(); clearInterval(timer); };
}

const isHeld = (call) => call.hold !== 'none' || call.parked !== 'none';

function isWanted(call, words, which) {
  const is = {
    ringing: () => call.state !== 'confirmed', talking: () => call.state === 'confirmed' && !isHeld(call),
    held: () => isHeld(call), one_way: () => Boolean(call.one_way), silent: () => call.silent,
  }[which];
  if (is && !is()) return false;
  const texts = [who(call.caller), who(call.callee), call.caller.display_name, call.callee.display_name, call.owner, call.media_node, call.id];
  return !words || texts.some((text) => text?.toLowerCase().includes(words));
}

const party = (one) => [who(one), one.display_name && h('span', { class: 'sub' }, one.display_name)];

function row(call) {
  const since = call.answered_at ?? call.created_at;
  const href = `#/calls/${call.id}`;
  return leads(h('tr', {},
    cell('Caller', h('a', { href }, party(call.caller))),
    cell('Callee', party(call.callee)),
    cell('State', [state(...callState(call)),
      call.parked !== 'none' && [' ', h('span', { class: 'tag warn' }, `${call.parked} held by an operator`)],
      call.one_way && [' ', h('span', { class: 'tag bad' }, `${call.one_way} not heard`)],
      call.silent && [' ', h('span', { class: 'tag bad' }, 'neither heard')]]),
    cell('Duration', h('span', { 'data-since': since }, duration(Date.now() - new Date(since))), 'number'),
    cell('Began', clock(call.created_at), 'minor'),
    cell('Owner', [call.owner, call.takeovers > 0 && [' ', h('span', { class: 'tag warn' }, `taken over ${call.takeovers}×`)]], 'nowrap minor'),
    cell('Media', call.media_node, 'nowrap minor')), href);
}

/** Durations go on between events. */
export function tick(place) {
  for (const span of place.querySelectorAll('[data-since]')) {
    span.textContent = duration(Date.now() - new Date(span.dataset.since));
  }
}
