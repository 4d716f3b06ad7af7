//! SRTP and SRTCP in place (RFC 3711; AES-GCM by RFC 7714), keyed by SDES (RFC 4568).
//!
//! A `Sender` protects what we send under our key, a `Receiver` opens what the phone sends under its own. Each keeps
//! its roll-over counters by SSRC.
//!
//! Invariants: nothing is allocated a packet; a packet is authenticated before it changes anything; no index is sent
//! twice under one key; keys are never shown by `Debug`.

mod cipher;
mod derivation;
mod index;
mod receiver;
mod sender;

pub use receiver::{Receiver, ReceiverState, Refused};
pub use sender::{Sender, SenderState};

use core::fmt;
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

/// Bytes that protection adds to a packet at most: tag and SRTCP index.
pub const MOST_OVERHEAD: usize = 20;

/// A crypto suite (RFC 4568 §6.2, RFC 7714 §14.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Suite {
    /// Counter mode, tag of 80 bits: what every phone has.
    AesCm128HmacSha1_80,
    /// Counter mode, tag of 32 bits on RTP and 80 on RTCP.
    AesCm128HmacSha1_32,
    /// GCM with a key of 128 bits.
    AeadAes128Gcm,
    /// GCM with a key of 256 bits.
    AeadAes256Gcm,
}

impl Suite {
    /// All, in our order of preference.
    pub const ALL: [Self; 4] = [
        Self::AeadAes256Gcm,
        Self::AeadAes128Gcm,
        Self::AesCm128HmacSha1_80,
        Self::AesCm128HmacSha1_32,
    ];

    /// As in a=crypto.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AesCm128HmacSha1_80 => "AES_CM_128_HMAC_SHA1_80",
            Self::AesCm128HmacSha1_32 => "AES_CM_128_HMAC_SHA1_32",
            Self::AeadAes128Gcm => "AEAD_AES_128_GCM",
            Self::AeadAes256Gcm => "AEAD_AES_256_GCM",
        }
    }

    /// By its name in a=crypto.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|suite| suite.name().eq_ignore_ascii_case(name))
    }

    /// Bytes of the master key.
    pub const fn key_bytes(self) -> usize {
        match self {
            Self::AesCm128HmacSha1_80 | Self::AesCm128HmacSha1_32 | Self::AeadAes128Gcm => 16,
            Self::AeadAes256Gcm => 32,
        }
    }

    /// Bytes of the master salt.
    pub const fn salt_bytes(self) -> usize {
        match self {
            Self::AesCm128HmacSha1_80 | Self::AesCm128HmacSha1_32 => 14,
            Self::AeadAes128Gcm | Self::AeadAes256Gcm => 12,
        }
    }

    /// Bytes of master key and salt, as `inline:` has them.
    pub const fn keying_bytes(self) -> usize {
        self.key_bytes() + self.salt_bytes()
    }
}

/// Master key and salt for one direction, with the suite they are for.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keying {
    suite: Suite,
    /// As long as the suite wants.
    bytes: Vec<u8>,
}

impl fmt::Debug for Keying {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keying({}, ..)", self.suite.name())
    }
}

impl Keying {
    /// The first bytes of `entropy`, as many as the suite wants; `None`: too few.
    pub fn new(suite: Suite, entropy: &[u8]) -> Option<Self> {
        let bytes = entropy.get(..suite.keying_bytes())?.to_vec();
        Some(Self { suite, bytes })
    }

    /// What it is for.
    pub const fn suite(&self) -> Suite {
        self.suite
    }

    /// Key and salt, as `inline:` has them in base64.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn key(&self) -> &[u8] {
        self.bytes.get(..self.suite.key_bytes()).unwrap_or_default()
    }

    fn salt(&self) -> &[u8] {
        self.bytes.get(self.suite.key_bytes()..).unwrap_or_default()
    }
}

/// What a leg's keys are derived from: drawn at random for its call, and secret.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seed([u8; 32]);

impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seed(..)")
    }
}

impl Seed {
    /// From what the shell drew.
    pub const fn new(entropy: [u8; 32]) -> Self {
        Self(entropy)
    }

    /// Another one, for a part that must not know the whole.
    pub fn part(&self, number: u16) -> Self {
        Self(self.block(b"part", &number.to_be_bytes()))
    }

    /// A key for `purpose`; equal arguments give equal keys.
    pub fn keying(&self, suite: Suite, purpose: &str, stream: u8, number: u32) -> Keying {
        let [n0, n1, n2, n3] = number.to_be_bytes();
        let block = |count: u8| {
            self.block(purpose.as_bytes(), &[suite as u8, stream, n0, n1, n2, n3, count])
        };
        let bytes = [block(0), block(1)].concat();
        Keying::new(suite, &bytes).expect("64 bytes are enough for every suite")
    }

    fn block(&self, purpose: &[u8], context: &[u8]) -> [u8; 32] {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes any key");
        mac.update(purpose);
        mac.update(&[0]);
        mac.update(context);
        mac.finalize().into_bytes().into()
    }
}

/// Where the encrypted part of an RTP packet begins: after CSRC list and extension (RFC 3711 §3.1).
fn header_bytes(packet: &[u8]) -> Option<usize> {
    let flags = *packet.first()?;
    let mut bytes = super::header::FIXED_BYTES + usize::from(flags & 0x0f) * 4;
    if flags & 0x10 != 0 {
        let words = packet.get(bytes + 2..bytes + 4)?;
        bytes += 4 + usize::from(u16::from_be_bytes(words.try_into().ok()?)) * 4;
    }
    (flags >> 6 == 2 && bytes <= packet.len()).then_some(bytes)
}

/// Sequence number and SSRC of an RTP packet.
fn sequence_and_ssrc(packet: &[u8]) -> Option<(u16, u32)> {
    let (fixed, _) = packet.split_first_chunk::<{ super::header::FIXED_BYTES }>()?;
    let [_, _, s0, s1, _, _, _, _, c0, c1, c2, c3] = *fixed;
    Some((u16::from_be_bytes([s0, s1]), u32::from_be_bytes([c0, c1, c2, c3])))
}

/// SSRC of the first packet of an RTCP compound.
fn rtcp_ssrc(packet: &[u8]) -> Option<u32> {
    let bytes = packet.get(4..RTCP_HEADER_BYTES)?;
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

/// What stays in clear of an RTCP compound.
const RTCP_HEADER_BYTES: usize = 8;
/// E flag and index at the end of SRTCP.
const RTCP_INDEX_BYTES: usize = 4;
/// E: the packet is encrypted.
const RTCP_ENCRYPTED: u32 = 1 << 31;

#[cfg(test)]
mod tests;
