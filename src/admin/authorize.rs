//! Who may ask, and how often: tokens, roles, rates, the audit log.
//!
//! Invariants: a request without a token that is known reaches nothing; who tries tokens is slowed down by its address
//! and keeps nobody out who has a good one, behind the same proxy say; what may change something is in the audit log
//! before it is done, then with its outcome, whoever waits for that.

use super::problem::Problem;
use super::rates::Rates;
use super::tokens::Identity;
use super::{Admin, audit, extract};
use crate::event::Event;
use crate::net::clock;
use crate::views::Rfc3339;
use crate::views::token::AuditView;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use core::net::IpAddr;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// Requests of a token at once, and a second.
const TOKEN: (f64, f64) = (1_000.0, 500.0);
/// Requests of an address without a good token at once, and a second.
const STRANGER: (f64, f64) = (50.0, 1.0);

/// What all paths have in common, and who is asked need not be told.
const API: &str = "/api/v1";

/// Where a request comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Caller {
    /// A host.
    Address(IpAddr),
    /// Who runs this process, or may do all on this machine, by a socket in the data directory.
    Owner,
    /// Another user of this machine by that socket, or nobody knows.
    Unknown,
}

impl Caller {
    /// A host of IPv6 has as many addresses as it likes in its network.
    pub(super) fn of(address: IpAddr) -> Self {
        Self::Address(match address.to_canonical() {
            IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & (u128::MAX << 64)).into()),
            v4 @ IpAddr::V4(_) => v4,
        })
    }
}

/// Counts of this node.
#[derive(Debug)]
pub(super) struct Gate {
    tokens: Rates<String>,
    strangers: Rates<Caller>,
}

impl Default for Gate {
    fn default() -> Self {
        Self { tokens: Rates::new(TOKEN.0, TOKEN.1), strangers: Rates::new(STRANGER.0, STRANGER.1) }
    }
}

/// `Authorization: Bearer` (RFC 6750), what its role allows, and the audit log.
pub(super) async fn authorize(
    State(admin): State<Arc<Admin>>,
    mut request: Request,
    next: Next,
) -> Response {
    // Until the database is there nobody can tell whose a token is, and who would read the admin token from
    // credentials.json finds none yet: that is no 401.
    if let Err(problem) = admin.services() {
        return problem.into_response();
    }
    let caller = request.extensions().get::<Caller>().copied().unwrap_or(Caller::Unknown);
    let token = token_hash(request.headers());
    let identity = match admit(&admin, caller, token).await {
        Ok(identity) => identity,
        Err(problem) => return problem.into_response(),
    };
    request.extensions_mut().insert(identity.clone());
    if request.method() == Method::GET || request.method() == Method::HEAD {
        return run(&identity, request, next).await;
    }
    // On its own: it comes to its end, and into the log, though nobody waits for it any more.
    let source = match caller {
        Caller::Address(address) => Some(address.to_string()),
        Caller::Owner | Caller::Unknown => None,
    };
    let work =
        tokio::spawn(async move { run_and_note(&admin, identity, source, request, next).await });
    work.await.unwrap_or_else(|_| Problem::broken().into_response())
}

