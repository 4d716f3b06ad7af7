//! A phone of the simulator: one UA over UDP or a connection, with its own transactions, strict about what RFC 3261 and 3264 promise it.
//! It shares no transaction or dialog code with the switch.

mod called;
mod calling;
mod registering;

use crate::count::Count;
use bytes::Bytes;
use core::net::SocketAddr;
use holdfast::sip::{HeaderName, Message, Method, Request, Status, Uri};
use registering::Registration;
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
    /// Says nothing at all to a re-INVITE.
    pub mute_to_reinvite: bool,
    /// Refuses UPDATE with this status.
    pub refuse_update: Option<u16>,
    /// Sends RTP where it was told first, whatever it is told later.
    pub keeps_address: bool,
    /// Called, it never hangs up first.
    pub patient: bool,
    /// Microseconds until a re-INVITE is answered; `None`: at once.
    pub think_about_reinvite: Option<u64>,
}

/// What a phone says of its audio.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Voice {
    pub port: u16,
    pub sends: bool,
    pub receives: bool,
    /// The old form of hold: c=0.0.0.0 in place of a direction.
    zero: bool,
}

impl Voice {
    fn direction(self) -> &'static str {
        match (self.sends, self.receives) {
            _ if self.zero => "sendrecv",
            (true, true) => "sendrecv",
            (true, false) => "sendonly",
            (false, true) => "recvonly",
            (false, false) => "inactive",
        }
    }
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
    begun: u64,
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
    /// It never hangs up first.
    is_patient: bool,
    /// In force.
    pub local: Voice,
    /// In a re-INVITE of ours that is open.
    offered: Option<Voice>,
    /// Its user put the other on hold.
    pub holding: bool,
    /// Highest o= version of the switch, and the SDP of it.
    pub remote_version: u64,
    remote_sdp: String,
    /// Where the switch wanted RTP first.
    first_remote: Option<SocketAddr>,
    /// SDP that was an answer to our first offer.
    answer: Option<String>,
    pub answered_at: Option<u64>,
    /// Of a caller: it heard a provisional response, so the switch has the call.
    pub was_promised: bool,
    /// It said or heard the end.
    pub over_at: Option<u64>,
    /// It rang until its INVITE expired.
    pub expired: bool,
    pub final_status: Option<u16>,
    invite: Option<Request>,
    incoming: Option<Request>,
    /// Scheduled: (time, act).
    plan: VecDeque<(u64, Act)>,
    pub reinvite_open: bool,
    /// The act that sent it, to be tried again after 491.
    reinvite_act: Option<Act>,
    /// A re-INVITE of theirs that is thought about.
    asked: Option<Request>,
    /// Our INVITE had no offer: the ACK answers.
    late: bool,
    /// Theirs with this number had none: its ACK must answer.
    late_incoming: Option<u32>,
    acks: Vec<(u32, Bytes)>,
    invites_seen: Vec<u32>,
    /// Branch of the INVITE that called it.
    invite_branch: String,
    last_2xx: Option<(u32, Bytes)>,
    last_update: Option<(u32, Bytes)>,
}

impl Line {
    /// Nobody talks for ever: when nothing else is planned, the phone hangs up after some time.
    fn plan_to_end(&mut self, now: u64) {
        if !self.is_patient && !self.plan.iter().any(|(_, act)| matches!(act, Act::Bye)) {
            self.schedule(now + 20_000_000, Act::Bye);
        }
    }

    fn schedule(&mut self, at: u64, act: Act) {
        let behind = self.plan.iter().position(|(due, _)| *due > at).unwrap_or(self.plan.len());
        self.plan.insert(behind, (at, act));
    }
}

