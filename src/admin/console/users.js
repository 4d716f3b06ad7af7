// Users: who they are, and what to type into their phones.

import { all, alter, get, post } from './api.js';
import { act, ask, card, cell, count, h, head, none, replace, Rows, state, table } from './dom.js';

export function users(main) {
  let items = [];
  const search = h('input', { type: 'search', placeholder: 'Extension or name', 'aria-label': 'Filter users', oninput: () => show() });
  const note = h('p', {});
  const body = h('tbody', {});
  const rows = new Rows(body, (item) => row(item, look, (user) => tellPhone(typed, user)));
  const list = table([['User'], ['Name'], ['Phones', 'number'], ['Encryption'], ['State'], ['']], body);
  const empty = none('Loading');
  const typed = h('div', { class: 'hidden' });
  const title = head('Users', null, search);
  title.querySelector('.grow').append(note);
  main.append(title, h('div', { class: 'stack' },
    typed, card('New user', h('div', { class: 'body' }, form(made))), card(null, [list, empty])));

  function show() {
    const words = search.value.trim().toLowerCase();
    const found = items.filter((item) => !words || [item.extension, item.display_name].some((text) => text?.toLowerCase().includes(words)));
    note.textContent = `${count(items.length)} users`;
    rows.show(found, (item) => item.extension, JSON.stringify);
    list.classList.toggle('hidden', found.length === 0);
    empty.classList.toggle('hidden', found.length > 0);
    replace(empty, items.length ? 'No user is like that.' : 'There is no user yet.');
  }
  async function look() {
    try {
      items = await all('/users');
      show();
    } catch (error) { replace(empty, error.message); }
  }
  async function made(user) {
    await tellPhone(typed, user);
    await look();
  }
  look();
}

/** Without a password it gets a strong one. */
function form(made) {
  const wrong = h('p', { class: 'wrong', role: 'alert' });
  const field = (name, label, attributes) =>
    h('label', { class: 'field' }, label, h('input', { name, autocomplete: 'off', ...attributes }));
  const button = h('button', { class: 'primary' }, 'Create');
  const create = async (event) => {
    event.preventDefault();
    wrong.textContent = '';
    button.disabled = true;
    const given = Object.fromEntries([...new FormData(event.target)].filter(([, value]) => value !== ''));
    try {
      await made(await post('/users', given));
      event.target.reset();
    } catch (error) {
      wrong.textContent = error.message;
    } finally { button.disabled = false; }
  };
  return h('form', { onsubmit: create, class: 'stack' },
    h('div', { class: 'grid' },
      field('extension', 'Extension', { required: true, maxlength: 64, placeholder: '1003' }),
      field('display_name', 'Name', { placeholder: 'Anna' }),
      field('password', 'Password', { placeholder: 'made for you', minlength: 8 }),
      button),
    wrong);
}

/** What to type into a phone. The password is shown here and nowhere else. */
async function tellPhone(place, user) {
  const server = await address();
  const line = (name, value) => value && h('div', {},
    h('span', { class: 'name muted' }, name), h('span', { class: 'mono' }, value), copy(value));
  replace(place, card(`Type this into the phone of ${user.extension}`,
    h('div', { class: 'body typed' },
      line('SIP server', server), line('User', user.extension), line('Password', user.password),
      user.password && h('p', { class: 'muted small' }, 'The password is not shown again. UDP and TCP both work; dial *43 to hear yourself.')),
    h('button', { class: 'link', onclick: () => place.classList.add('hidden') }, 'Done')));
  place.classList.remove('hidden');
  place.scrollIntoView({ block: 'nearest' });
}

const copy = (text) => navigator.clipboard
  ? h('button', { onclick: act(async () => navigator.clipboard.writeText(text)) }, 'Copy')
  : h('span', {});

/** Where phones of this network find the switch: what it says of itself, else where this page came from. */
async function address() {
  const { items } = await get('/nodes');
  const listener = items.flatMap((node) => node.sip)[0];
  if (!listener) return location.hostname;
  const port = listener.bind.split(':').pop();
  const host = location.hostname.includes(':') ? `[${location.hostname}]` : location.hostname;
  return listener.advertise ?? `${host}:${port}`;
}

function row(user, change, phone) {
  const alterSeen = async (difference) => {
    try {
      await alter(`/users/${encodeURIComponent(user.extension)}`, user, ['updated_at'], difference);
    } finally { await change(); }
  };
  const anew = act(async () => {
    const sure = await ask(`A new password for ${user.extension}?`, 'Its phones must be given the new one. Calls that are up go on.', 'New password');
    if (!sure) return;
    const password = Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => (byte % 36).toString(36)).join('');
    await alterSeen({ password });
    await phone({ ...user, password });
  });
  const toggle = act(() => alterSeen({ enabled: !user.enabled }));
  const drop = act(async () => {
    const sure = await ask(`Delete user ${user.extension}?`, 'Its phones are not called and cannot call any more.', 'Delete', { danger: true });
    if (sure) await alterSeen();
  });
  return h('tr', {},
    cell('User', h('b', {}, user.extension)),
    cell('Name', user.display_name),
    cell('Phones', count(user.contact_count), 'number'),
    cell('Encryption', { off: null, optional: 'optional', mandatory: 'mandatory' }[user.srtp]),
    cell('State', !user.enabled ? state('Disabled', 'bad') : user.registered ? state('Registered', 'good') : state('No phone', 'idle')),
    cell('', h('div', { class: 'bar' },
      h('button', { class: 'link', onclick: act(() => phone(user)) }, 'Phone'),
      h('button', { class: 'link', onclick: anew }, 'New password'),
      h('button', { class: 'link', onclick: toggle }, user.enabled ? 'Disable' : 'Enable'),
      h('button', { class: 'link danger', onclick: drop }, 'Delete'))));
}
