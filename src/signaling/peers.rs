//! Other signaling nodes: who is there, who is proven dead, who owns which call as far as we learnt (design §4).
//!
//! Invariants: a node is dead only when nobody listens where it did, when a later start of it answers, or when it was
//! silent for two leases by the store's clock while we renewed ours; what is learnt of owners is a hint and is bounded.

use super::links::PeerAddress;
use super::media_pool::LinkNumber;
use super::passed::Passed;
use crate::control::hello::Hello;
use crate::control::{Frame, PeerFrame};
use crate::ids::{CallId, ConnectionId, Incarnation, NodeName};
use crate::time::Timestamp;
use core::net::SocketAddr;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use tokio::sync::mpsc;

/// Nodes whose addresses are kept, and addresses a node.
const PEERS: usize = 256;
const ADDRESSES: usize = 64;
/// Calls whose owner we learnt; above it all are forgotten and learnt anew.
const OWNERS: usize = 50_000;
/// Nodes whose connections a peer may say it inherited.
const INHERITED: usize = 256;

/// A peer with a link.
#[derive(Debug)]
pub(super) struct Peer {
    pub hello: Hello,
    pub since: Timestamp,
    /// It takes no calls.
    is_draining: bool,
    link: LinkNumber,
    sender: mpsc::Sender<Frame>,
    rtt_us: Arc<AtomicU32>,
}

impl Peer {
    pub(super) fn rtt_us(&self) -> Option<u32> {
        let rtt = self.rtt_us.load(Ordering::Relaxed);
        (rtt > 0).then_some(rtt)
    }
}

/// Whether an owner can be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Life {
    /// It has a link with us.
    Up(NodeName),
    /// Proven.
    Dead,
    /// Its lease ran out, and it cannot be asked: it is taken for dead by who speaks to us of a call of it.
    Silent,
    /// Neither.
    Unsure,
}

/// All that is known of peers.
#[derive(Debug, Default)]
pub(super) struct Peers {
    /// In their order: a history repeats itself.
    up: BTreeMap<NodeName, Peer>,
    dead: HashSet<Incarnation>,
    /// Those of the dead of whom no more is known than their silence.
    overdue: HashSet<Incarnation>,
    dialling: HashSet<Incarnation>,
    owners: HashMap<CallId, NodeName>,
    /// Where nodes take SIP; kept while a node is in doubt.
    addresses: HashMap<Incarnation, Vec<SocketAddr>>,
    /// Nodes whose lease ran out, and no more is known of them.
    silent: HashSet<Incarnation>,
    /// What the rows of those said whose leases ran out, whatever else is known of them.
    last_seen: HashMap<Incarnation, Timestamp>,
    /// Numbers of nodes that may live and have no link with us; unknown before the store told who is there.
    unheard: Option<HashMap<u16, Incarnation>>,
    /// When the last link with a node broke.
    left: HashMap<NodeName, Timestamp>,
    /// Users whose bindings a node that is here again is to be told of.
    pub untold: VecDeque<(NodeName, String)>,
    /// What was passed on to them lately.
    pub passed: Passed,
    /// Who inherited connections of a node, by its number.
    heirs: HashMap<u16, HashSet<NodeName>>,
}

impl Peers {
    /// A link is up. A former start of the same node that it proves dead.
    pub(super) fn link_up(
        &mut self,
        number: LinkNumber,
        hello: Hello,
        sender: mpsc::Sender<Frame>,
        rtt_us: Arc<AtomicU32>,
        now: Timestamp,
    ) -> Option<Incarnation> {
        self.dialling.remove(&hello.incarnation);
        self.dead.remove(&hello.incarnation);
        self.overdue.remove(&hello.incarnation);
        let (name, incarnation) = (hello.name.clone(), hello.incarnation);
        let is_draining = false;
        let peer = Peer { hello, since: now, is_draining, link: number, sender, rtt_us };
        let former = self.up.insert(name, peer)?.hello.incarnation;
        if let Some(addresses) = self.addresses.remove(&former) {
            // Probably where it was; it will say.
            self.addresses.insert(incarnation, addresses);
        }
        (former < incarnation && self.dead.insert(former)).then_some(former)
    }

    /// A link broke; whom to judge when it was the present one of a peer.
    pub(super) fn link_down(&mut self, number: LinkNumber) -> Option<PeerAddress> {
        let name = self.name_of(number)?.clone();
        let hello = self.up.remove(&name)?.hello;
        self.dialling.insert(hello.incarnation);
        if let Some(unheard) = &mut self.unheard {
            unheard.insert(name.number(), hello.incarnation);
        }
        Some(PeerAddress::of(hello))
    }

