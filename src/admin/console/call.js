// One call: how it goes, how it sounds, what was said in SIP, and what can be done about it.

import { get, post, remove } from './api.js';
import { act, ask, card, cell, duration, facts, h, head, moment, none, replace, state, table, who } from './dom.js';
import { callState, live, subscribe } from './live.js';
import { tick } from './calls.js';
import { eventRow } from './events.js';
import { ladder } from './ladder.js';
import { quality as course } from './quality.js';
import { cause, DISPOSITIONS, flagTags } from './words.js';

const REFRESH_MS = 2000;
const SIDES = { caller: 'the caller is', callee: 'the callee is', both: 'both are' };

export function call(main, id) {
  const title = h('div', {});
  const parts = h('div', { class: 'stack' }, card(null, none('Loading')));
  const quality = h('div', {});
  const overTime = h('div', {});
  const legs = h('div', {});
  const about = h('div', {});
  const story = h('div', {});
  const signaling = h('div', {});
  let view = null;
  let record = null;
  let over = false;
  main.append(title, parts);

  async function look() {
    if (over) return;
    try {
      view = await get(`/calls/${id}`);
      if (over) return;
      showLive();
    } catch (error) {
      if (error.status === 404) await lookBack();
      else if (!view) replace(parts, card(null, none(error.message)));
    }
  }

  /** It is over, or it never was. */
  async function lookBack() {
    over = true;
    try {
      record = await get(`/cdrs/${id}`);
    } catch (error) {
      // The record is written with the event that tells of the end, and read a moment later.
      over = error.status !== 404 || !view;
      if (!view) replace(parts, card(null, none(error.status === 404 ? 'There is no such call.' : error.message)));
      return;
    }
    showRecord();
  }

  function layout() {
    if (parts.contains(quality)) return;
    replace(parts, about, quality, overTime, legs, signaling, story);
    course(overTime, id, () => !over);
    ladder(signaling, id, () => !over);
  }

  function showLive() {
    layout();
    const [word, kind] = callState(view);
    if (!title.hasChildNodes() || title.dataset.acts !== acts()) {
      title.dataset.acts = acts();
      const talks = view.state === 'confirmed';
      replace(title, head(`${who(view.caller)} → ${who(view.callee)}`, null,
        talks && view.parked !== 'both' && h('button', { onclick: act(hold) }, 'Hold'),
        talks && view.parked !== 'none' && h('button', { onclick: act(letGo) }, 'Let go'),
        talks && h('button', { onclick: act(dial) }, 'Digits'),
        talks && h('button', { onclick: act(play) }, 'Play'),
        talks && !view.transfer && h('button', { onclick: act(transfer) }, 'Transfer'),
        talks && h('button', { onclick: act(move) }, 'Move media'),
        h('button', { class: 'danger', onclick: act(hangUp) }, 'Hang up')));
    }
    const since = view.answered_at ?? view.created_at;
    replace(about, card(null, h('div', { class: 'body columns' },
      facts([
        ['State', [state(word, kind),
          view.parked !== 'none' && [' ', h('span', { class: 'tag warn' }, `${SIDES[view.parked]} held by an operator`)],
          view.transfer && [' ', h('span', { class: 'tag' }, `${view.transfer.to} is to take the ${view.transfer.leg}'s place`)],
          view.one_way && [' ', h('span', { class: 'tag bad' }, `the ${view.one_way} is not heard`)],
          view.silent && [' ', h('span', { class: 'tag bad' }, 'neither is heard')]]],
        [view.answered_at ? 'Talking for' : 'Since', h('span', { 'data-since': since }, duration(Date.now() - new Date(since)))],
        ['Dialled', h('span', { class: 'mono' }, view.request_uri)],
        ['Began', moment(view.created_at)],
        ['Rang', moment(view.ringing_at)],
        ['Answered', moment(view.answered_at)],
      ]),
      facts([
        ['Owner', [view.owner, view.takeovers > 0 && [' ', h('span', { class: 'tag warn' }, `taken over ${view.takeovers}×`)]]],
        ['Media node', view.media.node],
        ['Transcoding', view.media.transcoding ? 'yes' : 'no'],
        ['Call id', h('span', { class: 'mono' }, view.id)],
      ]))));
    replace(quality, sounds(view.legs));
    replace(legs, card('Legs', h('div', { class: 'body columns' }, view.legs.map(leg))));
  }

  function showRecord() {
    layout();
    const [word, kind] = DISPOSITIONS[record.disposition];
    replace(title, head(`${who(record.caller)} → ${who(record.callee)}`));
    delete title.dataset.acts;
    replace(about, card(null, h('div', { class: 'body columns' },
      facts([
        ['Outcome', [state(word, kind), ' ', h('span', { class: 'muted' }, cause(record))]],
        ['Reason', record.reason],
        ['Faults', record.flags.length > 0 && flagTags(record.flags)],
        ['Talked', record.billable_ms > 0 && duration(record.billable_ms)],
        ['Rang', record.ring_ms > 0 && `${(record.ring_ms / 1000).toFixed(1)} s`],
        ['Dialled', h('span', { class: 'mono' }, record.request_uri)],
        ['Began', moment(record.created_at)],
        ['Ended', moment(record.ended_at)],
        ['Transfers', record.transfers.map((one) => h('div', {}, moment(one.at),
          ` ${one.from ?? `the ${one.leg}`} → ${one.to}`, one.sip_status !== 200 && h('span', { class: 'muted' }, `, ${one.sip_status}`)))],
      ]),
      facts([
        ['Status', [String(record.sip_status), record.q850_cause !== null && h('span', { class: 'muted' }, `, Q.850 ${record.q850_cause}`)]],
        ['Owners', record.owners.join(', ')],
        ['Media nodes', record.media_nodes.join(', ')],
        ['Taken over', record.takeovers > 0 && `${record.takeovers}×`],
        ['Call id', h('span', { class: 'mono' }, record.id)],
      ]))));
    replace(quality, record.legs.some((one) => one.packets_received > 0) && recordedSounds(record.legs));
    replace(legs);
  }

  /** What the buttons depend on: they are not made anew under somebody's finger. */
  const acts = () => JSON.stringify([view.state, view.parked, view.transfer, who(view.caller), who(view.callee)]);
  const sides = (...more) => ['leg', 'Phone',
    [...more, ['caller', `Caller, ${who(view.caller)}`], ['callee', `Callee, ${who(view.callee)}`]]];

  async function steer(what, wish) {
    view = await post(`/calls/${id}/${what}`, wish);
    showLive();
  }

  async function hold() {
    const given = await ask('Hold', 'A held phone hears nothing and is not heard.', 'Hold', { fields: [sides(['', 'Both'])] });
    if (given) await steer('hold', { leg: given.leg || null });
  }

  const letGo = () => steer('unhold', {});

  async function dial() {
    const fields = [sides(), ['digits', 'Digits', '0-9 * # A-D']];
    const given = await ask('Send digits', 'Only that phone gets them.', 'Send', { fields });
    if (given) await steer('dtmf', { ...given, digits: given.digits.trim().toUpperCase() });
  }

  async function play() {
    const tones = ['beep', 'ringback', 'busy', 'congestion', 'dial'].map((tone) => [tone, tone]);
    const fields = [sides(['', 'Both']), ['tone', 'Tone', [...tones, ['', 'Nothing any more']]], ['seconds', 'Seconds', 'until it is stopped']];
    const given = await ask('Play a tone', 'In place of what the phone would hear.', 'Play', { fields });
    if (!given) return;
    const seconds = given.seconds.trim();
    if (seconds && !(Number(seconds) > 0)) throw new Error(`"${seconds}" is no number of seconds.`);
    const wish = { leg: given.leg || null, tone: given.tone, duration_ms: seconds ? Math.round(Number(seconds) * 1000) : null };
    if (given.tone) await steer('play', wish);
    else {
      await remove(`/calls/${id}/play${given.leg ? `?leg=${given.leg}` : ''}`);
      await look();
    }
  }

  async function transfer() {
    const fields = [['leg', 'Who leaves', sides()[2]], ['to', 'Who comes', 'Extension or number']];
    const given = await ask('Transfer', 'The call goes on until who comes answers; then who leaves is hung up on.', 'Transfer', { fields });
    if (given) await steer('transfer', given);
  }

  async function move() {
    const { items } = await get('/nodes');
    const nodes = items.filter((node) => node.media && node.state === 'ready' && node.name !== view.media.node);
    const fields = [['node', 'Media node', [['', 'The freest of another host'], ...nodes.map(({ name }) => [name, name])]]];
    const given = await ask('Move the media', 'Both phones are told of another address; nobody hears a gap.', 'Move', { fields });
    if (given) await steer('move', { node: given.node || null });
  }

  async function hangUp() {
    const given = await ask('Hang up this call?', 'Both phones are told.', 'Hang up',
      { danger: true, fields: [['reason', 'Reason (for the phones and the record)', 'optional']] });
    if (!given) return;
    const reason = given.reason ? `?reason=${encodeURIComponent(given.reason)}` : '';
    await remove(`/calls/${id}${reason}`);
    await look();
  }

  function tell() {
    if (!over && live.ended.has(id)) look();
    const own = live.events.filter((event) => event.call_id === id).reverse();
    replace(story, own.length > 0 && card('Events', h('table', { class: 'list' }, h('tbody', {}, own.map(eventRow)))));
  }
  look();
  let seen = null;
  const end = subscribe(() => {
    if (live.events[0] === seen) return;
    seen = live.events[0];
    if (!seen || seen.call_id === id) tell();
  });
  tell();
  const timers = [setInterval(look, REFRESH_MS), setInterval(() => tick(main), 1000)];
  return () => { over = true; end(); timers.forEach(clearInterval); };
}

