//! One step of a call: something in, everything out (design §3).
//!
//! Invariants: a call is drained to `None` after every mutation, and answers that are known at once go in only then. A
//! panic ends that one call (`quarantine`), and the node lives.

use super::answer::HeldAnswer;
use super::calls::{Session, Slot};
use super::wakeup::Found;
use super::worker::Worker;
use crate::call::{
    Answer, Call, Input, Output, Query, RECORD_VERSION, Save, Transmit, record_in_version,
};
use crate::control::{PeerFrame, Refusal, Release, Reply, Report, Request};
use crate::event::{Event, Measure};
use crate::ids::{CallId, NodeName, Rev, SessionId};
use crate::routing::{self, Decision};
use crate::sip::{Status, Uri};
use crate::store::{CallOutcome, StoreError, tell_rejected};
use crate::views::CallState;
use core::panic::AssertUnwindSafe;
use core::time::Duration;
use std::collections::VecDeque;
use std::panic::catch_unwind;

/// Releases that write records of this version and later tell the end of a call that has ended in its row.
const UNFINISHED_SINCE: u16 = 5;

/// Runs what may panic only by a bug; the panic's text.
pub(super) fn catch_bug<T>(step: impl FnOnce() -> T) -> Result<T, String> {
    // A machine holds no lock and is dropped after a panic: nothing half-changed is seen again.
    catch_unwind(AssertUnwindSafe(step)).map_err(|panic| {
        let text = panic.downcast_ref::<&str>().map(ToString::to_string);
        text.or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "a panic without a text".to_owned())
    })
}

const fn is_emergency(request: &Request) -> bool {
    match request.wish() {
        Some(apply) => apply.spec.emergency,
        None => false,
    }
}

impl Worker {
    /// Something came for a call.
    pub(super) fn input(&mut self, id: CallId, input: Input) {
        let now = self.now;
        self.change(id, |call| call.handle_input(input, now));
    }

    /// A call's timers are due.
    pub(super) fn wake_call(&mut self, id: CallId) {
        let now = self.now;
        self.change(id, |call| call.handle_timeout(now));
    }

    /// One mutation, and what comes of it.
    pub(super) fn change(&mut self, id: CallId, mutate: impl FnOnce(&mut Call)) {
        if self.step(id, mutate) {
            self.drain(id);
        }
    }

    /// What it would save with something else it saves now.
    pub(super) fn save_call_now(&mut self, id: CallId) {
        let now = self.now;
        if self.step(id, |call| call.save_now(now)) {
            self.drain(id);
        }
    }

    /// One mutation. False: there is no such call (any more).
    pub(super) fn step(&mut self, id: CallId, mutate: impl FnOnce(&mut Call)) -> bool {
        let Some(slot) = self.calls.get_mut(id) else { return false };
        match catch_bug(|| mutate(&mut slot.call)) {
            Ok(()) => true,
            Err(what) => {
                self.end_by_bug(id, what);
                false
            }
        }
    }

    /// Carries out all that a call wants, until it wants nothing more.
    pub(super) fn drain(&mut self, id: CallId) {
        let mut answers = VecDeque::new();
        loop {
            let Some(slot) = self.calls.get_mut(id) else { return };
            let mut outputs = core::mem::take(&mut self.outputs);
            outputs.extend(core::iter::from_fn(|| slot.call.poll_output()));
            for output in outputs.drain(..) {
                answers.extend(self.carry_out(id, output));
            }
            self.outputs = outputs;
            let Some(answer) = answers.pop_front() else { break };
            let now = self.now;
            if !self.step(id, |call| call.handle_input(answer, now)) {
                return;
            }
        }
        self.calls.schedule(id);
        self.count_moves(id);
        self.forget_if_over(id);
    }

