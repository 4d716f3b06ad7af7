//! What both back ends do alike with a batch: outcomes of rows that were not written, and halving around a bad row.

use super::rows::{call_id, signed};
use super::{CallOutcome, StoreError};
use crate::call::Save;
use crate::ids::CallId;
use std::collections::HashSet;

/// A stored row that stands in the way: (id, key, owner, epoch, rev).
pub(super) type Standing = (Vec<u8>, Vec<u8>, i64, i64, i64);

/// Outcomes in the order of `saves`; `written` are the ids that were.
pub(super) fn outcomes(
    saves: &[Save],
    written: &HashSet<CallId>,
    standing: &[Standing],
) -> Result<Vec<CallOutcome>, StoreError> {
    saves
        .iter()
        .map(
            |save| {
                if written.contains(&save.id) {
                    Ok(CallOutcome::Done)
                } else {
                    judge(save, standing)
                }
            },
        )
        .collect()
}

/// A row that was not written: repeated after a commit in doubt, another call's key, or fenced.
fn judge(save: &Save, standing: &[Standing]) -> Result<CallOutcome, StoreError> {
    let id = save.id.0.to_be_bytes();
    for (stored, key, owner, epoch, rev) in standing {
        if *stored == id {
            let same = (*owner, *epoch, *rev)
                == (signed(save.owner.0), signed(save.epoch.0), signed(save.rev.0));
            return Ok(if same { CallOutcome::Done } else { CallOutcome::Fenced });
        }
        if *key == save.key {
            return Ok(CallOutcome::Duplicate(call_id(stored)?));
        }
    }
    Ok(CallOutcome::Fenced)
}

/// The database refused data, not the connection: some row is bad.
pub(super) fn is_bad_row(error: &sqlx::Error) -> bool {
    let Some(error) = error.as_database_error() else { return false };
    // Class 22 (data exception), 23 (integrity), 54 (limit exceeded); SQLite: constraint, mismatch, too big.
    error.code().is_some_and(|code| {
        let class = code.get(..2).unwrap_or_default();
        (code.len() == 5 && matches!(class, "22" | "23" | "54"))
            || matches!(code.as_ref(), "18" | "19" | "20")
    })
}
