//! What a phone sends us, counted (RFC 3550 appendices A.1, A.3, A.8).
//!
//! Invariant: plain fields, no allocation; counters of earlier SSRCs are kept when a new one
//! begins.

use super::losses::Losses;
use super::offload::Passed;
use crate::control::StreamStatistics;
use crate::rtp::Header;
use crate::rtp::rtcp::ReceptionReport;
use crate::rtp::serial::{clock_units, sequence_distance, timestamp_distance};
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};

/// RFC 3550 appendix A.1: a jump of so many packets is a source that restarted.
const MAX_DROPOUT: i16 = 3_000;

/// Counters of one stream.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Reception {
    pub(super) ssrc: Option<u32>,
    pub(super) packets: u64,
    pub(super) bytes: u64,
    pub(super) rejected: u64,
    pub(super) last_packet_at: Option<Timestamp>,
    pub(super) silence_max_ms: u32,
    lost_before: u64,
    base_sequence: u16,
    max_sequence: u16,
    cycles: u32,
    received: u64,
    jitter_16: u32,
    last_transit: Option<u32>,
    clock_rate_hz: u32,
    expected_prior: u64,
    received_prior: u64,
    /// Of the phone's last sender report: the middle of its NTP time, and when it came.
    last_sender_report: Option<(u32, Timestamp)>,
    /// Stands behind the rest in a snapshot.
    #[serde(skip)]
    pub(super) losses: Losses,
}

impl Reception {
    /// Counts on from what another process counted.
    pub(super) fn carry_on(&mut self, carried: &StreamStatistics) {
        self.packets = carried.packets_received;
        self.bytes = carried.bytes_received;
        self.rejected = carried.packets_rejected;
        self.last_packet_at = carried.last_packet_at;
        self.silence_max_ms = carried.silence_max_ms;
        self.lost_before = carried.packets_lost;
    }

    /// Carries the known stream on: what a NAT that rebinds must show.
    pub(super) fn is_continued_by(&self, header: &Header) -> bool {
        let distance = sequence_distance(self.max_sequence, header.sequence);
        self.ssrc == Some(header.ssrc) && (1..MAX_DROPOUT).contains(&distance)
    }

    /// Counts an accepted packet. `clock_rate_hz`: only for packets whose timestamp is their
    /// sampling instant.
    #[inline]
    pub(super) fn count(&mut self, header: &Header, clock_rate_hz: Option<u32>, now: Timestamp) {
        self.packets += 1;
        self.bytes += header.payload_bytes() as u64;
        self.last_packet_at = Some(now);
        let distance = sequence_distance(self.max_sequence, header.sequence);
        if self.ssrc != Some(header.ssrc) || distance.unsigned_abs() >= MAX_DROPOUT.unsigned_abs() {
            self.restart(header);
        } else {
            self.losses.count(distance);
            if distance > 0 {
                if header.sequence < self.max_sequence {
                    self.cycles = self.cycles.wrapping_add(1 << 16);
                }
                self.max_sequence = header.sequence;
            }
        }
        self.received += 1;
        if let Some(rate) = clock_rate_hz {
            self.count_jitter(header.timestamp, rate, now);
        }
    }

    /// Next sequence number, last arrival and jitter (in sixteenths), if packets come one after the other and the last
    /// one that came was that with the greatest `timestamp`.
    #[inline]
    pub(super) fn steady(
        &self,
        clock_rate_hz: u32,
        timestamp: u32,
    ) -> Option<(u16, Timestamp, u32)> {
        let is_steady = self.losses.is_steady() && self.clock_rate_hz == clock_rate_hz;
        let at = self.last_packet_at.filter(|_| is_steady)?;
        let transit = clock_units(at.as_micros(), clock_rate_hz).wrapping_sub(timestamp);
        (self.last_transit == Some(transit))
            .then(|| (self.max_sequence.wrapping_add(1), at, self.jitter_16))
    }

    pub(super) const fn greatest_sequence(&self) -> u16 {
        self.max_sequence
    }

    /// Counts packets of a steady stream that the kernel passed on.
    pub(super) fn go_on(&mut self, passed: &Passed) {
        self.packets += u64::from(passed.packets);
        self.received += u64::from(passed.packets);
        self.bytes += passed.bytes;
        self.last_packet_at = Some(passed.at);
        let cycles = self.cycles.wrapping_add(u32::from(self.max_sequence));
        let extended = cycles.wrapping_add(passed.packets);
        (self.cycles, self.max_sequence) = (extended & 0xffff_0000, extended as u16);
        self.losses.go_on(passed.packets);
        self.jitter_16 = passed.jitter_16;
        let arrival = clock_units(passed.at.as_micros(), self.clock_rate_hz);
        self.last_transit = Some(arrival.wrapping_sub(passed.timestamp));
    }

    fn restart(&mut self, header: &Header) {
        self.lost_before = self.lost();
        self.ssrc = Some(header.ssrc);
        self.base_sequence = header.sequence;
        self.max_sequence = header.sequence;
        self.cycles = 0;
        self.received = 0;
        self.expected_prior = 0;
        self.received_prior = 0;
        self.last_transit = None;
        self.losses.restart();
    }

