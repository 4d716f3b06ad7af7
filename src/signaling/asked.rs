//! INVITEs that may be repeats of what another node has a call of, which the store need not know yet: its node is asked
//! before one of them begins a call here (design §4 "Finding a call").
//!
//! Invariants: an INVITE waits for `PATIENCE` at most, at a node that meets its peers until it has met them or
//! `MEETING` after its start; while no node comes, goes or stands still none waits. Of two nodes that ask each other
//! for one INVITE the first by name has it. A CANCEL goes where its INVITE goes.

use super::media_pool::LinkNumber;
use super::worker::Worker;
use crate::control::PeerFrame;
use crate::directory::User;
use crate::ids::{Flow, NodeName};
use crate::limits;
use crate::sip::Request;
use crate::time::Timestamp;
use bytes::Bytes;
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Answers take a moment; a peer that stands still gives none.
const PATIENCE: Duration = Duration::from_millis(500);
/// A node that is new, or stood still, meets its peers within.
pub(super) const MEETING: Duration = Duration::from_secs(4);

/// An INVITE that waits.
#[derive(Debug)]
struct Asked {
    caller: Arc<User>,
    request: Request,
    flow: Flow,
    /// As it came.
    bytes: Bytes,
    /// The caller gave up meanwhile.
    cancel: Option<Cancel>,
    /// Peers may be missing that are about to be met.
    is_meeting: bool,
    /// Peers that have not answered.
    waiting: BTreeSet<NodeName>,
    until: Timestamp,
}

/// A CANCEL of what waits.
#[derive(Debug)]
struct Cancel {
    request: Request,
    flow: Flow,
    /// As it came.
    bytes: Bytes,
}

/// Those that wait, by key.
#[derive(Debug, Default)]
pub(super) struct AskedInvites {
    of: BTreeMap<[u8; 16], Asked>,
    /// Until then links with peers may be missing that are about to come.
    meets_until: Timestamp,
}

impl AskedInvites {
    /// It waits here already: this one is its repeat.
    pub(super) fn has(&self, key: &[u8; 16]) -> bool {
        self.of.contains_key(key)
    }

    /// This node stood still: its links may be gone.
    pub(super) fn meet_again(&mut self, now: Timestamp) {
        self.meets_until = now + MEETING;
    }

    /// When one has waited long enough.
    pub(super) fn next_timeout(&self) -> Option<Timestamp> {
        self.of.values().map(|asked| asked.until).min()
    }
}

impl Worker {
    /// It began a moment ago, and does not know everybody yet.
    pub(super) fn is_newcomer(&self) -> bool {
        self.now < self.started_at + MEETING && !self.store.is_embedded()
    }

    /// Until when there may be peers that are to be met yet.
    fn meets_until(&self) -> Option<Timestamp> {
        let began = self.is_newcomer().then_some(self.started_at + MEETING);
        let until = began.unwrap_or_default().max(self.repeats.asked.meets_until);
        (self.now < until && !self.peers.are_met()).then_some(until)
    }

    /// Asks who may have a call of this INVITE. False: nobody, it is new.
    pub(super) fn ask_for_invite(
        &mut self,
        key: [u8; 16],
        caller: &Arc<User>,
        request: &Request,
        flow: Flow,
    ) -> bool {
        // An emergency is not kept waiting for nodes that nobody knows of.
        let meets_until = self.meets_until().filter(|_| !self.is_emergency(request));
        let is_meeting = meets_until.is_some();
        let is_expected = is_meeting || self.repeats.are_expected(self.now);
        if !is_expected || self.repeats.asked.of.len() >= limits::ASKED_INVITES {
            return false;
        }
        let waiting = self.peers.ask(&PeerFrame::AskInvite { key });
        if waiting.is_empty() && !is_meeting {
            return false;
        }
        let until = (self.now + PATIENCE).max(meets_until.unwrap_or_default());
        let (caller, request) = (Arc::clone(caller), request.clone());
        let (bytes, cancel) = (self.arrived.clone(), None);
        let asked = Asked { caller, request, flow, bytes, cancel, is_meeting, waiting, until };
        self.repeats.asked.of.insert(key, asked);
        true
    }

    /// Keeps the CANCEL of what waits. False: it does not wait.
    pub(super) fn cancel_asked(
        &mut self,
        key: &[u8; 16],
        request: &Request,
        flow: Flow,
        bytes: &Bytes,
    ) -> bool {
        let Some(asked) = self.repeats.asked.of.get_mut(key) else { return false };
        asked.cancel = Some(Cancel { request: request.clone(), flow, bytes: bytes.clone() });
        true
    }

