//! Metrics, counted from events through handles that are held: a count is one atomic addition.
//!
//! Invariant: labels are closed enums or node names, never what a peer sent.

use super::figures::{Figures, Source};
use super::nodes::Nodes;
use super::service::Service;
use super::story::word;
use crate::event::{Event, Registration, WebhookOutcome};
use crate::ids::CallId;
use crate::time::Timestamp;
use crate::views::{CallState, Disposition, NodeView};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

type Label = [(&'static str, &'static str); 1];

/// What is known only by asking, at the time of a scrape.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeGauges {
    /// Takes new calls.
    pub ready: bool,
    /// Something is wrong.
    pub degraded: bool,
    /// Bindings.
    pub registrations: Option<u64>,
}

/// Where a live call is, for the gauge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Trying,
    Early,
    Confirmed,
}

impl Phase {
    const fn of(state: CallState) -> Option<Self> {
        match state {
            CallState::Trying => Some(Self::Trying),
            CallState::Early => Some(Self::Early),
            CallState::Confirmed => Some(Self::Confirmed),
            CallState::Terminating => None,
        }
    }

    const fn index(self) -> usize {
        match self {
            Self::Trying => 0,
            Self::Early => 1,
            Self::Confirmed => 2,
        }
    }
}

/// Every metric of a process.
#[derive(Debug)]
pub(super) struct Metrics {
    registry: Registry,
    /// Phase of each live call: bounded by the calls of a node, written by its one loop.
    phases: Mutex<HashMap<CallId, Phase>>,
    live: [Gauge; 3],
    ended: [Counter; 6],
    registrations_made: Counter,
    registrations_refreshed: Counter,
    registrations_removed: Counter,
    shed: Family<Label, Counter>,
    authentication_failures: Counter,
    malformed: Counter,
    misbehaved: Counter,
    ack_missing: Counter,
    reanchors: Counter,
    one_way: Counter,
    no_audio: Counter,
    bugs: Counter,
    webhooks: Webhooks,
    service: Service,
    nodes: Nodes,
    media_nodes: Gauge,
    ready: Gauge,
    degraded: Gauge,
    registrations: Gauge,
    figures: Figures,
}

/// Of the node that delivers events.
#[derive(Debug)]
struct Webhooks {
    taken: Counter,
    failed: Counter,
    given_up: Counter,
    missed: Counter,
    owed: Gauge,
    dead: Gauge,
}

impl Webhooks {
    fn register(registry: &mut Registry) -> Self {
        let posts = Family::<Label, Counter>::default();
        registry.register("webhook_posts", "Events posted to webhooks", posts.clone());
        let (owed, dead) = (Gauge::default(), Gauge::default());
        let help =
            "Events that webhooks did not take, to be posted again (by the node that delivers)";
        registry.register("webhook_events_owed", help, owed.clone());
        let help = "Events that were given up (by the node that delivers)";
        registry.register("webhook_events_dead", help, dead.clone());
        let missed = Counter::default();
        let help = "Times that a webhook missed events, which the log did not have any more";
        registry.register("webhook_gaps", help, missed.clone());
        let [taken, failed, given_up] = ["taken", "failed", "given_up"]
            .map(|outcome| posts.get_or_create(&[("outcome", outcome)]).clone());
        Self { taken, failed, given_up, missed, owed, dead }
    }

    fn count(&self, outcome: WebhookOutcome) {
        count(match outcome {
            WebhookOutcome::Taken => &self.taken,
            WebhookOutcome::Failed => &self.failed,
            WebhookOutcome::GivenUp => &self.given_up,
            WebhookOutcome::Missed => &self.missed,
        });
    }
}

