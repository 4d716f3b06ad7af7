//! Many calls at a time between our phones, each with a mouth and an ear at both ends that keep count of every packet.

use crate::common::phone::{Phone, callee_dialog};
use crate::common::rtp::{Arrival, Talk};
use crate::common::server::Server;
use crate::common::speech::Law;
use crate::common::srtp::{CM_80, GCM_128, Secured};
use crate::common::{SOON, eventually, own_ip, set_own_ip};
use crate::pair::{CALLEE_HZ, CALLER_HZ, phone, ring};
use holdfast::sip::{Dialog, Message, Method, Status};
use serde_json::json;
use std::thread;
use std::time::{Duration, Instant};

/// What the phones of a call speak; the caller always PCMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    /// The callee's.
    pub(crate) law: Law,
    /// SRTP on both sides, each with a suite of its own.
    pub(crate) secured: bool,
}

impl Kind {
    pub(crate) const RELAYED: Self = Self { law: Law::Mu, secured: false };
    pub(crate) const LAWS: Self = Self { law: Law::A, secured: false };
    /// Every one that there is.
    pub(crate) const ALL: [Self; 5] = [
        Self::RELAYED,
        Self { law: Law::Opus, secured: false },
        Self { law: Law::Mu, secured: true },
        Self { law: Law::Opus, secured: true },
        Self::LAWS,
    ];
}

/// One call.
struct Conversation {
    caller: Talk,
    callee: Talk,
    dialog: Dialog,
    /// Of the dialog with the callee.
    callee_call_id: String,
    kind: Kind,
}

impl Conversation {
    fn talks(&self) -> [(&Talk, u32); 2] {
        [(&self.caller, CALLEE_HZ), (&self.callee, CALLER_HZ)]
    }
}

/// Two phones that all calls of theirs are between.
struct Line {
    caller: Phone,
    callee: Phone,
}

impl Line {
    fn new(server: &Server, [caller, callee]: [&str; 2]) -> Self {
        let callee = phone(server, callee, "udp");
        Self { caller: phone(server, caller, "udp"), callee }
    }

    /// For SRTP.
    fn secured(server: &Server) -> Self {
        let users = ["1003", "1004"];
        for user in users {
            server.user_with(user, &json!({"srtp": "mandatory"}));
        }
        Self::new(server, users)
    }
}

/// All of them.
pub(crate) struct Crowd {
    lines: Vec<Line>,
    conversations: Vec<Conversation>,
}

impl Crowd {
    /// So many calls are answered; in `transcoded` of them the phones speak different laws.
    pub(crate) fn talking(server: &Server, calls: usize, transcoded: usize) -> Self {
        let lines = vec![Line::new(server, ["1001", "1002"])];
        let mut crowd = Self { lines, conversations: Vec::new() };
        for number in 0..calls {
            crowd.call(server, if number < transcoded { Kind::LAWS } else { Kind::RELAYED });
        }
        crowd.hear_each_other();
        crowd
    }

    /// So many calls, of every kind about as many.
    pub(crate) fn of_every_kind(server: &Server, calls: usize) -> Self {
        let lines = vec![Line::new(server, ["1001", "1002"]), Line::secured(server)];
        let mut crowd = Self { lines, conversations: Vec::new() };
        Kind::ALL.iter().cycle().take(calls).for_each(|kind| crowd.call(server, *kind));
        crowd.hear_each_other();
        crowd
    }

    /// One more call.
    pub(crate) fn call(&mut self, server: &Server, kind: Kind) {
        let talks = [(CALLER_HZ, Law::Mu, CM_80), (CALLEE_HZ, kind.law, GCM_128)];
        let [caller, callee] = talks.map(|(hz, law, suite)| {
            let talk = Talk::speaking(hz, law);
            // Opus does not carry the numbers.
            let talk = if kind.law == Law::Opus { talk } else { talk.numbered() };
            match kind.secured {
                true => talk.secured(Secured::new(suite, "RTP/SAVP", hz as u8)),
                false => talk,
            }
        });
        let line = &mut self.lines[usize::from(kind.secured)];
        let to = line.callee.user.clone();
        let offer = caller.sdp(1, "sendrecv");
        let uri = server.uri(&to);
        let (invite, received) = eventually("the switch has room", SOON, || {
            ring(&mut line.caller, &mut line.callee, &uri, &offer)
        });
        callee.told(&received.body);
        line.callee.respond(&received, 200, "callee", Some(&callee.sdp(1, "sendrecv")));
        let accepted = line.caller.response_to(&Method::Invite);
        assert_eq!(accepted.status, Status(200));
        let dialog = Phone::caller_dialog(&invite, &accepted);
        line.caller.acknowledge(&dialog, &invite, None);
        line.callee.request_of(&Method::Ack);
        callee_dialog(&received, "callee");
        caller.told(&accepted.body);
        let callee_call_id = received.call_id().expect("a Call-ID").to_owned();
        self.conversations.push(Conversation { caller, callee, dialog, callee_call_id, kind });
    }

    /// Both phones of all calls are told of another media node, at once, and take it.
    pub(crate) fn follows(&mut self) {
        let Self { lines, conversations } = self;
        let calls: &[Conversation] = conversations;
        let ip = own_ip();
        thread::scope(|scope| {
            for (number, Line { caller, callee }) in lines.iter_mut().enumerate() {
                let is_here = move |call: &&Conversation| usize::from(call.kind.secured) == number;
                let of_line = move || calls.iter().filter(is_here);
                let count = of_line().count();
                scope.spawn(move || {
                    set_own_ip(ip);
                    follow(caller, count, |call_id| {
                        Some(&of_line().find(|call| call.dialog.call_id == call_id)?.caller)
                    });
                });
                scope.spawn(move || {
                    set_own_ip(ip);
                    follow(callee, count, |call_id| {
                        Some(&of_line().find(|call| call.callee_call_id == call_id)?.callee)
                    });
                });
            }
        });
    }

