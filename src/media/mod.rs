//! A media node: anchors RTP on ports of this host as signaling wishes. No database, no SIP.
//!
//! `worker` is THE loop; `control` takes links of signaling and dials those it was told to join; `ports` is its slice;
//! `handover` passes sessions to another media process of the host, and takes them.

mod collector;
mod control;
mod figures;
mod handover;
mod leaving;
mod look;
mod ports;
mod vitals;
mod worker;

pub use collector::Collector;
pub use ports::PortRange;

use crate::control::hello::{Capacity, Hello, Role};
use crate::control::{Apply, Frame, Refusal};
use crate::event::Event;
use crate::ids::{Incarnation, NodeName, SessionId};
use crate::net::clock;
use crate::net::control_link::{self, Secrets};
use crate::net::local_address::local_address_towards;
use crate::net::offload::Offload;
use crate::sip::address::Network;
use core::hash::{BuildHasherDefault, Hasher};
use core::net::{IpAddr, SocketAddr};
use core::sync::atomic::{AtomicU32, Ordering};
use core::time::Duration;
use leaving::Leaving;
use ports::Ports;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;
use vitals::{StrainCell, Vitals};
use worker::{Command, Handle};

/// A node that drains looks so often whether its last session is over.
const SESSIONS_ASKED: Duration = Duration::from_millis(100);
/// Longer than signaling takes to start again.
const ABANDONED: Duration = Duration::from_secs(5);

/// Who is told of what happens here.
pub type EventSink = Arc<dyn Fn(&Event) + Send + Sync>;

/// What a media node is made of.
#[derive(Clone, Debug)]
pub struct Config {
    /// Its name.
    pub name: NodeName,
    /// This start of it.
    pub incarnation: Incarnation,
    /// `HOLDFAST_MEDIA_BIND`.
    pub bind: IpAddr,
    /// `HOLDFAST_MEDIA_ADVERTISE`.
    pub advertise: Option<IpAddr>,
    /// `HOLDFAST_LOCAL_NETS`.
    pub local_nets: Arc<[Network]>,
    /// `HOLDFAST_MEDIA_PORTS`, or the slice of it that is ours.
    pub ports: PortRange,
    /// `HOLDFAST_CONTROL_BIND`; taken: the next free one up to 7089.
    pub control_bind: SocketAddr,
    /// `HOLDFAST_JOIN`.
    pub join: Vec<String>,
    /// `HOLDFAST_CLUSTER_SECRET`.
    pub secrets: Secrets,
    /// `HOLDFAST_MAX_CALLS`; from ports and cores when absent.
    pub max_calls: Option<u32>,
    /// `HOLDFAST_MEDIA_PRIORITY`: real-time priority of workers; 0: none.
    pub priority: u8,
    /// `HOLDFAST_MEDIA_OFFLOAD`: the kernel passes on what needs no look of ours, where it is let.
    pub offload: bool,
    /// The host, as its processes know it from their data directory.
    pub host: String,
    /// Our unix socket for processes that leave, in a folder with those of the others of this host.
    pub handover: Option<PathBuf>,
    /// Who is told how sessions fare.
    pub collector: Option<Collector>,
    /// Worker threads; 0: one a core.
    pub workers: usize,
}

/// Why a media node cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No control port is free.
    #[error("no port from {0} to 7089 can be bound for the control channel: {1}")]
    Control(SocketAddr, io::Error),
    /// RTP ports cannot be bound.
    #[error(
        "{0} is not an address of this host: set HOLDFAST_MEDIA_ADVERTISE to it and \
         HOLDFAST_MEDIA_BIND to an address of this host or 0.0.0.0"
    )]
    Bind(IpAddr),
    /// Threads or descriptors.
    #[error("the media workers cannot start: {0}")]
    Workers(#[from] io::Error),
}

/// A running media node.
#[derive(Debug)]
pub struct MediaNode {
    /// Where it takes control connections.
    pub control: SocketAddr,
    shared: Arc<Shared>,
    workers: Vec<(Handle, std::thread::JoinHandle<()>)>,
    leaving: Leaving,
    stop: watch::Sender<bool>,
    _offload: Option<Offload>,
}

