//! What nodes have done beside them: the store answers late, in doubt or not at all, and does what it was asked though
//! nobody waits for it any more.

use super::faults::Mood;
use super::journal::brief;
use super::link::Place;
use super::node::LEASE;
use super::sabotage::Sabotage;
use super::world::{Happening, MS, S, World};
use holdfast::call::Answer;
use holdfast::ids::{CallId, Flow, Incarnation, Transport};
use holdfast::signaling::driven::{
    Claim, Errand, Found, Incoming, Judgement, PeerAddress, Stray, Wakeup, Whereabouts,
};
use holdfast::store::{Batch, CallOutcome, StoreError, TOMBSTONE_LIFE};
use holdfast::time::Timestamp;
use tokio::sync::oneshot::{self, error::TryRecvError};

/// Of a statement, and of a commit.
const DEADLINE: u64 = 3 * S;
const COMMIT_DEADLINE: u64 = 10 * S;
/// What a store that is not slow takes.
const AT_ONCE: u64 = 500 * MS;
/// A peer that does not answer is dialled for so long; its kernel is asked again each second.
const JUDGING: u64 = 15 * S;
const DIALLED_EVERY: u64 = S;

/// A call that a claimer did not live to save, and what is asked when this one has.
pub struct Suspect {
    node: usize,
    life: u64,
    waits: oneshot::Receiver<()>,
    next: Errand,
}

/// How a statement fares.
enum Way {
    /// It fails after so long.
    Fails(u64),
    /// It is there and its answer is back after so long each; whether the answer is heard.
    Works { there: u64, heard: bool },
}

fn unavailable<T>() -> Result<T, StoreError> {
    Err(StoreError::Unavailable("in the simulation".to_owned()))
}

fn claims(errand: &Errand) -> bool {
    matches!(errand, Errand::ClaimFor(..) | Errand::ClaimAll(_))
}

fn writes(errand: &Errand) -> bool {
    claims(errand) || matches!(errand, Errand::Commit(_))
}

/// How long an answer is waited for, where that is less than for a statement.
fn patience(errand: &Errand) -> u64 {
    match errand {
        Errand::AskStore(_) => AT_ONCE,
        Errand::AskAgain(_, patience) => u64::try_from(patience.as_micros()).unwrap_or(u64::MAX),
        _ => u64::MAX,
    }
}

/// What is looked for again is not looked for at once.
fn pause(errand: &Errand) -> u64 {
    let pause = match errand {
        Errand::FindOwner(stray) if stray.tries > 0 => stray.pause(),
        _ => return 0,
    };
    u64::try_from(pause.as_micros()).unwrap_or(u64::MAX)
}

impl World {
    pub fn store_takes_writes(&self, node: usize) -> bool {
        !self.nodes[node].is_cut_from_store && matches!(self.mood, Mood::Well | Mood::Slow(_))
    }

    fn way(&mut self, node: usize, writes: bool) -> Way {
        let deadline = if writes { COMMIT_DEADLINE } else { DEADLINE };
        let latency = self.random.between(200, 1_500);
        if self.nodes[node].is_cut_from_store {
            return Way::Fails(self.random.between(MS, deadline));
        }
        let there = match self.mood {
            Mood::Well => latency,
            Mood::Slow(most) => self.random.between(latency, most),
            Mood::ReadOnly if writes => return Way::Fails(latency),
            Mood::ReadOnly => latency,
            Mood::Gone => return Way::Fails(latency),
            Mood::Silent => return Way::Fails(deadline),
        };
        if there * 2 > deadline {
            return Way::Fails(deadline);
        }
        let slow = self.random.chance(self.weather.slow_store);
        let there = if slow { self.random.between(50 * MS, 900 * MS) } else { there };
        let heard = !(writes && self.random.chance(self.weather.doubt));
        Way::Works { there, heard }
    }

    fn answer(&mut self, node: usize, life: u64, after: u64, wakeup: Wakeup) {
        let incoming = Incoming::Wakeup(wakeup);
        self.schedule(after, Happening::ToNode { node, life, incoming });
    }

