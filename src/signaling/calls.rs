//! The table of live calls: each in a slot with what it waits for, found by id, by the key of its INVITE and by user.
//!
//! Invariants: indexes name live slots only; a timer in the heap is due no later than its call's next one; a message
//! that waits for a commit leaves when that rev is stored, in the order in which it was made.

use crate::call::{Call, Save, Told, Transmit};
use crate::control;
use crate::ids::{CallId, NodeName, Rev};
use crate::time::Timestamp;
use bytes::Bytes;
use core::ops::Bound;
use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap, VecDeque};

/// Messages of one call kept for a connection that broke.
const STRANDED: usize = 16;

/// A live call and what surrounds it.
#[derive(Debug)]
pub(super) struct Slot {
    pub call: Call,
    pub key: [u8; 16],
    /// Top Via of the first INVITE: branch and sent-by.
    origin: String,
    /// Greatest rev that the store or the journal has.
    pub committed: Rev,
    /// Greatest rev that the store has.
    pub stored: Rev,
    /// Greatest rev that was handed to the committer.
    pub saved: Rev,
    /// What a save told that was left out: the next one tells it.
    pub untold: Vec<Told>,
    held: VecDeque<(Rev, Transmit)>,
    /// Requests whose connection broke: they leave by the phone's next registration, or time out with their
    /// transaction.
    pub stranded: Vec<(Timestamp, Transmit)>,
    pub media: Option<Session>,
    users: Vec<String>,
    timer: Option<Timestamp>,
}

/// A call's session on its media node.
#[derive(Debug)]
pub(super) struct Session {
    pub node: NodeName,
    /// The last wish: sent again when the link is back.
    pub request: control::Request,
    /// The node took a wish once: it stays.
    pub settled: bool,
    /// Number of the last report that must not be heard twice.
    pub heard: u64,
    /// Nodes that refused.
    pub refused_by: Vec<NodeName>,
    /// A phone did not take another host: a drain moves it no more.
    pub stays: bool,
}

impl Slot {
    fn new(call: Call, key: [u8; 16], origin: String) -> Self {
        Self {
            call,
            key,
            origin,
            committed: Rev(0),
            stored: Rev(0),
            saved: Rev(0),
            untold: Vec::new(),
            held: VecDeque::new(),
            stranded: Vec::new(),
            media: None,
            users: Vec::new(),
            timer: None,
        }
    }

    /// Nothing more can come, and nothing waits to leave.
    pub(super) fn is_over(&self) -> bool {
        self.held.is_empty() && self.call.is_over()
    }

    /// Its row as it was saved last, or a little later; none before the first save and after the last.
    pub(super) fn row(&self) -> Option<Save> {
        (self.saved.0 > 0).then(|| self.call.row()).flatten()
    }

    /// Its end is stored.
    pub(super) fn has_ended(&self) -> bool {
        self.call.is_concluded() && self.stored >= self.saved
    }

    /// Something is left to decide, or to store: it is somebody's.
    pub(super) fn is_owned(&self) -> bool {
        !self.call.lingers() && !self.has_ended()
    }

    /// Keeps a request for a connection that broke, once. False: too many wait already.
    pub(super) fn strand(&mut self, transmit: Transmit, now: Timestamp) -> bool {
        self.stranded.retain(|(until, one)| *until > now && one.bytes != transmit.bytes);
        let has_room = self.stranded.len() < STRANDED;
        if has_room {
            self.stranded.push((now + crate::limits::TRANSACTION_TIMEOUT, transmit));
        }
        has_room
    }

    /// That was said, by another flow perhaps: it does not wait any more.
    pub(super) fn note_said(&mut self, bytes: &Bytes) {
        self.stranded.retain(|(_, waiting)| waiting.bytes != *bytes);
    }
}

/// How an INVITE without To tag relates to the calls that are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// The same request again.
    Repeated(CallId),
    /// The same call by another way (RFC 3261 §8.2.2.2).
    Merged,
    /// Not seen.
    New,
}

/// All live calls of this node.
#[derive(Debug, Default)]
pub(super) struct Calls {
    /// Boxed: the table keeps half of its places free.
    slots: HashMap<CallId, Box<Slot>>,
    /// Their ids, which sort by time.
    order: BTreeSet<CallId>,
    by_key: HashMap<[u8; 16], CallId>,
    by_user: HashMap<String, Vec<CallId>>,
    timers: BinaryHeap<Reverse<(Timestamp, CallId)>>,
    held: usize,
}

