//! What signaling nodes tell each other over the same links: messages passed on, bindings, calls given up.

use crate::ids::Flow;
use serde::{Deserialize, Serialize};

/// One word between peers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PeerFrame {
    /// A SIP message for a call that the receiver owns, as far as the sender knows.
    Forward {
        /// How it came.
        flow: Flow,
        /// As it came.
        bytes: Vec<u8>,
        /// Nodes that passed it on; bounded by `FORWARDS`.
        hops: u8,
    },
    /// A SIP message to be sent by a connection that the receiver holds.
    Send {
        /// The connection's flow.
        flow: Flow,
        /// As it leaves.
        bytes: Vec<u8>,
    },
    /// All bindings of a user as they are now.
    Bindings {
        /// Whose.
        extension: String,
        /// `Vec<directory::Binding>` in postcard: this module knows no bindings.
        document: Vec<u8>,
    },
    /// The sender has saved all its calls and says no more of them: the receiver may claim them.
    HandOver,
}

/// A message that was passed on so often found nobody: it is dropped.
pub const FORWARDS: u8 = 3;
