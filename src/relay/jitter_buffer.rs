//! Packets on their way to a decoder, put in order; how long they wait follows the line.
//!
//! Invariants: a fixed window of slots, whose memory is used again; a packet is given once and in
//! order.

use crate::rtp::serial::sequence_distance;
use serde::{Deserialize, Serialize};

/// A power of two, so that slots follow sequence numbers across their wrap.
const SLOTS: usize = 32;
const DELAY_FIRST_MS: u64 = 40;
const DELAY_LEAST_MS: u64 = 20;
const DELAY_MOST_MS: u64 = 160;
const DELAY_STEP_MS: u64 = 20;
/// Pulls between looks at whether the delay can shrink: a second or two.
const REVIEW_PULLS: u32 = 64;
/// Reviews without an underrun until the wished delay shrinks: about ten seconds.
const QUIET_REVIEWS: u32 = 8;
/// Packets lying ready beyond the wished delay that are not worth their latency.
const SPARE_PACKETS: usize = 2;

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Pulled<'a> {
    /// The packet that is due.
    Packet(&'a [u8]),
    /// It is missing; the one after it, if it is here.
    Lost(Option<&'a [u8]>),
    /// Nothing is here.
    Empty,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Slot {
    full: bool,
    payload: Vec<u8>,
}

/// See the module.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct JitterBuffer {
    slots: [Slot; SLOTS],
    full: usize,
    next: Option<u16>,
    delay_ms: u64,
    pulls: u32,
    least_full: usize,
    quiet_reviews: u32,
}

impl Default for JitterBuffer {
    fn default() -> Self {
        Self {
            slots: core::array::from_fn(|_| Slot::default()),
            full: 0,
            next: None,
            delay_ms: DELAY_FIRST_MS,
            pulls: 0,
            least_full: usize::MAX,
            quiet_reviews: 0,
        }
    }
}

impl JitterBuffer {
    /// How long the first packet after silence waits.
    pub(super) const fn delay_ms(&self) -> u64 {
        self.delay_ms
    }

    /// Forgets what is here: another source.
    pub(super) fn reset(&mut self) {
        self.slots.iter_mut().for_each(|slot| slot.full = false);
        self.full = 0;
        self.next = None;
    }

    /// False: too late, or here already.
    pub(super) fn push(&mut self, sequence: u16, payload: &[u8]) -> bool {
        let next = *self.next.get_or_insert(sequence);
        let distance = sequence_distance(next, sequence);
        if distance < 0 && distance > -(SLOTS as i16) {
            return false;
        }
        if distance < 0 || distance >= SLOTS as i16 {
            self.reset();
            self.next = Some(sequence);
        }
        let Some(slot) = self.slots.get_mut(usize::from(sequence) % SLOTS) else { return false };
        if slot.full {
            return false;
        }
        slot.full = true;
        slot.payload.clear();
        slot.payload.extend_from_slice(payload);
        self.full += 1;
        true
    }

    /// The source paused; what comes next begins anew, whatever its number.
    pub(super) fn pause(&mut self) {
        self.reset();
        self.least_full = usize::MAX;
    }

    /// A packet came after its time: the delay was too short.
    pub(super) fn lengthen(&mut self) {
        self.delay_ms = (self.delay_ms + DELAY_STEP_MS).min(DELAY_MOST_MS);
        self.quiet_reviews = 0;
    }

    /// What is due now; `packet_ms` is how long the packets last.
    pub(super) fn pull(&mut self, packet_ms: u64) -> Pulled<'_> {
        self.least_full = self.least_full.min(self.full);
        self.pulls += 1;
        if self.pulls >= REVIEW_PULLS {
            self.review(packet_ms);
        }
        if self.full == 0 {
            return Pulled::Empty;
        }
        let Some(sequence) = self.next else { return Pulled::Empty };
        let after = sequence.wrapping_add(1);
        self.next = Some(after);
        let [due, next] = [sequence, after].map(|number| usize::from(number) % SLOTS);
        let Some(slot) = self.slots.get_mut(due) else { return Pulled::Empty };
        if slot.full {
            slot.full = false;
            self.full -= 1;
            return self.slots.get(due).map_or(Pulled::Empty, |slot| Pulled::Packet(&slot.payload));
        }
        Pulled::Lost(self.slots.get(next).filter(|slot| slot.full).map(|slot| &slot.payload[..]))
    }

    /// What lay ready all the time is latency for nothing: one packet of it is skipped.
    fn review(&mut self, packet_ms: u64) {
        let wanted = usize::try_from(self.delay_ms / packet_ms.max(1)).unwrap_or(0);
        if self.least_full != usize::MAX && self.least_full > wanted + SPARE_PACKETS {
            self.skip();
        }
        self.quiet_reviews += 1;
        if self.quiet_reviews >= QUIET_REVIEWS {
            self.quiet_reviews = 0;
            self.delay_ms = self.delay_ms.saturating_sub(DELAY_STEP_MS).max(DELAY_LEAST_MS);
        }
        self.pulls = 0;
        self.least_full = usize::MAX;
    }

    fn skip(&mut self) {
        let Some(sequence) = self.next else { return };
        if let Some(slot) = self.slots.get_mut(usize::from(sequence) % SLOTS)
            && slot.full
        {
            slot.full = false;
            self.full -= 1;
        }
        self.next = Some(sequence.wrapping_add(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn order_loss_lateness_and_a_jump() {
        let mut buffer = JitterBuffer::default();
        assert_eq!(buffer.pull(20), Pulled::Empty);
        for (sequence, taken) in [(65_535, true), (1, true), (0, true), (3, true), (3, false)] {
            assert_eq!(buffer.push(sequence, &[sequence as u8]), taken, "{sequence}");
        }
        assert_eq!(buffer.pull(20), Pulled::Packet(&[255]));
        assert_eq!(buffer.pull(20), Pulled::Packet(&[0]));
        assert!(!buffer.push(0, &[9]), "too late");
        assert_eq!(buffer.pull(20), Pulled::Packet(&[1]));
        assert_eq!(buffer.pull(20), Pulled::Lost(Some(&[3])));
        assert_eq!(buffer.pull(20), Pulled::Packet(&[3]));
        assert_eq!(buffer.pull(20), Pulled::Empty);
        assert!(buffer.push(30_000, &[7]));
        assert_eq!(buffer.pull(20), Pulled::Packet(&[7]));
    }

    #[test]
    fn the_delay_grows_with_lateness_and_shrinks_in_quiet() {
        let mut buffer = JitterBuffer::default();
        buffer.lengthen();
        assert_eq!(buffer.delay_ms(), 60);
        // Eight packets always lie ready where three are wanted: they are skipped, one a review.
        let mut sequence = 0_u16;
        for _ in 0..8 {
            buffer.push(sequence, &[]);
            sequence += 1;
        }
        for _ in 0..REVIEW_PULLS * 20 {
            buffer.push(sequence, &[]);
            sequence += 1;
            buffer.pull(20);
        }
        assert!(buffer.full <= 5, "{}", buffer.full);
        assert_eq!(buffer.delay_ms(), 20);
    }

    proptest! {
        #[test]
        fn any_arrival_keeps_its_bounds(
            steps in proptest::collection::vec(any::<(u16, bool)>(), 0..400),
        ) {
            let mut buffer = JitterBuffer::default();
            let mut near = 0_u16;
            for (sequence, pull) in steps {
                near = if sequence % 17 == 0 { sequence } else { near.wrapping_add(sequence % 5) };
                buffer.push(near, &[1, 2]);
                if pull { let _ = buffer.pull(20); }
                let full = buffer.slots.iter().filter(|slot| slot.full).count();
                prop_assert_eq!(full, buffer.full);
            }
        }
    }
}
