//! The media nodes that announced themselves: who is there, who has room, who is lost.
//!
//! Invariants: a session stays on the node that took it; a node is lost only when it gave no sign of life for `GRACE`
//! after its link broke, and until then its sessions wait for it; what is owed to a node (releases) is sent again when
//! it is back.

use super::links::PeerAddress;
use crate::control::hello::{Capacity, Hello};
use crate::control::{Frame, Release, Request};
use crate::ids::{Incarnation, NodeName, SessionId};
use crate::time::Timestamp;
use core::time::Duration;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use tokio::sync::mpsc;

/// A node without a link and without a sign of life for longer is lost.
const GRACE: Duration = Duration::from_secs(10);
/// A node without a link that is not proven dead is asked so often whether it lives.
const JUDGED_EVERY: Duration = Duration::from_secs(4);
/// Releases kept for nodes that did not acknowledge them, also for those that are lost: one that was cut off has their
/// sessions still. Above it the oldest are forgotten.
const RELEASES: usize = 100_000;

/// A transcoded session costs a media node as much as so many others.
const TRANSCODED_COST: u32 = 8;
/// Sessions whose place we learnt; above it all are forgotten and learnt anew.
const PLACES: usize = 100_000;

/// A link, counted over the life of the process.
pub type LinkNumber = u64;

/// A media node.
#[derive(Debug)]
pub(super) struct MediaNode {
    pub hello: Hello,
    pub capacity: Capacity,
    /// Since when it is there, or since when it is not.
    pub since: Timestamp,
    /// An operator wants no new sessions there.
    pub drained: bool,
    /// Since when it was seen to take no new ones.
    pub draining_since: Option<Timestamp>,
    link: Option<Link>,
    /// Sessions given to it since it last told its room.
    assigned: u32,
    /// As it told; empty before.
    host: String,
    /// Proven.
    dead: bool,
    /// Its link misses heartbeats.
    silent: bool,
    /// Of a node without a link: the last sign of its life.
    lived_at: Timestamp,
    judged_at: Timestamp,
}

#[derive(Debug)]
struct Link {
    number: LinkNumber,
    sender: mpsc::Sender<Frame>,
    rtt_us: Arc<AtomicU32>,
}

impl MediaNode {
    pub(super) fn is_up(&self) -> bool {
        self.link.is_some()
    }

    pub(super) fn rtt_us(&self) -> Option<u32> {
        let rtt = self.link.as_ref()?.rtt_us.load(Ordering::Relaxed);
        (rtt > 0).then_some(rtt)
    }

    /// It has a link, and is heard.
    pub(super) fn is_heard(&self) -> bool {
        self.is_up() && !self.silent
    }

    /// It takes control connections by loopback.
    pub(super) fn is_local(&self) -> bool {
        self.hello.control.iter().all(|address| address.ip().is_loopback())
    }

    fn takes_sessions(&self) -> bool {
        let is_strained = self.capacity.cpu_percent == Capacity::ALL_USED_UP;
        self.is_up() && !self.is_drained() && !is_strained && self.room() > 0
    }

    pub(super) fn is_drained(&self) -> bool {
        self.drained || self.capacity.draining
    }

    /// As it told, and those given to it since.
    pub(super) fn sessions(&self) -> u32 {
        self.capacity.sessions.saturating_add(self.assigned)
    }

    fn room(&self) -> u32 {
        self.capacity.max_sessions.saturating_sub(self.sessions())
    }

    /// For new sessions: what is left of it in sessions, a transcoded one counting as several, or in CPU, whichever is
    /// less.
    fn freedom(&self) -> u32 {
        let crowded = self.capacity.transcoded_sessions.saturating_mul(TRANSCODED_COST - 1);
        let idle = 100_u32.saturating_sub(self.capacity.cpu_percent.min(100));
        let most = self.capacity.max_sessions;
        self.room().saturating_sub(crowded).min(most.saturating_mul(idle) / 100)
    }

