//! Metrics by their values: each counts what was made to happen, and no more.

use crate::common::metrics::Scrape;
use crate::common::phone::{Phone, sdp};
use crate::common::postgres::Postgres;
use crate::common::server::{Host, Server};
use crate::common::{SOON, eventually};
use crate::crowd::Crowd;
use crate::pair::{Pair, phone};
use crate::switch::Switch;
use holdfast::sip::{HeaderName, Method, Status};
use std::net::UdpSocket;
use std::thread;
use std::time::{Duration, Instant};

const CALLS: usize = 3;
const TALKING: &str = "holdfast_calls{state=\"confirmed\"}";

/// Until a sample has that value.
fn becomes(server: &Server, sample: &str, value: f64) -> Scrape {
    let what = format!("{sample} is {value}");
    eventually(&what, SOON, || {
        let scrape = Scrape::of(server.admin);
        (scrape.find(sample) == Some(value)).then_some(scrape)
    })
}

/// How many of the live calls a node owns.
fn owned(server: &Server, node: &str) -> usize {
    server.list("/calls").iter().filter(|call| call["owner"] == node).count()
}

#[test]
fn calls_of_a_killed_process_are_counted_where_they_go_on() {
    let mut switch = Switch::start();
    let crowd = Crowd::talking(switch.survivor(), CALLS, 0);
    let mut owner = switch.take_owner();
    let name = owner.node();
    let survivor = switch.survivor();
    let count = owned(survivor, &name) as f64;
    let before = Scrape::of(survivor.admin);
    assert_eq!(before.value("holdfast_calls_adopted_total"), 0.0);
    assert_eq!(before.value(TALKING), CALLS as f64 - count);
    let link = format!("holdfast_link_up{{peer=\"{name}\"}}");
    assert_eq!(before.value(&link), 1.0);
    owner.signaling.kill();
    becomes(survivor, "holdfast_calls_adopted_total", count);
    becomes(survivor, TALKING, CALLS as f64);
    eventually("the link is down", SOON, || {
        (Scrape::of(survivor.admin).find(&link) != Some(1.0)).then_some(())
    });
    crowd.hear_each_other();
    crowd.hang_up();
    survivor.cdrs(CALLS);
    let after = becomes(survivor, TALKING, 0.0);
    assert_eq!(after.value("holdfast_calls_adopted_total"), count, "each once");
    assert_eq!(after.value("holdfast_calls_left_total"), 0.0);
    let answered = "holdfast_calls_ended_total{disposition=\"answered\"}";
    assert_eq!(after.value(answered), CALLS as f64);
    assert_eq!(after.sum("holdfast_call_ends_total"), CALLS as f64);
}

#[test]
fn calls_that_a_drain_gives_away_are_counted_on_both_sides() {
    let switch = Switch::start();
    let crowd = Crowd::talking(switch.survivor(), CALLS, 0);
    let from = switch.owner();
    let (drained, other) = (&switch.signaling[from], &switch.signaling[1 - from]);
    let count = owned(drained, &drained.node()) as f64;
    let path = format!("/nodes/{}", drained.node());
    assert_eq!(other.api("POST", &format!("{path}/drain"), None).0, 202);
    becomes(other, "holdfast_calls_adopted_total", count);
    let gave = becomes(drained, "holdfast_calls_left_total", count);
    assert_eq!(gave.value("holdfast_draining"), 1.0);
    becomes(drained, TALKING, 0.0);
    becomes(drained, "holdfast_drain_remaining_calls", 0.0);
    becomes(other, TALKING, CALLS as f64);
    assert_eq!(Scrape::of(other.admin).value("holdfast_draining"), 0.0);
    assert_eq!(other.api("POST", &format!("{path}/undrain"), None).0, 202);
    becomes(drained, "holdfast_draining", 0.0);
    crowd.hang_up();
    other.cdrs(CALLS);
    let scrapes = [drained, other].map(|server| Scrape::of(server.admin));
    let ended = scrapes.map(|scrape| scrape.sum("holdfast_calls_ended_total"));
    assert_eq!(ended.iter().sum::<f64>(), CALLS as f64, "each ends once: {ended:?}");
}

