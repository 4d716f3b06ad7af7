//! The command line while calls live: what it follows grows as they go on; and what it asks beside calls.

use super::common::process::{Folder, Process};
use super::common::server::Server;
use super::common::{SOON, eventually};
use super::pair::Pair;
use serde_json::{Value, json};
use std::process::Command;
use std::time::Duration;

/// A command that goes on.
fn begun(server: &Server, folder: &Folder, name: &str, arguments: &[&str]) -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
    command.args(arguments).env("HOLDFAST_DATA_DIR", server.data());
    Process::start(name, &mut command, folder.file(name), "the binary itself")
}

#[test]
fn ladders_and_lists_are_followed_as_calls_go_on() {
    let server = Server::start();
    let folder = Folder::new("followed");
    let user = begun(&server, &folder, "user", &["trace", "--user", "1002"]);
    let other = begun(&server, &folder, "other", &["trace", "--user", "1003"]);
    let address = begun(&server, &folder, "address", &["trace", "--ip", "127.0.0.1", "--full"]);
    let nowhere = begun(&server, &folder, "nowhere", &["trace", "--ip", "192.0.2.1"]);
    let list = begun(&server, &folder, "list", &["calls", "--watch"]);
    let documents = begun(&server, &folder, "json", &["trace", "--user", "1002", "--json"]);
    list.says("0 calls");
    let mut pair = Pair::talking(&server, ["udp", "udp"]);
    user.says("200 OK (INVITE)");
    address.says("a=rtpmap");
    list.says("1 call\n");
    list.says("confirmed");
    let id = server.list("/calls")[0]["id"].as_str().expect("an id").to_owned();
    let mut one = begun(&server, &folder, "one", &["trace", "--call", &id]);
    one.says("INVITE");
    assert!(!user.log().contains("BYE") && !one.log().contains("BYE"));
    pair.hear_each_other();
    std::thread::sleep(Duration::from_secs(2));
    // Not anew because time passes.
    let shown = list.log().matches("confirmed").count();
    assert!((1..=2).contains(&shown), "{}", list.log());
    pair.caller.hangs_up_on(&mut pair.callee);
    for followed in [&user, &one, &address] {
        followed.says("200 OK (BYE)");
    }
    eventually("the list is empty again", SOON, || {
        list.log().trim_end().ends_with("FLAGS").then_some(())
    });
    // It was all there was to tell, each message once.
    assert!(one.finish(SOON).success());
    assert_eq!(one.log().matches(" BYE ").count(), 2, "{}", one.log());
    assert_eq!(user.log().matches(" BYE ").count(), 2, "{}", user.log());
    let mut over = begun(&server, &folder, "over", &["trace", "--call", &id]);
    assert!(over.finish(SOON).success());
    assert_eq!(over.log(), one.log(), "a call that is over is told as well");
    assert_eq!(server.command(&["trace", "--call", "nobody's"]).status.code(), Some(1));
    documents.says("200 OK (BYE)");
    let id = json!(id);
    let told = eventually("whole lines", SOON, || {
        let lines = documents.log();
        lines.lines().map(|line| serde_json::from_str(line).ok()).collect::<Option<Vec<Value>>>()
    });
    assert!(told.len() > 10 && told.iter().all(|line| line["call_id"] == id), "{told:?}");
    assert!(told.iter().all(|line| line["message"]["text"].is_string()), "{told:?}");
    for silent in [other, nowhere] {
        assert_eq!(silent.log().lines().count(), 1, "{}", silent.log());
    }
}

#[test]
fn what_a_number_leads_to_is_told_without_a_call() {
    let server = Server::start();
    let _pair = Pair::talking(&server, ["udp", "udp"]);
    server.user("1003");
    let test = |to: &str| {
        let (status, route) = server.api("GET", &format!("/route?to={to}"), None);
        assert_eq!(status, 200, "{route}");
        (
            route["decision"].as_str().expect("a word").to_owned(),
            route["sip_status"].as_u64(),
            route["phones"].as_array().map_or(0, Vec::len),
        )
    };
    assert_eq!(test("1002"), ("ring".to_owned(), None, 1));
    assert_eq!(test("%2A43"), ("service".to_owned(), None, 0));
    assert_eq!(test("1003"), ("not_registered".to_owned(), Some(480), 0));
    assert_eq!(test("sip:4711@example.org"), ("refuse".to_owned(), Some(404), 0));
    assert_eq!(server.list("/calls").len(), 1, "nobody is called");
    let told = server.command(&["route", "test", "1002"]);
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(told.contains("ring") && told.contains("phones 0"), "{told}");
    assert_eq!(server.command(&["route", "test", ""]).status.code(), Some(64));
}

#[test]
fn tokens_are_made_and_revoked_and_the_log_is_shown() {
    let server = Server::start();
    let made = server.command(&["tokens", "add", "billing", "--role", "cdr", "--json"]);
    let made: serde_json::Value = serde_json::from_slice(&made.stdout).expect("a document");
    assert!(made["token"].as_str().is_some_and(|token| token.starts_with("hf_")), "{made}");
    let shown = |arguments: &[&str]| {
        let output = server.command(arguments);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert!(shown(&["tokens"]).contains("billing"));
    let id = made["id"].as_str().expect("an id");
    shown(&["tokens", "remove", id]);
    assert!(!shown(&["tokens"]).contains("billing"));
    let log = shown(&["audit", "--limit", "2"]);
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!(lines.len(), 3, "{log}");
    assert!(lines[1].contains("DELETE") && lines[2].contains("POST"), "{log}");
    assert_eq!(server.command(&["tokens", "add", "x", "--role", "king"]).status.code(), Some(64));
}
