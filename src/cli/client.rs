//! HTTP to the admin API, and exit codes from its answers.

use super::{Connection, Known, local};
use core::time::Duration;
use serde_json::Value;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

/// Failed.
pub(super) const FAILED: u8 = 1;
/// Wrong use or configuration (`EX_USAGE`).
const USAGE: u8 = 64;
/// The node cannot be reached (`EX_UNAVAILABLE`).
pub(super) const UNREACHABLE: u8 = 69;
/// Try again later (`EX_TEMPFAIL`).
pub(super) const TRY_AGAIN: u8 = 75;

/// Why a command failed: what to print and the exit code.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) text: String,
    pub(super) exit: u8,
    status: Option<u16>,
}

impl Failure {
    pub(super) fn usage(text: impl Into<String>) -> Self {
        Self { text: text.into(), exit: USAGE, status: None }
    }

    /// With an exit code of its own.
    pub(super) fn new(text: String, exit: u8) -> Self {
        Self { text, exit, status: None }
    }

    /// The node knows of no such thing.
    pub(super) fn is_not_found(&self) -> bool {
        self.status == Some(404)
    }
}

/// A client of one node.
#[derive(Debug)]
pub(super) struct Client {
    agent: ureq::Agent,
    url: String,
    token: Option<String>,
}

impl Client {
    /// Flags win over the environment, that over a process of this machine, and that over `credentials.json`.
    pub(super) fn new(connection: &Connection, known: &Known) -> Self {
        let settings = [&connection.url, &known.url, &connection.token, &known.token];
        if settings.iter().all(|setting| setting.is_none())
            && let Some(client) = known.sockets.iter().find_map(|socket| Self::local(socket))
        {
            return client;
        }
        let kept = |key: &str| {
            let value = known.credentials.as_ref()?.get(key)?.as_str()?;
            (!value.is_empty()).then(|| value.to_owned())
        };
        let url = connection.url.clone().or_else(|| known.url.clone());
        let token = connection.token.clone().or_else(|| known.token.clone());
        let url = url.or_else(|| kept("admin_url"));
        let url = url.unwrap_or_else(|| "http://127.0.0.1:8080".to_owned());
        Self::at(&url, token.or_else(|| kept("admin_token")))
    }

    /// Of a certain address.
    pub(super) fn at(url: &str, token: Option<String>) -> Self {
        let url = url.trim_end_matches('/').trim_end_matches("/api/v1").to_owned();
        Self { agent: Self::config().into(), url, token }
    }

    /// By the socket of a process of this machine, which needs no token.
    pub(super) fn local(socket: &Path) -> Option<Self> {
        let agent = local::agent(Self::config(), socket)?;
        // Every address leads to the socket.
        Some(Self { agent, url: "http://127.0.0.1".to_owned(), token: None })
    }

