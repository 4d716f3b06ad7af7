//! How calls fare and what serving them costs: delays, talk time, sound, causes of ends, takeovers, transactions,
//! commits, queues.
//!
//! Invariants: a call counts once, from its first authenticated INVITE, so challenges and retransmissions count
//! nowhere; labels are words of ours.

use super::story::cause;
use crate::event::{Event, Measure, TransactionRole};
use crate::ids::CallId;
use crate::limits::CALLS_PER_NODE;
use crate::time::Timestamp;
use crate::views::Disposition;
use core::time::Duration;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

type Label = [(&'static str, &'static str); 1];
type TransactionLabels = [(&'static str, &'static str); 2];

/// Of a signaling node.
#[derive(Debug)]
pub(super) struct Service {
    /// When calls were dialled here that nobody's phone rings for yet.
    dialled: Mutex<HashMap<CallId, Timestamp>>,
    post_dial_delay: Histogram,
    setup: Histogram,
    talk: Histogram,
    sound: Sound,
    causes: Family<Label, Counter>,
    adopted: Counter,
    left: Counter,
    transactions: Family<TransactionLabels, Histogram, fn() -> Histogram>,
    commits: Histogram,
    commit_rows: Histogram,
    commits_failed: Counter,
    depths: Family<Label, Gauge>,
    lost: Family<Label, Counter>,
}

/// How phones were heard, one observation a phone and call.
#[derive(Debug)]
struct Sound {
    mos: Histogram,
    jitter: Histogram,
    round_trip: Histogram,
    lost: Histogram,
}

impl Sound {
    fn register(registry: &mut Registry) -> Self {
        let mos = Histogram::new([1.5, 2.0, 2.5, 3.0, 3.5, 3.8, 4.0, 4.2, 4.4]);
        registry.register("call_mos", "Mean opinion scores of phones' sound", mos.clone());
        let lost = Histogram::new([0.0, 0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5]);
        let help = "Share of a phone's packets that did not come";
        registry.register("call_lost_ratio", help, lost.clone());
        let mut seconds = |name: &str, help: &str| {
            let histogram = Histogram::new(exponential_buckets(0.001, 2.0, 11));
            registry.register_with_unit(name, help, Unit::Seconds, histogram.clone());
            histogram
        };
        let jitter = seconds("call_jitter", "Mean jitter of a phone's packets");
        let round_trip = seconds("call_round_trip", "Mean time to a phone and back, by RTCP");
        Self { mos, jitter, round_trip, lost }
    }

    fn observe(&self, measure: Measure) {
        let Measure::Sound { mos_hundredths, jitter, round_trip, packets } = measure else {
            return;
        };
        let (came, lost) = packets;
        self.lost.observe(lost as f64 / (came + lost).max(1) as f64);
        for (histogram, value) in [
            (&self.mos, mos_hundredths.map(|mos| f64::from(mos) / 100.0)),
            (&self.jitter, jitter.map(|jitter| jitter.as_secs_f64())),
            (&self.round_trip, round_trip.map(|round_trip| round_trip.as_secs_f64())),
        ] {
            value.into_iter().for_each(|value| histogram.observe(value));
        }
    }
}

fn transaction_histogram() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 16))
}

