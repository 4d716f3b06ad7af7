//! What a media node says unasked.

use super::reply::{LastSent, SessionState};
use super::request::RollOver;
use crate::ids::{LegId, SessionId};
use crate::time::Timestamp;
use bytes::Bytes;
use core::net::SocketAddr;
use serde::{Deserialize, Serialize};

/// Numbered per session; kept until acknowledged where `ReportKind::is_kept`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Which session.
    pub session: SessionId,
    /// Rises by one per report of the session, and begins with the time: a session that was begun anew counts on.
    pub number: u64,
    /// What happened.
    pub kind: ReportKind,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReportKind {
    /// Present state: latched addresses, counters. A later one replaces it.
    State(SessionState),
    /// A digit was dialled (once per event, at its end).
    Digit {
        /// By whom.
        leg: LegId,
        /// RFC 4733 event 0-15 as `0-9*#A-D`.
        digit: char,
        /// As the phone said it.
        duration_ms: u32,
    },
    /// No RTP from a leg that should send, for its `rtp_timeout_ms`. Sent once until RTP comes again.
    Silence {
        /// Whose.
        leg: LegId,
        /// How long.
        silent_ms: u32,
    },
    /// The node ended the session by itself.
    Ended(SessionState),
    /// Since version 2: a phone's sequence numbers under SRTP wrapped. A later one replaces it.
    RolledOver {
        /// Whose.
        leg: LegId,
        /// On which stream.
        stream: u8,
        /// For a node that has the stream after us.
        roll_over: RollOver,
    },
    /// Since version 2: how far what is sent is, by leg and stream; told beside `State`.
    Sent(Vec<(LegId, u8, LastSent)>),
    /// Since version 2: what did not come from phones; told behind `State` where there is something to tell.
    Missed(Vec<Missed>),
}

/// What did not come from a phone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missed {
    /// Whose.
    pub leg: LegId,
    /// On which stream.
    pub stream: u8,
    /// It should send, and was not heard for so long.
    pub silent_ms: u32,
    /// Packets that were lost near each other.
    pub bursts: Bursts,
}

/// Lost packets that had not 16 between them that came (RFC 3611 §4.7.2), since the session began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bursts {
    /// How many bursts.
    pub count: u32,
    /// From the first lost packet of each to its last one.
    pub packets: u32,
    /// Those of them that were lost.
    pub lost: u32,
    /// Lost packets that follow each other count as one here, those outside of bursts too.
    pub runs: u32,
}

impl ReportKind {
    /// The first version that has it.
    pub const fn since(&self) -> u16 {
        match self {
            Self::State(_) | Self::Digit { .. } | Self::Silence { .. } | Self::Ended(_) => 1,
            Self::RolledOver { .. } | Self::Sent(_) | Self::Missed(_) => 2,
        }
    }

    /// Kept until acknowledged, for a new owner too; states collapse to the latest.
    pub const fn is_kept(&self) -> bool {
        matches!(self, Self::Digit { .. } | Self::Ended(_) | Self::Silence { .. })
    }
}

/// A compound packet of RTCP, as it came from a phone or left to it; of SRTCP what is inside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RtcpPacket {
    /// Whose phone's.
    pub leg: LegId,
    /// When.
    pub at: Timestamp,
    /// From the phone; else to it.
    pub received: bool,
    /// Ours.
    pub local: SocketAddr,
    /// The phone's.
    pub remote: SocketAddr,
    /// RFC 3550 §6.
    pub bytes: Bytes,
}
