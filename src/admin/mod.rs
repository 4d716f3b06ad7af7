//! The REST API: a file per resource with its own router, problems (RFC 9457) for everything that
//! goes wrong.
//!
//! Invariants: a change goes to the store first and then to the worker; whatever the worker or the
//! store do not answer in time is 503; nothing here decides about calls. Names and fields are those
//! of `contract.md`.

mod audit;
mod authorize;
mod calls;
mod cdrs;
mod console;
mod etag;
mod events;
mod extract;
pub mod health;
mod idempotency;
mod ladder;
mod nodes;
mod openapi;
mod page;
mod problem;
mod quality;
mod rates;
mod registrations;
mod reload;
mod route;
mod server;
mod steer;
mod tokens;
pub mod traces;
pub mod users;
pub mod webhooks;

pub use health::Phase;
pub use reload::{Reload, SettingChange, router as reload_router};
pub use server::{Server, bind_next_free, bind_own, bind_shared};

use crate::ids::ClusterKey;
use crate::net::web::HttpClient;
use crate::operator::Operator;
use crate::store::Store;
use crate::telemetry::Telemetry;
use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use problem::Problem;
use sha2::{Digest, Sha256};
use std::sync::{Arc, OnceLock};
use tokio::sync::watch;

/// Seconds after which a node that is starting may be asked again: between two tries to reach the database, at most.
const STARTING: u64 = 5;

/// What the API stands on; there as soon as the store is.
#[derive(Clone, Debug)]
pub struct Services {
    /// Users, bindings, CDRs.
    pub store: Store,
    /// Live calls and nodes.
    pub operator: Operator,
    /// Digest realm: passwords are hashed for it.
    pub realm: String,
    /// What is kept sealed is sealed under it.
    pub key: ClusterKey,
    /// How receivers of events are reached.
    pub http: HttpClient,
}

/// What all resources share.
#[derive(Debug)]
pub struct Admin {
    /// This node.
    pub node: String,
    /// signaling, media or both.
    pub mode: &'static str,
    token_hash: [u8; 32],
    telemetry: Telemetry,
    audit: Arc<audit::Log>,
    events: Arc<events::Log>,
    tokens: tokens::Known,
    gate: authorize::Gate,
    services: OnceLock<Services>,
    phase: watch::Sender<Phase>,
}

impl Admin {
    /// A node that is starting.
    pub fn new(node: &str, mode: &'static str, token: &str, telemetry: Telemetry) -> Arc<Self> {
        telemetry.name(node, mode, env!("CARGO_PKG_VERSION"));
        let (phase, _) = watch::channel(Phase::Starting("it has just begun".to_owned()));
        Arc::new(Self {
            node: node.to_owned(),
            mode,
            token_hash: Sha256::digest(token).into(),
            telemetry,
            audit: Arc::default(),
            events: Arc::default(),
            tokens: tokens::Known::default(),
            gate: authorize::Gate::default(),
            services: OnceLock::new(),
            phase,
        })
    }

    /// The store is there and the worker runs. Only the first counts.
    pub fn set_services(&self, services: Services) {
        let _ = self.services.set(services);
    }

    /// The log of events, followed in this runtime from now on while somebody watches.
    pub fn events(&self) -> Arc<events::Log> {
        self.events.follow_here();
        Arc::clone(&self.events)
    }

    /// What `/ready` says beside the worker.
    pub fn set_phase(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }

    fn services(&self) -> Result<&Services, Problem> {
        self.services.get().ok_or_else(|| match &*self.phase.borrow() {
            Phase::Starting(reason) => {
                Problem::unavailable(format!("the node is starting: {reason}")).after(STARTING)
            }
            Phase::Running | Phase::Draining => Problem::unavailable("the node is starting"),
        })
    }
}

/// Everything: the API under `/api/v1`, health at the root.
pub fn router(admin: &Arc<Admin>) -> Router {
    let with_deadline = users::router()
        .merge(registrations::router())
        .merge(calls::router())
        .merge(steer::router())
        .merge(ladder::router())
        .merge(quality::router())
        .merge(route::router())
        .merge(cdrs::router())
        .merge(nodes::router())
        .merge(events::router())
        .merge(tokens::router())
        .merge(audit::router())
        .merge(webhooks::router())
        .layer(from_fn(extract::deadline));
    let api = with_deadline
        .merge(users::import::router())
        .fallback(not_found)
        .method_not_allowed_fallback(not_allowed)
        .layer(from_fn_with_state(admin.clone(), idempotency::once))
        .layer(from_fn_with_state(admin.clone(), authorize::authorize));
    health::router()
        .merge(openapi::router())
        .merge(console::router())
        .nest("/api/v1", api)
        .fallback(not_found)
        .method_not_allowed_fallback(not_allowed)
        .with_state(admin.clone())
}

/// Health alone: a media node, and the socket that is each process's own.
pub fn health_router(admin: &Arc<Admin>) -> Router {
    health::router()
        .fallback(not_found)
        .method_not_allowed_fallback(not_allowed)
        .with_state(admin.clone())
}

async fn not_found() -> Problem {
    Problem::not_found("there is nothing at this address")
}

async fn not_allowed() -> Problem {
    Problem::new(axum::http::StatusCode::METHOD_NOT_ALLOWED, "see the Allow header")
}
