//! Figures that the parts of a process count by themselves and tell at the time of a scrape.
//!
//! Invariant: labels are words of ours, never what a peer sent.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use std::sync::{Arc, Mutex, PoisonError};

/// Under a name, with what it means.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// Without the prefix and without the suffix that its kind has.
    pub name: &'static str,
    /// For people.
    pub help: &'static str,
    /// What is known.
    pub value: Value,
}

/// What a figure is.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// It only rises.
    Counter(f64),
    /// The same by the words of one label: its name, each word and its count.
    Counters(&'static str, Vec<(&'static str, u64)>),
    /// It rises and falls.
    Gauge(f64),
    /// A histogram: the sum of all, and how many were above the bound before and not above this one, the last one being
    /// without an end.
    Histogram(f64, Vec<(f64, u64)>),
}

/// Who tells figures.
pub(super) type Source = Box<dyn Fn() -> Vec<Figure> + Send + Sync>;

/// All who tell figures.
#[derive(Clone, Default)]
pub(super) struct Figures(Arc<Mutex<Vec<Source>>>);

impl core::fmt::Debug for Figures {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Figures")
    }
}

impl Figures {
    pub(super) fn add(&self, source: Source) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(source);
    }
}

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), core::fmt::Error> {
        let sources = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for Figure { name, help, value } in sources.iter().flat_map(|source| source()) {
            let kind = match value {
                Value::Counter(_) | Value::Counters(..) => MetricType::Counter,
                Value::Gauge(_) => MetricType::Gauge,
                Value::Histogram(..) => MetricType::Histogram,
            };
            let mut metric = encoder.encode_descriptor(name, help, None, kind)?;
            match value {
                Value::Counter(count) => ConstCounter::new(count).encode(metric)?,
                Value::Counters(label, counts) => {
                    for (word, count) in counts {
                        let labels = [(label, word)];
                        ConstCounter::new(count).encode(metric.encode_family(&labels)?)?;
                    }
                }
                Value::Gauge(level) => ConstGauge::new(level).encode(metric)?,
                Value::Histogram(sum, mut buckets) => {
                    if let Some(last) = buckets.last_mut() {
                        last.0 = f64::INFINITY;
                    }
                    let count = buckets.iter().map(|(_, count)| count).sum();
                    metric.encode_histogram::<[(&str, &str); 0]>(sum, count, &buckets, None)?;
                }
            }
        }
        Ok(())
    }
}
