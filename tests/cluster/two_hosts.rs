//! Signaling nodes of two hosts, each with its own address; media, database and phones are elsewhere. What people on
//! the phone notice when one host's node, or the host itself, is no more.

use crate::common::network::{Machine, Network, in_a_network};
use crate::common::phone::Phone;
use crate::common::postgres::Postgres;
use crate::common::process::Process;
use crate::common::server::{Host, Server};
use crate::common::{SOON, eventually, ports};
use crate::ladder::{marks, of_node, whole_ladder};
use crate::pair::{Attempt, Pair, Side, phone};
use crate::switch::check_record;
use holdfast::sip::{Message, Method, Request, Status};
use std::ops::RangeInclusive;
use std::thread;
use std::time::{Duration, Instant};

/// What is promised of phones' news after the claim.
const PROMISED: Duration = Duration::from_secs(2);
/// A host that is gone is missed after its lease.
pub(crate) const LEASES: Duration = Duration::from_secs(20);

/// Two signaling hosts and a media host. Phones call by the first.
pub(crate) struct Hosts {
    pub(crate) machines: [Machine; 2],
    pub(crate) first: Server,
    pub(crate) second: Server,
    _media: (Machine, Process),
    pub(crate) postgres: Postgres,
}

impl Hosts {
    pub(crate) fn start(network: &Network) -> Self {
        Self::with_media_ports(network, &ports::media_ports())
    }

    /// The same, with room for so many calls.
    pub(crate) fn with_media_ports(network: &Network, ports: &RangeInclusive<u16>) -> Self {
        let postgres = Postgres::start();
        let machines = [network.machine(11), network.machine(12)];
        let media = network.machine(13);
        let database = postgres.url("postgres");
        let addresses = [machines[0].ip, machines[1].ip];
        let host = Host::at(media.ip, "media", &database).joining(&addresses);
        let process = media.within(|| host.media_with(ports));
        let first = Host::at(addresses[0], "alpha", &database);
        let second = Host::at(addresses[1], "beta", &database).bound_to_all();
        let first = machines[0].within(|| first.signaling());
        let second = machines[1].within(|| second.signaling());
        let hosts = Self { machines, first, second, _media: (media, process), postgres };
        eventually("the nodes know each other", SOON * 2, || {
            let nodes = hosts.second.list("/nodes");
            let up = |node: &serde_json::Value| {
                let links = node["links"].as_array().cloned().unwrap_or_default();
                links.iter().filter(|link| link["state"] == "up").count()
            };
            (nodes.iter().filter(|node| node["name"] != "media").map(up).max() >= Some(2))
                .then_some(())
        });
        hosts
    }

    /// The second node has the call now; since when at the latest.
    fn is_adopted(&self, within: Duration) -> Instant {
        eventually("the call is adopted", within, || {
            let calls = self.second.list("/calls");
            (calls.first()?["owner"] == "beta").then(Instant::now)
        })
    }
}

impl Side {
    /// The re-INVITE that tells the phone of another address: nothing else is new in it.
    fn refresh(&mut self, hosts: &Hosts) -> Request {
        let invite = self.phone.request_of(&Method::Invite);
        let contact = invite.contact().expect("a Contact");
        let there = hosts.machines[1].ip.to_string();
        assert!(contact.uri.as_str().contains(&there), "{invite:?}");
        assert!(self.dialog.accept_seq(invite.cseq().expect("a CSeq").number), "{invite:?}");
        self.dialog.refresh_target(&contact);
        invite
    }

    /// It takes the news, and speaks to the new address from then on.
    pub(crate) fn is_told(&mut self, hosts: &Hosts) {
        let invite = self.refresh(hosts);
        self.phone.follow(&self.dialog);
        self.answers(&invite, "sendrecv");
        self.phone.request_of(&Method::Ack);
    }
}

#[test]
fn a_call_goes_on_when_its_node_is_killed() {
    in_a_network(|network| {
        let mut hosts = Hosts::start(network);
        let mut pair = Pair::talking(&hosts.first, ["udp", "udp"]);
        pair.hear_each_other();
        hosts.first.signaling.kill();
        let claimed = hosts.is_adopted(SOON);
        pair.caller.is_told(&hosts);
        pair.callee.is_told(&hosts);
        assert!(claimed.elapsed() < PROMISED, "{:?}", claimed.elapsed());
        pair.hear_each_other();
        pair.hold_and_resume();
        pair.callee.hangs_up_on(&mut pair.caller);
        check_record(&hosts.second.cdrs(1), 1);
    });
}

