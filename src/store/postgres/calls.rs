//! Calls in PostgreSQL: one statement a commit, fenced row by row, CDRs in the same breath.

use super::Postgres;
use crate::call::Save;
use crate::ids::{CallId, Incarnation};
use crate::store::batch::{Standing, is_bad_row, outcomes};
use crate::store::rows::{
    CallRow, bindings_document, call_id, cdr_document, cdr_extensions, disposition, signed,
    stored_call, unsigned,
};
use crate::store::{Batch, BindingsWrite, CallOutcome, StoreError, StoredCall, TOMBSTONE_LIFE};
use crate::time::Timestamp;
use std::collections::HashSet;

/// An update is fenced by owner, epoch and rev; a first save is an insert that a taken key turns into nothing. What belongs
/// to a call joins `done`, so a fenced node writes no CDR either.
const COMMIT: &str = "
with input as (
    select * from unnest($1::bytea[], $2::bytea[], $3::bigint[], $4::bigint[], $5::bigint[],
        $6::bigint[], $7::bytea[]) as t (id, key, owner, epoch, rev, ended_at, record)
), updated as (
    update calls c
    set owner = i.owner, epoch = i.epoch, rev = i.rev, ended_at = i.ended_at, record = i.record
    from input i
    where c.id = i.id and c.ended_at is null
        and (c.epoch < i.epoch or (c.epoch = i.epoch and c.owner = i.owner and c.rev < i.rev))
    returning c.id
), inserted as (
    insert into calls (id, key, owner, epoch, rev, ended_at, record)
    select id, key, owner, epoch, rev, ended_at, record from input i
    where not exists (select 1 from calls c where c.id = i.id)
    on conflict do nothing
    returning id
), done as (
    select id from updated union all select id from inserted
), cdr as (
    insert into cdrs (sequence, id, created_at, extensions, disposition, document)
    select pg_current_xact_id()::text::bigint * 65536 + row_number() over (),
        c.id, c.created_at, string_to_array(c.extensions, ' '), c.disposition, c.document
    from unnest($8::bytea[], $9::text[], $10::bigint[], $11::text[], $12::text[], $13::text[])
        as c (call_id, id, created_at, extensions, disposition, document)
    join done on done.id = c.call_id
    on conflict (id) do nothing
)
select id from done";

/// The arrays of one commit.
#[derive(Default)]
struct Columns {
    id: Vec<Vec<u8>>,
    key: Vec<Vec<u8>>,
    owner: Vec<i64>,
    epoch: Vec<i64>,
    rev: Vec<i64>,
    ended_at: Vec<Option<i64>>,
    record: Vec<Vec<u8>>,
    cdr_call: Vec<Vec<u8>>,
    cdr_id: Vec<String>,
    cdr_created_at: Vec<i64>,
    cdr_extensions: Vec<String>,
    cdr_disposition: Vec<String>,
    cdr_document: Vec<String>,
}

impl Columns {
    fn of(saves: &[Save]) -> Self {
        let mut columns = Self::default();
        for save in saves {
            let id = save.id.0.to_be_bytes().to_vec();
            columns.ended_at.push(save.cdr.as_ref().map(|cdr| signed(cdr.ended_at.0.as_micros())));
            if let Some(cdr) = &save.cdr {
                columns.cdr_call.push(id.clone());
                columns.cdr_id.push(cdr.id.clone());
                columns.cdr_created_at.push(signed(cdr.created_at.0.as_micros()));
                columns.cdr_extensions.push(cdr_extensions(cdr).join(" "));
                columns.cdr_disposition.push(disposition(cdr));
                columns.cdr_document.push(cdr_document(cdr));
            }
            columns.id.push(id);
            columns.key.push(save.key.to_vec());
            columns.owner.push(signed(save.owner.0));
            columns.epoch.push(signed(save.epoch.0));
            columns.rev.push(signed(save.rev.0));
            columns.record.push(save.record.clone());
        }
        columns
    }
}

impl Postgres {
    pub async fn commit(&self, batch: &Batch) -> Result<Vec<CallOutcome>, StoreError> {
        if !batch.bindings.is_empty() {
            self.commit_bindings(&batch.bindings).await?;
        }
        if batch.calls.is_empty() { Ok(Vec::new()) } else { self.commit_calls(&batch.calls).await }
    }

