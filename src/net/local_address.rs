//! Which of our addresses the kernel uses towards a peer: what Contact, Via and SDP say when nothing is advertised.

use super::clock;
use crate::time::Timestamp;
use core::cell::RefCell;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use core::time::Duration;
use std::collections::HashMap;
use std::net::UdpSocket;

/// Routes change rarely; a call asks several times.
const KEPT: Duration = Duration::from_secs(5);
/// Peers remembered a thread; above it all are forgotten and asked again.
const REMEMBERED: usize = 1_024;

thread_local! {
    static ADDRESSES: RefCell<HashMap<IpAddr, (Timestamp, Option<IpAddr>)>> = RefCell::default();
}

/// The source address of what we would send to `remote` (nothing is sent). `None` without a route. Never unspecified.
pub fn local_address_towards(remote: IpAddr) -> Option<IpAddr> {
    let now = clock::now();
    ADDRESSES.with_borrow_mut(|addresses| {
        if let Some((at, address)) = addresses.get(&remote)
            && now.saturating_since(*at) < KEPT
        {
            return *address;
        }
        if addresses.len() >= REMEMBERED {
            addresses.clear();
        }
        let address = ask_kernel(remote);
        addresses.insert(remote, (now, address));
        address
    })
}

fn ask_kernel(remote: IpAddr) -> Option<IpAddr> {
    let any: IpAddr = match remote {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).ok()?;
    // Any port: connecting a datagram socket only looks up the route.
    socket.connect(SocketAddr::new(remote, 9)).ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_unspecified()).then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_reached_from_loopback() {
        let loopback = IpAddr::from([127, 0, 0, 1]);
        for _ in 0..2 {
            assert_eq!(local_address_towards(loopback), Some(loopback));
        }
        assert_eq!(
            local_address_towards(Ipv6Addr::LOCALHOST.into()),
            Some(IpAddr::V6(Ipv6Addr::LOCALHOST))
        );
    }
}
