//! Server transactions (RFC 3261 §17.2, RFC 6026 §7.1), and the retransmission of a 2xx to INVITE, which the RFC leaves
//! to the transaction user (§13.3.1.4) and every user of ours would do alike.

use super::{RequestAction, Retransmission, Timer, TimerAction, earlier};
use crate::limits::{T2, T4, TRANSACTION_TIMEOUT};
use crate::sip::Status;
use crate::time::Timestamp;
use core::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Trying or Proceeding.
    Proceeding,
    /// A final response that is not 2xx to INVITE was sent.
    Completed,
    /// INVITE only: the ACK to a failure came.
    Confirmed,
    /// INVITE only: 2xx was sent (RFC 6026); `acknowledged` once its ACK came.
    Accepted {
        acknowledged: bool,
    },
    Terminated,
}

/// Server transaction of any method but ACK and CANCEL's target.
#[derive(Clone, Debug)]
pub struct ServerTransaction {
    is_invite: bool,
    reliable: bool,
    state: State,
    /// Timer G, or that of the 2xx.
    retransmission: Option<Retransmission>,
    /// Timer H, I, J or L.
    deadline: Option<Timer>,
}

impl ServerTransaction {
    /// A new request. INVITE: Timers G, H, I, L; others: J.
    pub fn new(is_invite: bool, reliable: bool, _now: Timestamp) -> Self {
        Self { is_invite, reliable, state: State::Proceeding, retransmission: None, deadline: None }
    }

    /// The same request again (same branch, sent-by and method).
    pub fn handle_retransmission(&mut self, _now: Timestamp) -> RequestAction {
        match self.state {
            State::Proceeding | State::Completed => RequestAction::Retransmit,
            // RFC 6026 §7.1: absorbed in Accepted; the 2xx has its own timer.
            State::Accepted { .. } | State::Confirmed | State::Terminated => RequestAction::Absorb,
        }
    }

    /// ACK for a non-2xx (same branch).
    pub fn handle_failure_ack(&mut self, now: Timestamp) {
        if self.is_invite && self.state == State::Completed {
            self.state = State::Confirmed;
            self.retransmission = None;
            self.deadline = Some(Timer::after(self.unless_reliable(T4), "TimerI", now));
        }
    }

    /// ACK for our 2xx (found by the dialog and CSeq): stops the retransmission of the 2xx (§13.3.1.4). The transaction
    /// lives on until Timer L to absorb late INVITEs.
    pub fn handle_success_ack(&mut self, _now: Timestamp) {
        if let State::Accepted { acknowledged } = &mut self.state {
            *acknowledged = true;
            self.retransmission = None;
        }
    }

    /// A response is sent now. A 2xx to INVITE is retransmitted from T1 to T2 for 64*T1, also over TCP (§13.3.1.4).
    /// Sending the final response again changes nothing.
    pub fn handle_sent(&mut self, status: Status, now: Timestamp) {
        if self.state != State::Proceeding || status.is_provisional() {
            return;
        }
        let (state, delay, deadline, again) = match (self.is_invite, status.is_success()) {
            (true, true) => {
                let state = State::Accepted { acknowledged: false };
                (state, TRANSACTION_TIMEOUT, "TimerL", Some("Timer2xx"))
            }
            (true, false) => {
                let again = (!self.reliable).then_some("TimerG");
                (State::Completed, TRANSACTION_TIMEOUT, "TimerH", again)
            }
            (false, _) => {
                (State::Completed, self.unless_reliable(TRANSACTION_TIMEOUT), "TimerJ", None)
            }
        };
        self.state = state;
        self.deadline = Some(Timer::after(delay, deadline, now));
        self.retransmission = again.map(|name| Retransmission::start(name, Some(T2), now));
    }

    /// The due timers, one action a call.
    pub fn handle_timeout(&mut self, now: Timestamp) -> Option<TimerAction> {
        if self.deadline.is_some_and(|timer| timer.is_due(now)) {
            let timed_out = match self.state {
                State::Completed => self.is_invite,
                State::Accepted { acknowledged } => !acknowledged,
                State::Proceeding | State::Confirmed | State::Terminated => false,
            };
            self.state = State::Terminated;
            self.deadline = None;
            self.retransmission = None;
            return Some(if timed_out { TimerAction::TimedOut } else { TimerAction::Terminated });
        }
        let due = self.retransmission.as_mut().filter(|again| again.timer.is_due(now))?;
        due.rearm(now);
        Some(TimerAction::Retransmit)
    }

    /// When, and which timer. `Timer2xx` is the retransmission of a 2xx to INVITE, which the RFC gives no letter.
    pub fn next_timeout(&self) -> Option<(Timestamp, &'static str)> {
        earlier(self.deadline, self.retransmission)
    }

    /// A final response was sent.
    pub fn is_completed(&self) -> bool {
        self.state != State::Proceeding
    }

    /// Over.
    pub fn is_terminated(&self) -> bool {
        self.state == State::Terminated
    }

    fn unless_reliable(&self, delay: Duration) -> Duration {
        if self.reliable { Duration::ZERO } else { delay }
    }
}
