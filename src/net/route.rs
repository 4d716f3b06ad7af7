//! Which way the kernel sends a packet: asked by rtnetlink, as `ip route get` asks.

use core::cell::RefCell;
use core::net::Ipv4Addr;
use netlink_packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, protocols::NETLINK_ROUTE};
use std::io;

thread_local! {
    /// In the network of the thread's process.
    static KERNEL: RefCell<Option<Socket>> = const { RefCell::new(None) };
}

/// How a packet leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// It does not: its destination is here.
    Local,
    /// By the interface of that number.
    Interface(u32),
}

/// The way of a packet from `source`, an address of ours, to `destination`. `None`: there is none.
pub fn route(source: Ipv4Addr, destination: Ipv4Addr) -> Option<Route> {
    KERNEL.with_borrow_mut(|kernel| {
        let answer = ask(kernel, source, destination);
        if answer.is_err() {
            // What is left in a socket that failed is no answer to the next question.
            *kernel = None;
        }
        answer.ok().flatten()
    })
}

fn ask(
    kernel: &mut Option<Socket>,
    source: Ipv4Addr,
    destination: Ipv4Addr,
) -> io::Result<Option<Route>> {
    let kernel = match kernel {
        Some(kernel) => kernel,
        None => kernel.insert(Socket::new(NETLINK_ROUTE)?),
    };
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    message.header.destination_prefix_length = 32;
    message.header.source_prefix_length = 32;
    message.attributes = vec![
        RouteAttribute::Destination(RouteAddress::Inet(destination)),
        RouteAttribute::Source(RouteAddress::Inet(source)),
    ];
    let mut question = NetlinkMessage::from(RouteNetlinkMessage::GetRoute(message));
    question.header.flags = NLM_F_REQUEST;
    question.finalize();
    let mut bytes = vec![0; question.buffer_len()];
    question.serialize(&mut bytes);
    kernel.send(&bytes, 0)?;
    let (bytes, _) = kernel.recv_from_full()?;
    let answer = NetlinkMessage::deserialize(&bytes).map_err(io::Error::other)?;
    let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(route)) = answer.payload else {
        // An error of the kernel: no route.
        return Ok(None);
    };
    let interface = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(number) => Some(*number),
        _ => None,
    });
    Ok(match route.header.kind {
        RouteType::Local => Some(Route::Local),
        RouteType::Unicast => interface.map(Route::Interface),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_here_is_local_and_what_nobody_has_has_no_way() {
        let here = Ipv4Addr::LOCALHOST;
        for _ in 0..2 {
            assert_eq!(route(here, Ipv4Addr::new(127, 9, 9, 9)), Some(Route::Local));
            // RFC 1122 §3.2.1.3: no packet of loopback leaves the host.
            assert_eq!(route(here, Ipv4Addr::new(192, 0, 2, 1)), None);
            assert_eq!(route(here, Ipv4Addr::new(224, 0, 0, 1)), None);
        }
    }
}
