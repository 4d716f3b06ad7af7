//! CDRs in SQLite.

use super::Sqlite;
use crate::store::rows::{cdr, signed};
use crate::store::{CdrQuery, StoreError};
use crate::views::Cdr;

impl Sqlite {
    pub async fn cdrs(&self, query: &CdrQuery) -> Result<Vec<Cdr>, StoreError> {
        let rows: Vec<(i64, String)> = sqlx::query_as(
            "select sequence, document from cdrs
             where sequence > ?1
                 and (?2 is null or created_at >= ?2)
                 and (?3 is null or created_at < ?3)
                 and (?4 is null or instr(extensions, ' ' || ?4 || ' ') > 0)
                 and (?5 is null or disposition = ?5)
             order by sequence limit ?6",
        )
        .bind(query.after.map_or(-1, signed))
        .bind(query.since.map(|time| signed(time.as_micros())))
        .bind(query.until.map(|time| signed(time.as_micros())))
        .bind(query.extension.clone())
        .bind(query.disposition.clone())
        .bind(i64::from(query.limit))
        .fetch_all(&self.readers)
        .await?;
        rows.into_iter().map(|(sequence, document)| cdr(sequence, &document)).collect()
    }
}
