//! THE loop of a signaling node: batches in, machines fed, one commit in flight, everything out (design §4).
//!
//! Invariants: the worker waits for nothing but its inlets: store, names and links are tasks that report over bounded
//! channels. A bug in one message's handling costs that message, or its call.

use super::calls::Calls;
use super::committer::Committer;
use super::doubt::Doubts;
use super::drain::{Drain, GivenUp};
use super::entrusted::Entrusted;
use super::errand::{Errand, Errands, Tasks};
use super::gather::Gathering;
use super::journal::Keeping;
use super::leases::Leases;
use super::links::Links;
use super::media_pool::MediaPool;
use super::originate::Originated;
use super::outputs::catch_bug;
use super::peers::Peers;
use super::pings::Pings;
use super::places::Pace;
use super::reanchor::Moves;
use super::reassert::Server;
use super::refuge::Refuge;
use super::repeats::Repeats;
use super::silence::Silence;
use super::sockets::{Received, Sockets};
use super::steer::Steered;
use super::strangers::Strangers;
use super::unheard::Unheard;
use super::wakeup::{Found, QUEUE, Wakeup};
use super::{Config, EventSink, feed, ladder, names, node, siblings, takeover, tuning};
use crate::call::{Answer, Input, Output, RECORD_VERSION, Settings};
use crate::capture::Recorder;
use crate::control::Frame;
use crate::control::hello::Role;
use crate::directory::Directory;
use crate::event::Event;
use crate::ids::{CallId, ConnectionId};
use crate::net::clock;
use crate::operator::Command;
use crate::registrar::Policy;
use crate::store::Store;
use crate::time::Timestamp;
use crate::views::{Happening, NodeView};
use bytes::Bytes;
use core::net::SocketAddr;
use core::time::Duration;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::Instant;

/// Housekeeping: lost media nodes, expired bindings, the node's row.
const TICK: Duration = Duration::from_secs(1);
/// Expired bindings are swept every so many ticks; they are not called meanwhile.
const SWEEP_TICKS: u64 = 10;
/// Tombstones of ended calls are swept every so many ticks.
const TOMBSTONE_TICKS: u64 = 60;
/// Calls ended in one turn of the loop when the node is to end all of them.
const ENDED_A_TURN: usize = 128;
/// Inputs of one kind taken in one turn.
const BATCH: usize = 256;
/// Turns begin so far apart. What comes meanwhile is handled together, sent together and saved together: a busy node is
/// woken so often and not by every datagram, and an idle one answers at once.
const TURN: Duration = Duration::from_millis(1);
/// A stopping node waits so long for its last commit.
const LAST_COMMIT: Duration = Duration::from_secs(3);

/// The state of a signaling node.
pub(super) struct Worker {
    pub now: Timestamp,
    pub settings: Arc<Settings>,
    pub realm: String,
    pub policy: Policy,
    pub mode: &'static str,
    pub started_at: Timestamp,
    pub control: SocketAddr,
    pub sockets: Sockets,
    pub directory: Directory,
    pub calls: Calls,
    pub committer: Committer,
    pub keeping: Keeping,
    pub media: MediaPool,
    pub errands: Errands,
    pub peers: Peers,
    pub gathering: Gathering,
    pub leases: Leases,
    pub server: Server,
    pub entrusted: Entrusted,
    pub refuge: Refuge,
    pub repeats: Repeats,
    pub lease: Duration,
    /// Of records: the lowest that a live node reads.
    pub record_version: u16,
    /// Nothing is taken in, nothing is said.
    pub silence: Option<Silence>,
    pub pings: Pings,
    pub pace: Pace,
    /// Users with a binding on a connection.
    pub by_connection: HashMap<ConnectionId, Vec<String>>,
    /// Reused by `drain`.
    pub outputs: Vec<Output>,
    /// For calls, in the next turn of the loop.
    pub answers: Vec<(CallId, Answer)>,
    pub found: Vec<Found>,
    /// Sessions that move to another host.
    pub moves: Moves,
    /// Media nodes that may be gone.
    pub doubts: Doubts,
    /// Sessions to be told again.
    pub reapply: VecDeque<CallId>,
    /// Who waits until a call that an operator began is stored.
    pub originated: Originated,
    pub steered: Steered,
    /// Calls to be ended.
    pub ending: VecDeque<CallId>,
    /// What is said in calls is kept by it.
    pub recorder: Option<Recorder>,
    /// The message that is being handled.
    pub arrived: Bytes,
    pub store: Store,
    /// Where the store's tasks run.
    pub background: Handle,
    pub draw_call_id: fn(Timestamp) -> CallId,
    pub feed: Arc<feed::Wishes>,
    pub strangers: Strangers,
    pub row: watch::Sender<Option<NodeView>>,
    /// Users and bindings are known.
    pub loaded: bool,
    pub store_readable: bool,
    /// Was ready once: what is missing since is a fault, not a start.
    pub was_ready: bool,
    pub draining: Option<Drain>,
    /// An heir is to read our sockets.
    pub leaves: watch::Sender<bool>,
    /// Numbers of nodes whose connections this one inherited.
    pub inherited: BTreeSet<u16>,
    pub given_up: GivenUp,
    pub unheard: Unheard,
    events: EventSink,
    tick_at: Timestamp,
    ticks: u64,
}

