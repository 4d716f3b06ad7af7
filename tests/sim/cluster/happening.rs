//! What will happen in the world, and who it happens to.

use super::faults::Fault;
use super::hosts::Break;
use super::media::{Asked, Parcel};
use super::world::World;
use bytes::Bytes;
use core::net::SocketAddr;
use holdfast::control::Frame;
use holdfast::ids::{ConnectionId, NodeName};
use holdfast::signaling::driven::{Errand, Incoming, PeerAddress};

/// Something that will happen.
#[derive(Debug)]
pub enum Happening {
    /// A datagram reaches the port that the nodes share.
    ToSwitch {
        from: SocketAddr,
        bytes: Bytes,
    },
    ToPhone {
        address: SocketAddr,
        bytes: Bytes,
    },
    ToNode {
        node: usize,
        life: u64,
        incoming: Incoming,
    },
    /// The store does what a node wants.
    Store {
        node: usize,
        life: u64,
        errand: Errand,
        heard: bool,
    },
    /// A node reads the table of nodes.
    Look {
        node: usize,
        life: u64,
    },
    /// A node that got no answer from a peer dials it again.
    Dial {
        node: usize,
        life: u64,
        peer: PeerAddress,
        judges: bool,
        until: u64,
    },
    /// A node writes its row.
    WriteRow {
        node: usize,
        life: u64,
    },
    Frame {
        link: u64,
        end: usize,
        frame: Frame,
    },
    /// The holder of that end notices that the link broke.
    LinkDown {
        link: u64,
        end: usize,
    },
    /// Link `link` misses heartbeats: who is at that end notices.
    Silent {
        link: u64,
        end: usize,
    },
    /// A phone on TCP dials.
    Connect {
        phone: usize,
    },
    /// The same as for datagrams.
    StreamToSwitch {
        id: ConnectionId,
        bytes: Bytes,
    },
    StreamToPhone {
        id: ConnectionId,
        bytes: Bytes,
    },
    /// The phone finds its connection broken.
    StreamEnds {
        id: ConnectionId,
    },
    /// Connections of a process that is gone go to a sibling.
    Inherit {
        from: NodeName,
        at: usize,
        ids: Vec<ConnectionId>,
    },
    /// Those of one that stands still do.
    Take {
        at: usize,
        life: u64,
    },
    /// Phones send a packet each.
    Tick,
    /// The kernel closed the ports of a media process that died.
    PortsClosed {
        media: usize,
        ports: Vec<u16>,
    },
    /// A wish for ports that were taken.
    PortsAgain {
        media: usize,
        life: u64,
        asked: Asked,
        until: u64,
    },
    /// A media node that leaves gives the next session away.
    Pass {
        media: usize,
        life: u64,
    },
    /// It comes to its heir.
    Passed {
        media: usize,
        life: u64,
        /// Which node, and which start of it.
        heir: (usize, u64),
        parcel: Parcel,
        breaks: Option<Break>,
    },
    /// Media nodes look for links they do not have.
    Relink,
    Start {
        node: usize,
    },
    StartMedia {
        media: usize,
    },
    Fault(Fault),
}

impl World {
    pub fn happen(&mut self, what: Happening) {
        match what {
            Happening::ToSwitch { from, bytes } => {
                self.in_flight -= 1;
                self.reach_switch(from, bytes);
            }
            Happening::ToPhone { address, bytes } => {
                self.in_flight -= 1;
                if let Some(at) = self.by_address.get(&address).copied() {
                    self.phone_hears(at, &bytes);
                }
            }
            Happening::Connect { phone } => self.connect(phone),
            Happening::StreamToSwitch { id, bytes } => {
                self.in_flight -= 1;
                self.stream_arrives(id, bytes);
            }
            Happening::StreamToPhone { id, bytes } => {
                self.in_flight -= 1;
                self.stream_heard(id, &bytes);
            }
            Happening::StreamEnds { id } => self.end_stream(id),
            Happening::Inherit { from, at, ids } => self.inherit(from, at, ids),
            Happening::Take { at, life } => self.take_streams(at, life),
            Happening::ToNode { node, life, incoming } => self.turn(node, life, Some(incoming)),
            Happening::Store { node, life, errand, heard } => {
                self.store_does(node, life, errand, heard);
            }
            Happening::Look { node, life } => self.look(node, life),
            Happening::WriteRow { node, life } => self.write_row(node, life),
            Happening::Dial { node, life, peer, judges, until } => {
                if self.nodes[node].life() == life {
                    self.dial(node, life, peer, judges, until);
                }
            }
            Happening::Frame { link, end, frame } => self.frame_arrives(link, end, frame),
            Happening::LinkDown { link, end } => self.link_down(link, end),
            Happening::Silent { link, end } => self.note_silence(link, end),
            Happening::Tick => self.tick_air(),
            Happening::PortsClosed { media, ports } => self.close_ports(media, ports),
            Happening::PortsAgain { media, life, asked, until } => {
                self.try_ports(media, life, asked, until);
            }
            Happening::Pass { media, life } => self.pass_session(media, life),
            Happening::Passed { media, life, heir, parcel, breaks } => {
                self.session_passed((media, life), heir, parcel, breaks);
            }
            Happening::Relink => self.relink(),
            Happening::Start { node } => self.start(node),
            Happening::StartMedia { media } => self.start_media(media),
            Happening::Fault(fault) => self.befall(fault),
        }
    }
}
