//! `/audit`: who asked for a change, and what came of it.
//!
//! Invariants: every request that may change something is in the log with its outcome, whether it was allowed or not;
//! it is there before anything is done, so that nothing is done without a line though the process is killed amid it; an
//! answer does not wait for a store that is away, and a line that does is kept in its order until the store is back,
//! and told the process's own log at once, for the process may end before.

use super::extract::Query;
use super::page::{Cursor, Limit, Page, cursor_text, number_cursor};
use super::problem::Problem;
use super::{Admin, Services};
use crate::store::Store;
use crate::views::token::AuditView;
use axum::routing::get;
use axum::{Json, Router};
use core::time::Duration;
use serde::Deserialize;
use serde_json::Value;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;
use utoipa::IntoParams;

/// An answer does not wait longer for its line.
const PATIENCE: Duration = Duration::from_millis(500);
/// A store that did not take a line is asked again.
const AGAIN: Duration = Duration::from_secs(1);
/// Lines that wait for the store; more are in the process's own log only.
const WAITING: usize = 10_000;

/// The way to the store: one line after the other.
#[derive(Debug, Default)]
pub(super) struct Log(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    lines: VecDeque<Line>,
    is_being_written: bool,
    /// It did not take the last line.
    is_away: bool,
}

#[derive(Debug)]
struct Line {
    view: AuditView,
    begun: Option<Begun>,
    written: oneshot::Sender<()>,
}

/// A line that waits for its outcome.
#[derive(Debug)]
pub(super) struct Begun {
    /// As it was written.
    document: String,
    /// Its sequence; nothing comes when the store did not take it.
    place: oneshot::Receiver<u64>,
}

impl Begun {
    async fn place(self) -> Option<(u64, String)> {
        Some((self.place.await.ok()?, self.document))
    }
}

/// Fields of bodies that nobody is to read in the log.
const SECRETS: [&str; 4] = ["password", "ha1", "secret", "token"];
/// Of a body of more bytes only the names of its fields are kept.
const LONGEST: usize = 4_096;

/// What a line has of a body; `None`: it is no JSON.
pub(super) fn asked(body: &[u8]) -> Option<Value> {
    let mut asked = serde_json::from_slice(body).ok()?;
    match &mut asked {
        Value::Object(fields) if body.len() > LONGEST => {
            fields.values_mut().for_each(|value| *value = Value::Null);
        }
        asked => without_secrets(asked),
    }
    Some(asked)
}

fn without_secrets(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.iter_mut().for_each(|(name, value)| match SECRETS.contains(&name.as_str()) {
                true => *value = Value::from("***"),
                false => without_secrets(value),
            })
        }
        Value::Array(items) => items.iter_mut().for_each(without_secrets),
        _ => {}
    }
}

/// Written down.
fn document(view: &AuditView) -> String {
    serde_json::to_string(view).unwrap_or_default()
}

impl Log {
    /// It is in the log then, without its outcome. `None`: it is to be written with that.
    async fn begin(&self, store: &Store, view: &AuditView) -> Option<Begun> {
        if self.lock().is_away {
            return None;
        }
        let document = document(view);
        let (told, place) = oneshot::channel();
        let (at, text, store) = (view.at.0, document.clone(), store.clone());
        // Not broken off when it takes long: the outcome is to find its line.
        let writing = tokio::spawn(async move {
            let place = store.add_audit(at, &text).await;
            place.is_ok_and(|place| told.send(place).is_ok())
        });
        let written = tokio::time::timeout(PATIENCE, writing).await;
        if !written.is_ok_and(|written| written.unwrap_or(false)) {
            let entry = &document;
            tracing::warn!(audit.entry = entry, "what the audit log does not have yet is begun");
        }
        Some(Begun { document, place })
    }

    /// It is in the log then, or waits for the store.
    async fn note(self: &Arc<Self>, store: &Store, view: AuditView, begun: Option<Begun>) {
        let entry = document(&view);
        let Some(written) = self.push(store, view, begun) else {
            return tracing::warn!(audit.entry = entry, "a line of the audit log is not kept");
        };
        if tokio::time::timeout(PATIENCE, written).await.is_err() {
            tracing::warn!(audit.entry = entry, "a line of the audit log waits for the database");
        }
    }

