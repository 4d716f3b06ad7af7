//! Control links of a signaling node: media nodes and peers that announce themselves, peers that we dial (design §6).
//!
//! Invariants: links that are being made are bounded; a link's frames reach the worker in order, and a worker that is
//! behind slows the link, not the reverse.

use super::media_pool::LinkNumber;
use super::wakeup::Wakeup;
use crate::control::hello::{Hello, Role};
use crate::ids::{Incarnation, NodeName};
use crate::net::control_link::{self, ControlLink, LinkError, Secrets};
use crate::net::stun;
use core::net::SocketAddr;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use std::io;
use std::sync::Arc;
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::{Semaphore, mpsc};

/// Links that were accepted and are up.
const LINKS: usize = 256;
/// Strangers at a time that may say who they are.
const GREETINGS: usize = 32;
/// A peer whose link broke is dialled so often before the judgement is left to its lease.
const TRIES: u32 = 5;
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(50);
/// The packet workers of a media node are waited for so long.
pub(super) const PROBE_PATIENCE: Duration = Duration::from_millis(250);
/// And asked so often.
const PROBED_EVERY: Duration = Duration::from_millis(50);

/// What every link of this node needs.
#[derive(Clone, Debug)]
pub(super) struct Links {
    hello: Hello,
    secrets: Secrets,
    wakeups: mpsc::Sender<Wakeup>,
    numbers: Arc<AtomicU64>,
    /// Links that were accepted.
    room: Arc<Semaphore>,
    /// Strangers that have not said yet who they are.
    greetings: Arc<Semaphore>,
}

/// A peer as its row, or its last link, tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAddress {
    /// Its name.
    pub name: NodeName,
    /// Its start.
    pub incarnation: Incarnation,
    /// Where it takes control connections.
    pub control: Vec<SocketAddr>,
    /// What it is.
    pub role: Role,
    /// Of a media node: RTP ports of some of its sessions, where its workers can be asked.
    pub probes: Vec<SocketAddr>,
}

impl PeerAddress {
    /// As its hello told.
    pub(super) fn of(hello: Hello) -> Self {
        let Hello { name, incarnation, control, role, .. } = hello;
        Self { name, incarnation, control, role, probes: Vec::new() }
    }

    fn is_dead(&self) -> Wakeup {
        match self.role {
            Role::Signaling => Wakeup::PeerDead(self.incarnation),
            Role::Media => Wakeup::MediaDead(self.name.clone(), self.incarnation),
        }
    }
}

impl Links {
    pub(super) fn new(hello: Hello, secrets: Secrets, wakeups: mpsc::Sender<Wakeup>) -> Self {
        let room = Arc::new(Semaphore::new(LINKS));
        let greetings = Arc::new(Semaphore::new(GREETINGS));
        Self { hello, secrets, wakeups, numbers: Arc::default(), room, greetings }
    }

