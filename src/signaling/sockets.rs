//! SIP sockets of a node: a UDP endpoint an address, TCP connections, and which of them a message leaves by.

use super::siblings::Estate;
use crate::ids::{ConnectionId, Flow, Incarnation, NodeName, Transport};
use crate::net::dns::Resolver;
use crate::net::local_address::{addresses_of_this_host, is_of_this_host, local_address_towards};
use crate::net::tcp::{Connections, TcpEndpoint, TcpEvent};
use crate::net::udp::{self, Datagram, UdpEndpoint, UdpMeter};
use bytes::Bytes;
use core::net::{IpAddr, SocketAddr};
use std::collections::HashSet;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// A port that the kernel chooses for UDP may be taken for TCP: other ones are tried.
const PORT_TRIES: usize = 16;
/// Events of connections taken in one turn.
const TCP_BATCH: usize = 64;

/// Bound sockets, and what waits to leave in one batch.
#[derive(Debug)]
pub(super) struct Sockets {
    udp: Vec<UdpEndpoint>,
    outgoing: Vec<Vec<(Flow, Bytes)>>,
    /// Of siblings that do not read them.
    covered: Vec<(Incarnation, UdpEndpoint)>,
    /// Which of them is read first.
    first_read: usize,
    /// A sibling reads ours.
    is_left: bool,
    tcp: TcpEndpoint,
    resolver: Resolver,
    driven: Option<Driven>,
}

/// The driver of the node is its network.
#[derive(Debug, Default)]
pub(super) struct Driven {
    /// What was sent since the driver looked.
    pub sent: Vec<(Flow, Bytes)>,
    /// Connections that are there.
    pub open: HashSet<ConnectionId>,
    /// Addresses of the node; none: every address is one.
    pub local: Vec<SocketAddr>,
}

impl Driven {
    fn is_here(&self, local: SocketAddr) -> bool {
        self.local.is_empty() || self.local.contains(&local)
    }
}

/// What came in one turn.
#[derive(Debug, Default)]
pub(super) struct Received {
    pub datagrams: Vec<Datagram>,
    pub streams: Vec<TcpEvent>,
}

impl Received {
    /// There is probably more.
    pub(super) fn is_full(&self) -> bool {
        self.datagrams.len() >= udp::BATCH || self.streams.len() >= TCP_BATCH
    }
}

impl Sockets {
    /// Binds every address, for UDP and TCP.
    pub(super) fn bind(
        addresses: &[SocketAddr],
        first: ConnectionId,
    ) -> Result<Self, (SocketAddr, io::Error)> {
        let (mut udp, mut tcp) = (Vec::new(), TcpEndpoint::new(first));
        for address in addresses {
            udp.push(bind_both(*address, &mut tcp).map_err(|error| (*address, error))?);
        }
        let outgoing = udp.iter().map(|_| Vec::new()).collect();
        let (covered, is_left) = (Vec::new(), false);
        let resolver = Resolver::new();
        let first_read = 0;
        Ok(Self { udp, outgoing, covered, first_read, is_left, tcp, resolver, driven: None })
    }

    /// None at all.
    pub(super) fn driven() -> Self {
        Self {
            udp: Vec::new(),
            outgoing: Vec::new(),
            covered: Vec::new(),
            first_read: 0,
            is_left: false,
            tcp: TcpEndpoint::new(ConnectionId(0)),
            resolver: Resolver::none(),
            driven: Some(Driven::default()),
        }
    }

    /// What the driver has of it.
    pub(super) fn driver(&mut self) -> &mut Driven {
        self.driven.get_or_insert_default()
    }

    /// What was bound.
    pub(super) fn local(&self) -> Vec<SocketAddr> {
        match &self.driven {
            Some(driven) => driven.local.clone(),
            None => self.udp.iter().map(UdpEndpoint::local).collect(),
        }
    }

    /// What they count.
    pub(super) fn meters(&self) -> (Vec<Arc<UdpMeter>>, Connections) {
        let udp = self.udp.iter().map(|endpoint| endpoint.meter().clone()).collect();
        (udp, self.tcp.connections().clone())
    }

    /// Transports and addresses, for people.
    pub(super) fn listeners(&self) -> Vec<(Transport, SocketAddr)> {
        let udp = self.local().into_iter().map(|bound| (Transport::Udp, bound));
        udp.chain(self.tcp.local().iter().map(|bound| (Transport::Tcp, *bound))).collect()
    }

    /// Waits for datagrams of any socket, or events of any connection. Another socket is the first each time: one that
    /// is never empty leaves the others their turn.
    pub(super) async fn receive(&mut self, out: &mut Received) -> io::Result<()> {
        self.first_read = self.first_read.wrapping_add(1);
        let udp = readers(self.is_left, self.first_read, &mut self.udp, &mut self.covered);
        let tcp = &mut self.tcp;
        tokio::select! {
            result = receive_datagrams(udp, &mut out.datagrams) => result,
            _ = tcp.events(&mut out.streams, TCP_BATCH) => Ok(()),
        }
    }

