//! Calls whose media session moves to another host: begun in their order, so many at a time, and told to phones by
//! their machines (`call::anchor`).
//!
//! Invariants: no more than a window of phones is asked and has not answered; emergencies go first, then the oldest; a
//! drain moves no call twice when a phone did not take it.

use super::worker::Worker;
use crate::call::Input;
use crate::control::{Release, Report, ReportKind, Request};
use crate::ids::{CallId, NodeName, Rev, SessionId};
use std::collections::BTreeMap;

/// A call of two phones.
const LEGS: usize = 2;

/// Calls that wait for their turn, and those under way.
#[derive(Debug)]
pub(super) struct Moves {
    /// Most phones that may be asked at a time.
    window: usize,
    /// In their order; true: where the session was lives.
    waiting: BTreeMap<Turn, bool>,
    /// Phones that have not answered.
    under_way: BTreeMap<CallId, usize>,
}

/// Emergencies first; ids sort by time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    is_ordinary: bool,
    call: CallId,
}

impl Moves {
    pub(super) fn new(window: u32) -> Self {
        let mut moves = Self { window: 0, waiting: BTreeMap::new(), under_way: BTreeMap::new() };
        moves.set_window(window);
        moves
    }

    pub(super) fn set_window(&mut self, window: u32) {
        self.window = usize::try_from(window).unwrap_or(usize::MAX);
    }

    fn add(&mut self, call: CallId, is_emergency: bool, lives: bool) {
        self.waiting.insert(Turn { is_ordinary: !is_emergency, call }, lives);
    }

    /// Whose turn it is, when there is room.
    fn next(&mut self) -> Option<(CallId, bool)> {
        let asked: usize = self.under_way.values().sum();
        if asked > 0 && asked + LEGS > self.window {
            return None;
        }
        let (turn, lives) = self.waiting.pop_first()?;
        self.under_way.insert(turn.call, LEGS);
        Some((turn.call, lives))
    }

    fn count(&mut self, call: CallId, unanswered: usize) {
        if unanswered == 0 {
            self.under_way.remove(&call);
        } else if let Some(known) = self.under_way.get_mut(&call) {
            *known = unanswered;
        }
    }

    /// Calls wait, and can begin.
    pub(super) fn has_turn(&self) -> bool {
        let asked: usize = self.under_way.values().sum();
        !self.waiting.is_empty() && (asked == 0 || asked + LEGS <= self.window)
    }
}

impl Worker {
    /// A media node answers nobody: its calls go to another host.
    pub(super) fn media_is_lost(&mut self, node: &NodeName) {
        let count = self.move_calls_of(node, false);
        if count > 0 {
            tracing::warn!(media_node = %node, "media node {node} is lost: its {count} calls move");
        }
    }

    /// Calls on a media node that drains and has nobody on its host move to another one.
    pub(super) fn move_drained(&mut self) {
        let drained = |(name, node): (&NodeName, &super::media_pool::MediaNode)| {
            (node.is_drained() && node.is_heard() && !self.media.has_heir(name))
                .then(|| name.clone())
        };
        for node in self.media.iter().filter_map(drained).collect::<Vec<_>>() {
            self.move_calls_of(&node, true);
        }
    }

    /// An operator wants a call's media elsewhere: a process of the same host has them handed over, and phones notice
    /// nothing.
    pub(super) fn move_as_wanted(&mut self, id: CallId) {
        let Some(slot) = self.calls.get(id) else { return };
        let Some((wanted, session)) = slot.call.wanted_media().zip(slot.media.as_ref()) else {
            return;
        };
        if self.media.are_siblings(wanted, &session.node) {
            let (wanted, present) = (wanted.clone(), session.node.clone());
            self.media.give(SessionId::from(id), &present, wanted);
        } else {
            self.moves.add(id, slot.call.is_emergency(), true);
        }
    }

