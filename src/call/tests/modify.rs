//! re-INVITE (RFC 3261 §14, RFC 6337): hold, late offers, glare, refusals, and what stays as it was.

use super::*;
use crate::control::Hears;
use crate::views::call::HoldState;

fn callee() -> String {
    phone(1002, 1)
}

/// The direction a description names for its audio.
pub(super) fn direction(body: &[u8]) -> String {
    let text = text(body);
    let directions = ["sendrecv", "sendonly", "recvonly", "inactive"];
    let named = directions.iter().find(|name| text.contains(&format!("a={name}\r\n")));
    named.copied().unwrap_or("sendrecv").to_owned()
}

fn held_forms(port: u16) -> [(String, &'static str, &'static str); 4] {
    let zero = |text: String| text.replace("c=IN IP4 10.0.0.99", "c=IN IP4 0.0.0.0");
    let late_zero = sdp(port, 2, "").replace("a=rtpmap", "c=IN IP4 0.0.0.0\r\na=rtpmap");
    [
        (sdp(port, 2, "a=sendonly\r\n"), "sendonly", "recvonly"),
        (sdp(port, 2, "a=inactive\r\n"), "inactive", "inactive"),
        (zero(sdp(port, 2, "")), "sendonly", "recvonly"),
        (late_zero, "sendonly", "recvonly"),
    ]
}

/// Every form of hold, by both sides, and resume.
#[test]
fn hold_and_resume_in_all_forms() {
    for by_caller in [true, false] {
        let (own, other) = if by_caller { (4_000, 5_000) } else { (5_000, 4_000) };
        for (offer, offered, answered) in held_forms(own) {
            let (from, to) = match by_caller {
                true => (CALLER.to_owned(), callee()),
                false => (callee(), CALLER.to_owned()),
            };
            let mut bench = Bench::answered();
            bench.heard(&to);
            bench.ask(&from, "INVITE", 2, "", &offer);
            let body = bench.request(&to, &Method::Invite).body;
            let direct = direction(&body);
            assert!(direct == offered || direct == "inactive", "{offer}\n{}", text(&body));
            assert_ne!(direct, "sendrecv");
            let answer = format!("a={answered}\r\n");
            bench.answer(&to, 200, &sdp(other, 2, &answer));
            bench.ask(&from, "ACK", 2, "", "");
            assert_ne!(direction(&bench.response(&from, 200).body), "sendrecv");
            let holder = if by_caller { HoldState::Caller } else { HoldState::Callee };
            assert_eq!(bench.call.view(bench.now).hold, holder, "{offer}");
            bench.ask(&from, "INVITE", 3, "", &sdp(own, 3, ""));
            assert_eq!(direction(&bench.request(&to, &Method::Invite).body), "sendrecv");
            bench.answer(&to, 200, &sdp(other, 3, ""));
            assert_eq!(direction(&bench.response(&from, 200).body), "sendrecv");
            assert_eq!(bench.call.view(bench.now).hold, HoldState::None);
            assert_eq!(bench.hears(LegId::CALLER), Hears::Leg(LegId(1)));
        }
    }
}

/// A session refresh: the same description again is answered by us, by the same description.
#[test]
fn an_unchanged_description_is_answered_by_us() {
    let mut bench = Bench::answered();
    let first = bench.response(CALLER, 200).body;
    bench.heard(&callee());
    bench.ask(CALLER, "INVITE", 2, "", &sdp(4_000, 1, ""));
    assert_eq!(bench.heard(CALLER), ["200 sdp"]);
    assert_eq!(bench.response(CALLER, 200).body, first);
    assert_eq!(bench.heard(&callee()), [""; 0]);
}

