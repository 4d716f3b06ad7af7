//! A user's bindings at several nodes: what changed is told to the peers and merged there; who was away is told when it
//! is back (design §4 "Directory in memory").
//!
//! Invariants: the later REGISTER of a phone wins, in whatever order nodes hear of it; when two nodes wrote one user's
//! row at about the same time, what both know is written again, so neither loses the other's phone.

use super::register::moved_flows;
use super::worker::Worker;
use crate::control::PeerFrame;
use crate::directory::Binding;
use crate::ids::NodeName;
use crate::limits;
use crate::time::Timestamp;
use bytes::Bytes;
use core::time::Duration;
use std::collections::BTreeSet;

/// Writes of one user's row so close to each other may have passed each other.
const CONCURRENT: Duration = Duration::from_secs(5);
/// A peer that was never here has read the store not longer ago.
const READ_WITHIN: Duration = Duration::from_secs(60);
/// Users told of in one turn of the loop to a peer that is back.
const TOLD_A_TURN: usize = 256;

/// Put and removed; a removed one by its id, and when it was last refreshed.
type Changes = (Vec<Binding>, Vec<(String, Timestamp)>);

fn changes(before: &[Binding], after: &[Binding]) -> Changes {
    let put = after.iter().filter(|binding| !before.contains(binding)).cloned();
    let gone = before.iter().filter(|old| after.iter().all(|new| new.id != old.id));
    (put.collect(), gone.map(|old| (old.id.clone(), old.refreshed_at)).collect())
}

fn merged(present: &[Binding], (put, gone): Changes) -> Vec<Binding> {
    let mut all = present.to_vec();
    let is_gone = |binding: &Binding| {
        gone.iter().any(|(id, at)| *id == binding.id && binding.refreshed_at <= *at)
    };
    all.retain(|binding| !is_gone(binding));
    for new in put {
        let same = |old: &Binding| {
            let instance = old.instance_id.is_some() && old.instance_id == new.instance_id;
            old.id == new.id || (instance && old.reg_id == new.reg_id)
        };
        if all.iter().any(|old| same(old) && old.refreshed_at > new.refreshed_at) {
            continue;
        }
        all.retain(|old| !same(old));
        all.push(new);
    }
    all.sort_by_key(|binding| binding.registered_at);
    all
}

impl Worker {
    /// Tells the peers what changed; those of an older release are told all.
    pub(super) fn tell_peers(&self, extension: &str, before: &[Binding], after: &[Binding]) {
        if self.peers.is_alone() {
            return;
        }
        let extension = extension.to_owned();
        let document = document(&changes(before, after));
        let told = PeerFrame::BindingsChanged { extension: extension.clone(), document };
        let document = postcard::to_stdvec(after).expect("bindings are plain data").into();
        self.peers.broadcast_else(&told, &PeerFrame::Bindings { extension, document });
    }

    /// A peer registered a phone, or removed one: known here at once.
    pub(super) fn merge_bindings(&mut self, extension: &str, document: &[u8]) {
        let Ok(changes) = postcard::from_bytes::<Changes>(document) else { return };
        if self.directory.user(extension).is_none() {
            // Made a moment ago, and perhaps called in the next.
            self.read_feed();
        }
        let (own, now) = (&self.settings.node, self.now);
        let present = self.directory.bindings(extension).to_vec();
        let told = |id: &str| changes.0.iter().any(|put| put.id == id);
        let both_wrote = present.iter().any(|binding| {
            binding.node == *own && binding.refreshed_at + CONCURRENT > now && !told(&binding.id)
        });
        let bindings = merged(&present, changes);
        let moved = moved_flows(&present, &bindings);
        match both_wrote {
            true => self.committer.write_bindings(extension, bindings.clone()),
            // What the peer saved is not saved again.
            false => self.committer.supersede_bindings(extension, &bindings),
        }
        self.directory.set_bindings(extension, bindings);
        self.move_calls(extension, &moved);
    }

