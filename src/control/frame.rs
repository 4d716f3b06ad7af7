//! Frames of a control link: a length (outside), a version and postcard.

use super::hello::{Capacity, Hello};
use super::{PeerFrame, Reply, Report, Request, RtcpPacket};
use crate::encoding::append;
use crate::ids::{NodeName, SessionId};
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Frame {
    /// First frame each way.
    Hello(Hello),
    /// Heartbeat; answered by `Pong` with the same number.
    Ping(u64),
    /// See `Ping`.
    Pong(u64),
    /// Signaling asks; `id` is the asker's.
    Request {
        /// Request id.
        id: u64,
        /// What.
        request: Request,
    },
    /// Media answers.
    Reply {
        /// Of the request.
        id: u64,
        /// What.
        reply: Reply,
    },
    /// Media reports.
    Report(Report),
    /// Signaling has the report and all before it.
    ReportAck {
        /// Which session.
        session: SessionId,
        /// The greatest number.
        number: u64,
    },
    /// Media tells its room.
    Capacity(Capacity),
    /// Between signaling nodes.
    Peer(PeerFrame),
    /// Media has a session that another process of its host gave away.
    Taken {
        /// Which session.
        session: SessionId,
        /// When: of two that say so the later one has it.
        at: Timestamp,
    },
    /// Signaling tells what an operator wishes: give all sessions away and take none, or take them again.
    Drain(bool),
    /// Media tells the host it is on, by the data directory that its processes share.
    Host(String),
    /// Media gave a session to another process of its host, who may not live to say so.
    Passed {
        /// Which session.
        session: SessionId,
        /// Who has it.
        to: NodeName,
        /// When it was last here: less than what `to` says itself.
        at: Timestamp,
    },
    /// Signaling tells what an operator wishes: give this session to that process of the host. Answered by `Passed`.
    Give {
        /// Which session.
        session: SessionId,
        /// To whom.
        to: NodeName,
    },
    /// Media tells the call's owner, as far as it knows it, what RTCP it exchanged with phones. Told once: what is lost
    /// is missing in the call's capture.
    Rtcp {
        /// Of which session.
        session: SessionId,
        /// In the order of time.
        packets: Vec<RtcpPacket>,
    },
}

/// Bytes of most frames.
const ROOM: usize = 512;

/// Why a frame was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Empty, truncated or not ours.
    #[error("malformed control frame")]
    Malformed,
    /// A version that this release does not read.
    #[error("control frame of version {0}, which this release does not read")]
    Version(u16),
}

impl Frame {
    /// The first version that has this frame.
    pub fn since(&self) -> u16 {
        match self {
            Self::Hello(_)
            | Self::Ping(_)
            | Self::Pong(_)
            | Self::Reply { .. }
            | Self::ReportAck { .. }
            | Self::Capacity(_) => 1,
            Self::Request { request, .. } => request.since(),
            Self::Report(report) => report.kind.since(),
            Self::Peer(frame) => frame.since(),
            Self::Taken { .. }
            | Self::Drain(_)
            | Self::Host(_)
            | Self::Passed { .. }
            | Self::Give { .. }
            | Self::Rtcp { .. } => 2,
        }
    }

    /// Version (two bytes, big endian), then postcard.
    pub fn encode(&self, version: u16) -> Vec<u8> {
        let version = version.clamp(super::OLDEST, super::VERSION);
        let mut bytes = Vec::with_capacity(ROOM);
        bytes.extend(version.to_be_bytes());
        append(bytes, self).expect("frames hold nothing that postcard refuses")
    }

    /// Never panics, whatever the bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        let (version, body) = bytes.split_first_chunk::<2>().ok_or(FrameError::Malformed)?;
        let version = u16::from_be_bytes(*version);
        if !(super::OLDEST..=super::VERSION).contains(&version) {
            return Err(FrameError::Version(version));
        }
        postcard::from_bytes(body).map_err(|_| FrameError::Malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_the_wire_and_garbage_is_refused() {
        let frame = Frame::ReportAck { session: SessionId(5), number: 9 };
        let bytes = frame.encode(super::super::VERSION);
        assert_eq!(Frame::decode(&bytes), Ok(frame));
        for end in 0..bytes.len() {
            assert!(Frame::decode(&bytes[..end]).is_err());
        }
        assert_eq!(Frame::decode(&[0, 9, 1]), Err(FrameError::Version(9)));
    }
}
