//! What phones ask within a dialog, and how their silence is noticed.

use super::*;
use crate::control::{Report, ReportKind};
use crate::views::EndCause;

fn callee() -> String {
    phone(1002, 1)
}

#[test]
fn methods_have_their_answers() {
    for (method, status) in [
        ("OPTIONS", 200),
        ("NOTIFY", 200),
        ("SUBSCRIBE", 489),
        ("UPDATE", 405),
        ("PRACK", 405),
        ("REFER", 405),
        ("PUBLISH", 405),
        ("MESSAGE", 405),
        ("FOO", 405),
    ] {
        for from in [CALLER.to_owned(), callee()] {
            let mut bench = Bench::answered();
            bench.heard(&callee());
            bench.ask(&from, method, 7, "", "");
            assert_eq!(bench.heard(&from), [status.to_string()], "{method}");
            let response = bench.response(&from, status);
            let allow = response.headers.get(&HeaderName::Allow);
            assert_eq!(allow.is_some(), matches!(status, 405) || method == "OPTIONS", "{method}");
            assert!(response.headers.get(&HeaderName::Supported).is_none());
        }
    }
}

#[test]
fn info_passes_with_its_answer() {
    for (from, to, status) in
        [(CALLER.to_owned(), callee(), 200), (callee(), CALLER.to_owned(), 415)]
    {
        let mut bench = Bench::answered();
        bench.heard(&callee());
        let body = "Signal=5\r\nDuration=160\r\n";
        bench.ask(&from, "INFO", 2, "Content-Type: application/dtmf-relay\r\n", body);
        let info = bench.request(&to, &Method::Info);
        assert_eq!(text(&info.body), body);
        assert_eq!(info.headers.get(&HeaderName::ContentType), Some("application/dtmf-relay"));
        assert_eq!(bench.heard(&from), [""; 0], "the answer is the other phone's");
        bench.answer_with(&to, &Method::Info, status, "", "");
        assert_eq!(bench.heard(&from), [status.to_string()]);
    }
    let mut bench = Bench::answered();
    bench.ask(CALLER, "INFO", 2, "", "x");
    bench.wait(Duration::from_secs(33));
    assert_eq!(bench.heard(CALLER), ["408"], "never answered");
}

/// What may not have left by a connection is said again, but nothing of before the BYE once that was said.
#[test]
fn a_reinvite_is_not_said_again_after_the_bye() {
    let mut bench = Bench::answered();
    bench.ask(CALLER, "INVITE", 2, "", &sdp(4000, 2, "a=sendonly\r\n"));
    bench.heard(&callee());
    bench.call.say_again_by(|_| true);
    bench.drain();
    assert_eq!(bench.heard(&callee()), ["INVITE sdp"], "it waits for its answer");
    bench.ask(CALLER, "BYE", 3, "", "");
    assert!(bench.heard(&callee()).contains(&"BYE".to_owned()));
    bench.call.say_again_by(|_| true);
    bench.drain();
    assert_eq!(bench.heard(&callee()), ["BYE"]);
}

/// Nor what the phone would refuse, for it answered a later request; and what waited for its connection does not leave.
#[test]
fn a_request_is_not_said_again_after_a_later_one() {
    let mut bench = Bench::answered();
    bench.heard(&callee());
    bench.ask(CALLER, "INFO", 2, "", "x");
    bench.heard(&callee());
    let leg = bench.leg_of(&callee());
    let open = bench.call.record.leg(leg).and_then(|leg| leg.clients.last());
    let request = open.map(|client| client.number);
    let bytes = Bytes::from_static(b"INFO");
    let waits = Transmit { flow: flow(&callee()), bytes, leg, behind: None, request };
    bench.call.say_again_by(|_| true);
    bench.drain();
    assert_eq!(bench.heard(&callee()), ["INFO sdp"]);
    assert!(bench.call.is_wanted(&waits));
    bench.ask(CALLER, "INVITE", 3, "", &sdp(4000, 2, "a=sendonly\r\n"));
    bench.call.say_again_by(|_| true);
    bench.drain();
    assert_eq!(
        bench.heard(&callee()),
        ["INVITE sdp", "INFO sdp", "INVITE sdp"],
        "neither is answered"
    );
    bench.answer_with(&callee(), &Method::Invite, 100, "", "");
    bench.call.say_again_by(|_| true);
    bench.drain();
    assert_eq!(bench.heard(&callee()), ["INVITE sdp"]);
    assert!(!bench.call.is_wanted(&waits));
}

