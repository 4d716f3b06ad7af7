//! Calls of dead owners come here: claimed in batches, restored from their records, carried on (design §4 "Takeover").
//!
//! Invariants: a call is claimed before it is restored, so one node speaks for it; a record that cannot be read costs
//! its own call (`quarantine`); a call with a message waiting is claimed before the others.

use super::calls::Session;
use super::errand::{Claim, Errand};
use super::journal::replay_dead;
use super::leases::{Standing, standing};
use super::links::PeerAddress;
use super::media_pool::LinkNumber;
use super::outputs::catch_bug;
use super::peers::Life;
use super::quarantine::CLAIMS;
use super::wakeup::{Judgement, Wakeup};
use super::worker::Worker;
use crate::call::{Call, Input, Place, RECORD_VERSION, Way, record_passing_over};
use crate::control::hello::{Hello, Role};
use crate::control::{Frame, PeerFrame, Release, Request};
use crate::event::Event;
use crate::ids::{CallId, Epoch, Incarnation, NodeName, Rev, SessionId};
use crate::limits;
use crate::store::{Batch, ClaimedCall, JournalFolder, NodeRow, Store, StoreError};
use crate::time::Timestamp;
use crate::views::CallState;
use core::time::Duration;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use tokio::sync::{mpsc, oneshot};

/// Calls a claim.
const CLAIMED_AT_ONCE: u32 = 250;
/// How often nodes are looked up, and how often the owners of calls.
const NODES_INTERVAL: Duration = Duration::from_secs(1);
/// The owners are asked at every look-up at first, then at each so many.
const OWNERS_EVERY: u32 = 5;
const OWNERS_AT_FIRST: u32 = 10;
/// Until the store is asked again.
const CLAIM_PAUSE: Duration = Duration::from_millis(500);
/// Calls that were given up are claimed within, or not at all: their owner takes them back a little later.
pub(super) const CLAIMED_WITHIN: Duration = Duration::from_secs(10);
/// Calls of an earlier start wait so long for a media node to announce itself.
const MEDIA_PATIENCE: Duration = Duration::from_secs(10);

/// Tells the worker each second who is in the table of nodes, and now and then who owns calls.
/// An embedded store has no other node: there it looks until nothing is left of earlier starts.
pub(super) async fn watch(store: Store, own: Incarnation, wakeups: mpsc::Sender<Wakeup>) {
    let mut turn = 0_u32;
    loop {
        let judged = look(&store, turn).await;
        let owners = judged.as_ref().ok().and_then(|judgement| judgement.owners.as_ref());
        let is_alone = owners.is_some_and(|owners| owners.iter().all(|owner| *owner == own));
        match judged {
            Ok(judgement) => {
                if wakeups.send(Wakeup::Nodes(Box::new(judgement))).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::debug!("the table of nodes cannot be read: {error}");
                if wakeups.send(Wakeup::NodesUnknown).await.is_err() {
                    return;
                }
            }
        }
        if wakeups.is_closed() || (is_alone && store.is_embedded()) {
            return;
        }
        turn = turn.saturating_add(1);
        tokio::time::sleep(NODES_INTERVAL).await;
    }
}

async fn look(store: &Store, turn: u32) -> Result<Judgement, StoreError> {
    let now = store.clock().await?;
    let rows = store.nodes().await?;
    let owners = match turn < OWNERS_AT_FIRST || turn.is_multiple_of(OWNERS_EVERY) {
        true => Some(store.owners().await?),
        false => None,
    };
    Ok(Judgement { now, rows, owners, server: store.server_number() })
}

