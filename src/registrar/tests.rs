//! The rules of §10.3, row by row: a user's bindings before, a REGISTER, what is answered and bound after.

use super::*;
use crate::ids::{ConnectionId, Transport};
use crate::sip::digest::Ha1;
use crate::sip::{HeaderName, Message};
use crate::views::user::SrtpPolicy;

const NOW: Timestamp = Timestamp::from_millis(1_000_000);

fn policy() -> Policy {
    Policy {
        max_expires: Duration::from_secs(300),
        max_expires_nat: Duration::from_secs(120),
        min_expires: Duration::from_secs(10),
        max_contacts: 3,
        stun: false,
        node: NodeName("n-1".into()),
    }
}

fn user() -> User {
    User {
        extension: "1001".to_owned(),
        display_name: String::new(),
        enabled: true,
        ha1: Ha1::new("1001", "holdfast", "password"),
        max_contacts: None,
        max_calls: None,
        ring_timeout_ms: None,
        codecs: Vec::new(),
        srtp: SrtpPolicy::Off,
        created_at: NOW,
        updated_at: NOW,
    }
}

fn flow(transport: Transport, remote: &str) -> Flow {
    Flow {
        transport,
        local: "192.0.2.1:5060".parse().expect("an address"),
        remote: remote.parse().expect("an address"),
        connection: transport.is_reliable().then_some(ConnectionId(1)),
    }
}

fn udp() -> Flow {
    flow(Transport::Udp, "192.0.2.10:5060")
}

/// `lines` come after the headers every request has.
fn register_request(call_id: &str, cseq: u32, lines: &str) -> Request {
    let text = format!(
        "REGISTER sip:192.0.2.1 SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bK1\r\n\
         From: <sip:1001@192.0.2.1>;tag=f\r\nTo: <sip:1001@192.0.2.1;user=phone>\r\n\
         Call-ID: {call_id}\r\nCSeq: {cseq} REGISTER\r\n{lines}Content-Length: 0\r\n\r\n"
    );
    match Message::parse(&text.into()) {
        Ok(Message::Request(request)) => request,
        other => panic!("{other:?}"),
    }
}

/// A registrar's user over several requests.
struct Desk {
    bindings: Vec<Binding>,
    policy: Policy,
    flow: Flow,
    now: Timestamp,
}

impl Desk {
    fn new() -> Self {
        Self { bindings: Vec::new(), policy: policy(), flow: udp(), now: NOW }
    }

    fn register(&mut self, call_id: &str, cseq: u32, lines: &str) -> Outcome {
        let request = register_request(call_id, cseq, lines);
        let outcome =
            register(&request, &self.flow, &user(), &self.bindings, &self.policy, self.now);
        if let Some(bindings) = &outcome.bindings {
            self.bindings.clone_from(bindings);
        }
        self.now = self.now + Duration::from_secs(1);
        outcome
    }

    fn contacts(&self) -> Vec<&str> {
        self.bindings.iter().map(|binding| binding.contact.as_str()).collect()
    }
}

fn all(outcome: &Outcome, name: HeaderName) -> Vec<String> {
    outcome.response.headers.all(&name).map(str::to_owned).collect()
}

