//! How calls sound, in numbers: what phones lose is found in live calls and in CDRs.

use super::common::rtp::Mischief;
use super::common::server::Server;
use super::common::{SOON, eventually};
use super::pair::Pair;
use serde_json::Value;

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
