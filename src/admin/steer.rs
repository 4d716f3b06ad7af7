//! `/calls/{id}/…`: what operators do to live calls. Any node takes it, the call's owner does it; the answer comes when
//! what was done is stored, with the call as it is then.

use super::calls::{nobody_has, parsed_id};
use super::extract::{Body, Name, OptionalBody, Query};
use super::problem::{FieldError, Problem};
use super::{Admin, Services};
use crate::operator::{Command, Refused};
use crate::views::call::LegRole;
use crate::views::steer::ToneName;
use crate::views::{CallView, Steering};
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use serde::Deserialize;
use std::sync::Arc;
use utoipa::{IntoParams, ToSchema};

type Done = Result<(StatusCode, Json<CallView>), Problem>;

pub(super) fn router() -> Router<Arc<Admin>> {
    Router::new()
        .route("/calls/{id}/hold", post(hold))
        .route("/calls/{id}/unhold", post(unhold))
        .route("/calls/{id}/dtmf", post(dtmf))
        .route("/calls/{id}/transfer", post(transfer))
        .route("/calls/{id}/move", post(move_media))
        .route("/calls/{id}/play", post(play).delete(stop))
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

/// Digits for a phone.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Digits {
    /// Whose phone: `caller` or `callee`.
    leg: LegRole,
    /// `0`-`9`, `*`, `#`, `A`-`D`.
    #[schema(min_length = 1, max_length = 32, pattern = "^[0-9*#A-D]+$")]
    digits: String,
}

/// Sends digits to a phone: telephone events (RFC 4733), or INFO (`application/dtmf-relay`) where the phone takes none.
/// They are told to nobody else, and stand in no event.
#[utoipa::path(post, path = "/calls/{id}/dtmf", tag = "calls", operation_id = "dial_in_call",
    params(("id" = String, Path)), request_body = Digits,
    responses((status = 202, body = CallView), (status = 404, body = Problem),
        (status = 409, description = "The call is not answered, has no such phone, or other \
            digits are on their way to it", body = Problem)))]
pub(super) async fn dtmf(services: Services, Name(id): Name, Body(wish): Body<Digits>) -> Done {
    let Digits { leg, digits } = wish;
    let is_digit = |digit: char| matches!(digit, '0'..='9' | '*' | '#' | 'A'..='D');
    if !(1..=32).contains(&digits.len()) || !digits.chars().all(is_digit) {
        let why = "1-32 of the digits 0-9, *, #, A-D";
        return Err(Problem::fields(vec![FieldError::new("digits", why)]));
    }
    steer(&services, &id, Steering::Dial { leg, digits }).await
}

/// Who is to take a phone's place.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewTransfer {
    /// Whose phone leaves: `caller` or `callee`. Whom it talks to stays.
    leg: LegRole,
    /// Who comes: an extension or number as a person dials it, or a `sip:` URI.
    #[schema(min_length = 1, max_length = 256)]
    to: String,
}

/// Blind transfer. The phones of who comes ring while the call goes on; the one that answers takes the place of the
/// phone that leaves, which gets BYE. When nobody answers the call is as it was. The phone that leaves may hang up
/// before: the other one hears ringback, and the call ends if nobody answers. When the one that stays hangs up the call
/// ends and nobody rings on (the transfer's `sip_status` is 487). `transfer` of the call tells of one under way, the
/// events `call.transferred` and `call.transfer_failed` and the CDR's `transfers` of its outcome.
#[utoipa::path(post, path = "/calls/{id}/transfer", tag = "calls", operation_id = "transfer_call",
    params(("id" = String, Path)), request_body = NewTransfer,
    responses((status = 202, body = CallView), (status = 404, body = Problem),
        (status = 409, description = "The call is not answered, is being transferred already, or \
            no phone of who is to come is registered", body = Problem)))]
