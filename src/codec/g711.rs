//! ITU-T G.711 by tables: µ-law over 14 bits, A-law over 13 bits of a 16-bit sample.
//!
//! Invariant: decoding and encoding again gives the same byte (but for the two zeros of µ-law).

use super::{Decoder, Encoder, SAMPLES_PER_MS};

/// Which companding law.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Law {
    /// PCMU.
    Mu,
    /// PCMA.
    A,
}

/// Added to a magnitude so that every µ-law segment begins at a power of two.
const MU_BIAS: i32 = 33;
/// Greatest biased 13-bit magnitude.
const MU_CLIP: i32 = 0x1fff;

const MU_EXPANDED: [i16; 256] = expanded(Law::Mu);
const A_EXPANDED: [i16; 256] = expanded(Law::A);
static MU_COMPRESSED: [u8; 1 << 14] = mu_compressed();
static A_COMPRESSED: [u8; 1 << 12] = a_compressed();

const fn expanded(law: Law) -> [i16; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = match law {
            Law::Mu => expand_mu(byte as i32),
            Law::A => expand_a(byte as i32),
        };
        byte += 1;
    }
    table
}

const fn expand_mu(byte: i32) -> i16 {
    let inverted = !byte & 0xff;
    let segment = (inverted >> 4) & 7;
    let magnitude = ((((inverted & 15) << 1) + MU_BIAS) << segment) - MU_BIAS;
    // 14 bits stand at the top of 16.
    (if inverted & 0x80 != 0 { -magnitude * 4 } else { magnitude * 4 }) as i16
}

const fn expand_a(byte: i32) -> i16 {
    let toggled = byte ^ 0x55;
    let segment = (toggled >> 4) & 7;
    let step = (toggled & 15) * 2 + 1;
    let magnitude = if segment == 0 { step } else { (step + 32) << (segment - 1) };
    // 13 bits stand at the top of 16.
    (if toggled & 0x80 != 0 { magnitude * 8 } else { -magnitude * 8 }) as i16
}

/// By the upper 14 bits of a sample.
const fn mu_compressed() -> [u8; 1 << 14] {
    let mut table = [0; 1 << 14];
    let mut index = 0;
    while index < table.len() {
        let sample = ((index as i32) << 18) >> 18;
        let magnitude = if sample < 0 { !sample } else { sample } + MU_BIAS;
        let magnitude = if magnitude > MU_CLIP { MU_CLIP } else { magnitude };
        let segment = 26 - magnitude.leading_zeros() as i32;
        let code = segment << 4 | (magnitude >> (segment + 1)) & 15;
        table[index] = !(code | if sample < 0 { 0x80 } else { 0 }) as u8;
        index += 1;
    }
    table
}

/// By the upper 12 bits of a sample: the 13th decides nothing.
const fn a_compressed() -> [u8; 1 << 12] {
    let mut table = [0; 1 << 12];
    let mut index = 0;
    while index < table.len() {
        let sample = ((index as i32) << 20) >> 20;
        let magnitude = if sample < 0 { !sample } else { sample };
        let code = if magnitude < 16 {
            magnitude
        } else {
            let segment = 28 - magnitude.leading_zeros() as i32;
            (segment << 4) | (magnitude >> (segment - 1)) & 15
        };
        table[index] = ((code | if sample < 0 { 0 } else { 0x80 }) ^ 0x55) as u8;
        index += 1;
    }
    table
}

/// The sample of a byte.
pub fn expand(law: Law, byte: u8) -> i16 {
    match law {
        Law::Mu => MU_EXPANDED[usize::from(byte)],
        Law::A => A_EXPANDED[usize::from(byte)],
    }
}

/// The byte of a sample.
pub fn compress(law: Law, sample: i16) -> u8 {
    let bits = usize::from(sample.cast_unsigned());
    match law {
        Law::Mu => MU_COMPRESSED[bits >> 2],
        Law::A => A_COMPRESSED[bits >> 4],
    }
}

/// Decodes; a lost packet is the last one again, each time at half the volume.
#[derive(Debug)]
pub struct G711Decoder {
    law: Law,
    last: Vec<i16>,
}

