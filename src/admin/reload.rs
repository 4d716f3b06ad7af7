//! `POST /reload` at the socket that is a process's own: it reads its settings again.
//!
//! Invariant: nobody but who runs the process, or may do all on this machine, gets there.

use super::authorize::Caller;
use super::extract::Query;
use super::problem::Problem;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Extension, Json, Router};
use core::time::Duration;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

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
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
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

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReloadQuery {
    #[serde(default)]
    check: bool,
}

#[derive(Debug, Serialize)]
struct Reloaded {
    items: Vec<SettingChange>,
}

/// What only that socket has.
pub fn router(reloads: mpsc::Sender<Reload>) -> Router {
    Router::new().route("/api/v1/reload", post(reload)).with_state(reloads)
}

async fn reload(
    State(reloads): State<mpsc::Sender<Reload>>,
    Extension(caller): Extension<Caller>,
    Query(query): Query<ReloadQuery>,
    // Read, though it says nothing: who still writes it finds a closed connection else.
    _: Bytes,
) -> Result<Json<Reloaded>, Problem> {
    if caller != Caller::Owner {
        let detail = "settings are read again for the user of the process, or root";
        return Err(Problem::new(StatusCode::FORBIDDEN, detail));
    }
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
