//! CDRs in PostgreSQL: read below the oldest open transaction, so who polls by sequence misses nothing.

use super::Session;
use crate::store::rows::{cdr, signed};
use crate::store::{CdrQuery, StoreError};
use crate::views::Cdr;

impl Session {
    pub async fn cdrs(&mut self, query: &CdrQuery) -> Result<Vec<Cdr>, StoreError> {
        let rows: Vec<(i64, String)> = sqlx::query_as(
            "select sequence, document from cdrs
             where sequence > $1
                 and sequence < cdr_sequence(pg_snapshot_xmin(pg_current_snapshot()))
                 and ($2::bigint is null or created_at >= $2)
                 and ($3::bigint is null or created_at < $3)
                 and ($4::text is null or extensions @> array[$4])
                 and ($5::text is null or disposition = $5)
             order by sequence limit $6",
        )
        .bind(query.after.map_or(-1, signed))
        .bind(query.since.map(|time| signed(time.as_micros())))
        .bind(query.until.map(|time| signed(time.as_micros())))
        .bind(query.extension.clone())
        .bind(query.disposition.clone())
        .bind(i64::from(query.limit))
        .fetch_all(&mut *self.connection)
        .await?;
        rows.into_iter().map(|(sequence, document)| cdr(sequence, &document)).collect()
    }
}
