//! A router with NAT between the network of a test and phones of its own, made of the kernel's nftables.
//!
//! Invariant: nothing is sent back into the private network that came from it (no hairpin).

use crate::common::network::{Machine, Network, in_a_network, ip};
use crate::common::{SOON, eventually, own_ip};
use std::fs;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::process::{Command, Stdio};
use std::time::Duration;

/// What a NAT lets in, in the words of RFC 3489 §5.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Whatever comes to a port that is in use.
    FullCone,
    /// What comes from an address that was spoken to.
    Restricted,
    /// What comes from an address and port that were spoken to.
    PortRestricted,
    /// The same, and each of them is spoken to from another port.
    Symmetric,
}

impl Kind {
    pub(crate) const ALL: [Self; 4] =
        [Self::FullCone, Self::Restricted, Self::PortRestricted, Self::Symmetric];

    /// Rules for a private network with a phone at `phone`.
    fn rules(self, phone: Ipv4Addr) -> String {
        let source = match self {
            Self::Symmetric => "masquerade fully-random",
            Self::FullCone | Self::Restricted | Self::PortRestricted => "masquerade",
        };
        // A port is kept by the kernel as long as nobody else has it: one mapping for all who are spoken to.
        let inward = match self {
            Self::FullCone => format!("iifname cable udp dport 1024-65535 dnat to {phone};"),
            Self::Restricted => {
                format!("iifname cable ip saddr @known udp dport 1024-65535 dnat to {phone};")
            }
            Self::PortRestricted | Self::Symmetric => String::new(),
        };
        format!(
            "table ip nat {{
               set known {{ type ipv4_addr; flags dynamic,timeout; size 1024; }}
               chain outward {{
                 type filter hook forward priority 0;
                 oifname cable update @known {{ ip daddr timeout 3m }}
               }}
               chain source {{ type nat hook postrouting priority 100; oifname cable {source}; }}
               chain inward {{ type nat hook prerouting priority -100; {inward} }}
             }}"
        )
    }
}

/// The router, and the phones' network behind it.
pub(crate) struct Router {
    machine: Machine,
    number: u8,
}

impl Router {
    pub(crate) fn new(network: &Network, number: u8, kind: Kind) -> Self {
        let router = Self { machine: network.machine(number), number };
        let rules = kind.rules(router.inside(2));
        router.machine.within(|| {
            ip("link add switch type bridge");
            ip(&format!("addr add {}/24 dev switch", router.inside(1)));
            ip("link set switch up");
            set("net/ipv4/ip_forward", "1");
            nft(&rules);
        });
        router
    }

    /// Its address towards everybody else.
    pub(crate) fn ip(&self) -> Ipv4Addr {
        self.machine.ip
    }

    /// A flow is forgotten after so many seconds without a packet.
    pub(crate) fn forgets_after(&self, seconds: u32) {
        self.machine.within(|| {
            for key in ["nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream"] {
                set(&format!("net/netfilter/{key}"), &seconds.to_string());
            }
        });
    }

    /// A phone's place behind it; 2 is the one that cones let others reach.
    pub(crate) fn place(&self, number: u8) -> Machine {
        let machine = self.machine.within(|| Machine::wired(self.inside(number)));
        machine.within(|| ip(&format!("route add default via {}", self.inside(1))));
        machine
    }

    /// Its line comes up anew: another address, and all flows are forgotten.
    pub(crate) fn moves_to(&mut self, number: u8) {
        let [a, b, c, _] = self.machine.ip.octets();
        let (former, next) = (self.machine.ip, Ipv4Addr::new(a, b, c, number));
        self.machine.within(|| {
            ip(&format!("addr del {former}/24 dev cable"));
            ip(&format!("addr add {next}/24 dev cable"));
        });
        self.machine.ip = next;
    }

    fn inside(&self, number: u8) -> Ipv4Addr {
        Ipv4Addr::new(192, 168, self.number, number)
    }
}

fn set(key: &str, value: &str) {
    let written = fs::write(format!("/proc/sys/{key}"), value);
    written.unwrap_or_else(|error| panic!("{key}: {error}"));
}

pub(crate) fn nft(rules: &str) {
    let mut nft = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("nft is not installed: apt-get install -y nftables");
    let mut input = nft.stdin.take().expect("a pipe");
    input.write_all(rules.as_bytes()).expect("nft reads");
    drop(input);
    assert!(nft.wait().expect("a child of ours").success(), "nft refuses {rules}");
}

/// What NAT of that kind does, seen from outside.
#[test]
fn routers_are_of_their_kind() {
    in_a_network(|network| {
        let others = [11, 12, 13].map(|number| network.machine(number));
        for (kind, number) in Kind::ALL.into_iter().zip(21..) {
            let router = Router::new(network, number, kind);
            let place = router.place(2);
            let socket = place.within(bound);
            let [spoken_to, also, _] = others.each_ref().map(|other| other.within(bound));
            let neighbour = others[0].within(bound);
            let mapped = [&spoken_to, &also].map(|other| mapping(&socket, other));
            assert_eq!(mapped[0] == mapped[1], kind != Kind::Symmetric, "{kind:?} {mapped:?}");

            // Another port of the phone, which spoke to one of them only.
            let socket = place.within(bound);
            let mapped = mapping(&socket, &spoken_to);
            let stranger = others[2].within(bound);
            let cone = matches!(kind, Kind::FullCone | Kind::Restricted);
            for (what, from, expected) in [
                ("who was spoken to", &spoken_to, true),
                ("another port of who was spoken to", &neighbour, cone),
                ("a stranger", &stranger, kind == Kind::FullCone),
            ] {
                assert_eq!(lets_in(&socket, from, mapped, expected), expected, "{kind:?}: {what}");
            }
        }
    });
}

/// Whether what `from` says to `mapped` comes to `socket`. What is expected may need another try: a cable that was just
/// put in takes nothing yet.
fn lets_in(socket: &UdpSocket, from: &UdpSocket, mapped: SocketAddr, expected: bool) -> bool {
    let tries = if expected { 20 } else { 2 };
    let sender = from.local_addr().expect("bound");
    (0..tries).any(|_| {
        from.send_to(b"hello", mapped).expect("a datagram leaves");
        socket.recv_from(&mut [0_u8; 16]).is_ok_and(|(_, source)| source == sender)
    })
}

fn bound() -> UdpSocket {
    let socket = UdpSocket::bind((own_ip(), 0)).expect("a port");
    socket.set_read_timeout(Some(Duration::from_millis(300))).expect("a time");
    socket
}

/// Where `outside` sees `inside`.
fn mapping(inside: &UdpSocket, outside: &UdpSocket) -> SocketAddr {
    let address = outside.local_addr().expect("bound");
    eventually("a datagram goes through the router", SOON, || {
        inside.send_to(b"hello", address).expect("a datagram leaves");
        outside.recv_from(&mut [0_u8; 16]).map(|(_, source)| source).ok()
    })
}
