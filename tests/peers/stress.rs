//! A media process that gets little CPU: new calls are refused early, live sound goes on, emergencies pass.
//!
//! Real quotas in a control group of its own (v1 or v2), which takes root: `WITHOUT_NAMESPACES=1` leaves these out too.

#![allow(clippy::disallowed_methods, reason = "tests live in real time")]

use crate::common::api::Api;
use crate::common::phone::{Phone, audio_address, sdp};
use crate::common::process::Process;
use crate::common::rtp::Talk;
use crate::common::server::Server;
use crate::common::{SOON, eventually, is_left_out};
use crate::pair::{CALLER_HZ, Pair, phone};
use holdfast::sip::{HeaderName, Method, Response};
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

/// A control group; who is in it is let out in the end.
struct Group {
    folder: PathBuf,
    is_second: bool,
    hog: Option<Child>,
}

impl Group {
    /// `None`: not wanted here.
    fn with(process: &Process, name: &str) -> Option<Self> {
        if is_left_out(name, "WITHOUT_NAMESPACES") {
            return None;
        }
        let first = PathBuf::from("/sys/fs/cgroup/cpu");
        let is_second = !first.exists();
        let base = if is_second { PathBuf::from("/sys/fs/cgroup") } else { first };
        if is_second {
            // Already so where systemd runs.
            let _ = fs::write(base.join("cgroup.subtree_control"), "+cpu");
        }
        let folder = base.join(format!("holdfast-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a control group (or set WITHOUT_NAMESPACES=1)");
        let group = Self { folder, is_second, hog: None };
        group.take(process.id());
        Some(group)
    }

    fn take(&self, process: u32) {
        fs::write(self.folder.join("cgroup.procs"), process.to_string()).expect("a live process");
    }

    /// Milliseconds of CPU in each 100; none: as many as it likes.
    fn grants(&self, ms: Option<u32>) {
        let quota = ms.map(|ms| (ms * 1_000).to_string());
        let (file, text) = match (self.is_second, quota) {
            (true, quota) => ("cpu.max", format!("{} 100000", quota.as_deref().unwrap_or("max"))),
            (false, quota) => ("cpu.cfs_quota_us", quota.unwrap_or("-1".to_owned())),
        };
        fs::write(self.folder.join(file), text).expect("a quota");
    }

    /// Somebody in the group uses all that it is granted.
    fn hog(&mut self) {
        const ENTERS: &str = "echo $$ > \"$0\" && exec timeout 60 sh -c 'while :; do :; done'";
        let members = self.folder.join("cgroup.procs");
        let hog = Command::new("sh").arg("-c").arg(ENTERS).arg(members).spawn();
        self.hog = Some(hog.expect("a shell"));
    }

    fn rest(&mut self) {
        if let Some(mut hog) = self.hog.take() {
            // Its child, the shell, is in the group too.
            let all = fs::read_to_string(self.folder.join("cgroup.procs")).unwrap_or_default();
            let shells = all.lines().filter(|id| {
                let name = fs::read_to_string(format!("/proc/{id}/comm")).unwrap_or_default();
                name.trim() == "sh"
            });
            for shell in shells {
                let _ = Command::new("kill").args(["-9", shell]).status();
            }
            let _ = hog.kill();
            let _ = hog.wait();
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.rest();
        self.grants(None);
        let all = fs::read_to_string(self.folder.join("cgroup.procs")).unwrap_or_default();
        for id in all.lines() {
            let _ = fs::write(self.folder.with_file_name("cgroup.procs"), id);
        }
        let _ = fs::remove_dir(&self.folder);
    }
}

/// A figure of the media process.
fn figure(server: &Server, name: &str) -> f64 {
    let api = Api { sip: server.sip, admin: server.media_admin, token: String::new() };
    let (_, text) = api.request("GET", "/metrics", None).expect("figures");
    let text = text.as_str().expect("text").to_owned();
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.and_then(|value| value.trim().parse().ok()).unwrap_or_else(|| panic!("{name} in {text}"))
}

/// The final answer to an INVITE; a refusal is acknowledged.
fn final_answer(phone: &mut Phone, uri: &str, port: u16) -> (Response, holdfast::sip::Request) {
    let invite = phone.invite(uri, Some(&sdp(port, 1, "sendrecv")));
    let answer = phone.response_to(&Method::Invite);
    if answer.status.0 >= 300 {
        phone.acknowledge_refusal(&invite, &answer);
    }
    (answer, invite)
}

fn is_refused_for_now(answer: &Response) -> bool {
    if answer.status.0 != 503 {
        return false;
    }
    let after = answer.headers.get(&HeaderName::RetryAfter);
    assert!(after.is_some(), "503 says when to come again: {answer:?}");
    true
}

#[test]
fn who_is_stopped_by_a_quota_takes_emergencies_only() {
    let server = Server::start_apart_with(&[("HOLDFAST_EMERGENCY_NUMBERS", "1112")]);
    let mut pair = Pair::talking(&server, ["udp", "udp"]);
    pair.hear_each_other();
    let media = server.media.as_ref().expect("apart");
    let Some(mut group) = Group::with(media, "stopped") else { return };
    let (mut caller, mut helper) = (phone(&server, "1004", "udp"), phone(&server, "1112", "udp"));
    assert_eq!(figure(&server, "holdfast_cpu_throttled_periods_total"), 0.0);
    // Little enough that whoever is in the group uses it up on a busy machine too.
    group.grants(Some(10));
    group.hog();
    eventually("a call is refused", SOON, || {
        let (answer, _) = final_answer(&mut caller, &server.uri("*43"), 40_000);
        is_refused_for_now(&answer).then_some(())
    });
    media.says("a CPU quota stopped this process");
    assert!(figure(&server, "holdfast_cpu_throttled_periods_total") > 0.0);
    assert_eq!(figure(&server, "holdfast_media_strained"), 1.0);
    // An emergency is taken, and live sound is late but there.
    let talk = Talk::new(CALLER_HZ);
    let invite = caller.invite(&server.uri("1112"), Some(&talk.sdp(1, "sendrecv")));
    let received = helper.request_of(&Method::Invite);
    helper.respond(&received, 486, "helper", None);
    let busy = caller.response_with(486);
    caller.acknowledge_refusal(&invite, &busy);
    pair.hear_each_other();
    group.rest();
    group.grants(None);
    eventually("calls are taken again", SOON, || {
        let (answer, invite) = final_answer(&mut caller, &server.uri("*43"), 40_000);
        if answer.status.0 != 200 {
            return None;
        }
        let mut dialog = Phone::caller_dialog(&invite, &answer);
        caller.acknowledge(&dialog, &invite, None);
        caller.hang_up(&mut dialog);
        Some(())
    });
    assert_eq!(figure(&server, "holdfast_media_strained"), 0.0);
    pair.caller.hangs_up_on(&mut pair.callee);
}

#[test]
fn calls_are_refused_before_those_that_are_there_suffer() {
    /// Of CPU in each 100 ms: enough for a few calls of a development build.
    const GRANTED_MS: u32 = 10;
    const CALLS: usize = 120;
    let server = Server::start_apart();
    let media = server.media.as_ref().expect("apart");
    let Some(group) = Group::with(media, "full") else { return };
    group.grants(Some(GRANTED_MS));
    let mut caller = phone(&server, "1001", "udp");
    let mut calls = Vec::new();
    for _ in 0..CALLS {
        let talk = Talk::new(CALLER_HZ);
        let (answer, invite) = final_answer(&mut caller, &server.uri("*43"), talk.port);
        if is_refused_for_now(&answer) {
            break;
        }
        assert_eq!(answer.status.0, 200, "{answer:?}");
        let dialog = Phone::caller_dialog(&invite, &answer);
        caller.acknowledge(&dialog, &invite, None);
        talk.to(audio_address(&answer.body));
        calls.push((talk, dialog));
        // People do not call all in one second.
        pass(Duration::from_millis(300));
    }
    assert!((2..CALLS).contains(&calls.len()), "{} calls were taken", calls.len());
    let since = Instant::now();
    pass(Duration::from_secs(3));
    let mut gaps: Vec<Duration> = calls
        .iter()
        .flat_map(|(talk, _)| {
            let came: Vec<Instant> =
                talk.came().iter().map(|one| one.at).filter(|at| *at > since).collect();
            came.windows(2).map(|pair| pair[1] - pair[0]).collect::<Vec<_>>()
        })
        .collect();
    gaps.sort_unstable();
    let (count, p95) = (gaps.len(), gaps[gaps.len() * 95 / 100]);
    println!("{} calls; of {count} gaps 95 % are below {p95:?}", calls.len());
    let late = figure(&server, "holdfast_media_tick_late_seconds_sum")
        / figure(&server, "holdfast_media_tick_late_seconds_count");
    // A packet each 20 ms, and what a phone's buffer holds at least.
    assert!(count >= calls.len() * 100, "of {} calls only {count} packets came", calls.len());
    assert!(p95 < Duration::from_millis(60), "{p95:?}");
    assert!(late < 0.010, "timers ran {late} s late on average");
    drop(group);
    for (_, mut dialog) in calls {
        caller.hang_up(&mut dialog);
    }
}

fn pass(time: Duration) {
    let end = Instant::now() + time;
    eventually("time passes", SOON, || (Instant::now() > end).then_some(()));
}