    /// What is there already, without waiting; as much as a turn takes. An error is told by the next `receive`.
    pub(super) fn receive_more(&mut self, out: &mut Received) {
        for endpoint in readers(self.is_left, self.first_read, &mut self.udp, &mut self.covered) {
            if out.datagrams.len() < udp::BATCH {
                endpoint.recv_ready(&mut out.datagrams);
            }
        }
        self.tcp.ready_events(&mut out.streams, TCP_BATCH);
    }

    /// Takes a message for its flow. False: its connection is gone, or the address is not ours.
    pub(super) fn send(&mut self, flow: Flow, bytes: Bytes) -> bool {
        if let Some(driven) = &mut self.driven {
            let is_open = match flow.connection {
                Some(id) => driven.open.contains(&id),
                None => driven.is_here(flow.local),
            };
            if is_open {
                driven.sent.push((flow, bytes));
            }
            return is_open;
        }
        match flow.transport {
            Transport::Udp => {
                let at = self.udp_for(flow.local);
                let Some(batch) = at.and_then(|at| self.outgoing.get_mut(at)) else { return false };
                batch.push((flow, bytes));
                true
            }
            Transport::Tcp => self.tcp.connections().send(&flow, bytes),
            Transport::Tls | Transport::Ws | Transport::Wss => false,
        }
    }

    /// Lets everything leave that was sent since the last time.
    pub(super) fn flush(&mut self) {
        for (endpoint, batch) in self.udp.iter_mut().zip(&mut self.outgoing) {
            if !batch.is_empty() {
                endpoint.send_batch(batch);
                batch.clear();
            }
        }
    }

    /// What a sibling is given of these.
    pub(super) fn estate(&self, node: NodeName, incarnation: Incarnation) -> io::Result<Estate> {
        let udp = self.udp.iter().map(|endpoint| Ok((endpoint.local(), endpoint.share()?)));
        Ok(Estate {
            node,
            incarnation,
            udp: udp.collect::<io::Result<_>>()?,
            listeners: self.tcp.shared_listeners()?,
            connections: self.tcp.connections().clone(),
        })
    }

    /// Reads a sibling's datagrams too.
    pub(super) fn cover(&mut self, sibling: Incarnation, sockets: Vec<OwnedFd>) {
        let endpoints = sockets.into_iter().filter_map(|one| UdpEndpoint::shared_by(one).ok());
        self.covered.extend(endpoints.map(|endpoint| (sibling, endpoint)));
    }

    /// Does so no more.
    pub(super) fn uncover(&mut self, sibling: Incarnation) {
        self.covered.retain(|(of, _)| *of != sibling);
    }

    /// A sibling reads ours, or we do again.
    pub(super) fn leave(&mut self, is_left: bool) {
        self.is_left = is_left;
        match is_left {
            true => self.tcp.stop_accepting(),
            false => {
                if let Err(error) = self.tcp.accept_again() {
                    tracing::error!("no connection is accepted any more: {error}");
                }
            }
        }
    }

    /// Any is open.
    pub(super) fn has_connections(&self) -> bool {
        self.tcp.connections().count() > 0
    }

    /// This process has that connection.
    pub(super) fn holds(&self, connection: ConnectionId) -> bool {
        match &self.driven {
            Some(driven) => driven.open.contains(&connection),
            None => self.tcp.connections().holds(connection),
        }
    }

    fn udp_for(&self, local: SocketAddr) -> Option<usize> {
        let exact = self.udp.iter().position(|endpoint| endpoint.local() == local);
        exact.or_else(|| {
            self.udp.iter().position(|endpoint| {
                let bound = endpoint.local();
                bound.is_ipv4() == local.is_ipv4()
                    && bound.ip().is_unspecified()
                    && bound.port() == local.port()
                    && is_of_this_host(local.ip())
            })
        })
    }

    /// What is sent from that address can be sent from here.
    pub(super) fn is_here(&self, local: SocketAddr) -> bool {
        match &self.driven {
            Some(driven) => driven.is_here(local),
            None => self.udp_for(local).is_some(),
        }
    }

    /// The concrete addresses that phones may know us by.
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        let concrete = |bound: SocketAddr| match bound.ip().is_unspecified() {
            false => vec![bound],
            true => {
                let own = addresses_of_this_host().into_iter();
                let own = own.filter(|ip| ip.is_ipv4() == bound.is_ipv4());
                own.map(|ip| SocketAddr::new(ip, bound.port())).collect()
            }
        };
        self.local().into_iter().flat_map(concrete).collect()
    }

    /// The flow of a datagram from here to that address.
    pub(super) fn udp_flow(&self, remote: SocketAddr) -> Option<Flow> {
        udp_flow(&self.local(), remote)
    }

    /// What finds flows to names, for tasks.
    pub(super) fn dialer(&self) -> Dialer {
        Dialer {
            bound: self.local(),
            connections: self.tcp.connections().clone(),
            resolver: self.resolver.clone(),
        }
    }
}

