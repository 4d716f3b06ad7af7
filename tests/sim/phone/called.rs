//! The phone as one who is called and asked: what it answers to INVITE, re-INVITE, ACK, CANCEL, BYE.

use super::{Act, Kind, Line, Phone, State, branch_of};
use holdfast::sip::{HeaderName, Method, Request};
use std::collections::VecDeque;

impl Phone {
    pub(super) fn ring(&mut self, at: usize) {
        let line = &self.lines[at];
        let Some(request) = line.incoming.clone() else { return };
        let tag = line.local_tag.clone();
        let early = self.manners.early_media && !request.body.is_empty();
        let sdp = early.then(|| self.sdp(1, self.voice()));
        self.respond(&request, if early { 183 } else { 180 }, &tag, sdp);
    }

    pub(super) fn answer(&mut self, at: usize, status: u16, now: u64) {
        let line = &self.lines[at];
        let Some(request) = line.incoming.clone() else { return };
        let (tag, call_id) = (line.local_tag.clone(), line.call_id.clone());
        let cseq = request.cseq().map_or(0, |cseq| cseq.number);
        let sdp = (status < 300).then(|| self.sdp(1, self.voice()));
        let bytes = self.respond(&request, status, &tag, sdp);
        let line = &mut self.lines[at];
        line.incoming = None;
        if status < 300 {
            line.state = State::Up;
            line.answered_at = Some(now);
            line.last_2xx = Some((cseq, bytes.clone()));
            let plan = self.when_answered.clone();
            let patient = self.manners.patient;
            let stays = |act: &Act| !patient || !matches!(act, Act::Bye);
            for (after, act) in plan.into_iter().filter(|(_, act)| stays(act)) {
                line.schedule(now + after, act);
            }
            line.plan_to_end(now);
            self.wait(bytes, Kind::Success, &call_id, cseq, now);
        } else {
            line.state = State::Over;
            self.wait(bytes, Kind::Failure, &call_id, cseq, now);
        }
    }

    pub(super) fn handle_request(&mut self, request: &Request, now: u64) {
        let call_id = request.call_id().unwrap_or_default().to_owned();
        let cseq = request.cseq().map_or(0, |cseq| cseq.number);
        let at = self.lines.iter().position(|line| line.call_id == call_id);
        match (&request.method, at) {
            (Method::Invite, None) => self.handle_invite(request, now),
            (Method::Invite, Some(at)) if self.is_merged(at, request, cseq) => {
                self.complain("a merged INVITE");
                let tag = self.token("tag");
                self.respond(request, 482, &tag, None);
            }
            (Method::Invite, Some(at)) => self.handle_reinvite(at, request, cseq, now),
            (Method::Ack, Some(at)) => self.handle_ack(at, request, cseq),
            (Method::Cancel, Some(at)) => self.handle_cancel(at, request, cseq, now),
            (Method::Bye, Some(at)) => {
                let in_order = self.check_seq(at, cseq);
                let tag = self.lines[at].local_tag.clone();
                self.respond(request, if in_order { 200 } else { 500 }, &tag, None);
                self.lines[at].state = State::Over;
                self.lines[at].over_at.get_or_insert(now);
                self.lines[at].reinvite_open = false;
                if let Some(invite) = self.lines[at].asked.clone() {
                    self.refuse_asked(at, &invite, now);
                }
                self.pending.retain(|pending| {
                    pending.call_id != call_id
                        || !matches!(
                            pending.kind,
                            Kind::Invite | Kind::InviteProceeding | Kind::Success
                        )
                });
            }
            (Method::Options | Method::Info, Some(at)) => {
                // A caller that waits has a dialog as soon as it heard a provisional with a tag.
                let waits = matches!(self.lines[at].state, State::Calling | State::Ringing);
                let up = self.lines[at].state == State::Up || waits;
                self.check_seq(at, cseq);
                let tag = self.lines[at].local_tag.clone();
                self.respond(request, if up { 200 } else { 481 }, &tag, None);
            }
            (Method::Update, Some(at)) => self.handle_update(at, request, cseq),
            (Method::Ack, None) => {}
            (_, at) => {
                let tag = at.map_or("none".to_owned(), |at| self.lines[at].local_tag.clone());
                self.respond(request, 481, &tag, None);
            }
        }
    }