    /// Its process is gone, whatever its link says.
    pub(super) fn lose(&mut self, incarnation: Incarnation) -> Option<NodeName> {
        let is_it = |(_, peer): &(&NodeName, &Peer)| peer.hello.incarnation == incarnation;
        let name = self.up.iter().find(is_it)?.0.clone();
        self.up.remove(&name);
        Some(name)
    }

    /// Whose link it is.
    pub(super) fn name_of(&self, number: LinkNumber) -> Option<&NodeName> {
        self.by_link(number).map(|(name, _)| name)
    }

    /// Who is at the other end of that link.
    pub(super) fn by_link(&self, number: LinkNumber) -> Option<(&NodeName, &Peer)> {
        self.up.iter().find(|(_, peer)| peer.link == number)
    }

    /// Which start of a node has that link.
    pub(super) fn incarnation_of(&self, number: LinkNumber) -> Option<Incarnation> {
        let peer = self.up.values().find(|peer| peer.link == number);
        peer.map(|peer| peer.hello.incarnation)
    }

    /// A peer that ought to be dialled: nobody does it yet. Of two nodes the later start dials. One that was buried for
    /// its silence may live again.
    pub(super) fn begin_dial(&mut self, peer: &PeerAddress, own: Incarnation) -> bool {
        peer.incarnation < own
            && !self.is_up(peer.incarnation)
            && self.dialling.insert(peer.incarnation)
    }

    /// Nobody answered.
    pub(super) fn not_dialled(&mut self, incarnation: Incarnation) {
        self.dialling.remove(&incarnation);
    }

    /// Proven dead. False: known already, or it has a link with us.
    pub(super) fn bury(&mut self, incarnation: Incarnation) -> bool {
        self.dialling.remove(&incarnation);
        self.silent.remove(&incarnation);
        self.overdue.remove(&incarnation);
        if let Some(unheard) = &mut self.unheard {
            unheard.retain(|_, start| *start != incarnation);
        }
        !self.is_up(incarnation) && self.dead.insert(incarnation)
    }

    /// Silent for two leases, which is as good as dead until it is heard of. False: known already, or it has a link.
    pub(super) fn bury_silent(&mut self, incarnation: Incarnation) -> bool {
        if self.dead.contains(&incarnation) || !self.bury(incarnation) {
            return false;
        }
        self.overdue.insert(incarnation)
    }

    /// It renewed its lease: whatever its silence seemed to say, it lives.
    pub(super) fn revive(&mut self, incarnation: Incarnation) {
        if self.overdue.remove(&incarnation) {
            self.dead.remove(&incarnation);
        }
    }

    /// What others' silence said is as old as a gap of ours.
    pub(super) fn forget_silence(&mut self) {
        self.silent.clear();
        self.last_seen.clear();
        for incarnation in core::mem::take(&mut self.overdue) {
            self.dead.remove(&incarnation);
        }
    }

    /// All other nodes that are known: whom of them we would not hear is noted.
    pub(super) fn note_known<'a>(
        &mut self,
        nodes: impl Iterator<Item = (&'a NodeName, Incarnation)>,
    ) {
        let unheard = |(_, incarnation): &(&NodeName, Incarnation)| {
            matches!(self.life(*incarnation), Life::Silent | Life::Unsure)
        };
        let unheard = nodes.filter(unheard).map(|(name, start)| (name.number(), start)).collect();
        self.unheard = Some(unheard);
    }

    /// A node with that number may have calls of which we are not told and the store does not know yet.
    pub(super) fn is_unheard(&self, number: u16) -> bool {
        self.by_number(number).is_none()
            && self.unheard.as_ref().is_none_or(|unheard| unheard.contains_key(&number))
    }

    /// Whose leases ran out, as of now. True: one is new among them.
    pub(super) fn set_silent(&mut self, silent: HashSet<Incarnation>) -> bool {
        let is_new = !silent.is_subset(&self.silent);
        self.silent = silent;
        is_new
    }

    /// When those renewed their leases last that have run out, by the store's clock.
    pub(super) fn note_last_seen(&mut self, rows: HashMap<Incarnation, Timestamp>) {
        self.last_seen = rows;
    }

