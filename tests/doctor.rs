//! `holdfast doctor` as its users call it: on a machine as it is, and with faults that a test can make for real.

#[path = "common/mod.rs"]
mod common;

use common::ports;
use common::postgres::Postgres;
use common::process::Folder;
use common::server::{Host, Server, holdfast};
use serde_json::{Value, json};
use std::net::{Ipv4Addr, UdpSocket};
use std::process::Output;

/// Findings of a report; what is not well must have a fix.
fn findings(output: &Output) -> Vec<Value> {
    let text = String::from_utf8_lossy(&output.stdout);
    let report: Value = serde_json::from_str(&text).expect("a report");
    let findings = report["findings"].as_array().expect("findings").clone();
    for finding in &findings {
        assert_eq!(finding["status"] == "ok", finding["fix"].is_null(), "{finding}");
    }
    findings
}

/// Findings of the binary with these settings, and its exit code.
fn examine(folder: &Folder, settings: &[(&str, &str)]) -> (Vec<Value>, Option<i32>) {
    let output = holdfast(folder)
        .args(["doctor", "--json"])
        .envs(settings.iter().copied())
        .output()
        .expect("runs");
    (findings(&output), output.status.code())
}

/// The worst finding of a check.
fn of<'a>(findings: &'a [Value], check: &str) -> &'a Value {
    let mut found: Vec<&Value> = findings.iter().filter(|one| one["check"] == check).collect();
    found.sort_by_key(|one| match one["status"].as_str() {
        Some("fail") => 0,
        Some("warn") => 1,
        _ => 2,
    });
    found.first().unwrap_or_else(|| panic!("no {check} in {findings:#?}"))
}

fn local(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

#[test]
fn a_busy_port_is_told_with_its_owner() {
    let folder = Folder::new("doctor-ports");
    // Not of the kernel's choice: a connection that ended a minute ago may have such a port for TCP.
    let sip = local(ports::port());
    let stranger = UdpSocket::bind(&sip).expect("bound");
    let admin = local(ports::port());
    let settings = [("HOLDFAST_SIP_BIND", sip.as_str()), ("HOLDFAST_ADMIN_BIND", &admin)];
    let (findings, exit) = examine(&folder, &settings);
    let finding = of(&findings, "sip_bind");
    assert_eq!(finding["status"], "fail");
    let detail = finding["detail"].as_str().expect("text");
    let own = format!("(pid {})", std::process::id());
    assert!(detail.contains(&sip) && detail.contains(&own), "{detail}");
    assert_eq!(exit, Some(1));
    drop(stranger);
    let (findings, exit) = examine(&folder, &settings);
    assert_eq!(of(&findings, "sip_bind")["status"], "ok", "{findings:#?}");
    assert_eq!(of(&findings, "admin_bind")["status"], "ok", "{findings:#?}");
    // Where tests run may have faults of its own: a network behind a bridge is one.
    let fails = findings.iter().any(|one| one["status"] == "fail");
    assert_eq!(exit, Some(i32::from(fails)), "{findings:#?}");
}

#[test]
fn a_port_of_the_other_family_is_in_nobodys_way() {
    let folder = Folder::new("doctor-families");
    let port = ports::port();
    let _stranger = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).expect("bound");
    let admin = local(ports::port());
    for (sip, status) in [(format!("[::]:{port}"), "ok"), (format!("0.0.0.0:{port}"), "fail")] {
        let settings = [("HOLDFAST_SIP_BIND", sip.as_str()), ("HOLDFAST_ADMIN_BIND", &admin)];
        let (findings, _) = examine(&folder, &settings);
        assert_eq!(of(&findings, "sip_bind")["status"], status, "{findings:#?}");
    }
}

#[test]
fn a_data_directory_that_is_none_is_told() {
    let folder = Folder::new("doctor-data");
    std::fs::write(folder.file("data"), "a file").expect("written");
    let sip = local(ports::port());
    let (findings, exit) = examine(&folder, &[("HOLDFAST_SIP_BIND", &sip)]);
    assert_eq!(of(&findings, "data_dir")["status"], "fail", "{findings:#?}");
    assert_eq!(exit, Some(1));
}

#[test]
fn a_name_that_leads_nowhere_is_told() {
    let folder = Folder::new("doctor-name");
    let sip = local(ports::port());
    let settings = [("HOLDFAST_SIP_BIND", sip.as_str()), ("HOLDFAST_SIP_ADVERTISE", "pbx.invalid")];
    let (findings, exit) = examine(&folder, &settings);
    assert_eq!(of(&findings, "sip_advertise")["status"], "fail", "{findings:#?}");
    assert_eq!(exit, Some(1));
}

#[test]
fn an_address_that_does_not_answer_is_told() {
    let nobody = local(ports::port());
    let server = Server::start_with(&[("HOLDFAST_SIP_ADVERTISE", &nobody)]);
    let told = findings(&server.command(&["doctor", "--json"]));
    assert_eq!(of(&told, "sip_answers")["status"], "warn", "{told:#?}");
    let detail = of(&told, "sip_answers")["detail"].as_str().expect("text");
    assert!(detail.contains(&nobody), "{detail}");
}

