//! HEP, version 3 (the encapsulation of Homer): what was said in SIP and how media fares, to a collector by UDP or TCP.
//!
//! Invariant: what cannot be sent is lost and counted; a collector that is away, or whose name is, holds nothing up:
//! names are looked up and connections made by threads of their own, one at a time. What is said until there is a
//! connection waits for it, as far as there is room.

mod link;

use crate::ids::Transport;
use crate::time::Timestamp;
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use link::{Link, Waiting};
use std::io;
use std::net::ToSocketAddrs as _;
use std::sync::mpsc::{Receiver, RecvError, RecvTimeoutError, TryRecvError, sync_channel};

/// The collector's name is looked up again after so long: a container may have another address then.
const LOOK_UP: Duration = Duration::from_secs(60);
/// After a look-up that failed.
const LOOK_UP_AGAIN: Duration = Duration::from_secs(5);
/// What waits for the collector is tried again after so long a silence.
pub(super) const TRY_AGAIN: Duration = Duration::from_secs(1);
/// Of all chunks but the payload, about.
const CHUNKS: usize = 256;
/// Of a datagram: more does not fit its length.
const MOST: usize = 65_000;

/// Where packets go.
#[derive(Clone, PartialEq, Eq)]
pub struct HepConfig {
    /// `host:port`.
    pub target: String,
    /// By datagrams or a connection.
    pub transport: Transport,
    /// Tells capture agents apart.
    pub agent: u32,
    /// The collector's key, when it wants one.
    pub password: Option<Box<str>>,
}

impl core::fmt::Debug for HepConfig {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "HEP to {} by {:?} as {}", self.target, self.transport, self.agent)
    }
}

/// What a packet holds (chunk 0x000b).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HepKind {
    /// A SIP message.
    Sip,
    /// A report of RTCP as JSON.
    Rtcp,
}

/// A packet.
#[derive(Clone, Copy, Debug)]
pub struct HepPacket<'a> {
    /// When.
    pub at: Timestamp,
    /// From where.
    pub source: SocketAddr,
    /// Where to.
    pub target: SocketAddr,
    /// By what.
    pub transport: Transport,
    /// What it holds.
    pub kind: HepKind,
    /// The call's id: the same for all its legs and its media.
    pub correlation: &'a str,
    /// The message.
    pub payload: &'a [u8],
}

impl HepPacket<'_> {
    /// On the wire.
    pub fn encode(&self, agent: u32, password: Option<&str>) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.room());
        self.append_to(&mut bytes, agent, password);
        bytes
    }

    /// Bytes that it takes, about.
    fn room(&self) -> usize {
        CHUNKS + self.payload.len()
    }

    /// The same behind what is there.
    fn append_to(&self, bytes: &mut Vec<u8>, agent: u32, password: Option<&str>) {
        let begin = bytes.len();
        bytes.extend(b"HEP3\0\0");
        let mut chunk = |kind: u16, value: &[u8]| {
            let length = u16::try_from(6 + value.len()).unwrap_or(u16::MAX);
            // Vendor 0 is the generic one.
            bytes.extend([0, 0]);
            bytes.extend(kind.to_be_bytes());
            bytes.extend(length.to_be_bytes());
            bytes.extend(value);
        };
        let (source, target) = (self.source.ip().to_canonical(), self.target.ip().to_canonical());
        match (source, target) {
            (IpAddr::V4(source), IpAddr::V4(target)) => {
                chunk(0x0001, &[2]);
                chunk(0x0003, &source.octets());
                chunk(0x0004, &target.octets());
            }
            (source, target) => {
                let octets = |ip: IpAddr| match ip {
                    IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
                    IpAddr::V6(ip) => ip.octets(),
                };
                chunk(0x0001, &[10]);
                chunk(0x0005, &octets(source));
                chunk(0x0006, &octets(target));
            }
        }
        // Protocol numbers of IP.
        chunk(0x0002, &[if self.transport == Transport::Udp { 17 } else { 6 }]);
        chunk(0x0007, &self.source.port().to_be_bytes());
        chunk(0x0008, &self.target.port().to_be_bytes());
        let micros = self.at.as_micros();
        let low = |number: u64| u32::try_from(number).unwrap_or(u32::MAX).to_be_bytes();
        chunk(0x0009, &low(micros / 1_000_000));
        chunk(0x000a, &low(micros % 1_000_000));
        let kind = match self.kind {
            HepKind::Sip => 1,
            HepKind::Rtcp => 5,
        };
        chunk(0x000b, &[kind]);
        chunk(0x000c, &agent.to_be_bytes());
        if let Some(password) = password {
            chunk(0x000e, password.as_bytes());
        }
        chunk(0x0011, self.correlation.as_bytes());
        chunk(0x000f, self.payload);
        let length = u16::try_from(bytes.len() - begin).unwrap_or(u16::MAX).to_be_bytes();
        bytes[begin + 4..begin + 6].copy_from_slice(&length);
    }
}

