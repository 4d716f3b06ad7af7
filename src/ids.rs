//! Identities: calls, legs, nodes, flows, and the tokens derived from them.
//!
//! Invariant: our tags, Call-IDs, branches and session ids are *derived* from (call, leg, purpose) under the cluster's
//! key, never drawn: a step repeated after a takeover repeats the same message, and none can be guessed.
//! A token carries the call's id in clear, so any node finds the call of a request or response without a table, and
//! 80 bits of HMAC-SHA256, so nobody can make one.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use core::fmt;
use core::net::SocketAddr;
use core::str::FromStr;
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use std::sync::Arc;

/// A conversation; the id of its CDR too. UUID version 7, drawn by the shell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CallId(pub u128);

impl fmt::Display for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        uuid::Uuid::from_u128(self.0).fmt(f)
    }
}

impl FromStr for CallId {
    type Err = uuid::Error;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(uuid::Uuid::parse_str(text)?.as_u128()))
    }
}

/// A leg of a call: 0 is the caller, every fork branch has a number of its own, never used again in that call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LegId(pub u16);

impl LegId {
    /// The leg that sent the first INVITE.
    pub const CALLER: Self = Self(0);
}

impl fmt::Display for LegId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A media session. Chosen by signaling, so a repeated request is harmless. A call's first session has the call's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SessionId(pub u128);

impl From<CallId> for SessionId {
    fn from(call: CallId) -> Self {
        Self(call.0)
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        uuid::Uuid::from_u128(self.0).fmt(f)
    }
}

/// Name of a node, unique in the cluster (`host-1`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeName(pub Arc<str>);

impl NodeName {
    /// A short number for hints in tokens and connection ids: FNV-1a of the name, never 0. Two names may share one.
    pub fn number(&self) -> u16 {
        let hash = self
            .0
            .bytes()
            .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        let folded = (hash >> 16) ^ (hash & 0xffff);
        u16::try_from(folded).unwrap_or(u16::MAX).max(1)
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One start of a node. Leases, connections and epochs belong to it. Greater is later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Incarnation(pub u64);

/// Counts the owners of a call: a claim raises it; every write and control request names it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Epoch(pub u64);

/// Counts the saves of a record within an epoch.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Rev(pub u64);

/// A TCP, TLS or WebSocket connection of one process: the number of its node, and a count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ConnectionId(pub u64);

impl ConnectionId {
    /// The first one of a node's process, less one.
    pub const fn base(node: u16) -> Self {
        Self((node as u64) << 48)
    }

    /// The first one of a start of a node, less one: connections of its former starts may live on elsewhere.
    pub const fn first_of(node: u16, incarnation: Incarnation) -> Self {
        Self(Self::base(node).0 | (incarnation.0 >> 8) & 0xffff_ffff_ffff)
    }

    /// Number of the node that accepted it; a hint like every node number.
    pub const fn node(self) -> u16 {
        (self.0 >> 48) as u16
    }
}

/// SIP transports (RFC 3261 §18, RFC 7118).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Transport {
    /// Datagrams.
    Udp,
    /// Stream.
    Tcp,
    /// TLS over TCP.
    Tls,
    /// WebSocket.
    Ws,
    /// WebSocket over TLS.
    Wss,
}

impl Transport {
    /// The transport retransmits for us: no Timer A, E, G; Timers I, J, K are zero.
    pub const fn is_reliable(self) -> bool {
        !matches!(self, Self::Udp)
    }

    /// As in a Via header.
    pub const fn via_name(self) -> &'static str {
        match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
            Self::Tls => "TLS",
            Self::Ws => "WS",
            Self::Wss => "WSS",
        }
    }

    /// As in a `transport` URI parameter and in the REST API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Ws => "ws",
            Self::Wss => "wss",
        }
    }
}

