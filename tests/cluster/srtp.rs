//! Calls with SRTP outlive the processes that carry them: keys are in the record, sealed, and nowhere else.

use crate::common::api::Api;
use crate::common::rtp::Talk;
use crate::common::server::Server;
use crate::common::srtp::{CM_80, GCM_128, Secured};
use crate::common::{SOON, eventually};
use crate::crowd::check_line;
use crate::media::second_media;
use crate::pair::{self, Attempt, CALLEE_HZ, CALLER_HZ, Pair};
use crate::switch::{Switch, check_record};
use serde_json::json;

/// 1001 calls 1002, both with SRTP, each in a suite of its own.
pub(crate) fn talking(server: &Api) -> Pair {
    // The callee first: who knows the caller's change knows this one too.
    for extension in ["1002", "1001"] {
        server.user_with(extension, &json!({"srtp": "mandatory"}));
    }
    let [caller, callee] = ["1001", "1002"].map(|user| pair::phone(server, user, "udp"));
    let talks = [(CALLER_HZ, CM_80), (CALLEE_HZ, GCM_128)]
        .map(|(hz, suite)| Talk::new(hz).secured(Secured::new(suite, "RTP/SAVP", hz as u8)));
    Pair::answered(Attempt::with_talks(caller, callee, &server.uri("1002"), talks))
}

#[test]
fn signaling_is_killed_and_the_call_is_held_and_resumed_with_the_same_keys() {
    let mut switch = Switch::start();
    let mut pair = talking(switch.survivor());
    pair.hear_each_other();
    let mut owner = switch.take_owner();
    owner.signaling.kill();
    pair.hear_each_other();
    pair.hold_and_resume();
    let shown = switch.survivor().request("GET", "/api/v1/calls", None).expect("calls").1;
    assert!(shown.to_string().contains("sdes") && !shown.to_string().contains("inline"));
    pair.callee.hangs_up_on(&mut pair.caller);
    check_record(&switch.survivor().cdrs(1), 1);
}

/// Until the phones' sequence numbers have rolled over.
pub(crate) fn roll_over(pair: &Pair) {
    for talk in [&pair.caller.talk, &pair.callee.talk] {
        eventually("136 packets are sent", SOON, || (talk.sent() > 140).then_some(()));
    }
    pair.hear_each_other();
}

/// The heir opens what comes by roll-overs that it was told, and protects by a source that phones have not heard yet.
#[test]
fn a_media_process_is_killed_and_another_takes_its_ports() {
    let mut switch = Switch::start();
    let mut pair = talking(switch.survivor());
    roll_over(&pair);
    let _second = second_media(&switch);
    switch.media.kill();
    pair.hear_each_other();
    let calls = switch.survivor().list("/calls");
    assert_eq!(calls[0]["media"]["reanchors"], 0, "{calls:#?}");
    pair.caller.hangs_up_on(&mut pair.callee);
    check_record(&switch.survivor().cdrs(1), 0);
}

#[test]
fn a_media_process_leaves_and_counters_go_on_in_the_other() {
    let mut switch = Switch::start();
    let mut pair = talking(switch.survivor());
    roll_over(&pair);
    let _second = second_media(&switch);
    switch.media.terminate();
    assert_eq!(switch.media.finish(SOON).code(), Some(0));
    pair.hear_each_other();
    for talk in [&pair.caller.talk, &pair.callee.talk] {
        check_line(0, &talk.came());
    }
    let calls = switch.survivor().list("/calls");
    let id = calls[0]["id"].as_str().expect("an id");
    let (_, call) = switch.survivor().api("GET", &format!("/calls/{id}"), None);
    for leg in 0..2 {
        let stream = &call["legs"][leg]["streams"][0];
        assert_eq!(stream["received"]["rejected"], 0, "{stream}");
    }
    pair.caller.hangs_up_on(&mut pair.callee);
    check_record(&switch.survivor().cdrs(1), 0);
}

#[test]
fn the_only_process_is_killed_and_started_again() {
    let mut server = Server::start();
    let mut pair = talking(&server);
    pair.hear_each_other();
    server.signaling.kill();
    server.start_again();
    // The phones' sequence numbers have rolled over, and our new SSRC is under the same key.
    pair.hear_each_other();
    pair.caller.hangs_up_on(&mut pair.callee);
    check_record(&server.cdrs(1), 1);
    let stored = server.stored();
    for secret in ["inline:", "RTP/SAVP"] {
        let seen = stored.windows(secret.len()).any(|window| window == secret.as_bytes());
        assert!(!seen, "{secret} is stored in clear");
    }
}
