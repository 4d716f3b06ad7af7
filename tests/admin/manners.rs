//! What a client may rely on beside what it asks for: a repeated request is done once, a change is of what was seen,
//! who asks too often is told when to come again, and a mistake in a query is pointed at.

use super::{Answer, Api, TOKEN, assert_problem, start};
use holdfast::admin::{self, Admin, Server};
use holdfast::operator::Operator;
use holdfast::telemetry::{Personal, Telemetry};
use serde_json::{Value, json};
use std::io::{ErrorKind, Read as _, Write as _};
use std::time::Duration;

fn with(api: &Api, method: &str, path: &str, header: (&str, &str), body: &Value) -> Answer {
    let token = format!("Bearer {TOKEN}");
    let json_type = ("Content-Type", "application/json");
    let headers = [("Authorization", token.as_str()), json_type, header];
    api.send(method, &format!("/api/v1{path}"), &headers, &body.to_string())
}

fn keyed(api: &Api, key: &str, path: &str, body: &Value) -> Answer {
    with(api, "POST", path, ("Idempotency-Key", key), body)
}

#[test]
fn a_repeated_request_is_done_once_and_answered_alike() {
    let api = start("idempotency");
    let anna = json!({"extension": "1003", "display_name": "Anna"});
    let first = keyed(&api, "one", "/users", &anna);
    let again = keyed(&api, "one", "/users", &anna);
    assert_eq!((first.status, again.status), (201, 201), "{}", again.text);
    assert_eq!(first.text, again.text, "the password too: it is nowhere else");
    for header in ["location", "etag", "content-type"] {
        assert_eq!(first.headers[header], again.headers[header], "{header}");
    }
    assert!(!first.headers.contains_key("idempotency-replayed"));
    assert_eq!(again.headers["idempotency-replayed"], "true");
    let without = api.api("POST", "/users", Some(anna.clone()));
    assert_problem(&without, 409, "without a key it is another request");
    let password = first.body["password"].as_str().expect("a password").as_bytes();
    assert!(api.holds(b"Anna") && !api.holds(password), "what is kept is sealed");

    assert_problem(&keyed(&api, "one", "/users", &json!({"extension": "1004"})), 422, "other body");
    assert_problem(&keyed(&api, "one", "/tokens", &anna), 422, "another address");
    assert_eq!(keyed(&api, "two", "/users", &json!({"extension": "1004"})).status, 201);
    // A mistake stays one.
    for _ in 0..2 {
        assert_problem(&keyed(&api, "three", "/users", &json!({"extension": ""})), 422, "wrong");
    }
    for key in ["", "a b", &"x".repeat(129)] {
        assert_problem(&keyed(&api, key, "/users", &anna), 400, key);
    }
    // Another token's keys are its own.
    let made = api.api("POST", "/tokens", Some(json!({"name": "other", "role": "admin"})));
    let other = format!("Bearer {}", made.body["token"].as_str().expect("a token"));
    let headers = [
        ("Authorization", &*other),
        ("Content-Type", "application/json"),
        ("Idempotency-Key", "one"),
    ];
    let body = json!({"extension": "1005"}).to_string();
    assert_eq!(api.send("POST", "/api/v1/users", &headers, &body).status, 201);
    // An import is read whole for it.
    let csv =
        [("Authorization", &*other), ("Content-Type", "text/csv"), ("Idempotency-Key", "csv")];
    let lines = "extension,password\n2001,correct-horse\n";
    for _ in 0..2 {
        let done = api.send("POST", "/api/v1/users/import", &csv, lines);
        assert_eq!((done.status, &done.body["created"]), (200, &json!(1)), "{}", done.text);
    }
    // An answer as long as this is told without its body.
    let long = [("Authorization", &*other), csv[1], ("Idempotency-Key", "long")];
    let lines = format!("extension,password\n{}", "wrong,\n".repeat(1_500));
    let [first, again] = [(), ()].map(|()| api.send("POST", "/api/v1/users/import", &long, &lines));
    assert!(first.status == 200 && first.text.len() > 64 * 1024, "{}", first.text.len());
    assert_eq!((again.status, &*again.text, &*again.kind), (200, "", ""));
    assert_eq!(again.headers["idempotency-replayed"], "true");
    let big = format!("extension,password\n{}", "x".repeat(1_100_000));
    assert_problem(&api.send("POST", "/api/v1/users/import", &csv, &big), 413, "a large import");
}

