//! SIGTERM to the owner, or a drain that an operator orders: its calls are handed over at once.

use crate::common::phone::{Phone, sdp};
use crate::common::postgres::Postgres;
use crate::common::server::{Host, Server};
use crate::common::{SOON, eventually};
use crate::pair::{Attempt, Pair, phone, stops_ringing};
use crate::switch::{Switch, check_record};
use holdfast::sip::{HeaderName, Message, Method, Response, Status};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Phones whose ports the kernel spreads over both processes.
const PHONES: usize = 8;

/// One process alone: its successor starts beside it.
#[test]
fn a_signaling_process_is_replaced_and_its_call_goes_on() {
    let postgres = Postgres::start();
    let host = Host::new(&postgres.url("postgres"));
    let _media = host.media();
    let mut server = host.signaling();
    let mut pair = Pair::talking(&server, ["udp", "tcp"]);
    pair.hear_each_other();
    let successor = host.successor_of_signaling();
    let status = server.signaling.finish(SOON * 2);
    assert_eq!(status.code(), Some(0), "{status}");
    pair.hear_each_other();
    pair.hold_and_resume();
    pair.callee.hangs_up_on(&mut pair.caller);
    check_record(&successor.cdrs(1), 1);
}

#[test]
fn a_leaving_process_hands_its_calls_over() {
    let mut switch = Switch::start();
    let mut pair = Pair::talking(switch.survivor(), ["udp", "udp"]);
    pair.hear_each_other();
    let mut owner = switch.take_owner();
    owner.signaling.terminate();
    let status = owner.signaling.finish(SOON);
    assert_eq!(status.code(), Some(0), "{status}");
    owner.signaling.says("1 calls handed over");
    pair.hear_each_other();
    pair.hold_and_resume();
    pair.caller.hangs_up_on(&mut pair.callee);
    check_record(&switch.survivor().cdrs(1), 1);
}

#[test]
fn a_drained_process_hands_its_calls_over_and_stays() {
    let switch = Switch::start();
    let mut pair = Pair::talking(switch.survivor(), ["udp", "udp"]);
    let from = switch.owner();
    let (drained, other) = (&switch.signaling[from], &switch.signaling[1 - from]);
    // Any node takes the order.
    let ran = other.command(&["drain", &drained.node(), "--wait"]);
    let told = String::from_utf8_lossy(&ran.stderr).into_owned();
    assert!(ran.status.success(), "{ran:?}");
    let nothing = format!("{} still has 0 calls, 0 sessions, 0 flows", drained.node());
    assert_eq!(told.lines().last(), Some(nothing.as_str()), "{told}");
    eventually("the calls are another's", SOON, || {
        (other.list("/calls").first()?["owner"] == other.node().as_str()).then_some(())
    });
    let (status, readiness) = drained.readiness();
    assert_eq!((status, readiness["status"].as_str()), (503, Some("draining")), "{readiness}");
    pair.hear_each_other();
    pair.hold_and_resume();
    // Its sockets are read by the other: no phone that the kernel brings to it is refused.
    drained.signaling.says("connections are a sibling's");
    for number in 0..PHONES {
        let mut caller = phone(other, "1003", if number % 2 == 0 { "udp" } else { "tcp" });
        assert_eq!(called(&mut caller, &other.uri("nobody")).status, Status(404));
    }
    let ran = other.command(&["drain", &drained.node(), "--undo"]);
    assert!(ran.status.success(), "{ran:?}");
    eventually("it takes calls again", SOON, || (drained.readiness().0 == 200).then_some(()));
    pair.callee.hangs_up_on(&mut pair.caller);
    let mut cdrs = other.cdrs(1 + PHONES);
    cdrs.retain(|cdr| cdr["disposition"] == "answered");
    check_record(&cdrs, 1);
}

