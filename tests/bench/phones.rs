//! Phones by the thousand in one thread: an open loop of registrations or calls at a fixed rate. Callees keep no state.
//!
//! Invariants: a unit begins when its time has come, whatever became of those before; its latency counts from that time
//! to the kernel's stamp of the answer; nothing is repeated, so a lost datagram is a failed unit.

use super::clock::{self, Nanos};
use super::media::{Described, Media};
use super::talk::Talk;
use super::usage::{Meter, Used};
use super::wire::{Reader, Wire};
use bytes::Bytes;
use holdfast::sip::{Dialog, HeaderName, Message, Method, Request, Response, Status, Uri, digest};
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddrV4;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Sockets that the users share.
const WIRES: usize = 16;
/// The loop's sleep.
const TICK: Nanos = 200_000;
/// A unit that takes longer has failed.
const PATIENCE: Nanos = 4_000_000_000;
/// For a description whose media nobody looks at.
const NO_MEDIA: u16 = 40_000;

/// Extension of a user.
pub(crate) fn extension(user: usize) -> String {
    format!("u{user}")
}

/// Password of a user.
pub(crate) fn password(user: usize) -> String {
    format!("open-loop-{user}")
}

/// What a unit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// REGISTER, its challenge, REGISTER.
    Register,
    /// A call of an even user to the next, ended by the caller.
    Call,
}

/// An open loop.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) kind: Kind,
    pub(crate) rate: u32,
    pub(crate) warmup: Duration,
    pub(crate) window: Duration,
    /// From ACK to BYE.
    pub(crate) hold: Duration,
}

/// What came of it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// Of units that began within the window: to the final answer of REGISTER or INVITE.
    pub(crate) latencies: Vec<Nanos>,
    /// Units that ended well within the window.
    pub(crate) done: usize,
    /// Units that ended badly or not at all.
    pub(crate) failed: usize,
    /// Requests and responses that the server sent twice.
    pub(crate) repeated: usize,
    /// How late the generator began a unit, at worst but for one in a hundred.
    pub(crate) late: Nanos,
    pub(crate) used: Used,
}

/// All phones of a server.
pub(crate) struct Phones {
    server: SocketAddrV4,
    wires: Vec<Wire>,
    reader: Reader,
    users: Vec<User>,
    /// Of this start: two never share a Call-ID.
    mark: String,
    pending: HashMap<Key, Pending>,
    /// Calls to be ended, in the order of their times.
    byes: VecDeque<(Nanos, Key)>,
    calls: u64,
    /// Calls before this run.
    calls_before: u64,
    branches: u64,
    window: (Nanos, Nanos),
    hold: Nanos,
    latencies: Vec<Nanos>,
    lates: Vec<Nanos>,
    done: usize,
    failed: usize,
    invited: usize,
    repeated: usize,
    /// Where each user wants RTP; empty: nowhere.
    pub(crate) rtp_ports: Vec<u16>,
    /// What the server told each user of its media.
    pub(crate) told: HashMap<usize, Described>,
    /// What callees speak.
    pub(crate) media: Media,
    /// Who talks while calls last; nobody, unless it is set by `let_talk`.
    pub(crate) talk: Option<Talk>,
}

#[derive(Debug, Default)]
struct User {
    cseq: u32,
    /// The last challenge, answered in advance from then on, as phones do.
    challenge: Option<String>,
    count: u32,
}

/// What a Call-ID of ours says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Key {
    Registration(usize),
    Call(u64),
}

#[derive(Debug)]
struct Pending {
    scheduled: Nanos,
    user: usize,
    request: Request,
    challenged: bool,
    dialog: Option<Dialog>,
}

impl Phones {
    pub(crate) fn new(server: SocketAddrV4, users: usize) -> Self {
        static STARTS: AtomicU32 = AtomicU32::new(0);
        let start = STARTS.fetch_add(1, Ordering::Relaxed);
        Self {
            server,
            wires: (0..WIRES).map(|_| Wire::new()).collect(),
            reader: Reader::new(),
            users: (0..users).map(|_| User::default()).collect(),
            mark: format!("{start}x{}x{}", std::process::id(), clock::now() / 1_000_000),
            pending: HashMap::new(),
            byes: VecDeque::new(),
            calls: 0,
            calls_before: 0,
            branches: 0,
            window: (0, Nanos::MAX),
            hold: 0,
            latencies: Vec::new(),
            lates: Vec::new(),
            done: 0,
            failed: 0,
            invited: 0,
            repeated: 0,
            rtp_ports: Vec::new(),
            told: HashMap::new(),
            media: Media::Pcmu,
            talk: None,
        }
    }