    /// Accepts links for as long as the worker lives.
    pub(super) async fn accept(self, listener: TcpListener) {
        loop {
            let Ok(greeting) = Arc::clone(&self.greetings).acquire_owned().await else { return };
            let accepted = tokio::select! {
                // A port that somebody listens at is that of a node that lives.
                () = self.wakeups.closed() => return,
                accepted = listener.accept() => accepted,
            };
            let Ok((stream, _)) = accepted else {
                // Out of descriptors or the like: what holds them may end.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let links = self.clone();
            tokio::spawn(async move {
                let accepted =
                    control_link::accept(stream, links.hello.clone(), &links.secrets).await;
                drop(greeting);
                match accepted {
                    Ok(link) if links.is_own(&link) => {}
                    Ok(link) => {
                        let Ok(_room) = Arc::clone(&links.room).try_acquire_owned() else {
                            return tracing::warn!(
                                "{LINKS} control links are up: one more refused"
                            );
                        };
                        links.serve(link).await;
                    }
                    Err(error) => tracing::warn!("a control link was refused: {error}"),
                }
            });
        }
    }

    /// A link to a peer that has none yet.
    pub(super) async fn dial(self, peer: PeerAddress) {
        for address in &peer.control {
            match control_link::dial(*address, self.hello.clone(), &self.secrets).await {
                Ok(link) if self.is_own(&link) => {}
                Ok(link) if link.peer.role == Role::Signaling && link.peer.name == peer.name => {
                    return self.serve(link).await;
                }
                Ok(_) => {}
                Err(error) => tracing::debug!(peer = %peer.name, "no link to {address}: {error}"),
            }
        }
        let _ = self.wakeups.send(Wakeup::NotDialled(peer.incarnation)).await;
    }

    /// The link to a node broke: does it live? Nobody who listens, or another start of it, is proof that it does not.
    /// Silence is none. A media node of which only the control channel is cut answers on its RTP ports.
    pub(super) async fn judge(self, peer: PeerAddress) {
        for _ in 0..TRIES {
            let mut refused = !peer.control.is_empty();
            for address in &peer.control {
                match control_link::dial(*address, self.hello.clone(), &self.secrets).await {
                    Ok(link) => {
                        let same = link.peer.name == peer.name;
                        let lives = same && link.peer.incarnation == peer.incarnation;
                        if !lives {
                            let _ = self.wakeups.send(peer.is_dead()).await;
                        } else if peer.role == Role::Media {
                            let _ = self.wakeups.send(Wakeup::MediaLives(peer.name)).await;
                            return;
                        }
                        // A media node that lives dials by itself.
                        if same && link.peer.role == Role::Signaling && !self.is_own(&link) {
                            self.serve(link).await;
                        }
                        return;
                    }
                    Err(LinkError::Io(error)) if is_refusal(&error) => {}
                    Err(_) => refused = false,
                }
            }
            if refused {
                let _ = self.wakeups.send(peer.is_dead()).await;
                return;
            }
            if answers(&peer.probes).await {
                let _ = self.wakeups.send(Wakeup::MediaLives(peer.name)).await;
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
        let _ = self.wakeups.send(Wakeup::NotDialled(peer.incarnation)).await;
    }

    /// We dialled ourselves: a peer, or a former start of ours, had the port before us.
    fn is_own(&self, link: &ControlLink) -> bool {
        link.peer.role == Role::Signaling && link.peer.incarnation == self.hello.incarnation
    }

    async fn serve(self, link: ControlLink) {
        let ControlLink { mut peer, remote, sender, mut receiver, rtt_us, mut silent } = link;
        // Who listens on all addresses is reached at the one that it has for us.
        for address in peer.control.iter_mut().filter(|address| address.ip().is_unspecified()) {
            address.set_ip(remote.ip());
        }
        let number: LinkNumber = self.numbers.fetch_add(1, Ordering::Relaxed) + 1;
        let (name, role) = (peer.name.clone(), peer.role);
        tracing::info!(node = %name, %remote, "{role:?} node {name} has a link with us");
        let up = Wakeup::LinkUp { number, hello: peer, sender, rtt_us };
        if self.wakeups.send(up).await.is_err() {
            return;
        }
        loop {
            let wakeup = tokio::select! {
                frame = receiver.recv() => match frame {
                    Some(frame) => Wakeup::Frame(number, Box::new(frame)),
                    None => break,
                },
                Ok(()) = silent.changed() => {
                    Wakeup::LinkSilent(number, *silent.borrow_and_update())
                }
            };
            if self.wakeups.send(wakeup).await.is_err() {
                return;
            }
        }
        // The worker may be gone already.
        let _ = self.wakeups.send(Wakeup::LinkDown(number)).await;
    }
}

/// One of them answers a Binding request in time.
pub(super) async fn answers(probes: &[SocketAddr]) -> bool {
    let transaction: [u8; 12] = rand::random();
    let Some(first) = probes.first() else { return false };
    let any = match first {
        SocketAddr::V4(_) => SocketAddr::from((core::net::Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((core::net::Ipv6Addr::UNSPECIFIED, 0)),
    };
    let Ok(socket) = UdpSocket::bind(any).await else { return false };
    let ask = async {
        loop {
            for probe in probes {
                // One that cannot be sent is one that is not answered.
                let _ = socket.send_to(&stun::request(transaction), probe).await;
            }
            tokio::time::sleep(PROBED_EVERY).await;
        }
    };
    let answered = async {
        let mut buffer = [0; 128];
        loop {
            // Errors are ICMP of the others.
            if let Ok((length, _)) = socket.recv_from(&mut buffer).await
                && buffer.get(..length).is_some_and(|came| stun::is_answer_to(transaction, came))
            {
                return;
            }
        }
    };
    let asked = async {
        tokio::select! {
            () = ask => {}
            () = answered => {}
        }
    };
    tokio::time::timeout(PROBE_PATIENCE, asked).await.is_ok()
}

/// The kernel there says that nobody listens.
fn is_refusal(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::ConnectionRefused
}
