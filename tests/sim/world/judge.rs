//! What must be true at every moment, judged from what phones see and the store holds.

use super::World;
use crate::phone::State;
use holdfast::call::{Call, Place};
use holdfast::ids::{CallId, Epoch, LegId};
use holdfast::sip::{Message, Method};
use holdfast::views::Disposition;

impl World {
    /// CSeq of new requests on a dialog only rises (a known branch is a repeat; ACK and CANCEL name an older number).
    pub(super) fn judge_sequence(&mut self, message: &Message) {
        let Message::Request(request) = message else { return };
        let branch = request.top_via().and_then(|via| via.branch().map(str::to_owned));
        let (Some(branch), Some(cseq)) = (branch, request.cseq()) else { return };
        if matches!(request.method, Method::Ack | Method::Cancel) || !self.branches.insert(branch) {
            return;
        }
        let call_id = request.call_id().unwrap_or_default().to_owned();
        let known = self.sequences.entry(call_id.clone()).or_default();
        if cseq.number <= *known {
            self.complaints.push(format!("dialog {call_id}: CSeq {} after {known}", cseq.number));
        }
        *known = cseq.number;
    }

    /// What is promised to a phone is in the store: the call, before its INVITE or 100; its answer, before the 200.
    pub(super) fn judge_promise(&mut self, id: CallId, message: &Message) {
        let now = self.time();
        let Some(slot) = self.slots.get_mut(&id) else { return };
        let (what, initial) = match message {
            Message::Request(request) => (request.method.to_string(), false),
            Message::Response(response) => {
                let cseq = response.cseq();
                let invite = cseq.as_ref().is_some_and(|cseq| cseq.method == Method::Invite);
                let success = response.status.is_success() && invite;
                let from_caller = self.calls.get(&id).map(String::as_str) == response.call_id();
                let first = cseq.is_some_and(|cseq| cseq.number == 1) && from_caller;
                (response.status.0.to_string(), success && first)
            }
        };
        if matches!(what.as_str(), "INVITE" | "100") && slot.committed.0 == 0 {
            self.complaints.push(format!("call {id}: {what} left before the call was stored"));
        } else if initial && !slot.answer_stored {
            let settings = self.settings.clone();
            let place = Place::as_before();
            let stored = Call::restore(settings, &slot.stored, Epoch(1), now, &place);
            slot.answer_stored = stored.is_some_and(|call| call.view(now).answered_at.is_some());
            if !slot.answer_stored {
                self.complaints.push(format!("call {id}: 200 left before its answer was stored"));
            }
        }
    }

    /// Once a simulated second: calls whose phones are both at rest are wired rightly.
    pub(super) fn audit(&mut self) {
        if self.now < self.next_audit {
            return;
        }
        self.next_audit = self.now + 1_000_000;
        if self.in_flight() {
            return;
        }
        let views: Vec<_> = self.slots.values().map(|slot| slot.call.view(self.time())).collect();
        for view in views {
            if view.answered_at.is_none() || view.state != holdfast::views::CallState::Confirmed {
                continue;
            }
            let mut ends = Vec::new();
            for leg in &view.legs {
                for (at, phone) in self.phones.iter().enumerate() {
                    if let Some(line) =
                        phone.lines.iter().position(|line| line.call_id == leg.call_id)
                        && leg.state == "confirmed"
                    {
                        ends.push((leg.id, at, line));
                    }
                }
            }
            let resting = ends.len() == 2
                && ends.iter().all(|(_, phone, line)| {
                    let phone = &self.phones[*phone];
                    phone.lines[*line].state == State::Up && phone.rests(*line)
                });
            if resting {
                self.count.add("audit: calls at rest");
                for (leg, phone, line) in &ends {
                    let phone = &self.phones[*phone];
                    let session = view.media.session_id.as_deref().unwrap_or_default();
                    let told = phone.remote_rtp(*line);
                    let voice = phone.lines[*line].local;
                    if let Err(wrong) = self.media.check(session, LegId(*leg), voice, told) {
                        self.complaints.push(format!("call {} leg {leg}: {wrong}", view.id));
                    }
                }
            }
        }
    }

    /// Some message is still on its way.
    fn in_flight(&self) -> bool {
        !self.queue.is_empty()
    }

    /// What must be true when all is over.
    pub fn verdict(&mut self) -> Result<(), String> {
        let mut wrong = core::mem::take(&mut self.complaints);
        for phone in &self.phones {
            for line in &phone.lines {
                if line.state != State::Over || line.expired {
                    let rang = if line.expired { " (it rang until it expired)" } else { "" };
                    wrong.push(format!(
                        "phone {} thinks call {} is {:?}{rang}",
                        phone.address, line.call_id, line.state
                    ));
                }
            }
        }
        for (id, slot) in &self.slots {
            wrong.push(format!("call {id} is not over: {:?}", slot.call.next_timeout()));
        }
        wrong.extend(self.media.leaks());
        for (id, call_id) in &self.calls {
            let cdrs = self.cdrs.get(id).map(Vec::as_slice).unwrap_or_default();
            let [cdr] = cdrs else {
                wrong.push(format!("call {id} has {} CDRs", cdrs.len()));
                continue;
            };
            let caller = self
                .phones
                .iter()
                .flat_map(|phone| &phone.lines)
                .find(|line| line.caller && line.call_id == *call_id);
            let heard_answer = caller.is_some_and(|line| line.answered_at.is_some());
            let answered = cdr.disposition == Disposition::Answered;
            if heard_answer && !answered {
                wrong.push(format!("call {id}: the caller was answered, the CDR says {cdr:?}"));
            }
            if answered != cdr.answered_at.is_some() {
                wrong.push(format!("call {id}: answered_at and disposition differ: {cdr:?}"));
            }
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
    }
}
