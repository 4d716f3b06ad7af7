//! The REST API over a real socket, on a real SQLite store. The other end of the operator's channel
//! is played: a worker that knows one call, one registration and one node.

#[path = "admin/audit.rs"]
mod audit;
#[path = "common/mod.rs"]
mod common;
#[path = "admin/described.rs"]
mod described;
#[path = "admin/manners.rs"]
mod manners;
#[path = "admin/slow_reader.rs"]
mod slow_reader;
#[path = "admin/webhooks.rs"]
mod webhooks;

use common::events::{Watching, check_order};
use common::{SOON, eventually};
use holdfast::admin::{self, Admin, Phase, Server, Services};
use holdfast::ids::ClusterKey;
use holdfast::net::web::HttpClient;
use holdfast::operator::{Command, LiveCalls, Operator, Readiness, Refused};
use holdfast::store::{Batch, Store};
use holdfast::telemetry::{Personal, Telemetry};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

const TOKEN: &str = "test-token-0123456789";
const CALL: &str = "01920000-0000-7000-8000-000000000001";

/// A running API.
struct Api {
    url: String,
    address: String,
    agent: ureq::Agent,
    told: Arc<Mutex<Vec<String>>>,
    calls: Arc<tokio::sync::Mutex<()>>,
    admin: Arc<Admin>,
    store: Store,
    runtime: tokio::runtime::Runtime,
    directory: PathBuf,
    server: Option<Server>,
}

impl Drop for Api {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.stop();
        }
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// An answer: status, headers of interest, document.
struct Answer {
    status: u16,
    kind: String,
    headers: ureq::http::HeaderMap,
    body: Value,
    text: String,
}

