//! kill -9 of the signaling process that owns the call; another one shares its address.

use crate::common::phone::{Phone, audio_address, callee_dialog, sdp};
use crate::common::rtp::Talk;
use crate::pair::{CALLEE_HZ, CALLER_HZ, Pair, phone, reinvite};
use crate::switch::{Switch, check_record};
use holdfast::sip::{Method, Status};

#[test]
fn a_confirmed_call_goes_on_and_can_be_held_and_ended() {
    let mut switch = Switch::start();
    let mut pair = Pair::talking(switch.survivor(), ["udp", "udp"]);
    pair.hear_each_other();
    let mut owner = switch.take_owner();
    owner.signaling.kill();
    pair.hear_each_other();
    let Pair { caller, callee } = &mut pair;
    reinvite(caller, callee, "sendonly", "recvonly", false);
    reinvite(caller, callee, "sendrecv", "sendrecv", false);
    reinvite(callee, caller, "sendonly", "recvonly", false);
    reinvite(callee, caller, "sendrecv", "sendrecv", false);
    pair.hear_each_other();
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
    let server = switch.survivor();
    let (mut caller, mut callee) = (phone(server, "1001", "udp"), phone(server, "1002", "udp"));
    let (caller_talk, callee_talk) = (Talk::new(CALLER_HZ), Talk::new(CALLEE_HZ));
    let uri = server.uri("1002");
    let invite = caller.invite(&uri, Some(&sdp(caller_talk.port, 1, "sendrecv")));
    let received = callee.request_of(&Method::Invite);
    callee_talk.to(audio_address(&received.body));
    callee.respond(&received, 180, "callee", None);
    caller.response_with(180);
    // The 180 is saved within half a second; a kill before that costs the phone's display, not the call.
    let mut owner = switch.take_owner();
    owner.signaling.kill();
    callee.respond(&received, 200, "callee", Some(&sdp(callee_talk.port, 1, "sendrecv")));
    let accepted = caller.response_to(&Method::Invite);
    assert_eq!(accepted.status, Status(200));
    caller_talk.to(audio_address(&accepted.body));
    let mut dialog = Phone::caller_dialog(&invite, &accepted);
    caller.acknowledge(&dialog, &invite, None);
    callee.request_of(&Method::Ack);
    caller_talk.hears(CALLEE_HZ);
    callee_talk.hears(CALLER_HZ);
    caller.hang_up(&mut dialog);
    let bye = callee.request_of(&Method::Bye);
    callee.respond(&bye, 200, "callee", None);
    check_record(&switch.survivor().cdrs(1), 1);
}

#[test]
fn a_ringing_call_can_be_cancelled() {
    let mut switch = Switch::start();
    let server = switch.survivor();
    let (mut caller, mut callee) = (phone(server, "1001", "udp"), phone(server, "1002", "udp"));
    let talk = Talk::new(CALLER_HZ);
    let invite = caller.invite(&server.uri("1002"), Some(&sdp(talk.port, 1, "sendrecv")));
    let received = callee.request_of(&Method::Invite);
    callee.respond(&received, 180, "callee", None);
    caller.response_with(180);
    let mut owner = switch.take_owner();
    owner.signaling.kill();
    caller.cancel(&invite);
    let cancelled = callee.request_of(&Method::Cancel);
    callee.respond(&cancelled, 200, "callee", None);
    callee.respond(&received, 487, "callee", None);
    callee.request_of(&Method::Ack);
    let refused = caller.response_with(487);
    caller.acknowledge_refusal(&invite, &refused);
    let cdrs = switch.survivor().cdrs(1);
    assert_eq!(cdrs[0]["disposition"], "cancelled", "{cdrs:#?}");
}

#[test]
fn an_answer_that_was_not_acknowledged_is_repeated() {
    let mut switch = Switch::start();
    let server = switch.survivor();
    let (mut caller, mut callee) = (phone(server, "1001", "udp"), phone(server, "1002", "udp"));
    let (caller_talk, callee_talk) = (Talk::new(CALLER_HZ), Talk::new(CALLEE_HZ));
    let uri = server.uri("1002");
    let invite = caller.invite(&uri, Some(&sdp(caller_talk.port, 1, "sendrecv")));
    let received = callee.request_of(&Method::Invite);
    callee_talk.to(audio_address(&received.body));
    callee.respond(&received, 200, "callee", Some(&sdp(callee_talk.port, 1, "sendrecv")));
    let accepted = caller.response_to(&Method::Invite);
    let mut owner = switch.take_owner();
    owner.signaling.kill();
    caller_talk.to(audio_address(&accepted.body));
    let mut dialog = Phone::caller_dialog(&invite, &accepted);
    caller.acknowledge(&dialog, &invite, None);
    caller_talk.hears(CALLEE_HZ);
    callee_talk.hears(CALLER_HZ);
    let mut callee_dialog = callee_dialog(&received, "callee");
    assert_eq!(callee_dialog.call_id, received.call_id().expect("a Call-ID"));
    callee.hang_up(&mut callee_dialog);
    let bye = caller.request_of(&Method::Bye);
    caller.respond(&bye, 200, "unused", None);
    check_record(&switch.survivor().cdrs(1), 1);
    dialog.remote_seq = None;
}
