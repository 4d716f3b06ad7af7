//! The served OpenAPI document against the server that serves it: Schemathesis makes requests of the document, right and
//! wrong ones, alone and one upon another. No answer may be a 5xx, or one of which the document does not tell; what the
//! document forbids is refused. A call is up, so that what is done to calls is done to one.
//!
//! The tool is installed below `target` when it is not there, from PyPI. Where that cannot be reached `WITHOUT_PYPI` leaves
//! the test out, loudly.

#![allow(clippy::disallowed_methods, reason = "tests live in real time")]

#[path = "../common/mod.rs"]
mod common;

use common::baresip::{Baresip, Settings};
use common::process::Folder;
use common::server::Server;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Requests of each kind for each operation, beside those that try every bound of every field once: a minute.
const EXAMPLES: &str = "4";
/// The same with time to spare.
const MORE_EXAMPLES: &str = "25";
/// Who comes without a token more than fifty times, and then more than once a second, is told 429, which the tool takes
/// for wrong whatever its settings say: it is not to come so fast.
const RATE: &str = "25/s";
/// Always the same requests, as far as answers are the same.
const SEED: &str = "1";

/// None: it is left out.
fn schemathesis() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("schemathesis");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/openapi/install.sh");
    let status = Command::new(script).arg(&folder).status().expect("sh");
    if !status.success() && common::is_left_out("the OpenAPI document", "WITHOUT_PYPI") {
        return None;
    }
    assert!(status.success(), "the Debian packages `python3` and `python3-venv`, and PyPI");
    Some(folder.join("bin/schemathesis"))
}

fn phone(server: &Server, user: &str) -> Baresip {
    let (password, registrar) = (server.user(user), Some(server.sip));
    Baresip::start(&Settings { user, password, server: registrar, ..Settings::default() })
        .registered()
}

/// Which answers are right beside those that the tool knows of, and whom the requests are about.
fn settings(call: &str, registration: &str) -> String {
    format!(
        r#"
        # A cursor that no list gave, a field that does not go with another, what was changed since.
        [checks.positive_data_acceptance]
        expected-statuses = ["2xx", 400, 401, 403, 404, 409, 412, 422]
        # If-Match is looked at before the body.
        [checks.negative_data_rejection]
        expected-statuses = [400, 401, 403, 404, 405, 409, 412, 413, 415, 422, 429]
        # A POST that is repeated under one Idempotency-Key makes nothing that is to be found.
        [checks.ensure_resource_availability]
        enabled = false

        [[operations]]
        include-path-regex = "^/api/v1/calls/[{{]id[}}]/"
        parameters = {{ "path.id" = "{call}" }}
        [[operations]]
        include-operation-id = "get_call"
        parameters = {{ "path.id" = "{call}" }}
        [[operations]]
        include-operation-id = "check_sync_registration"
        parameters = {{ "path.id" = "{registration}" }}
        # A node that drains takes no calls, which is 503.
        [[operations]]
        include-operation-id = "drain_node"
        parameters = {{ "path.name" = "another" }}
        # At the unix socket of a process, not here.
        [[operations]]
        include-operation-id = "reload_settings"
        enabled = false
        # It has no end.
        [[operations]]
        include-operation-id = "watch_events"
        enabled = false
        "#
    )
}

#[test]
fn every_answer_is_one_that_the_document_tells_of() {
    ask(EXAMPLES);
}

#[test]
#[ignore = "it takes minutes: make openapi"]
fn so_are_those_to_many_more_requests() {
    ask(MORE_EXAMPLES);
}

fn ask(examples: &str) {
    let Some(tool) = schemathesis() else { return };
    // Addresses that the tool makes up are not called.
    let server = Server::start_with(&[("HOLDFAST_WEBHOOK_DENIED_NETS", "0.0.0.0/0,::/0")]);
    let (mut alice, mut bob) = (phone(&server, "1001"), phone(&server, "1002"));
    alice.dial(&server.uri("1002"));
    alice.event("CALL_ESTABLISHED");
    bob.event("CALL_ESTABLISHED");
    let id_of = |path: &str| server.list(path)[0]["id"].as_str().expect("an id").to_owned();
    let (call, registration) = (id_of("/calls"), id_of("/registrations"));
    let folder = Folder::new("schemathesis");
    let config = folder.file("schemathesis.toml");
    std::fs::write(&config, settings(&call, &registration)).expect("a folder");
    let output = Command::new(tool)
        .arg("--config-file")
        .arg(&config)
        .args(["run", &format!("http://{}/api/v1/openapi.json", server.admin)])
        .args(["-H", &format!("Authorization: Bearer {}", server.token)])
        .args(["--max-examples", examples, "--seed", SEED, "--no-shrink"])
        .args(["--continue-on-failure", "--request-timeout", "20", "--rate-limit", RATE])
        .current_dir(folder.path())
        .output()
        .expect("it runs");
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{told}\n{}", String::from_utf8_lossy(&output.stderr));
    let tested = told.lines().find_map(|line| line.trim().strip_prefix("Tested:"));
    let tested = tested.and_then(|count| count.trim().parse::<u32>().ok());
    assert!(tested.is_some_and(|count| count > 40), "operations: {told}");
    // Whatever was done to the call, it has one end at most, and the node takes the next one.
    let (status, nodes) = server.api("GET", "/nodes", None);
    assert_eq!(status, 200, "{nodes}");
    let own = |cdr: &&serde_json::Value| cdr["id"] == call.as_str();
    assert!(server.list("/cdrs").iter().filter(own).count() <= 1);
}