#[test]
fn a_call_goes_on_when_its_host_is_gone() {
    in_a_network(|network| {
        let hosts = Hosts::start(network);
        let mut pair = Pair::talking(&hosts.first, ["udp", "udp"]);
        pair.hear_each_other();
        hosts.machines[0].unplug();
        pair.hear_each_other();
        let claimed = hosts.is_adopted(LEASES);
        pair.caller.is_told(&hosts);
        pair.callee.is_told(&hosts);
        assert!(claimed.elapsed() < PROMISED, "{:?}", claimed.elapsed());
        pair.hear_each_other();
        pair.caller.hangs_up_on(&mut pair.callee);
        check_record(&hosts.second.cdrs(1), 1);
    });
}

#[test]
fn a_ringing_phone_rings_anew_and_its_caller_notices_nothing() {
    in_a_network(|network| {
        let mut hosts = Hosts::start(network);
        let attempt = Attempt::new(&hosts.first, ["udp", "udp"]).ringing();
        // The 180 is saved within half a second.
        hosts.first.signaling.kill();
        check_that_it_rings_anew(attempt, &hosts);
    });
}

/// Its connection ended with its host: it comes back by another, is told there to stop, and rings anew.
#[test]
fn a_ringing_phone_on_a_connection_comes_back_and_rings_anew() {
    in_a_network(|network| {
        let hosts = Hosts::start(network);
        let mut attempt = Attempt::new(&hosts.first, ["udp", "tcp"]).ringing();
        hosts.machines[0].unplug();
        hosts.is_adopted(LEASES);
        attempt.callee = comes_back(&attempt.callee, &hosts.second);
        check_that_it_rings_anew(attempt, &hosts);
    });
}

/// It has another connection, to another host.
fn comes_back(phone: &Phone, server: &Server) -> Phone {
    let mut again = Phone::tcp(server.sip, &phone.user, &phone.password);
    again.stands_for(phone);
    assert_eq!(again.register(&[]).status, Status(200));
    again
}

/// The callee is told to stop and rings anew; its caller notices nothing, and then they talk.
fn check_that_it_rings_anew(mut attempt: Attempt, hosts: &Hosts) {
    let cancel = attempt.callee.request_of(&Method::Cancel);
    assert_eq!(branch(&cancel), branch(&attempt.received));
    attempt.callee.respond(&cancel, 200, "callee", None);
    attempt.callee.respond(&attempt.received.clone(), 487, "callee", None);
    let anew = attempt.callee.request_of(&Method::Invite);
    assert_ne!(anew.call_id(), attempt.received.call_id());
    attempt.rings_anew(anew);
    attempt.callee.respond(&attempt.received, 180, "callee", None);
    let failure = |message: &Message| match message {
        Message::Response(response) => response.status.0 > 180,
        // A caller that waits is asked whether it still does.
        Message::Request(request) => request.method != Method::Options,
    };
    assert!(!attempt.caller.comes(Duration::from_secs(1), failure), "the caller is told nothing");
    let accepted = attempt.accepted();
    let dialog = Phone::caller_dialog(&attempt.invite, &accepted);
    attempt.caller.follow(&dialog);
    let mut pair = attempt.acknowledged(&accepted);
    pair.callee.phone.request_of(&Method::Ack);
    pair.callee.phone.follow(&pair.callee.dialog);
    pair.hear_each_other();
    pair.hold_and_resume();
    pair.caller.hangs_up_on(&mut pair.callee);
    check_record(&hosts.second.cdrs(1), 1);
}

fn branch(request: &Request) -> Option<String> {
    request.top_via()?.branch().map(str::to_owned)
}

/// One refuses outright, the other has something of its own under way first.
#[test]
fn phones_that_refuse_keep_their_audio() {
    in_a_network(|network| {
        let mut hosts = Hosts::start(network);
        let mut pair = Pair::talking(&hosts.first, ["udp", "udp"]);
        pair.hear_each_other();
        hosts.first.signaling.kill();
        let invite = pair.callee.refresh(&hosts);
        pair.callee.phone.respond(&invite, 488, "unused", None);
        let invite = pair.caller.refresh(&hosts);
        pair.caller.phone.respond(&invite, 491, "unused", None);
        pair.caller.is_told(&hosts);
        pair.hear_each_other();
        // Nobody asks the callee again, and what is due to it comes.
        let asks = |message: &Message| matches!(message, Message::Request(request) if request.method == Method::Invite);
        assert!(!pair.callee.phone.comes(Duration::from_secs(1), asks));
        pair.caller.hangs_up_on(&mut pair.callee);
        check_record(&hosts.second.cdrs(1), 1);
    });
}

