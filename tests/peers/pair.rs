//! Two phones of our own that talk through the server, each with a tone.

use super::common::api::Api;
use super::common::phone::{Phone, callee_dialog};
use super::common::rtp::Talk;
use super::common::{SOON, eventually};
use holdfast::sip::{Dialog, Message, Method, Request, Response, Status};
use std::time::Duration;

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
    let mut phone = match transport {
        "tcp" => Phone::tcp(server.sip, user, password),
        _ => Phone::udp(server.sip, user, password),
    };
    assert_eq!(phone.register(&[]).status, Status(200), "{user} registers");
    phone
}

/// 1001 calls 1002; what both have until it is answered.
pub(crate) struct Attempt {
    pub(crate) caller: Phone,
    pub(crate) callee: Phone,
    caller_talk: Talk,
    callee_talk: Talk,
    /// As the caller sent it.
    pub(crate) invite: Request,
    /// As the callee got it.
    pub(crate) received: Request,
}

impl Attempt {
    /// The INVITE is with the callee.
    #[allow(dead_code, reason = "each test binary uses its part of it")]
    pub(crate) fn new(server: &Api, transports: [&str; 2]) -> Self {
        let caller = phone(server, "1001", transports[0]);
        let callee = phone(server, "1002", transports[1]);
        Self::between(caller, callee, &server.uri("1002"))
    }

    /// The same, of registered phones.
    pub(crate) fn between(caller: Phone, callee: Phone, uri: &str) -> Self {
        Self::with_talks(caller, callee, uri, [Talk::new(CALLER_HZ), Talk::new(CALLEE_HZ)])
    }

    /// The same with mouths and ears of one's own.
    pub(crate) fn with_talks(
        mut caller: Phone,
        mut callee: Phone,
        uri: &str,
        [caller_talk, callee_talk]: [Talk; 2],
    ) -> Self {
        let offer = caller_talk.sdp(1, "sendrecv");
        let (invite, received) =
            eventually("the switch has room", SOON, || ring(&mut caller, &mut callee, uri, &offer));
        callee_talk.told(&received.body);
        Self { caller, callee, caller_talk, callee_talk, invite, received }
    }

    /// It rings, and the caller knows.
    pub(crate) fn ringing(mut self) -> Self {
        self.callee.respond(&self.received, 180, "callee", None);
        self.caller.response_with(180);
        self
    }

    /// It rings with a sound of its own (183 with SDP), which the caller hears.
    #[allow(dead_code, reason = "each test binary uses its part of it")]
    pub(crate) fn is_heard_early(&mut self) {
        let answer = self.callee_talk.sdp(1, "sendrecv");
        self.callee.respond(&self.received, 183, "callee", Some(&answer));
        let progress = self.caller.response_with(183);
        self.caller_talk.told(&progress.body);
        self.hears_the_callee();
    }

    /// The caller hears it ring.
    #[allow(dead_code, reason = "each test binary uses its part of it")]
    pub(crate) fn hears_the_callee(&self) {
        self.caller_talk.hears(CALLEE_HZ);
    }

    /// Another INVITE takes the place of the first.
    #[allow(dead_code, reason = "each test binary uses its part of it")]
    pub(crate) fn rings_anew(&mut self, invite: Request) {
        self.callee_talk.told(&invite.body);
        self.received = invite;
    }

    /// The callee answers; the caller has not acknowledged yet.
    pub(crate) fn accepted(&mut self) -> Response {
        let answer = self.callee_talk.sdp(1, "sendrecv");
        self.callee.respond(&self.received, 200, "callee", Some(&answer));
        let accepted = self.caller.response_to(&Method::Invite);
        assert_eq!(accepted.status, Status(200));
        accepted
    }

    /// The callee answers, and hears that the caller did.
    #[allow(dead_code, reason = "each test binary uses its part of it")]
    pub(crate) fn answered(mut self) -> Pair {
        let accepted = self.accepted();
        let mut pair = self.acknowledged(&accepted);
        pair.callee.phone.request_of(&Method::Ack);
        pair
    }

    /// The caller acknowledges.
    pub(crate) fn acknowledged(self, accepted: &Response) -> Pair {
        let Self { mut caller, callee, caller_talk, callee_talk, invite, received } = self;
        caller_talk.told(&accepted.body);
        let caller_dialog = Phone::caller_dialog(&invite, accepted);
        caller.acknowledge(&caller_dialog, &invite, None);
        let callee_dialog = callee_dialog(&received, "callee");
        Pair {
            caller: Side { phone: caller, talk: caller_talk, dialog: caller_dialog, version: 1 },
            callee: Side { phone: callee, talk: callee_talk, dialog: callee_dialog, version: 1 },
        }
    }
}

impl Pair {
    /// 1001 calls 1002, who rings and answers.
    #[allow(dead_code, reason = "each test binary uses its part of it")]
    pub(crate) fn talking(server: &Api, transports: [&str; 2]) -> Self {
        Self::answered(Attempt::new(server, transports))
    }

    /// One registered phone calls another, which rings and answers.
    #[allow(dead_code, reason = "each test binary uses its part of it")]
    pub(crate) fn between(caller: Phone, callee: Phone, uri: &str) -> Self {
        Self::answered(Attempt::between(caller, callee, uri))
    }

    pub(crate) fn answered(attempt: Attempt) -> Self {
        attempt.ringing().answered()
    }

    /// Each hears the other.
    pub(crate) fn hear_each_other(&self) {
        self.caller.talk.hears(CALLEE_HZ);
        self.callee.talk.hears(CALLER_HZ);
    }

