//! `/users`: who may register and call.
//!
//! Invariant: a password is stored only as what digest needs of it, and shown only in the answer
//! that set it.

pub(super) mod import;
mod rules;

pub use rules::generate_password;
pub(super) use rules::{IS_EXTENSION, is_extension};

use super::etag::{self, IfMatch};
use super::extract::{Body, Name, Query};
use super::page::{Page, PageQuery, cursor_text};
use super::problem::Problem;
use super::{Admin, Services};
use crate::directory::User;
use crate::net::clock;
use crate::operator::Command;
use crate::sip::digest::Ha1;
use crate::store::{KeptUser, Store};
use crate::views::{NewUser, Rfc3339, UserChange, UserView};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use core::time::Duration;
use std::collections::HashMap;
use std::sync::Arc;

/// Of a change, when others change the same at the same time.
const TRIES: u32 = 5;

pub(super) fn router() -> Router<Arc<Admin>> {
    Router::new()
        .route("/users", get(list).post(create))
        .route("/users/{extension}", get(one).patch(change).delete(remove))
}

/// All users, by extension.
#[utoipa::path(get, path = "/users", tag = "users",
    operation_id = "list_users", params(PageQuery),
    responses((status = 200, body = Page<UserView>)))]
pub(super) async fn list(
    services: Services,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<UserView>>, Problem> {
    let limit = query.limit.unwrap_or_default().get();
    let after = query.cursor.as_ref().map_or("", |cursor| &cursor.0);
    // One more tells whether there is a next page.
    let mut users = services.store.users_after(after, limit + 1).await?;
    let has_more = users.len() > limit;
    users.truncate(limit);
    let now = clock::now();
    let mut contacts: HashMap<String, u32> = HashMap::new();
    // No more users of the page have phones than it has users; some that left may have rows still.
    for binding in services.store.bindings_after(after, 2 * limit).await? {
        if binding.expires_at > now {
            *contacts.entry(binding.extension).or_default() += 1;
        }
    }
    let last = users.last().filter(|_| has_more);
    let next_cursor = last.map(|user| cursor_text(&user.extension));
    let views = users.into_iter().map(|user| {
        let count = contacts.get(&user.extension).copied().unwrap_or_default();
        view(user, count, None)
    });
    Ok(Json(Page { items: views.collect(), next_cursor }))
}

/// A new user. Without a password it gets a strong one.
#[utoipa::path(post, path = "/users", tag = "users",
    operation_id = "create_user", request_body = NewUser,
    responses((status = 201, body = UserView), (status = 409, body = Problem)))]
pub(super) async fn create(
    services: Services,
    Body(new): Body<NewUser>,
) -> Result<impl IntoResponse, Problem> {
    let password = new.password.clone().unwrap_or_else(generate_password);
    let user = new_user(new, &password, &services.realm);
    let mut errors = rules::check_user(&user);
    errors.extend(rules::check_extension(&user.extension).err());
    errors.extend(rules::check_password(&user.extension, &password).err());
    if !errors.is_empty() {
        return Err(Problem::fields(errors));
    }
    services.store.create_user(&user).await?;
    tell(&services, Command::UserChanged(Box::new(user.clone()))).await;
    let location = format!("/api/v1/users/{}", user.extension);
    let tag = etag::header(&services.key, &Store::user_text(&user));
    let view = view(user, 0, Some(password));
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], tag, Json(view)))
}

/// One user.
#[utoipa::path(get, path = "/users/{extension}", tag = "users",
    operation_id = "get_user",
    params(("extension" = String, Path)),
    responses((status = 200, body = UserView), (status = 404, body = Problem)))]
pub(super) async fn one(
    services: Services,
    Name(extension): Name,
) -> Result<impl IntoResponse, Problem> {
    let KeptUser { user, text } = find(&services, &extension).await?;
    let count = contact_count(&services, &extension).await?;
    Ok((etag::header(&services.key, &text), Json(view(user, count, None))))
}

/// Changes the fields that are given; with If-Match only what was seen.
#[utoipa::path(patch, path = "/users/{extension}", tag = "users",
    operation_id = "change_user",
    params(("extension" = String, Path)), request_body = UserChange,
    responses((status = 200, body = UserView), (status = 404, body = Problem)))]
