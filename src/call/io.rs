//! What goes into a call and what comes out of it, as values.

use crate::control;
use crate::event::Event;
use crate::ids::{CallId, Epoch, Rev};
use crate::ids::{ClusterKey, Flow, Incarnation, LegId, NodeName};
use crate::routing::Decision;
use crate::sip::address::Advertise;
use crate::sip::{Request, Response, Uri};
use crate::views::quality::Sounded;
use crate::views::{CallFlag, Cdr, EndCause, EndedBy};
use bytes::Bytes;
use core::time::Duration;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// What is the same for all calls of a node.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Tokens are derived under it.
    pub key: ClusterKey,
    /// This node's name.
    pub node: NodeName,
    /// Hint in our tokens.
    pub node_number: u16,
    /// Owner in the store.
    pub incarnation: Incarnation,
    /// Address for Contact and Via.
    pub advertise: Advertise,
    /// Server and User-Agent.
    pub product: String,
    /// `HOLDFAST_RING_TIMEOUT_MS`.
    pub ring_timeout: Duration,
    /// `HOLDFAST_RTP_TIMEOUT_MS`.
    pub rtp_timeout: Duration,
    /// `HOLDFAST_EMERGENCY_NUMBERS`.
    pub emergency_numbers: Vec<String>,
}

/// An authenticated INVITE outside a dialog: what makes a call.
#[derive(Clone, Debug)]
pub struct Invitation {
    /// Drawn by the shell.
    pub id: CallId,
    /// Keyed hash of (Call-ID, From tag, CSeq number).
    pub key: [u8; 16],
    /// 1 for a new call.
    pub epoch: Epoch,
    /// Drawn by the shell: our SRTP keys are derived from it.
    pub entropy: [u8; 32],
    /// The digest user.
    pub caller: std::sync::Arc<crate::directory::User>,
    /// Well-formed, Via stamped, Route naming us removed, Max-Forwards above 0.
    pub request: Request,
    /// How it came.
    pub flow: Flow,
}

/// What an operator wants: a user is called, and connected with somebody.
#[derive(Clone, Debug)]
pub struct Origination {
    /// Drawn by the shell.
    pub id: CallId,
    /// Drawn by the shell: our SRTP keys are derived from it.
    pub entropy: [u8; 32],
    /// Who is to call.
    pub caller: std::sync::Arc<crate::directory::User>,
    /// Its phones, reachable as they say.
    pub phones: Vec<crate::directory::Binding>,
    /// Whom.
    pub target: Uri,
    /// The caller's phones are asked to answer by themselves.
    pub auto_answer: bool,
}

/// What comes to a call.
#[derive(Clone, Debug)]
pub enum Input {
    /// A request of one of its dialogs, a CANCEL, an ACK, or a repeat of the first INVITE.
    Request {
        /// The leg our tag or the key names.
        leg: LegId,
        /// Via stamped, Route naming us removed.
        request: Request,
        /// How it came.
        flow: Flow,
    },
    /// A response whose top Via branch is ours; the leg and the number of the branch.
    Response {
        /// Leg.
        leg: LegId,
        /// Number in the branch.
        branch: u32,
        /// The response, our Via still on top.
        response: Response,
        /// How it came.
        flow: Flow,
    },
    /// A request of ours could not leave: no connection, no route (RFC 3261 §8.1.3.1: as 503).
    Unreachable {
        /// Leg.
        leg: LegId,
        /// Number in the branch.
        branch: u32,
    },
    /// The answer to `Output::Ask`.
    Answer(Answer),
    /// The media node answers.
    Media {
        /// Which node.
        node: NodeName,
        /// What it says.
        reply: control::Reply,
    },
    /// The media node reports.
    Report(control::Report),
    /// The session lives on at another media node; the phones know nothing of it.
    MediaMoved {
        /// Which node.
        node: NodeName,
    },
    /// The media session is asked for at another host from now on: phones are to be told. `lives`: what it had until
    /// now goes on until then.
    MediaMoves {
        /// The former media node lives.
        lives: bool,
    },
    /// A media node whose sessions moved elsewhere is there again.
    MediaReturned {
        /// Which node.
        node: NodeName,
    },
    /// No media node takes the session, or the one that had it is gone.
    MediaLost,
    /// Its former owner ended it, and told its phones, after it had become ours.
    Ended {
        /// Who ended it.
        by: EndedBy,
        /// Why.
        cause: EndCause,
    },
    /// An operator ends the call.
    Hangup {
        /// In words, for Reason and CDR.
        reason: Option<String>,
    },
    /// An operator drains its node, and wants no call to go on.
    Drained,
    /// A phone registered again by another flow: dialogs with that remote target follow (design §4 "Flows").
    FlowMoved {
        /// Contact URI of the binding, byte-exact.
        contact: String,
        /// Its former flow: a dialog that moved before has an older Contact as its remote target.
        from: Flow,
        /// The new flow.
        flow: Flow,
    },
    /// What is wrong in its signaling, seen by who keeps its messages.
    Flagged(BTreeSet<CallFlag>),
}