/// What it waits for falls with each call that is over; who calls meanwhile is counted as refused.
#[test]
fn a_drain_that_waits_tells_how_many_calls_are_left() {
    let server = Server::start();
    let mut first = Pair::talking(&server, ["udp", "udp"]);
    let [caller, callee] = ["1003", "1004"].map(|user| phone(&server, user, "udp"));
    let mut second = Pair::between(caller, callee, &server.uri("1004"));
    let path = format!("/nodes/{}", server.node());
    assert_eq!(server.api("POST", &format!("{path}/drain"), None).0, 202);
    let left = "holdfast_drain_remaining_calls";
    let draining = becomes(&server, left, 2.0);
    assert_eq!(draining.value("holdfast_draining"), 1.0);
    assert_eq!(draining.value("holdfast_ready"), 0.0);
    let mut refused = phone(&server, "1005", "udp");
    let invite = refused.invite(&server.uri("1002"), Some(&sdp(40_000, 1, "sendrecv")));
    let response = refused.response_to(&Method::Invite);
    assert_eq!(response.status, Status(503));
    refused.acknowledge_refusal(&invite, &response);
    becomes(&server, "holdfast_shed_total{what=\"Draining\"}", 1.0);
    first.caller.hangs_up_on(&mut first.callee);
    becomes(&server, left, 1.0);
    second.callee.hangs_up_on(&mut second.caller);
    becomes(&server, left, 0.0);
    assert_eq!(server.api("POST", &format!("{path}/undrain"), None).0, 202);
    becomes(&server, "holdfast_draining", 0.0);
    becomes(&server, "holdfast_ready", 1.0);
}

#[test]
fn what_the_store_is_owed_is_told_until_it_has_it() {
    let mut postgres = Postgres::start();
    let host = Host::new(&postgres.url("postgres"));
    let (_media, mut server) = (host.media(), host.signaling());
    let mut pair = Pair::talking(&server, ["udp", "udp"]);
    let mut other = phone(&server, "1003", "udp");
    let journal = ["entries", "size_bytes", "age_seconds"];
    let journal = journal.map(|name| format!("holdfast_journal_{name}"));
    let waiting = "holdfast_queue_depth{queue=\"store\"}";
    let is_empty = |scrape: &Scrape| {
        journal.iter().all(|name| scrape.value(name) == 0.0) && scrape.value(waiting) == 0.0
    };
    let empty = || {
        eventually("nothing is owed", SOON, || {
            let scrape = Scrape::of(server.admin);
            is_empty(&scrape).then_some(scrape)
        })
    };
    let failed = empty().value("holdfast_commits_failed_total");
    postgres.stop();
    other.register(&[]);
    pair.caller.hangs_up_on(&mut pair.callee);
    // The call and the phone.
    becomes(&server, &journal[0], 2.0);
    let owed = becomes(&server, waiting, 2.0);
    assert!(owed.value(&journal[1]) > 0.0 && owed.value("holdfast_degraded") == 1.0);
    let age = owed.value(&journal[2]);
    eventually("it grows older", SOON, || {
        (Scrape::of(server.admin).value(&journal[2]) > age + 0.5).then_some(())
    });
    assert!(Scrape::of(server.admin).value("holdfast_commits_failed_total") > failed);
    postgres.run();
    empty();
    server.wait_until_ready();
    becomes(&server, "holdfast_degraded", 0.0);
    server.cdrs(1);
}

#[test]
fn ports_and_sessions_are_those_of_live_calls() {
    let server = Server::start_apart();
    let nodes = server.list("/nodes");
    let media = nodes.iter().find(|node| node["mode"] == "media").expect("a media node");
    let of_media = |what: &str| {
        let name = media["name"].as_str().expect("a name");
        format!("holdfast_media_node_{what}{{node=\"{name}\"}}")
    };
    let ports = of_media("ports_in_use");
    let before = becomes(&server, &ports, 0.0);
    let range = &media["media"];
    let all = range["port_last"].as_u64().zip(range["port_first"].as_u64());
    let all = all.map(|(last, first)| (last - first + 1) as f64);
    assert_eq!(before.find(&of_media("ports")), all, "{media:#}");
    let mut crowd = Crowd::talking(&server, CALLS, 1);
    // RTP and RTCP of two legs each.
    becomes(&server, &ports, 4.0 * CALLS as f64);
    becomes(&server, &of_media("sessions"), CALLS as f64);
    becomes(&server, &of_media("sessions_transcoded"), 1.0);
    crowd.call(&server, crate::crowd::Kind::RELAYED);
    becomes(&server, &ports, 4.0 * (CALLS + 1) as f64);
    crowd.hang_up();
    becomes(&server, &ports, 0.0);
    let after = becomes(&server, &of_media("sessions"), 0.0);
    assert_eq!(after.value(&of_media("sessions_transcoded")), 0.0);
    let process = Scrape::of(server.media_admin);
    assert_eq!(process.value("holdfast_media_sessions"), 0.0);
}