pub(super) async fn change(
    services: Services,
    Name(extension): Name,
    seen: IfMatch,
    Body(change): Body<UserChange>,
) -> Result<impl IntoResponse, Problem> {
    let password = change.password.clone();
    let bad_password =
        password.as_ref().and_then(|text| rules::check_password(&extension, text).err());
    for _ in 0..TRIES {
        let KeptUser { mut user, text } = find(&services, &extension).await?;
        seen.check(&services.key, &text)?;
        let before = user.clone();
        apply(&mut user, change.clone(), &services.realm);
        let mut errors = rules::check_user(&user);
        errors.extend(bad_password.clone());
        if !errors.is_empty() {
            return Err(Problem::fields(errors));
        }
        if user == before {
            let count = contact_count(&services, &extension).await?;
            return Ok((etag::header(&services.key, &text), Json(view(user, count, password))));
        }
        user.updated_at = clock::now();
        // Another change may have come between: neither is lost.
        if services.store.update_user(&user, Some(&text)).await? {
            tell(&services, Command::UserChanged(Box::new(user.clone()))).await;
            let count = contact_count(&services, &extension).await?;
            let tag = etag::header(&services.key, &Store::user_text(&user));
            return Ok((tag, Json(view(user, count, password))));
        }
    }
    Err(Problem::unavailable("others change it all the time"))
}

/// Removes a user and its registrations; with If-Match only what was seen.
#[utoipa::path(delete, path = "/users/{extension}", tag = "users",
    operation_id = "remove_user",
    params(("extension" = String, Path)),
    responses((status = 204), (status = 404, body = Problem)))]
pub(super) async fn remove(
    services: Services,
    Name(extension): Name,
    seen: IfMatch,
) -> Result<StatusCode, Problem> {
    let text = find(&services, &extension).await?.text;
    seen.check(&services.key, &text)?;
    let text = seen.is_asked().then_some(text.as_str());
    if !services.store.delete_user(&extension, text).await? {
        return Err(if text.is_some() { etag::changed() } else { no_user(&extension) });
    }
    tell(&services, Command::UserRemoved(extension)).await;
    Ok(StatusCode::NO_CONTENT)
}

/// The store has it already, and every node reads the store's changes: a worker that is busy is
/// told by that.
async fn tell(services: &Services, command: Command) {
    let told = services.operator.tell(command);
    if !matches!(tokio::time::timeout(Duration::from_secs(1), told).await, Ok(Ok(()))) {
        tracing::debug!("the worker was not told of a changed user");
    }
}

async fn find(services: &Services, extension: &str) -> Result<KeptUser, Problem> {
    if !is_extension(extension) {
        return Err(no_user(extension));
    }
    services.store.kept_user(extension).await?.ok_or_else(|| no_user(extension))
}

fn no_user(extension: &str) -> Problem {
    Problem::not_found(format!("there is no user {extension}"))
}

async fn contact_count(services: &Services, extension: &str) -> Result<u32, Problem> {
    let now = clock::now();
    let bindings = services.store.bindings_of(extension).await?;
    let live = bindings.iter().filter(|binding| binding.expires_at > now).count();
    Ok(u32::try_from(live).unwrap_or(u32::MAX))
}

/// A user with a password; also for the first start.
pub fn new_user(new: NewUser, password: &str, realm: &str) -> User {
    let now = clock::now();
    User {
        ha1: Ha1::new(&new.extension, realm, password),
        extension: new.extension,
        display_name: new.display_name,
        enabled: new.enabled.unwrap_or(true),
        max_contacts: new.max_contacts,
        max_calls: new.max_calls,
        ring_timeout_ms: new.ring_timeout_ms,
        codecs: new.codecs,
        srtp: new.srtp,
        created_at: now,
        updated_at: now,
    }
}

fn apply(user: &mut User, change: UserChange, realm: &str) {
    if let Some(password) = change.password {
        user.ha1 = Ha1::new(&user.extension, realm, &password);
    }
    if let Some(name) = change.display_name {
        user.display_name = name.unwrap_or_default();
    }
    user.enabled = change.enabled.unwrap_or(user.enabled);
    user.max_contacts = change.max_contacts.unwrap_or(user.max_contacts);
    user.max_calls = change.max_calls.unwrap_or(user.max_calls);
    user.ring_timeout_ms = change.ring_timeout_ms.unwrap_or(user.ring_timeout_ms);
    if let Some(codecs) = change.codecs {
        user.codecs = codecs.unwrap_or_default();
    }
    user.srtp = change.srtp.map_or(user.srtp, Option::unwrap_or_default);
}

fn view(user: User, contact_count: u32, password: Option<String>) -> UserView {
    UserView {
        extension: user.extension,
        display_name: user.display_name,
        enabled: user.enabled,
        max_contacts: user.max_contacts,
        max_calls: user.max_calls,
        ring_timeout_ms: user.ring_timeout_ms,
        codecs: user.codecs,
        srtp: user.srtp,
        registered: contact_count > 0,
        contact_count,
        password,
        created_at: Rfc3339(user.created_at),
        updated_at: Rfc3339(user.updated_at),
    }
}
