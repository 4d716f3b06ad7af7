//! Branches of a fork: what the caller hears of them, who is cancelled, who wins (RFC 3261 §13, §16.7).

use super::*;
use crate::control::{Hears, Tone};

fn one() -> String {
    phone(1002, 1)
}

fn two() -> String {
    phone(1002, 2)
}

#[test]
fn two_branches_ring_as_one_without_sdp() {
    let mut bench = Bench::new(2, "", &sdp(4_000, 1, ""));
    assert_eq!(bench.heard(&one()), ["INVITE sdp"]);
    assert_eq!(bench.heard(&two()), ["INVITE sdp"]);
    let ports = [one(), two()].map(|to| text(&bench.request(&to, &Method::Invite).body));
    assert_ne!(ports[0], ports[1], "each branch has its own ports");
    bench.answer(&one(), 183, &sdp(5_000, 1, ""));
    bench.answer(&two(), 180, "");
    assert_eq!(bench.heard(CALLER), ["100", "180"]);
    bench.answer(&one(), 200, &sdp(5_000, 1, ""));
    assert_eq!(bench.heard(CALLER), ["200 sdp"]);
    let tag = |status| {
        let response = bench.response(CALLER, status);
        response.to().and_then(|to| to.tag()).map(std::borrow::Cow::into_owned)
    };
    assert_eq!(tag(180), tag(200), "one To tag");
    assert!(tag(180).is_some_and(|tag| tag.len() >= 16));
}

/// The caller's answer, once given, is repeated byte for byte, whoever answers in the end.
#[test]
fn an_answer_once_given_is_repeated_byte_for_byte() {
    let mut bench = Bench::new(2, "", &sdp(4_000, 1, ""));
    bench.answer(&one(), 486, "");
    bench.answer(&two(), 183, &sdp(5_000, 1, ""));
    bench.answer(&two(), 180, "");
    bench.answer(&two(), 200, &sdp(5_002, 2, "a=ptime:30\r\n"));
    assert_eq!(bench.heard(CALLER), ["100", "183 sdp", "180 sdp", "200 sdp"]);
    let body = |status| bench.response(CALLER, status).body;
    assert_eq!(body(183), body(180));
    assert_eq!(body(183), body(200));
}

#[test]
fn cancel_waits_for_a_provisional_and_says_why() {
    let mut bench = Bench::new(3, "", &sdp(4_000, 1, ""));
    let three = phone(1002, 3);
    bench.answer(&one(), 180, "");
    bench.answer(&two(), 180, "");
    bench.answer(&one(), 200, &sdp(5_000, 1, ""));
    assert_eq!(bench.heard(&two()), ["INVITE sdp", "CANCEL"]);
    assert_eq!(bench.heard(&three), ["INVITE sdp"], "it has said nothing yet");
    bench.answer(&three, 100, "");
    assert_eq!(bench.heard(&three), ["CANCEL"]);
    for to in [two(), three] {
        let cancel = bench.request(&to, &Method::Cancel);
        let reason = cancel.headers.get(&HeaderName::Reason);
        assert_eq!(reason, Some("SIP;cause=200;text=\"Call completed elsewhere\""));
        let invite = bench.request(&to, &Method::Invite);
        assert_eq!(cancel.headers.get(&HeaderName::Via), invite.headers.get(&HeaderName::Via));
        assert_eq!(cancel.uri, invite.uri);
    }
}

#[test]
fn a_late_answer_is_acknowledged_and_ended() {
    let mut bench = Bench::new(2, "", &sdp(4_000, 1, ""));
    bench.answer(&two(), 180, "");
    bench.answer(&one(), 200, &sdp(5_000, 1, ""));
    bench.heard(&two());
    bench.answer(&two(), 200, &sdp(6_000, 1, ""));
    assert_eq!(bench.heard(&two()), ["ACK", "BYE"]);
    bench.answer(&two(), 200, &sdp(6_000, 1, ""));
    assert_eq!(bench.heard(&two()), ["ACK"], "its repeat only is acknowledged");
    assert_eq!(bench.heard(CALLER), ["100", "180", "200 sdp"]);
}

