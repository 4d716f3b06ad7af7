//! `holdfast reload`, and SIGHUP: what changes while the processes run, what waits for their next start.

use super::common::phone::Phone;
use super::common::server::Server;
use super::common::{SOON, eventually};
use holdfast::sip::HeaderName;
use serde_json::Value;
use std::process::Command;

fn settings(server: &Server, text: &str) {
    let folder = server.data().parent().expect("its folder").to_owned();
    std::fs::write(folder.join("holdfast.toml"), text).expect("written");
}

/// `SETTING EFFECT` of each change.
fn reload(server: &Server, more: &[&str]) -> Vec<String> {
    let ran = server.command(&[&["reload", "--json"], more].concat());
    assert!(ran.status.success(), "{ran:?}");
    let told: Value = serde_json::from_slice(&ran.stdout).expect("a document");
    let items = told["items"].as_array().expect("changes");
    let of = |item: &Value, key: &str| item[key].as_str().expect("text").to_owned();
    items.iter().map(|item| format!("{} {}", of(item, "key"), of(item, "effect"))).collect()
}

/// Seconds that a phone which asks for an hour is granted.
fn granted(phone: &mut Phone) -> String {
    let response = phone.register(&[(HeaderName::Expires, "3600")]);
    let contact = response.headers.get(&HeaderName::Contact).expect("a binding").to_owned();
    let expires = contact.split(";expires=").nth(1).expect("a time");
    expires.split(';').next().expect("a number").to_owned()
}

fn most_sessions(server: &Server) -> Option<u64> {
    let nodes = server.list("/nodes");
    nodes.iter().find(|node| node["mode"] == "media")?["max_sessions"].as_u64()
}

#[test]
fn settings_are_read_again_by_all_processes_here() {
    let server = Server::start_apart();
    let password = server.user("2001");
    let mut phone = Phone::udp(server.sip, "2001", password);
    assert_eq!(reload(&server, &[]), Vec::<String>::new());
    assert_eq!(granted(&mut phone), "300");

    settings(&server, "registration_max_ms = 60000\nmax_calls = 7\nsip_realm = 'other'\n");
    let mut all = ["registration_max_ms now", "max_calls now", "sip_realm next_start"];
    all.sort_unstable();
    let sorted = |mut told: Vec<String>| {
        told.sort_unstable();
        told
    };
    assert_eq!(sorted(reload(&server, &["--check"])), all);
    assert_eq!(granted(&mut phone), "300", "a check changes nothing");
    assert_ne!(most_sessions(&server), Some(7));
    assert_eq!(sorted(reload(&server, &[])), all);
    assert_eq!(granted(&mut phone), "60");
    eventually("the media node has a limit", SOON, || {
        (most_sessions(&server) == Some(7)).then_some(())
    });
    assert_eq!(reload(&server, &[]), ["sip_realm next_start"]);

    settings(&server, "registration_max_ms = 5\nmax_calls = 9\n");
    let ran = server.command(&["reload"]);
    assert_eq!(ran.status.code(), Some(64), "{ran:?}");
    let told = String::from_utf8_lossy(&ran.stderr);
    assert!(told.contains("nothing was changed: registration_max_ms = 5: "), "{told}");
    assert_eq!(granted(&mut phone), "60", "one mistake, and all stays");

    let audit = server.list("/audit");
    let of = |line: &Value| format!("{} {} {}", line["name"], line["path"], line["status"]);
    let told: Vec<String> =
        audit.iter().filter(|line| line["path"].to_string().contains("/reload")).map(of).collect();
    let line = |path: &str, status: u16| format!("\"local socket\" \"{path}\" {status}");
    let (plain, check) = ("/reload", "/reload?check=true");
    let expect = [(plain, 422), (plain, 200), (plain, 200), (check, 200), (plain, 200)];
    assert_eq!(told, expect.map(|(path, status)| line(path, status)), "the newest first");
}

#[test]
fn a_hang_up_of_the_terminal_is_a_reload() {
    let server = Server::start();
    let password = server.user("2002");
    let mut phone = Phone::udp(server.sip, "2002", password);
    settings(&server, "registration_max_ms = 90000\n");
    let pid = server.signaling.id().to_string();
    let sent = Command::new("kill").args(["-HUP", &pid]).status().expect("there is kill");
    assert!(sent.success());
    server.signaling.says("registration_max_ms = 90000, was 300000: from now on");
    // It is said before it is done.
    eventually("it is in force", SOON, || (granted(&mut phone) == "90").then_some(()));
    eventually("the audit log tells", SOON, || {
        let newest = server.list("/audit").first()?.clone();
        let told = (newest["method"].as_str()?, newest["token"].as_str()?, &newest["status"]);
        (told == ("SIGHUP", "local", &Value::from(200))).then_some(())
    });
}
