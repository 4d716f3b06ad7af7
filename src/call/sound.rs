//! How a call sounds over time: the worst and the mean of what reports tell, and phones that are not heard.
//!
//! What a CDR says of it is in the record, so who takes the call over goes on with it.

use super::leg::Leg;
use super::quality::{Passage, ratio};
use super::record::Phase;
use super::{Call, LAZIEST_SAVE};
use crate::control::{Bursts, Missed, StreamStatistics};
use crate::event::Event;
use crate::ids::LegId;
use crate::time::Timestamp;
use crate::views::CdrLeg;
use crate::views::call::{BurstsView, LegRole};
use core::time::Duration;
use serde::{Deserialize, Serialize};

/// A phone that should send and was not heard so long is not heard.
const UNHEARD: Duration = Duration::from_millis(1_500);
/// A score of fewer packets says little.
const PACKETS: u64 = 100;
/// A score that is so much worse than all before is worth a save, in hundredths.
const WORSE: u16 = 30;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Sound {
    legs: Vec<(LegId, Heard)>,
    /// Told of as not heard.
    unheard: Option<Unheard>,
    pub(super) sampled_at: Option<Timestamp>,
}

/// Who is not heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unheard {
    One(LegId, LegRole),
    Both,
}

/// What was heard of one phone.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// When the score was made last.
    scored: Counted,
    /// When a sample was taken last.
    pub(super) sampled: Counted,
    /// Told of as silent since its last packet, which came then.
    quiet: Option<Option<Timestamp>>,
    /// Of media nodes that counted before, and of the present one.
    bursts: (Bursts, Bursts),
}

/// What rises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counted {
    pub received: u64,
    pub lost: u64,
    pub runs: u32,
    pub sent: u64,
    pub reported_lost: u64,
}

impl Counted {
    pub fn of(now: &StreamStatistics, runs: u32) -> Self {
        Self {
            received: now.packets_received,
            lost: now.packets_lost,
            runs,
            sent: now.packets_sent,
            reported_lost: now.reported_lost.unwrap_or(0).into(),
        }
    }

    /// What is new; all of it, where another process began from nothing.
    pub fn since(&self, before: &Self) -> Self {
        if self.received < before.received || self.sent < before.sent {
            return *self;
        }
        Self {
            received: self.received - before.received,
            lost: self.lost.saturating_sub(before.lost),
            runs: self.runs.saturating_sub(before.runs),
            sent: self.sent - before.sent,
            reported_lost: self.reported_lost.saturating_sub(before.reported_lost),
        }
    }
}

/// What a CDR says of a leg, but for what is in its last statistics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Summary {
    /// Hundredths, as `worst`.
    scores: Mean,
    worst: Option<u16>,
    jitter_us: Mean,
    rtt_us: Mean,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Mean {
    sum: u64,
    count: u32,
}

impl Mean {
    fn add(&mut self, value: u32) {
        self.sum += u64::from(value);
        self.count += 1;
    }

    fn get(self) -> Option<f64> {
        (self.count > 0).then(|| ratio(self.sum, self.count.into()))
    }
}

