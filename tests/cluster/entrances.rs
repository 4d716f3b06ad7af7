//! Calls whose messages come by two hosts: an INVITE that is said again at another node, or at both at once, and phones
//! that are connected elsewhere than they are called.

use crate::common::network::in_a_network;
use crate::common::phone::{Phone, sdp};
use crate::common::server::Server;
use crate::common::{SOON, eventually};
use crate::pair::{Attempt, Pair, phone, stops_ringing};
use crate::two_hosts::Hosts;
use holdfast::sip::{HeaderName, Message, Method, Request, Status};
use serde_json::Value;
use std::thread;
use std::time::Duration;

/// Calls whose INVITEs reach both nodes at once.
const CALLS: usize = 8;
/// For so long after they met, nodes ask each other for INVITEs that they do not know.
const STRANGE: Duration = Duration::from_secs(33);
/// RFC 3261 §17.1.1.1.
const T1: Duration = Duration::from_millis(500);
/// What would be said twice is said by then.
const A_MOMENT: Duration = Duration::from_millis(300);

impl Phone {
    /// Says something to that node.
    fn says_to(&mut self, server: &Server, bytes: &[u8]) {
        self.server = server.sip;
        self.send(bytes);
    }

    /// Nobody asks it to ring.
    fn is_left_alone(&mut self) {
        let is_invite = |came: &Message| matches!(came, Message::Request(request) if request.method == Method::Invite);
        assert!(!self.comes(A_MOMENT, is_invite), "another INVITE");
    }
}

/// The phone heard nothing, so it says its INVITE again, and somehow that comes to the other host.
fn is_said_again_elsewhere(attempt: &mut Attempt, hosts: &Hosts) {
    attempt.caller.has_heard_nothing();
    let is_180 =
        |came: &Message| matches!(came, Message::Response(answer) if answer.status.0 == 180);
    eventually("it is told that it rings", SOON, || {
        attempt.caller.says_to(&hosts.second, &attempt.invite.to_bytes());
        attempt.caller.comes(T1, is_180).then_some(())
    });
    attempt.caller.response_with(180);
    attempt.callee.is_left_alone();
    let calls = hosts.second.list("/calls");
    assert_eq!((calls.len(), &calls[0]["owner"]), (1, &"alpha".into()), "{calls:#?}");
}

/// The INVITE comes to the other node too, and what both say from then on to the first.
fn is_said_again_and_answered(hosts: &Hosts) {
    let mut attempt = Attempt::new(&hosts.first, ["udp", "udp"]).ringing();
    is_said_again_elsewhere(&mut attempt, hosts);
    attempt.caller.server = hosts.first.sip;
    let mut pair = attempt.answered();
    pair.hear_each_other();
    pair.hold_and_resume();
    pair.callee.hangs_up_on(&mut pair.caller);
    check_answered(hosts, 1);
}

/// As a network does that takes two ways, or a phone that asks all addresses of a name: one call, one answer.
fn comes_to_both(hosts: &Hosts, first_of: usize) {
    let mut caller = phone(&hosts.first, "1003", "udp");
    let mut callee = phone(&hosts.second, "1004", "udp");
    hosts.first.registrations("1004", 1);
    let mut both = [&hosts.first, &hosts.second];
    both.rotate_left(first_of);
    let invite = authorized_invite(&mut caller, &hosts.first);
    for server in both {
        caller.says_to(server, &invite.to_bytes());
    }
    let received = callee.request_of(&Method::Invite);
    callee.is_left_alone();
    callee.respond(&received, 200, "callee", Some(&sdp(40_002, 1, "sendrecv")));
    let accepted = caller.response_to(&Method::Invite);
    assert_eq!(accepted.status, Status(200));
    let mut dialog = Phone::caller_dialog(&invite, &accepted);
    caller.follow(&dialog);
    caller.acknowledge(&dialog, &invite, None);
    callee.request_of(&Method::Ack);
    let is_final =
        |came: &Message| matches!(came, Message::Response(answer) if answer.status.is_final());
    assert!(!caller.comes(A_MOMENT, is_final), "another answer");
    caller.hang_up(&mut dialog);
    let bye = callee.request_of(&Method::Bye);
    callee.respond(&bye, 200, "callee", None);
    callee.unregister();
}

