//! `/registrations`: one per binding.

use super::extract::{Name, Query};
use super::page::{Cursor, Limit, Page};
use super::problem::Problem;
use super::users::is_extension;
use super::{Admin, Services};
use crate::operator::Command;
use crate::views::RegistrationView;
use axum::http::StatusCode;
use axum::routing::{delete, get};
use axum::{Json, Router};
use serde::Deserialize;
use std::sync::Arc;
use utoipa::IntoParams;

pub(super) fn router() -> Router<Arc<Admin>> {
    Router::new().route("/registrations", get(list)).route("/registrations/{id}", delete(remove))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct RegistrationsQuery {
    /// Of one user.
    extension: Option<String>,
    /// Items a page.
    #[param(value_type = Option<u16>, minimum = 1, maximum = 1000)]
    limit: Option<Limit>,
    /// `next_cursor` of the page before.
    #[param(value_type = Option<String>)]
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
        return Err(Problem::bad_request("extension is 1-64 letters, digits or ._+-"));
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
    Err(Problem::not_found("there is no such registration"))
}
