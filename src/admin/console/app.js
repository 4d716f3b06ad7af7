// The frame of the console: the door, the menu, which view is shown, the keys.

import { isSignedIn, onSignedOut, readiness, signIn, signOut } from './api.js';
import { count, h, replace } from './dom.js';
import { begin, live, subscribe } from './live.js';
import { call } from './call.js';
import { calls } from './calls.js';
import { cdrs } from './cdrs.js';
import { dashboard } from './dashboard.js';
import { events } from './events.js';
import { nodes } from './nodes.js';
import { registrations } from './registrations.js';
import { audit, tokens } from './tokens.js';
import { users } from './users.js';
import { webhooks } from './webhooks.js';

/** Path, name, key after `g`, view. */
const VIEWS = [
  ['', 'Overview', 'o', dashboard],
  ['calls', 'Calls', 'c', calls],
  ['registrations', 'Phones', 'p', registrations],
  ['users', 'Users', 'u', users],
  ['cdrs', 'History', 'h', cdrs],
  ['events', 'Events', 'e', events],
  ['nodes', 'Nodes', 'n', nodes],
  ['webhooks', 'Webhooks', 'w', webhooks],
  ['tokens', 'Tokens', 't', tokens],
  ['audit', 'Audit', 'a', audit],
];
const THEMES = ['auto', 'light', 'dark'];
const READY_MS = 5000;

let leave = null;
let frame = null;

function door() {
  leave?.();
  [leave, frame] = [null, null];
  const wrong = h('p', { class: 'wrong', role: 'alert' });
  const token = h('input', {
    name: 'token', type: 'password', required: true, autocomplete: 'current-password', spellcheck: 'false', autofocus: true,
  });
  const stay = h('input', { type: 'checkbox' });
  const button = h('button', { class: 'primary' }, 'Sign in');
  const enter = async (event) => {
    event.preventDefault();
    wrong.textContent = '';
    button.disabled = true;
    try {
      await signIn(token.value.trim(), stay.checked);
      open();
    } catch (error) {
      wrong.textContent = error.message;
      token.select();
    } finally {
      button.disabled = false;
    }
  };
  replace(document.body, h('div', { class: 'door' },
    h('form', { class: 'card', onsubmit: enter },
      brand(),
      h('label', { class: 'field' }, 'Admin token', token),
      h('label', { class: 'check' }, stay, 'Stay signed in on this device'),
      wrong, button,
      h('p', { class: 'muted small' }, 'The first start printed it. ', h('code', {}, 'holdfast config credentials'),
        ' on the server shows it again.'))));
  token.focus();
}

const brand = () => h('a', { class: 'brand', href: '#/' }, h('img', { src: '/console/icon.svg', alt: '' }), 'Holdfast');

let opened = false;

function open() {
  if (!opened) begin();
  opened = true;
  const counts = { calls: h('span', { class: 'count' }) };
  const links = VIEWS.map(([path, name]) =>
    h('a', { href: `#/${path}`, 'data-path': path }, name, counts[path]));
  const connection = h('div', { class: 'state idle small', role: 'status' }, h('span', {}, 'Connecting'));
  const side = h('header', { class: 'side' },
    brand(),
    h('button', {
      class: 'menu', 'aria-expanded': 'false', 'aria-controls': 'menu',
      onclick: (event) => event.currentTarget.setAttribute('aria-expanded', side.classList.toggle('unfolded')),
    }, 'Menu'),
    h('nav', { id: 'menu', 'aria-label': 'Main' }, links),
    h('div', { class: 'foot small' },
      connection,
      h('button', { class: 'link', onclick: turnTheme }, themeName()),
      h('button', { class: 'link', onclick: help }, 'Keys'),
      h('a', { class: 'muted', href: '/docs' }, 'API'),
      h('button', { class: 'link', onclick: signOut }, 'Sign out')));
  const notice = h('div', { class: 'notice hidden', role: 'status' });
  const main = h('main', { tabindex: '-1', id: 'main' });
  const column = h('div', {}, h('div', {}, notice), main);
  replace(document.body,
    h('a', { class: 'skip', href: '#main', onclick: (event) => { event.preventDefault(); main.focus(); } }, 'To the content'),
    h('div', { class: 'frame' }, side, column));
  frame = { main, links, side };
  subscribe(() => {
    counts.calls.textContent = live.calls.size ? count(live.calls.size) : '';
    connection.className = `state small ${live.connected ? 'good' : 'bad'}`;
    connection.firstChild.textContent = live.connected ? 'Live' : 'No connection';
  });
  watchReadiness(notice);
  route();
}

