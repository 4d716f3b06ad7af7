//! Ports below the kernel's own range, so that no outgoing connection sits on one by chance.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::ops::RangeInclusive;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

/// By then what was to listen does.
const CLAIMED: Duration = Duration::from_secs(15);

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
    let (first, _) = SIGNALING;
    next(&TAKEN, SIGNALING, |slot| {
        let port = first + slot * SPACING;
        let free = is_free_for_udp(port)
            && (port..port + 2).all(|port| TcpListener::bind(at(port)).is_ok());
        free.then_some(port)
    })
}

/// The first of `CONTROL_PORTS`, for the processes of one host.
pub(crate) fn control_ports() -> u16 {
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    let (first, _) = CONTROL;
    next(&TAKEN, CONTROL, |slot| {
        let first = first + slot * CONTROL_PORTS;
        let mut range = first..first + CONTROL_PORTS;
        range.all(|port| TcpListener::bind(at(port)).is_ok()).then_some(first)
    })
}

/// Ports for a media node.
pub(crate) fn media_ports() -> RangeInclusive<u16> {
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    let (first, _) = MEDIA;
    next(&TAKEN, MEDIA, |slot| {
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

/// The next slot that suits and that no other process of tests is about to use. Processes begin at different ones.
fn next<T>(taken: &AtomicU16, (first, count): (u16, u16), suits: impl Fn(u16) -> Option<T>) -> T {
    let begin = u16::try_from(std::process::id() % u32::from(count)).expect("below u16");
    (0..count)
        .find_map(|_| {
            let slot = (begin + taken.fetch_add(1, Ordering::Relaxed)) % count;
            suits(slot).filter(|_| is_claimed(first, slot))
        })
        .expect("a free port")
}

/// Whoever has the name may use the slot: until what is to listen there does, its ports look free to other processes.
fn is_claimed(first: u16, slot: u16) -> bool {
    static CLAIMS: Mutex<BTreeMap<String, (Instant, UnixListener)>> = Mutex::new(BTreeMap::new());
    let mut claims = CLAIMS.lock().expect("no panic");
    claims.retain(|_, (since, _)| since.elapsed() < CLAIMED);
    let name = format!("holdfast-tests-{first}-{slot}");
    let address = SocketAddr::from_abstract_name(&name).expect("a short name");
    let is_ours = claims.contains_key(&name);
    let claim = UnixListener::bind_addr(&address).ok();
    let is_new = claim.is_some();
    claims.extend(claim.map(|claim| (name, (Instant::now(), claim))));
    is_ours || is_new
}

fn is_free_for_udp(port: u16) -> bool {
    UdpSocket::bind(at(port)).is_ok()
}

fn at(port: u16) -> (Ipv4Addr, u16) {
    (Ipv4Addr::LOCALHOST, port)
}
