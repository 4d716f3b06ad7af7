//! A rolling upgrade: while an older release lives, records are written as it reads them.

use crate::common::{SOON, eventually};
use crate::pair::{Pair, reinvite};
use crate::switch::{Switch, check_record};
use holdfast::call::RECORD_VERSION;

/// How a node of the first release shows itself: it reads records of version 1 only. Its lease never ends.
const OLD_NODE: &str = "
    insert into nodes (name, incarnation, mode, control, seen_at, view)
    values ('old-9', 1, 'signaling', '{}', 9000000000000000,
        '{\"name\": \"old-9\", \"record_version\": 1, \"control_version\": 1}')";
/// To a call that no node of this release has.
const SOMEBODYS: &str = "/calls/01920000-0000-7000-8000-000000000001/hold";
/// Of the only call.
const VERSION: &str = "select get_byte(record, 1) from calls where ended_at is null";

#[test]
fn records_are_of_the_lowest_version_among_live_nodes() {
    let mut switch = Switch::start();
    let before = Pair::talking(switch.survivor(), ["udp", "udp"]);
    let current = i64::from(RECORD_VERSION);
    assert_eq!(switch.postgres.number(VERSION), current);
    hang_up(before);
    switch.postgres.execute(OLD_NODE);
    for server in &switch.signaling {
        server.signaling.says("written in version 1 from now on");
    }
    let mut pair = Pair::talking(switch.survivor(), ["udp", "udp"]);
    assert_eq!(switch.postgres.number(VERSION), 1);
    // The old node may have any call, and cannot be asked for this.
    for server in &switch.signaling {
        let (status, answer) = server.api("POST", SOMEBODYS, None);
        assert_eq!(status, 503, "{answer}");
        let why = answer["detail"].as_str().expect("words");
        assert!(why.contains("older release"), "{why}");
    }
    // Such a record is carried on like any other.
    let mut owner = switch.take_owner();
    owner.signaling.kill();
    hold_and_resume(&mut pair);
    assert_eq!(switch.postgres.number(VERSION), 1);
    switch.postgres.execute("delete from nodes where name = 'old-9'");
    switch.survivor().signaling.says(&format!("written in version {current} from now on"));
    hold_and_resume(&mut pair);
    eventually("the record is of this release's version", SOON, || {
        (switch.postgres.number(VERSION) == current).then_some(())
    });
    pair.hear_each_other();
    hang_up(pair);
    check_record(&switch.survivor().cdrs(2)[1..], 1);
}

fn hold_and_resume(pair: &mut Pair) {
    let Pair { caller, callee } = pair;
    reinvite(caller, callee, "sendonly", "recvonly", false);
    reinvite(caller, callee, "sendrecv", "sendrecv", false);
}

fn hang_up(mut pair: Pair) {
    pair.caller.hangs_up_on(&mut pair.callee);
}
