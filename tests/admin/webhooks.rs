//! Webhooks: made and changed by the API, told by a courier on the same store, to real receivers that take, refuse and
//! are slow.

#![allow(clippy::disallowed_methods, reason = "tests live in real time")]

use super::common::receiver::{Post, Receiver};
use super::common::{SOON, eventually};
use super::{Api, assert_problem, start};
use holdfast::admin::webhooks::{Courier, CourierConfig};
use holdfast::ids::{ClusterKey, Incarnation};
use holdfast::net::clock;
use holdfast::net::web::HttpClient;
use holdfast::store::{Delivery, EVENT_LIFE, Settlement};
use holdfast::telemetry::{Personal, Telemetry};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

const AT_ONCE: Duration = Duration::ZERO;

/// Delivers on the store of the API.
struct Working {
    courier: Option<Courier>,
    telemetry: Telemetry,
}

impl Drop for Working {
    fn drop(&mut self) {
        if let Some(courier) = self.courier.take() {
            courier.stop();
        }
    }
}

fn courier(api: &Api, secret: &[u8]) -> Working {
    let telemetry = Telemetry::new(Personal::Show);
    // The log is followed there: it outlives couriers.
    let _inside = api.runtime.enter();
    let config = CourierConfig {
        store: api.store.clone(),
        events: api.admin.events(),
        key: ClusterKey::new(secret),
        node: "courier-1".to_owned(),
        holder: Incarnation(clock::now().as_micros()),
        http: HttpClient::new(Arc::default()),
        telemetry: telemetry.clone(),
    };
    Working { courier: Some(Courier::start(config).expect("a thread")), telemetry }
}

/// Its id and secret.
fn hook(api: &Api, receiver: &Receiver, types: &[&str]) -> (String, String) {
    let made = api.api("POST", "/webhooks", Some(json!({"url": receiver.url(), "types": types})));
    assert_eq!(made.status, 201, "{}", made.text);
    let text = |name: &str| made.body[name].as_str().expect("text").to_owned();
    (text("id"), text("secret"))
}

fn happens(api: &Api, kind: &str, call: &str) {
    api.commit(vec![json!({"type": kind, "call_id": call, "node": "a"}).to_string()]);
}

fn story(taken: &[Value], call: &str) -> Vec<String> {
    let of_call = taken.iter().filter(|event| event["call_id"] == call);
    of_call.map(|event| event["type"].as_str().expect("a type").to_owned()).collect()
}

#[test]
fn webhooks_live() {
    let api = start("webhooks-live");
    let body = json!({"url": "https://example.com/in", "types": ["call.*"], "description": "crm"});
    let made = api.api("POST", "/webhooks", Some(body));
    assert_eq!(made.status, 201, "{}", made.text);
    let secret = made.body["secret"].as_str().expect("shown once");
    assert!(secret.starts_with("whsec_"), "{secret}");
    let path = format!("/webhooks/{}", made.body["id"].as_str().expect("an id"));
    assert_eq!(made.headers["location"], format!("/api/v1{path}"));
    let seen = api.api("GET", &path, None);
    assert_eq!(seen.body["description"], "crm");
    assert!(seen.body.get("secret").is_none() && seen.body["enabled"] == true, "{}", seen.text);
    let bare = secret.trim_start_matches("whsec_").as_bytes();
    assert!(api.holds(b"https://example.com/in") && !api.holds(bare), "it is kept sealed");
    let changed = api.api("PATCH", &path, Some(json!({"enabled": false, "types": []})));
    assert_eq!((changed.status, &changed.body["enabled"]), (200, &json!(false)));
    assert_eq!(changed.body["url"], "https://example.com/in");
    let wrong = [
        (json!({"url": "ftp://example.com"}), "/url"),
        (json!({"url": "https://u:p@example.com"}), "/url"),
        (json!({"url": "https://example.com", "types": ["Call"]}), "/types"),
        (json!({"url": "https://example.com", "description": "x".repeat(129)}), "/description"),
        (json!({"url": "https://example.com", "other": 1}), "/other"),
    ];
    for (body, pointer) in wrong {
        let answer = api.api("POST", "/webhooks", Some(body.clone()));
        assert_problem(&answer, 422, &body.to_string());
        assert_eq!(answer.body["errors"][0]["pointer"], pointer, "{}", answer.text);
    }
    assert_problem(&api.api("GET", "/webhooks/x", None), 404, "no such");
    assert_problem(
        &api.api("POST", &format!("{path}/resend"), Some(json!({"event_id": 1}))),
        404,
        "not dead",
    );
    assert_eq!(api.api("DELETE", &path, None).status, 204);
    assert_eq!(api.api("DELETE", &path, None).status, 404);
    for _ in 0..20 {
        let body = json!({"url": "https://example.com/in", "enabled": false});
        assert_eq!(api.api("POST", "/webhooks", Some(body)).status, 201);
    }
    let more = api.api("POST", "/webhooks", Some(json!({"url": "https://example.com/in"})));
    assert_problem(&more, 409, "more than twenty");
}

