//! Phones that do not take the news of another media host as one would wish, each in its own way (RFC 3261 §14, design
//! §5): their media host is gone, and what becomes of their calls is theirs to say.

use crate::common::network::in_a_network;
use crate::common::{SOON, eventually, own_ip, set_own_ip};
use crate::pair::{Attempt, Pair, Side, phone};
use crate::reanchor::{Hosts, drain};
use holdfast::sip::{HeaderName, Message, Method, Request};
use serde_json::Value;
use std::thread;
use std::time::{Duration, Instant};

/// Longer than a call waits for its former media node, or for anything else.
const PATIENCE: Duration = Duration::from_secs(20);

const NOT_TAKEN: &str = "a phone does not take another media node";
const SILENT: &str = "a phone does not answer";
const UNKNOWN: &str = "a phone knows no such dialog";
const UNHEARD: &str = "a phone sends nothing to another media node";

/// What a callee does, and what its call ends of when it does not go on: what the CDR says.
struct Manner {
    name: &'static str,
    does: fn(&mut Side),
    ends: Option<&'static str>,
    /// From the loss of the host to the callee's BYE.
    within: (Duration, Duration),
}

impl Side {
    /// The next request of that method.
    fn asked(&mut self, method: &Method) -> Request {
        let is_it = |message: &Message| match message {
            Message::Request(request) => request.method == *method,
            Message::Response(_) => false,
        };
        eventually(&format!("{} is asked by {method}", self.phone.user), PATIENCE, || {
            self.phone.comes(Duration::from_millis(50), is_it).then_some(())
        });
        self.phone.request_of(method)
    }

    /// A re-INVITE is refused.
    fn refuses(&mut self, status: u16) {
        let invite = self.asked(&Method::Invite);
        self.phone.respond(&invite, status, "unused", None);
    }

    /// A re-INVITE or UPDATE is taken, in that direction.
    fn accepts(&mut self, method: &Method, direction: &str) {
        let request = self.asked(method);
        assert!(request.headers.get(&HeaderName::Contact).is_some(), "{request:?}");
        self.answers(&request, direction);
        if *method == Method::Invite {
            self.phone.request_of(&Method::Ack);
        }
    }

    /// The call is ended.
    fn is_hung_up(&mut self) {
        let bye = self.asked(&Method::Bye);
        self.phone.respond(&bye, 200, "unused", None);
    }
}

const fn goes_on(name: &'static str, does: fn(&mut Side)) -> Manner {
    Manner { name, does, ends: None, within: (Duration::ZERO, PATIENCE) }
}

const fn ends(
    name: &'static str,
    does: fn(&mut Side),
    why: &'static str,
    within: (u64, u64),
) -> Manner {
    let within = (Duration::from_secs(within.0), Duration::from_secs(within.1));
    Manner { name, does, ends: Some(why), within }
}

/// All of them.
fn manners() -> Vec<Manner> {
    vec![
        goes_on("491 once", |callee| {
            callee.refuses(491);
            callee.accepts(&Method::Invite, "sendrecv");
        }),
        goes_on("500 once", |callee| {
            callee.refuses(500);
            callee.accepts(&Method::Invite, "sendrecv");
        }),
        goes_on("503 once", |callee| {
            callee.refuses(503);
            callee.accepts(&Method::Invite, "sendrecv");
        }),
        goes_on("500 always, UPDATE", |callee| {
            callee.refuses(500);
            callee.refuses(500);
            callee.accepts(&Method::Update, "sendrecv");
        }),
        goes_on("405, UPDATE", |callee| {
            callee.refuses(405);
            callee.accepts(&Method::Update, "sendrecv");
        }),
        goes_on("501, UPDATE", |callee| {
            callee.refuses(501);
            callee.accepts(&Method::Update, "sendrecv");
        }),
        goes_on("200, nudged", |callee| {
            callee.talk.mute(true);
            callee.accepts(&Method::Invite, "sendrecv");
            callee.accepts(&Method::Invite, "inactive");
            callee.talk.mute(false);
            callee.accepts(&Method::Invite, "sendrecv");
        }),
        ends("488", |callee| callee.refuses(488), NOT_TAKEN, (9, 16)),
        ends("603", |callee| callee.refuses(603), NOT_TAKEN, (9, 16)),
        ends("481", |callee| callee.refuses(481), UNKNOWN, (0, 5)),
        ends("408", |callee| callee.refuses(408), SILENT, (0, 5)),
        ends("nothing", |callee| drop(callee.asked(&Method::Invite)), SILENT, (4, 10)),
        ends(
            "200, deaf",
            |callee| {
                callee.talk.mute(true);
                callee.accepts(&Method::Invite, "sendrecv");
                callee.accepts(&Method::Invite, "inactive");
                callee.accepts(&Method::Invite, "sendrecv");
            },
            UNHEARD,
            (2, 12),
        ),
    ]
}

