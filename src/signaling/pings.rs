//! OPTIONS to phones behind NAT, so that the NAT keeps their flow open, and the round trip is known (RFC 3261 §11).
//!
//! Invariants: a binding has one ping at a time; a lost ping removes nothing; our branch tells a pong from every other
//! response.

use super::check_sync::Syncs;
use super::worker::Worker;
use crate::directory::Binding;
use crate::ids::{CallId, LegId, Locator, Purpose, Transport};
use crate::time::Timestamp;
use bytes::Bytes;
use core::time::Duration;
use std::collections::{HashMap, HashSet, VecDeque};

/// NATs forget a UDP flow after 30 s.
const INTERVAL: Duration = Duration::from_secs(25);
/// A pong that comes later is not counted.
const PATIENCE: Duration = Duration::from_secs(5);

/// Pings of no call: the nil id is never drawn.
pub(super) const NO_CALL: CallId = CallId(0);

/// The branch that `locator` was read from is a ping's.
pub(super) fn is_ping(locator: &Locator) -> bool {
    locator.call == NO_CALL
}

/// Whom to ping when.
#[derive(Debug, Default)]
pub(super) struct Pings {
    /// (due, user, binding id), by due time.
    queue: VecDeque<(Timestamp, String, String)>,
    /// Binding ids in the queue.
    watched: HashSet<String>,
    /// Unanswered, by branch number.
    open: HashMap<u32, (Timestamp, String, String)>,
    /// Branch numbers in the order of sending.
    sent: VecDeque<(Timestamp, u32)>,
    number: u32,
    /// Phones that were asked something else; their branches are numbered with these.
    pub syncs: Syncs,
}

impl Pings {
    /// A binding is to be pinged from now on.
    pub(super) fn watch(&mut self, extension: &str, id: &str, now: Timestamp) {
        if self.watched.insert(id.to_owned()) {
            self.queue.push_back((now + INTERVAL, extension.to_owned(), id.to_owned()));
        }
    }

    /// Spreads those that were loaded together over the interval.
    pub(super) fn spread(&mut self, now: Timestamp) {
        let count = u32::try_from(self.queue.len()).unwrap_or(u32::MAX).max(1);
        for (at, (due, ..)) in (0_u32..).zip(&mut self.queue) {
            *due = now + INTERVAL.mul_f64(f64::from(at) / f64::from(count));
        }
    }

    fn pop_due(&mut self, now: Timestamp) -> Option<(String, String)> {
        if self.queue.front().is_none_or(|(due, ..)| *due > now) {
            return None;
        }
        let (_, extension, id) = self.queue.pop_front()?;
        Some((extension, id))
    }

    /// Number of a new ping, noted as open.
    fn open(&mut self, extension: &str, id: &str, now: Timestamp) -> u32 {
        while self.sent.front().is_some_and(|(at, _)| *at + PATIENCE <= now) {
            if let Some((_, number)) = self.sent.pop_front() {
                self.open.remove(&number);
            }
        }
        let number = self.next_number();
        self.sent.push_back((now, number));
        self.open.insert(number, (now, extension.to_owned(), id.to_owned()));
        number
    }

    /// Of a branch.
    pub(super) fn next_number(&mut self) -> u32 {
        self.number = self.number.wrapping_add(1);
        self.number
    }

    pub(super) fn next_timeout(&self) -> Option<Timestamp> {
        let ping = self.queue.front().map(|(due, ..)| *due);
        ping.into_iter().chain(self.syncs.next_timeout()).min()
    }
}

impl Worker {
    /// Sends the pings that are due.
    pub(super) fn ping_bindings(&mut self) {
        self.repeat_syncs();
        while let Some((extension, id)) = self.pings.pop_due(self.now) {
            let (now, own) = (self.now, &self.settings.node);
            let binding = self.directory.bindings(&extension).iter().find(|binding| {
                binding.id == id
                    && binding.expires_at > now
                    && binding.nat
                    && binding.node == *own
                    && binding.flow.transport == Transport::Udp
            });
            let Some(binding) = binding else {
                self.pings.watched.remove(&id);
                continue;
            };
            let number = self.pings.open(&extension, &id, now);
            let (flow, ping) = (binding.flow, self.ping(binding, number));
            self.sockets.send(flow, ping);
            self.pings.queue.push_back((now + INTERVAL, extension, id));
        }
    }

    /// Any response to a ping: the phone is there.
    pub(super) fn handle_pong(&mut self, number: u32, status: u16) {
        if self.pings.syncs.take(number, status) {
            return;
        }
        let Some((at, extension, id)) = self.pings.open.remove(&number) else { return };
        let rtt = self.now.saturating_since(at).as_micros();
        let bindings = self.directory.bindings_mut(&extension);
        if let Some(binding) = bindings.iter_mut().find(|binding| binding.id == id) {
            binding.ping_rtt_us = Some(u32::try_from(rtt).unwrap_or(u32::MAX));
        }
    }

    fn ping(&self, binding: &Binding, number: u32) -> Bytes {
        let settings = &self.settings;
        let leg = LegId::CALLER;
        let locator = Locator { call: NO_CALL, leg, node: settings.node_number };
        let branch = settings.key.token(locator, Purpose::Branch(number));
        let us = settings.advertise.host_port(&binding.flow);
        let (contact, aor, product) = (&binding.contact, &binding.aor, &settings.product);
        let routes: String =
            binding.path.iter().map(|route| format!("Route: {route}\r\n")).collect();
        Bytes::from(format!(
            "OPTIONS {contact} SIP/2.0\r\n\
             Via: SIP/2.0/UDP {us};branch={branch};rport\r\n\
             {routes}Max-Forwards: 70\r\n\
             From: <sip:ping@{us}>;tag=ping{number}\r\n\
             To: <{aor}>\r\n\
             Call-ID: {branch}\r\n\
             CSeq: 1 OPTIONS\r\n\
             User-Agent: {product}\r\n\
             Content-Length: 0\r\n\r\n"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loaded_bindings_are_spread_and_none_is_watched_twice() {
        let mut pings = Pings::default();
        let start = Timestamp::from_millis(1_000_000);
        for id in ["a", "b", "a", "c", "d", "e"] {
            pings.watch("1001", id, start);
        }
        pings.spread(start);
        let due: Vec<u64> =
            pings.queue.iter().map(|(due, ..)| due.saturating_since(start).as_secs()).collect();
        assert_eq!(due, [0, 5, 10, 15, 20]);
        assert_eq!(pings.pop_due(start), Some(("1001".into(), "a".into())));
        assert_eq!(pings.pop_due(start), None);
        let number = pings.open("1001", "a", start);
        pings.open("1001", "b", start + PATIENCE);
        assert!(!pings.open.contains_key(&number), "too late");
    }
}
