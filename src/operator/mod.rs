//! What an operator may ask of a running node: commands over a bounded channel, each with its answer. Admin sends, the
//! signaling worker answers.

mod live_calls;

use crate::directory::User;
use crate::ids::CallId;
use crate::views::ladder::{Entry, Scope};
use crate::views::{CallFlag, CallView, NodeView, RegistrationView, RouteView, Steering};
use core::time::Duration;
pub use live_calls::{CallDocument, LiveCalls};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use tokio::sync::{mpsc, oneshot};

/// A command and where its answer goes.
#[derive(Debug)]
pub enum Command {
    /// Live calls that match.
    Calls(CallFilter, oneshot::Sender<LiveCalls>),
    /// One call.
    Call(String, oneshot::Sender<Option<CallView>>),
    /// What is kept of a call's signaling, by all nodes.
    Ladder(CallId, Scope, oneshot::Sender<Vec<Entry>>),
    /// Hang up with a reason; false: no such call.
    Hangup(String, Option<String>, oneshot::Sender<bool>),
    /// Call a user, and connect it with somebody. Answered when the call is stored.
    Originate(Origination, oneshot::Sender<Result<CallView, Refused>>),
    /// Do something to a call. Answered when that is stored.
    Steer(CallId, Steering, oneshot::Sender<Result<CallView, Refused>>),
    /// What the dial plan makes of a number.
    Route(String, oneshot::Sender<Result<RouteView, Refused>>),
    /// Bindings, of one user or all.
    Registrations(Option<String>, oneshot::Sender<Vec<RegistrationView>>),
    /// Remove a binding; false: no such.
    Deregister(String, oneshot::Sender<bool>),
    /// Have a registered phone look for its configuration, and restart or not: what it answered, if it did.
    CheckSync(String, Option<bool>, oneshot::Sender<Result<Option<u16>, Refused>>),
    /// This node, its media nodes, and who else is known.
    Nodes(oneshot::Sender<Vec<NodeView>>),
    /// Take no new calls (true), or take them again (false). False: no such node.
    Drain {
        /// Node's name.
        node: String,
        /// Drain or undrain.
        drain: bool,
        /// BYE the calls too.
        end_calls: bool,
        /// Known?
        answer: oneshot::Sender<bool>,
    },
    /// Users were changed in the store through this node: known at once here.
    UserChanged(Box<User>),
    /// The same, removed.
    UserRemoved(String),
    /// Many were changed: read them all again.
    UsersImported,
    /// Readiness.
    Readiness(oneshot::Sender<Readiness>),
    /// Other settings from now on.
    Tune(Box<Tuning>),
}

/// Settings of signaling that may change while it runs. Calls that are there keep what they began with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// Unanswered INVITE.
    pub ring_timeout: Duration,
    /// A sending leg without RTP.
    pub rtp_timeout: Duration,
    /// Longest registration.
    pub registration_max: Duration,
    /// Bindings a user.
    pub max_contacts: usize,
    /// Never shed, first to be moved.
    pub emergency_numbers: Vec<String>,
    /// Phones that are told of another media node at a time.
    pub reanchor_window: u32,
}

/// A call that an operator wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origination {
    /// The user whose phones ring first.
    pub from: String,
    /// Whom it is connected with: as a person dials it, or a SIP URI.
    pub to: String,
    /// Its phones are asked to answer by themselves.
    pub auto_answer: bool,
}

/// Why a command is not carried out, as nodes tell it each other too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refused {
    /// Not now: why, and when to ask again.
    NotNow {
        /// In words.
        reason: Cow<'static, str>,
        /// From now.
        seconds: u64,
    },
    /// What is there stands against it.
    Conflict(Cow<'static, str>),
    /// This field is wrong, and why.
    Field(Cow<'static, str>, Cow<'static, str>),
    /// There is no such call or registration any more.
    Gone,
}

impl Refused {
    pub(crate) const fn not_now(reason: &'static str, seconds: u64) -> Self {
        Self::NotNow { reason: Cow::Borrowed(reason), seconds }
    }

    pub(crate) const fn conflict(why: &'static str) -> Self {
        Self::Conflict(Cow::Borrowed(why))
    }

    pub(crate) const fn field(name: &'static str, why: &'static str) -> Self {
        Self::Field(Cow::Borrowed(name), Cow::Borrowed(why))
    }
}

/// Which calls.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are the API's")]
pub struct CallFilter {
    pub id: Option<String>,
    pub state: Option<String>,
    pub extension: Option<String>,
    pub owner: Option<String>,
    pub media_node: Option<String>,
    #[serde(default)]
    pub flag: Option<CallFlag>,
    /// Ids greater than this.
    #[serde(default)]
    pub after: Option<String>,
    /// The first of them, in the order of their ids.
    #[serde(default)]
    pub limit: Option<usize>,
    /// Legs may be left out.
    #[serde(default)]
    pub brief: bool,
}

/// `/ready`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// Takes calls.
    Ready,
    /// Takes calls, but something is wrong: reasons.
    Degraded(Vec<String>),
    /// Not yet: what it waits for.
    Starting(Vec<String>),
    /// Takes no new calls.
    Draining,
}

/// The way to a node's worker.
#[derive(Clone, Debug)]
pub struct Operator {
    sender: mpsc::Sender<Command>,
}

/// The worker is gone, or does not answer within its deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the node does not answer")]
pub struct NoAnswer;

impl Operator {
    /// A channel of `limits::COMMAND_QUEUE`.
    pub fn channel() -> (Self, mpsc::Receiver<Command>) {
        let (sender, receiver) = mpsc::channel(crate::limits::COMMAND_QUEUE);
        (Self { sender }, receiver)
    }

    /// Sends a command made around the answer's sender, and waits for the answer.
    pub async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, NoAnswer> {
        let (sender, receiver) = oneshot::channel();
        let deadline = Duration::from_secs(5);
        tokio::time::timeout(deadline, async {
            self.sender.send(command(sender)).await.map_err(|_| NoAnswer)?;
            receiver.await.map_err(|_| NoAnswer)
        })
        .await
        .unwrap_or(Err(NoAnswer))
    }

    /// Sends a command that has no answer.
    pub async fn tell(&self, command: Command) -> Result<(), NoAnswer> {
        self.sender.send(command).await.map_err(|_| NoAnswer)
    }
}
