//! What a media node tells Prometheus.

use super::vitals::{self, REFUSALS, Vitals};
use super::{MediaNode, Shared};
use crate::net::cgroup::CpuGroups;
use crate::telemetry::{Figure, Value};
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;

impl MediaNode {
    /// Who tells its figures, for as long as the process lives.
    pub fn figures(&self) -> impl Fn() -> Vec<Figure> + Send + Sync + use<> {
        let (shared, groups) = (self.shared.clone(), CpuGroups::here());
        move || of_node(&shared, &groups)
    }
}

fn of_node(shared: &Shared, groups: &CpuGroups) -> Vec<Figure> {
    let throttling = groups.throttling();
    let mut figures = of_workers(&shared.vitals);
    let mut tell = |name, help, value| figures.push(Figure { name, help, value });
    let level = |level: u32| Value::Gauge(level.into());
    tell("media_sessions", "Sessions", level(shared.sessions.load(Relaxed)));
    let transcoded = level(shared.transcoded.load(Relaxed));
    tell("media_sessions_transcoded", "Sessions that are decoded and encoded again", transcoded);
    tell("media_sessions_most", "Sessions that there may be", level(shared.most_sessions()));
    let used_up = level(shared.used_up_percent());
    let help = "CPU used up of what the process may have; 100: it takes no new sessions";
    tell("media_cpu_percent", help, used_up);
    let strained = shared.strain.get().is_some()
        || shared.vitals.iter().any(|worker| worker.strain.get().is_some());
    let help = "1: new sessions are refused, so that those that are there do not suffer";
    tell("media_strained", help, level(strained.into()));
    let periods = Value::Counter(throttling.periods as f64);
    tell("cpu_throttled_periods", "Periods in which a CPU quota stopped the process", periods);
    let stopped = Value::Counter(throttling.stopped.as_secs_f64());
    tell("cpu_throttled_seconds", "How long a CPU quota stopped the process", stopped);
    figures
}

fn of_workers(workers: &[Vitals]) -> Vec<Figure> {
    let sum = |of: &dyn Fn(&Vitals) -> &AtomicU64| {
        workers.iter().map(|worker| of(worker).load(Relaxed)).sum::<u64>()
    };
    let counter = |of: &dyn Fn(&Vitals) -> &AtomicU64| Value::Counter(sum(of) as f64);
    let refused = REFUSALS.iter().enumerate().map(|(at, reason)| {
        (*reason, workers.iter().map(|worker| worker.refused[at].load(Relaxed)).sum())
    });
    let mut late = vitals::Counts::default();
    for worker in workers {
        late.iter_mut().zip(worker.late.counts()).for_each(|(sum, count)| *sum += count);
    }
    let late_us: u64 = workers.iter().map(|worker| worker.late.sum_us()).sum();
    let granted = workers.iter().map(|worker| worker.receive_buffer_bytes.load(Relaxed));
    let granted = granted.filter(|bytes| *bytes > 0).min().unwrap_or(0);
    let figures = [
        (
            "media_tick_late_seconds",
            "How late the timer work of packet workers ran",
            Value::Histogram(late_us as f64 / 1e6, vitals::buckets(&late)),
        ),
        ("media_packets_received", "Datagrams that came", counter(&|worker| &worker.received)),
        ("media_packets_sent", "Datagrams that left", counter(&|worker| &worker.sent)),
        (
            "media_packets_offloaded",
            "Of both, those that the kernel passed on by itself",
            counter(&|worker| &worker.offloaded),
        ),
        ("media_packets_unsent", "Those that it did not take", counter(&|worker| &worker.unsent)),
        (
            "media_packets_refused",
            "Datagrams that are no part of a session: no RTP or RTCP, a payload type that was \
             not agreed on, not authentic or repeated (srtp), from a source that is not the phone",
            Value::Counters("reason", refused.collect()),
        ),
        (
            "media_sources_rebound",
            "Phones followed to another address in mid-stream",
            counter(&|worker| &worker.rebound),
        ),
        (
            "media_packets_dropped",
            "Datagrams that the kernel dropped for want of room in a media socket",
            counter(&|worker| &worker.dropped),
        ),
        (
            "media_receive_buffer_bytes",
            "The least that the kernel granted a media socket, as it counts",
            Value::Gauge(granted as f64),
        ),
    ];
    figures.into_iter().map(|(name, help, value)| Figure { name, help, value }).collect()
}
