//! What people on the phone notice when containers end under them.

use crate::common::phone::Phone;
use crate::common::{SOON, eventually};
use crate::engine::is_left_out;
use crate::pair::{Pair, reinvite};
use crate::stack::{Container, Stack};
use serde_json::Value;
use std::ops::RangeInclusive;
use std::thread;
use std::time::{Duration, Instant};

/// Two signaling and two media processes.
const NODES: usize = 4;

/// What is done, and how often the call may change its owner by it.
type Fault = (&'static str, fn(&Stack), RangeInclusive<u64>);

const FAULTS: [Fault; 5] = [
    ("the owner is killed", |stack| stack.owner().crash(), 1..=1),
    ("the owner is restarted", |stack| stack.owner().docker("restart"), 1..=1),
    ("the owner is stopped", stop_owner, 1..=1),
    ("the media process is killed", |stack| media_of_call(stack).crash(), 0..=0),
    ("the database is killed", |stack| stack.containers("postgres")[0].crash(), 0..=0),
];

#[test]
fn a_call_outlives_its_containers() {
    if is_left_out("compose.yaml: faults of containers under a call") {
        return;
    }
    let (stack, welcome) = Stack::up("compose.yaml", "signaling");
    stack.wait_for_nodes(NODES);
    drop(Phone::udp(stack.api.sip, "1001", &welcome.password).registered());
    for container in stack.containers("signaling").iter().chain(&stack.containers("media")) {
        container.wait_until_healthy();
        let told = container.holdfast(&["config", "credentials", "--json"]);
        assert!(told.contains(&welcome.password), "{told}");
    }
    let mut known = Vec::new();
    for (name, fault, takeovers) in FAULTS {
        let mut pair = Pair::talking(&stack.api, ["udp", "udp"]);
        pair.hear_each_other();
        fault(&stack);
        pair.hear_each_other();
        let Pair { caller, callee } = &mut pair;
        reinvite(caller, callee, "sendonly", "recvonly", false);
        reinvite(callee, caller, "sendrecv", "sendrecv", false);
        pair.hear_each_other();
        pair.callee.hangs_up_on(&mut pair.caller);
        let cdrs = stack.api.cdrs(known.len() + 1);
        let new = cdrs.iter().find(|cdr| !known.contains(&cdr["id"])).expect("one record more");
        check_record(new, name, &takeovers);
        known.push(new["id"].clone());
        for container in stack.containers("signaling") {
            container.docker("start");
        }
        stack.wait_for_nodes(NODES);
    }
}

#[test]
fn replicas_come_and_go_under_a_call() {
    if is_left_out("compose.yaml: --scale signaling=3 and back during a call") {
        return;
    }
    let (stack, _) = Stack::up("compose.yaml", "signaling");
    stack.wait_for_nodes(NODES);
    let mut pair = Pair::talking(&stack.api, ["udp", "udp"]);
    for count in [3, 1] {
        let scale = format!("signaling={count}");
        stack.compose(&["up", "-d", "--no-build", "--no-recreate", "--scale", &scale]);
        stack.wait_for_nodes(NODES - 2 + count);
        pair.hear_each_other();
    }
    pair.caller.hangs_up_on(&mut pair.callee);
    check_record(&stack.api.cdrs(1)[0], "scale", &(0..=2));
}

#[test]
fn a_media_container_that_is_stopped_waits_for_its_call() {
    if is_left_out("compose.yaml: stop of all media during a call") {
        return;
    }
    let (stack, _) = Stack::up("compose.yaml", "signaling");
    stack.wait_for_nodes(NODES);
    let mut pair = Pair::talking(&stack.api, ["udp", "udp"]);
    pair.hear_each_other();
    let media = media_of_call(&stack);
    thread::scope(|scope| {
        let stop = scope.spawn(|| stack.compose(&["stop", "media"]));
        // Longer than Docker's own patience.
        pass(Duration::from_secs(12));
        pair.hear_each_other();
        assert!(!stop.is_finished(), "it waits");
        pair.caller.hangs_up_on(&mut pair.callee);
        stop.join().expect("stopped");
    });
    check_record(&stack.api.cdrs(1)[0], "stop of media", &(0..=0));
    assert_eq!(media.exit_code(), 0);
}

#[test]
fn a_call_outlives_a_restart_of_the_only_container() {
    if is_left_out("compose.single.yaml: restart during a call") {
        return;
    }
    let (stack, _) = Stack::up("compose.single.yaml", "holdfast");
    stack.wait_for_nodes(1);
    let mut pair = Pair::talking(&stack.api, ["udp", "udp"]);
    pair.hear_each_other();
    let containers = stack.containers("holdfast");
    let [only] = containers.as_slice() else { panic!("one container") };
    only.docker("restart");
    pair.hear_each_other();
    pair.caller.hangs_up_on(&mut pair.callee);
    check_record(&stack.api.cdrs(1)[0], "restart", &(1..=1));
    only.wait_until_healthy();
}

fn stop_owner(stack: &Stack) {
    let owner = stack.owner();
    owner.docker("stop");
    assert_eq!(owner.exit_code(), 0);
}

fn pass(time: Duration) {
    let end = Instant::now() + time;
    eventually("time passes", time * 2, || (Instant::now() > end).then_some(()));
}

fn media_of_call(stack: &Stack) -> Container {
    let name = eventually("a node tells of the call", SOON, || {
        Some(stack.api.list("/calls").first()?["media"]["node"].as_str()?.to_owned())
    });
    stack.container_of("media", &name)
}

/// Answered, and taken over so often.
fn check_record(cdr: &Value, fault: &str, takeovers: &RangeInclusive<u64>) {
    assert_eq!(cdr["disposition"], "answered", "{fault}: {cdr:#?}");
    let count = cdr["takeovers"].as_u64().expect("a number");
    assert!(takeovers.contains(&count), "{fault}: {cdr:#?}");
    assert!(cdr["billable_ms"].as_u64() > Some(0), "{fault}: {cdr:#?}");
}
