//! Media sessions that change their process while phones notice nothing: one that leaves gives them to another of its
//! host, which tells us.
//!
//! Invariant: a session is asked for where it was taken last; the call's record follows.

use super::worker::Worker;
use crate::call::Input;
use crate::ids::{CallId, NodeName, SessionId};
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
}
