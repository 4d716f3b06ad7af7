//! Readers of `/events` that take nothing: they cost others no time and the node no memory, and are cut off.
#![allow(clippy::disallowed_methods, reason = "tests live in real time")]

use super::common::{SOON, eventually};
use super::{Api, TOKEN, start};
use serde_json::json;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

const STUCK: usize = 8;
/// Events a commit, of about half a kilobyte.
const EVENTS: usize = 500;
/// Until what the node remembers of the log is full.
const WARM: usize = 30;
const COMMITS: usize = 120;
/// What the log of the node remembers is full by then; the readers that are stuck would hold some hundred megabytes.
const GROWTH: usize = 32 * 1024 * 1024;

fn open(api: &Api) -> TcpStream {
    let mut stream = TcpStream::connect(&api.address).expect("a connection");
    let request = format!(
        "GET /api/v1/events?snapshot=false HTTP/1.1\r\nHost: x\r\n\
         Authorization: Bearer {TOKEN}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).expect("sent");
    stream
}

fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages: usize = text.split(' ').nth(1).expect("a number").parse().expect("a number");
    pages * 4_096
}

/// Nobody in between is to take the connection for dead.
#[test]
fn who_is_told_nothing_for_long_hears_a_comment() {
    let api = start("quiet-reader");
    let stream = open(&api);
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("set");
    let mut lines = BufReader::new(stream).lines().map(|line| line.expect("a line in time"));
    assert!(lines.any(|line| line == ":"), "it ended");
}

fn happen(api: &Api, commits: usize) {
    let event = json!({"type": "call.created", "node": "x".repeat(400)}).to_string();
    for _ in 0..commits {
        api.commit(vec![event.clone(); EVENTS]);
    }
}

#[test]
fn readers_that_take_nothing_hold_up_nobody() {
    let api = start("slow-reader");
    let mut stuck: Vec<TcpStream> = (0..STUCK).map(|_| open(&api)).collect();
    for stream in &mut stuck {
        // The head of the answer: from here on it reads nothing.
        let mut head = [0; 15];
        stream.read_exact(&mut head).expect("an answer");
        assert!(head.ends_with(b"200 OK"), "{head:?}");
    }
    let taken = Arc::new(AtomicUsize::new(0));
    let (counts, well) = (Arc::clone(&taken), open(&api));
    thread::spawn(move || {
        for line in BufReader::new(well).lines().map_while(Result::ok) {
            counts.fetch_add(usize::from(line.starts_with("id: ")), Ordering::Relaxed);
        }
    });
    let all = |commits: usize| {
        eventually("who reads has all of it", SOON * 3, || {
            (taken.load(Ordering::Relaxed) >= commits * EVENTS).then_some(())
        });
    };
    happen(&api, WARM);
    all(WARM);
    let before = resident();
    happen(&api, COMMITS);
    all(WARM + COMMITS);
    let grown = resident().saturating_sub(before);
    assert!(grown < GROWTH, "{} MiB more", grown / 1024 / 1024);
    // They are cut off: what the kernel still has for them comes, and then no more.
    for stream in &mut stuck {
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("set");
    }
    thread::sleep(Duration::from_secs(25));
    for mut stream in stuck {
        let mut rest = Vec::new();
        let ended = stream.read_to_end(&mut rest);
        let most = 64 * 1024 * 1024;
        assert!(rest.len() < most, "{} bytes were kept for it", rest.len());
        let timed_out = |error: &std::io::Error| error.kind() == std::io::ErrorKind::WouldBlock;
        assert!(!ended.as_ref().is_err_and(timed_out), "it was not cut off");
    }
}