/// How a peer is reached: our address and its address, and for streams the connection between them.
/// A UDP flow can be used by any node bound to `local`; a connection belongs to one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Flow {
    /// Transport of the flow.
    pub transport: Transport,
    /// Our concrete address (never unspecified): what the peer sees as source.
    pub local: SocketAddr,
    /// The peer's address as we see it.
    pub remote: SocketAddr,
    /// `None` for UDP.
    pub connection: Option<ConnectionId>,
}

/// What a token stands for. Written into the MAC, so a tag cannot be used as a branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// From/To tag of our side of a dialog.
    Tag,
    /// Call-ID of a dialog that we start.
    DialogCallId,
    /// Via branch; `number` is the leg's own count of client transactions.
    Branch(u32),
    /// `sess-id` of our SDP (RFC 8866 §5.2).
    SdpSession,
}

/// The secret of a cluster under which tokens and nonces are derived, and the former ones: what was made under those is
/// still known.
#[derive(Clone)]
pub struct ClusterKey {
    current: Hmac<Sha256>,
    former: Arc<[Hmac<Sha256>]>,
}

impl fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterKey(..)")
    }
}

/// Which call and leg a token of ours names; `node` hints at the node that made it (0: none).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Locator {
    /// The call.
    pub call: CallId,
    /// Its leg.
    pub leg: LegId,
    /// Number of the node that made the token; a hint only.
    pub node: u16,
}

const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
/// 16 + 2 + 2 bytes in base32.
const LOCATOR_CHARS: usize = 32;
/// 10 bytes in base32.
const MAC_CHARS: usize = 16;

impl ClusterKey {
    /// From a secret of any length.
    pub fn new(secret: &[u8]) -> Self {
        Self { current: keyed(secret), former: Arc::new([]) }
    }

