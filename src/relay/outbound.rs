//! What we send to a phone: one SSRC whose sequence and timestamp only go forward, whatever is
//! heard behind it.
//!
//! Invariants: relayed packets keep their gaps and order (sequence and timestamp by an offset that
//! is fixed while the source stays the same); made packets take the next sequence number; after a
//! switch nothing from before it is sent.

use super::offload::Passed;
use crate::control::{LastSent, StreamStatistics};
use crate::ids::LegId;
use crate::rtp::Header;
use crate::rtp::serial::{clock_units, sequence_distance, timestamp_distance};
use crate::time::Timestamp;
use core::time::Duration;
use serde::{Deserialize, Serialize};

/// A jump of so many packets is a source that restarted.
const MAX_JUMP: i16 = 3_000;
/// More reordering than this is a source that restarted, if it goes on.
const MAX_MISORDER: i16 = 100;
/// So many packets in a row from far behind are a source that restarted.
const RESTART_PACKETS: u8 = 4;
/// A timestamp that runs ahead of the clock by more is a source that jumped.
const MAX_AHEAD_S: u32 = 30;

/// The source of another process is carried on when that told of it so lately …
const CARRIED_WITHIN: Duration = Duration::from_secs(12);
/// … that it cannot have sent more packets since (100 a second at most), and phones take the jump for loss (RFC 3550
/// appendix A.1: below 3,000).
const CARRIED_PACKETS: u16 = 1_500;

/// Whose packets are relayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Origin {
    /// The heard leg.
    pub(super) leg: LegId,
    /// SSRC of its phone.
    pub(super) ssrc: u32,
}

/// Where an event that began at `received` lies on our timeline.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct EventStart {
    received: u32,
    sent: u32,
}

/// The stream towards a phone.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Outbound {
    pub(super) ssrc: u32,
    pub(super) packets: u64,
    pub(super) bytes: u64,
    pub(super) last_sent_at: Option<Timestamp>,
    clock_rate_hz: u32,
    /// Greatest sent.
    sequence: u16,
    /// Greatest sent.
    timestamp: u32,
    /// When `timestamp` was sent first.
    timestamp_sent_at: Option<Timestamp>,
    origin: Option<Origin>,
    sequence_offset: u16,
    /// First sequence number of the present origin: what comes from before it is dropped.
    floor: u16,
    timestamp_offset: Option<u32>,
    behind: u8,
    event: Option<EventStart>,
}

impl Outbound {
    /// `ssrc`, `sequence` and `timestamp` are random (RFC 3550 §5.1).
    pub(super) const fn new(ssrc: u32, sequence: u16, timestamp: u32) -> Self {
        Self {
            ssrc,
            packets: 0,
            bytes: 0,
            last_sent_at: None,
            clock_rate_hz: 8_000,
            sequence,
            timestamp,
            timestamp_sent_at: None,
            origin: None,
            sequence_offset: 0,
            floor: 0,
            timestamp_offset: None,
            behind: 0,
            event: None,
        }
    }

    /// How far the stream is, which began at `since`.
    pub(super) fn last_sent(&self, since: Timestamp) -> LastSent {
        let (sequence, timestamp) = (self.sequence, self.timestamp);
        LastSent { sequence, timestamp, at: self.last_sent_at.unwrap_or(since) }
    }

    /// Counts on, and goes on as the same source if it was heard a short while ago.
    pub(super) fn carry_on(
        &mut self,
        carried: &StreamStatistics,
        sent: Option<LastSent>,
        now: Timestamp,
    ) {
        self.packets = carried.packets_sent;
        self.bytes = carried.bytes_sent;
        let known = carried.sent_ssrc.zip(sent);
        let Some((ssrc, last)) =
            known.filter(|(_, last)| now.saturating_since(last.at) < CARRIED_WITHIN)
        else {
            return;
        };
        self.ssrc = ssrc;
        self.sequence = last.sequence.wrapping_add(CARRIED_PACKETS);
        self.timestamp = last.timestamp;
        self.timestamp_sent_at = Some(last.at);
    }

