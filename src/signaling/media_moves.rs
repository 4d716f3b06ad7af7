//! Media sessions that change their process while phones notice nothing: one that leaves gives them to another of its
//! host, which tells us; those of one that died are begun anew by another of its host, on the same ports.
//!
//! Invariant: a session is asked for where it was taken last; the call's record follows.

use super::errand::Errand;
use super::links::PeerAddress;
use super::media_pool::LinkNumber;
use super::worker::Worker;
use crate::call::Input;
use crate::control::hello::Hello;
use crate::control::{Frame, Release, Request};
use crate::event::Event;
use crate::ids::{CallId, Incarnation, NodeName, Rev, SessionId};
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
            if !self.handle_taken(node.clone(), session, at) {
                self.release_left_behind(CallId(session.0), &node);
            }
        } else if let Frame::Passed { session, to, at } = frame {
            let to = self.media.heir_of(&to).unwrap_or(to);
            self.handle_taken(to, session, at);
        }
    }

    /// What was asked of the former node meanwhile is asked again: the call's whole wish. False: that was before the
    /// session went where it is.
    fn handle_taken(&mut self, node: NodeName, session: SessionId, at: Timestamp) -> bool {
        let id = CallId(session.0);
        // One that moved to another host meanwhile is told to phones from there: this one is taken down.
        if self.is_elsewhere(id, &node) {
            return true;
        }
        if !self.media.note_place(session, &node, at) {
            return false;
        }
        let present = self.calls.get_mut(id).and_then(|slot| slot.media.as_mut());
        let Some(present) = present.filter(|present| present.node != node) else { return true };
        present.node = node.clone();
        present.settled = true;
        self.note_mark(id, || format!("sound anchored by {node}"));
        self.input(id, Input::MediaMoved { node });
        true
    }

    /// What that node took of the call before is not needed any more. Wherever the session is now, it has seen a later
    /// wish than the one that this names.
    fn release_left_behind(&mut self, id: CallId, node: &NodeName) {
        let session = self.calls.get(id).and_then(|slot| slot.media.as_ref());
        let elsewhere = session.filter(|session| session.node != *node);
        let Some(last) = elsewhere.and_then(|session| session.request.wish()) else { return };
        let (session, epoch, rev) = (last.session, last.epoch, Rev(last.rev.0.saturating_sub(1)));
        self.media.send(node, Request::Release(Release { session, epoch, rev }));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::hello::{Capacity, Role};
    use crate::signaling::samples;
    use core::time::Duration;

    const CALL: CallId = CallId(7);
    const SESSION: SessionId = SessionId(7);

    fn node(name: &str) -> NodeName {
        NodeName(name.into())
    }

    /// Of the link with it.
    fn number_of(name: &str) -> u64 {
        name.bytes().map(u64::from).sum()
    }

    /// A media node with a link to the worker: what it is told.
    fn media(worker: &mut Worker, name: &str, host: &str) -> mpsc::Receiver<Frame> {
        let (sender, told) = mpsc::channel(16);
        let hello = Hello {
            version: crate::control::VERSION,
            name: node(name),
            incarnation: Incarnation(1),
            role: Role::Media,
            control: Vec::new(),
        };
        worker.media_up(number_of(name), hello, sender, Arc::default());
        worker.media.set_host(&node(name), host.to_owned());
        told
    }

    fn place(worker: &Worker) -> Option<&NodeName> {
        worker.calls.get(CALL)?.media.as_ref().map(|session| &session.node)
    }

    /// How often the session was taken down there since the last time.
    fn releases(told: &mut mpsc::Receiver<Frame>) -> usize {
        let frames = core::iter::from_fn(|| told.try_recv().ok());
        let is_release = |frame: &Frame| {
            matches!(frame, Frame::Request { request: Request::Release(release), .. }
                if release.session == SESSION)
        };
        frames.filter(is_release).count()
    }

    /// The record of a call that is given up amid a move names the former node: the next owner knows of no other.
    #[tokio::test]
    async fn what_was_asked_for_and_is_not_recorded_is_taken_down_by_who_lets_the_call_go() {
        for moves in [true, false] {
            let mut worker = samples::worker();
            let mut other = media(&mut worker, "m-2", "h-2");
            let mut present = media(&mut worker, "m-1", "h-1");
            worker.adopt(samples::answered());
            let capacity = Capacity { max_sessions: 10, ..Capacity::default() };
            worker.media.set_capacity(&node("m-2"), capacity);
            if moves {
                worker.media.set_silent(number_of("m-1"), true);
                worker.media_is_lost(&node("m-1"));
                worker.begin_moves();
            }
            let target = if moves { "m-2" } else { "m-1" };
            assert_eq!(place(&worker), Some(&node(target)));
            worker.let_go(CALL);
            assert_eq!((releases(&mut other), releases(&mut present)), (usize::from(moves), 0));
        }
    }

    #[tokio::test]
    async fn what_a_node_took_before_the_call_went_elsewhere_is_taken_down() {
        let mut worker = samples::worker();
        let mut former = media(&mut worker, "m-2", "h-1");
        let _present = media(&mut worker, "m-1", "h-1");
        worker.adopt(samples::answered());
        assert_eq!(place(&worker), Some(&node("m-1")));
        let (then, now) = (worker.now, worker.now + Duration::from_secs(1));
        worker.media.begin_place(SESSION, &node("m-1"), now);
        worker.note_move(node("m-2"), Frame::Taken { session: SESSION, at: then });
        assert_eq!(place(&worker), Some(&node("m-1")));
        assert_eq!(releases(&mut former), 1);
        worker.note_move(node("m-2"), Frame::Taken { session: SESSION, at: now });
        assert_eq!(place(&worker), Some(&node("m-2")), "taken later");
    }

    #[tokio::test]
    async fn a_call_that_comes_here_is_where_its_host_last_had_it() {
        for (host, expect) in [("h-1", "m-2"), ("h-2", "m-1")] {
            let mut worker = samples::worker();
            let _links = [media(&mut worker, "m-1", "h-1"), media(&mut worker, "m-2", host)];
            worker.media.note_place(SESSION, &node("m-2"), worker.now);
            worker.adopt(samples::answered());
            assert_eq!(place(&worker), Some(&node(expect)), "m-2 on {host}");
        }
    }
}
