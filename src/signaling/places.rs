//! Addresses that phones know us by: which are ours, which a peer's, and what follows when one is no more (design §4
//! "Flows", "Takeover").
//!
//! Invariants: a message leaves from the address that its phone knows, by the node that has it; only when no living
//! node has it, it leaves from ours and the phone is told. A node that is in doubt keeps its addresses.

use super::register::Moved;
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
                let sent = holders.filter(|name| self.peers.send(name, frame.clone())).count();
                if sent == 0 && self.peers.is_unheard(connection.node()) {
                    // One of the others may hear it. Whether it does is not told: the request waits here as well.
                    self.peers.broadcast(&frame);
                }
                sent > 0
            }
            None => {
                let holder = self.peers.by_address(flow.local);
                holder.is_some_and(|name| self.peers.send(name, frame))
            }
        }
    }

    /// A peer has a message for a connection: ours, or one of a node that it has no link with. Who may hold it passes
    /// nothing on, so nothing goes in circles.
    pub(super) fn send_for_peer(&mut self, flow: Flow, bytes: Bytes) {
        let is_sent = self.sockets.send(flow, bytes.clone());
        let Some(connection) = flow.connection.filter(|_| !is_sent) else { return };
        let maker = connection.node();
        if maker == self.settings.node_number || self.inherited.contains(&maker) {
            return;
        }
        for name in self.peers.holders(connection) {
            self.peers.send(name, PeerFrame::Send { flow, bytes: bytes.clone() });
        }
    }

    /// How the phone of a flow is reached now.
    pub(super) fn reach(&self, way: &Way<'_>) -> Reach {
        let flow = way.flow;
        if self.lives(flow) {
            return Reach::AsBefore;
        }
        if let Some(flow) = self.flow_since(way) {
            return Reach::By(flow);
        }
        match flow.transport {
            Transport::Udp => self.sockets.udp_flow(flow.remote).map_or(Reach::Lost, Reach::By),
            // Whoever inherits its connection may be about to say so.
            _ if self.has_place(flow) => Reach::AsBefore,
            Transport::Tcp | Transport::Tls | Transport::Ws | Transport::Wss => Reach::Lost,
        }
    }

    /// Something that is sent by it arrives, as far as is known.
    fn lives(&self, flow: &Flow) -> bool {
        flow.connection.map_or_else(|| self.has_place(flow), |id| self.is_held(id))
    }

    /// By which flow the phone came meanwhile: to another node, or by another connection.
    fn flow_since(&self, way: &Way<'_>) -> Option<Flow> {
        let Way { flow, contact, extension } = way;
        let bindings = self.directory.bindings((*extension)?);
        let others = || {
            let others = bindings.iter().filter(|binding| binding.flow != **flow);
            others.filter(|binding| self.lives(&binding.flow))
        };
        if bindings.iter().any(|binding| binding.contact == *contact) {
            return others().find(|binding| binding.contact == *contact).map(|it| it.flow);
        }
        // A phone that listens nowhere has a Contact for each connection. Without the former one registered, the only
        // one from its address is it.
        flow.connection?;
        let is_it = |binding: &&Binding| {
            binding.flow.transport == flow.transport && binding.flow.remote.ip() == flow.remote.ip()
        };
        let mut its = others().filter(is_it);
        its.next().filter(|_| its.next().is_none()).map(|binding| binding.flow)
    }

    /// Dialogs of a user's phones whose connections are gone go on by those that the phones made since.
    pub(super) fn follow_back(&mut self, extension: &str) {
        for id in self.calls.of_user(extension).to_vec() {
            let Some(slot) = self.calls.get(id) else { continue };
            let gone = slot.call.ways().filter(|way| way.flow.connection.is_some());
            let back = gone.filter_map(|way| match self.reach(&way) {
                Reach::By(flow) => Some(Moved::new(way.contact, *way.flow, flow)),
                Reach::AsBefore | Reach::Lost => None,
            });
            for moved in back.collect::<Vec<_>>() {
                self.move_call(id, &moved);
            }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::Frame;
    use crate::ids::{ConnectionId, NodeName};
    use crate::signaling::samples;

    const FORMER: &str = "sip:1001@10.0.0.9:1111;transport=tcp";
    const LATER: &str = "sip:1001@10.0.0.9:2222;transport=tcp";
    const GONE: u64 = 1;
    const OPEN: u64 = 2;

    fn by(connection: u64, remote: &str) -> Flow {
        Flow {
            transport: Transport::Tcp,
            local: "10.0.0.1:5060".parse().expect("literal"),
            remote: remote.parse().expect("literal"),
            connection: Some(ConnectionId(connection)),
        }
    }

    fn binding(contact: &str, flow: Flow, now: Timestamp) -> Binding {
        Binding {
            id: contact.to_owned(),
            extension: "1001".to_owned(),
            aor: "sip:1001@test".to_owned(),
            contact: contact.to_owned(),
            instance_id: None,
            reg_id: None,
            q_milli: 1_000,
            q_given: false,
            path: Vec::new(),
            call_id: contact.to_owned(),
            cseq: 1,
            user_agent: None,
            flow,
            nat: false,
            node: NodeName("n-1".into()),
            registered_at: now,
            refreshed_at: now,
            expires_at: now + Duration::from_secs(60),
            flow_lost: false,
            ping_rtt_us: None,
        }
    }

    #[tokio::test]
    async fn a_phone_is_reached_by_the_connection_that_it_made_since() {
        let (gone, back) = (by(GONE, "10.0.0.9:1111"), by(OPEN, "10.0.0.9:2222"));
        let elsewhere = by(OPEN, "10.0.0.8:2222");
        let third = "sip:1001@10.0.0.9:3333;transport=tcp";
        let (as_before, followed) = (Reach::AsBefore, Reach::By(back));
        for (name, registered, expect) in [
            ("nobody came", vec![], as_before),
            ("the same Contact", vec![(FORMER, back)], followed),
            ("another Contact in place of it", vec![(LATER, back)], followed),
            ("another phone beside it", vec![(FORMER, gone), (LATER, back)], as_before),
            ("another address", vec![(LATER, elsewhere)], as_before),
            ("one of two", vec![(LATER, back), (third, by(OPEN, "10.0.0.9:3333"))], as_before),
            ("by a connection that is gone too", vec![(LATER, by(3, "10.0.0.9:2222"))], as_before),
        ] {
            let mut worker = samples::worker();
            worker.sockets.driver().open.insert(ConnectionId(OPEN));
            let now = worker.now;
            let bindings = registered.iter().map(|(contact, flow)| binding(contact, *flow, now));
            worker.directory.set_bindings("1001", bindings.collect());
            let way = |flow| Way { flow, contact: FORMER, extension: Some("1001") };
            assert_eq!(worker.reach(&way(&gone)), expect, "{name}");
            assert_eq!(worker.reach(&way(&back)), as_before, "{name}: what lives stays");
        }
    }

    /// Between us and the node that has a phone's connection the way is cut: the others may have one.
    #[tokio::test]
    async fn a_message_finds_its_way_past_a_cut_link() {
        let cut = NodeName("n-3".into());
        let mut flow = by(0, "10.0.0.9:1111");
        flow.connection = Some(ConnectionId(ConnectionId::base(cut.number()).0 + (1 << 40)));
        let send = PeerFrame::Send { flow, bytes: Bytes::from_static(b"BYE") };
        let mut worker = samples::worker();
        let mut told = samples::peer(&mut worker);
        let mut sent = |worker: &mut Worker| {
            let is_sent = worker.transmit(flow, Bytes::from_static(b"BYE"));
            let frames = core::iter::from_fn(|| told.try_recv().ok());
            (is_sent, frames.filter(|frame| *frame == Frame::Peer(send.clone())).count())
        };
        worker.peers.note_known([(&cut, Incarnation(9))].into_iter());
        assert_eq!(sent(&mut worker), (false, 1), "whether it arrives is not known");
        worker.peers.note_known(core::iter::empty());
        assert_eq!(sent(&mut worker), (false, 0), "nobody has it");
    }

    #[tokio::test]
    async fn a_peers_message_is_passed_on_by_who_cannot_have_the_connection() {
        let holder = NodeName("n-2".into());
        let of = |name: &NodeName| {
            let mut flow = by(0, "10.0.0.9:1111");
            flow.connection = Some(ConnectionId(ConnectionId::base(name.number()).0 + (1 << 40)));
            flow
        };
        let mut worker = samples::worker();
        let mut told = samples::peer(&mut worker);
        let mut passed = |worker: &mut Worker, flow| {
            worker.send_for_peer(flow, Bytes::from_static(b"BYE"));
            let frames = core::iter::from_fn(|| told.try_recv().ok());
            frames.filter(|it| matches!(it, Frame::Peer(PeerFrame::Send { .. }))).count()
        };
        assert_eq!(passed(&mut worker, of(&holder)), 1);
        worker.inherited.insert(holder.number());
        assert_eq!(passed(&mut worker, of(&holder)), 0, "it was ours, and is gone");
        let own = worker.settings.node.clone();
        assert_eq!(passed(&mut worker, of(&own)), 0, "it was ours, and is gone");
    }
}
