//! Lost packets, as they fall into bursts and gaps (RFC 3611 §4.7.2).
//!
//! Invariants: a packet is lost when `LATE` others came after it was due and it did not, so who only changes places is
//! not; per packet in order this costs a shift, a test and an addition.

use crate::control::Bursts;
use serde::{Deserialize, Serialize};

/// Later than this (640 ms of packets of 20 ms) no phone plays a packet.
const LATE: i16 = 32;
/// RFC 3611 §4.7.2: so many packets in a row end a burst (Gmin).
const GAP: u32 = 16;

/// See the module.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Losses {
    /// Bit n: the packet that is n behind the greatest sequence number came.
    came: u32,
    /// Packets that came since the last one that was lost.
    run: u32,
    /// Of the burst that may be under way: from its first lost packet to its last one, and how many of them were lost.
    open: (u32, u32),
    /// Those that are over.
    done: Bursts,
}

impl Default for Losses {
    fn default() -> Self {
        // Nothing was due before the first packet.
        Self { came: u32::MAX, run: GAP, open: (0, 0), done: Bursts::default() }
    }
}

impl Losses {
    /// A packet came, so far ahead of the one with the greatest sequence number.
    #[inline]
    pub(super) fn count(&mut self, ahead: i16) {
        if ahead == 1 && self.came >> (LATE - 1) == 1 {
            self.came = self.came << 1 | 1;
            self.run = self.run.saturating_add(1);
        } else if ahead > 0 {
            self.pass(ahead);
        } else if ahead > -LATE {
            self.came |= 1 << -ahead;
        }
    }

    /// As many came in order as a phone waits for, so nothing is open.
    pub(super) const fn is_steady(&self) -> bool {
        self.came == u32::MAX
    }

    /// So many came in order, of a steady stream.
    pub(super) const fn go_on(&mut self, packets: u32) {
        self.run = self.run.saturating_add(packets);
    }

    /// The stream begins anew, with a packet.
    pub(super) fn restart(&mut self) {
        self.close();
        *self = Self { done: self.done, ..Self::default() };
    }

    /// So far; what is under way counts.
    pub(super) fn bursts(&self) -> Bursts {
        let mut so_far = self.clone();
        so_far.close();
        so_far.done
    }

    fn pass(&mut self, ahead: i16) {
        for _ in 0..ahead.min(LATE) {
            match self.came >> (LATE - 1) {
                0 => self.lose(1),
                _ => self.run = self.run.saturating_add(1),
            }
            self.came <<= 1;
        }
        if ahead > LATE {
            self.lose((ahead - LATE).unsigned_abs().into());
        }
        self.came |= 1;
    }

    fn lose(&mut self, count: u32) {
        let follows = self.run == 0;
        self.done.runs = self.done.runs.saturating_add(u32::from(!follows));
        if self.run >= GAP {
            self.close();
        } else {
            self.open.0 = self.open.0.saturating_add(self.run);
        }
        self.open = (self.open.0.saturating_add(count), self.open.1.saturating_add(count));
        self.run = 0;
    }

    /// One lost packet between many that came is of a gap.
    fn close(&mut self) {
        let (packets, lost) = core::mem::take(&mut self.open);
        if lost > 1 {
            self.done.count = self.done.count.saturating_add(1);
            self.done.packets = self.done.packets.saturating_add(packets);
            self.done.lost = self.done.lost.saturating_add(lost);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `x`: lost. What is there in the end, when many more came.
    fn check(came: &str, expect: (u32, u32, u32, u32)) {
        let mut losses = Losses::default();
        let mut ahead = 0;
        for packet in came.chars().chain(core::iter::repeat_n('.', 64)) {
            ahead += 1;
            if packet == '.' {
                losses.count(ahead);
                ahead = 0;
            }
        }
        let Bursts { count, packets, lost, runs } = losses.bursts();
        assert_eq!((count, packets, lost, runs), expect, "{came}");
    }

    #[test]
    fn losses_that_are_near_each_other_are_a_burst() {
        let (near, far) = (".".repeat(15), ".".repeat(16));
        check("", (0, 0, 0, 0));
        check(".x..", (0, 0, 0, 1));
        check(".xx..", (1, 2, 2, 1));
        check(".x.x.", (1, 3, 2, 2));
        check(&format!(".x{near}x."), (1, 17, 2, 2));
        check(&format!(".x{far}x."), (0, 0, 0, 2));
        check(&format!(".xx{far}x{far}x.xx."), (2, 6, 5, 4));
        check(&format!(".{}.", "x".repeat(100)), (1, 100, 100, 1));
    }

    #[test]
    fn a_burst_under_way_counts_and_the_next_source_begins_with_none() {
        let mut losses = Losses::default();
        losses.count(1);
        losses.count(4);
        (0..40).for_each(|_| losses.count(1));
        assert_eq!(losses.bursts(), Bursts { count: 1, packets: 3, lost: 3, runs: 1 });
        losses.restart();
        (0..40).for_each(|_| losses.count(1));
        assert_eq!(losses.bursts().count, 1);
    }

    #[test]
    fn who_changes_places_is_not_lost_and_who_comes_too_late_is() {
        for (late, lost) in [(2_i16, 0), (31, 0), (32, 1)] {
            let mut losses = Losses::default();
            losses.count(1);
            losses.count(2);
            (1..late).for_each(|_| losses.count(1));
            losses.count(-late);
            losses.count(0);
            (0..64).for_each(|_| losses.count(1));
            assert_eq!(losses.bursts().runs, lost, "{late} late");
        }
    }
}
