//! The phone as a caller and as one who asks within a dialog: INVITE, CANCEL, BYE, INFO, and what answers mean to it.

use super::{Act, Answered, Kind, Line, Phone, State, Voice};
use bytes::Bytes;
use holdfast::sip::{HeaderName, Method, NameAddr, Request, Response, Uri, digest};

impl Phone {
    /// Calls; the plan says what follows, in microseconds from now.
    pub fn call(&mut self, callee: &str, late: bool, plan: Vec<(u64, Act)>, now: u64) {
        let call_id = self.token("call-");
        let tag = self.token("tag");
        let uri = Uri::parse(&format!("sip:{callee}@pbx")).expect("URI");
        let mut invite = Request::new(Method::Invite, uri);
        let branch = self.token("z9hG4bK");
        let via = self.via(&branch);
        let local_uri = format!("sip:{}@pbx", self.user);
        let fields = &mut invite.headers;
        fields.push(HeaderName::Via, via);
        fields.push(HeaderName::MaxForwards, "70");
        fields.push(HeaderName::From, format!("<{local_uri}>;tag={tag}"));
        fields.push(HeaderName::To, format!("<sip:{callee}@pbx>"));
        fields.push(HeaderName::CallId, call_id.as_str());
        fields.push(HeaderName::CSeq, "1 INVITE");
        fields.push(HeaderName::Contact, self.contact());
        if !late {
            fields.push(HeaderName::ContentType, "application/sdp");
            invite.body = Bytes::from(self.sdp(1, self.voice()));
        }
        let credentials = self.challenge.as_ref().and_then(|(challenge, password)| {
            let uri = invite.uri.as_str();
            let (user, password) = (&self.user, *password);
            digest::respond(challenge, &Method::Invite, uri, user, password, "cnonce", 1)
        });
        if let Some(credentials) = credentials {
            invite.headers.push(HeaderName::Authorization, credentials);
        }
        let bytes = invite.to_bytes();
        self.outbox.push(bytes.clone());
        self.wait(bytes, Kind::Invite, &call_id, 1, now);
        self.lines.push(Line {
            call_id,
            caller: true,
            state: State::Calling,
            local_tag: tag,
            remote_tag: String::new(),
            local_uri,
            remote_uri: format!("sip:{callee}@pbx"),
            target: format!("sip:{callee}@pbx"),
            local_seq: 1,
            remote_seq: 0,
            version: 1,
            is_patient: false,
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
            invite: Some(invite),
            incoming: None,
            plan: plan.into_iter().map(|(after, act)| (now + after, act)).collect(),
            reinvite_open: false,
            reinvite_act: None,
            asked: None,
            late,
            late_incoming: None,
            acks: Vec::new(),
            invites_seen: Vec::new(),
            invite_branch: String::new(),
            last_2xx: None,
            last_update: None,
        });
    }

    pub(super) fn send_bye(&mut self, at: usize, now: u64) {
        if self.lines[at].state == State::Over || self.lines[at].remote_tag.is_empty() {
            return;
        }
        let bye = self.dialog_request(at, Method::Bye);
        let line = &mut self.lines[at];
        line.state = State::Over;
        line.over_at = Some(now);
        let (call_id, cseq) = (line.call_id.clone(), line.local_seq);
        self.pending.retain(|pending| {
            pending.call_id != call_id
                || !matches!(pending.kind, Kind::Invite | Kind::InviteProceeding)
        });
        self.outbox.push(bye.to_bytes());
        self.wait(bye.to_bytes(), Kind::Request, &call_id, cseq, now);
    }

    pub(super) fn info(&mut self, at: usize, now: u64) {
        let mut info = self.dialog_request(at, Method::Info);
        info.headers.push(HeaderName::ContentType, "application/dtmf-relay");
        info.body = Bytes::from_static(b"Signal=5\r\nDuration=160\r\n");
        let (call_id, cseq) = (self.lines[at].call_id.clone(), self.lines[at].local_seq);
        self.outbox.push(info.to_bytes());
        self.wait(info.to_bytes(), Kind::Request, &call_id, cseq, now);
    }

