//! Events: written with the state that they tell of or not at all, in one order that only grows, each once.

use crate::common::process::Folder;
use crate::database::Database;
use crate::samples::{batch, bind, by, commit, ended, save};
use holdfast::call::{Save, Told};
use holdfast::ids::Rev;
use holdfast::store::{Batch, CallOutcome, EVENT_LIFE, JournalFolder, Store};
use holdfast::time::Timestamp;
use sqlx::{Connection as _, Executor as _};

on_both!(
    events_come_with_their_calls_in_order,
    a_fenced_save_tells_of_nothing,
    what_waited_for_a_later_save_is_told_once,
    what_a_journal_kept_is_told_once,
    old_events_are_swept_and_missed,
);

/// A save that tells of these revs.
fn telling(save: Save, revs: &[u64]) -> Save {
    let told = |rev: &u64| Told {
        rev: Rev(*rev),
        document: format!(r#"{{"type":"{} {rev}"}}"#, save.id.0),
    };
    Save { told: revs.iter().map(told).collect(), ..save }
}

async fn types(database: &Database, store: &Store, after: u64) -> Vec<String> {
    database.settle().await;
    read(store, after).await.0
}

/// The types of what can be read now, and the id of the last.
async fn read(store: &Store, after: u64) -> (Vec<String>, u64) {
    let events = store.events(after, 1_000).await.expect("readable");
    assert!(events.is_sorted_by_key(|event| event.id));
    assert!(events.iter().all(|event| event.id > after));
    let kind = |event: &holdfast::store::StoredEvent| event.event.gist().kind.into_owned();
    (events.iter().map(kind).collect(), events.last().map_or(after, |event| event.id))
}

async fn events_come_with_their_calls_in_order(database: &Database) {
    let store = database.open().await;
    assert_eq!(store.last_event().await.expect("readable"), 0);
    let told = vec![r#"{"type":"alone"}"#.to_owned()];
    let calls = vec![telling(save(1, 1), &[1]), save(2, 1), telling(save(3, 1), &[1, 1])];
    let all = Batch { calls, bindings: vec![bind("1001")], told: told.clone() };
    store.commit(&all).await.expect("a commit");
    store.commit(&Batch { told, ..Batch::default() }).await.expect("a commit");
    assert_eq!(types(database, &store, 0).await, ["1 1", "3 1", "3 1", "alone", "alone"]);
    let last = store.last_event().await.expect("readable");
    let end = telling(ended(save(3, 2)), &[2]);
    commit(&store, vec![end, ended(save(1, 2))]).await;
    assert_eq!(types(database, &store, last).await, ["3 2", "call.ended", "call.ended"]);
    let some = store.events(0, 1).await.expect("readable");
    let rest = types(database, &store, some.last().expect("one").id).await;
    assert_eq!(some.len() + rest.len(), 8, "from any id on");
    assert!(store.has_event(last).await.expect("readable"));
}

async fn a_fenced_save_tells_of_nothing(database: &Database) {
    let store = database.open().await;
    commit(&store, vec![telling(by(2, 2, save(1, 1)), &[1])]).await;
    let late = [telling(save(1, 7), &[7]), telling(ended(save(1, 8)), &[8])];
    for late in late {
        let other = telling(save(9, late.rev.0), &[late.rev.0]);
        let outcomes = commit(&store, vec![late, other]).await;
        assert_eq!(outcomes, [CallOutcome::Fenced, CallOutcome::Done]);
    }
    assert_eq!(types(database, &store, 0).await, ["1 1", "9 7", "9 8"]);
}

/// A commit was in doubt, and the next save of the call took its events over.
async fn what_waited_for_a_later_save_is_told_once(database: &Database) {
    let store = database.open().await;
    for (came_true, id) in [(true, 1), (false, 2)] {
        let first = telling(save(id, 1), &[1]);
        let second = telling(save(id, 2), &[2]);
        if came_true {
            commit(&store, vec![first.clone()]).await;
            commit(&store, vec![second.clone()]).await;
        }
        let mut third = telling(ended(save(id, 3)), &[3]);
        let mut second = second;
        second.follow(first);
        third.follow(second);
        for _ in 0..2 {
            assert_eq!(commit(&store, vec![third.clone()]).await, [CallOutcome::Done]);
        }
    }
    let end = "call.ended";
    let expect = ["1 1", "1 2", "1 3", end, "2 1", "2 2", "2 3", end];
    assert_eq!(types(database, &store, 0).await, expect);
}

async fn what_a_journal_kept_is_told_once(database: &Database) {
    let store = database.open().await;
    let place = Folder::new("journal");
    let (journal, _lock) =
        JournalFolder::new(place.file("journal"), "one").open().await.expect("free");
    // The second is in the store too, though its owner does not know.
    commit(&store, vec![telling(save(2, 1), &[1])]).await;
    for rev in 1..=2 {
        let calls = [1, 2].map(|id| telling(save(id, rev), &[rev]));
        journal.write(&batch(calls.to_vec())).await.expect("written");
    }
    journal.write(&batch(vec![ended(save(2, 3))])).await.expect("written");
    journal.replay(&store).await.expect("replayed");
    assert!(journal.replay(&store).await.expect("replayed").is_empty());
    let mut told = types(database, &store, 0).await;
    assert_eq!(told.pop().as_deref(), Some("call.ended"));
    told.sort();
    assert_eq!(told, ["1 1", "1 2", "2 1", "2 2"]);
}

async fn old_events_are_swept_and_missed(database: &Database) {
    let store = database.open().await;
    commit(&store, vec![telling(save(1, 1), &[1])]).await;
    database.settle().await;
    let id = store.last_event().await.expect("readable");
    let now = holdfast::net::clock::now();
    store.sweep(now).await.expect("swept");
    assert!(store.has_event(id).await.expect("readable"), "not so soon");
    let later = Timestamp::from_micros(now.as_micros()) + EVENT_LIFE + EVENT_LIFE;
    store.sweep(later).await.expect("swept");
    assert!(!store.has_event(id).await.expect("readable"));
    assert_eq!(store.last_event().await.expect("readable"), 0);
}

/// The transaction that began first commits last: what it tells must not come to lie below what a reader has seen.
#[tokio::test]
async fn a_reader_misses_no_late_commit() {
    let database = Database::postgres().await;
    let store = database.open().await;
    commit(&store, vec![telling(save(1, 1), &[1])]).await;
    database.settle().await;
    let mut session = database.postgres_session().await;
    let mut late = session.begin().await.expect("a transaction");
    late.execute(
        r#"insert into events (sequence, written_at, document)
        select cdr_sequence(pg_current_xact_id()), written_at, '{"type":"late"}' from events"#,
    )
    .await
    .expect("written");
    commit(&store, vec![telling(save(2, 1), &[1])]).await;
    let (seen, last) = read(&store, 0).await;
    assert_eq!(seen, ["1 1"]);
    assert_eq!(store.last_event().await.expect("readable"), last, "who comes now misses none");
    late.commit().await.expect("committed");
    assert_eq!(types(&database, &store, last).await, ["late", "2 1"]);
}
