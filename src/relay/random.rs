//! Numbers for SSRCs, first sequence numbers and timestamps, and RTCP intervals, from the seed that
//! came in.

use serde::{Deserialize, Serialize};

/// SplitMix64: each seed gives its own sequence, and equal seeds the same one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Random(u64);

impl Random {
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}
