//! `/events`: what happens in the cluster, as server-sent events: what is, then what comes.
//!
//! Invariants: ids only rise; who comes back with the last one misses nothing, or is told that it does (`gap`); a
//! reader that is too slow for its connection is cut off by the kernel, and comes back the same way.

mod log;

use super::extract::Query;
use super::health::Phase;
use super::problem::Problem;
use super::{Admin, Services};
use crate::net::clock;
use crate::operator::{CallFilter, Command, Operator};
use crate::store::StoredEvent;
use crate::views::{CallSummary, EventGist, Rfc3339};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use core::convert::Infallible;
use core::fmt::Write as _;
use core::time::Duration;
use log::Known;
pub use log::Log;
pub(super) use log::{Watcher, may_be_more};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::time::Instant;
use utoipa::{IntoParams, ToSchema};

/// Readers of a node at a time.
const READERS: usize = 64;
/// Calls a part of a snapshot.
const CALLS: usize = 500;
/// A comment after so long a silence, so that nobody in between takes the connection for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
const COMMENT: &str = ":\n\n";
/// Events told in one piece: each piece costs as much as some events, and a large one costs fresh memory each time.
const PIECE: usize = 100;
/// Bytes of most pieces.
const PIECE_BYTES: usize = 32 * 1024;
/// Before the store is asked again.
const PATIENCE: Duration = Duration::from_millis(500);

pub(super) fn router() -> Router<Arc<Admin>> {
    Router::new().route("/events", get(stream))
}

#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct EventsQuery {
    /// Only these, with commas between; `call.*` is all of calls.
    types: Option<String>,
    /// Only of this call.
    call_id: Option<String>,
    /// Only of this user.
    extension: Option<String>,
    /// Begin with the live calls; true when nothing is said.
    snapshot: Option<bool>,
    /// As the header of that name: all that came after this id, and no snapshot.
    last_event_id: Option<u64>,
}

/// A part of what is live when the stream begins. Events that are older than a part of it may follow it. Calls whose
/// node died a moment before are in none: `call.adopted` tells of them.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Snapshot {
    /// `snapshot`.
    #[serde(rename = "type")]
    kind: &'static str,
    /// All events after this one follow.
    id: u64,
    /// When.
    at: Rfc3339,
    /// The node that tells it.
    node: String,
    /// Live calls.
    calls: Vec<CallSummary>,
    /// Nothing more of it comes.
    last: bool,
}

/// What happens, as it happens (`text/event-stream`). Each event is JSON with `id`, `type`, `at` and `node`; `snapshot`
/// comes first, and `gap` where something was lost (a snapshot follows). Types that are not known are to be ignored.
#[utoipa::path(get, path = "/events", tag = "events",
    operation_id = "watch_events",
    params(EventsQuery, ("Last-Event-ID" = Option<u64>, Header,
        description = "The last id that was seen: all that came after it follows")),
    responses(
        (status = 200, content_type = "text/event-stream", body = crate::views::EventView,
            description = "A stream without end"),
        (status = 429, body = Problem, description = "Too many readers at this node")))]
pub(super) async fn stream(
    State(admin): State<Arc<Admin>>,
    services: Services,
    headers: HeaderMap,
    Query(query): Query<EventsQuery>,
) -> Result<impl IntoResponse, Problem> {
    let header = headers.get("last-event-id").and_then(|value| value.to_str().ok());
    let header = header.filter(|text| !text.is_empty()).map(|text| {
        text.parse().map_err(|_| Problem::bad_request("Last-Event-ID is not one of ours"))
    });
    let seen = header.transpose()?.or(query.last_event_id);
    let Some(watcher) = admin.events.read(&services.store, READERS) else {
        let detail = format!("{READERS} readers of events are here already");
        return Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, detail));
    };
    let known = watcher.known.borrow().era;
    let reader = Reader {
        era: known,
        node: admin.node.clone(),
        watcher,
        operator: services.operator,
        phase: admin.phase.subscribe(),
        filter: Filter::new(&query),
        wants_snapshot: query.snapshot.unwrap_or(true),
        ready: String::new(),
        comment_at: Instant::now() + KEEP_ALIVE,
        stage: seen.map_or(Stage::Begin, Stage::Resume),
    };
    let events = futures_util::stream::unfold(reader, Reader::next);
    let head = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-cache")];
    Ok((head, Body::from_stream(events)))
}

