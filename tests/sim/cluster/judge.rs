//! What must be true, judged from what phones see, what the store holds and what media nodes do.

use super::world::{MS, S, World};
use crate::phone::{Line, State};
use holdfast::directory::Binding;
use holdfast::sip::{Message, Method};
use holdfast::views::{Cdr, Disposition};
use std::collections::BTreeMap;

/// Longer than an end needs to be told, or to be found out by the RTP that stays away.
const LONELY: u64 = 70 * S;
/// The same where the other phone vanished while it held: no RTP of it is awaited, two of our questions are not answered,
/// and who takes the call over begins to ask anew.
const LONELY_ON_HOLD: u64 = 155 * S;
/// Nodes' clocks are so far apart at most.
const SKEW: u64 = 100 * MS;
/// A phone's request is answered after so long at most, when processes only die and leave.
const LONGEST_WAIT: u64 = 2 * S;
/// Without a survivor calls wait for a lease, and what phones asked meanwhile for its next repeat.
const BEREFT: u64 = 20 * S;
/// An end, or an answer, is in the CDR as it was on the phones, within a transaction's time and an adoption: 60 s without
/// RTP, and a claim may be unheard twice.
const LONGEST_DELAY: u64 = 80 * S;
/// A store that takes no writes lets nobody adopt.
const LONGEST_OUTAGE: u64 = 15 * S;

impl World {
    /// CSeq of new requests on a dialog only rises, whoever sends them (a known branch is a repeat).
    pub fn judge_sequence(&mut self, node: usize, message: &Message) {
        let Message::Request(request) = message else { return };
        let branch = request.top_via().and_then(|via| via.branch().map(str::to_owned));
        let (Some(branch), Some(cseq)) = (branch, request.cseq()) else { return };
        if matches!(request.method, Method::Ack | Method::Cancel) || !self.branches.insert(branch) {
            return;
        }
        let call_id = request.call_id().unwrap_or_default().to_owned();
        let is_bye = request.method == Method::Bye;
        let known = self.sequences.entry(call_id.clone()).or_default();
        let (before, was_bye) = *known;
        if cseq.number > before {
            *known = (cseq.number, is_bye);
        }
        // BYE waits for no commit: who carries the call on may say its own under the same number.
        let is_repeat = cseq.number == before && was_bye && is_bye;
        if cseq.number <= before && !is_repeat {
            let number = cseq.number;
            self.complain(format!(
                "dialog {call_id}: node {node} sends {} with CSeq {number} after {before}",
                request.method
            ));
        }
    }

    /// What a phone was answered within its dialogs.
    pub fn judge_answers(&mut self, at: usize) {
        let answers = core::mem::take(&mut self.phones[at].answers);
        for answer in answers {
            let address = self.phones[at].address.clone();
            self.count.add("phones: requests answered");
            let is_bereft = self.is_bereft(self.now);
            let is_slow = answer.waited > LONGEST_WAIT && answer.method == "BYE";
            if is_slow && self.weather.is_mild && !is_bereft {
                let (method, waited) = (&answer.method, answer.waited / MS);
                self.complain(format!("phone {address} waited {waited} ms for a {method}"));
            }
            // A CANCEL that crossed the answer has nothing to cancel.
            let is_refused = answer.status == 481 && answer.method != "CANCEL";
            // Where nobody was there for a while a phone speaks in a dialog that its answer did not make yet.
            if is_refused && self.poison.is_none() && self.is_alive(&answer.call_id) {
                let (method, call_id) = (&answer.method, &answer.call_id);
                self.complain(format!(
                    "phone {address} got 481 to its {method} in the live dialog {call_id}"
                ));
            }
        }
    }

    /// Who answers is heard, though its repeats and the ACK may come to other nodes.
    pub fn judge_acknowledgements(&mut self, at: usize) {
        for call_id in core::mem::take(&mut self.phones[at].unacknowledged) {
            let is_heard = self.weather.is_mild && !self.is_bereft(self.now - LONGEST_DELAY);
            let line = self.line(&call_id);
            let call = line.map_or(0, |(at, line)| self.call_of(at, line));
            if is_heard && self.vanished_from(call).is_empty() {
                let address = &self.phones[at].address;
                self.complain(format!("phone {address} got no ACK of its answer in {call_id}"));
            }
        }
    }

    /// Then no node that was there long enough was left: calls wait for a lease.
    pub fn is_bereft(&self, at: u64) -> bool {
        self.bereft_at > 0 && at < self.bereft_at + BEREFT
    }

    /// Neither side of the call has said or heard its end.
    fn is_alive(&mut self, call_id: &str) -> bool {
        let Some((phone, line)) = self.line(call_id) else { return false };
        let call = self.call_of(phone, line);
        let lines = self.lines_of(call);
        // A branch that answered too late, and is not told of its end yet, never heard anybody.
        self.has_heard(phone, line) && self.are_together(&lines)
    }