    /// Calls have sound from now on.
    pub(crate) fn let_talk(&mut self, talk: Talk) {
        self.rtp_ports = talk.ports(self.users.len());
        self.talk = Some(talk);
    }

    /// Registers everybody, again when somebody was refused: a server may learn of its users a moment after their import.
    pub(crate) fn register_all(&mut self, rate: u32) {
        let window = Duration::from_secs_f64(self.users.len() as f64 / f64::from(rate));
        let (kind, none) = (Kind::Register, Duration::ZERO);
        let plan = Plan { kind, rate, warmup: none, window, hold: none };
        let failed = |_| self.run(&plan, &Meter::default()).failed;
        let last = (0..3).map(failed).find(|failed| *failed == 0);
        assert!(last.is_some(), "registrations fail");
    }

    /// An open loop.
    pub(crate) fn run(&mut self, plan: &Plan, meter: &Meter) -> Seen {
        let interval = 1_000_000_000 / Nanos::from(plan.rate);
        let begin = clock::now() + TICK;
        let from = begin + clock::in_nanos(plan.warmup);
        let to = from + clock::in_nanos(plan.window);
        self.reset((from, to), clock::in_nanos(plan.hold));
        let (mut next, mut number, mut first) = (begin, 0, None);
        while next < to {
            self.turn();
            let now = clock::now();
            if now >= from && first.is_none() {
                first = Some(meter.read());
            }
            while next <= now && next < to {
                self.begin(plan.kind, number, next);
                (next, number) = (next + interval, number + 1);
            }
            clock::sleep_until(now + TICK);
        }
        while clock::now() < to {
            self.turn();
            clock::sleep_until(to.min(clock::now() + TICK));
        }
        let last = meter.read();
        let used = first.unwrap_or_else(|| last.clone()).until(&last);
        self.drain(to + self.hold + PATIENCE);
        self.seen(used)
    }

    /// Makes calls and leaves them; how many there are.
    pub(crate) fn establish(&mut self, calls: usize, rate: u32) -> usize {
        let interval = 1_000_000_000 / Nanos::from(rate);
        let begin = clock::now();
        self.reset((begin, Nanos::MAX), Nanos::MAX / 4);
        for number in 0..calls {
            let due = begin + interval * number as Nanos;
            while clock::now() < due {
                self.turn();
                clock::sleep_until(due.min(clock::now() + TICK));
            }
            self.begin(Kind::Call, number, due);
        }
        let end = clock::now() + PATIENCE;
        while self.latencies.len() + self.failed < calls && clock::now() < end {
            self.turn();
            clock::sleep_until(clock::now() + TICK);
        }
        self.latencies.len()
    }

    /// Ends what `establish` made; how many of its BYEs were answered well.
    pub(crate) fn hang_up(&mut self, rate: u32) -> usize {
        let interval = 1_000_000_000 / Nanos::from(rate);
        let begin = clock::now();
        for (number, (_, key)) in core::mem::take(&mut self.byes).into_iter().enumerate() {
            let due = begin + interval * number as Nanos;
            while clock::now() < due {
                self.turn();
                clock::sleep_until(due.min(clock::now() + TICK));
            }
            self.bye(key);
        }
        self.drain(clock::now() + PATIENCE);
        self.done
    }

    /// What has come and what is due.
    pub(crate) fn turn(&mut self) {
        for index in 0..self.wires.len() {
            let mut arrivals = Vec::new();
            self.reader.read(&self.wires[index], |bytes, _, at| {
                arrivals.push((Bytes::copy_from_slice(bytes), at));
            });
            for (bytes, at) in arrivals {
                match Message::parse(&bytes) {
                    Ok(Message::Request(request)) => self.handle_request(index, &request),
                    Ok(Message::Response(response)) => self.handle_response(&response, at),
                    Err(_) => self.failed += 1,
                }
            }
        }
        let now = clock::now();
        if let Some(talk) = &mut self.talk {
            talk.turn(now);
        }
        while self.byes.front().is_some_and(|(at, _)| *at <= now) {
            let Some((_, key)) = self.byes.pop_front() else { return };
            self.bye(key);
        }
    }

