//! How a call sounds, some seconds after the other: told while it lives, for who keeps what was said in it.
//!
//! Invariant: what is told is of this time alone, so it goes on whoever owns the call, and wherever its media is.

use super::quality::Passage;
use super::record::Phase;
use super::sound::Counted;
use super::{Call, Output};
use crate::control::StreamStatistics;
use crate::views::quality::{LegSounded, Passed, Sounded};
use core::time::Duration;

/// Of a young call, and of an old one: as often as its states are told, and no more than somebody looks at.
const STEP: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));
/// A call has so many of them by the time that they grow longer.
const FINE: u32 = 120;
/// States are told by a clock of their own.
const SLACK: Duration = Duration::from_millis(500);
/// What is left in the end is told if it is no shorter.
const SHORTEST: Duration = Duration::from_secs(1);

impl Call {
    /// New statistics are there.
    pub(super) fn sample_sound(&mut self) {
        let Some(answered) = self.record.answered_at else { return };
        let is_first = self.sound.sampled_at.is_none();
        let since = self.sound.sampled_at.unwrap_or(self.now);
        let age = self.now.saturating_since(answered);
        let due = match self.record.phase {
            Phase::Ended => SHORTEST,
            _ => (age / FINE).clamp(STEP.0, STEP.1) - SLACK,
        };
        if !is_first && self.now.saturating_since(since) < due {
            return;
        }
        let mut legs = Vec::new();
        for leg in &self.record.legs {
            let Some(now) = leg.statistics.first().filter(|_| leg.answered_at.is_some()) else {
                continue;
            };
            let heard = self.sound.heard(leg.id);
            let counted = Counted::of(now, heard.bursts().runs);
            let new = counted.since(&core::mem::replace(&mut heard.sampled, counted));
            let told = [new.received, new.lost, new.sent].iter().any(|count| *count > 0);
            if !is_first && (told || leg.is_live()) {
                legs.push(LegSounded {
                    leg: leg.id,
                    role: leg.role,
                    from_phone: from_phone(leg.codec(), &new, now),
                    to_phone: to_phone(leg.codec(), &new, now),
                    rtt_us: now.rtt_us,
                });
            }
        }
        self.sound.sampled_at = Some(self.now);
        if !legs.is_empty() {
            self.outputs.push_back(Output::Sounded(Sounded { since, legs }));
        }
    }
}

fn from_phone(codec: Option<&str>, new: &Counted, now: &StreamStatistics) -> Passed {
    let passage =
        Passage { received: new.received, lost: new.lost, ..Passage::of(codec, now, new.runs) };
    Passed {
        packets: short(new.received),
        lost: Some(short(new.lost)),
        jitter_us: Some(now.jitter_us),
        mos: passage.mos().map(hundredths),
    }
}

/// What the phone did not tell is not judged.
fn to_phone(codec: Option<&str>, new: &Counted, now: &StreamStatistics) -> Passed {
    let lost = now.reported_lost.map(|_| new.reported_lost);
    let passage = lost.map(|lost| Passage {
        codec,
        received: new.sent.saturating_sub(lost),
        lost,
        runs: 0,
        jitter_us: now.reported_jitter_us.unwrap_or(0),
        rtt_us: now.rtt_us,
    });
    Passed {
        packets: short(new.sent),
        lost: lost.map(short),
        jitter_us: now.reported_jitter_us,
        mos: passage.and_then(|passage| passage.mos()).map(hundredths),
    }
}

fn short(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn hundredths(mos: f64) -> u16 {
    (mos * 100.0).round() as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_counts_anew_is_new() {
        let counted = |received, lost| Counted { received, lost, ..Counted::default() };
        assert_eq!(counted(300, 4).since(&counted(100, 1)), counted(200, 3));
        // Another process began from nothing.
        assert_eq!(counted(50, 1).since(&counted(100, 1)), counted(50, 1));
    }

    #[test]
    fn who_does_not_tell_what_it_hears_has_no_score() {
        let new = Counted { sent: 250, ..Counted::default() };
        let silent = StreamStatistics::default();
        let told = to_phone(Some("PCMU"), &new, &silent);
        assert_eq!(told, Passed { packets: 250, ..Passed::default() });
        let tells = StreamStatistics { reported_lost: Some(9), ..silent };
        let told = to_phone(Some("PCMU"), &Counted { reported_lost: 5, ..new }, &tells);
        assert_eq!((told.lost, told.mos.is_some_and(|mos| mos < 430)), (Some(5), true));
    }
}
