//! Phones that we did not write, baresip, over the deaths of the processes that serve their call: each is heard by its
//! tone, before and after.

use crate::common::baresip::{Baresip, Settings};
use crate::common::server::Server;
use crate::common::{SOON, eventually};
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

/// A call before something happens and after; then one side ends it, whatever that is like by then.
fn talks_on(happens: impl Fn(&mut Switch), takeovers: u64) {
    for (transport, callee_ends) in [("udp", true), ("tcp", false)] {
        let mut switch = Switch::start();
        let [mut alice, mut bob] = calling(&switch, transport, true);
        talk(&mut alice, &mut bob);
        let owner = switch.owner();
        happens(&mut switch);
        hear_each_other(&alice, &bob);
        let (leaves, stays) =
            if callee_ends { (&mut bob, &mut alice) } else { (&mut alice, &mut bob) };
        leaves.hang_up();
        stays.event("CALL_CLOSED");
        switch.signaling[owner].signaling.thaw();
        switch.postgres.run_unless_it_runs();
        check_record(&switch.signaling[1 - owner].cdrs(1), takeovers);
    }
}

/// It stands still for longer than its lease, and is there again when the call is over.
#[test]
fn a_process_that_stands_still_is_not_noticed() {
    let stands_still = |switch: &mut Switch| {
        let owner = switch.owner();
        switch.signaling[owner].signaling.freeze();
        is_adopted(switch, 1 - owner);
    };
    talks_on(stands_still, 1);
}

#[test]
fn a_process_that_is_drained_is_not_noticed() {
    let is_drained = |switch: &mut Switch| {
        let owner = switch.owner();
        let (name, other) = (switch.signaling[owner].node(), &switch.signaling[1 - owner]);
        let ran = other.command(&["drain", &name, "--wait"]);
        assert!(ran.status.success(), "{ran:?}");
        is_adopted(switch, 1 - owner);
    };
    talks_on(is_drained, 1);
}

#[test]
fn a_database_that_is_away_is_not_noticed() {
    let goes_away = |switch: &mut Switch| {
        switch.postgres.stop();
        eventually("the outage is noticed", SOON, || {
            let degraded = |server: &Server| server.readiness().1["status"] == "degraded";
            switch.signaling.iter().all(degraded).then_some(())
        });
    };
    talks_on(goes_away, 0);
}

/// That process has the call.
fn is_adopted(switch: &Switch, heir: usize) {
    let heir = &switch.signaling[heir];
    eventually("the call is adopted", SOON * 2, || {
        (heir.list("/calls").first()?["owner"] == heir.node().as_str()).then_some(())
    });
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
