//! What the kernel did with a socket's datagrams that found no room (`SO_MEMINFO`, Linux 4.12).

#![allow(missing_docs, reason = "the macro of nix documents nothing")]

use nix::libc;
use nix::sys::socket::getsockopt;
use nix::{getsockopt_impl, sockopt_impl};
use std::os::fd::AsFd;

/// Places in the kernel's answer (`SK_MEMINFO_*`), and how many there are.
const RECEIVE_BUFFER: usize = 1;
const DROPS: usize = 8;
const PLACES: usize = 9;

sockopt_impl!(MemoryInfo, GetOnly, libc::SOL_SOCKET, libc::SO_MEMINFO, [u32; PLACES]);

/// Of one socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketMemory {
    /// Granted for what waits to be read, in bytes as the kernel counts them (twice what was asked).
    pub receive_buffer_bytes: u32,
    /// Datagrams dropped since the socket was made, for want of room or a wrong checksum.
    pub drops: u32,
}

impl SocketMemory {
    /// `None`: this kernel does not tell.
    pub fn of(socket: &impl AsFd) -> Option<Self> {
        let told = getsockopt(socket, MemoryInfo).ok()?;
        Some(Self { receive_buffer_bytes: told[RECEIVE_BUFFER], drops: told[DROPS] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    #[test]
    fn what_finds_no_room_is_counted() {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("bind");
        socket2::SockRef::from(&socket).set_recv_buffer_size(4_096).expect("set");
        let before = SocketMemory::of(&socket).expect("Linux tells");
        assert_eq!(before, SocketMemory { receive_buffer_bytes: 8_192, drops: 0 });
        let sender = UdpSocket::bind("127.0.0.1:0").expect("bind");
        let to = socket.local_addr().expect("bound");
        for _ in 0..100 {
            sender.send_to(&[0; 1_000], to).expect("sent");
        }
        socket.set_nonblocking(true).expect("a flag");
        let mut buffer = [0; 1_000];
        let read = (0..100).take_while(|_| socket.recv(&mut buffer).is_ok()).count();
        let after = SocketMemory::of(&socket).expect("Linux tells");
        assert!(read < 100);
        assert_eq!(usize::try_from(after.drops).expect("few"), 100 - read);
    }
}