#[test]
fn one_request_is_answered() {
    let check = |lines: &str, status: u16, contacts: &[&str]| {
        let outcome = Desk::new().register("c", 1, lines);
        assert_eq!(outcome.response.status.0, status, "{lines}: {}", outcome.response.reason);
        assert_eq!(all(&outcome, HeaderName::Contact), contacts, "{lines}");
        assert_eq!(outcome.bindings.is_some(), !contacts.is_empty(), "{lines}");
        assert!(outcome.response.to().expect("a To").tag().is_some(), "{lines}");
    };
    let plain = "sip:1001@192.0.2.10";
    // Granted: the contact's parameter, else Expires, else the most.
    check("", 200, &[]);
    check(&format!("Contact: <{plain}>\r\n"), 200, &[&format!("<{plain}>;expires=300")]);
    check(
        &format!("Contact: <{plain}>;expires=60\r\nExpires: 90\r\n"),
        200,
        &[&format!("<{plain}>;expires=60")],
    );
    check(
        &format!("Contact: <{plain}>\r\nExpires: 90\r\n"),
        200,
        &[&format!("<{plain}>;expires=90")],
    );
    check(&format!("m: {plain};expires=4294967295\r\n"), 200, &[&format!("<{plain}>;expires=300")]);
    check(
        &format!("Contact: <{plain}>\r\nExpires: 10\r\n"),
        200,
        &[&format!("<{plain}>;expires=10")],
    );
    check(&format!("Contact: <{plain}>\r\nExpires: 9\r\n"), 423, &[]);
    check(&format!("Contact: <{plain}>;expires=0\r\n"), 200, &[]);
    // Byte for byte, with what belongs to the binding.
    check(
        "Contact: \"Bob\" <sip:%31001@192.0.2.10:5060;ob;line=x%41>;q=0.5;+sip.instance=\"<urn:uuid:1>\";reg-id=1\r\n",
        200,
        &["<sip:%31001@192.0.2.10:5060;ob;line=x%41>;+sip.instance=\"<urn:uuid:1>\";reg-id=1;\
           q=0.500;expires=300"],
    );
    check(
        "Contact: <sip:a@192.0.2.10>;q=1, <sip:b@192.0.2.10>;q=0.12\r\n",
        200,
        &["<sip:a@192.0.2.10>;q=1.000;expires=300", "<sip:b@192.0.2.10>;q=0.120;expires=300"],
    );
    // NAT: another address, another port; a proxy on the path excuses the contact.
    for nated in ["sip:1001@10.0.0.1:5060", "sip:1001@192.0.2.10:5062", "sip:x@[2001:db8::1]"] {
        check(&format!("Contact: <{nated}>\r\n"), 200, &[&format!("<{nated}>;expires=120")]);
    }
    check(
        "Contact: <sip:1001@10.0.0.1>\r\nPath: <sip:192.0.2.10;lr>\r\n",
        200,
        &["<sip:1001@10.0.0.1>;expires=300"],
    );
    check("Contact: <sip:a@h>\r\nRequire: path, gruu\r\n", 420, &[]);
    let four: Vec<String> = (0..4).map(|n| format!("<sip:{n}@h>")).collect();
    check(&format!("Contact: {}\r\n", four.join(",")), 403, &[]);
}

#[test]
fn nothing_malformed_is_defaulted() {
    for bad in [
        "Contact: <sip:a@h>\r\nExpires: soon\r\n",
        "Contact: <sip:a@h>\r\nExpires: -1\r\n",
        "Contact: <sip:a@h>\r\nExpires: 4294967296\r\n",
        "Expires: x\r\n",
        "Contact: <sip:a@h>;expires=\r\n",
        "Contact: <sip:a@h>;expires=1e3\r\n",
        "Contact: <sip:a@h>;q=1.1\r\n",
        "Contact: <sip:a@h>;q=0.1234\r\n",
        "Contact: <sip:a@h>;q=-0.1\r\n",
        "Contact: <sip:a@h>;q=.5\r\n",
        "Contact: <sip:a@h>;q\r\n",
        "Contact: <sip:a@h>;reg-id=0\r\n",
        "Contact: <sip:a@h>;reg-id=x\r\n",
        "Contact: <sip:a@h>;reg-id=1;+sip.instance=\"<x>\", <sip:b@h>\r\n",
        "Contact: <sip:a@h?Subject=x>\r\n",
        "Contact: <tel:+1>\r\n",
        "Contact: <sip:a@h>\r\nPath: nonsense\r\n",
        "Contact: <sip:a@h>\r\nPath: <tel:1>\r\n",
        "Contact: *\r\n",
        "Contact: *\r\nExpires: 1\r\n",
        "Contact: *, <sip:a@h>\r\nExpires: 0\r\n",
        "Contact: *\r\nContact: *\r\nExpires: 0\r\n",
    ] {
        let outcome = Desk::new().register("c", 1, bad);
        assert_eq!((outcome.response.status.0, outcome.bindings), (400, None), "{bad}");
    }
}

#[test]
fn refusals_name_what_is_wrong() {
    let mut desk = Desk::new();
    let brief = desk.register("c", 1, "Contact: <sip:a@h>\r\nExpires: 5\r\n");
    assert_eq!(all(&brief, HeaderName::MinExpires), ["10"]);
    let extension = desk.register("c", 2, "Require: path, gruu\r\n");
    assert_eq!(all(&extension, HeaderName::Unsupported), ["gruu"]);
}

