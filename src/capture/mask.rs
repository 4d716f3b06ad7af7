//! Secrets in SIP and SDP, taken out before anything is kept. The length stays, so Content-Length stays right.
//!
//! What is masked: digest answers (RFC 7616 §3.4), keys of SRTP (RFC 4568 §9.1), ICE passwords, digits in INFO.

/// Fields of a message and what is secret in them: the field's name, what the secret follows, what ends it.
const SECRETS: [(&[u8], &[u8], &[u8]); 6] = [
    (b"authorization:", b"response=\"", b"\""),
    (b"proxy-authorization:", b"response=\"", b"\""),
    (b"a=crypto:", b"inline:", b" |;"),
    (b"a=ice-pwd:", b":", b" "),
    (b"k=", b"=", b""),
    (b"signal=", b"=", b""),
];

/// A copy without secrets.
pub(super) fn masked(message: &[u8]) -> Vec<u8> {
    let mut text = message.to_vec();
    let mut begin = 0;
    while begin < text.len() {
        let end = memchr::memchr(b'\n', &text[begin..]).map_or(text.len(), |at| begin + at);
        if let Some(line) = text.get_mut(begin..end) {
            mask_line(line);
        }
        begin = end + 1;
    }
    text
}

fn mask_line(line: &mut [u8]) {
    // Most lines begin with none of these.
    if !matches!(line.first(), Some(b'A' | b'a' | b'P' | b'p' | b'K' | b'k' | b'S' | b's')) {
        return;
    }
    let is_field =
        |name: &[u8]| line.get(..name.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(name));
    let Some((_, before, after)) = SECRETS.iter().find(|(name, ..)| is_field(name)) else { return };
    let mut from = 0;
    while let Some(rest) = line.get_mut(from..) {
        let Some(at) = find(rest, before) else { return };
        let secret = rest.iter_mut().skip(at + before.len());
        let mut length = 0;
        for byte in secret.take_while(|byte| !after.contains(byte) && **byte != b'\r') {
            *byte = b'*';
            length += 1;
        }
        from += at + before.len() + length;
        // `:` and `=` begin one secret, the rest of the line.
        if before.len() == 1 {
            return;
        }
    }
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window.eq_ignore_ascii_case(what))
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
                "a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:****|2^20|1:4;inline:****\r\nm=x",
            ),
            ("a=ice-pwd:abc\r\na=ice-ufrag:abc", "a=ice-pwd:***\r\na=ice-ufrag:abc"),
            ("Signal=5\r\nDuration=160", "Signal=*\r\nDuration=160"),
            ("From: response=\"x\"\n\n", "From: response=\"x\"\n\n"),
            ("", ""),
        ] {
            let masked = masked(given.as_bytes());
            assert_eq!(String::from_utf8_lossy(&masked), expect);
        }
    }
}
