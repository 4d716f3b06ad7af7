//! What a stream does when nothing comes: ticks of made audio, digits, keep-alives (RFC 6263), RTCP
//! (RFC 3550 §6), silence.
//!
//! Invariant: a deadline that a packet moved away is found not due when it comes, so packets need
//! not touch it.

use super::latch::Verdict;
use super::outbox::Outbox;
use super::random::Random;
use super::stream::{COMFORT_NOISE, Stream};
use super::{Output, Refusal};
use crate::control::{ReportKind, RtcpPacket};
use crate::rtp::rtcp::{
    Compound, PeerReport, SenderInfo, ntp_from_unix_micros, ntp_middle, read_reports, round_trip_us,
};
use crate::time::Timestamp;
use bytes::Bytes;
use core::net::SocketAddr;
use core::time::Duration;

/// RFC 6263 §8: Tr.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// A phone that should send and is not heard so long is told of.
const QUIET: Duration = Duration::from_secs(2);
/// RFC 3550 §6.2, halved and jittered as §6.3.1 says: 2.5 to 7.5 s.
const RTCP_LEAST_MS: u64 = 2_500;
const RTCP_SPREAD_MS: u64 = 5_000;

/// The next time to report.
pub(super) fn next_rtcp(now: Timestamp, random: &mut Random) -> Timestamp {
    now + Duration::from_millis(RTCP_LEAST_MS + random.next() % RTCP_SPREAD_MS)
}

impl Stream {
    /// The earliest of the stream's deadlines, and which it is.
    pub(super) fn deadline(&self) -> Option<(Timestamp, &'static str)> {
        let sends = self.rtp.destination().is_some();
        let candidates = [
            (self.tick_at(), "audio frame"),
            (self.digit_sender.deadline(), "digit to send"),
            (self.digits.deadline(), "end of digit lost"),
            (sends.then(|| self.keep_alive_at()), "keep-alive"),
            (sends.then_some(self.rtcp_at), "RTCP"),
            (self.silence_at(), "silence"),
            (self.quiet_at(), "quiet"),
        ];
        let due = candidates.into_iter().filter_map(|(at, why)| Some((at?, why)));
        due.min_by_key(|(at, _)| *at)
    }

    pub(super) fn tick_at(&self) -> Option<Timestamp> {
        self.playout.as_ref().and_then(super::playout::Playout::deadline)
    }

    fn keep_alive_at(&self) -> Timestamp {
        self.outbound.last_sent_at.unwrap_or_default().max(self.keep_alive_since) + KEEP_ALIVE
    }

    /// When the phone's silence is told.
    pub(super) fn silence_at(&self) -> Option<Timestamp> {
        if self.silence_told || self.spec.rtp_timeout_ms == 0 {
            return None;
        }
        let timeout = Duration::from_millis(self.spec.rtp_timeout_ms.into());
        self.silent_since().map(|since| since + timeout)
    }

    /// When it is told that the phone, which should send, is not heard: long before that ends the call.
    pub(super) fn quiet_at(&self) -> Option<Timestamp> {
        self.silent_since().filter(|_| !self.quiet_told).map(|since| since + QUIET)
    }

    /// Since when the phone is not heard, though it should send.
    #[inline]
    pub(super) fn silent_since(&self) -> Option<Timestamp> {
        let expected = self.expected_since?;
        Some(self.reception.last_packet_at.map_or(expected, |last| last.max(expected)))
    }

