//! What operators ask of calls, whoever owns them: every peer is asked over its link, and what came within the patience
//! of an operator is the answer.
//!
//! Invariants: a question waits for peers that were there when it was asked, and no longer than its patience; an answer
//! comes in parts that fit a frame; that nobody has a call is said only when all peers said so.

use super::errand::Errand;
use super::media_pool::LinkNumber;
use super::steer;
use super::worker::Worker;
use crate::capture::ENTRIES;
use crate::control::PeerFrame;
use crate::ids::{CallId, NodeName};
use crate::operator::{CallFilter, Refused};
use crate::time::Timestamp;
use crate::views::ladder::Entry;
use crate::views::{CallView, Steering};
use bytes::Bytes;
use core::time::Duration;
use std::collections::{HashMap, HashSet};
use tokio::sync::oneshot;

/// Peers that do not answer so long are left out.
const PATIENCE: Duration = Duration::from_secs(2);
/// Calls a frame: a view is a few kilobytes.
const CALLS_A_FRAME: usize = 32;

/// Who waits for what.
#[derive(Debug)]
pub(super) enum Asker {
    /// All that match.
    Calls(oneshot::Sender<Vec<CallView>>),
    /// One, by its id.
    Call(oneshot::Sender<Option<CallView>>),
    /// Whether anybody ended it.
    Hangup(oneshot::Sender<bool>),
    /// What became of a wish for it.
    Steer(oneshot::Sender<Result<CallView, Refused>>),
    /// What all hosts keep of its signaling.
    Ladder(oneshot::Sender<Vec<Entry>>),
}

/// A question under way.
#[derive(Debug)]
struct Open {
    asker: Asker,
    found: Vec<CallView>,
    entries: Vec<Entry>,
    waiting: HashSet<NodeName>,
    until: Timestamp,
    /// So many are wanted.
    limit: usize,
}

/// Questions under way, by number.
#[derive(Debug, Default)]
pub(super) struct Gathering {
    open: HashMap<u64, Open>,
    numbers: u64,
}

impl Worker {
    /// Asks everybody for calls; `own` are those of this node.
    pub(super) fn gather(&mut self, filter: &CallFilter, own: Vec<CallView>, asker: Asker) {
        let question = serde_json::to_string(filter).unwrap_or_default();
        let limit = filter.limit.unwrap_or(usize::MAX);
        let ask = |id| PeerFrame::AskCalls { id, filter: question.clone() };
        let id = self.ask_peers(own, (limit, PATIENCE), asker, ask);
        self.finish_if_complete(id);
    }

    /// Asks everybody to end a call that is not here.
    pub(super) fn hang_up_elsewhere(
        &mut self,
        call: &str,
        reason: Option<&str>,
        answer: oneshot::Sender<bool>,
    ) {
        let (call, reason) = (call.to_owned(), reason.map(str::to_owned));
        let ask = |id| PeerFrame::AskHangup { id, call: call.clone(), reason: reason.clone() };
        let id = self.ask_peers(Vec::new(), (0, PATIENCE), Asker::Hangup(answer), ask);
        self.finish_if_complete(id);
    }

    /// Asks everybody to do something to a call that is not here.
    pub(super) fn steer_elsewhere(
        &mut self,
        call: CallId,
        wish: &Steering,
        answer: oneshot::Sender<Result<CallView, Refused>>,
    ) {
        if let Err(refused) = self.may_steer() {
            // Who asked may have gone.
            let _ = answer.send(Err(refused));
            return;
        }
        let wish = serde_json::to_string(wish).unwrap_or_default();
        let ask = |id| PeerFrame::AskSteer { id, call, wish: wish.clone() };
        let id = self.ask_peers(Vec::new(), (0, steer::PATIENCE), Asker::Steer(answer), ask);
        self.finish_if_complete(id);
    }

    fn ask_peers(
        &mut self,
        found: Vec<CallView>,
        (limit, patience): (usize, Duration),
        asker: Asker,
        question: impl Fn(u64) -> PeerFrame,
    ) -> u64 {
        self.gathering.numbers += 1;
        let id = self.gathering.numbers;
        let names: Vec<NodeName> = self.peers.iter().map(|(name, _)| name.clone()).collect();
        let waiting =
            names.into_iter().filter(|name| self.peers.send(name, question(id))).collect();
        let until = self.now + patience;
        self.gathering
            .open
            .insert(id, Open { asker, found, entries: Vec::new(), waiting, until, limit });
        id
    }

    /// Asks every host what it keeps of a call's signaling; this one's files are read beside the worker.
    pub(super) fn gather_ladder(&mut self, call: CallId, answer: oneshot::Sender<Vec<Entry>>) {
        let ask = |id| PeerFrame::AskLadder { id, call };
        let id = self.ask_peers(Vec::new(), (0, PATIENCE), Asker::Ladder(answer), ask);
        let own = self.settings.node.clone();
        if let Some(open) = self.gathering.open.get_mut(&id) {
            open.waiting.insert(own);
        }
        self.errands.run(Errand::ReadLadder { asker: None, id, call });
    }

