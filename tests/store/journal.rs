//! The journal: what it kept reaches the store once, in whatever state the store is by then.

use crate::common::process::Folder;
use crate::database::Database;
use crate::samples::{batch, binding, by, commit, ended, save, second};
use holdfast::directory::Binding;
use holdfast::ids::{CallId, Incarnation};
use holdfast::store::{
    Batch, BindingsWrite, CallOutcome, CdrQuery, JournalFolder, Replayed, Store,
};
use holdfast::time::Timestamp;
use sqlx::{Connection as _, Executor as _, SqliteConnection};

fn folder(folder: &Folder, name: &str) -> JournalFolder {
    JournalFolder::new(folder.file("journal"), name)
}

async fn cdrs(store: &Store) -> usize {
    let query = CdrQuery { limit: 100, ..CdrQuery::default() };
    store.cdrs(&query).await.expect("read").len()
}

async fn rev(store: &Store, id: u128) -> Option<(u64, u64, u64)> {
    let call = store.call(CallId(id)).await.expect("read")?;
    Some((call.owner.0, call.epoch.0, call.rev.0))
}

fn bound(extension: &str, bindings: Vec<Binding>) -> Batch {
    let extension = extension.to_owned();
    Batch { bindings: vec![BindingsWrite { extension, bindings }], ..Batch::default() }
}

on_both!(what_is_newer_is_replayed);

