//! What both back ends do alike with a batch: halving around a bad row, and outcomes of rows that were not written.

use super::rows::{call_id, is_storable, signed};
use super::{Batch, BindingsWrite, CallOutcome, StoreError};
use crate::call::Save;
use crate::ids::CallId;
use std::collections::HashSet;

/// What is written in one transaction: a batch, or a part of it when a row of it is bad.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part<'a> {
    pub calls: &'a [Save],
    pub bindings: &'a [BindingsWrite],
    pub told: &'a [String],
}

impl<'a> Part<'a> {
    /// Nothing when there is nothing to write.
    pub fn of(batch: &'a Batch) -> Option<Self> {
        let part = Self { calls: &batch.calls, bindings: &batch.bindings, told: &batch.told };
        (!part.is_bare() || !part.told.is_empty()).then_some(part)
    }

    /// Events of no call at most.
    fn is_bare(self) -> bool {
        self.calls.is_empty() && self.bindings.is_empty()
    }

    /// Without names that no user has and PostgreSQL refuses.
    pub fn storable_bindings(self) -> impl Iterator<Item = &'a BindingsWrite> {
        self.bindings.iter().filter(|write| is_storable(&write.extension))
    }

    /// Two parts to try when this one holds a bad row; none when it is the bad row. Calls come in their order.
    pub fn halves(self) -> Option<[Self; 2]> {
        let Self { calls, bindings, told } = self;
        if !told.is_empty() && !self.is_bare() {
            let alone = Self { calls: &[], bindings: &[], told };
            return Some([Self { told: &[], ..self }, alone]);
        }
        let (left, right) = calls.split_at(calls.len() / 2);
        let (first, second) = bindings.split_at(bindings.len() / 2);
        match (calls.len(), bindings.len()) {
            (0 | 1, 0) | (0, 1) => None,
            (_, 0) => Some([Self { calls: left, ..self }, Self { calls: right, ..self }]),
            (0, _) => Some([Self { bindings: first, ..self }, Self { bindings: second, ..self }]),
            // First apart: a bad call must not take registrations with it, nor the other way round.
            (..) => Some([Self { bindings: &[], ..self }, Self { calls: &[], ..self }]),
        }
    }

    /// The bad row itself. Bindings have no outcome: their phone registers again.
    pub fn rejected(self, error: &sqlx::Error) -> impl Iterator<Item = CallOutcome> + use<'a> {
        if self.is_bare() {
            tracing::error!("the store refuses {} events: {error}", self.told.len());
        }
        for write in self.bindings {
            tracing::error!("the store refuses the bindings of {}: {error}", write.extension);
        }
        let why = error.to_string();
        self.calls.iter().map(move |_| CallOutcome::Rejected(why.clone()))
    }
}

/// A stored row that stands in the way: (id, key, owner, epoch, rev).
pub(super) type Standing = (Vec<u8>, Vec<u8>, i64, i64, i64);

/// Outcomes in the order of `saves`; `written` are the ids that were.
pub(super) fn outcomes(
    saves: &[Save],
    written: &HashSet<CallId>,
    standing: &[Standing],
) -> Result<Vec<CallOutcome>, StoreError> {
    let outcome = |save: &Save| {
        if written.contains(&save.id) { Ok(CallOutcome::Done) } else { judge(save, standing) }
    };
    saves.iter().map(outcome).collect()
}

/// A row that was not written: repeated after a commit in doubt, another call's key, or fenced.
fn judge(save: &Save, standing: &[Standing]) -> Result<CallOutcome, StoreError> {
    let id = save.id.0.to_be_bytes();
    if let Some((.., owner, epoch, rev)) = standing.iter().find(|(stored, ..)| *stored == id) {
        let same = (*owner, *epoch, *rev)
            == (signed(save.owner.0), signed(save.epoch.0), signed(save.rev.0));
        return Ok(if same { CallOutcome::Done } else { CallOutcome::Fenced });
    }
    match standing.iter().find(|(_, key, ..)| *key == save.key) {
        Some((other, ..)) => Ok(CallOutcome::Duplicate(call_id(other)?)),
        None => Ok(CallOutcome::Fenced),
    }
}

/// The database refused data, not the connection: some row is bad.
pub(super) fn is_bad_row(error: &sqlx::Error) -> bool {
    let Some(code) = error.as_database_error().and_then(|error| error.code()) else { return false };
    if code.len() == 5 {
        // SQLSTATE class 22 (data exception), 23 (integrity), 54 (limit exceeded).
        return matches!(code.get(..2), Some("22" | "23" | "54"));
    }
    // SQLite's extended codes, the kind in the low byte: too big, constraint, mismatch.
    code.parse::<u32>().is_ok_and(|code| matches!(code & 0xFF, 18..=20))
}