const number = (value, unit, digits = 0) => (value === null || value === undefined ? '–' : `${value.toFixed(digits)}${unit}`);

function mosTone(mos) {
  if (mos === null || mos === undefined) return 'muted';
  return mos >= 3.8 ? 'good' : mos >= 3.1 ? 'warn' : 'bad';
}

const side = (role) => ({ caller: 'Caller', callee: 'Callee' })[role] ?? role;

/** How it sounds: what we hear of each phone, and what each phone says it hears. */
function sounds(legs) {
  const streams = legs.flatMap((one) => one.streams.filter((stream) => stream.codec || stream.received.packets > 0)
    .map((stream) => ({ one, stream })));
  if (streams.length === 0) return null;
  const body = h('tbody', {}, streams.map(({ one, stream }) => {
    const { received, reported } = stream;
    const all = received.packets + received.lost;
    return h('tr', {},
      cell('From', [h('b', {}, side(one.role)), one.extension && ` ${one.extension}`]),
      cell('Codec', [stream.codec, stream.srtp !== 'none' && [' ', h('span', { class: 'tag' }, 'encrypted')]]),
      cell('MOS', h('b', { class: mosTone(stream.mos) }, number(stream.mos, '', 1)), 'number'),
      cell('Loss', number(all ? 100 * received.lost / all : 0, ' %', 1), 'number'),
      cell('Jitter', number(received.jitter_ms, ' ms', 1), 'number'),
      cell('Round trip', number(reported.rtt_ms, ' ms'), 'number'),
      cell('It hears: loss', reported.lost === null ? null : String(reported.lost), 'number'),
      cell('Bursts', received.bursts && String(received.bursts.count), 'number'),
      cell('Packets', received.packets.toLocaleString('en'), 'number'));
  }));
  return card('Sound', table([['From'], ['Codec'], ['MOS', 'number'], ['Loss', 'number'], ['Jitter', 'number'],
    ['Round trip', 'number'], ['It hears: loss', 'number'], ['Bursts', 'number'], ['Packets', 'number']], body));
}