    /// Appendix A.8.
    fn count_jitter(&mut self, timestamp: u32, rate: u32, now: Timestamp) {
        if self.clock_rate_hz != rate {
            self.clock_rate_hz = rate;
            self.last_transit = None;
            self.jitter_16 = 0;
        }
        let transit = clock_units(now.as_micros(), rate).wrapping_sub(timestamp);
        if let Some(last) = self.last_transit {
            let difference = timestamp_distance(last, transit).unsigned_abs();
            // A phone that jumps in time (hold, DTX restart) is no jitter.
            if difference < rate {
                let decay = (self.jitter_16 + 8) >> 4;
                self.jitter_16 = self.jitter_16.saturating_add(difference).saturating_sub(decay);
            }
        }
        self.last_transit = Some(transit);
    }

    fn expected(&self) -> u64 {
        if self.received == 0 {
            return 0;
        }
        let extended = u64::from(self.cycles) + u64::from(self.max_sequence) + 1;
        extended.saturating_sub(u64::from(self.base_sequence))
    }

    /// Appendix A.3, over all SSRCs; duplicates do not make it negative.
    pub(super) fn lost(&self) -> u64 {
        self.lost_before + self.expected().saturating_sub(self.received)
    }

    /// Interarrival jitter in microseconds.
    pub(super) fn jitter_us(&self) -> u32 {
        let micros = u64::from(self.jitter_16 >> 4) * 1_000_000;
        micros.checked_div(u64::from(self.clock_rate_hz)).unwrap_or(0).min(u32::MAX.into()) as u32
    }

    /// Remembers the phone's sender report.
    pub(super) fn note_sender_report(&mut self, ntp_middle: u32, now: Timestamp) {
        self.last_sender_report = Some((ntp_middle, now));
    }

    /// Our report block (RFC 3550 §6.4.1) since the one before.
    pub(super) fn report(&mut self, now: Timestamp) -> Option<ReceptionReport> {
        let ssrc = self.ssrc?;
        let expected = self.expected();
        let expected_since = expected.saturating_sub(self.expected_prior);
        let received_since = self.received.saturating_sub(self.received_prior);
        self.expected_prior = expected;
        self.received_prior = self.received;
        let lost_since = expected_since.saturating_sub(received_since);
        let fraction = (lost_since << 8).checked_div(expected_since).unwrap_or(0).min(255);
        let (last_sender_report, delay) = self.last_sender_report.map_or((0, 0), |(ntp, at)| {
            let waited = now.saturating_since(at).as_micros().min(u128::from(u32::MAX)) as u64;
            (ntp, clock_units(waited, 65_536))
        });
        Some(ReceptionReport {
            ssrc,
            fraction_lost: fraction as u8,
            total_lost: self.expected().saturating_sub(self.received).min(0x7f_ffff) as u32,
            last_sequence_number: self.cycles.wrapping_add(u32::from(self.max_sequence)),
            jitter: self.jitter_16 >> 4,
            last_sender_report,
            delay,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receive(reception: &mut Reception, ssrc: u32, sequence: u16, at_us: u64, timestamp: u32) {
        let header = Header { ssrc, sequence, timestamp, ..Header::new(0, 160) };
        reception.count(&header, Some(8_000), Timestamp::from_micros(at_us));
    }

    #[test]
    fn loss_survives_the_wrap_duplicates_reordering_and_a_new_ssrc() {
        let mut reception = Reception::default();
        for sequence in [65_533_u16, 65_535, 65_534, 1, 1] {
            receive(&mut reception, 7, sequence, 0, 0);
        }
        // 65533..=1 are five, received five with a duplicate.
        assert_eq!(reception.lost(), 0);
        receive(&mut reception, 7, 6, 0, 0);
        assert_eq!(reception.lost(), 4);
        receive(&mut reception, 8, 30_000, 0, 0);
        receive(&mut reception, 8, 30_002, 0, 0);
        assert_eq!((reception.lost(), reception.packets), (5, 8));
        let report = reception.report(Timestamp::EPOCH).expect("a source is known");
        assert_eq!((report.ssrc, report.total_lost, report.fraction_lost), (8, 1, 85));
        assert_eq!(report.last_sequence_number, 30_002);
        receive(&mut reception, 8, 30_003, 0, 0);
        assert_eq!(reception.report(Timestamp::EPOCH).map(|r| r.fraction_lost), Some(0));
    }

    #[test]
    fn jitter_is_that_of_appendix_a_8() {
        let mut reception = Reception::default();
        for packet in 0..1_000_u32 {
            let late = if packet % 2 == 0 { 0 } else { 10_000 };
            let at = u64::from(packet) * 20_000 + late;
            receive(&mut reception, 7, packet as u16, at, packet * 160);
        }
        // Each packet differs by 10 ms from the one before: the estimate tends to 10 ms.
        assert!((9_000..=10_000).contains(&reception.jitter_us()), "{}", reception.jitter_us());
    }

    #[test]
    fn continuation_is_the_same_ssrc_a_little_ahead() {
        let mut reception = Reception::default();
        receive(&mut reception, 7, 65_535, 0, 0);
        for (ssrc, sequence, expect) in
            [(7, 0, true), (7, 65_535, false), (8, 0, false), (7, 5_000, false)]
        {
            let header = Header { ssrc, sequence, ..Header::new(0, 0) };
            assert_eq!(reception.is_continued_by(&header), expect, "{ssrc} {sequence}");
        }
    }
}