/// Sockets that are read here, our own and those of siblings, from that one on.
fn readers<'a>(
    is_left: bool,
    first: usize,
    own: &'a mut [UdpEndpoint],
    covered: &'a mut [(Incarnation, UdpEndpoint)],
) -> Vec<&'a mut UdpEndpoint> {
    let own = own.iter_mut().filter(|_| !is_left);
    let covered = covered.iter_mut().map(|(_, endpoint)| endpoint);
    let mut readers: Vec<_> = own.chain(covered).collect();
    let count = readers.len().max(1);
    readers.rotate_left(first % count);
    readers
}

/// UDP and TCP on one port, which phones expect of a SIP server.
fn bind_both(address: SocketAddr, tcp: &mut TcpEndpoint) -> io::Result<UdpEndpoint> {
    let mut tries = if address.port() == 0 { PORT_TRIES } else { 1 };
    loop {
        let udp = UdpEndpoint::bind(address)?;
        tries -= 1;
        match tcp.listen(udp.local()) {
            Ok(()) => return Ok(udp),
            Err(error) if tries == 0 || error.kind() != io::ErrorKind::AddrInUse => {
                return Err(error);
            }
            Err(_) => {}
        }
    }
}

async fn receive_datagrams(
    mut udp: Vec<&mut UdpEndpoint>,
    out: &mut Vec<Datagram>,
) -> io::Result<()> {
    match &mut udp[..] {
        [] => core::future::pending().await,
        [one] => one.recv_batch(out).await,
        many => {
            let mut buffers: Vec<Vec<Datagram>> = many.iter().map(|_| Vec::new()).collect();
            let waits = many
                .iter_mut()
                .zip(&mut buffers)
                .map(|(endpoint, buffer)| Box::pin(endpoint.recv_batch(buffer)));
            let (result, ..) = futures_util::future::select_all(waits).await;
            out.extend(buffers.into_iter().flatten());
            result
        }
    }
}

/// Finds flows to names.
#[derive(Clone, Debug)]
pub(super) struct Dialer {
    bound: Vec<SocketAddr>,
    connections: Connections,
    resolver: Resolver,
}

impl Dialer {
    /// The first address of a name that can be reached (RFC 3263 §4).
    pub(super) async fn reach(
        &self,
        host: &str,
        port: Option<u16>,
        transport: Option<Transport>,
    ) -> Option<Flow> {
        for (transport, remote) in self.resolver.resolve(host, port, transport).await {
            let flow = match transport {
                Transport::Udp => udp_flow(&self.bound, remote),
                Transport::Tcp => self.tcp_flow(remote).await,
                Transport::Tls | Transport::Ws | Transport::Wss => None,
            };
            if flow.is_some() {
                return flow;
            }
        }
        None
    }

    async fn tcp_flow(&self, remote: SocketAddr) -> Option<Flow> {
        let port = bound_towards(&self.bound, remote)?.port();
        self.connections.connect(remote, port).await.ok()
    }
}

/// The flow of a datagram to an address.
fn udp_flow(bound: &[SocketAddr], remote: SocketAddr) -> Option<Flow> {
    let bound = bound_towards(bound, remote)?;
    let ip: IpAddr = match bound.ip() {
        ip if ip.is_unspecified() => local_address_towards(remote.ip())?,
        ip => ip,
    };
    let local = SocketAddr::new(ip, bound.port());
    Some(Flow { transport: Transport::Udp, local, remote, connection: None })
}

fn bound_towards(bound: &[SocketAddr], remote: SocketAddr) -> Option<&SocketAddr> {
    bound.iter().find(|bound| bound.is_ipv4() == remote.is_ipv4())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    #[tokio::test]
    async fn a_flooded_socket_leaves_the_others_their_turn() {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut sockets = Sockets::bind(&[any, any], ConnectionId(0)).expect("free ports");
        let (flooded, quiet) = (sockets.local()[0], sockets.local()[1]);
        let phone = UdpSocket::bind(any).expect("a free port");
        for _ in 0..udp::BATCH * 4 {
            phone.send_to(b"again", flooded).expect("sent");
        }
        phone.send_to(b"once", quiet).expect("sent");
        let (mut came, mut all) = (Received::default(), Vec::new());
        for _ in 0..2 {
            sockets.receive(&mut came).await.expect("readable");
            sockets.receive_more(&mut came);
            all.append(&mut came.datagrams);
        }
        let of = |local| all.iter().filter(|one| one.flow.local == local).count();
        assert!(of(flooded) >= udp::BATCH && of(quiet) == 1, "{} {}", of(flooded), of(quiet));
    }
}
