//! A phone of the simulator: one UA over UDP with its own transactions, strict about what RFC 3261 and 3264 promise it.
//! It shares no transaction or dialog code with the switch.

use crate::random::Random;
use bytes::Bytes;
use holdfast::sip::{HeaderName, Message, Method, NameAddr, Request, Response, Status, Uri};
use std::collections::VecDeque;

const T1: u64 = 500_000;
const T2: u64 = 4_000_000;
const GIVE_UP: u64 = 32_000_000;

/// How a phone behaves when it is called.
#[derive(Clone, Debug, Default)]
pub struct Manners {
    /// Microseconds from INVITE to 180; `None`: no 180.
    pub ring_after: Option<u64>,
    /// 183 with SDP in place of 180.
    pub early_media: bool,
    /// Final status, and microseconds from INVITE; `None`: rings for ever.
    pub answer: Option<(u16, u64)>,
    /// Answers nothing at all.
    pub dead: bool,
    /// Contact of a 302.
    pub redirect_to: Option<String>,
    /// Refuses re-INVITE with this status.
    pub refuse_reinvite: Option<u16>,
}

/// A message that waits to be sent again.
#[derive(Clone, Debug)]
struct Pending {
    bytes: Bytes,
    due: u64,
    interval: u64,
    give_up: u64,
    kind: Kind,
    call_id: String,
    cseq: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Invite,
    InviteProceeding,
    Request,
    /// Our 2xx that waits for its ACK.
    Success,
    /// Our failure that waits for its ACK.
    Failure,
}

/// Dialog state as the phone sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Calling,
    Ringing,
    Up,
    /// BYE or a final failure was seen or sent.
    Over,
}

/// One dialog (or attempt) of the phone.
#[derive(Clone, Debug)]
pub struct Line {
    pub call_id: String,
    pub caller: bool,
    pub state: State,
    pub local_tag: String,
    pub remote_tag: String,
    local_uri: String,
    remote_uri: String,
    target: String,
    pub local_seq: u32,
    pub remote_seq: u32,
    /// SDP version of ours.
    version: u32,
    pub direction: &'static str,
    /// Highest o= version of the switch, and the SDP of it.
    remote_version: u64,
    remote_sdp: String,
    /// SDP that was an answer to our first offer.
    answer: Option<String>,
    pub answered_at: Option<u64>,
    pub final_status: Option<u16>,
    invite: Option<Request>,
    incoming: Option<Request>,
    /// Scheduled: (time, act).
    plan: VecDeque<(u64, Act)>,
    pub reinvite_open: bool,
    pub last_reinvite: Option<u16>,
    /// Our INVITE had no offer: the ACK answers.
    late: bool,
    /// Theirs with this number had none: its ACK must answer.
    late_incoming: Option<u32>,
    acks: Vec<(u32, Bytes)>,
    invites_seen: Vec<u32>,
    last_2xx: Option<(u32, Bytes)>,
}

impl Line {
    /// Nobody talks for ever: when nothing else is planned, the phone hangs up after some time.
    fn plan_to_end(&mut self, now: u64) {
        if !self.plan.iter().any(|(_, act)| matches!(act, Act::Bye)) {
            self.plan.push_back((now + 20_000_000, Act::Bye));
        }
    }
}

/// What a phone does by plan.
#[derive(Clone, Debug)]
pub enum Act {
    Ring,
    Final(u16),
    Cancel,
    Bye,
    Hold,
    Resume,
    LateReinvite,
    Info,
}

/// A phone.
#[derive(Clone, Debug)]
pub struct Phone {
    pub user: String,
    pub address: String,
    pub manners: Manners,
    pub lines: Vec<Line>,
    pending: Vec<Pending>,
    pub outbox: Vec<Bytes>,
    /// What the phone found wrong: a broken invariant.
    pub complaints: Vec<String>,
    counter: u64,
    /// Which RTP port it names.
    pub rtp_port: u16,
    /// Plan of a call that this phone answers, from the answer on.
    pub when_answered: Vec<(u64, Act)>,
}

