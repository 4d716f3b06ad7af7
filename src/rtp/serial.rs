//! Numbers that wrap (RFC 1982; RFC 3550 appendix A.1): which of two is later.

/// How far `to` is ahead of `from`; negative when it is behind.
pub const fn sequence_distance(from: u16, to: u16) -> i16 {
    to.wrapping_sub(from).cast_signed()
}

/// How far `to` is ahead of `from`; negative when it is behind.
pub const fn timestamp_distance(from: u32, to: u32) -> i32 {
    to.wrapping_sub(from).cast_signed()
}

/// `micros` in units of a clock, wrapped as RTP timestamps are.
pub const fn clock_units(micros: u64, clock_rate_hz: u32) -> u32 {
    // In seconds and rest, so that no product overflows.
    let rate = clock_rate_hz as u64;
    let whole = (micros / 1_000_000).wrapping_mul(rate);
    let rest = (micros % 1_000_000).wrapping_mul(rate) / 1_000_000;
    whole.wrapping_add(rest) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_cross_the_wrap() {
        assert_eq!(sequence_distance(65_535, 1), 2);
        assert_eq!(sequence_distance(1, 65_535), -2);
        assert_eq!(timestamp_distance(u32::MAX, 159), 160);
        assert_eq!(timestamp_distance(159, u32::MAX), -160);
    }

    #[test]
    fn time_becomes_clock_units() {
        assert_eq!(clock_units(20_000, 8_000), 160);
        assert_eq!(clock_units(20_000, 48_000), 960);
        assert_eq!(clock_units(0, 8_000), 0);
        let _wraps_and_does_not_overflow = clock_units(u64::MAX, u32::MAX);
    }
}
