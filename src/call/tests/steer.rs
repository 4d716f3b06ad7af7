//! What an operator does to a call, next to what its phones and its owners do meanwhile.

use super::modify::direction;
use super::*;
use crate::call::record::{CallRecord, VERSION};
use crate::control::Hears;
use crate::views::call::LegRole;
use crate::views::steer::Steering;
use crate::views::{EndCause, EndedBy};

fn callee() -> String {
    phone(1002, 1)
}

fn coming() -> String {
    phone(1003, 1)
}

impl Bench {
    /// An operator lets a phone leave; that of another user rings, as soon as it has ports.
    fn transfers(&mut self, leaves: LegRole, to: &str) {
        let user = self.directory.user(to).cloned().expect("a user");
        let number = to.parse().expect("digits");
        let phones = [binding(to, &phone(number, 1))];
        let transfer = self.call.transfer(leaves, to, (&user, &phones), self.now);
        transfer.expect("a transfer");
        self.drain();
    }

    fn steers(&mut self, wish: &Steering) {
        self.call.steer(wish, self.now).expect("it can be done");
        self.drain();
    }

    fn state_of(&self, leg: u16) -> leg::LegState {
        self.call.record.leg(LegId(leg)).expect("a leg").state
    }

    /// Caller and the phone that came hear each other.
    fn must_talk_with(&mut self, leg: u16) {
        assert_eq!(self.call.state(), CallState::Confirmed);
        assert_eq!(self.hears(LegId::CALLER), Hears::Leg(LegId(leg)));
        assert_eq!(self.hears(LegId(leg)), Hears::Leg(LegId::CALLER));
    }
}

/// They talk, and 1003 rings to take the callee's place.
fn ringing() -> Bench {
    let mut bench = Bench::answered();
    bench.wait(Duration::from_secs(3));
    bench.transfers(LegRole::Callee, "1003");
    bench.answer(&coming(), 180, "");
    bench.heard(&callee());
    bench.heard(CALLER);
    bench
}

/// The kill falls between the commit and the BYE to the phone that left.
#[test]
fn a_phone_that_left_is_told_so_by_the_next_owner() {
    let mut bench = ringing();
    bench.answer(&coming(), 200, &sdp(6_000, 1, ""));
    assert_eq!(bench.heard(&coming()), ["INVITE sdp", "ACK"]);
    assert_eq!(bench.heard(&callee()), ["BYE"]);
    let behind = bench.wire.iter().rev().find(|(to, ..)| *to == callee()).and_then(|sent| sent.2);
    assert_eq!(behind, bench.saves.last().map(|save| save.rev), "stored first");
    bench.is_taken_over();
    assert_eq!(bench.heard(&callee()), ["BYE"]);
    bench.answer_with(&callee(), &Method::Bye, 481, "", "");
    assert_eq!(bench.state_of(1), leg::LegState::Ended);
    bench.wait(Duration::from_secs(1));
    bench.must_talk_with(2);
    bench.is_taken_over();
    assert_eq!(bench.heard(&callee()), [""; 0], "that is known");
    bench.ask(&callee(), "BYE", 2, "", "");
    bench.must_talk_with(2);
}

/// It need not wait for who comes: who stays does, and is taken over meanwhile, too.
#[test]
fn a_phone_that_hangs_up_to_leave_ends_nothing() {
    for is_taken_over in [false, true] {
        let mut bench = ringing();
        bench.ask(&callee(), "BYE", 2, "", "");
        assert_eq!(bench.heard(&callee()), ["200"]);
        let told = bench.wire.iter().rfind(|(to, ..)| *to == callee()).and_then(|sent| sent.2);
        assert_eq!(told, bench.saves.last().map(|save| save.rev), "stored first");
        bench.ask(CALLER, "INVITE", 2, "", &sdp(4_400, 2, ""));
        assert_eq!(bench.heard(CALLER), ["491"], "there is nobody to ask yet");
        bench.ask(CALLER, "ACK", 2, "", "");
        if is_taken_over {
            bench.is_taken_over();
        }
        assert_eq!(bench.hears(LegId::CALLER), Hears::Tone(control::Tone::Ringback));
        bench.answer(&coming(), 200, &sdp(6_000, 1, ""));
        assert_eq!(bench.heard(&callee()), [""; 0], "it knows");
        bench.must_talk_with(2);
        bench.ask(CALLER, "INVITE", 3, "", &sdp(4_400, 2, ""));
        bench.answer(&coming(), 200, &sdp(6_000, 2, ""));
        assert_eq!(bench.heard(CALLER).last().map(String::as_str), Some("200 sdp"));
        bench.ask(CALLER, "ACK", 3, "", "");
        bench.ask(&coming(), "BYE", 1, "", "");
        bench.answer_with(CALLER, &Method::Bye, 200, "", "");
        bench.must_end();
        assert_eq!(bench.cdr().transfers[0].sip_status, 200);
    }
}

