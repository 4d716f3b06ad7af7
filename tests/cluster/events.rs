//! The stream of events: what is no call's too, in one order at every node; while processes are killed nothing is lost,
//! nothing doubled, each call ends once.

use crate::common::events::{Watching, check_ends, check_order, ids, live_of, story_of};
use crate::common::phone::Phone;
use crate::common::{SOON, eventually};
use crate::crowd::{Crowd, Kind};
use crate::media::media_nodes;
use crate::pair::{Pair, phone, reinvite};
use crate::switch::Switch;
use holdfast::sip::Status;
use serde_json::{Value, json};
use std::collections::BTreeSet;

const CALLS: usize = 8;

#[test]
fn a_kill_loses_and_doubles_no_event() {
    let mut switch = Switch::start();
    // At each of the two.
    let mut watching: Vec<Watching> =
        switch.signaling.iter().map(|node| Watching::start(node, "types=call.*")).collect();
    let mut crowd = Crowd::talking(switch.survivor(), CALLS, 0);
    let owners: Vec<String> = switch
        .survivor()
        .list("/calls")
        .iter()
        .map(|call| call["owner"].as_str().expect("an owner").to_owned())
        .collect();
    let at = switch.owner();
    let until_then = watching.remove(at).until("call.answered", CALLS);
    let watching = watching.remove(0);
    let mut dead = switch.signaling.remove(at);
    let name = dead.node();
    dead.signaling.kill();
    // Calls of the dead node may be nobody's now, and so in no snapshot: who takes them over tells of them.
    let late = Watching::start(switch.survivor(), "types=call.*");
    eventually("who comes now knows all calls", SOON, || {
        let (live, known) = (ids(&switch.survivor().list("/calls")), live_of(&late.came()));
        (live.len() == CALLS && live == known).then_some(())
    });
    crowd.hear_each_other();
    crowd.call(switch.survivor(), Kind::RELAYED);
    crowd.hang_up();
    let cdrs = switch.survivor().cdrs(CALLS + 1);
    let came = watching.until("call.ended", CALLS + 1);
    check_order(&came);
    for cdr in &cdrs {
        let story = story_of(&came, &cdr["id"]);
        let takeovers = cdr["takeovers"].as_u64().expect("a number");
        let adopted = (0..takeovers).map(|_| "call.adopted");
        let expect = ["call.created", "call.answered"].into_iter().chain(adopted);
        let expect: Vec<&str> = expect.chain(["call.ended"]).collect();
        assert_eq!(story, expect, "{cdr:#?}");
    }
    let adopted = came.iter().filter(|event| event["type"] == "call.adopted").count();
    let owned = owners.iter().filter(|owner| **owner == name).count();
    assert!(adopted == owned && owned > 0, "{adopted} of {owned} were taken over");
    check_ends(&late.until("call.ended", CALLS + 1));
    check_replay(&switch, &came, &until_then);
}

/// Who was at the node that died comes to another with the last id, and misses nothing.
fn check_replay(switch: &Switch, came: &[Value], until_then: &[Value]) {
    let is_event = |event: &&Value| event["type"] != "snapshot";
    let seen: Vec<&Value> = until_then.iter().filter(is_event).collect();
    let last = seen.last().expect("some")["id"].as_u64().expect("a number");
    let query = format!("types=call.*&last_event_id={last}");
    let again = Watching::start(switch.survivor(), &query);
    let missed = came.iter().filter(is_event).count() - seen.len();
    let rest = again.wait("the rest", |came| (came.len() >= missed).then(|| came.to_vec()));
    let whole: Vec<&Value> = seen.into_iter().chain(&rest).collect();
    assert_eq!(whole, came.iter().filter(is_event).collect::<Vec<_>>());
    // An id that no log has.
    let lost = Watching::start(switch.survivor(), "last_event_id=1234567890123");
    lost.wait("gap and snapshot", |came| {
        let kinds: Vec<&Value> = came.iter().map(|event| &event["type"]).take(2).collect();
        (kinds == ["gap", "snapshot"]).then_some(())
    });
}

/// One who watches at each of two nodes, and what both are to be told.
struct Both {
    watching: Vec<Watching>,
    /// A media node that was there before.
    media: String,
    expect: Vec<Value>,
}

impl Both {
    fn at(switch: &Switch) -> Self {
        let [(media, _)] = &media_nodes(switch.survivor())[..] else { panic!("one media node") };
        let watching = switch.signaling.iter().map(|node| Watching::start(node, "")).collect();
        Self { watching, media: media.clone(), expect: Vec::new() }
    }