    pub fn run_errand(&mut self, node: usize, life: u64, errand: Errand) {
        if let Errand::ClaimAll(claim) = &errand {
            self.note_claim(life, claim);
        }
        match errand {
            Errand::Journal(work) => {
                let outcomes = self.journal_does(node, &work);
                let after = self.random.between(MS, 6 * MS);
                self.answer(node, life, after, Wakeup::Journaled(Ok(outcomes), 4_096));
            }
            Errand::Resolve { call, number, host, port, transport: _ } => {
                let ip = host.parse().ok();
                let remote = ip.map(|ip| core::net::SocketAddr::new(ip, port.unwrap_or(5060)));
                let local = crate::world::SERVER.parse().expect("address");
                let flow = remote.map(|remote| Flow {
                    transport: Transport::Udp,
                    local,
                    remote,
                    connection: None,
                });
                let wakeup = Wakeup::Answer(call, Answer::Resolve { number, flow });
                self.answer(node, life, MS, wakeup);
            }
            Errand::SayAgain(messages) => {
                for after in [500 * MS, 1_500 * MS, 3_500 * MS] {
                    for (flow, bytes) in messages.clone() {
                        self.answer(node, life, after, Wakeup::Say(flow, bytes));
                    }
                }
            }
            Errand::AskStore(name) if self.sabotage == Some(Sabotage::FalseExile) => {
                self.answer(node, life, MS, Wakeup::StoreWorks(name));
            }
            Errand::StopClaim(from) => _ = self.given.remove(&(life, from)),
            // Nobody asks for ladders here.
            Errand::ReadLadder { .. } => {}
            Errand::Dial(peer) => self.dial(node, life, peer, false, self.now + DEADLINE),
            Errand::Judge(peer) => self.dial(node, life, peer, true, self.now + JUDGING),
            Errand::Probe { node: media, probes, peer } => {
                let reaches = |at: usize| !self.is_cut(Place::Node(node), Place::Media(at));
                let is_near = self.media_named(&media.0).is_some_and(reaches);
                let lives = is_near && self.answers_at(&probes);
                let store_answers = self.store_takes_writes(node);
                let wakeup = Wakeup::Probed { node: media, peer, lives, store_answers };
                self.answer(node, life, if lives { 2 * MS } else { 300 * MS }, wakeup);
            }
            Errand::Commit(_)
            | Errand::FindOwner(_)
            | Errand::FindByKey { .. }
            | Errand::ClaimFor(..)
            | Errand::ClaimAll(_)
            | Errand::AskStore(_)
            | Errand::AskAgain(..)
            | Errand::Prove
            | Errand::Sweep(_)
            | Errand::LookUp { .. } => self.ask_store(node, life, errand),
        }
    }

    fn ask_store(&mut self, node: usize, life: u64, errand: Errand) {
        if let Errand::Commit(batch) = &errand
            && self.tells_early(node)
        {
            let done = batch.calls.iter().map(|_| CallOutcome::Done).collect();
            self.answer(node, life, 1, Wakeup::Committed(Ok(done)));
            let after = self.random.between(5 * MS, 60 * MS);
            return self.schedule(after, Happening::Store { node, life, errand, heard: false });
        }
        match self.way(node, writes(&errand)) {
            Way::Works { there, heard } => {
                // There are few claims beside commits.
                let lost = claims(&errand) && self.random.chance(self.weather.doubt * 10);
                let heard = heard && !lost;
                let there = there + pause(&errand);
                if there * 2 > patience(&errand) {
                    return self.fail_errand(node, life, patience(&errand), errand);
                }
                self.schedule(there, Happening::Store { node, life, errand, heard });
            }
            Way::Fails(after) => {
                self.count.add("store: failed");
                let after = after.min(patience(&errand));
                self.fail_errand(node, life, after, errand);
            }
        }
    }

    /// A commit is told done before it is.
    fn tells_early(&self, node: usize) -> bool {
        let process = self.nodes[node].process.as_ref();
        let leaves = || process.is_some_and(|it| it.leaving.is_some() || it.is_draining);
        match self.sabotage {
            Some(Sabotage::EarlyCommit) => true,
            Some(Sabotage::EarlyHandOver) => leaves(),
            _ => false,
        }
    }

