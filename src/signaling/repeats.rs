//! The same INVITE at two nodes: after a node came or went, or stood still, what comes here as new may be the repeat of
//! one that another node has made a call of. Only the store knows; the journal takes both.
//!
//! Invariants: nothing is said of a call that the store does not know yet, for as long as repeats are expected and the
//! store may answer soon; in an outage, and where there never was another node, nobody waits.

use super::asked::AskedInvites;
use super::calls::Slot;
use super::worker::Worker;
use crate::ids::{CallId, Rev};
use crate::limits;
use crate::time::Timestamp;
use crate::views::CallState;
use core::time::Duration;
use std::collections::{HashMap, VecDeque};

/// A store that is slow is waited for so long before the journal is enough.
const PATIENCE: Duration = Duration::from_secs(2);

/// A call that rings at phones is claimed, or its phones give up, within that time; where the store is away for longer,
/// and phones ring for longer, it is taken up beside the other.
const BESIDE: Duration = Duration::from_secs(300);

/// What the journal has of new calls, and whether that is enough.
#[derive(Debug, Default)]
pub(super) struct Repeats {
    /// A phone repeats its INVITE for so long (RFC 3261 §17.1.1.2: Timer B).
    until: Option<Timestamp>,
    /// In the journal, and not known to be in the store: until when that is waited for.
    waiting: VecDeque<(Timestamp, CallId, Rev)>,
    /// INVITEs that peers are asked for first.
    pub asked: AskedInvites,
    /// Calls of the store whose callers talk in one of ours, that the same INVITE made; for so long.
    beside: HashMap<CallId, Timestamp>,
    /// INVITEs of which the store has another call, and until when they are said again.
    of_others: HashMap<[u8; 16], (CallId, Timestamp)>,
}

impl Repeats {
    /// A node came, went or stood still.
    pub(super) fn are_expected(&self, now: Timestamp) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    /// The store has that call of an INVITE.
    pub(super) fn note_other(&mut self, key: [u8; 16], call: CallId, now: Timestamp) {
        self.of_others.retain(|_, (_, until)| now < *until);
        self.of_others.insert(key, (call, now + limits::TRANSACTION_TIMEOUT));
    }

    /// The caller of that call talks in one of ours.
    pub(super) fn note_beside(&mut self, call: CallId, now: Timestamp) {
        self.beside.retain(|_, until| now < *until);
        self.beside.insert(call, now + BESIDE);
    }

    fn is_beside(&self, call: CallId, now: Timestamp) -> bool {
        self.beside.get(&call).is_some_and(|until| now < *until)
    }

    /// Which call the store has of an INVITE, as it said lately.
    pub(super) fn other_of(&self, key: &[u8; 16], now: Timestamp) -> Option<CallId> {
        let (call, _) = self.of_others.get(key).filter(|(_, until)| now < *until)?;
        Some(*call)
    }

    /// When a wait ends.
    pub(super) fn next_timeout(&self) -> Option<Timestamp> {
        let journaled = self.waiting.front().map(|(until, ..)| *until);
        journaled.into_iter().chain(self.asked.next_timeout()).min()
    }
}

impl Worker {
    /// Phones may say here from now on what they said to another node before.
    pub(super) fn expect_repeats(&mut self) {
        self.repeats.until = Some(self.now + limits::TRANSACTION_TIMEOUT);
    }

    /// The journal has that rev of a call: what waited for it leaves, at once or when the store had its say.
    pub(super) fn release_journaled(&mut self, id: CallId, rev: Rev) {
        let is_expected = self.repeats.are_expected(self.now);
        let is_new = self.calls.get(id).is_some_and(|slot| slot.committed.0 == 0);
        if is_expected && is_new && !self.committer.is_failing() {
            self.repeats.waiting.push_back((self.now + PATIENCE, id, rev));
        } else {
            self.release(id, rev);
        }
    }

    /// Who waited long enough. A commit that failed meanwhile may have been done: the next one tells.
    pub(super) fn end_waits(&mut self) {
        self.end_asking();
        while let Some((until, id, rev)) = self.repeats.waiting.front().copied()
            && until <= self.now
        {
            self.repeats.waiting.pop_front();
            self.release(id, rev);
        }
    }

    /// Another node has a call of that INVITE: one of which nothing was said here was never there.
    pub(super) fn give_way(&mut self, key: &[u8; 16]) {
        let Some(id) = self.calls.of_key(key) else { return };
        let is_unsaid = self.repeats.waiting.iter().any(|(_, waiting, _)| *waiting == id);
        if is_unsaid && self.calls.get(id).is_some_and(|slot| slot.committed.0 == 0) {
            tracing::warn!(call.id = %id, "call {id} is another node's already");
            self.drop_unsaid(id);
        }
    }

