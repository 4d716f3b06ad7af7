//! A scrape of a process, as Prometheus makes it.

use std::net::SocketAddr;

/// The text of one scrape.
#[derive(Clone, Debug)]
pub(crate) struct Scrape(pub(crate) String);

impl Scrape {
    /// Of the process that serves there.
    pub(crate) fn of(address: SocketAddr) -> Self {
        let mut answer = ureq::get(format!("http://{address}/metrics")).call().expect("metrics");
        Self(answer.body_mut().read_to_string().expect("text"))
    }

    /// The value of a sample, named with its labels; none: there is no such sample.
    pub(crate) fn find(&self, sample: &str) -> Option<f64> {
        let mut lines = self.0.lines().filter_map(|line| line.split_once(' '));
        let (_, rest) = lines.find(|(name, _)| *name == sample)?;
        rest.split(' ').next()?.parse().ok()
    }

    /// The same; it must be there.
    pub(crate) fn value(&self, sample: &str) -> f64 {
        self.find(sample).unwrap_or_else(|| panic!("no {sample} in\n{}", self.0))
    }

    /// Of all samples of that name together.
    pub(crate) fn sum(&self, name: &str) -> f64 {
        let lines = self.0.lines().filter_map(|line| line.split_once(' '));
        let is_its = |sample: &str| sample.split('{').next() == Some(name);
        let values = lines.filter(|(sample, _)| is_its(sample));
        values.filter_map(|(_, rest)| rest.split(' ').next()?.parse::<f64>().ok()).sum()
    }
}