    /// With secrets that were in force before, or will be: nothing is made under them.
    pub fn knowing<'a>(self, secrets: impl IntoIterator<Item = &'a [u8]>) -> Self {
        Self { former: secrets.into_iter().map(keyed).collect(), ..self }
    }

    /// A keyed hash of `parts`, each delimited; for nonces and the key of a call.
    pub fn mac(&self, label: &str, parts: &[&[u8]]) -> [u8; 32] {
        mac(&self.current, label, parts)
    }

    /// The same, then under each former secret.
    pub fn macs(&self, label: &str, parts: &[&[u8]]) -> impl Iterator<Item = [u8; 32]> {
        self.keys().map(move |key| mac(key, label, parts))
    }

    fn keys(&self) -> impl Iterator<Item = &Hmac<Sha256>> {
        core::iter::once(&self.current).chain(self.former.iter())
    }

    /// Hides `plain` from all who have not the key; `associated` is not in it and must be the same to open it.
    /// The nonce is derived too, from what is hidden: it is never used for two texts, and a repeated step is repeated.
    pub fn seal(&self, purpose: &str, associated: &[u8], mut plain: Vec<u8>) -> Vec<u8> {
        let made = self.mac("nonce", &[purpose.as_bytes(), associated, &plain]);
        let nonce: [u8; NONCE_LEN] = made.first_chunk().copied().expect("32 bytes are enough");
        let (key, associated) = (sealing_key(&self.current, purpose), Aad::from(associated));
        let sealed = Nonce::assume_unique_for_key(nonce);
        key.seal_in_place_append_tag(sealed, associated, &mut plain).expect("less than 64 GiB");
        [&nonce[..], &plain].concat()
    }

    /// What `seal` hid; `None`: of another key, another purpose, or changed.
    pub fn open(&self, purpose: &str, associated: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, text) = sealed.split_first_chunk::<NONCE_LEN>()?;
        self.keys().find_map(|key| {
            let (mut text, nonce) = (text.to_vec(), Nonce::assume_unique_for_key(*nonce));
            let key = sealing_key(key, purpose);
            let length = key.open_in_place(nonce, Aad::from(associated), &mut text).ok()?.len();
            text.truncate(length);
            Some(text)
        })
    }

    /// The token for `purpose` of this leg: base32 of (call, leg, node), then 80 bits of MAC.
    /// Branches come with the magic cookie (RFC 3261 §8.1.1.7) and their number.
    pub fn token(&self, locator: Locator, purpose: Purpose) -> String {
        let mut body = [0_u8; 20];
        body[..16].copy_from_slice(&locator.call.0.to_be_bytes());
        body[16..18].copy_from_slice(&locator.leg.0.to_be_bytes());
        body[18..].copy_from_slice(&locator.node.to_be_bytes());
        let mac = token_mac(&self.current, &body, purpose);
        let mut text = String::with_capacity(64);
        if let Purpose::Branch(number) = purpose {
            text.push_str("z9hG4bK");
            text.push_str(&number.to_string());
            text.push('.');
        }
        push_base32(&mut text, &body);
        push_base32(&mut text, &mac[..10]);
        text
    }

    /// Reads a tag that `token` made; `None` for any other text.
    pub fn locate_tag(&self, tag: &str) -> Option<Locator> {
        self.locate(tag, Purpose::Tag)
    }

    /// Reads a branch that `token` made, with its number; `None` for any other text.
    pub fn locate_branch(&self, branch: &str) -> Option<(Locator, u32)> {
        let (number, rest) = branch.strip_prefix("z9hG4bK")?.split_once('.')?;
        let number = number.parse().ok()?;
        Some((self.locate(rest, Purpose::Branch(number))?, number))
    }

    /// `sess-id` of our SDP on a leg: positive and below 2^62, so every phone can hold it.
    pub fn sdp_session_id(&self, locator: Locator) -> u64 {
        let token =
            self.mac("sdp-session", &[&locator.call.0.to_be_bytes(), &locator.leg.0.to_be_bytes()]);
        let mut number = [0_u8; 8];
        number.copy_from_slice(&token[..8]);
        u64::from_be_bytes(number) >> 2
    }

    fn locate(&self, text: &str, purpose: Purpose) -> Option<Locator> {
        let text = text.as_bytes();
        if text.len() != LOCATOR_CHARS + MAC_CHARS {
            return None;
        }
        let (body, mac) = text.split_at(LOCATOR_CHARS);
        let body: [u8; 20] = from_base32(body)?;
        let mac: [u8; 10] = from_base32(mac)?;
        let is_ours = |key| {
            let expected = token_mac(key, &body, purpose);
            // Constant time: the difference is folded over all bytes.
            mac.iter().zip(&expected).fold(0, |acc, (a, b)| acc | (a ^ b)) == 0
        };
        self.keys().any(is_ours).then(|| {
            let mut call = [0_u8; 16];
            call.copy_from_slice(&body[..16]);
            Locator {
                call: CallId(u128::from_be_bytes(call)),
                leg: LegId(u16::from_be_bytes([body[16], body[17]])),
                node: u16::from_be_bytes([body[18], body[19]]),
            }
        })
    }
}

fn keyed(secret: &[u8]) -> Hmac<Sha256> {
    Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes keys of any length")
}

fn sealing_key(key: &Hmac<Sha256>, purpose: &str) -> LessSafeKey {
    let key = mac(key, "seal", &[purpose.as_bytes()]);
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &key).expect("32 bytes"))
}

