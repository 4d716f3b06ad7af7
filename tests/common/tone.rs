//! Tones: made, kept as WAV, and found again in what a phone heard (Goertzel), so audio is judged by its content.
//!
//! Invariant: silence, noise and another tone are not the tone.

use std::f64::consts::TAU;
use std::fs;
use std::path::Path;

/// Samples a second of a telephone.
pub(crate) const RATE_HZ: u32 = 8_000;
const AMPLITUDE: f64 = 12_000.0;
/// So much of a recording is judged.
const WINDOW_MS: u32 = 400;
/// Root mean square below which there is nothing to hear.
const AUDIBLE: f64 = 300.0;
/// Share of the energy that is the tone's.
const SHARE: f64 = 0.6;

/// Audio as 16 bit samples, one channel.
#[derive(Clone, Debug, Default)]
pub(crate) struct Audio {
    pub(crate) rate_hz: u32,
    pub(crate) samples: Vec<i16>,
}

/// Sample number `index` of a tone.
pub(crate) fn tone_sample(frequency_hz: u32, rate_hz: u32, index: usize) -> i16 {
    let phase = TAU * f64::from(frequency_hz) * index as f64 / f64::from(rate_hz);
    (AMPLITUDE * phase.sin()) as i16
}

/// A tone of that many seconds.
pub(crate) fn tone(frequency_hz: u32, seconds: u32) -> Audio {
    let count = (RATE_HZ * seconds) as usize;
    let samples = (0..count).map(|index| tone_sample(frequency_hz, RATE_HZ, index)).collect();
    Audio { rate_hz: RATE_HZ, samples }
}

impl Audio {
    /// The last part, as long as is judged; `None` when there is less.
    pub(crate) fn last(&self) -> Option<Self> {
        let count = (self.rate_hz * WINDOW_MS / 1_000) as usize;
        let begin = self.samples.len().checked_sub(count).filter(|_| count > 0)?;
        Some(Self { rate_hz: self.rate_hz, samples: self.samples[begin..].to_vec() })
    }

    /// Somebody could hear something.
    pub(crate) fn is_audible(&self) -> bool {
        let energy: f64 = self.samples.iter().map(|sample| f64::from(*sample).powi(2)).sum();
        !self.samples.is_empty() && (energy / self.samples.len() as f64).sqrt() > AUDIBLE
    }

    /// It is this tone, and little else.
    pub(crate) fn is_tone(&self, frequency_hz: u32) -> bool {
        self.is_audible() && self.share(frequency_hz) > SHARE
    }

    /// Share of the energy at that frequency, 0 to 1 (Goertzel).
    pub(crate) fn share(&self, frequency_hz: u32) -> f64 {
        let omega = TAU * f64::from(frequency_hz) / f64::from(self.rate_hz);
        let (mut before, mut last, mut energy) = (0.0, 0.0, 0.0);
        for sample in self.samples.iter().map(|sample| f64::from(*sample)) {
            let next = sample + 2.0 * omega.cos() * last - before;
            (before, last) = (last, next);
            energy += sample * sample;
        }
        let power = last * last + before * before - 2.0 * omega.cos() * last * before;
        if energy == 0.0 { 0.0 } else { 2.0 * power / (energy * self.samples.len() as f64) }
    }

    /// As a WAV file.
    pub(crate) fn write(&self, path: &Path) {
        let data = u32::try_from(self.samples.len() * 2).expect("a short file");
        let mut bytes = Vec::with_capacity(self.samples.len() * 2 + 44);
        bytes.extend_from_slice(b"RIFF");
        bytes.extend_from_slice(&(data + 36).to_le_bytes());
        bytes.extend_from_slice(b"WAVEfmt ");
        bytes.extend_from_slice(&16_u32.to_le_bytes());
        bytes.extend_from_slice(&[1, 0, 1, 0]);
        bytes.extend_from_slice(&self.rate_hz.to_le_bytes());
        bytes.extend_from_slice(&(self.rate_hz * 2).to_le_bytes());
        bytes.extend_from_slice(&[2, 0, 16, 0]);
        bytes.extend_from_slice(b"data");
        bytes.extend_from_slice(&data.to_le_bytes());
        bytes.extend(self.samples.iter().flat_map(|sample| sample.to_le_bytes()));
        fs::write(path, bytes).expect("a WAV file");
    }

    /// Of a WAV file that may still grow: its header's lengths are not believed. First channel only.
    pub(crate) fn read(path: &Path) -> Option<Self> {
        let bytes = fs::read(path).ok()?;
        let format = position(&bytes, b"fmt ")? + 8;
        let channels =
            usize::from(u16::from_le_bytes(bytes.get(format + 2..format + 4)?.try_into().ok()?));
        let rate_hz = u32::from_le_bytes(bytes.get(format + 4..format + 8)?.try_into().ok()?);
        let data = bytes.get(position(&bytes, b"data")? + 8..)?;
        let samples = data
            .chunks_exact(2 * channels.max(1))
            .map(|frame| i16::from_le_bytes([frame[0], frame[1]]))
            .collect();
        Some(Self { rate_hz, samples })
    }
}

fn position(bytes: &[u8], name: &[u8; 4]) -> Option<usize> {
    bytes.windows(4).position(|window| window == name)
}
