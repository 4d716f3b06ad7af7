//! RTCP that sessions exchanged with phones: told the collector at once, and the call's owner in bundles, for the
//! capture of the call.
//!
//! Invariants: what is kept of a session until its bundle leaves is bounded, so a phone that floods us costs its own
//! capture and nothing else; a bundle is told once.

use super::moving::shifted;
use super::{Entry, Worker};
use crate::control::{Frame, RtcpPacket};
use crate::ids::SessionId;
use crate::time::Timestamp;
use core::time::Duration;

/// A bundle leaves when its first packet is so old: by then each phone reported once or twice.
const BUNDLED: Duration = Duration::from_secs(5);
/// Packets of a phone and direction in a bundle, …
const OF_A_PHONE: usize = 8;
/// … and of all: with the longest packets that is what a frame takes.
const OF_ALL: usize = 64;

/// What waits until it is told.
#[derive(Debug, Default)]
pub(super) struct Bundle(Vec<RtcpPacket>);

impl Bundle {
    /// False: there is no room.
    fn take(&mut self, packet: &RtcpPacket) -> bool {
        let is_like =
            |other: &&RtcpPacket| (other.leg, other.received) == (packet.leg, packet.received);
        let has_room = self.0.len() < OF_ALL && self.0.iter().filter(is_like).count() < OF_A_PHONE;
        if has_room {
            self.0.push(packet.clone());
        }
        has_room
    }

    /// It waited long enough.
    pub(super) fn is_due(&self, now: Timestamp) -> bool {
        self.0.first().is_some_and(|first| now.saturating_since(first.at) >= BUNDLED)
    }
}

impl Worker {
    /// A session exchanged RTCP, by its own clock.
    pub(super) fn note_exchanged(&mut self, id: SessionId, mut packet: RtcpPacket) {
        let Some(entry) = self.sessions.get_mut(&id) else { return };
        packet.at = shifted(packet.at, -entry.ahead_us);
        if entry.exchanged.take(&packet)
            && let Some(collector) = &self.shared.collector
        {
            collector.tell(id, packet);
        }
    }

    /// Tells what waits: to who asked for the session last; else to all, for one of them may have its call.
    pub(super) fn tell_exchanged(&mut self, id: SessionId) {
        let Some(Entry { exchanged: Bundle(packets), owner, .. }) = self.sessions.get_mut(&id)
        else {
            return;
        };
        if packets.is_empty() {
            return;
        }
        let frame = Frame::Rtcp { session: id, packets: core::mem::take(packets) };
        match owner.as_ref().filter(|owner| !owner.is_closed()) {
            // A stuck link costs what is on its way by it.
            Some(owner) => _ = owner.try_send(frame),
            None => self.shared.broadcast(&frame),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::LegId;

    #[test]
    fn who_floods_us_fills_its_own_part() {
        let packet = |leg, received, at| RtcpPacket {
            leg: LegId(leg),
            at: Timestamp::from_millis(at),
            received,
            local: "192.0.2.1:20001".parse().expect("an address"),
            remote: "192.0.2.2:4001".parse().expect("an address"),
            bytes: vec![0; 4].into(),
        };
        let mut bundle = Bundle::default();
        let now = Timestamp::from_millis(1_000);
        assert!(!bundle.is_due(now + BUNDLED), "nothing waits");
        let taken = (0..1_000).filter(|at| bundle.take(&packet(0, true, 1_000 + at))).count();
        assert_eq!(taken, OF_A_PHONE);
        assert!(bundle.take(&packet(0, false, 2_000)) && bundle.take(&packet(1, true, 2_000)));
        assert!(!bundle.is_due(now) && bundle.is_due(now + BUNDLED));
        let taken = (2..1_000).filter(|leg| bundle.take(&packet(*leg, true, 2_000))).count();
        assert_eq!(taken, OF_ALL - OF_A_PHONE - 2);
        let most = OF_ALL * (super::super::PACKET_BYTES + 100);
        assert!(most < crate::limits::CONTROL_FRAME_BYTES, "{most}");
    }
}
