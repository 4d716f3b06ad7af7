//! What a node keeps on disk while the store is away: it outlives the process, and is replayed before its calls are
//! claimed.

use super::sabotage::Sabotage;
use super::world::World;
use crate::store_model::StoreModel;
use holdfast::call::Save;
use holdfast::directory::Binding;
use holdfast::ids::CallId;
use holdfast::signaling::driven::Work;
use holdfast::store::{Batch, BindingsWrite, CallOutcome};
use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub struct Journal {
    fence: StoreModel,
    saves: BTreeMap<CallId, Save>,
    bindings: BTreeMap<String, BindingsWrite>,
}

impl Journal {
    pub fn is_empty(&self) -> bool {
        self.saves.is_empty() && self.bindings.is_empty()
    }

    /// Its disk is gone. What peers have of it are calls.
    pub fn lose_calls(&mut self) {
        self.saves.clear();
        self.fence = StoreModel::default();
    }

    fn write(&mut self, batch: &Batch) -> Vec<CallOutcome> {
        let outcomes = self.fence.commit(batch);
        for (save, outcome) in batch.calls.iter().zip(&outcomes) {
            if *outcome == CallOutcome::Done {
                self.saves.insert(save.id, save.clone());
            }
        }
        for write in &batch.bindings {
            self.bindings.insert(write.extension.clone(), write.clone());
        }
        outcomes
    }

    fn remove(&mut self, calls: &[CallId], users: &[String]) {
        for id in calls {
            self.saves.remove(id);
            self.fence.calls.remove(id);
            self.fence.cdrs.retain(|cdr| cdr.id != id.to_string());
        }
        for user in users {
            self.bindings.remove(user);
        }
    }
}

/// Calls of a batch, for the trace.
pub fn brief(batch: &Batch) -> Vec<String> {
    let brief = |save: &Save| {
        let end = if save.ended { " end" } else { "" };
        format!("{} e{} r{}{end}", save.id.0, save.epoch.0, save.rev.0)
    };
    batch.calls.iter().map(brief).collect()
}

impl World {
    /// The journal's work, done at once.
    pub fn journal_does(&mut self, at: usize, work: &Work) -> Vec<CallOutcome> {
        match work {
            Work::Write(batch) => {
                self.count.add("journal: written");
                self.note(|| format!("   journal of node {at} keeps {:?}", brief(batch)));
                if self.sabotage == Some(Sabotage::EmptyJournal) {
                    return vec![CallOutcome::Done; batch.calls.len()];
                }
                self.nodes[at].journal.write(batch)
            }
            Work::Remove(calls, users) => {
                self.nodes[at].journal.remove(calls, users);
                Vec::new()
            }
        }
    }

    /// Gives the store what a journal holds.
    pub fn replay(&mut self, at: usize) {
        let Journal { saves, bindings, .. } = core::mem::take(&mut self.nodes[at].journal);
        if saves.is_empty() && bindings.is_empty() {
            return;
        }
        self.count.add("journal: replayed");
        self.note(|| format!("   the journal of {at} is replayed: {} calls", saves.len()));
        let batch = Batch {
            calls: saves.into_values().collect(),
            bindings: bindings.into_values().collect(),
            ..Batch::default()
        };
        self.store.commit(&batch);
    }

    /// What the store knows of phones: those that registered, and those that did before the world began.
    pub fn stored_bindings(&self) -> Vec<Binding> {
        let is_stored = |binding: &&Binding| self.store.bindings.contains_key(&binding.extension);
        let before = self.bindings.iter().filter(|binding| !is_stored(binding));
        self.store.bindings.values().flatten().chain(before).cloned().collect()
    }

    /// Journals of processes of this host that are gone.
    pub fn replay_dead(&mut self, but: usize) {
        if self.sabotage == Some(Sabotage::NoReplay) {
            return;
        }
        for at in 0..self.nodes.len() {
            if at != but && self.nodes[at].process.is_none() {
                self.replay(at);
            }
        }
    }
}
