//! THE loop of a media node: epoll, one receive and one send a packet, timer work by timerfd. No tokio, no lock, no
//! allocation and no log on a packet's path. A session lives on one worker.
//!
//! Invariants: a panic ends one session, is counted, and the worker lives; commands are bounded; a session's sockets
//! are closed with it.

mod moving;
mod told;

pub(super) use moving::Adopted;

use super::handover::Parcel;
use super::ports::Ports;
use super::{Addresses, Shared};
use crate::control::{Apply, Frame, Refusal, Release, Reply, Request, Resume, SessionState};
use crate::ids::SessionId;
use crate::net::clock;
use crate::net::rtp_socket::RtpSocket;
use crate::net::stun;
use crate::relay::{Channel, Endpoint, Forward, Output, Session};
use crate::time::Timestamp;
use core::cmp::Reverse;
use core::net::SocketAddr;
use core::sync::atomic::Ordering;
use core::time::Duration;
use moving::{Away, PORTS_WAIT, Waiting};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::EventFd;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use std::collections::{BTreeMap, BinaryHeap, HashMap, HashSet, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

/// Commands that wait for a worker.
const COMMAND_QUEUE: usize = 8_192;
/// Commands between two looks at sockets: a new owner asks for hundreds of sessions at once.
const COMMANDS_A_TURN: usize = 8;
/// Packets taken of one socket before the next has its turn.
const PACKETS_A_TURN: usize = 32;
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
    Forget(SessionId),
    /// We are the heir.
    Adopt(Box<Adopted>),
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
        epoll,
        wake: wake.clone(),
        timer,
        armed: None,
        commands,
        shared,
        ports,
        addresses,
        sessions: HashMap::new(),
        away: HashMap::new(),
        gone: HashSet::new(),
        waiting: VecDeque::new(),
        sockets: Vec::new(),
        free: Vec::new(),
        timers: BinaryHeap::new(),
        next_sweep: clock::now(),
        ownerless_since: None,
    };
    let thread = std::thread::Builder::new().name(format!("media-{number}"));
    Ok((Handle { commands: sender, wake }, thread.spawn(move || worker.run())?))
}

struct Worker {
    epoll: Epoll,
    wake: Arc<EventFd>,
    timer: TimerFd,
    armed: Option<Timestamp>,
    commands: Receiver<Command>,
    shared: Arc<Shared>,
    ports: Arc<Mutex<Ports>>,
    addresses: Addresses,
    sessions: HashMap<SessionId, Entry>,
    /// Given out, and not yet taken by anybody.
    away: HashMap<SessionId, Away>,
    /// Taken by another process.
    gone: HashSet<SessionId>,
    /// Wishes for ports that another process has not given up yet.
    waiting: VecDeque<Waiting>,
    sockets: Vec<Option<OpenSocket>>,
    free: Vec<usize>,
    timers: BinaryHeap<Reverse<(Timestamp, SessionId)>>,
    next_sweep: Timestamp,
    ownerless_since: Option<Timestamp>,
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
    /// When the timer wakes it, by our clock.
    due: Option<Timestamp>,
}

struct OpenSocket {
    socket: RtpSocket,
    session: SessionId,
    endpoint: Endpoint,
}