#[test]
fn only_the_owner_binds_its_address() {
    let request = register_request("c", 1, "Contact: <sip:a@h>\r\n");
    let stranger = User { extension: "1002".to_owned(), ..user() };
    let disabled = User { enabled: false, ..user() };
    for user in [stranger, disabled] {
        let outcome = register(&request, &udp(), &user, &[], &policy(), NOW);
        assert_eq!((outcome.response.status.0, outcome.bindings), (403, None));
    }
}

#[test]
fn a_phone_that_returns_replaces_its_binding() {
    let old =
        "Contact: <sip:1001@192.0.2.10:5060>;+sip.instance=\"<urn:uuid:1>\"\r\nUser-Agent: P/1\r\n";
    let plain = "Contact: <sip:1001@192.0.2.10:5060;line=1>\r\nUser-Agent: P/1\r\n";
    let outbound = "Contact: <sip:1001@h>;+sip.instance=\"<urn:uuid:1>\";reg-id=1\r\n";
    // (first, second, Call-ID of the second, replaced)
    for (first, second, call_id, replaced) in [
        // The same instance from anywhere.
        (old, "Contact: <sip:1001@198.51.100.7>;+sip.instance=\"<urn:uuid:1>\"\r\n", "d", true),
        (old, "Contact: <sip:1001@198.51.100.7>;+sip.instance=\"<urn:uuid:1>\"\r\n", "c", true),
        // Another instance never, whatever else is equal.
        (
            old,
            "Contact: <sip:1001@192.0.2.10:5060>;+sip.instance=\"<urn:uuid:2>\"\r\nUser-Agent: P/1\r\n",
            "d",
            false,
        ),
        // Flows of one instance are apart (RFC 5626 §6); the same flow is replaced.
        (outbound, "Contact: <sip:1001@h>;+sip.instance=\"<urn:uuid:1>\";reg-id=2\r\n", "d", false),
        (outbound, "Contact: <sip:1001@i>;+sip.instance=\"<urn:uuid:1>\";reg-id=1\r\n", "d", true),
        (outbound, "Contact: <sip:1001@i>;+sip.instance=\"<urn:uuid:1>\"\r\n", "d", true),
        // Equal Contact by §19.1.4.
        (plain, "Contact: <SIP:%31001@192.0.2.10:5060>\r\n", "d", true),
        (plain, "Contact: <sip:1001@192.0.2.10:5060;transport=tcp>\r\n", "d", false),
        // A restart: user part, source and User-Agent agree under a new Call-ID.
        (plain, "Contact: <sip:1001@192.0.2.10:5099;line=2>\r\nUser-Agent: P/1\r\n", "d", true),
        (plain, "Contact: <sip:1001@192.0.2.10:5099;line=2>\r\nUser-Agent: P/1\r\n", "c", false),
        (plain, "Contact: <sip:1001@192.0.2.10:5099>\r\nUser-Agent: P/2\r\n", "d", false),
        (plain, "Contact: <sip:x@192.0.2.10:5099>\r\nUser-Agent: P/1\r\n", "d", false),
        (plain, "Contact: <sip:1001@192.0.2.10:5099>\r\n", "d", false),
    ] {
        let mut desk = Desk::new();
        assert!(desk.register("c", 1, first).new_binding);
        let id = desk.bindings[0].id.clone();
        let outcome = desk.register(call_id, 2, second);
        assert_eq!(outcome.response.status.0, 200, "{second}");
        assert_eq!(desk.bindings.len(), if replaced { 1 } else { 2 }, "{first}{second}");
        assert_eq!(outcome.new_binding, !replaced, "{second}");
        assert_eq!(desk.bindings[0].id, id, "{second}");
        assert_eq!(desk.bindings[0].registered_at, NOW);
        let mut ids: Vec<_> = desk.bindings.iter().map(|binding| &binding.id).collect();
        ids.dedup();
        assert_eq!(ids.len(), desk.bindings.len(), "ids are apart");
    }
}

#[test]
fn two_phones_without_user_agent_on_one_host_are_two() {
    let mut desk = Desk::new();
    desk.register("c", 1, "Contact: <sip:1001@192.0.2.10:5060>\r\n");
    desk.register("d", 1, "Contact: <sip:1001@192.0.2.10:5062>\r\n");
    assert_eq!(desk.contacts().len(), 2);
}

