//! THE loop of a media node: epoll, one receive and one send a packet, timer work by timerfd. No tokio, no lock, no
//! allocation and no log on a packet's path. A session lives on one worker. A busy worker rests a moment between two
//! turns, so that a wake-up finds several packets (`pace`).
//!
//! Invariants: a panic ends one session, is counted, and the worker lives; commands are bounded; a session's sockets
//! are closed with it.

mod exchanged;
mod moving;
mod offload;
mod pace;
mod packets;
mod told;
mod upkeep;
mod urgency;

pub(super) use moving::Adopted;

use super::handover::{Heir, Parcel};
use super::ports::Ports;
use super::vitals::{Before, Vitals};
use super::{Addresses, Folding, Shared};
use crate::control::{Apply, Frame, Refusal, Release, Reply, Request, Resume, SessionState};
use crate::ids::SessionId;
use crate::net::clock;
use crate::net::offload::Table;
use crate::net::rtp_socket::RtpSocket;
use crate::relay::{Channel, Endpoint, Released, Session};
use crate::time::Timestamp;
use core::cmp::Reverse;
use core::net::SocketAddr;
use core::sync::atomic::Ordering;
use core::time::Duration;
use exchanged::Bundle;
use moving::{Away, Gone, PORTS_WAIT, Waiting};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::EventFd;
use nix::sys::timerfd::{ClockId, TimerFd, TimerFlags};
use offload::Offloading;
use pace::Pace;
use std::collections::{BTreeMap, BinaryHeap, HashMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

/// Commands that wait for a worker.
const COMMAND_QUEUE: usize = 8_192;
/// Commands between two looks at sockets: a new owner asks for hundreds of sessions at once.
const COMMANDS_A_TURN: usize = 8;
const PACKET_BYTES: usize = 2_048;
const EVENTS_A_TURN: usize = 256;
const WAKE: u64 = u64::MAX;
const TIMER: u64 = u64::MAX - 1;
/// A session without owner ends after so long without confirmation …
const UNCONFIRMED_LIFE: Duration = Duration::from_secs(60);
/// … or so long without RTP.
const SILENT_LIFE: Duration = Duration::from_secs(3_600);

/// What the control server asks of a worker.
#[derive(Debug)]
pub(super) enum Command {
    /// Answer to the link by `reply`.
    Request(Asked),
    /// Reports up to the number are known to signaling.
    Acknowledge(SessionId, u64),
    /// A link is new: what is kept is told again.
    Replay,
    /// Which sessions are here?
    List(SyncSender<Vec<SessionId>>),
    /// Stop reading a session and give out what its heir needs.
    Export(SessionId, SyncSender<Option<(Parcel, Vec<OwnedFd>)>>),
    /// The heir did not take it.
    Resume(SessionId),
    /// The heir took it.
    Forget(SessionId, Arc<Heir>),
    /// We are the heir; answered when it is read.
    Adopt(Box<Adopted>, SyncSender<()>),
    /// End: all sessions are dropped.
    Stop,
}

/// A request and the link that it came by.
#[derive(Debug)]
pub(super) struct Asked {
    pub id: u64,
    pub request: Request,
    pub reply: tokio::sync::mpsc::Sender<Frame>,
}

/// The way to a worker.
#[derive(Clone, Debug)]
pub(super) struct Handle {
    commands: SyncSender<Command>,
    wake: Arc<EventFd>,
}

impl Handle {
    /// False when the worker is overloaded or gone.
    pub fn send(&self, command: Command) -> bool {
        self.commands.try_send(command).is_ok() && self.wake.write(1).is_ok()
    }

    /// Waits for room. False when the worker is gone.
    pub fn deliver(&self, command: Command) -> bool {
        self.commands.send(command).is_ok() && self.wake.write(1).is_ok()
    }
}

/// Starts a worker's thread.
pub(super) fn start(
    number: usize,
    shared: Arc<Shared>,
    ports: Arc<Mutex<Ports>>,
    addresses: Addresses,
    offload: Option<Table>,
    priority: u8,
) -> io::Result<(Handle, std::thread::JoinHandle<()>)> {
    let (sender, commands) = sync_channel(COMMAND_QUEUE);
    let wake = Arc::new(EventFd::from_value_and_flags(
        0,
        nix::sys::eventfd::EfdFlags::EFD_NONBLOCK | nix::sys::eventfd::EfdFlags::EFD_CLOEXEC,
    )?);
    let timer =
        TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)?;
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    epoll.add(&wake, EpollEvent::new(EpollFlags::EPOLLIN, WAKE))?;
    epoll.add(&timer, EpollEvent::new(EpollFlags::EPOLLIN, TIMER))?;
    let worker = Worker {
        number,
        before: Before::default(),
        looked_at: clock::now(),
        next_probe: None,
        next_socket: 0,
        epoll,
        wake: wake.clone(),
        timer,
        armed: None,
        commands,
        shared,
        ports,
        addresses,
        offload,
        sessions: HashMap::default(),
        away: HashMap::new(),
        gone: HashMap::new(),
        released: Released::default(),
        waiting: VecDeque::new(),
        sockets: Vec::new(),
        free: Vec::new(),
        timers: BinaryHeap::new(),
        next_sweep: clock::now(),
    };
    let thread = std::thread::Builder::new().name(format!("media-{number}"));
    let run = move || {
        urgency::take(priority);
        worker.run();
    };
    Ok((Handle { commands: sender, wake }, thread.spawn(run)?))
}