    /// It is another node's from now on: not a word more of it from here. A media node that was asked for its session,
    /// and is not in its record yet, has none: nobody else knows of that.
    pub(super) fn let_go(&mut self, id: CallId) {
        let slot = self.calls.remove(id);
        let unknown = slot.and_then(|slot| {
            let known = slot.call.media_node()?.clone();
            slot.media.filter(|session| !session.settled && session.node != known)
        });
        if let Some(Session { node, request, .. }) = unknown
            && let Some(wish) = request.wish()
        {
            let (session, epoch, rev) = (SessionId::from(id), wish.epoch, wish.rev);
            self.media.send(&node, Request::Release(Release { session, epoch, rev }));
        }
        self.emit(&Event::CallLeft { call: id });
    }

    pub(super) fn forget_if_over(&mut self, id: CallId) {
        let over = self.calls.get(id).is_some_and(|slot| slot.is_over());
        if over {
            self.tell_originator(id);
            self.calls.remove(id);
        }
    }

    fn carry_out(&mut self, id: CallId, output: Output) -> Option<Input> {
        match output {
            Output::Save(save) => {
                let is_misread = self.is_misread(id, &save);
                let mut save = self.as_written(save);
                if let Some(slot) = self.calls.get_mut(id) {
                    slot.untold.append(&mut save.told);
                    if is_misread {
                        return None;
                    }
                    save.told = core::mem::take(&mut slot.untold);
                    slot.saved = save.rev;
                }
                self.committer.save(save);
                None
            }
            Output::Send(transmit) => {
                if let Some(transmit) = self.calls.hold(id, transmit) {
                    self.send(id, transmit);
                }
                None
            }
            Output::Media(request) => self.ask_media(id, request),
            Output::MediaBack(node) => {
                self.note_back(id, node);
                None
            }
            Output::MediaLeft(node, release) => {
                self.media.send(&node, Request::Release(release));
                None
            }
            Output::Ask(Query::Route { number, uri }) => self.route(id, number, uri),
            Output::Ask(Query::Resolve { number, uri }) => {
                self.resolve(id, number, &uri);
                None
            }
            Output::Event(event) => {
                if let Event::CallReanchored { node, .. } = &event {
                    self.note_mark(id, || format!("sound anchored by {node}: phones are told"));
                }
                self.emit(&event);
                None
            }
            Output::Sounded(sounded) => {
                self.note_sound(id, sounded);
                None
            }
        }
    }

    /// The row of a call that is over, and not every phone knows, is left as it was when an older release lives, which
    /// would tell nobody: it finds a live call, and ends that when no RTP comes.
    fn is_misread(&self, id: CallId, save: &Save) -> bool {
        let unfinished = || self.calls.get(id).is_some_and(|slot| slot.call.is_unfinished());
        self.record_version < UNFINISHED_SINCE && !save.ended && unfinished()
    }

    /// As the oldest live node reads it.
    pub(super) fn as_written(&self, mut save: Save) -> Save {
        if self.record_version < RECORD_VERSION && !save.ended {
            save.record = record_in_version(&save.record, self.record_version);
        }
        save
    }

    /// Sends now. A request whose connection is gone waits for the phone to come back by another; a response is
    /// repeated when its request is.
    pub(super) fn send(&mut self, id: CallId, transmit: Transmit) {
        let sent = self.transmit(transmit.flow, transmit.bytes.clone());
        if sent {
            self.note_sent(id, &transmit);
            if let Some(slot) = self.calls.get_mut(id).filter(|slot| !slot.stranded.is_empty()) {
                slot.note_said(&transmit.bytes);
            }
        }
        if !sent
            && transmit.request.is_some()
            && let Some(slot) = self.calls.get_mut(id)
            && !slot.strand(transmit, self.now)
        {
            self.emit(&Event::Shed { what: "request for a broken connection" });
        }
    }

    fn ask_media(&mut self, id: CallId, request: Request) -> Option<Input> {
        let slot = self.calls.get_mut(id)?;
        let emergency = is_emergency(&request);
        let node = match &mut slot.media {
            Some(session) => {
                session.request = request.clone();
                session.node.clone()
            }
            None if matches!(request, Request::Release(_)) => return None,
            None => {
                let Some(node) = self.media.choose(&[], emergency) else {
                    return Some(Input::MediaLost);
                };
                slot.media = Some(Session {
                    node: node.clone(),
                    request: request.clone(),
                    settled: false,
                    heard: 0,
                    refused_by: Vec::new(),
                    stays: false,
                });
                node
            }
        };
        self.media.await_node(&node, self.now);
        self.media.send(&node, request);
        None
    }

