//! CDRs by every filter, page by page, and by a cursor that misses no late commit.

use crate::database::Database;
use crate::samples::{cdr, commit, ended, save, second, user};
use holdfast::call::Save;
use holdfast::ids::CallId;
use holdfast::store::{CdrQuery, Store};
use holdfast::views::call::LegRole;
use holdfast::views::cdr::{CdrLeg, Disposition};
use holdfast::views::{CallFlag, Cdr, Rfc3339};
use sqlx::{Connection as _, Executor as _};
use std::collections::BTreeMap;

on_both!(every_filter, pages_follow_each_other, calls_live_or_ended_then);

fn leg(extension: &str) -> CdrLeg {
    CdrLeg {
        role: LegRole::Callee,
        extension: Some(extension.to_owned()),
        call_id: "leg".to_owned(),
        contact: None,
        user_agent: None,
        sip_status: Some(200),
        created_at: Rfc3339(second(0)),
        answered_at: None,
        ended_at: None,
        codec: None,
        packets_sent: 1,
        packets_received: 2,
        packets_lost: 0,
        jitter_mean_ms: Some(1.5),
        rtt_mean_ms: None,
        mos_mean: None,
        mos_min: None,
        bursts: None,
        silence_max_ms: 0,
    }
}

/// Call `id` began in second `id`: 1 and 2 from 1001 to 1002, 3 from 2001, 4 rang 3001 as well.
fn calls() -> Vec<Save> {
    let mut calls: Vec<Save> = (1..=5).map(|id| ended(save(id, 1))).collect();
    for save in &mut calls {
        let Some(cdr) = &mut save.cdr else { continue };
        match save.id.0 {
            1 => cdr.flags = vec![CallFlag::GlareLoop, CallFlag::OneWayAudio],
            2 => cdr.disposition = Disposition::NoAnswer,
            3 => cdr.caller.extension = Some("2001".to_owned()),
            4 => {
                cdr.legs = vec![leg("1002"), leg("3001")];
                cdr.flags = vec![CallFlag::OneWayAudio];
            }
            5 => (cdr.caller.extension, cdr.callee.extension) = (None, None),
            _ => {}
        }
    }
    calls
}

async fn ids(store: &Store, query: CdrQuery) -> Vec<u128> {
    let limit = if query.limit == 0 { 100 } else { query.limit };
    let found = store.cdrs(&CdrQuery { limit, ..query }).await.expect("readable");
    found.iter().map(|cdr| cdr.id.parse::<CallId>().expect("an id").0).collect()
}

async fn every_filter(database: &Database) {
    let store = database.open().await;
    for save in calls() {
        commit(&store, vec![save]).await;
    }
    database.settle().await;
    let all = CdrQuery::default;
    let extension = |name: &str| CdrQuery { extension: Some(name.to_owned()), ..all() };
    let disposition = |name: &str| CdrQuery { disposition: Some(name.to_owned()), ..all() };
    let flag = |flag| CdrQuery { flag: Some(flag), ..all() };
    let (since, until) = (|at| Some(second(at)), |at| Some(second(at)));
    for (query, expect) in [
        (all(), vec![1, 2, 3, 4, 5]),
        (CdrQuery { since: since(3), ..all() }, vec![3, 4, 5]),
        (CdrQuery { until: until(3), ..all() }, vec![1, 2]),
        (CdrQuery { since: since(2), until: until(4), ..all() }, vec![2, 3]),
        (extension("1001"), vec![1, 2, 4]),
        (extension("2001"), vec![3]),
        (extension("3001"), vec![4]),
        (extension("1002"), vec![1, 2, 3, 4]),
        (extension("100"), vec![]),
        (extension("%"), vec![]),
        (disposition("no_answer"), vec![2]),
        (disposition("answered"), vec![1, 3, 4, 5]),
        (disposition("busy"), vec![]),
        (flag(CallFlag::OneWayAudio), vec![1, 4]),
        (flag(CallFlag::GlareLoop), vec![1]),
        (flag(CallFlag::AckMissing), vec![]),
        (CdrQuery { limit: 2, ..all() }, vec![1, 2]),
        (CdrQuery { limit: 2, newest_first: true, ..all() }, vec![5, 4]),
        (CdrQuery { id: Some(CallId(3).to_string()), ..all() }, vec![3]),
        (CdrQuery { id: Some(CallId(9).to_string()), ..all() }, vec![]),
        (CdrQuery { since: since(2), limit: 1, ..extension("1001") }, vec![2]),
    ] {
        assert_eq!(ids(&store, query.clone()).await, expect, "{query:?}");
    }
    let mut first = store.cdrs(&CdrQuery { limit: 1, ..all() }).await.expect("readable");
    let first = first.pop().expect("one");
    assert!(first.sequence > 0);
    let flags = vec![CallFlag::GlareLoop, CallFlag::OneWayAudio];
    assert_eq!(Cdr { sequence: 0, ..first }, Cdr { flags, ..cdr(1) }, "whole");
}