    /// What the asker hears when the store did not answer.
    fn fail_errand(&mut self, node: usize, life: u64, after: u64, errand: Errand) {
        let found = |stray: Stray| Wakeup::StrayFound(Box::new((stray, Whereabouts::Unknown)));
        if claims(&errand) {
            self.answer(node, life, after, Wakeup::ClaimInDoubt);
        }
        if let Errand::Commit(batch) = &errand {
            let seconds = after as f64 / 1e6;
            self.note(|| format!("   store: node {node} fails in {seconds} s: {:?}", brief(batch)));
        }
        let wakeup = match errand {
            Errand::Commit(_) => Wakeup::Committed(unavailable()),
            Errand::FindOwner(stray) | Errand::ClaimFor(stray, ..) => found(stray),
            Errand::FindByKey { flow, bytes, hops, .. } => {
                found(Stray { call: CallId(0), hint: 0, flow, bytes, hops, tries: 0 })
            }
            // The task tries again.
            Errand::ClaimAll(_) => {
                let after = after + 500 * MS;
                return self.schedule(after, Happening::Store { node, life, errand, heard: true });
            }
            Errand::Prove => Wakeup::Proven(unavailable()),
            Errand::AskAgain(link, _) => Wakeup::CutOff(link),
            Errand::LookUp { call, number, uri, extension } => {
                let result = unavailable();
                Wakeup::Found(Box::new(Found { call, number, uri, extension, result }))
            }
            Errand::Sweep(_)
            | Errand::AskStore(_)
            | Errand::Journal(_)
            | Errand::StopClaim(_)
            | Errand::SayAgain(_)
            | Errand::Resolve { .. }
            | Errand::Dial(_)
            | Errand::Judge(_)
            | Errand::Probe { .. }
            | Errand::ReadLadder { .. } => return,
        };
        self.answer(node, life, after, wakeup);
    }

    /// The statement is executed. Who asked may be dead: then it may have been lost on the way, or not.
    pub fn store_does(&mut self, node: usize, life: u64, errand: Errand, heard: bool) {
        let lives = self.nodes[node].life() == life;
        let is_early = self.sabotage == Some(Sabotage::EarlyCommit);
        if !lives {
            if !writes(&errand) || is_early || self.random.chance(500) {
                return;
            }
            self.count.add("store: did what a dead node asked");
        }
        // A task that tries again meets the store as it is now.
        if claims(&errand) && !(self.store_takes_writes(node) && self.settled_at <= self.now) {
            return self.fail_errand(node, life, MS, errand);
        }
        let back = self.random.between(200, 1_500);
        let own = Incarnation(life);
        let wakeup = match errand {
            Errand::Commit(batch) => {
                let outcomes = self.commit(node, &batch);
                if is_early {
                    return;
                }
                if !heard {
                    self.count.add("store: commit in doubt");
                    let after = self.random.between(MS, COMMIT_DEADLINE);
                    self.note(|| format!("   store: node {node} does not hear it"));
                    return self.answer(node, life, after, Wakeup::Committed(unavailable()));
                }
                Wakeup::Committed(Ok(outcomes))
            }
            Errand::FindOwner(stray) => {
                let found = self.find(node, stray.call);
                Wakeup::StrayFound(Box::new((stray, found)))
            }
            Errand::FindByKey { key, flow, bytes, hops } => {
                let (call, found) = self.find_by_key(node, &key);
                let stray = Stray { call, hint: 0, flow, bytes, hops, tries: 0 };
                Wakeup::StrayFound(Box::new((stray, found)))
            }
            Errand::ClaimFor(stray, claim) => {
                let found = self.claim_for(node, own, stray.call, &claim);
                if !heard {
                    let again = Errand::ClaimFor(stray, claim);
                    return self.lose_claim(node, life, again);
                }
                Wakeup::StrayFound(Box::new((stray, found)))
            }
            Errand::ClaimAll(claim) => return self.claim_all(node, life, claim, heard, back),
            Errand::AskStore(name) if self.store_takes_writes(node) => Wakeup::StoreWorks(name),
            Errand::AskAgain(link, _) if !self.store_takes_writes(node) => Wakeup::CutOff(link),
            Errand::AskStore(_) | Errand::AskAgain(..) => return,
            Errand::Prove => {
                self.renew(node, own);
                Wakeup::Proven(Ok(self.owned(node, own)))
            }
            Errand::LookUp { call, number, uri, extension } => {
                let user = self.users.iter().find(|user| user.extension == extension);
                let mut bindings = self.stored_bindings();
                bindings.retain(|binding| binding.extension == extension);
                let result = Ok((user.cloned(), bindings));
                Wakeup::Found(Box::new(Found { call, number, uri, extension, result }))
            }
            Errand::Sweep(now) => return self.store.sweep(now - TOMBSTONE_LIFE),
            Errand::Journal(_)
            | Errand::StopClaim(_)
            | Errand::SayAgain(_)
            | Errand::Resolve { .. }
            | Errand::Dial(_)
            | Errand::Judge(_)
            | Errand::Probe { .. }
            | Errand::ReadLadder { .. } => return,
        };
        self.answer(node, life, back, wakeup);
    }

