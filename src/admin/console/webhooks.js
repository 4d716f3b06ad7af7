// Webhooks: who is told of events, what was not taken, and sending it again.

import { all, alter, get, post } from './api.js';
import { act, ask, card, cell, count, h, head, moment, none, replace, state, table } from './dom.js';

export function webhooks(main) {
  const place = h('div', { class: 'stack' }, card(null, none('Loading')));
  const shown = h('div', { class: 'hidden' });
  const add = act(async () => {
    const given = await ask('New webhook', 'Events from now on are posted there, signed.', 'Create', {
      fields: [['url', 'Address', 'https://example.org/hook'], ['types', 'Types, all when empty', 'call.ended, call.*'], ['description', 'What it is for', '']],
    });
    if (!given) return;
    const types = given.types.split(',').map((type) => type.trim()).filter(Boolean);
    const hook = await post('/webhooks', { url: given.url, types, description: given.description });
    replace(shown, card('The secret of its signatures', h('div', { class: 'body typed' },
      h('div', {}, h('span', { class: 'mono' }, hook.secret)), h('p', { class: 'muted small' }, 'It is not shown again.')),
    h('button', { class: 'link', onclick: () => { replace(shown); shown.classList.add('hidden'); } }, 'Done')));
    shown.classList.remove('hidden');
    await look();
  });
  main.append(head('Webhooks', null, h('button', { onclick: add }, 'New webhook')), h('div', { class: 'stack' }, shown, place));
  async function look() {
    try {
      const items = await all('/webhooks');
      const dead = await Promise.all(items.map((hook) => (hook.dead ? get(`/webhooks/${hook.id}/deliveries?limit=50`) : { items: [] })));
      replace(place, items.map((hook, at) => one(hook, dead[at].items, look)), items.length === 0 && card(null, none('Nobody is told of events.')));
    } catch (error) { replace(place, card(null, none(error.message))); }
  }
  look();
}

function one(hook, dead, look) {
  const path = `/webhooks/${hook.id}`;
  const then = (work) => act(async () => { try { await work(); } finally { await look(); } });
  const alterSeen = (difference) => alter(path, hook, ['url', 'types', 'description', 'enabled'], difference);
  const drop = then(async () => {
    if (await ask('Delete this webhook?', `${hook.url} is told of nothing any more, and what it is owed is gone.`, 'Delete', { danger: true })) await alterSeen();
  });
  const again = (event) => then(() => post(`${path}/resend`, event ? { event_id: event } : {}));
  const tone = !hook.enabled ? ['Off', 'idle'] : hook.dead ? [`${count(hook.dead)} given up`, 'bad'] : hook.owed ? [`${count(hook.owed)} owed`, 'warn'] : ['Well', 'good'];
  const rows = dead.map((event) => h('tr', {},
    cell('Event', event.event.type ?? event.event_id), cell('Tried', moment(event.tried_at)), cell('Tries', count(event.attempts), 'number'),
    cell('Why', event.error), cell('', h('button', { class: 'link', onclick: again(event.event_id) }, 'Send again'))));
  return h('section', { class: 'card', 'aria-label': hook.url },
    h('header', {}, h('div', { class: 'bar' }, h('h2', {}, hook.description || hook.url), state(...tone)),
      h('div', { class: 'bar' },
        hook.dead > 0 && h('button', { onclick: again() }, 'Send all again'),
        h('button', { class: 'link', onclick: then(() => alterSeen({ enabled: !hook.enabled })) }, hook.enabled ? 'Turn off' : 'Turn on'),
        h('button', { class: 'link danger', onclick: drop }, 'Delete'))),
    h('div', { class: 'body' }, h('p', { class: 'mono' }, hook.url), h('p', { class: 'muted small' }, hook.types.length ? hook.types.join(', ') : 'all events')),
    rows.length > 0 && table([['Event'], ['Tried'], ['Tries', 'number'], ['Why'], ['']], h('tbody', {}, rows)));
}
