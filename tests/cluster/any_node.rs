//! What is asked of the API is answered alike by every node, whoever has what it is about.

use crate::common::api::Api;
use crate::common::phone::{Phone, sdp};
use crate::common::server::Server;
use crate::common::{SOON, eventually};
use crate::pair::{CALLEE_HZ, Pair, phone};
use crate::switch::Switch;
use holdfast::sip::{HeaderName, Method, Status};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

#[test]
fn a_phone_is_asked_by_any_node_and_a_repeated_request_is_done_once() {
    let switch = Switch::start();
    let servers = &switch.signaling;
    for transport in ["udp", "tcp"] {
        let mut phone = phone(&servers[0], "1001", transport);
        let contact = phone.contact().trim_matches(['<', '>']).to_owned();
        for server in servers {
            let id = eventually("it is known here", SOON, || {
                let bindings = server.list("/registrations?extension=1001");
                let its = bindings.iter().find(|binding| binding["contact"] == contact.as_str())?;
                its["id"].as_str().map(str::to_owned)
            });
            std::thread::scope(|scope| {
                let path = format!("/registrations/{id}/check-sync");
                let asked = scope.spawn(move || server.api("POST", &path, None));
                let notify = phone.request_of(&Method::Notify);
                assert_eq!(notify.headers.get(&HeaderName::Event), Some("check-sync"));
                phone.respond(&notify, 200, "unused", None);
                let (status, answer) = asked.join().expect("no panic");
                assert_eq!((status, &answer["sip_status"]), (202, &json!(200)), "{transport}");
            });
        }
    }
    let made: Vec<Value> = servers
        .iter()
        .map(|server| {
            let request = ureq::post(format!("http://{}/api/v1/users", server.admin));
            let request = request.header("Authorization", format!("Bearer {}", server.token));
            let request = request.header("Idempotency-Key", "one");
            let mut answer = request.send_json(json!({"extension": "1005"})).expect("an answer");
            answer.body_mut().read_json().expect("a document")
        })
        .collect();
    assert!(made[0]["password"].is_string(), "{made:?}");
    assert_eq!(made[0], made[1], "both nodes say the same");
}

#[test]
fn a_user_made_at_one_node_registers_at_another_at_once() {
    let switch = Switch::start();
    let [maker, other] = &switch.signaling[..] else { panic!("two nodes") };
    for user in 0..10 {
        let extension = format!("new-{user}");
        let user = json!({"extension": extension, "password": "correct horse"});
        assert_eq!(maker.api("POST", "/users", Some(&user)).0, 201);
        let register = |password| {
            let mut phone = Phone::udp(other.sip, &extension, password);
            phone.register(&[]).status
        };
        assert_eq!(register("correct horse"), Status(200), "{extension}");
        assert_eq!(register("wrong horse"), Status(401), "{extension}");
        let changed = json!({"password": "another horse"});
        maker.api("PATCH", &format!("/users/{extension}"), Some(&changed));
        assert_eq!(register("another horse"), Status(200), "{extension}");
    }
}

/// Nodes trust a token for as long as they knew it last: a request that begins later is refused everywhere.
#[test]
fn a_token_made_at_one_node_is_good_at_another_until_it_is_removed() {
    const TRUSTED: Duration = Duration::from_secs(5);
    let switch = Switch::start();
    let [maker, other] = &switch.signaling[..] else { panic!("two nodes") };
    let wish = json!({"name": "wallboard", "role": "readonly"});
    let (status, made) = maker.api("POST", "/tokens", Some(&wish));
    assert_eq!(status, 201, "{made}");
    let [id, token] = ["id", "token"].map(|field| made[field].as_str().expect(field).to_owned());
    let with = |server: &Server| Api { sip: server.sip, admin: server.admin, token: token.clone() };
    let holders = [with(other), with(maker)];
    for holder in &holders {
        assert_eq!(holder.api("GET", "/calls", None).0, 200);
        assert_eq!(holder.api("POST", "/users", Some(&json!({"extension": "1005"}))).0, 403);
    }
    assert_eq!(maker.api("DELETE", &format!("/tokens/{id}"), None).0, 204);
    let removed = Instant::now();
    for holder in &holders {
        eventually("it is refused", SOON, || {
            let since = removed.elapsed();
            let (status, told) = holder.api("GET", "/calls", None);
            assert!(status == 401 || since < TRUSTED, "{status} after {since:?}: {told}");
            (status == 401).then_some(())
        });
    }
    assert_eq!(other.api("GET", "/calls", None).0, 200, "the others are as they were");
}

/// An operator plays to a phone and stops that, at the node that does not have the call.
#[test]
fn a_tone_is_played_and_stopped_by_a_node_without_the_call() {
    const DIAL_TONE_HZ: u32 = 425;
    let switch = Switch::start();
    let pair = Pair::talking(&switch.signaling[0], ["udp", "udp"]);
    pair.hear_each_other();
    let owner = switch.owner();
    let other = &switch.signaling[1 - owner];
    let call = other.list("/calls")[0]["id"].as_str().expect("an id").to_owned();
    let path = format!("/calls/{call}/play");
    let wish = json!({"leg": "callee", "tone": "dial"});
    let (status, told) = other.api("POST", &path, Some(&wish));
    assert_eq!((status, &told["owner"]), (202, &json!(switch.signaling[owner].node())), "{told}");
    pair.callee.talk.hears(DIAL_TONE_HZ);
    pair.caller.talk.hears(CALLEE_HZ);
    let (status, told) = other.api("DELETE", &path, None);
    assert_eq!(status, 202, "{told}");
    pair.hear_each_other();
}

/// A phone that registered by one node is removed by the other, and by its own: nobody rings it any more.
#[test]
fn a_registration_is_removed_by_any_node() {
    let switch = Switch::start();
    for transport in ["udp", "tcp"] {
        for remover in &switch.signaling {
            // The processes share a port: either takes it.
            let _phone = phone(&switch.signaling[0], "1002", transport);
            let known = remover.registrations("1002", 1);
            let path = format!("/registrations/{}", known[0]["id"].as_str().expect("an id"));
            assert_eq!(remover.api("DELETE", &path, None).0, 204, "{transport}");
            for server in &switch.signaling {
                server.registrations("1002", 0);
                assert_eq!(server.api("DELETE", &path, None).0, 404, "{transport}");
            }
            let mut caller = phone(&switch.signaling[0], "1001", "udp");
            let offer = sdp(4_000, 1, "sendrecv");
            let invite = caller.invite(&switch.signaling[0].uri("1002"), Some(&offer));
            let refused = caller.response_with(480);
            caller.acknowledge_refusal(&invite, &refused);
        }
    }
}
