//! SRTP on either leg: our own phones in every suite, baresip, what must be refused, tones each way.

use super::common::api::Api;
use super::common::baresip::{self, Baresip};
use super::common::rtp::{Mischief, Talk};
use super::common::server::Server;
use super::common::srtp::{CM_32, CM_80, GCM_128, GCM_256, Secured, Suite};
use super::common::{SOON, eventually};
use super::pair::{self, Attempt, CALLEE_HZ, CALLER_HZ, Pair, reinvite};
use holdfast::sip::{HeaderName, Method, Status};
use serde_json::{Value, json};

/// A phone's way: its suite and the protocol of its m= line; `None`: RTP.
type Way = Option<(Suite, &'static str)>;

/// 1001 calls 1002, each in its way.
fn talking(server: &Api, ways: [Way; 2]) -> Pair {
    for (extension, way) in ["1002", "1001"].iter().zip([ways[1], ways[0]]) {
        server.user_with(
            extension,
            &json!({"srtp": if way.is_some() { "mandatory" } else { "off" }}),
        );
    }
    let [caller, callee] = ["1001", "1002"].map(|user| registered(server, user));
    let talk = |hz: u32, way: Way| match way {
        None => Talk::new(hz),
        Some((suite, protocol)) => Talk::new(hz).secured(Secured::new(suite, protocol, hz as u8)),
    };
    let talks = [talk(CALLER_HZ, ways[0]), talk(CALLEE_HZ, ways[1])];
    Pair::answered(Attempt::with_talks(caller, callee, &server.uri("1002"), talks))
}

/// Registered as the user is now.
fn registered(server: &Api, user: &str) -> super::common::phone::Phone {
    pair::phone(server, user, "udp")
}

/// The first stream of each leg, as the API shows it.
fn streams(server: &Api) -> [Value; 2] {
    eventually("the call is shown", SOON, || {
        let id = server.list("/calls").first()?["id"].as_str()?.to_owned();
        let (status, call) = server.api("GET", &format!("/calls/{id}"), None);
        let leg = |at: usize| call["legs"][at]["streams"][0].clone();
        (status == 200).then(|| [leg(0), leg(1)])
    })
}

#[test]
fn every_suite_talks_to_rtp_and_to_every_other() {
    let ways = [
        [Some((CM_80, "RTP/SAVP")), None],
        [None, Some((GCM_128, "RTP/SAVP"))],
        [Some((GCM_256, "RTP/SAVP")), Some((CM_32, "RTP/SAVP"))],
        // RFC 8643: SRTP in RTP/AVP.
        [Some((CM_80, "RTP/AVP")), Some((CM_80, "RTP/SAVP"))],
    ];
    for ways in ways {
        let server = Server::start();
        let mut pair = talking(&server, ways);
        pair.hear_each_other();
        for (stream, way) in streams(&server).iter().zip(ways) {
            assert_eq!(stream["srtp"], if way.is_some() { "sdes" } else { "none" }, "{stream}");
            assert_eq!(stream["received"]["rejected"], 0, "{stream}");
        }
        let Pair { caller, callee } = &mut pair;
        reinvite(caller, callee, "sendonly", "recvonly", false);
        reinvite(caller, callee, "sendrecv", "sendrecv", false);
        pair.hear_each_other();
        pair.caller.hangs_up_on(&mut pair.callee);
        server.cdrs(1);
    }
}

#[test]
fn wrong_tags_are_counted_and_unheard_and_repeats_do_no_harm() {
    let server = Server::start();
    let mut pair = talking(&server, [Some((CM_80, "RTP/SAVP")), None]);
    pair.hear_each_other();
    pair.caller.talk.does(Some(Mischief::WrongTag));
    pair.callee.talk.hears_nothing();
    let rejected = || streams(&server)[0]["received"]["rejected"].as_u64().expect("a count");
    let wrong =
        eventually("refused packets are shown", SOON, || Some(rejected()).filter(|n| *n > 10));
    pair.caller.talk.does(Some(Mischief::Twice));
    pair.callee.talk.hears(CALLER_HZ);
    eventually("repeats are refused", SOON, || (rejected() > wrong + 20).then_some(()));
    pair.hear_each_other();
    pair.caller.hangs_up_on(&mut pair.callee);
    server.cdrs(1);
}

#[test]
fn who_must_have_srtp_and_offers_none_is_told_so() {
    let server = Server::start();
    server.user_with("1001", &json!({"srtp": "mandatory"}));
    server.user("1002");
    let (mut caller, _callee) = (registered(&server, "1001"), registered(&server, "1002"));
    let talk = Talk::new(CALLER_HZ);
    let invite = caller.invite(&server.uri("1002"), Some(&talk.sdp(1, "sendrecv")));
    let refused = caller.response();
    caller.acknowledge_refusal(&invite, &refused);
    assert_eq!(refused.status, Status(488));
    let warning = refused.headers.get(&HeaderName::Warning).unwrap_or_default();
    assert!(warning.contains("no SRTP"), "{warning}");
    assert_eq!(server.cdrs(1)[0]["sip_status"], 488);
}

fn phone(
    server: &Server,
    user: &str,
    [srtp, encryption, codecs]: [&str; 3],
    tone_hz: u32,
) -> Baresip {
    let password = server.user_with(user, &json!({"srtp": srtp}));
    let server = Some(server.sip);
    let settings = baresip::Settings {
        user,
        password,
        server,
        codecs,
        tone_hz,
        encryption,
        ..Default::default()
    };
    Baresip::start(&settings).registered()
}

/// Policy of the user, setting of its baresip, codecs; and what the API says of the leg.
#[test]
fn baresip_talks_srtp_to_rtp_and_to_srtp_transcoded_too() {
    const PCMU: &str = "PCMU/8000/1";
    for [(caller, caller_srtp), (callee, callee_srtp)] in [
        [(["mandatory", "srtp-mand", PCMU], "sdes"), (["off", "", PCMU], "none")],
        [
            (["optional", "srtp", PCMU], "sdes"),
            (["mandatory", "srtp-mand", "opus/48000/2"], "sdes"),
        ],
        [(["optional", "", PCMU], "none"), (["optional", "srtp", "PCMA/8000/1"], "sdes")],
    ] {
        let server = Server::start();
        let mut alice = phone(&server, "1001", caller, CALLER_HZ);
        let mut bob = phone(&server, "1002", callee, CALLEE_HZ);
        alice.dial(&server.uri("1002"));
        alice.event("CALL_ESTABLISHED");
        bob.event("CALL_ESTABLISHED");
        alice.hears(CALLEE_HZ);
        bob.hears(CALLER_HZ);
        let [one, other] = streams(&server);
        assert_eq!((&one["srtp"], &other["srtp"]), (&caller_srtp.into(), &callee_srtp.into()));
        alice.hang_up();
        bob.event("CALL_CLOSED");
        assert_eq!(server.cdrs(1)[0]["disposition"], "answered");
    }
}

#[test]
fn baresip_holds_and_resumes_under_srtp() {
    let server = Server::start();
    server.user_with("1002", &json!({"srtp": "mandatory"}));
    let mut alice = phone(&server, "1001", ["mandatory", "srtp-mand", "PCMU/8000/1"], CALLER_HZ);
    let mut far = registered(&server, "1002");
    let talk = Talk::new(CALLEE_HZ).secured(Secured::new(GCM_128, "RTP/SAVP", 1));
    alice.dial(&server.uri("1002"));
    for (version, direction) in [(1, "sendrecv"), (2, "recvonly"), (3, "sendrecv")] {
        match version {
            2 => alice.hold(),
            3 => alice.resume(),
            _ => {}
        }
        let invite = far.request_of(&Method::Invite);
        talk.told(&invite.body);
        far.respond(&invite, 200, "far", Some(&talk.sdp(version, direction)));
        far.request_of(&Method::Ack);
        match version {
            1 => alice.hears(CALLEE_HZ),
            2 => eventually("the API tells who holds", SOON, || {
                (server.list("/calls").first()?["hold"] == "caller").then_some(())
            }),
            _ => {}
        }
    }
    talk.hears(CALLER_HZ);
    alice.hang_up();
    let bye = far.request_of(&Method::Bye);
    far.respond(&bye, 200, "far", None);
    assert_eq!(server.cdrs(1)[0]["disposition"], "answered");
}

#[test]
fn baresip_without_srtp_is_refused_where_there_must_be() {
    let server = Server::start();
    let mut alice = phone(&server, "1001", ["mandatory", "", "PCMU/8000/1"], CALLER_HZ);
    let _bob = phone(&server, "1002", ["off", "", "PCMU/8000/1"], CALLEE_HZ);
    alice.dial(&server.uri("1002"));
    let why = alice.event("CALL_CLOSED");
    assert!(why.contains("488"), "{why}");
}
