//! The node's slice of ports: pairs of an even RTP port and the RTCP port after it.
//!
//! Invariants: a pair is given out once at a time and rests before it is given again, so a stray packet of an old call
//! reaches no new one; a pair that the host refuses (someone else has it) is skipped, not lost.

use crate::net::rtp_socket::RtpSocket;
use crate::time::Timestamp;
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use std::collections::{HashSet, VecDeque};

/// A pair rests so long before it is used again.
const REST: Duration = Duration::from_secs(5);
/// Pairs tried before a request is refused.
const TRIES: usize = 64;

/// `HOLDFAST_MEDIA_PORTS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    /// First port; odd ones are rounded up.
    pub first: u16,
    /// Last port.
    pub last: u16,
}

impl PortRange {
    /// The RTP port of each pair.
    pub(super) fn pairs(self) -> impl ExactSizeIterator<Item = u16> {
        (self.first.saturating_add(self.first % 2)..self.last).step_by(2)
    }
}

/// A stream's sockets.
#[derive(Debug)]
pub(super) struct PortPair {
    pub rtp: RtpSocket,
    pub rtcp: RtpSocket,
    pub port: u16,
}

/// Ports of one slice, shared by all workers of the process.
#[derive(Debug)]
pub(super) struct Ports {
    bind: IpAddr,
    range: PortRange,
    unused: VecDeque<u16>,
    resting: VecDeque<(Timestamp, u16)>,
    in_use: HashSet<u16>,
}

impl Ports {
    pub fn new(bind: IpAddr, range: PortRange) -> Self {
        let unused = range.pairs().collect();
        Self { bind, range, unused, resting: VecDeque::new(), in_use: HashSet::new() }
    }

    /// Ports in use: two a pair.
    pub fn in_use(&self) -> usize {
        self.in_use.len() * 2
    }

    /// Pairs in all.
    #[cfg(test)]
    pub fn size(&self) -> usize {
        self.unused.len() + self.resting.len() + self.in_use.len()
    }

    /// Opens a pair towards a peer's address family: the named one, or the next that is free. `None`: there is none.
    pub fn open(
        &mut self,
        named: Option<u16>,
        peer: Option<IpAddr>,
        now: Timestamp,
    ) -> Option<PortPair> {
        while self.resting.front().is_some_and(|(until, _)| *until <= now) {
            if let Some((_, port)) = self.resting.pop_front() {
                self.unused.push_back(port);
            }
        }
        let address = self.address(peer);
        if let Some(port) = named {
            return self.open_named(port, address);
        }
        for _ in 0..TRIES.min(self.unused.len()) {
            let port = self.unused.pop_front()?;
            if let Some(pair) = bind(address, port) {
                self.in_use.insert(port);
                return Some(pair);
            }
            self.resting.push_back((now + REST, port));
        }
        // What is unused is another's: the pair that rested longest comes before a refusal.
        for _ in 0..TRIES.min(self.resting.len()) {
            let (_, port) = self.resting.pop_front()?;
            if let Some(pair) = bind(address, port) {
                self.in_use.insert(port);
                return Some(pair);
            }
            self.resting.push_back((now + REST, port));
        }
        None
    }

    fn open_named(&mut self, port: u16, address: IpAddr) -> Option<PortPair> {
        if self.in_use.contains(&port) {
            return None;
        }
        let pair = bind(address, port)?;
        self.unused.retain(|known| *known != port);
        self.resting.retain(|(_, known)| *known != port);
        self.in_use.insert(port);
        Some(pair)
    }

    /// A pair came from another process, of its slice or of ours.
    pub fn adopt(&mut self, port: u16) {
        self.unused.retain(|known| *known != port);
        self.resting.retain(|(_, known)| *known != port);
        self.in_use.insert(port);
    }

    /// A pair's sockets were closed. One of another's slice is no more ours.
    pub fn close(&mut self, port: u16, now: Timestamp) {
        let is_ours = (self.range.first..self.range.last).contains(&port);
        if self.in_use.remove(&port) && is_ours {
            self.resting.push_back((now + REST, port));
        }
    }

    /// A wildcard of the peer's family when ours is a wildcard; else the configured address.
    fn address(&self, peer: Option<IpAddr>) -> IpAddr {
        match (self.bind.is_unspecified(), peer) {
            (true, Some(IpAddr::V6(_))) => core::net::Ipv6Addr::UNSPECIFIED.into(),
            (true, Some(IpAddr::V4(_)) | None) => core::net::Ipv4Addr::UNSPECIFIED.into(),
            (false, _) => self.bind,
        }
    }
}

fn bind(ip: IpAddr, port: u16) -> Option<PortPair> {
    let rtp = RtpSocket::bind(SocketAddr::new(ip, port)).ok()?;
    let rtcp = RtpSocket::bind(SocketAddr::new(ip, port.checked_add(1)?)).ok()?;
    Some(PortPair { rtp, rtcp, port })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_rests_and_none_leaks() {
        let mut ports =
            Ports::new([127, 0, 0, 1].into(), PortRange { first: 41_001, last: 41_020 });
        let size = ports.size();
        let mut now = Timestamp::from_millis(1);
        let first = ports.open(None, None, now).expect("a port").port;
        assert_eq!(first % 2, 0);
        ports.close(first, now);
        for _ in 0..10_000 {
            let pair = ports.open(None, None, now).expect("a port");
            assert!(pair.port != first || now > Timestamp::from_millis(5_000), "it rests");
            ports.close(pair.port, now);
            now = now + Duration::from_secs(1);
        }
        assert_eq!((ports.in_use(), ports.size()), (0, size));
        let pair = ports.open(Some(first), None, now).expect("by name");
        assert_eq!(pair.port, first);
        assert!(ports.open(Some(first), None, now).is_none(), "once at a time");
    }

    #[test]
    fn what_another_has_is_skipped() {
        let taken = RtpSocket::bind(([127, 0, 0, 1], 41_102).into()).expect("bind");
        let mut ports =
            Ports::new([127, 0, 0, 1].into(), PortRange { first: 41_102, last: 41_105 });
        let pair = ports.open(None, None, Timestamp::EPOCH).expect("the other");
        assert_eq!(pair.port, 41_104);
        assert!(ports.open(None, None, Timestamp::EPOCH).is_none());
        drop(taken);
    }
}
