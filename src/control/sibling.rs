//! What signaling processes of one host tell each other beside their descriptors, so that each one's sockets and
//! connections have an heir that reads on (design §4 "Shared port").

use crate::ids::{ConnectionId, Flow, Incarnation, NodeName};
use core::net::SocketAddr;
use serde::{Deserialize, Serialize};

/// Version of these frames.
pub const VERSION: u16 = 1;

/// From a process to its heir. Enums are append-only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToHeir {
    /// Comes first, with a descriptor for each address: UDP sockets, then listeners.
    Hello {
        /// `VERSION` of the sender.
        version: u16,
        /// Who it is.
        node: NodeName,
        /// Which start of it.
        incarnation: Incarnation,
        /// Bound UDP sockets.
        udp: Vec<SocketAddr>,
        /// Listeners.
        tcp: Vec<SocketAddr>,
    },
    /// Connections that it has, with a descriptor each.
    Opened(Vec<Flow>),
    /// It has these no more.
    Closed(Vec<ConnectionId>),
    /// It lives.
    Beat,
    /// It reads nothing any more: the heir does. Answered by `Taken`.
    Leave,
    /// It was silent, or had left: it wants to read again. Answered by `Yours`.
    Back,
}

/// From an heir.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromHeir {
    /// It has no room for these: nobody but their holder has them.
    Declined(Vec<ConnectionId>),
    /// After `Leave`: sockets and connections are the heir's.
    Taken,
    /// After `Back`: the sockets are the holder's again.
    Yours {
        /// The connections that the heir knew of are the heir's meanwhile, and stay so.
        taken: bool,
    },
}