/// A proxy behind the branch forked: the second dialog is ended, the first goes on.
#[test]
fn a_forked_answer_is_acknowledged_and_ended() {
    let mut bench = Bench::plain();
    bench.answer(&one(), 180, "");
    bench.answer(&one(), 200, &sdp(5_000, 1, ""));
    bench.acknowledge(1, "");
    bench.heard(&one());
    let invite = bench.request(&one(), &Method::Invite);
    let mut forked = invite.response(Status(200), Some("another"));
    forked.headers.push(HeaderName::Contact, "<sip:other@10.9.9.9>");
    forked.headers.push(HeaderName::ContentType, "application/sdp");
    forked.body = Bytes::from(sdp(6_000, 1, ""));
    bench.respond_raw(&one(), forked);
    assert_eq!(bench.heard(&one()), ["ACK", "BYE"]);
    let bye = bench.request(&one(), &Method::Bye);
    assert_eq!(bye.to().and_then(|to| to.tag()).as_deref(), Some("another"));
    assert_eq!(bye.uri.as_str(), "sip:other@10.9.9.9");
    bench.ask(CALLER, "BYE", 2, "", "");
    let bye = bench.request(&one(), &Method::Bye);
    assert_eq!(bye.to().and_then(|to| to.tag()).as_deref(), Some("t10x0x2x1x5060"));
    bench.must_end();
}

#[test]
fn six_hundred_ends_all() {
    let mut bench = Bench::new(3, "", &sdp(4_000, 1, ""));
    bench.answer(&one(), 180, "");
    bench.answer(&two(), 180, "");
    bench.answer(&one(), 486, "");
    bench.answer(&phone(1002, 3), 603, "");
    assert_eq!(bench.heard(CALLER), ["100", "180", "603"]);
    bench.heard(&one());
    assert_eq!(bench.heard(&two()), ["INVITE sdp", "CANCEL"]);
    let cancel = bench.request(&two(), &Method::Cancel);
    assert_eq!(cancel.headers.get(&HeaderName::Reason), Some("SIP;cause=603"));
}

#[test]
fn the_best_answer_is_what_the_caller_hears() {
    for (answers, told) in [
        ([486, 480], 486),
        ([480, 486], 486),
        ([480, 404], 480),
        ([404, 500], 404),
        ([500, 404], 404),
        ([503, 408], 500),
        ([488, 486], 486),
        ([486, 488], 486),
        ([401, 404], 404),
        ([407, 488], 488),
        ([415, 480], 480),
        ([401, 407], 480),
        ([503, 503], 500),
        ([302, 486], 486),
    ] {
        let mut bench = Bench::new(2, "", &sdp(4_000, 1, ""));
        bench.answer(&one(), answers[0], "");
        assert_eq!(bench.heard(CALLER), ["100"], "one branch still rings");
        bench.answer(&two(), answers[1], "");
        assert_eq!(bench.heard(CALLER), [told.to_string()], "{answers:?}");
        for to in [one(), two()] {
            assert!(bench.heard(&to).contains(&"ACK".to_owned()), "failures are acknowledged");
        }
    }
}

#[test]
fn silence_and_unreachable_phones() {
    let mut bench = Bench::plain();
    bench.wait(Duration::from_secs(32));
    assert_eq!(count(&bench.heard(&one()))["INVITE sdp"], 7, "T1 doubles until Timer B");
    assert_eq!(bench.heard(CALLER), ["100", "408"]);
    let mut bench = Bench::plain();
    bench.input(Input::Unreachable { leg: LegId(1), branch: 1 });
    assert_eq!(bench.heard(CALLER), ["100", "500"]);
}

#[test]
fn early_media_whose_branch_dies_becomes_ringback() {
    let mut bench = Bench::plain();
    bench.answer(&one(), 183, &sdp(5_000, 1, ""));
    assert_eq!(bench.hears(LegId::CALLER), Hears::Leg(LegId(1)));
    bench.answer_with(&one(), &Method::Invite, 302, "Contact: <sip:1003@pbx>", "");
    assert_eq!(bench.hears(LegId::CALLER), Hears::Tone(Tone::Ringback));
    let three = phone(1003, 1);
    bench.answer(&three, 180, "");
    bench.answer(&three, 200, &sdp(6_000, 1, ""));
    assert_eq!(bench.hears(LegId::CALLER), Hears::Leg(LegId(2)));
    let body = |status| bench.response(CALLER, status).body;
    assert_eq!(body(183), body(200));
}