struct Worker {
    /// Of its vitals among those of all.
    number: usize,
    /// At the last look at them.
    before: Before,
    looked_at: Timestamp,
    /// When a worker with sessions wants to be woken, only to see how late that is.
    next_probe: Option<Timestamp>,
    /// Where the next look at sockets begins.
    next_socket: usize,
    epoll: Epoll,
    wake: Arc<EventFd>,
    timer: TimerFd,
    armed: Option<Timestamp>,
    commands: Receiver<Command>,
    shared: Arc<Shared>,
    ports: Arc<Mutex<Ports>>,
    addresses: Addresses,
    /// What the kernel passes on by itself.
    offload: Option<Table>,
    sessions: HashMap<SessionId, Entry, Folding>,
    /// Given out, and not yet taken by anybody.
    away: HashMap<SessionId, Away>,
    /// Taken by another process.
    gone: HashMap<SessionId, Gone>,
    released: Released,
    /// Wishes for ports that another process has not given up yet.
    waiting: VecDeque<Waiting>,
    sockets: Vec<Option<OpenSocket>>,
    free: Vec<usize>,
    timers: BinaryHeap<Reverse<(Timestamp, SessionId)>>,
    next_sweep: Timestamp,
}

struct Entry {
    session: Session,
    /// Where each endpoint's socket is.
    slots: BTreeMap<Endpoint, usize>,
    /// Port pairs, by their RTP endpoint, with the address for SDP.
    pairs: BTreeMap<Endpoint, (SocketAddr, u16)>,
    created_at: Timestamp,
    /// How far the session's clock is ahead of ours: it came from another process.
    ahead_us: i64,
    /// When it came.
    taken_at: Option<Timestamp>,
    /// The link by which it was asked for last.
    owner: Option<tokio::sync::mpsc::Sender<Frame>>,
    /// That link was gone at each sweep since.
    ownerless_since: Option<Timestamp>,
    /// When the timer wakes it, by our clock.
    due: Option<Timestamp>,
    /// RTCP that nobody was told of yet.
    exchanged: Bundle,
    /// Streams that the kernel passes on.
    offloaded: u8,
}

struct OpenSocket {
    socket: RtpSocket,
    session: SessionId,
    endpoint: Endpoint,
    /// Datagrams dropped by the kernel that are counted.
    drops: u32,
    offloading: Offloading,
}

impl Worker {
    fn run(mut self) {
        let mut events = [EpollEvent::empty(); EVENTS_A_TURN];
        let mut buffer = [0; PACKET_BYTES];
        let mut pace = Pace::new(clock::now());
        loop {
            let ready = match self.epoll.wait(&mut events, EpollTimeout::NONE) {
                Ok(ready) => ready,
                Err(nix::errno::Errno::EINTR) => continue,
                Err(error) => {
                    tracing::error!("a media worker lost its epoll: {error}");
                    return;
                }
            };
            let mut packets = 0;
            for event in events.iter().take(ready) {
                match event.data() {
                    WAKE => {
                        let _ = self.wake.read();
                        if !self.run_commands() {
                            return;
                        }
                    }
                    TIMER => {
                        let _ = self.timer.wait();
                        self.armed = None;
                    }
                    slot => {
                        packets += 1;
                        self.receive(usize::try_from(slot).unwrap_or(usize::MAX), &mut buffer);
                    }
                }
            }
            self.run_timers();
            self.arm();
            pace.rest(packets, clock::now());
        }
    }