/// What a phone does by plan.
#[derive(Clone, Debug)]
pub enum Act {
    Ring,
    Final(u16),
    /// The INVITE is not good any more (RFC 3261 §13.3.1).
    Expire,
    Cancel,
    Bye,
    /// sendonly, inactive, or c=0.0.0.0.
    Hold(u8),
    Resume,
    LateReinvite,
    /// The same description again.
    Refresh,
    /// Another RTP port.
    MovePort,
    CancelReinvite,
    /// Answers the re-INVITE it thought about.
    AnswerReinvite,
    Info,
    /// The battery is empty: nothing is sent or answered from now on.
    Vanish,
}

fn branch_of(request: &Request) -> String {
    let via = request.top_via();
    via.and_then(|via| via.branch().map(str::to_owned)).unwrap_or_default()
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
    /// Call-IDs of the calls in which it vanished.
    pub vanished: Vec<String>,
    pub count: Count,
    counter: u64,
    /// Which RTP port it names.
    pub rtp_port: u16,
    /// Plan of a call that this phone answers, from the answer on.
    pub when_answered: Vec<(u64, Act)>,
    /// What the switch challenged it with before, and its password: it calls with credentials.
    pub challenge: Option<(String, &'static str)>,
    /// Finals of its requests within dialogs.
    pub answers: Vec<Answered>,
    /// Call-IDs of INVITEs that it answered, and no ACK came.
    pub unacknowledged: Vec<String>,
    /// It speaks by a connection: what it says once arrives, or the connection breaks.
    pub by_connection: bool,
    pub registration: Option<Registration>,
}

/// A request within a dialog was answered.
#[derive(Clone, Debug)]
pub struct Answered {
    pub call_id: String,
    pub method: String,
    pub status: u16,
    /// In microseconds.
    pub waited: u64,
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
            vanished: Vec::new(),
            count: Count::default(),
            counter: 0,
            rtp_port,
            when_answered: Vec::new(),
            challenge: None,
            answers: Vec::new(),
            unacknowledged: Vec::new(),
            by_connection: false,
            registration: None,
        }
    }

    /// Nothing is under way and nothing is planned.
    pub fn is_done(&self) -> bool {
        self.pending.is_empty() && self.lines.iter().all(|line| line.state == State::Over)
    }

    fn token(&mut self, what: &str) -> String {
        self.counter += 1;
        let host = self.address.split(':').next().unwrap_or_default();
        format!("{what}{}x{}.{host}", self.user, self.counter)
    }

    fn via(&self, branch: &str) -> String {
        let (transport, rport) = match self.by_connection {
            true => ("TCP", ""),
            false => ("UDP", ";rport"),
        };
        format!("SIP/2.0/{transport} {};branch={branch}{rport}", self.address)
    }

    fn contact(&self) -> String {
        let transport = if self.by_connection { ";transport=tcp" } else { "" };
        format!("<sip:{}@{}{transport}>", self.user, self.address)
    }

    fn voice(&self) -> Voice {
        Voice { port: self.rtp_port, sends: true, receives: true, zero: false }
    }

    fn sdp(&self, version: u32, voice: Voice) -> String {
        let host = self.address.split(':').next().unwrap_or_default();
        let connection = if voice.zero { "0.0.0.0" } else { host };
        format!(
            "v=0\r\no=- {0} {version} IN IP4 {host}\r\ns=-\r\nc=IN IP4 {connection}\r\nt=0 0\r\n\
             m=audio {1} RTP/AVP 0 8 101\r\na=rtpmap:101 telephone-event/8000\r\na={2}\r\n",
            self.rtp_port,
            voice.port,
            voice.direction(),
        )
    }

    /// What a line answers to an offer: never more than it allows, and no hearing while its user holds.
    fn reply(&self, at: usize, offer: &str) -> Voice {
        let line = &self.lines[at];
        let idle = offer.contains("a=inactive");
        let sends = !idle && !offer.contains("a=sendonly");
        let receives = !idle && !offer.contains("a=recvonly") && !line.holding;
        Voice { port: line.local.port, sends, receives, zero: false }
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
            begun: now,
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
        let registers = self.registration.as_ref().map(|registration| registration.due);
        pending.chain(plans).chain(registers).min()
    }

    /// Nothing is open on a line.
    pub fn rests(&self, at: usize) -> bool {
        let line = &self.lines[at];
        let idle = !line.reinvite_open && line.asked.is_none();
        idle && !self.pending.iter().any(|pending| pending.call_id == line.call_id)
    }

    pub fn handle_time(&mut self, now: u64) {
        let mut given_up = Vec::new();
        self.time_registration(now);
        for pending in &mut self.pending {
            if pending.due > now {
                continue;
            }
            if now >= pending.give_up {
                given_up.push((pending.call_id.clone(), pending.cseq, pending.kind));
                continue;
            }
            // A connection loses nothing; a 2xx is said until its ACK comes all the same (RFC 3261 §13.3.1.4).
            let is_said_once = self.by_connection && pending.kind != Kind::Success;
            if pending.kind != Kind::InviteProceeding && !is_said_once {
                self.count.add("phones: retransmissions");
                self.outbox.push(pending.bytes.clone());
            }
            let longest = if pending.kind == Kind::Invite { u64::MAX } else { T2 };
            pending.interval = (pending.interval * 2).min(longest);
            pending.due = (now + pending.interval).min(pending.give_up);
        }
        for (call_id, cseq, kind) in given_up {
            self.settle(&call_id, cseq, &[kind]);
            self.give_up(&call_id, kind, now);
        }
        for at in 0..self.lines.len() {
            while self.lines[at].plan.front().is_some_and(|(due, _)| *due <= now) {
                let Some((_, act)) = self.lines[at].plan.pop_front() else { break };
                self.act(at, &act, now);
            }
        }
    }

    fn give_up(&mut self, call_id: &str, kind: Kind, now: u64) {
        self.count.add(format!("phones: gave up on {kind:?}"));
        let Some(at) = self.lines.iter().position(|line| line.call_id == call_id) else { return };
        match kind {
            Kind::Success => {
                // No ACK for our 2xx: the dialog is ended by BYE (RFC 3261 §13.3.1.4).
                self.unacknowledged.push(call_id.to_owned());
                self.send_bye(at, now);
            }
            Kind::Invite if self.lines[at].reinvite_open => {
                self.lines[at].reinvite_open = false;
                self.send_bye(at, now);
            }
            Kind::Invite | Kind::InviteProceeding => self.lines[at].state = State::Over,
            // No answer within the dialog: it is over, and the other side is told (RFC 3261 §12.2.1.2).
            Kind::Request => self.send_bye(at, now),
            Kind::Failure => {}
        }
    }

    fn act(&mut self, at: usize, act: &Act, now: u64) {
        let state = self.lines[at].state;
        match act {
            Act::Ring if state == State::Ringing => self.ring(at),
            Act::Final(status) if state == State::Ringing => self.answer(at, *status, now),
            Act::Expire if state == State::Ringing => {
                self.lines[at].expired = true;
                self.answer(at, 487, now);
            }
            Act::Cancel
                if state == State::Calling
                    || (state == State::Ringing && self.lines[at].caller) =>
            {
                self.cancel(at, now);
            }
            Act::Bye if state == State::Up => self.send_bye(at, now),
            Act::Hold(_) | Act::Resume | Act::LateReinvite | Act::Refresh | Act::MovePort
                if state == State::Up =>
            {
                self.reinvite(at, act, now);
            }
            Act::CancelReinvite if state == State::Up && self.lines[at].reinvite_open => {
                self.cancel(at, now);
            }
            Act::AnswerReinvite => self.answer_reinvite(at, now),
            Act::Vanish if state != State::Over => self.vanish(at),
            Act::Info if state == State::Up => self.info(at, now),
            Act::Expire => {}
            Act::Ring
            | Act::Final(_)
            | Act::Cancel
            | Act::Bye
            | Act::Hold(_)
            | Act::Resume
            | Act::LateReinvite
            | Act::Refresh
            | Act::MovePort
            | Act::CancelReinvite
            | Act::Info
            | Act::Vanish => self.count.add(format!("phones: too late for {act:?}")),
        }
    }

    fn vanish(&mut self, at: usize) {
        let line = &mut self.lines[at];
        line.state = State::Over;
        line.plan.clear();
        let call_id = line.call_id.clone();
        self.pending.retain(|pending| pending.call_id != call_id);
        self.count.add("phones: vanished");
        self.vanished.push(call_id);
    }

    fn dialog_request(&mut self, at: usize, method: Method) -> Request {
        let branch = self.token("z9hG4bK");
        let (via, contact) = (self.via(&branch), self.contact());
        let line = &mut self.lines[at];
        line.local_seq += 1;
        let uri = Uri::parse(&line.target).expect("target");
        let mut request = Request::new(method.clone(), uri);
        let fields = &mut request.headers;
        fields.push(HeaderName::Via, via);
        fields.push(HeaderName::MaxForwards, "70");
        fields.push(HeaderName::From, format!("<{}>;tag={}", line.local_uri, line.local_tag));
        fields.push(HeaderName::To, format!("<{}>;tag={}", line.remote_uri, line.remote_tag));
        fields.push(HeaderName::CallId, line.call_id.as_str());
        fields.push(HeaderName::CSeq, format!("{} {method}", line.local_seq));
        fields.push(HeaderName::Contact, contact);
        request
    }

    pub fn handle_bytes(&mut self, bytes: &Bytes, now: u64) {
        let message = Message::parse(bytes);
        let call_id = match &message {
            Ok(Message::Request(request)) => request.call_id(),
            Ok(Message::Response(response)) => response.call_id(),
            Err(_) => None,
        };
        if call_id.is_some_and(|call_id| self.vanished.iter().any(|gone| gone == call_id)) {
            return;
        }
        match message {
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
            response.headers.push(HeaderName::Contact, self.contact());
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

    /// CSeq of new requests only rises; an equal one is a repeat.
    fn check_seq(&mut self, at: usize, cseq: u32) -> bool {
        let line = &mut self.lines[at];
        if cseq < line.remote_seq {
            return false;
        }
        line.remote_seq = cseq;
        true
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
            let remote = self.remote_media(at).map(|(remote, _)| remote);
            let line = &mut self.lines[at];
            line.first_remote = line.first_remote.or(remote);
        }
    }

    /// Where it sends RTP, and of which payload type.
    pub fn remote_media(&self, at: usize) -> Option<(SocketAddr, u8)> {
        let line = &self.lines[at];
        let value = |name: &str| line.remote_sdp.lines().find_map(|line| line.strip_prefix(name));
        let mut words = value("m=audio ")?.split(' ');
        let port = words.next()?.parse().ok()?;
        let payload_type = words.nth(1)?.parse().ok()?;
        let host = value("c=IN IP4 ")?.parse().ok()?;
        let told = SocketAddr::new(host, port);
        let kept = line.first_remote.filter(|_| self.manners.keeps_address);
        Some((kept.unwrap_or(told), payload_type))
    }

    /// The payload type by which the switch takes digits.
    pub fn event_type(&self, at: usize) -> Option<u8> {
        let mut formats = self.lines[at].remote_sdp.lines();
        let format = formats.find(|line| line.contains(" telephone-event/"))?;
        format.strip_prefix("a=rtpmap:")?.split(' ').next()?.parse().ok()
    }

    /// Where the switch wants our RTP.
    pub fn remote_rtp(&self, at: usize) -> Option<u16> {
        let text = &self.lines[at].remote_sdp;
        let media = text.lines().find(|line| line.starts_with("m=audio"))?;
        media.split(' ').nth(1)?.parse().ok()
    }
}