#[test]
fn a_refused_reinvite_leaves_all_as_it_was() {
    for status in [488, 500, 403, 405] {
        let mut bench = Bench::answered();
        let known = bench.call.record.legs.clone();
        let wishes = bench.wishes.len();
        bench.heard(&callee());
        bench.ask(CALLER, "INVITE", 2, "", &sdp(4_400, 2, "a=sendonly\r\n"));
        let refused = bench.request(&callee(), &Method::Invite);
        bench.answer(&callee(), status, "");
        assert_eq!(bench.heard(CALLER), ["100", &status.to_string()]);
        assert_eq!(bench.wishes.len(), wishes, "media was not touched");
        for (leg, known) in bench.call.record.legs.iter().zip(&known) {
            assert_eq!(leg.streams, known.streams);
            assert_eq!(leg.description.received, known.description.received);
        }
        assert_eq!(bench.call.view(bench.now).hold, HoldState::None);
        // What the callee was told before is in force again.
        let first = bench.wire.iter().find_map(|(to, message, _)| match message {
            Message::Request(invite) => (*to == callee()).then(|| invite.body.clone()),
            Message::Response(_) => None,
        });
        bench.ask(&callee(), "INVITE", 1, "", &sdp(5_000, 1, ""));
        let told = |body: &[u8]| text(body).replace(&origin(body), "");
        let again = bench.response(&callee(), 200).body;
        assert_eq!(told(&again), told(&first.expect("an INVITE")));
        assert_ne!(origin(&again), origin(&refused.body));
        bench.ask(&callee(), "ACK", 1, "", "");
        // The next offer has a version of its own: the phone has seen the refused one.
        bench.acknowledge(2, "");
        bench.ask(CALLER, "INVITE", 3, "", &sdp(4_400, 3, "a=inactive\r\n"));
        let next = bench.request(&callee(), &Method::Invite);
        assert_ne!(origin(&refused.body), origin(&next.body));
    }
}

#[test]
fn a_challenge_to_a_reinvite_is_not_the_callers_business() {
    for status in [401, 407, 302] {
        let mut bench = Bench::answered();
        bench.ask(CALLER, "INVITE", 2, "", &sdp(4_400, 2, ""));
        bench.answer(&callee(), status, "");
        assert_eq!(bench.heard(CALLER), ["100", "488"], "{status}");
    }
}

#[test]
fn a_phone_that_lost_its_dialog_ends_the_call() {
    for status in [408, 481] {
        let mut bench = Bench::answered();
        bench.heard(&callee());
        bench.ask(CALLER, "INVITE", 2, "", &sdp(4_400, 2, ""));
        bench.answer(&callee(), status, "");
        assert_eq!(bench.heard(CALLER), ["100", &status.to_string(), "BYE"]);
        assert_eq!(bench.heard(&callee()), ["INVITE sdp", "ACK", "BYE"]);
        bench.must_end();
    }
}

/// RFC 3261 §14.1: 2.1-4 s where the Call-ID is ours (towards the callee), 0-2 s where it is the phone's.
#[test]
fn glare_waits_by_who_made_the_call_id() {
    let caller = CALLER.to_owned();
    for (from, to, low, high) in
        [(caller.clone(), callee(), 2_100, 4_000), (callee(), caller, 0, 2_000)]
    {
        let mut bench = Bench::answered();
        bench.heard(&to);
        bench.ask(&from, "INVITE", 2, "", &sdp(4_400, 2, ""));
        bench.heard(&to);
        let mut delays = Vec::new();
        for _ in 0..3 {
            let number = bench.request(&to, &Method::Invite).cseq().map(|cseq| cseq.number);
            bench.answer(&to, 491, "");
            assert_eq!(bench.heard(&to)[0], "ACK");
            let at = bench.now;
            while !bench.heard(&to).contains(&"INVITE sdp".to_owned()) {
                bench.wait(Duration::from_millis(10));
            }
            delays.push(bench.now.saturating_since(at).as_millis());
            let again = bench.request(&to, &Method::Invite).cseq().map(|cseq| cseq.number);
            assert_eq!(again, number.map(|number| number + 1));
        }
        assert!(delays.iter().all(|delay| (low..=high + 10).contains(delay)), "{delays:?}");
        assert!(delays[0] != delays[1] || delays[1] != delays[2], "drawn anew: {delays:?}");
        bench.answer(&to, 491, "");
        assert!(bench.heard(&from).contains(&"491".to_owned()), "at last it is told");
    }
}