impl G711Decoder {
    /// With silence behind it.
    pub fn new(law: Law) -> Self {
        Self { law, last: Vec::with_capacity(60 * SAMPLES_PER_MS) }
    }
}

impl Decoder for G711Decoder {
    fn decode(&mut self, payload: &[u8], samples: &mut [i16]) -> usize {
        let mut count = 0;
        for (sample, byte) in samples.iter_mut().zip(payload) {
            *sample = expand(self.law, *byte);
            count += 1;
        }
        self.last.clear();
        self.last.extend(samples.iter().take(count));
        count
    }

    fn conceal(&mut self, _next: Option<&[u8]>, samples: &mut [i16]) {
        for sample in &mut self.last {
            *sample /= 2;
        }
        let repeated = self.last.iter().copied().cycle();
        samples.fill(0);
        for (sample, last) in samples.iter_mut().zip(repeated) {
            *sample = last;
        }
    }
}

/// Encodes.
#[derive(Debug)]
pub struct G711Encoder {
    law: Law,
}

impl G711Encoder {
    /// Has no state but its law.
    pub const fn new(law: Law) -> Self {
        Self { law }
    }
}

impl Encoder for G711Encoder {
    fn encode(&mut self, samples: &[i16], payload: &mut [u8]) -> usize {
        let mut count = 0;
        for (byte, sample) in payload.iter_mut().zip(samples) {
            *byte = compress(self.law, *sample);
            count += 1;
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_points_of_both_laws() {
        for (law, byte, sample) in [
            (Law::Mu, 0x00, -32_124),
            (Law::Mu, 0x80, 32_124),
            (Law::Mu, 0xff, 0),
            (Law::Mu, 0x7f, 0),
            (Law::Mu, 0xfe, 8),
            (Law::A, 0xd5, 8),
            (Law::A, 0x55, -8),
            (Law::A, 0xaa, 32_256),
            (Law::A, 0x2a, -32_256),
            (Law::A, 0xc5, 264),
        ] {
            assert_eq!(expand(law, byte), sample, "{law:?} {byte:#x}");
        }
        for (law, sample, byte) in [
            (Law::Mu, i16::MAX, 0x80),
            (Law::Mu, i16::MIN, 0x00),
            (Law::Mu, 0, 0xff),
            (Law::Mu, -1, 0x7f),
            (Law::A, i16::MAX, 0xaa),
            (Law::A, i16::MIN, 0x2a),
            (Law::A, 0, 0xd5),
            (Law::A, -1, 0x55),
        ] {
            assert_eq!(compress(law, sample), byte, "{law:?} {sample}");
        }
    }

    #[test]
    fn every_byte_comes_back_and_every_sample_is_near() {
        for law in [Law::Mu, Law::A] {
            for byte in 0..=255 {
                let again = compress(law, expand(law, byte));
                let negative_zero = law == Law::Mu && byte == 0x7f;
                assert_eq!(again, if negative_zero { 0xff } else { byte }, "{law:?}");
            }
            for sample in i16::MIN..=i16::MAX {
                let near = i32::from(expand(law, compress(law, sample)));
                let error = (near - i32::from(sample)).abs();
                // Half a step of the segment; the ends clip.
                let bound = (i32::from(sample).abs() + 132) / 32 + 4;
                assert!(
                    error <= bound || sample.unsigned_abs() > 32_000,
                    "{law:?} {sample} {near}"
                );
            }
        }
    }

    #[test]
    fn a_lost_packet_fades() {
        let mut decoder = G711Decoder::new(Law::A);
        let mut samples = [0; 4];
        decoder.conceal(None, &mut samples);
        assert_eq!(samples, [0; 4], "nothing was heard yet");
        decoder.decode(&[0xaa, 0x2a], &mut samples);
        decoder.conceal(None, &mut samples);
        assert_eq!(samples, [16_128, -16_128, 16_128, -16_128]);
        decoder.conceal(None, &mut samples[..1]);
        assert_eq!(samples[0], 8_064);
    }
}
