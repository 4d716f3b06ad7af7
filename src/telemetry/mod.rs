//! Logs and metrics, derived from events: what happened is told once, as an `Event`.
//!
//! Invariants: nothing here waits: metrics are atomics behind handles that are held, log lines go
//! to a bounded queue with its own writer. Numbers and URIs above DEBUG are wrapped as personal
//! data.

mod figures;
mod log;
mod metrics;
mod nodes;
mod service;
mod story;
mod writer;

pub use figures::{Figure, Value};
pub use log::{LogConfig, LogFormat, LogGuard, Personal, check_filter, init};
pub use metrics::NodeGauges;

use crate::event::Event;
use crate::time::Timestamp;
use crate::views::NodeView;
use metrics::Metrics;
use std::sync::Arc;

/// The way of events to log and metrics. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Telemetry {
    metrics: Arc<Metrics>,
    personal: Personal,
}

impl Telemetry {
    /// With personal data shown or masked in the log.
    pub fn new(personal: Personal) -> Self {
        Self { metrics: Arc::default(), personal }
    }

    /// Tells everybody what happened now.
    pub fn handle(&self, event: &Event, now: Timestamp) {
        self.metrics.count(event, now);
        story::tell(event, self.personal);
    }

    /// Whose figures these are.
    pub fn name(&self, node: &str, mode: &str, version: &str) {
        self.metrics.name(node, mode, version);
    }

    /// The nodes as this one, of that name, knows them; with their links, journal and drain.
    pub fn set_nodes(&self, own: &str, nodes: &[NodeView], now: Timestamp) {
        self.metrics.set_nodes(own, nodes, now);
    }

    /// Events that webhooks did not take: to be tried again, and given up.
    pub fn set_webhooks(&self, owed: u64, dead: u64) {
        self.metrics.set_webhooks(owed, dead);
    }

    /// Sets the gauges that are asked for at the time of a scrape.
    pub fn set_gauges(&self, gauges: &NodeGauges) {
        self.metrics.set(gauges);
    }

    /// From now on this is asked for its figures at each scrape.
    pub fn watch(&self, source: impl Fn() -> Vec<Figure> + Send + Sync + 'static) {
        self.metrics.watch(Box::new(source));
    }

    /// Text for Prometheus (OpenMetrics 1.0).
    pub fn metrics_text(&self) -> String {
        self.metrics.text()
    }
}
