//! Digest authentication, server side (RFC 7616, RFC 8760): MD5 and SHA-256, qop=auth, stateless nonces.
//!
//! Invariant: a nonce is a keyed hash of its time, so any node of the cluster can check it and none is remembered. An
//! old nonce is `stale=true`, never a refusal. Known and unknown users are challenged alike. `nc` is not counted (any
//! node may see any request), and the digest URI is hashed as written but not compared: phones and proxies change it.

use super::{HeaderName, Method, Request, lexer};
use crate::ids::ClusterKey;
use crate::time::Timestamp;
use core::fmt::Write;
use core::time::Duration;
use md5::Md5;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// How long a nonce is taken.
const NONCE_LIFETIME: Duration = Duration::from_secs(300);
/// How far the clocks of two nodes may be apart.
const CLOCK_SKEW: Duration = Duration::from_secs(60);

/// H(user:realm:password) for each algorithm: what is stored in place of a password.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ha1 {
    /// MD5.
    pub md5: [u8; 16],
    /// SHA-256.
    pub sha256: [u8; 32],
}

/// As good as the password: never printed.
impl core::fmt::Debug for Ha1 {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Ha1(..)")
    }
}

impl Ha1 {
    /// Hashes a password.
    pub fn new(user: &str, realm: &str, password: &str) -> Self {
        let parts = [user.as_bytes(), realm.as_bytes(), password.as_bytes()];
        Self { md5: joined::<Md5>(&parts).into(), sha256: joined::<Sha256>(&parts).into() }
    }
}

/// The algorithms that we offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// RFC 2617 and RFC 7616 `MD5`.
    Md5,
    /// RFC 7616 `SHA-256`.
    Sha256,
}

impl Algorithm {
    /// MD5 when absent (RFC 7616 §3.4); `None`: one that we never offer.
    fn of(name: Option<&str>) -> Option<Self> {
        match name {
            None => Some(Self::Md5),
            Some(name) if name.eq_ignore_ascii_case("MD5") => Some(Self::Md5),
            Some(name) if name.eq_ignore_ascii_case("SHA-256") => Some(Self::Sha256),
            Some(_) => None,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Md5 => "MD5",
            Self::Sha256 => "SHA-256",
        }
    }

    /// H of the parts with `:` between them, in hexadecimal.
    fn hash(self, parts: &[&[u8]]) -> Hex {
        match self {
            Self::Md5 => Hex::of(&joined::<Md5>(parts)),
            Self::Sha256 => Hex::of(&joined::<Sha256>(parts)),
        }
    }

    fn ha1(self, ha1: &Ha1) -> Hex {
        match self {
            Self::Md5 => Hex::of(&ha1.md5),
            Self::Sha256 => Hex::of(&ha1.sha256),
        }
    }
}

fn joined<D: Digest>(parts: &[&[u8]]) -> sha2::digest::Output<D> {
    let mut digest = D::new();
    for (number, part) in parts.iter().enumerate() {
        if number > 0 {
            digest.update(b":");
        }
        digest.update(part);
    }
    digest.finalize()
}

/// A hash as two digits a byte.
#[derive(Clone, Copy)]
struct Hex {
    digits: [u8; 64],
    length: usize,
}

impl Hex {
    /// Of at most 32 bytes.
    fn of(bytes: &[u8]) -> Self {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut hex = Self { digits: [b'0'; 64], length: bytes.len().min(32) * 2 };
        for (pair, byte) in hex.digits.chunks_exact_mut(2).zip(bytes) {
            pair.copy_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
        }
        hex
    }

    fn as_bytes(&self) -> &[u8] {
        self.digits.get(..self.length).unwrap_or_default()
    }

    fn as_str(&self) -> &str {
        core::str::from_utf8(self.as_bytes()).expect("digits are ASCII")
    }
}

