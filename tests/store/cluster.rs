//! What the cluster agrees on: rows of nodes, settings, the schema's version.

use crate::database::Database;
use holdfast::ids::{Incarnation, NodeName};
use holdfast::net::clock;
use holdfast::store::{NodeRow, Store, StoreError};
use std::time::Duration;

on_both!(
    a_node_replaces_its_own_row,
    an_older_start_does_not_replace_a_newer_one,
    the_first_setting_stays,
    a_schema_of_the_next_release_is_served,
    a_newer_schema_is_refused,
    a_store_can_be_opened_again,
    it_says_that_it_is_there,
);

fn row(name: &str, incarnation: u64) -> NodeRow {
    NodeRow {
        name: NodeName(name.into()),
        incarnation: Incarnation(incarnation),
        mode: "signaling".to_owned(),
        control: vec![
            "192.0.2.1:5090".parse().expect("an address"),
            "[2001:db8::1]:5090".parse().expect("an address"),
        ],
        seen_at: clock::now(),
        view: r#"{"calls": 3, "name": "a\u0000b"}"#.to_owned(),
    }
}

async fn a_node_replaces_its_own_row(database: &Database) {
    let store = database.open().await;
    assert_eq!(store.nodes().await.expect("readable"), []);
    let second = NodeRow { control: Vec::new(), mode: "media".to_owned(), ..row("host-2", 5) };
    for row in [&second, &row("host-1", 7)] {
        store.write_node(row).await.expect("writable");
    }
    let found = store.nodes().await.expect("readable");
    assert_eq!(found.len(), 2);
    for (found, expect) in found.iter().zip([row("host-1", 7), second]) {
        let apart = found.seen_at.as_micros().abs_diff(expect.seen_at.as_micros());
        assert!(Duration::from_micros(apart) < Duration::from_secs(20), "by the store's clock");
        assert_eq!(*found, NodeRow { seen_at: found.seen_at, ..expect });
    }
    let again = NodeRow { view: "{}".to_owned(), ..row("host-1", 7) };
    store.write_node(&again).await.expect("writable");
    let found = store.nodes().await.expect("readable");
    assert_eq!((found.len(), &*found[0].view), (2, "{}"));
}

async fn an_older_start_does_not_replace_a_newer_one(database: &Database) {
    let store = database.open().await;
    for incarnation in [7, 9, 8] {
        store.write_node(&row("host-1", incarnation)).await.expect("writable");
    }
    let found = store.nodes().await.expect("readable");
    assert_eq!(found.iter().map(|row| row.incarnation.0).collect::<Vec<_>>(), [9]);
}

async fn the_first_setting_stays(database: &Database) {
    let (one, other) = (database.open().await, database.open().await);
    assert_eq!(one.setting("realm").await.expect("readable"), None);
    let first = tokio::spawn(async move { one.setting_or_insert("realm", "a").await });
    let second = tokio::spawn({
        let other = other.clone();
        async move { other.setting_or_insert("realm", "b").await }
    });
    let (first, second) = tokio::join!(first, second);
    let first = first.expect("no panic").expect("writable");
    assert_eq!(first, second.expect("no panic").expect("writable"), "both agree");
    assert_eq!(other.setting("realm").await.expect("readable"), Some(first.clone()));
    assert_eq!(other.setting_or_insert("realm", "c").await.expect("writable"), first);
}

/// Pretends that a later release migrated the database.
async fn with_step(database: &Database, version: i64) {
    drop(database.open().await);
    database
        .execute(&format!(
            "insert into _sqlx_migrations
                 (version, description, installed_on, success, checksum, execution_time)
             select {version}, 'later', installed_on, success, checksum, 0
             from _sqlx_migrations where version = 1"
        ))
        .await;
}

/// A step of it took something away.
async fn needs(database: &Database, steps: i64) {
    let setting = format!("insert into settings (name, value) values ('schema_needs', '{steps}')");
    database.execute(&setting).await;
}

/// During a rolling upgrade the release before runs on it too, and after a roll back.
async fn a_schema_of_the_next_release_is_served(database: &Database) {
    let known = Store::known_schema();
    with_step(database, known + 2).await;
    needs(database, known).await;
    let store = database.open().await;
    assert_eq!(store.users().await.expect("readable"), []);
}

async fn a_newer_schema_is_refused(database: &Database) {
    let known = Store::known_schema();
    with_step(database, known + 2).await;
    needs(database, known + 1).await;
    match Store::connect(database.url()).await {
        Err(StoreError::NewerSchema { found, known: told }) => {
            assert_eq!((found, told), (known + 2, known));
        }
        other => panic!("{other:?}"),
    }
}

async fn a_store_can_be_opened_again(database: &Database) {
    for value in ["a", "b"] {
        let store = database.open().await;
        assert_eq!(store.setting_or_insert("first", value).await.expect("writable"), "a");
        assert_eq!(store.is_embedded(), !database.is_postgres());
    }
}

async fn it_says_that_it_is_there(database: &Database) {
    let store = database.open().await;
    store.ping().await.expect("reachable and writable");
    store.ping().await.expect("again");
}