    pub(super) fn reinvite(&mut self, at: usize, act: &Act, now: u64) {
        // RFC 3261 §14.1: not while another INVITE is open, nor while one of theirs waits for its ACK.
        let line = &self.lines[at];
        let owed = self
            .pending
            .iter()
            .any(|pending| pending.call_id == line.call_id && pending.kind == Kind::Success);
        if owed || line.reinvite_open || line.asked.is_some() {
            self.count.add("phones: re-INVITE not begun for another");
            return;
        }
        let mut voice = Voice { zero: false, ..line.local };
        match act {
            Act::Hold(0) => (voice.sends, voice.receives) = (true, false),
            Act::Hold(1) => (voice.sends, voice.receives) = (false, false),
            Act::Hold(_) => voice = Voice { sends: true, receives: false, zero: true, ..voice },
            Act::Resume | Act::LateReinvite => (voice.sends, voice.receives) = (true, true),
            Act::MovePort => voice.port += 2,
            // Refresh; the others are no re-INVITE.
            Act::Refresh
            | Act::Ring
            | Act::Final(_)
            | Act::Expire
            | Act::Cancel
            | Act::Bye
            | Act::Info
            | Act::CancelReinvite
            | Act::AnswerReinvite
            | Act::Vanish => voice = line.local,
        }
        self.count.add(format!("phones: re-INVITE {act:?}"));
        let mut invite = self.dialog_request(at, Method::Invite);
        let late = matches!(act, Act::LateReinvite);
        if !late {
            self.lines[at].version += u32::from(!matches!(act, Act::Refresh));
            invite.headers.push(HeaderName::ContentType, "application/sdp");
            invite.body = Bytes::from(self.sdp(self.lines[at].version, voice));
        }
        let line = &mut self.lines[at];
        line.offered = Some(voice);
        line.late = late;
        line.reinvite_open = true;
        line.reinvite_act = Some(act.clone());
        line.invite = Some(invite.clone());
        let (call_id, cseq) = (line.call_id.clone(), line.local_seq);
        self.outbox.push(invite.to_bytes());
        self.wait(invite.to_bytes(), Kind::Invite, &call_id, cseq, now);
    }

    pub(super) fn cancel(&mut self, at: usize, now: u64) {
        let line = &self.lines[at];
        let Some(invite) = line.invite.clone() else { return };
        let proceeding = self.pending.iter().any(|pending| {
            pending.call_id == line.call_id && pending.kind == Kind::InviteProceeding
        });
        if !proceeding {
            // Only after a provisional: try again soon.
            let again = if line.reinvite_open { Act::CancelReinvite } else { Act::Cancel };
            self.lines[at].schedule(now + 200_000, again);
            return;
        }
        let mut cancel = Request::new(Method::Cancel, invite.uri.clone());
        for name in [HeaderName::Via, HeaderName::From, HeaderName::To, HeaderName::CallId] {
            cancel.headers.push(name.clone(), invite.headers.get(&name).expect("copied"));
        }
        let number = invite.cseq().map_or(0, |cseq| cseq.number);
        self.count.add(if line.reinvite_open {
            "phones: re-INVITE cancelled"
        } else {
            "phones: cancelled"
        });
        cancel.headers.push(HeaderName::CSeq, format!("{number} CANCEL"));
        cancel.headers.push(HeaderName::MaxForwards, "70");
        let call_id = line.call_id.clone();
        self.outbox.push(cancel.to_bytes());
        self.wait(cancel.to_bytes(), Kind::Request, &call_id, number, now);
    }

