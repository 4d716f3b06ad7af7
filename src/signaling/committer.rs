//! What waits for the store: saves of calls and bindings, gathered into batches, one commit in flight (design §4).
//!
//! Invariants: a call is in a batch at most once and its saves reach the store in the order of their revs: while one is
//! in flight the next waits, and of those that wait the latest stands for all (it holds what they held). Nothing is
//! lost to an error of the store: what it did not take is offered again. What it does not take in time is written to
//! the journal too; whichever has it first, the messages and answers that waited for it leave.

use super::answer::HeldAnswer;
use super::ledger::{Doing, Key, Ledger, Version, Work};
use crate::call::Save;
use crate::directory::Binding;
use crate::ids::{CallId, Rev};
use crate::limits;
use crate::store::{Batch, BindingsWrite, CallOutcome, StoreError};
use crate::time::Timestamp;
use crate::views::EventView;
use core::time::Duration;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// The shortest time from one commit's start to the next.
const PACE: Duration = Duration::from_millis(2);
/// The same while fewer than `WORTH_A_COMMIT` rows wait: a commit costs the store as much as some thirty rows, so it is
/// worth waiting for company. Whoever comes after a pause waits for nothing.
const PATIENCE: Duration = Duration::from_millis(5);
const WORTH_A_COMMIT: usize = 24;
/// The same while only answers to REGISTER wait: no person does.
const PATIENCE_OF_BINDINGS: Duration = Duration::from_millis(10);
/// The same while nobody waits for any of them.
const LEISURE: Duration = Duration::from_millis(20);
/// The first wait after an error; doubled up to `LONGEST_BACK_OFF`.
const BACK_OFF: Duration = Duration::from_millis(50);
const LONGEST_BACK_OFF: Duration = Duration::from_secs(2);
/// A commit that has not ended after this is written to the journal too.
const SLOW: Duration = Duration::from_millis(150);

/// Gathers writes and paces commits. Sans-io: the worker carries the batches to the store.
#[derive(Debug, Default)]
pub(super) struct Committer {
    calls: Waiting<CallId, Save>,
    bindings: Waiting<String, Numbered>,
    /// Number of the last write of bindings.
    number: u64,
    /// Answers to REGISTER that wait for a write of the user's bindings, by user.
    replies: HashMap<String, Vec<(u64, HeldAnswer)>>,
    in_flight: Option<InFlight>,
    /// When the last commit began that the store took.
    last_began: Timestamp,
    /// No commit before this.
    not_before: Timestamp,
    failures: u32,
    reply_count: usize,
    ledger: Ledger,
    /// Events of no call, in their order.
    told: VecDeque<String>,
}

/// Bindings of a user; a later write has a greater number.
#[derive(Clone, Debug)]
struct Numbered {
    number: u64,
    bindings: Vec<Binding>,
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
    /// What it takes the place of.
    fn put(&mut self, key: K, value: V) -> Option<V> {
        let former = self.values.insert(key.clone(), value);
        if former.is_none() {
            self.order.push_back(key);
        }
        former
    }

    /// Puts back what was taken, unless a later value came meanwhile: then that, and what was taken.
    fn put_back(&mut self, key: K, value: V) -> Option<(&mut V, V)> {
        match self.values.entry(key.clone()) {
            Entry::Occupied(later) => Some((later.into_mut(), value)),
            Entry::Vacant(place) => {
                place.insert(value);
                self.order.push_back(key);
                None
            }
        }
    }

    fn take(&mut self, most: usize) -> Vec<(K, V)> {
        let count = most.min(self.order.len());
        let keys = self.order.drain(..count);
        keys.filter_map(|key| self.values.remove_entry(&key)).collect()
    }
}

#[derive(Debug)]
struct InFlight {
    batch: Arc<Batch>,
    /// Of its bindings, in their order.
    numbers: Vec<u64>,
    started: Timestamp,
}

impl InFlight {
    fn number_of(&self, extension: &str) -> Option<u64> {
        let at = self.batch.bindings.iter().position(|write| write.extension == extension)?;
        self.numbers.get(at).copied()
    }
}

