//! `holdfast backup` and `restore` as their users call them, with calls going on.

#![allow(clippy::disallowed_methods, reason = "tests live in real time")]

#[path = "common/mod.rs"]
mod common;
#[path = "peers/pair.rs"]
mod pair;

use common::phone::Phone;
use common::postgres::Postgres;
use common::process::Folder;
use common::server::{Host, Server, holdfast};
use common::{SOON, eventually};
use holdfast::sip::Status;
use pair::Pair;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Output;

const OWN_SECRET: &str = "own-secret-0123456789";

/// The file of a server that keeps itself in a file.
fn kept(server: &Server, folder: &Folder, more: &[&str]) -> std::path::PathBuf {
    let file = folder.file("holdfast.backup");
    let name = file.to_str().expect("a name").to_owned();
    let output = server.command(&[&["backup", &name], more].concat());
    assert!(output.status.success(), "{}", errors(&output));
    file
}

fn restored(folder: &Folder, file: &Path, settings: &[(&str, &str)]) -> Output {
    let mut command = holdfast(folder);
    command.arg("restore").arg(file).arg("--json").envs(settings.iter().copied());
    command.output().expect("the binary runs")
}

fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_switch_moves_to_another_machine() {
    let mut server = Server::start();
    let mut pair = Pair::talking(&server, ["udp", "udp"]);
    pair.caller.hangs_up_on(&mut pair.callee);
    let [cdr] = &server.cdrs(1)[..] else { panic!("one") };
    // And while people talk.
    let (caller, callee) = (pair.caller.phone, pair.callee.phone);
    let mut pair = Pair::between(caller, callee, &server.uri("1002"));
    let folder = Folder::new("kept");
    let file = kept(&server, &folder, &["--cdrs"]);
    let mode = std::fs::metadata(&file).expect("a file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    pair.hear_each_other();
    pair.hold_and_resume();
    server.signaling.kill();

    let moved = Folder::new("moved");
    let output = restored(&moved, &file, &[]);
    assert!(output.status.success(), "{}", errors(&output));
    let counts: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&counts["users"], &counts["cdrs"]), (&2.into(), &1.into()), "{counts}");
    let again = restored(&moved, &file, &[]);
    let counts: serde_json::Value = serde_json::from_slice(&again.stdout).expect("JSON");
    assert_eq!(counts["cdrs"], 0, "what is there is not doubled");

    server.moves_to(moved);
    for user in ["1001", "1002"] {
        let mut phone = Phone::udp(server.sip, user, &pair.caller.phone.password);
        assert_eq!(phone.register(&[]).status, Status(200), "{user}");
    }
    let [found] = &server.cdrs(1)[..] else { panic!("one") };
    assert_eq!((&found["id"], &found["ended_at"]), (&cdr["id"], &cdr["ended_at"]));
    let other = server.command(&["backup", file.to_str().expect("a name")]);
    assert!(errors(&other).contains("exists"), "a backup is never written over");
}

#[test]
fn users_are_restored_under_live_calls() {
    let folder = Folder::new("kept");
    let source = Server::start();
    let password = source.user("3001");
    let file = kept(&source, &folder, &[]);

    let postgres = Postgres::start();
    let host = Host::new(&postgres.url("postgres"));
    let _media = host.media();
    let server = host.signaling();
    let mut pair = Pair::talking(&server, ["udp", "udp"]);
    let url = postgres.url("postgres");
    let place = Folder::new("restored");
    let output = restored(&place, &file, &[("HOLDFAST_DATABASE_URL", &url)]);
    assert!(output.status.success(), "{}", errors(&output));
    let newest = &server.list("/audit")[0];
    assert_eq!(newest["method"], "restore", "{newest}");
    assert_eq!(newest["path"], file.display().to_string(), "{newest}");
    eventually("3001 registers", SOON, || {
        let mut phone = Phone::udp(server.sip, "3001", password);
        (phone.register(&[]).status == Status(200)).then_some(())
    });
    pair.hear_each_other();
    pair.hold_and_resume();
    pair.callee.hangs_up_on(&mut pair.caller);
    server.cdrs(1);
}

#[test]
fn what_cannot_be_restored_changes_nothing() {
    let folder = Folder::new("kept");
    let mut server = Server::start();
    std::fs::write(server.data().join("cluster_secret"), OWN_SECRET).expect("written");
    let file = kept(&server, &folder, &[]);

    let text = std::fs::read_to_string(&file).expect("text");
    let cut = folder.file("cut");
    let lines: Vec<&str> = text.lines().collect();
    std::fs::write(&cut, lines[..lines.len() - 1].join("\n")).expect("written");
    let place = Folder::new("restored");
    let output = restored(&place, &cut, &[]);
    assert!(errors(&output).contains("its end is missing"), "{}", errors(&output));
    assert!(!place.file("data").exists());

    let newer = folder.file("newer");
    std::fs::write(&newer, text.replacen("\"version\":1", "\"version\":2", 1)).expect("written");
    let output = restored(&place, &newer, &[]);
    assert!(errors(&output).contains("made by release"), "{}", errors(&output));

    std::fs::create_dir_all(place.file("data")).expect("made");
    std::fs::write(place.file("data/cluster_secret"), "another-secret-0123456789")
        .expect("written");
    let output = restored(&place, &file, &[]);
    assert!(errors(&output).contains("holds another cluster_secret"), "{}", errors(&output));
    assert!(!place.file("data/holdfast.db").exists(), "nothing was begun");
    let fresh = Folder::new("fresh");
    assert!(restored(&fresh, &file, &[]).status.success());
    let secret = std::fs::read_to_string(fresh.file("data/cluster_secret")).expect("restored");
    assert_eq!(secret, OWN_SECRET);

    let url = format!("sqlite:{}", server.data().join("holdfast.db").display());
    let output = restored(&Folder::new("busy"), &file, &[("HOLDFAST_DATABASE_URL", &url)]);
    assert_eq!(output.status.code(), Some(75), "{}", errors(&output));
    server.signaling.kill();
}
