//! Calls that an operator begins: the caller's phones ring first, then who is called.

use super::calls;
use super::common::phone::{Phone, callee_dialog};
use super::common::rtp::Talk;
use super::common::server::Server;
use super::pair::{CALLEE_HZ, CALLER_HZ, Pair, Side, phone};
use holdfast::sip::{HeaderName, Method, Request};
use serde_json::{Value, json};

/// What a caller hears while the other's phone rings.
const RINGBACK_HZ: u32 = 425;

fn click(server: &Server, body: &Value) -> Value {
    let (status, call) = server.api("POST", "/calls", Some(body));
    assert_eq!(status, 202, "{call}");
    call
}

fn side(phone: Phone, talk: Talk, invite: &Request) -> Side {
    Side { phone, talk, dialog: callee_dialog(invite, "unused"), version: 1 }
}

/// The phone takes the INVITE and has it acknowledged.
fn takes(mut phone: Phone, hz: u32) -> Side {
    let invite = phone.request_of(&Method::Invite);
    let talk = Talk::new(hz);
    talk.told(&invite.body);
    phone.respond(&invite, 180, "unused", None);
    phone.respond(&invite, 200, "unused", Some(&talk.sdp(1, "sendrecv")));
    phone.request_of(&Method::Ack);
    side(phone, talk, &invite)
}

#[test]
fn the_caller_rings_hears_ringback_and_talks() {
    let server = Server::start();
    let mut other = phone(&server, "1001", "tcp");
    let (mut caller, callee) = (phone(&server, "1001", "udp"), phone(&server, "1002", "udp"));
    let call = click(&server, &json!({"from": "1001", "to": "1002", "auto_answer": true}));
    assert_eq!(call["caller"]["extension"], "1001", "{call}");
    let rang = other.request_of(&Method::Invite);
    other.respond(&rang, 180, "other", None);
    let invite = caller.request_of(&Method::Invite);
    let shown = invite.from().expect("From").uri.user();
    assert_eq!(shown.as_deref(), Some("1002"), "whom it will talk to");
    let asked = invite.headers.get(&HeaderName::CallInfo).unwrap_or_default();
    assert!(asked.contains("answer-after=0"), "{asked}");
    let talk = Talk::new(CALLER_HZ);
    talk.told(&invite.body);
    caller.respond(&invite, 200, "unused", Some(&talk.sdp(1, "sendrecv")));
    caller.request_of(&Method::Ack);
    let cancelled = other.request_of(&Method::Cancel);
    other.respond(&cancelled, 200, "other", None);
    other.respond(&rang, 487, "other", None);
    talk.hears(RINGBACK_HZ);
    let caller = side(caller, talk, &invite);
    let mut pair = Pair { callee: takes(callee, CALLEE_HZ), caller };
    pair.hear_each_other();
    pair.hold_and_resume();
    pair.caller.hangs_up_on(&mut pair.callee);
    let cdrs = server.cdrs(1);
    let cdr = &cdrs[0];
    assert_eq!(cdr["id"], call["id"], "{cdr}");
    for (field, expect) in [
        ("disposition", "answered"),
        ("answered_by", "1002"),
        ("ended_by", "caller"),
        ("end_cause", "bye"),
    ] {
        assert_eq!(cdr[field], expect, "{field}: {cdr}");
    }
    let roles: Vec<_> =
        cdr["legs"].as_array().expect("legs").iter().map(|leg| &leg["role"]).collect();
    assert_eq!(roles, ["caller", "caller", "callee"], "{cdr}");
}

#[test]
fn what_comes_to_nothing_leaves_nobody_in_a_call() {
    let server = Server::start();
    let (caller, mut callee) = (phone(&server, "1001", "udp"), phone(&server, "1002", "udp"));
    let wish = json!({"from": "1001", "to": "1002"});
    click(&server, &wish);
    let mut caller = takes(caller, CALLER_HZ);
    let invite = callee.request_of(&Method::Invite);
    callee.respond(&invite, 486, "busy", None);
    let bye = caller.phone.request_of(&Method::Bye);
    let why = bye.headers.get(&HeaderName::Reason).unwrap_or_default();
    assert!(why.contains("cause=486"), "{why}");
    caller.phone.respond(&bye, 200, "unused", None);
    let cdr = &server.cdrs(1)[0];
    assert_eq!((&cdr["disposition"], &cdr["sip_status"]), (&json!("busy"), &json!(486)), "{cdr}");
    assert_eq!(cdr["billable_ms"], 0, "{cdr}");

    // The caller does not want it.
    click(&server, &wish);
    let invite = caller.phone.request_of(&Method::Invite);
    caller.phone.respond(&invite, 603, "unused", None);
    let cdrs = server.cdrs(2);
    let cdr = cdrs.iter().find(|cdr| cdr["sip_status"] == 603).expect("its CDR");
    assert_eq!(cdr["ended_by"], "caller", "{cdr}");

    // The caller has enough of waiting.
    click(&server, &wish);
    let mut caller = takes(caller.phone, CALLER_HZ);
    let invite = callee.request_of(&Method::Invite);
    callee.respond(&invite, 180, "rings", None);
    caller.phone.hang_up(&mut caller.dialog);
    let cancel = callee.request_of(&Method::Cancel);
    callee.respond(&cancel, 200, "rings", None);
    callee.respond(&invite, 487, "rings", None);
    let cdrs = server.cdrs(3);
    assert!(cdrs.iter().any(|cdr| cdr["disposition"] == "cancelled"), "{cdrs:#?}");
}

