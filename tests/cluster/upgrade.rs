//! A rolling upgrade under calls, and the way back: processes of this release and of the one before it are one switch.
//! Calls of every kind go from the old ones to the new, and from the new ones to the old.

use crate::common::phone::{Phone, callee_dialog};
use crate::common::postgres::Postgres;
use crate::common::process::Process;
use crate::common::server::{Host, Server};
use crate::common::{SOON, eventually};
use crate::crowd::{Crowd, Kind};
use crate::pair::{Attempt, Pair, phone};
use crate::previous;
use crate::switch::wait_for_links;
use holdfast::call::RECORD_VERSION;
use holdfast::sip::Method;
use std::collections::BTreeSet;

/// A node that was drained, when a sibling reads what comes to it.
const SILENT: &str = "connections are a sibling's";

#[test]
fn calls_go_to_this_release_and_back_by_drains() {
    there_and_back(|process| {
        process.terminate();
        let status = process.finish(SOON * 2);
        assert_eq!(status.code(), Some(0), "{status}");
    });
}

#[test]
fn calls_go_to_this_release_and_back_by_kills() {
    there_and_back(Process::kill);
}

/// Of two old signaling processes and two old media processes the first ones end when this release is there, and the
/// others take everything back when that ends.
fn there_and_back(end: fn(&mut Process)) {
    let Some(previous) = previous::binary() else { return };
    let postgres = Postgres::start();
    let host = Host::new(&postgres.url("postgres"));
    let old = host.running(previous);
    let [mut media, other_media] = [old.media(), old.media()];
    let [mut first, other] = [old.signaling(), old.signaling()];
    wait_for_links(&first, 3);
    wait_for_links(&other, 3);
    let spared = [other.node(), name_of(&other_media)];
    drain(&first, &spared, "drain");
    // Users that are made at one node another old one knows only a second later: it handles nothing meanwhile.
    other.signaling.says(SILENT);
    let mut crowd = Crowd::of_every_kind(&first, Kind::ALL.len());
    let mut pair = Pair::answered(attempt(&first, ["1005", "1006"]));
    let ringing = attempt(&first, ["1007", "1008"]).ringing();

    let mut new_media = host.media();
    let mut new = host.signaling();
    wait_for_links(&new, 5);
    wait_for_links(&first, 5);
    are_of_both_releases(&new);
    end(&mut media);
    end(&mut first.signaling);
    all_are_owned_by(&new, &other, 7);
    crowd.hear_each_other();
    pair.hold_and_resume();
    let mut rang = ringing.answered();
    rang.hear_each_other();
    let ringing = attempt(&new, ["1009", "1010"]).ringing();
    crowd.check_that_no_phone_was_told();

    drain(&other, &spared, "undrain");
    end(&mut new_media);
    end(&mut new.signaling);
    all_are_owned_by(&other, &other, 8);
    crowd.hear_each_other();
    pair.hold_and_resume();
    let mut rung = ringing.answered();
    rung.hear_each_other();
    crowd.check_that_no_phone_was_told();

    crowd.hang_up();
    for pair in [&mut pair, &mut rang, &mut rung] {
        pair.caller.hangs_up_on(&mut pair.callee);
    }
    for cdr in other.cdrs(8) {
        assert_eq!((&cdr["disposition"], &cdr["end_cause"]), (&"answered".into(), &"bye".into()));
        assert!(cdr["takeovers"].as_u64() > Some(0), "{cdr:#?}");
        assert_eq!(cdr["reanchors"], 0, "{cdr:#?}");
    }
}

/// A callee hangs up before the caller has acknowledged its 200, and who owns the call dies: the older release finds the
/// row as it reads it, and ends the call.
#[test]
fn a_call_that_has_ended_for_one_phone_is_ended_by_the_older_release() {
    let Some(previous) = previous::binary() else { return };
    let postgres = Postgres::start();
    let settings = [("HOLDFAST_RTP_TIMEOUT_MS", "5000")];
    let host = Host::new(&postgres.url("postgres")).with_settings(&settings);
    let old = host.running(previous);
    let _media = old.media();
    let other = old.signaling();
    drain(&other, &[other.node()], "drain");
    let mut new = host.signaling();
    wait_for_links(&new, 2);
    other.signaling.says(SILENT);
    let mut attempt = attempt(&new, ["1001", "1002"]).ringing();
    let accepted = attempt.accepted();
    all_are_owned_by(&new, &other, 1);
    let mut callee = callee_dialog(&attempt.received, "callee");
    attempt.callee.hang_up(&mut callee);
    // When this is answered, what was saved before it is stored.
    phone(&new, "1003", "udp");
    new.signaling.kill();
    drain(&other, &[other.node()], "undrain");
    // It repeats its 200 until it is acknowledged.
    let mut caller = attempt.caller;
    caller.acknowledge(&Phone::caller_dialog(&attempt.invite, &accepted), &attempt.invite, None);
    let bye = caller.request_of(&Method::Bye);
    caller.respond(&bye, 200, "unused", None);
    let cdrs = other.cdrs(1);
    assert_eq!(cdrs[0]["disposition"], "answered", "{cdrs:#?}");
}

fn attempt(server: &Server, [caller, callee]: [&str; 2]) -> Attempt {
    let [from, to] = [caller, callee].map(|user| phone(server, user, "udp"));
    Attempt::between(from, to, &server.uri(callee))
}

fn are_of_both_releases(asked: &Server) {
    let nodes = asked.list("/nodes");
    let versions = nodes.iter().filter_map(|node| node["record_version"].as_u64());
    let both = [RECORD_VERSION - 1, RECORD_VERSION].map(u64::from);
    assert_eq!(versions.collect::<BTreeSet<_>>(), both.into(), "{nodes:#?}");
}

/// As it said when it began.
fn name_of(process: &Process) -> String {
    eventually("it says its name", SOON, || {
        let log = process.log();
        let (before, _) = log.split_once(" is up (slot ")?;
        Some(before.rsplit(' ').next()?.to_owned())
    })
}

/// Nodes take nothing any more, or again.
fn drain(asked: &Server, nodes: &[String], what: &str) {
    for node in nodes {
        let (status, told) = asked.api("POST", &format!("/nodes/{node}/{what}"), None);
        assert_eq!(status, 202, "{told}");
    }
}

/// So many calls have that owner, as another node tells.
fn all_are_owned_by(owner: &Server, asked: &Server, count: usize) {
    let name = owner.node();
    eventually("the calls have another owner", SOON * 2, || {
        let calls = asked.list("/calls");
        let owned = calls.iter().filter(|call| call["owner"] == name.as_str()).count();
        (owned == count && calls.len() == count).then_some(())
    });
}
