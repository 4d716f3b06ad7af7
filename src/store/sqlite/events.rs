//! Events in SQLite: a row each. There is one writer, so the sequence is the order.

use super::Sqlite;
use crate::call::{Save, Told};
use crate::ids::CallId;
use crate::store::rows::{call_id, events_of_row, signed, unsigned};
use crate::store::{Aged, StoreError, StoredEvent};
use crate::time::Timestamp;
use crate::views::EventView;
use sqlx::{QueryBuilder, SqliteConnection};
use std::collections::{HashMap, HashSet};

/// Microseconds.
pub(super) const NOW: &str = "cast((julianday('now') - 2440587.5) * 86400000000 as integer)";

/// (call, rev, document)
type Row = (Option<Vec<u8>>, i64, String);

impl Sqlite {
    pub async fn events(&self, after: u64, most: u32) -> Result<Vec<StoredEvent>, StoreError> {
        let rows: Vec<(i64, String)> = sqlx::query_as(
            "select sequence, document from events where sequence > ?1 order by sequence limit ?2",
        )
        .bind(signed(after))
        .bind(i64::from(most))
        .fetch_all(&self.readers)
        .await?;
        let mut events = Vec::new();
        for (sequence, document) in rows {
            events.extend(events_of_row(sequence, &document)?);
        }
        Ok(events)
    }

    pub async fn last_event(&self) -> Result<u64, StoreError> {
        let query = sqlx::query_scalar("select max(sequence) from events");
        let last: Option<i64> = query.fetch_one(&self.readers).await?;
        Ok(last.map_or(0, unsigned))
    }

    pub async fn has_event(&self, id: u64) -> Result<bool, StoreError> {
        let query = sqlx::query_scalar("select exists (select 1 from events where sequence = ?1)");
        Ok(query.bind(signed(id)).fetch_one(&self.readers).await?)
    }

    /// What is older, and what are more than so many.
    pub async fn sweep_aged(
        &self,
        aged: Aged,
        before: Timestamp,
        rows: u32,
        most: u32,
    ) -> Result<u64, StoreError> {
        let done = sqlx::query(match aged {
            Aged::Events => {
                "delete from events where sequence in (
                 select sequence from events where written_at < ?1 or sequence < (
                     select sequence from events order by sequence desc limit 1 offset ?2)
                 order by sequence limit ?3)"
            }
            Aged::Answers => {
                "delete from answers where (token, key) in (
                 select token, key from answers where at < ?1 or at < (
                     select at from answers order by at desc limit 1 offset ?2)
                 order by at limit ?3)"
            }
        })
        .bind(signed(before.as_micros()))
        .bind(i64::from(rows))
        .bind(i64::from(most))
        .execute(&self.writer)
        .await?;
        Ok(done.rows_affected())
    }

    /// Events of calls that a journal keeps.
    pub(super) async fn kept_told(&self) -> Result<HashMap<CallId, Vec<Told>>, StoreError> {
        let rows: Vec<Row> = sqlx::query_as(
            "select call, rev, document from events where call is not null order by sequence",
        )
        .fetch_all(&self.readers)
        .await?;
        let mut told: HashMap<CallId, Vec<Told>> = HashMap::new();
        for (call, rev, document) in rows {
            let rev = crate::ids::Rev(unsigned(rev));
            let of = told.entry(call_id(&call.unwrap_or_default())?).or_default();
            of.push(Told { rev, document });
        }
        Ok(told)
    }
}

/// Calls whose waiting events may be stored already: as they are before this write.
pub(super) async fn stored_revs(
    connection: &mut SqliteConnection,
    saves: &[Save],
) -> Result<HashMap<CallId, (u64, u64)>, sqlx::Error> {
    let is_late = |save: &&Save| save.told.iter().any(|told| told.rev < save.rev);
    let late: Vec<&Save> = saves.iter().filter(is_late).collect();
    if late.is_empty() {
        return Ok(HashMap::new());
    }
    let mut query = QueryBuilder::new("select id, epoch, rev from calls where id in (");
    let mut ids = query.separated(", ");
    for save in late {
        ids.push_bind(save.id.0.to_be_bytes().to_vec());
    }
    query.push(")");
    let rows: Vec<(Vec<u8>, i64, i64)> = query.build_query_as().fetch_all(connection).await?;
    let revs = rows.into_iter().filter_map(|(id, epoch, rev)| {
        Some((call_id(&id).ok()?, (unsigned(epoch), unsigned(rev))))
    });
    Ok(revs.collect())
}

/// Of the calls that were written, and of none.
pub(super) async fn insert_events(
    connection: &mut SqliteConnection,
    saves: &[Save],
    written: &HashSet<CallId>,
    before: &HashMap<CallId, (u64, u64)>,
    told: &[String],
) -> Result<(), sqlx::Error> {
    let mut rows: Vec<Row> = Vec::new();
    for save in saves.iter().filter(|save| written.contains(&save.id)) {
        let stored = before.get(&save.id).filter(|(epoch, _)| *epoch == save.epoch.0);
        let new = save.told.iter().filter(|told| stored.is_none_or(|(_, rev)| told.rev.0 > *rev));
        let call = || Some(save.id.0.to_be_bytes().to_vec());
        rows.extend(new.map(|told| (call(), signed(told.rev.0), told.document.clone())));
        let end = save.cdr.as_ref().map(|cdr| EventView::call_ended(cdr).document());
        rows.extend(end.map(|document| (None, 0, document)));
    }
    rows.extend(told.iter().map(|document| (None, 0, document.clone())));
    if rows.is_empty() {
        return Ok(());
    }
    let mut query = QueryBuilder::new("insert into events (call, rev, written_at, document) ");
    query.push_values(rows, |mut row, (call, rev, document)| {
        row.push_bind(call).push_bind(rev).push(NOW).push_bind(document);
    });
    query.build().execute(connection).await?;
    Ok(())
}
