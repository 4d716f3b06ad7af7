//! What signaling nodes tell each other over the same links: messages passed on, bindings, calls given up.

use crate::ids::{CallId, Flow, NodeName};
use crate::views::{EndCause, EndedBy};
use bytes::Bytes;
use core::net::SocketAddr;
use serde::{Deserialize, Serialize};

/// One word between peers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PeerFrame {
    /// A SIP message for a call that the receiver owns, as far as the sender knows.
    Forward {
        /// How it came.
        flow: Flow,
        /// As it came.
        bytes: Bytes,
        /// Nodes that passed it on; bounded by `FORWARDS`.
        hops: u8,
    },
    /// A SIP message to be sent by a connection that the receiver holds.
    Send {
        /// The connection's flow.
        flow: Flow,
        /// As it leaves.
        bytes: Bytes,
    },
    /// All bindings of a user as they are now.
    Bindings {
        /// Whose.
        extension: String,
        /// `Vec<directory::Binding>` in postcard: this module knows no bindings.
        document: Bytes,
    },
    /// The sender has saved all its calls and says no more of them: the receiver may claim them.
    HandOver,
    /// Which calls of the receiver match? Answered by `Calls`.
    AskCalls {
        /// Number of the question, the asker's.
        id: u64,
        /// JSON of the filter.
        filter: String,
    },
    /// A part of the answer.
    Calls {
        /// Of the question.
        id: u64,
        /// JSON of a list of calls; empty: none.
        document: Bytes,
        /// Nothing more comes.
        last: bool,
    },
    /// End this call, if it is yours. Answered by `HungUp`.
    AskHangup {
        /// Number of the question, the asker's.
        id: u64,
        /// Its id.
        call: String,
        /// In words, for Reason and CDR.
        reason: Option<String>,
    },
    /// The answer.
    HungUp {
        /// Of the question.
        id: u64,
        /// It was the sender's call.
        done: bool,
    },
    /// Where the sender takes SIP: phones that know such an address are reached through it.
    Addresses {
        /// Concrete ones.
        sip: Vec<SocketAddr>,
    },
    /// The sender's store does not take these saves: the receiver keeps them, and writes them should the sender die.
    Keep {
        /// Saves in postcard: this module knows no calls.
        document: Bytes,
    },
    /// The sender's store has all that it was owed: what the receiver keeps for it is needed no more.
    KeepNothing,
    /// The sender cannot reach the store. Who can, proves it and says `StoreWorks`.
    AskStore,
    /// The store takes the sender's writes.
    StoreWorks,
    /// The sender takes no calls, or takes them again.
    Draining(bool),
    /// Numbers of nodes whose connections the sender inherited.
    Inherited(Vec<u16>),
    /// An operator wants the receiver drained, or taken back.
    Drain {
        /// Drained.
        drain: bool,
        /// Its calls are ended.
        end_calls: bool,
    },
    /// Some bindings of a user were put or removed.
    BindingsChanged {
        /// Whose.
        extension: String,
        /// Bindings put, and id and last refresh of those removed, in postcard.
        document: Bytes,
    },
    /// The sender does not hear a media node: does the receiver? Answered by `MediaSeen`.
    AskMedia {
        /// Which.
        node: NodeName,
        /// RTP ports of its sessions, where its workers can be asked.
        probes: Vec<SocketAddr>,
    },
    /// The answer.
    MediaSeen {
        /// Which.
        node: NodeName,
        /// It lives.
        lives: bool,
    },
    /// What does the receiver's host keep of this call's signaling? Answered by `Ladder`.
    AskLadder {
        /// Number of the question, the asker's.
        id: u64,
        /// Which.
        call: CallId,
    },
    /// A part of the answer.
    Ladder {
        /// Of the question.
        id: u64,
        /// `Vec<views::ladder::Entry>` in postcard.
        document: Bytes,
        /// Nothing more comes.
        last: bool,
    },
    /// A call that is the receiver's by now ended at the sender, which had told its phones before it learnt that.
    Ended {
        /// Which.
        call: CallId,
        /// Who ended it.
        by: EndedBy,
        /// Why.
        cause: EndCause,
    },
    /// The sender has its calls again, those that the receiver did not claim since its `HandOver`.
    TakenBack,
    /// Do this to that call, if it is yours. Answered by `Steered`.
    AskSteer {
        /// Number of the question, the asker's.
        id: u64,
        /// Which.
        call: CallId,
        /// JSON of a `views::Steering`.
        wish: String,
    },
    /// The answer, when it is stored.
    Steered {
        /// Of the question.
        id: u64,
        /// JSON: the call, or why it was not done.
        document: Bytes,
    },
    /// Has the receiver a call of the INVITE with this key? Answered by `InviteSeen`.
    AskInvite {
        /// Keyed hash of the INVITE.
        key: [u8; 16],
    },
    /// The answer.
    InviteSeen {
        /// Of the question.
        key: [u8; 16],
        /// It has, or is about to.
        here: bool,
    },
    /// What does the receiver's host keep of this call, RTCP too? Answered by `Ladder`.
    AskCapture {
        /// Number of the question, the asker's.
        id: u64,
        /// Which.
        call: CallId,
    },
    /// What does the receiver's host keep of how this call sounded? Answered by `Ladder`.
    AskSound {
        /// Number of the question, the asker's.
        id: u64,
        /// Which.
        call: CallId,
    },
}

impl PeerFrame {
    /// The first version that has this frame.
    pub const fn since(&self) -> u16 {
        match self {
            Self::Forward { .. }
            | Self::Send { .. }
            | Self::Bindings { .. }
            | Self::HandOver
            | Self::AskCalls { .. }
            | Self::Calls { .. }
            | Self::AskHangup { .. }
            | Self::HungUp { .. } => 1,
            Self::Addresses { .. }
            | Self::BindingsChanged { .. }
            | Self::Keep { .. }
            | Self::KeepNothing
            | Self::AskStore
            | Self::StoreWorks
            | Self::Draining(_)
            | Self::Inherited(_)
            | Self::AskMedia { .. }
            | Self::MediaSeen { .. }
            | Self::Drain { .. }
            | Self::AskLadder { .. }
            | Self::Ladder { .. }
            | Self::Ended { .. }
            | Self::TakenBack
            | Self::AskSteer { .. }
            | Self::Steered { .. }
            | Self::AskInvite { .. }
            | Self::InviteSeen { .. }
            | Self::AskCapture { .. }
            | Self::AskSound { .. } => 2,
        }
    }
}

/// A message that was passed on so often found nobody: it is dropped.
pub const FORWARDS: u8 = 3;