/// What workers, links and the node itself have in common.
struct Shared {
    sessions: AtomicU32,
    transcoded: AtomicU32,
    ports_in_use: AtomicU32,
    max_sessions: AtomicU32,
    draining: watch::Sender<bool>,
    events: EventSink,
    /// Of each worker.
    vitals: Box<[Vitals]>,
    /// What strains the process as a whole.
    strain: StrainCell,
    /// Percent of the CPU that the process may have.
    cpu_percent: AtomicU32,
    tick_late_p99_us: AtomicU32,
    /// Where sessions of processes that leave come in; true: it is shut, for this process ends.
    door: Mutex<bool>,
    links: Mutex<Vec<mpsc::Sender<Frame>>>,
    ports: PortRange,
    bind: IpAddr,
    advertise: Option<IpAddr>,
    collector: Option<Collector>,
}

/// Which address a phone is told.
#[derive(Clone, Debug)]
struct Addresses {
    bind: IpAddr,
    advertise: Option<IpAddr>,
    local_nets: Arc<[Network]>,
}

impl Addresses {
    /// The advertised one, unless the peer is local or of the other family; else what the kernel uses towards it.
    fn towards(&self, peer: Option<IpAddr>) -> Option<IpAddr> {
        let local = |peer: IpAddr| {
            peer.is_loopback() || self.local_nets.iter().any(|net| net.contains(peer))
        };
        match (self.advertise, peer) {
            (Some(public), None) => Some(public),
            (Some(public), Some(peer)) if !local(peer) && public.is_ipv4() == peer.is_ipv4() => {
                Some(public)
            }
            (_, _) if !self.bind.is_unspecified() => Some(self.bind),
            (_, Some(peer)) => local_address_towards(peer),
            (None, None) => None,
        }
    }
}

impl core::fmt::Debug for Shared {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Shared").field("sessions", &self.sessions).finish_non_exhaustive()
    }
}

impl Shared {
    fn new(
        (max_sessions, workers): (u32, usize),
        ports: PortRange,
        bind: IpAddr,
        advertise: Option<IpAddr>,
        events: EventSink,
    ) -> Self {
        Self {
            sessions: AtomicU32::new(0),
            transcoded: AtomicU32::new(0),
            ports_in_use: AtomicU32::new(0),
            max_sessions: AtomicU32::new(max_sessions),
            draining: watch::Sender::new(false),
            events,
            vitals: (0..workers).map(|_| Vitals::default()).collect(),
            strain: StrainCell::default(),
            cpu_percent: AtomicU32::new(0),
            tick_late_p99_us: AtomicU32::new(0),
            links: Mutex::default(),
            door: Mutex::default(),
            ports,
            bind,
            advertise,
            collector: None,
        }
    }

    /// A session that lost its process, on its ports: phones need not be told, and nobody else of the host may be left
    /// to take it. So a node that drains takes it too, unless it ends. It is counted then.
    fn takes_back(&self, apply: &Apply) -> bool {
        let mut streams = apply.spec.legs.iter().flat_map(|leg| &leg.streams);
        streams.all(|stream| stream.port.is_some()) && self.let_in()
    }

    /// Room for one more session of a worker; an emergency call always finds it. New calls are refused before live
    /// audio suffers.
    fn admit(&self, emergency: bool, worker: &Vitals) -> Result<(), Refusal> {
        if self.is_draining() {
            return Err(Refusal::Draining);
        }
        if emergency {
            return Ok(());
        }
        let what = if self.sessions.load(Ordering::Relaxed) >= self.most_sessions() {
            "media session: as many as there may be"
        } else if let Some(strain) = self.strain.get().or(worker.strain.get()) {
            strain.what()
        } else {
            return Ok(());
        };
        self.shed(what);
        Err(Refusal::Capacity)
    }

    /// Something was refused or dropped at a bound.
    fn shed(&self, what: &'static str) {
        (self.events)(&Event::Shed { what });
    }

    fn is_draining(&self) -> bool {
        *self.draining.borrow()
    }

    fn set_draining(&self, drain: bool) {
        self.draining.send_replace(drain);
    }

    fn has_owner(&self) -> bool {
        !self.lock_links().is_empty()
    }

    /// A session comes in, and is counted from then on, whenever its worker has it: nobody ends this process meanwhile.
    /// False: the process ends.
    fn let_in(&self) -> bool {
        let is_shut = self.lock_door();
        if !*is_shut {
            self.sessions.fetch_add(1, Ordering::Relaxed);
        }
        !*is_shut
    }

    /// A session that was counted is not here any more, or never came to its worker.
    fn count_out(&self) {
        self.sessions.fetch_sub(1, Ordering::Relaxed);
    }