#[test]
fn a_drained_process_without_others_keeps_its_calls() {
    let server = Server::start();
    let mut pair = Pair::talking(&server, ["udp", "udp"]);
    let path = format!("/nodes/{}", server.node());
    assert_eq!(server.api("POST", &format!("{path}/drain"), None).0, 202);
    // Registers: a drain refuses new calls only.
    let mut third = phone(&server, "1003", "udp");
    let refused = called(&mut third, &server.uri("1002"));
    assert_eq!((refused.status, &*refused.reason), (Status(503), "Draining"));
    let after = refused.headers.get(&HeaderName::RetryAfter).and_then(|text| text.parse().ok());
    assert!(after.is_some_and(|seconds: u32| (1..=5).contains(&seconds)), "{after:?}");
    let (status, problem) =
        server.api("POST", "/calls", Some(&json!({"from": "1003", "to": "1002"})));
    assert_eq!(status, 503, "nor one that an operator asks for: {problem}");
    pair.hear_each_other();
    pair.hold_and_resume();
    let drain: Value = server.api("GET", &path, None).1["drain"].clone();
    assert_eq!(drain["remaining_calls"], 1, "{drain}");
    assert!(drain["deadline_at"].is_null(), "they stay until they are over: {drain}");
    assert_eq!(server.api("POST", &format!("{path}/undrain"), None).0, 202);
    // The media half is back a moment later.
    eventually("it takes calls again", SOON, || {
        (called(&mut third, &server.uri("nobody")).status == Status(404)).then_some(())
    });
    pair.caller.hangs_up_on(&mut pair.callee);
}

/// Who waits for a media node waits for its sessions.
#[test]
fn a_wait_for_a_media_node_lasts_as_long_as_its_sessions() {
    let server = Server::start_apart();
    let mut pair = Pair::talking(&server, ["udp", "udp"]);
    pair.hear_each_other();
    let nodes = server.list("/nodes");
    let media = nodes.iter().find(|node| node["mode"] == "media").expect("a media node");
    let name = media["name"].as_str().expect("a name");
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| server.command(&["drain", name, "--wait"]));
        eventually("the drain is told", SOON, || {
            let (_, node) = server.api("GET", &format!("/nodes/{name}"), None);
            (node["drain"]["remaining_sessions"] == 1).then_some(())
        });
        pair.hear_each_other();
        assert!(!waits.is_finished(), "it waits");
        pair.caller.hangs_up_on(&mut pair.callee);
        let ran = waits.join().expect("no panic");
        assert!(ran.status.success(), "{ran:?}");
        let told = String::from_utf8_lossy(&ran.stderr).into_owned();
        let said =
            [1, 0].map(|count| format!("{name} still has 0 calls, {count} sessions, 0 flows"));
        assert_eq!(told.lines().collect::<Vec<_>>(), said);
    });
}

/// An operator wants no call to go on: those that talk, and one that rings.
#[test]
fn a_drain_that_ends_calls_tells_every_phone() {
    let mut server = Server::start();
    let mut udp = Pair::talking(&server, ["udp", "udp"]);
    let [caller, callee] = ["1003", "1004"].map(|user| phone(&server, user, "tcp"));
    let mut tcp = Pair::between(caller, callee, &server.uri("1004"));
    let [caller, callee] = ["1005", "1006"].map(|user| phone(&server, user, "udp"));
    let mut ringing = Attempt::between(caller, callee, &server.uri("1006")).ringing();
    udp.hear_each_other();
    tcp.hear_each_other();
    drain_and_end_calls(&server, &server.node());
    are_told(&mut udp);
    are_told(&mut tcp);
    let Attempt { caller, callee, invite, received, .. } = &mut ringing;
    stops_ringing(callee, received, "callee");
    let refused = caller.response_to(&Method::Invite);
    assert_eq!(refused.status, Status(480));
    caller.acknowledge_refusal(invite, &refused);
    let cdrs = server.cdrs(3);
    cdrs.iter().for_each(check_drained);
    let count = |what: &str| cdrs.iter().filter(|cdr| cdr["disposition"] == what).count();
    assert_eq!((count("answered"), count("failed")), (2, 1), "{cdrs:#?}");
    server.signaling.terminate();
    let status = server.signaling.finish(SOON);
    assert_eq!(status.code(), Some(0), "{status}");
}

