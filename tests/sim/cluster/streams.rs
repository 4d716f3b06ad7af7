//! Phones on TCP: each has one connection, which one process reads. A sibling inherits it from one that dies, leaves or
//! stands still, with what nobody read; or it breaks with its process, and the phone makes another.

use super::world::{Happening, MS, NODES, S, World, first_line};
use bytes::Bytes;
use core::net::SocketAddr;
use holdfast::ids::{ConnectionId, Flow, Incarnation, NodeName, Transport};
use holdfast::net::tcp::TcpEvent;
use holdfast::signaling::driven::{Incoming, Wakeup};

/// What was handled so lately stays in the kernel's buffer, where an heir finds it.
const KEPT: u64 = 250 * MS;
/// The heir of a process that stands still takes its connections then.
const TAKEN_AFTER: u64 = S;
/// Of a thousand processes that die so many take their connections with them.
const BREAKS: u64 = 300;

/// A phone's connection.
#[derive(Debug)]
pub struct Stream {
    pub phone: usize,
    flow: Flow,
    /// Node, and which start of it, that reads it; none: it is between two, or nobody's any more.
    holder: Option<(usize, u64)>,
    /// The phone has not noticed its end.
    is_open: bool,
    /// When the last message each way arrives: none overtakes another.
    arrives: [u64; 2],
    /// What the phone said and nobody may have handled, and when it was read.
    unread: Vec<(Option<u64>, Bytes)>,
}

impl World {
    /// The phone makes a connection to one of the processes that listen.
    pub fn connect(&mut self, phone: usize) {
        if self.stream_of(phone).is_some() {
            return;
        }
        let accepts = |at: &usize| {
            let process = self.nodes[*at].process.as_ref();
            process.is_some_and(|process| !process.is_frozen && process.leaving.is_none())
        };
        let accepting: Vec<usize> = (0..NODES).filter(accepts).collect();
        if accepting.is_empty() {
            return self.schedule(500 * MS, Happening::Connect { phone });
        }
        let at = accepting[self.random.between(0, accepting.len() as u64) as usize];
        let Some(process) = &self.nodes[at].process else { return };
        let (life, number) = (process.life, process.driven.settings().node_number);
        self.stream_count += 1;
        let first = ConnectionId::first_of(number, Incarnation(life));
        let id = ConnectionId(first.0 + self.stream_count);
        let ip = self.phones[phone].address.parse::<SocketAddr>().expect("an address").ip();
        let flow = Flow {
            transport: Transport::Tcp,
            local: crate::world::SERVER.parse().expect("address"),
            remote: SocketAddr::new(ip, 30_000 + (self.stream_count % 30_000) as u16),
            connection: Some(id),
        };
        let (holder, arrives) = (Some((at, life)), [self.now; 2]);
        let stream = Stream { phone, flow, holder, is_open: true, arrives, unread: Vec::new() };
        self.streams.insert(id, stream);
        self.count.add("phones: connected");
        self.note(|| format!("   phone {phone} has connection {} to node {at}", id.0));
        self.turn(at, life, Some(Incoming::Stream(TcpEvent::Connected(flow))));
        let now = self.now;
        self.phones[phone].connected(now);
        self.drain_phone(phone);
    }

    /// Its open connection.
    fn stream_of(&self, phone: usize) -> Option<ConnectionId> {
        let mut streams = self.streams.iter();
        streams.find(|(_, stream)| stream.phone == phone && stream.is_open).map(|(id, _)| *id)
    }

    /// The phone says something by its connection. What it has none for it says again by the next one.
    pub fn say_by_stream(&mut self, phone: usize, bytes: Bytes) {
        let Some(id) = self.stream_of(phone) else { return self.note(|| "   (unsaid)".into()) };
        let after = self.delay(id, 0);
        self.schedule(after, Happening::StreamToSwitch { id, bytes });
    }

    fn delay(&mut self, id: ConnectionId, way: usize) -> u64 {
        let (now, delay) = (self.now, self.random.between(200, 20 * MS));
        let Some(stream) = self.streams.get_mut(&id) else { return delay };
        let arrives = (now + delay).max(stream.arrives[way] + 1);
        stream.arrives[way] = arrives;
        arrives - now
    }