#[test]
fn requests_keep_their_order() {
    // (Call-ID, CSeq, lines, status, contacts after)
    let mut desk = Desk::new();
    for (call_id, cseq, lines, status, after) in [
        ("c", 5, "Contact: <sip:a@h>\r\n", 200, vec!["sip:a@h"]),
        ("c", 5, "Contact: <sip:a@h>\r\n", 200, vec!["sip:a@h"]),
        ("c", 4, "Contact: <sip:old@h>\r\n", 500, vec!["sip:a@h"]),
        ("c", 4, "Contact: <sip:a@h>;expires=0\r\n", 500, vec!["sip:a@h"]),
        ("c", 5, "Contact: *\r\nExpires: 0\r\n", 500, vec!["sip:a@h"]),
        ("d", 1, "Contact: <sip:b@h>\r\n", 200, vec!["sip:a@h", "sip:b@h"]),
        ("e", 1, "Contact: <sip:b@h>;expires=0\r\n", 200, vec!["sip:a@h"]),
        ("e", 1, "Contact: <sip:b@h>;expires=0\r\n", 200, vec!["sip:a@h"]),
        // All or nothing: the second contact is bad.
        ("c", 6, "Contact: <sip:a@h>;expires=0, <sip:c@h>;expires=5\r\n", 423, vec!["sip:a@h"]),
        ("c", 6, "Contact: <sip:a@h>;expires=0, <sip:c@h>\r\n", 200, vec!["sip:c@h"]),
        ("c", 7, "", 200, vec!["sip:c@h"]),
        ("c", 8, "Contact: *\r\nExpires: 0\r\n", 200, vec![]),
        ("c", 8, "Contact: *\r\nExpires: 0\r\n", 200, vec![]),
    ] {
        let before = desk.bindings.clone();
        let outcome = desk.register(call_id, cseq, lines);
        assert_eq!(outcome.response.status.0, status, "{cseq} {lines}");
        assert_eq!(desk.contacts(), after, "{cseq} {lines}");
        assert_eq!(outcome.bindings.is_some(), desk.bindings != before, "{cseq} {lines}");
    }
}

#[test]
fn removing_the_old_address_leaves_the_new_one() {
    let mut desk = Desk::new();
    let agent = "User-Agent: P/1\r\n";
    desk.register("c", 1, &format!("Contact: <sip:1001@192.0.2.10:5060>\r\n{agent}"));
    desk.register(
        "d",
        1,
        &format!(
            "Contact: <sip:1001@192.0.2.10:5070>, <sip:1001@192.0.2.10:5060>;expires=0\r\n{agent}"
        ),
    );
    assert_eq!(desk.contacts(), ["sip:1001@192.0.2.10:5070"]);
    desk.register("d", 2, &format!("Contact: <sip:1001@192.0.2.10:5060>;expires=0\r\n{agent}"));
    assert_eq!(desk.contacts(), ["sip:1001@192.0.2.10:5070"]);
}

#[test]
fn the_oldest_makes_room() {
    let mut desk = Desk::new();
    for (call_id, cseq, name) in
        [("a", 1, "a"), ("b", 1, "b"), ("c", 1, "c"), ("a", 2, "a"), ("d", 1, "d")]
    {
        desk.register(call_id, cseq, &format!("Contact: <sip:{name}@h>\r\n"));
    }
    assert_eq!(desk.contacts(), ["sip:a@h", "sip:c@h", "sip:d@h"], "b was silent longest");
    let request = register_request("e", 1, "Contact: <sip:e@h>\r\n");
    let alone = User { max_contacts: Some(1), ..user() };
    let outcome = register(&request, &udp(), &alone, &desk.bindings, &policy(), desk.now);
    assert_eq!(outcome.bindings.map(|bindings| bindings.len()), Some(1), "a user's own limit");
}

#[test]
fn two_contacts_of_one_instance_in_one_request_are_kept() {
    let lines = "Contact: <sip:1001@192.0.2.10>;+sip.instance=\"<x>\", \
                 <sip:1001@192.0.2.10;transport=tcp>;+sip.instance=\"<x>\"\r\n";
    let mut desk = Desk::new();
    for cseq in 1..3 {
        desk.register("c", cseq, lines);
        assert_eq!(desk.contacts().len(), 2);
    }
}

