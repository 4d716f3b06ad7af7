//! One audio stream of a leg: what comes from a phone is judged and counted, what goes to it is
//! rewritten.
//!
//! Invariants: per packet nothing is allocated, locked or logged; whatever the phone sends, nothing
//! panics.

use super::digit_sender::DigitSender;
use super::digits::DigitWatch;
use super::guard::Guard;
use super::latch::{Latch, Verdict};
use super::outbound::{Origin, Outbound};
use super::playout::Playout;
use super::random::Random;
use super::reception::Reception;
use super::{Channel, Endpoint, Forward, Refusal};
use crate::control::{Carried, Codec, Missed, StreamSpec, StreamState, StreamStatistics};
use crate::rtp::telephone_event::PAYLOAD_BYTES;
use crate::rtp::{EventPayload, Header};
use crate::time::Timestamp;
use core::net::SocketAddr;
use serde::{Deserialize, Serialize};

/// RFC 3389.
pub(super) const COMFORT_NOISE: u8 = 13;
const PAYLOAD_TYPES: usize = 128;
/// Who was not heard for less is not told of.
const NOTABLE_MS: u32 = 1_000;

/// What a payload type of the phone means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Received {
    Unknown,
    Audio,
    Event,
    ComfortNoise,
    /// Sent on under this payload type.
    Passed(u8),
}

/// How the phone is made to hear what it shall.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Hearing {
    Nothing,
    /// In place.
    Relay,
    /// In place, to where it came from.
    Echo,
    /// Through `playout`.
    Made,
}

/// A packet that another stream (or this one) accepted, on its way to a listener.
#[derive(Clone, Copy, Debug)]
pub(super) struct Heard {
    pub(super) origin: Origin,
    pub(super) received: Received,
    pub(super) header: Header,
    /// Of the speaking phone's events.
    pub(super) event_clock_hz: u32,
}

/// What became of a packet from the phone.
#[derive(Clone, Copy, Debug)]
pub(super) struct Accepted {
    pub(super) received: Received,
    pub(super) header: Header,
    /// Of the packet, opened.
    pub(super) length: usize,
    pub(super) pinned: Option<Pinned>,
}

/// The phone's address is known for sure from now on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pinned {
    pub(super) rebound: bool,
}

/// What the phone says about what it receives.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct PeerQuality {
    pub(super) lost: Option<u32>,
    pub(super) jitter_us: Option<u32>,
    pub(super) round_trip_us: Option<u32>,
}

/// See the module.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Stream {
    pub(super) endpoint: Endpoint,
    pub(super) spec: StreamSpec,
    pub(super) local: SocketAddr,
    pub(super) port: u16,
    /// Follows from the spec.
    #[serde(skip, default = "nothing_known")]
    received: [Received; PAYLOAD_TYPES],
    /// `None`: plain RTP.
    pub(super) guard: Option<Box<Guard>>,
    pub(super) rtp: Latch,
    pub(super) rtcp: Latch,
    pub(super) reception: Reception,
    pub(super) outbound: Outbound,
    pub(super) digits: DigitWatch,
    pub(super) digit_sender: DigitSender,
    pub(super) playout: Option<Playout>,
    pub(super) hearing: Hearing,
    /// Positions of the streams that hear this one.
    pub(super) listeners: Vec<usize>,
    pub(super) quality: PeerQuality,
    /// Since when the phone should send.
    pub(super) expected_since: Option<Timestamp>,
    pub(super) silence_told: bool,
    /// It was told at once that nothing comes any more.
    pub(super) quiet_told: bool,
    pub(super) keep_alive_since: Timestamp,
    pub(super) rtcp_at: Timestamp,
    pub(super) rtcp_packets_sent: u64,
}

const fn nothing_known() -> [Received; PAYLOAD_TYPES] {
    [Received::Unknown; PAYLOAD_TYPES]
}

