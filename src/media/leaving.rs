//! Whom a process gives its sessions to, and when: all of them while it drains, one when an operator wishes so.
//!
//! Invariant: one hand-over at a time.

use super::worker::Handle;
use super::{Shared, handover};
use crate::ids::{NodeName, SessionId};
use crate::net::clock;
use core::sync::atomic::Ordering;
use core::time::Duration;
use std::sync::Arc;
use tokio::sync::watch;

/// A node that drains looks so often for another process that takes its sessions.
const HEIR_SOUGHT: Duration = Duration::from_millis(500);

/// The giving away of sessions.
#[derive(Clone, Debug)]
pub(super) struct Leaving {
    pub path: Option<Arc<std::path::Path>>,
    pub shared: Arc<Shared>,
    pub workers: Arc<[Handle]>,
    /// One hand-over at a time.
    pub turn: Arc<tokio::sync::Mutex<()>>,
}

impl Leaving {
    /// All of them while the node drains, as soon as another process of the host is there.
    pub async fn follow(self, mut stopped: watch::Receiver<bool>) {
        let mut draining = self.shared.draining.subscribe();
        loop {
            let drains = async {
                let drained = draining.wait_for(|drain| *drain).await;
                drained.map(drop)
            };
            tokio::select! {
                drains = drains => if drains.is_err() { return },
                _ = stopped.changed() => return,
            }
            self.hand_over().await;
            tokio::select! {
                () = tokio::time::sleep(HEIR_SOUGHT) => {}
                _ = stopped.changed() => return,
            }
        }
    }

    /// All of them, if somebody is there.
    pub async fn hand_over(&self) {
        let Some(path) = self.path.clone() else { return };
        let _turn = self.turn.lock().await;
        let before = self.shared.sessions.load(Ordering::Relaxed);
        if before == 0 {
            return;
        }
        let (workers, shared, begun) = (self.workers.clone(), self.shared.clone(), clock::now());
        let hand_over = move || handover::hand_over(&path, &shared, &workers);
        let passed = tokio::task::spawn_blocking(hand_over);
        if let Ok(Some((passed, heir))) = passed.await {
            let took = clock::now().saturating_since(begun).as_millis();
            tracing::info!("{passed} of {before} sessions are with {heir} now, after {took} ms");
        }
    }

    /// One of them, to that process.
    pub async fn give(self, session: SessionId, to: NodeName) {
        let Some(path) = self.path.clone() else { return };
        let _turn = self.turn.lock().await;
        let Self { workers, shared, .. } = self.clone();
        let heir = to.clone();
        let give = move || handover::give(&path, &shared, &workers, session, &heir);
        match tokio::task::spawn_blocking(give).await {
            Ok(Ok(true)) => tracing::info!("media session {session} is with {to} now"),
            Ok(Ok(false)) => tracing::info!("media session {session} is over, or {to} has no room"),
            Ok(Err(error)) => tracing::warn!("media session {session} stays: {error}"),
            Err(_) => tracing::error!("giving media session {session} to {to} panicked"),
        }
    }
}
