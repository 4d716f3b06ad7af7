//! Media nodes of two hosts, two signaling hosts: a media host is lost, drained or cut off from one of the signaling
//! hosts. What people on the phone notice.

use crate::common::metrics::Scrape;
use crate::common::network::{Machine, Network, in_a_network};
use crate::common::postgres::Postgres;
use crate::common::process::Process;
use crate::common::server::{Host, Server};
use crate::common::{SOON, eventually};
use crate::crowd::Crowd;
use crate::media::{calls, media_node_of_the_call, media_nodes};
use crate::pair::{Pair, Side};
use crate::srtp;
use holdfast::sip::{Message, Method};
use serde_json::Value;
use std::time::{Duration, Instant};

/// Longer than a media node without a sign of life is waited for.
const CUT: Duration = Duration::from_secs(13);

/// Silence when a media host is gone: a second is promised, of a machine that is not crowded.
const SILENCE: Duration = Duration::from_secs(3);

/// A signaling host that is gone is missed after its leases.
const LEASES: Duration = Duration::from_secs(25);

/// A media host.
pub(crate) struct MediaHost {
    pub(crate) machine: Machine,
    process: Process,
    pub(crate) name: String,
}

/// What a re-INVITE tells.
struct News {
    body: String,
    contact: String,
}

/// Two hosts of each kind.
pub(crate) struct Hosts {
    pub(crate) signaling: Vec<(Machine, Server)>,
    pub(crate) media: Vec<MediaHost>,
    _postgres: Postgres,
}

impl Hosts {
    pub(crate) fn start(network: &Network) -> Self {
        let postgres = Postgres::start();
        let database = postgres.url("postgres");
        let machines = [network.machine(11), network.machine(12)];
        let addresses = [machines[0].ip, machines[1].ip];
        let media = [13, 14].map(|number| {
            let machine = network.machine(number);
            let name = format!("media-{number}");
            let host = Host::at(machine.ip, &name, &database).joining(&addresses);
            let process = machine.within(|| host.media());
            MediaHost { machine, process, name }
        });
        let signaling = machines.into_iter().zip(["alpha", "beta"]).map(|(machine, name)| {
            let host = Host::at(machine.ip, name, &database);
            let server = machine.within(|| host.signaling());
            (machine, server)
        });
        let hosts =
            Self { signaling: signaling.collect(), media: media.into(), _postgres: postgres };
        for (_, server) in &hosts.signaling {
            eventually("all know each other", SOON * 2, || {
                let nodes = server.list("/nodes");
                let own = nodes.iter().find(|node| node["name"] == server.node().as_str())?;
                let up = own["links"].as_array()?.iter().filter(|link| link["state"] == "up");
                (up.count() == 3).then_some(())
            });
        }
        hosts
    }

    pub(crate) fn first(&self) -> &Server {
        &self.signaling[0].1
    }

    /// The media host that has the only call, and the other one.
    pub(crate) fn of_the_call(&mut self) -> (MediaHost, MediaHost) {
        let name = eventually("a call is there", SOON, || media_node_of_the_call(self.first()));
        let at = self.media.iter().position(|host| host.name == name).expect("one of ours");
        (self.media.remove(at), self.media.remove(0))
    }
}

impl Side {
    /// The phone is told of that media host, by a re-INVITE that changes nothing else, and takes it.
    pub(crate) fn moves_to(&mut self, host: &MediaHost, direction: &str) {
        let News { body, .. } = self.takes_news(direction);
        assert!(body.contains(&format!("c=IN IP4 {}", host.machine.ip)), "{body}");
    }

    /// A re-INVITE is answered by what the phone said before.
    fn takes_news(&mut self, direction: &str) -> News {
        let invite = self.phone.request_of(&Method::Invite);
        let body = String::from_utf8_lossy(&invite.body).into_owned();
        assert!(self.dialog.accept_seq(invite.cseq().expect("a CSeq").number), "{invite:?}");
        self.talk.told(&invite.body);
        let answer = self.talk.sdp(self.version, direction);
        self.phone.respond(&invite, 200, "unused", Some(&answer));
        let contact = invite.contact().expect("a Contact");
        self.dialog.refresh_target(&contact);
        self.phone.follow(&self.dialog);
        self.phone.request_of(&Method::Ack);
        News { body, contact: contact.uri.as_str().to_owned() }
    }

    /// The longest time without a packet since then.
    fn silence_since(&self, since: Instant) -> Duration {
        let came = self.talk.came();
        let times: Vec<Instant> = core::iter::once(since)
            .chain(came.iter().map(|arrival| arrival.at).filter(|at| *at > since))
            .collect();
        let gaps = times.windows(2).map(|pair| pair[1] - pair[0]);
        gaps.max().unwrap_or_else(|| since.elapsed())
    }
}

