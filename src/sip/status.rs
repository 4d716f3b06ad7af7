//! Status codes (RFC 3261 §21). Which ones have a name is rsip's knowledge.

use core::fmt;
use serde::{Deserialize, Serialize};

/// A status code, 100-699.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Status(pub u16);

impl Status {
    /// 1xx.
    pub const fn is_provisional(self) -> bool {
        self.0 < 200
    }
    /// 2xx.
    pub const fn is_success(self) -> bool {
        self.0 >= 200 && self.0 < 300
    }
    /// 3xx.
    pub const fn is_redirection(self) -> bool {
        self.0 >= 300 && self.0 < 400
    }
    /// 2xx-6xx.
    pub const fn is_final(self) -> bool {
        self.0 >= 200
    }
    /// 488, 606: not the media that was offered.
    pub const fn refuses_media(self) -> bool {
        matches!(self.0, 488 | 606)
    }
    /// The usual phrase; empty when the code has none.
    pub fn reason_phrase(self) -> String {
        match self.0 {
            // Where the RFC's phrase is not rsip's name in words.
            414 => "Request-URI Too Long".to_owned(),
            416 => "Unsupported URI Scheme".to_owned(),
            481 => "Call/Transaction Does Not Exist".to_owned(),
            504 => "Server Time-out".to_owned(),
            606 => "Not Acceptable".to_owned(),
            code => match rsip::StatusCode::from(code) {
                rsip::StatusCode::Other(..) => String::new(),
                known => known
                    .to_string()
                    .split_once(' ')
                    .map_or_else(String::new, |(_, name)| words(name)),
            },
        }
    }
}

/// rsip prints the names of its variants: `BusyHere` becomes `Busy Here`.
fn words(name: &str) -> String {
    let mut phrase = String::with_capacity(name.len() + 8);
    let mut after_lower = false;
    for character in name.chars() {
        if character.is_ascii_uppercase() && after_lower {
            phrase.push(' ');
        }
        after_lower = character.is_ascii_lowercase();
        phrase.push(character);
    }
    phrase
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phrases_are_the_rfcs() {
        for (code, phrase) in [
            (100, "Trying"),
            (181, "Call Is Being Forwarded"),
            (183, "Session Progress"),
            (200, "OK"),
            (302, "Moved Temporarily"),
            (407, "Proxy Authentication Required"),
            (416, "Unsupported URI Scheme"),
            (480, "Temporarily Unavailable"),
            (481, "Call/Transaction Does Not Exist"),
            (486, "Busy Here"),
            (488, "Not Acceptable Here"),
            (500, "Server Internal Error"),
            (505, "Version Not Supported"),
            (513, "Message Too Large"),
            (603, "Decline"),
            (299, ""),
        ] {
            assert_eq!(Status(code).reason_phrase(), phrase, "{code}");
        }
    }
}
