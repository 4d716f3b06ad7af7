//! Many calls at a time between two of our phones, each with a mouth and an ear at both ends that keep count of every
//! packet.

use crate::common::phone::{Phone, audio_address, callee_dialog, sdp};
use crate::common::rtp::{Arrival, Law, Talk};
use crate::common::server::Server;
use crate::common::{SOON, eventually, own_ip, set_own_ip};
use crate::pair::{CALLEE_HZ, CALLER_HZ, phone};
use holdfast::sip::{Dialog, Message, Method, Status};
use std::thread;
use std::time::{Duration, Instant};

/// One call.
struct Conversation {
    caller: Talk,
    callee: Talk,
    dialog: Dialog,
    /// Of the dialog with the callee.
    callee_call_id: String,
    law: Law,
}

impl Conversation {
    fn talks(&self) -> [(&Talk, u32); 2] {
        [(&self.caller, CALLEE_HZ), (&self.callee, CALLER_HZ)]
    }
}

/// All of them.
pub(crate) struct Crowd {
    caller: Phone,
    callee: Phone,
    conversations: Vec<Conversation>,
}

impl Crowd {
    /// So many calls are answered; in `transcoded` of them the phones speak different laws.
    pub(crate) fn talking(server: &Server, calls: usize, transcoded: usize) -> Self {
        let caller = phone(server, "1001", "udp");
        let callee = phone(server, "1002", "udp");
        let mut crowd = Self { caller, callee, conversations: Vec::new() };
        for number in 0..calls {
            crowd.call(server, if number < transcoded { Law::A } else { Law::Mu });
        }
        crowd.hear_each_other();
        crowd
    }

    /// One more call, answered in that law.
    pub(crate) fn call(&mut self, server: &Server, law: Law) {
        let (caller, callee) = (Talk::new(CALLER_HZ), Talk::speaking(CALLEE_HZ, law));
        let offer = sdp(caller.port, 1, "sendrecv");
        let invite = self.caller.invite(&server.uri("1002"), Some(&offer));
        let received = self.callee.request_of(&Method::Invite);
        let answer = answer_in(&callee, law);
        self.callee.respond(&received, 200, "callee", Some(&answer));
        let accepted = self.caller.response_to(&Method::Invite);
        assert_eq!(accepted.status, Status(200));
        let dialog = Phone::caller_dialog(&invite, &accepted);
        self.caller.acknowledge(&dialog, &invite, None);
        self.callee.request_of(&Method::Ack);
        callee_dialog(&received, "callee");
        caller.to(audio_address(&accepted.body));
        callee.to(audio_address(&received.body));
        let callee_call_id = received.call_id().expect("a Call-ID").to_owned();
        self.conversations.push(Conversation { caller, callee, dialog, callee_call_id, law });
    }

    /// Both phones of all calls are told of another media node, at once, and take it.
    pub(crate) fn follows(&mut self) {
        let Self { caller, callee, conversations } = self;
        let calls: &[Conversation] = conversations;
        let ip = own_ip();
        thread::scope(|scope| {
            scope.spawn(|| {
                set_own_ip(ip);
                follow(caller, calls.len(), |call_id| {
                    let call = calls.iter().find(|call| call.dialog.call_id == call_id)?;
                    Some((&call.caller, Law::Mu))
                });
            });
            follow(callee, calls.len(), |call_id| {
                let call = calls.iter().find(|call| call.callee_call_id == call_id)?;
                Some((&call.callee, call.law))
            });
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
                check_line(number, &talk.came());
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
        for phone in [&mut self.caller, &mut self.callee] {
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
            self.caller.hang_up(&mut conversation.dialog);
            let bye = self.callee.request_of(&Method::Bye);
            self.callee.respond(&bye, 200, "unused", None);
        }
        sent
    }
}

/// So many re-INVITEs are taken.
fn follow<'a>(phone: &mut Phone, count: usize, whose: impl Fn(&str) -> Option<(&'a Talk, Law)>) {
    for _ in 0..count {
        let invite = phone.request_of(&Method::Invite);
        let (talk, law) = whose(invite.call_id().expect("a Call-ID")).expect("a call of ours");
        talk.to(audio_address(&invite.body));
        phone.respond(&invite, 200, "unused", Some(&answer_in(talk, law)));
    }
    for _ in 0..count {
        phone.request_of(&Method::Ack);
    }
}

fn answer_in(talk: &Talk, law: Law) -> String {
    let answer = sdp(talk.port, 1, "sendrecv");
    match law {
        Law::Mu => answer,
        Law::A => answer.replace("AVP 0 ", "AVP 8 ").replace("0 PCMU", "8 PCMA"),
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
