//! `/cdrs`: calls that are over, in the order in which they ended.

use super::extract::{Name, Query};
use super::page::{Cursor, Limit, Page, cursor_text, number_cursor};
use super::problem::Problem;
use super::users::{IS_EXTENSION, is_extension};
use super::{Admin, Services};
use crate::ids::CallId;
use crate::store::CdrQuery;
use crate::views::{CallFlag, Cdr, Disposition, Rfc3339};
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;
use std::sync::Arc;
use utoipa::{IntoParams, ToSchema};

pub(super) fn router() -> Router<Arc<Admin>> {
    Router::new().route("/cdrs", get(list)).route("/cdrs/{id}", get(one))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct CdrsQuery {
    /// Created at or after.
    #[param(value_type = Option<String>, format = DateTime)]
    since: Option<Rfc3339>,
    /// Created before.
    #[param(value_type = Option<String>, format = DateTime)]
    until: Option<Rfc3339>,
    /// Of the caller, the callee or a leg.
    #[param(pattern = "^[A-Za-z0-9._+-]{1,64}$")]
    extension: Option<String>,
    /// What became of the call.
    disposition: Option<Disposition>,
    /// That had this which was not as it should be, at any time.
    flag: Option<CallFlag>,
    /// Sequence greater than this: polls for new ones.
    #[param(minimum = 0, maximum = 9_223_372_036_854_775_807_u64)]
    after: Option<u64>,
    /// `oldest` first, or `newest`; `after` and `cursor` go the same way.
    #[param(inline)]
    order: Option<Order>,
    /// Items a page.
    #[param(value_type = Option<u16>, minimum = 1, maximum = 1000)]
    limit: Option<Limit>,
    /// `next_cursor` of the page before.
    #[param(value_type = Option<String>, pattern = "^([0-9a-f]{2})*$", max_length = 1024)]
    cursor: Option<Cursor>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Order {
    #[default]
    Oldest,
    Newest,
}

/// Call detail records by sequence.
#[utoipa::path(get, path = "/cdrs", tag = "cdrs",
    operation_id = "list_cdrs", params(CdrsQuery),
    responses((status = 200, body = Page<Cdr>)))]
pub(super) async fn list(
    services: Services,
    Query(query): Query<CdrsQuery>,
) -> Result<Json<Page<Cdr>>, Problem> {
    if query.extension.as_deref().is_some_and(|extension| !is_extension(extension)) {
        return Err(Problem::query("extension", IS_EXTENSION));
    }
    let newest_first = query.order.unwrap_or_default() == Order::Newest;
    let cursor = number_cursor(query.cursor.as_ref())?;
    let (after, before) = match newest_first {
        true => (query.after, cursor),
        false => (query.after.max(cursor), None),
    };
    if after.max(before).is_some_and(|sequence| i64::try_from(sequence).is_err()) {
        return Err(Problem::query("after", "is a sequence of a CDR"));
    }
    let limit = query.limit.unwrap_or_default().get();
    let wanted = CdrQuery {
        since: query.since.map(|time| time.0),
        until: query.until.map(|time| time.0),
        extension: query.extension,
        disposition: query.disposition.map(|kind| disposition_name(kind).to_owned()),
        flag: query.flag,
        after,
        before,
        id: None,
        newest_first,
        // One more tells whether there is a next page.
        limit: u32::try_from(limit + 1).unwrap_or(u32::MAX),
    };
    let mut items = services.store.cdrs(&wanted).await?;
    let has_more = items.len() > limit;
    items.truncate(limit);
    let last = items.last().filter(|_| has_more);
    let next_cursor = last.map(|cdr| cursor_text(&cdr.sequence.to_string()));
    Ok(Json(Page { items, next_cursor }))
}

/// The record of one call, once it is over.
#[utoipa::path(get, path = "/cdrs/{id}", tag = "cdrs",
    operation_id = "get_cdr", params(("id" = String, Path)),
    responses((status = 200, body = Cdr), (status = 404, body = Problem)))]
pub(super) async fn one(services: Services, Name(id): Name) -> Result<Json<Cdr>, Problem> {
    let none = || Problem::not_found("there is no record of such a call: it may be alive");
    let id = id.parse::<CallId>().map_err(|_| none())?.to_string();
    let wanted = CdrQuery { id: Some(id), limit: 1, ..CdrQuery::default() };
    services.store.cdrs(&wanted).await?.pop().map(Json).ok_or_else(none)
}

const fn disposition_name(disposition: Disposition) -> &'static str {
    match disposition {
        Disposition::Answered => "answered",
        Disposition::Busy => "busy",
        Disposition::NoAnswer => "no_answer",
        Disposition::Cancelled => "cancelled",
        Disposition::Rejected => "rejected",
        Disposition::Failed => "failed",
    }
}
