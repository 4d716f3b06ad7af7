//! Calls in SQLite: three multi-row statements in one transaction (its CTEs cannot write), fenced row by row.

use super::Sqlite;
use super::cdrs::insert_cdrs;
use super::events::{insert_events, stored_revs};
use crate::call::Save;
use crate::ids::{CallId, Incarnation};
use crate::store::batch::{Part, Standing, is_bad_row, outcomes};
use crate::store::rows::{CallRow, bindings_document, call_id, signed, stored_call, unsigned};
use crate::store::{BindingsWrite, CallOutcome, StoreError, StoredCall};
use crate::time::Timestamp;
use crate::views::Cdr;
use sqlx::{QueryBuilder, SqliteConnection};
use std::collections::HashSet;

impl Sqlite {
    pub async fn commit(&self, part: Part<'_>) -> Result<Vec<CallOutcome>, StoreError> {
        let mut parts = vec![part];
        let mut all = Vec::with_capacity(part.calls.len());
        // One bad row must not fail its neighbours: halves until it stands alone.
        while let Some(part) = parts.pop() {
            match self.write(part).await {
                Ok((written, standing)) => all.extend(outcomes(part.calls, &written, &standing)?),
                Err(error) if is_bad_row(&error) => match part.halves() {
                    Some([first, second]) => parts.extend([second, first]),
                    None => all.extend(part.rejected(&error)),
                },
                Err(error) => return Err(error.into()),
            }
        }
        Ok(all)
    }

    /// Ids of the calls that were written, and what stands in the way of the others.
    async fn write(&self, part: Part<'_>) -> Result<(HashSet<CallId>, Vec<Standing>), sqlx::Error> {
        let mut writer = self.begin().await?;
        let bindings: Vec<_> = part.storable_bindings().collect();
        if !bindings.is_empty() {
            write_bindings(writer.connection(), &bindings).await?;
        }
        let before = stored_revs(writer.connection(), part.calls).await?;
        let written = write_calls(writer.connection(), part.calls).await?;
        insert_events(writer.connection(), part.calls, &written, &before, part.told).await?;
        let standing = if written.len() == part.calls.len() {
            Vec::new()
        } else {
            standing(writer.connection(), part.calls).await?
        };
        writer.commit().await?;
        Ok((written, standing))
    }

    pub async fn call(&self, id: CallId) -> Result<Option<StoredCall>, StoreError> {
        let row: Option<CallRow> = sqlx::query_as(
            "select id, owner, epoch, rev, record from calls where id = ?1 and ended_at is null",
        )
        .bind(id.0.to_be_bytes().to_vec())
        .fetch_optional(&self.readers)
        .await?;
        row.map(stored_call).transpose()
    }

    pub async fn calls_of(
        &self,
        owner: Incarnation,
        limit: u32,
    ) -> Result<Vec<StoredCall>, StoreError> {
        let rows: Vec<CallRow> = sqlx::query_as(
            "select id, owner, epoch, rev, record from calls
             where owner = ?1 and ended_at is null limit ?2",
        )
        .bind(signed(owner.0))
        .bind(i64::from(limit))
        .fetch_all(&self.readers)
        .await?;
        rows.into_iter().map(stored_call).collect()
    }

    pub async fn owners(&self) -> Result<Vec<Incarnation>, StoreError> {
        let rows: Vec<i64> =
            sqlx::query_scalar("select distinct owner from calls where ended_at is null")
                .fetch_all(&self.readers)
                .await?;
        Ok(rows.into_iter().map(|owner| Incarnation(unsigned(owner))).collect())
    }

    pub async fn sweep(&self, before: Timestamp, most: u32) -> Result<u64, StoreError> {
        let done = sqlx::query(
            "delete from calls where id in (select id from calls where ended_at < ?1 limit ?2)",
        )
        .bind(signed(before.as_micros()))
        .bind(i64::from(most))
        .execute(&self.writer)
        .await?;
        Ok(done.rows_affected())
    }
}

