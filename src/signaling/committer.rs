//! What waits for the store: saves of calls and bindings, gathered into batches, one commit in flight (design §4).
//!
//! Invariants: a call is in a batch at most once and its saves reach the store in the order of their revs: while one is
//! in flight the next waits, and of those that wait the latest stands for all (it holds what they held). Nothing is
//! lost to an error of the store: what it did not take is offered again.

use super::answer::HeldAnswer;
use crate::call::Save;
use crate::directory::Binding;
use crate::ids::CallId;
use crate::limits;
use crate::store::{Batch, BindingsWrite};
use crate::time::Timestamp;
use core::time::Duration;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// The shortest time from one commit's start to the next.
const PACE: Duration = Duration::from_millis(2);
/// The first wait after an error; doubled up to `LONGEST_BACK_OFF`.
const BACK_OFF: Duration = Duration::from_millis(50);
const LONGEST_BACK_OFF: Duration = Duration::from_secs(2);

/// Gathers writes and paces commits. Sans-io: the worker carries the batches to the store.
#[derive(Debug, Default)]
pub(super) struct Committer {
    calls: Waiting<CallId, Save>,
    bindings: Waiting<String, Vec<Binding>>,
    /// Answers to REGISTER that wait for the user's bindings to be stored, by user.
    replies: HashMap<String, Vec<HeldAnswer>>,
    in_flight: Option<InFlight>,
    /// No commit before this.
    not_before: Timestamp,
    failures: u32,
    reply_count: usize,
}

/// Values by key in the order in which the keys came; a later value replaces an earlier one.
#[derive(Debug)]
struct Waiting<K, V> {
    order: VecDeque<K>,
    values: HashMap<K, V>,
}

impl<K, V> Default for Waiting<K, V> {
    fn default() -> Self {
        Self { order: VecDeque::new(), values: HashMap::new() }
    }
}

impl<K: Clone + Eq + core::hash::Hash, V> Waiting<K, V> {
    fn put(&mut self, key: K, value: V) {
        if self.values.insert(key.clone(), value).is_none() {
            self.order.push_back(key);
        }
    }

    /// Puts back what was taken, unless a later value came meanwhile.
    fn put_back(&mut self, key: K, value: V) {
        if !self.values.contains_key(&key) {
            self.order.push_back(key.clone());
            self.values.insert(key, value);
        }
    }

    fn take(&mut self, most: usize) -> Vec<(K, V)> {
        let count = most.min(self.order.len());
        let keys = self.order.drain(..count);
        keys.filter_map(|key| self.values.remove_entry(&key)).collect()
    }

    fn is_empty(&self) -> bool {
        self.order.is_empty()
    }
}

#[derive(Debug)]
struct InFlight {
    batch: Arc<Batch>,
    replies: HashMap<String, Vec<HeldAnswer>>,
    started: Timestamp,
}

/// What came of a commit.
#[derive(Debug)]
pub(super) struct Finished {
    /// What was written, or offered in vain.
    pub batch: Arc<Batch>,
    /// Answers to REGISTER that waited for it.
    pub replies: Vec<HeldAnswer>,
}

impl Committer {
    /// A call's row as it is now.
    pub(super) fn save(&mut self, save: Save) {
        self.calls.put(save.id, save);
    }

    /// All bindings of a user as they are now.
    pub(super) fn write_bindings(&mut self, extension: &str, bindings: Vec<Binding>) {
        self.bindings.put(extension.to_owned(), bindings);
    }

    /// Holds an answer until the user's bindings are stored; gives it back when nothing of that user waits.
    pub(super) fn hold(&mut self, extension: &str, reply: HeldAnswer) -> Option<HeldAnswer> {
        let held = if self.bindings.values.contains_key(extension) {
            self.replies.entry(extension.to_owned()).or_default()
        } else {
            let written = self.in_flight.as_mut().filter(|flight| {
                flight.batch.bindings.iter().any(|write| write.extension == extension)
            });
            match written {
                Some(flight) => flight.replies.entry(extension.to_owned()).or_default(),
                None => return Some(reply),
            }
        };
        held.push(reply);
        self.reply_count += 1;
        None
    }

    /// Answers to REGISTER that wait.
    pub(super) fn held(&self) -> usize {
        self.reply_count
    }

    /// The store did not take the last commit.
    pub(super) fn is_failing(&self) -> bool {
        self.failures > 0
    }

