//! Claims whose answer was lost: the store may have made calls ours of which we know nothing, and while we live nobody
//! else claims them. So the store is asked again until it has said (design §4 "Ownership").
//!
//! Invariant: a call is claimed anew only when two looks in a row find it ours and unknown here: what is on its way
//! here by another claim, or leaves by a commit, is seen once.

use super::errand::{Claim, Errand};
use super::pass_on::Stray;
use super::worker::Worker;
use crate::ids::CallId;
use crate::time::Timestamp;
use core::time::Duration;
use std::collections::BTreeSet;
use tokio::sync::oneshot;

/// A claim that was given up may come true so long afterwards: what the store does, it does by then.
const PATIENCE: Duration = Duration::from_secs(12);

/// What the store may have made ours.
#[derive(Debug, Default)]
pub(super) struct Unheard {
    /// Until then at least the store is asked.
    until: Option<Timestamp>,
    /// Ours by the last look, and not here.
    unknown: BTreeSet<CallId>,
    /// On their way here by a claim of ours: a second one would fence what the first one brought.
    claimed: BTreeSet<CallId>,
    /// Claimers did not live to save these. We have not yet: whoever claimed them for us waits.
    suspects: Vec<(CallId, oneshot::Sender<()>)>,
}

impl Worker {
    /// A claim failed, perhaps after it came true; or the store calls something ours that is not here.
    pub(super) fn doubt_claims(&mut self) {
        self.unheard.until = Some(self.now + PATIENCE);
    }

    /// A call that the store calls ours comes back. False: too much is under way.
    pub(super) fn claim_own(&mut self, id: CallId) -> bool {
        if !self.unheard.claimed.insert(id) {
            return true;
        }
        let own = self.settings.incarnation;
        let is_asked = self.errands.run(Errand::ClaimFor(Stray::none(id), Claim::of_own(own)));
        if !is_asked {
            self.unheard.claimed.remove(&id);
        }
        is_asked
    }

    /// A call came here that a claimer did not live to save. Its claims are counted until it is saved, and it is no
    /// suspect any more: were the next one claimed before, that one's fault would be counted for it.
    pub(super) fn await_save(&mut self, id: CallId, lived: oneshot::Sender<()>) {
        self.save_call_now(id);
        self.unheard.suspects.push((id, lived));
        self.end_waits_for_saves();
    }

    /// Some are saved, or ended.
    pub(super) fn end_waits_for_saves(&mut self) {
        let is_over = |(id, _): &mut (CallId, oneshot::Sender<()>)| {
            self.calls.get(*id).is_none_or(|slot| slot.stored >= slot.saved)
        };
        for (_, lived) in self.unheard.suspects.extract_if(.., is_over) {
            // The claim may have been given up.
            let _ = lived.send(());
        }
    }

    /// What came of it.
    pub(super) fn end_own_claim(&mut self, id: CallId) {
        self.unheard.claimed.remove(&id);
    }

    pub(super) fn is_in_doubt(&self) -> bool {
        self.unheard.until.is_some()
    }

    /// The store has said what is ours. A node that gives its calls up leaves them to others.
    pub(super) fn clear_doubt(&mut self, owned: &[CallId]) {
        if !self.is_in_doubt() || self.is_leaving() || self.given_up.are_theirs(self.now) {
            return;
        }
        let is_here = |id: &CallId| self.calls.get(*id).is_some() || self.committer.owes(*id);
        let unknown: BTreeSet<CallId> = owned.iter().copied().filter(|id| !is_here(id)).collect();
        let known = core::mem::take(&mut self.unheard.unknown);
        for id in unknown.intersection(&known) {
            tracing::warn!(call.id = %id, "call {id} became ours unheard: it is claimed again");
            self.claim_own(*id);
        }
        if unknown.is_empty() && self.unheard.until.is_some_and(|until| until <= self.now) {
            self.unheard.until = None;
        }
        self.unheard.unknown = unknown;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Rev;
    use crate::signaling::samples;
    use crate::store::{CallOutcome, ClaimedCall};

    fn claimed(worker: &mut Worker) -> Vec<CallId> {
        let errands = samples::errands(worker).into_iter();
        let claims = errands.filter_map(|errand| match errand {
            Errand::ClaimFor(stray, ..) => Some(stray.call),
            _ => None,
        });
        claims.collect()
    }

    #[tokio::test]
    async fn the_next_suspect_is_claimed_when_the_one_before_is_saved() {
        let mut worker = samples::worker();
        let (lived, mut waits) = oneshot::channel();
        worker.handle_suspect(ClaimedCall { rev: Rev(0), ..samples::ringing() }, lived);
        assert!(waits.try_recv().is_err(), "its claims are counted still");
        let batch = worker.committer.poll_batch(worker.now).expect("at once");
        assert_eq!(batch.calls.len(), 1);
        worker.handle_committed(Ok(vec![CallOutcome::Done]));
        assert_eq!(waits.try_recv(), Ok(()));
        let (lived, mut waits) = oneshot::channel();
        let unreadable = ClaimedCall { id: CallId(8), record: Vec::new(), ..samples::ringing() };
        worker.handle_suspect(unreadable, lived);
        assert_eq!(waits.try_recv(), Ok(()), "it is only ended");
    }

    #[tokio::test]
    async fn what_became_ours_unheard_is_claimed_again() {
        let mut worker = samples::worker();
        worker.adopt(samples::answered());
        worker.committer.save(samples::save(8, 1));
        let owned = || Ok([7, 8, 9].map(CallId).to_vec());
        worker.handle_proven(owned());
        worker.handle_proven(owned());
        assert_eq!(claimed(&mut worker), [], "nobody doubts");
        worker.doubt_claims();
        worker.handle_proven(owned());
        assert_eq!(claimed(&mut worker), [], "it may be on its way here");
        worker.handle_proven(owned());
        assert_eq!(claimed(&mut worker), [CallId(9)], "7 is here, 8 is leaving by a commit");
        assert!(worker.is_in_doubt());
        worker.now = worker.now + PATIENCE;
        worker.handle_proven(Ok(vec![CallId(7)]));
        assert!(!worker.is_in_doubt());
    }
}