    /// Its lease.
    fn renew(&mut self, node: usize, own: Incarnation) {
        let seen_at = Timestamp::from_micros(self.now + self.store_ahead);
        if self.store_takes_writes(node) {
            let mut rows = self.store.nodes.values_mut();
            rows.find(|row| row.incarnation == own)
                .into_iter()
                .for_each(|row| row.seen_at = seen_at);
        }
    }

    fn owned(&self, node: usize, own: Incarnation) -> Vec<CallId> {
        let mut owned = self.store.owned(own);
        if self.sabotage == Some(Sabotage::NoProof) {
            let process = self.nodes[node].process.iter();
            owned.extend(process.flat_map(|it| it.driven.calls()).map(|call| call.id()));
        }
        owned
    }

    fn commit(&mut self, node: usize, batch: &Batch) -> Vec<CallOutcome> {
        let outcomes = self.store.commit(batch);
        self.note(|| format!("   store: node {node} commits {:?}: {outcomes:?}", brief(batch)));
        outcomes
    }

    fn claim_for(
        &mut self,
        node: usize,
        own: Incarnation,
        call: CallId,
        claim: &Claim,
    ) -> Whereabouts {
        if self.sabotage == Some(Sabotage::NobodyClaims) {
            return Whereabouts::Unknown;
        }
        self.replay_dead(node);
        self.store.commit(&claim.kept);
        let mut claimed = self.store.claim_call(call, claim.from, own, claim.seen_at);
        self.read_by(node, claimed.as_mut_slice());
        self.note(|| format!("   node {node} claims {call}: {}", claimed.is_some()));
        claimed.map_or(Whereabouts::Unknown, |claimed| Whereabouts::Claimed(Box::new(claimed)))
    }

    fn find_by_key(&mut self, node: usize, key: &[u8; 16]) -> (CallId, Whereabouts) {
        match self.store.call_of_key(key) {
            Some(call) => (call, self.find(node, call)),
            None => (CallId(0), Whereabouts::Nowhere),
        }
    }

    /// What the store does not know may be in the journal of a dead process.
    fn find(&mut self, node: usize, call: CallId) -> Whereabouts {
        if self.store.owner(call).is_none() {
            let journals = self.nodes.iter().filter(|node| node.process.is_none());
            let is_kept = journals.into_iter().any(|node| !node.journal.is_empty());
            if is_kept && !self.store_takes_writes(node) {
                return Whereabouts::Unknown;
            }
            self.replay_dead(node);
        }
        match self.store.owner(call) {
            Some(owner) => Whereabouts::Owner(owner),
            None if self.store.has_ended(call) => Whereabouts::Over,
            None => Whereabouts::Nowhere,
        }
    }

    /// A claim of what a living node gave up: until when it is tried.
    fn note_claim(&mut self, life: u64, claim: &Claim) {
        if let Some(patience) = claim.patience {
            let until = self.now + u64::try_from(patience.as_micros()).unwrap_or(u64::MAX);
            self.given.insert((life, claim.from), until);
        }
    }

