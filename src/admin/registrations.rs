//! `/registrations`: one per binding.

use super::extract::{Name, OptionalBody, Query};
use super::page::{Cursor, Limit, Page};
use super::problem::Problem;
use super::users::{IS_EXTENSION, is_extension};
use super::{Admin, Services};
use crate::operator::{Command, Refused};
use crate::views::RegistrationView;
use axum::http::StatusCode;
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::{IntoParams, ToSchema};

pub(super) fn router() -> Router<Arc<Admin>> {
    Router::new()
        .route("/registrations", get(list))
        .route("/registrations/{id}", delete(remove))
        .route("/registrations/{id}/check-sync", post(check_sync))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct RegistrationsQuery {
    /// Of one user.
    #[param(pattern = "^[A-Za-z0-9._+-]{1,64}$")]
    extension: Option<String>,
    /// Items a page.
    #[param(value_type = Option<u16>, minimum = 1, maximum = 1000)]
    limit: Option<Limit>,
    /// `next_cursor` of the page before.
    #[param(value_type = Option<String>, pattern = "^([0-9a-f]{2})*$", max_length = 1024)]
    cursor: Option<Cursor>,
}

/// Bindings of one user or of all.
#[utoipa::path(get, path = "/registrations", tag = "registrations",
    operation_id = "list_registrations", params(RegistrationsQuery),
    responses((status = 200, body = Page<RegistrationView>)))]
pub(super) async fn list(
    services: Services,
    Query(query): Query<RegistrationsQuery>,
) -> Result<Json<Page<RegistrationView>>, Problem> {
    if query.extension.as_deref().is_some_and(|extension| !is_extension(extension)) {
        return Err(Problem::query("extension", IS_EXTENSION));
    }
    let extension = query.extension;
    let all = services.operator.ask(|answer| Command::Registrations(extension, answer)).await?;
    let after = query.cursor.as_ref().map(|cursor| &cursor.0);
    Ok(Json(Page::of(all, |binding| binding.id.clone(), query.limit, after)))
}

/// Removes a binding; the phone may register again.
#[utoipa::path(delete, path = "/registrations/{id}", tag = "registrations",
    operation_id = "remove_registration",
    params(("id" = String, Path)),
    responses((status = 204), (status = 404, body = Problem)))]
pub(super) async fn remove(services: Services, Name(id): Name) -> Result<StatusCode, Problem> {
    if services.operator.ask(|answer| Command::Deregister(id, answer)).await? {
        return Ok(StatusCode::NO_CONTENT);
    }
    Err(no_registration())
}

/// What a phone is to do.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CheckSyncRequest {
    /// Whether it restarts; when nothing is said the phone decides.
    reboot: Option<bool>,
}

/// What a phone said to it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CheckSync {
    /// The registration.
    id: String,
    /// What the phone answered: 200 when it will look. Null: nothing within four seconds.
    #[schema(minimum = 100, maximum = 699)]
    sip_status: Option<u16>,
}

/// Has the phone look for its configuration again (NOTIFY with Event: check-sync).
#[utoipa::path(post, path = "/registrations/{id}/check-sync", tag = "registrations",
    operation_id = "check_sync_registration", params(("id" = String, Path)),
    request_body = Option<CheckSyncRequest>,
    responses((status = 202, body = CheckSync), (status = 404, body = Problem),
        (status = 409, description = "Its connection is gone", body = Problem)))]
pub(super) async fn check_sync(
    services: Services,
    Name(id): Name,
    OptionalBody(wish): OptionalBody<CheckSyncRequest>,
) -> Result<(StatusCode, Json<CheckSync>), Problem> {
    let (named, reboot) = (id.clone(), wish.reboot);
    let asked = services.operator.ask(|answer| Command::CheckSync(named, reboot, answer)).await?;
    let sip_status = asked.map_err(|refused| match refused {
        Refused::Gone => no_registration(),
        other => other.into(),
    })?;
    Ok((StatusCode::ACCEPTED, Json(CheckSync { id, sip_status })))
}

fn no_registration() -> Problem {
    Problem::not_found("there is no such registration")
}