/// What the role allows is done.
async fn run(identity: &Identity, request: Request, next: Next) -> Response {
    match allow(identity, &request) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

fn allow(identity: &Identity, request: &Request) -> Result<(), Problem> {
    if identity.may(request.method(), path_of(request.uri())) {
        return Ok(());
    }
    let detail = format!("a token of role {} may not do that", identity.role.name());
    Err(Problem::new(StatusCode::FORBIDDEN, detail))
}

async fn run_and_note(
    admin: &Admin,
    identity: Identity,
    source: Option<String>,
    request: Request,
    next: Next,
) -> Response {
    let (method, uri) = (request.method(), request.uri());
    let path = uri.path_and_query().map_or("", |path| path.as_str());
    let mut line = AuditView {
        sequence: 0,
        at: Rfc3339(clock::now()),
        token: identity.id.clone(),
        name: identity.name.clone(),
        node: admin.node.clone(),
        method: method.to_string(),
        path: within(path),
        status: 0,
        source,
        made: None,
        asked: None,
    };
    let (response, begun) = match read(&identity, request).await {
        Ok((request, asked)) => {
            line.asked = asked;
            let begun = admin.begin(&line).await;
            // A task of its own again: what breaks off is in the log too.
            let work = tokio::spawn(next.run(request));
            (work.await.unwrap_or_else(|_| Problem::broken().into_response()), begun)
        }
        Err(problem) => (problem.into_response(), None),
    };
    let made = response.headers().get(header::LOCATION).and_then(|path| path.to_str().ok());
    (line.status, line.made) = (response.status().as_u16(), made.map(within));
    admin.end(line, begun).await;
    response
}

/// What is asked and allowed, with what its line is to say of its body: JSON is read before anything is done.
async fn read(identity: &Identity, request: Request) -> Result<(Request, Option<Value>), Problem> {
    allow(identity, &request)?;
    if !extract::is_json(request.headers()) {
        return Ok((request, None));
    }
    let (parts, body) = request.into_parts();
    let body = extract::read_in_time(body).await?;
    let asked = audit::asked(&body);
    Ok((Request::from_parts(parts, Body::from(body)), asked))
}

fn within(path: &str) -> String {
    path.strip_prefix(API).unwrap_or(path).to_owned()
}

/// What only who runs this process, or may do all on this machine, may ask of it, whether it has a store or not.
pub(super) async fn owner_only(
    State(admin): State<Arc<Admin>>,
    request: Request,
    next: Next,
) -> Response {
    if request.extensions().get() != Some(&Caller::Owner) {
        let detail = "that is for the user of the process, or root";
        return Problem::new(StatusCode::FORBIDDEN, detail).into_response();
    }
    let work =
        tokio::spawn(
            async move { run_and_note(&admin, Identity::owner(), None, request, next).await },
        );
    work.await.unwrap_or_else(|_| Problem::broken().into_response())
}

fn path_of(uri: &Uri) -> &str {
    uri.path().strip_prefix(API).unwrap_or(uri.path())
}

fn token_hash(headers: &HeaderMap) -> Option<[u8; 32]> {
    let given = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = given.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| Sha256::digest(token.trim()).into())
}

async fn admit(
    admin: &Admin,
    caller: Caller,
    token: Option<[u8; 32]>,
) -> Result<Identity, Problem> {
    let (now, gate) = (clock::now(), &admin.gate);
    let too_often = |seconds| {
        admin.telemetry.handle(&Event::Shed { what: "requests to the API" }, now);
        Problem::new(StatusCode::TOO_MANY_REQUESTS, "asked too often").after(seconds)
    };
    let refuse = |detail: &str| match gate.strangers.take(caller, now) {
        Ok(()) => Problem::new(StatusCode::UNAUTHORIZED, detail),
        Err(seconds) => too_often(seconds),
    };
    let identity = match (token, caller) {
        (None, Caller::Owner) => Identity::owner(),
        (None, Caller::Address(_) | Caller::Unknown) => {
            return Err(refuse("give a token: Authorization: Bearer <token>"));
        }
        (Some(hash), _) => {
            if let Err(seconds) = gate.strangers.look(&caller, now)
                && !is_admin_token(admin, hash)
                && !admin.tokens.has(&admin.services()?.store, &hash).await
            {
                return Err(too_often(seconds));
            }
            let identity = identify(admin, hash).await?;
            identity.ok_or_else(|| refuse("that token is not known here"))?
        }
    };
    gate.tokens.take(identity.id.clone(), now).map_err(too_often)?;
    Ok(identity)
}

/// Hashes are compared, so the time of a comparison tells nothing of the token.
fn is_admin_token(admin: &Admin, hash: [u8; 32]) -> bool {
    hash.iter().zip(&admin.token_hash).fold(0, |acc, (l, r)| acc | (l ^ r)) == 0
}

async fn identify(admin: &Admin, hash: [u8; 32]) -> Result<Option<Identity>, Problem> {
    if is_admin_token(admin, hash) {
        return Ok(Some(Identity::admin()));
    }
    admin.tokens.identify(&admin.services()?.store, hash).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_of_ipv6_is_one_caller() {
        let of = |text: &str| Caller::of(text.parse().expect("an address"));
        assert_eq!(of("2001:db8:0:1::1"), of("2001:db8:0:1:ffff::2"));
        assert_ne!(of("2001:db8:0:1::1"), of("2001:db8:0:2::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    }
}
