//! How long a busy worker rests between two turns. To be woken for each packet costs much beside what it takes to pass
//! it on; a moment later a wake-up finds several. Sound that comes every 20 ms does not feel it.
//!
//! Invariants: a worker with little to do never rests; no rest is longer than `REST_MOST`.

use crate::time::Timestamp;
use core::time::Duration;

/// Packets that come during a rest.
const GATHERED: u32 = 8;
/// Who gets packets more seldom is woken by each.
const GAP_MOST: Duration = Duration::from_micros(40);
const REST_MOST: Duration = Duration::from_micros(320);
/// How long packets are counted until the time between them is known anew.
const COUNTED: Duration = Duration::from_millis(10);

/// See the module.
#[derive(Debug)]
pub(super) struct Pace {
    since: Timestamp,
    packets: u32,
    rest: Duration,
}

impl Pace {
    pub(super) fn new(now: Timestamp) -> Self {
        // By default the kernel wakes who sleeps up to 50 us later than wished. Best effort.
        let _ = nix::sys::prctl::set_timerslack(1);
        Self { since: now, packets: 0, rest: Duration::ZERO }
    }

    /// After a turn of so many packets: sleeps a little when there are many a second.
    pub(super) fn rest(&mut self, packets: u32, now: Timestamp) {
        self.count(packets, now);
        if !self.rest.is_zero() {
            std::thread::sleep(self.rest);
        }
    }

    fn count(&mut self, packets: u32, now: Timestamp) {
        self.packets = self.packets.saturating_add(packets);
        let counted = now.saturating_since(self.since);
        if counted < COUNTED {
            return;
        }
        let gap = counted / self.packets.max(1);
        self.rest = match gap {
            gap if gap > GAP_MOST => Duration::ZERO,
            gap => (gap * GATHERED).min(REST_MOST),
        };
        (self.since, self.packets) = (now, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_busy_rests_and_who_is_not_does_not() {
        let begin = Timestamp::from_millis(1_000);
        // (packets of 10 ms, rest in us)
        for (packets, rest) in [(0, 0), (100, 0), (249, 0), (250, 320), (500, 160), (5_000, 16)] {
            let mut pace = Pace::new(begin);
            let now = begin + COUNTED;
            pace.count(packets, now);
            assert_eq!(pace.rest, Duration::from_micros(rest), "{packets} packets");
            pace.count(0, now + COUNTED);
            assert_eq!(pace.rest, Duration::ZERO, "and no more when nothing comes");
        }
    }
}
