// Tokens: who may do what; and the log of who changed what.

import { all, get, post, remove } from './api.js';
import { act, ago, ask, card, cell, h, head, moment, none, replace, table } from './dom.js';

const ROLES = [
  ['readonly', 'sees everything but tokens and webhooks'], ['operator', 'and steers calls, phones and nodes'],
  ['cdr', 'reads call records'], ['admin', 'everything'],
];

export function tokens(main) {
  const body = h('tbody', {});
  const place = h('div', {}, none('Loading'));
  const shown = h('div', { class: 'hidden' });
  main.append(head('Tokens', 'Each program and person has a token of its own; it is shown once.'),
    h('div', { class: 'stack' }, shown, card('New token', h('div', { class: 'body' }, form(made))), card(null, place)));

  async function look() {
    try {
      const items = await all('/tokens');
      replace(body, items.map((item) => row(item, look)));
      replace(place, items.length ? table([['Name'], ['Role'], ['Made'], ['Last used'], ['']], body)
        : none('There is only the admin token.'));
    } catch (error) { replace(place, none(error.message)); }
  }
  async function made(token) {
    replace(shown, card(`The token ${token.name}`, h('div', { class: 'body typed' },
      h('div', {}, h('span', { class: 'mono' }, token.token),
        navigator.clipboard && h('button', { onclick: act(async () => navigator.clipboard.writeText(token.token)) }, 'Copy')),
      h('p', { class: 'muted small' }, 'It is not shown again.')),
    h('button', { class: 'link', onclick: () => { replace(shown); shown.classList.add('hidden'); } }, 'Done')));
    shown.classList.remove('hidden');
    await look();
  }
  look();
}

function form(made) {
  const wrong = h('p', { class: 'wrong', role: 'alert' });
  const create = async (event) => {
    event.preventDefault();
    wrong.textContent = '';
    const [form, button] = [event.target, event.target.querySelector('button')];
    button.disabled = true;
    try {
      await made(await post('/tokens', Object.fromEntries(new FormData(form))));
      form.reset();
    } catch (error) {
      wrong.textContent = error.message;
    } finally { button.disabled = false; }
  };
  return h('form', { onsubmit: create, class: 'stack' },
    h('div', { class: 'grid' },
      h('label', { class: 'field' }, 'Name', h('input', { name: 'name', required: true, maxlength: 64, autocomplete: 'off', placeholder: 'billing' })),
      h('label', { class: 'field' }, 'Role', h('select', { name: 'role' },
        ROLES.map(([value, text]) => h('option', { value }, `${value}: ${text}`)))),
      h('button', { class: 'primary' }, 'Create')),
    wrong);
}

function row(token, look) {
  const revoke = act(async () => {
    if (!await ask(`Revoke ${token.name}?`, 'Within five seconds no node takes it any more.', 'Revoke', { danger: true })) return;
    await remove(`/tokens/${token.id}`);
    await look();
  });
  return h('tr', {},
    cell('Name', h('b', {}, token.name)), cell('Role', token.role), cell('Made', moment(token.created_at)),
    cell('Last used', token.last_used_at ? ago(token.last_used_at) : 'never'),
    cell('', h('button', { class: 'link danger', onclick: revoke }, 'Revoke')));
}

// Of what was asked so many characters are shown.
const LONGEST = 160;

// A line in words: what was asked, and what was made by it where its path does not say so.
function what(line) {
  const asked = line.asked ? JSON.stringify(line.asked) : '';
  const short = asked.length > LONGEST ? `${asked.slice(0, LONGEST)}…` : asked;
  return [line.method, line.path, line.made && `→ ${line.made}`, short].filter(Boolean).join(' ');
}

function outcome(status) {
  if (status === 0) return '';
  return status < 400 ? 'good' : 'bad';
}

export function audit(main) {
  const body = h('tbody', {});
  const more = h('button', { class: 'hidden' }, 'Older ones');
  const place = h('div', {}, none('Loading'));
  let cursor = '';
  main.append(head('Audit log', 'Every request that may have changed something, newest first.'), card(null, [place, h('div', { class: 'body' }, more)]));
  async function look() {
    const page = await get(`/audit?limit=100${cursor && `&cursor=${cursor}`}`);
    body.append(...page.items.map((line) => h('tr', {},
      cell('When', moment(line.at)), cell('Who', line.name, 'whole'), cell('What', what(line), 'mono'),
      cell('Outcome', line.status || 'not known', outcome(line.status)), cell('Node', line.node, 'whole'))));
    cursor = page.next_cursor ?? '';
    more.classList.toggle('hidden', !cursor);
    if (body.firstChild) replace(place, table([['When'], ['Who'], ['What'], ['Outcome'], ['Node']], body));
    else replace(place, none('Nothing was changed yet.'));
  }
  more.addEventListener('click', act(look));
  look().catch((error) => replace(place, none(error.message)));
}
