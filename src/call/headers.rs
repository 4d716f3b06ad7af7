//! Which header fields pass from leg to leg: one table. All else is rebuilt for each leg or dropped.

use crate::sdp::offer_answer::Disagreement;
use crate::sip::{HeaderName, Headers, Method, Request, Response};

/// Passed unchanged, in requests and responses alike.
const PASSED: [HeaderName; 9] = [
    HeaderName::AcceptLanguage,
    HeaderName::AlertInfo,
    HeaderName::CallInfo,
    HeaderName::Priority,
    HeaderName::Reason,
    HeaderName::RetryAfter,
    HeaderName::Subject,
    HeaderName::UserToUser,
    HeaderName::Warning,
];

/// Most bytes of header fields that pass from a message; what is beyond is dropped.
const PASSED_BYTES: usize = 8 * 1024;

/// Methods that work here (RFC 3261 §20.5).
pub const ALLOW: &str = "INVITE, ACK, CANCEL, BYE, OPTIONS, INFO, NOTIFY, REGISTER";

/// Bodies that are read (RFC 3261 §20.1).
pub const ACCEPT: &str = "application/sdp";

/// The fields of a message that pass, as (name, value).
pub(super) fn passed(headers: &Headers) -> Vec<(String, String)> {
    let mut bytes = 0;
    headers
        .iter()
        .filter(|(name, _)| passes(name))
        .map(|(name, value)| (name.as_str().to_owned(), value.to_owned()))
        .take_while(|(name, value)| {
            bytes += name.len() + value.len();
            bytes <= PASSED_BYTES
        })
        .collect()
}

/// Why a description was refused, for the phone that wrote it (RFC 3261 §20.43).
pub(super) fn warning(why: Disagreement) -> (String, String) {
    let code = match why {
        Disagreement::NoAudio => 304,
        Disagreement::NoCodec => 305,
        Disagreement::NoSrtp | Disagreement::SrtpOff => 399,
    };
    (HeaderName::Warning.as_str().to_owned(), format!("{code} holdfast \"{why}\""))
}

/// Puts passed fields into a message for another leg.
pub(super) fn add_passed(headers: &mut Headers, passed: &[(String, String)]) {
    for (name, value) in passed {
        headers.push(HeaderName::from(name.as_str()), value.as_str());
    }
}

/// What every request of ours says of us.
pub(super) fn describe_request(request: &mut Request, product: &str) {
    if matches!(request.method, Method::Invite | Method::Options) {
        request.headers.push(HeaderName::Allow, ALLOW);
        request.headers.push(HeaderName::Accept, ACCEPT);
    }
    request.headers.push(HeaderName::UserAgent, product);
}

/// What every response of ours says of us.
pub(super) fn describe_response(response: &mut Response, product: &str) {
    response.headers.push(HeaderName::Server, product);
}

fn passes(name: &HeaderName) -> bool {
    let prefix = name.as_str().get(..2).unwrap_or_default();
    prefix.eq_ignore_ascii_case("X-") || PASSED.contains(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_table_passes() {
        let mut headers = Headers::default();
        for (name, value) in [
            ("Subject", "hello"),
            ("X-Account", "7"),
            ("x-lower", "8"),
            ("P-Asserted-Identity", "<sip:forged@x>"),
            ("Supported", "100rel"),
            ("Organization", "Acme"),
        ] {
            headers.push(HeaderName::from(name), value);
        }
        let names: Vec<_> = passed(&headers).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["Subject", "X-Account", "x-lower"]);
    }
}
