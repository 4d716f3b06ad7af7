//! What the kernel passes on by itself (`net::offload`): begun when a session offers a flow, taken in before each of
//! its steps, ended when the session wants another one.
//!
//! Invariants: a session never sees a state older than what the kernel did, but for a packet on its way through it at
//! that very moment; nothing is passed on for longer than `LIFE` without a worker that sees to it.

use super::moving::shifted;
use super::{Entry, OpenSocket, Worker};
use crate::ids::SessionId;
use crate::media::vitals::add;
use crate::net::local_address::{is_of_this_host, local_address_towards};
use crate::net::offload::{Progress, Rule, Table};
use crate::net::route::{Route, route};
use crate::net::{clock, rtp_socket::RtpSocket};
use crate::relay::{Endpoint, Flow, Passed, Position};
use crate::time::Timestamp;
use core::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use core::time::Duration;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A flow that was ended is begun again after so long: a phone that does not speak evenly is left to us …
const REST: Duration = Duration::from_millis(100);
/// … longer where the way of the packets is not one for the kernel, or none of them came by it.
const NO_WAY: Duration = Duration::from_secs(5);
/// A flow ends by itself after so long, and is begun again by its next packet: connection tracking sees that the call
/// lives, and a process that hangs passes nothing on for longer, though nobody can tell it to stop.
const LIFE: Duration = Duration::from_secs(10);
/// Routes change: so often a way is looked for again.
const WAY_KEPT: Duration = Duration::from_secs(5);

/// What the kernel does at a socket.
#[derive(Debug, Default)]
pub(super) enum Offloading {
    /// Nothing.
    #[default]
    Idle,
    /// Nothing until then.
    Resting(Timestamp),
    /// It passes packets on.
    Running(Running),
}

/// A flow that was begun, and how much of it is taken in.
#[derive(Debug)]
pub(super) struct Running {
    flow: Flow,
    way: Way,
    /// When the way was looked for.
    way_at: Timestamp,
    since: Timestamp,
    first_sequence: u16,
    packets: u32,
    bytes: u64,
}

/// By which addresses of ours, and which interface, packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Way {
    local: Ipv4Addr,
    new_source: SocketAddrV4,
    /// 0: this host.
    interface: u32,
}

impl Running {
    /// The kernel goes on just where the session is.
    fn is_what(&self, (flow, position): &(Flow, Position)) -> bool {
        let next = self.first_sequence.wrapping_add(self.packets as u16);
        self.flow == *flow && next == position.next_sequence
    }
}

impl Worker {
    /// Takes in what the kernel passed on of a session.
    pub(super) fn take_in(&mut self, id: SessionId) {
        let Some(table) = &self.offload else { return };
        let Some(entry) = self.sessions.get_mut(&id).filter(|entry| entry.offloaded > 0) else {
            return;
        };
        for nth in 0..entry.pairs.len() {
            let Some((endpoint, slot, port)) = entry.rtp(nth) else { continue };
            let Some(Some(open)) = self.sockets.get_mut(slot) else { continue };
            let Offloading::Running(running) = &mut open.offloading else { continue };
            let Some(progress) = table.progress(port) else { continue };
            let packets = progress.packets.wrapping_sub(running.packets);
            if packets == 0 {
                continue;
            }
            let bytes = progress.bytes.saturating_sub(running.bytes);
            (running.packets, running.bytes) = (progress.packets, progress.bytes);
            let Progress { timestamp, jitter_16, pause_us, at_ns, .. } = progress;
            let at = entry.time(clock::from_monotonic_ns(at_ns));
            let pause_ms = pause_us / 1_000;
            let passed = Passed { packets, bytes, timestamp, at, jitter_16, pause_ms };
            // A session that is broken ends with its next step, and nobody else with it.
            let taken = || entry.session.take_in(endpoint, &passed);
            let _ = catch_unwind(AssertUnwindSafe(taken));
            let vitals = &self.shared.vitals[self.number];
            for count in [&vitals.received, &vitals.sent, &vitals.offloaded] {
                add(count, packets.into());
            }
        }
    }

