//! The clock: wall time at start plus monotonic time since, so a step of the system's clock moves nothing here.

use crate::time::Timestamp;
use nix::time::{ClockId, clock_gettime};
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

static START: OnceLock<Start> = OnceLock::new();

/// The same moment by two clocks, in microseconds.
struct Start {
    since_epoch: u64,
    monotonic: u64,
}

/// Now. Never goes back within a process.
pub fn now() -> Timestamp {
    let Start { since_epoch, monotonic } = start();
    Timestamp::from_micros(since_epoch.saturating_add(monotonic_us().saturating_sub(*monotonic)))
}

#[allow(clippy::disallowed_methods, reason = "the one place that asks the system")]
fn start() -> &'static Start {
    START.get_or_init(|| {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let since_epoch = u64::try_from(since_epoch.as_micros()).unwrap_or(u64::MAX);
        Start { since_epoch, monotonic: monotonic_us() }
    })
}

/// The clock of `std::time::Instant`, which does not tell its number; the host's processes and kernel share it.
fn monotonic_us() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |time| {
        let us = time.tv_sec().saturating_mul(1_000_000).saturating_add(time.tv_nsec() / 1_000);
        u64::try_from(us).unwrap_or_default()
    })
}

/// A point in time of the host's monotonic clock, by ours.
pub fn from_monotonic_ns(ns: u64) -> Timestamp {
    let micros = i64::try_from(ns / 1_000).unwrap_or(i64::MAX);
    let micros = micros.saturating_add(ahead_of_monotonic());
    Timestamp::from_micros(u64::try_from(micros).unwrap_or_default())
}

/// The same the other way.
pub fn monotonic_ns(at: Timestamp) -> u64 {
    let micros = i64::try_from(at.as_micros()).unwrap_or(i64::MAX);
    let micros = micros.saturating_sub(ahead_of_monotonic());
    u64::try_from(micros).unwrap_or_default().saturating_mul(1_000)
}

/// How far this process's clock is ahead of the host's monotonic one, in microseconds: what makes points in time of
/// one process those of another.
pub fn ahead_of_monotonic() -> i64 {
    let Start { since_epoch, monotonic } = start();
    let us = |clock: &u64| i64::try_from(*clock).unwrap_or(i64::MAX);
    us(since_epoch).saturating_sub(us(monotonic))
}