    /// The clock of the phone's codec.
    pub(super) const fn set_clock(&mut self, clock_rate_hz: u32) {
        self.clock_rate_hz = clock_rate_hz;
    }

    /// The next packet begins a new talkspurt right after what was sent.
    pub(super) const fn interrupt(&mut self) {
        self.origin = None;
        self.timestamp_offset = None;
        self.event = None;
    }

    /// Audio on its way to the phone. `None`: from before the switch.
    #[inline]
    pub(super) fn relay(
        &mut self,
        origin: Origin,
        header: Header,
        now: Timestamp,
    ) -> Option<Header> {
        let (sequence, switched) = self.relay_sequence(origin, header.sequence)?;
        let ahead = sequence_distance(self.sequence, sequence) > 0;
        let mut timestamp = header.timestamp.wrapping_add(self.timestamp_offset.unwrap_or(0));
        let jumped = self.timestamp_offset.is_none() || ahead && self.is_jump(timestamp, now);
        if jumped {
            timestamp = self.timestamp_at(now);
            self.timestamp_offset = Some(timestamp.wrapping_sub(header.timestamp));
        }
        let marker = header.marker || switched || jumped;
        self.advance(sequence, timestamp, now);
        Some(Header { marker, sequence, timestamp, ssrc: self.ssrc, ..header })
    }

    /// What is added to sequence numbers and timestamps of that origin, while it is relayed.
    #[inline]
    pub(super) fn offsets(&self, origin: Origin) -> Option<(u16, u32)> {
        let timestamp = self.timestamp_offset.filter(|_| self.origin == Some(origin))?;
        Some((self.sequence_offset, timestamp))
    }

    /// Greatest sequence number and timestamp sent.
    pub(super) const fn greatest(&self) -> (u16, u32) {
        (self.sequence, self.timestamp)
    }

    /// The kernel passed packets on, the last of which had `sequence` when it came.
    pub(super) const fn go_on(&mut self, sequence: u16, passed: &Passed) {
        self.packets += passed.packets as u64;
        self.bytes += passed.bytes;
        self.last_sent_at = Some(passed.at);
        self.sequence = sequence.wrapping_add(self.sequence_offset);
        if let Some(offset) = self.timestamp_offset {
            self.timestamp = passed.timestamp.wrapping_add(offset);
            self.timestamp_sent_at = Some(passed.at);
        }
        self.behind = 0;
    }

    /// A telephone event between the packets of a relayed stream. `same_clock`: its timestamps are
    /// those of the audio.
    pub(super) fn relay_event(
        &mut self,
        origin: Origin,
        header: Header,
        same_clock: bool,
        now: Timestamp,
    ) -> Option<Header> {
        let (sequence, _) = self.relay_sequence(origin, header.sequence)?;
        let timestamp = if !same_clock {
            self.event_timestamp(header.timestamp, now)
        } else if let Some(offset) = self.timestamp_offset {
            header.timestamp.wrapping_add(offset)
        } else {
            let timestamp = self.timestamp_at(now);
            self.timestamp_offset = Some(timestamp.wrapping_sub(header.timestamp));
            timestamp
        };
        self.advance(sequence, timestamp, now);
        Some(Header { sequence, timestamp, ssrc: self.ssrc, ..header })
    }

    /// A telephone event between packets that we make.
    pub(super) fn insert_event(&mut self, header: Header, now: Timestamp) -> Header {
        let timestamp = self.event_timestamp(header.timestamp, now);
        let made = self.insert(header.payload_type, timestamp, now);
        Header {
            marker: header.marker,
            sequence: made.sequence,
            timestamp,
            ssrc: self.ssrc,
            ..header
        }
    }

    /// A packet that we make; the caller adds marker and payload.
    pub(super) fn insert(&mut self, payload_type: u8, timestamp: u32, now: Timestamp) -> Header {
        // Relayed packets that follow must not repeat our number.
        self.origin = None;
        self.timestamp_offset = None;
        let sequence = self.sequence.wrapping_add(1);
        self.advance(sequence, timestamp, now);
        Header { sequence, timestamp, ssrc: self.ssrc, ..Header::new(payload_type, 0) }
    }