    fn send(&mut self, frame: Frame) {
        let stuck = self.link.as_ref().is_some_and(|link| link.sender.try_send(frame).is_err());
        if stuck {
            // Dropped, the link breaks; the node comes back by a new one and is told everything again.
            self.link = None;
        }
    }
}

/// All media nodes by name.
#[derive(Debug, Default)]
pub(super) struct MediaPool {
    nodes: BTreeMap<NodeName, MediaNode>,
    by_link: HashMap<LinkNumber, NodeName>,
    releases: BTreeMap<(SessionId, NodeName), Release>,
    /// Sessions that were given away: who took each last, and when.
    places: BTreeMap<SessionId, (Timestamp, NodeName)>,
    /// Nodes that sessions are on and that never were here: since when they are awaited.
    awaited: BTreeMap<NodeName, Timestamp>,
    requests: u64,
}

impl MediaPool {
    /// A link is up. False: another live incarnation has the name, the link is refused.
    pub(super) fn link_up(
        &mut self,
        number: LinkNumber,
        hello: Hello,
        sender: mpsc::Sender<Frame>,
        rtt_us: Arc<AtomicU32>,
        now: Timestamp,
    ) -> bool {
        let name = hello.name.clone();
        let present = self.nodes.get(&name);
        if present.is_some_and(|node| node.is_up() && node.hello.incarnation > hello.incarnation) {
            return false;
        }
        let same = present.is_some_and(|node| node.hello.incarnation == hello.incarnation);
        let (capacity, drained, host) = present
            .filter(|_| same)
            .map(|node| (node.capacity.clone(), node.drained, node.host.clone()))
            .unwrap_or_default();
        let link = Some(Link { number, sender, rtt_us });
        let node = MediaNode {
            hello,
            capacity,
            since: now,
            drained,
            draining_since: None,
            link,
            assigned: 0,
            host,
            dead: false,
            silent: false,
            lived_at: now,
            judged_at: now,
        };
        self.by_link.retain(|_, known| *known != name);
        self.by_link.insert(number, name.clone());
        self.awaited.remove(&name);
        self.nodes.insert(name.clone(), node);
        let owed: Vec<Release> = self
            .releases
            .iter()
            .filter(|((_, node), _)| *node == name)
            .map(|(_, release)| release.clone())
            .collect();
        for release in owed {
            self.send(&name, Request::Release(release));
        }
        true
    }

    /// A link broke; whom to judge when it was a node's present one.
    pub(super) fn link_down(&mut self, number: LinkNumber, now: Timestamp) -> Option<PeerAddress> {
        let name = self.by_link.remove(&number)?;
        let node = self.nodes.get_mut(&name)?;
        if node.link.as_ref().is_some_and(|link| link.number != number) {
            return None;
        }
        node.link = None;
        (node.since, node.lived_at, node.judged_at) = (now, now, now);
        Some(PeerAddress::of(node.hello.clone()))
    }

    /// A node is proven dead. False: a later start of it is here, or it was known.
    pub(super) fn bury(&mut self, name: &NodeName, incarnation: Incarnation) -> bool {
        let node = self.nodes.get_mut(name);
        let node = node.filter(|node| node.hello.incarnation == incarnation && !node.is_up());
        node.is_some_and(|node| !core::mem::replace(&mut node.dead, true))
    }

    /// A node without a link shows that it lives: its sessions flow on.
    pub(super) fn note_life(&mut self, name: &NodeName, now: Timestamp) {
        if let Some(node) = self.nodes.get_mut(name) {
            node.lived_at = now;
        }
    }

    /// Nodes without a link of which it is time to find out whether they live.
    pub(super) fn doubtful(&mut self, now: Timestamp) -> Vec<PeerAddress> {
        let due = |node: &&mut MediaNode| {
            !node.is_up() && !node.dead && node.judged_at + JUDGED_EVERY <= now
        };
        let due = self.nodes.values_mut().filter(due);
        due.map(|node| {
            node.judged_at = now;
            PeerAddress::of(node.hello.clone())
        })
        .collect()
    }

