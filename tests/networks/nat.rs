//! Phones behind NAT: register, call, are called, hold, fall silent, get another address, and call each other.
//!
//! `HOLDFAST_TEST_IDLE_SECONDS=180 cargo test --test networks` waits as long as people do.

use crate::common::network::{Machine, Network, in_a_network};
use crate::common::phone::Phone;
use crate::common::rtp::Talk;
use crate::common::server::Server;
use crate::pair::{Attempt, CALLEE_HZ, CALLER_HZ, Pair, phone, reinvite};
use crate::router::{Kind, Router};
use holdfast::sip::{Message, Method};
use std::time::{Duration, Instant};

/// What cheap routers grant a flow (RFC 4787 REQ-5 asks for more).
const FORGETFUL_SECONDS: u32 = 30;

/// Before the 120 s are over that phones behind NAT are granted.
const REFRESH: Duration = Duration::from_secs(100);

/// A phone somewhere, with its mouth and ear.
pub(crate) struct Party<'a> {
    pub(crate) phone: Phone,
    place: &'a Machine,
}

impl<'a> Party<'a> {
    /// Registers from there.
    pub(crate) fn at(place: &'a Machine, server: &Server, user: &str, transport: &str) -> Self {
        let phone = place.within(|| phone(server, user, transport));
        Self { phone, place }
    }

    fn talk(&self, tone_hz: u32) -> Talk {
        self.place.within(|| Talk::new(tone_hz))
    }

    fn call(self, callee: Self, uri: &str) -> Pair {
        let talks = [self.talk(CALLER_HZ), callee.talk(CALLEE_HZ)];
        Pair::answered(Attempt::with_talks(self.phone, callee.phone, uri, talks))
    }
}

/// The switch at a public address, with a public phone's place.
fn switch(network: &Network) -> (Machine, Server, Machine) {
    let machine = network.machine(11);
    let server = machine.within(Server::start);
    (machine, server, network.machine(12))
}

#[allow(clippy::disallowed_methods, reason = "a wish of the person who runs the tests")]
fn idle_time() -> Duration {
    let wish = std::env::var("HOLDFAST_TEST_IDLE_SECONDS").ok();
    let seconds = wish.map_or(65, |text| text.parse().expect("HOLDFAST_TEST_IDLE_SECONDS"));
    Duration::from_secs(seconds)
}

fn is_invite(message: &Message) -> bool {
    matches!(message, Message::Request(request) if request.method == Method::Invite)
}

#[test]
fn phones_behind_every_kind_of_nat_call_and_are_called() {
    in_a_network(|network| {
        let (_machine, server, outside) = switch(network);
        for (kind, number) in Kind::ALL.into_iter().zip(21..) {
            println!("{kind:?}");
            let router = Router::new(network, number, kind);
            let inside = router.place(2);
            let far = Party::at(&outside, &server, "1002", "udp");
            let near = Party::at(&inside, &server, "1001", "udp");
            let [registration] = &server.registrations("1001", 1)[..] else { panic!("one") };
            assert_eq!(registration["nat"], true, "{registration:#?}");
            let source = registration["source"].as_str().expect("a source");
            assert!(source.starts_with(&router.ip().to_string()), "{registration:#?}");

            let mut pair = near.call(far, &server.uri("1002"));
            pair.hear_each_other();
            pair.hold_and_resume();
            pair.caller.hangs_up_on(&mut pair.callee);

            let far = Party { phone: pair.callee.phone, place: &outside };
            let near = Party { phone: pair.caller.phone, place: &inside };
            let mut pair = far.call(near, &server.uri("1001"));
            pair.hear_each_other();
            pair.hold_and_resume();
            pair.caller.hangs_up_on(&mut pair.callee);
            pair.callee.phone.unregister();
        }
    });
}

#[test]
fn phones_that_were_silent_for_minutes_are_called_through_forgetful_nat() {
    in_a_network(|network| {
        let (_machine, server, outside) = switch(network);
        let kinds = Kind::ALL.into_iter().zip(21..);
        let sites: Vec<(Router, Machine)> = kinds
            .map(|(kind, number)| {
                let router = Router::new(network, number, kind);
                router.forgets_after(FORGETFUL_SECONDS);
                let place = router.place(2);
                (router, place)
            })
            .collect();
        let users = ["2001", "2002", "2003", "2004"];
        let places = sites.iter().map(|(_, place)| place);
        let mut silent: Vec<Party<'_>> = (places.zip(users))
            .map(|(place, user)| Party::at(place, &server, user, "udp"))
            .collect();
        let end = Instant::now() + idle_time();
        let mut registered_at = Instant::now();
        while Instant::now() < end {
            for party in &mut silent {
                assert!(!party.phone.comes(Duration::from_millis(50), is_invite), "too early");
            }
            if registered_at.elapsed() > REFRESH {
                registered_at = Instant::now();
                silent.iter_mut().for_each(|party| drop(party.phone.register(&[])));
            }
        }
        let mut far = Party::at(&outside, &server, "1002", "udp");
        for (party, user) in silent.into_iter().zip(users) {
            let mut pair = far.call(party, &server.uri(user));
            pair.hear_each_other();
            pair.callee.hangs_up_on(&mut pair.caller);
            far = Party { phone: pair.caller.phone, place: &outside };
        }
    });
}

