//! `/route`: what the dial plan makes of a number, without a call.

use super::extract::Query;
use super::problem::Problem;
use super::{Admin, Services};
use crate::operator::{Command, Refused};
use crate::views::RouteView;
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;
use std::sync::Arc;
use utoipa::IntoParams;

pub(super) fn router() -> Router<Arc<Admin>> {
    Router::new().route("/route", get(test))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct RouteQuery {
    /// Who is called: an extension or number as a person dials it, or a `sip:` URI.
    #[param(min_length = 1, max_length = 256, pattern = r"^[^\u0000-\u001f\u007f-\u009f]*$")]
    to: String,
}

/// What becomes of a call to a number now: whose phones ring, which service answers, or why it is refused. Nothing is
/// called.
#[utoipa::path(get, path = "/route", tag = "calls", operation_id = "test_route",
    params(RouteQuery), responses((status = 200, body = RouteView)))]
pub(super) async fn test(
    services: Services,
    Query(query): Query<RouteQuery>,
) -> Result<Json<RouteView>, Problem> {
    let to = query.to;
    if !(1..=256).contains(&to.chars().count()) || to.chars().any(char::is_control) {
        return Err(Problem::query("to", "has 1-256 characters, no control characters"));
    }
    match services.operator.ask(|answer| Command::Route(to, answer)).await? {
        Ok(route) => Ok(Json(route)),
        Err(Refused::Field(field, why)) => Err(Problem::query(&field, why.into_owned())),
        Err(refused) => Err(refused.into()),
    }
}