#[test]
fn all_bindings_are_listed_with_what_remains() {
    let mut desk = Desk::new();
    desk.register("c", 1, "Contact: <sip:a@h>\r\nExpires: 100\r\n");
    desk.register("d", 1, "Contact: <sip:b@h>\r\nExpires: 60\r\n");
    let fetch = desk.register("e", 1, "");
    assert_eq!(all(&fetch, HeaderName::Contact), ["<sip:a@h>;expires=98", "<sip:b@h>;expires=59"]);
    desk.now = desk.now + Duration::from_secs(58);
    let own_first = desk.register("c", 2, "Contact: <sip:a@h>\r\nExpires: 30\r\n");
    assert_eq!(all(&own_first, HeaderName::Contact), ["<sip:a@h>;expires=30"], "b expired");
    assert_eq!(all(&own_first, HeaderName::Expires), ["30"]);
}

#[test]
fn connections_get_less_than_lasting_datagrams() {
    let mut desk = Desk::new();
    desk.flow = flow(Transport::Tcp, "192.0.2.10:49152");
    let outcome = desk.register("c", 1, "Contact: <sip:a@192.0.2.10;transport=tcp>\r\n");
    assert_eq!(all(&outcome, HeaderName::Expires), ["120"]);
    assert!(!desk.bindings[0].nat, "a connection leaves from any port");
    desk.flow = flow(Transport::Tcp, "192.0.2.11:5060");
    desk.register("c", 2, "Contact: <sip:a@192.0.2.10;transport=tcp>\r\n");
    assert!(desk.bindings[0].nat);
}

#[test]
fn outbound_is_promised_only_when_it_is_kept() {
    let contact = "Contact: <sip:a@h>;reg-id=1;+sip.instance=\"<x>\"\r\n";
    let supported = format!("{contact}Supported: path, outbound\r\n");
    let check = |transport: Transport, stun: bool, lines: &str, promised: bool| {
        let mut desk = Desk::new();
        desk.flow = flow(transport, "192.0.2.10:5060");
        desk.policy.stun = stun;
        let outcome = desk.register("c", 1, lines);
        assert_eq!(outcome.response.headers.lists(&HeaderName::Require, "outbound"), promised);
    };
    check(Transport::Tcp, false, &supported, true);
    check(Transport::Udp, false, &supported, false);
    check(Transport::Udp, true, &supported, true);
    check(Transport::Tcp, true, contact, false);
    check(Transport::Tcp, true, "Contact: <sip:a@h>;reg-id=1\r\nSupported: outbound\r\n", false);
    check(Transport::Tcp, true, &format!("{supported}Path: <sip:edge;lr>\r\n"), false);
    check(Transport::Tcp, true, &format!("{supported}Path: <sip:edge;lr;ob>\r\n"), true);
    check(
        Transport::Tcp,
        true,
        &format!("{supported}Via: SIP/2.0/UDP h;branch=z9hG4bK2\r\n"),
        false,
    );
}

#[test]
fn path_is_kept_and_echoed_to_who_knows_it() {
    let lines = "Contact: <sip:a@h>\r\nPath: <sip:near;lr>, <sip:far;lr>\r\n";
    let mut desk = Desk::new();
    let silent = desk.register("c", 1, lines);
    assert_eq!(all(&silent, HeaderName::Path), [""; 0]);
    assert_eq!(desk.bindings[0].path, ["<sip:near;lr>", "<sip:far;lr>"]);
    let told = desk.register("c", 2, &format!("{lines}Supported: path\r\n"));
    assert_eq!(all(&told, HeaderName::Path), ["<sip:near;lr>", "<sip:far;lr>"]);
}

#[test]
fn what_is_stored_is_what_the_phone_wrote() {
    let mut desk = Desk::new();
    desk.register("c", 7, "Contact: <sip:a@192.0.2.10>;q=0.3\r\nUser-Agent: P/1\r\n");
    let binding = &desk.bindings[0];
    assert_eq!(binding.aor, "sip:1001@192.0.2.1");
    assert_eq!((binding.q_milli, binding.q_given, binding.cseq), (300, true, 7));
    assert_eq!(binding.user_agent.as_deref(), Some("P/1"));
    assert_eq!((binding.refreshed_at, binding.nat), (NOW, false));
    let repeated = register(
        &register_request("c", 7, "Contact: <sip:a@192.0.2.10>;q=0.3\r\n"),
        &udp(),
        &user(),
        &[],
        &policy(),
        NOW,
    );
    let ids = repeated.bindings.map(|bindings| bindings[0].id.clone());
    assert_eq!(ids.as_ref(), Some(&binding.id), "derived, not drawn");
}
