//! SRTP by SDES in the SDP of each leg, by its user's policy; keys in wishes; what the store sees of them.

use super::*;
use crate::call::record::CallRecord;
use crate::control::{RollOver, Srtp};
use crate::rtp::srtp::{Keying, Suite};
use crate::sdp::Crypto;

const KEY: &str = "WVNfX19zZW1jdGwgKCkgewkyMjA7fQp9CnVubGVz";
const OTHER: &str = "d0RmdmcmVCspeEc3QGZiNWpVLFJhQX1cfHAwJSoj";
const EIGHTY: &str = "AES_CM_128_HMAC_SHA1_80";

fn callee() -> String {
    phone(1002, 1)
}

fn line(tag: u32, key: &str) -> String {
    format!("a=crypto:{tag} {EIGHTY} inline:{key}|2^31\r\n")
}

fn keying(key: &str) -> Keying {
    Crypto::parse(&format!("1 {EIGHTY} inline:{key}")).expect("a line").keying
}

/// SDP with lines of SRTP; `protocol` as in m=.
fn secure(port: u16, version: u32, protocol: &str, lines: &str) -> String {
    sdp(port, version, lines).replace("RTP/AVP", protocol)
}

/// Users 1001 and 1002 with these policies, and the offer of 1001.
fn bench(caller: SrtpPolicy, callee: SrtpPolicy, offer: &str) -> Bench {
    Bench::with_users(1, "", offer, |user| match user.extension.as_str() {
        "1001" => user.srtp = caller,
        "1002" => user.srtp = callee,
        _ => {}
    })
}

/// The ways to protect that a body offers or takes.
fn cryptos(body: &[u8]) -> Vec<Crypto> {
    let text = text(body);
    let values = text.lines().filter_map(|line| line.strip_prefix("a=crypto:"));
    values.map(|value| Crypto::parse(value).expect("a line that can be used")).collect()
}

fn protocol(body: &[u8]) -> String {
    let text = text(body);
    let line = text.lines().find(|line| line.starts_with("m=audio")).expect("audio").to_owned();
    line.split(' ').nth(2).expect("a protocol").to_owned()
}

/// What the media node was last asked to do for a leg.
fn wish(bench: &Bench, leg: u16) -> Option<Srtp> {
    let apply = bench.wishes.iter().rev().find_map(control::Request::wish);
    let legs = &apply?.spec.legs;
    legs.iter().find(|spec| spec.leg == LegId(leg))?.streams[0].srtp.clone()
}