    fn config() -> ureq::config::Config {
        ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(Duration::from_secs(3)))
            .timeout_recv_response(Some(Duration::from_secs(60)))
            .proxy(None)
            .max_redirects(0)
            .build()
    }

    /// Path under `/api/v1`.
    pub(super) fn get(&self, path: &str) -> Result<Value, Failure> {
        let request = self.authorized(self.agent.get(self.address(path)));
        self.answer(request.call())
    }

    /// What is no document.
    pub(super) fn get_bytes(&self, path: &str) -> Result<Vec<u8>, Failure> {
        let request = self.authorized(self.agent.get(self.address(path)));
        let response = request.call().map_err(|error| self.unreachable(&error))?;
        if response.status() != 200 {
            self.answer(Ok(response))?;
            return Ok(Vec::new());
        }
        let mut body = response.into_body();
        body.with_config()
            .limit(256 * 1024 * 1024)
            .read_to_vec()
            .map_err(|error| self.unreachable(&error))
    }

    pub(super) fn delete(&self, path: &str) -> Result<Value, Failure> {
        let request = self.authorized(self.agent.delete(self.address(path)));
        self.answer(request.call())
    }

    pub(super) fn post(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        let request = self.authorized(self.agent.post(self.address(path)));
        self.answer(request.send_json(body))
    }

    pub(super) fn patch(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        let request = self.authorized(self.agent.patch(self.address(path)));
        self.answer(request.send_json(body))
    }

    pub(super) fn post_csv(&self, path: &str, mut file: impl Read) -> Result<Value, Failure> {
        let request = self.authorized(self.agent.post(self.address(path)));
        let body = ureq::SendBody::from_reader(&mut file);
        self.answer(request.content_type("text/csv").send(body))
    }

    /// An answer without end, as its lines; from where another broke.
    pub(super) fn stream(
        &self,
        path: &str,
        last: Option<&str>,
    ) -> Result<impl BufRead + use<>, Failure> {
        let mut request = self.authorized(self.agent.get(self.address(path)));
        if let Some(last) = last {
            request = request.header("Last-Event-ID", last);
        }
        let response = request.call().map_err(|error| self.unreachable(&error))?;
        if response.status() != 200 {
            self.answer(Ok(response))?;
            return Err(Failure::usage(format!("{} has no events", self.url)));
        }
        Ok(BufReader::new(response.into_body().into_reader()))
    }

    /// Readiness, from the root: the document, and whether the node takes calls.
    pub(super) fn health(&self) -> Result<(Value, bool), Failure> {
        let response = self.agent.get(format!("{}/health", self.url)).call();
        let mut response = response.map_err(|error| self.unreachable(&error))?;
        let is_ready = response.status().is_success();
        let document = response.body_mut().read_json();
        document
            .map(|document| (document, is_ready))
            .map_err(|error| Failure::new(format!("{}: {error}", self.url), FAILED))
    }

    fn address(&self, path: &str) -> String {
        format!("{}/api/v1{path}", self.url)
    }

    fn authorized<B>(&self, request: ureq::RequestBuilder<B>) -> ureq::RequestBuilder<B> {
        match &self.token {
            Some(token) => request.header("Authorization", format!("Bearer {token}")),
            None => request,
        }
    }

    fn answer(
        &self,
        response: Result<ureq::http::Response<ureq::Body>, ureq::Error>,
    ) -> Result<Value, Failure> {
        let mut response = response.map_err(|error| self.unreachable(&error))?;
        let status = response.status().as_u16();
        // A page of 1,000 calls with their streams has a few megabytes.
        let text = response.body_mut().with_config().limit(256 * 1024 * 1024).read_to_string();
        let text = text.map_err(|error| self.unreachable(&error))?;
        let document: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
        if (200..300).contains(&status) {
            return Ok(document);
        }
        let text = problem_text(status, &document);
        Err(Failure { text, exit: exit_of(status), status: Some(status) })
    }

    fn unreachable(&self, error: &ureq::Error) -> Failure {
        let url = &self.url;
        Failure::new(format!("{url} cannot be reached: {error}"), UNREACHABLE)
    }
}

/// Exit code of an HTTP status.
pub(super) const fn exit_of(status: u16) -> u8 {
    match status {
        400 | 401 | 403 | 405 | 413 | 415 | 422 => USAGE,
        408 | 429 | 503 => TRY_AGAIN,
        _ => FAILED,
    }
}

fn problem_text(status: u16, problem: &Value) -> String {
    let part = |key: &str| problem.get(key).and_then(Value::as_str).unwrap_or_default();
    if part("title").is_empty() {
        return format!("the node answered {status}; is this Holdfast's admin API?");
    }
    format!("{status} {}: {}", part("title"), part("detail"))
}

/// For one part of a path, or a value of a query (RFC 3986 §2.3).
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            let _ = write!(escaped, "%{byte:02X}");
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_win_over_the_environment_and_that_over_what_is_kept() {
        let kept = serde_json::json!({"admin_url": "http://kept", "admin_token": "kept"});
        let mut known = Known { credentials: Some(kept), ..Known::default() };
        let mut connection = Connection::default();
        let both = |connection: &Connection, known: &Known| {
            let client = Client::new(connection, known);
            (client.url, client.token.unwrap_or_default())
        };
        assert_eq!(both(&connection, &known), ("http://kept".into(), "kept".into()));
        known.token = Some("environment".to_owned());
        assert_eq!(both(&connection, &known), ("http://kept".into(), "environment".into()));
        connection.url = Some("http://flag/".to_owned());
        assert_eq!(both(&connection, &known), ("http://flag".into(), "environment".into()));
    }

    #[test]
    fn exit_codes_and_escapes() {
        for (status, exit) in [(401, 64), (404, 1), (409, 1), (422, 64), (500, 1), (503, 75)] {
            assert_eq!(exit_of(status), exit, "{status}");
        }
        assert_eq!(escape("+49 a/ä"), "%2B49%20a%2F%C3%A4");
    }
}