    /// The caller of a call that comes here talks already, in one of ours that its INVITE made too, whether the store
    /// has said so or is still to say it.
    pub(super) fn has_caller_of(&self, call: CallId, key: &[u8; 16]) -> bool {
        let other = self.calls.of_key(key).filter(|other| *other != call);
        let talks = |slot: &Slot| slot.committed.0 > 0 && slot.call.state() == CallState::Confirmed;
        self.repeats.is_beside(call, self.now)
            || other.and_then(|other| self.calls.get(other)).is_some_and(talks)
    }

    /// Messages that waited for that rev leave.
    pub(super) fn release(&mut self, id: CallId, rev: Rev) {
        for transmit in self.calls.commit(id, rev) {
            self.send(id, transmit);
        }
        self.tell_originator(id);
        self.tell_steering(id, rev);
        self.forget_if_over(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{Frame, PeerFrame};
    use crate::signaling::samples;
    use crate::store::{CallOutcome, StoreError};

    /// A call that neither the store nor anybody outside knows.
    fn new_call(worker: &mut Worker) -> Rev {
        worker.adopt(samples::ringing());
        let slot = worker.calls.get_mut(CallId(7)).expect("adopted");
        (slot.committed, slot.stored) = (Rev(0), Rev(0));
        worker.sockets.driver().sent.clear();
        slot_rev(worker)
    }

    fn slot_rev(worker: &Worker) -> Rev {
        worker.calls.get(CallId(7)).expect("there").saved
    }

    fn committed(worker: &Worker) -> Rev {
        worker.calls.get(CallId(7)).expect("there").committed
    }

    #[tokio::test]
    async fn a_new_call_waits_for_the_store_only_when_it_may_be_a_repeat() {
        let mut worker = samples::worker();
        let rev = new_call(&mut worker);
        worker.release_journaled(CallId(7), rev);
        assert_eq!(committed(&worker), rev, "no other node was ever there");
        let rev = new_call_again(&mut worker);
        worker.expect_repeats();
        worker.release_journaled(CallId(7), rev);
        worker.end_waits();
        assert_eq!(committed(&worker), Rev(0), "the store may know it by another id");
        worker.now = worker.now + PATIENCE;
        worker.end_waits();
        assert_eq!(committed(&worker), rev, "a slow store is not waited for longer");
    }

    #[tokio::test]
    async fn in_an_outage_the_journal_is_enough() {
        let mut worker = samples::worker();
        let rev = new_call(&mut worker);
        worker.expect_repeats();
        worker.committer.save(samples::save(9, 1));
        worker.committer.poll_batch(worker.now + PATIENCE).expect("due");
        worker.handle_committed(Err(StoreError::Unavailable("refused".to_owned())));
        worker.release_journaled(CallId(7), rev);
        assert_eq!(committed(&worker), rev);
    }

    #[tokio::test]
    async fn a_repeat_is_let_go_without_a_word() {
        let mut worker = samples::worker();
        let rev = new_call(&mut worker);
        worker.expect_repeats();
        worker.release_journaled(CallId(7), rev);
        worker.handle_outcome(&samples::save(7, rev.0), CallOutcome::Duplicate(CallId(3)));
        worker.now = worker.now + PATIENCE;
        worker.end_waits();
        assert!(worker.calls.get(CallId(7)).is_none());
        assert!(worker.sockets.driver().sent.is_empty(), "nobody was told of it");
    }

    /// It was claimed from a dead node meanwhile.
    #[tokio::test]
    async fn a_repeat_gives_way_to_the_call_that_a_peer_has() {
        for (is_said, stays) in [(false, false), (true, true)] {
            let mut worker = samples::worker();
            samples::peer(&mut worker);
            let rev = new_call(&mut worker);
            worker.expect_repeats();
            worker.release_journaled(CallId(7), rev);
            if is_said {
                worker.now = worker.now + PATIENCE;
                worker.end_waits();
            }
            worker.handle_peer(1, PeerFrame::InviteSeen { key: [7; 16], here: false });
            assert!(worker.calls.get(CallId(7)).is_some());
            worker.handle_peer(1, PeerFrame::InviteSeen { key: [7; 16], here: true });
            assert_eq!(worker.calls.get(CallId(7)).is_some(), stays, "said: {is_said}");
        }
    }

    #[tokio::test]
    async fn peers_hear_of_a_call_that_rings_and_came_here() {
        for (claimed, count) in [(samples::ringing(), 1), (samples::answered(), 0)] {
            let mut worker = samples::worker();
            let mut told = samples::peer(&mut worker);
            worker.adopt(claimed);
            let seen = Frame::Peer(PeerFrame::InviteSeen { key: [7; 16], here: true });
            let frames = core::iter::from_fn(|| told.try_recv().ok());
            assert_eq!(frames.filter(|frame| *frame == seen).count(), count);
        }
    }

    fn new_call_again(worker: &mut Worker) -> Rev {
        let slot = worker.calls.get_mut(CallId(7)).expect("adopted");
        (slot.committed, slot.stored) = (Rev(0), Rev(0));
        slot_rev(worker)
    }
}