impl Calls {
    /// A new call; `origin` is the INVITE's top Via as `origin_of` reads it.
    pub(super) fn insert(&mut self, call: Call, key: [u8; 16], origin: String) {
        let id = call.id();
        let users: Vec<String> = call.extensions().map(str::to_owned).collect();
        self.by_key.insert(key, id);
        self.slots.insert(id, Box::new(Slot::new(call, key, origin)));
        self.order.insert(id);
        for user in users {
            self.add_user(id, &user);
        }
    }

    /// The call touches this user: registrations of the user's phones concern it.
    pub(super) fn add_user(&mut self, id: CallId, user: &str) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        if slot.users.iter().any(|known| known == user) {
            return;
        }
        slot.users.push(user.to_owned());
        self.by_user.entry(user.to_owned()).or_default().push(id);
    }

    pub(super) fn get(&self, id: CallId) -> Option<&Slot> {
        self.slots.get(&id).map(Box::as_ref)
    }

    pub(super) fn get_mut(&mut self, id: CallId) -> Option<&mut Slot> {
        self.slots.get_mut(&id).map(Box::as_mut)
    }

    /// Forgets a call. What it held never leaves.
    pub(super) fn remove(&mut self, id: CallId) -> Option<Box<Slot>> {
        let slot = self.slots.remove(&id)?;
        self.order.remove(&id);
        // A call that was adopted may have the key by now.
        if self.by_key.get(&slot.key) == Some(&id) {
            self.by_key.remove(&slot.key);
        }
        self.held = self.held.saturating_sub(slot.held.len());
        for user in &slot.users {
            if let Some(ids) = self.by_user.get_mut(user) {
                ids.retain(|known| *known != id);
                if ids.is_empty() {
                    self.by_user.remove(user);
                }
            }
        }
        Some(slot)
    }

    pub(super) fn find(&self, key: &[u8; 16], origin: &str) -> Known {
        match self.by_key.get(key) {
            None => Known::New,
            Some(id) => match self.slots.get(id) {
                // A call that was adopted has forgotten how its INVITE came.
                Some(slot) if slot.origin == origin || slot.origin.is_empty() => {
                    Known::Repeated(*id)
                }
                Some(_) => Known::Merged,
                None => Known::New,
            },
        }
    }

    /// The INVITE with that key made a live call here.
    pub(super) fn has_key(&self, key: &[u8; 16]) -> bool {
        self.by_key.contains_key(key)
    }

    /// The live call here that the INVITE with that key made.
    pub(super) fn of_key(&self, key: &[u8; 16]) -> Option<CallId> {
        self.by_key.get(key).copied()
    }

    /// Calls that touch a user.
    pub(super) fn of_user(&self, user: &str) -> &[CallId] {
        self.by_user.get(user).map_or(&[], Vec::as_slice)
    }

    /// Calls that this user is the caller of and that are not over.
    pub(super) fn begun_by(&self, user: &str) -> usize {
        let begun = |id: &&CallId| {
            self.slots.get(id).is_some_and(|slot| slot.call.caller_extension() == Some(user))
        };
        self.of_user(user).iter().filter(begun).count()
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (CallId, &Slot)> {
        self.slots.iter().map(|(id, slot)| (*id, slot.as_ref()))
    }

    /// The oldest that are wanted, after one: what a page costs does not grow with the table.
    pub(super) fn page(
        &self,
        after: Option<CallId>,
        limit: usize,
        is_wanted: impl Fn(&Call) -> bool,
    ) -> Vec<&Call> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let later = self.order.range((from, Bound::Unbounded));
        let calls = later.filter_map(|id| self.get(*id)).map(|slot| &slot.call);
        calls.filter(|call| is_wanted(call)).take(limit).collect()
    }

    /// Ids of those that are wanted, in their order: a history repeats itself.
    pub(super) fn ids(&self, is_wanted: impl Fn(&Slot) -> bool) -> Vec<CallId> {
        let is_wanted = |id: &&CallId| self.get(**id).is_some_and(&is_wanted);
        self.order.iter().filter(is_wanted).copied().collect()
    }

    /// Messages that wait for a commit.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// What waits for another flow and is for this one; what waited too long is dropped, and what nobody is to hear any
    /// more.
    pub(super) fn take_stranded(
        &mut self,
        id: CallId,
        now: Timestamp,
        is_for: impl Fn(&Transmit) -> bool,
    ) -> Vec<Transmit> {
        let Some(slot) = self.get_mut(id).filter(|slot| !slot.stranded.is_empty()) else {
            return Vec::new();
        };
        let stranded = core::mem::take(&mut slot.stranded).into_iter();
        let (waiting, others): (Vec<_>, _) = stranded.partition(|(_, transmit)| is_for(transmit));
        slot.stranded = others;
        let timely = waiting.into_iter().filter(|(until, _)| *until > now);
        let wanted = timely.map(|(_, transmit)| transmit).filter(|it| slot.call.is_wanted(it));
        wanted.collect()
    }

    /// Gives back what may leave now; keeps what waits for a later rev.
    pub(super) fn hold(&mut self, id: CallId, transmit: Transmit) -> Option<Transmit> {
        let Some(slot) = self.slots.get_mut(&id) else { return Some(transmit) };
        match transmit.behind {
            Some(rev) if rev > slot.committed => {
                slot.held.push_back((rev, transmit));
                self.held += 1;
                None
            }
            Some(_) | None => Some(transmit),
        }
    }

    /// A rev is stored: what waited for it.
    pub(super) fn commit(&mut self, id: CallId, rev: Rev) -> Vec<Transmit> {
        let Some(slot) = self.slots.get_mut(&id) else { return Vec::new() };
        slot.committed = slot.committed.max(rev);
        let mut released = Vec::new();
        let committed = slot.committed;
        for (behind, transmit) in core::mem::take(&mut slot.held) {
            if behind <= committed {
                released.push(transmit);
            } else {
                slot.held.push_back((behind, transmit));
            }
        }
        self.held = self.held.saturating_sub(released.len());
        released
    }

    /// The store itself has it.
    pub(super) fn note_stored(&mut self, id: CallId, rev: Rev) {
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.stored = slot.stored.max(rev);
        }
    }

    /// Notes when a call wants to be woken.
    pub(super) fn schedule(&mut self, id: CallId) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        let Some((at, _)) = slot.call.next_timeout() else { return };
        if slot.timer.is_none_or(|timer| at < timer) {
            slot.timer = Some(at);
            self.timers.push(Reverse((at, id)));
        }
    }

    /// A call whose time has come.
    pub(super) fn pop_due(&mut self, now: Timestamp) -> Option<CallId> {
        while let Some(Reverse((at, id))) = self.timers.peek().copied() {
            if at > now {
                return None;
            }
            self.timers.pop();
            // A call that is gone, or was rescheduled to an earlier time since.
            let Some(slot) = self.slots.get_mut(&id).filter(|slot| slot.timer == Some(at)) else {
                continue;
            };
            slot.timer = None;
            match slot.call.next_timeout() {
                Some((next, _)) if next <= now => return Some(id),
                Some(_) => self.schedule(id),
                None => {}
            }
        }
        None
    }

    /// When `pop_due` may have something.
    pub(super) fn next_timeout(&self) -> Option<Timestamp> {
        self.timers.peek().map(|Reverse((at, _))| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::{Invitation, Settings};
    use crate::ids::{ClusterKey, Epoch, Incarnation, LegId};
    use crate::net::clock;
    use crate::signaling::samples;
    use core::time::Duration;
    use std::sync::Arc;

    const KEY: [u8; 16] = [7; 16];

    fn call(id: u128) -> Call {
        let (request, flow) = samples::invite();
        let settings = Settings {
            key: ClusterKey::new(b"key"),
            node: NodeName("n".into()),
            node_number: 1,
            incarnation: Incarnation(1),
            advertise: Default::default(),
            product: "Holdfast".to_owned(),
            ring_timeout: Duration::from_secs(30),
            rtp_timeout: Duration::from_secs(30),
            emergency_numbers: Vec::new(),
        };
        let (id, caller) = (CallId(id), Arc::new(samples::user("1")));
        let (epoch, entropy) = (Epoch(1), [0; 32]);
        let invitation = Invitation { id, key: KEY, epoch, entropy, caller, request, flow };
        Call::new(Arc::new(settings), invitation, Timestamp::EPOCH).expect("a call")
    }

    fn message(name: &'static str, behind: Option<u64>) -> Transmit {
        let (bytes, (_, flow)) = (Bytes::from_static(name.as_bytes()), samples::invite());
        Transmit { flow, bytes, leg: LegId::CALLER, behind: behind.map(Rev), request: None }
    }

    #[test]
    fn what_was_said_again_by_a_new_flow_does_not_wait_for_it() {
        let mut calls = Calls::default();
        let id = CallId(1);
        calls.insert(call(1), KEY, "origin".to_owned());
        let slot = calls.get_mut(id).expect("there");
        for name in ["INVITE", "CANCEL"] {
            assert!(slot.strand(message(name, None), Timestamp::EPOCH));
        }
        slot.note_said(&Bytes::from_static(b"INVITE"));
        let left = calls.take_stranded(id, Timestamp::EPOCH, |_| true);
        assert_eq!(left.iter().map(|it| &it.bytes[..]).collect::<Vec<_>>(), [b"CANCEL"]);
    }

    #[test]
    fn messages_leave_when_their_rev_is_stored() {
        let mut calls = Calls::default();
        let id = CallId(1);
        calls.insert(call(1), KEY, "origin".to_owned());
        assert!(calls.hold(id, message("180", None)).is_some(), "waits for nothing");
        for (name, behind) in [("100", 1), ("200", 3), ("INVITE", 1)] {
            assert!(calls.hold(id, message(name, Some(behind))).is_none());
        }
        assert_eq!(calls.held(), 3);
        let names = |released: Vec<Transmit>| -> Vec<Bytes> {
            released.into_iter().map(|transmit| transmit.bytes).collect()
        };
        assert_eq!(names(calls.commit(id, Rev(2))), ["100", "INVITE"]);
        assert!(calls.hold(id, message("late", Some(2))).is_some(), "stored already");
        assert_eq!(names(calls.commit(id, Rev(3))), ["200"]);
        calls.hold(id, message("never", Some(9)));
        assert!(calls.remove(id).is_some() && calls.held() == 0);
    }

    #[test]
    fn a_page_is_of_the_oldest_and_looks_at_no_more() {
        let mut calls = Calls::default();
        for id in [5, 3, 1, 4, 2] {
            calls.insert(call(id), KEY, String::new());
        }
        calls.remove(CallId(3));
        let looked = core::cell::Cell::new(0);
        let page = |after: Option<u128>, limit| -> Vec<u128> {
            looked.set(0);
            let is_wanted = |_: &Call| {
                looked.set(looked.get() + 1);
                true
            };
            let page = calls.page(after.map(CallId), limit, is_wanted);
            page.into_iter().map(|call| call.id().0).collect()
        };
        assert_eq!((page(None, 2), looked.get()), (vec![1, 2], 2));
        assert_eq!((page(Some(2), 1), looked.get()), (vec![4], 1));
        assert_eq!(page(Some(3), 9), [4, 5], "what is gone is a place in the order");
        assert_eq!(calls.page(None, 1, |call| call.id() > CallId(4)).len(), 1);
        assert_eq!(calls.ids(|_| true), [1, 2, 4, 5].map(CallId));
    }

    /// What a page of 20,000 calls takes of the thread that handles SIP: `--nocapture` tells.
    #[test]
    fn pages_of_many_calls() {
        const MANY: u128 = 20_000;
        let mut calls = Calls::default();
        for id in 0..MANY {
            calls.insert(call(id * 7_919 % MANY), KEY, String::new());
        }
        let filter = |extension: &str| crate::operator::CallFilter {
            state: Some("trying".to_owned()),
            extension: Some(extension.to_owned()),
            ..Default::default()
        };
        for (name, filter, limit) in [
            ("the first 100", filter("1"), 101),
            ("the first 1,000", filter("1"), 1_001),
            ("none of all", filter("nobody"), 101),
        ] {
            let begun = clock::now();
            let page = calls.page(None, limit, |call| {
                !call.lingers() && super::super::views::matches(call, &filter)
            });
            let views: Vec<_> = page.iter().map(|call| call.view(Timestamp::EPOCH)).collect();
            println!("{name}: {} views in {:?}", views.len(), clock::now().saturating_since(begun));
            assert!(views.is_sorted_by(|one, other| one.id < other.id));
            assert_eq!(views.len(), if name == "none of all" { 0 } else { limit });
        }
    }

    #[test]
    fn calls_are_found_by_key_and_by_user() {
        let mut calls = Calls::default();
        assert_eq!(calls.find(&KEY, "origin"), Known::New);
        calls.insert(call(1), KEY, "origin".to_owned());
        assert_eq!(calls.find(&KEY, "origin"), Known::Repeated(CallId(1)));
        assert_eq!(calls.find(&KEY, "another way"), Known::Merged);
        calls.add_user(CallId(1), "2");
        calls.add_user(CallId(1), "2");
        assert_eq!((calls.of_user("1"), calls.of_user("2")), (&[CallId(1)][..], &[CallId(1)][..]));
        assert_eq!((calls.begun_by("1"), calls.begun_by("2")), (1, 0));
        calls.remove(CallId(1));
        assert_eq!(calls.find(&KEY, "origin"), Known::New);
        assert!(calls.of_user("1").is_empty() && calls.of_user("2").is_empty());
    }
}
