//! Which of our addresses the kernel uses towards a peer: what Contact, Via and SDP say when nothing is advertised.

use super::clock;
use crate::time::Timestamp;
use core::cell::RefCell;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use core::time::Duration;
use nix::sys::socket::SockaddrStorage;
use std::collections::HashMap;
use std::net::UdpSocket;

/// Routes change rarely; a call asks several times.
const KEPT: Duration = Duration::from_secs(5);
/// Addresses of interfaces are read so often at most.
const OWN_KEPT: Duration = Duration::from_secs(1);
/// Peers remembered a thread; above it all are forgotten and asked again.
const REMEMBERED: usize = 1_024;

thread_local! {
    static ADDRESSES: RefCell<HashMap<IpAddr, (Timestamp, Option<IpAddr>)>> = RefCell::default();
    static OWN: RefCell<(Timestamp, Vec<IpAddr>)> =
        const { RefCell::new((Timestamp::EPOCH, Vec::new())) };
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

/// This host has the address (now, or within the last second).
pub fn is_of_this_host(address: IpAddr) -> bool {
    let address = address.to_canonical();
    address.is_loopback() || with_own(|own| own.contains(&address))
}

/// Every address of this host but loopback.
pub fn addresses_of_this_host() -> Vec<IpAddr> {
    with_own(|own| own.iter().copied().filter(|address| !address.is_loopback()).collect())
}

fn with_own<T>(read: impl FnOnce(&[IpAddr]) -> T) -> T {
    let now = clock::now();
    OWN.with_borrow_mut(|(until, own)| {
        if *until <= now {
            let interfaces = nix::ifaddrs::getifaddrs().into_iter().flatten();
            *own = interfaces.filter_map(|interface| ip_of(&interface.address?)).collect();
            *until = now + OWN_KEPT;
        }
        read(own)
    })
}

fn ip_of(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
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
    fn own_addresses_are_known() {
        let own = |text: &str| is_of_this_host(text.parse().expect("an address"));
        assert!(own("127.0.0.1") && own("127.9.9.9") && own("::1") && own("::ffff:127.0.0.1"));
        assert!(!own("192.0.2.1") && !own("2001:db8::1"), "addresses of documentation");
        assert!(addresses_of_this_host().into_iter().all(is_of_this_host));
    }

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
