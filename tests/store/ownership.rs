//! Calls of the dead are claimed once, by one node, with a new epoch; their former owner is fenced.

use crate::database::Database;
use crate::samples::{by, commit, ended, save};
use holdfast::ids::{CallId, Epoch, Incarnation, NodeName, Rev};
use holdfast::net::clock;
use holdfast::store::{CallOutcome, ClaimedCall, NodeRow, Store};
use std::time::Duration;

on_both!(
    a_dead_owners_calls_are_claimed,
    two_claimers_never_have_the_same_call,
    one_call_is_claimed_by_itself,
    who_renewed_its_lease_is_not_claimed_from,
    a_call_that_no_claimer_saves_is_told_from_the_others,
    the_stores_clock_goes,
);

const DEAD: Incarnation = Incarnation(1);

async fn claim(store: &Store, to: u64, limit: u32) -> Vec<ClaimedCall> {
    let mut claimed = store.claim(DEAD, Incarnation(to), limit, None).await.expect("writable");
    claimed.sort_by_key(|call| call.id);
    claimed
}

async fn owned(store: &Store, owner: Incarnation) -> usize {
    store.owned(owner).await.expect("readable").len()
}

async fn a_dead_owners_calls_are_claimed(database: &Database) {
    let store = database.open().await;
    commit(&store, (1..=10).map(|id| save(id, 3)).collect()).await;
    commit(&store, vec![by(9, 1, save(20, 1)), ended(save(30, 1))]).await;
    assert_eq!(claim(&store, 5, 4).await.len(), 4, "no more than asked for");
    assert_eq!((owned(&store, DEAD).await, owned(&store, Incarnation(5)).await), (6, 4));
    let rest = claim(&store, 5, 100).await;
    assert_eq!(rest.iter().map(|call| call.epoch).collect::<Vec<_>>(), [Epoch(2); 6], "the rest");
    assert_eq!(claim(&store, 5, 100).await, [], "and no other's, nor what is over");
    assert_eq!(store.owner(CallId(20)).await.expect("readable"), Some(Incarnation(9)));
    assert_eq!(store.owner(CallId(7)).await.expect("readable"), Some(Incarnation(5)));
    assert_eq!(commit(&store, vec![ended(save(7, 4))]).await, [CallOutcome::Fenced]);
    let next = by(5, 2, save(7, 4));
    assert_eq!(commit(&store, vec![next]).await, [CallOutcome::Done]);
}

async fn two_claimers_never_have_the_same_call(database: &Database) {
    let (one, other) = (database.open().await, database.open().await);
    commit(&one, (0..400).map(|id| save(id, 1)).collect()).await;
    let all = |store: Store, to: u64| async move {
        let mut mine: Vec<CallId> = Vec::new();
        // Rows that the other has locked are passed over; nobody comes back to them but their owner's heir.
        while owned(&store, DEAD).await > 0 {
            mine.extend(claim(&store, to, 7).await.iter().map(|call| call.id));
        }
        mine
    };
    let (first, second) = tokio::join!(tokio::spawn(all(one, 5)), tokio::spawn(all(other, 6)));
    let mut ids = [first.expect("no panic"), second.expect("no panic")].concat();
    ids.sort();
    assert_eq!(ids, (0..400).map(CallId).collect::<Vec<_>>(), "each once");
}

async fn one_call_is_claimed_by_itself(database: &Database) {
    let store = database.open().await;
    commit(&store, vec![save(1, 3), save(2, 1), ended(save(3, 1))]).await;
    let key = save(1, 3).key;
    assert_eq!(store.call_of_key(&key).await.expect("readable"), Some(CallId(1)));
    assert_eq!(store.call_of_key(&[9; 16]).await.expect("readable"), None);
    assert_eq!(store.call_of_key(&save(3, 1).key).await.expect("readable"), None, "over");
    let take = async |id: u128, from: Incarnation| {
        let taken = store.claim_call(CallId(id), from, Incarnation(5), None).await;
        taken.expect("writable")
    };
    assert_eq!(take(1, Incarnation(8)).await, None, "another's");
    let expect = ClaimedCall {
        id: CallId(1),
        key,
        epoch: Epoch(2),
        rev: Rev(3),
        record: save(1, 3).record,
        claims: 1,
    };
    assert_eq!(take(1, DEAD).await, Some(expect));
    assert_eq!(take(1, DEAD).await, None, "taken already");
    assert_eq!(take(3, DEAD).await, None, "over");
    assert_eq!(store.owner(CallId(3)).await.expect("readable"), None);
    assert_eq!(store.owner(CallId(2)).await.expect("readable"), Some(DEAD), "left alone");
}

