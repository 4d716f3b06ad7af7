//! The transforms on one packet, under keys derived before: counter mode with HMAC-SHA1 (RFC 3711 §4.1.1, §4.2.1) and
//! GCM (RFC 7714 §8, §9).
//!
//! Invariant: what is not authentic is left as it came.

use super::derivation::{Label, derive};
use super::{Keying, RTCP_ENCRYPTED, RTCP_HEADER_BYTES, RTCP_INDEX_BYTES, Suite};
use aes::Aes128;
use aes::cipher::{InnerIvInit, KeyInit, StreamCipher};
use aws_lc_rs::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use core::fmt;
use ctr::{Ctr32BE, CtrCore};
use hmac::{Hmac, Mac};
use sha1::Sha1;

/// RFC 3711 §5.2: HMAC-SHA1 keys.
const AUTHENTICATION_KEY_BYTES: usize = 20;
/// Tag of SRTCP in counter mode, whatever the tag of SRTP (RFC 4568 §6.2.2).
const RTCP_TAG_BYTES: usize = 10;
const GCM_TAG_BYTES: usize = 16;
/// Longer packets are not opened in GCM.
const MOST_PACKET_BYTES: usize = 2_048;

/// Keys of one direction for RTP, or for RTCP.
pub(super) enum Keys {
    Counter { cipher: Box<Aes128>, salt: [u8; 14], mac: Box<Hmac<Sha1>>, tag_bytes: usize },
    Gcm { key: Box<LessSafeKey>, salt: [u8; 12] },
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys(..)")
    }
}

impl Keys {
    pub(super) fn for_rtp(keying: &Keying) -> Self {
        let tag_bytes = if keying.suite() == Suite::AesCm128HmacSha1_32 { 4 } else { 10 };
        let labels = [Label::RtpEncryption, Label::RtpAuthentication, Label::RtpSalt];
        Self::new(keying, labels, tag_bytes)
    }

    pub(super) fn for_rtcp(keying: &Keying) -> Self {
        let labels = [Label::RtcpEncryption, Label::RtcpAuthentication, Label::RtcpSalt];
        Self::new(keying, labels, RTCP_TAG_BYTES)
    }

    fn new(keying: &Keying, labels: [Label; 3], tag_bytes: usize) -> Self {
        let [encryption, authentication, salt] = labels;
        match keying.suite() {
            Suite::AesCm128HmacSha1_80 | Suite::AesCm128HmacSha1_32 => Self::counter(
                derive(keying, encryption),
                &derive(keying, authentication),
                derive(keying, salt),
                tag_bytes,
            ),
            Suite::AeadAes128Gcm => Self::gcm(
                &aead::AES_128_GCM,
                &derive::<16>(keying, encryption),
                derive(keying, salt),
            ),
            Suite::AeadAes256Gcm => Self::gcm(
                &aead::AES_256_GCM,
                &derive::<32>(keying, encryption),
                derive(keying, salt),
            ),
        }
    }

    pub(super) fn counter(
        key: [u8; 16],
        authentication: &[u8; AUTHENTICATION_KEY_BYTES],
        salt: [u8; 14],
        tag_bytes: usize,
    ) -> Self {
        let mac = <Hmac<Sha1> as hmac::KeyInit>::new_from_slice(authentication)
            .expect("HMAC takes any key");
        let cipher = Box::new(Aes128::new(&key.into()));
        Self::Counter { cipher, salt, mac: Box::new(mac), tag_bytes }
    }

    pub(super) fn gcm(algorithm: &'static aead::Algorithm, key: &[u8], salt: [u8; 12]) -> Self {
        let key = UnboundKey::new(algorithm, key).expect("the algorithm's length");
        Self::Gcm { key: Box::new(LessSafeKey::new(key)), salt }
    }

    const fn tag_bytes(&self) -> usize {
        match self {
            Self::Counter { tag_bytes, .. } => *tag_bytes,
            Self::Gcm { .. } => GCM_TAG_BYTES,
        }
    }