/// Does as it does, while its caller is polite.
fn live_through(pair: &mut Pair, manner: &Manner, since: Instant) {
    let Pair { caller, callee } = pair;
    let ip = own_ip();
    thread::scope(|scope| {
        scope.spawn(move || {
            set_own_ip(ip);
            caller.accepts(&Method::Invite, "sendrecv");
            if manner.ends.is_some() {
                caller.is_hung_up();
            }
        });
        (manner.does)(callee);
        if manner.ends.is_some() {
            callee.is_hung_up();
            let after = since.elapsed();
            let (least, most) = manner.within;
            assert!(after > least && after < most, "{}: ended after {after:?}", manner.name);
        }
    });
    if manner.ends.is_none() {
        pair.hear_each_other();
        pair.caller.hangs_up_on(&mut pair.callee);
    }
}

#[test]
fn each_phone_gets_what_its_manners_earn_when_its_media_host_is_gone() {
    in_a_network(|network| {
        let mut hosts = Hosts::start(network);
        let (lost, other) = (hosts.media.remove(0), hosts.media.remove(0));
        drain(hosts.first(), &other.name, "drain");
        let manners = manners();
        let server = hosts.first();
        let mut pairs: Vec<Pair> = (0..manners.len())
            .map(|number| {
                let users = [format!("20{number:02}"), format!("21{number:02}")];
                let [caller, callee] = users.each_ref().map(|user| phone(server, user, "udp"));
                let uri = server.uri(&users[1]);
                Pair::answered(Attempt::between(caller, callee, &uri))
            })
            .collect();
        pairs.iter().for_each(Pair::hear_each_other);
        drain(server, &other.name, "undrain");
        let (since, ip) = (Instant::now(), own_ip());
        lost.machine.unplug();
        thread::scope(|scope| {
            for (pair, manner) in pairs.iter_mut().zip(&manners) {
                let name = thread::Builder::new().name(manner.name.to_owned());
                let live = move || {
                    set_own_ip(ip);
                    live_through(pair, manner, since);
                };
                name.spawn_scoped(scope, live).expect("a thread");
            }
        });
        let cdrs = server.cdrs(manners.len());
        for (number, manner) in manners.iter().enumerate() {
            check_record(&cdrs, &format!("21{number:02}"), manner);
        }
        eventually("nothing is left at the other", SOON, || {
            let nodes = server.list("/nodes");
            let node = nodes.iter().find(|node| node["name"] == other.name.as_str())?;
            (node["sessions"] == 0).then_some(())
        });
    });
}

/// The CDR tells what happened.
fn check_record(cdrs: &[Value], callee: &str, manner: &Manner) {
    let is_it = |cdr: &&Value| cdr["callee"]["extension"] == callee;
    let Some(cdr) = cdrs.iter().find(is_it) else { panic!("{}: no CDR", manner.name) };
    let name = manner.name;
    let (cause, by) = match manner.ends {
        None => ("bye", "caller"),
        Some(_) => ("reanchor_failed", "system"),
    };
    assert_eq!(cdr["end_cause"], cause, "{name}: {cdr:#?}");
    assert_eq!(cdr["ended_by"], by, "{name}: {cdr:#?}");
    if let Some(why) = manner.ends {
        assert_eq!(cdr["reason"], why, "{name}: {cdr:#?}");
    }
    assert_eq!(cdr["reanchors"], 1, "{name}: {cdr:#?}");
    assert_eq!(cdr["media_nodes"].as_array().map(Vec::len), Some(2), "{name}: {cdr:#?}");
}
