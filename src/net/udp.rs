//! SIP over UDP (RFC 3261 §18): one socket of one address family, read and written in batches.
//!
//! Invariants: `Flow::local` is the concrete address a datagram came to, never the unspecified one; what is sent on a
//! flow leaves from that address; no error of one datagram, and no ICMP, ends the loop; what the kernel has no room for
//! waits, at most `BACKLOG` datagrams.

use super::clock;
use super::dscp::Dscp;
pub use super::local_address::local_address_towards;
use super::socket_memory::SocketMemory;
use crate::ids::{Flow, Transport};
use crate::time::Timestamp;
use bytes::Bytes;
use core::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6};
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;
use core::time::Duration;
use nix::errno::Errno;
use nix::libc::{in_addr, in_pktinfo, in6_addr, in6_pktinfo};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg,
    sendmmsg, setsockopt, sockopt,
};
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd as _, AsRawFd, OwnedFd};
use std::sync::Arc;
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// Datagrams a system call.
pub const BATCH: usize = 64;
/// Datagrams that wait until the kernel has room; above it the newest are dropped and counted.
const BACKLOG: usize = 8_192;
/// The largest datagram.
const DATAGRAM_BYTES: usize = 65_535;
/// How often the kernel is asked what it dropped.
const LOOK: Duration = Duration::from_secs(1);
/// Asked of the kernel for what arrives while we compute; it may grant less (net.core.rmem_max).
const RECEIVE_BUFFER_BYTES: usize = 8 * 1024 * 1024;
const SEND_BUFFER_BYTES: usize = 4 * 1024 * 1024;

/// A datagram and how to answer it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// Its payload.
    pub bytes: Bytes,
    /// From where to which of our addresses.
    pub flow: Flow,
}

/// What an endpoint counted since it was bound, for others to read.
#[derive(Debug, Default)]
pub struct UdpMeter {
    /// Datagrams read.
    pub received: AtomicU64,
    /// Datagrams taken by the kernel.
    pub sent: AtomicU64,
    /// Not sent: no route, too large, refused by a firewall.
    pub send_errors: AtomicU64,
    /// Not sent: more than the bound waited.
    pub overflowed: AtomicU64,
    /// Dropped by the kernel for want of room; looked at once a second while something comes.
    pub dropped: AtomicU64,
    /// What the kernel granted; below what was asked for bursts may be lost (net.core.rmem_max).
    pub receive_buffer_bytes: AtomicU64,
}

/// A bound SIP socket. Lives on the thread that made it.
#[derive(Debug)]
pub struct UdpEndpoint {
    socket: UdpSocket,
    local: SocketAddr,
    received: MultiHeaders<SockaddrStorage>,
    sent: MultiHeaders<SockaddrStorage>,
    arena: Box<[u8]>,
    backlog: VecDeque<(Flow, Bytes)>,
    meter: Arc<UdpMeter>,
    looked_at: Timestamp,
}

