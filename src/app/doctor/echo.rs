//! An echo from other hosts: a datagram leaves from one of our media ports, the other host's SIP port answers it there,
//! and says which address it saw.
//!
//! Invariant: only hosts that are of this cluster are asked: those of `join`, those that the database names, and those
//! that the person who looks names.

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

/// Who is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Other {
    sip: SocketAddr,
    /// Its SIP port is known, not guessed.
    is_certain: bool,
}

pub(super) async fn check(
    patient: &Patient<'_>,
    nodes: &[NodeRow],
    named: &[String],
) -> Vec<Finding> {
    let (mut findings, mut others) = (Vec::new(), Vec::new());
    let certain = |sip| Other { sip, is_certain: true };
    for name in named {
        match resolved(name).await {
            Some(sip) => others.push(certain(sip)),
            None => {
                let detail = format!("{name} has no address: nobody is asked there");
                findings.push(Finding::fail("echo", detail, "give host:port, as 10.0.0.5:5060"));
            }
        }
    }
    others.extend(nodes.iter().filter_map(sip_of).map(certain));
    others.retain(|one| {
        let ip = one.sip.ip();
        !ip.is_loopback() && !patient.host.addresses.contains(&ip)
    });
    if !patient.config.mode.has_signaling() {
        for sip in joined(patient).await {
            let ip = sip.ip();
            let is_far = !ip.is_loopback() && !patient.host.addresses.contains(&ip);
            if is_far && others.iter().all(|one| one.sip.ip() != ip) {
                others.push(Other { sip, is_certain: false });
            }
        }
    }
    others.sort_unstable();
    others.dedup();
    findings.extend(others.iter().take(HOSTS).map(|other| echo(patient, *other)));
    findings
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
    let mut found = Vec::new();
    for name in &patient.config.join {
        found.extend(resolved(super::reach::host_of(name)).await);
    }
    found
}

/// Without a port the usual one.
async fn resolved(name: &str) -> Option<SocketAddr> {
    let host = super::reach::host_of(name);
    let port = name.strip_prefix(host).and_then(|rest| rest.strip_prefix(':')?.parse().ok());
    let (host, port) = (host.trim_matches(['[', ']']), port.unwrap_or(SIP_PORT));
    let found = Resolver::new().resolve(host, Some(port), Some(Transport::Udp)).await;
    found.first().map(|(_, address)| *address)
}

fn echo(patient: &Patient<'_>, other: Other) -> Finding {
    let (media, host) = (&patient.config.media, other.sip);
    let Some(socket) = media_socket(patient, host) else {
        let detail = format!("no port of {}-{} is free", media.ports.first, media.ports.last);
        return Finding::warn("echo", detail, "try again, or widen media_ports");
    };
    let own = socket.local_addr().map_or(0, |at| at.port());
    let Some(seen) = asked(&socket, host) else { return unanswered(patient, other, own) };
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

fn unanswered(patient: &Patient<'_>, other: Other, own: u16) -> Finding {
    let (ports, host) = (&patient.config.media.ports, other.sip);
    let (first, last) = (ports.first, ports.last);
    let allow = format!(
        "allow UDP {first}-{last} of this host and the SIP port of {} in both directions, in the \
        firewalls of both and between them",
        host.ip()
    );
    if other.is_certain {
        let detail = format!(
            "udp {host} of this cluster does not answer our media port {own}: sound between the \
            two hosts is lost too"
        );
        return Finding::fail("echo", detail, allow);
    }
    let detail = format!(
        "udp {host} does not answer our media port {own}: its SIP is at another port, which is \
        not known here, or else sound between the two hosts is lost too"
    );
    let again = SocketAddr::new(host.ip(), 5070);
    let fix = format!("holdfast doctor --echo {again}, or what its SIP port is; then {allow}");
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
