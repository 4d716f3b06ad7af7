//! Saves of calls: written once, fenced by owner, epoch and rev, ended with exactly one CDR.

use crate::database::Database;
use crate::samples::{all_cdrs, batch, bind, by, commit, ended, save, second, user};
use holdfast::call::Save;
use holdfast::ids::{CallId, Epoch, Incarnation, Rev};
use holdfast::store::{Batch, CallOutcome, StoredCall, TOMBSTONE_LIFE};
use std::collections::HashSet;
use std::time::Duration;

on_both!(
    a_call_is_stored_updated_and_ended,
    a_save_repeated_after_a_commit_in_doubt_is_done,
    a_fenced_save_changes_nothing,
    an_ended_call_is_over,
    a_key_belongs_to_one_call,
    a_call_that_the_store_forgot_is_stored_again,
    five_hundred_calls_and_bindings_are_one_commit,
    an_empty_batch_is_nothing,
    tombstones_are_swept_when_they_are_old,
    live_calls_are_found_by_their_owner,
);

fn stored(save: &Save) -> StoredCall {
    StoredCall {
        id: save.id,
        owner: save.owner,
        epoch: save.epoch,
        rev: save.rev,
        record: save.record.clone(),
    }
}

async fn a_call_is_stored_updated_and_ended(database: &Database) {
    let store = database.open().await;
    assert_eq!(store.call(CallId(1)).await.expect("readable"), None);
    for rev in [1, 2, 7] {
        assert_eq!(commit(&store, vec![save(1, rev)]).await, [CallOutcome::Done], "rev {rev}");
        let found = store.call(CallId(1)).await.expect("readable").expect("stored");
        assert_eq!(found, stored(&save(1, rev)));
    }
    assert_eq!(all_cdrs(database, &store).await, []);
    assert_eq!(commit(&store, vec![ended(save(1, 8))]).await, [CallOutcome::Done]);
    assert_eq!(store.call(CallId(1)).await.expect("readable"), None, "a tombstone is no call");
    let cdrs = all_cdrs(database, &store).await;
    let expect = holdfast::views::Cdr { sequence: cdrs[0].sequence, ..crate::samples::cdr(1) };
    assert_eq!(cdrs, [expect]);
}

/// The node that did not hear of its commit offers the same again.
async fn a_save_repeated_after_a_commit_in_doubt_is_done(database: &Database) {
    let store = database.open().await;
    let large = by(u64::MAX >> 1, u64::MAX >> 1, save(2, u64::MAX >> 1));
    for offered in [save(1, 1), save(1, 2), large, ended(save(1, 3)), ended(save(3, 1))] {
        for attempt in 1..=3 {
            let outcomes = commit(&store, vec![offered.clone()]).await;
            let rev = offered.rev;
            assert_eq!(outcomes, [CallOutcome::Done], "{rev:?}, attempt {attempt}");
        }
    }
    let ids: Vec<String> = all_cdrs(database, &store).await.into_iter().map(|cdr| cdr.id).collect();
    assert_eq!(ids, [CallId(1).to_string(), CallId(3).to_string()], "one CDR a call");
}

