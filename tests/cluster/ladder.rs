//! What was said in a call, told by who lived: by which of its phones, again or for the first time, and what happened
//! between; also what a process said that was killed.

use crate::capture::dissected;
use crate::common::api::Api;
use crate::common::network::in_a_network;
use crate::common::phone::Phone;
use crate::common::server::Server;
use crate::common::{SOON, eventually};
use crate::pair::{Attempt, Pair, phone};
use crate::reanchor::Hosts;
use crate::switch::Switch;
use holdfast::sip::Method;
use serde_json::Value;

#[test]
fn a_ladder_spans_the_kill_of_its_owner() {
    let mut switch = Switch::start();
    let mut pair = Pair::talking(switch.survivor(), ["udp", "udp"]);
    pair.hear_each_other();
    let call = switch.survivor().list("/calls")[0]["id"].as_str().expect("an id").to_owned();
    let mut owner = switch.take_owner();
    let dead = owner.node();
    owner.signaling.kill();
    pair.hear_each_other();
    pair.caller.hangs_up_on(&mut pair.callee);
    let ladder = whole_ladder(switch.survivor(), &call);
    let said = summaries(&ladder);
    for expected in ["INVITE", "100 Trying (INVITE)", "200 OK (INVITE)", "ACK", "BYE"] {
        assert!(said.iter().any(|one| one == expected), "{expected} in {said:?}");
    }
    let survivor = switch.survivor().node();
    let count = |node: &str| of_node(&ladder, node).len();
    assert!(count(&dead) >= 7 && count(&survivor) >= 4, "{ladder:#}");
    assert_eq!(marks(&ladder), [format!("carried on by {survivor}")]);
    let text = ladder.to_string();
    assert!(text.contains("Digest username=") && text.contains("response=\\\"****"), "{text}");
    let packets = dissected(switch.survivor(), &call);
    assert_eq!(packets.iter().filter(|packet| !packet.sip.is_empty()).count(), said.len());
}

/// The ladder of a call that was hung up by a phone, with its last word, as any of the nodes tells it.
pub(crate) fn whole_ladder(server: &Api, call: &str) -> Value {
    eventually("the whole ladder", SOON, || {
        let (status, ladder) = server.api("GET", &format!("/calls/{call}/ladder"), None);
        let is_whole = summaries(&ladder).iter().filter(|one| *one == "200 OK (BYE)").count() >= 2;
        (status == 200 && is_whole).then_some(ladder)
    })
}

/// Texts of marks, in their order.
pub(crate) fn marks(ladder: &Value) -> Vec<&str> {
    let marks = ladder["marks"].as_array().expect("marks");
    marks.iter().map(|mark| mark["text"].as_str().expect("text")).collect()
}

/// Messages of a node.
pub(crate) fn of_node<'a>(ladder: &'a Value, node: &str) -> Vec<&'a Value> {
    let messages = ladder["messages"].as_array().expect("messages");
    messages.iter().filter(|message| message["node"] == node).collect()
}

fn summaries(ladder: &Value) -> Vec<String> {
    let messages = ladder["messages"].as_array().into_iter().flatten();
    messages.map(|message| message["summary"].as_str().expect("text").to_owned()).collect()
}

