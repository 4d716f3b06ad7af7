//! What tests against the running binary share: the server as a process, phones of several makes, tones to judge
//! audio by.
//!
//! Invariants: nothing sleeps where it can wait for an event, every wait has an end, and a missing tool is a failure
//! that names the package, never a skip.

#![allow(dead_code, reason = "each test binary uses its part of it")]
#![allow(clippy::disallowed_methods, reason = "tests live in real time")]

/// The REST API of a switch.
pub(crate) mod api;
/// Who vouches for servers.
pub(crate) mod authority;
/// A real phone, driven through its control socket.
pub(crate) mod baresip;
/// A real browser.
pub(crate) mod chromium;
/// What our own phone is told in its dialogs, judged.
pub(crate) mod dialogs;
/// A reader of the stream of events.
pub(crate) mod events;
/// A collector of HEP.
pub(crate) mod hep;
/// What processes export for Prometheus.
pub(crate) mod metrics;
/// Hosts of our own.
pub(crate) mod network;
/// Our own phone, for what no real one can be made to do.
pub(crate) mod phone;
/// Ports that nobody uses.
pub(crate) mod ports;
/// A database server of our own.
pub(crate) mod postgres;
/// Processes that end with their test, and folders too.
pub(crate) mod process;
/// A way that can be cut.
pub(crate) mod proxy;
/// Somebody who is told of events by HTTP.
pub(crate) mod receiver;
/// Retransmissions of our own phone.
pub(crate) mod repeats;
/// RTCP of our own phone.
pub(crate) mod rtcp;
/// RTP of our own phone.
pub(crate) mod rtp;
/// The binary under test.
pub(crate) mod server;
/// SIPp with our scenarios.
pub(crate) mod sipp;
/// Codecs of our own phone.
pub(crate) mod speech;
/// SRTP of our own phone.
pub(crate) mod srtp;
/// Tones made and found again.
pub(crate) mod tone;

use std::cell::Cell;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

/// Who runs the tests set that variable (`WITHOUT_…`), because this machine lacks something. Says so past the harness,
/// which shows no output of tests that pass.
pub(crate) fn is_left_out(test: &str, variable: &str) -> bool {
    let left_out = std::env::var_os(variable).is_some_and(|wish| !wish.is_empty());
    if left_out {
        let line = format!("\nNOT TESTED: {test}, because {variable} is set\n");
        let _ = std::io::stderr().write_all(line.as_bytes());
    }
    left_out
}

/// The name of the test that runs in this thread.
pub(crate) fn own_name() -> String {
    thread::current().name().unwrap_or("a test").to_owned()
}

/// Patience with what should take well below a second.
pub(crate) const SOON: Duration = Duration::from_secs(10);

thread_local! {
    static OWN_IP: Cell<Ipv4Addr> = const { Cell::new(Ipv4Addr::LOCALHOST) };
}

/// Where phones and database of this test are: loopback, unless it has a network of its own.
pub(crate) fn own_ip() -> Ipv4Addr {
    OWN_IP.get()
}

/// This thread is at another place.
pub(crate) fn set_own_ip(ip: Ipv4Addr) {
    OWN_IP.set(ip);
}

/// Asks until there is an answer; panics with `what` when there is none in time.
pub(crate) fn eventually<T>(
    what: &str,
    within: Duration,
    mut probe: impl FnMut() -> Option<T>,
) -> T {
    let deadline = Instant::now() + within;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {within:?}: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}
