//! What is wrong in the signaling of a call, as its messages come and go: the ladder shows it of one call, the list of
//! live calls finds all that have it.
//!
//! Invariants: calls and messages that are remembered are bounded in number, the oldest make room; a call without a
//! flag costs no memory once a minute of others has passed.

use super::gist::{Gist, lines};
use crate::ids::{CallId, LegId};
use crate::sip::Status;
use crate::time::Timestamp;
use crate::views::CallFlag;
use core::net::{IpAddr, SocketAddr};
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{Hash as _, Hasher as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// So many times the same message is a storm.
const STORM: u32 = 4;
/// Retransmissions and quarrels come within this.
const GENERATION: Duration = Duration::from_secs(64);
/// Calls whose messages are remembered, in each of two generations.
const WATCHED: usize = 20_000;
/// Calls whose flags are remembered.
const FLAGGED: usize = 20_000;

/// A message of a call.
#[derive(Clone, Copy, Debug)]
pub struct Said<'a> {
    /// Of this leg.
    pub leg: LegId,
    /// From the phone; else to it.
    pub received: bool,
    /// The phone's address.
    pub remote: SocketAddr,
    /// As on the wire.
    pub text: &'a [u8],
}

/// Follows one call.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    said: BTreeMap<u64, u32>,
    /// Legs whose repeated 2xx has no ACK.
    unacknowledged: BTreeSet<LegId>,
    /// Legs that were invited again and again and have said nothing: phones that are off. Their silence is theirs, and
    /// the call may be answered elsewhere.
    mute: BTreeSet<LegId>,
    glares: u32,
    flags: BTreeSet<CallFlag>,
}

impl Watch {
    /// The next message, in the order of time. True: the same was said before.
    pub fn see(&mut self, said: &Said<'_>) -> bool {
        self.see_gist(said, &Gist::read(said.text))
    }

    fn see_gist(&mut self, said: &Said<'_>, gist: &Gist<'_>) -> bool {
        let mut hasher = DefaultHasher::new();
        (said.received, said.remote, said.text).hash(&mut hasher);
        let times = self.said.entry(hasher.finish()).or_insert(0);
        *times += 1;
        let (times, is_repeated) = (*times, *times > 1);
        if times == STORM && !said.received && is_first_invite(said.text) {
            self.mute.insert(said.leg);
        } else if times == STORM || said.received && self.mute.remove(&said.leg) {
            self.flags.insert(CallFlag::RetransmissionStorm);
        }
        let Gist { method, status, body, .. } = *gist;
        // What a repeated message describes was looked at.
        if !is_repeated {
            self.look_at_sdp(status, body, said);
            self.glares += u32::from(status == Some(491));
        }
        let is_accepted = status.is_some_and(|status| (200..300).contains(&status));
        if method == b"ACK" && said.received {
            self.unacknowledged.remove(&said.leg);
        } else if is_repeated && is_accepted && method == b"INVITE" && !said.received {
            self.unacknowledged.insert(said.leg);
        }
        is_repeated
    }

    /// What is wrong so far.
    pub fn flags(&self) -> BTreeSet<CallFlag> {
        let mut flags = self.flags.clone();
        if !self.unacknowledged.is_empty() {
            flags.insert(CallFlag::AckMissing);
        }
        // Once happens to the best.
        if self.glares > 1 {
            flags.insert(CallFlag::GlareLoop);
        }
        flags
    }

    /// What the session description says that it had better not.
    fn look_at_sdp(&mut self, status: Option<u16>, body: &[u8], said: &Said<'_>) {
        let names = |line: &[u8]| {
            let address =
                line.strip_prefix(b"c=IN IP4 ").or_else(|| line.strip_prefix(b"c=IN IP6 "));
            let address = address.and_then(|address| core::str::from_utf8(address).ok());
            address.is_some_and(|address| address.parse().is_ok_and(is_private))
        };
        let is_public = !is_private(said.remote.ip().to_canonical());
        if said.received && is_public && lines(body).any(names) {
            self.flags.insert(CallFlag::PrivateAddressInSdp);
        }
        let refuses = status.is_some_and(|status| Status(status).refuses_media());
        if refuses || lines(body).any(|line| line.starts_with(b"m=audio 0 ")) {
            self.flags.insert(CallFlag::MediaRejected);
        }
    }
}

fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_private() || ip.is_loopback() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unique_local() || ip.is_loopback() || ip.is_unicast_link_local(),
    }
}

/// It invites a phone to the call: there is no dialog yet.
fn is_first_invite(text: &[u8]) -> bool {
    let is_to = |line: &&[u8]| line.get(..3).is_some_and(|name| name.eq_ignore_ascii_case(b"to:"));
    let to = lines(text).find(is_to).unwrap_or_default();
    text.starts_with(b"INVITE ") && !to.windows(5).any(|part| part == b";tag=")
}

/// Flags by call. Ids sort by time.
type ByCall = BTreeMap<CallId, BTreeSet<CallFlag>>;

