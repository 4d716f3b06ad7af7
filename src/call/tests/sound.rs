//! How a call sounds: samples while it lives, and what its CDR says, whoever owned it.

use super::*;
use crate::control::{Bursts, Missed, Report, ReportKind};
use crate::ids::SessionId;

/// What the media node counted of either phone.
#[derive(Default)]
struct Media {
    received: u64,
    lost: u64,
    number: u64,
}

impl Media {
    /// Five seconds pass; of 250 packets of each phone so many were lost.
    fn passes(&mut self, bench: &mut Bench, lost: u64) {
        bench.wait(Duration::from_secs(5));
        self.received += 250 - lost;
        self.lost += lost;
        let statistics = StreamStatistics {
            packets_received: self.received,
            packets_lost: self.lost,
            packets_sent: self.received,
            jitter_us: 2_000,
            rtt_us: Some(40_000),
            last_packet_at: Some(bench.now),
            ..StreamStatistics::default()
        };
        let legs = [LegId(0), LegId(1)].map(|leg| LegState {
            leg,
            streams: vec![StreamState {
                index: 0,
                local: SocketAddr::from(([10, 0, 0, 9], 1)),
                port: 1,
                statistics: statistics.clone(),
            }],
        });
        self.tell(bench, |session| {
            let (epoch, rev, legs) = (Epoch(1), Rev(1), legs.to_vec());
            ReportKind::State(SessionState { session, epoch, rev, legs })
        });
    }

    fn tell(&mut self, bench: &mut Bench, kind: impl FnOnce(SessionId) -> ReportKind) {
        self.number += 1;
        let session = SessionId::from(bench.call.id());
        let kind = kind(session);
        bench.input(Input::Report(Report { session, number: self.number, kind }));
    }
}

#[test]
fn a_young_call_is_sampled_with_each_state_and_an_old_one_once_a_minute() {
    let (mut bench, mut media) = (Bench::answered(), Media::default());
    bench.acknowledge(1, "");
    for minute in 0..=125_u64 {
        let before = bench.sounded.len();
        (0..12).for_each(|_| media.passes(&mut bench, 0));
        let new = bench.sounded.len() - before;
        match minute {
            0 => assert_eq!(new, 11, "the first state is where it begins"),
            1..10 => assert_eq!(new, 12),
            121.. => assert_eq!(new, 1),
            _ => assert!((1..=12).contains(&new), "{minute}: {new}"),
        }
    }
    let all = &bench.sounded;
    assert!(all.windows(2).all(|pair| pair[0].since < pair[1].since));
    let packets: u32 = all.iter().map(|one| one.legs[0].from_phone.packets).sum();
    assert!(packets > 125 * 12 * 250 && all.iter().all(|one| one.legs.len() == 2), "{packets}");
    assert!(all.iter().all(|one| one.legs[1].from_phone.mos.is_some_and(|mos| mos > 430)));
}

#[test]
fn the_next_owner_goes_on_with_the_series_and_the_score() {
    let (mut bench, mut media) = (Bench::answered(), Media::default());
    bench.acknowledge(1, "");
    (0..6).for_each(|_| media.passes(&mut bench, 0));
    media.passes(&mut bench, 50);
    let bad = bench.sounded.last().expect("a sample").legs[0].from_phone;
    assert_eq!((bad.packets, bad.lost), (200, Some(50)));
    assert!(bad.mos.is_some_and(|mos| mos < 300), "{bad:?}");
    // What is so much worse than before is in the record soon.
    bench.wait(Duration::from_secs(10));
    bench.is_taken_over();
    let before = bench.sounded.len();
    (0..3).for_each(|_| media.passes(&mut bench, 0));
    let new = &bench.sounded[before..];
    assert!(new.len() >= 2 && new.iter().all(|one| one.since > bench.sounded[before - 1].since));
    assert_eq!(bench.sounded.last().map(|one| one.legs[0].from_phone.packets), Some(250));
    bench.ask(&phone(1002, 1), "BYE", 1, "", "");
    let cdr = bench.cdr();
    assert!(cdr.legs[0].mos_min.is_some_and(|worst| worst < 3.0), "{:#?}", cdr.legs[0]);
    assert!(cdr.legs[0].mos_mean.is_some_and(|mean| mean > 4.0), "{:#?}", cdr.legs[0]);
}

#[test]
fn bursts_of_two_media_nodes_are_those_of_the_call() {
    let (mut bench, mut media) = (Bench::answered(), Media::default());
    bench.acknowledge(1, "");
    media.passes(&mut bench, 10);
    for (count, runs) in [(1, 2), (2, 4), (1, 1)] {
        let bursts = Bursts { count, packets: 4 * count, lost: 3 * count, runs };
        let missed = Missed { leg: LegId(0), stream: 0, silent_ms: 0, bursts };
        media.tell(&mut bench, |_| ReportKind::Missed(vec![missed]));
    }
    let view = bench.call.view(bench.now);
    let bursts = view.legs[0].streams[0].received.bursts.expect("it was heard");
    assert_eq!((bursts.count, bursts.burst_lost_percent, bursts.burst_ms), (3, 75.0, 80));
    // 250 packets: 12 in bursts, 9 of them lost; 238 in 4 gaps, 1 of them lost.
    assert_eq!((bursts.gap_lost_percent, bursts.gap_ms), (0.42, 1_190));
}

/// Its owner and its media node are gone together: nobody else knows what they counted.
#[test]
fn what_was_counted_is_in_the_record_with_no_more_saves() {
    let (mut bench, mut media) = (Bench::answered(), Media::default());
    bench.acknowledge(1, "");
    (0..6).for_each(|_| media.passes(&mut bench, 1));
    let saves = bench.saves.len();
    (0..110).for_each(|_| media.passes(&mut bench, 1));
    assert_eq!(bench.saves.len(), saves, "what it counts alone is worth no write");
    (0..12).for_each(|_| media.passes(&mut bench, 1));
    assert_eq!(bench.saves.len(), saves + 1, "but to a call that nothing happens to for long");
    bench.media_silent = true;
    bench.is_taken_over();
    bench.ask(&phone(1002, 1), "BYE", 1, "", "");
    bench.answer_with(CALLER, &Method::Bye, 200, "", "");
    bench.must_end();
    for leg in bench.cdr().legs {
        assert!(leg.packets_received > 110 * 249 && leg.packets_sent > 110 * 249, "{leg:#?}");
        assert!(leg.packets_lost >= 110, "{leg:#?}");
    }
}