/// What the phone has it knows by its branch (RFC 3261 §17.2.3): a lost final response is fetched again, though a later
/// request was answered meanwhile.
#[test]
fn a_request_that_a_phone_works_on_is_said_again_after_a_later_one() {
    let mut bench = Bench::answered();
    bench.ask(CALLER, "INVITE", 2, "", &sdp(4000, 2, "a=sendonly\r\n"));
    bench.heard(&callee());
    bench.answer_with(&callee(), &Method::Invite, 100, "", "");
    bench.ask(CALLER, "INFO", 3, "", "x");
    bench.heard(&callee());
    bench.answer_with(&callee(), &Method::Info, 200, "", "");
    bench.call.say_again_by(|_| true);
    bench.drain();
    assert_eq!(bench.heard(&callee()), ["INVITE sdp"]);
}

#[test]
fn numbers_and_tags_are_checked() {
    let mut bench = Bench::answered();
    bench.ask(CALLER, "INFO", 9, "", "x");
    bench.ask(CALLER, "OPTIONS", 8, "", "");
    assert_eq!(bench.heard(CALLER), ["500"], "a lower number");
    let mut stranger = Bench::invite("", "");
    stranger.method = Method::Bye;
    stranger.headers.set(HeaderName::CSeq, "10 BYE");
    stranger.headers.set(HeaderName::From, "<sip:1001@pbx>;tag=forged");
    let leg = LegId::CALLER;
    bench.input(Input::Request { leg, request: stranger, flow: flow("10.6.6.6:5060") });
    assert_eq!(bench.heard("10.6.6.6:5060"), ["481"]);
    assert_eq!(bench.call.record.phase, Phase::Confirmed);
    assert_eq!(bench.leg_of(CALLER), LegId::CALLER, "a stranger moves no flow");
}

#[test]
fn repeats_are_answered_by_the_same_response() {
    let mut bench = Bench::plain();
    let repeat = || Input::Request {
        leg: LegId::CALLER,
        request: Bench::invite("", &sdp(4_000, 1, "")),
        flow: flow(CALLER),
    };
    bench.input(repeat());
    bench.answer(&callee(), 180, "");
    bench.input(repeat());
    assert_eq!(bench.heard(CALLER), ["100", "100", "180", "180"]);
    bench.answer(&callee(), 200, &sdp(5_000, 1, ""));
    bench.input(repeat());
    assert_eq!(bench.heard(CALLER), ["200 sdp"], "RFC 6026: absorbed, the 2xx has its own timer");
    assert_eq!(bench.heard(&callee()), ["INVITE sdp", "ACK"]);
    bench.ask(CALLER, "BYE", 2, "", "");
    bench.ask(CALLER, "BYE", 2, "", "");
    assert_eq!(bench.heard(CALLER), ["200", "200"]);
    assert_eq!(bench.heard(&callee()), ["BYE"]);
}

#[test]
fn a_repeated_answer_is_acknowledged_again_even_behind_a_reinvite() {
    let mut bench = Bench::answered();
    let first = bench.request(&callee(), &Method::Invite);
    let mut repeated = first.response(Status(200), Some("t10x0x2x1x5060"));
    repeated.headers.push(HeaderName::Contact, "<sip:phone@10.0.2.1:5060>");
    bench.ask(CALLER, "INVITE", 2, "", &sdp(4_000, 2, "a=sendonly\r\n"));
    bench.answer(&callee(), 200, &sdp(5_000, 2, "a=recvonly\r\n"));
    bench.acknowledge(2, "");
    bench.heard(&callee());
    bench.respond_raw(&callee(), repeated);
    assert_eq!(bench.heard(&callee()), ["ACK"]);
    let ack = bench.request(&callee(), &Method::Ack);
    assert_eq!(ack.cseq().map(|cseq| cseq.number), Some(1));
}

