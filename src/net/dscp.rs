//! Marks of what is urgent (RFC 4594 §3): EF on sound, CS3 on signaling, in both families.

use core::net::SocketAddr;
use socket2::Socket;
use std::io;

/// A code point of RFC 2474.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dscp {
    /// Signaling.
    Cs3 = 24,
    /// Sound.
    Ef = 46,
}

impl Dscp {
    /// Marks what a socket sends, which is bound to or talks with addresses of the family of `address`.
    pub fn mark(self, socket: &Socket, address: SocketAddr) -> io::Result<()> {
        // The two lowest bits are ECN's (RFC 3168).
        let byte = (self as u32) << 2;
        match address {
            SocketAddr::V4(_) => socket.set_tos_v4(byte),
            SocketAddr::V6(_) => socket.set_tclass_v6(byte),
        }
    }

    /// Which mark a socket has, as the kernel says.
    pub fn of(socket: &Socket, address: SocketAddr) -> io::Result<u32> {
        let byte = match address {
            SocketAddr::V4(_) => socket.tos_v4()?,
            SocketAddr::V6(_) => socket.tclass_v6()?,
        };
        Ok(byte >> 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ConnectionId;
    use crate::net::rtp_socket::RtpSocket;
    use crate::net::tcp::TcpEndpoint;
    use crate::net::udp::UdpEndpoint;
    use socket2::SockRef;
    use std::os::fd::AsFd as _;

    fn check(socket: &Socket, at: SocketAddr, expect: Dscp, what: &str) {
        let mark = Dscp::of(socket, at).expect("the kernel tells");
        assert_eq!(mark, expect as u32, "{what} at {at}");
    }

    #[tokio::test]
    async fn every_socket_is_marked_in_both_families() {
        for at in ["127.0.0.1:0", "[::1]:0"] {
            let at: SocketAddr = at.parse().expect("literal");
            let rtp = RtpSocket::bind(at).expect("bind");
            check(&SockRef::from(&rtp.as_fd()), at, Dscp::Ef, "sound");
            let udp = UdpEndpoint::bind(at).expect("bind").share().expect("a copy");
            check(&SockRef::from(&udp), at, Dscp::Cs3, "SIP over UDP");
            let mut here = TcpEndpoint::new(ConnectionId(0));
            let there = TcpEndpoint::new(ConnectionId(9));
            here.listen(at).expect("listen");
            let listeners = here.shared_listeners().expect("copies");
            check(&SockRef::from(&listeners[0].1), at, Dscp::Cs3, "the listener");
            here.connections().begin_news();
            there.connections().begin_news();
            let to = here.local()[0];
            there.connections().connect(to, 5_060).await.expect("connected");
            here.event().await.expect("accepted");
            for (connections, what) in [
                (there.connections(), "a connection of ours"),
                (here.connections(), "one of theirs"),
            ] {
                let news = connections.news().await;
                check(&SockRef::from(&*news.opened[0].1), at, Dscp::Cs3, what);
            }
        }
    }
}
