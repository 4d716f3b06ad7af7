//! The command line beside a process: who runs it needs no token and no settings.

use super::common::server::Server;
use serde_json::Value;
use std::process::Output;

/// A command that is told where the data directory is, and nothing else.
fn bare(server: &Server, arguments: &[&str]) -> Output {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_holdfast"));
    command.args(arguments).env_clear().env("HOLDFAST_DATA_DIR", server.data());
    command.output().expect("the binary runs")
}

#[test]
fn who_has_the_data_directory_has_the_api() {
    let server = Server::start();
    // Neither a token nor an address is to be found.
    std::fs::remove_file(server.data().join("credentials.json")).expect("it was there");
    for arguments in [["users", "list", "--json"], ["users", "show", "1001"]] {
        let ran = bare(&server, &arguments);
        assert!(ran.status.success(), "{ran:?}");
        assert!(String::from_utf8_lossy(&ran.stdout).contains("1001"), "{ran:?}");
    }
    let made = bare(&server, &["users", "add", "1077", "--json"]);
    let made: Value = serde_json::from_slice(&made.stdout).expect("a document");
    assert_eq!(made["extension"], "1077");
    let audit = server.list("/audit");
    let line = audit.iter().find(|line| line["path"] == "/users").expect("it is in the log");
    assert_eq!((line["token"].as_str(), line["status"].as_u64()), (Some("local"), Some(201)));
    // A token that is given counts.
    let mut wrong = std::process::Command::new(env!("CARGO_BIN_EXE_holdfast"));
    wrong.args(["users", "list"]).env_clear().env("HOLDFAST_DATA_DIR", server.data());
    wrong.env("HOLDFAST_ADMIN_URL", format!("http://{}", server.admin));
    wrong.env("HOLDFAST_ADMIN_TOKEN", "wrong");
    let wrong = wrong.output().expect("the binary runs");
    assert_eq!(wrong.status.code(), Some(64), "{wrong:?}");
}