/// Sends packets; never waits.
#[derive(Debug)]
pub struct HepSender {
    config: HepConfig,
    link: Option<Link>,
    look_up_at: Timestamp,
    looking_up: Option<Receiver<io::Result<Link>>>,
    /// For the connection that is to be.
    waiting: Waiting,
}

impl HepSender {
    /// The collector is looked for when there is something to send.
    pub fn new(config: HepConfig) -> Self {
        let look_up_at = Timestamp::EPOCH;
        let waiting = Waiting::default();
        Self { config, link: None, look_up_at, looking_up: None, waiting }
    }

    /// How many packets are lost by it, those that waited with it included. On a connection it may wait for `flush`.
    pub fn send(&mut self, packet: &HepPacket<'_>) -> u64 {
        self.find(packet.at);
        if packet.payload.len() >= MOST {
            return 1;
        }
        let (agent, password) = (self.config.agent, self.config.password.as_deref());
        let append = |bytes: &mut Vec<u8>| packet.append_to(bytes, agent, password);
        let is_taken = match &mut self.link {
            Some(link) => link.send(packet.room(), append),
            None if self.config.transport == Transport::Tcp => {
                self.waiting.gather(packet.room(), append)
            }
            None => false,
        };
        match is_taken {
            false => 1,
            true if self.link.as_ref().is_some_and(Link::is_full) => self.flush(packet.at),
            true => 0,
        }
    }

    /// Nothing follows soon: what was gathered leaves. How many packets are lost.
    pub fn flush(&mut self, now: Timestamp) -> u64 {
        if self.link.is_none() && !self.waiting.is_empty() {
            self.find(now);
        }
        let Some(Err(lost)) = self.link.as_mut().map(Link::flush) else { return 0 };
        tracing::warn!("the HEP collector {} ended the connection", self.config.target);
        self.link = None;
        self.look_up_at = Timestamp::EPOCH;
        lost
    }