    /// Does all that is due. True: the phone is not heard any more, which is to be told at once.
    pub(super) fn handle_timeout(
        &mut self,
        cname: &str,
        random: &mut Random,
        outbox: &mut Outbox,
        now: Timestamp,
    ) -> bool {
        self.send_due_audio(outbox, now);
        if let Some(dialled) = self.digits.handle_timeout(now) {
            let (leg, digit) = (self.endpoint.leg, dialled.digit);
            outbox.report(ReportKind::Digit { leg, digit, duration_ms: dialled.duration_ms });
        }
        if self.keep_alive_at() <= now {
            self.keep_alive_since = now;
            let packet = self.keep_alive(now);
            if let Some(output) = self.made(packet, now) {
                outbox.push(output);
            }
        }
        if self.rtcp_at <= now {
            self.rtcp_at = next_rtcp(now, random);
            self.report_by_rtcp(cname, false, outbox, now);
        }
        if self.silence_at().is_some_and(|at| at <= now) {
            self.silence_told = true;
            let (leg, silent_ms) = (self.endpoint.leg, self.silent_ms(now));
            outbox.report(ReportKind::Silence { leg, silent_ms });
        }
        let is_quiet = self.quiet_at().is_some_and(|at| at <= now);
        self.quiet_told |= is_quiet;
        is_quiet
    }

    fn send_due_audio(&mut self, outbox: &mut Outbox, now: Timestamp) {
        let events = self.spec.telephone_event;
        while self.digit_sender.deadline().is_some_and(|due| due <= now) {
            let packet = self.digit_sender.handle_timeout(events, &mut self.outbound, now);
            if let Some(output) = packet.and_then(|packet| self.made(packet, now)) {
                outbox.push(output);
            }
        }
        while self.tick_at().is_some_and(|due| due <= now) {
            let mute = self.digit_sender.is_active() || !self.spec.to_phone;
            let Some(playout) = &mut self.playout else { break };
            let packet = playout.handle_timeout(&mut self.outbound, mute, now);
            if let Some(output) = packet.and_then(|packet| self.made(packet, now)) {
                outbox.push(output);
            }
        }
    }

    /// RFC 6263 §4.1 (comfort noise, where the phone takes it) or §4.6 (an empty packet of an
    /// unused payload type).
    fn keep_alive(&mut self, now: Timestamp) -> Vec<u8> {
        let timestamp = self.outbound.timestamp_at(now);
        let spec = &self.spec;
        let is_narrow = spec.codec.as_ref().is_some_and(|codec| codec.clock_rate_hz == 8_000);
        if spec.comfort_noise && is_narrow {
            // The quietest noise there is (RFC 3389 §3.1).
            return self.outbound.insert(COMFORT_NOISE, timestamp, now).with_payload(&[127]);
        }
        let used = |payload_type: &u8| {
            spec.codec.as_ref().is_some_and(|codec| codec.payload_type_sent == *payload_type)
                || spec.telephone_event.is_some_and(|e| e.payload_type_sent == *payload_type)
                || spec.passed.iter().any(|(_, sent)| sent == payload_type)
        };
        let unused = (96..=127).rev().find(|payload_type| !used(payload_type)).unwrap_or(127);
        self.outbound.insert(unused, timestamp, now).with_payload(&[])
    }

    /// Our report about and to the phone; BYE at the end.
    pub(super) fn report_by_rtcp(
        &mut self,
        cname: &str,
        goodbye: bool,
        outbox: &mut Outbox,
        now: Timestamp,
    ) {
        if self.outbound.packets == 0 && self.reception.packets == 0 {
            return;
        }
        let Some(to) = self.rtcp_destination() else { return };
        let has_sent = self.outbound.packets > self.rtcp_packets_sent;
        self.rtcp_packets_sent = self.outbound.packets;
        let compound = Compound {
            ssrc: self.outbound.ssrc,
            cname,
            ntp: ntp_from_unix_micros(now.as_micros()),
            sender: has_sent.then(|| SenderInfo {
                rtp_timestamp: self.outbound.report_timestamp(now),
                packets: self.outbound.packets,
                bytes: self.outbound.bytes,
            }),
            reception: self.reception.report(now),
            goodbye,
        };
        let report = compound.emit();
        let exchanged = self.exchanged(to, false, &report, now);
        let sealed = match &mut self.guard {
            Some(guard) => guard.seal_rtcp(report),
            None => Some(report),
        };
        let Some(packet) = sealed else { return };
        outbox.push(Output::Send { from: self.rtcp_endpoint(), to, packet });
        outbox.push(exchanged);
    }

