//! Client transactions (RFC 3261 §17.1, RFC 6026 §7.2).

use super::{ResponseAction, Retransmission, Timer, TimerAction, earlier};
use crate::limits::{T2, T4, TRANSACTION_TIMEOUT};
use crate::sip::Status;
use crate::time::Timestamp;
use core::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Calling (INVITE) or Trying.
    Calling,
    Proceeding,
    Completed,
    /// INVITE only: a 2xx came, more may follow (RFC 6026).
    Accepted,
    Terminated,
}

/// Client transaction of any method but ACK.
#[derive(Clone, Debug)]
pub struct ClientTransaction {
    is_invite: bool,
    reliable: bool,
    has_provisional: bool,
    state: State,
    /// Timer A or E.
    retransmission: Option<Retransmission>,
    /// Timer B or F while pending; then D, K or M.
    deadline: Option<Timer>,
}

impl ClientTransaction {
    /// The request is sent now. INVITE: Timers A, B, D, M; others: E, F, K.
    pub fn new(is_invite: bool, reliable: bool, now: Timestamp) -> Self {
        let (again, longest, deadline) =
            if is_invite { ("TimerA", None, "TimerB") } else { ("TimerE", Some(T2), "TimerF") };
        Self {
            is_invite,
            reliable,
            has_provisional: false,
            state: State::Calling,
            retransmission: (!reliable).then(|| Retransmission::start(again, longest, now)),
            deadline: Some(Timer::after(TRANSACTION_TIMEOUT, deadline, now)),
        }
    }

    /// A response with our branch came.
    pub fn handle_response(&mut self, status: Status, now: Timestamp) -> ResponseAction {
        match self.state {
            State::Calling | State::Proceeding if status.is_provisional() => {
                self.proceed();
                ResponseAction::Deliver
            }
            State::Calling | State::Proceeding if !self.is_invite => {
                self.end_in(State::Completed, self.unless_reliable(T4), "TimerK", now);
                ResponseAction::Deliver
            }
            State::Calling | State::Proceeding if status.is_success() => {
                self.end_in(State::Accepted, TRANSACTION_TIMEOUT, "TimerM", now);
                ResponseAction::Deliver
            }
            State::Calling | State::Proceeding => {
                // §17.1.1.2: Timer D is at least 32 s.
                let delay = self.unless_reliable(TRANSACTION_TIMEOUT);
                self.end_in(State::Completed, delay, "TimerD", now);
                ResponseAction::AcknowledgeAndDeliver
            }
            State::Accepted if status.is_success() => ResponseAction::Deliver,
            State::Completed if self.is_invite && status.0 >= 300 => ResponseAction::Acknowledge,
            State::Accepted | State::Completed | State::Terminated => ResponseAction::Ignore,
        }
    }

    /// The due timers, one action a call; `None` when nothing is due.
    pub fn handle_timeout(&mut self, now: Timestamp) -> Option<TimerAction> {
        if self.deadline.is_some_and(|timer| timer.is_due(now)) {
            let timed_out = self.is_pending();
            self.state = State::Terminated;
            self.deadline = None;
            self.retransmission = None;
            return Some(if timed_out { TimerAction::TimedOut } else { TimerAction::Terminated });
        }
        let due = self.retransmission.as_mut().filter(|again| again.timer.is_due(now))?;
        due.rearm(now);
        Some(TimerAction::Retransmit)
    }

    /// When, and which timer.
    pub fn next_timeout(&self) -> Option<(Timestamp, &'static str)> {
        earlier(self.deadline, self.retransmission)
    }

    /// No final response yet.
    pub fn is_pending(&self) -> bool {
        matches!(self.state, State::Calling | State::Proceeding)
    }

    /// A provisional response came (CANCEL may be sent, §9.1).
    pub fn has_provisional(&self) -> bool {
        self.has_provisional
    }

    /// Over.
    pub fn is_terminated(&self) -> bool {
        self.state == State::Terminated
    }

    fn proceed(&mut self) {
        self.state = State::Proceeding;
        self.has_provisional = true;
        if self.is_invite {
            // §17.1.1.2: an INVITE that was heard may ring as long as its user lets it.
            self.retransmission = None;
            self.deadline = None;
        } else if let Some(again) = &mut self.retransmission {
            // §17.1.2.2: from its next firing on Timer E is T2.
            again.interval = T2;
        }
    }

    fn end_in(&mut self, state: State, delay: Duration, name: &'static str, now: Timestamp) {
        self.state = state;
        self.retransmission = None;
        self.deadline = Some(Timer::after(delay, name, now));
    }

    fn unless_reliable(&self, delay: Duration) -> Duration {
        if self.reliable { Duration::ZERO } else { delay }
    }
}
