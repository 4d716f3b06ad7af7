//! Several hosts in one URL: they are tried in turn for one that takes writes, at the start and whenever it goes.

use crate::common::postgres::Postgres;
use crate::common::{SOON, ports};
use crate::database::Database;
use crate::samples::{batch, commit, save};
use holdfast::store::{CallOutcome, Store, StoreError};
use std::time::Instant;

fn url(hosts: &[&str]) -> String {
    format!("postgres://holdfast@{}/cluster", hosts.join(","))
}

fn dead() -> String {
    format!("127.0.0.1:{}", ports::port())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_host_is_taken_when_one_is_dead_or_takes_no_writes() {
    let (mut first, second) = (Postgres::start(), Postgres::start());
    let one = Database::on(&first, "cluster").await;
    let other = Database::on(&second, "cluster").await;
    let (first_host, second_host) = (first.host(), second.host());

    let store = Store::connect(&url(&[&dead(), &second_host])).await.expect("the second host");
    commit(&store, vec![save(1, 1)]).await;
    assert_eq!(other.number("select count(*) from calls").await, 1);

    read_only(&one, "on").await;
    let store = Store::connect(&url(&[&first_host, &second_host])).await.expect("the second host");
    commit(&store, vec![save(2, 1)]).await;
    assert_eq!(other.number("select count(*) from calls").await, 2);
    match Store::connect(one.url()).await {
        Err(StoreError::Unavailable(why)) => assert!(why.contains("no writes"), "{why}"),
        found => panic!("{found:?}"),
    }

    // The roles change: the one that was taken becomes a replica, as after a switch-over.
    read_only(&one, "off").await;
    drop(one.open().await);
    read_only(&other, "on").await;
    back_at_work(&store, 3).await;
    assert_eq!(one.number("select count(*) from calls").await, 1, "on the first host now");

    read_only(&other, "off").await;
    first.stop();
    back_at_work(&store, 4).await;
    assert_eq!(other.number("select count(*) from calls").await, 3, "on the second again");
}

/// As a replica: whoever is connected already is told too.
async fn read_only(database: &Database, value: &str) {
    let sql = format!("alter system set default_transaction_read_only = {value}");
    database.execute(&sql).await;
    database.execute("select pg_reload_conf()").await;
    let now = "select (setting = 'on')::int::bigint from pg_settings
         where name = 'default_transaction_read_only'";
    let begin = Instant::now();
    while database.number(now).await != i64::from(value == "on") {
        assert!(begin.elapsed() < SOON, "the setting is read");
    }
}

/// The caller tries again after an error, as the signaling node does.
async fn back_at_work(store: &Store, id: u128) {
    let begin = Instant::now();
    for attempt in 1.. {
        match store.commit(&batch(vec![save(id, 1)])).await {
            Ok(outcomes) => return assert_eq!(outcomes, [CallOutcome::Done]),
            Err(error) => assert!(attempt < 3 && begin.elapsed() < SOON, "{error}"),
        }
    }
}