/// What fails may pass, so it is asked again, but not for ever.
#[test]
fn a_phone_that_fails_at_the_news_keeps_its_audio() {
    in_a_network(|network| {
        let mut hosts = Hosts::start(network);
        let mut pair = Pair::talking(&hosts.first, ["udp", "udp"]);
        pair.hear_each_other();
        hosts.first.signaling.kill();
        pair.caller.is_told(&hosts);
        let asks = |message: &Message| matches!(message, Message::Request(request) if request.method == Method::Invite);
        let mut asked = 0;
        while asked == 0 || pair.callee.phone.comes(Duration::from_secs(2), asks) {
            let invite = pair.callee.refresh(&hosts);
            pair.callee.phone.respond(&invite, 500, "unused", None);
            asked += 1;
            assert!(asked < 5, "it is asked for ever");
        }
        pair.hear_each_other();
        pair.caller.hangs_up_on(&mut pair.callee);
        check_record(&hosts.second.cdrs(1), 1);
    });
}

/// Phones of two hosts talk: each hears only from the address that it knows.
#[test]
fn a_call_between_two_hosts_leaves_by_the_address_that_each_phone_knows() {
    in_a_network(|network| {
        let mut hosts = Hosts::start(network);
        let caller = phone(&hosts.first, "1001", "udp");
        let callee = phone(&hosts.second, "1002", "udp");
        hosts.first.registrations("1002", 1);
        let mut pair = Pair::between(caller, callee, &hosts.first.uri("1002"));
        let target = pair.callee.dialog.remote_target.as_str().to_owned();
        assert!(target.contains(&hosts.machines[1].ip.to_string()), "{target}");
        pair.hold_and_resume();
        // The callee's host lives, so it is told nothing; the caller's is gone.
        hosts.first.signaling.kill();
        pair.caller.is_told(&hosts);
        pair.hold_and_resume();
        pair.callee.hangs_up_on(&mut pair.caller);
        check_record(&hosts.second.cdrs(1), 1);
    });
}

/// The owner lives; the host by which one of its phones came does not.
#[test]
fn a_phone_whose_host_is_gone_is_told_of_the_owners_address() {
    in_a_network(|network| {
        let mut hosts = Hosts::start(network);
        let caller = phone(&hosts.second, "1001", "udp");
        let callee = phone(&hosts.first, "1002", "udp");
        hosts.second.registrations("1002", 1);
        let mut pair = Pair::between(caller, callee, &hosts.second.uri("1002"));
        pair.hear_each_other();
        hosts.first.signaling.kill();
        pair.callee.is_told(&hosts);
        pair.hold_and_resume();
        pair.callee.hangs_up_on(&mut pair.caller);
        check_record(&hosts.second.cdrs(1), 0);
    });
}

#[test]
fn nothing_is_claimed_of_a_node_that_only_its_peer_cannot_reach() {
    in_a_network(|network| {
        let hosts = Hosts::start(network);
        let mut pair = Pair::talking(&hosts.first, ["udp", "udp"]);
        pair.hear_each_other();
        let [first, second] = &hosts.machines;
        first.part_from(second);
        eventually("the link breaks", SOON * 2, || {
            let log = hosts.second.signaling.log();
            log.contains("broke").then_some(())
        });
        let end = Instant::now() + Duration::from_secs(8);
        eventually("two leases pass", SOON * 2, || {
            pair.hear_each_other();
            (Instant::now() > end).then_some(())
        });
        let calls = hosts.first.list("/calls");
        assert_eq!(calls[0]["owner"], "alpha", "{calls:#?}");
        first.rejoin(second);
        pair.hold_and_resume();
        pair.callee.hangs_up_on(&mut pair.caller);
        check_record(&hosts.second.cdrs(1), 0);
    });
}