    /// Shuts the door behind the last session; asked again and again.
    fn is_empty(&self) -> bool {
        let mut is_shut = self.lock_door();
        let is_empty = self.sessions.load(Ordering::Relaxed) == 0;
        *is_shut |= is_empty;
        is_empty
    }

    fn shut_door(&self) {
        *self.lock_door() = true;
    }

    fn lock_door(&self) -> std::sync::MutexGuard<'_, bool> {
        self.door.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To every link of signaling; the call's owner heeds it.
    fn broadcast(&self, frame: &Frame) {
        self.lock_links().retain(|link| {
            // A full queue is a stuck link, which its own time-out ends; reports that matter are told again.
            match link.try_send(frame.clone()) {
                Ok(()) => true,
                Err(mpsc::error::TrySendError::Full(_)) => {
                    self.shed("report to a stuck link");
                    true
                }
                Err(mpsc::error::TrySendError::Closed(_)) => false,
            }
        });
    }

    fn lock_links(&self) -> std::sync::MutexGuard<'_, Vec<mpsc::Sender<Frame>>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How much of what the process may have is used up. All of it: it takes no new sessions, however little it uses.
    fn used_up_percent(&self) -> u32 {
        if self.strain.get().is_some() {
            return Capacity::ALL_USED_UP;
        }
        let strained = self.vitals.iter().filter(|worker| worker.strain.get().is_some()).count();
        let percent = strained * 100 / self.vitals.len().max(1);
        let used = self.cpu_percent.load(Ordering::Relaxed).min(Capacity::ALL_USED_UP - 1);
        used.max(u32::try_from(percent).unwrap_or(Capacity::ALL_USED_UP))
    }

    fn most_sessions(&self) -> u32 {
        self.max_sessions.load(Ordering::Relaxed)
    }

    fn capacity(&self) -> Capacity {
        Capacity {
            sessions: self.sessions.load(Ordering::Relaxed),
            transcoded_sessions: self.transcoded.load(Ordering::Relaxed),
            max_sessions: self.most_sessions(),
            ports: (self.ports.first, self.ports.last),
            ports_in_use: self.ports_in_use.load(Ordering::Relaxed),
            draining: self.is_draining(),
            cpu_percent: self.used_up_percent(),
            tick_late_p99_us: self.tick_late_p99_us.load(Ordering::Relaxed),
            bind: self.bind.to_string(),
            advertise: self.advertise.map(|address| address.to_string()),
        }
    }
}

/// As wished, or as many as ports and cores are enough for.
fn most_sessions(wished: Option<u32>, ports: PortRange, cores: usize) -> u32 {
    let PortRange { first, last } = ports;
    // Four ports a call: two legs of RTP and RTCP.
    let from_ports = u32::try_from(ports.pairs().len() / 2).unwrap_or(u32::MAX);
    let from_cores = u32::try_from(cores).unwrap_or(1).saturating_mul(2_000);
    let most = wished.unwrap_or(from_ports.min(from_cores));
    if from_ports < most {
        tracing::warn!("media ports {first}-{last} are enough for {from_ports} calls, not {most}");
    }
    most
}

/// That this process may use.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, core::num::NonZero::get)
}

/// Starts a media node within a tokio runtime; its packets are handled by threads of their own.
pub async fn start(config: Config, events: EventSink) -> Result<MediaNode, StartError> {
    if std::net::UdpSocket::bind((config.bind, 0)).is_err() {
        return Err(StartError::Bind(config.bind));
    }
    let cores = cores();
    let ports = Ports::new(config.bind, config.ports);
    let count = if config.workers == 0 { cores } else { config.workers };
    let limits = (most_sessions(config.max_calls, config.ports, cores), count);
    let shared = Shared::new(limits, config.ports, config.bind, config.advertise, events);
    let shared = Arc::new(Shared { collector: config.collector.clone(), ..shared });
    let wanted = config.control_bind;
    let listener =
        control_link::listen(wanted).await.map_err(|error| StartError::Control(wanted, error))?;
    let address = listener.local_addr()?;
    let addresses = Addresses {
        bind: config.bind,
        advertise: config.advertise,
        local_nets: config.local_nets.clone(),
    };
    let ports = Arc::new(Mutex::new(ports));
    let offload = config.offload.then(|| load_offload(config.bind)).flatten();
    let mut workers = Vec::new();
    for number in 0..count {
        let (shared, ports) = (shared.clone(), ports.clone());
        let table = offload.as_ref().map(Offload::table).transpose()?;
        let addresses = addresses.clone();
        workers.push(worker::start(number, shared, ports, addresses, table, config.priority)?);
    }
    let (stop, stopped) = watch::channel(false);
    let handles: Vec<Handle> = workers.iter().map(|(handle, _)| handle.clone()).collect();
    if let Some(path) = &config.handover {
        let (shared, workers) = (shared.clone(), handles.clone());
        if let Err(error) = handover::listen(path, config.name.clone(), shared, workers) {
            tracing::warn!(
                "no other process can leave its calls to us: {}: {error}",
                path.display()
            );
        }
    }
    let leaving = Leaving {
        path: config.handover.map(Arc::from),
        shared: shared.clone(),
        workers: handles.clone().into(),
        turn: Arc::default(),
    };
    tokio::spawn(leaving.clone().follow(stopped.clone()));
    tokio::spawn(look::at_ourselves(shared.clone(), cores, stopped.clone()));
    let server = control::Server {
        hello: Hello {
            version: crate::control::VERSION,
            name: config.name,
            incarnation: config.incarnation,
            role: Role::Media,
            control: vec![address],
        },
        host: config.host,
        secrets: config.secrets,
        shared: shared.clone(),
        workers: handles,
        leaving: leaving.clone(),
        stopped,
    };
    server.start(listener, config.join);
    Ok(MediaNode { control: address, shared, workers, leaving, stop, _offload: offload })
}

