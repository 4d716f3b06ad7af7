//! NOTIFY with `Event: check-sync` to a registered phone: it looks for its configuration again. Unsolicited, as phones
//! know it; repeated over UDP as a transaction is (RFC 3261 §17.1.2), and answered to the operator with what the phone
//! said.
//!
//! Invariants: whoever asks hears within `PATIENCE`; no more than `OPEN` wait at a time.

use super::pings::NO_CALL;
use super::worker::Worker;
use crate::directory::Binding;
use crate::event::Event;
use crate::ids::{Flow, LegId, Locator, Purpose, Transport};
use crate::limits::{T1, T2};
use crate::operator::Refused;
use crate::time::Timestamp;
use bytes::Bytes;
use core::time::Duration;
use std::collections::HashMap;
use tokio::sync::oneshot;

/// Less than what an operator waits.
const PATIENCE: Duration = Duration::from_secs(4);
/// Phones asked at a time.
const OPEN: usize = 1_000;

/// What the phone said; none: nothing in time.
type Answer = oneshot::Sender<Result<Option<u16>, Refused>>;

/// Phones that were asked, by branch number.
#[derive(Debug, Default)]
pub(super) struct Syncs(HashMap<u32, Open>);

#[derive(Debug)]
struct Open {
    flow: Flow,
    message: Bytes,
    interval: Duration,
    /// Over a stream: never.
    repeat_at: Option<Timestamp>,
    until: Timestamp,
    answer: Answer,
}

impl Syncs {
    pub(super) fn next_timeout(&self) -> Option<Timestamp> {
        let due = |open: &Open| open.repeat_at.unwrap_or(open.until).min(open.until);
        self.0.values().map(due).min()
    }

    /// A phone answered. False: it was not asked.
    pub(super) fn take(&mut self, number: u32, status: u16) -> bool {
        let Some(open) = self.0.remove(&number) else { return false };
        // Who asked may have gone.
        let _ = open.answer.send(Ok(Some(status)));
        true
    }
}

impl Worker {
    /// Asks the phone of a binding.
    pub(super) fn check_sync(&mut self, id: &str, reboot: Option<bool>, answer: Answer) {
        let found = self.directory.all_bindings().find(|binding| binding.id == id);
        let found = found.filter(|binding| binding.expires_at > self.now);
        let Some(binding) = found.cloned() else {
            // Who asked may have gone.
            let _ = answer.send(Err(Refused::Gone));
            return;
        };
        if self.pings.syncs.0.len() >= OPEN {
            let reason = "too many phones are being asked";
            self.emit(&Event::Shed { what: reason });
            let _ = answer.send(Err(Refused::not_now(reason, 4)));
            return;
        }
        let number = self.pings.next_number();
        let (flow, message) = (self.flow_now(binding.flow), self.notify(&binding, reboot, number));
        if !self.transmit(flow, message.clone()) {
            let _ = answer.send(Err(Refused::conflict("nobody has its connection any more")));
            return;
        }
        let repeat_at = (flow.transport == Transport::Udp).then_some(self.now + T1);
        let until = self.now + PATIENCE;
        let open = Open { flow, message, interval: T1, repeat_at, until, answer };
        self.pings.syncs.0.insert(number, open);
    }

    /// What is not answered is said again; who asked does not wait for ever.
    pub(super) fn repeat_syncs(&mut self) {
        let now = self.now;
        let mut due = Vec::new();
        for open in self.pings.syncs.0.values_mut() {
            if open.repeat_at.is_some_and(|at| at <= now) {
                open.interval = (2 * open.interval).min(T2);
                open.repeat_at = Some(now + open.interval);
                due.push((open.flow, open.message.clone()));
            }
        }
        for (flow, message) in due {
            self.transmit(flow, message);
        }
        let over = |(_, open): &(&u32, &Open)| open.until <= now;
        let over: Vec<u32> =
            self.pings.syncs.0.iter().filter(over).map(|(number, _)| *number).collect();
        for number in over {
            if let Some(open) = self.pings.syncs.0.remove(&number) {
                // Who asked may have gone.
                let _ = open.answer.send(Ok(None));
            }
        }
    }

    fn notify(&self, binding: &Binding, reboot: Option<bool>, number: u32) -> Bytes {
        let settings = &self.settings;
        let (leg, node) = (LegId::CALLER, settings.node_number);
        let branch =
            settings.key.token(Locator { call: NO_CALL, leg, node }, Purpose::Branch(number));
        let us = settings.advertise.host_port(&binding.flow);
        let via = binding.flow.transport.name().to_ascii_uppercase();
        let (contact, aor, product) = (&binding.contact, &binding.aor, &settings.product);
        let routes: String =
            binding.path.iter().map(|route| format!("Route: {route}\r\n")).collect();
        let reboot = reboot.map_or_else(String::new, |reboot| format!(";reboot={reboot}"));
        Bytes::from(format!(
            "NOTIFY {contact} SIP/2.0\r\n\
             Via: SIP/2.0/{via} {us};branch={branch};rport\r\n\
             {routes}Max-Forwards: 70\r\n\
             From: <sip:{us}>;tag=sync{number}\r\n\
             To: <{aor}>\r\n\
             Call-ID: {branch}\r\n\
             CSeq: 1 NOTIFY\r\n\
             Contact: <sip:{us}>\r\n\
             Event: check-sync{reboot}\r\n\
             Subscription-State: terminated\r\n\
             User-Agent: {product}\r\n\
             Content-Length: 0\r\n\r\n"
        ))
    }
}
