//! Secrets in SIP and SDP, taken out before anything is kept. The length stays, so Content-Length stays right.
//!
//! What is masked: digest answers (RFC 7616 §3.4), keys of SRTP (RFC 4568 §9.1, RFC 4567), ICE passwords, digits in
//! INFO.

use bytes::Bytes;

/// Fields of a message and what is secret in them: the field's name, what the secret follows, what ends it.
const SECRETS: [(&[u8], &[u8], &[u8]); 7] = [
    (b"authorization:", b"response=\"", b"\""),
    (b"proxy-authorization:", b"response=\"", b"\""),
    (b"a=crypto:", b"inline:", b" |;"),
    (b"a=key-mgmt:", b" ", b""),
    (b"a=ice-pwd:", b":", b" "),
    (b"k=", b"=", b""),
    (b"signal=", b"=", b""),
];
/// Stands for what is secret …
const MASK: u8 = b'*';
/// … and for a key, which readers of captures take for base64: without any, Wireshark calls the message malformed.
const MASK_OF_KEY: u8 = b'x';
/// A body that is digits and nothing else.
const DIGITS: &[u8] = b"application/dtmf";

/// The message without secrets: most have none, and are not copied.
pub(super) fn masked(message: Bytes) -> Bytes {
    if may_have_secrets(&message) { masked_copy(&message).into() } else { message }
}

/// Some line begins as one with a secret, or says that the body is digits.
fn may_have_secrets(message: &[u8]) -> bool {
    let is_it = |line: &[u8]| tells_digits(line) || secret_of(line).is_some();
    let mut begin = 0;
    for end in memchr::memchr_iter(b'\n', message) {
        if is_it(&message[begin..end]) {
            return true;
        }
        begin = end + 1;
    }
    is_it(&message[begin..])
}

fn masked_copy(message: &[u8]) -> Vec<u8> {
    let mut text = message.to_vec();
    let body = [&b"\r\n\r\n"[..], b"\n\n"]
        .into_iter()
        .filter_map(|end| Some(memchr::memmem::find(&text, end)? + end.len()))
        .min()
        .unwrap_or(text.len());
    let (mut begin, mut is_digits) = (0, false);
    while begin < text.len() {
        let mut end = end_of_line(&text, begin);
        // A header field goes on in lines that begin with a space (RFC 3261 §7.3.1).
        while end + 1 < body && text.get(end + 1).is_some_and(|byte| matches!(byte, b' ' | b'\t')) {
            end = end_of_line(&text, end + 1);
        }
        if let Some(line) = text.get_mut(begin..end) {
            is_digits |= begin < body && tells_digits(line);
            mask_line(line);
        }
        begin = end + 1;
    }
    if is_digits {
        let body = text.iter_mut().skip(body);
        body.filter(|byte| !byte.is_ascii_whitespace()).for_each(|byte| *byte = MASK);
    }
    text
}

fn end_of_line(text: &[u8], begin: usize) -> usize {
    memchr::memchr(b'\n', &text[begin..]).map_or(text.len(), |at| begin + at)
}

fn tells_digits(line: &[u8]) -> bool {
    if !matches!(line.first(), Some(b'C' | b'c')) {
        return false;
    }
    let value = [&b"content-type:"[..], b"c:"].into_iter().find_map(|name| after_name(line, name));
    let value = value.and_then(|value| value.split(|byte| *byte == b';').next());
    value.is_some_and(|value| value.trim_ascii().eq_ignore_ascii_case(DIGITS))
}

/// What follows a name that ends in a colon or an equals sign; before a colon there may be spaces.
fn after_name<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (last, word) = name.split_last()?;
    let (begin, rest) = line.split_at_checked(word.len())?;
    let rest = if *last == b':' { rest.trim_ascii_start() } else { rest };
    (begin.eq_ignore_ascii_case(word) && rest.first() == Some(last)).then(|| &rest[1..])
}