async fn a_call_that_no_claimer_saves_is_told_from_the_others(database: &Database) {
    let store = database.open().await;
    commit(&store, vec![save(1, 3), save(2, 3)]).await;
    let all = claim(&store, 5, 100).await;
    assert_eq!(all.iter().map(|call| call.claims).collect::<Vec<_>>(), [1, 1]);
    // The claimer lived to save the first one, then died.
    assert_eq!(commit(&store, vec![by(5, 2, save(1, 4))]).await, [CallOutcome::Done]);
    let (dead, heir) = (Incarnation(5), Incarnation(6));
    let next = store.claim(dead, heir, 100, None).await.expect("writable");
    assert_eq!(
        next.iter().map(|call| (call.id, call.claims)).collect::<Vec<_>>(),
        [(CallId(1), 1)]
    );
    let suspect =
        store.claim_suspect(dead, heir, None).await.expect("writable").expect("the other");
    assert_eq!((suspect.id, suspect.claims), (CallId(2), 2));
    assert_eq!(store.claim_suspect(dead, heir, None).await.expect("writable"), None);
    let again =
        store.claim_call(CallId(2), heir, dead, None).await.expect("writable").expect("there");
    assert_eq!(again.claims, 3);
    // The answer was lost, the claimer lives.
    let asked =
        store.claim_call(CallId(2), dead, dead, None).await.expect("writable").expect("its own");
    assert_eq!((asked.claims, asked.epoch), (3, Epoch(again.epoch.0 + 1)));
}

async fn the_stores_clock_goes(database: &Database) {
    let store = database.open().await;
    let before = store.clock().await.expect("readable");
    let apart = before.as_micros().abs_diff(clock::now().as_micros());
    assert!(Duration::from_micros(apart) < Duration::from_secs(20), "as the wall's");
    let after = store.clock().await.expect("readable");
    assert!(after >= before);
}

/// Between a look at its row and the claim.
async fn who_renewed_its_lease_is_not_claimed_from(database: &Database) {
    let store = database.open().await;
    commit(&store, (1..=5).map(|id| save(id, 1)).collect()).await;
    let (owner, former, heir) = (Incarnation(1), Incarnation(4), Incarnation(5));
    // Two of them a claimer died with.
    for id in [4, 5] {
        for (from, to) in [(owner, former), (former, owner)] {
            store.claim_call(CallId(id), from, to, None).await.expect("writable").expect("its");
        }
    }
    let row = NodeRow {
        name: NodeName("one".into()),
        incarnation: owner,
        mode: "signaling".to_owned(),
        control: Vec::new(),
        seen_at: clock::now(),
        view: "{}".to_owned(),
    };
    store.write_node(&row).await.expect("writable");
    let looked_at = store.nodes().await.expect("readable")[0].seen_at;
    let claim = async |call, seen_at| {
        let claimed = store.claim_call(CallId(call), owner, heir, seen_at).await;
        claimed.expect("writable").is_some()
    };
    let claim_all = async |seen_at| {
        let claimed = store.claim(owner, heir, 1, seen_at).await.expect("writable");
        let suspect = store.claim_suspect(owner, heir, seen_at).await.expect("writable");
        (claimed.len(), suspect.iter().count())
    };
    assert!(claim(1, Some(looked_at)).await, "silent still");
    assert_eq!(claim_all(Some(looked_at)).await, (1, 1));
    store.renew(owner).await.expect("writable");
    assert!(store.nodes().await.expect("readable")[0].seen_at > looked_at);
    assert_eq!(claim_all(Some(looked_at)).await, (0, 0), "it lives");
    let left = store.owned(owner).await.expect("readable");
    assert_eq!(left.len(), 2);
    for id in left.iter().map(|id| id.0) {
        assert!(!claim(id, Some(looked_at)).await, "it lives");
    }
    assert_eq!(claim_all(None).await, (1, 1), "it is proven dead");
    for id in left.iter().map(|id| id.0) {
        assert!(!claim(id, None).await, "another's by now");
    }
}
