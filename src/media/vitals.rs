//! How a worker is: how late its timer work ran, what it passed on and refused, what the kernel dropped; and whether
//! that leaves room for new calls.
//!
//! Invariants: a worker writes its own without a lock, anybody reads them; new calls are refused while sound is still
//! good: a worker is strained long before phones run out of what their jitter buffers hold.

use core::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use core::time::Duration;

/// Upper bounds of the lateness histogram, in microseconds; the last place has none.
const LATE_US: [u32; 14] = [
    100, 200, 500, 1_000, 2_000, 3_000, 5_000, 7_500, 10_000, 15_000, 20_000, 50_000, 100_000,
    500_000,
];
const PLACES: usize = LATE_US.len() + 1;
/// Timer work that is so late in one case of twenty, two seconds in a row, uses up what some phones buffer (a packet).
const LATE_MOST_US: u32 = 20_000;
/// Share of its time that a worker may be at work.
const BUSY_MOST_PERCENT: u32 = 85;
/// Datagrams that the kernel may drop from one look to the next, and of how many that came one: strangers' with a wrong
/// checksum count as dropped.
const DROPPED_LEAST: u64 = 10;
const DROPPED_ONE_IN: u64 = 100;
/// Seconds of which the node tells its 99th percentile.
const SECONDS: usize = 10;

/// Why a packet was not taken.
pub(super) const REFUSALS: [&str; 4] = ["not_rtp", "payload_type", "srtp", "source"];

/// What speaks against new calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Strain {
    /// Timers run late: others have the CPU.
    Late = 1,
    /// The worker, or the process, has hardly any CPU left.
    Cpu = 2,
    /// A quota stopped the process.
    Throttled = 3,
    /// The kernel dropped packets that the worker did not come to read.
    Drops = 4,
}

impl Strain {
    const ALL: [Self; 4] = [Self::Late, Self::Cpu, Self::Throttled, Self::Drops];

    /// As counted when a session is refused for it.
    pub(super) const fn what(self) -> &'static str {
        match self {
            Self::Late => "media session: timers are late",
            Self::Cpu => "media session: no CPU left",
            Self::Throttled => "media session: stopped by a CPU quota",
            Self::Drops => "media session: packets are lost here",
        }
    }
}

/// A strain that threads tell each other.
#[derive(Debug, Default)]
pub(super) struct StrainCell(AtomicU8);

impl StrainCell {
    pub(super) fn get(&self) -> Option<Strain> {
        let told = self.0.load(Relaxed);
        Strain::ALL.into_iter().find(|strain| *strain as u8 == told)
    }

    pub(super) fn set(&self, strain: Option<Strain>) {
        self.0.store(strain.map_or(0, |strain| strain as u8), Relaxed);
    }
}

/// Latenesses by their bounds.
#[derive(Debug, Default)]
pub(super) struct Lateness {
    places: [AtomicU64; PLACES],
    sum_us: AtomicU64,
}

/// Of some time.
pub(super) type Counts = [u64; PLACES];

impl Lateness {
    fn note(&self, late: Duration) {
        let late = u32::try_from(late.as_micros()).unwrap_or(u32::MAX);
        let place = LATE_US.iter().position(|bound| late <= *bound).unwrap_or(LATE_US.len());
        if let Some(count) = self.places.get(place) {
            add(count, 1);
        }
        add(&self.sum_us, late.into());
    }

    pub(super) fn counts(&self) -> Counts {
        core::array::from_fn(|place| self.places.get(place).map_or(0, |count| count.load(Relaxed)))
    }

    pub(super) fn sum_us(&self) -> u64 {
        self.sum_us.load(Relaxed)
    }
}

/// The bound below which so many percent are; 0 when nothing was counted.
pub(super) fn percentile_us(counts: &Counts, percent: u64) -> u32 {
    let all: u64 = counts.iter().sum();
    let mut seen = 0;
    let place = counts.iter().position(|count| {
        seen += count;
        seen * 100 >= all * percent
    });
    let most = LATE_US[LATE_US.len() - 1];
    place.filter(|_| all > 0).map_or(0, |place| LATE_US.get(place).copied().unwrap_or(most))
}

/// Histogram as it is told: bounds in seconds.
pub(super) fn buckets(counts: &Counts) -> Vec<(f64, u64)> {
    let bounds = LATE_US.iter().map(|bound| f64::from(*bound) / 1e6).chain([f64::INFINITY]);
    bounds.zip(counts.iter().copied()).collect()
}

/// What was counted between two looks.
pub(super) fn between(before: &Counts, after: &Counts) -> Counts {
    core::array::from_fn(|place| after[place].saturating_sub(before[place]))
}

/// The counts of the last seconds.
#[derive(Debug, Default)]
pub(super) struct LastSeconds {
    seconds: [Counts; SECONDS],
    next: usize,
    until: Counts,
}

impl LastSeconds {
    /// A second is over: what was counted until now.
    pub(super) fn push(&mut self, now: &Counts) {
        let second = between(&self.until, now);
        if let Some(place) = self.seconds.get_mut(self.next) {
            *place = second;
        }
        self.next = (self.next + 1) % SECONDS;
        self.until = *now;
    }

    pub(super) fn p99_us(&self) -> u32 {
        let mut sum = Counts::default();
        for second in &self.seconds {
            sum.iter_mut().zip(second).for_each(|(sum, count)| *sum += count);
        }
        percentile_us(&sum, 99)
    }
}