#[test]
fn one_offer_at_a_time() {
    let mut bench = Bench::answered();
    bench.heard(&callee());
    bench.ask(CALLER, "INVITE", 2, "", &sdp(4_400, 2, ""));
    // §14.1: ours is open towards the callee.
    bench.ask(&callee(), "INVITE", 1, "", &sdp(5_500, 2, ""));
    assert_eq!(bench.heard(&callee()), ["INVITE sdp", "491"]);
    // §14.2: a second one before the first is answered.
    bench.ask(CALLER, "INVITE", 3, "", &sdp(4_600, 3, ""));
    assert_eq!(bench.heard(CALLER), ["100", "500"]);
    let later = bench.response(CALLER, 500).headers.get(&HeaderName::RetryAfter).map(str::to_owned);
    assert!(later.and_then(|seconds| seconds.parse::<u8>().ok()).is_some_and(|s| s <= 10));
    // While 491 lets ours wait, the phone's would wait for it and it for the phone's.
    bench.answer(&callee(), 491, "");
    bench.ask(&callee(), "INVITE", 2, "", &sdp(5_500, 2, ""));
    assert_eq!(bench.heard(&callee()), ["ACK", "491"]);
}

#[test]
fn a_second_invite_before_the_answer_is_refused() {
    let mut bench = Bench::plain();
    bench.answer(&callee(), 180, "");
    bench.heard(CALLER);
    bench.ask(CALLER, "INVITE", 2, "", &sdp(4_400, 2, ""));
    assert_eq!(bench.heard(CALLER), ["500"]);
    assert!(bench.response(CALLER, 500).headers.get(&HeaderName::RetryAfter).is_some());
    bench.answer(&callee(), 200, &sdp(5_000, 1, ""));
    assert_eq!(bench.heard(CALLER), ["200 sdp"], "the first is answered as ever");
}

/// The callee's re-INVITE comes while the caller's ACK is out: it waits; the caller's own then gets 491, or both
/// would wait for ever.
#[test]
fn offers_wait_for_the_other_leg() {
    let mut bench = Bench::plain();
    bench.answer(&callee(), 200, &sdp(5_000, 1, ""));
    bench.heard(CALLER);
    bench.heard(&callee());
    bench.ask(&callee(), "INVITE", 1, "", &sdp(5_500, 2, ""));
    assert_eq!(bench.heard(CALLER), [""; 0], "its ACK is awaited");
    bench.ask(CALLER, "INVITE", 2, "", &sdp(4_400, 2, ""));
    assert_eq!(bench.heard(CALLER), ["491"]);
    bench.acknowledge(1, "");
    assert_eq!(bench.heard(CALLER), ["INVITE sdp"]);
    bench.answer(CALLER, 200, &sdp(4_000, 2, ""));
    assert_eq!(bench.heard(&callee()), ["100", "200 sdp"]);
    assert_eq!(bench.heard(CALLER), ["ACK"]);
}

/// Offer in the 200, answer in the ACK; the callee's ACK waits for the caller's.
#[test]
fn late_offer_from_the_first_invite() {
    let mut bench = Bench::new(1, "", "");
    assert_eq!(bench.heard(&callee()), ["INVITE"]);
    bench.answer(&callee(), 180, "");
    bench.answer_with(&callee(), &Method::Invite, 200, "X-Agent: 9", &sdp(5_000, 1, ""));
    assert_eq!(bench.heard(CALLER), ["100", "180", "200 sdp"]);
    let passed = bench.response(CALLER, 200);
    assert_eq!(passed.headers.get(&HeaderName::from("X-Agent")), Some("9"));
    assert_eq!(bench.heard(&callee()), [""; 0]);
    bench.acknowledge(1, &sdp(4_000, 1, ""));
    assert_eq!(bench.heard(&callee()), ["ACK sdp"]);
    assert_eq!(bench.hears(LegId::CALLER), Hears::Leg(LegId(1)));
    bench.wait(Duration::from_secs(40));
    assert_eq!(bench.heard(CALLER), [""; 0]);
    let mut bench = Bench::new(1, "", "");
    bench.answer(&callee(), 200, &sdp(5_000, 1, ""));
    bench.acknowledge(1, "");
    assert_eq!(bench.heard(&callee()), ["INVITE", "ACK sdp", "BYE"], "no answer, no call");
    bench.must_end();
}