#[test]
fn a_media_node_that_is_killed_is_down_in_the_figures() {
    let mut server = Server::start_apart();
    let nodes = server.list("/nodes");
    let media = nodes.iter().find(|node| node["mode"] == "media").expect("a media node");
    let name = media["name"].as_str().expect("a name").to_owned();
    let links = [
        format!("holdfast_link_up{{peer=\"{name}\"}}"),
        format!("holdfast_media_node_up{{node=\"{name}\"}}"),
        "holdfast_media_nodes".to_owned(),
    ];
    for sample in &links {
        becomes(&server, sample, 1.0);
    }
    let round_trip = format!("holdfast_link_rtt_seconds{{peer=\"{name}\"}}");
    let known = eventually("a round trip", SOON, || Scrape::of(server.admin).find(&round_trip));
    assert!(known > 0.0 && known < 1.0, "{known}");
    server.media.as_mut().expect("a process").kill();
    for sample in &links {
        becomes(&server, sample, 0.0);
    }
    assert_eq!(Scrape::of(server.admin).find(&round_trip), None, "of a link that is no more");
    becomes(&server, "holdfast_degraded", 1.0);
}

#[test]
fn a_worker_with_a_call_looks_fifty_times_a_second_how_late_it_is() {
    let server = Server::start_apart();
    let look = || (Scrape::of(server.media_admin), Instant::now());
    let [count, sum] =
        ["count", "sum"].map(|end| format!("holdfast_media_tick_late_seconds_{end}"));
    let pair = Pair::talking(&server, ["udp", "udp"]);
    pair.hear_each_other();
    let (first, began) = look();
    thread::sleep(Duration::from_secs(2));
    let (last, ended) = look();
    let looks = last.value(&count) - first.value(&count);
    let most = ended.saturating_duration_since(began).as_secs_f64() * 50.0;
    // Each look that is late puts off the next; timers of the session are looked at too.
    assert!((most * 0.4..most * 1.3 + 5.0).contains(&looks), "{looks} of {most}");
    let late = last.value(&sum) - first.value(&sum);
    assert!(late > 0.0 && late < 2.0, "{late} s");
    let all = last.value("holdfast_media_tick_late_seconds_bucket{le=\"+Inf\"}");
    assert_eq!(all, last.value(&count));
    let mut pair = pair;
    pair.caller.hangs_up_on(&mut pair.callee);
    eventually("no session, no look", SOON, || {
        let before = Scrape::of(server.media_admin).value(&count);
        thread::sleep(Duration::from_millis(300));
        (Scrape::of(server.media_admin).value(&count) == before).then_some(())
    });
}

/// Every datagram that came is either read or counted as dropped.
#[test]
fn what_the_kernel_dropped_meanwhile_is_counted() {
    let server = Server::start();
    let room = Scrape::of(server.admin).value("holdfast_sip_receive_buffer_bytes");
    let malformed = Scrape::of(server.admin).value("holdfast_malformed_total");
    let socket = UdpSocket::bind((server.sip.ip(), 0)).expect("a port");
    // Each takes its bytes and more of the room.
    let (text, bytes) = ("no SIP at all ".repeat(80), 1_120.0);
    let count = (room / bytes) as usize * 2;
    server.signaling.freeze();
    for _ in 0..count {
        socket.send_to(text.as_bytes(), server.sip).expect("sent");
    }
    server.signaling.thaw();
    let dropped = "holdfast_sip_datagrams_dropped_total{by=\"kernel\"}";
    let scrape = eventually("all are accounted for", SOON * 2, || {
        // It looks what was dropped when it has read something.
        socket.send_to(b"\r\n\r\n", server.sip).expect("sent");
        let scrape = Scrape::of(server.admin);
        let seen = scrape.value("holdfast_malformed_total") - malformed + scrape.value(dropped);
        (seen >= count as f64).then_some(scrape)
    });
    let read = scrape.value("holdfast_malformed_total") - malformed;
    assert_eq!(read + scrape.value(dropped), count as f64, "none twice");
    assert!(read > 0.0 && scrape.value(dropped) > 0.0);
}

