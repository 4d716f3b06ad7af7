//! A row that the database refuses is refused alone; what no back end may trip over is kept from it.
//!
//! PostgreSQL really refuses a NUL in a text. SQLite takes any text and any number into these tables and a blob of up
//! to 1 GB: it has no bad row of its own that a test could offer, so a trigger plays one there.

use crate::database::Database;
use crate::samples::{all_cdrs, batch, bind, commit, ended, save, user};
use holdfast::call::Save;
use holdfast::ids::CallId;
use holdfast::store::{Batch, CallOutcome, CdrQuery, Store, StoreError};

on_both!(
    a_bad_row_is_rejected_alone,
    a_bad_row_alone_in_a_batch_is_rejected,
    bad_bindings_do_not_keep_calls_from_being_stored,
    names_with_a_nul_are_nobody,
    names_that_no_user_can_have_do_not_spoil_a_cdr,
);

const TRIGGER: &str = "
create trigger refusal before insert on cdrs when new.id like 'bad%'
begin select raise(abort, 'a bad row'); end";

/// A call whose CDR the database refuses.
fn bad(id: u128) -> Save {
    let mut save = ended(save(id, 1));
    if let Some(cdr) = &mut save.cdr {
        cdr.id = format!("bad\0{id}");
    }
    save
}

async fn with_bad_rows(database: &Database) -> Store {
    let store = database.open().await;
    if !database.is_postgres() {
        database.execute(TRIGGER).await;
    }
    store
}

async fn a_bad_row_is_rejected_alone(database: &Database) {
    let store = with_bad_rows(database).await;
    let is_bad = |id: u128| matches!(id, 0 | 131 | 132 | 499);
    let calls = (0..500).map(|id| if is_bad(id) { bad(id) } else { ended(save(id, 1)) });
    let bindings = vec![bind("1001"), bind("1002")];
    let batch = Batch { calls: calls.collect(), bindings, ..Batch::default() };
    let outcomes = store.commit(&batch).await.expect("a commit");
    assert_eq!(outcomes.len(), 500);
    for (id, outcome) in (0..).zip(&outcomes) {
        if is_bad(id) {
            assert!(matches!(outcome, CallOutcome::Rejected(_)), "{id}: {outcome:?}");
        } else {
            assert_eq!(*outcome, CallOutcome::Done, "{id}");
        }
    }
    assert_eq!(all_cdrs(database, &store).await.len(), 496);
    assert_eq!(store.bindings_of("1001").await.expect("readable").len(), 1);
    assert_eq!(store.bindings_of("1002").await.expect("readable").len(), 1);
    // What was refused left nothing behind: its call can still be saved.
    assert_eq!(commit(&store, vec![save(131, 1)]).await, [CallOutcome::Done]);
}

async fn a_bad_row_alone_in_a_batch_is_rejected(database: &Database) {
    let store = with_bad_rows(database).await;
    let alone = Batch { calls: vec![bad(1)], bindings: vec![bind("1001")], ..Batch::default() };
    let outcomes = store.commit(&alone).await.expect("a commit");
    assert!(matches!(outcomes[..], [CallOutcome::Rejected(_)]), "{outcomes:?}");
    assert_eq!(store.bindings_of("1001").await.expect("readable").len(), 1);
    assert_eq!(store.call(CallId(1)).await.expect("readable"), None);
}

/// Both back ends, by a row that each of them refuses.
async fn bad_bindings_do_not_keep_calls_from_being_stored(database: &Database) {
    let store = database.open().await;
    database
        .execute(if database.is_postgres() {
            "alter table bindings add constraint refusal check (extension not like 'bad%')"
        } else {
            "create trigger refusal before insert on bindings when new.extension like 'bad%'
             begin select raise(abort, 'a bad row'); end"
        })
        .await;
    let bindings = ["1001", "bad1", "1002", "bad2", "nul\0"].map(bind).to_vec();
    let batch =
        Batch { calls: (0..9).map(|id| save(id, 1)).collect(), bindings, ..Batch::default() };
    let outcomes = store.commit(&batch).await.expect("a commit");
    assert_eq!(outcomes, vec![CallOutcome::Done; 9]);
    for (extension, count) in [("1001", 1), ("1002", 1), ("bad1", 0), ("bad2", 0), ("nul\0", 0)] {
        let found = store.bindings_of(extension).await.expect("readable");
        assert_eq!(found.len(), count, "{extension}");
    }
}

/// A phone can dial `10%0001`: that is a user who does not exist, not a store that does not answer.
async fn names_with_a_nul_are_nobody(database: &Database) {
    let store = database.open().await;
    store.create_user(&user("10")).await.expect("made");
    let name = "10\u{0}1";
    assert_eq!(store.user(name).await.expect("readable"), None);
    assert_eq!(store.bindings_of(name).await.expect("readable"), []);
    assert!(!store.update_user(&user(name), None).await.expect("writable"));
    assert!(!store.delete_user(name, None).await.expect("writable"));
    let query = CdrQuery { extension: Some(name.to_owned()), limit: 9, ..CdrQuery::default() };
    assert_eq!(store.cdrs(&query).await.expect("readable"), []);
    for refused in [
        store.create_user(&user(name)).await,
        store.import_users(&[user("11"), user(name)], true).await.map(drop),
    ] {
        assert!(matches!(refused, Err(StoreError::Corrupt(_))), "{refused:?}");
    }
    let written = Batch { bindings: vec![bind(name), bind("10")], ..batch(vec![save(1, 1)]) };
    assert_eq!(store.commit(&written).await.expect("a commit"), [CallOutcome::Done]);
    assert_eq!(store.bindings_of("10").await.expect("readable").len(), 1);
    let named = user("12");
    let named = holdfast::directory::User { display_name: "a\0b".to_owned(), ..named };
    store.create_user(&named).await.expect("a name may hold anything");
    assert_eq!(store.user("12").await.expect("readable"), Some(named));
}

async fn names_that_no_user_can_have_do_not_spoil_a_cdr(database: &Database) {
    let store = database.open().await;
    let noise: String = (0..9_000_u32)
        .filter_map(|number| char::from_u32(33 + number.wrapping_mul(2_654_435_761) % 90))
        .collect();
    for (id, name) in (1..).zip(["two words", "nul\0", "", &noise]) {
        let mut save = ended(save(id, 1));
        if let Some(cdr) = &mut save.cdr {
            cdr.callee.extension = Some(name.to_owned());
        }
        assert_eq!(commit(&store, vec![save]).await, [CallOutcome::Done], "{id}");
    }
    database.settle().await;
    for (word, count) in [("1001", 4), ("two", 0), ("words", 0), ("two words", 0)] {
        let extension = Some(word.to_owned());
        let query = CdrQuery { extension, limit: 9, ..CdrQuery::default() };
        assert_eq!(store.cdrs(&query).await.expect("readable").len(), count, "{word}");
    }
    let kept = all_cdrs(database, &store).await;
    assert_eq!(kept[3].callee.extension.as_deref(), Some(&*noise), "the document is whole");
}