/// Two devices of one user register at the same time at two nodes: both stay, here, there and in the store.
#[test]
fn devices_of_one_user_register_at_both_hosts_at_once() {
    in_a_network(|network| {
        let hosts = Hosts::start(network);
        let mut phones = [phone(&hosts.first, "1001", "udp"), phone(&hosts.second, "1001", "udp")];
        for _ in 0..10 {
            let [one, other] = &mut phones;
            thread::scope(|scope| {
                let first = scope.spawn(|| one.register(&[]).status);
                assert_eq!(other.register(&[]).status, Status(200));
                assert_eq!(first.join().expect("registered"), Status(200));
            });
        }
        let mut expected: Vec<u64> = phones.iter().map(Phone::registered_as).collect();
        expected.sort_unstable();
        let is_known = |server: &Server| {
            let bindings = server.list("/registrations?extension=1001");
            let numbers = bindings.iter().filter_map(|binding| binding["cseq"].as_u64());
            let mut numbers: Vec<u64> = numbers.collect();
            numbers.sort_unstable();
            (numbers == expected).then_some(())
        };
        for server in [&hosts.first, &hosts.second] {
            eventually("both devices are known", SOON, || is_known(server));
        }
        // Who knows only what the store says.
        let machine = network.machine(14);
        let database = hosts.postgres.url("postgres");
        let third = Host::at(machine.ip, "gamma", &database);
        eventually("the store has both", SOON * 2, || {
            let third = machine.within(|| third.begin_signaling());
            third.signaling.says("registrations are known");
            is_known(&third)
        });
    });
}

/// The link was cut: who registered meanwhile is told when it is back.
#[test]
fn a_peer_that_was_away_is_told_who_registered() {
    in_a_network(|network| {
        let hosts = Hosts::start(network);
        let [first, second] = &hosts.machines;
        first.part_from(second);
        eventually("the link breaks", SOON * 2, || {
            hosts.first.signaling.log().contains("broke").then_some(())
        });
        let _phone = phone(&hosts.first, "1001", "udp");
        assert!(hosts.second.list("/registrations?extension=1001").is_empty());
        first.rejoin(second);
        eventually("the other host knows the phone", SOON * 3, || {
            let known = hosts.second.list("/registrations?extension=1001");
            (known.len() == 1).then_some(())
        });
    });
}

/// Phones on connections lose them with the host: they come back by another, and their dialogs follow.
#[test]
fn a_phone_that_registers_anew_has_its_dialogs_with_it() {
    in_a_network(|network| {
        let mut hosts = Hosts::start(network);
        let mut pair = Pair::talking(&hosts.first, ["udp", "tcp"]);
        pair.hear_each_other();
        hosts.first.signaling.kill();
        pair.caller.is_told(&hosts);
        pair.callee.phone = comes_back(&pair.callee.phone, &hosts.second);
        pair.callee.is_told(&hosts);
        pair.hold_and_resume();
        pair.caller.hangs_up_on(&mut pair.callee);
        check_record(&hosts.second.cdrs(1), 1);
    });
}

/// The call goes to the other host, whose messages are beside those of the first, whoever is asked.
#[test]
fn a_ladder_spans_two_hosts() {
    in_a_network(|network| {
        let hosts = Hosts::start(network);
        let mut pair = Pair::talking(&hosts.first, ["udp", "udp"]);
        pair.hear_each_other();
        let call = hosts.first.list("/calls")[0]["id"].as_str().expect("an id").to_owned();
        let (status, told) = hosts.second.api("POST", "/nodes/alpha/drain", None);
        assert_eq!(status, 202, "{told}");
        hosts.is_adopted(SOON);
        pair.hear_each_other();
        pair.callee.hangs_up_on(&mut pair.caller);
        let ladder = &eventually("both tell the same", SOON, || {
            let [one, other] =
                [&hosts.first, &hosts.second].map(|server| whole_ladder(server, &call));
            (one == other).then_some(one)
        });
        assert_eq!(marks(ladder), ["carried on by beta"]);
        let [first, second] = ["alpha", "beta"].map(|node| of_node(ladder, node));
        assert!(first.len() >= 7 && second.len() >= 4, "{ladder:#}");
        let has_bye = |messages: &[&serde_json::Value]| {
            messages.iter().any(|message| message["method"] == "BYE")
        };
        assert!(!has_bye(&first) && has_bye(&second), "{ladder:#}");
    });
}
