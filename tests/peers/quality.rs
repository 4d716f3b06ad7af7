//! How calls sound, in numbers: what phones lose is found in live calls and in CDRs.

use super::common::metrics::Scrape;
use super::common::rtp::{Mischief, Talk};
use super::common::server::Server;
use super::common::{SOON, eventually};
use super::pair::{Attempt, CALLEE_HZ, CALLER_HZ, Pair, phone};
use serde_json::Value;
use std::time::Duration;

/// What is said of a side of the call.
fn of<'a>(call: &'a Value, role: &str) -> &'a Value {
    let legs = call["legs"].as_array().expect("legs");
    legs.iter().find(|leg| leg["role"] == role).expect("a leg")
}

fn score(value: &Value) -> f64 {
    value.as_f64().expect("a score")
}

#[test]
fn lost_packets_are_bursts_and_cost_the_score() {
    let server = Server::start();
    let mut pair = Pair::talking(&server, ["udp", "udp"]);
    pair.hear_each_other();
    pair.caller.talk.does(Some(Mischief::Loses));
    let call = eventually("bursts", SOON * 3, || {
        let call = server.list("/calls").remove(0);
        let bursts = &of(&call, "caller")["streams"][0]["received"]["bursts"];
        (bursts["count"].as_u64() >= Some(3)).then_some(call)
    });
    let [caller, callee] = ["caller", "callee"].map(|role| &of(&call, role)["streams"][0]);
    let bursts = &caller["received"]["bursts"];
    assert!(score(&bursts["burst_lost_percent"]) > score(&bursts["gap_lost_percent"]), "{bursts}");
    assert!(bursts["gap_ms"].as_u64() > bursts["burst_ms"].as_u64(), "{bursts}");
    assert!(score(&caller["mos"]) < score(&callee["mos"]), "{call:#}");
    pair.caller.hangs_up_on(&mut pair.callee);
    let cdr = server.cdrs(1).remove(0);
    let [caller, callee] = ["caller", "callee"].map(|role| of(&cdr, role));
    assert!(caller["bursts"]["count"].as_u64() >= Some(3), "{caller:#}");
    assert!(score(&caller["mos_min"]) < score(&callee["mos_mean"]), "{cdr:#}");
}

/// What a phone sends is counted and measured as it was sent: one packet of ten is not there, and the way of each other
/// one takes 15 ms longer, which is the jitter (RFC 3550 §6.4.1) but for the pairs about a gap.
#[test]
fn loss_and_jitter_are_those_of_what_the_phone_sends() {
    let server = Server::start();
    let mut pair = Pair::talking(&server, ["udp", "udp"]);
    let is_rough = |lost: &Value, all: u64, jitter: &Value| {
        let lost = lost.as_u64().expect("a count") as f64;
        let percent = 100.0 * lost / (all as f64 + lost);
        assert!((8.0..=12.0).contains(&percent), "{percent} % of {all}");
        let jitter = jitter.as_f64().expect("milliseconds");
        assert!((9.0..=25.0).contains(&jitter), "{jitter} ms");
    };
    pair.caller.talk.does(Some(Mischief::Rough));
    pair.hear_each_other();
    let path = |call: &Value| format!("/calls/{}/quality", call["id"].as_str().expect("an id"));
    let (call, sounded) = eventually("two samples, as the API shows it", SOON * 3, || {
        let call = server.list("/calls").remove(0);
        let (_, sounded) = server.api("GET", &path(&call), None);
        // There are no legs before the first sample.
        let known = sounded["legs"].as_array().is_some_and(|legs| legs.len() == 2);
        let samples = known.then(|| of(&sounded, "caller")["from_phone"].as_array())??.len();
        let is_known = of(&call, "caller")["streams"][0]["received"]["packets"].as_u64()? > 400;
        (samples >= 2 && is_known).then_some((call, sounded))
    });
    let received = |role| &of(&call, role)["streams"][0]["received"];
    let count = |value: &Value| value.as_u64().expect("a count");
    let rough = received("caller");
    is_rough(&rough["lost"], count(&rough["packets"]), &rough["jitter_ms"]);
    let sample = of(&sounded, "caller")["from_phone"].as_array().and_then(|all| all.last());
    let sample = sample.expect("a sample");
    is_rough(&sample["lost"], count(&sample["packets"]), &sample["jitter_ms"]);
    let smooth = received("callee");
    assert_eq!(smooth["lost"], 0, "{smooth:#}");
    assert!(score(&smooth["jitter_ms"]) < score(&rough["jitter_ms"]), "{call:#}");
    pair.caller.hangs_up_on(&mut pair.callee);
    let cdr = server.cdrs(1).remove(0);
    let caller = of(&cdr, "caller");
    is_rough(
        &caller["packets_lost"],
        count(&caller["packets_received"]),
        &caller["jitter_mean_ms"],
    );
    assert_eq!(of(&cdr, "callee")["packets_lost"], 0, "{cdr:#}");
    // Of what is sent behind the BYE nothing counts.
    let skipped = pair.caller.talk.skipped();
    assert!((skipped.saturating_sub(10)..=skipped).contains(&count(&caller["packets_lost"])));
}

