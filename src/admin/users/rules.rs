//! What a user may be: checked before anything is stored.

use crate::admin::problem::FieldError;
use crate::directory::User;
use rand::RngExt;
use std::collections::HashSet;

/// Letters and digits that nobody mistakes for one another.
const PASSWORD_ALPHABET: &[u8] = b"abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789";
/// 20 of 56: 116 bits.
const PASSWORD_LENGTH: usize = 20;

/// A password that need not be remembered.
pub fn generate_password() -> String {
    let mut random = rand::rng();
    let draw = |_| {
        let place = random.random_range(0..PASSWORD_ALPHABET.len());
        PASSWORD_ALPHABET.get(place).copied().map_or('x', char::from)
    };
    (0..PASSWORD_LENGTH).map(draw).collect()
}

/// What an extension is, in words.
pub(in crate::admin) const IS_EXTENSION: &str = "is 1-64 letters, digits or ._+-";

/// `[A-Za-z0-9._+-]{1,64}`.
pub(in crate::admin) fn is_extension(text: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"._+-".contains(&byte);
    (1..=64).contains(&text.len()) && text.bytes().all(known)
}

pub(super) fn check_extension(extension: &str) -> Result<(), FieldError> {
    if !is_extension(extension) {
        return Err(FieldError::new("extension", IS_EXTENSION));
    }
    if extension == "import" {
        return Err(FieldError::new("extension", "is the address of the import"));
    }
    Ok(())
}

pub(super) fn check_password(extension: &str, password: &str) -> Result<(), FieldError> {
    let wrong = |detail| Err(FieldError::new("password", detail));
    let length = password.chars().count();
    if !(8..=128).contains(&length) {
        return wrong("has 8-128 characters");
    }
    if password.chars().any(char::is_control) {
        return wrong("has a control character");
    }
    if password.contains(extension) && length < extension.len() + 6 {
        return wrong("is the extension, or nearly");
    }
    if password.chars().collect::<HashSet<_>>().len() < 4 {
        return wrong("has fewer than four different characters");
    }
    Ok(())
}

/// Everything but extension and password.
pub(super) fn check_user(user: &User) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut check = |right: bool, field: &str, detail: &str| {
        if !right {
            errors.push(FieldError::new(field, detail));
        }
    };
    let name = &user.display_name;
    let plain = name.chars().count() <= 128 && !name.chars().any(char::is_control);
    check(plain, "display_name", "has at most 128 characters, no control characters");
    let contacts = user.max_contacts.is_none_or(|most| (1..=100).contains(&most));
    check(contacts, "max_contacts", "is 1-100");
    let calls = user.max_calls.is_none_or(|most| (1..=10_000).contains(&most));
    check(calls, "max_calls", "is 1-10000");
    let ring = user.ring_timeout_ms.is_none_or(|ms| (1_000..=3_600_000).contains(&ms));
    check(ring, "ring_timeout_ms", "is 1000-3600000");
    check(user.codecs.len() <= 16, "codecs", "names at most 16");
    let mut seen = HashSet::new();
    for (index, codec) in user.codecs.iter().enumerate() {
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let known = (1..=32).contains(&codec.len()) && codec.bytes().all(token);
        check(known, &format!("codecs/{index}"), "is a name as in SDP: opus, PCMA, G722 …");
        let new = seen.insert(codec.to_ascii_lowercase());
        check(new, &format!("codecs/{index}"), "is named twice");
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extensions() {
        for good in ["1", "1001", "+4930123", "anna.b_c-d", &"x".repeat(64)] {
            assert!(is_extension(good), "{good}");
        }
        for bad in ["", " ", "a b", "*43", "a@b", "ä", "a/b", "a\0", &"x".repeat(65)] {
            assert!(!is_extension(bad), "{bad}");
        }
    }

    #[test]
    fn passwords() {
        for good in ["correct horse", "pässwörter", "10012345678abc", &generate_password()] {
            assert_eq!(check_password("1001", good), Ok(()), "{good}");
        }
        for bad in ["", "short", "aaaaaaaaaaaa", "1001pass", "a\nbcdefgh", &"ab1c".repeat(33)] {
            assert!(check_password("1001", bad).is_err(), "{bad}");
        }
        assert_ne!(generate_password(), generate_password());
        assert_eq!(generate_password().len(), PASSWORD_LENGTH);
    }
}
