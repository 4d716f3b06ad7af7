//! Phones on TCP: their connections outlive the process that accepted them.

use crate::common::SOON;
use crate::common::phone::{Phone, sdp};
use crate::pair::{Pair, phone, reinvite};
use crate::switch::{Switch, check_record};
use holdfast::sip::{Method, Status};

#[test]
fn a_killed_process_leaves_its_connections_to_a_sibling() {
    let (mut switch, mut pair, at) = talking_by_one_process();
    switch.signaling[at].signaling.kill();
    drop(switch.signaling.remove(at));
    check_that_all_goes_on(&switch, &mut pair);
    pair.callee.hangs_up_on(&mut pair.caller);
    check_answered(&switch);
}

#[test]
fn a_leaving_process_leaves_its_connections_to_a_sibling() {
    let (mut switch, mut pair, at) = talking_by_one_process();
    let mut leaving = switch.signaling.remove(at);
    leaving.signaling.terminate();
    let status = leaving.signaling.finish(SOON);
    assert_eq!(status.code(), Some(0), "{status}");
    check_that_all_goes_on(&switch, &mut pair);
    pair.caller.hangs_up_on(&mut pair.callee);
    check_answered(&switch);
}

#[test]
fn a_bye_on_a_connection_just_before_the_kill_is_answered() {
    let (mut switch, mut pair, at) = talking_by_one_process();
    let bye = pair.caller.dialog.request(Method::Bye);
    pair.caller.phone.send_in_dialog(bye);
    switch.signaling[at].signaling.kill();
    drop(switch.signaling.remove(at));
    assert_eq!(pair.caller.phone.response_to(&Method::Bye).status, Status(200));
    let bye = pair.callee.phone.request_of(&Method::Bye);
    pair.callee.phone.respond(&bye, 200, "unused", None);
    assert_eq!(switch.survivor().cdrs(1).len(), 1);
}

/// Their connections broke, and neither registers: a dialog goes where its phone spoke last.
#[test]
fn phones_go_on_in_their_dialog_by_new_connections() {
    let switch = Switch::start();
    let mut pair = Pair::talking(switch.survivor(), ["tcp", "tcp"]);
    pair.hear_each_other();
    let Pair { caller, callee } = &mut pair;
    caller.phone.comes_anew();
    reinvite(caller, callee, "sendonly", "recvonly", false);
    reinvite(callee, caller, "sendrecv", "sendrecv", false);
    callee.phone.comes_anew();
    callee.phone.names_its_port();
    reinvite(callee, caller, "sendonly", "recvonly", false);
    reinvite(caller, callee, "sendrecv", "sendrecv", false);
    pair.hear_each_other();
    pair.caller.phone.comes_anew();
    pair.caller.hangs_up_on(&mut pair.callee);
    check_record(&switch.survivor().cdrs(1), 0);
}

/// A router, or its line, gave it another port, twice, and all it says of that is a REGISTER: it is told there what the
/// far phone wishes. Some name that port in their Contact.
#[test]
fn a_phone_that_registers_from_another_port_has_its_dialogs_there() {
    let switch = Switch::start();
    let ways = ["udp", "tcp"].into_iter().flat_map(|way| [(way, false), (way, true)]);
    for (transport, names_its_port) in ways {
        println!("{transport}, names its port: {names_its_port}");
        let mut caller = phone(switch.survivor(), "1001", transport);
        caller.register_instance();
        let callee = phone(switch.survivor(), "1002", transport);
        let mut pair = Pair::between(caller, callee, &switch.survivor().uri("1002"));
        pair.hear_each_other();
        let Pair { caller, callee } = &mut pair;
        for offered in ["sendonly", "sendrecv"] {
            for _ in 0..2 {
                caller.phone.comes_anew();
                if names_its_port {
                    caller.phone.names_its_port();
                }
                caller.phone.register_instance();
            }
            let answered = if offered == "sendonly" { "recvonly" } else { "sendrecv" };
            reinvite(callee, caller, offered, answered, false);
        }
        pair.hear_each_other();
        pair.caller.phone.comes_anew();
        pair.caller.phone.register_instance();
        pair.callee.hangs_up_on(&mut pair.caller);
        pair.caller.phone.unregister();
        pair.callee.phone.unregister();
    }
    let cdrs = switch.survivor().cdrs(4);
    cdrs.chunks(1).for_each(|cdr| check_record(cdr, 0));
}

/// Two phones on connections of one process, which owns their call; which one it is.
fn talking_by_one_process() -> (Switch, Pair, usize) {
    let switch = Switch::start();
    let server = switch.survivor();
    let callee = phone(server, "1002", "tcp");
    let node = server.registrations("1002", 1)[0]["node"].clone();
    // The kernel spreads connections: one to the same process comes soon.
    let caller = (0..64).find_map(|_| {
        let caller = phone(server, "1001", "tcp");
        let bindings = server.list("/registrations?extension=1001");
        let own = bindings.iter().find(|one| one["source"] == caller.local.to_string().as_str());
        (own?["node"] == node).then_some(caller)
    });
    let caller: Phone = caller.expect("a connection to that process");
    let pair = Pair::between(caller, callee, &server.uri("1002"));
    pair.hear_each_other();
    let at = switch.owner();
    assert_eq!(switch.signaling[at].node().as_str(), node);
    (switch, pair, at)
}

/// Two records: of the call that was taken over, and of the third phone's.
fn check_answered(switch: &Switch) {
    let mut cdrs = switch.survivor().cdrs(2);
    cdrs.retain(|cdr| cdr["disposition"] == "answered");
    check_record(&cdrs, 1);
}

/// Both hold and take back by the connections they have; another phone reaches one of them.
fn check_that_all_goes_on(switch: &Switch, pair: &mut Pair) {
    let server = switch.survivor();
    pair.hear_each_other();
    let Pair { caller, callee } = pair;
    reinvite(callee, caller, "sendonly", "recvonly", false);
    reinvite(callee, caller, "sendrecv", "sendrecv", false);
    reinvite(caller, callee, "sendonly", "recvonly", false);
    reinvite(caller, callee, "sendrecv", "sendrecv", false);
    let mut third = phone(server, "1003", "udp");
    let invite = third.invite(&server.uri("1002"), Some(&sdp(40_000, 1, "sendrecv")));
    let received = callee.phone.request_of(&Method::Invite);
    callee.phone.respond(&received, 486, "callee", None);
    callee.phone.request_of(&Method::Ack);
    let refused = third.response_to(&Method::Invite);
    assert_eq!(refused.status, Status(486));
    third.acknowledge_refusal(&invite, &refused);
    assert_eq!(callee.phone.register(&[]).status, Status(200));
    pair.hear_each_other();
}
