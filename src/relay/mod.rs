//! One media session: latch, rewrite, transcode, telephone events, quality (RFC 3550, 3551, 4733,
//! 6263, 7587). Sans-io.
//!
//! The per-packet path returns by value: no queue, lock, allocation or log per packet. Timer work
//! (transcoding, tones, keep-alives, RTCP, time-outs) leaves through `poll_output`.
//!
//! Invariants: a stream speaks to the phone with one SSRC whose sequence and timestamp only go
//! forward, whatever is heard behind it; a source that is not the latched one is counted and
//! dropped; nothing here opens a port.

mod apply;
mod digit_sender;
mod digits;
mod guard;
mod jitter_buffer;
mod latch;
mod losses;
mod offload;
mod outbound;
mod outbox;
mod playout;
mod random;
mod reception;
mod released;
mod session;
mod snapshot;
mod stream;
mod timers;

#[cfg(test)]
mod tests;

use crate::control::{Report, RtcpPacket};
use crate::ids::LegId;
use core::net::SocketAddr;
use serde::{Deserialize, Serialize};

/// Names a socket of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Endpoint {
    /// Leg.
    pub leg: LegId,
    /// Stream of the leg.
    pub stream: u8,
    /// RTP or RTCP.
    pub channel: Channel,
}

/// Which of a stream's two ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Channel {
    /// Even port.
    Rtp,
    /// The next one.
    Rtcp,
}

/// The packet in the buffer, rewritten in place, is to be sent so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forward {
    /// From this socket.
    pub from: Endpoint,
    /// To this address.
    pub to: SocketAddr,
    /// The first `length` bytes of the buffer.
    pub length: usize,
}

/// Why a packet was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No RTP, no RTCP.
    NotRtp,
    /// Of a payload type that was not agreed on.
    PayloadType,
    /// Not authentic, or come before.
    Srtp,
    /// Not from where the phone is.
    Source,
}

/// What `poll_output` gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send a packet that the session made.
    Send {
        /// From this socket.
        from: Endpoint,
        /// To this address.
        to: SocketAddr,
        /// The packet.
        packet: Vec<u8>,
    },
    /// The stream's source is known for sure: `connect` its socket to it; `None`: disconnect (the
    /// window reopened).
    Pin {
        /// Which socket.
        endpoint: Endpoint,
        /// To whom.
        source: Option<SocketAddr>,
        /// In mid-stream: its NAT gave it another address.
        rebound: bool,
    },
    /// RTCP came from a phone or leaves to it.
    Exchanged(RtcpPacket),
    /// A report that was kept for signaling gave way to later ones.
    Lost,
    /// Tell signaling.
    Report(Report),
}

pub use offload::{Flow, Passed, Position};
pub use released::Released;
pub use session::Session;
pub use snapshot::{SNAPSHOT_VERSION, snapshot_is_read};
