//! Outage or exile? A node that cannot ask the store asks its peers whether they can (design §4).
//!
//! Invariants: nobody gives calls up unless a peer has just proven that the store takes its writes; what is owed goes
//! to it before the calls do. When nobody can, or nobody is there, it is an outage: ownership stays as it is.

use super::calls::Slot;
use super::errand::Errand;
use super::media_pool::LinkNumber;
use super::worker::Worker;
use crate::call::Save;
use crate::control::PeerFrame;
use crate::ids::{Flow, NodeName};
use crate::time::Timestamp;
use crate::views::CallState;
use bytes::Bytes;
use core::time::Duration;

/// The store, which is looked at each second, has not answered for so long: peers are asked. Well before two leases are
/// over, when others would take this node for dead.
const BLIND_FOR: Duration = Duration::from_secs(2);
/// And this node is cut off when a peer reaches the store at once that has not answered us for so long: before two
/// leases are over.
const CUT_OFF_AFTER: Duration = Duration::from_secs(4);
/// A store that answers a peer in this time is not slow.
pub(super) const AT_ONCE: Duration = Duration::from_millis(500);
/// That a node is cut off is known, and its calls are with the peer, so long after what was given to the store.
const HANDED_WITHIN: Duration = Duration::from_millis(100);
/// After it is back this node waits so long for who has its calls to claim them.
const GIVEN_FOR: Duration = Duration::from_secs(5);

/// Whether this node reaches the store, and who does in its place.
#[derive(Debug, Default)]
pub(super) struct Refuge {
    /// When the store answered last; none before it did.
    seen_at: Option<Timestamp>,
    /// It has our calls.
    at: Option<NodeName>,
}

impl Refuge {
    pub(super) fn at(&self) -> Option<&NodeName> {
        self.at.as_ref()
    }

    fn is_blind(&self, now: Timestamp) -> bool {
        self.seen_at.is_some_and(|at| now.saturating_since(at) >= BLIND_FOR)
    }
}

impl Worker {
    /// The store does not answer.
    pub(super) fn lose_sight(&mut self) {
        self.leases.forget();
    }

    /// The store answers.
    pub(super) fn see_again(&mut self) {
        self.refuge.seen_at = Some(self.now);
        if let Some(name) = self.refuge.at.take() {
            self.expect_repeats();
            self.given_up.watch_from(self.now + GIVEN_FOR);
            if self.peers.send(&name, PeerFrame::TakenBack) {
                self.given_up.take_back();
            }
            tracing::warn!("the store is reached again: this node needs {name} no more");
        }
    }

    /// Asks the peers when it is time.
    pub(super) fn seek_refuge(&mut self) {
        let lost = |name: &NodeName| self.peers.iter().all(|(up, _)| up != name);
        if self.refuge.at.as_ref().is_some_and(lost) {
            self.refuge.at = None;
        }
        if self.refuge.at.is_none() && self.refuge.is_blind(self.now) {
            self.peers.broadcast(&PeerFrame::AskStore);
        }
    }

    /// A peer cannot reach the store: can we? It is tried, for what was so a second ago says little.
    pub(super) fn answer_store(&mut self, link: LinkNumber) {
        if let Some(name) = self.peers.name_of(link).cloned() {
            self.errands.run(Errand::AskStore(name));
        }
    }

    /// The store was asked for a peer.
    pub(super) fn tell_store_works(&self, name: &NodeName) {
        self.peers.send(name, PeerFrame::StoreWorks);
    }

    /// A peer says that the store works: we are cut off if it does not answer us. It may have come back meanwhile.
    /// After a whole lease others may have calls of ours: whose they are is known in a moment, and until then nobody
    /// is told what only our journal keeps.
    pub(super) fn ask_again(&mut self, link: LinkNumber) {
        let Some(seen_at) = self.refuge.seen_at else { return };
        let left = (seen_at + CUT_OFF_AFTER).saturating_since(self.now).max(AT_ONCE);
        if self.now.saturating_since(seen_at) >= self.lease {
            self.committer.hold_journal(self.now + left + HANDED_WITHIN);
        }
        self.errands.run(Errand::AskAgain(link, left));
    }

    /// A peer reaches the store, and we do not: it gets our calls, and what their store was not told yet.
    pub(super) fn take_refuge(&mut self, link: LinkNumber) {
        let Some(name) = self.peers.name_of(link).cloned() else { return };
        if !self.refuge.is_blind(self.now) || self.refuge.at.is_some() {
            return;
        }
        for id in self.calls.ids(|_| true) {
            self.save_call_now(id);
        }
        let mut saves: Vec<Save> = self.committer.owed_saves().cloned().collect();
        saves.extend(self.rows().into_iter().filter(|row| !self.committer.owes(row.id)));
        self.entrust_to(&name, &saves);
        self.entrusted.send(&saves, self.now);
        // What has ended is only answered for, and by who ended it, once its phones know.
        let goes =
            |slot: &Slot| slot.call.state() != CallState::Terminating || slot.call.is_unfinished();
        let ids = self.calls.ids(goes);
        for id in &ids {
            self.peers.learn(*id, name.clone());
            self.let_go(*id);
        }
        self.peers.send(&name, PeerFrame::HandOver);
        self.given_up.told(self.now);
        tracing::warn!(
            "this node is cut off from the store, which {name} reaches: its {} calls go there, and \
             all that phones say to it",
            ids.len()
        );
        self.refuge.at = Some(name);
    }

    /// Where our calls are, everything goes. False: they are here.
    pub(super) fn pass_to_refuge(&self, flow: Flow, bytes: &Bytes, hops: u8) -> bool {
        let Some(name) = self.refuge.at() else { return false };
        let frame = PeerFrame::Forward { flow, bytes: bytes.clone(), hops: hops + 1 };
        self.peers.send(name, frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signaling::samples;

    /// For a lease nobody else can have our calls.
    #[tokio::test]
    async fn what_only_the_journal_keeps_waits_until_it_is_known_whose_calls_are_ours() {
        for (blind_ms, after_ms, writes) in
            [(2_500, 200, true), (3_200, 200, false), (3_200, 890, false), (3_200, 910, true)]
        {
            let mut worker = samples::worker();
            let _told = samples::peer(&mut worker);
            worker.committer.use_journal();
            worker.refuge.seen_at = Some(worker.now);
            worker.now = worker.now + Duration::from_millis(blind_ms);
            worker.committer.save(samples::save(7, 1));
            worker.committer.poll_batch(worker.now).expect("due");
            worker.ask_again(1);
            let then = worker.now + Duration::from_millis(after_ms);
            let is_kept = worker.committer.poll_journal(then).is_some();
            assert_eq!(is_kept, writes, "blind for {blind_ms} ms, {after_ms} ms later");
        }
    }
}