/// Nobody is told anything for a while.
fn nobody_is_told(pair: &mut Pair) {
    for side in [&mut pair.caller, &mut pair.callee] {
        let asks = |message: &Message| match message {
            Message::Request(request) => request.method != Method::Ack,
            Message::Response(_) => false,
        };
        assert!(!side.phone.comes(Duration::from_millis(100), asks));
    }
}

fn check_moved(cdrs: &[Value], reanchors: u64) {
    for cdr in cdrs {
        assert_eq!(cdr["end_cause"], "bye", "{cdr:#?}");
        assert_eq!(cdr["reanchors"], reanchors, "{cdr:#?}");
        let nodes = cdr["media_nodes"].as_array().map(Vec::len);
        assert_eq!(nodes, Some(1 + usize::try_from(reanchors).expect("few")), "{cdr:#?}");
    }
}

#[test]
fn a_call_goes_on_at_another_host_when_its_media_host_is_gone() {
    in_a_network(|network| {
        let mut hosts = Hosts::start(network);
        let mut pair = Pair::talking(hosts.first(), ["udp", "tcp"]);
        pair.hear_each_other();
        let (lost, other) = hosts.of_the_call();
        let since = Instant::now();
        lost.machine.unplug();
        pair.caller.moves_to(&other, "sendrecv");
        pair.callee.moves_to(&other, "sendrecv");
        pair.hear_each_other();
        let silences = [&pair.caller, &pair.callee].map(|side| side.silence_since(since));
        eprintln!("silence {silences:?}");
        assert!(silences.iter().all(|silence| *silence < SILENCE), "{silences:?}");
        pair.hold_and_resume();
        nobody_is_told(&mut pair);
        let moves = |(_, server): &(Machine, Server)| {
            Scrape::of(server.admin).value("holdfast_reanchors_total")
        };
        assert_eq!(hosts.signaling.iter().map(moves).sum::<f64>(), 1.0);
        pair.callee.hangs_up_on(&mut pair.caller);
        check_moved(&hosts.first().cdrs(1), 1);
    });
}

/// An operator names the host, at a node that does not own the call; its owner may die as soon as that is answered.
#[test]
fn a_call_moves_to_the_media_node_that_an_operator_names() {
    in_a_network(|network| {
        let mut hosts = Hosts::start(network);
        let mut pair = Pair::talking(hosts.first(), ["udp", "udp"]);
        pair.hear_each_other();
        let (present, other) = hosts.of_the_call();
        let calls = hosts.first().list("/calls");
        let path = format!("/calls/{}/move", calls[0]["id"].as_str().expect("an id"));
        let ask = |node: &str| {
            let wish = serde_json::json!({ "node": node });
            hosts.signaling[1].1.api("POST", &path, Some(&wish))
        };
        assert_eq!(ask(&present.name).0, 409);
        let (status, told) = ask(&other.name);
        assert_eq!(status, 202, "{told}");
        pair.caller.moves_to(&other, "sendrecv");
        pair.callee.moves_to(&other, "sendrecv");
        pair.hear_each_other();
        eventually("the move is over", SOON, || {
            let calls = hosts.first().list("/calls");
            calls[0]["media"]["resumed_at"].is_string().then_some(())
        });
        assert_eq!(ask(&present.name).0, 202);
        hosts.signaling[0].1.signaling.kill();
        // A phone may be told of the other node's own address first, or by the one that was killed of the media's.
        let there = format!("c=IN IP4 {}", present.machine.ip);
        let heir = hosts.signaling[1].0.ip.to_string();
        for side in [&mut pair.caller, &mut pair.callee] {
            loop {
                let News { body, contact } = side.takes_news("sendrecv");
                if body.contains(&there) && contact.contains(&heir) {
                    break;
                }
            }
        }
        pair.hear_each_other();
        pair.callee.hangs_up_on(&mut pair.caller);
        check_moved(&hosts.signaling[1].1.cdrs(1), 2);
    });
}

#[test]
fn a_secured_call_goes_on_at_another_host_under_new_keys_of_ours() {
    in_a_network(|network| {
        let mut hosts = Hosts::start(network);
        let mut pair = srtp::talking(hosts.first());
        srtp::roll_over(&pair);
        let keys = |pair: &Pair| [&pair.caller, &pair.callee].map(|side| side.talk.far_key());
        let before = keys(&pair);
        let (lost, other) = hosts.of_the_call();
        lost.machine.unplug();
        pair.caller.moves_to(&other, "sendrecv");
        pair.callee.moves_to(&other, "sendrecv");
        for (now, before) in keys(&pair).iter().zip(&before) {
            assert!(now.is_some() && before.is_some() && now != before, "RFC 3711 §9.1");
        }
        // A phone opens nothing with the key that it was told before.
        pair.hear_each_other();
        nobody_is_told(&mut pair);
        pair.callee.hangs_up_on(&mut pair.caller);
        check_moved(&hosts.first().cdrs(1), 1);
    });
}