    /// Protects the first `length` bytes of `buffer`, of which `start` are header; the new length. `None`: no room.
    pub(super) fn seal_rtp(
        &self,
        (ssrc, index): (u32, u64),
        start: usize,
        buffer: &mut [u8],
        length: usize,
    ) -> Option<usize> {
        let sealed = length + self.tag_bytes();
        let (packet, tag) = buffer.get_mut(..sealed)?.split_at_mut_checked(length)?;
        let (header, payload) = packet.split_at_mut_checked(start)?;
        match self {
            Self::Counter { cipher, salt, mac, .. } => {
                keystream(cipher, salt, ssrc, index).apply_keystream(payload);
                authenticate(mac, packet, &roll_over(index), tag);
            }
            Self::Gcm { key, salt } => {
                let nonce = nonce(salt, ssrc, index);
                let made = key.seal_in_place_separate_tag(nonce, Aad::from(&*header), payload);
                tag.copy_from_slice(made.ok()?.as_ref());
            }
        }
        Some(sealed)
    }

    /// Opens a packet of which `start` bytes are header; the length without tag. `None`: forged, or another index.
    pub(super) fn open_rtp(
        &self,
        (ssrc, index): (u32, u64),
        start: usize,
        packet: &mut [u8],
    ) -> Option<usize> {
        let length =
            packet.len().checked_sub(self.tag_bytes()).filter(|length| *length >= start)?;
        let (packet, tag) = packet.split_at_mut_checked(length)?;
        match self {
            Self::Counter { cipher, salt, mac, .. } => {
                is_authentic(mac, packet, &roll_over(index), tag).then_some(())?;
                let payload = packet.get_mut(start..)?;
                keystream(cipher, salt, ssrc, index).apply_keystream(payload);
            }
            Self::Gcm { key, salt } => {
                let (header, payload) = packet.split_at_mut_checked(start)?;
                open_gcm(key, nonce(salt, ssrc, index), header, payload, tag)?;
            }
        }
        Some(length)
    }

    /// Protects a compound of `length` bytes; the new length. `None`: no room.
    pub(super) fn seal_rtcp(
        &self,
        (ssrc, index): (u32, u32),
        buffer: &mut [u8],
        length: usize,
    ) -> Option<usize> {
        let sealed = length + self.tag_bytes() + RTCP_INDEX_BYTES;
        let buffer = buffer.get_mut(..sealed)?;
        let word = (RTCP_ENCRYPTED | index).to_be_bytes();
        match self {
            Self::Counter { cipher, salt, mac, .. } => {
                let (packet, tag) = buffer.split_at_mut_checked(length + RTCP_INDEX_BYTES)?;
                let payload = packet.get_mut(RTCP_HEADER_BYTES..length)?;
                keystream(cipher, salt, ssrc, index.into()).apply_keystream(payload);
                packet.get_mut(length..)?.copy_from_slice(&word);
                authenticate(mac, packet, &[], tag);
            }
            Self::Gcm { key, salt } => {
                let (packet, rest) = buffer.split_at_mut_checked(length)?;
                let (header, payload) = packet.split_at_mut_checked(RTCP_HEADER_BYTES)?;
                let associated = rtcp_associated(header, word)?;
                let nonce = nonce(salt, ssrc, index.into());
                let made = key.seal_in_place_separate_tag(nonce, Aad::from(associated), payload);
                let (tag, end) = rest.split_at_mut_checked(GCM_TAG_BYTES)?;
                tag.copy_from_slice(made.ok()?.as_ref());
                end.copy_from_slice(&word);
            }
        }
        Some(sealed)
    }

    /// The index that an SRTCP packet names; `None`: too short, or not encrypted, which nobody agreed on.
    pub(super) fn rtcp_index(&self, packet: &[u8]) -> Option<u32> {
        let after = match self {
            Self::Counter { tag_bytes, .. } => *tag_bytes,
            Self::Gcm { .. } => 0,
        };
        let end = packet.len().checked_sub(after)?;
        let word = packet.get(end.checked_sub(RTCP_INDEX_BYTES)?..end)?;
        let word = u32::from_be_bytes(word.try_into().ok()?);
        (word & RTCP_ENCRYPTED != 0).then_some(word & !RTCP_ENCRYPTED)
    }

