//! The media node's end of the control channel: links that signaling dials and links that we dial to `HOLDFAST_JOIN`.

use super::leaving::Leaving;
use super::worker::{Asked, Command, Handle};
use super::{Shared, worker_of};
use crate::control::Frame;
use crate::control::hello::{Hello, Role};
use crate::ids::SessionId;
use crate::net::control_link::{ControlLink, LinkError, PORTS, Secrets, accept, dial};
use core::net::SocketAddr;
use core::time::Duration;
use std::collections::HashSet;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::net::{TcpListener, lookup_host};
use tokio::sync::{Notify, Semaphore, watch};

/// Strangers at a time that may say who they are.
const GREETINGS: usize = 32;
/// Capacity is told so often.
const CAPACITY_INTERVAL: Duration = Duration::from_secs(1);
/// A target of `HOLDFAST_JOIN` is tried again so often at first, and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(2));

/// What every link needs.
#[derive(Clone, Debug)]
pub(super) struct Server {
    pub hello: Hello,
    pub host: String,
    pub secrets: Secrets,
    pub shared: Arc<Shared>,
    pub workers: Vec<Handle>,
    pub leaving: Leaving,
    pub stopped: watch::Receiver<bool>,
}

/// Signaling nodes that a link leads to now: two links to one are no use.
type Linked = Arc<Mutex<HashSet<(String, u64)>>>;

/// Addresses of one target that have a link.
#[derive(Clone, Debug, Default)]
struct Joined {
    addresses: Arc<Mutex<HashSet<SocketAddr>>>,
    broken: Arc<Notify>,
}

