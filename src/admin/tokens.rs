//! `/tokens`: who may do what.
//!
//! Invariants: a token is shown once and kept as a hash; one that was removed is good for no longer than `TRUSTED`.

use super::extract::{Body, Name, Query};
use super::page::{Page, PageQuery};
use super::problem::{FieldError, Problem};
use super::{Admin, Services};
use crate::net::clock;
use crate::store::{Store, StoredToken};
use crate::time::Timestamp;
use crate::views::Rfc3339;
use crate::views::token::{NewToken, Role, TokenView};
use axum::http::{Method, StatusCode};
use axum::response::IntoResponse;
use axum::routing::{delete, get};
use axum::{Json, Router};
use core::time::Duration;
use sha2::{Digest, Sha256};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

/// The store is not asked again for a token that it knew so long ago.
const TRUSTED: Duration = Duration::from_secs(5);
/// Its last use is written no more often.
const USED: Duration = Duration::from_secs(60);
/// Tokens remembered.
const KNOWN: usize = 1_000;
/// Tokens that there may be.
const TOKENS: usize = 1_000;
/// Characters of a name.
const NAME: usize = 64;

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    /// Of the token; `admin` is the admin token's.
    pub id: String,
    pub name: String,
    pub role: Role,
}

impl Identity {
    /// Who has the token of the node itself.
    pub(super) fn admin() -> Self {
        Self { id: "admin".to_owned(), name: "admin token".to_owned(), role: Role::Admin }
    }

    /// Who runs this process.
    pub(super) fn owner() -> Self {
        let (id, name) = ("local".to_owned(), "local socket".to_owned());
        Self { id, name, role: Role::Admin }
    }

    /// `path` is below `/api/v1`.
    pub(super) fn may(&self, method: &Method, path: &str) -> bool {
        let reads = method == Method::GET || method == Method::HEAD;
        let is_in = |resource: &str| {
            path.strip_prefix(resource).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let is_secret = is_in("/tokens") || is_in("/audit") || is_in("/webhooks");
        match self.role {
            Role::Admin => true,
            Role::Operator => {
                let steers = is_in("/calls") || is_in("/registrations") || is_in("/nodes");
                !is_secret && (reads || steers)
            }
            Role::Readonly => !is_secret && reads,
            Role::Cdr => is_in("/cdrs") && reads,
        }
    }
}

/// Tokens that the store knew a moment ago.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Those that were used.
    used: Mutex<HashMap<[u8; 32], Entry>>,
    /// All of them at that time.
    listed: Mutex<(Timestamp, HashSet<[u8; 32]>)>,
}

#[derive(Clone, Debug)]
struct Entry {
    identity: Identity,
    seen_at: Timestamp,
    used_at: Timestamp,
}

impl Known {
    /// Who has this token.
    pub(super) async fn identify(
        &self,
        store: &Store,
        hash: [u8; 32],
    ) -> Result<Option<Identity>, Problem> {
        let now = clock::now();
        let known = self.get(&hash);
        if let Some(known) = &known
            && now.saturating_since(known.seen_at) < TRUSTED
        {
            return Ok(Some(known.identity.clone()));
        }
        let Some(token) = store.token(&hash).await? else {
            self.put(hash, None);
            return Ok(None);
        };
        let role = role(&token)?;
        let identity = Identity { id: token.id.clone(), name: token.name, role };
        let last = known.map(|known| known.used_at).or(token.last_used_at).unwrap_or_default();
        let is_due = now.saturating_since(last) >= USED;
        if is_due && let Err(error) = store.use_token(&token.id, now).await {
            tracing::debug!("the last use of a token is not kept: {error}");
        }
        let used_at = if is_due { now } else { last };
        let entry = Entry { identity: identity.clone(), seen_at: now, used_at };
        self.put(hash, Some(entry));
        Ok(Some(identity))
    }

    /// Whether it is one, as far as is known without a question to the store for each that is tried.
    pub(super) async fn has(&self, store: &Store, hash: &[u8; 32]) -> bool {
        if self.get(hash).is_some() {
            return true;
        }
        {
            let mut listed = self.listed.lock().unwrap_or_else(PoisonError::into_inner);
            let now = clock::now();
            if now.saturating_since(listed.0) < TRUSTED {
                return listed.1.contains(hash);
            }
            listed.0 = now;
        }
        let Ok(tokens) = store.tokens().await else { return false };
        let all: HashSet<[u8; 32]> = tokens.iter().map(|token| token.hash).collect();
        let is_one = all.contains(hash);
        self.listed.lock().unwrap_or_else(PoisonError::into_inner).1 = all;
        is_one
    }

