//! What was said in a call, told by who lived, also what a process said that was killed.

use crate::common::{SOON, eventually};
use crate::pair::Pair;
use crate::switch::Switch;
use serde_json::Value;
use std::io::Write as _;
use std::process::{Command, Stdio};

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
    check_capture(&switch, &call, said.len());
}

fn summaries(ladder: &Value) -> Vec<String> {
    let messages = ladder["messages"].as_array().into_iter().flatten();
    messages.map(|message| message["summary"].as_str().expect("text").to_owned()).collect()
}

/// Wireshark's own dissector reads it.
fn check_capture(switch: &Switch, call: &str, count: usize) {
    let server = switch.survivor();
    let bytes = server.bytes(&format!("/calls/{call}/pcap"));
    let mut tshark = Command::new("tshark")
        .args(["-r", "-", "-T", "fields", "-e", "sip.Method", "-e", "sip.Status-Code"])
        .args(["-e", "udp.checksum.status", "-o", "udp.check_checksum:TRUE"])
        .arg("-d")
        .arg(format!("udp.port=={},sip", server.sip.port()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("tshark: the Debian package `tshark`");
    tshark.stdin.take().expect("a pipe").write_all(&bytes).expect("it reads");
    let output = tshark.wait_with_output().expect("it ends");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), count, "{text}");
    assert!(lines.iter().all(|line| line.ends_with("\t1")), "checksums are good: {text}");
    for expected in ["INVITE\t", "ACK\t", "BYE\t", "\t200"] {
        assert!(text.contains(expected), "{expected} in {text}");
    }
}
