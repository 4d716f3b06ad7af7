// What happens, as it happens.

import { card, cell, clock, h, head, none, replace, Rows, table } from './dom.js';
import { live, subscribe } from './live.js';
import { sentence, tone } from './words.js';

const SHOWN = 300;
const KINDS = [['', 'All events'], ['call.', 'Calls'], ['registration.', 'Registrations'], ['node.,media.', 'Nodes'], ['authentication.', 'Sign-in of phones']];

export function events(main) {
  let stopped = null;
  const search = h('input', { type: 'search', placeholder: 'Any word', 'aria-label': 'Filter events', oninput: () => tell() });
  const which = h('select', { 'aria-label': 'Kind', onchange: () => tell() }, KINDS.map(([value, name]) => h('option', { value }, name)));
  const pause = h('button', { onclick: () => {
    stopped = stopped ? null : [...live.events];
    pause.textContent = stopped ? 'Go on' : 'Pause';
    tell();
  } }, 'Pause');
  const body = h('tbody', {});
  const rows = new Rows(body, eventRow);
  const list = table([['What'], ['Time'], ['Node']], body);
  const empty = none('Nothing happened since this page was opened.');
  main.append(head('Events', 'Since this page was opened, newest first.', search, which, pause), card(null, [list, empty]));

  function tell() {
    const words = search.value.trim().toLowerCase();
    const kinds = which.value.split(',');
    const found = (stopped ?? live.events).filter((event) =>
      kinds.some((kind) => event.type.startsWith(kind)) && (!words || JSON.stringify(event).toLowerCase().includes(words))).slice(0, SHOWN);
    rows.show(found, (event) => event.id ?? event, () => '');
    list.classList.toggle('hidden', found.length === 0);
    empty.classList.toggle('hidden', found.length > 0);
    replace(empty, live.events.length ? 'No event is like that.' : 'Nothing happened since this page was opened.');
  }
  tell();
  return subscribe(tell);
}

export const eventRow = (event) => h('tr', { class: 'event' },
  cell('What', h('span', { class: `state line ${tone(event)}` }, h('span', {}, sentence(event)))),
  cell('Time', h('span', { class: 'muted nowrap' }, clock(event.at) ?? '')),
  cell('Node', h('span', { class: 'muted nowrap' }, event.node ?? '')));
