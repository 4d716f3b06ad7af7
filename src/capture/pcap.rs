//! Messages and RTCP as a packet capture (libpcap's format, raw IP), with the addresses and times that they had.
//!
//! Headers are made anew: what a router between did to them is not known here. Over TCP each message is a segment.

use crate::ids::Transport;
use crate::views::ladder::{Entry, What};
use core::net::{IpAddr, SocketAddr};
use std::collections::HashMap;

/// Microseconds, little endian.
const MAGIC: u32 = 0xa1b2_c3d4;
/// `LINKTYPE_RAW`: a packet begins with its IP header.
const RAW_IP: u32 = 101;
const SNAP: u32 = 262_144;
const UDP: u8 = 17;
const TCP: u8 = 6;

/// A file.
pub fn pcap(entries: &[Entry]) -> Vec<u8> {
    let mut file = Vec::new();
    file.extend(MAGIC.to_le_bytes());
    file.extend(2_u16.to_le_bytes());
    file.extend(4_u16.to_le_bytes());
    file.extend([0; 8]);
    file.extend(SNAP.to_le_bytes());
    file.extend(RAW_IP.to_le_bytes());
    let mut sent: HashMap<(SocketAddr, SocketAddr), u32> = HashMap::new();
    for entry in entries {
        let (received, transport, local, remote, text) = match &entry.what {
            What::Message { received, transport, local, remote, text, .. } => {
                (received, *transport, local, remote, text)
            }
            What::Rtcp { received, local, remote, packet, .. } => {
                (received, Transport::Udp, local, remote, packet)
            }
            What::Mark(_) | What::Sound(_) => continue,
        };
        let (from, to) = if *received { (*remote, *local) } else { (*local, *remote) };
        let packet = match transport {
            Transport::Udp => ip_packet(from, to, UDP, &udp(from, to, text)),
            Transport::Tcp | Transport::Tls | Transport::Ws | Transport::Wss => {
                let acknowledged = sent.get(&(to, from)).copied().unwrap_or(1);
                let sequence = sent.entry((from, to)).or_insert(1);
                let segment = tcp(from, to, (*sequence, acknowledged), text);
                *sequence = sequence.wrapping_add(u32::try_from(text.len()).unwrap_or(0));
                ip_packet(from, to, TCP, &segment)
            }
        };
        let micros = entry.at.as_micros();
        let length = u32::try_from(packet.len()).unwrap_or(0);
        file.extend(u32::try_from(micros / 1_000_000).unwrap_or(u32::MAX).to_le_bytes());
        file.extend(u32::try_from(micros % 1_000_000).unwrap_or(0).to_le_bytes());
        file.extend(length.to_le_bytes());
        file.extend(length.to_le_bytes());
        file.extend(packet);
    }
    file
}

fn udp(from: SocketAddr, to: SocketAddr, text: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + text.len()).unwrap_or(u16::MAX);
    let mut datagram = Vec::with_capacity(8 + text.len());
    datagram.extend(from.port().to_be_bytes());
    datagram.extend(to.port().to_be_bytes());
    datagram.extend(length.to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(text);
    let sum = checksum(&[&pseudo(from, to, UDP, datagram.len()), &datagram]);
    // All zeros mean "none" (RFC 768).
    datagram[6..8].copy_from_slice(&if sum == 0 { 0xffff } else { sum }.to_be_bytes());
    datagram
}

/// PSH and ACK.
fn tcp(from: SocketAddr, to: SocketAddr, numbers: (u32, u32), text: &[u8]) -> Vec<u8> {
    let mut segment = Vec::with_capacity(20 + text.len());
    segment.extend(from.port().to_be_bytes());
    segment.extend(to.port().to_be_bytes());
    segment.extend(numbers.0.to_be_bytes());
    segment.extend(numbers.1.to_be_bytes());
    segment.extend([5 << 4, 0x18, 0xff, 0xff, 0, 0, 0, 0]);
    segment.extend(text);
    let sum = checksum(&[&pseudo(from, to, TCP, segment.len()), &segment]);
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    segment
}

fn ip_packet(from: SocketAddr, to: SocketAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::with_capacity(40 + payload.len());
    match (from.ip().to_canonical(), to.ip().to_canonical()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let length = u16::try_from(20 + payload.len()).unwrap_or(u16::MAX);
            packet.extend([0x45, 0]);
            packet.extend(length.to_be_bytes());
            packet.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
            packet.extend(from.octets());
            packet.extend(to.octets());
            let sum = checksum(&[&packet]);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        (from, to) => {
            let length = u16::try_from(payload.len()).unwrap_or(u16::MAX);
            packet.extend([0x60, 0, 0, 0]);
            packet.extend(length.to_be_bytes());
            packet.extend([protocol, 64]);
            packet.extend(octets_6(from));
            packet.extend(octets_6(to));
        }
    }
    packet.extend(payload);
    packet
}

/// RFC 768, RFC 8200 §8.1.
fn pseudo(from: SocketAddr, to: SocketAddr, protocol: u8, length: usize) -> Vec<u8> {
    let length = u32::try_from(length).unwrap_or(0).to_be_bytes();
    let mut header = Vec::with_capacity(40);
    match (from.ip().to_canonical(), to.ip().to_canonical()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            header.extend(from.octets());
            header.extend(to.octets());
        }
        (from, to) => {
            header.extend(octets_6(from));
            header.extend(octets_6(to));
        }
    }
    header.extend(length);
    header.extend([0, 0, 0, protocol]);
    header
}

fn octets_6(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

/// RFC 1071, over parts of even length but the last.
fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0_u32;
    for pair in parts.iter().flat_map(|part| part.chunks(2)) {
        let word = [pair.first().copied().unwrap_or(0), pair.get(1).copied().unwrap_or(0)];
        sum += u32::from(u16::from_be_bytes(word));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_sums_up_to_nothing() {
        let from: SocketAddr = "192.0.2.1:5060".parse().expect("an address");
        let to: SocketAddr = "192.0.2.7:5062".parse().expect("an address");
        for text in [&b"odd"[..], b"even"] {
            let datagram = udp(from, to, text);
            assert_eq!(checksum(&[&pseudo(from, to, UDP, datagram.len()), &datagram]), 0);
            let packet = ip_packet(from, to, UDP, &datagram);
            assert_eq!(checksum(&[&packet[..20]]), 0);
            assert_eq!(packet.len(), 28 + text.len());
        }
    }
}
