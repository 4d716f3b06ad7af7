//! All phones in one thread: an open loop of sound, calls and what is done with them.
//!
//! Invariant: nothing here waits; whoever owns the crowd gives it turns, a millisecond apart.

use super::super::clock::{self, Nanos};
use super::super::world::own_ip;
use super::audio::Audio;
use super::pair::{Class, Early, Entry, Pair, Step, Use};
use super::phone::{Heard, Phone, Purpose, Talk};
use holdfast::sip::{Dialog, Method, Request, Response};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollTimeout};
use std::net::SocketAddrV4;

const MS: Nanos = 1_000_000;
const TICK: Nanos = MS;
/// How often all phones are looked at for what is due.
const SWEEP: Nanos = 5 * MS;
/// How long a hold lasts, and how long after a resume both are listened for.
const PAUSE: Nanos = 1_000 * MS;
/// Of calls that are made all the time.
const SHORT_TALK: Nanos = 2_000 * MS;
/// Events read at a time.
const EVENTS: usize = 256;

/// Who does what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Habits {
    pub(crate) talking: usize,
    pub(crate) held: usize,
    pub(crate) ringing: usize,
    /// Pairs that make short calls all the time.
    pub(crate) calling: usize,
    /// Percents of all phones.
    pub(crate) on_tcp: usize,
    pub(crate) rude: usize,
    /// Percents of the calls that are used about the time of the fault.
    pub(crate) early: usize,
    /// From one packet to the next.
    pub(crate) packet_ms: u32,
}

/// All phones.
pub(crate) struct Crowd {
    epoll: Epoll,
    phones: Vec<Phone>,
    pub(super) pairs: Vec<Pair>,
    pub(super) audio: Audio,
    /// Calls that are over and must have a CDR each, of pairs that go on to call.
    book: Vec<Entry>,
    swept: Nanos,
    /// The next of the short calls.
    next_short: Option<(Nanos, Nanos)>,
    pub(super) short_calls: usize,
    pub(super) short_failures: usize,
    pub(super) register_failures: usize,
    /// Requests within a dialog that a rude phone refused.
    pub(super) refusals: usize,
    /// Who was asked within its dialog, and when.
    pub(super) asked: Vec<(usize, Nanos)>,
    packet_ms: u32,
}

/// Whether this one has a habit that so many percent have: the same in every run. Habits of different `salt` mix.
fn has(number: usize, percent: usize, salt: usize) -> bool {
    // 37 and 100 have no common divisor: a hundred neighbours have a hundred different values.
    (number + number / 100 * salt) * 37 % 100 < percent
}