    fn is_too_late(&self, life: u64, claim: &Claim) -> bool {
        let until = self.given.get(&(life, claim.from)).copied().unwrap_or_default();
        claim.patience.is_some() && until < self.now && self.sabotage != Some(Sabotage::LateClaims)
    }

    fn claim_all(&mut self, node: usize, life: u64, claim: Claim, heard: bool, back: u64) {
        if !claim.kept.calls.is_empty() {
            self.count.add("journal: kept by a peer and written");
            self.store.commit(&claim.kept);
        }
        if self.sabotage == Some(Sabotage::NobodyClaims) {
            return;
        }
        if self.is_too_late(life, &claim) {
            return self.count.add("store: too late to claim what was given up");
        }
        let Claim { from, seen_at, patience, .. } = claim;
        self.replay_dead(node);
        let own = Incarnation(life);
        let mut claimed = self.store.claim(from, own, seen_at);
        self.read_by(node, &mut claimed);
        // Those that a claimer died with: one by one, the next when it lived to adopt the one before.
        let asks = claimed.is_empty() && self.nodes[node].life() == life;
        let suspect = self.store.suspects(from).first().copied().filter(|_| asks);
        let mut suspect = suspect.and_then(|id| self.store.claim_call(id, from, own, seen_at));
        self.read_by(node, suspect.as_mut_slice());
        let mut lives_to_save = None;
        let wakeup = match suspect {
            Some(suspect) => {
                self.count.add("calls: claimed though a claimer died with them");
                let (lived, waits) = oneshot::channel();
                lives_to_save = Some(waits);
                Wakeup::Suspect(Box::new(suspect), lived)
            }
            None if claimed.is_empty() => return,
            None => {
                self.note(|| {
                    let ids: Vec<u128> = claimed.iter().map(|call| call.id.0).collect();
                    format!("   node {node} claims {ids:?} of {}", from.0)
                });
                Wakeup::Claimed(claimed)
            }
        };
        let again = Errand::ClaimAll(Claim { from, seen_at, kept: Batch::default(), patience });
        if !heard {
            return self.lose_claim(node, life, again);
        }
        self.answer(node, life, back, wakeup);
        if let Some(waits) = lives_to_save {
            return self.suspects.push(Suspect { node, life, waits, next: again });
        }
        let after = back + 5 * MS;
        self.schedule(after, Happening::Store { node, life, errand: again, heard: true });
    }

    /// The next one that a claimer did not live to save is claimed when the one before is saved.
    pub fn claim_suspects(&mut self) {
        for suspect in core::mem::take(&mut self.suspects) {
            let Suspect { node, life, mut waits, next } = suspect;
            match waits.try_recv() {
                Ok(()) => {
                    let errand = Happening::Store { node, life, errand: next, heard: true };
                    self.schedule(MS, errand);
                }
                Err(TryRecvError::Empty) => {
                    self.suspects.push(Suspect { node, life, waits, next });
                }
                Err(TryRecvError::Closed) => {}
            }
        }
    }

    /// It came true, and who asked hears of no answer.
    fn lose_claim(&mut self, node: usize, life: u64, errand: Errand) {
        self.count.add("store: claim in doubt");
        let after = self.random.between(MS, COMMIT_DEADLINE);
        self.fail_errand(node, life, after, errand);
    }

