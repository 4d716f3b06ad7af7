//! Codecs of our own phone: G.711 by its formulas, Opus by libopus.
//!
//! Invariant: independent of the code under test, which shares no more than the library.

use super::tone::RATE_HZ;
use audiopus::coder::{Decoder, Encoder};
use audiopus::{Application, Channels, MutSignals, SampleRate, packet::Packet};

/// What our phones offer besides G.711.
const OPUS: u8 = 96;
const MOST_SAMPLES: usize = 960;
const MOST_BYTES: usize = 1_275;

/// A codec: G.711 in one of its laws (payload type 0 or 8), or Opus (RFC 7587).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Law {
    Mu,
    A,
    Opus,
}

impl Law {
    /// A description of PCMU made one of this codec.
    pub(crate) fn describe(self, sdp: &str, payload_type: Option<u8>) -> String {
        let to = |payload_type: u8, name: &str| {
            sdp.replace("AVP 0 ", &format!("AVP {payload_type} "))
                .replace("0 PCMU/8000", &format!("{payload_type} {name}"))
        };
        match self {
            Self::Mu => sdp.to_owned(),
            Self::A => to(8, "PCMA/8000"),
            Self::Opus => to(payload_type.unwrap_or(OPUS), "opus/48000/2"),
        }
    }

    /// What the far side calls a codec whose payload type is not fixed.
    pub(crate) fn payload_type_in(self, sdp: &str) -> Option<u8> {
        let maps = sdp.lines().filter_map(|line| line.strip_prefix("a=rtpmap:"));
        let mut maps = maps.filter_map(|map| map.split_once(' ')).filter(|_| self == Self::Opus);
        maps.find(|(_, name)| name.starts_with("opus/"))?.0.parse().ok()
    }
}

/// What is said and heard in a codec.
pub(crate) struct Speech {
    law: Law,
    opus: Option<(Encoder, Decoder)>,
}

impl Speech {
    pub(crate) fn new(law: Law) -> Self {
        let rate = SampleRate::try_from(RATE_HZ as i32).expect("8,000 Hz");
        let opus = (law == Law::Opus).then(|| {
            let encoder = Encoder::new(rate, Channels::Mono, Application::Voip);
            let decoder = Decoder::new(rate, Channels::Mono);
            (encoder.expect("libopus encodes"), decoder.expect("libopus decodes"))
        });
        Self { law, opus }
    }

    /// Unless the far side named another.
    pub(crate) fn payload_type(&self) -> u8 {
        match self.law {
            Law::Mu => 0,
            Law::A => 8,
            Law::Opus => OPUS,
        }
    }

    /// Units of the RTP clock: that of Opus is 48,000 Hz whatever is sampled.
    pub(crate) fn clock_per_sample(&self) -> u32 {
        if self.law == Law::Opus { 6 } else { 1 }
    }

    pub(crate) fn encoded(&mut self, samples: &[i16]) -> Vec<u8> {
        match (self.law, &self.opus) {
            (Law::Mu, _) => samples.iter().map(|sample| to_ulaw(*sample)).collect(),
            (Law::A, _) => samples.iter().map(|sample| to_alaw(*sample)).collect(),
            (Law::Opus, None) => Vec::new(),
            (Law::Opus, Some((encoder, _))) => {
                let mut bytes = vec![0; MOST_BYTES];
                let length = encoder.encode(samples, &mut bytes[..]).expect("a frame of 20 ms");
                bytes.truncate(length);
                bytes
            }
        }
    }

    /// Samples of a packet in G.711 or in our codec; none of any other.
    pub(crate) fn decoded(&mut self, packet: &[u8]) -> Vec<i16> {
        let [0x80, kind, ..] = packet else { return Vec::new() };
        let payload = packet.get(12..).unwrap_or_default();
        match (kind & 0x7f, &mut self.opus) {
            (0, _) => payload.iter().map(|byte| from_ulaw(*byte)).collect(),
            (8, _) => payload.iter().map(|byte| from_alaw(*byte)).collect(),
            (96..=100 | 102.., Some((_, decoder))) => {
                let mut samples = vec![0; MOST_SAMPLES];
                let packet = Packet::try_from(payload).ok();
                let room = MutSignals::try_from(&mut samples).expect("room");
                let count = decoder.decode(packet, room, false).unwrap_or(0);
                samples.truncate(count);
                samples
            }
            _ => Vec::new(),
        }
    }
}

/// G.711 A-law.
fn to_alaw(sample: i16) -> u8 {
    let sign = if sample < 0 { 0 } else { 0x80 };
    let magnitude = (i32::from(sample).abs() >> 4).min(2_047);
    let exponent = (32 - magnitude.leading_zeros()).saturating_sub(4);
    let mantissa = if exponent == 0 { magnitude } else { magnitude >> (exponent - 1) } & 0x0f;
    (sign | (exponent << 4) as u8 | mantissa as u8) ^ 0x55
}

fn from_alaw(byte: u8) -> i16 {
    let byte = byte ^ 0x55;
    let (exponent, mantissa) = ((byte >> 4) & 7, i16::from(byte & 0x0f));
    let magnitude = match exponent {
        0 => (mantissa << 4) + 8,
        _ => ((mantissa << 4) + 264) << (exponent - 1),
    };
    if byte & 0x80 == 0 { -magnitude } else { magnitude }
}

/// G.711 µ-law.
fn to_ulaw(sample: i16) -> u8 {
    let sign = if sample < 0 { 0x80 } else { 0 };
    let magnitude = (i32::from(sample).abs() + 132).min(32_767);
    let exponent = (7 - (magnitude.leading_zeros() - 17).min(7)) as u8;
    let mantissa = (magnitude >> (exponent + 3)) as u8 & 0x0f;
    !(sign | exponent << 4 | mantissa)
}

fn from_ulaw(byte: u8) -> i16 {
    let byte = !byte;
    let magnitude = ((i16::from(byte & 0x0f) << 3) + 132) << ((byte >> 4) & 7);
    if byte & 0x80 == 0 { magnitude - 132 } else { 132 - magnitude }
}

/// The table's ends and some between, both ways.
pub(crate) fn check_ulaw() {
    for byte in 0..=255_u8 {
        // 0x7f is negative zero: the only one that does not come back.
        if byte != 0x7f {
            assert_eq!(to_ulaw(from_ulaw(byte)), byte, "{byte:#x}");
        }
        assert_eq!(to_alaw(from_alaw(byte)), byte, "{byte:#x}");
    }
    assert_eq!((from_ulaw(0), from_ulaw(0x80), from_ulaw(0xff)), (-32_124, 32_124, 0));
}
