//! From nothing to a call: `docker compose up`, two real phones that are set up with what the log says, and they hear each
//! other.

use crate::common::baresip::{Baresip, Settings};
use crate::engine::{Edition, docker, is_left_out};
use crate::pair::Pair;
use crate::stack::Stack;
use holdfast::sip::Status;
use serde_json::Value;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

/// What a person who tries it waits for.
const PATIENCE: Duration = Duration::from_secs(120);
/// Stands for the computer's address in its LAN: nobody else publishes there.
const DESK: &str = "127.0.77.1";

fn phones_talk(server: SocketAddr, passwords: [&str; 2]) {
    let phone = |user, password, tone_hz| {
        let settings =
            Settings { user, password, server: Some(server), tone_hz, ..Settings::default() };
        Baresip::start(&settings).registered()
    };
    let mut caller = phone("1001", passwords[0], 500);
    let mut callee = phone("1002", passwords[1], 900);
    caller.dial(&format!("sip:1002@{server}"));
    for one in [&mut caller, &mut callee] {
        one.event("CALL_ESTABLISHED");
    }
    caller.hears(900);
    callee.hears(500);
    caller.hang_up();
    callee.event("CALL_CLOSED");
}

#[test]
fn two_phones_talk_within_two_minutes_of_compose_up() {
    if is_left_out("compose.yaml: from nothing to a call") {
        return;
    }
    crate::engine::images();
    let begin = Instant::now();
    let (stack, welcome) = Stack::up("compose.yaml", "signaling");
    stack.wait_for_nodes(4);
    phones_talk(stack.api.sip, [&welcome.password, &welcome.other_password]);
    let took = begin.elapsed();
    println!("compose up to two phones that hear each other: {:.1} s", took.as_secs_f64());
    assert!(took < PATIENCE, "{took:?}");
    let cdr = &stack.api.cdrs(1)[0];
    // Inside the container nobody asks for a token: it is asked at a socket of the data directory.
    let [container, ..] = &stack.containers("signaling")[..] else { panic!("it runs") };
    let told: Value =
        serde_json::from_str(&container.holdfast(&["cdrs", "--json"])).expect("a document");
    assert_eq!(told["items"][0]["id"], cdr["id"], "{told:#}");
    assert!(container.holdfast(&["users"]).contains("1001"));
}

#[test]
fn phones_outside_call_through_published_ports() {
    if is_left_out("compose.desktop.yaml: published ports on a bridge network") {
        return;
    }
    let more = vec![("HOLDFAST_PUBLISH", DESK.to_owned()), ("HOLDFAST_ADVERTISE", DESK.to_owned())];
    let file = [Path::new("compose.desktop.yaml")];
    let (mut stack, welcome) = Stack::up_with(Edition::Second, &file, "holdfast", more);
    stack.api.sip = format!("{DESK}:5060").parse().expect("an address");
    stack.wait_for_nodes(1);
    phones_talk(stack.api.sip, [&welcome.password, &welcome.other_password]);
    let containers = stack.containers("holdfast");
    let [only] = &containers[..] else { panic!("one container") };
    let report = only.holdfast_anyhow(&["doctor", "--json"]);
    assert!(report.contains("with addresses that are advertised"), "{report}");
    for transports in [["udp", "udp"], ["tcp", "udp"]] {
        let mut pair = Pair::talking(&stack.api, transports);
        pair.hear_each_other();
        pair.hold_and_resume();
        pair.callee.hangs_up_on(&mut pair.caller);
    }
    // The cable of the container is pulled for a while.
    let mut pair = Pair::talking(&stack.api, ["udp", "udp"]);
    pair.hear_each_other();
    let network = only.network();
    docker(&["network", "disconnect", &network, &only.0]);
    pair.caller.talk.hears_nothing();
    docker(&["network", "connect", &network, &only.0]);
    pair.hear_each_other();
    // Docker's proxies are new, and phones seem to come from elsewhere: as each refreshes its registration it is reached.
    for side in [&mut pair.caller, &mut pair.callee] {
        assert_eq!(side.phone.register(&[]).status, Status(200));
    }
    pair.hold_and_resume();
    pair.caller.hangs_up_on(&mut pair.callee);
    stack.api.cdrs(4);
}
