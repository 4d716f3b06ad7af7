//! Tones as samples, and how much of a tone is in samples (Goertzel).

use super::SAMPLE_RATE_HZ;
use serde::{Deserialize, Serialize};

/// A sine without end. A recurrence: no trigonometry per sample.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sine {
    factor: f64,
    before: f64,
    last: f64,
    start: (f64, f64),
    period: u32,
    position: u32,
}

impl Sine {
    /// `amplitude` of 32,767 is full scale.
    pub fn new(frequency_hz: u32, amplitude: u16) -> Self {
        let step = core::f64::consts::TAU * f64::from(frequency_hz) / f64::from(SAMPLE_RATE_HZ);
        let amplitude = f64::from(amplitude);
        let start = (-2.0 * step, -step);
        let (before, last) = (amplitude * start.0.sin(), amplitude * start.1.sin());
        let factor = 2.0 * step.cos();
        let start = (before, last);
        // After a second every whole frequency is where it began: starting over leaves no error
        // behind.
        Self { factor, before, last, start, period: SAMPLE_RATE_HZ, position: 0 }
    }
}

impl Iterator for Sine {
    type Item = i16;
    fn next(&mut self) -> Option<i16> {
        if self.position == self.period {
            (self.before, self.last) = self.start;
            self.position = 0;
        }
        self.position += 1;
        let sample = self.factor * self.last - self.before;
        self.before = self.last;
        self.last = sample;
        Some(sample as i16)
    }
}

/// Ringing as a caller hears it in most of Europe (ITU-T E.180): 425 Hz, 1 s on, 4 s off.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ringback {
    sine: Sine,
    position: u32,
}

const RINGBACK_HZ: u32 = 425;
/// About -16 dBm0.
const RINGBACK_AMPLITUDE: u16 = 5_000;
const RINGBACK_ON: u32 = SAMPLE_RATE_HZ;
const RINGBACK_CYCLE: u32 = 5 * SAMPLE_RATE_HZ;

impl Default for Ringback {
    fn default() -> Self {
        Self { sine: Sine::new(RINGBACK_HZ, RINGBACK_AMPLITUDE), position: 0 }
    }
}

impl Iterator for Ringback {
    type Item = i16;
    fn next(&mut self) -> Option<i16> {
        let sounding = self.position < RINGBACK_ON;
        self.position = (self.position + 1) % RINGBACK_CYCLE;
        if sounding { self.sine.next() } else { Some(0) }
    }
}

/// A tone that comes and goes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Cadence {
    sine: Sine,
    position: u32,
    on: u32,
    cycle: u32,
}

impl Cadence {
    /// On and off, without end; no pause at all when `off_ms` is 0.
    pub fn new(frequency_hz: u32, on_ms: u32, off_ms: u32) -> Self {
        let samples = |ms: u32| ms * (SAMPLE_RATE_HZ / 1_000);
        let sine = Sine::new(frequency_hz, RINGBACK_AMPLITUDE);
        Self { sine, position: 0, on: samples(on_ms), cycle: samples(on_ms + off_ms).max(1) }
    }
}

impl Iterator for Cadence {
    type Item = i16;
    fn next(&mut self) -> Option<i16> {
        let sounding = self.position < self.on;
        self.position = (self.position + 1) % self.cycle;
        if sounding { self.sine.next() } else { Some(0) }
    }
}

/// The share of the samples' power that lies at a frequency: 1 for a pure tone, near 0 for anything
/// else.
pub fn power_at(frequency_hz: u32, samples: &[i16]) -> f64 {
    let step = core::f64::consts::TAU * f64::from(frequency_hz) / f64::from(SAMPLE_RATE_HZ);
    let factor = 2.0 * step.cos();
    let (mut before, mut last, mut power) = (0.0, 0.0, 0.0);
    for sample in samples {
        let sample = f64::from(*sample);
        power += sample * sample;
        (before, last) = (last, sample + factor * last - before);
    }
    if power == 0.0 {
        return 0.0;
    }
    let found = last * last + before * before - factor * last * before;
    2.0 * found / (power * samples.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sine_is_found_where_it_is() {
        let samples: Vec<i16> = Sine::new(440, 10_000).take(24_000).collect();
        assert!(power_at(440, &samples) > 0.99);
        assert!(power_at(1_000, &samples) < 0.01);
        let peak = samples.iter().copied().max().unwrap_or(0);
        assert!((9_990..=10_000).contains(&peak), "{peak}");
        assert_eq!(samples[0], 0);
        assert!(power_at(440, &[0; 160]) < 0.01);
    }

    #[test]
    fn a_cadence_comes_and_goes() {
        let samples: Vec<i16> = Cadence::new(425, 500, 500).take(12_000).collect();
        assert!(power_at(425, &samples[..4_000]) > 0.99);
        assert!(samples[4_000..8_000].iter().all(|sample| *sample == 0));
        assert!(power_at(425, &samples[8_000..]) > 0.99);
        let samples: Vec<i16> = Cadence::new(425, 1_000, 0).take(24_000).collect();
        assert!(power_at(425, &samples) > 0.99);
    }

    #[test]
    fn ringing_has_its_cadence() {
        let samples: Vec<i16> = Ringback::default().take(8_000 * 6).collect();
        assert!(power_at(425, &samples[..8_000]) > 0.99);
        assert!(samples[8_000..40_000].iter().all(|sample| *sample == 0));
        assert!(power_at(425, &samples[40_000..]) > 0.99);
    }
}
