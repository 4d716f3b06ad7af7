//! What a request must be before a resource sees it: in time, small enough, of the right type and form.

use super::problem::{FieldError, Problem};
use super::{Admin, Services};
use crate::limits::REST_BODY_BYTES;
use axum::body::{Body as HttpBody, Bytes};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use core::time::Duration;
use futures_util::StreamExt;
use serde::de::DeserializeOwned;
use serde_json::{Number, Value};
use std::sync::Arc;

/// From the end of the header to the answer; the store and the worker have shorter ones of their
/// own.
const REQUEST_DEADLINE: Duration = Duration::from_secs(30);
/// Between two pieces of a body.
pub(super) const BODY_DEADLINE: Duration = Duration::from_secs(10);

/// No request holds a connection for ever.
pub(super) async fn deadline(request: Request, next: Next) -> Response {
    match tokio::time::timeout(REQUEST_DEADLINE, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Problem::no_answer("no answer in time").into_response(),
    }
}

impl FromRequestParts<Arc<Admin>> for Services {
    type Rejection = Problem;
    async fn from_request_parts(_: &mut Parts, admin: &Arc<Admin>) -> Result<Self, Problem> {
        admin.services().cloned()
    }
}

/// A query string; unknown names are mistakes.
pub(super) struct Query<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let pairs = form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes());
        let parsed = serde_path_to_error::deserialize(serde_urlencoded::Deserializer::new(pairs));
        parsed.map(Self).map_err(|error| {
            let at: String = error.path().iter().map(pointer_part).collect();
            let detail = error.inner().to_string();
            // Of what is not known, or there twice, only the message has the name.
            let name = ["unknown", "duplicate", "missing"].iter().find_map(|how| {
                let rest = detail.strip_prefix(how)?.strip_prefix(" field `")?;
                rest.split('`').next()
            });
            let pointer = name.map_or(at, |name| format!("/{name}"));
            Problem::query_at(pointer, detail)
        })
    }
}

/// The one variable of a path. One that cannot be read names nothing.
pub(super) struct Name(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Name {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        axum::extract::Path::<String>::from_request_parts(parts, state)
            .await
            .map(|axum::extract::Path(name)| Self(name))
            .map_err(|_| Problem::not_found("the path cannot be read"))
    }
}

/// A JSON body.
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Problem;
    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        require_type(&parts.headers, is_json_type)?;
        parse(&read(body).await?).map(Self)
    }
}

fn is_json_type(kind: &str) -> bool {
    kind == "application/json" || kind.ends_with("+json")
}

/// Its body is said to be JSON.
pub(super) fn is_json(headers: &HeaderMap) -> bool {
    require_type(headers, is_json_type).is_ok()
}

/// A JSON body, or none.
pub(super) struct OptionalBody<T>(pub(super) T);

impl<T: DeserializeOwned + Default, S: Send + Sync> FromRequest<S> for OptionalBody<T> {
    type Rejection = Problem;
    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        let bytes = read(body).await?;
        if bytes.is_empty() {
            return Ok(Self(T::default()));
        }
        require_type(&parts.headers, |kind| kind == "application/json")?;
        // Null is none too.
        parse::<Option<T>>(&bytes).map(|given| Self(given.unwrap_or_default()))
    }
}

/// 415 unless the media type is right.
pub(super) fn require_type(
    headers: &HeaderMap,
    is_right: impl Fn(&str) -> bool,
) -> Result<(), Problem> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let kind = kind.unwrap_or_default().split(';').next().unwrap_or_default();
    let kind = kind.trim().to_ascii_lowercase();
    if is_right(&kind) {
        return Ok(());
    }
    let detail = if kind.is_empty() { "no Content-Type".to_owned() } else { kind };
    Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail))
}

/// The whole of it, within the time that a request has.
pub(super) async fn read_in_time(body: HttpBody) -> Result<Bytes, Problem> {
    let all = tokio::time::timeout(REQUEST_DEADLINE, read(body)).await;
    all.unwrap_or_else(|_| Err(late()))
}

fn late() -> Problem {
    Problem::new(StatusCode::REQUEST_TIMEOUT, "the body does not come")
}

