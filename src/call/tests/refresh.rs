//! Calls that are carried on at another address (RFC 3261 §12.2, §14.1): phones are told, and what rang rings anew.

use super::*;
use crate::control::Hears;
use crate::views::EndCause;

fn callee() -> String {
    phone(1002, 1)
}

fn number(request: &Request) -> u32 {
    request.cseq().expect("a CSeq").number
}

fn contact(headers: &crate::sip::Headers) -> &str {
    headers.get(&HeaderName::Contact).expect("a Contact")
}

/// Talking for a while: everything is saved.
fn at_rest() -> Bench {
    let mut bench = Bench::answered();
    bench.wait(Duration::from_secs(3));
    bench
}

fn silent(bench: &mut Bench) -> bool {
    let heard = [bench.heard(CALLER), bench.heard(&callee())].concat();
    heard.is_empty()
}

#[test]
fn both_phones_are_told_and_nothing_else_changes() {
    let mut bench = at_rest();
    let before = [bench.response(CALLER, 200).body, bench.request(&callee(), &Method::Invite).body];
    bench.heard(&callee());
    bench.moves_elsewhere();
    let saved = bench.saves.last().map(|save| save.rev);
    for (phone, port, before) in [(CALLER, 4_000, &before[0]), (&*callee(), 5_000, &before[1])] {
        assert_eq!(bench.heard(phone), ["INVITE sdp"]);
        let invite = bench.request(phone, &Method::Invite);
        assert_eq!(text(&invite.body), text(before), "its version too");
        assert!(contact(&invite.headers).contains(ELSEWHERE), "{invite:?}");
        assert_eq!(invite.top_via().expect("a Via").host.to_string(), "10.0.0.2");
        let behind = bench.wire.iter().rev().find(|(to, ..)| to == phone).and_then(|sent| sent.2);
        assert_eq!(behind, saved, "a CSeq is saved first");
        bench.answer(phone, 200, &sdp(port, 1, ""));
        assert_eq!(bench.heard(phone), ["ACK"]);
    }
    assert_eq!(number(&bench.request(CALLER, &Method::Invite)), 2, "1 may have been a BYE");
    assert_eq!(number(&bench.request(&callee(), &Method::Invite)), 3);
    bench.wait(Duration::from_secs(40));
    assert!(silent(&mut bench), "once");
    bench.ask(CALLER, "BYE", 2, "", "");
    assert_eq!(number(&bench.request(&callee(), &Method::Bye)), 4);
    bench.answer_with(&callee(), &Method::Bye, 200, "", "");
    bench.must_end();
    assert_eq!(bench.cdr().takeovers, 1);
}

#[test]
fn a_phone_that_refuses_keeps_its_audio() {
    for status in [488, 500, 603] {
        let mut bench = at_rest();
        bench.moves_elsewhere();
        bench.answer(CALLER, 200, &sdp(4_000, 1, ""));
        bench.answer(&callee(), status, "");
        assert_eq!(bench.hears(LegId::CALLER), Hears::Leg(LegId(1)));
        let (..) = (bench.heard(CALLER), bench.heard(&callee()));
        bench.wait(Duration::from_secs(40));
        assert!(silent(&mut bench), "{status}: nobody is bothered");
        bench.ask(CALLER, "BYE", 2, "", "");
        assert_eq!(number(&bench.request(&callee(), &Method::Bye)), 4, "{status}");
        bench.answer_with(&callee(), &Method::Bye, 200, "", "");
        bench.must_end();
    }
}