    /// After a step: the kernel does what the session offers.
    pub(super) fn offload(&mut self, id: SessionId) {
        if self.offload.is_none() {
            return;
        }
        let pairs = self.sessions.get(&id).map_or(0, |entry| entry.pairs.len());
        for nth in 0..pairs {
            let Some(entry) = self.sessions.get(&id) else { return };
            let Some((endpoint, slot, port)) = entry.rtp(nth) else { continue };
            let Some(Some(open)) = self.sockets.get(slot) else { continue };
            if matches!(open.offloading, Offloading::Resting(until) if until > clock::now()) {
                continue;
            }
            let wanted = entry.flow(endpoint);
            match (&open.offloading, wanted) {
                (Offloading::Running(running), Some(wanted)) if running.is_what(&wanted) => {
                    self.look_for_way_again(id, slot, port);
                }
                (Offloading::Running(_), _) => {
                    self.end_flow(id, slot, port);
                    self.begin_again(id, endpoint, slot, port);
                }
                (Offloading::Idle | Offloading::Resting(_), None) => {}
                (Offloading::Idle | Offloading::Resting(_), Some(wanted)) => {
                    self.begin_flow(id, slot, port, wanted);
                }
            }
        }
    }

    /// Everything comes to the sockets of the session again, and what was passed on is taken in.
    pub(super) fn end_flows(&mut self, id: SessionId) {
        let pairs = self.sessions.get(&id).map_or(0, |entry| entry.pairs.len());
        for nth in 0..pairs {
            if let Some((_, slot, port)) = self.sessions.get(&id).and_then(|entry| entry.rtp(nth)) {
                self.end_flow(id, slot, port);
            }
        }
    }

    fn end_flow(&mut self, id: SessionId, slot: usize, port: u16) {
        let Some(Some(open)) = self.sockets.get(slot) else { return };
        let (Offloading::Running(_), Some(table)) = (&open.offloading, &mut self.offload) else {
            return;
        };
        table.end(port);
        self.take_in(id);
        let Some(Some(open)) = self.sockets.get_mut(slot) else { return };
        let Offloading::Running(running) = &open.offloading else { return };
        let now = clock::now();
        let lived = now.saturating_since(running.since);
        open.offloading = match running.packets {
            0 if lived > REST => Offloading::Resting(now + NO_WAY),
            // It ended by itself.
            _ if lived >= LIFE => Offloading::Idle,
            _ => Offloading::Resting(now + REST),
        };
        if let Some(entry) = self.sessions.get_mut(&id) {
            entry.offloaded = entry.offloaded.saturating_sub(1);
        }
    }

    /// One that ended by itself goes on.
    fn begin_again(&mut self, id: SessionId, endpoint: Endpoint, slot: usize, port: u16) {
        let Some(Some(OpenSocket { offloading: Offloading::Idle, .. })) = self.sockets.get(slot)
        else {
            return;
        };
        let wanted = self.sessions.get(&id).and_then(|entry| entry.flow(endpoint));
        if let Some(wanted) = wanted {
            self.begin_flow(id, slot, port, wanted);
        }
    }

    fn look_for_way_again(&mut self, id: SessionId, slot: usize, port: u16) {
        let now = clock::now();
        let Some(Some(open)) = self.sockets.get(slot) else { return };
        let Offloading::Running(running) = &open.offloading else { return };
        if now.saturating_since(running.way_at) < WAY_KEPT {
            return;
        }
        if self.way(id, slot, &running.flow) != Some(running.way) {
            return self.end_flow(id, slot, port);
        }
        if let Some(Some(OpenSocket { offloading: Offloading::Running(running), .. })) =
            self.sockets.get_mut(slot)
        {
            running.way_at = now;
        }
    }

    fn way(&self, id: SessionId, slot: usize, flow: &Flow) -> Option<Way> {
        let there = *self.sessions.get(&id)?.slots.get(&flow.from)?;
        let [here, there] = [slot, there].map(|slot| self.sockets.get(slot)?.as_ref());
        Way::of(&here?.socket, &there?.socket, flow)
    }