/** What is wrong with the node that answers stands above everything. */
async function watchReadiness(notice) {
  while (frame && notice.isConnected) {
    let text = '';
    try {
      const { status, reasons } = await readiness();
      if (status !== 'ready') text = `This node is ${status}${reasons.length ? `: ${reasons.join('; ')}` : ''}.`;
    } catch { /* The connection says so. */ }
    notice.textContent = text;
    notice.classList.toggle('hidden', text === '');
    await new Promise((resolve) => setTimeout(resolve, READY_MS));
  }
}

function route() {
  if (!frame) return;
  const [path, id] = location.hash.replace(/^#\/?/, '').split('/').map(decodeURIComponent);
  const found = VIEWS.find(([name]) => name === path) ?? VIEWS[0];
  leave?.();
  replace(frame.main);
  for (const link of frame.links) {
    if (link.dataset.path === found[0]) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
  frame.side.classList.remove('unfolded');
  frame.side.querySelector('.menu').setAttribute('aria-expanded', 'false');
  document.title = `${found[1]} · Holdfast`;
  const view = path === 'calls' && id ? call : found[3];
  leave = view(frame.main, id) ?? null;
  scrollTo(0, 0);
  frame.main.focus({ preventScroll: true });
}

// Light, dark, or as the system is.

function theme() {
  return localStorage.getItem('holdfast-theme') ?? 'auto';
}

const themeName = () => ({ auto: 'Theme: as the system', light: 'Theme: light', dark: 'Theme: dark' })[theme()];

function setTheme() {
  if (theme() === 'auto') delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme();
}

function turnTheme(event) {
  localStorage.setItem('holdfast-theme', THEMES[(THEMES.indexOf(theme()) + 1) % THEMES.length]);
  setTheme();
  event.currentTarget.textContent = themeName();
}

// Keys.

function help() {
  const rows = [
    ...VIEWS.map(([, name, key]) => [['g', key], name]),
    [['/'], 'Filter the list'], [['j', 'k'], 'Next and previous row'], [['Enter'], 'Open'], [['?'], 'This list'],
  ];
  const box = h('dialog', { 'aria-label': 'Keys' }, h('form', { method: 'dialog' },
    h('h2', {}, 'Keys'),
    h('dl', { class: 'facts' }, rows.map(([keys, name]) =>
      [h('dt', {}, keys.map((key) => [h('kbd', {}, key), ' '])), h('dd', {}, name)])),
    h('div', { class: 'bar' }, h('button', { class: 'primary' }, 'Close'))));
  box.addEventListener('close', () => box.remove());
  document.body.append(box);
  box.showModal();
}

let wentAt = 0;

function press(event) {
  if (!frame || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest('input,select,textarea,dialog')) {
    if (event.key === 'Escape') event.target.blur();
    return;
  }
  const isSecond = Date.now() - wentAt < 1500;
  wentAt = 0;
  const view = isSecond && VIEWS.find(([, , key]) => key === event.key);
  if (view) location.hash = `#/${view[0]}`;
  else if (event.key === 'g') wentAt = Date.now();
  else if (event.key === '?') help();
  else if (event.key === '/') frame.main.querySelector('input[type="search"]')?.focus();
  else if (event.key === 'j' || event.key === 'k') step(event.key === 'j' ? 1 : -1);
  else return;
  event.preventDefault();
}

function step(by) {
  const rows = [...frame.main.querySelectorAll('tr.open a:first-of-type')]
    .filter((link, at, all) => all.findIndex((other) => other.closest('tr') === link.closest('tr')) === at);
  const at = rows.findIndex((link) => link.closest('tr').contains(document.activeElement));
  rows[at < 0 ? (by > 0 ? 0 : rows.length - 1) : Math.min(rows.length - 1, Math.max(0, at + by))]?.focus();
}

setTheme();
onSignedOut(door);
addEventListener('hashchange', route);
addEventListener('keydown', press);
if (isSignedIn()) open();
else door();