/// What was under way with it is answered, and who stays is told what holds.
#[test]
fn a_hold_that_is_under_way_when_its_phone_leaves_comes_to_nothing() {
    let mut bench = ringing();
    bench.ask(&callee(), "INVITE", 2, "", &sdp(5_000, 2, HOLD));
    bench.ask(&callee(), "BYE", 3, "", "");
    assert_eq!(bench.heard(&callee()), ["100", "491", "200"]);
    bench.answer(CALLER, 200, &sdp(4_000, 2, HELD));
    assert_eq!(bench.heard(CALLER), ["INVITE sdp", "ACK", "INVITE sdp"]);
    assert_eq!(direction(&bench.request(CALLER, &Method::Invite).body), "sendrecv");
    bench.answer(CALLER, 200, &sdp(4_000, 3, ""));
    bench.answer(&coming(), 200, &sdp(6_000, 1, ""));
    bench.must_talk_with(2);
}

#[test]
fn when_the_phone_that_leaves_has_hung_up_and_nobody_comes_the_call_is_over() {
    type Happens = fn(&mut Bench);
    let comes_to: [(Happens, u16, EndedBy, &[&str]); 3] = [
        (|bench| bench.answer(&coming(), 486, ""), 486, EndedBy::Callee, &["BYE"]),
        (|bench| bench.wait(Duration::from_secs(130)), 480, EndedBy::Callee, &["BYE"]),
        (|bench| bench.ask(CALLER, "BYE", 2, "", ""), 487, EndedBy::Caller, &["200"]),
    ];
    for (happens, status, by, told) in comes_to {
        let mut bench = ringing();
        bench.ask(&callee(), "BYE", 2, "", "");
        bench.heard(&callee());
        happens(&mut bench);
        assert_eq!(bench.heard(CALLER)[..1], *told, "{status}");
        if status != 486 {
            assert!(bench.heard(&coming()).contains(&"CANCEL".to_owned()), "{status}");
            bench.answer(&coming(), 487, "");
        }
        if by == EndedBy::Callee {
            bench.answer_with(CALLER, &Method::Bye, 200, "", "");
        }
        bench.must_end();
        let cdr = bench.cdr();
        assert_eq!((cdr.ended_by, cdr.end_cause), (by, EndCause::Bye));
        assert_eq!(cdr.transfers[0].sip_status, status);
    }
}

