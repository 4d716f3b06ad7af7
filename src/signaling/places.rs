//! Addresses that phones know us by: which are ours, which a peer's, and what follows when one is no more (design §4
//! "Flows", "Takeover").
//!
//! Invariants: a message leaves from the address that its phone knows, by the node that has it; only when no living
//! node has it, it leaves from ours and the phone is told. A node that is in doubt keeps its addresses.

use super::worker::Worker;
use crate::call::{Place, Reach, Transmit, Way};
use crate::control::PeerFrame;
use crate::directory::Binding;
use crate::ids::{CallId, Flow, Incarnation, Transport};
use crate::time::Timestamp;
use bytes::Bytes;
use core::time::Duration;

/// Refreshes leave so far apart: two re-INVITEs and one row each.
const REFRESH_PACE: Duration = Duration::from_micros(250);

/// When the phones of the next call are told.
#[derive(Debug)]
pub(super) struct Pace(Timestamp);

impl Default for Pace {
    fn default() -> Self {
        Self(Timestamp::EPOCH)
    }
}

impl Pace {
    pub(super) fn next(&mut self, now: Timestamp) -> Timestamp {
        self.0 = now.max(self.0 + REFRESH_PACE);
        self.0
    }
}

impl Worker {
    /// Sends by whoever has the flow. False: nobody has.
    pub(super) fn transmit(&mut self, flow: Flow, bytes: Bytes) -> bool {
        self.sockets.send(flow, bytes.clone()) || self.send_by_peer(flow, &bytes)
    }

    /// A connection belongs to one process, an address to one host: what is for another's goes by its link, and to
    /// whoever inherited connections of it.
    fn send_by_peer(&self, flow: Flow, bytes: &Bytes) -> bool {
        let frame = PeerFrame::Send { flow, bytes: bytes.clone() };
        match flow.connection {
            Some(connection) => {
                let holders = self.peers.holders(connection);
                holders.filter(|name| self.peers.send(name, frame.clone())).count() > 0
            }
            None => {
                let holder = self.peers.by_address(flow.local);
                holder.is_some_and(|name| self.peers.send(name, frame))
            }
        }
    }

    /// How the phone of a flow is reached now.
    pub(super) fn reach(&self, way: &Way<'_>) -> Reach {
        let Way { flow, contact, extension } = way;
        let holder = flow.connection.and_then(|id| self.peers.holders(id).next());
        if holder.is_some() || self.has_place(flow) {
            return Reach::AsBefore;
        }
        // The phone may have come to another node meanwhile.
        let came = |binding: &&Binding| {
            binding.contact == *contact && binding.flow != **flow && self.has_place(&binding.flow)
        };
        let bindings = extension.map_or(&[][..], |user| self.directory.bindings(user));
        if let Some(binding) = bindings.iter().find(came) {
            return Reach::By(binding.flow);
        }
        match flow.transport {
            Transport::Udp => self.sockets.udp_flow(flow.remote).map_or(Reach::Lost, Reach::By),
            Transport::Tcp | Transport::Tls | Transport::Ws | Transport::Wss => Reach::Lost,
        }
    }

    fn has_place(&self, flow: &Flow) -> bool {
        self.sockets.is_here(flow.local) || self.peers.has_address(flow.local)
    }

    /// The flow that takes the place of one whose address is no more.
    pub(super) fn flow_now(&self, flow: Flow) -> Flow {
        match self.reach(&Way { flow: &flow, contact: "", extension: None }) {
            Reach::By(flow) => flow,
            Reach::AsBefore | Reach::Lost => flow,
        }
    }

    /// Phones that registered at an address that is no more are called from ours.
    pub(super) fn reach_bindings(&self, bindings: &mut [Binding]) {
        for binding in bindings {
            binding.flow = self.flow_now(binding.flow);
        }
    }

    /// A peer is no more, and so are the addresses that only it had: phones that know us by them are told ours.
    pub(super) fn relocate_calls(&mut self, gone: Incarnation) {
        let lost = self.peers.forget_addresses(gone);
        let is_lost = |flow: &Flow| lost.contains(&flow.local) && !self.has_place(flow);
        for id in self.calls.ids(|slot| slot.call.ways().any(|way| is_lost(way.flow))) {
            self.relocate_call(id);
        }
    }

    fn relocate_call(&mut self, id: CallId) {
        let (now, refresh_at) = (self.now, self.pace.next(self.now));
        let Some(slot) = self.calls.get(id) else { return };
        let ways = slot.call.ways();
        let ways: Vec<(Flow, String, Reach)> =
            ways.map(|way| (*way.flow, way.contact.to_owned(), self.reach(&way))).collect();
        let reach = |way: &Way<'_>| {
            let known = ways.iter().find(|(flow, to, _)| flow == way.flow && to == way.contact);
            known.map_or(Reach::AsBefore, |(_, _, reach)| *reach)
        };
        self.change(id, |call| call.relocate(&Place { reach: &reach, refresh_at }, now));
    }

    /// A phone spoke by this flow: what waited for its lost one leaves.
    pub(super) fn release_stranded(
        &mut self,
        id: CallId,
        flow: Flow,
        is_for: impl Fn(&Transmit) -> bool,
    ) {
        for mut transmit in self.calls.take_stranded(id, self.now, is_for) {
            transmit.flow = flow;
            self.send(id, transmit);
        }
    }
}