#[test]
fn a_callee_that_may_have_srtp_is_offered_it_in_rtp_avp() {
    let offer = sdp(4_000, 1, "");
    let mut bench = bench(SrtpPolicy::Off, SrtpPolicy::Optional, &offer);
    let invite = bench.request(&callee(), &Method::Invite).body;
    let offered = cryptos(&invite);
    assert_eq!(protocol(&invite), "RTP/AVP");
    assert_eq!(offered.iter().map(|crypto| crypto.tag).collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert_eq!(wish(&bench, 1), None, "not agreed yet");
    bench.answer(&callee(), 200, &sdp(5_000, 1, &line(3, KEY)));
    let agreed = wish(&bench, 1).expect("SRTP");
    assert_eq!(agreed.received, keying(KEY));
    assert_eq!(agreed.sent, offered[2].keying);
    assert_eq!(agreed.sent.suite(), Suite::AesCm128HmacSha1_80);
    assert_eq!(wish(&bench, 0), None, "the caller's leg is plain");
    let answer = bench.response(CALLER, 200).body;
    assert_eq!((protocol(&answer).as_str(), cryptos(&answer).len()), ("RTP/AVP", 0));
    let view = bench.call.view(bench.now);
    assert_eq!((&*view.legs[0].streams[0].srtp, &*view.legs[1].streams[0].srtp), ("none", "sdes"));
}

#[test]
fn a_callee_that_may_do_without_does_without() {
    let mut bench = bench(SrtpPolicy::Off, SrtpPolicy::Optional, &sdp(4_000, 1, ""));
    bench.answer(&callee(), 200, &sdp(5_000, 1, ""));
    assert_eq!(wish(&bench, 1), None);
    bench.response(CALLER, 200);
}

#[test]
fn a_callee_that_must_have_srtp_is_offered_nothing_else() {
    let offer = sdp(4_000, 1, "");
    for (answer, agreed) in [
        (secure(5_000, 1, "RTP/SAVP", &line(3, KEY)), true),
        (secure(5_000, 1, "RTP/SAVP", ""), false),
        (sdp(5_000, 1, ""), false),
        (secure(5_000, 1, "RTP/SAVP", "a=crypto:3 F8_128_HMAC_SHA1_80 inline:x\r\n"), false),
    ] {
        let mut bench = bench(SrtpPolicy::Off, SrtpPolicy::Mandatory, &offer);
        let invite = bench.request(&callee(), &Method::Invite).body;
        assert_eq!((protocol(&invite).as_str(), cryptos(&invite).len()), ("RTP/SAVP", 4));
        bench.answer(&callee(), 200, &answer);
        if agreed {
            assert!(wish(&bench, 1).is_some());
            bench.response(CALLER, 200);
            continue;
        }
        let refused = bench.response(CALLER, 488);
        let warning = refused.headers.get(&HeaderName::Warning).unwrap_or_default();
        assert!(warning.contains("no SRTP"), "{warning}");
        bench.request(&callee(), &Method::Ack);
        bench.request(&callee(), &Method::Bye);
    }
}

/// Policy of the caller, its offer, and the protocol and number of keys of our answer; `None`: 488.
#[test]
fn what_a_caller_may_offer() {
    use SrtpPolicy::{Mandatory, Off, Optional};
    let unknown = "a=crypto:1 F8_128_HMAC_SHA1_80 inline:x\r\n";
    let mki = format!("a=crypto:1 {EIGHTY} inline:{KEY}|2^20|1:4\r\n");
    let both = format!("{}{}", unknown, line(7, KEY));
    for (policy, protocol_offered, lines, expect) in [
        (Off, "RTP/AVP", "", Some(0)),
        (Off, "RTP/AVP", &*line(1, KEY), Some(0)),
        (Off, "RTP/SAVP", &*line(1, KEY), None),
        (Optional, "RTP/AVP", "", Some(0)),
        (Optional, "RTP/AVP", unknown, Some(0)),
        (Optional, "RTP/AVP", &*line(7, KEY), Some(1)),
        (Optional, "RTP/SAVP", &*both, Some(1)),
        (Optional, "RTP/SAVPF", &*line(7, KEY), Some(1)),
        (Optional, "RTP/SAVP", unknown, None),
        (Mandatory, "RTP/SAVP", &*line(7, KEY), Some(1)),
        (Mandatory, "RTP/AVP", &*line(7, KEY), Some(1)),
        (Mandatory, "RTP/AVP", "", None),
        (Mandatory, "RTP/SAVP", "", None),
        (Mandatory, "RTP/SAVP", &*mki, None),
    ] {
        let what = format!("{policy:?} {protocol_offered} {lines}");
        let offer = secure(4_000, 1, protocol_offered, lines);
        let mut bench = bench(policy, Off, &offer);
        let Some(count) = expect else {
            let refused = bench.response(CALLER, 488);
            let warning = refused.headers.get(&HeaderName::Warning).unwrap_or_default();
            assert!(warning.contains("SRTP"), "{what}: {warning}");
            assert!(!bench.wire.iter().any(|(to, ..)| *to == callee()), "{what}");
            continue;
        };
        let invite = bench.request(&callee(), &Method::Invite).body;
        assert_eq!((protocol(&invite).as_str(), cryptos(&invite).len()), ("RTP/AVP", 0), "{what}");
        bench.answer(&callee(), 200, &sdp(5_000, 1, ""));
        let answer = bench.response(CALLER, 200).body;
        let taken = cryptos(&answer);
        assert_eq!((protocol(&answer).as_str(), taken.len()), (protocol_offered, count), "{what}");
        let srtp = wish(&bench, 0);
        assert_eq!(srtp.is_some(), count == 1, "{what}");
        if let Some(srtp) = srtp {
            assert_eq!((taken[0].tag, &taken[0].keying), (7, &srtp.sent), "{what}");
            assert_eq!(srtp.received, keying(KEY), "{what}");
            assert_ne!(srtp.sent, srtp.received, "{what}");
        }
    }
}

#[test]
fn of_two_lines_the_one_that_may_be_is_taken() {
    let offer = secure(4_000, 1, "RTP/SAVP", &line(1, KEY)) + "m=audio 4002 RTP/AVP 0\r\n";
    let mut bench = bench(SrtpPolicy::Off, SrtpPolicy::Off, &offer);
    let answered = secure(0, 1, "RTP/AVP", "") + "m=audio 5002 RTP/AVP 0\r\n";
    bench.answer(&callee(), 200, &answered);
    let answer = text(&bench.response(CALLER, 200).body);
    let lines: Vec<_> = answer.lines().filter(|line| line.starts_with("m=")).collect();
    assert!(lines[0].starts_with("m=audio 0 RTP/SAVP"), "{answer}");
    assert!(lines[1].starts_with("m=audio 20002 RTP/AVP 0"), "{answer}");
}

/// Both legs with SRTP, answered.
fn secured() -> Bench {
    let (caller, callee_policy) = (SrtpPolicy::Mandatory, SrtpPolicy::Mandatory);
    let offer = secure(4_000, 1, "RTP/SAVP", &line(1, KEY));
    let mut bench = bench(caller, callee_policy, &offer);
    bench.answer(&callee(), 200, &secure(5_000, 1, "RTP/SAVP", &line(3, OTHER)));
    bench.acknowledge(1, "");
    bench
}

#[test]
fn hold_repeats_the_keys_and_a_new_key_gets_a_new_one() {
    let mut bench = secured();
    let (caller, called) = (wish(&bench, 0).expect("SRTP"), wish(&bench, 1).expect("SRTP"));
    assert_ne!(caller.sent, called.sent);
    let held = secure(4_000, 2, "RTP/SAVP", &(line(1, KEY) + "a=sendonly\r\n"));
    bench.ask(CALLER, "INVITE", 2, "", &held);
    let offered = bench.request(&callee(), &Method::Invite).body;
    let lines = cryptos(&offered);
    assert_eq!((lines.len(), protocol(&offered).as_str()), (1, "RTP/SAVP"));
    assert_eq!(lines[0].keying, called.sent, "ours is repeated");
    let answer = secure(5_000, 2, "RTP/SAVP", &(line(3, OTHER) + "a=recvonly\r\n"));
    bench.answer(&callee(), 200, &answer);
    assert_eq!(cryptos(&bench.response(CALLER, 200).body)[0].keying, caller.sent);
    assert_eq!((wish(&bench, 0), wish(&bench, 1)), (Some(caller.clone()), Some(called.clone())));
    bench.acknowledge(2, "");
    // The caller comes back with another key.
    bench.ask(CALLER, "INVITE", 3, "", &secure(4_000, 3, "RTP/SAVP", &line(1, OTHER)));
    bench.answer(&callee(), 200, &secure(5_000, 3, "RTP/SAVP", &line(3, OTHER)));
    let again = wish(&bench, 0).expect("SRTP");
    assert_eq!(again.received, keying(OTHER));
    assert_ne!(again.sent, caller.sent);
    assert_eq!(cryptos(&bench.response(CALLER, 200).body)[0].keying, again.sent);
    assert_eq!(wish(&bench, 1), Some(called), "the other leg goes on");
    bench.acknowledge(3, "");
    // And with the first one once more: a key of ours that was given up never comes back.
    bench.ask(CALLER, "INVITE", 4, "", &secure(4_000, 4, "RTP/SAVP", &line(1, KEY)));
    bench.answer(&callee(), 200, &secure(5_000, 4, "RTP/SAVP", &line(3, OTHER)));
    let third = wish(&bench, 0).expect("SRTP");
    assert!(third.sent != caller.sent && third.sent != again.sent);
}

/// The media session moves to the second media node, which is on another host.
fn moves(bench: &mut Bench) {
    bench.media_node = 2;
    bench.input(Input::MediaMoves { lives: true });
}

/// The key in our last offer to a phone.
fn offered_key(bench: &Bench, to: &str) -> Keying {
    let lines = cryptos(&bench.request(to, &Method::Invite).body);
    assert_eq!(lines.len(), 1, "{lines:?}");
    lines[0].keying.clone()
}

#[test]
fn at_another_host_our_keys_are_new_and_a_phone_that_refuses_has_the_former_ones() {
    let mut bench = secured();
    let before = [0, 1].map(|leg| wish(&bench, leg).expect("SRTP"));
    moves(&mut bench);
    let there = [0, 1].map(|leg| wish(&bench, leg).expect("SRTP"));
    for (there, before) in there.iter().zip(&before) {
        assert_eq!(there.received, before.received, "the phone's goes on");
        assert_ne!(there.sent, before.sent);
    }
    assert_eq!(offered_key(&bench, CALLER), there[0].sent);
    assert_eq!(offered_key(&bench, &callee()), there[1].sent);
    bench.answer(CALLER, 200, &secure(4_000, 1, "RTP/SAVP", &line(1, KEY)));
    let (..) = (bench.heard(CALLER), bench.heard(&callee()));
    bench.answer(&callee(), 488, "");
    let back = [0, 1].map(|leg| wish(&bench, leg).expect("SRTP"));
    assert_eq!(back, before, "the former session goes on");
    bench.wait(Duration::from_secs(2));
    assert_eq!(offered_key(&bench, CALLER), before[0].sent, "who was told is told again");
    let heard = bench.heard(&callee());
    assert!(!heard.iter().any(|said| said.starts_with("INVITE")), "{heard:?}");
    bench.answer(CALLER, 200, &secure(4_000, 1, "RTP/SAVP", &line(1, KEY)));
    // No key comes back.
    bench.wait(Duration::from_secs(5));
    moves(&mut bench);
    for (again, leg) in [0, 1].map(|leg| wish(&bench, leg).expect("SRTP")).iter().zip(0..) {
        assert!(again.sent != there[leg].sent && again.sent != before[leg].sent);
    }
}

#[test]
fn a_call_that_moves_is_restored_with_its_new_keys_and_the_former_ones() {
    let mut bench = secured();
    let before = [0, 1].map(|leg| wish(&bench, leg).expect("SRTP"));
    moves(&mut bench);
    let there = [0, 1].map(|leg| wish(&bench, leg).expect("SRTP"));
    let record = &bench.saves.last().expect("a save").record;
    let restored =
        Call::restore(Arc::new(settings()), record, Epoch(2), bench.now, &Place::as_before());
    bench.call = restored.expect("a record of ours");
    bench.drain();
    assert_eq!([0, 1].map(|leg| wish(&bench, leg).expect("SRTP")), there);
    bench.answer(CALLER, 200, &secure(4_000, 1, "RTP/SAVP", &line(1, KEY)));
    bench.answer(&callee(), 488, "");
    assert_eq!([0, 1].map(|leg| wish(&bench, leg).expect("SRTP")), before);
}

#[test]
fn a_re_invite_may_not_take_away_what_must_be() {
    let mut bench = secured();
    let before = wish(&bench, 0);
    bench.ask(CALLER, "INVITE", 2, "", &sdp(4_000, 2, ""));
    let refused = bench.response(CALLER, 488);
    assert!(refused.headers.get(&HeaderName::Warning).is_some());
    bench.ask(CALLER, "ACK", 2, "", "");
    assert_eq!(wish(&bench, 0), before);
    assert_eq!(bench.call.state(), CallState::Confirmed);
}

#[test]
fn a_refresh_with_the_same_keys_is_answered_by_us() {
    let mut bench = secured();
    bench.heard(&callee());
    bench.ask(CALLER, "INVITE", 2, "", &secure(4_000, 1, "RTP/SAVP", &line(1, KEY)));
    bench.response(CALLER, 200);
    assert_eq!(bench.heard(&callee()), Vec::<String>::new());
}

#[test]
fn the_store_never_sees_a_key_and_a_restored_call_has_them() {
    let mut bench = secured();
    let roll_over = RollOver { ssrc: 5, count: 2 };
    let kind = control::ReportKind::RolledOver { leg: LegId(1), stream: 0, roll_over };
    let session = crate::ids::SessionId::from(bench.call.id());
    bench.input(Input::Report(control::Report { session, number: 1, kind }));
    bench.wait(Duration::from_secs(60));
    let (caller, called) = (wish(&bench, 0).expect("SRTP"), wish(&bench, 1).expect("SRTP"));
    let answer = text(&bench.response(CALLER, 200).body);
    let ours = answer.split("inline:").nth(1).expect("our key").get(..40).expect("40 characters");
    let secrets = [KEY.as_bytes(), OTHER.as_bytes(), ours.as_bytes(), b"inline:"];
    let raw = [keying(KEY), keying(OTHER), caller.sent.clone(), called.sent.clone()];
    for save in &bench.saves {
        for secret in secrets.into_iter().chain(raw.iter().map(Keying::bytes)) {
            let seen = save.record.windows(secret.len()).any(|window| window == secret);
            assert!(!seen, "rev {:?} shows {}", save.rev, String::from_utf8_lossy(secret));
        }
    }
    let record = &bench.saves.last().expect("a save").record;
    let shown = format!("{:?}", bench.call.record.legs[0].streams);
    assert!(!shown.contains(&format!("{:?}", keying(KEY).bytes())), "{shown}");
    let farewell = farewell(&settings(), (bench.call.id(), Epoch(2)), record, bench.now, "why");
    assert_eq!(farewell.transmits.len(), 2, "BYE to both, by what the sealed record says");
    let passed = record_passing_over(record, &settings().key);
    assert!(passed != *record && passed[..2] == record[..2]);
    let other = Settings { key: ClusterKey::new(b"other"), ..settings() };
    assert!(
        Call::restore(Arc::new(other), record, Epoch(2), bench.now, &Place::as_before()).is_none()
    );
    let restored =
        Call::restore(Arc::new(settings()), record, Epoch(2), bench.now, &Place::as_before());
    bench.call = restored.expect("a record of ours");
    bench.drain();
    assert_eq!(wish(&bench, 0), Some(caller.clone()));
    assert_eq!(wish(&bench, 1), Some(Srtp { roll_over: Some(roll_over), ..called.clone() }));
    // It goes on: hold by the callee, same keys.
    let held = secure(5_000, 2, "RTP/SAVP", &(line(3, OTHER) + "a=sendonly\r\n"));
    bench.ask(&callee(), "INVITE", 1, "", &held);
    assert_eq!(cryptos(&bench.request(CALLER, &Method::Invite).body)[0].keying, caller.sent);
    bench.answer(CALLER, 200, &secure(4_000, 2, "RTP/SAVP", &line(1, KEY)));
    assert_eq!(cryptos(&bench.response(&callee(), 200).body)[0].keying, called.sent);
}

#[test]
fn a_sealed_record_of_version_2_is_read_and_written_back_byte_for_byte() {
    let bytes = include_bytes!("../../../tests/vectors/records/2-secured").as_slice();
    let record = CallRecord::decode(bytes, &settings().key).expect("it can be read");
    assert_eq!(record.encode(2, &settings().key), bytes);
    assert_eq!(record_in_version(bytes, 1), bytes, "no older release reads it, nor must it");
}

#[test]
fn a_ringing_call_is_restored_with_the_callers_offer() {
    let offer = secure(4_000, 1, "RTP/SAVP", &line(9, KEY));
    let mut bench = bench(SrtpPolicy::Optional, SrtpPolicy::Optional, &offer);
    let offered = cryptos(&bench.request(&callee(), &Method::Invite).body);
    let record = &bench.saves.last().expect("a save").record;
    let restored =
        Call::restore(Arc::new(settings()), record, Epoch(2), bench.now, &Place::as_before());
    bench.call = restored.expect("a record of ours");
    bench.drain();
    bench.answer(&callee(), 200, &sdp(5_000, 1, &line(3, OTHER)));
    let (caller, called) = (wish(&bench, 0).expect("SRTP"), wish(&bench, 1).expect("SRTP"));
    assert_eq!((caller.received, called.received), (keying(KEY), keying(OTHER)));
    assert_eq!(called.sent, offered[2].keying, "the key that the INVITE gave");
    let taken = cryptos(&bench.response(CALLER, 200).body);
    assert_eq!((taken[0].tag, &taken[0].keying), (9, &caller.sent));
}

#[test]
fn a_late_offer_has_keys_both_ways() {
    let mut bench = bench(SrtpPolicy::Mandatory, SrtpPolicy::Optional, "");
    bench.answer(&callee(), 200, &sdp(5_000, 1, &line(2, OTHER)));
    let offer = bench.response(CALLER, 200).body;
    assert_eq!((protocol(&offer).as_str(), cryptos(&offer).len()), ("RTP/SAVP", 4));
    bench.acknowledge(1, &secure(4_000, 1, "RTP/SAVP", &line(3, KEY)));
    let (caller, called) = (wish(&bench, 0).expect("SRTP"), wish(&bench, 1).expect("SRTP"));
    assert_eq!((caller.received, called.received), (keying(KEY), keying(OTHER)));
    assert_eq!(caller.sent, cryptos(&offer)[2].keying);
    let taken = cryptos(&bench.request(&callee(), &Method::Ack).body);
    assert_eq!((taken[0].tag, &taken[0].keying), (2, &called.sent));
}
