//! Calls in PostgreSQL: one statement a commit, fenced row by row, CDRs and bindings in the same breath.

use super::Session;
use super::cdrs::CdrColumns;
use crate::call::Save;
use crate::ids::{CallId, Incarnation, Rev};
use crate::store::batch::{Part, Standing, is_bad_row, outcomes};
use crate::store::rows::{CallRow, bindings_document, call_id, signed, stored_call, unsigned};
use crate::store::{CallOutcome, StoreError, StoredCall};
use crate::time::Timestamp;
use crate::views::EventView;
use std::borrow::Cow;
use std::collections::HashSet;

/// Writes calls. An update is fenced by owner, epoch and rev; a first save is an insert that a taken key turns into
/// nothing. Rows go in in one order everywhere, so that two nodes with the same keys or users wait for each other and
/// never in a circle.
macro_rules! calls_done {
    () => {
        "
with input as (
    select * from unnest($1::bytea[], $2::bytea[], $3::bigint[], $4::bigint[], $5::bigint[],
        $6::bigint[], $7::bytea[]) as t (id, key, owner, epoch, rev, ended_at, record)
), updated as (
    update calls c
    set owner = i.owner, epoch = i.epoch, rev = i.rev, ended_at = i.ended_at, record = i.record,
        claims = 0
    from input i
    where c.id = i.id and c.ended_at is null
        and (c.epoch < i.epoch or (c.epoch = i.epoch and c.owner = i.owner and c.rev < i.rev))
    returning c.id
), inserted as (
    insert into calls (id, key, owner, epoch, rev, ended_at, record)
    select id, key, owner, epoch, rev, ended_at, record from input i
    where not exists (select 1 from calls c where c.id = i.id)
    order by key
    on conflict do nothing
    returning id
), done as (
    select id from updated union all select id from inserted
)"
    };
}

/// No call ended: half of the statement is left out, which the server would otherwise set up for nothing.
const CALLS: &str = concat!(calls_done!(), " select id from done");

/// Events in one row, in their order: of calls that were written, and of none. One that waited for a later save than
/// its own (`late`) may be stored already: `calls` is as it was before this statement.
macro_rules! told {
    () => {
        concat!(
            "
, told as (
    insert into events (sequence, written_at, document)
    select ",
            sequence!(),
            ",
        (extract(epoch from clock_timestamp()) * 1e6)::bigint,
        string_agg(e.document, ',' order by e.place)
    from unnest($8::bytea[], $9::bigint[], $10::bigint[], $11::boolean[], $12::text[])
        with ordinality as e (call_id, epoch, rev, late, document, place)
    left join done on done.id = e.call_id
    where e.call_id is null or (done.id is not null and not (e.late and exists (
        select from calls c where c.id = e.call_id and c.epoch = e.epoch and c.rev >= e.rev)))
    having count(*) > 0
)"
        )
    };
}

/// Calls that begin, are answered, change.
const CALLS_AND_EVENTS: &str = concat!(calls_done!(), told!(), " select id from done");

/// The whole. What belongs to a call joins `done`, so a fenced node writes no CDR either.
const CALLS_AND_MORE: &str = concat!(
    calls_done!(),
    told!(),
    ", cdr as (
    insert into cdrs (sequence, id, created_at, extensions, disposition, flags, document)
    select ",
    sequence!(),
    " + row_number() over (),
        c.id, c.created_at, string_to_array(c.extensions, ' '), c.disposition,
        string_to_array(c.flags, ' '), c.document
    from unnest($13::bytea[], $14::text[], $15::bigint[], $16::text[], $17::text[], $18::text[],
            $19::text[])
        as c (call_id, id, created_at, extensions, disposition, flags, document)
    join done on done.id = c.call_id
    on conflict (id) do nothing
), bound as (
    insert into bindings (extension, document)
    select extension, document from unnest($20::text[], $21::bytea[]) as b (extension, document)
    order by extension
    on conflict (extension) do update set document = excluded.document
)
select id from done"
);

/// Phones register and nobody calls.
const BINDINGS: &str = "
insert into bindings (extension, document)
select extension, document from unnest($1::text[], $2::bytea[]) as b (extension, document)
order by extension
on conflict (extension) do update set document = excluded.document";

/// The arrays of one commit. What the batch holds already is borrowed from it.
#[derive(Default)]
struct Columns<'a> {
    id: Vec<[u8; 16]>,
    key: Vec<[u8; 16]>,
    owner: Vec<i64>,
    epoch: Vec<i64>,
    rev: Vec<i64>,
    ended_at: Vec<Option<i64>>,
    record: Vec<&'a [u8]>,
    told_call: Vec<Option<[u8; 16]>>,
    told_epoch: Vec<i64>,
    told_rev: Vec<i64>,
    told_late: Vec<bool>,
    told: Vec<Cow<'a, str>>,
    cdr_call: Vec<[u8; 16]>,
    cdrs: CdrColumns,
    extension: Vec<&'a str>,
    bindings: Vec<Vec<u8>>,
}

impl<'a> Columns<'a> {
    fn of(part: Part<'a>) -> Self {
        let mut columns = Self::default();
        for save in part.calls {
            let id = save.id.0.to_be_bytes();
            columns.ended_at.push(save.cdr.as_ref().map(|cdr| signed(cdr.ended_at.0.as_micros())));
            for told in &save.told {
                columns.tell(Some(save), told.rev, told.document.as_str().into());
            }
            if let Some(cdr) = &save.cdr {
                columns.tell(Some(save), save.rev, EventView::call_ended(cdr).document().into());
                columns.cdr_call.push(id);
                columns.cdrs.push(cdr);
            }
            columns.id.push(id);
            columns.key.push(save.key);
            columns.owner.push(signed(save.owner.0));
            columns.epoch.push(signed(save.epoch.0));
            columns.rev.push(signed(save.rev.0));
            columns.record.push(&save.record);
        }
        for document in part.told {
            columns.tell(None, Rev(0), document.as_str().into());
        }
        for write in part.storable_bindings() {
            columns.extension.push(&write.extension);
            columns.bindings.push(bindings_document(&write.bindings));
        }
        columns
    }

