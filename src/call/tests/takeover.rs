//! What was under way in a confirmed call when its owner died: re-INVITEs asked, answered, refused, acknowledged.

use super::*;
use crate::control::Hears;
use crate::views::CallFlag;
use crate::views::call::HoldState;

const HOLD: &str = "a=sendonly\r\n";
const HELD: &str = "a=recvonly\r\n";

fn callee() -> String {
    phone(1002, 1)
}

/// Talking for a while: everything is saved.
fn at_rest() -> Bench {
    let mut bench = Bench::answered();
    bench.wait(Duration::from_secs(3));
    bench.heard(CALLER);
    bench.heard(&callee());
    bench
}

/// Who asks, who is asked, and their RTP ports.
fn both_ways() -> [(String, String, u16, u16); 2] {
    [(CALLER.to_owned(), callee(), 4_000, 5_000), (callee(), CALLER.to_owned(), 5_000, 4_000)]
}

/// It holds and is answered; its ACK may have come, and be in no record.
fn held(from: &str, to: &str, (own, other): (u16, u16), acknowledged: bool) -> Bench {
    let mut bench = at_rest();
    bench.ask(from, "INVITE", 2, "", &sdp(own, 2, HOLD));
    bench.answer(to, 200, &sdp(other, 2, HELD));
    if acknowledged {
        bench.ask(from, "ACK", 2, "", "");
    }
    bench.heard(from);
    bench.heard(to);
    bench
}

fn resumes(bench: &mut Bench, from: &str, to: &str, (own, other): (u16, u16)) {
    bench.heard(from);
    bench.heard(to);
    bench.ask(from, "INVITE", 3, "", &sdp(own, 3, ""));
    assert_eq!(bench.heard(to).last().map(String::as_str), Some("INVITE sdp"), "asked");
    bench.answer(to, 200, &sdp(other, 3, ""));
    assert_eq!(bench.heard(from), ["100", "200 sdp"], "answered");
    bench.ask(from, "ACK", 3, "", "");
    assert_eq!(bench.call.view(bench.now).hold, HoldState::None);
    assert_eq!(bench.hears(LegId::CALLER), Hears::Leg(LegId(1)));
    bench.wait(Duration::from_secs(90));
    assert_eq!(bench.call.state(), CallState::Confirmed, "the call goes on");
}

#[test]
fn an_answered_reinvite_is_over_for_the_next_owner_too() {
    for (from, to, own, other) in both_ways() {
        for acknowledged in [true, false] {
            let mut bench = held(&from, &to, (own, other), acknowledged);
            let answer = bench.response(&from, 200).body;
            bench.is_taken_over();
            assert_eq!(bench.heard(&to), ["ACK"], "that of the dead may not have left");
            assert_eq!(bench.heard(&from), ["200 sdp"]);
            assert_eq!(bench.response(&from, 200).body, answer, "the same one");
            bench.wait(Duration::from_secs(17));
            resumes(&mut bench, &from, &to, (own, other));
        }
    }
}

/// The kill fell between its commit and the 200.
#[test]
fn an_answer_that_did_not_leave_reaches_the_phone_that_asked() {
    for (from, to, own, other) in both_ways() {
        let mut bench = held(&from, &to, (own, other), false);
        bench.is_taken_over();
        bench.ask(&from, "ACK", 2, "", "");
        bench.heard(&from);
        bench.wait(Duration::from_secs(90));
        assert_eq!(bench.heard(&from).first().map(String::as_str), Some("OPTIONS"), "no 200");
        assert_ne!(bench.call.view(bench.now).hold, HoldState::None);
    }
}

/// The dead may have told one of them the end.
#[test]
fn a_held_phone_is_asked_soon_after_a_takeover() {
    let mut bench = held(CALLER, &callee(), (4_000, 5_000), true);
    bench.wait(Duration::from_secs(3));
    bench.is_taken_over();
    bench.heard(&callee());
    bench.wait(Duration::from_secs(11));
    assert_eq!(bench.heard(&callee()).last().map(String::as_str), Some("OPTIONS"));
    bench.answer_with(&callee(), &Method::Options, 481, "", "");
    assert_eq!(bench.heard(CALLER).last().map(String::as_str), Some("BYE"));
}

#[test]
fn a_refused_reinvite_is_over_for_the_next_owner_too() {
    for (from, to, own, other) in both_ways() {
        for saved in [true, false] {
            let mut bench = at_rest();
            bench.ask(&from, "INVITE", 2, "", &sdp(own, 2, HOLD));
            bench.answer(&to, 488, "");
            bench.response(&from, 488);
            bench.ask(&from, "ACK", 2, "", "");
            if saved {
                bench.wait(Duration::from_secs(1));
            }
            bench.heard(&to);
            bench.is_taken_over();
            assert_eq!(bench.heard(&to).is_empty(), saved, "asked again if it is not known");
            bench.wait(Duration::from_secs(2));
            resumes(&mut bench, &from, &to, (own + 2, other));
        }
    }
}

