//! Media processes of one host: one leaves or is killed, another goes on with its sessions, and phones know nothing.

use crate::common::network::in_a_network;
use crate::common::process::Process;
use crate::common::server::Server;
use crate::common::{SOON, eventually, ports};
use crate::crowd::{Crowd, Kind};
use crate::pair::Pair;
use crate::switch::{Switch, check_record};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Calls at a time, unless `HOLDFAST_TEST_CALLS` says otherwise; every fourth is transcoded.
const CALLS: usize = 16;
/// Where there are to be many.
const MANY_CALLS: usize = 100;

pub(crate) fn calls() -> usize {
    calls_or(CALLS)
}

pub(crate) fn calls_or(default: usize) -> usize {
    let told = std::env::var("HOLDFAST_TEST_CALLS").ok();
    told.map_or(default, |count| count.parse().expect("a number"))
}

/// A second media process, which all signaling processes know.
pub(crate) fn second_media(switch: &Switch) -> Process {
    let media = switch.host.media();
    for server in &switch.signaling {
        switch.wait_for_links(server, switch.signaling.len() + 1);
    }
    media
}

/// Live media nodes and their sessions, as the API tells.
pub(crate) fn media_nodes(server: &Server) -> Vec<(String, u64)> {
    let nodes = server.list("/nodes");
    let media = nodes.iter().filter(|node| node["mode"] == "media" && node["state"] != "suspect");
    let of = |node: &Value| {
        let sessions = node["sessions"].as_u64().unwrap_or(0);
        (node["name"].as_str().expect("a name").to_owned(), sessions)
    };
    media.map(of).collect()
}

/// The media nodes of the only call, as its owner tells.
pub(crate) fn media_node_of_the_call(server: &Server) -> Option<String> {
    let calls = server.list("/calls");
    Some(calls.first()?["media"]["node"].as_str()?.to_owned())
}

#[test]
fn a_leaving_media_process_gives_its_calls_away_and_no_packet_is_lost() {
    let mut switch = Switch::start();
    let (count, transcoded) = (calls(), calls() / 4);
    let mut crowd = Crowd::talking(switch.survivor(), count, transcoded);
    let _second = second_media(&switch);
    let names: Vec<String> =
        media_nodes(switch.survivor()).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    switch.media.terminate();
    let status = switch.media.finish(SOON);
    assert_eq!(status.code(), Some(0), "{status}");
    crowd.hear_each_other();
    let packets = crowd.check_that_nothing_was_lost();
    crowd.check_that_no_phone_was_told();
    println!("{count} calls, {packets} packets, none lost");
    // Both signaling processes know where the sessions are: a new call, and calls of a dead owner.
    switch.take_owner().signaling.kill();
    crowd.hear_each_other();
    let sent = crowd.hang_up();
    let cdrs = switch.survivor().cdrs(count);
    let lost = |cdr: &Value| cdr["legs"][0]["packets_lost"].as_u64().expect("a number");
    assert!(cdrs.iter().all(|cdr| lost(cdr) == 0), "{cdrs:#?}");
    let mut received: Vec<u64> = cdrs
        .iter()
        .flat_map(|cdr| [&cdr["legs"][0], &cdr["legs"][1]])
        .map(|leg| leg["packets_received"].as_u64().expect("a number"))
        .collect();
    let mut sent: Vec<u64> = sent.into_iter().flatten().collect();
    received.sort_unstable();
    sent.sort_unstable();
    // The last packets of a call race with its end.
    let lacking = sent.iter().zip(&received).filter(|(sent, received)| **sent > **received + 5);
    assert_eq!(lacking.count(), 0, "sent {sent:?}, received {received:?}");
    for cdr in &cdrs {
        let nodes: Vec<&str> = cdr["media_nodes"]
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(Value::as_str)
            .collect();
        assert_eq!(nodes.len(), 2, "{cdr:#?}");
    }
}

