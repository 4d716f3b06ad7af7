//! `/webhooks`: who is told of events by HTTP, and what was not taken.
//!
//! Invariants: a secret is shown once and sealed under the cluster's key where it is kept; what a receiver answers is
//! shown by its status alone; who may make a webhook is an administrator, for it makes this host speak to others.

mod courier;
mod round;

pub use courier::{Courier, CourierConfig};

use super::etag::{self, IfMatch};
use super::extract::{Body, Name, OptionalBody, Query};
use super::page::{Cursor, Limit, Page, PageQuery, cursor_text, number_cursor};
use super::problem::{FieldError, Problem};
use super::{Admin, Services};
use crate::ids::ClusterKey;
use crate::net::clock;
use crate::store::{Delivery, StoredWebhook};
use crate::views::Rfc3339;
use crate::views::webhook::{
    DeliveryState, DeliveryView, NewWebhook, ResendRequest, Resent, WebhookChange, WebhookView,
};
use axum::extract::Path;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine as _;
use round::Kept;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::IntoParams;

/// Webhooks of a cluster.
const WEBHOOKS: usize = 20;
/// Characters of an address.
const URL: usize = 2_048;
/// Characters of a description.
const DESCRIPTION: usize = 128;
/// Types that a webhook may list, and characters of one.
const TYPES: usize = 32;
const TYPE: usize = 64;
/// Of a change, when others change the same at the same time.
const TRIES: u32 = 5;
/// What secrets are sealed for.
const PURPOSE: &str = "webhook secret";

/// A webhook as it is kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Document {
    url: String,
    types: Vec<String>,
    description: String,
    enabled: bool,
    created_at: Rfc3339,
}

impl Document {
    /// `None`: a later release wrote it in another form.
    fn read(stored: &StoredWebhook) -> Option<Self> {
        serde_json::from_str(&stored.document).ok()
    }

    fn text(&self) -> String {
        serde_json::to_string(self).expect("a webhook is plain data")
    }

    fn check(&self, services: &Services) -> Result<(), Problem> {
        let mut wrong = Vec::new();
        let is_plain = |text: &str, most: usize| {
            text.chars().count() <= most && !text.chars().any(char::is_control)
        };
        if !is_plain(&self.url, URL) {
            wrong.push(FieldError::new("url", "at most 2048 characters, no control characters"));
        } else if let Err(why) = services.http.check(&self.url) {
            wrong.push(FieldError::new("url", why));
        }
        if !is_plain(&self.description, DESCRIPTION) {
            let detail = "at most 128 characters, no control characters";
            wrong.push(FieldError::new("description", detail));
        }
        let is_type = |text: &String| {
            let is_word = |c: char| c.is_ascii_lowercase() || "._*".contains(c);
            (1..=TYPE).contains(&text.len()) && text.chars().all(is_word)
        };
        if self.types.len() > TYPES || !self.types.iter().all(is_type) {
            let detail = "at most 32 types of events, such as call.ended or call.*";
            wrong.push(FieldError::new("types", detail));
        }
        if wrong.is_empty() { Ok(()) } else { Err(Problem::fields(wrong)) }
    }
}

fn open_secret(key: &ClusterKey, hook: &StoredWebhook) -> Option<Vec<u8>> {
    key.open(PURPOSE, hook.id.as_bytes(), &hook.secret)
}

pub(super) fn router() -> Router<Arc<Admin>> {
    Router::new()
        .route("/webhooks", get(list).post(create))
        .route("/webhooks/{id}", get(one).patch(change).delete(remove))
        .route("/webhooks/{id}/deliveries", get(deliveries))
        .route("/webhooks/{id}/resend", post(resend))
}

/// All webhooks.
#[utoipa::path(get, path = "/webhooks", tag = "webhooks", operation_id = "list_webhooks",
    params(PageQuery), responses((status = 200, body = Page<WebhookView>)))]
pub(super) async fn list(
    services: Services,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<WebhookView>>, Problem> {
    let hooks = services.store.webhooks().await?;
    let views = hooks.iter().filter_map(|hook| Some(view(hook, &Document::read(hook)?, None)));
    Ok(Json(Page::asked(views.collect(), |hook: &WebhookView| hook.id.clone(), &query)))
}

/// A new webhook: told of what happens from now on. The secret is in this answer and nowhere else.
///
/// Each event is a POST of the JSON that `/events` gives. Headers `webhook-id` (the event's id), `webhook-timestamp`
/// and `webhook-signature` are those of Standard Webhooks 1.0: `v1,` and the base64 of HMAC-SHA256 over
/// `id.timestamp.body`, with the bytes that the secret has behind `whsec_` in base64. 2xx within ten seconds takes an
/// event; redirects are not followed. Else it is tried again after 1 s, 2 s, 4 s and so on up to 10 min, 20 times in
/// about two hours. Events of one call come in order. An event may come twice: `webhook-id` is then the same.
#[utoipa::path(post, path = "/webhooks", tag = "webhooks", operation_id = "create_webhook",
    request_body = NewWebhook,
    responses((status = 201, body = WebhookView),
        (status = 409, body = Problem, description = "There are 20 already")))]
