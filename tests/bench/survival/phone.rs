//! A phone as it stands on a desk: a port of its own, one registration, one call at a time. It says again on UDP what is
//! not answered (RFC 3261 §17.1), and answers again what comes again (§17.2).
//!
//! Invariants: an answer is told once; a request is told once; nothing is told of what nobody answered but by `Silent`.

use super::super::clock::Nanos;
use super::super::phones::{extension, password};
use super::line::Line;
use bytes::Bytes;
use holdfast::sip::{Dialog, HeaderName, Message, Method, Request, Response, Status, Uri, digest};
use std::collections::VecDeque;
use std::net::SocketAddrV4;

const MS: Nanos = 1_000_000;
const T1: Nanos = 500 * MS;
const T2: Nanos = 4_000 * MS;
/// Timer B, F and H.
const GIVE_UP: Nanos = 32_000 * MS;
/// Answers and ACKs that may be wanted again.
const REMEMBERED: usize = 8;
/// It registers anew this long after the last time, and asks for twice as much.
const REFRESH: Nanos = 60_000 * MS;
/// After a refusal.
const TRY_AGAIN: Nanos = 1_000 * MS;

/// Why a phone asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Register,
    Invite,
    Hold,
    Resume,
    Bye,
}

/// What a phone has heard.
pub(super) enum Heard {
    /// The final answer to what it asked first at `began`.
    Answer {
        purpose: Purpose,
        response: Response,
        began: Nanos,
    },
    /// It gave up to ask.
    Silent {
        purpose: Purpose,
        began: Nanos,
    },
    Request(Request),
    /// The ACK of its 200.
    Acknowledged,
}

/// A request under way.
struct Asked {
    purpose: Purpose,
    request: Request,
    branch: String,
    began: Nanos,
    next: Nanos,
    interval: Nanos,
    /// A provisional answer came: an INVITE is not said again.
    is_proceeding: bool,
    /// Challenges that were met.
    met: u32,
}

/// A 200 that waits for its ACK.
struct Accepted {
    sequence: u32,
    bytes: Bytes,
    began: Nanos,
    next: Nanos,
    interval: Nanos,
}

/// Its call.
pub(super) struct Talk {
    pub(super) dialog: Dialog,
    /// The INVITE that rings here.
    pub(super) ringing: Option<Request>,
    /// Of its descriptions.
    pub(super) version: u32,
}

/// A phone.
pub(super) struct Phone {
    number: usize,
    pub(super) line: Line,
    server: SocketAddrV4,
    mark: String,
    branches: u64,
    calls: u64,
    registrations: u32,
    /// When it is to register.
    pub(super) register_at: Nanos,
    pub(super) is_registered: bool,
    challenge: Option<String>,
    count: u32,
    asked: Vec<Asked>,
    accepted: Option<Accepted>,
    /// Answers by branch and method.
    answered: VecDeque<(String, Bytes)>,
    /// ACKs by the branch of their INVITE.
    acknowledged: VecDeque<(String, Bytes)>,
    pub(super) talk: Option<Talk>,
}

impl Phone {
    pub(super) fn new(number: usize, server: SocketAddrV4, is_tcp: bool, mark: &str) -> Self {
        let line = if is_tcp { Line::tcp(server) } else { Line::udp(server) };
        Self {
            number,
            line,
            server,
            mark: mark.to_owned(),
            branches: 0,
            calls: 0,
            registrations: 0,
            register_at: Nanos::MAX,
            is_registered: false,
            challenge: None,
            count: 0,
            asked: Vec::new(),
            accepted: None,
            answered: VecDeque::new(),
            acknowledged: VecDeque::new(),
            talk: None,
        }
    }

    pub(super) fn register(&mut self, now: Nanos) {
        self.register_at = Nanos::MAX;
        self.registrations += 1;
        let address = self.address(self.number);
        let uri = format!("sip:{}", self.server);
        let call = format!("r{}-{}", self.number, self.mark);
        let mut request = self.request(Method::Register, &uri, &address, &call);
        let sequence = format!("{} REGISTER", self.registrations);
        request.headers.set(HeaderName::CSeq, sequence);
        request.headers.push(HeaderName::Expires, (2 * REFRESH / 1_000 / MS).to_string());
        // By which it is known when it comes by another connection (RFC 5626 §4.1).
        let instance = format!("<urn:uuid:00000000-0000-4000-8000-{:012x}>", self.number);
        let contact = format!("{};+sip.instance=\"{instance}\"", self.contact());
        request.headers.set(HeaderName::Contact, contact);
        self.ask(request, Purpose::Register, now);
    }