    /// Two lines of one call are its two sides. Two that were called may both have answered: one of them, or both when
    /// the caller is gone, are told the end.
    pub fn are_together(&self, lines: &[(usize, usize)]) -> bool {
        let calls = |(at, line): (usize, usize)| self.phones[at].lines[line].caller;
        matches!(lines, [one, other] if calls(*one) != calls(*other))
    }

    fn line(&self, call_id: &str) -> Option<(usize, usize)> {
        self.phones.iter().enumerate().find_map(|(at, phone)| {
            let line = phone.lines.iter().position(|line| line.call_id == call_id)?;
            Some((at, line))
        })
    }

    /// Phones that are in that call.
    fn lines_of(&mut self, call: u128) -> Vec<(usize, usize)> {
        let lines = |at: usize| (0..self.phones[at].lines.len()).map(move |line| (at, line));
        let mut lines: Vec<(usize, usize)> = (0..self.phones.len()).flat_map(lines).collect();
        lines.retain(|(at, line)| self.phones[*at].lines[*line].state == State::Up);
        lines.retain(|(at, line)| self.call_of(*at, *line) == call);
        lines
    }

    /// Once a simulated second: who is in a call with nobody is told so before long.
    pub fn audit(&mut self) {
        if !self.weather.is_mild {
            return;
        }
        for at in 0..self.phones.len() {
            for line in 0..self.phones[at].lines.len() {
                let is_up = self.phones[at].lines[line].state == State::Up;
                if !is_up || self.touched[at] + LONELY > self.now {
                    continue;
                }
                let call = self.call_of(at, line);
                let asked_since = self.touched[at].max(self.hurt_at);
                let is_asked = asked_since + LONELY_ON_HOLD > self.now && self.is_held(call);
                if self.lines_of(call).len() < 2 && !is_asked {
                    let address = &self.phones[at].address;
                    self.complain(format!("phone {address} is alone in call {call}"));
                }
            }
        }
    }

    /// A phone of that call vanished, and had put the other on hold.
    fn is_held(&mut self, call: u128) -> bool {
        let vanished = self.vanished_from(call);
        vanished.into_iter().any(|(at, line)| self.phones[at].lines[line].holding)
    }

    fn vanished_from(&mut self, call: u128) -> Vec<(usize, usize)> {
        let vanished: Vec<String> = self.phones.iter().flat_map(|it| it.vanished.clone()).collect();
        let mut lines: Vec<_> = vanished.iter().filter_map(|call_id| self.line(call_id)).collect();
        lines.retain(|(at, line)| self.call_of(*at, *line) == call);
        lines
    }

