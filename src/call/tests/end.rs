//! Every way a call ends reaches every leg, once, in order, and in one CDR; what must wait for a commit says so.

use super::*;
use crate::views::{Disposition, EndCause, EndedBy};

fn callee() -> String {
    phone(1002, 1)
}

#[test]
fn either_phone_hangs_up() {
    let caller = CALLER.to_owned();
    for (from, to, by) in
        [(caller.clone(), callee(), EndedBy::Caller), (callee(), caller, EndedBy::Callee)]
    {
        let mut bench = Bench::answered();
        bench.heard(&to);
        bench.ask(&from, "BYE", 5, "", "");
        assert_eq!(bench.response(&from, 200).cseq().map(|cseq| cseq.method), Some(Method::Bye));
        assert_eq!(bench.heard(&to), ["BYE"]);
        bench.answer_with(&to, &Method::Bye, 200, "", "");
        bench.must_end();
        let cdr = bench.cdr();
        assert_eq!((cdr.ended_by, cdr.end_cause), (by, EndCause::Bye));
        assert_eq!(cdr.disposition, Disposition::Answered);
    }
}

#[test]
fn a_call_that_lingers_answers_repeats_and_keeps_little() {
    let mut bench = Bench::answered();
    bench.ask(CALLER, "BYE", 5, "", "");
    bench.answer_with(&callee(), &Method::Bye, 200, "", "");
    bench.heard(CALLER);
    assert!(bench.call.lingers());
    let legs = &bench.call.record.legs;
    assert!(legs.iter().all(|leg| leg.description.sent.is_none() && leg.streams.is_empty()));
    bench.ask(CALLER, "BYE", 5, "", "");
    assert_eq!(bench.heard(CALLER), ["200"]);
    bench.must_end();
}

/// The 200 of a re-INVITE without an offer crosses the phone's BYE: its offer is refused, under the next version.
#[test]
fn an_offer_that_comes_after_the_end_is_refused_under_a_new_version() {
    let mut bench = Bench::new(1, "", "");
    bench.answer(&callee(), 200, &sdp(5_000, 1, ""));
    bench.acknowledge(1, &sdp(4_000, 1, ""));
    let told = origin(&bench.request(&callee(), &Method::Ack).body);
    bench.ask(CALLER, "INVITE", 2, "", "");
    bench.ask(&callee(), "BYE", 1, "", "");
    bench.answer_with(CALLER, &Method::Bye, 200, "", "");
    bench.heard(&callee());
    bench.answer(&callee(), 200, &sdp(5_000, 2, ""));
    assert_eq!(bench.heard(&callee()), ["ACK sdp", "BYE"]);
    let refused = origin(&bench.request(&callee(), &Method::Ack).body);
    assert_eq!(refused, told.replacen(" 1 IN", " 2 IN", 1));
    bench.answer_with(&callee(), &Method::Bye, 200, "", "");
    bench.must_end();
}

/// RFC 3261 §15: the callee of a dialog sends no BYE before the ACK; so we, towards the caller.
#[test]
fn bye_waits_for_the_ack() {
    let mut bench = Bench::plain();
    bench.answer(&callee(), 200, &sdp(5_000, 1, ""));
    bench.ask(&callee(), "BYE", 1, "", "");
    assert_eq!(bench.heard(CALLER), ["100", "200 sdp"]);
    bench.acknowledge(1, "");
    assert_eq!(bench.heard(CALLER), ["BYE"]);
    bench.answer_with(CALLER, &Method::Bye, 200, "", "");
    bench.must_end();
}

#[test]
fn a_bye_in_place_of_the_ack_ends_the_repeats_of_the_answer() {
    let mut bench = Bench::plain();
    bench.answer(&callee(), 200, &sdp(5_000, 1, ""));
    bench.heard(CALLER);
    bench.ask(CALLER, "BYE", 2, "", "");
    bench.answer_with(&callee(), &Method::Bye, 200, "", "");
    bench.wait(Duration::from_secs(33));
    assert_eq!(bench.heard(CALLER), ["200"]);
    let missing = |event: &Event| matches!(event, Event::AckMissing { .. });
    assert!(!bench.events.iter().any(missing));
    bench.must_end();
}

/// A BYE that overtook what still waits for its commit would make numbers of the dialog fall.
#[test]
fn a_bye_does_not_overtake_what_waits_for_its_commit() {
    let mut bench = Bench::answered();
    bench.ask(CALLER, "INVITE", 2, "", &sdp(4_400, 2, ""));
    bench.ask(CALLER, "BYE", 3, "", "");
    let behind = |bench: &Bench, method: Method| {
        let last = bench.wire.iter().rev().find(|(to, message, _)| {
            matches!(message, Message::Request(request) if request.method == method)
                && *to == callee()
        });
        last.and_then(|(_, _, behind)| *behind)
    };
    assert!(behind(&bench, Method::Invite).is_some());
    assert!(behind(&bench, Method::Bye) >= behind(&bench, Method::Invite));
}

