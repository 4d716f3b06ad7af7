//! What tasks beside the worker tell it. The worker itself never waits for the store, a name, or a link.

use super::ladder::LadderRead;
use super::media_pool::LinkNumber;
use super::pass_on::{Stray, Whereabouts};
use crate::call::Answer;
use crate::control::Frame;
use crate::control::hello::Hello;
use crate::directory::{Binding, User};
use crate::ids::{CallId, ConnectionId, Flow, Incarnation, NodeName};
use crate::sip::Uri;
use crate::store::{CallOutcome, Change, ClaimedCall, NodeRow, StoreError};
use crate::time::Timestamp;
use bytes::Bytes;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use tokio::sync::{mpsc, oneshot};

/// Wakeups that wait; tasks wait when there are more.
pub(super) const QUEUE: usize = 4_096;

/// Something that a task brings.
#[derive(Debug)]
pub enum Wakeup {
    /// The commit under way ended; outcomes in the order of its calls.
    Committed(Result<Vec<CallOutcome>, StoreError>),
    /// The journal's work ended, in the same way; the size of its files.
    Journaled(Result<Vec<CallOutcome>, StoreError>, u64),
    /// Everything that the store knows of users and bindings.
    Loaded(Vec<User>, Vec<Binding>),
    /// All users again, after an import.
    Users(Vec<User>),
    /// Changes since the last ones.
    Changes(Vec<Change>),
    /// The change feed was read, or could not be, after so many questions.
    Read(u64),
    /// The store can (`true`) or cannot be read.
    StoreRead(bool),
    /// A miss of the directory was looked up.
    Found(Box<Found>),
    /// The table of nodes, now and then with the owners of calls.
    Nodes(Box<Judgement>),
    /// The table of nodes cannot be read: leases are not judged.
    NodesUnknown,
    /// A claim failed: it may have come true all the same.
    ClaimInDoubt,
    /// Calls that we claimed.
    Claimed(Vec<ClaimedCall>),
    /// One that an earlier claimer did not live to save. The sender is told when we have lived to save it.
    Suspect(Box<ClaimedCall>, oneshot::Sender<()>),
    /// The store takes writes: a peer wished to know.
    StoreWorks(NodeName),
    /// It takes none of ours, though the peer of that link reaches it.
    CutOff(LinkNumber),
    /// A message that is said again.
    Say(Flow, Bytes),
    /// What this host keeps of a call's signaling.
    LadderRead(Box<LadderRead>),
    /// The owner of a message's call was looked up.
    StrayFound(Box<(Stray, Whereabouts)>),
    /// A peer is proven dead.
    PeerDead(Incarnation),
    /// A media node without a link is proven to live.
    MediaLives(NodeName),
    /// A media node is proven dead.
    MediaDead(NodeName, Incarnation),
    /// A peer could not be reached, which proves nothing.
    NotDialled(Incarnation),
    /// Calls that the store says are ours, after a gap or after some were given up.
    Proven(Result<Vec<CallId>, StoreError>),
    /// A question of a call is answered.
    Answer(CallId, Answer),
    /// A node's link is up.
    LinkUp {
        /// Which link.
        number: LinkNumber,
        /// Who is there.
        hello: Hello,
        /// Frames to it.
        sender: mpsc::Sender<Frame>,
        /// Its round trip.
        rtt_us: Arc<AtomicU32>,
    },
    /// A frame of a link.
    Frame(LinkNumber, Box<Frame>),
    /// A sibling does not read its datagrams: these sockets are read here too.
    Cover(Incarnation, Vec<OwnedFd>),
    /// It reads them again, or is gone.
    Uncover(Incarnation),
    /// Nobody listens where a sibling did: it is dead.
    SiblingGone(Incarnation),
    /// Connections of a sibling are read here from now on.
    Inherited(NodeName, Vec<ConnectionId>),
    /// A sibling reads our sockets (`true`), or we do again.
    SocketsLeft(bool),
    /// A link misses heartbeats (`true`), or no more.
    LinkSilent(LinkNumber, bool),
    /// A media node's workers were asked.
    Probed {
        /// Which node.
        node: NodeName,
        /// For this peer, or for us.
        peer: Option<NodeName>,
        /// They answered.
        lives: bool,
        /// So did the store.
        store_answers: bool,
    },
    /// A link broke.
    LinkDown(LinkNumber),
}

/// Who is in the table of nodes, by the store's clock.
#[derive(Debug)]
pub struct Judgement {
    /// Its time.
    pub now: Timestamp,
    /// Every node.
    pub rows: Vec<NodeRow>,
    /// How many servers took our writes, one after the other (`Store::server_number`).
    pub server: u64,
    /// Owners of live calls, when they were asked for.
    pub owners: Option<Vec<Incarnation>>,
}

/// What the store says of a user that the directory, or of whose phones it, did not know.
#[derive(Debug)]
pub struct Found {
    /// Whose question.
    pub call: CallId,
    /// Its number.
    pub number: u32,
    /// Its URI.
    pub uri: Uri,
    /// Who was looked up.
    pub extension: String,
    /// The user, if there is one, and its bindings.
    pub result: Result<(Option<User>, Vec<Binding>), StoreError>,
}
