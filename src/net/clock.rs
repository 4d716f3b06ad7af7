//! The clock: wall time at start plus monotonic time since, so a step of the system's clock moves nothing here.

use crate::time::Timestamp;
use nix::time::{ClockId, clock_gettime};
use std::sync::OnceLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

static START: OnceLock<Start> = OnceLock::new();

/// The same moment by three clocks.
struct Start {
    instant: Instant,
    /// Since the epoch.
    micros: u64,
    /// Of the host's monotonic clock.
    monotonic_us: i64,
}

/// Now. Never goes back within a process.
#[allow(clippy::disallowed_methods, reason = "the one place that asks the system")]
pub fn now() -> Timestamp {
    let Start { instant, micros, .. } = start();
    let elapsed = u64::try_from(instant.elapsed().as_micros()).unwrap_or(u64::MAX);
    Timestamp::from_micros(micros.saturating_add(elapsed))
}

#[allow(clippy::disallowed_methods, reason = "the one place that asks the system")]
fn start() -> &'static Start {
    START.get_or_init(|| {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let monotonic_us = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |time| {
            time.tv_sec().saturating_mul(1_000_000).saturating_add(time.tv_nsec() / 1_000)
        });
        let micros = u64::try_from(since_epoch.as_micros()).unwrap_or(u64::MAX);
        Start { instant: Instant::now(), micros, monotonic_us }
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
    let Start { micros, monotonic_us, .. } = start();
    i64::try_from(*micros).unwrap_or(i64::MAX).saturating_sub(*monotonic_us)
}