/// What the secret of a line follows, and what ends it, if it has one.
fn secret_of(line: &[u8]) -> Option<(&'static [u8], &'static [u8])> {
    // Most lines begin with none of these.
    if !matches!(line.first(), Some(b'A' | b'a' | b'P' | b'p' | b'K' | b'k' | b'S' | b's')) {
        return None;
    }
    let is_field = |name: &[u8]| after_name(line, name).is_some();
    let (_, before, after) = SECRETS.iter().find(|(name, ..)| is_field(name))?;
    Some((before, after))
}

fn mask_line(line: &mut [u8]) {
    let Some((before, after)) = secret_of(line) else { return };
    let mask = if before == b"inline:" { MASK_OF_KEY } else { MASK };
    let mut from = 0;
    while let Some(rest) = line.get_mut(from..) {
        let Some(begin) = end_of(rest, before) else { return };
        let mut length = 0;
        let secret = rest.iter_mut().skip(begin);
        for byte in secret.take_while(|byte| !after.contains(byte) && **byte != b'\r') {
            *byte = mask;
            length += 1;
        }
        from += begin + length;
        // One character begins one secret, the rest of the line.
        if before.len() == 1 {
            return;
        }
    }
}

/// Where `what` ends in the text; about an equals sign there may be white space (RFC 3261 §25.1, EQUAL).
fn end_of(text: &[u8], what: &[u8]) -> Option<usize> {
    (0..text.len()).find_map(|begin| {
        let mut at = begin;
        for (nth, byte) in what.iter().enumerate() {
            let about_equals = nth > 0 && (*byte == b'=' || what[nth - 1] == b'=');
            while about_equals && text.get(at).is_some_and(u8::is_ascii_whitespace) {
                at += 1;
            }
            if !text.get(at)?.eq_ignore_ascii_case(byte) {
                return None;
            }
            at += 1;
        }
        Some(at)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_masked_and_nothing_else() {
        for (given, expect) in [
            (
                "INVITE sip:a SIP/2.0\r\nAuthorization: Digest username=\"1001\", response=\"0a1b\", uri=\"x\"\r\n",
                "INVITE sip:a SIP/2.0\r\nAuthorization: Digest username=\"1001\", response=\"****\", uri=\"x\"\r\n",
            ),
            (
                "proxy-authorization: Digest Response=\"9\"",
                "proxy-authorization: Digest Response=\"*\"",
            ),
            (
                "a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:QUJD|2^20|1:4;inline:WFla\r\nm=x",
                "a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:xxxx|2^20|1:4;inline:xxxx\r\nm=x",
            ),
            ("a=ice-pwd:abc\r\na=ice-ufrag:abc", "a=ice-pwd:***\r\na=ice-ufrag:abc"),
            ("Signal=5\r\nDuration=160", "Signal=*\r\nDuration=160"),
            ("From: response=\"x\"\n\n", "From: response=\"x\"\n\n"),
            (
                "Authorization : Digest username=\"1\",\r\n response = \"0a1b\",\r\n\turi=\"x\"\r\n\r\n",
                "Authorization : Digest username=\"1\",\r\n response = \"****\",\r\n\turi=\"x\"\r\n\r\n",
            ),
            ("v=0\r\n\r\nk=clear:ab\r\n b", "v=0\r\n\r\nk=********\r\n b"),
            ("a=key-mgmt:mikey AQAFgM0X", "a=key-mgmt:mikey ********"),
            (
                "Content-Type: application/dtmf\r\n\r\n5\r\n",
                "Content-Type: application/dtmf\r\n\r\n*\r\n",
            ),
            ("c: application/dtmf;x=y\r\n\r\n12", "c: application/dtmf;x=y\r\n\r\n**"),
            (
                "c: application/dtmf-relay\r\n\r\nSignal=1\r\nDuration=160",
                "c: application/dtmf-relay\r\n\r\nSignal=*\r\nDuration=160",
            ),
            ("", ""),
        ] {
            let message = Bytes::copy_from_slice(given.as_bytes());
            let masked = masked(message.clone());
            assert_eq!(String::from_utf8_lossy(&masked), expect);
            let is_copied = masked.as_ptr() != message.as_ptr();
            assert_eq!(is_copied, given != expect, "{given}");
        }
    }
}
