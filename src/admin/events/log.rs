//! The log of events as this node follows it: one reader of the store for all who watch here.
//!
//! Invariants: it reads only while somebody watches; what it keeps in memory is bounded, what is older is read from the
//! store by who needs it; another database server may lack what was told last, so it begins a new era.

use crate::store::{Store, StoreError, StoredEvent};
use core::time::Duration;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// Between two looks at the store.
pub(in crate::admin) const PACE: Duration = Duration::from_millis(100);
/// After a look that found something: to gather more for a look costs less than to look more often.
pub(in crate::admin) const BUSY_PACE: Duration = Duration::from_millis(250);
/// Commits read at once.
const COMMITS: u32 = 500;
/// Events in memory.
const RECENT: usize = 10_000;

/// How far the log is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Known {
    /// Changes when the log may have lost its end.
    pub era: u64,
    /// Id of the last event.
    pub last: u64,
}

/// A look that asked for so many commits may not have come to the log's end: a commit has one event at least, and of
/// the first one all may be known.
pub(in crate::admin) fn may_be_more(events: &[StoredEvent], commits: u32) -> bool {
    events.len() + 1 >= commits as usize
}

/// The log.
#[derive(Debug, Default)]
pub struct Log {
    recent: Mutex<Recent>,
    known: watch::Sender<Known>,
}

#[derive(Debug, Default)]
struct Recent {
    /// A task follows the store.
    is_followed: bool,
    watchers: usize,
    /// Nothing is missing between this id and the last of `events`.
    after: u64,
    events: VecDeque<Arc<StoredEvent>>,
}

/// Somebody who watches; the log is followed while there is one.
#[derive(Debug)]
pub(super) struct Watcher {
    log: Arc<Log>,
    store: Store,
    pub known: watch::Receiver<Known>,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.log.lock().watchers -= 1;
    }
}

impl Log {
    fn lock(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more, unless there are `most` already.
    pub(super) fn watch(self: &Arc<Self>, store: &Store, most: usize) -> Option<Watcher> {
        let mut recent = self.lock();
        if recent.watchers >= most {
            return None;
        }
        recent.watchers += 1;
        if !core::mem::replace(&mut recent.is_followed, true) {
            tokio::spawn(Arc::clone(self).follow(store.clone()));
        }
        let known = self.known.subscribe();
        Some(Watcher { log: Arc::clone(self), store: store.clone(), known })
    }

    async fn follow(self: Arc<Self>, store: Store) {
        let mut server = 0;
        loop {
            // The store may be away: who watches is told nothing until it is back.
            let pause = self.look(&store, &mut server).await.unwrap_or(PACE);
            tokio::time::sleep(pause).await;
            let mut recent = self.lock();
            if recent.watchers == 0 {
                *recent = Recent::default();
                return;
            }
        }
    }

    /// Until the next one.
    async fn look(&self, store: &Store, server: &mut u64) -> Result<Duration, StoreError> {
        let last = self.known.borrow().last;
        if *server != store.server_number() {
            let last = store.last_event().await?;
            let is_first = core::mem::replace(server, store.server_number()) == 0;
            let mut recent = self.lock();
            (recent.after, recent.events) = (last, VecDeque::new());
            let era = |known: &mut Known| {
                *known = Known { era: known.era + u64::from(!is_first), last };
            };
            self.known.send_modify(era);
            return Ok(Duration::ZERO);
        }
        let new = store.events(last, COMMITS).await?;
        let Some(last) = new.last().map(|event| event.id) else { return Ok(PACE) };
        let is_more = may_be_more(&new, COMMITS);
        let mut recent = self.lock();
        recent.events.extend(new.into_iter().map(Arc::new));
        while recent.events.len() > RECENT
            && let Some(oldest) = recent.events.pop_front()
        {
            recent.after = oldest.id;
        }
        self.known.send_modify(|known| known.last = last);
        Ok(if is_more { Duration::ZERO } else { BUSY_PACE })
    }
}

impl Watcher {
    /// What comes after an id, as much as one step takes; nothing: not yet. `None`: it is lost.
    pub(super) async fn next(
        &self,
        after: u64,
    ) -> Result<Option<Vec<Arc<StoredEvent>>>, StoreError> {
        {
            let recent = self.log.lock();
            if recent.is_followed && recent.after > 0 && recent.after <= after {
                let from = recent.events.partition_point(|event| event.id <= after);
                let step = recent.events.range(from..).take(RECENT / 10);
                return Ok(Some(step.cloned().collect()));
            }
        }
        if after > 0 && !self.store.has_event(after).await? {
            return Ok(None);
        }
        let events = self.store.events(after, COMMITS).await?;
        Ok(Some(events.into_iter().map(Arc::new).collect()))
    }

    /// Where the log ends now.
    pub(super) async fn end(&self) -> Result<u64, StoreError> {
        self.store.last_event().await
    }

    /// Nothing that came after this event is lost.
    pub(super) async fn has(&self, id: u64) -> Result<bool, StoreError> {
        Ok(id == 0 || self.store.has_event(id).await?)
    }
}