/// Asked, not answered: the phone repeats its answer, or answers now.
#[test]
fn a_reinvite_that_was_on_its_way_is_sent_again() {
    for (from, to, own, other) in both_ways() {
        let mut bench = at_rest();
        bench.ask(&from, "INVITE", 2, "", &sdp(own, 2, HOLD));
        let asked = bench.request(&to, &Method::Invite);
        bench.heard(&to);
        bench.is_taken_over();
        assert_eq!(bench.heard(&to), ["INVITE sdp"]);
        assert_eq!(bench.request(&to, &Method::Invite).to_bytes(), asked.to_bytes());
        bench.answer(&to, 180, "");
        bench.wait(Duration::from_secs(20));
        assert_eq!(bench.heard(&to), [""; 0], "its user is asked");
        bench.heard(&from);
        bench.answer(&to, 200, &sdp(other, 2, HELD));
        assert_eq!(bench.heard(&from), ["200 sdp"]);
        bench.ask(&from, "ACK", 2, "", "");
        resumes(&mut bench, &from, &to, (own, other));
    }
}

/// Nobody knows what became of it: its phone is told to ask again, soon, and nobody is taken for gone.
#[test]
fn a_reinvite_that_nothing_comes_of_is_asked_anew() {
    for (from, to, own, other) in both_ways() {
        let mut bench = at_rest();
        bench.ask(&from, "INVITE", 2, "", &sdp(own, 2, HOLD));
        bench.heard(&from);
        bench.is_taken_over();
        bench.wait(Duration::from_secs(5));
        assert_eq!(bench.heard(&from)[0], "491");
        bench.ask(&from, "ACK", 2, "", "");
        resumes(&mut bench, &from, &to, (own, other));
    }
}

/// A phone that asks anew has a final response to what it asked before.
#[test]
fn a_phone_that_goes_on_is_not_held_up_by_what_it_asked_the_dead() {
    for (from, to, own, other) in both_ways() {
        let mut bench = at_rest();
        bench.ask(&from, "INVITE", 2, "", &sdp(own, 2, HOLD));
        bench.is_taken_over();
        resumes(&mut bench, &from, &to, (own, other));
    }
}

/// A hold that waited for the other phone's ACK was not answered, whatever the caller was told before.
#[test]
fn a_reinvite_that_waited_is_passed_on() {
    let mut bench = at_rest();
    bench.ask(&callee(), "INVITE", 2, "", &sdp(5_000, 2, "a=ptime:30\r\n"));
    bench.answer(CALLER, 200, &sdp(4_000, 1, ""));
    bench.ask(CALLER, "INVITE", 2, "", &sdp(4_000, 2, HOLD));
    bench.call.save();
    bench.drain();
    bench.heard(CALLER);
    bench.heard(&callee());
    bench.is_taken_over();
    assert_eq!(bench.heard(&callee()), ["200 sdp"]);
    assert!(!bench.heard(CALLER).contains(&"200 sdp".to_owned()), "nothing was agreed");
    bench.ask(&callee(), "ACK", 2, "", "");
    assert_eq!(bench.heard(&callee()), ["INVITE sdp"]);
}

/// Late offer: the 200 with the offer may not have left, and its ACK brings the answer.
#[test]
fn a_late_offer_goes_on() {
    for (from, to, own, other) in both_ways() {
        let mut bench = at_rest();
        bench.ask(&from, "INVITE", 2, "", "");
        bench.answer(&to, 200, &sdp(other, 2, HOLD));
        let offer = bench.response(&from, 200).body;
        bench.heard(&from);
        bench.heard(&to);
        bench.is_taken_over();
        assert_eq!(bench.heard(&from), ["200 sdp"]);
        assert_eq!(bench.response(&from, 200).body, offer);
        bench.ask(&from, "ACK", 2, "", &sdp(own, 2, HELD));
        assert_eq!(bench.heard(&to), ["ACK sdp"]);
        let answer = bench.request(&to, &Method::Ack).body;
        // Killed once more: the ACK with the answer may not have left.
        bench.is_taken_over();
        assert_eq!(bench.heard(&to), ["ACK sdp"]);
        assert_eq!(bench.request(&to, &Method::Ack).body, answer, "the same one");
        resumes(&mut bench, &from, &to, (own, other));
    }
}

