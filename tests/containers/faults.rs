//! What people on the phone notice when containers end under them.

use crate::common::phone::Phone;
use crate::engine::is_left_out;
use crate::pair::{Pair, reinvite};
use crate::stack::Stack;
use serde_json::Value;
use std::ops::RangeInclusive;

/// Two signaling and two media processes.
const NODES: usize = 4;

#[test]
fn a_call_outlives_the_container_that_owns_it() {
    if is_left_out("compose.yaml: kill, restart and stop of the container that owns a call") {
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
    for (calls, fault) in ["crash", "restart", "stop"].into_iter().enumerate() {
        let mut pair = Pair::talking(&stack.api, ["udp", "udp"]);
        pair.hear_each_other();
        let owner = stack.owner();
        match fault {
            "crash" => owner.crash(),
            other => owner.docker(other),
        }
        pair.hear_each_other();
        let Pair { caller, callee } = &mut pair;
        reinvite(caller, callee, "sendonly", "recvonly", false);
        reinvite(callee, caller, "sendrecv", "sendrecv", false);
        pair.hear_each_other();
        pair.callee.hangs_up_on(&mut pair.caller);
        let cdrs = stack.api.cdrs(calls + 1);
        check_records(&cdrs, fault, 1..=1);
        if fault == "stop" {
            owner.docker("start");
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
    check_records(&stack.api.cdrs(1), "scale", 0..=1);
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
    check_records(&stack.api.cdrs(1), "restart", 1..=1);
    only.wait_until_healthy();
}

/// Every call was answered and taken over so often; there are as many records as calls.
fn check_records(cdrs: &[Value], fault: &str, takeovers: RangeInclusive<u64>) {
    for cdr in cdrs {
        assert_eq!(cdr["disposition"], "answered", "{fault}: {cdr:#?}");
        let count = cdr["takeovers"].as_u64().expect("a number");
        assert!(takeovers.contains(&count), "{fault}: {cdr:#?}");
        assert!(cdr["billable_ms"].as_u64() > Some(0), "{fault}: {cdr:#?}");
    }
}
