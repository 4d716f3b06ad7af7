//! How a phone is connected: by a UDP port of its own, or by a TCP connection, which it makes anew when it breaks.

use super::super::world::own_ip;
use bytes::Bytes;
use holdfast::sip::framing::{StreamFramer, StreamItem};
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, SocketAddrV4, TcpStream, UdpSocket};

const LARGEST: usize = 65_536;

/// A phone's way to the server.
pub(super) struct Line {
    kind: Kind,
    server: SocketAddrV4,
    /// Its socket's events are told.
    is_told: bool,
    /// What a phone says of itself in Via and Contact.
    pub(super) local: SocketAddrV4,
    /// Connections that the server broke or refused.
    pub(super) broken: usize,
}

enum Kind {
    Udp(UdpSocket),
    Tcp(Option<(TcpStream, StreamFramer)>),
}

impl Line {
    pub(super) fn udp(server: SocketAddrV4) -> Self {
        let socket = UdpSocket::bind((own_ip(), 0)).expect("a port");
        socket.set_nonblocking(true).expect("a flag");
        let local = v4(socket.local_addr().expect("bound"));
        Self { kind: Kind::Udp(socket), server, is_told: false, local, broken: 0 }
    }

    pub(super) fn tcp(server: SocketAddrV4) -> Self {
        let local = SocketAddrV4::new(own_ip(), 0);
        Self { kind: Kind::Tcp(None), server, is_told: false, local, broken: 0 }
    }

    pub(super) fn is_tcp(&self) -> bool {
        matches!(self.kind, Kind::Tcp(_))
    }

    /// Has the events of its socket told by that number; a phone on TCP connects. False: nobody listens.
    pub(super) fn open(&mut self, epoll: &Epoll, number: u64) -> bool {
        if self.is_told {
            return true;
        }
        let event = EpollEvent::new(EpollFlags::EPOLLIN, number);
        match &mut self.kind {
            Kind::Udp(socket) => epoll.add(socket, event).expect("a socket"),
            Kind::Tcp(connection) => {
                let Ok(stream) = TcpStream::connect(self.server) else { return false };
                stream.set_nonblocking(true).expect("a flag");
                let _ = stream.set_nodelay(true);
                self.local = v4(stream.local_addr().expect("connected"));
                epoll.add(&stream, event).expect("a socket");
                *connection = Some((stream, StreamFramer::default()));
            }
        }
        self.is_told = true;
        true
    }

    pub(super) fn is_open(&self) -> bool {
        self.is_told
    }

    /// What cannot be sent is lost: a phone on UDP says it again.
    pub(super) fn send(&mut self, bytes: &[u8]) {
        match &mut self.kind {
            Kind::Udp(socket) => _ = socket.send_to(bytes, self.server),
            Kind::Tcp(Some((stream, _))) => _ = stream.write_all(bytes),
            Kind::Tcp(None) => {}
        }
    }

    /// All that has come from the server. A connection that broke is closed.
    pub(super) fn read(&mut self) -> Vec<Bytes> {
        let mut buffer = [0_u8; LARGEST];
        let mut messages = Vec::new();
        match &mut self.kind {
            Kind::Udp(socket) => {
                while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                    if v4(from) == self.server {
                        messages.push(Bytes::copy_from_slice(&buffer[..length]));
                    }
                }
            }
            Kind::Tcp(connection) => {
                let Some((stream, framer)) = connection else { return messages };
                let is_over = loop {
                    match stream.read(&mut buffer) {
                        Ok(0) => break true,
                        Ok(length) => framer.push(&buffer[..length]),
                        Err(error) => break error.kind() != ErrorKind::WouldBlock,
                    }
                };
                while let Some(item) = framer.next_item() {
                    if let StreamItem::Message(bytes) = item {
                        messages.push(bytes);
                    }
                }
                if is_over {
                    self.broken += 1;
                    *connection = None;
                    self.is_told = false;
                }
            }
        }
        messages
    }
}

fn v4(address: SocketAddr) -> SocketAddrV4 {
    match address {
        SocketAddr::V4(address) => address,
        SocketAddr::V6(_) => unreachable!("sockets of IPv4"),
    }
}
