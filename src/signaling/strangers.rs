//! Senders whose credentials are wrong as far as this node knows. An operator may have made the user, or changed its
//! password, at another node a moment ago: the change feed is read before such a sender is refused.
//!
//! Invariants: a request waits for one reading that begins after it came, and is judged then, whatever came of the
//! reading; those that wait are bounded, and however many come, the feed is read at most every `feed::PAUSE`.

use super::worker::Worker;
use crate::ids::Flow;
use crate::sip::Request;
use std::collections::VecDeque;

/// Requests that wait; more are judged at once.
const MOST: usize = 256;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Strangers {
    /// Each behind the number of its question to the feed.
    waiting: VecDeque<(u64, Request, Flow)>,
    /// The request that is being handled has waited.
    has_waited: bool,
}

impl Strangers {
    /// The request that is being handled was handled before, up to its credentials.
    pub(super) const fn has_waited(&self) -> bool {
        self.has_waited
    }
}

impl Worker {
    /// True: the request is handled again when the feed was read.
    pub(super) fn reads_again_for(&mut self, request: &Request, flow: &Flow) -> bool {
        let strangers = &self.strangers;
        let has_room = strangers.waiting.len() < MOST;
        if !self.store_readable || strangers.has_waited || !has_room {
            return false;
        }
        let number = self.read_feed();
        self.strangers.waiting.push_back((number, request.clone(), *flow));
        true
    }

    /// Number of the question: it is answered by `handle_read`.
    pub(super) fn read_feed(&self) -> u64 {
        self.feed.questions.send_modify(|number| *number += 1);
        *self.feed.questions.borrow()
    }

    /// The feed was read, or could not be, after these questions.
    pub(super) fn handle_read(&mut self, number: u64) {
        let strangers = &mut self.strangers;
        let answered = strangers.waiting.partition_point(|(asked, ..)| *asked <= number);
        let answered: Vec<_> = strangers.waiting.drain(..answered).collect();
        self.strangers.has_waited = true;
        for (_, request, flow) in answered {
            self.handle_outside(request, flow);
        }
        self.strangers.has_waited = false;
    }
}
