//! What comes to a socket goes through its session, and out by another.
//!
//! Invariants: one receive and one send a packet; no allocation, lock or log on its way, but where the kernel is told
//! to pass on those that follow.

use super::{PACKET_BYTES, Worker};
use crate::control::Frame;
use crate::event::Event;
use crate::ids::{CallId, SessionId};
use crate::media::vitals::add;
use crate::net::{clock, stun};
use crate::relay::{Endpoint, Forward, Output, Session};
use crate::time::Timestamp;
use core::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};

impl Worker {
    /// One datagram: where there are more, epoll says so at once. To ask the socket would cost a call for each packet.
    pub(super) fn receive(&mut self, slot: usize, buffer: &mut [u8; PACKET_BYTES]) {
        let Some(Some(open)) = self.sockets.get(slot) else { return };
        let Some((length, source)) = open.socket.receive(buffer) else { return };
        add(&self.vitals().received, 1);
        if length == buffer.len() {
            // It was longer, and what is left is no packet of anybody.
            return;
        }
        if let Some(datagram) = buffer.get(..length).filter(|packet| stun::is_stun(packet)) {
            // Signaling that lost its link asks whether we live.
            if let Some(answer) = stun::answer(datagram, source) {
                open.socket.send(&answer, source);
            }
            return;
        }
        let (id, endpoint) = (open.session, open.endpoint);
        let forward = self.act(id, |session, now| {
            let forward = session.handle_packet(endpoint, source, buffer, length, now);
            (forward, session.refusal())
        });
        if let Some((_, Some(refusal))) = forward {
            add(&self.vitals().refused[refusal as usize], 1);
        }
        if let Some((Some(Forward { from, to, length }), _)) = forward
            && let Some(packet) = buffer.get(..length)
        {
            self.send(id, from, packet, to);
        }
        // The next packet may not leave before this one.
        self.offload(id);
    }

    fn send(&self, id: SessionId, from: Endpoint, packet: &[u8], to: SocketAddr) {
        let slot = self.sessions.get(&id).and_then(|entry| entry.slots.get(&from));
        if let Some(Some(open)) = slot.and_then(|slot| self.sockets.get(*slot)) {
            let sent = open.socket.send(packet, to);
            let vitals = self.vitals();
            add(if sent { &vitals.sent } else { &vitals.unsent }, 1);
        }
    }

    /// One step of a session at its own time, its outputs carried out. A panic ends the session: `None`.
    pub(super) fn step<T>(
        &mut self,
        id: SessionId,
        step: impl FnOnce(&mut Session, Timestamp) -> T,
    ) -> Option<T> {
        let result = self.act(id, step);
        self.offload(id);
        result
    }

    fn act<T>(
        &mut self,
        id: SessionId,
        step: impl FnOnce(&mut Session, Timestamp) -> T,
    ) -> Option<T> {
        self.take_in(id);
        let entry = self.sessions.get_mut(&id)?;
        let now = entry.time(clock::now());
        let result = catch_unwind(AssertUnwindSafe(|| step(&mut entry.session, now)));
        let Ok(result) = result else {
            let what = "a panic ended its media session".to_owned();
            (self.shared.events)(&Event::Bug { call: Some(CallId(id.0)), what });
            self.tell_of_bug(id);
            self.close_session(id, clock::now());
            return None;
        };
        while let Some(output) =
            self.sessions.get_mut(&id).and_then(|entry| entry.session.poll_output())
        {
            match output {
                Output::Send { from, to, packet } => self.send(id, from, &packet, to),
                Output::Report(report) => self.shared.broadcast(&Frame::Report(report)),
                Output::Exchanged(packet) => self.note_exchanged(id, packet),
                // Pinned sources are enforced by the session; the socket stays open for rebinding phones.
                Output::Pin { rebound, .. } => add(&self.vitals().rebound, rebound.into()),
                Output::Lost => self.shared.shed("report that signaling did not acknowledge"),
            }
        }
        self.schedule(id);
        Some(result)
    }
}