#[test]
fn a_phone_that_puts_it_off_is_told_later() {
    for (status, extra, most) in [(491, "", 4_000), (500, "Retry-After: 3", 3_000)] {
        let mut bench = at_rest();
        bench.moves_elsewhere();
        bench.answer_with(&callee(), &Method::Invite, status, extra, "");
        bench.heard(&callee());
        bench.wait(Duration::from_millis(most));
        // Perhaps it is repeated by then: when it leaves is drawn.
        let heard = bench.heard(&callee());
        assert_eq!(heard.first().map(String::as_str), Some("INVITE sdp"), "{status}");
        assert_eq!(number(&bench.request(&callee(), &Method::Invite)), 4);
        for attempt in 2..=4 {
            bench.answer_with(&callee(), &Method::Invite, status, extra, "");
            bench.heard(&callee());
            bench.wait(Duration::from_secs(5));
            assert_eq!(bench.heard(&callee()).is_empty(), attempt == 4, "{status}: not for ever");
        }
    }
}

#[test]
fn a_phone_that_knows_no_such_dialog_ends_the_call() {
    let mut bench = at_rest();
    bench.moves_elsewhere();
    bench.answer(CALLER, 200, &sdp(4_000, 1, ""));
    bench.answer(&callee(), 481, "");
    assert!(bench.heard(CALLER).contains(&"BYE".to_owned()));
    bench.answer_with(CALLER, &Method::Bye, 200, "", "");
    bench.must_end();
    assert_eq!(bench.cdr().end_cause, EndCause::RtpTimeout);
}

/// Silence may be a NAT that knows only the old address: the phone talks on, and is told when it registers again.
#[test]
fn a_phone_that_cannot_be_reached_is_told_when_it_comes_back() {
    let mut bench = at_rest();
    bench.moves_elsewhere();
    bench.answer(CALLER, 200, &sdp(4_000, 1, ""));
    bench.wait(Duration::from_secs(40));
    assert_eq!(bench.call.state(), CallState::Confirmed);
    let (..) = (bench.heard(CALLER), bench.heard(&callee()));
    let local = ELSEWHERE.parse().expect("an address");
    let leg = bench.call.record.leg(LegId(1)).expect("the callee");
    let contact = leg.dialog.remote_target.as_str().to_owned();
    let flow = Flow { local, ..flow("10.0.2.1:6000") };
    let from = leg.flow;
    bench.input(Input::FlowMoved { contact, from, flow });
    assert_eq!(bench.heard("10.0.2.1:6000"), ["INVITE sdp"]);
    assert_eq!(number(&bench.request("10.0.2.1:6000", &Method::Invite)), 4);
}

/// Its connection broke while its hold was under way.
#[test]
fn a_phone_that_came_back_hears_there_what_it_asked_before() {
    let mut bench = at_rest();
    bench.ask(CALLER, "INVITE", 2, "", &sdp(4_000, 2, "a=sendonly\r\n"));
    assert_eq!(bench.heard(CALLER), ["100"]);
    let leg = bench.call.record.leg(LegId::CALLER).expect("the caller");
    let contact = leg.dialog.remote_target.as_str().to_owned();
    let back = "10.0.9.9:7000";
    let from = leg.flow;
    bench.input(Input::FlowMoved { contact, from, flow: flow(back) });
    bench.answer(&callee(), 200, &sdp(6_000, 2, "a=recvonly\r\n"));
    assert_eq!((bench.heard(CALLER), bench.heard(back)), (vec![], vec!["200 sdp".to_owned()]));
}

#[test]
fn what_a_phone_says_anew_holds() {
    let mut bench = at_rest();
    bench.moves_elsewhere();
    bench.answer(&callee(), 200, &sdp(6_000, 2, ""));
    let wish = bench.wishes.iter().rev().find_map(control::Request::wish);
    let legs = wish.expect("a wish").spec.legs.clone();
    let remote = |leg| {
        let spec = legs.iter().find(|spec| spec.leg == leg).expect("a leg");
        spec.streams[0].remote.clone()
    };
    assert_eq!(remote(LegId(1)).map(|to| to.rtp.port()), Some(6_000));
    assert_eq!(remote(LegId::CALLER).map(|to| to.rtp.port()), Some(4_000));
}

