//! The store away and back: an error within its deadline, never an absence; and it works again by itself.

use crate::common::postgres::Postgres;
use crate::common::process::Folder;
use crate::database::Database;
use crate::samples::{batch, commit, ended, save, user};
use holdfast::ids::CallId;
use holdfast::store::{CallOutcome, Store, StoreError};
use sqlx::{Connection as _, Executor as _};
use std::future::Future;
use std::net::TcpListener;
use std::time::{Duration, Instant};

/// The deadline of a statement and of a commit, and what a busy machine adds.
const STATEMENT: Duration = Duration::from_secs(4);
const COMMIT: Duration = Duration::from_secs(11);

/// Fails as unavailable, in time.
async fn unavailable<T: core::fmt::Debug>(
    within: Duration,
    what: &str,
    work: impl Future<Output = Result<T, StoreError>>,
) {
    let begin = Instant::now();
    match work.await {
        Err(StoreError::Unavailable(_)) => {}
        other => panic!("{what}: {other:?}"),
    }
    let took = begin.elapsed();
    assert!(took < within, "{what} took {took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_goes_and_comes_back() {
    let mut server = Postgres::start();
    let database = Database::on(&server, "away").await;
    let store = database.open().await;
    store.create_user(&user("1001")).await.expect("made");
    commit(&store, vec![save(1, 1)]).await;
    // Several connections, all of which break.
    let reads = (0..6).map(|_| {
        tokio::spawn({
            let store = store.clone();
            async move { store.users().await }
        })
    });
    for read in reads.collect::<Vec<_>>() {
        read.await.expect("no panic").expect("readable");
    }
    for _ in 0..2 {
        server.stop();
        unavailable(STATEMENT, "user", store.user("1001")).await;
        unavailable(COMMIT, "commit", store.commit(&batch(vec![save(1, 2)]))).await;
        unavailable(STATEMENT, "ping", store.ping()).await;
        server.run();
        store.ping().await.expect("back at the first try");
        let found = store.user("1001").await.expect("readable");
        assert_eq!(found, Some(user("1001")));
    }
    assert_eq!(commit(&store, vec![ended(save(1, 2))]).await, [CallOutcome::Done]);
}

/// Without a word: every statement hangs, and so does a new connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_that_does_not_answer_is_given_up() {
    let deaf = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("postgres://holdfast@{}/none", deaf.local_addr().expect("bound"));
    unavailable(STATEMENT, "connect", Store::connect(&url)).await;
}

/// A commit that waits longer than it may is given up, leaves nothing running, and its connection is not used again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_waits_for_a_lock_is_given_up() {
    let database = Database::postgres().await;
    let store = database.open().await;
    commit(&store, vec![save(1, 1)]).await;
    let mut session = database.postgres_session().await;
    let mut lock = session.begin().await.expect("a transaction");
    lock.execute("select from calls for update").await.expect("locked");
    unavailable(COMMIT, "commit", store.commit(&batch(vec![save(1, 2)]))).await;
    let found = store.call(CallId(1)).await.expect("others are served").expect("stored");
    assert_eq!(found.rev.0, 1);
    let running = "select count(*) from pg_stat_activity
         where state <> 'idle' and application_name = 'holdfast' and datname = current_database()";
    assert_eq!(database.number(running).await, 0, "before the lock is released");
    lock.rollback().await.expect("unlocked");
    assert_eq!(commit(&store, vec![save(1, 3)]).await, [CallOutcome::Done]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_that_is_locked_is_given_up() {
    let database = Database::sqlite();
    let store = database.open().await;
    let mut session = database.sqlite_session().await;
    session.execute("begin immediate").await.expect("locked");
    unavailable(STATEMENT, "create_user", store.create_user(&user("1001"))).await;
    unavailable(STATEMENT, "ping", store.ping()).await;
    unavailable(COMMIT, "commit", store.commit(&batch(vec![save(1, 1)]))).await;
    assert_eq!(store.user("1001").await.expect("readers are served"), None);
    session.execute("rollback").await.expect("unlocked");
    store.ping().await.expect("back");
    store.create_user(&user("1001")).await.expect("made");
    assert_eq!(commit(&store, vec![save(1, 1)]).await, [CallOutcome::Done]);
}

#[tokio::test]
async fn sqlite_that_cannot_be_written_says_where() {
    let folder = Folder::new("store");
    let file = folder.file("file");
    std::fs::write(&file, "").expect("a file");
    let path = file.join("holdfast.db");
    match Store::connect(&format!("sqlite:{}", path.display())).await {
        Err(StoreError::Unavailable(why)) => assert!(why.contains("file"), "{why}"),
        other => panic!("{other:?}"),
    }
}