/// Where everything comes from.
pub(super) struct Inlets {
    pub commands: mpsc::Receiver<Command>,
    pub wakeups: mpsc::Receiver<Wakeup>,
    pub stop: watch::Receiver<bool>,
}

/// What was bound before the worker came to be.
pub(super) struct Bound {
    pub sockets: Sockets,
    pub control: SocketAddr,
    pub listener: TcpListener,
    pub keeping: Keeping,
}

/// What a worker reaches the world by.
pub(super) struct Doors {
    pub sockets: Sockets,
    pub control: SocketAddr,
    pub keeping: Keeping,
    pub errands: Errands,
    pub store: Store,
    pub background: Handle,
    pub events: EventSink,
}

/// Sorts by time.
fn draw_call_id(_now: Timestamp) -> CallId {
    CallId(uuid::Uuid::now_v7().as_u128())
}

impl Worker {
    /// With its tasks started.
    pub(super) fn new(
        config: Config,
        bound: Bound,
        store: Store,
        background: Handle,
        events: EventSink,
        wakeups: mpsc::Sender<Wakeup>,
    ) -> Self {
        let Bound { sockets, control, listener, keeping } = bound;
        let siblings = config.siblings.clone().filter(|_| !store.is_embedded());
        let incarnation = config.incarnation;
        let hello = config.hello(control);
        let links = Links::new(hello, config.secrets.clone(), wakeups.clone());
        background.spawn(links.clone().accept(listener));
        background.spawn(takeover::watch(store.clone(), config.incarnation, wakeups.clone()));
        let errands = Errands::Tasks(Arc::new(Tasks {
            store: store.clone(),
            journal: keeping.journal.clone(),
            journals: keeping.folder.clone(),
            capture: config.capture.as_ref().map(|capture| capture.folder.clone()),
            links,
            dialer: sockets.dialer(),
            background: background.clone(),
            wakeups: wakeups.clone(),
            own: config.incarnation,
            look_ups: Arc::new(Semaphore::new(names::LOOK_UPS)),
            claiming: Mutex::default(),
        }));
        let recorder = ladder::start(&config, &store, &background, &events);
        let identity = (config.node.clone(), config.incarnation, config.mode);
        let doors = Doors { sockets, control, keeping, errands, store, background, events };
        let mut worker = Self::with_doors(config, doors, draw_call_id, clock::now());
        worker.recorder = recorder;
        let (store, wishes) = (worker.store.clone(), Arc::clone(&worker.feed));
        worker.background.spawn(feed::follow(store.clone(), wishes, wakeups.clone()));
        if let Some(folder) = siblings {
            match worker.sockets.estate(worker.settings.node.clone(), incarnation) {
                Ok(estate) => {
                    let leaves = worker.leaves.subscribe();
                    siblings::begin(folder, estate, wakeups, leaves);
                }
                Err(error) => tracing::warn!("no sibling can stand in for this process: {error}"),
            }
        }
        let rows = worker.row.subscribe();
        worker.background.spawn(node::publish(store, identity, vec![control], rows));
        worker
    }