#[test]
fn nobody_answers() {
    let mut bench = Bench::new(2, "", &sdp(4_000, 1, ""));
    bench.answer(&one(), 180, "");
    bench.answer(&two(), 180, "");
    bench.wait(Duration::from_secs(59));
    assert_eq!(bench.heard(CALLER), ["100", "180"]);
    bench.wait(Duration::from_secs(1));
    assert_eq!(bench.heard(CALLER), ["180"], "again after 60 s");
    bench.wait(Duration::from_secs(60));
    assert_eq!(bench.heard(CALLER), ["480"]);
    let reason = bench.response(CALLER, 480).headers.get(&HeaderName::Reason).map(str::to_owned);
    assert_eq!(reason.as_deref(), Some("Q.850;cause=19"));
    for to in [one(), two()] {
        let cancel = bench.request(&to, &Method::Cancel);
        let reason = cancel.headers.get(&HeaderName::Reason).unwrap_or_default();
        assert!(reason.starts_with("Q.850;cause=19"), "{reason}");
    }
    bench.must_end();
    assert_eq!(bench.cdr().end_cause, crate::views::EndCause::RingTimeout);
}

#[test]
fn redirections_are_followed_with_diversion() {
    let mut bench = Bench::plain();
    bench.answer(&one(), 180, "");
    bench.answer_with(&one(), &Method::Invite, 302, "Contact: <sip:1003@pbx>", "");
    let invite = bench.request(&phone(1003, 1), &Method::Invite);
    let diversion = invite.headers.get(&HeaderName::Diversion).unwrap_or_default();
    assert!(diversion.starts_with("<sip:1002@pbx.example>;reason=unconditional"), "{diversion}");
    // Each hop adds one; the sixth is not followed.
    for hop in 1003..=1006_u32 {
        let contact = format!("Contact: <sip:{}@pbx>", hop + 1);
        bench.answer_with(&phone(hop, 1), &Method::Invite, 302, &contact, "");
    }
    let invite = bench.request(&phone(1007, 1), &Method::Invite);
    assert_eq!(invite.headers.all(&HeaderName::Diversion).count(), 5);
    bench.answer_with(&phone(1007, 1), &Method::Invite, 302, "Contact: <sip:1008@pbx>", "");
    assert_eq!(bench.heard(CALLER), ["100", "180", "480"]);
    assert_eq!(bench.heard(&phone(1008, 1)), [""; 0]);
}

#[test]
fn redirections_elsewhere_are_not_followed() {
    for contact in ["<sip:4711@elsewhere.example>", "<sip:1002@pbx>", "<mailto:a@b>", "<tel:+49>"] {
        let mut bench = Bench::plain();
        let contact = format!("Contact: {contact}");
        bench.answer_with(&one(), &Method::Invite, 302, &contact, "");
        assert_eq!(bench.heard(CALLER), ["100", "480"], "{contact}");
    }
}

#[test]
fn the_caller_gives_up() {
    let mut bench = Bench::new(2, "", &sdp(4_000, 1, ""));
    bench.answer(&one(), 180, "");
    let mut cancel = Bench::invite("Reason: SIP;cause=200;text=\"elsewhere\"\r\n", "");
    cancel.method = Method::Cancel;
    cancel.headers.set(HeaderName::CSeq, "1 CANCEL");
    let leg = LegId::CALLER;
    bench.input(Input::Request { leg, request: cancel, flow: flow(CALLER) });
    assert_eq!(bench.heard(CALLER), ["100", "180", "200", "487"]);
    assert_eq!(bench.heard(&one()), ["INVITE sdp", "CANCEL"]);
    let reason = bench.request(&one(), &Method::Cancel);
    let reason = reason.headers.get(&HeaderName::Reason).map(str::to_owned);
    assert_eq!(reason.as_deref(), Some("SIP;cause=200;text=\"elsewhere\""));
    bench.answer(&two(), 200, &sdp(5_000, 1, ""));
    assert_eq!(bench.heard(&two()), ["INVITE sdp", "ACK", "BYE"]);
    bench.must_end();
}

