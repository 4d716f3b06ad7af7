//! a=crypto (RFC 4568 §9.1): one way to protect a stream, with the key of who wrote the line.
//!
//! Invariant: a line that asks for what we do not do (an unknown suite, an MKI, several keys, session parameters that
//! change the transform) is not a way: it is as if it were not there. Lifetimes are read over: 2^48 packets of RTP and
//! 2^31 of RTCP, the most there may be, are more than a call has.

use crate::rtp::srtp::{Keying, Suite};
use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use core::fmt;
use serde::{Deserialize, Serialize};

/// Phones forget the padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);
/// RFC 4568 §9.1: no more than nine digits.
const MOST_TAG: u32 = 999_999_999;

/// A line that can be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Crypto {
    /// Names the line in the answer.
    pub tag: u32,
    /// Suite and key of who wrote the line.
    pub keying: Keying,
}

impl Crypto {
    /// The value of a=crypto; `None`: not for us.
    pub fn parse(value: &str) -> Option<Self> {
        let mut words = value.split_ascii_whitespace();
        let tag = words.next()?.parse().ok().filter(|tag| *tag <= MOST_TAG)?;
        let suite = Suite::of_name(words.next()?)?;
        let (method, parameters) = words.next()?.split_once(':')?;
        if !method.eq_ignore_ascii_case("inline") || parameters.contains(';') {
            return None;
        }
        if !words.all(changes_nothing) {
            return None;
        }
        let (key, rest) = parameters.split_once('|').unwrap_or((parameters, ""));
        // key || salt ["|" lifetime] ["|" MKI ":" length]
        if rest.contains(':') {
            return None;
        }
        let bytes = BASE64.decode(key).ok().filter(|bytes| bytes.len() == suite.keying_bytes())?;
        Some(Self { tag, keying: Keying::new(suite, &bytes)? })
    }

    /// Writes the line with its key: nothing but SDP may show it.
    pub(super) fn render(&self, text: &mut String) {
        use fmt::Write as _;
        let (tag, suite) = (self.tag, self.keying.suite().name());
        let key = BASE64.encode(self.keying.bytes());
        let _ = write!(text, "a=crypto:{tag} {suite} inline:{key}\r\n");
    }
}

/// A session parameter that leaves the transform as it is: a window size hint, a derivation rate of none, or one that
/// may be ignored (RFC 4568 §6.3.7).
fn changes_nothing(parameter: &str) -> bool {
    let name = parameter.split('=').next().unwrap_or_default();
    name.eq_ignore_ascii_case("WSH")
        || parameter.eq_ignore_ascii_case("KDR=0")
        || name.starts_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "WVNfX19zZW1jdGwgKCkgewkyMjA7fQp9CnVubGVz";

    #[test]
    fn lines_of_rfc_4568_and_of_phones() {
        let check = |line: &str, expect: Option<(u32, Suite)>| {
            let line = line.replace("KEY", KEY);
            let read = Crypto::parse(&line);
            assert_eq!(read.map(|crypto| (crypto.tag, crypto.keying.suite())), expect, "{line}");
        };
        let eighty = |tag| Some((tag, Suite::AesCm128HmacSha1_80));
        check("1 AES_CM_128_HMAC_SHA1_80 inline:KEY", eighty(1));
        check("1 AES_CM_128_HMAC_SHA1_80 inline:KEY|2^20", eighty(1));
        check("12 aes_cm_128_hmac_sha1_80 inline:KEY|1048576 WSH=64 -X=1", eighty(12));
        check("2 AES_CM_128_HMAC_SHA1_32 inline:KEY", Some((2, Suite::AesCm128HmacSha1_32)));
        check("1 AES_CM_128_HMAC_SHA1_80 inline:KEY|2^20|1:4", None);
        check("1 AES_CM_128_HMAC_SHA1_80 inline:KEY|1:4", None);
        check("1 AES_CM_128_HMAC_SHA1_80 inline:KEY;inline:KEY", None);
        check("1 AES_CM_128_HMAC_SHA1_80 inline:KEY UNENCRYPTED_SRTCP", None);
        check("1 AES_CM_128_HMAC_SHA1_80 inline:KEY KDR=1", None);
        check("1 AES_CM_128_HMAC_SHA1_80 inline:KEY FEC_ORDER=FEC_SRTP", None);
        check("1 F8_128_HMAC_SHA1_80 inline:KEY", None);
        check("1 AEAD_AES_256_GCM inline:KEY", None);
        check("x AES_CM_128_HMAC_SHA1_80 inline:KEY", None);
        check("1234567890 AES_CM_128_HMAC_SHA1_80 inline:KEY", None);
        check("1 AES_CM_128_HMAC_SHA1_80 uri:KEY", None);
        check("1 AES_CM_128_HMAC_SHA1_80", None);
        check("", None);
    }

    #[test]
    fn what_is_written_is_read() {
        for suite in Suite::ALL {
            let keying = Keying::new(suite, &[0xa5; 44]).expect("enough");
            let crypto = Crypto { tag: 3, keying };
            let mut text = String::new();
            crypto.render(&mut text);
            let value = text.trim_end().strip_prefix("a=crypto:").expect("the attribute");
            assert_eq!(Crypto::parse(value), Some(crypto.clone()), "{text}");
            assert_eq!(Crypto::parse(value.trim_end_matches('=')), Some(crypto), "{text}");
        }
    }
}
