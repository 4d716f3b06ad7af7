//! Every route that may change something leaves its line in the audit log, whatever came of it: the routes are those of
//! the served OpenAPI document, so one that is added is asked for too.

use super::{Api, TOKEN, start};
use serde_json::{Value, json};

const CHANGING: [&str; 4] = ["post", "put", "patch", "delete"];

/// Method and path of each, with something in place of parameters.
fn routes(api: &Api) -> Vec<(String, String)> {
    let document = api.send("GET", "/api/v1/openapi.json", &[], "").body;
    let paths = document["paths"].as_object().expect("paths").clone();
    let below = paths.into_iter().filter_map(|(path, item)| {
        let path = path.strip_prefix("/api/v1")?.to_owned();
        let own: Vec<String> = CHANGING
            .iter()
            .filter(|method| !item[**method].is_null())
            .map(|one| one.to_uppercase())
            .collect();
        let given = path.split('/').map(|part| if part.starts_with('{') { "1001" } else { part });
        let given = given.collect::<Vec<_>>().join("/");
        Some(own.into_iter().map(move |method| (method, given.clone())))
    });
    below.flatten().collect()
}

fn newest(api: &Api) -> Vec<Value> {
    let log = api.api("GET", "/audit?limit=1000", None);
    assert_eq!(log.status, 200, "{}", log.text);
    log.body["items"].as_array().expect("a list").clone()
}

#[test]
fn every_route_that_may_change_something_is_in_the_log_with_its_outcome() {
    let api = start("audit-routes");
    let readonly = json!({"name": "reader", "role": "readonly"});
    let made = api.api("POST", "/tokens", Some(readonly)).body;
    let reader = format!("Bearer {}", made["token"].as_str().expect("a token"));
    let admin = format!("Bearer {TOKEN}");
    let routes = routes(&api);
    assert!(routes.len() > 20, "routes that change something: {routes:?}");
    let before = newest(&api).len();
    let mut expect = Vec::new();
    // Done or refused by what it asks for, not allowed, and broken before anything reads it.
    for (bearer, name, body) in
        [(&admin, "admin token", "{}"), (&reader, "reader", "{}"), (&admin, "admin token", "{")]
    {
        for (method, path) in &routes {
            let headers =
                [("Authorization", bearer.as_str()), ("Content-Type", "application/json")];
            let answer = api.send(method, &format!("/api/v1{path}?x=1"), &headers, body);
            if name == "reader" {
                assert_eq!(answer.status, 403, "{method} {path}");
            }
            expect.push(json!([name, method, format!("{path}?x=1"), answer.status]));
        }
    }
    // What is at no address, or not by that method, is tried all the same.
    for (method, path) in [("POST", "/nothing"), ("PUT", "/users/1001")] {
        let headers = [("Authorization", admin.as_str())];
        let status = api.send(method, &format!("/api/v1{path}"), &headers, "").status;
        expect.push(json!(["admin token", method, path, status]));
    }
    let mut lines = newest(&api);
    lines.truncate(lines.len() - before);
    lines.reverse();
    let told = lines
        .iter()
        .map(|line| json!([line["name"], line["method"], line["path"], line["status"]]));
    assert_eq!(told.collect::<Vec<_>>(), expect);
}

/// Who made what, from where: without what is secret in it, and without more of it than a line should have.
#[test]
fn a_line_tells_what_was_asked_and_made_without_secrets() {
    let api = start("audit-content");
    let new = json!({"extension": "4711", "password": "correct horse", "display_name": "Ada"});
    assert_eq!(api.api("POST", "/users", Some(new)).status, 201);
    let line = &newest(&api)[0];
    assert_eq!(line["made"], "/users/4711", "{line}");
    assert_eq!(line["source"], "127.0.0.1", "{line}");
    assert_eq!(
        line["asked"],
        json!({"extension": "4711", "password": "***", "display_name": "Ada"}),
        "{line}"
    );
    let codecs: Vec<String> = (0..2_000).map(|at| format!("codec{at}")).collect();
    api.api("PATCH", "/users/4711", Some(json!({"codecs": codecs})));
    assert_eq!(newest(&api)[0]["asked"], json!({"codecs": null}), "only the name of a long one");
    assert_eq!(api.api("DELETE", "/users/4711", None).status, 204);
    let line = &newest(&api)[0];
    assert_eq!((&line["made"], &line["asked"]), (&json!(null), &json!(null)), "{line}");
}

/// Before anything is done: its process may be killed amid it.
#[test]
fn a_line_is_there_while_nobody_knows_the_outcome_yet() {
    let api = start("audit-begun");
    let wish = json!({"from": "1001", "to": "1002"});
    let hold = api.calls_wait();
    let begun = std::thread::scope(|scope| {
        let asking = scope.spawn(|| api.api("POST", "/calls", Some(wish.clone())));
        api.is_asked("originate");
        let begun = newest(&api);
        drop(hold);
        assert_eq!(asking.join().expect("no panic").status, 202);
        begun
    });
    let [begun] = &begun[..] else { panic!("one line: {begun:#?}") };
    assert_eq!((&begun["path"], &begun["status"]), (&json!("/calls"), &json!(0)), "{begun}");
    assert_eq!(begun["asked"], wish, "{begun}");
    let ended = newest(&api);
    let [ended] = &ended[..] else { panic!("the same line: {ended:#?}") };
    assert_eq!((&ended["sequence"], &ended["status"]), (&begun["sequence"], &json!(202)));
    assert!(ended["made"].as_str().is_some_and(|path| path.starts_with("/calls/")), "{ended}");
}
