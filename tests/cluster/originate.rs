//! Calls that an operator began outlive their owner at every stage.

use crate::common::phone::{Phone, callee_dialog};
use crate::common::rtp::Talk;
use crate::pair::{CALLEE_HZ, CALLER_HZ, Pair, Side, phone};
use crate::switch::{Switch, check_record};
use holdfast::sip::{Method, Request};
use serde_json::json;

fn accept(mut phone: Phone, invite: &Request, hz: u32) -> Side {
    let talk = Talk::new(hz);
    talk.told(&invite.body);
    phone.respond(invite, 200, "unused", Some(&talk.sdp(1, "sendrecv")));
    phone.request_of(&Method::Ack);
    Side { phone, talk, dialog: callee_dialog(invite, "unused"), version: 1 }
}

/// Both phones, and the INVITE of the caller's.
fn begun(switch: &Switch) -> (Phone, Phone, Request) {
    let server = switch.survivor();
    let (mut caller, callee) = (phone(server, "1001", "udp"), phone(server, "1002", "udp"));
    let wish = json!({"from": "1001", "to": "1002"});
    let (status, call) = server.api("POST", "/calls", Some(&wish));
    assert_eq!(status, 202, "{call}");
    let invite = caller.request_of(&Method::Invite);
    caller.respond(&invite, 180, "unused", None);
    (caller, callee, invite)
}

#[test]
fn while_the_callers_phone_rings() {
    let mut switch = Switch::start();
    let (caller, mut callee, invite) = begun(&switch);
    switch.take_owner().signaling.kill();
    let caller = accept(caller, &invite, CALLER_HZ);
    let invite = callee.request_of(&Method::Invite);
    let callee = accept(callee, &invite, CALLEE_HZ);
    ends_well(&switch, Pair { caller, callee });
}

#[test]
fn while_the_callees_phone_rings() {
    let mut switch = Switch::start();
    let (caller, mut callee, invite) = begun(&switch);
    let caller = accept(caller, &invite, CALLER_HZ);
    let invite = callee.request_of(&Method::Invite);
    callee.respond(&invite, 180, "unused", None);
    switch.take_owner().signaling.kill();
    let callee = accept(callee, &invite, CALLEE_HZ);
    ends_well(&switch, Pair { caller, callee });
}

fn ends_well(switch: &Switch, mut pair: Pair) {
    pair.hear_each_other();
    pair.hold_and_resume();
    pair.callee.hangs_up_on(&mut pair.caller);
    let cdrs = switch.survivor().cdrs(1);
    check_record(&cdrs, 1);
    assert_eq!(cdrs[0]["answered_by"], "1002", "{cdrs:#?}");
}
