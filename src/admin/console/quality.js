// How a call sounds over time, drawn: what each phone said and what it heard, the score as a line, losses as bars.

import { get } from './api.js';
import { card, clock, h, lookAgain, replace, s } from './dom.js';

const REFRESH_MS = 5000;
const LAST_LOOKS = 2;
const [WORST, BEST] = [1, 4.5];
/** So much loss, in percent, is a bar of full height. */
const FULL = 20;

export function quality(place, id, isLive) {
  let stamp = '';

  async function look() {
    let legs = [];
    // What is drawn stays when nobody answers; of a call that nothing is kept of, nothing is drawn.
    try { ({ legs } = await get(`/calls/${id}/quality`)); } catch { return; }
    const now = JSON.stringify(legs.map((leg) => [leg.leg, leg.from_phone.at(-1)?.at]));
    if (now === stamp) return;
    stamp = now;
    const graphs = legs.flatMap((leg) => [
      graph(`From the ${leg.role}`, leg.from_phone), graph(`To the ${leg.role}, as its phone tells`, leg.to_phone)]);
    const drawn = graphs.filter(Boolean);
    replace(place, drawn.length > 0 && card('Sound over time', h('div', { class: 'body columns' }, drawn)));
  }
  lookAgain(look, place, isLive, REFRESH_MS, LAST_LOOKS);
}

const sum = (samples, of) => samples.reduce((all, one) => all + (of(one) ?? 0), 0);
const loss = (one) => (one.lost ? 100 * one.lost / (one.packets + one.lost) : 0);

function graph(title, samples) {
  const scores = samples.map((one) => one.mos).filter((mos) => mos !== null);
  if (scores.length === 0) return null;
  const begin = new Date(samples[0].at) - samples[0].span_ms;
  const whole = Math.max(1, new Date(samples.at(-1).at) - begin);
  const x = (time) => (100 * (time - begin) / whole).toFixed(2);
  const y = (mos) => (38 - 36 * (mos - WORST) / (BEST - WORST)).toFixed(2);
  const spans = samples.map((one) => ({ one, from: x(new Date(one.at) - one.span_ms), to: x(new Date(one.at)) }));
  const line = spans.filter(({ one }) => one.mos !== null)
    .flatMap(({ one, from, to }) => [`${from},${y(one.mos)}`, `${to},${y(one.mos)}`]).join(' ');
  const bars = spans.filter(({ one }) => one.lost > 0).map(({ one, from, to }) => {
    const height = Math.max(2, 38 * Math.min(1, loss(one) / FULL));
    return s('rect', { class: 'loss', x: from, width: Math.max(0.3, to - from).toFixed(2), y: (40 - height).toFixed(2), height: height.toFixed(2) });
  });
  const lost = sum(samples, (one) => one.lost);
  const told = `MOS ${scores.at(-1).toFixed(1)}, worst ${Math.min(...scores).toFixed(1)}; `
    + `lost ${lost.toLocaleString('en')} of ${(sum(samples, (one) => one.packets) + lost).toLocaleString('en')}`;
  return h('figure', { class: 'course' },
    h('figcaption', {}, h('h3', {}, title), h('span', { class: 'muted small' }, told)),
    s('svg', { class: 'spark', viewBox: '0 0 100 40', preserveAspectRatio: 'none', role: 'img', 'aria-label': `${title}: ${told}` },
      bars, s('polyline', { class: 'line', points: line })),
    h('div', { class: 'muted small ends' }, h('span', {}, clock(new Date(begin))), h('span', {}, clock(samples.at(-1).at))));
}