    /// A peer is here (again): it is told of the phones that came to us since it read the store, or since it left.
    pub(super) fn begin_to_tell(&mut self, name: &NodeName) {
        let left = self.peers.left_at(name).unwrap_or(self.now - READ_WITHIN);
        let since = left - CONCURRENT;
        let own = &self.settings.node;
        let news =
            self.directory.all_bindings().filter(|b| b.node == *own && b.refreshed_at >= since);
        let users: BTreeSet<&str> = news.map(|binding| binding.extension.as_str()).collect();
        self.peers.untold.extend(users.into_iter().map(|user| (name.clone(), user.to_owned())));
    }

    /// As many as the link takes.
    pub(super) fn tell_of_bindings(&mut self) {
        for _ in 0..TOLD_A_TURN {
            let Some((name, extension)) = self.peers.untold.pop_front() else { return };
            if self.peers.room(&name).is_some_and(|room| room < limits::LINK_RESERVE) {
                return self.peers.untold.push_front((name, extension));
            }
            let own = &self.settings.node;
            let bindings = self.directory.bindings(&extension).iter();
            let put = bindings.filter(|binding| binding.node == *own).cloned().collect();
            let document = document(&(put, Vec::new()));
            self.peers.send(&name, PeerFrame::BindingsChanged { extension, document });
        }
    }
}

fn document(changes: &Changes) -> Bytes {
    postcard::to_stdvec(changes).expect("bindings are plain data").into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Flow, Transport};

    fn binding(id: &str, refreshed: u64) -> Binding {
        let address = "192.0.2.1:5060".parse().expect("literal");
        Binding {
            id: id.to_owned(),
            extension: "1001".to_owned(),
            aor: "sip:1001@pbx".to_owned(),
            contact: format!("sip:1001@{id}"),
            instance_id: None,
            reg_id: None,
            q_milli: 1_000,
            q_given: false,
            path: Vec::new(),
            call_id: id.to_owned(),
            cseq: 1,
            user_agent: None,
            flow: Flow {
                transport: Transport::Udp,
                local: address,
                remote: address,
                connection: None,
            },
            nat: false,
            node: NodeName("n".into()),
            registered_at: Timestamp::from_millis(0),
            refreshed_at: Timestamp::from_millis(refreshed),
            expires_at: Timestamp::from_millis(1_000_000),
            flow_lost: false,
            ping_rtt_us: None,
        }
    }

    fn named(bindings: &[Binding]) -> Vec<(&str, Timestamp)> {
        let mut named: Vec<_> = bindings.iter().map(|b| (b.id.as_str(), b.refreshed_at)).collect();
        named.sort_unstable();
        named
    }

    /// Two nodes that begin alike and register one device each end alike, whoever hears first.
    #[test]
    fn two_devices_at_two_nodes_are_both_kept() {
        let before = [binding("desk", 1), binding("cell", 1)];
        let here = [binding("desk", 5), binding("cell", 1)];
        let there = [binding("desk", 1), binding("cell", 6)];
        let at_here = merged(&here, changes(&before, &there));
        let at_there = merged(&there, changes(&before, &here));
        assert_eq!(named(&at_here), named(&[binding("cell", 6), binding("desk", 5)]));
        assert_eq!(named(&at_here), named(&at_there));
    }

    #[test]
    fn the_later_word_on_a_phone_holds() {
        let known = [binding("desk", 9)];
        let late = (vec![binding("desk", 4)], vec![]);
        assert_eq!(named(&merged(&known, late)), named(&known), "an old refresh");
        let late = (vec![], vec![("desk".to_owned(), Timestamp::from_millis(4))]);
        assert_eq!(named(&merged(&known, late)), named(&known), "an old removal");
        assert_eq!(merged(&known, changes(&known, &[])), [], "a removal");
        let instance = |id: &str, at| {
            let instance_id = Some("urn:uuid:1".to_owned());
            Binding { instance_id, reg_id: Some(1), ..binding(id, at) }
        };
        let moved = merged(&[instance("old", 1)], (vec![instance("new", 2)], vec![]));
        assert_eq!(named(&moved), named(&[binding("new", 2)]), "one phone, two nodes' names");
    }
}