pub(super) async fn transfer(
    services: Services,
    Name(id): Name,
    Body(wish): Body<NewTransfer>,
) -> Done {
    let NewTransfer { leg, to } = wish;
    if !(1..=256).contains(&to.chars().count()) || to.chars().any(char::is_control) {
        let why = "1-256 characters, no control characters";
        return Err(Problem::fields(vec![FieldError::new("to", why)]));
    }
    steer(&services, &id, Steering::Transfer { leg, to }).await
}

/// Where a call's media are to be.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct MediaChoice {
    /// Name of another media node; when absent or null the freest one, of another host if there is one.
    #[serde(default)]
    node: Option<String>,
}

/// Moves the media of a call to another node. One of another host: both phones are told by a re-INVITE, and where they
/// were goes on until they know. Another process of the same host has the call's sockets passed over: phones are told
/// nothing, and no packet is lost. `media.node` of the call tells when it is there.
#[utoipa::path(post, path = "/calls/{id}/move", tag = "calls", operation_id = "move_call",
    params(("id" = String, Path)), request_body = Option<MediaChoice>,
    responses((status = 202, body = CallView), (status = 404, body = Problem),
        (status = 409, description = "The call is not answered or moves already, or there is no \
            such node that takes it", body = Problem)))]
pub(super) async fn move_media(
    services: Services,
    Name(id): Name,
    OptionalBody(choice): OptionalBody<MediaChoice>,
) -> Done {
    steer(&services, &id, Steering::Move { node: choice.node }).await
}

/// A tone for a phone, or both.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Playback {
    /// `caller` or `callee`; both when absent or null.
    #[serde(default)]
    leg: Option<LegRole>,
    /// Which.
    tone: ToneName,
    /// So long; until it is stopped when absent or null.
    #[serde(default)]
    #[schema(minimum = 100, maximum = 3_600_000)]
    duration_ms: Option<u32>,
}

/// Plays a tone to a phone, or both, in place of what it would hear; another tone takes the place of one that is
/// played. A held phone hears it too.
#[utoipa::path(post, path = "/calls/{id}/play", tag = "calls", operation_id = "play_in_call",
    params(("id" = String, Path)), request_body = Playback,
    responses((status = 202, body = CallView), (status = 404, body = Problem),
        (status = 409, description = "The call is not answered, has no such phone, or its codec \
            is none that can be played in", body = Problem)))]
pub(super) async fn play(services: Services, Name(id): Name, Body(wish): Body<Playback>) -> Done {
    let Playback { leg, tone, duration_ms } = wish;
    if duration_ms.is_some_and(|ms| !(100..=3_600_000).contains(&ms)) {
        return Err(Problem::fields(vec![FieldError::new("duration_ms", "100-3600000")]));
    }
    steer(&services, &id, Steering::Play { leg, tone, duration_ms }).await
}

/// Whose phone.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct LegQuery {
    /// `caller` or `callee`; both when absent.
    leg: Option<LegRole>,
}

/// Stops what is played.
#[utoipa::path(delete, path = "/calls/{id}/play", tag = "calls", operation_id = "stop_in_call",
    params(("id" = String, Path), LegQuery),
    responses((status = 202, body = CallView), (status = 404, body = Problem),
        (status = 409, description = "The call is not answered, or has no such phone",
            body = Problem)))]
pub(super) async fn stop(
    services: Services,
    Name(id): Name,
    Query(query): Query<LegQuery>,
) -> Done {
    steer(&services, &id, Steering::Stop { leg: query.leg }).await
}

async fn steer(services: &Services, id: &str, wish: Steering) -> Done {
    let id = parsed_id(id)?;
    match services.operator.ask(|answer| Command::Steer(id, wish, answer)).await? {
        Ok(call) => Ok((StatusCode::ACCEPTED, Json(call))),
        Err(Refused::Gone) => Err(nobody_has(services, id).await),
        Err(refused) => Err(refused.into()),
    }
}