    /// A media node answers a call's wish. One without room is left for another, until one takes the session.
    pub(super) fn handle_media_reply(&mut self, node: NodeName, reply: Reply) {
        let (session, ..) = reply.subject();
        if matches!(reply, Reply::Released(_)) {
            self.media.released(session, &node);
        }
        let id = CallId(session.0);
        let present = self.calls.get_mut(id).and_then(|slot| slot.media.as_mut());
        let Some(present) = present.filter(|present| present.node == node) else { return };
        let full =
            matches!(reply, Reply::Refused { reason: Refusal::Capacity | Refusal::Draining, .. });
        if full && !present.settled {
            present.refused_by.push(node);
            let request = present.request.clone();
            let other = self.media.choose(&present.refused_by, is_emergency(&request));
            if let Some(other) = other {
                present.node = other.clone();
                return self.media.send(&other, request);
            }
            return self.input(id, Input::MediaLost);
        }
        present.settled |= matches!(reply, Reply::Applied(_));
        self.input(id, Input::Media { node, reply });
    }

    pub(super) fn handle_media_report(&mut self, node: &NodeName, report: Report) {
        let id = CallId(report.session.0);
        if self.is_elsewhere(id, node) {
            return self.hear_former(id, node, report);
        }
        // Another owner's report is the other owner's to acknowledge.
        if report.kind.is_kept()
            && let Some(slot) = self.calls.get_mut(id)
        {
            self.media.acknowledge(node, report.session, report.number);
            let heard = slot.media.as_mut().map(|session| &mut session.heard);
            if let Some(heard) = heard {
                // A word that was on its way while it was told again.
                if report.number <= *heard {
                    return;
                }
                *heard = report.number;
            }
        }
        self.input(id, Input::Report(report));
    }

    fn route(&mut self, id: CallId, number: u32, uri: Uri) -> Option<Input> {
        let decision = routing::route(&self.directory, &uri, self.now);
        if let Decision::Unknown { extension, .. } = decision {
            self.look_up(id, number, uri, extension);
            return None;
        }
        Some(self.decided(id, number, decision))
    }

    fn decided(&mut self, id: CallId, number: u32, mut decision: Decision) -> Input {
        if let Decision::Ring { user, bindings } = &mut decision {
            self.calls.add_user(id, &user.extension);
            self.reach_bindings(bindings);
        }
        Input::Answer(Answer::Route { number, decision })
    }

    /// The store was asked whom the directory did not know: once, then it is told.
    pub(super) fn handle_found(&mut self, found: Found) {
        let Found { call, number, uri, extension, result } = found;
        let decision = match result {
            Ok((user, bindings)) => {
                self.learn(&extension, user, bindings);
                match routing::route(&self.directory, &uri, self.now) {
                    Decision::Unknown { user_known, .. } => {
                        Decision::Refuse(routing::unknown(user_known))
                    }
                    known => known,
                }
            }
            Err(_) => Decision::Refuse(Status(503)),
        };
        let answer = self.decided(call, number, decision);
        self.input(call, answer);
    }

    /// A commit ended: messages that waited for it leave.
    pub(super) fn handle_committed(&mut self, result: Result<Vec<CallOutcome>, StoreError>) {
        let Some(finished) = self.committer.finish(result.is_ok(), self.now) else { return };
        let rows = finished.batch.calls.len() + finished.batch.bindings.len();
        let (took, stored) = (self.now.saturating_since(finished.began), result.is_ok());
        self.emit(&Event::Measured(Measure::Commit { rows, took, stored }));
        match result {
            Ok(outcomes) => {
                for (save, outcome) in finished.batch.calls.iter().zip(outcomes) {
                    self.handle_outcome(save, outcome);
                }
                self.end_waits_for_saves();
                for answer in finished.replies {
                    self.send_held(answer);
                }
            }
            Err(error) => {
                tracing::debug!("the store took nothing: {error}");
                self.refuse_held(finished.replies);
                self.tell_outage(Some(&error));
            }
        }
    }

