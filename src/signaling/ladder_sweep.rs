//! Ladders are kept while their calls live and for a time after: before a file of them goes, the store is asked which
//! of its calls that is true of.
//!
//! Invariant: a store that does not answer leaves old files where they are, and what makes room goes all the same.

use crate::capture::Sweeper;
use crate::ids::CallId;
use crate::net::clock;
use crate::store::Store;
use crate::time::Timestamp;
use core::time::Duration;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Files are looked at so often: more than is to be kept is there for no longer.
const PAUSE: Duration = Duration::from_secs(5);

/// As long as the node runs.
pub(super) async fn sweep(store: Store, sweeper: Sweeper) {
    let sweeper = Arc::new(Mutex::new(sweeper));
    loop {
        while sweep_one(&store, &sweeper).await {}
        tokio::time::sleep(PAUSE).await;
    }
}

/// The oldest file. False: none is to go now.
async fn sweep_one(store: &Store, sweeper: &Arc<Mutex<Sweeper>>) -> bool {
    let now = clock::now();
    let claimer = Arc::clone(sweeper);
    let claimed = tokio::task::spawn_blocking(move || {
        let due = lock(&claimer).claim(now)?;
        let calls = Vec::from_iter(due.calls());
        Some((due, calls))
    });
    let Ok(Some((due, calls))) = claimed.await else { return false };
    let ends = match store.ends_of(&calls).await {
        Ok(ends) => ends,
        Err(_) if due.makes_room() => BTreeMap::new(),
        Err(error) => {
            tracing::debug!("old signaling is swept later: {error}");
            return false;
        }
    };
    let sweeper = Arc::clone(sweeper);
    let removed = tokio::task::spawn_blocking(move || {
        let mut sweeper = lock(&sweeper);
        let since = if due.makes_room() { now } else { now - sweeper.life() };
        let stays = |call: CallId| ends.get(&call).is_some_and(|end| is_recent(*end, since));
        sweeper.remove(&due, now, stays)
    });
    removed.await.unwrap_or(false)
}

fn lock(sweeper: &Mutex<Sweeper>) -> MutexGuard<'_, Sweeper> {
    sweeper.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A call lives, or ended after that.
fn is_recent(end: Option<Timestamp>, since: Timestamp) -> bool {
    end.is_none_or(|at| at > since)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_lives_or_ended_lately_is_recent() {
        let [one, two] = [1, 2].map(Timestamp::from_millis);
        for (end, since, expect) in [
            (None, two, true),
            (Some(two), one, true),
            (Some(one), one, false),
            (Some(one), two, false),
        ] {
            assert_eq!(is_recent(end, since), expect, "{end:?} {since:?}");
        }
    }
}
