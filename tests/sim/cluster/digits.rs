//! Digits that phones dial by telephone events (RFC 4733): each that the other phone heard is told by who has the call,
//! though its owner dies meanwhile.

use super::faults::Theme;
use super::world::{S, World};
use holdfast::ids::CallId;
use holdfast::rtp::EventPayload;
use holdfast::rtp::telephone_event::{PAYLOAD_BYTES, digit_of_event};
use holdfast::time::Timestamp;
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// Behind packets whose number is a multiple of this.
const EVERY: u16 = 4;
/// A phone dials so many digits in turn; its peer dials others.
const DIGITS: u16 = 8;
/// A digit is told within this, or by who takes the call over.
const LATEST: u64 = 3 * S;
const HEADER: usize = 12;

/// What was dialled, and what was told of it.
#[derive(Debug, Default)]
pub struct Digits {
    /// When, in which call, and which.
    dialled: Vec<(u64, CallId, char)>,
    told: BTreeMap<(CallId, char), usize>,
}

impl Digits {
    pub fn tell(&mut self, call: CallId, digit: char) {
        *self.told.entry((call, digit)).or_default() += 1;
    }
}

impl World {
    /// Behind a packet that was heard; `sequence` is its number among the phone's.
    pub fn press_key(
        &mut self,
        (at, line): (usize, usize),
        (media, source, port): (usize, SocketAddr, u16),
        voice: &[u8],
        sequence: u16,
    ) {
        let event_type =
            self.phones[at].event_type(line).filter(|_| sequence.is_multiple_of(EVERY));
        let Some(event_type) = event_type else { return };
        let first = if self.phones[at].lines[line].caller { 0 } else { DIGITS };
        let event = (first + sequence / EVERY % DIGITS) as u8;
        let mut packet = [0; HEADER + PAYLOAD_BYTES];
        packet[..HEADER].copy_from_slice(&voice[..HEADER]);
        packet[1] = event_type;
        packet[2..4].copy_from_slice(&(sequence + 1).to_be_bytes());
        packet[HEADER..].copy_from_slice(&EventPayload::new(event, true, 800).emit());
        let now = Timestamp::from_micros(self.now);
        if self.medias[media].node.packet((source, port), &packet, now).is_some() {
            let call = CallId(self.call_of(at, line));
            self.count.add("phones: digits dialled");
            self.digits.dialled.extend(digit_of_event(event).map(|it| (self.now, call, it)));
        }
    }

    /// Where media processes live, and a node that can take calls over.
    pub fn judge_digits(&self, wrong: &mut Vec<String>) {
        if self.theme != Theme::Deaths || self.is_bereft(self.bereft_at) {
            return;
        }
        for cdr in &self.store.cdrs {
            let ended = cdr.ended_at.0.as_micros();
            let mut due: BTreeMap<(CallId, char), usize> = BTreeMap::new();
            for (at, call, digit) in &self.digits.dialled {
                if call.to_string() == cdr.id && at + LATEST < ended {
                    *due.entry((*call, *digit)).or_default() += 1;
                }
            }
            for (key, due) in due {
                let told = self.digits.told.get(&key).copied().unwrap_or_default();
                if told < due {
                    let (call, digit) = (key.0.0, key.1);
                    wrong.push(format!("call {call} has {due} digits {digit}, {told} were told"));
                }
            }
        }
    }
}
