//! A media node: anchors RTP on ports of this host as signaling wishes. No database, no SIP.
//!
//! `worker` is THE loop; `control` takes links of signaling and dials those it was told to join; `ports` is its slice.

mod control;
mod ports;
mod worker;

pub use ports::PortRange;

use crate::control::hello::{Capacity, Hello, Role};
use crate::control::{Frame, Refusal};
use crate::ids::{Incarnation, NodeName, SessionId};
use crate::net::control_link::{self, Secrets};
use crate::net::local_address::local_address_towards;
use crate::sip::address::Network;
use core::net::{IpAddr, SocketAddr};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use core::time::Duration;
use ports::Ports;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{mpsc, watch};
use worker::{Command, Handle};

/// Latenesses of timer work that are remembered.
const TICKS: usize = 1_024;

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
    stop: watch::Sender<bool>,
}

/// What workers, links and the node itself have in common.
#[derive(Debug)]
struct Shared {
    sessions: AtomicU32,
    transcoded: AtomicU32,
    ports_in_use: AtomicU32,
    max_sessions: u32,
    draining: AtomicBool,
    panics: AtomicU64,
    ticks: Mutex<Ticks>,
    links: Mutex<Vec<mpsc::Sender<Frame>>>,
    ports: PortRange,
    bind: IpAddr,
    advertise: Option<IpAddr>,
}

/// A ring of the last latenesses, in microseconds.
#[derive(Debug, Default)]
struct Ticks {
    late_us: Vec<u32>,
    next: usize,
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

impl Shared {
    /// Room for one more session; an emergency call always finds it.
    fn admit(&self, emergency: bool) -> Result<(), Refusal> {
        if self.draining.load(Ordering::Relaxed) {
            return Err(Refusal::Draining);
        }
        if !emergency && self.sessions.load(Ordering::Relaxed) >= self.max_sessions {
            return Err(Refusal::Capacity);
        }
        Ok(())
    }

    fn has_owner(&self) -> bool {
        !self.lock_links().is_empty()
    }

    /// To every link of signaling; the call's owner heeds it.
    fn broadcast(&self, frame: &Frame) {
        self.lock_links().retain(|link| {
            // A full queue is a stuck link, which its own time-out ends; reports that matter are told again.
            !matches!(link.try_send(frame.clone()), Err(mpsc::error::TrySendError::Closed(_)))
        });
    }

    fn lock_links(&self) -> std::sync::MutexGuard<'_, Vec<mpsc::Sender<Frame>>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tick_was_late(&self, late: Duration) {
        let late = u32::try_from(late.as_micros()).unwrap_or(u32::MAX);
        let mut ticks = self.ticks.lock().unwrap_or_else(PoisonError::into_inner);
        let next = ticks.next;
        match ticks.late_us.get_mut(next) {
            Some(place) => *place = late,
            None => ticks.late_us.push(late),
        }
        ticks.next = (next + 1) % TICKS;
    }

    fn tick_late_p99_us(&self) -> u32 {
        let mut late = self.ticks.lock().unwrap_or_else(PoisonError::into_inner).late_us.clone();
        late.sort_unstable();
        let at = late.len().saturating_sub(1) * 99 / 100;
        late.get(at).copied().unwrap_or(0)
    }

    fn capacity(&self) -> Capacity {
        Capacity {
            sessions: self.sessions.load(Ordering::Relaxed),
            transcoded_sessions: self.transcoded.load(Ordering::Relaxed),
            max_sessions: self.max_sessions,
            ports: (self.ports.first, self.ports.last),
            ports_in_use: self.ports_in_use.load(Ordering::Relaxed),
            draining: self.draining.load(Ordering::Relaxed),
            cpu_percent: 0,
            tick_late_p99_us: self.tick_late_p99_us(),
            bind: self.bind.to_string(),
            advertise: self.advertise.map(|address| address.to_string()),
        }
    }
}

/// Starts a media node within a tokio runtime; its packets are handled by threads of their own.
pub async fn start(config: Config) -> Result<MediaNode, StartError> {
    if std::net::UdpSocket::bind((config.bind, 0)).is_err() {
        return Err(StartError::Bind(config.bind));
    }
    let cores = std::thread::available_parallelism().map_or(1, core::num::NonZero::get);
    let ports = Ports::new(config.bind, config.ports);
    // Four ports a call: two legs of RTP and RTCP.
    let from_ports = u32::try_from(ports.size() / 2).unwrap_or(u32::MAX);
    let from_cores = u32::try_from(cores).unwrap_or(1) * 2_000;
    let max_sessions = config.max_calls.unwrap_or(from_ports.min(from_cores));
    if from_ports < max_sessions {
        tracing::warn!(
            "media ports {}-{} are enough for {from_ports} calls, not {max_sessions}",
            config.ports.first,
            config.ports.last,
        );
    }
    let shared = Arc::new(Shared {
        sessions: AtomicU32::new(0),
        transcoded: AtomicU32::new(0),
        ports_in_use: AtomicU32::new(0),
        max_sessions,
        draining: AtomicBool::new(false),
        panics: AtomicU64::new(0),
        ticks: Mutex::default(),
        links: Mutex::default(),
        ports: config.ports,
        bind: config.bind,
        advertise: config.advertise,
    });
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
    let count = if config.workers == 0 { cores } else { config.workers };
    let mut workers = Vec::new();
    for number in 0..count {
        let (shared, ports) = (shared.clone(), ports.clone());
        workers.push(worker::start(number, shared, ports, addresses.clone())?);
    }
    let (stop, stopped) = watch::channel(false);
    let server = control::Server {
        hello: Hello {
            version: crate::control::VERSION,
            name: config.name,
            incarnation: config.incarnation,
            role: Role::Media,
            control: vec![address],
        },
        secrets: config.secrets,
        shared: shared.clone(),
        workers: workers.iter().map(|(handle, _)| handle.clone()).collect(),
        stopped,
    };
    server.start(listener, config.join);
    Ok(MediaNode { control: address, shared, workers, stop })
}

impl MediaNode {
    /// Takes no new sessions, or takes them again.
    pub fn drain(&self, drain: bool) {
        self.shared.draining.store(drain, Ordering::Relaxed);
    }

    /// What it can take.
    pub fn status(&self) -> Capacity {
        self.shared.capacity()
    }

    /// Closes links and ports. Sessions that flow are cut: drain first.
    pub async fn stop(self) {
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
    let hash = (session.0 ^ (session.0 >> 64)) as u64;
    usize::try_from(hash % workers.max(1) as u64).unwrap_or(0)
}
