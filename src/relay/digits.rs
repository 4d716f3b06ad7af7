//! Digits that a phone dials (RFC 4733 §2.5.2): each once, at its end.
//!
//! Invariant: an event is known by SSRC and timestamp; however often its packets come, it is told
//! once.

use crate::rtp::serial::timestamp_distance;
use crate::rtp::telephone_event::digit_of_event;
use crate::rtp::{EventPayload, Header};
use crate::time::Timestamp;
use core::time::Duration;
use serde::{Deserialize, Serialize};

/// An event that fell silent without its end is over.
const END_LOST: Duration = Duration::from_millis(500);

/// A digit that was dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Dialled {
    pub(super) digit: char,
    pub(super) duration_ms: u32,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Current {
    ssrc: u32,
    timestamp: u32,
    digit: char,
    duration: u16,
    clock_rate_hz: u32,
    told: bool,
    last_at: Timestamp,
}

impl Current {
    fn tell(&mut self) -> Option<Dialled> {
        if self.told {
            return None;
        }
        self.told = true;
        let duration_ms = u64::from(self.duration) * 1_000;
        let duration_ms = duration_ms.checked_div(u64::from(self.clock_rate_hz)).unwrap_or(0);
        Some(Dialled { digit: self.digit, duration_ms: duration_ms as u32 })
    }
}

/// Watches the events of one stream.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct DigitWatch {
    current: Option<Current>,
}

impl DigitWatch {
    /// An event packet came. Up to two digits end with it: one whose end was lost, and its own.
    pub(super) fn watch(
        &mut self,
        header: &Header,
        payload: &[u8],
        clock_rate_hz: u32,
        now: Timestamp,
    ) -> [Option<Dialled>; 2] {
        let Some(report) = EventPayload::parse(payload) else { return [None; 2] };
        let Some(digit) = digit_of_event(report.event) else { return [None; 2] };
        let mut before = None;
        if let Some(current) = &mut self.current
            && current.ssrc == header.ssrc
        {
            let distance = timestamp_distance(current.timestamp, header.timestamp);
            if distance < 0 && distance > -clock_rate_hz.cast_signed().saturating_mul(5) {
                return [None; 2]; // a straggler of the event before
            }
            if distance == 0 {
                current.duration = current.duration.max(report.duration);
                current.last_at = now;
                return [if report.end { current.tell() } else { None }, None];
            }
        }
        if let Some(current) = &mut self.current {
            before = current.tell();
        }
        let mut current = Current {
            ssrc: header.ssrc,
            timestamp: header.timestamp,
            digit,
            duration: report.duration,
            clock_rate_hz,
            told: false,
            last_at: now,
        };
        let own = if report.end { current.tell() } else { None };
        self.current = Some(current);
        [before, own]
    }

    /// When an event without end is given up.
    pub(super) fn deadline(&self) -> Option<Timestamp> {
        self.current.filter(|current| !current.told).map(|current| current.last_at + END_LOST)
    }

    /// The digit whose end never came.
    pub(super) fn handle_timeout(&mut self, now: Timestamp) -> Option<Dialled> {
        let due = self.deadline().is_some_and(|deadline| deadline <= now);
        self.current.as_mut().filter(|_| due).and_then(Current::tell)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_event_is_told_once() {
        let mut watch = DigitWatch::default();
        let mut told = Vec::new();
        let mut receive = |timestamp, event, end, duration| {
            let header = Header { timestamp, ssrc: 1, ..Header::new(101, 4) };
            let payload = EventPayload::new(event, end, duration).emit();
            told.extend(
                watch.watch(&header, &payload, 8_000, Timestamp::EPOCH).into_iter().flatten(),
            );
            (told.len(), told.last().map(|digit| (digit.digit, digit.duration_ms)))
        };
        assert_eq!(receive(100, 5, false, 160), (0, None));
        for _ in 0..3 {
            assert_eq!(receive(100, 5, true, 800), (1, Some(('5', 100))));
        }
        // The same key again, its end lost, then another: both are told.
        assert_eq!(receive(2_000, 5, false, 400), (1, Some(('5', 100))));
        assert_eq!(receive(5_000, 11, true, 320), (3, Some(('#', 40))));
        assert_eq!(receive(2_000, 5, true, 400).0, 3, "a straggler");
        assert_eq!(receive(9_000, 16, true, 400).0, 3, "flash is no digit");
    }

    #[test]
    fn an_event_without_end_is_told_after_a_while() {
        let mut watch = DigitWatch::default();
        let header = Header { timestamp: 9, ssrc: 1, ..Header::new(101, 4) };
        let payload = EventPayload::new(0, false, 4_800).emit();
        let now = Timestamp::from_millis(1_000);
        assert_eq!(watch.watch(&header, &payload, 48_000, now), [None; 2]);
        assert_eq!(watch.deadline(), Some(Timestamp::from_millis(1_500)));
        assert_eq!(watch.handle_timeout(Timestamp::from_millis(1_499)), None);
        let expect = Dialled { digit: '0', duration_ms: 100 };
        assert_eq!(watch.handle_timeout(Timestamp::from_millis(1_500)), Some(expect));
        assert_eq!(
            (watch.deadline(), watch.handle_timeout(Timestamp::from_millis(9_000))),
            (None, None)
        );
    }
}