    /// Without tasks of its own.
    pub(super) fn with_doors(
        config: Config,
        doors: Doors,
        draw_call_id: fn(Timestamp) -> CallId,
        now: Timestamp,
    ) -> Self {
        let Doors { sockets, control, keeping, errands, store, background, events } = doors;
        let mut committer = Committer::default();
        if keeping.has_journal() {
            committer.use_journal();
        }
        Self {
            now,
            policy: tuning::policy(&config.node, &config.tuning),
            settings: Arc::new(config.settings()),
            realm: config.realm,
            mode: config.mode,
            started_at: now,
            control,
            sockets,
            directory: Directory::default(),
            calls: Calls::default(),
            committer,
            keeping,
            media: MediaPool::default(),
            moves: Moves::new(config.tuning.reanchor_window),
            doubts: Doubts::default(),
            errands,
            peers: Peers::default(),
            gathering: Gathering::default(),
            leases: Leases::default(),
            server: Server::default(),
            entrusted: Entrusted::default(),
            refuge: Refuge::default(),
            repeats: Repeats::default(),
            lease: config.lease,
            record_version: RECORD_VERSION,
            silence: None,
            pings: Pings::default(),
            pace: Pace::default(),
            by_connection: HashMap::new(),
            outputs: Vec::new(),
            answers: Vec::new(),
            found: Vec::new(),
            reapply: VecDeque::new(),
            originated: Originated::default(),
            steered: Steered::default(),
            recorder: None,
            arrived: Bytes::new(),
            ending: VecDeque::new(),
            store,
            background,
            draw_call_id,
            feed: Arc::default(),
            strangers: Strangers::default(),
            row: watch::channel(None).0,
            loaded: false,
            store_readable: false,
            was_ready: false,
            draining: None,
            leaves: watch::Sender::new(false),
            inherited: BTreeSet::new(),
            given_up: GivenUp::default(),
            unheard: Unheard::default(),
            events,
            tick_at: now,
            ticks: 0,
        }
    }

