//! What this host is: its name, its addresses, and which of them can be bound.

use crate::net::local_address::addresses_of_this_host;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::net::UdpSocket;

/// This host, as settings are checked against it.
#[derive(Clone, Debug)]
pub struct Host {
    /// Host name without domain.
    pub name: String,
    /// Addresses of its interfaces, loopback and link-local left out.
    pub addresses: Vec<IpAddr>,
    /// A socket can be bound there. Asked of the kernel: a floating address may be allowed before
    /// it is here.
    pub can_bind: fn(IpAddr) -> bool,
}

impl Host {
    /// Asks the kernel.
    pub fn of_this_process() -> Self {
        let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
        let name = name.unwrap_or_default();
        let first_label = name.split('.').next().unwrap_or_default();
        let known = |c: &char| c.is_ascii_alphanumeric() || *c == '-' || *c == '_';
        let label: String = first_label.chars().filter(known).take(48).collect();
        Self {
            name: if label.is_empty() { "holdfast".to_owned() } else { label },
            addresses: interface_addresses(),
            can_bind: |ip| match UdpSocket::bind(SocketAddr::new(ip, 0)) {
                Ok(_) => true,
                Err(error) => error.kind() != std::io::ErrorKind::AddrNotAvailable,
            },
        }
    }

    /// What to do about an address that is not here.
    pub fn not_here(&self, key: &str, advertise: &str, ip: IpAddr) -> String {
        let here: Vec<String> = self.addresses.iter().map(ToString::to_string).collect();
        let here = here.join(", ");
        let any = if ip.is_ipv4() { "0.0.0.0" } else { "::" };
        if advertise == key {
            return format!("{key}: {ip} is not on this host; use one of {here} or {any}");
        }
        format!(
            "{key}: {ip} is not on this host; set {advertise}={ip} and {key} to an address of \
             this host ({here}) or {any}"
        )
    }

    /// The address that phones on the LAN use: the one the default route leaves by, else the first
    /// there is.
    pub fn lan_address(&self) -> IpAddr {
        let first = || self.addresses.iter().find(|ip| ip.is_ipv4()).copied();
        let found = routed_by(Ipv4Addr::new(192, 0, 2, 1).into()).or_else(first);
        let found = found.or_else(|| self.addresses.first().copied());
        found.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
    }

    /// The same of IPv6; without any, loopback.
    pub fn lan_address_v6(&self) -> IpAddr {
        let first = || self.addresses.iter().find(|ip| ip.is_ipv6()).copied();
        let found = routed_by(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into());
        found.or_else(first).unwrap_or(IpAddr::V6(Ipv6Addr::LOCALHOST))
    }
}

/// Our address of the route to there. Connecting a datagram socket sends nothing; it only asks the routing table.
fn routed_by(far: IpAddr) -> Option<IpAddr> {
    let any = match far {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(SocketAddr::new(far, 9)).ok()?;
    let local = socket.local_addr().ok()?.ip();
    (!local.is_unspecified() && !local.is_loopback()).then_some(local)
}

/// Those that others can be told: a link-local address means nothing beyond its link.
fn interface_addresses() -> Vec<IpAddr> {
    let mut addresses = addresses_of_this_host();
    addresses.retain(|ip| match ip {
        IpAddr::V4(v4) => !v4.is_link_local(),
        IpAddr::V6(v6) => !v6.is_unicast_link_local(),
    });
    addresses.dedup();
    addresses
}
