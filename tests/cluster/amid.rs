//! kill -9 of the process that owns a call amid an exchange: what was begun ends as it would have, and the record of
//! the call says when.

use crate::pair::{Attempt, Pair, phone, reinvite, stops_ringing};
use crate::switch::{Switch, check_record};
use holdfast::sip::{Method, Status};
use jiff::Timestamp;
use serde_json::{Value, json};

/// Calls that ring while the kernel spreads phones anew over the processes.
const RINGING: usize = 12;

/// A call between 1001 and 1002, both on UDP, whose owner can be killed.
fn talking() -> (Switch, Pair) {
    let switch = Switch::start();
    let pair = Pair::talking(switch.survivor(), ["udp", "udp"]);
    pair.hear_each_other();
    (switch, pair)
}

fn kill_owner(switch: &mut Switch) {
    switch.take_owner().signaling.kill();
}

#[test]
fn a_reinvite_that_waits_for_its_answer_is_answered() {
    let (mut switch, mut pair) = talking();
    let Pair { caller, callee } = &mut pair;
    let sent = caller.offers("sendonly", false);
    let received = callee.phone.request_of(&Method::Invite);
    kill_owner(&mut switch);
    callee.answers(&received, "recvonly");
    caller.takes_answer(&sent);
    callee.phone.request_of(&Method::Ack);
    reinvite(caller, callee, "sendrecv", "sendrecv", false);
    pair.hold_and_resume();
    pair.callee.hangs_up_on(&mut pair.caller);
    check_record(&switch.survivor().cdrs(1), 1);
}

#[test]
fn a_reinvite_whose_answer_waits_for_its_ack_is_acknowledged() {
    let (mut switch, mut pair) = talking();
    let Pair { caller, callee } = &mut pair;
    let sent = callee.offers("sendonly", false);
    let received = caller.phone.request_of(&Method::Invite);
    caller.answers(&received, "recvonly");
    let accepted = callee.phone.response_to(&Method::Invite);
    assert_eq!(accepted.status, Status(200));
    kill_owner(&mut switch);
    callee.talk.told(&accepted.body);
    callee.phone.acknowledge(&callee.dialog, &sent, None);
    caller.phone.request_of(&Method::Ack);
    reinvite(callee, caller, "sendrecv", "sendrecv", false);
    pair.hold_and_resume();
    pair.caller.hangs_up_on(&mut pair.callee);
    check_record(&switch.survivor().cdrs(1), 1);
}

#[test]
fn a_bye_that_the_far_phone_has_not_answered_ends_the_call_once() {
    for transport in ["udp", "tcp"] {
        for callee_ends in [false, true] {
            println!("{transport}, the callee ends: {callee_ends}");
            bye_amid_a_kill(transport, callee_ends);
        }
    }
}

fn bye_amid_a_kill(transport: &str, callee_ends: bool) {
    let mut switch = Switch::start();
    let mut pair = Pair::talking(switch.survivor(), [transport, transport]);
    pair.hear_each_other();
    let Pair { caller, callee } = &mut pair;
    let (leaves, stays) = if callee_ends { (callee, caller) } else { (caller, callee) };
    leaves.phone.send_in_dialog(leaves.dialog.request(Method::Bye));
    let bye = stays.phone.request_of(&Method::Bye);
    kill_owner(&mut switch);
    stays.phone.respond(&bye, 200, "unused", None);
    assert_eq!(leaves.phone.response_to(&Method::Bye).status, Status(200));
    let cdrs = switch.survivor().cdrs(1);
    let ended_by = if callee_ends { "callee" } else { "caller" };
    assert_eq!(cdrs[0]["disposition"], "answered", "{cdrs:#?}");
    assert_eq!(cdrs[0]["ended_by"], ended_by, "{cdrs:#?}");
}

/// The callee answers, both hear each other, and a hold of either comes where it must.
fn talking_after(attempt: Attempt) -> Pair {
    let mut pair = attempt.answered();
    pair.hear_each_other();
    pair.hold_and_resume();
    pair
}

/// The callee, or what stands before it, is heard while it rings (183), before the kill and after; then it answers.
#[test]
fn early_media_goes_on_and_the_call_is_answered() {
    for transport in ["udp", "tcp"] {
        println!("{transport}");
        let mut switch = Switch::start();
        let mut attempt = Attempt::new(switch.survivor(), [transport, transport]);
        attempt.is_heard_early();
        kill_owner(&mut switch);
        attempt.hears_the_callee();
        let mut pair = talking_after(attempt);
        pair.callee.hangs_up_on(&mut pair.caller);
        check_record(&switch.survivor().cdrs(1), 1);
    }
}

/// Two phones of the callee ring; one of them answers after the kill, and the other stops ringing.
#[test]
fn a_fork_is_answered_by_one_phone_and_ends_at_the_other() {
    let mut switch = Switch::start();
    let mut other = phone(switch.survivor(), "1002", "udp");
    let mut attempt = Attempt::new(switch.survivor(), ["udp", "udp"]);
    let ringing = other.request_of(&Method::Invite);
    other.respond(&ringing, 180, "other", None);
    attempt = attempt.ringing();
    kill_owner(&mut switch);
    let accepted = attempt.accepted();
    let mut pair = attempt.acknowledged(&accepted);
    pair.callee.phone.request_of(&Method::Ack);
    stops_ringing(&mut other, &ringing, "other");
    pair.hear_each_other();
    pair.callee.hangs_up_on(&mut pair.caller);
    check_record(&switch.survivor().cdrs(1), 1);
}

