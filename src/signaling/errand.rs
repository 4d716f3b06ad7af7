//! What the worker has done beside it: by the store, the journal, links and names. An errand is a value; what comes of
//! it comes back as a wakeup.
//!
//! Invariants: the worker waits for none; errands that strangers can cause are bounded in number. A node that is driven
//! (`driven`) keeps its errands for its driver, so a simulation decides what the world answers, and when.

use super::journal::replay_dead;
use super::ladder::LadderRead;
use super::ledger::Work;
use super::links::{self, Links, PeerAddress};
use super::media_pool::LinkNumber;
use super::names;
use super::pass_on::{Stray, Whereabouts};
use super::quarantine::say_again;
use super::refuge::AT_ONCE;
use super::sockets::Dialer;
use super::takeover::{claim_all, write_kept};
use super::wakeup::{Found, Wakeup};
use crate::call::Answer;
use crate::capture;
use crate::ids::{CallId, Flow, Incarnation, NodeName, Transport};
use crate::sip::Uri;
use crate::store::{Batch, Journal, JournalFolder, Store, StoreError};
use crate::time::Timestamp;
use crate::views::ladder::Scope;
use bytes::Bytes;
use core::net::SocketAddr;
use core::time::Duration;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::runtime::Handle;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;

/// Something to be done beside the worker.
#[derive(Debug)]
pub enum Errand {
    /// Commit these; answered by `Committed`.
    Commit(Arc<Batch>),
    /// The journal's work; answered by `Journaled`.
    Journal(Work),
    /// Who owns the call of this message? Answered by `StrayFound`.
    FindOwner(Stray),
    /// Whose is the INVITE with this key? Answered by `StrayFound`.
    FindByKey {
        /// Keyed hash of the INVITE.
        key: [u8; 16],
        /// How the message came.
        flow: Flow,
        /// The message.
        bytes: Bytes,
        /// Nodes that passed it on before.
        hops: u8,
    },
    /// Claim the call of this message from its dead owner; answered by `StrayFound`.
    ClaimFor(Stray, Claim),
    /// Claim all calls of another owner; answered by `Claimed`, as often as there are some.
    ClaimAll(Claim),
    /// A living owner takes back what it gave up: no claim of it any more; not answered.
    StopClaim(Incarnation),
    /// Does the store take writes? For that peer; answered by `StoreWorks` if it does.
    AskStore(NodeName),
    /// A peer says that the store works: not for us, in that time? Answered by `CutOff` then.
    AskAgain(LinkNumber, Duration),
    /// Which calls are still ours? Answered by `Proven`.
    Prove,
    /// Sweep tombstones; not answered.
    Sweep(Timestamp),
    /// Say these again, as a transaction would; answered by `Say`, as often as they are said.
    SayAgain(Vec<(Flow, Bytes)>),
    /// Look up a user that the directory does not know; answered by `Found`.
    LookUp {
        /// Whose question.
        call: CallId,
        /// Its number.
        number: u32,
        /// Its URI.
        uri: Uri,
        /// Who is looked up.
        extension: String,
    },
    /// Find the flow to a next hop; answered by `Answer`.
    Resolve {
        /// Whose question.
        call: CallId,
        /// Its number.
        number: u32,
        /// Name or address.
        host: String,
        /// Port, when the URI has one.
        port: Option<u16>,
        /// Transport, when the URI has one.
        transport: Option<Transport>,
    },
    /// Read what this host keeps of a call; answered by `LadderRead`.
    ReadLadder {
        /// The peer that asks; none: an operator here.
        asker: Option<NodeName>,
        /// Number of the question.
        id: u64,
        /// Which.
        call: CallId,
        /// How much of it.
        scope: Scope,
    },
    /// Make a link to a peer; answered by `LinkUp` or `NotDialled`.
    Dial(PeerAddress),
    /// A link broke: does the node live? Answered by `LinkUp`, `PeerDead`, `MediaDead`, `MediaLives` or
    /// `NotDialled`.
    Judge(PeerAddress),
    /// Ask a media node's workers; answered by `Probed`.
    Probe {
        /// Which node.
        node: NodeName,
        /// Where.
        probes: Vec<SocketAddr>,
        /// Who asked us.
        peer: Option<NodeName>,
    },
}

