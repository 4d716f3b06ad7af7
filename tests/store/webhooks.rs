//! Webhooks in either store: a duty is one node's at a time, and only that one settles a round.

use crate::database::Database;
use holdfast::ids::Incarnation;
use holdfast::store::{Delivery, Settlement, Store, StoredWebhook};
use holdfast::time::Timestamp;
use std::time::Duration;

on_both!(
    a_webhook_lives,
    a_duty_is_one_nodes_at_a_time,
    a_round_is_settled_whole_by_who_has_the_duty,
    the_oldest_of_those_given_up_are_forgotten,
);

const ONE: Incarnation = Incarnation(1);
const OTHER: Incarnation = Incarnation(2);
const LONG: Duration = Duration::from_secs(60);
const MOST: u32 = 100;

async fn hook(store: &Store, id: &str) {
    let hook = StoredWebhook {
        id: id.to_owned(),
        document: "{}".to_owned(),
        secret: vec![0, 255],
        cursor: 7,
        owed: 0,
        dead: 0,
    };
    store.add_webhook(&hook).await.expect("added");
}

fn delivery(event: u64, due: Option<u64>) -> Delivery {
    let document = format!("{{\"event\": {event}}}");
    Delivery { event, document, due_at: due.map(Timestamp::from_millis) }
}

async fn events(store: &Store, id: &str, dead: bool) -> Vec<u64> {
    let found = store.deliveries(id, dead, 0, MOST).await.expect("readable");
    found.into_iter().map(|delivery| delivery.event).collect()
}

async fn a_webhook_lives(database: &Database) {
    let store = database.open().await;
    hook(&store, "b").await;
    hook(&store, "a").await;
    let all = store.webhooks().await.expect("readable");
    let ids: Vec<&str> = all.iter().map(|hook| hook.id.as_str()).collect();
    assert_eq!(ids, ["a", "b"]);
    assert_eq!((all[0].cursor, &all[0].secret), (7, &vec![0, 255]));
    assert!(store.change_webhook("a", "{\"x\":1}", None, None).await.expect("changed"));
    assert!(store.change_webhook("b", "{}", Some(9), None).await.expect("changed"));
    assert!(!store.change_webhook("c", "{}", None, None).await.expect("no such"));
    let all = store.webhooks().await.expect("readable");
    assert_eq!((all[0].cursor, all[0].document.as_str()), (7, "{\"x\":1}"));
    assert_eq!(all[1].cursor, 9);
    assert!(store.remove_webhook("a", None).await.expect("removed"));
    assert!(!store.remove_webhook("a", None).await.expect("gone"));
}

async fn a_duty_is_one_nodes_at_a_time(database: &Database) {
    let store = database.open().await;
    let takes = |who, life| {
        let store = store.clone();
        async move { store.take_duty("x", who, life).await.expect("an answer") }
    };
    assert!(takes(ONE, LONG).await);
    assert!(!takes(OTHER, LONG).await, "it is the first one's");
    assert!(takes(ONE, LONG).await, "who renews it");
    assert!(store.take_duty("y", OTHER, LONG).await.expect("an answer"), "another duty");
    store.leave_duty("x", OTHER).await.expect("left");
    assert!(!takes(OTHER, LONG).await, "nobody leaves what is another's");
    store.leave_duty("x", ONE).await.expect("left");
    assert!(takes(OTHER, Duration::from_millis(50)).await, "what was left");
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(takes(ONE, LONG).await, "what was not renewed");
    assert_eq!(store.duty_position("x").await.expect("an answer"), None);
    assert!(store.move_duty("x", ONE, 7).await.expect("an answer"));
    assert!(!store.move_duty("x", OTHER, 9).await.expect("an answer"), "it is not its own");
    assert_eq!(store.duty_position("x").await.expect("an answer"), Some(7));
    // Nobody takes a duty for longer than this: it is of before the clock was set back.
    assert!(takes(ONE, LONG * 2).await);
    assert!(takes(OTHER, LONG).await, "what would last longer than anybody takes it for");
}

async fn a_round_is_settled_whole_by_who_has_the_duty(database: &Database) {
    let store = database.open().await;
    hook(&store, "a").await;
    let settle = |who, settlement: Settlement| {
        let store = store.clone();
        async move {
            let settled = store.settle_deliveries(("x", who), "a", &settlement, MOST).await;
            settled.expect("an answer")
        }
    };
    let first = Settlement {
        cursor: 12,
        taken: vec![],
        kept: vec![delivery(8, Some(5)), delivery(9, Some(6)), delivery(10, None)],
    };
    assert!(!settle(ONE, first.clone()).await, "nobody has the duty");
    assert!(store.take_duty("x", ONE, LONG).await.expect("an answer"));
    assert!(!settle(OTHER, first.clone()).await);
    assert_eq!(store.webhooks().await.expect("readable")[0].cursor, 7);
    assert_eq!(events(&store, "a", false).await, Vec::<u64>::new());
    assert!(settle(ONE, first).await);
    assert_eq!(events(&store, "a", false).await, [8, 9]);
    assert_eq!(events(&store, "a", true).await, [10]);
    let hooks = store.webhooks().await.expect("readable");
    assert_eq!((hooks[0].cursor, hooks[0].owed, hooks[0].dead), (12, 2, 1));
    let kept = vec![delivery(9, Some(99)), delivery(13, None)];
    assert!(settle(ONE, Settlement { cursor: 11, taken: vec![8], kept }).await);
    let owed = store.deliveries("a", false, 0, MOST).await.expect("readable");
    assert_eq!(owed, [delivery(9, Some(99))]);
    assert_eq!(store.webhooks().await.expect("readable")[0].cursor, 12, "it never goes back");
    let now = Timestamp::from_millis(100);
    assert_eq!(store.resend_deliveries("a", Some(9), now).await.expect("asked"), 0, "not dead");
    assert_eq!(store.resend_deliveries("a", Some(13), now).await.expect("asked"), 1);
    assert_eq!(store.resend_deliveries("a", None, now).await.expect("asked"), 1);
    assert_eq!(events(&store, "a", false).await, [9, 10, 13]);
    assert!(store.remove_webhook("a", None).await.expect("removed"));
    assert_eq!(events(&store, "a", false).await, Vec::<u64>::new(), "with what it was owed");
    assert!(!settle(ONE, Settlement::default()).await, "it is gone");
}

async fn the_oldest_of_those_given_up_are_forgotten(database: &Database) {
    let store = database.open().await;
    hook(&store, "a").await;
    assert!(store.take_duty("x", ONE, LONG).await.expect("an answer"));
    let kept = (1..=5).map(|event| delivery(event, None)).chain([delivery(6, Some(1))]).collect();
    let settlement = Settlement { cursor: 6, taken: vec![], kept };
    assert!(store.settle_deliveries(("x", ONE), "a", &settlement, 3).await.expect("an answer"));
    assert_eq!(events(&store, "a", true).await, [3, 4, 5]);
    assert_eq!(events(&store, "a", false).await, [6]);
}