fn mac(key: &Hmac<Sha256>, label: &str, parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = key.clone();
    mac.update(label.as_bytes());
    for part in parts {
        mac.update(&(part.len() as u64).to_be_bytes());
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

fn token_mac(key: &Hmac<Sha256>, body: &[u8; 20], purpose: Purpose) -> [u8; 32] {
    match purpose {
        Purpose::Tag => mac(key, "tag", &[body]),
        Purpose::DialogCallId => mac(key, "call-id", &[body]),
        Purpose::Branch(number) => mac(key, "branch", &[body, &number.to_be_bytes()]),
        Purpose::SdpSession => mac(key, "sdp-session", &[body]),
    }
}

/// Appends five-byte groups as eight characters; `bytes` is a multiple of five long.
fn push_base32(text: &mut String, bytes: &[u8]) {
    for group in bytes.chunks_exact(5) {
        let value = group.iter().fold(0_u64, |acc, byte| acc << 8 | u64::from(*byte));
        for position in (0..8).rev() {
            let index = (value >> (position * 5)) & 31;
            text.push(char::from(ALPHABET[index as usize]));
        }
    }
}

fn from_base32<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let mut bytes = [0_u8; N];
    for (group, out) in text.chunks_exact(8).zip(bytes.chunks_exact_mut(5)) {
        let mut value = 0_u64;
        for character in group {
            let digit = match character {
                b'a'..=b'z' => character - b'a',
                b'2'..=b'7' => character - b'2' + 26,
                _ => return None,
            };
            value = value << 5 | u64::from(digit);
        }
        out.copy_from_slice(&value.to_be_bytes()[3..]);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCATOR: Locator = Locator { call: CallId(0x0192_3456), leg: LegId(3), node: 7 };

    #[test]
    fn a_connection_names_its_node() {
        let name = NodeName("host-1".into());
        let first = ConnectionId(ConnectionId::base(name.number()).0 + 1);
        assert_eq!(first.node(), name.number());
        assert_ne!(name.number(), NodeName("host-2".into()).number());
    }

    #[test]
    fn what_is_sealed_opens_with_the_same_key_for_the_same_purpose() {
        let key = ClusterKey::new(b"secret");
        let sealed = key.seal("records", b"1", b"text".to_vec());
        assert_eq!(key.open("records", b"1", &sealed), Some(b"text".to_vec()));
        assert_eq!(sealed, key.seal("records", b"1", b"text".to_vec()), "derived, not drawn");
        let other = key.seal("records", b"1", b"other".to_vec());
        assert_ne!(sealed[..NONCE_LEN], other[..NONCE_LEN], "no nonce for two texts");
        assert!(!sealed.windows(4).any(|window| window == b"text"));
        assert_eq!(key.open("records", b"2", &sealed), None);
        assert_eq!(key.open("others", b"1", &sealed), None);
        assert_eq!(ClusterKey::new(b"other").open("records", b"1", &sealed), None);
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert_eq!(key.open("records", b"1", &changed), None, "{at}");
            assert_eq!(key.open("records", b"1", &sealed[..at]), None, "{at}");
        }
    }

    #[test]
    fn tokens_name_their_call_and_nothing_else_is_accepted() {
        let key = ClusterKey::new(b"secret");
        let tag = key.token(LOCATOR, Purpose::Tag);
        assert_eq!(key.locate_tag(&tag), Some(LOCATOR));
        assert_eq!(tag, key.token(LOCATOR, Purpose::Tag), "derived, not drawn");
        let branch = key.token(LOCATOR, Purpose::Branch(12));
        assert_eq!(key.locate_branch(&branch), Some((LOCATOR, 12)));
        assert_eq!(key.locate_branch(&branch.replace("12.", "13.")), None);
        assert_eq!(key.locate_tag(&key.token(LOCATOR, Purpose::DialogCallId)), None);
        assert_eq!(ClusterKey::new(b"other").locate_tag(&tag), None);
        let rotated = ClusterKey::new(b"other").knowing([&b"secret"[..]]);
        assert_eq!(rotated.locate_tag(&tag), Some(LOCATOR), "made before the secret was changed");
        let sealed = key.seal("record", b"call", b"plain".to_vec());
        assert_eq!(rotated.open("record", b"call", &sealed).as_deref(), Some(&b"plain"[..]));
        assert_eq!(key.locate_tag(&rotated.token(LOCATOR, Purpose::Tag)), None);
        let mut forged = tag.into_bytes();
        forged[3] ^= 1;
        assert_eq!(key.locate_tag(&String::from_utf8(forged).expect("ASCII")), None);
        for text in ["", "z9hG4bK", "z9hG4bK1.", &"a".repeat(48), &"ä".repeat(24)] {
            assert_eq!(key.locate_tag(text), None, "{text}");
            assert_eq!(key.locate_branch(text), None, "{text}");
        }
    }
}