    /// Nothing of these was kept: the phones come again.
    pub(super) fn refuse_held(&mut self, held: Vec<HeldAnswer>) {
        for HeldAnswer { request, flow, .. } in held {
            self.refuse_for_now(&request, &flow, "Store Unavailable", 5);
        }
    }

    /// How each phone was heard, once its call's end is stored.
    fn measure_sound(&self, save: &Save) {
        let legs = save.cdr.iter().flat_map(|cdr| &cdr.legs);
        for leg in legs.filter(|leg| leg.packets_received > 0) {
            let time =
                |ms: Option<f64>| ms.map(|ms| Duration::from_secs_f64(ms.max(0.0) / 1_000.0));
            self.emit(&Event::Measured(Measure::Sound {
                mos_hundredths: leg.mos_mean.map(|mos| (mos * 100.0) as u32),
                jitter: time(leg.jitter_mean_ms),
                round_trip: time(leg.rtt_mean_ms),
                packets: (leg.packets_received, leg.packets_lost),
            }));
        }
    }

    pub(super) fn handle_outcome(&mut self, save: &Save, outcome: CallOutcome) {
        let id = save.id;
        match outcome {
            CallOutcome::Done => {
                self.calls.note_stored(id, save.rev);
                if save.ended && !self.store.is_embedded() {
                    self.server.note_end(save, self.now);
                }
                self.measure_sound(save);
                self.release(id, save.rev);
            }
            // Somebody else owns it: not a word more of it from here.
            CallOutcome::Fenced => {
                let newer = |slot: &Slot| slot.row().is_some_and(|row| row.epoch > save.epoch);
                if self.calls.get(id).is_some_and(newer) {
                    // It came back to us since.
                    return;
                }
                tracing::warn!(call.id = %id, "call {id} has another owner: dropped here");
                if let Some(cdr) = &save.cdr {
                    let (call, by, cause) = (id, cdr.ended_by, cdr.end_cause);
                    self.peers.broadcast(&PeerFrame::Ended { call, by, cause });
                }
                self.committer.forget(id);
                self.let_go(id);
            }
            // The INVITE is known elsewhere: ours never was.
            CallOutcome::Duplicate(other) => self.handle_duplicate(id, other),
            CallOutcome::Rejected(why) => self.handle_rejected(save, &why),
        }
    }

    /// The INVITE made another call too. Unless the journal let something out, ours never was. If it did, phones know
    /// ours: those that talk go on under a key of their own; one that rings is cancelled, the caller is the other's.
    fn handle_duplicate(&mut self, id: CallId, other: CallId) {
        let Some(slot) = self.calls.get(id) else { return self.committer.forget(id) };
        let (is_known, state, key) = (slot.committed.0 > 0, slot.call.state(), slot.key);
        tracing::warn!(call.id = %id, "call {id} is call {other} already");
        self.committer.forget(id);
        match state {
            CallState::Confirmed if is_known => {
                self.repeats.note_beside(other, self.now);
                self.change(id, Call::take_own_key);
            }
            CallState::Trying | CallState::Early if is_known => {
                self.change(id, Call::leave_caller);
                self.emit(&Event::CallLeft { call: id });
            }
            _ => {
                // A repeat is for that one, which may be on its way to us.
                self.repeats.note_other(key, other, self.now);
                self.drop_unsaid(id);
            }
        }
    }

    /// Nobody was told of it.
    pub(super) fn drop_unsaid(&mut self, id: CallId) {
        self.committer.forget(id);
        self.release_media_of(id);
        self.let_go(id);
    }