    /// Who carries on the sessions of a dead node: the one of its host with the most room. A crowded one is better
    /// than none, and so is one that drains.
    pub(super) fn heir_of(&mut self, name: &NodeName) -> Option<NodeName> {
        let dead = self.nodes.get(name).filter(|node| node.dead && !node.host.is_empty())?;
        let host = dead.host.clone();
        let (heir, node) = self
            .nodes
            .iter_mut()
            .filter(|(_, node)| node.host == host && node.is_up())
            .max_by_key(|(_, node)| (!node.is_drained(), node.room()))?;
        node.assigned = node.assigned.saturating_add(1);
        Some(heir.clone())
    }

    /// Whose link it is.
    pub(super) fn name_of(&self, number: LinkNumber) -> Option<&NodeName> {
        self.by_link.get(&number)
    }

    /// A node tells its room.
    pub(super) fn set_capacity(&mut self, name: &NodeName, capacity: Capacity) {
        if let Some(node) = self.nodes.get_mut(name) {
            node.capacity = capacity;
            node.assigned = 0;
        }
    }

    /// Who began to take no new sessions, by whatever order, and who takes them again.
    pub(super) fn note_drains(&mut self, now: Timestamp) {
        for node in self.nodes.values_mut() {
            let since = node.draining_since.unwrap_or(now);
            node.draining_since = node.is_drained().then_some(since);
        }
    }

    /// A node tells its host.
    pub(super) fn set_host(&mut self, name: &NodeName, host: String) {
        if let Some(node) = self.nodes.get_mut(name) {
            node.host = host;
        }
    }

    /// The freest node that is not among `but`; for an emergency any that is there. One that misses heartbeats is
    /// better than none: mostly it only stands still for a moment.
    pub(super) fn choose(&mut self, but: &[NodeName], emergency: bool) -> Option<NodeName> {
        let (name, node) = self
            .nodes
            .iter_mut()
            .filter(|(name, node)| {
                (node.takes_sessions() || emergency && node.is_up()) && !but.contains(name)
            })
            .max_by_key(|(_, node)| {
                (node.takes_sessions(), node.is_heard(), node.freedom(), node.room())
            })?;
        node.assigned = node.assigned.saturating_add(1);
        Some(name.clone())
    }

    /// A new call would find a node.
    pub(super) fn has_room(&self) -> bool {
        self.nodes.values().any(MediaNode::takes_sessions)
    }

    /// Sends a request; when the link is broken, it goes with what is sent again once it is back.
    pub(super) fn send(&mut self, name: &NodeName, request: Request) {
        if let Request::Release(release) = &request {
            if self.releases.len() >= RELEASES {
                // Ids sort by time.
                self.releases.pop_first();
            }
            self.releases.insert((release.session, name.clone()), release.clone());
        }
        let Some(node) = self.nodes.get_mut(name) else { return };
        let request = match request {
            // A node of the release before begins it anew by the wish alone.
            Request::Resume(resume) if node.hello.version < 2 => Request::Apply(resume.apply),
            request => request,
        };
        self.requests += 1;
        node.send(Frame::Request { id: self.requests, request });
    }

    /// A report was taken.
    pub(super) fn acknowledge(&mut self, name: &NodeName, session: SessionId, number: u64) {
        if let Some(node) = self.nodes.get_mut(name) {
            node.send(Frame::ReportAck { session, number });
        }
    }

    /// A node took a session that another gave away. False: one that took it later is known.
    pub(super) fn note_place(
        &mut self,
        session: SessionId,
        node: &NodeName,
        at: Timestamp,
    ) -> bool {
        if self.places.get(&session).is_some_and(|(known, _)| *known > at) {
            return false;
        }
        self.begin_place(session, node, at);
        for former in self.siblings_of(node) {
            if let Some(release) = self.releases.remove(&(session, former)) {
                self.send(node, Request::Release(release));
            }
        }
        true
    }

    /// Others of its host, as far as they told.
    fn siblings_of(&self, name: &NodeName) -> Vec<NodeName> {
        let Some(host) = self.host_of(name) else { return Vec::new() };
        let siblings =
            self.nodes.iter().filter(|(other, node)| *other != name && node.host == *host);
        siblings.map(|(other, _)| other.clone()).collect()
    }

