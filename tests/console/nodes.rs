//! Nodes come and go before an operator's eyes: drains with what they wait for, a call that moves, the death of the
//! process that serves the console.

use crate::common::chromium::Chromium;
use crate::common::network::{Machine, Network, in_a_network};
use crate::common::postgres::Postgres;
use crate::common::process::Process;
use crate::common::server::{Host, Server};
use crate::common::{SOON, eventually};
use crate::pair::{Pair, phone};
use crate::{go, signed_in};
use serde_json::Value;
use std::net::Ipv4Addr;

/// So many nodes of that mode take calls; their names.
fn ready(server: &Server, mode: &str, count: usize) -> Vec<String> {
    eventually("all nodes are known", SOON * 2, || {
        let is_there = |node: &&Value| node["mode"] == mode && node["state"] == "ready";
        let nodes = server.list("/nodes");
        let names = nodes.iter().filter(is_there).map(|node| node["name"].as_str());
        let names: Vec<String> = names.map(|name| name.expect("a name").to_owned()).collect();
        (names.len() == count).then_some(names)
    })
}

/// Of the only call.
fn call_id(server: &Server) -> String {
    server.list("/calls")[0]["id"].as_str().expect("an id").to_owned()
}

/// A fact of the call's page.
fn fact(name: &str) -> String {
    format!(
        "[...document.querySelectorAll('dt')].find((dt) => dt.textContent === '{name}')\
         ?.nextElementSibling.textContent"
    )
}

/// As the node's card has it.
fn calls_of(node: &str) -> String {
    format!(
        "[...document.querySelectorAll('.card[aria-label=\"{node}\"] .meter .label')]\
         .find((one) => one.textContent.startsWith('Calls'))?.lastChild.textContent"
    )
}

fn drain(browser: &mut Chromium, node: &str) {
    browser.wait_for(node);
    browser.value(&format!(
        "[...document.querySelectorAll('.card[aria-label=\"{node}\"] button')][0].click()"
    ));
    browser.click("dialog button", "Drain");
}

#[test]
fn a_drain_is_followed_until_nothing_is_left() {
    let server = Server::start();
    let mut browser = signed_in(&server, 1280);
    let mut first = Pair::talking(&server, ["udp", "udp"]);
    let [caller, callee] = ["1003", "1004"].map(|user| phone(&server, user, "udp"));
    let mut second = Pair::between(caller, callee, &server.uri("1004"));
    go(&mut browser, "nodes");
    drain(&mut browser, &server.node());
    browser.wait_for("left: 2 calls, 2 media sessions");
    first.caller.hangs_up_on(&mut first.callee);
    browser.wait_for("left: 1 call, 1 media session");
    second.callee.hangs_up_on(&mut second.caller);
    browser.wait_for("Drained: nothing is left here.");
    // Calls that are over are none, though their last words may be asked for again.
    browser.wait(&format!("{} === '0'", calls_of(&server.node())));
    browser.click(".card button", "Take back");
    browser.wait("document.querySelector('.card button')?.textContent === 'Drain'");
    assert_eq!(browser.complaints(&["status of 503"]), [""; 0]);
}

/// Calls that another node takes are seen to go there.
#[test]
fn a_drained_node_is_seen_to_give_its_calls_to_another() {
    let postgres = Postgres::start();
    let host = Host::new(&postgres.url("postgres"));
    let _media = host.media();
    let servers = [host.signaling(), host.signaling()];
    ready(&servers[0], "signaling", 2);
    let mut browser = signed_in(&servers[0], 1280);
    let mut pair = Pair::talking(&servers[0], ["udp", "udp"]);
    pair.hear_each_other();
    let owner = servers[0].list("/calls")[0]["owner"].as_str().expect("a name").to_owned();
    let other = servers.iter().map(|server| server.node()).find(|name| *name != owner);
    let other = other.expect("another");
    go(&mut browser, "nodes");
    drain(&mut browser, &owner);
    browser.wait(&format!("{} === '1' && {} === '0'", calls_of(&other), calls_of(&owner)));
    browser.wait_for("Drained: nothing is left here.");
    go(&mut browser, &format!("calls/{}", call_id(&servers[0])));
    browser.wait_for("taken over 1×");
    browser.wait(&format!("{}.startsWith('{other}')", fact("Owner")));
    pair.caller.hangs_up_on(&mut pair.callee);
    assert_eq!(browser.complaints(&["status of 503", "status of 404"]), [""; 0]);
}

/// A media node of a host of its own.
fn media_host(
    network: &Network,
    number: u8,
    database: &str,
    joins: Ipv4Addr,
) -> (Machine, Process) {
    let machine = network.machine(number);
    let host = Host::at(machine.ip, &format!("media-{number}"), database).joining(&[joins]);
    let process = machine.within(|| host.media());
    (machine, process)
}

