//! A collector of HEP, version 3: reads chunks as the specification has them (hep3_rev12, "HEP3 packet structure").

use super::own_ip;
use std::collections::HashMap;
use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::{Arc, Mutex};
use std::thread;

/// A packet, chunk by chunk; of the generic vendor.
#[derive(Clone, Debug)]
pub(crate) struct Hep(HashMap<u16, Vec<u8>>);

impl Hep {
    /// Panics with what is wrong.
    fn read(bytes: &[u8]) -> Self {
        assert_eq!(&bytes[..4], b"HEP3");
        let number = |bytes: &[u8]| usize::from(u16::from_be_bytes([bytes[0], bytes[1]]));
        assert_eq!(number(&bytes[4..]), bytes.len(), "its length");
        let (mut rest, mut chunks) = (&bytes[6..], HashMap::new());
        while !rest.is_empty() {
            assert_eq!(number(rest), 0, "the vendor");
            let kind = u16::from_be_bytes([rest[2], rest[3]]);
            let length = number(&rest[4..]);
            let before = chunks.insert(kind, rest[6..length].to_vec());
            assert!(before.is_none(), "chunk {kind} twice");
            rest = &rest[length..];
        }
        Self(chunks)
    }

    pub(crate) fn chunk(&self, kind: u16) -> &[u8] {
        self.0.get(&kind).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn number(&self, kind: u16) -> u64 {
        self.chunk(kind).iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    pub(crate) fn text(&self, kind: u16) -> String {
        String::from_utf8(self.chunk(kind).to_vec()).expect("text")
    }

    /// That text stands in some chunk.
    pub(crate) fn holds(&self, text: &str) -> bool {
        let mut chunks = self.0.values();
        chunks.any(|chunk| chunk.windows(text.len()).any(|window| window == text.as_bytes()))
    }

    fn address(&self, ip: u16, port: u16) -> SocketAddr {
        let octets: [u8; 4] = self.chunk(ip).try_into().expect("IPv4");
        let port = u16::try_from(self.number(port)).expect("a port");
        SocketAddr::from((Ipv4Addr::from(octets), port))
    }

    pub(crate) fn source(&self) -> SocketAddr {
        self.address(0x0003, 0x0007)
    }

    pub(crate) fn target(&self) -> SocketAddr {
        self.address(0x0004, 0x0008)
    }

    pub(crate) fn micros(&self) -> u64 {
        self.number(0x0009) * 1_000_000 + self.number(0x000a)
    }

    /// Of one kind: 1 is SIP, 5 is RTCP.
    pub(crate) fn is_of(&self, kind: u64) -> bool {
        self.number(0x000b) == kind
    }
}

/// The collector.
pub(crate) struct Collector {
    pub(crate) address: SocketAddr,
    came: Arc<Mutex<Vec<Hep>>>,
}

impl Collector {
    pub(crate) fn start() -> Self {
        let socket = UdpSocket::bind((own_ip(), 0)).expect("a port");
        let address = socket.local_addr().expect("an address");
        let came: Arc<Mutex<Vec<Hep>>> = Arc::default();
        let packets = Arc::clone(&came);
        thread::spawn(move || {
            let mut buffer = vec![0; 65_536];
            while let Ok(length) = socket.recv(&mut buffer) {
                packets.lock().expect("no panic").push(Hep::read(&buffer[..length]));
            }
        });
        Self { address, came }
    }

    /// By connections.
    #[allow(dead_code, reason = "each test binary uses its part of it")]
    pub(crate) fn of_streams() -> Self {
        let listener = TcpListener::bind((own_ip(), 0)).expect("a port");
        let address = listener.local_addr().expect("an address");
        let came: Arc<Mutex<Vec<Hep>>> = Arc::default();
        let packets = Arc::clone(&came);
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let packets = Arc::clone(&packets);
                thread::spawn(move || {
                    let mut packet = vec![0; 6];
                    while stream.read_exact(&mut packet).is_ok() {
                        let length = u16::from_be_bytes([packet[4], packet[5]]);
                        packet.resize(length.into(), 0);
                        stream.read_exact(&mut packet[6..]).expect("all of a packet");
                        packets.lock().expect("no panic").push(Hep::read(&packet));
                        packet.truncate(6);
                    }
                });
            }
        });
        Self { address, came }
    }

    pub(crate) fn came(&self) -> Vec<Hep> {
        self.came.lock().expect("no panic").clone()
    }
}
