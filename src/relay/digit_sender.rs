//! Telephone events that we send (RFC 4733 §2.5.1): 100 ms of tone, its end three times, 50 ms of
//! gap.
//!
//! Invariant: events share SSRC and sequence with the audio, which pauses while they are sent.

use super::outbound::Outbound;
use crate::control::TelephoneEvent;
use crate::rtp::EventPayload;
use crate::rtp::telephone_event::event_of_digit;
use crate::time::Timestamp;
use core::time::Duration;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Digits that wait; more are dropped.
const QUEUE: usize = 64;
const STEP_MS: u16 = 20;
/// Packets of 20 ms steps until the tone is over.
const TONE_PACKETS: u16 = 5;
/// The last of them comes three times.
const ALL_PACKETS: u16 = TONE_PACKETS + 2;
const GAP: Duration = Duration::from_millis(30);

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Current {
    event: u8,
    timestamp: u32,
    packets: u16,
}

/// Digits on their way to a phone.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct DigitSender {
    waiting: VecDeque<u8>,
    current: Option<Current>,
    next_at: Option<Timestamp>,
}

impl DigitSender {
    pub(super) fn push(&mut self, digits: &str, now: Timestamp) {
        let room = QUEUE.saturating_sub(self.waiting.len());
        self.waiting.extend(digits.chars().filter_map(event_of_digit).take(room));
        if self.next_at.is_none() && !self.waiting.is_empty() {
            self.next_at = Some(now);
        }
    }

    /// Audio waits.
    pub(super) const fn is_active(&self) -> bool {
        self.next_at.is_some()
    }

    pub(super) const fn deadline(&self) -> Option<Timestamp> {
        self.next_at
    }

    /// The next packet, when it is due. Without `events` the phone takes none: digits are dropped.
    pub(super) fn handle_timeout(
        &mut self,
        events: Option<TelephoneEvent>,
        outbound: &mut Outbound,
        now: Timestamp,
    ) -> Option<Vec<u8>> {
        let due = self.next_at.filter(|due| *due <= now)?;
        let Some(events) = events else {
            *self = Self::default();
            return None;
        };
        let Some(mut current) = self.current.take().or_else(|| {
            let event = self.waiting.pop_front()?;
            Some(Current { event, timestamp: outbound.timestamp_at(now), packets: 0 })
        }) else {
            self.next_at = None;
            return None;
        };
        current.packets += 1;
        let elapsed_ms = u32::from(current.packets.min(TONE_PACKETS) * STEP_MS);
        let duration = u64::from(elapsed_ms) * u64::from(events.clock_rate_hz) / 1_000;
        let duration = u16::try_from(duration).unwrap_or(u16::MAX);
        let payload = EventPayload::new(current.event, current.packets >= TONE_PACKETS, duration);
        let mut header = outbound.insert(events.payload_type_sent, current.timestamp, now);
        header.marker = current.packets == 1;
        let step = Duration::from_millis(STEP_MS.into());
        if current.packets < ALL_PACKETS {
            self.current = Some(current);
            self.next_at = Some(due + step);
        } else {
            self.next_at = Some(due + GAP);
        }
        Some(header.with_payload(&payload.emit()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rtp::Header;

    #[test]
    fn two_digits_as_packets() {
        let events = TelephoneEvent {
            payload_type_sent: 101,
            payload_type_received: 96,
            clock_rate_hz: 48_000,
        };
        let mut sender = DigitSender::default();
        let mut outbound = Outbound::new(1, 0, 0);
        outbound.set_clock(48_000);
        sender.push("5x#", Timestamp::EPOCH);
        let mut seen = Vec::new();
        while let Some(now) = sender.deadline() {
            let Some(packet) = sender.handle_timeout(Some(events), &mut outbound, now) else {
                continue;
            };
            outbound.count(4, now);
            let header = Header::parse(&packet).expect("RTP");
            let payload = EventPayload::parse(&packet[header.payload()]).expect("an event");
            assert_eq!((header.payload_type, usize::from(header.sequence)), (101, seen.len() + 1));
            seen.push((
                now.as_millis(),
                payload.event,
                payload.end,
                payload.duration,
                header.marker,
                header.timestamp,
            ));
        }
        assert_eq!(seen.len(), 14);
        assert_eq!(seen[0], (0, 5, false, 960, true, 960));
        assert_eq!(seen[3], (60, 5, false, 3_840, false, 960));
        assert!(
            seen[4..7].iter().all(|packet| (packet.2, packet.3, packet.5) == (true, 4_800, 960))
        );
        assert_eq!(seen[7], (150, 11, false, 960, true, 960 + 7_200));
        sender.push("1", Timestamp::EPOCH);
        assert_eq!(sender.handle_timeout(None, &mut outbound, Timestamp::EPOCH), None);
        assert!(!sender.is_active());
    }
}
