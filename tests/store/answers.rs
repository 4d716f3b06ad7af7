//! What repeated requests were answered: one run at a time, of all nodes.

use crate::database::Database;
use holdfast::store::{Answered, Asked};
use holdfast::time::Timestamp;
use std::time::Duration;

on_both!(
    one_run_counts_and_its_answer_is_kept,
    of_many_at_once_one_begins,
    a_run_that_died_is_begun_anew,
    what_is_old_is_forgotten,
);

fn asked(key: &str, run: u64) -> Asked {
    Asked { token: "t".to_owned(), key: key.to_owned(), hash: [7; 32], run }
}

fn now() -> Timestamp {
    holdfast::net::clock::now()
}

async fn one_run_counts_and_its_answer_is_kept(database: &Database) {
    let (one, two) = (database.open().await, database.open().await);
    assert_eq!(one.begin_answer(&asked("a", 1), now()).await.expect("begun"), Answered::Begun);
    let again = two.begin_answer(&asked("a", 2), now()).await.expect("an answer");
    assert_eq!(again, Answered::Running, "at another node");
    two.end_answer(&asked("a", 2), Some(vec![9])).await.expect("written");
    let again = two.begin_answer(&asked("a", 2), now()).await.expect("an answer");
    assert_eq!(again, Answered::Running, "a run that does not count says nothing");
    one.end_answer(&asked("a", 1), Some(vec![0, 255])).await.expect("written");
    let again = two.begin_answer(&asked("a", 3), now()).await.expect("an answer");
    assert_eq!(again, Answered::Before(vec![0, 255]));
    let other = Asked { hash: [8; 32], ..asked("a", 4) };
    assert_eq!(two.begin_answer(&other, now()).await.expect("an answer"), Answered::Other);
    let other = Asked { token: "u".to_owned(), ..asked("a", 5) };
    assert_eq!(two.begin_answer(&other, now()).await.expect("an answer"), Answered::Begun);
    // What came to nothing is begun anew, under another body too.
    two.end_answer(&other, None).await.expect("forgotten");
    let other = Asked { hash: [8; 32], run: 6, ..other };
    assert_eq!(one.begin_answer(&other, now()).await.expect("an answer"), Answered::Begun);
}

async fn of_many_at_once_one_begins(database: &Database) {
    let stores = [database.open().await, database.open().await];
    let tries = (0..20).map(|run| {
        let store = stores[usize::from(run % 2 == 0)].clone();
        tokio::spawn(async move { store.begin_answer(&asked("a", run), now()).await })
    });
    let mut begun = 0;
    for one in tries.collect::<Vec<_>>() {
        match one.await.expect("no panic").expect("an answer") {
            Answered::Begun => begun += 1,
            other => assert_eq!(other, Answered::Running),
        }
    }
    assert_eq!(begun, 1);
}

/// Puts what is kept so far into the past.
async fn age(database: &Database, by: Duration) {
    let micros = by.as_micros();
    database.execute(&format!("update answers set at = at - {micros}")).await;
}

async fn a_run_that_died_is_begun_anew(database: &Database) {
    let store = database.open().await;
    store.begin_answer(&asked("a", 1), now()).await.expect("begun");
    age(database, Duration::from_secs(50)).await;
    let again = store.begin_answer(&asked("a", 2), now()).await.expect("an answer");
    assert_eq!(again, Answered::Running, "it may live");
    age(database, Duration::from_secs(15)).await;
    let other = Asked { hash: [8; 32], ..asked("a", 2) };
    assert_eq!(store.begin_answer(&other, now()).await.expect("an answer"), Answered::Other);
    let again = store.begin_answer(&asked("a", 2), now()).await.expect("an answer");
    assert_eq!(again, Answered::Begun);
    store.end_answer(&asked("a", 1), Some(vec![1])).await.expect("nothing");
    store.end_answer(&asked("a", 2), Some(vec![2])).await.expect("written");
    let again = store.begin_answer(&asked("a", 3), now()).await.expect("an answer");
    assert_eq!(again, Answered::Before(vec![2]));
}

async fn what_is_old_is_forgotten(database: &Database) {
    let store = database.open().await;
    for key in ["a", "b"] {
        store.begin_answer(&asked(key, 1), now()).await.expect("begun");
        store.end_answer(&asked(key, 1), Some(vec![1])).await.expect("written");
    }
    age(database, Duration::from_secs(25 * 3_600)).await;
    let other = Asked { hash: [8; 32], ..asked("a", 2) };
    let again = store.begin_answer(&other, now()).await.expect("an answer");
    assert_eq!(again, Answered::Begun, "its day is over, swept or not");
    store.sweep(now()).await.expect("swept");
    database.execute("insert into settings (name, value) select key, token from answers").await;
    assert_eq!(store.setting("a").await.expect("readable").as_deref(), Some("t"), "young");
    assert_eq!(store.setting("b").await.expect("readable"), None, "swept");
}
