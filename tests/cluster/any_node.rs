//! What is asked of the API is answered alike by every node, whoever has what it is about.

use crate::common::phone::Phone;
use crate::common::{SOON, eventually};
use crate::pair::phone;
use crate::switch::Switch;
use holdfast::sip::{HeaderName, Method, Status};
use serde_json::{Value, json};

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
