// The overview: what is alive, how the last hour went, how the nodes are, what just happened.

import { all, get } from './api.js';
import { card, count, duration, h, head, meter, none, replace, Rows, spark, state } from './dom.js';
import { live, subscribe } from './live.js';
import { eventRow } from './events.js';
import { nodeState } from './nodes.js';

const REFRESH_MS = 5000;
const HOUR_MS = 3600_000;
const EVENTS = 12;

const figure = (name, href) => {
  const parts = { value: h('div', { class: 'value' }, '–'), note: h('div', { class: 'note' }), more: h('div', {}) };
  const node = h('a', { class: 'card figure', href }, h('div', { class: 'name' }, name), parts.value, parts.note, parts.more);
  return { node, ...parts };
};

export function dashboard(main) {
  const calls = figure('Live calls', '#/calls');
  const phones = figure('Phones', '#/registrations');
  const answered = figure('Answered, last hour', '#/cdrs');
  const talk = figure('Mean talk time, last hour', '#/cdrs');
  const nodes = h('div', { class: 'body stack' });
  const body = h('tbody', {});
  const rows = new Rows(body, eventRow);
  const events = h('div', {}, none('Nothing happened since this page was opened.'));
  main.append(head('Overview'),
    h('div', { class: 'stack' },
      h('div', { class: 'figures' }, calls.node, phones.node, answered.node, talk.node),
      h('div', { class: 'columns' },
        card('Nodes', nodes, h('a', { href: '#/nodes' }, 'All nodes')),
        card('Just now', events, h('a', { href: '#/events' }, 'All events')))));

  const tell = () => {
    const all = [...live.calls.values()];
    const talking = all.filter((call) => call.state === 'confirmed').length;
    calls.value.textContent = live.known ? count(all.length) : '–';
    calls.note.textContent = all.length ? `${count(talking)} talking, ${count(all.length - talking)} not yet` : 'Nobody is on the phone';
    if (live.history.length > 1) replace(calls.more, spark(live.history, 'Live calls over the last minutes'));
    const latest = live.events.slice(0, EVENTS);
    rows.show(latest, (event) => event.id ?? event, () => '');
    if (latest.length && !events.querySelector('table')) replace(events, h('table', { class: 'list' }, body));
  };

  const look = async () => {
    try {
      const since = new Date(Date.now() - HOUR_MS).toISOString();
      const [list, ended] = await Promise.all([get('/nodes'), all(`/cdrs?since=${since}`)]);
      showNodes(nodes, list.items);
      showPhones(phones, list.items);
      showHour(answered, talk, ended);
    } catch { /* The connection says so. */ }
  };
  tell();
  look();
  const timer = setInterval(look, REFRESH_MS);
  const end = subscribe(tell);
  return () => { clearInterval(timer); end(); };
}

function showPhones(figure, nodes) {
  const counts = nodes.map((node) => node.registrations).filter((number) => number !== null);
  figure.value.textContent = counts.length ? count(Math.max(...counts)) : '–';
  figure.note.textContent = 'registered now';
}

function showHour(answered, talk, records) {
  const good = records.filter((record) => record.disposition === 'answered');
  answered.value.textContent = records.length ? `${Math.round(100 * good.length / records.length)} %` : '–';
  answered.note.textContent = records.length ? `${count(good.length)} of ${count(records.length)} calls` : 'no calls';
  const total = good.reduce((sum, record) => sum + record.billable_ms, 0);
  talk.value.textContent = good.length ? duration(total / good.length) : '–';
  talk.note.textContent = good.length ? `${duration(total)} in all` : 'no answered calls';
}

function showNodes(place, nodes) {
  replace(place, nodes.map((node) => h('div', { class: 'brief', role: 'group', 'aria-label': node.name },
    h('div', { class: 'bar' }, h('b', {}, node.name), h('span', { class: 'tag' }, node.mode), state(...nodeState(node))),
    node.calls !== null && node.mode !== 'media' && meter('Calls', node.calls, 0),
    node.sessions !== null && node.max_sessions !== null && meter('Media sessions', node.sessions, node.max_sessions))));
}