pub(super) async fn read(body: HttpBody) -> Result<Bytes, Problem> {
    let mut stream = body.into_data_stream();
    let mut all = Vec::new();
    let mut length = 0;
    // Of a body that is too large a little more is read: most clients look for the answer only
    // after they sent it.
    while length <= 8 * REST_BODY_BYTES
        && let Some(piece) = next_piece(&mut stream).await?
    {
        length += piece.len();
        if length <= REST_BODY_BYTES {
            all.extend_from_slice(&piece);
        }
    }
    if length > REST_BODY_BYTES {
        let detail = format!("a body has at most {REST_BODY_BYTES} bytes");
        return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail));
    }
    Ok(all.into())
}

/// The next piece of a body, `None` at its end.
pub(super) async fn next_piece(
    stream: &mut axum::body::BodyDataStream,
) -> Result<Option<Bytes>, Problem> {
    match tokio::time::timeout(BODY_DEADLINE, stream.next()).await {
        Ok(Some(Ok(piece))) => Ok(Some(piece)),
        Ok(None) => Ok(None),
        Ok(Some(Err(error))) => Err(Problem::bad_request(format!("the body broke off: {error}"))),
        Err(_) => Err(late()),
    }
}

/// Not JSON: 400. JSON of another shape: 422 with a pointer.
fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    match serde_path_to_error::deserialize(&mut json) {
        Ok(parsed) => match json.end() {
            Ok(()) => Ok(parsed),
            Err(error) => Err(Problem::bad_request(format!("not JSON: {error}"))),
        },
        Err(error) => match with_integers(bytes) {
            Some(body) => serde_path_to_error::deserialize(body).map_err(|error| misshapen(&error)),
            None => Err(misshapen(&error)),
        },
    }
}

/// A body that has integers written with a fraction of zero, without those: `3.0` is an integer (JSON Schema 2020-12,
/// Validation §6.1.1), which serde does not take for one.
fn with_integers(bytes: &[u8]) -> Option<Value> {
    let mut body = serde_json::from_slice(bytes).ok()?;
    rewrite(&mut body).then_some(body)
}

fn rewrite(value: &mut Value) -> bool {
    match value {
        Value::Number(number) => {
            let whole = number.as_f64().filter(|_| number.is_f64()).and_then(integer);
            let is_whole = whole.is_some();
            *number = whole.unwrap_or_else(|| number.clone());
            is_whole
        }
        // Each of them, not until the first.
        Value::Array(items) => items.iter_mut().map(rewrite).fold(false, |any, one| any | one),
        Value::Object(fields) => fields.values_mut().map(rewrite).fold(false, |any, one| any | one),
        Value::Null | Value::Bool(_) | Value::String(_) => false,
    }
}

fn integer(number: f64) -> Option<Number> {
    // Beyond, a double names no integer exactly.
    const MOST: f64 = 9_007_199_254_740_992.0;
    let is_whole = number.fract() == 0.0 && number.abs() <= MOST;
    #[allow(clippy::cast_possible_truncation, reason = "whole, and small enough")]
    is_whole.then(|| Number::from(number as i64))
}

fn misshapen(error: &serde_path_to_error::Error<serde_json::Error>) -> Problem {
    let pointer: String = error.path().iter().map(pointer_part).collect();
    let inner = error.inner();
    if inner.classify() != serde_json::error::Category::Data {
        return Problem::bad_request(format!("not JSON: {inner}"));
    }
    let detail = inner.to_string();
    let missing = detail.strip_prefix("missing field `").and_then(|rest| rest.split('`').next());
    let pointer = missing.map_or(pointer.clone(), |field| format!("{pointer}/{field}"));
    let detail = detail.split(" at line ").next().unwrap_or_default().to_owned();
    Problem::fields(vec![FieldError { pointer, detail }])
}

fn pointer_part(segment: &serde_path_to_error::Segment) -> String {
    use serde_path_to_error::Segment;
    match segment {
        Segment::Seq { index } => format!("/{index}"),
        Segment::Map { key } => format!("/{}", key.replace('~', "~0").replace('/', "~1")),
        Segment::Enum { variant } => format!("/{variant}"),
        Segment::Unknown => String::new(),
    }
}
