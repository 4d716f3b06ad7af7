//! `/calls`: live calls.

use super::extract::{Body, Name, Query};
use super::page::{Cursor, Limit, Page};
use super::problem::{FieldError, Problem};
use super::{Admin, Services};
use crate::ids::CallId;
use crate::operator::{CallDocument, CallFilter, Command, Origination, Refused};
use crate::views::{CallFlag, CallState, CallView};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use core::time::Duration;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::{IntoParams, ToSchema};

/// Whether the store learns of a call's end is looked at so often …
const LOOKS: u32 = 5;
/// … with this between, longer than a commit takes.
const LOOK_PAUSE: Duration = Duration::from_millis(100);

pub(super) fn router() -> Router<Arc<Admin>> {
    Router::new()
        .route("/calls", get(list).post(originate))
        .route("/calls/{id}", get(one).delete(hang_up))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct CallsQuery {
    /// In this state.
    state: Option<CallState>,
    /// From or to this user.
    extension: Option<String>,
    /// Owned by this node.
    owner: Option<String>,
    /// With media at this node.
    media_node: Option<String>,
    /// With this that is not as it should be.
    flag: Option<CallFlag>,
    /// Items a page.
    #[param(value_type = Option<u16>, minimum = 1, maximum = 1000)]
    limit: Option<Limit>,
    /// `next_cursor` of the page before.
    #[param(value_type = Option<String>, pattern = "^([0-9a-f]{2})*$", max_length = 1024)]
    cursor: Option<Cursor>,
}

/// Live calls, oldest first.
#[utoipa::path(get, path = "/calls", tag = "calls",
    operation_id = "list_calls", params(CallsQuery),
    responses((status = 200, body = Page<CallView>)))]
pub(super) async fn list(
    services: Services,
    Query(query): Query<CallsQuery>,
) -> Result<Json<Page<CallDocument>>, Problem> {
    let state = query.state.map(|state| match state {
        CallState::Trying => "trying",
        CallState::Early => "early",
        CallState::Confirmed => "confirmed",
        CallState::Terminating => "terminating",
    });
    let filter = CallFilter {
        id: None,
        state: state.map(str::to_owned),
        extension: query.extension,
        owner: query.owner,
        media_node: query.media_node,
        flag: query.flag,
        after: query.cursor.as_ref().map(|cursor| cursor.0.clone()),
        // One more tells that there is more.
        limit: Some(query.limit.unwrap_or_default().get() + 1),
        brief: false,
    };
    let found = services.operator.ask(|answer| Command::Calls(filter, answer)).await?;
    let after = query.cursor.as_ref().map(|cursor| &cursor.0);
    Ok(Json(Page::of(found.documents(), |call| call.id.clone(), query.limit, after)))
}

/// One live call.
#[utoipa::path(get, path = "/calls/{id}", tag = "calls",
    operation_id = "get_call", params(("id" = String, Path)),
    responses((status = 200, body = CallView), (status = 404, body = Problem)))]
pub(super) async fn one(services: Services, Name(id): Name) -> Result<Json<CallView>, Problem> {
    let id = parsed_id(&id)?;
    match services.operator.ask(|answer| Command::Call(id.to_string(), answer)).await? {
        Some(call) => Ok(Json(call)),
        None => Err(nobody_has(&services, id).await),
    }
}

/// A call to be begun.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewCall {
    /// Extension of the user who calls: its phones ring first, the one that answers is the caller.
    #[schema(min_length = 1, max_length = 64)]
    from: String,
    /// Whom it is connected with: an extension or number as a person dials it, or a `sip:` URI.
    #[schema(min_length = 1, max_length = 256)]
    to: String,
    /// The caller's phones are asked to answer by themselves (Call-Info: answer-after=0, Alert-Info).
    #[serde(default)]
    auto_answer: bool,
}

/// Click to call. Answered when the call is stored and outlives this node; what becomes of it is told by `GET
/// /calls/{id}`, the events and, at last, its CDR.
#[utoipa::path(post, path = "/calls", tag = "calls",
    operation_id = "originate_call", request_body = NewCall,
    responses((status = 202, body = CallView, headers(("Location" = String))),
        (status = 409, description = "No phone of either side is registered, or the user has \
            as many calls as it may have", body = Problem)))]
pub(super) async fn originate(
    services: Services,
    Body(new): Body<NewCall>,
) -> Result<impl IntoResponse, Problem> {
    let mut errors = Vec::new();
    if !super::users::is_extension(&new.from) {
        errors.push(FieldError::new("from", super::users::IS_EXTENSION));
    }
    if !(1..=256).contains(&new.to.chars().count()) || new.to.chars().any(char::is_control) {
        errors.push(FieldError::new("to", "1-256 characters, no control characters"));
    }
    if !errors.is_empty() {
        return Err(Problem::fields(errors));
    }
    let NewCall { from, to, auto_answer } = new;
    let wish = Origination { from, to, auto_answer };
    let call = services.operator.ask(|answer| Command::Originate(wish, answer)).await?;
    let call = call?;
    let location = format!("/api/v1/calls/{}", call.id);
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, location)], Json(call)))
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::NotNow { reason, seconds } => Self::unavailable(reason).after(seconds),
            Refused::Conflict(why) => Self::new(StatusCode::CONFLICT, why),
            Refused::Field(field, why) => Self::fields(vec![FieldError::new(&field, why)]),
            Refused::Gone => no_call(),
        }
    }
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct HangupQuery {
    /// In words, for the phones and the CDR: at most 128 characters.
    #[param(max_length = 128, pattern = r"^[^\u0000-\u001f\u007f-\u009f]*$")]
    reason: Option<String>,
}

/// What is being hung up.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct HangingUp {
    /// The call.
    id: String,
}

/// Hangs up; the call ends a little later.
#[utoipa::path(delete, path = "/calls/{id}", tag = "calls",
    operation_id = "hang_up_call", params(("id" = String, Path), HangupQuery),
    responses((status = 202, body = HangingUp), (status = 404, body = Problem)))]
pub(super) async fn hang_up(
    services: Services,
    Name(id): Name,
    Query(query): Query<HangupQuery>,
) -> Result<(StatusCode, Json<HangingUp>), Problem> {
    let call = parsed_id(&id)?;
    // In the form in which ids are given out.
    let id = call.to_string();
    let is_plain = |text: &str| text.chars().count() <= 128 && !text.chars().any(char::is_control);
    if !query.reason.as_deref().is_none_or(is_plain) {
        let detail = "has at most 128 characters, no control characters";
        return Err(Problem::query("reason", detail));
    }
    let named = id.clone();
    if services.operator.ask(|answer| Command::Hangup(named, query.reason, answer)).await? {
        return Ok((StatusCode::ACCEPTED, Json(HangingUp { id })));
    }
    Err(nobody_has(&services, call).await)
}

/// No node has it. What is stored was a dead node's, or its node has no link with others: there will be another. Or it
/// has just ended, and the store learns that in a moment.
pub(super) async fn nobody_has(services: &Services, id: CallId) -> Problem {
    for look in 0..LOOKS {
        if look > 0 {
            tokio::time::sleep(LOOK_PAUSE).await;
        }
        // A store that does not answer leaves it at what the nodes say.
        let Ok(Some(_)) = services.store.owner(id).await else { return no_call() };
    }
    Problem::unavailable("the node of that call is gone: another takes it over")
}

pub(super) fn parsed_id(text: &str) -> Result<CallId, Problem> {
    text.parse().map_err(|_| no_call())
}

fn no_call() -> Problem {
    Problem::not_found("there is no such live call: it may be among the CDRs")
}
