//! Sequences of messages, step by step, seen from the phones: offers of every kind, forks, endings, refusals.

use super::common::phone::{Phone, audio_address, callee_dialog, sdp, tag_of};
use super::common::rtp::Talk;
use super::common::server::Server;
use super::common::{SOON, eventually};
use super::pair::{CALLEE_HZ, CALLER_HZ, Pair, phone, reinvite};
use holdfast::sip::{HeaderName, Message, Method, Status};
use serde_json::json;
use std::time::Duration;

#[test]
fn both_phones_can_end_a_call() {
    let server = Server::start();
    for (index, transports) in [["udp", "udp"], ["tcp", "tcp"]].into_iter().enumerate() {
        let mut pair = Pair::talking(&server, transports);
        pair.hear_each_other();
        match index {
            0 => pair.caller.hangs_up_on(&mut pair.callee),
            _ => pair.callee.hangs_up_on(&mut pair.caller),
        }
        let cdrs = server.cdrs(index + 1);
        let by = |who: &str| cdrs.iter().filter(|cdr| cdr["ended_by"] == who).count();
        assert_eq!((by("caller"), by("callee")), (1, index), "{cdrs:#?}");
    }
}

#[test]
fn a_late_offer_is_answered_in_the_ack() {
    let server = Server::start();
    let mut caller = phone(&server, "1001", "udp");
    let mut callee = phone(&server, "1002", "udp");
    let (caller_talk, callee_talk) = (Talk::new(CALLER_HZ), Talk::new(CALLEE_HZ));
    let invite = caller.invite(&server.uri("1002"), None);
    let received = callee.request_of(&Method::Invite);
    let offered_early = !received.body.is_empty();
    callee.respond(&received, 180, "callee", None);
    callee.respond(&received, 200, "callee", Some(&sdp(callee_talk.port, 1, "sendrecv")));
    let accepted = caller.response_to(&Method::Invite);
    assert_eq!(accepted.status, Status(200));
    caller_talk.to(audio_address(&accepted.body));
    let mut dialog = Phone::caller_dialog(&invite, &accepted);
    caller.acknowledge(&dialog, &invite, Some(&sdp(caller_talk.port, 1, "sendrecv")));
    let ack = callee.request_of(&Method::Ack);
    // The server may have made the offer itself; otherwise the answer comes with the ACK.
    let told = if offered_early { &received.body } else { &ack.body };
    callee_talk.to(audio_address(told));
    caller_talk.hears(CALLEE_HZ);
    callee_talk.hears(CALLER_HZ);
    caller.hang_up(&mut dialog);
    let bye = callee.request_of(&Method::Bye);
    callee.respond(&bye, 200, "callee", None);
    assert_eq!(server.cdrs(1)[0]["disposition"], "answered");
}

#[test]
fn every_form_of_hold_holds_and_resumes() {
    let server = Server::start();
    let mut pair = Pair::talking(&server, ["udp", "tcp"]);
    pair.hear_each_other();
    for (offered, answered, null_address) in [
        ("sendonly", "recvonly", false),
        ("inactive", "inactive", false),
        ("sendrecv", "recvonly", true),
        ("sendonly", "recvonly", true),
    ] {
        for by_caller in [true, false] {
            let Pair { caller, callee } = &mut pair;
            let (holder, held) = if by_caller { (caller, callee) } else { (callee, caller) };
            reinvite(holder, held, offered, answered, null_address);
            held.talk.mute(true);
            holder.talk.hears_nothing();
            if offered == "sendonly" && !null_address {
                held.talk.hears(holder.talk.tone_hz);
            }
            reinvite(holder, held, "sendrecv", "sendrecv", false);
            held.talk.mute(false);
            pair.hear_each_other();
        }
    }
    pair.caller.hangs_up_on(&mut pair.callee);
    server.cdrs(1);
}

#[test]
fn a_refused_reinvite_leaves_the_call_as_it_was() {
    let server = Server::start();
    let mut pair = Pair::talking(&server, ["udp", "udp"]);
    let Pair { caller, callee } = &mut pair;
    let mut request = caller.dialog.request(Method::Invite);
    request.headers.push(HeaderName::ContentType, "application/sdp");
    request.body = sdp(caller.talk.port, 2, "sendonly").into();
    let sent = caller.phone.send_in_dialog(request);
    let received = callee.phone.request_of(&Method::Invite);
    callee.phone.respond(&received, 488, "unused", None);
    callee.phone.request_of(&Method::Ack);
    let refused = caller.phone.response_to(&Method::Invite);
    assert_eq!(refused.status, Status(488));
    caller.phone.acknowledge_refusal(&sent, &refused);
    pair.hear_each_other();
    pair.callee.hangs_up_on(&mut pair.caller);
}

