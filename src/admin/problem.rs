//! Problem documents (RFC 9457): the only form of an error in the API.

use crate::operator::NoAnswer;
use crate::store::StoreError;
use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Problem {
    /// `about:blank`: the status says it all.
    #[serde(rename = "type")]
    kind: &'static str,
    /// Phrase of the status.
    title: &'static str,
    /// HTTP status.
    #[schema(minimum = 400, maximum = 599)]
    status: u16,
    /// In words.
    detail: String,
    /// Which fields are wrong; empty when it is not about fields.
    errors: Vec<FieldError>,
    /// Seconds until it may be asked again.
    #[serde(skip)]
    retry_after: u64,
    /// Refused before anything was begun.
    #[serde(skip)]
    is_untouched: bool,
}

/// Marks an answer of which it is certain that nothing was done.
#[derive(Clone, Copy, Debug)]
pub(super) struct Untouched;

/// A wrong field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct FieldError {
    /// JSON pointer (RFC 6901) into the body; of a 400 into the query, by the name of the parameter.
    pub pointer: String,
    /// In words.
    pub detail: String,
}

impl FieldError {
    pub(super) fn new(field: &str, detail: impl Into<String>) -> Self {
        Self { pointer: format!("/{field}"), detail: detail.into() }
    }
}

impl Problem {
    pub(super) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            kind: "about:blank",
            title: status.canonical_reason().unwrap_or("Error"),
            status: status.as_u16(),
            detail: detail.into(),
            errors: Vec::new(),
            retry_after: 1,
            is_untouched: false,
        }
    }

    /// It may be asked again after so many seconds.
    pub(super) fn after(self, seconds: u64) -> Self {
        Self { retry_after: seconds, ..self }
    }

    pub(super) fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    pub(super) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    /// Not now: nothing was begun.
    pub(super) fn unavailable(detail: impl Into<String>) -> Self {
        Self { is_untouched: true, ..Self::new(StatusCode::SERVICE_UNAVAILABLE, detail) }
    }

    /// Nobody knows what was done, or will be.
    pub(super) fn no_answer(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, detail)
    }

    /// A fault of ours, in the middle of it.
    pub(super) fn broken() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "the request broke off")
    }

    /// 400: which parameter of the query, and why.
    pub(super) fn query(name: &str, detail: impl Into<String>) -> Self {
        Self::query_at(format!("/{name}"), detail)
    }

    /// The same by its pointer.
    pub(super) fn query_at(pointer: String, detail: impl Into<String>) -> Self {
        let error = FieldError { pointer, detail: detail.into() };
        Self::at(StatusCode::BAD_REQUEST, vec![error])
    }

    /// 422: which fields, and why.
    pub(super) fn fields(errors: Vec<FieldError>) -> Self {
        Self::at(StatusCode::UNPROCESSABLE_ENTITY, errors)
    }

    fn at(status: StatusCode, errors: Vec<FieldError>) -> Self {
        let detail = errors
            .iter()
            .map(|error| format!("{}: {}", error.pointer.trim_start_matches('/'), error.detail));
        let detail = detail.collect::<Vec<_>>().join("; ");
        Self { errors, ..Self::new(status, detail) }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let (retry_after, is_untouched) = (self.retry_after, self.is_untouched);
        let mut response = (status, Json(self)).into_response();
        let headers = response.headers_mut();
        let kind = HeaderValue::from_static("application/problem+json");
        headers.insert(header::CONTENT_TYPE, kind);
        if status == StatusCode::UNAUTHORIZED {
            let scheme = HeaderValue::from_static("Bearer realm=\"holdfast\"");
            headers.insert(header::WWW_AUTHENTICATE, scheme);
        }
        if matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(retry_after));
        }
        if is_untouched {
            response.extensions_mut().insert(Untouched);
        }
        response
    }
}

impl From<NoAnswer> for Problem {
    fn from(error: NoAnswer) -> Self {
        Self::no_answer(error.to_string())
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        let status = match &error {
            StoreError::Exists(_) => StatusCode::CONFLICT,
            StoreError::Unavailable(_) | StoreError::NewerSchema { .. } => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            StoreError::Corrupt(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        if status != StatusCode::CONFLICT {
            tracing::warn!("the store failed an operator's request: {error}");
        }
        Self::new(status, error.to_string())
    }
}
