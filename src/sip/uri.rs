//! URIs: our own lexer keeps the text byte-exact and fills `rsip::Uri` (RFC 3261 §19.1; tel: RFC 3966; urn: RFC 5031).
//!
//! Invariant: accessors take any text, also one that came out of a stored record and was never parsed here.

use super::lexer;
use core::fmt;
use core::net::IpAddr;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

/// A URI as it was written. `as_str` is byte-exact; the rest is read from it.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Uri(String);

/// Not a URI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UriError {
    /// No scheme, no host, a bad escape, a bad port …
    #[error("malformed URI")]
    Malformed,
}

/// Of a URI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// `sip:`
    Sip,
    /// `sips:`
    Sips,
    /// `tel:`
    Tel,
    /// `urn:`
    Urn,
    /// Any other: 416.
    Other,
}

/// Host part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// A literal; IPv6 came in brackets.
    Ip(IpAddr),
    /// A name to be resolved.
    Name(String),
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(IpAddr::V6(address)) => write!(f, "[{address}]"),
            Self::Ip(IpAddr::V4(address)) => address.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// The pieces of a sip: or sips: URI, as written.
struct SipParts<'a> {
    user: Option<&'a str>,
    password: Option<&'a str>,
    host_and_port: &'a str,
    params: &'a str,
    headers: &'a str,
}

impl<'a> SipParts<'a> {
    /// The userinfo ends at the first `@`: nowhere else may one stand unescaped, while `;`, `?` and `,` may stand in a
    /// user (§25.1).
    fn split(after_scheme: &'a str) -> Self {
        let (userinfo, rest) = match lexer::split_once(after_scheme, b'@') {
            Some((userinfo, rest)) => (Some(userinfo), rest),
            None => (None, after_scheme),
        };
        let (user, password) = match userinfo.map(|info| (info, lexer::split_once(info, b':'))) {
            Some((_, Some((user, password)))) => (Some(user), Some(password)),
            Some((user, None)) => (Some(user), None),
            None => (None, None),
        };
        let (rest, headers) = lexer::split_unquoted(rest, b'?').unwrap_or((rest, ""));
        let (host_and_port, params) = lexer::split_once(rest, b';').unwrap_or((rest, ""));
        Self { user, password, host_and_port, params, headers }
    }
}

impl Uri {
    /// Checks and keeps the text. Dotted users, `;user;par=x@host`, IPv6 literals, `?headers`, tel: and urn: are taken.
    pub fn parse(text: &str) -> Result<Self, UriError> {
        Self::unchecked(text).checked()
    }

    /// Checks what was taken unchecked.
    pub(super) fn checked(self) -> Result<Self, UriError> {
        if is_well_formed(&self.0) { Ok(self) } else { Err(UriError::Malformed) }
    }

