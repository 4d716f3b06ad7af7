//! RTP that the kernel passes on by itself, between hosts of their own.
//!
//! The kernel must take programs (Linux 6.6, root): where it does not, the test fails. Who cannot have that sets
//! `WITHOUT_BPF=1`, and the output says what was left out.

use crate::common::network::{Machine, Network, in_a_network, ip};
use crate::common::rtp::Talk;
use crate::common::server::Server;
use crate::common::{SOON, eventually, is_left_out, own_name};
use crate::nat::Party;
use crate::pair::{Attempt, CALLEE_HZ, CALLER_HZ, Pair};
use serde_json::Value;
use std::time::{Duration, Instant};

/// An address of the switch that no cable has.
const VIRTUAL: &str = "10.99.0.1";
/// Sounds of a second.
const SECOND: usize = 50;

/// A switch and two phones, each on a host of its own.
struct Hosts {
    switch: Machine,
    server: Server,
    phones: [Machine; 2],
}

fn on_hosts(settings: &[(&str, &str)], test: impl FnOnce(&Hosts) + Send) {
    if is_left_out(&own_name(), "WITHOUT_BPF") {
        return;
    }
    in_a_network(|network: &Network| {
        let switch = network.machine(11);
        switch.within(|| {
            ip("link set lo up");
            ip(&format!("addr add {VIRTUAL}/32 dev lo"));
        });
        let server = switch.within(|| Server::start_with(settings));
        let phones = [network.machine(12), network.machine(13)];
        for phone in &phones {
            phone.within(|| ip(&format!("route add {VIRTUAL} via {}", switch.ip)));
        }
        test(&Hosts { switch, server, phones });
    });
}

impl Hosts {
    fn call(&self) -> Pair {
        let [near, far] = &self.phones;
        let caller = Party::at(near, &self.server, "1001", "udp");
        let callee = Party::at(far, &self.server, "1002", "tcp");
        let talks = [(near, CALLER_HZ), (far, CALLEE_HZ)]
            .map(|(place, hz)| place.within(|| Talk::new(hz).numbered()));
        let uri = self.server.uri("1002");
        Pair::answered(Attempt::with_talks(caller.phone, callee.phone, &uri, talks))
    }

    /// What the switch tells of itself.
    fn figure(&self, name: &str) -> u64 {
        let told = self.switch.within(|| {
            let mut answer = ureq::get(format!("http://{}/metrics", self.server.admin)).call();
            let answer = answer.as_mut().expect("an answer");
            answer.body_mut().read_to_string().expect("text")
        });
        let line = told.lines().find_map(|line| line.strip_prefix(name));
        line.expect("it is told").trim().parse::<f64>().expect("a number") as u64
    }

    fn offloaded(&self) -> u64 {
        self.figure("holdfast_media_packets_offloaded_total ")
    }

    /// The kernel passes both ways on.
    fn runs(&self, pair: &Pair) {
        eventually("the kernel passes on", SOON, || {
            let before = self.offloaded();
            go_on(pair, SECOND);
            (self.offloaded() - before > SECOND as u64 * 3 / 2).then_some(())
        });
    }

    fn ended(&self, mut pair: Pair) -> (Pair, Value) {
        pair.caller.hangs_up_on(&mut pair.callee);
        let cdr = self.server.cdrs(1).remove(0);
        (pair, cdr)
    }
}

/// So many more packets came to each.
fn go_on(pair: &Pair, packets: usize) {
    let talks = [&pair.caller.talk, &pair.callee.talk];
    let before = talks.map(|talk| talk.came().len());
    eventually("packets come", SOON, || {
        let came =
            talks.iter().zip(before).all(|(talk, before)| talk.came().len() >= before + packets);
        came.then_some(())
    });
}

/// Sequence numbers one after the other, and so the numbers that are in the sound.
fn check_order(talk: &Talk) {
    let came = talk.came();
    assert!(came.len() > SECOND, "{}", came.len());
    for pair in came.windows(2) {
        let [one, next] = pair else { continue };
        assert_eq!(next.sequence, one.sequence.wrapping_add(1), "{pair:?}");
        let numbers = one.number.zip(next.number).expect("it is heard");
        assert_eq!(numbers.1, numbers.0.wrapping_add(1), "{pair:?}");
        assert_eq!(next.ssrc, one.ssrc, "{pair:?}");
    }
}

