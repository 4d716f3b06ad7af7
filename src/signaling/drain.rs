//! Leaving with manners: a node that drains gives its calls up, passes on what still reaches it, and may be taken back
//! (design §4 "Takeover").
//!
//! Invariants: a call is given up only when all that was decided of it is stored, and nothing new is decided meanwhile
//! (`silence`); given-up calls are watched until others have them; where nobody can take calls they stay.

use super::calls::Slot;
use super::silence::Silence;
use super::takeover::CLAIMED_WITHIN;
use super::worker::Worker;
use crate::call::Save;
use crate::control::PeerFrame;
use crate::ids::{CallId, NodeName};
use crate::time::Timestamp;
use crate::views::{CallState, Happening};
use core::time::Duration;

/// What was decided must be stored within this, or the calls stay for now.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between two tries to give calls up.
const RETRY: Duration = Duration::from_secs(1);
/// A claim that was sent in time may come true so much later.
const MARGIN: Duration = Duration::from_secs(1);
/// A leaving node waits so many milliseconds for its links to take its last words.
const LAST_WORDS: u32 = 200;
/// And so many for its connections to be let go.
const LAST_CONNECTIONS: u32 = 1_000;

/// A drain under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Drain {
    pub started_at: Timestamp,
    /// Of a node that stops. Who was drained by an operator keeps what nobody takes until it is over.
    pub deadline_at: Option<Timestamp>,
}

/// Calls that were given up.
#[derive(Debug, Default)]
pub(super) struct GivenUp {
    /// No other try before.
    retry_at: Timestamp,
    /// Who was told may claim them until then.
    theirs_until: Timestamp,
    /// The store is asked whether others have them all.
    is_watched: bool,
    /// Those that nobody had taken when it was asked last.
    untaken: usize,
}

impl GivenUp {
    /// What nobody has taken by then comes back.
    pub(super) fn watch_from(&mut self, at: Timestamp) {
        (self.is_watched, self.retry_at) = (true, at);
    }

    /// Others were told that they may claim them.
    pub(super) fn told(&mut self, now: Timestamp) {
        self.theirs_until = now + CLAIMED_WITHIN + MARGIN;
    }

    /// They were told that they may not any more.
    pub(super) fn take_back(&mut self) {
        self.theirs_until = Timestamp::EPOCH;
    }

    /// Somebody may be claiming them still.
    pub(super) fn are_theirs(&self, now: Timestamp) -> bool {
        now < self.theirs_until
    }

    /// The store is to be asked which of them nobody has taken.
    pub(super) fn is_watched(&self, now: Timestamp) -> bool {
        self.is_watched && self.retry_at <= now
    }
}

impl Worker {
    /// An operator's order for any node: this one, a media node, or a peer, which is told.
    pub(super) fn set_drain(&mut self, node: &str, drain: bool, end_calls: bool) -> bool {
        // A node that is both has one name and two halves.
        let is_media = self.media.drain(node, drain);
        if node == &*self.settings.node.0 {
            self.drain_self(drain, end_calls);
            return true;
        }
        let order = PeerFrame::Drain { drain, end_calls };
        self.peers.send(&NodeName(node.into()), order) || is_media
    }

    /// No new calls from now on, and those that are here go to others; or everything as before.
    pub(super) fn drain_self(&mut self, drain: bool, end_calls: bool) {
        if drain != self.draining.is_some() {
            self.tell(if drain { Happening::NodeDraining } else { Happening::NodeUndrained });
        }
        let begun = Drain { started_at: self.now, deadline_at: None };
        self.draining = drain.then(|| self.draining.unwrap_or(begun));
        self.given_up.retry_at = self.now;
        self.peers.broadcast(&PeerFrame::Draining(drain));
        if !drain && self.given_up.is_watched {
            // What nobody has taken yet nobody is to take.
            self.peers.broadcast(&PeerFrame::TakenBack);
            self.given_up.take_back();
        }
        match (drain, end_calls) {
            (true, true) => self.ending = self.calls.ids(|_| true).into(),
            (true, false) => {}
            (false, _) => self.ending.clear(),
        }
    }

    /// Calls that are this node's to give up, and those that it gave up and nobody has taken yet.
    pub(super) fn remaining_calls(&self) -> usize {
        let here = self.calls.iter().filter(|(_, slot)| slot.is_owned()).count();
        here + self.given_up.untaken
    }