#[test]
fn late_offer_of_a_reinvite() {
    let mut bench = Bench::answered();
    bench.heard(&callee());
    bench.ask(&callee(), "INVITE", 1, "", "");
    assert_eq!(bench.heard(CALLER), ["INVITE"]);
    bench.answer(CALLER, 200, &sdp(4_000, 2, "a=sendonly\r\n"));
    assert_eq!(bench.heard(&callee()), ["100", "200 sdp"]);
    assert_eq!(bench.heard(CALLER), [""; 0], "its ACK waits");
    bench.ask(&callee(), "ACK", 1, "", &sdp(5_000, 2, "a=recvonly\r\n"));
    assert_eq!(bench.heard(CALLER), ["ACK sdp"]);
    let answer = text(&bench.request(CALLER, &Method::Ack).body);
    assert!(answer.contains("m=audio 20"), "{answer}");
    assert_eq!(bench.call.view(bench.now).hold, HoldState::Caller);
}

#[test]
fn a_cancelled_reinvite_changes_nothing() {
    let mut bench = Bench::answered();
    bench.heard(&callee());
    bench.ask(CALLER, "INVITE", 2, "", &sdp(4_400, 2, ""));
    bench.answer(&callee(), 100, "");
    bench.ask(CALLER, "CANCEL", 2, "", "");
    assert_eq!(bench.heard(&callee()), ["INVITE sdp", "CANCEL"]);
    bench.answer(&callee(), 487, "");
    assert_eq!(bench.heard(CALLER), ["100", "200", "487"]);
    bench.ask(CALLER, "INVITE", 3, "", &sdp(4_400, 3, "a=sendonly\r\n"));
    bench.answer(&callee(), 200, &sdp(5_000, 2, "a=recvonly\r\n"));
    assert_eq!(bench.heard(CALLER), ["100", "200 sdp"]);
}

#[test]
fn what_is_no_offer_is_refused() {
    let mut bench = Bench::answered();
    bench.heard(&callee());
    bench.ask(CALLER, "INVITE", 2, "Content-Type: text/plain\r\n", "hello");
    bench.ask(CALLER, "INVITE", 3, "", "v=1 nonsense");
    assert_eq!(bench.heard(CALLER), ["415", "400"]);
    assert_eq!(bench.heard(&callee()), [""; 0]);
}

/// The network may turn a phone's ACK and its next INVITE round; the answer in the ACK is the older one.
#[test]
fn a_reinvite_that_overtakes_the_ack_waits_for_it() {
    let mut bench = Bench::answered();
    bench.heard(&callee());
    bench.ask(CALLER, "INVITE", 2, "", "");
    bench.answer(&callee(), 200, &sdp(5_000, 2, ""));
    assert_eq!(bench.heard(CALLER), ["100", "200 sdp"]);
    bench.ask(CALLER, "INVITE", 3, "", &sdp(4_000, 1, ""));
    assert_eq!(bench.heard(CALLER), [""; 0]);
    bench.acknowledge(2, &sdp(4_000, 2, "a=sendonly\r\n"));
    assert_eq!(bench.call.view(bench.now).hold, HoldState::Caller);
    assert_eq!(bench.heard(&callee()), ["INVITE", "ACK sdp", "INVITE sdp"]);
    bench.answer(&callee(), 200, &sdp(5_000, 3, ""));
    assert_eq!(bench.heard(CALLER), ["100", "200 sdp"]);
    assert_eq!(bench.call.view(bench.now).hold, HoldState::None);
}

/// Its 200 crossed our BYE (RFC 3261 §13.2.1: an offer in a 2xx is answered in the ACK).
#[test]
fn an_offer_that_comes_after_the_end_is_answered_all_the_same() {
    let mut bench = Bench::answered();
    bench.wait(Duration::from_secs(3));
    bench.ask(CALLER, "INVITE", 2, "", "");
    bench.ask(CALLER, "BYE", 3, "", "");
    bench.heard(&callee());
    bench.answer(&callee(), 200, &sdp(5_000, 2, ""));
    assert!(bench.heard(&callee()).contains(&"ACK sdp".to_owned()));
}