impl Worker {
    fn run(mut self) {
        let mut events = [EpollEvent::empty(); EVENTS_A_TURN];
        let mut buffer = [0; PACKET_BYTES];
        loop {
            let ready = match self.epoll.wait(&mut events, EpollTimeout::NONE) {
                Ok(ready) => ready,
                Err(nix::errno::Errno::EINTR) => continue,
                Err(error) => {
                    tracing::error!("a media worker lost its epoll: {error}");
                    return;
                }
            };
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
                    slot => self.receive(usize::try_from(slot).unwrap_or(usize::MAX), &mut buffer),
                }
            }
            self.run_timers();
            self.arm();
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
                        self.step(id, |session, _| session.replay_reports());
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
                Command::Forget(id) => self.forget(id),
                Command::Adopt(adopted) => self.adopt(*adopted),
                Command::Stop => return false,
            }
        }
        let _ = self.wake.write(1);
        true
    }

    /// Answers, unless ports are wished for that may be free before `until`.
    fn serve(&mut self, asked: Asked, until: Timestamp) {
        let answer = self.answer(&asked.request);
        let taken = matches!(answer, Reply::Refused { reason: Refusal::PortTaken, .. });
        let asked = if taken { self.wait_for_ports(asked, until) } else { Some(asked) };
        let Some(asked) = asked else { return };
        let frame = Frame::Reply { id: asked.id, reply: answer };
        // A link that is stuck is broken: signaling asks again by the next one.
        let _ = asked.reply.try_send(frame);
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
            // A session that lost its process is crowded in rather than lost.
            let inherited = resume.is_some_and(|resume| !resume.carried.is_empty());
            self.shared.admit(apply.spec.emergency || inherited)?;
            self.shared.sessions.fetch_add(1, Ordering::Relaxed);
            let seed = rand::random();
            let entry = Entry {
                session: Session::new(apply.session, seed, now),
                slots: BTreeMap::new(),
                pairs: BTreeMap::new(),
                created_at: now,
                ahead_us: 0,
                taken_at: None,
                due: None,
            };
            self.sessions.insert(apply.session, entry);
        }
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
            let Some(slot) = self.open_slot(OpenSocket { socket, session, endpoint }) else {
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
        if !applied && entry.session.state().rev.0 == 0 {
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
        let Some(entry) = self.sessions.get_mut(&session) else { return };
        let rtcp = Endpoint { channel: Channel::Rtcp, ..endpoint };
        let slots = [entry.slots.remove(&endpoint), entry.slots.remove(&rtcp)];
        let pair = entry.pairs.remove(&endpoint);
        for slot in slots.into_iter().flatten() {
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
        if !self.sessions.contains_key(&release.session) {
            return Ok(SessionState {
                session: release.session,
                epoch: release.epoch,
                rev: release.rev,
                legs: Vec::new(),
            });
        }
        let state = self
            .step(release.session, |session, now| session.release(release, now))
            .unwrap_or(Err(Refusal::Invalid))?;
        self.close_session(release.session, now);
        Ok(state)
    }

    fn close_session(&mut self, id: SessionId, now: Timestamp) {
        let Some(entry) = self.sessions.get(&id) else { return };
        let pairs: Vec<Endpoint> = entry.pairs.keys().copied().collect();
        for endpoint in pairs {
            self.close_pair(id, endpoint, now);
        }
        self.sessions.remove(&id);
        self.shared.sessions.fetch_sub(1, Ordering::Relaxed);
    }

    fn receive(&mut self, slot: usize, buffer: &mut [u8; PACKET_BYTES]) {
        for _ in 0..PACKETS_A_TURN {
            let Some(Some(open)) = self.sockets.get(slot) else { return };
            let Some((length, source)) = open.socket.receive(buffer) else { return };
            if length == buffer.len() {
                // It was longer, and what is left is no packet of anybody.
                continue;
            }
            if let Some(datagram) = buffer.get(..length).filter(|packet| stun::is_stun(packet)) {
                // Signaling that lost its link asks whether we live.
                if let Some(answer) = stun::answer(datagram, source) {
                    open.socket.send(&answer, source);
                }
                continue;
            }
            let (id, endpoint) = (open.session, open.endpoint);
            let forward = self.step(id, |session, now| {
                session.handle_packet(endpoint, source, buffer, length, now)
            });
            if let Some(Some(Forward { from, to, length })) = forward
                && let Some(packet) = buffer.get(..length)
            {
                self.send(id, from, packet, to);
            }
        }
    }

    fn send(&self, id: SessionId, from: Endpoint, packet: &[u8], to: SocketAddr) {
        let slot = self.sessions.get(&id).and_then(|entry| entry.slots.get(&from));
        if let Some(Some(open)) = slot.and_then(|slot| self.sockets.get(*slot)) {
            open.socket.send(packet, to);
        }
    }

    /// One step of a session at its own time, its outputs carried out. A panic ends the session: `None`.
    fn step<T>(
        &mut self,
        id: SessionId,
        step: impl FnOnce(&mut Session, Timestamp) -> T,
    ) -> Option<T> {
        let entry = self.sessions.get_mut(&id)?;
        let now = entry.time(clock::now());
        let result = catch_unwind(AssertUnwindSafe(|| step(&mut entry.session, now)));
        let Ok(result) = result else {
            self.shared.panics.fetch_add(1, Ordering::Relaxed);
            tracing::error!("a bug ended media session {id}");
            self.tell_of_bug(id);
            self.close_session(id, clock::now());
            return None;
        };
        while let Some(output) =
            self.sessions.get_mut(&id).and_then(|entry| entry.session.poll_output())
        {
            match output {
                Output::Send { from, to, packet } => self.send(id, from, &packet, to),
                Output::Report(report) => self.report(report),
                // Pinned sources are enforced by the session; the socket stays open for rebinding phones.
                Output::Pin { .. } => {}
            }
        }
        self.schedule(id);
        Some(result)
    }

    fn schedule(&mut self, id: SessionId) {
        let Some(entry) = self.sessions.get_mut(&id) else { return };
        let Some(at) = entry.wants() else {
            entry.due = None;
            return;
        };
        if entry.due.is_none_or(|due| at < due) {
            entry.due = Some(at);
            self.timers.push(Reverse((at, id)));
        }
    }

    fn run_timers(&mut self) {
        let now = clock::now();
        while let Some(Reverse((at, id))) = self.timers.peek().copied() {
            if at > now {
                break;
            }
            self.timers.pop();
            let Some(entry) = self.sessions.get_mut(&id).filter(|entry| entry.due == Some(at))
            else {
                continue;
            };
            entry.due = None;
            self.shared.tick_was_late(now.saturating_since(at));
            self.step(id, Session::handle_timeout);
        }
        self.try_ports_again(now);
        if now >= self.next_sweep {
            self.next_sweep = now + Duration::from_secs(1);
            self.sweep(now);
        }
    }

    /// Counts what is transcoded; ends sessions that nobody owns and nobody speaks on.
    fn sweep(&mut self, now: Timestamp) {
        let transcoded =
            self.sessions.values().filter(|entry| entry.session.is_transcoding()).count();
        self.shared
            .transcoded
            .store(u32::try_from(transcoded).unwrap_or(u32::MAX), Ordering::Relaxed);
        self.shared.ports_in_use.store(
            u32::try_from(self.lock_ports().in_use()).unwrap_or(u32::MAX),
            Ordering::Relaxed,
        );
        if self.shared.has_owner() {
            self.ownerless_since = None;
            return;
        }
        let since = *self.ownerless_since.get_or_insert(now);
        let orphans: Vec<SessionId> = self
            .sessions
            .iter()
            .filter(|(_, entry)| {
                let last = entry.session.last_packet_at().unwrap_or(entry.created_at);
                let last = last.max(entry.time(since));
                let life =
                    if entry.session.is_confirmed() { SILENT_LIFE } else { UNCONFIRMED_LIFE };
                entry.time(now).saturating_since(last) > life
            })
            .map(|(id, _)| *id)
            .collect();
        for id in orphans {
            tracing::info!("media session {id}: ended, nobody owns it");
            self.step(id, Session::end);
            self.close_session(id, now);
        }
    }

    /// The timer fires for the earliest session, at least once a second for the sweep.
    fn arm(&mut self) {
        let next = self.timers.peek().map_or(self.next_sweep, |Reverse((at, _))| *at);
        let next = next.min(self.next_sweep);
        let again = self.waiting.front().map(|waiting| waiting.again_at);
        let next = again.map_or(next, |again| next.min(again));
        if self.armed == Some(next) {
            return;
        }
        let wait = next.saturating_since(clock::now()).max(Duration::from_micros(1));
        let expiration = Expiration::OneShot(TimeSpec::from_duration(wait));
        if self.timer.set(expiration, TimerSetTimeFlags::empty()).is_ok() {
            self.armed = Some(next);
        }
    }

    fn lock_ports(&self) -> std::sync::MutexGuard<'_, Ports> {
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