    /// Others take calls, and this node is not to have any.
    pub(super) fn is_leaving(&self) -> bool {
        self.draining.is_some() && self.peers.has_taker()
    }

    /// It is time to give all calls up.
    pub(super) fn gives_up_calls(&self) -> bool {
        self.is_leaving()
            && self.ending.is_empty()
            && self.given_up.retry_at <= self.now
            && !self.committer.is_failing()
            && self.calls.iter().any(|(_, slot)| slot.is_owned())
    }

    /// What waits to be saved with something else is saved now, and nothing new is taken in until it is stored. A call
    /// that has not told its phones anything yet stays for a moment longer: nobody could carry it on.
    pub(super) fn begin_giving_up(&mut self) {
        if self.silence.is_some() || !self.gives_up_calls() {
            return;
        }
        self.given_up.retry_at = self.now + RETRY;
        for id in self.calls.ids(|slot| slot.call.state() != CallState::Trying) {
            self.save_call_now(id);
        }
        self.silence = Some(Silence::GivingUp(self.now + PATIENCE));
    }

    /// Gives all calls up that are stored. False: nobody takes them, or something is not stored yet.
    pub(super) fn give_up_calls(&mut self) -> bool {
        if !self.peers.has_taker() || !self.committer.is_idle() {
            return false;
        }
        // The end that a phone has not acknowledged yet nobody else would tell it.
        let is_given =
            |slot: &Slot| slot.stored.0 > 0 && slot.stored == slot.saved && slot.is_owned();
        let ids = self.calls.ids(is_given);
        ids.iter().for_each(|id| self.let_go(*id));
        // What phones repeat here is of calls that others have.
        self.expect_repeats();
        self.peers.tell_takers(&PeerFrame::HandOver);
        self.given_up.told(self.now);
        self.given_up.is_watched = true;
        self.given_up.untaken = ids.len();
        tracing::info!("{} calls handed over", ids.len());
        true
    }

    /// What nobody has taken is offered again; with nobody left to take it, it comes back here.
    pub(super) fn note_still_owned(&mut self, mut owned: Vec<CallId>) {
        if !self.given_up.is_watched(self.now) {
            return;
        }
        owned.retain(|id| self.calls.get(*id).is_none());
        self.given_up.untaken = owned.len();
        // A call that the store knows nothing of yet will be ours when it does.
        let is_given = |save: &Save| !save.ended && self.calls.get(save.id).is_none();
        self.given_up.is_watched = !owned.is_empty() || self.committer.owed_saves().any(is_given);
        if owned.is_empty() {
            return;
        }
        if self.is_leaving() {
            self.given_up.told(self.now);
            return self.peers.tell_takers(&PeerFrame::HandOver);
        }
        if self.given_up.are_theirs(self.now) {
            return;
        }
        // What was decided of a call before it was given up is stored before it comes back.
        owned.retain(|id| !self.committer.owes(*id));
        for id in owned {
            if !self.claim_own(id) {
                // The rest when these are done.
                return;
            }
        }
    }

