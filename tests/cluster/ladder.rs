//! What was said in a call, told by who lived, also what a process said that was killed.

use crate::capture::dissected;
use crate::common::{SOON, eventually};
use crate::pair::Pair;
use crate::switch::Switch;
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
    let ladder = eventually("the whole ladder", SOON, || {
        let (status, ladder) = switch.survivor().api("GET", &format!("/calls/{call}/ladder"), None);
        let is_whole = summaries(&ladder).iter().filter(|one| *one == "200 OK (BYE)").count() >= 2;
        (status == 200 && is_whole).then_some(ladder)
    });
    let said = summaries(&ladder);
    for expected in ["INVITE", "100 Trying (INVITE)", "200 OK (INVITE)", "ACK", "BYE"] {
        assert!(said.iter().any(|one| one == expected), "{expected} in {said:?}");
    }
    let survivor = switch.survivor().node();
    let nodes = |node: &str| {
        let messages = ladder["messages"].as_array().expect("messages");
        messages.iter().filter(|message| message["node"] == node).count()
    };
    assert!(nodes(&dead) >= 7 && nodes(&survivor) >= 4, "{ladder:#}");
    assert_eq!(ladder["marks"][0]["text"], format!("carried on by {survivor}"));
    assert!(ladder["marks"].as_array().is_some_and(|marks| marks.len() == 1), "{ladder:#}");
    let text = ladder.to_string();
    assert!(text.contains("Digest username=") && text.contains("response=\\\"****"), "{text}");
    let packets = dissected(switch.survivor(), &call);
    assert_eq!(packets.iter().filter(|packet| !packet.sip.is_empty()).count(), said.len());
}

fn summaries(ladder: &Value) -> Vec<String> {
    let messages = ladder["messages"].as_array().into_iter().flatten();
    messages.map(|message| message["summary"].as_str().expect("text").to_owned()).collect()
}