#[test]
fn events_are_told_signed_and_in_order() {
    let api = start("webhooks-told");
    happens(&api, "call.created", "before");
    let (all, some) = (Receiver::start(), Receiver::start());
    let (_, secret) = hook(&api, &all, &[]);
    hook(&api, &some, &["call.ended", "node.*"]);
    let working = courier(&api, b"secret of the tests");
    for kind in ["call.created", "call.answered", "call.ended"] {
        ["one", "two", "three"].iter().for_each(|call| happens(&api, kind, call));
    }
    let taken = all.takes(9);
    for call in ["one", "two", "three"] {
        assert_eq!(story(&taken, call), ["call.created", "call.answered", "call.ended"], "{call}");
    }
    assert_eq!(story(&taken, "before"), Vec::<String>::new());
    all.came().iter().for_each(|post| post.check_signature(&secret));
    assert!(some.takes(3).iter().all(|event| event["type"] == "call.ended"));
    // A receiver has an event a moment before its answer is read.
    eventually("all are counted", SOON, || {
        let metrics = working.telemetry.metrics_text();
        metrics.contains("holdfast_webhook_posts_total{outcome=\"taken\"} 12").then_some(())
    });
}

/// More than is told in a round, with what nobody wants between.
#[test]
fn what_comes_at_once_is_told_once_and_in_its_order() {
    const EVENTS: usize = 1_500;
    let api = start("webhooks-many");
    let receiver = Receiver::start();
    hook(&api, &receiver, &["call.*"]);
    let _working = courier(&api, b"secret of the tests");
    happens(&api, "call.created", "first");
    receiver.takes(1);
    let kind = |at: usize| if at % 3 == 2 { "node.up" } else { "call.held" };
    let event = |at: usize| json!({"type": kind(at), "call_id": format!("{}", at % 7), "at": at});
    api.commit((0..EVENTS).map(|at| event(at).to_string()).collect());
    let wanted = EVENTS / 3 * 2;
    receiver.takes(1 + wanted);
    happens(&api, "call.ended", "last");
    let taken = receiver.takes(wanted + 2);
    assert_eq!(receiver.came().len(), wanted + 2, "each once");
    for call in ["0", "1", "2", "3", "4", "5", "6"] {
        let of_call = taken.iter().filter(|event| event["call_id"] == call);
        let came = Vec::from_iter(of_call.filter_map(|event| event["at"].as_u64()));
        assert!(came.is_sorted() && came.len() > 100, "{call}: {came:?}");
    }
}