    /// The same of one of whose death there is no other proof.
    pub(super) fn last_seen(&self, incarnation: Incarnation) -> Option<Timestamp> {
        let is_proven = self.dead.contains(&incarnation) && !self.overdue.contains(&incarnation);
        self.last_seen.get(&incarnation).filter(|_| !is_proven).copied()
    }

    pub(super) fn is_up(&self, incarnation: Incarnation) -> bool {
        self.up.values().any(|peer| peer.hello.incarnation == incarnation)
    }

    pub(super) fn life(&self, incarnation: Incarnation) -> Life {
        let up = self.up.iter().find(|(_, peer)| peer.hello.incarnation == incarnation);
        match up {
            Some((name, _)) => Life::Up(name.clone()),
            None if self.dead.contains(&incarnation) => Life::Dead,
            None if self.silent.contains(&incarnation) => Life::Silent,
            None => Life::Unsure,
        }
    }

    /// Who probably owns a call: as learnt, else as its token says.
    pub(super) fn likely_owner(&self, call: CallId, number: u16) -> Option<NodeName> {
        let learnt = self.owners.get(&call).filter(|name| self.up.contains_key(name));
        learnt.or_else(|| self.by_number(number)).cloned()
    }

    /// A peer tells where it takes SIP.
    pub(super) fn set_addresses(&mut self, peer: Incarnation, mut addresses: Vec<SocketAddr>) {
        addresses.truncate(ADDRESSES);
        if self.addresses.len() < PEERS || self.addresses.contains_key(&peer) {
            self.addresses.insert(peer, addresses);
        }
    }

    /// A node that is no more has none.
    pub(super) fn forget_addresses(&mut self, peer: Incarnation) -> Vec<SocketAddr> {
        self.addresses.remove(&peer).unwrap_or_default()
    }

    /// A node that lives, or may live, has that address.
    pub(super) fn has_address(&self, address: SocketAddr) -> bool {
        self.addresses.values().any(|addresses| addresses.contains(&address))
    }

    /// A peer that has that address.
    pub(super) fn by_address(&self, address: SocketAddr) -> Option<&NodeName> {
        let has = |peer: &Peer| {
            let known = self.addresses.get(&peer.hello.incarnation);
            known.is_some_and(|known| known.contains(&address))
        };
        self.up.iter().find(|(_, peer)| has(peer)).map(|(name, _)| name)
    }

    /// A call's owner was looked up.
    pub(super) fn learn(&mut self, call: CallId, name: NodeName) {
        if self.owners.len() >= OWNERS {
            self.owners.clear();
        }
        self.owners.insert(call, name);
    }

    pub(super) fn by_number(&self, number: u16) -> Option<&NodeName> {
        self.up.keys().find(|name| name.number() == number)
    }

    /// It has connections of nodes with these numbers.
    pub(super) fn inherits(&mut self, link: LinkNumber, numbers: &[u16]) {
        let Some(name) = self.name_of(link).cloned() else { return };
        for number in numbers.iter().take(INHERITED) {
            self.heirs.entry(*number).or_default().insert(name.clone());
        }
    }

    /// Who may have a connection: the start of a node that accepted it, and the node's heirs.
    pub(super) fn holders(&self, connection: ConnectionId) -> impl Iterator<Item = &NodeName> {
        let number = connection.node();
        let accepted = |name: &&NodeName| {
            let peer = self.up.get(*name);
            peer.is_some_and(|peer| {
                connection > ConnectionId::first_of(number, peer.hello.incarnation)
            })
        };
        let own = self.by_number(number).filter(accepted);
        let heirs = self.heirs.get(&number).into_iter().flatten();
        own.into_iter()
            .chain(heirs.filter(move |name| Some(*name) != own))
            .filter(|name| self.up.contains_key(*name))
    }

    /// False: no link, or one that is stuck.
    pub(super) fn send(&self, name: &NodeName, frame: PeerFrame) -> bool {
        let peer = self.up.get(name);
        peer.is_some_and(|peer| peer.sender.try_send(Frame::Peer(frame)).is_ok())
    }

    /// For what is sent beside the worker.
    pub(super) fn sender_of(&self, name: &NodeName) -> Option<mpsc::Sender<Frame>> {
        self.up.get(name).map(|peer| peer.sender.clone())
    }

    pub(super) fn broadcast(&self, frame: &PeerFrame) {
        for name in self.up.keys() {
            self.send(name, frame.clone());
        }
    }

