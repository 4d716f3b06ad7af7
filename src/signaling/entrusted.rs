//! Saves that the store of their owner does not take are given to all peers too, which keep them until they are in the
//! store: a node that is killed, or whose disk is lost, in an outage leaves nothing behind (design §7). To all: whoever
//! claims the calls first, without what was kept, would fence it.
//!
//! Invariants: what is kept for others is bounded; who claims their owner's calls writes it before, and each write is
//! fenced, so writing it twice, or late, changes nothing.

use super::worker::Worker;
use crate::call::{Save, Told};
use crate::control::PeerFrame;
use crate::ids::{CallId, Epoch, Incarnation, NodeName, Rev};
use crate::time::Timestamp;
use bytes::Bytes;
use core::time::Duration;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// Saves kept for all peers together, and those that are on their way to the store through another node.
const MOST: usize = 50_000;
/// A call is on its way for so long at most.
const ON_THE_WAY: Duration = Duration::from_secs(600);
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
        let told = Vec::new();
        Some(Save { id, key, owner, epoch, rev, ended: cdr.is_some(), record, cdr, told })
    }
}

/// What peers gave us to keep: the latest save of each call, by owner.
#[derive(Debug, Default)]
pub(super) struct Entrusted {
    of: HashMap<Incarnation, HashMap<CallId, Save>>,
    /// Calls that go from one node to another while the store may not know them yet: until when they are waited for.
    on_the_way: HashMap<CallId, (Save, Timestamp)>,
}

impl Entrusted {
    fn len(&self) -> usize {
        self.of.values().map(HashMap::len).sum()
    }

    fn keep(&mut self, from: Incarnation, mut save: Save) {
        let is_full = self.len() >= MOST;
        let kept = self.of.entry(from).or_default();
        let is_later = |known: &Save| (known.epoch, known.rev) < (save.epoch, save.rev);
        match kept.get(&save.id) {
            Some(known) if !is_later(known) => {}
            None if is_full => {}
            Some(_) | None => {
                if let Some(earlier) = kept.remove(&save.id) {
                    save.follow(earlier);
                }
                kept.insert(save.id, save);
            }
        }
    }

    /// These go to another node, or come from one: who asks for them asks again.
    pub(super) fn send(&mut self, saves: &[Save], now: Timestamp) {
        self.on_the_way.retain(|_, (_, until)| *until > now);
        for save in saves.iter().take(MOST.saturating_sub(self.on_the_way.len())) {
            self.on_the_way.insert(save.id, (save.clone(), now + ON_THE_WAY));
        }
    }

    /// Somebody has it.
    pub(super) fn arrive(&mut self, call: CallId) {
        self.on_the_way.remove(&call);
    }

    /// A peer has the call of the INVITE with that key.
    pub(super) fn arrive_elsewhere(&mut self, key: &[u8; 16]) {
        self.on_the_way.retain(|_, (known, _)| known.key != *key);
    }

    /// The store may not know it yet.
    pub(super) fn is_on_its_way(&self, call: CallId, now: Timestamp) -> bool {
        self.on_the_way.get(&call).is_some_and(|(_, until)| *until > now)
    }

    /// The call of the INVITE with that key is on its way.
    pub(super) fn knows_invite(&self, key: &[u8; 16], now: Timestamp) -> bool {
        self.on_the_way.values().any(|(known, until)| known.key == *key && *until > now)
    }

    /// The save of one call, to be written before that is claimed from this owner: all of them may be waiting for the
    /// store, or have been given to it a moment ago.
    pub(super) fn kept(&self, owner: Incarnation, call: CallId) -> Option<&Save> {
        let waiting = self.of.get(&owner).and_then(|kept| kept.get(&call));
        let sent = || Some(&self.on_the_way.get(&call)?.0).filter(|save| save.owner == owner);
        waiting.or_else(sent)
    }