    /// The database refuses this row and no other: the call ends, so that its phones are told. A refused end is kept
    /// whole in the log, where its CDR can still be found.
    fn handle_rejected(&mut self, save: &Save, why: &str) {
        let id = save.id;
        tell_rejected(save, why);
        if !save.ended {
            let reason = Some("its state cannot be stored".to_owned());
            return self.input(id, Input::Hangup { reason });
        }
        self.release(id, save.rev);
    }

    /// Takes a session down that no call asks for any more.
    pub(super) fn release_media_of(&mut self, id: CallId) {
        let session = self.calls.get_mut(id).and_then(|slot| slot.media.take());
        let Some(Session { node, request, .. }) = session else { return };
        let Some(last) = request.wish() else { return };
        let rev = Rev(last.rev.0 + 1);
        let release = Release { session: last.session, epoch: last.epoch, rev };
        self.media.send(&node, Request::Release(release));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::Frame;
    use crate::signaling::samples;
    use crate::sip::Message;
    use crate::views::{EndCause, EndedBy};
    use core::time::Duration;

    fn said(worker: &mut Worker) -> Vec<(String, String)> {
        let sent = worker.sockets.driver().sent.drain(..);
        let said = sent.map(|(flow, bytes)| {
            let what = match Message::parse(&bytes).expect("readable") {
                Message::Request(request) => request.method.to_string(),
                Message::Response(response) => response.status.0.to_string(),
            };
            (flow.remote.to_string(), what)
        });
        said.collect()
    }

    #[tokio::test]
    async fn a_duplicate_that_phones_know_of_goes_on_if_they_talk() {
        let mut worker = samples::worker();
        worker.adopt(samples::answered());
        said(&mut worker);
        let row = samples::save(7, 10);
        worker.handle_outcome(&row, CallOutcome::Duplicate(CallId(3)));
        assert_eq!(said(&mut worker), [], "nobody is told");
        let saves: Vec<&Save> = worker.committer.owed_saves().collect();
        assert_eq!(saves.last().map(|save| save.key), Some(CallId(7).0.to_be_bytes()));
        assert!(worker.calls.get(CallId(7)).is_some());
    }

    /// Both ended, or claimed, the same call: its phones were told of the end already.
    #[tokio::test]
    async fn who_has_the_call_by_now_hears_of_an_end_that_is_refused() {
        let mut worker = samples::worker();
        worker.adopt(samples::answered());
        let mut told = samples::peer(&mut worker);
        worker.input(CallId(7), Input::Hangup { reason: None });
        let now = worker.now + Duration::from_secs(40);
        worker.now = now;
        worker.wake_call(CallId(7));
        let end = worker.committer.owed_saves().find(|save| save.ended).cloned();
        worker.handle_outcome(&end.expect("an end"), CallOutcome::Fenced);
        let frames = core::iter::from_fn(|| told.try_recv().ok());
        let ended = frames.filter(|frame| matches!(frame, Frame::Peer(PeerFrame::Ended { .. })));
        assert_eq!(ended.count(), 1);
        assert!(worker.calls.get(CallId(7)).is_none());
        let mut other = samples::worker();
        other.adopt(samples::answered());
        samples::peer(&mut other);
        let (call, by, cause) = (CallId(7), EndedBy::Caller, EndCause::Bye);
        other.handle_peer(1, PeerFrame::Ended { call, by, cause });
        let state = other.calls.get(call).map(|slot| slot.call.state());
        assert_eq!(state, Some(CallState::Terminating));
    }

    #[tokio::test]
    async fn a_duplicate_that_rings_is_cancelled_behind_its_caller() {
        let mut worker = samples::worker();
        worker.adopt(samples::ringing());
        said(&mut worker);
        let row = samples::save(7, 10);
        worker.handle_outcome(&row, CallOutcome::Duplicate(CallId(3)));
        let said = said(&mut worker);
        assert!(!said.is_empty() && said.iter().all(|(_, what)| what == "CANCEL"), "{said:?}");
        assert_eq!(worker.committer.owed_saves().count(), 0, "it has no row");
        assert!(
            worker
                .calls
                .get(CallId(7))
                .is_some_and(|slot| slot.call.state() == CallState::Terminating)
        );
    }
}