impl Service {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let sound = Sound::register(registry);
        let mut seconds = |name: &str, help: &str, histogram: Histogram| {
            registry.register_with_unit(name, help, Unit::Seconds, histogram.clone());
            histogram
        };
        let help =
            "From the INVITE to the first ringing, or to the answer when nothing rang before";
        let post_dial_delay = Histogram::new(exponential_buckets(0.01, 2.0, 13));
        let post_dial_delay = seconds("post_dial_delay", help, post_dial_delay);
        let help = "From INVITE to our 200 of answered calls";
        let setup = Histogram::new(exponential_buckets(0.05, 2.0, 12));
        let setup = seconds("call_setup", help, setup);
        let talk = Histogram::new(exponential_buckets(1.0, 2.0, 14));
        let talk = seconds("call_talk", "From the answer to the end, of answered calls", talk);
        let commits = Histogram::new(exponential_buckets(0.000_5, 2.0, 14));
        let commits = seconds("commit", "Commits that the store took", commits);
        let commit_rows = Histogram::new(exponential_buckets(1.0, 2.0, 10));
        registry.register("commit_rows", "Calls and users a commit", commit_rows.clone());
        let causes = Family::<Label, Counter>::default();
        registry.register("call_ends", "Calls that are over, by what ended them", causes.clone());
        let transactions = Family::new_with_constructor(transaction_histogram as fn() -> Histogram);
        let help = "From a request of a call to its final response, by method, as client or server";
        registry.register_with_unit("sip_transaction", help, Unit::Seconds, transactions.clone());
        let depths = Family::<Label, Gauge>::default();
        registry.register("queue_depth", "What waits, by queue", depths.clone());
        let lost = Family::<Label, Counter>::default();
        registry.register("queue_lost", "What did not fit a queue and is gone", lost.clone());
        for queue in ["capture", "hep", "traces"] {
            _ = lost.get_or_create(&[("queue", queue)]);
        }
        let mut counter = |name: &str, help: &str| {
            let counter = Counter::default();
            registry.register(name, help, counter.clone());
            counter
        };
        let adopted = counter("calls_adopted", "Calls of other nodes that are carried on here");
        let left = counter("calls_left", "Calls that were left to other nodes");
        let commits_failed = counter("commits_failed", "Commits that the store did not take");
        Self {
            dialled: Mutex::default(),
            post_dial_delay,
            setup,
            talk,
            sound,
            causes,
            adopted,
            left,
            transactions,
            commits,
            commit_rows,
            commits_failed,
            depths,
            lost,
        }
    }

    pub(super) fn count(&self, event: &Event, now: Timestamp) {
        match event {
            Event::CallCreated { call, .. } => self.dial(*call, now),
            Event::CallRinging { call } => self.is_through(*call, now),
            Event::CallAnswered { call, setup_ms, .. } => {
                self.is_through(*call, now);
                self.setup.observe(Duration::from_millis(*setup_ms).as_secs_f64());
            }
            Event::CallEnded { call, disposition, end_cause, billable_ms, .. } => {
                self.take(*call);
                self.causes.get_or_create(&[("cause", cause(*end_cause))]).inc();
                if *disposition == Disposition::Answered {
                    self.talk.observe(Duration::from_millis(*billable_ms).as_secs_f64());
                }
            }
            Event::CallAdopted { .. } => _ = self.adopted.inc(),
            Event::CallLeft { call } => {
                self.take(*call);
                self.left.inc();
            }
            Event::Measured(measure) => self.measure(*measure),
            _ => {}
        }
    }

    fn measure(&self, measure: Measure) {
        match measure {
            Measure::Commit { rows, took, stored: true } => {
                self.commits.observe(took.as_secs_f64());
                self.commit_rows.observe(f64::from(u32::try_from(rows).unwrap_or(u32::MAX)));
            }
            Measure::Commit { stored: false, .. } => _ = self.commits_failed.inc(),
            Measure::Transaction { method, role, took } => {
                let role = match role {
                    TransactionRole::Client => "client",
                    TransactionRole::Server => "server",
                };
                let labels = [("method", method), ("role", role)];
                self.transactions.get_or_create(&labels).observe(took.as_secs_f64());
            }
            Measure::Sound { .. } => self.sound.observe(measure),
            Measure::Depth { queue, depth } => {
                let depth = i64::try_from(depth).unwrap_or(i64::MAX);
                self.depths.get_or_create(&[("queue", queue)]).set(depth);
            }
            Measure::Lost { queue, count } => {
                self.lost.get_or_create(&[("queue", queue)]).inc_by(count);
            }
        }
    }

    fn dial(&self, call: CallId, now: Timestamp) {
        let mut dialled = self.dialled.lock().unwrap_or_else(PoisonError::into_inner);
        if dialled.len() < CALLS_PER_NODE {
            dialled.insert(call, now);
        }
    }

    /// The caller hears that it rings, or is answered.
    fn is_through(&self, call: CallId, now: Timestamp) {
        if let Some(at) = self.take(call) {
            self.post_dial_delay.observe(now.saturating_since(at).as_secs_f64());
        }
    }

    fn take(&self, call: CallId) -> Option<Timestamp> {
        self.dialled.lock().unwrap_or_else(PoisonError::into_inner).remove(&call)
    }
}