/// 100, INVITE, 18x with SDP, 200 and ACK wait for a rev that was saved before them.
#[test]
fn what_acknowledges_waits_for_its_commit() {
    let mut bench = Bench::plain();
    bench.answer(&callee(), 180, "");
    bench.answer(&callee(), 183, &sdp(5_000, 1, ""));
    bench.answer(&callee(), 200, &sdp(5_000, 1, ""));
    let behind: Vec<_> = bench
        .wire
        .iter()
        .map(|(_, message, behind)| (in_short(message), behind.map(|rev| rev.0)))
        .collect();
    let expected = [
        ("100", Some(1)),
        ("INVITE sdp", Some(1)),
        ("180", Some(1)),
        ("183 sdp", Some(2)),
        ("ACK", Some(3)),
        ("200 sdp", Some(3)),
    ];
    assert_eq!(behind, expected.map(|(what, rev)| (what.to_owned(), rev)));
}

#[test]
fn an_operator_ends_a_call() {
    let mut bench = Bench::answered();
    bench.heard(&callee());
    bench.input(Input::Hangup { reason: Some("line \"7\"\r\nX: y".to_owned()) });
    for to in [CALLER.to_owned(), callee()] {
        assert_eq!(bench.heard(&to), ["BYE"]);
        let bye = bench.request(&to, &Method::Bye);
        let reason = bye.headers.get(&HeaderName::Reason);
        assert_eq!(reason, Some("Q.850;cause=16;text=\"line 7X: y\""));
        bench.answer_with(&to, &Method::Bye, 200, "", "");
    }
    bench.must_end();
    assert_eq!(bench.cdr().ended_by, EndedBy::Admin);
}

/// Here, or where the call was before: the record is the same.
#[test]
fn a_drain_ends_a_call() {
    let elsewhere = Input::Ended { by: EndedBy::Admin, cause: EndCause::Drain };
    for input in [Input::Drained, elsewhere] {
        let mut bench = Bench::answered();
        bench.heard(&callee());
        bench.input(input);
        for to in [CALLER.to_owned(), callee()] {
            assert_eq!(bench.heard(&to), ["BYE"]);
            bench.answer_with(&to, &Method::Bye, 200, "", "");
        }
        bench.must_end();
        let cdr = bench.cdr();
        assert_eq!((cdr.ended_by, cdr.end_cause), (EndedBy::Admin, EndCause::Drain));
        assert_eq!(cdr.q850_cause, Some(16));
    }
}

/// Its node leaves before the last statistics are there: the next is not to think that it lives.
#[test]
fn an_end_is_saved_before_its_node_leaves() {
    let mut bench = Bench::answered();
    bench.media_silent = true;
    bench.input(Input::Drained);
    let has_end = |bench: &Bench| bench.saves.iter().any(|save| save.ended);
    assert!(!has_end(&bench));
    bench.call.save_now(bench.now);
    bench.drain();
    assert!(has_end(&bench));
}

/// Sound flows while the way to its node is cut: a change waits, for the node or for the proof that it is lost.
#[test]
fn a_silent_media_node_keeps_the_call_and_a_lost_one_ends_it() {
    let changing = || {
        let mut bench = Bench::answered();
        bench.heard(&callee());
        bench.media_silent = true;
        bench.ask(CALLER, "INVITE", 2, "", &sdp(4_400, 2, ""));
        bench.answer(&callee(), 200, &sdp(5_000, 2, ""));
        bench.wait(Duration::from_millis(9_000));
        assert_eq!(bench.heard(CALLER), ["100"]);
        bench
    };
    let mut bench = changing();
    bench.media_returns();
    assert_eq!(bench.heard(CALLER), ["200 sdp"]);
    assert_eq!(bench.heard(&callee()), ["INVITE sdp", "ACK"]);

    let mut bench = changing();
    bench.input(Input::MediaLost);
    assert_eq!(bench.heard(CALLER), ["487", "BYE"]);
    assert_eq!(bench.heard(&callee()), ["INVITE sdp", "ACK", "BYE"]);
    bench.must_end();
    assert_eq!(bench.cdr().end_cause, EndCause::NodeLost);
}

#[test]
fn an_answer_without_usable_sdp_is_no_answer() {
    for body in ["", "v=0\r\no=- 1 1 IN IP4 1.1.1.1\r\ns=-\r\nt=0 0\r\nm=video 9 RTP/AVP 96\r\n"] {
        let mut bench = Bench::plain();
        bench.answer(&callee(), 200, body);
        assert_eq!(bench.heard(CALLER), ["100", "488"], "{body}");
        assert_eq!(bench.heard(&callee()), ["INVITE sdp", "ACK", "BYE"]);
        bench.answer_with(&callee(), &Method::Bye, 200, "", "");
        bench.must_end();
    }
}