fn load_offload(bind: IpAddr) -> Option<Offload> {
    match Offload::load(bind) {
        Ok(offload) => {
            let interfaces = offload.interfaces.join(", ");
            tracing::info!("the kernel passes on RTP in order that comes by {interfaces}");
            for why in &offload.left_out {
                tracing::warn!("this process passes on all that comes by {why}");
            }
            Some(offload)
        }
        Err(error) => {
            tracing::info!("this process passes on every packet itself: {error}");
            None
        }
    }
}

impl MediaNode {
    /// Takes no new sessions, or takes them again.
    pub fn drain(&self, drain: bool) {
        self.shared.set_draining(drain);
    }

    /// As many sessions from now on; none given: from ports and cores. Those that are there stay.
    pub fn set_max_calls(&self, wished: Option<u32>) {
        let most = most_sessions(wished, self.shared.ports, cores());
        self.shared.max_sessions.store(most, Ordering::Relaxed);
    }

    /// Some signaling node has a link with it.
    pub fn is_linked(&self) -> bool {
        self.shared.has_owner()
    }

    /// Gives all sessions to another process of this host, if there is one.
    pub async fn hand_over(&self) {
        self.leaving.hand_over().await;
    }

    /// Until the last session is over or has gone elsewhere, or until nobody can end any: without a link with signaling
    /// sessions are left to the next start, which is told of them.
    pub async fn empty(&self) {
        let mut tick = tokio::time::interval(SESSIONS_ASKED);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut linked_at = clock::now();
        loop {
            tick.tick().await;
            if self.shared.is_empty() {
                return;
            }
            if self.is_linked() {
                linked_at = clock::now();
            } else if clock::now().saturating_since(linked_at) > ABANDONED {
                tracing::info!("no signaling node is there: calls are left to the next start");
                return;
            }
        }
    }

    /// What it can take.
    pub fn status(&self) -> Capacity {
        self.shared.capacity()
    }

    /// Closes links and ports. Sessions that flow are cut: drain first.
    pub async fn stop(self) {
        self.drain(true);
        // Nothing more is inherited either.
        self.shared.shut_door();
        let _ = self.stop.send(true);
        for (handle, _) in &self.workers {
            handle.send(Command::Stop);
        }
        let joined = tokio::task::spawn_blocking(move || {
            for (_, thread) in self.workers {
                let _ = thread.join();
            }
        });
        let _ = joined.await;
    }
}

/// Which worker has a session.
fn worker_of(session: SessionId, workers: usize) -> usize {
    usize::try_from(folded(session.0) % workers.max(1) as u64).unwrap_or(0)
}

/// Ids are drawn by signaling, nobody else's choice: as they are they are spread well enough.
const fn folded(id: u128) -> u64 {
    (id ^ (id >> 64)) as u64
}

/// Tables by id, which are asked for each packet.
type Folding = BuildHasherDefault<FoldingHasher>;

#[derive(Clone, Copy, Debug, Default)]
struct FoldingHasher(u64);

impl Hasher for FoldingHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u128(&mut self, id: u128) {
        // A table takes its place from the low bits and its tag from the high ones.
        self.0 = folded(id).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
