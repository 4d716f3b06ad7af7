//! What a media node answers.

use crate::ids::{Epoch, LegId, Rev, SessionId};
use crate::time::Timestamp;
use core::net::SocketAddr;
use serde::{Deserialize, Serialize};

/// The answer to a request, matched by the frame's request id and by (epoch, rev).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// The session is as wished.
    Applied(SessionState),
    /// Nothing was changed.
    Refused {
        /// Which session.
        session: SessionId,
        /// As asked.
        epoch: Epoch,
        /// As asked.
        rev: Rev,
        /// Why.
        reason: Refusal,
    },
    /// The session is over; its last statistics.
    Released(SessionState),
}

impl Reply {
    /// The session an answer is about, and the request's (epoch, rev).
    pub fn subject(&self) -> (SessionId, Epoch, Rev) {
        match self {
            Self::Applied(state) | Self::Released(state) => (state.session, state.epoch, state.rev),
            Self::Refused { session, epoch, rev, .. } => (*session, *epoch, *rev),
        }
    }
}

/// The greatest sequence number and timestamp sent to a phone, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastSent {
    /// Sequence number.
    pub sequence: u16,
    /// Timestamp.
    pub timestamp: u32,
    /// When.
    pub at: Timestamp,
}

/// Why a request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// Sessions, ports or CPU are used up: try another node.
    Capacity,
    /// The named port is not ours to have.
    PortTaken,
    /// A greater (epoch, rev) was seen: who asks is no longer the owner.
    Stale,
    /// No new sessions here.
    Draining,
    /// The spec makes no sense (unknown leg heard, too many streams).
    Invalid,
}

/// A session as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionState {
    /// Which session.
    pub session: SessionId,
    /// Of the last applied request.
    pub epoch: Epoch,
    /// Of the last applied request.
    pub rev: Rev,
    /// As in the spec.
    pub legs: Vec<LegState>,
}

/// A leg as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LegState {
    /// Which leg.
    pub leg: LegId,
    /// As in the spec.
    pub streams: Vec<StreamState>,
}

/// A stream as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamState {
    /// Position among the leg's anchored streams.
    pub index: u8,
    /// The address for the SDP towards this phone (advertised); RTCP is the next port.
    pub local: SocketAddr,
    /// The port that is bound here; names the stream in a later spec.
    pub port: u16,
    /// Counted since the session began.
    pub statistics: StreamStatistics,
}

/// Counters of one stream. Kept as plain fields on the packet path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamStatistics {
    /// Where packets come from, once latched.
    pub latched: Option<SocketAddr>,
    /// SSRC of the phone.
    pub received_ssrc: Option<u32>,
    /// Accepted packets.
    pub packets_received: u64,
    /// Their payload bytes.
    pub bytes_received: u64,
    /// RFC 3550 appendix A.3: expected less received.
    pub packets_lost: u64,
    /// RFC 3550 appendix A.8, in microseconds.
    pub jitter_us: u32,
    /// Refused: foreign source, not RTP, unknown payload type, failed authentication.
    pub packets_rejected: u64,
    /// When the last one was accepted.
    pub last_packet_at: Option<Timestamp>,
    /// Longest time without an accepted packet while the phone was expected to send.
    pub silence_max_ms: u32,
    /// SSRC that we send to the phone.
    pub sent_ssrc: Option<u32>,
    /// Sent packets.
    pub packets_sent: u64,
    /// Their payload bytes.
    pub bytes_sent: u64,
    /// The phone's own report (RFC 3550 §6.4): lost packets of ours.
    pub reported_lost: Option<u32>,
    /// The same: jitter in microseconds.
    pub reported_jitter_us: Option<u32>,
    /// Round trip from LSR and DLSR.
    pub rtt_us: Option<u32>,
    /// Audio is decoded and encoded again.
    pub transcoding: bool,
}
