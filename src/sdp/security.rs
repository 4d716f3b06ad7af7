//! SRTP on a leg (RFC 4568, RFC 8643): what a phone's lines mean under its user's policy, and which keys are ours.
//!
//! Our keys are derived from a seed that was drawn for the call, so a step repeated after a crash writes the same SDP.
//!
//! Invariants: each leg has keys of its own; in an offer of ours what is in force is repeated; our key is new whenever
//! the phone's offer has a new one, and a key once given up never comes back.

use super::crypto::Crypto;
use super::{MediaDescription, offer_answer::Disagreement};
use crate::rtp::srtp::{Keying, Seed, Suite};
use crate::views::user::SrtpPolicy;
use serde::{Deserialize, Serialize};

/// What we offer, the cheapest first: a phone takes the first that it knows.
const OFFERED: [Suite; 4] = [
    Suite::AeadAes128Gcm,
    Suite::AeadAes256Gcm,
    Suite::AesCm128HmacSha1_80,
    Suite::AesCm128HmacSha1_32,
];

/// A stream's keys, as agreed with its phone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamKeys {
    /// Of the phone's line, which an answer of ours repeats.
    pub tag: u32,
    /// Ours: we protect with it.
    pub sent: Keying,
    /// The phone's.
    pub received: Keying,
}

impl StreamKeys {
    /// The line that the phone wrote.
    pub(super) fn of_phone(&self) -> Crypto {
        Crypto { tag: self.tag, keying: self.received.clone() }
    }
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Security {
    /// The user's.
    pub policy: SrtpPolicy,
    /// Our keys are derived from it.
    pub seed: Seed,
    /// By stream; `None`: plain RTP.
    pub in_force: Vec<Option<StreamKeys>>,
}

impl Security {
    /// Of a leg whose user has this policy.
    pub const fn new(policy: SrtpPolicy, seed: Seed) -> Self {
        Self { policy, seed, in_force: Vec::new() }
    }

    /// There may be keys.
    pub const fn is_on(&self) -> bool {
        !matches!(self.policy, SrtpPolicy::Off)
    }

    /// Protocol of a new line of ours. RFC 8643: who may do without is offered RTP/AVP.
    pub(super) const fn protocol(&self) -> &'static str {
        match self.policy {
            SrtpPolicy::Off | SrtpPolicy::Optional => "RTP/AVP",
            SrtpPolicy::Mandatory => "RTP/SAVP",
        }
    }

    /// Which way of a phone's offer is taken: the first that we know; `None`: plain RTP.
    pub(super) fn offered<'a>(
        &self,
        media: &'a MediaDescription,
    ) -> Result<Option<&'a Crypto>, Disagreement> {
        let usable = media.crypto.first().filter(|_| self.is_on());
        match (self.policy, usable) {
            (_, Some(crypto)) => Ok(Some(crypto)),
            (SrtpPolicy::Off | SrtpPolicy::Optional, None) if !media.is_secure() => Ok(None),
            (SrtpPolicy::Off, None) => Err(Disagreement::SrtpOff),
            (SrtpPolicy::Optional | SrtpPolicy::Mandatory, None) => Err(Disagreement::NoSrtp),
        }
    }

    /// What a phone's answer to our offer means. `None`: plain RTP.
    pub(super) fn answered<'a>(
        &self,
        media: &'a MediaDescription,
    ) -> Result<Option<&'a Crypto>, Disagreement> {
        match (self.policy, media.crypto.first()) {
            (SrtpPolicy::Off, _) => Ok(None),
            (_, Some(crypto)) => Ok(Some(crypto)),
            (SrtpPolicy::Optional, None) if !media.is_secure() && !media.has_crypto => Ok(None),
            (SrtpPolicy::Optional | SrtpPolicy::Mandatory, None) => Err(Disagreement::NoSrtp),
        }
    }

    /// Keys when the phone's offer is taken; `generation` counts the descriptions of the leg.
    pub(super) fn answer(&self, index: u8, theirs: &Crypto, generation: u32) -> StreamKeys {
        let (tag, received) = (theirs.tag, theirs.keying.clone());
        match self.in_force(index) {
            Some(known) if known.received == received => {
                StreamKeys { tag, received, sent: known.sent.clone() }
            }
            Some(_) | None => {
                let sent = self.seed.keying(received.suite(), "answer", index, generation + 1);
                StreamKeys { tag, received, sent }
            }
        }
    }

    /// The lines of an offer of ours: what is in force, or all that we do.
    pub(super) fn offer(&self, index: u8, generation: u32) -> Vec<Crypto> {
        if !self.is_on() {
            return Vec::new();
        }
        if let Some(known) = self.in_force(index) {
            let keying = known.sent.clone();
            return vec![Crypto { tag: tag_of(keying.suite()), keying }];
        }
        let line = |suite| Crypto {
            tag: tag_of(suite),
            keying: self.seed.keying(suite, "offer", index, generation),
        };
        OFFERED.into_iter().map(line).collect()
    }

    /// Keys when our offer was answered so; an answer with a suite that we did not offer is none.
    pub(super) fn agree(
        &self,
        index: u8,
        theirs: &Crypto,
        generation: u32,
    ) -> Result<StreamKeys, Disagreement> {
        let suite = theirs.keying.suite();
        let mut offered = self.offer(index, generation).into_iter();
        let ours = offered.find(|crypto| crypto.keying.suite() == suite);
        let sent = ours.ok_or(Disagreement::NoSrtp)?.keying;
        Ok(StreamKeys { tag: theirs.tag, sent, received: theirs.keying.clone() })
    }

    /// A key of ours for a session at another host, the `number`th of them: the session before may go on for a while
    /// under the key that it has, and nobody knows how far it is (RFC 3711 §9.1).
    pub fn moved(&self, keys: &StreamKeys, index: u8, number: u32) -> Keying {
        self.seed.keying(keys.sent.suite(), "moved", index, number)
    }

    /// A description says of keys what is in force.
    pub(super) fn is_kept_by(&self, index: u8, media: &MediaDescription) -> bool {
        let theirs = media.crypto.first().filter(|_| self.is_on());
        let known = self.in_force(index).map(|known| &known.received);
        known == theirs.map(|crypto| &crypto.keying)
    }

    pub(super) fn in_force(&self, index: u8) -> Option<&StreamKeys> {
        self.in_force.get(usize::from(index))?.as_ref()
    }
}

/// Tag of a line of ours.
fn tag_of(suite: Suite) -> u32 {
    let at = OFFERED.iter().position(|offered| *offered == suite);
    u32::try_from(at.map_or(0, |at| at + 1)).unwrap_or(0)
}