/// What came of a commit.
#[derive(Debug)]
pub(super) struct Finished {
    /// What was written, or offered in vain.
    pub batch: Arc<Batch>,
    /// When it began.
    pub began: Timestamp,
    /// Answers to REGISTER that waited for it, or that nothing can be waited for.
    pub replies: Vec<HeldAnswer>,
}

/// What came of a write to the journal.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// What waited for these may leave.
    pub calls: Vec<(CallId, Rev)>,
    /// Answers to REGISTER that may leave.
    pub replies: Vec<HeldAnswer>,
    /// Answers to REGISTER whose bindings neither store nor journal took.
    pub refused: Vec<HeldAnswer>,
}

impl Committer {
    /// There is a journal.
    pub(super) fn use_journal(&mut self) {
        self.ledger.set_present();
    }

    /// A call's row as it is now.
    pub(super) fn save(&mut self, save: Save) {
        let id = save.id;
        self.ledger.note(Key::Call(id));
        let earlier = self.calls.put(id, save);
        if let (Some(earlier), Some(save)) = (earlier, self.calls.values.get_mut(&id)) {
            save.follow(earlier);
        }
    }

    /// An event of no call, for the next commit. The oldest make room when the store takes none.
    pub(super) fn tell(&mut self, event: &EventView) {
        if self.told.len() >= limits::UNTOLD_EVENTS {
            self.told.pop_front();
        }
        self.told.push_back(event.document());
    }

    /// All bindings of a user as they are now.
    pub(super) fn write_bindings(&mut self, extension: &str, bindings: Vec<Binding>) {
        self.number += 1;
        self.ledger.note(Key::User(extension.to_owned()));
        _ = self.bindings.put(extension.to_owned(), Numbered { number: self.number, bindings });
    }

    /// Another node stores these: they stand in place of what waits here, which is older. So is what is being written,
    /// and may come to the store after them: they follow it.
    pub(super) fn supersede_bindings(&mut self, extension: &str, bindings: &[Binding]) {
        let written = self.in_flight.as_ref().and_then(|flight| flight.number_of(extension));
        if self.bindings.values.contains_key(extension) || written.is_some() {
            self.write_bindings(extension, bindings.to_vec());
        }
    }

    /// Holds an answer until the user's bindings are stored or kept; gives it back when nothing of that user waits.
    pub(super) fn hold(&mut self, extension: &str, reply: HeldAnswer) -> Option<HeldAnswer> {
        let waiting = self.bindings.values.get(extension).map(|waiting| waiting.number);
        let written = || self.in_flight.as_ref()?.number_of(extension);
        let Some(number) = waiting.or_else(written) else { return Some(reply) };
        if self.ledger.keeps(&Key::User(extension.to_owned()), (0, number)) {
            return Some(reply);
        }
        self.replies.entry(extension.to_owned()).or_default().push((number, reply));
        self.reply_count += 1;
        None
    }

    /// Answers that waited for this write, or an earlier one.
    fn release(&mut self, extension: &str, number: u64, into: &mut Vec<HeldAnswer>) {
        let Some(held) = self.replies.remove(extension) else { return };
        let (due, rest): (Vec<_>, Vec<_>) = held.into_iter().partition(|(at, _)| *at <= number);
        self.reply_count = self.reply_count.saturating_sub(due.len());
        into.extend(due.into_iter().map(|(_, reply)| reply));
        if !rest.is_empty() {
            self.replies.insert(extension.to_owned(), rest);
        }
    }

    fn release_all(&mut self) -> Vec<HeldAnswer> {
        self.reply_count = 0;
        self.replies.drain().flat_map(|(_, held)| held).map(|(_, reply)| reply).collect()
    }

    /// Answers to REGISTER that wait.
    pub(super) fn held(&self) -> usize {
        self.reply_count
    }

    /// The store did not take the last commit.
    pub(super) fn is_failing(&self) -> bool {
        self.failures > 0
    }

    /// Nothing can be promised to anybody: neither the store nor the journal takes it.
    pub(super) fn cannot_keep(&self) -> bool {
        self.is_failing() && !self.ledger.works()
    }

    /// What the store is owed is written to the journal.
    pub(super) fn is_keeping(&self) -> bool {
        self.ledger.is_on()
    }

    /// Rows of the journal that the store does not have, and since when.
    pub(super) fn kept(&self) -> (usize, Option<Timestamp>) {
        self.ledger.kept()
    }

