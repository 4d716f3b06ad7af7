//! The stream of events, and the CDRs, against what phones know: short calls by the hundred, while a node is killed and
//! readers of the stream lose their connections.

use crate::common::events::{Watching, check_ends, check_order, ids, live_of, story_of};
use crate::common::network::in_a_network;
use crate::common::phone::{Phone, callee_dialog, sdp};
use crate::common::server::Server;
use crate::common::{SOON, eventually, own_ip, set_own_ip};
use crate::pair::{Pair, phone, ring, stops_ringing};
use crate::switch::Switch;
use holdfast::sip::{Method, Request, Status};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

/// Pairs of phones that call at a time, and calls of each.
const LINES: usize = 6;
const CALLS: usize = 50;
/// The first call of each line from here on lasts until the node is dead.
const CALL_OVER_THE_KILL: usize = CALLS / 3;
/// Who begin to watch amid all that.
const LATE: usize = 5;

/// What becomes of a call, and in what state it lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It talks; it did not ring.
    Answered,
    /// The others ring.
    AnsweredLate,
    Busy,
    Cancelled,
}

impl Fate {
    /// Of a line's call; those over the kill talk or ring.
    fn of(line: usize, call: usize, over_the_kill: bool) -> Self {
        match (over_the_kill, line, (line * 5 + call) % 6) {
            (true, 1, _) | (false, _, 0) => Self::AnsweredLate,
            (true, 4, _) | (false, _, 1) => Self::Cancelled,
            (false, _, 2) => Self::Busy,
            _ => Self::Answered,
        }
    }

    fn is_answered(self) -> bool {
        matches!(self, Self::Answered | Self::AnsweredLate)
    }
}

/// A call as its phones know it.
struct Truth {
    /// Call-ID of the caller's INVITE.
    call_id: String,
    fate: Fate,
    caller_hangs_up: bool,
}

impl Truth {
    fn story(&self) -> Vec<&'static str> {
        let rings = (self.fate != Fate::Answered).then_some("call.ringing");
        let answered = self.fate.is_answered().then_some("call.answered");
        let begin = ["call.created"].into_iter().chain(rings).chain(answered);
        begin.chain(["call.ended"]).collect()
    }

    fn is_told_by(&self, cdr: &Value) -> bool {
        cdr["legs"][0]["call_id"] == self.call_id.as_str()
    }

    /// What its end is told to be, by event and CDR alike.
    fn end(&self, cdr: &Value) -> Value {
        // A node may die after it has told both phones of the end, and before the store knows: whoever carries such a
        // call on has to find out by itself that nobody is there.
        let is_found_out = cdr["takeovers"] != 0 && cdr["end_cause"] == "rtp_timeout";
        match self.fate {
            Fate::Busy => json!(["busy", "rejected", "callee"]),
            Fate::Cancelled => json!(["cancelled", "cancel", "caller"]),
            _ if is_found_out => json!(["answered", "rtp_timeout", "system"]),
            _ if self.caller_hangs_up => json!(["answered", "bye", "caller"]),
            _ => json!(["answered", "bye", "callee"]),
        }
    }
}

/// How far the lines are, and whether the node is dead over whose death all of them have a call.
#[derive(Default)]
struct Progress {
    done: AtomicUsize,
    over_the_kill: AtomicUsize,
    is_killed: AtomicBool,
}

impl Progress {
    fn lasts_over_the_kill(&self) {
        self.over_the_kill.fetch_add(1, Ordering::Relaxed);
        eventually("a node is killed", SOON * 12, || {
            self.is_killed.load(Ordering::Relaxed).then_some(())
        });
    }
}

/// Two phones, one of which calls the other.
struct Line {
    number: usize,
    caller: Phone,
    callee: Phone,
    uri: String,
}

impl Line {
    /// All of them.
    fn all(server: &Server) -> Vec<Self> {
        let users = |number: usize| [number * 2, number * 2 + 1].map(|at| (2_000 + at).to_string());
        (0..LINES).flat_map(users).for_each(|user| _ = server.user(&user));
        let line = |number| {
            let [caller, callee] = users(number);
            let uri = server.uri(&callee);
            let [caller, callee] = [caller, callee].map(|user| phone(server, &user, "udp"));
            Self { number, caller, callee, uri }
        };
        (0..LINES).map(line).collect()
    }