const DISPOSITIONS: [Disposition; 6] = [
    Disposition::Answered,
    Disposition::Busy,
    Disposition::NoAnswer,
    Disposition::Cancelled,
    Disposition::Rejected,
    Disposition::Failed,
];

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("holdfast");
        let live = Family::<Label, Gauge>::default();
        registry.register("calls", "Live calls by state", live.clone());
        let ended = Family::<Label, Counter>::default();
        registry.register("calls_ended", "Calls that are over, by disposition", ended.clone());
        let registers = Family::<Label, Counter>::default();
        registry.register("registers", "Bindings made, refreshed, removed", registers.clone());
        let shed = Family::<Label, Counter>::default();
        registry.register("shed", "Refused, put off or dropped at a bound", shed.clone());
        // A family without a series is not exported, and an alert on it would not know that all is well.
        _ = shed.get_or_create(&[("what", "message of an unknown call")]);
        // A family is locked while a handle is borrowed: each is cloned in a statement of its own.
        let registrations_made = registers.get_or_create(&[("kind", "new")]).clone();
        let registrations_refreshed = registers.get_or_create(&[("kind", "refresh")]).clone();
        let registrations_removed = registers.get_or_create(&[("kind", "removal")]).clone();
        let webhooks = Webhooks::register(&mut registry);
        let (service, nodes) = (Service::register(&mut registry), Nodes::register(&mut registry));
        let mut counter = |name: &str, help: &str| {
            let counter = Counter::default();
            registry.register(name, help, counter.clone());
            counter
        };
        let authentication_failures =
            counter("authentication_failures", "Requests with wrong credentials");
        let malformed = counter("malformed", "Messages dropped before any machine saw them");
        let misbehaved = counter("misbehaved", "Rules broken by peers");
        let ack_missing = counter("ack_missing", "Our 2xx that were never acknowledged");
        let reanchors = counter("reanchors", "Media sessions moved to another host");
        let one_way = counter("one_way_audio", "Phones not heard while the other was");
        let no_audio = counter("no_audio", "Calls of which neither phone was heard");
        let bugs = counter("bugs", "Panics caught: each ended one call or session");
        let mut gauge = |name: &str, help: &str| {
            let gauge = Gauge::default();
            registry.register(name, help, gauge.clone());
            gauge
        };
        let media_nodes = gauge("media_nodes", "Media nodes that can take sessions");
        let ready = gauge("ready", "1: takes new calls");
        let degraded = gauge("degraded", "1: takes calls, but something is wrong");
        let registrations = gauge("registrations", "Bindings");
        let figures = Figures::default();
        registry.register_collector(Box::new(figures.clone()));
        Self {
            phases: Mutex::default(),
            live: ["trying", "early", "confirmed"]
                .map(|state| live.get_or_create(&[("state", state)]).clone()),
            ended: DISPOSITIONS
                .map(|kind| ended.get_or_create(&[("disposition", word(kind))]).clone()),
            registrations_made,
            registrations_refreshed,
            registrations_removed,
            shed,
            authentication_failures,
            malformed,
            misbehaved,
            ack_missing,
            reanchors,
            one_way,
            no_audio,
            bugs,
            webhooks,
            service,
            nodes,
            media_nodes,
            ready,
            degraded,
            registrations,
            figures,
            registry,
        }
    }
}

impl Metrics {
    pub(super) fn count(&self, event: &Event, now: Timestamp) {
        self.service.count(event, now);
        match event {
            Event::CallCreated { call, .. } => self.moved(*call, Some(Phase::Trying)),
            Event::CallAdopted { call, state } => self.moved(*call, Phase::of(*state)),
            Event::CallLeft { call } => self.moved(*call, None),
            Event::CallRinging { call } => self.moved(*call, Some(Phase::Early)),
            Event::CallAnswered { call, .. } => self.moved(*call, Some(Phase::Confirmed)),
            Event::CallEnded { call, disposition, .. } => {
                self.moved(*call, None);
                let place = DISPOSITIONS.iter().position(|kind| kind == disposition);
                if let Some(counter) = place.and_then(|place| self.ended.get(place)) {
                    counter.inc();
                }
            }
            Event::AckMissing { .. } => count(&self.ack_missing),
            Event::OneWayAudio { silent: true, .. } => count(&self.one_way),
            Event::NoAudio { silent: true, .. } => count(&self.no_audio),
            Event::Misbehaved { .. } => count(&self.misbehaved),
            Event::Registered { change: Registration::Made, .. } => count(&self.registrations_made),
            Event::Registered { change: Registration::Refreshed, .. } => {
                count(&self.registrations_refreshed);
            }
            Event::Registered { change: Registration::Removed, .. } => {
                count(&self.registrations_removed);
            }
            Event::Shed { what } => count(&self.shed.get_or_create(&[("what", what)])),
            Event::AuthenticationFailed { username: Some(_), .. } => {
                count(&self.authentication_failures);
            }
            Event::Malformed { .. } => count(&self.malformed),
            Event::MediaNode { up: true, .. } => {
                self.media_nodes.inc();
            }
            Event::MediaNode { up: false, .. } => {
                self.media_nodes.dec();
            }
            Event::CallReanchored { .. } => count(&self.reanchors),
            Event::Bug { .. } => count(&self.bugs),
            Event::Webhook { outcome, .. } => self.webhooks.count(*outcome),
            Event::AuthenticationFailed { username: None, .. }
            | Event::OneWayAudio { silent: false, .. }
            | Event::NoAudio { silent: false, .. }
            | Event::Measured(_)
            | Event::CallHold { .. }
            | Event::CallSteered { .. }
            | Event::CallTransferred { .. }
            | Event::DigitDialled { .. } => {}
        }
    }