/// Which events a reader wants.
#[derive(Debug)]
pub(super) struct Filter {
    types: Option<Vec<String>>,
    call_id: Option<String>,
    extension: Option<String>,
}

impl Filter {
    fn new(query: &EventsQuery) -> Self {
        let types = query.types.as_ref();
        Self {
            types: types.map(|types| types.split(',').map(|one| one.trim().to_owned()).collect()),
            call_id: query.call_id.clone(),
            extension: query.extension.clone(),
        }
    }

    /// Of these types; none: of all.
    pub(super) fn of_types(types: &[String]) -> Self {
        let types = (!types.is_empty()).then(|| types.to_vec());
        Self { types, call_id: None, extension: None }
    }

    pub(super) fn takes(&self, event: &StoredEvent) -> bool {
        let is_anybodys = self.call_id.is_none() && self.extension.is_none();
        self.types.as_ref().is_none_or(|types| is_of(types, &event.event.kind()))
            && (is_anybodys || self.takes_gist(&event.event.gist()))
    }

    fn takes_gist(&self, gist: &EventGist<'_>) -> bool {
        let EventGist { caller, callee, answered_by, extension, username, .. } = gist;
        let parties = [caller, callee, answered_by, extension, username];
        let is_party = |wish: &String| parties.iter().any(|party| ***party == **wish);
        self.call_id.as_ref().is_none_or(|call| gist.call_id == *call)
            && self.extension.as_ref().is_none_or(is_party)
    }

    fn takes_call(&self, call: &CallSummary) -> bool {
        let named =
            |party: &crate::views::PartyView, wish: &str| party.extension.as_deref() == Some(wish);
        self.call_id.as_ref().is_none_or(|id| *id == call.id)
            && self.extension.as_deref().is_none_or(|extension| {
                named(&call.caller, extension) || named(&call.callee, extension)
            })
    }
}

fn is_of(types: &[String], kind: &str) -> bool {
    types.iter().any(|wish| match wish.strip_suffix('*') {
        Some(begin) => kind.starts_with(begin),
        None => kind == wish,
    })
}

/// Where a reader is.
#[derive(Clone, Debug)]
enum Stage {
    /// Nothing is told yet.
    Begin,
    /// Something is lost, which is to be told: from there on it is as at the beginning.
    Lost,
    /// This event was seen before.
    Resume(u64),
    /// Calls after this one are to be shown; events after the id follow.
    Snapshot(u64, Option<String>),
    /// Everything up to this id is told.
    Follow(u64),
}

/// Somebody who reads the stream.
#[derive(Debug)]
struct Reader {
    /// Where it reads.
    node: String,
    watcher: Watcher,
    operator: Operator,
    phase: watch::Receiver<Phase>,
    filter: Filter,
    wants_snapshot: bool,
    /// Told as soon as it is taken: as much as there is in one piece, for each piece costs as much as some events.
    ready: String,
    comment_at: Instant,
    era: u64,
    stage: Stage,
}

impl Reader {
    /// Ends when the node does: the client comes back to another.
    async fn next(mut self) -> Option<(Result<Bytes, Infallible>, Self)> {
        loop {
            if !self.ready.is_empty() {
                self.comment_at = Instant::now() + KEEP_ALIVE;
                return Some((Ok(core::mem::take(&mut self.ready).into()), self));
            }
            let stage = self.stage.clone();
            if let Err(pause) = self.step(stage).await {
                let mut phase = self.phase.clone();
                let told_to_stop = phase.wait_for(|phase| *phase == Phase::Draining);
                tokio::select! {
                    _ = told_to_stop => return None,
                    () = tokio::time::sleep(pause) => {}
                    () = tokio::time::sleep_until(self.comment_at) => self.ready.push_str(COMMENT),
                    changed = self.watcher.known.changed() => changed.ok()?,
                }
            }
        }
    }

