//! Everything goes and comes back: calls whose phones are still there go on, with their media.

use crate::common::events::{Watching, check_ends, check_order, story_of};
use crate::common::postgres::Postgres;
use crate::common::server::{Host, Server};
use crate::common::{SOON, eventually};
use crate::crowd::check_line;
use crate::pair::{Pair, phone};
use crate::switch::{Switch, check_record, on_each_database};
use holdfast::sip::{Message, Method, Status};
use serde_json::Value;
use std::time::Duration;

#[test]
fn the_only_process_is_killed_and_started_again() {
    let mut server = Server::start();
    let mut pair = Pair::talking(&server, ["udp", "udp"]);
    pair.hear_each_other();
    let heard = || {
        let calls = server.list("/calls");
        let legs = calls.first().and_then(|call| call["legs"].as_array().cloned());
        let packets = |leg: &Value| leg["streams"][0]["received"]["packets"].as_u64();
        let packets: Vec<u64> = legs?.iter().filter_map(packets).collect();
        (packets.len() == 2 && packets.iter().all(|packets| *packets > 0)).then_some(packets)
    };
    let counted = eventually("what phones said is counted", SOON, heard);
    // Whatever is saved keeps what was counted.
    pair.hold_and_resume();
    server.signaling.kill();
    server.start_again();
    // Nobody says a word any more: what is known is what is in the record.
    pair.caller.talk.mute(true);
    pair.callee.talk.mute(true);
    pair.caller.hangs_up_on(&mut pair.callee);
    let cdrs = server.cdrs(1);
    check_record(&cdrs, 1);
    for (leg, counted) in counted.into_iter().enumerate() {
        let leg = &cdrs[0]["legs"][leg];
        assert!(leg["packets_received"].as_u64() >= Some(counted), "{counted} of {leg:#}");
        assert!(leg["packets_sent"].as_u64() > Some(0), "{leg:#}");
    }
}

/// One that is over by then, one that ends in that moment, one that goes on, and one that comes afterwards.
#[test]
fn each_call_ends_once_though_the_only_process_is_killed() {
    on_each_database(|mut server| {
        let watching = Watching::start(&server, "types=call.*");
        let pair = |server: &Server, [from, to]: [&str; 2]| {
            let [caller, callee] = [from, to].map(|user| phone(server, user, "udp"));
            Pair::between(caller, callee, &server.uri(to))
        };
        let mut over = pair(&server, ["1001", "1002"]);
        let mut ending = pair(&server, ["1003", "1004"]);
        let mut lasting = pair(&server, ["1005", "1006"]);
        over.caller.hangs_up_on(&mut over.callee);
        watching.until("call.ended", 1);
        // Its BYE is lost with the process, not answered by it: of an end that was not stored yet silence tells, later.
        let Pair { caller, callee } = &mut ending;
        server.signaling.freeze();
        caller.phone.send_in_dialog(caller.dialog.request(Method::Bye));
        server.signaling.kill();
        server.start_again();
        assert_eq!(caller.phone.response_to(&Method::Bye).status, Status(200));
        let bye = callee.phone.request_of(&Method::Bye);
        callee.phone.respond(&bye, 200, "unused", None);
        lasting.callee.hangs_up_on(&mut lasting.caller);
        let Pair { caller, callee } = over;
        let mut late = Pair::between(caller.phone, callee.phone, &server.uri("1002"));
        late.caller.hangs_up_on(&mut late.callee);
        let cdrs = server.cdrs(4);
        let came = watching.until("call.ended", cdrs.len());
        check_order(&came);
        check_ends(&came);
        for cdr in &cdrs {
            let story = story_of(&came, &cdr["id"]);
            assert_eq!(story.iter().filter(|kind| *kind == "call.ended").count(), 1, "{story:?}");
        }
    });
}

