//! baresip and SIPp through the server: registration, calls each way, tones each way, every ending.

use super::common::baresip::{self, Baresip};
use super::common::server::Server;
use super::common::sipp::{self, Sipp};
use super::common::{SOON, eventually};
use super::pair::{self, CALLEE_HZ, CALLER_HZ};
use serde_json::Value;

const G711: &str = "PCMU/8000/1,PCMA/8000/1";
const OPUS: &str = "opus/48000/2";

/// Registered.
pub(crate) fn phone(
    server: &Server,
    user: &str,
    tone_hz: u32,
    transport: &str,
    codecs: &str,
) -> Baresip {
    let password = server.user(user);
    let server = Some(server.sip);
    let settings = baresip::Settings {
        user,
        password,
        server,
        transport,
        codecs,
        tone_hz,
        ..Default::default()
    };
    Baresip::start(&settings).registered()
}

/// 1001 calls 1002; each hears the other; the CDR says so. The calls of the API while they talk.
fn call(server: &Server, transports: [&str; 2], codecs: [&str; 2]) -> Vec<Value> {
    let mut alice = phone(server, "1001", CALLER_HZ, transports[0], codecs[0]);
    let mut bob = phone(server, "1002", CALLEE_HZ, transports[1], codecs[1]);
    alice.dial(&format!("{};transport={}", server.uri("1002"), transports[0]));
    alice.event("CALL_ESTABLISHED");
    bob.event("CALL_ESTABLISHED");
    alice.hears(CALLEE_HZ);
    bob.hears(CALLER_HZ);
    let calls = server.list("/calls");
    alice.hang_up();
    bob.event("CALL_CLOSED");
    let cdrs = server.cdrs(1);
    let cdr = &cdrs[0];
    assert_eq!(cdr["disposition"], "answered", "{cdr}");
    assert_eq!(cdr["end_cause"], "bye", "{cdr}");
    assert_eq!(cdr["ended_by"], "caller", "{cdr}");
    assert_eq!(cdr["answered_by"], "1002", "{cdr}");
    calls
}

#[test]
fn baresip_talks_to_baresip_over_udp() {
    let calls = call(&Server::start(), ["udp", "udp"], [G711, G711]);
    assert_eq!(calls.len(), 1);
    assert_eq!(calls[0]["state"], "confirmed", "{}", calls[0]);
    assert_eq!(calls[0]["media"]["transcoding"], false, "{}", calls[0]);
}

#[test]
fn baresip_talks_to_baresip_over_tcp() {
    call(&Server::start(), ["tcp", "tcp"], [G711, G711]);
}

#[test]
fn baresip_talks_from_tcp_to_udp() {
    call(&Server::start(), ["tcp", "udp"], [G711, G711]);
}

#[test]
fn opus_passes_between_phones_that_agree() {
    let calls = call(&Server::start(), ["udp", "udp"], [OPUS, OPUS]);
    assert_eq!(calls[0]["media"]["transcoding"], false, "{}", calls[0]);
}

#[test]
fn opus_talks_to_g711() {
    let calls = call(&Server::start(), ["udp", "udp"], [OPUS, "PCMU/8000/1"]);
    assert_eq!(calls[0]["media"]["transcoding"], true, "{}", calls[0]);
}

#[test]
fn g711_talks_to_opus() {
    call(&Server::start(), ["udp", "udp"], ["PCMA/8000/1", OPUS]);
}

#[test]
fn signaling_and_media_apart_do_the_same() {
    let mut server = Server::start_apart();
    call(&server, ["udp", "tcp"], [G711, G711]);
    assert!(server.media.as_mut().is_some_and(|media| media.is_running()));
}

#[test]
fn one_hears_oneself_in_the_echo_test() {
    let server = Server::start();
    let mut alice = phone(&server, "1001", CALLER_HZ, "udp", G711);
    for dialled in ["*43", "%2A43"] {
        alice.dial(&server.uri(dialled));
        alice.event("CALL_ESTABLISHED");
        alice.hears(CALLER_HZ);
        alice.hang_up();
        alice.event("CALL_CLOSED");
        eventually("the call is over", SOON, || server.list("/calls").is_empty().then_some(()));
    }
    assert_eq!(server.cdrs(2)[0]["disposition"], "answered");
}

#[test]
fn a_wrong_password_does_not_register() {
    let server = Server::start();
    server.user("1001");
    let wrong = baresip::Settings {
        user: "1001",
        password: "not-the-password",
        server: Some(server.sip),
        ..Default::default()
    };
    let mut mallory = Baresip::start(&wrong);
    let registered = eventually("registration ends", SOON, || mallory.registration());
    assert!(!registered);
    assert!(server.list("/registrations?extension=1001").is_empty());
    phone(&server, "1001", CALLER_HZ, "udp", G711);
    server.registrations("1001", 1);
}