    fn reset(&mut self, window: (Nanos, Nanos), hold: Nanos) {
        (self.window, self.hold) = (window, hold);
        self.calls_before = self.calls;
        (self.done, self.failed, self.invited, self.repeated) = (0, 0, 0, 0);
        self.latencies.clear();
        self.lates.clear();
        self.pending.clear();
        self.byes.clear();
    }

    fn drain(&mut self, until: Nanos) {
        while !self.pending.is_empty() && clock::now() < until {
            self.turn();
            clock::sleep_until(clock::now() + TICK);
        }
        self.failed += self.pending.len();
        self.pending.clear();
    }

    fn seen(&mut self, used: Used) -> Seen {
        self.lates.sort_unstable();
        let late = self.lates.get(self.lates.len() * 99 / 100).copied().unwrap_or(0);
        // Every INVITE of ours reaches a callee once.
        let begun = usize::try_from(self.calls - self.calls_before).unwrap_or(usize::MAX);
        let again = self.invited.saturating_sub(begun);
        Seen {
            latencies: core::mem::take(&mut self.latencies),
            done: self.done,
            failed: self.failed,
            repeated: self.repeated + again,
            late,
            used,
        }
    }

    fn begin(&mut self, kind: Kind, number: usize, scheduled: Nanos) {
        if self.is_in_window(scheduled) {
            self.lates.push(clock::now().saturating_sub(scheduled));
        }
        let (key, user, request) = match kind {
            Kind::Register => {
                let user = number % self.users.len();
                (Key::Registration(user), user, self.registration(user))
            }
            Kind::Call => {
                self.calls += 1;
                let user = number % (self.users.len() / 2) * 2;
                (Key::Call(self.calls), user, self.invite(user))
            }
        };
        self.send(user, &request);
        let pending = Pending { scheduled, user, request, challenged: false, dialog: None };
        if self.pending.insert(key, pending).is_some() {
            self.failed += 1;
        }
    }

    fn is_in_window(&self, at: Nanos) -> bool {
        (self.window.0..self.window.1).contains(&at)
    }

    fn handle_response(&mut self, response: &Response, at: Nanos) {
        let Some(key) = response.call_id().and_then(|id| self.key(id)) else { return };
        let Some(cseq) = response.cseq() else { return };
        let Some(pending) = self.pending.get(&key) else {
            self.repeated += 1;
            return;
        };
        if !response.status.is_final() {
            return;
        }
        let is_current = pending.request.cseq().is_some_and(|own| own == cseq);
        match (&cseq.method, response.status.0) {
            (Method::Invite, 200..=299) if pending.dialog.is_some() => {
                self.repeated += 1;
                self.acknowledge(key);
            }
            _ if !is_current => self.repeated += 1,
            (Method::Invite, 200..=299) => self.answered(key, response, at),
            (method, 401 | 407) => {
                if *method == Method::Invite {
                    self.acknowledge_refusal(key, response);
                }
                self.again(key, response);
            }
            (Method::Invite, _) => {
                self.acknowledge_refusal(key, response);
                self.fail(key);
            }
            (_, 200..=299) => self.succeed(key, at),
            _ => self.fail(key),
        }
    }

    /// The same with credentials; once.
    fn again(&mut self, key: Key, response: &Response) {
        let Some(mut pending) = self.pending.remove(&key) else { return };
        let asks = match response.status.0 {
            407 => HeaderName::ProxyAuthenticate,
            _ => HeaderName::WwwAuthenticate,
        };
        let challenge = response.headers.get(&asks).filter(|_| !pending.challenged);
        let Some(challenge) = challenge else { return self.failed += 1 };
        pending.challenged = true;
        let user = pending.user;
        self.users[user].challenge = Some(challenge.to_owned());
        let number = pending.request.cseq().map_or(1, |cseq| cseq.number) + 1;
        let method = pending.request.method.clone();
        pending.request.headers.set(HeaderName::CSeq, format!("{number} {method}"));
        let via = self.via(user);
        pending.request.headers.set(HeaderName::Via, via);
        self.authorize(user, &mut pending.request);
        if !key.is_call() {
            self.users[user].cseq = number;
        }
        self.send(user, &pending.request);
        self.pending.insert(key, pending);
    }

