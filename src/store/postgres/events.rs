//! Events in PostgreSQL: a row holds those of one commit; read below the oldest open transaction.

use super::Session;
use crate::store::rows::{EVENTS_A_ROW, events_of_row, signed, unsigned};
use crate::store::{Aged, StoreError, StoredEvent};
use crate::time::Timestamp;

impl Session {
    pub async fn events(&mut self, after: u64, most: u32) -> Result<Vec<StoredEvent>, StoreError> {
        let rows: Vec<(i64, String)> = sqlx::query_as(concat!(
            "select sequence, document from events where sequence >= $1 and sequence < ",
            settled!(),
            " order by sequence limit $2"
        ))
        .bind(signed(after - after % EVENTS_A_ROW))
        .bind(i64::from(most))
        .fetch_all(&mut *self.connection)
        .await?;
        let mut events = Vec::new();
        for (sequence, document) in rows {
            events.extend(events_of_row(sequence, &document)?);
        }
        events.retain(|event| event.id > after);
        Ok(events)
    }

    pub async fn last_event(&mut self) -> Result<u64, StoreError> {
        let row: Option<(i64, String)> = sqlx::query_as(concat!(
            "select sequence, document from events where sequence < ",
            settled!(),
            " order by sequence desc limit 1"
        ))
        .fetch_optional(&mut *self.connection)
        .await?;
        let Some((sequence, document)) = row else { return Ok(0) };
        let last = events_of_row(sequence, &document)?.pop();
        Ok(last.map_or(unsigned(sequence), |event| event.id))
    }

    pub async fn has_event(&mut self, id: u64) -> Result<bool, StoreError> {
        let query = sqlx::query_scalar("select exists (select from events where sequence = $1)");
        let query = query.bind(signed(id - id % EVENTS_A_ROW));
        Ok(query.fetch_one(&mut *self.connection).await?)
    }

    /// What is older, and what are more than so many.
    pub async fn sweep_aged(
        &mut self,
        aged: Aged,
        before: Timestamp,
        rows: u32,
        most: u32,
    ) -> Result<u64, StoreError> {
        let done = sqlx::query(match aged {
            Aged::Events => {
                "delete from events where sequence in (
                 select sequence from events where written_at < $1 or sequence < (
                     select sequence from events order by sequence desc offset $2 limit 1)
                 order by sequence limit $3)"
            }
            Aged::Answers => {
                "delete from answers where (token, key) in (
                 select token, key from answers where at < $1 or at < (
                     select at from answers order by at desc offset $2 limit 1)
                 order by at limit $3)"
            }
        })
        .bind(signed(before.as_micros()))
        .bind(i64::from(rows))
        .bind(i64::from(most))
        .execute(&mut *self.connection)
        .await?;
        Ok(done.rows_affected())
    }
}