/// Relayed, transcoded and secured ones at once.
#[test]
fn many_calls_of_every_kind_pass_and_no_packet_is_lost() {
    in_a_network(|_| {
        let mut switch = Switch::with_media_ports(20_000..=23_999);
        let count = calls_or(MANY_CALLS);
        let mut crowd = Crowd::of_every_kind(switch.survivor(), count);
        let _heir = switch.host.media_with(&(24_000..=27_999));
        switch.signaling.iter().for_each(|server| switch.wait_for_links(server, 3));
        switch.media.terminate();
        let status = switch.media.finish(SOON * 2);
        assert_eq!(status.code(), Some(0), "{status}");
        crowd.hear_each_other();
        let packets = crowd.check_that_nothing_was_lost();
        crowd.check_that_no_phone_was_told();
        println!("{count} calls, {packets} packets, none lost");
        let sent: u64 = crowd.hang_up().into_iter().flatten().sum();
        let cdrs = switch.survivor().cdrs(count);
        let legs = || cdrs.iter().flat_map(|cdr| [&cdr["legs"][0], &cdr["legs"][1]]);
        let total = |what: &str| legs().filter_map(|leg| leg[what].as_u64()).sum::<u64>();
        assert_eq!(total("packets_lost"), 0, "{cdrs:#?}");
        // The last packets of a call race with its end.
        let (received, late) = (total("packets_received"), 5 * 2 * count as u64);
        assert!(received + late > sent, "sent {sent}, received {received}");
    });
}

/// The heir, or the one that leaves, is killed while sessions pass, early or late.
#[test]
fn a_kill_amid_a_hand_over_leaves_each_call_with_one_process() {
    let mut switch = Switch::start();
    let count = calls();
    let mut crowd = Crowd::talking(switch.survivor(), count, count / 4);
    for (number, after_ms) in [1, 10, 2, 20, 4, 40].into_iter().enumerate() {
        let mut heir = second_media(&switch);
        switch.media.terminate();
        std::thread::sleep(Duration::from_millis(after_ms));
        if number % 2 == 0 {
            heir.kill();
            // What the leaving one has, or has again, goes to the next that comes; if it was over already, that one
            // takes its ports.
            let next = switch.host.media_with(&ports::media_ports());
            let status = switch.media.finish(SOON * 2);
            assert_eq!(status.code(), Some(0), "{status}");
            switch.media = next;
        } else {
            switch.media.kill();
            switch.media = heir;
        }
        for server in &switch.signaling {
            switch.wait_for_links(server, switch.signaling.len());
        }
        crowd.hear_each_other();
    }
    crowd.check_that_no_phone_was_told();
    crowd.hang_up();
    for cdr in switch.survivor().cdrs(count) {
        assert_eq!((&cdr["end_cause"], &cdr["reanchors"]), (&"bye".into(), &0.into()), "{cdr:#?}");
    }
}

/// One process alone: its successor starts beside it.
#[test]
fn a_media_process_is_replaced_and_no_packet_is_lost() {
    let mut switch = Switch::start();
    let count = calls();
    let mut crowd = Crowd::talking(switch.survivor(), count, count / 4);
    let mut successor = switch.host.successor_of_media(&switch.media_ports);
    let status = switch.media.finish(SOON * 2);
    assert_eq!(status.code(), Some(0), "{status}");
    crowd.hear_each_other();
    let packets = crowd.check_that_nothing_was_lost();
    crowd.check_that_no_phone_was_told();
    println!("{count} calls, {packets} packets, none lost");
    assert!(successor.is_running());
    successor.says("this process has taken its place");
    // New calls by the same range of ports.
    crowd.call(switch.survivor(), Kind::RELAYED);
    crowd.hear_each_other();
    crowd.hang_up();
    for cdr in switch.survivor().cdrs(count + 1) {
        assert_eq!((&cdr["end_cause"], &cdr["reanchors"]), (&"bye".into(), &0.into()), "{cdr:#?}");
    }
}

/// An operator moves calls of every kind, one by one, by name or not, whichever node is asked.
#[test]
fn calls_move_to_another_process_of_their_host_and_no_packet_is_lost() {
    let mut switch = Switch::start();
    let count = Kind::ALL.len();
    let mut crowd = Crowd::of_every_kind(switch.survivor(), count);
    let _second = second_media(&switch);
    let first = media_node_of_the_call(switch.survivor()).expect("a call");
    let mut nodes = media_nodes(switch.survivor()).into_iter().map(|(name, _)| name);
    let second = nodes.rfind(|name| *name != first).expect("another");
    let move_all = |to: &str| {
        for (at, call) in switch.survivor().list("/calls").iter().enumerate() {
            let asked = &switch.signaling[at % switch.signaling.len()];
            let path = format!("/calls/{}/move", call["id"].as_str().expect("an id"));
            let wish = if at % 2 == 0 { json!({ "node": to }) } else { json!({}) };
            let (status, told) = asked.api("POST", &path, Some(&wish));
            assert_eq!(status, 202, "{told}");
        }
        eventually("all are there", SOON, || {
            let calls = switch.survivor().list("/calls");
            let is_there = |call: &Value| call["media"]["node"] == to;
            (calls.len() == count && calls.iter().all(is_there)).then_some(())
        });
    };
    for to in [&second, &first, &second] {
        move_all(to);
        crowd.hear_each_other();
    }
    let packets = crowd.check_that_nothing_was_lost();
    crowd.check_that_no_phone_was_told();
    println!("{count} calls moved three times, {packets} packets, none lost");
    let path = format!(
        "/calls/{}/move",
        switch.survivor().list("/calls")[0]["id"].as_str().expect("an id")
    );
    let (status, told) = switch.survivor().api("POST", &path, Some(&json!({ "node": second })));
    assert_eq!(status, 409, "{told}");
    // Nothing of them is left in the process where they began, and the next owner knows.
    switch.media.kill();
    crowd.hear_each_other();
    switch.take_owner().signaling.kill();
    crowd.hear_each_other();
    crowd.check_that_no_phone_was_told();
    crowd.hang_up();
    for cdr in switch.survivor().cdrs(count) {
        assert_eq!((&cdr["end_cause"], &cdr["reanchors"]), (&"bye".into(), &0.into()), "{cdr:#?}");
        assert_eq!(cdr["media_nodes"], json!([first, second, first, second]), "{cdr:#?}");
    }
}

