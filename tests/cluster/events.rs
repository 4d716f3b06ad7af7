//! The stream of events while processes are killed: nothing is lost, nothing doubled, each call ends once.

use crate::common::events::{Watching, check_order, story_of};
use crate::crowd::{Crowd, Kind};
use crate::switch::Switch;
use serde_json::Value;

const CALLS: usize = 8;

#[test]
fn a_kill_loses_and_doubles_no_event() {
    let mut switch = Switch::start();
    // At each of the two.
    let mut watching: Vec<Watching> =
        switch.signaling.iter().map(|node| Watching::start(node, "types=call.*")).collect();
    let mut crowd = Crowd::talking(switch.survivor(), CALLS, 0);
    let owners: Vec<String> = switch
        .survivor()
        .list("/calls")
        .iter()
        .map(|call| call["owner"].as_str().expect("an owner").to_owned())
        .collect();
    let at = switch.owner();
    let until_then = watching.remove(at).until("call.answered", CALLS);
    let watching = watching.remove(0);
    let mut dead = switch.signaling.remove(at);
    let name = dead.node();
    dead.signaling.kill();
    crowd.hear_each_other();
    crowd.call(switch.survivor(), Kind::RELAYED);
    crowd.hang_up();
    let cdrs = switch.survivor().cdrs(CALLS + 1);
    let came = watching.until("call.ended", CALLS + 1);
    check_order(&came);
    for cdr in &cdrs {
        let story = story_of(&came, &cdr["id"]);
        let takeovers = cdr["takeovers"].as_u64().expect("a number");
        let adopted = (0..takeovers).map(|_| "call.adopted");
        let expect = ["call.created", "call.answered"].into_iter().chain(adopted);
        let expect: Vec<&str> = expect.chain(["call.ended"]).collect();
        assert_eq!(story, expect, "{cdr:#?}");
    }
    let adopted = came.iter().filter(|event| event["type"] == "call.adopted").count();
    let owned = owners.iter().filter(|owner| **owner == name).count();
    assert!(adopted == owned && owned > 0, "{adopted} of {owned} were taken over");
    check_replay(&switch, &came, &until_then);
}

/// Who was at the node that died comes to another with the last id, and misses nothing.
fn check_replay(switch: &Switch, came: &[Value], until_then: &[Value]) {
    let is_event = |event: &&Value| event["type"] != "snapshot";
    let seen: Vec<&Value> = until_then.iter().filter(is_event).collect();
    let last = seen.last().expect("some")["id"].as_u64().expect("a number");
    let query = format!("types=call.*&last_event_id={last}");
    let again = Watching::start(switch.survivor(), &query);
    let missed = came.iter().filter(is_event).count() - seen.len();
    let rest = again.wait("the rest", |came| (came.len() >= missed).then(|| came.to_vec()));
    let whole: Vec<&Value> = seen.into_iter().chain(&rest).collect();
    assert_eq!(whole, came.iter().filter(is_event).collect::<Vec<_>>());
    // An id that no log has.
    let lost = Watching::start(switch.survivor(), "last_event_id=1234567890123");
    lost.wait("gap and snapshot", |came| {
        let kinds: Vec<&Value> = came.iter().map(|event| &event["type"]).take(2).collect();
        (kinds == ["gap", "snapshot"]).then_some(())
    });
}