/// Whose calls are claimed, and for how long.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The owner.
    pub from: Incarnation,
    /// What its row said when nothing was known of its death but its silence.
    pub seen_at: Option<Timestamp>,
    /// Saves that it had given us to keep: they are written first.
    pub kept: Batch,
    /// The owner lives and gave its calls up: what nobody claims in that time it takes back.
    pub patience: Option<Duration>,
}

impl Claim {
    /// Of what is our own, and came here unheard.
    pub(super) fn of_own(own: Incarnation) -> Self {
        Self { from: own, seen_at: None, kept: Batch::default(), patience: None }
    }
}

impl Errand {
    /// Strangers' messages cause it.
    const fn is_bounded(&self) -> bool {
        match self {
            Self::FindOwner(_)
            | Self::FindByKey { .. }
            | Self::ClaimFor(..)
            | Self::LookUp { .. }
            | Self::Resolve { .. } => true,
            Self::Commit(_)
            | Self::Journal(_)
            | Self::ClaimAll(_)
            | Self::StopClaim(_)
            | Self::AskStore(_)
            | Self::AskAgain(..)
            | Self::Prove
            | Self::Sweep(_)
            | Self::SayAgain(_)
            | Self::ReadLadder { .. }
            | Self::Dial(_)
            | Self::Judge(_)
            | Self::Probe { .. } => false,
        }
    }
}

/// Who does them.
#[derive(Debug)]
pub(super) enum Errands {
    /// Tasks.
    Tasks(Arc<Tasks>),
    /// The driver.
    Kept(Vec<Errand>),
}

impl Errands {
    /// False: too many are under way, it is not done.
    pub(super) fn run(&mut self, errand: Errand) -> bool {
        match self {
            Self::Tasks(tasks) => Arc::clone(tasks).spawn(errand),
            Self::Kept(kept) => {
                kept.push(errand);
                true
            }
        }
    }
}

/// What tasks need.
#[derive(Debug)]
pub(super) struct Tasks {
    pub store: Store,
    pub journal: Option<Arc<Journal>>,
    pub journals: Option<Arc<JournalFolder>>,
    /// Where this host keeps calls' signaling.
    pub capture: Option<PathBuf>,
    pub links: Links,
    pub dialer: Dialer,
    /// Where the store's tasks run.
    pub background: Handle,
    pub wakeups: mpsc::Sender<Wakeup>,
    pub own: Incarnation,
    pub look_ups: Arc<Semaphore>,
    /// Owners, dead or not, whose calls are being claimed.
    pub claiming: Mutex<HashMap<Whose, Claiming>>,
}

/// An owner, and whether it is dead.
pub(super) type Whose = (Incarnation, bool);

/// A claim under way.
#[derive(Debug, Default)]
pub(super) struct Claiming {
    /// It was asked for again meanwhile, of an owner whose row said that then.
    again: Option<Option<Timestamp>>,
    /// The owner takes its calls back.
    stop: Arc<Notify>,
}

impl Tasks {
    /// One task claims from an owner, however often that is found dead while the store takes no writes.
    async fn claim_from(&self, claim: Claim) {
        let Claim { from, seen_at, kept, patience } = claim;
        let until = patience.map(|patience| Instant::now() + patience);
        if !kept.calls.is_empty() {
            write_kept(&self.store, &kept, &self.wakeups).await;
        }
        let whose = (from, patience.is_none());
        let Some(stop) = self.begin_claim(whose, seen_at) else { return };
        let mut again = Some(seen_at);
        while let Some(seen_at) = again {
            let (store, journals) = (self.store.clone(), self.journals.clone());
            let wakeups = self.wakeups.clone();
            let all = claim_all(store, journals, (from, seen_at), self.own, wakeups);
            let is_stopped = tokio::select! {
                () = all => false,
                () = stop.notified() => true,
                () = sleep_until(until) => true,
            };
            if is_stopped {
                // The last one may come true all the same.
                let _ = self.wakeups.send(Wakeup::ClaimInDoubt).await;
            }
            let mut claiming = self.lock_claiming();
            let known = claiming.get_mut(&whose);
            again = known.and_then(|known| known.again.take()).filter(|_| !is_stopped);
            if again.is_none() {
                claiming.remove(&whose);
            }
        }
    }