#[test]
fn a_far_phone_that_vanishes_ends_the_call() {
    let server = Server::start_with(&[("HOLDFAST_RTP_TIMEOUT_MS", "2000")]);
    let mut alice = phone(&server, "1001", CALLER_HZ, "udp", G711);
    let mut bob = phone(&server, "1002", CALLEE_HZ, "udp", G711);
    alice.dial(&server.uri("1002"));
    alice.event("CALL_ESTABLISHED");
    alice.hears(CALLEE_HZ);
    bob.hears(CALLER_HZ);
    bob.kill();
    alice.event("CALL_CLOSED");
    let cdrs = server.cdrs(1);
    assert_eq!(cdrs[0]["end_cause"], "rtp_timeout", "{}", cdrs[0]);
    assert_eq!(cdrs[0]["ended_by"], "system", "{}", cdrs[0]);
}

#[test]
fn the_caller_cancels_and_the_callee_refuses() {
    let server = Server::start();
    let mut alice = phone(&server, "1001", CALLER_HZ, "udp", G711);
    let password = server.user("1002");
    let settings = baresip::Settings {
        user: "1002",
        password,
        server: Some(server.sip),
        answers: false,
        ..Default::default()
    };
    let mut bob = Baresip::start(&settings).registered();
    alice.dial(&server.uri("1002"));
    bob.event("CALL_INCOMING");
    alice.event("CALL_RINGING");
    alice.hang_up();
    bob.event("CALL_CLOSED");
    alice.event("CALL_CLOSED");
    assert_eq!(server.cdrs(1)[0]["disposition"], "cancelled");
    alice.dial(&server.uri("1002"));
    bob.event("CALL_INCOMING");
    bob.hang_up();
    alice.event("CALL_CLOSED");
    let cdrs = server.cdrs(2);
    let refused = cdrs.iter().find(|cdr| cdr["disposition"] != "cancelled");
    let refused = &refused.expect("the second call")["disposition"];
    assert!(refused == "busy" || refused == "rejected", "{refused}");
}

#[test]
fn baresip_holds_and_resumes() {
    let server = Server::start();
    let mut alice = phone(&server, "1001", CALLER_HZ, "udp", G711);
    let mut far = pair::phone(&server, "1002", "udp");
    let talk = super::common::rtp::Talk::new(CALLEE_HZ);
    alice.dial(&server.uri("1002"));
    let invite = far.request_of(&holdfast::sip::Method::Invite);
    talk.to(super::common::phone::audio_address(&invite.body));
    let answer = |version, direction| super::common::phone::sdp(talk.port, version, direction);
    far.respond(&invite, 200, "far", Some(&answer(1, "sendrecv")));
    far.request_of(&holdfast::sip::Method::Ack);
    talk.hears(CALLER_HZ);
    alice.hears(CALLEE_HZ);
    for (version, direction) in [(2, "recvonly"), (3, "sendrecv")] {
        if version == 2 {
            alice.hold()
        } else {
            alice.resume()
        }
        let invite = far.request_of(&holdfast::sip::Method::Invite);
        far.respond(&invite, 200, "far", Some(&answer(version, direction)));
        far.request_of(&holdfast::sip::Method::Ack);
        talk.mute(version == 2);
        if version == 2 {
            eventually("the API tells who holds", SOON, || {
                (server.list("/calls").first()?["hold"] == "caller").then_some(())
            });
        }
    }
    talk.hears(CALLER_HZ);
    alice.hang_up();
    let bye = far.request_of(&holdfast::sip::Method::Bye);
    far.respond(&bye, 200, "far", None);
    assert_eq!(server.cdrs(1)[0]["disposition"], "answered");
}

#[test]
fn sipp_calls_baresip_and_is_called() {
    for transport in ["u1", "t1"] {
        let server = Server::start();
        let password = server.user("1001");
        let name = if transport == "t1" { "tcp" } else { "udp" };
        let mut bob = phone(&server, "1002", CALLEE_HZ, name, G711);
        let settings = |scenario| sipp::Settings {
            scenario,
            remote: server.sip,
            port: None,
            transport,
            user: "1001",
            password,
            callee: "1002",
        };
        Sipp::run(&settings("caller"));
        bob.event("CALL_ESTABLISHED");
        bob.event("CALL_CLOSED");
        server.cdrs(1);
        if transport == "t1" {
            // A connection ends with the SIPp that registered by it.
            continue;
        }
        let port = Some(super::common::ports::port());
        Sipp::run(&sipp::Settings { port, ..settings("register") });
        let callee = Sipp::start(&sipp::Settings { port, callee: "1001", ..settings("callee") });
        bob.dial(&server.uri("1001"));
        bob.event("CALL_ESTABLISHED");
        // SIPp sends back what it gets.
        bob.hears(CALLEE_HZ);
        bob.hang_up();
        callee.succeeds();
        server.cdrs(2);
    }
}
