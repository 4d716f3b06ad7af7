//! Two nodes at once: one of them wins, the other is told, nothing hangs.

use crate::database::Database;
use crate::samples::{all_cdrs, bind, by, commit, ended, save, user};
use holdfast::call::Save;
use holdfast::ids::CallId;
use holdfast::store::{Batch, CallOutcome, StoreError};

on_both!(
    one_of_two_claims_wins,
    a_call_that_two_nodes_end_has_one_cdr,
    batches_in_opposite_order_do_not_deadlock,
    one_of_two_who_make_a_user_is_told,
);

fn sorted(mut outcomes: Vec<CallOutcome>) -> Vec<CallOutcome> {
    outcomes.sort_by_key(|outcome| *outcome != CallOutcome::Done);
    outcomes
}

async fn one_of_two_claims_wins(database: &Database) {
    let (one, other) = (database.open().await, database.open().await);
    commit(&one, vec![save(1, 1)]).await;
    for epoch in 2..60 {
        let first = commit(&one, vec![by(10, epoch, save(1, 1))]);
        let second = commit(&other, vec![by(20, epoch, save(1, 2))]);
        let (first, second) = tokio::join!(tokio::spawn(first), tokio::spawn(second));
        let (first, second) = (first.expect("no panic"), second.expect("no panic"));
        let winner = if first == [CallOutcome::Done] { 10 } else { 20 };
        let both = sorted([first, second].concat());
        assert_eq!(both, [CallOutcome::Done, CallOutcome::Fenced], "epoch {epoch}");
        let found = one.call(CallId(1)).await.expect("readable").expect("alive");
        assert_eq!((found.owner.0, found.epoch.0), (winner, epoch));
    }
}

async fn a_call_that_two_nodes_end_has_one_cdr(database: &Database) {
    let (one, other) = (database.open().await, database.open().await);
    for id in 1..40 {
        commit(&one, vec![save(id, 1)]).await;
        let mut claimed = ended(by(20, 2, save(id, 1)));
        if let Some(cdr) = &mut claimed.cdr {
            cdr.takeovers = 1;
        }
        let owner = commit(&one, vec![ended(save(id, 2))]);
        let claim = commit(&other, vec![claimed]);
        let (owner, claim) = tokio::join!(tokio::spawn(owner), tokio::spawn(claim));
        let (owner, claim) = (owner.expect("no panic"), claim.expect("no panic"));
        let takeovers = u32::from(claim == [CallOutcome::Done]);
        let both = sorted([owner, claim].concat());
        assert_eq!(both, [CallOutcome::Done, CallOutcome::Fenced], "call {id}");
        let cdrs = all_cdrs(database, &one).await;
        assert_eq!(cdrs.len() as u128, id);
        assert_eq!(cdrs.last().map(|cdr| cdr.takeovers), Some(takeovers), "the winner's");
    }
}

async fn batches_in_opposite_order_do_not_deadlock(database: &Database) {
    let (one, other) = (database.open().await, database.open().await);
    let users: Vec<_> = (0..200).map(|number| user(&format!("{number:03}"))).collect();
    one.import_users(&users, false).await.expect("an import");
    for round in 0..15_u128 {
        let key = |number: u128| Save { rev: holdfast::ids::Rev(1), ..save(number, 1) };
        let calls: Vec<Save> = (0..200).map(|number| key(round * 1_000 + number)).collect();
        let rivals = calls.iter().rev().map(|save| Save { id: CallId(!save.id.0), ..save.clone() });
        let bindings: Vec<_> = users.iter().map(|user| bind(&user.extension)).collect();
        let rival = Batch {
            calls: rivals.collect(),
            bindings: bindings.iter().rev().cloned().collect(),
            ..Batch::default()
        };
        let batch = Batch { calls, bindings, ..Batch::default() };
        let (first, second) = (one.clone(), other.clone());
        let (first, second) = tokio::join!(
            tokio::spawn(async move { first.commit(&batch).await }),
            tokio::spawn(async move { second.commit(&rival).await }),
        );
        let first = first.expect("no panic").expect("no deadlock");
        let second = second.expect("no panic").expect("no deadlock");
        for (mine, theirs) in first.iter().zip(second.iter().rev()) {
            let done = [mine, theirs].map(|outcome| *outcome == CallOutcome::Done);
            assert!(done[0] != done[1], "round {round}: {mine:?} and {theirs:?}");
        }
    }
}

async fn one_of_two_who_make_a_user_is_told(database: &Database) {
    let (one, other) = (database.open().await, database.open().await);
    for number in 0..60 {
        let name = format!("{number}");
        let (mine, theirs) = (user(&name), user(&name));
        let (first, second) = (one.clone(), other.clone());
        let (first, second) = tokio::join!(
            tokio::spawn(async move { first.create_user(&mine).await }),
            tokio::spawn(async move { second.create_user(&theirs).await }),
        );
        let both = [first.expect("no panic"), second.expect("no panic")];
        let made = both.iter().filter(|result| result.is_ok()).count();
        let refused = both.iter().filter(|result| matches!(result, Err(StoreError::Exists(_))));
        assert_eq!((made, refused.count()), (1, 1), "user {number}: {both:?}");
    }
}