/// RFC 3550 §6.4.1: what a phone kept a report for is not the way's.
#[test]
fn the_way_to_each_phone_and_back_is_told_in_milliseconds() {
    /// What this machine may add.
    const MORE_MS: f64 = 100.0;
    let ways = [("caller", 40.0), ("callee", 160.0)];
    let server = Server::start();
    let [caller, callee] = ["1001", "1002"].map(|user| phone(&server, user, "udp"));
    let talks = [(CALLER_HZ, 40), (CALLEE_HZ, 160)];
    let talks = talks.map(|(hz, ms)| Talk::new(hz).reporting(Duration::from_millis(ms)));
    let attempt = Attempt::with_talks(caller, callee, &server.uri("1002"), talks);
    let mut pair = Pair::answered(attempt);
    pair.hear_each_other();
    let near = |told: &Value, way: f64| {
        let told = told.as_f64().unwrap_or_else(|| panic!("no round trip: {told}"));
        assert!((way - 0.1..way + MORE_MS).contains(&told), "{told} ms for {way} ms");
    };
    let call = eventually("both ways are known, in samples too", SOON * 3, || {
        let call = server.list("/calls").remove(0);
        let told = |role| of(&call, role)["streams"][0]["reported"]["rtt_ms"].is_number();
        (told("caller") && told("callee")).then_some(call)
    });
    let path = format!("/calls/{}/quality", call["id"].as_str().expect("an id"));
    let sounded = eventually("samples have them", SOON * 2, || {
        let (status, sounded) = server.api("GET", &path, None);
        let told = |role| last(of(&sounded, role))["rtt_ms"].is_number();
        (status == 200 && told("caller") && told("callee")).then_some(sounded)
    });
    for (role, way) in ways {
        near(&of(&call, role)["streams"][0]["reported"]["rtt_ms"], way);
        near(&last(of(&sounded, role))["rtt_ms"], way);
    }
    for (side, far) in [(&pair.caller, &pair.callee), (&pair.callee, &pair.caller)] {
        let report = *side.talk.reporter().came().last().expect("a report");
        assert_eq!(report.ssrc, side.talk.came()[0].ssrc, "of the stream that it hears");
        assert!(report.clock_off < Duration::from_secs(1), "NTP: {report:?}");
        let sent = u32::try_from(far.talk.sent()).expect("few");
        assert!((1..=sent).contains(&report.packets), "{report:?}");
    }
    pair.caller.hangs_up_on(&mut pair.callee);
    let cdr = server.cdrs(1).remove(0);
    ways.iter().for_each(|(role, way)| near(&of(&cdr, role)["rtt_mean_ms"], *way));
    let scrape = eventually("it is counted", SOON, || {
        let scrape = Scrape::of(server.admin);
        (scrape.value("holdfast_call_round_trip_seconds_count") > 0.0).then_some(scrape)
    });
    assert_eq!(scrape.value("holdfast_call_round_trip_seconds_count"), 2.0, "one a phone");
    let sum = scrape.value("holdfast_call_round_trip_seconds_sum");
    near(&(sum * 1_000.0).into(), 200.0);
}

/// Of a leg: the last of what its phone heard.
fn last(leg: &Value) -> &Value {
    leg["to_phone"].as_array().and_then(|samples| samples.last()).unwrap_or(&Value::Null)
}