    /// Counts a packet that leaves.
    #[inline]
    pub(super) const fn count(&mut self, payload_bytes: usize, now: Timestamp) {
        self.packets += 1;
        self.bytes += payload_bytes as u64;
        self.last_sent_at = Some(now);
    }

    /// Our timeline at `now`, at least a frame after what was sent.
    pub(super) fn timestamp_at(&self, now: Timestamp) -> u32 {
        let frame = self.clock_rate_hz / 50;
        self.timestamp.wrapping_add(self.elapsed(now).max(frame))
    }

    /// Our timeline at `now` for a sender report.
    pub(super) fn report_timestamp(&self, now: Timestamp) -> u32 {
        self.timestamp.wrapping_add(self.elapsed(now))
    }

    fn elapsed(&self, now: Timestamp) -> u32 {
        let Some(last) = self.timestamp_sent_at else { return 0 };
        clock_units(now.as_micros().saturating_sub(last.as_micros()), self.clock_rate_hz)
    }

    fn event_timestamp(&mut self, received: u32, now: Timestamp) -> u32 {
        match self.event {
            Some(event) if event.received == received => event.sent,
            Some(_) | None => {
                let sent = self.timestamp_at(now);
                self.event = Some(EventStart { received, sent });
                sent
            }
        }
    }

    /// The outgoing sequence number, and whether the origin is new.
    #[inline]
    fn relay_sequence(&mut self, origin: Origin, sequence: u16) -> Option<(u16, bool)> {
        if self.origin != Some(origin) {
            return Some((self.rebase(origin, sequence), true));
        }
        let sent = sequence.wrapping_add(self.sequence_offset);
        let distance = sequence_distance(self.sequence, sent);
        if distance > MAX_JUMP {
            return Some((self.rebase(origin, sequence), true));
        }
        if distance < -MAX_MISORDER || distance < 0 && sequence_distance(self.floor, sent) < 0 {
            self.behind += 1;
            if self.behind < RESTART_PACKETS {
                return None;
            }
            return Some((self.rebase(origin, sequence), true));
        }
        self.behind = 0;
        Some((sent, false))
    }

    fn rebase(&mut self, origin: Origin, sequence: u16) -> u16 {
        let sent = self.sequence.wrapping_add(1);
        self.origin = Some(origin);
        self.sequence_offset = sent.wrapping_sub(sequence);
        self.timestamp_offset = None;
        self.event = None;
        self.floor = sent;
        self.behind = 0;
        sent
    }

    #[inline]
    fn is_jump(&self, timestamp: u32, now: Timestamp) -> bool {
        let distance = timestamp_distance(self.timestamp, timestamp);
        let second = self.clock_rate_hz.cast_signed();
        if (-second..second).contains(&distance) {
            return false;
        }
        let most = self.elapsed(now).saturating_add(self.clock_rate_hz.saturating_mul(MAX_AHEAD_S));
        distance < 0 || distance.unsigned_abs() > most
    }

