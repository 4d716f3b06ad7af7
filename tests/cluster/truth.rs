//! The stream of events, and the CDRs, against what phones know: short calls by the hundred, while a node is killed and
//! readers of the stream lose their connections.

use crate::common::events::{Watching, check_order, story_of};
use crate::common::network::in_a_network;
use crate::common::phone::{Phone, callee_dialog, sdp};
use crate::common::server::Server;
use crate::common::{SOON, eventually, own_ip, set_own_ip};
use crate::pair::{phone, ring};
use crate::switch::Switch;
use holdfast::sip::{Method, Status};
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

/// A call as its phones know it.
struct Truth {
    /// Call-ID of the caller's INVITE.
    call_id: String,
    ended_by: &'static str,
}

/// How far the lines are, and whether the node is dead over whose death all of them talk.
#[derive(Default)]
struct Progress {
    done: AtomicUsize,
    talk_over_the_kill: AtomicUsize,
    is_killed: AtomicBool,
}

impl Progress {
    fn talk_over_the_kill(&self) {
        self.talk_over_the_kill.fetch_add(1, Ordering::Relaxed);
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

    /// One call after the other; who hangs up, and how long they talk, differs.
    fn calls(&mut self, progress: &Progress) -> Vec<Truth> {
        let mut talked_over_the_kill = false;
        let call = |at: usize| {
            let hold = Duration::from_millis((self.number * 7 + at * 13) as u64 % 60);
            let talk = || match at >= CALL_OVER_THE_KILL && !talked_over_the_kill {
                true => {
                    talked_over_the_kill = true;
                    progress.talk_over_the_kill();
                }
                false => thread::sleep(hold),
            };
            let truth = self.call(talk, (self.number + at).is_multiple_of(2));
            progress.done.fetch_add(1, Ordering::Relaxed);
            truth
        };
        (0..CALLS).filter_map(call).collect()
    }

    /// None: the switch had no room, for this machine has other work too.
    fn call(&mut self, talk: impl FnOnce(), caller_hangs_up: bool) -> Option<Truth> {
        let Self { caller, callee, uri, .. } = self;
        let (invite, received) = ring(caller, callee, uri, &sdp(4_000, 1, "sendrecv"))?;
        callee.respond(&received, 200, "callee", Some(&sdp(5_000, 1, "sendrecv")));
        let accepted = caller.response_to(&Method::Invite);
        assert_eq!(accepted.status, Status(200));
        let mut dialog = Phone::caller_dialog(&invite, &accepted);
        caller.acknowledge(&dialog, &invite, None);
        callee.request_of(&Method::Ack);
        talk();
        let far = match caller_hangs_up {
            true => {
                caller.hang_up(&mut dialog);
                callee
            }
            false => {
                callee.hang_up(&mut callee_dialog(&received, "callee"));
                caller
            }
        };
        let bye = far.request_of(&Method::Bye);
        far.respond(&bye, 200, "unused", None);
        let call_id = invite.call_id()?.to_owned();
        Some(Truth { call_id, ended_by: if caller_hangs_up { "caller" } else { "callee" } })
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
    let progress = Progress::default();
    let truths: Vec<Truth> = thread::scope(|scope| {
        let (progress, ip) = (&progress, own_ip());
        let calls = move |line: &mut Line| {
            set_own_ip(ip);
            line.calls(progress)
        };
        let calling: Vec<_> =
            lines.iter_mut().map(|line| scope.spawn(move || calls(line))).collect();
        let victim = owner_of_most(&switch.signaling[1], progress);
        // The first of them moves to the other node now; the second one loses its connection again and again.
        watching.rotate_left(switch.at(&victim));
        let mut dead = switch.signaling.remove(switch.at(&victim));
        watching[0].also_at(switch.survivor());
        dead.signaling.kill();
        progress.is_killed.store(true, Ordering::Relaxed);
        let mut seen = progress.done.load(Ordering::Relaxed);
        eventually("calls come and go", SOON * 12, || {
            let now = progress.done.load(Ordering::Relaxed);
            if now >= seen + LINES {
                seen = now;
                watching[1].cut();
            }
            (now == LINES * CALLS).then_some(())
        });
        calling.into_iter().flat_map(|line| line.join().expect("its calls are good")).collect()
    });
    let cdrs = all_cdrs(switch.survivor(), truths.len());
    let came = watching.each_ref().map(|watching| watching.until("call.ended", cdrs.len()));
    let is_event = |event: &&Value| event["type"] != "snapshot";
    let [moved, lost] =
        came.each_ref().map(|came| came.iter().filter(is_event).collect::<Vec<_>>());
    assert_eq!(moved, lost, "it is one stream");
    check_order(&came[0]);
    let told: BTreeSet<&str> = moved.iter().filter_map(|event| event["call_id"].as_str()).collect();
    let recorded: BTreeSet<&str> = cdrs.iter().filter_map(|cdr| cdr["id"].as_str()).collect();
    assert_eq!(told, recorded, "no call but those");
    let mut takeovers = 0;
    for truth in &truths {
        let is_its = |cdr: &&Value| cdr["legs"][0]["call_id"] == truth.call_id.as_str();
        let its: Vec<&Value> = cdrs.iter().filter(is_its).collect();
        let [cdr] = its[..] else { panic!("{} has {its:#?}", truth.call_id) };
        let mut story = story_of(&came[0], &cdr["id"]);
        let before = story.len();
        story.retain(|kind| kind != "call.adopted");
        assert_eq!(story, ["call.created", "call.answered", "call.ended"], "{cdr:#}");
        assert_eq!(cdr["takeovers"], before - story.len(), "{cdr:#}");
        takeovers += before - story.len();
        let end = moved.iter().rfind(|event| event["call_id"] == cdr["id"]).expect("its end");
        let by_bye = json!(["answered", "bye", truth.ended_by]);
        // A node may die after it has told both phones of the end, and before the store knows: whoever carries such a
        // call on has to find out by itself that nobody is there.
        let by_silence = json!(["answered", "rtp_timeout", "system"]);
        let is_found_out = cdr["takeovers"] != 0 && cdr["end_cause"] == "rtp_timeout";
        for record in [cdr, end] {
            let what = json!([record["disposition"], record["end_cause"], record["ended_by"]]);
            assert_eq!(
                what,
                if is_found_out { &by_silence } else { &by_bye }.clone(),
                "{record:#}"
            );
        }
    }
    assert!(takeovers > 0, "no call was hit");
    assert!(truths.len() > LINES * CALLS / 2, "{} calls", truths.len());
}

/// When every line talks: the node that has most of their calls.
fn owner_of_most(server: &Server, progress: &Progress) -> String {
    let calls = eventually("all talk", SOON * 12, || {
        let lines = progress.talk_over_the_kill.load(Ordering::Relaxed);
        let calls = if lines < LINES { vec![] } else { server.list("/calls?state=confirmed") };
        (calls.len() == LINES).then_some(calls)
    });
    let owner_of = |call: &Value| call["owner"].as_str().expect("an owner").to_owned();
    let owners: Vec<String> = calls.iter().map(owner_of).collect();
    let count = |name: &&String| owners.iter().filter(|owner| owner == name).count();
    owners.iter().max_by_key(count).expect("calls").clone()
}

/// All, when no call is left; exactly so many of calls that were answered.
fn all_cdrs(server: &Server, answered: usize) -> Vec<Value> {
    // One that nobody is in any more ends when its BYEs were in vain for 32 s.
    eventually("no call is left", SOON * 8, || server.list("/calls").is_empty().then_some(()));
    eventually("all are recorded", SOON, || {
        let cdrs = server.list("/cdrs?limit=1000");
        let is_answered = |cdr: &&Value| cdr["disposition"] == "answered";
        let count = cdrs.iter().filter(is_answered).count();
        assert!(count <= answered, "more CDRs than calls");
        (count == answered).then_some(cdrs)
    })
}