    fn answered(&mut self, key: Key, response: &Response, at: Nanos) {
        let Some(pending) = self.pending.get_mut(&key) else { return };
        let mut dialog = Dialog::from_own_request(&pending.request).expect("an INVITE of ours");
        dialog.establish(response);
        pending.dialog = Some(dialog);
        let (scheduled, user) = (pending.scheduled, pending.user);
        if self.is_in_window(scheduled) {
            self.latencies.push(at.saturating_sub(scheduled));
        }
        self.learn_media(user, &response.body);
        self.acknowledge(key);
        let now = clock::now();
        let until = now.saturating_add(self.hold);
        let told = self.told.get(&user).zip(self.told.get(&(user + 1)));
        if let Some((talk, (caller, callee))) = self.talk.as_mut().zip(told) {
            talk.begin(user, [caller.at, callee.at], now, until);
        }
        self.byes.push_back((until, key));
    }

    fn acknowledge(&mut self, key: Key) {
        let Some(pending) = self.pending.get(&key) else { return };
        let Some(dialog) = &pending.dialog else { return };
        let number = pending.request.cseq().map_or(1, |cseq| cseq.number);
        let (user, ack) = (pending.user, dialog.ack(number));
        self.send_in_dialog(user, ack);
    }

    fn bye(&mut self, key: Key) {
        let Some(pending) = self.pending.get_mut(&key) else { return };
        let Some(dialog) = &mut pending.dialog else { return };
        let (user, bye) = (pending.user, dialog.request(Method::Bye));
        let bye = self.send_in_dialog(user, bye);
        if let Some(pending) = self.pending.get_mut(&key) {
            pending.request = bye;
        }
    }

    fn send_in_dialog(&mut self, user: usize, mut request: Request) -> Request {
        let via = self.via(user);
        request.headers.push_front(HeaderName::Via, via);
        request.headers.set(HeaderName::MaxForwards, "70");
        self.send(user, &request);
        request
    }

    /// RFC 3261 §17.1.1.3.
    fn acknowledge_refusal(&mut self, key: Key, response: &Response) {
        let Some(pending) = self.pending.get(&key) else { return };
        let invite = &pending.request;
        let mut ack = Request::new(Method::Ack, invite.uri.clone());
        for name in [HeaderName::Via, HeaderName::From, HeaderName::CallId] {
            ack.headers.push(name.clone(), invite.headers.get(&name).unwrap_or_default());
        }
        ack.headers.push(HeaderName::To, response.headers.get(&HeaderName::To).unwrap_or_default());
        let number = invite.cseq().map_or(1, |cseq| cseq.number);
        ack.headers.push(HeaderName::CSeq, format!("{number} ACK"));
        ack.headers.push(HeaderName::MaxForwards, "70");
        self.send(pending.user, &ack);
    }

    fn succeed(&mut self, key: Key, at: Nanos) {
        let Some(pending) = self.pending.remove(&key) else { return };
        if self.is_in_window(at) {
            self.done += 1;
        }
        if !key.is_call() && self.is_in_window(pending.scheduled) {
            self.latencies.push(at.saturating_sub(pending.scheduled));
        }
    }

    fn fail(&mut self, key: Key) {
        if self.pending.remove(&key).is_some() {
            self.failed += 1;
        }
    }

    /// A callee answers at once, and every time the same.
    fn handle_request(&mut self, wire: usize, request: &Request) {
        if request.method == Method::Ack {
            return;
        }
        let answer = |status| request.response(Status(status), Some("callee"));
        let Some(user) = request.uri.user().and_then(|user| user.strip_prefix('u')?.parse().ok())
        else {
            return self.answer(wire, &answer(200));
        };
        if request.method != Method::Invite {
            return self.answer(wire, &answer(200));
        }
        self.invited += 1;
        self.learn_media(user, &request.body);
        for status in [180, 200] {
            let mut response = answer(status);
            response.headers.push(HeaderName::Contact, self.contact(user));
            if status == 200 {
                response.headers.push(HeaderName::ContentType, "application/sdp");
                response.body = self.sdp(user, self.told.get(&user)).into();
            }
            self.answer(wire, &response);
        }
    }