    /// Which host it is on, if it told.
    fn host_of(&self, name: &NodeName) -> Option<&String> {
        Some(&self.nodes.get(name)?.host).filter(|host| !host.is_empty())
    }

    /// They are on one host.
    pub(super) fn are_siblings(&self, one: &NodeName, other: &NodeName) -> bool {
        self.host_of(one).is_some_and(|host| self.host_of(other) == Some(host))
    }

    /// They are on two hosts, as far as is known.
    pub(super) fn are_apart(&self, one: &NodeName, other: &NodeName) -> bool {
        let hosts = self.host_of(one).zip(self.host_of(other));
        hosts.is_some_and(|(one, other)| one != other)
    }

    /// Another of its host takes its sessions, and phones need not know.
    pub(super) fn has_heir(&self, name: &NodeName) -> bool {
        let siblings = self.siblings_of(name);
        let mut nodes = siblings.iter().filter_map(|sibling| self.nodes.get(sibling));
        nodes.any(|node| node.is_heard() && !node.is_drained())
    }

    /// Who takes sessions of a node that phones are told of: the freest of another host. A crowded one is better than
    /// none.
    pub(super) fn choose_elsewhere(&mut self, name: &NodeName) -> Option<NodeName> {
        let siblings = self.siblings_of(name);
        let (chosen, node) = self
            .nodes
            .iter_mut()
            .filter(|(other, node)| {
                node.is_heard() && !node.is_drained() && *other != name && !siblings.contains(other)
            })
            .max_by_key(|(_, node)| (node.freedom(), node.room()))?;
        node.assigned = node.assigned.saturating_add(1);
        Some(chosen.clone())
    }

    /// The freest other one of its host.
    pub(super) fn choose_beside(&self, name: &NodeName) -> Option<NodeName> {
        let siblings = self.siblings_of(name).into_iter();
        let takes = siblings.filter_map(|other| {
            let node = self.nodes.get(&other).filter(|node| node.is_heard() && !node.is_drained());
            Some(((node?.freedom(), node?.room()), other))
        });
        takes.max().map(|(_, other)| other)
    }

    /// A session is to pass to another process of its host.
    pub(super) fn give(&mut self, session: SessionId, from: &NodeName, to: NodeName) {
        if let Some(node) = self.nodes.get_mut(from) {
            node.send(Frame::Give { session, to });
        }
    }

    /// Its link misses heartbeats, or no more. Whose, when that is new.
    pub(super) fn set_silent(&mut self, number: LinkNumber, silent: bool) -> Option<NodeName> {
        let name = self.by_link.get(&number)?;
        let node = self.nodes.get_mut(name)?;
        (core::mem::replace(&mut node.silent, silent) != silent).then(|| name.clone())
    }

    /// It is known, and has a link or none.
    pub(super) fn get(&self, name: &NodeName) -> Option<&MediaNode> {
        self.nodes.get(name)
    }

    /// Where a session is that was given away, and since when, as far as we learnt.
    pub(super) fn place_of(&self, session: SessionId) -> Option<(Timestamp, &NodeName)> {
        let (at, node) = self.places.get(&session)?;
        self.nodes.get(node).filter(|node| node.is_up()).map(|_| (*at, node))
    }

    /// A session is asked for there from now on, wherever it was: what is heard of earlier moves is out of date.
    pub(super) fn begin_place(&mut self, session: SessionId, node: &NodeName, now: Timestamp) {
        if self.places.len() >= PLACES {
            self.places.clear();
        }
        self.places.insert(session, (now, node.clone()));
    }

    /// The node released a session.
    pub(super) fn released(&mut self, session: SessionId, node: &NodeName) {
        self.places.remove(&session);
        self.releases.remove(&(session, node.clone()));
    }

    /// How many more requests the node's link takes without being stuck.
    pub(super) fn link_room(&self, name: &NodeName) -> usize {
        let link = self.nodes.get(name).and_then(|node| node.link.as_ref());
        link.map_or(0, |link| link.sender.capacity())
    }

