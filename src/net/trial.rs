//! Whether a port could be had: bound for a moment as a server would, but without sharing.

use core::net::SocketAddr;
use socket2::{Domain, Protocol, Socket, Type};
use std::io;

/// UDP. A socket of IPv6 may leave the port of IPv4 to others.
pub fn udp(address: SocketAddr, only_v6: bool) -> io::Result<()> {
    bound(address, only_v6, Type::DGRAM, Protocol::UDP).map(drop)
}

/// TCP. Connections that ended a moment ago are in nobody's way.
pub fn tcp(address: SocketAddr, only_v6: bool) -> io::Result<()> {
    bound(address, only_v6, Type::STREAM, Protocol::TCP)?.listen(1)
}

fn bound(address: SocketAddr, only_v6: bool, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    if address.is_ipv6() {
        socket.set_only_v6(only_v6)?;
    }
    // UDP would share the port.
    if kind == Type::STREAM {
        socket.set_reuse_address(true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}
