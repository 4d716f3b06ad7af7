//! Where a name leads (RFC 3263): NAPTR, then SRV, then addresses. A literal is not looked up.
//!
//! Invariant: every answer comes within `DEADLINE`; no answer is an empty list, never a hang.

use crate::ids::Transport;
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use hickory_resolver::TokioResolver;
use hickory_resolver::proto::rr::{RData, RecordType};

/// A resolver that needs longer is of no use to a call.
const DEADLINE: Duration = Duration::from_secs(5);
/// Addresses tried for one name.
const MOST: usize = 16;

/// Looks names up; keeps answers as long as their TTL allows.
#[derive(Clone, Debug)]
pub struct Resolver {
    inner: Option<TokioResolver>,
}

impl Default for Resolver {
    fn default() -> Self {
        Self::new()
    }
}

impl Resolver {
    /// With the system's settings. Without any, only literals and nothing else resolve.
    pub fn new() -> Self {
        let inner = TokioResolver::builder_tokio().and_then(|builder| builder.build()).ok();
        Self { inner }
    }

    /// Only literals resolve.
    pub const fn none() -> Self {
        Self { inner: None }
    }

    /// Addresses in the order to be tried. `port` and `transport` as the URI says them.
    pub async fn resolve(
        &self,
        host: &str,
        port: Option<u16>,
        transport: Option<Transport>,
    ) -> Vec<(Transport, SocketAddr)> {
        let literal = host.trim_start_matches('[').trim_end_matches(']');
        if let Ok(ip) = literal.parse::<IpAddr>() {
            let transport = transport.unwrap_or(Transport::Udp);
            return vec![(transport, SocketAddr::new(ip, port.unwrap_or(default_port(transport))))];
        }
        let Some(inner) = &self.inner else { return Vec::new() };
        let looked_up = tokio::time::timeout(DEADLINE, look_up(inner, host, port, transport)).await;
        let mut found = looked_up.unwrap_or_default();
        found.truncate(MOST);
        found
    }
}

/// RFC 3263 §4.1 and §4.2.
async fn look_up(
    resolver: &TokioResolver,
    host: &str,
    port: Option<u16>,
    transport: Option<Transport>,
) -> Vec<(Transport, SocketAddr)> {
    if let Some(port) = port {
        return addresses(resolver, host, port, transport.unwrap_or(Transport::Udp)).await;
    }
    let services = match transport {
        Some(transport) => vec![(transport, service(transport, host))],
        None => {
            let named = naptr(resolver, host).await;
            if named.is_empty() {
                [Transport::Udp, Transport::Tcp].map(|t| (t, service(t, host))).to_vec()
            } else {
                named
            }
        }
    };
    let mut found = Vec::new();
    for (transport, name) in services {
        for (target, port) in srv(resolver, &name).await {
            found.extend(addresses(resolver, &target, port, transport).await);
        }
    }
    if found.is_empty() {
        let transport = transport.unwrap_or(Transport::Udp);
        return addresses(resolver, host, default_port(transport), transport).await;
    }
    found
}

/// Services that a domain prefers, of the transports we speak.
async fn naptr(resolver: &TokioResolver, host: &str) -> Vec<(Transport, String)> {
    let Ok(lookup) = resolver.lookup(host, RecordType::NAPTR).await else { return Vec::new() };
    let mut records: Vec<_> = lookup
        .answers()
        .iter()
        .filter_map(|record| match &record.data {
            RData::NAPTR(naptr) => Some(naptr.clone()),
            _ => None,
        })
        .collect();
    records.sort_by_key(|naptr| (naptr.order, naptr.preference));
    let known = records.iter().filter_map(|naptr| {
        let transport = match naptr.services.to_ascii_uppercase().as_slice() {
            b"SIP+D2U" => Transport::Udp,
            b"SIP+D2T" => Transport::Tcp,
            _ => return None,
        };
        Some((transport, naptr.replacement.to_utf8()))
    });
    known.collect()
}

/// Targets by priority, heavier first (a full weighted draw needs more callers than a switch has).
async fn srv(resolver: &TokioResolver, name: &str) -> Vec<(String, u16)> {
    let Ok(lookup) = resolver.lookup(name, RecordType::SRV).await else { return Vec::new() };
    let mut records: Vec<_> = lookup
        .answers()
        .iter()
        .filter_map(|record| match &record.data {
            RData::SRV(srv) => Some(srv.clone()),
            _ => None,
        })
        .collect();
    records.sort_by_key(|srv| (srv.priority, core::cmp::Reverse(srv.weight)));
    records.iter().map(|srv| (srv.target.to_utf8(), srv.port)).collect()
}

async fn addresses(
    resolver: &TokioResolver,
    host: &str,
    port: u16,
    transport: Transport,
) -> Vec<(Transport, SocketAddr)> {
    let Ok(lookup) = resolver.lookup_ip(host).await else { return Vec::new() };
    lookup.iter().map(|ip| (transport, SocketAddr::new(ip, port))).collect()
}

fn service(transport: Transport, host: &str) -> String {
    match transport {
        Transport::Udp => format!("_sip._udp.{host}"),
        Transport::Tcp | Transport::Ws => format!("_sip._tcp.{host}"),
        Transport::Tls | Transport::Wss => format!("_sips._tcp.{host}"),
    }
}

const fn default_port(transport: Transport) -> u16 {
    match transport {
        Transport::Udp | Transport::Tcp => 5060,
        Transport::Tls => 5061,
        Transport::Ws => 80,
        Transport::Wss => 443,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn literals_and_the_hosts_file_need_no_server() {
        let resolver = Resolver::new();
        let found = resolver.resolve("[2001:db8::1]", None, Some(Transport::Tcp)).await;
        assert_eq!(found, [(Transport::Tcp, "[2001:db8::1]:5060".parse().expect("address"))]);
        let found = resolver.resolve("localhost", Some(5070), None).await;
        assert!(found.contains(&(Transport::Udp, ([127, 0, 0, 1], 5070).into())), "{found:?}");
    }
}