    /// Who is in the table, each second.
    pub fn look(&mut self, node: usize, life: u64) {
        let Some(process) = &mut self.nodes[node].process else { return };
        if process.life != life {
            return;
        }
        if !process.is_frozen {
            let turn = process.looks;
            process.looks += 1;
            let wakeup = match self.way(node, false) {
                Way::Works { there, .. } => {
                    let now = self.now + self.store_ahead;
                    let rows = self.store.nodes.values().cloned().collect();
                    let now = holdfast::time::Timestamp::from_micros(match self.sabotage {
                        // By a clock that nobody's lease was written with.
                        Some(Sabotage::OtherClock) => now + LEASE + 2 * S * (node as u64 % 2),
                        _ => now,
                    });
                    let asks = turn < 10 || turn.is_multiple_of(5);
                    let owners = asks.then(|| self.store.owners());
                    (2 * there, {
                        let is_untold = self.sabotage == Some(Sabotage::UntoldServer);
                        let server = if is_untold { 1 } else { self.server };
                        Wakeup::Nodes(Box::new(Judgement { now, rows, server, owners }))
                    })
                }
                Way::Fails(after) => (after, Wakeup::NodesUnknown),
            };
            self.answer(node, life, wakeup.0, wakeup.1);
        }
        self.schedule(S, Happening::Look { node, life });
    }

    pub fn write_row(&mut self, node: usize, life: u64) {
        let seen_at = Timestamp::from_micros(self.now + self.store_ahead);
        let takes = self.store_takes_writes(node);
        let Some(process) = &self.nodes[node].process else { return };
        if process.life != life {
            return;
        }
        if takes && !process.is_frozen {
            let mut row = process.driven.row(seen_at);
            row.view = self.view_of(node);
            self.store.nodes.insert(row.name.to_string(), row);
        }
        self.schedule(S, Happening::WriteRow { node, life });
    }

    /// A link to a peer is tried; after a break it is judged by what answers.
    pub fn dial(&mut self, node: usize, life: u64, peer: PeerAddress, judges: bool, until: u64) {
        let is_there = |at: &usize| self.nodes[*at].name() == peer.name;
        let Some(other) = (0..self.nodes.len()).find(is_there) else {
            return self.judge_media(node, life, peer, until);
        };
        let after = self.random.between(200, 2 * MS);
        let (one, two) = (Place::Node(node), Place::Node(other));
        let is_dead = Wakeup::PeerDead(peer.incarnation);
        let there = self.nodes[other].process.as_ref();
        match there.map(|process| (process.life, process.is_frozen)) {
            _ if self.is_cut(one, two) => self.dial_on(node, life, peer, judges, until),
            // Nobody listens there.
            None if judges => self.answer(node, life, after, is_dead),
            None => self.answer(node, life, after, Wakeup::NotDialled(peer.incarnation)),
            Some((_, true)) => self.dial_on(node, life, peer, judges, until),
            Some((theirs, false)) => {
                if judges && theirs != peer.incarnation.0 {
                    self.answer(node, life, after, is_dead);
                }
                self.link_up(one, two, after);
            }
        }
    }

    /// The link with a media node broke. Without its host nobody says that nobody listens.
    fn judge_media(&mut self, node: usize, life: u64, peer: PeerAddress, until: u64) {
        let Some(media) = self.media_named(&peer.name.0) else { return };
        let after = self.random.between(200, 2 * MS);
        let is_cut = self.is_cut(Place::Node(node), Place::Media(media));
        let there = &self.medias[media];
        let is_later = there.is_up && !there.is_frozen && there.life != peer.incarnation.0;
        let wakeup = match self.media_lives(media, node) {
            _ if !is_cut && (!there.is_up || is_later) => {
                Wakeup::MediaDead(peer.name, peer.incarnation)
            }
            true => Wakeup::MediaLives(peer.name),
            false => return self.dial_on(node, life, peer, true, until),
        };
        self.answer(node, life, after, wakeup);
    }

    /// Nothing answers there, which proves nothing: it is tried again until then.
    fn dial_on(&mut self, node: usize, life: u64, peer: PeerAddress, judges: bool, until: u64) {
        if self.sabotage == Some(Sabotage::SilenceIsDeath) {
            let wakeup = match judges {
                true => Wakeup::PeerDead(peer.incarnation),
                false => Wakeup::NotDialled(peer.incarnation),
            };
            return self.answer(node, life, 100 * MS, wakeup);
        }
        if self.now + DIALLED_EVERY < until {
            let again = Happening::Dial { node, life, peer, judges, until };
            return self.schedule(DIALLED_EVERY, again);
        }
        self.answer(node, life, until - self.now, Wakeup::NotDialled(peer.incarnation));
    }
}
