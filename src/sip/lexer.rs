//! What the lexers of header values share: tokens, quoted strings, parameters, comma lists (RFC 3261 §25.1).
//!
//! Invariant: every function takes any text; what is not balanced is one piece, never a panic.

use super::uri::Host;
use core::net::{IpAddr, Ipv6Addr};
use std::borrow::Cow;

/// A character of `token` (§25.1).
pub(super) const fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'-' | b'.' | b'!' | b'%' | b'*' | b'_' | b'+' | b'`' | b'\'' | b'~')
}

/// A non-empty `token`.
pub(super) fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(is_token_byte)
}

/// Digits only: no sign, no spaces.
pub(super) fn number(text: &str) -> Option<u32> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

/// Position of the first `wanted` outside quoted strings, and outside `<>` when `angles`.
fn find_outside(text: &str, wanted: u8, angles: bool) -> Option<usize> {
    let (mut quoted, mut escaped, mut within_angles) = (false, false, false);
    for (position, byte) in text.bytes().enumerate() {
        if escaped {
            escaped = false;
        } else if quoted {
            escaped = byte == b'\\';
            quoted = byte != b'"';
        } else if byte == wanted && !within_angles {
            return Some(position);
        } else {
            quoted = byte == b'"';
            within_angles = angles && (byte == b'<' || (within_angles && byte != b'>'));
        }
    }
    None
}

/// Text before and after the first `wanted` that stands outside quoted strings. `wanted` is ASCII.
pub(super) fn split_unquoted(text: &str, wanted: u8) -> Option<(&str, &str)> {
    let position = find_outside(text, wanted, false)?;
    Some((text.get(..position)?, text.get(position + 1..)?))
}

/// A quoted string at the start: its inside as written, and what follows the closing quote.
pub(super) fn quoted_string(text: &str) -> Option<(&str, &str)> {
    let inside = text.strip_prefix('"')?;
    let mut escaped = false;
    for (position, byte) in inside.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return Some((inside.get(..position)?, inside.get(position + 1..)?)),
            _ => {}
        }
    }
    None
}

/// Resolves `\x` of a quoted string's inside.
pub(super) fn unescape(inside: &str) -> Cow<'_, str> {
    if !inside.contains('\\') {
        return Cow::Borrowed(inside);
    }
    let mut text = String::with_capacity(inside.len());
    let mut characters = inside.chars();
    while let Some(character) = characters.next() {
        text.extend(if character == '\\' { characters.next() } else { Some(character) });
    }
    Cow::Owned(text)
}

/// A token as it is, a quoted string without quotes and escapes.
pub(super) fn unquote(value: &str) -> Cow<'_, str> {
    match quoted_string(value) {
        Some((inside, "")) => unescape(inside),
        _ => Cow::Borrowed(value),
    }
}

/// A parameter: its name and its value as written.
pub(super) type Param<'a> = (&'a str, Option<&'a str>);

/// Parameters between `;`, LWS around `;` and `=` dropped, empty ones skipped.
pub(super) fn params(text: &str) -> impl Iterator<Item = Param<'_>> {
    pieces(text, b';', false).map(|piece| match split_unquoted(piece, b'=') {
        Some((name, value)) => (name.trim_end(), Some(value.trim_start())),
        None => (piece, None),
    })
}

/// `params` to keep; `None` when a quote never ends or a name is missing.
pub(super) fn owned_params(text: &str) -> Option<Vec<(String, Option<String>)>> {
    params(text)
        .map(|(name, value)| {
            let sound = !name.is_empty()
                && !name.contains('"')
                && value.is_none_or(|value| !value.starts_with('"') || is_quoted(value));
            sound.then(|| (name.to_owned(), value.map(str::to_owned)))
        })
        .collect()
}

fn is_quoted(value: &str) -> bool {
    quoted_string(value).is_some_and(|(_, rest)| rest.is_empty())
}

/// Elements of a comma list; commas in quotes and in `<>` do not split; empty elements are skipped.
pub(super) fn elements(text: &str) -> impl Iterator<Item = &str> {
    pieces(text, b',', true)
}

