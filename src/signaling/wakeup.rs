//! What tasks beside the worker tell it. The worker itself never waits for the store, a name, or a link.

use super::media_pool::LinkNumber;
use crate::call::Answer;
use crate::control::Frame;
use crate::control::hello::Hello;
use crate::directory::{Binding, User};
use crate::ids::CallId;
use crate::sip::Uri;
use crate::store::{CallOutcome, Change, StoreError};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use tokio::sync::mpsc;

/// Wakeups that wait; tasks wait when there are more.
pub(super) const QUEUE: usize = 4_096;

/// Something that a task brings.
#[derive(Debug)]
pub(super) enum Wakeup {
    /// The commit under way ended; outcomes in the order of its calls.
    Committed(Result<Vec<CallOutcome>, StoreError>),
    /// Everything that the store knows of users and bindings.
    Loaded(Vec<User>, Vec<Binding>),
    /// All users again, after an import.
    Users(Vec<User>),
    /// Changes since the last ones.
    Changes(Vec<Change>),
    /// The store can (`true`) or cannot be read.
    StoreRead(bool),
    /// A miss of the directory was looked up.
    Found(Box<Found>),
    /// A question of a call is answered.
    Answer(CallId, Answer),
    /// A media node's link is up.
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
    /// A frame of a media node.
    Frame(LinkNumber, Box<Frame>),
    /// A link broke.
    LinkDown(LinkNumber),
}

/// What the store says of a user that the directory, or of whose phones it, did not know.
#[derive(Debug)]
pub(super) struct Found {
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
