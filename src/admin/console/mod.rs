//! The console at `/`: files that are part of the binary, a client of the API like any other.
//!
//! Invariants: the page loads nothing from elsewhere and may not (Content-Security-Policy); nothing here needs a token,
//! and nothing here tells anything of the switch.

use super::Admin;
use super::problem::Problem;
use axum::Router;
use axum::extract::Path;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use sha2::{Digest, Sha256};
use std::sync::{Arc, LazyLock};

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// Scripts and styles of our own, requests to this server, and nothing else.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Name, media type and content.
type File = (&'static str, &'static str, &'static str);

const PAGE: File = ("index.html", HTML, include_str!("index.html"));

/// The API described; it reads `/api/v1/openapi.json`.
const DOCS: File = ("docs.html", HTML, include_str!("docs.html"));

const FILES: [File; 20] = [
    ("api.js", JAVASCRIPT, include_str!("api.js")),
    ("app.js", JAVASCRIPT, include_str!("app.js")),
    ("call.js", JAVASCRIPT, include_str!("call.js")),
    ("calls.js", JAVASCRIPT, include_str!("calls.js")),
    ("cdrs.js", JAVASCRIPT, include_str!("cdrs.js")),
    ("console.css", CSS, include_str!("console.css")),
    ("dashboard.js", JAVASCRIPT, include_str!("dashboard.js")),
    ("docs.js", JAVASCRIPT, include_str!("docs.js")),
    ("dom.js", JAVASCRIPT, include_str!("dom.js")),
    ("events.js", JAVASCRIPT, include_str!("events.js")),
    ("icon.svg", SVG, include_str!("icon.svg")),
    ("ladder.js", JAVASCRIPT, include_str!("ladder.js")),
    ("live.js", JAVASCRIPT, include_str!("live.js")),
    ("nodes.js", JAVASCRIPT, include_str!("nodes.js")),
    ("quality.js", JAVASCRIPT, include_str!("quality.js")),
    ("registrations.js", JAVASCRIPT, include_str!("registrations.js")),
    ("tokens.js", JAVASCRIPT, include_str!("tokens.js")),
    ("users.js", JAVASCRIPT, include_str!("users.js")),
    ("webhooks.js", JAVASCRIPT, include_str!("webhooks.js")),
    ("words.js", JAVASCRIPT, include_str!("words.js")),
];

/// Of all files together: they fit each other.
static TAG: LazyLock<String> = LazyLock::new(|| {
    let mut hash = Sha256::new();
    FILES.iter().chain([&PAGE, &DOCS]).for_each(|(_, _, content)| hash.update(content));
    let digits =
        hash.finalize().iter().take(12).map(|byte| format!("{byte:02x}")).collect::<String>();
    format!("\"{digits}\"")
});

pub(super) fn router() -> Router<Arc<Admin>> {
    Router::new()
        .route("/", get(|headers: HeaderMap| async move { serve(&PAGE, &headers) }))
        .route("/docs", get(|headers: HeaderMap| async move { serve(&DOCS, &headers) }))
        .route("/console/{file}", get(file))
}

async fn file(Path(name): Path<String>, headers: HeaderMap) -> Response {
    match FILES.iter().find(|(known, ..)| *known == name) {
        Some(file) => serve(file, &headers),
        None => Problem::not_found("the console has no such file").into_response(),
    }
}

/// A new release is seen at once: browsers ask whether what they have is still good.
fn serve((_, kind, content): &File, headers: &HeaderMap) -> Response {
    let is_known =
        headers.get(header::IF_NONE_MATCH).is_some_and(|tag| tag.as_bytes() == TAG.as_bytes());
    let mut response = match is_known {
        true => StatusCode::NOT_MODIFIED.into_response(),
        false => (*content).into_response(),
    };
    let fixed: [(HeaderName, &'static str); 6] = [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, "no-cache"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ];
    let headers = response.headers_mut();
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if let Ok(tag) = HeaderValue::from_str(&TAG) {
        headers.insert(header::ETAG, tag);
    }
    response
}