impl UdpEndpoint {
    /// Binds, sharing the port with other processes of this user. Needs a tokio runtime.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        socket.set_nonblocking(true)?;
        // Best effort: a marking that the kernel refuses is no reason not to serve.
        let _ = Dscp::Cs3.mark(&socket, address);
        match address {
            SocketAddr::V4(_) => setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?,
            SocketAddr::V6(_) => {
                socket.set_only_v6(true)?;
                setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?;
            }
        }
        let receive_buffer_bytes =
            enlarge_buffers(&socket, RECEIVE_BUFFER_BYTES, SEND_BUFFER_BYTES);
        socket.bind(&address.into())?;
        Self::over(socket, receive_buffer_bytes)
    }

    /// A socket that another process of this user bound in the same way, and holds too.
    pub fn shared_by(descriptor: OwnedFd) -> io::Result<Self> {
        let socket = Socket::from(descriptor);
        let receive_buffer_bytes = socket.recv_buffer_size()?;
        Self::over(socket, receive_buffer_bytes)
    }

    /// For another process of this user.
    pub fn share(&self) -> io::Result<OwnedFd> {
        self.socket.as_fd().try_clone_to_owned()
    }

    fn over(socket: Socket, receive_buffer_bytes: usize) -> io::Result<Self> {
        let local = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::InvalidInput)?;
        let space = || match local {
            SocketAddr::V4(_) => nix::cmsg_space!(in_pktinfo),
            SocketAddr::V6(_) => nix::cmsg_space!(in6_pktinfo),
        };
        let granted = AtomicU64::new(u64::try_from(receive_buffer_bytes).unwrap_or(0));
        let meter = UdpMeter { receive_buffer_bytes: granted, ..UdpMeter::default() };
        Ok(Self {
            socket: UdpSocket::from_std(socket.into())?,
            local,
            received: MultiHeaders::preallocate(BATCH, Some(space())),
            sent: MultiHeaders::preallocate(BATCH, Some(space())),
            arena: vec![0; BATCH * DATAGRAM_BYTES].into_boxed_slice(),
            backlog: VecDeque::new(),
            meter: Arc::new(meter),
            looked_at: clock::now(),
        })
    }

    /// The bound address; its IP may be unspecified.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// Counted since the bind.
    pub fn meter(&self) -> &Arc<UdpMeter> {
        &self.meter
    }

    /// Waits for datagrams and appends what came, at most `BATCH`. Sends meanwhile what waited. Cancelling loses
    /// nothing.
    pub async fn recv_batch(&mut self, out: &mut Vec<Datagram>) -> io::Result<()> {
        loop {
            let interest = if self.backlog.is_empty() {
                Interest::READABLE
            } else {
                Interest::READABLE | Interest::WRITABLE
            };
            let ready = self.socket.ready(interest).await?;
            if ready.is_writable() && !self.backlog.is_empty() {
                self.flush_backlog();
            }
            if ready.is_readable() && self.read(out)? > 0 {
                return Ok(());
            }
        }
    }

    /// What came already, at most `BATCH`; nothing when a read before found the socket empty.
    pub fn recv_ready(&mut self, out: &mut Vec<Datagram>) {
        // An error stays with the socket, or concerned one datagram.
        let _ = self.read(out);
    }

    /// One recvmmsg; 0 when there was nothing.
    fn read(&mut self, out: &mut Vec<Datagram>) -> io::Result<usize> {
        let descriptor = self.socket.as_raw_fd();
        let port = self.local.port();
        let bound = self.local.ip();
        let (received, arena) = (&mut self.received, &mut self.arena);
        let mut slices: Vec<[IoSliceMut<'_>; 1]> = Vec::new();
        let result = self.socket.try_io(Interest::READABLE, || {
            slices.extend(arena.chunks_exact_mut(DATAGRAM_BYTES).map(|one| [IoSliceMut::new(one)]));
            let flags = MsgFlags::MSG_DONTWAIT;
            Ok(recvmmsg(descriptor, received, slices.iter_mut(), flags, None)?)
        });
        let messages = match result {
            Ok(messages) => messages,
            // Nothing there, an ICMP error or a signal; the socket lives.
            Err(error) if is_passing(&error) => return Ok(0),
            Err(error) => return Err(error),
        };
        let mut count = 0;
        for message in messages {
            count += 1;
            let Some(remote) = message.address.and_then(to_socket_addr) else { continue };
            let destination =
                message.cmsgs().ok().and_then(|mut all| all.find_map(|one| destination(&one)));
            let ip = if bound.is_unspecified() { destination } else { Some(bound) };
            let Some(ip) = ip.or_else(|| local_address_towards(remote.ip())) else { continue };
            let Some(bytes) = message.iovs().next() else { continue };
            let local = SocketAddr::new(ip, port);
            let flow = Flow { transport: Transport::Udp, local, remote, connection: None };
            out.push(Datagram { bytes: Bytes::copy_from_slice(bytes), flow });
        }
        self.meter.received.fetch_add(count as u64, Relaxed);
        let now = clock::now();
        if now.saturating_since(self.looked_at) >= LOOK {
            self.looked_at = now;
            self.count_drops();
        }
        if count < BATCH {
            // Empty: the runtime is told, which saves a read that would find nothing.
            let empty = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
            let _ = self.socket.try_io(Interest::READABLE, empty);
        }
        Ok(count)
    }

    fn count_drops(&self) {
        if let Some(memory) = SocketMemory::of(&self.socket) {
            self.meter.dropped.store(memory.drops.into(), Relaxed);
        }
    }

    /// Sends, each from its flow's local address. What the kernel has no room for goes out from `recv_batch`.
    pub fn send_batch(&mut self, batch: &[(Flow, Bytes)]) {
        let taken = if self.backlog.is_empty() { self.send_now(batch) } else { 0 };
        let room = BACKLOG.saturating_sub(self.backlog.len());
        let rest = batch.get(taken..).unwrap_or_default();
        self.backlog.extend(rest.iter().take(room).cloned());
        let dropped = rest.len().saturating_sub(room) as u64;
        self.meter.overflowed.fetch_add(dropped, Relaxed);
    }

    /// Datagrams that wait for the kernel.
    pub fn backlog(&self) -> usize {
        self.backlog.len()
    }

    fn flush_backlog(&mut self) {
        let waiting: Vec<_> = self.backlog.drain(..).collect();
        let taken = self.send_now(&waiting);
        self.backlog.extend(waiting.into_iter().skip(taken));
    }

    /// Sends until the kernel says that it is full; returns how many are done with.
    fn send_now(&mut self, batch: &[(Flow, Bytes)]) -> usize {
        let mut done = 0;
        while let Some((first, _)) = batch.get(done) {
            let source = first.local.ip();
            let rest = batch.get(done..).unwrap_or_default();
            // One control message serves a whole call: take the run that shares a source.
            let run =
                rest.iter().take(BATCH).take_while(|(flow, _)| flow.local.ip() == source).count();
            match self.send_run(source, rest.get(..run).unwrap_or_default()) {
                Ok(sent) => {
                    done += sent.max(1);
                    self.meter.sent.fetch_add(sent as u64, Relaxed);
                }
                Err(Errno::EAGAIN | Errno::ENOBUFS) => return done,
                Err(Errno::EINTR) => {}
                // An earlier datagram's ICMP error may be told here: the one at hand gets a second chance.
                Err(_) => {
                    if self.send_run(source, rest.get(..1).unwrap_or_default()) == Ok(1) {
                        self.meter.sent.fetch_add(1, Relaxed);
                    } else {
                        self.meter.send_errors.fetch_add(1, Relaxed);
                    }
                    done += 1;
                }
            }
        }
        done
    }

    fn send_run(&mut self, source: IpAddr, run: &[(Flow, Bytes)]) -> Result<usize, Errno> {
        let descriptor = self.socket.as_raw_fd();
        let slices: Vec<[IoSlice<'_>; 1]> =
            run.iter().map(|(_, bytes)| [IoSlice::new(bytes)]).collect();
        let addresses: Vec<Option<SockaddrStorage>> =
            run.iter().map(|(flow, _)| Some(flow.remote.into())).collect();
        let (v4, v6);
        let control = match source {
            IpAddr::V4(ip) => {
                v4 = packet_info_v4(ip);
                [ControlMessage::Ipv4PacketInfo(&v4)]
            }
            IpAddr::V6(ip) => {
                v6 = packet_info_v6(ip);
                [ControlMessage::Ipv6PacketInfo(&v6)]
            }
        };
        if source.is_ipv4() != self.local.is_ipv4() {
            return Err(Errno::EAFNOSUPPORT);
        }
        let flags = MsgFlags::MSG_DONTWAIT;
        let result = sendmmsg(descriptor, &mut self.sent, &slices, &addresses, control, flags)
            .map(Iterator::count);
        if result == Err(Errno::EAGAIN) {
            // Tells the runtime to wait for room.
            let full = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
            let _ = self.socket.try_io(Interest::WRITABLE, full);
        }
        result
    }
}

/// Enlarges both buffers as far as the kernel allows; returns the receive buffer in effect.
pub(super) fn enlarge_buffers(socket: &Socket, receive_bytes: usize, send_bytes: usize) -> usize {
    // The kernel clamps instead of refusing; a refusal leaves the default.
    let _ = socket.set_recv_buffer_size(receive_bytes);
    let _ = socket.set_send_buffer_size(send_bytes);
    socket.recv_buffer_size().unwrap_or(0)
}

/// Errors that concern one datagram or one moment, not the socket.
fn is_passing(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    let passing = [
        Errno::EINTR,
        Errno::ECONNREFUSED,
        Errno::EHOSTUNREACH,
        Errno::ENETUNREACH,
        Errno::ENOBUFS,
        Errno::ENOMEM,
    ];
    error.kind() == io::ErrorKind::WouldBlock || errno.is_some_and(|errno| passing.contains(&errno))
}

fn destination(message: &ControlMessageOwned) -> Option<IpAddr> {
    let ip: IpAddr = match message {
        ControlMessageOwned::Ipv4PacketInfo(info) => {
            u32::from_be(info.ipi_spec_dst.s_addr).to_be_bytes().into()
        }
        ControlMessageOwned::Ipv6PacketInfo(info) => info.ipi6_addr.s6_addr.into(),
        _ => return None,
    };
    (!ip.is_unspecified()).then_some(ip)
}

fn packet_info_v4(source: core::net::Ipv4Addr) -> in_pktinfo {
    let source = in_addr { s_addr: u32::from_be_bytes(source.octets()).to_be() };
    in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: source, ipi_addr: in_addr { s_addr: 0 } }
}

