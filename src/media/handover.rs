//! Sessions pass from a media process that leaves, or is told to give one away, to another one of the host: sockets and
//! state, so that phones notice nothing and no packet is lost (those that come meanwhile wait in the sockets).
//!
//! Each process listens on a unix socket in the shared data directory. One that leaves connects to all others, asks
//! them for their room, and passes its sessions to the freest, one at a time: stop reading, state and sockets over, the
//! heir's word, forget. The heir's word is the commit.
//!
//! Invariants: a session is served by exactly one of the two, wherever the hand-over breaks: the heir reads no packet
//! before its word is in the leaving one's socket, and the leaving one takes a session back only after it shut that
//! socket and found no word in it, or when signaling asks for it after the heir's end. One session is on its way at a
//! time: it is read again before the next one is taken. Words carry the version of this language, states that of their
//! own.

mod heir;
mod leave;

pub(super) use heir::listen;
pub(super) use leave::{give, hand_over};

#[cfg(test)]
mod tests;

use crate::encoding::append;
use crate::ids::{NodeName, SessionId};
use crate::relay::Endpoint;
use crate::time::Timestamp;
use core::net::SocketAddr;
use core::time::Duration;
use serde::{Deserialize, Serialize};
use socket2::{Domain, SockAddr, Socket, Type};
use std::io;
use std::path::PathBuf;

/// Of the words below. A version adds words, and changes none; one release ahead is read as far as it is known.
const VERSION: u16 = 1;
/// Nothing in a hand-over takes longer.
const PATIENCE: Duration = Duration::from_secs(2);

/// One word of a hand-over.
#[derive(Debug, Serialize, Deserialize)]
enum Word {
    /// The heir's first.
    Room(Room),
    /// A session; its sockets are the frame's descriptors.
    Session(Parcel),
    /// The heir has it: it is the heir's from now on.
    Taken(SessionId),
    /// The heir does not want it.
    Refused(SessionId),
}

/// What a process says of itself to one that leaves.
#[derive(Debug, Serialize, Deserialize)]
struct Room {
    name: NodeName,
    /// The last one that it writes: of states it reads the next too.
    snapshot_version: u16,
    draining: bool,
    /// Sessions it has room for.
    sessions: u32,
}

/// A session on its way.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Parcel {
    pub id: SessionId,
    /// `Session::snapshot`.
    pub state: Vec<u8>,
    pub created_at: Timestamp,
    /// How far the session's clock is ahead of the host's monotonic one, in microseconds.
    pub clock: i64,
    /// RTP endpoints with their addresses for SDP and their ports.
    pub pairs: Vec<(Endpoint, SocketAddr, u16)>,
    /// Whose the descriptors are, in their order.
    pub sockets: Vec<Endpoint>,
}

/// Who takes our sessions.
#[derive(Debug)]
pub(super) struct Heir {
    pub name: NodeName,
    path: PathBuf,
}

impl Heir {
    /// Its process is over: nobody listens where it did. Does not wait: one that stands still lives.
    pub fn is_dead(&self) -> bool {
        use io::ErrorKind::{ConnectionRefused, NotFound};
        let connect = || {
            let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
            socket.connect(&SockAddr::unix(&self.path)?)
        };
        connect().is_err_and(|error| matches!(error.kind(), ConnectionRefused | NotFound))
    }
}

impl Word {
    /// Version (two bytes, big endian), then postcard.
    fn encode(&self) -> Vec<u8> {
        let bytes = VERSION.to_be_bytes().to_vec();
        append(bytes, self).expect("words hold nothing that postcard refuses")
    }

    fn decode(bytes: &[u8]) -> io::Result<Self> {
        let malformed = || io::Error::from(io::ErrorKind::InvalidData);
        let (version, body) = bytes.split_first_chunk::<2>().ok_or_else(malformed)?;
        if !(1..=VERSION + 1).contains(&u16::from_be_bytes(*version)) {
            return Err(io::Error::other("it speaks another version of the hand-over"));
        }
        postcard::from_bytes(body).map_err(|_| malformed())
    }
}