    /// As written, whatever it is: the Request-URI of a message that is refused; what was checked before.
    pub(super) fn unchecked(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// Byte-exact.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Scheme, without case.
    pub fn scheme(&self) -> Scheme {
        split_scheme(&self.0).map_or(Scheme::Other, |(scheme, _)| scheme)
    }

    /// User part, unescaped (`%2A43` is `*43`), without a password; for tel: the number without visual separators; for
    /// urn: the whole after `urn:`.
    pub fn user(&self) -> Option<String> {
        let (scheme, rest) = split_scheme(&self.0)?;
        match scheme {
            Scheme::Sip | Scheme::Sips => Some(unescaped(SipParts::split(rest).user?)),
            Scheme::Tel => Some(telephone_number(rest).collect()),
            Scheme::Urn => Some(rest.to_owned()),
            Scheme::Other => None,
        }
    }

    /// Host of sip/sips.
    pub fn host(&self) -> Option<Host> {
        Some(lexer::host_and_port(self.sip_parts()?.host_and_port)?.0)
    }

    /// Explicit port.
    pub fn port(&self) -> Option<u16> {
        lexer::host_and_port(self.sip_parts()?.host_and_port)?.1
    }

    /// A URI parameter: `Some(None)` when it has no value. Name compared without case.
    pub fn param(&self, name: &str) -> Option<Option<&str>> {
        lexer::params(self.params_text())
            .find(|(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }

    /// Equality by RFC 3261 §19.1.4; tel: by RFC 3966 §4; urn: without case; others by text.
    pub fn equivalent(&self, other: &Self) -> bool {
        if self.0 == other.0 {
            return true;
        }
        let (Some((ours, our_rest)), Some((theirs, their_rest))) =
            (split_scheme(&self.0), split_scheme(&other.0))
        else {
            return false;
        };
        ours == theirs
            && match ours {
                Scheme::Sip | Scheme::Sips => {
                    sip_equivalent(&SipParts::split(our_rest), &SipParts::split(their_rest))
                }
                Scheme::Tel => {
                    telephone_number(our_rest)
                        .map(|c| c.to_ascii_lowercase())
                        .eq(telephone_number(their_rest).map(|c| c.to_ascii_lowercase()))
                        && same_set(
                            lexer::params(self.params_text()),
                            lexer::params(other.params_text()),
                        )
                }
                Scheme::Urn => our_rest.eq_ignore_ascii_case(their_rest),
                Scheme::Other => false,
            }
    }

    /// As rsip's model, for typed use. Only sip and sips: rsip cannot hold the others. `?headers` are left out for the
    /// same reason, and rsip prints IPv6 hosts without brackets: never put its text on the wire.
    pub fn to_rsip(&self) -> Option<rsip::Uri> {
        let parts = self.sip_parts()?;
        let (host, port) = lexer::host_and_port(parts.host_and_port)?;
        let auth = parts.user.map(|user| rsip::Auth {
            user: unescaped(user),
            password: parts.password.map(str::to_owned),
        });
        let host = match host {
            Host::Ip(address) => rsip::Host::IpAddr(address),
            Host::Name(name) => rsip::Host::Domain(name.into()),
        };
        let scheme =
            if self.scheme() == Scheme::Sips { rsip::Scheme::Sips } else { rsip::Scheme::Sip };
        Some(rsip::Uri {
            scheme: Some(scheme),
            auth,
            host_with_port: rsip::HostWithPort { host, port: port.map(rsip::Port::from) },
            params: lexer::params(parts.params).map(rsip_param).collect(),
            headers: Vec::new(),
        })
    }

    /// The `?headers` of a sip: URI, name and value as written: a Request-URI must not have any (§19.1.1).
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.sip_parts().into_iter().flat_map(|parts| header_fields(parts.headers))
    }

    fn sip_parts(&self) -> Option<SipParts<'_>> {
        match split_scheme(&self.0)? {
            (Scheme::Sip | Scheme::Sips, rest) => Some(SipParts::split(rest)),
            (Scheme::Tel | Scheme::Urn | Scheme::Other, _) => None,
        }
    }

    fn params_text(&self) -> &str {
        match split_scheme(&self.0) {
            Some((Scheme::Sip | Scheme::Sips, rest)) => SipParts::split(rest).params,
            Some((Scheme::Tel, rest)) => rest.split_once(';').map_or("", |(_, params)| params),
            Some((Scheme::Urn | Scheme::Other, _)) | None => "",
        }
    }
}

/// Scheme and what follows its colon.
fn split_scheme(text: &str) -> Option<(Scheme, &str)> {
    let (name, rest) = lexer::split_once(text, b':')?;
    let is_scheme = name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'));
    let scheme = match name {
        _ if !is_scheme => return None,
        _ if name.eq_ignore_ascii_case("sip") => Scheme::Sip,
        _ if name.eq_ignore_ascii_case("sips") => Scheme::Sips,
        _ if name.eq_ignore_ascii_case("tel") => Scheme::Tel,
        _ if name.eq_ignore_ascii_case("urn") => Scheme::Urn,
        _ => Scheme::Other,
    };
    Some((scheme, rest))
}

fn is_well_formed(text: &str) -> bool {
    let Some((scheme, rest)) = split_scheme(text) else { return false };
    if rest.is_empty() || !is_visible(rest) {
        return false;
    }
    match scheme {
        Scheme::Sip | Scheme::Sips => {
            let parts = SipParts::split(rest);
            let user_is_sound =
                parts.user.is_none_or(|user| !user.is_empty() && !user.contains('"'));
            user_is_sound
                && escapes_are_whole(rest)
                && lexer::host_and_port(parts.host_and_port).is_some()
                && lexer::params(parts.params).all(|(name, _)| !name.is_empty())
        }
        Scheme::Tel => {
            telephone_number(rest).next().is_some()
                && telephone_number(rest)
                    .all(|c| c.is_ascii_hexdigit() || matches!(c, '+' | '*' | '#'))
        }
        Scheme::Urn | Scheme::Other => true,
    }
}

/// Nothing blank, no control characters, no angles. Nearly every URI is ASCII, which takes no look at characters.
fn is_visible(text: &str) -> bool {
    let is_visible_ascii = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'<' | b'>');
    let visible = |c: char| !c.is_whitespace() && !c.is_control() && !matches!(c, '<' | '>');
    text.bytes().all(is_visible_ascii) || text.chars().all(visible)
}

/// Each `%` has its two hexadecimal digits.
fn escapes_are_whole(text: &str) -> bool {
    if !text.bytes().any(|byte| byte == b'%') {
        return true;
    }
    text.split('%').skip(1).all(|piece| {
        piece.as_bytes().get(..2).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    })
}

/// The number of a tel: URI without visual separators (RFC 3966 §3).
fn telephone_number(after_scheme: &str) -> impl Iterator<Item = char> {
    let number = after_scheme.split(';').next().unwrap_or_default();
    number.chars().filter(|c| !matches!(c, '-' | '.' | '(' | ')'))
}