#[test]
fn a_receiver_that_fails_gets_it_again_and_holds_up_nobody() {
    let api = start("webhooks-fails");
    let (failing, slow, well) = (Receiver::start(), Receiver::start(), Receiver::start());
    // Its first two events of one call are refused, whatever else it takes.
    let refused = std::sync::atomic::AtomicU32::new(0);
    failing.behaves(move |post| {
        let is_one = post.event()["call_id"] == "one";
        let refuses = is_one && refused.fetch_add(1, std::sync::atomic::Ordering::Relaxed) < 2;
        (if refuses { 500 } else { 200 }, AT_ONCE)
    });
    slow.behaves(|_| (200, Duration::from_millis(700)));
    let (id, _) = hook(&api, &failing, &[]);
    hook(&api, &slow, &[]);
    hook(&api, &well, &[]);
    let _working = courier(&api, b"secret of the tests");
    let begin = Instant::now();
    for kind in ["call.created", "call.ended"] {
        ["one", "two"].iter().for_each(|call| happens(&api, kind, call));
    }
    well.takes(4);
    let taken = failing.takes(2);
    assert_eq!(story(&taken, "two"), ["call.created", "call.ended"], "another call goes on");
    assert!(begin.elapsed() < SOON);
    let owed = eventually("what failed is owed", SOON, || {
        let path = format!("/webhooks/{id}/deliveries?state=owed");
        let owed = api.api("GET", &path, None).body["items"].as_array()?.clone();
        (owed.len() == 2).then_some(owed)
    });
    assert_eq!(owed[0]["error"], "the receiver answered 500", "{owed:#?}");
    assert_eq!((&owed[1]["attempts"], &owed[1]["error"]), (&json!(0), &json!(null)), "it waits");
    let taken = failing.takes(4);
    assert_eq!(story(&taken, "one"), ["call.created", "call.ended"]);
    let tries: Vec<Instant> = failing
        .came()
        .iter()
        .filter(|post| post.event()["call_id"] == "one")
        .map(|post| post.at)
        .collect();
    let pauses: Vec<Duration> = tries.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(pauses[0] >= Duration::from_millis(500), "{pauses:?}");
    assert!(pauses[1] >= Duration::from_secs(1), "it waits longer each time: {pauses:?}");
    slow.takes(4);
}

