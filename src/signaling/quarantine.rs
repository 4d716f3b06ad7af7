//! Calls that are only ended: their record cannot be read, panics its reader, or killed nodes that took it over (design
//! §4 "Poison").
//!
//! Invariant: such a call costs itself alone: its phones are told, its media is released, its row ends with a CDR.

use super::errand::Errand;
use super::outputs::catch_bug;
use super::wakeup::Wakeup;
use super::worker::Worker;
use crate::call::{Save, farewell};
use crate::control::{Release, Request};
use crate::ids::{Flow, NodeName, Rev, SessionId};
use crate::store::ClaimedCall;
use bytes::Bytes;
use core::time::Duration;
use std::sync::Arc;
use tokio::sync::mpsc;

/// After so many claims, none of whose nodes lived to save the call, it is only ended.
pub(super) const CLAIMS: u32 = 3;
/// The last words are said again after these, as a transaction would (RFC 3261 §17.1.2.2); nobody counts the answers.
const REPEATS: [Duration; 3] =
    [Duration::from_millis(500), Duration::from_secs(1), Duration::from_secs(2)];

impl Worker {
    /// Ends a claimed call without carrying it on.
    pub(super) fn quarantine(&mut self, claimed: &ClaimedCall, why: &str) {
        let ClaimedCall { id, key, epoch, rev, record, .. } = claimed;
        tracing::error!(call.id = %id, "call {id} is only ended: {why}");
        let settings = Arc::clone(&self.settings);
        let part = |record: &[u8]| farewell(&settings, (*id, *epoch), record, self.now);
        let parting = catch_bug(|| part(record)).unwrap_or_else(|_| part(&[]));
        self.emit(&super::views::ended_event(*id, &parting.cdr));
        self.committer.save(Save {
            id: *id,
            key: *key,
            owner: settings.incarnation,
            epoch: *epoch,
            rev: Rev(rev.0 + 1),
            ended: true,
            record: Vec::new(),
            cdr: Some(Box::new(parting.cdr)),
            told: Vec::new(),
        });
        let session = SessionId::from(*id);
        let release = Release { session, epoch: *epoch, rev: Rev(1) };
        // Which node has it may not be readable: the others know nothing of it.
        let nodes: Vec<NodeName> = self.media.iter().map(|(name, _)| name.clone()).collect();
        for node in nodes {
            self.media.send(&node, Request::Release(release.clone()));
        }
        let parting = parting.transmits.into_iter();
        let said: Vec<(Flow, Bytes)> =
            parting.map(|transmit| (self.flow_now(transmit.flow), transmit.bytes)).collect();
        for (flow, bytes) in &said {
            self.transmit(*flow, bytes.clone());
        }
        self.errands.run(Errand::SayAgain(said));
    }
}

/// Messages come back to be said, as often as there are `REPEATS`.
pub(super) async fn say_again(messages: Vec<(Flow, Bytes)>, wakeups: &mpsc::Sender<Wakeup>) {
    for pause in REPEATS {
        tokio::time::sleep(pause).await;
        for (flow, bytes) in &messages {
            if wakeups.send(Wakeup::Say(*flow, bytes.clone())).await.is_err() {
                return;
            }
        }
    }
}
