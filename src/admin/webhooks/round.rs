//! A round of deliveries as pure functions: what is to be tried, in which order, and what is kept of it.
//!
//! Invariants: events of one call go one after the other, each after the one before it was taken or given up; what was
//! not taken is kept, and events of its call wait behind it.

use crate::store::{Delivery, Settlement, StoredEvent};
use crate::time::Timestamp;
use crate::views::{EventDocument, EventGist, Rfc3339};
use core::time::Duration;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Tries of an event; with the pauses between them they take about two hours.
pub(super) const ATTEMPTS: u32 = 20;
/// Before the second try; before each further one twice as much.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// At most.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);
/// Owed events of different calls tried in one round.
const OWED_LINES: usize = 64;

/// An event as it is kept for a receiver.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Kept {
    pub event: EventDocument,
    #[serde(default)]
    pub attempts: u32,
    #[serde(default)]
    pub tried_at: Option<Rfc3339>,
    #[serde(default)]
    pub error: Option<String>,
}

/// An event to be posted.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Job {
    pub id: u64,
    pub kept: Kept,
    /// It stands in the store already.
    is_owed: bool,
}

/// Events that go one after the other.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Line {
    pub jobs: Vec<Job>,
    /// Its first one is not tried before this.
    due_at: Timestamp,
}

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Plan {
    pub lines: Vec<Line>,
    /// New ones that wait behind others.
    pub waiting: Vec<Delivery>,
}

/// Whom an event is of: what has the same is told in order.
fn key(event: &EventDocument) -> String {
    let EventGist { call_id, extension, username, media_node, node, .. } = event.gist();
    let names = [call_id, extension, username, media_node, node];
    let named = names.into_iter().find(|name| !name.is_empty());
    named.unwrap_or_default().into_owned()
}

/// What is due of what is owed, and what is new.
pub(super) fn plan(owed: Vec<Delivery>, new: Vec<StoredEvent>, now: Timestamp) -> Plan {
    let mut lines: BTreeMap<String, Line> = BTreeMap::new();
    for delivery in owed {
        let Ok(kept) = serde_json::from_str::<Kept>(&delivery.document) else { continue };
        let line = lines.entry(key(&kept.event)).or_default();
        if line.jobs.is_empty() {
            line.due_at = delivery.due_at.unwrap_or_default();
        }
        line.jobs.push(Job { id: delivery.event, kept, is_owed: true });
    }
    for StoredEvent { id, event } in new {
        let line = lines.entry(key(&event)).or_default();
        let kept = Kept { event, attempts: 0, tried_at: None, error: None };
        line.jobs.push(Job { id, kept, is_owed: false });
    }
    let mut plan = Plan::default();
    let (mut due, wait): (Vec<Line>, Vec<Line>) =
        lines.into_values().partition(|line| line.due_at <= now);
    due.sort_by_key(|line| (line.due_at, line.jobs.first().map(|job| job.id)));
    let mut owed_lines = 0;
    for line in due {
        owed_lines += usize::from(line.jobs.iter().any(|job| job.is_owed));
        let is_owed = line.jobs.first().is_some_and(|job| job.is_owed);
        match is_owed && owed_lines > OWED_LINES {
            true => plan.waiting.extend(line.waiting()),
            false => plan.lines.push(line),
        }
    }
    plan.waiting.extend(wait.iter().flat_map(Line::waiting));
    plan
}

impl Line {
    /// Its new ones, to be kept behind those that are owed.
    fn waiting(&self) -> Vec<Delivery> {
        let new = self.jobs.iter().filter(|job| !job.is_owed);
        new.map(|job| job.kept_until(Some(self.due_at))).collect()
    }
}

impl Job {
    fn kept_until(&self, due_at: Option<Timestamp>) -> Delivery {
        let document = serde_json::to_string(&self.kept).expect("a kept event is plain data");
        Delivery { event: self.id, document, due_at }
    }

    /// What is posted.
    pub(super) fn body(&self) -> String {
        self.kept.event.with_id(self.id)
    }
}

/// What came of the jobs of a line, as they are tried.
#[derive(Clone, Debug, Default)]
pub(super) struct Outcome {
    /// The first that failed is tried again then; the others wait for it.
    blocked_until: Option<Timestamp>,
    pub settled: Settlement,
}

impl Outcome {
    /// Those behind one that failed are not tried.
    pub(super) const fn is_blocked(&self) -> bool {
        self.blocked_until.is_some()
    }

    /// It was not tried: one before it failed.
    pub(super) fn skip(&mut self, job: &Job) {
        if !job.is_owed {
            self.settled.kept.push(job.kept_until(self.blocked_until));
        }
    }

