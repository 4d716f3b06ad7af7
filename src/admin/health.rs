//! `/live /ready /health /metrics` at the root, without a token: for balancers, containers and
//! Prometheus.
//!
//! Invariant: nothing personal is told here.

use super::Admin;
use crate::net::clock;
use crate::operator::{Command, Readiness};
use crate::telemetry::NodeGauges;
use crate::views::NodeView;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use core::time::Duration;
use serde::Serialize;
use std::sync::Arc;
use utoipa::ToSchema;

/// Health probes are asked every second or so; a worker that takes longer is not well.
const PROBE_DEADLINE: Duration = Duration::from_secs(2);

/// What the process as a whole does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It waits for something: what.
    Starting(String),
    /// The halves run; they say how they are.
    Running,
    /// It was told to stop.
    Draining,
}

pub(super) fn router() -> Router<Arc<Admin>> {
    Router::new()
        .route("/live", get(live))
        .route("/ready", get(ready))
        .route("/health", get(health))
        .route("/metrics", get(metrics))
}

/// Answers of probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Status {
    /// The process runs.
    Live,
    /// It takes calls.
    Ready,
    /// It takes calls, but something is wrong.
    Degraded,
    /// It does not take calls yet.
    Starting,
    /// It takes no new calls.
    Draining,
}

/// Whether the node takes calls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(super) struct Ready {
    status: Status,
    /// Why it is not ready.
    reasons: Vec<String>,
}

impl Ready {
    fn new(status: Status, reasons: Vec<String>) -> Self {
        Self { status, reasons }
    }

    fn code(&self) -> StatusCode {
        match self.status {
            Status::Live | Status::Ready | Status::Degraded => StatusCode::OK,
            Status::Starting | Status::Draining => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// The same, and who it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(super) struct Health {
    status: Status,
    reasons: Vec<String>,
    node: String,
    mode: &'static str,
    version: &'static str,
}

/// The process runs.
#[utoipa::path(get, path = "/live", tag = "health", security(()),
    responses((status = 200, body = Ready)))]
pub(super) async fn live() -> Json<Ready> {
    Json(Ready::new(Status::Live, Vec::new()))
}

/// The node takes calls.
#[utoipa::path(get, path = "/ready", tag = "health", security(()),
    responses((status = 200, body = Ready), (status = 503, body = Ready)))]
pub(super) async fn ready(State(admin): State<Arc<Admin>>) -> impl IntoResponse {
    let ready = readiness(&admin).await;
    (ready.code(), Json(ready))
}

/// The same, and who it is.
#[utoipa::path(get, path = "/health", tag = "health", security(()),
    responses((status = 200, body = Health), (status = 503, body = Health)))]
pub(super) async fn health(State(admin): State<Arc<Admin>>) -> impl IntoResponse {
    let ready = readiness(&admin).await;
    let health = Health {
        status: ready.status,
        reasons: ready.reasons.clone(),
        node: admin.node.clone(),
        mode: admin.mode,
        version: env!("CARGO_PKG_VERSION"),
    };
    (ready.code(), Json(health))
}

/// Metrics for Prometheus.
#[utoipa::path(get, path = "/metrics", tag = "health", security(()),
    responses((status = 200, body = String,
        content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8")))]
pub(super) async fn metrics(State(admin): State<Arc<Admin>>) -> impl IntoResponse {
    let ready = readiness(&admin).await;
    let nodes = nodes(&admin).await.unwrap_or_default();
    let node = nodes.iter().find(|node| node.name == admin.node);
    admin.telemetry.set_nodes(&admin.node, &nodes, clock::now());
    admin.telemetry.set_gauges(&NodeGauges {
        ready: ready.code() == StatusCode::OK,
        degraded: ready.status == Status::Degraded,
        registrations: node.and_then(|node| node.registrations),
    });
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], admin.telemetry.metrics_text())
}

async fn nodes(admin: &Admin) -> Option<Vec<NodeView>> {
    let services = admin.services.get()?;
    let asked = services.operator.ask(Command::Nodes);
    tokio::time::timeout(PROBE_DEADLINE, asked).await.ok()?.ok()
}

async fn readiness(admin: &Admin) -> Ready {
    let phase = admin.phase.borrow().clone();
    match phase {
        Phase::Starting(reason) => return Ready::new(Status::Starting, vec![reason]),
        Phase::Draining => return Ready::new(Status::Draining, Vec::new()),
        Phase::Running => {}
    }
    // A media node has no worker that speaks the operator's language.
    let Some(services) = admin.services.get() else {
        return Ready::new(Status::Ready, Vec::new());
    };
    let asked = services.operator.ask(Command::Readiness);
    match tokio::time::timeout(PROBE_DEADLINE, asked).await {
        Ok(Ok(Readiness::Ready)) => Ready::new(Status::Ready, Vec::new()),
        Ok(Ok(Readiness::Degraded(reasons))) => Ready::new(Status::Degraded, reasons),
        Ok(Ok(Readiness::Starting(reasons))) => Ready::new(Status::Starting, reasons),
        Ok(Ok(Readiness::Draining)) => Ready::new(Status::Draining, Vec::new()),
        Ok(Err(_)) | Err(_) => {
            let reason = "the signaling worker does not answer".to_owned();
            Ready::new(Status::Starting, vec![reason])
        }
    }
}