/// Equality in a time that depends on the lengths only.
fn same(ours: &str, theirs: &str) -> bool {
    let difference =
        ours.bytes().zip(theirs.bytes()).fold(0, |all, (our, their)| all | (our ^ their));
    ours.len() == theirs.len() && difference == 0
}

/// Parsed credentials (Authorization or Proxy-Authorization), fields as written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Credentials<'a> {
    /// username, unquoted.
    pub username: &'a str,
    /// realm, unquoted.
    pub realm: &'a str,
    /// nonce, unquoted.
    pub nonce: &'a str,
    /// uri, verbatim.
    pub uri: &'a str,
    /// response, as written.
    pub response: &'a str,
    /// MD5 when absent.
    pub algorithm: Option<&'a str>,
    /// cnonce, unquoted.
    pub cnonce: Option<&'a str>,
    /// qop.
    pub qop: Option<&'a str>,
    /// nc as eight hexadecimal digits, verbatim.
    pub nc: Option<&'a str>,
}

impl<'a> Credentials<'a> {
    /// Reads one header value that begins with `Digest`. `None` when a field is missing, or `nc` is not eight
    /// hexadecimal digits. Of a field that is there twice the first counts.
    pub fn parse(value: &'a str) -> Option<Self> {
        let mut found: [Option<&'a str>; FIELDS.len()] = [None; FIELDS.len()];
        for (name, value) in lexer::elements(digest_fields(value)?).filter_map(name_and_value) {
            let known = FIELDS.iter().position(|known| known.eq_ignore_ascii_case(name));
            if let Some(slot) = known.and_then(|at| found.get_mut(at)) {
                slot.get_or_insert(value);
            }
        }
        let [username, realm, nonce, uri, response, algorithm, cnonce, qop, nc] = found;
        let (username, realm, nonce) = (username?, realm?, nonce?);
        let (uri, response) = (uri?, response?);
        let is_count = |nc: &str| nc.len() == 8 && nc.bytes().all(|b| b.is_ascii_hexdigit());
        let is_whole = qop.is_none() || (cnonce.is_some() && nc.is_some_and(is_count));
        is_whole.then_some(Self {
            username,
            realm,
            nonce,
            uri,
            response,
            algorithm,
            cnonce,
            qop,
            nc,
        })
    }

    /// What the response must be; `None` when they chose what we do not offer.
    fn expected(&self, ha1: &Ha1, method: &Method) -> Option<Hex> {
        let algorithm = Algorithm::of(self.algorithm)?;
        let ha1 = algorithm.ha1(ha1);
        match (self.qop, self.nc, self.cnonce) {
            (Some(qop), Some(nc), Some(cnonce)) if qop.eq_ignore_ascii_case("auth") => {
                let counted = Counted { nc, cnonce, qop };
                Some(response(algorithm, &ha1, self.nonce, Some(&counted), method, self.uri))
            }
            // RFC 2069, which only MD5 can be.
            (None, _, _) if algorithm == Algorithm::Md5 => {
                Some(response(algorithm, &ha1, self.nonce, None, method, self.uri))
            }
            _ => None,
        }
    }
}

/// Fields of credentials, in the order of `Credentials`.
const FIELDS: [&str; 9] =
    ["username", "realm", "nonce", "uri", "response", "algorithm", "cnonce", "qop", "nc"];

/// What qop=auth adds to the hash.
struct Counted<'a> {
    nc: &'a str,
    cnonce: &'a str,
    qop: &'a str,
}

/// RFC 7616 §3.4.1.
fn response(
    algorithm: Algorithm,
    ha1: &Hex,
    nonce: &str,
    counted: Option<&Counted<'_>>,
    method: &Method,
    uri: &str,
) -> Hex {
    let ha2 = algorithm.hash(&[method.as_str().as_bytes(), uri.as_bytes()]);
    let (ha1, nonce, ha2) = (ha1.as_bytes(), nonce.as_bytes(), ha2.as_bytes());
    match counted {
        Some(Counted { nc, cnonce, qop }) => {
            algorithm.hash(&[ha1, nonce, nc.as_bytes(), cnonce.as_bytes(), qop.as_bytes(), ha2])
        }
        None => algorithm.hash(&[ha1, nonce, ha2]),
    }
}

