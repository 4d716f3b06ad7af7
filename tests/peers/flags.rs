//! What is not as it should be in a call is flagged while it lives and in its CDR, each flag by what phones do.

use super::common::events::Watching;
use super::common::metrics::Scrape;
use super::common::rtp::Talk;
use super::common::server::Server;
use super::common::speech::Law;
use super::common::srtp::{CM_80, GCM_128, Secured, Suite};
use super::common::{SOON, eventually};
use super::pair::{Attempt, CALLEE_HZ, CALLER_HZ, Pair, phone, reinvite};
use holdfast::net::clock;
use holdfast::sip::{HeaderName, Message, Method, Status};
use holdfast::time::Timestamp;
use holdfast::views::Rfc3339;
use serde_json::{Value, json};
use std::time::Duration;

/// Live calls with that flag come to be so many.
fn comes_to(server: &Server, flag: &str, count: usize) {
    eventually(&format!("{count} calls with {flag}"), SOON, || {
        (server.list(&format!("/calls?flag={flag}")).len() == count).then_some(())
    });
}

/// So many seconds pass, and neither phone counts as not heard.
fn stays_unflagged(server: &Server, seconds: u64) {
    for _ in 0..=10 * seconds {
        for flag in ["one_way_audio", "silence"] {
            let flagged = server.list(&format!("/calls?flag={flag}"));
            assert!(flagged.is_empty(), "{flagged:#?}");
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// The one call that is over had that flag.
fn had(server: &Server, flag: &str) {
    let cdr = server.cdrs(1).remove(0);
    let flags = cdr["flags"].as_array().expect("a list");
    assert!(flags.contains(&flag.into()), "{cdr:#?}");
    let found = |flag: &str| -> Vec<Value> {
        let found = server.list(&format!("/cdrs?flag={flag}"));
        found.into_iter().map(|cdr| cdr["id"].clone()).collect()
    };
    assert_eq!(found(flag), [cdr["id"].clone()]);
    assert_eq!(found("private_address_in_sdp"), [Value::Null; 0]);
    let told = server.command(&["cdrs", "--flag", flag]);
    assert!(String::from_utf8_lossy(&told.stdout).contains(flag), "{told:?}");
}

fn hang_up(server: &Server, mut pair: Pair, flag: &str) {
    pair.caller.hangs_up_on(&mut pair.callee);
    had(server, flag);
}

#[test]
fn an_answer_that_is_acknowledged_late() {
    let server = Server::start();
    let mut attempt = Attempt::new(&server, ["udp", "udp"]).ringing();
    let accepted = attempt.accepted();
    comes_to(&server, "ack_missing", 1);
    let mut pair = attempt.acknowledged(&accepted);
    pair.callee.phone.request_of(&Method::Ack);
    comes_to(&server, "ack_missing", 0);
    hang_up(&server, pair, "ack_missing");
}

#[test]
fn an_invite_that_is_said_again_and_again() {
    let server = Server::start();
    let mut attempt = Attempt::new(&server, ["udp", "udp"]);
    let again = attempt.invite.to_bytes();
    (0..3).for_each(|_| attempt.caller.send(&again));
    comes_to(&server, "retransmission_storm", 1);
    let mut attempt = attempt.ringing();
    let accepted = attempt.accepted();
    let mut pair = attempt.acknowledged(&accepted);
    pair.callee.phone.request_of(&Method::Ack);
    comes_to(&server, "retransmission_storm", 1);
    hang_up(&server, pair, "retransmission_storm");
}

/// A phone of the callee that is off is invited again and again, while another one answers: nothing is wrong with the
/// call.
#[test]
fn a_phone_that_is_off_beside_one_that_answers() {
    let server = Server::start();
    let _off = phone(&server, "1002", "udp");
    let [caller, callee] = ["1001", "1002"].map(|user| phone(&server, user, "udp"));
    let mut attempt = Attempt::between(caller, callee, &server.uri("1002")).ringing();
    let call = server.list("/calls")[0]["id"].as_str().expect("an id").to_owned();
    eventually("the other was invited four times", SOON, || {
        let ladder = server.api("GET", &format!("/calls/{call}/ladder"), None).1;
        let messages = ladder["messages"].as_array().expect("messages").clone();
        let is_again =
            |message: &&Value| message["retransmission"] == true && message["summary"] == "INVITE";
        let again: Vec<&Value> = messages.iter().filter(is_again).map(|one| &one["leg"]).collect();
        let most = again.iter().map(|leg| again.iter().filter(|one| one == &leg).count()).max();
        (most >= Some(3)).then_some(())
    });
    let accepted = attempt.accepted();
    let mut pair = attempt.acknowledged(&accepted);
    pair.callee.phone.request_of(&Method::Ack);
    pair.hear_each_other();
    comes_to(&server, "retransmission_storm", 0);
    pair.caller.hangs_up_on(&mut pair.callee);
    assert_eq!(server.cdrs(1)[0]["flags"], json!([]));
}

#[test]
fn a_phone_that_is_busy_with_its_own_change_again_and_again() {
    let server = Server::start();
    let mut pair = Pair::talking(&server, ["udp", "udp"]);
    let Pair { caller, callee } = &mut pair;
    let mut request = caller.dialog.request(Method::Invite);
    request.headers.push(HeaderName::ContentType, "application/sdp");
    request.body = caller.talk.sdp(2, "sendonly").into();
    let sent = caller.phone.send_in_dialog(request);
    for _ in 0..2 {
        let received = callee.phone.request_of(&Method::Invite);
        callee.phone.respond(&received, 491, "unused", None);
        callee.phone.request_of(&Method::Ack);
    }
    comes_to(&server, "glare_loop", 1);
    let received = callee.phone.request_of(&Method::Invite);
    let answer = callee.talk.sdp(2, "recvonly");
    callee.phone.respond(&received, 200, "unused", Some(&answer));
    let accepted = caller.phone.response_to(&Method::Invite);
    assert_eq!(accepted.status, Status(200));
    caller.phone.acknowledge(&caller.dialog, &sent, None);
    callee.phone.request_of(&Method::Ack);
    hang_up(&server, pair, "glare_loop");
}

#[test]
fn an_offer_that_nobody_takes() {
    let server = Server::start();
    let mut attempt = Attempt::new(&server, ["udp", "udp"]);
    attempt.callee.respond(&attempt.received, 488, "callee", None);
    let refused = attempt.caller.response_to(&Method::Invite);
    assert_eq!(refused.status, Status(488));
    attempt.caller.acknowledge_refusal(&attempt.invite, &refused);
    had(&server, "media_rejected");
}

#[test]
fn phones_without_a_codec_in_common() {
    let server = Server::start();
    let [caller, callee] = ["1001", "1002"].map(|user| phone(&server, user, "udp"));
    let talks = [Talk::speaking(CALLER_HZ, Law::Mu), Talk::speaking(CALLEE_HZ, Law::A)];
    let attempt = Attempt::with_talks(caller, callee, &server.uri("1002"), talks);
    let pair = Pair::answered(attempt);
    pair.hear_each_other();
    comes_to(&server, "codec_mismatch", 1);
    hang_up(&server, pair, "codec_mismatch");
}

#[test]
fn either_phone_that_falls_silent_and_not_one_that_may() {
    let server = Server::start();
    let mut pair = Pair::talking(&server, ["udp", "udp"]);
    pair.hear_each_other();
    for side in [&pair.caller, &pair.callee] {
        side.talk.mute(true);
        comes_to(&server, "one_way_audio", 1);
        side.talk.mute(false);
        comes_to(&server, "one_way_audio", 0);
    }
    // Each holds, and the held one says nothing for longer than who talks may.
    for _ in 0..2 {
        let Pair { caller, callee } = &mut pair;
        reinvite(caller, callee, "sendonly", "recvonly", false);
        callee.talk.mute(true);
        stays_unflagged(&server, 4);
        callee.talk.mute(false);
        reinvite(caller, callee, "sendrecv", "sendrecv", false);
        caller.talk.hears(callee.talk.tone_hz);
        callee.talk.hears(caller.talk.tone_hz);
        core::mem::swap(&mut pair.caller, &mut pair.callee);
    }
    // The change of the session has not made anybody deaf.
    pair.callee.talk.mute(true);
    comes_to(&server, "one_way_audio", 1);
    hang_up(&server, pair, "one_way_audio");
}

/// How soon it is told that a phone is not heard.
const WITHIN: Duration = Duration::from_secs(3);

/// A counter of the only process comes to that value.
fn counts(server: &Server, what: &str, value: f64) {
    let sample = format!("holdfast_{what}_total");
    eventually(&format!("{sample} is {value}"), SOON, || {
        (Scrape::of(server.admin).value(&sample) == value).then_some(())
    });
}

/// The last event of that kind was told in time, and the API shows it by now in time too.
fn was_told_in_time(watching: &Watching, kind: &str, count: usize, since: Timestamp) -> Value {
    let shown = clock::now().saturating_since(since);
    let came = watching.until(kind, count);
    let told = came.iter().rfind(|event| event["type"] == kind).expect("it is there").clone();
    let at: Rfc3339 = told["at"].as_str().and_then(|at| at.parse().ok()).expect("a time");
    let after = at.0.saturating_since(since);
    assert!(!after.is_zero() && after < WITHIN && shown < WITHIN, "{kind}: {after:?} {shown:?}");
    told
}

/// As behind a NAT that lets nothing of it through: the callee is mute from before it answers, and later both are.
fn who_is_never_heard_is_told_of(policy: &str, talks: [Talk; 2]) {
    let server = Server::start();
    let [caller, callee] = ["1001", "1002"].map(|user| {
        server.user_with(user, &json!({"srtp": policy}));
        phone(&server, user, "udp")
    });
    let watching = Watching::start(&server, "types=call.*");
    talks[1].mute(true);
    let mut attempt = Attempt::with_talks(caller, callee, &server.uri("1002"), talks).ringing();
    let accepted = attempt.accepted();
    let answered = clock::now();
    let mut pair = attempt.acknowledged(&accepted);
    pair.callee.phone.request_of(&Method::Ack);
    comes_to(&server, "one_way_audio", 1);
    let told = was_told_in_time(&watching, "call.one_way", 1, answered);
    assert_eq!(told["role"], "callee");
    assert_eq!(pair.callee.talk.sent(), 0);
    pair.callee.talk.hears(CALLER_HZ);
    counts(&server, "one_way_audio", 1.0);
    counts(&server, "no_audio", 0.0);
    pair.callee.talk.mute(false);
    comes_to(&server, "one_way_audio", 0);
    pair.hear_each_other();
    for side in [&pair.caller, &pair.callee] {
        side.talk.mute(true);
    }
    let stopped = clock::now();
    comes_to(&server, "silence", 1);
    was_told_in_time(&watching, "call.silent", 1, stopped);
    counts(&server, "no_audio", 1.0);
    hang_up(&server, pair, "one_way_audio");
}

#[test]
fn a_phone_that_is_never_heard() {
    who_is_never_heard_is_told_of("off", [Talk::new(CALLER_HZ), Talk::new(CALLEE_HZ)]);
}

#[test]
fn a_phone_with_srtp_that_is_never_heard() {
    let talk =
        |hz: u32, suite: Suite| Talk::new(hz).secured(Secured::new(suite, "RTP/SAVP", hz as u8));
    who_is_never_heard_is_told_of("mandatory", [talk(CALLER_HZ, CM_80), talk(CALLEE_HZ, GCM_128)]);
}

#[test]
fn a_phone_of_another_codec_that_is_never_heard() {
    let talks = [Talk::new(CALLER_HZ), Talk::speaking(CALLEE_HZ, Law::Opus)];
    who_is_never_heard_is_told_of("off", talks);
}

/// RFC 3261 §13.3.1.4: after 64 × T1 the call ends, and both phones are told.
#[test]
fn an_answer_that_is_never_acknowledged_is_counted() {
    const PATIENCE: Duration = Duration::from_secs(40);
    let server = Server::start();
    let mut attempt = Attempt::new(&server, ["tcp", "tcp"]).ringing();
    attempt.accepted();
    comes_to(&server, "ack_missing", 1);
    counts(&server, "ack_missing", 0.0);
    for phone in [&mut attempt.caller, &mut attempt.callee] {
        eventually("a BYE", PATIENCE, || {
            let is_bye = |came: &Message| matches!(came, Message::Request(request) if request.method == Method::Bye);
            phone.comes(Duration::from_millis(100), is_bye).then_some(())
        });
        let bye = phone.request_of(&Method::Bye);
        phone.respond(&bye, 200, "unused", None);
    }
    counts(&server, "ack_missing", 1.0);
    had(&server, "ack_missing");
    assert_eq!(server.cdrs(1)[0]["end_cause"], "ack_timeout");
}

/// From its last packet to the time of the event, and until the API shows it.
#[test]
fn either_phone_that_stops_is_told_of_within_three_seconds() {
    let server = Server::start();
    let pair = Pair::talking(&server, ["udp", "udp"]);
    let watching = Watching::start(&server, "types=call.*");
    pair.hear_each_other();
    let Pair { caller, callee } = &pair;
    let cases = [("caller", caller, callee), ("callee", callee, caller)];
    for (count, (role, stops, hears)) in (1..).zip(cases) {
        stops.talk.mute(true);
        comes_to(&server, "one_way_audio", 1);
        let last = hears.talk.came().pop().expect("it was heard").at;
        let stopped = clock::now() - last.elapsed();
        assert_eq!(was_told_in_time(&watching, "call.one_way", count, stopped)["role"], role);
        counts(&server, "one_way_audio", count as f64);
        stops.talk.mute(false);
        comes_to(&server, "one_way_audio", 0);
        pair.hear_each_other();
    }
    hang_up(&server, pair, "one_way_audio");
}

#[test]
fn a_silent_phone_that_is_held_and_let_go_has_time_again() {
    let server = Server::start();
    let mut pair = Pair::talking(&server, ["udp", "udp"]);
    pair.hear_each_other();
    pair.callee.talk.mute(true);
    comes_to(&server, "one_way_audio", 1);
    reinvite(&mut pair.caller, &mut pair.callee, "sendonly", "recvonly", false);
    comes_to(&server, "one_way_audio", 0);
    pair.callee.talk.mute(false);
    reinvite(&mut pair.caller, &mut pair.callee, "sendrecv", "sendrecv", false);
    pair.hear_each_other();
    stays_unflagged(&server, 0);
    hang_up(&server, pair, "one_way_audio");
}

#[test]
fn two_phones_that_fall_silent() {
    let server = Server::start();
    let mut pair = Pair::talking(&server, ["udp", "udp"]);
    let watching = Watching::start(&server, "types=call.*");
    pair.hear_each_other();
    for side in [&pair.caller, &pair.callee] {
        side.talk.mute(true);
    }
    comes_to(&server, "silence", 1);
    comes_to(&server, "one_way_audio", 0);
    assert_eq!(server.list("/calls")[0]["silent"], true);
    // Nobody need be heard while neither may speak.
    reinvite(&mut pair.caller, &mut pair.callee, "inactive", "inactive", false);
    comes_to(&server, "silence", 0);
    reinvite(&mut pair.caller, &mut pair.callee, "sendrecv", "sendrecv", false);
    comes_to(&server, "silence", 1);
    pair.callee.talk.mute(false);
    comes_to(&server, "one_way_audio", 1);
    comes_to(&server, "silence", 0);
    pair.caller.talk.mute(false);
    comes_to(&server, "one_way_audio", 0);
    for kind in ["call.silent", "call.heard"] {
        watching.until(kind, 2);
    }
    hang_up(&server, pair, "silence");
}