    /// The next that is to be told; `None`: there is none for a while, and what waits is to be tried again. Blocks.
    pub fn next_of<T>(&self, queue: &Receiver<T>) -> Result<Option<T>, RecvError> {
        if self.waiting.is_empty() && !self.link.as_ref().is_some_and(Link::has_waiting) {
            return queue.recv().map(Some);
        }
        match queue.recv_timeout(TRY_AGAIN) {
            Ok(next) => Ok(Some(next)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(RecvError),
        }
    }

    /// Has a link to the collector as soon as its name is known. A connection shows by itself when it is over.
    fn find(&mut self, now: Timestamp) {
        let is_connected = self.link.as_ref().is_some_and(Link::is_stream);
        if self.looking_up.is_none() && now >= self.look_up_at && !is_connected {
            self.look_up_at = now + LOOK_UP;
            let transport = self.config.transport;
            match self.config.target.parse() {
                Ok(address) if transport == Transport::Udp => {
                    return self.use_found(Link::make(address, transport), now);
                }
                Ok(_) | Err(_) => {
                    self.looking_up = Some(look_up(self.config.target.clone(), transport));
                }
            }
        }
        let found = match self.looking_up.as_ref().map(Receiver::try_recv) {
            None | Some(Err(TryRecvError::Empty)) => return,
            Some(Err(TryRecvError::Disconnected)) => Err(io::Error::other("no thread for that")),
            Some(Ok(found)) => found,
        };
        self.looking_up = None;
        self.use_found(found, now);
    }

    fn use_found(&mut self, found: io::Result<Link>, now: Timestamp) {
        match found {
            Ok(mut link) => {
                link.begin_with(core::mem::take(&mut self.waiting));
                self.link = Some(link);
            }
            Err(error) => {
                self.look_up_at = now + LOOK_UP_AGAIN;
                tracing::warn!("the HEP collector {} is not found: {error}", self.config.target);
            }
        }
    }
}

fn look_up(target: String, transport: Transport) -> Receiver<io::Result<Link>> {
    let (tell, found) = sync_channel(1);
    let run = move || {
        let address = target.to_socket_addrs().and_then(|mut addresses| {
            addresses.next().ok_or_else(|| io::Error::other("the name has no address"))
        });
        // The sender may be gone.
        let _ = tell.send(address.and_then(|address| Link::make(address, transport)));
    };
    // Without a thread the channel is closed, which says so.
    let _ = std::thread::Builder::new().name("hep-name".to_owned()).spawn(run);
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;
    use std::net::{TcpListener, UdpSocket};

    fn packet() -> HepPacket<'static> {
        HepPacket {
            at: Timestamp::from_micros(1_700_000_000_000_123),
            source: "192.0.2.1:5060".parse().expect("an address"),
            target: "192.0.2.2:5080".parse().expect("an address"),
            transport: Transport::Udp,
            kind: HepKind::Sip,
            correlation: "id",
            payload: b"OPTIONS",
        }
    }

    #[test]
    fn a_packet_is_chunks_behind_its_length() {
        let packet = packet();
        let bytes = packet.encode(0x0102_0304, Some("key"));
        let expect = [
            &b"HEP3\x00\x84"[..],
            b"\0\0\0\x01\0\x07\x02",
            b"\0\0\0\x03\0\x0a\xc0\x00\x02\x01",
            b"\0\0\0\x04\0\x0a\xc0\x00\x02\x02",
            b"\0\0\0\x02\0\x07\x11",
            b"\0\0\0\x07\0\x08\x13\xc4",
            b"\0\0\0\x08\0\x08\x13\xd8",
            b"\0\0\0\x09\0\x0a\x65\x53\xf1\x00",
            b"\0\0\0\x0a\0\x0a\0\0\0\x7b",
            b"\0\0\0\x0b\0\x07\x01",
            b"\0\0\0\x0c\0\x0a\x01\x02\x03\x04",
            b"\0\0\0\x0e\0\x09key",
            b"\0\0\0\x11\0\x08id",
            b"\0\0\0\x0f\0\x0dOPTIONS",
        ];
        let expect = expect.concat();
        assert_eq!(bytes.len(), expect.len());
        assert_eq!(&bytes[6..], &expect[6..]);
        assert_eq!(usize::from(u16::from_be_bytes([bytes[4], bytes[5]])), bytes.len());
    }

    #[test]
    fn a_name_is_looked_up_beside_the_sender() {
        // Of the address that the name leads to first.
        let collector = UdpSocket::bind("localhost:0").expect("a port");
        collector.set_read_timeout(Some(Duration::from_secs(10))).expect("a time");
        let address = collector.local_addr().expect("bound");
        let target = format!("localhost:{}", address.port());
        let transport = Transport::Udp;
        let mut sender = HepSender::new(HepConfig { target, transport, agent: 1, password: None });
        let packet = packet();
        let (tell, found) = sync_channel(1);
        sender.looking_up = Some(found);
        assert_eq!(sender.send(&packet), 1, "lost, and nobody waits");
        tell.send(Link::make(address, transport)).expect("it listens");
        assert_eq!(sender.send(&packet), 0);
        let looked_up = look_up(sender.config.target.clone(), transport).recv().expect("an answer");
        sender.link = Some(looked_up.expect("its address"));
        assert_eq!(sender.send(&packet), 0);
        let mut buffer = [0; 512];
        for _ in 0..2 {
            let length = collector.recv(&mut buffer).expect("a packet");
            assert!(buffer[..length].ends_with(b"OPTIONS"));
        }
    }