    /// Calls; its Call-ID.
    pub(super) fn invite(&mut self, whom: usize, sdp: String, now: Nanos) -> String {
        self.calls += 1;
        let call = format!("c{}x{}-{}", self.number, self.calls, self.mark);
        let to = self.address(whom);
        let mut request = self.request(Method::Invite, to.trim_matches(['<', '>']), &to, &call);
        describe(&mut request, sdp);
        self.ask(request, Purpose::Invite, now);
        call
    }

    /// Asks within its dialog; false when it has none.
    pub(super) fn ask_in_dialog(
        &mut self,
        method: Method,
        purpose: Purpose,
        sdp: Option<String>,
        now: Nanos,
    ) -> bool {
        let contact = self.contact();
        let Some(talk) = &mut self.talk else { return false };
        let mut request = talk.dialog.request(method);
        request.headers.push(HeaderName::Contact, contact);
        if let Some(sdp) = sdp {
            describe(&mut request, sdp);
        }
        self.ask(request, purpose, now);
        true
    }

    fn ask(&mut self, mut request: Request, purpose: Purpose, now: Nanos) {
        self.authorize(&mut request);
        let branch = self.branch();
        let via = self.via(&branch);
        request.headers.push_front(HeaderName::Via, via);
        self.line.send(&request.to_bytes());
        self.asked.push(Asked {
            purpose,
            request,
            branch,
            began: now,
            next: now + T1,
            interval: T1,
            is_proceeding: false,
            met: 0,
        });
    }

    /// Answers a request; whoever says it again gets the same. A 200 to INVITE is repeated until it is acknowledged.
    pub(super) fn answer(
        &mut self,
        request: &Request,
        status: u16,
        sdp: Option<String>,
        now: Nanos,
    ) {
        let mut response = request.response(Status(status), Some("callee"));
        if request.method == Method::Invite && status < 300 {
            response.headers.push(HeaderName::Contact, self.contact());
        }
        if let Some(sdp) = sdp {
            response.headers.push(HeaderName::ContentType, "application/sdp");
            response.body = sdp.into();
        }
        let bytes = response.to_bytes();
        if request.method == Method::Invite && (200..300).contains(&status) {
            let sequence = request.cseq().map_or(0, |cseq| cseq.number);
            let (bytes, interval) = (bytes.clone(), T1);
            self.accepted =
                Some(Accepted { sequence, bytes, began: now, next: now + T1, interval });
        }
        self.answered.retain(|(key, _)| *key != transaction(request));
        remember(&mut self.answered, transaction(request), bytes.clone());
        self.line.send(&bytes);
    }

    /// What came, if it is news.
    pub(super) fn hear(&mut self, bytes: &Bytes, now: Nanos) -> Option<Heard> {
        match Message::parse(bytes).ok()? {
            Message::Request(request) => self.hear_request(request),
            Message::Response(response) => self.hear_response(response, now),
        }
    }

    fn hear_request(&mut self, request: Request) -> Option<Heard> {
        if request.method == Method::Ack {
            let sequence = request.cseq()?.number;
            let is_awaited = |accepted: &Accepted| accepted.sequence == sequence;
            self.accepted.take_if(|accepted| is_awaited(accepted))?;
            return Some(Heard::Acknowledged);
        }
        let key = transaction(&request);
        if let Some((_, bytes)) = self.answered.iter().find(|(known, _)| *known == key) {
            self.line.send(&bytes.clone());
            return None;
        }
        Some(Heard::Request(request))
    }