    #[inline]
    fn advance(&mut self, sequence: u16, timestamp: u32, now: Timestamp) {
        if sequence_distance(self.sequence, sequence) > 0 {
            self.sequence = sequence;
        }
        if timestamp_distance(self.timestamp, timestamp) > 0 {
            self.timestamp = timestamp;
            self.timestamp_sent_at = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Origin = Origin { leg: LegId(1), ssrc: 10 };
    const SECOND: Origin = Origin { leg: LegId(1), ssrc: 11 };

    struct Line {
        outbound: Outbound,
        now: Timestamp,
    }

    impl Line {
        fn new() -> Self {
            Self {
                outbound: Outbound::new(5, 65_530, u32::MAX - 100),
                now: Timestamp::from_millis(1),
            }
        }

        fn relay(
            &mut self,
            origin: Origin,
            sequence: u16,
            timestamp: u32,
        ) -> Option<(u16, u32, bool)> {
            self.now = self.now + core::time::Duration::from_millis(20);
            let header = Header { sequence, timestamp, ssrc: origin.ssrc, ..Header::new(0, 160) };
            let header = self.outbound.relay(origin, header, self.now)?;
            self.outbound.count(160, self.now);
            assert_eq!(header.ssrc, 5);
            Some((header.sequence, header.timestamp, header.marker))
        }
    }

    #[test]
    fn a_switch_of_source_goes_on_where_the_last_one_stopped() {
        let mut line = Line::new();
        let start = u32::MAX - 100;
        let at = |frames: u32| start.wrapping_add(160 * frames);
        assert_eq!(line.relay(FIRST, 100, 7_000), Some((65_531, at(1), true)));
        assert_eq!(line.relay(FIRST, 101, 7_160), Some((65_532, at(2), false)));
        assert_eq!(line.relay(FIRST, 103, 7_480), Some((65_534, at(4), false)), "the gap stays");
        assert_eq!(line.relay(FIRST, 102, 7_320), Some((65_533, at(3), false)), "so does disorder");
        assert_eq!(line.relay(SECOND, 9, 90), Some((65_535, at(6), true)), "a new SSRC");
        assert_eq!(line.relay(SECOND, 8, 0), None, "from before the switch");
        assert_eq!(line.relay(SECOND, 10, 250), Some((0, at(7), false)));
        line.outbound.interrupt();
        assert_eq!(line.relay(SECOND, 500, 80_000), Some((1, at(8), true)), "after hold");
        let made = line.outbound.insert(101, at(9), line.now);
        assert_eq!(made.sequence, 2);
        assert_eq!(line.relay(SECOND, 501, 80_160), Some((3, at(10), true)), "after what we made");
    }

    #[test]
    fn a_source_that_restarts_under_its_ssrc_is_followed() {
        let mut line = Line::new();
        line.relay(FIRST, 100, 7_000);
        let (last, time, _) = line.relay(FIRST, 101, 7_160).expect("in order");
        // Far ahead: at once.
        let (sequence, timestamp, marker) = line.relay(FIRST, 30_000, 900_000_000).expect("ahead");
        assert_eq!(
            (sequence, timestamp, marker),
            (last.wrapping_add(1), time.wrapping_add(160), true)
        );
        // Far behind: not for one straggler, but when it goes on.
        let behind: Vec<_> = (0..4).map(|n| line.relay(FIRST, 20_000 + n, 5).is_some()).collect();
        assert_eq!(behind, [false, false, false, true]);
        // The timestamp alone jumps back.
        let (_, before, _) = line.relay(FIRST, 20_004, 165).expect("in order");
        let (_, after, marker) = line.relay(FIRST, 20_005, 4_000_000_000).expect("in order");
        assert_eq!((after.wrapping_sub(before), marker), (160, true));
    }

    #[test]
    fn all_packets_of_an_event_have_one_timestamp() {
        let mut line = Line::new();
        let (_, audio, _) = line.relay(FIRST, 100, 7_000).expect("audio");
        let event = |sequence| Header { sequence, timestamp: 7_160, ..Header::new(101, 4) };
        let now = line.now;
        for sequence in [101, 102] {
            let sent =
                line.outbound.relay_event(FIRST, event(sequence), true, now).expect("relayed");
            assert_eq!(sent.timestamp, audio.wrapping_add(160));
        }
        let first = line.outbound.relay_event(FIRST, event(103), false, now).expect("relayed");
        line.outbound.count(4, now);
        let later = now + core::time::Duration::from_millis(60);
        let second = line.outbound.relay_event(FIRST, event(104), false, later).expect("relayed");
        assert_eq!(first.timestamp, second.timestamp);
        assert_eq!(second.sequence, first.sequence.wrapping_add(1));
        let inserted = line.outbound.insert_event(event(9), later);
        assert_eq!(inserted.timestamp, first.timestamp, "the same event still");
        assert_eq!(inserted.sequence, second.sequence.wrapping_add(1));
    }
}