    #[test]
    fn packets_of_a_connection_leave_together_and_a_broken_one_is_made_again() {
        let collector = TcpListener::bind("localhost:0").expect("a port");
        let target = collector.local_addr().expect("bound").to_string();
        let transport = Transport::Tcp;
        let mut sender = HepSender::new(HepConfig { target, transport, agent: 1, password: None });
        let packet = packet();
        let size = packet.encode(1, None).len();
        for turn in 1..=2 {
            assert_eq!(sender.send(&packet), 0, "it waits for the connection, and nobody for it");
            let made = sender.looking_up.take().expect("a thread makes it").recv();
            sender.use_found(made.expect("an answer"), packet.at);
            let (mut stream, _) = collector.accept().expect("the connection");
            assert_eq!(
                [sender.send(&packet), sender.send(&packet), sender.flush(packet.at)],
                [0; 3]
            );
            let mut read = vec![0; size * 3];
            stream.read_exact(&mut read).expect("three packets");
            assert!(read.starts_with(b"HEP3") && read[size..].starts_with(b"HEP3"));
            drop(stream);
            // The first write after its end may still be taken by the kernel.
            let losing = (0..100).map(|_| sender.send(&packet) + sender.flush(packet.at));
            assert!(losing.take_while(|lost| *lost == 0).count() < 100, "turn {turn}");
            assert!(sender.link.is_none());
        }
    }

    /// Nothing more is said, and the collector is there when it was away.
    #[test]
    fn what_waits_for_a_connection_leaves_without_more_words_and_is_bounded() {
        let free = TcpListener::bind("127.0.0.1:0").expect("a port");
        let target = free.local_addr().expect("bound").to_string();
        drop(free);
        let (transport, agent, password) = (Transport::Tcp, 1, None);
        let config = HepConfig { target: target.clone(), transport, agent, password };
        let mut sender = HepSender::new(config);
        let payload = vec![b'x'; 60_000];
        let large = HepPacket { payload: &payload, ..packet() };
        assert_eq!(sender.send(&large), 0);
        let refused = sender.looking_up.take().expect("a thread tries").recv().expect("an answer");
        sender.use_found(refused, large.at);
        assert!(sender.link.is_none(), "it is away");
        let kept = 1 + (0..1_000).take_while(|_| sender.send(&large) == 0).count();
        assert!((10..100).contains(&kept), "{kept}");
        let collector = TcpListener::bind(&target).expect("the port again");
        let later = HepPacket { at: large.at + LOOK_UP_AGAIN, ..large };
        assert_eq!(sender.send(&later), 1, "there is no room");
        let (mut stream, _) = collector.accept().expect("the connection");
        let size = large.encode(1, None).len() * kept;
        let read = std::thread::spawn(move || {
            let mut read = vec![0; size];
            stream.read_exact(&mut read).map(|()| read)
        });
        while !read.is_finished() {
            assert_eq!(sender.flush(later.at), 0);
        }
        assert!(read.join().expect("no panic").expect("all of it").starts_with(b"HEP3"));
    }

    #[test]
    fn a_collector_that_does_not_read_costs_a_bounded_memory() {
        let collector = TcpListener::bind("localhost:0").expect("a port");
        let target = collector.local_addr().expect("bound");
        let config = HepConfig {
            target: target.to_string(),
            transport: Transport::Tcp,
            agent: 1,
            password: None,
        };
        let mut sender = HepSender::new(config);
        sender.link = Some(Link::make(target, Transport::Tcp).expect("a connection"));
        let payload = vec![b'x'; 60_000];
        let large = HepPacket { payload: &payload, ..packet() };
        let lost = (0..1_000).position(|_| sender.send(&large) > 0).expect("its room is bounded");
        assert!(lost > 10, "{lost}");
        assert!(sender.link.is_some(), "and it is still connected");
    }
}