    /// The process ends: its last words leave, and its connections are let go for a sibling.
    pub(super) async fn leave(&mut self) {
        if self.is_leaving() {
            self.leaves.send_replace(true);
            for _ in 0..LAST_CONNECTIONS {
                if !self.sockets.has_connections() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        for _ in 0..LAST_WORDS {
            if self.peers.is_flushed() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::Input;
    use crate::control::Frame;
    use crate::signaling::errand::{Claim, Errand};
    use crate::signaling::pass_on::{Stray, Whereabouts};
    use crate::signaling::samples;
    use crate::store::CallOutcome;

    fn claims(worker: &mut Worker) -> Vec<Claim> {
        let errands = samples::errands(worker).into_iter();
        let claims = errands.filter_map(|errand| match errand {
            Errand::ClaimAll(claim) => Some(claim),
            _ => None,
        });
        claims.collect()
    }

    #[tokio::test]
    async fn what_a_living_node_gave_up_is_claimed_in_time_or_not_at_all() {
        let mut worker = samples::worker();
        let _told = samples::peer(&mut worker);
        worker.handle_peer(1, PeerFrame::HandOver);
        let handed = claims(&mut worker);
        assert_eq!(
            handed.iter().map(|claim| claim.patience).collect::<Vec<_>>(),
            [Some(CLAIMED_WITHIN)]
        );
        worker.handle_peer(1, PeerFrame::TakenBack);
        let stops = samples::errands(&mut worker);
        assert!(stops.iter().any(|errand| matches!(errand, Errand::StopClaim(_))));
        worker.claim_from(handed[0].from);
        assert_eq!(claims(&mut worker)[0].patience, None, "of a dead one");
    }

    /// Its row is nobody's to claim.
    #[tokio::test]
    async fn a_call_whose_end_is_being_told_is_not_given_up() {
        let mut worker = samples::worker();
        let _told = samples::peer(&mut worker);
        worker.adopt(samples::answered());
        worker.drain_self(true, false);
        assert!(worker.gives_up_calls());
        worker.input(CallId(7), Input::Hangup { reason: None });
        worker.now = worker.now + Duration::from_secs(40);
        worker.wake_call(CallId(7));
        let end = worker.committer.owed_saves().find(|save| save.ended).cloned();
        worker.committer.poll_batch(worker.now).expect("due");
        worker.handle_committed(Ok(vec![CallOutcome::Done]));
        assert!(end.is_some());
        assert!(!worker.gives_up_calls());
        assert!(worker.give_up_calls());
        assert!(worker.calls.get(CallId(7)).is_some());
        assert_eq!(worker.remaining_calls(), 0);
    }

    #[tokio::test]
    async fn an_undrained_node_says_that_it_takes_its_calls_back() {
        let mut worker = samples::worker();
        let mut told = samples::peer(&mut worker);
        let mut takes_back = |worker: &mut Worker| {
            worker.drain_self(true, false);
            worker.drain_self(false, false);
            let frames = core::iter::from_fn(|| told.try_recv().ok()).collect::<Vec<_>>();
            frames.iter().any(|frame| matches!(frame, Frame::Peer(PeerFrame::TakenBack)))
        };
        assert!(!takes_back(&mut worker), "nothing was given up");
        worker.given_up.told(worker.now);
        worker.given_up.watch_from(worker.now);
        assert!(takes_back(&mut worker));
        assert!(!worker.given_up.are_theirs(worker.now));
    }

    #[tokio::test]
    async fn what_others_may_be_claiming_is_not_taken_back() {
        let mut worker = samples::worker();
        worker.given_up.told(worker.now);
        worker.given_up.watch_from(worker.now);
        let taken_back = |worker: &mut Worker| {
            worker.note_still_owned(vec![CallId(9)]);
            let errands = samples::errands(worker);
            let is_claimed = errands.iter().any(|errand| matches!(errand, Errand::ClaimFor(..)));
            worker.note_still_owned(vec![CallId(9)]);
            let again = samples::errands(worker);
            assert!(again.is_empty(), "once, until it is known what came of it: {again:?}");
            worker.handle_stray_found(Stray::none(CallId(9)), Whereabouts::Unknown);
            is_claimed
        };
        assert!(!taken_back(&mut worker));
        worker.now = worker.now + CLAIMED_WITHIN + MARGIN;
        assert!(taken_back(&mut worker));
        worker.given_up.told(worker.now);
        assert!(!taken_back(&mut worker));
        worker.given_up.take_back();
        assert!(taken_back(&mut worker), "they were told");
        worker.committer.save(samples::save(9, 1));
        assert!(!taken_back(&mut worker), "the store has an older state of it");
        worker.committer.forget(CallId(9));
        worker.given_up.watch_from(worker.now + RETRY);
        assert!(!taken_back(&mut worker), "not yet");
    }

    #[tokio::test]
    async fn what_was_given_up_is_watched_until_the_store_knows_of_it() {
        let mut worker = samples::worker();
        worker.committer.save(samples::save(9, 1));
        worker.given_up.watch_from(worker.now);
        worker.note_still_owned(Vec::new());
        assert!(worker.given_up.is_watched(worker.now), "its row comes when the store is back");
        worker.committer.forget(CallId(9));
        worker.note_still_owned(Vec::new());
        assert!(!worker.given_up.is_watched(worker.now));
    }
}
