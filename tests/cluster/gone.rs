//! A signaling host is cut off with hundreds of calls: all their phones are told of the host that is left, and all calls
//! go on. How long that takes after the claim is printed.

use crate::common::network::in_a_network;
use crate::common::phone::{Phone, callee_dialog, sdp};
use crate::common::server::Server;
use crate::common::{SOON, eventually, own_ip, set_own_ip};
use crate::media::calls_or;
use crate::pair::{Attempt, Pair, phone, ring};
use crate::two_hosts::{Hosts, LEASES};
use holdfast::sip::{Dialog, Message, Method};
use std::thread;
use std::time::{Duration, Instant};

/// Calls, unless `HOLDFAST_TEST_CALLS` says otherwise.
const CALLS: usize = 200;
/// Ten times what is promised: this machine has other work too.
const TOO_LATE: Duration = Duration::from_secs(20);

/// A phone with many calls.
struct Busy {
    phone: Phone,
    dialogs: Vec<Dialog>,
    sdp: String,
}

/// Two of them, each in all calls of the other.
struct Crowd {
    caller: Busy,
    callee: Busy,
}

impl Crowd {
    fn talking(server: &Server, count: usize) -> Self {
        let busy = |user, port| {
            let (phone, sdp) = (phone(server, user, "udp"), sdp(port, 1, "sendrecv"));
            Busy { phone, dialogs: Vec::new(), sdp }
        };
        let mut crowd = Self { caller: busy("1003", 40_000), callee: busy("1004", 40_002) };
        for _ in 0..count {
            crowd.call(&server.uri("1004"));
        }
        crowd
    }

    fn call(&mut self, uri: &str) {
        let Self { caller, callee } = self;
        let (invite, received) = eventually("the switch has room", SOON, || {
            ring(&mut caller.phone, &mut callee.phone, uri, &caller.sdp)
        });
        callee.phone.respond(&received, 200, "callee", Some(&callee.sdp));
        let accepted = caller.phone.response_with(200);
        let dialog = Phone::caller_dialog(&invite, &accepted);
        caller.phone.acknowledge(&dialog, &invite, None);
        caller.dialogs.push(dialog);
        callee.phone.request_of(&Method::Ack);
        callee.dialogs.push(callee_dialog(&received, "callee"));
    }
}

impl Busy {
    /// In each of its calls it is told of that address, once, and takes it; when it was asked.
    fn is_told_of(&mut self, address: &str) -> Vec<Instant> {
        let is_invite = |came: &Message| matches!(came, Message::Request(request) if request.method == Method::Invite);
        eventually("a phone is told", LEASES, || {
            self.phone.comes(Duration::from_millis(50), is_invite).then_some(())
        });
        let mut untold: Vec<&mut Dialog> = self.dialogs.iter_mut().collect();
        let mut times = Vec::new();
        while !untold.is_empty() {
            let invite = self.phone.request_of(&Method::Invite);
            times.push(Instant::now());
            let its = |dialog: &&mut Dialog| invite.call_id() == Some(dialog.call_id.as_str());
            let at = untold.iter().position(its).expect("a call whose phone was not told");
            let contact = invite.contact().expect("a Contact");
            assert!(contact.uri.as_str().contains(address), "{invite:?}");
            untold.swap_remove(at).refresh_target(&contact);
            self.phone.respond(&invite, 200, "unused", Some(&self.sdp));
        }
        times.iter().for_each(|_| drop(self.phone.request_of(&Method::Ack)));
        self.phone.follow(&self.dialogs[0]);
        times
    }

    /// It ends that many of its calls, and the far phone hears of each.
    fn hangs_up(&mut self, count: usize, far: &mut Self) {
        for mut dialog in self.dialogs.drain(..count) {
            self.phone.hang_up(&mut dialog);
            let bye = far.phone.request_of(&Method::Bye);
            far.phone.respond(&bye, 200, "unused", None);
            far.dialogs.remove(0);
        }
    }
}

/// The first calls have another owner: when that was seen.
fn first_claim(hosts: &Hosts) -> Instant {
    eventually("calls are claimed", LEASES, || {
        let claimed = hosts.postgres.number("select count(*) from calls where epoch > 1");
        (claimed > 0).then(Instant::now)
    })
}

#[test]
fn all_calls_of_a_host_that_is_gone_are_told_of_the_other_and_go_on() {
    in_a_network(|network| {
        let hosts = Hosts::with_media_ports(network, &(20_000..=29_999));
        let count = calls_or(CALLS);
        let [from, to] = ["1001", "1002"].map(|user| phone(&hosts.first, user, "udp"));
        let mut pair = Pair::answered(Attempt::between(from, to, &hosts.first.uri("1002")));
        let Crowd { mut caller, mut callee } = Crowd::talking(&hosts.first, count);
        pair.hear_each_other();
        hosts.machines[0].unplug();
        let (ip, there) = (own_ip(), hosts.machines[1].ip.to_string());
        let (claimed, told) = thread::scope(|scope| {
            let is_told = |busy| {
                let there = &there;
                scope.spawn(move || {
                    set_own_ip(ip);
                    Busy::is_told_of(busy, there)
                })
            };
            let phones = [&mut caller, &mut callee].map(is_told);
            let claimed = first_claim(&hosts);
            (claimed, phones.map(|phone| phone.join().expect("a phone that is told")))
        });
        println!("{}", check_times(&told.concat(), claimed));
        pair.caller.is_told(&hosts);
        pair.callee.is_told(&hosts);
        pair.hear_each_other();
        pair.hold_and_resume();
        caller.hangs_up(count / 2, &mut callee);
        callee.hangs_up(count - count / 2, &mut caller);
        pair.callee.hangs_up_on(&mut pair.caller);
        check_records(&hosts, count + 1);
    });
}

/// When phones were told, in words; it must not have been too late.
fn check_times(told: &[Instant], claimed: Instant) -> String {
    let mut after: Vec<Duration> =
        told.iter().map(|at| at.saturating_duration_since(claimed)).collect();
    after.sort_unstable();
    let at = |percent: usize| after[(after.len() - 1) * percent / 100];
    let (half, most, all) = (at(50), at(95), at(100));
    assert!(all < TOO_LATE, "the last phone was told {all:?} after the claim");
    format!("{} phones told after the claim: p50 {half:?}, p95 {most:?}, max {all:?}", told.len())
}

/// Each call has its record, of an answered one that was taken over once.
fn check_records(hosts: &Hosts, count: usize) {
    let count = i64::try_from(count).expect("a number of calls");
    let records = "select count(*) from cdrs";
    eventually("each call has its record", SOON, || {
        (hosts.postgres.number(records) == count).then_some(())
    });
    let taken_over = "select count(*) from cdrs where disposition = 'answered' and document::json->>'takeovers' = '1'";
    assert_eq!(hosts.postgres.number(taken_over), count);
}