fn packet_info_v6(source: core::net::Ipv6Addr) -> in6_pktinfo {
    in6_pktinfo { ipi6_addr: in6_addr { s6_addr: source.octets() }, ipi6_ifindex: 0 }
}

fn to_socket_addr(address: SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = address.as_sockaddr_in() {
        return Some(SocketAddrV4::from(*v4).into());
    }
    address.as_sockaddr_in6().map(|v6| SocketAddrV6::from(*v6).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    fn endpoint(address: &str) -> UdpEndpoint {
        UdpEndpoint::bind(address.parse().expect("literal")).expect("bind")
    }

    #[tokio::test]
    async fn replies_leave_from_the_address_a_request_came_to() {
        // (bound to, phone's socket, address the phone sends to)
        let table = [
            ("0.0.0.0:0", "127.0.0.1:0", "127.0.0.7"),
            ("127.0.0.1:0", "127.0.0.1:0", "127.0.0.1"),
            ("[::]:0", "[::1]:0", "::1"),
        ];
        for (bound, phone, destination) in table {
            let mut endpoint = endpoint(bound);
            assert!(endpoint.meter().receive_buffer_bytes.load(Relaxed) > 0);
            let to =
                SocketAddr::new(destination.parse().expect("literal"), endpoint.local().port());
            let phone = UdpSocket::bind(phone).expect("bind");
            for round in 0..2 {
                for number in 0..100_u8 {
                    phone.send_to(&[number], to).expect("sent");
                }
                let mut datagrams = Vec::new();
                while datagrams.len() < 100 {
                    endpoint.recv_batch(&mut datagrams).await.expect("alive");
                }
                let first = &datagrams[0];
                assert_eq!(
                    (first.flow.local, first.flow.remote),
                    (to, phone.local_addr().expect("bound"))
                );
                assert!(
                    datagrams.iter().enumerate().all(|(i, d)| d.bytes[..] == [i as u8]),
                    "{round}"
                );
                let replies: Vec<_> =
                    datagrams.into_iter().map(|datagram| (datagram.flow, datagram.bytes)).collect();
                endpoint.send_batch(&replies);
                let mut buffer = [0; 16];
                for number in 0..100_u8 {
                    let (length, source) = phone.recv_from(&mut buffer).expect("a reply");
                    assert_eq!((&buffer[..length], source), (&[number][..], to));
                }
            }
        }
    }

    #[tokio::test]
    async fn what_cannot_be_sent_costs_only_itself() {
        let mut endpoint = endpoint("127.0.0.1:0");
        let phone = UdpSocket::bind("127.0.0.1:0").expect("bind");
        let closed = UdpSocket::bind("127.0.0.1:0").expect("bind").local_addr().expect("bound");
        let flow = |remote| Flow {
            transport: Transport::Udp,
            local: endpoint.local(),
            remote,
            connection: None,
        };
        let to_phone = flow(phone.local_addr().expect("bound"));
        let large = Bytes::from(vec![0; 70_000]);
        let batch = [
            (flow(closed), Bytes::from_static(b"icmp comes back")),
            (to_phone, large),
            (flow("[::1]:9".parse().expect("literal")), Bytes::from_static(b"wrong family")),
            (to_phone, Bytes::from_static(b"arrives")),
        ];
        for _ in 0..2 {
            endpoint.send_batch(&batch);
            let mut buffer = [0; 16];
            let (length, _) = phone.recv_from(&mut buffer).expect("arrives");
            assert_eq!(&buffer[..length], b"arrives");
        }
        assert_eq!(endpoint.meter().send_errors.load(Relaxed), 4);
        phone.send_to(b"still here", endpoint.local()).expect("sent");
        let mut datagrams = Vec::new();
        endpoint.recv_batch(&mut datagrams).await.expect("alive");
        assert_eq!(&datagrams[0].bytes[..], b"still here");
    }

    #[tokio::test]
    async fn a_burst_larger_than_the_kernels_buffer_waits() {
        let mut endpoint = endpoint("127.0.0.1:0");
        socket2::SockRef::from(&endpoint.socket).set_send_buffer_size(1).expect("set");
        let flow = Flow {
            transport: Transport::Udp,
            local: endpoint.local(),
            remote: endpoint.local(),
            connection: None,
        };
        let batch = vec![(flow, Bytes::from(vec![7; 1_000])); BACKLOG + BATCH];
        endpoint.send_batch(&batch);
        assert!(endpoint.backlog() <= BACKLOG);
        let mut datagrams = Vec::new();
        while endpoint.backlog() > 0 {
            datagrams.clear();
            endpoint.recv_batch(&mut datagrams).await.expect("alive");
        }
        let meter = endpoint.meter();
        let told = meter.sent.load(Relaxed) + meter.overflowed.load(Relaxed);
        assert_eq!(told, batch.len() as u64);
    }

    #[tokio::test]
    async fn what_the_kernel_drops_is_counted() {
        let mut endpoint = endpoint("127.0.0.1:0");
        socket2::SockRef::from(&endpoint.socket).set_recv_buffer_size(4_096).expect("set");
        let phone = UdpSocket::bind("127.0.0.1:0").expect("bind");
        for _ in 0..100 {
            phone.send_to(&[0; 1_000], endpoint.local()).expect("sent");
        }
        let mut datagrams = Vec::new();
        endpoint.recv_batch(&mut datagrams).await.expect("alive");
        let lost = 100 - datagrams.len() as u64;
        assert!(lost > 0);
        endpoint.looked_at = Timestamp::EPOCH;
        phone.send_to(b"after", endpoint.local()).expect("sent");
        endpoint.recv_batch(&mut datagrams).await.expect("alive");
        assert_eq!(endpoint.meter().dropped.load(Relaxed), lost);
    }
}