/// What the phone that left was asked before, by whom, and what it says to it: nothing, too.
#[test]
fn what_a_phone_that_left_says_does_not_concern_the_call() {
    let hold = |bench: &mut Bench| {
        bench.steers(&Steering::Hold { leg: Some(LegRole::Callee) });
    };
    let reinvite = |bench: &mut Bench| bench.ask(CALLER, "INVITE", 2, "", &sdp(4_400, 2, ""));
    let moves = |bench: &mut Bench| {
        bench.media_node = 2;
        bench.input(Input::MediaMoves { lives: false });
        bench.answer(CALLER, 200, &sdp(4_000, 1, ""));
    };
    for asks in [&hold as &dyn Fn(&mut Bench), &reinvite, &moves] {
        for status in [481, 408, 488, 200, 0] {
            let mut bench = ringing();
            asks(&mut bench);
            let asked = bench.request(&callee(), &Method::Invite);
            bench.answer(&coming(), 200, &sdp(6_000, 1, ""));
            bench.heard(&callee());
            let mut response = asked.response(Status(status), Some("t10x0x2x1x5060"));
            match status {
                0 => {}
                200 => {
                    response.headers.push(HeaderName::ContentType, "application/sdp");
                    response.body = Bytes::from(sdp(5_000, 2, ""));
                    bench.respond_raw(&callee(), response);
                    assert_eq!(bench.heard(&callee()), ["ACK", "BYE"]);
                }
                _ => {
                    bench.respond_raw(&callee(), response);
                    assert_eq!(bench.heard(&callee()), ["ACK"], "{status}");
                }
            }
            // It is told of another media node, if there is one.
            bench.answer(&coming(), 200, &sdp(6_000, 1, ""));
            bench.wait(Duration::from_secs(40));
            bench.must_talk_with(2);
        }
    }
}

/// It refused another media node, and was given time; one that is silent is asked whether it is there.
#[test]
fn what_a_phone_that_left_was_given_time_for_ends_nothing() {
    let mut bench = ringing();
    bench.media_node = 2;
    bench.input(Input::MediaMoves { lives: false });
    bench.answer(CALLER, 200, &sdp(4_000, 1, ""));
    bench.answer(&callee(), 488, "");
    bench.answer(&coming(), 200, &sdp(6_000, 1, ""));
    bench.answer(&coming(), 200, &sdp(6_000, 1, ""));
    bench.wait(Duration::from_secs(40));
    bench.must_talk_with(2);
    let mut bench = Bench::answered();
    bench.ask(&callee(), "INVITE", 2, "", &sdp(5_000, 2, "a=sendonly\r\n"));
    bench.answer(CALLER, 200, &sdp(4_000, 2, "a=recvonly\r\n"));
    bench.ask(&callee(), "ACK", 2, "", "");
    bench.wait(Duration::from_secs(50));
    bench.transfers(LegRole::Caller, "1003");
    bench.wait(Duration::from_secs(15));
    let asked = bench.request(CALLER, &Method::Options);
    bench.answer(&coming(), 200, &sdp(6_000, 1, "a=recvonly\r\n"));
    let gone = asked.response(Status(481), None);
    bench.respond_raw(CALLER, gone);
    assert_eq!(bench.call.state(), CallState::Confirmed);
}

const HOLD: &str = "a=sendonly\r\n";
const HELD: &str = "a=recvonly\r\n";

/// What the phone was told last is that it is to talk and to listen.
fn must_be_told_all(bench: &mut Bench, phone: &str, port: u16) {
    assert_eq!(bench.heard(phone).last().map(String::as_str), Some("INVITE sdp"));
    let offer = bench.request(phone, &Method::Invite).body;
    assert_eq!(direction(&offer), "sendrecv", "{}", text(&offer));
    assert!(!text(&offer).contains("m=audio 0"), "{}", text(&offer));
    bench.answer(phone, 200, &sdp(port, 3, ""));
    assert_eq!(bench.heard(phone), ["ACK"]);
}

/// It asked for a hold, and its place is taken before the other phone answered, or before that was in force.
#[test]
fn a_hold_that_a_transfer_overtakes_is_not_in_force() {
    for late in [false, true] {
        let body = if late { String::new() } else { sdp(5_000, 2, HOLD) };
        let mut bench = ringing();
        bench.ask(&callee(), "INVITE", 2, "", &body);
        bench.answer(&coming(), 200, &sdp(6_000, 1, ""));
        assert_eq!(bench.heard(&callee()), ["100", "491", "BYE"]);
        let asked = if late { "INVITE" } else { "INVITE sdp" };
        assert_eq!(bench.heard(CALLER), [asked], "one offer at a time");
        let answer = if late { sdp(4_000, 2, "") } else { sdp(4_000, 2, HELD) };
        bench.answer(CALLER, 200, &answer);
        let ack = if late { "ACK sdp" } else { "ACK" };
        let next = "INVITE sdp";
        assert_eq!(bench.heard(CALLER), [ack, next], "{late}");
        bench.wait(Duration::from_millis(600));
        must_be_told_all(&mut bench, CALLER, 4_000);
        bench.must_talk_with(2);
    }
}