impl Stream {
    pub(super) fn new(
        endpoint: Endpoint,
        spec: StreamSpec,
        local: (SocketAddr, u16),
        random: &mut Random,
        now: Timestamp,
    ) -> Self {
        let [ssrc, sequence, timestamp] = [random.next(), random.next(), random.next()];
        // RFC 3711 §3.3.1: far from the wrap, so that no phone takes the first packets for those after it.
        let sequence = sequence as u16 & 0x7fff;
        Self {
            endpoint,
            spec,
            local: local.0,
            port: local.1,
            received: nothing_known(),
            guard: None,
            rtp: Latch::default(),
            rtcp: Latch::default(),
            reception: Reception::default(),
            outbound: Outbound::new(ssrc as u32, sequence, timestamp as u32),
            digits: DigitWatch::default(),
            digit_sender: DigitSender::default(),
            playout: None,
            hearing: Hearing::Nothing,
            listeners: Vec::new(),
            quality: PeerQuality::default(),
            expected_since: None,
            silence_told: false,
            quiet_told: false,
            keep_alive_since: now,
            rtcp_at: super::timers::next_rtcp(now, random),
            rtcp_packets_sent: 0,
        }
    }

    /// Goes on where another process stopped, as far as it was told. What it sent since then is not known: sequence
    /// number and timestamp jump over it. After a longer time a new source is what phones expect.
    pub(super) fn carry_on(&mut self, carried: &Carried, now: Timestamp) {
        let Carried { statistics: carried, sent, .. } = carried;
        self.reception.carry_on(carried);
        self.quality = PeerQuality {
            lost: carried.reported_lost,
            jitter_us: carried.reported_jitter_us,
            round_trip_us: carried.rtt_us,
        };
        // Under SRTP the same source would need its roll-over counter too: a new source begins at 0.
        let sent = sent.filter(|_| self.guard.is_none());
        self.outbound.carry_on(carried, sent, now);
        if let Some(source) = carried.latched {
            self.rtp.expect(source, now);
        }
    }

    /// Payload types of the phone, from the spec.
    pub(super) fn learn_payload_types(&mut self) {
        self.received = nothing_known();
        let mut set = |payload_type: u8, meaning| {
            if let Some(entry) = self.received.get_mut(usize::from(payload_type)) {
                *entry = meaning;
            }
        };
        for (received, sent) in &self.spec.passed {
            set(*received, Received::Passed(*sent & 0x7f));
        }
        if self.spec.comfort_noise {
            set(COMFORT_NOISE, Received::ComfortNoise);
        }
        if let Some(events) = self.spec.telephone_event {
            set(events.payload_type_received, Received::Event);
        }
        if let Some(codec) = &self.spec.codec {
            set(codec.payload_type_received, Received::Audio);
        }
    }

    /// SRTP, from the spec.
    pub(super) fn secure(&mut self) {
        match (&self.spec.srtp, &mut self.guard) {
            (Some(keys), Some(guard)) => guard.rekey(keys),
            (Some(keys), guard) => *guard = Some(Box::new(Guard::new(keys))),
            (None, guard) => *guard = None,
        }
    }

    /// The clock of the phone's events.
    pub(super) fn event_clock_hz(&self) -> u32 {
        self.spec.telephone_event.map_or(8_000, |events| events.clock_rate_hz)
    }

    /// Opens, judges and counts a packet that came from `source`.
    #[inline]
    pub(super) fn accept(
        &mut self,
        source: SocketAddr,
        packet: &mut [u8],
        now: Timestamp,
    ) -> Result<Accepted, Refusal> {
        let accepted = self.judge(source, packet, now);
        if accepted.is_err() {
            self.reception.rejected += 1;
        }
        accepted
    }

