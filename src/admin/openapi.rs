//! `/api/v1/openapi.json`: OpenAPI 3.1, made from the code that serves it. It holds no secrets and
//! needs no token.

use super::problem::Problem;
use super::{
    Admin, calls, cdrs, events, health, ladder, nodes, registrations, steer, tokens, users,
    webhooks,
};
use axum::routing::get;
use axum::{Json, Router};
use std::sync::Arc;
use utoipa::openapi::path::Operation;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{
    ContentBuilder, OpenApi as Document, Ref, RefOr, Response, ResponseBuilder, Schema,
};
use utoipa::{Modify, OpenApi};

pub(super) fn router() -> Router<Arc<Admin>> {
    Router::new().route("/api/v1/openapi.json", get(|| async { Json(document()) }))
}

#[derive(OpenApi)]
#[openapi(
    info(title = "Holdfast", description = "A softswitch that containers cannot kill."),
    paths(
        users::list, users::create, users::one, users::change, users::remove, users::import::import,
        registrations::list, registrations::remove,
        calls::list, calls::originate, calls::one, calls::hang_up, steer::hold, steer::unhold,
        ladder::ladder, ladder::capture,
        cdrs::list, cdrs::one,
        events::stream,
        tokens::list, tokens::create, tokens::remove, tokens::audit,
        webhooks::list, webhooks::create, webhooks::one, webhooks::change, webhooks::remove,
        webhooks::deliveries, webhooks::resend,
        nodes::list, nodes::one, nodes::drain, nodes::undrain,
    ),
    components(schemas(Problem, users::import::OnConflict, events::Snapshot)),
    security(("token" = [])),
    modifiers(&Common),
)]
struct Api;

#[derive(OpenApi)]
#[openapi(paths(health::live, health::ready, health::health, health::metrics))]
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
const REQUEST_BODIES: [&str; 9] = [
    "DrainRequest",
    "LegChoice",
    "NewCall",
    "NewToken",
    "NewUser",
    "NewWebhook",
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
        for item in document.paths.paths.values_mut() {
            let operations = [&mut item.get, &mut item.post, &mut item.patch, &mut item.delete];
            for operation in operations.into_iter().flatten() {
                add_failures(operation);
            }
        }
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
    add("503", "The node starts, or the store or the worker do not answer");
    add("default", "Any other problem");
    if operation.parameters.is_some() {
        add("400", "The query or the path cannot be read");
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