pub(super) async fn create(
    services: Services,
    Body(new): Body<NewWebhook>,
) -> Result<impl IntoResponse, Problem> {
    let document = Document {
        url: new.url,
        types: new.types,
        description: new.description,
        enabled: new.enabled.unwrap_or(true),
        created_at: Rfc3339(clock::now()),
    };
    document.check(&services)?;
    if services.store.webhooks().await?.len() >= WEBHOOKS {
        let detail = format!("there are {WEBHOOKS} webhooks already");
        return Err(Problem::new(StatusCode::CONFLICT, detail));
    }
    let secret: [u8; 24] = rand::random();
    let id = uuid::Uuid::now_v7().to_string();
    let hook = StoredWebhook {
        secret: services.key.seal(PURPOSE, id.as_bytes(), secret.to_vec()),
        id,
        document: document.text(),
        cursor: services.store.last_event().await?,
        owed: 0,
        dead: 0,
    };
    services.store.add_webhook(&hook).await?;
    let shown = format!("whsec_{}", base64::engine::general_purpose::STANDARD.encode(secret));
    let location = format!("/api/v1/webhooks/{}", hook.id);
    let tag = etag::header(&services.key, &hook.document);
    let view = view(&hook, &document, Some(shown));
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], tag, Json(view)))
}

/// One webhook.
#[utoipa::path(get, path = "/webhooks/{id}", tag = "webhooks", operation_id = "get_webhook",
    params(("id" = String, Path)),
    responses((status = 200, body = WebhookView), (status = 404, body = Problem)))]
pub(super) async fn one(services: Services, Name(id): Name) -> Result<impl IntoResponse, Problem> {
    let (hook, document) = find(&services, &id).await?;
    let tag = etag::header(&services.key, &hook.document);
    Ok((tag, Json(view(&hook, &document, None))))
}

/// Changes a webhook; it counts within two seconds. With If-Match only what was seen.
#[utoipa::path(patch, path = "/webhooks/{id}", tag = "webhooks", operation_id = "change_webhook",
    params(("id" = String, Path)), request_body = WebhookChange,
    responses((status = 200, body = WebhookView), (status = 404, body = Problem)))]
pub(super) async fn change(
    services: Services,
    Name(id): Name,
    seen: IfMatch,
    Body(change): Body<WebhookChange>,
) -> Result<impl IntoResponse, Problem> {
    for _ in 0..TRIES {
        let (hook, before) = find(&services, &id).await?;
        seen.check(&services.key, &hook.document)?;
        let change = change.clone();
        let document = Document {
            url: change.url.unwrap_or(before.url),
            types: change.types.map_or(before.types, Option::unwrap_or_default),
            description: change.description.map_or(before.description, Option::unwrap_or_default),
            enabled: change.enabled.unwrap_or(before.enabled),
            created_at: before.created_at,
        };
        document.check(&services)?;
        let cursor = match document.enabled && !before.enabled {
            true => Some(services.store.last_event().await?),
            false => None,
        };
        let (text, was) = (document.text(), Some(hook.document.as_str()));
        // Another change may have come between: neither is lost.
        if services.store.change_webhook(&id, &text, cursor, was).await? {
            let tag = etag::header(&services.key, &text);
            return Ok((tag, Json(view(&hook, &document, None))));
        }
    }
    Err(Problem::unavailable("others change it all the time"))
}

/// Removes a webhook and what it is owed; with If-Match only what was seen.
#[utoipa::path(delete, path = "/webhooks/{id}", tag = "webhooks", operation_id = "remove_webhook",
    params(("id" = String, Path)),
    responses((status = 204), (status = 404, body = Problem)))]
