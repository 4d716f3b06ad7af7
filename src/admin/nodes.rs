//! `/nodes`: the processes of the cluster, and their drain.

use super::extract::{Name, OptionalBody, Query};
use super::page::{Page, PageQuery};
use super::problem::Problem;
use super::{Admin, Services};
use crate::operator::Command;
use crate::views::NodeView;
use axum::body::Bytes;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::ToSchema;

pub(super) fn router() -> Router<Arc<Admin>> {
    Router::new()
        .route("/nodes", get(list))
        .route("/nodes/{name}", get(one))
        .route("/nodes/{name}/drain", post(drain))
        .route("/nodes/{name}/undrain", post(undrain))
}

/// Every node that is known.
#[utoipa::path(get, path = "/nodes", tag = "nodes",
    operation_id = "list_nodes", params(PageQuery),
    responses((status = 200, body = Page<NodeView>)))]
pub(super) async fn list(
    services: Services,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<NodeView>>, Problem> {
    let all = services.operator.ask(Command::Nodes).await?;
    Ok(Json(Page::asked(all, |node| node.name.clone(), &query)))
}

/// One node.
#[utoipa::path(get, path = "/nodes/{name}", tag = "nodes",
    operation_id = "get_node", params(("name" = String, Path)),
    responses((status = 200, body = NodeView), (status = 404, body = Problem)))]
pub(super) async fn one(services: Services, Name(name): Name) -> Result<Json<NodeView>, Problem> {
    let all = services.operator.ask(Command::Nodes).await?;
    all.into_iter().find(|node| node.name == name).map(Json).ok_or_else(no_node)
}

/// How to drain.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DrainRequest {
    /// Of a signaling node: its calls are ended, not handed over; `end_cause` of their CDRs is `drain`.
    #[serde(default)]
    end_calls: bool,
}

/// What is being changed.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Draining {
    /// The node.
    name: String,
    /// Drained, or taken back.
    draining: bool,
}

/// Takes no new calls; a signaling node hands its calls to the others at once, and stays.
#[utoipa::path(post, path = "/nodes/{name}/drain", tag = "nodes",
    operation_id = "drain_node", params(("name" = String, Path)),
    request_body = Option<DrainRequest>,
    responses((status = 202, body = Draining), (status = 404, body = Problem)))]
pub(super) async fn drain(
    services: Services,
    Name(name): Name,
    OptionalBody(request): OptionalBody<DrainRequest>,
) -> Result<(StatusCode, Json<Draining>), Problem> {
    set_drain(&services, name, true, request.end_calls).await
}

/// Takes new calls again.
#[utoipa::path(post, path = "/nodes/{name}/undrain", tag = "nodes",
    operation_id = "undrain_node", params(("name" = String, Path)),
    responses((status = 202, body = Draining), (status = 404, body = Problem)))]
pub(super) async fn undrain(
    services: Services,
    Name(name): Name,
    // Read, though it says nothing: who still writes it finds a closed connection else.
    _: Bytes,
) -> Result<(StatusCode, Json<Draining>), Problem> {
    set_drain(&services, name, false, false).await
}

async fn set_drain(
    services: &Services,
    name: String,
    drain: bool,
    end_calls: bool,
) -> Result<(StatusCode, Json<Draining>), Problem> {
    let node = name.clone();
    let known =
        services.operator.ask(|answer| Command::Drain { node, drain, end_calls, answer }).await?;
    if known {
        return Ok((StatusCode::ACCEPTED, Json(Draining { name, draining: drain })));
    }
    Err(no_node())
}

fn no_node() -> Problem {
    Problem::not_found("there is no such node")
}
