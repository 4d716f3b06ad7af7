//! Lines of the audit log: begun, and ended in their place.

use crate::database::Database;
use holdfast::store::Store;
use holdfast::time::Timestamp;

on_both!(a_line_is_ended_in_its_place, what_is_in_another_place_is_left_alone);

const AT: Timestamp = Timestamp::from_millis(1_700_000_000_000);

/// All lines, the newest first.
async fn lines(store: &Store) -> Vec<(u64, String)> {
    store.audit(None, 10).await.expect("readable")
}

async fn a_line_is_ended_in_its_place(database: &Database) {
    let store = database.open().await;
    let first = store.add_audit(AT, "begun").await.expect("written");
    let second = store.add_audit(AT, "another").await.expect("written");
    assert!(second > first);
    // What is said twice, because nobody knew whether it was heard, is said once.
    for _ in 0..2 {
        store.end_audit(AT, "ended", Some((first, "begun"))).await.expect("written");
        let expect = [(second, "another".to_owned()), (first, "ended".to_owned())];
        assert_eq!(lines(&store).await, expect);
    }
    store.end_audit(AT, "at once", None).await.expect("written");
    assert_eq!(lines(&store).await[0].1, "at once");
}

/// A replica that had not heard of a line gave its number away after a failover.
async fn what_is_in_another_place_is_left_alone(database: &Database) {
    let store = database.open().await;
    let sequence = store.add_audit(AT, "another's").await.expect("written");
    store.end_audit(AT, "ended", Some((sequence, "begun"))).await.expect("written");
    store.end_audit(AT, "also ended", Some((sequence + 100, "begun"))).await.expect("written");
    let told: Vec<String> = lines(&store).await.into_iter().map(|(_, line)| line).collect();
    assert_eq!(told, ["also ended", "ended", "another's"]);
}
