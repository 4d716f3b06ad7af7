//! What was said in a call is kept while it lives, though it is old, or there is room for a few calls only.

use super::common::phone::Phone;
use super::common::server::Server;
use super::common::{SOON, eventually};
use super::pair::{Attempt, Pair, phone, reinvite};
use holdfast::sip::{Method, Status};
use serde_json::Value;
use std::fs::{self, File};
use std::time::SystemTime;

/// Of some dozen messages.
const BYTES: &str = "100000";

/// Status, and what was said.
fn ladder(server: &Server, call: &Value) -> (u16, Value) {
    let call = call.as_str().expect("an id");
    server.api("GET", &format!("/calls/{call}/ladder"), None)
}

fn summaries(ladder: &Value) -> Vec<&str> {
    let messages = ladder["messages"].as_array().expect("messages").iter();
    messages.map(|message| message["summary"].as_str().expect("text")).collect()
}

/// A call that is refused, and is over.
fn refused(server: &Server, [caller, callee]: [Phone; 2]) -> [Phone; 2] {
    let mut attempt = Attempt::between(caller, callee, &server.uri("1004"));
    attempt.callee.respond(&attempt.received, 486, "callee", None);
    let refused = attempt.caller.response_to(&Method::Invite);
    assert_eq!(refused.status, Status(486));
    attempt.caller.acknowledge_refusal(&attempt.invite, &refused);
    attempt.callee.request_of(&Method::Ack);
    [attempt.caller, attempt.callee]
}

/// The first call that is over.
fn over(server: &Server) -> Value {
    eventually("its CDR", SOON, || Some(server.list("/cdrs").first()?["id"].clone()))
}

/// What was said is there still, and what is said comes to it.
fn is_kept(server: &Server, mut pair: Pair, call: &Value, before: &Value) {
    let Pair { caller, callee } = &mut pair;
    reinvite(caller, callee, "sendonly", "recvonly", false);
    let (status, now) = ladder(server, call);
    assert_eq!(status, 200, "{now}");
    let (before, now) = (summaries(before), summaries(&now));
    assert!(now.starts_with(&before) && now.len() >= before.len() + 6, "{before:?} {now:?}");
    pair.caller.hangs_up_on(&mut pair.callee);
}

#[test]
fn a_live_call_keeps_its_ladder_while_others_make_room() {
    let server = Server::start_with(&[("HOLDFAST_LADDER_BYTES", BYTES)]);
    let pair = Pair::talking(&server, ["udp", "udp"]);
    let live = server.list("/calls")[0]["id"].clone();
    let before = ladder(&server, &live).1;
    let mut phones = Some(["1003", "1004"].map(|user| phone(&server, user, "udp")));
    let mut first = None;
    eventually("the first that ended makes room", SOON * 4, || {
        phones = phones.take().map(|phones| refused(&server, phones));
        let first = first.get_or_insert_with(|| over(&server));
        (ladder(&server, first).0 == 404).then_some(())
    });
    is_kept(&server, pair, &live, &before);
}

/// Hours pass for files, and not for the calls.
#[test]
fn a_live_call_keeps_its_ladder_when_it_is_old() {
    let server = Server::start_with(&[("HOLDFAST_LADDER_MS", "60000")]);
    let pair = Pair::talking(&server, ["udp", "udp"]);
    let live = server.list("/calls")[0]["id"].clone();
    let before = ladder(&server, &live).1;
    refused(&server, ["1003", "1004"].map(|user| phone(&server, user, "udp")));
    let over = over(&server);
    let over_before = ladder(&server, &over).1;
    eventually("files are swept that are old", SOON * 2, || {
        let files = fs::read_dir(server.data().join("ladder")).expect("files").flatten();
        let (kept, first): (Vec<_>, Vec<_>) = files
            .map(|file| file.path())
            .partition(|path| path.to_string_lossy().contains(".kept."));
        for path in first {
            // It may be gone by now.
            let file = File::options().append(true).open(path);
            let _ = file.and_then(|file| file.set_modified(SystemTime::UNIX_EPOCH));
        }
        (!kept.is_empty()).then_some(())
    });
    assert_eq!(ladder(&server, &over), (200, over_before), "it ended a moment ago");
    is_kept(&server, pair, &live, &before);
}
