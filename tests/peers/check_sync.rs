//! A phone is asked to look for its configuration again.

use super::common::server::Server;
use super::common::{SOON, eventually};
use super::pair::phone;
use holdfast::sip::{HeaderName, Method, Request};
use serde_json::{Value, json};

fn registration(server: &Server, extension: &str) -> String {
    let path = format!("/registrations?extension={extension}");
    eventually("it is registered", SOON, || {
        let (_, page) = server.api("GET", &path, None);
        page["items"][0]["id"].as_str().map(str::to_owned)
    })
}

fn event(notify: &Request) -> &str {
    notify.headers.get(&HeaderName::Event).expect("Event").trim()
}

#[test]
fn over_udp_and_tcp_and_who_is_silent_is_asked_again() {
    let server = Server::start();
    for (extension, transport) in [("1001", "udp"), ("1002", "tcp")] {
        let mut phone = phone(&server, extension, transport);
        let id = registration(&server, extension);
        let path = format!("/registrations/{id}/check-sync");
        let ask = |body: Option<&Value>| {
            let (status, answer) = server.api("POST", &path, body);
            assert_eq!(status, 202, "{answer}");
            answer["sip_status"].clone()
        };
        let reboot = json!({"reboot": true});
        std::thread::scope(|scope| {
            let asked = scope.spawn(|| ask(Some(&reboot)));
            let notify = phone.request_of(&Method::Notify);
            assert_eq!(
                (event(&notify), notify.uri.as_str().to_owned()),
                ("check-sync;reboot=true", phone.contact().trim_matches(['<', '>']).to_owned(),)
            );
            if transport == "udp" {
                phone.has_heard_nothing();
                let again = phone.request_of(&Method::Notify);
                assert_eq!(
                    again.headers.get(&HeaderName::CallId),
                    notify.headers.get(&HeaderName::CallId)
                );
            }
            phone.respond(&notify, 481, "unused", None);
            assert_eq!(asked.join().expect("no panic"), 481);
        });
        assert_eq!(ask(None), json!(null), "it says nothing");
        let notify = phone.request_of(&Method::Notify);
        assert_eq!(event(&notify), "check-sync");
    }
}

#[test]
fn by_the_command_line() {
    let server = Server::start();
    let mut phone = phone(&server, "1001", "udp");
    let id = registration(&server, "1001");
    std::thread::scope(|scope| {
        let ran = scope.spawn(|| server.command(&["registrations", "--check-sync", &id, "--json"]));
        let notify = phone.request_of(&Method::Notify);
        phone.respond(&notify, 200, "unused", None);
        let ran = ran.join().expect("no panic");
        assert!(ran.status.success(), "{ran:?}");
        let told: Value = serde_json::from_slice(&ran.stdout).expect("a document");
        assert_eq!(told, json!({"id": id, "sip_status": 200}));
    });
}