    /// Err: nothing can be done for so long, unless something happens.
    async fn step(&mut self, stage: Stage) -> Result<(), Duration> {
        let Known { era, .. } = *self.watcher.known.borrow_and_update();
        if core::mem::replace(&mut self.era, era) != era {
            self.stage = Stage::Lost;
            return Ok(());
        }
        match stage {
            Stage::Begin | Stage::Lost => {
                let end = self.watcher.end().await.map_err(|_| PATIENCE)?;
                if matches!(stage, Stage::Lost) {
                    self.tell_gap(end);
                }
                self.stage = match self.wants_snapshot {
                    true => Stage::Snapshot(end, None),
                    false => Stage::Follow(end),
                };
            }
            Stage::Resume(id) => match self.watcher.has(id).await.map_err(|_| PATIENCE)? {
                true => self.stage = Stage::Follow(id),
                false => self.stage = Stage::Lost,
            },
            Stage::Snapshot(end, after) => self.show_calls(end, after).await?,
            Stage::Follow(after) => {
                match self.watcher.next(after, PIECE).await.map_err(|_| PATIENCE)? {
                    None => self.stage = Stage::Lost,
                    Some(events) => {
                        let Some(last) = events.last().map(|event| event.id) else {
                            return Err(KEEP_ALIVE);
                        };
                        self.ready.reserve(PIECE_BYTES);
                        let wanted = events.iter().filter(|event| self.filter.takes(event));
                        wanted.for_each(|event| tell(&mut self.ready, event));
                        self.stage = Stage::Follow(last);
                    }
                }
            }
        }
        Ok(())
    }

    /// Something up to this id is lost.
    fn tell_gap(&mut self, id: u64) {
        let (at, node) = (Rfc3339(clock::now()), &self.node);
        let gap = json!({ "type": "gap", "id": id, "at": at, "node": node });
        // Who breaks off before the snapshot is to be told of it again.
        tell_as(&mut self.ready, None, "gap", &gap.to_string());
    }

    async fn show_calls(&mut self, id: u64, after: Option<String>) -> Result<(), Duration> {
        let filter = CallFilter { brief: true, after, limit: Some(CALLS), ..CallFilter::default() };
        let asked = self.operator.ask(|answer| Command::Calls(filter, answer)).await;
        let views = asked.map_err(|_| PATIENCE)?.views();
        let last = views.len() < CALLS;
        self.stage = match views.last() {
            Some(call) if !last => Stage::Snapshot(id, Some(call.id.clone())),
            Some(_) | None => Stage::Follow(id),
        };
        let calls = views.into_iter().map(CallSummary::from);
        let calls = calls.filter(|call| self.filter.takes_call(call)).collect();
        let (at, node) = (Rfc3339(clock::now()), self.node.clone());
        let part = Snapshot { kind: "snapshot", id, at, node, calls, last };
        let text = serde_json::to_string(&part).unwrap_or_default();
        // Who breaks off in the midst of it is to see all of it the next time.
        tell_as(&mut self.ready, last.then_some(id), "snapshot", &text);
        Ok(())
    }
}

fn tell(text: &mut String, stored: &StoredEvent) {
    let kind = stored.event.kind();
    let is_name = !kind.is_empty() && !kind.contains(['\n', '\r']);
    let kind = if is_name { &*kind } else { "unknown" };
    tell_as(text, Some(stored.id), kind, &stored.event.with_id(stored.id));
}

/// As the stream has it (HTML Living Standard §9.2).
fn tell_as(text: &mut String, id: Option<u64>, kind: &str, data: &str) {
    if let Some(id) = id {
        writeln!(text, "id: {id}").expect("a String takes all");
    }
    writeln!(text, "event: {kind}").expect("a String takes all");
    for line in data.split(['\n', '\r']) {
        text.extend(["data: ", line, "\n"]);
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_get_what_they_ask_for() {
        let event = |text: &str| StoredEvent {
            id: 1,
            event: serde_json::from_str(text).expect("an object"),
        };
        let held = event(r#"{"type":"call.held","call_id":"7","caller":"1001","callee":"1002"}"#);
        let added = event(r#"{"type":"registration.added","extension":"1001"}"#);
        let check = |query: EventsQuery, expect: [bool; 2]| {
            let filter = Filter::new(&query);
            assert_eq!([filter.takes(&held), filter.takes(&added)], expect, "{query:?}");
        };
        let some = |text: &str| Some(text.to_owned());
        let any = EventsQuery::default;
        check(any(), [true, true]);
        check(EventsQuery { types: some("call.*"), ..any() }, [true, false]);
        check(EventsQuery { types: some("call.hel"), ..any() }, [false, false]);
        check(EventsQuery { types: some("node.*, registration.added"), ..any() }, [false, true]);
        check(EventsQuery { call_id: some("7"), ..any() }, [true, false]);
        check(EventsQuery { call_id: some("8"), ..any() }, [false, false]);
        check(EventsQuery { extension: some("1001"), ..any() }, [true, true]);
        check(EventsQuery { extension: some("1002"), ..any() }, [true, false]);
    }
}