    /// What stops it. None: it is under way, and will be done once more.
    fn begin_claim(&self, whose: Whose, seen_at: Option<Timestamp>) -> Option<Arc<Notify>> {
        let mut claiming = self.lock_claiming();
        if let Some(known) = claiming.get_mut(&whose) {
            known.again = Some(seen_at);
            return None;
        }
        Some(Arc::clone(&claiming.entry(whose).or_default().stop))
    }

    fn stop_claim(&self, from: Incarnation) {
        if let Some(known) = self.lock_claiming().get(&(from, false)) {
            known.stop.notify_one();
        }
    }

    fn lock_claiming(&self) -> MutexGuard<'_, HashMap<Whose, Claiming>> {
        self.claiming.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spawn(self: Arc<Self>, errand: Errand) -> bool {
        let permit = match errand.is_bounded() {
            true => match Arc::clone(&self.look_ups).try_acquire_owned() {
                Ok(permit) => Some(permit),
                Err(_) => return false,
            },
            false => None,
        };
        // Connections that a name leads to belong to the worker's own runtime.
        match errand {
            Errand::Resolve { .. } => tokio::spawn(self.finish(errand, permit)),
            errand => self.background.clone().spawn(self.finish(errand, permit)),
        };
        true
    }

    async fn finish(self: Arc<Self>, errand: Errand, _permit: Option<OwnedSemaphorePermit>) {
        if let Some(wakeup) = self.carry_out(errand).await {
            // The worker may be gone.
            let _ = self.wakeups.send(wakeup).await;
        }
    }

    /// What is rare and large is boxed: a commit's task is to be no larger than a commit.
    async fn carry_out(&self, errand: Errand) -> Option<Wakeup> {
        match errand {
            Errand::Commit(batch) => Some(Wakeup::Committed(self.store.commit(&batch).await)),
            Errand::Journal(work) => Box::pin(self.write_journal(work)).await,
            Errand::FindOwner(stray) => Some(self.find_owner_of(stray).await),
            Errand::FindByKey { key, flow, bytes, hops } => {
                let (call, found) = match self.store.call_of_key(&key).await {
                    Ok(Some(call)) => (call, self.find_owner(call).await),
                    Ok(None) => (CallId(0), Whereabouts::Nowhere),
                    Err(_) => (CallId(0), Whereabouts::Unknown),
                };
                let stray = Stray { call, hint: 0, flow, bytes, hops, tries: 0 };
                Some(Wakeup::StrayFound(Box::new((stray, found))))
            }
            Errand::ClaimFor(stray, claim) => {
                let found = Box::pin(self.claim_for(stray.call, claim)).await;
                Some(Wakeup::StrayFound(Box::new((stray, found))))
            }
            Errand::ClaimAll(claim) => {
                Box::pin(self.claim_from(claim)).await;
                None
            }
            Errand::StopClaim(from) => {
                self.stop_claim(from);
                None
            }
            Errand::AskStore(name) => {
                self.answers_in(AT_ONCE).await.then_some(Wakeup::StoreWorks(name))
            }
            Errand::AskAgain(link, patience) => {
                (!self.answers_in(patience).await).then_some(Wakeup::CutOff(link))
            }
            Errand::Prove => {
                // From then on nobody claims for our silence. A store that takes no writes takes no claims either.
                let _ = self.store.renew(self.own).await;
                Some(Wakeup::Proven(self.store.owned(self.own).await))
            }
            Errand::Sweep(now) => self.sweep(now).await,
            Errand::SayAgain(messages) => {
                say_again(messages, &self.wakeups).await;
                None
            }
            Errand::LookUp { call, number, uri, extension } => {
                let result = self.look_up(&extension).await;
                let found = Found { call, number, uri, extension, result };
                Some(Wakeup::Found(Box::new(found)))
            }
            Errand::Resolve { call, number, host, port, transport } => {
                let reach = Box::pin(self.dialer.reach(&host, port, transport));
                let flow = tokio::time::timeout(names::PATIENCE, reach).await.ok().flatten();
                Some(Wakeup::Answer(call, Answer::Resolve { number, flow }))
            }
            Errand::ReadLadder { asker, id, call, scope } => {
                Some(self.read_ladder(asker, id, call, scope).await)
            }
            Errand::Dial(peer) => {
                Box::pin(self.links.clone().dial(peer)).await;
                None
            }
            Errand::Judge(peer) => {
                Box::pin(self.links.clone().judge(peer)).await;
                None
            }
            Errand::Probe { node, probes, peer } => {
                let ping = tokio::time::timeout(links::PROBE_PATIENCE, self.store.ping());
                let (lives, pinged) = tokio::join!(links::answers(&probes), ping);
                let store_answers = !self.store.is_embedded() && matches!(pinged, Ok(Ok(())));
                Some(Wakeup::Probed { node, peer, lives, store_answers })
            }
        }
    }

