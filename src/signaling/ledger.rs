//! What the journal keeps of what the store is owed, and what is to be written to it or removed (design §7).
//!
//! Invariants: one piece of work at a time, so the journal holds of a key what was written last; a key leaves the
//! journal only when the store is owed nothing of it. Sans-io: the worker carries the work to the journal.

use crate::ids::CallId;
use crate::limits;
use crate::store::Batch;
use crate::time::Timestamp;
use core::time::Duration;
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

/// A journal that could not be written is tried again after this.
const BACK_OFF: Duration = Duration::from_secs(1);

/// What a row is of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Key {
    Call(CallId),
    /// Bindings of this user.
    User(String),
}

/// Of two values of a key the greater is the later: (epoch, rev) of a call, (0, number) of bindings.
pub(super) type Version = (u64, u64);

/// For the journal to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Work {
    /// Keep these.
    Write(Arc<Batch>),
    /// Calls, and users' bindings.
    Remove(Vec<CallId>, Vec<String>),
}

/// What it is doing.
#[derive(Debug)]
pub(super) enum Doing {
    /// Keys in the order of the batch: calls, then users.
    Writing(Vec<(Key, Version)>),
    Removing(Vec<Key>),
}

/// The journal as the committer sees it.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// There is one.
    is_present: bool,
    /// Its last work failed.
    is_failing: bool,
    /// The store is away or slow: what is owed is kept.
    is_on: bool,
    queue: VecDeque<Key>,
    queued: HashSet<Key>,
    kept: HashMap<Key, Version>,
    settled: BTreeSet<Key>,
    doing: Option<Doing>,
    not_before: Timestamp,
    oldest_at: Option<Timestamp>,
}

impl Ledger {
    pub(super) fn set_present(&mut self) {
        self.is_present = true;
    }

    pub(super) fn is_present(&self) -> bool {
        self.is_present
    }

    /// What is given to it is kept.
    pub(super) fn works(&self) -> bool {
        self.is_present && !self.is_failing
    }

    pub(super) fn is_on(&self) -> bool {
        self.is_on
    }

    /// Rows that the store does not have, and since when.
    pub(super) fn kept(&self) -> (usize, Option<Timestamp>) {
        (self.kept.len(), self.oldest_at)
    }

    /// That value of the key, or a later one, is on disk.
    pub(super) fn keeps(&self, key: &Key, version: Version) -> bool {
        self.kept.get(key).is_some_and(|kept| *kept >= version)
    }

    /// From now on everything owed is kept; what is owed already is to be noted one by one.
    pub(super) fn turn_on(&mut self) {
        self.is_on = self.is_present;
    }

    /// The store is as it should be.
    pub(super) fn turn_off(&mut self) {
        self.is_on = false;
        self.queue.clear();
        self.queued.clear();
    }

    /// Nothing is written or removed until then.
    pub(super) fn wait_until(&mut self, at: Timestamp) {
        self.not_before = self.not_before.max(at);
    }

    /// The store is owed a value of this key.
    pub(super) fn note(&mut self, key: Key) {
        if self.is_on && self.queued.insert(key.clone()) {
            self.queue.push_back(key);
        }
    }

    /// The store is owed nothing of this key any more.
    pub(super) fn settle(&mut self, key: Key) {
        if self.kept.remove(&key).is_some() {
            self.settled.insert(key);
        }
        if self.kept.is_empty() {
            self.oldest_at = None;
        }
    }

    /// Keys to be written, when nothing else is under way.
    pub(super) fn take(&mut self, now: Timestamp) -> Vec<Key> {
        if self.next_timeout().is_none_or(|at| at > now) {
            return Vec::new();
        }
        let count = limits::COMMIT_BATCH.min(self.queue.len());
        let keys: Vec<Key> = self.queue.drain(..count).collect();
        for key in &keys {
            self.queued.remove(key);
        }
        keys
    }

    /// These values are on their way.
    pub(super) fn writing(&mut self, versions: Vec<(Key, Version)>) {
        for (key, _) in &versions {
            self.settled.remove(key);
        }
        self.doing = Some(Doing::Writing(versions));
    }

    /// Rows that nobody needs, when nothing else is under way.
    pub(super) fn poll_removal(&mut self, now: Timestamp) -> Option<Work> {
        if self.settled.is_empty() || self.doing.is_some() || self.not_before > now {
            return None;
        }
        let keys: Vec<Key> = self.settled.iter().take(limits::COMMIT_BATCH).cloned().collect();
        let (mut calls, mut users) = (Vec::new(), Vec::new());
        for key in &keys {
            self.settled.remove(key);
            match key {
                Key::Call(id) => calls.push(*id),
                Key::User(extension) => users.push(extension.clone()),
            }
        }
        self.doing = Some(Doing::Removing(keys));
        Some(Work::Remove(calls, users))
    }

    /// What was under way ended.
    pub(super) fn finish(&mut self, done: bool, now: Timestamp) -> Option<Doing> {
        let doing = self.doing.take()?;
        self.is_failing = !done;
        if !done {
            self.not_before = now + BACK_OFF;
        }
        Some(doing)
    }

    /// A value was written; `owed` tells whether the store has it meanwhile.
    pub(super) fn keep(&mut self, key: Key, version: Version, owed: bool, now: Timestamp) {
        self.kept.insert(key.clone(), version);
        self.oldest_at.get_or_insert(now);
        if !owed {
            self.settle(key);
        }
    }

    /// A removal failed: later.
    pub(super) fn put_back(&mut self, keys: Vec<Key>) {
        self.settled.extend(keys);
    }

    /// When there may be work.
    pub(super) fn next_timeout(&self) -> Option<Timestamp> {
        let waits = !self.queue.is_empty() || !self.settled.is_empty();
        (waits && self.doing.is_none()).then_some(self.not_before)
    }
}