    fn handle_invite(&mut self, request: &Request, now: u64) {
        let tag = self.token("tag");
        let from = request.from().expect("From");
        let to = request.to().expect("To");
        let target = request.contact().map(|contact| contact.uri.as_str().to_owned());
        if request.to().and_then(|to| to.tag()).is_some() {
            self.respond(request, 481, &tag, None);
            return;
        }
        let mut plan = VecDeque::new();
        if let Some(after) = self.manners.ring_after {
            plan.push_back((now + after, Act::Ring));
        }
        if let Some((status, after)) = self.manners.answer {
            plan.push_back((now + after, Act::Final(status)));
        }
        let expires = request.headers.get(&HeaderName::Expires).and_then(|text| text.parse().ok());
        if let Some(seconds) = expires {
            plan.push_back((now + 1_000_000_u64.saturating_mul(seconds), Act::Expire));
        }
        let cseq = request.cseq().map_or(0, |cseq| cseq.number);
        self.lines.push(Line {
            call_id: request.call_id().unwrap_or_default().to_owned(),
            caller: false,
            state: State::Ringing,
            local_tag: tag.clone(),
            remote_tag: from.tag().unwrap_or_default().into_owned(),
            local_uri: to.uri.as_str().to_owned(),
            remote_uri: from.uri.as_str().to_owned(),
            target: target.unwrap_or_default(),
            local_seq: 0,
            remote_seq: cseq,
            version: 1,
            is_patient: self.manners.patient,
            local: self.voice(),
            offered: None,
            holding: false,
            remote_version: 0,
            remote_sdp: String::new(),
            first_remote: None,
            answer: None,
            answered_at: None,
            was_promised: false,
            over_at: None,
            expired: false,
            final_status: None,
            invite: None,
            incoming: Some(request.clone()),
            plan,
            reinvite_open: false,
            reinvite_act: None,
            asked: None,
            late: false,
            late_incoming: request.body.is_empty().then_some(cseq),
            acks: Vec::new(),
            invites_seen: vec![cseq],
            invite_branch: branch_of(request),
            last_2xx: None,
            last_update: None,
        });
        let at = self.lines.len() - 1;
        self.take_sdp(at, &request.body);
        self.respond(request, 100, &tag, None);
    }

    /// The INVITE that called it, by another way (RFC 3261 §8.2.2.2): a call has one branch to a phone.
    fn is_merged(&self, at: usize, request: &Request, cseq: u32) -> bool {
        let line = &self.lines[at];
        let is_initial = request.to().is_none_or(|to| to.tag().is_none());
        is_initial && line.invites_seen.contains(&cseq) && line.invite_branch != branch_of(request)
    }

    fn handle_reinvite(&mut self, at: usize, request: &Request, cseq: u32, now: u64) {
        let line = &self.lines[at];
        if self.manners.mute_to_reinvite && line.state == State::Up {
            self.count.add("phones: re-INVITE not answered at all");
            return;
        }
        let tag = line.local_tag.clone();
        if let Some((seq, bytes)) = &line.last_2xx
            && *seq == cseq
        {
            self.outbox.push(bytes.clone());
            return;
        }
        if line.invites_seen.contains(&cseq) {
            if line.state == State::Ringing {
                self.respond(request, 180, &tag, None);
            }
            return; // a repeat, perhaps late
        }
        self.lines[at].invites_seen.push(cseq);
        if !self.check_seq(at, cseq) {
            // The network turned two requests round; that the switch counts up is judged where it sends.
            self.respond(request, 500, &tag, None);
            return;
        }
        let line = &self.lines[at];
        let call_id = line.call_id.clone();
        let status = if line.state != State::Up {
            481
        } else if line.asked.is_some() {
            500
        } else if line.reinvite_open {
            491
        } else {
            self.manners.refuse_reinvite.unwrap_or(200)
        };
        if status != 200 {
            let bytes = self.respond(request, status, &tag, None);
            self.wait(bytes, Kind::Failure, &call_id, cseq, now);
            return;
        }
        self.lines[at].asked = Some(request.clone());
        if let Some(after) = self.manners.think_about_reinvite {
            self.respond(request, 100, &tag, None);
            self.lines[at].schedule(now + after, Act::AnswerReinvite);
        } else {
            self.answer_reinvite(at, now);
        }
    }

