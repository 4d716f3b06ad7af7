//! Audio codecs that are decoded and encoded here: G.711 (PCMU, PCMA) and Opus (RFC 6716, RFC
//! 7587).
//!
//! Invariant: between a decoder and an encoder sound is 16-bit mono at 8,000 Hz, whatever the
//! codecs: Opus is opened at that rate, so nothing is resampled. Which library codes Opus is known
//! to `opus` alone.

use serde::{Deserialize, Serialize};

/// ITU-T G.711.
pub mod g711;
/// RFC 6716 by libopus.
pub mod opus;
/// Tones as samples.
pub mod tone;

/// Samples a second between decoder and encoder.
pub const SAMPLE_RATE_HZ: u32 = 8_000;
/// Samples a millisecond.
pub const SAMPLES_PER_MS: usize = 8;
/// Most samples of a packet: 120 ms (RFC 7587 §4.2).
pub const MOST_SAMPLES: usize = 120 * SAMPLES_PER_MS;
/// Most bytes that an encoder makes of a packet.
pub const MOST_PAYLOAD_BYTES: usize = 1_275;

/// Makes samples of payloads.
pub trait Decoder: core::fmt::Debug + Send {
    /// Decodes a packet; how many samples it held (0: it was none).
    fn decode(&mut self, payload: &[u8], samples: &mut [i16]) -> usize;
    /// Fills `samples` for a packet that is lost. `next`: the one after it, when it is here, may
    /// hold a copy (FEC).
    fn conceal(&mut self, next: Option<&[u8]>, samples: &mut [i16]);
}

/// Makes payloads of samples.
pub trait Encoder: core::fmt::Debug + Send {
    /// Encodes a frame of `Kind::frame_ms`; how many bytes to send (0: nothing needs to be sent).
    fn encode(&mut self, samples: &[i16], payload: &mut [u8]) -> usize;
    /// The phone told how much it loses.
    fn expect_loss(&mut self, _percent: u8) {}
}

/// A codec that is decoded and encoded here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// G.711 µ-law.
    Pcmu,
    /// G.711 A-law.
    Pcma,
    /// Opus.
    Opus,
}

impl Kind {
    /// By the name and clock of its rtpmap.
    pub fn of(encoding: &str, clock_rate_hz: u32) -> Option<Self> {
        const KINDS: [(&str, u32, Kind); 3] = [
            ("PCMU", 8_000, Kind::Pcmu),
            ("PCMA", 8_000, Kind::Pcma),
            ("opus", 48_000, Kind::Opus),
        ];
        let found = KINDS.iter().find(|(name, clock, _)| {
            name.eq_ignore_ascii_case(encoding) && *clock == clock_rate_hz
        });
        found.map(|(_, _, kind)| *kind)
    }

    /// The packet time that we make for a wished one: the greatest possible that is not above it.
    pub fn frame_ms(self, ptime_ms: u16) -> u16 {
        let possible: &[u16] = match self {
            Self::Pcmu | Self::Pcma => &[60, 50, 40, 30, 20, 10],
            // RFC 6716 §2.1.4.
            Self::Opus => &[60, 40, 20, 10],
        };
        let wished = if ptime_ms == 0 { 20 } else { ptime_ms };
        possible.iter().copied().find(|frame| *frame <= wished).unwrap_or(10)
    }

    /// `None`: the library refused.
    pub fn decoder(self) -> Option<Box<dyn Decoder>> {
        match self {
            Self::Pcmu => Some(Box::new(g711::G711Decoder::new(g711::Law::Mu))),
            Self::Pcma => Some(Box::new(g711::G711Decoder::new(g711::Law::A))),
            Self::Opus => opus::decoder(),
        }
    }

    /// `fmtp`: the phone's own parameters. `None`: the library refused.
    pub fn encoder(self, fmtp: Option<&str>) -> Option<Box<dyn Encoder>> {
        match self {
            Self::Pcmu => Some(Box::new(g711::G711Encoder::new(g711::Law::Mu))),
            Self::Pcma => Some(Box::new(g711::G711Encoder::new(g711::Law::A))),
            Self::Opus => opus::encoder(opus::Parameters::of_fmtp(fmtp.unwrap_or_default())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_packet_times() {
        assert_eq!(Kind::of("OPUS", 48_000), Some(Kind::Opus));
        assert_eq!(Kind::of("pcmu", 8_000), Some(Kind::Pcmu));
        assert_eq!(Kind::of("PCMU", 16_000), None);
        assert_eq!(Kind::of("G722", 8_000), None);
        for (kind, wished, expect) in [
            (Kind::Pcmu, 0, 20),
            (Kind::Pcmu, 30, 30),
            (Kind::Pcma, 5, 10),
            (Kind::Pcma, 240, 60),
            (Kind::Opus, 30, 20),
            (Kind::Opus, 60, 60),
            (Kind::Opus, 120, 60),
        ] {
            assert_eq!(kind.frame_ms(wished), expect, "{kind:?} {wished}");
        }
    }
}
