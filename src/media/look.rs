//! Once a second the process looks at itself: the CPU that it has left, whether a quota stopped it, how late its timers
//! run. What it finds decides whether it takes new sessions (`Shared::admit`) and is what it tells signaling.

use super::Shared;
use super::vitals::{self, LastSeconds, Strain};
use crate::net::cgroup::{CpuGroups, Throttling};
use crate::net::clock;
use crate::time::Timestamp;
use core::sync::atomic::Ordering;
use core::time::Duration;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::{TimeVal, TimeValLike};
use std::sync::Arc;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

/// How often.
const LOOK: Duration = Duration::from_secs(1);
/// Percent of the CPU that it may have above which no new calls are taken.
const CPU_MOST: u32 = 85;
/// So long after a quota stopped the process no new calls are taken.
const THROTTLED: Duration = Duration::from_secs(5);
/// That it was stopped is told in the log so often at most.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// What the process knows of itself from the last look to the next.
#[derive(Debug)]
struct Look {
    groups: CpuGroups,
    cores: u32,
    at: Timestamp,
    used: Duration,
    throttling: Throttling,
    throttled_at: Option<Timestamp>,
    told_at: Option<Timestamp>,
    late: LastSeconds,
}

impl Look {
    fn new(groups: CpuGroups, cores: usize, now: Timestamp) -> Self {
        Self {
            throttling: groups.throttling(),
            groups,
            cores: u32::try_from(cores).unwrap_or(1),
            at: now,
            used: used_cpu(),
            throttled_at: None,
            told_at: None,
            late: LastSeconds::default(),
        }
    }

    /// What was since the last time.
    fn again(&mut self, shared: &Shared, now: Timestamp) {
        let mut late = vitals::Counts::default();
        for worker in &shared.vitals {
            late.iter_mut().zip(worker.late.counts()).for_each(|(sum, count)| *sum += count);
        }
        self.late.push(&late);
        shared.tick_late_p99_us.store(self.late.p99_us(), Ordering::Relaxed);
        let percent = self.percent(used_cpu(), now);
        shared.cpu_percent.store(percent, Ordering::Relaxed);
        self.look_for_throttling(self.groups.throttling(), now);
        let throttled = self.throttled_at.is_some_and(|at| now.saturating_since(at) < THROTTLED);
        shared.strain.set(match throttled {
            true => Some(Strain::Throttled),
            false => (percent >= CPU_MOST).then_some(Strain::Cpu),
        });
    }

    /// Of what the process may have: its cores, or less where a quota grants less.
    fn percent(&mut self, used: Duration, now: Timestamp) -> u32 {
        let lived = now.saturating_since(self.at).as_micros().max(1);
        let worked = used.saturating_sub(self.used).as_micros();
        (self.at, self.used) = (now, used);
        let cores = self.cores.max(1) * 100;
        let granted = self.groups.quota_percent().map_or(cores, |quota| quota.clamp(1, cores));
        let percent = worked * 10_000 / (lived * u128::from(granted));
        u32::try_from(percent).unwrap_or(u32::MAX)
    }

    fn look_for_throttling(&mut self, seen: Throttling, now: Timestamp) {
        let before = core::mem::replace(&mut self.throttling, seen);
        if seen.periods <= before.periods {
            return;
        }
        self.throttled_at = Some(now);
        if self.told_at.is_none_or(|at| now.saturating_since(at) >= TOLD_EVERY) {
            self.told_at = Some(now);
            let stopped = seen.stopped.saturating_sub(before.stopped).as_millis();
            tracing::warn!(
                "a CPU quota stopped this process for {stopped} ms: sound comes in heaps, and new \
                 calls are refused for a while; give media processes no CPU limit (`cpus:`, \
                 `limits.cpu`)"
            );
        }
    }
}