    fn tell(&mut self, save: Option<&Save>, rev: Rev, document: Cow<'a, str>) {
        self.told_call.push(save.map(|save| save.id.0.to_be_bytes()));
        self.told_epoch.push(save.map_or(0, |save| signed(save.epoch.0)));
        self.told_rev.push(signed(rev.0));
        self.told_late.push(save.is_some_and(|save| rev < save.rev));
        self.told.push(document);
    }
}

impl Session {
    pub async fn commit(&mut self, part: Part<'_>) -> Result<Vec<CallOutcome>, StoreError> {
        let mut parts = vec![part];
        let mut outcomes = Vec::with_capacity(part.calls.len());
        // One bad row must not fail its neighbours: halves until it stands alone.
        while let Some(part) = parts.pop() {
            match self.write(part).await {
                Ok(written) => outcomes.extend(self.outcomes(part.calls, &written).await?),
                Err(error) if is_bad_row(&error) => match part.halves() {
                    Some([first, second]) => parts.extend([second, first]),
                    None => outcomes.extend(part.rejected(&error)),
                },
                Err(error) => return Err(error.into()),
            }
        }
        Ok(outcomes)
    }

    async fn outcomes(
        &mut self,
        saves: &[Save],
        written: &[Vec<u8>],
    ) -> Result<Vec<CallOutcome>, StoreError> {
        if written.len() == saves.len() {
            return Ok(vec![CallOutcome::Done; saves.len()]);
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
        .fetch_all(&mut *self.connection)
        .await?;
        outcomes(saves, &written, &standing)
    }

    /// Ids of the calls that were written.
    async fn write(&mut self, part: Part<'_>) -> Result<Vec<Vec<u8>>, sqlx::Error> {
        let columns = Columns::of(part);
        if columns.id.is_empty() && columns.told.is_empty() {
            let query = sqlx::query(BINDINGS).bind(columns.extension).bind(columns.bindings);
            query.execute(&mut *self.connection).await?;
            return Ok(Vec::new());
        }
        let is_plain = columns.cdr_call.is_empty() && columns.extension.is_empty();
        let statement = match (is_plain, columns.told.is_empty()) {
            (true, true) => CALLS,
            (true, false) => CALLS_AND_EVENTS,
            (false, _) => CALLS_AND_MORE,
        };
        let query = sqlx::query_scalar(statement)
            .bind(columns.id)
            .bind(columns.key)
            .bind(columns.owner)
            .bind(columns.epoch)
            .bind(columns.rev)
            .bind(columns.ended_at)
            .bind(columns.record);
        if statement == CALLS {
            return query.fetch_all(&mut *self.connection).await;
        }
        let query = query
            .bind(columns.told_call)
            .bind(columns.told_epoch)
            .bind(columns.told_rev)
            .bind(columns.told_late)
            .bind(columns.told);
        if is_plain {
            return query.fetch_all(&mut *self.connection).await;
        }
        query
            .bind(columns.cdr_call)
            .bind(columns.cdrs.id)
            .bind(columns.cdrs.created_at)
            .bind(columns.cdrs.extensions)
            .bind(columns.cdrs.disposition)
            .bind(columns.cdrs.flags)
            .bind(columns.cdrs.document)
            .bind(columns.extension)
            .bind(columns.bindings)
            .fetch_all(&mut *self.connection)
            .await
    }

    pub async fn call(&mut self, id: CallId) -> Result<Option<StoredCall>, StoreError> {
        let row: Option<CallRow> = sqlx::query_as(
            "select id, owner, epoch, rev, record from calls where id = $1 and ended_at is null",
        )
        .bind(id.0.to_be_bytes().to_vec())
        .fetch_optional(&mut *self.connection)
        .await?;
        row.map(stored_call).transpose()
    }

    pub async fn calls_of(
        &mut self,
        owner: Incarnation,
        limit: u32,
    ) -> Result<Vec<StoredCall>, StoreError> {
        let rows: Vec<CallRow> = sqlx::query_as(
            "select id, owner, epoch, rev, record from calls
             where owner = $1 and ended_at is null limit $2",
        )
        .bind(signed(owner.0))
        .bind(i64::from(limit))
        .fetch_all(&mut *self.connection)
        .await?;
        rows.into_iter().map(stored_call).collect()
    }

    pub async fn owners(&mut self) -> Result<Vec<Incarnation>, StoreError> {
        let rows: Vec<i64> =
            sqlx::query_scalar("select distinct owner from calls where ended_at is null")
                .fetch_all(&mut *self.connection)
                .await?;
        Ok(rows.into_iter().map(|owner| Incarnation(unsigned(owner))).collect())
    }

    /// Nobody else writes tombstones, so their places do not move.
    pub async fn sweep(&mut self, before: Timestamp, most: u32) -> Result<u64, StoreError> {
        let done = sqlx::query(
            "delete from calls where ctid = any(array(
                 select ctid from calls where ended_at < $1 limit $2))",
        )
        .bind(signed(before.as_micros()))
        .bind(i64::from(most))
        .execute(&mut *self.connection)
        .await?;
        Ok(done.rows_affected())
    }
}