    async fn answers_in(&self, patience: Duration) -> bool {
        let answer = tokio::time::timeout(patience, self.store.ping()).await;
        answer.is_ok_and(|answer| answer.is_ok())
    }

    async fn sweep(&self, now: Timestamp) -> Option<Wakeup> {
        if let Err(error) = self.store.sweep(now).await {
            tracing::debug!("ended calls are swept later: {error}");
        }
        None
    }

    async fn read_ladder(
        &self,
        asker: Option<NodeName>,
        id: u64,
        call: CallId,
        scope: Scope,
    ) -> Wakeup {
        let folder = self.capture.clone();
        let read = move || {
            // What was said before the question is in the files by then: the writer rests, and then it writes.
            std::thread::sleep(capture::PACE * 2);
            folder.map_or_else(Vec::new, |folder| capture::read(&folder, call, scope))
        };
        // Files are read where nobody waits.
        let entries = tokio::task::spawn_blocking(read).await.unwrap_or_default();
        Wakeup::LadderRead(Box::new(LadderRead { asker, id, entries }))
    }

    async fn write_journal(&self, work: Work) -> Option<Wakeup> {
        let journal = self.journal.as_ref()?;
        let result = match &work {
            Work::Write(batch) => journal.write(batch).await,
            Work::Remove(calls, users) => journal.remove(calls, users).await.map(|()| Vec::new()),
        };
        Some(Wakeup::Journaled(result, journal.bytes()))
    }

    async fn find_owner_of(&self, stray: Stray) -> Wakeup {
        if stray.tries > 0 {
            tokio::time::sleep(stray.pause()).await;
        }
        let found = self.find_owner(stray.call).await;
        Wakeup::StrayFound(Box::new((stray, found)))
    }

    /// A call that the store does not know may be in the journal of a dead process: it is nowhere only when those are
    /// replayed.
    async fn find_owner(&self, call: CallId) -> Whereabouts {
        let whereabouts = async {
            match self.whereabouts(call).await? {
                Whereabouts::Nowhere => {
                    replay_dead(self.journals.as_deref(), &self.store).await?;
                    self.whereabouts(call).await
                }
                known => Ok::<_, StoreError>(known),
            }
        };
        whereabouts.await.unwrap_or(Whereabouts::Unknown)
    }

    /// As the store alone knows it.
    async fn whereabouts(&self, call: CallId) -> Result<Whereabouts, StoreError> {
        Ok(match self.store.owner(call).await? {
            Some(owner) => Whereabouts::Owner(owner),
            None if self.store.has_ended(call).await? => Whereabouts::Over,
            None => Whereabouts::Nowhere,
        })
    }

    async fn claim_for(&self, call: CallId, claim: Claim) -> Whereabouts {
        let Claim { from, seen_at, kept, .. } = claim;
        let claimed = async {
            replay_dead(self.journals.as_deref(), &self.store).await?;
            if !kept.calls.is_empty() {
                self.store.commit(&kept).await?;
            }
            self.store.claim_call(call, from, self.own, seen_at).await
        };
        match claimed.await {
            Ok(Some(claimed)) => Whereabouts::Claimed(Box::new(claimed)),
            // Another claimed it meanwhile: its owner is looked up again.
            Ok(None) => Whereabouts::Unknown,
            Err(_) => {
                // The worker may be gone.
                let _ = self.wakeups.send(Wakeup::ClaimInDoubt).await;
                Whereabouts::Unknown
            }
        }
    }

    async fn look_up(
        &self,
        extension: &str,
    ) -> Result<(Option<crate::directory::User>, Vec<crate::directory::Binding>), StoreError> {
        let user = self.store.user(extension).await?;
        let bindings = match &user {
            Some(_) => self.store.bindings_of(extension).await?,
            None => Vec::new(),
        };
        Ok((user, bindings))
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => core::future::pending().await,
    }
}
