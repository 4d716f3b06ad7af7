//! Where a phone really is (RFC 4961): a short window that prefers what was signalled, then pinned.
//!
//! Invariants: a pinned source is left only for one that carries the same stream on (or that was
//! signalled) after 500 ms of silence, or when a new description reopens the window; whatever else
//! comes is refused. A source on a host that nobody named gives way to the signalled one at once.

use crate::time::Timestamp;
use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use serde::{Deserialize, Serialize};

/// Packets an unsignalled source must send before it is believed.
const WINDOW_PACKETS: u8 = 3;
/// How long a source on a host that signaling never named must wait for a better one.
const GRACE: Duration = Duration::from_millis(250);
/// A pinned source silent for so long may have got another address from its NAT.
const REBIND_SILENCE: Duration = Duration::from_millis(500);
/// After a description with another address, what still comes from the old one is heard so long,
/// and not believed.
const FORMER_TAIL: Duration = Duration::from_secs(2);

/// What a latch says to a packet's source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Taken.
    Accepted,
    /// Taken, and from now on the only source.
    Pinned,
    /// The same, in place of a pinned one that fell silent.
    Rebound,
    /// Foreign.
    Rejected,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Candidate {
    source: SocketAddr,
    packets: u8,
    since: Timestamp,
    last_at: Timestamp,
}

/// The latch of one socket.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Latch {
    /// Where the description says the phone is; `None` when it says nowhere (RFC 3264 §8.4:
    /// 0.0.0.0).
    signalled: Option<SocketAddr>,
    /// Where the phone's signaling comes from: its NAT, if it has one.
    peer: Option<IpAddr>,
    generation: Option<u32>,
    pinned: Option<SocketAddr>,
    last_at: Timestamp,
    /// Pinned before the window reopened.
    former: Option<SocketAddr>,
    /// The new description named another address than the one before.
    moved: bool,
    opened_at: Timestamp,
    candidate: Option<Candidate>,
}

impl Latch {
    /// Takes what signaling knows. True: the window (re)opened on a pinned socket.
    pub(super) fn describe(
        &mut self,
        peer: Option<IpAddr>,
        remote: Option<(SocketAddr, u32)>,
        now: Timestamp,
    ) -> bool {
        self.peer = peer;
        let Some((address, generation)) = remote else { return false };
        if self.generation == Some(generation) {
            return false;
        }
        let signalled = (!address.ip().is_unspecified() && address.port() != 0).then_some(address);
        self.moved = signalled.is_some() && signalled != self.signalled;
        self.signalled = signalled;
        self.generation = Some(generation);
        self.opened_at = now;
        // Who spoke before the description, from a host that it does not name, begins anew.
        self.candidate =
            self.candidate.filter(|held| signalled.is_none() || self.rank(held.source) > 0);
        if let Some(pinned) = self.pinned.take() {
            self.former = Some(pinned);
            // Who speaks from where we send already need not be believed anew.
            if signalled == Some(pinned) {
                self.pinned = self.former.take();
                return false;
            }
            return true;
        }
        false
    }

    /// The phone speaks from there, as another process found.
    pub(super) fn expect(&mut self, source: SocketAddr, now: Timestamp) {
        self.pin(source, now);
    }

    /// Who alone is believed.
    pub(super) const fn pinned(&self) -> Option<SocketAddr> {
        self.pinned
    }

    /// The pinned source spoke.
    pub(super) const fn was_heard(&mut self, at: Timestamp) {
        self.last_at = at;
    }

    /// `continues`: the packet carries the known stream on (SSRC and sequence).
    #[inline]
    pub(super) fn judge(
        &mut self,
        source: SocketAddr,
        now: Timestamp,
        continues: impl FnOnce() -> bool,
    ) -> Verdict {
        if self.pinned == Some(source) {
            self.last_at = now;
            return Verdict::Accepted;
        }
        if let Some(pinned) = self.pinned {
            if self.signalled == Some(source) && self.rank(pinned) == 0 {
                // A stranger was quicker: the phone itself speaks now.
                return self.pin(source, now);
            }
            let silent = now.saturating_since(self.last_at) >= REBIND_SILENCE;
            if silent && (self.signalled == Some(source) || continues()) {
                self.pin(source, now);
                return Verdict::Rebound;
            }
            return Verdict::Rejected;
        }
        self.judge_in_window(source, now)
    }