/// Though another process would take them. That one goes on with its own.
#[test]
fn calls_that_a_drain_ends_are_not_handed_over() {
    let mut switch = Switch::start();
    let mut pair = Pair::talking(switch.survivor(), ["udp", "tcp"]);
    pair.hear_each_other();
    let mut owner = switch.take_owner();
    drain_and_end_calls(switch.survivor(), &owner.node());
    are_told(&mut pair);
    let cdrs = switch.survivor().cdrs(1);
    check_drained(&cdrs[0]);
    check_record(&cdrs, 0);
    owner.signaling.terminate();
    let status = owner.signaling.finish(SOON);
    assert_eq!(status.code(), Some(0), "{status}");
    let Pair { caller, callee } = pair;
    let mut pair = Pair::between(caller.phone, callee.phone, &switch.survivor().uri("1002"));
    pair.hear_each_other();
    pair.caller.hangs_up_on(&mut pair.callee);
}

/// A drain of a media process, unlike that of signaling, has an end: its calls cannot be without it.
#[test]
fn a_media_process_without_others_waits_no_longer_than_it_may() {
    const LONGEST: Duration = Duration::from_millis(3_500);
    let postgres = Postgres::start();
    let host = Host::new(&postgres.url("postgres"));
    let host = host.configured(&format!("drain_timeout_ms = {}\n", LONGEST.as_millis()));
    let mut media = host.media();
    let server = host.signaling();
    let mut pair = Pair::talking(&server, ["udp", "udp"]);
    pair.hear_each_other();
    let told_at = Instant::now();
    media.terminate();
    let status = media.finish(SOON);
    assert_eq!(status.code(), Some(0), "{status}");
    assert!(told_at.elapsed() >= LONGEST, "{:?}", told_at.elapsed());
    eventually("the call ends", SOON * 2, || {
        pair.caller.phone.comes(Duration::from_millis(100), is_bye).then_some(())
    });
    are_ended(&mut pair);
    let cdrs = server.cdrs(1);
    assert_eq!(
        (&cdrs[0]["end_cause"], &cdrs[0]["ended_by"]),
        (&"node_lost".into(), &"system".into())
    );
}

/// Alone, a media process waits for its sessions to end. Who has no time says it once more.
#[test]
fn a_second_signal_forces_the_exit() {
    let mut switch = Switch::start();
    let pair = Pair::talking(switch.survivor(), ["udp", "udp"]);
    pair.hear_each_other();
    switch.media.terminate();
    switch.media.says("a second signal ends at once");
    pair.hear_each_other();
    assert!(switch.media.is_running(), "it waits for the session");
    switch.media.terminate();
    let status = switch.media.finish(SOON);
    assert_eq!(status.code(), Some(1), "not all went as it should: {status}");
}

fn drain_and_end_calls(through: &Server, node: &str) {
    let ran = through.command(&["drain", node, "--end-calls"]);
    assert!(ran.status.success(), "{ran:?}");
}

/// Both phones are told that the node is drained, and why they are.
fn are_told(pair: &mut Pair) {
    for reason in are_ended(pair) {
        assert_eq!(reason, "Q.850;cause=16;text=\"node drained\"");
    }
}

/// Both phones get a BYE; its reasons.
fn are_ended(pair: &mut Pair) -> [String; 2] {
    [&mut pair.caller, &mut pair.callee].map(|side| {
        let bye = side.phone.request_of(&Method::Bye);
        side.phone.respond(&bye, 200, "unused", None);
        bye.headers.get(&HeaderName::Reason).expect("a reason").to_owned()
    })
}

fn is_bye(came: &Message) -> bool {
    matches!(came, Message::Request(request) if request.method == Method::Bye)
}

fn check_drained(cdr: &Value) {
    assert_eq!(
        (&cdr["end_cause"], &cdr["ended_by"]),
        (&"drain".into(), &"admin".into()),
        "{cdr:#}"
    );
}

/// What comes of a call that nobody answers.
fn called(caller: &mut Phone, uri: &str) -> Response {
    let invite = caller.invite(uri, Some(&sdp(40_000, 1, "sendrecv")));
    let refused = caller.response_to(&Method::Invite);
    caller.acknowledge_refusal(&invite, &refused);
    refused
}
