//! `/api/v1/openapi.json`: OpenAPI 3.1, made from the code that serves it. It holds no secrets and
//! needs no token.

use super::problem::Problem;
use super::{
    Admin, audit, calls, cdrs, events, health, ladder, nodes, quality, registrations, reload,
    route, steer, tokens, users, webhooks,
};
use axum::routing::get;
use axum::{Json, Router};
use std::sync::Arc;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::{Operation, Parameter, ParameterBuilder, ParameterIn, PathItem};
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{
    ContentBuilder, OpenApi as Document, Ref, RefOr, Required, Response, ResponseBuilder, Schema,
};
use utoipa::{Modify, OpenApi};

pub(super) fn router() -> Router<Arc<Admin>> {
    Router::new().route("/api/v1/openapi.json", get(describe))
}

/// This document.
#[utoipa::path(get, path = "/api/v1/openapi.json", tag = "health", operation_id = "get_openapi",
    security(()), responses((status = 200, body = serde_json::Value)))]
async fn describe() -> Json<Document> {
    Json(document())
}

#[derive(OpenApi)]
#[openapi(
    info(title = "Holdfast", description = "A softswitch that containers cannot kill."),
    paths(
        users::list, users::create, users::one, users::change, users::remove, users::import::import,
        registrations::list, registrations::remove, registrations::check_sync,
        calls::list, calls::originate, calls::one, calls::hang_up,
        steer::hold, steer::unhold, steer::dtmf, steer::transfer, steer::move_media, steer::play,
        steer::stop,
        ladder::ladder, ladder::capture, quality::quality, route::test,
        cdrs::list, cdrs::one,
        events::stream,
        tokens::list, tokens::create, tokens::remove, audit::list,
        webhooks::list, webhooks::create, webhooks::one, webhooks::change, webhooks::remove,
        webhooks::deliveries, webhooks::resend,
        nodes::list, nodes::one, nodes::drain, nodes::undrain, reload::reload,
    ),
    components(schemas(Problem, users::import::OnConflict, events::Snapshot)),
    security(("token" = [])),
    modifiers(&Common),
)]
struct Api;

#[derive(OpenApi)]
#[openapi(paths(health::live, health::ready, health::health, health::metrics, describe))]
struct Root;

fn document() -> Document {
    let mut document = Root::openapi();
    let api = Api::openapi();
    document.info = api.info.clone();
    document.security = api.security.clone();
    document.nest("/api/v1", api)
}

/// Fields that stand only in the answer that made what is in them.
const SHOWN_ONCE: [&str; 3] = ["password", "secret", "token"];

/// What callers send: a field that is absent keeps its value, or takes the default.
const REQUEST_BODIES: [&str; 14] = [
    "CheckSyncRequest",
    "Digits",
    "DrainRequest",
    "LegChoice",
    "MediaChoice",
    "NewCall",
    "NewToken",
    "NewTransfer",
    "NewUser",
    "NewWebhook",
    "Playback",
    "ResendRequest",
    "UserChange",
    "WebhookChange",
];

/// What every operation of the API has: the token, and the ways in which any of them fails.
struct Common;

impl Modify for Common {
    fn modify(&self, document: &mut Document) {
        let token = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        document.components.get_or_insert_default().add_security_scheme("token", token);
        for (name, schema) in &mut document.components.get_or_insert_default().schemas {
            if let (false, RefOr::T(Schema::Object(object))) =
                (REQUEST_BODIES.contains(&name.as_str()), schema)
            {
                // A field of an answer is null, never absent, but for secrets.
                let always =
                    object.properties.keys().filter(|field| !SHOWN_ONCE.contains(&field.as_str()));
                object.required = always.cloned().collect();
            }
        }
        for (path, item) in &mut document.paths.paths {
            if let Some(operation) = item.post.as_mut().filter(|_| path != OWN) {
                add_idempotency(operation);
            }
            if TAGGED.contains(&path.as_str()) {
                add_tags(item);
            }
            if let Some(operation) = item.post.as_mut().filter(|_| MAKERS.contains(&path.as_str()))
            {
                add_tag(operation, "201");
            }
            let operations = [&mut item.get, &mut item.post, &mut item.patch, &mut item.delete];
            for operation in operations.into_iter().flatten() {
                add_failures(operation);
            }
        }
    }
}

