//! Connections that change their process: bindings and calls that hang on them go on (design §4 "Flows").

use super::media_pool::LinkNumber;
use super::worker::Worker;
use crate::call::Transmit;
use crate::control::PeerFrame;
use crate::directory::Binding;
use crate::ids::{ConnectionId, Flow, Incarnation, NodeName};
use std::collections::HashSet;
use std::os::fd::OwnedFd;

impl Worker {
    /// A sibling stands still: what phones say to it, repeats too, is read here.
    pub(super) fn cover(&mut self, sibling: Incarnation, sockets: Vec<OwnedFd>) {
        self.expect_repeats();
        self.sockets.cover(sibling, sockets);
    }

    /// When everything was given up, the sockets are left to the heir; they come back with the calls.
    pub(super) fn leave_sockets(&mut self) {
        let leaves = self.is_leaving()
            && self.calls.iter().all(|(_, slot)| slot.call.lingers() || slot.stored.0 == 0);
        self.leaves.send_if_modified(|before| core::mem::replace(before, leaves) != leaves);
    }

    /// Its own socket tells sooner than its link that it is dead.
    pub(super) fn sibling_is_gone(&mut self, incarnation: Incarnation) {
        if let Some(name) = self.peers.lose(incarnation) {
            self.peer_left(name);
        }
        self.peer_is_dead(incarnation);
    }

    /// A sibling reads our sockets, or we do again. Connections that went are not ours to lose.
    pub(super) fn note_sockets_left(&mut self, is_left: bool) {
        self.sockets.leave(is_left);
        self.by_connection.retain(|id, _| self.sockets.holds(*id));
    }

    /// Registered phones on connections that this process still has.
    pub(super) fn remaining_flows(&self) -> usize {
        self.by_connection.keys().filter(|id| self.sockets.holds(**id)).count()
    }

    /// Connections of a sibling are ours from now on, and the pings of its phones.
    pub(super) fn inherit(&mut self, sibling: &NodeName, connections: &[ConnectionId]) {
        let own = self.settings.node.clone();
        let ids: HashSet<ConnectionId> = connections.iter().copied().collect();
        let mut inherited: Vec<Binding> = Vec::new();
        for binding in self.directory.all_bindings_mut() {
            let is_ours = binding.flow.connection.is_some_and(|id| ids.contains(&id));
            if is_ours || (binding.node == *sibling && binding.flow.connection.is_none()) {
                binding.node = own.clone();
                binding.flow_lost = false;
                inherited.push(binding.clone());
            }
        }
        inherited.iter().for_each(|binding| self.watch_binding(binding));
        self.inherited.extend(connections.iter().map(|id| id.node()));
        let numbers = self.inherited.iter().copied().collect();
        self.peers.broadcast(&PeerFrame::Inherited(numbers));
        self.send_stranded(&ids.iter().map(|id| id.node()).collect());
    }

    /// A peer has connections of these nodes.
    pub(super) fn note_inherited(&mut self, link: LinkNumber, numbers: &[u16]) {
        self.peers.inherits(link, numbers);
        let numbers: HashSet<u16> = numbers.iter().copied().collect();
        for binding in self.directory.all_bindings_mut() {
            let connection = binding.flow.connection;
            binding.flow_lost &= !connection.is_some_and(|id| numbers.contains(&id.node()));
        }
        self.send_stranded(&numbers);
    }

    /// A link is there again: what was to leave by it for phones on connections may not have. Who holds a connection,
    /// and has no link with us, may have one with this peer.
    pub(super) fn say_again_by_peer(&mut self, name: &NodeName) {
        let open = self.calls.iter().flat_map(|(_, slot)| slot.call.open_flows());
        let held = |one: &ConnectionId| {
            let mut holders = self.peers.holders(*one).peekable();
            let is_far = holders.peek().is_none() && !self.sockets.holds(*one);
            is_far || holders.any(|holder| holder == name)
        };
        let lost: HashSet<ConnectionId> =
            open.filter_map(|flow| flow.connection).filter(held).collect();
        self.say_again_by(|flow| flow.connection.is_some_and(|one| lost.contains(&one)));
    }

    /// A link broke, with what was to leave by it for phones on connections: others may have one. Later requests would
    /// overtake what is not said until it is back.
    pub(super) fn say_again_around(&mut self, name: &NodeName) {
        if !self.peers.is_alone() {
            let number = name.number();
            self.say_again_by(|flow| flow.connection.is_some_and(|one| one.node() == number));
        }
    }

    fn say_again_by(&mut self, is_lost: impl Fn(&Flow) -> bool) {
        for id in self.calls.ids(|slot| slot.call.open_flows().any(&is_lost)) {
            self.change(id, |call| call.say_again_by(&is_lost));
        }
    }

    /// What waited for connections of these nodes leaves, if somebody has them, and what may not have left.
    fn send_stranded(&mut self, numbers: &HashSet<u16>) {
        let is_theirs = |transmit: &Transmit| {
            transmit.flow.connection.is_some_and(|one| numbers.contains(&one.node()))
        };
        for id in self.calls.ids(|slot| !slot.stranded.is_empty()) {
            for transmit in self.calls.take_stranded(id, self.now, is_theirs) {
                self.send(id, transmit);
            }
        }
        self.say_again_by(|flow| flow.connection.is_some_and(|it| numbers.contains(&it.node())));
    }
}
