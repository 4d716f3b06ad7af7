//! What an operator does to a call, next to what its phones and its owners do meanwhile.

use super::*;
use crate::control::Hears;
use crate::views::call::LegRole;

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
