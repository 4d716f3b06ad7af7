//! What an operator does to live calls: what phones are told of it, and what they hear.

use super::common::server::Server;
use super::pair::{CALLEE_HZ, CALLER_HZ, Pair, reinvite};
use holdfast::sip::{Method, Status};
use serde_json::{Value, json};

/// A call that talks, and its id.
fn talking(server: &Server, transports: [&str; 2]) -> (Pair, String) {
    let pair = Pair::talking(server, transports);
    pair.hear_each_other();
    let id = server.list("/calls")[0]["id"].as_str().expect("an id").to_owned();
    (pair, id)
}

fn does(server: &Server, call: &str, act: &str, body: &Value) -> Value {
    let (status, answer) = server.api("POST", &format!("/calls/{call}/{act}"), Some(body));
    assert_eq!(status, 202, "{act} {body}: {answer}");
    answer
}

#[test]
fn a_phone_that_is_held_hears_nothing_and_is_not_heard_until_it_is_let_go() {
    let server = Server::start();
    let (mut pair, call) = talking(&server, ["udp", "tcp"]);
    let held = does(&server, &call, "hold", &json!({"leg": "callee"}));
    assert_eq!((&held["parked"], &held["hold"]), (&json!("callee"), &json!("none")), "{held}");
    pair.callee.takes_offer("sendonly", "recvonly");
    pair.callee.talk.hears_nothing();
    pair.caller.talk.hears_nothing();
    // Holding what is held disturbs nobody: the next word to it is that it is let go.
    does(&server, &call, "hold", &json!({"leg": "callee"}));
    let free = does(&server, &call, "unhold", &json!({}));
    assert_eq!(free["parked"], "none", "{free}");
    pair.callee.takes_offer("sendrecv", "sendrecv");
    pair.hear_each_other();
    // Both, and one after the other back again.
    let held = does(&server, &call, "hold", &json!({}));
    assert_eq!(held["parked"], "both", "{held}");
    pair.caller.takes_offer("sendonly", "recvonly");
    pair.callee.takes_offer("sendonly", "recvonly");
    does(&server, &call, "unhold", &json!({"leg": "caller"}));
    pair.caller.takes_offer("sendrecv", "sendrecv");
    pair.caller.talk.hears_nothing();
    pair.callee.talk.hears_nothing();
    does(&server, &call, "unhold", &json!({"leg": "callee"}));
    pair.callee.takes_offer("sendrecv", "sendrecv");
    pair.hold_and_resume();
    pair.caller.hangs_up_on(&mut pair.callee);
    assert_eq!(server.cdrs(1)[0]["end_cause"], "bye");
}

/// A phone's own hold outlives that of an operator, and the other way round.
#[test]
fn what_phones_hold_stays_theirs() {
    let server = Server::start();
    let (mut pair, call) = talking(&server, ["udp", "udp"]);
    reinvite(&mut pair.caller, &mut pair.callee, "sendonly", "recvonly", false);
    let held = does(&server, &call, "hold", &json!({"leg": "caller"}));
    assert_eq!((&held["parked"], &held["hold"]), (&json!("caller"), &json!("caller")), "{held}");
    pair.caller.takes_offer("inactive", "inactive");
    let free = does(&server, &call, "unhold", &json!({"leg": "caller"}));
    assert_eq!((&free["parked"], &free["hold"]), (&json!("none"), &json!("caller")), "{free}");
    pair.caller.takes_offer("recvonly", "sendonly");
    pair.caller.talk.hears_nothing();
    // It resumes while an operator holds the other one.
    does(&server, &call, "hold", &json!({"leg": "callee"}));
    pair.callee.takes_offer("sendonly", "recvonly");
    pair.caller.version += 1;
    let offer = pair.caller.talk.sdp(pair.caller.version, "sendrecv");
    let mut request = pair.caller.dialog.request(Method::Invite);
    request.headers.push(holdfast::sip::HeaderName::ContentType, "application/sdp");
    request.body = offer.into();
    let sent = pair.caller.phone.send_in_dialog(request);
    pair.callee.takes_offer("sendonly", "recvonly");
    let accepted = pair.caller.phone.response_to(&Method::Invite);
    assert_eq!(accepted.status, Status(200));
    pair.caller.phone.acknowledge(&pair.caller.dialog, &sent, None);
    pair.caller.talk.hears_nothing();
    does(&server, &call, "unhold", &json!({}));
    pair.callee.takes_offer("sendrecv", "sendrecv");
    // It was told that nothing comes when it asked.
    pair.caller.takes_offer("sendrecv", "sendrecv");
    pair.hear_each_other();
    pair.caller.talk.hears(CALLEE_HZ);
    pair.callee.talk.hears(CALLER_HZ);
}

/// A phone that does not take it is held all the same.
#[test]
fn a_phone_that_refuses_is_held_and_let_go_all_the_same() {
    let server = Server::start();
    let (mut pair, call) = talking(&server, ["udp", "udp"]);
    does(&server, &call, "hold", &json!({"leg": "caller"}));
    let told = pair.caller.phone.request_of(&Method::Invite);
    pair.caller.phone.respond(&told, 488, "unused", None);
    pair.caller.phone.request_of(&Method::Ack);
    pair.caller.talk.hears_nothing();
    pair.callee.talk.hears_nothing();
    does(&server, &call, "unhold", &json!({}));
    // Busy with something else at first.
    let told = pair.caller.phone.request_of(&Method::Invite);
    pair.caller.phone.respond(&told, 491, "unused", None);
    pair.caller.phone.request_of(&Method::Ack);
    pair.caller.takes_offer("sendrecv", "sendrecv");
    pair.hear_each_other();
}

#[test]
fn what_cannot_be_done_is_refused() {
    let server = Server::start();
    let (status, _) = server.api("POST", "/calls/nonsense/hold", Some(&json!({})));
    assert_eq!(status, 404);
    let unknown = "/calls/0192f0c1-8c5e-7000-8000-000000000001/hold";
    assert_eq!(server.api("POST", unknown, Some(&json!({}))).0, 404);
    let (_pair, call) = talking(&server, ["udp", "udp"]);
    for (act, body, pointer) in
        [("hold", json!({"leg": "nobody"}), "/leg"), ("unhold", json!({"legs": "caller"}), "/legs")]
    {
        let path = format!("/calls/{call}/{act}");
        let (status, problem) = server.api("POST", &path, Some(&body));
        assert_eq!(status, 422, "{act} {body}: {problem}");
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{problem}");
    }
}

#[test]
fn a_call_that_only_rings_cannot_be_held() {
    let server = Server::start();
    let _attempt = super::pair::Attempt::new(&server, ["udp", "udp"]).ringing();
    let call = server.list("/calls")[0]["id"].as_str().expect("an id").to_owned();
    let path = format!("/calls/{call}/hold");
    let (status, problem) = server.api("POST", &path, Some(&json!({})));
    assert_eq!(status, 409, "{problem}");
}