/// Until the node stops.
pub(super) async fn at_ourselves(
    shared: Arc<Shared>,
    cores: usize,
    mut stopped: watch::Receiver<bool>,
) {
    let mut look = Look::new(CpuGroups::here(), cores, clock::now());
    let mut tick = tokio::time::interval(LOOK);
    // Looks that were missed are not made up for: what is measured is the time between two.
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => look.again(&shared, clock::now()),
            _ = stopped.changed() => return,
        }
    }
}

fn used_cpu() -> Duration {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) else { return Duration::ZERO };
    let time =
        |of: TimeVal| Duration::from_micros(u64::try_from(of.num_microseconds()).unwrap_or(0));
    time(usage.user_time()) + time(usage.system_time())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::PortRange;
    use core::net::Ipv4Addr;
    use std::path::{Path, PathBuf};

    /// A machine whose files say what quota there is.
    struct Machine(PathBuf);

    impl Machine {
        fn with(name: &str, quota: &str) -> Self {
            let root =
                std::env::temp_dir().join(format!("holdfast-look-{name}-{}", std::process::id()));
            let machine = Self(root);
            machine.write("proc/self/cgroup", "0::/\n");
            machine.write("sys/fs/cgroup/cpu.max", quota);
            machine.stopped(0);
            machine
        }

        fn write(&self, path: &str, text: &str) {
            let path: PathBuf = self.0.join(Path::new(path));
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            std::fs::write(path, text).expect("written");
        }

        fn stopped(&self, times: u32) {
            self.write("sys/fs/cgroup/cpu.stat", &format!("nr_throttled {times}\n"));
        }
    }

    impl Drop for Machine {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn shared() -> Shared {
        let ports = PortRange { first: 40_000, last: 40_010 };
        Shared::new((10, 2), ports, Ipv4Addr::LOCALHOST.into(), None, Arc::new(|_| {}))
    }

    #[test]
    fn cpu_is_that_of_the_last_second_and_of_what_a_quota_grants() {
        // (quota, percent of what may be had when half a core was used)
        for (name, quota, percent) in [
            ("none", "max 100000", 25),
            ("half", "50000 100000", 100),
            ("many", "900000 100000", 25),
        ] {
            let machine = Machine::with(name, quota);
            let now = Timestamp::from_millis(10_000);
            let mut look = Look::new(CpuGroups::below(&machine.0), 2, now);
            look.used = Duration::from_secs(7);
            let used = Duration::from_millis(7_500);
            assert_eq!(look.percent(used, now + LOOK), percent, "{name}");
            assert_eq!(look.percent(used, now + LOOK * 2), 0, "nothing since");
        }
    }

    #[test]
    fn who_was_stopped_by_a_quota_takes_no_sessions_for_a_while() {
        let (machine, shared) = (Machine::with("stopped", "50000 100000"), shared());
        let mut now = Timestamp::from_millis(10_000);
        let mut look = Look::new(CpuGroups::below(&machine.0), 2, now);
        let mut strain_after = |step: Duration, stopped: u32| {
            machine.stopped(stopped);
            now = now + step;
            // What this test itself uses of the CPU does not count.
            look.used = used_cpu();
            look.again(&shared, now);
            shared.strain.get()
        };
        assert_eq!(strain_after(LOOK, 0), None);
        assert_eq!(strain_after(LOOK, 1), Some(Strain::Throttled));
        assert_eq!(shared.used_up_percent(), crate::control::hello::Capacity::ALL_USED_UP);
        let worker = &shared.vitals[0];
        assert!(shared.admit(false, worker).is_err());
        assert!(shared.admit(true, worker).is_ok(), "an emergency is not refused");
        assert_eq!(strain_after(THROTTLED - LOOK, 1), Some(Strain::Throttled));
        assert_eq!(strain_after(LOOK, 1), None);
        assert!(shared.admit(false, worker).is_ok());
        worker.strain.set(Some(Strain::Late));
        assert!(shared.admit(false, worker).is_err(), "this worker is strained");
        assert!(shared.admit(false, &shared.vitals[1]).is_ok());
        assert_eq!(shared.used_up_percent(), 50, "one of two");
    }
}