/// Who takes a ringing call over knows how long it may ring.
#[test]
fn a_phone_that_nobody_answers_rings_no_longer_than_it_may() {
    let mut switch = Switch::start();
    switch.survivor().user_with("1002", &json!({"ring_timeout_ms": 4_000}));
    let mut attempt = Attempt::new(switch.survivor(), ["udp", "udp"]).ringing();
    kill_owner(&mut switch);
    let Attempt { caller, callee, invite, received, .. } = &mut attempt;
    stops_ringing(callee, received, "callee");
    let refused = caller.response_to(&Method::Invite);
    assert_eq!(refused.status, Status(480));
    caller.acknowledge_refusal(invite, &refused);
    let cdrs = switch.survivor().cdrs(1);
    assert_eq!(cdrs[0]["end_cause"], "ring_timeout", "{cdrs:#?}");
    let [created, ended] = ["created_at", "ended_at"].map(|field| time(&cdrs[0], field));
    assert!(ended - created >= 4_000, "{cdrs:#?}");
}

/// Both phones are on connections: ringing, answer and ACK go on by them.
#[test]
fn a_call_that_rings_by_connections_is_answered_by_them() {
    let mut switch = Switch::start();
    let attempt = Attempt::new(switch.survivor(), ["tcp", "tcp"]).ringing();
    kill_owner(&mut switch);
    let mut pair = talking_after(attempt);
    pair.caller.hangs_up_on(&mut pair.callee);
    check_record(&switch.survivor().cdrs(1), 1);
}

/// The times of a call are those that its phones saw, though who recorded them was not there for all of it.
#[test]
fn a_record_has_the_times_that_phones_saw() {
    let mut switch = Switch::start();
    let mut times = vec![now()];
    let mut attempt = Attempt::new(switch.survivor(), ["udp", "udp"]);
    times.push(now());
    attempt = attempt.ringing();
    times.push(now());
    let accepted = attempt.accepted();
    times.push(now());
    let mut pair = attempt.acknowledged(&accepted);
    pair.callee.phone.request_of(&Method::Ack);
    kill_owner(&mut switch);
    pair.hear_each_other();
    times.push(now());
    pair.callee.hangs_up_on(&mut pair.caller);
    times.push(now());
    let cdrs = switch.survivor().cdrs(1);
    check_record(&cdrs, 1);
    let told = ["created_at", "ringing_at", "answered_at", "ended_at"];
    let [created, ringing, answered, ended] = told.map(|field| time(&cdrs[0], field));
    let within = |what: i64, from: usize| times[from] - 2 <= what && what <= times[from + 1] + 2;
    assert!(within(created, 0), "{created}, phones saw {times:?}");
    assert!(within(ringing, 1), "{ringing}, phones saw {times:?}");
    assert!(within(answered, 2), "{answered}, phones saw {times:?}");
    assert!(within(ended, 4), "{ended}, phones saw {times:?}");
    let billable = cdrs[0]["billable_ms"].as_i64().expect("a time");
    assert!((ended - answered - billable).abs() <= 1, "{cdrs:#?}");
}

/// A third process joins: the kernel brings what phones say to other processes than before, answers and CANCELs of
/// ringing calls too.
#[test]
fn a_process_that_joins_disturbs_no_call_that_rings() {
    let switch = Switch::start();
    let server = switch.survivor();
    let mut attempts: Vec<Attempt> = (0..RINGING)
        .map(|number| {
            let users = [format!("20{number:02}"), format!("21{number:02}")];
            let [caller, callee] = users.each_ref().map(|user| phone(server, user, "udp"));
            Attempt::between(caller, callee, &server.uri(&users[1])).ringing()
        })
        .collect();
    let third = switch.host.signaling();
    switch.wait_for_links(&third, 3);
    let cancelled = attempts.split_off(RINGING / 2);
    for attempt in attempts {
        let mut pair = talking_after(attempt);
        pair.callee.hangs_up_on(&mut pair.caller);
    }
    for mut attempt in cancelled {
        let Attempt { caller, callee, invite, received, .. } = &mut attempt;
        caller.cancel(invite);
        stops_ringing(callee, received, "callee");
        let refused = caller.response_with(487);
        caller.acknowledge_refusal(invite, &refused);
    }
    let cdrs = third.cdrs(RINGING);
    let untouched = |cdr: &&Value| cdr["takeovers"] == 0;
    assert_eq!(cdrs.iter().filter(untouched).count(), RINGING, "{cdrs:#?}");
    let count = |what: &str| cdrs.iter().filter(|cdr| cdr["disposition"] == what).count();
    assert_eq!((count("answered"), count("cancelled")), (RINGING / 2, RINGING / 2), "{cdrs:#?}");
}

fn now() -> i64 {
    Timestamp::now().as_millisecond()
}

/// Milliseconds since 1970.
fn time(cdr: &Value, field: &str) -> i64 {
    let told = cdr[field].as_str().unwrap_or_else(|| panic!("no {field} in {cdr:#}"));
    told.parse::<Timestamp>().expect("RFC 3339").as_millisecond()
}