#[test]
fn what_rang_rings_anew_and_the_caller_notices_nothing() {
    let mut bench = Bench::plain();
    bench.answer(&callee(), 180, "");
    bench.wait(Duration::from_secs(1));
    let first = bench.request(&callee(), &Method::Invite);
    let (..) = (bench.heard(CALLER), bench.heard(&callee()));
    bench.moves_elsewhere();
    assert_eq!(bench.heard(&callee()), ["CANCEL", "INVITE sdp"]);
    let cancel = bench.request(&callee(), &Method::Cancel);
    assert_eq!(cancel.headers.get(&HeaderName::Via), first.headers.get(&HeaderName::Via));
    bench.answer_with(&callee(), &Method::Cancel, 200, "", "");
    let second = bench.request(&callee(), &Method::Invite);
    assert_ne!(second.call_id(), first.call_id(), "no merged request (§8.2.2.2)");
    assert_eq!((second.uri.as_str(), number(&second)), (first.uri.as_str(), 1));
    bench.answer(&callee(), 180, "");
    bench.wait(Duration::from_secs(5));
    bench.answer(&callee(), 200, &sdp(5_000, 1, ""));
    assert_eq!(bench.heard(CALLER), ["180", "OPTIONS", "200 sdp"], "180 once, whatever rang");
    bench.answer_with(CALLER, &Method::Options, 200, "", "");
    assert!(contact(&bench.response(CALLER, 200).headers).contains(ELSEWHERE));
    bench.acknowledge(1, "");
    assert_eq!(bench.heard(&callee()), ["ACK"]);
    assert_eq!(bench.hears(LegId::CALLER), Hears::Leg(LegId(2)));
    bench.wait(Duration::from_secs(2));
    assert!(silent(&mut bench), "both know our address already");
}

/// Its CANCEL goes to an address that is no more.
#[test]
fn a_caller_that_hangs_up_unheard_is_found_out() {
    for (answer, rings) in [(Some(481), false), (Some(200), true), (None, true)] {
        let mut bench = Bench::plain();
        bench.answer(&callee(), 180, "");
        bench.wait(Duration::from_secs(1));
        bench.moves_elsewhere();
        bench.answer_with(&callee(), &Method::Cancel, 200, "", "");
        bench.answer(&callee(), 180, "");
        bench.heard(&callee());
        bench.wait(Duration::from_secs(5));
        assert!(bench.heard(CALLER).contains(&"OPTIONS".to_owned()));
        if let Some(status) = answer {
            bench.answer_with(CALLER, &Method::Options, status, "", "");
        }
        bench.wait(Duration::from_secs(40));
        assert_eq!(bench.call.state() == CallState::Early, rings, "{answer:?}");
        assert_eq!(bench.heard(&callee()).contains(&"CANCEL".to_owned()), !rings);
        if !rings {
            bench.answer_with(&callee(), &Method::Cancel, 200, "", "");
            bench.answer(&callee(), 487, "");
            bench.must_end();
            assert_eq!(bench.cdr().end_cause, EndCause::Cancel);
        }
    }
}

/// The INVITE may have rung, or may never have come: it is cancelled either way, and a fork is rung anew branch by branch.
#[test]
fn every_branch_rings_anew() {
    let mut bench = Bench::new(2, "", &sdp(4_000, 1, ""));
    bench.answer(&phone(1002, 2), 180, "");
    bench.wait(Duration::from_secs(1));
    let (..) = (bench.heard(&phone(1002, 1)), bench.heard(&phone(1002, 2)));
    bench.moves_elsewhere();
    for number in [1, 2] {
        assert_eq!(bench.heard(&phone(1002, number)), ["CANCEL", "INVITE sdp"]);
    }
    bench.answer(&phone(1002, 1), 180, "");
    bench.answer(&phone(1002, 1), 486, "");
    bench.answer(&phone(1002, 2), 200, &sdp(5_000, 1, ""));
    bench.response(CALLER, 200);
}