/// What is wrong in which call: written by who records, read by who shows calls.
#[derive(Clone, Debug, Default)]
pub(super) struct Flagged(Arc<Board>);

#[derive(Debug, Default)]
struct Board {
    /// What is so, and what of it nobody took yet.
    calls: Mutex<(ByCall, ByCall)>,
    has_news: AtomicBool,
}

impl Flagged {
    pub(super) fn of(&self, call: CallId) -> BTreeSet<CallFlag> {
        self.lock().0.get(&call).cloned().unwrap_or_default()
    }

    /// What came to be wrong since it was asked last.
    pub(super) fn news(&self) -> ByCall {
        match self.0.has_news.swap(false, Ordering::Acquire) {
            true => core::mem::take(&mut self.lock().1),
            false => ByCall::new(),
        }
    }

    fn put(&self, call: CallId, flags: BTreeSet<CallFlag>) {
        let mut calls = self.lock();
        let (so, news) = &mut *calls;
        if flags.is_empty() {
            so.remove(&call);
            return;
        }
        for known in [news, so] {
            known.insert(call, flags.clone());
            if known.len() > FLAGGED {
                known.pop_first();
            }
        }
        self.0.has_news.store(true, Ordering::Release);
    }

    fn lock(&self) -> MutexGuard<'_, (ByCall, ByCall)> {
        self.0.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Follows all calls of a process.
#[derive(Debug, Default)]
pub(super) struct Watches {
    young: HashMap<CallId, Watch>,
    old: HashMap<CallId, Watch>,
    since: Timestamp,
    flagged: Flagged,
}

impl Watches {
    pub(super) fn new(flagged: Flagged) -> Self {
        Self { flagged, ..Self::default() }
    }

    pub(super) fn see(&mut self, call: CallId, at: Timestamp, said: &Said<'_>, gist: &Gist<'_>) {
        if self.young.len() >= WATCHED || at.saturating_since(self.since) > GENERATION {
            self.old = core::mem::take(&mut self.young);
            self.since = at;
        }
        if let Some(watch) = self.old.remove(&call) {
            self.young.insert(call, watch);
        }
        let flagged = &self.flagged;
        let watch = self.young.entry(call).or_insert_with(|| {
            // What was wrong longer ago stays told.
            Watch { flags: flagged.of(call), ..Watch::default() }
        });
        let before = watch.flags();
        watch.see_gist(said, gist);
        let flags = watch.flags();
        if flags != before {
            self.flagged.put(call, flags);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> Said<'_> {
        let remote = "203.0.113.7:5060".parse().expect("an address");
        Said { leg: LegId(0), received: false, remote, text: text.as_bytes() }
    }

    fn see(watches: &mut Watches, call: CallId, at: Timestamp, said: &Said<'_>) {
        watches.see(call, at, said, &Gist::read(said.text));
    }

    #[test]
    fn a_flag_stays_until_it_is_mended_and_calls_make_room() {
        let head = |line: &str, method: &str| {
            format!(
                "{line}\r\nVia: SIP/2.0/UDP 203.0.113.7;branch=z9hG4bK1\r\nFrom: <sip:1@x>;tag=1\r\n\
                 To: <sip:2@x>\r\nCall-ID: 1\r\nCSeq: 1 {method}\r\nContent-Length: 0\r\n\r\n"
            )
        };
        let (ok, ack) = (head("SIP/2.0 200 OK", "INVITE"), head("ACK sip:2@x SIP/2.0", "ACK"));
        let flagged = Flagged::default();
        let mut watches = Watches::new(flagged.clone());
        let (call, at) = (CallId(1), Timestamp::from_millis);
        let of = |call: u128| Vec::from_iter(flagged.of(CallId(call)));
        see(&mut watches, call, at(1), &said(&ok));
        assert_eq!(of(1), []);
        see(&mut watches, call, at(501), &said(&ok));
        assert_eq!(of(1), [CallFlag::AckMissing]);
        let news = || Vec::from_iter(flagged.news().into_values().flatten());
        assert_eq!((news(), news()), (vec![CallFlag::AckMissing], vec![]));
        see(&mut watches, call, at(502), &Said { received: true, ..said(&ack) });
        assert_eq!(of(1), []);
        let busy = head("SIP/2.0 488 Not Acceptable Here", "INVITE");
        see(&mut watches, call, at(503), &said(&busy));
        for generation in 1..4 {
            let now = at(1_000) + GENERATION * 2 * generation;
            see(&mut watches, CallId(2), now, &said(&ack));
        }
        assert!(!watches.young.contains_key(&call) && !watches.old.contains_key(&call));
        see(&mut watches, call, at(999_000), &said(&ok));
        see(&mut watches, call, at(999_500), &said(&ok));
        assert_eq!(of(1), [CallFlag::AckMissing, CallFlag::MediaRejected]);
        for other in 0..u128::try_from(FLAGGED).expect("few") {
            flagged.put(CallId(10 + other), BTreeSet::from([CallFlag::GlareLoop]));
        }
        assert_eq!((of(1), of(10)), (vec![], vec![CallFlag::GlareLoop]));
    }
}
