//! The simulator's store is the real one: random histories of saves, claims, ends and sweeps leave the same outcomes and
//! the same rows in both.

use crate::database::Database;
use crate::samples::{by, ended, save};
use crate::store_model::StoreModel;
use holdfast::call::Save;
use holdfast::ids::{CallId, Epoch, Incarnation};
use holdfast::store::{Batch, CdrQuery, Store};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use std::time::Duration;

on_both!(histories_are_those_of_the_model);

/// Steps of a history, and histories.
const STEPS: usize = 40;
const HISTORIES: u64 = 12;

#[derive(Clone, Debug)]
enum Step {
    Commit(Vec<Save>),
    Claim { from: u64, to: u64 },
    ClaimCall { id: u128, from: u64, to: u64 },
    ClaimSuspect { from: u64, to: u64 },
    OwnerOf(u128),
    Sweep(u64),
}

/// Few calls, owners, epochs and keys, so that everything meets everything.
fn a_save(base: u128) -> impl Strategy<Value = Save> {
    let numbers = (1..6_u128, 1..6_u128, 1..4_u64, 1..4_u64, 1..8_u64, prop::bool::weighted(0.2));
    numbers.prop_map(move |(id, key, owner, epoch, rev, ends)| {
        let saved = by(owner, epoch, save(base + id, rev));
        // Mostly its own key; now and then another's.
        let key = if key == 5 { base + 1 } else { base + id };
        let saved = Save { key: key.to_be_bytes(), ..saved };
        if ends { ended(saved) } else { saved }
    })
}

fn a_step(base: u128) -> impl Strategy<Value = Step> {
    let batch = prop::collection::vec(a_save(base), 1..5).prop_map(|mut saves| {
        // A call is in a batch at most once.
        saves.sort_by_key(|save| save.id);
        saves.dedup_by_key(|save| save.id);
        Step::Commit(saves)
    });
    prop_oneof![
        6 => batch,
        2 => (1..4_u64, 1..4_u64).prop_map(|(from, to)| Step::Claim { from, to }),
        2 => (1..4_u64, 1..4_u64).prop_map(|(from, to)| Step::ClaimSuspect { from, to }),
        1 => (1..6_u128, 1..4_u64, 1..4_u64)
            .prop_map(move |(id, from, to)| Step::ClaimCall { id: base + id, from, to }),
        1 => (1..6_u128).prop_map(move |id| Step::OwnerOf(base + id)),
        1 => (0..700_u64).prop_map(Step::Sweep),
    ]
}

async fn compare(store: &Store, model: &mut StoreModel, step: Step) {
    match step {
        Step::Commit(calls) => {
            let batch = Batch { calls, ..Batch::default() };
            let outcomes = store.commit(&batch).await.expect("writable");
            assert_eq!(outcomes, model.commit(&batch), "{batch:?}");
        }
        Step::Claim { from, to } => {
            let (from, to) = (Incarnation(from), Incarnation(to));
            let mut claimed = store.claim(from, to, 100, None).await.expect("writable");
            claimed.sort_by_key(|call| call.id);
            assert_eq!(claimed, model.claim(from, to, None));
        }
        Step::ClaimCall { id, from, to } => {
            let (id, from, to) = (CallId(id), Incarnation(from), Incarnation(to));
            let claimed = store.claim_call(id, from, to, None).await.expect("writable");
            assert_eq!(claimed, model.claim_call(id, from, to, None));
        }
        Step::ClaimSuspect { from, to } => {
            let (from, to) = (Incarnation(from), Incarnation(to));
            let suspects = model.suspects(from);
            let claimed = store.claim_suspect(from, to, None).await.expect("writable");
            // Which of them is the database's to choose.
            let known = claimed.as_ref().and_then(|call| {
                assert!(suspects.contains(&call.id), "{} is no suspect", call.id);
                model.claim_call(call.id, from, to, None)
            });
            assert_eq!(claimed, known);
            assert_eq!(claimed.is_none(), suspects.is_empty());
        }
        Step::OwnerOf(id) => {
            let id = CallId(id);
            assert_eq!(store.owner(id).await.expect("readable"), model.owner(id));
            assert_eq!(store.has_ended(id).await.expect("readable"), model.has_ended(id));
        }
        Step::Sweep(seconds) => {
            // The sample calls end a little after their beginning, 10 min before which nothing is swept.
            let now = crate::samples::second(seconds) + Duration::from_secs(600);
            store.sweep(now).await.expect("writable");
            model.sweep(crate::samples::second(seconds));
        }
    }
}

async fn agree(store: &Store, model: &StoreModel) {
    for owner in (1..4).map(Incarnation) {
        let mut owned = store.owned(owner).await.expect("readable");
        owned.sort_unstable();
        assert_eq!(owned, model.owned(owner));
        for row in store.calls_of(owner, 1_000).await.expect("readable") {
            let known = &model.calls[&row.id];
            let told = (row.owner, row.epoch, row.rev, row.record);
            assert_eq!(told, (known.owner, known.epoch, known.rev, known.record.clone()));
        }
    }
    let mut owners = store.owners().await.expect("readable");
    owners.sort_unstable();
    assert_eq!(owners, model.owners());
    for (id, row) in &model.calls {
        let found = store.call_of_key(&row.key).await.expect("readable");
        assert_eq!(found, model.call_of_key(&row.key), "{id}");
    }
}

async fn histories_are_those_of_the_model(database: &Database) {
    let store = database.open().await;
    let mut model = StoreModel::default();
    for history in 0..HISTORIES {
        let mut seed = [7; 32];
        seed[..8].copy_from_slice(&history.to_be_bytes());
        let random = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
        let mut runner = TestRunner::new_with_rng(Config::default(), random);
        let steps = prop::collection::vec(a_step(u128::from(history) * 100), STEPS);
        let steps = steps.new_tree(&mut runner).expect("steps").current();
        for step in steps {
            compare(&store, &mut model, step).await;
        }
        agree(&store, &model).await;
    }
    database.settle().await;
    let query = CdrQuery { limit: 1_000, ..CdrQuery::default() };
    let mut told: Vec<String> =
        store.cdrs(&query).await.expect("readable").into_iter().map(|cdr| cdr.id).collect();
    let mut known: Vec<String> = model.cdrs.iter().map(|cdr| cdr.id.clone()).collect();
    told.sort_unstable();
    known.sort_unstable();
    assert_eq!(told, known);
    assert!(model.calls.values().any(|row| row.epoch > Epoch(3)), "claims went up");
}
