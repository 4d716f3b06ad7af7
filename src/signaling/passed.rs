//! What was passed on to a node that does not live to handle it, or stands still: a phone on a connection says nothing
//! twice, so what the link took with it is handled again; and a call has ended when its phone first said so.
//!
//! Invariant: both are bounded in number and time; handling a message twice is no more than its phone may do.

use super::pass_on::Stray;
use super::worker::Worker;
use crate::ids::{CallId, NodeName};
use crate::limits;
use crate::time::Timestamp;
use core::hash::{Hash, Hasher};
use core::time::Duration;
use std::collections::{HashMap, VecDeque};
use std::hash::DefaultHasher;

/// A link that takes nothing any more is known as broken by then.
const IN_DOUBT: Duration = Duration::from_secs(2);
/// Messages in doubt, of all links together.
const MOST: usize = 4_096;
/// Calls whose BYE was passed on.
const MOST_ENDS: usize = 16_384;

/// What is remembered of it.
#[derive(Debug, Default)]
pub(super) struct Passed {
    /// Messages that came by connections, the oldest first.
    in_doubt: VecDeque<(Timestamp, NodeName, Stray)>,
    /// When a BYE came first, and which.
    ends: HashMap<CallId, (u64, Timestamp)>,
    order: VecDeque<CallId>,
}

impl Passed {
    /// It went to that node.
    pub(super) fn note(&mut self, name: &NodeName, stray: Stray, now: Timestamp) {
        let is_past_doubt = |(at, ..): &(Timestamp, NodeName, Stray)| *at + IN_DOUBT <= now;
        while self.in_doubt.len() >= MOST || self.in_doubt.front().is_some_and(is_past_doubt) {
            self.in_doubt.pop_front();
        }
        self.in_doubt.push_back((now, name.clone(), stray));
    }

    /// What that node may not have read.
    fn take(&mut self, name: &NodeName, now: Timestamp) -> Vec<Stray> {
        let is_lost =
            |(at, to, _): &mut (Timestamp, NodeName, Stray)| to == name && *at + IN_DOUBT > now;
        let mut lost = Vec::new();
        self.in_doubt.retain_mut(|one| {
            let is_lost = is_lost(one);
            if is_lost {
                lost.push(one.2.clone());
            }
            !is_lost
        });
        lost
    }

    /// A message of another's call.
    pub(super) fn note_end(&mut self, stray: &Stray, now: Timestamp) {
        if !stray.bytes.starts_with(b"BYE ") || self.ends.contains_key(&stray.call) {
            return;
        }
        if self.order.len() >= MOST_ENDS
            && let Some(oldest) = self.order.pop_front()
        {
            self.ends.remove(&oldest);
        }
        self.order.push_back(stray.call);
        self.ends.insert(stray.call, (digest(&stray.bytes), now));
    }

    /// When these words came first, if they are the BYE that was passed on lately.
    pub(super) fn first_said(
        &self,
        call: CallId,
        bytes: &[u8],
        now: Timestamp,
    ) -> Option<Timestamp> {
        let (known, at) = self.ends.get(&call)?;
        let is_it = *known == digest(bytes) && *at + limits::TRANSACTION_TIMEOUT > now;
        is_it.then_some(*at)
    }
}

fn digest(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

impl Worker {
    /// The link with a node broke: what it took last is handled anew.
    pub(super) fn pass_on_again(&mut self, name: &NodeName) {
        for Stray { flow, bytes, hops, .. } in self.peers.passed.take(name, self.now) {
            self.handle_message_hopped(&bytes, flow, hops);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{LegId, Locator};
    use crate::signaling::samples;
    use bytes::Bytes;

    fn stray(call: u128, text: &'static str) -> Stray {
        let (_, flow) = samples::invite();
        let locator = Locator { call: CallId(call), leg: LegId(0), node: 1 };
        Stray::new(&locator, flow, &Bytes::from_static(text.as_bytes()), 0)
    }

    #[test]
    fn what_a_link_took_with_it_is_handled_again_once() {
        let (mut passed, now) = (Passed::default(), Timestamp::from_millis(10_000));
        let [one, other] = ["n-1", "n-2"].map(|name| NodeName(name.into()));
        passed.note(&one, stray(1, "long ago"), now);
        let now = now + IN_DOUBT;
        passed.note(&one, stray(2, "just now"), now);
        passed.note(&other, stray(3, "to another"), now);
        let lost = passed.take(&one, now);
        assert_eq!(lost.iter().map(|stray| stray.call.0).collect::<Vec<_>>(), [2]);
        assert!(passed.take(&one, now).is_empty());
        assert_eq!(passed.take(&other, now).len(), 1);
    }

    #[test]
    fn a_call_ended_when_its_bye_came_first() {
        let (mut passed, now) = (Passed::default(), Timestamp::from_millis(10_000));
        passed.note_end(&stray(1, "BYE sip:1 SIP/2.0\r\nCSeq: 2 BYE"), now);
        passed
            .note_end(&stray(1, "BYE sip:1 SIP/2.0\r\nCSeq: 2 BYE"), now + Duration::from_secs(3));
        passed.note_end(&stray(2, "INVITE sip:1 SIP/2.0"), now);
        let first = |call, text: &str, later| {
            passed.first_said(CallId(call), text.as_bytes(), now + Duration::from_secs(later))
        };
        assert_eq!(first(1, "BYE sip:1 SIP/2.0\r\nCSeq: 2 BYE", 5), Some(now));
        assert_eq!(first(1, "BYE sip:1 SIP/2.0\r\nCSeq: 3 BYE", 5), None, "another one");
        assert_eq!(first(1, "BYE sip:1 SIP/2.0\r\nCSeq: 2 BYE", 40), None, "long ago");
        assert_eq!(first(2, "INVITE sip:1 SIP/2.0", 0), None);
    }
}