#[test]
fn many_calls_move_when_their_media_host_is_gone() {
    in_a_network(|network| {
        let mut hosts = Hosts::start(network);
        // All are on one host: the other is drained meanwhile.
        let (lost, other) = (hosts.media.remove(0), hosts.media.remove(0));
        drain(hosts.first(), &other.name, "drain");
        let count = calls();
        let mut crowd = Crowd::talking(hosts.first(), count, count / 4);
        drain(hosts.first(), &other.name, "undrain");
        let since = Instant::now();
        lost.machine.unplug();
        crowd.follows();
        crowd.hear_each_other();
        let silences = crowd.silences_since(since);
        let p95 = silences[(silences.len() - 1) * 95 / 100];
        eprintln!("silence of {} ears: p95 {p95:?}, most {:?}", silences.len(), silences.last());
        assert!(p95 < SILENCE, "{silences:?}");
        crowd.hang_up();
        check_moved(&hosts.first().cdrs(count), 1);
        // It was only cut off, and has sessions that nobody wants any more.
        eventually("it is given up", CUT, || {
            hosts.first().signaling.log().contains("did not come back").then_some(())
        });
        lost.machine.plug_in();
        eventually("nothing is left at it", SOON * 2, || {
            let nodes = hosts.first().list("/nodes");
            let node = nodes.iter().find(|node| node["name"] == lost.name.as_str())?;
            let is_back = node["state"] == "ready";
            (is_back && node["sessions"] == 0 && node["media"]["ports_in_use"] == 0).then_some(())
        });
    });
}

pub(crate) fn drain(server: &Server, name: &str, what: &str) {
    let (status, told) = server.api("POST", &format!("/nodes/{name}/{what}"), None);
    assert_eq!(status, 202, "{told}");
    let wanted = if what == "drain" { "draining" } else { "ready" };
    eventually(&format!("{name} is {wanted}"), SOON, || {
        let nodes = server.list("/nodes");
        nodes.iter().any(|node| node["name"] == name && node["state"] == wanted).then_some(())
    });
}

/// The process that was told to stop ends when its calls are elsewhere.
#[test]
fn a_media_host_that_leaves_gives_its_calls_to_another_without_a_gap() {
    in_a_network(|network| {
        let mut hosts = Hosts::start(network);
        let (mut leaving, other) = (hosts.media.remove(0), hosts.media.remove(0));
        drain(hosts.first(), &other.name, "drain");
        let count = calls();
        let mut crowd = Crowd::talking(hosts.first(), count, count / 4);
        drain(hosts.first(), &other.name, "undrain");
        let since = Instant::now();
        leaving.process.terminate();
        crowd.follows();
        let status = leaving.process.finish(SOON);
        assert_eq!(status.code(), Some(0), "{status}");
        eprintln!("{count} calls were moved after {:?}", since.elapsed());
        crowd.hear_each_other();
        let silences = crowd.silences_since(since);
        let p99 = silences[(silences.len() - 1) * 99 / 100];
        eprintln!("silence of {} ears: p99 {p99:?}, most {:?}", silences.len(), silences.last());
        assert!(p99 < Duration::from_millis(300), "{silences:?}");
        crowd.hang_up();
        check_moved(&hosts.first().cdrs(count), 1);
    });
}

#[test]
fn a_phone_that_refuses_stays_at_a_media_host_that_drains() {
    in_a_network(|network| {
        let mut hosts = Hosts::start(network);
        let mut pair = Pair::talking(hosts.first(), ["udp", "udp"]);
        pair.hear_each_other();
        let (drained, other) = hosts.of_the_call();
        let (status, told) =
            hosts.first().api("POST", &format!("/nodes/{}/drain", drained.name), None);
        assert_eq!(status, 202, "{told}");
        let invite = pair.callee.phone.request_of(&Method::Invite);
        pair.callee.phone.respond(&invite, 488, "unused", None);
        pair.caller.moves_to(&other, "sendrecv");
        pair.caller.moves_to(&drained, "sendrecv");
        pair.hear_each_other();
        nobody_is_told(&mut pair);
        eventually("nothing is left at the other", SOON, || {
            let nodes = media_nodes(hosts.first());
            nodes.iter().any(|(name, count)| *name == other.name && *count == 0).then_some(())
        });
        pair.hear_each_other();
        pair.callee.hangs_up_on(&mut pair.caller);
        assert_eq!(hosts.first().cdrs(1)[0]["end_cause"], "bye");
    });
}