/// Replaces the escapes for which `wanted` holds by their bytes; the others get upper-case digits.
fn decoded(text: &str, wanted: impl Fn(u8) -> bool) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut pieces = text.split('%');
    bytes.extend_from_slice(pieces.next().unwrap_or_default().as_bytes());
    for piece in pieces {
        let escaped =
            piece.get(..2).and_then(|digits| Some((digits, u8::from_str_radix(digits, 16).ok()?)));
        match escaped {
            Some((_, byte)) if wanted(byte) => bytes.push(byte),
            Some((digits, _)) => {
                bytes.push(b'%');
                bytes.extend_from_slice(digits.to_ascii_uppercase().as_bytes());
            }
            None => bytes.push(b'%'),
        }
        let rest = if escaped.is_some() { piece.get(2..).unwrap_or_default() } else { piece };
        bytes.extend_from_slice(rest.as_bytes());
    }
    Cow::Owned(String::from_utf8_lossy(&bytes).into_owned())
}

fn unescaped(text: &str) -> String {
    decoded(text, |_| true).into_owned()
}

/// §19.1.4: only characters outside the reserved set equal their escapes.
fn comparable(text: &str) -> Cow<'_, str> {
    let unreserved = |byte: u8| {
        byte.is_ascii_alphanumeric()
            || matches!(byte, b'-' | b'_' | b'.' | b'!' | b'~' | b'*' | b'\'' | b'(' | b')')
    };
    decoded(text, unreserved)
}

fn sip_equivalent(ours: &SipParts<'_>, theirs: &SipParts<'_>) -> bool {
    let same_host = match (
        lexer::host_and_port(ours.host_and_port),
        lexer::host_and_port(theirs.host_and_port),
    ) {
        (Some((Host::Name(our_name), our_port)), Some((Host::Name(their_name), their_port))) => {
            our_name.eq_ignore_ascii_case(&their_name) && our_port == their_port
        }
        (our_host, their_host) => our_host.is_some() && our_host == their_host,
    };
    same_host
        && ours.user.map(comparable) == theirs.user.map(comparable)
        && ours.password.map(comparable) == theirs.password.map(comparable)
        && same_params(ours.params, theirs.params)
        && same_params(theirs.params, ours.params)
        && same_set(
            header_fields(ours.headers).map(|(name, value)| (name, Some(value))),
            header_fields(theirs.headers).map(|(name, value)| (name, Some(value))),
        )
}

/// A parameter in both must match; those that change where a request goes must be in both or in neither.
fn same_params(ours: &str, theirs: &str) -> bool {
    const MUST_BE_IN_BOTH: [&str; 5] = ["transport", "user", "ttl", "method", "maddr"];
    lexer::params(ours).all(|(name, value)| {
        match lexer::params(theirs).find(|(other, _)| other.eq_ignore_ascii_case(name)) {
            Some((_, other)) => same_value(value, other),
            None => !MUST_BE_IN_BOTH.iter().any(|fixed| fixed.eq_ignore_ascii_case(name)),
        }
    })
}

fn same_value(ours: Option<&str>, theirs: Option<&str>) -> bool {
    match (ours, theirs) {
        (Some(ours), Some(theirs)) => comparable(ours).eq_ignore_ascii_case(&comparable(theirs)),
        (None, None) => true,
        _ => false,
    }
}

/// The same pairs in any order.
fn same_set<'a>(
    ours: impl Iterator<Item = lexer::Param<'a>>,
    theirs: impl Iterator<Item = lexer::Param<'a>>,
) -> bool {
    let mut theirs: Vec<_> = theirs.collect();
    for (name, value) in ours {
        let found = theirs.iter().position(|(other, other_value)| {
            other.eq_ignore_ascii_case(name) && same_value(value, *other_value)
        });
        match found {
            Some(position) => drop(theirs.swap_remove(position)),
            None => return false,
        }
    }
    theirs.is_empty()
}

fn header_fields(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.split('&')
        .filter(|field| !field.is_empty())
        .map(|field| field.split_once('=').unwrap_or((field, "")))
}

fn rsip_param((name, value): lexer::Param<'_>) -> rsip::Param {
    let transport = value.and_then(|value| value.parse::<rsip::Transport>().ok());
    match (transport, value) {
        (Some(transport), _) if name.eq_ignore_ascii_case("transport") => {
            rsip::Param::Transport(transport)
        }
        (_, Some(user)) if name.eq_ignore_ascii_case("user") => rsip::Param::User(user.into()),
        (_, Some(maddr)) if name.eq_ignore_ascii_case("maddr") => rsip::Param::Maddr(maddr.into()),
        (_, None) if name.eq_ignore_ascii_case("lr") => rsip::Param::Lr,
        _ => rsip::Param::Other(name.into(), value.map(Into::into)),
    }
}

impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The user part of a SIP URI (RFC 3261 §25.1 `user`), everything else escaped.
pub fn escape_user(user: &str) -> String {
    let mut text = String::with_capacity(user.len());
    for byte in user.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.!~*'()&=+$,;?/".contains(&byte) {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

#[cfg(test)]
mod tests;
