//! A media node: anchors RTP on ports of this host as signaling wishes. No database, no SIP.
//!
//! `worker` is THE loop; `control` takes links of signaling and dials those it was told to join; `ports` is its slice;
//! `handover` passes sessions to another media process of the host, and takes them.

mod collector;
mod control;
mod handover;
mod ports;
mod worker;

pub use collector::Collector;
pub use ports::PortRange;

use crate::control::hello::{Capacity, Hello, Role};
use crate::control::{Frame, Refusal};
use crate::ids::{Incarnation, NodeName, SessionId};
use crate::net::clock;
use crate::net::control_link::{self, Secrets};
use crate::net::local_address::local_address_towards;
use crate::sip::address::Network;
use crate::time::Timestamp;
use core::net::{IpAddr, SocketAddr};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use core::time::Duration;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::{TimeVal, TimeValLike};
use ports::Ports;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{mpsc, watch};
use worker::{Command, Handle};

/// A node that drains looks so often for another process that takes its sessions.
const HEIR_SOUGHT: Duration = Duration::from_millis(500);
/// How often CPU is looked at.
const CPU_INTERVAL: Duration = Duration::from_secs(1);
/// Percent of each core above which no new calls are taken.
const CPU_MOST: u32 = 90;
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
}

/// What workers, links and the node itself have in common.
#[derive(Debug)]
struct Shared {
    sessions: AtomicU32,
    transcoded: AtomicU32,
    ports_in_use: AtomicU32,
    max_sessions: u32,
    draining: watch::Sender<bool>,
    panics: AtomicU64,
    ticks: Mutex<Ticks>,
    cpu: Mutex<Cpu>,
    cores: u32,
    links: Mutex<Vec<mpsc::Sender<Frame>>>,
    ports: PortRange,
    bind: IpAddr,
    advertise: Option<IpAddr>,
    collector: Option<Collector>,
}

/// A ring of the last latenesses, in microseconds.
#[derive(Debug, Default)]
struct Ticks {
    late_us: Vec<u32>,
    next: usize,
}

/// What the process used of the host's CPU, second by second.
#[derive(Debug, Default)]
struct Cpu {
    /// When it was read last, and what had been used until then.
    read: Option<(Timestamp, Duration)>,
    percent: u32,
}

impl Cpu {
    /// Percent of one core, of the last second or more.
    fn percent(&mut self, now: Timestamp, used: impl Fn() -> Duration) -> u32 {
        let since = self.read.map(|(at, _)| now.saturating_since(at));
        if since.is_none_or(|since| since >= CPU_INTERVAL) {
            let used = used();
            if let Some((at, before)) = self.read {
                let lived = now.saturating_since(at).as_millis().max(1);
                let used = used.saturating_sub(before).as_millis();
                self.percent = u32::try_from(used * 100 / lived).unwrap_or(u32::MAX);
            }
            self.read = Some((now, used));
        }
        self.percent
    }
}

fn used_cpu() -> Duration {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) else { return Duration::ZERO };
    let time =
        |of: TimeVal| Duration::from_micros(u64::try_from(of.num_microseconds()).unwrap_or(0));
    time(usage.user_time()) + time(usage.system_time())
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
    fn new(
        (max_sessions, cores): (u32, u32),
        ports: PortRange,
        bind: IpAddr,
        advertise: Option<IpAddr>,
    ) -> Self {
        Self {
            sessions: AtomicU32::new(0),
            transcoded: AtomicU32::new(0),
            ports_in_use: AtomicU32::new(0),
            max_sessions,
            draining: watch::Sender::new(false),
            panics: AtomicU64::new(0),
            ticks: Mutex::default(),
            cpu: Mutex::default(),
            cores,
            links: Mutex::default(),
            ports,
            bind,
            advertise,
            collector: None,
        }
    }

    fn cpu_percent(&self) -> u32 {
        let mut cpu = self.cpu.lock().unwrap_or_else(PoisonError::into_inner);
        cpu.percent(clock::now(), used_cpu)
    }

    /// Room for one more session; an emergency call always finds it. New calls are refused before live audio suffers.
    fn admit(&self, emergency: bool) -> Result<(), Refusal> {
        if self.is_draining() {
            return Err(Refusal::Draining);
        }
        let full = self.sessions.load(Ordering::Relaxed) >= self.max_sessions;
        if !emergency && (full || self.cpu_percent() >= self.cores.saturating_mul(CPU_MOST)) {
            return Err(Refusal::Capacity);
        }
        Ok(())
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
            draining: self.is_draining(),
            cpu_percent: self.cpu_percent(),
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
    let limits = (max_sessions, u32::try_from(cores).unwrap_or(1));
    let shared = Shared::new(limits, config.ports, config.bind, config.advertise);
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
    let count = if config.workers == 0 { cores } else { config.workers };
    let mut workers = Vec::new();
    for number in 0..count {
        let (shared, ports) = (shared.clone(), ports.clone());
        workers.push(worker::start(number, shared, ports, addresses.clone())?);
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
        stopped,
    };
    server.start(listener, config.join);
    Ok(MediaNode { control: address, shared, workers, leaving, stop })
}