/// So many calls were made, and answered.
fn check_answered(hosts: &Hosts, count: usize) {
    let cdrs = hosts.first.cdrs(count);
    let answered = |cdr: &&Value| cdr["disposition"] == "answered" && cdr["takeovers"] == 0;
    assert_eq!(cdrs.iter().filter(answered).count(), count, "{cdrs:#?}");
}

#[test]
fn an_invite_that_is_said_again_at_another_node_is_answered_and_is_no_other_call() {
    in_a_network(|network| is_said_again_and_answered(&Hosts::start(network)));
}

/// Its CANCEL comes there too.
#[test]
fn a_call_is_cancelled_at_another_node() {
    in_a_network(|network| {
        let hosts = Hosts::start(network);
        let mut attempt = Attempt::new(&hosts.first, ["udp", "udp"]).ringing();
        is_said_again_elsewhere(&mut attempt, &hosts);
        let Attempt { caller, callee, invite, received, .. } = &mut attempt;
        caller.cancel(invite);
        assert_eq!(caller.response_to(&Method::Cancel).status, Status(200));
        stops_ringing(callee, received, "callee");
        let refused = caller.response_with(487);
        caller.acknowledge_refusal(invite, &refused);
        assert_eq!(hosts.first.cdrs(1)[0]["disposition"], "cancelled");
    });
}

#[test]
fn an_invite_that_comes_to_both_nodes_at_once_is_one_call() {
    in_a_network(|network| {
        let hosts = Hosts::start(network);
        (0..CALLS).for_each(|number| comes_to_both(&hosts, number % 2));
        check_answered(&hosts, CALLS);
    });
}

/// Nodes that know each other for long do not ask each other any more: the store tells.
#[test]
fn nodes_that_know_each_other_for_long_make_one_call_of_an_invite_too() {
    in_a_network(|network| {
        let hosts = Hosts::start(network);
        thread::sleep(STRANGE);
        is_said_again_and_answered(&hosts);
        (0..CALLS).for_each(|number| comes_to_both(&hosts, number % 2));
        check_answered(&hosts, 1 + CALLS);
        eventually("no session is left", SOON, || {
            let nodes = hosts.first.list("/nodes");
            (nodes.iter().find(|node| node["mode"] == "media")?["sessions"] == 0).then_some(())
        });
    });
}

/// Not sent yet.
fn authorized_invite(caller: &mut Phone, server: &Server) -> Request {
    caller.server = server.sip;
    let mut invite = caller.request(Method::Invite, &server.uri("1004"));
    invite.headers.push(HeaderName::ContentType, "application/sdp");
    invite.body = sdp(40_000, 1, "sendrecv").into();
    caller.send_request(&invite);
    let challenge = caller.response_to(&Method::Invite);
    caller.acknowledge_refusal(&invite, &challenge);
    caller.authorized(&invite, &challenge)
}

/// The callee's connection, or its address, is the other host's: all that one says comes to the other, and either can
/// end the call.
#[test]
fn a_phone_that_is_connected_elsewhere_is_called_and_talks() {
    in_a_network(|network| {
        let hosts = Hosts::start(network);
        let mut cdrs = 0;
        for transports in [["udp", "tcp"], ["tcp", "tcp"], ["tcp", "udp"]] {
            for callee_ends in [false, true] {
                println!("{transports:?}, the callee ends: {callee_ends}");
                talks_across(&hosts, transports, callee_ends);
                cdrs += 1;
                check_answered(&hosts, cdrs);
            }
        }
    });
}

fn talks_across(hosts: &Hosts, transports: [&str; 2], callee_ends: bool) {
    let caller = phone(&hosts.first, "1001", transports[0]);
    let callee = phone(&hosts.second, "1002", transports[1]);
    hosts.first.registrations("1002", 1);
    let mut pair = Pair::between(caller, callee, &hosts.first.uri("1002"));
    let calls = hosts.second.list("/calls");
    assert_eq!(calls[0]["owner"], "alpha", "{calls:#?}");
    let target = pair.callee.dialog.remote_target.as_str().to_owned();
    assert!(target.contains(&hosts.second.sip.to_string()), "{target}");
    pair.hear_each_other();
    pair.hold_and_resume();
    let Pair { caller, callee } = &mut pair;
    if callee_ends {
        callee.hangs_up_on(caller);
    } else {
        caller.hangs_up_on(callee);
    }
    caller.phone.unregister();
    callee.phone.unregister();
}