    /// What must be true when all is over.
    pub fn verdict(&mut self) -> Result<(), String> {
        let mut wrong = core::mem::take(&mut self.complaints);
        if wrong.is_empty() {
            self.judge_ends(&mut wrong);
            self.judge_cdrs(&mut wrong);
            self.judge_registrations(&mut wrong);
            self.judge_digits(&mut wrong);
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
    }

    fn is_poison(&self, line: &Line) -> bool {
        let call = self.calls_by_tag.get(&line.remote_tag);
        self.poison.is_some_and(|poison| call == Some(&poison.0))
    }

    fn judge_ends(&self, wrong: &mut Vec<String>) {
        // A word of the end that was lost on the way is repeated by who said it: nobody does when that one dies too.
        let is_lost = self.weather.loss > 0 && !self.deaths.is_empty();
        // A call that only a dead node's journal held, or whose phone answers where nobody knows of the call.
        let all_died = self.poison.is_some();
        let may_expire = is_lost || self.died_in_outage || self.peers_were_cut || all_died;
        for phone in &self.phones {
            let left = |line: &&Line| match line.state {
                State::Over => line.expired && !may_expire,
                // The last words of a call that is only ended are said a few times, to whom they may reach.
                State::Up => !is_lost && !self.is_poison(line),
                State::Ringing | State::Calling => true,
            };
            for line in phone.lines.iter().filter(left) {
                let (address, call_id, state) = (&phone.address, &line.call_id, line.state);
                wrong.push(match line.expired {
                    true => format!("phone {address} rang until the INVITE of {call_id} expired"),
                    false => format!("phone {address} thinks call {call_id} is {state:?}"),
                });
            }
        }
        for (id, row) in self.store.calls.iter().filter(|(_, row)| row.ended_at.is_none()) {
            let owner = row.owner.0;
            wrong.push(format!("call {} of {owner} is not over in the store", id.0));
        }
        for (at, node) in self.nodes.iter().enumerate().filter(|(_, node)| !node.is_idle()) {
            let calls = node.process.iter().flat_map(|process| process.driven.calls());
            let calls: Vec<u128> = calls.into_iter().map(|call| call.id().0).collect();
            wrong.push(format!("node {at} still has calls {calls:?}, or its journal some"));
        }
        for (at, media) in self.medias.iter().enumerate() {
            // One whose owner's link is gone ends by itself when no RTP came for an hour.
            let has_owner = |link: &u64| self.links.get(link).is_some_and(|link| !link.broken);
            for session in media.node.owned_sessions(has_owner) {
                let session = session.0;
                wrong.push(format!("media {at} has the session {session} for ever"));
            }
        }
        for (host, ports) in self.hosts.iter().enumerate() {
            let left: Vec<u16> = ports.keys().copied().collect();
            let held = self.medias.iter().any(|media| media.node.sessions().next().is_some());
            if wrong.is_empty() && !held && !left.is_empty() {
                wrong.push(format!("ports {left:?} of host {host} are open for ever"));
            }
        }
    }

    fn judge_cdrs(&self, wrong: &mut Vec<String>) {
        let mut by_caller: BTreeMap<&str, Vec<&Cdr>> = BTreeMap::new();
        // A second call of an INVITE that the first answered is nobody's, and its CDR says so.
        let is_beside =
            |cdr: &&Cdr| cdr.reason.as_deref() == Some("its caller talks in another call");
        for cdr in self.store.cdrs.iter().filter(|cdr| !is_beside(cdr)) {
            let caller = cdr.legs.first().map(|leg| leg.call_id.as_str()).unwrap_or_default();
            by_caller.entry(caller).or_default().push(cdr);
        }
        let lines = self.phones.iter().flat_map(|phone| &phone.lines);
        for line in lines.filter(|line| line.caller) {
            let cdrs = by_caller.get(line.call_id.as_str()).map(Vec::as_slice).unwrap_or_default();
            match cdrs {
                // Nothing was promised to it.
                [] if !line.was_promised => {}
                [cdr] => self.judge_cdr(line, cdr, wrong),
                cdrs => {
                    let ids: Vec<&str> = cdrs.iter().map(|cdr| cdr.id.as_str()).collect();
                    wrong.push(format!("the call {} has the CDRs {ids:?}", line.call_id));
                }
            }
        }
    }

    /// A REGISTER that was acknowledged is known to the store, and to every node that lives.
    fn judge_registrations(&self, wrong: &mut Vec<String>) {
        for phone in &self.phones {
            let acknowledged = phone.registration.as_ref().and_then(|it| it.acknowledged);
            let Some(acknowledged) = acknowledged else { continue };
            let (address, contact) = (&phone.address, phone.contact_uri());
            let knows = |bindings: &[Binding]| {
                bindings.iter().any(|it| it.contact == contact && it.cseq >= acknowledged)
            };
            let stored = self.store.bindings.get(&phone.user).map(Vec::as_slice);
            if !knows(stored.unwrap_or_default()) {
                wrong.push(format!("the store lacks REGISTER {acknowledged} of phone {address}"));
            }
            for node in &self.nodes {
                let process = node.process.iter();
                if process.into_iter().any(|it| !knows(it.driven.bindings(&phone.user))) {
                    let at = node.number;
                    wrong.push(format!("node {at} lacks REGISTER {acknowledged} of {address}"));
                }
            }
        }
    }

    /// One call, one true CDR.
    fn judge_cdr(&self, line: &Line, cdr: &Cdr, wrong: &mut Vec<String>) {
        let call_id = &line.call_id;
        let answered = cdr.disposition == Disposition::Answered;
        if line.answered_at.is_some() && !answered {
            wrong.push(format!("{call_id}: the caller was answered, the CDR says {cdr:?}"));
        }
        if answered != cdr.answered_at.is_some() {
            wrong.push(format!("{call_id}: answered_at and disposition differ: {cdr:?}"));
        }
        let at = |time: holdfast::time::Timestamp| time.as_micros();
        let (created, ended) = (at(cdr.created_at.0), at(cdr.ended_at.0));
        if cdr.duration_ms.abs_diff(ended.saturating_sub(created) / 1_000) > 1 {
            wrong.push(format!("{call_id}: duration {} is not end - begin", cdr.duration_ms));
        }
        if let (Some(told), Some(heard)) = (cdr.answered_at, line.answered_at) {
            let told = at(told.0);
            if told > heard + SKEW || told + LONGEST_DELAY < heard {
                wrong.push(format!(
                    "{call_id}: answered at {heard} on the phone, {told} in the CDR"
                ));
            }
        }
        if let Some(over) = line.over_at.filter(|_| answered) {
            let is_bereft = self.is_bereft(over);
            // The end is told before it is saved: who dies in between leaves it to the RTP that stays away.
            let died = self.deaths.iter().any(|at| over < *at + S && *at < over + 2 * S);
            let is_mild = self.weather.is_mild && !is_bereft && !died;
            let delay = match is_mild {
                true => 3 * S,
                false if self.died_in_outage => LONGEST_DELAY + LONGEST_OUTAGE,
                false => LONGEST_DELAY,
            };
            if ended > over + delay + SKEW {
                let late = (ended - over) / MS;
                wrong
                    .push(format!("{call_id}: ended {late} ms later in the CDR than on the phone"));
            }
        }
    }
}