#[test]
fn a_call_follows_its_phone_to_another_address() {
    in_a_network(|network| {
        let (_machine, server, outside) = switch(network);
        for (kind, number) in Kind::ALL.into_iter().zip(21..) {
            println!("{kind:?}");
            let mut router = Router::new(network, number, kind);
            let inside = router.place(2);
            let far = Party::at(&outside, &server, "1002", "udp");
            let near = Party::at(&inside, &server, "1001", "udp");
            let mut pair = near.call(far, &server.uri("1002"));
            pair.hear_each_other();
            router.moves_to(number + 100);
            pair.hear_each_other();
            // The first to speak is the phone that moved; then it is reached where it is.
            let Pair { caller, callee } = &mut pair;
            reinvite(caller, callee, "sendonly", "recvonly", false);
            reinvite(caller, callee, "sendrecv", "sendrecv", false);
            reinvite(callee, caller, "sendonly", "recvonly", false);
            reinvite(callee, caller, "sendrecv", "sendrecv", false);
            pair.hear_each_other();
            pair.callee.hangs_up_on(&mut pair.caller);
            pair.caller.phone.unregister();
        }
    });
}

/// All that the phone says of its new address is a REGISTER; on TCP its connection is gone too.
#[test]
fn a_call_follows_its_phone_that_registers_from_another_address() {
    in_a_network(|network| {
        let (_machine, server, outside) = switch(network);
        let udp = Kind::ALL.map(|kind| (kind, "udp"));
        let ways = udp.into_iter().chain([(Kind::Symmetric, "tcp")]);
        for ((kind, transport), number) in ways.zip(21..) {
            println!("{kind:?}, {transport}");
            let mut router = Router::new(network, number, kind);
            let inside = router.place(2);
            let far = Party::at(&outside, &server, "1002", "udp");
            let mut near = Party::at(&inside, &server, "1001", transport);
            near.phone.register_instance();
            let mut pair = near.call(far, &server.uri("1002"));
            pair.hear_each_other();
            router.moves_to(number + 100);
            let Pair { caller, callee } = &mut pair;
            if transport == "tcp" {
                inside.within(|| caller.phone.comes_anew());
            }
            caller.phone.register_instance();
            reinvite(callee, caller, "sendonly", "recvonly", false);
            reinvite(callee, caller, "sendrecv", "sendrecv", false);
            pair.hear_each_other();
            pair.callee.hangs_up_on(&mut pair.caller);
            pair.caller.phone.unregister();
            pair.callee.phone.unregister();
        }
    });
}

#[test]
fn two_phones_behind_one_nat_talk_without_hairpin() {
    in_a_network(|network| {
        let (_machine, server, _outside) = switch(network);
        for (kind, number) in Kind::ALL.into_iter().zip(21..) {
            println!("{kind:?}");
            let router = Router::new(network, number, kind);
            let places = [router.place(2), router.place(3)];
            let one = Party::at(&places[0], &server, "1001", "udp");
            let other = Party::at(&places[1], &server, "1002", "udp");
            let mut pair = one.call(other, &server.uri("1002"));
            pair.hear_each_other();
            pair.hold_and_resume();
            pair.callee.hangs_up_on(&mut pair.caller);
            pair.caller.phone.unregister();
            pair.callee.phone.unregister();
        }
    });
}

#[test]
fn a_phone_on_tcp_behind_symmetric_nat_is_called() {
    in_a_network(|network| {
        let (_machine, server, outside) = switch(network);
        let router = Router::new(network, 21, Kind::Symmetric);
        let inside = router.place(2);
        let far = Party::at(&outside, &server, "1002", "udp");
        let near = Party::at(&inside, &server, "1001", "tcp");
        let mut pair = far.call(near, &server.uri("1001"));
        pair.hear_each_other();
        pair.hold_and_resume();
        pair.caller.hangs_up_on(&mut pair.callee);
    });
}
