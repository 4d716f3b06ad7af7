//! CDRs in SQLite.

use super::Sqlite;
use crate::ids::CallId;
use crate::store::rows::{cdr, cdr_document, cdr_extensions, cdr_flags, disposition, signed, word};
use crate::store::{CdrQuery, StoreError};
use crate::views::Cdr;
use sqlx::{QueryBuilder, SqliteConnection};

/// What is asked for, in either order.
macro_rules! cdrs {
    ($order:literal) => {
        concat!(
            "select sequence, document from cdrs
             where sequence > ?1
                 and (?2 is null or created_at >= ?2)
                 and (?3 is null or created_at < ?3)
                 and (?4 is null or instr(extensions, ' ' || ?4 || ' ') > 0)
                 and (?5 is null or disposition = ?5)
                 and (?6 is null or sequence < ?6)
                 and (?7 is null or id = ?7)
                 and (?8 is null or instr(' ' || flags || ' ', ' ' || ?8 || ' ') > 0)
             order by sequence ",
            $order,
            " limit ?9"
        )
    };
}

impl Sqlite {
    pub async fn import_cdrs(&self, cdrs: &[Cdr]) -> Result<u64, StoreError> {
        let mut writer = self.begin().await?;
        let new = insert_cdrs(writer.connection(), &Vec::from_iter(cdrs)).await?;
        writer.commit().await?;
        Ok(new)
    }

    /// Sequences and documents.
    pub async fn cdrs(&self, query: &CdrQuery) -> Result<Vec<(i64, String)>, StoreError> {
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
            .fetch_all(&self.readers)
            .await?;
        Ok(rows)
    }

    /// Of these calls.
    pub async fn cdrs_of(&self, calls: &[CallId]) -> Result<Vec<Cdr>, StoreError> {
        let mut query = QueryBuilder::new("select sequence, document from cdrs where id in (");
        let mut ids = query.separated(", ");
        for call in calls {
            ids.push_bind(call.to_string());
        }
        query.push(")");
        let rows: Vec<(i64, String)> = query.build_query_as().fetch_all(&self.readers).await?;
        Ok(rows.into_iter().filter_map(|(sequence, text)| cdr(sequence, &text).ok()).collect())
    }
}

/// Those that are not there yet; how many were not.
pub(super) async fn insert_cdrs(
    connection: &mut SqliteConnection,
    cdrs: &[&Cdr],
) -> Result<u64, sqlx::Error> {
    if cdrs.is_empty() {
        return Ok(0);
    }
    let mut query = QueryBuilder::new(
        "insert into cdrs (id, created_at, extensions, disposition, flags, document) ",
    );
    query.push_values(cdrs, |mut row, cdr| {
        row.push_bind(cdr.id.clone())
            .push_bind(signed(cdr.created_at.0.as_micros()))
            .push_bind(format!(" {} ", cdr_extensions(cdr)))
            .push_bind(disposition(cdr))
            .push_bind(cdr_flags(cdr))
            .push_bind(cdr_document(cdr));
    });
    query.push(" on conflict (id) do nothing");
    Ok(query.build().execute(connection).await?.rows_affected())
}