    fn run_commands(&mut self) -> bool {
        for _ in 0..COMMANDS_A_TURN {
            let Ok(command) = self.commands.try_recv() else { return true };
            match command {
                Command::Request(asked) => {
                    if let Some(asked) = self.keep_for_heir(asked) {
                        self.serve(asked, clock::now() + PORTS_WAIT);
                    }
                }
                Command::Acknowledge(session, number) => {
                    if let Some(entry) = self.sessions.get_mut(&session) {
                        entry.session.acknowledge(number);
                    }
                }
                Command::Replay => {
                    let ids: Vec<SessionId> = self.sessions.keys().copied().collect();
                    for id in ids {
                        self.tell_taken(id);
                        self.step(id, Session::replay_reports);
                    }
                }
                Command::List(answer) => {
                    // Who asked may have given up.
                    let _ = answer.try_send(self.sessions.keys().copied().collect());
                }
                Command::Export(id, answer) => {
                    let parcel = self.export(id);
                    if answer.try_send(parcel).is_err() {
                        self.resume(id);
                    }
                }
                Command::Resume(id) => self.resume(id),
                Command::Forget(id, heir) => self.forget(id, heir),
                Command::Adopt(adopted, done) => {
                    self.adopt(*adopted);
                    let _ = done.try_send(());
                }
                Command::Stop => return false,
            }
        }
        let _ = self.wake.write(1);
        true
    }

    /// Answers, unless ports are wished for that may be free before `until`.
    fn serve(&mut self, asked: Asked, until: Timestamp) {
        let answer = self.answer(&asked.request);
        if let Some(entry) = self.sessions.get_mut(&asked.request.session())
            && !matches!(answer, Reply::Refused { .. })
        {
            entry.owner = Some(asked.reply.clone());
        }
        let taken = matches!(answer, Reply::Refused { reason: Refusal::PortTaken, .. });
        let asked = if taken { self.wait_for_ports(asked, until) } else { Some(asked) };
        let Some(asked) = asked else { return };
        let frame = Frame::Reply { id: asked.id, reply: answer };
        // A link that is stuck is broken: signaling asks again by the next one.
        if asked.reply.try_send(frame).is_err() {
            self.shared.shed("reply to a stuck or broken link");
        }
    }

    fn answer(&mut self, request: &Request) -> Reply {
        let (session, epoch, rev) = match request {
            Request::Apply(apply) | Request::Resume(Resume { apply, .. }) => {
                (apply.session, apply.epoch, apply.rev)
            }
            Request::Release(release) => (release.session, release.epoch, release.rev),
        };
        let answer = match request {
            Request::Apply(apply) => self.apply(apply, None).map(Reply::Applied),
            Request::Resume(resume) => self.apply(&resume.apply, Some(resume)).map(Reply::Applied),
            Request::Release(release) => self.release(release).map(Reply::Released),
        };
        answer.unwrap_or_else(|reason| Reply::Refused { session, epoch, rev, reason })
    }

    /// `resume`: the same with what is known of the session.
    fn apply(&mut self, apply: &Apply, resume: Option<&Resume>) -> Result<SessionState, Refusal> {
        let now = clock::now();
        if !self.sessions.contains_key(&apply.session) {
            if self.released.is_over(apply.session, (apply.epoch, apply.rev)) {
                return Err(Refusal::Stale);
            }
            let inherited = resume.is_some();
            if !(inherited && self.shared.takes_back(apply)) {
                // One that had a session is crowded in rather than lost, though it rings and nothing was heard of it.
                self.shared.admit(apply.spec.emergency || inherited, self.vitals())?;
                self.shared.sessions.fetch_add(1, Ordering::Relaxed);
            }
            let seed = rand::random();
            let entry = Entry {
                session: Session::new(apply.session, seed, now),
                slots: BTreeMap::new(),
                pairs: BTreeMap::new(),
                created_at: now,
                ahead_us: 0,
                taken_at: None,
                owner: None,
                ownerless_since: None,
                due: None,
                exchanged: Bundle::default(),
                offloaded: 0,
            };
            self.sessions.insert(apply.session, entry);
        }
        // What it changes, no packet is to overtake.
        self.end_flows(apply.session);
        let result = self.open_ports(apply, now).and_then(|addresses| {
            self.step(apply.session, |session, now| match resume {
                Some(resume) => session.resume(resume, &addresses, now),
                None => session.apply(apply, &addresses, now),
            })
            .unwrap_or(Err(Refusal::Invalid))
        });
        self.close_unused(apply, result.is_ok(), now);
        result
    }

    /// Ports for every stream of the wish, those that are there already included.
    fn open_ports(
        &mut self,
        apply: &Apply,
        now: Timestamp,
    ) -> Result<Vec<(Endpoint, SocketAddr, u16)>, Refusal> {
        let mut addresses = Vec::new();
        for leg in &apply.spec.legs {
            for stream in &leg.streams {
                let endpoint =
                    Endpoint { leg: leg.leg, stream: stream.index, channel: Channel::Rtp };
                let known = self
                    .sessions
                    .get(&apply.session)
                    .and_then(|entry| entry.pairs.get(&endpoint).copied());
                let (address, port) = match known {
                    Some(known) => known,
                    None => {
                        self.open_pair(apply.session, endpoint, stream.port, stream.peer, now)?
                    }
                };
                addresses.push((endpoint, address, port));
            }
        }
        Ok(addresses)
    }