/// Its own 200 waits for the media node, which is slow.
#[test]
fn what_both_agreed_on_is_answered_before_one_leaves() {
    for from in [CALLER.to_owned(), callee()] {
        let (to, own, other) = match from == CALLER {
            true => (callee(), 4_000, 5_000),
            false => (CALLER.to_owned(), 5_000, 4_000),
        };
        let mut bench = ringing();
        bench.media_silent = true;
        bench.ask(&from, "INVITE", 2, "", &sdp(own, 2, HOLD));
        bench.answer(&to, 200, &sdp(other, 2, HELD));
        assert_eq!((bench.heard(&from), bench.heard(&to).len()), (vec!["100".to_owned()], 1));
        bench.answer(&coming(), 200, &sdp(6_000, 1, ""));
        assert_eq!(bench.heard(&from)[0], "200 sdp");
        assert_eq!(bench.heard(&to)[0], "ACK");
        bench.ask(&from, "ACK", 2, "", "");
        bench.media_returns();
        bench.wait(Duration::from_millis(600));
        bench.must_talk_with(2);
    }
}

/// The media node's late word on the exchange with the phone that left is none on the next one.
#[test]
fn a_reinvite_that_waited_goes_to_who_came_and_is_answered_by_nobody_else() {
    let mut bench = ringing();
    bench.media_silent = true;
    bench.ask(&callee(), "INVITE", 2, "", &sdp(5_002, 2, ""));
    bench.answer(CALLER, 200, &sdp(4_000, 2, ""));
    bench.ask(CALLER, "INVITE", 2, "", &sdp(4_400, 3, ""));
    bench.heard(CALLER);
    bench.answer(&coming(), 200, &sdp(6_000, 1, ""));
    assert_eq!(bench.heard(&coming()), ["INVITE sdp", "ACK", "INVITE sdp"]);
    assert_eq!(bench.heard(CALLER), ["ACK", "100"]);
    bench.media_returns();
    assert_eq!(bench.heard(CALLER), [""; 0], "its answer is not here yet");
    bench.answer(&coming(), 200, &sdp(6_000, 2, ""));
    assert_eq!(bench.heard(CALLER), ["200 sdp"]);
    bench.must_talk_with(2);
}

/// The answer would have come with the ACK of the phone that left.
#[test]
fn a_late_offer_of_who_stays_is_answered_though_who_asked_left() {
    let mut bench = ringing();
    bench.ask(&callee(), "INVITE", 2, "", "");
    bench.answer(CALLER, 200, &sdp(4_000, 2, ""));
    assert_eq!(bench.heard(&callee()), ["100", "200 sdp"]);
    assert_eq!(bench.heard(CALLER), ["INVITE"]);
    bench.answer(&coming(), 200, &sdp(6_000, 1, ""));
    assert_eq!(bench.heard(CALLER)[0], "ACK sdp");
    let answer = bench.request(CALLER, &Method::Ack).body;
    assert!(text(&answer).contains("m=audio 20"), "{}", text(&answer));
    assert_eq!(bench.heard(&callee()), [""; 0], "its ACK first");
    bench.ask(&callee(), "ACK", 2, "", &sdp(5_000, 2, HOLD));
    assert_eq!(bench.heard(&callee()), ["BYE"]);
    bench.must_talk_with(2);
}