#[test]
fn a_caller_that_gives_up_stops_the_ringing() {
    let server = Server::start();
    let mut caller = phone(&server, "1001", "udp");
    let mut callee = phone(&server, "1002", "udp");
    let invite = caller.invite(&server.uri("1002"), Some(&sdp(40_000, 1, "sendrecv")));
    let received = callee.request_of(&Method::Invite);
    callee.respond(&received, 180, "callee", None);
    caller.response_with(180);
    caller.cancel(&invite);
    assert_eq!(caller.response_to(&Method::Cancel).status, Status(200));
    let terminated = caller.response_to(&Method::Invite);
    assert_eq!(terminated.status, Status(487));
    caller.acknowledge_refusal(&invite, &terminated);
    let cancel = callee.request_of(&Method::Cancel);
    callee.respond(&cancel, 200, "callee", None);
    callee.respond(&received, 487, "callee", None);
    callee.request_of(&Method::Ack);
    let cdrs = server.cdrs(1);
    assert_eq!(cdrs[0]["disposition"], "cancelled", "{}", cdrs[0]);
    assert_eq!(cdrs[0]["billable_ms"], 0, "{}", cdrs[0]);
}

#[test]
fn two_phones_of_a_user_ring_and_one_wins() {
    let server = Server::start();
    let mut caller = phone(&server, "1001", "udp");
    let (mut desk, mut mobile) = (phone(&server, "1002", "udp"), phone(&server, "1002", "tcp"));
    server.registrations("1002", 2);
    let (caller_talk, desk_talk) = (Talk::new(CALLER_HZ), Talk::new(CALLEE_HZ));
    let offer = sdp(caller_talk.port, 1, "sendrecv");
    let invite = caller.invite(&server.uri("1002"), Some(&offer));
    let at_desk = desk.request_of(&Method::Invite);
    let at_mobile = mobile.request_of(&Method::Invite);
    assert_eq!(format!("<{}>", at_desk.uri), desk.contact(), "the Contact, byte for byte");
    assert_eq!(format!("<{}>", at_mobile.uri), mobile.contact());
    assert_ne!(audio_address(&at_desk.body), audio_address(&at_mobile.body));
    desk_talk.to(audio_address(&at_desk.body));
    mobile.respond(&at_mobile, 180, "mobile", None);
    let ringing = caller.response_with(180);
    desk.respond(&at_desk, 180, "desk", None);
    desk.respond(&at_desk, 200, "desk", Some(&sdp(desk_talk.port, 1, "sendrecv")));
    let cancel = mobile.request_of(&Method::Cancel);
    assert!(cancel.headers.get(&HeaderName::Reason).is_some(), "answered elsewhere");
    mobile.respond(&cancel, 200, "mobile", None);
    mobile.respond(&at_mobile, 487, "mobile", None);
    mobile.request_of(&Method::Ack);
    let accepted = caller.response_to(&Method::Invite);
    assert_eq!(tag_of(accepted.to()), tag_of(ringing.to()), "the caller sees one dialog");
    caller_talk.to(audio_address(&accepted.body));
    let dialog = Phone::caller_dialog(&invite, &accepted);
    caller.acknowledge(&dialog, &invite, None);
    desk.request_of(&Method::Ack);
    caller_talk.hears(CALLEE_HZ);
    desk_talk.hears(CALLER_HZ);
    let mut dialog = callee_dialog(&at_desk, "desk");
    desk.hang_up(&mut dialog);
    let bye = caller.request_of(&Method::Bye);
    caller.respond(&bye, 200, "unused", None);
    server.cdrs(1);
}

#[test]
fn refusals_of_the_callee_reach_the_caller() {
    let server = Server::start_with(&[("HOLDFAST_RING_TIMEOUT_MS", "1500")]);
    let mut caller = phone(&server, "1001", "udp");
    let mut callee = phone(&server, "1002", "udp");
    // What the callee says, what the caller is told, what the CDR says.
    for (index, (said, told, disposition)) in
        [(Some(486), 486, "busy"), (Some(603), 603, "rejected"), (None, 480, "no_answer")]
            .into_iter()
            .enumerate()
    {
        let invite = caller.invite(&server.uri("1002"), Some(&sdp(40_000, 1, "sendrecv")));
        let received = callee.request_of(&Method::Invite);
        callee.respond(&received, 180, "callee", None);
        match said {
            Some(status) => drop(callee.respond(&received, status, "callee", None)),
            None => {
                let cancel = callee.request_of(&Method::Cancel);
                callee.respond(&cancel, 200, "callee", None);
                callee.respond(&received, 487, "callee", None);
            }
        }
        callee.request_of(&Method::Ack);
        let refused = caller.response_to(&Method::Invite);
        assert_eq!(refused.status, Status(told));
        caller.acknowledge_refusal(&invite, &refused);
        let cdrs = server.cdrs(index + 1);
        assert!(cdrs.iter().any(|cdr| cdr["disposition"] == disposition), "{cdrs:#?}");
    }
}

#[test]
fn who_cannot_be_called_is_told_why() {
    let server = Server::start();
    let mut caller = phone(&server, "1001", "udp");
    server.user("1002");
    for (dialled, status) in [("1002", 480), ("1999", 404)] {
        let invite = caller.invite(&server.uri(dialled), Some(&sdp(40_000, 1, "sendrecv")));
        let refused = caller.response_to(&Method::Invite);
        assert_eq!(refused.status, Status(status), "{dialled}");
        caller.acknowledge_refusal(&invite, &refused);
    }
}

