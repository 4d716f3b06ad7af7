//! `POST /reload` at the socket that is a process's own: it reads its settings again.
//!
//! Invariant: nobody but who runs the process, or may do all on this machine, gets there.

use super::Admin;
use super::authorize::owner_only;
use super::extract::Query;
use super::problem::Problem;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::middleware::from_fn_with_state;
use axum::routing::post;
use axum::{Json, Router};
use core::time::Duration;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};
use utoipa::{IntoParams, ToSchema};

/// Until the process has read its settings: a file, and no more.
const PATIENCE: Duration = Duration::from_secs(5);

/// A wish that settings be read again, and where the answer goes: what is another, or every mistake.
#[derive(Debug)]
pub struct Reload {
    /// Only tell.
    pub check: bool,
    /// Who wants to know.
    pub answer: oneshot::Sender<Result<Vec<SettingChange>, Vec<String>>>,
}

/// A setting that is another than the one in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct SettingChange {
    /// The process.
    pub node: String,
    /// Key in the file.
    pub key: &'static str,
    /// In force; secrets are masked.
    pub before: String,
    /// As it was read.
    pub after: String,
    /// `now`, or `next_start` of the process.
    pub effect: &'static str,
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ReloadQuery {
    /// Nothing is changed, only told.
    #[serde(default)]
    #[param(default = false)]
    check: bool,
}

/// What is another than the setting in force.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Reloaded {
    items: Vec<SettingChange>,
}

/// What only that socket has.
pub fn router(admin: &Arc<Admin>, reloads: mpsc::Sender<Reload>) -> Router {
    Router::new()
        .route("/api/v1/reload", post(reload))
        .route_layer(from_fn_with_state(Arc::clone(admin), owner_only))
        .with_state(reloads)
}

/// The process reads its settings again. Only at the unix socket of the process, beside its slot in the data directory,
/// and without a token: elsewhere there is no such address.
#[utoipa::path(post, path = "/reload", tag = "nodes", operation_id = "reload_settings",
    params(ReloadQuery), responses((status = 200, body = Reloaded),
        (status = 404, body = Problem, description = "Asked elsewhere than at that socket"),
        (status = 422, body = Problem, description = "There are mistakes: nothing is changed")))]
pub(super) async fn reload(
    State(reloads): State<mpsc::Sender<Reload>>,
    Query(query): Query<ReloadQuery>,
    // Read, though it says nothing: who still writes it finds a closed connection else.
    _: Bytes,
) -> Result<Json<Reloaded>, Problem> {
    let (answer, told) = oneshot::channel();
    let busy = |_| Problem::unavailable("the process is starting, or reads its settings already");
    reloads.try_send(Reload { check: query.check, answer }).map_err(busy)?;
    let told = tokio::time::timeout(PATIENCE, told).await;
    let Ok(Ok(told)) = told else {
        return Err(Problem::no_answer("the process is starting or ending: try again"));
    };
    let wrong = |mistakes: Vec<String>| {
        Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            format!("nothing was changed: {}", mistakes.join("; ")),
        )
    };
    told.map(|items| Json(Reloaded { items })).map_err(wrong)
}