#[test]
fn an_answer_on_its_way_reaches_the_caller() {
    let mut bench = Bench::plain();
    bench.media_silent = true;
    bench.answer(&callee(), 180, "");
    bench.answer(&callee(), 200, &sdp(5_000, 1, ""));
    bench.call.save();
    bench.drain();
    bench.media_silent = false;
    bench.heard(&callee());
    bench.moves_elsewhere();
    assert_eq!(bench.heard(&callee())[0], "ACK", "its 200 is not repeated to us");
    assert!(contact(&bench.response(CALLER, 200).headers).contains(ELSEWHERE));
}

/// Its ACK went to an address that is no more.
#[test]
fn a_caller_that_does_not_acknowledge_again_is_told() {
    let mut bench = Bench::plain();
    bench.answer(&callee(), 200, &sdp(5_000, 1, ""));
    bench.heard(CALLER);
    bench.moves_elsewhere();
    assert_eq!(bench.heard(CALLER), ["200 sdp"]);
    bench.wait(Duration::from_secs(2));
    assert_eq!(bench.heard(CALLER).last().map(String::as_str), Some("INVITE sdp"));
    bench.answer(CALLER, 200, &sdp(4_000, 1, ""));
    bench.answer(&callee(), 200, &sdp(5_000, 1, ""));
    bench.wait(Duration::from_secs(60));
    assert_eq!(bench.call.state(), CallState::Confirmed);
}

#[test]
fn a_reinvite_on_its_way_is_asked_again() {
    let mut bench = at_rest();
    bench.ask(CALLER, "INVITE", 2, "", &sdp(4_000, 2, "a=sendonly\r\n"));
    bench.heard(&callee());
    bench.heard(CALLER);
    bench.moves_elsewhere();
    assert_eq!(bench.heard(&callee()), ["CANCEL", "ACK", "INVITE sdp"]);
    assert_eq!(number(&bench.request(&callee(), &Method::Invite)), 4);
    bench.answer(&callee(), 200, &sdp(5_000, 2, "a=recvonly\r\n"));
    assert_eq!(bench.heard(&callee()), ["ACK"]);
    assert!(bench.heard(CALLER).contains(&"200 sdp".to_owned()));
    bench.ask(CALLER, "ACK", 2, "", "");
    bench.wait(Duration::from_secs(2));
    assert!(silent(&mut bench), "both were told by the way");
}

/// A second takeover before the phones answered: the record still names the address that they know.
#[test]
fn who_was_not_told_is_told_by_the_next_owner() {
    let mut bench = at_rest();
    bench.moves_elsewhere();
    bench.answer(CALLER, 200, &sdp(4_000, 1, ""));
    bench.heard(CALLER);
    let told = bench.request(&callee(), &Method::Invite);
    bench.heard(&callee());
    bench.moves_elsewhere();
    assert_eq!(
        bench.heard(CALLER),
        ["ACK"],
        "it knows; an ACK that may not have left leaves again"
    );
    bench.wait(Duration::from_secs(1));
    assert!(bench.heard(&callee()).contains(&"INVITE sdp".to_owned()));
    assert_ne!(number(&bench.request(&callee(), &Method::Invite)), number(&told));
}

#[test]
fn a_reinvite_of_the_phone_meanwhile_is_glare() {
    let mut bench = at_rest();
    bench.moves_elsewhere();
    bench.ask(&callee(), "INVITE", 1, "", &sdp(5_000, 2, "a=sendonly\r\n"));
    bench.response(&callee(), 491);
    bench.answer(&callee(), 491, "");
    bench.answer(CALLER, 200, &sdp(4_000, 1, ""));
    bench.heard(CALLER);
    bench.ask(&callee(), "INVITE", 2, "", &sdp(5_000, 2, "a=sendonly\r\n"));
    assert_eq!(bench.heard(CALLER), ["INVITE sdp"], "it is passed on");
}
