//! Quality of a stream in one number: the E-model of ITU-T G.107, with its default values but for what is measured.
//!
//! R = R0 - Id - Ie,eff (G.107 §7.1; R0 - Is = 93.2 by default, A = 0), and MOS from R by G.107 Annex B.
//!
//! - Id, of delay: 0.024 Ta + 0.11 (Ta - 177.3) above 177.3 ms, which is how Cole and Rosenbluth ("Voice over IP
//!   performance monitoring", ACM CCR 31, 2001) simplify G.107 §7.4 where there is no echo. Ta is half the round trip,
//!   a packet, and twice the jitter, which is what a phone's buffer takes.
//! - Ie,eff, of codec and loss: Ie + (95 - Ie) Ppl / (Ppl / BurstR + Bpl) (G.107 §7.5). BurstR is the mean run of lost
//!   packets over the one that loss at random would have.

use crate::control::StreamStatistics;

/// What a codec costs (Ie), and how well it stands loss (Bpl).
#[derive(Clone, Copy, Debug)]
struct Codec {
    impairment: f64,
    robustness: f64,
}

/// By encoding name. G.113 Appendix I (2007) gives G.711 with concealment of its Appendix I, G.729A and G.723.1 with
/// VAD, and Ie of GSM full rate, whose Bpl we take to be that of the enhanced one. It has nothing of G.722 and Opus on
/// the scale of narrow band, which ends at 93.2: they are not worse than G.711 there, conceal, and Opus has FEC as
/// well, so they count as it does. So does whatever else phones agree on.
const CODECS: [(&str, Codec); 4] = [
    ("PCMU", Codec { impairment: 0.0, robustness: 25.1 }),
    ("G729", Codec { impairment: 11.0, robustness: 19.0 }),
    ("G723", Codec { impairment: 15.0, robustness: 16.1 }),
    ("GSM", Codec { impairment: 20.0, robustness: 10.0 }),
];

/// Of fewer packets it says nothing.
const FEWEST: u64 = 50;

/// How a stream, or a part of it, came.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Passage<'a> {
    /// Encoding name.
    pub codec: Option<&'a str>,
    pub received: u64,
    pub lost: u64,
    /// Of lost packets that followed each other; 0: not known.
    pub runs: u32,
    pub jitter_us: u32,
    pub rtt_us: Option<u32>,
}

impl<'a> Passage<'a> {
    /// All of a stream.
    pub fn of(codec: Option<&'a str>, statistics: &StreamStatistics, runs: u32) -> Self {
        Self {
            codec,
            received: statistics.packets_received,
            lost: statistics.packets_lost,
            runs,
            jitter_us: statistics.jitter_us,
            rtt_us: statistics.rtt_us,
        }
    }

    /// Mean opinion score, 1.0-4.5; `None` before enough packets came.
    pub fn mos(&self) -> Option<f64> {
        if self.received < FEWEST {
            return None;
        }
        let r = (93.2 - self.delay() - self.equipment()).clamp(0.0, 100.0);
        let score = 1.0 + 0.035 * r + r * (r - 60.0) * (100.0 - r) * 7e-6;
        Some((score.clamp(1.0, 4.5) * 100.0).round() / 100.0)
    }

    fn delay(&self) -> f64 {
        let round_trip_ms = milliseconds(self.rtt_us.unwrap_or(0));
        let one_way_ms = round_trip_ms / 2.0 + 2.0 * milliseconds(self.jitter_us) + 20.0;
        0.024 * one_way_ms + 0.11 * (one_way_ms - 177.3).max(0.0)
    }

    fn equipment(&self) -> f64 {
        let [(_, usual), ..] = CODECS;
        let is_it = |(name, _): &&(&str, _)| {
            self.codec.is_some_and(|codec| codec.eq_ignore_ascii_case(name))
        };
        let Codec { impairment, robustness } =
            CODECS.iter().find(is_it).map_or(usual, |(_, codec)| *codec);
        let loss = ratio(self.lost, self.received + self.lost);
        let random = 1.0 / (1.0 - loss).max(f64::EPSILON);
        let burst_ratio = match self.runs {
            0 => 1.0,
            runs => (ratio(self.lost, runs.into()) / random).max(1.0),
        };
        let percent = 100.0 * loss;
        impairment + (95.0 - impairment) * percent / (percent / burst_ratio + robustness)
    }
}

/// 0 of none.
pub(super) fn ratio(part: u64, whole: u64) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "a ratio needs no more than 52 bits")]
    let ratio = part as f64 / whole.max(1) as f64;
    ratio
}

/// Microseconds as milliseconds.
pub(super) fn milliseconds(micros: u32) -> f64 {
    f64::from(micros) / 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLEAN: Passage<'_> = Passage {
        codec: Some("PCMU"),
        received: 1_000,
        lost: 0,
        runs: 0,
        jitter_us: 0,
        rtt_us: None,
    };

    fn score(passage: Passage<'_>) -> f64 {
        passage.mos().expect("enough packets")
    }

    #[test]
    fn loss_and_delay_cost_quality() {
        // R = 92.7: what G.107 has for its defaults, but for 20 ms of delay.
        assert_eq!(score(CLEAN), 4.4);
        // 5 %: R = 92.7 - 95 * 5 / 30.1 = 76.9.
        assert_eq!(score(Passage { received: 950, lost: 50, ..CLEAN }), 3.9);
        assert!(score(Passage { lost: 500, ..CLEAN }) < 2.5);
        // 400 ms there and back and a packet: R = 93.2 - 5.3 - 4.7 = 83.2.
        assert_eq!(score(Passage { rtt_us: Some(400_000), ..CLEAN }), 4.14);
        assert_eq!(Passage { received: 49, ..CLEAN }.mos(), None);
    }

    #[test]
    fn every_codec_has_its_own() {
        let at = |codec, lost| {
            score(Passage { codec: Some(codec), received: 1_000 - lost, lost, ..CLEAN })
        };
        for (codec, clean, lossy) in [
            ("pcma", 4.4, 4.32),
            ("PCMU", 4.4, 4.32),
            ("opus", 4.4, 4.32),
            ("G722", 4.4, 4.32),
            ("G729", 4.09, 3.93),
            ("G723", 3.93, 3.74),
            ("GSM", 3.72, 3.4),
        ] {
            assert_eq!((at(codec, 0), at(codec, 10)), (clean, lossy), "{codec}");
        }
    }

    #[test]
    fn loss_in_bursts_is_worse_than_the_same_at_random() {
        let of = |runs| score(Passage { received: 950, lost: 50, runs, ..CLEAN });
        assert_eq!(of(50), of(0));
        assert!(of(10) < of(50) && of(2) < of(10));
    }
}
