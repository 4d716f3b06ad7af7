//! What people on the phone notice when containers end under them.

use crate::common::phone::Phone;
use crate::common::{SOON, eventually};
use crate::engine::{self, Edition, is_left_out};
use crate::pair::{Pair, reinvite};
use crate::stack::{Container, Stack};
use serde_json::Value;
use std::ops::RangeInclusive;
use std::path::Path;
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
    each_speaks_of_its_own_health(&stack);
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
    let file = [Path::new("compose.yaml")];
    let (stack, _) = Stack::up_with(Edition::First, &file, "signaling", Vec::new());
    stack.wait_for_nodes(NODES);
    let mut pair = Pair::talking(&stack.api, ["udp", "udp"]);
    for (signaling, media) in [(3, 3), (1, 3), (1, 1), (2, 2)] {
        let scales = [format!("signaling={signaling}"), format!("media={media}")];
        let up = ["up", "-d", "--no-build", "--no-recreate"];
        stack.compose(&[&up[..], &["--scale", &scales[0], "--scale", &scales[1]]].concat());
        stack.wait_for_nodes(signaling + media);
        pair.hear_each_other();
        pair.hold_and_resume();
    }
    pair.caller.hangs_up_on(&mut pair.callee);
    check_record(&stack.api.cdrs(1)[0], "scale", &(0..=3));
}

/// `docker compose restart` and `up -d` with another image tell all processes to stop at once.
#[test]
fn all_containers_are_replaced_under_a_call() {
    if is_left_out("compose.yaml: restart and upgrade of all containers during a call") {
        return;
    }
    let (mut stack, _) = Stack::up("compose.yaml", "signaling");
    stack.wait_for_nodes(NODES);
    let mut pair = Pair::talking(&stack.api, ["udp", "udp"]);
    pair.hear_each_other();
    stack.compose(&["restart"]);
    stack.wait_for_nodes(NODES);
    pair.hear_each_other();
    pair.hold_and_resume();
    let backup = ["backup", "/var/lib/holdfast/before.backup", "--cdrs"];
    stack.containers("signaling")[0].holdfast(&backup);
    stack.another_image();
    stack.compose(&["up", "-d", "--no-build"]);
    stack.wait_for_nodes(NODES);
    for container in stack.containers("signaling").iter().chain(&stack.containers("media")) {
        assert_eq!(container.image(), engine::NEXT_IMAGE);
    }
    pair.hear_each_other();
    pair.hold_and_resume();
    let restore = ["restore", "/var/lib/holdfast/before.backup"];
    stack.containers("signaling")[0].holdfast(&restore);
    pair.hear_each_other();
    pair.caller.hangs_up_on(&mut pair.callee);
    check_record(&stack.api.cdrs(1)[0], "upgrade", &(2..=6));
}

/// After a power cut the daemon starts containers in an order that nobody chose.
#[test]
fn a_host_starts_again_with_its_database_last() {
    if is_left_out("compose.yaml: start of a host with its database last") {
        return;
    }
    let (stack, _) = Stack::up("compose.yaml", "signaling");
    stack.wait_for_nodes(NODES);
    let mut pair = Pair::talking(&stack.api, ["udp", "udp"]);
    pair.hear_each_other();
    let all = ["media", "signaling", "postgres"].map(|service| stack.containers(service));
    let ids: Vec<&str> = all.iter().flatten().map(|container| container.0.as_str()).collect();
    engine::docker(&[&["kill"][..], &ids].concat());
    let [media, signaling, postgres] = &all;
    media.iter().chain(signaling).for_each(|container| container.docker("start"));
    eventually("signaling says what it waits for", SOON * 2, || {
        let (status, told) = stack.api.request("GET", "/ready", None)?;
        (status == 503 && told.to_string().contains("database")).then_some(())
    });
    postgres[0].docker("start");
    stack.wait_for_nodes(NODES);
    pair.hear_each_other();
    pair.hold_and_resume();
    pair.caller.hangs_up_on(&mut pair.callee);
    check_record(&stack.api.cdrs(1)[0], "start of the host", &(1..=2));
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

/// Though they share the admin port, and whatever their neighbour does.
fn each_speaks_of_its_own_health(stack: &Stack) {
    let signaling = stack.containers("signaling");
    let [one, other] = &signaling[..] else { panic!("two") };
    one.signal("STOP");
    let (code, document) = other.health();
    assert_eq!((code, document["node"].as_str()), (Some(0), other.node().as_deref()));
    assert_eq!(one.health(), (Some(69), Value::Null), "it stands still and says nothing");
    one.signal("CONT");
    stack.wait_for_nodes(NODES);
    let (code, document) = one.health();
    assert_eq!((code, document["node"].as_str()), (Some(0), one.node().as_deref()));
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