/// Of one worker, since it started.
#[derive(Debug, Default)]
pub(super) struct Vitals {
    pub(super) late: Lateness,
    pub(super) received: AtomicU64,
    pub(super) sent: AtomicU64,
    /// Of both, those that the kernel passed on by itself.
    pub(super) offloaded: AtomicU64,
    /// The kernel did not take it.
    pub(super) unsent: AtomicU64,
    /// By `REFUSALS`.
    pub(super) refused: [AtomicU64; REFUSALS.len()],
    /// Phones that came from another address in mid-stream, and were followed.
    pub(super) rebound: AtomicU64,
    /// Datagrams that found no room in a socket.
    pub(super) dropped: AtomicU64,
    /// The least that the kernel granted a socket.
    pub(super) receive_buffer_bytes: AtomicU64,
    pub(super) strain: StrainCell,
}

/// What a worker remembers from one look at itself to the next.
#[derive(Debug, Default)]
pub(super) struct Before {
    late: Counts,
    was_late: bool,
    received: u64,
    dropped: u64,
    at_work: Duration,
}

impl Vitals {
    pub(super) fn tick_was_late(&self, late: Duration) {
        self.late.note(late);
    }

    /// Looks at what was since the last time. `at_work`: CPU time of the worker until now; `lived`: since the last
    /// look.
    pub(super) fn judge(&self, before: &mut Before, at_work: Duration, lived: Duration) {
        // What the kernel passed on never came to a socket that could drop it.
        let received = self.received.load(Relaxed).saturating_sub(self.offloaded.load(Relaxed));
        let dropped = self.dropped.load(Relaxed);
        let late = self.late.counts();
        let worked = at_work.saturating_sub(before.at_work).as_micros();
        let is_late = percentile_us(&between(&before.late, &late), 95) > LATE_MOST_US;
        let fresh = dropped.saturating_sub(before.dropped);
        let share = received.saturating_sub(before.received) / DROPPED_ONE_IN;
        let strain = if fresh >= DROPPED_LEAST && fresh >= share {
            Some(Strain::Drops)
        } else if is_late && before.was_late {
            Some(Strain::Late)
        } else if worked * 100 >= lived.as_micros().max(1) * u128::from(BUSY_MOST_PERCENT) {
            Some(Strain::Cpu)
        } else {
            None
        };
        self.strain.set(strain);
        *before = Before { late, was_late: is_late, received, dropped, at_work };
    }
}

/// By the one thread that writes it.
pub(super) fn add(count: &AtomicU64, by: u64) {
    count.store(count.load(Relaxed).wrapping_add(by), Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_strained_by_what_spoils_sound_and_no_longer_than_it_lasts() {
        let vitals = Vitals::default();
        let mut before = Before::default();
        let second = Duration::from_secs(1);
        let mut at_work = Duration::ZERO;
        let mut judged = |late_ms: &[u64], worked_ms: u64, dropped: u64| {
            let late = late_ms.iter().map(|late| Duration::from_millis(*late));
            late.for_each(|late| vitals.tick_was_late(late));
            at_work += Duration::from_millis(worked_ms);
            add(&vitals.dropped, dropped);
            vitals.judge(&mut before, at_work, second);
            vitals.strain.get()
        };
        let few = [&[0; 95][..], &[300; 5]].concat();
        let many = [&[0; 94][..], &[25; 6]].concat();
        assert_eq!(judged(&[], 0, 0), None);
        assert_eq!(judged(&few, 840, 0), None, "one in twenty");
        assert_eq!(judged(&many, 840, 0), None, "a moment");
        assert_eq!(judged(&many, 840, 0), Some(Strain::Late));
        assert_eq!(judged(&[20; 50], 0, 0), None, "the second before does not count");
        assert_eq!(judged(&[], 850, 0), Some(Strain::Cpu));
        assert_eq!(judged(&[], 0, DROPPED_LEAST - 1), None, "anybody can have a few dropped");
        assert_eq!(judged(&[], 0, DROPPED_LEAST), Some(Strain::Drops));
        add(&vitals.received, 2_000);
        assert_eq!(judged(&[], 0, 19), None, "less than one in a hundred");
        add(&vitals.received, 2_000);
        assert_eq!(judged(&[], 0, 20), Some(Strain::Drops));
        assert_eq!(judged(&[], 0, 0), None);
    }

    #[test]
    fn the_percentile_is_that_of_the_last_ten_seconds() {
        let late = Lateness::default();
        let mut last = LastSeconds::default();
        assert_eq!(last.p99_us(), 0);
        for _ in 0..50 {
            late.note(Duration::from_micros(900));
        }
        late.note(Duration::from_millis(30));
        last.push(&late.counts());
        assert_eq!(last.p99_us(), 50_000);
        for _ in 0..60 {
            late.note(Duration::from_micros(150));
        }
        last.push(&late.counts());
        assert_eq!(last.p99_us(), 1_000, "one in 111");
        (0..9).for_each(|_| last.push(&late.counts()));
        assert_eq!(last.p99_us(), 200);
        last.push(&late.counts());
        assert_eq!(last.p99_us(), 0);
        late.note(Duration::from_secs(9));
        let buckets = buckets(&late.counts());
        assert_eq!((buckets.len(), buckets[14].1, buckets[1]), (15, 1, (0.000_2, 60)));
        assert_eq!(late.sum_us(), 45_000 + 30_000 + 9_000 + 9_000_000);
    }
}
