//! Digits that phones dial by telephone events (RFC 4733): each that the other phone heard is told by who has the call,
//! though its owner dies meanwhile.

use super::faults::Theme;
use super::world::{S, World};
use holdfast::ids::CallId;
use holdfast::rtp::EventPayload;
use holdfast::rtp::telephone_event::PAYLOAD_BYTES;
use holdfast::time::Timestamp;
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// Behind packets whose number is a multiple of this.
const EVERY: u16 = 8;
/// A digit is told within this, or by who takes the call over.
const LATEST: u64 = 3 * S;
const HEADER: usize = 12;

/// What was dialled, and what was told of it.
#[derive(Debug, Default)]
pub struct Digits {
    /// When, and in which call.
    dialled: Vec<(u64, u128)>,
    /// By the id of the call.
    told: BTreeMap<String, usize>,
}

impl Digits {
    pub fn tell(&mut self, call: CallId) {
        *self.told.entry(call.to_string()).or_default() += 1;
    }
}

impl World {
    /// Behind a packet that was heard; `sequence` is its number among the phone's.
    pub fn press_key(
        &mut self,
        call: u128,
        (media, source, port): (usize, SocketAddr, u16),
        event_type: u8,
        voice: &[u8],
        sequence: u16,
    ) {
        if !sequence.is_multiple_of(EVERY) {
            return;
        }
        let mut packet = [0; HEADER + PAYLOAD_BYTES];
        packet[..HEADER].copy_from_slice(&voice[..HEADER]);
        packet[1] = event_type;
        packet[2..4].copy_from_slice(&(sequence + 1).to_be_bytes());
        packet[HEADER..].copy_from_slice(&EventPayload::new(5, true, 800).emit());
        let now = Timestamp::from_micros(self.now);
        if self.medias[media].node.packet((source, port), &packet, now).is_some() {
            self.count.add("phones: digits dialled");
            self.digits.dialled.push((self.now, call));
        }
    }

    /// Where media processes live, and a node that can take calls over.
    pub fn judge_digits(&self, wrong: &mut Vec<String>) {
        if self.theme != Theme::Deaths || self.is_bereft(self.bereft_at) {
            return;
        }
        for cdr in &self.store.cdrs {
            let ended = cdr.ended_at.0.as_micros();
            let is_due = |(at, call): &&(u64, u128)| {
                CallId(*call).to_string() == cdr.id && at + LATEST < ended
            };
            let due = self.digits.dialled.iter().filter(is_due).count();
            let told = self.digits.told.get(&cdr.id).copied().unwrap_or_default();
            if told < due {
                wrong.push(format!("of {due} digits in call {} {told} were told", cdr.id));
            }
        }
    }
}