    fn judge(
        &mut self,
        source: SocketAddr,
        packet: &mut [u8],
        now: Timestamp,
    ) -> Result<Accepted, Refusal> {
        let length = match &mut self.guard {
            Some(guard) => guard.open_rtp(packet).ok_or(Refusal::Srtp)?,
            None => packet.len(),
        };
        let header = packet.get(..length).and_then(Header::parse).ok_or(Refusal::NotRtp)?;
        let received = self.received.get(usize::from(header.payload_type));
        let received = *received.ok_or(Refusal::PayloadType)?;
        // Before the phone's description nothing is known about its payload types.
        if received == Received::Unknown && self.spec.codec.is_some() {
            return Err(Refusal::PayloadType);
        }
        let (reception, authentic) = (&self.reception, self.guard.is_some());
        let continues = || authentic || reception.is_continued_by(&header);
        let pinned = match self.rtp.judge(source, now, continues) {
            Verdict::Rejected => return Err(Refusal::Source),
            Verdict::Accepted => None,
            Verdict::Pinned => Some(Pinned { rebound: false }),
            Verdict::Rebound => Some(Pinned { rebound: true }),
        };
        let clock = match (&self.spec.codec, received) {
            (Some(codec), Received::Audio) => Some(codec.clock_rate_hz),
            _ => None,
        };
        self.reception.silence_max_ms = self.longest_silence_ms(now);
        self.reception.count(&header, clock, now);
        Ok(Accepted { received, header, length, pinned })
    }

    /// For how long the phone is not heard now, though it should send.
    #[inline]
    pub(super) fn silent_ms(&self, now: Timestamp) -> u32 {
        let silent = self.silent_since().map(|since| now.saturating_since(since).as_millis());
        silent.map_or(0, |silent| u32::try_from(silent).unwrap_or(u32::MAX))
    }

    /// The longest silence up to now, the one that lasts among them.
    #[inline]
    fn longest_silence_ms(&self, now: Timestamp) -> u32 {
        self.reception.silence_max_ms.max(self.silent_ms(now))
    }

    /// The phone need not send any more.
    pub(super) fn expect_nothing(&mut self, now: Timestamp) {
        self.reception.silence_max_ms = self.longest_silence_ms(now);
        self.expected_since = None;
    }

    /// What the phone shall hear, the first `length` bytes of `buffer`: rewritten in place to be
    /// sent to it, or kept for `playout` (`None`).
    #[inline]
    pub(super) fn hear(
        &mut self,
        heard: Heard,
        buffer: &mut [u8],
        length: usize,
        now: Timestamp,
    ) -> Option<Forward> {
        if !self.spec.to_phone {
            return None;
        }
        let packet = buffer.get_mut(..length)?;
        let to = self.rtp.destination()?;
        let header = match (self.hearing, heard.received) {
            (Hearing::Nothing, _) | (_, Received::Unknown) => None,
            (Hearing::Made, Received::Audio) => {
                let payload = packet.get(heard.header.payload())?;
                let playout = self.playout.as_mut()?;
                playout.push(heard.origin, &heard.header, payload, now);
                None
            }
            // Whoever sends digits for us takes the place of the audio.
            _ if self.digit_sender.is_active() => None,
            (Hearing::Relay | Hearing::Echo, Received::Audio) => {
                let payload_type = self.spec.codec.as_ref()?.payload_type_sent;
                let header = Header { payload_type, ..heard.header };
                self.outbound.relay(heard.origin, header, now)
            }
            (Hearing::Echo, Received::Event) => None,
            (_, Received::Event) => self.hear_event(heard, packet, now),
            (_, Received::ComfortNoise) if !self.spec.comfort_noise => None,
            (Hearing::Relay | Hearing::Echo, Received::ComfortNoise) => {
                self.outbound.relay(heard.origin, heard.header, now)
            }
            (Hearing::Relay | Hearing::Echo, Received::Passed(payload_type)) => {
                let header = Header { payload_type, ..heard.header };
                self.outbound.relay(heard.origin, header, now)
            }
            // Its clock is that of another codec.
            (Hearing::Made, Received::ComfortNoise | Received::Passed(_)) => None,
        }?;
        header.rewrite(packet);
        let length = match &mut self.guard {
            Some(guard) => guard.protect_rtp(buffer, length)?,
            None => length,
        };
        self.outbound.count(header.payload_bytes(), now);
        Some(Forward { from: self.endpoint, to, length })
    }