#[test]
fn media_ports_that_others_have_are_told() {
    let folder = Folder::new("doctor-media-ports");
    let range = ports::media_ports();
    let taken: Vec<UdpSocket> = range
        .clone()
        .filter_map(|port| UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).ok())
        .take(range.len() / 8)
        .collect();
    let ports = format!("{}-{}", range.start(), range.end());
    let settings = [("HOLDFAST_MODE", "media"), ("HOLDFAST_MEDIA_PORTS", ports.as_str())];
    let worst = |settings: &[(&str, &str)]| {
        let (findings, _) = examine(&folder, settings);
        (of(&findings, "media_ports")["status"].clone(), findings)
    };
    let (status, told) = worst(&settings);
    assert_eq!(status, "warn", "{told:#?}");
    drop(taken);
    let (status, told) = worst(&settings);
    assert_eq!(status, "ok", "{told:#?}");
}

#[test]
fn too_few_descriptors_are_told() {
    let folder = Folder::new("doctor-descriptors");
    let doctor = holdfast(&folder);
    let mut limited = std::process::Command::new("sh");
    limited.args(["-c", "ulimit -n 600; exec \"$0\" doctor --json"]).arg(doctor.get_program());
    for (name, value) in doctor.get_envs() {
        match value {
            Some(value) => limited.env(name, value),
            None => limited.env_remove(name),
        };
    }
    limited.env("HOLDFAST_MODE", "media").current_dir(folder.path());
    let told = findings(&limited.output().expect("a shell"));
    assert_eq!(of(&told, "descriptors")["status"], "warn", "{told:#?}");
    let detail = of(&told, "descriptors")["detail"].as_str().expect("text");
    assert!(detail.starts_with("600 at most"), "{detail}");
}

#[test]
fn a_database_that_takes_no_writes_or_is_of_a_later_release_is_told() {
    let folder = Folder::new("doctor-store");
    let postgres = Postgres::start();
    let url = postgres.url("postgres");
    let (sip, admin) = (local(ports::port()), local(ports::port()));
    let settings = [
        ("HOLDFAST_SIP_BIND", sip.as_str()),
        ("HOLDFAST_ADMIN_BIND", &admin),
        ("HOLDFAST_DATABASE_URL", &url),
    ];
    let fails = |check: &str, why: &str| {
        let (findings, exit) = examine(&folder, &settings);
        let finding = of(&findings, check);
        assert_eq!(finding["status"], "fail", "{finding}");
        assert!(finding["detail"].as_str().expect("text").contains(why), "{finding}");
        assert_eq!(exit, Some(1));
    };
    // It makes the tables.
    Host::new(&url).begin_signaling().signaling.says("not ready yet");
    let later = "update _sqlx_migrations set version = 9999 \
                 where version = (select max(version) from _sqlx_migrations)";
    postgres.execute(later);
    postgres.execute("insert into settings (name, value) values ('schema_needs', '9999')");
    fails("schema", "9999");
    postgres.execute("delete from _sqlx_migrations where version = 9999");
    postgres.execute("alter database postgres set default_transaction_read_only = on");
    fails("database", "takes no writes");
}

#[test]
fn the_database_is_looked_at_and_left_alone() {
    let folder = Folder::new("doctor-database");
    let (sip, admin) = (local(ports::port()), local(ports::port()));
    let nobody = format!("postgres://x:y@127.0.0.1:{}/none", ports::port());
    let settings = |url: &str| {
        let (sip, admin, url) = (sip.clone(), admin.clone(), url.to_owned());
        [("HOLDFAST_SIP_BIND", sip), ("HOLDFAST_ADMIN_BIND", admin), ("HOLDFAST_DATABASE_URL", url)]
    };
    let look = |url: &str| {
        let settings = settings(url);
        let settings: Vec<(&str, &str)> =
            settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
        examine(&folder, &settings)
    };
    let (findings, exit) = look(&nobody);
    assert_eq!((of(&findings, "database")["status"].as_str(), exit), (Some("fail"), Some(1)));

    let postgres = Postgres::start();
    let url = postgres.url("postgres");
    let (findings, _) = look(&url);
    let detail = of(&findings, "database")["detail"].as_str().expect("text").to_owned();
    assert!(detail.contains("without tables"), "{detail}");
    let (findings, _) = look(&url);
    let again = of(&findings, "database")["detail"].as_str().expect("text").to_owned();
    assert_eq!(detail, again, "a look makes no tables");
}

#[test]
fn a_server_that_runs_is_found_well_but_for_a_weak_password() {
    let server = Server::start();
    let well = findings(&server.command(&["doctor", "--json"]));
    for check in ["sip_bind", "admin_bind", "sip_answers", "database", "passwords", "schema"] {
        assert_eq!(of(&well, check)["status"], "ok", "{well:#?}");
    }
    let weak = json!({"extension": "10017700", "password": "passw0rd"});
    let (status, _) = server.api("POST", "/users", Some(&weak));
    assert_eq!(status, 201);
    let output = server.command(&["doctor", "--json"]);
    let ill = findings(&output);
    let finding = of(&ill, "passwords");
    assert_eq!(finding["status"], "fail");
    assert!(finding["detail"].as_str().expect("text").contains("10017700"), "{finding}");
    assert_eq!(output.status.code(), Some(1));
}
