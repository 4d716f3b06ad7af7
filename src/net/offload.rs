//! RTP that the kernel passes on by itself: the program of `offload/relay.bpf.c` at the interfaces of this host, and
//! the tables that say what it does and what it did.
//!
//! Invariants: the program ends with the process, whatever ends that (its links are descriptors of ours); what it does
//! not know goes to the socket; a port has one writer, the worker that has its socket.

use aya::maps::{Array, HashMap, Map, MapData, MapError};
use aya::programs::tc::{TcAttachOptions, TcAttachType};
use aya::programs::{LinkOrder, SchedClassifier};
use core::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

static PROGRAM: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/relay.bpf.o"));
const LOOPBACK: &str = "lo";
/// ARPHRD_ETHER and ARPHRD_LOOPBACK: what has a header of fourteen bytes before IP.
const ETHERNET: [u16; 2] = [1, 772];

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why every packet comes to our sockets.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    /// At build time.
    #[error("this binary was built without it, for want of clang or the kernel's headers")]
    NotBuilt,
    /// `HOLDFAST_MEDIA_BIND`.
    #[error("media_bind is IPv6, and the kernel's part is IPv4 alone")]
    Ipv6,
    /// The kernel, or what this process may do.
    #[error("the kernel takes no program of ours (CAP_BPF, CAP_NET_ADMIN): {}", last(.0))]
    Refused(#[from] Cause),
    /// Before Linux 6.6 programs outlive their process.
    #[error("no interface takes the program (Linux 6.6 is needed, CAP_NET_ADMIN): {0}")]
    NoInterface(String),
}

/// The last cause says most.
fn last(error: &Cause) -> String {
    let mut last: &dyn std::error::Error = error.as_ref();
    while let Some(cause) = last.source() {
        last = cause;
    }
    last.to_string()
}

/// The program, as long as it is kept.
#[derive(Debug)]
pub struct Offload {
    _program: aya::Ebpf,
    rules: OwnedFd,
    progress: OwnedFd,
    /// Where packets are looked at.
    pub interfaces: Vec<String>,
    /// Where they are not, and why.
    pub left_out: Vec<String>,
}

impl Offload {
    /// Loads it, and sets it before every interface that may bring RTP for sockets bound to `bind`.
    pub fn load(bind: IpAddr) -> Result<Self, Unavailable> {
        if PROGRAM.is_empty() {
            return Err(Unavailable::NotBuilt);
        }
        if bind.is_ipv6() {
            return Err(Unavailable::Ipv6);
        }
        // It touches no structure of the kernel: what the loader read of it unasked is dropped first (30 MB).
        let mut program = aya::EbpfLoader::new().btf(None).load(PROGRAM).map_err(Cause::from)?;
        let rules = descriptor(program.map("rules")).map_err(Cause::from)?;
        let progress = descriptor(program.map("progress")).map_err(Cause::from)?;
        let relay = classifier(&mut program)?;
        let (mut interfaces, mut left_out) = (Vec::new(), Vec::new());
        for interface in interfaces_of(bind) {
            // After other programs that hold an interface; filters of tc and netfilter come later in any case.
            let options = TcAttachOptions::TcxOrder(LinkOrder::last());
            match relay.attach_with_options(&interface, TcAttachType::Ingress, options) {
                Ok(_) => interfaces.push(interface),
                Err(error) => left_out.push(format!("{interface}: {}", last(&error.into()))),
            }
        }
        if interfaces.is_empty() {
            return Err(Unavailable::NoInterface(left_out.join(", ")));
        }
        Ok(Self { _program: program, rules, progress, interfaces, left_out })
    }

    /// The tables, for a worker.
    pub fn table(&self) -> io::Result<Table> {
        let map = |descriptor: &OwnedFd| {
            MapData::from_fd(descriptor.try_clone()?).map_err(io::Error::other)
        };
        let rules = HashMap::try_from(Map::HashMap(map(&self.rules)?)).map_err(io::Error::other)?;
        let progress =
            Array::try_from(Map::Array(map(&self.progress)?)).map_err(io::Error::other)?;
        Ok(Table { rules, progress })
    }
}

fn classifier(program: &mut aya::Ebpf) -> Result<&mut SchedClassifier, Cause> {
    let relay = program.program_mut("relay").ok_or("the object has no program")?;
    let relay: &mut SchedClassifier = relay.try_into()?;
    relay.load()?;
    Ok(relay)
}

fn descriptor(map: Option<&Map>) -> io::Result<OwnedFd> {
    match map {
        Some(Map::HashMap(map) | Map::Array(map)) => map.fd().as_fd().try_clone_to_owned(),
        _ => Err(io::Error::other("the program lacks a table")),
    }
}

/// Loopback; and whatever speaks Ethernet and has an IPv4 address, for packets to one address may come by any of them.
fn interfaces_of(bind: IpAddr) -> BTreeSet<String> {
    let mut ethernet = BTreeSet::new();
    let mut found = BTreeSet::from([LOOPBACK.to_owned()]);
    for interface in nix::ifaddrs::getifaddrs().into_iter().flatten() {
        let Some(address) = interface.address else { continue };
        let link = address.as_link_addr().map(|link| link.hatype());
        if link.is_some_and(|kind| ETHERNET.contains(&kind)) {
            ethernet.insert(interface.interface_name);
        } else if address.as_sockaddr_in().is_some() && !bind.is_loopback() {
            found.insert(interface.interface_name);
        }
    }
    found.retain(|name| ethernet.contains(name));
    found
}