#[test]
fn an_offer_that_no_phone_could_take_is_refused_by_us() {
    let weird = sdp(4_000, 1, "").replace("RTP/AVP 0 101", "RTP/AVP 96");
    let mut bench =
        Bench::with_users(1, "", &format!("{weird}a=rtpmap:96 WEIRD/8000\r\n"), |user| {
            user.codecs = vec!["PCMU".to_owned()];
        });
    let refused = bench.response(CALLER, 488);
    assert_eq!(
        refused.headers.get(&HeaderName::Warning),
        Some("305 holdfast \"no codec in common\"")
    );
    assert_eq!(bench.heard(&callee()), Vec::<String>::new());
    bench.must_end();
    let cdr = bench.cdr();
    assert_eq!((cdr.ended_by, cdr.end_cause), (EndedBy::System, EndCause::Rejected));
    assert_eq!((cdr.sip_status, cdr.reason.as_deref()), (488, Some("no codec in common")));
    assert_eq!(cdr.legs[1].sip_status, None, "the callee said nothing");
}

/// A callee that says BYE between its 200 and the caller's is over for the caller too, and its 200 is acknowledged.
#[test]
fn a_callee_that_hangs_up_at_once() {
    let mut bench = Bench::plain();
    bench.media_silent = true;
    bench.answer(&callee(), 200, &sdp(5_000, 1, ""));
    bench.ask(&callee(), "BYE", 1, "", "");
    assert_eq!(bench.heard(CALLER), ["100", "480"]);
    assert_eq!(bench.heard(&callee()), ["INVITE sdp", "ACK", "200"]);
    bench.must_end();
}

/// A media node that took the ports and then said nothing must not keep them.
#[test]
fn a_silent_media_node_is_told_to_release() {
    let released = |bench: &Bench| {
        bench.wishes.iter().any(|wish| matches!(wish, control::Request::Release(_)))
    };
    let mut bench = Bench::plain();
    bench.media_silent = true;
    bench.answer(&callee(), 200, &sdp(5_000, 1, ""));
    bench.wait(Duration::from_millis(9_900));
    assert!(!released(&bench));
    bench.wait(Duration::from_millis(200));
    assert!(released(&bench));
    assert_eq!(bench.heard(CALLER), ["100", "503"]);
    bench.must_end();
}

/// One that stands still for some seconds while a callee answers costs seconds, not the call.
#[test]
fn an_answer_waits_for_a_media_node_that_comes_back() {
    let mut bench = Bench::plain();
    bench.media_silent = true;
    bench.answer(&callee(), 200, &sdp(5_000, 1, ""));
    bench.wait(Duration::from_millis(8_000));
    assert_eq!(bench.heard(CALLER), ["100"]);
    bench.media_returns();
    assert_eq!(bench.heard(CALLER), ["200 sdp"]);
    assert_eq!(bench.heard(&callee()), ["INVITE sdp", "ACK"]);
    bench.acknowledge(1, "");
    bench.ask(CALLER, "BYE", 2, "", "");
    bench.answer_with(&callee(), &Method::Bye, 200, "", "");
    bench.must_end();
}

/// Our 200 to a re-INVITE is not acknowledged yet: its phone may not be told of the end (RFC 3261 §15), and a node that
/// finds the end in the store would never tell it.
#[test]
fn an_end_is_stored_when_every_phone_was_told() {
    let callee = phone(1002, 1);
    let unacknowledged = || {
        let mut bench = Bench::answered();
        bench.ask(CALLER, "INVITE", 2, "", &sdp(4000, 2, "a=sendonly\r\n"));
        bench.answer(&callee, 200, &sdp(5000, 2, "a=recvonly\r\n"));
        bench.heard(CALLER);
        bench.ask(&callee, "BYE", 7, "", "");
        assert!(!bench.saves.iter().any(|save| save.ended));
        assert!(!bench.heard(CALLER).contains(&"BYE".to_owned()));
        bench
    };
    let mut bench = unacknowledged();
    bench.acknowledge(2, "");
    assert_eq!(bench.heard(CALLER), ["BYE"]);
    assert!(bench.saves.iter().any(|save| save.ended));
    let mut bench = unacknowledged();
    bench.is_taken_over();
    assert!(bench.heard(CALLER).contains(&"BYE".to_owned()), "its heir tells it");
    assert_eq!(bench.cdr().end_cause, crate::views::EndCause::Bye);
    let mut bench = unacknowledged();
    bench.wait(Duration::from_secs(33));
    assert!(bench.heard(CALLER).contains(&"BYE".to_owned()));
    assert!(bench.saves.iter().any(|save| save.ended));
    let mut bench = unacknowledged();
    bench.ask(CALLER, "BYE", 3, "", "");
    assert!(bench.saves.iter().any(|save| save.ended), "it hung up by itself");
}