    /// Opens a compound; the length without index and tag. `None`: forged.
    pub(super) fn open_rtcp(&self, (ssrc, index): (u32, u32), packet: &mut [u8]) -> Option<usize> {
        let length = packet.len().checked_sub(self.tag_bytes() + RTCP_INDEX_BYTES)?;
        match self {
            Self::Counter { cipher, salt, mac, .. } => {
                let (packet, tag) = packet.split_at_mut_checked(length + RTCP_INDEX_BYTES)?;
                is_authentic(mac, packet, &[], tag).then_some(())?;
                let payload = packet.get_mut(RTCP_HEADER_BYTES..length)?;
                keystream(cipher, salt, ssrc, index.into()).apply_keystream(payload);
            }
            Self::Gcm { key, salt } => {
                let (packet, rest) = packet.split_at_mut_checked(length)?;
                let (header, payload) = packet.split_at_mut_checked(RTCP_HEADER_BYTES)?;
                let associated = rtcp_associated(header, (RTCP_ENCRYPTED | index).to_be_bytes())?;
                let tag = rest.get(..GCM_TAG_BYTES)?;
                open_gcm(key, nonce(salt, ssrc, index.into()), &associated, payload, tag)?;
            }
        }
        Some(length)
    }
}

/// RFC 3711 §4.1.1: salt · 2^16 xor SSRC · 2^64 xor index · 2^16.
fn keystream<'a>(
    cipher: &'a Aes128,
    salt: &[u8; 14],
    ssrc: u32,
    index: u64,
) -> Ctr32BE<&'a Aes128> {
    let value = u128::from(ssrc) << 64 | u128::from(index) << 16;
    let mut iv = value.to_be_bytes();
    for (to, from) in iv.iter_mut().zip(salt) {
        *to ^= *from;
    }
    Ctr32BE::from_core(CtrCore::inner_iv_init(cipher, &iv.into()))
}

/// RFC 7714 §8.1, §9.1: two bytes of 0, SSRC, 48 bits of index, xor salt.
fn nonce(salt: &[u8; 12], ssrc: u32, index: u64) -> Nonce {
    let value = u128::from(ssrc) << 48 | u128::from(index);
    let mut nonce = *salt;
    for (to, from) in nonce.iter_mut().zip(value.to_be_bytes().iter().skip(4)) {
        *to ^= *from;
    }
    Nonce::assume_unique_for_key(nonce)
}

const fn roll_over(index: u64) -> [u8; 4] {
    ((index >> 16) as u32).to_be_bytes()
}

/// RFC 7714 §9.2: the header and the word with the index.
fn rtcp_associated(
    header: &[u8],
    word: [u8; RTCP_INDEX_BYTES],
) -> Option<[u8; RTCP_HEADER_BYTES + RTCP_INDEX_BYTES]> {
    let mut associated = [0; RTCP_HEADER_BYTES + RTCP_INDEX_BYTES];
    let (first, last) = associated.split_at_mut(RTCP_HEADER_BYTES);
    first.copy_from_slice(header.get(..RTCP_HEADER_BYTES)?);
    last.copy_from_slice(&word);
    Some(associated)
}

fn mac_of(mac: &Hmac<Sha1>, packet: &[u8], roll_over: &[u8]) -> [u8; 20] {
    let mut mac = mac.clone();
    mac.update(packet);
    mac.update(roll_over);
    mac.finalize().into_bytes().into()
}

fn authenticate(mac: &Hmac<Sha1>, packet: &[u8], roll_over: &[u8], tag: &mut [u8]) {
    for (to, from) in tag.iter_mut().zip(mac_of(mac, packet, roll_over)) {
        *to = from;
    }
}

fn is_authentic(mac: &Hmac<Sha1>, packet: &[u8], roll_over: &[u8], tag: &[u8]) -> bool {
    let expected = mac_of(mac, packet, roll_over);
    // Constant time: the difference is folded over all bytes.
    tag.iter().zip(expected).fold(0, |all, (one, other)| all | (one ^ other)) == 0
}

/// Into a buffer beside, so that a packet that is not authentic stays as it came.
fn open_gcm(
    key: &LessSafeKey,
    nonce: Nonce,
    associated: &[u8],
    payload: &mut [u8],
    tag: &[u8],
) -> Option<()> {
    let mut opened = [0; MOST_PACKET_BYTES];
    let opened = opened.get_mut(..payload.len())?;
    key.open_separate_gather(nonce, Aad::from(associated), payload, tag, opened).ok()?;
    payload.copy_from_slice(opened);
    Some(())
}