#[test]
fn two_at_once_make_one_call_and_an_answer_that_says_later_is_not_kept() {
    let api = start("at-once");
    let wish = json!({"from": "1001", "to": "1002"});
    // The worker takes its time.
    let hold = api.calls_wait();
    std::thread::scope(|scope| {
        let first = scope.spawn(|| keyed(&api, "call", "/calls", &wish));
        api.is_asked("originate");
        let second = keyed(&api, "call", "/calls", &wish);
        assert_problem(&second, 409, "it is under way");
        drop(hold);
        assert_eq!(first.join().expect("no panic").status, 202);
    });
    let replayed = keyed(&api, "call", "/calls", &wish);
    assert_eq!((replayed.status, api.times_told("originate")), (202, 1), "{}", replayed.text);
    // Refused for now.
    let later = json!({"from": "later", "to": "1002"});
    for times in 2..4 {
        assert_problem(&keyed(&api, "later", "/calls", &later), 503, "not now");
        assert_eq!(api.times_told("originate"), times, "it was tried again");
    }
    // Not answered: it may have been done, so it is not done again.
    let lost = json!({"from": "lost", "to": "1002"});
    assert_problem(&keyed(&api, "lost", "/calls", &lost), 503, "no answer");
    for _ in 0..2 {
        assert_problem(&keyed(&api, "lost", "/calls", &lost), 409, "nobody knows");
    }
    assert_eq!(api.times_told("originate"), 4);
}

#[test]
fn who_hangs_up_does_not_stop_what_was_begun() {
    let api = start("hangs-up");
    let wish = json!({"from": "1001", "to": "1002"});
    // One at a time, so that the worker has seen each before the next is sent.
    for (times, key) in ["Idempotency-Key: gone\r\n", ""].into_iter().enumerate() {
        let hold = api.calls_wait();
        send_and_go(&api, key, &wish.to_string(), times + 1);
        drop(hold);
        super::eventually("it is in the audit log", super::SOON, || {
            let log = api.api("GET", "/audit", None).body;
            let lines = log["items"].as_array().expect("items");
            let its = |line: &&Value| line["path"] == "/calls" && line["status"] == 202;
            (lines.iter().filter(its).count() == times + 1).then_some(())
        });
    }
    let answer = keyed(&api, "gone", "/calls", &wish);
    assert_eq!((answer.status, api.times_told("originate")), (202, 2), "{}", answer.text);
    assert_eq!(answer.headers["idempotency-replayed"], "true");
}

/// Wishes for a call, and hangs up as soon as the worker has heard of so many.
fn send_and_go(api: &Api, header: &str, wish: &str, times: usize) {
    let mut stream = std::net::TcpStream::connect(&api.address).expect("connected");
    let head = format!(
        "POST /api/v1/calls HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n{header}\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{wish}",
        wish.len()
    );
    stream.write_all(head.as_bytes()).expect("sent");
    super::eventually("the worker is asked", super::SOON, || {
        (api.times_told("originate") == times).then_some(())
    });
}

#[test]
fn a_change_is_of_what_was_seen() {
    let api = start("etag");
    let user = ("/users", json!({"extension": "1003"}), json!({"display_name": "Anna"}));
    let hook = (
        "/webhooks",
        json!({"url": "http://127.0.0.1:9/"}),
        json!({"description": "for the till"}),
    );
    for (list, new, change) in [user, hook] {
        let made = api.api("POST", list, Some(new));
        let path = made.headers["location"].to_str().expect("text").replace("/api/v1", "");
        let tag = |answer: &Answer| answer.headers["etag"].to_str().expect("text").to_owned();
        let first = tag(&made);
        assert_eq!(tag(&api.api("GET", &path, None)), first);
        for (seen, status) in [("\"other\"", 412), (&*format!("W/{first}"), 412), (&*first, 200)] {
            let done = with(&api, "PATCH", &path, ("If-Match", seen), &change);
            assert_eq!(done.status, status, "{path} {seen}: {}", done.text);
        }
        let now = tag(&api.api("GET", &path, None));
        assert_ne!(now, first);
        let late = with(&api, "DELETE", &path, ("If-Match", &first), &json!(null));
        assert_problem(&late, 412, "it was changed since");
        let any = with(&api, "PATCH", &path, ("If-Match", "*"), &json!({"enabled": false}));
        assert_eq!(any.status, 200, "{}", any.text);
        let list = format!("\"other\", {}", tag(&any));
        assert_eq!(with(&api, "DELETE", &path, ("If-Match", &list), &json!(null)).status, 204);
        let gone = with(&api, "PATCH", &path, ("If-Match", "*"), &change);
        assert_problem(&gone, 404, "gone");
    }
}

