//! Every noun of the command line, as a table for people and as a document for scripts; what has no end or no table is
//! looked at by itself: events, captures, backups, imports, completions. `doctor` has tests of its own.

use super::common::process::{Folder, Process};
use super::common::server::{Server, holdfast};
use super::common::{SOON, eventually};
use super::pair::{Pair, phone};
use holdfast::sip::Method;
use serde_json::{Value, json};
use std::process::{Command, Output};

/// Of a file of libpcap, little endian.
const PCAP: [u8; 4] = [0xd4, 0xc3, 0xb2, 0xa1];
/// Lines of an import that takes its time.
const MANY: usize = 3_000;

fn done(server: &Server, arguments: &[&str]) -> Output {
    let ran = server.command(arguments);
    assert!(ran.status.success(), "{arguments:?}: {ran:?}");
    ran
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn document(server: &Server, arguments: &[&str]) -> Value {
    let output = done(server, &[arguments, &["--json"]].concat());
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{arguments:?}: {output:?}"))
}

#[test]
fn every_noun_is_a_table_and_a_document() {
    let server = Server::start();
    let mut first = Pair::talking(&server, ["udp", "udp"]);
    first.caller.hangs_up_on(&mut first.callee);
    server.cdrs(1);
    drop(first);
    let _talking = Pair::talking(&server, ["udp", "udp"]);
    done(&server, &["webhooks", "add", "http://127.0.0.1:9/hook", "--types", "call.ended"]);
    done(&server, &["tokens", "add", "billing", "--role", "cdr"]);
    let id_of = |list: &str| server.list(list)[0]["id"].as_str().expect("an id").to_owned();
    let (id, ended) = (id_of("/calls"), id_of("/cdrs"));
    let node = server.node();
    // What the table shows, and what the document has.
    for (arguments, shown, pointer) in [
        (&["users"][..], "EXTENSION", "/items/0/extension"),
        (&["users", "show", "1001"], "display_name", "/extension"),
        (&["registrations"], "FLOW", "/items/0/contact"),
        (&["calls"], "FLAGS", "/items/0/legs/0/streams/0/codec"),
        (&["call", &id], "legs 0", "/legs/0/role"),
        (&["trace", &id], "200 OK (INVITE)", "/messages/0/text"),
        (&["quality", &id], "DIRECTION", "/legs"),
        (&["route", "test", "1002"], "phones 0", "/decision"),
        (&["nodes"], "SESSIONS", "/items/0/links"),
        (&["nodes", &node], "started_at", "/lease_expires_at"),
        (&["cdrs"], "DISPOSITION", "/items/0/legs/0/codec"),
        (&["cdrs", &ended], "ended_by", "/legs/0/codec"),
        (&["tokens"], "billing", "/items/0/role"),
        (&["audit"], "POST", "/items/0/status"),
        (&["webhooks"], "http://127.0.0.1:9/hook", "/items/0/types"),
        (&["health"], "ready", "/status"),
        (&["config", "show"], "sip_bind", ""),
        (&["config", "credentials"], "1001", "/users/0/password"),
        (&["reload"], "nothing has changed", "/items"),
        (&["drain", &node], "draining", ""),
        (&["drain", &node, "--undo"], "takes calls again", ""),
        (&["hangup", &id], "hanging up", ""),
    ] {
        // What is done by it is done once for each form.
        let table = text(&done(&server, arguments));
        assert!(table.contains(shown), "{arguments:?}: {table}");
        assert!(serde_json::from_str::<Value>(&table).is_err(), "{arguments:?}: {table}");
        if arguments[0] == "hangup" {
            continue;
        }
        let document = document(&server, arguments);
        assert!(document.pointer(pointer).is_some(), "{arguments:?} {pointer}: {document:#}");
    }
}

#[test]
fn calls_are_chosen_by_who_has_them() {
    let server = Server::start();
    let _pair = Pair::talking(&server, ["udp", "udp"]);
    let node = server.node();
    let count = |flags: &[&str]| {
        let calls = document(&server, &[&["calls"], flags].concat());
        calls["items"].as_array().expect("a list").len()
    };
    let cases = [
        (&["--owner", &node][..], 1),
        (&["--media-node", &node], 1),
        (&["--owner", &node, "--media-node", &node, "--state", "confirmed"], 1),
        (&["--owner", "another"], 0),
        (&["--media-node", "another"], 0),
        (&["--owner", &node, "--media-node", "another"], 0),
    ];
    for (flags, expected) in cases {
        assert_eq!(count(flags), expected, "{flags:?}");
    }
}

/// Whatever a user has by the API it has on the command line; what is without a value is the word none.
#[test]
fn every_field_of_a_user_is_a_flag() {
    let server = Server::start();
    let flags = ["--name", "Anna", "--enabled", "false", "--max-contacts", "3", "--max-calls", "2"];
    let more = ["--ring-timeout-ms", "20000", "--codecs", "opus, PCMA", "--srtp", "mandatory"];
    let made = document(&server, &[&["users", "add", "1003"][..], &flags, &more].concat());
    let fields = ["display_name", "enabled", "max_contacts", "max_calls", "ring_timeout_ms"];
    let told = |user: &Value| -> Value {
        fields.iter().chain(&["codecs", "srtp"]).map(|field| user[field].clone()).collect()
    };
    let all = json!(["Anna", false, 3, 2, 20_000, ["opus", "PCMA"], "mandatory"]);
    assert_eq!(told(&made), all, "{made:#}");
    assert_eq!(told(&document(&server, &["users", "show", "1003"])), all);
    let none = ["--max-contacts", "none", "--max-calls", "none", "--ring-timeout-ms", "none"];
    let plain = ["--codecs", "none", "--srtp", "off", "--enabled", "true"];
    let set = document(&server, &[&["users", "set", "1003"][..], &none, &plain].concat());
    assert_eq!(told(&set), json!(["Anna", true, null, null, null, [], "off"]), "{set:#}");
    let wrong = server.command(&["users", "set", "1003", "--max-calls", "many"]);
    assert_eq!(wrong.status.code(), Some(64), "{wrong:?}");
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("a number, or none"), "{wrong:?}");
}