/// Claims all calls of a dead owner.
pub(super) async fn claim_all(
    store: Store,
    journals: Option<Arc<JournalFolder>>,
    (from, seen_at): (Incarnation, Option<Timestamp>),
    to: Incarnation,
    wakeups: mpsc::Sender<Wakeup>,
) {
    let mut failures = 0_u32;
    let mut is_replayed = false;
    loop {
        let claimed = async {
            if !is_replayed {
                // What it did while the store was away goes first.
                replay_dead(journals.as_deref(), &store).await?;
            }
            let calls = store.claim(from, to, CLAIMED_AT_ONCE, seen_at).await?;
            // Those that a node was killed with: one by one, so that what kills this one too is known.
            let suspect = match calls.is_empty() {
                true => store.claim_suspect(from, to, seen_at).await?,
                false => None,
            };
            Ok::<_, StoreError>((calls, suspect))
        };
        let claimed = claimed.await;
        is_replayed |= claimed.is_ok();
        match claimed {
            Ok((calls, None)) if calls.is_empty() => return,
            Ok((_, Some(suspect))) => {
                let (lived, wait) = oneshot::channel();
                let suspect = Wakeup::Suspect(Box::new(suspect), lived);
                if wakeups.send(suspect).await.is_err() || wait.await.is_err() {
                    return;
                }
            }
            Ok((calls, None)) => {
                failures = 0;
                if wakeups.send(Wakeup::Claimed(calls)).await.is_err() {
                    return;
                }
            }
            // Until the store is back nobody else can claim either.
            Err(error) => {
                failures += 1;
                if failures == 1 {
                    tracing::warn!("calls of a dead node cannot be claimed yet: {error}");
                }
                if wakeups.send(Wakeup::ClaimInDoubt).await.is_err() {
                    return;
                }
                tokio::time::sleep(CLAIM_PAUSE).await;
            }
        }
    }
}

/// Writes what a peer gave us to keep, as soon as the store takes it. What it has already, or later, it does not take.
pub(super) async fn write_kept(store: &Store, batch: &Batch, wakeups: &mpsc::Sender<Wakeup>) {
    for calls in batch.calls.chunks(limits::COMMIT_BATCH) {
        let part = Batch { calls: calls.to_vec(), ..Batch::default() };
        while store.commit(&part).await.is_err() && !wakeups.is_closed() {
            tokio::time::sleep(CLAIM_PAUSE).await;
        }
    }
    tracing::warn!("{} saves that another node left here were written", batch.calls.len());
}

/// The lowest version of records that a live node reads: all write that one, so that any can take any call over.
fn lowest_record_version<'a>(live: impl Iterator<Item = &'a NodeRow>) -> u16 {
    #[derive(serde::Deserialize)]
    struct Versions {
        record_version: Option<u16>,
    }
    let of = |row: &NodeRow| {
        serde_json::from_str(&row.view).ok().map(|read: Versions| read.record_version)
    };
    let versions = live.filter_map(of).map(|version| version.unwrap_or(1));
    versions.fold(RECORD_VERSION, u16::min)
}

impl Worker {
    /// What the table says: peers to dial, leases that ran out, owners that are no more.
    pub(super) fn handle_nodes(&mut self, judgement: Judgement) {
        let Judgement { now, mut rows, owners, server } = judgement;
        let written: HashMap<Incarnation, Timestamp> =
            rows.iter().map(|row| (row.incarnation, row.seen_at)).collect();
        self.leases.age(now, &mut rows);
        self.notice_server(server);
        self.see_again();
        let (own, lease) = (self.settings.incarnation, self.lease);
        let is_fresh = |row: &NodeRow| now.saturating_since(row.seen_at) <= lease;
        let signals = |row: &&NodeRow| row.mode != "media" && row.incarnation != own;
        for row in rows.iter().filter(signals) {
            let peer = PeerAddress {
                name: row.name.clone(),
                incarnation: row.incarnation,
                control: row.control.clone(),
                role: Role::Signaling,
                probes: Vec::new(),
            };
            if is_fresh(row) {
                self.peers.revive(row.incarnation);
            }
            // A node that is new here looks for all that may live: the store may have been away from them.
            if (is_fresh(row) || self.is_newcomer()) && self.peers.begin_dial(&peer, own) {
                self.errands.run(Errand::Dial(peer));
            }
        }
        let live = rows.iter().filter(|row| is_fresh(row) && row.mode != "media");
        self.write_records_in(lowest_record_version(live));
        let mut alive: HashSet<&str> =
            rows.iter().filter(|row| is_fresh(row)).map(|row| &*row.name.0).collect();
        let own_name = self.settings.node.clone();
        alive.insert(&own_name.0);
        let own_row = rows.iter().find(|row| row.incarnation == own);
        if self.leases.may_judge(now, own_row, lease) {
            self.lose_connections_of_others(&alive);
            self.judge_silence(now, rows.iter().filter(signals), written);
        }
        let known = rows.iter().filter(signals).map(|row| (&row.name, row.incarnation));
        self.peers.note_known(known);
        self.leases.has_inherited |=
            owners.as_ref().is_some_and(|owners| owners.iter().all(|owner| *owner == own));
        // A restored call wants its media session first of all.
        let can_carry = self.loaded
            && (self.media.has_room()
                || self.now.saturating_since(self.started_at) > MEDIA_PATIENCE);
        if let Some(owners) = owners.filter(|_| can_carry) {
            self.judge_owners(&rows, &owners);
        }
    }

