//! The signaling of one call: as it is kept and passed between nodes, and in the API.

use super::quality::Sounded;
use super::{CallFlag, Rfc3339};
use crate::ids::{LegId, Transport};
use crate::time::Timestamp;
use bytes::Bytes;
use core::net::SocketAddr;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Something said or done in a call, as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// When, by the clock of the node.
    pub at: Timestamp,
    /// Which node wrote it.
    pub node: String,
    /// In the order of that process.
    pub number: u64,
    /// What.
    pub what: What,
}

/// What is read of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// What was said in SIP, and marks.
    Signaling,
    /// RTCP too.
    Everything,
    /// How it sounded, and nothing else.
    Sound,
}

/// What was said or done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum What {
    /// A SIP message.
    Message {
        /// Of this leg.
        leg: LegId,
        /// From the phone; else to it.
        received: bool,
        /// How.
        transport: Transport,
        /// Ours.
        local: SocketAddr,
        /// The phone's.
        remote: SocketAddr,
        /// As it was on the wire, without secrets.
        text: Bytes,
    },
    /// Something that explains what follows.
    Mark(String),
    /// RTCP of its media: in captures only.
    Rtcp {
        /// Of this leg.
        leg: LegId,
        /// From the phone; else to it.
        received: bool,
        /// Ours.
        local: SocketAddr,
        /// The phone's.
        remote: SocketAddr,
        /// A compound packet; of SRTCP what is inside.
        packet: Bytes,
    },
    /// How it sounded until then.
    Sound(Sounded),
}

impl Entry {
    /// By time, and in the order of its process.
    pub fn order(&self) -> (Timestamp, &str, u64) {
        (self.at, &self.node, self.number)
    }

    /// About, when it is written.
    pub const fn bytes(&self) -> usize {
        let text = match &self.what {
            What::Message { text, .. } => text.len(),
            What::Mark(text) => text.len(),
            What::Rtcp { packet, .. } => packet.len(),
            What::Sound(sounded) => sounded.legs.len() * 64,
        };
        text + self.node.len() + 64
    }
}

/// What was said in a call, in the order of time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LadderView {
    /// The CDR's id.
    pub call_id: String,
    /// SIP messages.
    pub messages: Vec<LadderMessage>,
    /// What explains the messages.
    pub marks: Vec<LadderMark>,
    /// What is not as it should be.
    pub flags: Vec<CallFlag>,
    /// There are more than are shown.
    pub truncated: bool,
}

/// A SIP message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LadderMessage {
    /// Its place in the ladder, from 1.
    pub number: u32,
    /// When, by the node's clock.
    pub at: Rfc3339,
    /// The node that had it.
    pub node: String,
    /// Of this leg.
    pub leg: u16,
    /// `received` or `sent`.
    pub direction: LadderDirection,
    /// udp, tcp …
    pub transport: String,
    /// Our address.
    pub local: String,
    /// The phone's.
    pub remote: String,
    /// Of the request, or that is answered.
    pub method: String,
    /// Of a response.
    pub status: Option<u16>,
    /// `INVITE`, `200 OK (INVITE)`.
    pub summary: String,
    /// The same was said before.
    pub retransmission: bool,
    /// As on the wire, without secrets.
    pub text: String,
}

/// Which way a message went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names say it")]
pub enum LadderDirection {
    Received,
    Sent,
}

/// Something that happened between two messages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LadderMark {
    /// When.
    pub at: Rfc3339,
    /// The node that tells it.
    pub node: String,
    /// In words.
    pub text: String,
}