    /// What a host keeps of it. Processes of one host say the same.
    pub(super) fn take_entries(
        &mut self,
        from: &NodeName,
        id: u64,
        entries: Vec<Entry>,
        last: bool,
    ) {
        let Some(open) = self.gathering.open.get_mut(&id) else { return };
        let room = (4 * ENTRIES).saturating_sub(open.entries.len());
        open.entries.extend(entries.into_iter().take(room));
        if last {
            open.waiting.remove(from);
            self.finish_if_complete(id);
        }
    }

    /// A peer asks for our calls.
    pub(super) fn answer_calls(&mut self, link: LinkNumber, id: u64, filter: &str) {
        let Some(name) = self.peers.name_of(link).cloned() else { return };
        let filter: CallFilter = serde_json::from_str(filter).unwrap_or_default();
        let views = self.call_views(&filter);
        let mut parts = views.chunks(CALLS_A_FRAME).peekable();
        if parts.peek().is_none() {
            self.peers.send(&name, PeerFrame::Calls { id, document: Bytes::new(), last: true });
        }
        while let Some(part) = parts.next() {
            let document = serde_json::to_vec(part).unwrap_or_default().into();
            let last = parts.peek().is_none();
            self.peers.send(&name, PeerFrame::Calls { id, document, last });
        }
    }

    /// A peer asks us to end a call.
    pub(super) fn answer_hangup(
        &mut self,
        link: LinkNumber,
        id: u64,
        call: &str,
        reason: Option<String>,
    ) {
        let Some(name) = self.peers.name_of(link).cloned() else { return };
        let done = self.hang_up(call, reason);
        self.peers.send(&name, PeerFrame::HungUp { id, done });
    }

    /// A part of a peer's answer.
    pub(super) fn take_calls(&mut self, link: LinkNumber, id: u64, document: &[u8], last: bool) {
        let Some(name) = self.peers.name_of(link).cloned() else { return };
        let Some(open) = self.gathering.open.get_mut(&id) else { return };
        if let Ok(views) = serde_json::from_slice::<Vec<CallView>>(document) {
            open.found.extend(views);
        }
        if last {
            open.waiting.remove(&name);
        }
        match matches!(open.asker, Asker::Call(_)) && !open.found.is_empty() {
            true => self.finish(id),
            false => self.finish_if_complete(id),
        }
    }

    /// A peer ended the call, or has none of that id.
    pub(super) fn take_hung_up(&mut self, link: LinkNumber, id: u64, done: bool) {
        let Some(name) = self.peers.name_of(link).cloned() else { return };
        let Some(open) = self.gathering.open.get_mut(&id) else { return };
        open.waiting.remove(&name);
        if done {
            if let Some(Open { asker: Asker::Hangup(answer), .. }) = self.gathering.open.remove(&id)
            {
                // Who asked may have gone.
                let _ = answer.send(true);
            }
            return;
        }
        self.finish_if_complete(id);
    }

    /// A peer did something to its call, did not want to, or has none of that id.
    pub(super) fn take_steered(&mut self, link: LinkNumber, id: u64, document: &[u8]) {
        let Some(name) = self.peers.name_of(link).cloned() else { return };
        let Some(open) = self.gathering.open.get_mut(&id) else { return };
        open.waiting.remove(&name);
        let told = serde_json::from_slice(document).unwrap_or(Err(Refused::Gone));
        if told == Err(Refused::Gone) {
            return self.finish_if_complete(id);
        }
        if let Some(Open { asker: Asker::Steer(answer), .. }) = self.gathering.open.remove(&id) {
            // Who asked may have gone.
            let _ = answer.send(told);
        }
    }

    /// Questions whose peers are silent are answered with what is there.
    pub(super) fn end_questions(&mut self) {
        let now = self.now;
        let due = self.gathering.open.iter().filter(|(_, open)| open.until <= now);
        for id in due.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.finish(id);
        }
    }

    fn finish_if_complete(&mut self, id: u64) {
        if self.gathering.open.get(&id).is_some_and(|open| open.waiting.is_empty()) {
            self.finish(id);
        }
    }

    fn finish(&mut self, id: u64) {
        let Some(open) = self.gathering.open.remove(&id) else { return };
        let Open { asker, mut found, mut entries, waiting, limit, .. } = open;
        // Ids sort by time.
        found.sort_by(|one, other| one.id.cmp(&other.id));
        // A call that moved between two answers is in both.
        found.dedup_by(|one, other| one.id == other.id);
        found.truncate(limit);
        // Who asked may have gone.
        match asker {
            Asker::Calls(answer) => _ = answer.send(found),
            // Dropped: that is no answer. A silent peer may have the call, and may have done what was wanted.
            Asker::Call(_) | Asker::Hangup(_) | Asker::Steer(_)
                if found.is_empty() && !waiting.is_empty() => {}
            Asker::Call(answer) => _ = answer.send(found.into_iter().next()),
            Asker::Hangup(answer) => _ = answer.send(false),
            Asker::Steer(answer) => _ = answer.send(Err(Refused::Gone)),
            Asker::Ladder(answer) => {
                entries.sort_by(|one, other| one.order().cmp(&other.order()));
                entries.dedup();
                entries.truncate(ENTRIES);
                _ = answer.send(entries);
            }
        }
    }
}