/// The staying phone resumes, or holds, while the new one rings with what it said before.
#[test]
fn who_comes_is_told_what_the_staying_phone_said_since() {
    for (before, since, told) in [(HOLD, "", "sendrecv"), ("", HOLD, "sendonly")] {
        let mut bench = Bench::answered();
        let mirror = |wish: &str| if wish == HOLD { HELD } else { "" };
        bench.ask(CALLER, "INVITE", 2, "", &sdp(4_000, 2, before));
        if !before.is_empty() {
            bench.answer(&callee(), 200, &sdp(5_000, 2, mirror(before)));
        }
        bench.ask(CALLER, "ACK", 2, "", "");
        bench.wait(Duration::from_secs(3));
        bench.transfers(LegRole::Callee, "1003");
        bench.answer(&coming(), 180, "");
        bench.ask(CALLER, "INVITE", 3, "", &sdp(4_000, 3, since));
        bench.answer(&callee(), 200, &sdp(5_000, 3, mirror(since)));
        bench.ask(CALLER, "ACK", 3, "", "");
        bench.heard(&coming());
        bench.answer(&coming(), 200, &sdp(6_000, 1, mirror(before)));
        assert_eq!(bench.heard(&coming()), ["ACK", "INVITE sdp"]);
        assert_eq!(direction(&bench.request(&coming(), &Method::Invite).body), told);
        bench.answer(&coming(), 200, &sdp(6_000, 2, mirror(since)));
        bench.must_talk_with(2);
        let sides = |leg: u16| {
            let leg = bench.call.record.leg(LegId(leg)).expect("a leg");
            let side = leg.streams[0].side.as_ref().expect("agreed");
            (side.direction.sends(), side.direction.receives())
        };
        let both = if since == HOLD { [(true, false), (false, true)] } else { [(true, true); 2] };
        assert_eq!([sides(0), sides(2)], both);
    }
}

/// The branch that rings is cancelled and rings anew, as any other; it is no re-INVITE.
#[test]
fn who_rings_for_a_transfer_rings_anew_from_another_address() {
    let mut bench = ringing();
    bench.wait(Duration::from_secs(1));
    bench.heard(&coming());
    bench.moves_elsewhere();
    assert_eq!(bench.heard(&coming()), ["CANCEL", "INVITE sdp"]);
    bench.answer(&coming(), 200, &sdp(6_000, 1, ""));
    assert_eq!(bench.heard(&coming())[0], "ACK");
    bench.must_talk_with(3);
    // Its ports were awaited when the owner died.
    let mut bench = Bench::answered();
    bench.wait(Duration::from_secs(3));
    bench.media_silent = true;
    bench.transfers(LegRole::Callee, "1003");
    bench.media_silent = false;
    bench.moves_elsewhere();
    assert_eq!(bench.heard(&coming()), ["INVITE sdp"]);
    let invite = bench.request(&coming(), &Method::Invite);
    let contact = invite.contact().expect("a Contact");
    assert!(contact.uri.as_str().contains(ELSEWHERE), "{contact:?}");
    bench.answer(&coming(), 200, &sdp(6_000, 1, ""));
    bench.must_talk_with(2);
}

/// The ports of who comes were asked for at a node that does not take the session.
#[test]
fn a_media_move_that_fails_does_not_forget_who_is_to_ring() {
    for refused in [false, true] {
        let mut bench = Bench::answered();
        bench.media_silent = true;
        bench.transfers(LegRole::Callee, "1003");
        bench.input(Input::MediaMoves { lives: true });
        bench.media_silent = false;
        let (session, epoch) = (bench.call.session(), bench.call.record.epoch);
        let (rev, reason) = (bench.call.record.media.rev, control::Refusal::Capacity);
        let reply = control::Reply::Refused { session, epoch, rev, reason };
        bench.input(match refused {
            true => Input::Media { node: NodeName("m-2".into()), reply },
            false => Input::MediaLost,
        });
        assert_eq!(bench.heard(&coming()), ["INVITE sdp"], "{refused}");
        bench.answer(&coming(), 200, &sdp(6_000, 1, ""));
        bench.must_talk_with(2);
    }
}