    fn judge_in_window(&mut self, source: SocketAddr, now: Timestamp) -> Verdict {
        if self.signalled == Some(source) {
            return self.pin(source, now);
        }
        if self.moved && self.former == Some(source) {
            let tail = now.saturating_since(self.opened_at) < FORMER_TAIL;
            if tail {
                let heard = self.candidate.is_none();
                return if heard { Verdict::Accepted } else { Verdict::Rejected };
            }
        }
        let fresh = Candidate { source, packets: 0, since: now, last_at: now };
        let better = |held: &Candidate| {
            self.rank(source) > self.rank(held.source) || now.saturating_since(held.last_at) > GRACE
        };
        let mut candidate = match self.candidate {
            Some(held) if held.source == source => held,
            Some(held) if better(&held) => fresh,
            Some(_) => return Verdict::Rejected,
            None => fresh,
        };
        candidate.packets = candidate.packets.saturating_add(1);
        candidate.last_at = now;
        self.candidate = Some(candidate);
        let waited = self.rank(source) > 0 || now.saturating_since(candidate.since) >= GRACE;
        // Nobody is believed before the phone's description is here.
        if self.generation.is_some() && waited && candidate.packets >= WINDOW_PACKETS {
            return self.pin(source, now);
        }
        Verdict::Accepted
    }

    /// A host that signaling named is better than any other.
    fn rank(&self, source: SocketAddr) -> u8 {
        let named = [self.signalled.map(|address| address.ip()), self.peer];
        let former = !self.moved && self.former == Some(source);
        u8::from(former || named.contains(&Some(source.ip())))
    }

    fn pin(&mut self, source: SocketAddr, now: Timestamp) -> Verdict {
        self.pinned = Some(source);
        self.last_at = now;
        self.former = None;
        self.candidate = None;
        Verdict::Pinned
    }

    /// Where to send: to who speaks, else to where the description says, else to who seems to be
    /// it.
    #[inline]
    pub(super) fn destination(&self) -> Option<SocketAddr> {
        if self.pinned.is_some() {
            return self.pinned;
        }
        self.generation?;
        let former = if self.moved { None } else { self.former };
        former.or(self.signalled).or(self.candidate.map(|candidate| candidate.source))
    }

    /// Who is or seems to be the phone. One that said it is elsewhere is not where it was, though it is silent.
    pub(super) fn latched(&self) -> Option<SocketAddr> {
        let former = if self.moved { None } else { self.former };
        self.pinned.or(self.candidate.map(|candidate| candidate.source)).or(former)
    }
}

#[cfg(test)]
mod tests {
    use super::Verdict::{Accepted, Pinned, Rebound, Rejected};
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    const SIGNALLED: &str = "192.0.2.1:4000";
    const SAME_HOST: &str = "192.0.2.1:4002";
    const NAT: &str = "198.51.100.9:61000";
    const STRANGER: &str = "203.0.113.5:9";

    fn latch() -> Latch {
        let mut latch = Latch::default();
        let peer = Some(address(NAT).ip());
        assert!(!latch.describe(peer, Some((address(SIGNALLED), 1)), Timestamp::EPOCH));
        latch
    }

    fn check(latch: &mut Latch, steps: &[(u64, &str, bool, Verdict)]) {
        for (at, source, continues, expect) in steps {
            let now = Timestamp::from_millis(*at);
            let verdict = latch.judge(address(source), now, || *continues);
            assert_eq!(verdict, *expect, "{source} at {at} ms");
        }
    }

    #[test]
    fn the_signalled_address_wins_at_once_and_stays() {
        let mut latch = latch();
        assert_eq!(latch.destination(), Some(address(SIGNALLED)));
        check(
            &mut latch,
            &[
                (0, STRANGER, false, Accepted),
                (20, STRANGER, false, Accepted),
                (40, SIGNALLED, false, Pinned),
                (60, STRANGER, true, Rejected),
                (600, STRANGER, false, Rejected),
            ],
        );
        assert_eq!(latch.destination(), Some(address(SIGNALLED)));
    }