    /// The saves of an owner whose calls we claim, to be written before. Those of an earlier claim too: it may wait for
    /// the store, and this one go before it.
    pub(super) fn give(&mut self, from: Incarnation, now: Timestamp) -> Vec<Save> {
        let mut saves = self.of.remove(&from).unwrap_or_default();
        for (id, (save, _)) in self.on_the_way.iter().filter(|(_, (it, _))| it.owner == from) {
            saves.entry(*id).or_insert_with(|| save.clone());
        }
        let mut saves: Vec<Save> = saves.into_values().collect();
        saves.sort_unstable_by_key(|save| save.id);
        self.send(&saves, now);
        saves
    }

    /// Its saves, which are kept no more.
    pub(super) fn take(&mut self, from: Incarnation) -> Vec<Save> {
        self.of.remove(&from).unwrap_or_default().into_values().collect()
    }
}

impl Worker {
    /// What goes to the journal goes to the peers too.
    pub(super) fn entrust(&self, saves: &[Save]) {
        for document in documents(saves) {
            self.peers.broadcast(&PeerFrame::Keep { document });
        }
    }

    pub(super) fn entrust_to(&self, name: &NodeName, saves: &[Save]) {
        for document in documents(saves) {
            self.peers.send(name, PeerFrame::Keep { document });
        }
    }

    /// A peer's store does not take these.
    pub(super) fn take_entrusted(&mut self, from: Incarnation, document: &[u8]) {
        for save in unwrap(document) {
            self.entrusted.keep(from, save);
        }
    }
}

/// As many as need be: none is larger than a frame ought to be, unless one save is.
fn documents(saves: &[Save]) -> Vec<Bytes> {
    let (mut documents, mut frame, mut bytes) = (Vec::new(), Vec::<&Save>::new(), 0);
    for save in saves {
        let size = Parcel::from(save).bytes() + told_bytes(save);
        if bytes + size > FRAME_BYTES && !frame.is_empty() {
            documents.push(wrap(&core::mem::take(&mut frame)).into());
            bytes = 0;
        }
        bytes += size;
        frame.push(save);
    }
    if !frame.is_empty() {
        documents.push(wrap(&frame).into());
    }
    documents
}

/// Parcels, and behind them their events: a reader of the release before takes the parcels and leaves the rest.
fn wrap(saves: &[&Save]) -> Vec<u8> {
    let parcels: Vec<Parcel> = saves.iter().map(|save| Parcel::from(*save)).collect();
    let told: Vec<&[Told]> = saves.iter().map(|save| &save.told[..]).collect();
    let document = postcard::to_stdvec(&parcels).expect("parcels are plain data");
    postcard::to_extend(&told, document).expect("events are plain data")
}

fn unwrap(document: &[u8]) -> Vec<Save> {
    let parcels = postcard::take_from_bytes::<Vec<Parcel>>(document);
    let (parcels, rest) = parcels.unwrap_or_default();
    let told: Vec<Vec<Told>> = postcard::from_bytes(rest).unwrap_or_default();
    let told = told.into_iter().chain(core::iter::repeat_with(Vec::new));
    let saves = parcels.into_iter().zip(told).filter_map(|(parcel, told)| {
        let save = parcel.open()?;
        Some(Save { told, ..save })
    });
    saves.collect()
}

