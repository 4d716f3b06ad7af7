//! Calls that are only ended: their record cannot be read, panics its reader, or killed nodes that took it over; or
//! their machine panicked (design §4 "Poison").
//!
//! Invariant: such a call costs itself alone: its phones are told, its media is released, its row ends with a CDR.

use super::errand::Errand;
use super::outputs::catch_bug;
use super::wakeup::Wakeup;
use super::worker::Worker;
use crate::call::{Farewell, Save, farewell};
use crate::control::{Release, Request};
use crate::event::Event;
use crate::ids::{CallId, Flow, LegId, NodeName, Rev, SessionId};
use crate::store::ClaimedCall;
use bytes::Bytes;
use core::time::Duration;
use std::sync::Arc;
use tokio::sync::mpsc;

/// After so many claims, none of whose nodes lived to save the call, it is only ended.
pub(super) const CLAIMS: u32 = 3;
/// Why a call ended that was made twice of one INVITE, in its CDR.
const BESIDE_ANOTHER: &str = "its caller talks in another call";
/// The last words are said again after these, as a transaction would (RFC 3261 §17.1.2.2); nobody counts the answers.
const REPEATS: [Duration; 3] =
    [Duration::from_millis(500), Duration::from_secs(1), Duration::from_secs(2)];

impl Worker {
    /// Ends a claimed call without carrying it on.
    pub(super) fn quarantine(&mut self, claimed: &ClaimedCall, why: &str) {
        tracing::error!(call.id = %claimed.id, "call {} is only ended: {why}", claimed.id);
        let row = self.row_of(claimed);
        let parting = self.parting_of(&row, "its record could not be carried on");
        self.part(row, parting);
        self.release_media_everywhere(claimed);
    }

    /// Ends a claimed call that rings, while its caller talks in another call of the same INVITE: who rings is told to
    /// stop, the caller hears nothing of it, and its CDR says why it is beside the other's.
    pub(super) fn end_beside_another(&mut self, claimed: &ClaimedCall) {
        tracing::warn!(call.id = %claimed.id, "call {} has a caller that talks", claimed.id);
        let row = self.row_of(claimed);
        let mut parting = self.parting_of(&row, BESIDE_ANOTHER);
        parting.transmits.retain(|transmit| transmit.leg != LegId::CALLER);
        self.part(row, parting);
        self.release_media_everywhere(claimed);
    }

    fn row_of(&self, claimed: &ClaimedCall) -> Save {
        let ClaimedCall { id, key, epoch, rev, record, .. } = claimed;
        let owner = self.settings.incarnation;
        let (id, key, epoch, rev, record) = (*id, *key, *epoch, *rev, record.clone());
        Save { id, key, owner, epoch, rev, ended: false, record, cdr: None, told: Vec::new() }
    }

    fn release_media_everywhere(&mut self, claimed: &ClaimedCall) {
        let (session, epoch) = (SessionId::from(claimed.id), claimed.epoch);
        let release = Release { session, epoch, rev: Rev(1) };
        // Which node has it may not be readable: the others know nothing of it.
        let nodes: Vec<NodeName> = self.media.iter().map(|(name, _)| name.clone()).collect();
        for node in nodes {
            self.media.send(&node, Request::Release(release.clone()));
        }
    }

    /// Ends a call whose machine panicked: nothing is asked of the machine but its record, which may panic too.
    pub(super) fn end_by_bug(&mut self, id: CallId, what: String) {
        self.release_media_of(id);
        self.emit(&Event::Bug { call: Some(id), what });
        let Some(slot) = self.calls.remove(id) else { return };
        let Ok(Some(row)) = catch_bug(|| slot.call.remains()) else { return };
        let row = Save { rev: slot.saved, ..row };
        let parting = self.parting_of(&row, "a bug in Holdfast");
        self.part(row, parting);
    }

