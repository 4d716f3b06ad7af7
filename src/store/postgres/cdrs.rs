//! CDRs in PostgreSQL: read below the oldest open transaction, so who polls by sequence misses nothing.

use super::Session;
use crate::ids::CallId;
use crate::store::rows::{cdr, cdr_document, cdr_extensions, cdr_flags, disposition, signed, word};
use crate::store::{CdrQuery, StoreError};
use crate::views::Cdr;

/// The arrays of several CDRs.
#[derive(Default)]
pub(super) struct CdrColumns {
    pub id: Vec<String>,
    pub created_at: Vec<i64>,
    pub extensions: Vec<String>,
    pub disposition: Vec<String>,
    pub flags: Vec<String>,
    pub document: Vec<String>,
}

impl CdrColumns {
    pub fn push(&mut self, cdr: &Cdr) {
        self.id.push(cdr.id.clone());
        self.created_at.push(signed(cdr.created_at.0.as_micros()));
        self.extensions.push(cdr_extensions(cdr));
        self.disposition.push(disposition(cdr));
        self.flags.push(cdr_flags(cdr));
        self.document.push(cdr_document(cdr));
    }
}

/// What is asked for, in either order.
macro_rules! cdrs {
    ($order:literal) => {
        concat!(
            "select sequence, document from cdrs
             where sequence > $1
                 and sequence < ",
            settled!(),
            " and ($2::bigint is null or created_at >= $2)
                 and ($3::bigint is null or created_at < $3)
                 and ($4::text is null or extensions @> array[$4])
                 and ($5::text is null or disposition = $5)
                 and ($6::bigint is null or sequence < $6)
                 and ($7::text is null or id = $7)
                 and ($8::text is null or flags <> '{}' and flags @> array[$8])
             order by sequence ",
            $order,
            " limit $9"
        )
    };
}

impl Session {
    pub async fn import_cdrs(&mut self, cdrs: &[Cdr]) -> Result<u64, StoreError> {
        let mut columns = CdrColumns::default();
        cdrs.iter().for_each(|cdr| columns.push(cdr));
        let done = sqlx::query(concat!(
            "insert into cdrs (sequence, id, created_at, extensions, disposition, flags, document)
             select ",
            sequence!(),
            " + row_number() over (),
                 id, created_at, string_to_array(extensions, ' '), disposition,
                 string_to_array(flags, ' '), document
             from unnest($1::text[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::text[])
                 as c (id, created_at, extensions, disposition, flags, document)
             on conflict (id) do nothing"
        ))
        .bind(columns.id)
        .bind(columns.created_at)
        .bind(columns.extensions)
        .bind(columns.disposition)
        .bind(columns.flags)
        .bind(columns.document)
        .execute(&mut *self.connection)
        .await?;
        Ok(done.rows_affected())
    }

    /// Sequences and documents.
    pub async fn cdrs(&mut self, query: &CdrQuery) -> Result<Vec<(i64, String)>, StoreError> {
        let statement = if query.newest_first { cdrs!("desc") } else { cdrs!("asc") };
        let rows = sqlx::query_as(statement)
            .bind(query.after.map_or(-1, signed))
            .bind(query.since.map(|time| signed(time.as_micros())))
            .bind(query.until.map(|time| signed(time.as_micros())))
            .bind(query.extension.clone())
            .bind(query.disposition.clone())
            .bind(query.before.map(signed))
            .bind(query.id.clone())
            .bind(query.flag.map(word))
            .bind(i64::from(query.limit))
            .fetch_all(&mut *self.connection)
            .await?;
        Ok(rows)
    }

    /// Of these calls, also those that who polls may not see yet.
    pub async fn cdrs_of(&mut self, calls: &[CallId]) -> Result<Vec<Cdr>, StoreError> {
        let rows: Vec<(i64, String)> =
            sqlx::query_as("select sequence, document from cdrs where id = any($1)")
                .bind(calls.iter().map(CallId::to_string).collect::<Vec<_>>())
                .fetch_all(&mut *self.connection)
                .await?;
        Ok(rows.into_iter().filter_map(|(sequence, text)| cdr(sequence, &text).ok()).collect())
    }
}