    /// `None`: too many wait.
    fn push(
        self: &Arc<Self>,
        store: &Store,
        view: AuditView,
        begun: Option<Begun>,
    ) -> Option<oneshot::Receiver<()>> {
        let (written, told) = oneshot::channel();
        let mut waiting = self.lock();
        if waiting.lines.len() >= WAITING {
            return None;
        }
        waiting.lines.push_back(Line { view, begun, written });
        if !core::mem::replace(&mut waiting.is_being_written, true) {
            tokio::spawn(Arc::clone(self).write_all(store.clone()));
        }
        Some(told)
    }

    /// Until none waits.
    async fn write_all(self: Arc<Self>, store: Store) {
        while let Some(Line { view, begun, written }) = self.take() {
            let begun = match begun {
                Some(begun) => begun.place().await,
                None => None,
            };
            let begun = begun.as_ref().map(|(place, document)| (*place, document.as_str()));
            let (at, entry) = (view.at.0, document(&view));
            while store.end_audit(at, &entry, begun).await.is_err() {
                self.lock().is_away = true;
                tokio::time::sleep(AGAIN).await;
            }
            self.lock().is_away = false;
            // Its request may have been answered.
            let _ = written.send(());
        }
    }

    /// The line that is to be written. `None`: whoever adds one has it written.
    fn take(&self) -> Option<Line> {
        let mut waiting = self.lock();
        let first = waiting.lines.pop_front();
        waiting.is_being_written = first.is_some();
        first
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Admin {
    /// What is asked, before it is done.
    pub(super) async fn begin(&self, line: &AuditView) -> Option<Begun> {
        let services = self.services.get()?;
        self.audit.begin(&services.store, line).await
    }

    /// What was done by who runs the switch, and what came of it.
    pub async fn note(&self, line: AuditView) {
        self.end(line, None).await;
    }

    /// What was asked, and what came of it.
    pub(super) async fn end(&self, line: AuditView, begun: Option<Begun>) {
        match self.services.get() {
            Some(services) => self.audit.note(&services.store, line, begun).await,
            // A media node has no store, and one that starts has none yet.
            None => tracing::info!(
                audit.entry = document(&line),
                "what is asked of this process is in its own log only"
            ),
        }
    }
}

pub(super) fn router() -> Router<Arc<Admin>> {
    Router::new().route("/audit", get(list))
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct AuditQuery {
    /// Items a page.
    #[param(value_type = Option<u16>, minimum = 1, maximum = 1000)]
    limit: Option<Limit>,
    /// `next_cursor` of the page before.
    #[param(value_type = Option<String>, pattern = "^([0-9a-f]{2})*$", max_length = 1024)]
    cursor: Option<Cursor>,
}

/// Requests that may have changed something, newest first.
#[utoipa::path(get, path = "/audit", tag = "tokens", operation_id = "list_audit",
    params(AuditQuery), responses((status = 200, body = Page<AuditView>)))]
pub(super) async fn list(
    services: Services,
    Query(query): Query<AuditQuery>,
) -> Result<Json<Page<AuditView>>, Problem> {
    let limit = query.limit.unwrap_or_default().get();
    let before = number_cursor(query.cursor.as_ref())?;
    let most = u32::try_from(limit + 1).unwrap_or(u32::MAX);
    let mut rows = services.store.audit(before, most).await?;
    let has_more = rows.len() > limit;
    rows.truncate(limit);
    let last = rows.last().filter(|_| has_more);
    let next_cursor = last.map(|(sequence, _)| cursor_text(&sequence.to_string()));
    let items = rows.into_iter().filter_map(|(sequence, document)| {
        let view: AuditView = serde_json::from_str(&document).ok()?;
        Some(AuditView { sequence, ..view })
    });
    Ok(Json(Page { items: items.collect(), next_cursor }))
}
