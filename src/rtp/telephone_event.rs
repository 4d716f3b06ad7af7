//! Payload of a telephone event (RFC 4733 §2.3).

/// Bytes of the payload.
pub const PAYLOAD_BYTES: usize = 4;

/// Power level of events that we make, in dBm0 below zero.
const VOLUME: u8 = 10;
const DIGITS: [char; 16] =
    ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', '*', '#', 'A', 'B', 'C', 'D'];

/// One event report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventPayload {
    /// 0-15 are digits.
    pub event: u8,
    /// The event is over.
    pub end: bool,
    /// Power level, dBm0 below zero.
    pub volume: u8,
    /// In units of the event's clock, since its timestamp.
    pub duration: u16,
}

impl EventPayload {
    /// Of an event that we make.
    pub const fn new(event: u8, end: bool, duration: u16) -> Self {
        Self { event, end, volume: VOLUME, duration }
    }

    /// The first report of a payload; more bytes (redundancy) are tolerated.
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let ([event, flags, d0, d1], _) = payload.split_first_chunk::<PAYLOAD_BYTES>()?;
        Some(Self {
            event: *event,
            end: flags & 0x80 != 0,
            volume: flags & 0x3f,
            duration: u16::from_be_bytes([*d0, *d1]),
        })
    }

    /// As bytes.
    pub const fn emit(&self) -> [u8; PAYLOAD_BYTES] {
        let [d0, d1] = self.duration.to_be_bytes();
        [self.event, self.volume & 0x3f | if self.end { 0x80 } else { 0 }, d0, d1]
    }

    /// The same duration in another clock. A key held for longer than the field can say stays at
    /// its greatest value.
    pub fn rescale_duration(duration: u16, from_hz: u32, to_hz: u32) -> u16 {
        let scaled = u64::from(duration) * u64::from(to_hz) / u64::from(from_hz.max(1));
        u16::try_from(scaled).unwrap_or(u16::MAX)
    }
}

/// `0-9*#A-D` of events 0-15.
pub fn digit_of_event(event: u8) -> Option<char> {
    DIGITS.get(usize::from(event)).copied()
}

/// The event of `0-9*#A-D`, small letters too.
pub fn event_of_digit(digit: char) -> Option<u8> {
    let digit = digit.to_ascii_uppercase();
    DIGITS.iter().position(|known| *known == digit).and_then(|index| u8::try_from(index).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_and_digits() {
        let payload = EventPayload { event: 11, end: true, volume: 10, duration: 800 };
        assert_eq!(payload.emit(), [11, 0x8a, 3, 0x20]);
        assert_eq!(EventPayload::parse(&payload.emit()), Some(payload));
        assert_eq!(EventPayload::parse(&[1, 2, 3]), None);
        assert_eq!(
            EventPayload::parse(&[1, 0x40, 0, 9, 7]).map(|p| (p.end, p.volume)),
            Some((false, 0))
        );
        for event in 0..16 {
            let digit = digit_of_event(event).expect("a digit");
            assert_eq!(event_of_digit(digit), Some(event));
        }
        assert_eq!(digit_of_event(16), None);
        assert_eq!(event_of_digit('a'), Some(12));
        assert_eq!(event_of_digit('x'), None);
    }

    #[test]
    fn durations_follow_the_clock() {
        for (duration, from, to, expect) in [
            (800, 8_000, 48_000, 4_800),
            (4_800, 48_000, 8_000, 800),
            (160, 8_000, 8_000, 160),
            (20_000, 8_000, 48_000, u16::MAX),
            (1, 0, 8_000, 8_000),
        ] {
            assert_eq!(EventPayload::rescale_duration(duration, from, to), expect);
        }
    }
}
