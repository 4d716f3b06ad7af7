//! What happened: one enum with five readers (log line, metric, CDR, ladder, test snapshot). Machines emit it, shells
//! hand it on.
//!
//! Invariant: a log reads like a story of calls; numbers and URIs are in fields marked personal, never in the
//! variant's name.

use crate::ids::{CallId, LegId, NodeName};
use crate::views::call::LegRole;
use crate::views::steer::SteeringAct;
use crate::views::{CallState, Disposition, EndCause, EndedBy};
use core::time::Duration;

/// Something worth telling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// An INVITE was authenticated and routed.
    CallCreated {
        /// Call.
        call: CallId,
        /// Extension (personal).
        caller: String,
        /// As dialled (personal).
        callee: String,
    },
    /// A call of a node that is gone is carried on here.
    CallAdopted {
        /// Call.
        call: CallId,
        /// As it was saved.
        state: CallState,
    },
    /// A call is another node's from now on.
    CallLeft {
        /// Call.
        call: CallId,
    },
    /// First 18x to the caller.
    CallRinging {
        /// Call.
        call: CallId,
    },
    /// Our first 200 to the caller.
    CallAnswered {
        /// Call.
        call: CallId,
        /// Extension (personal).
        answered_by: String,
        /// Since the INVITE.
        setup_ms: u64,
    },
    /// A call's media session is at another host; its phones are being told.
    CallReanchored {
        /// Call.
        call: CallId,
        /// Where it is now.
        node: NodeName,
    },
    /// A leg was put on hold or resumed.
    CallHold {
        /// Call.
        call: CallId,
        /// Whose phone asked.
        leg: LegId,
        /// Held or resumed.
        held: bool,
    },
    /// An operator did something to the call.
    CallSteered {
        /// Call.
        call: CallId,
        /// What.
        act: SteeringAct,
        /// To whose phone; none: both, or the call.
        role: Option<LegRole>,
    },
    /// A transfer by an operator is over.
    CallTransferred {
        /// Call.
        call: CallId,
        /// Whose phone was to leave.
        role: LegRole,
        /// Who was called (personal).
        to: String,
        /// 200: done.
        status: u16,
    },
    /// A digit was dialled.
    DigitDialled {
        /// Call.
        call: CallId,
        /// By whom.
        leg: LegId,
        /// RFC 4733 event (personal).
        digit: char,
    },
    /// One phone is not heard while the other is, though it should send; or it is again.
    OneWayAudio {
        /// Call.
        call: CallId,
        /// Who is not heard.
        leg: LegId,
        /// Caller or callee.
        role: LegRole,
        /// It is not heard; else it is again.
        silent: bool,
    },
    /// Neither phone is heard, though both should send; or one is again.
    NoAudio {
        /// Call.
        call: CallId,
        /// So it is; else it is over.
        silent: bool,
    },
    /// The call is over; exactly once a call.
    CallEnded {
        /// Call.
        call: CallId,
        /// What became of it.
        disposition: Disposition,
        /// What ended it.
        end_cause: EndCause,
        /// Who ended it.
        ended_by: EndedBy,
        /// Final status to the caller.
        sip_status: u16,
        /// Since the INVITE.
        duration_ms: u64,
        /// Since the answer.
        billable_ms: u64,
    },
    /// A 2xx was never acknowledged: usually the Contact we sent cannot be reached.
    AckMissing {
        /// Call.
        call: CallId,
        /// Whose ACK.
        leg: LegId,
        /// The Contact that we sent.
        contact: String,
    },
    /// A peer broke a rule; what and which.
    Misbehaved {
        /// Call, when there is one.
        call: Option<CallId>,
        /// In words.
        what: &'static str,
    },
    /// A binding was made, refreshed or removed.
    Registered {
        /// Extension (personal).
        extension: String,
        /// Bindings now.
        contacts: usize,
        /// What became of one of them.
        change: Registration,
    },
    /// Something was refused, put off or dropped because a bound was reached (`limits`) or nothing can be promised.
    Shed {
        /// What, in words.
        what: &'static str,
    },
    /// A request was challenged or refused for its credentials.
    AuthenticationFailed {
        /// Source address (personal).
        source: core::net::SocketAddr,
        /// Digest user (personal).
        username: Option<String>,
    },
    /// A message was dropped or refused before any machine saw it.
    Malformed {
        /// In words.
        what: &'static str,
    },
    /// A media node joined or left.
    MediaNode {
        /// Which.
        node: NodeName,
        /// Up or down.
        up: bool,
    },
    /// An event was posted to a webhook.
    Webhook {
        /// Its id.
        webhook: String,
        /// What came of it.
        outcome: WebhookOutcome,
    },
    /// Something was measured that is no story.
    Measured(Measure),
    /// A machine panicked: a bug. The call or session was ended.
    Bug {
        /// Call, when there is one.
        call: Option<CallId>,
        /// The panic's text.
        what: String,
    },
}

/// What is measured while it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// A commit ended.
    Commit {
        /// Calls and users in it.
        rows: usize,
        /// Since it began.
        took: Duration,
        /// The store took it.
        stored: bool,
    },
    /// A transaction of a call got its final response.
    Transaction {
        /// Of the request.
        method: &'static str,
        /// We were asked, or asked.
        role: TransactionRole,
        /// Since the request came or left first.
        took: Duration,
    },
    /// How a phone was heard in a call that is over.
    Sound {
        /// Mean opinion score, in hundredths.
        mos_hundredths: Option<u32>,
        /// Interarrival jitter (RFC 3550 §6.4.1), its mean.
        jitter: Option<Duration>,
        /// To the phone and back, its mean.
        round_trip: Option<Duration>,
        /// Packets that came, and those that did not.
        packets: (u64, u64),
    },
    /// So much waits.
    Depth {
        /// Where.
        queue: &'static str,
        /// How much.
        depth: usize,
    },
    /// So much did not fit and is gone.
    Lost {
        /// Where.
        queue: &'static str,
        /// How much.
        count: u64,
    },
}

/// RFC 3261 §17.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionRole {
    /// We asked.
    Client,
    /// We were asked.
    Server,
}

/// What came of a post to a webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WebhookOutcome {
    /// The receiver has it.
    Taken,
    /// It is tried again.
    Failed,
    /// It was tried too often.
    GivenUp,
    /// The log of events does not reach back to where the receiver was: an event says so in place of what is lost.
    Missed,
}

/// What became of a binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registration {
    /// A phone that was not there before.
    Made,
    /// It said that it is still there, perhaps by another way.
    Refreshed,
    /// It left, expired, or was removed.
    Removed,
}