impl Phone {
    pub fn new(user: &str, address: &str, rtp_port: u16, manners: Manners) -> Self {
        Self {
            user: user.to_owned(),
            address: address.to_owned(),
            manners,
            lines: Vec::new(),
            pending: Vec::new(),
            outbox: Vec::new(),
            complaints: Vec::new(),
            counter: 0,
            rtp_port,
            when_answered: Vec::new(),
        }
    }

    fn token(&mut self, what: &str) -> String {
        self.counter += 1;
        format!("{what}{}x{}", self.user, self.counter)
    }

    fn sdp(&self, version: u32, direction: &str) -> String {
        let host = self.address.split(':').next().unwrap_or_default();
        format!(
            "v=0\r\no=- {0} {version} IN IP4 {host}\r\ns=-\r\nc=IN IP4 {host}\r\nt=0 0\r\n\
             m=audio {0} RTP/AVP 0 8 101\r\na=rtpmap:101 telephone-event/8000\r\na={direction}\r\n",
            self.rtp_port
        )
    }

    /// Calls; the plan says what follows, in microseconds from now.
    pub fn call(&mut self, callee: &str, late: bool, plan: Vec<(u64, Act)>, now: u64) {
        let call_id = self.token("call-");
        let tag = self.token("tag");
        let uri = Uri::parse(&format!("sip:{callee}@pbx")).expect("URI");
        let mut invite = Request::new(Method::Invite, uri);
        let branch = self.token("z9hG4bK");
        let via = format!("SIP/2.0/UDP {};branch={branch};rport", self.address);
        let local_uri = format!("sip:{}@pbx", self.user);
        let fields = &mut invite.headers;
        fields.push(HeaderName::Via, via);
        fields.push(HeaderName::MaxForwards, "70");
        fields.push(HeaderName::From, format!("<{local_uri}>;tag={tag}"));
        fields.push(HeaderName::To, format!("<sip:{callee}@pbx>"));
        fields.push(HeaderName::CallId, call_id.as_str());
        fields.push(HeaderName::CSeq, "1 INVITE");
        fields.push(HeaderName::Contact, format!("<sip:{}@{}>", self.user, self.address));
        if !late {
            fields.push(HeaderName::ContentType, "application/sdp");
            invite.body = Bytes::from(self.sdp(1, "sendrecv"));
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
            direction: "sendrecv",
            remote_version: 0,
            remote_sdp: String::new(),
            answer: None,
            answered_at: None,
            final_status: None,
            invite: Some(invite),
            incoming: None,
            plan: plan.into_iter().map(|(after, act)| (now + after, act)).collect(),
            reinvite_open: false,
            last_reinvite: None,
            late,
            late_incoming: None,
            acks: Vec::new(),
            invites_seen: Vec::new(),
            last_2xx: None,
        });
    }

    fn wait(&mut self, bytes: Bytes, kind: Kind, call_id: &str, cseq: u32, now: u64) {
        self.pending.push(Pending {
            bytes,
            due: now + T1,
            interval: T1,
            give_up: now + GIVE_UP,
            kind,
            call_id: call_id.to_owned(),
            cseq,
        });
    }

    fn settle(&mut self, call_id: &str, cseq: u32, kinds: &[Kind]) {
        self.pending.retain(|pending| {
            pending.call_id != call_id || pending.cseq != cseq || !kinds.contains(&pending.kind)
        });
    }

    fn complain(&mut self, what: impl Into<String>) {
        let what = what.into();
        self.complaints.push(format!("phone {} at {}: {what}", self.user, self.address));
    }

    pub fn next_due(&self) -> Option<u64> {
        let pending = self.pending.iter().map(|pending| pending.due);
        let plans = self.lines.iter().filter_map(|line| line.plan.front().map(|(at, _)| *at));
        pending.chain(plans).min()
    }

    /// Nothing is open on a line.
    pub fn rests(&self, at: usize) -> bool {
        let line = &self.lines[at];
        !line.reinvite_open && !self.pending.iter().any(|pending| pending.call_id == line.call_id)
    }

    pub fn handle_time(&mut self, now: u64, random: &mut Random) {
        let mut given_up = Vec::new();
        for pending in &mut self.pending {
            if pending.due > now {
                continue;
            }
            if now >= pending.give_up {
                given_up.push((pending.call_id.clone(), pending.cseq, pending.kind));
                continue;
            }
            if pending.kind != Kind::InviteProceeding {
                self.outbox.push(pending.bytes.clone());
            }
            pending.interval = match pending.kind {
                Kind::Invite => pending.interval * 2,
                _ => (pending.interval * 2).min(T2),
            };
            pending.due = (now + pending.interval).min(pending.give_up);
        }
        for (call_id, cseq, kind) in given_up {
            self.settle(&call_id, cseq, &[kind]);
            self.give_up(&call_id, kind, now);
        }
        for at in 0..self.lines.len() {
            while self.lines[at].plan.front().is_some_and(|(due, _)| *due <= now) {
                let Some((_, act)) = self.lines[at].plan.pop_front() else { break };
                self.act(at, &act, now, random);
            }
        }
    }

    fn give_up(&mut self, call_id: &str, kind: Kind, now: u64) {
        let Some(at) = self.lines.iter().position(|line| line.call_id == call_id) else { return };
        match kind {
            Kind::Success => {
                // No ACK for our 2xx: the dialog is ended by BYE (RFC 3261 §13.3.1.4).
                self.send_bye(at, now);
            }
            Kind::Invite if self.lines[at].reinvite_open => {
                self.lines[at].reinvite_open = false;
                self.send_bye(at, now);
            }
            Kind::Invite | Kind::InviteProceeding => self.lines[at].state = State::Over,
            Kind::Request => {
                if self.lines[at].state == State::Up {
                    self.lines[at].state = State::Over;
                }
            }
            Kind::Failure => {}
        }
    }

    fn act(&mut self, at: usize, act: &Act, now: u64, _random: &mut Random) {
        let state = self.lines[at].state;
        match act {
            Act::Ring if state == State::Ringing => self.ring(at),
            Act::Final(status) if state == State::Ringing => self.answer(at, *status, now),
            Act::Cancel
                if state == State::Calling
                    || (state == State::Ringing && self.lines[at].caller) =>
            {
                self.cancel(at, now);
            }
            Act::Bye if state == State::Up => self.send_bye(at, now),
            Act::Hold if state == State::Up => self.reinvite(at, "sendonly", false, now),
            Act::Resume if state == State::Up => self.reinvite(at, "sendrecv", false, now),
            Act::LateReinvite if state == State::Up => self.reinvite(at, "sendrecv", true, now),
            Act::Info if state == State::Up => self.info(at, now),
            _ => {}
        }
    }

    fn dialog_request(&mut self, at: usize, method: Method) -> Request {
        let branch = self.token("z9hG4bK");
        let line = &mut self.lines[at];
        line.local_seq += 1;
        let uri = Uri::parse(&line.target).expect("target");
        let mut request = Request::new(method.clone(), uri);
        let fields = &mut request.headers;
        fields.push(HeaderName::Via, format!("SIP/2.0/UDP {};branch={branch};rport", self.address));
        fields.push(HeaderName::MaxForwards, "70");
        fields.push(HeaderName::From, format!("<{}>;tag={}", line.local_uri, line.local_tag));
        fields.push(HeaderName::To, format!("<{}>;tag={}", line.remote_uri, line.remote_tag));
        fields.push(HeaderName::CallId, line.call_id.as_str());
        fields.push(HeaderName::CSeq, format!("{} {method}", line.local_seq));
        fields.push(HeaderName::Contact, format!("<sip:{}@{}>", self.user, self.address));
        request
    }

    fn send_bye(&mut self, at: usize, now: u64) {
        if self.lines[at].state == State::Over || self.lines[at].remote_tag.is_empty() {
            return;
        }
        let bye = self.dialog_request(at, Method::Bye);
        let line = &mut self.lines[at];
        line.state = State::Over;
        let (call_id, cseq) = (line.call_id.clone(), line.local_seq);
        self.pending.retain(|pending| {
            pending.call_id != call_id
                || !matches!(pending.kind, Kind::Invite | Kind::InviteProceeding)
        });
        self.outbox.push(bye.to_bytes());
        self.wait(bye.to_bytes(), Kind::Request, &call_id, cseq, now);
    }

    fn info(&mut self, at: usize, now: u64) {
        let mut info = self.dialog_request(at, Method::Info);
        info.headers.push(HeaderName::ContentType, "application/dtmf-relay");
        info.body = Bytes::from_static(b"Signal=5\r\nDuration=160\r\n");
        let (call_id, cseq) = (self.lines[at].call_id.clone(), self.lines[at].local_seq);
        self.outbox.push(info.to_bytes());
        self.wait(info.to_bytes(), Kind::Request, &call_id, cseq, now);
    }

    fn reinvite(&mut self, at: usize, direction: &'static str, late: bool, now: u64) {
        // RFC 3261 §14.1: nor while an INVITE of theirs waits for its ACK.
        let call_id = &self.lines[at].call_id;
        let owed = self
            .pending
            .iter()
            .any(|pending| pending.call_id == *call_id && pending.kind == Kind::Success);
        if owed || self.lines[at].reinvite_open || self.lines[at].incoming.is_some() {
            return;
        }
        let mut invite = self.dialog_request(at, Method::Invite);
        if !late {
            self.lines[at].version += 1;
            invite.headers.push(HeaderName::ContentType, "application/sdp");
            invite.body = Bytes::from(self.sdp(self.lines[at].version, direction));
        }
        let line = &mut self.lines[at];
        line.direction = direction;
        line.late = late;
        line.reinvite_open = true;
        line.invite = Some(invite.clone());
        let (call_id, cseq) = (line.call_id.clone(), line.local_seq);
        self.outbox.push(invite.to_bytes());
        self.wait(invite.to_bytes(), Kind::Invite, &call_id, cseq, now);
    }

    fn cancel(&mut self, at: usize, now: u64) {
        let line = &self.lines[at];
        let Some(invite) = line.invite.clone() else { return };
        let proceeding = self.pending.iter().any(|pending| {
            pending.call_id == line.call_id && pending.kind == Kind::InviteProceeding
        });
        if !proceeding {
            // Only after a provisional: try again soon.
            let soon = now + 200_000;
            self.lines[at].plan.push_front((soon, Act::Cancel));
            return;
        }
        let mut cancel = Request::new(Method::Cancel, invite.uri.clone());
        for name in [HeaderName::Via, HeaderName::From, HeaderName::To, HeaderName::CallId] {
            cancel.headers.push(name.clone(), invite.headers.get(&name).expect("copied"));
        }
        cancel.headers.push(HeaderName::CSeq, "1 CANCEL");
        cancel.headers.push(HeaderName::MaxForwards, "70");
        let call_id = line.call_id.clone();
        self.outbox.push(cancel.to_bytes());
        self.wait(cancel.to_bytes(), Kind::Request, &call_id, 1, now);
    }

    pub fn handle_bytes(&mut self, bytes: &Bytes, now: u64) {
        match Message::parse(bytes) {
            Ok(Message::Request(request)) if !self.manners.dead => {
                self.handle_request(&request, now)
            }
            Ok(Message::Response(response)) => self.handle_response(&response, now),
            Ok(Message::Request(_)) => {}
            Err(error) => self.complain(format!("unreadable message: {error}")),
        }
    }

    fn respond(&mut self, request: &Request, status: u16, tag: &str, sdp: Option<String>) -> Bytes {
        let mut response = request.response(Status(status), Some(tag));
        if request.method == Method::Invite && status < 300 {
            response
                .headers
                .push(HeaderName::Contact, format!("<sip:{}@{}>", self.user, self.address));
        }
        if status == 302
            && let Some(contact) = &self.manners.redirect_to
        {
            response.headers.push(HeaderName::Contact, format!("<sip:{contact}@pbx>"));
        }
        if let Some(sdp) = sdp {
            response.headers.push(HeaderName::ContentType, "application/sdp");
            response.body = Bytes::from(sdp);
        }
        let bytes = response.to_bytes();
        self.outbox.push(bytes.clone());
        bytes
    }

    fn ring(&mut self, at: usize) {
        let line = &self.lines[at];
        let Some(request) = line.incoming.clone() else { return };
        let tag = line.local_tag.clone();
        let early = self.manners.early_media && !request.body.is_empty();
        let sdp = early.then(|| self.sdp(1, "sendrecv"));
        self.respond(&request, if early { 183 } else { 180 }, &tag, sdp);
    }

    fn answer(&mut self, at: usize, status: u16, now: u64) {
        let line = &self.lines[at];
        let Some(request) = line.incoming.clone() else { return };
        let (tag, call_id) = (line.local_tag.clone(), line.call_id.clone());
        let cseq = request.cseq().map_or(0, |cseq| cseq.number);
        let sdp = (status < 300).then(|| self.sdp(1, "sendrecv"));
        let bytes = self.respond(&request, status, &tag, sdp);
        let line = &mut self.lines[at];
        line.incoming = None;
        if status < 300 {
            line.state = State::Up;
            line.answered_at = Some(now);
            line.last_2xx = Some((cseq, bytes.clone()));
            let plan = self.when_answered.iter().cloned();
            line.plan.extend(plan.map(|(after, act)| (now + after, act)));
            line.plan_to_end(now);
            self.wait(bytes, Kind::Success, &call_id, cseq, now);
        } else {
            line.state = State::Over;
            self.wait(bytes, Kind::Failure, &call_id, cseq, now);
        }
    }

    fn handle_request(&mut self, request: &Request, now: u64) {
        let call_id = request.call_id().unwrap_or_default().to_owned();
        let cseq = request.cseq().map_or(0, |cseq| cseq.number);
        let at = self.lines.iter().position(|line| line.call_id == call_id);
        match (&request.method, at) {
            (Method::Invite, None) => self.handle_invite(request, now),
            (Method::Invite, Some(at)) => self.handle_reinvite(at, request, cseq, now),
            (Method::Ack, Some(at)) => self.handle_ack(at, request, cseq),
            (Method::Cancel, Some(at)) => self.handle_cancel(at, request, cseq, now),
            (Method::Bye, Some(at)) => {
                let in_order = self.check_seq(at, cseq);
                let tag = self.lines[at].local_tag.clone();
                self.respond(request, if in_order { 200 } else { 500 }, &tag, None);
                self.lines[at].state = State::Over;
                self.lines[at].reinvite_open = false;
                self.pending.retain(|pending| {
                    pending.call_id != call_id
                        || !matches!(
                            pending.kind,
                            Kind::Invite | Kind::InviteProceeding | Kind::Success
                        )
                });
            }
            (Method::Options | Method::Info, Some(at)) => {
                let up = self.lines[at].state == State::Up;
                self.check_seq(at, cseq);
                let tag = self.lines[at].local_tag.clone();
                self.respond(request, if up { 200 } else { 481 }, &tag, None);
            }
            (Method::Ack, None) => {}
            (_, at) => {
                let tag = at.map_or("none".to_owned(), |at| self.lines[at].local_tag.clone());
                self.respond(request, 481, &tag, None);
            }
        }
    }

    /// CSeq of new requests only rises; an equal one is a repeat.
    fn check_seq(&mut self, at: usize, cseq: u32) -> bool {
        let line = &mut self.lines[at];
        if cseq < line.remote_seq {
            return false;
        }
        line.remote_seq = cseq;
        true
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
        let cseq = request.cseq().map_or(0, |cseq| cseq.number);
        self.lines.push(Line {
            call_id: request.call_id().unwrap_or_default().to_owned(),
            caller: false,
            state: State::Ringing,
            local_tag: tag.clone(),
            remote_tag: from.tag().unwrap_or_default(),
            local_uri: to.uri.as_str().to_owned(),
            remote_uri: from.uri.as_str().to_owned(),
            target: target.unwrap_or_default(),
            local_seq: 0,
            remote_seq: cseq,
            version: 1,
            direction: "sendrecv",
            remote_version: 0,
            remote_sdp: String::new(),
            answer: None,
            answered_at: None,
            final_status: None,
            invite: None,
            incoming: Some(request.clone()),
            plan,
            reinvite_open: false,
            last_reinvite: None,
            late: false,
            late_incoming: request.body.is_empty().then_some(cseq),
            acks: Vec::new(),
            invites_seen: vec![cseq],
            last_2xx: None,
        });
        let at = self.lines.len() - 1;
        self.take_sdp(at, &request.body);
        self.respond(request, 100, &tag, None);
    }

    fn handle_reinvite(&mut self, at: usize, request: &Request, cseq: u32, now: u64) {
        let line = &self.lines[at];
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
        } else if line.reinvite_open {
            491
        } else if let Some(status) = self.manners.refuse_reinvite {
            status
        } else {
            200
        };
        if status != 200 {
            let bytes = self.respond(request, status, &tag, None);
            self.wait(bytes, Kind::Failure, &call_id, cseq, now);
            return;
        }
        self.take_sdp(at, &request.body);
        let offered = String::from_utf8_lossy(&request.body).into_owned();
        let line = &mut self.lines[at];
        line.version += 1;
        line.late_incoming = request.body.is_empty().then_some(cseq);
        if let Some(contact) = request.contact() {
            line.target = contact.uri.as_str().to_owned();
        }
        let held = offered.contains("a=sendonly");
        let idle = offered.contains("a=inactive");
        let direction = match (idle, held, line.direction) {
            (true, _, _) => "inactive",
            (_, true, "sendonly") => "inactive",
            (_, true, _) => "recvonly",
            (_, _, "sendonly") if offered.contains("a=recvonly") => "sendonly",
            (_, _, "sendonly") => "sendonly",
            _ => "sendrecv",
        };
        let version = line.version;
        let sdp = self.sdp(version, direction);
        let bytes = self.respond(request, 200, &tag, Some(sdp));
        self.lines[at].last_2xx = Some((cseq, bytes.clone()));
        self.wait(bytes, Kind::Success, &call_id, cseq, now);
    }

    fn handle_ack(&mut self, at: usize, request: &Request, cseq: u32) {
        let call_id = self.lines[at].call_id.clone();
        let was_success = self.pending.iter().any(|pending| {
            pending.call_id == call_id && pending.cseq == cseq && pending.kind == Kind::Success
        });
        self.settle(&call_id, cseq, &[Kind::Success, Kind::Failure]);
        if was_success && self.lines[at].late_incoming == Some(cseq) && self.lines[at].state == State::Up {
            if request.body.is_empty() {
                self.complain("ACK of a late offer without SDP");
            }
        }
        if was_success && self.lines[at].invites_seen.iter().max() == Some(&cseq) {
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
        if let Some(invite) = initial {
            let bytes = self.respond(&invite, 487, &tag, None);
            let line = &mut self.lines[at];
            line.state = State::Over;
            line.incoming = None;
            let call_id = line.call_id.clone();
            self.wait(bytes, Kind::Failure, &call_id, cseq, now);
        }
    }

    /// The switch's SDP: its version only rises, and rises when the text changes.
    fn take_sdp(&mut self, at: usize, body: &[u8]) {
        if body.is_empty() {
            return;
        }
        let text = String::from_utf8_lossy(body).into_owned();
        let origin = text.lines().find(|line| line.starts_with("o=")).unwrap_or_default();
        let version: u64 =
            origin.split(' ').nth(2).and_then(|word| word.parse().ok()).unwrap_or_default();
        let line = &mut self.lines[at];
        if version < line.remote_version {
            let known = line.remote_version;
            self.complain(format!("SDP version went from {known} to {version}"));
        } else if version == line.remote_version && text != line.remote_sdp {
            let known = line.remote_sdp.clone();
            self.complain(format!("SDP changed without a new version:\n{known}\nto\n{text}"));
        } else {
            line.remote_version = version;
            line.remote_sdp = text;
        }
    }

    /// Where the switch wants our RTP.
    pub fn remote_rtp(&self, at: usize) -> Option<u16> {
        let text = &self.lines[at].remote_sdp;
        let media = text.lines().find(|line| line.starts_with("m=audio"))?;
        media.split(' ').nth(1)?.parse().ok()
    }

    fn handle_response(&mut self, response: &Response, now: u64) {
        let Some(cseq) = response.cseq() else { return };
        let call_id = response.call_id().unwrap_or_default().to_owned();
        let Some(at) = self.lines.iter().position(|line| line.call_id == call_id) else { return };
        if cseq.method != Method::Invite {
            if response.status.is_final() {
                self.settle(&call_id, cseq.number, &[Kind::Request]);
            }
            return;
        }
        if response.status.is_provisional() {
            self.handle_provisional(at, response, cseq.number);
        } else if response.status.is_success() {
            self.handle_success(at, response, cseq.number, now);
        } else {
            self.handle_failure(at, response, cseq.number);
        }
    }

    fn handle_provisional(&mut self, at: usize, response: &Response, cseq: u32) {
        let call_id = self.lines[at].call_id.clone();
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

    /// The caller sees one To tag.
    fn check_tag(&mut self, at: usize, response: &Response) {
        let tag = response.to().and_then(|to| to.tag()).unwrap_or_default();
        if tag.is_empty() {
            return self.complain("18x or 2xx without To tag");
        }
        let line = &mut self.lines[at];
        if line.remote_tag.is_empty() {
            line.remote_tag = tag;
        } else if line.remote_tag != tag {
            self.complain("a second To tag");
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
        let (late, version, direction) =
            (self.lines[at].late, self.lines[at].version, self.lines[at].direction);
        let ack_sdp = late.then(|| self.sdp(version, direction));
        let branch = self.token("z9hG4bK");
        let line = &mut self.lines[at];
        if let Some(contact) = contact {
            line.target = contact;
        }
        let mut ack = Request::new(Method::Ack, Uri::parse(&line.target).expect("target"));
        let fields = &mut ack.headers;
        fields.push(HeaderName::Via, format!("SIP/2.0/UDP {};branch={branch};rport", self.address));
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
            line.last_reinvite = Some(200);
        } else if cseq == 1 && matches!(line.state, State::Calling | State::Ringing) {
            line.state = State::Up;
            line.answered_at = Some(now);
            line.final_status = Some(200);
            line.plan_to_end(now);
        }
        self.outbox.push(bytes);
    }

    fn handle_failure(&mut self, at: usize, response: &Response, cseq: u32) {
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
            line.last_reinvite = Some(response.status.0);
            if matches!(response.status.0, 408 | 481) {
                line.state = State::Over;
            }
        }
    }
}
