//! `/calls/{id}/…`: what operators do to live calls. Any node takes it, the call's owner does it; the answer comes when
//! what was done is stored, with the call as it is then.

use super::calls::parsed_id;
use super::extract::{Name, OptionalBody};
use super::problem::Problem;
use super::{Admin, Services};
use crate::operator::Command;
use crate::views::call::LegRole;
use crate::views::{CallView, Steering};
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use serde::Deserialize;
use std::sync::Arc;
use utoipa::ToSchema;

type Done = Result<(StatusCode, Json<CallView>), Problem>;

pub(super) fn router() -> Router<Arc<Admin>> {
    Router::new().route("/calls/{id}/hold", post(hold)).route("/calls/{id}/unhold", post(unhold))
}

/// Whose phone.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LegChoice {
    /// `caller` or `callee`; both when absent or null.
    #[serde(default)]
    leg: Option<LegRole>,
}

/// Holds a phone, or both: from now on it hears nothing and is not heard, and it is told so by a re-INVITE. Holding
/// what is held changes nothing; what the phones themselves hold stays theirs (`parked` of a call, beside `hold`).
#[utoipa::path(post, path = "/calls/{id}/hold", tag = "calls", operation_id = "hold_call",
    params(("id" = String, Path)), request_body = Option<LegChoice>,
    responses((status = 202, body = CallView), (status = 404, body = Problem),
        (status = 409, description = "The call is not answered, or has no such phone",
            body = Problem)))]
pub(super) async fn hold(
    services: Services,
    Name(id): Name,
    OptionalBody(choice): OptionalBody<LegChoice>,
) -> Done {
    steer(&services, &id, Steering::Hold { leg: choice.leg }).await
}

/// The end of a hold by an operator.
#[utoipa::path(post, path = "/calls/{id}/unhold", tag = "calls", operation_id = "unhold_call",
    params(("id" = String, Path)), request_body = Option<LegChoice>,
    responses((status = 202, body = CallView), (status = 404, body = Problem),
        (status = 409, description = "The call is not answered, or has no such phone",
            body = Problem)))]
pub(super) async fn unhold(
    services: Services,
    Name(id): Name,
    OptionalBody(choice): OptionalBody<LegChoice>,
) -> Done {
    steer(&services, &id, Steering::Unhold { leg: choice.leg }).await
}

async fn steer(services: &Services, id: &str, wish: Steering) -> Done {
    let id = parsed_id(id)?;
    let call = services.operator.ask(|answer| Command::Steer(id, wish, answer)).await??;
    Ok((StatusCode::ACCEPTED, Json(call)))
}
