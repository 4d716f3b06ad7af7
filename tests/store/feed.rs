//! The change feed: every change reaches who polls, once its transaction is over, however late that is.

use crate::database::Database;
use crate::samples::user;
use holdfast::store::{Change, Store};
use sqlx::{Connection as _, Executor as _};

on_both!(changes_are_read_once, a_user_that_changes_often_is_one_row);

fn name(change: &Change) -> String {
    match change {
        Change::User(user) => format!("+{}", user.extension),
        Change::UserRemoved(extension) => format!("-{extension}"),
    }
}

/// What is new, by name.
async fn poll(database: &Database, store: &Store, position: &mut i64) -> Vec<String> {
    database.settle().await;
    poll_at_once(store, position).await
}

async fn poll_at_once(store: &Store, position: &mut i64) -> Vec<String> {
    let (changes, reached) = store.changes(*position).await.expect("readable");
    assert!(reached >= *position, "it never goes back");
    *position = reached;
    let mut names: Vec<String> = changes.iter().map(name).collect();
    names.sort();
    names
}

async fn changes_are_read_once(database: &Database) {
    let store = database.open().await;
    store.create_user(&user("before")).await.expect("made");
    database.settle().await;
    let mut position = store.change_position().await.expect("readable");
    assert_eq!(poll(database, &store, &mut position).await, [""; 0], "what was there is not news");
    store.create_user(&user("1001")).await.expect("made");
    store.import_users(&[user("1002"), user("1003")], false).await.expect("an import");
    assert_eq!(poll(database, &store, &mut position).await, ["+1001", "+1002", "+1003"]);
    assert_eq!(poll(database, &store, &mut position).await, [""; 0]);
    store.update_user(&user("1002"), None).await.expect("writable");
    store.update_user(&user("1002"), None).await.expect("writable");
    store.delete_user("1001", None).await.expect("writable");
    store.delete_user("nobody", None).await.expect("writable");
    store.update_user(&user("nobody"), None).await.expect("writable");
    assert_eq!(poll(database, &store, &mut position).await, ["+1002", "-1001"], "each user once");
    let mut start = 0;
    let all = poll(database, &store, &mut start).await;
    assert_eq!(all, ["+1002", "+1003", "+before", "-1001"], "from the beginning");
}

/// The feed holds one row a user, not one a change: it needs no sweeping.
async fn a_user_that_changes_often_is_one_row(database: &Database) {
    let store = database.open().await;
    store.create_user(&user("1001")).await.expect("made");
    for _ in 0..50 {
        store.update_user(&user("1001"), None).await.expect("writable");
    }
    assert_eq!(database.number("select count(*) from changes").await, 1);
}

/// A transaction that began first and commits last: a plain serial would have been read past.
#[tokio::test]
async fn a_late_commit_is_not_lost() {
    let database = Database::postgres().await;
    let store = database.open().await;
    store.create_user(&user("1001")).await.expect("made");
    database.settle().await;
    let mut position = store.change_position().await.expect("readable");
    let mut session = database.postgres_session().await;
    let mut late = session.begin().await.expect("a transaction");
    late.execute(
        "insert into users select 'late', replace(document, '1001', 'late') from users;
         insert into changes (extension) values ('late')",
    )
    .await
    .expect("written");
    store.create_user(&user("1002")).await.expect("made");
    let mut seen = poll_at_once(&store, &mut position).await;
    assert!(!seen.contains(&"+late".to_owned()), "it is not committed");
    late.commit().await.expect("committed");
    seen.extend(poll(&database, &store, &mut position).await);
    seen.sort();
    assert_eq!(seen, ["+1002", "+late"]);
    assert_eq!(poll(&database, &store, &mut position).await, [""; 0]);
}
