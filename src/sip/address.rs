//! Where responses go and which address we give of ourselves (RFC 3261 §18.1.1, §18.2, RFC 3581).
//!
//! Invariant: without a configured address, Contact and Via carry the address the kernel uses towards that peer, so a
//! phone is never told an address it cannot reach. Peers in local networks never get the public address.

use super::{HeaderName, Request};
use crate::ids::Flow;
use core::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// A network in CIDR notation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl core::str::FromStr for Network {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (address, prefix) =
            text.split_once('/').ok_or("a network is written address/prefix")?;
        let address: IpAddr = address.parse().map_err(|_| "not an IP address")?;
        let prefix: u8 = prefix.parse().map_err(|_| "not a prefix length")?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        if prefix > most {
            return Err("the prefix is too long");
        }
        Ok(Self { address, prefix })
    }
}

impl Network {
    /// The address belongs to the network.
    pub fn contains(&self, address: IpAddr) -> bool {
        let (ours, theirs, bits) = match (self.address, address.to_canonical()) {
            (IpAddr::V4(ours), IpAddr::V4(theirs)) => {
                (u128::from(ours.to_bits()), u128::from(theirs.to_bits()), 32)
            }
            (IpAddr::V6(ours), IpAddr::V6(theirs)) => (ours.to_bits(), theirs.to_bits(), 128),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return false,
        };
        let shift = bits - u32::from(self.prefix);
        ours.checked_shr(shift).unwrap_or(0) == theirs.checked_shr(shift).unwrap_or(0)
    }
}

/// What we say of ourselves.
#[derive(Clone, Debug, Default)]
pub struct Advertise {
    /// `HOLDFAST_SIP_ADVERTISE`: a name or address (IPv6 in brackets), and a port when given.
    pub public: Option<(Arc<str>, Option<u16>)>,
    /// `HOLDFAST_LOCAL_NETS`, and loopback.
    pub local_nets: Arc<[Network]>,
}

impl Advertise {
    /// `host:port` for Contact and Via towards the peer of a flow.
    pub fn host_port(&self, flow: &Flow) -> String {
        let remote = flow.remote.ip();
        let local = remote.is_loopback() || self.local_nets.iter().any(|net| net.contains(remote));
        match &self.public {
            Some((host, port)) if !local => {
                format!("{host}:{}", port.unwrap_or_else(|| flow.local.port()))
            }
            Some(_) | None => canonical(flow.local).to_string(),
        }
    }
}

/// An IPv4 address that came through an IPv6 socket, as IPv4.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Notes the source in the top Via (`received`, and `rport` when asked; RFC 3261 §18.2.1, RFC 3581 §4).
pub fn stamp_via(request: &mut Request, flow: &Flow) {
    let Some(via) = request.top_via() else { return };
    let source = canonical(flow.remote);
    let asked_rport = via.param("rport").is_some();
    let differs = match &via.host {
        super::uri::Host::Ip(ip) => *ip != source.ip(),
        super::uri::Host::Name(_) => true,
    };
    if differs || asked_rport {
        let stamped = via.stamped(source);
        request.headers.replace_first_element(&HeaderName::Via, &stamped);
    }
}

/// The flow of responses to a request: the connection it came over; over UDP the source when rport was asked or a NAT
/// is seen (source address and sent-by differ), else the source address and the sent-by port (RFC 3261 §18.2.2).
pub fn reply_flow(request: &Request, flow: &Flow) -> Flow {
    if flow.transport.is_reliable() {
        return *flow;
    }
    let Some(via) = request.top_via() else { return *flow };
    let is_source = via.host == super::uri::Host::Ip(canonical(flow.remote).ip());
    if via.param("rport").is_some() || !is_source {
        return *flow;
    }
    let mut flow = *flow;
    flow.remote.set_port(via.port.unwrap_or(5060));
    flow
}
