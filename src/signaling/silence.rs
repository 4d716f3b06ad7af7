//! Times in which a node takes nothing in and says nothing: until the store has said which calls are still its own, and
//! while what was decided is stored before all calls are given up.
//!
//! Invariants: what came, and what comes, waits in its inlet and in its order; every silence has a deadline.

use super::calls::Slot;
use super::errand::Errand;
use super::wakeup::Wakeup;
use super::worker::Worker;
use crate::ids::CallId;
use crate::store::StoreError;
use crate::time::Timestamp;
use std::collections::HashSet;

/// Why nothing is said, and until when at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Silence {
    /// This process stood still: others may have claimed its calls.
    Proving(Timestamp),
    /// All calls are about to be given up.
    GivingUp(Timestamp),
}

impl Silence {
    const fn until(self) -> Timestamp {
        match self {
            Self::Proving(until) | Self::GivingUp(until) => until,
        }
    }

    const fn awaits(self, wakeup: &Wakeup) -> bool {
        match self {
            Self::Proving(_) => matches!(wakeup, Wakeup::Proven(_)),
            Self::GivingUp(_) => matches!(wakeup, Wakeup::Committed(_) | Wakeup::Journaled(..)),
        }
    }
}

impl Worker {
    /// A process that was stopped, or starved, may have lost its calls meanwhile: it proves its ownership before it
    /// says another word.
    pub(super) fn notice_gap(&mut self, now: Timestamp) {
        let gap = now.saturating_since(self.now);
        self.now = now;
        let is_proving = matches!(self.silence, Some(Silence::Proving(_)));
        if gap <= self.lease / 2 || self.store.is_embedded() || is_proving {
            return;
        }
        tracing::warn!(
            "this process stood still for {} ms: it asks which calls are still its own",
            gap.as_millis()
        );
        self.silence = Some(Silence::Proving(now + self.lease));
        self.leases.forget();
        self.peers.forget_silence();
        if !self.peers.is_alone() {
            self.expect_repeats();
            self.repeats.asked.meet_again(now);
        }
        self.errands.run(Errand::Prove);
    }

    /// Takes out of the wakeups what a silence waits for. False: there is none, or it is over.
    pub(super) fn keep_silence(&mut self, wakeups: &mut Vec<Wakeup>) -> bool {
        let Some(silence) = self.silence else { return false };
        let awaited: Vec<Wakeup> =
            wakeups.extract_if(.., |wakeup| silence.awaits(wakeup)).collect();
        for wakeup in awaited {
            self.guard(|worker| worker.handle_wakeup(wakeup));
        }
        if matches!(silence, Silence::GivingUp(_)) {
            self.begin_commit();
            self.begin_journal();
            if self.give_up_calls() {
                self.silence = None;
            }
        }
        if silence.until() <= self.now {
            // A store that cannot be asked gave the calls to nobody, and takes none.
            self.silence = None;
        }
        self.silence.is_some()
    }

    /// When a silence wants a turn.
    pub(super) fn silence_timeout(&self) -> Option<Timestamp> {
        let silence = self.silence?;
        let commits = matches!(silence, Silence::GivingUp(_));
        let commit_at = self.committer.next_timeout().filter(|_| commits);
        Some(commit_at.map_or(silence.until(), |at| at.min(silence.until())))
    }

    /// The store has said which calls are ours. Those that others claimed are dropped without a word.
    pub(super) fn handle_proven(&mut self, owned: Result<Vec<CallId>, StoreError>) {
        let is_proof = matches!(self.silence, Some(Silence::Proving(_)));
        if is_proof {
            self.silence = None;
        }
        let Ok(owned) = owned else { return };
        if is_proof {
            self.drop_lost(&owned.iter().copied().collect());
        }
        self.clear_doubt(&owned);
        self.note_still_owned(owned);
    }

    fn drop_lost(&mut self, owned: &HashSet<CallId>) {
        // What has ended in the store is nobody's; what it still owes to phones is paid here.
        let is_lost = |slot: &Slot| {
            slot.stored.0 > 0 && !slot.has_ended() && !owned.contains(&slot.call.id())
        };
        let lost = self.calls.ids(is_lost);
        for id in &lost {
            self.committer.forget(*id);
            self.let_go(*id);
        }
        tracing::warn!("{} calls were claimed by others meanwhile", lost.len());
    }
}