    /// One call after the other; what becomes of them, who hangs up, and how long they last, differs.
    fn calls(&mut self, progress: &Progress) -> Vec<Truth> {
        let mut lasted_over_the_kill = false;
        let call = |at: usize| {
            let hold = Duration::from_millis((self.number * 7 + at * 13) as u64 % 60);
            let over_the_kill = at >= CALL_OVER_THE_KILL && !lasted_over_the_kill;
            let last = || match over_the_kill {
                true => {
                    lasted_over_the_kill = true;
                    progress.lasts_over_the_kill();
                }
                false => thread::sleep(hold),
            };
            let fate = Fate::of(self.number, at, over_the_kill);
            let truth = self.call(fate, last, (self.number + at).is_multiple_of(2));
            progress.done.fetch_add(1, Ordering::Relaxed);
            truth
        };
        (0..CALLS).filter_map(call).collect()
    }

    /// None: the switch had no room, for this machine has other work too.
    fn call(&mut self, fate: Fate, last: impl FnOnce(), caller_hangs_up: bool) -> Option<Truth> {
        let Self { caller, callee, uri, .. } = self;
        let (invite, received) = ring(caller, callee, uri, &sdp(4_000, 1, "sendrecv"))?;
        let truth = Truth { call_id: invite.call_id()?.to_owned(), fate, caller_hangs_up };
        if fate != Fate::Answered {
            callee.respond(&received, 180, "callee", None);
            caller.response_with(180);
        }
        match fate {
            Fate::Answered => self.talk(&invite, &received, last, caller_hangs_up),
            Fate::AnsweredLate => {
                last();
                self.talk(&invite, &received, || {}, caller_hangs_up);
            }
            Fate::Busy => {
                last();
                callee.respond(&received, 486, "callee", None);
                callee.request_of(&Method::Ack);
                let refused = caller.response_with(486);
                caller.acknowledge_refusal(&invite, &refused);
            }
            Fate::Cancelled => {
                last();
                caller.cancel(&invite);
                assert_eq!(caller.response_to(&Method::Cancel).status, Status(200));
                stops_ringing(callee, &received, "callee");
                let refused = caller.response_with(487);
                caller.acknowledge_refusal(&invite, &refused);
            }
        }
        Some(truth)
    }

    fn talk(
        &mut self,
        invite: &Request,
        received: &Request,
        last: impl FnOnce(),
        caller_hangs_up: bool,
    ) {
        let Self { caller, callee, .. } = self;
        callee.respond(received, 200, "callee", Some(&sdp(5_000, 1, "sendrecv")));
        let accepted = caller.response_to(&Method::Invite);
        assert_eq!(accepted.status, Status(200));
        let mut dialog = Phone::caller_dialog(invite, &accepted);
        caller.acknowledge(&dialog, invite, None);
        callee.request_of(&Method::Ack);
        last();
        let far = match caller_hangs_up {
            true => {
                caller.hang_up(&mut dialog);
                callee
            }
            false => {
                callee.hang_up(&mut callee_dialog(received, "callee"));
                caller
            }
        };
        let bye = far.request_of(&Method::Bye);
        far.respond(&bye, 200, "unused", None);
    }
}

#[test]
fn every_call_that_phones_had_is_told_once_though_a_node_is_killed() {
    let settings = [("HOLDFAST_RTP_TIMEOUT_MS", "10000")];
    in_a_network(|_| told_once(Switch::with_settings(20_000..=29_999, &settings)));
}

fn told_once(mut switch: Switch) {
    let mut lines = Line::all(switch.survivor());
    let mut watching = [0, 1].map(|at| Watching::start(&switch.signaling[at], "types=call.*"));
    // Nothing is told of it when it is not taken over: who comes late has it from the snapshot alone.
    let lasting = Pair::talking(switch.survivor(), ["udp", "udp"]);
    let mut late: Vec<Watching> = Vec::new();
    let progress = Progress::default();
    let mut truths: Vec<Truth> = thread::scope(|scope| {
        let (progress, ip) = (&progress, own_ip());
        let calls = move |line: &mut Line| {
            set_own_ip(ip);
            line.calls(progress)
        };
        let calling: Vec<_> =
            lines.iter_mut().map(|line| scope.spawn(move || calls(line))).collect();
        let victim = owner_of_most(&switch.signaling[1], progress, &watching[0]);
        // The first of them moves to the other node now; the second one loses its connection again and again.
        watching.rotate_left(switch.at(&victim));
        let mut dead = switch.signaling.remove(switch.at(&victim));
        watching[0].also_at(switch.survivor());
        dead.signaling.kill();
        progress.is_killed.store(true, Ordering::Relaxed);
        let mut seen = progress.done.load(Ordering::Relaxed);
        eventually("calls come and go", SOON * 12, || {
            if late.len() < LATE {
                late.push(Watching::start(switch.survivor(), "types=call.*"));
            }
            let now = progress.done.load(Ordering::Relaxed);
            if now >= seen + LINES {
                seen = now;
                watching[1].cut();
            }
            (now == LINES * CALLS).then_some(())
        });
        calling.into_iter().flat_map(|line| line.join().expect("its calls are good")).collect()
    });
    late.iter().for_each(|late| check_live(late, switch.survivor()));
    truths.push(end_of(lasting));
    let cdrs = all_cdrs(switch.survivor(), &truths);
    for late in &late {
        late.wait("all ends", |came| live_of(came).is_empty().then_some(()));
        check_ends(&late.came());
    }
    let came = watching.each_ref().map(|watching| watching.until("call.ended", cdrs.len()));
    let is_event = |event: &&Value| event["type"] != "snapshot";
    let [moved, lost] =
        came.each_ref().map(|came| came.iter().filter(is_event).collect::<Vec<_>>());
    assert_eq!(moved, lost, "it is one stream");
    check_order(&came[0]);
    let told: BTreeSet<&str> = moved.iter().filter_map(|event| event["call_id"].as_str()).collect();
    let recorded: BTreeSet<&str> = cdrs.iter().filter_map(|cdr| cdr["id"].as_str()).collect();
    assert_eq!(told, recorded, "no call but those");
    check_truths(&truths, &cdrs, &came[0]);
}

