//! Users and bindings.

use crate::database::Database;
use crate::samples::{bind, binding, second, user};
use holdfast::directory::User;
use holdfast::store::{Batch, BindingsWrite, Change, Store, StoreError};
use std::collections::HashSet;

on_both!(
    a_user_is_made_changed_and_removed,
    ten_thousand_users_are_imported,
    bindings_are_replaced_whole,
    every_user_and_binding_is_loaded,
);

async fn a_user_is_made_changed_and_removed(database: &Database) {
    let store = database.open().await;
    assert_eq!(store.users().await.expect("readable"), []);
    assert_eq!(store.user("1001").await.expect("readable"), None);
    assert!(!store.update_user(&user("1001"), None).await.expect("writable"), "there is none");
    store.create_user(&user("1001")).await.expect("made");
    let again = User { display_name: "Another".to_owned(), ..user("1001") };
    match store.create_user(&again).await {
        Err(StoreError::Exists(extension)) => assert_eq!(extension, "1001"),
        other => panic!("{other:?}"),
    }
    assert_eq!(store.user("1001").await.expect("readable"), Some(user("1001")), "untouched");
    assert!(store.update_user(&again, None).await.expect("writable"));
    assert_eq!(store.users().await.expect("readable"), [again]);
    let bound = Batch { bindings: vec![bind("1001"), bind("1002")], ..Batch::default() };
    store.commit(&bound).await.expect("a commit");
    assert!(store.delete_user("1001", None).await.expect("writable"));
    assert!(!store.delete_user("1001", None).await.expect("writable"), "gone already");
    assert_eq!(store.users().await.expect("readable"), []);
    let left = store.bindings(second(0)).await.expect("readable");
    assert_eq!(left, bind("1002").bindings, "its bindings went with it");
}

async fn ten_thousand_users_are_imported(database: &Database) {
    let store = database.open().await;
    let users: Vec<User> = (0..10_000).map(|number| user(&format!("u{number}"))).collect();
    let before = User { display_name: "Before".to_owned(), ..user("u77") };
    store.create_user(&before).await.expect("made");
    database.settle().await;
    let position = store.change_position().await.expect("readable");

    let existing = store.import_users(&users, false).await.expect("an import");
    assert_eq!(existing, ["u77"]);
    assert_eq!(store.user("u77").await.expect("readable"), Some(before), "skipped");
    database.settle().await;
    let (changes, position) = store.changes(position).await.expect("readable");
    assert_eq!(changes.len(), 9_999, "what was skipped did not change");

    let renamed = |user: &User| User { display_name: "After".to_owned(), ..user.clone() };
    let mut update: Vec<User> = users[..5_000].iter().map(renamed).collect();
    update.push(user("new"));
    let existing = store.import_users(&update, true).await.expect("an import");
    let existing: HashSet<&str> = existing.iter().map(String::as_str).collect();
    let expect: HashSet<&str> = users[..5_000].iter().map(|user| &*user.extension).collect();
    assert_eq!(existing, expect);
    let found = store.users().await.expect("readable");
    assert_eq!(found.len(), 10_001);
    let after = found.iter().filter(|user| user.display_name == "After").count();
    assert_eq!(after, 5_000);
    database.settle().await;
    let (changes, _) = store.changes(position).await.expect("readable");
    assert_eq!(changes.len(), 5_001);
    assert!(changes.contains(&Change::User(Box::new(user("new")))));
}

async fn replace(store: &Store, extension: &str, contacts: &[(&str, u64)]) {
    let bindings = contacts.iter().map(|(contact, expires)| {
        let binding = binding(extension, second(*expires));
        holdfast::directory::Binding { contact: (*contact).to_owned(), ..binding }
    });
    let write = BindingsWrite { extension: extension.to_owned(), bindings: bindings.collect() };
    let batch = Batch { bindings: vec![write], ..Batch::default() };
    store.commit(&batch).await.expect("a commit");
}

async fn bindings_are_replaced_whole(database: &Database) {
    let store = database.open().await;
    let contacts = async |extension: &str| {
        let bindings = store.bindings_of(extension).await.expect("readable");
        bindings.into_iter().map(|binding| binding.contact).collect::<Vec<_>>()
    };
    assert_eq!(contacts("1001").await, [""; 0]);
    replace(&store, "1001", &[("sip:a@192.0.2.1", 60), ("sip:b@192.0.2.2", 120)]).await;
    replace(&store, "1002", &[("sip:c@192.0.2.3", 60)]).await;
    assert_eq!(contacts("1001").await, ["sip:a@192.0.2.1", "sip:b@192.0.2.2"], "in order");
    replace(&store, "1001", &[("sip:b@192.0.2.2", 180)]).await;
    assert_eq!(contacts("1001").await, ["sip:b@192.0.2.2"]);
    assert_eq!(contacts("1002").await, ["sip:c@192.0.2.3"], "another's stay");
    let live = async |now: u64| store.bindings(second(now)).await.expect("readable").len();
    assert_eq!((live(59).await, live(60).await, live(180).await), (2, 1, 0), "expired ones");
    replace(&store, "1001", &[]).await;
    assert_eq!(contacts("1001").await, [""; 0]);
    assert_eq!(live(0).await, 1);
}

/// More than one page of each.
async fn every_user_and_binding_is_loaded(database: &Database) {
    let store = database.open().await;
    let users: Vec<User> = (0..12_000).map(|number| user(&format!("{number}"))).collect();
    store.import_users(&users, false).await.expect("an import");
    for users in users.chunks(500) {
        let bindings = users.iter().map(|user| bind(&user.extension)).collect();
        store.commit(&Batch { bindings, ..Batch::default() }).await.expect("a commit");
    }
    let loaded = store.users().await.expect("readable");
    let extensions: HashSet<&str> = loaded.iter().map(|user| &*user.extension).collect();
    assert_eq!((loaded.len(), extensions.len()), (12_000, 12_000));
    let loaded = store.bindings(second(0)).await.expect("readable");
    let extensions: HashSet<&str> = loaded.iter().map(|binding| &*binding.extension).collect();
    assert_eq!((loaded.len(), extensions.len()), (12_000, 12_000));
}
