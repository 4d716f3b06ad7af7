//! What control groups grant this process of the CPU, and how often they stopped it (cgroup v1 and v2, all levels).
//!
//! Invariant: a file that cannot be read counts for nothing: not every kernel and container shows its groups.

use core::time::Duration;
use std::fs;
use std::path::{Path, PathBuf};

/// How often and how long a quota stopped this process since it is in its groups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Throttling {
    /// Periods in which it was stopped.
    pub periods: u64,
    /// For how long, over all of its threads.
    pub stopped: Duration,
}

/// The group of this process and all above it that can be seen. A process may be put into another: each question is
/// asked of those where it is.
#[derive(Clone, Debug)]
pub struct CpuGroups {
    root: PathBuf,
}

impl CpuGroups {
    /// Of this process.
    pub fn here() -> Self {
        Self::below(Path::new("/"))
    }

    /// With another root: a machine that is described by files.
    pub fn below(root: &Path) -> Self {
        Self { root: root.to_path_buf() }
    }

    fn folders(&self) -> Vec<PathBuf> {
        let text = fs::read_to_string(self.root.join("proc/self/cgroup")).unwrap_or_default();
        let mut folders = Vec::new();
        for line in text.lines() {
            // `number:controllers:path`; the second version has one line, `0::path`.
            let mut fields = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
            let is_second = controllers.is_empty();
            if !is_second && !controllers.split(',').any(|one| one == "cpu") {
                continue;
            }
            let base = self.root.join("sys/fs/cgroup");
            let base = if is_second { base } else { base.join(controllers) };
            let path = Path::new(path.trim_start_matches('/'));
            // A container may be told its path on the host and see its own group as the root.
            folders.extend(path.ancestors().map(|level| base.join(level)));
        }
        folders.retain(|folder| folder.join("cpu.stat").is_file());
        folders
    }

    /// What the quotas did until now.
    pub fn throttling(&self) -> Throttling {
        let mut sum = Throttling::default();
        for folder in self.folders() {
            let text = fs::read_to_string(folder.join("cpu.stat")).unwrap_or_default();
            let number = |name: &str| {
                let found = text.lines().find_map(|line| line.strip_prefix(name));
                found.and_then(|rest| rest.trim().parse::<u64>().ok()).unwrap_or(0)
            };
            sum.periods += number("nr_throttled ");
            // Microseconds in the second version, nanoseconds in the first.
            sum.stopped += Duration::from_micros(number("throttled_usec "));
            sum.stopped += Duration::from_nanos(number("throttled_time "));
        }
        sum
    }

    /// Percent of one core that the tightest quota grants; `None`: none does.
    pub fn quota_percent(&self) -> Option<u32> {
        let quotas = self.folders().into_iter().filter_map(|folder| {
            let read = |name: &str| fs::read_to_string(folder.join(name)).ok();
            let (quota, period) = match read("cpu.max") {
                Some(text) => {
                    let (quota, period) = text.trim().split_once(' ')?;
                    (quota.to_owned(), period.to_owned())
                }
                None => (read("cpu.cfs_quota_us")?, read("cpu.cfs_period_us")?),
            };
            // `max` and -1, no limit, are no numbers here.
            let quota: u64 = quota.trim().parse().ok()?;
            let period: u64 = period.trim().parse().ok()?;
            u32::try_from(quota.saturating_mul(100) / period.max(1)).ok()
        });
        quotas.min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Root(PathBuf);

    impl Root {
        fn new(name: &str, files: &[(&str, &str)]) -> Self {
            let root =
                std::env::temp_dir().join(format!("holdfast-cgroup-{name}-{}", std::process::id()));
            for (path, text) in files {
                let path = root.join(path);
                fs::create_dir_all(path.parent().expect("a folder")).expect("made");
                fs::write(path, text).expect("written");
            }
            Self(root)
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn quotas_of_both_versions_at_every_level_are_seen() {
        let second = Root::new(
            "second",
            &[
                ("proc/self/cgroup", "0::/pod/box\n"),
                ("sys/fs/cgroup/cpu.stat", "usage_usec 9\n"),
                ("sys/fs/cgroup/pod/cpu.max", "150000 100000\n"),
                ("sys/fs/cgroup/pod/cpu.stat", "nr_throttled 2\nthrottled_usec 1500\n"),
                ("sys/fs/cgroup/pod/box/cpu.max", "max 100000\n"),
                ("sys/fs/cgroup/pod/box/cpu.stat", "nr_throttled 1\nthrottled_usec 500\n"),
            ],
        );
        // A container that is told the host's path and sees its own group at the root.
        let first = Root::new(
            "first",
            &[
                ("proc/self/cgroup", "5:memory:/x\n2:cpu,cpuacct:/docker/abc\n"),
                ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "50000\n"),
                ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "200000\n"),
                ("sys/fs/cgroup/cpu,cpuacct/cpu.stat", "nr_throttled 3\nthrottled_time 2000000\n"),
            ],
        );
        let none = Root::new("none", &[("proc/self/cgroup", "2:cpu:/\n")]);
        let throttled =
            |periods, micros| Throttling { periods, stopped: Duration::from_micros(micros) };
        for (root, quota, expect) in [
            (&second, Some(150), throttled(3, 2_000)),
            (&first, Some(25), throttled(3, 2_000)),
            (&none, None, Throttling::default()),
        ] {
            let groups = CpuGroups::below(&root.0);
            assert_eq!((groups.quota_percent(), groups.throttling()), (quota, expect));
        }
    }
}