    /// Who let its lease run out may be gone, or cut off and speaking: its calls are claimed one by one, as phones
    /// speak to us of them. Silent for a second lease it is dead: a node that lives has found itself out by then. What
    /// it did meanwhile may be in its journal alone.
    fn judge_silence<'a>(
        &mut self,
        now: Timestamp,
        rows: impl Iterator<Item = &'a NodeRow>,
        mut written: HashMap<Incarnation, Timestamp>,
    ) {
        let (mut silent, mut dead) = (HashSet::new(), Vec::new());
        for row in rows {
            match standing(now.saturating_since(row.seen_at), self.lease) {
                Standing::Fresh => _ = written.remove(&row.incarnation),
                Standing::Silent if self.peers.life(row.incarnation) == Life::Dead => {}
                Standing::Silent => _ = silent.insert(row.incarnation),
                Standing::Dead => dead.push(row.incarnation),
            }
        }
        self.peers.note_last_seen(written);
        if self.peers.set_silent(silent) {
            self.server.doubt_records(self.now);
            tracing::warn!(
                "the lease of a signaling node ran out: its calls are claimed as phones ask"
            );
        }
        for incarnation in dead {
            if self.peers.bury_silent(incarnation) {
                self.server.doubt_records(self.now);
                self.take_from_dead(incarnation);
            }
        }
    }

    fn write_records_in(&mut self, version: u16) {
        if version != self.record_version {
            tracing::info!("records of calls are written in version {version} from now on");
            self.record_version = version;
        }
    }

    /// An owner that no row names is an earlier start of a node that started again. One look may come before its row.
    fn judge_owners(&mut self, rows: &[NodeRow], owners: &[Incarnation]) {
        let known: HashSet<Incarnation> = rows.iter().map(|row| row.incarnation).collect();
        let own = self.settings.incarnation;
        let nameless: BTreeSet<Incarnation> = owners
            .iter()
            .copied()
            .filter(|owner| *owner != own && !known.contains(owner))
            .collect();
        let alone = self.store.is_embedded();
        for owner in &nameless {
            if alone || self.leases.nameless.contains(owner) {
                self.peers.bury(*owner);
                self.claim_from(*owner);
            }
        }
        // Calls that were saved in a dying node's name after its burial.
        for owner in owners.iter().filter(|owner| known.contains(owner)) {
            if self.peers.life(*owner) == Life::Dead {
                self.claim_from(*owner);
            }
        }
        self.leases.nameless = nameless;
    }

    /// A peer has a link with us; a former start of it is dead.
    pub(super) fn peer_up(
        &mut self,
        number: LinkNumber,
        hello: Hello,
        sender: mpsc::Sender<Frame>,
        rtt_us: Arc<AtomicU32>,
    ) {
        let name = hello.name.clone();
        self.expect_repeats();
        let former = self.peers.link_up(number, hello, sender, rtt_us, self.now);
        let sip = self.sockets.addresses();
        self.peers.send(&name, PeerFrame::Addresses { sip });
        if self.draining.is_some() {
            self.peers.send(&name, PeerFrame::Draining(true));
        }
        self.begin_to_tell(&name);
        self.ask_newcomer(&name);
        if !self.inherited.is_empty() {
            let numbers = self.inherited.iter().copied().collect();
            self.peers.send(&name, PeerFrame::Inherited(numbers));
        }
        self.say_again_by_peer(&name);
        self.seek_refuge();
        if let Some(former) = former {
            self.claim_from(former);
        }
    }

    /// The link to a peer broke: whether it lives is found out at once.
    pub(super) fn peer_down(&mut self, peer: PeerAddress) {
        self.peer_left(peer.name.clone());
        tracing::warn!(node = %peer.name, "the link with signaling node {} broke", peer.name);
        self.errands.run(Errand::Judge(peer));
    }

    /// It answers nobody any more, and phones may say here what they said there.
    pub(super) fn peer_left(&mut self, name: NodeName) {
        self.expect_repeats();
        self.ask_no_more(&name);
        self.pass_on_again(&name);
        self.say_again_around(&name);
        self.peers.note_left(name, self.now);
    }

    /// Proven: its calls are anybody's.
    pub(super) fn peer_is_dead(&mut self, incarnation: Incarnation) {
        if self.peers.bury(incarnation) {
            self.take_from_dead(incarnation);
        }
    }

    fn take_from_dead(&mut self, incarnation: Incarnation) {
        self.relocate_calls(incarnation);
        tracing::warn!(
            "a signaling node is dead (incarnation {}): its calls are claimed",
            incarnation.0
        );
        self.claim_from(incarnation);
    }

    /// Its owner is dead: what is claimed comes back as a wakeup.
    pub(super) fn claim_from(&mut self, from: Incarnation) {
        self.claim(from, None);
    }

    /// Its owner lives and gave it up.
    pub(super) fn claim_given(&mut self, from: Incarnation) {
        self.expect_repeats();
        self.claim(from, Some(CLAIMED_WITHIN));
    }

    /// A node that gives its calls up leaves it to others.
    fn claim(&mut self, from: Incarnation, patience: Option<Duration>) {
        if self.is_leaving() {
            return;
        }
        let calls = self.entrusted.give(from, self.now);
        let kept = Batch { calls, ..Batch::default() };
        // What is given up is anybody's, though its owner lives.
        let seen_at = self.peers.last_seen(from).filter(|_| patience.is_none());
        self.errands.run(Errand::ClaimAll(Claim { from, seen_at, kept, patience }));
    }

    /// Calls that are ours from now on.
    pub(super) fn handle_claimed(&mut self, calls: Vec<ClaimedCall>) {
        let count = calls.len();
        for call in calls {
            self.adopt(call);
        }
        tracing::info!("{count} calls adopted");
    }

    /// One that others did not live to save; whoever claimed it waits to hear that we live.
    pub(super) fn handle_suspect(&mut self, call: ClaimedCall, lived: oneshot::Sender<()>) {
        let id = call.id;
        self.handle_claimed(vec![call]);
        self.await_save(id, lived);
    }

    pub(super) fn adopt(&mut self, claimed: ClaimedCall) {
        let ClaimedCall { id, key, epoch, rev, ref record, claims } = claimed;
        self.entrusted.arrive(id);
        match self.calls.get(id).map(|slot| slot.call.epoch()) {
            Some(present) if present >= epoch => return,
            // Another had it meanwhile: what is here is older.
            Some(_) => {
                self.committer.forget(id);
                self.let_go(id);
            }
            None => {}
        }
        if claims > CLAIMS {
            let why = format!("{} nodes that took it over did not live to save it", claims - 1);
            return self.quarantine(&claimed, &why);
        }
        let (settings, now) = (Arc::clone(&self.settings), self.now);
        let refresh_at = self.pace.next(now);
        let reach = |way: &Way<'_>| self.reach(way);
        let place = Place { reach: &reach, refresh_at };
        let is_old = self.server.may_be_old(now);
        let restore = || match is_old {
            true => {
                let record = record_passing_over(record, &settings.key);
                Call::restore(settings, &record, epoch, now, &place)
            }
            false => Call::restore(settings, record, epoch, now, &place),
        };
        let call = match catch_bug(restore) {
            Ok(Some(call)) => call,
            Ok(None) => {
                return self.quarantine(&claimed, "its record cannot be read by this release");
            }
            Err(what) => {
                self.emit(&Event::Bug { call: Some(id), what });
                return self.quarantine(&claimed, "its record panics its reader");
            }
        };
        let recorded = call.media_node().cloned();
        let moved = self.moved_since(&call);
        let moved = moved.or_else(|| self.media.heir_of(recorded.as_ref()?));
        let node = moved.clone().or(recorded);
        let rings = matches!(call.state(), CallState::Trying | CallState::Early);
        if rings && self.has_caller_of(id, &key) {
            return self.end_beside_another(&claimed);
        }
        self.note_mark(id, || format!("carried on by {}", self.settings.node));
        self.calls.insert(call, key, String::new());
        if let Some(slot) = self.calls.get_mut(id) {
            (slot.saved, slot.committed, slot.stored) = (rev, rev, rev);
            slot.media = node.map(|node| adopted_session(node, id, epoch));
        }
        self.drain(id);
        if rings {
            self.tell_of_invite(key);
        }
        self.move_as_wanted(id);
        if let Some(node) = moved {
            self.input(id, Input::MediaMoved { node });
        }
        let session = self.calls.get(id).and_then(|slot| slot.media.as_ref());
        if let Some(node) = session.map(|session| session.node.clone()) {
            self.doubt_unheard(node);
        }
    }

    /// Which process of the host that its record names took the session since, if one did. What was heard of it before
    /// the call last came there from another host tells nothing.
    fn moved_since(&self, call: &Call) -> Option<NodeName> {
        let (at, place) = self.media.place_of(SessionId::from(call.id()))?;
        let is_old = call.anchored_at().is_some_and(|anchored| at <= anchored);
        let is_its_host = |recorded| recorded != place && !self.media.are_apart(recorded, place);
        (!is_old && call.media_node().is_none_or(is_its_host)).then(|| place.clone())
    }
}