    /// It takes no calls from now on, or takes them again.
    pub(super) fn set_draining(&mut self, link: LinkNumber, is_draining: bool) {
        if let Some(peer) = self.up.values_mut().find(|peer| peer.link == link) {
            peer.is_draining = is_draining;
        }
    }

    /// Somebody who takes calls.
    pub(super) fn taker(&self) -> Option<&NodeName> {
        self.up.iter().find(|(_, peer)| !peer.is_draining).map(|(name, _)| name)
    }

    pub(super) fn has_taker(&self) -> bool {
        self.taker().is_some()
    }

    /// Those that take calls are told.
    pub(super) fn tell_takers(&self, frame: &PeerFrame) {
        for (name, _) in self.up.iter().filter(|(_, peer)| !peer.is_draining) {
            self.send(name, frame.clone());
        }
    }

    /// To all; to those that do not read it yet, the other.
    pub(super) fn broadcast_else(&self, frame: &PeerFrame, old: &PeerFrame) {
        for (name, peer) in &self.up {
            let reads = peer.hello.version >= frame.since();
            self.send(name, if reads { frame.clone() } else { old.clone() });
        }
    }

    /// All that read it are asked: who.
    pub(super) fn ask(&self, question: &PeerFrame) -> BTreeSet<NodeName> {
        self.up.keys().filter(|name| self.ask_one(name, question)).cloned().collect()
    }

    /// False: it does not read it, or there is no way to it.
    pub(super) fn ask_one(&self, name: &NodeName, question: &PeerFrame) -> bool {
        let reads = |peer: &Peer| peer.hello.version >= question.since();
        self.up.get(name).is_some_and(reads) && self.send(name, question.clone())
    }

    /// Whether all are known that live: the store told who is there, no link is broken, nobody is being dialled.
    pub(super) fn are_met(&self) -> bool {
        let is_broken = |peer: &Peer| peer.sender.is_closed();
        self.unheard.is_some() && self.dialling.is_empty() && !self.up.values().any(is_broken)
    }

    /// Frames that its link takes now.
    pub(super) fn room(&self, name: &NodeName) -> Option<usize> {
        self.up.get(name).map(|peer| peer.sender.capacity())
    }

    /// The last link with it broke.
    pub(super) fn note_left(&mut self, name: NodeName, now: Timestamp) {
        if self.left.len() < PEERS || self.left.contains_key(&name) {
            self.left.insert(name, now);
        }
    }

    /// When the last link with it broke, if there was one.
    pub(super) fn left_at(&self, name: &NodeName) -> Option<Timestamp> {
        self.left.get(name).copied()
    }

    pub(super) fn is_alone(&self) -> bool {
        self.up.is_empty()
    }