/// What follows the scheme `Digest`; `None` for another scheme.
fn digest_fields(value: &str) -> Option<&str> {
    let (scheme, fields) = value.trim_start().split_once(char::is_whitespace)?;
    scheme.eq_ignore_ascii_case("Digest").then_some(fields)
}

/// A field without its quotes. Escapes stay: RFC 7616 §3.4.1 hashes what stands between the quotes.
fn name_and_value(element: &str) -> Option<(&str, &str)> {
    let (name, value) = element.split_once('=')?;
    let value = value.trim_ascii_start();
    let inside = match lexer::quoted_string(value) {
        Some((inside, "")) => inside,
        Some(_) => return None,
        None if value.starts_with('"') => return None,
        None => value,
    };
    Some((name.trim_ascii_end(), inside))
}

fn field<'a>(fields: &'a str, name: &str) -> Option<&'a str> {
    let mut all = lexer::elements(fields).filter_map(name_and_value);
    all.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

/// What came of checking a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The password is known to the sender; the digest user.
    Authentic(String),
    /// No credentials for our realm, an unknown user or a wrong password: challenge.
    Challenge,
    /// Right credentials over an old nonce: challenge with stale=true.
    Stale,
    /// The credentials cannot be read: 400.
    Malformed,
}

/// Checks the Authorization (or Proxy-Authorization) of a request. `ha1_of` looks a user up; a user that is not there
/// is
/// checked against a dummy, so the time tells nothing. Of several credentials the best counts: a phone may answer both
/// challenges.
pub fn verify(
    request: &Request,
    realm: &str,
    key: &ClusterKey,
    ha1_of: impl Fn(&str) -> Option<Ha1>,
    now: Timestamp,
) -> Verdict {
    let mut verdict = Verdict::Challenge;
    let values = request
        .headers
        .all(&HeaderName::Authorization)
        .chain(request.headers.all(&HeaderName::ProxyAuthorization));
    for value in values.filter(|value| digest_fields(value).is_some()) {
        let Some(credentials) = Credentials::parse(value) else {
            if verdict == Verdict::Challenge {
                verdict = Verdict::Malformed;
            }
            continue;
        };
        if credentials.realm != realm {
            continue;
        }
        match verify_one(&credentials, &request.method, key, &ha1_of, now) {
            Verdict::Authentic(user) => return Verdict::Authentic(user),
            Verdict::Stale => verdict = Verdict::Stale,
            Verdict::Challenge | Verdict::Malformed => {}
        }
    }
    verdict
}

fn verify_one(
    credentials: &Credentials<'_>,
    method: &Method,
    key: &ClusterKey,
    ha1_of: impl Fn(&str) -> Option<Ha1>,
    now: Timestamp,
) -> Verdict {
    let known = ha1_of(credentials.username);
    let ha1 = known.unwrap_or(Ha1 { md5: [0; 16], sha256: [0; 32] });
    let Some(expected) = credentials.expected(&ha1, method) else { return Verdict::Challenge };
    let is_right = same(expected.as_str(), &credentials.response.to_ascii_lowercase());
    if !is_right || known.is_none() {
        return Verdict::Challenge;
    }
    if is_fresh(credentials.nonce, credentials.realm, key, now) {
        Verdict::Authentic(credentials.username.to_owned())
    } else {
        Verdict::Stale
    }
}

/// Sixteen hexadecimal digits of time, then 128 bits of MAC over time and realm.
fn nonce(at: Timestamp, realm: &str, key: &ClusterKey) -> String {
    let time = at.as_micros().to_be_bytes();
    nonce_of(time, key.mac("nonce", &[&time, realm.as_bytes()]))
}

