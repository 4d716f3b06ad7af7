//! One UDP port of a media stream: non-blocking, marked EF, with room for bursts.

use super::dscp::Dscp;
use core::net::SocketAddr;
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::UdpSocket;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A second of eight phones' packets, should the worker be late.
const RECEIVE_BUFFER_BYTES: usize = 256 * 1024;

/// A bound port.
#[derive(Debug)]
pub struct RtpSocket(UdpSocket);

impl RtpSocket {
    /// Binds exactly this port; nobody else may have it.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        // Non-blocking from the first: four sockets a call, each question to the kernel counts.
        let kind = Type::DGRAM.nonblocking();
        let socket = Socket::new(Domain::for_address(address), kind, Some(Protocol::UDP))?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        // Marks are best effort: not every host lets us.
        let _ = Dscp::Ef.mark(&socket, address);
        let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES);
        socket.bind(&address.into())?;
        Ok(Self(socket.into()))
    }

    /// A datagram, `None` when there is none now. Errors of earlier sends (ICMP) are no reason to stop.
    pub fn receive(&self, buffer: &mut [u8]) -> Option<(usize, SocketAddr)> {
        for _ in 0..4 {
            match self.0.recv_from(buffer) {
                Ok(received) => return Some(received),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                Err(_) => {}
            }
        }
        None
    }

    /// Sends, or loses the packet as a network would.
    pub fn send(&self, packet: &[u8], to: SocketAddr) -> bool {
        self.0.send_to(packet, to).is_ok()
    }

    /// What was bound.
    pub fn local(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

impl From<OwnedFd> for RtpSocket {
    /// A socket that another process bound: its options come with it.
    fn from(descriptor: OwnedFd) -> Self {
        Self(descriptor.into())
    }
}

impl AsFd for RtpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