    /// Saves that are not stored yet, the latest of each call.
    pub(super) fn owed_saves(&self) -> impl Iterator<Item = &Save> {
        let flying = self.in_flight.iter().flat_map(|flight| &flight.batch.calls);
        let flying = flying.filter(|save| !self.calls.values.contains_key(&save.id));
        self.calls.values.values().chain(flying)
    }

    /// A save of that call is not stored yet.
    pub(super) fn owes(&self, call: CallId) -> bool {
        let key = Key::Call(call);
        self.is_waiting(&key) || self.is_flying(&key)
    }

    /// Rows that wait for the store.
    pub(super) fn owed(&self) -> usize {
        self.calls.order.len() + self.bindings.order.len()
    }

    /// Nothing waits and nothing is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.in_flight.is_none() && self.owed() == 0 && self.told.is_empty()
    }

    /// All that the store is owed is on disk: this process may end, and a later start hands it over.
    pub(super) fn is_safe(&self) -> bool {
        let flying = self.in_flight.as_ref();
        let saves = flying.into_iter().flat_map(|flight| &flight.batch.calls);
        let saved = self
            .calls
            .values
            .values()
            .chain(saves)
            .all(|save| self.ledger.keeps(&Key::Call(save.id), version_of(save)));
        let numbers = flying.into_iter().flat_map(|flight| {
            flight.batch.bindings.iter().map(|write| &write.extension).zip(&flight.numbers)
        });
        let waiting = self.bindings.values.iter().map(|(name, write)| (name, &write.number));
        saved
            && waiting.chain(numbers).all(|(extension, number)| {
                self.ledger.keeps(&Key::User(extension.clone()), (0, *number))
            })
    }

    /// The next batch, when it is time and no other is under way.
    pub(super) fn poll_batch(&mut self, now: Timestamp) -> Option<Arc<Batch>> {
        if self.commit_at().is_none_or(|at| at > now) {
            return None;
        }
        let calls: Vec<Save> =
            self.calls.take(limits::COMMIT_BATCH).into_iter().map(|(_, save)| save).collect();
        let room = limits::COMMIT_BATCH - calls.len();
        let mut numbers = Vec::new();
        let bindings = self.bindings.take(room).into_iter().map(|(extension, write)| {
            numbers.push(write.number);
            BindingsWrite { extension, bindings: write.bindings }
        });
        let bindings = bindings.collect();
        let told = self.told.drain(..self.told.len().min(limits::COMMIT_BATCH)).collect();
        let batch = Arc::new(Batch { calls, bindings, told });
        self.in_flight = Some(InFlight { batch: Arc::clone(&batch), numbers, started: now });
        Some(batch)
    }

    /// The commit under way ended. After an error everything is offered again, later. Without a journal the answers are
    /// given back all the same: the phones are told to come again.
    pub(super) fn finish(&mut self, stored: bool, now: Timestamp) -> Option<Finished> {
        let InFlight { batch, numbers, started } = self.in_flight.take()?;
        let mut replies = Vec::new();
        if stored {
            self.failures = 0;
            (self.last_began, self.not_before) = (started, now);
            for save in &batch.calls {
                self.settle(Key::Call(save.id));
            }
            for (write, number) in batch.bindings.iter().zip(numbers) {
                self.release(&write.extension, number, &mut replies);
                self.settle(Key::User(write.extension.clone()));
            }
            // A long queue is a wait of its own.
            if self.owed() <= limits::COMMIT_BATCH {
                self.ledger.turn_off();
            }
        } else {
            let back_off = BACK_OFF * 2_u32.saturating_pow(self.failures.min(8));
            self.not_before = now + back_off.min(LONGEST_BACK_OFF);
            self.failures = self.failures.saturating_add(1);
            for save in &batch.calls {
                if let Some((later, earlier)) = self.calls.put_back(save.id, save.clone()) {
                    later.follow(earlier);
                }
            }
            let room = limits::UNTOLD_EVENTS.saturating_sub(self.told.len());
            for document in batch.told.iter().rev().take(room) {
                self.told.push_front(document.clone());
            }
            for (write, number) in batch.bindings.iter().zip(numbers) {
                let bindings = write.bindings.clone();
                _ = self.bindings.put_back(write.extension.clone(), Numbered { number, bindings });
            }
            self.begin_keeping();
            if self.cannot_keep() {
                replies = self.release_all();
            }
        }
        Some(Finished { batch, began: started, replies })
    }

    /// The store has this key's row; the journal need not, unless a later one waits.
    fn settle(&mut self, key: Key) {
        if !self.is_waiting(&key) {
            self.ledger.settle(key);
        }
    }

    fn is_waiting(&self, key: &Key) -> bool {
        match key {
            Key::Call(id) => self.calls.values.contains_key(id),
            Key::User(extension) => self.bindings.values.contains_key(extension),
        }
    }

    /// Everything owed is due for the journal.
    fn begin_keeping(&mut self) {
        if self.ledger.is_on() || !self.ledger.is_present() {
            return;
        }
        self.ledger.turn_on();
        let flying = self.in_flight.as_ref().map(|flight| Arc::clone(&flight.batch));
        if let Some(batch) = flying {
            batch.calls.iter().for_each(|save| self.ledger.note(Key::Call(save.id)));
            let users = batch.bindings.iter().map(|write| write.extension.clone());
            users.for_each(|extension| self.ledger.note(Key::User(extension)));
        }
        self.calls.order.iter().for_each(|id| self.ledger.note(Key::Call(*id)));
        let users = self.bindings.order.iter().cloned();
        users.for_each(|extension| self.ledger.note(Key::User(extension)));
    }

    /// The journal keeps nothing more until then, so nothing leaves for it was kept.
    pub(super) fn hold_journal(&mut self, until: Timestamp) {
        self.ledger.wait_until(until);
    }

    /// What the journal is to do now.
    pub(super) fn poll_journal(&mut self, now: Timestamp) -> Option<Work> {
        if self.slow_at().is_some_and(|at| at <= now) {
            self.begin_keeping();
        }
        let (mut batch, mut calls, mut users) = (Batch::default(), Vec::new(), Vec::new());
        for key in self.ledger.take(now) {
            match &key {
                Key::Call(id) => {
                    let Some(save) = self.latest_save(*id) else { continue };
                    let version = version_of(save);
                    if !self.ledger.keeps(&key, version) {
                        batch.calls.push(save.clone());
                        calls.push((key, version));
                    }
                }
                Key::User(extension) => {
                    let Some((number, bindings)) = self.latest_bindings(extension) else {
                        continue;
                    };
                    if !self.ledger.keeps(&key, (0, number)) {
                        let (extension, bindings) = (extension.clone(), bindings.to_vec());
                        batch.bindings.push(BindingsWrite { extension, bindings });
                        users.push((key, (0, number)));
                    }
                }
            }
        }
        calls.append(&mut users);
        if calls.is_empty() {
            return self.ledger.poll_removal(now);
        }
        self.ledger.writing(calls);
        Some(Work::Write(Arc::new(batch)))
    }

    fn latest_save(&self, id: CallId) -> Option<&Save> {
        let flying = || self.in_flight.as_ref()?.batch.calls.iter().find(|save| save.id == id);
        self.calls.values.get(&id).or_else(flying)
    }

    fn latest_bindings(&self, extension: &str) -> Option<(u64, &[Binding])> {
        if let Some(waiting) = self.bindings.values.get(extension) {
            return Some((waiting.number, &waiting.bindings));
        }
        let flight = self.in_flight.as_ref()?;
        let mut writes = flight.batch.bindings.iter().zip(&flight.numbers);
        let (write, number) = writes.find(|(write, _)| write.extension == extension)?;
        Some((*number, &write.bindings))
    }

    /// The journal did it, or not. Outcomes in the order of the batch's calls.
    pub(super) fn journaled(
        &mut self,
        result: &Result<Vec<CallOutcome>, StoreError>,
        now: Timestamp,
    ) -> Kept {
        let mut kept = Kept::default();
        match (self.ledger.finish(result.is_ok(), now), result) {
            (Some(Doing::Writing(versions)), Ok(outcomes)) => {
                let mut outcomes = outcomes.iter();
                for (key, version) in versions {
                    let owed = self.is_waiting(&key) || self.is_flying(&key);
                    match &key {
                        // Not taken even here: the store will tell why.
                        Key::Call(_) if outcomes.next() != Some(&CallOutcome::Done) => continue,
                        Key::Call(id) => kept.calls.push((*id, Rev(version.1))),
                        Key::User(extension) => {
                            self.release(extension, version.1, &mut kept.replies);
                        }
                    }
                    self.ledger.keep(key, version, owed, now);
                }
            }
            (Some(Doing::Writing(versions)), Err(_)) => {
                versions.into_iter().for_each(|(key, _)| self.ledger.note(key));
                if self.cannot_keep() {
                    kept.refused = self.release_all();
                }
            }
            (Some(Doing::Removing(keys)), Err(_)) => self.ledger.put_back(keys),
            (Some(Doing::Removing(_)) | None, _) => {}
        }
        kept
    }

    fn is_flying(&self, key: &Key) -> bool {
        let Some(flight) = &self.in_flight else { return false };
        match key {
            Key::Call(id) => flight.batch.calls.iter().any(|save| save.id == *id),
            Key::User(extension) => flight.number_of(extension).is_some(),
        }
    }

    /// When the commit under way is called slow.
    fn slow_at(&self) -> Option<Timestamp> {
        let started = self.in_flight.as_ref()?.started;
        (self.ledger.is_present() && !self.ledger.is_on()).then_some(started + SLOW)
    }

    /// The store will never take this call's saves.
    pub(super) fn forget(&mut self, call: CallId) {
        if self.calls.values.remove(&call).is_some() {
            self.calls.order.retain(|waiting| *waiting != call);
        }
        self.ledger.settle(Key::Call(call));
    }

    /// When there may be something to do.
    pub(super) fn next_timeout(&self) -> Option<Timestamp> {
        let due = [self.commit_at(), self.slow_at(), self.ledger.next_timeout()];
        due.into_iter().flatten().min()
    }

    /// When the next commit may begin.
    fn commit_at(&self) -> Option<Timestamp> {
        if self.in_flight.is_some() || (self.owed() == 0 && self.told.is_empty()) {
            return None;
        }
        let pace = match self.owed() {
            WORTH_A_COMMIT.. => PACE,
            _ if self.a_call_waits() => PATIENCE,
            _ if !self.bindings.order.is_empty() => PATIENCE_OF_BINDINGS,
            _ => LEISURE,
        };
        Some(self.not_before.max(self.last_began + pace))
    }

    /// Something of a call leaves when it is stored. Of one that ended its phones know already.
    fn a_call_waits(&self) -> bool {
        !self.calls.values.values().all(|save| save.ended)
    }
}