    /// How many there are.
    pub(super) fn move_calls_of(&mut self, node: &NodeName, lives: bool) -> usize {
        let calls = self.calls_on(node);
        for id in &calls {
            let Some(slot) = self.calls.get(*id) else { continue };
            let stays = slot.media.as_ref().is_some_and(|session| session.stays);
            if !(lives && stays) {
                self.moves.add(*id, slot.call.is_emergency(), lives);
            }
        }
        calls.len()
    }

    /// A media node did not come back: who can moves, the others end.
    pub(super) fn lose_media(&mut self, node: &NodeName) {
        if self.media.choose_elsewhere(node).is_some() {
            self.move_calls_of(node, false);
            return;
        }
        for id in self.calls_on(node) {
            self.input(id, Input::MediaLost);
        }
    }

    /// As many as there is room for.
    pub(super) fn begin_moves(&mut self) {
        while let Some((id, lives)) = self.moves.next() {
            self.begin_move(id, lives);
            self.count_moves(id);
        }
    }

    fn begin_move(&mut self, id: CallId, lives: bool) {
        let Some(slot) = self.calls.get_mut(id) else { return };
        let Some(session) = &mut slot.media else { return };
        // It may have moved meanwhile, or its node may be there again.
        let wanted = slot.call.wanted_media().filter(|_| lives).cloned();
        let is_due = match self.media.get(&session.node) {
            Some(node) if lives => node.is_drained() || wanted.is_some(),
            Some(node) => !node.is_heard(),
            None => true,
        };
        let takes = |name: &NodeName| {
            let node = self.media.get(name);
            self.media.are_apart(name, &session.node)
                && node.is_some_and(|node| node.is_heard() && !node.is_drained())
        };
        let wanted = wanted.filter(takes);
        let target = wanted.or_else(|| self.media.choose_elsewhere(&session.node));
        let Some(target) = target.filter(|_| is_due) else { return };
        self.media.begin_place(SessionId::from(id), &target, self.now);
        let former = core::mem::replace(&mut session.node, target.clone());
        session.settled = false;
        // It has the session: not there again, as if it were new.
        session.refused_by = vec![former.clone()];
        self.note_mark(id, || match lives {
            true => format!("sound moves from {former} to {target}"),
            false => format!("{former} is lost: sound moves to {target}"),
        });
        self.input(id, Input::MediaMoves { lives });
    }

    /// A call was changed: how many of its phones have not answered?
    pub(super) fn count_moves(&mut self, id: CallId) {
        if self.moves.under_way.contains_key(&id) {
            let slot = self.calls.get(id);
            self.moves.count(id, slot.map_or(0, |slot| slot.call.unanswered_moves()));
        }
    }

    /// A phone did not take another host: the session is where it was.
    pub(super) fn note_back(&mut self, id: CallId, node: NodeName) {
        self.media.begin_place(SessionId::from(id), &node, self.now);
        self.note_mark(id, || format!("sound is back at {node}"));
        if let Some(session) = self.calls.get_mut(id).and_then(|slot| slot.media.as_mut()) {
            (session.node, session.settled, session.stays) = (node, true, true);
            // The numbers of its reports go on where they were, before those of the other.
            session.heard = 0;
        }
    }

    /// A media node is there again: calls that moved from it may want it back.
    pub(super) fn tell_of_return(&mut self, node: &NodeName) {
        let moves = |slot: &super::calls::Slot| slot.call.moves_from(node);
        for id in self.calls.ids(moves) {
            self.input(id, Input::MediaReturned { node: node.clone() });
        }
    }

    /// The session of our call is elsewhere, and that node is on another host, or one that the call moves away from.
    /// One that we never had a link with is not on another host: it has sessions of a process beside it.
    pub(super) fn is_elsewhere(&self, id: CallId, node: &NodeName) -> bool {
        let Some(slot) = self.calls.get(id) else { return false };
        slot.media.as_ref().is_some_and(|session| {
            session.node != *node
                && (slot.call.moves_from(node) || self.media.are_apart(&session.node, node))
        })
    }