    async fn commit_calls(&self, saves: &[Save]) -> Result<Vec<CallOutcome>, StoreError> {
        let written = match self.write_calls(saves).await {
            Ok(written) => written,
            Err(error) if is_bad_row(&error) => return self.halve(saves, &error).await,
            Err(error) => return Err(error.into()),
        };
        if written.len() == saves.len() {
            return Ok(saves.iter().map(|_| CallOutcome::Done).collect());
        }
        let written: HashSet<CallId> =
            written.iter().map(|id| call_id(id)).collect::<Result<_, _>>()?;
        let missing = saves.iter().filter(|save| !written.contains(&save.id));
        let (ids, keys): (Vec<Vec<u8>>, Vec<Vec<u8>>) =
            missing.map(|save| (save.id.0.to_be_bytes().to_vec(), save.key.to_vec())).unzip();
        let standing: Vec<Standing> = sqlx::query_as(
            "select id, key, owner, epoch, rev from calls where id = any($1) or key = any($2)",
        )
        .bind(ids)
        .bind(keys)
        .fetch_all(&self.pool)
        .await?;
        outcomes(saves, &written, &standing)
    }

    async fn write_calls(&self, saves: &[Save]) -> Result<Vec<Vec<u8>>, sqlx::Error> {
        let columns = Columns::of(saves);
        sqlx::query_scalar(COMMIT)
            .bind(columns.id)
            .bind(columns.key)
            .bind(columns.owner)
            .bind(columns.epoch)
            .bind(columns.rev)
            .bind(columns.ended_at)
            .bind(columns.record)
            .bind(columns.cdr_call)
            .bind(columns.cdr_id)
            .bind(columns.cdr_created_at)
            .bind(columns.cdr_extensions)
            .bind(columns.cdr_disposition)
            .bind(columns.cdr_document)
            .fetch_all(&self.pool)
            .await
    }

    /// One bad row must not fail its neighbours: halves until it stands alone.
    async fn halve(
        &self,
        saves: &[Save],
        error: &sqlx::Error,
    ) -> Result<Vec<CallOutcome>, StoreError> {
        if saves.len() == 1 {
            return Ok(vec![CallOutcome::Rejected(error.to_string())]);
        }
        let (left, right) = saves.split_at(saves.len() / 2);
        let mut outcomes = Box::pin(self.commit_calls(left)).await?;
        outcomes.extend(Box::pin(self.commit_calls(right)).await?);
        Ok(outcomes)
    }

    async fn commit_bindings(&self, writes: &[BindingsWrite]) -> Result<(), StoreError> {
        let extensions: Vec<&str> = writes.iter().map(|write| write.extension.as_str()).collect();
        let documents: Vec<Vec<u8>> =
            writes.iter().map(|write| bindings_document(&write.bindings)).collect();
        sqlx::query(
            "insert into bindings (extension, document)
             select * from unnest($1::text[], $2::bytea[])
             on conflict (extension) do update set document = excluded.document",
        )
        .bind(extensions)
        .bind(documents)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    pub async fn call(&self, id: CallId) -> Result<Option<StoredCall>, StoreError> {
        let row: Option<CallRow> = sqlx::query_as(
            "select id, owner, epoch, rev, record from calls where id = $1 and ended_at is null",
        )
        .bind(id.0.to_be_bytes().to_vec())
        .fetch_optional(&self.pool)
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
             where owner = $1 and ended_at is null limit $2",
        )
        .bind(signed(owner.0))
        .bind(i64::from(limit))
        .fetch_all(&self.pool)
        .await?;
        rows.into_iter().map(stored_call).collect()
    }

    pub async fn owners(&self) -> Result<Vec<Incarnation>, StoreError> {
        let rows: Vec<i64> =
            sqlx::query_scalar("select distinct owner from calls where ended_at is null")
                .fetch_all(&self.pool)
                .await?;
        Ok(rows.into_iter().map(|owner| Incarnation(unsigned(owner))).collect())
    }

    pub async fn sweep(&self, now: Timestamp) -> Result<u64, StoreError> {
        let done = sqlx::query("delete from calls where ended_at < $1")
            .bind(signed((now - TOMBSTONE_LIFE).as_micros()))
            .execute(&self.pool)
            .await?;
        Ok(done.rows_affected())
    }
}
