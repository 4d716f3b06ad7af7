//! Records of calls that may have keys, or digits that an operator dials: sealed whole under the
//! cluster's key, because keys stand in SDP too, ours and the phones', and what else a record keeps of messages.
//!
//! Invariant: a call one of whose users may have SRTP is never stored in clear, and no digit is.

use super::leg::Leg;
use super::record::CallRecord;
use crate::control::RollOver;
use crate::ids::{ClusterKey, LegId};
use crate::rtp::srtp::Seed;
use crate::sdp::{Crypto, Description, Security, StreamKeys};
use crate::views::user::SrtpPolicy;
use serde::{Deserialize, Serialize};

/// What the key for records is derived for.
const PURPOSE: &str = "call record";

/// What a sealed record has besides the fields of a plain one.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Secrets {
    seed: Seed,
    /// a=crypto of the caller's first offer, line by line.
    offer: Vec<Vec<Crypto>>,
    legs: Vec<LegSecrets>,
}

#[derive(Debug, Serialize, Deserialize)]
struct LegSecrets {
    leg: LegId,
    policy: SrtpPolicy,
    /// a=crypto of the offer that its ACK must answer, line by line.
    owed: Vec<Vec<Crypto>>,
    streams: Vec<StreamSecrets>,
}

#[derive(Debug, Serialize, Deserialize)]
struct StreamSecrets {
    keys: Option<StreamKeys>,
    roll_over: Option<RollOver>,
}

impl CallRecord {
    /// Some leg may have keys, or digits wait: they are dialled into voice mail and banks.
    pub(super) fn is_secret(&self) -> bool {
        !self.added_5.dialling.is_empty()
            || self.legs.iter().any(|leg| leg.description.security.is_on())
    }

    /// What a plain record leaves out, and behind it its fields (`extend`), sealed. `associated` stays in clear
    /// beside it.
    pub(super) fn seal(
        &self,
        extend: impl FnOnce(Vec<u8>) -> Vec<u8>,
        key: &ClusterKey,
        associated: &[u8],
    ) -> Vec<u8> {
        let secrets = postcard::to_stdvec(&self.secrets()).expect("secrets are plain data");
        key.seal(PURPOSE, associated, extend(secrets))
    }

    fn secrets(&self) -> Secrets {
        let streams = |leg: &Leg| {
            let streams = leg.streams.iter().map(|stream| StreamSecrets {
                keys: stream.side.as_ref().and_then(|side| side.keys.clone()),
                roll_over: stream.roll_over,
            });
            streams.collect()
        };
        let legs = self.legs.iter().map(|leg| LegSecrets {
            leg: leg.id,
            policy: leg.description.security.policy,
            owed: leg.owed_answer.as_deref().map(cryptos).unwrap_or_default(),
            streams: streams(leg),
        });
        Secrets {
            seed: self.seed.clone(),
            offer: self.offer.as_ref().map(cryptos).unwrap_or_default(),
            legs: legs.collect(),
        }
    }

    pub(super) fn take_secrets(&mut self, secrets: Secrets) {
        if let Some(offer) = &mut self.offer {
            set_cryptos(offer, secrets.offer);
        }
        for secret in secrets.legs {
            let seed = secrets.seed.part(secret.leg.0);
            let Some(leg) = self.leg_mut(secret.leg) else { continue };
            let mut security = Security::new(secret.policy, seed);
            security.in_force = secret.streams.iter().map(|stream| stream.keys.clone()).collect();
            leg.description.secure(security);
            if let Some(owed) = &mut leg.owed_answer {
                set_cryptos(owed, secret.owed);
            }
            for (stream, secret) in leg.streams.iter_mut().zip(secret.streams) {
                stream.roll_over = secret.roll_over;
                if let Some(side) = &mut stream.side {
                    side.keys = secret.keys;
                }
            }
        }
        self.seed = secrets.seed;
    }
}

/// Opens what `seal` made: what a plain record leaves out, and the bytes of its fields.
pub(super) fn unseal(
    sealed: &[u8],
    key: &ClusterKey,
    associated: &[u8],
) -> Option<(Secrets, Vec<u8>)> {
    let plain = key.open(PURPOSE, associated, sealed)?;
    let (secrets, fields) = postcard::take_from_bytes(&plain).ok()?;
    Some((secrets, fields.to_vec()))
}

fn cryptos(description: &Description) -> Vec<Vec<Crypto>> {
    description.media.iter().map(|media| media.crypto.clone()).collect()
}

fn set_cryptos(description: &mut Description, cryptos: Vec<Vec<Crypto>>) {
    for (media, crypto) in description.media.iter_mut().zip(cryptos) {
        media.has_crypto = !crypto.is_empty();
        media.crypto = crypto;
    }
}
