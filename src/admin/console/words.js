// What events and endings are called by people.

import { h } from './dom.js';

const call = (event) => h('a', { href: `#/calls/${event.call_id}` }, `${event.caller} → ${event.callee}`);
const seconds = (ms) => `${(ms / 1000).toFixed(1)} s`;

export const DISPOSITIONS = {
  answered: ['Answered', 'good'], busy: ['Busy', 'warn'], no_answer: ['No answer', 'warn'],
  cancelled: ['Cancelled', 'idle'], rejected: ['Rejected', 'warn'], failed: ['Failed', 'bad'],
};

const CAUSES = {
  bye: 'hung up', cancel: 'caller gave up', rejected: 'refused', ring_timeout: 'nobody answered',
  ack_timeout: 'answer never acknowledged', rtp_timeout: 'no sound arrived', session_expired: 'session expired',
  reanchor_failed: 'media lost', drain: 'node drained', node_lost: 'node lost', quarantined: 'could not be carried on',
  admin: 'ended by an operator',
};
export const cause = (record) => {
  const by = { caller: 'by the caller', callee: 'by the callee' }[record.ended_by] ?? '';
  const text = CAUSES[record.end_cause] ?? record.end_cause;
  return record.end_cause === 'bye' ? `${text} ${by}`.trim() : text;
};

/** What was not as it should be in a call. */
export const FLAGS = {
  ack_missing: 'answer not acknowledged', codec_mismatch: 'no codec in common', glare_loop: 'glare loop', media_rejected: 'media rejected',
  one_way_audio: 'one side not heard', private_address_in_sdp: 'private address in SDP', retransmission_storm: 'retransmission storm', silence: 'neither side heard',
};
export const flagTags = (flags) => flags.map((flag) => [' ', h('span', { class: 'tag warn' }, FLAGS[flag] ?? flag)]);

const SENTENCES = {
  'call.created': (event) => [call(event), ' begins'],
  'call.ringing': (event) => [call(event), ' rings'],
  'call.answered': (event) => [call(event), ` answered by ${event.answered_by} after ${seconds(event.setup_ms)}`],
  'call.held': (event) => [call(event), ' put on hold'],
  'call.resumed': (event) => [call(event), ' taken back'],
  'call.steered': (event) => [call(event), `: an operator's ${event.act}${event.role ? `, the ${event.role}` : ''}`],
  'call.transferred': (event) => [call(event), `: ${event.to} has the ${event.role}'s place`],
  'call.transfer_failed': (event) => [call(event), `: the transfer to ${event.to} came to ${event.sip_status}`],
  'call.adopted': (event) => [call(event), ` carried on by ${event.node}`],
  'call.reanchored': (event) => [call(event), ` has its sound anchored by ${event.media_node}`],
  'call.ack_missing': (event) => [call(event), ` never acknowledged our answer; it was told ${event.contact}`],
  'call.silent': (event) => [call(event), ': neither phone is heard'],
  'call.heard': (event) => [call(event), ': no more silence'],
  'call.one_way': (event) => [call(event), `: the ${event.role} is not heard`],
  'call.two_way': (event) => [call(event), `: the ${event.role} is heard again`],
  'call.ended': (event) => [call(event), ` ended: ${DISPOSITIONS[event.disposition]?.[0].toLowerCase()}, ${cause(event)}`],
  'registration.added': (event) => [h('b', {}, event.extension), ' registered'],
  'registration.removed': (event) => [h('b', {}, event.extension), ' is not registered any more'],
  'authentication.failed': (event) => [`Wrong credentials for ${event.username} from ${event.source}`],
  'node.started': (event) => [h('b', {}, event.node), ' takes calls'],
  'node.draining': (event) => [h('b', {}, event.node), ' is being drained'],
  'node.undrained': (event) => [h('b', {}, event.node), ' takes calls again'],
  'media.joined': (event) => ['Media node ', h('b', {}, event.media_node), ` joined ${event.node}`],
  'media.left': (event) => ['Media node ', h('b', {}, event.media_node), ` left ${event.node}`],
  gap: () => ['Some events are lost here'],
};

export const sentence = (event) => SENTENCES[event.type]?.(event) ?? [event.type];

const TONES = {
  'call.answered': 'good', 'call.created': 'accent', 'call.ringing': 'accent', 'call.held': 'warn', 'call.transfer_failed': 'warn',
  'call.adopted': 'warn', 'call.reanchored': 'warn', 'call.two_way': 'good', 'call.ack_missing': 'bad', 'call.one_way': 'bad', 'call.silent': 'bad', 'call.heard': 'good', 'authentication.failed': 'warn', 'node.draining': 'warn',
  'media.left': 'bad', 'registration.added': 'good', 'node.started': 'good', 'node.undrained': 'good',
  'media.joined': 'good', gap: 'bad',
};

export const tone = (event) => {
  if (event.type !== 'call.ended') return TONES[event.type] ?? 'idle';
  return event.disposition === 'answered' ? 'idle' : DISPOSITIONS[event.disposition]?.[1] ?? 'idle';
};