impl MediaNode {
    /// Takes no new sessions, or takes them again.
    pub fn drain(&self, drain: bool) {
        self.shared.set_draining(drain);
    }

    /// Some signaling node has a link with it.
    pub fn is_linked(&self) -> bool {
        self.shared.has_owner()
    }

    /// Gives all sessions to another process of this host, if there is one.
    pub async fn hand_over(&self) {
        self.leaving.hand_over().await;
    }

    /// What it can take.
    pub fn status(&self) -> Capacity {
        self.shared.capacity()
    }

    /// Closes links and ports. Sessions that flow are cut: drain first.
    pub async fn stop(self) {
        // Nothing more is inherited either.
        self.drain(true);
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

/// The giving away of sessions: while the node drains, as soon as another process of the host is there.
#[derive(Clone, Debug)]
struct Leaving {
    path: Option<Arc<std::path::Path>>,
    shared: Arc<Shared>,
    workers: Arc<[Handle]>,
    /// One hand-over at a time.
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl Leaving {
    async fn follow(self, mut stopped: watch::Receiver<bool>) {
        let mut draining = self.shared.draining.subscribe();
        loop {
            let drains = async {
                let drained = draining.wait_for(|drain| *drain).await;
                drained.map(drop)
            };
            tokio::select! {
                drains = drains => if drains.is_err() { return },
                _ = stopped.changed() => return,
            }
            self.hand_over().await;
            tokio::select! {
                () = tokio::time::sleep(HEIR_SOUGHT) => {}
                _ = stopped.changed() => return,
            }
        }
    }

    async fn hand_over(&self) {
        let Some(path) = self.path.clone() else { return };
        let _turn = self.turn.lock().await;
        let before = self.shared.sessions.load(Ordering::Relaxed);
        if before == 0 {
            return;
        }
        let (workers, begun) = (Arc::clone(&self.workers), clock::now());
        let passed = tokio::task::spawn_blocking(move || handover::hand_over(&path, &workers));
        if let Ok(Some((passed, heir))) = passed.await {
            let took = clock::now().saturating_since(begun).as_millis();
            tracing::info!("{passed} of {before} sessions are with {heir} now, after {took} ms");
        }
    }
}

/// Which worker has a session.
fn worker_of(session: SessionId, workers: usize) -> usize {
    let hash = (session.0 ^ (session.0 >> 64)) as u64;
    usize::try_from(hash % workers.max(1) as u64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_is_that_of_the_last_second() {
        let mut cpu = Cpu::default();
        // (when, used so far, percent)
        for (at, used, percent) in [
            (0, 500, 0),
            (500, 900, 0),
            (1_000, 1_500, 100),
            (1_900, 1_500, 100),
            (3_000, 2_500, 50),
        ] {
            let now = Timestamp::from_millis(10_000 + at);
            assert_eq!(cpu.percent(now, || Duration::from_millis(used)), percent, "at {at} ms");
        }
    }
}