/// A phone that says its INVITE again and again, and is challenged before: it is one call, and the caller waits from
/// the INVITE with credentials on until it hears that it rings.
#[test]
fn repeats_and_challenges_are_no_calls_and_post_dial_delay_is_the_callers() {
    const RINGS_AFTER: Duration = Duration::from_millis(700);
    let server = Server::start();
    let [mut caller, mut callee] = ["1001", "1002"].map(|user| phone(&server, user, "udp"));
    let offer = sdp(40_000, 1, "sendrecv");
    // Given up at the challenge.
    challenged(&mut caller, &server, &offer);
    // With a wrong password.
    let mut stranger = Phone::udp(server.sip, "1001", "not-it");
    stranger.invite(&server.uri("1002"), Some(&offer));
    assert!(stranger.response_to(&Method::Invite).status.0 >= 400, "refused");
    let (invite, challenge) = challenged(&mut caller, &server, &offer);
    thread::sleep(Duration::from_millis(400));
    let dialled = Instant::now();
    let invite = caller.authorized(&invite, &challenge);
    caller.send_request(&invite);
    let received = callee.request_of(&Method::Invite);
    for _ in 0..3 {
        caller.send(&invite.to_bytes());
    }
    thread::sleep(RINGS_AFTER);
    let [least, most] = {
        let least = dialled.elapsed();
        callee.respond(&received, 180, "callee", None);
        caller.response_with(180);
        [least, dialled.elapsed()].map(|time| time.as_secs_f64())
    };
    caller.send(&invite.to_bytes());
    thread::sleep(Duration::from_millis(300));
    callee.respond(&received, 180, "callee", None);
    let answered = dialled.elapsed().as_secs_f64();
    callee.respond(&received, 200, "callee", Some(&sdp(40_002, 1, "sendrecv")));
    let accepted = caller.response_to(&Method::Invite);
    let set_up = dialled.elapsed().as_secs_f64();
    let mut dialog = Phone::caller_dialog(&invite, &accepted);
    caller.acknowledge(&dialog, &invite, None);
    callee.request_of(&Method::Ack);
    caller.hang_up(&mut dialog);
    let bye = callee.request_of(&Method::Bye);
    callee.respond(&bye, 200, "unused", None);
    server.cdrs(1);
    is_busy(&server, &mut caller, &mut callee, &offer);
    server.cdrs(2);
    let scrape = becomes(&server, "holdfast_calls_ended_total{disposition=\"busy\"}", 1.0);
    assert_eq!(scrape.value("holdfast_calls_ended_total{disposition=\"answered\"}"), 1.0);
    assert_eq!(scrape.sum("holdfast_calls_ended_total"), 2.0, "answered and busy, nothing else");
    let delay = |end: &str| scrape.value(&format!("holdfast_post_dial_delay_seconds_{end}"));
    assert_eq!(delay("count"), 1.0, "who is busy never rang");
    // The switch's clock counts microseconds.
    assert!(((least - 0.001)..most).contains(&delay("sum")), "{least} to {most}: {}", delay("sum"));
    let setup = |end: &str| scrape.value(&format!("holdfast_call_setup_seconds_{end}"));
    assert_eq!(setup("count"), 1.0);
    assert!(((answered - 0.001)..set_up).contains(&setup("sum")), "{answered} to {set_up}");
    let of_invite = "holdfast_sip_transaction_seconds_count{method=\"INVITE\",role=\"server\"}";
    becomes(&server, of_invite, 2.0);
    assert_eq!(scrape.value("holdfast_authentication_failures_total"), 1.0, "the wrong password");
}

/// An INVITE without credentials, said twice, and what it was told.
fn challenged(
    caller: &mut Phone,
    server: &Server,
    offer: &str,
) -> (holdfast::sip::Request, holdfast::sip::Response) {
    let mut invite = caller.request(Method::Invite, &server.uri("1002"));
    invite.headers.push(HeaderName::ContentType, "application/sdp");
    invite.body = offer.to_owned().into();
    caller.send_request(&invite);
    caller.send(&invite.to_bytes());
    let challenge = caller.response_to(&Method::Invite);
    assert!(matches!(challenge.status.0, 401 | 407), "{}", challenge.status);
    caller.acknowledge_refusal(&invite, &challenge);
    (invite, challenge)
}

fn is_busy(server: &Server, caller: &mut Phone, callee: &mut Phone, offer: &str) {
    let invite = caller.invite(&server.uri("1002"), Some(offer));
    let received = callee.request_of(&Method::Invite);
    callee.respond(&received, 486, "busy", None);
    let refused = caller.response_to(&Method::Invite);
    assert_eq!(refused.status, Status(486));
    caller.acknowledge_refusal(&invite, &refused);
}
