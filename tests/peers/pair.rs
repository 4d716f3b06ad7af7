//! Two phones of our own that talk through the server, each with a tone.

use super::common::api::Api;
use super::common::phone::{Phone, audio_address, callee_dialog, sdp};
use super::common::rtp::Talk;
use super::common::{SOON, eventually};
use holdfast::sip::{Dialog, Method, Status};

pub(crate) const CALLER_HZ: u32 = 500;
pub(crate) const CALLEE_HZ: u32 = 900;

/// A side of the call.
pub(crate) struct Side {
    pub(crate) phone: Phone,
    pub(crate) talk: Talk,
    pub(crate) dialog: Dialog,
    /// Of our session description.
    pub(crate) version: u32,
}

/// Both.
pub(crate) struct Pair {
    pub(crate) caller: Side,
    pub(crate) callee: Side,
}

/// A registered phone of `user`.
pub(crate) fn phone(server: &Api, user: &str, transport: &str) -> Phone {
    let password = server.user(user);
    // Another process of a switch learns a new password within a second: until then a phone tries again.
    eventually(&format!("{user} registers"), SOON, || {
        let mut phone = match transport {
            "tcp" => Phone::tcp(server.sip, user, password),
            _ => Phone::udp(server.sip, user, password),
        };
        (phone.register(&[]).status == Status(200)).then_some(phone)
    })
}

impl Pair {
    /// 1001 calls 1002, who rings and answers.
    pub(crate) fn talking(server: &Api, transports: [&str; 2]) -> Self {
        let mut caller = phone(server, "1001", transports[0]);
        let mut callee = phone(server, "1002", transports[1]);
        let (caller_talk, callee_talk) = (Talk::new(CALLER_HZ), Talk::new(CALLEE_HZ));
        let offer = sdp(caller_talk.port, 1, "sendrecv");
        let invite = caller.invite(&server.uri("1002"), Some(&offer));
        let received = callee.request_of(&Method::Invite);
        callee_talk.to(audio_address(&received.body));
        callee.respond(&received, 180, "callee", None);
        caller.response_with(180);
        let answer = sdp(callee_talk.port, 1, "sendrecv");
        callee.respond(&received, 200, "callee", Some(&answer));
        let accepted = caller.response_to(&Method::Invite);
        assert_eq!(accepted.status, Status(200));
        caller_talk.to(audio_address(&accepted.body));
        let caller_dialog = Phone::caller_dialog(&invite, &accepted);
        caller.acknowledge(&caller_dialog, &invite, None);
        callee.request_of(&Method::Ack);
        let callee_dialog = callee_dialog(&received, "callee");
        Self {
            caller: Side { phone: caller, talk: caller_talk, dialog: caller_dialog, version: 1 },
            callee: Side { phone: callee, talk: callee_talk, dialog: callee_dialog, version: 1 },
        }
    }

    /// Each hears the other.
    pub(crate) fn hear_each_other(&self) {
        self.caller.talk.hears(CALLEE_HZ);
        self.callee.talk.hears(CALLER_HZ);
    }
}

/// A re-INVITE of `from` with that direction, answered by `to` with that one. `null_address` is the old way to hold.
pub(crate) fn reinvite(
    from: &mut Side,
    to: &mut Side,
    offered: &str,
    answered: &str,
    null_address: bool,
) {
    from.version += 1;
    let mut offer = sdp(from.talk.port, from.version, offered);
    if null_address {
        offer = offer.replace("c=IN IP4 127.0.0.1", "c=IN IP4 0.0.0.0");
    }
    let mut request = from.dialog.request(Method::Invite);
    request.headers.push(holdfast::sip::HeaderName::ContentType, "application/sdp");
    request.body = offer.into();
    let sent = from.phone.send_in_dialog(request);
    let received = to.phone.request_of(&Method::Invite);
    let body = String::from_utf8_lossy(&received.body).into_owned();
    if offered == "sendrecv" && !null_address {
        let held =
            ["a=sendonly", "a=recvonly", "a=inactive"].iter().any(|line| body.contains(line));
        assert!(!held, "{body}");
    } else {
        assert!(body.contains("a=sendonly") || body.contains("a=inactive"), "{body}");
    }
    to.version += 1;
    let answer = sdp(to.talk.port, to.version, answered);
    to.phone.respond(&received, 200, "unused", Some(&answer));
    let accepted = from.phone.response_to(&Method::Invite);
    assert_eq!(accepted.status, Status(200));
    from.phone.acknowledge(&from.dialog, &sent, None);
    to.phone.request_of(&Method::Ack);
}

impl Side {
    /// Hangs up, and the far side is told and says yes.
    pub(crate) fn hangs_up_on(&mut self, far: &mut Side) {
        self.phone.hang_up(&mut self.dialog);
        let bye = far.phone.request_of(&Method::Bye);
        far.phone.respond(&bye, 200, "unused", None);
    }
}
