//! How a call sounds over time: the worst and the mean of what reports tell, and a phone that is not heard.
//!
//! A node that takes the call over begins anew: what it tells is of its own time.

use super::Call;
use super::leg::Leg;
use super::quality::{milliseconds, mos};
use super::record::Phase;
use crate::control::StreamStatistics;
use crate::event::Event;
use crate::ids::LegId;
use crate::time::Timestamp;
use crate::views::CdrLeg;
use crate::views::call::LegRole;
use core::time::Duration;

/// A phone whose last packet is so much older than the other's is not heard.
const BEHIND: Duration = Duration::from_millis(1_500);
/// A score of fewer packets says little.
const PACKETS: u64 = 100;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Sound {
    legs: Vec<(LegId, Heard)>,
    /// Told of as not heard.
    silent: Option<(LegId, LegRole)>,
}

/// What was heard of one phone.
#[derive(Debug, Default)]
struct Heard {
    /// When the score was made last.
    before: StreamStatistics,
    scores: Mean,
    worst: Option<f64>,
    jitter: Mean,
    round_trip: Mean,
}

#[derive(Debug, Default)]
struct Mean {
    sum: f64,
    count: u32,
}

impl Mean {
    fn add(&mut self, value: f64) {
        self.sum += value;
        self.count += 1;
    }

    fn get(&self) -> Option<f64> {
        (self.count > 0).then(|| (self.sum / f64::from(self.count) * 100.0).round() / 100.0)
    }
}

impl Heard {
    /// The score is of the packets since the last one, not of the whole call: ten bad seconds of an hour show.
    fn take(&mut self, now: &StreamStatistics) {
        let new = now.packets_received.saturating_sub(self.before.packets_received);
        if new < PACKETS {
            return;
        }
        let since = StreamStatistics {
            packets_received: new,
            packets_lost: now.packets_lost.saturating_sub(self.before.packets_lost),
            ..now.clone()
        };
        self.before = now.clone();
        self.jitter.add(milliseconds(now.jitter_us));
        if let Some(rtt_us) = now.rtt_us {
            self.round_trip.add(milliseconds(rtt_us));
        }
        if let Some(score) = mos(&since) {
            self.scores.add(score);
            self.worst = Some(self.worst.map_or(score, |worst| worst.min(score)));
        }
    }
}

impl Sound {
    pub(super) fn take(&mut self, leg: LegId, statistics: &StreamStatistics) {
        let at = self.legs.iter().position(|(id, _)| *id == leg).unwrap_or_else(|| {
            self.legs.push((leg, Heard::default()));
            self.legs.len() - 1
        });
        if let Some((_, heard)) = self.legs.get_mut(at) {
            heard.take(statistics);
        }
    }

    pub(super) fn give_room_back(&mut self) {
        self.legs.shrink_to_fit();
    }

    /// What a CDR says of a leg, as far as it was heard long enough.
    pub(super) fn complete(&self, leg: LegId, cdr: CdrLeg) -> CdrLeg {
        let Some((_, heard)) = self.legs.iter().find(|(id, _)| *id == leg) else { return cdr };
        CdrLeg {
            jitter_mean_ms: heard.jitter.get().or(cdr.jitter_mean_ms),
            rtt_mean_ms: heard.round_trip.get().or(cdr.rtt_mean_ms),
            mos_mean: heard.scores.get().or(cdr.mos_mean),
            mos_min: heard.worst.or(cdr.mos_min),
            ..cdr
        }
    }
}

impl Call {
    /// New statistics are there.
    pub(super) fn judge_sound(&mut self) {
        for leg in &self.record.legs {
            if let Some(statistics) = leg.statistics.first() {
                self.sound.take(leg.id, statistics);
            }
        }
        let silent = self.silent_leg();
        if silent == self.sound.silent || self.record.phase == Phase::Ended {
            return;
        }
        let before = core::mem::replace(&mut self.sound.silent, silent);
        for (told, silent) in [(before, false), (silent, true)] {
            if let Some((leg, role)) = told {
                self.emit(Event::OneWayAudio { call: self.record.id, leg, role, silent });
            }
        }
    }

    pub(super) fn silent_role(&self) -> Option<LegRole> {
        self.sound.silent.map(|(_, role)| role)
    }

    /// The one phone that is not heard while the other is. Both are told by the same clock.
    fn silent_leg(&self) -> Option<(LegId, LegRole)> {
        if self.record.phase != Phase::Confirmed {
            return None;
        }
        let expected = |leg: &&Leg| leg.is_live() && leg.phone_sends() && !leg.holds;
        let last = |leg: &Leg| leg.statistics.first()?.last_packet_at;
        let legs: Vec<(&Leg, Option<Timestamp>)> =
            self.record.legs.iter().filter(expected).map(|leg| (leg, last(leg))).collect();
        let [one, other] = &legs[..] else { return None };
        let is_behind = |one: Option<Timestamp>, other: Option<Timestamp>| match (one, other) {
            (None, Some(_)) => true,
            (Some(one), Some(other)) => other.saturating_since(one) > BEHIND,
            (_, None) => false,
        };
        let [(silent, at), (_, other_at)] = match is_behind(one.1, other.1) {
            true => [one, other],
            false => [other, one],
        };
        let answered = self.record.answered_at?;
        let is_young = self.now.saturating_since(answered) < BEHIND;
        (is_behind(*at, *other_at) && !is_young).then_some((silent.id, silent.role))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_bad_seconds_show_in_the_worst_and_not_in_the_mean() {
        let mut sound = Sound::default();
        let (mut received, mut lost) = (0, 0);
        for number in 0..60 {
            let bad = if number == 30 { 50 } else { 0 };
            received += 250 - bad;
            lost += bad;
            let jitter_us = if number == 30 { 30_000 } else { 2_000 };
            let statistics = StreamStatistics {
                packets_received: received,
                packets_lost: lost,
                jitter_us,
                ..StreamStatistics::default()
            };
            sound.take(LegId(0), &statistics);
        }
        let (_, heard) = &sound.legs[0];
        assert!(heard.worst.is_some_and(|worst| worst < 2.9), "{heard:?}");
        assert!(heard.scores.get().is_some_and(|mean| mean > 4.2), "{heard:?}");
        assert_eq!(heard.jitter.get(), Some(2.47));
    }
}