impl Crowd {
    pub(crate) fn new(server: SocketAddrV4, habits: &Habits) -> Self {
        let mark = format!("{}x{}", std::process::id(), clock::now() / MS);
        let calls = habits.talking + habits.held + habits.ringing;
        let phones = 2 * (calls + habits.calling);
        let phone =
            |number: usize| Phone::new(number, server, has(number + 11, habits.on_tcp, 7), &mark);
        let pair = |number: usize| {
            let class = match number {
                _ if number >= calls => Class::Calling,
                _ if has(number, 100 * habits.ringing / calls.max(1), 3) => Class::Ringing,
                _ if has(number, 100 * (habits.ringing + habits.held) / calls.max(1), 3) => {
                    Class::Held
                }
                _ => Class::Talking,
            };
            let usage = [Use::CallerEnds, Use::CalleeEnds, Use::CallerHolds][number % 3];
            let is_rude = (0..2).any(|side| has(2 * number + side + 23, habits.rude, 13));
            let mut pair = Pair::new(class, usage, is_rude);
            pair.is_early = class == Class::Talking && has(number + 31, habits.early, 3);
            pair
        };
        Self {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).expect("every Linux has it"),
            phones: (0..phones).map(phone).collect(),
            pairs: (0..phones / 2).map(pair).collect(),
            audio: Audio::new(2 * calls, habits.packet_ms),
            packet_ms: habits.packet_ms,
            book: Vec::new(),
            swept: 0,
            next_short: None,
            short_calls: 0,
            short_failures: 0,
            register_failures: 0,
            refusals: 0,
            asked: Vec::new(),
        }
    }

    pub(super) fn phones(&self) -> usize {
        self.phones.len()
    }

    /// What has come and what is due.
    pub(super) fn turn(&mut self) {
        self.audio.turn();
        self.read_lines();
        let now = clock::now();
        if now >= self.swept + SWEEP {
            self.swept = now;
            self.sweep(now);
        }
        clock::sleep_until(now + TICK);
    }

    pub(super) fn register(&mut self, number: usize) {
        let (phone, now) = (&mut self.phones[number], clock::now());
        let was_open = phone.line.is_open();
        if !phone.line.open(&self.epoll, number as u64) {
            phone.register_at = now + PAUSE;
            return;
        }
        phone.register(now);
        if !was_open {
            phone.ask_again();
        }
    }

    pub(super) fn registered(&self) -> usize {
        self.phones.iter().filter(|phone| phone.is_registered).count()
    }

    /// The caller of a pair calls its callee.
    pub(super) fn call(&mut self, pair: usize) {
        let sdp = self.sdp(2 * pair, 1, "sendrecv");
        let call_id = self.phones[2 * pair].invite(2 * pair + 1, sdp, clock::now());
        let pair = &mut self.pairs[pair];
        (pair.call_id, pair.answered, pair.ended) = (call_id, None, None);
    }

    /// The caller of a pair holds until the call is used.
    pub(super) fn hold(&mut self, pair: usize) {
        self.audio.hold(2 * pair, true);
        self.pairs[pair].step = Step::Holding;
        self.ask(2 * pair, Purpose::Hold, "sendonly", clock::now());
    }

    /// Pairs that are there for it make short calls from now on, so many a second.
    pub(super) fn begin_short_calls(&mut self, rate: u32) {
        let interval = 1_000 * MS / Nanos::from(rate.max(1));
        self.next_short = Some((clock::now(), interval));
    }

    pub(super) fn end_short_calls(&mut self) {
        self.next_short = None;
    }

    /// Callees that ring answer then.
    pub(super) fn answer_at(&mut self, at: Nanos) {
        let rings = self.pairs.iter_mut().filter(|pair| pair.class == Class::Ringing);
        rings.for_each(|pair| pair.answers_at = Some(at));
    }

    pub(super) fn is_ringing(&self, pair: usize) -> bool {
        let talk = self.phones[2 * pair + 1].talk.as_ref();
        talk.is_some_and(|talk| talk.ringing.is_some())
    }

    /// Connections that broke.
    pub(super) fn broken(&self) -> usize {
        self.phones.iter().map(|phone| phone.line.broken).sum()
    }

    /// Calls that must have a CDR.
    pub(crate) fn answered_calls(&self) -> usize {
        self.book().len()
    }

    /// All calls that were answered.
    pub(super) fn book(&self) -> Vec<Entry> {
        let now = clock::now();
        let last = self.pairs.iter().filter_map(|pair| pair.entry(now));
        self.book.iter().cloned().chain(last).collect()
    }

    /// Its call is used now; the account of its sound is closed.
    pub(super) fn use_call(&mut self, pair: usize) {
        let now = clock::now();
        let is_held = self.pairs[pair].class == Class::Held;
        if self.pairs[pair].step != Step::Idle && !is_held {
            return;
        }
        let both = [2 * pair, 2 * pair + 1];
        both.into_iter().for_each(|phone| self.audio.close(phone));
        self.pairs[pair].heard = both.into_iter().all(|phone| self.audio.ear(phone).was_hearing);
        if !self.pairs[pair].is_up() {
            self.pairs[pair].step = Step::Done;
            return;
        }
        match self.pairs[pair].usage {
            _ if is_held => self.pairs[pair].step = Step::HeldUntil(now),
            Use::CallerEnds => self.end(pair, 0, now),
            Use::CalleeEnds => self.end(pair, 1, now),
            Use::CallerHolds => self.hold(pair),
        }
    }

    fn end(&mut self, pair: usize, side: usize, now: Nanos) {
        self.pairs[pair].step = Step::Ending;
        self.pairs[pair].ended.get_or_insert(now);
        [2 * pair, 2 * pair + 1].into_iter().for_each(|phone| self.audio.hush(phone));
        let phone = &mut self.phones[2 * pair + side];
        if !phone.ask_in_dialog(Method::Bye, Purpose::Bye, None, now) {
            self.pairs[pair].step = Step::Done;
        }
    }

    fn ask(&mut self, number: usize, purpose: Purpose, direction: &str, now: Nanos) {
        let Some(talk) = &mut self.phones[number].talk else { return };
        talk.version += 1;
        let version = talk.version;
        let sdp = self.sdp(number, version, direction);
        self.phones[number].ask_in_dialog(Method::Invite, purpose, Some(sdp), now);
    }

    fn sdp(&self, number: usize, version: u32, direction: &str) -> String {
        sdp(self.audio.port(number), version, direction, self.packet_ms)
    }

    fn read_lines(&mut self) {
        let mut events = [EpollEvent::empty(); EVENTS];
        let count = self.epoll.wait(&mut events, EpollTimeout::ZERO).unwrap_or(0);
        for event in &events[..count] {
            let number = usize::try_from(event.data()).expect("a number of ours");
            let messages = self.phones[number].line.read();
            let now = clock::now();
            for bytes in messages {
                if let Some(heard) = self.phones[number].hear(&bytes, now) {
                    self.handle(number, heard, now);
                }
            }
            if !self.phones[number].line.is_open() {
                // A phone whose connection broke comes back by another.
                self.phones[number].register_at = now;
            }
        }
    }

    fn sweep(&mut self, now: Nanos) {
        for number in 0..self.phones.len() {
            for heard in self.phones[number].repeat(now) {
                self.handle(number, heard, now);
            }
            if self.phones[number].register_at <= now {
                self.register(number);
            }
        }
        for pair in 0..self.pairs.len() {
            self.go_on(pair, now);
        }
        if let Some((at, interval)) = self.next_short.filter(|(at, _)| *at <= now) {
            self.next_short = Some((at + interval, interval));
            self.begin_short_call();
        }
    }

    /// The next pair that is free.
    fn begin_short_call(&mut self) {
        let is_free = |pair: &Pair| pair.class == Class::Calling && pair.next == Nanos::MAX;
        let free = self.pairs.iter().position(is_free);
        let Some(pair) = free else { return };
        self.short_calls += 1;
        // Not free until it is over.
        self.pairs[pair].next = 0;
        self.call(pair);
    }

    fn go_on(&mut self, pair: usize, now: Nanos) {
        if self.pairs[pair].answers_at.is_some_and(|at| at <= now) && self.is_ringing(pair) {
            self.pairs[pair].answers_at = None;
            self.accept(2 * pair + 1, now);
        }
        match self.pairs[pair].step {
            Step::HeldUntil(at) if at <= now => {
                self.audio.hold(2 * pair, false);
                if self.pairs[pair].hold.is_some_and(|status| status < 300) {
                    self.pairs[pair].step = Step::Resuming;
                    self.ask(2 * pair, Purpose::Resume, "sendrecv", now);
                } else {
                    self.end(pair, 0, now);
                }
            }
            Step::Resumed(at) if at <= now => {
                let mut both = [2 * pair, 2 * pair + 1].into_iter();
                self.pairs[pair].heard_again = both.all(|phone| self.audio.is_hearing(phone));
                self.end(pair, 0, now);
            }
            Step::Idle if (1..=now).contains(&self.pairs[pair].next) => self.end(pair, 0, now),
            _ => {}
        }
    }

    fn handle(&mut self, number: usize, heard: Heard, now: Nanos) {
        match heard {
            Heard::Answer { purpose: Purpose::Register, response, .. } => {
                self.register_failures += usize::from(!response.status.is_success());
            }
            Heard::Silent { purpose: Purpose::Register, .. } => self.register_failures += 1,
            Heard::Answer { purpose: Purpose::Invite, response, .. } => {
                self.handle_invited(number, &response, now);
            }
            Heard::Silent { purpose: Purpose::Invite, .. } => self.not_called(number / 2, 0),
            Heard::Answer { purpose, response, began } => {
                if matches!(purpose, Purpose::Hold | Purpose::Resume) {
                    self.learn_audio(number, &response.body);
                }
                self.handle_used(number / 2, purpose, response.status.0, began, now);
            }
            Heard::Silent { purpose, began } => {
                self.handle_used(number / 2, purpose, 0, began, now);
            }
            Heard::Request(request) => self.handle_request(number, &request, now),
            Heard::Acknowledged => {}
        }
    }

    fn handle_invited(&mut self, number: usize, response: &Response, now: Nanos) {
        let pair = number / 2;
        if !response.status.is_success() {
            return self.not_called(pair, response.status.0);
        }
        self.pairs[pair].answered = Some(now);
        if self.pairs[pair].class == Class::Calling {
            self.pairs[pair].next = now + SHORT_TALK;
        }
        self.learn_audio(number, &response.body);
    }

    fn not_called(&mut self, pair: usize, status: u16) {
        eprintln!("pair {pair}: its call was answered by {status}");
        let pair = &mut self.pairs[pair];
        pair.refused = Some(status);
        if pair.class == Class::Calling {
            self.short_failures += 1;
            (pair.next, pair.answered) = (Nanos::MAX, None);
        }
    }

    fn handle_used(
        &mut self,
        pair: usize,
        purpose: Purpose,
        status: u16,
        began: Nanos,
        now: Nanos,
    ) {
        if !(200..300).contains(&status) && status != 488 {
            eprintln!("pair {pair}: {purpose:?} was answered by {status}");
        }
        let pair = &mut self.pairs[pair];
        if pair.is_early && pair.early.is_none() {
            pair.early = Some(Early { asked: began, answered: now, status });
        } else if purpose == Purpose::Bye {
            pair.bye = Some(status);
        }
        match purpose {
            Purpose::Hold => {
                pair.hold = Some(status);
                let is_for_long = pair.class == Class::Held;
                let end = if is_for_long { Nanos::MAX } else { now + PAUSE };
                pair.step = Step::HeldUntil(end);
            }
            Purpose::Resume => {
                pair.resume = Some(status);
                pair.step = Step::Resumed(now + PAUSE);
            }
            Purpose::Bye => pair.step = Step::Done,
            Purpose::Register | Purpose::Invite => {}
        }
        if purpose == Purpose::Bye && pair.class == Class::Calling {
            self.short_failures += usize::from(status != 200);
            self.book.extend(pair.entry(now));
            (pair.step, pair.next, pair.answered) = (Step::Idle, Nanos::MAX, None);
        }
    }

    fn handle_request(&mut self, number: usize, request: &Request, now: Nanos) {
        let pair = number / 2;
        let is_ours = self.phones[number].talk.as_ref().is_some_and(|talk| is_of(request, talk));
        match request.method {
            Method::Invite if request.to().is_some_and(|to| to.tag().is_none()) => {
                self.ring(number, request, now);
            }
            Method::Invite | Method::Update if is_ours => self.modify(number, request, now),
            Method::Cancel => {
                self.phones[number].answer(request, 200, None, now);
                let talk = self.phones[number].talk.take_if(|talk| talk.ringing.is_some());
                if let Some(invite) = talk.and_then(|talk| talk.ringing) {
                    self.phones[number].answer(&invite, 487, None, now);
                }
            }
            Method::Bye if is_ours => {
                self.phones[number].answer(request, 200, None, now);
                self.pairs[pair].unexpected += usize::from(self.pairs[pair].ended.is_none());
                self.pairs[pair].ended.get_or_insert(now);
                [2 * pair, 2 * pair + 1].into_iter().for_each(|phone| self.audio.hush(phone));
                self.phones[number].talk = None;
            }
            Method::Bye | Method::Invite | Method::Update => {
                self.phones[number].answer(request, 481, None, now);
            }
            _ => self.phones[number].answer(request, 200, None, now),
        }
    }

    fn ring(&mut self, number: usize, invite: &Request, now: Nanos) {
        if self.is_ringing(number / 2) {
            // It rings already by another branch (RFC 3261 §8.2.2.2).
            return self.phones[number].answer(invite, 482, None, now);
        }
        let Some(dialog) = Dialog::from_request(invite, "callee") else { return };
        self.phones[number].talk = Some(Talk { dialog, ringing: Some(invite.clone()), version: 0 });
        self.phones[number].answer(invite, 180, None, now);
        let pair = &self.pairs[number / 2];
        if pair.class != Class::Ringing {
            self.accept(number, now);
        }
    }

    fn accept(&mut self, number: usize, now: Nanos) {
        let Some(talk) = &mut self.phones[number].talk else { return };
        let Some(invite) = talk.ringing.take() else { return };
        talk.version += 1;
        let version = talk.version;
        let sdp = self.sdp(number, version, "sendrecv");
        self.phones[number].answer(&invite, 200, Some(sdp), now);
        self.learn_audio(number, &invite.body);
    }

    fn modify(&mut self, number: usize, request: &Request, now: Nanos) {
        let is_rude = self.pairs[number / 2].is_rude;
        self.asked.push((number, now));
        if request.body.is_empty() && request.method == Method::Update {
            return self.phones[number].answer(request, 200, None, now);
        }
        if is_rude {
            self.refusals += 1;
            return self.phones[number].answer(request, 488, None, now);
        }
        let Some(talk) = &mut self.phones[number].talk else { return };
        if let Some(contact) = request.contact() {
            talk.dialog.refresh_target(&contact);
        }
        talk.version += 1;
        let version = talk.version;
        let direction = match direction(&request.body) {
            "sendonly" => "recvonly",
            "recvonly" => "sendonly",
            "inactive" => "inactive",
            _ => "sendrecv",
        };
        let sdp = self.sdp(number, version, direction);
        self.phones[number].answer(request, 200, Some(sdp), now);
        self.audio.hold(number, matches!(direction, "recvonly" | "inactive"));
        self.learn_audio(number, &request.body);
    }

    fn learn_audio(&mut self, number: usize, body: &[u8]) {
        if self.pairs[number / 2].class != Class::Calling
            && self.pairs[number / 2].ended.is_none()
            && let Some(to) = audio_address(body)
        {
            self.audio.talk(number, to);
        }
    }
}

