//! Packet indexes: the roll-over counter estimated, and which indexes were seen (RFC 3711 §3.3.1, §3.3.2).

use crate::rtp::serial::sequence_distance;
use serde::{Deserialize, Serialize};

/// Indexes behind the greatest that are remembered (RFC 3711 asks for 64 at least).
const REMEMBERED: u64 = 128;
/// Indexes of one roll-over.
pub(super) const ROLL_OVER: u64 = 1 << 16;

/// The indexes of one source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Window {
    /// The greatest seen and one; 0: nothing was.
    next: u64,
    /// Bit n: `next - 1 - n` was seen.
    seen: u128,
}

impl Window {
    /// Nothing was seen.
    pub(super) const NEW: Self = Self { next: 0, seen: 0 };

    /// Nothing was seen of the source.
    pub(super) const fn is_new(&self) -> bool {
        self.next == 0
    }

    /// Of the greatest index.
    pub(super) const fn roll_over(&self) -> u32 {
        (self.next.saturating_sub(1) >> 16) as u32
    }

    /// RFC 3711 appendix A: the index nearest to the greatest seen.
    pub(super) fn estimate(&self, sequence: u16) -> u64 {
        let Some(greatest) = self.next.checked_sub(1) else { return sequence.into() };
        let distance = i64::from(sequence_distance(greatest as u16, sequence));
        // Before the first index there is none: far ahead, then.
        greatest.checked_add_signed(distance).unwrap_or(sequence.into())
    }

    /// Neither seen before nor too old to tell.
    pub(super) const fn is_fresh(&self, index: u64) -> bool {
        if index >= self.next {
            return true;
        }
        let behind = self.next - 1 - index;
        behind < REMEMBERED && self.seen & (1 << behind) == 0
    }

    /// It is seen now.
    pub(super) const fn mark(&mut self, index: u64) {
        if index >= self.next {
            let ahead = index - self.next + 1;
            self.seen = if ahead < REMEMBERED { self.seen << ahead } else { 0 };
            self.next = index + 1;
        }
        let behind = self.next - 1 - index;
        if behind < REMEMBERED {
            self.seen |= 1 << behind;
        }
    }
}