    /// Everything given to the links so far was taken by them.
    pub(super) fn is_flushed(&self) -> bool {
        self.up.values().all(|peer| peer.sender.capacity() == peer.sender.max_capacity())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&NodeName, &Peer)> {
        self.up.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::hello::Role;

    fn hello(name: &str, incarnation: u64) -> Hello {
        Hello {
            version: 1,
            name: NodeName(name.into()),
            incarnation: Incarnation(incarnation),
            role: Role::Signaling,
            control: Vec::new(),
        }
    }

    fn up(peers: &mut Peers, number: u64, name: &str, incarnation: u64) -> Option<Incarnation> {
        let (sender, _) = mpsc::channel(1);
        peers.link_up(number, hello(name, incarnation), sender, Arc::default(), Timestamp::EPOCH)
    }

    #[test]
    fn a_later_start_proves_the_former_dead() {
        let mut peers = Peers::default();
        assert_eq!(up(&mut peers, 1, "one", 5), None);
        assert_eq!(peers.life(Incarnation(5)), Life::Up(NodeName("one".into())));
        assert_eq!(up(&mut peers, 2, "one", 9), Some(Incarnation(5)));
        assert_eq!(peers.life(Incarnation(5)), Life::Dead);
        assert_eq!(peers.link_down(1), None, "not its present link");
        assert!(peers.link_down(2).is_some());
        assert_eq!(peers.life(Incarnation(9)), Life::Unsure, "a broken link proves nothing");
        assert!(peers.bury(Incarnation(9)) && !peers.bury(Incarnation(9)));
        up(&mut peers, 3, "one", 9);
        assert!(!peers.bury(Incarnation(9)), "it lives");
    }

    /// What an earlier start of a node accepted is dead with it, unless somebody inherited it.
    #[test]
    fn a_node_that_started_again_has_no_connection_of_before() {
        let mut peers = Peers::default();
        let (former, present) = (Incarnation(100 << 8), Incarnation(900 << 8));
        let number = NodeName("one".into()).number();
        let of = |start| ConnectionId(ConnectionId::first_of(number, start).0 + 1);
        up(&mut peers, 1, "one", present.0);
        up(&mut peers, 2, "two", 7 << 8);
        let held = |peers: &Peers, start| peers.holders(of(start)).count();
        assert_eq!((held(&peers, former), held(&peers, present)), (0, 1));
        peers.inherits(2, &[number]);
        assert_eq!((held(&peers, former), held(&peers, present)), (1, 2));
    }

    /// A lease that ran out proves nothing; a link says more than a lease.
    #[test]
    fn silence_is_not_death() {
        let mut peers = Peers::default();
        let silent = |number| HashSet::from([Incarnation(number)]);
        assert!(peers.set_silent(silent(4)) && !peers.set_silent(silent(4)));
        assert_eq!(peers.life(Incarnation(4)), Life::Silent);
        up(&mut peers, 1, "one", 4);
        assert_eq!(peers.life(Incarnation(4)), Life::Up(NodeName("one".into())));
        peers.link_down(1);
        assert!(peers.bury_silent(Incarnation(4)) && !peers.bury_silent(Incarnation(4)));
        assert_eq!(peers.life(Incarnation(4)), Life::Dead);
        peers.revive(Incarnation(4));
        assert_eq!(peers.life(Incarnation(4)), Life::Unsure, "it renewed its lease");
        peers.bury_silent(Incarnation(4));
        peers.forget_silence();
        assert_eq!(peers.life(Incarnation(4)), Life::Unsure, "we stood still ourselves");
        assert!(peers.bury_silent(Incarnation(4)) && !peers.bury(Incarnation(4)));
        peers.revive(Incarnation(4));
        assert_eq!(peers.life(Incarnation(4)), Life::Dead, "its port refused: that is proof");
        peers.set_silent(HashSet::new());
        assert_eq!(peers.life(Incarnation(5)), Life::Unsure);
    }

    #[test]
    fn addresses_outlive_links_but_not_nodes() {
        let mut peers = Peers::default();
        let address: SocketAddr = "192.0.2.1:5060".parse().expect("literal");
        up(&mut peers, 1, "one", 4);
        peers.set_addresses(Incarnation(4), vec![address]);
        assert_eq!(peers.by_address(address), Some(&NodeName("one".into())));
        peers.link_down(1);
        assert_eq!(peers.by_address(address), None, "nothing can be sent by it");
        assert!(peers.has_address(address), "in doubt");
        up(&mut peers, 2, "one", 4);
        up(&mut peers, 3, "one", 6);
        assert!(peers.has_address(address), "its next start is probably there");
        assert_eq!(peers.forget_addresses(Incarnation(6)), [address]);
        assert!(!peers.has_address(address));
    }

    #[test]
    fn the_later_start_dials_and_only_once() {
        let mut peers = Peers::default();
        let peer = |incarnation| PeerAddress {
            name: NodeName("one".into()),
            incarnation: Incarnation(incarnation),
            control: Vec::new(),
            role: Role::Signaling,
            probes: Vec::new(),
        };
        assert!(!peers.begin_dial(&peer(7), Incarnation(5)), "it dials us");
        assert!(peers.begin_dial(&peer(3), Incarnation(5)));
        assert!(!peers.begin_dial(&peer(3), Incarnation(5)));
        peers.not_dialled(Incarnation(3));
        assert!(peers.begin_dial(&peer(3), Incarnation(5)));
        up(&mut peers, 1, "one", 3);
        assert!(!peers.begin_dial(&peer(3), Incarnation(5)));
    }

    #[test]
    fn what_was_learnt_goes_before_the_hint() {
        let mut peers = Peers::default();
        up(&mut peers, 1, "one", 1);
        up(&mut peers, 2, "two", 2);
        let (one, two) = (NodeName("one".into()), NodeName("two".into()));
        assert_eq!(peers.likely_owner(CallId(1), one.number()), Some(one.clone()));
        peers.learn(CallId(1), two.clone());
        assert_eq!(peers.likely_owner(CallId(1), one.number()), Some(two));
        peers.link_down(2);
        assert_eq!(peers.likely_owner(CallId(1), one.number()), Some(one));
        assert_eq!(peers.likely_owner(CallId(1), 0), None);
    }
}
