//! The way to a collector of HEP: datagrams, or a connection on which packets gather and leave together.
//!
//! Invariants: nothing here waits but making a link; what waits for the collector to read is bounded.

use crate::ids::Transport;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use core::time::Duration;
use std::io::{self, ErrorKind, Write as _};
use std::net::{TcpStream, UdpSocket};

/// To make a connection.
const PATIENCE: Duration = Duration::from_secs(5);
/// Gathered bytes that are worth a write of their own.
const GATHERED: usize = 64 * 1024;
/// Bytes that a collector has not read; what comes on top is lost.
const WAITING: usize = 4 * 1024 * 1024;

/// See the module.
#[derive(Debug)]
pub(super) enum Link {
    Datagrams(UdpSocket),
    Stream(Stream),
}

/// A connection and what is to be written to it.
#[derive(Debug)]
pub(super) struct Stream {
    stream: TcpStream,
    waiting: Waiting,
}

/// What is to be written to a connection, or to one that is being made.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    bytes: Vec<u8>,
    /// Packets in it; at least those, while one of them is written in part.
    packets: u64,
}

impl Waiting {
    /// One that takes about so many bytes, written where it is to be. False: there is no room.
    pub(super) fn gather(&mut self, bytes: usize, append: impl FnOnce(&mut Vec<u8>)) -> bool {
        if self.bytes.len() + bytes > WAITING {
            return false;
        }
        append(&mut self.bytes);
        self.packets += 1;
        true
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

impl Link {
    /// A connection is waited for.
    pub(super) fn make(target: SocketAddr, transport: Transport) -> io::Result<Self> {
        if transport == Transport::Tcp {
            let stream = TcpStream::connect_timeout(&target, PATIENCE)?;
            stream.set_nonblocking(true)?;
            return Ok(Self::Stream(Stream { stream, waiting: Waiting::default() }));
        }
        let any: IpAddr = match target {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0))?;
        socket.set_nonblocking(true)?;
        socket.connect(target)?;
        Ok(Self::Datagrams(socket))
    }

    /// What waited for it goes first.
    pub(super) fn begin_with(&mut self, waiting: Waiting) {
        if let Self::Stream(stream) = self {
            stream.waiting = waiting;
        }
    }

    pub(super) const fn is_stream(&self) -> bool {
        matches!(self, Self::Stream(_))
    }

    /// A packet of about so many bytes. False: it is lost. On a connection it may wait for `flush`.
    pub(super) fn send(&mut self, bytes: usize, append: impl FnOnce(&mut Vec<u8>)) -> bool {
        match self {
            Self::Datagrams(socket) => {
                let mut packet = Vec::with_capacity(bytes);
                append(&mut packet);
                match socket.send(&packet) {
                    Ok(_) => true,
                    // What an earlier one met: nobody listened there. This one was not sent for it.
                    Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                        socket.send(&packet).is_ok()
                    }
                    Err(_) => false,
                }
            }
            Self::Stream(stream) => stream.waiting.gather(bytes, append),
        }
    }

    /// Writes what was gathered. An error says how many packets are lost with the connection.
    pub(super) fn flush(&mut self) -> Result<(), u64> {
        match self {
            Self::Datagrams(_) => Ok(()),
            Self::Stream(stream) => stream.write(),
        }
    }

    /// Something is not written yet.
    pub(super) const fn has_waiting(&self) -> bool {
        match self {
            Self::Datagrams(_) => false,
            Self::Stream(stream) => !stream.waiting.is_empty(),
        }
    }

    /// So much was gathered that it should be written.
    pub(super) const fn is_full(&self) -> bool {
        match self {
            Self::Datagrams(_) => false,
            Self::Stream(stream) => stream.waiting.bytes.len() >= GATHERED,
        }
    }
}

impl Stream {
    fn write(&mut self) -> Result<(), u64> {
        let Waiting { bytes, packets } = &mut self.waiting;
        let mut written = 0;
        while written < bytes.len() {
            match self.stream.write(&bytes[written..]) {
                Ok(0) => return Err(*packets),
                Ok(length) => written += length,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => return Err(*packets),
            }
        }
        bytes.drain(..written);
        if bytes.is_empty() {
            *packets = 0;
        }
        Ok(())
    }
}