/// A whole host: the owner of the call and its media. Phones are told of both, by one re-INVITE or two.
#[test]
fn a_call_goes_on_when_its_owner_and_its_media_host_are_gone_at_once() {
    in_a_network(|network| {
        let mut hosts = Hosts::start(network);
        let mut pair = Pair::talking(hosts.first(), ["udp", "udp"]);
        pair.hear_each_other();
        let (lost, other) = hosts.of_the_call();
        lost.machine.unplug();
        hosts.signaling[0].0.unplug();
        let there = hosts.signaling[1].0.ip.to_string();
        for side in [&mut pair.caller, &mut pair.callee] {
            eventually("the phone is told", LEASES, || {
                let asks = |message: &Message| match message {
                    Message::Request(request) => request.method == Method::Invite,
                    Message::Response(_) => false,
                };
                side.phone.comes(Duration::from_millis(100), asks).then_some(())
            });
            let told = side.takes_news("sendrecv");
            assert!(told.contact.contains(&there), "{}", told.contact);
            if !told.body.contains(&format!("c=IN IP4 {}", other.machine.ip)) {
                side.moves_to(&other, "sendrecv");
            }
        }
        pair.hear_each_other();
        pair.caller.hangs_up_on(&mut pair.callee);
        let cdrs = hosts.signaling[1].1.cdrs(1);
        assert_eq!(cdrs[0]["takeovers"], 1, "{cdrs:#?}");
        check_moved(&cdrs, 1);
    });
}

/// A process of both halves leaves: signaling of the other host has its call, then its media.
#[test]
fn a_host_of_both_halves_leaves_its_calls_to_another() {
    in_a_network(|network| {
        let postgres = Postgres::start();
        let database = postgres.url("postgres");
        let machines = [network.machine(11), network.machine(12)];
        let [first, second] = &machines;
        let both = |machine: &Machine, name: &str, other: &Machine| {
            let host = Host::at(machine.ip, name, &database).joining(&[other.ip]);
            machine.within(|| host.both())
        };
        let mut leaving = both(first, "alpha", second);
        let mut pair = Pair::talking(&leaving, ["udp", "udp"]);
        pair.hear_each_other();
        let other = both(second, "beta", first);
        eventually("it knows the other host and its media", SOON * 2, || {
            let nodes = other.list("/nodes");
            let own = nodes.iter().find(|node| node["name"] == "beta" && node["mode"] == "both")?;
            let up = own["links"].as_array()?.iter().filter(|link| link["state"] == "up");
            (up.filter(|link| link["peer"] == "alpha").count() == 2).then_some(())
        });
        leaving.signaling.terminate();
        let there = second.ip.to_string();
        for side in [&mut pair.caller, &mut pair.callee] {
            // Its media may move before its signaling is seen to be gone.
            let told = (0..2).any(|_| {
                let News { body, contact } = side.takes_news("sendrecv");
                contact.contains(&there) && body.contains(&format!("c=IN IP4 {there}"))
            });
            assert!(told, "a phone knows not all");
        }
        let status = leaving.signaling.finish(SOON);
        assert_eq!(status.code(), Some(0), "{status}");
        pair.hear_each_other();
        pair.caller.hangs_up_on(&mut pair.callee);
        let cdrs = other.cdrs(1);
        assert_eq!(cdrs[0]["takeovers"], 1, "{cdrs:#?}");
        check_moved(&cdrs, 1);
    });
}

/// Only the owner of the call does not reach its media host: the other signaling host does.
#[test]
fn nothing_moves_when_one_link_is_cut() {
    in_a_network(|network| {
        let mut hosts = Hosts::start(network);
        let mut pair = Pair::talking(hosts.first(), ["udp", "udp"]);
        pair.hear_each_other();
        let (host, _other) = hosts.of_the_call();
        let owner = &hosts.signaling[0].0;
        owner.part_from(&host.machine);
        let since = Instant::now();
        while since.elapsed() < CUT {
            pair.hear_each_other();
            nobody_is_told(&mut pair);
        }
        assert_eq!(media_node_of_the_call(hosts.first()), Some(host.name.clone()));
        owner.rejoin(&host.machine);
        pair.hold_and_resume();
        pair.callee.hangs_up_on(&mut pair.caller);
        check_moved(&hosts.first().cdrs(1), 0);
    });
}
