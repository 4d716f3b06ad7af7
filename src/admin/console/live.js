// What is alive now, as the stream of events tells it. Views subscribe and are told at most once a frame.

import { watch } from './api.js';

const RECENT = 1000;
const HISTORY = 120;
const SAMPLE_MS = 5000;

export const live = {
  /** By id: as in a snapshot. */
  calls: new Map(),
  /** By id: `call.ended` of calls that ended while we watched. */
  ended: new Map(),
  /** Newest first. */
  events: [],
  connected: false,
  /** The first snapshot is complete. */
  known: false,
  /** Numbers of live calls, the last one now. */
  history: [],
};

const subscribers = new Set();
let due = false;

export function subscribe(subscriber) {
  subscribers.add(subscriber);
  return () => subscribers.delete(subscriber);
}

function changed() {
  if (due) return;
  due = true;
  const tell = () => {
    due = false;
    subscribers.forEach((subscriber) => subscriber());
  };
  // A page in the background has no frames.
  if (document.hidden) setTimeout(tell, 1000);
  else requestAnimationFrame(tell);
}

let incoming = null;

const apply = {
  snapshot(part) {
    incoming ??= new Map();
    for (const call of part.calls) incoming.set(call.id, call);
    if (!part.last) return;
    live.calls = incoming;
    incoming = null;
    live.known = true;
  },
  gap() {
    incoming = null;
  },
  'call.created'(event) {
    if (live.calls.has(event.call_id)) return;
    const party = (name) => ({ extension: name, uri: name, display_name: null });
    live.calls.set(event.call_id, {
      id: event.call_id, state: 'trying', caller: party(event.caller), callee: party(event.callee),
      created_at: event.at, ringing_at: null, answered_at: null, owner: event.node, media_node: null,
      takeovers: 0, hold: 'none', parked: 'none', one_way: null, silent: false,
    });
  },
  'call.ringing'(event) {
    change(event, (call) => call.state === 'trying' && { state: 'early', ringing_at: event.at });
  },
  'call.answered'(event) {
    // A node of an older release does not say where its sound is: the next snapshot does.
    const told = event.media_node ? { media_node: event.media_node } : {};
    change(event, (call) => call.state !== 'confirmed' && { state: 'confirmed', answered_at: event.at, ...told });
  },
  // A node of an older release does not say whose phone it is: the next snapshot does.
  'call.held'(event) {
    change(event, (call) => event.role && ({ hold: sides(call.hold, event.role, true) }));
  },
  'call.resumed'(event) {
    change(event, (call) => event.role && ({ hold: sides(call.hold, event.role, false) }));
  },
  'call.steered'(event) {
    if (event.act !== 'hold' && event.act !== 'unhold') return;
    change(event, (call) => ({ parked: event.role ? sides(call.parked, event.role, event.act === 'hold') : event.act === 'hold' ? 'both' : 'none' }));
  },
  'call.transferred'(event) {
    change(event, (call) => ({
      [event.role]: { extension: event.to, uri: event.to, display_name: null },
      parked: sides(call.parked, event.role, false), hold: sides(call.hold, event.role, false),
    }));
  },
  'call.reanchored'(event) {
    change(event, () => ({ media_node: event.media_node }));
  },
  'call.silent'(event) {
    change(event, () => ({ silent: true }));
  },
  'call.heard'(event) {
    change(event, () => ({ silent: false }));
  },
  'call.one_way'(event) {
    change(event, () => ({ one_way: event.role }));
  },
  'call.two_way'(event) {
    change(event, () => ({ one_way: null }));
  },
  'call.adopted'(event) {
    change(event, () => ({ owner: event.node, takeovers: event.epoch - 1 }));
  },
  'call.ended'(event) {
    live.calls.delete(event.call_id);
    live.ended.set(event.call_id, event);
    if (live.ended.size > RECENT) live.ended.delete(live.ended.keys().next().value);
  },
};

function change(event, difference) {
  const call = live.calls.get(event.call_id);
  const fields = call && difference(call);
  if (fields) live.calls.set(event.call_id, { ...call, ...fields });
}

/** Who of the two is on hold, when one begins or ends to be. */
function sides(held, own, begins) {
  const other = own === 'caller' ? 'callee' : 'caller';
  const otherIs = held === other || held === 'both';
  if (begins) return otherIs ? 'both' : own;
  return otherIs ? other : 'none';
}

function sample() {
  if (!live.known) return;
  live.history.push(live.calls.size);
  if (live.history.length > HISTORY) live.history.shift();
  changed();
}

export function begin() {
  setInterval(sample, SAMPLE_MS);
  watch((type, event) => {
    apply[type]?.(event);
    if (type === 'snapshot' && live.history.length === 0) sample();
    if (type !== 'snapshot') {
      live.events.unshift(event);
      if (live.events.length > RECENT) live.events.length = RECENT;
    }
    changed();
  }, (connected) => {
    live.connected = connected;
    changed();
  });
}

/** A word and a tone for the state of a live call. */
export function callState(call) {
  if (call.state === 'confirmed') return call.hold === 'none' && call.parked === 'none' ? ['Talking', 'good'] : ['On hold', 'warn'];
  return { trying: ['Calling', 'accent'], early: ['Ringing', 'accent'], terminating: ['Ending', 'idle'] }[call.state];
}