#[test]
fn a_call_is_moved_by_a_button_and_its_ladder_tells() {
    in_a_network(|network| {
        let postgres = Postgres::start();
        let database = postgres.url("postgres");
        let machine = network.machine(11);
        let _media = [13, 14].map(|number| media_host(network, number, &database, machine.ip));
        let server = machine.within(|| Host::at(machine.ip, "alpha", &database).signaling());
        is_moved(&server);
    });
}

fn is_moved(server: &Server) {
    let media = ready(server, "media", 2);
    let mut browser = signed_in(server, 1280);
    let mut pair = Pair::talking(server, ["udp", "udp"]);
    pair.hear_each_other();
    go(&mut browser, &format!("calls/{}", call_id(server)));
    let node = fact("Media node");
    browser.wait(&node);
    let present = browser.value(&node);
    let other = media.iter().find(|name| present != name.as_str()).expect("another");
    browser.wait("document.querySelectorAll('svg.ladder g.row').length > 6");
    let invites = "[...document.querySelectorAll('svg.ladder g.row')]\
        .filter((row) => row.getAttribute('aria-label').endsWith(' INVITE')).length";
    let before = browser.value(invites).as_u64().expect("a number");
    browser.click("button", "Move media");
    browser.wait(&format!("document.querySelector('dialog option[value=\"{other}\"]')"));
    browser.value(&format!("document.querySelector('dialog select[name=node]').value = '{other}'"));
    browser.click("dialog button", "Move");
    for side in [&mut pair.caller, &mut pair.callee] {
        side.takes_offer("sendrecv", "sendrecv");
    }
    browser.wait(&format!("{node} === '{other}'"));
    pair.hear_each_other();
    let mark = format!("an operator: move to media node {other}");
    browser.wait(&format!("document.querySelector('svg.ladder').textContent.includes('{mark}')"));
    // A re-INVITE to each phone.
    browser.wait(&format!("{invites} === {}", before + 2));
    browser.wait_for(&format!("has its sound anchored by {other}"));
    pair.caller.hangs_up_on(&mut pair.callee);
    browser.wait(&format!(
        "{} === '{}, {other}'",
        fact("Media nodes"),
        present.as_str().expect("a name")
    ));
    // Not by HTTPS, and not from this host.
    let known = ["status of 404", "Cross-Origin-Opener-Policy"];
    assert_eq!(browser.complaints(&known), [""; 0]);
}

/// The processes of a host share the port of the console too.
#[test]
fn a_console_goes_on_when_the_process_that_serves_it_is_killed() {
    let postgres = Postgres::start();
    let host = Host::new(&postgres.url("postgres")).with_one_admin();
    let _media = host.media();
    // Alone, it has the browser and the call.
    let mut first = host.signaling();
    let mut browser = signed_in(&first, 1280);
    let mut pair = Pair::talking(&first, ["udp", "udp"]);
    pair.hear_each_other();
    let id = call_id(&first);
    let killed = first.node();
    go(&mut browser, &format!("calls/{id}"));
    browser.wait(&format!("{} === '{killed}'", fact("Owner")));
    browser.value("window.unchanged = true");
    let second = host.signaling();
    second.signaling.says("Holdfast is ready");
    let names = ready(&first, "signaling", 2);
    let other = names.iter().find(|name| **name != killed).expect("another");
    first.signaling.kill();
    browser.wait(&format!("{}.startsWith('{other}')", fact("Owner")));
    browser.wait_for("taken over 1×");
    // By the stream of events, not only by looking.
    browser.wait_for(&format!("carried on by {other}"));
    browser.wait("document.querySelector('.foot .state.good')?.textContent === 'Live'");
    go(&mut browser, "calls");
    browser.wait("document.querySelector('tr.open .state.good')?.textContent === 'Talking'");
    pair.caller.hangs_up_on(&mut pair.callee);
    browser.wait_for("Nobody is on the phone.");
    let Pair { caller, callee } = pair;
    let mut pair = Pair::between(caller.phone, callee.phone, &second.uri("1002"));
    browser.wait("document.querySelector('tr.open .state.good')?.textContent === 'Talking'");
    pair.callee.hangs_up_on(&mut pair.caller);
    browser.wait_for("Nobody is on the phone.");
    assert_eq!(browser.value("window.unchanged"), true, "it was never loaded again");
    // Who asks for the call before it is taken over is told to ask again.
    let known = ["net::ERR_", "status of 404", "status of 503"];
    assert_eq!(browser.complaints(&known), [""; 0]);
}