async fn what_is_newer_is_replayed(database: &Database) {
    let store = database.open().await;
    // Older in the store, newer, the same, another owner's since, ended since, and some that it never saw.
    let stored = [save(1, 1), save(2, 9), save(3, 3), by(2, 2, save(4, 1)), save(7, 1)];
    let outcomes = commit(&store, stored.to_vec()).await;
    assert_eq!(outcomes, vec![CallOutcome::Done; 5]);
    commit(&store, vec![ended(save(5, 2)), ended(save(7, 2))]).await;
    let place = Folder::new("journal");
    let own = folder(&place, "one");
    let (journal, _lock) = own.open().await.expect("free");
    let kept = [save(1, 5), save(2, 4), save(3, 3), ended(save(4, 7)), ended(save(5, 2))];
    let kept = [&kept[..], &[save(6, 1), save(7, 1), ended(save(8, 4))]].concat();
    let count = kept.len();
    let outcomes = journal.write(&batch(kept)).await.expect("written");
    assert_eq!(outcomes, vec![CallOutcome::Done; count]);
    assert!(journal.bytes() > 0);
    let replayed = journal.replay(&store).await.expect("replayed");
    // What the store has already counts as taken: a repeat.
    let expected = Replayed { calls: 5, bindings: 0, outdated: 3, refused: 0 };
    assert_eq!(replayed, expected);
    for (id, expected) in [
        (1, Some((1, 1, 5))),
        (2, Some((1, 1, 9))),
        (3, Some((1, 1, 3))),
        (4, Some((2, 2, 1))),
        (5, None),
        (6, Some((1, 1, 1))),
        (7, None),
        (8, None),
    ] {
        assert_eq!(rev(&store, id).await, expected, "call {id}");
    }
    assert_eq!(cdrs(&store).await, 3, "5, 7 and 8, each once; 4 goes on with its new owner");
    assert!(journal.replay(&store).await.expect("replayed").is_empty(), "it is empty now");
    let claimed = store.claim(Incarnation(1), Incarnation(9), 9, None).await.expect("claimed");
    assert_eq!(claimed.len(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_later_registration_stands() {
    let database = Database::sqlite();
    let store = database.open().await;
    let place = Folder::new("journal");
    let own = folder(&place, "one");
    let (journal, _lock) = own.open().await.expect("free");
    let at = |extension: &str, millis: u64| {
        let refreshed_at = Timestamp::from_millis(millis);
        vec![Binding { refreshed_at, ..binding(extension, second(600)) }]
    };
    for (extension, kept, stored) in [("1001", 2, 1), ("1002", 1, 2), ("1003", 5, 5)] {
        let kept = bound(extension, at(extension, kept));
        journal.write(&kept).await.expect("written");
        store.commit(&bound(extension, at(extension, stored))).await.expect("written");
    }
    let replayed = journal.replay(&store).await.expect("replayed");
    assert_eq!((replayed.bindings, replayed.outdated), (2, 1));
    for (extension, expected) in [("1001", 2), ("1002", 2), ("1003", 5)] {
        let found = store.bindings_of(extension).await.expect("read");
        assert_eq!(found, at(extension, expected), "{extension}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_store_has_is_removed_and_nothing_else() {
    let database = Database::sqlite();
    let store = database.open().await;
    let place = Folder::new("journal");
    let own = folder(&place, "one");
    let (journal, _lock) = own.open().await.expect("free");
    journal.write(&batch(vec![ended(save(1, 3)), ended(save(2, 3))])).await.expect("written");
    journal.write(&bound("1001", Vec::new())).await.expect("written");
    journal.remove(&[CallId(1)], &["1001".to_owned()]).await.expect("removed");
    let replayed = journal.replay(&store).await.expect("replayed");
    assert_eq!(replayed, Replayed { calls: 1, ..Replayed::default() });
    assert_eq!(cdrs(&store).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_is_replayed_by_a_sibling_only_when_its_process_is_gone() {
    let database = Database::sqlite();
    let store = database.open().await;
    let place = Folder::new("journal");
    let (one, two) = (folder(&place, "one"), folder(&place, "two"));
    let (journal, lock) = one.open().await.expect("free");
    drop(lock);
    assert!(one.open().await.is_err(), "one process at a time");
    journal.write(&batch(vec![save(1, 1)])).await.expect("written");
    let (_own, lock) = two.open().await.expect("free");
    drop(lock);
    assert!(two.replay_dead(&store).await.expect("nothing to do").is_empty(), "it lives");
    drop(journal);
    let replayed = two.replay_dead(&store).await.expect("replayed");
    assert_eq!(replayed, Replayed { calls: 1, ..Replayed::default() });
    assert_eq!(rev(&store, 1).await, Some((1, 1, 1)));
    assert!(!place.file("journal").join("one.db").exists(), "nothing is left to look at");
    one.open().await.expect("begins anew");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_journal_holds_nobody_up() {
    let database = Database::sqlite();
    let store = database.open().await;
    let place = Folder::new("journal");
    let own = folder(&place, "one");
    let (journal, lock) = own.open().await.expect("free");
    journal.write(&batch(vec![save(1, 1)])).await.expect("written");
    let url = format!("sqlite:{}", place.file("journal").join("one.db").display());
    let mut session = SqliteConnection::connect(&url).await.expect("there");
    session.execute("alter table calls rename to lost").await.expect("damaged");
    let replayed = journal.replay_or_set_aside(&store).await.expect("the store works");
    assert_eq!(replayed, None);
    drop((journal, lock));
    assert!(place.file("journal").join("one.db.damaged").exists());
    let (journal, _lock) = own.open().await.expect("begins anew");
    journal.write(&batch(vec![save(2, 1)])).await.expect("written");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_is_away_leaves_the_journal_as_it_is() {
    let mut server = crate::common::postgres::Postgres::start();
    let database = Database::on(&server, "journal").await;
    let store = database.open().await;
    let place = Folder::new("journal");
    let own = folder(&place, "one");
    let (journal, _lock) = own.open().await.expect("free");
    journal.write(&batch(vec![ended(save(1, 3))])).await.expect("written");
    server.stop();
    journal.replay_or_set_aside(&store).await.expect_err("away");
    server.run();
    let replayed = journal.replay(&store).await.expect("replayed");
    assert_eq!(replayed, Replayed { calls: 1, ..Replayed::default() });
    assert_eq!(cdrs(&store).await, 1);
}
