//! Media sessions that change their process while phones notice nothing: one that leaves gives them to another of its
//! host, which tells us; those of one that died are begun anew by another of its host, on the same ports.
//!
//! Invariant: a session is asked for where it was taken last; the call's record follows.

use super::errand::Errand;
use super::links::PeerAddress;
use super::media_pool::LinkNumber;
use super::worker::Worker;
use crate::call::Input;
use crate::control::Frame;
use crate::control::hello::Hello;
use crate::event::Event;
use crate::ids::{CallId, Incarnation, NodeName, SessionId};
use crate::limits;
use crate::time::Timestamp;
use crate::views::Happening;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use tokio::sync::mpsc;

/// A media node that is back is told its sessions so many at a time.
const SESSIONS_A_TURN: usize = 256;

impl Worker {
    /// A media node has a link with us.
    pub(super) fn media_up(
        &mut self,
        number: LinkNumber,
        hello: Hello,
        sender: mpsc::Sender<Frame>,
        rtt_us: Arc<AtomicU32>,
    ) {
        let node = hello.name.clone();
        if !self.media.link_up(number, hello, sender, rtt_us, self.now) {
            tracing::warn!(media_node = %node, "a later start of {node} is here already");
            return;
        }
        self.reapply.extend(self.calls_on(&node));
        self.tell(Happening::MediaJoined { media_node: node.to_string() });
        self.end_doubt(&node);
        self.tell_of_return(&node);
        self.emit(&Event::MediaNode { node, up: true });
    }

    /// A media node has a session of another one of its host, or gave one away: to whom may have died since.
    pub(super) fn note_move(&mut self, node: NodeName, frame: Frame) {
        if let Frame::Taken { session, at } = frame {
            self.handle_taken(node, session, at);
        } else if let Frame::Passed { session, to, at } = frame {
            let to = self.media.heir_of(&to).unwrap_or(to);
            self.handle_taken(to, session, at);
        }
    }

    /// What was asked of the former node meanwhile is asked again: the call's whole wish.
    fn handle_taken(&mut self, node: NodeName, session: SessionId, at: Timestamp) {
        let id = CallId(session.0);
        // One that moved to another host meanwhile is told to phones from there: this one is taken down.
        if self.is_elsewhere(id, &node) || !self.media.note_place(session, &node, at) {
            return;
        }
        let present = self.calls.get_mut(id).and_then(|slot| slot.media.as_mut());
        let Some(present) = present.filter(|present| present.node != node) else { return };
        present.node = node.clone();
        present.settled = true;
        self.note_mark(id, || format!("sound anchored by {node}"));
        self.input(id, Input::MediaMoved { node });
    }

    /// Nobody listens where it did: it holds its ports no more. Without another of its host its sessions wait for its
    /// next start.
    pub(super) fn media_is_dead(&mut self, node: &NodeName, incarnation: Incarnation) {
        if !self.media.bury(node, incarnation) {
            return;
        }
        let calls = self.calls_on(node);
        let count = calls.len();
        for id in calls {
            let Some(heir) = self.media.heir_of(node) else { break };
            if let Some(session) = self.calls.get_mut(id).and_then(|slot| slot.media.as_mut()) {
                session.node = heir;
                self.reapply.push_back(id);
            }
        }
        let elsewhere = self.move_calls_of(node, false);
        if count > 0 {
            let here = count - elsewhere;
            tracing::warn!(
                "media node {node} is dead: {here} of its sessions go on in its siblings, \
                 {elsewhere} on other hosts if there are any"
            );
        }
    }

    /// The link to a media node broke: whether it lives is found out at once, by its ports for control and for RTP.
    pub(super) fn judge_media(&mut self, mut peer: PeerAddress) {
        let calls = self.calls_on(&peer.name);
        peer.probes = self.probes_of(&calls);
        self.begin_doubt(peer.name.clone());
        self.errands.run(Errand::Judge(peer));
    }

    /// Calls whose session is on a media node.
    pub(super) fn calls_on(&self, node: &NodeName) -> Vec<CallId> {
        self.calls.ids(|slot| slot.media.as_ref().is_some_and(|session| session.node == *node))
    }

    /// A node that is back makes its sessions so again, or says that they are; an heir makes those of the dead anew.
    pub(super) fn tell_sessions_again(&mut self) {
        for _ in 0..SESSIONS_A_TURN {
            let Some(id) = self.reapply.front().copied() else { return };
            let session = self.calls.get(id).and_then(|slot| slot.media.as_ref());
            let node = session.map(|session| session.node.clone());
            if node.as_ref().is_some_and(|node| self.media.link_room(node) < limits::LINK_RESERVE) {
                return;
            }
            self.reapply.pop_front();
            if let Some(node) = node {
                self.input(id, Input::MediaMoved { node });
            }
        }
    }
}
