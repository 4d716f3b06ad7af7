//! What an operator does to live calls: what phones are told of it, and what they hear.

use super::common::events::Watching;
use super::common::phone::callee_dialog;
use super::common::rtp::Talk;
use super::common::server::Server;
use super::common::{SOON, eventually};
use super::pair::{Attempt, CALLEE_HZ, CALLER_HZ, Pair, Side, phone, reinvite};
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
    let watching = Watching::start(&server, "types=call.*");
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
    let ladder = server.api("GET", &format!("/calls/{call}/ladder"), None).1.to_string();
    assert!(ladder.contains("an operator: hold callee"), "{ladder}");
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
    // What changed nothing is told to nobody.
    let came = watching.until("call.ended", 1);
    let steered = came.iter().filter(|event| event["type"] == "call.steered");
    let told: Value = steered.map(|event| json!([event["act"], event["role"]])).collect();
    let acts = json!([
        ["hold", "callee"],
        ["unhold", null],
        ["hold", null],
        ["unhold", "caller"],
        ["unhold", "callee"]
    ]);
    assert_eq!(told, acts);
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
    for (act, body, pointer) in [
        ("hold", json!({"leg": "nobody"}), "/leg"),
        ("unhold", json!({"legs": "caller"}), "/legs"),
        ("dtmf", json!({"leg": "caller"}), "/digits"),
        ("dtmf", json!({"leg": "caller", "digits": "12x"}), "/digits"),
        ("dtmf", json!({"digits": "1"}), "/leg"),
        ("transfer", json!({"leg": "caller", "to": "4711"}), "/to"),
        ("transfer", json!({"leg": "caller", "to": "*43"}), "/to"),
        ("transfer", json!({"leg": "caller", "to": ""}), "/to"),
        ("move", json!({"node": "nowhere"}), "/node"),
        ("play", json!({"tone": "jingle"}), "/tone"),
        ("play", json!({"tone": "beep", "duration_ms": 1}), "/duration_ms"),
    ] {
        let path = format!("/calls/{call}/{act}");
        let (status, problem) = server.api("POST", &path, Some(&body));
        assert_eq!(status, 422, "{act} {body}: {problem}");
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{problem}");
    }
    server.user("1005");
    for (act, body) in [
        ("transfer", json!({"leg": "callee", "to": "1005"})),
        ("transfer", json!({"leg": "callee", "to": "1001"})),
        ("move", json!({})),
    ] {
        let path = format!("/calls/{call}/{act}");
        let (status, problem) = server.api("POST", &path, Some(&body));
        assert_eq!(status, 409, "{act} {body}: {problem}");
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

#[test]
fn digits_come_as_telephone_events_to_one_phone_and_sound_goes_on() {
    let server = Server::start();
    let (mut pair, call) = talking(&server, ["udp", "tcp"]);
    does(&server, &call, "dtmf", &json!({"leg": "callee", "digits": "12#"}));
    let came = || (pair.callee.talk.digits().len() == 3).then(|| pair.callee.talk.digits());
    assert_eq!(eventually("three digits", SOON, came), [1, 2, 11]);
    does(&server, &call, "dtmf", &json!({"leg": "callee", "digits": "A"}));
    let came = || (pair.callee.talk.digits().len() == 4).then(|| pair.callee.talk.digits());
    assert_eq!(eventually("one more", SOON, came), [1, 2, 11, 12]);
    pair.hear_each_other();
    assert_eq!(pair.caller.talk.digits(), [0; 0], "they are the callee's");
    pair.caller.hangs_up_on(&mut pair.callee);
}

#[test]
fn digits_come_by_info_to_a_phone_that_takes_no_events() {
    let server = Server::start();
    let (caller, callee) = (phone(&server, "1001", "udp"), phone(&server, "1002", "udp"));
    let talks = [Talk::new(CALLER_HZ).plain(), Talk::new(CALLEE_HZ)];
    let uri = server.uri("1002");
    let mut pair = Pair::answered(Attempt::with_talks(caller, callee, &uri, talks));
    let call = server.list("/calls")[0]["id"].as_str().expect("an id").to_owned();
    does(&server, &call, "dtmf", &json!({"leg": "caller", "digits": "7*"}));
    for digit in ["7", "*"] {
        let info = pair.caller.phone.request_of(&Method::Info);
        let body = String::from_utf8_lossy(&info.body).into_owned();
        assert!(body.starts_with(&format!("Signal={digit}\r\n")), "{body}");
        pair.caller.phone.respond(&info, 200, "unused", None);
    }
    pair.hear_each_other();
    assert_eq!(pair.caller.talk.digits(), [0; 0]);
}

const COMING_HZ: u32 = 1_300;

/// The phone that leaves gets BYE.
fn leaves(side: &mut Side) {
    let bye = side.phone.request_of(&Method::Bye);
    side.phone.respond(&bye, 200, "unused", None);
}

#[test]
fn a_callee_is_transferred_and_the_caller_is_connected_with_who_comes() {
    let server = Server::start();
    let mut coming = phone(&server, "1003", "tcp");
    let (Pair { caller, mut callee }, call) = talking(&server, ["udp", "udp"]);
    let told = does(&server, &call, "transfer", &json!({"leg": "callee", "to": "1003"}));
    assert_eq!(told["transfer"], json!({"leg": "callee", "to": "1003"}), "{told}");
    let invite = coming.request_of(&Method::Invite);
    let shown = invite.from().expect("From").uri.user();
    assert_eq!(shown.as_deref(), Some("1001"), "whom it will talk to");
    coming.respond(&invite, 180, "coming", None);
    let path = format!("/calls/{call}/transfer");
    let again = server.api("POST", &path, Some(&json!({"leg": "callee", "to": "1003"})));
    assert_eq!(again.0, 409, "{}", again.1);
    // The call goes on meanwhile.
    caller.talk.hears(CALLEE_HZ);
    callee.talk.hears(CALLER_HZ);
    let coming = Side::taking(coming, &invite, COMING_HZ);
    leaves(&mut callee);
    let mut pair = Pair { caller, callee: coming };
    pair.caller.talk.hears(COMING_HZ);
    pair.callee.talk.hears(CALLER_HZ);
    callee.talk.hears_nothing();
    // It is a call as any other.
    does(&server, &call, "hold", &json!({"leg": "callee"}));
    pair.callee.takes_offer("sendonly", "recvonly");
    does(&server, &call, "unhold", &json!({}));
    pair.callee.takes_offer("sendrecv", "sendrecv");
    reinvite(&mut pair.caller, &mut pair.callee, "sendonly", "recvonly", false);
    reinvite(&mut pair.caller, &mut pair.callee, "sendrecv", "sendrecv", false);
    pair.caller.talk.hears(COMING_HZ);
    pair.callee.hangs_up_on(&mut pair.caller);
    let cdr = &server.cdrs(1)[0];
    let transfer = &cdr["transfers"][0];
    let expect = json!({"leg": "callee", "from": "1002", "to": "1003", "sip_status": 200});
    for (field, value) in expect.as_object().expect("fields") {
        assert_eq!(&transfer[field], value, "{cdr}");
    }
    assert_eq!(
        (&cdr["ended_by"], &cdr["answered_by"]),
        (&json!("callee"), &json!("1002")),
        "{cdr}"
    );
    assert_eq!(cdr["legs"].as_array().map(Vec::len), Some(3), "{cdr}");
}

#[test]
fn a_caller_is_transferred_while_the_callee_holds() {
    let server = Server::start();
    let mut coming = phone(&server, "1003", "udp");
    let (Pair { mut caller, mut callee }, call) = talking(&server, ["udp", "udp"]);
    reinvite(&mut callee, &mut caller, "sendonly", "recvonly", false);
    does(&server, &call, "transfer", &json!({"leg": "caller", "to": "1003"}));
    let invite = coming.request_of(&Method::Invite);
    let shown = invite.from().expect("From").uri.user();
    assert_eq!(shown.as_deref(), Some("1002"), "whom it will talk to");
    let body = String::from_utf8_lossy(&invite.body).into_owned();
    assert!(body.contains("a=sendonly"), "{body}");
    let talk = Talk::new(COMING_HZ);
    talk.told(&invite.body);
    coming.respond(&invite, 200, "coming", Some(&talk.sdp(1, "recvonly")));
    coming.request_of(&Method::Ack);
    let dialog = callee_dialog(&invite, "coming");
    let mut coming = Side { phone: coming, talk, dialog, version: 1 };
    leaves(&mut caller);
    reinvite(&mut callee, &mut coming, "sendrecv", "sendrecv", false);
    coming.talk.hears(CALLEE_HZ);
    callee.talk.hears(COMING_HZ);
    coming.hangs_up_on(&mut callee);
    let cdr = &server.cdrs(1)[0];
    assert_eq!(
        (&cdr["ended_by"], &cdr["transfers"][0]["from"]),
        (&json!("caller"), &json!("1001"))
    );
}

/// It rang with what the staying phone said before.
#[test]
fn who_comes_hears_a_phone_that_resumed_while_it_rang() {
    let server = Server::start();
    let mut coming = phone(&server, "1003", "udp");
    let (Pair { mut caller, mut callee }, call) = talking(&server, ["udp", "udp"]);
    reinvite(&mut caller, &mut callee, "sendonly", "recvonly", false);
    does(&server, &call, "transfer", &json!({"leg": "callee", "to": "1003"}));
    let invite = coming.request_of(&Method::Invite);
    coming.respond(&invite, 180, "coming", None);
    reinvite(&mut caller, &mut callee, "sendrecv", "sendrecv", false);
    let talk = Talk::new(COMING_HZ);
    talk.told(&invite.body);
    coming.respond(&invite, 200, "coming", Some(&talk.sdp(1, "recvonly")));
    coming.request_of(&Method::Ack);
    let dialog = callee_dialog(&invite, "coming");
    let mut coming = Side { phone: coming, talk, dialog, version: 1 };
    leaves(&mut callee);
    coming.takes_offer("sendrecv", "sendrecv");
    caller.talk.hears(COMING_HZ);
    coming.talk.hears(CALLER_HZ);
    coming.hangs_up_on(&mut caller);
}

#[test]
fn when_nobody_comes_the_call_goes_on_as_it_was() {
    let server = Server::start();
    let mut coming = phone(&server, "1003", "udp");
    let (mut pair, call) = talking(&server, ["udp", "udp"]);
    does(&server, &call, "transfer", &json!({"leg": "callee", "to": "1003"}));
    let invite = coming.request_of(&Method::Invite);
    coming.respond(&invite, 486, "busy", None);
    coming.request_of(&Method::Ack);
    eventually("the transfer is over", SOON, || {
        let (_, seen) = server.api("GET", &format!("/calls/{call}"), None);
        seen["transfer"].is_null().then_some(())
    });
    pair.hear_each_other();
    pair.hold_and_resume();
    // Who stays hangs up while it rings again: nobody rings on.
    does(&server, &call, "transfer", &json!({"leg": "caller", "to": "1003"}));
    let invite = coming.request_of(&Method::Invite);
    coming.respond(&invite, 180, "rings", None);
    pair.callee.hangs_up_on(&mut pair.caller);
    let cancel = coming.request_of(&Method::Cancel);
    coming.respond(&cancel, 200, "rings", None);
    coming.respond(&invite, 487, "rings", None);
    let cdr = &server.cdrs(1)[0];
    let came_to = |at: usize| cdr["transfers"][at]["sip_status"].clone();
    assert_eq!([came_to(0), came_to(1)], [json!(486), json!(487)], "{cdr}");
}

/// As people do who have handed a call on: the other phone hears it ring, and is connected with who answers.
#[test]
fn a_phone_that_hangs_up_to_leave_ends_nothing() {
    for comes in [true, false] {
        let server = Server::start();
        let mut coming = phone(&server, "1003", "tcp");
        let (Pair { mut caller, mut callee }, call) = talking(&server, ["udp", "udp"]);
        does(&server, &call, "transfer", &json!({"leg": "callee", "to": "1003"}));
        let invite = coming.request_of(&Method::Invite);
        coming.respond(&invite, 180, "taking", None);
        callee.phone.hang_up(&mut callee.dialog);
        caller.talk.hears(TONE_HZ);
        let (_, seen) = server.api("GET", &format!("/calls/{call}"), None);
        let states: Vec<&str> = seen["legs"]
            .as_array()
            .expect("legs")
            .iter()
            .filter_map(|leg| leg["state"].as_str())
            .collect();
        assert_eq!(states, ["confirmed", "terminated", "early"], "{seen}");
        if comes {
            let mut coming = Side::taking(coming, &invite, COMING_HZ);
            caller.talk.hears(COMING_HZ);
            coming.talk.hears(CALLER_HZ);
            coming.hangs_up_on(&mut caller);
        } else {
            coming.respond(&invite, 486, "taking", None);
            coming.request_of(&Method::Ack);
            leaves(&mut caller);
        }
        let cdr = &server.cdrs(1)[0];
        let came_to = if comes { 200 } else { 486 };
        assert_eq!(cdr["transfers"][0]["sip_status"], came_to, "{cdr}");
        let ended = json!(["callee", "bye", "answered"]);
        assert_eq!(json!([cdr["ended_by"], cdr["end_cause"], cdr["disposition"]]), ended, "{cdr}");
    }
}

#[test]
fn the_command_line_steers_too() {
    let server = Server::start();
    let (mut pair, call) = talking(&server, ["udp", "udp"]);
    let run = |arguments: &[&str]| {
        let answer = server.command(arguments);
        assert!(answer.status.success(), "{arguments:?}: {answer:?}");
        String::from_utf8_lossy(&answer.stdout).into_owned()
    };
    assert_eq!(run(&["call", "hold", &call, "--leg", "callee"]).trim(), "held");
    pair.callee.takes_offer("sendonly", "recvonly");
    let told = run(&["call", "unhold", &call, "--json"]);
    let told: Value = serde_json::from_str(&told).expect("JSON");
    assert_eq!(told["parked"], "none", "{told}");
    pair.callee.takes_offer("sendrecv", "sendrecv");
    run(&["call", "dtmf", &call, "caller", "9"]);
    eventually("a digit", SOON, || (pair.caller.talk.digits() == [9]).then_some(()));
    let nobody = server.command(&["call", "transfer", &call, "callee", "4711"]);
    assert!(!nobody.status.success(), "{nobody:?}");
    let nowhere = server.command(&["call", "move", &call]);
    assert!(!nowhere.status.success(), "{nowhere:?}");
}

const TONE_HZ: u32 = 425;

#[test]
fn a_tone_is_heard_in_place_of_the_other_until_it_is_stopped_or_its_time_is_over() {
    let server = Server::start();
    let (mut pair, call) = talking(&server, ["udp", "udp"]);
    let told = does(&server, &call, "play", &json!({"leg": "callee", "tone": "dial"}));
    let playing: Vec<&Value> =
        told["legs"].as_array().expect("legs").iter().map(|leg| &leg["playing"]).collect();
    assert_eq!(playing, [&Value::Null, &json!("dial")], "{told}");
    pair.callee.talk.hears(TONE_HZ);
    pair.caller.talk.hears(CALLEE_HZ);
    // While it is held too.
    does(&server, &call, "hold", &json!({"leg": "callee"}));
    pair.callee.takes_offer("sendonly", "recvonly");
    pair.callee.talk.hears(TONE_HZ);
    pair.caller.talk.hears_nothing();
    does(&server, &call, "unhold", &json!({}));
    pair.callee.takes_offer("sendrecv", "sendrecv");
    pair.callee.talk.hears(TONE_HZ);
    let (status, told) = server.api("DELETE", &format!("/calls/{call}/play?leg=callee"), None);
    assert_eq!(status, 202, "{told}");
    pair.hear_each_other();
    let wish = json!({"tone": "dial", "duration_ms": 1_500});
    does(&server, &call, "play", &wish);
    pair.caller.talk.hears(TONE_HZ);
    pair.hear_each_other();
    pair.caller.hangs_up_on(&mut pair.callee);
}