/// Timer of the 2xx: T1, doubled up to T2, for 64 T1; then BYE (RFC 3261 §13.3.1.4).
#[test]
fn an_unacknowledged_answer_is_repeated_then_the_call_ends() {
    let mut bench = Bench::plain();
    bench.answer(&callee(), 200, &sdp(5_000, 1, ""));
    bench.wait(Duration::from_secs(31));
    assert_eq!(count(&bench.heard(CALLER))["200 sdp"], 10);
    bench.wait(Duration::from_secs(1));
    assert_eq!(bench.heard(CALLER), ["200 sdp", "BYE"]);
    assert!(bench.heard(&callee()).contains(&"BYE".to_owned()));
    bench.must_end();
    assert_eq!(bench.cdr().end_cause, EndCause::AckTimeout);
}

fn hold(bench: &mut Bench) {
    bench.ask(CALLER, "INVITE", 2, "", &sdp(4_000, 2, "a=sendonly\r\n"));
    bench.answer(&callee(), 200, &sdp(5_000, 2, "a=recvonly\r\n"));
    bench.acknowledge(2, "");
    bench.heard(CALLER);
    bench.heard(&callee());
}

#[test]
fn a_held_phone_is_asked_every_minute() {
    let mut bench = Bench::answered();
    bench.heard(&callee());
    bench.wait(Duration::from_secs(180));
    assert_eq!(bench.heard(&callee()), [""; 0], "who sends is judged by its RTP");
    hold(&mut bench);
    for _ in 0..3 {
        bench.wait(Duration::from_secs(61));
        assert_eq!(bench.heard(&callee())[0], "OPTIONS");
        bench.answer_with(&callee(), &Method::Options, 200, "", "");
        bench.answer_with(CALLER, &Method::Options, 200, "", "");
    }
    bench.wait(Duration::from_secs(60));
    bench.answer_with(&callee(), &Method::Options, 481, "", "");
    assert_eq!(bench.heard(CALLER).last().map(String::as_str), Some("BYE"));
    bench.must_end();
}

#[test]
fn two_probes_without_answer_end_the_call() {
    let mut bench = Bench::answered();
    hold(&mut bench);
    bench.wait(Duration::from_secs(60));
    bench.answer_with(CALLER, &Method::Options, 200, "", "");
    bench.wait(Duration::from_secs(59));
    assert_eq!(bench.call.record.phase, Phase::Confirmed, "one is not enough");
    bench.wait(Duration::from_secs(2));
    bench.answer_with(CALLER, &Method::Options, 200, "", "");
    bench.wait(Duration::from_secs(33));
    assert!(bench.heard(CALLER).contains(&"BYE".to_owned()));
    assert!(bench.heard(&callee()).contains(&"BYE".to_owned()), "any ending reaches every leg");
    bench.must_end();
    assert_eq!(bench.cdr().end_cause, EndCause::RtpTimeout);
}

fn silence(bench: &mut Bench, leg: LegId) {
    let kind = ReportKind::Silence { leg, silent_ms: 60_000 };
    let session = crate::ids::SessionId::from(CallId(7));
    bench.input(Input::Report(Report { session, number: 1, kind }));
}

#[test]
fn silence_ends_a_call_unless_it_is_held() {
    let mut bench = Bench::answered();
    bench.heard(&callee());
    silence(&mut bench, LegId(1));
    assert_eq!(bench.heard(CALLER), ["BYE"]);
    assert_eq!(bench.heard(&callee()), ["BYE"]);
    bench.must_end();
    assert_eq!(bench.cdr().end_cause, EndCause::RtpTimeout);
    let mut bench = Bench::answered();
    hold(&mut bench);
    silence(&mut bench, LegId(1));
    silence(&mut bench, LegId::CALLER);
    assert_eq!(bench.heard(CALLER), [""; 0]);
}

#[test]
fn a_call_that_talks_keeps_no_room_for_what_set_it_up() {
    let mut bench = Bench::answered();
    bench.wait(Duration::from_secs(40));
    for leg in &bench.call.record.legs {
        assert_eq!((leg.servers.capacity(), leg.clients.capacity()), (0, 0), "leg {}", leg.id);
    }
    assert_eq!(bench.call.outputs.capacity(), 0);
}
