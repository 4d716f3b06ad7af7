//! The log of events as this node follows it: one reader of the store for all who watch here, those who read the stream
//! and who delivers to webhooks.
//!
//! Invariants: it reads only while somebody watches; what it keeps in memory is bounded, what is older is read from the
//! store by who needs it; another database server may lack what was told last, so it begins a new era.

use crate::store::{Store, StoreError, StoredEvent};
use core::time::Duration;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use tokio::runtime::Handle;
use tokio::sync::watch;

/// Between two looks at the store.
const PACE: Duration = Duration::from_millis(100);
/// After a look that found something: to gather more for a look costs less than to look more often.
const BUSY_PACE: Duration = Duration::from_millis(250);
/// Commits read at once.
const COMMITS: u32 = 500;
/// Events in memory.
const RECENT: usize = 10_000;

/// How far the log is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::admin) struct Known {
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
    /// Where it is followed, whoever watches: as long as the node serves.
    runtime: OnceLock<Handle>,
}

#[derive(Debug, Default)]
struct Recent {
    /// A task follows the store.
    is_followed: bool,
    readers: usize,
    /// Which database server's log it is.
    server: u64,
    /// Nothing is missing between this id and the last of `events`.
    after: u64,
    events: VecDeque<Arc<StoredEvent>>,
}

/// Somebody who watches; the log is followed while there is one.
#[derive(Debug)]
pub(in crate::admin) struct Watcher {
    log: Arc<Log>,
    store: Store,
    /// Counted, and bounded in number.
    is_reader: bool,
    pub known: watch::Receiver<Known>,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.log.lock().readers -= usize::from(self.is_reader);
    }
}

impl Log {
    fn lock(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It is followed in this runtime from now on, if in any; else in that of who watches first.
    pub(in crate::admin) fn follow_here(&self) {
        if let Ok(handle) = Handle::try_current() {
            let _ = self.runtime.set(handle);
        }
    }

    /// Who reads the stream: one more, unless there are `most` already.
    pub(super) fn read(self: &Arc<Self>, store: &Store, most: usize) -> Option<Watcher> {
        {
            let mut recent = self.lock();
            if recent.readers >= most {
                return None;
            }
            recent.readers += 1;
        }
        Some(self.watcher(store, true))
    }

    /// Somebody of this node.
    pub(in crate::admin) fn watch(self: &Arc<Self>, store: &Store) -> Watcher {
        self.watcher(store, false)
    }

    fn watcher(self: &Arc<Self>, store: &Store, is_reader: bool) -> Watcher {
        let known = self.known.subscribe();
        if !core::mem::replace(&mut self.lock().is_followed, true) {
            let runtime = self.runtime.get().cloned().unwrap_or_else(Handle::current);
            runtime.spawn(Arc::clone(self).follow(store.clone()));
        }
        Watcher { log: Arc::clone(self), store: store.clone(), is_reader, known }
    }

    async fn follow(self: Arc<Self>, store: Store) {
        let mut server = 0;
        loop {
            // The store may be away: who watches is told nothing until it is back.
            let pause = self.look(&store, &mut server).await.unwrap_or(PACE);
            tokio::time::sleep(pause).await;
            let mut recent = self.lock();
            if self.known.is_closed() {
                *recent = Recent { readers: recent.readers, ..Recent::default() };
                return;
            }
        }
    }

    /// Until the next one.
    async fn look(&self, store: &Store, server: &mut u64) -> Result<Duration, StoreError> {
        let last = self.known.borrow().last;
        let present = store.server_number();
        if *server != present {
            let last = store.last_event().await?;
            if store.server_number() != present {
                return Ok(Duration::ZERO);
            }
            let is_first = core::mem::replace(server, present) == 0;
            let mut recent = self.lock();
            (recent.after, recent.events, recent.server) = (last, VecDeque::new(), *server);
            let era = |known: &mut Known| {
                *known = Known { era: known.era + u64::from(!is_first), last };
            };
            self.known.send_modify(era);
            return Ok(Duration::ZERO);
        }
        let new = store.events(last, COMMITS).await?;
        if store.server_number() != present {
            return Ok(Duration::ZERO);
        }
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
    /// What comes after an id, at most so many of those in memory; nothing: not yet. `None`: it is lost.
    pub(super) async fn next(
        &self,
        after: u64,
        most: usize,
    ) -> Result<Option<Vec<Arc<StoredEvent>>>, StoreError> {
        if let Some(events) = self.recent(after, most) {
            return Ok(Some(events));
        }
        if after > 0 && !self.store.has_event(after).await? {
            return Ok(None);
        }
        let events = self.store.events(after, COMMITS).await?;
        Ok(Some(events.into_iter().map(Arc::new).collect()))
    }

    /// The same of what is in memory, at most so many. `None`: that begins later, or is another server's.
    pub(in crate::admin) fn recent(
        &self,
        after: u64,
        most: usize,
    ) -> Option<Vec<Arc<StoredEvent>>> {
        let recent = self.log.lock();
        let is_there = recent.is_followed && recent.after > 0 && recent.after <= after;
        if !is_there || recent.server != self.store.server_number() {
            return None;
        }
        let from = recent.events.partition_point(|event| event.id <= after);
        Some(recent.events.range(from..).take(most).cloned().collect())
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