impl Joined {
    fn has(&self, address: SocketAddr) -> bool {
        self.lock().contains(&address)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<SocketAddr>> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Server {
    /// Accepts and dials until the node stops.
    pub fn start(self, listener: TcpListener, join: Vec<String>) {
        let linked = Linked::default();
        for target in join {
            tokio::spawn(self.clone().keep_joined(target, linked.clone()));
        }
        tokio::spawn(self.accept_links(listener, linked));
    }

    async fn accept_links(self, listener: TcpListener, linked: Linked) {
        let mut stopped = self.stopped.clone();
        let greetings = Arc::new(Semaphore::new(GREETINGS));
        loop {
            let Ok(greeting) = Arc::clone(&greetings).acquire_owned().await else { return };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = stopped.changed() => return,
            };
            match accepted {
                Ok((stream, _)) => {
                    let (server, linked) = (self.clone(), linked.clone());
                    tokio::spawn(async move {
                        let accepted = accept(stream, server.hello.clone(), &server.secrets).await;
                        drop(greeting);
                        match accepted {
                            Ok(link) => server.serve(link, linked).await,
                            Err(error) => tracing::debug!("a control link was refused: {error}"),
                        }
                    });
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    /// A link to every signaling node behind a target: again whenever one breaks, and to those that start later.
    async fn keep_joined(self, target: String, linked: Linked) {
        let mut stopped = self.stopped.clone();
        let joined = Joined::default();
        let (mut pause, mut told) = (RETRY.0, false);
        loop {
            let result = tokio::select! {
                result = self.join(&target, &linked, &joined) => result,
                _ = stopped.changed() => return,
            };
            match result {
                Ok(()) => (pause, told) = (RETRY.1, false),
                Err(error) => {
                    if !told {
                        tracing::info!("waiting for a signaling node at {target}: {error}");
                        told = true;
                    }
                    pause = (pause * 2).min(RETRY.1);
                }
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = joined.broken.notified() => pause = RETRY.0,
                _ = stopped.changed() => return,
            }
        }
    }

    /// Dials every address of a target that has no link yet.
    async fn join(&self, target: &str, linked: &Linked, joined: &Joined) -> Result<(), LinkError> {
        let mut last: Option<LinkError> = None;
        for address in addresses(target).await? {
            if self.hello.control.contains(&address) || joined.has(address) {
                continue;
            }
            match dial(address, self.hello.clone(), &self.secrets).await {
                Ok(link) if link.peer.role == Role::Signaling => {
                    joined.lock().insert(address);
                    let (server, linked, joined) = (self.clone(), linked.clone(), joined.clone());
                    tokio::spawn(async move {
                        server.serve(link, linked).await;
                        joined.lock().remove(&address);
                        joined.broken.notify_one();
                    });
                }
                Ok(_) => {}
                Err(error) => {
                    // What matters is who is there and refuses, not who is not there.
                    if !matches!(error, LinkError::Io(_)) || last.is_none() {
                        last = Some(error);
                    }
                }
            }
        }
        if joined.lock().is_empty() {
            let nobody = || LinkError::Io(io::ErrorKind::NotFound.into());
            return Err(last.unwrap_or_else(nobody));
        }
        Ok(())
    }

    /// Frames of one link until it breaks.
    async fn serve(self, mut link: ControlLink, linked: Linked) {
        let identity = (link.peer.name.to_string(), link.peer.incarnation.0);
        if link.peer.role != Role::Signaling || !enter(&linked, &identity) {
            return;
        }
        tracing::info!("joined signaling node {} at {}", link.peer.name, link.remote);
        self.shared.lock_links().push(link.sender.clone());
        let _ = link.sender.send(Frame::Host(self.host.clone())).await;
        let _ = link.sender.send(Frame::Capacity(self.shared.capacity())).await;
        for worker in &self.workers {
            worker.send(Command::Replay);
        }
        let mut stopped = self.stopped.clone();
        let mut tell = tokio::time::interval(CAPACITY_INTERVAL);
        loop {
            tokio::select! {
                frame = link.receiver.recv() => match frame {
                    Some(frame) => self.take(frame, &link),
                    None => break,
                },
                _ = tell.tick() => {
                    let _ = link.sender.try_send(Frame::Capacity(self.shared.capacity()));
                }
                _ = stopped.changed() => break,
            }
        }
        tracing::info!("signaling node {} is out of reach; its calls flow on", link.peer.name);
        let sender = link.sender.clone();
        self.shared.lock_links().retain(|known| !known.same_channel(&sender));
        linked.lock().unwrap_or_else(PoisonError::into_inner).remove(&identity);
    }

    fn take(&self, frame: Frame, link: &ControlLink) {
        match frame {
            Frame::Request { id, request } => {
                let session = request.session();
                let reply = link.sender.clone();
                self.to_worker(session, Command::Request(Asked { id, request, reply }));
            }
            Frame::ReportAck { session, number } => {
                self.to_worker(session, Command::Acknowledge(session, number));
            }
            Frame::Drain(drain) => self.shared.set_draining(drain),
            Frame::Give { session, to } => _ = tokio::spawn(self.leaving.clone().give(session, to)),
            Frame::Hello(_)
            | Frame::Ping(_)
            | Frame::Pong(_)
            | Frame::Reply { .. }
            | Frame::Report(_)
            | Frame::Capacity(_)
            | Frame::Peer(_)
            | Frame::Taken { .. }
            | Frame::Passed { .. }
            | Frame::Rtcp { .. }
            | Frame::Host(_) => {}
        }
    }

    fn to_worker(&self, session: SessionId, command: Command) {
        let worker = self.workers.get(worker_of(session, self.workers.len()));
        if worker.is_some_and(|worker| !worker.send(command)) {
            // No answer, and signaling's deadline looks elsewhere.
            self.shared.shed("wish of signaling: the media worker is overloaded");
        }
    }
}

/// One link a signaling incarnation.
fn enter(linked: &Linked, identity: &(String, u64)) -> bool {
    linked.lock().unwrap_or_else(PoisonError::into_inner).insert(identity.clone())
}

/// A target with a port is that address; without one, the range is tried.
async fn addresses(target: &str) -> Result<Vec<SocketAddr>, LinkError> {
    if let Ok(address) = target.parse::<SocketAddr>() {
        return Ok(vec![address]);
    }
    let has_port = target.rsplit_once(':').is_some_and(|(host, port)| {
        port.parse::<u16>().is_ok() && (!host.contains(':') || host.ends_with(']'))
    });
    if has_port {
        return Ok(lookup_host(target).await?.collect());
    }
    let host = target.trim_start_matches('[').trim_end_matches(']');
    let ips: Vec<_> = lookup_host((host, 0)).await?.map(|address| address.ip()).collect();
    let all = ips.into_iter().flat_map(|ip| PORTS.map(move |port| SocketAddr::new(ip, port)));
    Ok(all.collect())
}