#[test]
fn only_who_proves_it_registers_or_calls() {
    let server = Server::start();
    let password = server.user("1001");
    server.user("1002");
    // Known and unknown users are refused alike.
    for user in ["1001", "1999"] {
        let mut stranger = Phone::udp(server.sip, user, "wrong");
        let refused = stranger.register(&[]);
        assert_eq!(refused.status, Status(401), "{user}");
    }
    // The digest user must own the address it registers, and the one it calls from.
    let mut mallory = Phone::udp(server.sip, "1001", password);
    let to = format!("<sip:1002@{}>", server.sip);
    let mut request = mallory.request(Method::Register, &format!("sip:{}", server.sip));
    request.headers.set(HeaderName::To, to.as_str());
    mallory.send_request(&request);
    let challenge = mallory.response();
    let request = mallory.authorized(&request, &challenge);
    mallory.send_request(&request);
    assert_eq!(mallory.response().status, Status(403));
    let mut invite = mallory.request(Method::Invite, &server.uri("1002"));
    invite.headers.set(HeaderName::From, format!("{to};tag=mallory"));
    mallory.send_request(&invite);
    let challenge = mallory.response();
    mallory.acknowledge_refusal(&invite, &challenge);
    let invite = mallory.authorized(&invite, &challenge);
    mallory.send_request(&invite);
    let refused = mallory.response();
    assert_eq!(refused.status, Status(403));
    mallory.acknowledge_refusal(&invite, &refused);
}

#[test]
fn requests_of_no_dialog_are_told_so() {
    let server = Server::start();
    let mut phone = phone(&server, "1001", "udp");
    let mut bye = phone.request(Method::Bye, &server.uri("1002"));
    let to = format!("<{}>;tag=none", server.uri("1002"));
    bye.headers.set(HeaderName::To, to);
    phone.send_request(&bye);
    assert_eq!(phone.response().status, Status(481));
    let mut options = phone.request(Method::Options, &format!("sip:{}", server.sip));
    phone.send_request(&options);
    assert_eq!(phone.response().status, Status(200));
    options = phone.request(Method::Options, &format!("sip:{}", server.sip));
    options.headers.set(HeaderName::MaxForwards, "0");
    phone.send_request(&options);
    let status = phone.response().status.0;
    assert!(status == 200 || status == 483, "{status}");
}

#[test]
fn a_binding_ends_when_the_phone_says_so() {
    let server = Server::start();
    let mut callee = phone(&server, "1002", "udp");
    server.registrations("1002", 1);
    let gone = callee.register(&[(HeaderName::Expires, "0")]);
    assert_eq!(gone.status, Status(200));
    assert_eq!(gone.headers.get(&HeaderName::Contact), None);
    server.registrations("1002", 0);
    let mut caller = phone(&server, "1001", "udp");
    let invite = caller.invite(&server.uri("1002"), Some(&sdp(40_000, 1, "sendrecv")));
    let refused = caller.response_to(&Method::Invite);
    assert_eq!(refused.status, Status(480));
    caller.acknowledge_refusal(&invite, &refused);
    let rings = |message: &Message| match message {
        Message::Request(request) => request.method == Method::Invite,
        Message::Response(_) => false,
    };
    assert!(!callee.comes(Duration::from_millis(200), rings));
}

/// A refusal is the callee's when its phone says it, in whatever words; a phone that says nothing refuses nothing.
#[test]
fn who_ended_a_call_that_was_not_answered() {
    let server = Server::start();
    let mut caller = phone(&server, "1001", "udp");
    let mut callee = phone(&server, "1002", "udp");
    for (number, (says, told, by, reason)) in [
        (Some(486), 486, "callee", None),
        (Some(408), 408, "callee", None),
        (Some(503), 500, "callee", None),
        (None, 408, "system", Some("no phone was reached")),
    ]
    .into_iter()
    .enumerate()
    {
        let invite = caller.invite(&server.uri("1002"), Some(&sdp(4_000, 1, "sendrecv")));
        let received = callee.request_of(&Method::Invite);
        if let Some(status) = says {
            callee.respond(&received, status, "callee", None);
        }
        let refused = eventually("the caller is told", SOON * 4, || {
            caller.comes(SOON, is_final).then(|| caller.response_with(told))
        });
        caller.acknowledge_refusal(&invite, &refused);
        let cdrs = server.cdrs(number + 1);
        let cdr = cdrs.iter().max_by_key(|cdr| cdr["sequence"].as_u64()).expect("one");
        let ended = json!([cdr["sip_status"], cdr["ended_by"], cdr["reason"]]);
        assert_eq!(ended, json!([told, by, reason]), "{cdr:#}");
    }
}

fn is_final(message: &Message) -> bool {
    matches!(message, Message::Response(response) if response.status.0 >= 300)
}
