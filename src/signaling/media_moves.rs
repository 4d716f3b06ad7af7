//! Media sessions that change their process while phones notice nothing: one that leaves gives them to another of its
//! host, which tells us; those of one that died are begun anew by another of its host, on the same ports.
//!
//! Invariant: a session is asked for where it was taken last; the call's record follows.

use super::worker::Worker;
use crate::call::Input;
use crate::ids::{CallId, Incarnation, NodeName, SessionId};
use crate::time::Timestamp;

impl Worker {
    /// A media node has a session that another one of its host gave away. What was asked of the former one meanwhile is
    /// asked again: the call's whole wish.
    pub(super) fn handle_taken(&mut self, node: NodeName, session: SessionId, at: Timestamp) {
        if !self.media.note_place(session, &node, at) {
            return;
        }
        let id = CallId(session.0);
        let present = self.calls.get_mut(id).and_then(|slot| slot.media.as_mut());
        let Some(present) = present.filter(|present| present.node != node) else { return };
        present.node = node.clone();
        present.settled = true;
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
            let Some(heir) = self.media.heir_of(node) else { return };
            if let Some(session) = self.calls.get_mut(id).and_then(|slot| slot.media.as_mut()) {
                session.node = heir;
                self.reapply.push_back(id);
            }
        }
        if count > 0 {
            tracing::warn!("media node {node} is dead: its {count} sessions go on in its siblings");
        }
    }
}