    fn exchanged(&self, remote: SocketAddr, received: bool, plain: &[u8], at: Timestamp) -> Output {
        // Pairs are of an even port and the next one.
        let local = SocketAddr::new(self.local.ip(), self.local.port().saturating_add(1));
        let bytes = Bytes::copy_from_slice(plain);
        Output::Exchanged(RtcpPacket { leg: self.endpoint.leg, at, received, local, remote, bytes })
    }

    /// Where RTCP comes from, else the neighbour of where RTP comes from, if that is not where it
    /// was signalled.
    fn rtcp_destination(&self) -> Option<SocketAddr> {
        let signalled = self.spec.remote.as_ref()?;
        let rtp = self.rtp.destination()?;
        if rtp == signalled.rtp || self.rtcp.latched().is_some() {
            return self.rtcp.destination();
        }
        Some(SocketAddr::new(rtp.ip(), rtp.port().checked_add(1)?))
    }

    /// A datagram on the RTCP port.
    pub(super) fn accept_rtcp(
        &mut self,
        source: SocketAddr,
        datagram: &mut [u8],
        outbox: &mut Outbox,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let reports = self.judge_rtcp(source, datagram, outbox, now);
        let reports = reports.inspect_err(|_| self.reception.rejected += 1)?;
        let arrival = ntp_from_unix_micros(now.as_micros());
        for report in reports {
            if let Some((ntp, _)) = report.sender {
                self.reception.note_sender_report(ntp_middle(ntp), now);
            }
            for reception in report.receptions {
                self.note_peer_reception(&reception, arrival);
            }
        }
        Ok(())
    }

    fn judge_rtcp(
        &mut self,
        source: SocketAddr,
        datagram: &mut [u8],
        outbox: &mut Outbox,
        now: Timestamp,
    ) -> Result<Vec<PeerReport>, Refusal> {
        let length = match &mut self.guard {
            Some(guard) => guard.open_rtcp(datagram).ok_or(Refusal::Srtp)?,
            None => datagram.len(),
        };
        let reports = datagram.get(..length).and_then(read_reports).ok_or(Refusal::NotRtp)?;
        let (known, authentic) = (self.reception.ssrc, self.guard.is_some());
        let of_stream = |ssrc: u32| authentic || known == Some(ssrc);
        let continues = || reports.iter().any(|report| of_stream(report.ssrc));
        let verdict = self.rtcp.judge(source, now, continues);
        if verdict == Verdict::Rejected {
            return Err(Refusal::Source);
        }
        if verdict != Verdict::Accepted {
            let rebound = verdict == Verdict::Rebound;
            let endpoint = self.rtcp_endpoint();
            outbox.push(Output::Pin { endpoint, source: Some(source), rebound });
        }
        if let Some(plain) = datagram.get(..length) {
            outbox.push(self.exchanged(source, true, plain, now));
        }
        Ok(reports)
    }

    fn note_peer_reception(&mut self, block: &crate::rtp::rtcp::ReceptionReport, arrival: u64) {
        if block.ssrc != self.outbound.ssrc {
            return;
        }
        let clock = self.spec.codec.as_ref().map_or(8_000, |codec| codec.clock_rate_hz.max(1));
        let jitter_us = u64::from(block.jitter) * 1_000_000 / u64::from(clock);
        // A negative count (duplicates) is 24 bits of two's complement.
        self.quality.lost = Some(if block.total_lost > 0x7f_ffff { 0 } else { block.total_lost });
        self.quality.jitter_us = Some(u32::try_from(jitter_us).unwrap_or(u32::MAX));
        let round_trip = round_trip_us(arrival, block.last_sender_report, block.delay);
        self.quality.round_trip_us = round_trip.or(self.quality.round_trip_us);
        if let Some(playout) = &mut self.playout {
            let percent = u32::from(block.fraction_lost) * 100 / 256;
            playout.expect_loss(percent as u8);
        }
    }
}