    fn begin_flow(
        &mut self,
        id: SessionId,
        slot: usize,
        port: u16,
        (flow, position): (Flow, Position),
    ) {
        let way = self.way(id, slot, &flow);
        let Some(entry) = self.sessions.get_mut(&id) else { return };
        let Some(table) = &mut self.offload else { return };
        let Some(Some(open)) = self.sockets.get_mut(slot) else { return };
        let now = clock::now();
        let at = shifted(position.at, -entry.ahead_us);
        let begun = way.filter(|way| begin(table, port, &flow, &position, (*way, at, now + LIFE)));
        let Some(way) = begun else {
            open.offloading = Offloading::Resting(now + NO_WAY);
            return;
        };
        open.offloading = Offloading::Running(Running {
            flow,
            way,
            way_at: now,
            since: now,
            first_sequence: position.next_sequence,
            packets: 0,
            bytes: 0,
        });
        entry.offloaded = entry.offloaded.saturating_add(1);
    }
}

impl Entry {
    fn flow(&self, endpoint: Endpoint) -> Option<(Flow, Position)> {
        catch_unwind(AssertUnwindSafe(|| self.session.flow(endpoint))).unwrap_or_default()
    }

    /// The socket of the nth stream: its endpoint, slot and port.
    fn rtp(&self, nth: usize) -> Option<(Endpoint, usize, u16)> {
        let (endpoint, (_, port)) = self.pairs.iter().nth(nth)?;
        Some((*endpoint, *self.slots.get(endpoint)?, *port))
    }
}

fn begin(
    table: &mut Table,
    port: u16,
    flow: &Flow,
    position: &Position,
    (way, at, until): (Way, Timestamp, Timestamp),
) -> bool {
    let rule = Rule {
        source: flow.source,
        local: way.local,
        first_sequence: position.next_sequence,
        ssrc: flow.ssrc,
        clock_rate_hz: flow.clock_rate_hz,
        new_source: way.new_source,
        new_destination: flow.destination,
        new_ssrc: flow.new_ssrc,
        timestamp_offset: flow.timestamp_offset,
        sequence_offset: flow.sequence_offset,
        payload_type: flow.payload_type,
        new_payload_type: flow.new_payload_type,
        interface: way.interface,
        until_ns: clock::monotonic_ns(until),
    };
    let Position { timestamp, jitter_16, .. } = *position;
    let at_ns = clock::monotonic_ns(at);
    let from = Progress { timestamp, at_ns, jitter_16, ..Progress::default() };
    let begun = table.begin(port, &rule, from);
    begun.inspect_err(|error| tracing::debug!("port {port} is not offloaded: {error}")).is_ok()
}

impl Way {
    /// `None`: it is not one for the kernel.
    fn of(here: &RtpSocket, there: &RtpSocket, flow: &Flow) -> Option<Self> {
        let (from, to) = (*flow.source.ip(), *flow.destination.ip());
        let local = address_towards(here, from)?;
        let source = address_towards(there, to)?;
        let interface = match (route(source, to)?, is_of_this_host(IpAddr::V4(from))) {
            (Route::Local, true) => 0,
            (Route::Interface(number), false) => number,
            // What comes from the wire and seems to be ours is not let in, nor the other way round.
            (Route::Local, false) | (Route::Interface(_), true) => return None,
        };
        let new_source = SocketAddrV4::new(source, there.local().ok()?.port());
        Some(Self { local, new_source, interface })
    }
}

/// The address of ours that phones there see.
fn address_towards(socket: &RtpSocket, peer: Ipv4Addr) -> Option<Ipv4Addr> {
    let IpAddr::V4(bound) = socket.local().ok()?.ip() else { return None };
    if !bound.is_unspecified() {
        return Some(bound);
    }
    match local_address_towards(peer.into())? {
        IpAddr::V4(local) => Some(local),
        IpAddr::V6(_) => None,
    }
}