pub(super) async fn remove(
    services: Services,
    Name(id): Name,
    seen: IfMatch,
) -> Result<StatusCode, Problem> {
    // One that this release cannot read can be removed all the same.
    let text = match seen.is_asked() {
        true => Some(find(&services, &id).await?.0.document),
        false => None,
    };
    if let Some(text) = &text {
        seen.check(&services.key, text)?;
    }
    match is_id(&id) && services.store.remove_webhook(&id, text.as_deref()).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false if text.is_some() => Err(etag::changed()),
        false => Err(no_webhook()),
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct DeliveriesQuery {
    /// Those that are tried again, or those that were given up (when nothing is said).
    state: Option<DeliveryState>,
    /// Items a page.
    #[param(value_type = Option<u16>, minimum = 1, maximum = 1000)]
    limit: Option<Limit>,
    /// `next_cursor` of the page before.
    #[param(value_type = Option<String>, pattern = "^([0-9a-f]{2})*$", max_length = 1024)]
    cursor: Option<Cursor>,
}

/// Events that the receiver did not take, in their order. Of those given up the last 10,000 are kept.
#[utoipa::path(get, path = "/webhooks/{id}/deliveries", tag = "webhooks",
    operation_id = "list_deliveries", params(("id" = String, Path), DeliveriesQuery),
    responses((status = 200, body = Page<DeliveryView>), (status = 404, body = Problem)))]
pub(super) async fn deliveries(
    services: Services,
    Path(id): Path<String>,
    Query(query): Query<DeliveriesQuery>,
) -> Result<Json<Page<DeliveryView>>, Problem> {
    let (hook, _) = find(&services, &id).await?;
    let limit = query.limit.unwrap_or_default().get();
    let after = number_cursor(query.cursor.as_ref())?.unwrap_or(0);
    let is_dead = query.state != Some(DeliveryState::Owed);
    let most = u32::try_from(limit + 1).unwrap_or(u32::MAX);
    let mut rows = services.store.deliveries(&hook.id, is_dead, after, most).await?;
    let has_more = rows.len() > limit;
    rows.truncate(limit);
    let last = rows.last().filter(|_| has_more);
    let next_cursor = last.map(|row| cursor_text(&row.event.to_string()));
    let items = rows.iter().filter_map(delivery_view);
    Ok(Json(Page { items: items.collect(), next_cursor }))
}

/// Sends again what was given up: one event, or all. They go before what is owed of later events.
#[utoipa::path(post, path = "/webhooks/{id}/resend", tag = "webhooks",
    operation_id = "resend_deliveries", params(("id" = String, Path)),
    request_body = Option<ResendRequest>,
    responses((status = 202, body = Resent), (status = 404, body = Problem)))]
pub(super) async fn resend(
    services: Services,
    Name(id): Name,
    OptionalBody(wish): OptionalBody<ResendRequest>,
) -> Result<(StatusCode, Json<Resent>), Problem> {
    let (hook, _) = find(&services, &id).await?;
    let event = wish.event_id;
    let events = services.store.resend_deliveries(&hook.id, event, clock::now()).await?;
    if events == 0 && event.is_some() {
        return Err(Problem::not_found("that event was not given up"));
    }
    Ok((StatusCode::ACCEPTED, Json(Resent { events })))
}

fn is_id(text: &str) -> bool {
    text.parse::<uuid::Uuid>().is_ok()
}

async fn find(services: &Services, id: &str) -> Result<(StoredWebhook, Document), Problem> {
    let hooks = services.store.webhooks().await?;
    let hook = hooks.into_iter().find(|hook| hook.id == id).ok_or_else(no_webhook)?;
    let document = Document::read(&hook).ok_or_else(|| {
        Problem::unavailable("that webhook is of a form that this release does not know")
    })?;
    Ok((hook, document))
}

fn no_webhook() -> Problem {
    Problem::not_found("there is no such webhook")
}

fn view(hook: &StoredWebhook, document: &Document, secret: Option<String>) -> WebhookView {
    WebhookView {
        id: hook.id.clone(),
        url: document.url.clone(),
        types: document.types.clone(),
        description: document.description.clone(),
        enabled: document.enabled,
        created_at: document.created_at,
        owed: hook.owed,
        dead: hook.dead,
        secret,
    }
}

fn delivery_view(row: &Delivery) -> Option<DeliveryView> {
    let kept: Kept = serde_json::from_str(&row.document).ok()?;
    Some(DeliveryView {
        event_id: row.event,
        state: if row.due_at.is_some() { DeliveryState::Owed } else { DeliveryState::Dead },
        attempts: kept.attempts,
        tried_at: kept.tried_at,
        due_at: row.due_at.map(Rfc3339),
        error: kept.error,
        event: kept.event,
    })
}
