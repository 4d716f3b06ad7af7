//! kill -9 of the signaling process that owns the call; another one shares its address.

use crate::pair::{Attempt, Pair, stops_ringing};
use crate::switch::{Switch, check_record};

#[test]
fn a_confirmed_call_goes_on_and_can_be_held_and_ended() {
    let mut switch = Switch::start();
    let mut pair = Pair::talking(switch.survivor(), ["udp", "udp"]);
    pair.hear_each_other();
    let mut owner = switch.take_owner();
    owner.signaling.kill();
    pair.hear_each_other();
    pair.hold_and_resume();
    pair.callee.hangs_up_on(&mut pair.caller);
    check_record(&switch.survivor().cdrs(1), 1);
}

#[test]
fn a_bye_sent_just_before_is_answered_by_the_survivor() {
    let mut switch = Switch::start();
    let mut pair = Pair::talking(switch.survivor(), ["udp", "udp"]);
    pair.hear_each_other();
    let mut owner = switch.take_owner();
    owner.signaling.kill();
    pair.caller.hangs_up_on(&mut pair.callee);
    check_record(&switch.survivor().cdrs(1), 1);
}

#[test]
fn a_ringing_call_rings_on_and_is_answered() {
    let mut switch = Switch::start();
    let attempt = Attempt::new(switch.survivor(), ["udp", "udp"]).ringing();
    // The 180 is saved within half a second; a kill before that costs the phone's display, not the call.
    let mut owner = switch.take_owner();
    owner.signaling.kill();
    let mut pair = attempt.answered();
    pair.hear_each_other();
    pair.caller.hangs_up_on(&mut pair.callee);
    check_record(&switch.survivor().cdrs(1), 1);
}

#[test]
fn a_ringing_call_can_be_cancelled() {
    let mut switch = Switch::start();
    let mut attempt = Attempt::new(switch.survivor(), ["udp", "udp"]).ringing();
    let mut owner = switch.take_owner();
    owner.signaling.kill();
    let Attempt { caller, callee, invite, received, .. } = &mut attempt;
    caller.cancel(invite);
    stops_ringing(callee, received, "callee");
    let refused = caller.response_with(487);
    caller.acknowledge_refusal(invite, &refused);
    let cdrs = switch.survivor().cdrs(1);
    assert_eq!(cdrs[0]["disposition"], "cancelled", "{cdrs:#?}");
}

#[test]
fn an_answer_that_was_not_acknowledged_is_repeated() {
    let mut switch = Switch::start();
    let mut attempt = Attempt::new(switch.survivor(), ["udp", "udp"]);
    let accepted = attempt.accepted();
    let mut owner = switch.take_owner();
    owner.signaling.kill();
    let mut pair = attempt.acknowledged(&accepted);
    pair.hear_each_other();
    pair.callee.hangs_up_on(&mut pair.caller);
    check_record(&switch.survivor().cdrs(1), 1);
}