    /// The receiver has it.
    pub(super) fn take(&mut self, job: &Job) {
        if job.is_owed {
            self.settled.taken.push(job.id);
        }
    }

    /// The receiver has it not; true: it is given up. `chance` is 0 to 1.
    pub(super) fn fail(&mut self, job: Job, error: String, now: Timestamp, chance: f64) -> bool {
        let mut job = job;
        job.kept.attempts += 1;
        job.kept.tried_at = Some(Rfc3339(now));
        job.kept.error = Some(error);
        let is_dead = job.kept.attempts >= ATTEMPTS;
        let due_at = (!is_dead).then(|| now + pause(job.kept.attempts, chance));
        self.blocked_until = due_at;
        self.settled.kept.push(job.kept_until(due_at));
        is_dead
    }
}

/// After so many tries: between half of it and all of it, so that what failed together does not come together again.
fn pause(attempts: u32, chance: f64) -> Duration {
    let doubled = FIRST_PAUSE.saturating_mul(1 << attempts.saturating_sub(1).min(16));
    doubled.min(LONGEST_PAUSE).mul_f64(0.5 + chance.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(id: u64, call: &str) -> StoredEvent {
        let text = format!(r#"{{"type":"call.created","call_id":"{call}","node":"a"}}"#);
        StoredEvent { id, event: serde_json::from_str(&text).expect("an object") }
    }

    fn owed(id: u64, call: &str, due: u64) -> Delivery {
        let kept = Kept { event: event(id, call).event, attempts: 1, tried_at: None, error: None };
        let document = serde_json::to_string(&kept).expect("plain");
        Delivery { event: id, document, due_at: Some(Timestamp::from_millis(due)) }
    }

    fn ids(line: &Line) -> Vec<u64> {
        line.jobs.iter().map(|job| job.id).collect()
    }

    #[test]
    fn events_of_a_call_wait_for_those_before_them() {
        let now = Timestamp::from_millis(100);
        let owed = vec![owed(1, "a", 50), owed(2, "b", 150), owed(3, "a", 50)];
        let new = vec![event(4, "a"), event(5, "b"), event(6, "c"), event(7, "c")];
        let plan = plan(owed, new, now);
        let mut lines: Vec<Vec<u64>> = plan.lines.iter().map(ids).collect();
        lines.sort();
        assert_eq!(lines, [vec![1, 3, 4], vec![6, 7]]);
        let waiting: Vec<u64> = plan.waiting.iter().map(|delivery| delivery.event).collect();
        assert_eq!(waiting, [5]);
        assert_eq!(plan.waiting[0].due_at, Some(Timestamp::from_millis(150)));
    }

    #[test]
    fn what_fails_is_kept_and_holds_up_its_call() {
        let now = Timestamp::from_millis(1_000_000);
        let plan = plan(vec![owed(1, "a", 0)], vec![event(2, "a"), event(3, "a")], now);
        let [first, second, third] = &plan.lines[0].jobs[..] else { panic!("{plan:?}") };
        let mut outcome = Outcome::default();
        outcome.take(first);
        assert!(!outcome.fail(second.clone(), "500".to_owned(), now, 1.0));
        assert!(outcome.is_blocked());
        outcome.skip(third);
        assert_eq!(outcome.settled.taken, [1]);
        let due = Some(now + FIRST_PAUSE);
        let kept: Vec<_> = outcome.settled.kept.iter().map(|one| (one.event, one.due_at)).collect();
        assert_eq!(kept, [(2, due), (3, due)]);
    }

    #[test]
    fn what_fails_for_ever_is_given_up_after_some_hours() {
        let mut all = Duration::ZERO;
        for attempts in 1..ATTEMPTS {
            assert!(pause(attempts, 0.0) < pause(attempts, 1.0));
            assert!(pause(attempts, 1.0) <= LONGEST_PAUSE);
            all += pause(attempts, 1.0);
        }
        assert!((3_600..4 * 3_600).contains(&all.as_secs()), "{all:?}");
        let now = Timestamp::from_millis(5);
        let mut job = Line::default();
        let kept = Kept {
            event: event(1, "a").event,
            attempts: ATTEMPTS - 1,
            tried_at: None,
            error: None,
        };
        job.jobs.push(Job { id: 1, kept, is_owed: true });
        let mut outcome = Outcome::default();
        assert!(outcome.fail(job.jobs.remove(0), "gone".to_owned(), now, 0.5));
        assert!(!outcome.is_blocked(), "those behind it are tried");
        assert_eq!(outcome.settled.kept[0].due_at, None);
    }
}