/// However long it takes nothing: what is more stays in the log, and is told when it does again.
#[test]
fn what_is_kept_for_a_receiver_has_a_bound() {
    const BOUND: u64 = 1_000;
    let api = start("webhooks-bound");
    let receiver = Receiver::start();
    receiver.behaves(|_| (503, AT_ONCE));
    let (id, _) = hook(&api, &receiver, &[]);
    let commits = 40;
    for commit in 0..commits {
        let call = |number| format!(r#"{{"type":"call.ended","call_id":"{commit}-{number}"}}"#);
        api.commit((0..50).map(call).collect());
    }
    let _working = courier(&api, b"secret of the tests");
    let owed = || {
        let seen = api.api("GET", &format!("/webhooks/{id}"), None).body;
        seen["owed"].as_u64().expect("a number")
    };
    eventually("the bound is reached", SOON * 3, || (owed() >= BOUND).then_some(()));
    let tried = receiver.came().len();
    eventually("they are tried again", SOON, || {
        assert_eq!(owed(), BOUND);
        (receiver.came().len() > tried + 200).then_some(())
    });
    receiver.behaves(|_| (200, AT_ONCE));
    eventually("all are told", SOON * 6, || {
        let taken = receiver.came().into_iter().filter(|post| post.status == 200);
        let ids: HashSet<String> = taken.map(|post| post.header("webhook-id").to_owned()).collect();
        (ids.len() == commits * 50).then_some(())
    });
    eventually("nothing is owed", SOON, || (owed() == 0).then_some(()));
}

/// The log was over before it came to the receiver.
#[test]
fn what_is_lost_to_a_receiver_is_told_and_counted() {
    let api = start("webhooks-gap");
    happens(&api, "call.created", "before");
    let receiver = Receiver::start();
    let (id, _) = hook(&api, &receiver, &[]);
    happens(&api, "call.ended", "lost");
    let later = clock::now() + EVENT_LIFE + Duration::from_secs(3_600);
    api.runtime.block_on(api.store.sweep(later)).expect("a sweep");
    happens(&api, "call.created", "after");
    let working = courier(&api, b"secret of the tests");
    let taken = receiver.takes(2);
    let types: Vec<&Value> = taken.iter().map(|event| &event["type"]).collect();
    assert_eq!(types, ["gap", "call.created"]);
    let gap = &taken[0];
    assert_eq!(gap["node"], "courier-1", "as every event has: {gap}");
    assert!(gap["at"].as_str().is_some_and(|at| at.ends_with('Z')), "{gap}");
    assert!(gap["id"].as_u64() < taken[1]["id"].as_u64(), "{taken:?}");
    let metrics = working.telemetry.metrics_text();
    assert!(metrics.contains("holdfast_webhook_gaps_total 1"), "{metrics}");
    happens(&api, "call.ended", "after");
    assert_eq!(receiver.takes(3)[2]["type"], "call.ended", "{id}: once");
}

#[test]
fn what_is_given_up_is_listed_and_sent_again() {
    let api = start("webhooks-dead");
    let receiver = Receiver::start();
    receiver.behaves(|_| (503, AT_ONCE));
    let (id, _) = hook(&api, &receiver, &[]);
    // It was tried nineteen times.
    let event = json!({"type": "call.ended", "call_id": "one", "node": "a"});
    let document = json!({"event": event, "attempts": 19}).to_string();
    let owed = Delivery { event: 3, document, due_at: Some(clock::now()) };
    let round = Settlement { cursor: 3, taken: vec![], kept: vec![owed] };
    let settled = async {
        let holder = Incarnation(1);
        let life = Duration::from_secs(60);
        assert!(api.store.take_duty("before", holder, life).await.expect("an answer"));
        api.store.settle_deliveries(("before", holder), &id, &round, 10).await
    };
    assert!(api.runtime.block_on(settled).expect("an answer"));
    let working = courier(&api, b"secret of the tests");
    let path = format!("/webhooks/{id}/deliveries");
    let dead = eventually("it is given up", SOON, || {
        let listed = api.api("GET", &path, None);
        listed.body["items"].as_array()?.first().cloned()
    });
    assert_eq!((&dead["state"], &dead["attempts"]), (&json!("dead"), &json!(20)), "{dead}");
    assert_eq!((&dead["event"], &dead["due_at"]), (&event, &json!(null)));
    eventually("it is counted", SOON, || {
        let metrics = working.telemetry.metrics_text();
        (metrics.contains("holdfast_webhook_events_dead 1")
            && metrics.contains("holdfast_webhook_posts_total{outcome=\"given_up\"} 1"))
        .then_some(())
    });
    receiver.behaves(|_| (200, AT_ONCE));
    let again = api.api("POST", &format!("/webhooks/{id}/resend"), None);
    assert_eq!((again.status, &again.body["events"]), (202, &json!(1)), "{}", again.text);
    assert_eq!(receiver.takes(1)[0]["type"], "call.ended");
    eventually("nothing is owed", SOON, || {
        let seen = api.api("GET", &format!("/webhooks/{id}"), None).body;
        (seen["dead"] == 0 && seen["owed"] == 0).then_some(())
    });
}

#[test]
fn a_courier_that_was_stopped_goes_on_where_it_was() {
    let api = start("webhooks-again");
    let receiver = Receiver::start();
    let (id, secret) = hook(&api, &receiver, &[]);
    let first = courier(&api, b"secret of the tests");
    happens(&api, "call.created", "one");
    receiver.takes(1);
    drop(first);
    happens(&api, "call.ended", "one");
    api.api("POST", "/webhooks", Some(json!({"url": receiver.url(), "enabled": false})));
    // The cluster's secret was changed meanwhile: what is sealed under another opens no more, and says so.
    let stranger = courier(&api, b"another secret");
    let path = format!("/webhooks/{id}/deliveries?state=owed");
    let owed = eventually("it is owed", SOON, || {
        api.api("GET", &path, None).body["items"].as_array()?.first().cloned()
    });
    assert!(owed["error"].as_str().is_some_and(|why| why.contains("secret")), "{owed}");
    drop(stranger);
    let _again = courier(&api, b"secret of the tests");
    let taken = receiver.takes(2);
    assert_eq!(story(&taken, "one"), ["call.created", "call.ended"]);
    let first = taken[0]["id"].to_string();
    let doubled = |post: &&Post| post.header("webhook-id") == first;
    assert_eq!(receiver.came().iter().filter(doubled).count(), 1, "nothing was told twice");
    receiver.came().iter().for_each(|post| post.check_signature(&secret));
}