fn version_of(save: &Save) -> Version {
    (save.epoch.0, save.rev.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signaling::samples::save;

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
        assert_eq!(committer.next_timeout(), Some(at(5)), "paced");
        assert_eq!(committer.poll_batch(at(4)), None);
        assert_eq!(revs(&committer.poll_batch(at(5)).expect("due")), [(1, 3)]);
        committer.finish(true, at(30)).expect("was under way");
        assert!(committer.is_idle());
    }

    #[test]
    fn a_few_rows_wait_for_company_and_many_do_not() {
        let mut committer = Committer::default();
        committer.save(save(0, 1));
        committer.poll_batch(at(0)).expect("after a pause at once");
        committer.finish(true, at(1)).expect("was under way");
        for call in 1..WORTH_A_COMMIT as u128 {
            committer.save(save(call, 1));
        }
        assert_eq!(committer.next_timeout(), Some(at(5)));
        committer.write_bindings("1001", Vec::new());
        assert_eq!(committer.next_timeout(), Some(at(2)));
    }

    #[test]
    fn the_end_of_a_call_waits_for_those_that_somebody_waits_for() {
        let mut committer = Committer::default();
        committer.save(save(0, 1));
        committer.poll_batch(at(0)).expect("after a pause at once");
        committer.finish(true, at(1)).expect("was under way");
        committer.save(Save { ended: true, ..save(1, 2) });
        assert_eq!(committer.next_timeout(), Some(at(20)));
        committer.write_bindings("1001", Vec::new());
        assert_eq!(committer.next_timeout(), Some(at(10)), "a phone waits, but nobody with it");
        committer.save(save(2, 1));
        assert_eq!(committer.next_timeout(), Some(at(5)));
        assert_eq!(revs(&committer.poll_batch(at(5)).expect("due")), [(1, 2), (2, 1)]);
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
        let batch = committer.poll_batch(at(6)).expect("due");
        assert_eq!((batch.calls.len(), batch.bindings.len()), (7, 1));
    }

    fn keeping() -> Committer {
        let mut committer = Committer::default();
        committer.use_journal();
        committer
    }

    fn written(work: Option<Work>) -> Vec<(u128, u64)> {
        match work {
            Some(Work::Write(batch)) => revs(&batch),
            Some(Work::Remove(..)) | None => panic!("a write: {work:?}"),
        }
    }

    fn done(count: usize) -> Result<Vec<CallOutcome>, StoreError> {
        Ok(vec![CallOutcome::Done; count])
    }

    fn failed() -> Result<Vec<CallOutcome>, StoreError> {
        Err(StoreError::Unavailable("full".to_owned()))
    }

    fn answer() -> HeldAnswer {
        let text = "REGISTER sip:1@192.0.2.1 SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.2;branch=z9hG4bKx\r\n\
                    From: <sip:1@192.0.2.1>;tag=a\r\nTo: <sip:1@192.0.2.1>\r\nCall-ID: c\r\n\
                    CSeq: 1 REGISTER\r\n\r\n";
        let bytes = bytes::Bytes::from_static(text.as_bytes());
        let Ok(crate::sip::Message::Request(request)) = crate::sip::Message::parse(&bytes) else {
            panic!("a good REGISTER")
        };
        let address: core::net::SocketAddr = "192.0.2.1:5060".parse().expect("literal");
        let transport = crate::ids::Transport::Udp;
        let flow =
            crate::ids::Flow { transport, local: address, remote: address, connection: None };
        HeldAnswer { request, flow, bytes }
    }

    #[test]
    fn a_slow_commit_is_kept_and_the_journal_opens_the_barrier() {
        let mut committer = keeping();
        committer.save(save(1, 1));
        committer.poll_batch(at(0)).expect("due");
        assert_eq!(committer.next_timeout(), Some(at(150)));
        assert_eq!(committer.poll_journal(at(149)), None, "the store may be in time");
        committer.save(save(2, 1));
        assert_eq!(written(committer.poll_journal(at(150))), [(1, 1), (2, 1)]);
        assert_eq!(committer.poll_journal(at(151)), None, "one write at a time");
        committer.save(save(2, 2));
        let kept = committer.journaled(&done(2), at(152));
        assert_eq!(kept.calls, [(CallId(1), Rev(1)), (CallId(2), Rev(1))]);
        assert_eq!(committer.kept(), (2, Some(at(152))));
        assert!(!committer.is_safe());
        assert_eq!(written(committer.poll_journal(at(153))), [(2, 2)], "at once from now on");
        committer.journaled(&done(1), at(154));
        assert!(committer.is_safe());
        assert!(!committer.is_failing() && committer.is_keeping());
        committer.finish(true, at(3_000)).expect("was under way");
        let removal = Work::Remove(vec![CallId(1)], Vec::new());
        assert_eq!(committer.poll_journal(at(3_000)), Some(removal), "the other is owed");
        committer.journaled(&done(0), at(3_001));
        assert_eq!(revs(&committer.poll_batch(at(3_001)).expect("due")), [(2, 2)]);
        committer.finish(true, at(3_002)).expect("was under way");
        assert_eq!(committer.kept(), (0, None));
        let removal = Work::Remove(vec![CallId(2)], Vec::new());
        assert_eq!(committer.poll_journal(at(3_003)), Some(removal));
        committer.journaled(&done(0), at(3_004));
        assert!(committer.is_idle() && committer.next_timeout().is_none());
    }

    #[test]
    fn an_error_is_kept_at_once_and_answers_leave() {
        let mut committer = keeping();
        committer.write_bindings("1001", Vec::new());
        assert!(committer.hold("1001", answer()).is_none());
        committer.poll_batch(at(0)).expect("due");
        let finished = committer.finish(false, at(1)).expect("was under way");
        assert!(finished.replies.is_empty() && committer.held() == 1, "waits for the journal");
        assert!(!committer.cannot_keep());
        assert!(matches!(committer.poll_journal(at(1)), Some(Work::Write(_))));
        // A second REGISTER while the first is being written waits for a write of its own.
        committer.write_bindings("1001", Vec::new());
        assert!(committer.hold("1001", answer()).is_none());
        assert_eq!(committer.journaled(&done(0), at(2)).replies.len(), 1);
        assert_eq!(committer.held(), 1);
        assert!(matches!(committer.poll_journal(at(2)), Some(Work::Write(_))));
        assert_eq!(committer.journaled(&done(0), at(3)).replies.len(), 1);
        assert!(committer.hold("1001", answer()).is_some(), "a repeat waits for nothing");
    }

    #[test]
    fn what_a_peer_stores_follows_a_write_under_way_that_is_older() {
        let mut committer = keeping();
        committer.supersede_bindings("1001", &[]);
        assert!(committer.poll_batch(at(0)).is_none(), "it is the peer's");
        committer.write_bindings("1001", Vec::new());
        committer.poll_batch(at(0)).expect("due");
        committer.supersede_bindings("1001", &[]);
        committer.finish(true, at(1)).expect("was under way");
        let after = core::iter::from_fn(|| committer.poll_batch(at(1_000))).next();
        assert_eq!(after.expect("it may have been overtaken").bindings.len(), 1);
    }

    #[test]
    fn a_journal_that_fails_promises_nothing_until_it_works_again() {
        let mut committer = keeping();
        committer.save(save(1, 1));
        committer.write_bindings("1001", Vec::new());
        assert!(committer.hold("1001", answer()).is_none());
        committer.poll_batch(at(0)).expect("due");
        committer.finish(false, at(1)).expect("was under way");
        committer.poll_journal(at(1)).expect("due");
        let kept = committer.journaled(&failed(), at(2));
        assert!(kept.calls.is_empty() && kept.refused.len() == 1 && committer.held() == 0);
        assert!(committer.cannot_keep());
        assert_eq!(committer.poll_journal(at(1_001)), None, "backs off");
        assert_eq!(written(committer.poll_journal(at(1_002))), [(1, 1)]);
        committer.journaled(&done(1), at(1_003));
        assert!(!committer.cannot_keep());
    }

    #[test]
    fn a_row_that_the_store_took_meanwhile_does_not_stay() {
        let mut committer = keeping();
        for call in [1, 2] {
            committer.save(save(call, 1));
        }
        committer.poll_batch(at(0)).expect("due");
        committer.poll_journal(at(150)).expect("slow");
        committer.finish(true, at(151)).expect("was under way");
        let outcomes = Ok(vec![CallOutcome::Done, CallOutcome::Fenced]);
        let kept = committer.journaled(&outcomes, at(152));
        assert_eq!(kept.calls, [(CallId(1), Rev(1))], "what was not written opens nothing");
        assert_eq!(committer.kept(), (0, None));
        let removal = Work::Remove(vec![CallId(1)], Vec::new());
        assert_eq!(committer.poll_journal(at(152)), Some(removal));
    }

    #[test]
    fn after_an_outage_all_is_offered_once_and_keeping_ends_with_the_queue() {
        let mut committer = keeping();
        let count = limits::COMMIT_BATCH as u128 * 2;
        for call in 0..count {
            committer.save(save(call, 1));
        }
        committer.poll_batch(at(0)).expect("due");
        committer.finish(false, at(1)).expect("was under way");
        for _ in 0..2 {
            let batch = written(committer.poll_journal(at(2)));
            assert_eq!(batch.len(), limits::COMMIT_BATCH);
            committer.journaled(&done(batch.len()), at(2));
        }
        assert_eq!(committer.poll_journal(at(3)), None, "each once");
        committer.save(save(count, 1));
        let mut offered = 0;
        for turn in 1..=3 {
            offered += committer.poll_batch(at(turn * 100)).expect("due").calls.len();
            committer.finish(true, at(turn * 100 + 1)).expect("was under way");
            assert_eq!(committer.is_keeping(), turn == 1, "while the queue is long");
        }
        assert_eq!(offered as u128, count + 1);
        assert_eq!(committer.kept(), (0, None));
    }
}
