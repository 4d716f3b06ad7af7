// What was said in SIP, drawn: a line down for each phone and one for the switch, an arrow for each message.

import { download, get } from './api.js';
import { act, card, clock, h, lookAgain, none, replace, s } from './dom.js';

const REFRESH_MS = 2000;
const LAST_LOOKS = 5;
const ROW = 26;
const TOP = 48;
const WIDE = 900;
const LEFT = 130;

export function ladder(place, id, isLive) {
  let stamp = '';
  let chosen = null;
  const picture = h('div', { class: 'scroll' });
  const text = h('div', {});
  const flags = h('div', { class: 'bar' });
  const save = h('button', { onclick: act(() => download(`/calls/${id}/pcap`, `${id}.pcap`)) }, 'Download pcap');

  async function look() {
    try {
      const found = await get(`/calls/${id}/ladder`);
      const now = JSON.stringify([found.messages.length, found.marks.length, found.flags]);
      if (now === stamp) return;
      stamp = now;
      replace(flags, found.flags.map((flag) => h('span', { class: 'tag bad' }, flag.replaceAll('_', ' '))));
      if (found.messages.length) replace(picture, draw(found, choose, chosen));
      else replace(picture, none('Nothing is kept of its signaling.'));
    } catch (error) {
      if (!stamp) replace(picture, none(error.status === 404 ? 'Nothing is kept of its signaling.' : error.message));
    }
  }
  function choose(message, row) {
    picture.querySelectorAll('.chosen').forEach((one) => one.classList.remove('chosen'));
    chosen = message.number;
    row.classList.add('chosen');
    replace(text, h('div', { class: 'said' },
      h('h3', {}, `${message.direction === 'received' ? 'Received from' : 'Sent to'} ${message.remote} (${message.transport})`),
      h('p', { class: 'muted small' }, `${message.at}, at ${message.node}`),
      h('pre', { class: 'message' }, message.text)));
  }
  replace(place, card('Signaling', [h('div', {}, picture, text)], flags, save));
  lookAgain(look, place, isLive, REFRESH_MS, LAST_LOOKS);
}

function draw({ messages, marks }, choose, chosen) {
  const legs = [...new Set(messages.map((message) => message.leg))].sort((one, other) => one - other);
  const caller = legs.filter((leg) => leg === 0);
  const callees = legs.filter((leg) => leg !== 0);
  // The switch stands between the caller and those it rings.
  const lines = [...caller, 'switch', ...callees];
  const gap = (WIDE - LEFT - 60) / Math.max(1, lines.length - 1);
  const x = new Map(lines.map((line, at) => [line, LEFT + at * gap]));
  const rows = [...messages.map((message) => ({ at: message.at, message })), ...marks.map((mark) => ({ at: mark.at, mark }))]
    .sort((one, other) => (one.at < other.at ? -1 : one.at > other.at ? 1 : (one.message?.number ?? 0) - (other.message?.number ?? 0)));
  const height = TOP + rows.length * ROW + 16;
  const name = (line) => {
    if (line === 'switch') return ['Holdfast', ''];
    const first = messages.find((message) => message.leg === line);
    return [first.party ?? (line === 0 ? 'Caller' : 'Callee'), first.remote];
  };
  return s('svg', { class: 'ladder', viewBox: `0 0 ${WIDE} ${height}`, role: 'group', 'aria-label': 'Ladder of the signaling' },
    lines.map((line) => {
      const [title, address] = name(line);
      return [
        s('text', { class: 'party', x: x.get(line), y: 18, 'text-anchor': 'middle' }, title),
        s('text', { class: 'faint', x: x.get(line), y: 33, 'text-anchor': 'middle' }, address),
        s('line', { class: 'life', x1: x.get(line), x2: x.get(line), y1: TOP - 8, y2: height }),
      ];
    }),
    rows.map((row, at) => {
      const y = TOP + at * ROW + ROW / 2;
      return row.message ? arrow(row.message, x, y, choose, chosen) : mark(row.mark, y);
    }));
}

function arrow(message, x, y, choose, chosen) {
  const phone = x.get(message.leg);
  const middle = x.get('switch');
  const [from, to] = message.direction === 'received' ? [phone, middle] : [middle, phone];
  const tip = to > from ? -7 : 7;
  const kind = message.status === null ? 'request' : message.status >= 300 ? 'failure' : 'response';
  const again = message.retransmission ? 'again' : '';
  const label = `${message.summary}${message.retransmission ? ' (again)' : ''}`;
  const row = s('g', {
    class: `row ${kind} ${again} ${message.number === chosen ? 'chosen' : ''}`, tabindex: 0, role: 'button', 'aria-label': `${clock(message.at)} ${label}`,
  },
  s('rect', { class: 'hit', x: 0, y: y - ROW / 2, width: WIDE, height: ROW, rx: 4 }),
  s('text', { class: 'faint', x: 8, y: y + 4 }, `${clock(message.at)}.${message.at.slice(20, 23)}`),
  s('line', { class: 'arrow', x1: from, x2: to + tip, y1: y + 5, y2: y + 5 }),
  s('polygon', { class: 'tip', points: `${to},${y + 5} ${to + tip},${y + 1} ${to + tip},${y + 9}` }),
  s('text', { x: (from + to) / 2, y: y - 1, 'text-anchor': 'middle' }, label));
  row.addEventListener('click', () => choose(message, row));
  row.addEventListener('keydown', (event) => {
    if (event.key !== 'Enter' && event.key !== ' ') return;
    event.preventDefault();
    choose(message, row);
  });
  return row;
}

const mark = (one, y) => s('g', {},
  s('line', { class: 'mark', x1: LEFT - 20, x2: WIDE - 40, y1: y + 5, y2: y + 5 }),
  s('text', { class: 'faint', x: 8, y: y + 4 }, `${clock(one.at)}.${one.at.slice(20, 23)}`),
  s('text', { class: 'marked', x: WIDE / 2, y: y - 1, 'text-anchor': 'middle' }, one.text));