    /// Each holds and takes back; then each hears the other.
    #[allow(dead_code, reason = "each test binary uses its part of it")]
    pub(crate) fn hold_and_resume(&mut self) {
        let Self { caller, callee } = self;
        reinvite(caller, callee, "sendonly", "recvonly", false);
        reinvite(caller, callee, "sendrecv", "sendrecv", false);
        reinvite(callee, caller, "sendonly", "recvonly", false);
        reinvite(callee, caller, "sendrecv", "sendrecv", false);
        self.hear_each_other();
    }
}

/// A call, until it rings: both INVITEs. None: the switch had no room, for this machine has other work too.
pub(crate) fn ring(
    caller: &mut Phone,
    callee: &mut Phone,
    uri: &str,
    offer: &str,
) -> Option<(Request, Request)> {
    let invite = caller.invite(uri, Some(offer));
    let is_invite = |came: &Message| matches!(came, Message::Request(request) if request.method == Method::Invite);
    let is_final =
        |came: &Message| matches!(came, Message::Response(answer) if answer.status.is_final());
    let rings = eventually("it rings, or is refused", SOON * 2, || {
        if callee.comes(Duration::from_millis(20), is_invite) {
            return Some(true);
        }
        caller.comes(Duration::from_millis(1), is_final).then_some(false)
    });
    if !rings {
        let refused = caller.response_to(&Method::Invite);
        assert_eq!(refused.status, Status(503));
        caller.acknowledge_refusal(&invite, &refused);
        return None;
    }
    Some((invite, callee.request_of(&Method::Invite)))
}

/// A phone that rings is told to stop, and does.
#[allow(dead_code, reason = "each test binary uses its part of it")]
pub(crate) fn stops_ringing(phone: &mut Phone, invite: &Request, tag: &str) {
    let cancel = phone.request_of(&Method::Cancel);
    phone.respond(&cancel, 200, tag, None);
    phone.respond(invite, 487, tag, None);
    phone.request_of(&Method::Ack);
}

/// A re-INVITE of `from` with that direction, answered by `to` with that one; as it came to `to`.
pub(crate) fn reinvite(
    from: &mut Side,
    to: &mut Side,
    offered: &str,
    answered: &str,
    null_address: bool,
) -> Request {
    let sent = from.offers(offered, null_address);
    let received = to.phone.request_of(&Method::Invite);
    let body = String::from_utf8_lossy(&received.body).into_owned();
    if offered == "sendrecv" && !null_address {
        let held =
            ["a=sendonly", "a=recvonly", "a=inactive"].iter().any(|line| body.contains(line));
        assert!(!held, "{body}");
    } else {
        assert!(body.contains("a=sendonly") || body.contains("a=inactive"), "{body}");
    }
    to.answers(&received, answered);
    from.takes_answer(&sent);
    to.phone.request_of(&Method::Ack);
    received
}

impl Side {
    /// A re-INVITE leaves; as it was sent. `null_address` is the old way to hold.
    pub(crate) fn offers(&mut self, direction: &str, null_address: bool) -> Request {
        self.version += 1;
        let mut offer = self.talk.sdp(self.version, direction);
        if null_address {
            offer = offer.replace("c=IN IP4 127.0.0.1", "c=IN IP4 0.0.0.0");
        }
        let mut request = self.dialog.request(Method::Invite);
        request.headers.push(holdfast::sip::HeaderName::ContentType, "application/sdp");
        request.body = offer.into();
        self.phone.send_in_dialog(request)
    }

    /// A re-INVITE that came is accepted.
    pub(crate) fn answers(&mut self, received: &Request, direction: &str) {
        self.version += 1;
        self.talk.told(&received.body);
        let answer = self.talk.sdp(self.version, direction);
        self.phone.respond(received, 200, "unused", Some(&answer));
    }

    /// The far side accepts what was offered, and is told so.
    pub(crate) fn takes_answer(&mut self, sent: &Request) {
        let accepted = self.phone.response_to(&Method::Invite);
        assert_eq!(accepted.status, Status(200));
        self.talk.told(&accepted.body);
        self.phone.acknowledge(&self.dialog, sent, None);
    }

    /// The phone takes an INVITE, and has it acknowledged.
    #[allow(dead_code, reason = "each test binary uses its part of it")]
    pub(crate) fn taking(mut phone: Phone, invite: &Request, hz: u32) -> Self {
        let talk = Talk::new(hz);
        talk.told(&invite.body);
        phone.respond(invite, 200, "taking", Some(&talk.sdp(1, "sendrecv")));
        phone.request_of(&Method::Ack);
        Self { phone, talk, dialog: callee_dialog(invite, "taking"), version: 1 }
    }

    /// A re-INVITE of the switch offers that direction, and is answered with that one.
    #[allow(dead_code, reason = "each test binary uses its part of it")]
    pub(crate) fn takes_offer(&mut self, offered: &str, answered: &str) {
        let told = self.phone.request_of(&Method::Invite);
        let body = String::from_utf8_lossy(&told.body);
        assert!(body.contains(&format!("a={offered}\r\n")), "{body}");
        self.answers(&told, answered);
        self.phone.request_of(&Method::Ack);
    }

    /// Hangs up, and the far side is told and says yes.
    #[allow(dead_code, reason = "each test binary uses its part of it")]
    pub(crate) fn hangs_up_on(&mut self, far: &mut Side) {
        self.phone.hang_up(&mut self.dialog);
        let bye = far.phone.request_of(&Method::Bye);
        far.phone.respond(&bye, 200, "unused", None);
    }
}