fn told_bytes(save: &Save) -> usize {
    save.told.iter().map(|told| told.document.len() + 16).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::Frame;
    use crate::signaling::samples;

    fn save(call: u128, rev: u64) -> Save {
        let told = vec![Told { rev: Rev(rev), document: format!("{call} {rev}") }];
        Save { key: [3; 16], record: vec![1, 2, 3], told, ..samples::save(call, rev) }
    }

    #[test]
    fn the_latest_of_each_call_is_kept_and_given_back_once() {
        let mut entrusted = Entrusted::default();
        let from = Incarnation(9);
        for (call, rev) in [(1, 2), (1, 3), (1, 1), (2, 1)] {
            let document = wrap(&[&save(call, rev)]);
            let [save] = <[Save; 1]>::try_from(unwrap(&document)).expect("one");
            entrusted.keep(from, save);
        }
        let mut saves = entrusted.take(from);
        saves.sort_by_key(|save| save.id);
        let mut later = save(1, 3);
        later.follow(save(1, 2));
        assert_eq!(later.told.len(), 2);
        assert_eq!(saves, [later, save(2, 1)], "with what the earlier one told of");
        assert_eq!(entrusted.take(from), []);
    }

    /// All saves of the dead owner may wait for the store when a phone speaks of one call.
    #[test]
    fn whatever_is_claimed_is_claimed_with_what_was_kept_of_it() {
        let (mut entrusted, owner, now) =
            (Entrusted::default(), Incarnation(1), Timestamp::from_millis(1));
        let kept = |entrusted: &Entrusted, owner| entrusted.kept(owner, CallId(7)).cloned();
        entrusted.keep(owner, save(7, 2));
        assert_eq!(kept(&entrusted, owner), Some(save(7, 2)));
        assert_eq!(entrusted.give(owner, now), [save(7, 2)]);
        assert_eq!(kept(&entrusted, owner), Some(save(7, 2)));
        assert_eq!(entrusted.give(owner, now), [save(7, 2)], "this claim may be the first");
        assert_eq!(kept(&entrusted, Incarnation(2)), None, "another's by now");
        entrusted.arrive(CallId(7));
        assert_eq!((kept(&entrusted, owner), entrusted.give(owner, now)), (None, Vec::new()));
    }

    #[test]
    fn many_saves_go_in_several_frames() {
        let large = |call| Save { record: vec![0; FRAME_BYTES / 2], ..save(call, 1) };
        let saves = [large(1), large(2), save(3, 1)];
        let documents = documents(&saves);
        let kept: Vec<Vec<Save>> = documents.iter().map(|document| unwrap(document)).collect();
        assert_eq!(kept, [saves[..1].to_vec(), saves[1..].to_vec()]);
    }

    /// Which of them will claim the calls is not known.
    #[tokio::test]
    async fn all_peers_keep_what_the_journal_does() {
        let mut worker = samples::worker();
        let mut told = [samples::peer(&mut worker), samples::second_peer(&mut worker)];
        worker.entrust(&[save(1, 1)]);
        for told in &mut told {
            let frames = core::iter::from_fn(|| told.try_recv().ok());
            let is_kept = |frame: &Frame| matches!(frame, Frame::Peer(PeerFrame::Keep { .. }));
            assert_eq!(frames.filter(is_kept).count(), 1);
        }
    }

    #[test]
    fn the_release_before_and_this_one_read_each_other() {
        let kept = save(1, 3);
        let before = postcard::to_stdvec(&vec![Parcel::from(&kept)]).expect("plain");
        assert_eq!(unwrap(&before), [Save { told: Vec::new(), ..kept.clone() }]);
        let parcels: Vec<Parcel> = postcard::from_bytes(&wrap(&[&kept])).expect("and more");
        assert_eq!(parcels.len(), 1);
    }

    #[test]
    fn a_call_on_its_way_is_waited_for_but_not_for_ever() {
        let (mut entrusted, now) = (Entrusted::default(), Timestamp::from_millis(1));
        let third = Save { key: [4; 16], ..save(3, 2) };
        entrusted.send(&[save(1, 2), save(2, 2), third], now);
        entrusted.arrive(CallId(2));
        entrusted.arrive_elsewhere(&[4; 16]);
        assert!(!entrusted.knows_invite(&[4; 16], now) && !entrusted.is_on_its_way(CallId(3), now));
        assert!(entrusted.is_on_its_way(CallId(1), now) && entrusted.knows_invite(&[3; 16], now));
        assert!(!entrusted.is_on_its_way(CallId(2), now));
        let later = now + ON_THE_WAY;
        assert!(
            !entrusted.is_on_its_way(CallId(1), later) && !entrusted.knows_invite(&[3; 16], later)
        );
    }
}