fn pieces(text: &str, separator: u8, angles: bool) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    core::iter::from_fn(move || {
        let text = rest?;
        let piece = match find_outside(text, separator, angles) {
            Some(position) => {
                rest = text.get(position + 1..);
                text.get(..position).unwrap_or_default()
            }
            None => rest.take().unwrap_or_default(),
        };
        Some(piece.trim())
    })
    .filter(|piece| !piece.is_empty())
}

/// `host [":" port]`; IPv6 in brackets (RFC 5118 §4.1), LWS around the colon.
pub(super) fn host_and_port(text: &str) -> Option<(Host, Option<u16>)> {
    if let Some(bracketed) = text.strip_prefix('[') {
        let (address, rest) = bracketed.split_once(']')?;
        let address: Ipv6Addr = address.parse().ok()?;
        let port = match rest.trim_start() {
            "" => None,
            rest => Some(port(rest.strip_prefix(':')?)?),
        };
        return Some((Host::Ip(IpAddr::V6(address)), port));
    }
    let (host, port) = match text.split_once(':') {
        Some((host, digits)) => (host.trim_end(), Some(port(digits)?)),
        None => (text, None),
    };
    Some((named_host(host)?, port))
}

fn port(digits: &str) -> Option<u16> {
    number(digits.trim_start()).and_then(|port| u16::try_from(port).ok())
}

/// A name may hold `_`: container names do.
fn named_host(text: &str) -> Option<Host> {
    if let Ok(address) = text.parse::<core::net::Ipv4Addr>() {
        return Some(Host::Ip(IpAddr::V4(address)));
    }
    let is_name_byte =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    let is_name = !text.is_empty() && !text.starts_with('.') && text.bytes().all(is_name_byte);
    is_name.then(|| Host::Name(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_split_outside_quotes_and_angles() {
        let check = |text: &str, expect: &[&str]| {
            assert_eq!(elements(text).collect::<Vec<_>>(), expect, "{text}");
        };
        check("a, b ,c", &["a", "b", "c"]);
        check("<sip:a,b@h>, \"x, \\\" y\" <sip:c>", &["<sip:a,b@h>", "\"x, \\\" y\" <sip:c>"]);
        check("", &[]);
        check(",, a,", &["a"]);
        check("\"open, a", &["\"open, a"]);
        check("<open, a", &["<open, a"]);
        check("a>b, c", &["a>b", "c"]);
    }

    #[test]
    fn params_keep_values_as_written() {
        let check = |text: &str, expect: &[Param<'_>]| {
            assert_eq!(params(text).collect::<Vec<_>>(), expect, "{text}");
        };
        check("lr;x = 1 ;; y=\"a;b\"", &[("lr", None), ("x", Some("1")), ("y", Some("\"a;b\""))]);
        check("x==", &[("x", Some("="))]);
        assert_eq!(owned_params("x=\"open"), None);
        assert_eq!(owned_params("=1"), None);
    }

    #[test]
    fn hosts() {
        let check = |text: &str, expect: Option<(&str, Option<u16>)>| {
            let found = host_and_port(text).map(|(host, port)| (host.to_string(), port));
            assert_eq!(found, expect.map(|(host, port)| (host.to_owned(), port)), "{text}");
        };
        check("example.com", Some(("example.com", None)));
        check("sig_1:5060", Some(("sig_1", Some(5060))));
        check("192.0.2.1 : 5061", Some(("192.0.2.1", Some(5061))));
        check("[2001:DB8::1]:5070", Some(("[2001:db8::1]", Some(5070))));
        check("[2001:db8::192.0.2.1]", Some(("[2001:db8::c000:201]", None)));
        for bad in
            ["", "[::1", "[x]", "[::1]5060", "2001:db8::1", "h:", "h:99999", "h:+1", "a b", "."]
        {
            check(bad, None);
        }
    }

    #[test]
    fn quotes() {
        assert_eq!(unquote("\"a\\\"b\""), "a\"b");
        assert_eq!(unquote("token"), "token");
        assert_eq!(unquote("\"open"), "\"open");
        assert_eq!(unescape("trailing\\"), "trailing");
    }
}
