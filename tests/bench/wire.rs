//! UDP in batches, each datagram with the kernel's time of arrival, so that a generator may sleep and still tell latencies.

use super::clock::{self, Nanos};
use super::world::own_ip;
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, setsockopt, sockopt,
};
use nix::sys::time::TimeSpec;
use std::io::IoSliceMut;
use std::net::{SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd as _;

const BATCH: usize = 64;
const DATAGRAM_BYTES: usize = 4_096;
/// What waits while the generator sleeps.
const BUFFER_BYTES: usize = 8 * 1024 * 1024;

/// A socket of one or more phones.
pub(crate) struct Wire {
    socket: UdpSocket,
    pub(crate) port: u16,
}

/// What a read needs; one serves all wires of a thread.
pub(crate) struct Reader {
    headers: MultiHeaders<SockaddrIn>,
    arena: Vec<u8>,
}

impl Wire {
    pub(crate) fn new() -> Self {
        Self::of(UdpSocket::bind((own_ip(), 0)).expect("a port"))
    }

    /// At this port, if nobody has it.
    pub(crate) fn at(port: u16) -> Option<Self> {
        UdpSocket::bind((own_ip(), port)).ok().map(Self::of)
    }

    fn of(socket: UdpSocket) -> Self {
        socket.set_nonblocking(true).expect("a flag");
        setsockopt(&socket, sockopt::ReceiveTimestampns, &true).expect("every Linux has it");
        // Beyond net.core.rmem_max where we may.
        if setsockopt(&socket, sockopt::RcvBufForce, &BUFFER_BYTES).is_err() {
            let _ = setsockopt(&socket, sockopt::RcvBuf, &BUFFER_BYTES);
        }
        let port = socket.local_addr().expect("bound").port();
        Self { socket, port }
    }

    pub(crate) fn send(&self, bytes: &[u8], to: SocketAddrV4) {
        // What the kernel does not take is lost, and counted as such by its absence.
        let _ = self.socket.send_to(bytes, to);
    }
}

impl Reader {
    pub(crate) fn new() -> Self {
        let space = nix::cmsg_space!(TimeSpec);
        let headers = MultiHeaders::preallocate(BATCH, Some(space));
        Self { headers, arena: vec![0; BATCH * DATAGRAM_BYTES] }
    }

    /// All that has come.
    pub(crate) fn read(&mut self, wire: &Wire, mut each: impl FnMut(&[u8], SocketAddrV4, Nanos)) {
        let descriptor = wire.socket.as_raw_fd();
        loop {
            let chunks = self.arena.chunks_exact_mut(DATAGRAM_BYTES);
            let mut slices: Vec<_> = chunks.map(|chunk| [IoSliceMut::new(chunk)]).collect();
            let flags = MsgFlags::MSG_DONTWAIT;
            let read = recvmmsg(descriptor, &mut self.headers, slices.iter_mut(), flags, None);
            // Nothing there, or an ICMP error of something sent before.
            let Ok(messages) = read else { return };
            let mut count = 0;
            for message in messages {
                count += 1;
                let stamp = message.cmsgs().ok().and_then(|mut all| all.find_map(stamp));
                let bytes = message.iovs().next().unwrap_or_default();
                if let Some(from) = message.address {
                    each(bytes, from.into(), stamp.unwrap_or_else(clock::now));
                }
            }
            if count < BATCH {
                return;
            }
        }
    }
}

fn stamp(message: ControlMessageOwned) -> Option<Nanos> {
    let ControlMessageOwned::ScmTimestampns(time) = message else { return None };
    Some(clock::nanos(time))
}
