//! What the kernel may do by itself: pass on the next packet of a stream that only needs another header.
//!
//! Invariants: a flow is offered only while the next packet would change nothing here but counters; whatever is not
//! exactly that packet comes to `handle_packet` as ever; what the kernel passed on is taken in before anything else
//! happens to the session, so nobody can tell who did it.

use super::outbound::Origin;
use super::session::Session;
use super::stream::{Hearing, Stream};
use super::{Channel, Endpoint};
use crate::time::Timestamp;
use core::net::{SocketAddr, SocketAddrV4};

/// How to pass on what comes to a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Where the speaking phone is.
    pub source: SocketAddrV4,
    /// SSRC of its packets.
    pub ssrc: u32,
    /// Their payload type.
    pub payload_type: u8,
    /// Clock of their timestamps.
    pub clock_rate_hz: u32,
    /// From which socket they leave.
    pub from: Endpoint,
    /// Where the listening phone is.
    pub destination: SocketAddrV4,
    /// SSRC that it knows.
    pub new_ssrc: u32,
    /// Payload type that it knows.
    pub new_payload_type: u8,
    /// Added to each sequence number.
    pub sequence_offset: u16,
    /// Added to each timestamp.
    pub timestamp_offset: u32,
}

/// How far a stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Sequence number of the next packet.
    pub next_sequence: u16,
    /// RTP timestamp of the last one.
    pub timestamp: u32,
    /// When that came.
    pub at: Timestamp,
    /// Interarrival jitter (RFC 3550 appendix A.8), in sixteenths of a timestamp unit.
    pub jitter_16: u32,
}

/// What was passed on since it was asked last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passed {
    /// Packets, one after the other.
    pub packets: u32,
    /// Bytes of their payloads.
    pub bytes: u64,
    /// RTP timestamp of the last one.
    pub timestamp: u32,
    /// When that came.
    pub at: Timestamp,
    /// As in `Position`.
    pub jitter_16: u32,
    /// The longest time between two packets, since the kernel began.
    pub pause_ms: u32,
}

impl Session {
    /// How the kernel may pass on what comes to `endpoint` now, and how far that is.
    #[inline]
    pub fn flow(&self, endpoint: Endpoint) -> Option<(Flow, Position)> {
        if self.released {
            return None;
        }
        let speaker = self.streams.iter().find(|stream| stream.endpoint == endpoint)?;
        let [listener] = speaker.listeners[..] else { return None };
        flow(speaker, self.streams.get(listener)?)
    }

    /// The kernel passed on what came to `endpoint`.
    pub fn take_in(&mut self, endpoint: Endpoint, passed: &Passed) {
        let Some(speaker) = self.streams.iter_mut().find(|stream| stream.endpoint == endpoint)
        else {
            return;
        };
        self.changed = true;
        speaker.rtp.was_heard(passed.at);
        if speaker.expected_since.is_some() {
            let longest = &mut speaker.reception.silence_max_ms;
            *longest = passed.pause_ms.max(*longest);
        }
        speaker.reception.go_on(passed);
        let sequence = speaker.reception.greatest_sequence();
        let [listener] = speaker.listeners[..] else { return };
        if let Some(listener) = self.streams.get_mut(listener) {
            listener.outbound.go_on(sequence, passed);
        }
    }
}

fn flow(speaker: &Stream, listener: &Stream) -> Option<(Flow, Position)> {
    let codec = speaker.spec.codec.as_ref()?;
    let is_plain = speaker.guard.is_none()
        && listener.guard.is_none()
        && speaker.spec.from_phone
        && listener.spec.to_phone
        && listener.hearing == Hearing::Relay
        && speaker.digits.deadline().is_none()
        && !listener.digit_sender.is_active()
        && !(speaker.silence_told || speaker.quiet_told);
    let (true, Some(SocketAddr::V4(source)), Some(SocketAddr::V4(destination))) =
        (is_plain, speaker.rtp.pinned(), listener.rtp.destination())
    else {
        return None;
    };
    let ssrc = speaker.reception.ssrc?;
    let origin = Origin { leg: speaker.endpoint.leg, ssrc };
    let (sequence_offset, timestamp_offset) = listener.outbound.offsets(origin)?;
    let (sequence, timestamp) = listener.outbound.greatest();
    let timestamp = timestamp.wrapping_sub(timestamp_offset);
    let (next_sequence, at, jitter_16) =
        speaker.reception.steady(codec.clock_rate_hz, timestamp)?;
    // The last packet that came is the last one that left.
    if sequence.wrapping_add(1) != next_sequence.wrapping_add(sequence_offset) {
        return None;
    }
    let flow = Flow {
        source,
        ssrc,
        payload_type: codec.payload_type_received,
        clock_rate_hz: codec.clock_rate_hz,
        from: Endpoint { channel: Channel::Rtp, ..listener.endpoint },
        destination,
        new_ssrc: listener.outbound.ssrc,
        new_payload_type: listener.spec.codec.as_ref()?.payload_type_sent & 0x7f,
        sequence_offset,
        timestamp_offset,
    };
    Some((flow, Position { next_sequence, timestamp, at, jitter_16 }))
}