#[test]
fn who_is_not_there_is_unreachable_whatever_is_asked() {
    let nouns: [&[&str]; 6] = [
        &["users"],
        &["calls"],
        &["nodes"],
        &["cdrs"],
        &["trace", "--user", "1001"],
        &["drain", "vm-1"],
    ];
    for noun in nouns {
        // RFC 863: nobody discards there.
        let url = "http://127.0.0.1:9";
        let folder = Folder::new("nowhere");
        let ran = holdfast(&folder).args(noun).args(["--url", url, "--token", "x"]).output();
        let ran = ran.expect("it runs");
        assert_eq!(ran.status.code(), Some(69), "{noun:?}: {ran:?}");
        let told = String::from_utf8_lossy(&ran.stderr).into_owned();
        assert!(told.contains("127.0.0.1:9 cannot be reached"), "{noun:?}: {told}");
    }
}

#[test]
fn records_are_polled_and_counted() {
    let server = Server::start();
    let mut caller = phone(&server, "1001", "udp");
    for number in 1..=3 {
        let invite = caller.invite(&server.uri("1999"), None);
        let refused = caller.response_to(&Method::Invite);
        caller.acknowledge_refusal(&invite, &refused);
        server.cdrs(number);
    }
    let sequences = |flags: &[&str]| -> Vec<u64> {
        let cdrs = document(&server, &[&["cdrs"], flags].concat());
        let items = cdrs["items"].as_array().expect("a list");
        items.iter().map(|cdr| cdr["sequence"].as_u64().expect("a number")).collect()
    };
    let all = sequences(&[]);
    assert_eq!(all.len(), 3);
    assert_eq!(sequences(&["--limit", "2"]), all[..2]);
    assert_eq!(sequences(&["--after", &all[0].to_string()]), all[1..]);
    assert_eq!(sequences(&["--newest", "--limit", "1"]), all[2..]);
}

#[test]
fn events_are_lines_of_either_form() {
    let server = Server::start();
    let folder = Folder::new("events");
    let begun = |name: &str, arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
        command.args(arguments).env("HOLDFAST_DATA_DIR", server.data());
        Process::start(name, &mut command, folder.file(name), "the binary itself")
    };
    let lines = begun("lines", &["events", "--types", "call.*"]);
    let documents = begun("documents", &["events", "--types", "call.*", "--json"]);
    // It is told first what there is: it listens then.
    documents.says("snapshot");
    let mut pair = Pair::talking(&server, ["udp", "udp"]);
    pair.caller.hangs_up_on(&mut pair.callee);
    lines.says("call.ended");
    documents.says("call.ended");
    assert!(lines.log().lines().all(|line| serde_json::from_str::<Value>(line).is_err()));
    let kinds = eventually("whole lines", SOON, || {
        let kind = |line: &str| {
            let document: Value = serde_json::from_str(line).ok()?;
            document["type"].as_str().map(str::to_owned)
        };
        documents.log().lines().map(kind).collect::<Option<Vec<String>>>()
    });
    assert!(kinds.iter().any(|kind| kind == "call.ended"), "{kinds:?}");
}