#[test]
fn phones_of_other_hosts_are_heard_through_the_kernel_and_counted_to_the_packet() {
    on_hosts(&[], |hosts| {
        let pair = hosts.call();
        pair.hear_each_other();
        hosts.runs(&pair);
        go_on(&pair, 3 * SECOND);
        let (pair, cdr) = hosts.ended(pair);
        for (side, leg) in [(&pair.caller, 0), (&pair.callee, 1)] {
            check_order(&side.talk);
            let stream = &cdr["legs"][leg];
            let count = |name: &str| stream[name].as_u64().unwrap_or_else(|| panic!("{cdr:#?}"));
            assert_eq!(count("packets_lost"), 0, "{cdr:#?}");
            assert!(count("packets_received") <= side.talk.sent(), "{cdr:#?}");
            assert!(count("packets_sent") >= side.talk.came().len() as u64, "{cdr:#?}");
        }
    });
}

#[test]
fn sound_goes_on_while_the_process_stands_still_and_every_packet_of_that_time_counts() {
    on_hosts(&[], |hosts| {
        let pair = hosts.call();
        pair.hear_each_other();
        hosts.runs(&pair);
        hosts.server.signaling.freeze();
        let began = Instant::now();
        pair.hear_each_other();
        go_on(&pair, 2 * SECOND);
        hosts.server.signaling.thaw();
        assert!(began.elapsed().as_secs() >= 2);
        go_on(&pair, SECOND);
        let (pair, cdr) = hosts.ended(pair);
        for (side, leg) in [(&pair.caller, 0), (&pair.callee, 1)] {
            check_order(&side.talk);
            let received = cdr["legs"][leg]["packets_received"].as_u64().expect("a number");
            assert_eq!(cdr["legs"][leg]["packets_lost"], 0, "{cdr:#?}");
            assert!(received + 10 >= side.talk.sent(), "{received} of {}", side.talk.sent());
        }
    });
}

#[test]
fn sound_leaves_by_the_cable_that_leads_to_the_phone_whatever_has_the_address_it_comes_from() {
    on_hosts(&[("HOLDFAST_MEDIA_BIND", VIRTUAL)], |hosts| {
        let pair = hosts.call();
        pair.hear_each_other();
        hosts.runs(&pair);
        pair.hear_each_other();
        let (pair, _) = hosts.ended(pair);
        check_order(&pair.caller.talk);
        check_order(&pair.callee.talk);
    });
}

#[test]
fn each_ten_seconds_a_packet_comes_to_the_process_and_a_process_that_hangs_passes_on_for_no_longer()
{
    on_hosts(&[], |hosts| {
        let pair = hosts.call();
        pair.hear_each_other();
        hosts.runs(&pair);
        let ours = || hosts.figure("holdfast_media_packets_received_total ") - hosts.offloaded();
        let before = ours();
        (0..3).for_each(|_| go_on(&pair, 4 * SECOND));
        assert!(ours() > before, "{before}");
        check_order(&pair.caller.talk);
        hosts.runs(&pair);
        hosts.server.signaling.freeze();
        // A packet each 20 ms.
        let before = pair.callee.talk.came().len();
        let quiet = || {
            let came = pair.callee.talk.came();
            came.last().is_some_and(|last| last.at.elapsed() > Duration::from_secs(1))
        };
        eventually("it passes on no more", SOON * 2, || quiet().then_some(()));
        let passed = pair.callee.talk.came().len() - before;
        assert!((1..=11 * SECOND).contains(&passed), "{passed}");
        hosts.server.signaling.thaw();
        pair.hear_each_other();
        hosts.ended(pair);
    });
}

#[test]
fn who_does_not_want_it_has_every_packet_passed_on_by_the_process() {
    on_hosts(&[("HOLDFAST_MEDIA_OFFLOAD", "off")], |hosts| {
        let pair = hosts.call();
        pair.hear_each_other();
        go_on(&pair, SECOND);
        let (pair, _) = hosts.ended(pair);
        check_order(&pair.caller.talk);
        assert_eq!(hosts.offloaded(), 0);
    });
}
