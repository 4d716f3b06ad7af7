//! The clock of a host is set by an hour amid a call: the call goes on, its owner may die then, and its record has the
//! times that phones saw. libfaketime sets the clock of processes; the time that passes is left alone.

use crate::common::process::Process;
use crate::common::{SOON, eventually, ports};
use crate::pair::Pair;
use crate::switch::{Switch, check_record};
use jiff::Timestamp;
use std::fs;
use std::path::Path;

const LIBRARY: &str = if cfg!(target_arch = "aarch64") {
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1"
} else {
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"
};
/// What a process is started with; it reads the file in its folder whenever it looks at the clock.
const SETTINGS: [(&str, &str); 4] = [
    ("LD_PRELOAD", LIBRARY),
    ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ("FAKETIME_NO_CACHE", "1"),
    ("FAKETIME_TIMESTAMP_FILE", "clock"),
];

/// How far the clock by which a process writes its log is from ours, in seconds.
fn is_off_by(process: &Process) -> i64 {
    let log = process.log();
    let mut stamps =
        log.lines().filter_map(|line| line.split(' ').next()?.parse::<Timestamp>().ok());
    let last = stamps.next_back().expect("a log with times");
    last.as_second() - Timestamp::now().as_second()
}

#[test]
fn a_clock_that_is_set_amid_a_call_changes_nothing() {
    assert!(Path::new(LIBRARY).exists(), "faketime is not installed: apt-get install -y faketime");
    for seconds in [3_600, -3_600] {
        println!("{seconds} seconds");
        let mut switch = Switch::with_settings(ports::media_ports(), &SETTINGS);
        let before = Timestamp::now();
        let mut pair = Pair::talking(switch.survivor(), ["udp", "udp"]);
        pair.hear_each_other();
        fs::write(switch.host.data("../clock"), format!("{seconds:+}")).expect("a file");
        pair.hold_and_resume();
        let mut owner = switch.take_owner();
        eventually("the clock is set", SOON, || {
            let off = is_off_by(&owner.signaling);
            ((off - seconds).abs() < 60).then_some(())
        });
        owner.signaling.kill();
        pair.hear_each_other();
        pair.hold_and_resume();
        pair.callee.hangs_up_on(&mut pair.caller);
        let cdrs = switch.survivor().cdrs(1);
        check_record(&cdrs, 1);
        let all = before.as_millisecond() - 1..=Timestamp::now().as_millisecond() + 1;
        for field in ["created_at", "ringing_at", "answered_at", "ended_at"] {
            let told = cdrs[0][field].as_str().expect("a time").parse::<Timestamp>();
            assert!(all.contains(&told.expect("RFC 3339").as_millisecond()), "{field}: {cdrs:#?}");
        }
    }
}