/// The session where it is; the restored call's first wish takes the place of this one before anything is sent.
fn adopted_session(node: NodeName, id: CallId, epoch: Epoch) -> Session {
    let release = Release { session: SessionId::from(id), epoch, rev: Rev(0) };
    Session {
        node,
        request: Request::Release(release),
        settled: true,
        heard: 0,
        refused_by: Vec::new(),
        stays: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signaling::samples;

    #[tokio::test]
    async fn records_of_a_silent_owner_may_lack_what_it_did_last() {
        let mut worker = samples::worker();
        let (own, lease) = (worker.settings.incarnation, worker.lease);
        let begun = Timestamp::from_millis(1_000_000);
        let mut look = |after: Duration| {
            let now = begun + after;
            let other = Incarnation(own.0 + 1);
            let rows = vec![samples::row(own, now), samples::row(other, begun)];
            worker.handle_nodes(Judgement { now, rows, owners: None, server: 1 });
            worker.server.may_be_old(worker.now)
        };
        let looks = [0, 1, 2, 3].map(|third| look(lease * third / 3));
        assert_eq!(looks, [false; 4], "its lease is good");
        assert!(look(lease * 4 / 3), "it may be cut off, and speak");
    }

    /// It may renew its lease before the claim comes to the store.
    #[tokio::test]
    async fn who_is_dead_by_its_silence_alone_is_claimed_from_while_it_is_silent() {
        let mut worker = samples::worker();
        let (own, lease) = (worker.settings.incarnation, worker.lease);
        let others = [1, 2].map(|number| Incarnation(own.0 + number));
        let begun = Timestamp::from_millis(1_000_000);
        worker.peers.bury(others[0]);
        for third in 0..=7 {
            let now = begun + lease * third / 3;
            let mut rows = others.map(|other| samples::row(other, begun)).to_vec();
            rows.push(samples::row(own, now));
            worker.handle_nodes(Judgement { now, rows, owners: None, server: 1 });
        }
        worker.claim_from(others[0]);
        worker.claim_given(others[1]);
        let errands = samples::errands(&mut worker).into_iter();
        let claims = errands.filter_map(|errand| match errand {
            Errand::ClaimAll(claim) => Some((claim.from, claim.seen_at)),
            _ => None,
        });
        let expect = [
            (others[1], Some(begun)),
            // Proven dead, and given up.
            (others[0], None),
            (others[1], None),
        ];
        assert_eq!(claims.collect::<Vec<_>>(), expect);
    }
}