    /// All but what was told of the start a moment too late, and of sound.
    fn came(&self, watching: &Watching) -> Vec<Value> {
        let of_sound = ["call.one_way", "call.two_way", "call.silent", "call.heard"];
        let untold = [&["snapshot", "node.started"], &of_sound[..]].concat();
        let is_wanted = |event: &Value| {
            let kind = event["type"].as_str().expect("a type");
            let is_former =
                kind.starts_with("media.") && event["media_node"] == self.media.as_str();
            !is_former && !untold.contains(&kind)
        };
        let mut came = watching.came();
        came.retain(is_wanted);
        came
    }

    /// Both are told this next.
    fn told(&mut self, expect: Value) {
        self.expect.push(expect);
        for watching in &self.watching {
            eventually(&format!("{}", self.expect[self.expect.len() - 1]), SOON, || {
                (self.came(watching).len() >= self.expect.len()).then_some(())
            });
        }
    }

    fn check(&self) {
        let [came, other] = [0, 1].map(|at| self.came(&self.watching[at]));
        assert_eq!(came, other, "it is one stream");
        check_order(&came);
        let fields = |event: &Value, expect: &Value| {
            let names = expect.as_object().expect("an object").keys();
            Value::Object(names.map(|name| (name.clone(), event[name].clone())).collect())
        };
        let told = came.iter().zip(&self.expect).map(|(event, expect)| fields(event, expect));
        assert_eq!(told.collect::<Vec<_>>(), self.expect, "{came:#?}");
        assert_eq!(came.len(), self.expect.len(), "{came:#?}");
    }
}

#[test]
fn what_is_no_calls_is_told_in_order_at_both_nodes() {
    let switch = Switch::start();
    let server = switch.survivor();
    let mut both = Both::at(&switch);
    let [caller, callee] = ["1001", "1002"].map(|user| {
        let phone = phone(server, user, "udp");
        both.told(json!({"type": "registration.added", "extension": user, "contacts": 1}));
        phone
    });
    // Over TCP nothing is said twice.
    let mut stranger = Phone::tcp(server.sip, "1001", "a wrong password");
    assert_eq!(stranger.register(&[]).status, Status(401));
    let source = stranger.local.to_string();
    both.told(json!({"type": "authentication.failed", "username": "1001", "source": source}));
    let mut pair = Pair::between(caller, callee, &server.uri("1002"));
    let of_call = |kind: &str| json!({"type": kind, "caller": "1001", "callee": "1002"});
    for kind in ["call.created", "call.ringing", "call.answered"] {
        both.told(of_call(kind));
    }
    let Pair { caller, callee } = &mut pair;
    reinvite(caller, callee, "sendonly", "recvonly", false);
    both.told(json!({"type": "call.held", "leg": 0, "role": "caller"}));
    reinvite(caller, callee, "sendrecv", "sendrecv", false);
    both.told(json!({"type": "call.resumed", "leg": 0, "role": "caller"}));
    reinvite(callee, caller, "sendonly", "recvonly", false);
    both.told(json!({"type": "call.held", "role": "callee"}));
    caller.hangs_up_on(callee);
    both.told(of_call("call.ended"));
    callee.phone.unregister();
    both.told(json!({"type": "registration.removed", "extension": "1002"}));
    for node in switch.signaling.iter().rev().map(|server| server.node()) {
        for (order, told) in [("drain", "node.draining"), ("undrain", "node.undrained")] {
            let (status, answer) = server.api("POST", &format!("/nodes/{node}/{order}"), None);
            assert_eq!(status, 202, "{answer}");
            both.told(json!({"type": told, "node": node}));
        }
    }
    // Each node tells of its own link.
    let mut second = switch.host.media();
    for kind in ["media.joined"; 2] {
        both.told(json!({ "type": kind }));
    }
    second.kill();
    for kind in ["media.left"; 2] {
        both.told(json!({ "type": kind }));
    }
    both.check();
    let came = both.came(&both.watching[0]);
    for kind in ["media.joined", "media.left"] {
        let its = || came.iter().filter(|event| event["type"] == kind);
        let tellers: BTreeSet<&str> = its().filter_map(|event| event["node"].as_str()).collect();
        let whom: BTreeSet<&str> = its().filter_map(|event| event["media_node"].as_str()).collect();
        assert_eq!((tellers.len(), whom.len()), (2, 1), "{came:#?}");
    }
}
