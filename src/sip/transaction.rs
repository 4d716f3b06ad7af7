//! Transactions (RFC 3261 §17, RFC 6026) as state machines that own no message: the caller keeps request and response
//! and sends them when told. Timers are named `TimerA`..`TimerM` in `next_timeout`.
//!
//! Invariant: a timer that is zero over a reliable transport fires at once instead of being left out, so every
//! transaction ends by `TimerAction::Terminated` or `TimerAction::TimedOut`, once.

mod client;
mod server;

pub use client::ClientTransaction;
pub use server::ServerTransaction;

use super::dialog::MAX_FORWARDS;
use super::{HeaderName, Method, Request, Response};
use crate::time::Timestamp;
use core::time::Duration;

/// What a timer asks of the owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimerAction {
    /// Send the request (client) or the last response (server) again.
    Retransmit,
    /// Client: no final response in time (Timer B or F): act as on 408. Server INVITE: no ACK (Timer H, or 2xx never
    /// acknowledged, Timer L): the dialog is to be ended. The transaction is over.
    TimedOut,
    /// Over: forget it.
    Terminated,
}

/// What a response means to a client transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseAction {
    /// Give it to the transaction user (a provisional, the first final, or for INVITE every 2xx: forked or repeated;
    /// the user acknowledges each).
    Deliver,
    /// First non-2xx final to INVITE: acknowledge (`ack_for_failure`) and give it to the user.
    AcknowledgeAndDeliver,
    /// A repeated non-2xx final: acknowledge again, tell nobody.
    Acknowledge,
    /// Nothing to do.
    Ignore,
}

/// What a request that matches a server transaction means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestAction {
    /// Send the last response again, if there is one.
    Retransmit,
    /// ACK to a failure, or a repeat of no interest.
    Absorb,
}

/// A running timer and its name.
#[derive(Clone, Copy, Debug)]
struct Timer {
    at: Timestamp,
    name: &'static str,
}

impl Timer {
    fn after(delay: Duration, name: &'static str, now: Timestamp) -> Self {
        Self { at: now + delay, name }
    }

    fn is_due(self, now: Timestamp) -> bool {
        self.at <= now
    }
}

/// A timer that sends again and again, ever more rarely.
#[derive(Clone, Copy, Debug)]
struct Retransmission {
    timer: Timer,
    interval: Duration,
    /// `None`: the interval doubles without end (Timer A).
    longest: Option<Duration>,
}

impl Retransmission {
    fn start(name: &'static str, longest: Option<Duration>, now: Timestamp) -> Self {
        let interval = crate::limits::T1;
        Self { timer: Timer::after(interval, name, now), interval, longest }
    }

    /// The next interval counts from now: a late loop sends once, not a burst.
    fn rearm(&mut self, now: Timestamp) {
        let doubled = self.interval.saturating_mul(2);
        self.interval = self.longest.map_or(doubled, |longest| doubled.min(longest));
        self.timer.at = now + self.interval;
    }
}

/// The earlier of two timers; at the same time the one that ends things.
fn earlier(
    deadline: Option<Timer>,
    retransmission: Option<Retransmission>,
) -> Option<(Timestamp, &'static str)> {
    let again = retransmission.map(|retransmission| retransmission.timer);
    let first = match (deadline, again) {
        (Some(deadline), Some(again)) if again.at < deadline.at => Some(again),
        (Some(deadline), _) => Some(deadline),
        (None, again) => again,
    };
    first.map(|timer| (timer.at, timer.name))
}

/// The ACK for a non-2xx final response (§17.1.1.3): same Request-URI, top Via, Route and CSeq number as the INVITE, To
/// of the response.
pub fn ack_for_failure(invite: &Request, response: &Response) -> Request {
    let to = response.headers.get(&HeaderName::To).or(invite.headers.get(&HeaderName::To));
    of_invite(invite, Method::Ack, to)
}

/// The CANCEL for a request (§9.1): same Request-URI, Call-ID, From, To, top Via, Route, CSeq number.
pub fn cancel_for(invite: &Request) -> Request {
    of_invite(invite, Method::Cancel, invite.headers.get(&HeaderName::To))
}

fn of_invite(invite: &Request, method: Method, to: Option<&str>) -> Request {
    let mut request = Request::new(method, invite.uri.clone());
    let copy = |name: &HeaderName| invite.headers.get(name).map(str::to_owned);
    let headers = &mut request.headers;
    if let Some(via) = invite.headers.elements(&HeaderName::Via).next() {
        headers.push(HeaderName::Via, via);
    }
    for route in invite.headers.all(&HeaderName::Route) {
        headers.push(HeaderName::Route, route);
    }
    headers.push(HeaderName::MaxForwards, MAX_FORWARDS.to_string());
    for (name, value) in [
        (HeaderName::From, copy(&HeaderName::From)),
        (HeaderName::To, to.map(str::to_owned)),
        (HeaderName::CallId, copy(&HeaderName::CallId)),
        (HeaderName::CSeq, invite.cseq().map(|cseq| format!("{} {}", cseq.number, request.method))),
    ] {
        if let Some(value) = value {
            headers.push(name, value);
        }
    }
    request
}

#[cfg(test)]
mod tests;