async fn a_fenced_save_changes_nothing(database: &Database) {
    let store = database.open().await;
    let standing = by(7, 3, save(1, 5));
    assert_eq!(commit(&store, vec![standing.clone()]).await, [CallOutcome::Done]);
    for (owner, epoch, rev, why) in [
        (8, 3, 9, "another owner in the same epoch"),
        (8, 3, 5, "another owner with the same rev"),
        (7, 2, 9, "an older epoch of its own"),
        (8, 2, 9, "an older epoch of another"),
        (7, 3, 4, "an older rev"),
    ] {
        for end in [false, true] {
            let offered = by(owner, epoch, save(1, rev));
            let offered = if end { ended(offered) } else { offered };
            assert_eq!(commit(&store, vec![offered]).await, [CallOutcome::Fenced], "{why}");
            let found = store.call(CallId(1)).await.expect("readable").expect("alive");
            assert_eq!(found, stored(&standing), "{why}");
        }
    }
    assert_eq!(all_cdrs(database, &store).await, [], "a fenced node writes no CDR");
    // A claim: revs are counted within an epoch.
    let claim = by(8, 4, save(1, 1));
    assert_eq!(commit(&store, vec![claim.clone()]).await, [CallOutcome::Done]);
    let late = ended(by(7, 3, save(1, 6)));
    let outcomes = commit(&store, vec![late, ended(by(8, 4, save(2, 1)))]).await;
    assert_eq!(outcomes, [CallOutcome::Fenced, CallOutcome::Done], "each row by itself");
    assert_eq!(store.call(CallId(1)).await.expect("readable"), Some(stored(&claim)));
    assert_eq!(all_cdrs(database, &store).await.len(), 1);
}

async fn an_ended_call_is_over(database: &Database) {
    let store = database.open().await;
    commit(&store, vec![save(1, 1)]).await;
    commit(&store, vec![ended(save(1, 2))]).await;
    for late in [save(1, 1), save(1, 3), ended(save(1, 3)), ended(by(2, 9, save(1, 9)))] {
        assert_eq!(commit(&store, vec![late.clone()]).await, [CallOutcome::Fenced], "{late:?}");
    }
    assert_eq!(store.call(CallId(1)).await.expect("readable"), None);
    assert_eq!(all_cdrs(database, &store).await.len(), 1);
}

/// The key is the phone's INVITE: whoever stored it first has the call, alive or over.
async fn a_key_belongs_to_one_call(database: &Database) {
    let store = database.open().await;
    let same_key = |id: u128| Save { key: [9; 16], ..by(2, 5, save(id, 1)) };
    let outcomes = commit(&store, vec![same_key(1), save(50, 1), same_key(2)]).await;
    let expect = [CallOutcome::Done, CallOutcome::Done, CallOutcome::Duplicate(CallId(1))];
    assert_eq!(outcomes, expect, "within a batch");
    let is_first = [CallOutcome::Duplicate(CallId(1))];
    assert_eq!(commit(&store, vec![ended(same_key(3))]).await, is_first);
    commit(&store, vec![ended(Save { rev: Rev(2), ..same_key(1) })]).await;
    assert_eq!(commit(&store, vec![same_key(4)]).await, is_first, "a tombstone keeps its key");
    for id in 2..=4 {
        assert_eq!(store.call(CallId(id)).await.expect("readable"), None);
    }
    assert_eq!(all_cdrs(database, &store).await.len(), 1, "the first call's");
}

/// After a failover to an older state its owner asserts the call anew, at whatever rev it is.
async fn a_call_that_the_store_forgot_is_stored_again(database: &Database) {
    let store = database.open().await;
    let live = by(3, 4, save(1, 17));
    assert_eq!(commit(&store, vec![live.clone()]).await, [CallOutcome::Done]);
    assert_eq!(store.call(CallId(1)).await.expect("readable"), Some(stored(&live)));
    assert_eq!(commit(&store, vec![ended(save(2, 9))]).await, [CallOutcome::Done]);
    assert_eq!(all_cdrs(database, &store).await.len(), 1);
}

async fn five_hundred_calls_and_bindings_are_one_commit(database: &Database) {
    let store = database.open().await;
    let users: Vec<_> = (0..500).map(|number| user(&format!("{number}"))).collect();
    store.import_users(&users, false).await.expect("an import");
    let bindings: Vec<_> = users.iter().map(|user| bind(&user.extension)).collect();
    let done = vec![CallOutcome::Done; 500];
    for rev in 1..=3 {
        let calls = (0..500).map(|id| {
            let save = Save { record: vec![7; 1_500], ..save(id, rev) };
            if rev == 3 { ended(save) } else { save }
        });
        let batch =
            Batch { calls: calls.collect(), bindings: bindings.clone(), ..Batch::default() };
        assert_eq!(store.commit(&batch).await.expect("a commit"), done, "rev {rev}");
    }
    assert_eq!(store.bindings(second(0)).await.expect("readable").len(), 500);
    let cdrs = all_cdrs(database, &store).await;
    assert_eq!(cdrs.iter().map(|cdr| &cdr.id).collect::<HashSet<_>>().len(), 500);
    assert!(cdrs.is_sorted_by(|one, next| one.sequence < next.sequence));
}