    /// Nothing waits and nothing is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.in_flight.is_none() && self.calls.is_empty() && self.bindings.is_empty()
    }

    /// The next batch, when it is time and no other is under way.
    pub(super) fn poll_batch(&mut self, now: Timestamp) -> Option<Arc<Batch>> {
        if self.next_timeout().is_none_or(|at| at > now) {
            return None;
        }
        let calls: Vec<Save> =
            self.calls.take(limits::COMMIT_BATCH).into_iter().map(|(_, save)| save).collect();
        let mut replies = HashMap::new();
        let room = limits::COMMIT_BATCH - calls.len();
        let bindings = self.bindings.take(room).into_iter().map(|(extension, bindings)| {
            if let Some((extension, held)) = self.replies.remove_entry(&extension) {
                replies.insert(extension, held);
            }
            BindingsWrite { extension, bindings }
        });
        let bindings = bindings.collect();
        let batch = Arc::new(Batch { calls, bindings });
        self.in_flight = Some(InFlight { batch: Arc::clone(&batch), replies, started: now });
        Some(batch)
    }

    /// The commit under way ended. After an error everything is offered again, later; the answers are given back all
    /// the same: the phones are told to come again.
    pub(super) fn finish(&mut self, stored: bool, now: Timestamp) -> Option<Finished> {
        let InFlight { batch, replies, started } = self.in_flight.take()?;
        if stored {
            self.failures = 0;
            self.not_before = (started + PACE).max(now);
        } else {
            let back_off = BACK_OFF * 2_u32.saturating_pow(self.failures.min(8));
            self.not_before = now + back_off.min(LONGEST_BACK_OFF);
            self.failures = self.failures.saturating_add(1);
            for save in &batch.calls {
                self.calls.put_back(save.id, save.clone());
            }
            for write in &batch.bindings {
                self.bindings.put_back(write.extension.clone(), write.bindings.clone());
            }
        }
        let mut replies: Vec<_> = replies.into_values().flatten().collect();
        if !stored {
            replies.extend(self.replies.drain().flat_map(|(_, held)| held));
        }
        self.reply_count = self.reply_count.saturating_sub(replies.len());
        Some(Finished { batch, replies })
    }

    /// The store will never take this call's saves.
    pub(super) fn forget(&mut self, call: CallId) {
        if self.calls.values.remove(&call).is_some() {
            self.calls.order.retain(|waiting| *waiting != call);
        }
    }

    /// When the next commit may begin.
    pub(super) fn next_timeout(&self) -> Option<Timestamp> {
        let waits = !self.calls.is_empty() || !self.bindings.is_empty();
        (waits && self.in_flight.is_none()).then_some(self.not_before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Epoch, Incarnation, Rev};

    fn save(call: u128, rev: u64) -> Save {
        Save {
            id: CallId(call),
            key: [0; 16],
            owner: Incarnation(1),
            epoch: Epoch(1),
            rev: Rev(rev),
            ended: false,
            record: Vec::new(),
            cdr: None,
        }
    }

    fn revs(batch: &Batch) -> Vec<(u128, u64)> {
        batch.calls.iter().map(|save| (save.id.0, save.rev.0)).collect()
    }

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(1_000 + millis)
    }

    #[test]
    fn the_latest_save_stands_for_those_that_wait() {
        let mut committer = Committer::default();
        assert_eq!(committer.next_timeout(), None);
        for (call, rev) in [(1, 1), (2, 1), (1, 2)] {
            committer.save(save(call, rev));
        }
        let batch = committer.poll_batch(at(0)).expect("due");
        assert_eq!(revs(&batch), [(1, 2), (2, 1)]);
        committer.save(save(1, 3));
        assert_eq!(committer.poll_batch(at(9)), None, "one commit at a time");
        assert!(!committer.is_idle());
        committer.finish(true, at(1)).expect("was under way");
        assert_eq!(committer.next_timeout(), Some(at(2)), "paced");
        assert_eq!(committer.poll_batch(at(1)), None);
        assert_eq!(revs(&committer.poll_batch(at(2)).expect("due")), [(1, 3)]);
        committer.finish(true, at(30)).expect("was under way");
        assert!(committer.is_idle());
    }

    #[test]
    fn what_the_store_refused_is_offered_again_and_never_over_a_later_save() {
        let mut committer = Committer::default();
        committer.save(save(1, 1));
        committer.save(save(2, 1));
        committer.poll_batch(at(0)).expect("due");
        committer.save(save(2, 2));
        committer.finish(false, at(5)).expect("was under way");
        assert!(committer.is_failing());
        assert_eq!(committer.poll_batch(at(54)), None, "backs off");
        assert_eq!(revs(&committer.poll_batch(at(55)).expect("due")), [(2, 2), (1, 1)]);
        committer.finish(false, at(60)).expect("was under way");
        assert_eq!(committer.next_timeout(), Some(at(160)), "backs off longer");
        committer.forget(CallId(1));
        assert_eq!(revs(&committer.poll_batch(at(160)).expect("due")), [(2, 2)]);
        committer.finish(true, at(161)).expect("was under way");
        assert!(!committer.is_failing());
    }

    #[test]
    fn a_batch_is_bounded() {
        let mut committer = Committer::default();
        for call in 0..limits::COMMIT_BATCH as u128 + 7 {
            committer.save(save(call, 1));
        }
        committer.write_bindings("1001", Vec::new());
        let batch = committer.poll_batch(at(0)).expect("due");
        assert_eq!((batch.calls.len(), batch.bindings.len()), (limits::COMMIT_BATCH, 0));
        committer.finish(true, at(1)).expect("was under way");
        let batch = committer.poll_batch(at(2)).expect("due");
        assert_eq!((batch.calls.len(), batch.bindings.len()), (7, 1));
    }
}