    /// In all calls both hear the other from now on.
    pub(crate) fn hear_each_other(&self) {
        let talks = || self.conversations.iter().flat_map(Conversation::talks);
        talks().for_each(|(talk, _)| talk.listen());
        eventually("everybody hears the other", SOON * 2, || {
            talks().all(|(talk, hertz)| talk.is_hearing(hertz)).then_some(())
        });
    }

    /// Everybody stops to speak, what is on its way arrives, and nothing of it was lost: each ear heard one source
    /// without a gap. Answers how many packets that were.
    pub(crate) fn check_that_nothing_was_lost(&self) -> u64 {
        let talks = || self.conversations.iter().flat_map(Conversation::talks);
        talks().for_each(|(talk, _)| talk.mute(true));
        let counts = || talks().map(|(talk, _)| talk.came().len()).collect::<Vec<_>>();
        let (mut before, mut since) = (counts(), Instant::now());
        eventually("all is silent", SOON, || {
            let now = counts();
            if now != before {
                (before, since) = (now, Instant::now());
            }
            (since.elapsed() > Duration::from_millis(300)).then_some(())
        });
        for (number, conversation) in self.conversations.iter().enumerate() {
            for (talk, _) in conversation.talks() {
                let came = talk.came();
                check_line(number, &came);
                if conversation.kind.law == Law::Mu {
                    check_numbers(number, &came);
                }
            }
        }
        talks().for_each(|(talk, _)| talk.mute(false));
        talks().map(|(talk, _)| talk.sent()).sum()
    }

    /// The longest silence at each ear since then, in order.
    pub(crate) fn silences_since(&self, since: Instant) -> Vec<Duration> {
        let silence = |talk: &Talk| {
            let times: Vec<Instant> = core::iter::once(since)
                .chain(talk.came().iter().map(|arrival| arrival.at).filter(|at| *at > since))
                .collect();
            let gaps = times.windows(2).map(|pair| pair[1] - pair[0]);
            gaps.max().unwrap_or_else(|| since.elapsed())
        };
        let talks = self.conversations.iter().flat_map(Conversation::talks);
        let mut silences: Vec<Duration> = talks.map(|(talk, _)| silence(talk)).collect();
        silences.sort_unstable();
        silences
    }

    /// One SSRC an ear, for all the call.
    pub(crate) fn check_sources(&self) {
        for (talk, _) in self.conversations.iter().flat_map(Conversation::talks) {
            let came = talk.came();
            assert!(came.iter().all(|arrival| arrival.ssrc == came[0].ssrc), "another SSRC");
        }
    }

    /// Neither phone was told anything.
    pub(crate) fn check_that_no_phone_was_told(&mut self) {
        let phones = self.lines.iter_mut().flat_map(|line| [&mut line.caller, &mut line.callee]);
        for phone in phones {
            let is_told = |message: &Message| match message {
                Message::Request(request) => request.method != Method::Ack,
                Message::Response(_) => false,
            };
            assert!(!phone.comes(Duration::from_millis(100), is_told), "a phone was told");
        }
    }

    /// All calls end; each end is told to the other side. How many packets each phone sent, in order of the calls.
    pub(crate) fn hang_up(mut self) -> Vec<[u64; 2]> {
        let mut sent = Vec::new();
        for mut conversation in self.conversations {
            sent.push([conversation.caller.sent(), conversation.callee.sent()]);
            let line = &mut self.lines[usize::from(conversation.kind.secured)];
            line.caller.hang_up(&mut conversation.dialog);
            let bye = line.callee.request_of(&Method::Bye);
            line.callee.respond(&bye, 200, "unused", None);
        }
        sent
    }
}

/// So many re-INVITEs are taken.
fn follow<'a>(phone: &mut Phone, count: usize, whose: impl Fn(&str) -> Option<&'a Talk>) {
    for _ in 0..count {
        let invite = phone.request_of(&Method::Invite);
        let talk = whose(invite.call_id().expect("a Call-ID")).expect("a call of ours");
        talk.told(&invite.body);
        phone.respond(&invite, 200, "unused", Some(&talk.sdp(1, "sendrecv")));
    }
    for _ in 0..count {
        phone.request_of(&Method::Ack);
    }
}

/// One source without a gap.
pub(crate) fn check_line(number: usize, came: &[Arrival]) {
    assert!(!came.is_empty(), "call {number}: nothing came");
    for pair in came.windows(2) {
        let [before, after] = pair else { continue };
        assert_eq!(before.ssrc, after.ssrc, "call {number}: another SSRC");
        let next = before.sequence.wrapping_add(1);
        assert_eq!(after.sequence, next, "call {number}: a gap, a double or disorder");
    }
}

/// What the far side said, each packet of it once and in order, since its key was known.
fn check_numbers(call: usize, came: &[Arrival]) {
    let known = came.iter().position(|arrival| arrival.number.is_some());
    let heard = &came[known.expect("something was heard")..];
    for pair in heard.windows(2) {
        let next = pair[0].number.map(|number| number.wrapping_add(1));
        assert_eq!(pair[1].number, next, "call {call}: the sound has a gap");
    }
}