fn nonce_of(time: [u8; 8], mac: [u8; 32]) -> String {
    let mac = mac.first_chunk::<16>().expect("32 bytes have 16");
    [Hex::of(&time).as_str(), Hex::of(mac).as_str()].concat()
}

/// Made by this cluster for this realm, and not too long ago.
fn is_fresh(text: &str, realm: &str, key: &ClusterKey, now: Timestamp) -> bool {
    let Some(micros) = text.get(..16).and_then(|time| u64::from_str_radix(time, 16).ok()) else {
        return false;
    };
    let made = Timestamp::from_micros(micros);
    let time = micros.to_be_bytes();
    let parts: [&[u8]; 2] = [&time, realm.as_bytes()];
    key.macs("nonce", &parts).any(|mac| same(&nonce_of(time, mac), text))
        && now.saturating_since(made) <= NONCE_LIFETIME
        && made.saturating_since(now) <= CLOCK_SKEW
}

/// User-Agents (how they begin) that refuse to register as soon as one challenge is not MD5: libre up to 2021, which is
/// what Debian's baresip stands on.
const MD5_ALONE: [&str; 2] = ["baresip v0.", "baresip v1."];

/// What a phone of this User-Agent is offered, in this order: MD5 first (old phones read the first only), then SHA-256.
pub fn algorithms_for(user_agent: &str) -> &'static [Algorithm] {
    if MD5_ALONE.iter().any(|begin| user_agent.starts_with(begin)) {
        return &[Algorithm::Md5];
    }
    &[Algorithm::Md5, Algorithm::Sha256]
}

/// The WWW-Authenticate values of a 401, one an algorithm.
pub fn challenges(
    realm: &str,
    key: &ClusterKey,
    algorithms: &[Algorithm],
    stale: bool,
    now: Timestamp,
) -> Vec<String> {
    let nonce = nonce(now, realm, key);
    let stale = if stale { ", stale=true" } else { "" };
    let challenge = |algorithm: &Algorithm| {
        let name = algorithm.name();
        format!(
            "Digest realm=\"{realm}\", nonce=\"{nonce}\", algorithm={name}, qop=\"auth\"{stale}"
        )
    };
    algorithms.iter().map(challenge).collect()
}

/// The response of a client, for tests and later trunks. `None` when the challenge asks for what we cannot do.
pub fn respond(
    challenge: &str,
    method: &Method,
    uri: &str,
    user: &str,
    password: &str,
    cnonce: &str,
    nc: u32,
) -> Option<String> {
    let fields = digest_fields(challenge)?;
    let (realm, nonce) = (field(fields, "realm")?, field(fields, "nonce")?);
    let algorithm = Algorithm::of(field(fields, "algorithm"))?;
    let offered = field(fields, "qop");
    if let Some(qop) = offered
        && !lexer::elements(qop).any(|qop| qop.eq_ignore_ascii_case("auth"))
    {
        return None;
    }
    let nc = format!("{nc:08x}");
    let counted = offered.map(|_| Counted { nc: &nc, cnonce, qop: "auth" });
    let ha1 = algorithm.ha1(&Ha1::new(user, realm, password));
    let response = response(algorithm, &ha1, nonce, counted.as_ref(), method, uri);
    let (name, response) = (algorithm.name(), response.as_str());
    let mut value = format!(
        "Digest username=\"{user}\", realm=\"{realm}\", nonce=\"{nonce}\", uri=\"{uri}\", \
         response=\"{response}\", algorithm={name}"
    );
    if let Some(Counted { nc, cnonce, qop }) = counted {
        write!(value, ", cnonce=\"{cnonce}\", qop={qop}, nc={nc}").ok()?;
    }
    if let Some(opaque) = field(fields, "opaque") {
        write!(value, ", opaque=\"{opaque}\"").ok()?;
    }
    Some(value)
}

#[cfg(test)]
mod tests;