/// Each has its CDR, and both tell of it what its phones know.
fn check_truths(truths: &[Truth], cdrs: &[Value], came: &[Value]) {
    let mut rang_and_hit = 0;
    for truth in truths {
        let its: Vec<&Value> = cdrs.iter().filter(|cdr| truth.is_told_by(cdr)).collect();
        let [cdr] = its[..] else { panic!("{} has {its:#?}", truth.call_id) };
        let mut story = story_of(came, &cdr["id"]);
        let before = story.len();
        story.retain(|kind| kind != "call.adopted");
        assert_eq!(story, truth.story(), "{cdr:#}");
        assert_eq!(cdr["takeovers"], before - story.len(), "{cdr:#}");
        rang_and_hit += usize::from(before > story.len() && truth.fate != Fate::Answered);
        let end = came.iter().rfind(|event| event["call_id"] == cdr["id"]).expect("its end");
        for record in [cdr, end] {
            let what = json!([record["disposition"], record["end_cause"], record["ended_by"]]);
            assert_eq!(what, truth.end(cdr), "{record:#}");
        }
    }
    assert!(rang_and_hit > 0, "no call that rang was hit");
    assert!(truths.len() > LINES * CALLS / 2, "{} calls", truths.len());
}

/// Who began to watch amid all that knows the calls that live.
fn check_live(watching: &Watching, server: &Server) {
    eventually("it knows the live calls", SOON, || {
        let live = ids(&server.list("/calls"));
        (!live.is_empty() && live_of(&watching.came()) == live).then_some(())
    });
}

fn end_of(mut pair: Pair) -> Truth {
    pair.caller.hangs_up_on(&mut pair.callee);
    let call_id = pair.caller.dialog.call_id.clone();
    Truth { call_id, fate: Fate::AnsweredLate, caller_hangs_up: true }
}

/// When every line has a call over the kill, beside the one that lasts: the node that has most of them, and one that rings.
fn owner_of_most(server: &Server, progress: &Progress, watching: &Watching) -> String {
    let calls = eventually("all have one", SOON * 12, || {
        let lines = progress.over_the_kill.load(Ordering::Relaxed);
        let calls = if lines < LINES { vec![] } else { server.list("/calls") };
        (calls.len() == LINES + 1).then_some(calls)
    });
    let rings = |call: &&Value| call["state"] == "early";
    assert!(calls.iter().any(|call| rings(&call)), "none rings: {calls:#?}");
    // That it rings is in the store within half a second.
    for call in calls.iter().filter(rings) {
        let is_told = |kind: &String| kind == "call.ringing";
        watching.wait("it is told to ring", |came| {
            story_of(came, &call["id"]).iter().any(is_told).then_some(())
        });
    }
    let owner_of = |call: &Value| call["owner"].as_str().expect("an owner").to_owned();
    let of = |name: &String| {
        let its = calls.iter().filter(|call| owner_of(call) == *name);
        (its.clone().any(|call| rings(&call)), its.count())
    };
    calls.iter().map(owner_of).max_by_key(of).expect("calls")
}

/// All, when no call is left; those of calls that the switch had no room for too.
fn all_cdrs(server: &Server, truths: &[Truth]) -> Vec<Value> {
    // One that nobody is in any more ends when its BYEs were in vain for 32 s.
    eventually("no call is left", SOON * 8, || server.list("/calls").is_empty().then_some(()));
    eventually("all are recorded", SOON, || {
        let cdrs = server.list("/cdrs?limit=1000");
        let is_there = |truth: &Truth| cdrs.iter().any(|cdr| truth.is_told_by(cdr));
        truths.iter().all(is_there).then_some(cdrs)
    })
}