    /// A session is on this node: when it is not here, its time to come runs.
    pub(super) fn await_node(&mut self, name: &NodeName, now: Timestamp) {
        if !self.nodes.contains_key(name) {
            self.awaited.entry(name.clone()).or_insert(now);
        }
    }

    /// A node whose time to come back is over: forgotten, and told.
    pub(super) fn pop_lost(&mut self, now: Timestamp) -> Option<NodeName> {
        let lost = |(name, node): &(&NodeName, &MediaNode)| {
            // A stuck link is dropped before its end is noticed: until then the time does not run.
            let ended = !node.is_up() && !self.by_link.values().any(|known| known == *name);
            ended && node.lived_at + GRACE <= now
        };
        let overdue = self.awaited.iter().find(|(_, since)| **since + GRACE <= now);
        let overdue = overdue.map(|(name, _)| name);
        let name = self.nodes.iter().find(lost).map(|(name, _)| name).or(overdue)?.clone();
        self.nodes.remove(&name);
        self.awaited.remove(&name);
        self.places.retain(|_, (_, node)| *node != name);
        Some(name)
    }

    /// An operator's wish. False: no such node.
    pub(super) fn drain(&mut self, name: &str, drain: bool) -> bool {
        let node = self.nodes.iter_mut().find(|(known, _)| &*known.0 == name);
        let Some((_, node)) = node else { return false };
        node.drained = drain;
        node.send(Frame::Drain(drain));
        true
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&NodeName, &MediaNode)> {
        self.nodes.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::hello::Role;
    use crate::ids::{Epoch, Rev};

    fn name(text: &str) -> NodeName {
        NodeName(text.into())
    }

    fn up(
        pool: &mut MediaPool,
        number: u64,
        node: &str,
        incarnation: u64,
        at: u64,
    ) -> Option<mpsc::Receiver<Frame>> {
        let (sender, receiver) = mpsc::channel(4);
        let hello = Hello {
            version: 1,
            name: name(node),
            incarnation: Incarnation(incarnation),
            role: Role::Media,
            control: Vec::new(),
        };
        let at = Timestamp::from_millis(at);
        pool.link_up(number, hello, sender, Arc::default(), at).then_some(receiver)
    }

    fn room(sessions: u32) -> Capacity {
        Capacity { sessions, max_sessions: 10, ..Capacity::default() }
    }

    #[test]
    fn the_node_with_most_room_is_chosen_and_never_one_without() {
        let mut pool = MediaPool::default();
        assert!(!pool.has_room());
        let _first = up(&mut pool, 1, "one", 1, 0).expect("taken");
        let _second = up(&mut pool, 2, "two", 1, 0).expect("taken");
        assert_eq!(pool.choose(&[], false), None, "no room was told yet");
        pool.set_capacity(&name("one"), room(7));
        pool.set_capacity(&name("two"), room(8));
        let chosen: Vec<_> = core::iter::from_fn(|| pool.choose(&[], false)).collect();
        assert_eq!(chosen.len(), 5, "as many as there is room for");
        assert_eq!(chosen[0], name("one"));
        pool.set_capacity(&name("two"), room(0));
        assert_eq!(pool.set_silent(2, true), Some(name("two")));
        assert_eq!(pool.set_silent(2, true), None, "known");
        pool.set_capacity(&name("one"), room(9));
        assert_eq!(pool.choose(&[], false), Some(name("one")), "the other may be gone");
        assert_eq!(pool.choose(&[], false), Some(name("two")), "better than none");
        pool.set_silent(2, false);
        pool.set_capacity(&name("two"), room(0));
        assert_eq!(pool.choose(&[name("two")], false), None);
        assert!(pool.drain("two", true) && !pool.drain("three", true));
        assert!(!pool.has_room());
        assert_eq!(
            pool.choose(&[name("one")], true),
            Some(name("two")),
            "an emergency is not shed"
        );
    }

    #[test]
    fn transcoding_and_cpu_count_apart() {
        let is_busier = |sessions, transcoded_sessions, cpu_percent| {
            let mut pool = MediaPool::default();
            let _links = [up(&mut pool, 1, "busy", 1, 0), up(&mut pool, 2, "other", 1, 0)];
            let of = |sessions| Capacity { max_sessions: 100, ..room(sessions) };
            let busy = Capacity { transcoded_sessions, cpu_percent, ..of(sessions) };
            pool.set_capacity(&name("busy"), busy);
            pool.set_capacity(&name("other"), of(50));
            pool.choose(&[], false) == Some(name("other"))
        };
        assert!(!is_busier(40, 0, 10));
        assert!(is_busier(40, 4, 10), "four transcoded ones cost as much as thirty-two");
        assert!(is_busier(40, 0, 60), "it has less CPU left than the other has sessions");
        assert!(!is_busier(10, 4, 10));
    }

    #[test]
    fn a_node_without_cpu_takes_emergencies_only() {
        let mut pool = MediaPool::default();
        let _link = up(&mut pool, 1, "one", 1, 0).expect("taken");
        let used_up = |cpu_percent| Capacity { cpu_percent, ..room(1) };
        pool.set_capacity(&name("one"), used_up(99));
        assert!(pool.has_room());
        pool.set_capacity(&name("one"), used_up(Capacity::ALL_USED_UP));
        assert!(!pool.has_room());
        assert_eq!(pool.choose(&[], false), None);
        assert_eq!(pool.choose(&[], true), Some(name("one")));
    }

    #[test]
    fn an_heir_that_drains_is_better_than_none() {
        let mut pool = MediaPool::default();
        let _links = ["dead", "drained", "other"].map(|node| {
            let link = up(&mut pool, node.len() as u64, node, 1, 0);
            pool.set_host(&name(node), "host".to_owned());
            link
        });
        pool.drain("drained", true);
        pool.link_down(4, Timestamp::EPOCH);
        assert_eq!(pool.heir_of(&name("dead")), None, "not proven");
        assert!(pool.bury(&name("dead"), Incarnation(1)));
        assert_eq!(pool.heir_of(&name("dead")), Some(name("other")));
        pool.link_down(5, Timestamp::EPOCH);
        assert_eq!(pool.heir_of(&name("dead")), Some(name("drained")));
    }

    #[test]
    fn a_node_may_come_back_and_is_told_what_is_owed() {
        let mut pool = MediaPool::default();
        drop(up(&mut pool, 1, "one", 5, 0));
        let down = pool.link_down(1, Timestamp::from_millis(100));
        assert_eq!(down.map(|peer| peer.name), Some(name("one")));
        let release = Release { session: SessionId(3), epoch: Epoch(1), rev: Rev(2) };
        pool.send(&name("one"), Request::Release(release.clone()));
        assert_eq!(pool.pop_lost(Timestamp::from_millis(10_099)), None);
        let mut link = up(&mut pool, 2, "one", 5, 5_000).expect("taken");
        assert_eq!(
            link.try_recv().ok(),
            Some(Frame::Request { id: 2, request: Request::Release(release) })
        );
        assert!(up(&mut pool, 3, "one", 4, 5_000).is_none(), "an older incarnation is refused");
        assert_eq!(pool.link_down(1, Timestamp::from_millis(6_000)), None, "an old link");
        pool.link_down(2, Timestamp::from_millis(6_000));
        assert_eq!(pool.pop_lost(Timestamp::from_millis(16_000)), Some(name("one")));
        assert_eq!(pool.pop_lost(Timestamp::from_millis(16_000)), None);
        let mut link = up(&mut pool, 4, "one", 5, 60_000).expect("taken");
        assert!(link.try_recv().is_ok(), "it was cut off, and has the session still");
        pool.released(SessionId(3), &name("one"));
        let mut link = up(&mut pool, 5, "one", 5, 61_000).expect("taken");
        assert!(link.try_recv().is_err(), "once it is released nothing is owed");
    }
}