    fn hear_response(&mut self, response: Response, now: Nanos) -> Option<Heard> {
        let branch = response.top_via()?.branch()?.to_owned();
        let method = response.cseq()?.method;
        let of = |asked: &Asked| asked.branch == branch && asked.request.method == method;
        let Some(at) = self.asked.iter().position(of) else {
            // A final answer that is said again wants its ACK again.
            if response.status.is_final()
                && let Some((_, ack)) = self.acknowledged.iter().find(|(known, _)| *known == branch)
            {
                self.line.send(&ack.clone());
            }
            return None;
        };
        if !response.status.is_final() {
            self.asked[at].is_proceeding = true;
            return None;
        }
        let asked = self.asked.remove(at);
        let is_invite = method == Method::Invite;
        if is_invite && !response.status.is_success() {
            self.acknowledge_refusal(&asked, &response);
        }
        if matches!(response.status.0, 401 | 407) && asked.met < 2 {
            return self.ask_with_credentials(asked, &response, now);
        }
        if is_invite && response.status.is_success() {
            self.acknowledge(&asked, &response);
        }
        if asked.purpose == Purpose::Register {
            self.is_registered = response.status.is_success();
            self.register_at = now + if self.is_registered { REFRESH } else { TRY_AGAIN };
        }
        let Asked { purpose, began, .. } = asked;
        Some(Heard::Answer { purpose, response, began })
    }

    fn ask_with_credentials(
        &mut self,
        asked: Asked,
        refusal: &Response,
        now: Nanos,
    ) -> Option<Heard> {
        let asks = match refusal.status.0 {
            407 => HeaderName::ProxyAuthenticate,
            _ => HeaderName::WwwAuthenticate,
        };
        self.challenge = Some(refusal.headers.get(&asks)?.to_owned());
        let Asked { mut request, purpose, began, met, .. } = asked;
        let sequence = request.cseq()?.number + 1;
        let cseq = format!("{sequence} {}", request.method);
        request.headers.set(HeaderName::CSeq, cseq);
        match (purpose, &mut self.talk) {
            (Purpose::Register, _) => self.registrations = sequence,
            (Purpose::Invite, _) | (_, None) => {}
            (_, Some(talk)) => talk.dialog.local_seq = sequence,
        }
        request.headers.remove(&HeaderName::Via);
        self.ask(request, purpose, now);
        if let Some(again) = self.asked.last_mut() {
            (again.began, again.met) = (began, met + 1);
        }
        None
    }

    /// RFC 3261 §17.1.1.3.
    fn acknowledge_refusal(&mut self, asked: &Asked, response: &Response) {
        let invite = &asked.request;
        let mut ack = Request::new(Method::Ack, invite.uri.clone());
        for name in [HeaderName::Via, HeaderName::From, HeaderName::CallId] {
            ack.headers.push(name.clone(), invite.headers.get(&name).unwrap_or_default());
        }
        let to = response.headers.get(&HeaderName::To).unwrap_or_default();
        ack.headers.push(HeaderName::To, to);
        let sequence = invite.cseq().map_or(1, |cseq| cseq.number);
        ack.headers.push(HeaderName::CSeq, format!("{sequence} ACK"));
        ack.headers.push(HeaderName::MaxForwards, "70");
        self.send_ack(&asked.branch, ack.to_bytes());
    }

    fn acknowledge(&mut self, asked: &Asked, response: &Response) {
        if asked.purpose == Purpose::Invite {
            let dialog = Dialog::from_own_request(&asked.request);
            let Some(mut dialog) = dialog else { return };
            dialog.establish(response);
            self.talk = Some(Talk { dialog, ringing: None, version: 1 });
        }
        let sequence = asked.request.cseq().map_or(1, |cseq| cseq.number);
        let branch = self.branch();
        let via = self.via(&branch);
        let Some(talk) = &mut self.talk else { return };
        if let Some(contact) = response.contact() {
            talk.dialog.refresh_target(&contact);
        }
        let mut ack = talk.dialog.ack(sequence);
        ack.headers.push_front(HeaderName::Via, via);
        self.send_ack(&asked.branch, ack.to_bytes());
    }

    fn send_ack(&mut self, branch: &str, ack: Bytes) {
        self.line.send(&ack);
        remember(&mut self.acknowledged, branch.to_owned(), ack);
    }

