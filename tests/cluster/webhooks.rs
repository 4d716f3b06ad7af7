//! The node that tells a webhook is killed under calls: another goes on, and nothing is lost.

use crate::common::authority::Authority;
use crate::common::events::Watching;
use crate::common::receiver::Receiver;
use crate::common::server::Server;
use crate::common::{SOON, eventually};
use crate::crowd::{Crowd, Kind};
use crate::switch::Switch;
use serde_json::{Value, json};

const CALLS: usize = 6;

/// By HTTPS, to a receiver whose certificate is of a private authority, which the system's file or a named one holds.
#[test]
fn a_receiver_is_told_by_https_if_its_certificate_is_good() {
    let (known, unknown) = (Authority::new(), Authority::new());
    let good = Receiver::start_secure(known.server("IP:127.0.0.1"));
    let other_name = Receiver::start_secure(known.server("DNS:receiver.example"));
    let stranger = Receiver::start_secure(unknown.server("IP:127.0.0.1"));
    let file = known.file().display().to_string();
    let server = Server::start_with(&[("SSL_CERT_FILE", &file)]);
    let hooks = [&good, &other_name, &stranger].map(|receiver| {
        assert!(receiver.url().starts_with("https://"));
        let body = json!({"url": receiver.url(), "types": ["call.ended"]});
        let (status, made) = server.api("POST", "/webhooks", Some(&body));
        assert_eq!(status, 201, "{made}");
        made
    });
    Crowd::talking(&server, 1, 0).hang_up();
    assert_eq!(good.takes(1)[0]["type"], "call.ended");
    let secret = hooks[0]["secret"].as_str().expect("shown once");
    good.came().iter().for_each(|post| post.check_signature(secret));
    for hook in &hooks[1..] {
        let id = hook["id"].as_str().expect("an id");
        let path = format!("/webhooks/{id}/deliveries?state=owed");
        let why = eventually("it is owed, and why", SOON, || {
            let (_, owed) = server.api("GET", &path, None);
            owed["items"][0]["error"].as_str().map(str::to_owned)
        });
        assert!(why.contains("certificate"), "{why}");
    }
    assert!(other_name.came().is_empty() && stranger.came().is_empty(), "nothing was told");
}

#[test]
fn a_kill_of_the_node_that_delivers_loses_no_event() {
    let mut switch = Switch::start();
    let receiver = Receiver::start();
    let body = json!({"url": receiver.url(), "types": ["call.*"]});
    let (status, made) = switch.survivor().api("POST", "/webhooks", Some(&body));
    assert_eq!(status, 201, "{made}");
    let secret = made["secret"].as_str().expect("shown once").to_owned();
    let deliverer = eventually("one of them delivers", SOON, || {
        let says = |at: &usize| {
            let log = switch.signaling[*at].signaling.log();
            log.contains("this node delivers events to webhooks")
        };
        let found: Vec<usize> = (0..2).filter(says).collect();
        assert!(found.len() < 2, "both deliver");
        found.first().copied()
    });
    let watching = Watching::start(&switch.signaling[1 - deliverer], "types=call.*");
    let mut crowd = Crowd::talking(&switch.signaling[1 - deliverer], CALLS, 0);
    receiver.takes(CALLS);
    let mut dead = switch.signaling.remove(deliverer);
    dead.signaling.kill();
    crowd.hear_each_other();
    crowd.call(switch.survivor(), Kind::RELAYED);
    crowd.hang_up();
    let told = watching.until("call.ended", CALLS + 1);
    let told: Vec<&Value> = told.iter().filter(|event| event["type"] != "snapshot").collect();
    let taken = receiver.takes(told.len());
    assert_eq!(taken.len(), told.len());
    for event in &told {
        assert!(taken.contains(event), "lost: {event}");
    }
    let of_call = |events: &[&Value], call: &Value| -> Vec<Value> {
        let events = events.iter().filter(|event| event["call_id"] == *call);
        events.map(|event| event["id"].clone()).collect()
    };
    let taken: Vec<&Value> = taken.iter().collect();
    for event in told.iter().filter(|event| event["type"] == "call.ended") {
        let call = &event["call_id"];
        assert_eq!(of_call(&taken, call), of_call(&told, call), "in order");
    }
    receiver.came().iter().for_each(|post| post.check_signature(&secret));
    switch.survivor().signaling.says("this node delivers events to webhooks");
}