    /// RFC 3311.
    fn handle_update(&mut self, at: usize, request: &Request, cseq: u32) {
        let line = &self.lines[at];
        let (tag, last) = (line.local_tag.clone(), line.last_update.clone());
        if let Some((_, bytes)) = last.filter(|(seq, _)| *seq == cseq) {
            return self.outbox.push(bytes);
        }
        let in_order = self.check_seq(at, cseq);
        let line = &self.lines[at];
        let status = match self.manners.refuse_update {
            _ if line.state != State::Up => 481,
            _ if !in_order => 500,
            _ if line.reinvite_open || line.asked.is_some() => 491,
            Some(status) => status,
            None => 200,
        };
        if status != 200 {
            let bytes = self.respond(request, status, &tag, None);
            self.lines[at].last_update = Some((cseq, bytes));
            return;
        }
        self.take_sdp(at, &request.body);
        let offered = String::from_utf8_lossy(&request.body).into_owned();
        let voice = self.reply(at, &offered);
        let line = &mut self.lines[at];
        line.version += 1;
        line.local = voice;
        let version = line.version;
        let sdp = self.sdp(version, voice);
        self.count.add("phones: UPDATE answered");
        let bytes = self.respond(request, 200, &tag, Some(sdp));
        self.lines[at].last_update = Some((cseq, bytes));
    }

    pub(super) fn answer_reinvite(&mut self, at: usize, now: u64) {
        let Some(request) = self.lines[at].asked.take() else { return };
        if self.lines[at].state != State::Up {
            return self.refuse_asked(at, &request, now);
        }
        self.take_sdp(at, &request.body);
        let cseq = request.cseq().map_or(0, |cseq| cseq.number);
        let offered = String::from_utf8_lossy(&request.body).into_owned();
        let voice = self.reply(at, &offered);
        let line = &mut self.lines[at];
        line.version += 1;
        line.late_incoming = request.body.is_empty().then_some(cseq);
        line.local = voice;
        if let Some(contact) = request.contact() {
            line.target = contact.uri.as_str().to_owned();
        }
        let (tag, call_id, version) = (line.local_tag.clone(), line.call_id.clone(), line.version);
        let sdp = self.sdp(version, voice);
        let bytes = self.respond(&request, 200, &tag, Some(sdp));
        self.count.add("phones: re-INVITE of the switch answered");
        self.lines[at].last_2xx = Some((cseq, bytes.clone()));
        self.wait(bytes, Kind::Success, &call_id, cseq, now);
    }

    /// The re-INVITE it thought about was cancelled, or the dialog ended meanwhile.
    fn refuse_asked(&mut self, at: usize, invite: &Request, now: u64) {
        let line = &mut self.lines[at];
        line.asked = None;
        let (tag, call_id) = (line.local_tag.clone(), line.call_id.clone());
        let cseq = invite.cseq().map_or(0, |cseq| cseq.number);
        let bytes = self.respond(invite, 487, &tag, None);
        self.wait(bytes, Kind::Failure, &call_id, cseq, now);
    }

    fn handle_ack(&mut self, at: usize, request: &Request, cseq: u32) {
        let call_id = self.lines[at].call_id.clone();
        let was_success = self.pending.iter().any(|pending| {
            pending.call_id == call_id && pending.cseq == cseq && pending.kind == Kind::Success
        });
        self.settle(&call_id, cseq, &[Kind::Success, Kind::Failure]);
        if was_success
            && self.lines[at].late_incoming == Some(cseq)
            && self.lines[at].state == State::Up
            && request.body.is_empty()
        {
            self.complain("ACK of a late offer without SDP");
        }
        let accepted = self.lines[at].last_2xx.as_ref().map(|(seq, _)| *seq);
        if was_success && accepted == Some(cseq) {
            self.take_sdp(at, &request.body);
        }
    }

    fn handle_cancel(&mut self, at: usize, request: &Request, cseq: u32, now: u64) {
        let line = &self.lines[at];
        let tag = line.local_tag.clone();
        self.respond(request, 200, &tag, None);
        let line = &self.lines[at];
        let initial = line.incoming.clone().filter(|invite| {
            line.state == State::Ringing && invite.cseq().map(|cseq| cseq.number) == Some(cseq)
        });
        let asked = self.lines[at].asked.clone();
        let asked = asked.filter(|invite| invite.cseq().map(|cseq| cseq.number) == Some(cseq));
        if let Some(invite) = asked {
            self.refuse_asked(at, &invite, now);
        } else if let Some(invite) = initial {
            let bytes = self.respond(&invite, 487, &tag, None);
            let line = &mut self.lines[at];
            line.state = State::Over;
            line.incoming = None;
            let call_id = line.call_id.clone();
            self.wait(bytes, Kind::Failure, &call_id, cseq, now);
        }
    }
}