/// What the kernel is to do with the packets of a port: fields as in `struct rule` of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Whose packets.
    pub source: SocketAddrV4,
    /// To which address of ours.
    pub local: Ipv4Addr,
    /// Sequence number of the first one.
    pub first_sequence: u16,
    /// Their SSRC.
    pub ssrc: u32,
    /// Clock of their timestamps.
    pub clock_rate_hz: u32,
    /// Where they come from then.
    pub new_source: SocketAddrV4,
    /// Where they go.
    pub new_destination: SocketAddrV4,
    /// Their SSRC then.
    pub new_ssrc: u32,
    /// Added to timestamps.
    pub timestamp_offset: u32,
    /// Added to sequence numbers.
    pub sequence_offset: u16,
    /// Of the packets.
    pub payload_type: u8,
    /// What it becomes.
    pub new_payload_type: u8,
    /// By which interface; 0: this host.
    pub interface: u32,
    /// Until then, by the host's monotonic clock; later packets come to the socket.
    pub until_ns: u64,
}

impl Rule {
    fn words(&self) -> [u32; 14] {
        let address = |of: Ipv4Addr| u32::from_ne_bytes(of.octets());
        let pair = |first: u16, second: u16| u32::from(first) | u32::from(second) << 16;
        [
            address(*self.source.ip()),
            address(self.local),
            pair(self.source.port().to_be(), self.first_sequence),
            self.ssrc.to_be(),
            self.clock_rate_hz,
            address(*self.new_source.ip()),
            address(*self.new_destination.ip()),
            pair(self.new_source.port().to_be(), self.new_destination.port().to_be()),
            self.new_ssrc.to_be(),
            self.timestamp_offset,
            pair(
                self.sequence_offset,
                u16::from(self.payload_type) | u16::from(self.new_payload_type) << 8,
            ),
            self.interface,
            self.until_ns as u32,
            (self.until_ns >> 32) as u32,
        ]
    }
}

/// What the kernel did at a port: fields as in `struct progress`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Packets since the rule.
    pub packets: u32,
    /// RTP timestamp of the last one.
    pub timestamp: u32,
    /// Bytes of their payloads.
    pub bytes: u64,
    /// When the last one came, by the host's monotonic clock.
    pub at_ns: u64,
    /// Interarrival jitter, in sixteenths of a timestamp unit.
    pub jitter_16: u32,
    /// Longest time between two packets.
    pub pause_us: u32,
}

impl Progress {
    fn words(&self) -> [u64; 4] {
        let first = u64::from(self.packets) | u64::from(self.timestamp) << 32;
        let last = u64::from(self.jitter_16) | u64::from(self.pause_us) << 32;
        [first, self.bytes, self.at_ns, last]
    }

    fn read([first, bytes, at_ns, last]: [u64; 4]) -> Self {
        let halves = |word: u64| (word as u32, (word >> 32) as u32);
        let ((packets, timestamp), (jitter_16, pause_us)) = (halves(first), halves(last));
        Self { packets, timestamp, bytes, at_ns, jitter_16, pause_us }
    }
}

/// A worker's way to the tables.
#[allow(missing_debug_implementations, reason = "aya's tables have none")]
pub struct Table {
    rules: HashMap<MapData, u32, [u32; 14]>,
    progress: Array<MapData, [u64; 4]>,
}

impl Table {
    /// From now on the kernel does so at that port, which had no rule.
    pub fn begin(&mut self, port: u16, rule: &Rule, from: Progress) -> Result<(), MapError> {
        self.progress.set(port.into(), from.words(), 0)?;
        self.rules.insert(u32::from(port), rule.words(), 0)
    }

    /// How far it is there.
    pub fn progress(&self, port: u16) -> Option<Progress> {
        self.progress.get(&port.into(), 0).ok().map(Progress::read)
    }

    /// All packets go to the socket again.
    pub fn end(&mut self, port: u16) {
        // Nobody else takes rules away, so it was there.
        let _ = self.rules.remove(&port.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_the_program() {
        let at = |last: u8, port: u16| SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, last), port);
        let rule = Rule {
            source: at(1, 0x0102),
            local: Ipv4Addr::new(192, 0, 2, 2),
            first_sequence: 0x0304,
            ssrc: 0x0506_0708,
            clock_rate_hz: 8_000,
            new_source: at(3, 0x0506),
            new_destination: at(4, 0x0708),
            new_ssrc: 0x090a_0b0c,
            timestamp_offset: 7,
            sequence_offset: 9,
            payload_type: 8,
            new_payload_type: 18,
            interface: 2,
            until_ns: 0x0000_0001_0000_0002,
        };
        let bytes: Vec<u8> = rule.words().into_iter().flat_map(u32::to_le_bytes).collect();
        // Addresses, ports and SSRCs as in packets, numbers as on a little-endian machine.
        let expect = [
            vec![192, 0, 2, 1, 192, 0, 2, 2, 1, 2, 4, 3, 5, 6, 7, 8, 0x40, 0x1f, 0, 0],
            vec![192, 0, 2, 3, 192, 0, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12, 7, 0, 0, 0],
            vec![9, 0, 8, 18, 2, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0],
        ];
        assert_eq!(bytes, expect.concat());
        let progress =
            Progress { packets: 1, timestamp: 2, bytes: 3, at_ns: 4, jitter_16: 5, pause_us: 6 };
        assert_eq!(progress.words(), [2 << 32 | 1, 3, 4, 6 << 32 | 5]);
        assert_eq!(Progress::read(progress.words()), progress);
    }
}