    /// It is in the kernel of the switch.
    pub fn stream_arrives(&mut self, id: ConnectionId, bytes: Bytes) {
        let now = self.now;
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| stream.is_open) else {
            return;
        };
        stream.unread.retain(|(read, _)| read.is_none_or(|at| at + KEPT > now));
        let (flow, holder) = (stream.flow, stream.holder);
        let reader = holder.filter(|(at, life)| {
            let process = self.nodes[*at].process.as_ref();
            process.is_some_and(|process| process.life == *life && !process.is_frozen)
        });
        stream.unread.push((reader.map(|_| now), bytes.clone()));
        if let Some((at, life)) = reader {
            self.note(|| format!("   -> node {at}"));
            let message = TcpEvent::Message { flow, bytes };
            self.turn(at, life, Some(Incoming::Stream(message)));
        }
    }

    /// A node says something by a connection. False: it is none of a phone's.
    pub fn transmit_by_stream(
        &mut self,
        node: usize,
        life: u64,
        flow: &Flow,
        bytes: &Bytes,
    ) -> bool {
        let Some(id) = flow.connection else { return false };
        let Some(stream) = self.streams.get(&id) else { return true };
        let (phone, is_heard) = (stream.phone, stream.is_open);
        let is_held = stream.holder == Some((node, life));
        self.note(|| format!("node {node} -> phone {phone} by {}  {}", id.0, first_line(bytes)));
        if is_held && is_heard {
            let (after, bytes) = (self.delay(id, 1), bytes.clone());
            self.schedule(after, Happening::StreamToPhone { id, bytes });
        }
        true
    }

    pub fn stream_heard(&mut self, id: ConnectionId, bytes: &Bytes) {
        let Some(stream) = self.streams.get(&id).filter(|stream| stream.is_open) else { return };
        let phone = stream.phone;
        self.phone_hears(phone, bytes);
    }

    /// A process is no more: a sibling has its connections, or they end.
    pub fn leave_streams(&mut self, at: usize, life: u64, breaks: bool) {
        let breaks = breaks && self.random.chance(BREAKS);
        let after = self.random.between(MS, 20 * MS);
        let held: Vec<ConnectionId> = self.held_by(at, life);
        for id in &held {
            let Some(stream) = self.streams.get_mut(id) else { continue };
            stream.holder = None;
            if breaks {
                self.schedule(after, Happening::StreamEnds { id: *id });
            }
        }
        if !breaks && !held.is_empty() {
            let from = self.nodes[at].name();
            self.schedule(after, Happening::Inherit { from, at, ids: held });
        }
    }

    fn held_by(&self, at: usize, life: u64) -> Vec<ConnectionId> {
        let held = self.streams.iter().filter(|(_, it)| it.holder == Some((at, life)));
        held.map(|(id, _)| *id).collect()
    }

    /// A process stands still.
    pub fn miss_streams(&mut self, at: usize, life: u64) {
        self.schedule(TAKEN_AFTER, Happening::Take { at, life });
    }

    /// It goes on: nobody took them, what waited is read.
    pub fn read_on(&mut self, at: usize, life: u64) {
        for id in self.held_by(at, life) {
            let Some(stream) = self.streams.get_mut(&id) else { continue };
            let (read, unread): (Vec<_>, _) = core::mem::take(&mut stream.unread)
                .into_iter()
                .partition(|(read, _)| read.is_some());
            stream.unread = read;
            for (_, bytes) in unread {
                self.stream_arrives(id, bytes);
            }
        }
    }

    /// It did so for too long.
    pub fn take_streams(&mut self, at: usize, life: u64) {
        let process = self.nodes[at].process.as_ref();
        if !process.is_some_and(|process| process.life == life && process.is_frozen) {
            return;
        }
        let held = self.held_by(at, life);
        if self.heir_of_streams(at).is_none() || held.is_empty() {
            return;
        }
        if let Some(process) = &mut self.nodes[at].process {
            process.driven.lose_connections(&held);
        }
        self.inherit(self.nodes[at].name(), at, held);
    }

    fn heir_of_streams(&self, at: usize) -> Option<usize> {
        let others = (1..NODES).map(|step| (at + step) % NODES);
        let stands = |other: &usize| {
            let process = self.nodes[*other].process.as_ref();
            process.is_some_and(|process| !process.is_frozen && process.leaving.is_none())
        };
        others.into_iter().find(stands)
    }

    /// The heir has them, and what was not read.
    pub fn inherit(&mut self, from: NodeName, at: usize, ids: Vec<ConnectionId>) {
        let Some(heir) = self.heir_of_streams(at) else {
            return ids.into_iter().for_each(|id| self.end_stream(id));
        };
        let life = self.nodes[heir].life();
        self.count.add("phones: connections inherited");
        self.note(|| format!("   node {heir} has connections of {from}"));
        for id in &ids {
            if let Some(stream) = self.streams.get_mut(id) {
                stream.holder = Some((heir, life));
            }
        }
        let inherited = Wakeup::Inherited(from, ids.clone());
        self.turn(heir, life, Some(Incoming::Wakeup(inherited)));
        for id in ids {
            let now = self.now;
            let Some(stream) = self.streams.get_mut(&id) else { continue };
            let unread = core::mem::take(&mut stream.unread).into_iter();
            let left = unread.filter(|(read, _)| read.is_none_or(|at| at + KEPT > now));
            for (_, bytes) in left.collect::<Vec<_>>() {
                self.stream_arrives(id, bytes);
            }
        }
    }

    /// The phone finds it broken.
    pub fn end_stream(&mut self, id: ConnectionId) {
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| stream.is_open) else {
            return;
        };
        stream.is_open = false;
        let phone = stream.phone;
        self.count.add("phones: connections broken");
        self.note(|| format!("   phone {phone} finds its connection broken"));
        let after = self.random.between(20 * MS, 500 * MS);
        self.schedule(after, Happening::Connect { phone });
    }
}