    pub(super) fn handle_response(&mut self, response: &Response, now: u64) {
        let Some(cseq) = response.cseq() else { return };
        let call_id = response.call_id().unwrap_or_default().to_owned();
        if cseq.method == Method::Register {
            return self.registered(response, cseq.number, now);
        }
        let Some(at) = self.lines.iter().position(|line| line.call_id == call_id) else { return };
        if cseq.method != Method::Invite {
            if response.status.is_final() {
                self.note_answer(&call_id, &cseq.method, cseq.number, response.status.0, now);
                self.settle(&call_id, cseq.number, &[Kind::Request]);
            }
            return;
        }
        if response.status.is_provisional() {
            self.handle_provisional(at, response, cseq.number);
        } else if response.status.is_success() {
            self.handle_success(at, response, cseq.number, now);
        } else {
            self.handle_failure(at, response, cseq.number, now);
        }
    }

    fn note_answer(&mut self, call_id: &str, method: &Method, cseq: u32, status: u16, now: u64) {
        let asked = self.pending.iter().find(|pending| {
            pending.call_id == call_id && pending.cseq == cseq && pending.kind == Kind::Request
        });
        let Some(begun) = asked.map(|pending| pending.begun) else { return };
        let (call_id, method) = (call_id.to_owned(), method.to_string());
        self.answers.push(Answered { call_id, method, status, waited: now - begun });
    }

    fn handle_provisional(&mut self, at: usize, response: &Response, cseq: u32) {
        let call_id = self.lines[at].call_id.clone();
        self.lines[at].was_promised = true;
        for pending in &mut self.pending {
            if pending.call_id == call_id && pending.cseq == cseq && pending.kind == Kind::Invite {
                pending.kind = Kind::InviteProceeding;
                pending.give_up = pending.due + 300_000_000;
                pending.due = pending.give_up;
            }
        }
        if response.status.0 > 100 && self.lines[at].state == State::Calling {
            self.lines[at].state = State::Ringing;
        }
        if response.status.0 > 100 {
            self.check_tag(at, response);
            self.check_answer(at, response);
        }
    }

    /// The caller sees one To tag. Of several early dialogs that of the 2xx is confirmed (RFC 3261 §13.2.2.4).
    fn check_tag(&mut self, at: usize, response: &Response) {
        let tag = response.to().and_then(|to| to.tag()).unwrap_or_default();
        if tag.is_empty() {
            return self.complain("18x or 2xx without To tag");
        }
        let line = &mut self.lines[at];
        let is_first = line.remote_tag.is_empty();
        let differs = line.remote_tag != tag;
        if is_first || response.status.is_success() && line.state != State::Up {
            line.remote_tag = tag.into_owned();
        }
        if differs && !is_first {
            let call_id = line.call_id.clone();
            self.complain(format!("a second To tag in {call_id}"));
        }
    }

    /// An answer once given is repeated byte for byte.
    fn check_answer(&mut self, at: usize, response: &Response) {
        if response.body.is_empty() || self.lines[at].local_seq > 1 || self.lines[at].late {
            return;
        }
        let text = String::from_utf8_lossy(&response.body).into_owned();
        match &self.lines[at].answer {
            None => self.lines[at].answer = Some(text),
            Some(known) if *known != text => {
                let known = known.clone();
                self.complain(format!("another answer:\n{known}\nthen\n{text}"));
            }
            Some(_) => {}
        }
    }