async fn pages_follow_each_other(database: &Database) {
    let store = database.open().await;
    for part in 0..5 {
        let calls = (1..=20).map(|id| ended(save(part * 100 + id, 1)));
        commit(&store, calls.collect()).await;
    }
    database.settle().await;
    let (mut after, mut seen) = (None, Vec::new());
    loop {
        let query = CdrQuery { after, limit: 7, ..CdrQuery::default() };
        let page = store.cdrs(&query).await.expect("readable");
        let Some(last) = page.last() else { break };
        after = Some(last.sequence);
        seen.extend(page.into_iter().map(|cdr| cdr.id));
    }
    // And back again.
    let (mut before, mut back) = (None, Vec::new());
    loop {
        let query = CdrQuery { before, limit: 7, newest_first: true, ..CdrQuery::default() };
        let page = store.cdrs(&query).await.expect("readable");
        let Some(last) = page.last() else { break };
        before = Some(last.sequence);
        back.extend(page.into_iter().map(|cdr| cdr.id));
    }
    back.reverse();
    assert_eq!(back, seen);
    seen.sort();
    let before = seen.len();
    seen.dedup();
    assert_eq!((before, seen.len()), (100, 100));
}

/// Also when the tombstones are swept.
async fn calls_live_or_ended_then(database: &Database) {
    let store = database.open().await;
    let all: Vec<CallId> = (1..=1_300).map(CallId).collect();
    commit(&store, vec![save(1, 1), ended(save(2, 1)), save(1_300, 1)]).await;
    let expect = [(1, None), (2, Some(cdr(2).ended_at.0)), (1_300, None)];
    let expect = BTreeMap::from(expect.map(|(id, end)| (CallId(id), end)));
    assert_eq!(store.ends_of(&all).await.expect("readable"), expect);
    database.execute("delete from calls where ended_at is not null").await;
    assert_eq!(store.ends_of(&all).await.expect("readable"), expect);
    assert_eq!(store.ends_of(&[]).await.expect("readable"), BTreeMap::new());
}

/// The transaction that began first commits last: it must not come to lie below a cursor that went past it.
#[tokio::test]
async fn a_cursor_misses_no_late_commit() {
    let database = Database::postgres().await;
    let store = database.open().await;
    commit(&store, vec![ended(save(1, 1))]).await;
    database.settle().await;
    let mut session = database.postgres_session().await;
    let mut late = session.begin().await.expect("a transaction");
    late.execute(
        "insert into cdrs (sequence, id, created_at, extensions, disposition, document)
         select cdr_sequence(pg_current_xact_id()) + 1, 'late', created_at, extensions,
             disposition, replace(document, id, 'late') from cdrs",
    )
    .await
    .expect("written");
    commit(&store, vec![ended(save(2, 1))]).await;
    let (mut after, mut seen) = (None, Vec::new());
    let mut poll = async |seen: &mut Vec<String>| {
        let query = CdrQuery { after, limit: 100, ..CdrQuery::default() };
        let page = store.cdrs(&query).await.expect("readable");
        after = page.last().map_or(after, |last| Some(last.sequence));
        seen.extend(page.into_iter().map(|cdr| cdr.id));
    };
    poll(&mut seen).await;
    late.commit().await.expect("committed");
    database.settle().await;
    poll(&mut seen).await;
    seen.sort();
    let [one, two] = [1, 2].map(|id| CallId(id).to_string());
    assert_eq!(seen, [one, two, "late".to_owned()]);
}

/// `pg_dump` keeps what is in the tables, but the other server counts its transactions from the beginning.
#[tokio::test]
async fn a_database_restored_on_another_server_goes_on() {
    let database = Database::postgres().await;
    let store = database.open().await;
    commit(&store, vec![ended(save(1, 1))]).await;
    store.create_user(&user("1001")).await.expect("made");
    drop(store);
    database
        .execute(
            "update cdrs set sequence = sequence + 1000000::bigint * 65536;
             update changes
             set transaction_id = (transaction_id::text::bigint + 1000000)::text::xid8",
        )
        .await;
    for id in 2..=3 {
        let store = database.open().await;
        commit(&store, vec![ended(save(id, 1))]).await;
        database.settle().await;
        let all = CdrQuery { limit: 100, ..CdrQuery::default() };
        let cdrs = store.cdrs(&all).await.expect("readable");
        let ids = cdrs.iter().map(|cdr| cdr.id.parse::<CallId>().expect("an id").0);
        assert_eq!(ids.collect::<Vec<_>>(), (1..=id).collect::<Vec<_>>(), "in their order");
        let (changes, _) = store.changes(0).await.expect("readable");
        assert_eq!(changes.len(), 1);
    }
}