#[test]
fn a_capture_is_a_file_or_what_is_written_to_a_pipe() {
    let server = Server::start();
    let folder = Folder::new("pcap");
    let mut pair = Pair::talking(&server, ["udp", "udp"]);
    let id = server.list("/calls")[0]["id"].as_str().expect("an id").to_owned();
    pair.caller.hangs_up_on(&mut pair.callee);
    server.cdrs(1);
    let file = folder.file("call.pcap");
    let path = file.to_str().expect("a path");
    let written = eventually("the capture has the last word", SOON, || {
        let silent = done(&server, &["pcap", &id, "--output", path]);
        assert_eq!(text(&silent), "");
        let written = std::fs::read(&file).expect("a file");
        let of_bye = written.windows(6).filter(|part| *part == b" BYE\r\n").count();
        (of_bye == 4).then_some(written)
    });
    let piped = done(&server, &["pcap", &id]).stdout;
    assert!(written.starts_with(&PCAP) && piped.starts_with(&written));
    let none = server.command(&["pcap", "01920000-0000-7000-8000-000000000001"]);
    assert_eq!((none.status.code(), none.stdout.len()), (Some(1), 0), "{none:?}");
}

#[test]
fn a_long_import_tells_how_far_it_is() {
    let server = Server::start();
    let folder = Folder::new("import");
    let file = folder.file("users.csv");
    let lines = (0..MANY).map(|number| format!("{},password-of-{number}\n", 30_000 + number));
    let csv = format!("extension,password\n{}", lines.collect::<String>());
    std::fs::write(&file, csv).expect("written");
    let path = file.to_str().expect("a path");
    let ran = done(&server, &["users", "import", path, "--json"]);
    let told: Value = serde_json::from_slice(&ran.stdout).expect("a document");
    assert_eq!((&told["created"], &told["failed"]), (&json!(MANY), &json!([])), "{told}");
    let progress = String::from_utf8_lossy(&ran.stderr).into_owned();
    assert!(progress.contains("100 % of "), "{progress}");
    let again = done(&server, &["users", "import", path, "--on-conflict", "skip"]);
    assert!(text(&again).contains(&format!("{MANY}")), "{again:?}");
}

#[test]
fn a_backup_tells_what_it_holds_and_so_does_its_return() {
    let mut server = Server::start();
    let folder = Folder::new("kept");
    let [table, document] = ["table", "document"].map(|name| folder.file(name));
    let [table, document] = [&table, &document].map(|file| file.to_str().expect("a path"));
    let check = |server: &Server, what: &str| {
        let told = text(&done(server, &[what, table]));
        assert!(told.contains("users") && !told.contains('{'), "{what}: {told}");
        let told: Value = serde_json::from_slice(&done(server, &[what, document, "--json"]).stdout)
            .expect("a document");
        assert!(told["users"].as_u64() >= Some(2), "{what}: {told}");
    };
    check(&server, "backup");
    // SQLite serves one process: nothing is put back under one that runs.
    assert_eq!(server.command(&["restore", table]).status.code(), Some(75));
    server.signaling.terminate();
    assert!(server.signaling.finish(SOON).success());
    check(&server, "restore");
}

#[test]
fn shells_complete_nouns_and_flags() {
    let folder = Folder::new("completions");
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let ran = holdfast(&folder).args(["completions", shell]).output().expect("the binary runs");
        let script = String::from_utf8_lossy(&ran.stdout).into_owned();
        assert!(ran.status.success() && script.contains("registrations"), "{shell}: {ran:?}");
        if shell == "bash" {
            std::fs::write(folder.file("bash"), script).expect("written");
        }
    }
    let completed = |words: &[&str]| {
        let last = words.len() - 1;
        let script = format!(
            "source {}; COMP_WORDS=({}); COMP_CWORD={last}; _holdfast holdfast '{}' '{}'; \
             echo \"${{COMPREPLY[*]}}\"",
            folder.file("bash").display(),
            words.join(" "),
            words[last],
            words[last - 1],
        );
        let ran = Command::new("bash").args(["-c", &script]).output().expect("bash");
        assert!(ran.status.success(), "{ran:?}");
        text(&ran).trim().to_owned()
    };
    assert_eq!(completed(&["holdfast", "regi"]), "registrations");
    assert_eq!(completed(&["holdfast", "users", "imp"]), "import");
    assert_eq!(completed(&["holdfast", "trace", "--us"]), "--user");
}
