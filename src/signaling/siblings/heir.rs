//! This process as heir: what it keeps of siblings, and when it reads on.

use super::{Common, PATIENCE, SILENT_AFTER, TAKEN_AFTER, socket_of};
use crate::control::sibling::{FromHeir, ToHeir, VERSION};
use crate::ids::{ConnectionId, Flow, Incarnation, NodeName};
use crate::limits;
use crate::net::sibling_link::{SiblingLink, SiblingListener};
use crate::signaling::wakeup::Wakeup;
use core::time::Duration;
use nix::sys::resource::{Resource, getrlimit};
use std::collections::HashMap;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};

/// What waits in a dead process's sockets is read for so long; then the kernel spreads phones anew.
const LAST_READ: Duration = Duration::from_millis(200);

/// A link that ended is of a dead process when nobody listens there at one of so many looks.
const GONE_TRIES: u32 = 50;
/// Between two looks.
const GONE_PAUSE: Duration = Duration::from_millis(10);

/// Takes siblings in, for as long as the worker lives.
pub(super) async fn accept(listener: SiblingListener, common: Common) {
    let kept = Arc::new(AtomicUsize::new(0));
    while !common.wakeups.is_closed() {
        match listener.accept().await {
            Ok(link) => {
                let guard = guard(link, common.clone(), Arc::clone(&kept));
                tokio::spawn(async move {
                    if let Err(error) = guard.await {
                        tracing::debug!("a sibling is not stood in for: {error}");
                    }
                });
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

/// Connections of others that this process may keep: a quarter of its descriptors.
fn room() -> usize {
    let soft = getrlimit(Resource::RLIMIT_NOFILE).map_or(1_024, |(soft, _)| soft);
    usize::try_from(soft / 4).unwrap_or(usize::MAX).min(limits::SIP_CONNECTIONS)
}

async fn guard(link: SiblingLink, common: Common, kept: Arc<AtomicUsize>) -> io::Result<()> {
    let first = timeout(PATIENCE, link.receive()).await.map_err(|_| io::ErrorKind::TimedOut)??;
    let (body, mut descriptors) = first.ok_or(io::ErrorKind::UnexpectedEof)?;
    let hello = postcard::from_bytes(&body).map_err(io::Error::other)?;
    let ToHeir::Hello { version, node, incarnation, udp, tcp } = hello else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    if version != VERSION || descriptors.len() != udp.len() + tcp.len() {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let listeners = descriptors.split_off(udp.len());
    let mut ward = Ward {
        common,
        link,
        kept,
        node,
        incarnation,
        udp: descriptors,
        listeners,
        connections: HashMap::new(),
        heard_at: Instant::now(),
        accepting: None,
        has_taken: false,
        has_left: false,
    };
    ward.run().await;
    Ok(())
}

/// A sibling that this process stands in for.
struct Ward {
    common: Common,
    link: SiblingLink,
    /// Connections kept for all siblings.
    kept: Arc<AtomicUsize>,
    node: NodeName,
    incarnation: Incarnation,
    udp: Vec<OwnedFd>,
    listeners: Vec<OwnedFd>,
    connections: HashMap<ConnectionId, (Flow, OwnedFd)>,
    heard_at: Instant,
    /// Its sockets are read here; new connections by these.
    accepting: Option<Vec<JoinHandle<()>>>,
    /// Its connections were taken.
    has_taken: bool,
    /// It said so itself.
    has_left: bool,
}

impl Drop for Ward {
    fn drop(&mut self) {
        self.kept.fetch_sub(self.connections.len(), Ordering::Relaxed);
    }
}

impl Ward {
    async fn run(&mut self) {
        while let Some((body, descriptors)) = self.next_frame().await {
            self.heard_at = Instant::now();
            let Ok(frame) = postcard::from_bytes(&body) else { break };
            if self.handle(frame, descriptors).await.is_err() {
                break;
            }
        }
        if self.is_gone().await {
            tracing::info!(node = %self.node, "a sibling is gone: its connections are read here");
            let _ = self.common.wakeups.send(Wakeup::SiblingGone(self.incarnation)).await;
            self.cover().await;
            self.take().await;
            tokio::time::sleep(LAST_READ).await;
        }
        self.uncover().await;
    }

    /// Nobody listens where it did. A process that ends gives its sockets up one after the other.
    async fn is_gone(&self) -> bool {
        let socket = socket_of(&self.common.folder, self.incarnation);
        let refused = |error: io::Error| {
            matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound)
        };
        for _ in 0..GONE_TRIES {
            if SiblingLink::dial(&socket).is_err_and(refused) {
                return true;
            }
            tokio::time::sleep(GONE_PAUSE).await;
        }
        false
    }

    /// Acts on silence while it lasts. `None`: the link is gone.
    async fn next_frame(&mut self) -> Option<(Vec<u8>, Vec<OwnedFd>)> {
        loop {
            let patience = match (self.has_left, &self.accepting, self.has_taken) {
                (true, ..) | (false, Some(_), true) => None,
                (false, None, _) => Some(SILENT_AFTER),
                (false, Some(_), false) => Some(TAKEN_AFTER),
            };
            let Some(patience) = patience else {
                return self.link.receive().await.ok().flatten();
            };
            let until = self.heard_at + patience;
            if let Ok(frame) = timeout_at(until, self.link.receive()).await {
                return frame.ok().flatten();
            }
            // It may be this process that was busy.
            match self.link.try_receive() {
                Ok(frame) => return frame,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return None,
            }
            if self.accepting.is_none() {
                tracing::warn!(node = %self.node, "a sibling is silent: its sockets are read here");
                self.cover().await;
            } else {
                self.take().await;
            }
        }
    }

    async fn handle(&mut self, frame: ToHeir, descriptors: Vec<OwnedFd>) -> io::Result<()> {
        match frame {
            ToHeir::Hello { .. } => return Err(io::ErrorKind::InvalidData.into()),
            ToHeir::Opened(flows) => self.keep(flows, descriptors).await?,
            ToHeir::Closed(ids) => {
                let before = self.connections.len();
                ids.iter().for_each(|id| _ = self.connections.remove(id));
                self.kept.fetch_sub(before - self.connections.len(), Ordering::Relaxed);
            }
            ToHeir::Beat if self.accepting.is_some() && !self.has_left && !self.has_taken => {
                self.uncover().await;
            }
            ToHeir::Beat => {}
            // Two that leave cannot stand in for each other.
            ToHeir::Leave if *self.common.leaves.borrow() => {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            ToHeir::Leave => {
                self.has_left = true;
                self.cover().await;
                self.take().await;
                self.send(&FromHeir::Taken).await?;
            }
            ToHeir::Back => {
                self.uncover().await;
                let taken = core::mem::take(&mut self.has_taken);
                self.has_left = false;
                self.send(&FromHeir::Yours { taken }).await?;
            }
        }
        Ok(())
    }

    /// Keeps what there is room for.
    async fn keep(&mut self, flows: Vec<Flow>, descriptors: Vec<OwnedFd>) -> io::Result<()> {
        let most = room();
        let mut declined = Vec::new();
        let mut descriptors = descriptors.into_iter();
        for flow in flows {
            let Some(id) = flow.connection else { continue };
            match descriptors.next() {
                Some(descriptor) if self.kept.load(Ordering::Relaxed) < most => {
                    self.kept.fetch_add(1, Ordering::Relaxed);
                    self.connections.insert(id, (flow, descriptor));
                }
                Some(_) | None => declined.push(id),
            }
        }
        match declined.is_empty() {
            true => Ok(()),
            false => self.send(&FromHeir::Declined(declined)).await,
        }
    }

    /// Reads its datagrams and accepts its connections.
    async fn cover(&mut self) {
        if self.accepting.is_some() {
            return;
        }
        let share = |descriptor: &OwnedFd| descriptor.as_fd().try_clone_to_owned().ok();
        let sockets = self.udp.iter().filter_map(share).collect();
        let _ = self.common.wakeups.send(Wakeup::Cover(self.incarnation, sockets)).await;
        let connections = &self.common.estate.connections;
        let listeners = self.listeners.iter().filter_map(share).map(TcpListener::from);
        self.accepting =
            Some(listeners.filter_map(|one| connections.accept_on(one).ok()).collect());
    }

    async fn uncover(&mut self) {
        if let Some(accepting) = self.accepting.take() {
            accepting.iter().for_each(JoinHandle::abort);
            let _ = self.common.wakeups.send(Wakeup::Uncover(self.incarnation)).await;
        }
    }

    /// Its connections are this process's from now on.
    async fn take(&mut self) {
        self.has_taken = true;
        self.kept.fetch_sub(self.connections.len(), Ordering::Relaxed);
        let mut taken = Vec::new();
        for (id, (flow, descriptor)) in self.connections.drain() {
            if self.common.estate.connections.adopt(flow, descriptor).is_ok() {
                taken.push(id);
            }
        }
        tracing::info!(node = %self.node, "{} connections of a sibling are read here", taken.len());
        let inherited = Wakeup::Inherited(self.node.clone(), taken);
        let _ = self.common.wakeups.send(inherited).await;
    }

    async fn send(&self, frame: &FromHeir) -> io::Result<()> {
        let body = postcard::to_stdvec(frame).map_err(io::Error::other)?;
        let sent = timeout(PATIENCE, self.link.send(&body, &[])).await;
        sent.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}