/// A question of a call; the answer comes as `Input::Answer`.
#[derive(Clone, Debug)]
pub enum Query {
    /// Whom does this URI ring?
    Route {
        /// Number of the question.
        number: u32,
        /// R-URI or Contact of a 302.
        uri: Uri,
    },
    /// To which flow does a request to this URI go (RFC 3263; the shell connects for TCP)?
    Resolve {
        /// Number of the question.
        number: u32,
        /// Next hop.
        uri: Uri,
    },
}

/// An answer.
#[derive(Clone, Debug)]
pub enum Answer {
    /// To `Query::Route`; never `Decision::Unknown`: the shell asked the store.
    Route {
        /// Number of the question.
        number: u32,
        /// The decision.
        decision: Decision,
    },
    /// To `Query::Resolve`; `None`: it cannot be reached.
    Resolve {
        /// Number of the question.
        number: u32,
        /// The flow.
        flow: Option<Flow>,
    },
}

/// An effect.
#[derive(Clone, Debug)]
pub enum Output {
    /// Commit this.
    Save(Save),
    /// Send a message.
    Send(Transmit),
    /// Ask the session's media node (chosen by the shell at the first request).
    Media(control::Request),
    /// The media node that had the session before has it again: it is asked there from now on.
    MediaBack(NodeName),
    /// What a former media node still has of the session is not needed any more.
    MediaLeft(NodeName, control::Release),
    /// Ask the shell.
    Ask(Query),
    /// Tell everybody.
    Event(Event),
    /// Keep how it sounded.
    Sounded(Sounded),
}

/// A write of the call's row. Fenced by owner, epoch and rev.
#[derive(Clone, Debug, PartialEq)]
pub struct Save {
    /// Which.
    pub id: CallId,
    /// Keyed hash of (Call-ID, From tag, CSeq number) of the first INVITE; unique.
    pub key: [u8; 16],
    /// Owner's incarnation.
    pub owner: Incarnation,
    /// Owner's epoch.
    pub epoch: Epoch,
    /// Greater than stored.
    pub rev: Rev,
    /// Over: kept as a tombstone for 10 min, without record.
    pub ended: bool,
    /// The record; empty when ended.
    pub record: Vec<u8>,
    /// Exactly with `ended`.
    pub cdr: Option<Box<Cdr>>,
    /// What this write tells of, except the end: that is in the CDR.
    pub told: Vec<Told>,
}

impl Save {
    /// An earlier save of the call that was not written tells of this one's state too.
    pub fn follow(&mut self, earlier: Self) {
        if earlier.epoch == self.epoch {
            let later = core::mem::replace(&mut self.told, earlier.told);
            self.told.extend(later);
        }
    }
}

/// An event of a call, on its way to the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// The save that it was to be written with: with a later one it is new unless that is stored.
    pub rev: Rev,
    /// JSON of an `EventView`.
    pub document: String,
}

/// A message to be sent.
#[derive(Clone, Debug)]
pub struct Transmit {
    /// How.
    pub flow: Flow,
    /// What.
    pub bytes: Bytes,
    /// Whose.
    pub leg: LegId,
    /// Not before this rev of the call is committed.
    pub behind: Option<Rev>,
    /// Branch number of a request of ours: the leg is told `Unreachable` when it cannot leave.
    pub request: Option<u32>,
}
