// Nodes: how loaded they are, and draining them.

import { get, post } from './api.js';
import { act, ago, ask, card, count, facts, h, head, meter, none, replace, state } from './dom.js';

const REFRESH_MS = 2000;
/** A change of CPU that is worth a refresh, in percent. */
const CPU_STEP = 5;

/** A word and a tone. */
export function nodeState(node) {
  return {
    starting: ['Starting', 'accent'], ready: ['Ready', 'good'], degraded: ['Degraded', 'warn'], draining: ['Draining', 'warn'],
    suspect: ['Suspect', 'warn'], down: ['Down', 'bad'],
  }[node.state] ?? [node.state, 'idle'];
}

export function nodes(main) {
  const place = h('div', { class: 'columns' }, card(null, none('Loading')));
  let shown = '';
  main.append(head('Nodes'), place);
  const look = async () => {
    try {
      const { items } = await get('/nodes');
      // Nobody loses the focus or a click to a refresh that changes nothing.
      const stamp = JSON.stringify(items, (key, value) => {
        if (key === 'cpu_percent') return value === null ? null : Math.round(value / CPU_STEP);
        return ['last_seen_at', 'lease_expires_at', 'rtt_ms', 'tick_late_p99_ms'].includes(key) ? undefined : value;
      });
      if (stamp === shown) return;
      shown = stamp;
      replace(place, items.map((node) => nodeCard(node, look)));
    } catch (error) {
      if (!shown) replace(place, card(null, none(error.message)));
    }
  };
  look();
  const timer = setInterval(look, REFRESH_MS);
  return () => clearInterval(timer);
}

function nodeCard(node, look) {
  const path = `/nodes/${encodeURIComponent(node.name)}`;
  const drain = act(async () => {
    const text = node.mode === 'media'
      ? 'Its sessions go to another media process of its host, if there is one; no packet is lost.'
      : 'Its calls go to the other nodes, and it takes no new ones. Nobody on the phone notices.';
    if (!await ask(`Drain ${node.name}?`, text, 'Drain')) return;
    await post(`${path}/drain`, { end_calls: false });
    await look();
  });
  const undrain = act(async () => {
    await post(`${path}/undrain`);
    await look();
  });
  const button = node.state === 'draining' ? h('button', { onclick: undrain }, 'Take back')
    : node.state !== 'down' && h('button', { onclick: drain }, 'Drain');
  const signals = node.mode !== 'media';
  return h('section', { class: 'card', 'aria-label': node.name },
    h('header', {}, h('div', { class: 'bar' }, h('h2', {}, node.name), h('span', { class: 'tag' }, node.mode), state(...nodeState(node))), button),
    h('div', { class: 'body stack' },
      node.drain && progress(node.drain),
      signals && node.calls !== null && meter('Calls', node.calls, 0),
      node.sessions !== null && meter('Media sessions', node.sessions, node.max_sessions ?? 0),
      node.cpu_percent !== null && meter('CPU, %', Math.round(node.cpu_percent), 100),
      node.media && meter('Media ports', node.media.ports_in_use, node.media.port_last - node.media.port_first + 1),
      node.journal?.entries > 0 && h('div', { class: 'notice' }, `${count(node.journal.entries)} writes wait for the database`),
      facts([
        ['Version', node.version],
        ['Up since', node.started_at && ago(node.started_at)],
        ['SIP', node.sip.map((one) => h('div', {}, `${one.transport} ${one.advertise ?? one.bind}`))],
        ['Media', node.media && `${node.media.advertise ?? node.media.bind}, ports ${node.media.port_first}–${node.media.port_last}`],
        ['Control', node.control],
        ['Links', node.links.length > 0 && node.links.map((link) => h('div', {}, `${link.peer} `,
          h('span', { class: link.state === 'up' ? 'good' : 'bad' }, link.state),
          link.rtt_ms !== null && h('span', { class: 'muted' }, ` ${link.rtt_ms.toFixed(1)} ms`)))],
      ])));
}

function progress(drain) {
  const left = [
    [drain.remaining_calls, 'call'], [drain.remaining_sessions, 'media session'], [drain.remaining_flows, 'connection'],
  ].filter(([number]) => number > 0).map(([number, name]) => `${count(number)} ${name}${number === 1 ? '' : 's'}`);
  return h('div', { class: 'notice', role: 'status' },
    left.length ? `Draining since ${ago(drain.started_at)}; left: ${left.join(', ')}` : 'Drained: nothing is left here.');
}