    /// A call that began elsewhere enters where it is first seen.
    fn moved(&self, call: CallId, to: Option<Phase>) {
        let mut phases = self.phases.lock().unwrap_or_else(PoisonError::into_inner);
        let from = match to {
            Some(phase) => phases.insert(call, phase),
            None => phases.remove(&call),
        };
        if let Some(gauge) = from.and_then(|phase| self.live.get(phase.index())) {
            gauge.dec();
        }
        if let Some(gauge) = to.and_then(|phase| self.live.get(phase.index())) {
            gauge.inc();
        }
    }

    pub(super) fn set_webhooks(&self, owed: u64, dead: u64) {
        for (gauge, value) in [(&self.webhooks.owed, owed), (&self.webhooks.dead, dead)] {
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        }
    }

    pub(super) fn name(&self, node: &str, mode: &str, version: &str) {
        self.nodes.name(node, mode, version);
    }

    pub(super) fn set_nodes(&self, own: &str, nodes: &[NodeView], now: Timestamp) {
        self.nodes.set(own, nodes, now);
    }

    pub(super) fn set(&self, gauges: &NodeGauges) {
        self.ready.set(i64::from(gauges.ready));
        self.degraded.set(i64::from(gauges.degraded));
        let set = |gauge: &Gauge, value: Option<u64>| {
            if let Some(value) = value {
                gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
            }
        };
        set(&self.registrations, gauges.registrations);
    }

    pub(super) fn watch(&self, source: Source) {
        self.figures.add(source);
    }

    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        match encode(&mut text, &self.registry) {
            Ok(()) => text,
            Err(core::fmt::Error) => String::new(),
        }
    }
}

fn count(counter: &Counter) {
    counter.inc();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::views::{EndCause, EndedBy};

    fn line(metrics: &Metrics, start: &str) -> Option<String> {
        let text = metrics.text();
        let line = text.lines().find_map(|line| line.strip_prefix(start))?;
        Some(line.trim().to_owned())
    }

    #[test]
    fn what_is_refused_at_a_bound_and_what_leaves_is_counted() {
        let metrics = Metrics::default();
        metrics.count(&Event::Shed { what: "Overloaded" }, Timestamp::default());
        let change = Registration::Removed;
        metrics.count(
            &Event::Registered { extension: "1".into(), contacts: 0, change },
            Timestamp::default(),
        );
        let count = |name: &str| line(&metrics, name).unwrap_or_default();
        assert_eq!(count("holdfast_shed_total{what=\"Overloaded\"}"), "1");
        assert_eq!(count("holdfast_registers_total{kind=\"removal\"}"), "1");
        assert_eq!(count("holdfast_registers_total{kind=\"refresh\"}"), "0");
    }

    #[test]
    fn a_call_is_in_one_state_at_a_time() {
        let metrics = Metrics::default();
        let call = CallId(1);
        let states = |metrics: &Metrics| {
            ["trying", "early", "confirmed"].map(|state| {
                line(metrics, &format!("holdfast_calls{{state=\"{state}\"}}")).unwrap_or_default()
            })
        };
        metrics.count(
            &Event::CallCreated { call, caller: "1".into(), callee: "2".into() },
            Timestamp::default(),
        );
        assert_eq!(states(&metrics), ["1", "0", "0"]);
        metrics.count(&Event::CallRinging { call }, Timestamp::default());
        metrics.count(
            &Event::CallAnswered { call, answered_by: "2".into(), setup_ms: 3_200 },
            Timestamp::default(),
        );
        assert_eq!(states(&metrics), ["0", "0", "1"]);
        let end = Event::CallEnded {
            call,
            disposition: Disposition::Answered,
            end_cause: EndCause::Bye,
            ended_by: EndedBy::Caller,
            sip_status: 200,
            duration_ms: 1,
            billable_ms: 1,
        };
        metrics.count(&end, Timestamp::default());
        assert_eq!(states(&metrics), ["0", "0", "0"]);
        let ended = "holdfast_calls_ended_total{disposition=\"answered\"}";
        assert_eq!(line(&metrics, ended).as_deref(), Some("1"));
        assert_eq!(line(&metrics, "holdfast_call_setup_seconds_sum").as_deref(), Some("3.2"));
        let unknown = Event::CallEnded {
            call: CallId(9),
            disposition: Disposition::Failed,
            end_cause: EndCause::NodeLost,
            ended_by: EndedBy::System,
            sip_status: 0,
            duration_ms: 0,
            billable_ms: 0,
        };
        metrics.count(&unknown, Timestamp::default());
        assert_eq!(states(&metrics), ["0", "0", "0"], "a call that was never seen here");
    }
}