    #[test]
    fn a_named_host_needs_three_packets_a_stranger_the_grace_too() {
        let mut named = latch();
        check(
            &mut named,
            &[
                (0, STRANGER, false, Accepted),
                (1, NAT, false, Accepted),
                (2, STRANGER, false, Rejected),
            ],
        );
        check(&mut named, &[(20, NAT, false, Accepted), (40, NAT, false, Pinned)]);
        assert_eq!(named.destination(), Some(address(NAT)), "symmetric RTP");
        let mut stranger = latch();
        for at in [0, 20, 40, 60, 249] {
            check(&mut stranger, &[(at, STRANGER, false, Accepted)]);
        }
        assert_eq!(stranger.destination(), Some(address(SIGNALLED)));
        check(&mut stranger, &[(250, STRANGER, false, Pinned)]);
    }

    #[test]
    fn a_nat_that_rebinds_is_followed_only_with_the_same_stream_after_silence() {
        let mut latch = latch();
        check(
            &mut latch,
            &[
                (0, SIGNALLED, false, Pinned),
                (499, SAME_HOST, true, Rejected),
                (500, SAME_HOST, false, Rejected),
                (510, SAME_HOST, true, Rebound),
                (520, SIGNALLED, false, Rejected),
                (1_100, SIGNALLED, false, Rebound),
            ],
        );
    }

    #[test]
    fn a_new_description_reopens_the_window() {
        let mut latch = latch();
        check(
            &mut latch,
            &[(0, NAT, false, Accepted), (1, NAT, false, Accepted), (2, NAT, false, Pinned)],
        );
        let now = Timestamp::from_millis(1_000);
        assert!(!latch.describe(None, Some((address(SIGNALLED), 1)), now), "the same generation");
        // The same address anew, from behind a NAT: we go on sending where the phone was.
        let peer = Some(address(NAT).ip());
        assert!(latch.describe(peer, Some((address(SIGNALLED), 2)), now));
        assert_eq!(latch.destination(), Some(address(NAT)));
        // Another address: the old source is heard for a while and never believed.
        let moved = "192.0.2.77:5000";
        latch.describe(peer, Some((address(moved), 3)), now);
        assert_eq!(latch.destination(), Some(address(moved)));
        assert_eq!(latch.latched(), None, "an heir of this session does not look for it there");
        for at in [1_000, 1_020, 1_040, 1_060, 1_080] {
            check(&mut latch, &[(at, NAT, true, Accepted)]);
        }
        assert_eq!(latch.destination(), Some(address(moved)));
        check(&mut latch, &[(1_100, moved, false, Pinned), (1_120, NAT, true, Rejected)]);
        assert!(!latch.describe(peer, Some((address(moved), 4)), now), "it speaks from there");
        assert_eq!(latch.destination(), Some(address(moved)));
    }

    #[test]
    fn a_stranger_that_was_quicker_gives_way_to_the_signalled_address() {
        let mut latch = latch();
        for at in [0, 20, 40, 60] {
            check(&mut latch, &[(at, STRANGER, false, Accepted)]);
        }
        check(&mut latch, &[(320, STRANGER, false, Pinned), (340, STRANGER, false, Accepted)]);
        check(&mut latch, &[(350, SIGNALLED, false, Pinned), (360, STRANGER, true, Rejected)]);
        assert_eq!(latch.destination(), Some(address(SIGNALLED)));
    }

    #[test]
    fn nobody_is_believed_before_the_description() {
        let mut latch = Latch::default();
        for at in [0, 20, 40, 300, 600] {
            check(&mut latch, &[(at, STRANGER, false, Accepted)]);
        }
        assert_eq!((latch.destination(), latch.latched()), (None, Some(address(STRANGER))));
        let now = Timestamp::from_millis(700);
        latch.describe(None, Some((address("0.0.0.0:4000"), 1)), now);
        assert_eq!(latch.destination(), Some(address(STRANGER)), "held by address");
    }
}
