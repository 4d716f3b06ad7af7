//! The store may have gone back in time: another server took the place of the one that was, and lacks what that one
//! took last (design §4 "Ownership").
//!
//! Invariants: what is this node's own is offered whole to every server that is new to it, CDRs of calls that ended
//! just before too; the store lets nobody claim meanwhile. What the server has already is not written again.

use super::worker::Worker;
use crate::call::Save;
use crate::ids::NodeName;
use crate::time::Timestamp;
use core::time::Duration;
use std::collections::{HashSet, VecDeque};

/// An end that was stored is offered again for so long.
const KEPT_FOR: Duration = Duration::from_secs(60);
/// At most so many: more than end within the lag of any replica that is fit to take over.
const KEPT: usize = 10_000;
/// Records claimed so long after that may be older than what their phones saw.
const OLD_RECORDS: Duration = Duration::from_secs(60);

/// What is known of the server that takes our writes.
#[derive(Debug, Default)]
pub(super) struct Server {
    /// Which, as the store counts them.
    number: u64,
    /// When another took the place of the first, or an owner was missed that may have been cut off from it.
    doubted_at: Option<Timestamp>,
    /// Ends that were stored lately.
    ended: VecDeque<(Timestamp, Save)>,
}

impl Server {
    /// The end of a call was stored.
    pub(super) fn note_end(&mut self, save: &Save, now: Timestamp) {
        let is_old = |(at, _): &(Timestamp, Save)| now.saturating_since(*at) > KEPT_FOR;
        while self.ended.len() >= KEPT || self.ended.front().is_some_and(is_old) {
            self.ended.pop_front();
        }
        self.ended.push_back((now, save.clone()));
    }

    /// Records that are claimed may lack what their owner did last.
    pub(super) fn doubt_records(&mut self, now: Timestamp) {
        self.doubted_at = Some(now);
    }

    /// Numbers that phones may have seen are passed over then.
    pub(super) fn may_be_old(&self, now: Timestamp) -> bool {
        self.doubted_at.is_some_and(|at| now.saturating_since(at) <= OLD_RECORDS)
    }
}

impl Worker {
    /// When another server takes our writes, all that is ours is offered to it.
    pub(super) fn notice_server(&mut self, number: u64) {
        if number == self.server.number {
            return;
        }
        let is_first = core::mem::replace(&mut self.server.number, number) == 0;
        if is_first {
            return;
        }
        self.server.doubt_records(self.now);
        let saves = self.rows();
        let ended = core::mem::take(&mut self.server.ended);
        let (calls, ends) = (saves.len(), ended.len());
        for save in saves.into_iter().chain(ended.into_iter().map(|(_, save)| save)) {
            // What waits already is later.
            if !self.committer.owes(save.id) {
                self.committer.save(save);
            }
        }
        let users = self.own_users();
        for extension in &users {
            self.committer.write_bindings(extension, self.directory.bindings(extension).to_vec());
        }
        tracing::warn!(
            "another database server, or the same after a restart: {calls} calls, {ends} ends and \
             the registrations of {} users are written again where it lacks them",
            users.len()
        );
    }

    /// Every call's row, under the rev of its last save.
    pub(super) fn rows(&self) -> Vec<Save> {
        let rows = self.calls.iter().filter_map(|(_, slot)| slot.row());
        let mut rows: Vec<Save> = rows.map(|row| self.as_written(row)).collect();
        rows.sort_unstable_by_key(|row| row.id);
        rows
    }

    /// Users of whom a phone registered here.
    fn own_users(&self) -> HashSet<String> {
        let own = |node: &NodeName| *node == self.settings.node;
        let bindings = self.directory.all_bindings().filter(|binding| own(&binding.node));
        bindings.map(|binding| binding.extension.clone()).collect()
    }
}
