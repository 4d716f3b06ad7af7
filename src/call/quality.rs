//! Quality of a stream in one number (ITU-T G.107 E-model, simplified for G.711 and Opus).

use crate::control::StreamStatistics;

/// Mean opinion score, 1.0-4.5, of what we received; `None` before enough packets came.
pub(super) fn mos(statistics: &StreamStatistics) -> Option<f64> {
    let received = statistics.packets_received;
    if received < 50 {
        return None;
    }
    let lost = statistics.packets_lost;
    #[allow(clippy::cast_precision_loss, reason = "a ratio needs no more than 52 bits")]
    let loss_percent = 100.0 * lost as f64 / (received + lost) as f64;
    let jitter_ms = f64::from(statistics.jitter_us) / 1_000.0;
    let one_way_ms = f64::from(statistics.rtt_us.unwrap_or(0)) / 2_000.0 + 2.0 * jitter_ms + 20.0;
    // Delay impairment Id and equipment impairment Ie-eff (Bpl 25.1: G.711 with concealment).
    let beyond = (one_way_ms - 177.3).max(0.0);
    let delay = 0.024 * one_way_ms + 0.11 * beyond;
    let equipment = 95.0 * loss_percent / (loss_percent + 25.1);
    let r = (93.2 - delay - equipment).clamp(0.0, 100.0);
    let score = 1.0 + 0.035 * r + r * (r - 60.0) * (100.0 - r) * 7e-6;
    Some((score.clamp(1.0, 4.5) * 100.0).round() / 100.0)
}

/// Microseconds as milliseconds.
pub(super) fn milliseconds(micros: u32) -> f64 {
    f64::from(micros) / 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loss_costs_quality() {
        let score = |lost| {
            mos(&StreamStatistics {
                packets_received: 1_000,
                packets_lost: lost,
                ..StreamStatistics::default()
            })
            .expect("enough packets")
        };
        assert!(score(0) > 4.3, "{}", score(0));
        assert!(score(50) < 4.0 && score(50) > 2.5, "{}", score(50));
        assert!(score(500) < 2.0, "{}", score(500));
        assert_eq!(mos(&StreamStatistics::default()), None);
    }
}
