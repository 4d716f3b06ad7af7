//! `Idempotency-Key`: a POST that is repeated is done once, whichever nodes take it, and answered alike.
//!
//! Invariants: an answer is kept a day, by token and key, and sealed, for it may hold a password; who hangs up does not
//! stop what was begun; an answer that says that nothing was done yet (408, 429, most 503) is not kept, and whoever
//! repeats it begins anew; where nobody knows what was done it is not done again.

use super::Admin;
use super::Services;
use super::extract;
use super::problem::{Problem, Untouched};
use super::tokens::Identity;
use crate::net::clock;
use crate::store::{Answered, Asked};
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::response::Parts;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Name of the header.
pub(super) const KEY: &str = "idempotency-key";
/// Marks an answer that was given before.
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
/// Characters of a key.
const KEY_LENGTH: usize = 128;
/// Bytes of an answer: that of an import has up to 10,000 failures.
const ANSWER_BYTES: usize = 4 * 1024 * 1024;
/// A longer body is not kept, so that all answers of a day are no more than a database holds with ease.
const KEPT_BYTES: usize = 64 * 1024;
/// Headers of an answer that are repeated.
const HEADERS: [HeaderName; 3] = [header::CONTENT_TYPE, header::LOCATION, header::ETAG];
/// What answers are sealed for.
const PURPOSE: &str = "answer";

/// An answer as it is kept; a 5xx says only that nobody knows what was done.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    status: u16,
    headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
}

impl Kept {
    fn unknown() -> Self {
        let status = StatusCode::SERVICE_UNAVAILABLE.as_u16();
        Self { status, headers: Vec::new(), body: Vec::new() }
    }
}

/// Does a POST with a key once.
pub(super) async fn once(
    State(admin): State<Arc<Admin>>,
    request: Request,
    next: Next,
) -> Response {
    if request.method() != Method::POST || !request.headers().contains_key(KEY) {
        return next.run(request).await;
    }
    match answer(&admin, request, next).await {
        Ok(response) => response,
        Err(problem) => problem.into_response(),
    }
}

async fn answer(admin: &Admin, request: Request, next: Next) -> Result<Response, Problem> {
    let services = admin.services()?.clone();
    let (parts, body) = request.into_parts();
    let key = read_key(parts.headers.get(KEY))?;
    let token = parts.extensions.get::<Identity>().map(|identity| identity.id.clone());
    let body = extract::read(body).await?;
    let kind = parts.headers.get(header::CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    let what = [parts.uri.to_string().as_bytes(), kind, &body].map(<[u8]>::to_vec);
    let what: Vec<&[u8]> = what.iter().map(Vec::as_slice).collect();
    let hash = services.key.mac("request", &what);
    let run = rand::random::<u64>() >> 1;
    let asked = Asked { token: token.unwrap_or_default(), key, hash, run };
    match services.store.begin_answer(&asked, clock::now()).await? {
        Answered::Begun => {}
        Answered::Running => {
            let detail = "a request with this Idempotency-Key is under way";
            return Err(Problem::new(StatusCode::CONFLICT, detail).after(1));
        }
        Answered::Other => {
            let detail = "this Idempotency-Key was another request's";
            return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail));
        }
        Answered::Before(sealed) => return replay(&services, &asked, &sealed),
    }
    let request = Request::from_parts(parts, Body::from(body));
    // A task of its own, so that one that breaks off is answered too. `authorize` sees to it that this comes to its
    // end though nobody waits for it any more.
    let work = tokio::spawn(next.run(request));
    let response = work.await.unwrap_or_else(|_| Problem::broken().into_response());
    Ok(finish(&services, &asked, response).await)
}

fn read_key(value: Option<&HeaderValue>) -> Result<String, Problem> {
    let text = value.and_then(|value| value.to_str().ok()).unwrap_or_default();
    if (1..=KEY_LENGTH).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(text.to_owned());
    }
    Err(Problem::bad_request("an Idempotency-Key has 1-128 printable characters of ASCII"))
}

async fn finish(services: &Services, asked: &Asked, response: Response) -> Response {
    let (parts, body) = response.into_parts();
    let (response, kept) = match axum::body::to_bytes(body, ANSWER_BYTES).await {
        Ok(body) => {
            let kept = keep(&parts, &body);
            (Response::from_parts(parts, Body::from(body)), kept)
        }
        Err(error) => {
            let problem = Problem::no_answer(format!("no whole answer: {error}"));
            (problem.into_response(), Some(Kept::unknown()))
        }
    };
    let sealed = kept.map(|kept| {
        let plain = postcard::to_stdvec(&kept).expect("an answer is plain data");
        services.key.seal(PURPOSE, &about(asked), plain)
    });
    if let Err(error) = services.store.end_answer(asked, sealed).await {
        tracing::warn!("an answer is not kept for those who repeat the request: {error}");
    }
    response
}

/// What those who repeat the request are told; `None`: it is begun anew.
fn keep(parts: &Parts, body: &Bytes) -> Option<Kept> {
    if parts.status.is_server_error() {
        let is_untouched = parts.extensions.get::<Untouched>().is_some();
        return (!is_untouched).then(Kept::unknown);
    }
    if [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS].contains(&parts.status) {
        return None;
    }
    let is_long = body.len() > KEPT_BYTES;
    let names = HEADERS.iter().filter(|name| !is_long || **name != header::CONTENT_TYPE);
    let headers = names.filter_map(|name| {
        let value = parts.headers.get(name)?;
        Some((name.to_string(), value.as_bytes().to_vec()))
    });
    let (status, headers) = (parts.status.as_u16(), headers.collect());
    let body = if is_long { Vec::new() } else { body.to_vec() };
    Some(Kept { status, headers, body })
}

fn replay(services: &Services, asked: &Asked, sealed: &[u8]) -> Result<Response, Problem> {
    let plain = services.key.open(PURPOSE, &about(asked), sealed);
    let kept = plain.and_then(|plain| postcard::from_bytes::<Kept>(&plain).ok());
    let Some(Kept { status, headers, body }) = kept else {
        let detail =
            "what this Idempotency-Key was answered cannot be read: the secret was changed";
        return Err(Problem::new(StatusCode::CONFLICT, detail));
    };
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
    if status.is_server_error() {
        let detail = "nobody knows whether what was asked under this Idempotency-Key was done: \
                      see what is there, and ask again under another";
        return Err(Problem::new(StatusCode::CONFLICT, detail));
    }
    let mut response = (status, body).into_response();
    response.headers_mut().remove(header::CONTENT_TYPE);
    for (name, value) in headers {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_bytes(&value))
        {
            response.headers_mut().insert(name, value);
        }
    }
    response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    Ok(response)
}

/// An answer under another key's row does not open.
fn about(asked: &Asked) -> Vec<u8> {
    format!("{}\n{}", asked.token, asked.key).into_bytes()
}