/// What a process is asked at its own socket, past all that the API has.
const OWN: &str = "/reload";

/// What has an entity tag.
const TAGGED: [&str; 2] = ["/users/{extension}", "/webhooks/{id}"];
/// Where such a thing is made.
const MAKERS: [&str; 2] = ["/users", "/webhooks"];

fn header_parameter(name: &str, description: &str, most: usize) -> Parameter {
    let text = ObjectBuilder::new().schema_type(Type::String).min_length(Some(1));
    let text = text.max_length(Some(most)).pattern(Some("^[!-~]+$"));
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some(description))
        .schema(Some(text))
        .build()
}

fn add_idempotency(operation: &mut Operation) {
    let text = "A name for this request. Repeated within a day under the same name, by the same \
                token and to any node, it is not done again: the answer is the first one's, with \
                Idempotency-Replayed, without its body when that has more than 64 KiB. Another \
                request under it is 422; one that is under way is 409. What was answered by 408, \
                429 or a 503 that says that nothing was done is begun anew, as is one whose node \
                died over it, after a minute; after another 5xx nobody knows what was done, and \
                the repetition is 409.";
    let key = header_parameter("Idempotency-Key", text, 128);
    operation.parameters.get_or_insert_default().push(key);
    let responses = &mut operation.responses.responses;
    let unsure =
        "A request with this Idempotency-Key is under way, or nobody knows what came of it";
    let conflict = || RefOr::T(problem(unsure));
    responses.entry("409".to_owned()).or_insert_with(conflict);
    let other =
        || RefOr::T(problem("A field is wrong, or the Idempotency-Key was another request's"));
    responses.entry("422".to_owned()).or_insert_with(other);
}

fn add_tags(item: &mut PathItem) {
    for operation in [&mut item.get, &mut item.patch].into_iter().flatten() {
        add_tag(operation, "200");
    }
    for operation in [&mut item.patch, &mut item.delete].into_iter().flatten() {
        let text = "The ETag of what was seen: when it was changed since, nothing is done";
        let seen = header_parameter("If-Match", text, 1_024);
        operation.parameters.get_or_insert_default().push(seen);
        let changed = RefOr::T(problem("It was changed since"));
        operation.responses.responses.insert("412".to_owned(), changed);
    }
}

fn add_tag(operation: &mut Operation, status: &str) {
    let text = ObjectBuilder::new().schema_type(Type::String);
    let header = HeaderBuilder::new().schema(text);
    let header = header.description(Some("For If-Match: changes with what may be changed"));
    if let Some(RefOr::T(response)) = operation.responses.responses.get_mut(status) {
        response.headers.insert("ETag".to_owned(), header.build());
    }
}

fn add_failures(operation: &mut Operation) {
    let mut add = |status: &str, description: &str| {
        let responses = &mut operation.responses.responses;
        let problem = || RefOr::T(problem(description));
        responses.entry(status.to_owned()).or_insert_with(problem);
    };
    add("401", "No token, or a wrong one");
    add("403", "The token's role does not allow it");
    add("429", "Asked too often: see Retry-After");
    add("503", "The node starts, or the store or the worker do not answer");
    add("default", "Any other problem");
    if operation.parameters.is_some() {
        add("400", "The query, the path or a header cannot be read: see errors");
    }
    if operation.request_body.is_some() {
        add("400", "The body or the query cannot be read");
        add("413", "The body is too large");
        add("415", "The body is of another media type");
        add("422", "A field is wrong: see errors");
    }
    for (status, response) in &mut operation.responses.responses {
        if let (true, RefOr::T(response)) = (status.starts_with('4'), response) {
            let description = core::mem::take(&mut response.description);
            *response = problem(&description);
        }
    }
}

fn problem(description: &str) -> Response {
    let schema = Ref::from_schema_name("Problem");
    let content = ContentBuilder::new().schema(Some(schema)).build();
    let text = if description.is_empty() { "A problem (RFC 9457)" } else { description };
    ResponseBuilder::new().description(text).content("application/problem+json", content).build()
}
