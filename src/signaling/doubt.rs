//! A media node that gives no sign of life: is it gone, or only its link with us? Its packet workers are asked by STUN,
//! and so are our peers, who ask it too.
//!
//! Invariants: one cut link moves no call: a node is lost when it answers neither us nor any peer, one peer at least
//! says so too if there is one that can be asked, and else the world beyond our host answers us; every doubt ends
//! within `PATIENCE`.

use super::errand::Errand;
use super::links::PROBE_PATIENCE;
use super::media_pool::LinkNumber;
use super::worker::Worker;
use crate::control::PeerFrame;
use crate::ids::NodeName;
use crate::time::Timestamp;
use core::net::SocketAddr;
use core::time::Duration;
use std::collections::{BTreeMap, HashSet};

/// Longer than peers and we ask.
const PATIENCE: Duration = PROBE_PATIENCE.saturating_add(Duration::from_millis(150));
/// RTP ports at which a media node's workers are asked.
const PROBES: usize = 3;

/// What is known so far.
#[derive(Debug)]
struct Doubt {
    until: Timestamp,
    /// Peers that were asked.
    waiting: HashSet<NodeName>,
    /// A peer does not hear it either.
    confirmed: bool,
    /// It did not answer us; whether the store did.
    unheard: Option<bool>,
}

/// Media nodes in doubt.
#[derive(Debug, Default)]
pub(super) struct Doubts(BTreeMap<NodeName, Doubt>);

impl Doubts {
    /// When one ends at the latest.
    pub(super) fn next_timeout(&self) -> Option<Timestamp> {
        self.0.values().map(|doubt| doubt.until).min()
    }
}

impl Worker {
    /// The link of a media node misses heartbeats, or no more.
    pub(super) fn handle_silence(&mut self, link: LinkNumber, is_silent: bool) {
        let Some(node) = self.media.set_silent(link, is_silent) else { return };
        match is_silent {
            true => self.begin_doubt(node),
            false => self.end_doubt(&node),
        }
    }

    /// Asks all who may know, if calls of ours are there.
    pub(super) fn begin_doubt(&mut self, node: NodeName) {
        let calls = self.calls_on(&node);
        if calls.is_empty() || self.doubts.0.contains_key(&node) {
            return;
        }
        let probes = self.probes_of(&calls);
        let names: Vec<NodeName> = self.peers.iter().map(|(name, _)| name.clone()).collect();
        let ask = || PeerFrame::AskMedia { node: node.clone(), probes: probes.clone() };
        let waiting = names.into_iter().filter(|name| self.peers.send(name, ask())).collect();
        let until = self.now + PATIENCE;
        let doubt = Doubt { until, waiting, confirmed: false, unheard: None };
        self.doubts.0.insert(node.clone(), doubt);
        self.errands.run(Errand::Probe { node, probes, peer: None });
    }

    /// A call came here: its media node may be gone with its former owner.
    pub(super) fn doubt_unheard(&mut self, node: NodeName) {
        if !self.media.get(&node).is_some_and(|known| known.is_heard()) {
            self.begin_doubt(node);
        }
    }

    /// It lives.
    pub(super) fn end_doubt(&mut self, node: &NodeName) {
        self.doubts.0.remove(node);
        self.media.note_life(node, self.now);
    }

    /// A peer asks whether we hear a media node.
    pub(super) fn answer_media(
        &mut self,
        link: LinkNumber,
        node: NodeName,
        mut probes: Vec<SocketAddr>,
    ) {
        let Some(peer) = self.peers.name_of(link).cloned() else { return };
        // What was heard a moment ago proves nothing: the answer tells of what is heard when the probes are over.
        probes.truncate(PROBES);
        self.errands.run(Errand::Probe { node, probes, peer: Some(peer) });
    }

    /// A media node was asked by STUN, for us or for a peer.
    pub(super) fn handle_probed(
        &mut self,
        node: NodeName,
        peer: Option<NodeName>,
        (lives, store_answers): (bool, bool),
    ) {
        if let Some(peer) = peer {
            let lives = lives || self.media.get(&node).is_some_and(|known| known.is_heard());
            self.peers.send(&peer, PeerFrame::MediaSeen { node, lives });
        } else if lives {
            self.end_doubt(&node);
        } else if let Some(doubt) = self.doubts.0.get_mut(&node) {
            doubt.unheard = Some(store_answers);
            self.judge_doubt(&node);
        }
    }

    /// A peer answers.
    pub(super) fn take_media_seen(&mut self, link: LinkNumber, node: &NodeName, lives: bool) {
        let Some(peer) = self.peers.name_of(link) else { return };
        let Some(doubt) = self.doubts.0.get_mut(node) else { return };
        if !doubt.waiting.remove(peer) {
            return;
        }
        doubt.confirmed |= !lives;
        match lives {
            true => self.end_doubt(node),
            false => self.judge_doubt(node),
        }
    }

    /// Doubts whose time is over are judged by what is known.
    pub(super) fn end_doubts(&mut self) {
        let now = self.now;
        let over = self.doubts.0.iter().filter(|(_, doubt)| doubt.until <= now);
        for node in over.map(|(node, _)| node.clone()).collect::<Vec<_>>() {
            self.judge_doubt(&node);
            self.doubts.0.remove(&node);
        }
    }

    fn judge_doubt(&mut self, node: &NodeName) {
        let Some(doubt) = self.doubts.0.get(node) else { return };
        let Some(store_answers) = doubt.unheard else { return };
        let is_over = doubt.waiting.is_empty() || doubt.until <= self.now;
        let connected = store_answers || self.is_heard_from_beyond(node);
        if doubt.confirmed || is_over && connected {
            self.doubts.0.remove(node);
            self.media_is_lost(node);
        }
    }

    /// A media node of another host is heard.
    fn is_heard_from_beyond(&self, but: &NodeName) -> bool {
        let mut others = self.media.iter().filter(|(other, _)| *other != but);
        others.any(|(other, known)| {
            known.is_heard() && !known.is_local() && !self.media.are_siblings(other, but)
        })
    }

    /// Where the media node's workers can be asked.
    pub(super) fn probes_of(&self, calls: &[crate::ids::CallId]) -> Vec<SocketAddr> {
        let probes = calls.iter().filter_map(|id| self.calls.get(*id)?.call.media_address());
        probes.take(PROBES).collect()
    }
}