    fn answer(&self, wire: usize, response: &Response) {
        self.wires[wire].send(&response.to_bytes(), self.server);
    }

    fn learn_media(&mut self, user: usize, body: &[u8]) {
        if self.rtp_ports.is_empty() {
            return;
        }
        if let Some(told) = Described::read(&String::from_utf8_lossy(body)) {
            self.told.insert(user, told);
        }
    }

    fn registration(&mut self, user: usize) -> Request {
        self.users[user].cseq += 1;
        let cseq = self.users[user].cseq;
        let to = format!("<sip:{}@{}>", extension(user), self.server);
        let call = format!("r{user}-{}", self.mark);
        let mut request = self.request(Method::Register, user, &to, &call, cseq);
        request.headers.push(HeaderName::Expires, "300");
        request
    }

    fn invite(&mut self, user: usize) -> Request {
        let to = format!("<sip:{}@{}>", extension(user + 1), self.server);
        let call = format!("c{}-{}", self.calls, self.mark);
        let mut request = self.request(Method::Invite, user, &to, &call, 1);
        request.headers.push(HeaderName::ContentType, "application/sdp");
        request.body = self.sdp(user, None).into();
        self.authorize(user, &mut request);
        request
    }

    fn request(&mut self, method: Method, user: usize, to: &str, call: &str, cseq: u32) -> Request {
        let uri = if method == Method::Register {
            format!("sip:{}", self.server)
        } else {
            to.trim_matches(['<', '>']).to_owned()
        };
        let mut request = Request::new(method, Uri::parse(&uri).expect("a URI"));
        let name = request.method.as_str().to_owned();
        for (header, value) in [
            (HeaderName::Via, self.via(user)),
            (HeaderName::MaxForwards, "70".to_owned()),
            (HeaderName::From, format!("<sip:{}@{}>;tag=t{call}", extension(user), self.server)),
            (HeaderName::To, to.to_owned()),
            (HeaderName::CallId, call.to_owned()),
            (HeaderName::CSeq, format!("{cseq} {name}")),
            (HeaderName::Contact, self.contact(user)),
            (HeaderName::UserAgent, "open loop".to_owned()),
        ] {
            request.headers.push(header, value);
        }
        request
    }

    fn authorize(&mut self, user: usize, request: &mut Request) {
        let state = &mut self.users[user];
        let Some(challenge) = &state.challenge else { return };
        state.count += 1;
        let (method, uri) = (request.method.clone(), request.uri.as_str().to_owned());
        let (name, secret) = (extension(user), password(user));
        let value =
            digest::respond(challenge, &method, &uri, &name, &secret, "cnonce", state.count)
                .expect("a challenge that can be met");
        // A registrar reads the one, a proxy the other, Holdfast both.
        let header = if method == Method::Register {
            HeaderName::Authorization
        } else {
            HeaderName::ProxyAuthorization
        };
        request.headers.set(header, value);
    }

    fn send(&self, user: usize, request: &Request) {
        self.wires[user % WIRES].send(&request.to_bytes(), self.server);
    }

    fn via(&mut self, user: usize) -> String {
        self.branches += 1;
        let (port, branch) = (self.wires[user % WIRES].port, self.branches);
        format!("SIP/2.0/UDP 127.0.0.1:{port};branch=z9hG4bK{branch}x{};rport", self.mark)
    }

    fn contact(&self, user: usize) -> String {
        format!("<sip:{}@127.0.0.1:{}>", extension(user), self.wires[user % WIRES].port)
    }

    fn sdp(&self, user: usize, told: Option<&Described>) -> String {
        let port = self.rtp_ports.get(user).copied().unwrap_or(NO_MEDIA);
        self.media.describe(port, told)
    }

    fn key(&self, call: &str) -> Option<Key> {
        let (number, mark) = call.get(1..)?.split_once('-')?;
        match call.get(..1)? {
            _ if mark != self.mark => None,
            "r" => number.parse().ok().map(Key::Registration),
            _ => number.parse().ok().map(Key::Call),
        }
    }
}

impl Key {
    fn is_call(self) -> bool {
        matches!(self, Self::Call(_))
    }
}
