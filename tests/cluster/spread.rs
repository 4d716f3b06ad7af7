//! Any node, any message: phones whose messages reach different processes of one address.

use crate::common::SOON;
use crate::common::phone::sdp;
use crate::pair::{Pair, phone};
use crate::switch::Switch;
use holdfast::sip::{Method, Status};
use std::collections::HashSet;

/// The kernel spreads phones over the processes by their addresses: of so many hardly all go to one.
const PAIRS: usize = 6;

#[test]
fn whoever_is_reached_serves_the_call() {
    let switch = Switch::start();
    let mut owners = HashSet::new();
    // The kernel spreads phones over the processes by their addresses: some go to the second one before long.
    let mut calls = 0;
    while owners.len() < switch.signaling.len() {
        calls += 1;
        assert!(calls <= 64, "one process had all calls");
        let mut pair = Pair::talking(switch.survivor(), ["udp", "udp"]);
        owners.insert(switch.owner());
        pair.hear_each_other();
        pair.callee.hangs_up_on(&mut pair.caller);
        let cdrs = switch.survivor().cdrs(calls);
        assert!(cdrs.iter().all(|cdr| cdr["takeovers"] == 0), "{cdrs:#?}");
    }
}

#[test]
fn any_node_shows_and_ends_a_call() {
    let switch = Switch::start();
    let mut pair = Pair::talking(switch.survivor(), ["udp", "udp"]);
    let calls: Vec<_> = switch.signaling.iter().map(|server| server.list("/calls")).collect();
    let ids: Vec<&str> = calls.iter().filter_map(|calls| calls[0]["id"].as_str()).collect();
    assert_eq!(ids.len(), 2);
    assert_eq!(ids[0], ids[1]);
    let path = format!("/calls/{}", ids[0]);
    let other = &switch.signaling[1 - switch.owner()];
    assert_eq!(other.api("GET", &path, None).0, 200);
    assert_eq!(other.api("DELETE", &format!("{path}?reason=test"), None).0, 202);
    for side in [&mut pair.caller, &mut pair.callee] {
        let bye = side.phone.request_of(&Method::Bye);
        side.phone.respond(&bye, 200, "unused", None);
    }
    let cdrs = other.cdrs(1);
    assert_eq!(cdrs[0]["ended_by"], "admin", "{cdrs:#?}");
    assert_eq!(other.api("DELETE", &path, None).0, 404);
}

#[test]
fn a_phone_on_a_connection_of_one_process_is_called_by_another() {
    let switch = Switch::start();
    let server = switch.survivor();
    let mut callee = phone(server, "1002", "tcp");
    for _ in 0..PAIRS {
        let mut caller = phone(server, "1001", "udp");
        let offer = sdp(40_000, 1, "sendrecv");
        let invite = caller.invite(&server.uri("1002"), Some(&offer));
        let received = callee.request_of(&Method::Invite);
        callee.respond(&received, 486, "callee", None);
        callee.request_of(&Method::Ack);
        let refused = caller.response_to(&Method::Invite);
        assert_eq!(refused.status, Status(486));
        caller.acknowledge_refusal(&invite, &refused);
    }
    assert!(!callee.comes(SOON / 20, |_| false));
    assert_eq!(server.cdrs(PAIRS).len(), PAIRS);
}