/// Nobody is there to hand over to: the call waits in the database and in no process, its phones know nothing of it.
#[test]
fn the_only_process_is_stopped_and_started_again() {
    let is_request = |came: &Message| matches!(came, Message::Request(_));
    on_each_database(|mut server| {
        let mut pair = Pair::talking(&server, ["udp", "tcp"]);
        pair.hear_each_other();
        server.signaling.terminate();
        let status = server.signaling.finish(SOON * 2);
        assert_eq!(status.code(), Some(0), "{status}");
        for phone in [&mut pair.caller.phone, &mut pair.callee.phone] {
            assert!(!phone.comes(Duration::from_millis(100), is_request), "it is told something");
        }
        server.start_again();
        // Its connection ended with the process.
        pair.callee.phone.comes_anew();
        assert_eq!(pair.callee.phone.register(&[]).status, Status(200));
        pair.hear_each_other();
        pair.hold_and_resume();
        pair.callee.hangs_up_on(&mut pair.caller);
        check_record(&server.cdrs(1), 1);
    });
}

/// The same, and its media process stays: people talk while no signaling is there.
#[test]
fn the_only_signaling_process_is_stopped_and_started_again() {
    let postgres = Postgres::start();
    let host = Host::new(&postgres.url("postgres"));
    let _media = host.media();
    let mut server = host.signaling();
    let mut pair = Pair::talking(&server, ["udp", "udp"]);
    pair.hear_each_other();
    server.signaling.terminate();
    let status = server.signaling.finish(SOON);
    assert_eq!(status.code(), Some(0), "{status}");
    pair.hear_each_other();
    let next = host.signaling();
    pair.hold_and_resume();
    pair.caller.hangs_up_on(&mut pair.callee);
    check_record(&next.cdrs(1), 1);
}

/// Calls go to the successor with their sound: no packet is lost.
#[test]
fn the_only_process_is_replaced() {
    let postgres = Postgres::start();
    let mut server = Server::start_with(&[("HOLDFAST_DATABASE_URL", &postgres.url("postgres"))]);
    let mut pair = Pair::talking(&server, ["udp", "tcp"]);
    pair.hear_each_other();
    let mut former = server.is_replaced();
    let status = former.finish(SOON * 3);
    assert_eq!(status.code(), Some(0), "{status}");
    pair.hear_each_other();
    for talk in [&pair.caller.talk, &pair.callee.talk] {
        check_line(0, &talk.came());
    }
    server.wait_until_ready();
    pair.hold_and_resume();
    pair.callee.hangs_up_on(&mut pair.caller);
    check_record(&server.cdrs(1), 1);
}

/// Nobody else can have the database meanwhile. The call does not notice.
#[test]
fn on_sqlite_the_only_process_is_not_replaced_and_it_says_why() {
    let server = Server::start();
    let mut pair = Pair::talking(&server, ["udp", "udp"]);
    let refused = server.command(&["serve", "--replace"]);
    assert_eq!(refused.status.code(), Some(64), "{refused:?}");
    let told = String::from_utf8_lossy(&[refused.stdout, refused.stderr].concat()).into_owned();
    for part in ["SQLite serves one signaling process", "stop that one", "its calls are kept"] {
        assert!(told.contains(part), "{told}");
    }
    pair.hear_each_other();
    pair.caller.hangs_up_on(&mut pair.callee);
    check_record(&server.cdrs(1), 0);
}

#[test]
fn all_signaling_processes_are_killed_and_started_again() {
    let mut switch = Switch::start();
    let mut pair = Pair::talking(switch.survivor(), ["udp", "udp"]);
    pair.hear_each_other();
    // All stand still first, or one would claim of another before it dies.
    switch.signaling.iter().for_each(|server| server.signaling.freeze());
    for mut server in switch.signaling.drain(..) {
        server.signaling.kill();
    }
    pair.hear_each_other();
    switch.signaling.push(switch.host.signaling());
    pair.callee.hangs_up_on(&mut pair.caller);
    check_record(&switch.survivor().cdrs(1), 1);
}

#[test]
fn a_process_with_a_dead_ones_control_port_links_with_the_others() {
    let mut switch = Switch::start();
    // The first has the port that the next start takes, and its row is still fresh then.
    switch.signaling[0].signaling.kill();
    drop(switch.signaling.remove(0));
    switch.signaling.push(switch.host.signaling());
    for server in &switch.signaling {
        switch.wait_for_links(server, 2);
    }
    let mut pair = Pair::talking(switch.survivor(), ["udp", "udp"]);
    pair.hear_each_other();
    pair.callee.hangs_up_on(&mut pair.caller);
    check_record(&switch.survivor().cdrs(1), 0);
}
