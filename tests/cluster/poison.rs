//! A record that nobody can carry on costs its own call: its phones are told, its row ends with a CDR.

use crate::common::{SOON, eventually};
use crate::pair::{Pair, phone};
use crate::switch::Switch;
use holdfast::sip::{HeaderName, Method};
use serde_json::Value;

/// The phone is told that its call is over, and why.
fn hears_bye(pair: &mut Pair) {
    for side in [&mut pair.caller, &mut pair.callee] {
        let bye = side.phone.request_of(&Method::Bye);
        let reason = bye.headers.get(&HeaderName::Reason).expect("a reason");
        assert!(reason.contains("cannot be carried on"), "{reason}");
        side.phone.respond(&bye, 200, "", None);
    }
}

/// The call of this caller, as SQL names it.
fn call_of(switch: &Switch, caller: &str) -> String {
    let calls = switch.survivor().list("/calls");
    let call = calls.iter().find(|call| call["caller"]["extension"] == caller);
    let id = call.expect("its call")["id"].as_str().expect("an id").replace('-', "");
    format!("id = '\\x{id}'")
}

#[test]
fn a_record_that_cannot_be_carried_on_ends_its_own_call_only() {
    let mut switch = Switch::start();
    let pair = |caller: &str, callee: &str| {
        let server = switch.survivor();
        let phones = [caller, callee].map(|user| phone(server, user, "udp"));
        let [caller, called] = phones;
        Pair::between(caller, called, &server.uri(callee))
    };
    let mut healthy = pair("1001", "1002");
    let mut deadly = pair("1003", "1004");
    let mut cut = pair("1005", "1006");
    let _garbage = pair("1007", "1008");
    let [of_deadly, of_cut, of_garbage] =
        ["1003", "1005", "1007"].map(|caller| call_of(&switch, caller));
    for mut server in switch.signaling.drain(..) {
        server.signaling.kill();
    }
    // Three nodes died of it.
    switch.postgres.execute(&format!("update calls set claims = 3 where {of_deadly}"));
    let shorter = "record = substring(record for length(record) - 8)";
    switch.postgres.execute(&format!("update calls set {shorter} where {of_cut}"));
    switch.postgres.execute(&format!("update calls set record = '\\x0001ff' where {of_garbage}"));
    switch.signaling.push(switch.host.signaling());
    hears_bye(&mut deadly);
    hears_bye(&mut cut);
    eventually("the others are over", SOON, || {
        (switch.survivor().list("/calls").len() == 1).then_some(())
    });
    healthy.hear_each_other();
    healthy.caller.hangs_up_on(&mut healthy.callee);
    let cdrs = switch.survivor().cdrs(4);
    let of = |cause: &str| -> Vec<&Value> {
        cdrs.iter().filter(|cdr| cdr["end_cause"] == cause).collect()
    };
    assert_eq!((of("bye").len(), of("quarantined").len()), (1, 3), "{cdrs:#?}");
    let known = of("quarantined").into_iter().filter(|cdr| cdr["billable_ms"].as_u64() > Some(0));
    assert_eq!(known.count(), 2, "of two the times were readable: {cdrs:#?}");
    let ended = "select count(*) from calls where ended_at is null";
    assert_eq!(switch.postgres.number(ended), 0);
}
