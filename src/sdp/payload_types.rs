//! Payload types of a leg (RFC 3551 §3, RFC 3264 §8.3.2): a number keeps its meaning for the life of the dialog.

use super::Format;

/// First and last dynamic number.
const DYNAMIC: core::ops::RangeInclusive<u8> = 96..=127;

/// The number that `format` has or will have on a leg: what it had before; else the one it came with, when free and
/// fit; else a free dynamic one.
pub(super) fn choose(ours: &[Format], format: &Format) -> u8 {
    if let Some(known) = ours.iter().find(|known| known.same_codec(format)) {
        return known.payload_type;
    }
    let free = |number: u8| !ours.iter().any(|known| known.payload_type == number);
    let fits = DYNAMIC.contains(&format.payload_type) || format.payload_type < 35;
    if fits && free(format.payload_type) {
        return format.payload_type;
    }
    // Numbers that phones commonly use for other things come last.
    DYNAMIC.rev().find(|number| free(*number)).unwrap_or(format.payload_type)
}

/// The same, and noted.
pub(super) fn assign(ours: &mut Vec<Format>, format: &Format) -> u8 {
    let payload_type = choose(ours, format);
    if !ours.iter().any(|known| known.same_codec(format)) {
        ours.push(Format { payload_type, ..format.clone() });
    }
    payload_type
}

/// Codecs that the media node decodes and encodes, best first.
pub(super) fn own_codecs() -> Vec<Format> {
    vec![
        format(111, "opus", 48_000, 2, Some("useinbandfec=1")),
        format(0, "PCMU", 8_000, 1, None),
        format(8, "PCMA", 8_000, 1, None),
    ]
}

/// Telephone events in both clocks.
pub(super) fn own_events() -> Vec<Format> {
    vec![
        format(101, "telephone-event", 8_000, 1, Some("0-15")),
        format(110, "telephone-event", 48_000, 1, Some("0-15")),
    ]
}

fn format(
    payload_type: u8,
    encoding: &str,
    clock_rate_hz: u32,
    channels: u8,
    fmtp: Option<&str>,
) -> Format {
    Format {
        payload_type,
        encoding: encoding.to_owned(),
        clock_rate_hz,
        channels,
        fmtp: fmtp.map(str::to_owned),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_never_changes_its_meaning() {
        let mut ours = Vec::new();
        assert_eq!(assign(&mut ours, &format(96, "opus", 48_000, 2, None)), 96);
        assert_eq!(assign(&mut ours, &format(96, "iLBC", 8_000, 1, None)), 127);
        assert_eq!(assign(&mut ours, &format(120, "opus", 48_000, 2, None)), 96);
        assert_eq!(assign(&mut ours, &format(0, "PCMU", 8_000, 1, None)), 0);
        assert_eq!(assign(&mut ours, &format(96, "iLBC", 8_000, 1, None)), 127);
    }
}