    fn get(&self, hash: &[u8; 32]) -> Option<Entry> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).get(hash).cloned()
    }

    fn put(&self, hash: [u8; 32], entry: Option<Entry>) {
        let mut known = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KNOWN {
            known.clear();
        }
        match entry {
            Some(entry) => _ = known.insert(hash, entry),
            None => _ = known.remove(&hash),
        }
    }
}

fn role(token: &StoredToken) -> Result<Role, Problem> {
    serde_json::from_value(token.role.clone().into()).map_err(|_| {
        Problem::unavailable("that token is of a role that this release does not know")
    })
}

pub(super) fn router() -> Router<Arc<Admin>> {
    Router::new().route("/tokens", get(list).post(create)).route("/tokens/{id}", delete(remove))
}

/// All tokens but the admin token.
#[utoipa::path(get, path = "/tokens", tag = "tokens", operation_id = "list_tokens",
    params(PageQuery), responses((status = 200, body = Page<TokenView>)))]
pub(super) async fn list(
    services: Services,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<TokenView>>, Problem> {
    let tokens = services.store.tokens().await?;
    let views = tokens.iter().map(|token| view(token, None)).collect::<Result<_, _>>()?;
    Ok(Json(Page::asked(views, |token: &TokenView| token.id.clone(), &query)))
}

/// A new token. It is in this answer and nowhere else.
#[utoipa::path(post, path = "/tokens", tag = "tokens", operation_id = "create_token",
    request_body = NewToken, responses((status = 201, body = TokenView),
        (status = 409, body = Problem, description = "There are 1000 already")))]
pub(super) async fn create(
    services: Services,
    Body(new): Body<NewToken>,
) -> Result<impl IntoResponse, Problem> {
    let length = new.name.chars().count();
    if !(1..=NAME).contains(&length) || new.name.chars().any(char::is_control) {
        let detail = "1-64 characters, no control characters";
        return Err(Problem::fields(vec![FieldError::new("name", detail)]));
    }
    if services.store.tokens().await?.len() >= TOKENS {
        let detail = format!("there are {TOKENS} tokens already");
        return Err(Problem::new(StatusCode::CONFLICT, detail));
    }
    let secret: [u8; 24] = rand::random();
    let digits: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let text = format!("hf_{digits}");
    let token = StoredToken {
        id: uuid::Uuid::now_v7().to_string(),
        name: new.name,
        role: new.role.name().to_owned(),
        hash: Sha256::digest(&text).into(),
        created_at: clock::now(),
        last_used_at: None,
    };
    services.store.add_token(&token).await?;
    Ok((StatusCode::CREATED, Json(view(&token, Some(text))?)))
}

/// Revokes a token: within five seconds no node takes it any more.
#[utoipa::path(delete, path = "/tokens/{id}", tag = "tokens", operation_id = "remove_token",
    params(("id" = String, Path)),
    responses((status = 204), (status = 404, body = Problem)))]
pub(super) async fn remove(services: Services, Name(id): Name) -> Result<StatusCode, Problem> {
    let is_id = id.parse::<uuid::Uuid>().is_ok();
    if is_id && services.store.remove_token(&id).await? {
        return Ok(StatusCode::NO_CONTENT);
    }
    Err(Problem::not_found("there is no such token"))
}

fn view(token: &StoredToken, text: Option<String>) -> Result<TokenView, Problem> {
    Ok(TokenView {
        id: token.id.clone(),
        name: token.name.clone(),
        role: role(token)?,
        created_at: Rfc3339(token.created_at),
        last_used_at: token.last_used_at.map(Rfc3339),
        token: text,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_are_what_they_say() {
        let cases = [
            (Method::GET, "/calls", "admin operator readonly"),
            (Method::GET, "/cdrs", "admin operator readonly cdr"),
            (Method::GET, "/cdrs/1", "admin operator readonly cdr"),
            (Method::GET, "/cdrsx", "admin operator readonly"),
            (Method::DELETE, "/calls/1", "admin operator"),
            (Method::POST, "/nodes/a/drain", "admin operator"),
            (Method::POST, "/users", "admin"),
            (Method::DELETE, "/cdrs/1", "admin"),
            (Method::GET, "/tokens", "admin"),
            (Method::GET, "/audit", "admin"),
            (Method::DELETE, "/tokens/1", "admin"),
            (Method::GET, "/webhooks", "admin"),
            (Method::POST, "/webhooks/1/resend", "admin"),
        ];
        for (method, path, expect) in cases {
            let roles = [
                (Role::Admin, "admin"),
                (Role::Operator, "operator"),
                (Role::Readonly, "readonly"),
                (Role::Cdr, "cdr"),
            ];
            let may = roles.into_iter().filter(|(role, _)| {
                let identity = Identity { role: *role, ..Identity::admin() };
                identity.may(&method, path)
            });
            let may: Vec<&str> = may.map(|(_, name)| name).collect();
            assert_eq!(may.join(" "), expect, "{method} {path}");
        }
    }
}
