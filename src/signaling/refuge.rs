//! Outage or exile? A node that cannot ask the store asks its peers whether they can (design §4).
//!
//! Invariants: nobody gives calls up unless a peer has just proven that the store takes its writes; what is owed goes
//! to it before the calls do. When nobody can, or nobody is there, it is an outage: ownership stays as it is.

use super::errand::Errand;
use super::media_pool::LinkNumber;
use super::worker::Worker;
use crate::call::Save;
use crate::control::PeerFrame;
use crate::ids::{Flow, NodeName};
use crate::time::Timestamp;
use bytes::Bytes;
use core::time::Duration;

/// The store cannot be asked for so long before peers are.
const BLIND_FOR: Duration = Duration::from_millis(1_500);

/// Whether this node reaches the store, and who does in its place.
#[derive(Debug, Default)]
pub(super) struct Refuge {
    blind_since: Option<Timestamp>,
    /// It has our calls.
    at: Option<NodeName>,
}

impl Refuge {
    pub(super) fn at(&self) -> Option<&NodeName> {
        self.at.as_ref()
    }
}

impl Worker {
    /// The store does not answer.
    pub(super) fn lose_sight(&mut self) {
        self.watch.forget();
        self.refuge.blind_since.get_or_insert(self.now);
    }

    /// The store answers.
    pub(super) fn see_again(&mut self) {
        self.refuge.blind_since = None;
        if let Some(name) = self.refuge.at.take() {
            tracing::warn!("the store is reached again: this node needs {name} no more");
        }
    }

    /// Asks the peers when it is time.
    pub(super) fn seek_refuge(&mut self) {
        let lost = |name: &NodeName| self.peers.iter().all(|(up, _)| up != name);
        if self.refuge.at.as_ref().is_some_and(lost) {
            self.refuge.at = None;
        }
        let since = self.refuge.blind_since.filter(|_| self.refuge.at.is_none());
        if since.is_some_and(|since| self.now.saturating_since(since) >= BLIND_FOR) {
            self.peers.broadcast(&PeerFrame::AskStore);
        }
    }

    /// A peer cannot reach the store: can we?
    pub(super) fn answer_store(&mut self, link: LinkNumber) {
        if let Some(name) = self.peers.name_of(link).cloned()
            && self.refuge.blind_since.is_none()
            && !self.committer.is_failing()
        {
            self.errands.run(Errand::AskStore(name));
        }
    }

    /// The store was asked for a peer.
    pub(super) fn tell_store_works(&self, name: &NodeName) {
        self.peers.send(name, PeerFrame::StoreWorks);
    }

    /// A peer reaches the store, and we do not: it gets our calls, and what their store was not told yet.
    pub(super) fn take_refuge(&mut self, link: LinkNumber) {
        let Some(name) = self.peers.name_of(link).cloned() else { return };
        if self.refuge.blind_since.is_none() || self.refuge.at.is_some() {
            return;
        }
        let mut saves: Vec<Save> = self.committer.owed_saves().cloned().collect();
        saves.extend(self.rows().into_iter().filter(|row| !self.committer.owes(row.id)));
        self.entrust_to(&name, &saves);
        let ids = self.calls.ids(|_| true);
        for id in &ids {
            self.peers.learn(*id, name.clone());
            self.let_go(*id);
        }
        self.peers.send(&name, PeerFrame::HandOver);
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
        let frame = PeerFrame::Forward { flow, bytes: bytes.to_vec(), hops: hops + 1 };
        self.peers.send(name, frame)
    }
}
