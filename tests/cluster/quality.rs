//! How a call sounds over time goes on when its owner dies, and when its media moves.

use crate::common::api::Api;
use crate::common::{SOON, eventually};
use crate::media::{media_node_of_the_call, second_media};
use crate::pair::Pair;
use crate::switch::Switch;
use serde_json::Value;

/// The series of what a phone said, when it is so long; it sounds well.
fn heard(api: &Api, call: &str, role: &str, least: usize) -> Vec<Value> {
    eventually(&format!("{least} samples of the {role}"), SOON * 6, || {
        let (status, quality) = api.api("GET", &format!("/calls/{call}/quality"), None);
        assert_eq!(status, 200, "{quality}");
        let legs = quality["legs"].as_array().expect("legs");
        let leg = legs.iter().find(|leg| leg["role"] == role)?;
        let series = leg["from_phone"].as_array().expect("samples").clone();
        (series.len() >= least).then_some(series)
    })
}

#[test]
fn the_series_of_a_call_spans_the_kill_of_its_owner_and_its_end() {
    let mut switch = Switch::start();
    let mut pair = Pair::talking(switch.survivor(), ["udp", "udp"]);
    pair.hear_each_other();
    let call = switch.survivor().list("/calls")[0]["id"].as_str().expect("an id").to_owned();
    let before = heard(switch.survivor(), &call, "caller", 1);
    let mut owner = switch.take_owner();
    owner.signaling.kill();
    pair.hear_each_other();
    let after = heard(switch.survivor(), &call, "caller", before.len() + 2);
    assert_eq!(after[..before.len()], before[..], "what was known is known");
    for pair in after.windows(2) {
        assert!(pair[0]["at"].as_str() < pair[1]["at"].as_str(), "{pair:#?}");
    }
    assert!(after.iter().all(|one| one["packets"].as_u64() > Some(0)), "{after:#?}");
    assert!(after.iter().all(|one| one["mos"].as_f64() > Some(1.0)), "{after:#?}");
    pair.caller.hangs_up_on(&mut pair.callee);
    let cdr = switch.survivor().cdrs(1).remove(0);
    for leg in cdr["legs"].as_array().expect("legs") {
        assert!(leg["mos_mean"].as_f64() > Some(1.0), "{leg:#}");
    }
    let over = heard(switch.survivor(), &call, "callee", after.len());
    assert!(over.len() >= after.len());
}

/// Nothing is counted twice, though another process counts.
#[test]
fn the_series_goes_on_when_the_media_moves() {
    let switch = Switch::start();
    let mut pair = Pair::talking(switch.survivor(), ["udp", "udp"]);
    pair.hear_each_other();
    let call = switch.survivor().list("/calls")[0]["id"].as_str().expect("an id").to_owned();
    let before = heard(switch.survivor(), &call, "callee", 1);
    let first = media_node_of_the_call(switch.survivor()).expect("a call");
    let _second = second_media(&switch);
    let path = format!("/calls/{call}/move");
    let (status, told) = switch.survivor().api("POST", &path, Some(&serde_json::json!({})));
    assert_eq!(status, 202, "{told}");
    eventually("it is elsewhere", SOON, || {
        let now = media_node_of_the_call(switch.survivor())?;
        (now != first).then_some(())
    });
    pair.hear_each_other();
    let after = heard(switch.survivor(), &call, "callee", before.len() + 2);
    assert_eq!(after[..before.len()], before[..]);
    pair.caller.hangs_up_on(&mut pair.callee);
    let cdr = switch.survivor().cdrs(1).remove(0);
    let legs = cdr["legs"].as_array().expect("legs");
    let leg = legs.iter().find(|leg| leg["role"] == "callee").expect("a leg");
    let over = heard(switch.survivor(), &call, "callee", after.len());
    let count = |one: &Value| one["packets"].as_u64().expect("a number");
    let counted: u64 = over.iter().map(count).sum();
    assert!(Some(counted) <= leg["packets_received"].as_u64(), "{counted} of {leg:#}");
    assert!(over.iter().all(|one| count(one) > 0), "{over:#?}");
}

#[test]
fn nobody_knows_how_a_call_sounded_that_never_was() {
    let switch = Switch::start();
    let nobody = "/calls/0192f0c1-8c5e-7000-8000-000000000001/quality";
    assert_eq!(switch.survivor().api("GET", nobody, None).0, 404);
}