    /// Until it is stopped and its last commit is done.
    pub(super) async fn run(mut self, mut inlets: Inlets) {
        let mut received = Received::default();
        let mut wakeups = Vec::new();
        let mut commands = Vec::new();
        let mut stop_at: Option<Timestamp> = None;
        while stop_at.is_none_or(|at| self.now < at && !self.may_end()) {
            let sleep = tokio::time::sleep_until(self.next_wake());
            tokio::select! {
                result = self.sockets.receive(&mut received), if self.silence.is_none() => {
                    if let Err(error) = result {
                        tracing::error!("a SIP socket cannot be read: {error}");
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                }
                _ = inlets.wakeups.recv_many(&mut wakeups, BATCH), if wakeups.len() < QUEUE => {}
                count = inlets.commands.recv_many(&mut commands, BATCH),
                    if stop_at.is_none() && self.silence.is_none() =>
                {
                    if count == 0 {
                        stop_at = Some(self.stop());
                    }
                }
                changed = inlets.stop.changed(), if stop_at.is_none() => {
                    if changed.is_err() || *inlets.stop.borrow() {
                        stop_at = Some(self.stop());
                    }
                }
                () = sleep => {}
            }
            // Whatever woke the loop, the rest of what is there belongs to the same turn.
            if self.silence.is_none() {
                self.sockets.receive_more(&mut received);
            }
            take_ready(&mut inlets.wakeups, &mut wakeups);
            let is_full = received.is_full() || wakeups.len() >= BATCH;
            self.handle_all(&mut received, &mut wakeups, &mut commands, clock::now());
            self.sockets.flush();
            if !is_full {
                self.rest();
            }
            // Sockets that are never empty must not starve the tasks of connections.
            tokio::task::yield_now().await;
        }
        self.leave().await;
    }

    /// What came in one turn of the loop, and what is due whatever came.
    pub(super) fn handle_all(
        &mut self,
        received: &mut Received,
        wakeups: &mut Vec<Wakeup>,
        commands: &mut Vec<Command>,
        now: Timestamp,
    ) {
        self.notice_gap(now);
        self.begin_giving_up();
        if self.keep_silence(wakeups) {
            return;
        }
        self.guard(Self::flag_calls);
        for datagram in received.datagrams.drain(..) {
            self.guard(|worker| worker.handle_datagram(datagram));
        }
        for event in received.streams.drain(..) {
            self.guard(|worker| worker.handle_stream(event));
        }
        for wakeup in wakeups.drain(..) {
            self.guard(|worker| worker.handle_wakeup(wakeup));
        }
        for command in commands.drain(..) {
            self.guard(|worker| worker.handle_command(command));
        }
        self.guard(Self::turn);
    }

    /// Until the next turn may begin. The thread sleeps and not the task, which every datagram would wake.
    fn rest(&self) {
        let left = TURN.saturating_sub(clock::now().saturating_since(self.now));
        if !left.is_zero() {
            std::thread::sleep(left);
        }
    }

    /// After an order to stop: everything is stored, and others have what they can have.
    fn may_end(&self) -> bool {
        self.committer.is_safe() && self.silence.is_none() && !self.gives_up_calls()
    }

    /// No new calls; what is decided is committed. Until when at most.
    pub(super) fn stop(&mut self) -> Timestamp {
        let deadline_at = self.now + LAST_COMMIT;
        self.drain_self(true, false);
        self.calls.ids(|_| true).into_iter().for_each(|id| self.save_call_now(id));
        self.draining = Some(Drain { started_at: self.now, deadline_at: Some(deadline_at) });
        self.stop_asking();
        deadline_at
    }

    /// What is due whatever came in.
    fn turn(&mut self) {
        for (call, answer) in core::mem::take(&mut self.answers) {
            self.input(call, Input::Answer(answer));
        }
        for found in core::mem::take(&mut self.found) {
            self.handle_found(found);
        }
        while let Some(call) = self.calls.pop_due(self.now) {
            self.wake_call(call);
        }
        self.ping_bindings();
        self.tell_sessions_again();
        self.end_doubts();
        self.begin_moves();
        self.tell_of_bindings();
        for _ in 0..ENDED_A_TURN {
            let Some(call) = self.ending.pop_front() else { break };
            self.input(call, Input::Drained);
        }
        if self.tick_at <= self.now {
            self.tick_at = self.now + TICK;
            self.tick();
        }
        self.leave_sockets();
        self.end_waits();
        self.begin_commit();
        self.begin_journal();
        self.tell_outage(None);
    }

    fn tick(&mut self) {
        self.ticks += 1;
        for peer in self.media.doubtful(self.now) {
            self.judge_media(peer);
        }
        while let Some(node) = self.media.pop_lost(self.now) {
            tracing::warn!(media_node = %node, "media node {node} did not come back");
            self.lose_media(&node);
        }
        if self.ticks.is_multiple_of(SWEEP_TICKS) {
            self.sweep_bindings();
        }
        if self.ticks.is_multiple_of(TOMBSTONE_TICKS) {
            self.errands.run(Errand::Sweep(self.now));
        }
        self.move_drained();
        self.end_questions();
        self.forget_originators();
        self.forget_steering();
        self.seek_refuge();
        if self.given_up.is_watched(self.now) || self.is_in_doubt() {
            self.errands.run(Errand::Prove);
        }
        self.note_ready();
        self.measure_queues();
        self.media.note_drains(self.now);
        let view = self.node_view();
        self.row.send_replace(Some(view));
    }

    pub(super) fn begin_commit(&mut self) {
        let Some(batch) = self.committer.poll_batch(self.now) else { return };
        self.errands.run(Errand::Commit(batch));
    }

    pub(super) fn handle_wakeup(&mut self, wakeup: Wakeup) {
        match wakeup {
            Wakeup::Committed(result) => self.handle_committed(result),
            Wakeup::Journaled(result, bytes) => self.handle_journaled(result, bytes),
            Wakeup::Loaded(users, bindings) => self.handle_loaded(users, bindings),
            Wakeup::Users(users) => self.handle_users(users),
            Wakeup::Changes(changes) => self.handle_changes(changes),
            Wakeup::Read(question) => self.handle_read(question),
            Wakeup::StoreRead(readable) => self.store_readable = readable,
            Wakeup::Found(found) => self.handle_found(*found),
            Wakeup::Answer(call, answer) => self.input(call, Input::Answer(answer)),
            Wakeup::Nodes(judgement) => self.handle_nodes(*judgement),
            Wakeup::NodesUnknown => self.lose_sight(),
            Wakeup::StoreWorks(name) => self.tell_store_works(&name),
            Wakeup::CutOff(link) => self.take_refuge(link),
            Wakeup::ClaimInDoubt => self.doubt_claims(),
            Wakeup::Claimed(calls) => self.handle_claimed(calls),
            Wakeup::Suspect(call, adopted) => self.handle_suspect(*call, adopted),
            Wakeup::Say(flow, bytes) => _ = self.transmit(flow, bytes),
            Wakeup::LadderRead(read) => self.take_ladder_read(*read),
            Wakeup::StrayFound(found) => self.handle_stray_found(found.0, found.1),
            Wakeup::PeerDead(incarnation) => self.peer_is_dead(incarnation),
            Wakeup::MediaLives(node) => self.end_doubt(&node),
            Wakeup::MediaDead(node, incarnation) => self.media_is_dead(&node, incarnation),
            Wakeup::NotDialled(incarnation) => self.peers.not_dialled(incarnation),
            Wakeup::Proven(owned) => self.handle_proven(owned),
            Wakeup::LinkUp { number, hello, sender, rtt_us } if hello.role == Role::Signaling => {
                self.peer_up(number, hello, sender, rtt_us);
            }
            Wakeup::LinkUp { number, hello, sender, rtt_us } => {
                self.media_up(number, hello, sender, rtt_us);
            }
            Wakeup::Cover(sibling, sockets) => self.cover(sibling, sockets),
            Wakeup::Uncover(sibling) => self.sockets.uncover(sibling),
            Wakeup::SiblingGone(incarnation) => self.sibling_is_gone(incarnation),
            Wakeup::Inherited(sibling, connections) => self.inherit(&sibling, &connections),
            Wakeup::SocketsLeft(is_left) => self.note_sockets_left(is_left),
            Wakeup::Frame(number, frame) => self.handle_frame(number, *frame),
            Wakeup::LinkSilent(number, is_silent) => self.handle_silence(number, is_silent),
            Wakeup::Probed { node, peer, lives, store_answers } => {
                self.handle_probed(node, peer, (lives, store_answers));
            }
            Wakeup::LinkDown(number) => {
                if let Some(peer) = self.peers.link_down(number) {
                    return self.peer_down(peer);
                }
                if let Some(peer) = self.media.link_down(number, self.now) {
                    let node = peer.name.clone();
                    self.judge_media(peer);
                    self.tell(Happening::MediaLeft { media_node: node.to_string() });
                    self.emit(&Event::MediaNode { node, up: false });
                }
            }
        }
    }

    fn handle_frame(&mut self, number: u64, frame: Frame) {
        if let Frame::Peer(frame) = frame {
            return self.handle_peer(number, frame);
        }
        let Some(node) = self.media.name_of(number).cloned() else { return };
        match frame {
            Frame::Reply { reply, .. } => self.handle_media_reply(node, reply),
            Frame::Report(report) => self.handle_media_report(&node, report),
            Frame::Capacity(capacity) => {
                self.media.set_capacity(&node, capacity);
                self.note_ready();
                self.move_drained();
            }
            Frame::Host(host) => self.media.set_host(&node, host),
            frame @ (Frame::Taken { .. } | Frame::Passed { .. }) => self.note_move(node, frame),
            Frame::Rtcp { session, packets } => self.note_rtcp(session, packets),
            // Not a media node's to say.
            Frame::Hello(_)
            | Frame::Ping(_)
            | Frame::Pong(_)
            | Frame::Request { .. }
            | Frame::ReportAck { .. }
            | Frame::Peer(_)
            | Frame::Drain(_)
            | Frame::Give { .. } => {}
        }
    }

    fn next_wake(&self) -> Instant {
        Instant::now() + self.next_timeout().saturating_since(clock::now())
    }

    /// When something is due though nothing comes.
    pub(super) fn next_timeout(&self) -> Timestamp {
        if let Some(at) = self.silence_timeout() {
            return at;
        }
        let soon = || self.now + Duration::from_millis(5);
        let waits =
            !self.reapply.is_empty() || !self.ending.is_empty() || !self.peers.untold.is_empty();
        let waits = waits || self.moves.has_turn();
        let due = [
            Some(self.tick_at),
            self.calls.next_timeout(),
            self.committer.next_timeout(),
            self.pings.next_timeout(),
            self.doubts.next_timeout(),
            self.repeats.next_timeout(),
            waits.then(soon),
            (!self.answers.is_empty() || !self.found.is_empty()).then_some(self.now),
        ];
        due.into_iter().flatten().min().unwrap_or(self.tick_at)
    }

    /// Tells everybody.
    pub(super) fn emit(&self, event: &Event) {
        (self.events)(event);
    }

    pub(super) fn guard(&mut self, step: impl FnOnce(&mut Self)) {
        if let Err(what) = catch_bug(|| step(self)) {
            self.emit(&Event::Bug { call: None, what });
        }
    }
}

/// What waits in an inlet, as far as a turn has room.
fn take_ready(inlet: &mut mpsc::Receiver<Wakeup>, wakeups: &mut Vec<Wakeup>) {
    while wakeups.len() < BATCH
        && let Ok(wakeup) = inlet.try_recv()
    {
        wakeups.push(wakeup);
    }
}