/// A busy phone of the caller, which took the call by another one, does not make the callee busy.
#[test]
fn what_the_callers_other_phone_said_is_not_the_callees_answer() {
    let server = Server::start();
    let mut other = phone(&server, "1001", "tcp");
    let (caller, mut callee) = (phone(&server, "1001", "udp"), phone(&server, "1002", "udp"));
    click(&server, &json!({"from": "1001", "to": "1002"}));
    let rang = other.request_of(&Method::Invite);
    other.respond(&rang, 486, "other", None);
    other.request_of(&Method::Ack);
    let mut caller = takes(caller, CALLER_HZ);
    let invite = callee.request_of(&Method::Invite);
    callee.respond(&invite, 480, "away", None);
    let bye = caller.phone.request_of(&Method::Bye);
    caller.phone.respond(&bye, 200, "unused", None);
    let cdr = &server.cdrs(1)[0];
    assert_eq!(cdr["sip_status"], 480, "{cdr}");
}

#[test]
fn what_cannot_be_is_refused_before_anybodys_phone_rings() {
    let server = Server::start();
    let mut caller = phone(&server, "1001", "udp");
    server.user("1005");
    let cases = [
        (json!({"from": "4711", "to": "1001"}), 422, "/from"),
        (json!({"from": "1001", "to": "4711"}), 422, "/to"),
        (json!({"from": "1001", "to": "1001"}), 422, "/to"),
        (json!({"from": "a b", "to": "1002"}), 422, "/from"),
        (json!({"from": "1001"}), 422, "/to"),
        (json!({"from": "1001", "to": "1005"}), 409, ""),
        (json!({"from": "1005", "to": "1001"}), 409, ""),
    ];
    for (body, expect, pointer) in cases {
        let (status, problem) = server.api("POST", "/calls", Some(&body));
        assert_eq!(status, expect, "{body}: {problem}");
        let named = problem["errors"][0]["pointer"].as_str().unwrap_or_default();
        assert_eq!(named, pointer, "{body}: {problem}");
    }
    let invited = |message: &holdfast::sip::Message| matches!(message, holdfast::sip::Message::Request(r) if r.method == Method::Invite);
    assert!(!caller.comes(std::time::Duration::from_millis(300), invited), "it rang");
    let node = server.node();
    let (status, _) = server.api("POST", &format!("/nodes/{node}/drain"), Some(&json!({})));
    assert_eq!(status, 202);
    let (status, problem) =
        server.api("POST", "/calls", Some(&json!({"from": "1001", "to": "*43"})));
    assert_eq!(status, 503, "{problem}");
}

#[test]
fn baresip_is_called_by_click_and_hears_its_own_voice() {
    let server = Server::start();
    let mut alice = calls::phone(&server, "1001", CALLER_HZ, "udp", "PCMU/8000/1");
    let answer = server.command(&["call", "new", "1001", "*43", "--json"]);
    assert!(answer.status.success(), "{answer:?}");
    alice.event("CALL_ESTABLISHED");
    alice.hears(CALLER_HZ);
    alice.hang_up();
    let cdr = &server.cdrs(1)[0];
    assert_eq!(
        (&cdr["disposition"], &cdr["ended_by"]),
        (&json!("answered"), &json!("caller")),
        "{cdr}"
    );
}

#[test]
fn baresip_and_baresip_are_connected_over_tcp_in_different_codecs() {
    let server = Server::start();
    let mut alice = calls::phone(&server, "1001", CALLER_HZ, "tcp", "PCMA/8000/1");
    let mut bob = calls::phone(&server, "1002", CALLEE_HZ, "udp", "opus/48000/2");
    click(&server, &json!({"from": "1001", "to": "1002"}));
    bob.event("CALL_ESTABLISHED");
    alice.hears(CALLEE_HZ);
    bob.hears(CALLER_HZ);
    bob.hang_up();
    alice.event("CALL_CLOSED");
    assert_eq!(server.cdrs(1)[0]["ended_by"], "callee");
}