async fn an_empty_batch_is_nothing(database: &Database) {
    let store = database.open().await;
    assert_eq!(store.commit(&Batch::default()).await.expect("a commit"), []);
    let only_bindings = Batch { bindings: vec![bind("1001")], ..Batch::default() };
    assert_eq!(store.commit(&only_bindings).await.expect("a commit"), []);
    assert_eq!(store.bindings_of("1001").await.expect("readable").len(), 1);
}

async fn tombstones_are_swept_when_they_are_old(database: &Database) {
    let store = database.open().await;
    // More than one sweep's worth, all ended by second 40.
    let count: usize = 11_000;
    let ids: Vec<u128> = (0..count as u128).collect();
    for ids in ids.chunks(500) {
        let over = |id: &u128| {
            let mut save = ended(save(*id, 1));
            if let Some(cdr) = &mut save.cdr {
                cdr.ended_at.0 = second(40);
            }
            save
        };
        commit(&store, ids.iter().map(over).collect()).await;
    }
    let live = save(1_000_000, 1);
    commit(&store, vec![live.clone()]).await;
    let old = second(40) + TOMBSTONE_LIFE;
    assert_eq!(store.sweep(old).await.expect("a sweep"), 0, "exactly as old as they may be");
    let repeated = Save { id: CallId(2_000_000), ..save(5, 1) };
    let known = [CallOutcome::Duplicate(CallId(5))];
    assert_eq!(commit(&store, vec![repeated.clone()]).await, known);
    let swept = store.sweep(old + Duration::from_micros(1)).await.expect("a sweep");
    assert_eq!(swept, count as u64);
    assert_eq!(store.sweep(second(1_000_000)).await.expect("a sweep"), 0, "live calls stay");
    assert_eq!(store.call(live.id).await.expect("readable"), Some(stored(&live)));
    assert_eq!(commit(&store, vec![repeated]).await, [CallOutcome::Done], "the key is free");
    assert_eq!(all_cdrs(database, &store).await.len(), count, "CDRs stay");
}

async fn live_calls_are_found_by_their_owner(database: &Database) {
    let store = database.open().await;
    assert_eq!(store.owners().await.expect("readable"), []);
    let calls = [(1, 10), (2, 10), (3, 20), (4, 30), (5, 10)].map(|(id, owner)| {
        let save = by(owner, 1, save(id, 1));
        if id >= 4 { ended(save) } else { save }
    });
    store.commit(&batch(calls.to_vec())).await.expect("a commit");
    let of = async |owner: u64, limit: u32| {
        let found = store.calls_of(Incarnation(owner), limit).await.expect("readable");
        let mut ids: Vec<u128> = found.iter().map(|call| call.id.0).collect();
        ids.sort_unstable();
        ids
    };
    assert_eq!(of(10, 100).await, [1, 2]);
    assert_eq!(of(10, 1).await.len(), 1);
    assert_eq!(of(30, 100).await, [0_u128; 0]);
    let mut owners = store.owners().await.expect("readable");
    owners.sort();
    assert_eq!(owners, [Incarnation(10), Incarnation(20)], "tombstones have no owner");
    let claim = Save { epoch: Epoch(2), ..by(20, 2, save(1, 1)) };
    commit(&store, vec![claim]).await;
    assert_eq!((of(10, 100).await, of(20, 100).await), (vec![2], vec![1, 3]));
}