    /// A peer that is here only now is asked too.
    pub(super) fn ask_newcomer(&mut self, name: &NodeName) {
        for (key, asked) in &mut self.repeats.asked.of {
            if self.peers.ask_one(name, &PeerFrame::AskInvite { key: *key }) {
                asked.waiting.insert(name.clone());
            }
        }
    }

    /// A peer is gone: it answers no more.
    pub(super) fn ask_no_more(&mut self, name: &NodeName) {
        for asked in self.repeats.asked.of.values_mut() {
            asked.waiting.remove(name);
        }
    }

    /// A peer has that INVITE, perhaps as a repeat.
    pub(super) fn answer_invite(&self, link: LinkNumber, key: [u8; 16]) {
        let Some(name) = self.peers.name_of(link) else { return };
        let is_first = self.repeats.asked.has(&key) && self.settings.node < *name;
        let here =
            is_first || self.calls.has_key(&key) || self.entrusted.knows_invite(&key, self.now);
        self.peers.send(name, PeerFrame::InviteSeen { key, here });
    }

    /// A call that rings came here from a dead node. Who asked for it before may have made another one since.
    pub(super) fn tell_of_invite(&self, key: [u8; 16]) {
        self.peers.ask(&PeerFrame::InviteSeen { key, here: true });
    }

    /// The answer: who has it gets it.
    pub(super) fn take_invite_seen(&mut self, link: LinkNumber, key: &[u8; 16], here: bool) {
        let Some(name) = self.peers.name_of(link).cloned() else { return };
        if here {
            self.entrusted.arrive_elsewhere(key);
            self.give_way(key);
        }
        let Some(asked) = self.repeats.asked.of.get_mut(key) else { return };
        asked.waiting.remove(&name);
        let (flow, bytes) = (asked.flow, asked.bytes.clone());
        // Where it cannot be sent on, its wait goes on: the phone asks again, or the store tells of the other call.
        if !here || !self.peers.send(&name, PeerFrame::Forward { flow, bytes, hops: 1 }) {
            return;
        }
        let asked = self.repeats.asked.of.remove(key);
        if let Some(Cancel { flow, bytes, .. }) = asked.and_then(|asked| asked.cancel) {
            self.peers.send(&name, PeerFrame::Forward { flow, bytes, hops: 1 });
        }
    }

    /// The process ends: nothing waits any longer.
    pub(super) fn stop_asking(&mut self) {
        for asked in self.repeats.asked.of.values_mut() {
            asked.until = self.now;
        }
        self.end_asking();
    }