fn start(name: &str) -> Api {
    let directory =
        std::env::temp_dir().join(format!("holdfast-admin-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&directory);
    std::fs::create_dir_all(&directory).expect("a directory");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let url = format!("sqlite:{}", directory.join("holdfast.db").display());
    let store = runtime.block_on(Store::connect(&url)).expect("a store");
    let kept = store.clone();
    let (operator, commands) = Operator::channel();
    let told = Arc::new(Mutex::new(Vec::new()));
    let calls = Arc::default();
    runtime.spawn(worker(commands, told.clone(), Arc::clone(&calls)));
    let admin = Admin::new("test-1", "both", TOKEN, Telemetry::new(Personal::Show));
    admin.set_services(services(store, operator));
    admin.set_phase(Phase::Running);
    let listener = admin::bind_shared("127.0.0.1:0".parse().expect("an address")).expect("bound");
    let server = Server::start(listener, admin::router(&admin)).expect("served");
    let agent = ureq::Agent::config_builder().http_status_as_error(false).proxy(None).build();
    let address = server.address.to_string();
    let url = format!("http://{address}");
    let agent = agent.into();
    let server = Some(server);
    Api { url, address, agent, told, calls, admin, store: kept, runtime, directory, server }
}

fn services(store: Store, operator: Operator) -> Services {
    let (key, http) = (ClusterKey::new(b"secret of the tests"), HttpClient::new(Arc::default()));
    Services { store, operator, realm: "holdfast".to_owned(), key, http }
}

async fn worker(
    mut commands: tokio::sync::mpsc::Receiver<Command>,
    told: Arc<Mutex<Vec<String>>>,
    calls: Arc<tokio::sync::Mutex<()>>,
) {
    let mut ready = vec![Readiness::Ready, Readiness::Degraded(vec!["journal".to_owned()])];
    let note = |text: String| told.lock().expect("no panic").push(text);
    while let Some(command) = commands.recv().await {
        match command {
            Command::Calls(filter, answer) => {
                note(format!("calls {:?}", filter.state));
                let views = vec![serde_json::from_value(call()).expect("a call")];
                let _ = answer.send(LiveCalls { views, documents: Vec::new(), limit: 1 });
            }
            Command::Call(id, answer) => {
                let known = (id == CALL).then(|| serde_json::from_value(call()).expect("a call"));
                let _ = answer.send(known);
            }
            Command::Hangup(id, reason, answer) => {
                note(format!("hangup {reason:?}"));
                let _ = answer.send(id == CALL);
            }
            Command::Originate(wish, answer) => {
                note("originate".to_owned());
                let _may = calls.lock().await;
                if wish.from == "lost" {
                    // It may have been begun all the same.
                    continue;
                }
                let later = Refused::NotNow { reason: "later".into(), seconds: 1 };
                let known = serde_json::from_value(call()).expect("a call");
                let _ = answer.send(if wish.from == "later" { Err(later) } else { Ok(known) });
            }
            Command::Steer(id, wish, answer) => {
                note(format!("{wish:?}"));
                let known = serde_json::from_value(call()).expect("a call");
                let _ = answer.send(match id.to_string() == CALL {
                    true => Ok(known),
                    false => Err(Refused::Gone),
                });
            }
            Command::Ladder(_, _, answer) => _ = answer.send(Vec::new()),
            Command::Route(_, answer) => _ = answer.send(Err(Refused::Gone)),
            Command::Registrations(_, answer) => _ = answer.send(Vec::new()),
            Command::Deregister(id, answer) => {
                let _ = answer.send(id == "r1");
            }
            Command::CheckSync(id, reboot, answer) => {
                note(format!("check-sync {id} {reboot:?}"));
                let _ = answer.send(match id.as_str() {
                    "r1" => Ok(Some(200)),
                    "silent" => Ok(None),
                    "cut" => Err(Refused::Conflict("nobody has its connection any more".into())),
                    _ => Err(Refused::Gone),
                });
            }
            Command::Nodes(answer) => {
                let _ = answer.send(vec![serde_json::from_value(node()).expect("a node")]);
            }
            Command::Drain { node, drain, end_calls, answer } => {
                note(format!("drain {node} {drain} {end_calls}"));
                let _ = answer.send(node == "test-1");
            }
            Command::UserChanged(user) => note(format!("changed {}", user.extension)),
            Command::UserRemoved(extension) => note(format!("removed {extension}")),
            other @ (Command::UsersImported | Command::Tune(_)) => note(format!("{other:?}")),
            Command::Readiness(answer) => {
                let _ = answer.send(ready.pop().unwrap_or(Readiness::Draining));
            }
        }
    }
}

fn call() -> Value {
    json!({
        "id": CALL, "state": "confirmed", "direction": "internal",
        "caller": {"extension": "1001", "uri": "sip:1001@x", "display_name": null},
        "callee": {"extension": "1002", "uri": "sip:1002@x", "display_name": null},
        "request_uri": "sip:1002@x", "created_at": "2026-01-31T12:00:00.000Z",
        "ringing_at": null, "answered_at": null, "duration_ms": 1, "owner": "test-1", "epoch": 1,
        "takeovers": 0, "hold": "none", "legs": [],
        "media": {"node": null, "session_id": null, "transcoding": false, "reanchors": 0,
            "resumed_at": null},
    })
}

fn node() -> Value {
    json!({
        "name": "test-1", "mode": "both", "state": "ready", "version": "0.1.0",
        "record_version": 1, "control_version": 1, "started_at": null, "last_seen_at": null,
        "lease_expires_at": null, "sip": [], "media": null, "control": null, "labels": {},
        "calls": 0, "registrations": 7, "sessions": 3, "transcoded_sessions": 0,
        "max_sessions": null, "cpu_percent": null, "tick_late_p99_ms": null, "journal": null,
        "drain": null, "links": [],
    })
}

impl Api {
    fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut request = ureq::http::Request::builder().method(method);
        request = request.uri(format!("{}{path}", self.url));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = match method {
            "GET" | "HEAD" | "DELETE" => {
                let request = request.body(()).expect("a request");
                self.agent.run(request)
            }
            _ => self.agent.run(request.body(body.to_owned()).expect("a request")),
        };
        let mut response = response.expect("an answer");
        let text = response.body_mut().read_to_string().expect("text");
        let headers = response.headers().clone();
        let kind = headers.get("content-type").and_then(|kind| kind.to_str().ok());
        let kind = kind.unwrap_or_default().to_owned();
        let body = serde_json::from_str(&text).unwrap_or(Value::Null);
        Answer { status: response.status().as_u16(), kind, headers, body, text }
    }

    /// A reader of events.
    fn watch(&self, query: &str) -> Watching {
        Watching::at(self.address.parse().expect("an address"), TOKEN, query)
    }

    /// These happen.
    fn commit(&self, told: Vec<String>) {
        let batch = Batch { told, ..Batch::default() };
        self.runtime.block_on(self.store.commit(&batch)).expect("a commit");
    }

    /// These bytes are in the database, wherever in its files.
    fn holds(&self, what: &[u8]) -> bool {
        ["holdfast.db", "holdfast.db-wal"].iter().any(|name| {
            let file = std::fs::read(self.directory.join(name)).expect("a database");
            file.windows(what.len()).any(|window| window == what)
        })
    }

    /// HTTP status of the stream, which has no end.
    fn status_of_events(&self) -> u16 {
        let request = self.agent.get(format!("{}/api/v1/events", self.url));
        let request = request.header("Authorization", format!("Bearer {TOKEN}"));
        request.call().expect("an answer").status().as_u16()
    }

    fn api(&self, method: &str, path: &str, body: Option<Value>) -> Answer {
        let token = format!("Bearer {TOKEN}");
        let mut headers = vec![("Authorization", token.as_str())];
        if body.is_some() {
            headers.push(("Content-Type", "application/json"));
        }
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        self.send(method, &format!("/api/v1{path}"), &headers, &body)
    }

    fn import(&self, query: &str, csv: &str) -> Answer {
        let token = format!("Bearer {TOKEN}");
        let headers = [("Authorization", token.as_str()), ("Content-Type", "text/csv")];
        self.send("POST", &format!("/api/v1/users/import{query}"), &headers, csv)
    }

    fn was_told(&self, text: &str) -> bool {
        self.times_told(text) > 0
    }

    fn times_told(&self, text: &str) -> usize {
        self.told.lock().expect("no panic").iter().filter(|told| *told == text).count()
    }

    fn is_asked(&self, text: &str) {
        eventually(text, SOON, || self.was_told(text).then_some(()));
    }

    /// The worker answers who begins a call when this is dropped.
    fn calls_wait(&self) -> tokio::sync::OwnedMutexGuard<()> {
        self.runtime.block_on(Arc::clone(&self.calls).lock_owned())
    }
}

/// Every failure is a problem document.
fn assert_problem(answer: &Answer, status: u16, of: &str) {
    assert_eq!(answer.status, status, "{of}: {}", answer.text);
    assert_eq!(answer.kind, "application/problem+json", "{of}");
    assert_eq!(answer.body["status"], status, "{of}");
    for key in ["type", "title", "detail"] {
        assert!(answer.body[key].as_str().is_some_and(|text| !text.is_empty()), "{of}: {key}");
    }
    assert!(answer.body["errors"].is_array(), "{of}");
}

#[test]
fn a_user_lives() {
    let api = start("life");
    let made =
        api.api("POST", "/users", Some(json!({"extension": "1003", "display_name": "Anna"})));
    assert_eq!(made.status, 201, "{}", made.text);
    assert_eq!(made.headers["location"], "/api/v1/users/1003");
    assert_eq!(made.body["password"].as_str().map(str::len), Some(20));
    assert_eq!(made.body["registered"], false);
    assert!(api.was_told("changed 1003"));

    let seen = api.api("GET", "/users/1003", None);
    assert_eq!(seen.status, 200);
    assert_eq!(seen.body["display_name"], "Anna");
    assert!(seen.body.get("password").is_none(), "shown only where it was set");
    assert!(seen.body["max_calls"].is_null(), "null, never absent");

    let twice = api.api("POST", "/users", Some(json!({"extension": "1003"})));
    assert_problem(&twice, 409, "the same again");

    let change = json!({"max_calls": 2, "codecs": ["opus", "PCMA"], "password": "correct horse",
        "srtp": "optional"});
    let changed = api.api("PATCH", "/users/1003", Some(change));
    assert_eq!(changed.status, 200, "{}", changed.text);
    assert_eq!(changed.body["password"], "correct horse");
    assert_eq!(changed.body["display_name"], "Anna", "absent fields stay");
    let cleared = api.api("PATCH", "/users/1003", Some(json!({"max_calls": null})));
    assert!(cleared.body["max_calls"].is_null());
    assert_eq!(cleared.body["codecs"], json!(["opus", "PCMA"]));
    let nameless = api.api("PATCH", "/users/1003", Some(json!({"display_name": null})));
    assert_eq!((nameless.status, &nameless.body["display_name"]), (200, &json!("")));
    let plain =
        json!({"codecs": null, "srtp": null, "max_contacts": null, "ring_timeout_ms": null});
    let plain = api.api("PATCH", "/users/1003", Some(plain));
    assert_eq!(plain.status, 200, "{}", plain.text);
    assert_eq!((&plain.body["codecs"], &plain.body["srtp"]), (&json!([]), &json!("off")));
    for field in ["password", "enabled"] {
        let refused = api.api("PATCH", "/users/1003", Some(json!({ field: null })));
        assert_problem(&refused, 422, field);
        assert_eq!(refused.body["errors"][0]["pointer"], format!("/{field}"));
    }
    let nameless = plain;
    let same = api.api("PATCH", "/users/1003", Some(json!({})));
    assert_eq!(same.body, nameless.body, "nothing was asked");
    assert_eq!(same.headers["etag"], nameless.headers["etag"]);

    assert_eq!(api.api("DELETE", "/users/1003", None).status, 204);
    assert!(api.was_told("removed 1003"));
    for method in ["GET", "DELETE"] {
        assert_problem(&api.api(method, "/users/1003", None), 404, method);
    }
    assert_problem(&api.api("PATCH", "/users/1003", Some(json!({}))), 404, "PATCH");
}

#[test]
fn lists_come_in_pages() {
    let api = start("pages");
    for extension in ["1001", "1+2", "a.b", "1002", "9"] {
        let made = api.api("POST", "/users", Some(json!({"extension": extension})));
        assert_eq!(made.status, 201, "{}", made.text);
    }
    let mut seen: Vec<String> = Vec::new();
    let mut query = "?limit=2".to_owned();
    loop {
        let page = api.api("GET", &format!("/users{query}"), None);
        assert_eq!(page.status, 200, "{}", page.text);
        let items = page.body["items"].as_array().expect("items").clone();
        seen.extend(items.iter().filter_map(|user| user["extension"].as_str()).map(str::to_owned));
        let Some(cursor) = page.body["next_cursor"].as_str() else { break };
        query = format!("?limit=2&cursor={cursor}");
    }
    assert_eq!(seen, ["1+2", "1001", "1002", "9", "a.b"]);
    for (list, new) in [
        ("/tokens", json!({"name": "till", "role": "cdr"})),
        ("/webhooks", json!({"url": "http://127.0.0.1:9/"})),
    ] {
        let made = [(); 3].map(|()| api.api("POST", list, Some(new.clone())).body["id"].clone());
        let first = api.api("GET", &format!("{list}?limit=2"), None).body;
        let cursor = first["next_cursor"].as_str().expect("there is more");
        let rest = api.api("GET", &format!("{list}?limit=2&cursor={cursor}"), None).body;
        let pages = [&first, &rest].map(|page| page["items"].as_array().expect("items"));
        let seen: Vec<&Value> = pages.into_iter().flatten().map(|item| &item["id"]).collect();
        assert!(pages[0].len() == 2 && rest["next_cursor"].is_null(), "{list}: {first} {rest}");
        assert!(seen.len() == 3 && made.iter().all(|id| seen.contains(&id)), "{list}: {seen:?}");
    }
    for query in ["limit=0", "limit=1001", "limit=x", "cursor=zz", "limt=1", "limit=1&limit=2"] {
        assert_problem(&api.api("GET", &format!("/users?{query}"), None), 400, query);
    }
}

#[test]
fn every_failure_is_a_problem() {
    let api = start("problems");
    let token = format!("Bearer {TOKEN}");
    let json_type = ("Content-Type", "application/json");
    for given in [None, Some("Bearer wrong"), Some("Basic eDp5"), Some("Bearer")] {
        let headers: Vec<_> = given.iter().map(|value| ("Authorization", *value)).collect();
        for path in ["/api/v1/users", "/api/v1/nothing", "/api/v1/users/import"] {
            let answer = api.send("GET", path, &headers, "");
            assert_problem(&answer, 401, path);
            assert!(
                answer.headers["www-authenticate"].to_str().is_ok_and(|v| v.starts_with("Bearer"))
            );
        }
    }
    for (method, path, status) in [
        ("GET", "/nothing", 404),
        ("GET", "/api/v1", 404),
        ("GET", "/api/v1/nothing", 404),
        ("GET", "/api/v1/users/a%00b", 404),
        ("GET", "/api/v1/users/%ff", 404),
        ("GET", "/api/v1/calls/x", 404),
        ("DELETE", "/api/v1/registrations/none", 404),
        ("GET", "/api/v1/nodes/none", 404),
        ("POST", "/api/v1/nodes/none/drain", 404),
        ("PUT", "/api/v1/users", 405),
        ("DELETE", "/api/v1/users", 405),
        ("POST", "/live", 405),
        ("POST", "/api/v1/openapi.json", 405),
        ("GET", "/api/v1/users/import", 405),
        ("GET", "/api/v1/calls?state=unknown", 400),
        ("GET", "/api/v1/cdrs?since=yesterday", 400),
        ("GET", "/api/v1/cdrs?after=99999999999999999999", 400),
        ("GET", "/api/v1/cdrs?after=18446744073709551615", 400),
        ("GET", "/api/v1/registrations?extension=%00", 400),
        ("DELETE", "/api/v1/calls/01920000-0000-7000-8000-000000000001?reason=a%0d%0ab", 400),
    ] {
        let answer = api.send(method, path, &[("Authorization", token.as_str())], "");
        assert_problem(&answer, status, path);
        assert_eq!(answer.headers.contains_key("allow"), status == 405, "{path}");
    }
    let auth = ("Authorization", token.as_str());
    let big = format!("{{\"extension\":\"{}\"}}", "x".repeat(2_000_000));
    for (headers, body, status) in [
        (vec![auth, json_type], "{", 400),
        (vec![auth, json_type], "", 400),
        (vec![auth, json_type], "{\"extension\":\"1\"} x", 400),
        (vec![auth, json_type], "[]", 422),
        (vec![auth, json_type], "{}", 422),
        (vec![auth], "{}", 415),
        (vec![auth, ("Content-Type", "text/plain")], "{}", 415),
        (vec![auth, json_type], big.as_str(), 413),
    ] {
        let answer = api.send("POST", "/api/v1/users", &headers, body);
        assert_problem(&answer, status, &body[..body.len().min(40)]);
    }
}

#[test]
fn wrong_fields_are_pointed_at() {
    let api = start("fields");
    for (body, pointer) in [
        (json!({"extension": "a b"}), "/extension"),
        (json!({"extension": 5}), "/extension"),
        (json!({"extension": "import"}), "/extension"),
        (json!({"password": "long enough"}), "/extension"),
        (json!({"extension": "1", "password": "short"}), "/password"),
        (json!({"extension": "1", "max_calls": 0}), "/max_calls"),
        (json!({"extension": "1", "max_calls": -1}), "/max_calls"),
        (json!({"extension": "1", "codecs": ["opus", "a b"]}), "/codecs/1"),
        (json!({"extension": "1", "codecs": ["opus", 5]}), "/codecs/1"),
        (json!({"extension": "1", "srtp": "maybe"}), "/srtp"),
        (json!({"extension": "1", "display_name": "a\u{0}b"}), "/display_name"),
        (json!({"extension": "1", "colour": "red"}), "/colour"),
    ] {
        let answer = api.api("POST", "/users", Some(body.clone()));
        assert_problem(&answer, 422, &body.to_string());
        assert_eq!(answer.body["errors"][0]["pointer"], pointer, "{body}: {}", answer.text);
    }
    let two = api.api("POST", "/users", Some(json!({"extension": "", "max_contacts": 0})));
    assert_eq!(two.body["errors"].as_array().map(Vec::len), Some(2), "all at once: {}", two.text);
}

#[test]
fn ten_thousand_users_come_in_by_csv() {
    let api = start("import");
    let mut csv = "\u{feff}extension,password,display_name\r\n".to_owned();
    for number in 0..10_000 {
        csv += &format!("{},pw-{number}-secret,\"User, {number}\"\r\n", 20_000 + number);
    }
    let dry = api.import("?dry_run=true", &csv);
    assert_eq!((dry.status, &dry.body["created"]), (200, &json!(10_000)), "{}", dry.text);
    assert!(!api.was_told("UsersImported"));
    let done = api.import("", &csv);
    let expected = json!({"created": 10_000, "updated": 0, "skipped": 0, "failed": []});
    assert_eq!((done.status, done.body), (200, expected));
    assert!(api.was_told("UsersImported"));
    assert_eq!(api.api("GET", "/users/29999", None).body["display_name"], "User, 9999");

    let skipped = api.import("?on_conflict=skip", &csv);
    assert_eq!(skipped.body["skipped"], 10_000, "{}", skipped.text);
    let patched = api.api("PATCH", "/users/20000", Some(json!({"max_calls": 3})));
    assert_eq!(patched.status, 200);
    let few = "extension,password\n20000,new-password\n20001,new-password\n";
    let updated = api.import("?on_conflict=update", few);
    assert_eq!((&updated.body["updated"], &updated.body["created"]), (&json!(2), &json!(0)));
    let kept = api.api("GET", "/users/20000", None).body;
    assert_eq!((&kept["display_name"], &kept["max_calls"]), (&json!("User, 0"), &json!(3)));
}

#[test]
fn wrong_lines_fail_alone() {
    let api = start("lines");
    let csv = "extension,password\n1001,good-password\n1 2,good-password\n1003,short\n\n\
               1001,good-password\n1004\n1005,\"two\nlines-are-wrong\"\n1006,good-password\n";
    let done = api.import("", csv);
    assert_eq!(done.body["created"], 2, "{}", done.text);
    let failed: Vec<(u64, &str)> = done.body["failed"]
        .as_array()
        .expect("failed")
        .iter()
        .map(|one| (one["line"].as_u64().unwrap_or(0), one["field"].as_str().unwrap_or("")))
        .collect();
    let expected =
        [(3, "extension"), (4, "password"), (6, "extension"), (7, "line"), (8, "password")];
    assert_eq!(failed, expected, "{}", done.text);
    let dos = api.import("", "extension,password\r\n\r\n2001,good-password\r\n2002,x");
    assert_eq!((&dos.body["failed"][0]["line"], &dos.body["created"]), (&json!(4), &json!(1)));
    let again = api.import("?on_conflict=fail", "extension,password\n1001,good-password\n");
    assert_eq!(again.body["failed"][0]["detail"], "exists already");

    for (query, csv, status) in [
        ("", "name,password\nx,y\n", 422),
        ("", "", 422),
        ("", "extension,extension,password\n", 422),
        ("?on_conflict=maybe", "extension,password\n", 400),
        ("?dry_run=maybe", "extension,password\n", 400),
    ] {
        assert_problem(&api.import(query, csv), status, csv);
    }
    let endless = format!("extension,password\n1,\"{}", "x".repeat(300_000));
    assert_problem(&api.import("", &endless), 422, "a line without end");
    let token = format!("Bearer {TOKEN}");
    let headers = [("Authorization", token.as_str()), ("Content-Type", "application/json")];
    let wrong_type = api.send("POST", "/api/v1/users/import", &headers, "{}");
    assert_problem(&wrong_type, 415, "import of JSON");
}

#[test]
fn a_body_that_breaks_off_makes_nobody() {
    let api = start("broken");
    let mut stream = TcpStream::connect(&api.address).expect("connected");
    let head = format!(
        "POST /api/v1/users/import HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\
         Content-Type: text/csv\r\nContent-Length: 1000\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).expect("sent");
    stream.write_all(b"extension,password\n1001,good-password\n1002,half-a-pass").expect("sent");
    stream.shutdown(std::net::Shutdown::Write).expect("shut");
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_problem(&api.api("GET", "/users/1002", None), 404, "half a line");
}

#[test]
fn calls_and_nodes_are_the_workers() {
    let api = start("worker");
    let calls = api.api("GET", "/calls?state=confirmed", None);
    assert_eq!(calls.body["items"][0]["id"], CALL, "{}", calls.text);
    assert!(calls.body["next_cursor"].is_null());
    assert!(api.was_told("calls Some(\"confirmed\")"));
    assert_eq!(api.api("GET", &format!("/calls/{}", CALL.to_uppercase()), None).status, 200);
    let hung_up = api.api("DELETE", &format!("/calls/{CALL}?reason=end%20of%20day"), None);
    assert_eq!(hung_up.status, 202);
    assert!(api.was_told("hangup Some(\"end of day\")"));
    let unknown = CALL.replace('1', "2");
    assert_problem(&api.api("GET", &format!("/calls/{unknown}"), None), 404, "unknown call");
    assert_problem(&api.api("DELETE", &format!("/calls/{unknown}"), None), 404, "unknown call");

    assert_eq!(api.api("GET", "/registrations", None).body["items"], json!([]));
    assert_eq!(api.api("DELETE", "/registrations/r1", None).status, 204);
    assert_eq!(api.api("GET", "/cdrs?disposition=answered", None).body["items"], json!([]));

    assert_eq!(api.api("GET", "/nodes", None).body["items"][0]["name"], "test-1");
    assert_eq!(api.api("GET", "/nodes/test-1", None).status, 200);
    let drained = api.api("POST", "/nodes/test-1/drain", Some(json!({"end_calls": true})));
    assert_eq!(drained.status, 202, "{}", drained.text);
    assert!(api.was_told("drain test-1 true true"));
    assert_eq!(api.api("POST", "/nodes/test-1/drain", None).status, 202, "a body is not needed");
    assert!(api.was_told("drain test-1 true false"));
    assert_eq!(api.api("POST", "/nodes/test-1/undrain", None).status, 202);
    assert!(api.was_told("drain test-1 false false"));
    let wrong = api.api("POST", "/nodes/test-1/drain", Some(json!({"end": true})));
    assert_problem(&wrong, 422, "drain");
}

/// What the node tells of itself, without where and when.
fn told_here(event: &Value) -> Value {
    let mut event = event.clone();
    let fields = event.as_object_mut().expect("an object");
    assert_eq!(fields.remove("node"), Some(json!("test-1")), "{fields:?}");
    let at = fields.remove("at").and_then(|at| at.as_str().map(str::to_owned)).expect("a time");
    assert!(at.ends_with('Z'), "{at}");
    event
}

#[test]
fn events_begin_with_what_is_and_go_on_with_what_comes() {
    let api = start("events");
    let watching = api.watch("");
    let [first] = &watching.came()[..] else { panic!("one snapshot") };
    let expect = json!({"type": "snapshot", "id": 0, "last": true, "calls": [{
        "id": CALL, "state": "confirmed", "owner": "test-1", "media_node": null,
        "caller": call()["caller"], "callee": call()["callee"], "takeovers": 0, "hold": "none",
        "parked": "none", "one_way": null, "silent": false,
        "created_at": "2026-01-31T12:00:00.000Z", "ringing_at": null, "answered_at": null,
    }]});
    assert_eq!(told_here(first), expect);
    let told = ["a.b", "a.c", "b.c"].map(|kind| format!(r#"{{"type":"{kind}"}}"#)).to_vec();
    api.commit(told.clone());
    let came = watching.until("b.c", 1);
    check_order(&came);
    let ids: Vec<u64> = came[1..].iter().filter_map(|event| event["id"].as_u64()).collect();
    assert_eq!(ids, [1, 2, 3]);
    // Who comes late, with and without what it saw.
    let late = api.watch("last_event_id=1&types=a.*");
    assert_eq!(late.until("a.c", 1), [json!({"type": "a.c", "id": 2})]);
    let fresh = api.watch("types=b.c&call_id=none");
    let nothing = json!({"type": "snapshot", "id": 3, "last": true, "calls": []});
    assert_eq!(fresh.came().iter().map(told_here).collect::<Vec<_>>(), [nothing]);
    let lost = api.watch("last_event_id=99");
    assert_eq!(told_here(&lost.until("snapshot", 1)[0]), json!({"type": "gap", "id": 3}));
    // All at the same time, and more than the follower keeps ready for one step.
    let many = (0..1_500).map(|at| format!(r#"{{"type":"many","at":{at}}}"#)).collect();
    api.commit(many);
    for reader in [&watching, &lost] {
        let came = reader.until("many", 1_500);
        let many = came.iter().filter(|event| event["type"] == "many");
        assert!(many.enumerate().all(|(at, event)| event["at"] == at), "in their order, once");
    }
    for (query, status) in [("last_event_id=x", 400), ("types=a&wrong=1", 400)] {
        let answer = api.api("GET", &format!("/events?{query}"), None);
        assert_problem(&answer, status, query);
    }
}

#[test]
fn a_reader_of_events_too_many_is_told_so() {
    let api = start("readers");
    let mut readers: Vec<_> = (0..64).map(|_| api.watch("")).collect();
    assert_problem(&api.api("GET", "/events", None), 429, "one too many");
    readers.truncate(63);
    api.commit(vec![r#"{"type":"any"}"#.to_owned()]);
    // The place is free when the server knows that the reader is gone.
    eventually("the place is free again", SOON * 3, || {
        api.commit(vec![r#"{"type":"any"}"#.to_owned()]);
        (api.status_of_events() == 200).then_some(())
    });
}

#[test]
fn tokens_do_what_their_role_says_and_changes_are_in_the_log() {
    let api = start("tokens");
    let make = |role: &str| {
        let made = api.api("POST", "/tokens", Some(json!({"name": role, "role": role})));
        assert_eq!(made.status, 201, "{}", made.text);
        made.body
    };
    let send = |token: &Value, method: &str, path: &str| {
        let token = format!("Bearer {}", token["token"].as_str().expect("shown once"));
        api.send(method, &format!("/api/v1{path}"), &[("Authorization", &token)], "").status
    };
    let [operator, readonly, cdr] = ["operator", "readonly", "cdr"].map(make);
    for (token, method, path, status) in [
        (&operator, "GET", "/calls", 200),
        (&operator, "POST", "/nodes/test-1/undrain", 202),
        (&operator, "GET", "/tokens", 403),
        (&operator, "DELETE", "/users/1001", 403),
        (&readonly, "GET", "/users", 200),
        (&readonly, "DELETE", "/registrations/r1", 403),
        (&cdr, "GET", "/cdrs", 200),
        (&cdr, "GET", "/calls", 403),
    ] {
        assert_eq!(send(token, method, path), status, "{} {method} {path}", token["role"]);
    }
    let listed = api.api("GET", "/tokens", None);
    let items = listed.body["items"].as_array().expect("items");
    assert_eq!(items.len(), 3, "{}", listed.text);
    assert!(items.iter().all(|item| item["token"].is_null() && !item["last_used_at"].is_null()));
    let id = readonly["id"].as_str().expect("an id");
    assert_eq!(api.api("DELETE", &format!("/tokens/{id}"), None).status, 204);
    assert_eq!(api.api("DELETE", &format!("/tokens/{id}"), None).status, 404);
    eventually("the token is good no more", SOON, || {
        (send(&readonly, "GET", "/users") == 401).then_some(())
    });
    let wrong = api.api("POST", "/tokens", Some(json!({"name": "", "role": "admin"})));
    assert_problem(&wrong, 422, "no name");
    assert_problem(
        &api.api("POST", "/tokens", Some(json!({"name": "x", "role": "y"}))),
        422,
        "role",
    );
    let log = api.api("GET", "/audit?limit=4", None);
    let lines = log.body["items"].as_array().expect("items").iter();
    let lines: Vec<String> = lines
        .map(|line| {
            format!("{} {} {} {}", line["name"], line["method"], line["path"], line["status"])
        })
        .collect();
    let delete = format!("\"admin token\" \"DELETE\" \"/tokens/{id}\"");
    let post = "\"admin token\" \"POST\" \"/tokens\" 422".to_owned();
    let deleted = [404, 204].map(|status| format!("{delete} {status}"));
    assert_eq!(lines, [&[post.clone(), post], &deleted[..]].concat());
    let cursor = log.body["next_cursor"].as_str().expect("more");
    let rest = api.api("GET", &format!("/audit?cursor={cursor}"), None);
    assert_eq!(rest.body["items"].as_array().map(Vec::len), Some(6), "{}", rest.text);
    assert!(!rest.text.contains("hf_"), "no token is in the log");
}

#[test]
fn of_a_token_its_hash_is_kept() {
    let api = start("tokens-at-rest");
    let made = api.api("POST", "/tokens", Some(json!({"name": "the till", "role": "cdr"})));
    let token = made.body["token"].as_str().expect("shown once");
    let bearer = format!("Bearer {token}");
    let used = api.send("GET", "/api/v1/cdrs", &[("Authorization", &bearer)], "");
    assert_eq!((made.status, used.status), (201, 200), "{}", made.text);
    assert!(api.holds(b"the till") && api.holds(&Sha256::digest(token)[..]));
    let digits = token.trim_start_matches("hf_");
    let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).expect("digits");
    let secret: Vec<u8> = (0..digits.len()).step_by(2).map(byte).collect();
    assert_eq!(secret.len(), 24);
    assert!(!api.holds(digits.as_bytes()) && !api.holds(&secret), "it is nowhere else");
}

#[test]
fn health_is_told_without_a_token() {
    let api = start("health");
    let get = |path: &str| api.send("GET", path, &[], "");
    assert_eq!(get("/live").status, 200);
    let degraded = get("/ready");
    assert_eq!(degraded.body, json!({"status": "degraded", "reasons": ["journal"]}));
    assert_eq!(get("/ready").body["status"], "ready");
    let draining = get("/health");
    assert_eq!((draining.status, &draining.body["status"]), (503, &json!("draining")));
    let metrics = get("/metrics").text;
    for line in ["holdfast_ready 0", "holdfast_registrations 7", "# EOF"] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
    api.admin.set_phase(Phase::Starting("the database is not there yet".to_owned()));
    let starting = get("/ready");
    assert_eq!((starting.status, &starting.body["status"]), (503, &json!("starting")));
}

#[test]
fn a_node_that_starts_or_hangs_is_503() {
    let admin = Admin::new("test-1", "both", TOKEN, Telemetry::new(Personal::Show));
    let api = start("hangs");
    let listener = admin::bind_shared("127.0.0.1:0".parse().expect("an address")).expect("bound");
    let server = Server::start(listener, admin::router(&admin)).expect("served");
    let url = format!("http://{}", server.address);
    let request = api.agent.get(format!("{url}/api/v1/users"));
    let request = request.header("Authorization", format!("Bearer {TOKEN}"));
    let response = request.call().expect("an answer");
    assert_eq!(response.status(), 503);
    assert_eq!(response.headers()["retry-after"], "5");
    server.stop();
    // A worker that is gone.
    let store_url = format!("sqlite:{}", api.directory.join("other.db").display());
    let store = api.runtime.block_on(Store::connect(&store_url)).expect("a store");
    let (operator, commands) = Operator::channel();
    drop(commands);
    admin.set_services(services(store, operator));
    admin.set_phase(Phase::Running);
    let listener = admin::bind_shared("127.0.0.1:0".parse().expect("an address")).expect("bound");
    let server = Server::start(listener, admin::router(&admin)).expect("served");
    let url = format!("http://{}", server.address);
    let request = api.agent.get(format!("{url}/api/v1/calls"));
    let request = request.header("Authorization", format!("Bearer {TOKEN}"));
    assert_eq!(request.call().expect("an answer").status(), 503);
    assert_eq!(api.agent.get(format!("{url}/ready")).call().expect("an answer").status(), 503);
    server.stop();
}

#[test]
fn the_api_describes_itself() {
    let api = start("openapi");
    let document = api.send("GET", "/api/v1/openapi.json", &[], "").body;
    assert!(document["openapi"].as_str().is_some_and(|version| version.starts_with("3.1")));
    let operations = [
        ("/api/v1/users", "get post"),
        ("/api/v1/users/{extension}", "get patch delete"),
        ("/api/v1/users/import", "post"),
        ("/api/v1/registrations", "get"),
        ("/api/v1/registrations/{id}", "delete"),
        ("/api/v1/registrations/{id}/check-sync", "post"),
        ("/api/v1/calls", "get"),
        ("/api/v1/calls/{id}", "get delete"),
        ("/api/v1/calls/{id}/ladder", "get"),
        ("/api/v1/calls/{id}/pcap", "get"),
        ("/api/v1/calls/{id}/quality", "get"),
        ("/api/v1/cdrs", "get"),
        ("/api/v1/cdrs/{id}", "get"),
        ("/api/v1/events", "get"),
        ("/api/v1/tokens", "get post"),
        ("/api/v1/tokens/{id}", "delete"),
        ("/api/v1/audit", "get"),
        ("/api/v1/webhooks", "get post"),
        ("/api/v1/webhooks/{id}", "get patch delete"),
        ("/api/v1/webhooks/{id}/deliveries", "get"),
        ("/api/v1/webhooks/{id}/resend", "post"),
        ("/api/v1/nodes", "get"),
        ("/api/v1/nodes/{name}", "get"),
        ("/api/v1/nodes/{name}/drain", "post"),
        ("/api/v1/nodes/{name}/undrain", "post"),
        ("/live", "get"),
        ("/ready", "get"),
        ("/health", "get"),
        ("/metrics", "get"),
    ];
    for (path, methods) in operations {
        for method in methods.split(' ') {
            let operation = &document["paths"][path][method];
            assert!(operation["operationId"].is_string(), "{method} {path}");
            if path.starts_with("/api/") {
                let unauthorized = &operation["responses"]["401"]["content"];
                assert!(unauthorized["application/problem+json"].is_object(), "{method} {path}");
            }
        }
    }
    assert_eq!(document["components"]["securitySchemes"]["token"]["scheme"], "bearer");
    let mut ids: Vec<String> = Vec::new();
    let mut references: Vec<String> = Vec::new();
    visit(&document, &mut ids, &mut references);
    for reference in references {
        let pointer = reference.trim_start_matches('#');
        assert!(document.pointer(pointer).is_some(), "{reference} names nothing");
    }
    let count = ids.len();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), count, "operation ids are unique: {ids:?}");
}

fn visit(value: &Value, ids: &mut Vec<String>, references: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                match (key.as_str(), value) {
                    ("operationId", Value::String(id)) => ids.push(id.clone()),
                    ("$ref", Value::String(reference)) => references.push(reference.clone()),
                    _ => visit(value, ids, references),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| visit(item, ids, references)),
        _ => {}
    }
}
