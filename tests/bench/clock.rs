//! Time as the kernel stamps packets: nanoseconds of CLOCK_REALTIME. A step of the clock spoils a run, so nobody makes one.

use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime};
use std::thread;
use std::time::Duration;

/// Nanoseconds.
pub(crate) type Nanos = u64;

pub(crate) fn now() -> Nanos {
    nanos(clock_gettime(ClockId::CLOCK_REALTIME).expect("every Linux has it"))
}

pub(crate) fn nanos(time: TimeSpec) -> Nanos {
    let whole = u64::try_from(time.tv_sec()).unwrap_or(0) * 1_000_000_000;
    whole + u64::try_from(time.tv_nsec()).unwrap_or(0)
}

pub(crate) fn in_nanos(time: Duration) -> Nanos {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Sleeps. To be woken by every packet would cost the server, which does the waking, as much as the generator.
pub(crate) fn sleep_until(time: Nanos) {
    thread::sleep(Duration::from_nanos(time.saturating_sub(now())));
}

/// Asks until there is an answer; panics with `what` when there is none in time.
pub(crate) fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = now() + 60_000_000_000;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(now() < deadline, "not within 60 s: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}
