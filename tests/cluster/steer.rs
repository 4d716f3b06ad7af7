//! What an operator did to a call outlives the call's owner, whichever node was asked.

use crate::common::phone::callee_dialog;
use crate::common::rtp::Talk;
use crate::common::server::Server;
use crate::common::{SOON, eventually};
use crate::pair::{CALLER_HZ, Pair, Side, phone};
use crate::switch::{Switch, check_record};
use holdfast::sip::Method;
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

/// Events are made by the media node: once, whoever owns the call.
#[test]
fn digits_outlive_the_owner_and_come_once() {
    let mut switch = Switch::start();
    let (mut pair, call) = talking(&switch);
    does(&switch, &call, "dtmf", &json!({"leg": "caller", "digits": "0123456789"}));
    switch.take_owner().signaling.kill();
    let came = || (pair.caller.talk.digits().len() >= 10).then(|| pair.caller.talk.digits());
    assert_eq!(eventually("ten digits", SOON, came), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    pair.hear_each_other();
    pair.hold_and_resume();
    assert_eq!(pair.caller.talk.digits().len(), 10, "and no more");
    pair.callee.hangs_up_on(&mut pair.caller);
    check_record(&switch.survivor().cdrs(1), 1);
}

/// Before the phones of who comes are asked, or while they ring.
#[test]
fn a_transfer_outlives_the_owner() {
    const COMING_HZ: u32 = 1_300;
    for rings in [false, true] {
        let mut switch = Switch::start();
        let mut coming = phone(switch.survivor(), "1003", "udp");
        let (Pair { mut caller, mut callee }, call) = talking(&switch);
        does(&switch, &call, "transfer", &json!({"leg": "callee", "to": "1003"}));
        if rings {
            let invite = coming.request_of(&Method::Invite);
            coming.respond(&invite, 180, "unused", None);
            switch.take_owner().signaling.kill();
            // It repeats what it said, as phones do.
            let talk = Talk::new(COMING_HZ);
            talk.told(&invite.body);
            let answer = talk.sdp(1, "sendrecv");
            coming.respond(&invite, 200, "unused", Some(&answer));
            coming.request_of(&Method::Ack);
            let dialog = callee_dialog(&invite, "unused");
            let mut coming = Side { phone: coming, talk, dialog, version: 1 };
            let bye = callee.phone.request_of(&Method::Bye);
            callee.phone.respond(&bye, 200, "unused", None);
            caller.talk.hears(COMING_HZ);
            coming.talk.hears(CALLER_HZ);
            coming.hangs_up_on(&mut caller);
        } else {
            switch.take_owner().signaling.kill();
            let invite = coming.request_of(&Method::Invite);
            coming.respond(&invite, 486, "unused", None);
            coming.request_of(&Method::Ack);
            let mut pair = Pair { caller, callee };
            pair.hear_each_other();
            pair.callee.hangs_up_on(&mut pair.caller);
        }
        let cdrs = switch.survivor().cdrs(1);
        check_record(&cdrs, 1);
        let status = if rings { 200 } else { 486 };
        assert_eq!(cdrs[0]["transfers"][0]["sip_status"], status, "{cdrs:#?}");
    }
}

/// Its owner dies as soon as who came is acknowledged: the phone that left is in the record still, and is no third one.
#[test]
fn a_phone_that_left_stays_away_when_the_owner_dies_then() {
    const COMING_HZ: u32 = 1_300;
    let mut switch = Switch::start();
    let mut coming = phone(switch.survivor(), "1003", "udp");
    let (Pair { mut caller, mut callee }, call) = talking(&switch);
    does(&switch, &call, "transfer", &json!({"leg": "callee", "to": "1003"}));
    let invite = coming.request_of(&Method::Invite);
    let talk = Talk::new(COMING_HZ);
    talk.told(&invite.body);
    coming.respond(&invite, 200, "unused", Some(&talk.sdp(1, "sendrecv")));
    coming.request_of(&Method::Ack);
    switch.take_owner().signaling.kill();
    let dialog = callee_dialog(&invite, "unused");
    let mut coming = Side { phone: coming, talk, dialog, version: 1 };
    let bye = callee.phone.request_of(&Method::Bye);
    callee.phone.respond(&bye, 481, "unused", None);
    let survivor = switch.survivor();
    let legs = || {
        let (_, seen) = survivor.api("GET", &format!("/calls/{call}"), None);
        (seen["owner"] == survivor.node()).then(|| seen["legs"].clone())
    };
    let legs = eventually("it is carried on", SOON, legs);
    let talks = legs.as_array().expect("legs").iter().filter(|leg| leg["state"] == "confirmed");
    assert_eq!(talks.count(), 2, "{legs:#}");
    caller.talk.hears(COMING_HZ);
    coming.talk.hears(CALLER_HZ);
    coming.hangs_up_on(&mut caller);
    check_record(&survivor.cdrs(1), 1);
}

#[test]
fn a_tone_plays_on_when_the_owner_is_gone_and_ends_in_its_time() {
    let mut switch = Switch::start();
    let (mut pair, call) = talking(&switch);
    does(&switch, &call, "play", &json!({"leg": "caller", "tone": "dial", "duration_ms": 4_000}));
    switch.take_owner().signaling.kill();
    pair.caller.talk.hears(425);
    pair.hear_each_other();
    pair.callee.hangs_up_on(&mut pair.caller);
    check_record(&switch.survivor().cdrs(1), 1);
}

/// It may have the call, and may have done what was wanted: that is not 404, and a repetition does not do it again.
#[test]
fn an_owner_that_does_not_answer_is_not_no_call() {
    let switch = Switch::start();
    let (_pair, call) = talking(&switch);
    let owner = switch.owner();
    let other = &switch.signaling[1 - owner];
    let path = format!("/calls/{call}");
    let hold = format!("{path}/hold");
    switch.signaling[owner].signaling.freeze();
    std::thread::scope(|scope| {
        let ask = |method, path| scope.spawn(move || other.api(method, path, None));
        for asked in [ask("GET", &path), ask("DELETE", &path), ask("POST", &hold)] {
            let (status, answer) = asked.join().expect("no panic");
            assert_eq!(status, 503, "{answer}");
        }
    });
    let nobody = "/calls/01920000-0000-7000-8000-000000000001";
    switch.signaling[owner].signaling.thaw();
    eventually("there is none when all say so", SOON, || {
        (other.api("GET", nobody, None).0 == 404).then_some(())
    });
}

/// Until another node has claimed it nobody has the call, and it is there all the same.
#[test]
fn a_call_whose_owner_died_a_moment_ago_is_not_gone() {
    let mut switch = Switch::start();
    let (pair, call) = talking(&switch);
    switch.take_owner().signaling.kill();
    let survivor = switch.survivor();
    let mut refused = 0;
    eventually("it is held", SOON, || {
        for (method, path) in [("GET", ""), ("POST", "/hold")] {
            let (status, answer) = survivor.api(method, &format!("/calls/{call}{path}"), None);
            match status {
                200 | 202 => {}
                503 => refused += 1,
                _ => panic!("{method} {path}: {answer}"),
            }
            if status == 202 {
                return Some(());
            }
        }
        None
    });
    assert!(refused > 0, "nobody was asked in time");
    pair.caller.talk.hears_nothing();
}