    /// Those that nobody knows, or that have waited long enough.
    pub(super) fn end_asking(&mut self) {
        if self.repeats.asked.of.is_empty() {
            return;
        }
        let (now, are_met) = (self.now, self.peers.are_met());
        let is_due = |asked: &Asked| {
            asked.until <= now || asked.waiting.is_empty() && (are_met || !asked.is_meeting)
        };
        let due = self.repeats.asked.of.extract_if(.., |_, asked| is_due(asked));
        for (key, asked) in due.collect::<Vec<_>>() {
            let Asked { caller, request, flow, bytes, cancel, .. } = asked;
            self.arrived = bytes;
            let came_here = self.calls.has_key(&key) || self.entrusted.knows_invite(&key, self.now);
            match &cancel {
                _ if came_here => self.handle_invite(request, flow),
                None => self.admit_invite(key, caller, request, flow),
                Some(Cancel { request: cancel, flow: from, .. }) => {
                    self.refuse(cancel, from, 200);
                    self.refuse(&request, &flow, 487);
                    continue;
                }
            }
            if let Some(Cancel { request, flow, bytes }) = cancel {
                self.handle_cancel(request, flow, &bytes, 0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::Frame;
    use crate::signaling::samples;
    use tokio::sync::mpsc;

    const KEY: [u8; 16] = [3; 16];

    /// A worker that has been there long.
    fn worker() -> Worker {
        let mut worker = samples::worker();
        worker.started_at = Timestamp::EPOCH;
        worker
    }

    fn ask(worker: &mut Worker) -> bool {
        let (request, flow) = samples::invite();
        worker.ask_for_invite(KEY, &Arc::new(samples::user("1")), &request, flow)
    }

    /// What the peer is told of INVITEs.
    fn heard(told: &mut mpsc::Receiver<Frame>) -> Vec<PeerFrame> {
        let frames = core::iter::from_fn(|| told.try_recv().ok());
        let peer = frames.filter_map(|frame| match frame {
            Frame::Peer(frame) => Some(frame),
            _ => None,
        });
        let of_invites = |frame: &PeerFrame| {
            use PeerFrame::{AskInvite, Forward, InviteSeen};
            matches!(frame, AskInvite { .. } | InviteSeen { .. } | Forward { .. })
        };
        peer.filter(of_invites).collect()
    }

    /// It began no call for want of a media node, and says so.
    fn is_admitted(worker: &mut Worker) -> bool {
        worker.end_asking();
        !core::mem::take(&mut worker.sockets.driver().sent).is_empty()
    }

    #[tokio::test]
    async fn an_invite_goes_to_the_peer_that_has_it() {
        let mut worker = worker();
        assert!(!ask(&mut worker), "nobody came or went");
        let mut told = samples::peer(&mut worker);
        assert!(ask(&mut worker));
        assert_eq!(heard(&mut told), [PeerFrame::AskInvite { key: KEY }]);
        assert!(!is_admitted(&mut worker));
        worker.handle_peer(1, PeerFrame::InviteSeen { key: KEY, here: true });
        assert!(matches!(heard(&mut told)[..], [PeerFrame::Forward { hops: 1, .. }]));
        assert!(!is_admitted(&mut worker) && !worker.repeats.asked.has(&KEY));
    }

    #[tokio::test]
    async fn one_that_nobody_has_is_new() {
        let mut worker = worker();
        let _told = samples::peer(&mut worker);
        assert!(ask(&mut worker));
        worker.handle_peer(1, PeerFrame::InviteSeen { key: KEY, here: false });
        assert!(is_admitted(&mut worker));
        assert!(ask(&mut worker) && !is_admitted(&mut worker));
        worker.now = worker.now + PATIENCE;
        assert!(is_admitted(&mut worker), "a peer that stands still is not waited for");
        assert!(ask(&mut worker) && !is_admitted(&mut worker));
        worker.ask_no_more(&NodeName("n-2".into()));
        assert!(is_admitted(&mut worker));
    }

    #[tokio::test]
    async fn of_two_that_ask_each_other_one_has_it() {
        let mut worker = worker();
        let mut told = samples::peer(&mut worker);
        let mut answer = |worker: &mut Worker| {
            heard(&mut told);
            worker.handle_peer(1, PeerFrame::AskInvite { key: KEY });
            heard(&mut told)
        };
        let says = |here| [PeerFrame::InviteSeen { key: KEY, here }];
        assert_eq!(answer(&mut worker), says(false));
        assert!(ask(&mut worker));
        assert_eq!(answer(&mut worker), says(true), "n-1 comes before n-2");
        Arc::get_mut(&mut worker.settings).expect("its own").node = NodeName("n-3".into());
        assert_eq!(answer(&mut worker), says(false));
    }

    #[tokio::test]
    async fn a_newcomer_waits_until_it_has_met_the_others() {
        let mut worker = samples::worker();
        assert!(ask(&mut worker) && !is_admitted(&mut worker), "who is there it does not know");
        let mut told = samples::peer(&mut worker);
        assert_eq!(heard(&mut told), [PeerFrame::AskInvite { key: KEY }]);
        worker.handle_peer(1, PeerFrame::InviteSeen { key: KEY, here: false });
        assert!(!is_admitted(&mut worker), "there may be more");
        worker.peers.note_known(core::iter::empty());
        assert!(is_admitted(&mut worker));
        drop(told);
        assert!(ask(&mut worker) && !is_admitted(&mut worker), "who is not heard comes back");
    }
    #[tokio::test]
    async fn who_gives_up_while_it_waits_rings_nobody() {
        let mut worker = worker();
        let mut told = samples::peer(&mut worker);
        assert!(ask(&mut worker));
        let cancel = |worker: &mut Worker| {
            let (mut request, flow) = samples::invite();
            request.method = crate::sip::Method::Cancel;
            worker.cancel_asked(&KEY, &request, flow, &Bytes::from_static(b"CANCEL"))
        };
        assert!(cancel(&mut worker));
        worker.handle_peer(1, PeerFrame::InviteSeen { key: KEY, here: false });
        worker.end_asking();
        let sent = core::mem::take(&mut worker.sockets.driver().sent);
        let statuses: Vec<_> = sent.iter().map(|(_, bytes)| bytes[8..11].to_vec()).collect();
        assert_eq!(statuses, [b"200", b"487"]);
        assert!(!cancel(&mut worker), "it waits no more");
        // One that a peer has goes there, and its CANCEL after it.
        assert!(ask(&mut worker) && cancel(&mut worker));
        heard(&mut told);
        worker.handle_peer(1, PeerFrame::InviteSeen { key: KEY, here: true });
        use PeerFrame::Forward;
        assert!(matches!(heard(&mut told)[..], [Forward { .. }, Forward { .. }]));
    }

    #[tokio::test]
    async fn a_stop_answers_what_waits() {
        let mut worker = samples::worker();
        assert!(ask(&mut worker) && !is_admitted(&mut worker));
        worker.stop();
        assert!(!core::mem::take(&mut worker.sockets.driver().sent).is_empty());
        assert!(!worker.repeats.asked.has(&KEY));
    }
}
