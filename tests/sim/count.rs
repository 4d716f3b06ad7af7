//! How often what came about: a simulation that never loses a message or glares proves nothing.

use std::collections::BTreeMap;

#[derive(Clone, Debug, Default)]
pub struct Count(BTreeMap<String, u64>);

impl Count {
    pub fn add(&mut self, what: impl Into<String>) {
        *self.0.entry(what.into()).or_default() += 1;
    }

    /// Takes another's counts over.
    pub fn merge(&mut self, other: &mut Self) {
        for (what, times) in core::mem::take(&mut other.0) {
            *self.0.entry(what).or_default() += times;
        }
    }

    pub fn of(&self, what: &str) -> u64 {
        self.0.get(what).copied().unwrap_or(0)
    }
}

impl core::fmt::Display for Count {
    fn fmt(&self, out: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        for (what, times) in &self.0 {
            writeln!(out, "{times:>10} {what}")?;
        }
        Ok(())
    }
}