#[test]
fn changes_at_the_same_time_are_all_kept() {
    let api = start("both");
    api.api("POST", "/users", Some(json!({"extension": "1003"})));
    let changes = [json!({"display_name": "Anna"}), json!({"max_calls": 3})];
    for _ in 0..20 {
        api.api("PATCH", "/users/1003", Some(json!({"display_name": "", "max_calls": null})));
        std::thread::scope(|scope| {
            for change in &changes {
                let api = &api;
                scope.spawn(move || {
                    assert_eq!(api.api("PATCH", "/users/1003", Some(change.clone())).status, 200);
                });
            }
        });
        let user = api.api("GET", "/users/1003", None).body;
        assert_eq!((&user["display_name"], &user["max_calls"]), (&json!("Anna"), &json!(3)));
    }
}

#[test]
fn who_tries_tokens_is_slowed_down_and_keeps_nobody_out() {
    let mut api = start("wrong-tokens");
    let made = api.api("POST", "/tokens", Some(json!({"name": "x", "role": "readonly"})));
    let other = made.body["token"].as_str().expect("a token");
    // A node that has seen none of them yet.
    let admin = Admin::new("test-2", "both", TOKEN, Telemetry::new(Personal::Show));
    admin.set_services(super::services(api.store.clone(), Operator::channel().0));
    let listener = admin::bind_shared("127.0.0.1:0".parse().expect("an address")).expect("bound");
    let server = Server::start(listener, admin::router(&admin)).expect("served");
    api.url = format!("http://{}", server.address);
    let with = |token: &str| {
        let token = format!("Bearer {token}");
        api.send("GET", "/api/v1/users", &[("Authorization", &token)], "")
    };
    let refused = || {
        let tried = (0..200).find_map(|number| {
            let answer = with(&format!("wrong-{number}"));
            (answer.status != 401).then_some((number, answer))
        });
        tried.expect("a bound")
    };
    let (number, answer) = refused();
    assert!((20..100).contains(&number), "{number}");
    assert_problem(&answer, 429, "too often");
    assert_eq!(answer.headers["retry-after"], "1");
    assert_eq!(with(other).status, 200, "all who try come from one address: a proxy's, say");
    refused();
    assert_eq!(with(TOKEN).status, 200, "nor the admin token");
    refused();
    assert_problem(&api.send("GET", "/api/v1/users", &[], ""), 429, "nor without one");
    let metrics = api.send("GET", "/metrics", &[], "").text;
    assert!(metrics.contains("what=\"requests to the API\""), "{metrics}");
    super::eventually("it may try again", super::SOON, || {
        (with("wrong").status == 401).then_some(())
    });
    server.stop();
}

#[test]
fn a_token_asks_so_often_and_no_more() {
    let api = start("often");
    // Requests of many connections at once, so that it is faster than what a bucket gets a second.
    let slowed = std::sync::atomic::AtomicU32::new(0);
    let many = format!(
        "GET /api/v1/tokens/x HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
    )
    .repeat(100);
    let mut rounds = 0..50;
    while slowed.load(std::sync::atomic::Ordering::Relaxed) == 0 {
        assert!(rounds.next().is_some(), "no bound");
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let answers = pipelined(&api, &many);
                    let count = answers.matches("HTTP/1.1 429").count();
                    let count = u32::try_from(count).expect("few");
                    slowed.fetch_add(count, std::sync::atomic::Ordering::Relaxed);
                });
            }
        });
    }
    super::eventually("it may ask again", super::SOON, || {
        (api.api("GET", "/users", None).status == 200).then_some(())
    });
}

/// Many requests of one connection without a wait between them.
fn pipelined(api: &Api, requests: &str) -> String {
    let mut stream = std::net::TcpStream::connect(&api.address).expect("connected");
    stream.write_all(requests.as_bytes()).expect("sent");
    stream.shutdown(std::net::Shutdown::Write).expect("shut");
    let mut answers = String::new();
    let _ = stream.read_to_string(&mut answers);
    answers
}