    fn handle_success(&mut self, at: usize, response: &Response, cseq: u32, now: u64) {
        let call_id = self.lines[at].call_id.clone();
        if let Some((_, bytes)) = self.lines[at].acks.iter().find(|(seq, _)| *seq == cseq) {
            self.outbox.push(bytes.clone());
            return;
        }
        self.settle(&call_id, cseq, &[Kind::Invite, Kind::InviteProceeding]);
        self.check_tag(at, response);
        if cseq == 1 {
            self.check_answer(at, response);
        }
        self.take_sdp(at, &response.body);
        let contact = response.contact().map(|contact: NameAddr| contact.uri.as_str().to_owned());
        if response.body.is_empty() {
            self.complain("2xx to INVITE without SDP");
        }
        let offer = String::from_utf8_lossy(&response.body).into_owned();
        let line = &mut self.lines[at];
        line.reinvite_act = None;
        let offered = line.offered.take();
        if let Some(voice) = offered {
            line.holding = !voice.receives;
            line.local = voice;
        }
        let ack_sdp = line.late.then(|| {
            let voice = self.reply(at, &offer);
            let line = &mut self.lines[at];
            line.version += 1;
            line.local = voice;
            let version = line.version;
            self.sdp(version, voice)
        });
        let branch = self.token("z9hG4bK");
        let via = self.via(&branch);
        let line = &mut self.lines[at];
        if let Some(contact) = contact {
            line.target = contact;
        }
        let mut ack = Request::new(Method::Ack, Uri::parse(&line.target).expect("target"));
        let fields = &mut ack.headers;
        fields.push(HeaderName::Via, via);
        fields.push(HeaderName::MaxForwards, "70");
        fields.push(HeaderName::From, format!("<{}>;tag={}", line.local_uri, line.local_tag));
        fields.push(HeaderName::To, format!("<{}>;tag={}", line.remote_uri, line.remote_tag));
        fields.push(HeaderName::CallId, line.call_id.as_str());
        fields.push(HeaderName::CSeq, format!("{cseq} ACK"));
        if let Some(sdp) = ack_sdp {
            fields.push(HeaderName::ContentType, "application/sdp");
            ack.body = Bytes::from(sdp);
        }
        let bytes = ack.to_bytes();
        line.acks.push((cseq, bytes.clone()));
        if line.reinvite_open {
            line.reinvite_open = false;
            self.count.add("phones: re-INVITE answered 200");
        } else if cseq == 1 && matches!(line.state, State::Calling | State::Ringing) {
            line.state = State::Up;
            line.answered_at = Some(now);
            line.was_promised = true;
            line.final_status = Some(200);
            line.plan_to_end(now);
        }
        self.outbox.push(bytes);
    }

    fn handle_failure(&mut self, at: usize, response: &Response, cseq: u32, now: u64) {
        let call_id = self.lines[at].call_id.clone();
        self.settle(&call_id, cseq, &[Kind::Invite, Kind::InviteProceeding]);
        let line = &mut self.lines[at];
        let Some(invite) = line.invite.clone() else { return };
        if invite.cseq().map(|cseq| cseq.number) != Some(cseq) {
            return;
        }
        let mut ack = Request::new(Method::Ack, invite.uri.clone());
        for name in [HeaderName::Via, HeaderName::From, HeaderName::CallId] {
            ack.headers.push(name.clone(), invite.headers.get(&name).expect("copied"));
        }
        ack.headers.push(HeaderName::To, response.headers.get(&HeaderName::To).expect("To"));
        ack.headers.push(HeaderName::CSeq, format!("{cseq} ACK"));
        ack.headers.push(HeaderName::MaxForwards, "70");
        self.outbox.push(ack.to_bytes());
        let line = &mut self.lines[at];
        if cseq == 1 && line.caller {
            line.state = State::Over;
            line.final_status = Some(response.status.0);
        } else if line.reinvite_open {
            line.reinvite_open = false;
            line.offered = None;
            let act = line.reinvite_act.take().filter(|_| response.status.0 == 491);
            self.count.add(format!("phones: re-INVITE answered {}", response.status.0));
            if let Some(act) = act {
                // §14.1: 2.1-4 s for who made the Call-ID, 0-2 s for the other.
                self.counter += 1;
                let least = if line.caller { 2_100_000 } else { 0 };
                line.schedule(now + least + self.counter * 370_007 % 1_900_000, act);
            }
            if matches!(response.status.0, 408 | 481) {
                line.state = State::Over;
                line.over_at = Some(now);
                let (call_id, status) = (call_id, response.status.0);
                let method = Method::Invite.to_string();
                self.answers.push(Answered { call_id, method, status, waited: 0 });
            }
        }
    }
}
