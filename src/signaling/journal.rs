//! The journal of this node: opened at start, written when the store is away or slow, replayed when it is back
//! (design §7).
//!
//! Invariants: what an earlier start of this node left is in the store before anything is served; the worker waits for
//! neither journal nor store; an outage is told once when it begins and once when it ends.

use super::errand::Errand;
use super::ledger::Work;
use super::worker::Worker;
use crate::control::PeerFrame;
use crate::store::{CallOutcome, Journal, JournalFolder, Store, StoreError};
use crate::time::Timestamp;
use crate::views::Rfc3339;
use crate::views::node::JournalView;
use core::time::Duration;
use std::path::PathBuf;
use std::sync::Arc;

/// Between two tries to replay at start.
const REPLAY_PAUSE: Duration = Duration::from_millis(500);

/// Where journals of this host are, and ours.
#[derive(Clone, Debug, Default)]
pub(super) struct Keeping {
    /// None: the store is a file of our own, or there is no place.
    pub folder: Option<Arc<JournalFolder>>,
    pub journal: Option<Arc<Journal>>,
    /// What is given to it is kept.
    is_present: bool,
    /// Why there is no journal although there ought to be.
    fault: Option<String>,
    /// Size of its files when they were written last.
    bytes: u64,
    outage: Option<Outage>,
}

/// The store is away or slow.
#[derive(Clone, Copy, Debug)]
struct Outage {
    since: Timestamp,
    /// Rows of the journal at most.
    kept: usize,
}

impl Keeping {
    /// Opens this node's journal and replays what is left of this host. Waits for the store as long as it takes.
    pub(super) async fn open(folder: Option<PathBuf>, node: &str, store: &Store) -> Self {
        let Some(path) = folder.filter(|_| !store.is_embedded()) else { return Self::default() };
        let folder = Arc::new(JournalFolder::new(path, node));
        let opened = folder.open().await;
        let opened = match opened {
            Ok((journal, replaying)) => {
                match until_done(|| journal.replay_or_set_aside(store)).await {
                    Some(_) => Ok(journal),
                    None => {
                        drop((journal, replaying));
                        folder.open().await.map(|(journal, _)| journal)
                    }
                }
            }
            Err(error) => Err(error),
        };
        let (journal, fault) = match opened {
            Ok(journal) => (Some(Arc::new(journal)), None),
            Err(error) => {
                tracing::error!("no journal: while the store is away new calls get 503: {error}");
                (None, Some(error.to_string()))
            }
        };
        until_done(|| folder.replay_dead(store)).await;
        let is_present = journal.is_some();
        Self { folder: Some(folder), journal, is_present, fault, bytes: 0, outage: None }
    }

    /// The driver of this node keeps its journal.
    pub(super) fn driven() -> Self {
        Self { is_present: true, ..Self::default() }
    }

    pub(super) fn has_journal(&self) -> bool {
        self.is_present
    }
}

async fn until_done<T, F>(mut replay: impl FnMut() -> F) -> T
where
    F: Future<Output = Result<T, StoreError>>,
{
    loop {
        match replay().await {
            Ok(done) => return done,
            Err(error) => tracing::warn!("the journal cannot be replayed yet: {error}"),
        }
        tokio::time::sleep(REPLAY_PAUSE).await;
    }
}

/// Calls of the dead are claimed as their journals say, where those are on this host.
pub(super) async fn replay_dead(
    folder: Option<&JournalFolder>,
    store: &Store,
) -> Result<(), StoreError> {
    match folder {
        Some(folder) => folder.replay_dead(store).await.map(drop),
        None => Ok(()),
    }
}

impl Worker {
    /// Gives the journal what is due for it.
    pub(super) fn begin_journal(&mut self) {
        if !self.keeping.has_journal() {
            return;
        }
        if let Some(work) = self.committer.poll_journal(self.now) {
            if let Work::Write(batch) = &work {
                self.entrust(&batch.calls);
            }
            self.errands.run(Errand::Journal(work));
        }
    }

    /// What is kept may be acted on: messages and answers that waited leave.
    pub(super) fn handle_journaled(
        &mut self,
        result: Result<Vec<CallOutcome>, StoreError>,
        bytes: u64,
    ) {
        self.keeping.bytes = bytes;
        let kept = self.committer.journaled(&result, self.now);
        for (id, rev) in kept.calls {
            self.release_journaled(id, rev);
        }
        for answer in kept.replies {
            self.send_held(answer);
        }
        self.refuse_held(kept.refused);
        match result {
            Err(error) if self.keeping.fault.is_none() => {
                tracing::error!("the journal takes nothing: {error}");
                self.keeping.fault = Some(error.to_string());
            }
            Ok(_) if self.keeping.fault.take().is_some() => {
                tracing::warn!("the journal takes changes again");
            }
            Ok(_) | Err(_) => {}
        }
    }

    /// Tells when an outage begins, and when the store has everything again.
    pub(super) fn tell_outage(&mut self, why: Option<&StoreError>) {
        let (kept, _) = self.committer.kept();
        let is_away = self.committer.is_failing() || self.committer.is_keeping();
        match &mut self.keeping.outage {
            None if is_away => {
                self.keeping.outage = Some(Outage { since: self.now, kept });
                let why = why.map_or_else(|| "it does not answer".to_owned(), ToString::to_string);
                match self.keeping.has_journal() {
                    true => tracing::warn!(
                        "the store takes no writes: changes are kept in the journal: {why}"
                    ),
                    false => {
                        tracing::error!("the store takes no writes, there is no journal: {why}")
                    }
                }
            }
            None => {}
            Some(outage) if is_away || kept > 0 => outage.kept = outage.kept.max(kept),
            Some(outage) => {
                let seconds = self.now.saturating_since(outage.since).as_secs_f64();
                let most = outage.kept;
                tracing::warn!(
                    "the store takes writes again after {seconds:.1} s: \
                     it has all {most} changes that were kept in the journal"
                );
                self.keeping.outage = None;
                self.peers.broadcast(&PeerFrame::KeepNothing);
            }
        }
    }

    /// What is wrong with store and journal, for people.
    pub(super) fn storing_faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let (kept, _) = self.committer.kept();
        let is_away = self.committer.is_failing() || self.committer.is_keeping();
        if is_away && self.committer.cannot_keep() {
            faults.push("the store takes no writes: new calls get 503".to_owned());
        } else if is_away {
            let kept = format!("the store takes no writes: {kept} changes are kept in the journal");
            faults.push(kept);
        } else if kept > 0 {
            faults.push(format!("{kept} changes in the journal are not in the store yet"));
        }
        if let Some(name) = self.refuge.at() {
            faults.push(format!("the store is out of reach from here: calls go to {name}"));
        }
        if let Some(fault) = &self.keeping.fault {
            faults.push(format!("there is no journal for an outage of the store: {fault}"));
        }
        faults
    }

    pub(super) fn journal_view(&self) -> JournalView {
        let (kept, oldest_at) = self.committer.kept();
        JournalView {
            entries: kept as u64,
            bytes: if kept == 0 { 0 } else { self.keeping.bytes },
            oldest_at: oldest_at.map(Rfc3339),
        }
    }
}
