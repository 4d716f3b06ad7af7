//! Ports below the kernel's own range, so that no outgoing connection sits on one by chance.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU16, Ordering};

/// Phones open TLS on the next port as well: numbers are spaced.
const SPACING: u16 = 4;
const SIGNALING: (u16, u16) = (11_000, 2_000);
/// Control ports of the processes of one host, which take them one after the other.
pub(crate) const CONTROL_PORTS: u16 = 16;
const CONTROL: (u16, u16) = (19_000, 60);
const MEDIA: (u16, u16) = (20_000, 60);
const MEDIA_PORTS: u16 = 160;

/// A port that is free for UDP and TCP on the loopback address.
pub(crate) fn port() -> u16 {
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    let (first, count) = SIGNALING;
    next(&TAKEN, count, |slot| {
        let port = first + slot * SPACING;
        let free = is_free_for_udp(port)
            && (port..port + 2).all(|port| TcpListener::bind(at(port)).is_ok());
        free.then_some(port)
    })
}

/// The first of `CONTROL_PORTS`, for the processes of one host.
pub(crate) fn control_ports() -> u16 {
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    let (first, count) = CONTROL;
    next(&TAKEN, count, |slot| {
        let first = first + slot * CONTROL_PORTS;
        let mut range = first..first + CONTROL_PORTS;
        range.all(|port| TcpListener::bind(at(port)).is_ok()).then_some(first)
    })
}

/// Ports for a media node.
pub(crate) fn media_ports() -> RangeInclusive<u16> {
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    let (first, count) = MEDIA;
    next(&TAKEN, count, |slot| {
        let first = first + slot * MEDIA_PORTS;
        let range = first..=first + MEDIA_PORTS - 1;
        range.clone().all(is_free_for_udp).then_some(range)
    })
}

/// Somebody waits for messages there. Asks the kernel: to try would take the port away at the wrong moment.
pub(crate) fn is_taken(port: u16, protocol: &str) -> bool {
    let sockets = std::fs::read_to_string(format!("/proc/net/{protocol}")).expect("Linux");
    let local = format!(":{port:04X}");
    sockets.lines().filter_map(|line| line.split_whitespace().nth(1)).any(|at| at.ends_with(&local))
}

/// The next slot that suits. Processes begin at different ones.
fn next<T>(taken: &AtomicU16, count: u16, suits: impl Fn(u16) -> Option<T>) -> T {
    let begin = u16::try_from(std::process::id() % u32::from(count)).expect("below u16");
    (0..count)
        .find_map(|_| suits((begin + taken.fetch_add(1, Ordering::Relaxed)) % count))
        .expect("a free port")
}

fn is_free_for_udp(port: u16) -> bool {
    UdpSocket::bind(at(port)).is_ok()
}

fn at(port: u16) -> (Ipv4Addr, u16) {
    (Ipv4Addr::LOCALHOST, port)
}
