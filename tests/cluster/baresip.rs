//! Phones that we did not write, baresip, over the deaths of the processes that serve their call: each is heard by its
//! tone, before and after.

use crate::common::baresip::{Baresip, Settings};
use crate::common::server::Server;
use crate::media::second_media;
use crate::pair::{CALLEE_HZ, CALLER_HZ};
use crate::switch::{Switch, check_record};

fn phone(server: &Server, user: &str, tone_hz: u32, transport: &str, answers: bool) -> Baresip {
    let (password, server) = (server.user(user), Some(server.sip));
    let settings =
        Settings { user, password, server, transport, tone_hz, answers, ..Default::default() };
    Baresip::start(&settings).registered()
}

/// 1001 has called 1002, whose phone answers by itself or rings.
fn calling(switch: &Switch, transport: &str, answers: bool) -> [Baresip; 2] {
    let server = switch.survivor();
    let bob = phone(server, "1002", CALLEE_HZ, transport, answers);
    let mut alice = phone(server, "1001", CALLER_HZ, transport, true);
    alice.dial(&format!("{};transport={transport}", server.uri("1002")));
    [alice, bob]
}

fn talk(alice: &mut Baresip, bob: &mut Baresip) {
    alice.event("CALL_ESTABLISHED");
    bob.event("CALL_ESTABLISHED");
    hear_each_other(alice, bob);
}

fn hear_each_other(alice: &Baresip, bob: &Baresip) {
    alice.hears(CALLEE_HZ);
    bob.hears(CALLER_HZ);
}

/// Signaling first, then media; who holds is not heard, and then again; the far phone hears of the end.
fn goes_on(transport: &str) {
    let mut switch = Switch::start();
    let [mut alice, mut bob] = calling(&switch, transport, true);
    talk(&mut alice, &mut bob);
    switch.take_owner().signaling.kill();
    hear_each_other(&alice, &bob);
    let _heir = second_media(&switch);
    switch.media.kill();
    hear_each_other(&alice, &bob);
    alice.hold();
    alice.resume();
    bob.hang_up();
    alice.event("CALL_CLOSED");
    check_record(&switch.survivor().cdrs(1), 1);
}

#[test]
fn a_call_on_udp_goes_on() {
    goes_on("udp");
}

#[test]
fn a_call_on_connections_goes_on() {
    goes_on("tcp");
}

#[test]
fn a_phone_that_rings_is_answered_after_its_node_was_killed() {
    let mut switch = Switch::start();
    let [mut alice, mut bob] = calling(&switch, "udp", false);
    bob.event("CALL_INCOMING");
    alice.event("CALL_RINGING");
    switch.take_owner().signaling.kill();
    bob.answer();
    talk(&mut alice, &mut bob);
    alice.hang_up();
    bob.event("CALL_CLOSED");
    check_record(&switch.survivor().cdrs(1), 1);
}
