//! A start: what it says, to whom, and when; and what the API answers until the database is there.

use crate::common::postgres::Postgres;
use crate::common::process::Folder;
use crate::common::server::{Host, Server, holdfast};
use crate::common::{SOON, eventually, ports};
use crate::pair::Pair;
use serde_json::Value;
use std::fs::{self, File};

#[test]
fn until_the_database_is_there_everybody_is_told_to_try_again() {
    let nobody = format!("postgres://x:y@127.0.0.1:{}/none", ports::port());
    let server = Host::new(&nobody).begin_signaling();
    server.signaling.says("the database is not there yet");
    let url = format!("http://{}", server.admin);
    let agent = ureq::Agent::new_with_config(
        ureq::Agent::config_builder().http_status_as_error(false).build(),
    );
    // With the admin token, with another, and with none: before the first start nobody has one.
    for token in [Some(server.token.as_str()), Some("another"), None] {
        let mut answer = eventually("the API answers", SOON, || {
            let mut request = agent.get(format!("{url}/api/v1/calls"));
            if let Some(token) = token {
                request = request.header("Authorization", format!("Bearer {token}"));
            }
            request.call().ok()
        });
        assert_eq!(answer.status(), 503, "{token:?}");
        assert_eq!(answer.headers()["Content-Type"], "application/problem+json");
        let after = answer.headers()["Retry-After"].to_str().expect("text").parse::<u64>();
        assert!(after.is_ok_and(|seconds| seconds > 0));
        let problem: Value = answer.body_mut().read_json().expect("a problem");
        let detail = problem["detail"].as_str().expect("text");
        assert!(detail.contains("database is not there yet"), "{detail}");
    }
    let folder = Folder::new("start-client");
    let told = holdfast(&folder).args(["--url", &url, "calls"]).output().expect("runs");
    let text = String::from_utf8_lossy(&told.stderr);
    assert_eq!(told.status.code(), Some(75), "{text}");
    assert!(text.contains("database is not there yet"), "{text}");
}

/// Media, then signaling, then the database; the other orders are those of the tests around.
#[test]
fn in_the_worst_order_each_says_what_it_waits_for() {
    let mut postgres = Postgres::start();
    postgres.stop();
    let host = Host::new(&postgres.url("postgres"));
    let media = host.media();
    media.says("waiting for a signaling node at");
    let mut server = host.begin_signaling();
    server.signaling.says("the database is not there yet");
    postgres.run();
    server.wait_until_ready();
    let mut pair = Pair::talking(&server, ["udp", "udp"]);
    pair.hear_each_other();
    pair.caller.hangs_up_on(&mut pair.callee);
}

#[test]
fn nobody_is_told_to_register_before_a_media_node_is_there() {
    let postgres = Postgres::start();
    let host = Host::new(&postgres.url("postgres"));
    let server = host.begin_signaling();
    server.signaling.says("not ready yet: no media node");
    assert!(!server.signaling.log().contains("Holdfast is ready"));
    let _media = host.media();
    server.signaling.says("Holdfast is ready");
}

#[test]
fn the_log_is_all_that_standard_output_has() {
    for format in ["json", "text"] {
        let folder = Folder::new("start-log");
        let (out, err) = (folder.file("out"), folder.file("err"));
        let at = || format!("127.0.0.1:{}", ports::port());
        let media = ports::media_ports();
        let mut command = holdfast(&folder);
        command
            .arg("serve")
            .env("HOLDFAST_SIP_BIND", at())
            .env("HOLDFAST_ADMIN_BIND", at())
            .env("HOLDFAST_CONTROL_BIND", at())
            .env("HOLDFAST_MEDIA_PORTS", format!("{}-{}", media.start(), media.end()))
            .env("HOLDFAST_LOG_FORMAT", format)
            .stdout(File::create(&out).expect("made"))
            .stderr(File::create(&err).expect("made"));
        let mut child = command.spawn().expect("the binary runs");
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let told = eventually("it tells how to register", SOON, || {
            let told = read(&err);
            told.contains("Admin token").then_some(told)
        });
        let _ = child.kill();
        let _ = child.wait();
        assert!(told.starts_with("Holdfast is ready.\n\n  SIP server "), "{told}");
        let log = read(&out);
        assert!(log.lines().any(|line| line.contains("is up (slot 1)")), "{log}");
        assert!(!log.contains("Admin token"), "{log}");
        let are_json = log.lines().all(|line| serde_json::from_str::<Value>(line).is_ok());
        assert_eq!(are_json, format == "json", "{log}");
    }
}

#[test]
fn a_start_tells_what_is_not_well_with_names_and_database() {
    let server = Server::start_with(&[("HOLDFAST_SIP_ADVERTISE", "pbx.invalid")]);
    server.signaling.says(
        "sip_advertise: pbx.invalid has no address: sip_advertise leads nowhere; fix: correct",
    );
    // Before anything is bound it was looked at what the settings say of themselves; what phones are told is said with
    // its source in any case.
    server.signaling.says("sip_advertise: pbx.invalid (environment), a name");
    let server = Server::start_with(&[("HOLDFAST_MEDIA_ADVERTISE", "169.254.1.1")]);
    server.signaling.says("media_advertise: 169.254.1.1 (environment) is link-local");
}