/// That ACK was for a connection that broke, and the phone comes by another a while later: its 200 has its answer still.
#[test]
fn the_answer_to_a_late_offer_is_given_to_repeats_too() {
    let mut bench = at_rest();
    let to = callee();
    bench.ask(CALLER, "INVITE", 2, "", "");
    bench.answer(&to, 200, &sdp(5_000, 2, HOLD));
    bench.ask(CALLER, "ACK", 2, "", &sdp(4_000, 2, HELD));
    bench.is_taken_over();
    let answer = bench.request(&to, &Method::Ack).body;
    // By then nothing else of ours is open.
    bench.wait(Duration::from_secs(12));
    bench.answer_with(&to, &Method::Options, 200, "", "");
    bench.wait(Duration::from_secs(7));
    bench.heard(&to);
    bench.answer(&to, 200, &sdp(5_000, 2, HOLD));
    assert_eq!(bench.heard(&to), ["ACK sdp"]);
    assert_eq!(bench.request(&to, &Method::Ack).body, answer);
}

/// An INVITE that is refused while another is open takes nothing from that one's place in the record.
#[test]
fn a_second_invite_does_not_hide_the_first() {
    let mut bench = Bench::plain();
    bench.answer(&callee(), 180, "");
    bench.ask(CALLER, "INVITE", 2, "", &sdp(4_400, 2, ""));
    bench.wait(Duration::from_secs(1));
    bench.is_taken_over();
    bench.answer(&callee(), 200, &sdp(5_000, 1, ""));
    assert!(bench.heard(CALLER).contains(&"200 sdp".to_owned()));
}

/// BYE waits for no commit: the number that a dead owner may have used for one is used for nothing else.
#[test]
fn a_number_that_may_have_gone_is_not_used_again() {
    let mut bench = at_rest();
    bench.is_taken_over();
    bench.ask(CALLER, "INFO", 2, "", "");
    let info = bench.request(&callee(), &Method::Info);
    assert_eq!(info.cseq().map(|cseq| cseq.number), Some(3), "2 may have been a BYE");
}

/// A record may be older than what its phones saw.
#[test]
fn numbers_that_phones_may_have_seen_are_passed_over() {
    let mut bench = Bench::answered();
    bench.wait(Duration::from_secs(3));
    let known = origin(&bench.response(CALLER, 200).body);
    let record = &bench.saves.last().expect("a save").record;
    let passed = record_passing_over(record, &settings().key);
    let place = Place::as_before();
    let restored = Call::restore(Arc::new(settings()), &passed, Epoch(2), bench.now, &place);
    bench.call = restored.expect("a record of ours");
    bench.drain();
    bench.ask(&phone(1002, 1), "INVITE", 1, "", &sdp(5_000, 2, "a=sendonly\r\n"));
    let invite = bench.request(CALLER, &Method::Invite);
    assert!(invite.cseq().expect("a CSeq").number > 100);
    let told = origin(&invite.body);
    let version = |origin: &str| -> u64 {
        origin.split(' ').nth(2).expect("a version").parse().expect("a number")
    };
    assert!(version(&told) > version(&known) + 100, "{told}");
    let rest = |origin: &str| origin.replacen(&format!(" {} ", version(origin)), " ", 1);
    assert_eq!(rest(&told), rest(&known), "nothing else of the line changes (RFC 3264 §8)");
}

/// There it is not repeated by itself, and without a word to this owner it could not be cancelled.
#[test]
fn what_rings_on_a_connection_is_asked_again_once() {
    let mut bench = Bench::plain();
    bench.answer(&callee(), 100, "");
    assert_eq!(bench.heard(&callee()), ["INVITE sdp"]);
    bench.call.record.leg_mut(LegId(1)).expect("the callee").flow.transport = Transport::Tcp;
    bench.call.save();
    bench.drain();
    bench.is_taken_over();
    bench.wait(Duration::from_secs(5));
    assert_eq!(bench.heard(&callee()), ["INVITE sdp"]);
    bench.answer(&callee(), 100, "");
    bench.input(Input::Hangup { reason: None });
    assert_eq!(bench.heard(&callee()), ["CANCEL"]);
}

#[test]
fn the_next_owner_knows_what_was_wrong() {
    let mut bench = Bench::answered();
    let (lasting, mended) = (CallFlag::PrivateAddressInSdp, CallFlag::AckMissing);
    bench.input(Input::Flagged([lasting, mended].into()));
    bench.wait(Duration::from_secs(10));
    bench.is_taken_over();
    assert_eq!(Vec::from_iter(bench.call.flags()), [lasting]);
    bench.ask(&callee(), "BYE", 1, "", "");
    assert_eq!(bench.cdr().flags, [mended, lasting]);
}
