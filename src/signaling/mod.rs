//! A signaling node: SIP sockets, calls, registrations and the way to store and media nodes, on one thread of its own
//! (design §4).
//!
//! Where to read: `worker` (THE loop), `ingress` (datagram → decision), `register` and `invite` (what decisions lead
//! to), `originate` (a call that no phone asks for), `bindings` (several nodes' phones), `outputs` (a step of a call),
//! `committer` (group commit), `journal` (the store is away), `calls` (the table), `media_pool` (media nodes),
//! `media_moves` (their sessions change place), `doubt` (is one gone?), `reanchor` (calls move to another host),
//! `places` (addresses that phones know us by), `feed` (the directory's sources), `strangers` (credentials that are
//! not known yet), `errand` (what is done beside the worker), `driven` (the worker without doors).
//!
//! Invariants: the worker owns all state and takes no lock; whatever is slow is an errand that reports over a bounded
//! channel; nothing here grows without a bound.

mod answer;
mod asked;
mod bindings;
mod calls;
mod check_sync;
mod commands;
mod committer;
mod doubt;
mod drain;
/// A node that a simulation drives.
pub mod driven;
mod entrusted;
mod errand;
mod feed;
mod figures;
mod gather;
mod ingress;
mod inherit;
mod invite;
mod journal;
mod ladder;
mod ladder_sweep;
mod leases;
mod ledger;
mod links;
mod media_moves;
mod media_pool;
mod names;
mod node;
mod originate;
mod out_of_dialog;
mod outputs;
mod pass_on;
mod passed;
mod peers;
mod pings;
mod places;
mod quarantine;
mod reanchor;
mod reassert;
mod refuge;
mod register;
mod repeats;
#[cfg(test)]
mod samples;
mod siblings;
mod silence;
mod sockets;
mod steer;
mod strangers;
mod takeover;
mod tuning;
mod unheard;
mod views;
mod wakeup;
mod worker;

use crate::call::Settings;
use crate::capture::{CaptureConfig, HepConfig};
use crate::control::hello::{Hello, Role};
use crate::event::Event;
use crate::ids::{ClusterKey, ConnectionId, Incarnation, NodeName};
use crate::net::control_link::{self, Secrets};
use crate::net::tcp::Connections;
use crate::net::udp::UdpMeter;
use crate::operator::{Command, Tuning};
use crate::sip::address::Advertise;
use crate::store::Store;
use crate::telemetry::Figure;
use core::net::SocketAddr;
use core::time::Duration;
use journal::Keeping;
use sockets::Sockets;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use worker::{Bound, Inlets, Worker};

/// Who is told what happened.
pub type EventSink = Arc<dyn Fn(&Event) + Send + Sync>;

/// What a signaling node is to be.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of the node.
    pub node: NodeName,
    /// This start of it.
    pub incarnation: Incarnation,
    /// `signaling` or `both`, for the table of nodes.
    pub mode: &'static str,
    /// Tokens and nonces are derived under it.
    pub key: ClusterKey,
    /// Of control links.
    pub secrets: Secrets,
    /// UDP and TCP.
    pub sip_bind: Vec<SocketAddr>,
    /// What we say of ourselves.
    pub advertise: Advertise,
    /// Digest realm.
    pub realm: String,
    /// Server and User-Agent.
    pub product: String,
    /// What may change while it runs.
    pub tuning: Tuning,
    /// Where media nodes announce themselves; when taken, the next free port up to 7089.
    pub control_bind: SocketAddr,
    /// `HOLDFAST_LEASE_MS`: ownership without renewal.
    pub lease: Duration,
    /// Where processes of this host keep what the database does not take in time.
    pub journals: Option<PathBuf>,
    /// What is kept of calls' signaling, and where.
    pub capture: Option<CaptureConfig>,
    /// The collector that is told of it.
    pub hep: Option<HepConfig>,
    /// Where processes of this host find each other, to read on when one dies.
    pub siblings: Option<PathBuf>,
}

impl Config {
    fn settings(&self) -> Settings {
        Settings {
            key: self.key.clone(),
            node: self.node.clone(),
            node_number: self.node.number(),
            incarnation: self.incarnation,
            advertise: self.advertise.clone(),
            product: self.product.clone(),
            ring_timeout: self.tuning.ring_timeout,
            rtp_timeout: self.tuning.rtp_timeout,
            emergency_numbers: self.tuning.emergency_numbers.clone(),
        }
    }

