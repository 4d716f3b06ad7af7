//! Saves that the store of their owner does not take are given to a peer too, which keeps them until they are in the
//! store: a node that is killed, or whose disk is lost, in an outage leaves nothing behind (design §7).
//!
//! Invariants: what is kept for others is bounded; it is written before its owner's calls are claimed, and each write
//! is fenced, so writing it twice, or late, changes nothing.

use super::worker::Worker;
use crate::call::Save;
use crate::control::PeerFrame;
use crate::ids::{CallId, Epoch, Incarnation, NodeName, Rev};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// Saves kept for all peers together.
const MOST: usize = 50_000;
/// Bytes of saves a frame.
const FRAME_BYTES: usize = 64 * 1024;

/// A save on its way to a peer. The CDR is JSON, as everywhere outside memory.
#[derive(Debug, Serialize, Deserialize)]
struct Parcel {
    id: CallId,
    key: [u8; 16],
    owner: Incarnation,
    epoch: Epoch,
    rev: Rev,
    record: Vec<u8>,
    cdr: Option<String>,
}

impl From<&Save> for Parcel {
    fn from(save: &Save) -> Self {
        let Save { id, key, owner, epoch, rev, record, cdr, .. } = save;
        let (id, key, owner, epoch, rev) = (*id, *key, *owner, *epoch, *rev);
        let cdr = cdr.as_ref().and_then(|cdr| serde_json::to_string(cdr).ok());
        Self { id, key, owner, epoch, rev, record: record.clone(), cdr }
    }
}

impl Parcel {
    fn bytes(&self) -> usize {
        self.record.len() + self.cdr.as_ref().map_or(0, String::len) + 64
    }

    fn open(self) -> Option<Save> {
        let Self { id, key, owner, epoch, rev, record, cdr } = self;
        let cdr = match cdr {
            Some(text) => Some(serde_json::from_str(&text).ok()?),
            None => None,
        };
        Some(Save { id, key, owner, epoch, rev, ended: cdr.is_some(), record, cdr })
    }
}

/// What peers gave us to keep: the latest save of each call, by owner.
#[derive(Debug, Default)]
pub(super) struct Entrusted {
    of: HashMap<Incarnation, HashMap<CallId, Save>>,
}

impl Entrusted {
    fn len(&self) -> usize {
        self.of.values().map(HashMap::len).sum()
    }

    fn keep(&mut self, from: Incarnation, save: Save) {
        let is_full = self.len() >= MOST;
        let kept = self.of.entry(from).or_default();
        let is_later = |known: &Save| (known.epoch, known.rev) < (save.epoch, save.rev);
        match kept.get(&save.id) {
            Some(known) if !is_later(known) => {}
            None if is_full => {}
            Some(_) | None => _ = kept.insert(save.id, save),
        }
    }

    /// Its saves, to be written.
    pub(super) fn take(&mut self, from: Incarnation) -> Vec<Save> {
        self.of.remove(&from).unwrap_or_default().into_values().collect()
    }
}

impl Worker {
    /// What goes to the journal goes to a peer too.
    pub(super) fn entrust(&self, saves: &[Save]) {
        if let Some(name) = self.peers.keeper(&self.settings.node) {
            self.entrust_to(name, saves);
        }
    }

    pub(super) fn entrust_to(&self, name: &NodeName, saves: &[Save]) {
        let mut frame: Vec<Parcel> = Vec::new();
        let mut bytes = 0;
        let send = |frame: &mut Vec<Parcel>| {
            let document = postcard::to_stdvec(frame).expect("parcels are plain data");
            frame.clear();
            self.peers.send(name, PeerFrame::Keep { document });
        };
        for save in saves {
            let parcel = Parcel::from(save);
            if bytes + parcel.bytes() > FRAME_BYTES && !frame.is_empty() {
                send(&mut frame);
                bytes = 0;
            }
            bytes += parcel.bytes();
            frame.push(parcel);
        }
        if !frame.is_empty() {
            send(&mut frame);
        }
    }

    /// A peer's store does not take these.
    pub(super) fn take_entrusted(&mut self, from: Incarnation, document: &[u8]) {
        let parcels: Vec<Parcel> = postcard::from_bytes(document).unwrap_or_default();
        for save in parcels.into_iter().filter_map(Parcel::open) {
            self.entrusted.keep(from, save);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn save(call: u128, rev: u64) -> Save {
        Save {
            id: CallId(call),
            key: [3; 16],
            owner: Incarnation(1),
            epoch: Epoch(2),
            rev: Rev(rev),
            ended: false,
            record: vec![1, 2, 3],
            cdr: None,
        }
    }

    #[test]
    fn the_latest_of_each_call_is_kept_and_given_back_once() {
        let mut entrusted = Entrusted::default();
        let from = Incarnation(9);
        for (call, rev) in [(1, 2), (1, 3), (1, 1), (2, 1)] {
            let parcel = postcard::to_stdvec(&Parcel::from(&save(call, rev))).expect("plain");
            let parcel: Parcel = postcard::from_bytes(&parcel).expect("as written");
            entrusted.keep(from, parcel.open().expect("a save"));
        }
        let mut saves = entrusted.take(from);
        saves.sort_by_key(|save| save.id);
        assert_eq!(saves, [save(1, 3), save(2, 1)]);
        assert_eq!(entrusted.take(from), []);
    }
}