    fn hear_event(&mut self, heard: Heard, packet: &mut [u8], now: Timestamp) -> Option<Header> {
        let events = self.spec.telephone_event?;
        let same_clock = events.clock_rate_hz == heard.event_clock_hz;
        let header = Header { payload_type: events.payload_type_sent, ..heard.header };
        if !same_clock {
            let bytes = packet.get_mut(header.payload())?.get_mut(..PAYLOAD_BYTES)?;
            let mut payload = EventPayload::parse(bytes)?;
            let [from_hz, to_hz] = [heard.event_clock_hz, events.clock_rate_hz];
            payload.duration = EventPayload::rescale_duration(payload.duration, from_hz, to_hz);
            bytes.copy_from_slice(&payload.emit());
        }
        if self.hearing == Hearing::Made {
            return Some(self.outbound.insert_event(header, now));
        }
        self.outbound.relay_event(heard.origin, header, same_clock, now)
    }

    /// Sends `packet` of our own making, if there is a whereto.
    pub(super) fn made(&mut self, packet: Vec<u8>, now: Timestamp) -> Option<super::Output> {
        let to = self.rtp.destination()?;
        let payload_bytes = packet.len().saturating_sub(crate::rtp::header::FIXED_BYTES);
        let packet = match &mut self.guard {
            Some(guard) => guard.seal_rtp(packet)?,
            None => packet,
        };
        self.outbound.count(payload_bytes, now);
        Some(super::Output::Send { from: self.endpoint, to, packet })
    }

    /// The RTCP socket beside ours.
    pub(super) const fn rtcp_endpoint(&self) -> Endpoint {
        Endpoint { channel: Channel::Rtcp, ..self.endpoint }
    }

    /// Some stream is decoded for this one.
    pub(super) fn is_transcoding(&self) -> bool {
        self.playout.as_ref().is_some_and(Playout::is_transcoder)
    }

    /// What did not come from the phone, if there is something to tell.
    pub(super) fn missed(&self, now: Timestamp) -> Option<Missed> {
        let silent_ms = self.silent_ms(now);
        let missed = Missed {
            leg: self.endpoint.leg,
            stream: self.endpoint.stream,
            silent_ms: if silent_ms >= NOTABLE_MS { silent_ms } else { 0 },
            bursts: self.reception.losses.bursts(),
        };
        (missed.silent_ms > 0 || missed.bursts.runs > 0).then_some(missed)
    }

    pub(super) fn state(&self, now: Timestamp) -> StreamState {
        let reception = &self.reception;
        StreamState {
            index: self.endpoint.stream,
            local: self.local,
            port: self.port,
            statistics: StreamStatistics {
                latched: self.rtp.latched(),
                received_ssrc: reception.ssrc,
                packets_received: reception.packets,
                bytes_received: reception.bytes,
                packets_lost: reception.lost(),
                jitter_us: reception.jitter_us(),
                packets_rejected: reception.rejected,
                last_packet_at: reception.last_packet_at,
                silence_max_ms: self.longest_silence_ms(now),
                sent_ssrc: Some(self.outbound.ssrc),
                packets_sent: self.outbound.packets,
                bytes_sent: self.outbound.bytes,
                reported_lost: self.quality.lost,
                reported_jitter_us: self.quality.jitter_us,
                rtt_us: self.quality.round_trip_us,
                transcoding: self.is_transcoding(),
            },
        }
    }
}

/// Packets of one can be sent as those of the other.
pub(super) fn is_same_codec(one: &Codec, other: &Codec) -> bool {
    one.encoding.eq_ignore_ascii_case(&other.encoding)
        && one.clock_rate_hz == other.clock_rate_hz
        && one.channels.max(1) == other.channels.max(1)
}