async fn write_calls(
    connection: &mut SqliteConnection,
    saves: &[Save],
) -> Result<HashSet<CallId>, sqlx::Error> {
    if saves.is_empty() {
        return Ok(HashSet::new());
    }
    // A first save mostly has no row to update, but a claim counts its revs anew.
    let (first, later): (Vec<&Save>, Vec<&Save>) = saves.iter().partition(|save| save.rev.0 <= 1);
    let mut written = HashSet::new();
    written.extend(ids(update_calls(connection, &later).await?));
    let new: Vec<&Save> = saves.iter().filter(|save| !written.contains(&save.id)).collect();
    written.extend(ids(insert_calls(connection, &new).await?));
    let claims: Vec<&Save> = first.into_iter().filter(|save| !written.contains(&save.id)).collect();
    written.extend(ids(update_calls(connection, &claims).await?));
    let ended = saves.iter().filter(|save| written.contains(&save.id));
    let cdrs: Vec<&Cdr> = ended.filter_map(|save| save.cdr.as_deref()).collect();
    insert_cdrs(connection, &cdrs).await?;
    Ok(written)
}

fn ids(rows: Vec<Vec<u8>>) -> impl Iterator<Item = CallId> {
    rows.into_iter().filter_map(|id| call_id(&id).ok())
}

async fn update_calls(
    connection: &mut SqliteConnection,
    saves: &[&Save],
) -> Result<Vec<Vec<u8>>, sqlx::Error> {
    if saves.is_empty() {
        return Ok(Vec::new());
    }
    let mut query = QueryBuilder::new("with input (id, owner, epoch, rev, ended_at, record) as (");
    query.push_values(saves, |mut row, save| {
        row.push_bind(save.id.0.to_be_bytes().to_vec())
            .push_bind(signed(save.owner.0))
            .push_bind(signed(save.epoch.0))
            .push_bind(signed(save.rev.0))
            .push_bind(ended_at(save))
            .push_bind(save.record.clone());
    });
    query.push(
        ") update calls as c
         set owner = i.owner, epoch = i.epoch, rev = i.rev, ended_at = i.ended_at,
             record = i.record, claims = 0
         from input i
         where c.id = i.id and c.ended_at is null
             and (c.epoch < i.epoch
                 or (c.epoch = i.epoch and c.owner = i.owner and c.rev < i.rev))
         returning id",
    );
    query.build_query_scalar().fetch_all(connection).await
}

async fn insert_calls(
    connection: &mut SqliteConnection,
    saves: &[&Save],
) -> Result<Vec<Vec<u8>>, sqlx::Error> {
    if saves.is_empty() {
        return Ok(Vec::new());
    }
    let mut query =
        QueryBuilder::new("insert into calls (id, key, owner, epoch, rev, ended_at, record) ");
    query.push_values(saves, |mut row, save| {
        row.push_bind(save.id.0.to_be_bytes().to_vec())
            .push_bind(save.key.to_vec())
            .push_bind(signed(save.owner.0))
            .push_bind(signed(save.epoch.0))
            .push_bind(signed(save.rev.0))
            .push_bind(ended_at(save))
            .push_bind(save.record.clone());
    });
    query.push(" on conflict do nothing returning id");
    query.build_query_scalar().fetch_all(connection).await
}

async fn standing(
    connection: &mut SqliteConnection,
    saves: &[Save],
) -> Result<Vec<Standing>, sqlx::Error> {
    let mut query = QueryBuilder::new("select id, key, owner, epoch, rev from calls where id in (");
    let mut ids = query.separated(", ");
    for save in saves {
        ids.push_bind(save.id.0.to_be_bytes().to_vec());
    }
    query.push(") or key in (");
    let mut keys = query.separated(", ");
    for save in saves {
        keys.push_bind(save.key.to_vec());
    }
    query.push(")");
    query.build_query_as().fetch_all(connection).await
}

async fn write_bindings(
    connection: &mut SqliteConnection,
    writes: &[&BindingsWrite],
) -> Result<(), sqlx::Error> {
    let mut query = QueryBuilder::new("insert into bindings (extension, document) ");
    query.push_values(writes, |mut row, write| {
        row.push_bind(write.extension.clone()).push_bind(bindings_document(&write.bindings));
    });
    query.push(" on conflict (extension) do update set document = excluded.document");
    query.build().execute(connection).await?;
    Ok(())
}

fn ended_at(save: &Save) -> Option<i64> {
    save.cdr.as_ref().map(|cdr| signed(cdr.ended_at.0.as_micros()))
}