    fn first_connection(&self) -> ConnectionId {
        ConnectionId::first_of(self.node.number(), self.incarnation)
    }

    fn hello(&self, control: SocketAddr) -> Hello {
        Hello {
            version: crate::control::VERSION,
            name: self.node.clone(),
            incarnation: self.incarnation,
            role: Role::Signaling,
            control: vec![control],
        }
    }
}

/// Why a node does not start: what, why, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A SIP address.
    #[error(
        "cannot listen for SIP on {address}: {source}; {}",
        advice(.source, "HOLDFAST_SIP_BIND")
    )]
    Sip {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The control address.
    #[error(
        "cannot listen for media nodes on {address}: {source}; {}",
        advice(.source, "HOLDFAST_CONTROL_BIND")
    )]
    Control {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The thread or its runtime.
    #[error("cannot start the SIP thread: {0}")]
    Thread(io::Error),
}

fn advice(error: &io::Error, variable: &str) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!("another program has it (`ss -lntup` names it): stop that or set {variable}")
        }
        io::ErrorKind::PermissionDenied => {
            format!("ports below 1024 need a privilege: set {variable} to a higher port")
        }
        io::ErrorKind::AddrNotAvailable => {
            format!("this machine does not have that address: set {variable} to one of its own")
        }
        _ => format!("set {variable} to an address that can be bound"),
    }
}

/// A node that runs.
#[derive(Debug)]
pub struct SignalingNode {
    /// SIP addresses that were bound.
    pub sip: Vec<SocketAddr>,
    /// Where media nodes announce themselves.
    pub control: SocketAddr,
    meters: (Vec<Arc<UdpMeter>>, Connections),
    stop: watch::Sender<bool>,
    thread: thread::JoinHandle<()>,
}

impl SignalingNode {
    /// Who tells the figures of its SIP sockets.
    pub fn figures(&self) -> impl Fn() -> Vec<Figure> + Send + Sync + use<> {
        let (udp, tcp) = self.meters.clone();
        move || figures::of_sockets(&udp, &tcp)
    }

    /// Lets the last commit end, then ends. Calls stay in the store and in their media nodes.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Waits for the end. Blocks: not for a runtime's own threads.
    pub fn join(self) {
        if self.thread.join().is_err() {
            tracing::error!("the SIP thread ended by a panic");
        }
    }

    /// The thread has ended.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }
}

/// Starts a node: binds its sockets, then serves on a thread of its own. The store's work stays on the caller's
/// runtime.
pub async fn start(
    config: Config,
    store: Store,
    commands: mpsc::Receiver<Command>,
    events: EventSink,
) -> Result<SignalingNode, StartError> {
    let background = Handle::current();
    let keeping = Keeping::open(config.journals.clone(), &config.node.0, &store).await;
    let (stop, stopped) = watch::channel(false);
    let (started, wait) = oneshot::channel();
    let thread = thread::Builder::new().name("signaling".to_owned()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        match runtime {
            Ok(runtime) => runtime.block_on(async move {
                match bind(&config, keeping).await {
                    Ok(bound) => {
                        let sockets = &bound.sockets;
                        let told = (sockets.local(), bound.control, sockets.meters());
                        if started.send(Ok(told)).is_err() {
                            return;
                        }
                        let (sender, wakeups) = mpsc::channel(wakeup::QUEUE);
                        let inlets = Inlets { commands, wakeups, stop: stopped };
                        let worker = Worker::new(config, bound, store, background, events, sender);
                        worker.run(inlets).await;
                    }
                    // Who asked is told, or is gone.
                    Err(error) => drop(started.send(Err(error))),
                }
            }),
            Err(error) => drop(started.send(Err(StartError::Thread(error)))),
        }
    });
    let thread = thread.map_err(StartError::Thread)?;
    let ended = || StartError::Thread(io::ErrorKind::UnexpectedEof.into());
    let (sip, control, meters) = wait.await.map_err(|_| ended())??;
    Ok(SignalingNode { sip, control, meters, stop, thread })
}

async fn bind(config: &Config, keeping: Keeping) -> Result<Bound, StartError> {
    let sockets = Sockets::bind(&config.sip_bind, config.first_connection())
        .map_err(|(address, source)| StartError::Sip { address, source })?;
    let address = config.control_bind;
    let control = |source| StartError::Control { address, source };
    let listener = control_link::listen(address).await.map_err(control)?;
    let control = listener.local_addr().map_err(control)?;
    Ok(Bound { sockets, control, listener, keeping })
}