    /// BYE, CANCEL or 500 to whom the parting names, and the row's end with a CDR.
    fn part(&mut self, row: Save, parting: Farewell) {
        self.emit(&super::views::ended_event(row.id, &parting.cdr));
        let (rev, cdr) = (Rev(row.rev.0 + 1), Some(Box::new(parting.cdr.clone())));
        self.committer.save(Save { rev, ended: true, record: Vec::new(), cdr, ..row });
        self.say(parting);
    }

    fn parting_of(&self, row: &Save, why: &str) -> Farewell {
        let (settings, now) = (Arc::clone(&self.settings), self.now);
        let part = |record: &[u8]| farewell(&settings, (row.id, row.epoch), record, now, why);
        catch_bug(|| part(&row.record)).unwrap_or_else(|_| part(&[]))
    }

    fn say(&mut self, parting: Farewell) {
        let parting = parting.transmits.into_iter();
        let said: Vec<(Flow, Bytes)> =
            parting.map(|transmit| (self.flow_now(transmit.flow), transmit.bytes)).collect();
        for (flow, bytes) in &said {
            self.transmit(*flow, bytes.clone());
        }
        self.errands.run(Errand::SayAgain(said));
    }
}

/// Messages come back to be said, as often as there are `REPEATS`.
pub(super) async fn say_again(messages: Vec<(Flow, Bytes)>, wakeups: &mpsc::Sender<Wakeup>) {
    for pause in REPEATS {
        tokio::time::sleep(pause).await;
        for (flow, bytes) in &messages {
            if wakeups.send(Wakeup::Say(*flow, bytes.clone())).await.is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signaling::samples;
    use crate::sip::{Message, Method};

    #[tokio::test]
    async fn a_bug_ends_its_call_for_the_phones_too() {
        let mut worker = samples::worker();
        worker.adopt(samples::answered());
        worker.sockets.driver().sent.clear();
        worker.change(CallId(7), |_| panic!("a bug"));
        assert!(worker.calls.get(CallId(7)).is_none());
        let said = worker.sockets.driver().sent.drain(..).filter_map(|(flow, bytes)| {
            let Ok(Message::Request(request)) = Message::parse(&bytes) else { return None };
            (request.method == Method::Bye).then_some(flow.remote.to_string())
        });
        assert_eq!(said.collect::<Vec<_>>(), ["10.0.0.9:5060", "10.0.2.1:5060"]);
        let saves: Vec<&Save> = worker.committer.owed_saves().collect();
        let [save] = saves.as_slice() else { panic!("one row: {saves:?}") };
        let cdr = save.cdr.as_ref().expect("a CDR");
        assert_eq!((cdr.caller.extension.as_deref(), save.ended), (Some("1001"), true));
        assert_eq!(cdr.reason.as_deref(), Some("a bug in Holdfast"));
        assert!(samples::errands(&mut worker).iter().any(|e| matches!(e, Errand::SayAgain(_))));
    }

    #[tokio::test]
    async fn a_call_whose_caller_talks_in_another_rings_no_more() {
        for is_beside in [true, false] {
            let mut worker = samples::worker();
            if is_beside {
                worker.repeats.note_beside(CallId(7), worker.now);
            }
            worker.adopt(samples::ringing());
            assert_eq!(worker.calls.get(CallId(7)).is_none(), is_beside);
            let mut said = worker.sockets.driver().sent.drain(..);
            let first = said.next().and_then(|(_, bytes)| Message::parse(&bytes).ok());
            let cancels =
                matches!(first, Some(Message::Request(it)) if it.method == Method::Cancel);
            assert_eq!(cancels, is_beside);
            assert!(!is_beside || said.next().is_none(), "the caller hears nothing");
            drop(said);
            let ended: Vec<&Save> =
                worker.committer.owed_saves().filter(|save| save.ended).collect();
            assert_eq!(ended.len(), usize::from(is_beside));
            let why = |save: &Save| save.cdr.as_ref().and_then(|cdr| cdr.reason.clone());
            assert!(ended.iter().all(|save| why(save).as_deref() == Some(BESIDE_ANOTHER)));
        }
    }
}
