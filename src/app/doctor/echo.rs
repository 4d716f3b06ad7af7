//! An echo from other hosts: a datagram leaves from one of our media ports, the other host's SIP port answers it there,
//! and says which address it saw.
//!
//! Invariant: only hosts that are of this cluster are asked: those of `join`, and those that the database names.

use super::{Finding, Patient};
use crate::ids::Transport;
use crate::net::dns::Resolver;
use crate::net::stun;
use crate::store::NodeRow;
use crate::views::NodeView;
use core::net::{IpAddr, SocketAddr};
use std::net::UdpSocket;
use std::time::Duration;

const TRANSACTION: [u8; 12] = *b"holdfast ech";
/// For one of three tries.
const PATIENCE: Duration = Duration::from_millis(500);
const SIP_PORT: u16 = 5060;
/// Hosts that are asked at most: every check ends within seconds.
const HOSTS: usize = 4;

pub(super) async fn check(patient: &Patient<'_>, nodes: &[NodeRow]) -> Vec<Finding> {
    let mut hosts: Vec<SocketAddr> = nodes.iter().filter_map(sip_of).collect();
    if !patient.config.mode.has_signaling() {
        hosts.extend(joined(patient).await);
    }
    hosts.retain(|at| !at.ip().is_loopback() && !patient.host.addresses.contains(&at.ip()));
    hosts.sort_unstable();
    hosts.dedup();
    hosts.iter().take(HOSTS).map(|host| echo(patient, *host)).collect()
}

/// Where a node of the database takes SIP: its address is that of its control channel when SIP is bound to all.
fn sip_of(node: &NodeRow) -> Option<SocketAddr> {
    let view: NodeView = serde_json::from_str(&node.view).ok()?;
    let bound: SocketAddr =
        view.sip.iter().find(|one| one.transport == "udp")?.bind.parse().ok()?;
    let ip = match bound.ip() {
        ip if ip.is_unspecified() => node.control.first()?.ip(),
        ip => ip,
    };
    (!ip.is_unspecified()).then_some(SocketAddr::new(ip, bound.port()))
}

/// Signaling nodes that a media node joins, at the usual port of SIP: theirs is not set here.
async fn joined(patient: &Patient<'_>) -> Vec<SocketAddr> {
    let resolver = Resolver::new();
    let mut found = Vec::new();
    for name in &patient.config.join {
        let host = super::reach::host_of(name).trim_matches(['[', ']']);
        let all = resolver.resolve(host, Some(SIP_PORT), Some(Transport::Udp)).await;
        found.extend(all.first().map(|(_, address)| *address));
    }
    found
}

fn echo(patient: &Patient<'_>, host: SocketAddr) -> Finding {
    let media = &patient.config.media;
    let Some(socket) = media_socket(patient, host) else {
        let detail = format!("no port of {}-{} is free", media.ports.first, media.ports.last);
        return Finding::warn("echo", detail, "try again, or widen media_ports");
    };
    let own = socket.local_addr().map_or(0, |at| at.port());
    let Some(seen) = asked(&socket, host) else {
        let detail = format!(
            "udp {host} of this cluster does not answer our media port {own}: sound between the \
            two hosts is lost too"
        );
        let (first, last) = (media.ports.first, media.ports.last);
        let fix = format!(
            "allow UDP {first}-{last} of this host and UDP {} of {} in both directions, in the \
            firewalls of both and between them",
            host.port(),
            host.ip()
        );
        return Finding::fail("echo", detail, fix);
    };
    let is_ours = |ip: IpAddr| patient.host.addresses.contains(&ip);
    let told = media.advertise.as_ref().map(ToString::to_string);
    let is_told = told.as_ref().is_some_and(|told| *told == seen.ip().to_string());
    if is_ours(seen.ip()) || is_told {
        let detail = format!("udp {host} answers our media port {own}, and saw {seen}");
        return Finding::ok("echo", detail);
    }
    let detail = format!(
        "udp {host} sees our media port {own} as {seen}: a NAT is between, and phones beyond it \
        are told {}",
        told.as_deref().unwrap_or("an address of this host")
    );
    let fix = format!("set media_advertise and sip_advertise to {}", seen.ip());
    Finding::warn("echo", detail, fix)
}

/// The last free port of the range: calls begin with the first.
fn media_socket(patient: &Patient<'_>, host: SocketAddr) -> Option<UdpSocket> {
    let media = &patient.config.media;
    let any: IpAddr = match host {
        SocketAddr::V4(_) => core::net::Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => core::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    let ip = if media.bind.is_ipv4() == any.is_ipv4() { media.bind } else { any };
    let mut ports = (media.ports.first..=media.ports.last).rev();
    ports.find_map(|port| UdpSocket::bind((ip, port)).ok())
}

/// Where the other one saw us.
fn asked(socket: &UdpSocket, host: SocketAddr) -> Option<SocketAddr> {
    socket.set_read_timeout(Some(PATIENCE)).ok()?;
    socket.connect(host).ok()?;
    let mut answer = [0_u8; 128];
    // One of three may be lost.
    (0..3).find_map(|_| {
        socket.send(&stun::request(TRANSACTION)).ok()?;
        let length = socket.recv(&mut answer).ok()?;
        let answer = answer.get(..length)?;
        stun::is_answer_to(TRANSACTION, answer).then(|| stun::seen_at(answer))?
    })
}
