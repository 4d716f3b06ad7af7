//! What the lexers of header values share: tokens, quoted strings, parameters, comma lists (RFC 3261 §25.1).
//!
//! Invariant: every function takes any text; what is not balanced is one piece, never a panic.

use super::uri::Host;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
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

/// Position of the first `wanted` outside quoted strings, and outside `<>` when `angles`. What is looked at is short:
/// a loop over bytes is done before a search of many at a time has begun.
fn find_outside(text: &str, wanted: u8, angles: bool) -> Option<usize> {
    let bytes = text.as_bytes();
    let (mut at, mut within_angles) = (0, false);
    loop {
        match *bytes.get(at)? {
            b'"' => at = closing_quote(bytes, at + 1)?,
            b'>' if within_angles => within_angles = false,
            _ if within_angles => {}
            byte if byte == wanted => return Some(at),
            b'<' if angles => within_angles = true,
            _ => {}
        }
        at += 1;
    }
}

/// Position of the quote that ends what begins at `from`.
fn closing_quote(bytes: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        match bytes.get(at)? {
            b'"' => return Some(at),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

/// Text before and after the first `wanted`, wherever it stands. `wanted` is ASCII.
pub(super) fn split_once(text: &str, wanted: u8) -> Option<(&str, &str)> {
    let position = text.bytes().position(|byte| byte == wanted)?;
    Some((text.get(..position)?, text.get(position + 1..)?))
}

/// Text before and after the first `wanted` that stands outside quoted strings. `wanted` is ASCII.
pub(super) fn split_unquoted(text: &str, wanted: u8) -> Option<(&str, &str)> {
    let position = find_outside(text, wanted, false)?;
    Some((text.get(..position)?, text.get(position + 1..)?))
}

/// A quoted string at the start: its inside as written, and what follows the closing quote.
pub(super) fn quoted_string(text: &str) -> Option<(&str, &str)> {
    let inside = text.strip_prefix('"')?;
    let end = closing_quote(inside.as_bytes(), 0)?;
    Some((inside.get(..end)?, inside.get(end + 1..)?))
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

/// Every name is there and every quote ends.
pub(super) fn are_params_sound(text: &str) -> bool {
    let is_sound = |(name, value): Param<'_>| {
        !name.is_empty()
            && !name.contains('"')
            && value.is_none_or(|value| !value.starts_with('"') || is_quoted(value))
    };
    params(text).all(is_sound)
}

/// The parameter of that name, without case; the first one counts.
pub(super) fn find_param<'a>(text: &'a str, name: &str) -> Option<Option<&'a str>> {
    params(text).find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
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
        Some(piece.trim_ascii())
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
    let (host, port) = match split_once(text, b':') {
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
    if text.starts_with(|first: char| first.is_ascii_digit())
        && let Ok(address) = text.parse::<Ipv4Addr>()
    {
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
        assert!(are_params_sound("x=\"a;b\";y"));
        assert!(!are_params_sound("x=\"open") && !are_params_sound("=1"));
        assert_eq!(find_param("a;B=1;b=2", "b"), Some(Some("1")));
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