#[test]
fn mistakes_in_queries_are_pointed_at() {
    let api = start("queries");
    for (path, pointer) in [
        ("/users?limit=0", "/limit"),
        ("/users?limit=x", "/limit"),
        ("/users?cursor=zz", "/cursor"),
        ("/audit?cursor=61", "/cursor"),
        ("/users?limt=1", "/limt"),
        ("/tokens?limit=0", "/limit"),
        ("/tokens?cursor=zz", "/cursor"),
        ("/tokens?limt=1", "/limt"),
        ("/webhooks?limit=1001", "/limit"),
        ("/webhooks?cursor=zz", "/cursor"),
        ("/webhooks?limt=1", "/limt"),
        ("/users?limit=1&limit=2", "/limit"),
        ("/calls?state=unknown", "/state"),
        ("/registrations?extension=%00", "/extension"),
        ("/cdrs?extension=a%20b", "/extension"),
        ("/cdrs?since=yesterday", "/since"),
        ("/cdrs?after=18446744073709551615", "/after"),
        ("/cdrs?disposition=x", "/disposition"),
    ] {
        let answer = api.api("GET", path, None);
        assert_problem(&answer, 400, path);
        assert_eq!(answer.body["errors"][0]["pointer"], pointer, "{path}: {}", answer.text);
    }
}

#[test]
fn a_phone_looks_for_its_configuration() {
    let api = start("check-sync");
    let plain = api.api("POST", "/registrations/r1/check-sync", None);
    assert_eq!((plain.status, plain.body), (202, json!({"id": "r1", "sip_status": 200})));
    let reboot = json!({"reboot": true});
    let silent = api.api("POST", "/registrations/silent/check-sync", Some(reboot.clone()));
    assert_eq!((silent.status, &silent.body["sip_status"]), (202, &json!(null)));
    assert!(api.was_told("check-sync r1 None") && api.was_told("check-sync silent Some(true)"));
    let gone = api.api("POST", "/registrations/cut/check-sync", Some(reboot));
    assert_problem(&gone, 409, "its connection is gone");
    let none = api.api("POST", "/registrations/none/check-sync", None);
    assert_problem(&none, 404, "no such registration");
    let wrong = api.api("POST", "/registrations/r1/check-sync", Some(json!({"reboot": 1})));
    assert_problem(&wrong, 422, "reboot");
}

/// JSON Schema 2020-12 has it so: an integer is a number without a fraction, however it is written.
#[test]
fn an_integer_may_be_written_with_a_fraction_of_zero() {
    let api = start("integers");
    let user = |body: &str| {
        let token = format!("Bearer {TOKEN}");
        let headers = [("Authorization", token.as_str()), ("Content-Type", "application/json")];
        api.send("POST", "/api/v1/users", &headers, body)
    };
    let made = user(r#"{"extension":"2001","max_contacts":3.0,"ring_timeout_ms":3e4}"#);
    assert_eq!(made.status, 201, "{}", made.text);
    let seen = (&made.body["max_contacts"], &made.body["ring_timeout_ms"]);
    assert_eq!(seen, (&json!(3), &json!(30_000)));
    for (body, pointer) in [
        (r#"{"extension":"2002","max_contacts":3.5}"#, "/max_contacts"),
        (r#"{"extension":"2002","max_contacts":-3.0}"#, "/max_contacts"),
        (r#"{"extension":"2002","max_contacts":1e300}"#, "/max_contacts"),
        (r#"{"extension":2002.0,"max_contacts":3.0}"#, "/extension"),
        (r#"{"extension":"2002","max_contacts":3.0,"max":3.0}"#, "/max"),
    ] {
        let refused = user(body);
        assert_problem(&refused, 422, body);
        assert_eq!(refused.body["errors"][0]["pointer"], pointer, "{}", refused.text);
    }
}

/// Who is answered before it has said all finds a closed connection while it still writes.
#[test]
fn a_request_is_answered_when_all_of_it_was_read() {
    let api = start("whole-requests");
    let mut stream = std::net::TcpStream::connect(&api.address).expect("connected");
    let head = format!(
        "POST /api/v1/nodes/test-1/undrain HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\
         Content-Type: application/json\r\nContent-Length: 2\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).expect("written");
    stream.set_read_timeout(Some(Duration::from_millis(300))).expect("a time");
    let mut answer = [0; 12];
    let early = stream.read(&mut answer).map_err(|error| error.kind());
    assert_eq!(early, Err(ErrorKind::WouldBlock));
    stream.set_read_timeout(None).expect("a time");
    stream.write_all(b"{}").expect("written");
    stream.read_exact(&mut answer).expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 202");
}