fn hundredths(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

impl Heard {
    pub(super) fn bursts(&self) -> Bursts {
        let (former, present) = self.bursts;
        Bursts {
            count: former.count.saturating_add(present.count),
            packets: former.packets.saturating_add(present.packets),
            lost: former.lost.saturating_add(present.lost),
            runs: former.runs.saturating_add(present.runs),
        }
    }

    /// The score is of the packets since the last one, not of the whole call: ten bad seconds of an hour show.
    fn score(&mut self, codec: Option<&str>, now: &StreamStatistics, summary: &mut Summary) {
        let counted = Counted::of(now, self.bursts().runs);
        let new = counted.since(&self.scored);
        if new.received < PACKETS {
            return;
        }
        self.scored = counted;
        let Counted { received, lost, runs, .. } = new;
        let since = Passage { received, lost, ..Passage::of(codec, now, runs) };
        summary.add(&since);
    }
}

impl Summary {
    fn add(&mut self, passage: &Passage<'_>) {
        self.jitter_us.add(passage.jitter_us);
        if let Some(rtt_us) = passage.rtt_us {
            self.rtt_us.add(rtt_us);
        }
        if let Some(score) = passage.mos() {
            let score = (score * 100.0).round() as u16;
            self.scores.add(score.into());
            self.worst = Some(self.worst.map_or(score, |worst| worst.min(score)));
        }
    }

    fn is_much_worse_than(&self, before: &Self) -> bool {
        let worst = self.worst.zip(before.worst);
        worst.is_some_and(|(now, before)| now.saturating_add(WORSE) <= before)
    }

    fn complete(&self, cdr: CdrLeg) -> CdrLeg {
        let time = |mean: Mean| mean.get().map(|micros| hundredths(micros / 1_000.0));
        CdrLeg {
            jitter_mean_ms: time(self.jitter_us).or(cdr.jitter_mean_ms),
            rtt_mean_ms: time(self.rtt_us).or(cdr.rtt_mean_ms),
            mos_mean: self.scores.get().map(|mean| mean.round() / 100.0).or(cdr.mos_mean),
            mos_min: self.worst.map(|worst| f64::from(worst) / 100.0).or(cdr.mos_min),
            ..cdr
        }
    }
}

impl Sound {
    pub(super) fn heard(&mut self, leg: LegId) -> &mut Heard {
        let at = self.legs.iter().position(|(id, _)| *id == leg).unwrap_or_else(|| {
            self.legs.push((leg, Heard::default()));
            self.legs.len() - 1
        });
        let (_, heard) = self.legs.get_mut(at).expect("it was found, or put there");
        heard
    }

    pub(super) fn give_room_back(&mut self) {
        self.legs.shrink_to_fit();
    }

    fn bursts(&self, leg: LegId) -> Bursts {
        let heard = self.legs.iter().find(|(id, _)| *id == leg);
        heard.map(|(_, heard)| heard.bursts()).unwrap_or_default()
    }
}

impl Call {
    /// What did not come from phones, of those of which there is something to tell.
    pub(super) fn take_missed(&mut self, missed: &[Missed]) {
        for leg in &self.record.legs {
            let told = missed.iter().find(|told| (told.leg, told.stream) == (leg.id, 0));
            let heard = self.sound.heard(leg.id);
            let silent =
                told.map_or(Duration::ZERO, |told| Duration::from_millis(told.silent_ms.into()));
            heard.quiet = (silent >= UNHEARD).then(|| leg.last_packet_at());
            if let Some(told) = told {
                let (former, present) = (heard.bursts(), &mut heard.bursts);
                if told.bursts.runs < present.1.runs {
                    present.0 = former;
                }
                present.1 = told.bursts;
            }
        }
        self.judge_sound();
    }

    /// New statistics are there.
    pub(super) fn judge_sound(&mut self) {
        let mut is_much_worse = false;
        for leg in &self.record.legs {
            let Some(statistics) = leg.statistics.first() else { continue };
            let summaries = &mut self.record.added_5.sound;
            let known = summaries.iter().position(|(id, _)| *id == leg.id);
            let mut summary = known.map(|at| summaries[at].1).unwrap_or_default();
            let before = summary;
            self.sound.heard(leg.id).score(leg.codec(), statistics, &mut summary);
            is_much_worse |= summary.is_much_worse_than(&before);
            match known {
                Some(at) => summaries[at].1 = summary,
                None if summary == before => {}
                None => summaries.push((leg.id, summary)),
            }
        }
        if is_much_worse {
            self.save_within(LAZIEST_SAVE);
        }
        self.judge_silence_of_phones();
        self.note_flags();
    }

    fn judge_silence_of_phones(&mut self) {
        let unheard = self.unheard();
        if unheard == self.sound.unheard || self.record.phase == Phase::Ended {
            return;
        }
        let before = core::mem::replace(&mut self.sound.unheard, unheard);
        let call = self.record.id;
        for (told, silent) in [(before, false), (unheard, true)] {
            match told {
                Some(Unheard::One(leg, role)) => {
                    self.emit(Event::OneWayAudio { call, leg, role, silent });
                }
                Some(Unheard::Both) => self.emit(Event::NoAudio { call, silent }),
                None => {}
            }
        }
    }

    /// The one phone that is not heard while the other is.
    pub(super) fn silent_role(&self) -> Option<LegRole> {
        match self.sound.unheard {
            Some(Unheard::One(_, role)) => Some(role),
            Some(Unheard::Both) | None => None,
        }
    }

    /// Neither phone is heard.
    pub(super) fn is_silent(&self) -> bool {
        self.sound.unheard == Some(Unheard::Both)
    }

    /// Of two phones that should send. One that need not has time again when it should.
    fn unheard(&mut self) -> Option<Unheard> {
        if self.record.phase != Phase::Confirmed {
            return None;
        }
        let mut expected = Vec::new();
        for leg in &self.record.legs {
            let heard = self.sound.heard(leg.id);
            if leg.is_live() && leg.phone_sends() && !leg.holds && !leg.description.parked {
                expected.push((leg.id, leg.role, heard.quiet == Some(leg.last_packet_at())));
            } else {
                heard.quiet = None;
            }
        }
        match expected[..] {
            [(.., true), (.., true)] => Some(Unheard::Both),
            [(leg, role, true), _] | [_, (leg, role, true)] => Some(Unheard::One(leg, role)),
            _ => None,
        }
    }

    /// What a CDR says of a leg, as far as it was heard long enough.
    pub(super) fn complete(&self, leg: &Leg, cdr: CdrLeg) -> CdrLeg {
        let summaries = &self.record.added_5.sound;
        let summary = summaries.iter().find(|(id, _)| *id == leg.id);
        let cdr = summary.map_or(cdr.clone(), |(_, summary)| summary.complete(cdr));
        CdrLeg { bursts: self.bursts_view(leg), ..cdr }
    }

    /// Runs of lost packets of what came from a phone.
    pub(super) fn loss_runs(&self, leg: LegId) -> u32 {
        self.sound.bursts(leg).runs
    }

    /// Bursts and gaps of what came from a phone, if anything did.
    pub(super) fn bursts_view(&self, leg: &Leg) -> Option<BurstsView> {
        let statistics = leg.statistics.first().filter(|heard| heard.packets_received > 0)?;
        let Bursts { count, packets, lost, .. } = self.sound.bursts(leg.id);
        let all = statistics.packets_received + statistics.packets_lost;
        let gaps = u64::from(count) + 1;
        let gap_packets = all.saturating_sub(packets.into());
        let gap_lost = statistics.packets_lost.saturating_sub(lost.into());
        let percent = |lost, packets| hundredths(100.0 * ratio(lost, packets));
        let duration = |packets: u64, count: u64| {
            (packets * u64::from(leg.packet_ms())).checked_div(count).unwrap_or(0)
        };
        Some(BurstsView {
            count,
            burst_lost_percent: percent(lost.into(), packets.into()),
            burst_ms: duration(packets.into(), count.into()),
            gap_lost_percent: percent(gap_lost, gap_packets),
            gap_ms: duration(gap_packets, gaps),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_bad_seconds_show_in_the_worst_and_not_in_the_mean() {
        let (mut heard, mut summary) = (Heard::default(), Summary::default());
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
            let before = summary;
            heard.score(Some("PCMU"), &statistics, &mut summary);
            assert_eq!(summary.is_much_worse_than(&before), number == 30);
        }
        assert!(summary.worst.is_some_and(|worst| worst < 290), "{summary:?}");
        assert!(summary.scores.get().is_some_and(|mean| mean > 420.0), "{summary:?}");
        assert_eq!(summary.jitter_us.get().map(f64::round), Some(2_467.0));
    }
}