#[test]
fn header_fields_pass_by_one_table() {
    let extra = "Subject: hello\r\nPriority: urgent\r\nAlert-Info: <http://ring>\r\nX-Account: 7\r\n\
                 Call-Info: <http://a>\r\nUser-to-User: 56a3\r\nAccept-Language: da\r\n\
                 Organization: Acme\r\nSupported: 100rel, timer\r\nP-Asserted-Identity: <sip:x@y>\r\n\
                 Diversion: <sip:forged@x>\r\nUser-Agent: phone/1\r\nMin-SE: 90\r\n";
    let mut bench = Bench::new(1, extra, &sdp(4_000, 1, ""));
    let invite = bench.request(&one(), &Method::Invite);
    for (name, value) in [
        ("Subject", Some("hello")),
        ("Priority", Some("urgent")),
        ("Alert-Info", Some("<http://ring>")),
        ("Call-Info", Some("<http://a>")),
        ("User-to-User", Some("56a3")),
        ("Accept-Language", Some("da")),
        ("X-Account", Some("7")),
        ("Organization", None),
        ("Supported", None),
        ("Diversion", None),
        ("Min-SE", None),
        ("User-Agent", Some("Holdfast")),
        ("P-Asserted-Identity", Some("\"User 1001\" <sip:1001@pbx.example>")),
        ("Max-Forwards", Some("69")),
    ] {
        assert_eq!(invite.headers.get(&HeaderName::from(name)), value, "{name}");
    }
    let expires: u64 =
        invite.headers.get(&HeaderName::Expires).unwrap_or_default().parse().expect("s");
    assert!((183..=184).contains(&expires), "the ring timeout and 64 s: {expires}");
    let allow = invite.headers.get(&HeaderName::Allow).unwrap_or_default();
    assert!(!allow.contains("PRACK") && !allow.contains("UPDATE"), "{allow}");
    let extra =
        "Retry-After: 30\nWarning: 399 x \"y\"\nReason: Q.850;cause=17\nServer: phone\nX-Why: z";
    bench.answer_with(&one(), &Method::Invite, 486, extra, "");
    let busy = bench.response(CALLER, 486);
    for (name, value) in [
        ("Retry-After", "30"),
        ("Warning", "399 x \"y\""),
        ("Reason", "Q.850;cause=17"),
        ("X-Why", "z"),
        ("Server", "Holdfast"),
    ] {
        assert_eq!(busy.headers.get(&HeaderName::from(name)), Some(value), "{name}");
    }
}

#[test]
fn privacy_hides_the_caller() {
    let bench = Bench::new(1, "Privacy: id\r\n", &sdp(4_000, 1, ""));
    let invite = bench.request(&one(), &Method::Invite);
    assert!(invite.headers.get(&HeaderName::PAssertedIdentity).is_none());
    let from = invite.headers.get(&HeaderName::From).unwrap_or_default();
    assert!(from.starts_with("\"Anonymous\" <sip:anonymous@anonymous.invalid>"), "{from}");
    assert!(!text(&invite.to_bytes()).contains("1001"), "{}", text(&invite.to_bytes()));
}

/// Redial from the phone's call log works: the caller is named at the domain that phone registered with.
#[test]
fn the_caller_is_named_at_the_phones_domain() {
    let bench = Bench::plain();
    let invite = bench.request(&one(), &Method::Invite);
    let from = invite.headers.get(&HeaderName::From).unwrap_or_default();
    assert!(from.starts_with("\"User 1001\" <sip:1001@pbx.example>;tag="), "{from}");
    assert_eq!(invite.headers.get(&HeaderName::To), Some("<sip:1002@pbx.example>"));
    assert_eq!(invite.uri.as_str(), "sip:1002@10.0.2.1:5060;line=x", "the Contact, byte-exact");
    let contact = invite.headers.get(&HeaderName::Contact).unwrap_or_default();
    assert_eq!(contact, "<sip:1001@10.0.0.1:5060>");
}

/// The node dies between the answer and the losers' last word: whether they heard CANCEL is not known.
#[test]
fn a_branch_that_lost_is_cancelled_again_after_a_takeover() {
    let mut bench = Bench::new(2, "", &sdp(4_000, 1, ""));
    bench.answer(&one(), 180, "");
    bench.answer(&two(), 180, "");
    bench.answer(&one(), 200, &sdp(5_000, 1, ""));
    bench.heard(&two());
    bench.is_taken_over();
    assert_eq!(bench.heard(&two()), ["CANCEL"]);
    bench.answer(&two(), 487, "");
    assert_eq!(bench.heard(&two()), ["ACK"]);
}

/// It answers all the same: acknowledged and ended, whoever has the call by then.
#[test]
fn a_branch_that_lost_and_answers_after_a_takeover_is_ended() {
    let mut bench = Bench::new(2, "", &sdp(4_000, 1, ""));
    bench.answer(&one(), 180, "");
    bench.answer(&two(), 180, "");
    bench.answer(&one(), 200, &sdp(5_000, 1, ""));
    bench.is_taken_over();
    bench.heard(&two());
    bench.answer(&two(), 200, &sdp(5_010, 1, ""));
    assert_eq!(bench.heard(&two()), ["ACK", "BYE"]);
    assert_eq!(bench.call.state(), CallState::Confirmed);
}
