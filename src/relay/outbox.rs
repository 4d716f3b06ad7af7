//! What a session has to say: packets, pins, numbered reports.
//!
//! Invariants: reports that must not be lost are kept until acknowledged, and no more than `KEPT`;
//! numbers only rise.

use super::Output;
use crate::control::{Report, ReportKind};
use crate::ids::{LegId, SessionId};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Reports kept for an owner that does not answer; the oldest are given up.
const KEPT: usize = 256;

/// See the module.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Outbox {
    session: SessionId,
    /// Drained before a snapshot is taken.
    #[serde(skip)]
    outputs: VecDeque<Output>,
    /// Of the last report.
    number: u64,
    kept: VecDeque<Report>,
}

impl Outbox {
    pub(super) const fn new(session: SessionId, number: u64) -> Self {
        Self { session, outputs: VecDeque::new(), number, kept: VecDeque::new() }
    }

    pub(super) fn push(&mut self, output: Output) {
        self.outputs.push_back(output);
    }

    pub(super) fn pop(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    pub(super) fn report(&mut self, kind: ReportKind) {
        self.number += 1;
        let report = Report { session: self.session, number: self.number, kind };
        if report.kind.is_kept() {
            if self.kept.len() >= KEPT {
                self.kept.pop_front();
                self.outputs.push_back(Output::Lost);
            }
            self.kept.push_back(report.clone());
        }
        self.outputs.push_back(Output::Report(report));
    }

    pub(super) fn acknowledge(&mut self, number: u64) {
        self.kept.retain(|report| report.number > number);
    }

    /// What is kept is told again, but for silences that are over.
    pub(super) fn replay(&mut self, is_silent: impl Fn(LegId) -> bool) {
        self.kept.retain(|report| match report.kind {
            ReportKind::Silence { leg, .. } => is_silent(leg),
            _ => true,
        });
        self.outputs.extend(self.kept.iter().cloned().map(Output::Report));
    }
}
