//! `ETag` and `If-Match` (RFC 9110 §13.1.1): a change of what somebody saw, and of nothing later.
//!
//! Invariant: a tag tells of what is kept and may be changed, not of what is counted beside it, and tells nothing of
//! secrets: it is keyed.

use super::problem::Problem;
use crate::ids::ClusterKey;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderName, StatusCode, header};
use std::fmt::Write as _;

/// The tag of what is kept.
pub(super) fn tag(key: &ClusterKey, text: &str) -> String {
    let mac = key.mac("entity tag", &[text.as_bytes()]);
    let mut tag = "\"".to_owned();
    for byte in &mac[..12] {
        let _ = write!(tag, "{byte:02x}");
    }
    tag + "\""
}

/// For an answer.
pub(super) fn header(key: &ClusterKey, text: &str) -> [(HeaderName, String); 1] {
    [(header::ETAG, tag(key, text))]
}

/// `If-Match`, if it is there.
#[derive(Debug)]
pub(super) struct IfMatch(Option<String>);

impl<S: Send + Sync> FromRequestParts<S> for IfMatch {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let given = parts.headers.get_all(header::IF_MATCH).iter();
        let given: Vec<String> =
            given.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).collect();
        Ok(Self((!given.is_empty()).then(|| given.join(","))))
    }
}

impl IfMatch {
    /// 412 when something else was seen than what is there.
    pub(super) fn check(&self, key: &ClusterKey, text: &str) -> Result<(), Problem> {
        let Some(given) = &self.0 else { return Ok(()) };
        let is = tag(key, text);
        match given.split(',').map(str::trim).any(|one| one == "*" || one == is) {
            true => Ok(()),
            false => Err(changed()),
        }
    }

    /// Whether it matters to the caller what it changes.
    pub(super) fn is_asked(&self) -> bool {
        self.0.is_some()
    }
}

/// It is not what the caller saw.
pub(super) fn changed() -> Problem {
    Problem::new(StatusCode::PRECONDITION_FAILED, "it was changed since: read it again")
}