    /// A node that had the session reports: what is dialled there counts until all phones were told. What nobody knows
    /// of is taken down.
    pub(super) fn hear_former(&mut self, id: CallId, node: &NodeName, report: Report) {
        if report.kind.is_kept() {
            self.media.acknowledge(node, report.session, report.number);
        }
        let Some(slot) = self.calls.get(id) else { return };
        if slot.call.moves_from(node) {
            if matches!(report.kind, ReportKind::Digit { .. }) {
                self.input(id, Input::Report(report));
            }
            return;
        }
        let settled = slot.media.as_ref().filter(|session| session.settled);
        let Some(last) = settled.and_then(|session| session.request.wish()) else { return };
        let (session, epoch) = (report.session, last.epoch);
        let release = Release { session, epoch, rev: Rev(last.rev.0) };
        self.media.send(node, Request::Release(release));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::LegId;
    use crate::signaling::samples;

    /// Of the call that `samples` answered.
    fn report(number: u64) -> Report {
        let kind = ReportKind::Digit { leg: LegId(0), digit: '5', duration_ms: 100 };
        Report { session: SessionId(7), number, kind }
    }

    #[test]
    fn emergencies_go_first_then_the_oldest_and_no_more_than_the_window() {
        let mut moves = Moves::new(4);
        for call in [3, 1, 2, 9] {
            moves.add(CallId(call), call == 9, false);
        }
        let mut next = || moves.next().map(|(call, _)| call.0);
        assert_eq!([next(), next(), next()], [Some(9), Some(1), None]);
        moves.count(CallId(9), 1);
        assert!(!moves.has_turn(), "one phone of two answered");
        moves.count(CallId(9), 0);
        assert_eq!(moves.next(), Some((CallId(2), false)));
        moves.count(CallId(2), 1);
        moves.count(CallId(1), 1);
        assert_eq!(moves.next(), Some((CallId(3), false)));
    }

    #[tokio::test]
    async fn a_session_that_is_back_is_heard() {
        let (call, node) = (CallId(7), NodeName("m-1".into()));
        let mut worker = samples::worker();
        worker.adopt(samples::answered());
        let heard = |worker: &Worker| worker.calls.get(call)?.media.as_ref().map(|it| it.heard);
        worker.handle_media_report(&node, report(9));
        worker.handle_media_report(&node, report(3));
        assert_eq!(heard(&worker), Some(9), "told twice");
        worker.note_back(call, node.clone());
        worker.handle_media_report(&node, report(3));
        assert_eq!(heard(&worker), Some(3));
    }

    /// From another host to a process beside the first one, and back to that: each counts its own reports.
    #[tokio::test]
    async fn what_a_former_process_of_the_same_host_says_silences_nobody() {
        let (call, former) = (CallId(7), NodeName("m-1".into()));
        let mut worker = samples::worker();
        worker.adopt(samples::answered());
        worker.input(call, Input::MediaMoves { lives: true });
        let slot = worker.calls.get_mut(call).expect("there");
        assert!(slot.call.moves_from(&former));
        slot.media.as_mut().expect("a session").node = NodeName("m-2".into());
        worker.handle_media_report(&former, report(9));
        worker.handle_media_report(&NodeName("m-2".into()), report(3));
        let session = worker.calls.get(call).and_then(|slot| slot.media.as_ref());
        assert_eq!(session.map(|session| session.heard), Some(3));
    }

    #[test]
    fn a_window_of_one_still_moves_one_call_at_a_time() {
        let mut moves = Moves::new(1);
        moves.add(CallId(1), false, false);
        moves.add(CallId(2), false, false);
        assert!(moves.next().is_some() && moves.next().is_none());
        moves.count(CallId(1), 0);
        assert!(moves.next().is_some());
    }
}
