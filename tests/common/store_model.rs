//! The store as the simulator has it: rows in memory under the rules of `store/postgres`. `tests/store` compares it with
//! the real one over random histories.

use holdfast::call::Save;
use holdfast::directory::Binding;
use holdfast::ids::{CallId, Epoch, Incarnation, Rev};
use holdfast::store::{Batch, CallOutcome, ClaimedCall, NodeRow};
use holdfast::time::Timestamp;
use holdfast::views::Cdr;
use std::collections::BTreeMap;

/// Which of its rules hold; all do, unless a test breaks one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rules {
    /// A write must name the owner, the epoch and a greater rev.
    pub fences: bool,
    /// A CDR is written only with its call's row.
    pub joins_cdrs: bool,
    /// One call an INVITE.
    pub knows_keys: bool,
    /// A claim raises the epoch.
    pub raises_epochs: bool,
    /// A claim counts until the call is saved.
    pub counts_claims: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            fences: true,
            joins_cdrs: true,
            knows_keys: true,
            raises_epochs: true,
            counts_claims: true,
        }
    }
}

/// A row of `calls`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub key: [u8; 16],
    pub owner: Incarnation,
    pub epoch: Epoch,
    pub rev: Rev,
    pub ended_at: Option<Timestamp>,
    pub record: Vec<u8>,
    /// Since an owner saved it last.
    pub claims: u32,
}

/// All tables.
#[derive(Clone, Debug, Default)]
pub(crate) struct StoreModel {
    pub rules: Rules,
    pub calls: BTreeMap<CallId, Row>,
    pub cdrs: Vec<Cdr>,
    pub bindings: BTreeMap<String, Vec<Binding>>,
    pub nodes: BTreeMap<String, NodeRow>,
}

impl StoreModel {
    /// One commit. Outcomes in the order of its calls.
    pub(crate) fn commit(&mut self, batch: &Batch) -> Vec<CallOutcome> {
        // New rows go in by key: of two with one key the first stands.
        let mut order: Vec<&Save> = batch.calls.iter().collect();
        order.sort_by_key(|save| save.key);
        let known: Vec<CallId> = self.calls.keys().copied().collect();
        let is_known = |id: &CallId| known.binary_search(id).is_ok();
        let mut written = Vec::new();
        for save in order {
            let done = match is_known(&save.id) {
                true => self.update(save),
                false => self.insert(save),
            };
            if done {
                written.push(save.id);
            }
            if let Some(cdr) = &save.cdr
                && (done || !self.rules.joins_cdrs)
                && (!self.rules.joins_cdrs || !self.cdrs.iter().any(|known| known.id == cdr.id))
            {
                self.cdrs.push((**cdr).clone());
            }
        }
        for write in &batch.bindings {
            self.bindings.insert(write.extension.clone(), write.bindings.clone());
        }
        let outcome = |save: &Save| match written.contains(&save.id) {
            true => CallOutcome::Done,
            false => self.judge(save),
        };
        batch.calls.iter().map(outcome).collect()
    }

    fn update(&mut self, save: &Save) -> bool {
        let fences = self.rules.fences;
        let Some(row) = self.calls.get_mut(&save.id) else { return false };
        let is_later = row.epoch < save.epoch
            || (row.epoch == save.epoch && row.owner == save.owner && row.rev < save.rev);
        if (row.ended_at.is_some() || !is_later) && fences {
            return false;
        }
        *row = Row { key: row.key, ..row_of(save) };
        true
    }

    fn insert(&mut self, save: &Save) -> bool {
        let is_taken = self.rules.knows_keys && self.calls.values().any(|row| row.key == save.key);
        if is_taken || self.calls.contains_key(&save.id) {
            return false;
        }
        self.calls.insert(save.id, row_of(save));
        true
    }

    /// Why a row was not written.
    fn judge(&self, save: &Save) -> CallOutcome {
        if let Some(row) = self.calls.get(&save.id) {
            let same = (row.owner, row.epoch, row.rev) == (save.owner, save.epoch, save.rev);
            return if same { CallOutcome::Done } else { CallOutcome::Fenced };
        }
        match self.calls.iter().find(|(_, row)| row.key == save.key) {
            Some((other, _)) => CallOutcome::Duplicate(*other),
            None => CallOutcome::Fenced,
        }
    }

    /// Live calls of a dead owner that no claimer died with.
    pub(crate) fn claim(
        &mut self,
        from: Incarnation,
        to: Incarnation,
        seen_at: Option<Timestamp>,
    ) -> Vec<ClaimedCall> {
        let mut ids = self.owned(from);
        ids.retain(|id| self.calls[id].claims == 0);
        ids.into_iter().filter_map(|id| self.claim_call(id, from, to, seen_at)).collect()
    }

    /// Calls of a dead owner that an earlier claimer did not live to save.
    pub(crate) fn suspects(&self, from: Incarnation) -> Vec<CallId> {
        self.owned(from).into_iter().filter(|id| self.calls[id].claims > 0).collect()
    }

    pub(crate) fn claim_call(
        &mut self,
        id: CallId,
        from: Incarnation,
        to: Incarnation,
        seen_at: Option<Timestamp>,
    ) -> Option<ClaimedCall> {
        let renewed = |node: &NodeRow| Some(node.seen_at) != seen_at && node.incarnation == from;
        if seen_at.is_some() && self.nodes.values().any(renewed) {
            return None;
        }
        let row = self.calls.get_mut(&id)?;
        if row.owner != from || row.ended_at.is_some() {
            return None;
        }
        row.claims += u32::from(from != to && self.rules.counts_claims);
        row.owner = to;
        row.epoch.0 += u64::from(self.rules.raises_epochs);
        let Row { key, epoch, rev, record, claims, .. } = row.clone();
        Some(ClaimedCall { id, key, epoch, rev, record, claims })
    }

    pub(crate) fn owner(&self, id: CallId) -> Option<Incarnation> {
        self.calls.get(&id).filter(|row| row.ended_at.is_none()).map(|row| row.owner)
    }

    pub(crate) fn has_ended(&self, id: CallId) -> bool {
        self.calls.get(&id).is_some_and(|row| row.ended_at.is_some())
    }

    pub(crate) fn owned(&self, owner: Incarnation) -> Vec<CallId> {
        let live = self.calls.iter().filter(|(_, row)| row.ended_at.is_none());
        live.filter(|(_, row)| row.owner == owner).map(|(id, _)| *id).collect()
    }

    pub(crate) fn owners(&self) -> Vec<Incarnation> {
        let live = self.calls.values().filter(|row| row.ended_at.is_none());
        let mut owners: Vec<Incarnation> = live.map(|row| row.owner).collect();
        owners.sort_unstable();
        owners.dedup();
        owners
    }

    pub(crate) fn call_of_key(&self, key: &[u8; 16]) -> Option<CallId> {
        let mut live = self.calls.iter().filter(|(_, row)| row.ended_at.is_none());
        live.find(|(_, row)| row.key == *key).map(|(id, _)| *id)
    }

    /// Removes tombstones.
    pub(crate) fn sweep(&mut self, before: Timestamp) {
        self.calls.retain(|_, row| row.ended_at.is_none_or(|at| at >= before));
    }
}

fn row_of(save: &Save) -> Row {
    Row {
        key: save.key,
        owner: save.owner,
        epoch: save.epoch,
        rev: save.rev,
        ended_at: save.cdr.as_ref().map(|cdr| cdr.ended_at.0),
        record: save.record.clone(),
        claims: 0,
    }
}