function recordedSounds(legs) {
  const body = h('tbody', {}, legs.filter((one) => one.codec).map((one) => h('tr', {},
    cell('From', [h('b', {}, side(one.role)), one.extension && ` ${one.extension}`]),
    cell('Codec', one.codec),
    cell('MOS', h('b', { class: mosTone(one.mos_mean) }, number(one.mos_mean, '', 1)), 'number'),
    cell('Worst', h('span', { class: mosTone(one.mos_min) }, number(one.mos_min, '', 1)), 'number'),
    cell('Lost', String(one.packets_lost), 'number'),
    cell('Bursts', one.bursts && String(one.bursts.count), 'number'),
    cell('Jitter', number(one.jitter_mean_ms, ' ms', 1), 'number'),
    cell('Round trip', number(one.rtt_mean_ms, ' ms'), 'number'),
    cell('Packets', one.packets_received.toLocaleString('en'), 'number'),
    cell('Longest silence', one.silence_max_ms > 0 ? `${(one.silence_max_ms / 1000).toFixed(1)} s` : null, 'number'))));
  return card('Sound', table([['From'], ['Codec'], ['MOS', 'number'], ['Worst', 'number'], ['Lost', 'number'], ['Bursts', 'number'], ['Jitter', 'number'],
    ['Round trip', 'number'], ['Packets', 'number'], ['Longest silence', 'number']], body));
}

function leg(one) {
  const [stream] = one.streams;
  return h('div', { class: 'stack tight' },
    h('h3', {}, side(one.role), one.extension && ` · ${one.extension}`, one.held && [' ', h('span', { class: 'tag warn' }, 'holds')]),
    facts([
      ['State', one.state],
      ['Phone', one.user_agent],
      ['Address', h('span', { class: 'mono' }, `${one.remote} (${one.transport})`)],
      ['Our address', h('span', { class: 'mono' }, one.local)],
      ['Target', h('span', { class: 'mono' }, one.remote_target)],
      ['Last status', one.last_status && String(one.last_status)],
      ['Sound from', stream?.remote_latched && h('span', { class: 'mono' }, stream.remote_latched)],
      ['Sound said at', stream?.remote_signalled && stream.remote_signalled !== stream.remote_latched
        && h('span', { class: 'mono' }, stream.remote_signalled)],
      ['Our sound port', stream?.local && h('span', { class: 'mono' }, stream.local)],
      ['Direction', stream?.direction],
      ['Hears', one.playing && h('span', { class: 'tag warn' }, `${one.playing} tone`)],
      ['Call-ID', h('span', { class: 'mono' }, one.call_id)],
    ]));
}