    fn open_pair(
        &mut self,
        session: SessionId,
        endpoint: Endpoint,
        named: Option<u16>,
        peer: Option<core::net::IpAddr>,
        now: Timestamp,
    ) -> Result<(SocketAddr, u16), Refusal> {
        let ip = self.addresses.towards(peer).ok_or(Refusal::Invalid)?;
        let pair = self.lock_ports().open(named, peer, now);
        let refusal = if named.is_some() { Refusal::PortTaken } else { Refusal::Capacity };
        let pair = pair.ok_or(refusal)?;
        let address = SocketAddr::new(ip, pair.port);
        let rtcp = Endpoint { channel: Channel::Rtcp, ..endpoint };
        for (endpoint, socket) in [(endpoint, pair.rtp), (rtcp, pair.rtcp)] {
            let open =
                OpenSocket { socket, session, endpoint, drops: 0, offloading: Offloading::Idle };
            let Some(slot) = self.open_slot(open) else {
                self.lock_ports().close(pair.port, now);
                return Err(Refusal::Capacity);
            };
            if let Some(entry) = self.sessions.get_mut(&session) {
                entry.slots.insert(endpoint, slot);
            }
        }
        if let Some(entry) = self.sessions.get_mut(&session) {
            entry.pairs.insert(endpoint, (address, pair.port));
        }
        Ok((address, pair.port))
    }

    /// Closes what the wish does not name any more; all of a session that never came to be.
    fn close_unused(&mut self, apply: &Apply, applied: bool, now: Timestamp) {
        let Some(entry) = self.sessions.get(&apply.session) else { return };
        if !applied && entry.session.order().1.0 == 0 {
            return self.close_session(apply.session, now);
        }
        if !applied {
            return;
        }
        let gone: Vec<Endpoint> = entry
            .pairs
            .keys()
            .filter(|endpoint| {
                !apply.spec.legs.iter().any(|leg| {
                    leg.leg == endpoint.leg
                        && leg.streams.iter().any(|stream| stream.index == endpoint.stream)
                })
            })
            .copied()
            .collect();
        for endpoint in gone {
            self.close_pair(apply.session, endpoint, now);
        }
    }

    fn close_pair(&mut self, session: SessionId, endpoint: Endpoint, now: Timestamp) {
        self.end_flows(session);
        let Some(entry) = self.sessions.get_mut(&session) else { return };
        let rtcp = Endpoint { channel: Channel::Rtcp, ..endpoint };
        let slots = [entry.slots.remove(&endpoint), entry.slots.remove(&rtcp)];
        let pair = entry.pairs.remove(&endpoint);
        for slot in slots.into_iter().flatten() {
            self.count_drops(slot);
            if let Some(open) = self.sockets.get_mut(slot).and_then(Option::take) {
                let _ = self.epoll.delete(&open.socket);
                self.free.push(slot);
            }
        }
        if let Some((_, port)) = pair {
            self.lock_ports().close(port, now);
        }
    }

    fn release(&mut self, release: &Release) -> Result<SessionState, Refusal> {
        let now = clock::now();
        let order = (release.epoch, release.rev);
        if !self.sessions.contains_key(&release.session) {
            self.released.note(release.session, order, now);
            return Ok(SessionState {
                session: release.session,
                epoch: release.epoch,
                rev: release.rev,
                legs: Vec::new(),
            });
        }
        self.end_flows(release.session);
        let state = self
            .step(release.session, |session, now| session.release(release, now))
            .unwrap_or(Err(Refusal::Invalid))?;
        self.released.note(release.session, order, now);
        self.close_session(release.session, now);
        Ok(state)
    }

    fn close_session(&mut self, id: SessionId, now: Timestamp) {
        self.tell_exchanged(id);
        let Some(entry) = self.sessions.get(&id) else { return };
        let pairs: Vec<Endpoint> = entry.pairs.keys().copied().collect();
        for endpoint in pairs {
            self.close_pair(id, endpoint, now);
        }
        self.sessions.remove(&id);
        self.shared.count_out();
    }

    fn vitals(&self) -> &Vitals {
        &self.shared.vitals[self.number]
    }

    fn lock_ports(&self) -> std::sync::MutexGuard<'_, Ports> {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