#[test]
fn an_operator_drains_a_media_process_and_takes_it_back() {
    let switch = Switch::start();
    let mut pair = Pair::talking(switch.survivor(), ["udp", "udp"]);
    pair.hear_each_other();
    let _second = second_media(&switch);
    let first = media_node_of_the_call(switch.survivor()).expect("a call");
    let drain = |name: &str, what: &str| {
        let (status, told) = switch.survivor().api("POST", &format!("/nodes/{name}/{what}"), None);
        assert_eq!(status, 202, "{told}");
    };
    let moves_from = |from: &str| {
        eventually("the call is elsewhere", SOON, || {
            media_node_of_the_call(switch.survivor()).filter(|node| node != from)
        })
    };
    drain(&first, "drain");
    let second = moves_from(&first);
    pair.hear_each_other();
    drain(&first, "undrain");
    drain(&second, "drain");
    assert_eq!(moves_from(&second), first);
    pair.hear_each_other();
    pair.caller.hangs_up_on(&mut pair.callee);
    check_record(&switch.survivor().cdrs(1), 0);
    eventually("no session is left", SOON, || {
        media_nodes(switch.survivor()).iter().all(|(_, sessions)| *sessions == 0).then_some(())
    });
}

#[test]
fn the_calls_of_a_killed_media_process_go_on_in_another_on_the_same_ports() {
    let mut switch = Switch::start();
    let count = calls();
    let mut crowd = Crowd::talking(switch.survivor(), count, count / 4);
    let mut second = second_media(&switch);
    let killed = Instant::now();
    switch.media.kill();
    crowd.hear_each_other();
    check_silence(&crowd, killed);
    // A later start with the same ports leaves them to who has them, and takes new calls by others.
    switch.media = switch.host.media_with(&switch.media_ports);
    for server in &switch.signaling {
        switch.wait_for_links(server, switch.signaling.len() + 1);
    }
    let server = switch.signaling.pop().expect("a process");
    (0..4).for_each(|_| crowd.call(&server, Kind::RELAYED));
    switch.signaling.push(server);
    crowd.hear_each_other();
    // And back again.
    let killed = Instant::now();
    second.kill();
    crowd.hear_each_other();
    check_silence(&crowd, killed);
    crowd.check_sources();
    crowd.check_that_no_phone_was_told();
    let sent: u64 = crowd.hang_up().into_iter().flatten().sum();
    let cdrs = switch.survivor().cdrs(count + 4);
    let received: u64 = cdrs
        .iter()
        .flat_map(|cdr| [&cdr["legs"][0], &cdr["legs"][1]])
        .map(|leg| leg["packets_received"].as_u64().expect("a number"))
        .sum();
    // What is lacking came while nobody listened, or was never told; nothing is counted twice.
    assert!(received > 0 && received <= sent, "{received} of {sent}");
    for cdr in &cdrs {
        assert_eq!(cdr["end_cause"], "bye", "{cdr:#?}");
    }
}

/// Sound is back soon for 95 ears of 100. How soon is measured by `make bench BENCH=survival`: here much else runs.
fn check_silence(crowd: &Crowd, since: Instant) {
    let silences = crowd.silences_since(since);
    let p95 = silences[(silences.len() - 1) * 95 / 100];
    eprintln!("silence of {} ears: p95 {p95:?}, most {:?}", silences.len(), silences.last());
    assert!(p95 < SOON / 2, "{silences:?}");
}