fn is_of(request: &Request, talk: &Talk) -> bool {
    request.call_id() == Some(talk.dialog.call_id.as_str())
}

fn line<'a>(body: &'a [u8], start: &str) -> Option<&'a str> {
    let text = std::str::from_utf8(body).ok()?;
    text.lines().find_map(|line| line.strip_prefix(start)).map(str::trim)
}

fn audio_address(body: &[u8]) -> Option<SocketAddrV4> {
    let port = line(body, "m=audio ")?.split(' ').next()?.parse().ok()?;
    Some(SocketAddrV4::new(line(body, "c=IN IP4 ")?.parse().ok()?, port))
}

fn direction(body: &[u8]) -> &'static str {
    let all = ["sendonly", "recvonly", "inactive"];
    let found = all.into_iter().find(|direction| line(body, &format!("a={direction}")).is_some());
    found.unwrap_or("sendrecv")
}

fn sdp(port: u16, version: u32, direction: &str, packet_ms: u32) -> String {
    let ip = own_ip();
    format!(
        "v=0\r\no=- 4711 {version} IN IP4 {ip}\r\ns=-\r\nc=IN IP4 {ip}\r\nt=0 0\r\n\
         m=audio {port} RTP/AVP 0 101\r\na=rtpmap:0 PCMU/8000\r\n\
         a=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-16\r\na=ptime:{packet_ms}\r\na={direction}\r\n"
    )
}
