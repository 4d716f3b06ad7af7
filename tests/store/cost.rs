//! What statements cost PostgreSQL: updates of calls stay HOT, rows are found by index, a commit is one transaction.

use crate::common::SOON;
use crate::common::postgres::Postgres;
use crate::database::Database;
use crate::samples::{bind, ended, save};
use holdfast::call::Save;
use holdfast::store::{Batch, Store};
use std::time::{Duration, Instant};

/// Calls that live at a time, and how many such generations.
const CALLS: u128 = 100;
const GENERATIONS: u128 = 40;

/// A record of the size that the machines aim at.
fn large(id: u128, rev: u64) -> Save {
    Save { record: vec![u8::try_from(id % 251).unwrap_or(0); 1_200], ..save(id, rev) }
}

/// At first phones register, then calls are created, answered, ended, with as many registrations beside them.
async fn traffic(store: &Store) {
    for number in 0..CALLS {
        let batch = Batch { bindings: vec![bind(&number.to_string())], ..Batch::default() };
        store.commit(&batch).await.expect("a commit");
    }
    for generation in 0..GENERATIONS {
        for rev in 1..=3 {
            let calls = (0..CALLS).map(|number| large(generation * CALLS + number, rev));
            let calls = calls.map(|save| if rev == 3 { ended(save) } else { save });
            let bindings = (0..CALLS).map(|number| bind(&number.to_string())).collect();
            let batch = Batch { calls: calls.collect(), bindings, ..Batch::default() };
            store.commit(&batch).await.expect("a commit");
        }
    }
}

/// Sessions tell their last counts when they end (idle ones after 10 s): asks until `table` had so many updates.
async fn counts(database: &Database, table: &str, updates: i64) -> [i64; 3] {
    let begin = Instant::now();
    loop {
        let mut found = [0; 3];
        for (found, column) in found.iter_mut().zip(["n_tup_upd", "n_tup_hot_upd", "seq_tup_read"])
        {
            let sql = format!("select {column} from pg_stat_user_tables where relname = '{table}'");
            *found = database.number(&sql).await;
        }
        if found[0] >= updates {
            return found;
        }
        assert!(begin.elapsed() < SOON, "{table}: {found:?} of {updates} updates");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Nobody vacuums or analyzes: the first minutes of a new system, whose statements were planned when all was empty.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn updates_are_hot_and_rows_are_found_by_index() {
    // Alone on its server: a transaction of another test keeps old versions of rows from being pruned.
    let server = Postgres::start();
    let database = Database::on(&server, "cost").await;
    let store = database.open().await;
    for table in ["calls", "bindings", "cdrs"] {
        database.execute(&format!("alter table {table} set (autovacuum_enabled = off)")).await;
    }
    traffic(&store).await;
    drop(store);
    let rows = i64::try_from(CALLS * GENERATIONS).expect("few");
    for (table, expect) in [("calls", 2 * rows), ("bindings", 3 * rows)] {
        let [updates, hot, read] = counts(&database, table, expect).await;
        assert_eq!(updates, expect, "{table}");
        assert!(hot * 100 >= updates * 90, "{table}: {hot} of {updates} updates are HOT");
        // Reading the table from end to end once a commit would be a hundred times as many.
        assert!(read <= 4 * rows, "{table}: {read} rows were read without an index");
    }
}

/// A REGISTER and a call that are committed together wait for the disk once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_is_one_transaction() {
    let database = Database::postgres().await;
    let store = database.open().await;
    let batch =
        Batch { calls: vec![ended(save(1, 1))], bindings: vec![bind("1001")], ..Batch::default() };
    store.commit(&batch).await.expect("a commit");
    let transactions = "select count(distinct x) from (
             select xmin::text from calls union all select xmin::text from bindings
             union all select xmin::text from cdrs
         ) as written (x)";
    assert_eq!(database.number(transactions).await, 1);
}