/// Both phones of who is called ring, and one of them is given up; what is repeated, by a phone or by us, is marked.
#[test]
fn forks_and_repeats_are_told_apart() {
    let server = Server::start();
    let mut other = phone(&server, "1002", "tcp");
    let mut attempt = Attempt::new(&server, ["udp", "udp"]);
    let forked = other.request_of(&Method::Invite);
    attempt.caller.send_request(&attempt.invite.clone());
    let call = server.list("/calls")[0]["id"].as_str().expect("an id").to_owned();
    let messages = |ladder: &Value| ladder["messages"].as_array().expect("messages").clone();
    let is = |message: &Value, direction: &str, summary: &str, again: bool| {
        message["direction"] == direction
            && message["summary"] == summary
            && message["retransmission"] == again
    };
    // The phone by UDP has not answered yet: we repeat what we asked.
    eventually("repeats of both", SOON, || {
        let (_, ladder) = server.api("GET", &format!("/calls/{call}/ladder"), None);
        let all = messages(&ladder);
        let has = |direction| all.iter().any(|message| is(message, direction, "INVITE", true));
        (has("received") && has("sent")).then_some(())
    });
    attempt = attempt.ringing();
    other.respond(&forked, 180, "other", None);
    let accepted = attempt.accepted();
    let mut pair = attempt.acknowledged(&accepted);
    pair.callee.phone.request_of(&Method::Ack);
    let cancel = other.request_of(&Method::Cancel);
    other.respond(&cancel, 200, "other", None);
    other.respond(&forked, 487, "other", None);
    other.request_of(&Method::Ack);
    pair.caller.hangs_up_on(&mut pair.callee);
    let ladder = whole_ladder(&server, &call);
    let all = messages(&ladder);
    // The leg of each phone, by where it is.
    let leg_of = |phone: &Phone| {
        let local = phone.local.to_string();
        let mut of = all.iter().filter(|message| message["remote"] == local.as_str());
        let leg = of.next().expect("a message")["leg"].clone();
        assert!(of.all(|message| message["leg"] == leg), "one leg a phone: {ladder:#}");
        leg
    };
    let legs = [&pair.caller.phone, &pair.callee.phone, &other].map(leg_of);
    assert!(legs[0] == 0 && legs[1] != legs[2] && !legs[1..].contains(&legs[0]), "{legs:?}");
    let says = |message: &Value, begin: &str| {
        message["summary"].as_str().is_some_and(|summary| summary.starts_with(begin))
    };
    let first_times = |leg: &Value, summary: &str| {
        let of = all.iter().filter(|message| message["leg"] == *leg && says(message, summary));
        of.filter(|message| message["retransmission"] == false).count()
    };
    // What the caller said with its password is another INVITE than the one that was challenged.
    for (leg, summary, count) in [
        (&legs[1], "INVITE", 1),
        (&legs[2], "INVITE", 1),
        (&legs[1], "CANCEL", 0),
        (&legs[2], "CANCEL", 1),
        (&legs[2], "487 ", 1),
        (&legs[1], "BYE", 1),
        (&legs[2], "BYE", 0),
    ] {
        assert_eq!(first_times(leg, summary), count, "{summary} of leg {leg}: {ladder:#}");
    }
    assert_eq!(marks(&ladder), [""; 0]);
}

/// The host that has the call's sound is gone: what happened stands before what phones are told.
#[test]
fn a_move_of_the_sound_is_drawn_where_it_happened() {
    in_a_network(|network| {
        let mut hosts = Hosts::start(network);
        let mut pair = Pair::talking(hosts.first(), ["udp", "tcp"]);
        pair.hear_each_other();
        let call = hosts.first().list("/calls")[0]["id"].as_str().expect("an id").to_owned();
        let (lost, other) = hosts.of_the_call();
        lost.machine.unplug();
        pair.caller.moves_to(&other, "sendrecv");
        pair.callee.moves_to(&other, "sendrecv");
        pair.hear_each_other();
        pair.callee.hangs_up_on(&mut pair.caller);
        // Also by a node that never had the call.
        for (_, server) in &hosts.signaling {
            let ladder = whole_ladder(server, &call);
            let (from, to) = (&lost.name, &other.name);
            let told = format!("sound anchored by {to}: phones are told");
            assert_eq!(marks(&ladder), [format!("{from} is lost: sound moves to {to}"), told]);
            let at = |value: &Value| value["at"].as_str().expect("a time").to_owned();
            let moved = ladder["marks"].as_array().expect("marks").iter().map(at);
            let moved: Vec<String> = moved.collect();
            let messages = ladder["messages"].as_array().expect("messages");
            let (before, after): (Vec<&Value>, Vec<&Value>) =
                messages.iter().partition(|message| at(message) < moved[0]);
            let count = |of: &[&Value], summary: &str| {
                let of = of.iter().filter(|message| message["summary"] == summary);
                of.filter(|message| message["retransmission"] == false).count()
            };
            assert!(count(&before, "ACK") >= 2 && count(&before, "BYE") == 0, "{ladder:#}");
            let news = after
                .iter()
                .filter(|message| message["summary"] == "INVITE" && message["direction"] == "sent");
            let news: Vec<&&Value> = news.collect();
            assert!(news.len() >= 2 && news.iter().all(|one| at(one) >= moved[1]), "{ladder:#}");
            assert_eq!(count(&after, "BYE"), 2, "{ladder:#}");
        }
    });
}