/// A phone says no to what an operator does not want any more.
#[test]
fn a_refusal_of_an_older_wish_is_not_one_of_the_newer() {
    let mut bench = Bench::answered();
    let wish = |hold| {
        let leg = Some(LegRole::Callee);
        if hold { Steering::Hold { leg } } else { Steering::Unhold { leg } }
    };
    bench.steers(&wish(true));
    bench.answer(&callee(), 200, &sdp(5_000, 2, HELD));
    bench.steers(&wish(false));
    bench.steers(&wish(true));
    bench.heard(&callee());
    bench.answer(&callee(), 488, "");
    assert_eq!(bench.heard(&callee()), ["ACK", "INVITE sdp"]);
    assert_eq!(direction(&bench.request(&callee(), &Method::Invite).body), "sendonly");
    assert!(!bench.call.record.added_5.untold.is_empty(), "the next owner knows it too");
}

#[test]
fn the_caller_that_was_transferred_away_has_one_call_less() {
    let mut bench = Bench::answered();
    assert_eq!(bench.call.caller_extension(), Some("1001"));
    bench.transfers(LegRole::Caller, "1003");
    assert_eq!(bench.call.caller_extension(), Some("1001"), "until somebody comes");
    bench.answer(&coming(), 200, &sdp(6_000, 1, ""));
    assert_eq!(bench.call.caller_extension(), Some("1003"));
    bench.ask(&coming(), "BYE", 1, "", "");
    assert_eq!(bench.call.caller_extension(), None);
}

/// RFC 3326: a protocol, its cause, and words.
#[test]
fn who_comes_and_cannot_be_understood_is_told_why() {
    let mut bench = ringing();
    bench.answer(&coming(), 200, "");
    let bye = bench.request(&coming(), &Method::Bye);
    let reason = bye.headers.get(&HeaderName::Reason);
    assert_eq!(reason, Some("SIP;cause=488;text=\"no audio stream offered\""));
    assert_eq!(bench.hears(LegId::CALLER), Hears::Leg(LegId(1)), "the call goes on");
}

/// The first caller comes back as the callee, and the other phone leaves.
#[test]
fn who_takes_a_place_has_its_role_whoever_stays() {
    let mut bench = Bench::answered();
    bench.transfers(LegRole::Caller, "1003");
    bench.answer(&coming(), 200, &sdp(6_000, 1, ""));
    bench.transfers(LegRole::Callee, "1001");
    bench.answer(&phone(1001, 1), 200, &sdp(7_000, 1, ""));
    bench.transfers(LegRole::Caller, "1004");
    let roles = bench.call.record.legs.iter().map(|leg| leg.role);
    let expect = [LegRole::Caller, LegRole::Callee, LegRole::Caller, LegRole::Callee];
    assert_eq!(roles.collect::<Vec<_>>(), [&expect[..], &[LegRole::Caller]].concat());
}

#[test]
fn digits_that_wait_are_kept_sealed_and_forgotten_when_they_are_sent() {
    let mut bench = Bench::answered();
    let key = bench.call.settings.key.clone();
    let record = |bench: &Bench| bench.call.record.encode(VERSION, &key);
    let holds =
        |record: &[u8], digits: &[u8]| record.windows(digits.len()).any(|part| part == digits);
    let plain = record(&bench);
    bench.media_silent = true;
    bench.steers(&Steering::Dial { leg: LegRole::Callee, digits: "73915#".to_owned() });
    let sealed = record(&bench);
    assert!(holds(&plain, b"1001") && !holds(&sealed, b"1001"), "sealed whole");
    assert!(!holds(&sealed, b"73915#"));
    let read = CallRecord::decode(&sealed, &key).expect("a record of ours");
    assert_eq!(read.added_5.dialling, bench.call.record.added_5.dialling);
    bench.call.acts_done();
    assert_eq!(record(&bench)[..2], plain[..2], "in clear again");
}

#[test]
fn digits_that_wait_for_one_phone_do_not_stand_in_the_others_way() {
    let mut bench = Bench::answered();
    bench.media_silent = true;
    let dial = |leg| Steering::Dial { leg, digits: "1".to_owned() };
    for _ in 0..8 {
        bench.steers(&dial(LegRole::Caller));
    }
    let now = bench.now;
    assert!(bench.call.steer(&dial(LegRole::Caller), now).is_err());
    bench.steers(&dial(LegRole::Callee));
}
