//! What an operator did to a call outlives the call's owner, whichever node was asked.

use crate::common::server::Server;
use crate::pair::Pair;
use crate::switch::{Switch, check_record};
use serde_json::{Value, json};

/// A call that talks, and its id.
fn talking(switch: &Switch) -> (Pair, String) {
    let pair = Pair::talking(switch.survivor(), ["udp", "udp"]);
    pair.hear_each_other();
    switch.owner();
    let calls = switch.survivor().list("/calls");
    (pair, calls[0]["id"].as_str().expect("an id").to_owned())
}

/// Who does not own the call is asked.
fn does(switch: &Switch, call: &str, act: &str, body: &Value) -> Value {
    let other = &switch.signaling[1 - switch.owner()];
    asked(other, call, act, body)
}

fn asked(server: &Server, call: &str, act: &str, body: &Value) -> Value {
    let (status, answer) = server.api("POST", &format!("/calls/{call}/{act}"), Some(body));
    assert_eq!(status, 202, "{act} {body}: {answer}");
    answer
}

/// Its owner dies as soon as the operator is answered: the phone is told of the hold, by whoever it is.
#[test]
fn a_hold_outlives_the_owner_that_was_asked_for_it() {
    let mut switch = Switch::start();
    let (mut pair, call) = talking(&switch);
    let held = does(&switch, &call, "hold", &json!({"leg": "callee"}));
    assert_eq!(held["parked"], "callee", "{held}");
    switch.take_owner().signaling.kill();
    pair.callee.takes_offer("sendonly", "recvonly");
    pair.callee.talk.hears_nothing();
    pair.caller.talk.hears_nothing();
    let survivor = switch.survivor();
    let seen = survivor.api("GET", &format!("/calls/{call}"), None).1;
    assert_eq!((&seen["parked"], &seen["owner"]), (&json!("callee"), &json!(survivor.node())));
    asked(survivor, &call, "unhold", &json!({}));
    pair.callee.takes_offer("sendrecv", "sendrecv");
    pair.hear_each_other();
    pair.hold_and_resume();
    pair.callee.hangs_up_on(&mut pair.caller);
    check_record(&survivor.cdrs(1), 1);
}
