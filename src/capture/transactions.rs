//! How long transactions of calls take (RFC 3261 §17): from when a request is seen first to its final response.
//!
//! Invariants: a retransmission begins nothing anew and ends nothing twice; what never ends is forgotten.

use super::gist::Gist;
use crate::event::{Measure, TransactionRole};
use crate::limits::TRANSACTION_TIMEOUT;
use crate::time::Timestamp;
use std::collections::{HashMap, VecDeque};

/// Open ones that are remembered; the oldest make room.
const OPEN: usize = 50_000;
/// An INVITE may ring for long.
const LIFE: u32 = 20;

/// A branch, the request's method, and whether it came to us.
type Key = (Box<[u8]>, &'static str, bool);

/// Transactions without a final response.
#[derive(Debug, Default)]
pub(super) struct Transactions {
    began: HashMap<Key, Timestamp>,
    order: VecDeque<(Timestamp, Key)>,
}

/// The methods that are told apart; ACK has no response.
fn word(method: &[u8]) -> Option<&'static str> {
    let known = ["BYE", "CANCEL", "INFO", "INVITE", "OPTIONS", "PRACK", "REFER", "UPDATE"];
    match method {
        b"ACK" | b"" => None,
        method => Some(*known.iter().find(|word| word.as_bytes() == method).unwrap_or(&"other")),
    }
}

impl Transactions {
    /// A message came or left; what ended with it.
    pub(super) fn see(
        &mut self,
        gist: &Gist<'_>,
        at: Timestamp,
        received: bool,
    ) -> Option<Measure> {
        let Gist { status, branch, .. } = *gist;
        let method = word(gist.method).filter(|_| !branch.is_empty())?;
        match status {
            None => self.begin((branch.into(), method, received), at),
            Some(200..) => {
                let began = self.began.remove(&(branch.into(), method, !received))?;
                let role = match received {
                    true => TransactionRole::Client,
                    false => TransactionRole::Server,
                };
                let took = at.saturating_since(began);
                return Some(Measure::Transaction { method, role, took });
            }
            Some(_) => {}
        }
        None
    }

    fn begin(&mut self, key: Key, at: Timestamp) {
        let life = TRANSACTION_TIMEOUT * LIFE;
        while let Some((began, oldest)) = self.order.front()
            && (self.order.len() >= OPEN
                || at.saturating_since(*began) > life
                || self.began.get(oldest) != Some(began))
            && let Some((began, old)) = self.order.pop_front()
        {
            if self.began.get(&old) == Some(&began) {
                self.began.remove(&old);
            }
        }
        if !self.began.contains_key(&key) {
            self.began.insert(key.clone(), at);
            self.order.push_back((at, key));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::time::Duration;

    fn message(first: &str, method: &str, via: &str) -> Vec<u8> {
        let text = format!(
            "{first}\r\n{via}\r\nVia: SIP/2.0/UDP 192.0.2.9;branch=z9hG4bKother\r\n\
             From: <sip:1@x>;tag=1\r\nTo: <sip:2@x>\r\nCall-ID: 1\r\nCSeq: 1 {method}\r\n\r\n\
             branch=body"
        );
        text.into_bytes()
    }

    fn see(
        open: &mut Transactions,
        message: &[u8],
        at: Timestamp,
        received: bool,
    ) -> Option<Measure> {
        open.see(&Gist::read(message), at, received)
    }

    const VIA: &str = "Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1;rport";

    #[test]
    fn a_transaction_lasts_from_its_first_request_to_its_first_final_response() {
        let mut open = Transactions::default();
        let at = Timestamp::from_millis;
        let invite = message("INVITE sip:2@x SIP/2.0", "INVITE", VIA);
        let ringing = message("SIP/2.0 180 Ringing", "INVITE", VIA);
        let busy = message("SIP/2.0 486 Busy Here", "INVITE", VIA);
        assert_eq!(see(&mut open, &invite, at(1_000), true), None);
        assert_eq!(see(&mut open, &invite, at(1_500), true), None, "a retransmission");
        assert_eq!(see(&mut open, &ringing, at(1_600), false), None);
        let took = Duration::from_millis(2_000);
        let role = TransactionRole::Server;
        let ended = Some(Measure::Transaction { method: "INVITE", role, took });
        assert_eq!(see(&mut open, &busy, at(3_000), false), ended);
        assert_eq!(see(&mut open, &busy, at(3_500), false), None, "repeated");
        let ack = message("ACK sip:2@x SIP/2.0", "ACK", VIA);
        assert_eq!(see(&mut open, &ack, at(3_600), true), None);
        assert!(open.began.is_empty(), "nothing waits for an answer to ACK: {open:?}");
        assert!(open.order.len() < 2, "what has ended is forgotten: {open:?}");
        let short = "v: SIP/2.0/TCP [2001:db8::1] ;Branch=z9hG4bK2, SIP/2.0/UDP x;branch=z9hG4bK3";
        let bye = message("BYE sip:2@x SIP/2.0", "BYE", short);
        let ok = message("SIP/2.0 200 OK", "BYE", short);
        assert_eq!(see(&mut open, &bye, at(4_000), false), None);
        let (role, took) = (TransactionRole::Client, Duration::from_millis(5));
        let ended = Some(Measure::Transaction { method: "BYE", role, took });
        assert_eq!(see(&mut open, &ok, at(4_005), true), ended);
    }

    #[test]
    fn what_never_ends_is_forgotten() {
        let mut open = Transactions::default();
        let mut now = Timestamp::from_millis(1);
        for number in 0..10 {
            let via = format!("Via: SIP/2.0/UDP x;branch=z9hG4bK{number}");
            see(&mut open, &message("BYE sip:2@x SIP/2.0", "BYE", &via), now, true);
            now = now + TRANSACTION_TIMEOUT * LIFE / 4;
        }
        assert!(open.began.len() <= 5 && open.order.len() <= 5, "{open:?}");
    }

    #[test]
    fn what_is_no_message_tells_nothing() {
        let mut open = Transactions::default();
        for text in ["", "\r\n\r\n", "SIP/2.0 2", "SIP/2.0 x00 OK\r\nVia\r\n", "INVITE x\r\n:\r\n"]
        {
            assert_eq!(see(&mut open, text.as_bytes(), Timestamp::default(), true), None, "{text}");
        }
    }
}