    /// By a new connection: what may have been lost with the one before is asked again. A call that rings is waited for.
    pub(super) fn ask_again(&mut self) {
        let is_lost = |asked: &&Asked| asked.purpose != Purpose::Register && !asked.is_proceeding;
        for asked in self.asked.iter().filter(is_lost) {
            self.line.send(&asked.request.to_bytes());
        }
    }

    /// Says again what is due; what was given up.
    pub(super) fn repeat(&mut self, now: Nanos) -> Vec<Heard> {
        let mut given_up = Vec::new();
        let is_over = |asked: &Asked| {
            now > asked.began + GIVE_UP
                && !(asked.is_proceeding && asked.purpose == Purpose::Invite)
        };
        for asked in self.asked.extract_if(.., |asked| is_over(asked)) {
            if asked.purpose == Purpose::Register {
                self.register_at = now;
            }
            given_up.push(Heard::Silent { purpose: asked.purpose, began: asked.began });
        }
        self.accepted.take_if(|accepted| now > accepted.began + GIVE_UP);
        // By TCP too (RFC 3261 §13.3.1.4).
        if let Some(accepted) = self.accepted.as_mut().filter(|accepted| accepted.next <= now) {
            accepted.interval = T2.min(accepted.interval * 2);
            accepted.next = now + accepted.interval;
            self.line.send(&accepted.bytes);
        }
        if self.line.is_tcp() {
            return given_up;
        }
        for asked in self.asked.iter_mut().filter(|asked| asked.next <= now) {
            let is_invite = asked.request.method == Method::Invite;
            asked.interval =
                if is_invite { asked.interval * 2 } else { T2.min(asked.interval * 2) };
            asked.next = now + asked.interval;
            if !(is_invite && asked.is_proceeding) {
                self.line.send(&asked.request.to_bytes());
            }
        }
        given_up
    }

    fn request(&self, method: Method, uri: &str, to: &str, call: &str) -> Request {
        let name = method.as_str().to_owned();
        let mut request = Request::new(method, Uri::parse(uri).expect("a URI"));
        for (header, value) in [
            (HeaderName::MaxForwards, "70".to_owned()),
            (HeaderName::From, format!("{};tag=t{call}", self.address(self.number))),
            (HeaderName::To, to.to_owned()),
            (HeaderName::CallId, call.to_owned()),
            (HeaderName::CSeq, format!("1 {name}")),
            (HeaderName::Contact, self.contact()),
            (HeaderName::UserAgent, "survival".to_owned()),
        ] {
            request.headers.push(header, value);
        }
        request
    }

    fn authorize(&mut self, request: &mut Request) {
        let Some(challenge) = &self.challenge else { return };
        self.count += 1;
        let (name, secret) = (extension(self.number), password(self.number));
        let (method, uri, count) = (&request.method, request.uri.as_str(), self.count);
        let told = digest::respond(challenge, method, uri, &name, &secret, "cnonce", count);
        request.headers.set(HeaderName::Authorization, told.expect("a challenge that can be met"));
    }

    fn branch(&mut self) -> String {
        self.branches += 1;
        format!("z9hG4bK{}x{}x{}", self.number, self.branches, self.mark)
    }

    fn via(&self, branch: &str) -> String {
        let transport = if self.line.is_tcp() { "TCP" } else { "UDP" };
        format!("SIP/2.0/{transport} {};branch={branch};rport", self.line.local)
    }

    fn contact(&self) -> String {
        let transport = if self.line.is_tcp() { ";transport=tcp" } else { "" };
        format!("<sip:{}@{}{transport}>", extension(self.number), self.line.local)
    }

    fn address(&self, number: usize) -> String {
        format!("<sip:{}@{}>", extension(number), self.server)
    }
}

fn describe(request: &mut Request, sdp: String) {
    request.headers.push(HeaderName::ContentType, "application/sdp");
    request.body = sdp.into();
}

fn remember(all: &mut VecDeque<(String, Bytes)>, key: String, bytes: Bytes) {
    if all.len() == REMEMBERED {
        all.pop_front();
    }
    all.push_back((key, bytes));
}

fn transaction(request: &Request) -> String {
    let branch = request.top_via().and_then(|via| via.branch().map(str::to_owned));
    format!("{} {}", request.method, branch.unwrap_or_default())
}
